"""What demos share: options of the command line, cells by name, pictures."""

import argparse
import math
import os
from pathlib import Path

from tinygrad_rnn import no_grad
from tinygrad_rnn.nn import cells
from tinygrad_rnn.nn.cells.catalogue import short_name
from tinygrad_rnn.nn.cells.named import make_alone

HERE = Path(__file__).resolve().parent
ANY_CELL = "any that `python -m tinygrad_rnn cells` lists, or package.module:MyCell"
SPELT = {"SLSTM": "sLSTM", "MLSTM": "mLSTM", "MinGRU": "minGRU", "MinLSTM": "minLSTM", "CoRNN": "coRNN", "NBRC": "nBRC"}


# ---- The command line ------------------------------------------------------------------------------------------------


def number(kind: type, low: float):
    """A type for argparse: a finite number of at least `low`, or above it if that is 0.0."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number ({kind.__name__}), not {text!r}") from None
        if not (value > 0 if kind is float else value >= low) or value == math.inf:
            least = "positive" if low or kind is float else "at least 0"
            raise argparse.ArgumentTypeError(f"must be {least}, not {text}")
        return value

    return parse


def add_common(parser: argparse.ArgumentParser, drawn: str, quick: str) -> None:
    """The options that a demo has which trains with seeds and leaves pictures: `drawn` at random, besides weights."""
    add = parser.add_argument
    add("--seed", type=number(int, 0), default=0, help=f"of weights and {drawn} (default: 0)")
    add("--seeds", type=number(int, 1), default=1, help="how many runs, with this seed and those after it (default: 1)")
    add("--quick", action="store_true", help=f"{quick}, to see that it runs")
    add("--out", type=Path, default=HERE / "runs", metavar="FOLDER", help="where pictures and numbers go")


def fill(options: argparse.Namespace, defaults: dict, quick: dict) -> None:
    """Give every option that was not said its default, or what `--quick` has for it."""
    for name, value in (quick if options.quick else defaults).items():
        if getattr(options, name) is None:
            setattr(options, name, value)


# ---- Cells by name ---------------------------------------------------------------------------------------------------


def cell_named(text: str) -> str:
    """The name of a cell that can be made."""
    name = text if ":" in text else short_name(text)
    try:
        make_alone(name, 4, 4)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name


def output_width(cell) -> int:
    """How many numbers a cell puts out at a step: of some not as many as it has units."""
    with no_grad():
        return cell.begin(None, 1)[0].shape[-1]


def label(cell: str) -> str:
    """A cell's name in tables and pictures, as its paper writes it."""
    name = cell.rpartition(":")[2] if ":" in cell else type(cells.make(cell, 4, 4)).__name__.removesuffix("Cell")
    return SPELT.get(name, name)


# ---- Pictures --------------------------------------------------------------------------------------------------------


def save(figure, path: Path) -> None:
    """Write a picture, or leave the old one."""
    draft = path.with_name(f".{path.name}.tmp")
    figure.savefig(draft, format="png", dpi=100, pil_kwargs={"optimize": True})
    os.replace(draft, path)
