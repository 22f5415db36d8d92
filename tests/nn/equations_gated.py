"""The equations of cells with gates, and of those with fewer."""

import numpy as np
from nn.cases import B, Gates, case, layer_norm, relu, sigmoid

from tinygrad_rnn.nn import cells


@case("RNN", cells.RNNCell)
def rnn(p, x, h):
    return (np.tanh(p["weight_ih"] @ x.T + p["weight_hh"] @ h.T + (p["bias_ih"] + p["bias_hh"])[:, None]).T,)


@case("IRNN", lambda I, H, **o: cells.IRNNCell(I, H, scale=0.9, **o))
def irnn(p, x, h):
    return (relu(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"] + p["bias_hh"]),)


@case("LSTM", cells.LSTMCell)
def lstm(p, x, h, c):
    g = Gates({**p, "bias": p["bias_ih"] + p["bias_hh"]}, "ifgo")
    c = sigmoid(g("f", x, h)) * c + sigmoid(g("i", x, h)) * np.tanh(g("g", x, h))
    return sigmoid(g("o", x, h)) * np.tanh(c), c


@case("LSTM, projected", lambda I, H, **o: cells.ProjectedLSTMCell(I, H, 2, **o))
def projected_lstm(p, x, h, c):
    h, c = lstm(p, x, h, c)
    return h @ p["weight_hr"].T, c


@case("LSTM, peepholes", cells.PeepholeLSTMCell)
def peephole_lstm(p, x, h, c):
    g = Gates(p, "ifgo")
    p_i, p_f, p_o = np.split(p["peephole"], 3)
    i = sigmoid(g("i", x, h) + p_i * c)
    f = sigmoid(g("f", x, h) + p_f * c)
    new = f * c + i * np.tanh(g("g", x, h))
    return sigmoid(g("o", x, h) + p_o * new) * np.tanh(new), new


@case("LSTM, coupled", cells.CoupledLSTMCell)
def coupled_lstm(p, x, h, c):
    g = Gates(p, "igo")
    i = sigmoid(g("i", x, h))
    f = 1 - i
    c = f * c + i * np.tanh(g("g", x, h))
    return sigmoid(g("o", x, h)) * np.tanh(c), c


@case("LSTM, no forget gate", cells.NoForgetGateLSTMCell)
def no_forget_gate(p, x, h, c):
    g = Gates(p, "igo")
    c = c + sigmoid(g("i", x, h)) * np.tanh(g("g", x, h))
    return sigmoid(g("o", x, h)) * np.tanh(c), c


@case("LSTM, layer norm", cells.LayerNormLSTMCell)
def layer_norm_lstm(p, x, h, c):
    norm = lambda name, a: layer_norm(a, p[f"norm_{name}.weight"], p[f"norm_{name}.bias"])
    a = norm("ih", x @ p["weight_ih"].T) + norm("hh", h @ p["weight_hh"].T) + p["bias"]
    n = h.shape[1]
    i, f, g, o = a[:, :n], a[:, n : 2 * n], a[:, 2 * n : 3 * n], a[:, 3 * n :]
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(norm("c", c)), c


@case("LSTM, multiplicative", cells.MultiplicativeLSTMCell)
def multiplicative_lstm(p, x, h, c):
    g = Gates(p, "ifgo")
    m = (x @ p["weight_mx"].T) * (h @ p["weight_mh"].T)
    c = sigmoid(g("f", x, m)) * c + sigmoid(g("i", x, m)) * np.tanh(g("g", x, m))
    return sigmoid(g("o", x, m)) * np.tanh(c), c


POSITIVE = {"n": np.random.default_rng(3).uniform(0.5, 1.5, (B, 1))}


def slstm(f_of):
    def step(p, x, h, c, n, m):
        """Without the stabiliser: c and n are what they are times exp(m)."""
        g = Gates(p, "ifzo")
        i, f = np.exp(g("i", x, h)), f_of(g("f", x, h))
        true_c = f * (c * np.exp(m)) + i * np.tanh(g("z", x, h))
        true_n = f * (n * np.exp(m)) + i
        new_m = np.log(np.maximum(f * np.exp(m), i))
        return sigmoid(g("o", x, h)) * true_c / true_n, true_c / np.exp(new_m), true_n / np.exp(new_m), new_m

    return step


case("sLSTM", cells.SLSTMCell, POSITIVE)(slstm(sigmoid))
case("sLSTM, exp", lambda I, H, **o: cells.SLSTMCell(I, H, forget="exp", **o), POSITIVE)(slstm(np.exp))


def gru(reset, keeps):
    def step(p, x, h):
        W, U, b, c = (dict(zip("rzn", np.split(p[k], 3))) for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        r = sigmoid(x @ W["r"].T + b["r"] + h @ U["r"].T + c["r"])
        z = sigmoid(x @ W["z"].T + b["z"] + h @ U["z"].T + c["z"])
        if reset == "after":
            n = np.tanh(x @ W["n"].T + b["n"] + r * (h @ U["n"].T + c["n"]))
        else:
            n = np.tanh(x @ W["n"].T + b["n"] + (r * h) @ U["n"].T + c["n"])
        return (n + z * (h - n) if keeps == "old" else h + z * (n - h),)

    return step


case("GRU", cells.GRUCell)(gru("after", "old"))
for reset in ("before", "after"):
    for keeps in ("old", "new"):
        make = lambda I, H, reset=reset, keeps=keeps, **o: cells.GRUVariantCell(I, H, reset=reset, keeps=keeps, **o)
        case(f"GRU, reset {reset}, keeps {keeps}", make)(gru(reset, keeps))


@case("GRU, layer norm", cells.LayerNormGRUCell)
def layer_norm_gru(p, x, h):
    norm = lambda name, a: layer_norm(a, p[f"norm_{name}.weight"], p[f"norm_{name}.bias"])
    two = 2 * h.shape[1]
    rz = sigmoid(norm("ih", x @ p["weight_ih"][:two].T) + norm("hh", h @ p["weight_hh"][:two].T))
    r, z = rz[:, : h.shape[1]], rz[:, h.shape[1] :]
    n = np.tanh(norm("in", x @ p["weight_ih"][two:].T) + r * norm("hn", h @ p["weight_hh"][two:].T))
    return ((1 - z) * h + z * n,)


@case("Li-GRU", cells.LiGRUCell)
def li_gru(p, x, h):
    g = Gates(p, "zn")
    z = sigmoid(g("z", x, h))
    return (z * h + (1 - z) * relu(g("n", x, h)),)


@case("MGU", cells.MGUCell)
def mgu(p, x, h):
    g = Gates(p, "zn")
    f = sigmoid(g("z", x, h))
    return ((1 - f) * h + f * np.tanh(g("n", x, f * h)),)


@case("minimalRNN", cells.MinimalRNNCell)
def minimal_rnn(p, x, h):
    z = np.tanh(x @ p["weight_ih"].T + p["bias_z"])
    u = sigmoid(h @ p["weight_hh"].T + z @ p["weight_zh"].T + p["bias"])
    return (u * h + (1 - u) * z,)


@case("UGRNN", cells.UGRNNCell)
def ugrnn(p, x, h):
    g = Gates(p, "gn")
    gate = sigmoid(g("g", x, h))
    return (gate * h + (1 - gate) * np.tanh(g("n", x, h)),)


def ran(function):
    def step(p, x, h, c):
        g = Gates(p, "if")
        c = sigmoid(g("i", x, h)) * (x @ p["weight_cx"].T) + sigmoid(g("f", x, h)) * c
        return function(c), c

    return step


case("RAN", cells.RANCell)(ran(np.tanh))
case("RAN, identity", lambda I, H, **o: cells.RANCell(I, H, nonlinearity="identity", **o))(ran(np.copy))


@case("Factorised LSTM", lambda I, H, **o: cells.FactorisedLSTMCell(I, H, 3, 2, **o))
@case("Factorised LSTM, no projection", lambda I, H, **o: cells.FactorisedLSTMCell(I, H, 2, **o))
def factorised_lstm(p, x, h, c):
    a = np.concatenate([x, h], 1) @ p["weight_1"].T @ p["weight_2"].T + p["bias"]
    i, f, g, o = np.split(a, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    m = sigmoid(o) * np.tanh(c)
    return (m @ p["weight_hr"].T if "weight_hr" in p else m), c


@case("Group LSTM", lambda I, H, **o: cells.GroupLSTMCell(I, H, 3 - H % 3 % 2, 6, **o), same=True)
@case("Group LSTM, no projection", lambda I, H, **o: cells.GroupLSTMCell(I, H, 3 - H % 3 % 2, **o), same=True)
def group_lstm(p, x, h, c):
    new, groups = [], len(p["weight"])
    for k, (x_k, h_k, c_k) in enumerate(zip(*(np.split(v, groups, 1) for v in (x, h, c)))):
        a = np.concatenate([x_k, h_k], 1) @ p["weight"][k].T + p["bias"][k]
        i, f, g, o = np.split(a, 4, 1)
        c_k = sigmoid(f) * c_k + sigmoid(i) * np.tanh(g)
        new.append((sigmoid(o) * np.tanh(c_k), c_k))
    m, c = (np.concatenate(parts, 1) for parts in zip(*new))
    return (m @ p["weight_hr"].T if "weight_hr" in p else m), c


def thin(p, x, name):
    return x @ (p[name] if name in p else p[f"{name}_2"] @ p[f"{name}_1"]).T


@case("FastRNN", cells.FastRNNCell)
@case("FastRNN, low rank", lambda I, H, **o: cells.FastRNNCell(I, H, 2, 3, **o))
def fast_rnn(p, x, h):
    n = np.tanh(thin(p, x, "weight_ih") + thin(p, h, "weight_hh") + p["bias"])
    return (sigmoid(p["alpha"]) * n + sigmoid(p["beta"]) * h,)


@case("FastGRNN", cells.FastGRNNCell)
@case("FastGRNN, low rank", lambda I, H, **o: cells.FastGRNNCell(I, H, 2, 3, **o))
def fast_grnn(p, x, h):
    a = thin(p, x, "weight_ih") + thin(p, h, "weight_hh")
    z, n = sigmoid(a + p["bias_z"]), np.tanh(a + p["bias_n"])
    return (z * h + (sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * n,)


def indrnn(function):
    return lambda p, x, h: (function(x @ p["weight_ih"].T + p["weight_u"] * h + p["bias"]),)


case("IndRNN", cells.IndRNNCell)(indrnn(relu))
case("IndRNN, tanh", lambda I, H, **o: cells.IndRNNCell(I, H, nonlinearity="tanh", **o))(indrnn(np.tanh))


@case("SRU", cells.SRUCell)
@case("SRU, I = H", cells.SRUCell, same=True)
def sru(p, x, h, c):
    n = h.shape[1]
    W, W_f, W_r = (p["weight_ih"][k * n : (k + 1) * n] for k in range(3))
    f = sigmoid(x @ W_f.T + p["weight_v"][:n] * c + p["bias"][:n])
    r = sigmoid(x @ W_r.T + p["weight_v"][n:] * c + p["bias"][n:])
    c = f * c + (1 - f) * (x @ W.T)
    skip = x @ p["weight_ih"][3 * n :].T if len(p["weight_ih"]) > 3 * n else x
    return r * c + (1 - r) * skip * 3**0.5, c


def qrnn(pooling):
    """Its state is what the previous input contributes."""

    def step(p, x, h, *rest):
        n = h.shape[1]
        a = x @ p["weight_ih"].T + p["bias"]
        if "weight_previous" in p:
            a = a + rest[-1]
        part = {gate: a[:, k * n : (k + 1) * n] for k, gate in enumerate("zfoi")}
        z, f = np.tanh(part["z"]), sigmoid(part["f"])
        if pooling == "f":
            new = (f * h + (1 - f) * z,)
        else:
            c = f * rest[0] + (sigmoid(part["i"]) if pooling == "ifo" else 1 - f) * z
            new = (sigmoid(part["o"]) * c, c)
        return (*new, x @ p["weight_previous"].T) if "weight_previous" in p else new

    return step


for pooling in ("f", "fo", "ifo"):
    for window in (1, 2):
        make = lambda I, H, p=pooling, w=window, **o: cells.QRNNCell(I, H, pooling=p, window=w, **o)
        case(f"QRNN, {pooling}, window {window}", make)(qrnn(pooling))


@case("minGRU", cells.MinGRUCell)
def min_gru(p, x, h):
    g = Gates(p, "zn")
    z = sigmoid(g("z", x))
    return ((1 - z) * h + z * g("n", x),)


@case("minLSTM", cells.MinLSTMCell)
def min_lstm(p, x, h):
    g = Gates(p, "fin")
    f, i = sigmoid(g("f", x)), sigmoid(g("i", x))
    return (f / (f + i) * h + i / (f + i) * g("n", x),)


@case("SCRN", lambda I, H, **o: cells.SCRNCell(I, H, context_size=3, alpha=0.9, **o))
def scrn(p, x, hs):
    n = len(p["weight_A"])
    h, s = hs[:, :n], hs[:, n:]
    s = 0.1 * x @ p["weight_B"].T + 0.9 * s
    h = sigmoid(s @ p["weight_P"].T + x @ p["weight_A"].T + h @ p["weight_R"].T)
    return (np.concatenate([h, s], 1),)


@case("Clockwork", lambda I, H, **o: cells.ClockworkRNNCell(I, H, periods=(1, 2, 3), **o), {"clock": 0.0})
def clockwork(p, x, h, t):
    """Module by module, each reading itself and the slower ones."""
    new, modules = h.copy(), [list(part) for part in np.array_split(range(h.shape[1]), 3)]
    for k, units in enumerate(modules):
        if int(t[0, 0]) % (k + 1):
            continue
        for j in units:
            a = x @ p["weight_ih"][j] + p["bias"][j]
            for slower in modules[k:]:
                for unit in slower:
                    a = a + p["weight_hh"][j, unit] * h[:, unit]
            new[:, j] = np.tanh(a)
    return new, t + 1


@case("Article LSTM", cells.ArticleLSTMCell)
def article_lstm(p, x, h, c):
    gate = lambda k: x @ p[f"W{k}"] + h @ p[f"U{k}"] + p[f"b{k}"]
    c = sigmoid(gate("f")) * c + sigmoid(gate("i")) * np.tanh(gate("c"))
    return sigmoid(gate("o")) * np.tanh(c), c


@case("Article GRU", cells.ArticleGRUCell)
def article_gru(p, x, h):
    z = sigmoid(x @ p["Wr"] + h @ p["Ur"] + p["br"])
    r = np.tanh(x @ p["Wh"] + z * (h @ p["Uh"] + p["bh"]))
    zz = sigmoid(x @ p["Wz"] + r @ p["Uz"] + p["bz"])
    n = np.tanh(x @ p["Wh"] + (1 - zz) * (r @ p["Uh"] + p["bh"]))
    return (n * z + h * (1 - z),)
