"""What the READMEs promise is there: commands, links, excerpts of what is printed, measured numbers.

Its examples run in test_doctests.py.
"""

import importlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_rnn.__main__ import main
from tinygrad_rnn.nn.cells.catalogue import catalogue

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
DEMOS = (ROOT / "demos" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def char_lm():
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("char_lm", ROOT / "demos" / "char_lm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_set_up_is_two_commands():
    assert re.findall(r"^pip install .*$", TEXT, flags=re.M) == [
        "pip install . && python demos/new_cell.py && python demos/char_lm.py",
        'pip install ".[test]" && python -m pytest -q',
    ]


def test_it_is_read_in_minutes():
    assert len(TEXT.splitlines()) < 200
    table = TEXT[TEXT.index("| PyTorch | here |") :].split("\n\n")[0]
    assert len(table.splitlines()) == 2 + 12


def test_cells_are_counted():
    assert f"`tg.nn.cells` holds {len(catalogue(4, 4))}, " in TEXT


@pytest.mark.parametrize("page", ["README.md", "demos/README.md"])
def test_links_lead_somewhere(page):
    page = ROOT / page
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 2
    for link in links:
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert link.startswith("https://") or target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.M)
            assert heading in [title.lower().replace(" ", "-") for title in headings], link


def test_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert [Path(name).suffix for name in pictures] == [".svg", ".png", ".png"]
    for name in [*pictures, "demos/char_lm.png"]:
        data = (ROOT / name).read_bytes()
        assert data.startswith(b"<svg " if name.endswith("svg") else b"\x89PNG") and len(data) < 200_000


def test_excerpt_of_the_table_is_what_is_printed(capsys):
    command, excerpt = re.search(r"^\$ python -m tinygrad_rnn (ops.*)\n((?s:.*?))```", TEXT, flags=re.M).groups()
    assert main(command.split()) == 0
    assert capsys.readouterr().out == excerpt


def test_measured_numbers(char_lm):
    """The n-grams are counted again; the networks' rows are of the sizes that the demo trains."""
    rows = re.findall(r"^\| (\d-gram|LSTM, one[^|]*) \| ([\d.]+) \| ([\d.]+) \|$", DEMOS, flags=re.M)
    text = char_lm.read(ROOT / "demos" / "data" / "shakespeare.txt")
    vocabulary = "".join(sorted(set(text)))
    bits = char_lm.ngram_bits(*char_lm.split(text, vocabulary), len(vocabulary))
    assert rows[:4] == [(f"{n}-gram", f"{a:.3f}", f"{b:.3f}") for n, (a, b) in enumerate(bits, 1)]
    assert char_lm.DEFAULTS["cell"] == "lstm" and char_lm.DEFAULTS["layers"] == 1
    (short, _, held_out), (long, _, held_out_long) = rows[4:]
    assert short == f"LSTM, one layer of {char_lm.DEFAULTS['hidden']}"
    assert long == f"LSTM, one layer of {char_lm.LONG['hidden']} (`--long`)"
    assert float(held_out_long) < float(held_out) < bits[3][1]


@pytest.fixture
def bench(monkeypatch):
    """The folder of the benchmarks, whose files find each other."""
    monkeypatch.syspath_prepend(ROOT / "demos" / "bench")
    return importlib.import_module


def test_the_table_of_speeds_is_that_of_the_benchmark(bench, tmp_path):
    """Its cells and sizes, that is; its last two rows are what the rows above them amount to; it can be drawn."""
    speeds = bench("chart").recorded(ROOT / "demos" / "README.md")
    assert speeds.cells == ["LSTM", "GRU", "RNN", *bench("maths").CUSTOM]
    assert speeds.sizes == [", ".join(map(str, size)) for size in bench("cell_tables").CELL_SIZES]
    np.testing.assert_array_equal(speeds.worst, speeds.ratios.min(0))
    np.testing.assert_allclose(speeds.mean, np.exp(np.log(speeds.ratios).mean(0)), rtol=0.02)  # of rounded ratios
    picture = bench("chart").draw(ROOT / "demos" / "README.md", tmp_path / "speed.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_commands_in_the_text_run(capsys):
    commands = re.findall(r"`python -m tinygrad_rnn (source.*?)`", TEXT)
    assert commands
    for command in commands:
        assert main(command.split()) == 0
        assert "gradient of: " in capsys.readouterr().out


def test_what_the_pictures_say():
    """A number of the README is of the run that is told of where the demo is described."""
    (cost,) = re.findall(r"it costs ([\d.]+)\s+bits where a line ends", TEXT)
    (exact,) = re.findall(r"^> - Where a line ends, that is ([\d.]+) bits\.$", DEMOS, flags=re.M)
    assert cost == f"{float(exact):.2f}"
