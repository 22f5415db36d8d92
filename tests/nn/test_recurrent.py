"""Cells and Recurrent: the contract of `step`, and the classic cells against their equations in NumPy."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import pool
from tinygrad_rnn.nn import LSTM, Cell, GRUCell, LSTMCell, Parameter, ProjectedLSTMCell, Recurrent, RNNCell, init

RANDOM = np.random.default_rng(0)
T, B, I, H, P = 5, 3, 4, 6, 2


def double(*shape):
    return tg.tensor(RANDOM.standard_normal(shape), requires_grad=True)


class MGU(Cell):
    """Minimal gated unit (Zhou et al., 2016): a GRU with one gate."""

    def __init__(self, input_size, hidden_size):
        self.hidden_size = hidden_size
        weight = lambda *shape: init.xavier_uniform_(Parameter(tg.zeros(*shape)))
        self.Wf, self.Wh = weight(input_size, hidden_size), weight(input_size, hidden_size)
        self.Uf, self.Uh = weight(hidden_size, hidden_size), weight(hidden_size, hidden_size)
        self.bf, self.bh = Parameter(tg.zeros(hidden_size)), Parameter(tg.zeros(hidden_size))

    def step(self, x, h):
        f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        n = tg.tanh(x @ self.Wh + (f * h) @ self.Uh + self.bh)
        return (1 - f) * h + f * n


# ---- The classic cells -----------------------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn(p, x, h):
    return (np.tanh(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]),)


def rnn_relu(p, x, h):
    return (np.maximum(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"], 0),)


def lstm(p, x, h, c):
    i, f, g, o = np.split(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def projected_lstm(p, x, h, c):
    h, c = lstm(p, x, h, c)
    return h @ p["weight_hr"].T, c


def gru(p, x, h):
    x_r, x_z, x_n = np.split(x @ p["weight_ih"].T + p["bias_ih"], 3, -1)
    h_r, h_z, h_n = np.split(h @ p["weight_hh"].T + p["bias_hh"], 3, -1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return ((1 - z) * np.tanh(x_n + r * h_n) + z * h,)


CLASSIC = {
    "RNN": (lambda i, h, **o: RNNCell(i, h, **o), rnn),
    "RNN relu": (lambda i, h, **o: RNNCell(i, h, nonlinearity="relu", **o), rnn_relu),
    "LSTM": (lambda i, h, **o: LSTMCell(i, h, **o), lstm),
    "LSTM projected": (lambda i, h, **o: ProjectedLSTMCell(i, h, P, **o), projected_lstm),
    "GRU": (lambda i, h, **o: GRUCell(i, h, **o), gru),
}
each_classic = pytest.mark.parametrize(("make", "equations"), CLASSIC.values(), ids=CLASSIC.keys())


def plain(states):
    return [s.numpy() for s in (states if isinstance(states, tuple) else (states,))]


@each_classic
def test_equations(make, equations):
    """One step by itself, and a sequence in both directions, with and without given states."""
    cell = make(I, H, dtype=np.float64)
    p = cell.state_dict()
    x = RANDOM.standard_normal((T, B, I))
    random = [RANDOM.standard_normal(s.shape) for s in cell.begin(None, B)]
    for reverse in (False, True):
        for start in (None, tuple(map(tg.tensor, random))):
            states = random if start else plain(cell.initial_state(B))
            outputs = [None] * T
            for t in reversed(range(T)) if reverse else range(T):
                states = equations(p, x[t], *states)
                outputs[t] = states[0]
            y, final = Recurrent(cell, reverse=reverse)(x, start)
            np.testing.assert_allclose(y.numpy(), outputs, rtol=1e-12, atol=1e-14)
            for a, b in zip(plain(final), states, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    for a, b in zip(plain(cell(x[0], start)), equations(p, x[0], *random), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


SECOND = {"GRU", "LSTM projected"}  # the others are of the same products and functions


@pytest.mark.parametrize(
    ("make", "equations"),
    [pytest.param(*c, id=name, marks=() if name in SECOND else pytest.mark.slow) for name, c in CLASSIC.items()],
)
def test_gradients(make, equations):
    """First and second derivatives with respect to x, the initial states and every parameter."""
    cell = make(I, 3, dtype=np.float64)  # of as many inputs as above, so that the kernels are those
    if isinstance(cell, RNNCell) and cell.nonlinearity == "relu":
        init.uniform_(cell.bias_ih, 1, 2)  # away from the kink
    x, states = double(2, 1, I), [double(*s.shape) for s in cell.begin(None, 1)]

    def run(x, *rest):
        y, final = Recurrent(cell, reverse=True)(x, rest[: len(states)])
        return (y, *(final if isinstance(final, tuple) else (final,)))

    assert tg.gradcheck(run, (x, *states, *cell.parameters()))
    assert tg.gradgradcheck(run, (x, *states, *cell.parameters()))


@each_classic
def test_unbatched_and_without_bias(make, equations):
    cell = make(I, H, bias=False)
    assert all("bias" not in name for name in cell.state_dict())
    x, states = tg.rand(B, I), tuple(tg.rand(*s.shape) for s in cell.begin(None, B))
    for start in (None, states):
        rows = [plain(cell(x[b], start and tuple(s[b] for s in start))) for b in range(B)]
        for k, whole in enumerate(plain(cell(x, start))):
            np.testing.assert_allclose([row[k] for row in rows], whole, rtol=1e-5, atol=1e-6)
    single = states if len(states) > 1 else states[0]
    np.testing.assert_array_equal(plain(cell(x, single))[0], plain(cell(x, states))[0])
    assert "bias=False" in repr(cell) and str(H) in repr(cell)


def test_parameters_start_uniform():
    tg.manual_seed(0)
    for cell in (RNNCell(30, 100), LSTMCell(30, 100), GRUCell(30, 100), ProjectedLSTMCell(30, 100, 20)):
        k = len(cell.gates)
        assert cell.weight_ih.shape == (k * 100, 30) and cell.bias_hh.shape == (k * 100,)
        for p in cell.parameters():
            assert 0.09 < np.abs(p.numpy()).max() <= 0.1 and abs(p.numpy().mean()) < 0.02
    assert cell.weight_hh.shape == (400, 20) and cell.weight_hr.shape == (20, 100)
    assert list(cell.state_dict()) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]


def test_nonlinearity():
    with pytest.raises(ValueError, match="nonlinearity must be 'tanh' or 'relu', not 'sine'"):
        RNNCell(2, 3, nonlinearity="sine")
    assert "nonlinearity='relu'" in repr(RNNCell(2, 3, nonlinearity="relu"))
    assert "proj_size=2" in repr(ProjectedLSTMCell(2, 3, 2))


# ---- A cell of one's own ---------------------------------------------------------------------------------------------


def test_a_users_cell_learns():
    """Remember the first of three numbers: the loss of the best constant guess is 1."""
    tg.manual_seed(0)
    layer, head = Recurrent(MGU(1, 16)), tg.nn.Linear(16, 1)
    parameters = [*layer.parameters(), *head.parameters()]
    losses = []
    for _ in range(150):
        x = tg.randn(3, 32, 1)
        y, _ = layer(x)
        loss = tg.nn.functional.mse_loss(head(y[-1]), x[0])
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.numpy()[...] -= 0.3 * p.grad.numpy()
        losses.append(loss.item())
    assert np.mean(losses[:10]) > 0.7 and np.mean(losses[-10:]) < 0.3, losses


def test_a_users_cell():
    layer = Recurrent(MGU(I, H))
    y, h = layer(tg.rand(T, B, I))
    assert y.shape == (T, B, H) and type(h) is tg.Tensor
    np.testing.assert_array_equal(y.numpy()[-1], h.numpy())
    assert list(layer.state_dict()) == ["cell.Wf", "cell.Wh", "cell.Uf", "cell.Uh", "cell.bf", "cell.bh"]
    assert layer.cell.state_names == ("h",)
    layer.double()
    assert layer(tg.rand(T, B, I, dtype=np.float64))[0].dtype == np.float64
    x, parameters = double(3, 2, I), list(layer.parameters())
    assert tg.gradcheck(lambda x, *_: layer(x)[0], (x, *parameters))
    assert repr(layer).startswith("Recurrent(  # 132 parameters\n  (cell): MGU()")


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(0, 3), st.booleans(), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_sequences_can_be_cut(steps, batch, reverse, cut, seed):
    """Running a sequence in two parts, the second from the first one's final state, changes nothing."""
    tg.manual_seed(seed)
    layer, x, cut = Recurrent(LSTMCell(2, 3), reverse=reverse), tg.randn(steps, batch, 2), min(cut, steps)
    y, final = layer(x)
    parts = [part for part in (x[:cut], x[cut:]) if len(part)]
    outputs, state = [], None
    for part in reversed(parts) if reverse else parts:
        z, state = layer(part, state)
        outputs.append(z)
    np.testing.assert_array_equal(tg.cat(outputs[::-1] if reverse else outputs).numpy(), y.numpy())
    for a, b in zip(state, final):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_reverse_is_forwards_on_the_flipped_sequence():
    cell, x = GRUCell(I, H), tg.rand(T, B, I)
    y, h = Recurrent(cell, reverse=True)(x)
    z, g = Recurrent(cell)(tg.flip(x, 0))
    np.testing.assert_array_equal(y.numpy(), tg.flip(z, 0).numpy())
    np.testing.assert_array_equal(h.numpy(), g.numpy())


class Learned(Cell):
    """A learned initial state, and a second state of another size that counts the steps."""

    def __init__(self):
        self.h0 = Parameter(np.zeros(H))
        self.input_size = H

    def initial_state(self, batch_size):
        return self.h0.expand(batch_size, H), tg.zeros(batch_size, 1, dtype=np.float64)

    def step(self, x, h, count):
        return tg.tanh(x + h), count + 1


def test_initial_state_can_be_learned_and_of_any_size():
    layer = Recurrent(Learned())
    y, (h, count) = layer(np.zeros((T, B, H)))
    assert y.shape == (T, B, H) and count.tolist() == [[T]] * B
    y.sum().backward()
    assert layer.cell.h0.grad.tolist() == [T * B] * H
    y, _ = layer(np.zeros((T, B, H)), (h.detach(), count))
    assert not y.requires_grad, "a given state replaces the learned one"


class Residual(Cell):
    """A cell around another cell: its states are those of the inner one."""

    def __init__(self, inner):
        self.inner, self.hidden_size = inner, inner.hidden_size

    @property
    def state_names(self):
        return self.inner.state_names

    def step(self, x, *states):
        new = self.inner.step(x, *states)
        return (new[0] + x, *new[1:])


def test_a_cell_around_a_cell():
    layer = Recurrent(Residual(LSTMCell(H, H)))
    y, (_, c) = layer(tg.rand(T, B, H))
    assert y.shape == (T, B, H) and c.shape == (B, H)
    assert "cell.inner.weight_ih" in layer.state_dict()


def test_long_sequences():
    """No recursion, and no backward pass that is quadratic in the number of steps."""
    layer = Recurrent(RNNCell(1, 1))
    layer(tg.ones(5_000, 1, 1))[1].sum().backward()
    assert layer.cell.weight_hh.grad is not None


# ---- The contract ----------------------------------------------------------------------------------------------------


def broken(step, **attributes):
    """A cell with this step."""
    return type("Broken", (Cell,), {"hidden_size": H, "step": step, **attributes})()


def test_input_shapes():
    layer = Recurrent(RNNCell(I, H))
    for shape in [(T, I), (0, B, I), (T, B, I, 1)]:
        with pytest.raises(ValueError, match=r"Recurrent\(RNNCell\): expected x of shape \[T, B, I\] with T > 0, got"):
            layer(tg.zeros(*shape))
    with pytest.raises(ValueError, match=rf"RNNCell: expected inputs of {I} features, got 7 \(x is \[{T}, {B}, 7\]\)"):
        layer(tg.zeros(T, B, 7))
    with pytest.raises(ValueError, match="RNNCell: expected inputs of 4 features, got 5"):
        layer.cell(tg.zeros(5))
    with pytest.raises(ValueError, match=r"RNNCell: expected x of shape \[B, I\] or \[I\], got \[1, 2, 4\]"):
        layer.cell(tg.zeros(1, 2, I))
    with pytest.raises(ValueError, match=r"matmul.*inner dimensions differ"):
        Recurrent(MGU(I, H))(tg.zeros(T, B, 7))
    with pytest.raises(TypeError, match="expected a Cell, got Linear"):
        Recurrent(tg.nn.Linear(1, 1))
    assert layer(tg.zeros(T, 0, I))[0].shape == (T, 0, H)


def test_initial_states():
    layer = Recurrent(LSTMCell(I, H))
    x, s = tg.zeros(T, B, I), tg.zeros(B, H)
    layer(x, (s, s))
    layer(x, [s.numpy(), s.numpy()])
    with pytest.raises(ValueError, match=r"LSTMCell: expected 2 initial states \(h, c\), got 1"):
        layer(x, s)
    with pytest.raises(ValueError, match=r"LSTMCell: initial state c has shape \[1, 6\], expected \[3, 6\]"):
        layer(x, (s, s[:1]))
    with pytest.raises(ValueError, match=r"GRUCell: expected 1 initial state \(h\), got 2"):
        GRUCell(I, H)(x[0], (s, s))
    with pytest.raises(TypeError, match=r"Broken: set self\.hidden_size, or override initial_state"):
        Recurrent(type("Broken", (Cell,), {"step": lambda self, x, h: h})())(x)
    cell = broken(lambda self, x, h, c: (h, c), initial_state=lambda self, batch_size: tg.zeros(batch_size, H))
    with pytest.raises(ValueError, match=r"Broken.initial_state returned 1 states, step takes h, c"):
        Recurrent(cell)(x)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda self, x, h: (h, h), ValueError, r"Broken\.step returned 2 states, but takes 1: h"),
        (lambda self, x, h, c: h, ValueError, r"Broken\.step returned 1 states, but takes 2: h, c"),
        (lambda self, x, h: None, TypeError, r"Broken\.step returned NoneType as the new h, not a Tensor"),
        (lambda self, x, h: h.sum(0), ValueError, r"step returned a h of shape \[6\], it came in as \[3, 6\]"),
        (lambda self, x, h: h[:, :2], ValueError, r"step returned a h of shape \[3, 2\], it came in as \[3, 6\]"),
        (lambda self, x: x, TypeError, r"must name its states: step\(self, x, h\)"),
        (lambda self, x, *states: states, TypeError, r"a cell that wraps another one overrides state_names"),
        (lambda self, x, h, **values: h, TypeError, r"must name its states"),
    ],
)
def test_step_must_return_what_it_takes(step, error, message):
    with pytest.raises(error, match=message):
        Recurrent(broken(step))(tg.zeros(T, B, I))


def test_a_cell_without_step():
    cell = type("Empty", (Cell,), {"hidden_size": H})()
    with pytest.raises(NotImplementedError, match=r"Empty does not define step\(self, x, h, \.\.\.\)"):
        Recurrent(cell)(tg.zeros(T, B, I))


def test_fused():
    layer = Recurrent(MGU(I, H))
    x = tg.rand(T, B, I)
    assert layer.fused == "auto"
    y, _ = layer(x)
    layer.fused = "never"
    np.testing.assert_allclose(layer(x)[0].numpy(), y.numpy(), rtol=1e-5, atol=1e-7)
    assert "fused='never'" in repr(layer)
    with pytest.raises(ValueError, match="fused must be 'auto', 'require' or 'never', not 'always'"):
        layer.fused = "always"
    with pytest.raises(ValueError, match="not True"):
        Recurrent(MGU(I, H), fused=True)
    assert layer.fused == "never"


def test_no_grad_records_nothing():
    with tg.no_grad():
        y, h = Recurrent(MGU(I, H))(tg.rand(T, B, I))
    assert not y.requires_grad and not h.requires_grad


def test_initial_state_zeros_follow_the_parameters():
    for dtype in (np.float32, np.float64):
        h, c = LSTMCell(I, H, dtype=dtype).initial_state(2)
        assert h.dtype == c.dtype == dtype and h.shape == c.shape == (2, H) and not math.fsum(h.numpy().ravel())
    assert broken(lambda self, x, h: h).initial_state(2).dtype == np.float32


def test_a_fused_step_leaves_no_array_to_the_garbage_collector():
    """Large arrays are used again at once: a reference cycle would keep them until the collector comes by."""
    layer, x = LSTM(4, 128), tg.randn(53, 17, 4)

    def used_after_a_step():
        y, _ = layer(x)
        y.sum().backward()
        return sum(block.used for block in pool._look_at_all()[1])

    gc.collect()
    gc.disable()
    try:
        used_after_a_step()
        before = used_after_a_step()
        assert used_after_a_step() == used_after_a_step() == before > 0
    finally:
        gc.enable()
