"""The classic layers own no kernel: they are cells like a user's, and what the compiler makes of both is the same."""

import ast
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_close, interpret, results

I, H = 5, 4
DIRECTIONS = ("forward", "inference", "backward")
NN, FUSION = (sorted((Path(tg.__file__).parent / room).rglob("*.py")) for room in ("nn", "fusion"))


class Transcribed(tg.nn.Cell):
    """Parameters under PyTorch's names, for steps that a user copies from a paper."""

    gates: int

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        random = np.random.default_rng(0)
        draw = lambda *shape: tg.nn.Parameter(random.uniform(-0.5, 0.5, shape))
        self.weight_ih, self.weight_hh = draw(rows, input_size), draw(rows, hidden_size)
        self.bias_ih, self.bias_hh = draw(rows), draw(rows)

    def of_x(self, x):
        return x @ self.weight_ih.T + self.bias_ih

    def of_h(self, h):
        return h @ self.weight_hh.T + self.bias_hh


class MyRNN(Transcribed):
    gates = 1

    def step(self, x, h):
        a = self.of_x(x) + self.of_h(h)
        return tg.tanh(a)


class MyLSTM(Transcribed):
    gates = 4

    def step(self, x, h, c):
        a_i, a_f, a_g, a_o = tg.chunk(self.of_x(x) + self.of_h(h), 4, -1)
        i, f, g, o = tg.sigmoid(a_i), tg.sigmoid(a_f), tg.tanh(a_g), tg.sigmoid(a_o)
        c = f * c + i * g
        h = o * tg.tanh(c)
        return h, c


class MyGRU(Transcribed):
    gates = 3

    def step(self, x, h):
        x_r, x_z, x_n = tg.chunk(self.of_x(x), 3, -1)
        h_r, h_z, h_n = tg.chunk(self.of_h(h), 3, -1)
        r, z = tg.sigmoid(x_r + h_r), tg.sigmoid(x_z + h_z)
        n = tg.tanh(x_n + r * h_n)
        return (1 - z) * n + z * h


PAIRS = {"RNN": (tg.nn.RNN, MyRNN), "LSTM": (tg.nn.LSTM, MyLSTM), "GRU": (tg.nn.GRU, MyGRU)}
each = pytest.mark.parametrize(("layer", "mine"), PAIRS.values(), ids=PAIRS)


def body(layer, direction):
    """The source without its title, which is the name of the class."""
    title, _, rest = layer.source(direction).partition("\n")
    assert title.startswith('"""') and "@kernel" in rest
    return rest


@each
def test_a_user_s_transcription_becomes_the_same_source(layer, mine):
    """Character by character, besides the title: nothing tells a class of the library from one of the user's."""
    theirs, ours = layer(I, H, dtype=np.float64), tg.nn.Recurrent(mine(I, H))
    for direction in DIRECTIONS:
        assert body(ours, direction) == body(theirs, direction)


@each
def test_a_layer_is_its_cell_run_over_time(layer, mine):
    """`nn.LSTM` has the source of `Recurrent(LSTMCell)`, title included: the layer adds nothing of its own."""
    cell = getattr(tg.nn, f"{layer.__name__}Cell")
    for direction in DIRECTIONS:
        assert layer(I, H).source(direction) == tg.nn.Recurrent(cell(I, H)).source(direction)


@pytest.mark.parametrize("path", NN, ids=lambda path: f"{path.parent.stem}.{path.stem}")
def test_nothing_in_nn_knows_of_kernels(path):
    """No import of the folder of kernels or of the compiler behind it, and no mention of what makes machine code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported += [node.module or "", *(alias.name for alias in node.names)]
    rooms = {part for name in imported for part in name.split(".")}
    assert not rooms & {"kernels", "numba", "llvmlite"}
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not words & {"njit", "jit", "vectorize", "prange", "intrinsic"}


@pytest.mark.parametrize("path", FUSION, ids=lambda path: path.stem)
def test_the_compiler_knows_no_cell(path):
    """Nothing asks which cell it was given: the names of the classic ones occur nowhere in the compiler's code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {node.name.rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.alias)}
    assert not {word for word in words if word.upper().startswith(("RNN", "LSTM", "GRU"))}


class Coupled(tg.nn.LSTMCell):
    """An LSTM whose input gate is what the forget gate leaves over."""

    def step(self, x, h, c):
        of_x = x @ self.weight_ih.T + self.bias_ih
        _, f, g, o = tg.chunk(of_x + h @ self.weight_hh.T + self.bias_hh, 4, -1)
        f = tg.sigmoid(f)
        c = f * c + (1 - f) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c


def test_another_step_on_a_subclass_is_what_runs(monkeypatch):
    """Same class of cell, same parameters, another step: other source, and its numbers rather than the LSTM's."""
    interpret(monkeypatch)
    tg.manual_seed(0)
    cell = Coupled(I, H, dtype=np.float64)
    plain = tg.nn.LSTMCell(I, H, dtype=np.float64)
    plain.load_state_dict(cell.state_dict())
    assert body(tg.nn.Recurrent(cell), "forward") != body(tg.nn.Recurrent(plain), "forward")
    fused, tape = (results(cell, (4, 3, I), engine) for engine in ("require", "never"))
    assert_close(fused, tape)
    assert np.abs(fused["y"] - results(plain, (4, 3, I), "require")["y"]).max() > 1e-3


def test_another_step_in_lstmcell_is_what_lstm_runs(monkeypatch):
    """Replaced in place, before the layer's first call: `nn.LSTM` looks at the step, not at the class's name."""
    interpret(monkeypatch)
    monkeypatch.setattr(tg.nn.LSTMCell, "step", Coupled.step)
    tg.manual_seed(0)
    layer, x = tg.nn.LSTM(I, H, dtype=np.float64), np.random.default_rng(0).normal(size=(4, 3, I))
    cell = Coupled(I, H, dtype=np.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    layer.fused = "require"
    np.testing.assert_array_equal(layer(x)[0].numpy(), tg.nn.Recurrent(cell, fused="require")(x)[0].numpy())
