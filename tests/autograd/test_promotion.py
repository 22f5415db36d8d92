"""What dtype a result has, and that numbers are not rounded or wrapped before they are combined."""

import numpy as np
import pytest

import tinygrad_rnn as tg


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((np.float32(0.5), np.float32(3)), [0.5, 1.5, 2.5]),
        ((0, np.float32(1), np.float32(0.25)), [0, 0.25, 0.5, 0.75]),
        ((tg.tensor(3.0),), [0, 1, 2]),
        ((np.int64(1), np.int32(4)), [1, 2, 3]),
        ((5, 0, -2), [5, 3, 1]),
        ((3, 0), []),
    ],
)
def test_arange_of_any_number(arguments, expected):
    found = tg.arange(*arguments)
    floats = any(isinstance(x, np.float32) or (isinstance(x, tg.Tensor) and x.dtype.kind == "f") for x in arguments)
    assert found.tolist() == expected and found.dtype == (np.float32 if floats else np.int64)


@pytest.mark.parametrize("arguments", [(0, 3, 0), (0, float("inf")), (0, 1, float("nan"))])
def test_arange_without_an_end(arguments):
    with pytest.raises(ValueError, match="arange: there is no end of numbers from 0"):
        tg.arange(*arguments)


def test_division_that_is_rounded_is_exact():
    """As `//` is: not a quotient that was rounded to a float first."""
    assert tg.div(tg.tensor([2**24 + 1]), 1, rounding_mode="floor").tolist() == [2**24 + 1]
    assert tg.div(tg.tensor([1.0]), tg.tensor([0.1]), rounding_mode="floor").tolist() == [9]
    a, b = tg.tensor([-7, 7, -8, 8, 0]), tg.tensor([2, -2, 2, 3, 5])
    assert tg.div(a, b, rounding_mode="trunc").tolist() == [-3, -3, -4, 2, 0]
    assert tg.div(a.double(), b, rounding_mode="trunc").tolist() == [-3, -3, -4, 2, 0]
    assert tg.div(a, b, rounding_mode="trunc").dtype == np.int64
    with pytest.raises(ZeroDivisionError, match="div: integers are not divided by zero"):
        tg.div(a, 0, rounding_mode="floor")


def test_a_quotient_is_cut_off_as_in_pytorch():
    """Floats are divided and then cut off, 1 / 0.1 to 10, infinity included; integers are exact, the least too."""
    a = np.array([1.0, -1.0, -0.5, np.inf, -np.inf, np.nan, 3.0, 3.0, 0.0])
    b = np.array([0.1, 0.1, 2.0, 2.0, 2.0, 2.0, -np.inf, 0.0, 0.0])
    x, y = tg.tensor(a, requires_grad=True), tg.tensor(b, requires_grad=True)
    found = tg.div(x, y, rounding_mode="trunc")
    with np.errstate(all="ignore"):
        expected = np.trunc(a / b)
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(np.signbit(found.numpy()[:-1]), np.signbit(expected[:-1]), "-0 where there is one")
    found.sum().backward()
    assert not x.grad.numpy().any() and not y.grad.numpy().any()
    for dtype in (np.int8, np.int64):
        a, b = np.array([np.iinfo(dtype).min, -7, 7, -8, 0, 3], dtype), np.array([2, 2, -2, 3, -5, 5], dtype)
        expected = [(1 if (m < 0) == (n < 0) else -1) * (abs(m) // abs(n)) for m, n in zip(a.tolist(), b.tolist())]
        assert tg.div(tg.tensor(a), tg.tensor(b), rounding_mode="trunc").tolist() == expected


def test_alpha_multiplies_in_the_dtype_of_the_result():
    small = tg.tensor(np.array([100], np.int8))
    assert (tg.add(tg.zeros(1), small, alpha=2).item(), tg.sub(tg.zeros(1), small, alpha=2).item()) == (200, -200)


def test_truths_stay_truths():
    causal = tg.tril(tg.ones(3, 3, dtype=bool))
    assert causal.dtype == np.bool_ and tg.triu(causal).tolist() == np.eye(3, dtype=bool).tolist()
    assert causal.masked_fill(causal, 0).dtype == np.bool_ and not causal.masked_fill(causal, 0).any()
    q = tg.ones(1, 3, 2)
    assert tg.nn.functional.scaled_dot_product_attention(q, q, q, causal).shape == (1, 3, 2)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_numbers_of_numpys_are_numbers(shape):
    """A loss that is scaled by np.sqrt(2) stays in float32, as in PyTorch; an array decides."""
    x, root = tg.full(shape, 3.0), np.sqrt(2.0)
    for y in (x * root, root * x, x + root, x**root, tg.where(x > 0, root, x), tg.maximum(x, root)):
        assert y.dtype == np.float32 and y.shape == shape
    assert (tg.full(shape, 3) * root).dtype == np.float32 and (x * np.full(shape or (1,), root)).dtype == np.float64
    assert (x * np.float64(1e300)).tolist() == tg.full(shape, np.inf).tolist()
    assert tg.add(root, root).item() == 2 * root, "nobody said that it was less exact"


def test_a_nan_is_not_lost_in_the_gradient_of_a_norm():
    x = tg.tensor([1.0, np.nan, 2.0], requires_grad=True)
    x.norm().backward()
    assert np.isnan(x.grad.numpy()).all()
