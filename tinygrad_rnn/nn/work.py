"""What a step costs, counted in its program."""

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from ..fusion.program import Program, made_of


def flops_of(program: Program) -> int:
    """Of a forward step of one sequence: 2 for each weight of a product, 1 for each element of other maths."""
    total = 0
    for value in made_of(program.outputs):
        if value.row is table.matmul and value.per_row:
            total += 2 * value.width * value.inputs[0].shape[-1]
        elif isinstance(value.row, ElementwisePrimitive) and value.per_row:
            total += value.width
        elif value.row in (table.sum, table.amax, table.amin) and value.per_row:
            total += value.inputs[0].width
    return total
