"""What an attack asks of a loss: its values and its slope at x, with the model standing still."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..autograd.gradients import grad
from ..autograd.operands import as_array
from ..autograd.tape import enable_grad, no_grad
from ..autograd.tensor import Tensor
from ..study.models import evaluating, frozen, modules_of


def numbers_of(who: str, x: Any) -> np.ndarray:
    """The array of x, a copy.

    Raises:
        TypeError: it is not made of floats.
        ValueError: it is empty.
    """
    array = np.array(as_array(x))
    if array.dtype.kind != "f":
        raise TypeError(f"{who}: x is {array.dtype}, and only floats change by a little: attack the embedding of words")
    if not array.size:
        raise ValueError(f"{who}: x is empty, {list(array.shape)}")
    return array


@contextlib.contextmanager
def standing_still(f: Any, model: Any) -> Iterator[bool]:
    """Meanwhile the modules that f names, and those of `model`, are in eval mode and want no gradients for themselves.

    Yields whether one of them is `batch_first`. All is as before afterwards, after errors too. No other thread may
    train them meanwhile.
    """
    modules = [*modules_of(f), *modules_of(model)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(*modules))
        for module in modules:
            stack.enter_context(frozen(module))
        stack.enter_context(enable_grad())
        yield any(getattr(each, "batch_first", False) for module in modules for each in module.modules())


def slope(who: str, loss: Callable[[Tensor], Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a loss, [] or [B], and the gradient of their sum with respect to x.

    Raises:
        TypeError, ValueError: the loss does not return one number, or one a sequence.
        RuntimeError: it does not depend on x, or numbers are not finite.
    """
    here = Tensor(x).requires_grad_()
    values = _checked(who, loss(here))
    if values.node is None:
        raise RuntimeError(f"{who}: the loss does not depend on x, or was computed inside no_grad() or from x.numpy()")
    (g,) = grad(values.sum(), [here], allow_unused=True)
    if g is None:
        raise RuntimeError(f"{who}: the loss does not depend on x")
    gradient = g.numpy()
    if not np.isfinite(gradient).all():
        raise RuntimeError(f"{who}: the gradient of the loss with respect to x is not finite")
    return values.numpy(), gradient


def value(who: str, loss: Callable[[Tensor], Any], x: np.ndarray) -> np.ndarray:
    """The values of a loss, [] or [B]."""
    with no_grad():
        return _checked(who, loss(Tensor(x))).numpy()


def _checked(who: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{who}: the loss returned {type(values).__name__}, not a tensor")
    if values.ndim > 1 or values.dtype.kind != "f" or not values.data.size:
        raise ValueError(
            f"{who}: the loss must return one number, or one for each sequence, [B], not {list(values.shape)} of "
            f"{values.dtype}"
        )
    if np.isnan(values.data).any():
        raise RuntimeError(f"{who}: the loss is NaN")
    return values
