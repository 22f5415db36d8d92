"""Parametrised weights and temporal convolutional networks against PyTorch's, with the same state."""

import numpy as np
import pytest
import torch
from fusion.comparing import interpret
from torch.nn.utils import parametrizations as theirs

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils import parametrizations as ours
from torch_oracle.tally import TALLY

X = np.random.default_rng(0).standard_normal((6, 5, 3))


def arrays(module):
    return {name: x.detach().numpy() for name, x in module.state_dict().items()}


def moved(module, seed=1):
    """The module with other numbers in its parameters."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += torch.tensor(0.3 * rng.standard_normal(tuple(p.shape)))
    return module


def agree(mine, other, y, expected):
    """Values, and the gradients of everything."""
    TALLY["parametrizations"]["compared"] += 1
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    weight = np.random.default_rng(2).standard_normal(y.shape)
    (y * tg.tensor(weight)).sum().backward()
    (expected * torch.tensor(weight)).sum().backward()
    named = dict(other.named_parameters())
    assert [name for name, _ in mine.named_parameters()] == [*named]
    for name, p in mine.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), named[name].grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


def torch_layer(cell, x):
    """A loop over time of PyTorch's cell."""
    zeros = torch.zeros(x.shape[1], cell.hidden_size, dtype=torch.float64)
    state = (zeros, zeros) if isinstance(cell, torch.nn.LSTMCell) else zeros
    steps = []
    with torch.nn.utils.parametrize.cached():  # once for a sequence: spectral norm takes a step each time
        for x_t in x:
            state = cell(x_t, state)
            steps.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(steps)


WAYS = {
    "weight_norm": ("weight_norm", {}),
    "weight_norm of all": ("weight_norm", {"dim": None}),
    "weight_norm of columns": ("weight_norm", {"dim": 1}),
    "spectral_norm": ("spectral_norm", {}),
    "spectral_norm of columns": ("spectral_norm", {"dim": 1, "n_power_iterations": 3}),
    "orthogonal": ("orthogonal", {}),
    "matrix_exp": ("orthogonal", {"orthogonal_map": "matrix_exp"}),
    "cayley": ("orthogonal", {"orthogonal_map": "cayley"}),
    "householder": ("orthogonal", {"orthogonal_map": "householder"}),
    "householder without a base": ("orthogonal", {"orthogonal_map": "householder", "use_trivialization": False}),
}


KINDS = ["LSTMCell", "GRUCell", "RNNCell"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", ["require", "never"])
def test_recurrent_weights(way, kind, fused, monkeypatch):
    """Each way with one kind of cell as machine code, which the weight does not know; with the others interpreted."""
    name, options = WAYS[way]
    if kind != KINDS[[*WAYS].index(way) % len(KINDS)]:
        interpret(monkeypatch)
    other = getattr(torch.nn, kind)(3, 4, dtype=torch.float64)
    getattr(theirs, name)(other, "weight_hh", **options)
    mine = getattr(ours, name)(getattr(tg.nn, kind)(3, 4, dtype=np.float64), "weight_hh", **options)
    moved(other)
    mine.load_state_dict(arrays(other))
    y, _ = tg.nn.Recurrent(mine, fused=fused)(tg.tensor(X))
    agree(mine, other, y, torch_layer(other, torch.tensor(X)))
    for name, buffer in mine.named_buffers():  # which a trace and a validation did not touch
        np.testing.assert_allclose(buffer.numpy(), other.state_dict()[name].numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "sizes"), [("Linear", (3, 4)), ("Linear", (3, 2)), ("Conv1d", (5, 4, 2))])
def test_layers(way, kind, sizes):
    name, options = WAYS[way]
    other = getattr(theirs, name)(getattr(torch.nn, kind)(*sizes, dtype=torch.float64), **options)
    mine = getattr(ours, name)(getattr(tg.nn, kind)(*sizes, dtype=np.float64), **options)
    assert [*mine.state_dict()] == [*other.state_dict()]
    moved(other)
    mine.load_state_dict(arrays(other))
    agree(mine, other, mine(tg.tensor(X)), other(torch.tensor(X)))


class Block(torch.nn.Module):
    """Bai et al.'s, of PyTorch's layers."""

    def __init__(self, i, o, k, dilation):
        super().__init__()
        norm, options = theirs.weight_norm, dict(dilation=dilation, padding=(k - 1) * dilation, dtype=torch.float64)
        self.cut = (k - 1) * dilation
        self.conv1 = norm(torch.nn.Conv1d(i, o, k, **options))
        self.conv2 = norm(torch.nn.Conv1d(o, o, k, **options))
        self.downsample = torch.nn.Conv1d(i, o, 1, dtype=torch.float64) if i != o else None

    def forward(self, x):
        y = torch.relu(self.conv1(x)[..., : x.shape[-1]])
        y = torch.relu(self.conv2(y)[..., : x.shape[-1]])
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


@pytest.mark.parametrize(("kernel", "channels"), [(2, (4, 4, 3)), (3, (5,)), (1, (5, 2))])
def test_temporal_convolutional_networks(kernel, channels):
    other = torch.nn.Module()
    widths = zip([5, *channels], channels)
    other.network = torch.nn.ModuleList([Block(i, o, kernel, 2**n) for n, (i, o) in enumerate(widths)])
    mine = tg.nn.TCN(5, channels, kernel, dtype=np.float64).eval()
    moved(other)
    mine.load_state_dict(arrays(other))
    agree(mine, other, mine(tg.tensor(X)), torch.nn.Sequential(*other.network)(torch.tensor(X)))
