"""What became of a step, in words: its prologue, the phases of its loop over time, and its epilogue."""

import textwrap
from collections.abc import Iterable, Iterator

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive, Shape
from .equations import Equations
from .print import Loop
from .program import Value, is_slice, is_view, leaf, made_of, multiply_adds, sizes_of
from .scan import Scan
from .schedule import reduces
from .validate import SWITCH, is_on

WIDTH = 110


def explain(scan: Scan, compared: Iterable[object] = ()) -> str:
    """A report on a compiled step, in the order in which things happen; `compared` are those of its validations."""
    program = scan.program
    inputs = ", ".join(f"{x.name} [T, B, {x.width}]" for x in program.inputs)
    inputs += "".join(f", {x.name} {list(x.shape)}" for x in program.given)
    states = ", ".join(f"{state.name} {list(state.shape)}" for state in program.states)
    sections = {
        f"{scan.title}: {inputs}, states {states}, {scan.dtype.name}": [],
        "The step, as traced": _step(scan),
        "Prologue, once a call": _prologue(scan),
        "Forward, at every step": list(_phases(scan.blocks["forward"].phases)),
        "Residuals, saved for the backward pass": _residuals(scan),
        "Backward, at every step from the last to the first": [
            *_rematerialised(scan), *_phases(scan.blocks["backward"].phases),
        ],
        "Epilogue, once a call": epilogue(scan),
        "Work for each step and row of the batch": _work(scan),
        "Kernels": _kernels(scan),
        "Compared with the tape, in float64, where it first ran": list(map(str, compared))
        or ["not yet" if is_on() else f"no, as {SWITCH}=0 says"],
    }
    text = []
    for title, lines in sections.items():
        text.append(title)
        for line in lines:
            text += textwrap.wrap(line, WIDTH, initial_indent="    ", subsequent_indent=" " * 8, break_long_words=False)
        text.append("")
    return "\n".join(text[:-1])


def _step(scan: Scan) -> list[str]:
    """The traced step as equations. Slices of one value are told in one line."""
    equations, traced = Equations(), scan.program.traced
    assert traced is not None
    needed = set(made_of(traced.outputs))
    parts: dict[str, list[str]] = {}
    text = []
    for value in traced.values:
        if value.row is None or not equations.has_name(value) or value not in needed:
            continue
        if is_slice(value):
            base = value.inputs[0].name
            if not equations.has_name(value.inputs[0]):
                base = equations.describe(value.inputs[0]).partition(" = ")[2]
            if base not in parts:
                text.append(base)  # to be filled in below
            parts.setdefault(base, []).append(value.name)
        else:
            text.append(equations.describe(value))
    text = [f"{', '.join(parts[line])} = slices of {line}" if line in parts else line for line in text]
    return [*text, f"returns {', '.join(value.name for value in traced.outputs)}"]


def _shapes(value: Value, rows: str) -> str:
    """The shapes of a product, such as "[B, 64] @ [64, 128]"."""
    several, K, N = sizes_of(value)
    return f"[{rows}, {f'{several}, ' if several > 1 else ''}{K}] @ [{K}, {N}]"


def _hoisted(scan: Scan) -> list[Value]:
    """The products of the input, which need not wait for the loop."""
    values = made_of([*scan.program.sequences, *scan.program.vectors])
    return [value for value in values if value.row is table.matmul and value.per_row]


def _weights(product: Value) -> list[Value]:
    """The right operands of a hoisted product, one by one."""
    right = product.inputs[1]
    return right.inputs if right.row is table.cat else [right]


def _prologue(scan: Scan) -> list[str]:
    program = scan.program
    leaves = [*program.sequences, *program.vectors, *(w for product in program.products for w in product.inputs[1:])]
    text, equations = [], Equations()
    for value in made_of(leaves):
        if value.row is table.matmul and value.per_row:
            members = len(_weights(value))
            joined = f", {members} products of {value.inputs[0].name} in one" if members > 1 else ""
            shapes = _shapes(value, "T * B")
            text.append(f"{equations.describe(value)}: hoisted, one product {shapes} for all steps{joined}")
        elif value.row not in (None, table.slice, table.cat) and equations.has_name(value):
            text.append(equations.describe(value) + (": for all steps" if value.per_row else ""))
    for product in program.products:
        names = ", ".join(weights.name for weights in product.inputs[1:])
        text.append(f"{names}: packed for the products in the loop")
    return text or ["nothing"]


def _phases(phases: list[tuple[str, list[Loop]]]) -> Iterator[str]:
    for number, (name, loops) in enumerate(phases, 1):
        if name == "multiply":
            ((_, (value,)),) = loops
            members = len(value.inputs) - 1
            joined = f", {members} products of {value.inputs[0].name} in one" if members > 1 else ""
            yield f"{number}. product {_product(value)}, {_shapes(value, 'B')}{joined}"
        else:
            yield f"{number}. {name}, for each row: " + "; then ".join(_loop(*loop) for loop in loops if loop[1])


def _product(value: Value) -> str:
    right = value.inputs[1]
    if right.kind == "weights":  # of the backward pass, transposed
        return f"{value.name} = {value.inputs[0].name} @ ({right.name.removesuffix('_weights_T')}'s weights).T"
    return Equations().describe(value)


def _loop(shape: Shape, values: list[Value]) -> str:
    names = ", ".join(dict.fromkeys(value.name for value in values))
    if shape == (1,):
        return names
    reductions = [value.name for value in values if reduces(value)]
    note = f" ({', '.join(reductions)} over the row)" if reductions else ""
    return f"a loop over {' x '.join(map(str, shape))} columns: {names}{note}"


def _residuals(scan: Scan) -> list[str]:
    size = scan.dtype.itemsize
    one = lambda value: f"{value.name} {value.width * size}"
    saved = [*scan.program.residuals, *scan.program.states]
    total = sum(value.width for value in saved) * size
    return [
        f"bytes for each step and row: {', '.join(map(one, saved))}; together {total:,}",
        "and the results of the prologue",
    ]


def _rematerialised(scan: Scan) -> list[str]:
    gradient = set(scan.program.gradient.values)
    again = [x for x in scan.program.backward if x not in gradient and not is_view(x)]
    return [f"rematerialised rather than saved: {', '.join(map(Equations().describe, again))}"] if again else []


def epilogue(scan: Scan) -> list[str]:
    """What follows the loop of the backward pass, once a call."""
    gradient, text = scan.program.gradient, []
    for product, d in gradient.products.items():
        left, *weights = product.inputs
        names, rows, k = ", ".join(f"d{each.name}" for each in weights), "T * B", left.width
        text.append(f"{names} = {left.name}.T @ {d.name}: one product [{k}, {rows}] @ [{rows}, {d.width}]")
    for vector in dict.fromkeys(vector for vector, _, _ in gradient.vectors):
        found = sorted((first, d.name) for each, first, d in gradient.vectors if each is vector)
        text.append(f"d{vector.name} = sum of {', '.join(name for _, name in found)} over all T * B rows")
    for value in _hoisted(scan):
        left, weights = value.inputs[0], _weights(value)
        d = gradient.sequences.get(value, leaf(f"d{value.name}", "gradient", value.shape, value.dtype))
        names = ", ".join(f"d{each.name}" for each in weights)
        text.append(f"{names} = {left.name}.T @ {d.name}, and d{left.name} where x wants a gradient: one product each")
    return text or ["nothing"]


def _work(scan: Scan) -> list[str]:
    flops = lambda values: 2 * multiply_adds(values)
    maths = lambda values: sum(value.width for value in values if isinstance(value.row, ElementwisePrimitive))
    program = scan.program
    hoisted, forward, backward = flops(_hoisted(scan)), flops(program.loop), flops(program.backward)
    deferred = flops(program.gradient.products)
    return [
        f"forward: {hoisted:,} flops in hoisted products, {forward:,} in products of the loop, {maths(program.loop):,} "
        "elementwise operations",
        f"backward: {backward:,} flops in products of the loop, {deferred + hoisted:,} in products of the epilogue "
        f"(twice the hoisted ones if x wants a gradient), {maths(program.backward):,} elementwise operations",
    ]


def _kernels(scan: Scan) -> list[str]:
    text = []
    for direction in scan.sources:
        origin, seconds = scan.built.get(direction, ("", 0.0))
        text.append(f"{direction}: {origin}, {seconds:.2f} s" if origin else f"{direction}: not needed so far")
    return text
