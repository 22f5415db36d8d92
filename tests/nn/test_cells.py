"""The library of cells: each against its equations in plain NumPy, finite differences, and its generated source."""

import inspect
import math
import re

import numpy as np
import pytest
from fusion.comparing import assert_engines_agree, interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Cell, Recurrent, cells
from tinygrad_rnn.nn.cells.catalogue import ROWS

T, B, I, H = 5, 3, 4, 6
CASES = {}


def case(name, make, start=None, same=False):
    """A cell with a function of (its parameters, x, *states) that computes the new states in NumPy.

    `start` holds initial states that cannot be just any number; with `same`, x is as wide as h.
    """

    def register(equations):
        CASES[name] = (make, equations, start or {}, same)
        return equations

    return register


def each(names=None):
    return pytest.mark.parametrize("name", names or CASES)


def build(name, I=I, H=H, **options):
    make, equations, start, same = CASES[name]
    tg.manual_seed(1)
    cell = make(H if same else I, H, **{"dtype": np.float64, **options})
    for p in cell.parameters():
        if not p.numpy().any():  # biases that start at zero would hide where they are added
            p.numpy()[...] = np.random.default_rng(2).uniform(-0.5, 0.5, p.shape)
    return cell, equations, start


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a > 0, a, 0)


def rows(p, name, *letters, order):
    """The blocks of a parameter that belong to some gates, given the order of all."""
    blocks = np.split(p[name], len(order))
    return [blocks[order.index(letter)] for letter in letters]


class Gates:
    """W, U and b of each gate by letter: `gates("i", x, h)` is W_i x + U_i h + b_i."""

    def __init__(self, p, order):
        self.order = order
        self.W, self.U, self.b = (
            dict(zip(order, np.split(p[key], len(order)))) if key in p else {}
            for key in ("weight_ih", "weight_hh", "bias")
        )

    def __call__(self, gate, x, h=None):
        a = x @ self.W[gate].T + self.b.get(gate, 0)
        return a if h is None else a + h @ self.U[gate].T


def layer_norm(a, gain, shift):
    mean = a.sum(-1, keepdims=True) / a.shape[-1]
    variance = ((a - mean) ** 2).sum(-1, keepdims=True) / a.shape[-1]
    return gain * (a - mean) / np.sqrt(variance + 1e-5) + shift


# ---- The equations ---------------------------------------------------------------------------------------------------


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


# ---- Every cell ------------------------------------------------------------------------------------------------------


def test_every_cell_has_a_case():
    kinds = {type(build(name)[0]) for name in CASES}
    assert kinds == {kind for kind in vars(cells).values() if isinstance(kind, type)}


def starting(cell, start, random, rows=B):
    """Random initial states, but for those that `start` names."""
    shapes = {name: s.shape for name, s in zip(cell.state_names, cell.begin(None, rows))}
    return [
        np.broadcast_to(start[name][:rows] if np.ndim(start[name]) else start[name], shape).copy()
        if name in start
        else random.uniform(-1, 1, shape)
        for name, shape in shapes.items()
    ]


@each()
def test_equations(name):
    """A sequence on the tape, from the cell's own initial states and from others."""
    cell, equations, start = build(name)
    p, random = cell.state_dict(), np.random.default_rng(0)
    x = random.uniform(-1, 1, (T, B, cell.input_size))
    given = starting(cell, start, random)
    for hx in (None, tuple(map(tg.tensor, given))):
        y, final = Recurrent(cell, fused="never")(x, hx)
        states = given if hx else [s.numpy() for s in cell.begin(None, B)]
        for t in range(T):
            with np.errstate(divide="ignore", invalid="ignore"):  # sLSTM starts with m = -1e30
                states = equations(p, x[t], *states)
            np.testing.assert_allclose(y.numpy()[t], states[0], rtol=0, atol=1e-12)
        for a, b in zip(final if isinstance(final, tuple) else [final], states, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-12)


@each()
def test_gradients(name):
    """Three steps against finite differences: by x, the initial states and every parameter."""
    cell, _, start = build(name, 2, 3)
    random = np.random.default_rng(4)
    x = tg.tensor(random.uniform(-1, 1, (3, 2, cell.input_size)), requires_grad=True)
    states = [
        tg.tensor(s, requires_grad=state_name != "clock")  # a clock does not tick by halves
        for state_name, s in zip(cell.state_names, starting(cell, start, random, rows=2))
    ]
    layer = Recurrent(cell, fused="never")

    def run(x, *rest):
        y, final = layer(x, tuple(rest[: len(states)]))
        return y, *(final if isinstance(final, tuple) else (final,))

    assert tg.gradcheck(run, (x, *states, *cell.parameters()), atol=1e-7, rtol=1e-6)


@each()
def test_both_engines(name, monkeypatch):
    """The generated source, run by Python, and the tape: values, states and all gradients."""
    interpret(monkeypatch)
    cell, _, start = build(name, 3, 4)
    assert_engines_agree(cell, (4, B, cell.input_size), start=start)
    assert_engines_agree(cell, (4, B, cell.input_size), reverse=True, start=start, lengths=[3, 4, 1])


@each([pytest.param("QRNN, ifo, window 2", marks=pytest.mark.slow), "Clockwork"])
def test_compiled(name):
    """A few for real; sLSTM is another, below."""
    cell, _, start = build(name, 3, 5)
    assert_engines_agree(cell, (4, B, 3), start=start)


@each([name for name in CASES if not name.startswith(("SCRN", "Article"))])
def test_without_biases(name, monkeypatch):
    interpret(monkeypatch)
    cell, _, start = build(name, 3, 4, bias=False)
    assert not [p for p, _ in cell.named_parameters() if "bias" in p]
    assert "bias=False" in repr(cell)
    assert_engines_agree(cell, (3, B, cell.input_size), start=start)


DIAGONAL = [name for name in CASES if name.startswith(("IndRNN", "SRU", "QRNN", "minGRU", "minLSTM"))]


@each(DIAGONAL)
def test_no_product_in_the_loop(name):
    layer = Recurrent(build(name)[0], fused="require")
    for direction in ("forward", "backward", "inference"):
        assert "multiply(" not in layer.source(direction)
    assert "multiply(" in Recurrent(build("LSTM")[0]).source("forward"), "which a product is called there"
    assert " 0 in products of the loop" in layer.explain()


@each()
def test_drops_elements_of_the_candidate(name):
    """Recurrent dropout with p = 1 is a candidate of zeros: asked for once a step, used."""
    cell, _, start = build(name)
    random = np.random.default_rng(5)
    x, states = random.uniform(-1, 1, (B, cell.input_size)), starting(cell, start, random)
    asked = []
    step = lambda: [s.numpy() for s in cell.advance(tg.tensor(x), tuple(map(tg.tensor, states)))]
    before = step()
    cell.candidate = lambda n: asked.append(n) or n * 0
    after = step()
    if name.startswith(("RNN", "IRNN", "IndRNN")):  # there the whole state is new
        assert not asked
    else:
        assert len(asked) == 1
        assert any(not np.array_equal(a, b) for a, b in zip(before, after))


@each()
def test_dtypes_and_drawing_anew(name):
    make, _, _, same = CASES[name]
    cell = make(H if same else I, H)
    assert {p.dtype for p in cell.parameters()} == {np.dtype(np.float32)}
    assert {s.dtype for s in cell.begin(None, 2)} == {np.dtype(np.float32)}
    assert cell(np.zeros((2, cell.input_size), np.float32), None)[0].dtype == np.float32
    assert cell.hidden_size == H and cell.input_size == (H if same else I)
    shapes = {n: p.shape for n, p in cell.named_parameters()}
    tg.manual_seed(7)
    cell.reset_parameters()
    drawn = cell.state_dict()
    for p in cell.parameters():
        p.numpy()[...] = np.nan
    tg.manual_seed(7)
    cell.reset_parameters()
    for key, value in cell.state_dict().items():
        np.testing.assert_array_equal(value, drawn[key])
        assert value.shape == shapes[key] and np.isfinite(value).all() and np.abs(value).max() <= 4
    assert f"{cell.input_size}, {H}" in repr(cell)


def test_wrong_options():
    for make, message in [
        (lambda: cells.SLSTMCell(2, 3, forget="tanh"), "SLSTMCell: forget must be 'sigmoid' or 'exp', not 'tanh'"),
        (lambda: cells.GRUVariantCell(2, 3, reset="never"), "reset must be 'before' or 'after', not 'never'"),
        (lambda: cells.GRUVariantCell(2, 3, keeps="both"), "keeps must be 'old' or 'new', not 'both'"),
        (lambda: cells.RANCell(2, 3, nonlinearity="relu"), "nonlinearity must be 'tanh' or 'identity', not 'relu'"),
        (lambda: cells.IndRNNCell(2, 3, nonlinearity="elu"), "nonlinearity must be 'relu' or 'tanh', not 'elu'"),
        (lambda: cells.QRNNCell(2, 3, pooling="max"), "pooling must be 'f', 'fo' or 'ifo', not 'max'"),
        (lambda: cells.QRNNCell(2, 3, window=3), "window must be 1 or 2, not 3"),
        (lambda: cells.SCRNCell(2, 3, alpha=1.5), "alpha must be between 0 and 1, not 1.5"),
        (lambda: cells.ClockworkRNNCell(2, 3, periods=(2, 2)), r"periods must be positive and rise, not \(2, 2\)"),
        (lambda: cells.ClockworkRNNCell(2, 3, periods=()), r"periods must be positive and rise, not \(\)"),
        (lambda: cells.ClockworkRNNCell(2, 3), "4 modules cannot share 3 units: give fewer periods"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# ---- What single cells promise ---------------------------------------------------------------------------------------


def test_how_they_start():
    tg.manual_seed(0)
    n = 64
    irnn = cells.IRNNCell(n, n, scale=0.5)
    np.testing.assert_array_equal(irnn.weight_hh.numpy(), 0.5 * np.eye(n, dtype=np.float32))
    assert abs(irnn.weight_ih.numpy().std() - 0.001) < 1e-4 and not irnn.bias_ih.numpy().any()
    for block in np.split(cells.LiGRUCell(3, n, dtype=np.float64).weight_hh.numpy(), 2):
        np.testing.assert_allclose(block @ block.T, np.eye(n), atol=1e-12)
    assert cells.UGRNNCell(3, n).bias.numpy()[:n].min() > 0.8 > cells.UGRNNCell(3, n).bias.numpy()[n:].max()
    u = cells.IndRNNCell(3, n).weight_u.numpy()
    assert 0 <= u.min() < 0.1 and 0.9 < u.max() < 1
    W, gates, skip = np.split(cells.SRUCell(32, n).weight_ih.numpy(), [n, 3 * n])
    np.testing.assert_allclose([32 * W.var(), 32 * gates.var(), 32 * skip.var()], [1, 0.5, 1], atol=0.1)
    clockwork = cells.ClockworkRNNCell(3, n)
    assert not np.tril(clockwork.weight_hh.numpy(), -n // 4).any() and clockwork.weight_hh.numpy()[0].all()
    assert 0.07 < clockwork.weight_ih.numpy().std() < 0.13
    article = cells.ArticleLSTMCell(n, n)
    assert abs(article.Wi.numpy().std() * math.sqrt(n) - 1) < 0.1 and not article.bi.numpy().any()
    assert set(cells.LayerNormGRUCell(3, n).norm_ih.weight.numpy()) == {1}


def test_forget_gates_that_start_open():
    for kind in (cells.PeepholeLSTMCell, cells.LayerNormLSTMCell, cells.SLSTMCell, cells.RANCell, cells.SRUCell):
        tg.manual_seed(0)
        plain = kind(3, 4).bias.numpy()
        tg.manual_seed(0)
        opened = tg.nn.init.forget_gate_bias_(kind(3, 4)).bias.numpy()
        k = kind.gates.index("f")
        expected = np.repeat(np.arange(len(kind.gates)) == k, 4).astype(np.float32)
        np.testing.assert_allclose(opened - plain, expected, atol=1e-6)
    for kind in (cells.MGUCell, cells.CoupledLSTMCell, cells.LayerNormGRUCell):
        with pytest.raises(ValueError, match="no LSTM with biases"):
            tg.nn.init.forget_gate_bias_(kind(3, 4))


def test_slstm_survives_gates_that_are_far_off():
    """Exponentials of +-2000 neither overflow nor leave 0 / 0; h does not depend on where m stands."""
    cell = cells.SLSTMCell(1, 3)
    cell.bias.numpy()[:6] = [-2000, 2000, 0, 90, -2000, -2000]
    layer, x = Recurrent(cell, fused="never"), np.random.default_rng(0).standard_normal((6, 2, 1)).astype(np.float32)
    for engine in ("never", "require"):
        layer.fused = engine
        x_t = tg.tensor(x, requires_grad=True)
        y, _ = layer(x_t)
        y.square().sum().backward()
        assert np.isfinite(y.numpy()).all() and (np.abs(y.numpy()) <= 1).all()
        assert all(np.isfinite(p.grad.numpy()).all() for p in [x_t, *cell.parameters()])
    calm, _, _ = build("sLSTM")
    h, c, n = (np.random.default_rng(k).uniform(0.5, 1, (B, H)) for k in range(3))
    x = np.ones((B, I))
    found = [calm(x, (h, c / np.exp(m), n / np.exp(m), np.full((B, H), m)))[0].numpy() for m in (-3.0, 0.0, 2.0)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-13)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-13)


def test_min_lstm_with_both_gates_closed():
    cell = cells.MinLSTMCell(1, 1)
    cell.weight_ih.numpy()[...] = 0
    cell.bias.numpy()[...] = [-2000, -2001, 1]
    assert 0.2 < cell(np.zeros((1, 1), np.float32)).item() < 0.3  # 1 / (1 + e)


def test_clockwork_in_pieces_and_at_rest():
    """Cutting the sequence does not reset the clock; slow modules rest between their ticks."""
    cell, _, _ = build("Clockwork")
    layer, x = Recurrent(cell, fused="never"), np.random.default_rng(0).standard_normal((7, 2, I))
    y, (_, clock) = layer(x)
    first, states = layer(x[:3])
    rest, _ = layer(x[3:], states)
    np.testing.assert_array_equal(np.concatenate([first.numpy(), rest.numpy()]), y.numpy())
    assert clock.numpy().tolist() == [[7.0], [7.0]]
    slow = y.numpy()[:, 0, 4:]  # ticks at 0, 3 and 6
    changed = (np.diff(slow, axis=0) != 0).all(1)
    assert changed.tolist() == [False, False, True, False, False, True]


def test_qrnn_is_a_convolution_and_a_pooling():
    """All steps at once, as the paper has it: a masked convolution over time, then the recurrence."""
    cell, _, _ = build("QRNN, fo, window 2")
    x = np.random.default_rng(0).standard_normal((T, B, I))
    W, V, b = cell.weight_ih.numpy(), cell.weight_previous.numpy(), cell.bias.numpy()
    shifted = np.concatenate([np.zeros((1, B, I)), x[:-1]])
    z, f, o = np.split(np.einsum("tbi,ki->tbk", shifted, V) + np.einsum("tbi,ki->tbk", x, W) + b, 3, -1)
    z, f, o, c = np.tanh(z), sigmoid(f), sigmoid(o), 0
    y, _ = Recurrent(cell, fused="never")(x)
    for t in range(T):
        c = f[t] * c + (1 - f[t]) * z[t]
        np.testing.assert_allclose(y.numpy()[t], o[t] * c, atol=1e-12)


class MendedLSTM:
    """The article's listing, its `sigmoid` and its first `prev_C` supplied, all steps returned and none transposed."""

    def __init__(self, cell):
        for key, value in cell.state_dict().items():
            setattr(self, f"{key[0]}_{key[1]}", value)

    def forward(self, X):
        T, B, _ = X.shape
        size = len(self.b_i)
        prev_h, prev_C, outputs = np.zeros((B, size)), np.zeros((B, size)), np.zeros((T, B, size))
        for t in range(T):
            i_gate = sigmoid(np.dot(X[t], self.W_i) + np.dot(prev_h, self.U_i) + self.b_i)
            f_gate = sigmoid(np.dot(X[t], self.W_f) + np.dot(prev_h, self.U_f) + self.b_f)
            o_gate = sigmoid(np.dot(X[t], self.W_o) + np.dot(prev_h, self.U_o) + self.b_o)
            C_tilde = np.tanh(np.dot(X[t], self.W_c) + np.dot(prev_h, self.U_c) + self.b_c)
            prev_C = f_gate * prev_C + i_gate * C_tilde
            prev_h = o_gate * np.tanh(prev_C)
            outputs[t] = prev_h
        return outputs


class MendedGRU(MendedLSTM):
    """The same of the article's GRU."""

    def forward(self, X):
        T, B, _ = X.shape
        size = len(self.b_r)
        prev_h, outputs = np.zeros((B, size)), np.zeros((T, B, size))
        for t in range(T):
            z = sigmoid(np.dot(X[t], self.W_r) + np.dot(prev_h, self.U_r) + self.b_r)
            r = np.tanh(np.dot(X[t], self.W_h) + z * (np.dot(prev_h, self.U_h) + self.b_h))
            zz = sigmoid(np.dot(X[t], self.W_z) + np.dot(r, self.U_z) + self.b_z)
            n = np.tanh(np.dot(X[t], self.W_h) + (1 - zz) * (np.dot(r, self.U_h) + self.b_h))
            prev_h = n * z + prev_h * (1 - z)
            outputs[t] = prev_h
        return outputs


@pytest.mark.parametrize(("name", "listing"), [("Article LSTM", MendedLSTM), ("Article GRU", MendedGRU)])
def test_the_article_s_listings(name, listing):
    cell, _, _ = build(name)
    x = np.random.default_rng(0).standard_normal((12, B, I))
    np.testing.assert_allclose(Recurrent(cell, fused="never")(x)[0].numpy(), listing(cell).forward(x), atol=1e-12)


def test_the_article_s_lstm_is_a_standard_one():
    article, standard = build("Article LSTM")[0], cells.LSTMCell(I, H, dtype=np.float64)
    p = article.state_dict()
    join = lambda kind: np.concatenate([p[kind + gate].T for gate in "ifco"])
    bias = join("b")
    standard.load_state_dict(dict(weight_ih=join("W"), weight_hh=join("U"), bias_ih=bias, bias_hh=0 * bias))
    x = np.random.default_rng(0).standard_normal((T, B, I))
    run = lambda cell: Recurrent(cell, fused="never")(x)[0].numpy()
    np.testing.assert_allclose(run(article), run(standard), atol=1e-14)


# ---- The list --------------------------------------------------------------------------------------------------------


def test_list():
    before = tg.get_rng_state()
    table = cells.list(5, 8)
    assert tg.get_rng_state() == before
    kinds = {kind for kind in vars(cells).values() if isinstance(kind, type) and issubclass(kind, Cell)}
    assert [row.cell for row in table if row.name != row.cell.__name__] == []
    assert {row.cell for row in table} == kinds and len(table) == len(kinds)
    for row, (make, *_) in zip(table, ROWS):
        cell = make(5, 8)
        assert row.parameters == sum(p.numel() for p in cell.parameters())
        assert row.states == {n: s.shape[1] for n, s in zip(cell.state_names, cell.begin(None, 2))}
        source = " ".join((inspect.getdoc(row.cell) or "").split())
        if "article" in row.source:
            assert source.startswith("The article's")
        else:
            year, author = row.source.split(", ")[-1], re.split(r" et al| and |, ", row.source)[0]
            assert author in source and year in source, f"{row.name}'s docstring does not name {row.source}"
    text = repr(table).splitlines()
    assert len(text) == len(table) + 1 and text[0].split() == ["cell", "equation", "source", "states", "parameters"]
    lstm = next(row for row in table if row.name == "LSTMCell")
    assert lstm.parameters == 4 * 8 * (5 + 8 + 2) and lstm.states == {"h": 8, "c": 8}
    assert next(line for line in text if line.startswith("LSTMCell ")).endswith(" 480")
    assert max(map(len, repr(cells.list()).splitlines())) <= 160
