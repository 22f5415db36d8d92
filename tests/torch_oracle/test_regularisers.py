"""What PyTorch has no function for, written out in it: value and gradient to twelve digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from tinygrad_rnn.optim import (
    activation_penalty,
    clip_grad_adaptive_,
    elastic_net_penalty,
    max_norm_,
    temporal_activation_penalty,
)

RANDOM = np.random.default_rng(0)


def pair(*shape):
    """The same numbers in both libraries."""
    array = RANDOM.standard_normal(shape)
    return tg.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)


PENALTIES = {
    "elastic net": (lambda h: elastic_net_penalty([h], 0.3, 0.2), lambda h: 0.3 * h.abs().sum() + 0.2 * h.pow(2).sum()),
    "AR": (lambda h: activation_penalty(h, 2.0), lambda h: 2.0 * h.pow(2).mean()),
    "TAR": (lambda h: temporal_activation_penalty(h, 1.5), lambda h: 1.5 * (h[1:] - h[:-1]).pow(2).mean()),
    "TAR, batch first": (
        lambda h: temporal_activation_penalty(h, 1.5, dim=1), lambda h: 1.5 * (h[:, 1:] - h[:, :-1]).pow(2).mean()
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty(name):
    (h, their_h), (ours, theirs) = pair(5, 3, 4), PENALTIES[name]
    actual, expected = ours(h), theirs(their_h)
    np.testing.assert_allclose(actual.item(), expected.item(), rtol=1e-12)
    actual.backward()
    expected.backward()
    np.testing.assert_allclose(h.grad.numpy(), their_h.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("shape", "rows"), [((4, 3), True), ((3, 2, 2), True), ((5,), False)], ids=str)
def test_adaptive_clipping(shape, rows):
    (p, q), (g, h) = pair(*shape), pair(*shape)
    p.grad = g.detach()

    def unitwise(x):
        return x.norm(dim=tuple(range(1, x.ndim)), keepdim=True) if rows else x.norm()

    limit = unitwise(q).clamp(min=1e-3) * 0.4
    expected = torch.where(unitwise(h) > limit, h * limit / unitwise(h), h).detach()
    clip_grad_adaptive_([p], 0.4)
    assert (p.grad.numpy() != g.numpy()).any()
    np.testing.assert_allclose(p.grad.numpy(), expected.numpy(), rtol=1e-12)


def test_max_norm():
    """PyTorch's renorm divides by norm + 1e-7."""
    p, q = pair(6, 5)
    max_norm_([p], 1.8)
    np.testing.assert_allclose(p.numpy(), torch.renorm(q.detach(), 2, 0, 1.8).numpy(), rtol=1e-7)


def test_embedding_dropout():
    """The mask is read off what came out."""
    (w, their_w), words = pair(7, 3), np.array([[1, 6, 1, 0], [2, 3, 4, 5]])
    tg.manual_seed(0)
    y = tg.nn.functional.embedding(words, w, dropout=0.4)
    kept = torch.zeros(7, 1, dtype=torch.float64)
    kept[words[y.numpy().any(-1)]] = 1
    assert 0 < kept.sum() < 7
    expected = torch.nn.functional.embedding(torch.tensor(words), kept / 0.6 * their_w)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), their_w.grad.numpy(), rtol=1e-12)
