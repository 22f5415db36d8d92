"""heatmap, gradient_flow, saturation, timescales and trajectory against numbers that are known."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from study.studying import ENGINES, F64, Linear, drawn, filled, recorded

# ---- heatmap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forget_gate_of_bias_one(engine):
    cell = filled(tg.nn.LSTMCell(2, 3, **F64))
    cell.bias_ih.numpy()[3:6] = 1
    found = tg.study.heatmap(recorded(cell, engine), "f")
    assert found.values.shape == (3, 6)
    np.testing.assert_allclose(found.values, 0.7310585786300049, rtol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
def test_rows_are_units_and_columns_steps(engine, reverse):
    r = recorded(tg.nn.GRUCell(2, 3, **F64), engine, loss=lambda y, h: h.sum(), lengths=[6, 4, 0], reverse=reverse)
    found, gradient = tg.study.heatmap(r, "z", b=1), tg.study.heatmap(r, "dz", b=1)
    np.testing.assert_array_equal(found.values[:, :4], r["z"].numpy()[:4, 1].T)
    np.testing.assert_array_equal(gradient.values[:, :4], r.grad["z"].numpy()[:4, 1].T)
    assert np.isnan(found.values[:, 4:]).all() and "hatched where" in found.sentence
    assert found.title == "z" and gradient.title == "dL/dz"
    np.testing.assert_array_equal(found.units, [0, 1, 2])


def test_a_value_whose_name_begins_with_d_is_itself():
    class Named(tg.nn.Cell):
        input_size = hidden_size = 2

        def step(self, x, h):
            dh = 2 * x
            return 0.5 * h + dh

    x = drawn(4, 1, 2).float()
    x.requires_grad_()
    r = recorded(Named(), x=x, loss=lambda y, h: h.sum())
    np.testing.assert_array_equal(tg.study.heatmap(r, "dh").values, 2 * x.numpy()[:, 0].T)
    gradient = tg.study.heatmap(r, "d_h")
    assert gradient.title == "dL/dh"
    np.testing.assert_array_equal(gradient.values, [[0.125, 0.25, 0.5, 1]] * 2)


def test_units_in_order():
    courses = np.array([[0, 1, 0, 0], [5, 5, 5, 5], [2, 0, 0, 0], [0, 0, 0, -3.0]])  # [units, T]
    r = recorded(Linear(np.zeros((4, 4))), x=tg.tensor(courses.T[:, None]))
    order = lambda sort: tg.study.heatmap(r, "h", sort=sort).units.tolist()
    assert order(None) == [0, 1, 2, 3] and order("mean") == [1, 2, 0, 3] and order("peak") == [1, 2, 0, 3]
    assert order([3, 1]) == [3, 1]
    np.testing.assert_array_equal(tg.study.heatmap(r, "h", sort=[3, 1]).values, courses[[3, 1]])
    assert sorted(order("similar")) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="sort is 'size'; it may be 'mean', 'peak', 'similar'"):
        order("size")
    with pytest.raises(ValueError, match="no numbers of units, which go from 0 to 3"):
        order([4])


def test_units_that_are_alike_are_neighbours():
    t = np.linspace(0, 6, 40)
    courses = np.stack([np.sin(t), np.cos(t), 3 * np.sin(t), -np.sin(t), 2 * np.cos(t)])
    r = recorded(Linear(np.zeros((5, 5))), x=tg.tensor(courses.T[:, None]))
    place = np.argsort(tg.study.heatmap(r, "h", sort="similar").units)
    assert abs(place[0] - place[2]) in (1, 4) and abs(place[1] - place[4]) in (1, 4), "on a circle"


def test_states_of_a_higher_rank_are_laid_out_in_a_row():
    class Memory(tg.nn.Cell):
        input_size, hidden_size = 2, 2

        def initial_state(self, batch_size):
            return tg.zeros(batch_size, 2), tg.zeros(batch_size, 2, 3)

        def step(self, x, h, C):
            C = 0.5 * C + x.unsqueeze(-1)
            return h + C.sum(-1), C

    for engine in ENGINES:
        r = recorded(Memory(), engine, x=tg.ones(4, 2, 2, requires_grad=True), loss=lambda y, s: y.sum())
        assert tg.study.heatmap(r, "C").values.shape == tg.study.heatmap(r, "dC").values.shape == (6, 4)
        assert tg.study.gradient_flow(r).values["C"].shape == (4,)
        assert tg.study.jacobians(r).values.shape == (4, 8, 8)


def test_plot_of_a_recording():
    from matplotlib import pyplot

    r = recorded(tg.nn.LSTMCell(2, 3), loss=lambda y, s: y.sum())
    ax = pyplot.figure().subplots()
    assert r.plot("f", ax) is ax and r.plot("df", sort="mean").get_title() == "dL/df over time"
    pyplot.close("all")


# ---- gradient_flow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("u", [0.5, -0.9, 1.25])
def test_a_linear_cell(engine, u):
    r = recorded(Linear([[u]]), engine, T=20, B=1, loss=lambda y, h: h.sum())
    found = tg.study.gradient_flow(r, U=r.cell.U)
    expected = np.abs(u) ** np.arange(19, -1, -1.0)
    np.testing.assert_allclose(found.values["h"], expected, rtol=1e-14)
    np.testing.assert_allclose(found.bound, expected, rtol=1e-14)
    assert found.sigma == pytest.approx(abs(u), rel=1e-15)


@pytest.mark.parametrize("engine", ENGINES)
def test_min_gru(engine):
    """dL/dh[t] is the product of 1 - z after t."""
    r = recorded(tg.nn.cells.MinGRUCell(2, 3, **F64), engine, T=20, B=2, loss=lambda y, h: h.sum())
    kept = 1 - r["z"].numpy()
    product = np.concatenate([np.cumprod(kept[:0:-1], 0)[::-1], np.ones((1, 2, 3))])
    for b in range(2):
        found = tg.study.gradient_flow(r, b=b).values["h"]
        np.testing.assert_allclose(found, np.linalg.norm(product[:, b], axis=-1), rtol=1e-14)
    np.testing.assert_allclose(tg.study.gradient_flow(r).values["h"], np.linalg.norm(product, axis=(1, 2)), rtol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_lstm_without_recurrent_weights(engine):
    """dL/dc[t] is the product of f after t."""
    cell = tg.nn.LSTMCell(2, 3, **F64)
    cell.weight_hh.numpy()[...] = 0
    r = recorded(cell, engine, T=20, loss=lambda y, state: state[1].sum())
    product = np.concatenate([np.cumprod(r["f"].numpy()[:0:-1], 0)[::-1], np.ones((1, 3, 3))])
    found = tg.study.gradient_flow(r)
    np.testing.assert_allclose(found.values["c"], np.linalg.norm(product, axis=(1, 2)), rtol=1e-14)
    assert found.bound is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_bound_of_a_simple_net(engine, reverse):
    """With a loss at the end it is sigma^k; with one at every step, what arrives there joins. It holds always."""
    cell = tg.nn.RNNCell(2, 4, **F64)
    cell.weight_hh.numpy()[...] *= 1.5
    at_end = tg.study.gradient_flow(recorded(cell, engine, loss=lambda y, h: h.square().sum(), reverse=reverse))
    sigma = np.linalg.norm(cell.weight_hh.numpy(), 2)
    powers = sigma ** np.arange(6.0) * at_end.values["h"][0 if reverse else -1]
    np.testing.assert_allclose(at_end.bound, powers if reverse else powers[::-1], rtol=1e-12)
    r = recorded(cell, engine, loss=lambda y, h: y.square().sum(), reverse=reverse, lengths=[6, 3, 1])
    everywhere = tg.study.gradient_flow(r)
    outside = 2 * np.linalg.norm(r["h"].numpy().reshape(6, -1), axis=1)
    bound = np.zeros(7)
    for k, t in enumerate(range(6) if reverse else range(6)[::-1]):
        bound[k + 1] = outside[t] + sigma * bound[k]
    np.testing.assert_allclose(everywhere.bound, bound[1:] if reverse else bound[:0:-1], rtol=1e-12)
    for found in (at_end, everywhere, tg.study.gradient_flow(r, b=1)):
        some = ~np.isnan(found.values["h"])
        assert (found.values["h"][some] <= found.bound[some] * (1 + 1e-12)).all()
    np.testing.assert_array_equal(np.isnan(tg.study.gradient_flow(r, b=1).values["h"]), np.arange(6) >= 3)


def test_small_gradients_do_not_underflow():
    r = recorded(Linear([[1e-20]]), T=12, B=1, loss=lambda y, h: h.sum())
    np.testing.assert_allclose(tg.study.gradient_flow(r).values["h"], 1e-20 ** np.arange(11, -1, -1.0), rtol=1e-13)


def test_a_flow_that_cannot_be_told():
    with pytest.raises(RuntimeError, match=r"gradient_flow: no gradient has reached .* call backward"):
        tg.study.gradient_flow(recorded(tg.nn.LSTMCell(2, 3)))
    r = recorded(tg.nn.GRUCell(2, 3), loss=lambda y, h: y.sum())
    with pytest.raises(ValueError, match=r"U must be \[3, 3\], of a cell with one state; it is \[2, 2\]"):
        tg.study.gradient_flow(r, U=np.eye(2))
    assert tg.study.gradient_flow(r).bound is None
    r = recorded(tg.nn.RNNCell(2, 3), loss=lambda y, h: y.sum())
    before = tg.study.gradient_flow(r).values["h"]
    r.cell.weight_hh.numpy()[...] = 0  # a training loop that looks after its update
    after = tg.study.gradient_flow(r)
    assert after.bound is None and "not known any more" in after.sentence and before.shape == after.values["h"].shape


# ---- saturation ------------------------------------------------------------------------------------------------------


class Gate(tg.nn.Cell):
    """A sigmoid and a tanh of the input."""

    input_size = hidden_size = 3

    def step(self, x, h):
        f = tg.sigmoid(x)
        n = tg.tanh(x)
        return f * h + (1 - f) * n


@pytest.mark.parametrize("engine", ENGINES)
def test_gates_of_normal_preactivations(engine):
    """Quantiles of a normal distribution: as many of N are above a threshold as its distribution says, to one."""
    from statistics import NormalDist

    N, means, scales = 400, [0.0, 2.0, -1.0], [3.0, 1.0, 2.0]
    q = [NormalDist().inv_cdf((k + 0.5) / N) for k in range(N)]
    x = np.array(means) + np.array(q)[:, None] * np.array(scales)
    order = np.random.default_rng(0).permutation(N)
    start = tg.zeros(1, 3, dtype=np.float64)
    found = tg.study.saturation(recorded(Gate(), engine, x=tg.tensor(x[order, None]), hx=start), "f")
    assert found.values.shape == (3, 2) and (found.values.sum(1) <= 1).all() and (found.values >= 0).all()
    for (low, high), m, s in zip(found.values, means, scales):
        assert high == pytest.approx(1 - NormalDist().cdf((math.log(9) - m) / s), abs=1 / N)
        assert low == pytest.approx(NormalDist().cdf((-math.log(9) - m) / s), abs=1 / N)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_thresholds_are_those_of_what_made_the_value(engine):
    """A tanh that happens to be positive is none of a gate's values."""
    x = np.array([[0.05, 3.0, 1.9], [0.05, 3.0, 1.9], [3.0, 3.0, 2.5]])[:, None]
    r = recorded(Gate(), engine, x=tg.tensor(x), hx=tg.zeros(1, 3, dtype=np.float64))
    n, f = tg.study.saturation(r, "n"), tg.study.saturation(r, "f")
    assert (n.low, n.high) == (-0.97, 0.97) and (f.low, f.high) == (0.1, 0.9)
    np.testing.assert_allclose(n.values, [[0, 1 / 3], [0, 1], [0, 1 / 3]])
    np.testing.assert_allclose(f.values, [[0, 1 / 3], [0, 1], [0, 1 / 3]])
    np.testing.assert_allclose(tg.study.saturation(r, "n", low=0.5, high=0.96).values[0], [2 / 3, 1 / 3])
    both = tg.study.saturation(r, "n", low=0.5, high=0.9).values
    np.testing.assert_array_equal(tg.study.saturation(r, "n", low=0.5).values[:, 0], both[:, 0])
    np.testing.assert_array_equal(tg.study.saturation(r, "n", high=0.9).values[:, 1], both[:, 1])
    with pytest.raises(ValueError, match="low=2 must be below high=1"):
        tg.study.saturation(r, "n", low=2, high=1)


def test_what_is_no_gate_needs_thresholds():
    r = recorded(Linear([[1.0]]), T=30)
    with pytest.raises(ValueError, match=r"h goes from .* so it is no gate: give low= and high="):
        tg.study.saturation(r, "h")
    assert tg.study.saturation(r, "h", low=-1, high=1).values.shape == (1, 2)


def test_padding_is_no_time():
    cell = filled(tg.nn.LSTMCell(2, 3, **F64), bias_ih=5.0)
    found = tg.study.saturation(recorded(cell, lengths=[6, 2, 0]), "f")
    np.testing.assert_array_equal(found.values, [[0, 1]] * 3)
    np.testing.assert_allclose(tg.study.timescales(recorded(cell, lengths=[6, 2, 0]), "f").keep, 1 / (1 + math.exp(-5)))
    with pytest.raises(ValueError, match="all sequences of the recording are empty"):
        tg.study.saturation(recorded(cell, lengths=[0, 0, 0]), "f")


# ---- timescales ------------------------------------------------------------------------------------------------------


class Keeps(tg.nn.Cell):
    """A gate that the input says."""

    input_size = hidden_size = 3

    def step(self, x, h):
        f = 1 * x
        return f * h


def kept(*rows):
    x = np.array(rows, np.float64)[:, None]
    return recorded(Keeps(), x=tg.tensor(x), hx=tg.ones(1, 3, dtype=np.float64))


def test_a_gate_of_nine_tenths():
    found = tg.study.timescales(kept(*[[0.9, 0.5, 0.99]] * 5), "f")
    np.testing.assert_allclose(found.values, [9.49122158, 1.44269504, 99.49916247], rtol=1e-8)
    np.testing.assert_allclose(found.half_life, [6.57881348, 1, 68.96756394], rtol=1e-8)
    np.testing.assert_allclose(found.leak_time, [10, 2, 100], rtol=1e-12)
    other = tg.study.timescales(kept(*[[0.1, 0.5, 0.01]] * 5), "f", keeps=False)
    np.testing.assert_allclose(other.values, found.values, rtol=1e-12)
    assert "1 - f" in other.name


def test_what_is_left_is_a_product():
    """After T steps exp(-T / tau) of a memory is left, whatever the gates were one by one."""
    gates = np.random.default_rng(0).uniform(0.1, 1, (7, 3))
    r = kept(*gates)
    np.testing.assert_allclose(np.exp(-7 / tg.study.timescales(r, "f").values), r["h"].numpy()[-1, 0], rtol=1e-12)


def test_gates_at_their_ends():
    found = tg.study.timescales(kept([1, 0, 0.5], [1, 1, 0.5]), "f")
    np.testing.assert_array_equal(found.values[:2], [np.inf, 0])
    np.testing.assert_array_equal(found.half_life[:2], [np.inf, 0])
    found.png()
    with pytest.raises(ValueError, match=r"f goes from -0\.5 to 2, but a gate says"):
        tg.study.timescales(kept([1, -0.5, 2]), "f")


@pytest.mark.parametrize("engine", ENGINES)
def test_biases_for_a_time(engine):
    tau = np.array([2.0, 10.0, 300.0])
    for bias, name in ((np.log(tau - 1), "leak_time"), (-np.log(np.expm1(1 / tau)), "values")):
        cell = filled(tg.nn.LSTMCell(2, 3, **F64))
        cell.bias_ih.numpy()[3:6] = bias
        found = tg.study.timescales(recorded(cell, engine), "f")
        np.testing.assert_allclose(getattr(found, name), tau, rtol=1e-11)


# ---- trajectory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_states_in_a_plane(engine):
    random = np.random.default_rng(0)
    plane, path = random.standard_normal((2, 5)), random.standard_normal((9, 4, 2))
    r = recorded(Linear(np.zeros((5, 5))), engine, x=tg.tensor(path @ plane + 3), lengths=[9, 9, 4, 0])
    found = tg.study.trajectory(r, b=2)
    assert found.values.shape == (9, 2) and found.every.shape == (9, 4, 2) and found.components.shape == (2, 5)
    assert found.explained_variance.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(2), atol=1e-12)
    assert np.isnan(found.values[4:]).all() and not np.isnan(found.values[:4]).any()
    np.testing.assert_allclose(found.values[:4] @ found.components + found.mean, r["h"].numpy()[:4, 2], atol=1e-12)
    np.testing.assert_array_equal(found.values[:4], found.project(r["h"].numpy()[:4, 2]))
    runs = ~np.isnan(found.every[..., 0])
    np.testing.assert_allclose(found.every[runs].mean(0), 0, atol=1e-12)
    variance = found.every[runs].var(0)
    np.testing.assert_allclose(found.explained_variance, variance / variance.sum(), rtol=1e-10)
    assert variance[0] > variance[1]


def test_fewer_states_than_components():
    found = tg.study.trajectory(recorded(Linear(np.eye(4)), T=2, B=1), k=4)
    assert found.values.shape == (2, 4)
    np.testing.assert_allclose(found.explained_variance, [1, 0, 0, 0], atol=1e-12)
    still = tg.study.trajectory(recorded(Linear(np.eye(4)), x=tg.zeros(3, 1, 4, dtype=np.float64)))
    np.testing.assert_array_equal(still.values, np.zeros((3, 2)))
    still.png()


def test_a_trajectory_that_cannot_be_drawn():
    r = recorded(Linear(np.eye(2)))
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k} components of 2 units"):
            tg.study.trajectory(r, k=k)
    with pytest.raises(ValueError, match=r"one for each step, \[6\], not \[5\]"):
        tg.study.trajectory(r, labels=range(5))
    with pytest.raises(ValueError, match=r"project: expected \[..., 2\], got \[3\]"):
        tg.study.trajectory(r).project(np.zeros(3))
    x = drawn(6, 3, 2)
    x.numpy()[2] = np.inf
    with pytest.raises(ValueError, match="h has values that are not finite"):
        tg.study.trajectory(recorded(Linear(np.eye(2)), x=x))


def test_no_sequences():
    """What was recorded of an empty batch has nothing to look at, and says so."""
    layer = tg.nn.LSTM(3, 4)
    with tg.record(layer) as r:
        layer(tg.ones(5, 0, 3))
    for look in (tg.study.saturation, tg.study.timescales):
        with pytest.raises(ValueError, match="all sequences of the recording are empty"):
            look(r, "f")
    for look in (tg.study.heatmap, tg.study.trajectory):
        with pytest.raises(ValueError, match="the recording is of an empty batch"):
            look(r, "h")
    with pytest.raises(ValueError, match=r"starts must be \[N, 8\], .* not \[0, 8\]"):
        tg.study.fixed_points(layer, starts=r)
