"""Cells of elapsed time: their second input wherever a layer can be given one, and what is known in closed form."""

import numpy as np
import pytest
from fusion.comparing import interpret
from nn.cases import CASES, build, sigmoid
from nn.equations_elapsed import softplus

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells
from tinygrad_rnn.nn.regularised import CellWrapper
from tinygrad_rnn.testing import check_cell

F64 = {"dtype": np.float64}
NAMES = ["CfC", "CfC, pure", "LTC", "LSTM, phased"]
each = pytest.mark.parametrize("name", NAMES)
one = pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
T, B, I, H = 5, 3, 2, 4


def given(name, T=T, B=B):
    """A cell, its equations, x and elapsed."""
    random = np.random.default_rng(0)
    cell, equations, _ = build(name, I, H)
    return cell, equations, random.normal(0, 1, (T, B, I)), random.uniform(0.1, 3, (T, B, 1))


@each
def test_equations_with_time(name, monkeypatch):
    """Both engines, step by step; with lengths, from the end."""
    interpret(monkeypatch)
    cell, equations, x, elapsed = given(name)
    p, states = cell.state_dict(), [s.numpy() for s in cell.begin(None, B)]
    for engine in ("never", "require"):
        y, _ = Recurrent(cell, fused=engine)((x, elapsed))
        now = states
        for t in range(T):
            now = equations(p, x[t], *now, elapsed=elapsed[t])
            np.testing.assert_allclose(y.numpy()[t], now[0], rtol=0, atol=1e-12)
        y, _ = Recurrent(cell, True, engine)((x, elapsed), lengths=[5, 2, 0])
        now = [s[1:2] for s in states]
        for t in (1, 0):
            now = equations(p, x[t, 1:2], *now, elapsed=elapsed[t, 1:2])
            np.testing.assert_allclose(y.numpy()[t, 1:2], now[0], rtol=0, atol=1e-12)
        assert not y.numpy()[2:, 1].any() and not y.numpy()[:, 2].any()


@one
def test_gradients_by_time(name, monkeypatch):
    """Finite differences on the tape; kernels send the same."""
    interpret(monkeypatch)
    cell, _, x, elapsed = given(name, T=3, B=2)
    x, elapsed = tg.tensor(x, requires_grad=True), tg.tensor(elapsed, requires_grad=True)
    run = lambda engine: lambda x, elapsed, *rest: Recurrent(cell, fused=engine)((x, elapsed))[0]
    assert tg.gradcheck(run("never"), (x, elapsed, *cell.parameters()), atol=1e-7, rtol=1e-6)
    found = [
        [g.numpy() for g in tg.grad(run(engine)(x, elapsed).square().sum(), [x, elapsed, *cell.parameters()])]
        for engine in ("never", "require")
    ]
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))
    assert all(g.any() for g in found[0])


@one
def test_alone_each_step_takes_one(name, monkeypatch):
    interpret(monkeypatch)
    cell, _, x, _ = given(name)
    for engine in ("never", "require"):
        layer = Recurrent(cell, fused=engine)
        np.testing.assert_array_equal(layer(x)[0].numpy(), layer((x, np.ones((T, B, 1))))[0].numpy())


@each
def test_single_steps(name):
    """With a batch and without, from given states and the cell's own."""
    cell, equations, x, elapsed = given(name)
    states = [np.random.default_rng(3).uniform(-1, 1, s.shape) for s in cell.begin(None, B)]
    expected = equations(cell.state_dict(), x[0], *states, elapsed=elapsed[0])
    found = cell((x[0], elapsed[0]), tuple(states))
    alone = cell((x[0, 1], elapsed[0, 1]), tuple(s[1] for s in states))
    for a, b, c in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, alone)), expected, strict=True):
        np.testing.assert_allclose(a.numpy(), c, rtol=0, atol=1e-12)
        np.testing.assert_allclose(b.numpy(), c[1], rtol=0, atol=1e-12)
    first = cell((tg.tensor(x[0]), elapsed[0]))
    y, _ = Recurrent(cell, fused="never")((x, elapsed))
    np.testing.assert_array_equal((first[0] if isinstance(first, tuple) else first).numpy(), y[0].numpy())


def test_a_step_does_not_write_to_what_it_is_given():
    """Of several inputs either: as with one, `a *= b` computes a new a."""

    class Scales(tg.nn.Cell):
        hidden_size = 2

        def step(self, x, h):
            a, b = x
            a *= b
            return h + a

    a, b = (tg.tensor(np.full((3, 2), n), requires_grad=True) for n in (2.0, 5.0))
    found = Scales()((a, b), np.ones((3, 2)))
    found.sum().backward()
    for x, value, slope in ((found, 11, None), (a, 2, 5), (b, 5, 2)):
        assert set(x.numpy().ravel()) == {value} and (slope is None or set(x.grad.numpy().ravel()) == {slope})


@one
def test_stacks(name, monkeypatch):
    """Every layer and direction gets the time; batch_first and no batch lay it out as they do x."""
    interpret(monkeypatch)
    _, _, x, elapsed = given(name)
    make = lambda width: CASES[name][0](width, H, **F64)
    tg.manual_seed(2)
    stack = tg.nn.Stack(make, I, 2, bidirectional=True)
    y, _ = stack((x, elapsed), lengths=[5, 2, 4])
    below = tg.tensor(x)
    for k in (0, 2):
        ways = [Recurrent(stack.cells[k + n], reverse=n == 1) for n in (0, 1)]
        below = tg.cat([way((below, elapsed), lengths=[5, 2, 4])[0] for way in ways], -1)
    np.testing.assert_allclose(y.numpy(), below.numpy(), rtol=0, atol=1e-14)
    every = stack((x, elapsed))[0].numpy()
    alone = stack((x[:, 1], elapsed[:, 1]))[0].numpy()
    stack.batch_first = True
    swapped, _ = stack((np.swapaxes(x, 0, 1), np.swapaxes(elapsed, 0, 1)))
    np.testing.assert_allclose(np.swapaxes(swapped.numpy(), 0, 1), every, rtol=0, atol=1e-14)
    np.testing.assert_allclose(alone, every[:, 1], rtol=0, atol=1e-14)


@one
def test_recordings(name, monkeypatch):
    """Values and gradients of states are told by both engines."""
    interpret(monkeypatch)
    cell, _, x, elapsed = given(name)
    found = []
    for engine in ("never", "require"):
        layer = Recurrent(cell, fused=engine)
        with tg.record(layer) as r:
            y, _ = layer((tg.tensor(x, requires_grad=True), elapsed))
        y.square().sum().backward()
        first = cell.state_names[0]
        found.append((r[first].numpy(), r.grad[first].numpy(), tg.study.jacobians(r, b=1).values))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


class Split(CellWrapper):
    """A cell of elapsed time whose input is x and elapsed side by side: for what takes one input alone."""

    @property
    def input_size(self):
        return self.cell.input_size + 1

    def step(self, x, *states):
        return self.cell.advance((x[:, :-1], x[:, -1:] * x[:, -1:] + 0.5), states)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CfC, pure", "LTC"])
def test_the_whole_contract_with_time(name, monkeypatch):
    interpret(monkeypatch)
    report = check_cell(Split(CASES[name][0](3, 4)))
    assert not report.failures and {"engines", "lengths", "gradients", "stale"} <= set(report.passed)


@pytest.mark.slow
@each
def test_compiled(name):
    """Machine code, on more rows than one thread takes."""
    cell, _, x, elapsed = given(name, T=7, B=33)
    found = []
    for engine in ("never", "require"):
        leaves = [tg.tensor(a, requires_grad=True) for a in (x, elapsed)]
        y, _ = Recurrent(cell, True, engine)(tuple(leaves), lengths=[n % 8 for n in range(33)])
        found.append([y.numpy(), *(g.numpy() for g in tg.grad(y.square().sum(), [*leaves, *cell.parameters()]))])
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(a).max()))


def test_what_does_not_fit():
    cell, _, x, elapsed = given("CfC")
    for engine in ("never", "auto"):
        layer = Recurrent(cell, fused=engine)
        for inputs, message in [
            ((x, elapsed[..., [0, 0]]), r"CfCCell: expected x, or \(x, elapsed\) with elapsed \[B, 1\]; got 2 inputs"),
            ((elapsed, x), r"elapsed \[B, 1\]; got 2 inputs"),
            ((x, elapsed, elapsed), "got 3 inputs"),
            ((x[..., :1], elapsed), "CfCCell: expected inputs of 2 features, got 1"),
            ((x, elapsed[1:]), r"expected a further input of shape \[5, 3, ...\] beside x; got .*\[4, 3, 1\]"),
            ((x, elapsed[..., 0]), r"of shape \[5, 3, ...\] beside x; got \[5, 3, 2\], \[5, 3\]"),
            ((x, elapsed[:, :1]), r"of shape \[5, 3, ...\] beside x; got \[5, 3, 2\], \[5, 1, 1\]"),
        ]:
            with pytest.raises(ValueError, match=message):
                layer(inputs)
    with pytest.raises(ValueError, match=r"expected x of shape \[B, I\] or \[I\], got \[3, 2\], \[2, 1\]"):
        cell((x[0], elapsed[0, 1:]))
    with pytest.raises(ValueError, match=r"expected x of shape \[B, I\] or \[I\], got \[5, 3, 2\], \[5, 3, 1\]"):
        cell((x, elapsed))
    stack = tg.nn.Stack(lambda width: cells.CfCCell(width, H, **F64), I, 2)
    for net, inputs in [(Recurrent(cell), (x, 1.0)), (stack, (x, None)), (cell, (x[0], 0.5))]:
        with pytest.raises(TypeError, match="several inputs are tensors or arrays each, got ndarray, "):
            net(inputs)
    with pytest.raises(ValueError, match=r"Stack: a further input has shape \[4, 3, 1\], expected \[5, 3, ...\]"):
        stack((x, elapsed[1:]))


def test_wrong_options():
    for make, message in [
        (lambda: cells.CfCCell(2, 3, mode="gate"), "CfCCell: mode must be 'default', 'no_gate' or 'pure', not 'gate'"),
        (lambda: cells.CfCCell(2, 3, units=0), "CfCCell: units must be positive, not 0"),
        (lambda: cells.LTCCell(2, 3, unfolds=0), "LTCCell: unfolds must be positive, not 0"),
        (lambda: cells.PhasedLSTMCell(2, 3, ratio=0), "ratio must be above 0 and at most 1, not 0"),
        (lambda: cells.PhasedLSTMCell(2, 3, periods=(2, 1)), r"periods must not fall, as \(2, 1\) do"),
        (lambda: cells.PhasedLSTMCell(2, 3, leak=-1), "leak must be at least 0, not -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# ---- Closed forms ----------------------------------------------------------------------------------------------------


def test_cfc_when_no_time_passes_and_when_much_does():
    """At 0 the gate is its bias alone; later it goes over to one of its targets, and the solution to A."""
    cell, _, x, _ = given("CfC")
    h, x = np.random.default_rng(1).uniform(-1, 1, (B, H)), x[0]
    s = x @ cell.weight_ih.numpy().T + h @ cell.weight_hh.numpy().T + cell.bias.numpy()
    s = 1.7159 * np.tanh(0.666 * s) @ cell.heads.weight.numpy().T + cell.heads.bias.numpy()
    f, g, a, b = np.split(s, 4, 1)
    f, g = np.tanh(f), np.tanh(g)
    at = lambda cell, time: cell((x, np.full((B, 1), time)), h).numpy()
    np.testing.assert_allclose(at(cell, 0.0), (1 - sigmoid(b)) * f + sigmoid(b) * g, atol=1e-14)
    np.testing.assert_allclose(at(cell, 1e6), np.where(a > 0, g, f), atol=1e-12)
    pure = given("CfC, pure")[0]
    s = x @ pure.weight_ih.numpy().T + h @ pure.weight_hh.numpy().T + pure.bias.numpy()
    s = 1.7159 * np.tanh(0.666 * s) @ pure.heads.weight.numpy().T + pure.heads.bias.numpy()
    A, w = pure.weight_A.numpy(), np.abs(pure.weight_tau.numpy())
    np.testing.assert_allclose(at(pure, 0.0), A - A * s, atol=1e-14)
    np.testing.assert_allclose(at(pure, 1e6), np.ones((B, 1)) * A, atol=1e-12)
    n = 1e-5  # dv/dt = (|w| + |f|) (A - v)
    slope = (at(pure, 0.5 + n) - at(pure, 0.5 - n)) / (2 * n)
    np.testing.assert_allclose(slope, (w + np.abs(s)) * (A - at(pure, 0.5)), atol=1e-8)


def test_a_pure_cfc_starts_where_all_of_it_learns():
    """At 0 the slope of |w| is 0, and w would stay there."""
    tg.manual_seed(0)
    cell = cells.CfCCell(3, 50, mode="pure", **F64)
    for weight in (cell.weight_tau, cell.weight_A):
        assert 0.8 < np.abs(weight.numpy()).max() / np.sqrt(6 / 51) <= 1
    y, _ = Recurrent(cell, fused="never")(tg.ones(2, 4, 3, dtype=np.float64))
    assert all(np.abs(g.numpy()).min() > 0 for g in tg.grad(y.sum(), [cell.weight_tau, cell.weight_A]))


def slope_of_ltc(p, x):
    """dv/dt of the paper's equation, for one x [I]."""
    G = lambda v, kind: softplus(p[kind + "w"]) * sigmoid(p[kind + "sigma"] * (v[:, None] - p[kind + "mu"]))
    x = x * p["weight_x"] + p["bias_x"]

    def slope(v):
        through = lambda source, kind: (G(source, kind) * (p[kind + "erev"] - v)).sum(0)
        leak = softplus(p["gleak"]) * (p["vleak"] - v)
        return (leak + through(v, "") + through(x, "sensory_")) / softplus(p["cm"])

    return slope


def test_ltc_solves_its_differential_equation():
    """Against a Runge-Kutta of small steps: the error falls with the step, more solver steps or shorter times alike."""
    tg.manual_seed(0)
    cell, x = cells.LTCCell(I, H, **F64), np.array([0.4, -1.0])
    slope, v = slope_of_ltc(cell.state_dict(), x), np.array([0.3, -0.5, 0.8, 0.0])
    start, n, seconds = v, 400, 1.5
    for _ in range(n):
        dt = seconds / n
        k1 = slope(v)
        k2 = slope(v + dt / 2 * k1)
        k3 = slope(v + dt / 2 * k2)
        v = v + dt / 6 * (k1 + 2 * k2 + 2 * k3 + slope(v + dt * k3))
    one = lambda unfolds: _solved(cell, x, start, seconds, 1, unfolds)
    errors = [np.abs(one(unfolds) - v).max() for unfolds in (6, 48, 96, 192)]
    assert errors[0] < 0.2 and 0.45 < errors[2] / errors[1] < 0.55 and 0.45 < errors[3] / errors[2] < 0.55
    np.testing.assert_allclose(2 * one(192) - one(96), v, atol=0.05 * errors[3])
    np.testing.assert_allclose(_solved(cell, x, start, seconds, 16, 6), one(96), atol=1e-12)


def _solved(cell, x, v, seconds, steps, unfolds):
    """v after some seconds of the same x."""
    cell.unfolds = unfolds
    inputs = np.broadcast_to(x, (steps, 1, len(x))), np.full((steps, 1, 1), seconds / steps)
    return Recurrent(cell, fused="never")(inputs, v[None])[1].numpy()[0]


def test_ltc_stands_still_when_no_time_passes_and_stays_within_its_potentials():
    cell, _, x, _ = given("LTC")
    v = np.random.default_rng(1).uniform(-1, 1, (B, H))
    still = tg.tensor(np.zeros((B, 1)), requires_grad=True)
    new = cell((x[0], still), v)
    np.testing.assert_allclose(new.numpy(), v, rtol=1e-15)
    new.sum().backward()
    expected = np.array([slope_of_ltc(cell.state_dict(), x[0, b])(v[b]).sum() for b in range(B)])
    np.testing.assert_allclose(still.grad.numpy()[:, 0], expected, rtol=1e-6)
    far = cell((100 * x[0], np.full((B, 1), 1e9)), v).numpy()
    assert (np.abs(far) <= 1).all(), "between the potentials of leak and synapses"


def test_how_ltc_and_cfc_start():
    tg.manual_seed(0)
    ltc, cfc = cells.LTCCell(60, 80), cells.CfCCell(60, 80, layers=2)
    assert set(np.unique(ltc.erev.numpy())) == {-1, 1} and abs((ltc.sensory_erev.numpy() > 0).mean() - 2 / 3) < 0.03
    for name, (low, high) in {"sigma": (3, 8), "mu": (0.3, 0.8), "sensory_w": (0.001, 1), "cm": (0.4, 0.6)}.items():
        values = getattr(ltc, name).numpy()
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high
    bound = lambda weight: np.abs(weight.numpy()).max()
    assert 0.98 < bound(cfc.weight_hh) / np.sqrt(6 / (140 + 128)) <= 1.0001
    assert 0.98 < bound(cfc.heads.weight) / np.sqrt(6 / (128 + 80)) <= 1.0001, "each head for itself"
    assert 0.98 < bound(cfc.backbone[0].weight) / np.sqrt(6 / 256) <= 1.0001
    assert 0.9 < bound(cfc.bias) * np.sqrt(140) <= 1.0001 and 0.9 < bound(cfc.heads.bias) * np.sqrt(128) <= 1.0001


def test_a_phased_lstm_that_is_always_open_is_an_lstm():
    """Period 1, open for half of it, and each step arrives in the middle of that: k is 1."""
    tg.manual_seed(0)
    phased, lstm = cells.PhasedLSTMCell(I, H, ratio=0.5, **F64), cells.LSTMCell(I, H, **F64)
    phased.period.numpy()[...], phased.shift.numpy()[...], phased.peephole.numpy()[...] = 1, 0.25, 0
    p = phased.state_dict()
    lstm.load_state_dict(
        dict(weight_ih=p["weight_ih"], weight_hh=p["weight_hh"], bias_ih=p["bias"], bias_hh=0 * p["bias"])
    )
    x = np.random.default_rng(0).normal(0, 1, (20, B, I))
    y, (_, c, time) = Recurrent(phased, fused="never")((x, np.full((20, B, 1), 2.0)))
    expected, (_, c_expected) = Recurrent(lstm, fused="never")(x)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), atol=1e-14)
    np.testing.assert_allclose(c.numpy(), c_expected.numpy(), atol=1e-14)
    assert set(time.numpy().ravel()) == {40.0}


def test_the_gate_of_time():
    """It rises and falls within the open part of a period, and is shut in evaluation; negative periods are positive."""
    cell = cells.PhasedLSTMCell(1, 2, ratio=0.2, leak=0.5, **F64)
    cell.period.numpy()[...], cell.shift.numpy()[...] = [10, -10], 0
    times = np.array([0, 0.5, 1, 1.5, 2, 6, 10, 21])[:, None]
    for training, shut in ((True, 0.5 * 0.6), (False, 0)):
        found = cell.train(training).openness(tg.tensor(times)).numpy()
        expected = np.array([0, 0.5, 1, 0.5, 0, shut, 0, 1])
        np.testing.assert_allclose(found, np.stack([expected, expected], 1), atol=1e-12)


def test_closed_units_hold_what_they_have():
    """In evaluation bit by bit, on both engines; in training but for the leak."""
    cell = cells.PhasedLSTMCell(I, H, **F64)
    cell.period.numpy()[...], cell.shift.numpy()[...] = 1000, 100
    h, c = (np.random.default_rng(n).uniform(-1, 1, (B, H)) for n in (0, 1))
    x = np.random.default_rng(2).normal(0, 1, (T, B, I))
    for training in (False, True):
        _, (h_new, c_new, _) = Recurrent(cell.train(training), fused="never")(x, (h, c, np.zeros((B, 1))))
        assert (np.array_equal(h_new.numpy(), h) and np.array_equal(c_new.numpy(), c)) != training


def test_time_goes_on_in_pieces():
    cell, _, x, elapsed = given("LSTM, phased")
    layer = Recurrent(cell, fused="never")
    y, _ = layer((x, elapsed))
    first, states = layer((x[:2], elapsed[:2]))
    rest, _ = layer((x[2:], elapsed[2:]), states)
    np.testing.assert_array_equal(np.concatenate([first.numpy(), rest.numpy()]), y.numpy())


def test_how_a_phased_lstm_starts():
    tg.manual_seed(0)
    cell = cells.PhasedLSTMCell(20, 500)
    logs = np.log(cell.period.numpy())
    assert 0 <= logs.min() < 0.1 and 7.9 < logs.max() <= 8 and abs(logs.mean() - 4) < 0.3
    assert (cell.shift.numpy() >= 0).all() and (cell.shift.numpy() <= cell.period.numpy()).all()
    assert set(cell.bias.numpy()[500:1000]) == {2} and cell.bias.numpy().sum() == 1000
    assert abs(cell.weight_hh.numpy().std() - 0.1) < 0.002 and abs(cell.peephole.numpy().std() - 0.1) < 0.01
