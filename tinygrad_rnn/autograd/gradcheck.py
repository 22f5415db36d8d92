"""Gradients against finite differences: PyTorch's `gradcheck` and `gradgradcheck`, signature and tolerances.

For y = f(x) with many outputs, the row of the Jacobian that belongs to output y[j] comes from one backward pass
started with a one at j; the column that belongs to x[i] from the central difference (f(x + eps) - f(x - eps)) / 2 eps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .creation import generator
from .gradients import grad
from .tape import Node
from .tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient disagrees with finite differences.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([3.0], dtype=tg.float64, requires_grad=True)
        >>> tg.gradcheck(lambda x: tg.clip_gradient(2 * x, 0.5), [x])
        Traceback (most recent call last):
            ...
        tinygrad_rnn.autograd.gradcheck.GradcheckError: gradient of output 0 (made by ...
    """


def gradcheck(
    func: Callable[..., Any], inputs: Any, *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
    raise_exception: bool = True, nondet_tol: float = 0.0,
) -> bool:  # fmt: skip
    """Check that the gradients of `func` agree with finite differences: |a - n| <= atol + rtol |n| for every entry.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([0.5, -1.0], dtype=tg.float64, requires_grad=True)
        >>> tg.gradcheck(lambda x: tg.tanh(x) * x, [x])
        True

    Args:
        func: function of tensors that returns a tensor or a tuple of tensors.
        inputs: its arguments; those that require a gradient are checked and should be float64.
        raise_exception: whether to raise rather than return False.
        nondet_tol: by how much two backward passes over the same graph may differ.

    Raises:
        GradcheckError: with the worst entry, both numbers and the operation that made the output.
        ValueError: no input requires a gradient, or one is not float64.
    """
    try:
        _check(func, _as_tuple(inputs), eps, atol, rtol, nondet_tol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, **tolerances: Any) -> bool:
    """Check the second derivatives: the same for the function that maps (inputs, grad_outputs) to first gradients.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([0.5, -1.0], dtype=tg.float64, requires_grad=True)
        >>> tg.gradgradcheck(tg.tanh, [x])
        True

    Args:
        grad_outputs: the gradients that the first pass starts from; random ones by default.
        tolerances: `eps`, `atol`, `rtol`, `raise_exception` and `nondet_tol`, as for `gradcheck`.
    """
    inputs = _as_tuple(inputs)
    if grad_outputs is None:
        draw = lambda y: generator().standard_normal(y.shape).astype(y.dtype)
        grad_outputs = [Tensor(draw(y)).requires_grad_() for y in _differentiable(func(*inputs))]

    def first_gradients(*arguments: Any) -> tuple[Tensor, ...]:
        xs, dys = arguments[: len(inputs)], arguments[len(inputs) :]
        found = grad(_differentiable(func(*xs)), _differentiable(xs), dys, create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    return gradcheck(first_gradients, (*inputs, *_as_tuple(grad_outputs)), **tolerances)


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _differentiable(outputs: Any) -> list[Tensor]:
    return [y for y in _as_tuple(outputs) if isinstance(y, Tensor) and y.requires_grad]


def _check(func: Any, inputs: Sequence[Any], eps: float, atol: float, rtol: float, nondet_tol: float) -> None:
    checked = [(i, x) for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient")
    for i, x in checked:
        if x.dtype != np.float64:
            raise ValueError(f"gradcheck: input {i} is {x.dtype}; finite differences need float64")
    outputs = _differentiable(func(*inputs))
    for i, x in checked:
        for j, (y, numeric) in enumerate(zip(outputs, _numeric(func, inputs, x, eps))):
            analytic = _analytic(y, x)
            with np.errstate(invalid="ignore"):  # an entry that is not finite is told of below
                spread = np.max(np.nan_to_num(np.abs(analytic - _analytic(y, x)), nan=0.0), initial=0.0)
            if spread > nondet_tol:
                raise GradcheckError(f"two backward passes from output {j} to input {i} differ by {spread:.3g}")
            excess = np.nan_to_num(np.abs(analytic - numeric) - (atol + rtol * np.abs(numeric)), nan=np.inf)
            if excess.size and excess.max() > 0:
                worst = np.unravel_index(np.argmax(excess), excess.shape)
                raise GradcheckError(_message(i, j, x, y, worst, analytic[worst], numeric[worst]))


def _analytic(y: Tensor, x: Tensor) -> np.ndarray:
    """dy/dx as an array [x.size, y.size]."""
    jacobian = np.zeros((x.numel(), y.numel()))
    for k in range(y.numel()):
        dy = np.zeros(y.shape, y.dtype)
        dy.flat[k] = 1
        (dx,) = grad([y], [x], [Tensor(dy)], retain_graph=True, allow_unused=True)
        if dx is not None:
            jacobian[:, k] = dx.numpy().ravel()
    return jacobian


def _numeric(func: Callable[..., Any], inputs: Sequence[Any], x: Tensor, eps: float) -> list[np.ndarray]:
    """The same by central differences, one array for each differentiable output."""
    original = x.data

    def outputs_at(k: int, step: float) -> list[np.ndarray]:
        x.data = original.copy()
        x.data.flat[k] += step
        return [y.numpy().ravel() for y in _differentiable(func(*inputs))]

    jacobians = [np.zeros((original.size, y.numel())) for y in _differentiable(func(*inputs))]
    try:
        for k in range(original.size):
            for jacobian, above, below in zip(jacobians, outputs_at(k, eps), outputs_at(k, -eps)):
                jacobian[k] = (above - below) / (2 * eps)
    finally:
        x.data = original
    return jacobians


def _message(i: int, j: int, x: Tensor, y: Tensor, worst: Any, analytic: float, numeric: float) -> str:
    at_x = [int(n) for n in np.unravel_index(worst[0], x.shape)]
    at_y = [int(n) for n in np.unravel_index(worst[1], y.shape)]
    operation = y.node.operation.name if isinstance(y.node, Node) else "the identity"
    return (
        f"gradient of output {j} (made by {operation}) with respect to input {i}, worst at output{at_y}, input{at_x}: "
        f"backward gives {analytic:.10g}, finite differences {numeric:.10g}"
    )
