"""What the library can tell of itself: `python -m tinygrad_rnn ops`."""

import argparse
import sys
import textwrap
from collections.abc import Sequence


def ops(names: Sequence[str]) -> int:
    """Print the table of primitives: name, equation, gradients, shapes, and the operator in ONNX."""
    from .autograd.table import TABLE

    unknown = [name for name in names if name not in TABLE]
    if unknown:
        print(f"no primitive named {', '.join(unknown)}; there are: {', '.join(TABLE)}", file=sys.stderr)
        return 2
    for row in TABLE.values():
        if names and row.name not in names:
            continue
        print(f"{row.signature:<32} {row.equation}")
        for target, rule in row.rules.items():
            print(textwrap.indent(f"{target} = {rule}", " " * 33))
        onnx = f"    ONNX: {row.onnx}" if row.onnx else ""
        print(textwrap.indent(f"shapes: {row.shapes}{onnx}", " " * 33))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tinygrad-rnn", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = commands.add_parser("ops", help="the table of primitives: equation, gradients, shapes")
    table.add_argument("names", nargs="*", metavar="NAME", help="only these")
    chosen = parser.parse_args(arguments)
    try:
        return ops(chosen.names)
    except BrokenPipeError:  # the reader of the pipe has seen enough
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
