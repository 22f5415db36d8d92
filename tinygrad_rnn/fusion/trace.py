"""A step, run once on symbols: the program of what it computes.

While a `Trace` listens, an operation on symbols is not carried out; it becomes a `Value`. Python decides before a
symbol is touched, so loops over gates and `if self.bias` are fine; what depends on the numbers themselves raises
`Unfusable` with the line of user code.
"""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ..autograd import table, tape
from ..autograd.creation import get_rng_state
from ..autograd.operands import aligned
from ..autograd.primitive import FLOAT32, ElementwisePrimitive, Primitive, Shape
from ..autograd.tape import line_of, ours, passed_over, set_mode, user_frame, user_line
from . import composed, soundness
from .again import compare
from .batch import BATCH, Batch, sized, stand_ins
from .builder import MOST_VALUES, Builder, name_of
from .frames import Locals, called, latching, listener, step_codes, step_line
from .names import FORMS, RESERVED, Names
from .program import Number, Program, Value, leaf, needed_for
from .refusal import CompilerError, Unfusable, innermost
from .soundness import COMPARISONS
from .symbols import Shadow, Symbol, values_returned
from .watched import reach_of, watched

if TYPE_CHECKING:
    from .sequence import Sequence

__all__ = ["CompilerError", "Locals", "Shadow", "Symbol", "Trace", "Traced", "Unfusable", "step_line", "trace_step"]

HERE = str(Path(__file__).parent) + os.sep
Source = Callable[[Shape], np.ndarray]  # of random numbers


class Traced(NamedTuple):
    """A traced step.

    Attributes:
        program: what it computes.
        sources: of the noise inputs, in their order.
        owners: the cells whose sequence constants it reads.
    """

    program: Program
    sources: tuple[Source, ...]
    owners: tuple[Any, ...]


class Trace(Builder):
    """The values of a step, in the order in which they are computed, while it runs."""

    def __init__(self, cell: Any, held_as: dict[int, str], batch: int, dtype: np.dtype) -> None:
        super().__init__(Names(RESERVED, FORMS), MOST_VALUES[0])
        self.batch, self.dtype = batch, dtype
        self.size = Batch(batch)
        self.refused: Unfusable | None = None  # the first time: a step that catches it is refused all the same
        self.noise: list[tuple[Value, Source]] = []
        self.codes = step_codes(cell)
        self._codes: dict[int, CodeType] = {}  # that has run; equal code is not the same, it has numbers of its own
        self._literals: set[int] = set()  # what stands in there, by identity
        self._numbers: dict[int, tuple[float, Number]] = {}  # others, likewise; alive, so that no other gets that
        self._frames: dict[int, tuple[int, FrameType]] = {}  # in which they run, with how many others they are inside
        self._leaves: dict[int, Value] = {}  # of tensors and arrays, by identity
        self._held_as = held_as
        parameters = [*cell.named_buffers(), *cell.named_parameters()]
        self._parameter_names = {id(p): name.replace(".", "_") for name, p in parameters}
        numbers = [(x, name) for module in cell.modules() for name, x in vars(module).items() if type(x) is float]
        self._held_numbers = {id(x): name for x, name in numbers}

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
        raise self.latch(Unfusable(f"{what}{lead and f': {lead}'} ({where or user_line()})"))

    def latch(self, refusal: Unfusable) -> Unfusable:
        """The first refusal, which stands whatever the step does about it."""
        self.refused = self.refused or refusal
        return self.refused

    def untraced(self, error: Exception, where: str = "") -> Unfusable:
        """What an error says, without the number that stands for the batch."""
        plain = lambda n: "B" if int(n[0]) == self.batch else f"{int(n[0]) // self.batch} * B"
        multiple = lambda n: plain(n) if int(n[0]) and int(n[0]) % self.batch == 0 else n[0]
        text = re.sub(r"\d+", multiple, str(error))
        shapes = re.findall(r"\[(B\b[^]]*)\]", text) if "broadcast" in text else []
        if len({shape.count(",") for shape in shapes}) > 1:  # which met by chance in a batch of that size
            text += "; write g.unsqueeze(-1) * h for a number g for each row, with the batch in front of both"
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
        inner = "2 * (h - v) and its like for the gradient of a loss in the step"
        self.refuse(f"step uses {what}", f"write h.detach() for what gradients must not pass, {inner}, and no more")

    def refuse_draws(self) -> NoReturn:
        """The step draws random numbers that are not drawn for all steps at once."""
        self.refuse("step draws random numbers past rand, randn and dropout", "write tg.rand(h.shape)")

    def has_rows(self, x: Any, timed: bool = False) -> bool:
        """Whether a tensor has a row for each sequence of the batch, or (`timed`) another one at every step."""
        return isinstance(x, Symbol) and (x.value.timed if timed else x.value.per_row)

    def takes_apart(self, a: Any, b: Any, with_matrix: bool, in_order: bool) -> bool:
        """Whether a contraction is done element by element: all but products of rows with a matrix that all share."""
        product = with_matrix and not self.has_rows(b) and (in_order or math.prod(b.shape) >= composed.LARGE)
        return not product and (self.has_rows(a, True) or self.has_rows(b, True))

    def name_of(self, x: Any) -> str:
        """What the user calls a tensor, as far as can be told."""
        if isinstance(x, Symbol) and x.value.named:
            return x.value.name
        return self._held_as.get(id(x)) or _variable(lambda value: value is x)

    def shown(self, value: Value) -> tuple[str, str]:
        """What the user calls a value, and how it is turned into the dtype of the states."""
        if any(value is drawn for drawn, _ in self.noise):
            return "what tg.rand or tg.randn draws", "tg.rand(h.shape, dtype=h.dtype)"
        array = value.held.data if isinstance(value.held, tape.Value) else value.held
        for x in (value.held, array):
            if id(x) in self._held_as:
                name, to = self._held_as[id(x)], f"(np.{self.dtype.name})"
                return name, f"{name}.astype{to}" if isinstance(x, np.ndarray) else f"{name}.to{to}"
        own = re.fullmatch(r"(parameter|constant)(_\d+)?", value.name)
        name = value.name if value.named and not own else ""
        name = name or _variable(lambda x: isinstance(x, Symbol) and x.value is value)
        return name or "a value made in step", f"{name or '(...)'}.to(np.{self.dtype.name})"

    # ---- Leaves ------------------------------------------------------------------------------------------------------

    def leaf(self, name: str, kind: str, shape: Shape, dtype: Any, held: Any = None) -> Symbol:
        """A symbol for an input, a state, a parameter or a constant."""
        rate = "sequence" if kind == "given" and shape[:1] == (self.batch,) else ""
        self.values.append(leaf(self.names.new(name), kind, shape, dtype, held, rate, self.where))
        return Symbol(self.values[-1], self)

    def value_of(self, x: Any) -> Any:
        """The value of a symbol, tensor or array; a Python number as it is."""
        if isinstance(x, Symbol):
            if x.trace is not self:
                self.refuse("step uses a tensor of an earlier step", "return it as a state, which the next step gets")
            return x.value
        if type(x) is Batch:
            self.size.__float__()  # which refuses
        if isinstance(x, (bool, int, float)):
            return float(x) if isinstance(x, float) else x
        array = x.data if isinstance(x, tape.Value) else np.asarray(x)
        if array.dtype.kind not in "biuf":
            self.refuse(f"step computes with {type(x).__name__}", "write a float")
        if array.ndim == 0 and not isinstance(x, tape.Value):
            return array.item()
        key = id(x)  # of what its value keeps alive
        if key not in self._leaves:
            if self.batch in array.shape:
                return self._for_each_row(array)
            kind = "parameter" if isinstance(x, tape.Value) else "constant"
            name = self._parameter_names.get(key, kind)
            self._leaves[key] = self.leaf(name, kind, array.shape, array.dtype, x).value
        return self._leaves[key]

    def _for_each_row(self, array: np.ndarray) -> Value:
        """An array that the step makes with a row for each sequence, such as `zeros(h.shape)`: the same for all."""
        if array.shape.index(self.batch) or not (array == array[:1]).all():
            self.refuse(
                "step makes an array with a row for each of the batch",
                "make it of a state or draw it, such as h * 0 + 1 and tg.rand(h.shape)",
            )
        row = array[:1].copy()
        one = self.leaf("constant", "constant", row.shape, row.dtype, row).value
        return self.apply(table.expand, one, shape=array.shape)

    def zeros(self, shape: Shape, dtype: np.dtype) -> Value:
        return self._for_each_row(np.zeros(shape, dtype))

    def is_batch(self, n: int) -> bool:
        return n == self.batch

    def number(self, x: float) -> float:
        """A number as an operand: an argument of kernels, unless it stands in the code that runs or is none of ours."""
        if id(x) in self._literals or x != x or abs(x) == math.inf:
            return x
        if id(x) not in self._numbers:
            number = Number(x)
            number.name = self.names.new(self._held_numbers.get(id(x), "number"))
            self._numbers[id(x)] = x, number
        return self._numbers[id(x)][1]

    def draw(self, source: Source, shape: Any, dtype: Any) -> Symbol:
        """Called in place of drawing random numbers: a symbol for an input that is drawn for all steps at once."""
        self.where = self._look_around()
        sizes = ["B" if type(n) is Batch or n == self.batch else n for n in shape]
        if sizes[:1] != ["B"]:
            self.refuse(
                f"step draws random numbers of shape [{', '.join(map(str, sizes))}], not a row for each of the batch",
                "write h.shape, or h.shape[0], 1 for one number a row",
            )
        symbol = self.leaf("random", "input", (self.batch, *shape[1:]), dtype)
        self.noise.append((symbol.value, source))
        return symbol

    # ---- Operations --------------------------------------------------------------------------------------------------

    def record(self, row: Primitive, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """Called in place of the operation: a symbol for its result."""
        if not any(isinstance(x, tape.Value) for x in inputs):
            return row.forward(*inputs, **attributes)
        self.where = self._look_around()
        operands = list(map(self.value_of, inputs))
        attributes = {name: self._plain(name, value) for name, value in attributes.items()}
        if isinstance(row, ElementwisePrimitive) and row not in (table.pow, table.clip_gradient):
            operands = [self.number(x) if isinstance(x, float) else x for x in operands]
            attributes = {name: self.number(x) if type(x) is float else x for name, x in attributes.items()}
        try:
            shape = row.shape(*(x.shape if isinstance(x, Value) else () for x in operands), **attributes)
        except Exception as error:  # which is no reason for another way through the step: it may fit another batch
            self.latch(self.untraced(error, self.where))
            raise
        try:
            self._check(row, operands, attributes, shape)
            if row in COMPARISONS and any(isinstance(x, Value) and x.dtype == FLOAT32 for x in operands):
                operands = [float(np.float32(x)) if isinstance(x, float) else x for x in operands]  # as compared
            return Symbol(self.add(row, operands, attributes, shape), self)
        except Unfusable as refusal:
            raise self.latch(refusal) from None
        except Exception as error:
            raise self.latch(CompilerError.of(error, self.where)) from error

    def _plain(self, name: str, value: Any) -> Any:
        """An attribute, in which only a shape may speak of the batch."""
        if name == "shape":
            return tuple([self.batch if type(n) is Batch else n for n in value])
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, tape.Value):
                self.refuse_numbers(part)
            ends = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
            if any(type(n) is Batch for n in ends):
                self.size.__float__()  # which refuses
        return value

    def _check(self, row: Primitive, operands: list[Any], attributes: dict[str, Any], shape: Shape) -> None:
        """Refuse an operation that kernels would get wrong."""
        wrong = soundness.rows_apart(row, operands, attributes, shape, self.batch, called(row.name))
        wrong = wrong or soundness.linear(row, operands)
        if wrong is None and any(isinstance(x, Value) and x.timed for x in operands):
            wrong = soundness.one_dtype(row, operands, attributes, self.dtype, self.shown)
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
        values = [self.value_of(x) for x in others if not np.ndim(x) == 0 or isinstance(x, tape.Value)]
        values = [x for x in values if isinstance(x, Value)]
        return soundness.foreign(values[0], self.dtype, self.shown) if values and dtype.kind == "f" else None

    # ---- The program -------------------------------------------------------------------------------------------------

    def program(self, leaves: Iterable[Symbol], outputs: list[Value]) -> Program:
        """What was traced, under the names of the user's variables; of any batch."""
        states = [value for value in self.values if value.kind == "state"]
        own = {id(symbol) for symbol in leaves}
        named = {value: value.name for value in self.values if value.named}
        # What has no name of the user's is named once more, after all that has one; first what outputs need.
        self.names = Names(RESERVED, FORMS, {*named.values(), *(x.name for _, x in self._numbers.values())}, self.names)
        for name, x in self.variables():
            if isinstance(x, Symbol) and id(x) not in own and x.value not in named:
                named[x.value] = self.names.new(f"{name}_new" if name in self.names else name, name)
        for state, output in zip(states, outputs):
            if output not in named:
                named[output] = self.names.new(f"{state.name}_new")
        needed = needed_for(outputs, lambda value: False)
        new: dict[Value, Value] = {}
        for value in sorted(self.values, key=lambda value: value not in needed):
            inputs = tuple([new[x] if isinstance(x, Value) else x for x in value.inputs])
            shape = (BATCH, *value.shape[1:]) if value.per_row else value.shape
            attributes = sized(value.attributes, BATCH)
            assert value in named or value.row is not None
            name = named.get(value) or name_of(self.names, value.row, inputs, attributes)  # type: ignore[arg-type]
            new[value] = dataclasses.replace(
                value, name=name, named=value in named, shape=shape, inputs=inputs, attributes=attributes
            )
        noise = [value for value, _ in self.noise]
        kinds = lambda *kinds: tuple(new[x] for x in self.values if x.kind in kinds and x not in noise)
        return Program(
            self.names, tuple(new[x] for x in self.values), kinds("input"), kinds("given"),
            kinds("parameter", "constant"), tuple(new[x] for x in noise), kinds("state"),
            tuple(new[x] for x in outputs),
        )  # fmt: skip


def _variable(is_meant: Callable[[Any], bool]) -> str:
    """The name of the user's variable whose value is meant; "" if there is none."""
    return next((name for name, x in user_frame().f_locals.items() if is_meant(x)), "")


def trace_step(cell: Any, sequence: "Sequence") -> Traced:
    """Run `cell.step` on symbols for what it is run over.

    It is run twice, with two numbers in place of the size of the batch: both times it must do the same.

    Raises:
        Unfusable: the step cannot become a kernel.
        CompilerError: tracing failed, which is no fault of the step.
    """
    tensors, codes = reach_of(cell)
    widths = {n for x in (*sequence.states, *sequence.values.values()) for n in x.shape[1:]}
    sizes = stand_ins(widths.union(*(x.shape for _, x in tensors), (x.shape[2] for x in sequence.inputs)))
    once = lambda: _trace_once(cell, sequence, tensors, codes, next(sizes))

    def twice() -> Traced:
        first = once()
        if listener.between is not None:
            listener.between()
        compare(first.program, once().program)
        return first

    try:
        return twice()
    except CompilerError:
        raise
    except Unfusable:  # unless it was a width that is made in the step and has the number of the batch
        return twice()


def _trace_once(
    cell: Any, sequence: "Sequence", tensors: list[tuple[str, Any]], codes: set[CodeType], batch: int
) -> Traced:
    """The trace for one number in place of the size of the batch."""
    single = not sequence.several  # whether step takes its one input as it is, rather than in a tuple
    trace = Trace(cell, {id(x): name for name, x in tensors}, batch, sequence.inputs[0].dtype)
    symbol = lambda name, kind, x, inner: trace.leaf(name, kind, (batch, *inner), x.dtype)
    inputs = enumerate(sequence.inputs, 1)
    xs = [symbol("x" if single else f"x_{i}", "input", x, (x.shape[2],)) for i, x in inputs]
    symbols = [symbol(name, "state", x, x.shape[1:]) for name, x in zip(cell.state_names, sequence.states)]
    by_name = {name: symbol(name, "given", x, x.shape[1:]) for name, x in sequence.values.items()}
    try:
        with Locals(cell):  # what these values are made of may change as well
            of_sequence = cell._values_of_sequence(batch)
        given = [
            (owner, {name: trace.leaf(name, "given", value.shape, value.dtype) for name, value in held.items()})
            for owner, held in of_sequence
        ]
        leaves = [*xs, *symbols, *by_name.values(), *(symbol for _, held in given for symbol in held.values())]
        numbers_drawn = get_rng_state()
        held = [x for _, x in tensors]
        with watched(held), set_mode("tracer", trace), cell._holding(given), Locals(cell), latching(trace, codes):
            returned = cell.step(xs[0] if single else tuple(xs), *symbols, **by_name)
    except Unfusable as error:
        raise trace.latch(error) from None
    except Exception as error:  # whatever the user's code raises: the tape will raise it again, in its own words
        if trace.refused is not None:
            raise trace.refused from None
        if innermost(error).startswith(HERE):
            raise CompilerError.of(error, step_line(cell)) from error
        raise trace.untraced(error) from error
    if trace.refused is not None:
        raise trace.refused
    if get_rng_state() != numbers_drawn:
        raise Unfusable(f"step draws random numbers past rand, randn and dropout ({step_line(cell)})")
    outputs = values_returned(returned, symbols, step_line(cell), trace)
    sources, owners = tuple(source for _, source in trace.noise), tuple(owner for owner, _ in given)
    return Traced(trace.program(leaves, outputs), sources, owners)
