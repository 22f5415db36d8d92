"""What the README promises is there: its commands, its links, its excerpt of the table, its measured numbers.

Its examples run in test_doctests.py.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_rnn import bench
from tinygrad_rnn.__main__ import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def char_lm():
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("char_lm", ROOT / "demos" / "char_lm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_set_up_is_two_commands():
    assert re.findall(r"^pip install .*$", TEXT, flags=re.M) == [
        "pip install . && python demos/char_lm.py",
        'pip install ".[test]" && python -m pytest -q',
    ]


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_picture_is_small():
    picture = ROOT / "demos" / "char_lm.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000


def test_excerpt_of_the_table_is_what_is_printed(capsys):
    command, excerpt = re.search(r"^\$ python -m tinygrad_rnn (ops.*)\n((?s:.*?))```", TEXT, flags=re.M).groups()
    assert main(command.split()) == 0
    assert capsys.readouterr().out == excerpt


def test_measured_numbers(char_lm):
    """The n-grams are counted again; the network's row is of the size that the demo trains by default."""
    rows = re.findall(r"^\| (\d-gram|LSTM[^|]*) \| ([\d.]+) \| ([\d.]+) \|$", TEXT, flags=re.M)
    text = char_lm.read(ROOT / "demos" / "data" / "shakespeare.txt")
    vocabulary = "".join(sorted(set(text)))
    bits = char_lm.ngram_bits(*char_lm.split(text, vocabulary), len(vocabulary))
    assert rows[:4] == [(f"{n}-gram", f"{a:.3f}", f"{b:.3f}") for n, (a, b) in enumerate(bits, 1)]
    name, _, held_out = rows[4]
    assert char_lm.DEFAULTS["cell"] == "lstm" and char_lm.DEFAULTS["layers"] == 1
    assert name == f"LSTM, one layer of {char_lm.DEFAULTS['hidden']}"
    assert float(held_out) < bits[3][1]


def test_the_table_of_speeds_is_that_of_the_benchmark():
    """Its sizes, that is; and its last two rows are what the rows above them amount to."""
    head, *rows = re.findall(r"^\| (T, B, I, H|\d+, \d+, \d+, \d+|worst|geometric mean) \| (.+) \|$", TEXT, flags=re.M)
    assert head[1].split(" | ") == ["LSTM", "GRU", "RNN", *bench.CUSTOM]
    *sizes, worst, mean = [(name, np.array(re.findall(r"[\d.]+", cells), float)) for name, cells in rows]
    assert [name for name, _ in sizes] == [", ".join(map(str, size)) for size in bench.CELL_SIZES]
    ratios = np.array([cells for _, cells in sizes])
    assert ratios.shape == (len(sizes), 12) and (worst[0], mean[0]) == ("worst", "geometric mean")
    np.testing.assert_array_equal(worst[1], ratios.min(0))
    np.testing.assert_allclose(mean[1], np.exp(np.log(ratios).mean(0)), rtol=0.02)  # of ratios that are rounded


def test_excerpt_of_the_generated_kernel_is_what_is_printed(capsys):
    command, excerpt = re.search(r"^\$ python -m tinygrad_rnn (source.*)\n((?s:.*?))```", TEXT, flags=re.M).groups()
    assert main(command.split()) == 0
    printed, pieces = capsys.readouterr().out, [piece for piece in excerpt.split("...\n") if piece]
    assert len(pieces) == 2 and all(piece in printed for piece in pieces)
