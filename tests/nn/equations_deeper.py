"""The equations of cells with more inside a step, after their authors' code, loop by loop."""

import numpy as np
from nn.cases import case, sigmoid

from tinygrad_rnn.nn import cells


@case("RHN", cells.RHNCell)
@case("RHN, one layer", lambda I, H, **o: cells.RHNCell(I, H, depth=1, **o))
def rhn(p, x, s):
    n = s.shape[1]
    for layer in range(len(p["bias"]) // (2 * n)):
        rows_h = slice(2 * layer * n, (2 * layer + 1) * n)
        rows_t = slice((2 * layer + 1) * n, (2 * layer + 2) * n)
        h, t = (s @ p["weight_hh"][rows].T + p["bias"][rows] for rows in (rows_h, rows_t))
        if layer == 0:
            h, t = h + x @ p["weight_ih"][:n].T, t + x @ p["weight_ih"][n:].T
        s = (np.tanh(h) - s) * sigmoid(t) + s
    return (s,)


def nested(first):
    def step(p, x, h, *cs, prefix="", activation=first):
        W, U, b = (p[prefix + key] for key in ("weight_ih", "weight_hh", "bias"))
        i, f, j, o = np.split(x @ W.T + h @ U.T + b, 4, 1)
        inner_input, inner_hidden = sigmoid(i) * activation(j), sigmoid(f) * cs[0]
        if len(cs) == 1:
            new = (inner_hidden + inner_input,)
        else:
            new = step(p, inner_input, inner_hidden, *cs[1:], prefix=f"{prefix}inner.", activation=np.tanh)
        return sigmoid(o) * np.tanh(new[0]), *new

    return step


case("Nested LSTM", cells.NestedLSTMCell)(nested(np.copy))
case("Nested LSTM, three, tanh", lambda I, H, **o: cells.NestedLSTMCell(I, H, depth=3, nonlinearity="tanh", **o))(
    nested(np.tanh)
)


def normalised(p, prefix, name, a):
    """Supercell's: epsilon 1e-3."""
    mean = a.mean(1, keepdims=True)
    variance = ((a - mean) ** 2).mean(1, keepdims=True)
    return p[f"{prefix}norm_{name}.weight"] * (a - mean) / np.sqrt(variance + 1e-3) + p[f"{prefix}norm_{name}.bias"]


def gate_norm_lstm(p, prefix, gates, c):
    i, f, g, o = (normalised(p, prefix, name, a) for name, a in zip("ifgo", gates))
    c = c * sigmoid(f) + sigmoid(i) * np.tanh(g)
    return np.tanh(normalised(p, prefix, "c", c)) * sigmoid(o), c


@case("HyperLSTM", lambda I, H, **o: cells.HyperLSTMCell(I, H, hyper_size=2, embedding_size=2, **o))
def hyper_lstm(p, x, h, c, hyper_h, hyper_c):
    a = np.concatenate([x, h], 1) @ p["hyper.weight_ih"].T + hyper_h @ p["hyper.weight_hh"].T + p["hyper.bias"]
    hyper_h, hyper_c = gate_norm_lstm(p, "hyper.", np.split(a, 4, 1), hyper_c)

    def scale(k):
        z = hyper_h @ np.split(p["weight_z"], 8)[k].T + np.split(p["offset"], 8)[k]
        return z @ np.split(p["weight_d"], 8)[k].T

    gates = []
    for gate in range(4):
        W, U, b, W_zb, W_db = (
            np.split(p[key], 4)[gate] for key in ("weight_ih", "weight_hh", "bias", "weight_zb", "weight_db")
        )
        scaled = scale(gate) * (x @ W.T) + scale(4 + gate) * (h @ U.T)
        gates.append(scaled + (b + hyper_h @ W_zb.T @ W_db.T))
    return *gate_norm_lstm(p, "", gates, c), hyper_h, hyper_c


def cumax(a):
    e = np.exp(a - a.max(1, keepdims=True))
    return np.cumsum(e / e.sum(1, keepdims=True), 1)


@case("ON-LSTM", cells.ONLSTMCell)
@case("ON-LSTM, chunks", lambda I, H, **o: cells.ONLSTMCell(I, H, chunk_size=2 if H % 2 == 0 else 3, **o))
def on_lstm(p, x, h, c):
    """Unit by unit."""
    size = h.shape[1] // (len(p["bias_m"]) // 2)
    i, f, g, o = np.split(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4, 1)
    cin, cforget = np.split(x @ p["weight_im"].T + h @ p["weight_hm"].T + p["bias_m"], 2, 1)
    cin, cforget = 1 - cumax(cin), cumax(cforget)
    new = c.copy()
    for unit in range(h.shape[1]):
        master_f, master_i = cforget[:, unit // size], cin[:, unit // size]
        overlap = master_f * master_i
        forget = sigmoid(f[:, unit]) * overlap + (master_f - overlap)
        write = sigmoid(i[:, unit]) * overlap + (master_i - overlap)
        new[:, unit] = forget * c[:, unit] + write * np.tanh(g[:, unit])
    return sigmoid(o) * np.tanh(new), new
