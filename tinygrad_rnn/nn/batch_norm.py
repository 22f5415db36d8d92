"""Batch normalisation (Ioffe, Szegedy, 2015): channels brought to mean 0 and variance 1 over a batch."""

from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.arrays import moments
from ..autograd.operands import aligned, as_tensor, floating
from ..autograd.tensor import Tensor
from . import init
from .module import Module, Parameter


def batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`y = (x - mean) / sqrt(var + eps) * weight + bias`, a mean and a variance for each channel.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([[1.0, 10.0], [3.0, 30.0]])
        >>> tg.nn.functional.batch_norm(x, None, None, training=True, eps=0.0)
        tensor([[-1., -1.],
                [ 1.,  1.]])

    Shapes: [N, C, ...] -> the same; everything else [C].

    Args:
        running_mean, running_var: tensors that take a step of `momentum` towards the mean and the unbiased variance of
            this batch while training, and replace them otherwise; or None.
        training: take mean and (biased) variance from this batch.

    Raises:
        ValueError: a shape does not fit, there is a single value for each channel while training, or there are no
            running statistics where they are needed.
    """
    x = floating(input)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: expected [N, C, ...], got shape {list(x.shape)}")
    channels = x.shape[1]
    for name, value in (("mean", running_mean), ("var", running_var), ("weight", weight), ("bias", bias)):
        if value is not None and as_tensor(value).shape != (channels,):
            raise ValueError(f"batch_norm: {name} has shape {list(as_tensor(value).shape)}, expected [{channels}]")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: without training there must be a running_mean and a running_var")
    if training:
        return _of_batch(x, running_mean, running_var, weight, bias, momentum, eps)
    shape = (channels, *[1] * (x.ndim - 2))
    scale = (floating(running_var) + eps).rsqrt()
    y = (x - floating(running_mean).reshape(shape)) * scale.reshape(shape)
    if weight is not None:
        y = y * floating(weight).reshape(shape)
    return y if bias is None else y + floating(bias).reshape(shape)


def _of_batch(x: Tensor, mean: Any, var: Any, weight: Any, bias: Any, momentum: float, eps: float) -> Tensor:
    """With the mean and the variance of this batch, which the running ones follow."""
    channels = x.shape[1]
    if x.numel() == channels:
        raise ValueError(
            f"batch_norm: shape {list(x.shape)} has one value for each channel, and training takes a variance of "
            "them: it needs more than one"
        )
    for name, running in (("running_mean", mean), ("running_var", var)):
        if not (running is None or (isinstance(running, Tensor) and running.data.flags.writeable)):
            raise ValueError(f"batch_norm: {name} must be a tensor that can be written to, not {running!r}")
    scale, shift = 1 if weight is None else floating(weight), 0 if bias is None else floating(bias)
    if x.ndim > 2:  # numbers of channels are aligned with those
        shape = (channels, *[1] * (x.ndim - 2))
        scale, shift = (y.reshape(shape) if isinstance(y, Tensor) else y for y in (scale, shift))
    x, scale, shift = aligned("batch_norm", x, scale, shift)
    found = moments(x.data)  # which the forward and the backward pass need, too
    y = table.batch_norm(x, scale, shift, eps=eps, found=found)
    if x.numel():  # now that nothing can go wrong
        count = x.numel() // channels
        for running, now in ((mean, found[0]), (var, found[1] * (count / (count - 1)))):
            if running is not None:
                running.data += momentum * (now.reshape(-1) - running.data)
    return y


class BatchNorm1d(Module):
    """Batch normalisation with running statistics, which `eval()` uses instead of those of the batch.

        >>> import tinygrad_rnn as tg
        >>> norm = tg.nn.BatchNorm1d(2)
        >>> norm(tg.tensor([[1.0, 10.0], [3.0, 30.0]])).shape
        (2, 2)
        >>> norm.running_mean
        tensor([0.2, 2. ])

    Shapes: [N, C] or [N, C, L] -> the same.

    Args:
        momentum: how far the running statistics go towards those of a batch; None: they are plain means of all batches.
        affine: whether there are a weight and, unless `bias` is False, a bias.
        track_running_stats: whether there are running statistics; otherwise every batch has its own, in `eval()` too.

    Attributes:
        weight, bias: [num_features], ones and zeros to begin with, or None.
        running_mean, running_var, num_batches_tracked: buffers, or None.
    """

    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, bias: bool = True, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        values = lambda: np.zeros(num_features, np.float32 if dtype is None else dtype)
        self.weight = Parameter(values()) if affine else None
        self.bias = Parameter(values()) if affine and bias else None
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, Tensor(values()) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", Tensor(np.array(0)) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        if self.track_running_stats:
            self.running_mean.data[...], self.running_var.data[...], self.num_batches_tracked.data[...] = 0, 1, 0

    def reset_parameters(self) -> None:
        """Back to ones and zeros, and forget all batches."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Any) -> Tensor:
        if np.ndim(input) not in (2, 3):
            raise ValueError(f"BatchNorm1d: expected [N, C] or [N, C, L], got shape {list(np.shape(input))}")
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        tracked = self.training and self.track_running_stats
        momentum = self.momentum if self.momentum is not None else 1 / (int(count.data) + 1) if tracked else 0.0
        batch = self.training or not self.track_running_stats
        y = batch_norm(input, mean, var, self.weight, self.bias, batch, momentum, self.eps)
        if tracked:
            count.data += 1
        return y

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
