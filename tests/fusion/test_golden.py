"""The generated source is read by people: what it says is kept in files, so that a change of it is seen and meant."""

import difflib
import json
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

FOLDER = Path(__file__).parent / "golden"
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_from_five_lines_to_two_kernels.ipynb"
REFRESH = "python -m pytest tests/fusion/test_golden.py --refresh-golden"


def mgu():
    """The cell that the second notebook follows through the compiler, from the notebook itself."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    (text,) = [text for cell in cells if "class MGU(" in (text := "".join(cell["source"]))]
    names = {"np": np, "tg": tg}
    exec(text, names)
    return tg.nn.Recurrent(names["cell"])


LAYERS = {
    "rnn": lambda: tg.nn.RNN(28, 64),
    "lstm": lambda: tg.nn.LSTM(28, 64),
    "gru": lambda: tg.nn.GRU(28, 64),
    "mgu": mgu,
}
DIRECTIONS = ("forward", "backward")


def file_of(name, direction):
    return FOLDER / f"{name}_{direction}.py.txt"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_source_is_what_it_was(name, direction, request):
    path, source = file_of(name, direction), LAYERS[name]().source(direction)
    if request.config.getoption("--refresh-golden"):
        path.write_text(source, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    difference = difflib.unified_diff(kept.splitlines(), source.splitlines(), path.name, "now", lineterm="")
    if source != kept:
        pytest.fail("\n".join([*difference, "", f"If this is meant to be: {REFRESH}"]), pytrace=False)


def test_no_file_is_left_over():
    expected = {file_of(name, direction) for name in LAYERS for direction in DIRECTIONS}
    assert set(FOLDER.iterdir()) == expected
