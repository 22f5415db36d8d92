"""Intrinsics for code that Numba compiles: addresses, arenas, and a loop over elements of which LLVM makes vectors."""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable"

import functools
import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

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
def distinct(typingctx: Any) -> Any:
    """Promise that the arrays which the calling function was given share no memory: its loops need no checks."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for argument in builder.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        # A copy of its own would be optimised by itself, and round otherwise where the compiler has a choice (which
        # product of a * b + c * d becomes part of an fma): once compiled or loaded, results would differ in a bit.
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), codegen


def place_of(context: Any, builder: Any, kind: Any, array: Any) -> tuple[Any, list[Any], list[Any]]:
    """The address, shape and strides of an array, as they lie in its value.

    Numba's own helper makes a copy on the stack, which LLVM has to remove again: a twentieth of the time that a kernel
    takes to compile.
    """
    model = context.data_model_manager[kind]
    data, shape, strides = (model.get(builder, array, name) for name in ("data", "shape", "strides"))
    return data, cgutils.unpack_tuple(builder, shape), cgutils.unpack_tuple(builder, strides)


def array_at(context: Any, builder: Any, kind: Any, data: Any, shape: list[Any]) -> tuple[Any, Any]:
    """An array of this shape, whose elements lie side by side; and how many bytes it has."""
    size = item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides: list[Any] = []
    for n in reversed(shape):
        strides.insert(0, size)
        size = builder.mul(size, n)
    count = functools.reduce(builder.mul, shape)
    fields = dict(nitems=count, itemsize=item, data=data)
    fields |= dict(zip(("shape", "strides"), (cgutils.pack_array(builder, numbers) for numbers in (shape, strides))))
    model = context.data_model_manager[kind]
    array = ir.Constant(context.get_value_type(kind), None)  # which nobody counts
    for name, value in fields.items():
        array = model.set(builder, array, value, name)
    return array, size


@intrinsic
def at(typingctx: Any, array: Any, index: Any) -> Any:
    """The address of `array[index]`, as a pointer that can be indexed: a row without the cost of an array."""
    if array.layout != "C":
        raise errors.NumbaTypeError("at(array, index): the elements of a row must lie side by side")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, _, strides = place_of(context, builder, array, args[0])
        offset = context.get_constant(types.intp, 0)
        for i, stride in zip(cgutils.unpack_tuple(builder, args[1]), strides):
            offset = builder.add(offset, builder.mul(i, stride))
        place = cgutils.pointer_add(builder, data, offset)
        # LLVM is not told how the place moves from row to row: to look for the cheapest way to move twenty of them at
        # once takes it a sixth of the time that the kernel takes to compile, and saves nothing.
        return builder.call(ir.InlineAsm(ir.FunctionType(place.type, [place.type]), "", "=r,0", False), [place])

    indices = types.UniTuple(types.intp, array.ndim)
    return types.CPointer(array.dtype)(array, indices), codegen


# ---- An arena: many arrays in one ------------------------------------------------------------------------------------

LINE, STAGGER = 16, 80  # numbers: 64 bytes of float32


def spaced_by(count: int) -> int:
    """How far behind an array of `count` numbers the next one of its arena begins.

    At a cache line, and not at the same place of a page where this one began: see `pool.empty_aligned`.
    """
    return (count + LINE - 1 & -LINE) + STAGGER


@intrinsic
def rows_of(typingctx: Any, array: Any) -> Any:
    """A contiguous array [T, B, W] as [T * B, W]."""
    flat = types.Array(array.dtype, 2, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, (T, B, W), _ = place_of(context, builder, array, args[0])
        return array_at(context, builder, flat, data, [builder.mul(T, B), W])[0]

    return flat(array), codegen


@intrinsic
def clear(typingctx: Any, array: Any) -> Any:
    """Make a contiguous array zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, shape, strides = place_of(context, builder, array, args[0])
        cgutils.memset(builder, data, builder.mul(shape[0], strides[0]), 0)
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def carve(typingctx: Any, arena: Any, shapes: Any) -> Any:
    """The arrays of these shapes that lie in an arena, one after the other from a cache line on: see `spaced_by`."""
    arrays = types.Tuple([types.Array(arena.dtype, len(shape), "C") for shape in shapes])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = lambda n: context.get_constant(types.intp, n)
        width = context.get_abi_sizeof(context.get_data_type(arena.dtype))
        (data, _, _), found = place_of(context, builder, arena, args[0]), []
        skipped = builder.and_(builder.neg(builder.ptrtoint(data, ir.IntType(64))), number(63))
        data = cgutils.pointer_add(builder, data, builder.and_(skipped, number(-width)))
        for kind, shape in zip(arrays.types, cgutils.unpack_tuple(builder, args[1])):
            array, size = array_at(context, builder, kind, data, cgutils.unpack_tuple(builder, shape))
            found.append(array)
            size = builder.and_(builder.add(size, number((LINE - 1) * width)), number(-LINE * width))
            data = cgutils.pointer_add(builder, data, builder.add(size, number(STAGGER * width)))
        return context.make_tuple(builder, arrays, found)

    return arrays(arena, types.Tuple([types.UniTuple(types.intp, len(shape)) for shape in shapes])), codegen


# ---- A formula for each element --------------------------------------------------------------------------------------


class _Distinct(ir.MDValue):
    """A metadata node that equals no other: LLVM knows loops, and groups of memory accesses, by such."""

    def __init__(self, module: ir.Module, *operands: ir.Value, refers_to_itself: bool) -> None:
        super().__init__(module, operands, name=str(len(module.metadata)))
        if refers_to_itself:
            self.operands = (self, *operands)

    def descr(self, buf: list[str]) -> None:
        buf += (f"distinct !{{ {', '.join(x.get_reference() for x in self.operands)} }}", "\n")


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
        module, addresses, group = builder.module, args[1], _Distinct(builder.module, refers_to_itself=False)
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
        last.terminator.set_metadata("llvm.loop", _Distinct(module, parallel, refers_to_itself=True))
        return context.get_dummy_value()

    return types.void(formulas, operands, types.intp, dtype), codegen
