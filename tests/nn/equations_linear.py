"""The equations of linear systems, in complex numbers."""

import numpy as np
from nn.cases import case

from tinygrad_rnn.nn import cells


def diagonal(of):
    def step(p, x, y, re, im):
        B, C = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
        eigenvalues, B, twice = of(p, B)
        s = eigenvalues * (re + 1j * im) + x @ B.T
        skip = p["D"] * x if p["D"].ndim == 1 else x @ p["D"].T
        return twice * (s @ C.T).real + skip, s.real, s.imag

    return step


def lru(p, B):
    eigenvalues = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    return eigenvalues, B * np.exp(p["gamma_log"])[:, None], 1


def s5(p, B):
    """A zero-order hold."""
    a, dt = p["lambda_re"] + 1j * p["lambda_im"], np.exp(p["log_step"])
    held = np.exp(a * dt)
    return held, (1 / a * (held - 1))[:, None] * B, 2


case("LRU", cells.LRUCell)(diagonal(lru))
case("LRU, as wide", lambda I, H, **o: cells.LRUCell(I, H, state_size=3, r_min=0.4, **o), same=True)(diagonal(lru))
case("S5", cells.S5Cell)(diagonal(s5))
case("S5, two blocks", lambda I, H, **o: cells.S5Cell(I, H, state_size=4, blocks=2, **o), same=True)(diagonal(s5))


@case("LMU", lambda I, H, **o: cells.LMUCell(I, H, order=5, theta=8, **o))
def lmu(p, x, h, m):
    """A and B by steps far shorter than 1 of the system that they come from."""
    order, theta, n = 5, 8, 2**40
    a, b = np.zeros((order, order)), np.zeros(order)
    for i in range(order):
        b[i] = (2 * i + 1) * (-1) ** i / theta
        for j in range(order):
            a[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1)) / theta
    step = np.zeros((order + 1, order + 1))
    step[:order, :order], step[:order, order] = a / n, b / n
    step = step + step @ step / 2  # without its 1, which would round it away
    for _ in range(40):
        step = 2 * step + step @ step
    u = x @ p["encoder_x"].T + h @ p["encoder_h"].T + m @ p["encoder_m"].T
    m = m @ (np.eye(order) + step[:order, :order]).T + u * step[:order, order]
    return np.tanh(x @ p["kernel_x"].T + h @ p["kernel_h"].T + m @ p["kernel_m"].T), m
