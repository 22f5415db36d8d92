"""Layers that slide over time: Conv1d, the pools, and the temporal convolutional network made of them."""

import math
from collections.abc import Sequence
from typing import Any

from ..autograd.operands import as_tensor
from ..autograd.pointwise import relu
from ..autograd.tensor import Tensor
from . import init, sliding
from .containers import ModuleList
from .layers import Dropout, empty
from .module import Module
from .utils.parametrizations import weight_norm


class Conv1d(Module):
    """`y[n, o, l] = b[o] + sum over c, i of weight[o, c, i] x[n, c, l stride + i dilation - padding]`.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Conv1d(3, 8, kernel_size=5, padding="causal", dilation=2)
        >>> layer(tg.randn(16, 3, 100)).shape
        (16, 8, 100)

    Shapes: [N, in_channels, L] or [in_channels, L] -> [N, out_channels, M] or [out_channels, M].

    Args:
        padding: a number of steps at each end, "valid" (none), "same" or "causal" (all of them at the beginning, so
            that nothing sees the future); see `functional.conv1d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Attributes:
        weight: [out_channels, in_channels / groups, kernel_size], from U(-1 / sqrt(n), 1 / sqrt(n)) with
            n = in_channels / groups kernel_size.
        bias: [out_channels], from the same, or None.

    Raises:
        ValueError: the groups do not divide the channels, or an option is unknown.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *, dtype: Any = None,
    ) -> None:  # fmt: skip
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"Conv1d: {groups} groups do not divide {in_channels} and {out_channels} channels")
        if padding_mode not in sliding.PADDING_MODES:
            raise ValueError(f"Conv1d: padding_mode must be one of {', '.join(sliding.PADDING_MODES)}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sliding.single("Conv1d: kernel_size", kernel_size)
        self.stride = sliding.single("Conv1d: stride", stride)
        self.dilation = sliding.single("Conv1d: dilation", dilation)
        sliding.widths(padding, self.kernel_size, self.stride, self.dilation)  # refuses what cannot be
        self.padding, self.padding_mode = padding, padding_mode
        self.weight = empty(out_channels, in_channels // groups, self.kernel_size, dtype=dtype)
        self.bias = empty(out_channels, dtype=dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self._refuse_computed()
        bound = 1 / math.sqrt(max(self.in_channels // self.groups * self.kernel_size, 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input: Any) -> Tensor:
        return sliding.conv1d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            padding_mode=self.padding_mode,
        )  # fmt: skip

    def extra_repr(self) -> str:
        usual = {"padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
        more = "".join(f", {name}={vars(self)[name]!r}" for name, value in usual.items() if vars(self)[name] != value)
        bias = "" if self.bias is not None else ", bias=False"
        size, stride = self.kernel_size, self.stride
        return f"{self.in_channels}, {self.out_channels}, kernel_size={size}, stride={stride}{more}{bias}"


class _Pool(Module):
    """What pools have in common: they are functions with options."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if name != "training")


class MaxPool1d(_Pool):
    """The largest element of each window; see `functional.max_pool1d`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.MaxPool1d(2)(tg.tensor([[1.0, 5.0, 2.0, 3.0]]))
    tensor([[5., 3.]])
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, return_indices, ceil_mode

    def forward(self, input: Any) -> Any:
        return sliding.max_pool1d(input, **{k: v for k, v in vars(self).items() if k != "training"})


class AvgPool1d(_Pool):
    """The mean of each window; see `functional.avg_pool1d`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.AvgPool1d(2)(tg.tensor([[1.0, 5.0, 2.0, 3.0]]))
    tensor([[3. , 2.5]])
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def forward(self, input: Any) -> Tensor:
        return sliding.avg_pool1d(input, **{k: v for k, v in vars(self).items() if k != "training"})


class AdaptiveAvgPool1d(_Pool):
    """The means of `output_size` windows that cover the sequence; see `functional.adaptive_avg_pool1d`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.AdaptiveAvgPool1d(1)(tg.tensor([[1.0, 5.0, 2.0, 3.0]]))
    tensor([[2.75]])
    """

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def forward(self, input: Any) -> Tensor:
        return sliding.adaptive_avg_pool1d(input, self.output_size)


class TemporalBlock(Module):
    """Two causal dilated convolutions and a way around them (Bai, Kolter and Koltun, 2018).

        >>> import tinygrad_rnn as tg
        >>> block = tg.nn.TemporalBlock(3, 8, kernel_size=5, dilation=2)
        >>> block(tg.randn(16, 3, 100)).shape, block.receptive_field
        ((16, 8, 100), 17)

        a = dropout(relu(conv1(x))),    b = dropout(relu(conv2(a))),    y = relu(b + x)

    The convolutions are weight-normed. Where channels differ, x goes through `downsample`, a convolution of width 1.

    Shapes: [N, in_channels, L] or [in_channels, L] -> [N, out_channels, L] or [out_channels, L].

    Args:
        kernel_size: how many steps each convolution sees.
        dilation: how far these lie apart.
        dropout: the probability with which elements are dropped while training.

    Attributes:
        receptive_field: the number of steps that an output depends on, 1 + 2 (kernel_size - 1) dilation.

    Raises:
        ValueError: a size is not positive, or a probability not in [0, 1].

    Source: Bai, Kolter and Koltun, "An empirical evaluation of generic convolutional and recurrent networks for
    sequence modeling", 2018. The authors draw weights from N(0, 0.01^2), and weight norm computes those of the two
    convolutions anew before anybody has seen them; here all begin as those of `Conv1d` do.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 2, dilation: int = 1, dropout: float = 0.2, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        options: dict[str, Any] = dict(padding="causal", dilation=dilation, dtype=dtype)
        self.conv1 = weight_norm(Conv1d(in_channels, out_channels, kernel_size, **options))
        self.conv2 = weight_norm(Conv1d(out_channels, out_channels, kernel_size, **options))
        self.downsample = None if in_channels == out_channels else Conv1d(in_channels, out_channels, 1, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.receptive_field = 1 + 2 * (self.conv1.kernel_size - 1) * self.conv1.dilation

    def forward(self, input: Any) -> Tensor:
        x = as_tensor(input)
        y = self.dropout(relu(self.conv1(x)))
        y = self.dropout(relu(self.conv2(y)))
        return relu(y + (x if self.downsample is None else self.downsample(x)))


class TCN(Module):
    """Temporal convolutional network: blocks whose dilation doubles from one to the next (Bai, Kolter, Koltun, 2018).

        >>> import tinygrad_rnn as tg
        >>> net = tg.nn.TCN(3, [16] * 4, kernel_size=5, strict=True)
        >>> net(tg.randn(8, 3, 100)).shape, net.receptive_field
        ((8, 16, 100), 121)
        >>> net(tg.randn(8, 3, 200))
        Traceback (most recent call last):
        ValueError: TCN: a sequence of 200 steps is longer than the receptive field of 121: the last output does not ...

    Block i has dilation 2^i, so L of them of kernel size k see

        receptive_field = 1 + 2 (k - 1) (2^L - 1)

    steps: 3,061 with k = 7 and L = 8. Batch and channels come first; recurrent layers have time first: `x.permute(1, 2,
    0)` of theirs.

    Shapes: [N, in_channels, L] or [in_channels, L] -> [N, channels[-1], L] or [channels[-1], L].

    Args:
        channels: how many each block puts out.
        dropout: the probability with which elements are dropped while training.
        strict: refuse sequences that are longer than the receptive field.

    Raises:
        ValueError: there are no blocks; when called, a sequence is too long and `strict` is set.

    Source: Bai, Kolter and Koltun, "An empirical evaluation of generic convolutional and recurrent networks for
    sequence modeling", 2018; their code is locuslab/TCN.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], kernel_size: int = 2, dropout: float = 0.2,
        strict: bool = False, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        if not channels:
            raise ValueError("TCN: channels must have a number for each block, such as [25] * 8")
        widths = zip([in_channels, *channels], channels)
        blocks = [TemporalBlock(i, o, kernel_size, 2**n, dropout, dtype=dtype) for n, (i, o) in enumerate(widths)]
        self.network = ModuleList(blocks)
        self.kernel_size, self.strict = blocks[0].conv1.kernel_size, strict

    @property
    def receptive_field(self) -> int:
        """How many steps an output depends on, its own included."""
        return 1 + 2 * (self.kernel_size - 1) * (2 ** len(self.network) - 1)

    def forward(self, input: Any) -> Tensor:
        x = as_tensor(input)
        if self.strict and x.shape[-1] > self.receptive_field:
            raise ValueError(
                f"TCN: a sequence of {x.shape[-1]} steps is longer than the receptive field of {self.receptive_field}: "
                "the last output does not see the first step; add blocks or widen kernels, or leave out strict"
            )
        for block in self.network:
            x = block(x)
        return x
