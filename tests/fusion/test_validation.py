"""Every compiled cell is compared with the tape where it first runs: who judges, what it costs, what it says."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from autograd.sampling import differentiable, samples

import tinygrad_rnn as tg
from fusion.comparing import LayerNorm, given_to, interpret, parameter
from tinygrad_rnn.autograd import table
from tinygrad_rnn.autograd.tape import set_mode
from tinygrad_rnn.autograd.tensor import Tensor
from tinygrad_rnn.fusion import fused as fused_module
from tinygrad_rnn.fusion import judge as judging
from tinygrad_rnn.fusion import scan, validate
from tinygrad_rnn.kernels import cache
from tinygrad_rnn.nn.cells import catalogue


@pytest.fixture
def proofs(monkeypatch):
    """The validations that take place, as (way, kind of layout)."""
    found = []

    def counted(cell, way, rows):
        found.append((str(way), rows.kind))
        return validate.validate(cell, way, rows)

    monkeypatch.setattr(fused_module, "validate", counted)
    return found


# ---- What cancels ----------------------------------------------------------------------------------------------------


CANCELLING = {
    "what the step adds": lambda self, x, h: x @ self.W + 0.5 * (h @ self.U) + (h - x @ self.W),
    "of three": lambda self, x, h: h @ self.U + x @ self.W * 3 - x @ self.W - 2 * (x @ self.W),
    "a sum over a softmax": lambda self, x, h: x @ self.W + tg.softmax(h @ self.U, -1).sum(-1, keepdim=True),
    "a mean of what is centred": lambda self, x, h: (
        x @ self.W + h @ self.U - (x @ self.W + h @ self.U).mean(-1, keepdim=True)
    ).mean(-1, keepdim=True) + tg.sin(h + x @ self.W),
    "a bias before it is centred": lambda self, x, h: (
        x @ self.W + h @ self.U + self.b - (x @ self.W + h @ self.U + self.b).mean(-1, keepdim=True)
    ) + self.b.sum() - 4 * self.b.mean(),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("of", CANCELLING.values(), ids=CANCELLING)
def test_gradients_that_cancel_are_rounding_errors(of, dtype, monkeypatch):
    """Of numbers that are larger: a kernel and the tape need not agree in these."""
    interpret(monkeypatch)
    for seed in range(3):
        tg.manual_seed(seed)
        made = type("Cancels", (tg.nn.Cell,), {"step": lambda self, x, h: tg.tanh(of(self, x, h)), "hidden_size": 4})()
        made.W, made.U, made.b = (tg.nn.Parameter(tg.randn(*s, dtype=dtype)) for s in ((3, 4), (4, 4), (4,)))
        layer = tg.nn.Recurrent(made, fused="require")
        layer(tg.randn(3, 2, 3, dtype=dtype, requires_grad=True))[0].sum().backward()


# ---- The judge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", table.TABLE.values(), ids=table.TABLE)
def test_numpy_and_the_table_agree(row):
    """Values and gradients of every row, which NumPy finds from the same text."""
    for sample in samples(row):
        inputs = [Tensor(x) for x in sample.inputs]
        places = [i for i in (differentiable(row) or range(len(inputs))) if inputs[i].dtype.kind == "f"]
        for i in places:
            inputs[i].requires_grad_(True)
        judge = judging.Judge()
        for i, x in enumerate(inputs):
            judge.leaf(x, i in places)
        with set_mode("tracer", judge):
            judged = row(*inputs, **sample.attributes)
        y = row(*inputs, **sample.attributes)
        np.testing.assert_allclose(judge.entry(judged).value, y.numpy(), rtol=1e-12, atol=1e-13, err_msg=str(sample))
        if y.requires_grad and y.numpy().size:
            dy = np.random.default_rng(0).standard_normal(y.shape)
            expected = tg.grad(y, [inputs[i] for i in places], [dy], allow_unused=True)
            found = judge.gradients([(judged, dy)])
            for i, dx in zip(places, expected):
                nothing = np.zeros(inputs[i].shape)
                found_dx, dx = found.get(judge.entry(inputs[i]), nothing), nothing if dx is None else dx.numpy()
                np.testing.assert_allclose(found_dx, dx, rtol=1e-12, atol=1e-12, err_msg=f"gradient {i} at {sample}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", [table.pow, table.mul, table.div, table.maximum, table.where])
def test_numbers_among_the_operands(row, dtype):
    """Whose functions in a gradient rule, such as log(a) for a ** b, have the precision of the arrays."""
    for sample in samples(row):
        if any(np.asarray(x).dtype.kind != "f" for x in sample.inputs):
            continue
        for k in range(len(sample.inputs)):
            inputs = [Tensor(np.asarray(x, dtype)) if i == k else 1.7 for i, x in enumerate(sample.inputs)]
            inputs[k].requires_grad_(True)
            y = row(*inputs, **sample.attributes)
            dy = np.ones(y.shape, dtype)
            expected = tg.grad(y, [inputs[k]], [dy]) if y.requires_grad and y.numpy().size else None
            for precise in (False, True):
                judge = judging.Judge(precise)
                judge.leaf(inputs[k], True)
                with set_mode("tracer", judge):
                    judged = row(*inputs, **sample.attributes)
                kind = np.float64 if precise and y.dtype.kind == "f" else y.dtype
                assert judged.dtype == y.dtype and judge.entry(judged).value.dtype == kind
                if expected is not None:
                    found = judge.gradients([(judged, dy)])[judge.entry(inputs[k])]
                    assert found.dtype == kind
                    tolerance = 1e-12 if dtype == np.float64 else 1e-5
                    np.testing.assert_allclose(found, expected[0].numpy(), rtol=tolerance, atol=tolerance)


def test_a_judge_runs_a_step_in_both_precisions():
    a, b = np.float32(1) / np.float32(3), np.linspace(0, 1, 5, dtype=np.float32)
    found = []
    for precise in (False, True):
        judge = judging.Judge(precise)
        with set_mode("tracer", judge):
            y = tg.tanh(Tensor(b) * float(a)) + 1
        assert y.dtype == np.float32
        found.append(judge.entry(y).value)
    own, wide = found
    assert own.dtype == np.float32 and wide.dtype == np.float64
    np.testing.assert_allclose(wide, np.tanh(b.astype(np.float64) * float(a)) + 1, rtol=1e-15)
    np.testing.assert_allclose(own, wide, rtol=1e-6)
    assert (own != wide).any()


def test_a_gradient_that_is_clipped_at_each_step_is_not_taken_for_one():
    """The same operation on the same parameter, step by step, is several operations on the way back."""
    p = tg.tensor([1.0], requires_grad=True)
    judge = judging.Judge()
    with set_mode("tracer", judge):
        y = tg.clip_gradient(p, 0.5) + tg.clip_gradient(p, 0.5)
    (dp,) = judge.gradients([(y, np.array([2.0], np.float32))]).values()
    assert dp == [1.0]


class Powers(tg.nn.Cell):
    """Its gradient has the logarithm of a plain number in it."""

    hidden_size = input_size = 3

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 3, dtype=np.float64)

    def step(self, x, h):
        return tg.tanh(2 ** tg.tanh(h) * x)


def test_plain_numbers_are_as_precise_as_the_rest():
    layer = tg.nn.Recurrent(Powers(), fused="require")
    layer(tg.randn(3, 2, 3, dtype=np.float64, requires_grad=True))
    assert float(re.search(r"largest difference (\S+) of", layer.explain())[1]) < 1e-13


@pytest.mark.parametrize("make", [make for make, *_ in catalogue.ROWS])
def test_every_cell_of_the_library_is_validated(make, monkeypatch, proofs):
    interpret(monkeypatch)
    layer, x = tg.nn.Recurrent(make(4, 4).double(), fused="require"), tg.randn(3, 2, 4, dtype=np.float64)
    values = given_to(layer.cell, 2)
    layer(x, **values)
    layer(x, lengths=[3, 1], **values)
    with tg.no_grad():
        layer(x, **values)
    assert len(proofs) == 3 and "validated, largest difference" in layer.explain()


# ---- When it takes place, and what it leaves alone -------------------------------------------------------------------


def test_each_way_is_validated_once(proofs):
    layer, x = tg.nn.Recurrent(tg.nn.GRUCell(3, 4)), tg.randn(5, 2, 3)
    for _ in range(3):
        layer(x)
    assert proofs == [("training", "whole")]
    with tg.no_grad():
        for _ in range(3):
            layer(x)
        assert proofs[1:] == [("inference", "whole")]
        layer(x, lengths=[5, 2])
    layer(x, lengths=[5, 2])
    layer(x, lengths=[1, 1])
    with tg.record(layer) as r:
        layer(x)
    assert proofs[2:] == [("inference", "ragged"), ("training", "ragged"), ("training, recorded", "whole")]
    assert r["h"].shape == (5, 2, 4)
    layer(tg.randn(5, 2, 3, requires_grad=True))
    assert proofs[5:] == [("training", "whole")]


def test_parameters_that_lie_otherwise_are_validated_anew(proofs):
    layer, x = tg.nn.Recurrent(tg.nn.GRUCell(3, 4)), tg.randn(5, 2, 3)
    layer(x)
    layer.cell.weight_hh.data = layer.cell.weight_hh.data + 1
    layer(x)
    assert len(proofs) == 1
    layer.cell.weight_hh.data = np.asfortranarray(layer.cell.weight_hh.data)
    layer(x)
    layer(x)
    assert len(proofs) == 2


def test_the_environment_switches_it_off(monkeypatch, proofs):
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")
    layer = tg.nn.Recurrent(tg.nn.GRUCell(3, 4))
    layer(tg.randn(5, 2, 3))
    assert not proofs and "no, as TINYGRAD_RNN_VALIDATE=0 says" in layer.explain()


class Noisy(tg.nn.Cell):
    """Random numbers at each step, and a mask for the sequence."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W = tg.nn.Parameter(tg.randn(input_size, hidden_size))

    def sequence_values(self, batch_size):
        return {"mask": tg.dropout(tg.ones(batch_size, self.hidden_size), 0.5)}

    def step(self, x, h):
        return tg.tanh(x @ self.W + h * self.mask) + 0.1 * tg.randn(h.shape)


def test_random_numbers_and_gradients_are_left_alone():
    cell, x = Noisy(3, 4), tg.randn(5, 2, 3)
    seen = []
    cell.W.register_hook(lambda g: seen.append(g))
    tg.manual_seed(1)
    expected, _ = tg.nn.Recurrent(cell, fused="never")(x)
    after = tg.rand(1)
    tg.manual_seed(1)
    y, _ = tg.nn.Recurrent(cell, fused="require")(x)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tg.rand(1).numpy(), after.numpy())
    assert cell.W.grad is None and not seen and not hasattr(cell, "mask")


def test_it_compiles_nothing_of_its_own(monkeypatch):
    """Every module of machine code that is loaded is a kernel of the cell."""
    loaded = []
    real = cache.load
    monkeypatch.setattr(cache, "load", lambda source, name, *rest: loaded.append(name) or real(source, name, *rest))
    layer = tg.nn.Recurrent(LayerNorm(3, 5), fused="require")
    layer(tg.randn(3, 2, 3))
    assert loaded and all(name.startswith("scan_") for name in loaded)


# ---- What it says when they differ -----------------------------------------------------------------------------------


class Gated(tg.nn.Cell):
    def __init__(self, hidden_size):
        self.input_size = self.hidden_size = hidden_size
        self.U = parameter(hidden_size, hidden_size)

    def step(self, x, h):
        f = tg.sigmoid(x + h @ self.U)
        n = tg.tanh(f * x)
        return f * h + (1 - f) * n


@pytest.fixture
def broken(monkeypatch):
    """Kernels in which a gate is a little off."""
    interpret(monkeypatch)
    real = scan.module

    def module(title, text, bits, functions):
        return real(title, re.sub(r"f = sigmoid\((.*)\)\n", r"f = sigmoid(\1 + real(0.001))\n", text), bits, functions)

    monkeypatch.setattr(scan, "module", module)


def test_kernels_that_are_wrong_are_not_used(broken):
    cell, x = Gated(4), tg.randn(5, 2, 4, dtype=np.float64)
    layer = tg.nn.Recurrent(cell)
    with pytest.warns(UserWarning, match="kernels do not compute what step computes") as told:
        y, _ = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        layer(x)
        with tg.no_grad():
            layer(x)
    expected, _ = tg.nn.Recurrent(cell, fused="never")(x)
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    message = str(told[0].message)
    lines = Path(__file__).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "f = tg.sigmoid(x + h @ self.U)" in text)
    assert re.search(rf"\bf \({re.escape(__file__)}:{line}, in step\)", message)  # the first that differs, not h
    numbers = re.search(r"is (\S+) by the kernels and (\S+) on the tape", message)
    assert numbers and 1e-5 < abs(float(numbers[1]) - float(numbers[2])) < 1e-3
    assert "runs on the tape" in layer.explain()


def test_who_requires_kernels_is_told_the_same(broken):
    with pytest.raises(NotImplementedError, match=r"do not compute what step computes: f .* a fault of tiny"):
        tg.nn.Recurrent(Gated(4), fused="require")(tg.randn(5, 2, 4, dtype=np.float64))


def test_a_kink_that_is_hit_by_chance_refuses_nothing(monkeypatch):
    interpret(monkeypatch)
    draws, real = [], validate._Trial._kernels

    def kernels(self):
        draws.append(self.draw)
        found, starts = real(self)
        return {name: value + (self.draw < 2) for name, value in found.items()}, starts

    monkeypatch.setattr(validate._Trial, "_kernels", kernels)
    tg.nn.Recurrent(Gated(4), fused="require")(tg.randn(5, 2, 4, dtype=np.float64))
    assert draws == [0, 1, 2]


class Cancelling(tg.nn.Cell):
    """Small differences of large numbers: in float32 the tape itself is far from the truth."""

    def __init__(self):
        self.input_size = self.hidden_size = 4
        self.W = tg.nn.Parameter(tg.randn(4, 4))

    def step(self, x, h):
        a = x @ self.W + h
        return (a + 3e4) - 3e4


def test_rounding_errors_are_no_faults():
    layer = tg.nn.Recurrent(Cancelling(), fused="require")
    layer(tg.randn(5, 2, 4))
    assert "validated" in layer.explain()


class Saturated(tg.nn.Cell):
    """So near to one that what is left of its slope, 1 - h * h, is mostly the rounding of h."""

    input_size, hidden_size = 2, 4

    def __init__(self, kind):
        self.U = parameter(4, 4).to(kind)

    def step(self, x, h):
        return tg.tanh(8.4 + h @ self.U)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rounding_that_a_step_enlarges_is_no_fault(kind):
    layer = tg.nn.Recurrent(Saturated(kind), fused="require")
    y, _ = layer(tg.ones(3, 2, 2, dtype=kind), tg.ones(2, 4, dtype=kind).requires_grad_())
    y.sum().backward()
