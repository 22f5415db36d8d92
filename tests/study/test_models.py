"""integrated_gradients, connectivity, fixed_points, horizon, ablate and colored_text against what is known."""

import html
import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from study.studying import ENGINES, F64, Linear, drawn, recorded
from tinygrad_rnn.study import inputs, points

T, B, I, H = 7, 2, 3, 4


@pytest.fixture(autouse=True)
def seeded():
    tg.manual_seed(0)


class Model(tg.nn.Module):
    """A module with a recurrent layer within, and dropout."""

    def __init__(self, kind=tg.nn.GRU, outputs=2, **options):
        self.rnn = kind(I, H, dtype=np.float64, **options)
        self.drop = tg.nn.Dropout(0.5)
        self.head = tg.nn.Linear(H * (1 + options.get("bidirectional", False)), outputs, dtype=np.float64)

    def forward(self, x):
        return self.head(self.drop(self.rnn(x)[0]))


# ---- integrated_gradients --------------------------------------------------------------------------------------------


def test_attributions_sum_to_the_difference_with_an_error_of_second_order():
    model, x, base = Model(), drawn(T, B, I), drawn(T, B, I, seed=1) * 0.1
    f = lambda x: model(x)[-1, 0, 1]
    found = {n: tg.study.integrated_gradients(f, x, base, steps=n) for n in (8, 16, 32)}
    model.eval()
    difference = float(f(x).numpy() - f(base).numpy())
    for each in found.values():
        assert each.values.shape == (T, B, I) and each.difference == pytest.approx(difference, rel=1e-12)
        assert each.values.sum() == pytest.approx(difference + each.error, rel=1e-9)
        assert not each.values[:, 1].any(), "the other sequence has no part in it"
    for n in (8, 16):
        assert found[n].error / found[2 * n].error == pytest.approx(4, rel=0.05)
    assert abs(found[32].error) < 1e-5


def test_a_linear_function_is_attributed_exactly():
    w = drawn(T, B, I, seed=2)
    found = tg.study.integrated_gradients(lambda x: (x * w).sum() + 3, drawn(T, B, I), steps=1)
    np.testing.assert_allclose(found.values, (drawn(T, B, I) * w).numpy(), rtol=1e-13)
    assert abs(found.error) < 1e-12


def test_every_module_is_left_in_its_mode():
    model = Model()
    model.drop.eval()
    seen, hidden = [], [model]
    look = lambda model: seen.append([m.training for m in model.modules()])
    named = lambda x: (look(model), model(x).sum())[1]
    tg.study.integrated_gradients(named, drawn(T, B, I), steps=2)
    inside = lambda x: (look(hidden[0]), hidden[0](x).sum())[1]
    tg.study.integrated_gradients(inside, drawn(T, B, I), model=model, steps=2)
    assert len(seen) == 8 and not any(map(any, seen))
    assert model.training and model.rnn.training and not model.drop.training
    with pytest.raises(ValueError, match="f must return one number"):
        tg.study.integrated_gradients(model, drawn(T, B, I))
    assert model.training and not model.drop.training
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_attributed():
    attribute, x = tg.study.integrated_gradients, drawn(T, B, I)
    with pytest.raises(TypeError, match="x is int64, and only floats have gradients: give its embedding"):
        attribute(lambda x: x.sum(), np.arange(3))
    with pytest.raises(ValueError, match=r"base has shape \[2\], which does not fit x, \[7, 2, 3\]"):
        attribute(lambda x: x.sum(), x, np.zeros(2))
    with pytest.raises(RuntimeError, match="does not depend on x"):
        attribute(lambda x: tg.ones(1), x)
    with pytest.raises(TypeError, match="the model returned float, not a tensor"):
        attribute(lambda x: 1.0, x)
    with pytest.raises(ValueError, match="steps must be positive"):
        attribute(lambda x: x.sum(), x, steps=0)


def test_what_has_no_part_in_the_result_is_told():
    weight = tg.ones(2, requires_grad=True)
    for f in (lambda x: (weight * weight).sum(), lambda x: tg.ones(1).sum()):
        with pytest.raises(RuntimeError, match="integrated_gradients: the result of f does not depend on x"):
            tg.study.integrated_gradients(f, tg.ones(3))


# ---- connectivity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_linear_system(engine, monkeypatch):
    """|| C A^(t2 - t1) B ||, and 0 exactly for the future."""
    random = np.random.default_rng(0)
    U, W, C = (random.standard_normal(shape) * 0.5 for shape in ((H, H), (I, H), (2, H)))

    class System(tg.nn.Module):
        def __init__(self):
            self.rnn = tg.nn.Recurrent(Linear(U, W), fused=engine)
            self.head = tg.nn.Linear(H, 2, bias=False, dtype=np.float64)
            self.head.weight.numpy()[...] = C

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    expected = np.zeros((T, T))
    each = np.zeros((T, T, 2))
    for t2 in range(T):
        for t1 in range(t2 + 1):
            each[t2, t1] = np.linalg.norm(C @ np.linalg.matrix_power(U.T, t2 - t1) @ W.T, axis=1)
            expected[t2, t1] = np.linalg.norm(each[t2, t1])
    x = drawn(T, I)
    found = tg.study.connectivity(System(), x).values
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (found[np.triu_indices(T, 1)] == 0).all()
    of = np.array([0, 1] * 4)[:T]
    one = tg.study.connectivity(System(), x, of=of).values
    np.testing.assert_allclose(one, each[np.arange(T), :, of], rtol=1e-12)
    monkeypatch.setattr("tinygrad_rnn.study.inputs.MOST", 60)
    np.testing.assert_allclose(tg.study.connectivity(System(), x[:, None]).values, expected, rtol=1e-12)


def test_of_the_largest():
    model, x = Model().eval(), drawn(T, I)
    largest = model(x[:, None]).numpy()[:, 0].argmax(-1)
    both = [tg.study.connectivity(model, x, of=of).values for of in ("largest", largest)]
    np.testing.assert_array_equal(*both)
    with pytest.raises(ValueError, match="of must be 7 integers from 0 to 1, 'largest' or None"):
        tg.study.connectivity(model, x, of=[2] * 7)


def test_models_that_read_both_ways_or_batches_first():
    x = drawn(T, I)
    assert (tg.study.connectivity(Model(bidirectional=True), x).values > 0).all()
    tg.manual_seed(0)
    plain = Model()
    other = Model(batch_first=True)
    other.load_state_dict(plain.state_dict())
    np.testing.assert_allclose(
        tg.study.connectivity(other, x).values, tg.study.connectivity(plain, x).values, rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_the_size_of_the_outputs_does_not_hide_the_future(scale, monkeypatch):
    """A net that reads both ways is seen to do so however small its outputs are, in as many pieces as it takes."""

    class Scaled(tg.nn.Module):
        def __init__(self):
            self.rnn = tg.nn.GRU(I, H, bidirectional=True, dtype=np.float64)

        def forward(self, x):
            return self.rnn(x)[0] * scale

    model, x = Scaled(), drawn(9, I)
    at_once = tg.study.connectivity(model, x).values
    monkeypatch.setattr(inputs, "MOST", 200)
    found = tg.study.connectivity(model, x).values
    np.testing.assert_allclose(found, at_once, rtol=1e-9)
    expected = np.zeros((9, 9))
    for t in range(9):
        for o in range(2 * H):
            leaf = tg.tensor(x.numpy()[:, None], requires_grad=True)
            (dx,) = tg.grad(model(leaf)[t, 0, o], [leaf])
            expected[t] += np.square(dx.numpy()[:, 0]).sum(-1)
    np.testing.assert_allclose(found, np.sqrt(expected), rtol=1e-9)


def test_integers_through_an_embedding():
    class Reads(tg.nn.Module):
        def __init__(self):
            self.table, self.rnn = tg.nn.Embedding(5, I, dtype=np.float64), tg.nn.LSTM(I, H, dtype=np.float64)

        def forward(self, x):
            return self.rnn(self.table(x))

    model, letters = Reads(), np.array([0, 3, 1, 4])
    found = tg.study.connectivity(model, letters)
    expected = tg.study.connectivity(model.rnn, model.table.weight.numpy()[letters])
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12)
    assert "forward" not in vars(model.table)
    assert found.text("abcd", 2).values.tolist() == found.values[2].tolist()
    with pytest.raises(RuntimeError, match="integers went through 0 calls of an Embedding"):
        tg.study.connectivity(LooksUp(), letters)


class LooksUp(tg.nn.Module):
    def __init__(self):
        self.weight = tg.nn.Parameter(tg.ones(5, 2))

    def forward(self, x):
        return self.weight[x]


def test_what_has_no_connectivity():
    with pytest.raises(TypeError, match="expected a Module, got function"):
        tg.study.connectivity(lambda x: x, drawn(T, I))
    with pytest.raises(ValueError, match=r"one sequence, .* got \[7, 2, 3\]"):
        tg.study.connectivity(Model(), drawn(T, B, I))

    class Last(Model):
        def forward(self, x):
            return super().forward(x)[-1]

    with pytest.raises(ValueError, match=r"expected an output of shape \[7, 1, O\]"):
        tg.study.connectivity(Last(), drawn(T, I))

    class Mixes(Model):
        def forward(self, x):
            return super().forward(x) * x.shape[1]

    with pytest.raises(ValueError, match="changes with others beside it in the batch"):
        tg.study.connectivity(Mixes(), drawn(T, I))


# ---- fixed_points ----------------------------------------------------------------------------------------------------


class Rolled(tg.nn.Cell):
    """h' = tanh(h W), each row of W turned by one: its fixed points are known."""

    def __init__(self, n):
        self.input_size, self.hidden_size = 1, n
        line = np.linspace(-1, 1, n)
        self.W = tg.nn.Parameter(np.stack([-np.roll(line, -i) for i in range(n)]).astype(np.float32))

    def step(self, x, h):
        return tg.tanh(h @ self.W)


@pytest.mark.parametrize("n, count", [(2, 3), (3, 3), (4, 9)])
def test_fixed_points_of_a_rolled_matrix(n, count):
    starts = np.random.default_rng(0).uniform(-1, 1, (300, n))
    found = tg.study.fixed_points(tg.nn.Recurrent(Rolled(n)), starts=starts)
    assert found.values.shape == found.eigenvalues.shape == (count, n) and found.jacobians.shape == (count, n, n)
    W = Rolled(n).W.numpy().astype(np.float64)
    np.testing.assert_allclose(np.tanh(found.values @ W), found.values, atol=1e-12)
    assert found.speed.max() < 1e-12
    for h, J, eigenvalues in zip(found.values, found.jacobians, found.eigenvalues):
        np.testing.assert_allclose(J, (W * (1 - h**2)).T, atol=1e-12)
        np.testing.assert_allclose(np.abs(eigenvalues), np.sort(np.abs(np.linalg.eigvals(J)))[::-1], atol=1e-9)
    if n == 2:
        np.testing.assert_allclose(found.values[:2], [[-0.957504, 0.957504], [0.957504, -0.957504]], atol=5e-7)
        np.testing.assert_allclose(found.eigenvalues[:2, 0], 0.1664, atol=5e-5)
        assert found.stable.tolist() == [True, True, False]


def test_fixed_points_of_a_recording_on_its_trajectory():
    cell = tg.nn.GRUCell(2, 3)
    r = recorded(cell, x=tg.zeros(60, 4, 2), hx=drawn(4, 3).float())
    path = tg.study.trajectory(r)
    found = tg.study.fixed_points(cell, starts=r, trajectory=path)
    assert found.stable.any()
    rest = r["h"].numpy()[-1]
    assert np.abs(found.values[found.stable][:, None] - rest).max(-1).min(0).max() < 1e-3, "where the sequences end"
    found.png()
    with pytest.raises(ValueError, match="starts is a recording of another cell"):
        tg.study.fixed_points(tg.nn.GRUCell(2, 3), starts=r)


def test_all_states_count():
    cell = tg.nn.LSTMCell(2, 3, **F64)
    x = np.array([0.5, -1])
    found = tg.study.fixed_points(cell, x, drawn(20, 6).numpy())
    assert len(found.values) >= 1 and found.values.shape[1] == 6
    for point in found.values:
        h, c = cell(tg.tensor(x), (tg.tensor(point[:3]), tg.tensor(point[3:])))
        np.testing.assert_allclose(np.concatenate([h.numpy(), c.numpy()]), point, atol=1e-9)


def test_many_points_that_are_all_others_are_told_apart_in_no_time():
    """Every state of a line stands still: each start is a point of its own, but for those that are the same."""
    rows = np.random.default_rng(0).standard_normal((600, 2))
    near = np.concatenate([rows, rows[:50] + 1e-7])
    once = points._once(near, np.arange(650.0))
    assert once == list(range(600))
    assert points._once(np.zeros((0, 2)), np.zeros(0)) == [] and points._once(np.zeros((2, 0)), np.zeros(2)) == [0]


def test_slow_points():
    """Where no step stands still, but one is short: h' - h = h^2 + 0.001."""

    class Ghost(tg.nn.Cell):
        input_size = hidden_size = 1

        def step(self, x, h):
            return h + h * h + 0.001

    starts = np.linspace(-0.5, 0.5, 5)[:, None]
    none = tg.study.fixed_points(Ghost(), starts=starts)
    assert none.values.shape == none.eigenvalues.shape == (0, 1)
    none.png()
    slow = tg.study.fixed_points(Ghost(), starts=starts, slow=0.0011)
    np.testing.assert_allclose(slow.values, [[0]], atol=1e-4)
    np.testing.assert_allclose(slow.speed, [0.001], rtol=1e-4)


def test_what_has_no_fixed_points():
    with pytest.raises(ValueError, match=r"give starts, an array \[N, 3\]"):
        tg.study.fixed_points(tg.nn.GRUCell(2, 3))
    with pytest.raises(ValueError, match=r"starts must be \[N, 3\], .*, not \[4, 2\]"):
        tg.study.fixed_points(tg.nn.GRUCell(2, 3), starts=np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"x must be one input, \[2\], not \[3\]"):
        tg.study.fixed_points(tg.nn.GRUCell(2, 3), np.zeros(3), np.zeros((4, 3)))
    with pytest.raises(TypeError, match="there is no recurrent layer in Linear"):
        tg.study.fixed_points(tg.nn.Linear(2, 3), starts=np.zeros((4, 3)))
    with pytest.raises(TypeError, match="GRU has 2 recurrent layers: give the cell of one"):
        tg.study.fixed_points(tg.nn.GRU(2, 3, num_layers=2), starts=np.zeros((4, 3)))


# ---- horizon ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"lengths": [7, 3]}], ids=str)
def test_what_each_loss_sends_sums_to_the_gradient(engine, options):
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(I, H, **F64), fused=engine)
    with tg.record(layer) as r:
        y, _ = layer(drawn(T, B, I), **options)
    losses = [(y[t] * drawn(B, H, seed=t)).square().sum() for t in range(T)]
    found = {name: tg.study.horizon(losses, r, name) for name in "hc"}
    with pytest.raises(RuntimeError, match="no gradient has reached"):
        r.grad["h"]
    assert all(p.grad is None for p in layer.parameters())
    sum(losses).backward()
    for name, each in found.items():
        assert each.values.shape == (T, T) and each.gradients.shape == (T, T, B, H)
        np.testing.assert_allclose(each.gradients.sum(1), r.grad[name].numpy(), rtol=0, atol=1e-12)
        assert (each.values[np.tril_indices(T, -1)] == 0).all() and (np.diag(each.values) > 0).all()
        np.testing.assert_allclose(each.values, np.linalg.norm(each.gradients, axis=(2, 3)), rtol=1e-12)
        each.png()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_horizon_of_a_single_step(engine):
    layer = tg.nn.Recurrent(tg.nn.GRUCell(I, H, **F64), fused=engine)
    with tg.record(layer) as r:
        y, _ = layer(drawn(1, B, I))
    found = tg.study.horizon([y.square().sum()], r)
    np.testing.assert_allclose(found.gradients[0], 2 * y.numpy(), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_horizon_after_a_backward_pass_that_keeps_the_graph(engine):
    layer = tg.nn.Recurrent(tg.nn.GRUCell(I, H, **F64), fused=engine)
    with tg.record(layer) as r:
        y, _ = layer(drawn(T, B, I))
    losses = y.square().sum((1, 2))
    losses.sum().backward(retain_graph=True)
    before = r.grad["h"].numpy()
    np.testing.assert_allclose(tg.study.horizon(losses, r).gradients.sum(1), before, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(r.grad["h"].numpy(), before)


def test_what_has_no_horizon():
    layer = tg.nn.GRU(I, H)
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(T, B, I))
    with pytest.raises(ValueError, match="GRUCell has no state 'z'; it has h"):
        tg.study.horizon([y.sum()], r, "z")
    with pytest.raises(ValueError, match=r"one has shape \[7\]"):
        tg.study.horizon([y.sum((1, 2))], r)
    with pytest.raises(ValueError, match="there are no losses"):
        tg.study.horizon([], r)
    with pytest.raises(TypeError, match="must be tensors, not float"):
        tg.study.horizon([1.0], r)
    for engine in ENGINES:
        layer.fused = engine
        with tg.no_grad(), tg.record(layer) as r:
            layer(tg.ones(T, B, I))
        with pytest.raises(RuntimeError, match="was recorded without gradients"):
            tg.study.horizon([y.sum()], r)


# ---- ablate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tg.nn.GRU, tg.nn.LSTM])
def test_a_unit_with_no_outgoing_weights_changes_nothing(kind):
    model = Model(kind)
    model.rnn.weight_hh_l0.numpy()[:, 1] = 0
    model.head.weight.numpy()[:, 1] = 0
    found = tg.study.ablate(model, drawn(T, B, I), 1, b=1)
    np.testing.assert_array_equal(found.values, np.zeros(T))
    np.testing.assert_array_equal(found.change, np.zeros((T, B, 2)))
    other = tg.study.ablate(model, drawn(T, B, I), 2)
    assert (other.values > 0).all() and model.training and model.rnn.fused == "auto"
    assert type(model.rnn.cells[0]).__name__ == kind.__name__ + "Cell"
    np.testing.assert_allclose(other.before, model.eval()(drawn(T, B, I)).numpy(), rtol=1e-12)


def test_a_gate_that_is_held():
    """An LSTM whose forget gate is shut remembers nothing; one that is held at a value is the cell with that value."""
    model, x = tg.nn.LSTM(I, H, **F64), drawn(T, B, I)
    found = tg.study.ablate(model, x, name="f")
    with tg.record(model) as r:
        model(x)
    i, g, o = (r[name].numpy()[0] for name in "igo")
    np.testing.assert_allclose(found.after[0], o * np.tanh(i * g), rtol=1e-12)
    assert found.values[0] == pytest.approx(0, abs=1e-15) and (found.values[1:] > 0).all(), "h0 and c0 are zero"
    state = [np.zeros((B, H)), np.zeros((B, H))]
    half = tg.study.ablate(model, x, [0, 2], name="f", value=0.25)
    cell = model.cells[0]
    for t in range(T):
        a = x.numpy()[t] @ cell.weight_ih.numpy().T + cell.bias_ih.numpy() + cell.bias_hh.numpy()
        a = a + state[0] @ cell.weight_hh.numpy().T
        i, f, g, o = np.split(a, 4, -1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        f[:, [0, 2]] = 0.25
        state[1] = f * state[1] + i * np.tanh(g)
        state[0] = o * np.tanh(state[1])
        np.testing.assert_allclose(half.after[t], state[0], rtol=1e-11)


def test_a_unit_of_another_layer_with_lengths():
    model = tg.nn.GRU(I, H, num_layers=2, **F64)
    found = tg.study.ablate(model, drawn(T, B, I), 0, layer=1, lengths=[7, 3], b=1)
    assert (found.after[..., 0] == 0).all() and found.values.shape == (T,) and not found.values[3:].any()
    assert "h[0] is held at 0" in found.sentence
    assert found.text("abcdefg").values.tolist() == found.values.tolist()


def test_what_cannot_be_held():
    model, x = tg.nn.GRU(I, H), tg.ones(T, B, I)
    with pytest.raises(ValueError, match=r"step has no value 'zz'; it has h, .*z"):
        tg.study.ablate(model, x, name="zz")
    with pytest.raises(ValueError, match="unit 4 of h: it has 4, from 0 to 3"):
        tg.study.ablate(model, x, 4)
    with pytest.raises(ValueError, match="layer=1: the model has 1, from 0 to 0"):
        tg.study.ablate(model, x, 0, layer=1)
    with pytest.raises(TypeError, match="there is no recurrent layer in Linear"):
        tg.study.ablate(tg.nn.Linear(2, 2), x, 0)
    with pytest.raises(ValueError, match="b=2 is no sequence of the output"):
        tg.study.ablate(model, x, 0, b=2)
    assert model.fused == "auto" and type(model.cells[0]) is tg.nn.GRUCell

    class Looks(tg.nn.RNNCell):
        def step(self, x, h):
            a = tg.tanh(x @ self.weight_ih.T)
            return a + float(self.weight_ih.numpy().sum()) if a.numpy().sum() > 1e9 else a

    with pytest.raises(ValueError, match="a is no state of Looks, and values within its step can be held only where"):
        tg.study.ablate(tg.nn.Recurrent(Looks(I, H)), x, name="a")


# ---- colored_text ----------------------------------------------------------------------------------------------------


def test_numbers_come_back_from_the_page():
    numbers = np.random.default_rng(0).standard_normal(6)
    page = tg.study.colored_text("ab<&\"'", numbers)._repr_html_()
    assert [float(x) for x in re.findall('title="([^"]+)"', page)] == numbers.tolist()
    shown = [html.unescape(x) for x in re.findall("<span[^>]*>(.*?)</span>", page)]
    assert shown == list("ab<&\"'") and "<&" not in page and "script" not in page


def test_a_terminal_gets_colours_and_the_text():
    found = tg.study.colored_text("a\nb\x1b[2J", [0, 0.5, 1, np.nan, 0, 0, 0])
    plain = re.sub("\x1b\\[[0-9;]*m", "", str(found))
    assert plain == "a \n b␛[2J", "nothing that moves a cursor"
    assert "48;2;0;34;78;38;5;15" in str(found) and "48;2;254;232;56;38;5;16" in str(found)
    assert (found.colours()[3] == 200).all()


def test_colours_are_the_lighter_the_greater():
    grey = tg.study.colored_text("x" * 101, np.linspace(-3, 3, 101)).colours() @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0).all()
    scale = lambda values, **ends: tg.study.colored_text("xx", values, **ends).scale
    assert scale([0.2, 0.4]) == (0, 1) and scale([-1, 3]) == (-3, 3) and scale([0, 5]) == (0, 5)
    assert scale([0, 5], low=-1, high=2) == (-1, 2) and scale([0, 0]) == (0, 1)


@pytest.mark.parametrize("n", [5, pytest.param(64 * 24, marks=pytest.mark.slow)])
def test_lines_of_a_picture_have_room_for_their_letters(n):
    from matplotlib import pyplot

    ax = tg.study.colored_text("x" * n, np.linspace(0, 1, n)).plot()
    ax.figure.canvas.draw()
    height = ax.bbox.height / -(-n // 64)
    assert 0.9 < height / max(ax.texts[0].get_window_extent().height, ax.texts[0].get_fontsize()) < 3
    pyplot.close("all")


def test_a_long_text_is_cut_in_the_page():
    found = tg.study.colored_text("x" * 50_000, np.zeros(50_000))
    page = found._repr_html_()
    assert page.count("<span") == 20_000 and "and 30000 more" in page
    found.png()
    tg.study.colored_text("", []).png()
    tg.study.colored_text(["$x$", "ab\n"], [0, 1]).png()


def test_what_is_no_text():
    with pytest.raises(ValueError, match=r"a number for each of 3 characters, got \[2\]"):
        tg.study.colored_text("abc", [1, 2])
    with pytest.raises(TypeError, match="chars must be a string"):
        tg.study.colored_text([1, 2], [1, 2])
    with pytest.raises(ValueError, match=r"low=3\.0 must be below high=1\.0"):
        tg.study.colored_text("ab", [0, 1], low=3)
