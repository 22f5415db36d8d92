"""Cells with matrices of state and those that attend, against their authors' equations in PyTorch, with autograd."""

import math

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

F = torch.nn.functional
cells = tg.nn.cells
T, B, S, I, H = 5, 3, 4, 3, 6


def heads_of(p, x, heads, *sizes):
    """The parts of what x is mapped to, [B, heads, n] each."""
    a = F.linear(x, p["weight_ih"], p.get("bias"))
    return [part.reshape(len(x), heads, -1) for part in a.split([heads * n for n in sizes], -1)]


def mlstm(p, x, h, C, n, m):
    """NX-AI/xlstm, recurrent_step_stabilized_simple, whose memory is the transposed one."""
    q, k, v, o, i, f = heads_of(p, x, 2, 4, 4, 3, 3, 1, 1)
    q, k, v, i, f = (a.unsqueeze(-1) for a in (q, k, v, i, f))  # [B, heads, n, 1]
    c_state, n_state, m_state = C.mT, n.unsqueeze(-1), m.unsqueeze(-1)
    log_f = F.logsigmoid(f)
    m_new = torch.max(log_f + m_state, i)
    f_act, i_act = torch.exp(log_f + m_state - m_new), torch.exp(i - m_new)
    k = k / math.sqrt(4)
    c_new, n_new = f_act * c_state + i_act * (k @ v.mT), f_act * n_state + i_act * k
    below = torch.maximum((q.mT @ n_new).abs(), torch.exp(-m_new)) + 1e-6
    h = (q.mT @ c_new / below).squeeze(-2) * o.sigmoid()
    return h.flatten(1), c_new.mT, n_new.squeeze(-1), m_new.squeeze(-1)


def delta_net(p, x, h, state):
    """fla-org/flash-linear-attention, delta_rule_recurrence, with S [K, V] there, and without its scale."""
    q, k, v, beta = heads_of(p, x, 2, 4, 4, 3, 1)
    normed = lambda a: a * torch.rsqrt((a * a).sum(-1, keepdim=True) + 1e-6)
    q, k, M = normed(F.silu(q)), normed(F.silu(k)), state.mT
    v = (v - (M * k[..., None]).sum(-2)) * beta.sigmoid()
    M = M + k.unsqueeze(-1) * v.unsqueeze(-2)
    return torch.einsum("bhd,bhdm->bhm", q, M).flatten(1), M.mT


def linear_attention(p, x, h, Si, Zi):
    """idiap/fast-transformers, RecurrentLinearAttention."""
    q, k, v = heads_of(p, x, 2, 4, 4, 3)
    q, k = F.elu(q) + 1, F.elu(k) + 1
    Zi, Si = Zi + k, Si + torch.einsum("nhd,nhm->nhdm", k, v)
    Z = 1 / (torch.einsum("nhd,nhd->nh", q, Zi) + 1e-6)
    return torch.einsum("nhd,nhdm,nh->nhm", q, Si, Z).flatten(1), Si, Zi


def gla(p, x, h, state):
    """fla-org/flash-linear-attention, naive_recurrent_gla and GatedLinearAttention."""
    q, k, v, g = heads_of(p, x, 2, 4, 4, 3, 3)
    gk = F.logsigmoid(F.linear(F.linear(x, p["weight_down"]), p["weight_up"], p["bias_gate"])).view(k.shape) / 16
    state = state * gk.exp()[..., None] + k[..., None] * v[..., None, :]
    o = ((q * 4**-0.5)[..., None] * state).sum(-2)
    o = F.rms_norm(o, (3,), p["weight_norm"], 1e-5) * F.silu(g)
    return F.linear(o.flatten(1), p["weight_ho"]), state


def fast_weights(p, x, h, A):
    A = 0.95 * A + 0.5 * torch.einsum("bi,bj->bij", h, h)
    slow = F.linear(x, p["weight_ih"], p["bias"]) + F.linear(h, p["weight_hh"])
    h = torch.relu(slow)
    for _ in range(2):
        met = slow + torch.bmm(A, h.unsqueeze(-1)).squeeze(-1)
        h = torch.relu(F.layer_norm(met, (H,), p["norm_weight"], p["norm_shift"]))
    return h, A


def mamba(p, x, h, conv_state, ssm_state):
    """state-spaces/mamba, Mamba.step, its conv_state one step shorter."""
    x, z = F.linear(x, p["weight_ih"]).chunk(2, dim=-1)
    conv_state = torch.cat([conv_state, x.unsqueeze(-1)], -1)
    x = F.silu((conv_state * p["weight_conv"]).sum(-1) + p["shift_conv"])
    dt, b, c = F.linear(x, p["weight_u"]).split([2, 5, 5], -1)
    dt, A = F.softplus(F.linear(dt, p["weight_dt"]) + p["shift_dt"]), -torch.exp(p["log_a"])
    dA, dB = torch.exp(torch.einsum("bd,dn->bdn", dt, A)), torch.einsum("bd,bn->bdn", dt, b)
    ssm_state = ssm_state * dA + x.unsqueeze(-1) * dB
    y = (torch.einsum("bdn,bn->bd", ssm_state, c) + p["D"] * x) * F.silu(z)
    return F.linear(y, p["weight_ho"]), conv_state[..., 1:], ssm_state


def s4d(p, x, h, re, im):
    """The recurrence of state-spaces/s4, s4d.py, in complex numbers."""
    u, dt = F.linear(x, p["weight_ih"], p["bias"]), torch.exp(p["log_dt"])[:, None]
    A = torch.complex(-torch.exp(p["log_a"]), p["frequency"])
    s = torch.exp(A * dt) * torch.complex(re, im) + (torch.exp(A * dt) - 1) / A * u.unsqueeze(-1)
    return 2 * (torch.complex(p["C"][0], p["C"][1]) * s).sum(-1).real + p["D"] * u, s.real, s.imag


def bahdanau(p, x, h, *, memory, mask=None):
    query, keys = F.linear(h, p["weight_query"]), F.linear(memory, p["weight_memory"])
    e = torch.tanh(query.unsqueeze(1) + keys) @ p["weight_score"]
    e = e if mask is None else e.masked_fill(mask == 0, -torch.inf)
    c = torch.bmm(torch.softmax(e, -1).unsqueeze(1), memory).squeeze(1)
    of = lambda gate: [p[f"weight_{name}"].chunk(3)["zrn".index(gate)] for name in ("ih", "hh", "ch")]
    b = dict(zip("zrn", p["bias"].chunk(3)))
    gate = lambda name, h: sum(a @ W.T for a, W in zip((x, h, c), of(name))) + b[name]
    z, r = gate("z", h).sigmoid(), gate("r", h).sigmoid()
    return (torch.lerp(h, torch.tanh(gate("n", r * h)), z),)


def dot_attention(p, x, y, h, c, *, memory, mask=None):
    cell = torch.nn.LSTMCell(I + H, H, dtype=torch.float64)
    own = {
        "weight_ih": torch.cat([p["weight_ih"], p["weight_yh"]], 1), "weight_hh": p["weight_hh"],
        "bias_ih": p["bias"], "bias_hh": 0 * p["bias"],
    }  # fmt: skip
    h, c = torch.func.functional_call(cell, own, (torch.cat([x, y], 1), (h, c)))
    keys = memory @ p["weight_a"].T if "weight_a" in p else memory
    allowed = None if mask is None else (mask != 0).unsqueeze(1)
    context = F.scaled_dot_product_attention(h.unsqueeze(1), keys, memory, allowed, scale=1.0).squeeze(1)
    return torch.tanh(F.linear(torch.cat([context, h], 1), p["weight_cy"])), h, c


def hopfield(p, x, h, *, patterns=None):
    q = h + F.linear(x, p["weight_ih"], p["bias"])
    X = p["patterns"].expand(len(x), -1, -1) if patterns is None else patterns
    return (F.scaled_dot_product_attention(q.unsqueeze(1), X, X, scale=0.7).squeeze(1),)


def ret_net(p, x, h, state, position):
    """microsoft/torchscale, MultiScaleRetention, with neighbours as pairs and q and k turned by their position."""
    q, k, v, g = heads_of(p, x, 2, 4, 4, 3, 3)
    angle = 1.0 / (10000 ** torch.linspace(0, 1, 2, dtype=torch.float64)).repeat_interleave(2) * position
    rotate = lambda a: torch.stack((-a[..., 1::2], a[..., ::2]), -1).flatten(-2)
    neighbours = lambda a: a[..., [0, 2, 1, 3]]  # rows j and j + K / 2 side by side
    qr, kr = (a * angle.cos() + rotate(a) * angle.sin() for a in (neighbours(q), neighbours(k) * 4**-0.5))
    decay = (1 - 2 ** (-5 - torch.arange(2, dtype=torch.float64))).view(2, 1, 1)
    state = state * decay + kr.unsqueeze(-1) * v.unsqueeze(-2)
    o = F.rms_norm((qr.unsqueeze(-1) * state).sum(-2), (3,), eps=1e-6)
    return F.linear((F.silu(g) * o).flatten(1), p["weight_ho"]), state


MEMORY, MASKED = {"memory": (S, H)}, {"memory": (S, H), "mask": (S,)}
CASES = {
    "mLSTM": (lambda: cells.MLSTMCell(I, H, heads=2, key_size=4), mlstm, {}),
    "DeltaNet": (lambda: cells.DeltaNetCell(I, H, heads=2, key_size=4), delta_net, {}),
    "linear attention": (lambda: cells.LinearAttentionCell(I, H, heads=2, key_size=4), linear_attention, {}),
    "GLA": (lambda: cells.GLACell(I, H, heads=2, key_size=4, gate_rank=3), gla, {}),
    "fast weights": (lambda: cells.FastWeightsCell(I, H, inner=2), fast_weights, {}),
    "Mamba": (lambda: cells.MambaCell(I, H, state_size=5, rank=2), mamba, {}),
    "S4D": (lambda: cells.S4DCell(I, H, state_size=8), s4d, {}),
    "Bahdanau": (lambda: cells.BahdanauCell(I, H), bahdanau, MEMORY),
    "Bahdanau, masked": (lambda: cells.BahdanauCell(I, H), bahdanau, MASKED),
    "dot attention": (lambda: cells.DotAttentionCell(I, H), dot_attention, MEMORY),
    "dot attention, general, masked": (lambda: cells.DotAttentionCell(I, H, score="general"), dot_attention, MASKED),
    "Hopfield": (lambda: cells.HopfieldCell(I, H, stored=4, beta=0.7), hopfield, {}),
    "Hopfield, given": (lambda: cells.HopfieldCell(I, H, beta=0.7), hopfield, {"patterns": (S, H)}),
}


def arrays_of(cell, values):
    """x, initial states, what is given by name, and the parameters moved to where nothing is zero."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (T, B, I))
    states = [random.uniform(-1, 1, s.shape) for s in cell.begin(None, B)]
    if isinstance(cell, cells.LinearAttentionCell):
        states[2] = abs(states[2])  # sums of what is positive
    given = {name: random.uniform(-1, 1, (B, *shape)) for name, shape in values.items()}
    if "mask" in given:
        given["mask"] = (np.arange(S) < np.array([[2], [4], [1]])).astype(np.float64)
    parameters = {name: p.numpy() + random.uniform(-0.3, 0.3, p.shape) for name, p in cell.named_parameters()}
    return x, states, given, parameters


def in_torch(step, x, states, given, parameters, summed=None):
    """Outputs, final states, and the gradients of a weighed sum of the first results, or of all."""
    leaf = lambda array: torch.tensor(array, requires_grad=True)
    x, states, given = leaf(x), list(map(leaf, states)), {name: leaf(array) for name, array in given.items()}
    p, now, outputs = {name: leaf(array) for name, array in parameters.items()}, list(states), []
    for t in range(T):
        now = step(p, x[t], *now, **given)
        outputs.append(now[0])
    found = [torch.stack(outputs), *now]
    leaves = [x, *states, *(a for name, a in given.items() if name != "mask"), *p.values()]
    random = np.random.default_rng(1)
    loss = sum((v * torch.tensor(random.uniform(-1, 1, tuple(v.shape)))).sum() for v in found[:summed])
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    dxs = [torch.zeros_like(v) if d is None else d for v, d in zip(leaves, gradients)]
    return [v.detach().numpy() for v in (*found, *dxs)]


def ours(cell, x, states, given, parameters, summed=None):
    cell.load_state_dict(parameters)
    leaf = lambda array: tg.tensor(array, requires_grad=True)
    x, states, given = leaf(x), list(map(leaf, states)), {name: leaf(array) for name, array in given.items()}
    y, final = tg.nn.Recurrent(cell, fused="never")(x, tuple(states), **given)
    found = [y, *(final if isinstance(final, tuple) else (final,))]
    leaves = [x, *states, *(a for name, a in given.items() if name != "mask"), *cell.parameters()]
    random = np.random.default_rng(1)
    loss = sum((v * random.uniform(-1, 1, v.shape)).sum() for v in found[:summed])
    gradients = tg.grad(loss, leaves, allow_unused=True)
    dxs = [tg.zeros_like(v) if d is None else d for v, d in zip(leaves, gradients)]
    return [v.numpy() for v in (*found, *dxs)]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1.0, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("name", CASES)
def test_cell(name):
    """The tape; the kernels are compared with it elsewhere."""
    make, step, values = CASES[name]
    cell = make().double()
    given = arrays_of(cell, values)
    with torch.random.fork_rng():  # nn.LSTMCell draws weights, which are not used
        assert_close(ours(cell, *given), in_torch(step, *given))
    TALLY["published cells"]["compared"] += 1


def test_retention():
    """The authors turn q and k by their position, where we turn the state: it differs, and what comes out does not."""
    cell, position = cells.RetNetCell(I, H, heads=2, key_size=4, dtype=np.float64), iter(range(T))
    x, states, given, parameters = arrays_of(cell, {})
    states = [0 * state for state in states]
    step = lambda p, x, *states: ret_net(p, x, *states, next(position))
    expected = in_torch(step, x, states, given, parameters, summed=1)
    found = ours(cell, x, states, given, parameters, summed=1)
    for results in (expected, found):
        del results[2], results[4]  # the last state, and what would reach a first one
    assert_close(found, expected)


def test_selective_scan():
    """state-spaces/mamba, selective_scan_ref, over a whole sequence, behind its causal convolution."""
    cell = cells.MambaCell(I, H, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((T, B, I))
    y, (_, _, last) = tg.nn.Recurrent(cell, fused="never")(x)
    p = {name: torch.tensor(value) for name, value in cell.state_dict().items()}
    u, z = F.linear(torch.tensor(x).permute(1, 0, 2), p["weight_ih"]).mT.chunk(2, 1)  # [B, E, T]
    u = F.silu(F.conv1d(u, p["weight_conv"].unsqueeze(1), p["shift_conv"], padding=3, groups=len(p["D"]))[..., :T])
    dt, b, c = torch.einsum("ke,bet->bkt", p["weight_u"], u).split([1, 16, 16], 1)
    delta = F.softplus(torch.einsum("er,brt->bet", p["weight_dt"], dt) + p["shift_dt"][:, None])
    A, state, ys = -torch.exp(p["log_a"]), torch.zeros(B, 2 * H, 16, dtype=torch.float64), []
    dA, dBu = torch.exp(torch.einsum("bdl,dn->bdln", delta, A)), torch.einsum("bdl,bnl,bdl->bdln", delta, b, u)
    for i in range(T):
        state = dA[:, :, i] * state + dBu[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", state, c[:, :, i]))
    out = (torch.stack(ys, 2) + u * p["D"][:, None]) * F.silu(z)
    expected = torch.einsum("he,bet->tbh", p["weight_ho"], out)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(last.numpy(), state.numpy(), rtol=0, atol=1e-10)
