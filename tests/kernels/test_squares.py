"""The sum of squares: compiled and NumPy's, to the digits of float64, in any layout."""

import math

import numpy as np
import pytest
from numba import config

from tinygrad_rnn.kernels import squares
from tinygrad_rnn.kernels.outline import over_rows
from tinygrad_rnn.kernels.squares import LARGE, sum_of_squares

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [0, 1, 7, LARGE - 1, LARGE, 3 * LARGE + 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum(dtype, size):
    x = RANDOM.standard_normal(size).astype(dtype)
    assert sum_of_squares(x) == pytest.approx(math.fsum(float(v) ** 2 for v in x), rel=1e-13, abs=0)


def test_layouts():
    x = RANDOM.standard_normal((300, 400)).astype(np.float32)
    expected = pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-13)
    frozen = x.copy()
    frozen.flags.writeable = False
    for layout in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1], frozen):
        assert sum_of_squares(layout) == expected
    assert sum_of_squares(np.broadcast_to(np.float32(2), (LARGE,))) == 4 * LARGE


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize(("value", "expected"), [(np.nan, np.nan), (np.inf, np.inf), (1e200, np.inf), (1e-200, 0.0)])
def test_what_is_out_of_range(size, value, expected):
    x = np.zeros(size)
    x[-1] = value
    np.testing.assert_equal(sum_of_squares(x), expected)


def test_float32_goes_beyond_its_range():
    assert sum_of_squares(np.full(LARGE, 1e30, np.float32)) == pytest.approx(LARGE * 1e60, rel=1e-6)
    assert sum_of_squares(np.arange(5)) == 30.0


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="there is no machine code")
def test_it_is_vector_code():
    fresh = squares._kernels(np.float32, over_rows)  # one that came out of the cache has no text to show
    (text,) = fresh.inspect_llvm().values()
    assert "x double>" in text
