"""Graphs and replays of rows of the table: of a third of them, at a third of their samples."""

from xml.etree import ElementTree

import numpy as np
import pytest
from autograd.sampling import differentiable, samples

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.table import TABLE
from tinygrad_rnn.study import graph, replay

QUICK = ("where", "cat", "slice")  # of each kind one: the others take minutes
ROWS = [
    pytest.param(row, id=row.name, marks=() if row.name in QUICK else pytest.mark.slow)
    for n, row in enumerate(TABLE.values()) if row.rules and (row.name in QUICK or n % 3 == 0)
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_replays_and_values_of_every_row(row):
    """A replay hands on what the backward pass does, and a value that was let go and is found again is the same."""
    chosen = differentiable(row)
    for sample in samples(row)[::3]:
        xs = [
            tg.from_numpy(x).requires_grad_() if chosen is None or i in chosen else tg.from_numpy(x)
            for i, x in enumerate(sample.inputs)
        ]
        y = row(*xs, **sample.attributes)
        dy = np.random.default_rng(0).uniform(-1, 1, y.shape).astype(y.dtype)
        leaves = {f"leaf{i}": x for i, x in enumerate(xs) if x.requires_grad}
        frames = replay(y, dy, names=leaves)
        assert len(frames) == 1 + len(leaves)
        ElementTree.fromstring(frames[0].svg())
        y.backward(dy, retain_graph=True)
        for name, x in leaves.items():
            found, wanted = frames.graph.gradients[name], x.grad.numpy()
            assert found.shape == wanted.shape and np.array_equal(found, wanted, equal_nan=True), (row.name, sample)
        expected = y.numpy()
        total = y.sum()
        del y, frames
        made = graph(total, names=leaves).boxes[len(leaves)]
        if made.value is not None:
            assert made.value.dtype == expected.dtype and np.array_equal(made.value, expected, equal_nan=True)
