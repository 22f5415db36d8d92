"""The equations of cells whose state is a matrix, head by head and number by number."""

import numpy as np
from nn.cases import case, sigmoid

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
