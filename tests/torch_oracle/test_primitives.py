"""Primitives of the user's own against what PyTorch's users write for them: subclasses of autograd.Function."""

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.table import TABLE

T, B, I, H = 6, 4, 3, 5
LENGTHS = [6, 0, 3, 1]


@pytest.fixture(autouse=True)
def only_here():
    before = dict(TABLE)
    yield
    TABLE.clear()
    TABLE.update(before)


class Spike(torch.autograd.Function):
    """SuperSpike: a step, whose gradient is that of a fast sigmoid (Zenke and Ganguli, 2018)."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy / (1 + ctx.slope * x.abs()) ** 2, None


class StraightThrough(torch.autograd.Function):
    """Bengio et al. (2013)."""

    @staticmethod
    def forward(ctx, hard, soft):
        return hard.to(soft.dtype)

    @staticmethod
    def backward(ctx, dy):
        return None, dy


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limit):
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy.clamp(-ctx.limit, ctx.limit), None


def mish_of(x):
    return x * torch.nn.functional.softplus(x, threshold=1e9).tanh()


class Neurons(tg.nn.Cell):
    """Leaky neurons that spike and are reset; a second population of binary ones; gradients clipped in the loop."""

    def __init__(self, dtype=np.float64):
        self.input_size, self.hidden_size = I, H
        tg.manual_seed(0)
        self.W, self.U, self.V = (tg.nn.weight(n, H, dtype=dtype) for n in (I, H, H))
        self.b, self.tau = tg.nn.bias(H, dtype=dtype), tg.nn.bias(H, dtype=dtype)
        self.spike = tg.primitive(
            "spike(x, *, slope)", "where(x > 0, 1, 0)", dx="dy / (1 + slope * abs(x)) ** 2", check=False
        )
        self.clipped = tg.primitive("clipped(x, *, limit)", "x", dx="clamp(dy, -limit, limit)", check=False)
        self.mish = tg.primitive(
            "mish(x)", "x * tanh(softplus(x))",
            dx="dy * (tanh(softplus(x)) + x * sigmoid(x) * (1 - tanh(softplus(x)) ** 2))",
        )  # fmt: skip
        self.leak = tg.primitive(
            "leak(v, tau)", "v * sigmoid(tau)", dv="dy * sigmoid(tau)", dtau="dy * y * (1 - sigmoid(tau))"
        )

    def step(self, x, s, v, q):
        v = self.leak(v, self.tau) * (1 - s) + self.mish(x @ self.W) + self.clipped(s, limit=0.1) @ self.U + self.b
        s = self.spike(v - 0.2, slope=25.0)
        a = 0.5 * q + v @ self.V
        return s, v, tg.straight_through(a > 0.1, tg.sigmoid(4 * a))


def in_torch(p, x, s, v, q):
    v = v * torch.sigmoid(p["tau"]) * (1 - s) + mish_of(x @ p["W"]) + Clipped.apply(s, 0.1) @ p["U"] + p["b"]
    s = Spike.apply(v - 0.2, 25.0)
    a = 0.5 * q + v @ p["V"]
    return s, v, StraightThrough.apply(a > 0.1, torch.sigmoid(4 * a))


@pytest.mark.parametrize("fused", ["require", "never"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_cell_of_primitives(fused, lengths, reverse):
    """Values, final states and all gradients, in float64."""
    cell, random = Neurons(), np.random.default_rng(1)
    ours = [tg.tensor(random.standard_normal(shape), requires_grad=True) for shape in [(T, B, I), *[(B, H)] * 3]]
    x, *states = (torch.tensor(each.numpy().copy(), requires_grad=True) for each in ours)
    p = {name: torch.tensor(each.numpy().copy(), requires_grad=True) for name, each in cell.named_parameters()}

    every = [None] * T
    now = tuple(states)
    for t in range(T)[:: -1 if reverse else 1]:
        running = torch.tensor(lengths or [T] * B)[:, None] > t
        new = in_torch(p, x[t], *now)
        now = tuple(torch.where(running, a, b) for a, b in zip(new, now))
        every[t] = torch.where(running, now[0] + 0 * now[1], torch.zeros(()).double())
    y = torch.stack(every)
    weights = [random.standard_normal(each.shape) for each in (y, *now)]
    loss = sum((each * torch.tensor(w)).sum() for each, w in zip((y, *now), weights))
    expected = torch.autograd.grad(loss, [x, *states, *p.values()])

    layer = tg.nn.Recurrent(cell, reverse=reverse, fused=fused)
    found_y, finals = layer(ours[0], tuple(ours[1:]), lengths=lengths)
    loss = sum((each * w).sum() for each, w in zip((found_y, *finals), weights))
    found = tg.grad(loss, [*ours, *cell.parameters()])
    for a, b in zip((found_y, *finals), (y, *now), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-12)
    for name, a, b in zip(["x", "s", "v", "q", *p], found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-12, err_msg=f"d{name}")


def test_second_derivatives():
    """PyTorch differentiates the backward of a Function again, as we do the rule."""
    spike = tg.primitive("spike(x, *, slope)", "where(x > 0, 1, 0)", dx="dy / (1 + slope * abs(x)) ** 2", check=False)
    x, dy = (np.random.default_rng(i).standard_normal(20) for i in range(2))
    found, expected = [], []
    for grad, results, y_of, make in (
        (tg.grad, found, lambda x: spike(x, slope=10), lambda a: tg.tensor(a, requires_grad=True)),
        (torch.autograd.grad, expected, lambda x: Spike.apply(x, 10), lambda a: torch.tensor(a, requires_grad=True)),
    ):
        a, b = make(x), make(dy)
        (first,) = grad((y_of(a) * b).sum(), [a], create_graph=True)
        results += [first, *grad((first * first).sum(), [a, b])]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12)


def test_mish():
    f = Neurons().mish
    x = np.random.default_rng(0).standard_normal(100) * 5
    ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y = f(ours)
    expected = torch.nn.functional.mish(theirs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-13)
    (dx,) = tg.grad(y.sum(), [ours], create_graph=True)
    (dx_expected,) = torch.autograd.grad(mish_of(theirs).sum(), [theirs], create_graph=True)
    np.testing.assert_allclose(dx.numpy(), dx_expected.detach().numpy(), rtol=1e-11, atol=1e-13)
    (dxx,), (dxx_expected,) = tg.grad(dx.sum(), [ours]), torch.autograd.grad(dx_expected.sum(), [theirs])
    np.testing.assert_allclose(dxx.numpy(), dxx_expected.numpy(), rtol=1e-10, atol=1e-12)
