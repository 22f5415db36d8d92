"""What the library can tell of itself: `python -m tinygrad_rnn`, `... ops`, `... source CELL`, `... explain CELL`.

And of a cell of yours: `... check package.module:MyCell`.
"""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any


def ops(names: Sequence[str]) -> int:
    """Print the table of primitives: name, equation, gradients, shapes, and the operator in ONNX.

    Args:
        names: of those to print; all if there are none. What is defined elsewhere is `package.module:name`.
    """
    from .autograd.table import TABLE

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


def imported(name: str) -> Any:
    """A module of the user's.

    Raises:
        ValueError: it cannot be imported.
    """
    sys.path.insert(0, "")  # modules of the current folder are found, as with python -m
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"cannot import {name}: {error}") from None


def recurrent(name: str, input_size: int, hidden_size: int) -> Any:
    """A layer of the cell that a user names: "rnn", "lstm", "gru" or "package.module:MyCell".

    Raises:
        ValueError: there is no such cell, or it cannot be made from two sizes.
    """
    from . import nn

    classic = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
    if name in classic:
        return nn.Recurrent(classic[name](input_size, hidden_size))
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise ValueError(f"no cell {name!r}: expected {', '.join(classic)} or package.module:MyCell")
    module = imported(module_name)
    kind: Any = getattr(module, class_name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Cell)):
        there = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Cell)]
        raise ValueError(f"{module_name} has no cell {class_name!r}; its cells are: {', '.join(there) or 'none'}")
    sizes: Any = (input_size, hidden_size)  # not every cell takes these
    try:
        cell: nn.Cell = kind(*sizes)
    except Exception as error:
        raise ValueError(f"{class_name}({input_size}, {hidden_size}) failed: {error}") from None
    if cell.input_size is None:
        cell.input_size = input_size
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
    from .testing import check_cell

    try:
        cell = recurrent(chosen.cell, chosen.input_size, chosen.hidden_size).cell
        report = check_cell(cell, input_size=chosen.input_size, only=chosen.only or None, raises=False)
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
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("cell", metavar="CELL", help="rnn, lstm, gru, or package.module:MyCell")
    sizes.add_argument("--input-size", type=int, default=28, metavar="I", help="default: 28")
    sizes.add_argument("--hidden-size", type=int, default=64, metavar="H", help="default: 64")
    source = commands.add_parser("source", parents=[sizes], help="the kernels that a cell is compiled to")
    source.add_argument("direction", nargs="?", choices=["forward", "backward", "inference"], help="default: both")
    explain = commands.add_parser("explain", parents=[sizes], help="what the compiler makes of a cell, in words")
    explain.add_argument("--stage", choices=STAGES, help="the program after a pass (default: the whole story)")
    checked = commands.add_parser("check", help="whether a cell keeps the contract, with every failure at once")
    checked.add_argument("cell", metavar="CELL", help="rnn, lstm, gru, or package.module:MyCell")
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
        return check(chosen) if chosen.command == "check" else tell(chosen)
    except BrokenPipeError:  # the reader of the pipe has seen enough
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
