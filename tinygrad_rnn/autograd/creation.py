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

        >>> import tinygrad_rnn as tg
        >>> tg.tensor([[1, 2], [3, 4]]).dtype, tg.tensor([1.0, 2.0], requires_grad=True)
        (dtype('int64'), tensor([1., 2.], requires_grad=True))

    Python floats become float32; NumPy arrays keep their dtype (float32, float64, integers or bool).

    Raises:
        TypeError: the data are not numbers, or a gradient is asked for integers.
        ValueError: nested lists of unequal lengths.
    """
    array = as_array(data)
    return Tensor(np.array(array) if dtype is None else cast(array, dtype_of(dtype))).requires_grad_(requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> array = np.zeros(2)
        >>> x = tg.from_numpy(array)
        >>> array[0] = 7
        >>> x
        tensor([7., 0.], dtype=float64)
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(as_array(array))


def full(size: Any, fill_value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of one value, which says the dtype: a float makes float32, an integer int64, True bool.

        >>> import tinygrad_rnn as tg
        >>> tg.full((2, 2), 0.5)
        tensor([[0.5, 0.5],
                [0.5, 0.5]])
        >>> tg.full((3,), 1)
        tensor([1, 1, 1])
    """
    if mode.grad and isinstance(fill_value, Tensor) and fill_value.node is not None:
        raise TypeError("full: the gradient that fill_value wants would be lost: write fill_value.expand(size)")
    value = as_array(fill_value)
    kind = (FLOAT32 if value.dtype.kind == "f" else value.dtype) if dtype is None else dtype_of(dtype)
    return Tensor(np.full(sizes("full", (size,), 0), cast(value, kind))).requires_grad_(requires_grad)


def zeros(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Zeros of shape `zeros(2, 3)` or `zeros((2, 3))`.

        >>> import tinygrad_rnn as tg
        >>> tg.zeros(2, 3)
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
    """
    return Tensor(np.zeros(sizes("zeros", size, 0), dtype_of(dtype))).requires_grad_(requires_grad)


def ones(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Ones of shape `ones(2, 3)` or `ones((2, 3))`.

        >>> import tinygrad_rnn as tg
        >>> tg.ones(2, 3)
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    return Tensor(np.ones(sizes("ones", size, 0), dtype_of(dtype))).requires_grad_(requires_grad)


def zeros_like(input: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape and dtype of another tensor.

        >>> import tinygrad_rnn as tg
        >>> tg.zeros_like(tg.tensor([5.0, 6.0]))
        tensor([0., 0.])
    """
    return _like(zeros, np.zeros_like, input, dtype, requires_grad)


def ones_like(input: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape and dtype of another tensor.

        >>> import tinygrad_rnn as tg
        >>> tg.ones_like(tg.tensor([5.0, 6.0]))
        tensor([1., 1.])
    """
    return _like(ones, np.ones_like, input, dtype, requires_grad)


def _like(function: Any, of_numpy: Any, input: Any, dtype: Any, requires_grad: bool) -> Tensor:
    array = input.data if isinstance(input, Tensor) else as_array(input)
    if mode.tracer is not None:
        return function(array.shape, dtype=dtype or array.dtype, requires_grad=requires_grad)
    return Tensor(of_numpy(array, dtype_of(dtype or array.dtype))).requires_grad_(requires_grad)  # and its layout


def arange(start: float, end: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """The numbers start, start + step, ... below end (0, 1, ... below start if end is None).

        >>> import tinygrad_rnn as tg
        >>> tg.arange(3), tg.arange(0, 1, 0.25)
        (tensor([0, 1, 2]), tensor([0.  , 0.25, 0.5 , 0.75]))
    """
    numbers = (0, start, step) if end is None else (start, end, step)
    first, last, step = (x.item() if isinstance(x, (np.generic, np.ndarray, Tensor)) else x for x in numbers)
    if not (step and math.isfinite(first + last + step)):
        raise ValueError(f"arange: there is no end of numbers from {first} to {last} by {step}")
    count = max(math.ceil((last - first) / step), 0)
    if dtype is None:
        dtype = FLOAT32 if isinstance(first + last + step, float) else np.int64
    return Tensor((first + step * np.arange(count)).astype(dtype_of(dtype)))


def eye(n: int, m: int | None = None, dtype: Any = FLOAT32) -> Tensor:
    """The identity matrix.

        >>> import tinygrad_rnn as tg
        >>> tg.eye(2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    return Tensor(np.eye(*sizes("eye", (n, n if m is None else m), 0), dtype=dtype_of(dtype)))


class _Source(threading.local):
    """A generator for each thread, so that threads draw independently of each other's pace."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()


_source = _Source()


def manual_seed(seed: int) -> np.random.Generator:
    """Start this thread's random numbers (initial weights, dropout masks, `rand`) anew from a seed.

        >>> import tinygrad_rnn as tg
        >>> _ = tg.manual_seed(0)
        >>> a = tg.nn.Linear(3, 4).weight
        >>> _ = tg.manual_seed(0)
        >>> bool((tg.nn.Linear(3, 4).weight == a).all())
        True
    """
    generator()
    _source.generator = np.random.default_rng(seed)
    return _source.generator


def generator() -> np.random.Generator:
    """The NumPy generator that this thread's random numbers come from. A step that is traced may not use it itself.

        >>> import tinygrad_rnn as tg
        >>> _ = tg.manual_seed(0)
        >>> a = tg.generator().random()  # a number of NumPy's, from the same source as `tg.rand`
        >>> _ = tg.manual_seed(0)
        >>> a == tg.generator().random()
        True
    """
    if mode.tracer is not None:
        mode.tracer.refuse_draws()
    return _source.generator


def get_rng_state() -> dict[str, Any]:
    """The state of this thread's generator, as NumPy describes it.

        >>> import tinygrad_rnn as tg
        >>> state = tg.get_rng_state()
        >>> a = tg.rand(3)
        >>> tg.set_rng_state(state)
        >>> bool((tg.rand(3) == a).all())
        True
    """
    return dict(generator().bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue the random numbers from a state that `get_rng_state` returned.

        >>> import tinygrad_rnn as tg
        >>> state = tg.get_rng_state()
        >>> a = tg.rand(3)
        >>> tg.set_rng_state(state)
        >>> bool((tg.rand(3) == a).all())
        True
    """
    generator().bit_generator.state = state


def drawn(source: Callable[[Shape], np.ndarray], shape: Shape, dtype: Any) -> Tensor:
    """`source(shape)` as a tensor, where the source draws random numbers one by one, in the order of the elements.

    All that is random in the step of a cell goes through here, so that the compiler can draw for all steps at once.
    """
    if mode.tracer is not None:
        return mode.tracer.draw(source, shape, dtype)
    return Tensor(source(shape))


def rand(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1).

        >>> import tinygrad_rnn as tg
        >>> x = tg.rand(1000)
        >>> bool((0 <= x).all()), bool((x < 1).all())
        (True, True)
    """
    source = lambda shape: generator().random(shape, dtype=dtype_of(dtype))
    return drawn(source, sizes("rand", size, 0), dtype).requires_grad_(requires_grad)


def randn(*size: Any, dtype: Any = FLOAT32, requires_grad: bool = False) -> Tensor:
    """Numbers from the standard normal distribution.

        >>> import tinygrad_rnn as tg
        >>> x = tg.randn(16, 28)
        >>> x.shape, x.dtype
        ((16, 28), dtype('float32'))
    """
    source = lambda shape: generator().standard_normal(shape, dtype=dtype_of(dtype))
    return drawn(source, sizes("randn", size, 0), dtype).requires_grad_(requires_grad)


def rand_like(input: Any, dtype: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) of the shape and dtype of another tensor.

        >>> import tinygrad_rnn as tg
        >>> tg.rand_like(tg.zeros(2, 3)).shape
        (2, 3)
    """
    x = as_tensor(input)
    return rand(x.shape, dtype=dtype or x.dtype)


def randn_like(input: Any, dtype: Any = None) -> Tensor:
    """Numbers from the standard normal distribution, of the shape and dtype of another tensor.

        >>> import tinygrad_rnn as tg
        >>> tg.randn_like(tg.zeros(2, 3, dtype=tg.float64)).dtype
        dtype('float64')
    """
    x = as_tensor(input)
    return randn(x.shape, dtype=dtype or x.dtype)


def randint(low: int, high: Any, size: Any = None) -> Tensor:
    """Integers in [low, high); from 0 on if only `high` and the size are given.

        >>> import tinygrad_rnn as tg
        >>> sorted(set(tg.randint(0, 3, (1000,)).tolist()))
        [0, 1, 2]
    """
    if size is None:
        low, high, size = 0, low, high
    return Tensor(generator().integers(low, high, sizes("randint", (size,), 0)))
