"""Published cells, each in the lines of its paper: matrix memories, heads, attention over given states.

The steps know names only that PyTorch has too, so that `torch_oracle/torch_papers.py` runs the same lines there.
"""

import numpy as np

import tinygrad_rnn as tg

F = tg.nn.functional
I, D, N, S = 3, 4, 3, 5  # inputs, rows and columns of a memory, vectors that are given


class Paper(tg.nn.Cell):
    """What the cells have in common.

    Attributes:
        weights, states, values: inner shapes by name: of parameters, of states, and of what holds for a sequence.
        positive: states that are weights of a mean.
    """

    input_size = I
    weights: dict[str, tuple[int, ...]] = {}
    states: dict[str, tuple[int, ...]] = {}
    values: dict[str, tuple[int, ...]] = {}
    positive: tuple[str, ...] = ()

    def __init__(self, dtype=np.float64):
        random = np.random.default_rng(0)
        for name, shape in self.weights.items():
            setattr(self, name, tg.nn.Parameter((0.6 * random.standard_normal(shape)).astype(dtype)))

    def initial_state(self, batch_size):
        dtype = next(self.parameters()).dtype
        starts = [
            (tg.ones if name in self.positive else tg.zeros)(batch_size, *shape, dtype=dtype)
            for name, shape in self.states.items()
        ]
        return tuple(starts) if len(starts) > 1 else starts[0]


class MLSTM(Paper):
    """mLSTM (Beck et al., 2024), equations 19 to 27: exponential gates, of which m keeps the logarithm in bounds."""

    weights = dict(Wq=(I, N), Wk=(I, N), Wv=(I, D), Wo=(I, D), wi=(I,), wf=(I,), bo=(D,))
    states = dict(h=(D,), C=(D, N), n=(N,), m=())

    def step(self, x, h, C, n, m):
        q, k, v = x @ self.Wq, (x @ self.Wk) / N**0.5, x @ self.Wv
        log_i, log_f = x @ self.wi, -F.softplus(-(x @ self.wf))
        m_new = tg.maximum(log_f + m, log_i)
        i, f = tg.exp(log_i - m_new), tg.exp(log_f + m - m_new)
        C = f[:, None, None] * C + i[:, None, None] * v.unsqueeze(-1) * k.unsqueeze(-2)
        n = f[:, None] * n + i[:, None] * k
        bound = tg.maximum(tg.abs((n * q).sum(-1)), tg.exp(-m_new))
        h = tg.sigmoid(x @ self.Wo + self.bo) * (C @ q.unsqueeze(-1)).squeeze(-1) / bound.unsqueeze(-1)
        return h, C, n, m_new


class HeadsOfMLSTM(Paper):
    """The same with two heads, which share a norm at the end; the state goes back in."""

    heads = 2
    weights = dict(
        Wq=(I, 2 * N), Wk=(I, 2 * N), Wv=(I, 2 * D), Wi=(I, 2), Wf=(I, 2), bf=(2,), U=(2 * D, 2 * D), g=(2 * D,)
    )  # fmt: skip
    states = dict(h=(2 * D,), C=(2, D, N), n=(2, N), m=(2,))

    def step(self, x, h, C, n, m):
        split = lambda a: a.reshape(a.shape[0], self.heads, -1)
        q, k, v = split(x @ self.Wq), split(x @ self.Wk) * N**-0.5, split(x @ self.Wv)
        log_i, log_f = x @ self.Wi, x @ self.Wf + self.bf
        m_new = tg.maximum(log_f + m, log_i)
        i, f = tg.exp(log_i - m_new), tg.exp(log_f + m - m_new)
        C = f[..., None, None] * C + i[..., None, None] * tg.einsum("bhd,bhn->bhdn", v, k)
        n = f[..., None] * n + i[..., None] * k
        bound = tg.maximum(tg.abs(tg.einsum("bhn,bhn->bh", n, q)), tg.exp(-m_new))
        y = tg.einsum("bhdn,bhn->bhd", C, q) / bound[..., None]
        y = (y - y.mean(-1, keepdim=True)) * tg.rsqrt(y.var(-1, correction=0, keepdim=True) + 0.1)
        return self.g * y.flatten(1) * tg.sigmoid(h @ self.U), C, n, m_new


class DeltaNet(Paper):
    """The delta rule (Schlag et al., 2021; Yang et al., 2024): what a key finds is moved towards the new value."""

    weights = dict(Wq=(I, N), Wk=(I, N), Wv=(I, D), wb=(I, 1))
    states = dict(o=(D,), S=(D, N))

    def step(self, x, o, S):
        q, k, v, beta = x @ self.Wq, F.silu(x @ self.Wk), x @ self.Wv, tg.sigmoid(x @ self.wb)
        k = k / tg.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        u = beta * (v - tg.einsum("bdn,bn->bd", S, k))
        S = S + tg.einsum("bd,bn->bdn", u, k)
        return tg.einsum("bdn,bn->bd", S, q), S


class S6(Paper):
    """The selective scan of Mamba (Gu and Dao, 2023), algorithm 2, with the step of its discretisation."""

    input_size = D
    weights = dict(A=(D, N), WB=(D, N), WC=(D, N), W1=(D, 1), W2=(1, D), b=(D,), skip=(D,))
    states = dict(y=(D,), h=(D, N))

    def step(self, x, y, h):
        delta = F.softplus(x @ self.W1 @ self.W2 + self.b)
        B, C = x @ self.WB, x @ self.WC
        A_bar = tg.exp(delta.unsqueeze(-1) * -tg.exp(self.A))
        h = A_bar * h + (delta * x).unsqueeze(-1) * B.unsqueeze(1)
        return tg.einsum("bdn,bn->bd", h, C) + self.skip * x, h


class Hopfield(Paper):
    """Modern Hopfield networks (Ramsauer et al., 2020), equation 3, twice: a state is drawn to given patterns."""

    weights = dict(W=(I, D), beta=())
    states = dict(xi=(D,))
    values = dict(X=(S, D))

    def step(self, x, xi, *, X):
        xi = xi + x @ self.W
        for _ in range(2):
            p = tg.softmax(self.beta * (X @ xi.unsqueeze(-1)).squeeze(-1), -1)
            xi = (X.mT @ p.unsqueeze(-1)).squeeze(-1)
        return xi


class Bahdanau(Paper):
    """The decoder of Bahdanau et al. (2014), appendix A.2: a gated unit that attends to states of an encoder."""

    weights = dict(
        W=(I, D), Wz=(I, D), Wr=(I, D), U=(D, D), Uz=(D, D), Ur=(D, D), C=(N, D), Cz=(N, D), Cr=(N, D),
        Wa=(D, 2), Ua=(N, 2), va=(2,),
    )  # fmt: skip
    states = dict(s=(D,))
    values = dict(memory=(S, N))

    def step(self, x, s, *, memory):
        e = tg.tanh((s @ self.Wa).unsqueeze(1) + memory @ self.Ua) @ self.va
        alpha = tg.softmax(e, -1)
        c = tg.einsum("bs,bse->be", alpha, memory)
        z = tg.sigmoid(x @ self.Wz + s @ self.Uz + c @ self.Cz)
        r = tg.sigmoid(x @ self.Wr + s @ self.Ur + c @ self.Cr)
        return (1 - z) * s + z * tg.tanh(x @ self.W + (r * s) @ self.U + c @ self.C)


class LinearAttention(Paper):
    """Transformers are RNNs (Katharopoulos et al., 2020), equations 16 to 20."""

    weights = dict(WQ=(I, N), WK=(I, N), WV=(I, D))
    states = dict(y=(D,), s=(N, D), z=(N,))

    def step(self, x, y, s, z):
        phi = lambda a: F.elu(a) + 1
        q, k, v = phi(x @ self.WQ), phi(x @ self.WK), x @ self.WV
        s, z = s + k.unsqueeze(-1) * v.unsqueeze(1), z + k
        y = (q.unsqueeze(1) @ s)[:, 0] / ((q * z).sum(-1, keepdim=True) + 1e-6)
        return y, s, z


class RetNet(Paper):
    """Retention of several scales (Sun et al., 2023), equations 5 and 8: each head forgets at its own rate."""

    gamma = 1 - 2.0 ** (-1 - np.arange(2)).reshape(2, 1, 1)
    weights = dict(WQ=(I, 2, N), WK=(I, 2, N), WV=(I, 2, D), WG=(I, 2 * D), WO=(2 * D, 2 * D))
    states = dict(y=(2 * D,), S=(2, N, D))

    def step(self, x, y, S):
        q, k, v = (tg.einsum("bi,ihn->bhn", x, W) for W in (self.WQ, self.WK, self.WV))
        S = self.gamma * S + k[..., None] * v[..., None, :]
        o = (q.unsqueeze(-2) @ S).squeeze(-2)
        o = (o - o.mean(-1, keepdim=True)) / tg.sqrt(o.var(-1, correction=0, keepdim=True) + 1e-5)
        return (F.silu(x @ self.WG) * o.reshape(o.shape[0], -1)) @ self.WO, S


class FastWeights(Paper):
    """Fast weights that attend to the recent past (Ba et al., 2016), equations 1 and 2: an outer product of a state."""

    weights = dict(W=(D, D), C=(I, D), g=(D,), b=(D,))
    states = dict(h=(D,), A=(D, D))

    def step(self, x, h, A):
        A = 0.95 * A + 0.5 * h[:, :, None] * h[:, None, :]
        slow = h @ self.W + x @ self.C
        h = tg.relu(slow)
        for _ in range(2):
            h = tg.relu(F.layer_norm(slow + tg.einsum("bij,bj->bi", A, h), (D,), self.g, self.b))
        return h, A


class Turing(Paper):
    """A neural Turing machine (Graves et al., 2014), equations 2 to 9, with one head that reads and writes."""

    weights = dict(
        W=(I, D), R=(N, D), Wk=(D, N), Wg=(D, 1), Ws=(D, 3), Wb=(D, 1), Wy=(D, 1), We=(D, N), Wa=(D, N)
    )  # fmt: skip
    states = dict(r=(N,), M=(S, N), w=(S,))
    positive = ("w",)

    def step(self, x, r, M, w):
        c = tg.tanh(x @ self.W + r @ self.R)
        k, beta, g = c @ self.Wk, F.softplus(c @ self.Wb), tg.sigmoid(c @ self.Wg)
        norms = tg.sqrt((M * M).sum(-1) + 1e-3) * tg.sqrt((k * k).sum(-1, keepdim=True) + 1e-3)
        w_c = tg.softmax(beta * (M * k.unsqueeze(1)).sum(-1) / norms, -1)
        w_g = g * w_c + (1 - g) * w
        s = tg.softmax(c @ self.Ws, -1)
        w = sum(s[:, i : i + 1] * tg.roll(w_g, i - 1, -1) for i in range(3))
        w = (w + 1e-6) ** (1 + F.softplus(c @ self.Wy))
        w = w / w.sum(-1, keepdim=True)
        e, a = tg.sigmoid(c @ self.We), tg.tanh(c @ self.Wa)
        M = M * (1 - w.unsqueeze(-1) * e.unsqueeze(1)) + w.unsqueeze(-1) * a.unsqueeze(1)
        return (w.unsqueeze(1) @ M).squeeze(1), M, w


class RelationalMemory(Paper):
    """A relational memory core (Santoro et al., 2018), section 3: slots attend to each other and to the input, and are
    gated like a cell of an LSTM, as the authors' code has it; all slots share their weights."""

    heads = 2
    weights = dict(
        W=(I, D), Wq=(D, D), Wk=(D, D), Wv=(D, D), W1=(D, 2 * D), W2=(2 * D, D), g1=(D,), b1=(D,), g2=(D,), b2=(D,),
        Wx=(D, 2 * D), Um=(D, 2 * D), b=(2 * D,),
    )  # fmt: skip
    states = dict(M=(N, D))

    def step(self, x, M):
        split = lambda a: a.reshape(a.shape[0], a.shape[1], self.heads, -1).transpose(1, 2)
        x = (x @ self.W).unsqueeze(1)
        all_of_them = tg.cat([M, x], 1)
        q, k, v = split(M @ self.Wq), split(all_of_them @ self.Wk), split(all_of_them @ self.Wv)
        found = tg.softmax(q @ k.mT / (D // self.heads) ** 0.5, -1) @ v
        new = F.layer_norm(M + found.transpose(1, 2).reshape(M.shape), (D,), self.g1, self.b1)
        new = F.layer_norm(new + tg.relu(new @ self.W1) @ self.W2, (D,), self.g2, self.b2)
        i, f = tg.chunk(x @ self.Wx + tg.tanh(M) @ self.Um + self.b, 2, -1)
        return tg.sigmoid(i) * tg.tanh(new) + tg.sigmoid(f + 1) * M


CELLS = {
    cell.__name__: cell
    for cell in (
        MLSTM, HeadsOfMLSTM, DeltaNet, S6, Hopfield, Bahdanau, LinearAttention, RetNet, FastWeights, Turing,
        RelationalMemory,
    )
}  # fmt: skip


def arrays(cell, T, B, seed=1):
    """Numbers for x, for initial states and for what holds for a sequence, by name."""
    random = np.random.default_rng(seed)
    shapes = {"x": (T, B, cell.input_size), **{n: (B, *s) for n, s in (cell.states | cell.values).items()}}
    found = {name: random.uniform(-1, 1, shape) for name, shape in shapes.items()}
    return found | {name: np.abs(found[name]) for name in cell.positive}
