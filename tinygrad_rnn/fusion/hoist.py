"""Hoist: what does not wait for the loop over time leaves it.

    maths of parameters alone           is computed once a call, on the tape
    products of the input               go to the prologue, as one product over all T * B rows each
    maths of the input that a product   is computed on the tape, for all steps at once
    there is made of
    products of states                  stay in the loop
    everything else                     is elementwise maths and row reductions between them
"""

from collections.abc import Callable

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .builder import too_many
from .program import MOST_OPERATIONS, VIEWS, Program, Value, base_of, depending, needed_for, sources_of
from .refusal import Unfusable

# Rows of the table that are computed row by row of a batch, besides elementwise ones and what `composed` takes apart.
IN_ROWS = (
    *VIEWS, table.cat, table.cast, table.sum, table.amax, table.amin, table.softmax, table.log_softmax, table.cumsum,
)  # fmt: skip
# Rows that are not computed both before the loop and in it: the first two are made of other values there, and what the
# others clip is the gradient of all uses together.
once = lambda row: row in (table.softmax, table.log_softmax) or not getattr(row, "linear", True)


def hoist(program: Program) -> Program:
    """The program with its values sorted: what the loop computes, what it reads, and the products before it.

    Raises:
        Unfusable: an operation that has no place in a kernel.
    """
    noise_and_inputs = (*program.inputs, *program.noise)
    from_x, from_state = depending(program.values, noise_and_inputs), depending(program.values, program.states)
    at_each_step = lambda value: value in from_x or value in from_state
    products = {x for x in from_x - from_state if x.row is table.matmul}
    before = needed_for(products, lambda value: False)
    # Other operands of products are computed twice.
    ready = {*products, *(value for value in before if once(value.row))}
    stop = lambda value: value in ready or not at_each_step(value)
    needed = needed_for(program.outputs, stop)
    inside = [value for value in program.values if value in needed and not stop(value)]
    loop = [value for value in inside if value.kind == "operation"]
    if len(loop) > MOST_OPERATIONS:
        raise too_many(f"{len(loop):,} in the loop over time")
    for value in loop:
        _check(value, at_each_step)
    made_of_others = {y for value in before for y in value.operands}
    simple = lambda value: value not in made_of_others and len(value.inputs[0].shape) == 2
    hoisted = [value for value in program.values if value in products and value in needed and simple(value)]
    return with_leaves(program._replace(hoisted=tuple(hoisted), loop=tuple(loop)))


def with_leaves(program: Program) -> Program:
    """The program with what its loop reads."""
    inside = {*program.loop, *program.states}
    leaves: set[Value] = set()
    for value in [*program.loop, *program.outputs]:
        # Of a product only what it multiplies: its weights are packed before the loop.
        read = [base_of(value.inputs[0])] if value.row is table.matmul else sources_of(value)
        leaves |= {y for y in read if y.kind not in ("zeros", "weights") and y not in inside}
    leaves |= {base_of(output) for output in program.outputs} - inside
    ordered = [value for value in program.values if value in leaves]
    assert len(ordered) == len(leaves), "the loop reads a value that nobody computes"
    of_rate = lambda rate: tuple(value for value in ordered if value.rate == rate)
    return program._replace(sequences=of_rate("step"), constants=of_rate("sequence"), vectors=of_rate("fixed"))


def _check(value: Value, at_each_step: Callable[[Value], bool]) -> None:
    """Refuse what has no place in a kernel."""
    row = value.row
    assert row is not None
    product = row is table.matmul and not at_each_step(value.inputs[1])  # which has weights that all rows share
    if not product and not (value.per_row and (isinstance(row, ElementwisePrimitive) or row in IN_ROWS)):
        lead = "write it with elementwise maths, sums over the columns and products with weights"
        lead = "write an index with one list of numbers, or slices" if row is table.index else lead
        raise Unfusable(f"a kernel has no place for {row.name} of such a kind: {lead} ({value.where})")
