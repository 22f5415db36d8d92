"""The same step on the tape and as kernels: values, final states and every gradient agree to 1e-12 in float64."""

import warnings

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import threads

QUICK = [(7, 16, 4, 7), (2, 7, 4, 33)]  # T, B, I, H; another I is another kernel, and for a mean over H another H
SIZES = [(1, 1, 1, 1), (2, 7, 16, 33), (2, 3, 1, 2), (3, 2, 7, 3), (3, 33, 2, 16), (2, 2, 33, 64)]


def parameter(*shape):
    return tg.nn.Parameter(tg.randn(*shape, dtype=np.float64) * 0.4)


class MGU(tg.nn.Cell):
    """A product in the middle of the step; one parameter in both of its phases."""

    def __init__(self, input_size, hidden_size):
        self.hidden_size = hidden_size
        self.Wf, self.Wh = parameter(input_size, hidden_size), parameter(input_size, hidden_size)
        self.Uf, self.Uh = parameter(hidden_size, hidden_size), parameter(hidden_size, hidden_size)
        self.b = parameter(hidden_size)

    def step(self, x, h):
        f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.b)
        n = tg.tanh(x @ self.Wh + (f * h) @ self.Uh + self.b)
        return (1 - f) * h + f * n


class Normalised(tg.nn.Cell):
    """Row reductions, a softmax, a transposed weight, a 0-d parameter and one of shape [1, H]."""

    def __init__(self, input_size, hidden_size):
        self.hidden_size = hidden_size
        self.W, self.U = parameter(input_size, hidden_size), parameter(hidden_size, hidden_size)
        self.gain, self.shift, self.scale = parameter(1, hidden_size), parameter(hidden_size), parameter()

    def normalise(self, a):
        centred = a - a.mean(-1, keepdim=True)
        return centred * (centred.square().mean(-1, keepdim=True) + 0.1).rsqrt() * self.gain + self.shift

    def step(self, x, h):
        return tg.tanh(self.normalise(x @ self.W + h @ self.U.T)) + self.scale * tg.softmax(h, -1)


class SeveralStates(tg.nn.Cell):
    """States of two sizes, a projection, a concatenation, a state returned unchanged and one that is not read."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W = parameter(input_size + hidden_size, 2 * hidden_size)
        self.P = parameter(2 * hidden_size, hidden_size)

    def initial_state(self, batch_size):
        zeros = lambda width: tg.zeros(batch_size, width, dtype=np.float64)
        return zeros(self.hidden_size), zeros(2 * self.hidden_size), zeros(self.hidden_size), zeros(1)

    def step(self, x, h, m, fixed, unread):
        m = 0.5 * m + tg.relu(tg.cat([x, h], -1) @ self.W)
        first, second = tg.chunk(m, 2, -1)
        h = tg.where(first > second, first, second * fixed) + tg.tanh(m) @ self.P
        return h, m, fixed, h.sum(-1, keepdim=True) * 0.1


CELLS = {
    "rnn": lambda i, h: tg.nn.RNNCell(i, h, dtype=np.float64),
    "relu": lambda i, h: tg.nn.RNNCell(i, h, nonlinearity="relu", dtype=np.float64),
    "lstm": lambda i, h: tg.nn.LSTMCell(i, h, dtype=np.float64),
    "gru": lambda i, h: tg.nn.GRUCell(i, h, dtype=np.float64),
    "no bias": lambda i, h: tg.nn.GRUCell(i, h, bias=False, dtype=np.float64),
    "mgu": MGU,
    "normalised": Normalised,
    "several states": SeveralStates,
}


def both(cell, sizes, reverse=False):
    """Everything that can be compared, from the kernels and from the tape."""
    T, B, I, _ = sizes
    random = np.random.default_rng(1)
    make = lambda *shape: tg.tensor(random.standard_normal(shape), requires_grad=True)
    x = make(T, B, I)
    states = cell.initial_state(B)
    states = tuple(make(*s.shape) for s in (states if isinstance(states, tuple) else (states,)))
    found = []
    for engine in ("require", "never"):
        layer = tg.nn.Recurrent(cell, reverse=reverse, fused=engine)
        y, final = layer(x, states)
        finals = final if isinstance(final, tuple) else (final,)
        weights = np.random.default_rng(2)
        loss = sum((v * weights.standard_normal(v.shape)).sum() for v in (y, *finals))
        gradients = tg.grad(loss, [x, *states, *cell.parameters()], allow_unused=True)
        found.append([v.numpy() for v in (y, *finals)] + [0.0 if g is None else g.numpy() for g in gradients])
    return found


def sized(name, sizes):
    quick = sizes in QUICK or (name, sizes) == ("normalised", (1, 1, 1, 1))
    return pytest.param(name, sizes, id=f"{name}-{sizes}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [sized(name, s) for name in CELLS if name not in ("rnn", "lstm", "gru") for s in QUICK + SIZES],  # see test_sizes
)
def test_kernels_compute_what_the_tape_does(name, sizes):
    tg.manual_seed(0)
    for fused, tape in zip(*both(CELLS[name](*sizes[2:]), sizes)):
        np.testing.assert_allclose(fused, tape, rtol=0, atol=1e-12 * max(1e-3, np.max(np.abs(tape), initial=0)))


@pytest.mark.parametrize("name", ["lstm", "mgu", "several states"])
def test_reversed(name):
    tg.manual_seed(0)
    for fused, tape in zip(*both(CELLS[name](4, 7), (5, 2, 4, 7), reverse=True)):
        np.testing.assert_allclose(fused, tape, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["normalised", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gru", "mgu"))]
)
def test_first_and_second_derivatives(name):
    tg.manual_seed(0)
    cell = CELLS[name](2, 2)
    layer = tg.nn.Recurrent(cell, fused="require")
    x, h = (tg.randn(*shape, dtype=np.float64, requires_grad=True) for shape in ((3, 2, 2), (2, 2)))
    run = lambda x, h, *parameters: layer(x, h)
    assert tg.gradcheck(run, (x, h, *cell.parameters()))
    assert tg.gradgradcheck(run, (x, h, *cell.parameters()))


class Stopped(tg.nn.Cell):
    """No gradient of h arrives at any other value: it is made of truth values and of what is detached."""

    input_size, hidden_size = 3, 4

    def __init__(self):
        self.W = parameter(3, 4)

    def step(self, x, h, c):
        a = x @ self.W
        return tg.where(a > 0, 1.0, 0.5) * tg.tanh(h + a).detach(), tg.tanh(a + h * c)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("engine", ["require", "never"])
def test_values_that_no_gradient_reaches(engine, create_graph):
    tg.manual_seed(0)
    x, h, c = (tg.randn(*shape, dtype=np.float64, requires_grad=True) for shape in ((3, 2, 3), (2, 4), (2, 4)))
    y, (last, _) = tg.nn.Recurrent(Stopped(), fused=engine)(x, (h, c))
    assert not y.requires_grad
    if last.requires_grad:  # of a sequence without steps it would be h
        found = tg.grad(last.sum(), [x, h, c], create_graph=create_graph, allow_unused=True)
        assert [*found] == [None, None, None]


@pytest.mark.parametrize("name", ["lstm", "mgu", "several states"])
def test_without_gradients_and_in_pieces(name):
    """The kernel that saves nothing computes the same, and so do T calls of one step each."""
    tg.manual_seed(0)
    cell = CELLS[name](4, 7)
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.randn(6, 5, 4, dtype=np.float64)
    y, _ = layer(x)
    with tg.no_grad():
        again, _ = layer(x)
        state, pieces = None, []
        for t in range(6):
            piece, state = layer(x[t : t + 1], state)
            pieces.append(piece)
    assert not again.requires_grad
    np.testing.assert_array_equal(tg.cat(pieces).numpy(), again.numpy())
    # Two kernels of one formula: the compiler may fuse another multiplication with its addition.
    np.testing.assert_allclose(again.numpy(), y.numpy(), rtol=0, atol=1e-14)


def test_rows_of_a_batch_never_meet():
    layer, x = tg.nn.LSTM(3, 8), np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    clean, _ = layer(x)
    x[1, 2] = np.nan
    x = tg.tensor(x, requires_grad=True)
    y, _ = layer(x)
    y.sum().backward()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(y.numpy()[:, others], clean.numpy()[:, others])
    assert np.isnan(y.numpy()[1:, 2]).all() and np.isfinite(x.grad.numpy()[:, others]).all()


class Peeks(MGU):
    def step(self, x, h):
        return super().step(x, h) if (h > 2).numpy().any() else 0.5 * super().step(x, h)


class MixesTheBatch(MGU):
    def step(self, x, h):
        return super().step(x, h - h.mean(0, keepdim=True))


@pytest.mark.parametrize(("kind", "reason"), [(Peeks, "numbers of a tensor"), (MixesTheBatch, "the batch meet")])
def test_what_cannot_be_fused_runs_on_the_tape_with_one_warning(kind, reason):
    layer, x = tg.nn.Recurrent(kind(3, 4)), tg.randn(3, 2, 3, dtype=np.float64)
    tg.manual_seed(3)
    with pytest.warns(UserWarning, match=f"{kind.__name__} runs on the tape.*{reason}"):
        y, _ = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)  # it has been said
    tg.manual_seed(3)
    layer.fused = "never"
    np.testing.assert_array_equal(layer(x)[0].numpy(), y.numpy())
    layer.fused = "require"
    with pytest.raises(NotImplementedError, match=f"{kind.__name__} cannot be fused.*{reason}"):
        layer(x)


def test_a_changed_attribute_is_noticed():
    class Leaky(tg.nn.Cell):
        hidden_size, leak = 2, 0.5

        def step(self, x, h):
            return self.leak * h + x

    cell = Leaky()
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.ones(2, 1, 2)
    assert layer(x)[1].tolist() == [[1.5, 1.5]]
    cell.leak = 0.25
    assert layer(x)[1].tolist() == [[1.25, 1.25]]


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 4)  # however many processors there are
    monkeypatch.setattr(threads, "_num_threads", 0)
    layer, x = tg.nn.GRU(16, 64), tg.randn(60, 32, 16, requires_grad=True)
    found = []
    for n in 1, 2, 4:
        tg.set_num_threads(n)
        x.grad = None
        y, _ = layer(x)
        y.square().sum().backward()
        found.append((y.numpy().tobytes(), x.grad.numpy().tobytes()))
    assert len(set(found)) == 1


def test_no_two_gradients_share_memory():
    """The gradient of a sum is that of both its terms, but each may be changed by itself."""

    class Sums(tg.nn.Cell):
        hidden_size = 3

        def __init__(self):
            self.W, self.V, self.b, self.c = parameter(2, 3), parameter(2, 3), parameter(3), parameter(3)

        def step(self, x, h):
            return tg.tanh(x @ (self.W + self.V) + 2 * (self.b + self.c) + h)

    layer = tg.nn.Recurrent(Sums(), fused="require")
    y, _ = layer(tg.randn(4, 2, 2, dtype=np.float64))
    y.sum().backward()
    gradients = [p.grad.numpy() for p in layer.parameters()]
    np.testing.assert_array_equal(gradients[0], gradients[1])
    np.testing.assert_array_equal(gradients[2], gradients[3])
    assert not any(np.shares_memory(a, b) for i, a in enumerate(gradients) for b in gradients[:i])


def test_the_gradient_of_an_input_read_backwards_is_not():
    """Who hands it to another library has an array in the usual order."""
    layer = tg.nn.Recurrent(tg.nn.RNNCell(2, 3), reverse=True, fused="require")
    x = tg.randn(5, 4, 2).requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad.numpy().flags.c_contiguous


class Tally(tg.nn.Cell):
    """A state that the loss sees, and one that only adds up what a second matrix makes of the first."""

    def __init__(self, linked=False):
        self.input_size = self.hidden_size = 3
        self.W, self.V, self.linked = tg.nn.weight(3, 3), tg.nn.weight(3, 3), linked

    def step(self, x, h, total):
        new = tg.tanh(x @ self.W + (h + total if self.linked else h))
        return new, total + (h @ self.V).square()


@pytest.mark.parametrize("again", [False, True], ids=["once", "differentiable"])
@pytest.mark.parametrize("seen", ["outputs", "last", "total", "both"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_what_the_loss_does_not_reach_has_no_gradient(ragged, linked, steps, seen, again):
    """Rather than zeros, by which an optimiser would let it decay: as on the tape, and with PyTorch."""
    cell, found, lengths = Tally(linked), {}, [0, steps] if ragged else None
    for engine in ("require", "never"):
        leaves = [*cell.parameters(), *(tg.ones(*n, requires_grad=True) for n in ((steps, 2, 3), (2, 3), (2, 3)))]
        y, (h, total) = tg.nn.Recurrent(cell, fused=engine)(leaves[2], (leaves[3], leaves[4]), lengths=lengths)
        loss = {"outputs": y.sum(), "last": h.sum(), "total": total.sum(), "both": y.sum() + total.sum()}[seen]
        found[engine] = tg.grad(loss, leaves, create_graph=again, allow_unused=True)
    assert (found["never"][1] is None) == (seen in ("outputs", "last") and (not linked or steps == 1))
    for ours, theirs in zip(found["require"], found["never"]):
        assert (ours is None) == (theirs is None)
        assert ours is None or np.allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
