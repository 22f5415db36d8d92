"""Losses, as functions and as modules.

Every loss takes `reduction`: "none" for one number an element (or sample), "sum", or "mean". PyTorch's deprecated
`size_average` and `reduce` do not exist; what follows them in its signatures is keyword-only here.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.arrays import expanded
from ..autograd.operands import as_array, as_tensor, floating, integers
from ..autograd.pointwise import abs, clamp, exp, log, square, where
from ..autograd.reductions import log_softmax
from ..autograd.tensor import Tensor
from .module import Module

# ---- Classes ---------------------------------------------------------------------------------------------------------


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The negative log-likelihood of classes under `softmax(input)`.

        >>> import tinygrad_rnn as tg
        >>> scores = tg.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> tg.cross_entropy(scores, tg.tensor([0, 1]))  # log(1 + exp(-2))
        tensor(0.1269)

    For one sample with scores x and true class t it is `-w[t] log softmax(x)[t]`. With class probabilities q as the
    target it is `-sum_c w[c] q[c] log softmax(x)[c]`; label smoothing replaces q by `(1 - s) q + s / C`
    (Szegedy et al., 2016).

    Shapes: input [N, C, d1, ...] or [C]; target [N, d1, ...] or [] of integers, or of input's shape for probabilities.

    Args:
        weight: w, a weight for each class, [C]; 1 by default.
        ignore_index: samples of this class count for nothing; it need not be a class. Not with probabilities.
        reduction: "mean" divides by the sum of the samples' weights w[t] (NaN if all samples are ignored); with
            probabilities, by their number.
        label_smoothing: s, from 0 to 1.

    Raises:
        IndexError: a target is no class.
        ValueError: shapes do not fit, or an option is out of range.
    """
    name = "cross_entropy"
    _check_reduction(name, reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{name}: label_smoothing must be in [0, 1], not {label_smoothing}")
    scores = floating(input)
    log_p = log_softmax(scores, _class_dim(name, scores))
    target = as_tensor(target)
    if target.dtype.kind == "f":
        return _probability_losses(log_p, target, weight, ignore_index, reduction, label_smoothing)
    return _index_losses(name, log_p, target, weight, ignore_index, reduction, label_smoothing)


def nll_loss(
    input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """`-w[t] x[t]` for log-probabilities x and true class t: `cross_entropy` after a `log_softmax`.

        >>> import tinygrad_rnn as tg
        >>> tg.nll_loss(tg.tensor([[-0.5, -2.0]]), tg.tensor([1])).item()
        2.0

    Shapes and arguments are those of `cross_entropy` with class indices.

    Raises:
        IndexError: a target is no class.
        ValueError: shapes do not fit, or the reduction is unknown.
    """
    _check_reduction("nll_loss", reduction)
    return _index_losses("nll_loss", floating(input), target, weight, ignore_index, reduction, 0.0)


def _class_dim(name: str, scores: Tensor) -> int:
    if not scores.ndim:
        raise ValueError(f"{name}: the input needs a dimension for the classes, [N, C, ...] or [C]")
    return 0 if scores.ndim == 1 else 1


def _class_weights(name: str, weight: Any, log_p: Tensor, dim: int) -> np.ndarray | None:
    if weight is None:
        return None
    weights = as_array(weight).astype(log_p.dtype, copy=False)
    if weights.shape != (log_p.shape[dim],):
        raise ValueError(
            f"{name}: weight must have one entry for each of the {log_p.shape[dim]} classes, got shape "
            f"{list(weights.shape)}"
        )
    return weights


def _index_losses(
    name: str, log_p: Tensor, target: Any, weight: Any, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    dim = _class_dim(name, log_p)
    classes = log_p.shape[dim]
    labels = integers(name, target)
    expected = log_p.shape[:dim] + log_p.shape[dim + 1 :]
    if labels.shape != expected:
        raise ValueError(
            f"{name}: for an input of shape {list(log_p.shape)} a target of class indices has shape {list(expected)}, "
            f"not {list(labels.shape)}"
        )
    kept = _kept(name, labels, classes, ignore_index)
    labels = labels if kept is None else np.where(kept, labels, 0)
    weights = _class_weights(name, weight, log_p, dim)

    places: list[Any] = list(np.ogrid[tuple(map(slice, labels.shape))])
    places.insert(dim, labels)
    losses = -table.index(log_p, at=tuple(places))
    if weights is not None:
        losses = losses * weights[labels]
    if smoothing:
        weighted = log_p if weights is None else log_p * _along(weights, dim, log_p.ndim)
        losses = (1 - smoothing) * losses - smoothing / classes * weighted.sum(dim)
    if kept is not None:
        losses = where(kept, losses, 0)
    if reduction != "mean":
        return losses if reduction == "none" else losses.sum()
    counted = labels if kept is None else labels[kept]
    return losses.sum() / float(counted.size if weights is None else weights[counted].sum())


def _kept(name: str, labels: np.ndarray, classes: int, ignore_index: int) -> np.ndarray | None:
    """Which samples count; None if all do.

    Raises:
        IndexError: a target is no class.
    """
    low, high = (labels.min(), labels.max()) if labels.size else (0, -1)
    if low >= 0 and high < classes and not low <= ignore_index <= high:
        return None
    kept = labels != ignore_index
    wrong = labels[kept & ((labels < 0) | (labels >= classes))]
    if wrong.size:
        raise IndexError(
            f"{name}: target {wrong[0]} is not one of the {classes} classes 0 to {classes - 1}, nor "
            f"ignore_index={ignore_index}"
        )
    return kept


def _probability_losses(
    log_p: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    name, dim = "cross_entropy", _class_dim("cross_entropy", log_p)
    if target.shape != log_p.shape:
        raise ValueError(
            f"{name}: a target of class probabilities has the input's shape {list(log_p.shape)}, not "
            f"{list(target.shape)}; class indices must be integers"
        )
    if ignore_index >= 0:
        raise ValueError(f"{name}: ignore_index={ignore_index} has no meaning for class probabilities")
    classes = log_p.shape[dim]
    if smoothing:
        target = (1 - smoothing) * target + smoothing / classes
    weights = _class_weights(name, weight, log_p, dim)
    products = log_p * target
    if weights is not None:
        products = products * _along(weights, dim, log_p.ndim)
    if reduction == "none":
        return -products.sum(dim)
    samples = products.numel() / classes if classes else 0
    return -products.sum() / samples if reduction == "mean" else -products.sum()


def _along(weights: np.ndarray, dim: int, ndim: int) -> np.ndarray:
    """[C] as [1, C, 1, ...]."""
    return weights.reshape([-1 if i == dim else 1 for i in range(ndim)])


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Tensor:
    """`(x - t)^2`. Warns if input and target have to be broadcast, which is seldom meant.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0, 5.0], requires_grad=True)
        >>> tg.mse_loss(x, tg.tensor([2.0, 2.0])).backward()
        >>> x.grad  # 2 (x - t) / N
        tensor([-1.,  3.])
    """
    return _reduced("mse_loss", square(_difference("mse_loss", input, target)), reduction)


def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Tensor:
    """`|x - t|`. Warns if input and target have to be broadcast, which is seldom meant.

        >>> import tinygrad_rnn as tg
        >>> tg.l1_loss(tg.tensor([1.0, 5.0]), tg.tensor([2.0, 2.0])).item()
        2.0
    """
    return _reduced("l1_loss", abs(_difference("l1_loss", input, target)), reduction)


def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """`d^2 / (2 beta)` where `|d| = |x - t| < beta`, else `|d| - beta / 2`. With beta = 0 it is `l1_loss`.

        >>> import tinygrad_rnn as tg
        >>> tg.smooth_l1_loss(tg.tensor([0.5, 5.0]), tg.tensor([0.0, 2.0]), reduction="none")
        tensor([0.125, 2.5  ])

    Raises:
        ValueError: beta is negative.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    d = _difference("smooth_l1_loss", input, target)
    return _reduced("smooth_l1_loss", _huber(d, beta) / beta if beta else abs(d), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """`d^2 / 2` where `|d| = |x - t| <= delta`, else `delta (|d| - delta / 2)` (Huber, 1964).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.huber_loss(tg.tensor([0.5, 5.0]), tg.tensor([0.0, 2.0])).item()  # (0.125 + 2.5) / 2
        1.3125

    Raises:
        ValueError: delta is not positive.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    return _reduced("huber_loss", _huber(_difference("huber_loss", input, target), delta), reduction)


def _huber(d: Tensor, delta: float) -> Tensor:
    """Both branches in one: m (d - m / 2) with m = d cut off at +-delta, smooth in both derivatives and safe at inf."""
    m = clamp(d, -delta, delta)
    return m * (d - 0.5 * m)


def _difference(name: str, input: Any, target: Any) -> Tensor:
    x, t = floating(input), floating(target)
    if x.shape != t.shape:
        try:
            np.broadcast_shapes(x.shape, t.shape)
        except ValueError:
            raise ValueError(
                f"{name}: the input has shape {list(x.shape)}, the target {list(t.shape)}; they should be the same"
            ) from None
        warnings.warn(
            f"{name}: the input has shape {list(x.shape)}, the target {list(t.shape)}; they are broadcast, which "
            "compares elements that may not belong together. Give them the same shape.",
            stacklevel=3,
        )
    return x - t


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """`-w (p t log s(x) + (1 - t) log(1 - s(x)))` with the sigmoid s, computed so that nothing overflows.

        >>> import tinygrad_rnn as tg
        >>> scores = tg.tensor([0.0, 0.0], requires_grad=True)
        >>> tg.binary_cross_entropy_with_logits(scores, tg.tensor([1.0, 0.0])).backward()
        >>> scores.grad  # (sigmoid(score) - target) / 2
        tensor([-0.25,  0.25])

    Args:
        input: the scores x, of any shape.
        target: the probabilities t, of the same shape.
        weight: w, broadcast to that shape.
        pos_weight: p, the weight of positive examples, broadcast to that shape.

    Raises:
        ValueError: shapes differ, or the reduction is unknown.
    """
    name = "binary_cross_entropy_with_logits"
    x, t = floating(input), floating(target)
    if x.shape != t.shape:
        raise ValueError(f"{name}: the input has shape {list(x.shape)}, the target {list(t.shape)}; they must be equal")
    for option, w in (("weight", weight), ("pos_weight", pos_weight)):
        try:
            expanded(() if w is None else floating(w).shape, x.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {option}: {error}") from None
    minus_log_s = table.softplus(-x)
    if pos_weight is not None:
        minus_log_s = ((floating(pos_weight) - 1) * t + 1) * minus_log_s
    losses = (1 - t) * x + minus_log_s
    return _reduced(name, losses if weight is None else losses * weight, reduction)


def kl_div(input: Any, target: Any, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """`t (log t - x)`, whose sum is the Kullback-Leibler divergence KL(t || exp(x)).

        >>> import tinygrad_rnn as tg
        >>> p = tg.tensor([0.25, 0.75])
        >>> tg.kl_div(p.log(), p, reduction="sum").item()  # of a distribution and itself
        0.0

    Args:
        input: x, LOG-probabilities, as from `log_softmax`.
        target: t, probabilities; or their logarithms if `log_target`.
        reduction: "batchmean" divides the sum by the first size of the input, which is the mean divergence. "mean"
            divides by the number of all elements, as PyTorch's default does, and is the mean divergence divided by
            the number of classes.

    Raises:
        ValueError: shapes do not broadcast, or the reduction is unknown.
    """
    if reduction != "batchmean":
        _check_reduction("kl_div", reduction, "'none', 'mean', 'batchmean' or 'sum'")
    x, t = floating(input), floating(target)
    try:
        np.broadcast_shapes(x.shape, t.shape)
    except ValueError:
        raise ValueError(f"kl_div: the input has shape {list(x.shape)}, the target {list(t.shape)}") from None
    losses = exp(t) * (t - x) if log_target else t * log(where(t == 0, 1, t)) - t * x  # 0 log 0 = 0
    if reduction == "batchmean":
        return losses.sum() / (x.shape[0] if x.ndim else 1)
    return _reduced("kl_div", losses, reduction)


def _check_reduction(name: str, reduction: str, known: str = "'none', 'mean' or 'sum'") -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name}: reduction must be {known}, not {reduction!r}")


def _reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    _check_reduction(name, reduction)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


# ---- Modules ---------------------------------------------------------------------------------------------------------


class _Loss(Module):
    """A loss function with its options; weights are buffers, so that they are saved with the model."""

    function: Callable[..., Tensor]

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            if name in ("weight", "pos_weight"):
                self.register_buffer(name, None if value is None else as_tensor(value))
            else:
                setattr(self, name, value)
        self._names = tuple(options)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def forward(self, input: Any, target: Any) -> Tensor:
        return type(self).function(input, target, **self._options())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items() if value is not None)


class CrossEntropyLoss(_Loss):
    """`cross_entropy` as a module.

        >>> import tinygrad_rnn as tg
        >>> scores = tg.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> tg.nn.CrossEntropyLoss()(scores, tg.tensor([0, 1]))  # log(1 + exp(-2))
        tensor(0.1269)
    """

    function = staticmethod(cross_entropy)

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(
            weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )


class NLLLoss(_Loss):
    """`nll_loss` as a module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.NLLLoss()(tg.tensor([[-0.5, -2.0]]), tg.tensor([1])).item()
        2.0
    """

    function = staticmethod(nll_loss)

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)


class MSELoss(_Loss):
    """`mse_loss` as a module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.MSELoss()(tg.tensor([1.0, 5.0]), tg.tensor([2.0, 2.0])).item()
        5.0
    """

    function = staticmethod(mse_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class L1Loss(_Loss):
    """`l1_loss` as a module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.L1Loss()(tg.tensor([1.0, 5.0]), tg.tensor([2.0, 2.0])).item()
        2.0
    """

    function = staticmethod(l1_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class SmoothL1Loss(_Loss):
    """`smooth_l1_loss` as a module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.SmoothL1Loss(reduction="none")(tg.tensor([0.5, 5.0]), tg.tensor([0.0, 2.0]))
        tensor([0.125, 2.5  ])
    """

    function = staticmethod(smooth_l1_loss)

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction, beta=beta)


class HuberLoss(_Loss):
    """`huber_loss` as a module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.HuberLoss(delta=1.0)(tg.tensor([0.5, 5.0]), tg.tensor([0.0, 2.0])).item()  # (0.125 + 2.5) / 2
        1.3125
    """

    function = staticmethod(huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class BCEWithLogitsLoss(_Loss):
    """`binary_cross_entropy_with_logits` as a module.

        >>> import tinygrad_rnn as tg
        >>> criterion = tg.nn.BCEWithLogitsLoss(reduction="sum")
        >>> criterion(tg.tensor([0.0, 0.0]), tg.tensor([1.0, 0.0]))  # 2 log(2)
        tensor(1.3863)
    """

    function = staticmethod(binary_cross_entropy_with_logits)

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(weight=weight, pos_weight=pos_weight, reduction=reduction)


class KLDivLoss(_Loss):
    """`kl_div` as a module.

        >>> import tinygrad_rnn as tg
        >>> p = tg.tensor([0.25, 0.75])
        >>> tg.nn.KLDivLoss(reduction="sum")(p.log(), p).item()  # of a distribution and itself
        0.0
    """

    function = staticmethod(kl_div)

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=log_target)
