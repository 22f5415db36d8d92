"""Rows from outside: an elementwise primitive of the user's own, and the function that computes it."""

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import table
from .eager import binary, unary
from .formulas import LIKE, Reader, Recorded, degree, like, signature
from .gradcheck import GradcheckError
from .operands import aligned, floating
from .primitive import ElementwisePrimitive, Primitive
from .tape import Value

POINTS = 96  # where rules are compared with finite differences


def primitive(signature: str, formula: str, /, *, check: bool = True, **gradients: str) -> "Function":
    """A new elementwise operation: a row of the table from outside, and the function that computes it.

        >>> import tinygrad_rnn as tg
        >>> cube = tg.primitive("cube(x)", "x ** 3", dx="3 * dy * x ** 2")
        >>> cube(tg.tensor([1.0, 2.0]))
        tensor([1., 8.])

        y = formula        dx = the rule for x

    It runs eagerly, is recorded, is differentiated again by the rules of what its rules name, is compiled into fused
    kernels, and is printed by `python -m tinygrad_rnn ops package.module:name`, like every other row.

    Args:
        signature: `"name(a, b, *, slope=2)"`: inputs, which are tensors, arrays or numbers of shapes that broadcast
            together; after `*` attributes, which are numbers, given by name where they have no default.
        formula: the value over the inputs and attributes, an element at a time: numbers, `+ - * / **`, comparisons,
            `&`, `|`, and every row of the table that works on numbers, the user's own included.
        check: compare the rules with finite differences now, in float64 at points drawn at random, away from kinks.
            `check=False` says that a gradient is none on purpose: a surrogate, or one that is clipped.
        gradients: `dx="..."`, the rule for the gradient of input x, which may also name `dy`, the gradient of the
            result, and `y`, the result. An input without a rule gets no gradient.

    A primitive never changes. Defining the very same one again gives the same function, and defining another one under
    the name of one's own gives another function: what was made with the first, a cell that holds it or a primitive that
    names it, keeps the first. Rows of the library cannot be redefined.

    Raises:
        ValueError: a text is no formula, names what is not there, or the name is taken.
        GradcheckError: a rule is not the derivative of the formula; with the largest difference.

    A spike with a surrogate gradient, a gradient that is clipped on its way, and a rule that is wrong:

        >>> import tinygrad_rnn as tg
        >>> spike = tg.primitive("spike(x)", "where(x > 0, 1, 0)", dx="dy / (1 + abs(10 * x)) ** 2", check=False)
        >>> v = tg.tensor([-1.0, 0.1, 2.0], requires_grad=True)
        >>> spike(v)
        tensor([0., 1., 1.], grad_fn=spike)
        >>> spike(v).sum().backward()
        >>> v.grad
        tensor([0.0083, 0.25  , 0.0023])
        >>> clipped = tg.primitive("clipped(x, *, limit=1)", "x", dx="clamp(dy, -limit, limit)", check=False)
        >>> tg.grad((9 * clipped(v, limit=2)).sum(), [v])
        (tensor([2., 2., 2.]),)
        >>> mish = tg.primitive("mish(x)", "x * tanh(softplus(x))", dx="dy * tanh(softplus(x))")
        Traceback (most recent call last):
        tinygrad_rnn.autograd.gradcheck.GradcheckError: primitive mish: dx = dy * tanh(softplus(x)) is not the ...

    Source: Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", 2019; the surrogate
    above is SuperSpike's (Zenke and Ganguli, 2018).
    """
    row = _known(CustomRow(signature, formula, gradients, table.TABLE))
    if not isinstance(table.TABLE.get(row.name, row), CustomRow):
        raise ValueError(f"primitive {row.name}: the library has a row of this name: choose another one")
    if not row.checked and (check or not row.linear):
        _compare(row, check)
        row.checked = check
    table.TABLE[row.name] = row
    return row.function


_defined: dict[Any, "CustomRow"] = {}


def _known(row: "CustomRow") -> "CustomRow":
    """The row that says the same, if there is one already."""
    return _defined.setdefault((row.signature, row.equation, *row.rules.items(), *row.names.items()), row)


def _restored(signature: str, formula: str, gradients: dict[str, str], named: "dict[str, Function]") -> "Function":
    """A function out of a pickle; under its name, if that is free."""
    rows = table.TABLE | {name: function.row for name, function in named.items()}
    row = _known(CustomRow(signature, formula, gradients, rows))
    table.TABLE.setdefault(row.name, row)
    return row.function


class CustomRow(ElementwisePrimitive):
    """A row whose texts may name other rows, as these were when it was defined.

    Attributes:
        defaults: attribute -> its value where none is given.
        checked: whether its rules were found to be derivatives.
    """

    def __init__(self, written: str, formula: str, gradients: dict[str, str], rows: Mapping[str, Primitive]) -> None:
        name, inputs, attributes, self.defaults = signature(written, rows)
        others = {**rows}  # another thread may define something
        others.pop(name, None)
        reader = Reader(name, [*inputs, *attributes], attributes, others)
        inlined, self._inlined, self.linear = reader.read("y", formula), {}, True
        reader.names += ["dy", "y"]
        targets = [f"d{x}" for x in inputs]
        for target, rule in gradients.items():
            if target not in targets:
                raise ValueError(f"primitive {name}: {target} is no gradient: there are {', '.join(targets)}")
            self._inlined[rule] = reader.read(target, rule)
            of_dy = degree(ast.parse(self._inlined[rule], mode="eval").body)
            self.linear &= of_dy == 1
            if of_dy == 0:
                reader.refuse("dy is not in it", "dy * (...), or leave the rule out where the gradient is 0")
        rules: dict[str, Any] = gradients
        super().__init__(written, inlined, **rules)
        self.equation, self.text, self.checked = f"y = {formula}", formula, False
        self.names = reader.used | {LIKE: like, "square": table.square, "pow": table.pow}
        self.function = Function(self)

    def for_kernels(self, rule: str) -> str:
        return self._inlined[rule]

    def for_tensors(self, rule: str) -> str:
        return ast.unparse(Recorded(self.names).visit(ast.parse(rule, mode="eval")))


class Function:
    """A primitive of the user's as a function of tensors: `name(*inputs, **attributes)`."""

    def __init__(self, row: CustomRow) -> None:
        rules = "".join(f"    {target} = {rule}\n" for target, rule in row.rules.items())
        self.row, self.__name__, self.__qualname__ = row, row.name, row.name
        self.__doc__ = f"`{row.signature}`, element by element:\n\n    {row.equation}\n{rules}"
        make: Any = {1: unary, 2: binary}.get(len(row.inputs))
        usual = make is not None and len(row.rules) == len(row.inputs) and not row.attributes
        self._usual: Any = make(row, self._any) if usual else None

    def __call__(self, *inputs: Any, **attributes: Any) -> Any:
        run = self._any if attributes or self._usual is None or len(inputs) != len(self.row.inputs) else self._usual
        return run(*inputs, **attributes)

    def _any(self, *inputs: Any, **attributes: Any) -> Any:
        row, attributes = self.row, self.row.defaults | attributes
        if len(inputs) != len(row.inputs) or attributes.keys() != {*row.attributes}:
            got = [f"{len(inputs)} inputs", *(f"{name}=" for name in attributes.keys() - row.defaults.keys())]
            raise TypeError(f"{row.signature}: got {', '.join(got)}; attributes are given by name")
        for name, value in attributes.items():
            if isinstance(value, np.generic):
                attributes[name] = value = value.item()
            if not isinstance(value, (int, float)):
                kind = "Tensor" if isinstance(value, Value) else type(value).__name__
                raise TypeError(f"{row.signature}: {name} is a number, not {kind}: make it an input")
        operands = (floating(x) if isinstance(x, Value) else x for x in aligned(row.name, *inputs))
        return row(*operands, **attributes)

    def __repr__(self) -> str:
        return repr(self.row)

    def __reduce__(self) -> Any:
        named = {name: row.function for name, row in self.row.names.items() if isinstance(row, CustomRow)}
        return _restored, (self.row.signature, self.row.text, self.row.rules, named)


def _compare(row: CustomRow, derivatives: bool) -> None:
    """Whether rules are derivatives, and give nothing where nothing arrives.

    Raises:
        GradcheckError: with the largest difference.
    """
    random = np.random.default_rng(0)
    xs = [random.standard_normal(POINTS) * np.repeat((0.3, 1, 3), POINTS // 3) for _ in row.inputs]
    for x in xs:
        x[::2] = np.abs(x[::2])
    attributes = {name: row.defaults.get(name, 0.5 + random.random()) for name in row.attributes}
    run = lambda i, step: row.kernel.float64(*[x + step * (i == j) for j, x in enumerate(xs)], *attributes.values())
    y, dy = run(0, 0), random.uniform(0.5, 2, POINTS) * random.choice((-1, 1), POINTS)
    adjoint = row.adjoint(tuple(range(len(xs))))
    saved = adjoint.save(y, *xs, **attributes)
    found = dict(zip(adjoint.wanted, adjoint.gradients(dy, saved)))
    for i, of_nothing in zip(adjoint.wanted, adjoint.gradients(0 * dy, saved)):
        if np.any(np.isfinite(found[i]) & (of_nothing != 0)):
            raise GradcheckError(f"primitive {row.name}: d{row.inputs[i]} is not 0 where dy is 0: multiply by dy")
    for i, name in enumerate(row.inputs if derivatives else ()):
        with np.errstate(all="ignore"):
            h = 1e-4 * np.maximum(np.abs(xs[i]), 0.1)
            wide, narrow = (run(i, h) - run(i, -h)) / (2 * h), (run(i, h / 2) - run(i, -h / 2)) / h
            slope, error = (4 * narrow - wide) / 3, np.abs(wide - narrow)
            bend = np.abs(run(i, h) - 2 * y + run(i, -h)) / h  # by how much the slope changes: at a kink, by much
            known = (error <= 1e-3 * (1 + np.abs(slope))) & (bend <= 0.05 * (1 + np.abs(slope)))
            dx = found.get(i, np.zeros(POINTS))
            apart = np.where(known, np.nan_to_num(np.abs(dx - dy * slope), nan=np.inf), 0)
            allowed = np.abs(dy) * (1e-5 + 1e-3 * np.abs(slope) + 4 * error)
        if not known.any():
            raise GradcheckError(f"primitive {row.name}: its derivative is not known at any point: say check=False")
        if np.any(known & ~(apart <= allowed)):
            at = int(np.argmax(np.where(known, apart - allowed, -np.inf)))
            point = ", ".join(f"{x} = {values[at]:.4g}" for x, values in zip(row.inputs, xs))
            rule = row.rules.get(f"d{name}", "0, for it has no rule,")
            raise GradcheckError(
                f"primitive {row.name}: d{name} = {rule} is not the derivative of {row.equation}: at {point}, dy = "
                f"{dy[at]:.4g} it gives {dx[at]:.6g}, and finite differences {dy[at] * slope[at]:.6g}, the largest "
                "difference; say check=False if it is to be another one, such as a surrogate"
            )
