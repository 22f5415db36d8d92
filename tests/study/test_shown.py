"""How objects show themselves: static, escaped, bounded; and what a recording gives to other libraries."""

import base64
import re
import sys
import types
import zlib

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.study.shown import png, small_picture

ACTIVE = re.compile(r"<script|<style|<link|<iframe|<[^>]* on\w+=|javascript:|https?://(?!www\.w3\.org/2000/svg)", re.I)


class Evil(tg.nn.Module):
    """Its names are HTML."""

    def __init__(self):
        self.parts = {"<script>alert(1)</script>": tg.nn.Linear(2, 3), '"&': tg.nn.Parameter(tg.ones(4))}

    def extra_repr(self):
        return "<b onclick='x'>"


def recorded(engine="auto", T=20):
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(3, 4), fused=engine)
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(T, 2, 3))
    return r, y


def svg_in(page):
    return base64.b64decode(re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', page)[1]).decode()


def objects():
    x = tg.randn(3, 4, requires_grad=True)
    (x * x).sum().backward()
    r, y = recorded()
    y.sum().backward()
    yield from (x, tg.tensor(3.0), tg.zeros(0, 3), tg.randn(300, 500), tg.randn(2, 3, 4), tg.arange(10_000))
    yield from (tg.tensor([True, False]), tg.tensor([np.nan, 1.0, np.inf]), Evil(), tg.nn.LSTM(3, 4, num_layers=2))
    yield from (tg.study.graph(y), tg.study.replay(x.tanh().sum()), tg.study.replay(x.tanh().sum())[0])
    yield from (r, tg.ops, tg.ops["matmul"], tg.nn.cells.list(3, 4))


def test_static_escaped_and_bounded():
    for each in objects():
        text = each._repr_html_()
        assert not ACTIVE.search(text), (type(each), ACTIVE.search(text))
        assert not hasattr(each, "_repr_svg_"), "which a notebook would keep beside the page"
        assert "<svg" not in text, "which is cut out where notebooks are hosted, but for images"
        assert len(text) < 100_000, (type(each), len(text))
        for tag in ("table", "details", "svg", "tr", "td", "div"):
            assert text.count(f"<{tag}>") + text.count(f"<{tag} ") == text.count(f"</{tag}>"), (type(each), tag)


def test_names_are_escaped():
    text = Evil()._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&lt;b onclick=" in text and "&quot;&amp;" in text


def test_a_tensor_shows_numbers_and_gradient():
    x = tg.tensor([[1.5, 2.0]], requires_grad=True)
    assert "1.5" in x._repr_html_() and ">gradient<" not in x._repr_html_() and "<img" in x._repr_html_()
    (3 * x).sum().backward()
    assert ">gradient<" in x._repr_html_() and "[[3., 3.]]" in x._repr_html_()


def test_many_modules_are_cut_off():
    many = tg.nn.Sequential(*[tg.nn.Linear(1, 1, bias=False) for _ in range(500)])
    assert len(many._repr_html_()) < 300_000 and "modules more" in many._repr_html_()


def test_a_picture_is_a_png_of_the_numbers():
    data = png(np.array([[0.0, 1.0, np.nan]]))
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(data[16:20], "big") == 3
    start = data.index(b"IDAT") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    assert list(zlib.decompress(data[start : start + size])) == [0, 0, 32, 76, 255, 233, 69, 187, 187, 187]
    shown = small_picture(np.arange(12.0).reshape(3, 4))
    assert base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])[:4] == b"\x89PNG" and "0 to 11" in shown
    assert small_picture(np.array(1.0)) == "" and small_picture(np.array(["a", "b"])) == ""
    assert small_picture(np.zeros((2, 0, 3))) == "" and "<polyline" in svg_in(small_picture(np.arange(9.0)))


@pytest.mark.parametrize("engine", ["require", "never"])
def test_a_recording_says_what_it_has(engine):
    r, y = recorded(engine)
    assert {"f", "i", "o", "h", "c"} <= set(r._ipython_key_completions_())
    before = r.to_dict()
    assert set(before) == set(r.names) and "no gradient yet" in r._repr_html_()
    y.sum().backward()
    found = r.to_dict()
    assert np.array_equal(found["f"], r["f"].numpy()) and np.array_equal(found["df"], r.grad["f"].numpy())
    assert set(r.grad._ipython_key_completions_()) == set(r.names)
    assert r._repr_html_().count("<img") >= 2 * 5


def test_a_recording_that_was_not_made():
    with tg.record(tg.nn.RNN(2, 3)) as r:
        pass
    assert r._ipython_key_completions_() == [] and "not called" in r._repr_html_()
    with pytest.raises(RuntimeError, match="was not called"):
        r.to_dict()


class Doubled(tg.nn.RNNCell):
    """Its values have names that gradients have as well."""

    def step(self, x, h):
        f = tg.tanh(super().step(x, h))
        df = f * 2
        return df - f


def test_gradients_do_not_hide_values():
    layer = tg.nn.Recurrent(Doubled(3, 4))
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(3, 2, 3))
    y.sum().backward()
    found = r.to_dict()
    assert np.array_equal(found["df"], r["df"].numpy()) and np.array_equal(found["d_f"], r.grad["f"].numpy())


@pytest.mark.parametrize("engine", ["require", "never"])
def test_to_xarray(engine, monkeypatch):
    """Named dimensions: what xarray is told, whether it is installed or not."""
    stand_in = types.SimpleNamespace(Dataset=lambda variables, attrs: (variables, attrs))
    monkeypatch.setitem(sys.modules, "xarray", stand_in)
    r, y = recorded(engine)
    y.sum().backward()
    variables, attributes = r.to_xarray()
    assert variables["f"][0] == variables["df"][0] == ("time", "batch", "unit")
    assert np.array_equal(variables["h"][1], r["h"].numpy()) and "LSTMCell" in attributes["title"]
    wide = [name for name, (dimensions, array) in variables.items() if array.shape[2:] == (16,)]
    assert wide and all(variables[name][0] == ("time", "batch", "unit_16") for name in wide)


def test_ops_are_the_table():
    assert "tanh" in tg.ops and len(tg.ops) == len(list(tg.ops)) > 40
    assert "da = matmul(dy, mT(b))" in repr(tg.ops["matmul"]) and repr(tg.ops["exp"]) in repr(tg.ops)
    assert "matmul" in tg.ops._ipython_key_completions_()
    with pytest.raises(KeyError):
        tg.ops["tahn"]


def test_the_list_of_cells():
    text = tg.nn.cells.list(3, 4)._repr_html_()
    assert text.count("<tr>") == 1 + len(tg.nn.cells.list(3, 4)) and "SLSTMCell" in text
