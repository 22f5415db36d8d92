"""A step after each pass of the compiler, as lines that can be read: what the passes took, and what they made of it."""

from collections.abc import Iterable

from .kernel import Arena
from .scan import Scan
from .trace import Line

STAGES = ("trace", "hoist", "transpose", "rematerialise", "allocate", "print")


def at_stage(scan: Scan, stage: str) -> str:
    """The program of a compiled step after a pass.

    Raises:
        ValueError: there is no such pass.
    """
    plan = scan.plan
    sections: dict[str, list[str]] = {}
    if stage == "trace":
        sections["The step, operation by operation"] = _lines(traced for _, traced in plan.script)
    elif stage == "hoist":  # products with one left operand have been joined
        sections["On the tape, before the kernel"] = _lines(scan.outside)
        sections["Prologue, for all T * B rows at once"] = _lines(plan.hoisted)
        sections["Loop, at every step"] = _lines(plan.forward)
    elif stage == "transpose":
        sections["Backward, at every step from the last to the first"] = _lines(plan.gradient.lines)
        products = [f"d{w.name} from {p.left.name} and {d.name}" for p, d in plan.gradient.products for w in p.weights]
        sections["Epilogue, products over all T * B rows"] = products
        sections["Epilogue, sums over all T * B rows"] = [f"d{v.name} of {d.name}" for v, _, d in plan.gradient.vectors]
    elif stage == "rematerialise":
        gradient = set(plan.gradient.lines)
        sections["Residuals, saved for the backward pass"] = _lines([*plan.states, *scan.residuals])
        sections["Computed once more in the backward pass"] = _lines(x for x in plan.backward if x not in gradient)
    elif stage == "allocate":
        kernels = ("forward", scan.forward), ("inference", scan.inference), ("backward", scan.backward)
        for direction, kernel in kernels:
            sections[f"Arguments of {direction}"] = [f"{a.name}: {a.role}" for a in kernel.arguments]
            sections[f"Arena of {direction}"] = _places(kernel.arena)
        overwritten = [f"{name} in place of {there}" for name, there in scan.overwritten.items()]
        kept = [f"{line.name} in place of {there.array}" for line, there in scan.kept_in.items()]
        sections["Memory that serves twice"] = [*kept, *overwritten]
    elif stage == "print":
        return "\n\n".join(scan.sources.values())
    else:
        raise ValueError(f"explain: stage must be one of {', '.join(map(repr, STAGES))}, not {stage!r}")
    text = [f"{scan.title} after {stage}"]
    for title, lines in sections.items():
        text += [title, *(f"    {line}" for line in lines or ["nothing"])]
    return "\n".join(text)


def _lines(lines: Iterable[Line]) -> list[str]:
    return [repr(line) for line in lines]


def _places(arena: Arena) -> list[str]:
    return [f"{name} [{', '.join([rows, *map(str, row)])}]" for name, rows, row in arena.entries]
