"""The equations of spiking units and of binarised gates, unit by unit and weight by weight."""

import math

import numpy as np
from nn.cases import case, sigmoid

from tinygrad_rnn.nn import cells

TIRED = {"b": np.random.default_rng(3).uniform(0, 0.3, (3, 1))}


def current(p, x, z, j):
    flows = x @ p["weight_ih"][j] + p["bias"][j]
    for k in range(z.shape[1]):
        if k != j:
            flows = flows + p["weight_hh"][j, k] * z[:, k]
    return flows


@case("LIF", lambda I, H, **o: cells.LIFCell(I, H, **{"bias": True, "tau": 3, "threshold": 0.4, **o}))
def lif(p, x, z, v):
    new_z, new_v, a = np.zeros_like(z), np.zeros_like(v), math.exp(-1 / 3)
    for j in range(z.shape[1]):
        new_v[:, j] = a * v[:, j] + (1 - a) * current(p, x, z, j) - 0.4 * z[:, j]
        new_z[:, j] = new_v[:, j] > 0.4
    return new_z, new_v


@case(
    "ALIF",
    lambda I, H, **o: cells.ALIFCell(I, H, **{"bias": True, "tau": 3, "threshold": 0.4, "tau_adaptation": 5, **o}),
    TIRED,
)
def alif(p, x, z, v, b):
    new_z, new_v, new_b = np.zeros_like(z), np.zeros_like(v), np.zeros_like(b)
    a, r = math.exp(-1 / 3), math.exp(-1 / 5)
    for j in range(z.shape[1]):
        new_b[:, j] = r * b[:, j] + (1 - r) * z[:, j]
        new_v[:, j] = a * v[:, j] + (1 - a) * current(p, x, z, j) - 0.4 * z[:, j]
        new_z[:, j] = new_v[:, j] > 0.4 + 1.6 * new_b[:, j]
    return new_z, new_v, new_b


@case("GRU, binary", cells.BinaryGRUCell)
def binary_gru(p, x, h):
    binary = {}
    for name in ("weight_ih", "weight_hh"):
        for gate, W in zip("rzn", np.split(p[name], 3)):
            scale = sum(abs(w) for w in W.ravel()) / W.size
            binary[name, gate] = np.array([[scale if w >= 0 else -scale for w in row] for row in W])
    b, c = (dict(zip("rzn", np.split(p[name], 3))) for name in ("bias_ih", "bias_hh"))
    from_x = {gate: x @ binary["weight_ih", gate].T + b[gate] for gate in "rzn"}
    from_h = {gate: h @ binary["weight_hh", gate].T + c[gate] for gate in "rzn"}
    r, z = sigmoid(from_x["r"] + from_h["r"]), sigmoid(from_x["z"] + from_h["z"])
    n = np.tanh(from_x["n"] + r * from_h["n"])
    return (n + z * (h - n),)
