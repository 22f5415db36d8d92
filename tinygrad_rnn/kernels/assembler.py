"""Functions of machine code, written down instruction by instruction with Python's operators.

    module = ir.Module("example")
    f = Function(module, "triangle", ["n"], gives=I64)  # the sum of the numbers below n
    (n,) = f.arguments
    total = f.variable(0)
    with f.loop(0, n) as i:
        total.set(total.get() + i)
    f.give(total.get())
    compiled = Library(module).address("triangle")      # of a C function that takes and returns 64-bit integers

Numba infers types, lowers and optimises at every use, a second or two for a matrix product. What is written down like
this takes a tenth of that, because there is nothing to infer, and the next process finds it on the disk. All values are
64-bit integers: counts, strides and addresses in bytes; truths are what comparisons give. (Vectors: see `vector`.)
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock

from . import cache
from .processor import compiler, processor, target

I8, I32, I64, VOID = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.VoidType()
ALIGNMENT = 64  # of memory on the stack: a cache line


def _operator(instruction: str, *condition: str, turned: bool = False) -> Callable[[Any, Any], Any]:
    """A method of `Int` that appends this instruction; `turned` has the other operand first."""

    def append(self: Any, other: Any) -> Any:
        x, y = self.value, other.value if isinstance(other, Int) else ir.Constant(self.value.type, other)
        x, y = (y, x) if turned else (x, y)
        return Int(self.builder, getattr(self.builder, instruction)(*condition, x, y))

    return append


class Int:
    """An integer or a truth in a function that is being written: operators append instructions."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    __add__ = __radd__ = _operator("add")
    __sub__, __rsub__ = _operator("sub"), _operator("sub", turned=True)
    __mul__ = __rmul__ = _operator("mul")
    __floordiv__, __rfloordiv__ = _operator("udiv"), _operator("udiv", turned=True)  # neither side may be negative
    __mod__, __rmod__ = _operator("urem"), _operator("urem", turned=True)  # likewise
    __and__, __or__, __xor__ = _operator("and_"), _operator("or_"), _operator("xor")
    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__
    __lshift__, __rshift__ = _operator("shl"), _operator("ashr")
    __lt__, __le__ = _operator("icmp_signed", "<"), _operator("icmp_signed", "<=")
    __gt__, __ge__ = _operator("icmp_signed", ">"), _operator("icmp_signed", ">=")
    __eq__, __ne__ = _operator("icmp_signed", "=="), _operator("icmp_signed", "!=")

    def __invert__(self) -> "Int":
        return Int(self.builder, self.builder.not_(self.value))


class Variable:
    """A place on the stack, which LLVM turns into a register."""

    def __init__(self, builder: Any, place: Any) -> None:
        self.builder, self.place = builder, place

    def get(self) -> Int:
        return Int(self.builder, self.builder.load(self.place))

    def set(self, value: Int) -> None:
        self.builder.store(value.value, self.place)


class Distinct(ir.MDValue):
    """A metadata node that equals no other: LLVM knows loops, and groups of memory accesses, by such."""

    def __init__(self, module: ir.Module, *operands: ir.Value, refers_to_itself: bool) -> None:
        super().__init__(module, operands, name=str(len(module.metadata)))
        if refers_to_itself:
            self.operands = (self, *operands)

    def descr(self, buf: list[str]) -> None:
        buf += (f"distinct !{{ {', '.join(x.get_reference() for x in self.operands)} }}", "\n")


class Function:
    """A C function of 64-bit integers that is being written; `local` ones can only be called from their module.

    Attributes:
        hint: what LLVM is told of loops, as metadata.
    """

    hint: tuple[Any, ...] = ()

    def __init__(self, module: Any, name: str, parameters: Sequence[str], local: bool = False, gives: Any = None):
        kind = ir.FunctionType(gives or VOID, [I64] * len(parameters))
        self.module, self.function = module, ir.Function(module, kind, name)
        self.function.linkage = "internal" if local else "external"
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        for argument, parameter in zip(self.function.args, parameters):
            argument.name = parameter
        self.arguments = [Int(self.builder, argument) for argument in self.function.args]

    @classmethod
    def inside(cls, builder: Any, unrolls: bool = False) -> "Function":
        """The function that somebody else is writing: to go on where the builder is.

        Nothing is unrolled, unless that is wanted. Loops over a row of a cell are short, of 8 heads or 4 slots, and
        stand inside each other: with all of them unrolled, a relational memory takes twice as long to compile, and the
        delta rule half as long again to run.
        """
        self = cls.__new__(cls)
        self.module, self.function, self.builder = builder.module, builder.function, builder
        self.hint = () if unrolls else ("llvm.loop.unroll.disable",)
        return self

    def number(self, n: Any) -> Int:
        return n if isinstance(n, Int) else Int(self.builder, ir.Constant(I64, n))

    def pick(self, condition: Int, a: Any, b: Any) -> Int:
        """`a` if the condition holds, else `b`."""
        return Int(self.builder, self.builder.select(condition.value, self.number(a).value, self.number(b).value))

    def least(self, a: Any, b: Any) -> Int:
        return self.pick(self.number(a) < b, a, b)

    def most(self, a: Any, b: Any) -> Int:
        return self.pick(self.number(a) > b, a, b)

    @contextlib.contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Int]:
        """What is written inside runs for every number in range(start, stop, step); the step is positive."""
        builder, before = self.builder, self.builder.block
        head, body, after = (builder.append_basic_block() for _ in range(3))
        start, stop, step = (self.number(n).value for n in (start, stop, step))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(I64)
        i.add_incoming(start, before)
        builder.cbranch(builder.icmp_signed("<", i, stop), body, after)
        builder.position_at_end(body)
        yield Int(builder, i)
        i.add_incoming(builder.add(i, step), builder.block)
        again = builder.branch(head)
        if self.hint:
            hint = self.module.add_metadata(self.hint)
            again.set_metadata("llvm.loop", Distinct(self.module, hint, refers_to_itself=True))
        builder.position_at_end(after)

    @contextlib.contextmanager
    def endless_loop(self) -> Iterator[Any]:
        """What is written inside runs until the function that is given here is called with a false condition."""
        builder = self.builder
        body, after = (builder.append_basic_block() for _ in range(2))
        builder.branch(body)
        builder.position_at_end(body)

        def leave_unless(condition: Int) -> None:
            more = builder.append_basic_block()
            builder.cbranch(condition.value, more, after)
            builder.position_at_end(more)

        yield leave_unless
        builder.branch(body)
        builder.position_at_end(after)

    def when(self, condition: Int) -> Any:
        return self.builder.if_then(condition.value)

    def either(self, condition: Int) -> Any:
        """Two places to write to, one for each outcome of the condition."""
        return self.builder.if_else(condition.value)

    def variable(self, value: Any) -> Variable:
        with self.builder.goto_entry_block():
            place = self.builder.alloca(I64)
        variable = Variable(self.builder, place)
        variable.set(self.number(value))
        return variable

    def stack(self, size: int) -> Int:
        """The address of `size` bytes on the stack, the same ones however often this is passed."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(ir.ArrayType(I8, size))
            place.align = ALIGNMENT
            return Int(self.builder, self.builder.ptrtoint(place, I64))

    def address_of(self, function: "Function") -> Int:
        return Int(self.builder, self.builder.ptrtoint(function.function, I64))

    def pointer(self, address: Int, kind: Any) -> Any:
        return self.builder.inttoptr(address.value, kind.as_pointer())

    def read(self, address: Int, kind: Any = I64) -> Int:
        value = self.builder.load(self.pointer(address, kind))
        return Int(self.builder, value if kind == I64 else self.builder.sext(value, I64))

    def write(self, address: Int, value: Any) -> None:
        self.builder.store(self.number(value).value, self.pointer(address, I64))

    def call(self, function: Any, *arguments: Any) -> Int:
        """Call a `Function`, or one named by a string: of this module, or a C function of 64-bit integers."""
        values = [self.number(x).value for x in arguments]
        if isinstance(function, str):
            return Int(self.builder, self.intrinsic(function, I64, *values))
        return Int(self.builder, self.builder.call(function.function, values))

    def intrinsic(self, name: str, result: Any, *values: Any) -> Any:
        """Call one of LLVM's own functions, with values of whatever types it takes."""
        kind = ir.FunctionType(result, [x.type for x in values])
        return self.builder.call(cgutils.get_or_insert_function(self.module, kind, name), values)

    def give(self, value: Any = None) -> None:
        """Return from the function."""
        if value is None:
            self.builder.ret_void()
        else:
            self.builder.ret(self.number(value).value)

    def need(self, *counts: Int) -> None:
        """Return at once unless all these counts are above zero: less than one thing to do is nothing to do."""
        for count in counts:
            with self.when(count <= 0):
                self.give()


def ask_for_full_width(function: Any) -> None:
    """Ask LLVM for 512-bit vectors in a function that is being written, where there are any.

    Of itself LLVM takes 256 on Intel's processors, where that is half the speed of `exp` and `tanh`. So a kernel that
    calls such a function asks, and so do the ufuncs. Other kernels leave it to LLVM on purpose: there whole registers
    were measured on such a processor to gain 3 % at small sizes and to lose 3 to 8 % at large ones.
    """
    set.add(function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own `add` knows no such kind


# What is written by hand needs little more than its variables moved to registers: the usual pipeline takes ten times as
# long for code that is no faster.
_PASSES = ("sroa", "instruction_combine", "simplify_cfg", "loop_rotate")


class Library:
    """The machine code of a module. It is never freed: its functions may be running.

    Args:
        module: or a function that writes it. That takes as long as all else, so it is called only if its machine code
            is not on the disk, under a `name`.
        settings: what such a module depends on, besides the processor and the sources of this folder.
    """

    def __init__(self, module: Any, name: str = "", settings: tuple[Any, ...] = ()) -> None:
        self.written = functools.cache(lambda: str(module() if name else module))
        with global_compiler_lock:
            text = (cache.toolchain(), sys.version, settings) if name else self.written()
            key = repr((text, processor(), target().triple, _PASSES, binding.llvm_version_info))
            code = cache.stored(name or module.name, key, lambda: compiler().emit_object(self._optimised()))
            self.engine = binding.create_mcjit_compiler(binding.parse_assembly(""), compiler())
            self.engine.add_object_file(binding.ObjectFileRef.from_data(code))
            self.engine.finalize_object()
            # Not even at the end of the process, which other threads may reach in the middle of a function.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.engine))

    def address(self, function: str) -> int:
        return int(self.engine.get_function_address(function))

    def assembly(self) -> str:
        """The machine code, to be read."""
        return str(compiler().emit_assembly(self._optimised()))

    def _optimised(self) -> Any:
        module = binding.parse_assembly(self.written())
        module.verify()
        builder = binding.create_pass_builder(compiler(), binding.create_pipeline_tuning_options())
        passes = binding.create_new_module_pass_manager()
        if all(hasattr(passes, f"add_{name}_pass") for name in _PASSES):
            for name in _PASSES:
                getattr(passes, f"add_{name}_pass")()
        else:  # an older llvmlite
            passes = builder.getModulePassManager()
        passes.run(module, builder)
        return module
