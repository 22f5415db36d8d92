"""Gradient clipping: keep one steep step from throwing the weights away (Pascanu et al., 2013); truncated sequences.

Clipping belongs after `backward()`, which makes the gradients, and before `step()`, which uses them:

    optimizer.zero_grad()
    loss.backward()
    tg.nn.utils.clip_grad_norm_(model.named_parameters(), max_norm=1.0)
    optimizer.step()

Before `backward()` it would clip the gradients of the step before, or none at all, and nothing would tell.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...autograd.arrays import sum_of_squares
from ...autograd.tape import HookHandle
from ...autograd.tensor import Tensor
from ..advice import told
from ..compressed import compress as compress
from ..module import Module
from ..sparse_autoencoder import loss_recovered as loss_recovered
from . import parametrizations as parametrizations
from . import parametrize as parametrize

__all__ = [
    "truncated", "detached", "clip_grad_norm_", "clip_grad_value_", "clip_grad_adaptive_", "get_total_norm",
    "register_clip_hook", "compress", "loss_recovered", "parametrizations", "parametrize",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
"""A parameter, parameters, or pairs as from `named_parameters()`, with which errors can say the name."""

# ---- Truncated backpropagation through time --------------------------------------------------------------------------


def truncated(layer: Callable[..., Any], chunks: Iterable[Any], hx: Any = None) -> Iterator[tuple[Any, Any]]:
    """Run a layer over the chunks of a long sequence: states go on from chunk to chunk, gradients do not.

        >>> import tinygrad_rnn as tg
        >>> layer, x = tg.nn.RNN(3, 4), tg.randn(250, 2, 3)
        >>> [y.shape[0] for y, h in tg.nn.utils.truncated(layer, x.split(100))]
        [100, 100, 50]

        for (y, _), target in zip(tg.nn.utils.truncated(lstm, x.split(100)), targets):
            loss = tg.nn.functional.mse_loss(head(y), target)
            optimizer.zero_grad()
            loss.backward()                    # through this chunk alone
            optimizer.step()

    That is truncated backpropagation through time (Williams and Peng, 1990) where a chunk is learned from as soon as it
    is read. A chunk is run when it is asked for, with the weights that the layer has then.

    Args:
        layer: called as `layer(chunk, state)`, returns outputs and states: a `Recurrent`, an LSTM, a user's model.
        chunks: what it is called with, such as tensors [T, B, I], which may be of different lengths.
        hx: the states before the first chunk; None for the layer's own, as learned ones, which gradients do reach.

    Yields:
        The outputs of a chunk and the states after it. The next chunk starts from these values, detached.

    Raises:
        TypeError: at the first chunk, if `chunks` is one tensor: each of its steps would be taken for a sequence.
    """
    if isinstance(chunks, (Tensor, np.ndarray)):
        raise TypeError(
            f"truncated: expected chunks, got one array of shape {list(chunks.shape)}: write x.split(100), or "
            "x.unbind() if its first dimension counts chunks"
        )
    for chunk in chunks:
        y, hx = layer(chunk, hx)
        yield y, hx
        hx = detached(hx)


def detached(states: Any) -> Any:
    """The same values without their past: a state, or nested tuples and lists of states.

        >>> import tinygrad_rnn as tg
        >>> h = tg.ones(2, requires_grad=True) * 3
        >>> c = tg.nn.utils.detached((h, [h]))
        >>> h.requires_grad, c[0].requires_grad, c[1][0].requires_grad
        (True, False, False)
    """
    if isinstance(states, (tuple, list)):
        return type(states)(map(detached, states))
    return states.detach()


# ---- Clipping --------------------------------------------------------------------------------------------------------

BLOCK = 8192  # elements whose float64 copy stays in the cache while it is summed
_hooks: dict[object, Any] = {}


def register_clip_hook(hook: Callable[[list[Tensor]], None]) -> HookHandle:
    """Call `hook(parameters)` whenever gradients are about to be clipped, with those whose gradient will change.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 1.0])
        >>> p.grad = tg.tensor([3.0, 4.0])
        >>> handle = tg.nn.utils.register_clip_hook(lambda parameters: print(len(parameters), parameters[0].grad))
        >>> _ = tg.nn.utils.clip_grad_norm_([p], 1.0)
        1 tensor([3., 4.])
        >>> handle.remove()

    The gradients are still as they were. Nothing is told where all are within their limits.

    Returns:
        A handle, with `remove()`.
    """
    return HookHandle(_hooks, hook)


def _tell(named: list[tuple[str, Any]]) -> None:
    for hook in list(_hooks.values()):
        hook([p for _, p in named])


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = True
) -> Tensor:
    """Scale all gradients by one factor so that together they are no longer than `max_norm`.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 1.0])
        >>> p.grad = tg.tensor([3.0, 4.0])
        >>> tg.nn.utils.clip_grad_norm_([p], 1.0), p.grad  # the norm before, the gradient after
        (tensor(5., dtype=float64), tensor([0.6, 0.8]))

        norm = (sum over all parameters of sum |g|^norm_type)^(1 / norm_type)
        g <- g * max_norm / (norm + 1e-6)     if that factor is below 1

    The direction of the step is kept. Call it after `backward()` and before `step()`. Parameters without a gradient
    are passed over. Norms are summed in float64: no float32 gradient overflows or vanishes on the way. What is clipped
    becomes a new `p.grad`; an old one that is still held, by a graph for second derivatives perhaps, stays as it is.

    Args:
        parameters: a parameter or several; pairs from `named_parameters()` make errors say the name.
        max_norm: the longest that the gradients may be.
        norm_type: 2 for the Euclidean norm, `inf` for the largest magnitude, any positive p.
        error_if_nonfinite: raise where a gradient holds NaN or inf. PyTorch's default is not to: one infinite gradient
            then turns into NaN, and sets all others to zero, or to NaN too.

    Returns:
        The norm before clipping, a float64 tensor of no dimensions.

    Raises:
        RuntimeError: a gradient is not finite. All gradients are as they were.
        ValueError: `max_norm` is negative or NaN, or `norm_type` is not positive.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013, section 3.2.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be at least 0, got {max_norm}")
    named = _with_gradients("clip_grad_norm_", parameters)
    total = _norm("clip_grad_norm_", [p.grad.data for _, p in named], norm_type)
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(f"clip_grad_norm_: {_what_is_not_finite(named)}; nothing was clipped")
    factor = max_norm / (total + 1e-6)
    if not factor >= 1:
        _tell(named)
        with np.errstate(invalid="ignore"):  # 0 * inf, where the caller wants no error
            for _, p in named:
                p.grad = Tensor(_scaled(p.grad.data, factor))
    return Tensor(np.asarray(total))


def clip_grad_value_(parameters: Parameters, clip_value: float) -> None:
    """Clamp every element of every gradient: `g <- min(max(g, -clip_value), clip_value)`.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 1.0])
        >>> p.grad = tg.tensor([3.0, -0.5])
        >>> tg.nn.utils.clip_grad_value_([p], 1.0)
        >>> p.grad
        tensor([ 1. , -0.5])

    This bends the direction of the step. Call it after `backward()` and before `step()`. Infinite elements become
    `clip_value`, NaN stays NaN.

    Raises:
        ValueError: `clip_value` is negative or NaN.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value must be at least 0, got {clip_value}")
    named = _with_gradients("clip_grad_value_", parameters)
    if _hooks and (beyond := [(n, p) for n, p in named if not (np.abs(p.grad.data) <= clip_value).all()]):
        _tell(beyond)
    for _, p in named:
        p.grad = Tensor(np.clip(p.grad.data, -clip_value, clip_value))


def clip_grad_adaptive_(
    parameters: Parameters,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    dim: int | tuple[int, ...] | None = None,
    error_if_nonfinite: bool = True,
) -> None:
    """Adaptive gradient clipping: no unit's gradient is longer than a fraction of the unit's weights.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([[3.0, 4.0]])
        >>> p.grad = tg.tensor([[0.0, 10.0]])
        >>> tg.nn.utils.clip_grad_adaptive_([p], 0.1)
        >>> p.grad  # a tenth of the unit's weights, whose norm is 5
        tensor([[0. , 0.5]])

        limit = clip_factor * max(|w|, eps)
        g <- g * limit / |g|                  for each unit whose |g| is above its limit

    w being the weights that lead into one unit and |w| their Euclidean norm. By default a unit is a row: weights are
    [out, in, ...] as in `Linear` and the built-in recurrent layers. The weights of a cell of your own that computes
    `x @ W` are [in, out]: clip these with `dim=0`. A parameter of fewer than two dimensions, a bias say, is one unit.

    Call it after `backward()` and before `step()`. Parameters without a gradient are passed over; the paper leaves out
    those of the last layer. Norms are taken in float64. What is clipped becomes a new `p.grad`.

    Args:
        parameters: a parameter or several; pairs from `named_parameters()` make errors say the name.
        clip_factor: the fraction; 0.01 is the paper's for batches of thousands, small batches bear more.
        eps: the norm that weights are taken to have at least, so that those that are zero can be learned.
        dim: the dimensions over which norms are taken: those of one unit.
        error_if_nonfinite: raise where a gradient holds NaN or inf.

    Raises:
        RuntimeError: a gradient is not finite. All gradients are as they were.
        ValueError: `clip_factor` or `eps` is negative or NaN.
        IndexError: a parameter has no such `dim`.

    Source: Brock, De, Smith, Simonyan, "High-performance large-scale image recognition without normalization", 2021,
    equation 3.
    """
    for name, value in (("clip_factor", clip_factor), ("eps", eps)):
        if not value >= 0:
            raise ValueError(f"clip_grad_adaptive_: {name} must be at least 0, got {value}")
    named = _with_gradients("clip_grad_adaptive_", parameters)
    norms = [unit_norms(f"clip_grad_adaptive_: {label}", p.grad.data, dim) for label, p in named]
    if error_if_nonfinite and not all(np.isfinite(norm).all() for norm in norms):
        raise RuntimeError(f"clip_grad_adaptive_: {_what_is_not_finite(named)}; nothing was clipped")
    limits = [clip_factor * np.maximum(unit_norms(label, p.data, dim), eps) for label, p in named]
    if _hooks and (beyond := [pair for pair, norm, limit in zip(named, norms, limits) if (norm > limit).any()]):
        _tell(beyond)
    for (_, p), norm, limit in zip(named, norms, limits):
        too_long = norm > limit
        if too_long.any():
            with np.errstate(invalid="ignore"):  # inf / inf, where the caller wants no error
                factor = np.divide(limit, norm, out=np.ones_like(norm), where=too_long)
                p.grad = Tensor((p.grad.data * factor).astype(p.grad.data.dtype))


def unit_norms(name: str, x: np.ndarray, dim: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The Euclidean norm of what leads into each unit, in float64, with the dimensions of x kept.

    Args:
        name: what to begin an error with.
        x: the weights, or their gradient.
        dim: the dimensions of one unit; None for all but the first, or for all where there is only one.
    """
    dims = dim if isinstance(dim, tuple) else None if dim is None else (dim,)
    if x.ndim < 2:
        dims = None
    elif dims is None:
        dims = tuple(range(1, x.ndim))
    elif not all(-x.ndim <= d < x.ndim for d in dims):
        raise IndexError(f"{name} has {x.ndim} dimensions, and no dim {dim}")
    x = x.astype(np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.sum(x * x, axis=dims, keepdims=True)
        if ((squares > 1e-280) & (squares < np.inf)).all():
            return np.sqrt(squares)
        # Out of range, or so small that terms were lost, or zeros or not finite: measure in units of the largest.
        largest = np.max(np.abs(x), axis=dims, keepdims=True, initial=0)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1)
        return unit * np.sqrt(np.sum((x / unit) ** 2, axis=dims, keepdims=True))


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of several tensors taken together, as if they were one long vector; summed in float64.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.utils.get_total_norm([tg.tensor([3.0]), tg.tensor([[4.0]])]).item()
        5.0

    As in PyTorch the tensors are the gradients themselves: `get_total_norm(p.grad for p in model.parameters())`.

    Returns:
        A float64 tensor of no dimensions; 0 for no tensors.

    Raises:
        RuntimeError: `error_if_nonfinite`, and the norm is NaN or inf.
        ValueError: `norm_type` is not positive.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    total = _norm("get_total_norm", [x.data for x in tensors], norm_type)
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(f"get_total_norm: the norm is not finite: {total}")
    return Tensor(np.asarray(total))


def _with_gradients(name: str, parameters: Parameters) -> list[tuple[str, Any]]:
    """The parameters that have a gradient, each with what to call it in an error."""
    named = []
    if isinstance(parameters, Module):
        raise TypeError(f"{name}: expected tensors, got a {type(parameters).__name__}: write model.parameters()")
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not given and isinstance(parameters, Iterator):
        warnings.warn(f"{name}: there are no parameters; was model.parameters() used up before?", stacklevel=3)
    for i, entry in enumerate(given):
        label, p = (repr(entry[0]), entry[1]) if isinstance(entry, tuple) else (f"parameter {i}", entry)
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: expected tensors or pairs of a name and a tensor, got {type(p).__name__}")
        if p.grad is not None:
            if not isinstance(p.grad, Tensor):
                raise TypeError(
                    f"{name}: the gradient of {label} is no tensor but a {type(p.grad).__name__}; assign tg.tensor(it)"
                )
            named.append((label, p))
    return named


def _norm(name: str, gradients: list[np.ndarray], norm_type: float) -> float:
    """The norm of all elements together; NaN and inf if any element is."""
    if not norm_type > 0:
        raise ValueError(f"{name}: norm_type must be positive, got {norm_type}")
    power_sum = 0.0 if norm_type == math.inf else sum(_power_sum(g, norm_type, 1.0) for g in gradients)
    if 1e-280 < power_sum < math.inf:
        return _root(power_sum, norm_type)
    # The norm is inf, or the sum is out of range or so small that terms were lost: measure in units of the largest.
    largest = float(np.max([np.maximum(g.max(initial=0), -g.min(initial=0)) for g in gradients], initial=0.0))
    if largest == 0 or not math.isfinite(largest) or norm_type == math.inf:
        return largest
    return largest * _root(sum(_power_sum(g, norm_type, largest) for g in gradients), norm_type)


def _root(power_sum: float, norm_type: float) -> float:
    """power_sum^(1 / norm_type); inf where it is too large for a float, at which Python's own power raises."""
    with np.errstate(over="ignore"):
        return float(np.power(power_sum, 1 / norm_type))


def _power_sum(g: np.ndarray, p: float, unit: float) -> float:
    """sum |g / unit|^p in float64."""
    if p == 2 and unit == 1:
        return sum_of_squares(g)
    flat, total = g.reshape(-1), 0.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, flat.size, BLOCK):
            x = flat[start : start + BLOCK].astype(np.float64)
            if unit != 1:
                x /= unit
            total += float(np.sum(np.abs(x) ** p))
    return total


def _scaled(g: np.ndarray, factor: float) -> np.ndarray:
    """g * factor in the dtype of g."""
    if factor < np.finfo(g.dtype).tiny:  # in float32 the factor itself would lose its digits
        return (g.astype(np.float64) * factor).astype(g.dtype)
    return g * factor


def _what_is_not_finite(named: list[tuple[str, Any]]) -> str:
    """The first gradient that holds NaN or inf."""
    for label, p in named:
        g = p.grad.data
        nans, infs = int(np.isnan(g).sum()), int(np.isinf(g).sum())
        if nans or infs:
            return f"the gradient of {label} is not finite: of {g.size} elements {nans} are NaN and {infs} infinite"
    return "the norm of the gradients is not finite, although each of them is"
