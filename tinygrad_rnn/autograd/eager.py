"""The fast path of an elementwise row or a product, for the calls that a study session is made of.

`Primitive.__call__` serves every row and every kind of argument; its loops over arguments cost more than the
arithmetic of a small tensor. The functions made here do the same for one or two operands of the usual kinds, float32
and float64 tensors and Python numbers, without a loop, and leave everything else to the function they are given.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from .arrays import cast
from .primitive import FLOAT32, FLOAT64, ElementwisePrimitive, Primitive
from .tape import Node, Value, mode

ndarray = np.ndarray


def unary(row: ElementwisePrimitive, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`row` as a function of a tensor; `otherwise` is called with any other argument."""
    kernel, adjoint = row.kernel, row.adjoint((0,))
    save = adjoint.save

    def function(input):
        if not isinstance(input, Value) or mode.level >= 2:
            return otherwise(input)
        x = input.data
        dtype = x.dtype
        if dtype is FLOAT32:
            y = kernel.float32(x)
        elif dtype is FLOAT64:
            y = kernel.float64(x)
        else:
            return otherwise(input)
        if y.__class__ is not ndarray:
            y = np.asarray(y)
        node = input.node
        if node is None or mode.level == 0:
            return Value.tensor(y)
        return Value.tensor(y, Node(adjoint, (node,), (x.shape,), save(y, x)))

    return function


def binary(row: Primitive, otherwise: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`row` as a function of two tensors, or of a tensor and a number; `otherwise` is called with anything else."""
    kernel: Any = getattr(row, "kernel", SimpleNamespace(float32=row.forward, float64=row.forward))
    to_both, to_first, to_second = row.adjoint((0, 1)), row.adjoint((0,)), row.adjoint((1,))
    save_for_both, save_for_first, save_for_second = to_both.save, to_first.save, to_second.save

    def function(input, other):
        a: Any
        b: Any
        level = mode.level
        m = n = None
        if isinstance(input, Value):
            a, m = input.data, input.node
            dtype = a.dtype
            if isinstance(other, Value):
                b, n = other.data, other.node
                if b.dtype is not dtype:
                    return otherwise(input, other)
            elif other.__class__ is float or other.__class__ is int:
                b = constant(other, dtype) if other else other  # 0.0 and -0.0 are the same key
            else:
                return otherwise(input, other)
        elif isinstance(other, Value) and (input.__class__ is float or input.__class__ is int):
            b, n = other.data, other.node
            dtype = b.dtype
            a = constant(input, dtype) if input else input
        else:
            return otherwise(input, other)
        if level >= 2 or not (dtype is FLOAT32 or dtype is FLOAT64):
            return otherwise(input, other)
        try:
            y = (kernel.float32 if dtype is FLOAT32 else kernel.float64)(a, b)
        except ValueError:
            return otherwise(input, other)  # which says what is wrong with the shapes
        if y.__class__ is not ndarray:
            y = np.asarray(y)
        if level == 0 or m is n is None:
            return Value.tensor(y)
        if n is None:
            return Value.tensor(y, Node(to_first, (m,), (a.shape,), save_for_first(y, a, b)))
        if m is None:
            return Value.tensor(y, Node(to_second, (n,), (b.shape,), save_for_second(y, a, b)))
        return Value.tensor(y, Node(to_both, (m, n), (a.shape, b.shape), save_for_both(y, a, b)))

    return function


@functools.lru_cache(1000)  # a training loop may make a new number at each step
def constant(number: float, dtype: np.dtype) -> Any:
    """A Python number as a 0-d array, which a ufunc takes in half the time."""
    try:
        return cast(number, dtype)
    except OverflowError:  # an integer dtype, which nobody computes in
        return number
