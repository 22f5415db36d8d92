"""A page a cell: `python demos/cells.py` writes them all, into `demos/cells/`.

A page has the equation, where it comes from, states, parameters, what a step costs, how the cell is used, and what the
compiler makes of its step; a test compares it with the cell, line by line. And it has a picture: the cell learns to
hold a number, and is recorded while it does, gates and all.

    python demos/cells.py --only GRU MinGRU     the pages of these, and the table of all
    python demos/cells.py --text                the pages of all, with the pictures that there are: seconds
    python demos/cells.py --speed [--only ...]  how fast each is, fused, on the tape, and as PyTorch's loop
    python demos/cells.py --loop GRU            that loop, as text

A cell that comes into the catalogue has a page after the next run. One that cannot be recorded gets a page without a
picture, which says why.
"""

import argparse
import os
import sys
from pathlib import Path

import cell_pages
import cell_pictures
import cell_speed
from cell_pages import DRAWN, Panel
from shared import HERE, number
from tqdm import tqdm

from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.nn.cells import catalogue

OWN = "tinygrad_rnn.nn.cells"  # cells from elsewhere get no page unless they are asked for


def entries() -> list[catalogue.Entry]:
    """The library's own cells, by year."""
    return [entry for entry in catalogue.ROWS if entry.cell.__module__.startswith(f"{OWN}.")]


def chosen(names: list[str] | None) -> list[catalogue.Entry]:
    """The cells of these names, in any case, with or without "Cell".

    Raises:
        ValueError: there is no such cell.
    """
    if not names:
        return entries()
    known = {catalogue.short_name(entry.cell.__name__): entry for entry in entries()}
    if unknown := [name for name in names if catalogue.short_name(name) not in known]:
        raise ValueError(f"no cell is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[catalogue.short_name(name)] for name in names]


# ---- Pages -----------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """A file as a whole, or the old one."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, path)


def picture(entry: catalogue.Entry, path: Path, options: argparse.Namespace, tell) -> bool | str:
    """Draw it; whether that was possible, or why not."""
    name = entry.cell.__name__
    try:
        model = cell_pictures.trained(entry, options.seed, options.updates, tell)
        try:
            panels = cell_pages.panels(entry, *DRAWN)
        except Unfusable:  # which names there are is known only from a run, then
            panels = [Panel(state, "any", True, ()) for state in model.cell.state_names]
        cell_pictures.draw(cell_pictures.look(model, panels, options.seed), name, path)
    except Exception as error:  # whatever it is: the page says it, and all others are written
        path.unlink(missing_ok=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return True


def write_pages(options: argparse.Namespace) -> None:
    """The pages that were asked for, and the table of all that there are."""
    found, missing = chosen(options.only), []
    total = len(found) * (1 if options.text else options.updates)
    with tqdm(total=total, unit="page" if options.text else "update", mininterval=0.5) as bar:
        for k, entry in enumerate(found, 1):
            name = entry.cell.__name__
            bar.set_description(f"{name} ({k} of {len(found)})")
            path = options.out / f"{name}.png"
            drawn: bool | str = path.exists() or "it has not been drawn yet"
            if not options.text:
                drawn = picture(entry, path, options, bar.update)
            if drawn is not True:
                missing.append(f"{name}: {drawn}")
            write(options.out / f"{name}.md", cell_pages.page(entry, drawn))
            bar.n = k * total // len(found)
            bar.refresh()
    with_pages = [entry for entry in entries() if (options.out / f"{entry.cell.__name__}.md").exists()]
    write(options.out / "README.md", cell_pages.index(with_pages, (options.out / "speed.md").exists()))
    sizes = [path.stat().st_size for path in options.out.iterdir()]
    print(f"{len(found)} pages; {len(sizes)} files of {sum(sizes) / 1e6:.2f} MB in {options.out}")
    for line in missing:
        print(f"without a picture: {line}")


# ---- Speed -----------------------------------------------------------------------------------------------------------


def write_speeds(options: argparse.Namespace) -> None:
    """The table of speeds and its picture: of what was asked for, and what was measured before on this machine."""
    sizes = cell_speed.TINY if options.quick else cell_speed.SIZES
    speeds = list(cell_speed.run(chosen(options.only), options))
    speeds = cell_speed.merged(options.out / "speed.json", speeds, sizes, cell_pages.names_of(entries()))
    write(options.out / "speed.md", cell_speed.page(speeds, sizes))
    cell_speed.draw(speeds, options.out / "speed.png")
    print(f"{len(speeds)} cells; {options.out / 'speed.md'}")


def print_loop(name: str) -> None:
    """A cell as a loop over time in PyTorch."""
    import torch_loop

    (entry,), (_, B, I, H) = chosen([name]), cell_speed.SIZES
    given = {key: cell_speed.numbers(B, *shape) for key, shape in entry.values(I, H).items()}
    cell = catalogue.drawn_apart(entry, I, H)
    with torch_loop.in_torch():
        program = cell_speed.traced(cell, cell_speed.numbers(1, B, I), given)
    print(torch_loop.Written(program).text)


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, most = parser.add_argument, cell_pictures.UPDATES
    add("--only", nargs="+", metavar="NAME", help="these cells alone")
    add("--text", action="store_true", help="pages without new pictures")
    add("--speed", action="store_true", help="measure a training step of each cell, in place of pages")
    add("--loop", metavar="NAME", help="print a cell as a loop over time in PyTorch")
    add("--here", action="store_true", help=argparse.SUPPRESS)  # this is the process that measures
    add("--updates", type=number(int, 1), default=most, help=f"of training, for pictures (default: {most})")
    add("--seed", type=number(int, 0), default=0, help="of weights and sequences (default: 0)")
    add("--quick", action="store_true", help="two cells, a few updates, in a folder of its own: to see that it runs")
    add("--out", type=Path, metavar="FOLDER", help="where pages go (default: demos/cells)")
    return parser


QUICK = ["GRUCell", "MinGRUCell"]


def main(options: argparse.Namespace) -> int:
    if options.loop:
        print_loop(options.loop)
        return 0
    if options.speed and not options.here:
        chosen(options.only)  # which says so if there is no such cell
        return cell_speed.launch(sys.argv)
    if options.quick:
        options.only, options.updates = options.only or QUICK, 5
    options.out = options.out or (HERE / "runs" / "cells" if options.quick else HERE / "cells")
    options.out.mkdir(parents=True, exist_ok=True)
    (write_speeds if options.speed else write_pages)(options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(arguments().parse_args()))
    except (OSError, ValueError) as error:
        sys.exit(f"cells.py: {error}")
