"""Samples that PyTorch's generators leave to chance: kinks, ties, zeros, repeated indices, masked and huge logits."""

from __future__ import annotations

from types import SimpleNamespace

import torch

inf = float("inf")
CALLS: dict[str, list] = {}

# The calls below put these where they have no second derivative.
NOT_TWICE = {"nn.functional.elu", "nn.functional.smooth_l1_loss", "nn.functional.normalize", "std"}


def edge(key: str, *args, **kwargs) -> None:
    """One more call of the op: lists are tensors of floats that require a gradient, tensors stay as they are."""
    CALLS.setdefault(key, []).append((args, kwargs))


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


signs = [-2.0, -0.0, 0.0, 3.0]
rows = [[1.0, 2.0, -1.0], [0.5, 0.5, 0.5], [3.0, -2.0, 0.0]]

# Kinks: which of the two slopes is the gradient.
for name in ("abs", "square", "nn.functional.relu", "nn.functional.leaky_relu", "nn.functional.elu"):
    edge(name, signs)
edge("nn.functional.leaky_relu", signs, 0.3)
edge("nn.functional.elu", signs, 0.7)
edge("clamp", [-1.0, 0.0, 0.5, 1.0, 2.0], 0.0, 1.0)
edge("clamp", [-1.0, 0.0, 0.5, 1.0, 2.0], min=0.5)
edge("clamp", [-1.0, 0.0, 0.5, 1.0, 2.0], max=0.5)
edge("clamp", [-1.0, 0.0, 0.5, 1.0, 2.0], 1.0, 0.0)
edge("clamp", [-1.0, 0.0, 0.5, 1.0, 2.0], [0.0, 0.0, 0.5, 0.0, 3.0], [1.0, 0.0, 0.5, 1.0, 3.0])
edge("nn.functional.l1_loss", [1.0, 2.0, 3.0], [1.0, 1.0, 4.0])
edge("nn.functional.smooth_l1_loss", [0.0, 1.0, -1.0, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0])
edge("nn.functional.smooth_l1_loss", [0.0, 1.0, -1.0], [0.0, 0.0, 0.5], beta=0.0)
edge("nn.functional.softplus", [-800.0, -25.0, 0.0, 19.9, 20.1, 800.0])
edge("nn.functional.softplus", [-5.0, 3.9, 4.1, 800.0], beta=5.0, threshold=20.0)
edge("nn.functional.gelu", [-40.0, -5.0, 0.0, 5.0, 40.0])
edge("nn.functional.gelu", [-40.0, -5.0, 0.0, 5.0, 40.0], approximate="tanh")
edge("nn.functional.silu", [-800.0, -30.0, 0.0, 30.0, 800.0])
edge("sigmoid", [-800.0, -40.0, 0.0, 40.0, 800.0])
edge("tanh", [-800.0, -20.0, -1e-9, 0.0, 1e-9, 20.0, 800.0])

# Ties share the gradient.
edge("maximum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
edge("minimum", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
for name in ("amax", "amin"):
    edge(name, [[1.0, 2.0, 2.0], [1.0, 1.0, 1.0]], 1)
    edge(name, [[1.0, 2.0, 2.0], [1.0, 2.0, 1.0]])
    edge(name, [[1.0, 2.0, 2.0], [1.0, 2.0, 1.0]], dim=(0, 1), keepdim=True)

# Zeros where a gradient might divide.
edge("prod", [0.0, 2.0, 3.0])
edge("prod", [0.0, 2.0, 0.0])
edge("prod", [[0.0, 2.0, 0.0], [1.0, 0.0, 4.0]], 1)
edge("pow", [0.0, 0.0, 2.0, -2.0], 2)
edge("pow", [0.0, 1.0, 2.0], 0)
edge("pow", [0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
edge("pow", [0.0, 0.0, 2.0], [2.0, 1.0, 3.0])
edge("pow", [-2.0, -1.0, 3.0], 3.0)
edge("pow", 2.0, [0.0, 1.0, -3.0])
edge("pow", 0.0, [1.0, 2.0])
edge("std", [2.0, 2.0, 2.0])
edge("var", [2.0, 2.0, 2.0], 0)
edge("var", [[2.0], [3.0]], 1, correction=0)
edge("nn.functional.normalize", [[0.0, 0.0], [3.0, 4.0]])
edge("nn.functional.layer_norm", [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0]], (3,))
edge("nn.functional.kl_div", [[-1.0, -2.0], [-0.5, -3.0]], torch.tensor([[0.0, 1.0], [0.5, 0.5]]), reduction="sum")

# Masked and huge logits.
masked = [[1.0, -inf, 2.0], [0.0, 0.0, -inf]]
huge = [[1000.0, 0.0, -1000.0], [1e5, 1e5, 1e5]]
for name in ("softmax", "log_softmax", "logsumexp"):
    edge(name, masked, 1)
    edge(name, huge, 1)
edge("nn.functional.cross_entropy", huge, labels(1, 2))
edge("nn.functional.binary_cross_entropy_with_logits", [-1000.0, 0.0, 1000.0, 40.0], [1.0, 0.5, 0.0, 1.0])

# Options of the losses that the samples leave out.
edge("nn.functional.cross_entropy", rows, labels(0, 2, 1), label_smoothing=0.1)
edge("nn.functional.cross_entropy", rows, labels(0, -100, 1), label_smoothing=0.1)
edge("nn.functional.cross_entropy", rows, labels(0, 2, 1), weight=torch.tensor([1.0, 2.0, 0.0]), label_smoothing=0.2)
edge("nn.functional.cross_entropy", rows, labels(0, 1, 1), weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=1)
edge("nn.functional.cross_entropy", rows, [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], label_smoothing=0.1)
edge("nn.functional.cross_entropy", rows, [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], reduction="sum")
edge("nn.functional.cross_entropy", rows, labels(1, 1, 1), ignore_index=1, reduction="sum")
edge("nn.functional.cross_entropy", rows[0], torch.tensor(2))
edge("nn.functional.nll_loss", rows, labels(2, 2, 2), reduction="none")
edge("nn.functional.nll_loss", rows[0], torch.tensor(1))

# Repeated, negative and absent indices.
edge("__getitem__", rows, labels(0, 2, 0, 0))
edge("__getitem__", rows, (slice(None), labels(1, 1)))
edge("__getitem__", rows, (labels(0, 0), labels(-1, -1)))
edge("__getitem__", rows, (None, 0, ..., None))
edge("__getitem__", rows, (slice(0, 3, 2), slice(1, None)))
edge("__getitem__", rows, torch.tensor([[True, False, True]] * 3))
edge("__getitem__", rows, torch.tensor([False, False, False]))
edge("__getitem__", rows, labels())
edge("index_select", rows, 1, labels(2, 2, 2, 0))
edge("gather", rows, 1, torch.tensor([[0, 0], [1, 1], [2, 2]]))
edge("nn.functional.embedding", rows, labels(1, 1, 0, 1))
edge("nn.functional.embedding", rows, labels(1, 1, 0, 1), padding_idx=1)
edge("nn.functional.embedding", rows, labels(1, 1, 0, 2), padding_idx=-1)

# Empty sums, and one letter for two dimensions.
edge("matmul", torch.zeros(2, 0).requires_grad_(), torch.zeros(0, 3).requires_grad_())
edge("sum", torch.zeros(0, 3).requires_grad_(), 0)
edge("einsum", (rows,), "ii->i")
edge("einsum", (rows,), "ii")
edge("einsum", (rows, rows), "...j,kj->...k")
edge("einsum", (rows, rows[0], rows), "ij,j,jk->k")
edge("cat", (rows, torch.zeros(0, 3).requires_grad_()), 0)
edge("stack", (rows[0], rows[1]), -1)


def edge_samples(key: str, dtype: torch.dtype) -> list[SimpleNamespace]:
    """The calls above for one op, as PyTorch's samples look."""

    def numbers(node) -> bool:
        return isinstance(node, list) and all(isinstance(x, float) or numbers(x) for x in node)

    def build(node):
        if isinstance(node, torch.Tensor):
            return node.detach().to(dtype).requires_grad_(node.requires_grad) if node.is_floating_point() else node
        if numbers(node):
            return torch.tensor(node, dtype=dtype, requires_grad=True)
        return type(node)(map(build, node)) if isinstance(node, (list, tuple)) else node

    return [
        SimpleNamespace(input=build(args[0]), args=build(args[1:]), kwargs={k: build(v) for k, v in kwargs.items()})
        for args, kwargs in CALLS.get(key, [])
    ]
