"""What a row of the table is: a forward rule, one gradient rule for each input, a shape rule and an ONNX name.

A gradient rule is a line of text, an expression over

    dy                 the gradient of the result
    y, and the inputs  by their names; naming one makes it a residual, which is saved for the backward pass
    x_shape            the shape of input x, which costs nothing to keep
    the attributes     what follows `*` in the signature

and over other rows of the table. Text, because one rule has many readers: on arrays it is the backward pass; on
tensors it is recorded in its turn, which makes derivatives of any order; element by element it is compiled into one
kernel with its siblings; and it can be printed as it stands.
"""

import ast
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels.elementwise import Elementwise
from ..kernels.locks import lazy
from .tape import Node, Value, mode, raise_if_new_nan, user_line

Shape = tuple[int, ...]


class Primitive:
    """A row of the table: one operation and everything that is known of it.

    Args:
        signature: `"name(x, w, *, dim)"`: inputs, then attributes. `*xs` takes any number of inputs.
        equation, shapes: what it computes and how shapes go into shapes, for people.
        forward: function of arrays and attributes that returns a new array or a view.
        shape: function of the inputs' shapes and attributes that returns the result's shape, or raises an error that
            names the shapes and the fix. Called when `forward` failed, and by whoever needs a shape without a value.
        scatter: `scatter(total, dy, *attributes)` adds the gradient in place, for operations that take a slice of x.
        at_once: finds the gradients of all inputs on arrays, from dy and, by their names, the residuals.
        onnx: name of the operator in ONNX, if there is one.
        gradients: `dx="..."`, the rule for the gradient of x. No rule: x is not differentiable (a mask).

    Attributes:
        linear: whether the rules are linear in dy. What clips is not: it may not be moved across a sum.
    """

    linear = True

    def __init__(
        self, signature: str, equation: str, shapes: str, forward: Callable[..., Any], shape: Callable[..., Shape],
        scatter: Callable[..., None] | None = None, onnx: str | None = None, at_once: Any = None, **gradients: str,
    ) -> None:  # fmt: skip
        parsed = ast.parse(f"def {signature}: pass").body[0]
        assert isinstance(parsed, ast.FunctionDef)
        self.name, self.signature = parsed.name, signature
        self.variadic = parsed.args.vararg is not None
        self.inputs = [parsed.args.vararg.arg] if parsed.args.vararg else [a.arg for a in parsed.args.args]
        self.attributes = [a.arg for a in parsed.args.kwonlyargs]
        self.equation, self.shapes, self.onnx = equation, shapes, onnx
        self.forward, self.shape, self.scatter, self.at_once, self.rules = forward, shape, scatter, at_once, gradients
        self.names: dict[str, Any] = {}  # what rules may call: set by the table once all rows are there

    def __repr__(self) -> str:
        return f"<primitive {self.signature}: {self.equation}>"

    def __call__(self, *inputs: Any, **attributes: Any) -> Any:
        """Run on tensors, and record; or run on arrays alone, and return an array."""
        level = mode.level
        if level == 3:
            return mode.tracer.record(self, inputs, attributes)
        try:
            if level == 2:
                return self._watched(inputs, attributes)
            if len(inputs) == 1 and isinstance(inputs[0], Value):
                return self._on_one(inputs[0], attributes, level)
            return self._on_several(inputs, attributes, level)
        except (ValueError, IndexError, TypeError):
            self._explain(inputs, attributes)
            raise

    def _on_one(self, x: Value, attributes: dict[str, Any], recorded: int) -> Any:
        """A single tensor, without a loop."""
        array, node = x.data, x.node
        y = self.forward(array, **attributes)
        if y.__class__ is not np.ndarray:  # NumPy turns 0-d results into scalars
            y = np.asarray(y)
        if not recorded or node is None or not self.rules:
            return Value.tensor(y)
        adjoint = self.adjoint((0,))
        return Value.tensor(y, Node(adjoint, (node,), (array.shape,), adjoint.save(y, array, **attributes)))

    def _on_several(self, inputs: tuple[Any, ...], attributes: dict[str, Any], recorded: int) -> Any:
        """Any number of tensors, arrays and numbers."""
        arrays = [x.data if isinstance(x, Value) else x for x in inputs]
        y = self.forward(*arrays, **attributes)
        tensors = [i for i, x in enumerate(inputs) if isinstance(x, Value)]
        if not tensors:
            return y
        if y.__class__ is not np.ndarray:
            y = np.asarray(y)
        mask = tuple([i for i in tensors if inputs[i].node is not None]) if recorded else ()
        adjoint = self.adjoint(mask) if mask else None
        if adjoint is None or not adjoint.wanted:
            return Value.tensor(y)
        wanted = adjoint.wanted
        parents, shapes = tuple([inputs[i].node for i in wanted]), tuple([arrays[i].shape for i in wanted])
        return Value.tensor(y, Node(adjoint, parents, shapes, adjoint.save(y, *arrays, **attributes)))

    def _watched(self, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """What `detect_anomaly` watches: a NaN is told of at once, and the node knows the line that called it."""
        y = self._on_several(inputs, attributes, mode.grad)
        line = user_line()
        raise_if_new_nan(y, inputs, self.name, line)
        node = getattr(y, "node", None)
        if node is not None:
            node.where = line
        return y

    def _explain(self, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        """After a failure: let the shape rule say what is wrong in the user's terms."""
        try:
            self.shape(*[np.shape(x.data if isinstance(x, Value) else x) for x in inputs], **attributes)
        except (ValueError, IndexError) as error:
            raise type(error)(f"{self.name}({', '.join(self.inputs)}): {error}") from None

    def for_kernels(self, rule: str) -> str:
        """A rule as it is computed element by element, by the functions of `maths`."""
        return rule

    def for_tensors(self, rule: str) -> str:
        """A rule as it is recorded, by rows."""
        return rule

    @functools.cache  # noqa: B019 rows live as long as the process
    def adjoint(self, wanted: tuple[int, ...]) -> "Adjoint":
        """The gradient rules for a gradient mask: the positions of the inputs that need a gradient."""
        return Adjoint(self, wanted)


class ElementwisePrimitive(Primitive):
    """A row that is a formula over scalars: forward and gradients are compiled, broadcasting is NumPy's.

    Args:
        signature: as for `Primitive`; attributes are numbers.
        formula: the forward rule, over scalars.
        integer: NumPy's function for integers and booleans, which nothing is compiled for; and for everything if there
            are no gradients.
    """

    def __init__(
        self, signature: str, formula: str, *, integer: Callable[..., Any] | None = None, onnx: str | None = None,
        **gradients: str,
    ) -> None:  # fmt: skip
        shapes = "[...] -> [...]" if "(x" in signature and "(x," not in signature else "broadcast together"
        forward = self._run if gradients or integer is None else integer
        super().__init__(signature, f"y = {formula}", shapes, forward, broadcast_shape, None, onnx, **gradients)
        self.formula, self.integer = formula, integer
        self.kernel = Elementwise(self.name, " ".join([*self.inputs, *self.attributes]), {"y": formula})

    def _run(self, *arrays: Any, **attributes: Any) -> Any:
        operands = (*arrays, *[attributes[name] for name in self.attributes]) if attributes else arrays
        for x in arrays:
            kind = getattr(x, "dtype", None)
            if kind is FLOAT32:
                return self.kernel.float32(*operands)
            if kind is FLOAT64:
                return self.kernel.float64(*operands)
        return self._run_uncommon(*operands)

    def _run_uncommon(self, *operands: Any) -> Any:
        """Numbers alone, integers, and dtypes that are not the very objects above."""
        if not any(isinstance(x, (np.ndarray, np.generic)) for x in operands):
            return float(self.kernel.float64(*operands))
        if self.integer is not None and all(np.asarray(x).dtype.kind in "iub" for x in operands):
            return self.integer(*operands)
        kind = np.result_type(*(x for x in operands if isinstance(x, (np.ndarray, np.generic))))
        return (self.kernel.float64 if kind == np.float64 else self.kernel.float32)(*operands)

    @functools.cache  # noqa: B019
    def adjoint(self, wanted: tuple[int, ...]) -> "Adjoint":
        return ElementwiseAdjoint(self, wanted)


FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Adjoint:
    """The gradient rules of a row for a gradient mask: what to save, and what to do with it. An `Operation`.

    Attributes:
        wanted: the mask: positions of the inputs that get a gradient, of those that have a rule.
        saves: the names of the residuals, what the rules ask for besides dy.
        save: (y, *inputs, **attributes) -> the residuals, when the operation runs.
    """

    fresh = False

    def __init__(self, primitive: Primitive, wanted: tuple[int, ...]) -> None:
        self.primitive, self.name = primitive, primitive.name
        if primitive.variadic:  # one rule for the gradients of all inputs
            self.wanted, self.texts = wanted, list(primitive.rules.values())
        else:
            self.wanted = tuple(i for i in wanted if "d" + primitive.inputs[i] in primitive.rules)
            self.texts = [primitive.rules["d" + primitive.inputs[i]] for i in self.wanted]
        known, used = self._known_names(), set().union(*map(names_in, self.texts))
        self.saves = [name for name in known if name in used]
        inputs = ["*" + name if primitive.variadic else name for name in primitive.inputs]
        operands = ", ".join(["y", *inputs, *primitive.attributes])
        self.save = eval(f"lambda {operands}: ({''.join(known[name] + ', ' for name in self.saves)})")
        self.scatter = self._scatter(primitive.scatter) if primitive.scatter and self.texts else None

    @lazy
    def rules(self) -> list[Callable[..., Any]]:
        """For each input of the mask, the rule as a function of (dy, *saved); one for all if there are any number."""
        return self.compiled(self.primitive.names)

    @lazy
    def _rules_on_arrays(self) -> list[Callable[..., Any]]:
        """The same for arrays: what they call is not rows, which look for tensors, but the forward rules of these."""
        return self.compiled(on_arrays(self.primitive.names))

    def _known_names(self) -> dict[str, str]:
        """Everything a rule may name, with the expression that takes it from the parameters of `save`."""
        known = {"y": "y"}
        for name in self.primitive.inputs:
            if self.primitive.variadic:
                known["shapes"] = f"[x.shape for x in {name}]"
            else:
                known |= {name: name, f"{name}_shape": f"{name}.shape", f"{name}_dtype": f"{name}.dtype"}
        return known | {name: name for name in self.primitive.attributes}

    def compiled(self, names: dict[str, Any]) -> list[Callable[..., Any]]:
        """The rules as functions of (dy, *saved), which may call what `names` holds."""
        parameters = ", ".join(["dy", *self.saves])
        texts = map(self.primitive.for_tensors, self.texts)
        codes = [compile(f"lambda {parameters}: {text}", f"<gradient of {self.name}>", "eval") for text in texts]
        return [eval(code, dict(names)) for code in codes]  # eval adds to what it is given

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> Sequence[Any]:
        """See `tape.Operation`."""
        rules = self.rules if isinstance(dy, Value) else self._rules_on_arrays
        at_once = self.primitive.at_once if self.saves and not isinstance(dy, Value) else None
        if at_once or self.primitive.variadic:
            found = at_once(dy, **dict(zip(self.saves, saved))) if at_once else rules[0](dy, *saved)
            return [found[i] for i in self.wanted]
        return [rule(dy, *saved) for rule in rules]

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        """See `tape.Operation`."""
        assert node.saved is not None
        origin: dict[str, Any] = {"y": node}
        for i, parent in zip(self.wanted, node.parents):
            if not self.primitive.variadic:
                origin[self.primitive.inputs[i]] = parent
        return tuple(
            Value.tensor(value, origin[name]) if name in origin else value
            for name, value in zip(self.saves, node.saved)
        )

    def _scatter(self, scatter: Callable[..., None]) -> Callable[[np.ndarray, np.ndarray, tuple[Any, ...]], None]:
        """The primitive's `scatter`, called with what was saved."""
        places = [self.saves.index(name) for name in self.primitive.attributes]
        return lambda total, dy, saved: scatter(total, dy, *[saved[i] for i in places])


class ElementwiseAdjoint(Adjoint):
    """The same for a formula: on arrays, all gradients come from one kernel.

    Attributes:
        kernel: computes all gradients but those that are dy itself: none, the first or all of them are.
    """

    def __init__(self, primitive: ElementwisePrimitive, wanted: tuple[int, ...]) -> None:
        super().__init__(primitive, wanted)
        targets = ["d" + primitive.inputs[i] for i in self.wanted]
        handed_on = len(targets) if {*self.texts} == {"dy"} else int(self.texts[:1] == ["dy"])
        computed = {dx: primitive.for_kernels(text) for dx, text in [*zip(targets, self.texts)][handed_on:]}
        suffix = "" if len(targets) == len(primitive.rules) else "_to_" + "_".join(targets)
        self.kernel = Elementwise(f"{self.name}_gradient{suffix}", " ".join(["dy", *self.saves]), computed)
        self._computed, self._hands_on_first = len(computed), handed_on > 0

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> Sequence[Any]:
        if isinstance(dy, Value):
            return super().gradients(dy, saved)
        if not self._computed:
            return (dy,) * len(self.wanted)
        found = (self.kernel.float32 if dy.dtype is FLOAT32 else self.kernel.float64)(dy, *saved)
        if self._computed == 1:
            found = (found,)
        return (dy, *found) if self._hands_on_first else found


def on_arrays(names: dict[str, Any]) -> dict[str, Any]:
    """What rules call when they are run on arrays: the forward rules of rows, and helpers as they are."""
    return {name: getattr(row, "forward", row) for name, row in names.items()}


def names_in(rule: str) -> set[str]:
    """The free names of an expression."""
    return {node.id for node in ast.walk(ast.parse(rule, mode="eval")) if isinstance(node, ast.Name)}


def broadcast_shape(*shapes: Shape, **attributes: Any) -> Shape:
    """NumPy's rule: sizes are aligned from the last; equal sizes, or one of them 1."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        shown = " and ".join(str(list(shape)) for shape in shapes if shape)
        raise ValueError(
            f"shapes {shown} do not broadcast together: aligned from the last dimension, sizes must be equal or 1"
        ) from None
