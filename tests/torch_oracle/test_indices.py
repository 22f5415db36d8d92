"""Indices of every kind, combined: which elements they take, and where dimensions go, against PyTorch."""

import itertools

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg

PARTS = {
    "1": 1, "-1": -1, ":": slice(None), "1:": slice(1, None), "None": None, "...": ..., "[1, 0]": [1, 0],
    "[[0], [1]]": [[0], [1]], "mask": [True, True], "0-d": np.array(1), "two masks": [[True, False], [True, True]],
}  # fmt: skip


@pytest.mark.parametrize("first", PARTS)
def test_indices_of_any_kind(first):
    """All of up to four parts, one like the first of them: the result, the gradient, or an error in both."""
    array = np.arange(32.0).reshape(2, 2, 2, 2, 2)
    others = list(PARTS.values())
    for index in itertools.chain(*(itertools.product([PARTS[first]], *[others] * n) for n in range(4))):
        if sum(i is ... for i in index) > 1:
            continue
        x, expected = tg.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
        try:
            theirs = expected[tuple(torch.tensor(i) if isinstance(i, (list, np.ndarray)) else i for i in index)]
        except (IndexError, RuntimeError):
            with pytest.raises(IndexError):
                x[index]
            continue
        ours = x[index]
        assert ours.shape == tuple(theirs.shape) and (ours.numpy() == theirs.detach().numpy()).all(), index
        (ours * ours).sum().backward()
        (theirs * theirs).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), expected.grad.numpy(), err_msg=str(index))
