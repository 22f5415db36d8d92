"""Sizes, work and memory of layers: by their formulas, and by what a call keeps."""

import re

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.study import summary


@pytest.mark.parametrize(("I", "H"), [(3, 4), (28, 64), (1, 1)])
def test_parameters_by_the_formula(I, H):
    """4 H (I + H) weights, and 4 H numbers a bias: PyTorch's LSTM has two of them."""
    weights = 4 * H * (I + H)
    assert summary(tg.nn.LSTM(I, H)).parameters == weights + 8 * H
    assert summary(tg.nn.LSTM(I, H, bias=False)).parameters == weights
    assert summary(tg.nn.Recurrent(tg.nn.cells.ArticleLSTMCell(I, H))).parameters == weights + 4 * H
    assert summary(tg.nn.GRU(I, H)).parameters == 3 * H * (I + H) + 6 * H


def test_an_lstm_of_4_inputs_and_4_units():
    one_bias = tg.nn.Recurrent(tg.nn.cells.ArticleLSTMCell(4, 4))
    assert summary(one_bias).parameters == 144 and summary(tg.nn.LSTM(4, 4)).parameters == 160


def test_work_by_the_formula():
    """RNN: two products, three additions and a tanh for each unit."""
    found = summary(tg.nn.RNN(5, 7), T=3, B=2).layers[0]
    assert found.flops == 2 * (2 * 7 * (5 + 7) + 3 * 7 + 7)
    assert summary(tg.nn.Linear(5, 7), T=3, B=2).layers[0].flops == 2 * (2 * 5 * 7 + 7)
    minimal = summary(tg.nn.Recurrent(tg.nn.cells.MinGRUCell(5, 7)), T=3, B=1).layers[0]
    assert minimal.flops >= 2 * 2 * 5 * 7, "no product with the state"


@pytest.mark.parametrize("cell", [tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell, tg.nn.cells.LayerNormLSTMCell])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (7, 2), (30, 5)])
def test_saved_is_what_a_call_keeps(cell, T, B):
    layer = tg.nn.Recurrent(cell(3, 4))
    told = summary(layer, T, B).layers[0].saved
    y, _ = layer(tg.ones(T, B, 3))
    run = y.node.parents[0].saved[1]
    assert told == run.residuals.nbytes + sum(x.nbytes for x in run.every)


class Model(tg.nn.Module):
    def __init__(self):
        self.embed = tg.nn.Embedding(11, 3)
        self.rnn = tg.nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        self.own = tg.nn.Recurrent(tg.nn.RNNCell(8, 5))
        self.head = tg.nn.Linear(5, 11)
        self.scale = tg.nn.Parameter(tg.ones(2))
        self.tied = self.head


def test_a_model():
    model = Model()
    found = summary(model, T=6, B=2)
    names = [layer.name for layer in found.layers]
    assert names == ["Model", "embed", "rnn.cells.0", "rnn.cells.1", "rnn.cells.2", "rnn.cells.3", "own", "head"]
    assert found.parameters == sum(found.values.values()) == sum(p.numel() for p in model.parameters())
    shapes = {layer.name: (layer.x, layer.y) for layer in found.layers}
    assert shapes["rnn.cells.2"] == ((6, 2, 8), (6, 2, 4)) and shapes["own"] == ((6, 2, 8), (6, 2, 5))
    assert found.layers[2].states == {"h": (2, 4), "c": (2, 4)} and found.layers[3].kind == "LSTMCell (reverse)"
    assert found.layers[0].flops is None and "?" in str(found) and f"{found.parameters:,}" in str(found)


class Looks(tg.nn.RNNCell):
    def step(self, x, h):
        return super().step(x, h) if float(h.sum()) < 5 else h


def test_what_cannot_be_compiled_is_not_known():
    found = summary(tg.nn.Recurrent(Looks(3, 4)), T=2, B=1).layers[0]
    assert found.flops is None and found.saved is None and found.y == (2, 1, 4)


def test_table_and_picture():
    from matplotlib import pyplot

    found = summary(Model(), T=6, B=2)
    text = found._repr_html_()
    assert text.count("<tr>") == 2 + len(found.layers) and not re.search("<script|http", text)
    ax = found.plot()
    assert len(ax.patches) == len(found.layers) and found.plot(ax) is ax
    pyplot.close("all")


def test_a_page_of_many_layers_is_cut_off():
    many = summary(tg.nn.Sequential(*[tg.nn.Linear(1, 1) for _ in range(500)]))
    text = many._repr_html_()
    assert text.count("<tr>") == 2 + 200 + 1 and "and 300 layers more" in text and "1,000" in text
    assert len(str(many).splitlines()) == 502, "as text it is whole"


def test_refusals():
    with pytest.raises(TypeError, match="expected a module, got int"):
        summary(3)
    with pytest.raises(ValueError, match="T and B must be at least 1, not 0 and 2"):
        summary(tg.nn.RNN(2, 3), 0, 2)


def test_half_a_step_is_none():
    with pytest.raises(ValueError, match=r"T and B must be at least 1, not 1\.5 and 1"):
        tg.study.summary(tg.nn.LSTM(3, 4), T=1.5)
