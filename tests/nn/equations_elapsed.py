"""The equations of cells of elapsed time, for which a step takes 1 where nobody says how long it takes."""

import numpy as np
from nn.cases import Gates, case, sigmoid

from tinygrad_rnn.nn import cells


def cfc(mode="default", layers=1):
    def step(p, x, h, elapsed=1.0):
        """The authors' lines over x and h side by side."""
        s = np.concatenate([x, h], 1) @ np.concatenate([p["weight_ih"], p["weight_hh"]], 1).T + p.get("bias", 0)
        for n in range(layers):
            name = f"backbone.{n}." if n < layers - 1 else "heads."
            s = 1.7159 * np.tanh(0.666 * s) @ p[name + "weight"].T + p.get(name + "bias", 0)
        if mode == "pure":
            return (-p["weight_A"] * np.exp(-elapsed * (np.abs(p["weight_tau"]) + np.abs(s))) * s + p["weight_A"],)
        f, g, a, b = np.split(s, 4, 1)
        t = sigmoid(a * elapsed + b)
        return (np.tanh(f) * (1 - t) + t * np.tanh(g) if mode == "default" else np.tanh(f) + t * np.tanh(g),)

    return step


case("CfC", lambda I, H, **o: cells.CfCCell(I, H, units=7, **o))(cfc())
case("CfC, no gate, two layers", lambda I, H, **o: cells.CfCCell(I, H, units=7, layers=2, mode="no_gate", **o))(
    cfc("no_gate", 2)
)
case("CfC, no backbone", lambda I, H, **o: cells.CfCCell(I, H, layers=0, **o))(cfc(layers=0))
case("CfC, pure", lambda I, H, **o: cells.CfCCell(I, H, units=7, mode="pure", **o))(cfc("pure"))


def softplus(a):
    return np.log1p(np.exp(a))


@case("LTC", lambda I, H, **o: cells.LTCCell(I, H, unfolds=o.pop("unfolds", 2), **o))
def ltc(p, x, v, elapsed=1.0, unfolds=2):
    """The authors' solver, synapse by synapse."""
    x = x * p["weight_x"] + p.get("bias_x", 0)

    def through(kind, source, j):
        G = [
            softplus(p[kind + "w"][i, j]) * sigmoid(p[kind + "sigma"][i, j] * (source[:, i] - p[kind + "mu"][i, j]))
            for i in range(source.shape[1])
        ]
        return sum(G[i] * p[kind + "erev"][i, j] for i in range(len(G))), sum(G)

    cm = softplus(p["cm"]) / (elapsed / unfolds)
    for _ in range(unfolds):
        columns = []
        for j in range(v.shape[1]):
            (up, down), (sensed_up, sensed_down) = through("", v, j), through("sensory_", x, j)
            leak = softplus(p["gleak"][j])
            c = cm[..., j]
            columns.append(
                (c * v[:, j] + leak * p["vleak"][j] + up + sensed_up) / (c + leak + down + sensed_down + 1e-8)
            )
        v = np.stack(columns, 1)
    return (v,)


@case("LSTM, phased", lambda I, H, **o: cells.PhasedLSTMCell(I, H, periods=(0.5, 1.5), ratio=0.4, leak=0.1, **o))
def phased_lstm(p, x, h, c, time, elapsed=1.0, training=True):
    """The authors' switches, in time rather than in phase."""
    g = Gates(p, "ifgo")
    p_i, p_f, p_o = np.split(p["peephole"], 3)
    new = sigmoid(g("f", x, h) + p_f * c) * c + sigmoid(g("i", x, h) + p_i * c) * np.tanh(g("g", x, h))
    out = sigmoid(g("o", x, h) + p_o * new) * np.tanh(new)
    time = time + elapsed
    period = np.abs(p["period"])
    now, middle, end = np.mod(time + p["shift"], period), 0.5 * 0.4 * period, 0.4 * period
    slope = 0.1 if training else 0.0
    k = np.where(now <= middle, now / middle, np.where(now <= end, (end - now) / middle, slope * now / period))
    return k * out + (1 - k) * h, k * new + (1 - k) * c, time
