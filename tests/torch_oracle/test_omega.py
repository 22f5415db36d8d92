"""Omega against PyTorch: the gradient through each unrolled step, with d, h and the slopes detached."""

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

ACTS = {"tanh": lambda h: 1 - h * h, "relu": lambda h: (h > 0).double()}


@pytest.mark.parametrize("lengths", [None, (6, 1, 4)])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("fused", ["require", "never"])
def test_gradient(act, lengths, fused):
    rng = np.random.default_rng(5)
    X, read = rng.standard_normal((6, 3, 4)), rng.standard_normal((6, 3, 5))
    other = torch.nn.RNNCell(4, 5, nonlinearity=act, dtype=torch.float64)
    mine = tg.nn.RNNCell(4, 5, nonlinearity=act, dtype=np.float64)
    mine.load_state_dict({name: p.detach().numpy() for name, p in other.state_dict().items()})
    ends = np.array([6, 6, 6] if lengths is None else lengths)

    layer = tg.nn.Recurrent(mine, fused=fused)
    with tg.record(layer) as r:
        y, _ = layer(tg.tensor(X), lengths=None if lengths is None else ends)
    (y * read).sum().backward()
    omega = tg.optim.omega_penalty(r, layer)
    omega.backward()

    state, states = torch.zeros(3, 5, dtype=torch.float64), []
    for t in range(6):
        state = torch.where(torch.tensor(t < ends)[:, None], other(torch.tensor(X[t]), state), state)
        states.append(state)
    runs = torch.tensor(np.arange(6)[:, None] < ends)
    loss = (torch.stack(states) * torch.tensor(read) * runs[..., None]).sum()
    ds = torch.autograd.grad(loss, states, retain_graph=True)
    loss.backward()
    total, live = 0.0, 0
    for h, d in zip(states, ds):
        before = torch.zeros_like(h, requires_grad=True)
        s = (d * ACTS[act](h)).detach()
        (v,) = torch.autograd.grad(torch.nn.functional.linear(before, other.weight_hh), before, s, create_graph=True)
        b = d.detach().square().sum(1)
        ratio = torch.where(b >= 1e-20, v.square().sum(1) / b.clamp(min=1e-300), 1.0)
        total, live = total + (ratio - 1).square().mean(), live + (b >= 1e-20).double().mean()
    (total / live).backward()

    TALLY["omega"]["compared"] += 1
    assert omega.item() == pytest.approx((total / live).item(), rel=1e-10)
    for name, p in mine.named_parameters():
        expected = dict(other.named_parameters())[name].grad.numpy()
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-10, atol=1e-12, err_msg=name)
