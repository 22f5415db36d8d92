"""Recordings: the kernels' own arrays and what is computed from them, against the tape's tensors and gradients."""

import numpy as np
import pytest
from covering import every_cell

import tinygrad_rnn as tg
from fusion.comparing import given_to, interpret, parameter

T, B, I, H = 5, 4, 3, 4
F64 = {"dtype": np.float64}


class TwoPhases(tg.nn.Cell):
    """A product of a product, a reduction, a value of one column, one that is recomputed, one that nobody needs."""

    input_size, hidden_size = I, H

    def __init__(self):
        self.W, self.U, self.V, self.b = parameter(I, 2 * H), parameter(H, 2 * H), parameter(H, H), parameter(H)

    def step(self, x, h, c):
        a = x @ self.W + h @ self.U
        f, i = tg.chunk(tg.sigmoid(a), 2, -1)
        centred = i - i.mean(-1, keepdim=True)
        size = (centred * centred).sum(-1, keepdim=True)
        inner = tg.softmax((f * h) @ self.V + self.b, -1)
        idle = inner * 2  # noqa: F841
        c = f * c + (1 - f) * inner / (1 + size)
        return tg.tanh(c) + centred, c


class Parts(tg.nn.Cell):
    """Parts of a value that is used as a whole too, one that nobody needs, and parts of what is computed in pieces."""

    input_size, hidden_size = I, H

    def __init__(self):
        self.W, self.U, self.V = parameter(I, 3), parameter(H, 3), parameter(6, H)

    def step(self, x, h):
        a = x @ self.W + h @ self.U
        scaled = 0.5 * a
        first, idle = scaled[:, :1], scaled[:, 1:]  # noqa: F841
        squares = a.square()
        p, q = squares[:, :2], squares[:, 2:]
        whole = tg.cat([first, scaled, p * q], -1)
        return tg.tanh(whole @ self.V)


class Words(tg.nn.Cell):
    """Names that kernels have for things of their own, of states and of values; names that mean another thing later."""

    input_size, hidden_size = I, H

    def __init__(self):
        self.W, self.cells = parameter(I, H), [tg.nn.RNNCell(H, H, **F64) for _ in range(2)]

    def step(self, x, last, t, H_2):
        B = x @ self.W
        x = tg.tanh(B) * 0.5
        first = []
        for cell, h in zip(self.cells, (last, t)):
            (h,) = cell.advance(x, (h,))
            x = x + h
            first.append(h)
        new = 0.9 * H_2 + x
        return (*first, tg.sin(new))


class Tires(tg.nn.Cell):
    """A state of which the first value is made of nothing but initial states, and which the step itself reads."""

    input_size, hidden_size = I, H

    def __init__(self):
        self.W, self.U = parameter(I, H), parameter(H, H)

    def step(self, x, h, b):
        b = 0.9 * b + 0.1 * h
        a = x @ self.W + h @ self.U
        f, n = tg.sigmoid(a - b), tg.tanh(a)
        return f * n, b


CELLS = {
    "parts": Parts,
    "words": Words,
    "tires": Tires,
    "LSTM": lambda: tg.nn.LSTMCell(I, H, **F64),
    "GRU": lambda: tg.nn.GRUCell(I, H, **F64),
    "two phases": TwoPhases,
    "zoneout": lambda: tg.nn.Zoneout(tg.nn.LSTMCell(I, H, **F64), 0.3),
    "layer norm": lambda: tg.nn.cells.LayerNormLSTMCell(I, H, **F64),
}


@pytest.fixture(autouse=True)
def seeded():
    tg.manual_seed(0)


def record(cell, engine, reverse, **options):
    """A recording after the backward pass, and the results."""
    tg.manual_seed(2)
    layer = tg.nn.Recurrent(cell, reverse, fused=engine)
    x = tg.tensor(np.random.default_rng(0).standard_normal((T, B, I)), requires_grad=True)
    weights = np.random.default_rng(1)
    with tg.record(layer) as r:
        y, final, *_ = layer(x, **options)
    finals = final if isinstance(final, tuple) else (final,)
    sum((v * weights.standard_normal(v.shape)).sum() for v in (y, *finals)).backward()
    return r, [y.numpy(), x.grad.numpy()]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", [{}, {"lengths": [5, 0, 2, 4]}, {"return_states": True}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_both_engines_tell_the_same(name, options, reverse, monkeypatch):
    interpret(monkeypatch)
    cell = CELLS[name]()
    tape, on_tape = record(cell, "never", reverse, **options)
    fused, by_kernels = record(cell, "require", reverse, **options)
    for a, b in zip(by_kernels, on_tape):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    shared = set(tape.names) & set(fused.names)
    assert {*cell.state_names} <= shared and len(shared) >= len(cell.state_names) + 2
    reached = 0
    for value in shared:
        np.testing.assert_allclose(fused[value].numpy(), tape[value].numpy(), rtol=0, atol=1e-12, err_msg=value)
        try:
            expected = tape.grad[value].numpy()
        except RuntimeError:
            with pytest.raises(RuntimeError, match="no gradient has reached"):
                fused.grad[value]
            continue
        reached += 1
        np.testing.assert_allclose(fused.grad[value].numpy(), expected, rtol=0, atol=1e-12, err_msg=f"d{value}")
    assert reached >= len(cell.state_names) + 2


@pytest.mark.parametrize("engine", ["never", "require"])
def test_a_value_is_called_what_the_step_calls_it(engine, monkeypatch):
    """Whatever the kernels call it: their own words are B, t, last, first, new, H_2 and others."""
    interpret(monkeypatch)
    cell = Words()
    r, _ = record(cell, engine, False)
    assert {"last", "t", "H_2", "B", "x", "h", "a", "new"} <= {*r.names}
    x, B, last, t = (r[name].numpy() for name in ("x", "B", "last", "t"))
    np.testing.assert_allclose(B, r.sequence.inputs[0].numpy() @ cell.W.numpy(), atol=1e-12)
    np.testing.assert_allclose(x, np.tanh(B) * 0.5, atol=1e-12)  # of the innermost step that returns first
    np.testing.assert_allclose(r["h"].numpy(), t, atol=1e-12)  # the last one, at the first step too
    np.testing.assert_array_equal(r.of_first_state()[0], last.reshape(-1, H))
    assert {"last", "t", "H_2"} == {*tg.study.gradient_flow(r).values}


def test_units_of_such_a_value_are_held():
    layer, x = tg.nn.Recurrent(Words()), tg.randn(T, B, I, dtype=np.float64)
    assert (tg.study.ablate(layer, x, name="B").values > 0).all()
    with pytest.raises(ValueError, match="has no value 'z'; it has last, t, H_2, B, x, "):
        tg.study.ablate(layer, x, name="z")


@pytest.mark.parametrize("make", every_cell(2))
def test_every_cell_of_the_library(make, monkeypatch):
    interpret(monkeypatch)
    cell = make(I, H).double()
    start = tuple(state.requires_grad_() for state in cell.begin(None, B))  # the tape has what is made of these, too
    options = dict(hx=start, lengths=[5, 0, 2, 4], **given_to(cell, B))
    tape, fused = (record(cell, engine, True, **options)[0] for engine in ("never", "require"))
    for value in {*cell.state_names, *tape.names} & {*fused.names}:
        scale = max(1.0, np.abs(tape[value].numpy()).max())
        np.testing.assert_allclose(fused[value].numpy(), tape[value].numpy(), rtol=0, atol=1e-12 * scale, err_msg=value)
        try:
            expected = tape.grad[value].numpy()
        except RuntimeError:
            continue
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(fused.grad[value].numpy(), expected, rtol=0, atol=1e-12 * scale, err_msg=value)


def test_the_gates_of_an_lstm():
    cell = tg.nn.LSTMCell(I, H, **F64)
    r, (y, _) = record(cell, "require", False)
    assert {"i", "f", "g", "o", "h", "c"} <= set(r.names)
    i, f, g, o, h, c = (r[name].numpy() for name in "ifgohc")
    np.testing.assert_array_equal(h, y)
    np.testing.assert_allclose(h, o * np.tanh(c), rtol=1e-12)
    np.testing.assert_allclose(c[1:], f[1:] * c[:-1] + i[1:] * g[1:], rtol=1e-12)
    dc, dh = r.grad["c"].numpy(), r.grad["h"].numpy()
    np.testing.assert_allclose(r.grad["f"].numpy()[1:], dc[1:] * c[:-1], rtol=1e-12)  # c = f * c + i * g
    np.testing.assert_allclose(r.grad["o"].numpy(), dh * np.tanh(c), rtol=1e-12)


def test_what_was_computed_stays_when_it_is_recorded():
    """The backward kernel writes gradients over gates, unless somebody looks at these."""
    r, _ = record(tg.nn.LSTMCell(I, H, **F64), "require", False)
    gates = r["i"].numpy()
    assert ((gates > 0) & (gates < 1)).all()
    r["i"].numpy()[...] = 0  # a copy
    assert r["i"].numpy().any()


def test_what_reaches_a_concatenation_that_is_taken_apart():
    """Kernels take slices of it from what it is made of, and nothing reaches its other columns."""

    class Both(tg.nn.RNNCell):
        def step(self, x, h):
            both = tg.cat([x, h], -1)
            return tg.tanh(both[:, 1:2] + h)

    cell = Both(I, H, **F64)
    (r, _), (tape, _) = record(cell, "require", False), record(cell, "never", False)
    assert r["both"].shape == (T, B, I + H)
    d = r.grad["both"].numpy()
    assert not d[:, :, 0].any() and not d[:, :, 2:].any()
    np.testing.assert_allclose(d, tape.grad["both"].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_recorded_stays_when_other_calls_follow(steps):
    """Calls lend each other memory; of one step no more gradients are kept than in a call that nobody records."""
    cell = tg.nn.LSTMCell(I, H, **F64)

    def gradients(engine):
        layer, random = tg.nn.Recurrent(cell, fused=engine), np.random.default_rng(0)
        train = lambda: layer(tg.tensor(random.standard_normal((steps, B, I))))
        with tg.record(layer) as r:
            y, (_, c) = train()
        (y.sum() + 3 * c.sum()).backward()
        for _ in range(3):
            train()[0].square().sum().backward()
        return [r.grad[name].numpy() for name in "ifgohc"]

    for a, b in zip(gradients("require"), gradients("never")):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["require", "never"])
def test_names_are_walked_over(engine):
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(3, 4), fused=engine)
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(5, 2, 3))
    y.sum().backward()
    assert list(r) == list(r.grad) == r.names and "c" in r and "c" in r.grad and "nothing" not in r.grad


def test_a_stack_has_a_recording_for_each_layer():
    layer = tg.nn.GRU(I, H, num_layers=2, bidirectional=True)
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(T, B, I))
    assert len(r) == 4
    np.testing.assert_array_equal(np.concatenate([r[2]["h"].numpy(), r[3]["h"].numpy()], -1), y.numpy())
    with tg.record(tg.nn.Sequential(tg.nn.Recurrent(tg.nn.RNNCell(I, H)))) as one:
        pass
    assert "not called" in repr(one)


def test_without_gradients_values_are_there():
    layer = tg.nn.LSTM(I, H)
    with tg.no_grad(), tg.record(layer) as r:
        y, _ = layer(tg.ones(T, B, I))
    np.testing.assert_array_equal(r["h"].numpy(), y.numpy())
    assert r["c"].shape == r["f"].shape == (T, B, H)
    with pytest.raises(RuntimeError, match="no gradient has reached 'f' of LSTMCell: call backward"):
        r.grad["f"]


def test_recording_ends_with_the_block():
    layer = tg.nn.LSTM(I, H)
    with tg.record(layer) as r:
        layer(tg.ones(T, B, I))
    first = r["h"].numpy()
    layer(tg.zeros(T, B, I))
    np.testing.assert_array_equal(r["h"].numpy(), first)


@pytest.mark.parametrize("engine", ["never", "require"])
@pytest.mark.parametrize("kind", [tg.nn.LSTMCell, tg.nn.GRUCell])
def test_what_was_recorded_stays_when_parameters_and_inputs_change(kind, engine):
    """An optimiser, or who fills an array again, writes to them before anybody looks."""

    def look(early):
        tg.manual_seed(0)
        layer = tg.nn.Recurrent(kind(I, H, **F64), fused=engine)
        x = tg.randn(T, B, I, dtype=np.float64)
        with tg.record(layer) as r:
            y, _ = layer(x)
        y.square().sum().backward()
        if not early:
            tg.optim.SGD(layer.parameters(), lr=1.0).step()
            x.numpy()[...] = 0
        return {name: (r[name].numpy(), r.grad[name].numpy()) for name in r.names if name != "a"}

    early, late = look(True), look(False)
    assert early.keys() == late.keys()
    for name in early:
        np.testing.assert_array_equal(late[name], early[name], err_msg=name)


def test_errors():
    layer = tg.nn.LSTM(I, H)
    with tg.record(layer) as r:
        with pytest.raises(RuntimeError, match="LSTMCell was not called"):
            r["h"]
        layer(tg.ones(T, B, I))
    with pytest.raises(KeyError, match=r"no value 'z'; it has .*f, "):
        r["z"]
    with pytest.raises(TypeError, match="no recurrent layer in Linear"):
        tg.record(tg.nn.Linear(2, 2))


@pytest.mark.parametrize("inner", [(), (2, 2)], ids=["a number", "a matrix"])
def test_noise_of_any_rank(inner, monkeypatch):
    """In what is computed before the loop, in recordings, and where gradients are differentiated again."""
    interpret(monkeypatch)

    class Noisy(tg.nn.Cell):
        hidden_size = 4

        def __init__(self):
            self.W = parameter(1 if inner == () else 4, 4)

        def step(self, x, h):
            seen = x.sum(-1) if inner == () else x[:, :2, None] * x[:, None, :2]
            noisy = seen + tg.rand(x.shape[0], *inner, dtype=x.dtype)
            return tg.tanh(noisy.reshape(x.shape[0], -1) @ self.W + h * tg.rand_like(h))

    cell, found = Noisy(), {}
    for engine in ("never", "require"):
        layer = tg.nn.Recurrent(cell, fused=engine)
        x = tg.tensor(np.random.default_rng(0).standard_normal((T, B, I)), requires_grad=True)
        tg.manual_seed(2)
        y, _ = layer(x, lengths=[5, 0, 2, 4])
        (dx,) = tg.grad(y.square().sum(), [x], create_graph=True)
        second = tg.grad(dx.square().sum(), [x, cell.W])
        tg.manual_seed(2)
        with tg.record(layer) as r:
            y, _ = layer(x, lengths=[5, 0, 2, 4])
        y.square().sum().backward()
        found[engine] = [y, r["noisy"], r.grad["noisy"], dx, *second]
    for a, b in zip(found["require"], found["never"]):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"lengths": [5, 0, 2, 4]}], ids=str)
def test_a_state_that_is_handed_on_as_it_is(options, monkeypatch):
    """It is another value after each step: what reached it came from later ones, and from outside."""
    interpret(monkeypatch)

    class Hands(tg.nn.Cell):
        hidden_size = 4

        def __init__(self):
            self.W = parameter(I, 4)

        def initial_state(self, batch_size):
            return tg.ones(batch_size, 4, dtype=np.float64), tg.zeros(batch_size, 4, dtype=np.float64)

        def step(self, x, h, c):
            return h, tg.tanh(x @ self.W + h * c)

    cell, found = Hands(), {}
    x = np.random.default_rng(0).standard_normal((T, B, I))
    for engine in ("never", "require"):
        layer = tg.nn.Recurrent(cell, fused=engine)
        start = tuple(s.requires_grad_(True) for s in cell.begin(None, B))
        with tg.record(layer) as r:
            y, (_, last) = layer(x, start, **options)
        (y.square().sum() + last.square().sum()).backward()
        found[engine] = [r["h"], r["c"], r.grad["h"], r.grad["c"]]
    for a, b in zip(found["require"], found["never"]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-12)
