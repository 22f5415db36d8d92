"""Flags for code that Numba compiles, and a loop over elements of which LLVM makes vectors."""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable"

import inspect
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .assembler import Distinct

# No fastmath flag that would reorder, drop a sign of zero or assume away NaN: rules are compensated sums at places.
JIT: dict[str, Any] = dict(fastmath={"contract"}, error_model="numpy", nogil=True)

# What makes no arrays: those that it is given are not counted either, which takes time to do and more to compile.
KERNEL = JIT | dict(_nrt=False, no_cfunc_wrapper=True)

# Where a row is summed: the order of the sum may be the compiler's choice, or it would not be vector code. The rules
# that are called from there keep their own flags.
REDUCE = JIT | dict(fastmath={"contract", "reassoc"})

# What compiled code alone calls: without a way in for Python and for C, which takes as long as a short function.
_INSIDE = dict(no_cpython_wrapper=True, no_cfunc_wrapper=True)
ROW, ROW_SUMS = JIT | _INSIDE, REDUCE | _INSIDE


@intrinsic
def for_each(typingctx: Any, formulas: Any, operands: Any, count: Any, dtype: Any) -> Any:
    """`results = formulas(inputs)` for each of `count` elements, for none if that is zero or below.

    `operands` has the addresses of inputs and results.

    LLVM is told that no element waits for another. So it makes vector code of the loop, however many operands there
    are, without comparing their addresses; and a result may be written over an input that begins at the same address.
    """
    inputs = [dtype.dtype] * len(inspect.signature(formulas.dispatcher.py_func).parameters)
    called = formulas.get_call_type(typingctx, inputs, {})
    several = isinstance(called.return_type, types.BaseTuple)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        module, addresses, group = builder.module, args[1], Distinct(builder.module, refers_to_itself=False)
        element = context.get_value_type(dtype.dtype)

        def start(i: int) -> Any:
            address = builder.load(builder.gep(addresses, [context.get_constant(types.intp, i)]))
            return builder.inttoptr(address, element.as_pointer())

        sources = [start(i) for i in range(len(inputs))]
        kinds = [*called.return_type] if several else [called.return_type]
        targets = [start(i) for i in range(len(inputs), len(inputs) + len(kinds))]
        with cgutils.for_range(builder, args[2]) as loop:
            values = [builder.load(builder.gep(x, [loop.index])) for x in sources]
            found = context.get_function(formulas, called)(builder, values)
            results = cgutils.unpack_tuple(builder, found) if several else [found]
            casts = [context.cast(builder, y, kind, dtype.dtype) for y, kind in zip(results, kinds)]
            accesses = values + [builder.store(y, builder.gep(place, [loop.index])) for y, place in zip(casts, targets)]
            for access in accesses:
                access.set_metadata("llvm.access.group", group)
            last = builder.basic_block
        parallel = module.add_metadata(["llvm.loop.parallel_accesses", group])
        last.terminator.set_metadata("llvm.loop", Distinct(module, parallel, refers_to_itself=True))
        return context.get_dummy_value()

    return types.void(formulas, operands, types.intp, dtype), codegen
