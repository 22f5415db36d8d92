"""What cannot be a kernel runs on the tape, and says so once; what is wrong on the tape is wrong in the same words."""

import contextlib
import cProfile
import re
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import parameter
from tinygrad_rnn.fusion import fused as compiler
from tinygrad_rnn.fusion import scan, soundness

I, H = 3, 4


def cell(step, **attributes):
    """A cell with this step."""
    made = type("Odd", (tg.nn.Cell,), {"step": step, "hidden_size": H})()
    made.W, made.U, made.b = parameter(I, H), parameter(H, H), parameter(H)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def branches(self, x, h):
    return h + x @ self.W if h.sum() > 0 else h


def loops(self, x, h):
    for row in h:
        h = h + row.sum()
    return h


def assigns(self, x, h):
    h[:, 0] = 0.0
    return h + x @ self.W


def descends(self, x, h):
    v = x @ self.W
    (slope,) = tg.grad((h - v).square().sum(-1), [v], tg.ones(2, dtype=np.float64), create_graph=True)
    return h + 0.1 * slope


def unfinished(self, x, h):
    noise = tg.randn(H, dtype=np.float64)
    return h + x @ self.W + noise


LOOKS, RANDOM, MEET = "looks at the numbers of a tensor", "draws random numbers", "rows of the batch meet"
REFUSED = {
    "control flow": (branches, MEET),
    "item": (lambda self, x, h: h * max(tg.amax(self.U.abs()).item(), 1.0), LOOKS),
    "numpy": (lambda self, x, h: h + tg.tensor(np.tanh(x.numpy()) @ self.W.numpy()), LOOKS),
    "float": (lambda self, x, h: h * float(self.b.sum()), LOOKS),
    "iteration": (loops, "."),
    "noise for all rows": (unfinished, RANDOM),
    "product of states": (lambda self, x, h: tg.tanh(h @ (h.T @ h) + x @ self.W), MEET),
    "sum over the batch": (lambda self, x, h: tg.tanh(h - h.sum(0, keepdim=True) + x @ self.W), MEET),
    "mean of all": (lambda self, x, h: tg.tanh(h - h.mean() + x @ self.W), MEET),
    "gradient of a loss": (descends, r"step uses tg.grad\(\): write h.detach\(\) .*, 2 \* \(h - v\) and its like"),
    "a row for each of the batch": (
        lambda self, x, h: h * self.b.reshape(H, 1).expand(H, h.shape[0]).T,
        "step makes a row for each of the batch from none.*write h \\* b",
    ),
    "the batch behind": (lambda self, x, h: h + h.expand(5, *h.shape).sum(0), "or the batch is not in front"),
    "two lists in an index": (
        lambda self, x, h: h * h.reshape(h.shape[0], 2, 2)[:, [0, 1], [1, 0]].sum(-1, keepdim=True),
        "no place for index of such a kind: write an index with one list of numbers",
    ),
    "an index that jumps": (
        lambda self, x, h: h * h[:, [0, 1, 3, 0, 2, 1] * 30].sum(-1, keepdim=True),
        "an index with 90 runs of columns: let the columns of a weight have that order",
    ),
    "a seed": (lambda self, x, h: (tg.manual_seed(0), h * 0.5)[1], f"{RANDOM} past rand, randn and dropout"),
    "row of the batch": (lambda self, x, h: tg.tanh(h + h[0:1] + x @ self.W), MEET),
}


def both_engines(made, x, fused="auto"):
    layer = tg.nn.Recurrent(made, fused=fused)
    tg.manual_seed(5)
    y, h = layer(x)
    return layer, y.numpy(), h.numpy()


@pytest.mark.parametrize(("step", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(step, reason):
    """One warning that names cell, reason and what silences it; the tape's own result; an error if required."""
    made, x = cell(step), tg.randn(3, 2, I, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, *expected = both_engines(made, x, "never")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        layer, *found = both_engines(made, x)
        layer(x)
        layer(x)
    assert len(told) == 1, [str(w.message) for w in told]
    message = str(told[0].message)
    assert message.startswith("Odd runs on the tape, step by step: ") and re.search(reason, message), message
    assert "fused='never'" in message and told[0].filename == __file__
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    with pytest.raises(NotImplementedError, match=f"Odd cannot be fused: .*({reason})"):
        both_engines(made, x, "require")


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        (np.float32, (H,), r"x is float64, and the state h is float32: write x.to\(np.float32\)"),
        (np.int64, (H,), r"x is float64, and the state h is int64: let all be float64"),
    ],
)
def test_states_that_no_kernel_takes(dtype, shape, reason):
    made = cell(lambda self, x, h: h * x.sum(-1).reshape(x.shape[0], *[1] * len(shape)).to(h.dtype))
    made.initial_state = lambda batch_size: tg.ones(batch_size, *shape, dtype=dtype)
    with pytest.warns(UserWarning, match=reason + r".*test_refusals\.py:\d+"):
        both_engines(made, tg.ones(3, 2, I, dtype=np.float64))


def test_inputs_that_no_kernel_takes():
    made = cell(lambda self, x, h: h + x.to(np.float64) @ self.W)
    with pytest.warns(UserWarning, match=r"x is int64.*write x.to\(np.float32\).*test_refusals\.py:\d+"):
        both_engines(made, tg.tensor(np.ones((3, 2, I), int)))


def test_inputs_without_features():
    """No fault of the library's, as an assertion inside would be told to be."""
    made = cell(lambda self, x, h: h + (x @ self.W[:0]))
    with pytest.warns(UserWarning, match=r"x has no features.*test_refusals\.py:\d+"):
        both_engines(made, tg.zeros(3, 2, 0, dtype=np.float64))


def test_states_without_units():
    """Nor here."""
    made = tg.nn.GRUCell(I, 0, dtype=np.float64)
    with pytest.warns(UserWarning, match="x has no features, or h no units") as warned:
        _, y, _ = both_engines(made, tg.zeros(3, 2, I, dtype=np.float64))
    assert y.shape == (3, 2, 0)
    assert not any("fault of tinygrad_rnn" in str(each.message) for each in warned)


@pytest.mark.parametrize("engine", ["auto", "require"])
def test_what_a_step_raises_is_all_that_is_raised(engine):
    class Own(Exception):
        pass

    def raises(self, x, h):
        raise Own("in my words", 42)

    with pytest.raises(Own) as raised:
        both_engines(cell(raises), tg.randn(3, 2, I, dtype=np.float64), engine)
    assert raised.value.args == ("in my words", 42)
    assert raised.value.__context__ is None and raised.value.__cause__ is None


def test_a_line_is_named():
    with pytest.raises(NotImplementedError, match=r"test_refusals\.py:\d+, in branches"):
        both_engines(cell(branches), tg.randn(3, 2, I, dtype=np.float64), "require")


@pytest.mark.parametrize("name", ["compiled", "Scan", "trace_step"])
def test_a_fault_of_the_compiler_is_not_blamed_on_the_step(name, monkeypatch):
    """It says whose it is and what to report, and the tape runs."""

    def fails(*arguments):
        raise AssertionError("a line is nowhere")

    monkeypatch.setattr(compiler, name, fails)
    made, x = cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U)), tg.randn(3, 2, I, dtype=np.float64)
    ours = "fault of tinygrad_rnn, not of your cell; please report it with the step at "
    with pytest.warns(UserWarning, match=rf"{ours}.*test_refusals\.py:\d+, in .*\(AssertionError: a line is") as told:
        _, y, h = both_engines(made, x)
    assert len(told) == 1
    _, *expected = both_engines(made, x, "never")
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(h, expected[1])
    with pytest.raises(NotImplementedError, match="a fault of tinygrad_rnn"):
        both_engines(made, x, "require")


def test_a_fault_of_the_tracer_is_not_blamed_on_the_step(monkeypatch):
    def fails(*arguments):
        raise AssertionError("no such rate")

    monkeypatch.setattr(soundness, "linear", fails)
    made, x = cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U)), tg.randn(3, 2, I, dtype=np.float64)
    with pytest.warns(UserWarning, match=r"fault of tinygrad_rnn.*AssertionError: no such rate"):
        both_engines(made, x)


@pytest.mark.filterwarnings("ignore:Odd runs on the tape")
@pytest.mark.parametrize(
    "step",
    [
        lambda self, x, h: h @ self.W,  # widths that do not fit
        lambda self, x, h: h[:, :2],  # a state of another width
        lambda self, x, h: (h, h),  # too many states
        lambda self, x, h: None,
        lambda self, x, h: self.missing + h,
        lambda self, x, h: h + tg.ones(5, dtype=np.float64),
    ],
)
def test_errors_are_those_of_the_tape(step):
    made, x, told = cell(step), tg.randn(3, 2, I, dtype=np.float64), []
    for fused in ("never", "auto", "require"):
        with pytest.raises(Exception) as error:
            both_engines(made, x, fused)
        told.append((type(error.value), str(error.value)))
    assert told[0] == told[1] == told[2]


def test_inputs_of_another_width_are_errors_with_every_engine():
    for fused in ("auto", "never", "require"):
        layer = tg.nn.Recurrent(tg.nn.GRUCell(I, H), fused=fused)
        with pytest.raises(ValueError, match="expected inputs of 3 features, got 5"):
            layer(tg.zeros(2, 2, 5))
        with pytest.raises(ValueError, match=r"expected 1 initial state \(h\), got 2"):
            layer(tg.zeros(2, 2, I), (tg.zeros(2, H), tg.zeros(2, H)))
        with pytest.raises(ValueError, match=r"initial state h has shape \[2, 5\], expected \[2, 4\]"):
            layer(tg.zeros(2, 2, I), tg.zeros(2, 5))


def test_inputs_of_another_dtype():
    """float32 inputs for float64 parameters: the tape's promotion, and a warning."""
    layer = tg.nn.Recurrent(tg.nn.GRUCell(I, H, dtype=np.float64))
    x = tg.randn(3, 2, I)
    with pytest.warns(UserWarning, match="GRUCell runs on the tape.*the state h is float64: write x.to"):
        y, _ = layer(x)
    layer.fused = "never"
    np.testing.assert_array_equal(layer(x)[0].numpy(), y.numpy())


# ---- What changes after the first call -------------------------------------------------------------------------------


def test_a_replaced_parameter_is_noticed():
    made, x = cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U)), tg.randn(3, 2, I, dtype=np.float64)
    before = both_engines(made, x, "require")[1]
    made.U = parameter(H, H)
    found, expected = both_engines(made, x, "require")[1], both_engines(made, x, "never")[1]
    assert np.abs(found - before).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_parameters_that_change_in_place_need_no_new_kernel():
    made, x = cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U)), tg.randn(3, 2, I, dtype=np.float64)
    layer, before, _ = both_engines(made, x, "require")
    source = layer.source("forward")
    made.U.numpy()[...] += 0.1
    found = layer(x)[0].numpy()
    assert layer.source("forward") == source and np.abs(found - before).max() > 1e-3
    layer.fused = "never"
    np.testing.assert_allclose(found, layer(x)[0].numpy(), rtol=0, atol=1e-14)


def test_a_changed_option_is_noticed():
    made = tg.nn.RNNCell(I, H, dtype=np.float64)
    x = tg.randn(3, 2, I, dtype=np.float64)
    for nonlinearity in ("tanh", "relu", "tanh"):
        made.nonlinearity = nonlinearity
        found, expected = both_engines(made, x, "require")[1], both_engines(made, x, "never")[1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        assert (found >= 0).all() == (nonlinearity == "relu")


@pytest.mark.parametrize("change", ["append", "setitem", "inplace array"])
def test_a_change_inside_an_attribute_is_noticed(change):
    """An attribute that is the same object and yet another value: a list, a dict, an array of constants."""
    steps = {
        "append": (lambda self, x, h: h * sum(self.held) + x @ self.W, [0.5]),
        "setitem": (lambda self, x, h: h * self.held["leak"] + x @ self.W, {"leak": 0.5}),
        "inplace array": (lambda self, x, h: h * self.held + x @ self.W, np.full(H, 0.5)),
    }
    step, held = steps[change]
    made, x = cell(step, held=held), tg.randn(3, 2, I, dtype=np.float64)
    both_engines(made, x, "require")
    if change == "append":
        held.append(0.25)
    elif change == "setitem":
        held["leak"] = 0.25
    else:
        held[...] = 0.25
    found, expected = both_engines(made, x, "require")[1], both_engines(made, x, "never")[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_profiler_that_runs_changes_nothing():
    sources = []
    for profile in (contextlib.nullcontext(), cProfile.Profile()):
        layer = tg.nn.Recurrent(tg.nn.LSTMCell(I, H), fused="require")
        with profile:
            layer(tg.ones(2, 1, I))
        sources.append(layer.source("forward"))
    assert sources[0] == sources[1]


def test_without_a_compiler_a_cell_says_why_it_is_slow(monkeypatch):
    layer, x = tg.nn.Recurrent(tg.nn.RNNCell(I, H)), tg.randn(2, 1, I)
    expected = tg.nn.Recurrent(layer.cell, fused="never")(x)[0].numpy()
    monkeypatch.setattr(scan.config, "DISABLE_JIT", 1)
    with pytest.warns(UserWarning, match="RNNCell runs on the tape, step by step: NUMBA_DISABLE_JIT is set"):
        np.testing.assert_array_equal(layer(x)[0].numpy(), expected)
