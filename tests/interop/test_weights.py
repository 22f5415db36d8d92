"""Weights of other libraries: their own equations, written out in NumPy from their layouts, beside our cells."""

import re
from dataclasses import replace

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import interop
from tinygrad_rnn.interop import Weights
from tinygrad_rnn.nn import GRU, LSTM, RNN, GRUCell, LSTMCell, ProjectedLSTMCell, Recurrent, RNNCell
from tinygrad_rnn.nn.cells import GRUVariantCell, PeepholeLSTMCell, UGRNNCell

T, B, I, H = 6, 3, 4, 5
K = {"rnn": 1, "lstm": 4, "gru": 3}
LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(-1, 1, (T, B, I))
H0, C0 = RANDOM.uniform(-1, 1, (2, B, H))


def random(*shape):
    return RANDOM.uniform(-0.7, 0.7, shape)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def outputs(layer, kind, x=X, h=H0, c=C0):
    """What a cell or a layer of ours computes on the tape."""
    layer = Recurrent(layer) if isinstance(layer, tg.nn.Cell) else layer
    layer.fused = "never"
    return layer(x, (h, c) if kind == "lstm" else h)[0].numpy()


def keras(kind, arrays, reset_after=True):
    """The equations of Keras's SimpleRNNCell, LSTMCell and GRUCell: keras/src/layers/rnn."""
    kernel, recurrent, bias = [*arrays, np.zeros(())][:3]
    h, c, found = H0, C0, []
    part = lambda a, k: a[..., k * H : (k + 1) * H] if a.ndim else a
    for x in X:
        if kind == "rnn":
            h = np.tanh(x @ kernel + bias + h @ recurrent)
        elif kind == "lstm":
            z = x @ kernel + h @ recurrent + bias
            i, f, o = sigmoid(part(z, 0)), sigmoid(part(z, 1)), sigmoid(part(z, 3))
            c = f * c + i * np.tanh(part(z, 2))
            h = o * np.tanh(c)
        else:
            input_bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros(()))
            x_z, x_r, x_h = (x @ part(kernel, k) + part(input_bias, k) for k in range(3))
            inner = h @ recurrent + recurrent_bias
            z, r = sigmoid(x_z + part(inner, 0)), sigmoid(x_r + part(inner, 1))
            hh = np.tanh(x_h + (r * part(inner, 2) if reset_after else (r * h) @ part(recurrent, 2)))
            h = z * h + (1 - z) * hh
        found.append(h)
    return np.array(found)


def onnx(kind, W, R, B=None, P=None, linear_before_reset=0, d=0, order=1):
    """One direction of the operators RNN, LSTM and GRU as the specification has it, `Xt*(Wi^T)` and so on."""
    rows = W.shape[1]
    Wb, Rb = (np.zeros(rows), np.zeros(rows)) if B is None else (B[d, :rows], B[d, rows:])
    w, r, wb, rb = (np.split(a, rows // H) for a in (W[d], R[d], Wb, Rb))
    Ht, Ct, found = H0, C0, []
    for Xt in X[::order]:
        gate = lambda k, Xt=Xt, Ht=Ht: Xt @ w[k].T + Ht @ r[k].T + wb[k] + rb[k]
        if kind == "rnn":
            Ht = np.tanh(gate(0))
        elif kind == "lstm":
            Pi, Po, Pf = np.zeros((3, H)) if P is None else np.split(P[d], 3)
            it, ft = sigmoid(gate(0) + Pi * Ct), sigmoid(gate(2) + Pf * Ct)
            Ct = ft * Ct + it * np.tanh(gate(3))
            Ht = sigmoid(gate(1) + Po * Ct) * np.tanh(Ct)
        else:
            zt, rt = sigmoid(gate(0)), sigmoid(gate(1))
            if linear_before_reset:
                ht = np.tanh(Xt @ w[2].T + rt * (Ht @ r[2].T + rb[2]) + wb[2])
            else:
                ht = np.tanh(Xt @ w[2].T + (rt * Ht) @ r[2].T + rb[2] + wb[2])
            Ht = (1 - zt) * ht + zt * Ht
        found.append(Ht)
    return np.array(found[::order])


KERAS = [("rnn", True), ("lstm", True), ("gru", True), ("gru", False)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "reset_after"), KERAS)
def test_keras(kind, reset_after, bias):
    rows = K[kind] * H
    arrays = [random(I, rows), random(H, rows)]
    if bias:
        arrays.append(random(2, rows) if kind == "gru" and reset_after else random(rows))
    weights = interop.from_keras(kind, arrays, reset_after=reset_after)
    cell = interop.to_cell(weights)
    assert type(cell) is {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell if reset_after else GRUVariantCell}[kind]
    expected = keras(kind, arrays, reset_after)
    np.testing.assert_allclose(outputs(cell, kind), expected, atol=1e-12)
    if kind != "gru" or reset_after:  # a layer of ours takes them too
        layer = LAYERS[kind](I, H, bias=bias, dtype=np.float64)
        layer.load_state_dict(interop.to_torch(weights))
        states = (tg.tensor(H0[None]), tg.tensor(C0[None]))
        np.testing.assert_allclose(outputs(layer, kind, X, *states), expected, atol=1e-12)
    back = interop.to_keras(weights, reset_after=reset_after)
    for a, b in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "reset_after"), KERAS)
def test_to_keras_from_two_biases(kind, reset_after):
    cell = {"rnn": RNNCell, "lstm": LSTMCell, "gru": GRUCell if reset_after else GRUVariantCell}[kind]
    cell = cell(I, H, dtype=np.float64)
    arrays = interop.to_keras(interop.from_cell(cell), reset_after=reset_after)
    assert arrays[2].shape == ((2, 3 * H) if kind == "gru" and reset_after else (K[kind] * H,))
    np.testing.assert_allclose(outputs(cell, kind), keras(kind, arrays, reset_after), atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "linear_before_reset"), [("rnn", 0), ("lstm", 0), ("gru", 0), ("gru", 1)])
def test_onnx(kind, linear_before_reset, bias):
    """Both directions, the second one read backwards in time."""
    rows = K[kind] * H
    given = {"W": random(2, rows, I), "R": random(2, rows, H)}
    if bias:
        given["B"] = random(2, 2 * rows)
    if kind == "gru":
        given["linear_before_reset"] = linear_before_reset
    both = interop.from_onnx(kind, **given)
    expected = [onnx(kind, **given, d=d, order=1 - 2 * d) for d in range(2)]
    for d, weights in enumerate(both):
        layer = Recurrent(interop.to_cell(weights), reverse=d == 1)
        np.testing.assert_allclose(outputs(layer, kind), expected[d], atol=1e-12)
    if kind != "gru" or linear_before_reset:
        layer = LAYERS[kind](I, H, bias=bias, bidirectional=True, dtype=np.float64)
        state = interop.to_torch(both[0])
        layer.load_state_dict({**state, **interop.to_torch(both[1], reverse=True)})
        twice = [np.stack([s, s]) for s in (H0, C0)]
        np.testing.assert_allclose(outputs(layer, kind, X, *twice), np.concatenate(expected, -1), atol=1e-12)
    back = interop.to_onnx(*both)
    assert list(back) == list(given)
    for name, value in given.items():
        np.testing.assert_array_equal(back[name], value)


def test_onnx_peepholes():
    given = {"W": random(1, 4 * H, I), "R": random(1, 4 * H, H), "B": random(1, 8 * H), "P": random(1, 3 * H)}
    (weights,) = interop.from_onnx("lstm", **given)
    cell = interop.to_cell(weights)
    assert type(cell) is PeepholeLSTMCell
    np.testing.assert_allclose(outputs(cell, "lstm"), onnx("lstm", **given), atol=1e-12)
    again = interop.to_onnx(interop.from_cell(cell))
    np.testing.assert_array_equal(again["P"], given["P"])
    np.testing.assert_allclose(onnx("lstm", **again), onnx("lstm", **given), atol=1e-12)
    without = interop.from_cell(PeepholeLSTMCell(I, H, bias=False))
    assert without.bias_ih is None and "B" not in interop.to_onnx(without)


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize("bias", [True, False])
def test_z_that_keeps_the_new_state(reset, bias):
    cell = GRUVariantCell(I, H, bias, reset=reset, keeps="new", dtype=np.float64)
    weights = interop.from_cell(cell)
    assert weights.reset == reset
    np.testing.assert_allclose(outputs(interop.to_cell(weights), "gru"), outputs(cell, "gru"), atol=1e-12)
    other = GRUVariantCell(I, H, bias, reset=reset, keeps="old", dtype=np.float64)
    plain = interop.from_cell(other)
    twice = interop.swap_update_gate(interop.swap_update_gate(plain))
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(getattr(twice, name), value)
    assert not np.array_equal(interop.swap_update_gate(plain).weight_hh, plain.weight_hh)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_several(kind):
    """Layer by layer and direction by direction, there and back under other names."""
    layer = LAYERS[kind](I, H, num_layers=2, bidirectional=True, bias=kind != "rnn")
    state = {f"encoder.{name}": value for name, value in layer.state_dict().items()}
    again = {}
    for number in range(2):
        for reverse in (False, True):
            weights = interop.from_torch(kind, state, number, reverse, prefix="encoder.")
            assert weights.hidden_size == H
            again |= interop.to_torch(weights, number, reverse)
    assert list(again) == list(layer.state_dict())
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == np.float32


def test_cells():
    for cell in (RNNCell(I, H), LSTMCell(I, H, bias=False), ProjectedLSTMCell(I, H, 2), GRUCell(I, H)):
        weights = interop.from_cell(cell)
        copy = interop.to_cell(weights)
        assert type(copy) is type(cell) and repr(copy) == repr(cell)
        same = interop.from_torch(weights.kind, cell.state_dict(), layer=None)
        for name, value in interop.to_torch(same, layer=None).items():
            np.testing.assert_array_equal(value, cell.state_dict()[name])
            np.testing.assert_array_equal(value, copy.state_dict()[name])
        cell.weight_ih.numpy()[...] = 7
        assert not (weights.weight_ih == 7).any(), "a copy"
    assert interop.to_cell(interop.from_cell(RNNCell(I, H)), nonlinearity="relu").nonlinearity == "relu"
    assert repr(interop.from_cell(GRUCell(2, 3, bias=False))) == (
        "Weights('gru', weight_ih [9, 2], weight_hh [9, 3], reset='after')"
    )


def gru(reset):
    return interop.from_cell(GRUVariantCell(I, H, reset=reset))


PROJECTED = interop.from_cell(ProjectedLSTMCell(I, H, 2))
PEEPHOLES = interop.from_cell(PeepholeLSTMCell(I, H))
PLAIN = interop.from_cell(LSTMCell(I, H))
zeros = np.zeros


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interop.to_torch(gru("before")), ValueError, "to_torch: this GRU resets before .*cannot be converted"),
        (lambda: interop.to_keras(gru("before")), ValueError, "resets before .* a GRU with reset_after=True does not"),
        (lambda: interop.to_keras(gru("after"), reset_after=False), ValueError, "resets after .* reset_after=False"),
        (lambda: interop.to_torch(PEEPHOLES), ValueError, "PyTorch's LSTM has no peepholes"),
        (lambda: interop.to_keras(PEEPHOLES), ValueError, "neither projection nor peepholes"),
        (lambda: interop.to_keras(PROJECTED), ValueError, "neither projection nor peepholes"),
        (lambda: interop.to_onnx(PROJECTED), ValueError, "ONNX's LSTM has no projection"),
        (lambda: interop.to_onnx(), ValueError, "one direction or of two, got 0"),
        (lambda: interop.to_onnx(gru("after"), gru("before")), ValueError, "both directions must be alike"),
        (lambda: interop.to_cell(replace(PROJECTED, peephole=zeros(3 * H))), ValueError, "both a projection and peep"),
        (lambda: interop.from_cell(UGRNNCell(I, H)), TypeError, "UGRNNCell has no counterpart"),
        (lambda: interop.swap_update_gate(PLAIN), ValueError, "kind 'lstm' has no update gate"),
        (lambda: interop.from_torch("gru", {"a": 1}), KeyError, "no 'weight_ih_l0' among a"),
        (lambda: interop.from_torch("mgu", {}), ValueError, "kind must be one of 'rnn', 'lstm', 'gru', not 'mgu'"),
        (lambda: interop.from_keras("lstm", [zeros((2, 8))]), ValueError, "kernel, recurrent kernel and maybe bias, g"),
        (lambda: interop.from_keras("gru", [zeros((2, 8)), zeros((2, 8))]), ValueError, r"is \[..., 3 \* units\], got"),
        (
            lambda: interop.from_keras("gru", [zeros((2, 6)), zeros((2, 6)), zeros(6)]),
            ValueError,
            r"kind 'gru' reset_after=True is \[2, 6\], got \[6\]; is it a layer with the other reset_after\?",
        ),
        (
            lambda: interop.from_keras("lstm", [zeros((2, 8)), zeros((2, 8)), zeros((2, 8))]),
            ValueError,
            r"the bias of a layer of kind 'lstm' is \[8\], got \[2, 8\]$",
        ),
        (lambda: interop.from_onnx("gru", zeros((1, 8, 2)), zeros((1, 8, 2))), ValueError, r"expected W \[D, 3H, I\]"),
        (
            lambda: interop.from_onnx("rnn", zeros((1, 2, 2)), zeros((1, 2, 2)), zeros((1, 2))),
            ValueError,
            r"B is \[1, 2\], expected \[1, 4\] \(W is \[1, 2, 2\]\)",
        ),
        (lambda: Weights("gru", zeros((6, 1)), zeros((6, 3))), ValueError, r"weight_hh of this gru is \[6, 3\], exp"),
        (lambda: Weights("gru", zeros((7, 1)), zeros((7, 2))), ValueError, r"weight_ih of this gru is \[7, 1\], exp"),
        (lambda: Weights("gru", zeros((6, 1)), zeros((6, 2)), zeros(6)), ValueError, "both biases or none"),
        (lambda: replace(PLAIN, bias_hh=zeros(H)), ValueError, r"bias_hh of this lstm is \[5\], expected \[20\]"),
        (lambda: replace(PLAIN, reset="never"), ValueError, "reset must be 'after' or 'before', not 'never'"),
        (lambda: replace(gru("after"), peephole=zeros(3 * H)), ValueError, "kind 'gru' not"),
    ],
)
def test_what_cannot_be_converted(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert re.search(message, str(raised.value)), raised.value


def test_a_step_of_its_own_has_no_counterpart():
    """Weights that are used in another way are not those of a GRU or an LSTM."""

    class Mine(tg.nn.LSTMCell):
        def step(self, x, h, c):
            return h, c

    for cell in (tg.nn.cells.BinaryGRUCell(3, 4), tg.nn.cells.PhasedLSTMCell(3, 4), Mine(3, 4)):
        with pytest.raises(TypeError, match=f"from_cell: {type(cell).__name__} has no counterpart"):
            tg.interop.from_cell(cell)
    assert tg.interop.from_cell(tg.nn.cells.IRNNCell(3, 4)).kind == "rnn"


def test_a_weight_that_is_computed_is_copied_as_it_is():
    cell = tg.nn.utils.parametrizations.spectral_norm(tg.nn.GRUCell(3, 4), "weight_hh")
    u = cell.parametrizations.weight_hh[0]._u.numpy().copy()
    weights = tg.interop.from_cell(cell)
    assert (cell.parametrizations.weight_hh[0]._u.numpy() == u).all()
    x = tg.randn(5, 2, 3)
    expected = tg.nn.Recurrent(cell.eval())(x)[0].numpy()
    np.testing.assert_allclose(tg.nn.Recurrent(tg.interop.to_cell(weights))(x)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind, shape", [("gru", (3, 12)), ("gru", (1, 12)), ("lstm", (12,))])
def test_a_bias_of_keras_has_its_shape(kind, shape):
    k = {"gru": 3, "lstm": 4}[kind]
    with pytest.raises(ValueError, match="from_keras: the bias of a layer of kind"):
        tg.interop.from_keras(kind, [np.zeros((3, 4 * k)), np.zeros((4, 4 * k)), np.zeros(shape)])
