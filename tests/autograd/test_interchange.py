"""Tensors in the hands of NumPy and of other libraries: what is recorded, what is refused, what is shared."""

import math
import operator
import re
import threading

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import interchange

UNARY = "negative absolute fabs exp expm1 log log1p sqrt square reciprocal sign floor sin cos tanh".split()
BINARY = "add subtract multiply divide power maximum minimum matmul remainder".split()
TESTS = "equal not_equal less less_equal greater greater_equal floor_divide logical_and logical_or".split()


def leaf(*shape, dtype=np.float64, seed=0):
    return tg.tensor(np.random.default_rng(seed).uniform(0.5, 2, shape).astype(dtype), requires_grad=True)


@pytest.mark.parametrize("name", UNARY)
def test_ufuncs_of_one_operand_are_recorded(name):
    ufunc, x = getattr(np, name), leaf(3)
    y = ufunc(x)
    assert isinstance(y, tg.Tensor) and y.grad_fn is not None
    np.testing.assert_allclose(y.numpy(), ufunc(x.numpy()), rtol=1e-12)
    assert tg.gradcheck(ufunc, [x]) if name not in ("sign", "floor") else True


@pytest.mark.parametrize("name", [*BINARY, *TESTS])
def test_ufuncs_of_two_operands_are_recorded_on_either_side(name):
    ufunc, x, y = getattr(np, name), leaf(2, 2), leaf(2, 2, seed=1)
    for a, b in ((x, y), (x, y.numpy()), (x.numpy(), y)):
        result = ufunc(a, b)
        np.testing.assert_allclose(result.numpy(), ufunc(x.numpy(), y.numpy()), rtol=1e-12)
        assert isinstance(result, tg.Tensor) and result.requires_grad == (name in BINARY)
    if name in BINARY:
        assert tg.gradcheck(lambda x: ufunc(y.numpy(), x), [x]) and tg.gradcheck(ufunc, [x, y])


OPERATORS = "add sub mul truediv floordiv mod pow matmul eq ne lt le gt ge".split()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("other", [np.full((2, 2), 3.0), np.float64(3), np.float32(3), np.int64(3)], ids=repr)
def test_operators_with_arrays_and_scalars_on_the_left(name, other):
    if name == "matmul" and not other.ndim:
        return
    operation, x = getattr(operator, name), leaf(2, 2)
    y = operation(other, x)
    assert isinstance(y, tg.Tensor)
    np.testing.assert_allclose(y.numpy(), operation(other, x.numpy()), rtol=1e-12)


def test_python_s_rounding_of_quotients():
    x, y = np.array([7.0, -7.0, 1.0, 5.3, -0.0, np.inf]), np.array([2.0, 2.0, 0.1, -0.1, 3.0, 2.0])
    for dtype in (np.float64, np.float32):
        a, b = tg.tensor(x.astype(dtype)), tg.tensor(y.astype(dtype))
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal((a // b).numpy(), [operator.floordiv(*xy) for xy in zip(a.data, b.data)])
            np.testing.assert_array_equal((a % b).numpy(), np.remainder(a.data, b.data))
    assert [q.tolist() for q in divmod(tg.tensor([7, -7]), 2)] == [[3, -4], [1, 1]]
    assert (7 // tg.tensor([2, -2])).tolist() == [3, -4] and (7 % tg.tensor([2, -2])).tolist() == [1, -1]
    assert (tg.tensor([7], dtype=np.int32) // 2).dtype == np.int32 and (tg.tensor([7]) // 2.0).dtype == np.float32
    a, b = leaf(3), tg.tensor(np.array([0.3, -0.7, 0.4]), requires_grad=True)
    (a % b).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), [1, 1, 1])
    np.testing.assert_array_equal(b.grad.numpy(), -np.floor_divide(a.data, b.data))
    for operation in (operator.floordiv, operator.mod):
        with pytest.raises(ZeroDivisionError):
            operation(tg.tensor([1]), 0)


@pytest.mark.parametrize("name", ["and_", "or_", "xor"])
def test_bits_of_integers_and_truth_of_booleans(name):
    operation = getattr(operator, name)
    for dtype in (np.int64, np.int8, np.uint8):
        a, b = np.array([6, 5, 0], dtype), np.array([3, 5, 1], dtype)
        for left, right in ((tg.tensor(a), tg.tensor(b)), (a, tg.tensor(b)), (tg.tensor(a), 3)):
            y = operation(left, right)
            raw = operation(*[x.numpy() if isinstance(x, tg.Tensor) else x for x in (left, right)])
            assert y.tolist() == raw.tolist() and y.dtype == raw.dtype
    truth = tg.tensor([True, True, False]), tg.tensor([True, False, False])
    assert operation(*truth).tolist() == operation(*[x.numpy() for x in truth]).tolist()
    for other in (tg.ones(1), 1.0, np.ones(1)):
        with pytest.raises(TypeError, match="for integers and booleans"):
            operation(tg.tensor([1]), other)
    assert (~tg.tensor([1, 0])).tolist() == [-2, -1] and (~tg.tensor([True])).tolist() == [False]
    with pytest.raises(TypeError, match="for integers and booleans"):
        ~tg.ones(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.concatenate([np.ones(2), x]), lambda x: np.where(np.ones(2) > 0, x, 0), np.mean, np.sum, np.std,
        lambda x: np.stack((x, x)), np.cumsum, np.max, np.linalg.norm, lambda x: np.einsum("i->", x), np.flip, np.ravel,
        lambda x: np.dot(x, np.ones(2)), lambda x: np.clip(x, 0, 1), lambda x: np.interp(1.0, x, x), np.diff, np.outer,
        np.arctan2, np.add.accumulate, np.hypot, lambda x: np.add(x, 1, where=np.ones(2) > 0),
    ],
)  # fmt: skip
def test_numpy_s_own_functions_do_not_lose_a_gradient(call):
    with pytest.raises(TypeError):
        call(leaf(2)) if call not in (np.outer, np.arctan2, np.hypot) else call(leaf(2), leaf(2))


ADVISED = (
    "concatenate hstack vstack column_stack append expand_dims swapaxes moveaxis transpose ravel max min clip take "
    "take_along_axis array_split copy linalg.norm inner tensordot vdot repeat tile nansum stack mean sum std cumsum"
).split()


@pytest.mark.parametrize("name", ADVISED)
def test_what_stands_for_a_function_of_numpy_s_is_there(name):
    function = operator.attrgetter(name)(np)
    with pytest.raises(TypeError, match=rf"np\.{name} would lose the gradient .*: write .*;") as caught:
        leaf(2).__array_function__(function, (tg.Tensor,), (leaf(2),), {})
    advice = re.search(r": write (.*);", str(caught.value))[1]
    found = [(tg if room == "tg" else tg.Tensor, each) for room, each in re.findall(r"\b(tg|x)\.(\w+)", advice)]
    assert (found or advice == "x[indices]") and all(hasattr(room, each) for room, each in found), advice


def test_tensors_that_want_no_gradient_are_arrays_to_them():
    x = tg.tensor([1.0, 2.0])
    for call in (np.mean, np.sum, np.cumsum, np.linalg.norm, lambda x: np.concatenate([x, np.ones(1)]), np.median):
        y, expected = call(x), call(x.numpy())
        assert type(y) is type(expected) and np.array_equal(y, expected)
    for call in (np.shape, np.argmax, lambda x: np.allclose(x, x), lambda x: np.array_equal(x, [1, 2]), np.nonzero):
        np.testing.assert_equal(call(leaf(2, seed=3)), call(leaf(2, seed=3).numpy()))
    np.testing.assert_allclose(leaf(2), leaf(2).numpy())
    assert np.asarray(x) is x.data


UFUNCS = sorted({f.__name__ for f in vars(np).values() if isinstance(f, np.ufunc)} - {"isnat"})


@pytest.mark.parametrize("name", UFUNCS)
@np.errstate(all="ignore")
def test_every_ufunc_of_numpy_is_recorded_refused_or_has_no_gradient_to_lose(name):
    ufunc, arrays = getattr(np, name), [np.array([[0.3, 0.8], [0.5, 0.2]]), np.array([[0.5, 0.7], [0.1, 0.9]])]
    for kind in (np.float64, np.int64):
        given = [np.ceil(x).astype(kind) if kind is np.int64 else x for x in arrays[: ufunc.nin]]
        tensors = [tg.tensor(x) for x in given]
        try:
            expected = ufunc(*given)
        except TypeError:
            with pytest.raises(TypeError):
                ufunc(*tensors)
            continue
        if name == "matmul" and kind is np.int64:
            continue
        np.testing.assert_allclose(np.asarray(ufunc(*tensors)), np.asarray(expected), rtol=1e-6)
    wanting = [tg.tensor(x, requires_grad=True) for x in arrays[: ufunc.nin]]
    try:
        y = ufunc(*wanting)
    except TypeError:
        return
    assert all(isinstance(each, tg.Tensor) for each in (y if isinstance(y, tuple) else (y,))), "silently a constant"


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: a layer has no kernels")
def test_a_step_with_numpy_in_it_is_compiled():
    class Numpy(tg.nn.Cell):
        def __init__(self):
            self.hidden_size, self.U = 3, tg.nn.Parameter(tg.ones(3, 3) * 0.1)

        def step(self, x, h):
            return np.tanh(np.add(x, h @ self.U) * np.float32(0.5))

    cell, x = Numpy(), tg.randn(4, 2, 3)
    (y, _), (z, _) = (tg.nn.Recurrent(cell, fused=fused)(x) for fused in ("require", "never"))
    np.testing.assert_allclose(y.numpy(), z.numpy(), rtol=1e-5)


def test_every_name_in_the_tables_is_there():
    for name, ours in interchange._CALLED.items():
        assert isinstance(getattr(np, name), np.ufunc) and interchange._ours(name) is not None, ours
    for name in [*interchange._INSTEAD, *interchange._HARMLESS]:
        assert callable(operator.attrgetter(name)(np)), name


def test_memory_is_shared_by_dlpack():
    for x in (tg.ones(2, 3), leaf(2, 3), tg.ones(2, 3).T, tg.tensor([1, 2])):
        y = np.from_dlpack(x)
        assert np.shares_memory(x.numpy(), y) and y.shape == x.shape and x.__dlpack_device__() == (1, 0)
    torch = pytest.importorskip("torch")
    x = tg.ones(2)
    torch.from_dlpack(x).mul_(3)
    assert x.tolist() == [3, 3]


# ---- Dtypes: one door ------------------------------------------------------------------------------------------------

DOORS = [
    lambda dtype: tg.zeros(2, dtype=dtype), lambda dtype: tg.ones(2, dtype=dtype), lambda dtype: tg.eye(2, dtype=dtype),
    lambda dtype: tg.full((2,), 1, dtype=dtype), lambda dtype: tg.arange(2, dtype=dtype),
    lambda dtype: tg.zeros_like(tg.ones(2), dtype=dtype), lambda dtype: tg.ones_like(tg.ones(2), dtype=dtype),
    lambda dtype: tg.tensor([1, 2], dtype=dtype), lambda dtype: tg.ones(2).to(dtype),
    lambda dtype: tg.ones(2).astype(dtype),
    lambda dtype: tg.sum(tg.ones(2), dtype=dtype), lambda dtype: tg.mean(tg.ones(2), dtype=dtype),
    lambda dtype: tg.softmax(tg.ones(2), 0, dtype=dtype), lambda dtype: tg.cumsum(tg.ones(2), 0, dtype=dtype),
    lambda dtype: tg.rand(2, dtype=dtype), lambda dtype: tg.randn(2, dtype=dtype),
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_dtypes_are_refused_at_every_door(door):
    for dtype in (np.float16, "half", complex, object, "U3", ">f4", np.longdouble, "M8[s]", "no such"):
        if np.dtype(dtype if dtype != "no such" else float) == np.float64 and dtype is np.longdouble:
            continue  # where long doubles are doubles
        with pytest.raises(TypeError):
            door(dtype)
    for dtype in (np.float32, "float64"):
        assert door(dtype).dtype == dtype


def test_what_is_too_large_is_infinite_without_a_warning():
    c = tg.ones(2)
    for y in (c * 1e40, tg.tensor([1e40]), tg.full((1,), 1e40), tg.tensor(np.array([1e40])).float(), 1e40 + c):
        assert y.dtype == np.float32 and y.tolist()[0] == math.inf
    assert tg.where(c > 1, c, -1e40).tolist() == [-math.inf] * 2 and tg.maximum(c, 1e40).tolist() == [math.inf] * 2
    assert tg.where(c > 1, c.double(), -1e40).tolist() == [-1e40] * 2 and (c.double() * 1e40).tolist() == [1e40] * 2
    with tg.detect_anomaly():
        assert (c * 1e40).tolist()[0] == math.inf
    threads = [threading.Thread(target=lambda: [c * (1e40 + i * 1e30) for i in range(200)]) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


# ---- PyTorch's names -------------------------------------------------------------------------------------------------


def test_extremes_and_norms():
    x = tg.tensor([[1.0, 3.0, 3.0], [4.0, 2.0, 0.0]], requires_grad=True)
    values, indices = x.max(dim=1)
    assert values.tolist() == [3, 4] and indices.tolist() == [1, 0] and indices.dtype == np.int64
    values.sum().backward()
    assert x.grad.tolist() == [[0, 1, 0], [1, 0, 0]], "the first of equals"
    assert x.min(-1, keepdim=True).values.tolist() == [[1], [0]] and tg.max(x).item() == 4 and tg.min(x).item() == 0
    assert x.max(tg.ones(2, 3) * 2).tolist() == [[2, 3, 3], [4, 2, 2]] and tg.tensor(3.0).max(0).indices.item() == 0
    for p, expected in ((2, 39**0.5), ("fro", 39**0.5), (1, 13), (math.inf, 4), (3, (1 + 27 + 27 + 64 + 8) ** (1 / 3))):
        np.testing.assert_allclose(x.norm(p).item(), expected, rtol=1e-6)
    zero = tg.zeros(2, requires_grad=True)
    zero.norm().backward()
    assert zero.grad.tolist() == [0, 0] and x.norm(dim=0, keepdim=True).shape == (1, 3)
    assert x.t().shape == (3, 2) and tg.ones(2).t().shape == (2,)
    with pytest.raises(ValueError, match="mT"):
        tg.ones(1, 2, 3).t()


def test_advice_is_no_attribute():
    x = tg.ones(2)
    assert not hasattr(x, "cuda") and not hasattr(tg.Tensor, "cuda") and getattr(x, "add_", None) is None
    assert not {"cuda", "add_", "silu"} & set(dir(x)) and {"max", "cpu", "norm", "shape"} <= set(dir(x))
    assert all(hasattr(tg.ones(2, 2), name) for name in dir(x) if name != "__abstractmethods__")
