"""Whether a cell keeps the contract of `nn.Cell`: `check_cell(MyCell(3, 4))` tries all of it and reports every failure.

    >>> import tinygrad_rnn as tg
    >>> print(tg.testing.check_cell(tg.nn.GRUCell(3, 4), only=["signature", "states", "rows", "gradients"]))
    GRUCell: 4 checks passed
        passed: signature, states, rows, gradients

What fails is told all at once, each with the line to mend:

    >>> class Forgets(tg.nn.RNNCell):
    ...     def step(self, x, h):
    ...         return super().step(x, h.detach())
    >>> report = tg.testing.check_cell(Forgets(3, 4), only=["signature", "states", "gradients"], raises=False)
    >>> [failure.check for failure in report.failures]
    ['gradients']

In a test file of your own, one test a check:

    @tg.testing.parametrize_with_checks([lambda: MyCell(3, 4)])
    def test_my_cell(make, check):
        tg.testing.check_cell(make(), only=[check])
"""

import copy
import inspect
import pickle
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .autograd.creation import get_rng_state, set_rng_state, tensor
from .autograd.gradcheck import GradcheckError, gradcheck
from .autograd.gradients import grad
from .autograd.tape import Node, no_grad
from .autograd.tensor import Tensor
from .nn.cell import Cell, as_states
from .nn.module import Parameter
from .nn.recurrent import Recurrent
from .nn.regularised import CellWrapper
from .nn.utils.parametrize import only_looking

FIRST = ("signature", "states")  # without which nothing can be tried


class Failure(NamedTuple):
    """What is wrong with a cell.

    Attributes:
        check: which check found it.
        message: what it is, and what to write instead.
        line: where: `file:line: text`.
    """

    check: str
    message: str
    line: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}\n        {self.line}"


class CellReport(NamedTuple):
    """What `check_cell` found; prints as a list.

    Attributes:
        cell: its class.
        passed: the checks that found nothing.
        failures: what the others found.
        notes: what is no failure, such as why a cell runs on the tape.
        untried: the checks that say nothing of this cell, such as "engines" of one that cannot be compiled.
    """

    cell: str
    passed: list[str]
    failures: list[Failure]
    notes: list[str]
    untried: list[str]

    def __str__(self) -> str:
        lines = [f"{self.cell}: {len(self.passed)} check{'s' * (len(self.passed) != 1)} passed"]
        if self.failures:
            lines[0] += f", {len(self.failures)} failure{'s' * (len(self.failures) != 1)}"
        lines += [f"    {failure}" for failure in self.failures]
        lines += [f"    note: {note}" for note in self.notes]
        lists = {"passed": self.passed, "not tried": self.untried}
        return "\n".join([*lines, *(f"    {title}: {', '.join(names)}" for title, names in lists.items() if names)])


class CellCheckError(AssertionError):
    """A cell does not keep the contract; the message has every failure.

    Attributes:
        report: what was found.
    """

    def __init__(self, report: CellReport) -> None:
        super().__init__(str(report))
        self.report = report


def check_cell(
    cell: Cell, *, input_size: int | None = None, values: dict[str, Any] | None = None,
    only: Iterable[str] | None = None, skip: Iterable[str] = (), raises: bool = True,
) -> CellReport:  # fmt: skip
    """Check a cell against the whole contract, in small sizes, on both engines; the cell is left as it was.

        >>> import tinygrad_rnn as tg
        >>> report = tg.testing.check_cell(tg.nn.RNNCell(3, 2), only=["states", "rows", "lengths"])
        >>> report.passed, report.failures
        (['states', 'rows', 'lengths'], [])

    Args:
        cell: it has the sizes that it is tried with: small ones, such as MyCell(3, 4), take seconds.
        input_size: I, the width of x [T, B, I]; `cell.input_size` by default, or a width that its step takes.
        values: what `step` takes by name, arrays [2, ...] with a row for each of two sequences.
        only, skip: names of `CHECKS`. Skip "gradients" where a gradient is meant to be another one than the slope, as
            that of `clip_gradient`.
        raises: whether to raise where something fails, rather than return the report.

    Raises:
        CellCheckError: something fails: all of it is told at once.
        ValueError: there is no such check.
    """
    names = list(CHECKS if only is None else only)
    for name in [*names, *(skip := set(skip))]:
        if name not in CHECKS:
            raise ValueError(f"check_cell: there is no check {name!r}; there are {', '.join(CHECKS)}")
    names = [name for name in names if name not in skip]
    report = CellReport(type(cell).__name__, [], [], [], [])
    subject, drawn = Subject(cell, input_size, dict(values or {}), report), get_rng_state()
    for name in [*(first for first in FIRST if first not in names), *names]:
        with only_looking():  # or both engines would have another weight where each sequence changes what it is made of
            found = subject.failures_of(name)
        report.failures.extend(found)
        if not found and name in names and name not in report.untried:
            report.passed.append(name)
        if found and (name in FIRST or subject.differs):
            report.notes.append("the other checks need a step that runs, and does so twice alike")
            report.untried.extend(each for each in names if each not in report.passed and each != name)
            break
    set_rng_state(drawn)  # nobody's weights depend on whether a cell was checked
    if report.failures and raises:
        raise CellCheckError(report)
    return report


def parametrize_with_checks(makers: Sequence[Callable[[], Cell]], only: Iterable[str] | None = None) -> Any:
    """A decorator: a test with arguments `make` and `check`, once for each cell and check.

        >>> import tinygrad_rnn as tg
        >>> mark = tg.testing.parametrize_with_checks([lambda: tg.nn.GRUCell(3, 4)], only=["rows"])
        >>> mark.name, len(mark.args[1])
        ('parametrize', 1)

    Args:
        makers: functions that make a cell.
        only: the names of checks; all of `CHECKS` by default.

    Raises:
        ImportError: pytest is not installed.
    """
    import pytest

    names = list(CHECKS if only is None else only)
    title = lambda make: getattr(make, "__name__", "<lambda>").replace("<lambda>", type(make()).__name__)
    cases = [pytest.param(make, name, id=f"{title(make)}-{name}") for make in makers for name in names]
    return pytest.mark.parametrize(("make", "check"), cases)


# ---- What is tried ---------------------------------------------------------------------------------------------------


class Subject:
    """A cell while it is checked.

    Attributes:
        T, B, I: the sizes of x, I once it is known.
        values: what step takes by name.
        why_not: why the cell cannot be compiled; "" if it can.
        differs: whether two calls gave different results, so that no comparison says anything.
    """

    T, B = 3, 2

    def __init__(self, cell: Any, input_size: int | None, values: dict[str, Any], report: CellReport) -> None:
        self.cell, self.wanted, self.report = cell, input_size, report
        self.values = {name: np.asarray(x.data if isinstance(x, Tensor) else x) for name, x in values.items()}
        self.B = next((len(x) for x in self.values.values()), self.B)
        self.I, self.differs = 0, False
        self._why_not: str | None = None

    def failures_of(self, check: str) -> list[Failure]:
        """What a check finds; an error that it does not expect is a failure as well."""
        found: list[Failure] = []
        with _restored(self.cell):
            if isinstance(self.cell, Cell):
                self.cell.eval()
                self.convert(np.float64)
            try:
                for message, *line in CHECKS[check](self):
                    found.append(Failure(check, message, line[0] if line else line_of_step(self.cell)))
            except Exception as error:
                found.append(Failure(check, f"{type(error).__name__}: {error}", line_of_error(error, self.cell)))
        return found

    def convert(self, dtype: Any) -> None:
        """Give all parameters this dtype, and numbers that are none of the usual zeros and ones."""
        rng = np.random.default_rng(1)
        for p in [*self.cell.parameters(), *self.cell.buffers()]:
            if p.data.dtype.kind == "f":
                factor = 1 + 0.05 * rng.standard_normal(p.shape)
                shift = 0.02 * rng.standard_normal(p.shape)
                p.data = (p.data * factor + shift).astype(dtype) if isinstance(p, Parameter) else p.data.astype(dtype)
                p.grad = None

    def find_width(self) -> None:
        """The width of inputs: what the cell says, or what its step takes."""
        known = self.wanted or self.cell.input_size
        shapes = [p.shape for p in self.cell.parameters() if p.ndim == 2]
        guesses = [known] if known else list(dict.fromkeys([*(n for shape in shapes for n in shape), 3]))
        for guess in guesses:
            self.I = guess
            try:
                with no_grad():
                    self.cell(self.x()[0], **self.given())
                return
            except Exception:
                continue
        self.I = guesses[0]

    def x(self, dtype: Any = np.float64, T: int = T, B: int | None = None, seed: int = 0) -> Tensor:
        """An input [T, B, I]."""
        shape = (T, self.B if B is None else B, self.I)
        return tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))

    def hx(self, dtype: Any = np.float64) -> tuple[Tensor, ...]:
        """States that the cell comes to: no others, such as half a step of one that counts them."""
        with no_grad():
            states = self.run("never", self.x(dtype, T=2, seed=5))[1:]
        return tuple(tensor(state.data) for state in states)

    def given(self, dtype: Any = np.float64, rows: Any = slice(None)) -> dict[str, Tensor]:
        """What step takes by name."""
        floats = lambda x: x.astype(dtype) if x.dtype.kind == "f" else x
        return {name: tensor(floats(x)[rows]) for name, x in self.values.items()}

    @property
    def why_not(self) -> str:
        if self._why_not is None:
            try:
                self.run("require", self.x())
                self._why_not = ""
            except NotImplementedError as error:
                self._why_not = str(error)
        return self._why_not

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that run the cell."""
        return ("never",) if self.why_not else ("never", "require")

    def run(self, engine: str, x: Tensor, hx: Any = None, values: Any = None, **options: Any) -> list[Tensor]:
        """The outputs at all steps, and the final states."""
        reverse = options.pop("reverse", False)
        values = self.given(x.dtype) if values is None else values
        y, states = Recurrent(self.cell, reverse, engine)(x, hx, **options, **values)
        return [y, *as_states(states)]

    def gradients(self, engine: str, seed: int = 0) -> list[np.ndarray]:
        """Results, and the gradients of one number made of them: of x, the first states and all parameters."""
        x, hx = self.x(seed=seed).requires_grad_(), [s.requires_grad_() for s in self.hx()]
        results = self.run(engine, x, tuple(hx))
        wanted = [x, *hx, *self.learned().values()]
        found = grad([weighted(results)], wanted, allow_unused=True)
        none = [np.zeros(p.shape) if g is None else g.data for p, g in zip(wanted, found)]
        return [*(r.data for r in results), *none]

    def learned(self) -> dict[str, Parameter]:
        """The parameters that want a gradient."""
        return {name: p for name, p in self.cell.named_parameters() if p.requires_grad}


def weighted(results: Iterable[Tensor]) -> Tensor:
    """One number made of all results."""
    rng = np.random.default_rng(3)
    total: Any = 0.0
    for y in results:
        if y.node is not None:
            total = total + (y * tensor(rng.standard_normal(y.shape).astype(y.dtype))).sum()
    return total if isinstance(total, Tensor) else tensor(0.0, requires_grad=True)


class _restored:
    """Context manager: a cell has all its attributes, numbers and gradients as before, whatever was tried."""

    def __init__(self, cell: Any) -> None:
        self.modules = [(m, dict(vars(m))) for m in cell.modules()] if isinstance(cell, Cell) else []
        tensors = [*cell.parameters(), *cell.buffers()] if isinstance(cell, Cell) else []
        self.tensors = [(p, p.data, p.data.copy(), p.grad) for p in tensors]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for module, attributes in self.modules:
            for name in [name for name in vars(module) if name not in attributes and not name.startswith("_")]:
                delattr(module, name)
            for name, value in attributes.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)
        for p, array, numbers, gradient in self.tensors:
            array[...] = numbers
            p.data, p.grad = array, gradient


# ---- Which line ------------------------------------------------------------------------------------------------------


def line_of_step(cell: Any, pattern: str = "", method: str = "step") -> str:
    """The first line of a method that matches, or the one that defines it, as `file:line: text`."""
    kind = type(innermost(cell))
    function = inspect.unwrap(getattr(kind, method, None) or kind)
    try:
        lines, first = inspect.getsourcelines(function)
        path = inspect.getsourcefile(function)
    except (TypeError, OSError):
        return f"{kind.__module__}.{kind.__qualname__}.{method}"
    found = [i for i, line in enumerate(lines) if pattern and re.search(pattern, line.partition("#")[0])]
    at = found[0] if found else next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    return f"{path}:{max(first, 1) + at}: {lines[at].strip()}"


def innermost(cell: Any) -> Any:
    """The cell that is in the library's wrappers, such as `Zoneout`: what is to be mended is there."""
    while isinstance(cell, CellWrapper) and type(cell).__module__ == CellWrapper.__module__:
        cell = cell.cell
    return cell


def line_of_error(error: BaseException, cell: Any) -> str:
    """The innermost line of the user's that raised it; that of the step if it is none of theirs."""
    kinds = {kind for kind in type(innermost(cell)).__mro__ if kind.__module__ not in _BASES}
    own = {f.__code__.co_filename for kind in kinds for f in vars(kind).values() if hasattr(f, "__code__")}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    named = re.search(r"(\S+\.py:\d+)", str(error))
    if not frames and ".step returned " in str(error):
        return line_of_step(cell, r"^\s*return\b")
    if not frames:
        return f"{named[1]}: see the message" if named else line_of_step(cell)
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"


_BASES = {"builtins", "tinygrad_rnn.nn.cell", "tinygrad_rnn.nn.module"}

# ---- The checks ------------------------------------------------------------------------------------------------------

Found = Iterator[tuple[str, ...]]


def check_signature(s: Subject) -> Found:
    """`step` names its states, and what it takes by name is given."""
    if not isinstance(s.cell, Cell):
        yield f"expected a Cell, got {type(s.cell).__name__}: write class MyCell(tg.nn.Cell)", line_of_step(s.cell)
        return
    names, known = s.cell.state_names, s.cell.value_names
    if repeated := {name for name in names if names.count(name) > 1}:
        yield f"two states are called {', '.join(repeated)}", line_of_step(s.cell)
    if missing := [name for name, need in known.items() if need == "required" and name not in s.values]:
        example = ", ".join(f"{name!r}: an array [2, ...]" for name in missing)
        yield f"step takes {', '.join(missing)} by name: call check_cell(cell, values={{{example}}})", \
            line_of_step(s.cell)  # fmt: skip
    if not hasattr(s.cell, "hidden_size") and type(s.cell).initial_state is Cell.initial_state:
        yield "hidden_size is not set: write self.hidden_size = hidden_size in __init__, or override initial_state", \
            line_of_step(s.cell, method="__init__")  # fmt: skip


def check_states(s: Subject) -> Found:
    """`initial_state` and `step` return as many states as there are names, of the same shapes, batch first."""
    s.find_width()
    names, where = s.cell.state_names, line_of_step(s.cell, method="initial_state")
    inner: dict[int, list[Any]] = {}
    for B in (1, s.B, s.B + 3):
        returned = s.cell.initial_state(B)
        states = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        if wrong := [type(state).__name__ for state in states if not isinstance(state, Tensor)]:
            yield f"initial_state({B}) returns {', '.join(wrong)}, not tensors", where
            return
        if len(states) != len(names):
            yield f"initial_state({B}) returns {len(states)} states, step takes {', '.join(names)}", where
            return
        for name, state in zip(names, states):
            if state.shape[:1] != (B,):
                yield f"initial_state({B}) returns {name} of shape {list(state.shape)}, expected [{B}, ...]", where
                return
        inner[B] = [state.shape[1:] for state in states]
    if len({str(shapes) for shapes in inner.values()}) > 1:
        yield "the shapes of initial_state(batch_size) besides the batch depend on batch_size", where
    with no_grad():
        try:
            s.cell(s.x()[0], **s.given())
        except Exception as error:
            yield str(error), line_of_error(error, s.cell)


def check_dtypes(s: Subject) -> Found:
    """float32 comes out where float32 goes in, float64 where float64 does; gradients are like what they belong to."""
    for dtype in (np.float32, np.float64):
        s.convert(dtype)
        with no_grad():
            for name, state in zip(s.cell.state_names, s.cell.begin(None, s.B)):
                if state.dtype != dtype:
                    yield f"initial_state returns {name} in {state.dtype} where the parameters are {np.dtype(dtype)}", \
                        line_of_step(s.cell, method="initial_state")  # fmt: skip
        x = s.x(dtype).requires_grad_()
        results = s.run("never", x, s.hx(dtype))
        for name, result in zip(("y", *s.cell.state_names), results):
            if result.dtype != dtype:
                yield f"{name} comes out in {result.dtype} where all that goes in is {np.dtype(dtype)}: a constant " \
                    "of another dtype is in the step; write tg.tensor(it, dtype=x.dtype), or a Python number", \
                    line_of_step(s.cell, r"float64|float32|np\.|tensor\(")  # fmt: skip
                return
        weighted(results).backward()
        for name, p in {"x": x, **s.learned()}.items():
            if p.grad is not None and p.grad.dtype != dtype:
                yield f"the gradient of {name} is {p.grad.dtype}, and {name} is {np.dtype(dtype)}", line_of_step(s.cell)


def check_repeatable(s: Subject) -> Found:
    """In eval mode two calls give the same, bit by bit, and whether gradients are recorded makes no difference."""
    first, second = s.gradients("never"), s.gradients("never")
    if not equal(first, second):
        s.differs = True
        yield "two calls in eval mode differ: draw noise only where self.training", \
            line_of_step(s.cell, r"rand|dropout|noise|\+=|append|count")  # fmt: skip
        return
    with no_grad():
        plain = [y.data for y in s.run("never", s.x(), s.hx())]
    if not close(plain, first[: len(plain)]):
        yield "results inside no_grad() differ from those that are recorded: step must not ask for the mode", \
            line_of_step(s.cell, r"is_grad_enabled|requires_grad")  # fmt: skip


def check_rows(s: Subject) -> Found:
    """What becomes of a sequence does not hang on which others are in the batch."""
    with no_grad():
        whole = s.run("never", s.x())
        for b in range(s.B):
            alone = s.run("never", s.x()[:, b : b + 1], values=s.given(rows=slice(b, b + 1)))
            if alone[0].shape != (s.T, 1, *whole[0].shape[2:]):
                yield f"a batch of one sequence gives y {list(alone[0].shape)}: name the dimension in squeeze(dim)", \
                    line_of_step(s.cell, r"squeeze|reshape|view")  # fmt: skip
                return
            if not close([alone[0].data[:, 0]], [whole[0].data[:, b]]):
                yield f"sequence {b} gives other outputs alone than in a batch of {s.B}: reduce over the last " \
                    "dimension, dim=-1, not over the batch's", \
                    line_of_step(s.cell, r"mean|sum|max|min|softmax|norm|std|var|cumsum|flip|roll|\.T\b")  # fmt: skip
                return


def check_small(s: Subject) -> Found:
    """One step, one sequence, and x without a batch."""
    with no_grad():
        for engine in s.engines:
            y = s.run(engine, s.x(T=1))[0]
            stepped = as_states(s.cell(s.x(T=1)[0], **s.given()))[0]
            if not close([y.data[0]], [stepped.data]):
                yield f"a sequence of one step gives other numbers than cell(x) ({words(engine)})", line_of_step(s.cell)
            one = s.given(rows=slice(0, 1))
            y = s.run(engine, s.x(T=1, B=1), values=one)[0]
            if y.shape[:2] != (1, 1):
                yield f"T = 1, B = 1 gives y {list(y.shape)} ({words(engine)})", line_of_step(s.cell)
        bare = as_states(s.cell(s.x()[0, 0], **{name: x[0] for name, x in s.given().items()}))[0]
        batch = as_states(s.cell(s.x()[0, :1], **s.given(rows=slice(0, 1))))[0]
        if not close([bare.data], [batch.data[0]]):
            yield "cell(x) of one x [I] gives other numbers than of a batch [1, I]", line_of_step(s.cell)


def check_lengths(s: Subject) -> Found:
    """Sequences that end before others: outputs are zero after the end, and the states are those of the end."""
    lengths = [s.T, *[s.T - 2] * (s.B - 1)]
    with no_grad():
        for engine in s.engines:
            y, *states = s.run(engine, s.x(), lengths=lengths)
            for b, length in enumerate(lengths):
                rows = slice(b, b + 1)
                alone = s.run(engine, s.x()[:length, rows], values=s.given(rows=rows))
                same = close([y.data[:length, rows]], [alone[0].data]) and not y.data[length:, b].any()
                if not same or not close([state.data[rows] for state in states], [state.data for state in alone[1:]]):
                    yield f"a sequence of length {length} in a longer batch differs from the same one alone " \
                        f"({words(engine)})", line_of_step(s.cell)  # fmt: skip
                    return


def check_reverse(s: Subject) -> Found:
    """A layer that starts at the end gives what the same layer makes of the turned sequence."""
    with no_grad():
        for engine in s.engines:
            turned = s.run(engine, tensor(s.x().data[::-1].copy()))
            back = s.run(engine, s.x(), reverse=True)
            if not close([back[0].data[::-1], *(b.data for b in back[1:])], [t.data for t in turned]):
                yield f"reverse=True differs from the turned sequence ({words(engine)}): step must not count steps", \
                    line_of_step(s.cell, r"self\.\w+ *[+-]?=[^=]")  # fmt: skip


def check_gradients(s: Subject) -> Found:
    """Gradients agree with finite differences, on both engines."""
    for engine in s.engines:
        hx = tuple(state.requires_grad_() for state in s.hx())
        x = s.x().requires_grad_()
        wrong: dict[str, str] = {}
        for name, p in {"x": x, **dict(zip(s.cell.state_names, hx)), **s.learned()}.items():
            try:
                gradcheck(lambda _, x=x, hx=hx, e=engine: weighted(s.run(e, x, hx)), [p])
            except GradcheckError as error:
                told = re.search(r"backward gives .*", str(error))
                wrong[name] = told[0] if told else str(error)
        if wrong:
            name = next((name for name in wrong if name in s.learned()), next(iter(wrong)))
            yield f"the gradient of {', '.join(wrong)} is not the slope ({words(engine)}; of {name}, {wrong[name]})", \
                line_of_gradient(s, list(wrong))  # fmt: skip
            return


def line_of_gradient(s: Subject, names: list[str]) -> str:
    """The line of the step that cuts a gradient; else one that reads what has the wrong one."""
    cuts = r"detach|no_grad|\.numpy\(|\.data\b|clip_gradient|straight_through|np\."
    own = [rf"self\.{re.escape(name)}\b" if name in s.learned() else rf"\b{re.escape(name)}\b" for name in names]
    patterns = [*(rf"(?=.*({cuts}))(?=.*{name})" for name in own), cuts, *own]
    definition = line_of_step(s.cell)
    found = (line_of_step(s.cell, pattern) for pattern in patterns)
    return next((line for line in found if line != definition), definition)


def check_compiles(s: Subject) -> Found:
    """The cell becomes kernels; or the reason why not is one that names the line."""
    if s.why_not:
        s.report.notes.append(f"runs on the tape, step by step: {s.why_not}")
        if "fault of tinygrad_rnn" in s.why_not:
            yield (s.why_not,)


def check_engines(s: Subject) -> Found:
    """Kernels and tape agree in results and all gradients, in float64: in eval mode, and with the same noise in
    training."""
    if s.why_not:
        s.report.untried.append("engines")
        return
    names = ["y", *(f"final {n}" for n in s.cell.state_names), "dx", *(f"d{n}" for n in s.cell.state_names)]
    for training in (False, True):
        s.cell.train(training)
        drawn = get_rng_state()
        there = s.gradients("require")
        set_rng_state(drawn)
        here = s.gradients("never")
        set_rng_state(drawn)
        for name, a, b in zip([*names, *(f"d{n}" for n in s.learned())], there, here):
            if not close([a], [b]):
                told = f"differs from the tape's by {np.max(np.abs(a - b)):.2g}{' in training' * training}"
                yield f"{name} of the kernels {told}: please report it", line_of_step(s.cell)


def check_validation(s: Subject) -> Found:
    """What does not fit is refused with a ValueError or TypeError, in both engines."""
    states = s.hx()
    wider = tensor(np.concatenate([s.x().data, s.x().data], 2))
    narrow = tuple(tensor(state.data[:, :-1]) if state.ndim > 1 else state for state in states)
    tried = {
        f"x of {2 * s.I} features, where it was made for {s.I}": (wider, None),
        f"{len(states) + 1} initial states": (s.x(), (*states, states[0])),
        "initial states that are too narrow": (s.x(), narrow),
        "initial states of another batch size": (s.x(), tuple(tensor(state.data[:1]) for state in states)),
    }
    for what, (x, hx) in tried.items():
        if hx is narrow and all(a.shape == b.shape for a, b in zip(narrow, states)):
            continue
        for engine in s.engines:
            try:
                with no_grad():
                    s.run(engine, x, hx)
            except (ValueError, TypeError):
                continue
            except Exception as error:
                yield f"{what}: refused by {type(error).__name__} rather than ValueError ({error})", line_of_step(
                    s.cell
                )
                break
            lead = "write self.input_size = input_size in __init__" if "features" in what else "let `begin` check it"
            yield f"{what}: taken without a word; {lead}", line_of_step(s.cell, method="__init__")
            break


def check_deepcopy(s: Subject) -> Found:
    """A deep copy computes the same, with parameters of its own."""
    try:
        twin = copy.deepcopy(s.cell)
    except Exception as error:
        yield f"copy.deepcopy(cell) raises {type(error).__name__}: {error}", line_of_attribute(s.cell)
        return
    yield from differences(s, twin, "a deep copy")


def check_pickle(s: Subject) -> Found:
    """A pickled cell comes back and computes the same."""
    kind = type(s.cell)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        s.report.notes.append(f"{kind.__qualname__} is not defined in a module, and so pickle cannot find it")
        s.report.untried.append("pickle")
        return
    try:
        twin = pickle.loads(pickle.dumps(s.cell))
    except Exception as error:
        yield f"pickle raises {type(error).__name__}: {error}", line_of_attribute(s.cell)
        return
    yield from differences(s, twin, "what pickle gives back")


def line_of_attribute(cell: Any) -> str:
    """Where an attribute is set that can be neither copied nor pickled."""
    cell = innermost(cell)
    for name, value in vars(cell).items():
        if name.startswith("_") and not isinstance(value, Tensor):
            continue
        try:
            pickle.dumps(value)
        except Exception:
            return line_of_step(cell, rf"self\.{name}\s*(:.*)?=[^=]", "__init__")
    return line_of_step(cell, method="__init__")


def differences(s: Subject, twin: Any, what: str) -> Found:
    """Where a copy computes other numbers, or with parameters that are not its own."""
    other = Subject(twin, s.I, s.values, s.report)
    other.I = s.I
    with no_grad():
        expected = [y.data for y in s.run("never", s.x())]
        if not close([y.data for y in other.run("never", s.x())], expected):
            yield f"{what} computes other numbers", line_of_attribute(s.cell)
            return
        effect = {name: p.data.copy() for name, p in s.cell.named_parameters()}
        for p in twin.parameters():
            p.data = p.data * 0.5 - 0.1
        for (name, before), p in zip(effect.items(), s.cell.parameters()):
            if not np.array_equal(before, p.data):
                yield f"{what} has its {name} in common with the cell", line_of_attribute(s.cell)
                return
        changed = [y.data for y in other.run("never", s.x())]
        for mine, its in zip(s.cell.parameters(), twin.parameters()):
            mine.data = its.data.copy()
        own = [y.data for y in s.run("never", s.x())]
        if not close(own, changed):
            yield f"{what} does not compute with the parameters of its own: an attribute, such as a function made in " \
                "__init__, leads to those of the cell it was copied from", \
                line_of_step(s.cell, r"lambda|partial|self\.\w+ = self\.", "__init__")  # fmt: skip


def check_state_dict(s: Subject) -> Found:
    """All that is learned is in `state_dict`, which another cell can load."""
    known = {id(p) for p in s.cell.parameters()}
    for name, value in vars(s.cell).items():
        found = [value, *(value if isinstance(value, (list, tuple, set)) else ())]
        for x in found:
            if isinstance(x, Tensor) and id(x) not in known and (x.requires_grad or isinstance(x, Parameter)):
                yield f"self.{name} wants a gradient and is not in state_dict: write self.{name} = " \
                    "tg.nn.Parameter(...), in a list or dictionary if there are several", \
                    line_of_step(s.cell, rf"self\.{name}\s*=", "__init__")  # fmt: skip
                break
    state = s.cell.state_dict()
    with no_grad():
        expected = [y.data for y in s.run("never", s.x())]
        for p in s.cell.parameters():
            p.data = p.data + 1.0
        s.cell.load_state_dict(state)
        if not close([y.data for y in s.run("never", s.x())], expected):
            yield "after load_state_dict of its own state_dict the cell computes other numbers", line_of_step(s.cell)


def check_threads(s: Subject) -> Found:
    """Four threads that call the cell at the same time get the same, bit by bit; step writes to nothing of its own."""
    modules = list(s.cell.modules())
    before = [{n: v for n, v in vars(m).items() if not n.startswith("__")} for m in modules]
    s.run("never", s.x())
    for module, attributes in zip(modules, before):
        for name, value in vars(module).items():
            if name not in attributes or attributes[name] is not value:
                if type(value).__module__.startswith("tinygrad_rnn.fusion"):
                    continue
                yield f"step writes self.{name}, which another thread or call may read: return it as a state", \
                    line_of_step(module, rf"self\.{name}\b")  # fmt: skip
                return
    for engine in s.engines:
        expected = s.gradients(engine)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, e=engine: s.gradients(e), range(4)))
        if not all(equal(one, expected) for one in found):
            yield f"threads that call the cell at the same time get other numbers ({words(engine)})", \
                line_of_step(s.cell, r"self\.\w+ *[+-]?=[^=]|\[.*\] *=[^=]")  # fmt: skip


def check_stale(s: Subject) -> Found:
    """After a change of parameters or attributes both engines compute with the new ones."""
    for name, value in vars(s.cell).items():
        if isinstance(value, Tensor) and isinstance(value.node, Node):
            yield f"self.{name} was computed when the cell was made, and stays as it is while parameters are " \
                "learned: compute it in step", line_of_step(s.cell, rf"self\.{name}\s*=", "__init__")  # fmt: skip
            return
    names, numbers = ["x", *s.cell.state_names, *s.learned()], s.gradients("never")
    slopes = dict(zip(names, numbers[len(numbers) - len(names) :]))
    for name, p in s.learned().items():
        with no_grad():
            old, before = p.data.copy(), [y.data for y in s.run("never", s.x(), s.hx())]
            p[...] = old + 0.1
            after = {engine: [y.data for y in s.run(engine, s.x(), s.hx())] for engine in s.engines}
            p[...] = old
        if slopes[name].any() and equal(before, after["never"]):
            yield f"other numbers in {name} change nothing, though it has a gradient: something that was made of it " \
                "earlier is kept; compute it in step", line_of_step(s.cell, r"cache|self\._")  # fmt: skip
        if not slopes[name].any() and equal(before, after["never"]):
            s.report.notes.append(f"{name} has no part in the results")
        if not close(after.get("require", after["never"]), after["never"]):
            yield f"kernels go on with the old numbers of {name}: please report it", line_of_step(s.cell)
    yield from stale_attributes(s)


def stale_attributes(s: Subject) -> Found:
    """The same for the numbers and switches among the attributes."""
    if s.why_not:
        return
    for module in s.cell.modules():
        for name, value in list(vars(module).items()):
            if name in ("training", "fused", "_fused") or not isinstance(value, (bool, float)):
                continue
            setattr(module, name, not value if isinstance(value, bool) else value * 0.75 + 0.05)
            try:
                with no_grad():
                    tape = [y.data for y in s.run("never", s.x(), s.hx())]
                    fused = [y.data for y in s.run("require", s.x(), s.hx())]
                if not close(fused, tape):
                    yield f"kernels go on with the old self.{name}: please report it", line_of_step(s.cell)
            except Exception:  # such a value is none that this attribute may have
                continue
            finally:
                setattr(module, name, value)


def words(engine: str) -> str:
    """An engine as a reader knows it."""
    return "on the tape" if engine == "never" else "fused"


def close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether float64 arrays differ by rounding only."""
    fits = lambda a, b: a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-11, equal_nan=True)
    return len(found) == len(expected) and all(map(fits, found, expected))


def equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether arrays are the same bit by bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected))


CHECKS: dict[str, Callable[[Subject], Found]] = {
    "signature": check_signature, "states": check_states, "dtypes": check_dtypes, "repeatable": check_repeatable,
    "rows": check_rows, "small": check_small, "lengths": check_lengths, "reverse": check_reverse,
    "gradients": check_gradients, "compiles": check_compiles, "engines": check_engines,
    "validation": check_validation, "deepcopy": check_deepcopy, "pickle": check_pickle,
    "state_dict": check_state_dict, "threads": check_threads, "stale": check_stale,
}  # fmt: skip
