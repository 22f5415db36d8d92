"""The equations of cells with fewer gates, gate by gate, after papers and authors' code."""

import numpy as np
from nn.cases import case, relu, sigmoid

from tinygrad_rnn.nn import cells


def janet(beta):
    def step(p, x, h):
        (W_f, W_n), (U_f, U_n), (b_f, b_n) = (np.split(p[k], 2) for k in ("weight_ih", "weight_hh", "bias"))
        s = x @ W_f.T + h @ U_f.T + b_f
        return (sigmoid(s) * h + (1 - sigmoid(s - beta)) * np.tanh(x @ W_n.T + h @ U_n.T + b_n),)

    return step


case("JANET", cells.JANETCell)(janet(1))
case("JANET, beta 0", lambda I, H, **o: cells.JANETCell(I, H, beta=0.0, t_max=9, **o))(janet(0))


def star(beta):
    def step(p, x, h):
        (W_f, W_n), (b_f, b_n) = np.split(p["weight_ih"], 2), np.split(p["bias"], 2)
        f = x @ W_f.T + h @ p["weight_hh"].T + b_f
        j = x @ W_n.T + b_n
        return (np.tanh(sigmoid(f) * h + (1 - sigmoid(f - beta)) * np.tanh(j)),)

    return step


case("STAR", cells.STARCell)(star(1))
case("STAR, of the paper", lambda I, H, **o: cells.STARCell(I, H, beta=0, **o))(star(0))


@case("LightRU", cells.LightRUCell)
def light_ru(p, x, h):
    W_f, W_n = np.split(p["weight_ih"], 2)
    f = sigmoid(W_f @ x.T + p["weight_hh"] @ h.T + p["bias"][:, None]).T
    return ((1 - f) * h + f * np.tanh(x @ W_n.T),)


@case("ATR", cells.ATRCell)
def atr(p, x, h):
    P = x @ p["weight_ih"].T + p["bias_ih"]
    Q = h @ p["weight_hh"].T + p["bias_hh"]
    return (sigmoid(P + Q) * P + sigmoid(P - Q) * h,)


@case("CFN", cells.CFNCell)
def cfn(p, x, h):
    V_theta, V_eta, W = np.split(p["weight_ih"], 3)
    U_theta, U_eta = np.split(p["weight_hh"], 2)
    b_theta, b_eta = np.split(p["bias"], 2)
    theta = sigmoid(h @ U_theta.T + x @ V_theta.T + b_theta)
    eta = sigmoid(h @ U_eta.T + x @ V_eta.T + b_eta)
    return (theta * np.tanh(h) + eta * np.tanh(x @ W.T),)


@case("BRC", cells.BRCCell)
@case("nBRC", cells.NBRCCell)
def brc(p, x, h):
    k_r, k_z, k_h = np.split(p["weight_ih"], 3)
    b_r, b_z = np.split(p["bias"], 2)
    if "weight_v" in p:
        m_r, m_z = (v * h for v in np.split(p["weight_v"], 2))
    else:
        m_r, m_z = (h @ U.T for U in np.split(p["weight_hh"], 2))
    r = np.tanh(x @ k_r.T + m_r + b_r) + 1
    z = sigmoid(x @ k_z.T + m_z + b_z)
    return (z * h + (1 - z) * np.tanh(x @ k_h.T + r * h),)


def intersection(function):
    def step(p, x, y, h):
        i = x @ p["weight_in"].T + p["bias_in"] if "weight_in" in p else x
        blocks = zip(*(np.split(p[k], 4) for k in ("weight_ih", "weight_hh", "bias")))
        g_h, n, g_y, y = (i @ W.T + h @ U.T + b for W, U, b in blocks)
        g_h, g_y = sigmoid(g_h), sigmoid(g_y)
        return g_y * i + (1 - g_y) * function(y), g_h * h + (1 - g_h) * np.tanh(n)

    return step


case("+RNN", cells.IntersectionRNNCell)(intersection(relu))
case("+RNN, I = H, tanh", lambda I, H, **o: cells.IntersectionRNNCell(I, H, nonlinearity="tanh", **o), same=True)(
    intersection(np.tanh)
)
