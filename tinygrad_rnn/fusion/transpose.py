"""Transpose: the gradient of one step. The values of the loop in reverse order, each through the rules of its row.

    for value in reversed(loop):                       c_new = f * c + i * g
        for x, dx in rules(value, d[value]):           df += dc_new * c        (rule of mul: da = dy * b)
            d[x] += dx                                 dc += dc_new * f        (               db = dy * a)

The rules are the table's own, run on symbols: what comes out are values again. Three kinds of values are no sums of
others but memory, of which operations take slices: sequences, products and vectors of parameters. Their gradients are
put together from the gradients of the slices. The gradient of a product `a @ W` with respect to W is not formed inside
the loop at all: `left` and the gradient of the product are kept, and one product over all steps follows it.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ..autograd import table
from ..autograd.arrays import between
from ..autograd.primitive import Primitive
from ..autograd.tape import set_mode
from .batch import BATCH
from .builder import MOST_VALUES, Builder, name_of
from .names import FORMS, RESERVED, Names
from .program import Gradient, Program, Value, columns, is_slice, is_view, leaf, numbers_of
from .simplify import Simplified
from .symbols import Symbol


class Adjoint(Builder):
    """The gradients of a step's values while they are found: by value, and by the columns of what is memory.

    Attributes:
        origin, towards: see `Gradient`.
    """

    def __init__(self, names: Names, known: Iterable[Value]) -> None:
        super().__init__(names, MOST_VALUES[1], known)
        self.d: dict[Value, Value] = {}
        self.slices: dict[Value, dict[tuple[int, int], Value]] = {}
        self.origin: dict[Value, Value] = {}
        self.towards: dict[Value, Value] = {}

    def record(self, row: Primitive, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Called in place of an operation of a rule: a symbol for its result."""
        operands = [x.value if isinstance(x, Symbol) else x for x in inputs]
        if not any(isinstance(x, Value) for x in operands):
            return row.forward(*inputs, **attributes)
        shape = row.shape(*(x.shape if isinstance(x, Value) else () for x in operands), **attributes)
        return Symbol(self.add(row, operands, attributes, shape))

    def arrive(self, x: Value, dx: Value) -> None:
        """Add a gradient to that of a value, or of what it is a view of."""
        if is_slice(x):
            found, key = self.slices.setdefault(x.inputs[0], {}), columns(x)
            found[key] = self.add_up(x, found.get(key), self.flat(dx))
        elif is_view(x):
            for y, dy in self.through(x, dx):
                self.arrive(y, dy)
        else:
            self.d[x] = self.add_up(x, self.d.get(x), dx)

    def flat(self, dx: Value) -> Value:
        """As a row without dimensions."""
        return self.apply(table.reshape, dx, shape=(BATCH, dx.width))

    def add_up(self, x: Value, before: Value | None, dx: Value) -> Value:
        """The sum of what has arrived at a value."""
        total = dx if before is None else self.add(table.add, [before, dx], {}, dx.shape)
        self.towards.setdefault(dx, x)
        self.towards.setdefault(total, x)
        return total

    def of(self, value: Value) -> Value | None:
        """The gradient of a value of which slices may have been taken, which may overlap."""
        whole, slices = self.d.get(value), self.slices.get(value)
        if not slices:
            return whole
        arrived = {(0, value.width): self.flat(whole)} | slices if whole is not None else slices
        starting: dict[int, list[Any]] = {}
        for number, ((first, last), dx) in enumerate(arrived.items()):
            starting.setdefault(first, []).append((number, first, last, dx))
        pieces: list[Value] = []
        here: list[Any] = []
        for first, last in itertools.pairwise(sorted({0, value.width, *itertools.chain(*slices)})):
            here = [each for each in (*here, *starting.get(first, ())) if last <= each[2]]
            here.sort(key=lambda each: each[0])  # in the order of arrival
            total = None
            for _, start, _, dx in here:
                piece = self._columns(dx, first - start, last - start)
                total = piece if total is None else self.add(table.add, [total, piece], {}, piece.shape)
            pieces.append(total or self.zeros((BATCH, last - first), value.dtype))
        total = pieces[0] if len(pieces) == 1 else self.add(table.cat, pieces, {"dim": 1}, (BATCH, value.width))
        return self.apply(table.reshape, total, shape=(BATCH, *value.inner))

    def _columns(self, dx: Value, first: int, last: int) -> Value:
        return self.add(table.slice, [dx], {"at": (slice(None), slice(first, last))}, (BATCH, last - first))

    def through(self, value: Value, dy: Value) -> list[tuple[Value, Value]]:
        """The gradients of the operands of one value, by the rules of its row."""
        row = value.row
        assert row is not None
        floats = [i for i, x in enumerate(value.inputs) if isinstance(x, Value) and x.dtype.kind == "f"]
        adjoint = row.adjoint(tuple(floats))
        if row is table.cat:
            dim = value.attributes["dim"]
            ends = itertools.pairwise([0, *itertools.accumulate(x.shape[dim] for x in value.inputs)])
            return [(x, self.apply(table.slice, dy, at=between(dim, *at))) for x, at in zip(value.inputs, ends)]
        if row is table.expand:  # over columns; what was repeated over rows is summed with all steps
            return [(value.inputs[0], self._fitted(dy, value.inputs[0]))]
        known: dict[str, Any] = {"y": Symbol(value), **value.attributes}
        for name, x in zip(row.inputs, value.inputs):
            known[name] = Symbol(x) if isinstance(x, Value) else x
            known |= {f"{name}_shape": getattr(x, "shape", ()), f"{name}_dtype": getattr(x, "dtype", None)}
        found = [rule(Symbol(dy), *[known[name] for name in adjoint.saves]) for rule in adjoint.rules]
        return [(value.inputs[i], self._fitted(dx.value, value.inputs[i])) for i, dx in zip(adjoint.wanted, found)]

    def _fitted(self, dx: Value, x: Value) -> Value:
        """Sum over the dimensions in which x has one for all; rows are summed later, over all steps at once."""
        new = len(dx.inner) - len(x.inner)
        dims = tuple(i + 1 for i, n in enumerate(dx.inner) if n != 1 and (i < new or x.inner[i - new] != n))
        dx = self.apply(table.sum, dx, dim=dims, keepdim=True) if dims else dx
        return self.apply(table.reshape, dx, shape=(BATCH, *x.inner))


def solid(d: Value) -> Value:
    """What is read in another shape, since where a gradient goes it has none."""
    while d.row is table.reshape:
        d = d.inputs[0]
    return d


def transpose(program: Program, watched: int = 1) -> Program:
    """The program with its backward step.

    Args:
        watched: of how many states, from the first, the values at every step are seen from outside. Those of the others
            are seen at the end only.
    """
    carries = tuple(leaf(program.names.new(f"d{x.name}"), "carry", x.shape, x.dtype) for x in program.states)
    dys = tuple(  # under names that nothing else is given
        leaf(f"dy_{x.name}" if k else "dy", "gradient", x.shape, x.dtype)
        for k, x in enumerate(program.states[:watched])
    )
    leaves = (*program.sequences, *program.constants, *program.vectors)
    work = Adjoint(program.names, (*program.loop, *leaves))
    incoming = [work.add(table.add, [dy, carry], {}, dy.shape) for dy, carry in zip(dys, carries)]
    products: dict[Value, Value] = {}
    with set_mode("tracer", work):
        for output, new in zip(program.outputs, [*incoming, *carries[watched:]]):
            work.arrive(output, new)
        for value in reversed(program.loop):
            dy = work.of(value)
            if dy is None:
                continue
            work.origin.setdefault(dy, value)
            if value.row is table.matmul:
                products[value], left = dy, value.inputs[0]
                weights = leaf(f"{value.name}_weights_T", "weights", (value.shape[-1], left.shape[-1]), value.dtype)
                work.arrive(left, work.add(table.matmul, [dy, weights], {}, left.shape))
            else:
                for x, dx in work.through(value, dy):
                    work.arrive(x, dx)
        sequences = {x: solid(d) for x in leaves if x.per_row and (d := work.of(x)) is not None}
        vectors: list[tuple[Value, int, Value]] = []
        for vector in program.vectors:
            vectors += [(vector, first, solid(dx)) for (first, _), dx in work.slices.get(vector, {}).items()]
            if vector in work.d:
                vectors.append((vector, 0, solid(work.d[vector])))
        states = tuple(d and solid(d) for d in map(work.of, program.states))
    gradient = Gradient(
        tuple(work.values), carries, dys, states, sequences, products, tuple(vectors), work.origin, work.towards
    )
    return named(program._replace(gradient=simplified(gradient, program.names)))


def simplified(gradient: Gradient, names: Names) -> Gradient:
    """The values that somebody reads, of slices of what is only read in slices."""
    new = Simplified(gradient.values, gradient.results, names)
    whole = new.whole

    def left(found: dict[Value, Value]) -> dict[Value, Value]:
        kept: dict[Value, Value] = {}
        for d, x in found.items():
            if d not in new.inside or new.is_made(d):
                kept.setdefault(whole(d), x)
        return kept

    return gradient._replace(
        values=tuple(new.made),
        states=tuple(d and whole(d) for d in gradient.states),
        sequences={x: whole(d) for x, d in gradient.sequences.items()},
        products={product: whole(d) for product, d in gradient.products.items()},
        vectors=tuple((vector, first, whole(d)) for vector, first, d in gradient.vectors),
        origin=left(gradient.origin),
        towards=left(gradient.towards),
    )


def named(program: Program) -> Program:
    """The program with gradients called after what they are the gradients of."""
    gradient, found = program.gradient, {}
    taken = [x.name for x in (*program.values, *gradient.carries, *gradient.dys)]
    names = Names(RESERVED, FORMS, [*taken, *numbers_of(program.values)])
    inside = set(gradient.values)
    wholes = [*gradient.origin.items(), *((d, x) for x, d in gradient.sequences.items())]
    for d, x in wholes:
        if d in inside and d not in found:
            found[d] = names.new(f"d{x.name}")
    for d, x in gradient.towards.items():
        if d in inside and d not in found and d not in gradient.origin:
            found[d] = names.new(f"d{x.name}_part")
    whole = {d for d, _ in wholes}

    def change(value: Value, inputs: tuple[Any, ...]) -> Iterable[Value]:
        if value not in inside:
            return ()
        assert value.row is not None
        name = found.get(value) or name_of(names, value.row, inputs, value.attributes)
        return [dataclasses.replace(value, inputs=inputs, name=name, named=value in whole)]

    return program._replace(names=names).rebuilt(change)
