"""Cells around cells, against loops written by hand with the same masks."""

import warnings

import numpy as np
import pytest
from fusion.comparing import given_to, interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn import (
    CellWrapper,
    ClipGradient,
    GRUCell,
    LearnedInitialState,
    LSTMCell,
    Recurrent,
    RNNCell,
    VariationalDropout,
    WeightDrop,
    Zoneout,
)
from tinygrad_rnn.nn.cells import catalogue

T, B, I, H = 5, 4, 3, 6


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """The fused path as the source that it generates, which saves compiling it."""
    tg.manual_seed(0)
    interpret(monkeypatch)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(p, x, h, c, weight_hh=None, dropped=1.0):
    """The equations of an LSTM in NumPy."""
    a = x @ p["weight_ih"].T + p["bias_ih"] + h @ (p["weight_hh"] if weight_hh is None else weight_hh).T + p["bias_hh"]
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g) * dropped
    return sigmoid(o) * np.tanh(c), c


def by_hand(cell, x, advance):
    """Run `advance(p, t, x[t], h, c)` over x; returns h and c after every step."""
    p = {name.split(".")[-1]: value for name, value in cell.state_dict().items()}
    h = c = np.zeros((x.shape[1], H))
    every = []
    for t in range(len(x)):
        h, c = advance(p, t, x[t], h, c)
        every.append((h, c))
    return tuple(np.stack(values) for values in zip(*every))


def mask(p, *shape):
    """The next mask of the library's generator, as its documentation has it: kept where a uniform number is >= p."""
    return (tg.generator().random(shape, dtype=np.float32) >= p) / (1 - p)


def assert_same(cell, advance, draw=lambda: None):
    """Both engines against a loop that finds in `masks` what `draw` drew from the same seed."""
    x = np.random.default_rng(0).uniform(-1, 1, (T, B, I))
    tg.manual_seed(3)
    draw()
    expected = by_hand(cell, x, advance)
    for engine in ("require", "never"):
        tg.manual_seed(3)
        y, _, every = Recurrent(cell, fused=engine)(tg.tensor(x), return_states=True)
        for found, value in zip((y, *every), (expected[0], *expected)):
            np.testing.assert_allclose(found.numpy(), value, rtol=0, atol=1e-12)


def test_zoneout():
    p_h, p_c = 0.3, 0.6
    cell, masks = Zoneout(LSTMCell(I, H, dtype=np.float64), (p_h, p_c)), []

    def draw():
        masks[:] = [[mask(p, B, H) == 0 for p in (p_h, p_c)] for _ in range(T)]

    def advance(p, t, x, h, c):
        new_h, new_c = lstm_step(p, x, h, c)
        return np.where(masks[t][0], h, new_h), np.where(masks[t][1], c, new_c)

    assert_same(cell, advance, draw)

    def expectation(p, t, x, h, c):
        new_h, new_c = lstm_step(p, x, h, c)
        return p_h * h + (1 - p_h) * new_h, p_c * c + (1 - p_c) * new_c

    assert_same(cell.eval(), expectation)


def test_evaluation_is_what_training_amounts_to_on_average():
    class Counts(tg.nn.Cell):
        hidden_size = 1

        def step(self, x, h):
            return x + 0 * h

    rows = 40000
    cell, x, h = Zoneout(Counts(), 0.3), tg.full((rows, 1), 3.0), tg.full((rows, 1), -1.0)
    assert cell.eval()(x, h).numpy()[0, 0] == pytest.approx(0.3 * -1 + 0.7 * 3)
    drawn = cell.train()(x, h).numpy()
    assert set(np.unique(drawn)) == {-1, 3}
    assert drawn.mean() == pytest.approx(0.3 * -1 + 0.7 * 3, abs=0.04)  # four standard deviations


@pytest.mark.parametrize("states", ["first", "all"])
def test_variational_dropout(states):
    cell, masks = VariationalDropout(LSTMCell(I, H, dtype=np.float64), 0.4, 0.5, states), []

    def draw():
        masks[:] = [mask(0.4, B, I), mask(0.5, B, H), mask(0.5, B, H) if states == "all" else 1]

    assert_same(cell, lambda p, t, x, h, c: lstm_step(p, x * masks[0], h * masks[1], c * masks[2]), draw)
    assert_same(cell.eval(), lambda p, t, x, h, c: lstm_step(p, x, h, c))


def test_weight_drop():
    cell, masks = WeightDrop(LSTMCell(I, H, dtype=np.float64), 0.5), []
    draw = lambda: masks.__setitem__(slice(None), [mask(0.5, 4 * H, H)])
    assert_same(cell, lambda p, t, x, h, c: lstm_step(p, x, h, c, p["weight_hh"] * masks[0]), draw)
    assert_same(cell.eval(), lambda p, t, x, h, c: lstm_step(p, x, h, c))


def test_recurrent_dropout():
    cell, masks = LSTMCell(I, H, dtype=np.float64), []
    cell.recurrent_dropout = 0.4
    draw = lambda: masks.__setitem__(slice(None), [mask(0.4, B, H) for _ in range(T)])
    assert_same(cell, lambda p, t, x, h, c: lstm_step(p, x, h, c, dropped=masks[t]), draw)


@pytest.mark.parametrize("engine", ["require", "never"])
def test_which_masks_change_from_step_to_step(engine):
    """Zoneout's do; those of variational dropout are one for a sequence, and differ between sequences and calls."""

    class Passes(tg.nn.Cell):
        input_size = hidden_size = 40

        def step(self, x, h):
            return x + 0 * h

    x = tg.arange(1, 1 + T * 40.0).reshape(T, 1, 40).expand(T, B, 40)
    kept = Recurrent(VariationalDropout(Passes(), input=0.5), fused=engine)
    y = [kept(x)[0].numpy() for _ in range(2)]
    masks = y[0] / x.numpy()
    assert set(np.unique(masks)) == {0, 2} and (masks == masks[0]).all()
    assert (masks[0, 0] != masks[0, 1]).any() and (y[0] != y[1]).any()
    zoned = Recurrent(Zoneout(Passes(), 0.5), fused=engine)(x)[0].numpy() != x.numpy()
    assert all((zoned[s] != zoned[t]).any() for s in range(T) for t in range(s))


@pytest.mark.parametrize("engine", ["require", "never"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda cell: Zoneout(cell, 0.4),
        lambda cell: Zoneout(cell, 0.4).eval(),
        lambda cell: VariationalDropout(cell, 0.3, 0.3),
        lambda cell: WeightDrop(cell, 0.4),
        LearnedInitialState,
        lambda cell: ClipGradient(cell, 1e9),
    ],
    ids=["zoneout", "zoneout in evaluation", "variational", "weight drop", "learned", "clipping"],
)
def test_gradients(wrap, engine):
    layer = Recurrent(wrap(GRUCell(1, 2, dtype=np.float64)), fused=engine)
    x = tg.randn(3, 2, 1, dtype=np.float64, requires_grad=True)

    def run(x, *parameters):
        tg.manual_seed(1)
        return layer(x, lengths=[3, 2])

    assert tg.gradcheck(run, (x, *layer.parameters()))


@pytest.mark.parametrize("engine", ["require", "never"])
def test_clipped_gradients(engine):
    """h' = u h: the gradient of every h is clipped to the bound, what the loss says of it included."""

    class Grows(tg.nn.Cell):
        hidden_size = 1

        def step(self, x, h):
            return 3 * h + x

    x = tg.zeros(4, 1, 1, dtype=np.float64, requires_grad=True)
    h = tg.zeros(1, 1, dtype=np.float64, requires_grad=True)
    y, _ = Recurrent(ClipGradient(Grows(), 5.0), fused=engine)(x, h)
    dx, dh = tg.grad(y[-1].sum(), [x, h])
    np.testing.assert_array_equal(dx.numpy().ravel(), [5, 5, 3, 1])
    np.testing.assert_array_equal(dh.numpy().ravel(), [15])


@pytest.mark.parametrize("engine", ["require", "never"])
def test_learned_initial_states(engine):
    inner = LSTMCell(I, H, dtype=np.float64)
    cell = LearnedInitialState(inner)
    assert list(cell.state_dict())[:2] == ["initial_h", "initial_c"] and cell.initial_h.shape == (1, H)
    layer, x = Recurrent(cell, fused=engine), tg.randn(T, B, I, dtype=np.float64)
    np.testing.assert_array_equal(layer(x)[0].numpy(), Recurrent(inner, fused=engine)(x)[0].numpy())
    cell.initial_h.numpy()[...] = 0.5
    start = tuple(tg.full((B, H), v, np.float64, requires_grad=True) for v in (0.5, 0.0))
    (y, final), (same, _) = layer(x), Recurrent(inner, fused=engine)(x, start)
    np.testing.assert_array_equal(y.numpy(), same.numpy())
    y.sum().backward()
    same.sum().backward()
    for learned, given in zip((cell.initial_h, cell.initial_c), start):
        np.testing.assert_allclose(learned.grad.numpy(), given.grad.numpy().sum(0, keepdims=True), atol=1e-13)
    np.testing.assert_array_equal(
        layer(x, final)[0].numpy(), Recurrent(inner, fused=engine)(x, final)[0].numpy(), "given states win"
    )


def test_a_wrapper_is_a_cell_like_the_one_inside():
    inner = tg.nn.ProjectedLSTMCell(I, H, 2)
    cell = Zoneout(LearnedInitialState(WeightDrop(VariationalDropout(ClipGradient(inner, 1.0), 0.1, 0.1))))
    assert cell.state_names == ("h", "c") and (cell.input_size, cell.hidden_size) == (I, H)
    assert [s.shape for s in cell.initial_state(B)] == [(B, 2), (B, H)]
    assert sum(p.numel() for p in cell.parameters()) == sum(p.numel() for p in inner.parameters()) + 2 + H
    cell.recurrent_dropout = 0.25
    assert inner.recurrent_dropout == cell.recurrent_dropout == 0.25
    assert not inner.training == cell.eval().training
    x, (h, c) = tg.ones(B, I), cell(tg.ones(B, I))
    assert h.shape == (B, 2) and c.shape == (B, H) and cell(x[0])[1].shape == (H,)
    weights = cell.cell.cell  # of a WeightDrop: they are the cell's own again after a step
    assert weights.names == ("cell.cell.weight_hh",) and weights.train()(x)[0].shape == (B, 2)
    assert isinstance(inner.weight_hh, tg.nn.Parameter)
    with pytest.raises(ValueError, match=r"expected inputs of 3 features, got 2 \(x is \[4, 2\]\)"):
        cell(tg.ones(B, 2))
    assert repr(Zoneout(RNNCell(2, 3), 0.5)).startswith("Zoneout(p=(0.5,)")


def test_weights_are_put_back_after_an_error():
    class Fails(RNNCell):
        def step(self, x, h):
            raise RuntimeError("in the middle")

    cell = WeightDrop(Fails(I, H))
    with pytest.raises(RuntimeError, match="in the middle"):
        Recurrent(cell)(tg.ones(T, B, I))
    assert isinstance(cell.cell.weight_hh, tg.nn.Parameter) and not hasattr(cell, "weight_hh_dropped")


def user_cell(states="h", **attributes):
    """A cell of one's own that says nothing of its input."""
    step = {"h": lambda self, x, h: h + x, "h, c": lambda self, x, h, c: (h + x, c)}[states]
    return type("Own", (tg.nn.Cell,), {"step": step, "hidden_size": H, **attributes})()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Zoneout(LSTMCell(I, H), (0.1,) * 3), r"one for each state \(h, c\), got 3"),
        (lambda: Zoneout(LSTMCell(I, H), 1.0), r"Zoneout: p: .* in \[0, 1\), not 1.0: 1 would never let a"),
        (lambda: Zoneout(LSTMCell(I, H), -0.1), r"in \[0, 1\), not -0.1$"),
        (lambda: Zoneout(LSTMCell(I, H), (0.1, float("nan"))), "not nan"),
        (lambda: VariationalDropout(LSTMCell(I, H), state=1.0), "state: .* 1 would erase every state"),
        (lambda: VariationalDropout(LSTMCell(I, H), input=1.5), "input: .* not 1.5"),
        (lambda: VariationalDropout(LSTMCell(I, H), states="h"), "states must be 'first' or 'all', not 'h'"),
        (lambda: VariationalDropout(user_cell(), input=0.5), "must know their width: set Own.input_size"),
        (lambda: WeightDrop(LSTMCell(I, H), 1.0), "WeightDrop: p: .* 1 would erase every weight"),
        (lambda: WeightDrop(LSTMCell(I, H), names=["U"]), "LSTMCell has no parameter 'U', only weight_ih, weight_hh"),
        (lambda: WeightDrop(user_cell()), "Own has no weight_hh: name its recurrent weights, out of no parameters"),
        (lambda: ClipGradient(LSTMCell(I, H), -1), "value must be at least 0, got -1"),
        (lambda: tg.clip_gradient(tg.ones(2), float("nan")), "clip_gradient: value must be at least 0, got nan"),
        (lambda: setattr(LSTMCell(I, H), "recurrent_dropout", 1.0), r"LSTMCell.recurrent_dropout: .* let nothing into"),
        (lambda: setattr(tg.nn.RNNCell(I, H), "recurrent_dropout", 0.5), "RNNCell: recurrent dropout .* has none"),
    ],
)
def test_options_that_make_no_sense(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("wrap", [Zoneout, VariationalDropout, WeightDrop, LearnedInitialState, CellWrapper])
def test_only_cells_are_wrapped(wrap):
    with pytest.raises(TypeError, match=f"{wrap.__name__}: expected a Cell, got Linear"):
        wrap(tg.nn.Linear(2, 3))


@pytest.mark.parametrize("engine", ["auto", "require", "never"])
def test_mistakes_of_the_cell_inside_are_named(engine):
    x = tg.ones(T, B, H)
    too_few = user_cell("h, c", step=lambda self, x, h, c: h + x)
    with pytest.raises(ValueError, match=r"Own.step returned 1 states, but takes 2: h, c"):
        Recurrent(Zoneout(too_few), fused=engine)(x)
    too_narrow = user_cell(step=lambda self, x, h: (h + x)[:, 1:])
    with pytest.raises(ValueError, match=r"Own.step returned a h of shape \[4, 5\], it came in as \[4, 6\]"):
        Recurrent(ClipGradient(too_narrow, 1.0), fused=engine)(x)
    with pytest.raises(ValueError, match=r"expected 2 initial states \(h, c\), got 1"):
        Recurrent(Zoneout(LSTMCell(H, H)), fused=engine)(x, tg.ones(B, H))
    for mask, error, words in (
        (np.ones((B, H), np.float32), TypeError, "Masked.sequence_values returned ndarray as mask, not a Tensor"),
        (tg.ones(B + 1, H), ValueError, r"shapes \[4, 6\] and \[5, 6\] do not broadcast together"),
        (tg.ones(B, H - 1), ValueError, r"\[4, 6\] and \[4, 5\] do not broadcast together"),
    ):
        masked = type("Masked", (tg.nn.Cell,), {"hidden_size": H, "step": lambda self, x, h: x + h * self.mask})()
        type(masked).sequence_values = lambda self, batch_size, mask=mask: {"mask": mask}
        with pytest.raises(error, match=words):
            Recurrent(Zoneout(masked), fused=engine)(x)
    several = VariationalDropout(user_cell(step=lambda self, x, h: x[0] + h, input_size=H), input=0.5)
    with pytest.raises(TypeError, match="the cell has several"):
        Recurrent(several, fused=engine)((x, x))


def test_a_gru_hands_on_what_was_not_dropped():
    """The mask of variational dropout is for what meets recurrent weights; the state itself stays as it is."""
    gru = tg.nn.GRUCell(I, H).double()
    cell, x = VariationalDropout(gru, state=0.5), tg.randn(6, 3, I, dtype=np.float64)
    tg.manual_seed(0)
    y, _ = tg.nn.Recurrent(cell, fused="require")(x)
    tg.manual_seed(0)
    mask = cell.sequence_values(3)["h_mask"].numpy()
    W, U, b, c = (p.numpy() for p in (gru.weight_ih, gru.weight_hh, gru.bias_ih, gru.bias_hh))
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    h = np.zeros((3, H))
    for x_t, expected in zip(x.numpy(), y.numpy()):
        (x_r, x_z, x_n), (h_r, h_z, h_n) = (np.split(a, 3, -1) for a in (x_t @ W.T + b, (h * mask) @ U.T + c))
        z = sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + sigmoid(x_r + h_r) * h_n) + z * h
        np.testing.assert_allclose(expected, h, rtol=0, atol=1e-12)


# ---- Wrappers around cells that they do not fit ----------------------------------------------------------------------


class Own(tg.nn.Cell):
    def __init__(self):
        self.input_size = self.hidden_size = 3
        self.U, self.u = tg.nn.Parameter(tg.randn(3, 3) * 0.1), tg.nn.Parameter(tg.randn(3))


class Leaky(Own):
    def step(self, x, h):
        return 0.9 * h + tg.tanh(x + h @ self.U)


class Gated(Own):
    def step(self, x, h):
        z = tg.sigmoid(x + h @ self.U)
        return tg.where(x > 0, z * h, tg.cat([h[:, :1], h[:, 1:]], -1)) + (1 - z) * x


class Rectified(Own):
    def step(self, x, h):
        return tg.relu(x + self.u * h)


class Crossed(Own):
    def step(self, x, h, c):
        return c + tg.tanh(x @ self.U), h


class Masked(Own):
    def step(self, x, h):
        return 0.9 * h + tg.tanh(x + self.masked(h) @ self.U)


class Elman(Own):
    def step(self, x, h):
        return tg.tanh(x + h @ self.U)


class Independent(Own):
    def step(self, x, h):
        return tg.tanh(x + self.u * h)


class Delayed(Own):
    def step(self, x, h, before):
        return tg.tanh(x + h @ self.U + before @ self.U), h


def warnings_of(cell, fused):
    """What is said in several calls of training, and in evaluation."""
    layer = tg.nn.Recurrent(cell, fused=fused)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            layer(tg.randn(4, 2, cell.input_size), **given_to(cell, 2))
        layer.eval()(tg.randn(4, 2, cell.input_size), **given_to(cell, 2))
    return [str(each.message) for each in told]


@pytest.mark.parametrize("fused", ["never", "require"])
@pytest.mark.parametrize("around", [lambda cell: cell, lambda cell: tg.nn.ClipGradient(cell, 1.0)])
@pytest.mark.parametrize("kind", [Leaky, Gated, Rectified, Crossed, Masked, Elman, Independent, Delayed])
def test_a_mask_on_a_state_that_is_handed_on_is_warned_of(kind, around, fused):
    told = warnings_of(tg.nn.VariationalDropout(around(kind()), state=0.5), fused)
    assert len(told) == (kind in (Leaky, Gated, Rectified, Crossed))
    for each in told:
        assert f"{kind.__name__}.step hands h on ({__file__}:" in each and "self.masked(h) @ self.U" in each
    told = warnings_of(tg.nn.VariationalDropout(around(kind()), state=0.5, states="all"), fused)
    assert len(told) == (kind in (Leaky, Gated, Rectified, Crossed, Masked))


@pytest.mark.parametrize("fused", ["never", "require"])
def test_no_cell_of_the_library_is_warned_of(fused):
    for make, *_ in catalogue.ROWS:
        assert not warnings_of(tg.nn.VariationalDropout(tg.nn.Zoneout(make(4, 4), 0.1), state=0.3), "never")
    assert not warnings_of(tg.nn.VariationalDropout(tg.nn.LSTMCell(3, 3), state=0.3, states="all"), fused)


@pytest.mark.parametrize("fused", ["never", "require"])
def test_masks_go_through_wrappers_to_where_the_state_meets_weights(fused):
    """However often it is applied, the part of a state that is only handed on stays as it was."""
    cell = Masked()
    cell.U.numpy()[...] = 0
    layer = tg.nn.Recurrent(tg.nn.VariationalDropout(tg.nn.ClipGradient(cell, 1.0), state=0.5), fused=fused)
    y, _ = layer(tg.zeros(50, 1, 3), tg.ones(1, 3))
    np.testing.assert_allclose(y.numpy()[:, 0, 0], 0.9 ** np.arange(1, 51), rtol=1e-5)


@pytest.mark.parametrize("fused", ["never", "require"])
def test_weights_that_no_step_reads_are_warned_of(fused):
    class Copied(Own):
        def __init__(self):
            super().__init__()
            self.T = self.U.T

        def step(self, x, h):
            return tg.tanh(x + h @ self.T)

    (told,) = warnings_of(tg.nn.WeightDrop(Copied(), 0.5, "U"), fused)
    assert "Copied.step never reads self.U" in told
    assert not warnings_of(tg.nn.WeightDrop(Elman(), 0.5, "U"), fused)


def test_weights_in_lists_are_refused_by_name():
    cell = Own()
    cell.list = [tg.nn.Parameter(tg.ones(3, 3))]
    with pytest.raises(ValueError, match=r"'list.0' lies in a list"):
        tg.nn.WeightDrop(cell, 0.5, "list.0")


UNSEEN = {  # no weights meet their first state
    "QRNNCell", "SRUCell", "MinGRUCell", "MinLSTMCell", "LRUCell", "S5Cell", "S4DCell", "MambaCell", "RWKVCell",
    "LinearAttentionCell", "RetNetCell", "MLSTMCell", "DeltaNetCell", "GLACell",
}  # fmt: skip


def test_variational_dropout_drops_what_recurrent_weights_see_in_every_cell():
    """And nothing else: what is handed on stays, and does not grow."""
    for entry in tg.nn.cells.catalogue.ROWS:
        tg.manual_seed(0)
        cell, x = entry.make(3, 8), tg.randn(40, 2, 3)
        values = {name: tg.randn(2, *shape) for name, shape in entry.values(3, 8).items()}
        plain, _ = Recurrent(cell, fused="never")(x, **values)
        dropped, _ = Recurrent(VariationalDropout(cell, state=0.5), fused="never")(x, **values)
        name = entry.cell.__name__
        assert np.array_equal(plain.numpy(), dropped.numpy()) == (name in UNSEEN), name
        if name not in ("IRNNCell", "IndRNNCell"):  # whose weights are 1, and nothing holds them
            assert dropped.abs().max() < 10 * plain.abs().max() + 1, name
