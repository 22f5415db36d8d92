"""Softmax under a mask against its definition in float64."""

import numpy as np
import pytest

from tinygrad_rnn.kernels.masked_softmax import LOG, PLAIN, gradient, gradient_of_log, masked_softmax

RANDOM = np.random.default_rng(0)


def defined(x, bias, scale, causal):
    z = np.broadcast_to(x.astype(np.float64) * scale + np.asarray(bias, np.float64), x.shape)
    z = np.where(np.tri(*z.shape[-2:], dtype=bool), z, -np.inf) if causal else z
    top = z.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(z - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def check(x, bias=0, scale=0.5, causal=False):
    y, right = masked_softmax(x, bias, scale, causal), defined(x, bias, scale, causal)
    few = 100 * np.finfo(x.dtype).eps
    np.testing.assert_allclose(y, right, rtol=few, atol=few)
    assert y.dtype == x.dtype and y.shape == x.shape and (y[right == 0] == 0).all()
    dy = RANDOM.standard_normal(x.shape).astype(x.dtype)
    expected = scale * right * (dy - (dy * right).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient(dy, y, scale), expected, rtol=few, atol=few)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 16, 33, 100])
def test_rows_of_any_size(size, dtype):
    draw = lambda *shape: RANDOM.standard_normal(shape).astype(dtype)
    for causal in (False, True):
        check(draw(5, size), causal=causal)
        check(draw(2, 3, size), draw(3, 1), -2.0, causal)
        check(draw(2, 2, 3, size), draw(2, 1, 1, size), causal=causal)
        check(10 * draw(2, 9, size), np.where(RANDOM.random((9, size)) < 0.7, -np.inf, 0).astype(dtype), causal=causal)


def test_any_layout():
    x, bias = RANDOM.standard_normal((2, 6, 8)), RANDOM.standard_normal((6, 8))
    for lay in (np.asfortranarray, lambda a: a[..., ::-1], lambda a: np.broadcast_to(a[..., :1], a.shape)):
        check(lay(x), lay(bias))
    for each in (x, bias):
        each.flags.writeable = False
    check(x, bias)


def test_no_rows_and_empty_ones():
    for shape in ((0, 4), (2, 0, 4), (3, 0), (0, 0)):
        check(np.zeros(shape), causal=True)


def test_numbers_that_are_none():
    """A NaN makes its row NaN, whichever sign its bits have; what is hidden counts as minus infinity, NaN or not."""
    inf, nan = np.inf, np.nan
    for dtype in (np.float32, np.float64):
        x = np.array([[0, 1, nan], [0, 1, -np.float64(nan)], [nan, nan, nan], [-inf, nan, -inf], [1, 2, inf]], dtype)
        assert np.isnan(masked_softmax(x, 0, 1.0, False)).all()
        y = masked_softmax(np.array([[1.0, nan], [-inf, -inf], [-inf, 3.0]], dtype), 0, 1.0, True)
        assert y.tolist() == [[1, 0], [0, 0], [0, 1]]
        far = np.array([[3e38, -3e38], [-3e38, -3e38]], dtype)
        assert masked_softmax(far, 0, 1.0, False).tolist() == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("bias", [np.ones(3), np.ones((3, 4)), np.ones((1, 2, 4))])
def test_what_does_not_fit_is_refused(bias):
    with pytest.raises(ValueError, match=r"broadcast|shape|dimensions"):
        masked_softmax(np.ones((2, 4)), bias, 1.0, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 33, 100])
def test_plain_softmax_and_its_logarithm(size, dtype):
    x, dy = (RANDOM.standard_normal((3, 2, size)).astype(dtype) * 4 for _ in range(2))
    x[1] = np.round(x[1]) + 4096
    e = np.exp(x.astype(np.longdouble) - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    for form, right, dx in (
        (PLAIN, p, p * (dy - (dy * p).sum(-1, keepdims=True))),
        (LOG, np.log(p), dy - p * dy.sum(-1, keepdims=True)),
    ):
        y = masked_softmax(x, 0, form=form)
        found = gradient(dy, y, 1) if form == PLAIN else gradient_of_log(dy, y)
        for a, b in ((y, right), (found, dx)):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=20 * np.finfo(dtype).eps * max(np.abs(b).max(), 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_minus_infinity_is_nan_without_a_mask(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([[-inf, -inf], [0, -inf], [nan, 1], [inf, 0], [1000, -1000]], dtype)
    with np.errstate(invalid="ignore"):
        shifted = x - x.max(1, keepdims=True)
        p = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    np.testing.assert_array_equal(masked_softmax(x, 0, form=PLAIN), p)
    np.testing.assert_array_equal(np.exp(masked_softmax(x, 0, form=LOG)), p)
    assert masked_softmax(x[4], 0, form=LOG).tolist() == [0, -2000]
    assert masked_softmax(np.zeros((2, 0), dtype), 0, form=PLAIN).shape == (2, 0)
