"""Result dtypes: PyTorch's promotion, in which floats win over integers and arrays over 0-d tensors and numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.samples import dtype_of

DTYPES = [torch.float32, torch.float64, torch.int64, torch.int32, torch.bool]
TENSORS = [torch.tensor(values, dtype=dtype) for dtype in DTYPES for values in ([1, 0, 1], 1)]
OPERANDS = [*TENSORS, 1, 2.5, True]
BINARY = ["add", "sub", "mul", "div", "pow", "maximum", "minimum", "where"]
UNARY = ["neg", "abs", "exp", "sqrt", "reciprocal", "square", "tanh", "sigmoid", "sum", "prod", "cumsum", "mean"]
OPTIONS = {"cumsum": {"dim": 0}}


def describe(operand):
    if isinstance(operand, torch.Tensor):
        return f"{dtype_of(operand.dtype)} {'array' if operand.ndim else '0-d'}"
    return repr(operand)


def ours(operand):
    return tg.tensor(operand.numpy()) if isinstance(operand, torch.Tensor) else operand


def functions(name):
    if name == "where":
        condition = np.array([True, False, True])
        return (lambda a, b: tg.where(condition, a, b)), (lambda a, b: torch.where(torch.tensor(condition), a, b))
    return getattr(tg, name), getattr(torch, name)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name):
    """PyTorch's dtype for every pair that it takes; what it refuses may be refused or not."""
    ours_function, theirs_function = functions(name)
    wrong = []
    for a, b in product(OPERANDS, OPERANDS):
        if not (isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor)):
            continue
        try:
            expected = theirs_function(a, b)
        except (RuntimeError, TypeError):
            continue
        actual = ours_function(ours(a), ours(b))
        if actual.dtype != dtype_of(expected.dtype) or actual.shape != tuple(expected.shape):
            wrong.append(f"{name}({describe(a)}, {describe(b)}): {actual.dtype}, not {dtype_of(expected.dtype)}")
        elif not np.allclose(actual.numpy(), expected.numpy(), equal_nan=True):
            wrong.append(f"{name}({describe(a)}, {describe(b)}): {actual.numpy()}, not {expected.numpy()}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    wrong = []
    for x in TENSORS:
        try:
            expected = getattr(torch, name)(x, **OPTIONS.get(name, {}))
        except RuntimeError:
            continue
        actual = getattr(tg, name)(ours(x), **OPTIONS.get(name, {}))
        if actual.dtype != dtype_of(expected.dtype):
            wrong.append(f"{name}({describe(x)}): {actual.dtype}, not {dtype_of(expected.dtype)}")
        elif not np.allclose(actual.numpy(), expected.numpy(), equal_nan=True):
            wrong.append(f"{name}({describe(x)}): {actual.numpy()}, not {expected.numpy()}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("name", ["add", "mul"])
def test_gradients_keep_their_own_dtype(name):
    """The gradient of a float32 input is float32 even where the result is float64."""
    a = tg.tensor(np.ones((2, 2), np.float32), requires_grad=True)
    b = tg.tensor(np.ones((2, 2)), requires_grad=True)
    y = getattr(tg, name)(a, b)
    y.sum().backward()
    assert (y.dtype, a.grad.dtype, b.grad.dtype) == (np.float64, np.float32, np.float64)
