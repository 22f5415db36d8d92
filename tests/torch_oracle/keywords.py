"""Steps that take values for a sequence by name: what goes in, and what our layers make of it. No PyTorch here."""

from __future__ import annotations

import itertools

import numpy as np
from fusion.keyword_cells import MATHS, I, cell

import tinygrad_rnn as tg

T, LENGTHS = 5, (3, 5, 0, 1)
B = len(LENGTHS)
CASES = [*itertools.product(MATHS, (None, LENGTHS), (False, True))]  # name, lengths, reverse


def arrays(name: str) -> dict[str, np.ndarray]:
    """What goes in: x, the values and the parameters."""
    random = np.random.default_rng(2)
    given = {each: random.standard_normal((B, *shape)) for each, shape in MATHS[name].values.items()}
    weights = {each: p.numpy() for each, p in cell(name).named_parameters()}
    return {"x": random.standard_normal((T, B, I)), **given, **weights}


def weighing(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """What results are multiplied by before they are summed, so that every gradient counts."""
    random = np.random.default_rng(3)
    return [random.uniform(-1, 1, shape) for shape in shapes]


def ours(name: str, lengths: tuple[int, ...] | None, reverse: bool, engine: str) -> list[np.ndarray]:
    """Outputs, last states, and the gradients of all that goes in."""
    one, given = cell(name), arrays(name)
    leaves = {each: tg.tensor(given[each], requires_grad=True) for each in ("x", *MATHS[name].values)}
    x, values = leaves["x"], {each: leaves[each] for each in MATHS[name].values}
    y, finals = tg.nn.Recurrent(one, reverse, engine)(x, lengths=lengths and list(lengths), **values)
    found = [y, *(finals if isinstance(finals, tuple) else (finals,))]
    sum((v * w).sum() for v, w in zip(found, weighing([v.shape for v in found]))).backward()
    gradients = [leaves.get(each, dict(one.named_parameters()).get(each)).grad for each in given]
    return [v.numpy() for v in (*found, *gradients)]
