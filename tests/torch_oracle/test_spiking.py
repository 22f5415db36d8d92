"""Spiking units and binarised gates against autograd functions in PyTorch that have the same surrogate gradients."""

import math

import numpy as np
import pytest
import torch
from fusion.comparing import interpret

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY


class Spike(torch.autograd.Function):
    """A step, and on the way back a triangle."""

    @staticmethod
    def forward(ctx, v_scaled, dampening):
        ctx.save_for_backward(v_scaled)
        ctx.dampening = dampening
        return (v_scaled > 0).to(v_scaled.dtype)

    @staticmethod
    def backward(ctx, dy):
        (v_scaled,) = ctx.saved_tensors
        return dy * ctx.dampening * torch.clamp(1 - v_scaled.abs(), min=0), None


class Binarise(torch.autograd.Function):
    """Signs times the mean magnitude, and on the way back nothing of it."""

    @staticmethod
    def forward(ctx, W):
        return torch.where(W >= 0, 1.0, -1.0).to(W.dtype) * W.abs().mean()

    @staticmethod
    def backward(ctx, dy):
        return dy


def lif(p, x, z, v, b=None, tau=4.0, threshold=0.5, dampening=0.7, tau_adaptation=6.0, beta=0.8):
    """The authors' lines; without b, those without adaptation."""
    decay, decay_b = math.exp(-1 / tau), math.exp(-1 / tau_adaptation)
    W_rec = torch.where(torch.eye(z.shape[1], dtype=torch.bool), 0.0, p["weight_hh"])
    thr = threshold
    if b is not None:
        b = decay_b * b + (1 - decay_b) * z
        thr = threshold + b * beta
    i_t = x @ p["weight_ih"].T + p["bias"] + z @ W_rec.T
    v = decay * v + (1 - decay) * i_t - z * threshold
    z = Spike.apply((v - thr) / thr, dampening)
    return (z, v) if b is None else (z, v, b)


def binary_gru(p, x, h):
    from_x, from_h = (
        {g: a @ Binarise.apply(W).T + b for g, W, b in zip("rzn", p[f"weight_{k}"].chunk(3), p[f"bias_{k}"].chunk(3))}
        for a, k in ((x, "ih"), (h, "hh"))
    )
    r, z = torch.sigmoid(from_x["r"] + from_h["r"]), torch.sigmoid(from_x["z"] + from_h["z"])
    return ((1 - z) * torch.tanh(from_x["n"] + r * from_h["n"]) + z * h,)


cells, OPTIONS = tg.nn.cells, dict(bias=True, tau=4.0, threshold=0.5, dampening=0.7)
CASES = {
    "LIF": (lambda I, H: cells.LIFCell(I, H, **OPTIONS, dtype=np.float64), lif),
    "ALIF": (lambda I, H: cells.ALIFCell(I, H, **OPTIONS, tau_adaptation=6.0, beta=0.8, dtype=np.float64), lif),
    "binary GRU": (lambda I, H: cells.BinaryGRUCell(I, H, dtype=np.float64), binary_gru),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fused", ["require", "never"])
def test_values_and_gradients(name, fused, monkeypatch):
    interpret(monkeypatch)
    make, step = CASES[name]
    tg.manual_seed(0)
    rng, (T, B, I, H) = np.random.default_rng(3), (12, 3, 4, 6)
    cell = make(I, H)
    for p in cell.parameters():
        p.numpy()[...] = rng.uniform(-1, 2, p.shape)
    given = {"x": rng.standard_normal((T, B, I))}
    given |= {state: rng.uniform(0, 1, (B, H)) for state in cell.state_names}
    weights = [rng.standard_normal(shape) for shape in ((T, B, H), *[(B, H)] * len(cell.state_names))]

    names = [*given, *dict(cell.named_parameters())]
    arrays = given | {name: p.numpy() for name, p in cell.named_parameters()}
    theirs = {name: torch.tensor(arrays[name], requires_grad=True) for name in names}
    states, outputs = [theirs[state] for state in cell.state_names], []
    for x in theirs["x"]:
        states = step(theirs, x, *states)
        outputs.append(states[0])
    expected = (torch.stack(outputs), *states)
    sum((v * torch.tensor(w)).sum() for v, w in zip(expected, weights)).backward()

    leaves = {name: tg.tensor(a, requires_grad=True) for name, a in given.items()}
    y, final = tg.nn.Recurrent(cell, fused=fused)(leaves["x"], tuple(leaves[state] for state in cell.state_names))
    found = (y, *(final if isinstance(final, tuple) else (final,)))
    sum((v * w).sum() for v, w in zip(found, weights)).backward()

    if name != "binary GRU":
        assert 0.1 < y.numpy().mean() < 0.9, "some spike"
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    for each, ours in (leaves | dict(cell.named_parameters())).items():
        gradient = theirs[each].grad.numpy()
        assert np.abs(gradient).max() > 1e-6, f"{each} hardly matters"
        np.testing.assert_allclose(ours.grad.numpy(), gradient, rtol=1e-10, atol=1e-12, err_msg=each)
    TALLY["spiking"]["compared"] += 1
