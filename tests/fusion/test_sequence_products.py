"""Products of what holds for a sequence: made before the loop, each as one product, whatever they are written with."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_close, assert_engines_agree, interpret, parameter
from tinygrad_rnn.autograd import arrays, table
from tinygrad_rnn.nn import Cell, CellWrapper, Recurrent
from tinygrad_rnn.nn.functional import linear

T, B, I, H, S, M, N = 3, 4, 2, 3, 7, 5, 6


class Reads(Cell):
    """A cell that reads some function of what it is given, and what that function makes of parameters."""

    input_size, hidden_size = I, H

    def __init__(self, function, *shapes):
        self.W, self.U, self.function = parameter(I, H), parameter(H, H), function
        self.count = len(shapes)
        for i, shape in enumerate(shapes):
            setattr(self, f"weight_{i}", parameter(*shape))

    def step(self, x, h, *, memory):
        made = self.function(memory, *(getattr(self, f"weight_{i}") for i in range(self.count)))
        made = made.reshape(made.shape[0], math.prod(made.shape[1:]))
        return tg.tanh(x @ self.W + h @ self.U + (made * h.sum(-1, keepdim=True)).mean(-1, keepdim=True))


class Inside(CellWrapper):
    """A cell that is given something else by the one around it."""

    def step(self, x, *states, memory):
        return self.cell.advance(x, states, memory=tg.tanh(memory))


WRITTEN = {
    "matrix": (lambda m, W: m @ W, [(S, M)], [(M, N)]),
    "vector": (lambda m, v: m @ v, [(S, M), (M,)], [(M,)]),
    "linear": (lambda m, W, b: linear(m, W, b), [(M,), (S, M), (2, S, M)], [(N, M), (N,)]),
    "linear, a vector": (lambda m, v: linear(m, v), [(S, M)], [(M,)]),
    "on the left": (lambda m, W: W @ m, [(M, S), (2, M, S)], [(N, M)]),
    "a vector on the left": (lambda m, v: v @ m, [(M, S)], [(M,)]),
    "transposed": (lambda m, W: m.mT @ W, [(M, S)], [(M, N)]),
    "columns": (lambda m, W: m[..., ::2] @ W, [(S, M)], [(3, N)]),
    "four dimensions": (lambda m, W: m @ W, [(2, S, M)], [(M, N)]),
    "batched": (lambda m, W: m @ W, [(2, S, M), (1, S, M)], [(2, M, N)]),
    "batched, on the left": (lambda m, W: W @ m, [(2, M, S), (1, M, S)], [(2, N, M)]),
    "one after the other": (lambda m, W, V: tg.tanh(m @ W) @ V, [(S, M)], [(M, N), (N, 2)]),
    "both for each sequence": (lambda m: m @ m.mT, [(S, M), (2, S, M)], []),
    "with itself, through weights": (lambda m, W: (m @ W) @ m.mT, [(S, M)], [(M, M)]),
    "einsum": (lambda m, W: tg.einsum("bsm,mn->bsn", m, W), [(S, M)], [(M, N)]),
    "einsum, a vector": (lambda m, v: tg.einsum("bsm,m->bs", m, v), [(S, M)], [(M,)]),
    "einsum, weights first": (lambda m, W: tg.einsum("nm,bsm->bns", W, m), [(S, M)], [(N, M)]),
    "einsum, rows, weights first": (lambda m, W: tg.einsum("nm,bm->bn", W, m), [(M,)], [(N, M)]),
    "einsum, heads": (lambda m, W: tg.einsum("bsm,mhn->bhsn", m, W), [(S, M)], [(M, 2, N)]),
    "einsum, batched": (lambda m, W: tg.einsum("bhsm,hmn->bshn", m, W), [(2, S, M)], [(2, M, N)]),
    "einsum, two sums": (lambda m, W: tg.einsum("bsm,smn->bn", m, W), [(S, M)], [(S, M, N)]),
    "einsum, nothing summed": (lambda m, v: tg.einsum("bm,n->bmn", m, v), [(M,)], [(N,)]),
    "einsum, of itself": (lambda m: tg.einsum("bsm,btm->bst", m, m), [(S, M)], []),
    "einsum, all of itself": (lambda m: tg.einsum("bsm,bsm->b", m, m), [(S, M)], []),
    "einsum, three": (lambda m, W: tg.einsum("bsm,mn,btn->bst", m, W, m), [(S, M)], [(M, M)]),
    "einsum, dots": (lambda m, W: tg.einsum("...m,mn", m, W), [(S, M), (2, S, M)], [(M, N)]),
    "matrices of weights": (lambda m, W, V: m @ tg.einsum("mk,khn->mhn", W, V)[:, 0], [(S, M)], [(M, 2), (2, 2, N)]),
}
CASES = [(name, shape) for name, (_, shapes, _) in WRITTEN.items() for shape in shapes]


def reads(name):
    function, _, weights = WRITTEN[name]
    tg.manual_seed(0)
    return Reads(function, *weights)


def of_sequence(cell, shape):
    """The values that are computed before the loop, once for each sequence."""
    x, memory = tg.ones(T, B, I, dtype=np.float64), tg.ones(B, *shape, dtype=np.float64)
    layer = Recurrent(cell, fused="require")
    layer(x, memory=memory)
    return [value for value in layer._last.fused.outside if value.rate == "sequence"]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_product_is_one(name, shape, monkeypatch):
    """No more is in memory at any time than what goes into it and what comes out."""
    interpret(monkeypatch)
    outside = of_sequence(reads(name), shape)
    assert any(value.row is table.matmul for value in outside) or "nothing" in name
    apart = [value for value in outside if value.row is table.sum and value.inputs[0].row is table.mul]
    assert not apart or name == "einsum, all of itself"
    largest = math.prod(shape) * 2 * max(N, S)  # of a product that is taken apart, less than twice that
    assert all(2 * value.width <= largest or value.row is table.matmul for value in outside)


@pytest.mark.parametrize("name", ["matrix", "linear", "einsum", "einsum, weights first"])
def test_its_sequences_are_rows_of_one_matrix(name, monkeypatch):
    """Forward and backward: no product for each sequence, nor a gradient of weights for each that are then summed."""
    interpret(monkeypatch)
    cell, shapes, multiplied = reads(name), [], arrays.packed_matmul
    x, memory = tg.ones(T, B, I, dtype=np.float64), tg.ones(B, S, M, dtype=np.float64, requires_grad=True)
    layer = Recurrent(cell, fused="require")
    layer(x, memory=memory)[0].sum().backward()  # compares it with the tape
    monkeypatch.setattr(arrays, "packed_matmul", lambda a, b, *y: (shapes.append(a.shape), multiplied(a, b, *y))[1])
    layer(x, memory=memory)[0].sum().backward()
    assert sorted(shapes) == sorted([(B * S, M), (B * S, N), (M, B * S)])


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_engines_agree(name, shape, monkeypatch):
    interpret(monkeypatch)
    assert_engines_agree(reads(name), (T, B, I), values={"memory": shape}, lengths=[2, 0, 3, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_engines_agree_in_any_call(name, shape, monkeypatch):
    interpret(monkeypatch)
    assert_engines_agree(reads(name), (T, B, I), values={"memory": shape}, reverse=True, return_states=True)
    for sequences in (0, 1):
        assert_engines_agree(reads(name), (T, sequences, I), values={"memory": shape})
    for inner in (Inside(reads(name)), tg.nn.VariationalDropout(reads(name), 0.5, 0.5)):
        assert_engines_agree(inner, (T, B, I), values={"memory": shape})


def test_second_derivatives(monkeypatch):
    interpret(monkeypatch)
    found = {}
    for engine in ("require", "never"):
        cell, random = reads("one after the other"), np.random.default_rng(0)
        memory = tg.tensor(random.standard_normal((B, S, M)), requires_grad=True)
        y, _ = Recurrent(cell, fused=engine)(tg.ones(T, B, I, dtype=np.float64), memory=memory)
        leaves = [memory, cell.weight_0, cell.weight_1]
        first = tg.grad(y.square().sum(), leaves, create_graph=True)
        second = tg.grad(sum(d.square().sum() for d in first), leaves)
        found[engine] = {str(i): d.numpy() for i, d in enumerate((*first, *second))}
    assert_close(found["require"], found["never"])
