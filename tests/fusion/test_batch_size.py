"""The size of the batch goes into shapes and nowhere else, and its rows never meet: refused, or what the tape says."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret, parameter
from fusion.sweeping import H, I, refusal

MEET, SIZE = "rows of the batch meet", "size of the batch"


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def step(of):
    """A step that adds something to an ordinary one: of(cell, x, h)."""
    return lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + of(self, x, h))


def pairs(self, x, h):
    d = h.sum(-1)
    return (d.unsqueeze(1) - d).abs().sum(-1, keepdim=True)


def normalised(self, x, h):
    a = x @ self.W
    return (a - a.mean(0)) / (a.var(0, correction=0) + 0.1).sqrt()


MEETING = {
    "pairs": pairs,
    "pairs of the input": lambda self, x, h: (x.sum(-1).unsqueeze(1) - x.sum(-1)).sum(-1, keepdim=True),
    "softmax over rows": lambda self, x, h: tg.softmax(h, 0),
    "softmax over rows of the input": lambda self, x, h: tg.softmax(x, 0) @ self.W,
    "log_softmax of a product of the input": lambda self, x, h: tg.log_softmax(x @ self.W, 0),
    "sum of the input": lambda self, x, h: x.sum(0, keepdim=True) @ self.W,
    "mean of all": lambda self, x, h: x.mean() * h,
    "batch normalisation": normalised,
    "stack": lambda self, x, h: tg.stack([h, h], 0).sum(0),
    "cat": lambda self, x, h: tg.cat([h, x @ self.W], 0)[: h.shape[0]],
    "gram matrix": lambda self, x, h: x @ x.T @ x @ self.W,
    "flip": lambda self, x, h: h.flip(0),
    "flip of the input": lambda self, x, h: x.flip(0) @ self.W,
    "roll of the input": lambda self, x, h: tg.roll(x, 1, 0) @ self.W,
    "backwards": lambda self, x, h: h[::-1],
    "an index": lambda self, x, h: h[np.zeros(1, int)],
    "one row": lambda self, x, h: x[0] @ self.W,
    "the last row": lambda self, x, h: h[-1:],
    "amax of all": lambda self, x, h: tg.amax(x) * h,
    "cumsum": lambda self, x, h: tg.cumsum(x, 0) @ self.W,
    "norm": lambda self, x, h: h / (1 + h.square().sum().sqrt()),
    "logsumexp": lambda self, x, h: tg.logsumexp(h, 0, keepdim=True),
    "outer product": lambda self, x, h: tg.outer(x.sum(-1), h.sum(-1)).sum(-1, keepdim=True),
    "einsum of rows": lambda self, x, h: tg.einsum("bi,ci->bc", h, h).sum(-1, keepdim=True),
    "transposed": lambda self, x, h: (self.U @ h.T).T,
    "rows and columns exchanged": lambda self, x, h: h.reshape(h.shape[1], -1).reshape(h.shape),
    "flat": lambda self, x, h: h.flatten().reshape(h.shape),
    "chunks of rows": lambda self, x, h: tg.cat(tg.chunk(h, 2, 0), 0),
    "rows added in front": lambda self, x, h: tg.nn.functional.pad(x, (0, 0, 1, 0))[:-1] @ self.W,
    "with each other in three dimensions": lambda self, x, h: (h.unsqueeze(1) * h).sum(1),
}
SIZES = {
    "compared": lambda self, x, h: x @ self.W if h.shape[0] == 1 else 2 * h,
    "compared by size": lambda self, x, h: x @ self.W if h.size(0) > 2 else 2 * h,
    "compared in a shape": lambda self, x, h: x @ self.W if x.shape == (1, I) else 2 * h,
    "one of several": lambda self, x, h: x @ self.W if x.shape[0] in (1, 2) else 2 * h,
    "a truth value": lambda self, x, h: x @ self.W if not h.shape[0] else 2 * h,
    "len": lambda self, x, h: x @ self.W if len(h) == 1 else 2 * h,
    "numel": lambda self, x, h: x @ self.W if h.numel() == H else 2 * h,
    "divided by": lambda self, x, h: h / x.shape[0],
    "a float": lambda self, x, h: h / float(x.shape[0]),
    "its root": lambda self, x, h: h / math.sqrt(x.shape[0]),
    "by NumPy": lambda self, x, h: h / np.prod(x.shape),
    "an array": lambda self, x, h: h / np.array(x.shape)[0],
    "the largest size": lambda self, x, h: h / max(x.shape),
    "a text": lambda self, x, h: x @ self.W if f"{x.shape[0]}" == "1" else 2 * h,
    "a shape's text": lambda self, x, h: x @ self.W if str(x.shape) == "(1, 3)" else 2 * h,
    "a key": lambda self, x, h: h * {1: 1.0, 3: 2.0}.get(x.shape[0], 3.0),
    "a range": lambda self, x, h: sum(h * 0.1 for _ in range(x.shape[0])),
    "a list": lambda self, x, h: h * sum([0.1] * x.shape[0]),
    "an index": lambda self, x, h: h * [1, 2, 3, 4, 5, 6][x.shape[0]],
    "numerator": lambda self, x, h: h * x.shape[0].numerator,
    "the end of a slice": lambda self, x, h: self.M[: x.shape[0]].sum(0),
    "arange": lambda self, x, h: tg.arange(x.shape[0]).unsqueeze(1) * h,
}
FINE = {
    "random numbers": lambda self, x, h: h * tg.rand(h.shape, dtype=np.float64),
    "a random number a row": lambda self, x, h: h * tg.randn(x.shape[0], 1, dtype=np.float64),
    "expand": lambda self, x, h: h.sum(-1, keepdim=True).expand(h.shape[0], H),
    "reshape": lambda self, x, h: h.sum(-1).reshape(h.shape[0], -1),
    "equal shapes": lambda self, x, h: x @ self.W if x.shape[0] == h.shape[0] else h,
    "the width": lambda self, x, h: h * (1 / h.shape[1]) if h.shape[-1] > 2 else h,
    "a number": lambda self, x, h: h if isinstance(x.shape[0], int) else 2 * h,
    "rows of parameters": lambda self, x, h: tg.softmax(self.M, 0).sum(0) + self.M.flip(0)[0] + h @ self.U.T,
    "columns of the input": lambda self, x, h: x[:, np.array([2, 0, 1])] @ self.W + tg.cumsum(x, 1) @ self.W,
    "all of an index": lambda self, x, h: h[:] + h[...] + h[0:, :2] @ self.U[:2] + h.sum(-1)[:, None],
    "einsum": lambda self, x, h: tg.einsum("bi,ij->bj", x, self.W) + tg.einsum("...i,ij", h, self.U),
    "one number for a row": lambda self, x, h: (h @ self.b).unsqueeze(1) * h + tg.sigmoid(x.sum(-1))[:, None],
}


@pytest.mark.parametrize("of", MEETING.values(), ids=MEETING)
def test_rows_that_meet_are_refused(of):
    reason = refusal(step(of))
    assert MEET in reason and "write" in reason and "test_batch_size.py" in reason


@pytest.mark.parametrize("of", SIZES.values(), ids=SIZES)
def test_computing_with_the_size_of_the_batch_is_refused(of):
    reason = refusal(step(of))
    assert (SIZE in reason or "number of rows" in reason) and "test_batch_size.py" in reason


@pytest.mark.parametrize("of", FINE.values(), ids=FINE)
def test_it_goes_into_shapes(of):
    assert refusal(step(of)) == ""


def test_a_squeeze_that_depends_on_the_batch():
    assert "write squeeze(-1)" in refusal(step(lambda self, x, h: h.sum(-1, keepdim=True).squeeze().unsqueeze(-1)))
    assert refusal(step(lambda self, x, h: h.sum(-1, keepdim=True).squeeze(-1).unsqueeze(-1))) == ""


def test_a_squeeze_of_parameters():
    one = {"one": parameter(1, H)}
    of = lambda self, x, h: h * self.one.squeeze() + (self.one * 2).squeeze() + tg.squeeze(self.one)
    assert refusal(step(of), **one) == ""


def test_a_row_of_parameters_for_each_sequence():
    assert refusal(step(lambda self, x, h: self.b.expand(*h.shape) * h)) == ""
    assert refusal(step(lambda self, x, h: tg.cat([h, self.b.expand(h.shape[0], H)], -1).sum(-1, keepdim=True))) == ""
    assert refusal(lambda self, x, h: self.b.expand(*h.shape)) == ""


@pytest.mark.parametrize("width", [1009, 1011, 1013, 1015])
def test_a_layer_may_be_as_wide_as_any_number(width):
    """Whatever number stands for the batch while tracing."""
    wide = {"Wide": parameter(I, width, scale=0.1), "Back": parameter(width, H, scale=0.01)}
    assert refusal(step(lambda self, x, h: tg.tanh(x @ self.Wide) @ self.Back), **wide) == ""
    made = lambda self, x, h: (h.sum(-1, keepdim=True) * tg.ones(width, dtype=np.float64)).mean(-1, keepdim=True)
    assert refusal(step(made)) == ""
    joined = lambda self, x, h: tg.cat([x @ self.Wide, h[:, :1]], 1).mean(-1, keepdim=True)
    assert refusal(step(joined), Wide=parameter(I, width - 1, scale=0.1)) == ""


def test_a_value_of_a_sequence_has_rows_of_its_own():
    """A mask that the rows of a batch would share, if softmax were taken over them."""

    class Masked(tg.nn.Cell):
        input_size, hidden_size, dim = I, H, 0

        def __init__(self):
            self.W = parameter(I, H)

        def sequence_values(self, batch_size):
            return {"mask": tg.tensor(np.linspace(0.5, 1, batch_size * H).reshape(batch_size, H))}

        def step(self, x, h):
            return tg.tanh(x @ self.W + h * tg.softmax(self.mask, self.dim))

    layer, x = tg.nn.Recurrent(Masked(), fused="require"), tg.randn(3, 2, I, dtype=np.float64)
    with pytest.raises(NotImplementedError, match=MEET):
        layer(x)
    layer.cell.dim = 1
    found = layer(x)[0].numpy()
    layer.fused = "never"
    np.testing.assert_allclose(found, layer(x)[0].numpy(), rtol=0, atol=1e-13)
