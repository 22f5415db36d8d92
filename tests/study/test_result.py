"""Every result shows itself: on Axes that are given or made, and as static HTML."""

import base64
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from study.studying import F64, Linear, recorded
from tinygrad_rnn.study.result import limits


def some():
    r = recorded(tg.nn.LSTMCell(2, 3, **F64), T=8, loss=lambda y, s: y.square().sum(), lengths=[8, 5, 3])
    plain = recorded(tg.nn.RNNCell(2, 3, **F64), loss=lambda y, s: y[-1].sum())
    layer, x = tg.nn.GRU(2, 3), tg.randn(6, 2, 2)
    with tg.record(layer) as g:
        y, _ = layer(x)
    losses = [each.square().sum() for each in y]
    trained = tg.nn.Linear(2, 3)
    with tg.study.Monitor(tg.optim.SGD(trained.parameters(), lr=0.1)) as monitor:
        for _ in range(3):
            trained(x).square().mean().backward()
            monitor.optimizer.step()
    fixed = tg.study.fixed_points(layer, starts=g, trajectory=tg.study.trajectory(g))
    return {
        "heatmap": tg.study.heatmap(r, "f", b=1),
        "heatmap of a gradient": tg.study.heatmap(r, "dc", sort="peak"),
        "gradient_flow": tg.study.gradient_flow(r),
        "gradient_flow with its bound": tg.study.gradient_flow(plain),
        "saturation": tg.study.saturation(r, "o"),
        "timescales": tg.study.timescales(r, "f"),
        "trajectory": tg.study.trajectory(r, b=1),
        "trajectory in one dimension": tg.study.trajectory(r, "c", k=1, labels=list("aabbccaa")),
        "jacobians": tg.study.jacobians(r),
        "lyapunov": tg.study.lyapunov(r),
        "integrated_gradients": tg.study.integrated_gradients(lambda x: layer(x)[0][-1].sum(), x),
        "integrated_gradients of a row": tg.study.integrated_gradients(lambda x: (x * x).sum(), x[:, 0, 0]),
        "connectivity": tg.study.connectivity(layer, x[:, 0]),
        "fixed_points": tg.study.fixed_points(layer, starts=np.zeros((1, 3))),
        "fixed_points on a trajectory": fixed,
        "horizon": tg.study.horizon(losses, g),
        "Monitor": monitor,
        "ablate": tg.study.ablate(layer, x, 0),
        "colored_text": tg.study.colored_text("to be, or not to be", np.linspace(-1, 1, 19)),
    }


def drawn_otherwise():
    """What has a page of its own kind, rather than a picture over a sentence."""
    x = tg.ones(3, requires_grad=True)
    y = (x * x).tanh().sum()
    model = tg.nn.Sequential(tg.nn.Linear(2, 3), tg.nn.RNN(3, 4))
    return {
        "graph": tg.study.graph(y),
        "replay": tg.study.replay(y),
        "summary": tg.study.summary(model, 5, 2),
        "explain": tg.study.explain(model, html=True),
    }


@pytest.fixture(scope="module")
def results():
    return some()


def test_every_function_is_tried_here(results):
    """What `study` has is a function whose results are below, a class of such a result, or the table of operations."""
    tried = {name.split()[0] for name in (*results, *drawn_otherwise())}
    assert tried == set(tg.study.__all__) - {"ops", "Result", "Graph", "Replay", "Explained", "Summary"}


@pytest.mark.slow
def test_numbers_sentence_and_picture_of_everything(results):
    from matplotlib import pyplot

    for name, result in {**results, **drawn_otherwise()}.items():
        values = result.values
        several = values.values() if isinstance(values, dict) else values if isinstance(values, list) else [values]
        assert len(several) and all(np.asarray(each).dtype.kind in "fcib" for each in several), name
        assert re.match(r"[A-Z].{40,}\.$", result.sentence), name
        _, ax = pyplot.subplots()
        assert result.plot(ax) is ax, name
        own = result.plot()
        assert own.figure is not ax.figure
        if name != "replay":
            assert own.figure.get_supxlabel().replace("\n", " ").replace("\\$", "$") == result.sentence, name
        pyplot.close("all")


def test_colours_are_the_lighter_the_greater_in_print(results):
    """Every colour map that a picture has survives greyscale."""
    from matplotlib import pyplot

    seen = set()
    for name, result in results.items():
        ax = result.plot()
        mapped = [each for each in (*ax.images, *ax.collections) if each.get_array() is not None]
        for each in mapped:
            if np.ndim(each.get_array()) == 3:  # a picture of colours, which test_models.py looks at
                continue
            grey = each.get_cmap()(np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
            assert (np.diff(grey) > 0).all(), name
            seen.add(name)
        pyplot.close("all")
    assert {"heatmap", "horizon", "connectivity", "trajectory"} <= seen


def test_every_result_shows_itself(results):
    from matplotlib import pyplot

    for name, result in results.items():
        figure, ax = pyplot.subplots(layout="constrained")
        assert result.plot(ax) is ax, name
        assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel(), f"{name} says what it shows"
        figure.canvas.draw()
        own = result.plot()
        own.figure.canvas.draw()
        assert own.figure is not figure
        for text in (text for text in own.figure.texts if text.get_text() == own.figure.get_supxlabel() != ""):
            box, whole = text.get_window_extent(), own.figure.bbox
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1, f"the sentence under {name} is cut off"
        assert len(result.sentence) > 40 and result.sentence.endswith("."), name
        pyplot.close("all")


def test_static_pages(results):
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    for name, result in results.items():
        page = result._repr_html_()
        assert page.startswith("<figure>") and "script" not in page and len(page) < 400_000, name
        if name == "colored_text":
            continue
        data = base64.b64decode(re.search('base64,([^"]+)"', page)[1])
        assert data.startswith(b"\x89PNG"), name
        assert result.sentence.split(";")[0].replace("'", "&#x27;") in page
        assert type(result).__name__ in repr(result)
    assert dict(rcParams) == before and not pyplot.get_fignums(), "no setting is touched, and no figure left open"


def test_names_are_escaped():
    result = tg.study.heatmap(recorded(Linear([[0.5]])), "h")
    result.title, result.sentence = "$x_{<b>", "<script>alert(1)</script> & $x_{ &."
    page = result._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_values_that_no_scale_fits():
    """Constants, zeros, and what is not finite are drawn as well."""
    for array in (np.zeros((2, 3)), np.full((2, 3), 5.0), np.full((2, 3), np.nan), np.array([[np.inf, -np.inf, 2.0]])):
        low, high = limits(array)
        assert np.isfinite([low, high]).all() and low < high
        result = tg.study.heatmap(recorded(Linear([[0.5]])), "h")
        result.values = array
        for result.gradient in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result.png()


def test_numbers_need_no_matplotlib():
    code = """
import sys
sys.modules["matplotlib"] = None
import tinygrad_rnn as tg
from study.test_result import drawn_otherwise, some
for name, result in {**some(), **drawn_otherwise()}.items():
    assert result.values is not None and repr(result) and result.sentence, name
    assert "matplotlib" not in result._repr_html_(), name
    try:
        result.plot()
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} was drawn by nothing")
"""
    here = [str(Path(tg.__file__).parent.parent), str(Path(__file__).parent.parent)]
    path = os.pathsep.join(filter(None, [*here, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_single_step_can_be_seen():
    """A line of one point is none: there is a marker."""
    from matplotlib import pyplot

    layer = tg.nn.RNN(1, 1)
    with tg.record(layer) as r:
        y, _ = layer(tg.ones(1, 1, 1))
    y.sum().backward()
    for result in (tg.study.gradient_flow(r), tg.study.jacobians(r), tg.study.lyapunov(r)):
        ax = result.plot()
        lines = [line for line in ax.lines if np.isfinite(np.asarray(line.get_ydata(), float)).any()]
        points = [line for line in lines if len(line.get_xdata()) == 1]
        assert points and all(line.get_marker() not in ("", "None", None) for line in points), type(result).__name__
        pyplot.close("all")


def test_a_legend_of_many_kinds_has_room():
    from matplotlib import pyplot

    layer = tg.nn.RNN(1, 3)
    with tg.record(layer) as r:
        layer(tg.randn(30, 1, 1))
    ax = tg.study.trajectory(r, labels=list("_ \nabcdefghijklmnopqrstuvwxyz$")).plot()
    ax.figure.canvas.draw()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[:3] == [" _", "' '", "'\\n'"] and texts[-1] == " and 19 more" and len(texts) == 12
    box, whole = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert whole.y0 <= box.y0 and box.y1 <= whole.y1
    pyplot.close("all")


def test_steps_and_units_are_whole_numbers():
    from matplotlib import pyplot

    layer = tg.nn.RNN(2, 3)
    for T in (1, 2, 9):
        with tg.record(layer) as r:
            layer(tg.randn(T, 1, 2))
        f = lambda x: layer(x)[0][-1, 0, 0]
        x = tg.randn(T, 1, 2)
        for result in (tg.study.heatmap(r, "h"), tg.study.integrated_gradients(f, x), tg.study.connectivity(layer, x)):
            ax = result.plot()
            ax.figure.canvas.draw()
            for ticks in (ax.get_xticks(), ax.get_yticks()):
                assert (np.asarray(ticks) == np.round(ticks)).all()
            pyplot.close("all")


def test_a_search_that_found_nothing_says_so():
    class Shift(tg.nn.Cell):
        input_size = hidden_size = 1

        def step(self, x, h):
            return h + 1 + x

    ax = tg.study.fixed_points(Shift(), starts=[[0.0]]).plot()
    assert "no fixed point was found" in [text.get_text() for text in ax.texts]


def test_bars_are_not_called_cells():
    f = lambda x: (x * x).sum()
    assert "The higher a bar" in tg.study.integrated_gradients(f, tg.ones(5)).sentence
    assert "The higher a bar" in tg.study.integrated_gradients(f, tg.ones(5, 1, 1)).sentence
    assert "The lighter a cell" in tg.study.integrated_gradients(f, tg.ones(5, 1, 2)).sentence
