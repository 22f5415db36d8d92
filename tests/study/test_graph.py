"""The tape as a picture, and the backward pass in frames: micrograd's numbers, and as many boxes as the tape has."""

import itertools
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.study import graph, replay
from tinygrad_rnn.study.boxes import size_of
from tinygrad_rnn.study.layout import layout
from tinygrad_rnn.study.repeats import repeats


def number(x):
    return tg.tensor(x, requires_grad=True, dtype=tg.float64)


def lecture():
    a, b, c, f = number(2.0), number(-3.0), number(10.0), number(-2.0)
    e = a * b
    d = e + c
    L = d * f
    return L, {"a": a, "b": b, "c": c, "f": f, "e": e, "d": d, "L": L}


def behind(root):
    """The places of a tape, counted without the code under test."""
    found, ahead = {id(root): root}, [root]
    while ahead:
        for parent in ahead.pop().parents:
            if id(parent) not in found:
                found[id(parent)] = parent
                ahead.append(parent)
    return list(found.values())


def test_micrograds_lecture():
    L, names = lecture()
    before = graph(L, names=names)
    assert before.values["L"] == -8 and before.values["e"] == -6 and before.values["d"] == 4
    assert not before.gradients and str(before).count("no gradient yet") == 7
    for x in (names["e"], names["d"], L):
        x.retain_grad()
    last = replay(L, names=names).graph
    L.backward()
    after = L.graph(names=names)
    wanted = {"a": 6, "b": -4, "c": -2, "d": -2, "e": -2, "f": 4, "L": 1}
    assert {name: g.item() for name, g in after.gradients.items()} == wanted
    assert after.svg() == last.svg() and str(after) == str(last), "the last frame of the replay is the graph"


def test_micrograds_neuron():
    x1, x2, w1, w2, b = number(2.0), number(0.0), number(-3.0), number(1.0), number(6.8813735870195432)
    o = tg.tanh(x1 * w1 + x2 * w2 + b)
    found = replay(o).graph
    assert abs(found.values["o"] - 0.7071) < 5e-5
    gradients = [found.gradients[name].item() for name in ("x1", "w1", "x2", "w2")]
    assert np.allclose(gradients, [-1.5, 1.0, 0.5, 0.0], rtol=5e-7)
    assert "w2  value 1  grad 0" in str(found), "a gradient that is zero is one"


def test_micrograds_readme():
    a, b = number(-4.0), number(2.0)
    c = a + b
    d = a * b + b**3
    c = c + (c + 1)
    c = c + (1 + c + (-a))
    d = d + (d * 2 + (b + a).relu())
    d = d + (3 * d + (b - a).relu())
    e = c - d
    f = e**2
    g = f / 2.0
    g = g + 10.0 / f
    frames = replay(g, names={"a": a, "b": b, "g": g})
    shown = [round(float(x), 4) for x in
             (frames.graph.values["g"], frames.graph.gradients["a"], frames.graph.gradients["b"])]  # fmt: skip
    assert shown == [24.7041, 138.8338, 645.5773]
    g.backward()
    assert frames.graph.gradients["a"] == a.grad.item() and frames.graph.gradients["b"] == b.grad.item()


def some_graphs():
    """Results, and the leaves that they are made of, which must not be gone."""
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    w = tg.ones(2, 2, requires_grad=True)
    yield x, [x]
    yield (x * x).sum(), [x]
    yield (tg.softmax(x @ w, -1) + tg.cat([x[:1], w[1:]])).mean() / 3, [x, w]
    layer = tg.nn.RNN(2, 3, num_layers=2)
    y, h = layer(x.reshape(1, 2, 2))
    yield y.sum() + h.square().sum(), [x, *layer.parameters()]
    slow = tg.nn.Recurrent(tg.nn.GRUCell(2, 3), fused="never")
    yield slow(tg.ones(4, 2, 2))[0].sum(), [*slow.parameters()]


@pytest.mark.parametrize("case", range(5))
def test_as_many_boxes_arrows_and_frames_as_the_tape(case):
    y, _ = list(some_graphs())[case]
    places = behind(y.node)
    start = tg.ones(y.shape) if y.numel() > 1 else None
    found, frames = graph(y), replay(y, start)
    assert len(found.boxes) == len(places) == len(frames)
    assert len(found.edges) == sum(len(place.parents) for place in places)
    assert all(a < b for a, b in found.edges), "operands are older than results"
    assert len({box.label for box in found.boxes}) == len(found.boxes)
    assert len(ElementTree.fromstring(found.svg()).findall("{*}rect")) == len(places)
    assert found.svg().count("<polygon") == len(found.edges)


@pytest.mark.parametrize("case", range(5))
def test_the_replay_is_the_backward_pass(case):
    y, leaves = list(some_graphs())[case]
    start = tg.ones(y.shape) if y.numel() > 1 else None
    frames = replay(y, start, names={f"leaf{i}": x for i, x in enumerate(leaves)})
    assert all(x.grad is None for x in leaves), "it changes no gradient"
    y.backward(start)
    for i, x in enumerate(leaves):
        assert np.allclose(frames.graph.gradients[f"leaf{i}"], x.grad.numpy(), rtol=1e-6, atol=1e-7)


def test_accumulation_is_seen():
    x = tg.tensor(3.0, requires_grad=True)
    frames = replay(x * x + x)
    seen = [frame.graph.gradients.get("x") for frame in frames]
    assert [s if s is None else s.item() for s in seen] == [1, 7, 7]
    assert [each.gradient.item() for each in frames[1].received] == [3, 3]
    assert "dx += dmul * x: x receives 3, which makes 4" in str(frames) and "makes 7" in str(frames)
    assert frames[1].received[0].rule == "da = dy * b"


def test_gradients_that_nobody_keeps_are_not_zero():
    L, names = lecture()
    L.backward()
    found = graph(L, names=names)
    assert found.boxes[found.edges[-1][1]].gradient == "gradient not kept"
    assert "grad 0" not in str(found)
    assert [box.label for box in found.boxes if isinstance(box.gradient, np.ndarray)] == ["a", "b", "c", "f"]


def test_values_of_tensors_that_are_gone():
    """What the tape saved, and what follows from it, is known; of the rest it is said that it is not."""
    a, b = number(2.0), number(3.0)
    y = ((a * b) + a).tanh()
    found = graph(y)
    assert found.values["mul"] == 6 and found.values["add"] == 8
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    deep = graph((tg.cat([x[:1], x[1:] ** 3]).sum(0) / 2).tanh().sum())
    assert deep.values["cat"].tolist() == [[1, 2], [27, 64]] and deep.values["pow"].tolist() == [[27, 64]]
    assert deep.values["sum"].tolist() == [28, 66] and deep.values["div"].tolist() == [14, 33]
    far = graph((a + 1).sum())
    assert "value not kept" in str(far)


@pytest.mark.parametrize("case", range(5))
def test_values_found_again_are_the_tape_s(case, monkeypatch):
    """With every tensor of a graph kept, and with none: the values that both know are the same."""
    kept = []
    make = tg.Tensor.__init__
    monkeypatch.setattr(tg.Tensor, "__init__", lambda self, *a: (make(self, *a), kept.append(self))[0])
    y, _leaves = list(some_graphs())[case]
    known = graph(y).boxes
    assert all(box.value is not None for box in known if box.kind != "recurrence") and kept
    kept.clear()
    found = graph(y).boxes
    for one, other in zip(found, known):
        if one.value is not None:
            assert one.value.shape == other.value.shape == one.shape
            assert np.allclose(one.value, other.value, rtol=1e-6)
    assert case == 0 or sum(box.value is not None for box in found) >= len(_leaves) + 1


def test_a_recurrence_is_one_box():
    layer = tg.nn.LSTM(3, 4)
    y, (h, _) = layer(tg.ones(50, 2, 3))
    loss = y.sum() + h.sum()
    found = graph(loss)
    (box,) = [box for box in found.boxes if box.kind == "recurrence"]
    assert box.label == "LSTMCell over time, T=50, B=2" and len(found.boxes) < 15
    assert {"y", "final h"} <= {box.label for box in found.boxes}
    assert found.values["layer.weight_ih_l0"].shape == (16, 3)
    frames = replay(loss)
    loss.backward()
    assert np.array_equal(frames.graph.gradients["layer.weight_ih_l0"], layer.weight_ih_l0.grad.numpy())


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_loop_is_rolled_into_one_box(kind):
    """Of ten steps on the tape the first is another one, as nothing is behind its state; nine are alike."""
    layer = tg.nn.Recurrent(getattr(tg.nn, f"{kind}Cell")(3, 4), fused="never")
    y, _ = layer(tg.ones(10, 2, 3))
    whole = graph(y[-1].sum())
    small = whole.rolled()
    loop = next(box for box in small.boxes if box.kind == "loop")
    assert loop.label.startswith(("8 times: ", "9 times: ")), loop.label
    assert len(small.boxes) < len(whole.boxes) / 3 and all(a < b for a, b in small.edges)
    assert "times: " in small.svg() and small.rolled().boxes == small.boxes


def test_what_repeats_itself():
    def one(names, parents):
        return repeats(names.split(), parents)

    assert one("a b c d", [[], [0], [1], [2]]) is None
    assert one("a b a b", [[], [0], [1], [2]]) is None, "twice is no loop"
    assert one("a a a", [[], [0], [1]]) is None, "the first has no operand"
    assert one("a a a a", [[], [0], [1], [2]]) == (1, 1, 3)
    assert one("a b b a b a b a b c", [[]] * 10) == (3, 2, 3)
    assert repeats(["", "", "b", "b", "b"], [[], [], [0], [1], [0]]) is None, "the operands are others"
    assert repeats(["", "", "b", "b", "b"], [[], [], [0], [0], [0]]) == (0, 1, 3)


def test_a_step():
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(3, 4))
    found = graph(layer)
    made = {box.label: box.operation for box in found.boxes}
    assert made["c_new"] == "f * c + i * g" and made["f"] == "sigmoid(a_f)" and made["x"] == ""
    assert "no gradient yet" in str(found) and "grad 0" not in str(found)
    with tg.record(layer) as r:
        y, _ = layer(tg.randn(5, 2, 3))
    y.square().sum().backward()
    seen = graph(r, t=2)
    assert [box.label for box in seen.boxes] == [box.label for box in found.boxes]
    assert np.array_equal(seen.values["f"], r["f"].numpy()[2])
    assert np.array_equal(seen.values["c"], r["c"].numpy()[1]), "before the step"
    assert np.array_equal(seen.values["c_new"], r["c"].numpy()[2])
    assert np.array_equal(seen.gradients["c_new"], r.grad["c"].numpy()[2])
    assert all(box.value is not None for box in seen.boxes)
    with pytest.raises(ValueError, match="t is 5, and there are 5 steps"):
        graph(r, t=5)


def test_names_are_escaped():
    x = number(1.0)
    found = graph(x * 2, names={'<script>"&': x})
    text = found._repr_html_() + replay(x * 2, names={'<script>"&': x})._repr_html_()
    assert "<script" not in text and "&lt;script&gt;&quot;&amp;" in text
    ElementTree.fromstring(found.svg())


def sum_of(count):
    """Of so many products, each of another number."""
    total = number(0.0)
    for _ in range(count):
        total = total + number(1.0) * 2
    return total


def test_pictures_are_static_and_bounded():
    y = number(0.5)
    for _ in range(2000):
        y = y * 1.001
    found = graph(y)
    assert len(found.boxes) == 2001 and "the youngest 150 drawn" in found.svg()
    assert len(found._repr_html_()) < 200_000 and str(found).endswith("values more")
    middle = replay(sum_of(19))
    assert 50 <= len(middle) <= 60 and 300_000 < len(middle._repr_html_()) < 700_000, "pictures as far as there is room"
    small = replay(number(1.0) * 2)._repr_html_()
    assert not re.search(r"<script|onclick|http(?!://www.w3.org/2000/svg)", small + found.svg())


def test_matplotlib_draws_the_same():
    from matplotlib import pyplot

    L, names = lecture()
    ax = graph(L, names=names).plot()
    assert sorted(text.get_text().split("\n")[0] for text in ax.texts if text.get_text()) == \
        ["L = mul", "a", "b", "c", "d = add", "e = mul", "f"]  # fmt: skip
    assert replay(L).plot(ax) is ax
    pyplot.close("all")


def test_boxes_do_not_overlap():
    for y, _ in some_graphs():
        found = graph(y)
        place, shown, _ = found.placed()
        sizes = [size_of(found.boxes[i]) for i in shown]
        corners = [(*place.at[i], *size) for i, size in zip(shown, sizes)]
        for k, (x, y_, w, h) in enumerate(corners):
            assert x - w / 2 >= 0 and x + w / 2 <= place.width and y_ - h / 2 >= 0 and y_ + h / 2 <= place.height
            for u, v, p, q in corners[:k]:
                assert abs(x - u) >= (w + p) / 2 or abs(y_ - v) >= (h + q) / 2


def test_no_letter_is_cut_off():
    """Every text of every frame lies within its picture."""
    for frame in replay(lecture()[0]):
        picture = ElementTree.fromstring(frame.svg())
        left, top, _, high = map(float, picture.get("viewBox").split())
        assert high == float(picture.get("height"))
        for text in picture.findall("{*}text"):
            length = {"middle": 0.5, "end": 1}[text.get("text-anchor")] * 6.6 * len(text.text)
            assert top + 11 <= float(text.get("y")) <= top + high and left <= float(text.get("x")) - length, text.text


def test_a_wide_picture_scrolls_rather_than_be_too_small_to_read():
    found = graph(tg.nn.Recurrent(tg.nn.LSTMCell(3, 4)))
    width = int(re.search(r' width="(\d+)"', found.svg())[1])
    for page in (found._repr_html_(), replay(lecture()[0])[0].picture()):
        assert 'style="overflow-x:auto"' in page
    least = int(re.search(r"max-width:100%;min-width:(\d+)px", found._repr_html_())[1])
    assert width > 1500 and 0.6 * width < least < width


def test_arrows_pass_beside_boxes():
    """Where an arrow crosses a layer it is straight, and no box of the layer is in its way."""
    sizes = {name: (40 + 30 * i % 70, 20 + 7 * i % 30) for i, name in enumerate("abcdefghij")}
    pairs = [(i, k) for k in range(10) for i in range(k) if i * k % 3 == 1 or k == i + 1]
    edges = [("abcdefghij"[i], "abcdefghij"[k]) for i, k in pairs]
    place = layout(sizes, edges)
    assert any(len(path) > 4 for path in place.paths)
    for edge, path in zip(edges, place.paths):
        assert path == sorted(path), "it goes to the right"
        for name, (p, q) in place.at.items():
            (width, height), inside = sizes[name], 0.5 if name in edge else 0.0
            for (x, y), (u, v) in itertools.pairwise(path):
                if x < p + width / 2 - inside and u > p - width / 2 + inside:
                    assert y == v and (name in edge or abs(q - y) >= height / 2), (edge, name)


def test_layers_lead_to_the_right():
    place = layout(dict.fromkeys("abcdef", (30, 20)), [("a", "c"), ("b", "c"), ("c", "e"), ("d", "e"), ("a", "f")])
    for first, last in (("a", "c"), ("b", "c"), ("c", "e"), ("d", "e"), ("a", "f")):
        assert place.at[first][0] < place.at[last][0]
    assert place.at["d"][0] == place.at["c"][0], "what is given stands close to its reader"
    assert layout({}, []).paths == []


class Own:
    """A number of a user's own class."""

    def __init__(self, value, parents=(), slopes=(), name=""):
        self.value, self.parents, self.slopes, self.name, self.grad = value, parents, slopes, name, None


def test_numbers_of_a_class_of_ones_own():
    a, b = Own(2.0, name="a"), Own(-3.0)
    e = Own(-6.0, (a, b), (-3.0, 2.0), "mul")
    y = Own(-4.0, (e, a), (1.0, 1.0), "add")
    before = graph(y)
    assert [box.label for box in before.boxes] == ["a", "b", "e", "y"] and before.sent is None
    assert before.edges == [(0, 2), (1, 2), (2, 3), (0, 3)] and str(before).count("no gradient yet") == 4
    a.grad, b.grad, e.grad, y.grad = -2.0, 2.0, 1.0, 1.0
    after = graph(y)
    assert after.gradients == {"a": -2, "b": 2, "e": 1, "y": 1} and after.sent == ["-3", "2", "1", "1"]
    assert after.svg().count("<polygon") == 2 * len(after.edges) and ">-3</text>" in after.svg()
    chain = a
    for _ in range(3000):  # deeper than Python's recursion
        chain = Own(1.0, (chain,))
    assert len(graph(chain).boxes) == 3001


def test_all_frames_in_one_picture():
    from matplotlib import pyplot

    L, names = lecture()
    whole = replay(L, names=names).whole
    labels = [box.label for box in whole.boxes]
    sent = {(labels[a], labels[b]): text for (a, b), text in zip(whole.edges, whole.sent)}
    assert sent == {("a", "e"): "6", ("b", "e"): "-4", ("c", "d"): "-2", ("e", "d"): "-2", ("d", "L"): "-2",
                    ("f", "L"): "4"}  # fmt: skip
    x = number(3.0)
    twice = replay(x * x).whole
    assert twice.sent == ["3", "3"] and twice.edges == [(0, 1), (0, 1)], "each use has an arrow of its own"
    assert sorted(t.get_text() for t in whole.plot().texts if "\n" not in t.get_text()) == sorted(whole.sent)
    pyplot.close("all")


def test_arrows_end_side_by_side():
    place = layout(dict.fromkeys("abc", (30, 20)), [("a", "c"), ("b", "c"), ("a", "c")])
    ends = [path[-1] for path in place.paths]
    assert len(set(ends)) == 3 and all(x == place.at["c"][0] - 15 and abs(y - place.at["c"][1]) < 10 for x, y in ends)
    assert len({path[0] for path in place.paths}) == 3


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="nothing is recorded behind this tensor"):
        graph(tg.ones(2))
    with pytest.raises(TypeError, match="expected a tensor, a recurrent layer or a recording, got list"):
        graph([1])
    with pytest.raises(TypeError, match="no recurrent layer in Linear"):
        graph(tg.nn.Linear(2, 2))
    x = tg.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"y has shape \[2\], give a gradient"):
        replay(x * x)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="replay before backward"):
        replay(y)
    slow = tg.nn.Recurrent(tg.nn.RNNCell(2, 3), fused="never")
    with tg.record(slow) as r:
        slow(tg.ones(2, 1, 2))
    with pytest.raises(ValueError, match="ran on the tape"):
        graph(r)


@pytest.mark.slow
def test_long_tapes_take_no_square_of_memory():
    """Frames know what was received, and make their graph when it is looked at."""
    y = number(0.5)
    for _ in range(3000):
        y = y * 1.001
    frames = replay(y)
    assert len(frames) == 3001 and len(frames[10].graph.gradients) == 12
    assert len(frames._repr_html_()) < 50_000 and "frames more" in frames._repr_html_()


@pytest.mark.parametrize("own, steps", [(True, 30), (False, 6)])
def test_letters_stay_in_their_boxes(own, steps):
    """Of a picture that is wider than its axes the letters are smaller, and lie over no others."""
    from matplotlib import pyplot

    x = tg.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(steps):
        y = tg.tanh(y * 1.1)
    ax = tg.study.graph(y).plot(None if own else pyplot.subplots(figsize=(9, 3))[1])
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) > steps
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    pyplot.close("all")


def test_values_of_long_tapes_are_found_as_those_of_short_ones(monkeypatch):
    y = x = tg.tensor(1.0, requires_grad=True)
    alive = []
    for _ in range(6):
        y = tg.tanh(y * 1.1)
        alive.append(y)
    few = graph(y, names={"x": x})
    monkeypatch.setattr(sys.modules["tinygrad_rnn.study.graph"], "FEW", 0)
    assert [box.value for box in graph(y, names={"x": x}).boxes] == [box.value for box in few.boxes]
    assert sum(box.value is not None for box in few.boxes) >= 7
