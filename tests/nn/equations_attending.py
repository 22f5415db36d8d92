"""The equations of cells that attend to what is given, vector by vector."""

import numpy as np
from nn.cases import case, rows, sigmoid

from tinygrad_rnn.nn import cells


def softmax(scores):
    e = np.exp(scores - np.max(scores))
    return e / e.sum()


@case("Bahdanau", cells.BahdanauCell)
def bahdanau(p, x, h, memory):
    c = np.zeros((len(x), memory.shape[2]))
    for b in range(len(x)):
        query = p["weight_query"] @ h[b]
        e = [p["weight_score"] @ np.tanh(query + p["weight_memory"] @ m) for m in memory[b]]
        for weight, m in zip(softmax(e), memory[b]):
            c[b] += weight * m
    W, U, C = (dict(zip("zrn", rows(p, f"weight_{name}", *"zrn", order="zrn"))) for name in ("ih", "hh", "ch"))
    bias = dict(zip("zrn", rows(p, "bias", *"zrn", order="zrn")))
    z, r = (sigmoid(x @ W[g].T + h @ U[g].T + c @ C[g].T + bias[g]) for g in "zr")
    n = np.tanh(x @ W["n"].T + (r * h) @ U["n"].T + c @ C["n"].T + bias["n"])
    return ((1 - z) * h + z * n,)
