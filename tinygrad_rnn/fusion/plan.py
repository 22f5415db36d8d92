"""What happens when: before the loop over time, in its phases, and after it.

Of the lines of a step,

    parameters alone               are computed once a call, on the tape;
    products of the input          are hoisted: one product over all T * B rows in the prologue, and one each for the
                                   gradients of the input and of these weights in the epilogue;
    products of states             stay in the loop, those with a common left operand joined into one;
    everything else                is elementwise maths and row reductions between them.

The loop's lines fall into phases. A phase is a product, or a function of one row of the batch: loops over its columns,
one after the other where a reduction ends or the width changes. A value that only its own loop needs is a local
variable; any other has a place in memory.

Saved for the backward step is what its lines name and what cannot be had back from that by cheap operations.
"""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .adjoint import Gradient, Product, reverse
from .trace import BATCH, LONGEST_NAME, MOST_OPERATIONS, Line, Trace, Unfusable, _columns, is_view, too_many

CHEAP = {
    row.name
    for row in (
        table.add, table.sub, table.mul, table.neg, table.square, table.relu, table.where, table.part, table.expand,
        table.eq, table.ne, table.lt, table.le, table.gt, table.ge, table.logical_and, table.logical_or,
        table.logical_not, table.cast, table.maximum, table.minimum, table.abs, table.sign,
        table.reshape,
    )
}  # fmt: skip

# Rows that are not computed both before the loop and in it: the first two are made of other lines there, and what the
# last one clips is the gradient of all uses together.
ONCE = (table.softmax, table.log_softmax, table.clip_gradient)


class Memory(NamedTuple):
    """Columns [first, first + width) of the rows of an array.

    Attributes:
        array: its name.
        where: how a row is found, such as "now + row"; empty for a vector that all rows share.
    """

    array: str
    where: str
    first: int
    width: int

    def overlaps(self, other: "Memory") -> bool:
        """Whether two places have columns in common."""
        if (self.array, self.where) != (other.array, other.where):
            return False
        return self.first < other.first + other.width and other.first < self.first + self.width


class Plan(NamedTuple):
    """All that is needed to emit the kernels of a step and to run them.

    Attributes:
        before: lines computed once a call on the tape, in order: functions of parameters, and of the input.
        timed: lines that have other values at every step.
        hoisted: those of `before` that the kernel computes: products of the input.
        sequences: lines of `before`, and maybe the input itself, that the loop reads step by step.
        constants: those with a row for each sequence that is the same at all steps.
        vectors: lines of `before` that the loop reads at every step.
        products: in the loop.
        states, outputs: the old and new values of the states.
        forward, backward: the lines of the loop.
        saved: forward lines that are kept for the backward step.
        gradient: the backward step.
        pieces: lines that were taken apart: the lines that compute columns [first, last) of them.
        skipped: concatenations and repetitions of which a part is taken from what they are made of.
        script: (line, copy of it as it was traced) for all lines, for running the step on the tape.
    """

    before: list[Line]
    timed: set[Line]
    hoisted: dict[Line, None]
    sequences: list[Line]
    constants: list[Line]
    vectors: list[Line]
    products: list[Product]
    states: list[Line]
    outputs: list[Line]
    forward: list[Line]
    backward: list[Line]
    saved: list[Line]
    gradient: Gradient
    pieces: dict[Line, dict[tuple[int, int], Line]]
    skipped: set[Line]
    script: list[tuple[Line, Line]]


def make_plan(trace: Trace, outputs: list[Line], watched: int = 1) -> Plan:
    """Sort the lines of a traced step, whose first `watched` states are seen from outside at every step.

    Raises:
        Unfusable: an operation that has no place in a kernel.
    """
    states = [x for x in trace.lines if x.kind == "state"]
    inputs = [line for line in trace.lines if line.kind == "input"]
    from_x, from_state = _reached(trace.lines, inputs), _reached(trace.lines, states)
    per_step = lambda line: line in from_x or line in from_state
    traced = list(trace.lines)
    script = [(line, copy.copy(line)) for line in traced]
    hoisted = [line for line in traced if line.row is table.matmul and line in from_x and line not in from_state]
    before = set(hoisted)
    for line in reversed(traced):
        if line in before or not per_step(line):
            before |= {y for y in [line, *line.inputs] if isinstance(y, Line)}
    ready = {*hoisted, *(line for line in before if line.row in ONCE)}  # other operands of products are computed twice
    stop = lambda line: line in ready or not per_step(line)
    _keep_whole(trace, _needed(outputs, stop))
    needed = _needed(outputs, stop)
    forward = [line for line in traced if line in needed and per_step(line) and line not in ready]
    forward = [line for line in forward if line.kind == "operation"]
    if len(forward) > MOST_OPERATIONS:
        raise too_many(f"{len(forward):,} in the loop over time")
    for line in forward:
        _check(line, per_step)
    products = _join(trace, forward)
    outside = {y for line in before for y in line.inputs if isinstance(y, Line)}
    simple = [line for line in hoisted if line in needed and line not in outside and _is_simple(line, from_x)]
    prologue = [product.result for product in _join(trace, simple, before_the_loop=True)]
    _flatten_parts(trace.lines)

    leaves: set[Line] = set()
    inside = {*forward, *states}
    for line in [*forward, *outputs]:  # of a product only what it multiplies: its weights are packed before the loop
        read = [_base(line.inputs[0])] if line.row is table.matmul else _read(line)
        leaves |= {y for y in read if y.kind not in ("zeros", "weights") and y not in inside}
    for output in outputs:
        base = _base(output)
        if base not in inside:
            leaves.add(base)
    for leaf in leaves:
        if leaf.per_row and len(leaf.shape) > 2:
            raise no_place(leaf)
    leaves_in_order = [line for line in trace.lines if line in leaves]
    assert len(leaves_in_order) == len(leaves), "the loop reads a line that nobody computes"
    timed = _reached(trace.lines, inputs)
    trace.forget_all_but({*forward, *leaves})
    gradient = reverse(trace, forward, outputs, states, leaves_in_order, products, watched)

    at_hand = {*states, *outputs, *leaves, *gradient.carries, *gradient.dys}
    roots = [g for g in gradient.states if g is not None]
    roots += [*gradient.sequences.values(), *(g for _, g in gradient.products), *(g for _, _, g in gradient.vectors)]
    used = _needed(roots, stop=lambda line: line.kind != "operation")
    backward = [line for line in gradient.lines if line in used and line.kind == "operation"]
    saved, again = _saved_and_recomputed(forward, backward, roots, at_hand)
    wanted = [*leaves_in_order, *(weights for product in products for weights in product.weights)]
    return Plan(
        before=[line for line in made_of(wanted) if line.kind == "operation"],
        timed=timed,
        hoisted={line: None for line in prologue if line in leaves},
        sequences=[line for line in leaves_in_order if line.per_row and line in timed],
        constants=[line for line in leaves_in_order if line.per_row and line not in timed],
        vectors=[line for line in leaves_in_order if not line.per_row],
        products=products,
        states=states,
        outputs=outputs,
        forward=[piece for line in forward for piece in _lowered(line, trace)],
        backward=[*again, *backward],
        saved=saved,
        gradient=gradient,
        pieces=trace.pieces,
        skipped=trace.skipped,
        script=script,
    )


def _reached(lines: list[Line], sources: list[Line]) -> set[Line]:
    """The lines that depend on the sources, these included."""
    reached = set(sources)
    for line in lines:
        if any(isinstance(y, Line) and y in reached for y in line.inputs):
            reached.add(line)
    return reached


def _is_simple(line: Line, from_x: set[Line]) -> bool:
    """Whether a product of the input is one of a matrix with parameters."""
    left, right = line.inputs
    simple = isinstance(left, Line) and isinstance(right, Line) and len(left.shape) == len(right.shape) == 2
    return simple and left.per_row and not right.per_row and right not in from_x


def _needed(outputs: Iterable[Line], stop: Any) -> set[Line]:
    """What the outputs are made of, down to where `stop` says so (that included)."""
    needed: set[Line] = set()
    ahead = list(outputs)
    while ahead:
        line = ahead.pop()
        if line not in needed:
            needed.add(line)
            if not stop(line):
                ahead += [y for y in line.inputs if isinstance(y, Line)]
    return needed


def made_of(lines: Iterable[Line]) -> list[Line]:
    """The lines and all that they are made of, inputs before results."""
    found: dict[Line, None] = {}
    ahead = [(line, False) for line in reversed(list(lines))]
    while ahead:
        line, complete = ahead.pop()
        if complete:
            found[line] = None
        elif line not in found:
            ahead.append((line, True))
            ahead += [(y, False) for y in reversed(line.inputs) if isinstance(y, Line)]
    return list(found)


def _keep_whole(trace: Trace, needed: set[Line]) -> None:
    """Parts of what is computed as a whole anyway are read from it, rather than computed once more."""
    position = {line: i for i, line in enumerate(trace.lines)}
    for whole, pieces in trace.pieces.items():
        for (first, last), piece in pieces.items() if whole.row is not table.part else ():
            if whole in needed and piece in needed and position[whole] < position[piece]:
                piece.row, piece.inputs = table.part, [whole]
                piece.attributes = {"at": (slice(None), slice(first, last))}


def _base(line: Line) -> Line:
    """The memory that a line is a view of; the line itself if it is none."""
    return line.inputs[0] if line.row is table.part and is_view(line.inputs[0], line.attributes["at"]) else line


def _read(line: Line) -> list[Line]:
    """The lines whose values a line reads, through views."""
    if line.row is table.part:
        return [_base(line)]
    if line.row is table.matmul:
        return [_base(line.inputs[0]), *line.inputs[1:]]
    return [_base(y) for y in line.inputs if isinstance(y, Line)]


def _check(line: Line, per_step: Any) -> None:
    """Refuse what has no place in a kernel."""
    row = line.row
    assert row is not None
    if isinstance(row, ElementwisePrimitive) or row in (table.part, table.cat, table.cast):
        fits = line.per_row and len(line.shape) <= 2
    elif row is table.expand:
        fits = line.per_row and len(line.shape) == 2
    elif row is table.reshape:
        fits = line.per_row and line.width == 1 and line.inputs[0].width == 1
    elif row in (table.sum, table.amax, table.amin):
        fits = line.attributes["dim"] == (1,) and len(line.inputs[0].shape) == 2
    elif row in (table.softmax, table.log_softmax):
        fits = line.attributes["dim"] == 1 and len(line.shape) == 2
    elif row is table.matmul:
        left, right = line.inputs
        fits = isinstance(left, Line) and per_step(left) and len(left.shape) == 2 and not per_step(right)
    else:
        fits = False
    if not fits:
        raise no_place(line)


def no_place(line: Line) -> Unfusable:
    """What to say of a line that has no place in a kernel: what to write instead."""
    row, operands = line.row, [x for x in line.inputs if isinstance(x, Line)]
    if max(len(x.shape) for x in [line, *operands] if x.per_row or x is line) > 2:
        lead = "write values of shape [B, width], with tg.cat([a, b], -1) and h[:, first:last] for several in one"
    elif row is table.matmul and operands[-1].timed:
        lead = "write (a * b).sum(-1, keepdim=True) for the product of two values of a row"
    elif row is table.matmul:
        lead = "write h @ W, with the weights on the right"
    elif row is table.index:
        lead = "write tg.cat([h[:, 1:2], h[:, 0:1]], -1), or let the columns of a weight have that order"
    elif row is table.cumsum:
        lead = "write h @ tg.triu(tg.ones(h.shape[1], h.shape[1], dtype=h.dtype)) for tg.cumsum(h, -1)"
    elif row is table.sum_to:
        lead = "write sum(-1, keepdim=True)"
    else:
        lead = "write it with elementwise maths, sums over the columns and products with weights"
    assert row is not None
    return Unfusable(f"a kernel has no place for {row.name} of such a kind: {lead} ({line.where})")


def _join(trace: Trace, lines: list[Line], before_the_loop: bool = False) -> list[Product]:
    """Make products with a common left operand one, of which the former results become parts.

    Kernels get the weights packed side by side; before the loop, a line puts them there.
    """
    groups: dict[Line, list[Line]] = {}
    for line in lines:
        if line.row is table.matmul:
            groups.setdefault(line.inputs[0], []).append(line)
    products = []
    for left, members in groups.items():
        weights = [line.inputs[1] for line in members]
        if len(members) == 1:
            products.append(Product(left, members, weights, members[0]))
            continue
        width = sum(line.width for line in members)
        name, inputs = trace.unique(_together(members)), [left, *weights]
        result = Line(name, "operation", (BATCH, width), left.dtype, table.matmul, inputs)
        products.append(Product(left, members, weights, result))
        if before_the_loop:
            shape = (left.width, width)
            together = Line(trace.unique(_together(weights)), "operation", shape, left.dtype, table.cat, weights)
            together.attributes = {"dim": 1}
            result.inputs = [left, together]
        for place in (lines, trace.lines):
            place.insert(place.index(members[0]), result)
        start = 0
        for line in members:
            line.row, line.inputs = table.part, [result]
            line.attributes = {"at": (slice(None), slice(start, start + line.width))}
            start += line.width
    return products


def _together(lines: list[Line]) -> str:
    """A name for what lines are in, side by side."""
    name = "_and_".join(line.name for line in lines)
    return name if len(name) <= LONGEST_NAME else f"{lines[0].name}_and_{len(lines) - 1}_others"


def _flatten_parts(lines: list[Line]) -> None:
    """Make a part of what has become a part itself a part of the whole."""
    for line in lines:
        if line.row is table.part and line.inputs[0].row is table.part and line.per_row:
            inner = line.inputs[0]
            offset = _columns(inner.inputs[0], inner.attributes["at"])[0]
            first, last = _columns(inner, line.attributes["at"])
            line.inputs, line.attributes = inner.inputs[:1], {"at": (slice(None), slice(offset + first, offset + last))}


def _saved_and_recomputed(
    forward: list[Line], backward: list[Line], roots: list[Line], at_hand: set[Line]
) -> tuple[list[Line], list[Line]]:
    """Of the forward lines that the backward step reads: those to keep, and those to compute again (in order)."""
    inside = set(forward)
    read = {y for line in [*backward, *roots] for y in _read(line) if y in inside}
    read |= {line for line in roots if line in inside}
    saved: set[Line] = set()
    again: set[Line] = set()

    def available(line: Line, depth: int) -> bool:
        """Whether a line can be had from memory by at most `depth` cheap operations in a row."""
        if line in at_hand or line in saved or line.kind in ("zeros", "constant"):
            return True
        if line not in inside or line.row is None or not depth:
            return False
        if line.row in (table.tanh, table.sigmoid):  # of a state, say: as fast as to write and read it again
            return line.inputs[0] in at_hand
        if line.row.name not in CHEAP:
            return False
        return all(available(_base(y), depth - 1) for y in line.inputs if isinstance(y, Line))

    for line in forward:
        if line in read and line not in at_hand and not available(line, 3):
            saved.add(line)
    ahead = [line for line in forward if line in read]
    while ahead:
        line = ahead.pop()
        if line in inside and line not in at_hand and line not in saved and line not in again:
            again.add(line)
            for y in line.inputs:
                if isinstance(y, Line) and y not in at_hand:  # a part may be, of what is not
                    ahead += [y, _base(y)]
    views = {y for line in backward for y in line.inputs if isinstance(y, Line) and y in inside and y.row is table.part}
    again |= views
    return [line for line in forward if line in saved], [line for line in forward if line in again]


def _lowered(line: Line, trace: Trace) -> list[Line]:
    """A line as lines that are elementwise or reduce a row."""
    if line.row not in (table.softmax, table.log_softmax):
        return [line]
    x = line.inputs[0]
    make = lambda name, row, inputs, width, **attributes: Line(
        trace.unique(f"{name}_{line.name}"), "operation", (BATCH, width), line.dtype, row, inputs, attributes
    )
    top = make("max", table.amax, [x], 1, dim=(1,), keepdim=True)
    below = make("below", table.sub, [x, top], line.width)
    e = make("exp", table.exp, [below], line.width)
    total = make("sum", table.sum, [e], 1, dim=(1,), keepdim=True)
    if line.row is table.softmax:
        line.row, line.inputs, line.attributes = table.div, [e, total], {}
        return [top, below, e, total, line]
    logarithm = make("log", table.log, [total], 1)
    line.row, line.inputs, line.attributes = table.sub, [below, logarithm], {}
    return [top, below, e, total, logarithm, line]
