"""Simplify: what is only read in slices is computed in slices, so that loops have one width each.

    gates = x @ W + h @ U                       a = (x @ W)[:, 0:H] + (h @ U)[:, 0:H]
    i, f = sigmoid(gates[:, 0:H]), ...    ->    i, f = sigmoid(a), ...

A slice of elementwise maths is that maths on slices; of a concatenation it is the piece that it lies in; of a slice, a
slice of the whole. What somebody reads as a whole is computed as a whole, and slices are read from there. What nobody
reads is left out.
"""

from collections.abc import Iterable

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .builder import name_of
from .names import FORMS, RESERVED, Names
from .program import Program, Value, columns, cut, is_slice, is_view, leaf, numbers_of, operation, view_of, with_inputs

Columns = tuple[int, int]  # the first, and the one after the last


def simplify(program: Program) -> Program:
    """The program, with the values that its outputs need."""
    taken = [*(x.name for x in program.values if x.named), *numbers_of(program.values)]
    leaves = [value for value in program.values if value.row is None]
    new = Simplified(program.values, [*program.outputs, *leaves], Names(RESERVED, FORMS, taken))
    outputs = tuple(map(new.whole, program.outputs))
    return program._replace(names=new.names, values=tuple(new.made), outputs=outputs, traced=program)


def takes_columns(value: Value) -> bool:
    """Whether a value is neighbouring columns of a row that has no other dimension."""
    return value.per_row and is_slice(value) and len(value.inputs[0].inner) == 1


class Simplified:
    """New values in the place of some, as far as the roots need them.

    What is read and is none of the values stays as it is.

    Attributes:
        made: the new values, operands before results.
    """

    def __init__(self, values: Iterable[Value], roots: Iterable[Value], names: Names) -> None:
        self.values, self.names = list(values), names
        self.inside = set(self.values)
        self.made: dict[Value, None] = {}
        self._asked: dict[Value, dict[Columns, Value | None]] = {}  # -> the slice that was made there, if any
        self._at: dict[tuple[Value, Columns], Value] = {}
        self._ask_for(roots)
        self._make()

    def whole(self, value: Value) -> Value:
        """The new value that stands for one."""
        return self._at.get((value, (0, value.width)), value)

    def is_made(self, value: Value) -> bool:
        """Whether there is one as a whole."""
        return (value, (0, value.width)) in self._at

    # ---- From results to operands: who reads what --------------------------------------------------------------------

    def _ask_for(self, roots: Iterable[Value]) -> None:
        for value in roots:
            self._ask(value, (0, value.width))
        for value in reversed(self.values):
            asked = self._asked.get(value)
            if asked is None:
                continue
            if (0, value.width) in asked or any(self._operands(value, at) is None for at in asked):
                asked.setdefault((0, value.width), None)
                if takes_columns(value):
                    self._ask(value.inputs[0], columns(value), value)
                else:
                    for x in value.operands:
                        self._ask(x, (0, x.width))
                continue
            for at, name in asked.items():
                for x, of_x in self._operands(value, at) or ():
                    self._ask(x, of_x, name if value.row in (table.slice, table.cat) else None)

    def _ask(self, value: Value, at: Columns, name: Value | None = None) -> None:
        asked = self._asked.setdefault(value, {})
        asked[at] = asked.get(at) or name

    def _operands(self, value: Value, at: Columns) -> list[tuple[Value, Columns]] | None:
        """Which columns of operands make these of a value; None if they are computed with all others."""
        first, last = at
        if value not in self.inside or not value.per_row or len(value.inner) != 1:
            return None
        if takes_columns(value):
            start = columns(value)[0]
            return [(value.inputs[0], (start + first, start + last))]
        if value.row is table.cat:
            start = 0
            for piece in value.inputs:
                if start <= first and last <= start + piece.width:
                    in_order = not is_view(piece) or view_of(piece)[1].is_dense  # as whoever reads columns counts on
                    return [(piece, (first - start, last - start))] if in_order else None
                start += piece.width
            return None
        repeated = value.row is table.expand and value.inputs[0].inner == (1,)
        if not repeated and (not isinstance(value.row, ElementwisePrimitive) or not value.row.linear):
            return None  # what is clipped is the gradient of all slices together
        return [(x, (0, 1) if x.width == 1 else at) for x in value.operands]

    # ---- From operands to results ------------------------------------------------------------------------------------

    def _make(self) -> None:
        for value in self.values:
            asked, whole = self._asked.get(value, {}), (0, value.width)
            if whole in asked:
                self._at[value, whole] = self._as_a_whole(value)
            for at in sorted(asked.keys() - {whole}):
                name = asked[at]
                operands = None if whole in asked else self._operands(value, at)
                if operands is None:
                    self._slice(value, at, name)
                elif value.row in (table.slice, table.cat):
                    self._at[value, at] = self._slice(*operands[0], name)
                else:
                    self._at[value, at] = self._in_slices(value, at, operands, name)

    def _keep(self, value: Value, like: Value | None) -> Value:
        """Keep a new value, under the user's name for what it is `like`, or one that tells what it is made of."""
        if is_view(value) and value.inputs[0].kind == "zeros":
            return leaf(self.names.new("zero"), "zeros", value.shape, value.dtype)
        if value.row is not None:
            words = value.row, value.inputs, value.attributes
            value = with_inputs(value, value.inputs, like.name if like and like.named else name_of(self.names, *words))
        self.made[value] = None
        return value

    def _as_a_whole(self, value: Value) -> Value:
        if takes_columns(value):
            return self._slice(value.inputs[0], columns(value), value)
        inputs = tuple([self.whole(x) if isinstance(x, Value) else x for x in value.inputs])
        return self._keep(with_inputs(value, inputs), value)

    def _in_slices(
        self, value: Value, at: Columns, operands: list[tuple[Value, Columns]], name: Value | None
    ) -> Value:
        """Columns of a value, made of columns of its operands."""
        parts = iter([self._slice(*each) for each in operands])
        inputs = tuple([next(parts) if isinstance(x, Value) else x for x in value.inputs])
        shape, attributes = (*value.shape[:-1], at[1] - at[0]), value.attributes
        if "shape" in attributes:
            attributes = attributes | {"shape": shape}
        assert value.row is not None
        where, named = (name or value).where, name is not None and name.named
        made = operation("", value.row, inputs, attributes, shape, value.dtype, where, named)
        return self._keep(made, name)

    def _slice(self, value: Value, at: Columns, name: Value | None = None) -> Value:
        """Columns of a value: what has them already, or a slice of the memory that it is."""
        if at == (0, value.width):
            return self.whole(value)
        if (value, at) not in self._at:
            base, there = self.whole(value), at
            while is_slice(base) and len(base.inputs[0].inner) == 1:
                start, base = columns(base)[0], base.inputs[0]
                there = start + there[0], start + there[1]
            if (base, there) not in self._at:
                made = cut(base, *there, "", (name or base).where, name is not None and name.named)
                self._at[base, there] = self._keep(made, name)
            self._at[value, at] = self._at[base, there]
        return self._at[value, at]
