"""Truncated backpropagation through time: values go on from chunk to chunk, gradients stop exactly at the cut."""

import numpy as np
import pytest
from fusion.comparing import interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils import detached, truncated

T, B, I, H, CUT = 8, 2, 3, 4, 3


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    tg.manual_seed(0)
    interpret(monkeypatch)


def layers():
    recurrent = tg.nn.Recurrent(tg.nn.LearnedInitialState(tg.nn.LSTMCell(I, H, dtype=np.float64)))
    stack = tg.nn.Stack([tg.nn.GRUCell(I, H, dtype=np.float64), tg.nn.LSTMCell(H, H, dtype=np.float64)])
    return {"recurrent": recurrent, "LSTM": tg.nn.LSTM(I, H, 2, dtype=np.float64), "unlike states": stack}


@pytest.mark.parametrize("engine", ["require", "never"])
@pytest.mark.parametrize("kind", ["recurrent", "LSTM", "unlike states"])
def test_the_same_as_cut_by_hand(kind, engine):
    layer = layers()[kind]
    layer.fused = engine
    x = tg.randn(T, B, I, dtype=np.float64, requires_grad=True)
    parameters = list(layer.parameters())
    outputs = [y for y, _ in truncated(layer, x.split(CUT))]
    whole, _ = layer(x)
    np.testing.assert_allclose(tg.cat(outputs).numpy(), whole.numpy(), atol=1e-13)

    cut = lambda s: type(s)(map(cut, s)) if isinstance(s, (tuple, list)) else tg.tensor(s.numpy().copy())
    state, by_hand = None, []
    for chunk in x.split(CUT):
        y, state = layer(chunk, state)
        state = cut(state)
        by_hand.append(y)
    found, expected = (tg.grad(sum((y * y).sum() for y in ys), [x, *parameters]) for ys in (outputs, by_hand))
    uncut = tg.grad((whole * whole).sum(), [x, *parameters])
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-13)
    assert any(np.abs(a.numpy() - b.numpy()).max() > 1e-3 for a, b in zip(found, uncut)), "the cut makes a difference"


@pytest.mark.parametrize("engine", ["require", "never"])
def test_no_gradient_passes_the_cut(engine):
    layer = layers()["recurrent"]
    layer.fused = engine
    x = tg.randn(T, B, I, dtype=np.float64, requires_grad=True)
    *_, (y, state) = truncated(layer, x.split(CUT))
    (dx,) = tg.grad(y[-1].sum(), [x])
    last = T // CUT * CUT
    assert not dx.numpy()[:last].any() and dx.numpy()[last:].all(), "nothing before the last chunk, all of it inside"
    first = tg.randn(CUT, B, I, dtype=np.float64, requires_grad=True)
    (_, _), (y, state) = truncated(layer, [first, x.detach()])
    assert tg.grad(y.sum(), [first], allow_unused=True) == (None,)
    assert all(s.requires_grad for s in state), "within the chunk they have a past"
    assert layer.cell.initial_h.grad is None
    next(truncated(layer, [first]))[0].sum().backward()
    assert layer.cell.initial_h.grad.numpy().all(), "learned initial states belong to the first chunk"


def test_a_chunk_is_run_when_it_is_asked_for():
    """So that weights may change in between, and a stream need not end."""
    layer = tg.nn.LSTM(I, H, dtype=np.float64)
    calls = []

    def stream():
        while True:
            calls.append("read")
            yield tg.ones(2, B, I, dtype=np.float64)

    run = truncated(layer, stream(), tuple(tg.ones(1, B, H, dtype=np.float64) for _ in range(2)))
    _, (h, c) = next(run)
    assert calls == ["read"]
    before = h.numpy().copy(), c.numpy().copy()
    layer.weight_hh_l0.numpy()[...] *= 0
    z, _ = next(run)
    expected, _ = layer(tg.ones(2, B, I, dtype=np.float64), tuple(map(tg.tensor, before)))
    np.testing.assert_allclose(z.numpy(), expected.numpy(), atol=1e-14)


@pytest.mark.parametrize("whole", [tg.ones(T, B, I), np.ones((T, B, I), np.float32)], ids=["tensor", "array"])
def test_one_array_is_no_chunks(whole):
    """Else each step [B, I] of it would be a sequence of B steps without a batch, and nothing would tell."""
    with pytest.raises(TypeError, match=r"got one array of shape \[8, 2, 3\]: write x\.split\(100\)"):
        next(truncated(tg.nn.LSTM(I, H), whole))


def test_detached():
    x = tg.ones(2, requires_grad=True)
    a, [b, (c,)] = detached((x * 2, [x, (x,)]))
    assert not any(s.requires_grad for s in (a, b, c)) and x.requires_grad
