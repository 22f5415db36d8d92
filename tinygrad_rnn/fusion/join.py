"""Join: products with a common left operand become one, of which the former results become slices.

    v1 = h @ Ui                 v1_and_v2 = h @ [Ui, Uf]
    v2 = h @ Uf         ->      v1, v2 = v1_and_v2[:, 0:H], v1_and_v2[:, H:2 * H]

In the loop the weights are packed side by side. In the prologue a concatenation puts them there.
"""

from collections.abc import Iterable
from typing import Any

from ..autograd import table
from .batch import BATCH
from .builder import together
from .hoist import with_leaves
from .program import Program, Value, cut, is_slice, operation, view_of, with_inputs


def join(program: Program) -> Program:
    """The program with the products of its loop, and those of its prologue, joined."""
    groups = {group[0]: group for values in (program.loop, program.hoisted) for group in _groups(values)}
    members = {member: group for group in groups.values() for member in group}
    before_the_loop = set(program.hoisted)
    joined: dict[Value, Value] = {}  # the first of a group -> the product of all
    ends: dict[Value, int] = {}

    def change(value: Value, inputs: tuple[Any, ...]) -> Iterable[Value]:
        if value in members:
            group, made = members[value], []
            if value is group[0]:
                made = _product(program, group, inputs[0], value in before_the_loop)
                joined[value], ends[value] = made[-1], 0
            first = ends[group[0]]
            ends[group[0]] = last = first + value.width
            return [*made, cut(joined[group[0]], first, last, value.name, value.where, value.named)]
        made_slice = with_inputs(value, inputs)
        if value.per_row and is_slice(made_slice) and is_slice(inputs[0]):  # of what has become a slice itself
            base, view = view_of(made_slice)
            if len(base.inner) == len(value.inner) == 1 and view.is_dense:
                return [cut(base, view.first, view.first + value.width, value.name, value.where, value.named)]
        return []

    # What is the same at all steps comes first: a product stands where the first of its group was.
    in_order = program._replace(values=tuple(sorted(program.values, key=lambda value: value.per_row)))
    new = in_order.rebuilt(change)
    hoisted = tuple(dict.fromkeys(view_of(value)[0] for value in new.hoisted))
    return with_leaves(new._replace(hoisted=hoisted))


def _groups(values: Iterable[Value]) -> list[list[Value]]:
    """Products that share their left operand, one vector of each row."""
    groups: dict[Value, list[Value]] = {}
    for value in values:
        if value.row is table.matmul and len(value.shape) == 2:
            groups.setdefault(value.inputs[0], []).append(value)
    return [group for group in groups.values() if len(group) > 1]


def _product(program: Program, group: list[Value], left: Value, before_the_loop: bool) -> list[Value]:
    """One product in the place of several, and what is computed for it."""
    weights, width = [value.inputs[1] for value in group], sum(value.width for value in group)
    make = lambda name, row, inputs, attributes, shape: operation(
        program.names.new(name), row, inputs, attributes, shape, left.dtype
    )
    name, extra = together(group), []
    if before_the_loop:
        extra = [make(together(weights), table.cat, weights, {"dim": 1}, (left.width, width))]
    result = make(name, table.matmul, [left, *(extra or weights)], {}, (BATCH, width))
    return [*extra, result]
