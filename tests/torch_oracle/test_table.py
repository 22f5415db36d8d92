"""Every row of the table against PyTorch in float64: values and gradients, at ordinary and at special numbers."""

from itertools import product

import numpy as np
import pytest
import torch
from autograd.sampling import Sample, differentiable, samples

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.primitive import ElementwisePrimitive
from tinygrad_rnn.autograd.table import TABLE
from torch_oracle.tally import TALLY

EVERY_ROW = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())

# PyTorch's function for a row where it is not `torch.<name>` with the same arguments.
TORCH = {
    "phi": torch.special.ndtr,
    "relu": torch.nn.functional.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "clip_gradient": lambda x, limit: clipped(x, limit),
    "straight_through": lambda hard, soft: StraightThrough.apply(hard, soft),
    # PyTorch's own broadcasting of clamp fails backward where x is smaller than the result.
    "clamp": lambda *operands: torch.clamp(*torch.broadcast_tensors(*operands)),
    "layer_norm": lambda x, weight, bias, dim, eps: torch.nn.functional.layer_norm(
        x, x.shape[dim[0] :], weight.expand(x.shape[dim[0] :]), bias.expand(x.shape[dim[0] :]), eps
    ),
    "masked_softmax": lambda x, bias, scale, causal: torch.softmax(behind(scale * x + bias, causal), -1),
    "linear": torch.nn.functional.linear,
    "batch_norm": lambda x, weight, bias, eps, found: torch.nn.functional.batch_norm(
        x, None, None, weight.flatten(), bias.expand(weight.shape).flatten(), training=True, eps=eps
    ),
    "conv1d": lambda x, weight, **taps: convolved(x, weight, **taps),
    "conv1d_input": lambda g, weight, length, **taps: transposed(g, weight, length, **taps),
    "conv1d_weight": lambda g, x, size, **taps: windows(x, size, g.shape[2], **taps, of=g),
    "floor_divide": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "permute": torch.permute,
    "expand": lambda x, shape: x.expand(shape),
    "sum_to": lambda x, shape: x.sum_to_size(shape),
    "slice": lambda x, at: x.flatten()[places(x.shape, at)],
    "index": lambda x, at: x.flatten()[places(x.shape, at)],
    "slice_scatter": lambda x, shape, at: added(x, shape, at),
    "index_add": lambda x, shape, at: added(x, shape, at),
    "cat": lambda *xs, dim: torch.cat(xs, dim),
    "cast": lambda x, dtype: x.to(getattr(torch, dtype.name)),
}


def clipped(x, limit):
    """The hook that PyTorch's users write."""
    y = x.clone()
    y.register_hook(lambda dy: dy.clamp(-limit, limit))
    return y


def behind(scores, causal):
    """Minus infinity above the diagonal, which begins at the top left."""
    hidden = torch.ones(scores.shape, dtype=bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf) if causal else scores


def convolved(x, weight, stride, dilation, before, after):
    padded = torch.nn.functional.pad(x, (before, after))
    return torch.nn.functional.conv1d(padded, weight, stride=stride, dilation=dilation)


def transposed(g, weight, length, stride, dilation, before, after):
    """PyTorch's transposed convolution gives what the windows cover: zeros where they do not reach, cut to x."""
    covered = torch.nn.functional.conv_transpose1d(g, weight, stride=stride, dilation=dilation)
    missing = before + length + after - covered.shape[2]
    return torch.nn.functional.pad(covered, (0, missing))[..., before : before + length]


def windows(x, size, count, stride, dilation, before, after, of):
    """The gradient of a kernel, as its definition says it."""
    padded = torch.nn.functional.pad(x, (before, after))
    steps = torch.arange(count)[:, None] * stride + torch.arange(size) * dilation
    return torch.einsum("bon,bcnk->ock", of, padded[..., steps])


class StraightThrough(torch.autograd.Function):
    """What PyTorch's users write: the value of one, the gradient to the other."""

    @staticmethod
    def forward(ctx, hard, soft):
        ctx.shape = soft.shape
        return hard.to(soft.dtype, copy=True).expand(torch.broadcast_shapes(hard.shape, soft.shape))

    @staticmethod
    def backward(ctx, dy):
        return None, dy.sum_to_size(ctx.shape)


def places(shape, at):
    """The flat positions in an array of a shape that an index picks: PyTorch knows no negative steps."""
    return torch.from_numpy(np.array(np.arange(int(np.prod(shape))).reshape(shape)[at]))


def added(x, shape, at):
    flat = torch.zeros(int(np.prod(shape)), dtype=x.dtype)
    return flat.index_add(0, places(shape, at).flatten(), x.flatten()).reshape(shape)


def torch_function(row):
    function = TORCH.get(row.name) or getattr(torch, row.name, None)
    if function is None:
        pytest.fail(f"add PyTorch's function for the new row {row.name!r} to TORCH in {__file__}", pytrace=False)
    return function


def ours(row, sample, dy):
    """The value of a row, and its gradients where it has rules."""
    wanted = differentiable(row)
    xs = [tg.from_numpy(x).requires_grad_(wanted is None or i in wanted) for i, x in enumerate(sample.inputs)]
    y = row(*xs, **sample.attributes)
    found = tg.grad(y, [x for x in xs if x.requires_grad], tg.from_numpy(dy)) if y.requires_grad else ()
    return [y.numpy(), *(g.numpy() for g in found)]


def theirs(row, sample, dy):
    wanted = differentiable(row)
    copies = [torch.from_numpy(np.array(x)) for x in sample.inputs]  # PyTorch knows no negative strides
    xs = [x.requires_grad_(wanted is None or i in wanted) for i, x in enumerate(copies)]
    y = torch_function(row)(*xs, **sample.attributes)
    asked = [x for x in xs if x.requires_grad]
    found = torch.autograd.grad(y, asked, torch.from_numpy(dy)) if y.requires_grad else ()
    return [y.detach().numpy(), *(g.numpy() for g in found)]


@EVERY_ROW
def test_row(row):
    """The samples that the row is tested with by itself."""
    rng = np.random.default_rng(0)
    for sample in samples(row):
        shape = row.shape(*(x.shape for x in sample.inputs), **sample.attributes)
        dy = np.asarray(rng.standard_normal(shape))
        for found, expected in zip(ours(row, sample, dy), theirs(row, sample, dy), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=str(sample))
        TALLY["rows of the table"]["compared"] += 1


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -2.5, 30.0, -30.0, 800.0, -800.0, 1e300, 1e-310]

# Where the two differ, and why ours stays.
DIFFERENT = {
    "sign(nan): y": "a NaN shows",
    "sign(-0): y": "the sign of a zero is kept, which nothing depends on",
    "relu(-0): y": "PyTorch keeps the sign of a zero here",
    "phi(-30): y": "4.9e-198 is right; PyTorch computes 1 - 1",
    "gelu(-30): y": "-1.5e-196 is right; PyTorch computes x (1 - 1) / 2",
    "gelu(-30): dx": "-4.416e-195 is right: PyTorch's phi(x) is 0 there",
    "gelu(-inf): y": "the limit; PyTorch computes -inf * 0",
    "gelu_tanh(-inf): y": "the limit; PyTorch computes -inf * 0",
    "silu(-inf): y": "the limit; PyTorch computes -inf / inf",
}


def special_sample(row):
    """Every combination of special numbers, fewer of them if there are three operands."""
    masks = [bool(row.rules) and "d" + name not in row.rules for name in row.inputs]
    numbers = SPECIAL if len(row.inputs) < 3 else SPECIAL[:9]
    columns = zip(*product(*([False, True] if mask else numbers for mask in masks)))
    return Sample(tuple(map(np.array, columns)), dict.fromkeys(row.attributes, 0.25))


# A remainder of nothing has the sign of the divisor, as in Python and NumPy; in PyTorch that of the other operand.
FORMULAS = [row for row in TABLE.values() if isinstance(row, ElementwisePrimitive) and row.name != "remainder"]


@pytest.mark.parametrize("row", FORMULAS, ids=lambda row: row.name)
def test_special_numbers(row):
    """NaN, infinities, zeros of either sign, huge and tiny numbers: values, the signs of zeros, and gradients."""
    sample = special_sample(row)
    dy = np.ones(sample.inputs[0].shape)
    names = ["y", *(f"d{name}" for name in row.inputs if f"d{name}" in row.rules)]
    differences = {}
    for name, found, expected in zip(names, ours(row, sample, dy), theirs(row, sample, dy), strict=True):
        same = np.isclose(found, expected, rtol=1e-12, atol=0, equal_nan=True)
        if name == "y" and found.dtype != np.bool_:
            same &= (np.signbit(found) == np.signbit(expected)) | np.isnan(expected)
        for at in np.flatnonzero(~same):
            call = f"{row.name}({', '.join(f'{x[at]:g}' for x in sample.inputs)}): {name}"
            differences[call] = f"{found[at]}, PyTorch {expected[at]}"
    listed = {call for call in DIFFERENT if call.startswith(row.name + "(")}
    problems = [f"{call} = {values}" for call, values in differences.items() if call not in listed]
    problems += [f"{call} is listed in DIFFERENT and is the same" for call in listed - differences.keys()]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
    TALLY["rows of the table, special numbers"]["compared"] += sum(np.size(x) for x in sample.inputs[:1])
