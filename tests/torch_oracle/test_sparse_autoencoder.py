"""Sparse autoencoders of every kind, written out in PyTorch: their losses and all gradients to ten digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((50, 6)) * np.linspace(0.3, 2, 6) + 0.5
DEAD = [1, 4, 7]


class Jump(torch.autograd.Function):
    """(a where a > theta, whether a > theta), with the pseudo-derivatives of Rajamanoharan et al., section 3."""

    @staticmethod
    def forward(ctx, a, theta, width):
        ctx.save_for_backward(a, theta)
        ctx.width = width
        return a * (a > theta), (a > theta).double()

    @staticmethod
    def backward(ctx, dz, dstep):
        a, theta = ctx.saved_tensors
        window = ((a - theta).abs() / ctx.width < 0.5).double() / ctx.width
        return dz * (a > theta), -((dz * theta + dstep) * window).sum(0), None


def topk(a, k):
    values, places = a.topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, places, values.relu())


def their_loss(kind, x, W_e, b_e, W_d, b_d, log_threshold=None):
    a = (x - b_d) @ W_e.T + b_e
    if kind == "topk":
        left = topk(a, 2) @ W_d.T + b_d - x
        again = topk(a[:, DEAD], 2) @ W_d[:, DEAD].T + left.detach()
        return (left**2).mean() + (again**2).mean() / (left.detach() ** 2).mean() / 32
    if kind == "jumprelu":
        z, step = Jump.apply(a, log_threshold.exp(), 0.5)
        return ((z @ W_d.T + b_d - x) ** 2).mean() + 0.3 * step.sum(-1).mean()
    if kind == "l1":
        z = a.relu()
        return ((z @ W_d.T + b_d - x) ** 2).mean() + 0.3 * (z * W_d.norm(dim=0)).sum(-1).mean()
    if kind == "kl":
        z, rho = a.sigmoid(), 0.1
        r = z.mean(0)
        kl = rho * (rho / r).log() + (1 - rho) * ((1 - rho) / (1 - r)).log()
        square = ((z @ W_d.T + b_d - x) ** 2).sum(-1).mean() / 2
        return square + 0.01 / 2 * ((W_e**2).sum() + (W_d**2).sum()) + 2.0 * kl.sum()
    return ((a @ W_d.T + b_d - x) ** 2).mean()


OPTIONS = {
    "topk": dict(k=2, auxiliary=2, dead_after=10), "jumprelu": dict(sparsity=0.3, bandwidth=0.5),
    "l1": dict(sparsity=0.3), "kl": dict(sparsity=2.0, decay=0.01, rho=0.1), "linear": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS)
def test_loss_and_gradients(kind):
    tg.manual_seed(0)
    sae = tg.nn.SparseAutoencoder(6, 9, kind, dtype=np.float64, **OPTIONS[kind]).normalise(X)
    for parameter in sae.parameters():
        parameter.numpy()[...] += RANDOM.uniform(-0.2, 0.2, parameter.shape)
    sae.eval()  # so that nobody's silence is counted
    sae.silent.numpy()[DEAD] = 10
    names = [name for name, _ in sae.named_parameters()]
    assert names[:4] == ["weight_e", "bias_e", "weight_d", "bias_d"]
    theirs = [torch.tensor(parameter.numpy(), requires_grad=True) for parameter in sae.parameters()]
    x = torch.tensor((X - X.mean(0)) / np.sqrt(np.square(X - X.mean(0)).mean()))
    ours, expected = sae.loss(X), their_loss(kind, x, *theirs)
    ours.backward()
    expected.backward()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    for name, mine, other in zip(names, sae.parameters(), theirs):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-13, err_msg=name)
        assert np.abs(mine.grad.numpy()).max() > 1e-4, name
