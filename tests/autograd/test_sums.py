"""Sums are right for any number of rows, in any layout: compared with sums of the same numbers in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import sums

EPS = float(np.finfo(np.float32).eps)
LAYOUTS = {
    "rows": lambda x: x,
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(0, -1)).swapaxes(0, -1),
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every other one": lambda x: np.repeat(x, 2, -1)[..., ::2],
}


@settings(deadline=None, max_examples=150)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 5, 255, 256, 257, 700]), min_size=1, max_size=3).filter(
        lambda shape: np.prod(shape) < 200_000
    ),
    layout=st.sampled_from(list(LAYOUTS)),
    dims=st.sets(st.integers(0, 2), min_size=1),
    keepdim=st.booleans(),
    rows=st.sampled_from([2, 3, 256]),
)
def test_sums_of_any_layout(shape, layout, dims, keepdim, rows):
    before, sums.ROWS = sums.ROWS, rows
    try:
        x = LAYOUTS[layout](np.random.default_rng(0).random(shape).astype(np.float32) + 1)
        axes = tuple(dim for dim in dims if dim < x.ndim)
        found = sums.summed(x, axes, keepdim)
    finally:
        sums.ROWS = before
    np.testing.assert_allclose(found, x.astype(np.float64).sum(axes, keepdims=keepdim), rtol=2e-5)
    assert found.dtype == np.float32 and np.shape(found) == x.sum(axes, keepdims=keepdim).shape


def test_the_error_does_not_grow_with_the_rows():
    """One after the other they are off by 4e-4, and a mean of a million lies outside of what it is a mean of."""
    x = (np.random.default_rng(0).random((400_000, 4)) + 100).astype(np.float32)
    exact, bound = x.astype(np.float64), 16 * EPS
    np.testing.assert_allclose(tg.tensor(x).mean(0).numpy(), exact.mean(0), rtol=bound)
    np.testing.assert_allclose(tg.var(tg.tensor(x), 0).numpy(), exact.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(tg.tensor(x.T)[:, ::2].sum(1).numpy(), exact[::2].sum(0), rtol=bound)
    total = tg.cumsum(tg.tensor(x), 0)
    np.testing.assert_allclose(total.numpy(), np.cumsum(exact, 0), rtol=bound)
    b = tg.zeros(4, requires_grad=True)
    ((tg.tensor(x) + b) * tg.tensor(x)).sum().backward()
    np.testing.assert_allclose(b.grad.numpy(), exact.sum(0), rtol=bound)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int32, np.uint16, np.int64])
def test_whole_numbers_are_summed_as_int64(dtype):
    x = tg.tensor(np.array([1, 100, 100], dtype))
    expected = [1, 1, 1] if dtype is np.bool_ else [1, 100, 100]
    for found, y in ((x.sum(), sum(expected)), (x.prod(), np.prod(expected)), (x.cumsum(0)[-1], sum(expected))):
        assert found.dtype == np.int64 and found.item() == y and (found - y - 1).item() == -1
