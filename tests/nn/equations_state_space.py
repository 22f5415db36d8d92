"""The equations of state space models, with complex numbers where they have some."""

import numpy as np
from nn.cases import case, sigmoid

from tinygrad_rnn.nn import cells


def s4d(p, x, h, re, im):
    dt = np.exp(p["log_dt"])[:, None]
    A = -np.exp(p["log_a"]) + 1j * p["frequency"]
    u = x @ p["weight_ih"].T + p["bias"]
    s = np.exp(A * dt) * (re + 1j * im) + (np.exp(A * dt) - 1) / A * u[:, :, None]
    y = 2 * ((p["C"][0] + 1j * p["C"][1]) * s).sum(-1).real + p["D"] * u
    return y, s.real, s.imag


case("S4D, 4 numbers", lambda I, H, **o: cells.S4DCell(I, H, state_size=4, **o))(s4d)
case("S4D, 6 numbers", lambda I, H, **o: cells.S4DCell(I, H, state_size=6, **o))(s4d)


def mamba(N, R):
    def step(p, x, h, tail, s):
        E = len(p["D"])
        v, z = np.split(x @ p["weight_ih"].T, 2, 1)
        y, s = np.empty((len(x), E)), s.copy()
        window = np.concatenate([tail, v[:, :, None]], 2)
        for b in range(len(x)):
            u = np.array([window[b, e] @ p["weight_conv"][e] + p["shift_conv"][e] for e in range(E)])
            u = u * sigmoid(u)
            t, B, C = np.split(p["weight_u"] @ u, [R, R + N])
            dt = np.log1p(np.exp(p["weight_dt"] @ t + p["shift_dt"]))
            for e in range(E):
                for n in range(N):
                    s[b, e, n] = np.exp(-np.exp(p["log_a"][e, n]) * dt[e]) * s[b, e, n] + dt[e] * B[n] * u[e]
                y[b, e] = s[b, e] @ C + p["D"][e] * u[e]
        return (y * z * sigmoid(z)) @ p["weight_ho"].T, window[:, :, 1:], s

    return step


case("Mamba", cells.MambaCell)(mamba(16, 1))
few = lambda I, H, **o: cells.MambaCell(I, H, state_size=3, window=2, expand=1, rank=2, **o)
case("Mamba, 3 numbers", few)(mamba(3, 2))
