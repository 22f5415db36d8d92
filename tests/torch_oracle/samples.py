"""PyTorch's own samples of each op (OpInfo) as Cases, with what PyTorch answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo

from torch_oracle.cases import Case, Index, Leaf, Outcome, tree_leaves, tree_map
from torch_oracle.edges import edge_samples

NAMES = """
    add sub mul div neg abs pow exp log log1p expm1 sqrt rsqrt reciprocal square sin cos tanh sigmoid
    __radd__ __rsub__ __rmul__ __rdiv__ __rpow__ __rmatmul__
    nn.functional.relu nn.functional.leaky_relu nn.functional.elu nn.functional.softplus nn.functional.gelu
    nn.functional.silu maximum minimum clamp where
    sum mean var std prod amax amin logsumexp cumsum
    matmul mm bmm mv dot outer einsum
    reshape permute transpose squeeze unsqueeze expand broadcast_to flip roll nn.functional.pad
    cat stack split chunk unbind __getitem__ index_select gather masked_fill tril triu
    softmax log_softmax nn.functional.layer_norm nn.functional.linear nn.functional.embedding nn.functional.normalize
    nn.functional.conv1d nn.functional.max_pool1d nn.functional.avg_pool1d nn.functional.adaptive_avg_pool1d
    nn.functional.batch_norm nn.functional.scaled_dot_product_attention
    nn.functional.cross_entropy nn.functional.nll_loss nn.functional.mse_loss nn.functional.l1_loss
    nn.functional.smooth_l1_loss nn.functional.binary_cross_entropy_with_logits nn.functional.kl_div
""".split()

# Variants that are about something else than the op: integer division, complex numbers, GPUs.
OTHER_VARIANTS = {"trunc_rounding", "floor_rounding", "complex", "triton_optimized", "without_cudnn"}



def key_of(op: OpInfo) -> str:
    """PyTorch's name of the op, then "/" and the variant if any."""
    return op.name + (f"/{op.variant_test_name}" if op.variant_test_name else "")


OPS = {
    key_of(op): op
    for name in NAMES
    for op in op_db
    if op.name == name and op.variant_test_name not in OTHER_VARIANTS
}
assert {op.name for op in OPS.values()} == set(NAMES), set(NAMES) - {op.name for op in OPS.values()}

# Their longer lists mix integers in, which PyTorch's generator cannot ask gradients of.
WITHOUT_GRADIENT = {"clamp", "where"}
NOT_HERE = {torch.float16, torch.bfloat16, torch.complex32, torch.complex64, torch.complex128}


def dtype_of(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


def plain(node):
    """A torch object as what tinygrad_rnn is given for it; strides are kept."""
    if isinstance(node, torch.Tensor):
        array = node.detach().numpy()
        return Leaf(array, node.requires_grad) if node.is_floating_point() else Index(array)
    return dtype_of(node) if isinstance(node, torch.dtype) else node


def fresh(node):
    """A leaf of its own for every tensor: a sample may hand out one tensor twice, or a view of another's graph."""
    return node.detach().requires_grad_(node.requires_grad) if isinstance(node, torch.Tensor) else node


def spare(node):
    """A copy of what a function may write to, as running statistics are."""
    return node.clone() if isinstance(node, torch.Tensor) and not node.requires_grad else node


def arguments(sample) -> tuple[tuple, dict]:
    return tree_map(fresh, (sample.input, *sample.args)), tree_map(fresh, sample.kwargs)


def within_reach(args: tuple, kwargs: dict) -> bool:
    """Of a dtype that tensors have here, and not a million numbers where a thousand say the same."""
    leaves = list(tree_leaves((args, kwargs)))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    return all(t.numel() <= 4096 and t.dtype not in NOT_HERE for t in tensors) and complex not in map(type, leaves)


def samples(op: OpInfo, dtype: torch.dtype, kind: str = "as given") -> Iterator[tuple[Case, tuple, dict]]:
    """Every sample as a Case, with PyTorch's arguments for the same call.

    `kind` is "as given", "noncontiguous" (the same in other memory), "reference" (PyTorch's longer list, with large
    numbers, infinities and NaN) or "edge" (ours).
    """
    torch.manual_seed(0)
    if kind == "edge":
        many = edge_samples(key_of(op), dtype)
    elif kind == "reference":
        many = op.reference_inputs("cpu", dtype, requires_grad=op.name not in WITHOUT_GRADIENT)
    else:
        many = op.sample_inputs("cpu", dtype, requires_grad=True)
    for sample in many:
        if kind == "noncontiguous":
            sample = sample.noncontiguous()
        args, kwargs = arguments(sample)
        if kwargs.get("dropout_p") or (kind == "reference" and not within_reach(args, kwargs)):
            continue  # what is drawn cannot be compared
        if op.name == "nn.functional.scaled_dot_product_attention" and dtype == torch.float32:
            args = (fresh(args[0] / 16), *args[1:])  # of scores of hundreds, four digits are left to any library
        yield Case(op.name, tree_map(plain, args), tree_map(plain, kwargs)), args, kwargs


def ask(
    function: Callable, args: tuple, kwargs: dict, seed: int, twice: bool, cotangents: list | None = None
) -> Outcome:
    """What PyTorch answers; if `twice`, with second derivatives in a random direction.

    Cotangents are random unless given. No gradients of NaN, which every formula treats in its own way.
    """
    generator = torch.Generator().manual_seed(seed)

    def like(tensor):
        return torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)

    differentiable = sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()  # its fast attention is, once
    with warnings.catch_warnings(), differentiable:
        warnings.simplefilter("ignore")  # PyTorch's advice on its own arguments
        output = function(*tree_map(spare, args), **tree_map(spare, kwargs))
    outputs = list(output) if isinstance(output, (tuple, list)) else [output]
    leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.requires_grad]
    outcome = Outcome([o.detach().numpy().copy() for o in outputs])
    roots = [o for o in outputs if o.requires_grad]
    if not roots or any(torch.isnan(leaf).any() for leaf in leaves):
        outcome.cotangents = [None] * len(outputs)
        return outcome
    outcome.cotangents = cotangents or [like(o).numpy() if o.requires_grad else None for o in outputs]
    weights = [torch.tensor(c, dtype=o.dtype) for c, o in zip(outcome.cotangents, outputs) if c is not None]
    weights = [weight.requires_grad_(twice) for weight in weights]
    first = torch.autograd.grad(roots, leaves, weights, create_graph=twice, allow_unused=True)
    outcome.first = to_numpy(first)
    if twice:
        directions = [None if g is None else like(g) for g in first]
        outcome.directions = to_numpy(directions)
        terms = [(g * v).sum() for g, v in zip(first, directions) if g is not None and g.requires_grad]
        wanted = leaves + weights
        second = torch.autograd.grad(sum(terms), wanted, allow_unused=True) if terms else [None] * len(wanted)
        outcome.second = to_numpy(second)
    return outcome


def ask_in_float64(function: Callable, args: tuple, kwargs: dict, seed: int, twice: bool) -> Outcome:
    """The answer to a question in float32, rounded from PyTorch's in float64: two float32 results may both be off."""

    def widened(node):
        narrow = isinstance(node, torch.Tensor) and node.dtype == torch.float32
        return node.detach().double().requires_grad_(node.requires_grad) if narrow else node

    rounded = ask(function, args, kwargs, seed, twice)
    exact = ask(function, tree_map(widened, args), tree_map(widened, kwargs), seed, twice, rounded.cotangents)
    for field in ("values", "first"):
        pairs = zip(getattr(exact, field), getattr(rounded, field), strict=True)
        setattr(exact, field, [x if x is None else x.astype(y.dtype) for x, y in pairs])
    return exact


def to_numpy(tensors) -> list:
    return [None if t is None else t.detach().numpy(force=True).copy() for t in tensors]  # force: lazy zeros
