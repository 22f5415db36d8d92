"""What PyTorch answers to a step that takes values for a sequence by name."""

from __future__ import annotations

import numpy as np
import torch
from fusion.keyword_cells import loop

from torch_oracle.keywords import CASES, arrays, weighing


def ask(name: str, lengths: tuple[int, ...] | None, reverse: bool) -> list[np.ndarray]:
    """Outputs, last states, and the gradients of all that goes in."""
    tensor = lambda array: torch.tensor(array, requires_grad=True)
    zeros = lambda shape: torch.zeros(shape, dtype=torch.float64)
    found, leaves = loop(torch, name, arrays(name), tensor, zeros, lengths, reverse, torch.stack)
    sum((v * torch.tensor(w)).sum() for v, w in zip(found, weighing([v.shape for v in found]))).backward()
    return [v.detach().numpy() for v in found] + [leaf.grad.numpy() for leaf in leaves.values()]


def keywords() -> list[tuple[tuple, list[np.ndarray]]]:
    """All cases, to be stored."""
    return [(case, ask(*case)) for case in CASES]
