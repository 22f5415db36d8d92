"""Values as equations, under the names that a reader knows; and lines of code that fit a page."""

import ast
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from ..autograd import table
from .program import Number, Value, columns, index_text, is_slice

MAX_LINE = 120
MOST_OPERATIONS = 40  # in an equation for the reader
_OPERATORS = {"add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div, "matmul": ast.MatMult}


class Equations:
    """Values as equations, with what has no name worth telling written out, unless that would be long."""

    def __init__(self) -> None:
        self.lengths: dict[Value, int] = {}  # of those that can be written out: of how many operations they then are

    def describe(self, value: Value) -> str:
        """A value as an equation."""
        return f"{value.name} = {ast.unparse(_equation(value, self.has_name))}" if value.row else value.name

    def has_name(self, value: Value) -> bool:
        """Whether a value has an equation of its own, and its name in those of others."""
        ahead = [value]
        while ahead:
            x = ahead[-1]
            inner = [y for y in x.operands if y.row and y.nameless]
            further = [y for y in inner if y not in self.lengths]
            if x in self.lengths or not (x.row and x.nameless):
                ahead.pop()
            elif further:
                ahead += further
            else:
                lengths = (self.lengths[y] for y in inner)
                self.lengths[ahead.pop()] = 1 + sum(n for n in lengths if n <= MOST_OPERATIONS)
        return self.lengths.get(value, math.inf) > MOST_OPERATIONS


def _equation(value: Value, has_name: Callable[[Value], bool]) -> ast.expr:
    def operand(x: Any) -> ast.expr:
        if isinstance(x, Value):
            return parse(x.name) if has_name(x) else _equation(x, has_name)
        return parse(x.name if isinstance(x, Number) else number_text(x))

    row = value.row
    assert row is not None
    operands = [operand(x) for x in value.inputs]
    if row is table.slice:
        at = [index_text(i) for i in value.attributes["at"]]
        if is_slice(value) and len(value.inputs[0].shape) <= 2:
            at[-1] = "{}:{}".format(*columns(value))
        return _indexed(operands[0], at)
    if row is table.permute and len(value.shape) == 2:
        return ast.Attribute(operands[0], "T")
    if row is table.reshape and value.per_row and (at := _ones(value)):
        return _indexed(operands[0], at)
    if row is table.neg:
        return ast.UnaryOp(ast.USub(), operands[0])
    if row is table.matmul and isinstance(operands[0], ast.BinOp):
        operands[0] = ast.Name(f"({ast.unparse(operands[0])})")  # nobody remembers that * and @ bind alike
    if row is table.matmul and value.inputs[1].row is table.cat:  # joined before the loop
        operands[1:] = map(operand, value.inputs[1].inputs)
    if row is table.matmul and len(operands) > 2:
        return ast.BinOp(operands[0], ast.MatMult(), ast.List(operands[1:]))
    if row.name in _OPERATORS and len(operands) == 2:
        return ast.BinOp(operands[0], _OPERATORS[row.name](), operands[1])
    named = lambda x: operand(x) if isinstance(x, Number) else parse(repr(x))
    attributes = [ast.keyword(name, named(x)) for name, x in value.attributes.items()]
    return ast.Call(ast.Name(row.name), operands, attributes)


def _indexed(whole: ast.expr, at: list[str]) -> ast.expr:
    """An expression with an index behind it."""
    text = ast.unparse(whole)
    return parse(f"{f'({text})' if isinstance(whole, ast.BinOp) else text}[{', '.join(at)}]")


def _ones(value: Value) -> list[str]:
    """The index that puts dimensions of one element in, if a reshape does nothing else."""
    at, ahead = [], list(value.inputs[0].shape)
    for n in value.shape:
        if ahead and n == ahead[0]:
            at.append(":")
            ahead.pop(0)
        elif n == 1:
            at.append("None")
        else:
            return []
    return [] if ahead else at


def parse(text: str) -> ast.expr:
    """The expression that a text is."""
    return ast.parse(text, mode="eval").body


def number_text(x: Any) -> str:
    """A Python number as the shortest text that is it."""
    if x != x:
        return "float('nan')"
    if abs(x) == math.inf:
        return "1e400" if x > 0 else "-1e400"
    return str(int(x)) if x == int(x) and abs(x) < 1e9 and not (x == 0 and math.copysign(1, x) < 0) else repr(float(x))


def in_sizes(n: int, sizes: dict[int, str]) -> str:
    """A width or column as text, in terms of sizes that have names."""
    if n in sizes:
        return sizes[n]
    for unit, name in sizes.items():
        if unit > 1 and n and n % unit == 0:
            return f"{in_sizes(n // unit, {m: other for m, other in sizes.items() if m != unit})} * {name}"
    return str(n)


def indented(lines: Iterable[str]) -> list[str]:
    """The lines of a block."""
    return [f"    {line}" for line in lines]


def wrapped(line: str, indent: str) -> str:
    """A line of code or a comment, broken between arguments or words where it would be too long, with its end."""
    code, mark, comment = line.partition("# ")
    indent += line[: len(line) - len(line.lstrip())]
    width = MAX_LINE - len(indent)
    if mark and (not code.strip() or len(line.strip()) > width):  # a long comment goes above
        lines = [f"# {words}" for words in textwrap.wrap(comment, width - 2)]
        lines += [code.strip()] if code.strip() else []
        return "".join(f"{indent}{each}\n" for each in lines)
    if len(line.strip()) <= width:
        return f"{indent}{line.strip()}\n"
    depth, glued = 0, ""
    for before, sign in zip(" " + line.strip(), line.strip()):
        depth += (sign in "([{") - (sign in ")]}")
        glued += "\0" if sign == " " and not (depth == 1 and before == ",") else sign
    pieces = textwrap.wrap(glued, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"{indent}{piece}\n" for piece in pieces).replace("\0", " ")
