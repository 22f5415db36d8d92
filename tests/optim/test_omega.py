"""Omega: its closed form, what it leaves alone, and which cells it is of. PyTorch is asked elsewhere."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils.parametrizations import spectral_norm, weight_norm
from tinygrad_rnn.optim import omega_penalty

nn = tg.nn
T, B, I, H = 7, 4, 3, 5
SLOPES = {"tanh": lambda h: 1 - h * h, "sigmoid": lambda h: h * (1 - h), "relu": lambda h: h > 0}


class Elman(nn.Cell):
    """A user's cell, its matrices stored [from, to]."""

    def __init__(self, act="tanh"):
        rng = np.random.default_rng(1)
        self.act, self.input_size, self.hidden_size = act, I, H
        self.W, self.U = (nn.Parameter(0.7 * rng.standard_normal((n, H))) for n in (I, H))
        self.b = nn.Parameter(0.3 * rng.standard_normal(H))

    def step(self, x, h):
        return getattr(tg, self.act)(x @ self.W + self.b + h @ self.U)


class Skewed(Elman):
    """A recurrent matrix that is computed in the step."""

    def step(self, x, h):
        return tg.tanh(h @ (self.U - self.U.T) + x @ self.W - self.b)


def rnn_cell(act="tanh"):
    tg.manual_seed(3)
    return nn.RNNCell(I, H, nonlinearity=act, dtype=np.float64)


def recorded(cell, fused="require", lengths=None, reverse=False, last=False):
    """The recording of a cell over a sequence, after a backward pass."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    layer = nn.Recurrent(cell, reverse=reverse, fused=fused)
    with tg.record(layer) as r:
        y, h = layer(tg.tensor(x), lengths=lengths)
    ((h * weight[0]).sum() if last else (y * weight).sum()).backward()
    return r


def by_hand(h, d, W, act):
    """Omega as its definition says it, for arrays [T, B, H] and W [from, to]."""
    total, live = 0.0, 0
    for h_t, d_t in zip(h.reshape(-1, H), d.reshape(-1, H)):
        b = d_t @ d_t
        if b >= 1e-20:
            v = W @ (d_t * SLOPES[act](h_t))
            total += (v @ v / b - 1) ** 2
            live += 1
    return total / live


def differences(f, W, step=1e-5):
    """The gradient of f at W by central differences."""
    found = np.zeros_like(W)
    for at in np.ndindex(W.shape):
        moved = W.copy()
        moved[at] += step
        above = f(moved)
        moved[at] -= 2 * step
        found[at] = (above - f(moved)) / (2 * step)
    return found


CASES = {
    "tanh": (rnn_cell, "tanh", True, {}),
    "relu": (lambda: rnn_cell("relu"), "relu", True, {}),
    "a user's": (Elman, "tanh", False, {}),
    "a user's sigmoid": (lambda: Elman("sigmoid"), "sigmoid", False, {}),
    "a user's relu": (lambda: Elman("relu"), "relu", False, {}),
    "of lengths": (rnn_cell, "tanh", True, {"lengths": np.array([7, 2, 0, 5])}),
    "in reverse": (rnn_cell, "tanh", True, {"reverse": True}),
    "of lengths in reverse": (Elman, "tanh", False, {"lengths": np.array([3, 7, 1, 0]), "reverse": True}),
    "from the last step": (rnn_cell, "tanh", True, {"last": True, "lengths": np.array([7, 2, 0, 5])}),
}


@pytest.mark.parametrize("fused", ["require", "never"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_definition(case, fused):
    make, act, transposed, options = CASES[case]
    cell = make()
    r = recorded(cell, fused, **options)
    weight = cell.weight_hh if transposed else cell.U
    before = {name: p.grad.numpy().copy() for name, p in cell.named_parameters()}
    omega = omega_penalty(r, cell)
    h, d = r["h"].numpy(), r.grad["h"].numpy()
    W = weight.numpy().T if transposed else weight.numpy()
    assert omega.shape == () and omega.item() == pytest.approx(by_hand(h, d, W, act), rel=1e-12)
    (0.5 * omega).backward()
    expected = 0.5 * differences(lambda W: by_hand(h, d, W, act), W)
    for name, p in cell.named_parameters():
        added = p.grad.numpy() - before[name]
        if p is weight:
            np.testing.assert_allclose(added.T if transposed else added, expected, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(added, 0)


def test_closed_form():
    cell = Elman()
    r = recorded(cell, "never", lengths=np.array([7, 2, 0, 5]))
    cell.zero_grad()
    omega_penalty(r, cell).backward()
    d, h, W = r.grad["h"].numpy().reshape(-1, H), r["h"].numpy().reshape(-1, H), cell.U.numpy()
    b = (d * d).sum(1, keepdims=True)
    live = b[:, 0] >= 1e-20
    s = d * (1 - h * h)
    v = s @ W.T
    ratio = np.where(b > 0, (v * v).sum(1, keepdims=True) / np.where(b > 0, b, 1), 1) - 1
    closed = 4 / live.sum() * (ratio / np.where(b > 0, b, 1) * v).T @ s
    assert live.sum() == 14
    np.testing.assert_allclose(cell.U.grad.numpy(), closed, rtol=1e-12, atol=1e-14)


def test_one_step_of_one_unit_by_hand():
    """h = tanh(0.5 h0) with h0 = 1 and L = h: d = 1, s = 1 - h^2, v = 0.5 s; omega = (v^2 - 1)^2, dW = 4 (v^2 - 1) v s.

    The state before the first step counts as one, too: v = dL / dh0.
    """

    class One(nn.Cell):
        hidden_size, input_size = 1, 1

        def __init__(self):
            self.w = nn.Parameter(np.array([[0.5]]))

        def step(self, x, h):
            return tg.tanh(x + h @ self.w)

    cell = One()
    layer = nn.Recurrent(cell, fused="never")
    with tg.record(layer) as r:
        y, _ = layer(tg.zeros(1, 1, 1, dtype=tg.float64), tg.ones(1, 1, dtype=tg.float64))
    y.sum().backward()
    cell.zero_grad()
    s = 1 - np.tanh(0.5) ** 2
    omega = omega_penalty(r, layer)
    omega.backward()
    assert omega.item() == pytest.approx((0.25 * s * s - 1) ** 2, rel=1e-14)
    assert cell.w.grad.item() == pytest.approx(4 * (0.25 * s * s - 1) * 0.5 * s * s, rel=1e-14)


def test_gradients_that_keep_their_length_are_not_penalised():
    """Relu in its linear range and a permutation carry gradients back as long as they are."""
    cell = nn.RNNCell(I, H, nonlinearity="relu", dtype=np.float64)
    with tg.no_grad():
        cell.weight_hh[...] = np.eye(H)[[2, 0, 1, 4, 3]]
        cell.weight_ih[...] = 0
        cell.bias_ih[...] = 100
    assert omega_penalty(recorded(cell, "never"), cell).item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("fused", ["require", "never"])
def test_a_matrix_computed_of_parameters_hands_the_gradient_on(fused):
    cell = Skewed()
    r = recorded(cell, fused)
    cell.zero_grad()
    omega_penalty(r, cell).backward()
    h, d, U = r["h"].numpy(), r.grad["h"].numpy(), cell.U.numpy()
    expected = differences(lambda U: by_hand(h, d, U - U.T, "tanh"), U)
    np.testing.assert_allclose(cell.U.grad.numpy(), expected, rtol=1e-6, atol=1e-9)
    for normed in (weight_norm(rnn_cell(), "weight_hh"), spectral_norm(rnn_cell(), "weight_hh")):
        r = recorded(normed, fused)
        normed.zero_grad()
        kept = {name: x.numpy().copy() for name, x in normed.named_buffers()}
        omega = omega_penalty(r, normed)
        omega.backward()
        normed.eval()
        value = by_hand(r["h"].numpy(), r.grad["h"].numpy(), normed.weight_hh.numpy().T, "tanh")
        assert omega.item() == pytest.approx(value, rel=1e-12)
        assert {name for name, p in normed.named_parameters() if p.grad is not None} == {
            name for name, _ in normed.named_parameters() if name.startswith("parametrizations")
        }
        for name, x in normed.named_buffers():
            np.testing.assert_array_equal(x.numpy(), kept[name])


def test_layers_of_a_stack_have_one_each():
    rnn = nn.RNN(I, H, 2, dtype=np.float64)
    with tg.record(rnn) as r:
        y, _ = rnn(tg.randn(T, B, I, dtype=tg.float64))
    y[-1].sum().backward()
    rnn.zero_grad()
    (omega_penalty(r[0], rnn) + 2 * omega_penalty(r[1], rnn)).backward()
    grads = {name for name, p in rnn.named_parameters() if p.grad is not None}
    assert grads == {"weight_hh_l0", "weight_hh_l1"}


def test_where_no_gradient_arrives_there_is_none_to_keep():
    cell = rnn_cell()
    layer = nn.Recurrent(cell)
    with tg.record(layer) as r:
        y, _ = layer(tg.randn(T, B, I, dtype=tg.float64))
    (0 * y.sum()).backward()
    cell.zero_grad()
    omega = omega_penalty(r, cell)
    omega.backward()
    assert omega.item() == 0 and not cell.weight_hh.grad.numpy().any()


class Leaky(Elman):
    def step(self, x, h):
        return 0.5 * h + tg.tanh(x @ self.W + h @ self.U)


class Twice(Elman):
    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U + h @ self.U.T)


class Subtracted(Elman):
    def step(self, x, h):
        return tg.tanh(x @ self.W - h @ self.U)


class Masked(Elman):
    def step(self, x, h):
        return tg.tanh(x @ self.W + (0.5 * h) @ self.U)


REFUSED = {
    "LSTM": lambda: nn.LSTMCell(I, H, dtype=np.float64),
    "GRU": lambda: nn.GRUCell(I, H, dtype=np.float64),
    "leaky": Leaky,
    "twice": Twice,
    "subtracted": Subtracted,
    "masked": Masked,
    "other activation": lambda: Elman("sin"),
    "zoned out": lambda: nn.Zoneout(rnn_cell()),
    "dropped": lambda: nn.WeightDrop(rnn_cell()),
    "variational": lambda: nn.VariationalDropout(rnn_cell(), state=0.5),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_steps_are_refused(kind):
    cell = REFUSED[kind]()
    r = recorded(cell, "never")
    with pytest.raises(TypeError, match="is not tanh, relu or sigmoid of a sum with h @ W"):
        omega_penalty(r, cell)


def test_mistakes_are_told():
    cell = rnn_cell()
    r = recorded(cell)
    with pytest.raises(TypeError, match="the recording is of another cell"):
        omega_penalty(r, rnn_cell())
    layer = nn.Recurrent(cell)
    with tg.record(layer) as r:
        with pytest.raises(RuntimeError, match="was not called"):
            omega_penalty(r, cell)
        layer(tg.zeros(T, B, I, dtype=tg.float64))
    with pytest.raises(RuntimeError, match=r"call loss\.backward"):
        omega_penalty(r, cell)
    with pytest.raises(TypeError, match=r"write r\[0\]"):
        omega_penalty([r, r], cell)
