"""A step, run once on symbols: the list of its lines.

A `Symbol` is a tensor with a shape and a dtype but no numbers. While a `Trace` listens, an operation on symbols is not
carried out; it becomes a `Line`, which names the row of the table, the lines it reads and its attributes. Lines print
as readable equations, under the names that the user's code gives them:

    f = sigmoid(x @ self.Wf + h @ self.Uf)      ->      v1 = matmul(x, Wf)
                                                        v2 = matmul(h, Uf)
                                                        v3 = add(v1, v2)
                                                        f = sigmoid(v3)

Python decides before a symbol is touched, so loops over gates and `if self.bias` are fine; what depends on the numbers
themselves raises `Unfusable` with the line of user code.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state
from ..autograd.operands import aligned
from ..autograd.primitive import FLOAT32, ElementwisePrimitive, Primitive, Shape
from ..autograd.tape import Value, line_of, mode, ours, passed_over, set_mode, user_frame, user_line
from ..autograd.tensor import Tensor
from . import soundness
from .batch import BATCH, Batch, Size, sized, stand_ins
from .frames import Locals, called, latching, listener, step_codes, step_line
from .keys import key_of
from .names import FORMS, RESERVED, Names
from .refusal import CompilerError, Unfusable, innermost
from .soundness import COMPARISONS, dtype_of
from .watched import functions_of, guarded, tensors_of, watched

__all__ = [
    "BATCH", "CompilerError", "Line", "Locals", "Number", "Shadow", "Symbol", "Trace", "Unfusable", "is_view",
    "run_line", "shown", "step_line", "trace_step",
]  # fmt: skip

HERE = str(Path(__file__).parent) + os.sep
LONGEST_NAME = 80  # of a value that the user gave none: it tells what it is made of
MOST_OPERATIONS = 1_000  # of a step in the loop: to compile so many takes minutes
MOST_LINES = 2_000, 20_000  # of a trace, which has some of them whole and in parts; with those of the gradient
ROWS = ("input", "state", "carry", "gradient", "zeros")  # kinds of leaves that have a row for each sequence


def too_many(where: str) -> Unfusable:
    """Why a step of very many operations is refused."""
    return Unfusable(
        f"step has more than {MOST_OPERATIONS:,} operations, which would take minutes to compile ({where}): write "
        "fewer and wider ones, such as one product for all gates, or spread them over several steps of the sequence"
    )


class Number(float):
    """A number that the step read or computed, rather than one that stands in its code: an argument of kernels.

    So another one, such as a rate that a schedule sets, needs no other machine code.
    """

    name: str


class Line:
    """One operation of a step, or one of its inputs.

    Attributes:
        name: unique within the trace.
        row: the primitive; None for an input, a parameter or a constant.
        inputs: the lines it reads, and Python numbers.
        shape: with a `Size` in front if it has a row for each of the batch.
        per_row: whether it has a value for each row of the batch, rather than one for all: if an operand has.
        timed: whether it has another value at every step: likewise.
        width: the number of elements in a row.
        kind: "input", "state", "given" (for the whole sequence), "parameter", "constant" or "operation".
        value: of a parameter, the tensor; of a constant, the array.
        named: whether the name is the user's.
        where: the line of the user's code that it comes from, as `user_line` tells it; "" if it comes from none.
    """

    __slots__ = (
        "attributes", "dtype", "inputs", "kind", "name", "named", "per_row", "row", "shape", "timed", "value", "where",
        "width",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: str,
        shape: Shape,
        dtype: np.dtype,
        row: Primitive | None = None,
        inputs: Sequence[Any] = (),
        attributes: dict[str, Any] | None = None,
        value: Any = None,
        per_row: bool = False,
    ) -> None:
        self.name, self.kind, self.dtype = name, kind, dtype
        self.row, self.inputs, self.attributes, self.value = row, list(inputs), attributes or {}, value
        self.named = kind != "operation"  # by the user
        self.where = ""
        operands: list[Line] = [x for x in self.inputs if isinstance(x, Line)]
        self.per_row: bool = per_row or kind in ROWS or any(x.per_row for x in operands)
        self.timed: bool = kind in ROWS or any(x.timed for x in operands)
        self.shape = with_batch(shape) if self.per_row else shape
        if self.per_row and "shape" in self.attributes:
            self.attributes = self.attributes | {"shape": with_batch(self.attributes["shape"])}
        self.width = shape[-1] if len(shape) > self.per_row else 1

    @property
    def nameless(self) -> bool:
        """Whether the equation says more than the name."""
        return not self.named and (self.row is table.mul or re.fullmatch(r"v(_\d+)?", self.name) is not None)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        if self.row is None:
            return f"{self.name}[{shape}]: {self.kind}"
        arguments = [x.name if isinstance(x, Line) else repr(x) for x in self.inputs]
        arguments += [f"{name}={value!r}" for name, value in self.attributes.items()]
        return f"{self.name}[{shape}] = {self.row.name}({', '.join(arguments)})"


def run_line(line: Line, operands: Iterable[Any], rows: int, how: Callable[..., Any] | None = None) -> Any:
    """The result of a line by its row on the tape, or by `how`, for so many rows in place of the batch."""
    plain = lambda x: float(x) if isinstance(x, Number) else x
    attributes = {name: plain(value) for name, value in sized(line.attributes, rows).items()}
    assert line.row is not None
    return (how or line.row)(*map(plain, operands), **attributes)


def with_batch(shape: Shape) -> Shape:
    """A shape whose first dimension is the batch's."""
    return (Size(shape[0]), *shape[1:])


def shown(attribute: Any) -> str:
    """An attribute of an operation as text."""
    return repr(attribute)


class Shadow(np.ndarray):
    """An array that has a shape and a dtype, and refuses to show its numbers."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is None:
            raise Unfusable("a tensor that step had left behind has no numbers: return it as a state")
        mode.tracer.refuse_numbers(self)

    __array_ufunc__ = __array_function__ = _refuse
    __bool__ = __float__ = __int__ = __index__ = __iter__ = __getitem__ = _refuse
    item = tolist = astype = sum = max = min = any = all = argmax = argmin = copy = __array__ = _refuse

    @staticmethod
    def of(shape: Shape, dtype: np.dtype) -> "Shadow":
        return np.ndarray.__new__(Shadow, shape, dtype, bytes(8), 0, (0,) * len(shape))  # one number for all


class Symbol(Tensor):
    """A tensor that stands for a line. The user sees no array, and the size of the batch as a `Batch`."""

    __slots__ = ("line", "trace")

    def __init__(self, line: Line, trace: "Trace | None" = None) -> None:
        vars(Value)["data"].__set__(self, Shadow.of(line.shape, line.dtype))
        self.node = None
        self.line, self.trace = line, trace

    data, grad, node = guarded("data"), guarded("grad"), guarded("node")

    @property
    def shape(self) -> Any:
        line = self.line
        return (self.trace.size, *line.shape[1:]) if self.trace is not None and line.per_row else line.shape

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        if self.trace is not None and self.line.per_row:
            self.trace.refuse("step computes with the size of the batch", "write h.shape[1], the width of a row")
        return super().numel()

    def __len__(self) -> int:
        if self.trace is not None and self.line.per_row:
            self.trace.refuse(
                "step asks for the number of rows in the batch by len", "write h.shape[0], which may go into shapes"
            )
        return super().__len__()

    def __iter__(self) -> Any:
        if self.trace is not None and self.line.per_row:
            self.trace.refuse(
                "step walks over the rows of the batch", "leave the loop out, an operation is done for each row"
            )
        return super().__iter__()

    def __repr__(self) -> str:
        if mode.tracer is not None and not ours(sys._getframe(1)):
            mode.tracer.refuse_numbers(self)
        return f"Symbol({self.line!r})"


class Trace:
    """The lines of a step, in the order in which they ran."""

    def __init__(self, names: dict[int, str], held_as: dict[int, str], batch: int, dtype: np.dtype) -> None:
        self.lines: list[Line] = []
        self.batch, self.dtype = batch, dtype
        self.size = Batch(batch)
        self.refused: Unfusable | None = None  # the first time: a step that catches it is refused all the same
        self.pieces: dict[Line, dict[tuple[int, int], Line]] = {}  # lines of which parts are computed by themselves
        self.most = MOST_LINES[0]
        self._taken: dict[tuple[Line, int, int], Line] = {}  # columns of lines -> what computes them
        self.skipped: set[Line] = set()  # lines of which a part was taken from what they are made of
        self.given: list[Line] = []  # what cells hold for a whole sequence
        self.owners: list[Any] = []  # these cells
        self.drawn: list[tuple[Line, Callable[[Shape], np.ndarray]]] = []  # random numbers, new ones for each step
        self.open = True  # while step runs
        self.codes: set[Any] = set()  # of steps
        self._codes: dict[int, CodeType] = {}  # that has run; equal code is not the same, it has numbers of its own
        self._literals: set[int] = set()  # what stands in there, by identity
        self._numbers: dict[int, Number] = {}  # others, likewise
        self._frames: dict[int, tuple[int, FrameType]] = {}  # in which they run, with how many others they are inside
        self.where = ""  # the line of the user's code that is running
        self._names = Names(RESERVED, FORMS)
        self._known: dict[Any, Line] = {}
        self._parameter_names, self._held_as = names, held_as
        self._held_numbers: dict[int, str] = {}  # numbers that the cell holds -> their names
        self._alive: list[float] = []

    # ---- Where the user's code is ------------------------------------------------------------------------------------

    def _look_around(self) -> str:
        """The line of the user's code that is running; frames of steps are kept, for the names of their variables."""
        frame: FrameType | None = sys._getframe(2)
        where, steps = "", []
        while frame is not None and frame.f_code is not _trace_once.__code__:
            if not where and not passed_over(frame):
                where = line_of(frame)
            if frame.f_code in self.codes:
                steps.append(frame)
            if id(frame.f_code) not in self._codes:
                self._codes[id(frame.f_code)] = frame.f_code
                for x in frame.f_code.co_consts:
                    self._literals.update(map(id, x if isinstance(x, tuple) else (x,)))
            frame = frame.f_back
        for depth, step in enumerate(reversed(steps)):
            self._frames.setdefault(id(step), (depth, step))
        return where or user_line()

    def variables(self) -> list[tuple[str, Any]]:
        """The local variables of steps at their return, of the innermost ones first."""
        frames = sorted(self._frames.values(), key=lambda each: -each[0])
        found = [pair for _, frame in frames for pair in frame.f_locals.items()]
        self._frames.clear()
        return found

    # ---- Refusals ----------------------------------------------------------------------------------------------------

    def refuse(self, what: str, lead: str = "", where: str = "") -> NoReturn:
        """Say what the step does that no kernel can do, and what to write instead."""
        lead = f": {lead}" if lead else ""
        raise self.latch(Unfusable(f"{what}{lead} ({where or user_line()})"))

    def latch(self, refusal: Unfusable) -> Unfusable:
        """The first refusal, which stands whatever the step does about it."""
        self.refused = self.refused or refusal
        return self.refused

    def untraced(self, error: Exception, where: str = "") -> Unfusable:
        """What an error says, without the number that stands for the batch."""
        plain = lambda n: "B" if int(n[0]) == self.batch else f"{int(n[0]) // self.batch} * B"
        multiple = lambda n: plain(n) if int(n[0]) and int(n[0]) % self.batch == 0 else n[0]
        text = re.sub(r"\d+", multiple, str(error))
        return Unfusable(f"step could not be traced: {text}{where and f' ({where})'}")

    def refuse_numbers(self, x: Any, lead: str = "") -> NoReturn:
        """The step looks at the numbers of a tensor, which another call may change."""
        name = self.name_of(x)
        self.refuse(
            f"step looks at the numbers of a tensor{name and f', {name}'}",
            lead or "write tg.where(h > 0, a, b) for a choice, and use tensors as they are, without float or numpy",
        )

    def refuse_gradients(self, what: str) -> NoReturn:
        """The step does something about gradients that kernels know nothing of."""
        self.refuse(f"step uses {what}", "write h.detach() for what gradients must not pass, and leave the rest out")

    def refuse_draws(self) -> NoReturn:
        """The step draws random numbers that are not drawn for all steps at once."""
        self.refuse("step draws random numbers past rand, randn and dropout", "write tg.rand(h.shape)")

    def has_rows(self, x: Any) -> bool:
        """Whether a tensor has a row for each sequence of the batch."""
        return isinstance(x, Symbol) and x.line.per_row

    def name_of(self, x: Any) -> str:
        """What the user calls a tensor, as far as can be told."""
        if isinstance(x, Symbol) and x.line.named:
            return x.line.name
        known = self._held_as.get(id(x), "")
        if known:
            return known
        variables = user_frame().f_locals
        return next((name for name, value in variables.items() if value is x), "")

    def shown(self, line: Line) -> tuple[str, str]:
        """What the user calls a line, and how it is turned into the dtype of the states."""
        if any(line is drawn for drawn, _ in self.drawn):
            return "what tg.rand or tg.randn draws", "tg.rand(h.shape, dtype=h.dtype)"
        array = line.value.data if isinstance(line.value, Value) else line.value
        for x in (line.value, array):
            if id(x) in self._held_as:
                name, to = self._held_as[id(x)], f"(np.{self.dtype.name})"
                return name, f"{name}.astype{to}" if isinstance(x, np.ndarray) else f"{name}.to{to}"
        own = re.fullmatch(r"(parameter|constant)(_\d+)?", line.name)
        name = line.name if line.named and not own else ""
        variables = user_frame().f_locals.items()
        name = name or next((name for name, x in variables if isinstance(x, Symbol) and x.line is line), "")
        return name or "a value made in step", f"{name or '(...)'}.to(np.{self.dtype.name})"

    # ---- Leaves ------------------------------------------------------------------------------------------------------

    def leaf(self, name: str, kind: str, shape: Shape, dtype: np.dtype, value: Any = None) -> Symbol:
        """A symbol for an input, a state, a parameter or a constant."""
        per_row = kind == "given" and shape[:1] == (self.batch,)
        line = Line(self.unique(name), kind, shape, np.dtype(dtype), value=value, per_row=per_row)
        line.where = self.where
        self.lines.append(line)
        return self.symbol(line)

    def symbol(self, line: Line) -> Symbol:
        """A symbol for a line."""
        return Symbol(line, self if self.open else None)

    def line_of(self, x: Any) -> Any:
        """The line of a symbol, tensor or array; a Python number as it is."""
        if isinstance(x, Symbol):
            if self.open and x.trace is not self:
                self.refuse("step uses a tensor of an earlier step", "return it as a state, which the next step gets")
            return x.line
        if type(x) is Batch:
            self.size.__float__()  # which refuses
        if isinstance(x, (bool, int, float)):
            return x if isinstance(x, Number) else float(x) if isinstance(x, float) else x
        array = x.data if isinstance(x, Value) else np.asarray(x)
        if array.dtype.kind not in "biuf":
            self.refuse(f"step computes with {type(x).__name__}", "write a float")
        if array.ndim == 0 and not isinstance(x, Value):
            return array.item()
        key = id(x)  # of what its line keeps alive
        if key not in self._known:
            if self.batch in array.shape:
                self.refuse(
                    "step makes an array with a row for each of the batch",
                    "make it of a state or draw it, such as h * 0 + 1 and tg.rand(h.shape)",
                )
            if array.ndim > 2 and key not in self._parameter_names:
                self.refuse(
                    f"step makes an array of shape {list(array.shape)} anew", "keep it in the cell, as a Parameter"
                )
            kind = "parameter" if isinstance(x, Value) else "constant"
            name = self._parameter_names.get(key, kind)
            self._known[key] = self.leaf(name, kind, array.shape, array.dtype, value=x).line
        return self._known[key]

    def number(self, x: float) -> float:
        """A number as an operand: an argument of kernels, unless it stands in the code that runs or is none of ours."""
        if isinstance(x, Number):
            return x
        if not self.open or type(x) is not float or id(x) in self._literals or x != x or abs(x) == math.inf:
            return float(x)
        if id(x) not in self._numbers:
            name = self._held_numbers.get(id(x), "number")
            number = self._numbers[id(x)] = Number(x)
            number.name = self.unique(name)
            self._alive.append(x)  # so that no other number gets its identity
        return self._numbers[id(x)]

    def draw(self, source: Callable[[Shape], np.ndarray], shape: Any, dtype: Any) -> Symbol:
        """Called in place of drawing random numbers: a symbol for an input that is drawn for all steps at once."""
        self.where = self._look_around()
        if len(shape) != 2 or (type(shape[0]) is not Batch and shape[0] != self.batch):
            sizes = ["B" if type(n) is Batch or n == self.batch else n for n in shape]
            self.refuse(
                f"step draws random numbers of shape [{', '.join(map(str, sizes))}], not a row for each of the batch",
                "write h.shape, or h.shape[0], 1 for one number a row",
            )
        symbol = self.leaf("random", "input", (self.batch, *shape[1:]), dtype)
        self.drawn.append((symbol.line, source))
        return symbol

    # ---- Operations --------------------------------------------------------------------------------------------------

    def record(self, row: Primitive, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Called in place of the operation: a symbol for its result."""
        if not any(isinstance(x, Value) for x in inputs):
            return row.forward(*inputs, **attributes)
        if not self.open:  # a rule for gradients, which are sound
            lines = [self.line_of(x) for x in inputs]
            return Symbol(self.add(row, lines, attributes, self._shape(row, lines, attributes)))
        self.where = self._look_around()
        lines = [x if type(x) is float else self.line_of(x) for x in inputs]
        attributes = {name: self._plain(name, value) for name, value in attributes.items()}
        if isinstance(row, ElementwisePrimitive) and row not in (table.pow, table.clip_gradient):
            lines = [self.number(x) if isinstance(x, float) else x for x in lines]
            attributes = {name: self.number(x) if type(x) is float else x for name, x in attributes.items()}
        if row is table.part and isinstance(lines[0], Line) and lines[0].per_row:
            row, attributes = as_simple_part(lines[0].shape, attributes["at"])
        try:
            shape = self._shape(row, lines, attributes)
        except Exception as error:  # which is no reason for another way through the step: it may fit another batch
            self.latch(self.untraced(error, self.where))
            raise
        try:
            self._check(row, lines, attributes, shape)
            if row in COMPARISONS and any(isinstance(x, Line) and x.dtype == FLOAT32 for x in lines):
                lines = [float(np.float32(x)) if isinstance(x, float) else x for x in lines]  # as they are compared
            return self.symbol(self.add(row, lines, attributes, shape))
        except Unfusable as refusal:
            raise self.latch(refusal) from None
        except Exception as error:
            raise self.latch(CompilerError.of(error, self.where)) from error

    def _shape(self, row: Primitive, lines: list[Any], attributes: dict[str, Any]) -> Shape:
        return row.shape(*(x.shape if isinstance(x, Line) else () for x in lines), **attributes)

    def _plain(self, name: str, value: Any) -> Any:
        """An attribute, in which only a shape may speak of the batch."""
        if name == "shape":
            return tuple([self.batch if type(n) is Batch else n for n in value])
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Value):
                self.refuse_numbers(part)
            ends = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
            if any(type(n) is Batch for n in ends):
                self.size.__float__()  # which refuses
        return value

    def _check(self, row: Primitive, lines: list[Any], attributes: dict[str, Any], shape: Shape) -> None:
        """Refuse an operation that kernels would get wrong."""
        wrong = soundness.rows_apart(row, lines, attributes, shape, self.batch, called(row.name))
        wrong = wrong or soundness.linear(row, lines)
        if wrong is None and any(isinstance(x, Line) and x.per_row for x in lines):
            wrong = soundness.one_dtype(row, lines, attributes, self.dtype, self.shown)
            if wrong is not None and row is table.cast:
                wrong = self._promoted_by(np.dtype(attributes["dtype"])) or wrong
        if wrong is not None:
            self.refuse(*wrong)

    def _promoted_by(self, dtype: np.dtype) -> tuple[str, str] | None:
        """What to say of the operand for whose sake another one is turned into its dtype, if that is going on."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and ours(frame) and frame.f_code is not aligned.__code__:
            frame = frame.f_back
        if frame is None or frame.f_code is not aligned.__code__:
            return None
        others = [x for x in frame.f_locals["operands"] if getattr(x, "dtype", None) == dtype]
        lines = [self.line_of(x) for x in others if not np.ndim(x) == 0 or isinstance(x, Value)]
        lines = [x for x in lines if isinstance(x, Line)]
        return soundness.foreign(lines[0], self.dtype, self.shown) if lines and dtype.kind == "f" else None

    def add(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any], shape: Shape) -> Line:
        """A line, or the one that is there already and says the same."""
        simpler = self._simplify(row, inputs, attributes, shape)
        if simpler is not None:
            return simpler
        key = (row.name, *(x if isinstance(x, Line) else key_of(x) for x in inputs), key_of(attributes))
        if key not in self._known or row is table.clip_gradient:  # which clips what comes back to each call by itself
            dtype = dtype_of(row, inputs, attributes)
            line = Line(self._name(row, inputs, attributes), "operation", shape, dtype, row, inputs, attributes)
            line.where = self.where
            if len(self.lines) >= self.most:
                raise too_many(user_line())
            self.lines.append(line)
            self._known[key] = line
        return self._known[key]

    def _simplify(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any], shape: Shape) -> Line | None:
        """Rewrite what would keep elements of different columns apart, so that loops have one width each."""
        x = inputs[0]
        if row is table.part and isinstance(x, Line) and x.kind == "zeros":
            return Line("zero", "zeros", shape, x.dtype)
        if row is table.part and isinstance(x, Line) and x.per_row:
            first, last = _columns(x, attributes["at"])
            if (first, last) == (0, x.width):
                return x
            self._prepare(x, first, last)
            # A part of f(a, b) is f of the parts, but what is clipped is the gradient of all parts together.
            if isinstance(x.row, ElementwisePrimitive) and x.row is not table.clip_gradient:
                operands = [self._part(y, first, last, x) if isinstance(y, Line) else y for y in x.inputs]
                piece = self.add(x.row, operands, x.attributes, shape)
                self.pieces.setdefault(x, {})[first, last] = piece
                return piece
            if x.row is table.part:  # a part of a part
                offset = _columns(x.inputs[0], x.attributes["at"])[0]
                piece = self._part(x.inputs[0], offset + first, offset + last, x.inputs[0])
                self.pieces.setdefault(x, {})[first, last] = piece
                return piece
            if x.row is table.expand and x.inputs[0].width == 1:
                self.skipped.add(x)
                return self.add(table.expand, x.inputs, {"shape": shape}, shape)
            if x.row is table.cat:
                start = 0
                for piece in x.inputs:
                    if start <= first and last <= start + piece.width:
                        self.skipped.add(x)
                        return self._part(piece, first - start, last - start, piece)
                    start += piece.width
        if row is table.reshape and isinstance(x, Line) and x.per_row and shape == x.shape:
            return x
        if row is table.permute and isinstance(x, Line) and attributes["dims"] == tuple(range(len(x.shape))):
            return x
        if row is table.cast and attributes["dtype"] == x.dtype:
            return x
        return None

    def _prepare(self, x: Line, first: int, last: int) -> None:
        """Take apart what columns [first, last) of x are made of, the deepest first: expressions may be long."""
        ahead = [(self._made_of(x, first, last), 0)]
        while ahead:
            wanted, done = ahead.pop()
            if done < len(wanted):
                ahead.append((wanted, done + 1))
                if wanted[done] not in self._taken:
                    ahead.append((self._made_of(*wanted[done]), 0))
            if done:
                y, start, end = wanted[done - 1]
                self._part(y, start, end, y)

    def _made_of(self, x: Line, first: int, last: int) -> list[tuple[Line, int, int]]:
        """The columns of operands that `_simplify` takes for columns [first, last) of x."""
        offset, operands = 0, x.inputs
        if not x.per_row:
            return []
        if x.row is table.part:
            offset = _columns(x.inputs[0], x.attributes["at"])[0]
        elif x.row is table.cat:
            for y in x.inputs:
                if first < offset + y.width:
                    operands, offset = [y] * (last <= offset + y.width), -offset
                    break
                offset += y.width
            else:
                return []
        elif not isinstance(x.row, ElementwisePrimitive) or x.row is table.clip_gradient:
            return []
        lines = [y for y in operands if isinstance(y, Line) and (y.width != 1 or x.width == 1)]
        return [(y, offset + first, offset + last) for y in lines if (0, y.width) != (offset + first, offset + last)]

    def _part(self, x: Line, first: int, last: int, whole: Line) -> Line:
        """Columns [first, last) of an operand of `whole`; an operand of one column stays as it is."""
        if not x.shape or (x.width == 1 and whole.width != 1) or (first, last) == (0, x.width):
            return x
        if (x, first, last) not in self._taken:
            at = (*[slice(None)] * (len(x.shape) - 1), slice(first, last))
            self._taken[x, first, last] = self.add(table.part, [x], {"at": at}, (*x.shape[:-1], last - first))
        return self._taken[x, first, last]

    def forget_all_but(self, lines: set[Line]) -> None:
        """Let new lines be the same as these and no others: nothing else will be computed."""
        self._taken.clear()
        self.most = MOST_LINES[1]
        self._known = {key: line for key, line in self._known.items() if line.kind != "operation" or line in lines}

    # ---- Names -------------------------------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """A name that no line has yet."""
        return self._names.new(name)

    def own(self, name: str) -> str:
        """Such a name for something of our own: a reserved one, unless a name of the user's became it."""
        return self._names.own(name)

    def _name(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any]) -> str:
        name = self._words(row, inputs, attributes)
        return self.unique(name if len(name) <= LONGEST_NAME else "v")

    def _words(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any]) -> str:
        names = [x.name for x in inputs if isinstance(x, Line)]
        if row is table.permute:
            return f"{names[0]}_T"
        if row is table.matmul:
            return "_".join(names)
        if row is table.mul and len(names) == 2 and len("".join(names)) <= 8:
            return "v" if any(x.nameless for x in inputs) else "_".join(names)
        if row is table.part and is_view(inputs[0], attributes["at"]):
            first, last = _columns(inputs[0], attributes["at"])
            return f"{names[0]}_{first // max(last - first, 1)}"
        return f"{row.name}_{names[0]}" if len(inputs) == 1 else "v"

    def rename(self, line: Line, name: str) -> None:
        """Give a line that has no name of the user's a better one."""
        if not line.named:
            line.name, line.named = self.unique(name), True

    def name_rest(self, outputs: Sequence[Line]) -> None:
        """Name what has no name of the user's once more, now that other lines have theirs; first what outputs need."""
        needed, ahead = set(outputs), list(outputs)
        while ahead:
            found = [x for x in ahead.pop().inputs if isinstance(x, Line) and x not in needed]
            needed.update(found)
            ahead += found
        nameless = [line for line in self.lines if not line.named]
        taken = [line.name for line in self.lines if line.named] + [x.name for x in self._numbers.values()]
        self._names = Names(RESERVED, FORMS, taken)
        for line in [*(x for x in nameless if x in needed), *(x for x in nameless if x not in needed)]:
            assert line.row is not None
            line.name = self._name(line.row, line.inputs, line.attributes)

    def name_after(self, variables: Iterable[tuple[str, Any]]) -> None:
        """Give lines the names of the variables that hold them; the new value of a state `c` becomes `c_new`."""
        for variable, symbol in variables:
            if isinstance(symbol, Symbol) and not symbol.line.named:
                taken = variable in self._names
                self.rename(symbol.line, f"{variable}_new" if taken else variable)


def trace_step(
    cell: Any,
    inputs: Sequence[tuple[Shape, Any]],
    states: Sequence[tuple[str, Shape, Any]],
    single: bool = True,
) -> tuple[Trace, list[Line]]:
    """Run `cell.step` on symbols; returns the trace and the lines of the new states.

    It is run twice, with two numbers in place of the size of the batch: both times it must do the same.

    Args:
        inputs: shapes and dtypes of what arrives at each step, with `BATCH` in front.
        states: names, shapes and dtypes.
        single: whether step takes its one input as it is, rather than in a tuple.

    Raises:
        Unfusable: the step cannot become a kernel.
        CompilerError: tracing failed, which is no fault of the step.
    """
    functions = functions_of(cell)
    tensors, codes = tensors_of(cell, functions), {function.__code__ for function in functions}
    known = {n for _, x in tensors for n in x.shape} | {n for shape, _ in inputs for n in shape[1:]}
    known |= {n for _, shape, _ in states for n in shape[1:]}
    sizes = stand_ins(known)
    try:
        return _trace_twice(cell, inputs, states, single, tensors, codes, next(sizes), next(sizes))
    except CompilerError:
        raise
    except Unfusable:  # unless it was a width that is made in the step and has the number of the batch
        return _trace_twice(cell, inputs, states, single, tensors, codes, next(sizes), next(sizes))


def _trace_twice(
    cell: Any,
    inputs: Any,
    states: Any,
    single: bool,
    tensors: list[tuple[str, Any]],
    codes: set[CodeType],
    batch: int,
    other: int,
) -> tuple[Trace, list[Line]]:
    """Trace with two numbers for the size of the batch, and compare."""
    trace, outputs = _trace_once(cell, inputs, states, single, tensors, codes, batch)
    if listener.between is not None:
        listener.between()
    again, _ = _trace_once(cell, inputs, states, single, tensors, codes, other)
    compare(trace, again)
    for line in trace.lines:  # from here on any number will do
        if line.per_row:
            line.shape = (BATCH, *line.shape[1:])
            if "shape" in line.attributes:
                line.attributes = line.attributes | {"shape": (BATCH, *line.attributes["shape"][1:])}
    trace.batch = BATCH
    return trace, outputs


def _trace_once(
    cell: Any,
    inputs: Any,
    states: Any,
    single: bool,
    tensors: list[tuple[str, Any]],
    codes: set[CodeType],
    batch: int,
) -> tuple[Trace, list[Line]]:
    """The trace for one number in place of the size of the batch."""
    named = [*cell.named_buffers(), *cell.named_parameters()]
    names = {id(p): name.replace(".", "_") for name, p in named}
    trace = Trace(names, {id(x): name for name, x in tensors}, batch, np.dtype(states[0][2]))
    trace.codes = step_codes(cell)
    held_numbers = [(x, name) for module in cell.modules() for name, x in vars(module).items() if type(x) is float]
    trace._held_numbers = {id(x): name for x, name in held_numbers}
    at = lambda shape: (batch, *shape[1:])
    xs = [trace.leaf("x" if single else f"x_{i}", "input", at(s), kind) for i, (s, kind) in enumerate(inputs, 1)]
    symbols = [trace.leaf(name, "state", at(shape), dtype) for name, shape, dtype in states]
    try:
        with Locals(cell):  # what these values are made of may change as well
            of_sequence = cell.values_of_sequence(batch)
        given = [
            (owner, {name: trace.leaf(name, "given", value.shape, value.dtype) for name, value in values.items()})
            for owner, values in of_sequence
        ]
        trace.owners = [owner for owner, _ in given]
        trace.given = [symbol.line for _, values in given for symbol in values.values()]
        leaves = [*xs, *symbols, *(symbol for _, values in given for symbol in values.values())]
        numbers_drawn = get_rng_state()
        held = [x for _, x in tensors]
        with watched(held), set_mode("tracer", trace), cell.holding(given), Locals(cell), latching(trace, codes):
            returned = cell.step(xs[0] if single else tuple(xs), *symbols)
    except Unfusable as error:
        raise trace.latch(error) from None
    except Exception as error:  # whatever the user's code raises: the tape will raise it again, in its own words
        if trace.refused is not None:
            raise trace.refused from None
        if innermost(error).startswith(HERE):
            raise CompilerError.of(error, step_line(cell)) from error
        raise trace.untraced(error) from error
    trace.open, trace.where = False, ""
    if trace.refused is not None:
        raise trace.refused
    if get_rng_state() != numbers_drawn:
        raise Unfusable(f"step draws random numbers past rand, randn and dropout ({step_line(cell)})")
    outputs = _returned(returned, symbols, step_line(cell), trace)
    trace.name_after([(name, value) for name, value in trace.variables() if not any(value is leaf for leaf in leaves)])
    for state, line in zip(symbols, outputs):
        trace.rename(line, f"{state.line.name}_new")
    trace.name_rest(outputs)
    return trace, outputs


def _returned(returned: Any, states: list[Symbol], where: str, trace: Trace) -> list[Line]:
    """The lines of what a step returned."""
    new = returned if isinstance(returned, (tuple, list)) else (returned,)
    names = ", ".join(state.line.name for state in states)
    outputs = []
    for state, symbol in zip(states, new):
        name = state.line.name
        if not isinstance(symbol, Symbol) or symbol.trace is not trace:
            raise Unfusable(f"step returns a {name} that depends on no input: write {name} * 0 + it ({where})")
        line = symbol.line
        if line.shape != state.line.shape or not line.per_row:
            raise Unfusable(
                f"step returns {line.name} of shape {list(line.shape)} as {name}, which came in as "
                f"{list(state.line.shape)}: return all states in the shapes they came in with ({line.where or where})"
            )
        if line.dtype != state.line.dtype:
            raise Unfusable(
                f"step returns {line.name} in {line.dtype} as {name}, which came in as {state.line.dtype}: write "
                f"{line.name}.to({name}.dtype) ({line.where or where})"
            )
        outputs.append(line)
    if len(outputs) != len(states) or len(new) != len(outputs):
        raise Unfusable(f"step returns {len(new)} states and takes {len(states)}: return {names} ({where})")
    return outputs


def compare(trace: Trace, again: Trace) -> None:
    """Whether a step does the same for batches of two sizes, and each time it runs.

    Raises:
        Unfusable: it does not.
    """
    for line, other in zip(trace.lines, again.lines):
        where = f"({line.where or other.where or 'in step'})"
        if line.value is not other.value and line.value is not None and _content(line) != _content(other):
            raise Unfusable(
                "step makes another constant each time it runs: draw numbers by tg.rand(h.shape), and let what counts "
                f"or changes be a state {where}"
            )
        if _signature(line) != _signature(other):
            numbers = lambda x: [y for y in x.inputs if not isinstance(y, Line)]
            what = "step does not do the same each time it runs, or computes with the size of the batch"
            lead = "let what counts or changes be a state"
            if line.row is other.row and list(map(key_of, numbers(line))) != list(map(key_of, numbers(other))):
                what = "step computes with another number each time it runs, or with the size of the batch"
            raise Unfusable(f"{what}: {lead} {where}")
    if len(trace.lines) != len(again.lines):
        longer = max(trace.lines, again.lines, key=len)
        where = longer[min(len(trace.lines), len(again.lines))].where or "in step"
        raise Unfusable(f"step does not do the same each time it runs: let what it decides by be a state ({where})")


def _content(line: Line) -> Any:
    return key_of(line.value.data if isinstance(line.value, Value) else np.asarray(line.value))


def _signature(line: Line) -> Any:
    """All that a line says, without the number that stands for the batch."""
    shape = line.shape[1:] if line.per_row else line.shape
    attributes = dict(line.attributes)
    if line.per_row and "shape" in attributes:
        attributes["shape"] = attributes["shape"][1:]
    operands = [x.name if isinstance(x, Line) else key_of(x) for x in line.inputs]
    return line.name, line.kind, line.row, shape, line.dtype, line.per_row, line.timed, operands, key_of(attributes)


def as_simple_part(shape: Shape, at: Any) -> tuple[Primitive, dict[str, Any]]:
    """An index of ints and slices into rows as an operation: with an entry for each dimension, or as another shape."""
    whole = slice(None)
    if len([i for i in at if i is not None and i is not ...]) > len(shape):
        return table.part, {"at": at}
    if all(i is None or i is ... or i == whole for i in at):
        return table.reshape, {"shape": table.part.shape(shape, at=at)}
    if None in at:
        return table.part, {"at": at}
    front = at.index(...) if ... in at else len(at)
    behind = at[front + 1 :]
    at = (*at[:front], *[whole] * (len(shape) - front - len(behind)), *behind)
    return table.part, {"at": (whole, *at[1:]) if soundness.takes_all_rows(at, shape) else at}


def is_view(x: Line, at: Any) -> bool:
    """Whether a kernel reads x[at] in place, from x. Other parts, of parameters, are computed once a call."""
    *ahead, last = at
    in_place = len(at) == len(x.shape) and x.shape[:-1] in ((), (1,)) and ahead == [slice(None)] * len(ahead)
    return x.per_row or (in_place and isinstance(last, slice) and last.step in (None, 1))


def _columns(x: Line, at: Any) -> tuple[int, int]:
    """The columns that an index takes, if it takes whole rows of neighbouring ones."""
    *ahead, last = at
    if any(i != slice(None) for i in ahead) or len(at) != len(x.shape) or not isinstance(last, (int, slice)):
        raise Unfusable(f"an index into something else than the last dimension: write h[:, first:last] ({user_line()})")
    if isinstance(last, int):
        column = range(x.shape[-1])[last]
        raise Unfusable(f"an index that takes a single column: write {column}:{column + 1} ({user_line()})")
    first, end, stride = last.indices(x.shape[-1])
    if stride != 1:
        columns = [*range(first, end, stride)][:2]
        pieces = ", ".join(f"h[:, {n}:{n + 1}]" for n in columns)
        raise Unfusable(
            f"a slice with a stride: write tg.cat([{pieces}, ...], -1), or let the columns of a weight have that order "
            f"({user_line()})"
        )
    return first, max(end, first)
