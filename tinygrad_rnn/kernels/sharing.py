"""A compiled kernel over rows, on several threads: the helpers of the `team` take some of the ranges of rows.

    shared = Shared(kernel, arguments)
    shared(bounds, arguments)           # kernel(bounds[i], bounds[i + 1], *arguments) for every i

The kernel is called by its address: to link it to a caller would be to compile it once more.
"""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cache
from .assembler import I64, Function
from .matmul import workspace
from .products import WORKSPACE_BYTES
from .team import JOB_BYTES, team

SOURCE = '''"""A kernel on several threads."""

from numba import njit

from tinygrad_rnn.kernels.intrinsics import JIT
from tinygrad_rnn.kernels.sharing import share


@njit(cache=CACHE, **JIT)
def shared(kernel, addresses, helpers, bounds, arguments):
    share(kernel, addresses, helpers, bounds, arguments)
'''


class Shared:
    """A compiled kernel for the team, which returns nothing.

    Args:
        kernel: a compiled function of numbers lo and hi, and of `arguments`: numbers and arrays. Other arguments must
            have the same dtypes, and be contiguous if those were.
    """

    def __init__(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        self.kernel, signature = kernel, tuple(map(typeof, (0, 0, *arguments)))  # its machine code must stay
        kernel.compile(signature)  # unless it has been: arrays that are read-only are another type
        compiled = kernel.overloads[signature]
        self.address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        nobody = self.address, self._addresses(), 0, np.zeros(1, np.int64), arguments
        self.function = cache.load(SOURCE, "shared", lambda module: module.shared(*nobody)).shared

    def __call__(self, bounds: list[int], arguments: tuple[Any, ...]) -> None:
        helpers = len(bounds) - 2
        if len(team.helpers) < helpers:
            team.start(helpers, WORKSPACE_BYTES)
        helpers = min(helpers, len(team.helpers))
        self.function(self.address, self._addresses(), helpers, np.array(bounds, np.int64), arguments)

    def _addresses(self) -> tuple[int, int, int]:
        return team.share, team.address, workspace.address


@intrinsic
def share(typingctx: Any, kernel: Any, addresses: Any, helpers: Any, bounds: Any, arguments: Any) -> Any:
    """Have the team do all ranges, or do them alone if it is busy. One bound, and none, is nothing to do.

    `kernel` and `addresses` are addresses, the latter of `team.write_share`'s function, the team and a workspace.
    """
    kinds = [types.int64, types.int64, *arguments.types]

    def write_chunk(context: Any, module: Any, tuple_type: Any) -> Function:
        """chunk(job, i, workspace), where the job is the addresses of the kernel, its arguments and the bounds."""
        f = Function(module, module.get_unique_name("chunk"), ["job", "i", "workspace"], local=True)
        job, i, _ = f.arguments
        address, held, first = (f.read(job + 8 * n) for n in range(3))
        bounds = [f.read(first + i * 8 + 8 * n).value for n in range(2)]
        rest = cgutils.unpack_tuple(f.builder, f.builder.load(f.pointer(held, tuple_type)))
        kind = context.call_conv.get_function_type(types.none, kinds)
        unused = [f.builder.bitcast(f.builder.alloca(I64), place) for place in kind.args[:2]]  # a result, an exception
        passed = context.get_arg_packer(kinds).as_arguments(f.builder, [*bounds, *rest])
        f.builder.call(f.pointer(address, kind), [*unused, *passed])
        f.give()
        return f

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kernel, addresses, helpers, rows, held = args
        function, team, workspace = cgutils.unpack_tuple(builder, addresses)
        view = context.make_array(bounds)(context, builder, rows)
        count = builder.sub(view.nitems, I64(1))
        job = cgutils.alloca_once(builder, I64, size=JOB_BYTES // 8)
        there = builder.ptrtoint(cgutils.alloca_once_value(builder, held), I64)
        for n, word in enumerate((kernel, there, builder.ptrtoint(view.data, I64))):
            builder.store(word, builder.gep(job, [I64(n)]))
        chunk, told = write_chunk(context, builder.module, held.type).function, builder.ptrtoint(job, I64)
        kind = ir.FunctionType(I64, [I64] * 6).as_pointer()
        given = [team, helpers, count, builder.ptrtoint(chunk, I64), told, workspace]
        done = builder.call(builder.inttoptr(function, kind), given)
        with builder.if_then(builder.icmp_signed("==", done, I64(0))), cgutils.for_range(builder, count) as loop:
            builder.call(chunk, [told, loop.index, workspace])
        return context.get_dummy_value()

    return types.void(kernel, addresses, helpers, bounds, arguments), codegen
