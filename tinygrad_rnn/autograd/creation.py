"""Tensors from data and from nothing, and the library's one source of randomness."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import cast
from .operands import as_array, as_tensor, dtype_of, sizes
from .primitive import FLOAT32, Shape
from .tape import mode
from .tensor import Tensor


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of `data`: a number, nested lists, an array or a tensor.

    Python floats become float32; NumPy arrays keep their dtype (float32, float64, integers or bool).

    Raises:
        TypeError: the data are not numbers, or a gradient is asked for integers.
        ValueError: nested lists of unequal lengths.
    """
    array = as_array(data)
    return Tensor(np.array(array) if dtype is None else cast(array, dtype_of(dtype))).requires_grad_(requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(as_array(array))


def full(size: Any, fill_value: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """A tensor of one value."""
    if mode.grad and isinstance(fill_value, Tensor) and fill_value.node is not None:
        raise TypeError("full: the gradient that fill_value wants would be lost: write fill_value.expand(size)")
    value = cast(as_array(fill_value), dtype_of(dtype))
    return Tensor(np.full(sizes("full", (size,)), value)).requires_grad_(requires_grad)


def zeros(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Zeros of shape `zeros(2, 3)` or `zeros((2, 3))`."""
    return Tensor(np.zeros(sizes("zeros", size), dtype_of(dtype))).requires_grad_(requires_grad)


def ones(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Ones of shape `ones(2, 3)` or `ones((2, 3))`."""
    return Tensor(np.ones(sizes("ones", size), dtype_of(dtype))).requires_grad_(requires_grad)


def zeros_like(input: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape and dtype of another tensor."""
    return _like(zeros, np.zeros_like, input, dtype, requires_grad)


def ones_like(input: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape and dtype of another tensor."""
    return _like(ones, np.ones_like, input, dtype, requires_grad)


def _like(function: Any, of_numpy: Any, input: Any, dtype: Any, requires_grad: bool) -> Tensor:
    array = input.data if isinstance(input, Tensor) else as_array(input)
    if mode.tracer is not None:
        return function(array.shape, dtype=dtype or array.dtype, requires_grad=requires_grad)
    return Tensor(of_numpy(array, dtype_of(dtype or array.dtype))).requires_grad_(requires_grad)  # and its layout


def arange(start: float, end: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """The numbers start, start + step, ... below end (0, 1, ... below start if end is None)."""
    first, last = (0, start) if end is None else (start, end)
    count = max(math.ceil((last - first) / step), 0)
    if dtype is None:
        dtype = FLOAT32 if isinstance(first + last + step, float) else np.int64
    return Tensor((first + step * np.arange(count)).astype(dtype_of(dtype)))


def eye(n: int, m: int | None = None, dtype: Any = FLOAT32) -> Tensor:
    """The identity matrix."""
    return Tensor(np.eye(n, m, dtype=dtype_of(dtype)))


class _Source(threading.local):
    """A generator for each thread, so that threads draw independently of each other's pace."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()


_source = _Source()


def manual_seed(seed: int) -> np.random.Generator:
    """Start this thread's random numbers (initial weights, dropout masks, `rand`) anew from a seed."""
    generator()
    _source.generator = np.random.default_rng(seed)
    return _source.generator


def generator() -> np.random.Generator:
    """The NumPy generator that this thread's random numbers come from. A step that is traced may not use it itself."""
    if mode.tracer is not None:
        mode.tracer.refuse_draws()
    return _source.generator


def get_rng_state() -> dict[str, Any]:
    """The state of this thread's generator, as NumPy describes it."""
    return dict(generator().bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue the random numbers from a state that `get_rng_state` returned."""
    generator().bit_generator.state = state


def drawn(source: Callable[[Shape], np.ndarray], shape: Shape, dtype: Any) -> Tensor:
    """`source(shape)` as a tensor, where the source draws random numbers one by one, in the order of the elements.

    All that is random in the step of a cell goes through here, so that the compiler can draw for all steps at once.
    """
    if mode.tracer is not None:
        return mode.tracer.draw(source, shape, dtype)
    return Tensor(source(shape))


def rand(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1)."""
    source = lambda shape: generator().random(shape, dtype=dtype_of(dtype))
    return drawn(source, sizes("rand", size), dtype).requires_grad_(requires_grad)


def randn(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Numbers from the standard normal distribution."""
    source = lambda shape: generator().standard_normal(shape, dtype=dtype_of(dtype))
    return drawn(source, sizes("randn", size), dtype).requires_grad_(requires_grad)


def rand_like(input: Any, dtype: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) of the shape and dtype of another tensor."""
    x = as_tensor(input)
    return rand(x.shape, dtype=dtype or x.dtype)


def randn_like(input: Any, dtype: Any = None) -> Tensor:
    """Numbers from the standard normal distribution, of the shape and dtype of another tensor."""
    x = as_tensor(input)
    return randn(x.shape, dtype=dtype or x.dtype)


def randint(low: int, high: int, size: Any) -> Tensor:
    """Integers in [low, high)."""
    return Tensor(generator().integers(low, high, sizes("randint", (size,))))
