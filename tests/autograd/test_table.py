"""Every row of the table, by what the row itself says: a new one arrives tested (see `sampling` for its inputs)."""

import re
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from autograd.sampling import LAYOUTS, WHOLE, Sample, differentiable, samples
from tinygrad_rnn.autograd import table
from tinygrad_rnn.autograd.primitive import ElementwisePrimitive, Primitive
from tinygrad_rnn.autograd.table import TABLE
from tinygrad_rnn.autograd.tape import unbroadcast

EVERY_ROW = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
EVERY_DIFFERENTIABLE_ROW = pytest.mark.parametrize("row", [r for r in TABLE.values() if r.rules], ids=lambda r: r.name)
FORMULAS = [row for row in TABLE.values() if isinstance(row, ElementwisePrimitive) and row.rules]
COMPARISONS = [row for row in TABLE.values() if not row.rules and row is not table.detach]

# Rows whose rule is no derivative, on purpose, and what it is instead: a function of dy and the attributes.
NO_DERIVATIVES = {"clip_gradient": lambda dy, limit: np.clip(dy, -limit, limit), "straight_through": lambda dy: dy}

# Central differences with steps of 1e-6 are right to about 1e-9 of a value near 1.
CLOSE = dict(atol=1e-7, rtol=1e-6)


def tensors(row, sample, wanted=None):
    """The inputs of a sample as tensors over the very same memory; those at the positions `wanted` need a gradient."""
    chosen = differentiable(row) if wanted is None else wanted
    return [
        tg.from_numpy(x).requires_grad_() if chosen is None or i in chosen else tg.from_numpy(x)
        for i, x in enumerate(sample.inputs)
    ]


def gradients(row, sample, wanted=None, create_graph=False):
    """The gradients of a row at a sample, started from fixed numbers, as {position: array}."""
    xs = tensors(row, sample, wanted)
    y = row(*xs, **sample.attributes)
    dy = np.random.default_rng(0).uniform(-1, 1, y.shape).astype(y.dtype)
    asked = [i for i, x in enumerate(xs) if x.requires_grad]
    found = tg.grad([y], [xs[i] for i in asked], [tg.from_numpy(dy)], create_graph=create_graph)
    return {i: g.numpy() for i, g in zip(asked, found)}


# ---- What is tested is varied enough ---------------------------------------------------------------------------------


@EVERY_ROW
def test_samples_cover_shapes_and_layouts(row):
    """Ten calls and more, among them 0-d and 0-size operands, and memory of every kind."""
    arrays = [x for sample in samples(row) for x in sample.inputs]
    strides = [n for x in arrays if x.size > 1 for n, size in zip(x.strides, x.shape) if size > 1]
    assert any(x.size == 0 for x in arrays)
    of_a_rank = "cumsum", "softmax", "log_softmax", "matmul", "cat", "conv1d", "conv1d_input", "conv1d_weight"
    assert any(x.ndim == 0 for x in arrays) or row.name in of_a_rank
    assert any(n < 0 for n in strides), "no negative stride"
    assert any(n == 0 for n in strides), "no stride of zero"
    assert any(x.size > 1 and not x.flags.c_contiguous for x in arrays), "nothing strided"
    assert any(x.ndim > 1 and x.flags.f_contiguous and not x.flags.c_contiguous for x in arrays), "nothing transposed"
    if len(row.inputs) > 1:
        assert any(len({x.shape for x in sample.inputs}) > 1 for sample in samples(row)), "nothing is broadcast"
    assert {layout for sample in samples(row) for layout in sample.layouts} == set(LAYOUTS)


def test_a_row_that_cannot_be_sampled_fails_and_says_what_to_add():
    row = Primitive("outermost(x, *, dim)", "y = x", "[...] -> [...]", lambda x, dim: x, lambda x, dim: x, dx="dy")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)new row 'outermost'.*add.*to WHOLE in tests/autograd/sampl"):
        samples(row)
    assert set(WHOLE) <= set(TABLE), "WHOLE in tests/autograd/sampling.py has an entry for a row that is gone"


def test_a_wrong_rule_is_found():
    """The loop over the table can fail: a rule that is wrong by its sign for one half of the line."""
    wrong = ElementwisePrimitive("wrong_cube(x)", "x * x * x", dx="dy * 3 * x * abs(x)")
    wrong.names = TABLE
    with pytest.raises(tg.GradcheckError, match="made by wrong_cube"):
        test_first_derivatives(wrong)


# ---- Derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [r for r in TABLE.values() if r.rules and r.name not in NO_DERIVATIVES], ids=lambda r: r.name
)
def test_first_derivatives(row):
    """Against finite differences."""
    for sample in samples(row):
        tg.gradcheck(partial(row, **sample.attributes), tensors(row, sample), **CLOSE)


@pytest.mark.parametrize("name", NO_DERIVATIVES)
def test_rules_that_are_no_derivatives(name):
    """They do what they say they do, and finite differences do say something else."""
    row = TABLE[name]
    for sample in samples(row):
        dy = np.random.default_rng(0).uniform(-1, 1, np.broadcast_shapes(*(x.shape for x in sample.inputs)))
        ((i, dx),) = gradients(row, sample).items()
        expected = unbroadcast(NO_DERIVATIVES[name](dy, **sample.attributes), sample.inputs[i].shape)
        np.testing.assert_array_equal(dx, expected)
    with pytest.raises(tg.GradcheckError, match=f"made by {name}"):
        test_first_derivatives(row)


@EVERY_DIFFERENTIABLE_ROW
def test_second_derivatives(row):
    """The rules, run on tensors, are differentiated in their turn."""
    tg.manual_seed(1)
    for sample in samples(row):
        tg.gradgradcheck(partial(row, **sample.attributes), tensors(row, sample), **CLOSE)


@EVERY_DIFFERENTIABLE_ROW
def test_recording_the_pass_does_not_change_gradients(row):
    """On arrays one kernel computes all gradients; on tensors the rules are evaluated a row at a time."""
    for sample in samples(row):
        plain, recorded = gradients(row, sample), gradients(row, sample, create_graph=True)
        assert plain.keys() == recorded.keys()
        for i, x in enumerate(sample.inputs):
            if i in plain:
                assert plain[i].shape == recorded[i].shape == x.shape
                assert plain[i].dtype == recorded[i].dtype == x.dtype
                np.testing.assert_allclose(plain[i], recorded[i], rtol=1e-12, atol=1e-13, err_msg=str(sample))


SEVERAL_INPUTS = [row for row in TABLE.values() if row.variadic or len(differentiable(row)) > 1]


@pytest.mark.parametrize("row", SEVERAL_INPUTS, ids=lambda row: row.name)
def test_gradients_of_some_inputs_are_those_of_all(row):
    """Which inputs need a gradient decides which kernel runs and what is saved, not what comes out."""
    for sample in samples(row):
        full = gradients(row, sample)
        for count in range(1, len(full)):
            for wanted in combinations(full, count):
                some = gradients(row, sample, wanted)
                assert tuple(some) == wanted
                for i in wanted:
                    np.testing.assert_allclose(some[i], full[i], rtol=1e-14, err_msg=f"{sample}, d of inputs {wanted}")


@EVERY_ROW
def test_what_needs_no_gradient_is_not_recorded(row):
    sample = samples(row)[0]
    y = row(*tensors(row, sample, wanted=()), **sample.attributes)
    assert not y.requires_grad and y.is_leaf


# ---- Shapes ----------------------------------------------------------------------------------------------------------


@EVERY_ROW
def test_the_shape_rule_agrees_with_the_result(row):
    for sample in samples(row):
        shape = row.shape(*(x.shape for x in sample.inputs), **sample.attributes)
        assert shape == np.shape(row.forward(*sample.inputs, **sample.attributes)), str(sample)


def refusals():
    """Calls with shapes that do not fit, for every row that has such."""
    for row in TABLE.values():
        if isinstance(row, ElementwisePrimitive):
            if len(row.inputs) > 1:
                shapes = [(2, 3), *[(4,)] * (len(row.inputs) - 1)]
                yield pytest.param(row, shapes, dict.fromkeys(row.attributes, 0.25), id=f"{row.name}-{shapes}")
        else:
            for shapes, attributes in WHOLE[row.name].refused if row.name in WHOLE else ():
                yield pytest.param(row, shapes, attributes, id=f"{row.name}-{shapes}-{attributes}")


@pytest.mark.parametrize(("row", "shapes", "attributes"), list(refusals()))
def test_shapes_that_do_not_fit_are_named(row, shapes, attributes):
    with pytest.raises((ValueError, IndexError)) as rule:
        row.shape(*shapes, **attributes)
    with pytest.raises((ValueError, IndexError)) as call:
        row(*(tg.zeros(shape, dtype=tg.float64) for shape in shapes), **attributes)
    assert str(call.value) == f"{row.name}({', '.join(row.inputs)}): {rule.value}"
    named = [shape for shape in shapes if str(list(shape)) in str(rule.value)]
    assert len(named) >= min(len(shapes), 2), f"the message does not show the shapes {shapes}: {rule.value}"


# ---- Numbers ---------------------------------------------------------------------------------------------------------

# How far float32 may be from float64, in units of the last place of the exact result; rows not named here: 4.
ULP = {
    "elu": (5, "expm1 is within 4, and its product with alpha is rounded once more"),
}


def numbers(count, rng):
    """Finite float32 numbers: half of them of the size that networks see, half of any size, and the special ones."""
    usual = rng.uniform(-10, 10, count // 2)
    bits = rng.integers(0, 2**32, count - count // 2, dtype=np.uint32).view(np.float32)
    special = [0.0, -0.0, 1, -1, 0.5, 2, 1e-45, -1e-45, 1.2e-38, 3.4e38, -3.4e38, 88.7, -103.9, 16777217]
    found = np.concatenate([usual, special, bits[np.isfinite(bits)]]).astype(np.float32)
    return rng.permutation(found)


def ulp(y, exact, scale=None):
    """The largest distance of float32 values from float64 ones, in spacings of float32 numbers of that size."""
    exact, scale = np.asarray(exact), np.abs(exact if scale is None else scale)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.minimum(np.nan_to_num(scale, posinf=3e38), 3e38).astype(np.float32)).astype(np.float64)
        distance = np.abs(y.astype(np.float64) - exact) / unit
    same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
    return np.max(np.where(same, 0, np.nan_to_num(distance, nan=np.inf)), initial=0)


@EVERY_DIFFERENTIABLE_ROW
def test_float32_is_accurate(row):
    """float32 against float64 at the same numbers; sums and products in units of the largest number in the sample."""
    if row in (TABLE["floor_divide"], TABLE["remainder"]):
        pytest.skip("they jump, and are NumPy's")
    bound, _ = ULP.get(row.name, (4, ""))
    if isinstance(row, ElementwisePrimitive):
        rng = np.random.default_rng(2)
        operands = [numbers(60 if config.DISABLE_JIT else 4000, rng) for _ in row.inputs]
        operands = [x[: min(map(len, operands))] for x in operands]
        double = [x.astype(np.float64) for x in operands]
        attributes = dict.fromkeys(row.attributes, 0.25)
        y, exact = row.forward(*operands, **attributes), row.forward(*double, **attributes)
        assert y.dtype == np.float32
        assert ulp(y, exact) <= bound
        return
    for sample in samples(row):
        single = [x.astype(np.float32) for x in sample.inputs]
        y = row.forward(*single, **sample.attributes)
        exact = row.forward(*(x.astype(np.float64) for x in single), **sample.attributes)
        assert y.dtype == sample.attributes.get("dtype", np.float32)
        largest = max(np.max(np.abs(x), initial=0) for x in (exact, *single))
        assert ulp(y, exact, np.full(np.shape(exact), largest)) <= (0 if WHOLE[row.name].exact else bound), str(sample)


@EVERY_DIFFERENTIABLE_ROW
def test_float32_stays_float32_forward_and_back(row):
    for sample in samples(row)[3:5]:
        single = tuple(x if x.dtype == np.bool_ else x.astype(np.float32) for x in sample.inputs)
        attributes = {k: np.dtype(np.float32) if k == "dtype" else v for k, v in sample.attributes.items()}
        assert {g.dtype for g in gradients(row, Sample(single, attributes)).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("row", [row for row in FORMULAS if row.integer], ids=lambda row: row.name)
def test_integers_stay_integers(row):
    """The rows that have a rule for integers agree with their formula on them."""
    operands = [np.arange(1, 7).reshape(2, 3), np.array([3, 1, 2]), np.array([[2], [5]])][: len(row.inputs)]
    if "c" in row.inputs:
        operands[0] = operands[0] > 3
    y = row.forward(*operands)
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, row.forward(*(x.astype(np.float64) for x in operands)))


# ---- Special values --------------------------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf

# What is decided where a derivative is a matter of convention: PyTorch's. (row, inputs, attributes, y, gradients)
DECIDED = [
    (table.relu, ([-1, -0.0, 0, 2, NAN, INF, -INF],), {}, [0, 0, 0, 2, NAN, INF, 0], ([0, 0, 0, 1, 1, 1, 0],)),
    (
        table.leaky_relu,
        ([-1, 0, 2, NAN, -INF],),
        dict(negative_slope=0.25),
        [-0.25, 0, 2, NAN, -INF],
        ([0.25, 0.25, 1, 0.25, 0.25],),
    ),
    (table.elu, ([0, 2, -INF, INF],), dict(alpha=0.5), [0, 2, -0.5, INF], ([0.5, 1, 0, 1],)),
    (table.abs, ([-2, -0.0, 0, 3, -INF],), {}, [2, 0, 0, 3, INF], ([-1, 0, 0, 1, -1],)),
    (table.sign, ([-2, 0, 3, NAN, -INF],), {}, [-1, 0, 1, NAN, -1], ([0, 0, 0, 0, 0],)),
    (table.floor, ([-0.5, 1, NAN, INF],), {}, [-1, 1, NAN, INF], ([0, 0, 0, 0],)),
    (
        table.maximum,
        ([1, 2, 3, NAN, 1, INF], [2, 2, 1, 1, NAN, INF]),
        {},
        [2, 2, 3, NAN, NAN, INF],
        ([0, 0.5, 1, 1, 1, 0.5], [1, 0.5, 0, 1, 1, 0.5]),
    ),
    (
        table.minimum,
        ([1, 2, 3, NAN, 1, -INF], [2, 2, 1, 1, NAN, -INF]),
        {},
        [1, 2, 1, NAN, NAN, -INF],
        ([1, 0.5, 0, 1, 1, 0.5], [0, 0.5, 1, 1, 1, 0.5]),
    ),
    (
        table.clamp,
        ([-2, -1, 0, 1, 2, NAN, 0], [-1, -1, -1, -1, -1, -1, 3], [1, 1, 1, 1, 1, 1, 2]),
        {},
        [-1, -1, 0, 1, 1, NAN, 2],
        ([0, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1]),
    ),
    (
        table.where,
        (np.array([True, False, True, False]), [1, NAN, NAN, INF], [NAN, 2, 3, NAN]),
        {},
        [1, 2, NAN, NAN],
        (None, [1, 0, 1, 0], [0, 1, 0, 1]),
    ),
    (
        table.pow,
        ([0, 0, -2, 2, 5], [0, 2, 3, 0, 1]),
        {},
        [1, 0, -8, 1, 5],
        ([0, 0, 12, 0, 1], [0, 0, NAN, np.log(2), 5 * np.log(5)]),
    ),
    (table.clip_gradient, ([-2, -0.0, NAN, INF],), dict(limit=0.25), [-2, 0, NAN, INF], ([0.25] * 4,)),
    (table.clip_gradient, ([-2, NAN],), dict(limit=1.0), [-2, NAN], ([1, 1],)),
    (table.sqrt, ([0, 4, INF, -1],), {}, [0, 2, INF, NAN], ([INF, 0.25, 0, NAN],)),
    (table.log, ([0, 1, INF, -1],), {}, [-INF, 0, INF, NAN], ([INF, 1, 0, -1],)),
    (table.reciprocal, ([0, -0.0, INF],), {}, [INF, -INF, 0], ([-INF, -INF, 0],)),
    (table.sigmoid, ([-INF, INF, NAN, -800],), {}, [0, 1, NAN, 0], ([0, 0, NAN, 0],)),
    (table.tanh, ([-INF, INF, NAN, 800],), {}, [-1, 1, NAN, 1], ([0, 0, NAN, 0],)),
    (table.softplus, ([-INF, INF, NAN, 800, -800],), {}, [0, INF, NAN, 800, 0], ([0, 1, NAN, 1, 0],)),
    (table.amax, ([[1, 3, 3], [2, 2, 2], [1, NAN, 5]],), dict(dim=(1,), keepdim=False), [3, 2, NAN], None),
    (table.amin, ([[1, 1, 3], [2, 2, 2], [1, NAN, 5]],), dict(dim=(1,), keepdim=False), [1, 2, NAN], None),
    (
        table.softmax,
        ([[INF, 0], [-INF, 0], [NAN, 0], [1000, 0]],),
        dict(dim=1),
        [[NAN] * 2, [0, 1], [NAN] * 2, [1, 0]],
        None,
    ),
    (table.log_softmax, ([[-INF, 0], [NAN, 0], [1000, 0]],), dict(dim=1), [[-INF, 0], [NAN] * 2, [0, -1000]], None),
    (table.sum, ([[INF, -INF], [NAN, 0], [INF, 1]],), dict(dim=(1,), keepdim=False), [NAN, NAN, INF], ([[1, 1]] * 3,)),
]


@pytest.mark.parametrize(
    ("row", "inputs", "attributes", "expected", "rules"), DECIDED, ids=[decided[0].name for decided in DECIDED]
)
def test_special_values(row, inputs, attributes, expected, rules):
    arrays = [x if isinstance(x, np.ndarray) else np.array(x, np.float64) for x in inputs]
    xs = [tg.from_numpy(x).requires_grad_(x.dtype == np.float64) for x in arrays]
    y = row(*xs, **attributes)
    np.testing.assert_array_equal(y.numpy(), expected)
    if rules is not None:
        y.backward(tg.ones_like(y))
        for x, rule in zip(xs, rules):
            if rule is not None:
                np.testing.assert_allclose(x.grad.numpy(), rule, rtol=1e-15)


def test_tied_extremes_share_the_gradient():
    x = tg.tensor(np.array([[1.0, 3, 3], [2, 2, 2], [0, 1, 2]]), requires_grad=True)
    x.amax(1).backward(tg.tensor(np.array([1.0, 3, 5])))
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0.5, 0.5], [1, 1, 1], [0, 0, 5]])
    x.grad = None
    x.amin((0, 1)).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0, 0], [0, 0, 0], [1, 0, 0]])


# `where` does not look at the branch that it leaves: it is among the special values above. `straight_through` never
# looks at the value of soft.
LOOKS = [row for row in FORMULAS if row.name not in ("where", "straight_through")]


@pytest.mark.parametrize("row", LOOKS, ids=lambda row: row.name)
def test_nan_goes_through(row):
    """A NaN in any operand gives NaN."""
    for position in range(len(row.inputs)):
        operands = [np.array([0.5, 1.5]) for _ in row.inputs]
        operands[position] = np.array([np.nan, 0.75])
        y = row.forward(*operands, **dict.fromkeys(row.attributes, 0.25))
        if row.name == "pow" and position == 1:
            assert row.forward(np.array([1.0]), np.array([np.nan])) == 1  # C's and PyTorch's
        assert np.isnan(y[0]) and not np.isnan(y[1])


# ---- Rows without a gradient -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", COMPARISONS, ids=lambda row: row.name)
def test_comparisons(row):
    """Truth values as the formula has them, for NaN too; they need no gradient."""
    assert isinstance(row, ElementwisePrimitive), f"{row.name} computes numbers and has no gradient rule"
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0])
    for sample in [*samples(row), Sample((special[:, None], special)[: len(row.inputs)])]:
        y = row(*(tg.from_numpy(x).requires_grad_() for x in sample.inputs))
        assert y.dtype == np.bool_ and not y.requires_grad
        np.testing.assert_array_equal(y.numpy(), eval(row.formula, {}, dict(zip(row.inputs, sample.inputs))))


def test_detach():
    x = tg.tensor([1.5, np.nan, -np.inf], requires_grad=True)
    y = table.detach(x)
    assert not y.requires_grad and not np.shares_memory(y.numpy(), x.numpy())
    np.testing.assert_array_equal(y.numpy(), x.numpy())


# ---- What a row tells of itself --------------------------------------------------------------------------------------


@EVERY_ROW
def test_a_row_can_be_read(row):
    assert row is TABLE[row.name] is getattr(table, row.name)
    assert row.signature.startswith(row.name + "(") and repr(row) == f"<primitive {row.signature}: {row.equation}>"
    assert row.equation.startswith("y") and row.shapes
    assert all(rule[0] == "d" and rule[1:] in row.inputs for rule in row.rules), "a rule for an input that is not there"
    assert set(differentiable(row) or ()) <= set(range(len(row.inputs)))


@EVERY_DIFFERENTIABLE_ROW
def test_what_is_computed_of_constants_is_one(row):
    sample = samples(row)[0]
    assert not row(*tensors(row, sample, ()), **sample.attributes).requires_grad


@EVERY_DIFFERENTIABLE_ROW
def test_only_what_a_rule_names_is_saved(row):
    """Inputs that no rule asks for are free as soon as the user lets go of them."""
    named = {name for rule in row.rules.values() for name in re.findall(r"[a-z_]\w*", rule)}
    for sample in samples(row):
        node = row(*tensors(row, sample), **sample.attributes).grad_fn
        kept = [x for x in node.saved if isinstance(x, np.ndarray)]
        for name, x in zip(row.inputs, sample.inputs):
            assert name in named or "y" in named or not any(np.shares_memory(x, array) for array in kept)
        assert "y" in named or len(kept) <= len(named & {*row.inputs, *row.attributes})
