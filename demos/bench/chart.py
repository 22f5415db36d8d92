"""`bench chart`: a picture of the table of speeds in demos/README.md."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Speeds(NamedTuple):
    """The recorded table.

    Attributes:
        cells: the names of its columns.
        sizes: the names of its rows, "T, B, I, H".
        ratios: PyTorch's time divided by ours [sizes, cells, 2]: with one thread and with two.
        worst, mean: what its last two rows say, [cells, 2].
    """

    cells: list[str]
    sizes: list[str]
    ratios: np.ndarray
    worst: np.ndarray
    mean: np.ndarray


def recorded(page: Path) -> Speeds:
    """The table of speeds on a page, whose head is "T, B, I, H".

    Raises:
        ValueError: there is none.
    """
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (T, B, I, H|\d+, \d+, \d+, \d+|worst|geometric mean) \| (.+) \|$", text, flags=re.M)
    if not rows:
        raise ValueError(f"{page} has no table that begins with | T, B, I, H |")
    (_, head), *lines = rows
    ratios = np.array([[re.findall(r"[\d.]+", cell) for cell in line.split(" | ")] for _, line in lines], float)
    return Speeds(head.split(" | "), [name for name, _ in lines[:-2]], ratios[:-2], ratios[-2], ratios[-1])


def draw(page: Path, picture: Path) -> Path:
    """Draw the table: a column a cell, a dot a size, a bar for the geometric mean; returns the picture's path."""
    from matplotlib.figure import Figure

    speeds = recorded(page)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for place in range(len(speeds.cells)):
        for thread, (shift, colour) in enumerate(((-0.19, "tab:blue"), (0.19, "tab:cyan"))):
            mean, x = speeds.mean[place, thread], place + shift
            label = None if place else ("one thread", "two threads")[thread]
            axes.bar(x, mean - 1, 0.34, bottom=1, color=colour, alpha=0.8, label=label)
            axes.text(x + 0.05, mean * 1.04, f"{mean:.1f}", ha="center", va="bottom", fontsize=9)
            dots = [x - 0.11] * len(speeds.sizes)  # beside the number
            axes.plot(dots, speeds.ratios[:, place, thread], "o", color="0.25", ms=3, zorder=3)
    axes.axhline(1, color="tab:red", lw=1.2)
    axes.text(-0.45, 0.97, "PyTorch", color="tab:red", ha="left", va="top")
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50, 100], labels=["1", "2", "5", "10", "20", "50", "100"])
    axes.set_yticks([], minor=True)
    axes.set_xticks(range(len(speeds.cells)), labels=speeds.cells)
    axes.set(ylabel="times as fast as PyTorch", xlim=(-0.5, len(speeds.cells) - 0.5), ylim=(0.8, 130),
             title="A training step in float32: bars are means over seven sizes, dots the sizes")  # fmt: skip
    axes.legend(loc="upper left")
    figure.savefig(picture, dpi=110)
    return picture
