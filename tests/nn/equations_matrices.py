"""The equations of cells whose state is a matrix, head by head and number by number."""

import numpy as np
from nn.cases import case, layer_norm, relu, sigmoid

from tinygrad_rnn.nn import cells


def of_heads(p, x, heads, key_size, *more):
    """The parts of what x is mapped to, [B, heads, n] each: q, k, v, and others by how many numbers of a head."""
    a = x @ p["weight_ih"].T + p.get("bias", 0)
    sizes = [heads * key_size, heads * key_size, *(heads * n for n in more)]
    assert a.shape[1] == sum(sizes)
    return [part.reshape(len(x), heads, -1) for part in np.split(a, np.cumsum(sizes)[:-1], 1)]


def silu(a):
    return a * sigmoid(a)


def mlstm(heads, key_size):
    def step(p, x, h, C, n, m):
        """Without the stabiliser: C and n are what they are times exp(m)."""
        D = h.shape[1] // heads
        q, k, v, o, i, f = of_heads(p, x, heads, key_size, D, D, 1, 1)
        new = [np.empty_like(state) for state in (h, C, n, m)]
        for b in range(len(x)):
            for head in range(heads):
                at = b, head
                before, scale = m[b, head, 0], np.exp(m[b, head, 0])
                forget, let_in = sigmoid(f[b, head, 0]), np.exp(i[b, head, 0])
                key = k[at] / np.sqrt(key_size)
                memory = forget * scale * C[at] + let_in * np.outer(v[at], key)
                total = forget * scale * n[at] + let_in * key
                after = max(np.log(forget) + before, i[b, head, 0])
                # The authors' 1e-6 is added to what is divided by exp(m'), as the numbers of memory and total are.
                below = max(abs(total @ q[at]), 1) + 1e-6 * np.exp(after)
                new[0][b, head * D : (head + 1) * D] = sigmoid(o[at]) * (memory @ q[at]) / below
                new[1][at], new[2][at], new[3][at] = memory / np.exp(after), total / np.exp(after), after
        return new

    return step


def options(kind, **chosen):
    return lambda I, H, **o: kind(I, H, **chosen, **o)


def heads_of_two(kind, **chosen):
    """A cell with heads of two outputs each, or one head where that does not go."""
    return lambda I, H, **o: kind(I, H, heads=H // 2 if H % 2 == 0 else 1, **chosen, **o)


case("mLSTM", cells.MLSTMCell)(mlstm(1, 6))
case("mLSTM, 3 heads", heads_of_two(cells.MLSTMCell, key_size=5))(mlstm(3, 5))


def delta_net(heads, key_size):
    def step(p, x, h, S):
        D = h.shape[1] // heads
        q, k, v, beta = of_heads(p, x, heads, key_size, D, 1)
        h, S = np.empty_like(h), S.copy()
        for b in range(len(x)):
            for head in range(heads):
                query, key = silu(q[b, head]), silu(k[b, head])
                query, key = query / np.sqrt(query @ query + 1e-6), key / np.sqrt(key @ key + 1e-6)
                found = S[b, head] @ key
                S[b, head] += sigmoid(beta[b, head]) * np.outer(v[b, head] - found, key)
                h[b, head * D : (head + 1) * D] = S[b, head] @ query
        return h, S

    return step


case("DeltaNet", cells.DeltaNetCell)(delta_net(1, 6))
case("DeltaNet, 3 heads", heads_of_two(cells.DeltaNetCell, key_size=5))(delta_net(3, 5))


def linear_attention(heads, key_size):
    def step(p, x, h, S, z):
        D = h.shape[1] // heads
        q, k, v = of_heads(p, x, heads, key_size, D)
        h, S, z = np.empty_like(h), S.copy(), z.copy()
        for b in range(len(x)):
            for head in range(heads):
                query, key = (np.where(a > 0, a + 1, np.exp(a)) for a in (q[b, head], k[b, head]))
                S[b, head] += np.outer(key, v[b, head])
                z[b, head] += key
                h[b, head * D : (head + 1) * D] = query @ S[b, head] / (query @ z[b, head] + 1e-6)
        return h, S, z

    return step


# A sum of weights: one of any sign may come close to 0, and what is divided by it is any number.
SUMS = {"z": np.random.default_rng(3).uniform(0.5, 1.5, (3, 1, 1))}
case("linear attention", cells.LinearAttentionCell, SUMS)(linear_attention(1, 6))
case("linear attention, 3 heads", heads_of_two(cells.LinearAttentionCell, key_size=5), SUMS)(linear_attention(3, 5))


def ret_net(heads, key_size):
    def step(p, x, h, S):
        """Each pair of rows of a head is a complex number, which is turned back by its angle."""
        D, n = h.shape[1] // heads, key_size // 2
        q, k, v, g = of_heads(p, x, heads, key_size, D, D)
        angles = [10000 ** -(j / max(n - 1, 1)) for j in range(n)]
        y, S = np.empty_like(h), S.copy()
        for b in range(len(x)):
            for head in range(heads):
                for j, angle in enumerate(angles):
                    turned = (S[b, head, j] + 1j * S[b, head, j + n]) * np.exp(-1j * angle)
                    S[b, head, j], S[b, head, j + n] = turned.real, turned.imag
                S[b, head] *= 1 - 2.0 ** (-5 - head)
                S[b, head] += np.outer(k[b, head] / np.sqrt(key_size), v[b, head])
                o = q[b, head] @ S[b, head]
                o = o / np.sqrt(np.mean(o**2) + 1e-6)
                y[b, head * D : (head + 1) * D] = silu(g[b, head]) * o
        return y @ p["weight_ho"].T, S

    return step


case("RetNet", cells.RetNetCell)(ret_net(1, 6))
case("RetNet, 3 heads", heads_of_two(cells.RetNetCell, key_size=5))(ret_net(3, 5))


def gla(heads, key_size):
    def step(p, x, h, S):
        D = h.shape[1] // heads
        q, k, v, g = of_heads({"weight_ih": p["weight_ih"]}, x, heads, key_size, D, D)
        gate = x @ p["weight_down"].T @ p["weight_up"].T + p["bias_gate"]
        a = (sigmoid(gate) ** (1 / 16)).reshape(len(x), heads, key_size)
        y, S = np.empty_like(h), S.copy()
        for b in range(len(x)):
            for head in range(heads):
                for j in range(key_size):
                    S[b, head, j] = a[b, head, j] * S[b, head, j] + k[b, head, j] * v[b, head]
                o = q[b, head] / np.sqrt(key_size) @ S[b, head]
                o = p["weight_norm"] * o / np.sqrt(np.mean(o**2) + 1e-5)
                y[b, head * D : (head + 1) * D] = silu(g[b, head]) * o
        return y @ p["weight_ho"].T, S

    return step


case("GLA", cells.GLACell)(gla(1, 3))
case("GLA, 3 heads", heads_of_two(cells.GLACell, key_size=5, gate_rank=3))(gla(3, 5))


def fast_weights(inner, decay, rate):
    def step(p, x, h, A):
        A = np.stack([decay * A[b] + rate * np.outer(h[b], h[b]) for b in range(len(x))])
        slow = x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"]
        h = relu(slow)
        for _ in range(inner):
            met = slow + np.stack([A[b] @ h[b] for b in range(len(x))])
            h = relu(layer_norm(met, p["norm_weight"], p["norm_shift"]))
        return h, A

    return step


case("fast weights", cells.FastWeightsCell)(fast_weights(1, 0.95, 0.5))
case("fast weights, twice", options(cells.FastWeightsCell, inner=2, decay=0.8, rate=0.3))(fast_weights(2, 0.8, 0.3))
