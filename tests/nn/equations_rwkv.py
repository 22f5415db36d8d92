"""The equations of RWKV's time mixing, without the running maximum: a and b are what they are times exp(p)."""

import numpy as np
from nn.cases import B, case, sigmoid

from tinygrad_rnn.nn import cells

POSITIVE = {"b": np.random.default_rng(3).uniform(0.5, 1.5, (B, 1))}


@case("RWKV", cells.RWKVCell, POSITIVE)
def rwkv(p, x, h, a, b, pp, shifted):
    n = h.shape[1]
    k, v, r = (
        (p[f"mix_{letter}"] * x) @ p[f"weight_{letter}"].T + shifted[:, i * n : (i + 1) * n]
        for i, letter in enumerate("kvr")
    )
    num, den = a * np.exp(pp), b * np.exp(pp)
    bonus = np.exp(p["u"] + k)
    h = sigmoid(r) * (num + bonus * v) / (den + bonus)
    fade = np.exp(-np.exp(p["decay"]))
    num, den = fade * num + np.exp(k) * v, fade * den + np.exp(k)
    pp = np.maximum(pp - np.exp(p["decay"]), k)
    shifted = np.concatenate([((1 - p[f"mix_{c}"]) * x) @ p[f"weight_{c}"].T for c in "kvr"], 1)
    return h, num / np.exp(pp), den / np.exp(pp), pp, shifted
