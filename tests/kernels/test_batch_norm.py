"""Normalised channels against their definition in float64."""

import numpy as np
import pytest

from tinygrad_rnn.kernels.batch_norm import batch_norm, gradients, moments

RANDOM = np.random.default_rng(0)


def defined(x, weight, bias, eps, dy):
    """y, dx, dweight and dbias, each as the formula has it."""
    x, dy, axes = x.astype(np.float64), dy.astype(np.float64), (0, *range(2, x.ndim))
    mean = lambda a: a.mean(axes, keepdims=True)
    r = 1 / np.sqrt(mean((x - mean(x)) ** 2) + eps)
    n, g = (x - mean(x)) * r, dy * weight
    sums = ((dy * n).sum(axes, keepdims=True)[0], dy.sum(axes, keepdims=True)[0])
    return n * weight + bias, r * (g - mean(g) - n * mean(g * n)), *sums


def check(x, weight, bias, dy, eps=1e-3):
    right = defined(x, weight, bias, eps, dy)
    for found in (None, moments(x)):
        results = batch_norm(x, weight, bias, eps, found), *gradients(dy, x, eps, found, weight)
        for a, b in zip(results, right, strict=True):
            assert a.shape == b.shape and a.dtype == x.dtype
            np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(x.dtype).eps * np.abs(b).max(initial=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 3), (4, 1), (6, 2, 7), (1, 3, 33), (2, 5, 1), (3, 2, 4, 5), (40, 16, 2)])
def test_channels_of_any_shape(shape, dtype):
    draw = lambda *shape: RANDOM.standard_normal(shape).astype(dtype) + dtype(3)
    channels = (shape[1], *[1] * (len(shape) - 2))
    check(draw(*shape), draw(*channels), draw(*channels), draw(*shape))
    check(draw(*shape), 2, draw(*channels), draw(*shape))


def test_any_layout():
    x, dy, w = (RANDOM.standard_normal(s) for s in ((6, 8, 4), (6, 8, 4), (8, 1)))
    for lay in (np.asfortranarray, lambda a: a[..., ::-1], lambda a: np.broadcast_to(a[..., :1], a.shape)):
        check(lay(x), lay(w), 0, lay(dy))
    for each in (x, dy, w):
        each.flags.writeable = False
    check(x, w, 0, dy)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_far_off_or_an_outlier_in_front_costs_no_digits(dtype):
    x = RANDOM.standard_normal((50, 3, 4)).astype(dtype)
    x[:, 1] += 4096
    x[0, 2, 0] = 1e4
    mean, variance = moments(x)
    wide = x.astype(np.longdouble)
    np.testing.assert_allclose(mean, wide.mean((0, 2))[:, None], rtol=1e-13)
    np.testing.assert_allclose(variance, wide.var((0, 2))[:, None], rtol=1e-11)
    equal = np.full((4, 1, 3), 1e10, dtype)
    assert moments(equal).ravel().tolist() == [dtype(1e10), 0]
    assert not batch_norm(equal, 1, 0, 1e-5).any()


def test_no_channels_and_no_numbers():
    for shape in ((0, 4), (3, 0), (2, 3, 0), (0, 2, 3)):
        found = batch_norm(np.zeros(shape), 1, 0, 0.1), *gradients(np.zeros(shape), np.zeros(shape), 0.1)
        assert found[0].shape == found[1].shape == shape and found[2].shape[0] == shape[1]
        assert not found[2].any() and not found[3].any()
