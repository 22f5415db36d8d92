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

import keyword
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state
from ..autograd.primitive import FLOAT32, FLOAT64, ElementwisePrimitive, Primitive, Shape
from ..autograd.tape import Value, set_mode, user_line
from ..autograd.tensor import Tensor

# Names that generated code needs for itself; a variable of the user's that has one gets an underscore.
RESERVED = {
    "T", "H", "t", "row", "j", "lo", "hi", "top", "starts", "old", "new", "now", "keep", "min", "real", "dy", "njit",
    "range", "at", "distinct", "matrix", "multiply", "panels", "shift", "forward", "backward", "CACHE", "JIT", "REDUCE",
    "concatenate", "copy", "empty", "packed", "product",
    *(row.name for row in table.TABLE.values()),
}  # fmt: skip
# Sizes, arrays, elements of arrays.
RESERVED_FORMS = re.compile(r"H_\d+|dy_\w+|\w+_(j|in|saved|buffer|packed|all|sum|zero|(out|copy)(_\d+)?)")
# These stand for the batch size, whatever it is: primes that no layer is likely to be as wide as.
BATCH, OTHER_BATCH = 1009, 1013


class Unfusable(Exception):
    """A step that cannot become a kernel; the message says where and why."""


class Line:
    """One operation of a step, or one of its inputs.

    Attributes:
        name: unique within the trace.
        row: the primitive; None for an input, a parameter or a constant.
        inputs: the lines it reads, and Python numbers.
        shape: with BATCH where the batch is.
        per_row: whether it has a value for each row of the batch, rather than one for all.
        width: the number of elements in a row.
        kind: "input", "state", "given" (for the whole sequence), "parameter", "constant" or "operation".
        value: of a parameter, the tensor; of a constant, the array.
        named: whether the name is the user's.
    """

    __slots__ = ("attributes", "dtype", "inputs", "kind", "name", "named", "per_row", "row", "shape", "value", "width")

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
    ) -> None:
        self.name, self.kind, self.shape, self.dtype = name, kind, shape, dtype
        self.row, self.inputs, self.attributes, self.value = row, list(inputs), attributes or {}, value
        self.named = kind != "operation"  # by the user
        self.per_row = bool(shape) and shape[0] in (BATCH, OTHER_BATCH)
        self.width = shape[-1] if len(shape) > self.per_row else 1

    @property
    def nameless(self) -> bool:
        """Whether the equation says more than the name."""
        return not self.named and (self.row is table.mul or re.fullmatch(r"v(_\d+)?", self.name) is not None)

    def __repr__(self) -> str:
        shape = ", ".join("B" if n in (BATCH, OTHER_BATCH) else str(n) for n in self.shape)
        if self.row is None:
            return f"{self.name}[{shape}]: {self.kind}"
        arguments = [getattr(x, "name", repr(x)) for x in self.inputs]
        arguments += [f"{name}={shown(value)}" for name, value in self.attributes.items()]
        return f"{self.name}[{shape}] = {self.row.name}({', '.join(arguments)})"


def shown(attribute: Any) -> str:
    """An attribute of an operation as text, with B for the batch."""
    return re.sub(rf"\b({BATCH}|{OTHER_BATCH})\b(?=[,)])", "B", repr(attribute))


class Shadow(np.ndarray):
    """An array that has a shape and a dtype, and refuses to show its numbers."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise Unfusable(f"step looks at the numbers of a tensor ({user_line()})")

    __array_ufunc__ = __array_function__ = _refuse
    __bool__ = __float__ = __int__ = __index__ = __iter__ = __getitem__ = _refuse
    item = tolist = astype = sum = max = min = any = all = argmax = argmin = copy = __array__ = _refuse

    @staticmethod
    def of(shape: Shape, dtype: np.dtype) -> "Shadow":
        return np.broadcast_to(np.zeros((), dtype), shape).view(Shadow)


class Symbol(Tensor):
    """A tensor that stands for a line."""

    __slots__ = ("line",)

    def __init__(self, line: Line) -> None:
        super().__init__(Shadow.of(line.shape, line.dtype))
        self.line = line

    def numpy(self) -> np.ndarray:
        return self.data._refuse()  # type: ignore[attr-defined]

    def detach(self) -> Any:
        return table.detach(self)

    def __repr__(self) -> str:
        return f"Symbol({self.line!r})"


class Trace:
    """The lines of a step, in the order in which they ran."""

    def __init__(self, parameter_names: dict[int, str], batch: int = BATCH) -> None:
        self.lines: list[Line] = []
        self.batch = batch
        self.pieces: dict[Line, dict[tuple[int, int], Line]] = {}  # lines of which parts are computed by themselves
        self.skipped: set[Line] = set()  # lines of which a part was taken from what they are made of
        self.given: list[Line] = []  # what cells hold for a whole sequence
        self.owners: list[Any] = []  # these cells
        self.drawn: list[tuple[Line, Callable[[Shape], np.ndarray]]] = []  # random numbers, new ones for each step
        self._names: dict[str, int] = {}
        self._known: dict[Any, Line] = {}
        self._parameter_names = parameter_names

    # ---- Leaves ------------------------------------------------------------------------------------------------------

    def leaf(self, name: str, kind: str, shape: Shape, dtype: np.dtype, value: Any = None) -> Symbol:
        """A symbol for an input, a state, a parameter or a constant."""
        line = Line(self.unique(name), kind, shape, np.dtype(dtype), value=value)
        self.lines.append(line)
        return Symbol(line)

    def line_of(self, x: Any) -> Any:
        """The line of a symbol, tensor or array; a Python number as it is."""
        if isinstance(x, Symbol):
            return x.line
        if isinstance(x, (bool, int, float)):
            return x
        array = x.data if isinstance(x, Value) else np.asarray(x)
        if isinstance(array, Shadow):
            raise Unfusable(f"detach() inside step ({user_line()})")
        if array.ndim == 0 and not isinstance(x, Value):
            return array.item()
        key = id(x)
        if key not in self._known:
            if (array.ndim > 2 and key not in self._parameter_names) or self.batch in array.shape:
                raise Unfusable(f"step makes an array of shape {list(array.shape)} anew ({user_line()})")
            kind = "parameter" if isinstance(x, Value) else "constant"
            name = self._parameter_names.get(key, kind)
            self._known[key] = self.leaf(name, kind, array.shape, array.dtype, value=x).line
        return self._known[key]

    def draw(self, source: Callable[[Shape], np.ndarray], shape: Shape, dtype: Any) -> Symbol:
        """Called in place of drawing random numbers: a symbol for an input that is drawn for all steps at once."""
        if len(shape) != 2 or shape[0] != self.batch:
            raise Unfusable(
                f"step draws random numbers of shape {list(shape)}, not a row for each of the batch ({user_line()})"
            )
        symbol = self.leaf("random", "input", shape, dtype)
        self.drawn.append((symbol.line, source))
        return symbol

    # ---- Operations --------------------------------------------------------------------------------------------------

    def record(self, row: Primitive, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Called in place of the operation: a symbol for its result."""
        if not any(isinstance(x, Value) for x in inputs):
            return row.forward(*inputs, **attributes)
        lines = [self.line_of(x) for x in inputs]
        shape = row.shape(*(x.shape if isinstance(x, Line) else () for x in lines), **attributes)
        return Symbol(self.add(row, lines, attributes, shape))

    def add(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any], shape: Shape) -> Line:
        """A line, or the one that is there already and says the same."""
        simpler = self._simplify(row, inputs, attributes, shape)
        if simpler is not None:
            return simpler
        key = (row.name, tuple(x if isinstance(x, Line) else repr(x) for x in inputs), repr(attributes))
        if key not in self._known or row is table.clip_gradient:  # which clips what comes back to each call by itself
            dtype = _dtype(row, inputs, attributes)
            line = Line(self._name(row, inputs, attributes), "operation", shape, dtype, row, inputs, attributes)
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
        if row is table.cast and attributes["dtype"] == x.dtype:
            return x
        return None

    def _part(self, x: Line, first: int, last: int, whole: Line) -> Line:
        """Columns [first, last) of an operand of `whole`; an operand of one column stays as it is."""
        if not x.shape or (x.width == 1 and whole.width != 1) or (first, last) == (0, x.width):
            return x
        at = (*[slice(None)] * (len(x.shape) - 1), slice(first, last))
        return self.add(table.part, [x], {"at": at}, (*x.shape[:-1], last - first))

    def forget_all_but(self, lines: set[Line]) -> None:
        """Let new lines be the same as these and no others: nothing else will be computed."""
        self._known = {key: line for key, line in self._known.items() if line.kind != "operation" or line in lines}

    # ---- Names -------------------------------------------------------------------------------------------------------

    def unique(self, name: str) -> str:
        """A name that no line has yet."""
        if name in RESERVED or keyword.iskeyword(name) or RESERVED_FORMS.fullmatch(name):
            name += "_"
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if not count else self.unique(f"{name}_{count + 1}")

    def _name(self, row: Primitive, inputs: list[Any], attributes: dict[str, Any]) -> str:
        names = [x.name for x in inputs if isinstance(x, Line)]
        if row is table.permute:
            return self.unique(f"{names[0]}_T")
        if row is table.matmul:
            return self.unique("_".join(names))
        if row is table.mul and len(names) == 2 and len("".join(names)) <= 8:
            return self.unique("v" if any(x.nameless for x in inputs) else "_".join(names))
        if row is table.part and is_view(inputs[0], attributes["at"]):
            first, last = _columns(inputs[0], attributes["at"])
            return self.unique(f"{names[0]}_{first // max(last - first, 1)}")
        return self.unique(f"{row.name}_{names[0]}" if len(inputs) == 1 else "v")

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
        self._names = {line.name: 1 for line in self.lines if line.named}
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
    inputs: Sequence[tuple[Shape, np.dtype]],
    states: Sequence[tuple[str, Shape, np.dtype]],
    single: bool = True,
    batch: int = BATCH,
) -> tuple[Trace, list[Line]]:
    """Run `cell.step` on symbols; returns the trace and the lines of the new states.

    Args:
        inputs: shapes and dtypes of what arrives at each step, with `batch` where the batch is.
        states: names, shapes and dtypes.
        single: whether step takes its one input as it is, rather than in a tuple.
    """
    named = [*cell.named_buffers(), *cell.named_parameters()]
    trace = Trace({id(p): name.replace(".", "_") for name, p in named}, batch)
    xs = [trace.leaf("x" if single else f"x_{i}", "input", *each) for i, each in enumerate(inputs, 1)]
    symbols = [trace.leaf(name, "state", shape, dtype) for name, shape, dtype in states]
    with Locals(cell):  # what these values are made of may change as well
        held = cell.values_of_sequence(batch)
    given = [
        (owner, {name: trace.leaf(name, "given", value.shape, value.dtype) for name, value in values.items()})
        for owner, values in held
    ]
    trace.owners = [owner for owner, _ in given]
    trace.given = [symbol.line for _, values in given for symbol in values.values()]
    leaves = [*xs, *symbols, *(symbol for _, values in given for symbol in values.values())]
    numbers_drawn = get_rng_state()
    with set_mode("tracer", trace), cell.holding(given), Locals(cell) as variables:
        returned = cell.step(xs[0] if single else tuple(xs), *symbols)
    if get_rng_state() != numbers_drawn:
        raise Unfusable("step draws random numbers past rand, randn and dropout")
    new = returned if isinstance(returned, (tuple, list)) else (returned,)
    outputs = []
    for state, symbol in zip(symbols, new):
        if not isinstance(symbol, Symbol):
            raise Unfusable("step returns a tensor that depends on no input")
        if symbol.line.shape != state.line.shape or symbol.line.dtype != state.line.dtype:
            raise Unfusable(f"step returns a {state.line.name} of another shape or dtype than it came in with")
        outputs.append(symbol.line)
    if len(outputs) != len(symbols) or len(new) != len(outputs):
        raise Unfusable("step returns another number of states than it takes")
    trace.name_after([(name, value) for name, value in variables if not any(value is leaf for leaf in leaves)])
    for state, line in zip(symbols, outputs):
        trace.rename(line, f"{state.line.name}_new")
    trace.name_rest(outputs)
    return trace, outputs


def check_other_batch(lines: list[str], cell: Any, inputs: Any, states: Any, single: bool) -> None:
    """Trace a second time with another number in place of the batch size, and compare with the lines of the first.

    Raises:
        Unfusable: one differs, so step computes with the batch size.
    """
    other = lambda shape: tuple(OTHER_BATCH if n == BATCH else n for n in shape)
    again, _ = trace_step(
        cell,
        [(other(shape), dtype) for shape, dtype in inputs],
        [(name, other(shape), dtype) for name, shape, dtype in states],
        single,
        OTHER_BATCH,
    )
    for line, other_line in zip(lines, map(repr, again.lines)):
        if line != other_line:
            raise Unfusable(f"step computes with the size of the batch: {line}")


def _dtype(row: Primitive, inputs: list[Any], attributes: dict[str, Any]) -> np.dtype:
    if row is table.cast:
        return np.dtype(attributes["dtype"])
    if not row.rules and row is not table.detach:
        return np.dtype(np.bool_)
    kinds = {x.dtype for x in inputs if isinstance(x, Line) and x.dtype.kind == "f"}
    if len(kinds) > 1 or not kinds <= {FLOAT32, FLOAT64}:
        raise Unfusable(f"{row.name} of different dtypes ({user_line()})")
    return kinds.pop() if kinds else FLOAT32


def sized(attributes: dict[str, Any], rows: int) -> dict[str, Any]:
    """Attributes for so many rows in place of BATCH."""
    if BATCH not in attributes.get("shape", ()):
        return attributes
    return attributes | {"shape": tuple(rows if n == BATCH else n for n in attributes["shape"])}


def is_view(x: Line, at: Any) -> bool:
    """Whether a kernel reads x[at] in place, from x. Other parts, of parameters, are computed once a call."""
    *ahead, last = at
    in_place = len(at) == len(x.shape) and x.shape[:-1] in ((), (1,)) and ahead == [slice(None)] * len(ahead)
    return x.per_row or (in_place and isinstance(last, slice) and last.step in (None, 1))


def _columns(x: Line, at: Any) -> tuple[int, int]:
    """The columns that an index takes, if it takes whole rows of neighbouring ones."""
    *ahead, last = at
    ahead = [i for i in ahead if i is not ...]
    if any(i != slice(None) for i in ahead) or len(ahead) != len(x.shape) - 1:
        raise Unfusable(f"an index into something else than the last dimension ({user_line()})")
    if isinstance(last, int):
        raise Unfusable(f"an index that takes a single column: write {last}:{last + 1} ({user_line()})")
    first, end, stride = last.indices(x.shape[-1])
    if stride != 1:
        raise Unfusable(f"a slice with a stride ({user_line()})")
    return first, max(end, first)


class _Listener(threading.local):
    """Who is told of every function that a step calls while it is traced."""

    called: Callable[[FrameType], None] | None = None


listener = _Listener()


class Locals:
    """The local variables of a cell's `step`, and of those of cells inside it, at their return: for their names."""

    def __init__(self, cell: Any) -> None:
        steps = [getattr(type(module), "step", None) for module in cell.modules()]
        self.codes = {getattr(step, "__code__", None) for step in steps}
        self.found: list[tuple[str, Any]] = []

    def __enter__(self) -> list[tuple[str, Any]]:
        self.profile, self.trace = sys.getprofile(), sys.gettrace()
        # A profiler written in C cannot be put back once it was replaced.
        self.beside = self.profile is not None and not callable(self.profile)
        if self.beside:
            sys.settrace(self._enter_frame)
        else:
            sys.setprofile(self._watch)
        return self.found

    def __exit__(self, *error: object) -> None:
        if self.beside:
            sys.settrace(self.trace)
        else:
            sys.setprofile(self.profile)

    def _enter_frame(self, frame: FrameType, event: str, value: Any) -> Any:
        if listener.called is not None:
            listener.called(frame)
        return self._watch if frame.f_code in self.codes else None

    def _watch(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == "return" and frame.f_code in self.codes:
            self.found += frame.f_locals.items()
        elif event == "call" and listener.called is not None:
            listener.called(frame)
        return self._watch
