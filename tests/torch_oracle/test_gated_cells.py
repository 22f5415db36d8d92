"""Cells of few gates, of evolution, of deep steps, RWKV: their authors' equations in PyTorch, values and gradients.

Each function computes a step as paper or authors' code write it, from the parameters of ours and the states. Where a
cell hands on what its authors do not, the function computes the whole sequence.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import relu, sigmoid, tanh
from torch.nn.functional import layer_norm, softmax

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells
from torch_oracle.tally import TALLY

T, B, I, H = 4, 3, 5, 6
STEPS = {}


def case(name, kind, input_size=I, **options):
    def register(step):
        STEPS[name] = (lambda: kind(input_size, H, dtype=np.float64, **options), step)
        return step

    return register


def gates(p, x, h, n):
    """What n gates read, all of x and h."""
    return (x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"]).chunk(n, -1)


# ---- Fewer gates -----------------------------------------------------------------------------------------------------


@case("JANET", cells.JANETCell, beta=0.7)
def janet(p, x, h):
    s, n = gates(p, x, h, 2)
    return (s.sigmoid() * h + (1 - (s - 0.7).sigmoid()) * n.tanh(),)


@case("STAR", cells.STARCell)
def star(p, x, h):
    (W_f, W_j), (b_f, b_j) = p["weight_ih"].chunk(2), p["bias"].chunk(2)
    f = torch.cat([x, h], 1) @ torch.cat([W_f, p["weight_hh"]], 1).T + b_f
    return (tanh(sigmoid(f) * h + (1 - sigmoid(f - 1)) * tanh(x @ W_j.T + b_j)),)


@case("LightRU", cells.LightRUCell)
def light_ru(p, x, h):
    W_f, W_h = p["weight_ih"].chunk(2)
    f = sigmoid(x @ W_f.T + h @ p["weight_hh"].T + p["bias"])
    return (torch.lerp(h, tanh(x @ W_h.T), f),)


@case("ATR", cells.ATRCell)
def atr(p, x, h):
    P, Q = x @ p["weight_ih"].T + p["bias_ih"], h @ p["weight_hh"].T + p["bias_hh"]
    return ((P + Q).sigmoid() * P + (P - Q).sigmoid() * h,)


@case("CFN", cells.CFNCell)
def cfn(p, x, h):
    V_theta, V_eta, W = p["weight_ih"].chunk(3)
    (U_theta, U_eta), (b_theta, b_eta) = p["weight_hh"].chunk(2), p["bias"].chunk(2)
    theta, eta = sigmoid(h @ U_theta.T + x @ V_theta.T + b_theta), sigmoid(h @ U_eta.T + x @ V_eta.T + b_eta)
    return (theta * tanh(h) + eta * tanh(x @ W.T),)


def bistable(memory):
    def step(p, x, h):
        (k_r, k_z, k_h), (b_r, b_z) = p["weight_ih"].chunk(3), p["bias"].chunk(2)
        m_r, m_z = memory(p, h)
        z, r = sigmoid(x @ k_z.T + m_z + b_z), tanh(x @ k_r.T + m_r + b_r) + 1
        return ((1.0 - z) * tanh(x @ k_h.T + r * h) + z * h,)

    return step


case("BRC", cells.BRCCell)(bistable(lambda p, h: [v * h for v in p["weight_v"].chunk(2)]))
case("nBRC", cells.NBRCCell)(bistable(lambda p, h: [h @ U.T for U in p["weight_hh"].chunk(2)]))


@case("+RNN", cells.IntersectionRNNCell)
@case("+RNN, I = H", cells.IntersectionRNNCell, H)
def intersection(p, x, y, h):
    i = x @ p["weight_in"].T + p["bias_in"] if "weight_in" in p else x
    g_h, h_in, g_y, y_in = gates(p, i, h, 4)
    return torch.lerp(relu(y_in), i, g_y.sigmoid()), torch.lerp(h_in.tanh(), h, g_h.sigmoid())


# ---- Found by search -------------------------------------------------------------------------------------------------


@case("MUT1", cells.MUT1Cell)
@case("MUT1, I = H", cells.MUT1Cell, H)
def mut1(p, x, h):
    (W_xz, W_xr, *W), (W_hr, W_hh) = p["weight_ih"].split(H), p["weight_hh"].split(H)
    b_z, b_r, b_h = p["bias"].split(H)
    z, r = sigmoid(x @ W_xz.T + b_z), sigmoid(x @ W_xr.T + h @ W_hr.T + b_r)
    wide = x @ W[0].T if W else x
    return (tanh((r * h) @ W_hh.T + tanh(wide) + b_h) * z + h * (1 - z),)


@case("MUT2", cells.MUT2Cell)
@case("MUT2, I = H", cells.MUT2Cell, H)
def mut2(p, x, h):
    W_xz, W_xh, *W = p["weight_ih"].split(H)
    (W_hz, W_hr, W_hh), (b_z, b_r, b_h) = p["weight_hh"].split(H), p["bias"].split(H)
    z = sigmoid(x @ W_xz.T + h @ W_hz.T + b_z)
    r = sigmoid((x @ W[0].T if W else x) + h @ W_hr.T + b_r)
    return (tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z),)


@case("MUT3", cells.MUT3Cell)
def mut3(p, x, h):
    (W_xz, W_xr, W_xh), (W_hz, W_hr, W_hh) = p["weight_ih"].split(H), p["weight_hh"].split(H)
    b_z, b_r, b_h = p["bias"].split(H)
    z, r = sigmoid(x @ W_xz.T + tanh(h) @ W_hz.T + b_z), sigmoid(x @ W_xr.T + h @ W_hr.T + b_r)
    return (tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z),)


@case("NAS", cells.NASCell)
def nas(p, x, m, c):
    i, m = (x @ p["weight_ih"].T).chunk(8, 1), (m @ p["weight_hh"].T + p["bias"]).chunk(8, 1)
    first = sigmoid(i[0] + m[0]) * relu(i[1] + m[1])
    second = sigmoid(i[2] + m[2]) + relu(i[3] * m[3])
    third = tanh(i[4] + m[4]) * sigmoid(i[5] + m[5])
    fourth = tanh(i[6] + m[6]) + sigmoid(i[7] + m[7])
    c = tanh(tanh(first) + c) * tanh(second)
    return tanh(c * tanh(tanh(third) + sigmoid(fourth))), c


# ---- Deeper ----------------------------------------------------------------------------------------------------------


@case("RHN", cells.RHNCell, depth=3)
def rhn(p, x, s):
    inputs = x @ p["weight_ih"].T
    for layer, (R, b) in enumerate(zip(p["weight_hh"].split(2 * H), p["bias"].split(2 * H))):
        h, t = (s @ R.T + b + (inputs if layer == 0 else 0)).chunk(2, 1)
        s = h.tanh() * t.sigmoid() + s * (1 - t.sigmoid())
    return (s,)


@case("Nested LSTM", cells.NestedLSTMCell)
@case("Nested LSTM, three", cells.NestedLSTMCell, depth=3)
def nested(p, x, h, *cs, level=0):
    prefix = "inner." * level
    i, f, j, o = gates({k: p[prefix + k] for k in ("weight_ih", "weight_hh", "bias")}, x, h, 4)
    inside, kept = sigmoid(i) * (tanh(j) if level else j), sigmoid(f) * cs[0]
    new = nested(p, inside, kept, *cs[1:], level=level + 1) if len(cs) > 1 else (kept + inside,)
    return sigmoid(o) * tanh(new[0]), *new


def normed_lstm(p, prefix, blocks, c):
    norm = lambda k, a: layer_norm(a, a.shape[1:], p[f"{prefix}norm_{k}.weight"], p[f"{prefix}norm_{k}.bias"], 1e-3)
    i, f, j, o = (norm(k, a) for k, a in zip("ifgo", blocks))
    c = sigmoid(f) * c + sigmoid(i) * tanh(j)
    return sigmoid(o) * tanh(norm("c", c)), c


@case("HyperLSTM", cells.HyperLSTMCell, hyper_size=4, embedding_size=3)
def hyper_lstm(p, x, h, c, hyper_h, hyper_c):
    small = {k: p[f"hyper.{k}"] for k in ("weight_ih", "weight_hh", "bias")}
    hyper_h, hyper_c = normed_lstm(p, "hyper.", gates(small, torch.cat([x, h], 1), hyper_h, 4), hyper_c)
    z = (hyper_h @ p["weight_z"].T + p["offset"]).reshape(B, 8, 3)
    d = torch.einsum("bge,ghe->bgh", z, p["weight_d"].reshape(8, H, 3))
    z_b = (hyper_h @ p["weight_zb"].T).reshape(B, 4, 3)
    d_b = torch.einsum("bge,ghe->bgh", z_b, p["weight_db"].reshape(4, H, 3))
    W_x, U_h, b = (x @ p["weight_ih"].T).view(B, 4, H), (h @ p["weight_hh"].T).view(B, 4, H), p["bias"].view(4, H)
    a = d[:, :4] * W_x + d[:, 4:] * U_h + d_b + b
    return *normed_lstm(p, "", a.unbind(1), c), hyper_h, hyper_c


@case("ON-LSTM", cells.ONLSTMCell)
@case("ON-LSTM, chunks", cells.ONLSTMCell, chunk_size=2)
def on_lstm(p, x, h, c):
    blocks, size = p["bias_m"].numel() // 2, 2 * H // p["bias_m"].numel()
    cin, cforget = (x @ p["weight_im"].T + h @ p["weight_hm"].T + p["bias_m"]).chunk(2, 1)
    cin, cforget = 1 - softmax(cin, -1).cumsum(-1)[:, :, None], softmax(cforget, -1).cumsum(-1)[:, :, None]
    i, f, cell, o = (a.view(-1, blocks, size) for a in gates(p, x, h, 4))
    overlap = cforget * cin
    forget, write = f.sigmoid() * overlap + (cforget - overlap), i.sigmoid() * overlap + (cin - overlap)
    c = forget * c.view(-1, blocks, size) + write * cell.tanh()
    return (o.sigmoid() * c.tanh()).flatten(1), c.flatten(1)


def rwkv(p, X):
    """All pairs of steps, keys by a softmax over those before."""
    before = torch.cat([torch.zeros_like(X[:1]), X[:-1]])
    k, v, r = ((X * p[f"mix_{c}"] + before * (1 - p[f"mix_{c}"])) @ p[f"weight_{c}"].T for c in "kvr")
    outputs = []
    for t in range(T):
        age = torch.arange(t - 1, -1, -1)[:, None, None]
        logits = torch.cat([k[:t] - age * p["decay"].exp(), k[t : t + 1] + p["u"]])
        outputs.append(r[t].sigmoid() * (softmax(logits, 0) * v[: t + 1]).sum(0))
    return outputs


STEPS["RWKV"] = (lambda: cells.RWKVCell(I, H, dtype=np.float64), rwkv)


# ---- The comparison --------------------------------------------------------------------------------------------------


def arrays(cell):
    """Parameters, inputs and states, none of them as a cell starts."""
    random = np.random.default_rng(7)
    for parameter in cell.parameters():
        parameter.numpy()[...] = random.uniform(-0.8, 0.8, parameter.shape)
    given = {"x": random.uniform(-1, 1, (T, B, cell.input_size))}
    states = {} if isinstance(cell, cells.RWKVCell) else zip(cell.state_names, cell.begin(None, B))
    return given | {name: random.uniform(-1, 1, s.shape) for name, s in dict(states).items()}, random


@pytest.mark.parametrize("name", STEPS)
def test_values_and_gradients(name):
    make, step = STEPS[name]
    cell = make()
    given, random = arrays(cell)
    read = random.uniform(-1, 1, (T, B, H))

    leaves = {key: tg.tensor(value, requires_grad=True) for key, value in given.items()}
    x, *states = leaves.values()
    y, last = tg.nn.Recurrent(cell, fused="never")(x, tuple(states) or None)
    last = (last if isinstance(last, tuple) else (last,)) if states else ()
    sum([(y * read).sum(), *(s.square().sum() for s in last)]).backward()

    p = {key: torch.tensor(value, requires_grad=True) for key, value in cell.state_dict().items()}
    theirs = {key: torch.tensor(value, requires_grad=True) for key, value in given.items()}
    X, *carried = theirs.values()
    if carried:
        outputs = []
        for t in range(T):
            carried = step(p, X[t], *carried)
            outputs.append(carried[0])
    else:
        outputs = step(p, X)
    outputs = torch.stack(outputs)
    sum([(outputs * torch.tensor(read)).sum(), *(s.square().sum() for s in carried)]).backward()

    close = lambda a, b, what: np.testing.assert_allclose(a.numpy(), b.detach().numpy(), 0, 1e-10, err_msg=what)
    close(y, outputs, "outputs")
    for which, (a, b) in enumerate(zip(last, carried, strict=True)):
        close(a, b, cell.state_names[which])
    for key, parameter in cell.named_parameters():
        close(parameter.grad, p[key].grad, key)
        assert parameter.grad.numpy().any(), key
    for key, leaf in leaves.items():
        if theirs[key].grad is None:  # a state that is output alone
            assert leaf.grad is None or not leaf.grad.numpy().any(), key
        else:
            close(leaf.grad, theirs[key].grad, key)
    TALLY["gated cells"]["compared"] += 1
