"""Primitives of the user's own in compiled cells: a row from outside computes there what it does on the tape."""

import pickle

import numpy as np
import pytest
from autograd.test_custom import D_MISH, MISH, draw, only_here, primitives  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter
from tinygrad_rnn.fusion.print import RowFunction

SIZES = 5, 3, 2


class Spiking(tg.nn.Cell):
    """Neurons with a potential v that spike and are reset, after Neftci et al. (2019); of primitives as they come."""

    def __init__(self, input_size, hidden_size, slope=10.0):
        self.input_size, self.hidden_size, self.slope = input_size, hidden_size, slope
        tg.manual_seed(0)
        self.W, self.U, self.b, self.t = (parameter(*s) for s in ((input_size, 4), (4, 4), (4,), (4,)))
        self.spike = tg.primitive(
            "spiked(x, *, slope=10)", "where(x > 0, 1, 0)", dx="dy / (1 + slope * abs(x)) ** 2", check=False
        )
        self.mish = tg.primitive(*MISH, dx=D_MISH)
        self.leak = tg.primitive(
            "leaked(v, t)", "v * sigmoid(t) ** 3", dv="dy * sigmoid(t) ** 3", dt="3 * dy * y * (1 - sigmoid(t))"
        )  # fmt: skip
        self.clipped = tg.primitive("clipped_(x, *, limit)", "x", dx="clamp(dy, -limit, limit)", check=False)

    def step(self, x, s, v):
        v = tg.where(s > 0, 0, v) * 0.9 + self.mish(x @ self.W) + self.clipped(s, limit=0.05) @ self.U
        v = self.leak(v, self.t) + self.mish(self.b)
        s = self.spike(v - 0.1, slope=self.slope)
        bit = tg.straight_through(v > 0.3, tg.sigmoid(v))
        return s, v * bit


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 2, 0]])
def test_both_engines_agree(reverse, lengths):
    options = {} if lengths is None else dict(lengths=lengths)
    assert_engines_agree(Spiking(2, 4), SIZES, reverse, return_states=True, **options)


def test_in_float32():
    cell = Spiking(2, 4).float()
    x = tg.randn(*SIZES)
    results = []
    for fused in ("require", "never"):
        y, (_, v) = tg.nn.Recurrent(cell, fused=fused)(x)
        assert y.dtype == np.float32
        results.append([y, v, *tg.grad((y * y.mean() + v.sum()).sum(), [*cell.parameters()])])
    for a, b in zip(*results):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=2e-5)


def test_second_derivatives():
    """They are taken on the tape, by the rules of what rules name."""
    cell, x = Spiking(2, 4), draw(4, 2, 2)
    found = []
    for fused in ("auto", "never"):
        y, (_, v) = tg.nn.Recurrent(cell, fused=fused)(x)
        (dx,) = tg.grad(y.sum() + (v * v).sum(), [x], create_graph=True)
        found.append(tg.grad((dx * dx).sum(), [x, cell.W, cell.t]))
    for a, b in zip(*found):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_recordings(lengths):
    """Every named value of every step and its gradient; a primitive's are values like others."""
    cell, x, found = Spiking(2, 4), draw(4, 3, 2), []
    for fused in ("require", "never"):
        layer = tg.nn.Recurrent(cell, fused=fused)
        with tg.record(layer) as recorded:
            y, (_, v) = layer(x, lengths=lengths)
        (y.sum() + (v * v).sum()).backward()
        found.append(recorded)
    for name in ("s", "v", "bit"):
        for a, b in ((found[0][name], found[1][name]), (found[0].grad[name], found[1].grad[name])):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14, err_msg=name)


def test_a_primitive_of_a_class():
    """It is called as it is, without the cell."""

    class Pulsing(tg.nn.Cell):
        hidden_size = 4
        pulse = tg.primitive("pulse(x)", "exp(-x ** 2)", dx="-2 * dy * x * y")

        def __init__(self):
            self.W = parameter(2, 4)

        def step(self, x, h):
            return self.pulse(x @ self.W + h)

    assert_engines_agree(Pulsing(), SIZES)


def test_kernels_are_of_vector_code_and_names():
    """The formula is written out, in the functions that vectorise; what it is the gradient of is told by its name."""
    layer = tg.nn.Recurrent(Spiking(2, 4), fused="require")
    layer(draw(3, 2, 2))
    forward, backward = layer.source("forward"), layer.source("backward")
    assert "s_new = where(v_new - real(0.1) > real(0), real(1), real(0))" in forward
    assert "pow" not in forward + backward
    assert "# gradient of: s_new = spiked(v_new - 0.1, slope=slope)" in backward
    assert "spiked(" in layer.explain()


def cell_of(step, *parameters):
    """A float64 cell of a step(self, x, h)."""
    kind = type("Stepping", (tg.nn.Cell,), dict(step=step, input_size=2, hidden_size=4))
    cell = kind()
    tg.manual_seed(0)
    cell.W, cell.U, cell.b = parameter(2, 4), parameter(4, 4), parameter(4)
    return cell


# ---- Gradients that are not linear in what arrives -------------------------------------------------------------------


def clipped():
    return tg.primitive("clipped(x)", "x", dx="clamp(dy, -0.02, 0.02)", check=False)


def scaled():
    return tg.primitive("scaled(x, b)", "x * b", dx="dy * b", db="clamp(dy * x, -0.1, 0.1)", check=False)


def in_parts(y):
    return tg.cat([y[:, :2], 2 * y[:, 2:]], -1)


CLIPPED = {
    "a state": lambda self, x, h: tg.tanh(clipped()(h) @ self.U + x @ self.W),
    "the input": lambda self, x, h: clipped()(x) @ self.W + 0.5 * h,
    "a product": lambda self, x, h: tg.tanh(clipped()(x @ self.W) + clipped()(x @ self.W) + h),
    "what is read in parts": lambda self, x, h: in_parts(clipped()(h * (x @ self.W))),
    "a row with a number": lambda self, x, h: tg.tanh(h * clipped()(x.sum(-1, keepdim=True)) + x @ self.W),
    "twice": lambda self, x, h: tg.tanh(clipped()(h) + clipped()(h) * (x @ self.W)),
    "with a parameter": lambda self, x, h: tg.tanh(scaled()(h, self.b) + x @ self.W),
}


@pytest.mark.parametrize("step", CLIPPED.values(), ids=CLIPPED)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_clips_is_not_moved_across_sums(step, reverse, monkeypatch):
    interpret(monkeypatch)
    assert_engines_agree(cell_of(step), SIZES, reverse, lengths=[5, 2, 0])


REFUSED = {
    "a weight": lambda self, x, h: h @ clipped()(self.U),
    "a bias": lambda self, x, h: h + clipped()(self.b) + x @ self.W,
    "of parameters alone": lambda self, x, h: h + x @ self.W * clipped()(tg.tanh(self.b)),
}


@pytest.mark.parametrize("step", REFUSED.values(), ids=REFUSED)
def test_clipping_what_is_the_same_at_every_step_runs_on_the_tape(step):
    message = r"clipped of what is the same at every step .*: write clipped\(h @ U\) for h @ clipped\(U\)"
    with pytest.raises(NotImplementedError, match=message):
        tg.nn.Recurrent(cell_of(step), fused="require")(draw(3, 2, 2))


# ---- Definitions that come again -------------------------------------------------------------------------------------

THE_ONE = None


def test_a_cell_sees_that_a_name_means_another_primitive():
    """A global that is defined anew, an attribute that is replaced: neither kernels nor the tape are stale."""
    define = lambda k: tg.primitive("scale(x)", f"{k} * x", dx=f"{k} * dy")
    globals()["THE_ONE"] = define(2)
    layer = tg.nn.Recurrent(cell_of(lambda self, x, h: THE_ONE(x @ self.W) + 0.5 * h), fused="require")
    x, seen = draw(1, 2, 2), []
    for k in (2, 3, 2, 4):
        globals()["THE_ONE"] = define(k)
        y, _ = layer(x)
        seen.append(y.numpy() / (x[0] @ layer.cell.W).numpy())
        (dx,) = tg.grad(y.sum(), [x])
        np.testing.assert_allclose(dx.numpy(), k * np.broadcast_to(layer.cell.W.numpy().sum(1), (1, 2, 2)), rtol=1e-12)
    for k, found in zip((2, 3, 2, 4), seen):
        np.testing.assert_allclose(found, k, rtol=1e-12)


def test_one_step_may_hold_two_of_one_name():
    """They are not taken for the same operation."""
    define = lambda k: tg.primitive("scale(x)", f"{k} * x", dx=f"{k} * dy")
    two, three = define(2), define(3)
    cell = cell_of(lambda self, x, h: two(h) @ self.U + three(h) * 0.1 + x @ self.W)
    assert_engines_agree(cell, SIZES)


def test_a_pickled_cell_computes_the_same():
    cell = Spiking(2, 4)
    again, x = pickle.loads(pickle.dumps(cell)), draw(3, 2, 2)
    assert again.spike is cell.spike
    for a, b in zip(*(tg.nn.Recurrent(c, fused="require")(x)[1] for c in (cell, again))):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_slope_that_a_schedule_sets_compiles_nothing_anew():
    cell = Spiking(2, 4)
    layer, x = tg.nn.Recurrent(cell, fused="require"), draw(3, 2, 2)
    sources = set()
    for slope in (10.0, 12.5, 20.25):
        cell.slope = slope
        y, (_, v) = layer(x)
        found = tg.grad(y.sum() + v.sum(), [x])[0].numpy()
        y, (_, v) = tg.nn.Recurrent(cell, fused="never")(x)
        np.testing.assert_allclose(found, tg.grad(y.sum() + v.sum(), [x])[0].numpy(), rtol=1e-12, atol=1e-14)
        sources.add(layer.source("backward"))
    assert len(sources) == 1


def test_numbers_among_the_operands():
    """A number in the place of an input is an argument of kernels, or is computed with while rules are read."""
    rules = dict(da="dy * exp(b * 1)", db="dy * (a * exp(b) + where(b > 0, 0, 1))")
    mixed = tg.primitive("mixed(a, b)", "a * exp(b) + where(b > 0, 0.1, b)", **rules)
    cell = cell_of(lambda self, x, h: tg.tanh(mixed(x @ self.W, self.rate) + mixed(self.rate * 2, h)))
    for rate in (0.1, -0.3):
        cell.rate = rate
        assert_engines_agree(cell, SIZES)


def test_a_wrong_kernel_of_a_primitive_is_found(monkeypatch):
    """The judge evaluates formulas by itself: a kernel of another one does not pass."""
    odd = tg.primitive("odd(x)", "x * x * x", dx="3 * dy * x * x")
    layer = tg.nn.Recurrent(cell_of(lambda self, x, h: odd(h) + x @ self.W), fused="require")
    expression = RowFunction.expression

    def other(self, x, operand):
        with monkeypatch.context() as patch:
            if x.row is odd.row:
                patch.setattr(odd.row, "formula", "x * x * abs(x)")
            return expression(self, x, operand)

    monkeypatch.setattr(RowFunction, "expression", other)
    with pytest.raises(NotImplementedError, match="do not compute what step computes"):
        layer(draw(3, 2, 2))


# ---- At random -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_random_formulas(examples):
    options = settings(max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck))
    options(given(primitives(), st.booleans(), st.sampled_from([None, [3, 1], [0, 2]]))(check_formula))()


def check_formula(written, reverse, lengths):
    signature, formula, rules = written
    try:
        f = tg.primitive(signature, formula, **rules, check=False)
    except ValueError as error:
        assert "too long" in str(error)
        return
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        operands = lambda self, x, h: [h, x @ self.W, self.b, x.sum(-1, keepdim=True)][: len(rules)]
        bounded = lambda y: y / (1 + y * y)
        cell = cell_of(lambda self, x, h: tg.tanh(bounded(f(*operands(self, x, h))) + h @ self.U))
        assert_engines_agree(cell, (3, 2, 2), reverse, **({} if lengths is None else dict(lengths=lengths)))


def test_a_long_one_compiled():
    """Machine code for a formula of everything."""
    f = tg.primitive(
        "everything(a, b, *, k=0.7)",
        "where((a > b) & (a < 2), tanh(a) ** 3 / (2 + cos(b)), maximum(log(1.5 + b ** 2), -a) * erf(a * k))"
        " + elu(a, alpha=k) - clamp(b, -1, k) * gelu(a) + (1 + a * a) ** 0.5"
        " * leaky_relu(b, negative_slope=0.1) + sin(pow(2, tanh(a)))",
        check=False, da="dy * b / (1 + a ** 2) ** 1.5 + 2 * dy ** 1 * (1 + relu(a) ** 2) ** -1",
        db="dy * silu(a - b) ** 5",
    )  # fmt: skip
    cell = cell_of(lambda self, x, h: tg.tanh(f(h @ self.U, x @ self.W) * 0.1))
    assert_engines_agree(cell, SIZES, lengths=[5, 0, 3])
