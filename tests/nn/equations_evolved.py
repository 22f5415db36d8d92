"""The equations of cells found by search: the paper's MUT1 to MUT3, and TensorFlow's NASCell layer by layer."""

import numpy as np
from nn.cases import case, relu, sigmoid

from tinygrad_rnn.nn import cells


@case("MUT1", cells.MUT1Cell)
@case("MUT1, I = H", cells.MUT1Cell, same=True)
def mut1(p, x, h):
    n = h.shape[1]
    W_xz, W_xr = p["weight_ih"][:n], p["weight_ih"][n : 2 * n]
    W_hr, W_hh = np.split(p["weight_hh"], 2)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    z = sigmoid(x @ W_xz.T + b_z)
    r = sigmoid(x @ W_xr.T + h @ W_hr.T + b_r)
    wide = x if len(p["weight_ih"]) == 2 * n else x @ p["weight_ih"][2 * n :].T
    return (np.tanh((r * h) @ W_hh.T + np.tanh(wide) + b_h) * z + h * (1 - z),)


@case("MUT2", cells.MUT2Cell)
@case("MUT2, I = H", cells.MUT2Cell, same=True)
def mut2(p, x, h):
    n = h.shape[1]
    W_xz, W_xh = p["weight_ih"][:n], p["weight_ih"][n : 2 * n]
    W_hz, W_hr, W_hh = np.split(p["weight_hh"], 3)
    b_z, b_r, b_h = np.split(p["bias"], 3)
    z = sigmoid(x @ W_xz.T + h @ W_hz.T + b_z)
    wide = x if len(p["weight_ih"]) == 2 * n else x @ p["weight_ih"][2 * n :].T
    r = sigmoid(wide + h @ W_hr.T + b_r)
    return (np.tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z),)


@case("MUT3", cells.MUT3Cell)
def mut3(p, x, h):
    (W_xz, W_xr, W_xh), (W_hz, W_hr, W_hh), (b_z, b_r, b_h) = (
        np.split(p[k], 3) for k in ("weight_ih", "weight_hh", "bias")
    )
    z = sigmoid(x @ W_xz.T + np.tanh(h) @ W_hz.T + b_z)
    r = sigmoid(x @ W_xr.T + h @ W_hr.T + b_r)
    return (np.tanh((r * h) @ W_hh.T + x @ W_xh.T + b_h) * z + h * (1 - z),)


@case("NAS", cells.NASCell)
def nas(p, x, h, c):
    i, m = (np.split(a, 8, 1) for a in (x @ p["weight_ih"].T, h @ p["weight_hh"].T + p["bias"]))
    functions = [sigmoid, relu, sigmoid, relu, np.tanh, sigmoid, np.tanh, sigmoid]
    layer_1 = [f(i[k] * m[k] if k == 3 else i[k] + m[k]) for k, f in enumerate(functions)]
    layer_2 = [
        np.tanh(layer_1[0] * layer_1[1]), np.tanh(layer_1[2] + layer_1[3]),
        np.tanh(layer_1[4] * layer_1[5]), sigmoid(layer_1[6] + layer_1[7]),
    ]  # fmt: skip
    c = np.tanh(layer_2[0] + c) * layer_2[1]
    return np.tanh(c * np.tanh(layer_2[2] + layer_2[3])), c
