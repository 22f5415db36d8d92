"""Weights from PyTorch's layers and cells to ours, and from ours to PyTorch's: the same outputs on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from tinygrad_rnn import interop

T, B, I, H = 5, 3, 4, 6
KINDS = {"rnn": ("RNN", {}), "lstm": ("LSTM", {}), "gru": ("GRU", {}), "projected": ("LSTM", {"proj_size": 2})}


def close(ours, theirs):
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_layers(name, bias):
    """Every layer and direction of a stack as a cell of ours, and back into a second stack of PyTorch's."""
    torch.manual_seed(0)
    kind, (made_of, options) = name.replace("projected", "lstm"), KINDS[name]
    make = lambda: getattr(torch.nn, made_of)(
        I, H, num_layers=2, bidirectional=True, bias=bias, dtype=torch.float64, **options
    )
    theirs, other = make(), make()
    x = y = torch.randn(T, B, I, dtype=torch.float64)
    back = {}
    for layer in range(2):
        outputs = []
        for reverse in (False, True):
            weights = interop.from_torch(kind, theirs.state_dict(), layer, reverse)
            scan = tg.nn.Recurrent(interop.to_cell(weights), reverse=reverse, fused="never")
            outputs.append(scan(y.numpy())[0].numpy())
            back |= interop.to_torch(weights, layer, reverse)
        y = torch.from_numpy(np.concatenate(outputs, -1))
    close(y, theirs(x)[0])
    other.load_state_dict({key: torch.from_numpy(array) for key, array in back.items()})
    assert torch.equal(other(x)[0], theirs(x)[0])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_cells(kind):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, f"{kind.upper()}Cell")(I, H, dtype=torch.float64)
    ours = interop.to_cell(interop.from_torch(kind, theirs.state_dict(), layer=None))
    x = torch.randn(B, I, dtype=torch.float64)
    first = lambda states: states[0] if kind == "lstm" else states
    close(first(ours(x.numpy())), first(theirs(x)))


@pytest.mark.parametrize("keeps", ["old", "new"])
def test_a_gru_of_ours(keeps):
    """Where z keeps the new state it is negated on the way."""
    ours = tg.nn.cells.GRUVariantCell(I, H, reset="after", keeps=keeps, dtype=np.float64)
    theirs = torch.nn.GRU(I, H, dtype=torch.float64)
    state = interop.to_torch(interop.from_cell(ours))
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    x = torch.randn(T, B, I, dtype=torch.float64)
    close(tg.nn.Recurrent(ours, fused="never")(x.numpy())[0], theirs(x)[0])
