"""What PyTorch answers to published cells: their steps with its functions, in a loop over time."""

from __future__ import annotations

from types import FunctionType, SimpleNamespace

import numpy as np
import torch
from fusion import paper_cells

from torch_oracle.papers import CASES, arrays, weighing


def step_in_torch(name: str, leaves: dict[str, torch.Tensor]) -> tuple:
    """The step of a cell with PyTorch in place of tinygrad_rnn, and what stands for the cell."""
    kind = paper_cells.CELLS[name]
    names = vars(paper_cells) | {"tg": torch, "F": torch.nn.functional}
    step = FunctionType(kind.step.__code__, names, closure=kind.step.__closure__)
    step.__kwdefaults__ = kind.step.__kwdefaults__
    settings = {n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in vars(kind).items()}
    return step, SimpleNamespace(**settings | {n: leaves[n] for n in kind.weights})


def ask(name: str, lengths: tuple[int, ...] | None, reverse: bool) -> list[np.ndarray]:
    """Outputs, last states, and the gradients of all that goes in. Each sequence goes through the loop by itself."""
    kind, leaves = paper_cells.CELLS[name], {n: torch.tensor(a, requires_grad=True) for n, a in arrays(name).items()}
    step, cell = step_in_torch(name, leaves)
    T, B, _ = leaves["x"].shape
    rows, finals = [], []
    for b, end in enumerate(lengths or [T] * B):
        states = tuple(leaves[n][b : b + 1] for n in kind.states)
        given = {n: leaves[n][b : b + 1] for n in kind.values}
        outputs = [torch.zeros(kind.states[next(iter(kind.states))], dtype=torch.float64)] * T
        for t in range(end)[:: -1 if reverse else 1]:
            new = step(cell, leaves["x"][t, b : b + 1], *states, **given)
            states = new if isinstance(new, tuple) else (new,)
            outputs[t] = states[0][0]
        rows.append(torch.stack(outputs))
        finals.append([state[0] for state in states])
    found = [torch.stack(rows, 1), *map(torch.stack, zip(*finals))]
    loss = sum((v * torch.tensor(w)).sum() for v, w in zip(found, weighing([tuple(v.shape) for v in found])))
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    zeros = (np.zeros(tuple(leaf.shape)) for leaf in leaves.values())
    return [v.detach().numpy() for v in found] + [z if g is None else g.numpy() for g, z in zip(gradients, zeros)]


def papers() -> list[tuple[tuple, list[np.ndarray]]]:
    """All cases, to be stored."""
    return [(case, ask(*case)) for case in CASES]
