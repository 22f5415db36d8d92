"""The rows of a compiled kernel on several threads: the helpers of the `team` take some of the ranges of rows.

    def kernel(lo, hi, workspace, stages, threads, ranges, ...):
        if stages & LOOP and not share(ranges, LOOP):
            for row in range(lo, hi):
                ...

    kernel(0, 8, workspace.address, LOOP, 2, ranges_of([0, 3, 8]).ctypes.data, ...)

The kernel calls itself for each range, by a few lines of machine code in its own module. A caller that is compiled for
itself would have to be compiled for the types of all arguments, which takes half as long as the kernel.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from .assembler import I32, I64, Function, Int
from .products import WORKSPACE_BYTES
from .team import JOB_BYTES, team

BOUNDS = 4  # numbers ahead of the bounds of ranges: `team.write_share`'s function, the team, helpers, how many ranges
CHANGED = "lo", "hi", "workspace", "stages", "threads", "ranges"  # parameters, from call to call
COUNTED = 4  # the first fields of an array: who owns it, how many elements it has, how large they are


def ranges_of(bounds: list[int]) -> np.ndarray:
    """What a kernel is told of ranges of rows, by its address, with a helper for each but one.

    One bound, and none, is nothing to do.
    """
    helpers = len(bounds) - 2
    if len(team.helpers) < helpers:
        team.start(helpers, WORKSPACE_BYTES)
    helpers = min(helpers, len(team.helpers))
    return np.array([team.share, team.address, helpers, len(bounds) - 1, *bounds], np.int64)


def share(f: Function, ranges: Int, stages: int) -> Int:
    """Have the team call the kernel that is being written for all ranges; false, and nothing done, if there are none
    or it is busy.

    It is called with what it was given, but for the parameters of these names: `lo` and `hi` are the bounds of a range,
    `workspace` is the thread's, `stages` those given here, `threads` one and `ranges` none. It returns nothing, and of
    arrays it knows data, shapes and strides.
    """
    kernel, done = f.function, f.variable(0)
    with f.when(ranges != 0):
        kept = list(filter(_is_kept, kernel.args))
        with f.builder.goto_entry_block():
            held = f.builder.alloca(ir.LiteralStructType([x.type for x in kept]))
        for n, x in enumerate(kept):
            f.builder.store(x, f.builder.gep(held, [I32(0), I32(n)]))
        job, chunk = f.stack(JOB_BYTES), _write_chunk(f.module, kernel, held.type)
        for n, number in enumerate((f.builder.ptrtoint(held, I64), ranges.value, I64(stages))):
            f.write(job + 8 * n, Int(f.builder, number))
        function, *numbers = (f.read(ranges + 8 * n).value for n in range(BOUNDS))
        workspace = next(x for x in kernel.args if x.name == "arg.workspace")
        given = [*numbers, f.address_of(chunk).value, job.value, workspace]
        function = f.builder.inttoptr(function, ir.FunctionType(I64, [I64] * len(given)).as_pointer())
        done.set(Int(f.builder, f.builder.call(function, given)))
    return done.get() != 0


def _is_kept(argument: Any) -> bool:
    """Whether every call of the kernel gets the same. Numba says `arg.name`, and of arrays `arg.name.field`."""
    prefix, _, words = argument.name.partition(".")
    name, *field = words.split(".")
    return prefix == "arg" and name not in CHANGED and not (field and int(field[0]) < COUNTED)


def _write_chunk(module: Any, kernel: Any, held_type: Any) -> Function:
    """chunk(job, i, workspace), where the job is the addresses of what is kept and of the ranges, and the stages."""
    f = Function(module, module.get_unique_name("chunk"), ["job", "i", "workspace"], local=True)
    for attribute in "noinline", "optnone":  # there is nothing to gain, and time to lose
        f.function.attributes.add(attribute)
    job, i, workspace = f.arguments
    held, ranges, stages = (f.read(job + 8 * n) for n in range(3))
    lo, hi = (f.read(ranges + (i + BOUNDS + n) * 8) for n in range(2))
    changed = dict(zip(CHANGED, (lo, hi, workspace, stages, f.number(1), f.number(0)), strict=True))
    struct, given, kept = f.builder.inttoptr(held.value, held_type), [], 0
    for x in kernel.args:
        if x.name.removeprefix("arg.") in changed:
            given.append(changed[x.name.removeprefix("arg.")].value)
        elif _is_kept(x):
            given.append(f.builder.load(f.builder.gep(struct, [I32(0), I32(kept)])))
            kept += 1
        elif x.name.startswith("arg."):
            given.append(ir.Constant(x.type, None))
        else:  # where the kernel puts a result, which it has not, and an error
            given.append(f.builder.bitcast(f.builder.alloca(I64), x.type))
    f.builder.call(kernel, given, attrs=("noinline",))
    f.give()
    return f
