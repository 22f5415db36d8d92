"""A step after each pass of the compiler, as lines that can be read: what the passes took, and what they made of it."""

from collections.abc import Iterable

from .equations import indented
from .kernel import Arena
from .passes import PASSES
from .program import Program, Value
from .scan import Scan

STAGES = (*PASSES, "allocate", "print")


def at_stage(after: dict[str, Program], scan: Scan, stage: str) -> str:
    """The program of a compiled step after a pass.

    Args:
        after: the program after each pass before `allocate`.

    Raises:
        ValueError: there is no such pass.
    """
    if stage == "print":
        return "\n\n".join(scan.sources.values())
    if stage not in STAGES:
        raise ValueError(f"explain: stage must be one of {', '.join(map(repr, STAGES))}, not {stage!r}")
    sections = _memory(scan) if stage == "allocate" else _sections(after[stage], stage)
    text = [f"{scan.title} after {stage}"]
    for title, lines in sections.items():
        text += [title, *indented(lines or ["nothing"])]
    return "\n".join(text)


def _sections(program: Program, stage: str) -> dict[str, list[str]]:
    """What a pass was about."""
    gradient = program.gradient
    if stage in ("trace", "simplify"):
        return {"The step, operation by operation": _lines(program.values)}
    if stage in ("hoist", "join"):
        return {
            "Prologue, for all T * B rows at once": _lines(program.hoisted),
            "Loop, at every step": _lines(program.loop),
            "It reads, at every step, for each sequence, for all": _lines(
                [*program.sequences, *program.constants, *program.vectors]
            ),
        }
    if stage == "transpose":
        products = []
        for product, d in gradient.products.items():
            left, *weights = product.inputs
            products += [f"d{each.name} from {left.name} and {d.name}" for each in weights]
        return {
            "Backward, at every step from the last to the first": _lines(gradient.values),
            "Epilogue, products over all T * B rows": products,
            "Epilogue, sums over all T * B rows": [f"d{v.name} of {d.name}" for v, _, d in gradient.vectors],
        }
    if stage == "rematerialise":
        again = set(program.backward) - set(gradient.values)
        return {
            "Residuals, saved for the backward pass": _lines([*program.states, *program.residuals]),
            "Rematerialised in the backward pass": _lines(x for x in program.backward if x in again),
        }
    return {"Loop, at every step": _lines(program.loop)}


def _memory(scan: Scan) -> dict[str, list[str]]:
    """Where everything lies."""
    sections = {}
    for direction, kernel in scan.kernels.items():
        sections[f"Arguments of {direction}"] = [f"{a.name}: {a.role}" for a in kernel.arguments]
        sections[f"Arena of {direction}"] = _places(kernel.arena)
    overwritten = [f"{name} in place of {there}" for name, there in scan.overwritten.items()]
    kept = [f"{value.name} in place of {there.array}" for value, there in scan.kept_in.items()]
    return sections | {"Memory that serves twice": [*kept, *overwritten]}


def _lines(values: Iterable[Value]) -> list[str]:
    return [repr(value) for value in values]


def _places(arena: Arena) -> list[str]:
    return [f"{name} [{', '.join([rows, *map(str, row)])}]" for name, rows, row in arena.entries]
