"""Cells of differential equations and linear systems against their authors' equations in PyTorch, with autograd."""

import numpy as np
import pytest
import torch
from fusion.comparing import interpret
from torch.nn.functional import softplus

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells
from torch_oracle.tally import TALLY

T, B, I, H = 4, 3, 3, 4


def linear(p, x, name, bias=None):
    return x @ p[name].T + (p[bias] if bias else 0)


def cornn(p, x, y, z):
    force = torch.tanh(linear(p, x, "weight_ih", "bias") + linear(p, y, "weight_hh") + linear(p, z, "weight_zh"))
    z = z + 0.042 * (force - 2.7 * y - 4.7 * z)
    return y + 0.042 * z, z


def unicornn(p, x, y, z):
    dt = 0.19 * torch.sigmoid(p["weight_c"])
    z = z - dt * (torch.tanh(p["weight_w"] * y + linear(p, x, "weight_ih", "bias")) + 30.65 * y)
    return y + dt * z, z


def antisymmetric(p, x, h):
    A = p["weight_hh"] - p["weight_hh"].T - 0.01 * torch.eye(H, dtype=torch.float64)
    a, u = h @ A.T, linear(p, x, "weight_ih", "bias")
    gate = torch.sigmoid(a + u[:, :H]) if u.shape[1] > H else 1
    return (h + 0.01 * gate * torch.tanh(a + u[:, -H:]),)


def cfc(mode):
    def step(p, x, h, elapsed):
        s = torch.cat([x, h], 1) @ torch.cat([p["weight_ih"], p["weight_hh"]], 1).T + p["bias"]
        s = linear(p, 1.7159 * torch.tanh(0.666 * s), "heads.weight", "heads.bias")
        if mode == "pure":
            A = p["weight_A"]
            return (-A * torch.exp(-elapsed * (torch.abs(p["weight_tau"]) + torch.abs(s))) * s + A,)
        f, g, a, b = torch.chunk(s, 4, 1)
        f, g, t = torch.tanh(f), torch.tanh(g), torch.sigmoid(a * elapsed + b)
        return (f + t * g if mode == "no_gate" else f * (1 - t) + t * g,)

    return step


def ltc(p, x, v, elapsed):
    def through(kind, source):
        a = p[kind + "sigma"] * (source.unsqueeze(-1) - p[kind + "mu"])
        a = softplus(p[kind + "w"]) * torch.sigmoid(a)
        return torch.sum(a * p[kind + "erev"], 1), torch.sum(a, 1)

    up, down = through("sensory_", x * p["weight_x"] + p["bias_x"])
    cm, leak = softplus(p["cm"]) / (elapsed / 6), softplus(p["gleak"])
    for _ in range(6):
        more_up, more_down = through("", v)
        v = (cm * v + leak * p["vleak"] + more_up + up) / (cm + leak + more_down + down + 1e-8)
    return (v,)


def phased(p, x, h, c, time, elapsed):
    i, f, g, o = torch.chunk(linear(p, x, "weight_ih", "bias") + linear(p, h, "weight_hh"), 4, 1)
    p_i, p_f, p_o = torch.chunk(p["peephole"], 3)
    new = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    out = torch.sigmoid(o + p_o * new) * torch.tanh(new)
    time, period = time + elapsed, torch.abs(p["period"])
    now, middle, end = torch.remainder(time + p["shift"], period), 0.25 * period, 0.5 * period
    closed = 0.001 * now / period
    k = torch.where(now <= middle, now / middle, torch.where(now <= end, (end - now) / middle, closed))
    return k * out + (1 - k) * h, k * new + (1 - k) * c, time


def diagonal(kind):
    def step(p, x, y, re, im):
        B, C = torch.complex(p["B_re"], p["B_im"]), torch.complex(p["C_re"], p["C_im"])
        if kind == "lru":
            eigenvalues = torch.exp(torch.complex(-torch.exp(p["nu_log"]), torch.exp(p["theta_log"])))
            B = torch.exp(p["gamma_log"]).unsqueeze(-1) * B
        else:
            a, dt = torch.complex(p["lambda_re"], p["lambda_im"]), torch.exp(p["log_step"])
            eigenvalues = torch.exp(a * dt)
            B = (1 / a * (eigenvalues - 1)).unsqueeze(-1) * B
        s = eigenvalues * torch.complex(re, im) + x.to(torch.complex128) @ B.T
        return (1 if kind == "lru" else 2) * (s @ C.T).real + x @ p["D"].T, s.real, s.imag

    return step


def lmu(p, x, h, m):
    """A and B by the exponential of one matrix, as in the authors' code."""
    i, j = np.meshgrid(range(5), range(5), indexing="ij")
    system = np.zeros((6, 6))
    system[:5, :5] = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / 9
    system[:5, 5] = (2 * i[:, 0] + 1) * (-1.0) ** i[:, 0] / 9
    held = torch.linalg.matrix_exp(torch.tensor(system))
    u = linear(p, x, "encoder_x") + linear(p, h, "encoder_h") + linear(p, m, "encoder_m")
    m = m @ held[:5, :5].T + u * held[:5, 5]
    return torch.tanh(linear(p, x, "kernel_x") + linear(p, h, "kernel_h") + linear(p, m, "kernel_m")), m


CASES = {
    "coRNN": (cells.CoRNNCell, {}, cornn),
    "UnICORNN": (cells.UnICORNNCell, {}, unicornn),
    "AntisymmetricRNN": (cells.AntisymmetricRNNCell, {}, antisymmetric),
    "AntisymmetricRNN, gated": (cells.GatedAntisymmetricRNNCell, {}, antisymmetric),
    "CfC": (cells.CfCCell, {"units": 6}, cfc("default")),
    "CfC, no gate": (cells.CfCCell, {"units": 6, "mode": "no_gate"}, cfc("no_gate")),
    "CfC, pure": (cells.CfCCell, {"units": 6, "mode": "pure"}, cfc("pure")),
    "LTC": (cells.LTCCell, {}, ltc),
    "Phased LSTM": (cells.PhasedLSTMCell, {"periods": (0.5, 1.5), "ratio": 0.5}, phased),
    "LRU": (cells.LRUCell, {"state_size": 5}, diagonal("lru")),
    "S5": (cells.S5Cell, {"state_size": 5}, diagonal("s5")),
    "LMU": (cells.LMUCell, {"order": 5, "theta": 9}, lmu),
}
TIMED = ("CfC", "LTC", "Phased")


def leaves_of(name):
    """The cell, its parameters, x, elapsed and initial states as arrays."""
    kind, options, _ = CASES[name]
    tg.manual_seed(3)
    cell, random = kind(I, H, **options, dtype=np.float64), np.random.default_rng(0)
    for p in cell.parameters():
        p.numpy()[...] += random.uniform(-0.1, 0.1, p.shape)  # none stays at zero
    inputs = {"x": random.normal(0, 1, (T, B, I))}
    if name.startswith(TIMED):
        inputs["elapsed"] = random.uniform(0.1, 2, (T, B, 1))
    states = {f"state {n}": random.uniform(-1, 1, s.shape) for n, s in zip(cell.state_names, cell.begin(None, B))}
    return cell, {n: p.numpy() for n, p in cell.named_parameters()}, inputs, states


def check(name):
    """Outputs, last states and the gradients of all that goes in, to 1e-10."""
    cell, p, inputs, states = leaves_of(name)
    weigh = lambda found: sum((v * np.random.default_rng(n).normal(0, 1, v.shape)).sum() for n, v in enumerate(found))
    torch_leaves = {n: torch.tensor(a, requires_grad=True) for n, a in {**p, **inputs, **states}.items()}
    now, outputs = [torch_leaves[n] for n in states], []
    for t in range(T):
        now = CASES[name][2](torch_leaves, torch_leaves["x"][t], *now, *(torch_leaves[n][t] for n in list(inputs)[1:]))
        outputs.append(now[0])
    expected = [torch.stack(outputs), *now]
    loss = sum((v * torch.tensor(np.random.default_rng(n).normal(0, 1, v.shape))).sum() for n, v in enumerate(expected))
    slopes = torch.autograd.grad(loss, list(torch_leaves.values()), allow_unused=True)
    for engine in ("never", "require"):
        leaves = {n: tg.tensor(a, requires_grad=True) for n, a in {**inputs, **states}.items()}
        x = tuple(leaves[n] for n in inputs) if len(inputs) > 1 else leaves["x"]
        y, final = tg.nn.Recurrent(cell, fused=engine)(x, tuple(leaves[n] for n in states))
        found = [y, *(final if isinstance(final, tuple) else (final,))]
        gradients = tg.grad(weigh(found), [*cell.parameters(), *leaves.values()], allow_unused=True)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-11)
        for n, a, b in zip(torch_leaves, gradients, slopes, strict=True):
            a, b = (np.zeros(torch_leaves[n].shape) if g is None else g.numpy() for g in (a, b))
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1, np.abs(b).max()), err_msg=n)
        TALLY["cells of differential equations"]["compared"] += 1


@pytest.mark.parametrize("name", CASES)
def test_cell(name, monkeypatch):
    interpret(monkeypatch)
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_compiled_cell(name):
    check(name)
