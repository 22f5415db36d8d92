"""What the library can tell of itself: `python -m tinygrad_rnn`, `... ops`, `... cells`.

And of a cell, its own or yours: `... source CELL`, `... explain CELL`, `... check package.module:MyCell`.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


def ops(names: Sequence[str]) -> int:
    """Print the table of primitives: name, equation, gradients, shapes, and the operator in ONNX.

    Args:
        names: of those to print; all if there are none. What is defined elsewhere is `package.module:name`.
    """
    from .autograd.table import TABLE
    from .nn.cells.named import imported

    rows: list[Any] = []
    unknown: list[str] = []
    for name in names or TABLE:
        module_name, colon, own = name.rpartition(":")
        try:
            row = getattr(getattr(imported(module_name), own, None), "row", None) if colon else TABLE.get(name)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        if row is None:
            unknown.append(name)
        else:
            rows.append(row)
    if unknown:
        print(f"no primitive named {', '.join(unknown)}; there are: {', '.join(TABLE)}", file=sys.stderr)
        return 2
    for row in sorted(rows, key=[*TABLE.values(), *rows].index):
        print(f"{row.signature:<32} {row.equation}")
        for target, rule in row.rules.items():
            print(textwrap.indent(f"{target} = {rule}", " " * 33))
        onnx = f"    ONNX: {row.onnx}" if row.onnx else ""
        print(textwrap.indent(f"shapes: {row.shapes}{onnx}", " " * 33))
    return 0


def cells(modules: Sequence[str]) -> int:
    """Print the cells of the library, under the names that commands and demos take.

    Args:
        modules: of those with cells of one's own, which they put into the list by `@tg.nn.cells.listed`.
    """
    from .nn.cells.catalogue import catalogue
    from .nn.cells.named import imported

    for module in modules:
        try:
            imported(module)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    lines = [("name", "equation", "source"), *((row.short, row.equation, row.source) for row in catalogue(4, 4))]
    width, longest = (max(len(line[i]) for line in lines) for i in (0, 1))
    for name, equation, source in lines:
        print(f"{name:<{width}}  {equation:<{longest}}  {source}")
    print("\nNeither case matters nor - and _. A cell of yours is package.module:MyCell, and stands here too after")
    print("`cells package.module` if `@tg.nn.cells.listed` is above it.")
    return 0


def recurrent(name: str, input_size: int, hidden_size: int) -> Any:
    """A layer of the cell that a user names, see `nn.cells.make`; what its step takes by name is known."""
    from . import nn
    from .fusion.refusal import Unfusable
    from .nn.cells.catalogue import compiled_alone, values_of

    cell = nn.cells.make(name, input_size, hidden_size)
    if cell.input_size is None:
        cell.input_size = input_size
    if values_of(cell):
        with suppress(Unfusable):  # which the layer tells when it is asked
            compiled_alone(cell, input_size)
    return nn.Recurrent(cell)


def tell(chosen: argparse.Namespace) -> int:
    """Print the kernels of a cell, or the report on them."""
    try:
        layer = recurrent(chosen.cell, chosen.input_size, chosen.hidden_size)
        if chosen.command == "explain":
            print(layer.explain(chosen.stage))
        else:
            directions = [chosen.direction] if chosen.direction else ["forward", "backward"]
            print("\n\n".join(map(layer.source, directions)))
    except (ValueError, TypeError, NotImplementedError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def check(chosen: argparse.Namespace) -> int:
    """Print whether a cell keeps the contract, with every failure."""
    from .autograd.creation import randn
    from .nn.cells.catalogue import values_of
    from .testing import check_cell

    try:
        cell = recurrent(chosen.cell, chosen.input_size, chosen.hidden_size).cell
        values = {name: randn(2, *shape) for name, shape in values_of(cell).items()}
        only = chosen.only or None
        report = check_cell(cell, input_size=chosen.input_size, values=values, only=only, raises=False)
    except (ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report)
    return 1 if report.failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from .fusion.stages import STAGES

    parser = argparse.ArgumentParser(prog="tinygrad-rnn", description=__doc__, epilog="Without a command: a tour.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    table = commands.add_parser("ops", help="the table of primitives: equation, gradients, shapes")
    only = "only these; package.module:name for one of your own"
    table.add_argument("names", nargs="*", metavar="NAME", help=only)
    listed = commands.add_parser("cells", help="the cells of the library, and the names that commands know them by")
    listed.add_argument("modules", nargs="*", metavar="MODULE", help="with the cells that this module of yours lists")
    sizes = argparse.ArgumentParser(add_help=False)
    name = "its name, such as lstm or mingru, as `cells` lists them, or package.module:MyCell"
    sizes.add_argument("cell", metavar="CELL", help=name)
    sizes.add_argument("--input-size", type=int, default=28, metavar="I", help="default: 28")
    sizes.add_argument("--hidden-size", type=int, default=64, metavar="H", help="default: 64")
    source = commands.add_parser("source", parents=[sizes], help="the kernels that a cell is compiled to")
    source.add_argument("direction", nargs="?", choices=["forward", "backward", "inference"], help="default: both")
    explain = commands.add_parser("explain", parents=[sizes], help="what the compiler makes of a cell, in words")
    explain.add_argument("--stage", choices=STAGES, help="the program after a pass (default: the whole story)")
    checked = commands.add_parser("check", help="whether a cell keeps the contract, with every failure at once")
    checked.add_argument("cell", metavar="CELL", help=name)
    checked.add_argument("--input-size", type=int, default=3, metavar="I", help="default: 3")
    checked.add_argument("--hidden-size", type=int, default=4, metavar="H", help="default: 4")
    checked.add_argument("--only", nargs="*", metavar="CHECK", help="these checks, such as rows or gradients")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command is None:
            from .tour import tour

            tour()
            return 0
        if chosen.command == "ops":
            return ops(chosen.names)
        if chosen.command == "cells":
            return cells(chosen.modules)
        return check(chosen) if chosen.command == "check" else tell(chosen)
    except BrokenPipeError:  # the reader of the pipe has seen enough
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
