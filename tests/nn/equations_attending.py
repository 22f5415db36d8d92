"""The equations of cells that attend to what is given, vector by vector."""

import numpy as np
from nn.cases import Gates, case, rows, sigmoid

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


def dot_attention(general):
    def step(p, x, y, h, c, memory):
        both = p | {"weight_ih": np.hstack([p["weight_ih"], p["weight_yh"]])}
        gate, xy = Gates(both, "ifgo"), np.hstack([x, y])
        c = sigmoid(gate("f", xy, h)) * c + sigmoid(gate("i", xy, h)) * np.tanh(gate("g", xy, h))
        h = sigmoid(gate("o", xy, h)) * np.tanh(c)
        y = np.empty_like(y)
        for b in range(len(x)):
            e = [h[b] @ (p["weight_a"] @ m if general else m) for m in memory[b]]
            context = sum(weight * m for weight, m in zip(softmax(e), memory[b]))
            y[b] = np.tanh(p["weight_cy"] @ np.concatenate([context, h[b]]))
        return y, h, c

    return step


case("dot attention", cells.DotAttentionCell)(dot_attention(False))
general = lambda I, H, **o: cells.DotAttentionCell(I, H, score="general", **o)
case("dot attention, general", general)(dot_attention(True))


def hopfield(beta):
    def step(p, x, h):
        q = h + x @ p["weight_ih"].T + p["bias"]
        new = np.empty_like(h)
        for b in range(len(x)):
            weights = softmax([beta * (pattern @ q[b]) for pattern in p["patterns"]])
            new[b] = sum(weight * pattern for weight, pattern in zip(weights, p["patterns"]))
        return (new,)

    return step


case("Hopfield", cells.HopfieldCell)(hopfield(6**-0.5))
case("Hopfield, beta", lambda I, H, **o: cells.HopfieldCell(I, H, stored=3, beta=2.0, **o))(hopfield(2.0))
