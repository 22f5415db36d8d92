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
from .matmul import room
from .products import WORKSPACE_BYTES
from .team import JOB_BYTES, team

SOURCE = '''"""A kernel on several threads."""

from numba import njit

from tinygrad_rnn.kernels.memory import JIT
from tinygrad_rnn.kernels.sharing import share


@njit(cache=CACHE, **JIT)
def shared(kernel, addresses, helpers, bounds, arguments):
    share(kernel, addresses, helpers, bounds, arguments)
'''

_WORD = ir.IntType(64)


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
        return team.share, team.address, room.address


@intrinsic
def share(typingctx: Any, kernel: Any, addresses: Any, helpers: Any, bounds: Any, arguments: Any) -> Any:
    """Have the team do all ranges, or do them alone if it is busy. One bound, and none, is nothing to do.

    `kernel` and `addresses` are addresses, the latter of `team.write_share`'s function, the team and a room.
    """
    kinds = [types.int64, types.int64, *arguments.types]

    def write_chunk(context: Any, module: Any, tuple_type: Any) -> Any:
        """chunk(job, i, room), where the job is the addresses of the kernel, its arguments and the bounds."""
        name = module.get_unique_name("chunk")
        chunk = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD] * 3), name)
        chunk.linkage = "internal"
        builder = ir.IRBuilder(chunk.append_basic_block())
        address, held, first = (_read(builder, chunk.args[0], n) for n in range(3))
        row = builder.add(first, builder.mul(chunk.args[1], ir.Constant(_WORD, 8)))
        rest = builder.load(builder.inttoptr(held, tuple_type.as_pointer()))
        values = [_read(builder, row, 0), _read(builder, row, 1), *cgutils.unpack_tuple(builder, rest)]
        kind = context.call_conv.get_function_type(types.none, kinds)
        unused = [builder.bitcast(builder.alloca(_WORD), place) for place in kind.args[:2]]  # a result, an exception
        passed = context.get_arg_packer(kinds).as_arguments(builder, values)
        builder.call(builder.inttoptr(address, kind.as_pointer()), [*unused, *passed])
        builder.ret_void()
        return chunk

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kernel, addresses, helpers, rows, held = args
        function, team, room = cgutils.unpack_tuple(builder, addresses)
        view = context.make_array(bounds)(context, builder, rows)
        count = builder.sub(view.nitems, ir.Constant(_WORD, 1))
        job = cgutils.alloca_once(builder, _WORD, size=JOB_BYTES // 8)
        there = builder.ptrtoint(cgutils.alloca_once_value(builder, held), _WORD)
        for n, word in enumerate((kernel, there, builder.ptrtoint(view.data, _WORD))):
            builder.store(word, builder.gep(job, [ir.Constant(_WORD, n)]))
        chunk = write_chunk(context, builder.module, held.type)
        told = builder.ptrtoint(job, _WORD)
        kind = ir.FunctionType(_WORD, [_WORD] * 6).as_pointer()
        given = [team, helpers, count, builder.ptrtoint(chunk, _WORD), told, room]
        done = builder.call(builder.inttoptr(function, kind), given)
        with builder.if_then(builder.icmp_signed("==", done, ir.Constant(_WORD, 0))):
            with cgutils.for_range(builder, count) as loop:
                builder.call(chunk, [told, loop.index, room])
        return context.get_dummy_value()

    return types.void(kernel, addresses, helpers, bounds, arguments), codegen


def _read(builder: Any, address: Any, n: int) -> Any:
    """Word n from an address on."""
    return builder.load(builder.gep(builder.inttoptr(address, _WORD.as_pointer()), [ir.Constant(_WORD, n)]))
