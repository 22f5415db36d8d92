"""`demos/cells.py`: its pages are those that are committed, each cell has one, and what stands on them runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo_modules import loaded

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells import catalogue

SCRIPT = Path(__file__).parent.parent / "demos" / "cells.py"
FOLDER = SCRIPT.with_suffix("")
ANEW = "python demos/cells.py --text"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the tests run without their checkout")
OWN = [entry for entry in catalogue.ROWS if entry.cell.__module__.startswith("tinygrad_rnn.nn.cells.")]
EVERY = pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.cell.__name__)


@pytest.fixture(scope="module")
def demo():
    """The script as a module, and what makes pages and pictures as its attributes."""
    with loaded("cells") as module:
        yield module


def entry_of(name):
    return next(entry for entry in OWN if entry.cell.__name__ == name)


def check_page(demo, entry):
    """Line by line, whatever random numbers have been drawn."""
    path = FOLDER / f"{entry.cell.__name__}.md"
    assert path.exists(), f"{path.name} is missing: {ANEW}, or without --text for its picture as well"
    kept = path.read_text(encoding="utf-8")
    reason = re.search(r"^There is no picture of this cell: (.*)\.$", kept, re.MULTILINE)
    state = tg.get_rng_state()
    found = demo.cell_pages.page(entry, reason[1] if reason else True)
    assert tg.get_rng_state() == state
    assert found.splitlines() == kept.splitlines(), f"{path.name} is not what it would be now: {ANEW}"
    assert reason or path.with_suffix(".png").exists()


def run_usage(entry, text):
    """What the page says how to use it, in small and without kernels."""
    (code,) = re.findall(r"```python\n(import .*?)```", text, re.DOTALL)
    assert len(code.splitlines()) == 3
    small = code.replace("randn(100, 32,", "randn(2, 32,")
    small = re.sub(r"^(y|outputs), ", r'layer.fused = "never"\n\g<0>', small, flags=re.MULTILINE)
    assert small.count("never") == 1
    names = {}
    exec(small, names)
    assert names.get("outputs", names.get("y")).shape[:2] == (2, 32) and type(names["layer"].cell) is entry.cell


@pytest.mark.parametrize("name", ["GRUCell", "MinLSTMCell"])
def test_a_page(demo, name):
    check_page(demo, entry_of(name))


@pytest.mark.slow
@EVERY
def test_every_page(demo, entry):
    check_page(demo, entry)
    run_usage(entry, (FOLDER / f"{entry.cell.__name__}.md").read_text(encoding="utf-8"))


def test_every_cell_has_a_page():
    expected = {entry.cell.__name__ for entry in OWN}
    pages = {path.stem for path in FOLDER.glob("*Cell.md")}
    assert pages == expected, f"missing: {expected - pages}, left over: {pages - expected}; python demos/cells.py"
    pictures = {path.stem for path in FOLDER.glob("*Cell.png")}
    assert pictures <= pages


@pytest.mark.slow
def test_the_table(demo):
    kept = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = demo.cell_pages.index(OWN, (FOLDER / "speed.md").exists())
    assert found.splitlines() == kept.splitlines(), f"README.md is not what it would be now: {ANEW}"


def test_what_pages_link_to_is_there():
    for path in FOLDER.glob("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (FOLDER / link).exists(), f"{path.name}: {link}"


def test_pages_are_small():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert max(sizes.values()) < 64_000 and sum(sizes.values()) < 3_500_000
    pictures = {name: size for name, size in sizes.items() if name.endswith("Cell.png")}
    assert max(pictures.values(), default=0) < 32_000, pictures


def test_what_the_table_says_of_every_cell_runs(demo):
    (code,) = demo.cell_pages.python_blocks((FOLDER / "README.md").read_text(encoding="utf-8"))
    pyplot = pytest.importorskip("matplotlib.pyplot")
    names = {}
    exec(code, names)
    assert names["y"].shape == (100, 3, 128)
    pyplot.close("all")


def test_usage_as_it_stands(demo):
    names = {}
    exec(demo.cell_pages.usage(entry_of("MGUCell")), names)
    assert names["y"].shape == (100, 32, 64) and names["h"].shape == (32, 64)


# ---- What goes wrong -------------------------------------------------------------------------------------------------


class _Branches(tg.nn.Cell):
    """A step that no kernel can do: it branches on a number (Nobody, 2026)."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W = tg.nn.weight(input_size, hidden_size)

    def step(self, x, h):
        h = 0.9 * h + x @ self.W
        return h * 0.5 if float(h.data.max()) > 1 else h


class _Fails(_Branches):
    """A step that raises (Nobody, 2026)."""

    def step(self, x, h):
        raise RuntimeError("nothing | goes [here]")


def listed(kind):
    return catalogue.Entry(kind, "h' = ?", "Nobody, 2026", True, lambda I, H: {}, kind)


def test_a_cell_without_kernels_has_a_page_and_a_picture(demo, tmp_path, monkeypatch):
    entry = listed(_Branches)
    monkeypatch.setattr(catalogue, "ROWS", [*catalogue.ROWS, entry])
    options = demo.arguments().parse_args(["--updates", "1", "--seed", "3"])
    with pytest.warns(match="tape"):
        drawn = demo.picture(entry, tmp_path / "a.png", options, None)
    assert drawn is True, drawn
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = demo.cell_pages.page(entry, True)
    assert "It runs on the tape, step by step: " in page and "not counted" in page and "](_Branches.png)" in page


class _Speaks(_Branches):
    """A step that is given something for the sequence (Nobody, 2026)."""

    def step(self, x, h, *, speaker):
        return tg.tanh(h + x @ self.W + speaker)


def test_a_cell_that_takes_a_value_by_name(demo, monkeypatch):
    entry = listed(_Speaks)._replace(values=lambda I, H: {"speaker": (H,)})
    monkeypatch.setattr(catalogue, "ROWS", [*catalogue.ROWS, entry])
    page = demo.cell_pages.page(entry, True)
    assert "What it takes by name, `speaker`, is random here" in page
    assert "layer(tg.randn(100, 32, 28), speaker=tg.randn(32, 64))" in page
    monkeypatch.setattr(tg.nn.cells, "_Speaks", _Speaks, raising=False)
    run_usage(entry, page)


def test_a_cell_that_cannot_be_recorded_has_a_page_that_says_why(demo, tmp_path, monkeypatch):
    entry = listed(_Fails)
    monkeypatch.setattr(catalogue, "ROWS", [*catalogue.ROWS, entry])
    options = demo.arguments().parse_args(["--updates", "1"])
    (tmp_path / "a.png").write_bytes(b"of an earlier run")
    why = demo.picture(entry, tmp_path / "a.png", options, None)
    assert why == "RuntimeError: nothing | goes [here]" and not list(tmp_path.iterdir())
    page = demo.cell_pages.page(entry, why)
    assert f"There is no picture of this cell: {why}." in page and "_Fails.png" not in page


class _Explodes(_Branches):
    """A step whose numbers overflow soon (Nobody, 2026)."""

    def step(self, x, h):
        return 100 * (h + x @ self.W)


def test_numbers_that_overflow_are_said_to(demo, tmp_path):
    options = demo.arguments().parse_args(["--updates", "1"])
    why = demo.picture(listed(_Explodes), tmp_path / "a.png", options, None)
    assert why == "ArithmeticError: its numbers overflow in training" and not list(tmp_path.iterdir())


# ---- The command -----------------------------------------------------------------------------------------------------


def test_it_runs(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "10/10" in done.stderr  # the progress bar
    assert "2 pages; 5 files of " in done.stdout and "without a picture" not in done.stdout
    names = ["GRUCell.md", "GRUCell.png", "MinGRUCell.md", "MinGRUCell.png", "README.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "GRUCell.md").read_bytes() == (FOLDER / "GRUCell.md").read_bytes()
    assert "# 2 recurrent cells" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_cell_that_there_is_not(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "nope", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("cells.py: no cell is called nope; there are rnn, lstm")


@pytest.mark.parametrize("wrong", ["--updates 0", "--seed -1", "--updates 2.5"])
def test_wrong_options(wrong, demo, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.arguments().parse_args(wrong.split())
    assert stop.value.code == 2 and f"argument {wrong.split()[0]}" in capsys.readouterr().err


def test_the_sequences(demo):
    """What should be answered is the number at the last mark, found by a loop."""
    import numpy as np

    pictures = demo.cell_pictures
    x, y = pictures.task(np.random.default_rng(0), 50)
    assert x.shape == (60, 50, 4) and (x[..., :2] == x[..., 2:]).all() and set(np.unique(x[..., 1])) == {0, 1}
    held = np.zeros(50, np.float32)
    for t in range(60):
        held = np.where(x[t, :, 1] == 1, x[t, :, 0], held)
        assert (y[t, :, 0] == held).all()
    x, y = pictures.shown()
    assert y[-1] == np.float32(-0.6) and x[:, 0, 1].sum() == len(pictures.MARKS)
