"""What slides over time: the convolution, and the largest or the mean of a window.

Sequences are [N, C, L] here, batch first and time last, as PyTorch's convolutions have them; [C, L] is one sequence.
Recurrent layers have [T, B, I]: `x.permute(1, 2, 0)` leads there.
"""

import math
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.operands import aligned, ask, floating, is_whole
from ..autograd.pointwise import isnan, where
from ..autograd.shapes import cat
from ..autograd.tape import mode
from ..autograd.tensor import Tensor
from .padding import pad

WIDE = 64  # channels; of fewer, groups are computed together
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    *, padding_mode: str = "zeros",
) -> Tensor:  # fmt: skip
    """`y[n, o, l] = b[o] + sum over c, i of weight[o, c, i] x[n, c, l stride + i dilation - padding]`.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> tg.nn.functional.conv1d(x, tg.tensor([[[-1.0, 1.0]]]))  # the difference of neighbours
        tensor([[[1., 2., 4.]]])
        >>> tg.nn.functional.conv1d(x, tg.tensor([[[-1.0, 1.0]]]), padding="causal")
        tensor([[[1., 1., 2., 4.]]])

    Shapes: input [N, C, L] or [C, L], weight [O, C / groups, k], bias [O] -> [N, O, M] or [O, M], where
    M = (L + 2 padding - dilation (k - 1) - 1) // stride + 1.

    Args:
        padding: how many steps are added at each end; "valid": none; "same": as many as keep the length (the odd one at
            the end; only with stride 1); "causal": dilation (k - 1) at the beginning, so that y[l] sees nothing after
            x[l stride].
        groups: channels are divided into so many groups, and each output reads one of them.
        padding_mode: what stands there: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ValueError: the shapes do not fit, the kernel is longer than the padded sequence, or an option is unknown.
    """
    x, w = aligned("conv1d", floating(input), floating(weight))
    groups = single("conv1d: groups", groups)
    fits = w.ndim == 3 and x.ndim in (2, 3) and x.shape[-2] == w.shape[1] * groups
    if not fits or w.shape[0] % groups or not w.shape[2]:
        raise ValueError(
            f"conv1d: an input of shape {list(x.shape)} does not fit a weight of shape {list(w.shape)} in {groups} "
            f"group{'s' * (groups != 1)}: expected [N, C, L] or [C, L], and [O, C / groups, k > 0], O divisible by "
            "groups"
        )
    stride, dilation = single("conv1d: stride", stride), single("conv1d: dilation", dilation)
    before, after = widths(padding, w.shape[2], stride, dilation)
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"conv1d: padding_mode must be one of {', '.join(PADDING_MODES)}, not {padding_mode!r}")
    if padding_mode != "zeros" and (before or after):
        x, before, after = pad(x, (before, after), mode=padding_mode), 0, 0
    batch = x if x.ndim == 3 else x.unsqueeze(0)
    options = {"stride": stride, "dilation": dilation, "before": before, "after": after}
    y = _in_groups(batch, w, groups, options)
    if bias is not None:
        b = floating(bias)
        if b.shape != w.shape[:1]:
            raise ValueError(f"conv1d: bias has shape {list(b.shape)}, expected [{w.shape[0]}]")
        y = y + b.unsqueeze(-1)
    return y if x.ndim == 3 else y.squeeze(0)


def _in_groups(x: Tensor, w: Tensor, groups: int, options: dict[str, int]) -> Tensor:
    traced = mode.tracer is not None and mode.tracer.has_rows(x)
    if groups == 1:
        return _of_windows(x, w, **options) if traced else table.conv1d(x, w, **options)
    if traced and w.shape[1] > 1:
        return cat([_of_windows(a, b, **options) for a, b in zip(x.chunk(groups, 1), w.chunk(groups, 0))], 1)
    if traced:
        return _by_channel(x, w, **options)
    # One product with many zeros takes less time than many small ones, and makes NaN of zero times infinity.
    if x.shape[1] <= WIDE and np.isfinite(x.data).all():
        outputs = np.arange(w.shape[0])[:, None]
        inputs = outputs // (w.shape[0] // groups) * w.shape[1] + np.arange(w.shape[1])
        every = table.index_add(w, shape=(w.shape[0], x.shape[1], w.shape[2]), at=(outputs, inputs))
        return table.conv1d(x, every, **options)
    if w.shape[1] == 1:  # a channel alone is no product of matrices: multiply and add
        return _by_channel(x, w, **options)
    xs, ws = x.chunk(groups, 1), w.chunk(groups, 0)
    return cat([table.conv1d(a, b, **options) for a, b in zip(xs, ws)], 1)


def _of_windows(x: Tensor, w: Tensor, stride: int, dilation: int, before: int, after: int) -> Tensor:
    """The same of what a kernel knows: a product of the weights and all that stands in a window."""
    (O, C, size), (*_, length) = w.shape, table.conv1d.shape(x.shape, w.shape, stride, dilation, before, after)
    taps = _shifted(pad(x, (before, after)) if before or after else x, size, length, stride, dilation)
    return w.permute(0, 2, 1).reshape(O, size * C) @ cat(taps, 1)


def _by_channel(x: Tensor, w: Tensor, stride: int, dilation: int, before: int, after: int) -> Tensor:
    repeats = w.shape[0] // x.shape[1]
    try:
        *_, length = table.conv1d.shape((1, 1, x.shape[2]), (1, 1, w.shape[2]), stride, dilation, before, after)
    except ValueError as error:
        raise ValueError(f"conv1d, each channel: {error}") from None
    if before or after:
        x = pad(x, (before, after))
    if repeats > 1:
        x = x.unsqueeze(2).expand(-1, -1, repeats, -1).reshape(x.shape[0], w.shape[0], x.shape[2])
    taps = _shifted(x, w.shape[2], length, stride, dilation)
    return sum((tap * w[:, :, i] for i, tap in enumerate(taps[1:], 1)), start=taps[0] * w[:, :, 0])


def _shifted(x: Tensor, size: int, length: int, stride: int, dilation: int = 1) -> list[Tensor]:
    """For each tap of a kernel, what it meets at each of `length` steps."""
    return [x[..., i * dilation :][..., : (length - 1) * stride + 1 : stride] for i in range(size)]


def max_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window; the first of several that are equal gets the gradient.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.max_pool1d(tg.tensor([[1.0, 5.0, 2.0, 3.0]]), 2)
        tensor([[5., 3.]])

    Shapes: [..., L] -> [..., M]; the stride is the kernel's size unless given.

    Args:
        padding: steps of minus infinity at each end, at most half the kernel.
        ceil_mode: a last window that is not full counts too.
        return_indices: return (y, the places of the largest along L).

    Raises:
        ValueError: the kernel is longer than the padded sequence, or the padding is more than half of it.
    """
    x, size, stride, padding, dilation, length = _pooled(
        "max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode
    )
    if return_indices:
        ask(x, "leave return_indices out")
    after = (length - 1) * stride + dilation * (size - 1) + 1 - padding - x.shape[-1]
    padded = pad(x, (padding, after), value=-math.inf) if padding or after > 0 else x
    taps = _shifted(padded, size, length, stride, dilation)
    starts = np.arange(length) * stride - padding
    y, places = taps[0], np.broadcast_to(starts, taps[0].shape) if return_indices else starts
    for i, tap in enumerate(taps[1:], 1):
        traced = mode.tracer is not None  # and there are no numbers
        is_larger = (tap > y) | isnan(tap) if traced else (tap.data > y.data) | np.isnan(tap.data)
        if return_indices:
            places = np.where(is_larger, starts + i * dilation, places)
        y = where(is_larger, tap, y)
    return (y, Tensor(np.maximum(places, 0))) if return_indices else y  # 0 where there is nothing but padding


def avg_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.avg_pool1d(tg.tensor([[1.0, 5.0, 2.0, 3.0]]), 2)
        tensor([[3. , 2.5]])

    Shapes: [..., L] -> [..., M]; the stride is the kernel's size unless given.

    Args:
        padding: zeros at each end, at most half the kernel.
        ceil_mode: a last window that is not full counts too, for what there is of it.
        count_include_pad: whether the padding counts as steps.

    Raises:
        ValueError: the kernel is longer than the padded sequence, or the padding is more than half of it.
    """
    x, size, stride, padding, _, length = _pooled("avg_pool1d", input, kernel_size, stride, padding, 1, ceil_mode)
    n, wanted = x.shape[-1], (length - 1) * stride + size
    starts = np.arange(length) * stride
    first, last = (0, n + 2 * padding) if count_include_pad else (padding, padding + n)
    counts = np.minimum(starts + size, last) - np.maximum(starts, first)
    taps = _shifted(pad(x, (padding, wanted - n - padding)), size, length, stride)
    return sum(taps[1:], start=taps[0]) / Tensor(counts.astype(x.dtype))


def adaptive_avg_pool1d(input: Any, output_size: Any) -> Tensor:
    """The means of `output_size` windows of nearly the same size, which cover the sequence.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.adaptive_avg_pool1d(tg.tensor([[1.0, 5.0, 2.0, 3.0]]), 1)
        tensor([[2.75]])

    Shapes: [..., L] -> [..., output_size]; window i is [floor(i L / M), ceil((i + 1) L / M)).

    Raises:
        ValueError: the output size is not positive, or there are no steps.
    """
    x, size = floating(input), single("adaptive_avg_pool1d: output_size", output_size)
    length = x.shape[-1] if x.ndim in (2, 3) else 0
    if not length:
        raise ValueError(f"adaptive_avg_pool1d: expected [N, C, L] or [C, L] with steps, got shape {list(x.shape)}")
    windows = [slice(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    if mode.tracer is None and not np.isfinite(x.data).all():  # the product would make NaN of zero times infinity
        return cat([x[..., window].mean(-1, keepdim=True) for window in windows], -1)
    share = np.zeros((length, size), x.dtype)
    for i, window in enumerate(windows):
        share[window, i] = 1 / (window.stop - window.start)
    return x @ Tensor(share)


def _pooled(
    name: str, input: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Tensor, int, int, int, int, int]:
    """The arguments as tensor and numbers, and the number of windows."""
    x, size = floating(input), single(f"{name}: kernel_size", size)
    stride = size if stride is None or stride == () else single(f"{name}: stride", stride)
    padding, dilation = single(f"{name}: padding", padding, least=0), single(f"{name}: dilation", dilation)
    if x.ndim not in (2, 3):
        raise ValueError(f"{name}: expected [N, C, L] or [C, L], got shape {list(x.shape)}")
    if 2 * padding > size:
        raise ValueError(f"{name}: padding {padding} is more than half of kernel_size {size}")
    room = x.shape[-1] + 2 * padding - dilation * (size - 1) - 1
    length = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (length - 1) * stride >= x.shape[-1] + padding:  # no window begins in the padding behind
        length -= 1
    if length < 1:
        raise ValueError(
            f"{name}: a kernel over {dilation * (size - 1) + 1} steps is longer than the sequence, {x.shape[-1]} steps "
            f"padded by {padding} at each end"
        )
    return x, size, stride, padding, dilation, length


def single(what: str, value: Any, least: int = 1) -> int:
    """An integer, also as a tuple of one, which is how PyTorch prints it."""
    (number,) = value if isinstance(value, (tuple, list)) and len(value) == 1 else (value,)
    if not is_whole(number) or number < least:
        raise ValueError(f"{what} must be an integer of at least {least}, not {value!r}")
    return int(number)


def widths(padding: Any, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """The steps to add before and after."""
    reach = dilation * (size - 1)
    if padding == "same" and stride != 1:
        raise ValueError("conv1d: padding 'same' keeps the length only where the stride is 1")
    if isinstance(padding, str):
        named = {"valid": (0, 0), "same": (reach // 2, reach - reach // 2), "causal": (reach, 0)}
        if padding not in named:
            raise ValueError(f"conv1d: padding must be a number, 'valid', 'same' or 'causal', not {padding!r}")
        return named[padding]
    width = single("conv1d: padding", padding, least=0)
    return width, width
