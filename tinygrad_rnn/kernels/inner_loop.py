"""The inner loop that all ufuncs of `elementwise` share: it calls their formulas with contiguous operands.

NumPy gives an address and a step for each operand. If all are contiguous, the formulas run over them in one piece. Else
they run block by block: what is not contiguous is copied to the stack and back, what is gets used where it is.

Formulas may write a result over an input that begins at the same address. NumPy makes copies of operands that overlap
in other ways, but not of an input that runs ahead of the result, by which the order of elements would matter; then
results go through the stack as well.

A length of zero or below is nothing to do.
"""

import functools
import platform
from typing import Any

from llvmlite import binding, ir

from .assembler import ALIGNMENT, I8, I32, I64, VOID, Function, Int, Library

BLOCK = 512  # elements: a few blocks fit in the first-level cache beside each other


@functools.cache
def inner_loop(size: int) -> int:
    """The address of a loop over elements of `size` bytes, as NumPy calls it: (addresses, lengths, steps, data).

    `data` is the number of inputs, the number of operands, and the address of the formulas: a C function of the
    addresses of contiguous operands and a number of elements.
    """
    module = ir.Module(f"inner loop {size}")
    f = Function(module, "loop", ["operands", "lengths", "steps", "data"])
    operands, lengths, steps, data = f.arguments
    element = ir.IntType(8 * size)
    length, inputs, total, formulas = f.read(lengths), f.read(data), f.read(data + 8), f.read(data + 16)
    f.need(length)
    strided, shifted = f.variable(0), f.variable(0)
    with f.loop(0, total) as i:
        with f.when(f.read(steps + i * 8) != size):
            strided.set(f.number(1))
        with f.loop(inputs, total) as j:
            distance = f.read(operands + j * 8) - f.read(operands + i * 8)
            with f.when((distance != 0) & (distance < length * size) & (distance > length * -size)):
                shifted.set(f.number(1))
    with f.either((strided.get() | shifted.get()) == 0) as (whole, parts):
        with whole:
            _call(f, formulas, operands, length)
        with parts:
            buffers, blocks = _stack(f, total * (BLOCK * size)), _stack(f, total * 8)
            with f.loop(0, length, BLOCK) as start:
                count = f.least(length - start, BLOCK)
                with f.loop(0, total) as i:
                    step, buffer = f.read(steps + i * 8), buffers + i * (BLOCK * size)
                    address, is_input = f.read(operands + i * 8) + start * step, i < inputs
                    in_place = (step == size) & (is_input | (shifted.get() == 0))
                    f.write(blocks + i * 8, f.pick(in_place, address, buffer))
                    with f.when(is_input & (step != size) & (step != 0)):
                        _copy(f, element, count, address, step, buffer, size)
                    with f.when(is_input & (step == 0) & (start == 0)):  # later blocks find it filled
                        _fill(f, element, address, buffer)
                _call(f, formulas, blocks, count)
                with f.loop(inputs, total) as i:
                    step, block = f.read(steps + i * 8), f.read(blocks + i * 8)
                    address = f.read(operands + i * 8) + start * step
                    with f.when(block != address):
                        _copy(f, element, count, block, size, address, step)
    _forget_float_errors(f)
    f.give()
    return Library(module).address("loop")


def _call(f: Function, formulas: Int, operands: Int, count: Int) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64, I64])
    f.builder.call(f.pointer(formulas, kind), [operands.value, count.value])


def _stack(f: Function, size: Int) -> Int:
    """The address of so many bytes, known when the loop runs, on the stack."""
    place = f.builder.alloca(I8, size.value)
    place.align = ALIGNMENT
    return Int(f.builder, f.builder.ptrtoint(place, I64))


def _copy(f: Function, element: Any, count: Int, source: Int, step: Any, target: Int, target_step: Any) -> None:
    """Copy elements that lie `step` bytes apart to places that lie `target_step` bytes apart."""
    with f.loop(0, count) as k:
        x = f.builder.load(f.pointer(source + k * step, element))
        f.builder.store(x, f.pointer(target + k * target_step, element))


def _fill(f: Function, element: Any, source: Int, target: Int) -> None:
    """Repeat one element over a buffer."""
    lanes = 8 * ALIGNMENT // element.width
    vector = ir.VectorType(element, lanes)
    empty = ir.Constant(vector, ir.Undefined)
    x = f.builder.insert_element(empty, f.builder.load(f.pointer(source, element)), ir.Constant(I32, 0))
    repeated = f.builder.shuffle_vector(x, empty, ir.Constant(ir.VectorType(I32, lanes), None))
    with f.loop(0, BLOCK * element.width // 8, ALIGNMENT) as offset:
        f.builder.store(repeated, f.pointer(target + offset, vector))


def _forget_float_errors(f: Function) -> None:
    """Clear the processor's floating-point flags, which NumPy would turn into warnings about lanes that are masked."""
    if platform.machine().lower() in ("x86_64", "amd64"):  # C's function also resets a unit that nobody used: 60 ns
        flags = 0x3F  # the lowest bits of the control register of the vector unit
        with f.builder.goto_entry_block():
            place = f.builder.alloca(I32)
        f.intrinsic("llvm.x86.sse.stmxcsr", VOID, place)
        f.builder.store(f.builder.and_(f.builder.load(place), I32(~flags)), place)
        f.intrinsic("llvm.x86.sse.ldmxcsr", VOID, place)
    elif binding.address_of_symbol("feclearexcept"):
        f.intrinsic("feclearexcept", I32, I32(0x3D))  # FE_ALL_EXCEPT
