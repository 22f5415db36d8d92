"""Raw memory inside compiled code: addresses, strided blocks and stack buffers, for the loops of `elementwise`."""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable"

from typing import Any

from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 512  # elements of a stack buffer: a few of them fit in the first-level cache beside each other

# No fastmath flag that would reorder, drop a sign of zero or assume away NaN: rules are compensated sums at places.
JIT: dict[str, Any] = dict(fastmath={"contract"}, error_model="numpy", nogil=True)

# Where a row is summed: the order of the sum may be the compiler's choice, or it would not be vector code. The rules
# that are called from there keep their own flags.
REDUCE = JIT | dict(fastmath={"contract", "reassoc"})


@intrinsic
def distinct(typingctx: Any) -> Any:
    """Promise that the arrays which the calling function was given share no memory: its loops need no checks."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for argument in builder.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def at(typingctx: Any, array: Any, index: Any) -> Any:
    """The address of `array[index]`, as a pointer that can be indexed: a row without the cost of an array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        strides = cgutils.unpack_tuple(builder, view.strides)
        offset = context.get_constant(types.intp, 0)
        for i, stride in zip(cgutils.unpack_tuple(builder, args[1]), strides):
            offset = builder.add(offset, builder.mul(i, stride))
        return cgutils.pointer_add(builder, view.data, offset)

    indices = types.UniTuple(types.intp, array.ndim)
    return types.CPointer(array.dtype)(array, indices), codegen


@intrinsic
def advance(typingctx: Any, address: Any, count: Any) -> Any:
    """`address` + `count` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cgutils.pointer_add(builder, *args)

    return types.voidptr(types.voidptr, types.intp), codegen


@intrinsic
def stack_block(typingctx: Any, dtype: Any) -> Any:
    """The address of `BLOCK` elements on the stack, the same ones however often the call is passed."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once(builder, context.get_value_type(dtype.dtype), size=BLOCK)
        place.align = 64
        return builder.bitcast(place, cgutils.voidptr_t)

    return types.voidptr(dtype), codegen


@intrinsic
def forget_float_errors(typingctx: Any) -> Any:
    """Clear the processor's floating-point flags, which NumPy would turn into warnings about lanes that are masked."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if binding.address_of_symbol("feclearexcept"):
            kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
            clear = cgutils.get_or_insert_function(builder.module, kind, "feclearexcept")
            builder.call(clear, [ir.Constant(ir.IntType(32), 0x3D)])  # FE_ALL_EXCEPT
        return context.get_dummy_value()

    return types.void(), codegen


@njit(**JIT)
def gather(address, step, start, count, buffer, dtype, size):
    """Elements [start, start + count) of an operand as a contiguous block: in place if they lie so, else in `buffer`.

    `step` is the distance of neighbours and `size` that of contiguous ones, in bytes.
    """
    if step == size:
        return carray(advance(address, start * step), count, dtype)
    block = carray(buffer, count, dtype)
    if step == 0:
        if start == 0:  # a scalar operand: later blocks are no longer than the first and find it filled
            block[:] = carray(address, 1, dtype)[0]
    else:
        for k in range(count):
            block[k] = carray(advance(address, (start + k) * step), 1, dtype)[0]
    return block


@njit(**JIT)
def scatter(block, address, step, start, count, dtype, size):
    """Write a block of results to elements [start, start + count) of an operand."""
    if step == size:
        place = carray(advance(address, start * step), count, dtype)
        for k in range(count):
            place[k] = block[k]
    else:
        for k in range(count):
            carray(advance(address, (start + k) * step), 1, dtype)[0] = block[k]
