"""Rematerialise: what the backward pass reads is saved, or computed once more where that is cheaper.

Saved, as residuals, is what its values name and what cannot be had back from that by a few cheap operations.
"""

from ..autograd import table
from ..autograd.primitive import Shape
from .program import Program, Value, base_of, is_view, needed_for, operation, reached, sources_of

CHEAP = (
    table.add, table.sub, table.mul, table.neg, table.square, table.relu, table.where, table.slice, table.expand,
    table.eq, table.ne, table.lt, table.le, table.gt, table.ge, table.logical_and, table.logical_or,
    table.logical_not, table.cast, table.maximum, table.minimum, table.abs, table.sign, table.reshape, table.permute,
)  # fmt: skip
DEPTH = 3  # of cheap operations in a row


def rematerialise(program: Program) -> Program:
    """The program with its residuals, and with the backward step as it is computed."""
    gradient = program.gradient
    at_hand = {
        *program.states, *program.outputs, *program.sequences, *program.constants, *program.vectors,
        *gradient.carries, *gradient.dys,
    }  # fmt: skip
    used = needed_for(gradient.results, lambda value: value.kind != "operation")
    values = [value for value in gradient.values if value in used]
    inside = set(program.loop)
    read = {y for value in values for y in sources_of(value) if y in inside}
    saved: set[Value] = set()

    def is_cheap(value: Value, depth: int) -> bool:
        """Whether a value can be had from memory by at most `depth` cheap operations in a row."""
        if value in at_hand or value in saved or value.kind == "zeros":
            return True
        if not depth:
            return False
        if value.row in (table.tanh, table.sigmoid):  # of a state, say: as fast as to write and read it again
            return value.inputs[0] in at_hand
        return value.row in CHEAP and all(is_cheap(base_of(y), depth - 1) for y in value.operands)

    for value in program.loop:
        if value in read and value not in at_hand and not is_cheap(value, DEPTH):
            saved.add(value)
    again: set[Value] = set()
    ahead = [value for value in program.loop if value in read]
    while ahead:
        value = ahead.pop()
        if value in inside and value not in at_hand and value not in saved and value not in again:
            again.add(value)
            for y in value.operands:
                if y not in at_hand:  # a slice may be, of what is not
                    ahead += [y, base_of(y)]
    views = [y for value in values for y in value.operands if is_view(y)]
    again |= reached(views, lambda y: filter(is_view, y.operands)) & inside
    in_order = lambda some: [value for value in program.loop if value in some]
    # What products multiply is read by the epilogue, though the loop may rather compute it again.
    multiplied = [x for x in program.multiplied if x in inside and x not in at_hand and x not in saved]
    return program._replace(residuals=(*in_order(saved), *multiplied), backward=(*in_order(again), *values))


def lower(program: Program) -> Program:
    """The program with every softmax of the forward step as elementwise maths and reductions of a row."""

    def change(value: Value, inputs: tuple[Value, ...]) -> list[Value]:
        if value.row not in (table.softmax, table.log_softmax) or value not in loop:
            return []
        made: list[Value] = []
        x, dim = inputs[0], value.attributes["dim"]
        one = tuple([1 if i == dim else n for i, n in enumerate(value.shape)])

        def make(name: str, row: table.Primitive, *operands: Value, shape: Shape = one, **attributes: object) -> Value:
            name = program.names.new(f"{name}_{value.name}")
            made.append(operation(name, row, operands, attributes, shape, value.dtype, value.where))
            return made[-1]

        top = make("max", table.amax, x, dim=(dim,), keepdim=True)
        below = make("below", table.sub, x, top, shape=value.shape)
        e = make("exp", table.exp, below, shape=value.shape)
        total = make("sum", table.sum, e, dim=(dim,), keepdim=True)
        row, operands = table.div, (e, total)
        if value.row is table.log_softmax:
            row, operands = table.sub, (below, make("log", table.log, total))
        made.append(operation(value.name, row, operands, {}, value.shape, value.dtype, value.where, value.named))
        return made

    loop = set(program.loop)
    return program.rebuilt(change)
