"""The gradient of one step, line by line: the traced lines in reverse order, each through the rules of its row.

    for line in reversed(forward):                     c_new = f * c + i * g
        for x, dx in rules(line, d[line]):             df += dc_new * c        (rule of mul: da = dy * b)
            d[x] += dx                                 dc += dc_new * f        (               db = dy * a)

The rules are the table's own, run on symbols: what comes out are lines again. Three kinds of lines are no sums of
others but memory, of which operations take parts: sequences, products and vectors of parameters. Their gradients are
put together from the gradients of the parts. The gradient of a product `a @ W` with respect to W is not formed inside
the loop at all: `left` and the gradient of the product are kept, and one product over all steps follows it.
"""

import itertools
from typing import Any, NamedTuple

from ..autograd import table
from ..autograd.tape import set_mode
from .trace import BATCH, Line, Symbol, Trace, _columns, is_view


class Product(NamedTuple):
    """Products of one step that share their left operand, computed as one: left @ [weights side by side]."""

    left: Line
    lines: list[Line]
    weights: list[Line]
    result: Line


class Gradient(NamedTuple):
    """The backward step.

    Attributes:
        lines: in the order of computation; they read forward lines, `incoming` and each other.
        carries: for each state, the gradient of its new value that comes from the next step.
        dys: the gradients that arrive from outside at the values of the first state, or of all states, at every step.
        states: for each state, the gradient of its old value; None if nothing depends on it.
        sequences: sequence -> its gradient at this step.
        products: (product, gradient of its result).
        vectors: (vector, first column, gradient for each row): to be summed over rows and steps.
        of: forward line -> its gradient.
        of_parts: forward line -> (first column, the one after the last) -> the gradient of what was taken from there.
        origin: line -> the forward line that it is the whole gradient of.
        towards: line -> the forward line that it is a part of the gradient of.
    """

    lines: list[Line]
    carries: list[Line]
    dys: list[Line]
    states: list[Line | None]
    sequences: dict[Line, Line]
    products: list[tuple[Product, Line]]
    vectors: list[tuple[Line, int, Line]]
    of: dict[Line, Line]
    of_parts: dict[Line, dict[tuple[int, int], Line]]
    origin: dict[Line, Line]
    towards: dict[Line, Line]


class _Reverse:
    """The state of the reversal: the gradients so far, by line and by part."""

    def __init__(self, trace: Trace, products: dict[Line, Product]) -> None:
        self.trace, self.products = trace, products
        self.d: dict[Line, Line] = {}
        self.parts: dict[Line, dict[tuple[int, int], Line]] = {}
        self.of: dict[Line, Line] = {}
        self.origin: dict[Line, Line] = {}
        self.towards: dict[Line, Line] = {}

    def add(self, x: Line, dx: Line) -> None:
        self.d[x] = self._sum(x, self.d.get(x), dx)

    def add_part(self, x: Line, base: Line, first: int, last: int, dx: Line) -> None:
        parts = self.parts.setdefault(base, {})
        parts[first, last] = self._sum(x, parts.get((first, last)), dx)

    def _sum(self, x: Line, before: Line | None, dx: Line) -> Line:
        total = dx if before is None else self.trace.add(table.add, [before, dx], {}, dx.shape)
        self.towards.setdefault(dx, x)
        self.towards.setdefault(total, x)
        return total

    def whole(self, base: Line) -> Line | None:
        """The gradient of a line of which parts were taken, which may overlap."""
        all_of_it, parts = self.d.get(base), self.parts.get(base)
        if not parts:
            return all_of_it
        arrived = {(0, base.width): all_of_it} | parts if all_of_it is not None else parts
        pieces: list[Any] = []
        begin: dict[int, list[Any]] = {}
        for number, ((start, end), dx) in enumerate(arrived.items()):
            begin.setdefault(start, []).append((number, start, end, dx))
        here: list[Any] = []
        for first, last in itertools.pairwise(sorted({0, base.width, *itertools.chain(*parts)})):
            shape, total = (BATCH, last - first), None
            here = [each for each in (*here, *begin.get(first, ())) if last <= each[2]]
            here.sort(key=lambda each: each[0])  # in the order of arrival
            for _, start, _, dx in here:
                at = (slice(None), slice(first - start, last - start))
                piece = self.trace.add(table.part, [dx], {"at": at}, shape)
                total = piece if total is None else self.trace.add(table.add, [total, piece], {}, shape)
            pieces.append(Line("zero", "zeros", shape, base.dtype) if total is None else total)
        return pieces[0] if len(pieces) == 1 else self.trace.add(table.cat, pieces, {"dim": 1}, (BATCH, base.width))


def reverse(
    trace: Trace,
    forward: list[Line],
    outputs: list[Line],
    states: list[Line],
    leaves: list[Line],
    products: list[Product],
    watched: int,
) -> Gradient:
    """The backward step of `forward`, whose lines in the loop read `leaves` (sequences, vectors) and `states`.

    The values of the first `watched` states at every step are seen from outside, the others are seen at the end only.
    """
    by_result = {product.result: product for product in products}
    work = _Reverse(trace, by_result)
    start = len(trace.lines)
    carries = [trace.leaf(f"d{state.name}", "carry", state.shape, state.dtype).line for state in states]
    dys = [
        Line(trace.own(f"dy_{state.name}" if k else "dy"), "gradient", state.shape, state.dtype)
        for k, state in enumerate(states[:watched])
    ]
    trace.lines += dys
    incoming = [trace.add(table.add, [dy, carry], {}, dy.shape) for dy, carry in zip(dys, carries)]
    incoming += carries[watched:]
    with set_mode("tracer", trace):
        for output, doutput in zip(outputs, incoming):
            _arrive(work, output, doutput)
        product_gradients = []
        for line in reversed(forward):
            if line in by_result:
                dp = work.whole(line)
                if dp is not None:
                    work.of[line] = dp
                    work.origin.setdefault(dp, line)
                    product = by_result[line]
                    product_gradients.append((product, dp))
                    for_left = trace.add(table.matmul, [dp, _transposed(product)], {}, product.left.shape)
                    _arrive(work, product.left, for_left)
                continue
            dline = work.whole(line) if line in work.parts else work.d.get(line)
            if dline is None:
                continue
            work.of[line] = dline
            work.origin.setdefault(dline, line)
            for x, dx in _through(line, dline):
                _arrive(work, x, dx)
        sequences, vectors = {}, []
        for leaf in leaves:
            if leaf.per_row:
                gradient = work.whole(leaf)
                if gradient is not None:
                    sequences[leaf] = gradient
            else:
                parts = work.parts.get(leaf, {})
                vectors += [(leaf, first, dx) for (first, _), dx in parts.items()]
                if leaf in work.d:
                    vectors.append((leaf, 0, work.d[leaf]))
        old = [work.whole(state) for state in states]
    for gradient_line, line in work.origin.items():
        trace.rename(gradient_line, f"d{line.name}")
    for leaf, gradient_line in sequences.items():
        if gradient_line.kind == "operation":
            trace.rename(gradient_line, f"d{leaf.name}")
    towards = {part: line for part, line in work.towards.items() if part not in work.origin and not part.named}
    for part, line in towards.items():
        part.name = trace.unique(f"d{line.name}_part")
    return Gradient(
        trace.lines[start:],
        carries,
        dys,
        old,
        sequences,
        product_gradients,
        vectors,
        work.of,
        work.parts,
        work.origin,
        towards,
    )


def _transposed(product: Product) -> Line:
    """A stand-in for the transposed weights of a product; the plan packs them."""
    return Line(
        f"{product.result.name}_weights_T", "weights", (product.result.width, product.left.width), product.left.dtype
    )


def _arrive(work: _Reverse, x: Line, dx: Line) -> None:
    """Add a gradient to a line, or to the part of the memory that it is a view of."""
    if x.row is table.part and is_view(x.inputs[0], x.attributes["at"]):
        base = x.inputs[0]
        first, last = _columns(base, x.attributes["at"])
        work.add_part(x, base, first, last, dx)
    else:
        work.add(x, dx)


def _through(line: Line, dy: Line) -> list[tuple[Line, Line]]:
    """The gradients of the inputs of one line, by the rules of its row."""
    row = line.row
    assert row is not None
    wanted = tuple(i for i, x in enumerate(line.inputs) if isinstance(x, Line) and x.dtype.kind == "f")
    adjoint = row.adjoint(wanted)
    if not adjoint.rules:
        return []
    if row is table.cat:
        ends, gradients = 0, []
        for x in line.inputs:
            at = (slice(None), slice(ends, ends + x.width))
            gradients.append((x, table.part(Symbol(dy), at=at).line))
            ends += x.width
        return gradients
    if row is table.expand:  # over columns; what was repeated over rows is summed with all steps
        return [(line.inputs[0], _fitted(dy, line.inputs[0]))]
    values = [Symbol(x) if isinstance(x, Line) else x for x in line.inputs]
    known: dict[str, Any] = {"y": Symbol(line), **line.attributes}
    for name, x, value in zip(row.inputs, line.inputs, values):
        known |= {name: value, f"{name}_shape": getattr(x, "shape", ()), f"{name}_dtype": getattr(x, "dtype", None)}
    found = [rule(Symbol(dy), *[known[name] for name in adjoint.saves]) for rule in adjoint.rules]
    return [(line.inputs[i], _fitted(dx.line, line.inputs[i])) for i, dx in zip(adjoint.wanted, found)]


def _fitted(dx: Line, x: Line) -> Line:
    """Sum over columns where x has one for all of them; rows are summed later, over all steps at once."""
    if x.width == 1 and dx.width != 1:
        return table.sum(Symbol(dx), dim=(1,), keepdim=True).line
    return dx
