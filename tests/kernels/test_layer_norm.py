"""Normalised rows against their definition in float64."""

import numpy as np
import pytest

from tinygrad_rnn.kernels.layer_norm import gradients, layer_norm

RANDOM = np.random.default_rng(0)


def defined(x, weight, bias, axes, eps, dy):
    """y, dx, dweight and dbias, each as the formula has it."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    mean = lambda a: a.mean(axes, keepdims=True)
    r = 1 / np.sqrt(mean((x - mean(x)) ** 2) + eps)
    n, g = (x - mean(x)) * r, dy * weight
    rows = tuple(range(x.ndim - len(axes)))
    return n * weight + bias, r * (g - mean(g) - n * mean(g * n)), (dy * n).sum(rows), dy.sum(rows)


def check(x, weight, bias, dim, dy, eps=1e-3, least=1):
    y, found = layer_norm(x, weight, bias, dim, eps), gradients(dy, x, dim, eps, weight)
    for a, b in zip([y, *found], defined(x, weight, bias, dim, eps, dy), strict=True):
        assert a.shape == b.shape and a.dtype == x.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(x.dtype).eps * np.abs(b).max(initial=least))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 16, 33, 100])
def test_rows_of_any_size(size, dtype):
    draw = lambda *shape: RANDOM.standard_normal(shape).astype(dtype) + dtype(3)
    check(draw(5, size), draw(size), draw(size), (1,), draw(5, size))
    check(draw(size), draw(size), 0.5, (0,), draw(size))
    check(draw(2, 3, size), 2, draw(3, size), (1, 2), draw(2, 3, size))


def test_any_layout():
    x, dy, w, b = (RANDOM.standard_normal(s) for s in ((6, 8), (6, 8), (8,), (8,)))
    for lay in (np.asfortranarray, lambda a: a[..., ::-1], lambda a: np.broadcast_to(a[..., :1], a.shape)):
        check(lay(x), lay(w), lay(b), (1,), lay(dy))
    for each in (x, dy, w, b):
        each.flags.writeable = False
    check(x, w, b, (1,), dy)


def test_no_rows_and_empty_ones():
    for shape in ((0, 4), (2, 0, 4)):
        check(np.zeros(shape), np.ones(4), np.ones(4), (len(shape) - 1,), np.zeros(shape))
    assert layer_norm(np.zeros((3, 0)), 1, 0, (1,), 0.1).shape == (3, 0)


def test_a_nan_stays_in_its_row_and_a_mean_far_off_costs_no_digits():
    x = RANDOM.standard_normal((3, 8)).astype(np.float32)
    x[1, 2] = np.nan
    y, (dx, _, dbias) = layer_norm(x, 1, 0, (1,), 0.1), gradients(np.ones_like(x), x, (1,), 0.1)
    assert np.isnan(y[1]).all() and np.isnan(dx[1]).all() and np.isfinite(dbias).all()
    assert np.isfinite(y[::2]).all() and np.isfinite(dx[::2]).all()
    far, right = np.arange(8, dtype=np.float32) + 4096, (np.arange(8) - 3.5) / np.sqrt(5.25)
    np.testing.assert_allclose(layer_norm(far[None], 1, 0, (1,), 0.0)[0], right, rtol=1e-6)


@pytest.mark.parametrize("size", [100, 5000])
@pytest.mark.parametrize("far, scale", [(0, 1), (1e5, 1), (1e10, 0), (1e30, 1e29), (0, 1e25), (0, 1e-25), (1e7, 1e6)])
def test_float32_loses_nothing_by_its_sums(size, far, scale):
    """Where rounding of a mean is large, or squares leave the dtype."""
    x = (far + scale * RANDOM.standard_normal((3, size))).astype(np.float32)
    dy = RANDOM.standard_normal((3, size)).astype(np.float32)
    with np.errstate(over="ignore"):
        check(x, 1, 0, (1,), dy, eps=0.0 if scale == 1e-25 else 1e-5, least=1e-30)


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((1, 4))])
def test_what_is_no_row_is_refused(wrong):
    with pytest.raises(ValueError, match=r"shape|dimensions"):
        layer_norm(np.ones((2, 4)), wrong, 0, (1,), 0.1)
