"""The equations of cells that are a step of a differential equation."""

import numpy as np
from nn.cases import case, sigmoid

from tinygrad_rnn.nn import cells


@case("coRNN", lambda I, H, **o: cells.CoRNNCell(I, H, dt=0.3, gamma=1.5, epsilon=0.7, **o))
def cornn(p, x, y, z):
    """The authors' one linear layer over x, z and y."""
    W = np.concatenate([p["weight_ih"], p["weight_zh"], p["weight_hh"]], 1)
    force = np.tanh(np.concatenate([x, z, y], 1) @ W.T + p.get("bias", 0))
    z = z + 0.3 * (force - 1.5 * y - 0.7 * z)
    return y + 0.3 * z, z


@case("UnICORNN", cells.UnICORNNCell)
def unicornn(p, x, y, z):
    """The authors' kernel, number by number."""
    dt, alpha, y, z = 0.19, 30.65, y.copy(), z.copy()
    u = x @ p["weight_ih"].T + p.get("bias", 0)
    for b, j in np.ndindex(y.shape):
        s = 1 / (1 + np.exp(-p["weight_c"][j]))
        z[b, j] -= dt * s * (np.tanh(y[b, j] * p["weight_w"][j] + u[b, j]) + alpha * y[b, j])
        y[b, j] += dt * s * z[b, j]
    return y, z


def flow(p, h, gamma):
    W = p["weight_hh"]
    return h @ (W - W.T - gamma * np.eye(len(W))).T


@case("AntisymmetricRNN", lambda I, H, **o: cells.AntisymmetricRNNCell(I, H, epsilon=0.2, gamma=0.3, **o))
def antisymmetric(p, x, h):
    return (h + 0.2 * np.tanh(flow(p, h, 0.3) + x @ p["weight_ih"].T + p.get("bias", 0)),)


@case("AntisymmetricRNN, gated", lambda I, H, **o: cells.GatedAntisymmetricRNNCell(I, H, epsilon=0.2, gamma=0.3, **o))
def gated_antisymmetric(p, x, h):
    V_z, V_h = np.split(p["weight_ih"], 2)
    b_z, b_h = np.split(p["bias"], 2) if "bias" in p else (0, 0)
    z = sigmoid(flow(p, h, 0.3) + x @ V_z.T + b_z)
    return (h + 0.2 * z * np.tanh(flow(p, h, 0.3) + x @ V_h.T + b_h),)
