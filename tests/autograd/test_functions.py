"""The public functions: what they refuse and how they say so, dtypes, NumPy on either side, indexing, einsum."""

import operator
import re
import string

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import config

import tinygrad_rnn as tg
from autograd.sampling import smooth_inputs
from tinygrad_rnn.autograd.primitive import ElementwisePrimitive
from tinygrad_rnn.autograd.table import TABLE
from tinygrad_rnn.autograd.tape import Node, Value

SIDE = 2 if config.DISABLE_JIT else 4  # interpreted kernels take their time


def leaf(array):
    return tg.tensor(np.asarray(array, np.float64), requires_grad=True)


def counting(shape):
    """Different numbers, so that no two elements can be mistaken for each other."""
    return np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)


# ---- Errors name the operation, the shapes and the fix ---------------------------------------------------------------

X, V = tg.zeros(2, 3), tg.zeros(3)

ERRORS = [
    (
        lambda: tg.zeros(32, 28) @ tg.zeros(64, 28),
        ValueError,
        "matmul(a, b): inner dimensions differ: a is [32, 28], b is [64, 28]; did you mean b.T?",
    ),
    (
        lambda: tg.zeros(28, 32) @ tg.zeros(28, 64),
        ValueError,
        "matmul(a, b): inner dimensions differ: a is [28, 32], b is [28, 64]; did you mean a.T?",
    ),
    (
        lambda: tg.zeros(32, 28) @ tg.zeros(64, 64),
        ValueError,
        "matmul(a, b): inner dimensions differ: a is [32, 28], b is [64, 64]",
    ),
    (
        lambda: tg.zeros(5, 2, 3) @ tg.zeros(4, 6),
        ValueError,
        "matmul(a, b): inner dimensions differ: a is [5, 2, 3], b is [4, 6]",
    ),
    (
        lambda: tg.zeros(2, 2, 3) @ tg.zeros(4, 3, 2),
        ValueError,
        "matmul(a, b): batch dimensions do not broadcast: a is [2, 2, 3], b is [4, 3, 2]",
    ),
    (lambda: X @ tg.zeros(4), ValueError, "matmul(a, b): inner dimensions differ: a is [2, 3], b is [4]"),
    (lambda: X @ tg.tensor(1.0), ValueError, "matmul(a, b): operands need a dimension: a is [2, 3], b is []"),
    (lambda: tg.mm(X, V), ValueError, "mm: expected tensors of [2, 2] dimensions, got shapes [2, 3] and [3]"),
    (
        lambda: tg.bmm(tg.zeros(2, 1, 3), tg.zeros(3, 3, 1)),
        ValueError,
        "bmm: batch sizes differ: [2, 1, 3] and [3, 3, 1]; matmul broadcasts them",
    ),
    (lambda: X + tg.zeros(2), ValueError, "add(a, b): shapes [2, 3] and [2] do not broadcast together"),
    (lambda: X * np.zeros((3, 2), np.float32), ValueError, "mul(a, b): shapes [2, 3] and [3, 2] do not broadcast"),
    (
        lambda: tg.where(np.ones((2, 2), bool), X, 0.0),
        ValueError,
        "where(c, a, b): shapes [2, 2] and [2, 3] do not broadcast together",
    ),
    (lambda: X + "text", TypeError, "add: expected tensors, arrays or numbers, got Tensor, str"),
    (lambda: X.reshape(4), ValueError, "reshape(x): shape [2, 3] has 6 elements and [4] has 4"),
    (lambda: X.reshape(-1, 4), ValueError, "reshape: cannot infer the -1 in [-1, 4] for a tensor of shape [2, 3]"),
    (lambda: X.reshape(1.5), TypeError, "reshape: sizes must be integers, got (1.5,)"),
    (lambda: X.expand(3, 3), ValueError, "expand(x): shape [2, 3] cannot be expanded to [3, 3]"),
    (lambda: X.permute(0, 0), ValueError, "permute: dims (0, 0) must name each of the 2 dimensions once"),
    (lambda: X.sum(2), IndexError, "sum: dim 2 is out of range for a tensor of 2 dimensions: [-2, 1]"),
    (lambda: X.sum((0, -2)), ValueError, "sum: dim (0, -2) names a dimension twice"),
    (lambda: X.softmax(0.5), TypeError, "softmax: dim must be an integer, not float"),
    (lambda: tg.zeros(0, 3).amax(0), ValueError, "amax(x): shape [0, 3] has nothing along dim (0,)"),
    (lambda: tg.tensor([1, 2]).mean(), TypeError, "mean: expected a tensor of floats, got int64; pass dtype=float32"),
    (lambda: X[2], IndexError, "slice(x): shape [2, 3]: index 2 is out of bounds for axis 0 with size 2"),
    (lambda: X[:, np.array([3])], IndexError, "index(x): shape [2, 3]: index 3 is out of bounds"),
    (lambda: X[np.array([0.5])], IndexError, "indexed by integers, slices and boolean masks, not by float64"),
    (
        lambda: tg.cat([X, tg.zeros(2, 4)]),
        ValueError,
        "cat(xs): shapes [2, 3] and [2, 4] must agree in all dimensions but dim=0",
    ),
    (lambda: tg.cat([]), ValueError, "cat: expected at least one tensor"),
    (lambda: tg.cat(X), TypeError, "cat: expected a list or tuple of tensors, got Tensor"),
    (lambda: tg.stack([X, V]), ValueError, "stack: shapes differ: [2, 3] and [3]"),
    (lambda: tg.split(X, [1, 1], 1), ValueError, "split: sections [1, 1] do not add up to the size 3 of dim 1"),
    (
        lambda: tg.where(V, V, V),
        TypeError,
        "where: the condition must be boolean, not float32; compare it with something first",
    ),
    (lambda: tg.clamp(V), ValueError, "clamp: at least one of min and max must be given"),
    (lambda: tg.einsum("ij,jk", X), ValueError, "einsum('ij,jk'): 2 terms for 1 operands"),
    (lambda: tg.einsum("ij,ik->k", X, tg.zeros(3, 3)), ValueError, "einsum('ij,ik->k'): 'i' has size 2 and size 3"),
    (lambda: tg.einsum("ijk", X), ValueError, "einsum('ijk'): term 'ijk' does not fit an operand of shape [2, 3]"),
    (lambda: tg.einsum("ij->jx", X), ValueError, "the result 'jx' repeats a letter or has one of its own"),
    (lambda: bool(V), ValueError, "a tensor of shape [3] is no single number; reduce it first: any(), all()"),
    (lambda: len(tg.tensor(1.0)), TypeError, "a 0-d tensor has no length"),
    (lambda: V.T, ValueError, "T is for matrices; this tensor has shape [3]: use mT, or permute"),
    (lambda: operator.setitem(V, 0, 1.0), TypeError, "not assigned to in place"),
    (lambda: tg.tensor(1j), TypeError, "a tensor holds floats, integers or booleans, not complex128"),
    (lambda: tg.tensor(["a"]), TypeError, "a tensor holds floats, integers or booleans"),
    (lambda: tg.tensor(np.zeros(2, np.float16)), TypeError, "a tensor of floats is float32 or float64, not float16"),
    (lambda: tg.from_numpy([1.0]), TypeError, "from_numpy: expected a NumPy array, got list"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for *_, message in ERRORS])
def test_errors_say_what_is_wrong(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_item_assignment_says_what_to_do_instead():
    x = tg.zeros(3)
    with pytest.raises(TypeError, match=r"a new one with stack, where, cat or masked_fill, or write to x\.numpy\(\)"):
        x[0] = 1.0
    x.numpy()[0] = 1.0
    assert x.tolist() == [1, 0, 0]


# ---- dtypes ----------------------------------------------------------------------------------------------------------


def test_what_data_become():
    assert tg.tensor(1.5).dtype == tg.tensor([[1.0, 2]]).dtype == np.float32
    assert tg.tensor(1).dtype == tg.tensor([1, 2]).dtype == np.int64
    assert tg.tensor(True).dtype == np.bool_
    assert tg.tensor(np.float64(1)).dtype == tg.tensor(np.zeros(2)).dtype == np.float64
    assert tg.tensor([np.float64(1)]).dtype == np.float64
    assert tg.tensor([1.0], dtype=np.float64).dtype == np.float64
    assert tg.tensor(np.zeros(2, ">f8")).dtype == np.dtype(np.float64)
    x = tg.tensor(1.0)
    assert tg.tensor(x).dtype == np.float32 and tg.tensor(x) is not x


@pytest.mark.parametrize("number", [2, 2.5, True, -1], ids=repr)
@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul, operator.truediv, tg.maximum])
def test_python_numbers_do_not_change_the_dtype(operation, number):
    for dtype in (np.float32, np.float64):
        x = tg.tensor(np.array([1.0, 2.0], dtype), requires_grad=True)
        for y in (operation(x, number), operation(number, x)):
            (dx,) = tg.grad(y.sum(), [x])
            assert y.dtype == dx.dtype == dtype


def test_promotion():
    single, double, whole, yes = tg.ones(2), tg.ones(2, dtype=tg.float64), tg.tensor([1, 2]), tg.tensor([True, False])
    assert (single + double).dtype == np.float64
    assert (single + whole).dtype == (whole + 0.5).dtype == (whole / 2).dtype == (yes * 0.5).dtype == np.float32
    assert (double * whole).dtype == np.float64
    assert (whole + 1).dtype == (whole * whole).dtype == (yes + whole).dtype == (yes + 1).dtype == np.int64
    assert (single + tg.tensor(np.float64(1))).dtype == np.float32, "0-d tensors do not promote those with dimensions"
    assert (single + np.float64(1)).dtype == np.float32
    assert (single + np.ones(2)).dtype == np.float64
    assert tg.cat([single, double]).dtype == tg.where(yes, single, double).dtype == np.float64


def test_gradients_keep_the_dtype_of_their_tensor():
    single = tg.tensor([1.0, 2.0], requires_grad=True)
    double = leaf([3.0, 4.0])
    (single * double).sum().backward()
    assert single.grad.dtype == np.float32 and double.grad.dtype == np.float64
    np.testing.assert_array_equal(single.grad.data, [3, 4])


def test_integers():
    n = tg.tensor([-7, 0, 7])
    assert tg.div(n, 2, rounding_mode="floor").tolist() == [-4, 0, 3]
    assert abs(n).tolist() == [7, 0, 7] and (-n).tolist() == [7, 0, -7] and (n**2).tolist() == [49, 0, 49]
    assert n.relu().tolist() == [0, 0, 7] and n.sum().item() == 0 and n.amax().item() == 7
    assert n.exp().dtype == n.tanh().dtype == np.float32
    assert tg.maximum(n, 3).tolist() == [3, 3, 7] and tg.clamp(n, -1, 1).tolist() == [-1, 0, 1]
    for x in (n, n + 1, abs(n)):
        assert x.dtype == np.int64 and not x.requires_grad


# ---- NumPy on either side --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "matmul", "lt", "ge", "eq"])
def test_arrays_and_tensors_mix(name):
    """`ndarray + tensor` reaches the tensor, whose graph it would lose otherwise."""
    operation = getattr(operator, name)
    a, b = np.array([[1.0, 2], [3, 4]]), np.array([[2.0, 0.5], [1, 3]])
    expected = operation(a, b)
    x, y = leaf(a), leaf(b)
    for result in (operation(a, y), operation(x, b), operation(x, y)):
        assert isinstance(result, tg.Tensor)
        np.testing.assert_allclose(result.numpy(), expected, rtol=1e-15)
        assert result.requires_grad == (expected.dtype == np.float64)


def test_numpy_scalars_and_functions():
    x = leaf([1.0, 2.0])
    y = np.float64(3) * x - np.float64(1)
    assert isinstance(y, tg.Tensor) and y.requires_grad and y.tolist() == [2, 5]
    assert np.exp(x).grad_fn.operation.name == "exp"


def test_as_an_array():
    x = tg.tensor([1.0, 2.0])
    assert np.asarray(x) is x.numpy() is x.data
    assert np.array(x) is not x.data and not np.shares_memory(np.array(x), x.data)
    assert np.asarray(x, np.float64).dtype == np.float64
    assert np.asarray(x, copy=False) is x.data
    with pytest.raises(ValueError, match="without copying"):
        np.asarray(x, np.float64, copy=False)
    assert np.stack([x, x]).shape == (2, 2)
    assert (x.item() if x.numel() == 1 else x.sum().item()) == 3 == float(x.sum()) == int(x.sum())
    assert [10, 20, 30][tg.tensor(1)] == 20


def test_memory_is_shared_where_it_is_said_to_be():
    array = np.zeros(3)
    shared, copied = tg.from_numpy(array), tg.tensor(array)
    array[0] = 1
    assert shared.tolist() == [1, 0, 0] and copied.tolist() == [0, 0, 0]
    assert np.shares_memory(shared.reshape(3, 1).data, array) and np.shares_memory(shared.detach().data, array)
    assert not np.shares_memory(shared.clone().data, array)


# ---- Broadcasting ----------------------------------------------------------------------------------------------------

FORMULAS = [row for row in TABLE.values() if isinstance(row, ElementwisePrimitive) and row.rules]
BINARY_ROWS = [row for row in FORMULAS if len(row.inputs) == len(row.rules) == 2]
OPERATORS = {name: TABLE[name] for name in ("floor_divide", "remainder")}  # of tensors, which have no function
TWO_SHAPES = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=SIDE, min_side=0)


@pytest.mark.parametrize("row", BINARY_ROWS, ids=lambda row: row.name)
@given(shapes=TWO_SHAPES, seed=st.integers(0, 99))
def test_broadcasting(row, shapes, seed):
    """Values are NumPy's; the gradient of a repeated operand is the sum over its repetitions."""
    rng = np.random.default_rng(seed)
    a, b = smooth_inputs(row, shapes.input_shapes, ["contiguous"] * 2, {}, rng)
    numpy_name = {"sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power"}.get(row.name, row.name)
    x, y = leaf(a), leaf(b)
    of = OPERATORS.get(row.name) or getattr(tg, row.name)
    z = of(x, y)
    assert z.shape == shapes.result_shape
    np.testing.assert_allclose(z.numpy(), getattr(np, numpy_name)(a, b), rtol=1e-14)

    dz = tg.tensor(rng.standard_normal(z.shape))
    dx, dy = tg.grad(z, [x, y], dz)
    wide_a, wide_b = (leaf(np.broadcast_to(array, z.shape)) for array in (a, b))
    wide = tg.grad(of(wide_a, wide_b), [wide_a, wide_b], dz)
    for narrow, repeated in zip((dx, dy), wide):
        extra = tuple(range(repeated.ndim - narrow.ndim))
        total = repeated.data.sum(extra)
        total = total.sum(tuple(i for i, n in enumerate(narrow.shape) if n != total.shape[i]), keepdims=True)
        np.testing.assert_allclose(narrow.data, total, rtol=1e-12, atol=1e-12)


@given(hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=3, max_side=3, min_side=0))
def test_products_broadcast(shapes):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape) for shape in shapes.input_shapes)
    x, y = leaf(a), leaf(b)
    z = x @ y
    assert z.shape == shapes.result_shape
    np.testing.assert_allclose(z.numpy(), a @ b, rtol=1e-12, atol=1e-12)
    dz = rng.standard_normal(z.shape)
    dx, dy = tg.grad(z, [x, y], tg.tensor(dz))
    for found, full in ((dx, dz @ b.swapaxes(-1, -2)), (dy, a.swapaxes(-1, -2) @ dz)):
        full = full.sum(tuple(range(full.ndim - found.ndim)))
        full = full.sum(tuple(i for i, n in enumerate(found.shape) if n != full.shape[i]), keepdims=True)
        np.testing.assert_allclose(found.data, full, rtol=1e-12, atol=1e-12)


# ---- Indexing --------------------------------------------------------------------------------------------------------

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@st.composite
def indices(draw):
    """A shape and an index that NumPy takes for it: basic, arrays, a mask, or arrays among slices."""
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["basic", "arrays", "mask", "mixed", "mask of a part"]))
    if kind == "basic":
        return shape, draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=5))
    if kind == "mask":
        return shape, draw(hnp.arrays(np.bool_, shape))
    if kind == "mask of a part":
        return shape, (draw(hnp.arrays(np.bool_, shape[:1])), *[slice(None)] * draw(st.integers(0, len(shape) - 1)))
    assume(0 not in shape)
    if kind == "arrays":
        return shape, draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    columns = [
        st.one_of(st.integers(-n, n - 1), st.slices(n), hnp.arrays(np.intp, 2, elements=st.integers(-n, n - 1)))
        for n in shape[: draw(st.integers(1, len(shape)))]
    ]
    index = list(draw(st.tuples(*columns)))
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), draw(st.sampled_from([None, Ellipsis])))
    return shape, tuple(index)


@given(indices())
def test_indexing(drawn):
    """Values and errors are NumPy's; every element gets as much gradient as there are places that show it."""
    shape, index = drawn
    array = counting(shape)
    try:
        expected = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            leaf(array)[index]
        return
    x = leaf(array)
    y = x[index]
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.numpy(), expected)
    dy = np.random.default_rng(0).integers(-9, 9, y.shape).astype(np.float64)
    for create_graph in (True, False):
        (dx,) = tg.grad(y, [x], tg.tensor(dy), create_graph=create_graph)
        total = np.zeros(shape)
        np.add.at(total, index, dy)
        np.testing.assert_array_equal(dx.numpy(), total)


def test_tensors_and_lists_as_indices():
    x = leaf(counting((4, 3)))
    rows = [2, 0, 2]
    expected = x.data[rows]
    for index in (rows, np.array(rows), tg.tensor(rows), [tg.tensor(i) for i in rows], np.array(rows, np.uint8)):
        np.testing.assert_array_equal(x[index].numpy(), expected)
    np.testing.assert_array_equal(x[tg.tensor(1), 2].numpy(), x.data[1, 2])
    np.testing.assert_array_equal(x[x > 5].numpy(), x.data[x.data > 5])
    np.testing.assert_array_equal(x[x.data[:, 0] > 5, 1].numpy(), x.data[x.data[:, 0] > 5, 1])
    np.testing.assert_array_equal(x[[]].numpy(), np.zeros((0, 3)))
    assert x[..., None].shape == (4, 3, 1) and x[None, 1].shape == (1, 3) and x[True].shape == (1, 4, 3)


def test_iterating_and_unpacking():
    x = leaf(counting((3, 2)))
    a, b, c = x
    assert len(x) == 3 and [row.tolist() for row in x] == x.tolist()
    (a * b * c).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [[15, 24], [5, 12], [3, 8]])


# ---- einsum ----------------------------------------------------------------------------------------------------------


@st.composite
def equations(draw):
    """One to three operands over five letters of sizes 1 to 3, with repeated letters, and any result."""
    sizes = dict(zip("abcde", draw(st.tuples(*[st.integers(1, 3)] * 5))))
    letters = st.text(alphabet="abcde", max_size=3)
    terms = draw(st.lists(letters, min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    result = "".join(draw(st.permutations(used)))[: draw(st.integers(0, len(used)))]
    equation = ",".join(terms) + (f"->{result}" if draw(st.booleans()) else "")
    return equation, [tuple(sizes[letter] for letter in term) for term in terms]


@given(equations())
def test_einsum(drawn):
    """Values are NumPy's; the derivative along a direction is the equation with that direction in x's place."""
    equation, shapes = drawn
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    xs = [leaf(array) for array in arrays]
    y = tg.einsum(equation, *xs)
    expected = np.einsum(equation, *arrays)
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    dy = rng.standard_normal(y.shape)
    gradients = tg.grad(y, xs, tg.tensor(dy))
    for i, (x, dx) in enumerate(zip(arrays, gradients)):
        direction = rng.standard_normal(x.shape)
        along = np.einsum(equation, *arrays[:i], direction, *arrays[i + 1 :])
        np.testing.assert_allclose(np.sum(dx.numpy() * direction), np.sum(dy * along), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("tbi,ih->tbh", [(4, 2, 3), (3, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 3), (4, 3, 2)]),
        ("i...,i", [(3, 2), (3,)]),
        ("ii", [(3, 3)]),
        ("ii->i", [(3, 3)]),
        ("iij,jk->ki", [(2, 2, 3), (3, 2)]),
        ("i,j,k->kji", [(2,), (3,), (4,)]),
        (" i j , j k -> i k ", [(2, 3), (3, 2)]),
        ("ij,jk,kl,lm", [(2, 3), (3, 2), (2, 2), (2, 3)]),
        ("ba", [(2, 3)]),
        (",ij", [(), (2, 3)]),
        ("bij,bj->bi", [(1, 3, 2), (4, 2)]),
        ("i,i->", [(0,), (0,)]),
    ],
)
def test_einsum_by_example(equation, shapes):
    arrays = [counting(shape) for shape in shapes]
    y = tg.einsum(equation, *map(leaf, arrays))
    np.testing.assert_allclose(y.numpy(), np.einsum(equation, *arrays), rtol=1e-13)
    np.testing.assert_array_equal(tg.einsum(equation, list(map(tg.tensor, arrays))).numpy(), y.numpy())
    tg.gradcheck(lambda *xs: tg.einsum(equation, *xs), [leaf(array / 10) for array in arrays])


def test_einsum_has_letters_to_spare_for_an_ellipsis():
    many = string.ascii_letters[:49]
    y = tg.einsum(f"{many[:2]}...,{many[2:4]}...->...", tg.ones(2, 2, 3), tg.ones(2, 2, 3))
    np.testing.assert_array_equal(y.numpy(), [16, 16, 16])


# ---- Functions built of rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (lambda x: tg.var(x, 1), lambda x: x.var(1, ddof=1)),
        (lambda x: tg.std(x, correction=0), lambda x: x.std()),
        (lambda x: tg.mean(x, (0, 1)), lambda x: x.mean((0, 1))),
        (lambda x: tg.prod(x, 1), lambda x: x.prod(1)), (tg.prod, np.prod),
        (lambda x: tg.logsumexp(x, 0), lambda x: np.log(np.exp(x).sum(0))),
        (lambda x: tg.flip(x, (0, 1)), lambda x: x[::-1, ::-1]),
        (lambda x: tg.roll(x, (1, -2), (0, 1)), lambda x: np.roll(x, (1, -2), (0, 1))),
        (lambda x: tg.tril(x, -1), lambda x: np.tril(x, -1)),
        (lambda x: tg.pad(x, (1, 2, 0, 1)), lambda x: np.pad(x, ((0, 1), (1, 2)))),
        (lambda x: tg.pad(x, (2, 1), mode="reflect"), lambda x: np.pad(x, ((0, 0), (2, 1)), mode="reflect")),
        (lambda x: tg.pad(x, (-1, 2), mode="circular"), lambda x: np.pad(x[:, 1:], ((0, 0), (0, 2)), mode="wrap")),
        (lambda x: tg.diagonal(x), lambda x: np.diagonal(x)),
        (lambda x: tg.diagonal(x, 1), lambda x: np.diagonal(x, 1)),
        (lambda x: tg.diagonal(x, -2, 1, 0), lambda x: np.diagonal(x, -2, 1, 0)),
        (lambda x: tg.diagonal(x, -9), lambda x: np.diagonal(x, -9)),
        (lambda x: tg.outer(x[0], x[1]), lambda x: np.outer(x[0], x[1])),
        (lambda x: tg.softplus(x, beta=2), lambda x: np.log1p(np.exp(2 * x)) / 2),
        (lambda x: tg.stack(tg.chunk(x, 2, 1)[0].unbind(1), 1), lambda x: x[:, :2]),
    ],
)
def test_compositions(function, reference):
    x = leaf(np.random.default_rng(5).standard_normal((3, 4)))
    np.testing.assert_allclose(function(x).numpy(), reference(x.data), rtol=1e-12)
    tg.gradcheck(function, x)
    tg.gradgradcheck(function, x)


def test_the_gradient_of_a_product_with_zeros_is_finite():
    for numbers in ([2.0, 0, 3], [0.0, 0, 3], [1.0, 2, 0, 4, 5]):
        x = leaf(numbers)
        (dx,) = tg.grad(x.prod(), [x])
        np.testing.assert_array_equal(dx.data, [np.prod(np.delete(x.data, i)) for i in range(len(numbers))])


def test_std_of_equal_numbers_has_gradient_zero():
    x = leaf([3.0, 3, 3])
    (dx,) = tg.grad(x.std(), [x])
    np.testing.assert_array_equal(dx.data, [0, 0, 0])


LARGE = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T,
    "every third": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "reversed": lambda x: x[::-1, ::-1],
    "rows repeated": lambda x: np.broadcast_to(x[:2, None], (2, 50, x.shape[1])).reshape(100, -1),
}


def log_sum(x, axis=None):
    largest = x.max(axis=axis, keepdims=True)
    return np.log(np.sum(np.exp(x - largest), axis=axis)) + largest.reshape(np.max(x, axis=axis).shape)


def gradient_of_broadcasting(x, axis=None):
    """What an operand that was repeated along `axis` gets of a gradient x."""
    small = tg.zeros(*np.sum(x, axis=axis, keepdims=axis != 0).shape, requires_grad=True)
    small.expand(x.shape).backward(tg.tensor(x))
    return small.grad.sum(-1) if axis == 1 else small.grad


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="so many numbers take too long")
@pytest.mark.parametrize("layout", LARGE)
@pytest.mark.parametrize(
    ("ours", "numpys"),
    [
        (tg.sum, np.sum),
        (tg.mean, np.mean),
        (lambda x, axis=None: tg.var(x, axis, correction=0), np.var),
        (lambda x, axis=None: tg.logsumexp(x, (0, 1) if axis is None else axis), log_sum),
        (lambda x, axis=None: gradient_of_broadcasting(x.numpy(), axis), np.sum),
    ],
    ids=["sum", "mean", "var", "logsumexp", "gradient of broadcasting"],
)
def test_reductions_lose_no_more_digits_than_numpys(ours, numpys, layout):
    """Over everything and along either dimension, of numbers of which one running sum would lose a lot."""
    chosen = np.random.default_rng(0).random((100, 30_000)) < 0.01
    x = LARGE[layout](np.where(chosen, 1, 0.1).astype(np.float32))
    for axis in (None, 0, 1):
        exact = numpys(x.astype(np.float64), axis=axis)
        found, numpy_found = ours(tg.from_numpy(x), axis).numpy(), numpys(x, axis=axis)
        off, numpy_off = (np.max(np.abs(y - exact)) / np.max(np.abs(exact)) for y in (found, numpy_found))
        assert off <= max(numpy_off, 4 * np.finfo(np.float32).eps)
        if axis is None and numpys is np.sum:
            running = np.add.accumulate(x.ravel())[-1]
            assert abs(running - exact) / exact > 1e-3 > 100 * numpy_off, "one running sum would pass"


def test_random_numbers_are_repeatable_and_belong_to_their_thread():
    tg.manual_seed(3)
    first, state = tg.rand(3), tg.get_rng_state()
    second = tg.randn(2)
    tg.set_rng_state(state)
    np.testing.assert_array_equal(tg.randn(2).data, second.data)
    tg.manual_seed(3)
    np.testing.assert_array_equal(tg.rand(3).data, first.data)
    assert first.dtype == second.dtype == np.float32 and tg.randint(0, 5, (4,)).dtype == np.int64


# ---- gradcheck -------------------------------------------------------------------------------------------------------


class Wrong:
    """y = x * x with a gradient rule that is wrong by `error` at one element."""

    name = "wrong_square"
    fresh = False
    scatter = None

    def __init__(self, error):
        self.error = error

    def __call__(self, x):
        return Value.tensor(x.data * x.data, Node(self, (x.node,), (x.data.shape,), (x.data,)))

    def gradients(self, dy, saved):
        slip = np.zeros(saved[0].shape)
        slip[1, 0] = self.error
        return [dy * (2 * saved[0] + slip)]

    def rewrap(self, node):
        return node.saved


def test_gradcheck_finds_the_worst_entry_and_names_it():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert tg.gradcheck(Wrong(0), x)
    with pytest.raises(tg.GradcheckError) as error:
        tg.gradcheck(Wrong(0.5), x)
    assert "gradient of output 0 (made by wrong_square) with respect to input 0" in str(error.value)
    assert "worst at output[1, 0], input[1, 0]: backward gives 6.5, finite differences 6.0000" in str(error.value)
    assert not tg.gradcheck(Wrong(0.5), x, raise_exception=False)
    assert isinstance(error.value, AssertionError)


def test_gradcheck_has_tolerances():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert tg.gradcheck(Wrong(1e-4), x)
    assert not tg.gradcheck(Wrong(1e-4), x, atol=1e-6, rtol=1e-6, raise_exception=False)


def test_gradcheck_of_several_inputs_and_outputs():
    a, b, constant = leaf([1.0, 2.0]), leaf([[0.5], [3.0]]), tg.tensor(np.array([2.0, 1.0]))
    assert tg.gradcheck(lambda a, b, c: (a * b * c, a.sum(), "no tensor"), (a, b, constant))
    with pytest.raises(tg.GradcheckError, match=r"gradient of output 1 .* with respect to input 1"):
        tg.gradcheck(lambda a, b: (a * 1.0, Wrong(1)(b.expand(2, 2))), (a, b))


def test_gradcheck_finds_nan():
    with pytest.raises(tg.GradcheckError, match="backward gives inf"):
        tg.gradcheck(lambda x: x.sqrt(), leaf([0.0]))


def test_gradcheck_refuses_what_it_cannot_check():
    with pytest.raises(ValueError, match="gradcheck: input 0 is float32; finite differences need float64"):
        tg.gradcheck(lambda x: x * x, tg.tensor([1.0], requires_grad=True))
    with pytest.raises(ValueError, match="no input requires a gradient"):
        tg.gradcheck(lambda x: x * x, tg.tensor(1.0))


def test_gradcheck_leaves_its_inputs_alone():
    x = leaf([1.0, 2.0])
    before = x.data
    tg.gradcheck(lambda x: x * x, x)
    assert x.data is before and x.grad is None and before.tolist() == [1, 2]


class WrongTwice:
    """y = x^3 with the right first gradient, recorded without its dependence on x."""

    name = "wrong_twice"
    fresh = False
    scatter = None

    def __call__(self, x):
        return Value.tensor(x.data**3, Node(self, (x.node,), (x.data.shape,), (x.data,)))

    def gradients(self, dy, saved):
        return [dy * (3 * saved[0] ** 2)]

    def rewrap(self, node):
        return node.saved  # arrays, not tensors that remember x


def test_gradgradcheck_sees_what_gradcheck_cannot():
    x = leaf([1.0, 2.0])
    assert tg.gradcheck(WrongTwice(), x)
    with pytest.raises(tg.GradcheckError, match="with respect to input 0"):
        tg.gradgradcheck(WrongTwice(), x)
    assert tg.gradgradcheck(lambda x: x**3, x)
    assert tg.gradgradcheck(lambda x: x**3, x, tg.tensor(np.array([1.0, -2.0]), requires_grad=True))


def test_gradcheck_notices_a_backward_pass_that_is_not_deterministic():
    x = tg.tensor(np.ones(3), requires_grad=True)
    noise = iter(np.linspace(1, 1.00001, 100))

    def noisy(x):
        y = x * 2
        if y.requires_grad:
            y.register_hook(lambda dy: dy * next(noise))
        return y * 1.0

    with pytest.raises(tg.GradcheckError, match="two backward passes from output 0 to input 0 differ"):
        tg.gradcheck(noisy, (x,))
    assert tg.gradcheck(noisy, (x,), nondet_tol=1e-3)
