"""Cells by name: one rule for all of the library, and for anybody's."""

import re
import sys

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.nn.cells.catalogue import catalogue, short_name

ROWS = catalogue(4, 4)
SPELLED = {
    "short": lambda row: row.short,
    "class": lambda row: row.name,
    "dashes": lambda row: "-".join(row.short.upper()),
    "underscores": lambda row: f"_{row.name}_",
    "module": lambda row: f"tinygrad_rnn.nn.cells:{row.name}",
}
OWN = """
import tinygrad_rnn as tg

class Own(tg.nn.Cell):
    def __init__(self, input_size, hidden_size, depth):
        self.hidden_size, self.depth = hidden_size, depth

    def step(self, x, h):
        return 0.5 * h

def deep(I, H):
    return Own(I, H, 3)

made, number, nothing = Own(4, 5, 7), 7, lambda I, H: None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the current folder, which is on no path."""
    (tmp_path / "cells_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "cells_of_mine"
    sys.modules.pop("cells_of_mine", None)


def test_short_names_are_of_one_cell_each():
    assert len({row.short for row in ROWS}) == len(ROWS)
    assert all(row.short == row.name.removesuffix("Cell").lower() for row in ROWS)


@pytest.mark.parametrize("spelled", SPELLED.values(), ids=SPELLED)
def test_every_cell_is_made_by_name(spelled):
    for row in ROWS:
        cell = tg.nn.cells.make(spelled(row), 5, 6)
        assert type(cell) is row.cell and cell.input_size == 5 and cell.hidden_size == 6


def test_cells_of_one_s_own(own):
    """A class of two sizes, a function that makes a cell of two sizes, and a cell as it is."""
    make = tg.nn.cells.make
    assert make(f"{own}:deep", 4, 5).depth == 3
    assert make(f"{own}:made", 4, 5).depth == 7
    for name, message in (
        ("Own", r"missing a required argument: 'depth'.* Own\(input_size, hidden_size, depth\).*as cells_of_mine:of_"),
        ("nothing", "returned NoneType, not a cell"),
        ("number", "no cell 'number'; its cells are: Own"),
        ("Onw", "no cell 'Onw'; its cells are: Own"),
    ):
        with pytest.raises(ValueError, match=message):
            make(f"{own}:{name}", 4, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lsmt", r"did you mean lstm or slstm( or mlstm)?\? python -m tinygrad_rnn cells lists all \d+"),
        ("norm", r"did you mean layernorm"),
        ("transformer", r"no cell 'transformer': python -m"),
        ("", r"no cell ''"), ("cell", "no cell 'cell'"),
        (":", "package.module:MyCell"), ("a:", "package.module:MyCell"),
    ],
)  # fmt: skip
def test_unknown_names_are_told_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        tg.nn.cells.make(name, 4, 5)


SIZES = ["--input-size", "3", "--hidden-size", "4"]


def test_commands_take_names(capsys):
    """They list the names, and refuse in a line what is unknown."""
    assert main(["cells"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(ROWS) + 1]] == [row.short for row in ROWS]
    assert main(["explain", "min-gru", "--stage", "trace", *SIZES]) == 0
    assert "MinGRUCell" in capsys.readouterr().out
    for command in ("source", "explain", "check"):
        assert main([command, "min-gur"]) == 2
        assert "did you mean mingru" in capsys.readouterr().err


LISTED = """
import tinygrad_rnn as tg


@tg.nn.cells.listed("h' = a h + W x", "Nobody, 2026", recurrent=False)
class DripCell(tg.nn.Cell):
    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W, self.a = tg.nn.weight(input_size, hidden_size), tg.nn.bias(hidden_size)

    def step(self, x, h):
        return self.a * h + x @ self.W
"""


def test_commands_take_cells_that_a_file_of_ones_own_lists(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_drips.py").write_text(LISTED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["cells", "my_drops"]) == 2
    assert "cannot import my_drops" in capsys.readouterr().err
    try:
        assert main(["cells", "my_drips"]) == 0
        assert re.search("^drip .*Nobody, 2026$", capsys.readouterr().out, re.M)
        for name in ("my_drips:DripCell", "my_drips:drip", "drip"):  # the last one since it is imported
            assert main(["check", name, "--only", "states", *SIZES]) == 0
            assert "DripCell: 1 check passed" in capsys.readouterr().out
        assert main(["explain", "my_drips:drip", "--stage", "trace", *SIZES]) == 0
        assert "DripCell after trace" in capsys.readouterr().out
    finally:
        tg.nn.cells.unlisted(sys.modules.pop("my_drips").DripCell)


@pytest.mark.slow
def test_commands_take_every_name(capsys):
    for row in ROWS:
        assert main(["explain", row.short, "--stage", "trace", *SIZES]) == 0
        assert row.name in capsys.readouterr().out
        assert main(["check", row.short, "--only", "signature", "states", *SIZES]) == 0
        assert f"{row.name}: 2 checks passed" in capsys.readouterr().out


def test_names_of_the_library_are_as_users_write_them():
    assert short_name("Layer-Norm_LSTM") == short_name("LayerNormLSTMCell") == "layernormlstm"
