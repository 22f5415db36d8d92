"""Formulas that are not the library's: what may stand in them, and what each of their two readers makes of it.

    dx = "dy * where(x > 0, 1, mine(x)) ** 2"

    kernels    dy * square(where(x > 0, 1, x / (1 + abs(x))))               numbers, and the functions of `maths` alone
    tensors    dy * square(where(x > 0, like_dy(dy, 1), mine(x)))           rows, which are recorded in their turn

Kernels compute elements one by one: what else a text names is written out, by its formula. On tensors the rows that it
names are called, so that their own rules make the next derivative. What neither would understand is refused.
"""

import ast
import copy
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from .primitive import ElementwisePrimitive, Primitive, names_in
from .tape import Value, mode

LIKE = "like_dy"
RESERVED = {"dy", "y", "f", LIKE}  # the gradient, the result, the dtype in kernels, and `like` below
TRUTHS = {"where": "c", "logical_and": "ab", "logical_or": "ab", "logical_not": "x"}  # inputs that may be truth values
INSTEAD = {
    ast.IfExp: "where(c, a, b)", ast.BoolOp: "(a > 0) & (b > 0)", ast.Not: "x == 0", ast.Invert: "logical_not(x)",
    ast.FloorDiv: "floor_divide(a, b)", ast.Mod: "remainder(a, b)",
}  # fmt: skip
ALLOWED = "numbers, + - * / **, comparisons, & | between these, and functions"
MOST_NODES = 1_000  # of a text with all that it names written out


def signature(text: str, rows: Mapping[str, Primitive]) -> tuple[str, list[str], list[str], dict[str, float]]:
    """The name, the inputs, the attributes and their defaults.

    Raises:
        ValueError: it is not like "name(x, w, *, slope, limit=1)", or a name means something else already.
    """
    try:
        parsed: Any = ast.parse(f"def {text}: pass")
        (parsed,), a = parsed.body, parsed.body[0].args
        name, inputs, attributes = parsed.name, [x.arg for x in a.args], [x.arg for x in a.kwonlyargs]
        defaults = {x: ast.literal_eval(value) for x, value in zip(attributes, a.kw_defaults) if value is not None}
        plain = not (a.posonlyargs or a.vararg or a.kwarg or a.defaults or parsed.returns) and len(parsed.body) == 1
        distinct = inputs and len({*inputs, *attributes}) == len(inputs + attributes)
        fits = plain and distinct and all(type(value) in (int, float) for value in defaults.values())
    except (SyntaxError, ValueError, TypeError):
        fits = False
    if not fits:
        lead = "write its signature like 'name(x, w)' or 'name(x, *, slope, limit=1.0)'"
        raise ValueError(f"primitive {text!r}: {lead}") from None
    others = (rows.keys() - {name}) | RESERVED | {f"d{x}" for x in inputs}
    taken = [x for x in (*inputs, *attributes) if x in others] + [x for x in ("dy", "y", LIKE) if x == name]
    if taken:
        raise ValueError(f"primitive {name}: {taken[0]} means something else in a rule: call it otherwise")
    return name, inputs, attributes, defaults


class Reader(ast.NodeTransformer):
    """Texts as kernels read them.

    Args:
        name: of the primitive whose texts they are.
        names: what they may name besides functions; `attributes`: of these, what is the same for all elements.
        rows: the functions.

    Attributes:
        used: name -> row, of the functions that were named.
    """

    def __init__(self, name: str, names: list[str], attributes: list[str], rows: Mapping[str, Primitive]) -> None:
        self.name, self.names, self.attributes, self.rows = name, names, attributes, rows
        self.functions = ", ".join(name for name, row in rows.items() if isinstance(row, ElementwisePrimitive))
        self.used: dict[str, Primitive] = {}

    def read(self, target: str, text: str) -> str:
        """`target = text`, written out.

        Raises:
            ValueError: with what cannot stand there, and what to write.
        """
        if not isinstance(text, str):
            raise TypeError(f"primitive {self.name}: {target} is a text, such as 'dy * x', not {type(text).__name__}")
        self.shown = f"{target} = {text}"
        try:
            return ast.unparse(self.number(ast.parse(text, mode="eval").body))
        except SyntaxError as error:
            self.refuse(f"{error.msg}, at character {error.offset}")
        except (RecursionError, MemoryError):
            self.refuse("it is nested too deeply")

    def refuse(self, what: str, instead: str = "") -> NoReturn:
        instead = f": write {instead}" if instead else ""
        raise ValueError(f"primitive {self.name}, {self.shown}: {what}{instead}") from None

    def generic_visit(self, node: ast.AST) -> NoReturn:
        kinds = [type(node), type(getattr(node, "op", None))]
        instead = next((INSTEAD[kind] for kind in kinds if kind in INSTEAD), ALLOWED)
        self.refuse(f"{ast.unparse(node)} cannot stand there", instead)

    def number(self, node: ast.expr) -> ast.expr:
        """What may be computed with, rather than a truth value."""
        found: ast.expr = self.visit(node)
        if _is_truth(found):
            self.refuse(f"{ast.unparse(node)} is a truth value", f"where({ast.unparse(node)}, 1, 0)")
        return found

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.names:
            self.refuse(f"there is no {node.id}: there are {', '.join(self.names)}, and functions: {self.functions}")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        value: Any = node.value
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            self.generic_visit(node)
        return node if abs(value) < 2**31 else ast.Constant(float(value))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if not isinstance(node.op, ast.USub):
            self.generic_visit(node)
        return ast.UnaryOp(node.op, self.number(node.operand))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            a, b = self.visit(node.left), self.visit(node.right)
            if not (_is_truth(a) and _is_truth(b)):
                self.refuse(f"{ast.unparse(node)} combines what are no truth values", "(a > 0) & (b > 0)")
            return ast.BinOp(a, node.op, b)
        if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)):
            self.generic_visit(node)
        a, b = self.number(node.left), self.number(node.right)
        return self._short(_power(a, b)) if isinstance(node.op, ast.Pow) else ast.BinOp(a, node.op, b)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) > 1:
            self.refuse(f"{ast.unparse(node)} are several comparisons", "(a < b) & (b < c)")
        if isinstance(node.ops[0], (ast.Is, ast.IsNot, ast.In, ast.NotIn)):
            self.generic_visit(node)
        return ast.Compare(self.visit(node.left), node.ops, [*map(self.visit, node.comparators)])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name, call = ast.unparse(node.func), ast.unparse(node)
        row = self.rows.get(name)
        if not isinstance(row, ElementwisePrimitive):
            what = "works on whole arrays" if row else "is no function here"
            self.refuse(f"{name} {what}: there are {self.functions}")
        given: dict[Any, ast.expr] = defaults_of(row) | {each.arg: each.value for each in node.keywords}
        if len(node.args) != len(row.inputs) or given.keys() != {*row.attributes}:
            self.refuse(f"{call} is no call of {row.signature}")
        if any(names_in(ast.unparse(value)) - {*self.attributes} for value in given.values()):
            self.refuse(f"{call}: an attribute is a number, the same for all elements")
        if not row.linear and row.formula in row.inputs:
            self.refuse(f"{call} clips what comes back, which is nothing here", "clamp(dy, -limit, limit)")
        self.used[name] = row
        operands = {}
        for x, value in zip(row.inputs, node.args):
            operands[x] = self.visit(value) if x in TRUTHS.get(name, "") else self.number(value)
        formula = ast.parse(row.formula, mode="eval").body
        if any(isinstance(each, ast.Call) and ast.unparse(each.func) == name for each in ast.walk(formula)):
            return ast.Call(node.func, [*operands.values()], [])  # a function of `maths`
        return self._short(_Filled(operands | {x: self.number(value) for x, value in given.items()}).visit(formula))

    def _short(self, node: ast.expr) -> ast.expr:
        if sum(1 for _ in ast.walk(node)) > MOST_NODES:
            self.refuse("it is too long with all that it names written out", "several primitives instead")
        return node


class _Filled(ast.NodeTransformer):
    """A formula with operands in place of names."""

    def __init__(self, operands: Mapping[str, ast.expr]) -> None:
        self.operands = operands

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.operands.get(node.id, node))


class Recorded(ast.NodeTransformer):
    """Texts as tensors read them: powers are products, a choice between numbers has the dtype of dy."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self.rows = rows

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        return _power(node.left, node.right) if isinstance(node.op, ast.Pow) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name, given = ast.unparse(node.func), {each.arg for each in node.keywords}
        row = self.rows[name]
        formula = ast.parse(row.formula, mode="eval").body
        if _is_truth(formula):  # an operator knows what to do with Python's truth values, and has no gradient either
            return _Filled(dict(zip(row.inputs, node.args))).visit(formula)
        node.keywords += [ast.keyword(x, n) for x, n in defaults_of(row).items() if x not in given]
        if name == "where":
            node.args[1] = ast.Call(ast.Name(LIKE), [ast.Name("dy"), node.args[1]], [])
        return node


def like(dy: Any, x: Any) -> Any:
    """x, in the dtype of dy if it is a number: a choice between numbers would be made in float32."""
    if not isinstance(x, (int, float)) or (isinstance(dy, Value) and mode.tracer is not None):
        return x
    return np.asarray(x, dy.data.dtype if isinstance(dy, Value) else dy.dtype)


def defaults_of(row: Any) -> dict[Any, ast.expr]:
    """The attributes of a row that need not be given."""
    return {name: ast.Constant(value) for name, value in getattr(row, "defaults", {}).items()}


def degree(node: ast.AST) -> float:
    """0 if an expression is without dy, 1 if it is linear in dy, else NaN, as far as can be told."""
    inner = [degree(each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
    if not any(inner):  # NaN is true
        return float(isinstance(node, ast.Name) and node.id == "dy")
    if isinstance(node, ast.UnaryOp):
        return inner[0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
        return 1 if inner == [1, 0] or (inner == [0, 1] and isinstance(node.op, ast.Mult)) else math.nan
    branches: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        branches = [node.left, node.right]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "where" and inner[1] == 0:
        branches = node.args[1:]
    nothing = [isinstance(each, ast.Constant) and each.value == 0 for each in branches]
    return 1 if branches and all(n == 1 or zero for n, zero in zip(inner[-2:], nothing)) else math.nan


def _is_truth(node: ast.AST) -> bool:
    logical = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr))
    return logical or isinstance(node, ast.Compare)


def _power(a: ast.expr, b: ast.expr) -> ast.expr:
    """a ** b: by products where b is a small whole number, which is vector code."""
    if isinstance(b, ast.UnaryOp) and isinstance(b.operand, ast.Constant):
        return ast.BinOp(ast.Constant(1), ast.Div(), _power(a, b.operand))
    n: Any = b.value if isinstance(b, ast.Constant) else None
    if n == 1 or n not in range(1, 17):
        return a if n == 1 else ast.Call(ast.Name("pow"), [a, b], [])
    half: ast.expr = ast.Call(ast.Name("square"), [_power(a, ast.Constant(n // 2))], [])
    return ast.BinOp(copy.deepcopy(a), ast.Mult(), half) if n % 2 else half
