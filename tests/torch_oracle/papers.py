"""Published cells: what goes in, and what our layers make of it. No PyTorch here."""

from __future__ import annotations

import numpy as np
from fusion import paper_cells

import tinygrad_rnn as tg

T, LENGTHS = 4, (2, 4, 0)
B = len(LENGTHS)
CASES = [(name, *options) for name in paper_cells.CELLS for options in ((None, False), (LENGTHS, True))]


def arrays(name: str) -> dict[str, np.ndarray]:
    """What goes in: x, initial states, what holds for a sequence, and the parameters."""
    cell = paper_cells.CELLS[name]()
    return paper_cells.arrays(cell, T, B) | {each: p.numpy() for each, p in cell.named_parameters()}


def weighing(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """What results are multiplied by before they are summed, so that every gradient counts."""
    random = np.random.default_rng(3)
    return [random.uniform(-1, 1, shape) for shape in shapes]


def ours(name: str, lengths: tuple[int, ...] | None, reverse: bool, engine: str) -> list[np.ndarray]:
    """Outputs, last states, and the gradients of all that goes in, of which a cell may ignore some."""
    cell, given = paper_cells.CELLS[name](), arrays(name)
    leaves = {each: tg.tensor(array, requires_grad=True) for each, array in given.items()}
    leaves |= dict(cell.named_parameters())
    states, values = tuple(leaves[each] for each in cell.states), {each: leaves[each] for each in cell.values}
    layer = tg.nn.Recurrent(cell, reverse, engine)
    hx = states if len(states) > 1 else states[0]
    y, finals = layer(leaves["x"], hx, lengths=lengths and list(lengths), **values)
    found = [y, *(finals if isinstance(finals, tuple) else (finals,))]
    loss = sum((v * w).sum() for v, w in zip(found, weighing([v.shape for v in found])))
    gradients = tg.grad(loss, list(leaves.values()), allow_unused=True)
    zeros = (np.zeros(leaf.shape) for leaf in leaves.values())
    return [v.numpy() for v in found] + [z if g is None else g.numpy() for g, z in zip(gradients, zeros)]


def assert_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Each to 1e-12 of its largest entry."""
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected)):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(np.abs(b).max(), 1e-3), err_msg=str(number))
