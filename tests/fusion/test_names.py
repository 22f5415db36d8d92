"""Whatever a user calls parameters, states, variables and cells: generated code calls each thing by one name."""

import keyword

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter
from fusion.test_golden import file_of
from tinygrad_rnn.fusion import names
from tinygrad_rnn.fusion.names import FORMS, RESERVED, Names, identifier, printable

I, H = 2, 3
WORDS = [
    "len", "room", "saved", "values", "named", "rows", "launch", "T", "B", "H", "H_2", "t", "j", "row", "now",
    "keep", "old", "new", "lo", "hi", "top", "starts", "total", "piece", "first", "retain", "dtype", "options",
    "real", "float", "range", "min", "fill_panels", "multiply", "kernel", "rows_of", "share", "clear", "contiguous",
    "row_function", "product", "copy", "sum_rows", "empty", "zeros", "plain", "apart", "fitted", "sized", "asarray",
    "concatenate", "panels_of", "forward", "backward", "forward_1", "backward_1", "short_call", "forward_call",
    "njit", "CACHE", "outline", "tanh", "sigmoid", "matmul", "slice", "cat", "sum", "where", "no_matrix",
    "no_vector", "table", "np", "packed", "x_1", "x_2", "h_2", "dh", "dy", "dy_h", "h_new", "x_in", "v", "v_2",
    "v_j", "v_out", "v_out_2", "v_copy", "d_0", "a_saved", "a_buffer", "a_packed", "a_all", "a_sum", "a_zero",
    "_0", "_1", "h_first", "h_last", "x_piece", "dv", "h_weights", "h_weights_T", "h_over_rows", "h_and_x",
    "a_part", "number", "attributes", "zero", "random", "constant", "__debug", "__name__", "__builtins__", "_",
    "__", "é", "α", "ﬁ", "fi", "x²", "match", "type", "print", "T_", "T__",
]  # fmt: skip
VARIABLES = [w for w in WORDS if w.isidentifier() and not keyword.iskeyword(w)]
ATTRIBUTES = [
    *(*WORDS, "in gate", "1", "a.b", "a_b", "a-b", "", "self", "lambda", "None", "class", '"', "'", "\n", "a\\", "x")
]


def cell(variables, attributes, states, title="C"):
    """A cell of which everything that can have a name has one of these."""
    v, p, (s, r) = list(variables), list(attributes), states
    source = f"""
def step(self, x, {s}, {r}):
    {v[0]} = x @ get(self, p[0]) + {s} @ get(self, p[1]) + get(self, p[2])
    {v[1]} = tg.sigmoid({v[0]} + {r} * get(self, p[3]) * get(self, p[4]))
    {v[2]} = tg.tanh(({v[1]} * {s}) @ get(self, p[5]) + {v[0]})
    {v[3]} = ({v[2]} * {v[1]}).sum(-1, keepdim=True) * get(self, p[6])
    return {v[1]} * {s} + {v[2]}, tg.tanh({r} + {v[3]} + get(self, p[7]))
"""
    known = {"tg": tg, "p": p, "get": lambda self, name: self.held[name] if name in self.held else getattr(self, name)}
    exec(source, known)
    made = type(title, (tg.nn.Cell,), {"step": known["step"]})()
    made.input_size, made.hidden_size = I, H
    shapes = {0: (I, H), 1: (H, H), 2: (H,), 3: (H,), 5: (H, H), 6: (H,)}
    made.held = {p[4]: parameter(1, H)}
    for i, shape in shapes.items():
        if hasattr(made, p[i]):  # or as the key of a dictionary
            made.held[p[i]] = parameter(*shape)
        else:
            setattr(made, p[i], parameter(*shape))
    buffer = tg.tensor(np.linspace(0, 1, H))
    if hasattr(made, p[7]) or p[7] in (*made.held, "", "a.b"):
        made.held[p[7]] = buffer
    else:
        made.register_buffer(p[7], buffer)
    return made


def distinct(words, n):
    return st.lists(st.sampled_from(words), min_size=n, max_size=n, unique=True)


@settings(max_examples=40)
@given(distinct(VARIABLES, 6), distinct(ATTRIBUTES, 8))
@example(
    ["len", "room", "saved", "values", "T", "new"], ["fill_panels", "len", "room", "in gate", "1", "é", "a.b", "lambda"]
)
@example(["dh", "dy", "h_new", "x_in", "h", "dy_h"], ["x_1", "h_2", "dh", "x", "rows", "named", "launch", "self"])
@example(["a", "b", "c", "d", "T", "T_"], ["T", "T_", "T__", "a.b", "a_b", "a-b", "", "_"])
@example(["dy_T", "dy_T_", "y_T", "y_T_", "T", "h"], ["B", "B_", "B_2", "number", "number_2", "sum", "sum_", "sum_2"])
@example(["_0", "d_0", "dd_0", "_1", "h", "c"], ["d_0_all", "d_0", "_0", "v", "v_2", "v_j", "v_out", "v_out_2"])
def test_any_names(variables, attributes):
    with pytest.MonkeyPatch.context() as monkeypatch:
        interpret(monkeypatch)
        tg.manual_seed(0)
        assert_engines_agree(cell(variables[:4], attributes, variables[4:]), (3, 2, I))


SOME = [ATTRIBUTES[i : i + 8] for i in range(0, len(ATTRIBUTES) - 8, 70)]


@pytest.mark.slow
@pytest.mark.parametrize("attributes", SOME)
def test_compiled(attributes):
    """Numba has names of its own."""
    tg.manual_seed(0)
    made = cell(["len", "é", "T", "forward_1"], attributes, ["α", "new"], "a'b\"\"\"\n\\")
    assert_engines_agree(made, (3, 2, I))


class Plain(tg.nn.Cell):
    """One with the names that it is given."""

    input_size, hidden_size = I, H

    def __init__(self, w, u, b, k):
        self.keys = w, u, b, k
        self.held = {w: parameter(I, H), u: parameter(H, H), b: parameter(H), k: parameter(1, H)}

    def step(self, x, h):
        W, U, b, k = map(self.held.__getitem__, self.keys)
        return tg.tanh(x @ W + h @ U + b * k)


class Direct(Plain):
    def __init__(self, w, u, b, k):
        self.keys = w, u, b, k
        for name, shape in zip(self.keys, ((I, H), (H, H), (H,), (1, H))):
            setattr(self, name, parameter(*shape))

    def step(self, x, h):
        W, U, b, k = (getattr(self, name) for name in self.keys)
        return tg.tanh(x @ W + h @ U + b * k)


@pytest.mark.parametrize("kind", [Plain, Direct])
@pytest.mark.parametrize("first", range(0, len(ATTRIBUTES), 4))
def test_names_of_arguments(kind, first, monkeypatch):
    interpret(monkeypatch)
    tg.manual_seed(0)
    given = dict.fromkeys(["step", "held", "keys", "forward"])  # what the cell needs itself
    words = [w for w in [*ATTRIBUTES[first : first + 4], "p", "q", "r", "s"] if w not in given][:4]
    assert_engines_agree(kind(*words), (3, 2, I))


@pytest.mark.parametrize("title", ["a'b\"\"\"", '"""', "\\", "a\nb", "é", "'", '\\"', "x" * 300, "{x}", "%s"])
def test_any_title(title):
    tg.manual_seed(0)
    made = cell(["a", "b", "c", "d"], "efghijkl", ["m", "n"], title)
    layer = tg.nn.Recurrent(made, fused="require")
    for direction in ("forward", "backward", "inference"):
        compile(layer.source(direction), "source", "exec")
    assert layer.explain().startswith(f"{printable(type(made).__name__)}: ")


# ---- The allocator ---------------------------------------------------------------------------------------------------


def test_one_reserved_set_holds_all_that_kernels_are_made_of():
    for name in ("gru", "lstm", "mgu", "rnn"):
        for direction in ("forward", "backward"):
            text = file_of(name, direction).read_text(encoding="utf-8")
            called = {word.rpartition("(")[0] for word in names.re.findall(r"\b[A-Za-z]\w*\(", text)} - {"shape"}
            assert all(word in RESERVED or FORMS.fullmatch(word) for word in called), called
    assert RESERVED >= set().union(*names.IMPORTS.values())


@given(st.lists(st.one_of(st.sampled_from([*WORDS, *ATTRIBUTES]), st.text(max_size=4)), max_size=30))
def test_names_are_identifiers_and_given_once(wanted):
    space = Names(RESERVED, FORMS)
    found = [space.new(name) for name in wanted]
    for name in found:
        assert name.isidentifier() and not keyword.iskeyword(name) and name not in RESERVED
        assert compile(f"{name} = 1", "name", "exec").co_names == (name,)  # as Python reads it
    assert len(set(found)) == len(found)


def test_good_names_stay():
    space = Names(RESERVED, FORMS)
    found = [space.new(name) for name in ("W", "i", "α", "W", "in gate", "len")]
    assert found == ["W", "i", "α", "W_2", "in_gate", "len_"]
    assert identifier("1") == "_1" and identifier("") == "_" and identifier("ﬁ") == "fi"
