"""A step beside its adjoint and its kernels: each line knows of which line of the step it came."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import test_explain
from covering import every_cell
from fusion.comparing import given_to

import tinygrad_rnn as tg
from tinygrad_rnn.fusion.node import differentiated
from tinygrad_rnn.fusion.program import made_of
from tinygrad_rnn.study import explain
from tinygrad_rnn.study.explained import _lines_of_step, unanswered


class MGU(test_explain.MGU):
    """The same, which says how wide its inputs are."""

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.input_size = input_size


def of(column, number):
    return [line.text.strip() for line in column if line.steps == {number}]


def test_the_lines_of_a_step_as_they_stand_there():
    page = explain(tg.nn.Recurrent(MGU(3, 4)), html=True)
    assert page.steps == [
        "f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.bf)",
        "n = tg.tanh(x @ self.Wh + (f * h) @ self.Uh + self.bh)",
        "return (1 - f) * h + f * n",
    ]
    assert repr(page).startswith("Explained: 3 lines of the step, 20 lines of the adjoint, ") and len(repr(page)) < 99


def test_what_came_from_which_line():
    page = explain(tg.nn.Recurrent(MGU(3, 4)), html=True)
    adjoint, back = of(page.adjoint, 1), of(page.backward, 1)
    assert "dn = dh_new * f" in adjoint and "dbh = sum of dv_4 over all T * B rows" in adjoint
    assert any(text.startswith("dUh = f_h.T @ dv_4") for text in adjoint)
    assert any("# gradient of: n = tanh(x_Wh + f_h_Uh + bh)" in text for text in back)
    assert any("dUh, H, H," in text for text in back) and not any("dUf, H, H," in text for text in back)
    assert "f = sigmoid(x_Wf[j] + h_Uf[j] + bf[j])" in of(page.forward, 0)
    assert {line.steps for line in page.adjoint if "dWf, dWh" in line.text} == {frozenset({0, 1})}
    imports = [line for line in page.backward if line.text.startswith(("from ", "import ", '"""', "PANEL"))]
    assert imports and not any(line.steps for line in imports), "what every kernel begins with came from no line"


@pytest.mark.parametrize("make", [MGU, *every_cell(1)])
def test_every_line_that_has_a_gradient_has_its_backward_line(make):
    cell = make(3, 4)
    layer = tg.nn.Recurrent(cell)
    if values := given_to(cell, 2):
        layer(tg.randn(1, 2, 3), **values)
    page, fused = explain(layer, html=True), layer._last_fused()
    _, came_from = _lines_of_step(cell, fused)
    traced = fused.stages["trace"]
    leaves = {*traced.inputs, *traced.states, *(x for x in traced.held if getattr(x.held, "requires_grad", False))}
    reached = set(leaves)  # what a gradient goes through on its way to them
    for value in traced.values:
        if value.row is not None and not reached.isdisjoint(differentiated(value)):
            reached.add(value)
    towards = set(traced.outputs)  # what one comes from
    for value in reversed(traced.values):
        if value in towards and value.row is not None:
            towards.update(differentiated(value))
    moved, once = {*traced.inputs, *traced.states}, {*traced.given}  # what is made of the latter alone the tape makes
    for value in made_of(traced.outputs):
        moved |= set() if moved.isdisjoint(value.inputs) else {value}
        once |= set() if value in moved or once.isdisjoint(value.inputs) else {value}
    lines_of = lambda values: {i for value in values for i in came_from.get(value.name, ())}
    lines = lines_of((reached & towards) - leaves) - lines_of(once)
    assert lines and unanswered(page, lines) == []
    assert [line.text for line in page.step] == page.steps
    assert "\n".join(line.text for line in page.backward) == layer.source("backward").rstrip("\n")


def test_a_line_without_a_gradient_is_not_answered():
    class Masks(tg.nn.RNNCell):
        def step(self, x, h):
            mask = (x > 0).any(-1, keepdim=True)
            return tg.where(mask, super().step(x, h), h)

    page = explain(tg.nn.Recurrent(Masks(3, 4)), html=True)
    (line,) = [i for i, text in enumerate(page.steps) if text.startswith("mask")]
    assert unanswered(page, [line]) == [page.steps[line]]


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_static_and_marks_by_style_alone():
    class Named(MGU):
        pass

    Named.__name__ = "<script>&"
    page = explain(tg.nn.Recurrent(Named(3, 4)), html=True)
    reader = Balanced()
    reader.feed(page._repr_html_())
    assert not reader.open and reader.seen <= {"div", "style", "table", "caption", "tr", "td", "b", "pre", "span",
                                              "details", "summary"}  # fmt: skip
    assert len(page) < 150_000 and "&lt;script&gt;&amp;" in page
    (mark,) = set(re.findall(r'<div class="(tg-explained-\d+)"', page))
    assert f".{mark}:has(.s2:hover) .s2{{" in page and page.count('class="s1"') > 5
    other = explain(tg.nn.Recurrent(MGU(3, 4)), html=True)
    assert f'"{mark}"' not in other, "two pages in one notebook do not mark each other's lines"


def test_the_same_by_methods_and_for_stacks():
    layer, stack = tg.nn.Recurrent(MGU(3, 4)), tg.nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    assert layer.explain(html=True).steps == explain(layer, html=True).steps
    assert explain(layer) == layer.explain() and explain(stack, stage="hoist") == stack.explain("hoist")
    page = stack.explain(html=True)
    assert page.count("<style>") == 2 and page.steps[-1] == "h_new = o * tanh(c_new)"


class Model(tg.nn.Module):
    """A module with a layer within, of a cell of one's own, and a stack of six."""

    def __init__(self):
        self.first = tg.nn.Recurrent(MGU(3, 4))
        self.rest = tg.nn.Stack(lambda width: tg.nn.RNNCell(width, 4), 4, 6)


def test_a_module_with_recurrent_layers():
    model = Model()
    page = explain(model, html=True)
    assert page.steps == explain(model.first, html=True).steps
    assert page.count("<style>") == 4 and "and 3 layers more" in page and len(page) < 400_000
    assert explain(model).startswith("Layer 0, MGU: ") and "Layer 6, RNNCell: " in explain(model)
    assert explain(tg.nn.Sequential(model.first), stage="trace").startswith("Layer 0, MGU after trace")


def test_which_line_came_from_which_as_an_array():
    page = explain(tg.nn.Recurrent(MGU(3, 4)), html=True)
    lines = [*page.adjoint, *page.forward, *page.backward]
    assert page.values.shape == (3, len(lines)) and page.values.dtype == bool
    assert [set(np.flatnonzero(column)) for column in page.values.T] == [line.steps for line in lines]


@pytest.mark.slow
def test_the_columns_as_a_picture():
    from matplotlib import pyplot

    page = explain(tg.nn.Recurrent(MGU(3, 4)), html=True)
    ax = page.plot()
    shown = [text.get_text() for text in ax.texts]
    assert set(page.steps) <= set(shown) and "dn = dh_new * f" in shown
    ax.figure.canvas.draw()
    boxes = [(text.get_window_extent(), text.get_text()) for text in ax.texts if text.get_text()]
    for box, text in boxes:
        assert ax.figure.bbox.x0 <= box.x0 and box.x1 <= ax.figure.bbox.x1, f"{text} is cut off"
        assert not any(box.overlaps(other) and text != told for other, told in boxes), f"{text} is written over"
    pyplot.close("all")


class Looks(MGU):
    def step(self, x, h):
        return super().step(x, h) if float(h.sum()) < 5 else h


def test_refusals():
    with pytest.raises(NotImplementedError, match="Looks cannot be fused"):
        explain(tg.nn.Recurrent(Looks(3, 4)), html=True)
    with pytest.raises(TypeError, match="expected a recurrent layer, got Linear"):
        explain(tg.nn.Linear(2, 3), html=True)
    with pytest.raises(ValueError, match="width of the inputs is not known yet"):
        cell = MGU(3, 4)
        cell.input_size = None
        explain(tg.nn.Recurrent(cell), html=True)
