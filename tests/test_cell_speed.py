"""`demos/cells.py --speed`: the loops in PyTorch compute what the cells do, and are written as they are said to be."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells import catalogue

SCRIPT = Path(__file__).parent.parent / "demos" / "cells.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the tests run without their checkout")
ENTRIES = {entry.cell.__name__: entry for entry in catalogue.ROWS if entry.cell.__module__.startswith("tinygrad_rnn.")}
T, B, I, H = 5, 3, 8, 8


@pytest.fixture(scope="module")
def speed():
    """What measures, as a module."""
    with loaded("cell_speed") as module:
        yield module


def sides(speed, entry):
    """Outputs and gradients, of the tape and of the loop in PyTorch."""
    pytest.importorskip("torch")
    tg.manual_seed(0)
    cell = entry.make(I, H).double()
    rng = np.random.default_rng(0)
    given = {key: rng.standard_normal((B, *shape)) for key, shape in entry.values(I, H).items()}
    x = rng.standard_normal((T, B, I))
    with tg.no_grad():
        dy = rng.standard_normal((T, *cell.begin(None, B)[0].shape))
    tape, loop = speed.ours(cell, x, dy, given, "never"), speed.theirs(cell, x, dy, given)
    return tape(), loop()


def compare(speed, entry):
    try:
        expected, found = sides(speed, entry)
    except speed.Rival as error:
        assert "random numbers" in str(error) or "for each sequence" in str(error), error
        pytest.skip(str(error))
    assert {"y", "x"} <= found.keys() and len(found) > 2
    for key, array in found.items():
        if array is None:  # PyTorch says so where ours says zero or nothing
            assert expected[key] is None or not np.asarray(expected[key]).any()
            continue
        a, b = np.asarray(array), np.asarray(expected[key])
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1, np.abs(b).max()), err_msg=key)


@pytest.mark.parametrize("name", ["LSTMCell", "LayerNormGRUCell", "QRNNCell"])
def test_a_loop(speed, name):
    compare(speed, ENTRIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_loop(speed, name):
    compare(speed, ENTRIES[name])


def text_of(speed, name):
    torch_loop = pytest.importorskip("torch") and importlib.import_module("torch_loop")
    cell = ENTRIES[name].make(I, H)
    with torch_loop.in_torch():
        text = torch_loop.Written(speed.traced(cell, np.zeros((1, B, I), np.float32), {})).text
    before, _, loop = text.partition("    for ")
    return before, loop


def test_what_is_hoisted_and_joined(speed):
    """One product at a step for all gates, which adds what x gives; gates are cut at once."""
    for name in ("LSTMCell", "ArticleLSTMCell"):  # one matrix for all gates, or four
        before, loop = text_of(speed, name)
        assert loop.count("addmm") == 1 and loop.count(" @ ") == 0 and loop.count(".split(") == 1, loop
        assert before.count("addmm") == 1 and before.count(" @ ") == 0, before
        assert "[:" not in loop and " + " not in re.sub(r"f_c \+ \w+", "", loop), loop
    before, loop = text_of(speed, "MinGRUCell")
    assert "sigmoid" in before and "sigmoid" not in loop, "no state has a part in its gate"


def test_functions_that_torch_has(speed):
    before, loop = text_of(speed, "LayerNormGRUCell")
    assert before.count("F.layer_norm") == loop.count("F.layer_norm") == 2 and ".sum(" not in before + loop
    before, loop = text_of(speed, "SLSTMCell")
    assert "F.logsigmoid" in loop and "where" not in loop and "softplus" not in loop


def test_another_value_is_noticed(speed, monkeypatch):
    """A loop that computed something else would not be timed."""
    pytest.importorskip("torch")
    torch_loop = importlib.import_module("torch_loop")
    monkeypatch.setitem(torch_loop.SIGNS, "add", "-")
    found = speed.measure(ENTRIES["MGUCell"], speed.TINY, True)
    assert "loop" not in found.ratios and found.note.startswith("PyTorch's loop computes another "), found


def test_turns(speed, monkeypatch):
    """Ratios are medians within turns, of processor time."""
    clock, cost = [0.0], {"fused": 0.01, "loop": 0.05}
    monkeypatch.setattr(speed.time, "process_time", lambda: clock[0])

    def call(side):
        def run():
            clock[0] += cost[side]

        return run

    times, ratios = speed.turns({side: call(side) for side in cost}, False)
    assert times == pytest.approx(cost) and ratios == pytest.approx({"fused": 1.0, "loop": 5.0})


def test_what_was_measured_before_stays(speed, tmp_path, monkeypatch):
    """On the same machine, and in the order of the list."""
    of = lambda name, t: speed.Speed(name, {"fused": t}, {"fused": 1.0}, "")
    one, two, other = of("a", 1.0), of("b", 2.0), of("a", 3.0)
    path, names = tmp_path / "speed.json", ["a", "b"]
    assert speed.merged(path, [two], speed.SIZES, names) == [two]
    assert speed.merged(path, [one], speed.SIZES, names) == [one, two]
    assert speed.merged(path, [other], speed.SIZES, names) == [other, two]
    monkeypatch.setattr(speed, "processor", lambda: "another one")
    assert speed.merged(path, [one], speed.SIZES, names) == [one]


def test_it_measures(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--speed", "--quick", "--only", "RNN", "MinGRU"]
    command += ["--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "2/2" in done.stderr  # the progress bar
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md", "speed.png"]
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    row = r"^\| \[MinGRU\]\(MinGRUCell.md\) \| \d+\.\d\d \| \d+\.\d\d \|( \d+\.\d\d)? \| \d+\.\d \|( \d+\.\d)? \|$"
    assert re.search(row, text, re.MULTILINE), text
    assert "T = 4 steps" in text and "processor is called " in text


def test_a_loop_is_printed():
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, str(SCRIPT), "--loop", "mgu"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stdout.startswith("def loop(x_all, p, given, start):"), done.stderr
