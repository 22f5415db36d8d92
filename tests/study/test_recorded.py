"""What the pictures ask of a recording, and how they refuse what is none."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from study.studying import ENGINES, F64, Linear, drawn, recorded
from tinygrad_rnn.study.recorded import before, running, steps

FUNCTIONS = {
    "heatmap": lambda r: tg.study.heatmap(r, "h"),
    "gradient_flow": tg.study.gradient_flow,
    "saturation": lambda r: tg.study.saturation(r, "h"),
    "timescales": lambda r: tg.study.timescales(r, "h"),
    "trajectory": tg.study.trajectory,
    "jacobians": tg.study.jacobians,
    "lyapunov": tg.study.lyapunov,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_recording_of_one_layer(name):
    look = FUNCTIONS[name]
    with pytest.raises(TypeError, match=rf"{name}: expected a recording, .*, got LSTM"):
        look(tg.nn.LSTM(2, 2))
    model = tg.nn.LSTM(2, 2, num_layers=2)
    with tg.record(model) as r:
        pass
    with pytest.raises(TypeError, match=rf"{name}: there are 2 recurrent layers: .* r\[0\] to r\[1\]"):
        look(r)
    with pytest.raises(RuntimeError, match="LSTMCell was not called inside the block"):
        look(r[0])


@pytest.mark.parametrize("name", ["heatmap", "saturation", "timescales", "trajectory"])
def test_a_name_that_is_not_there(name):
    r = recorded(tg.nn.GRUCell(2, 3), T=2)
    with pytest.raises(KeyError, match=r"no value 'zz'; it has .*z, "):
        getattr(tg.study, name)(r, "zz")
    with pytest.raises(TypeError, match="asked for by its name, such as"):
        getattr(tg.study, name)(r, 3)
    with pytest.raises(RuntimeError, match="no gradient has reached 'h' of GRUCell: call backward"):
        getattr(tg.study, name)(r, "dh")


@pytest.mark.parametrize("look", [
    lambda r, b: tg.study.heatmap(r, "h", b=b), lambda r, b: tg.study.trajectory(r, b=b),
    lambda r, b: tg.study.jacobians(r, b=b), lambda r, b: tg.study.gradient_flow(r, b=b),
])  # fmt: skip
def test_a_sequence_that_is_not_there(look):
    r = recorded(tg.nn.RNNCell(2, 3), T=2, B=2, lengths=[2, 0], loss=lambda y, h: y.sum())
    for wrong in (2, -1, True, 0.5):
        with pytest.raises(ValueError, match="no sequence of the batch: there are 2, from 0 to 1"):
            look(r, wrong)
    with pytest.raises(ValueError, match="sequence 1 has no steps"):
        look(r, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 0, 2]])
def test_states_before_each_step(engine, reverse, lengths):
    """One step from there leads to the state after it, whatever the direction, the lengths and the initial states."""
    cell = tg.nn.LSTMCell(2, 3, **F64)
    r = recorded(cell, engine, hx=(drawn(3, 3, seed=1), drawn(3, 3, seed=2)), reverse=reverse, lengths=lengths)
    x, (h, c), runs = drawn(6, 3, 2).numpy(), before(r), running(r)
    for t, b in np.argwhere(runs):
        new = cell(x[None, t, b], (h[None, t, b], c[None, t, b]))
        for name, state in zip("hc", new):
            np.testing.assert_allclose(state.numpy()[0], r[name].numpy()[t, b], rtol=0, atol=1e-12)
    first = 5 if reverse else 0
    np.testing.assert_array_equal(h[first, 0], drawn(3, 3, seed=1).numpy()[0])
    assert not h[~runs].any() and not c[~runs].any()


def test_values_that_hold_for_the_sequence():
    class Speaks(tg.nn.Cell):
        input_size = hidden_size = 2

        def step(self, x, h, *, speaker):
            return 0.5 * h * speaker + x

    speaker = drawn(3, 2, seed=1)
    start = tg.zeros(3, 2, dtype=np.float64)
    for engine in ENGINES:
        r = recorded(Speaks(), engine, hx=start, speaker=speaker)
        for b in range(3):
            expected = np.broadcast_to(np.diag(0.5 * speaker.numpy()[b]), (6, 2, 2))
            np.testing.assert_allclose(tg.study.jacobians(r, b=b).values, expected, rtol=1e-14)


def test_a_cell_that_has_changed_since():
    cell = Linear([[0.5]])
    r = recorded(cell)
    with tg.no_grad():
        cell.U[...] = 0.6
    with pytest.raises(RuntimeError, match=r"jacobians: a step of Linear taken again leads elsewhere"):
        tg.study.jacobians(r)


def test_a_cell_that_draws():
    cell = tg.nn.Zoneout(tg.nn.RNNCell(2, 3), 0.5)
    with pytest.raises(RuntimeError, match=r"record with model.eval\(\)"):
        tg.study.jacobians(recorded(cell))
    cell.eval()
    assert tg.study.jacobians(recorded(cell)).values.shape == (6, 3, 3)


def test_a_recording_keeps_no_graph():
    """What a layer was run over is kept as numbers."""
    w = tg.ones(2, 2, requires_grad=True)
    r = recorded(tg.nn.RNNCell(2, 3), x=(tg.ones(4, 3, 2) @ w))
    assert all(x.node is None for x in (*r.sequence.inputs, *r.sequence.states))
    rows = running(r)
    assert steps("test", r, rows).width == 3
