"""The library of cells: each against its equations in plain NumPy, finite differences, and its generated source."""

import inspect
import math
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from covering import covering
from fusion.comparing import assert_engines_agree, given_to, interpret
from nn.cases import CASES, B, H, I, T, build, sigmoid, starting

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import table
from tinygrad_rnn.fusion.program import made_of
from tinygrad_rnn.nn import Cell, Recurrent, cells
from tinygrad_rnn.nn.cells.catalogue import ROWS, step_of, values_of
from tinygrad_rnn.nn.work import flops_of
from tinygrad_rnn.testing.slopes import decided_once

for _path in Path(__file__).parent.glob("equations_*.py"):
    import_module(f"nn.{_path.stem}")


def each(names=None):
    return pytest.mark.parametrize("name", names or CASES)


def each_in_turn(turn, names=None):
    """The same, but what is no first case of a cell that stands for others is left to `-m slow`."""
    first = {}
    for name in CASES:
        first.setdefault(type(build(name)[0]).__name__, name)
    quick = {first[cell] for cell in covering(turn)}
    return each([pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names or CASES])


# ---- Every cell ------------------------------------------------------------------------------------------------------


def test_every_cell_has_a_case():
    kinds = {type(build(name)[0]) for name in CASES}
    assert kinds == {kind for kind in vars(cells).values() if isinstance(kind, type)}


@each()
def test_equations(name):
    """A sequence on the tape, from the cell's own initial states and from others."""
    cell, equations, start = build(name)
    p, random = cell.state_dict(), np.random.default_rng(0)
    x = random.uniform(-1, 1, (T, B, cell.input_size))
    given, values = starting(cell, start, random), given_to(cell, B)
    arrays = {name: value.numpy() for name, value in values.items()}
    for hx in (None, tuple(map(tg.tensor, given))):
        y, final = Recurrent(cell, fused="never")(x, hx, **values)
        states = given if hx else [s.numpy() for s in cell.begin(None, B)]
        for t in range(T):
            with np.errstate(divide="ignore", invalid="ignore"):  # sLSTM starts with m = -1e30
                states = equations(p, x[t], *states, **arrays)
            np.testing.assert_allclose(y.numpy()[t], states[0], rtol=0, atol=1e-12)
        for a, b in zip(final if isinstance(final, tuple) else [final], states, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-12)


@each_in_turn(1)
def test_gradients(name):
    """Three steps against finite differences: by x, the initial states, what is given by name and every parameter.

    Where a cell decides, its gradient is a surrogate: the slope of what `straight_through` has in the decision's place.
    """
    cell, _, start = build(name, 2, 3)
    random = np.random.default_rng(4)
    x = tg.tensor(random.uniform(-1, 1, (3, 2, cell.input_size)), requires_grad=True)
    states = [
        tg.tensor(s, requires_grad=state_name != "clock")  # a clock does not tick by halves
        for state_name, s in zip(cell.state_names, starting(cell, start, random, rows=2))
    ]
    layer, values = Recurrent(cell, fused="never"), given_to(cell, 2)

    def run(x, *rest):
        y, final = layer(x, tuple(rest[: len(states)]), **dict(zip(values, rest[len(states) :])))
        return y, *(final if isinstance(final, tuple) else (final,))

    leaves = (x, *states, *(value.requires_grad_() for value in values.values()), *cell.parameters())
    assert tg.gradcheck(decided_once(run, run), leaves, atol=1e-7, rtol=1e-6)


@each_in_turn(2)
def test_both_engines(name, monkeypatch):
    """The generated source, run by Python, and the tape: values, states and all gradients."""
    interpret(monkeypatch)
    cell, _, start = build(name, 3, 4)
    given = dict(start=start, values=values_of(cell))
    assert_engines_agree(cell, (4, B, cell.input_size), **given)
    assert_engines_agree(cell, (4, B, cell.input_size), reverse=True, lengths=[3, 4, 1], **given)


@each([pytest.param("QRNN, ifo, window 2", marks=pytest.mark.slow), "Clockwork"])
def test_compiled(name):
    """A few for real; sLSTM is another, below."""
    cell, _, start = build(name, 3, 5)
    assert_engines_agree(cell, (4, B, 3), start=start)


@each_in_turn(3, [name for name in CASES if "bias" in inspect.signature(type(build(name)[0])).parameters])
def test_without_biases(name, monkeypatch):
    interpret(monkeypatch)
    cell, _, start = build(name, 3, 4, bias=False)
    assert not [p for p, _ in cell.named_parameters() if "bias" in p]
    assert "bias=False" in repr(cell)
    assert_engines_agree(cell, (3, B, cell.input_size), start=start, values=values_of(cell))


DIAGONAL = [name for name in CASES if name.startswith(("IndRNN", "SRU", "QRNN", "minGRU", "minLSTM", "UnICORNN"))]


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
    asked, values = [], given_to(cell, B)
    step = lambda: [s.numpy() for s in cell.advance(tg.tensor(x), tuple(map(tg.tensor, states)), **values)]
    before = step()
    cell.candidate = lambda n: asked.append(n) or n * 0
    after = step()
    if name.startswith(("RNN", "IRNN", "IndRNN", "CfC", "LTC")):  # there the whole state is new
        assert not asked
    else:
        assert len(asked) == 1
        assert any(not np.array_equal(a, b) for a, b in zip(before, after))


FAR = {"LTC": 8, "S5": 46, "mLSTM": 6, "S4D": 7, "Mamba": 7}  # where authors draw some parameters from beyond 4


@each()
def test_dtypes_and_drawing_anew(name):
    make, _, _, same = CASES[name]
    cell = make(H if same else I, H)
    assert {p.dtype for p in cell.parameters()} == {np.dtype(np.float32)}
    assert {s.dtype for s in cell.begin(None, 2)} == {np.dtype(np.float32)}
    assert cell(np.zeros((2, cell.input_size), np.float32), None, **given_to(cell, 2))[0].dtype == np.float32
    assert cell.hidden_size == H and cell.input_size == (H if same else I)
    shapes = {n: p.shape for n, p in cell.named_parameters()}
    tg.manual_seed(7)
    cell.reset_parameters()
    drawn = cell.state_dict()
    for p in cell.parameters():
        p.numpy()[...] = np.nan
    tg.manual_seed(7)
    cell.reset_parameters()
    limit = FAR.get(name.split(",")[0], 4)
    for key, value in cell.state_dict().items():
        np.testing.assert_array_equal(value, drawn[key])
        assert value.shape == shapes[key] and np.isfinite(value).all() and np.abs(value).max() <= limit
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
    rows = cells.list(5, 8)
    assert tg.get_rng_state() == before
    kinds = {kind for kind in vars(cells).values() if isinstance(kind, type) and issubclass(kind, Cell)}
    assert [row.cell for row in rows if row.name != row.cell.__name__] == []
    assert {row.cell for row in rows} == kinds and len(rows) == len(kinds)
    for row, (make, *_) in zip(rows, ROWS, strict=True):
        cell = make(5, 8)
        assert row.parameters == sum(p.numel() for p in cell.parameters())
        assert row.states == {n: s.shape[1:] for n, s in zip(cell.state_names, cell.begin(None, 2))}
        source = " ".join((inspect.getdoc(row.cell) or "").split())
        if "article" in row.source:
            assert source.startswith("The article's")
        else:
            year, author = row.source.split(", ")[-1], re.split(r" et al| and |, ", row.source)[0]
            assert author in source and year in source, f"{row.name}'s docstring does not name {row.source}"
    text = repr(rows).splitlines()
    assert len(text) == len(rows) + 1
    assert text[0].split() == "cell equation source states parameters flops a step".split()
    lstm = next(row for row in rows if row.name == "LSTMCell")
    assert lstm.parameters == 4 * 8 * (5 + 8 + 2) and lstm.states == {"h": (8,), "c": (8,)}
    assert lstm.flops == 4 * 8 * (2 * (5 + 8) + 3) + 9 * 8, "products and sums of gates, and their maths"
    assert next(line for line in text if line.startswith("LSTMCell ")).split()[-2:] == ["480", f"{lstm.flops:,}"]
    column = {line[0]: line[3] for line in rows.lines()}
    assert column["LSTMCell"] == "h, c 8" and column["QRNNCell"] == "h, c 8; previous 24", "a shape is told once"
    assert max(map(len, repr(cells.list()).splitlines())) <= 190


def test_list_of_some():
    every, names = cells.list(4, 4), lambda **chosen: [row.name for row in cells.list(4, 4, **chosen)]
    assert [row.year or 9999 for row in every] == sorted(row.year or 9999 for row in every)
    assert names(year=2024) == [row.name for row in every if row.source.endswith(" 2024")] != []
    assert set(names(states="matrix")) == {row.name for row in every if max(map(len, row.states.values())) > 1}
    assert names(states="vector") == [row.name for row in every if row.name not in names(states="matrix")]
    assert names(recurrent=True, year=1990) == ["RNNCell"] and names(recurrent=False, year=1990) == []
    with pytest.raises(ValueError, match="states must be 'vector' or 'matrix', not 'tensor'"):
        cells.list(states="tensor")


AS_WRITTEN = {  # matrices that are not drawn
    "IRNNCell": {"weight_hh"}, "FastWeightsCell": {"weight_hh"}, "RWKVCell": {"weight_k", "weight_r"},
    "HyperLSTMCell": {"weight_z", "weight_d", "weight_db"},
}  # fmt: skip


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.cell.__name__)
def test_weights_start_on_both_sides_of_zero(entry):
    tg.manual_seed(0)
    weights = {name: p.numpy() for name, p in entry.make(12, 8).named_parameters() if "weight" in name and p.ndim > 1}
    others = {name for name, weight in weights.items() if not weight.min() < 0 < weight.max()}
    assert others == AS_WRITTEN.get(entry.cell.__name__, set())


def test_each_is_listed_with_the_year_of_its_source():
    assert [e.cell.__name__ for e in ROWS if not 1980 < (e.year or 0) < 2100] == ["ArticleLSTMCell", "ArticleGRUCell"]


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.cell.__name__)
def test_recurrent_weights_are_told(entry):
    """Whether the compiler finds a product of weights with what depends on a state."""
    program = step_of(entry.make(4, 4), 4)
    moved, found = set(program.states), False
    for value in made_of(program.outputs):
        if moved.intersection(value.inputs):
            moved.add(value)
            found |= meets_a_matrix(value, moved)
    assert found == entry.recurrent


def meets_a_matrix(value, moved):
    """Whether weights [n, m] meet n numbers that depend on a state: in a product, or each row of them one number."""
    fixed = [each for each in value.operands if not each.per_row]
    if value.row is table.matmul:
        return bool(fixed)
    column = any(each in moved and len(each.inner) == 2 and each.inner[1] == 1 for each in value.operands)
    return column and any(len(each.shape) == 2 and each.shape[1] > 1 for each in fixed)


def test_what_is_computed_of_weights_alone_costs_a_step_nothing():
    class Decays(Cell):
        def __init__(self):
            self.input_size, self.hidden_size = 5, 7
            self.A, self.B, self.a = tg.nn.weight(5, 3), tg.nn.weight(3, 7), tg.nn.Parameter([0.0] * 7)

        def step(self, x, h):
            y = tg.exp(-tg.exp(self.a.sum())) * h + x @ (self.A @ self.B)
            return y - y.amax(-1, keepdim=True)

    assert flops_of(step_of(Decays(), 5)) == 2 * 5 * 7 + 4 * 7, "a product, and *, +, amax and - for each unit"


def test_a_cell_of_a_user_s_is_listed():
    """It is known by name, its cost is counted, and it gives way to itself when its file is run once more."""

    def define(equation):
        @cells.listed(equation, "Nobody, 1066", lambda I, H: OldCell(I, H, 3))
        class OldCell(Cell):
            def __init__(self, input_size, hidden_size, times):
                self.input_size, self.hidden_size, self.times = input_size, hidden_size, times
                self.W = tg.nn.weight(input_size, hidden_size)

            def step(self, x, h):
                return h + self.times * (x @ self.W)

        return OldCell

    before = list(ROWS)
    try:
        define("h' = h")
        kind = define("h' = h + 3 W x")
        row = cells.list(5, 7)[0]
        assert (row.cell, row.equation, row.year, row.flops) == (kind, "h' = h + 3 W x", 1066, 2 * 5 * 7 + 2 * 7)
        assert len(cells.list(5, 7)) == len(before) + 1
        assert cells.make("old", 5, 7).times == 3
        with pytest.raises(ValueError, match=r"listed: .*test_cells\..*OldCell has this name already"):
            cells.listed("h' = x", "Somebody, 1067")(type("OLDCell", (Cell,), {}))
        with pytest.raises(TypeError, match="listed: expected a class of cells, got 3"):
            cells.listed("h' = x", "Somebody, 1067")(3)
    finally:
        cells.unlisted(kind)
    assert before == ROWS
