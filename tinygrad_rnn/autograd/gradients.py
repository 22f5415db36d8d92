"""Derivatives of results: `backward` adds them to the `grad` of every leaf, `grad` returns those that are asked for."""

from typing import Any

import numpy as np

from .modes import not_traced
from .tape import Value, accumulate, backward_pass


def backward(
    tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
    inputs: Any = None,
) -> None:  # fmt: skip
    """Add to the `grad` of every leaf the derivative of the sum of `tensors`, weighted by `grad_tensors`."""
    not_traced("backward()")
    tensors = _listed("backward", tensors)
    roots = _roots("backward", tensors, grad_tensors, create_graph)
    if inputs is None:
        backward_pass(roots, retain_graph, create_graph)
        return
    inputs = _listed("backward", inputs)
    for x, gradient in zip(inputs, grad(tensors, inputs, grad_tensors, retain_graph, create_graph, allow_unused=True)):
        if gradient is not None:
            accumulate(x, gradient)


def grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """The derivatives of the sum of `outputs` (weighted by `grad_outputs`) with respect to `inputs`.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> (first,) = tg.grad(x**3, [x], create_graph=True)
        >>> (second,) = tg.grad(first, [x])
        >>> first.item(), second.item()
        (12.0, 12.0)

    Unlike `backward` it returns them and leaves every `grad` alone. With `create_graph` they can be differentiated
    again, to any order.

    Raises:
        RuntimeError: an input had no part in the outputs; `allow_unused=True` returns None for it.
    """
    not_traced("tg.grad()")
    outputs, inputs = _listed("grad", outputs), _listed("grad", inputs)
    for i, x in enumerate(inputs):
        if x.node is None:
            raise RuntimeError(f"grad: input {i} needs no gradient; make it with requires_grad=True before using it")
    roots = _roots("grad", outputs, grad_outputs, create_graph)
    found = backward_pass(roots, retain_graph, create_graph, [x.node for x in inputs])
    gradients = [found.get(x.node) for x in inputs]
    for i, gradient in enumerate(gradients):
        if gradient is None and not allow_unused:
            raise RuntimeError(f"grad: input {i} had no part in the outputs; allow_unused=True returns None for it")
    return tuple(g if g is None or isinstance(g, Value) else Value.tensor(np.array(g)) for g in gradients)


def _listed(name: str, tensors: Any) -> list[Any]:
    """One tensor, or an iterable of them such as `model.parameters()`, as a list."""
    listed = [tensors] if isinstance(tensors, Value) or not hasattr(tensors, "__iter__") else list(tensors)
    for x in listed:
        if not isinstance(x, Value):
            raise TypeError(f"{name}: expected tensors, got {type(x).__name__}")
    return listed


def _roots(name: str, outputs: Any, gradients: Any, create_graph: bool) -> list[tuple[Any, Any]]:
    """The nodes to start from, each with its gradient: 1 where none was given."""
    if gradients is None:
        gradients = [None] * len(outputs)
    elif not isinstance(gradients, (tuple, list)):
        gradients = [gradients]
    if len(gradients) != len(outputs):
        raise ValueError(f"{name}: {len(gradients)} gradients for {len(outputs)} outputs")
    return [(y.node, _start(name, y, dy, create_graph)) for y, dy in zip(outputs, gradients)]


def _start(name: str, y: Any, dy: Any, create_graph: bool) -> Any:
    """The gradient of an output, 1 if none was given: an array, or a tensor to record the pass."""
    if y.node is None:
        raise RuntimeError(
            f"{name}: the output was not computed from a tensor with requires_grad=True, or inside no_grad()"
        )
    if dy is None and y.data.size != 1:
        raise RuntimeError(
            f"{name}: an output of shape {list(y.shape)} needs a gradient of its shape; only for a single "
            "number is it taken to be 1"
        )
    dy = np.array(1, y.data.dtype).reshape(y.data.shape) if dy is None else dy
    array = dy.data if isinstance(dy, Value) else np.asarray(dy)
    if array.shape != y.data.shape:
        raise ValueError(f"{name}: the output has shape {list(y.shape)}, its gradient {list(array.shape)}")
    if not create_graph:
        return array.astype(y.data.dtype, copy=False)
    return Value.tensor.to(dy if isinstance(dy, Value) else Value.tensor(np.array(array)), y.data.dtype)
