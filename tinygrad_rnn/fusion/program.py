"""A step as a program: values that never change, each made of others by one operation.

    f = sigmoid(x @ self.Wf + h @ self.Uf)      ->      v1[B, 64] = matmul(x, Wf)
                                                        v2[B, 64] = matmul(h, Uf)
                                                        v3[B, 64] = add(v1, v2)
                                                        f[B, 64] = sigmoid(v3)

A value has an inner shape, which is what one sequence has at one step, and a rate:

    fixed       one for all: parameters, constants, and maths of these
    sequence    one for each sequence of the batch, the same at all steps
    step        another one at every step

No pass changes a value. It makes new ones, and a new `Program` of them; a value that stands for an earlier one keeps
its name.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import table
from ..autograd.primitive import Primitive, Shape
from .batch import Size, sized
from .names import Names
from .views import Step, View, view_through

RATES = ("fixed", "sequence", "step")
AT_EACH_STEP = ("input", "state", "carry", "gradient", "zeros")  # kinds of leaves
MOST_OPERATIONS = 1_000  # of a step in the loop: to compile so many takes minutes


class Number(float):
    """A number that the step read or computed, rather than one that stands in its code: an argument of kernels.

    So another one, such as a rate that a schedule sets, needs no other machine code.
    """

    name: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True, repr=False)
class Value:
    """One operation of a step, or one of its inputs.

    Attributes:
        name: unique within the program.
        kind: "input", "state", "given" (a sequence constant), "parameter", "constant" or "operation"; in the backward
            pass also "gradient", "carry", "zeros" and "weights".
        shape: with a `Size` in front if there is one for each sequence.
        row: the primitive; None for what is no operation.
        inputs: the operands: values, and Python numbers.
        held: of a parameter the tensor, of a constant the array.
        rate: see above.
        named: whether the name is the user's.
        where: the line of the user's code that it comes from, as `user_line` tells it; "" if it comes from none.
    """

    name: str
    kind: str
    shape: Shape
    dtype: np.dtype
    row: Primitive | None = None
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    held: Any = None
    rate: str = "fixed"
    named: bool = True
    where: str = ""

    @property
    def per_row(self) -> bool:
        """Whether there is one for each sequence, rather than one for all."""
        return self.rate != "fixed"

    @property
    def timed(self) -> bool:
        """Whether there is another one at every step."""
        return self.rate == "step"

    @property
    def inner(self) -> Shape:
        """The shape of what one sequence has; of what there is one for all, as it is aligned with that."""
        if self.per_row:
            return self.shape[1:]
        ones = next((i for i, n in enumerate(self.shape) if n != 1), len(self.shape))
        return self.shape[ones:]

    @property
    def width(self) -> int:
        """The number of elements in a row."""
        return math.prod(self.inner)

    @property
    def operands(self) -> list["Value"]:
        """The inputs that are no numbers."""
        return [x for x in self.inputs if isinstance(x, Value)]

    @property
    def nameless(self) -> bool:
        """Whether the equation says more than the name."""
        moved = self.per_row and self.row in (table.reshape, table.permute, table.expand)
        short = moved or self.row is table.mul or re.fullmatch(r"v(_\d+)?", self.name) is not None
        return short and not self.named

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        if self.row is None:
            return f"{self.name}[{shape}]: {self.kind}"
        if self.row is table.slice:
            return f"{self.name}[{shape}] = {self.inputs[0].name}[{', '.join(map(index_text, self.attributes['at']))}]"
        arguments = [x.name if isinstance(x, Value) else repr(x) for x in self.inputs]
        arguments += [f"{name}={value!r}" for name, value in self.attributes.items()]
        return f"{self.name}[{shape}] = {self.row.name}({', '.join(arguments)})"


def index_text(i: Any) -> str:
    """An element of an index as it is written in brackets."""
    if isinstance(i, slice):
        ends = [i.start, i.stop, *([i.step] if i.step else [])]
        return ":".join("" if n is None else str(n) for n in ends)
    return "..." if i is ... else repr(i)


def leaf(name: str, kind: str, shape: Shape, dtype: Any, held: Any = None, rate: str = "", where: str = "") -> Value:
    """What is no operation; its rate follows from its kind."""
    rate = rate or ("step" if kind in AT_EACH_STEP else "fixed")
    return Value(name, kind, with_batch(shape, rate), np.dtype(dtype), held=held, rate=rate, where=where)


def operation(
    name: str, row: Primitive, inputs: Iterable[Any], attributes: dict[str, Any], shape: Shape, dtype: Any,
    where: str = "", named: bool = False, rate: str = "",
) -> Value:  # fmt: skip
    """The result of an operation, as often as that of its operands that there is most often."""
    inputs = tuple(inputs)
    rate = rate or max((x.rate for x in inputs if isinstance(x, Value)), key=RATES.index, default="fixed")
    if rate != "fixed" and "shape" in attributes:
        attributes = attributes | {"shape": with_batch(attributes["shape"], rate)}
    shape = with_batch(shape, rate)
    return Value(name, "operation", shape, np.dtype(dtype), row, inputs, attributes, None, rate, named, where)


def with_batch(shape: Shape, rate: str) -> Shape:
    """A shape whose first dimension is the batch's unless there is one value for all."""
    return shape if rate == "fixed" else (Size(shape[0]), *shape[1:])


def run_value(value: Value, operands: Iterable[Any], rows: int, how: Callable[..., Any] | None = None) -> Any:
    """The result of an operation on the tape, or by `how`, for so many rows in place of the batch."""
    plain = lambda x: float(x) if isinstance(x, Number) else x
    attributes = {name: plain(x) for name, x in sized(value.attributes, rows).items()}
    assert value.row is not None
    return (how or value.row)(*map(plain, operands), **attributes)


def numbers_of(values: Iterable[Value]) -> dict[str, Number]:
    """The arguments of kernels that are numbers, by name."""
    operands = (x for value in values for x in (*value.inputs, *value.attributes.values()))
    return {x.name: x for x in operands if isinstance(x, Number)}


# ---- Slices and other views ------------------------------------------------------------------------------------------

VIEWS = (table.slice, table.permute, table.expand, table.reshape)


def cut(whole: Value, first: int, last: int, name: str, where: str = "", named: bool = False) -> Value:
    """Columns [first, last) of a value that has no other dimension than the batch's besides, or of a matrix."""
    at = (*[slice(None)] * (len(whole.shape) - 1), slice(first, last))
    shape = (*whole.shape[:-1], last - first)
    return operation(name, table.slice, (whole,), {"at": at}, shape, whole.dtype, where, named)


def is_view(value: Value) -> bool:
    """Whether a kernel reads it in place. Slices of most parameters are computed once a call."""
    return value.row in VIEWS and (value.inputs[0].per_row or is_slice(value))


def is_slice(value: Value) -> bool:
    """Whether it is a view that takes neighbouring columns."""
    return value.row is table.slice and columns_of(value.inputs[0], value.attributes["at"]) is not None


def columns_of(x: Value, at: Any) -> tuple[int, int] | None:
    """The columns that an index takes of a row, or of a vector, if it takes whole neighbouring ones."""
    if not x.per_row:
        *ahead, last = at
        whole = len(at) == len(x.shape) and x.shape[:-1] in ((), (1,)) and ahead == [slice(None)] * len(ahead)
        if not whole or not isinstance(last, slice) or last.step not in (None, 1):
            return None
        first, end, _ = last.indices(x.shape[-1])
        return first, max(first, end)
    view = view_through(x.inner, [(table.slice, {"at": at})])
    assert view is not None
    count = math.prod(view.shape)
    return (view.first, view.first + count) if view.is_dense or not count else None


def columns(value: Value) -> tuple[int, int]:
    """The columns that a slice takes."""
    found = columns_of(value.inputs[0], value.attributes["at"])
    assert found is not None
    return found


def base_of(value: Value) -> Value:
    """The memory that a value is a view of; the value itself if it is none."""
    return views_on(value)[0]


def views_on(value: Value) -> tuple[Value, list[Step]]:
    """The memory that a value is a view of, and the views on it, the first one first."""
    steps: list[Step] = []
    while is_view(value):
        assert value.row is not None
        steps.append((value.row, value.attributes))
        value = value.inputs[0]
    return value, steps[::-1]


def view_of(value: Value) -> tuple[Value, View]:
    """The memory that a value is a view of, and how it is seen there."""
    base, steps = views_on(value)
    if not base.per_row and steps:  # the last dimension alone is cut
        steps = [(row, {"at": (slice(None), attributes["at"][-1])}) for row, attributes in steps]
    view = view_through(base.inner, steps)
    assert view is not None, f"{value!r} is read in an order that is no view"
    return base, view


def first_column_of(value: Value) -> tuple[Value, int]:
    """The memory that a value is neighbouring columns of, and the first of them: products ask for them in order."""
    base, view = view_of(value)
    assert view.is_dense, f"a product reads {value!r}, which is no neighbouring columns of {base!r}"
    return base, view.first


# ---- Walks -----------------------------------------------------------------------------------------------------------


def reached(values: Iterable[Value], further: Callable[[Value], Iterable[Any]]) -> set[Value]:
    """The values, and all others that one comes to from them, `further` by `further`."""
    found = set(values)
    ahead = list(found)
    while ahead:
        fresh = {y for y in further(ahead.pop()) if isinstance(y, Value) and y not in found}
        found |= fresh
        ahead += fresh
    return found


def depending(values: Iterable[Value], sources: Iterable[Value]) -> set[Value]:
    """The values that depend on the sources, these included; operands come before results."""
    found = set(sources)
    for value in values:
        if not found.isdisjoint(value.operands):
            found.add(value)
    return found


def needed_for(outputs: Iterable[Value], stop: Callable[[Value], bool]) -> set[Value]:
    """What the outputs are made of, down to where `stop` says so (that included)."""
    return reached(outputs, lambda value: () if stop(value) else value.inputs)


def made_of(values: Iterable[Value]) -> list[Value]:
    """The values and all that they are made of, operands before results."""
    found: dict[Value, None] = {}
    ahead = [(value, False) for value in reversed(list(values))]
    while ahead:
        value, complete = ahead.pop()
        if complete:
            found[value] = None
        elif value not in found:
            ahead.append((value, True))
            ahead += [(y, False) for y in reversed(value.operands)]
    return list(found)


def readers_of(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """For each value that is read, by which of `values`: once for each time."""
    found: dict[Value, list[Value]] = {}
    for value in values:
        for y in value.operands:
            found.setdefault(y, []).append(value)
    return found


def sources_of(value: Value) -> list[Value]:
    """The memory that an operation reads."""
    if value.row is table.matmul:
        return [base_of(value.inputs[0]), *value.inputs[1:]]
    return [base_of(y) for y in value.operands]


def multiply_adds(values: Iterable[Value]) -> int:
    """Those of the products among values, for one row."""
    return sum(math.prod(sizes_of(value)) for value in values if value.row is table.matmul)


def sizes_of(product: Value) -> tuple[int, int, int]:
    """How many vectors of a row a product multiplies with its weights, and how long they are before and after."""
    return product.width // product.shape[-1], product.inputs[0].shape[-1], product.shape[-1]


# ---- Programs --------------------------------------------------------------------------------------------------------


class Gradient(NamedTuple):
    """The backward step.

    Attributes:
        values: in the order of computation; they read forward values, what arrives, and each other.
        carries: for each state, the gradient of its new value that comes from the next step.
        dys: the gradients that arrive from outside at the values of the first state, or of all states, at every step.
        states: for each state, the gradient of its old value; None if nothing depends on it.
        sequences: sequence -> its gradient at this step.
        products: product -> its gradient.
        vectors: (vector, first column, gradient for each row): to be summed over rows and steps.
        origin: value -> the forward value that it is the whole gradient of.
        towards: value -> the forward value that it is a part of the gradient of.
    """

    values: tuple[Value, ...]
    carries: tuple[Value, ...]
    dys: tuple[Value, ...]
    states: tuple[Value | None, ...]
    sequences: dict[Value, Value]
    products: dict[Value, Value]
    vectors: tuple[tuple[Value, int, Value], ...]
    origin: dict[Value, Value]
    towards: dict[Value, Value]

    @property
    def results(self) -> list[Value]:
        """What the epilogue and the step before read."""
        of_vectors, of_states = (d for *_, d in self.vectors), (d for d in self.states if d is not None)
        return [*self.sequences.values(), *self.products.values(), *of_vectors, *of_states]


class Program(NamedTuple):
    """A step on its way to kernels: what a pass takes and returns. The names of fields that a pass adds stand below it.

    Attributes:
        names: of the values; new ones get theirs there.
        values: of the step, operands before results.
        inputs, given, held, noise: the leaves: what arrives, sequence constants, parameters and constants, and what is
            drawn at each step.
        states, outputs: the old and the new values of the states.
        traced: the program as it was traced.
        hoisted: products of the prologue.
        loop: what is computed at every step.
        sequences: what the loop reads step by step: inputs, hoisted products, and what the tape computes before.
        constants: what it reads of each sequence, the same at all steps.
        vectors: what it reads for all.
        gradient: the backward step.
        backward: its values, and those of the forward step that are rematerialised there.
        residuals: forward values that are saved for the backward pass: its loop, and its epilogue.
    """

    names: Names
    values: tuple[Value, ...]
    inputs: tuple[Value, ...]
    given: tuple[Value, ...]
    held: tuple[Value, ...]
    noise: tuple[Value, ...]
    states: tuple[Value, ...]
    outputs: tuple[Value, ...]
    traced: "Program | None" = None
    # hoist, join
    hoisted: tuple[Value, ...] = ()
    loop: tuple[Value, ...] = ()
    sequences: tuple[Value, ...] = ()
    constants: tuple[Value, ...] = ()
    vectors: tuple[Value, ...] = ()
    # transpose
    gradient: Gradient = Gradient((), (), (), (), {}, {}, (), {}, {})
    # rematerialise
    backward: tuple[Value, ...] = ()
    residuals: tuple[Value, ...] = ()

    @property
    def leaves(self) -> tuple[Value, ...]:
        """What the step is given, but for noise: in the order of a call."""
        return (*self.inputs, *self.given, *self.held, *self.states)

    @property
    def products(self) -> tuple[Value, ...]:
        """Those of the loop: left operands, and the weights that stand side by side."""
        return tuple(value for value in self.loop if value.row is table.matmul)

    @property
    def multiplied(self) -> tuple[Value, ...]:
        """The memory of left operands, which the epilogue reads as well: for the gradients of weights."""
        return tuple(dict.fromkeys(base_of(product.inputs[0]) for product in self.products))

    def rebuilt(self, change: Callable[[Value, tuple[Any, ...]], Iterable[Value]]) -> "Program":
        """A program with other values in the place of these.

        Args:
            change: for a value and its new operands, what is to be computed in its place, of which the last stands for
                it; nothing to leave it as it is, but for its operands.
        """
        new: dict[Value, Value] = {}
        made: dict[Value, tuple[Value, ...]] = {}
        for value in dict.fromkeys([*self.values, *self.loop, *self.gradient.values, *self.backward]):
            inputs = tuple([new.get(x, x) if isinstance(x, Value) else x for x in value.inputs])
            made[value] = tuple(change(value, inputs)) or (with_inputs(value, inputs),)
            new[value] = made[value][-1]
        every = lambda values: tuple(dict.fromkeys(y for x in values for y in made[x]))
        fields = {name: _mapped(x, new) for name, x in self._asdict().items() if name != "traced"}
        fields |= {name: every(getattr(self, name)) for name in ("values", "loop", "backward")}
        fields["gradient"] = fields["gradient"]._replace(values=every(self.gradient.values))
        return self._replace(**fields)


def with_inputs(value: Value, inputs: tuple[Any, ...], name: str = "") -> Value:
    """The value, of these operands; under another name, if there is one."""
    same = all(x is y for x, y in zip(value.inputs, inputs)) and name in ("", value.name)
    return value if same else dataclasses.replace(value, inputs=inputs, name=name or value.name)


def _mapped(x: Any, new: dict[Value, Value]) -> Any:
    """The same with other values in it."""
    if isinstance(x, Value):
        return new.get(x, x)
    if isinstance(x, dict):
        return {_mapped(key, new): _mapped(value, new) for key, value in x.items()}
    if isinstance(x, tuple):
        inner = [_mapped(y, new) for y in x]
        return type(x)(*inner) if hasattr(x, "_fields") else tuple(inner)
    return x
