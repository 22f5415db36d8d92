"""Every compiled cell is compared with the tape where it first runs.

When a function of a compiled cell is about to be used for the first time, it runs over a small batch that is drawn for
it, with the parameters and constants of the cell as they lie in memory; and so does the step itself, operation by
operation, in the dtype of the cell and in float64 (see `judge`). With k, t and w for what the kernels, the tape and the
tape in float64 say of an output, a final state or a gradient,

    max |k - w|  <=  FACTOR * max |t - w|  +  FLOOR * max |w|  +  CANCELLED * max of all |w|

or the kernels are not used: the cell runs on the tape, with a warning. So a fault of the compiler costs speed, and no
wrong number leaves the layer. A draw that fails is repeated with others, for where a step has kinks and jumps, a
rounding may decide on which side of one it comes out.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.primitive import FLOAT32, FLOAT64
from ..autograd.table import matmul
from ..autograd.tape import Value, no_grad, set_mode
from ..autograd.tensor import grad
from .judge import Judge
from .recorded import Recorded
from .rows import RaggedRows, Rows, full_rows
from .sequence import Sequence
from .specification import TapeRecord, run_on_tape
from .trace import Unfusable

if TYPE_CHECKING:
    from .fused import FusedCell
    from .node import Way

T, B, LENGTHS = 4, 3, (2, 4, 1)  # of the batch
DRAWS = 3
MOVED = 0.5  # standard deviation of what is added to the cell's own initial states
FACTOR = 16  # times the rounding errors of the tape
FLOOR = {FLOAT32: 2e-5, FLOAT64: 1e-10}  # of the largest element
CANCELLED = {FLOAT32: 1e-6, FLOAT64: 1e-13}  # of the largest element of all results, where rounding decides
BLOCK = 96  # rows and columns of a matrix that are compared at a time
SWITCH = "TINYGRAD_RNN_VALIDATE"


class Mismatch(Unfusable):
    """The kernels of a cell do not compute what its step computes."""


class Difference(NamedTuple):
    """How far kernels are from the tape in float64 at one result, how far they may be, and where they are farthest."""

    name: str
    found: float
    allowed: float
    at: tuple[int, ...]
    kernels: float
    tape: float

    @property
    def share(self) -> float:
        """The difference in terms of what is allowed; infinite where only one side is a number."""
        return self.found / self.allowed if self.allowed else float("inf" if self.found else 0)


class Report(NamedTuple):
    """What a validation found."""

    way: str
    worst: Difference | None
    milliseconds: float

    def __str__(self) -> str:
        if self.worst is None:
            return f"{self.way}: no finite numbers to compare, {self.milliseconds:.1f} ms"
        name, found, allowed, *_ = self.worst
        difference = f"largest difference {found:.1e} of {allowed:.1e} at {name}"
        return f"{self.way}: validated, {difference}, {self.milliseconds:.0f} ms"


def is_on() -> bool:
    """Whether cells are validated: unless the environment says TINYGRAD_RNN_VALIDATE=0."""
    return os.environ.get(SWITCH, "1") != "0"


def validate(fused: "FusedCell", way: "Way", rows: Rows) -> Report:
    """Compare one way through a compiled cell, over sequences laid out like `rows`, with the tape.

    Raises:
        Mismatch: they differ, whatever was drawn; or the step fails on such a batch.
    """
    number = np.zeros((1, 1), fused.program.states[0].dtype)
    matmul.forward(number, number)  # whose machine code is made once a process, for everybody
    start, random_state = time.perf_counter(), get_rng_state()
    compiling = fused.scan.seconds_compiling()
    try:
        for draw in range(DRAWS):
            trial = _Trial(fused, way, rows, draw, MOVED)
            worst = trial.worst()
            if worst is None or worst.share <= 1:
                break
        if worst is None:  # no finite numbers come of such states; maybe of the cell's own
            trial = _Trial(fused, way, rows, draw, 0.0)
            worst = trial.worst()
        if worst is not None and worst.share > 1:
            raise Mismatch(trial.described(worst))
        seconds = time.perf_counter() - start - (fused.scan.seconds_compiling() - compiling)
        return Report(str(way), worst, 1e3 * seconds)
    except Unfusable:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise Mismatch(f"it could not be compared with its step on a trial batch of {B} sequences: {what}") from error
    finally:
        set_rng_state(random_state)


class _Trial:
    """A batch drawn for a cell, and what both sides make of it."""

    def __init__(self, fused: "FusedCell", way: "Way", rows: Rows, draw: int, moved: float) -> None:
        self.fused, self.way, self.draw, self.moved = fused, way, draw, moved
        self.places = [i for i, need in enumerate(way.needs) if need]
        self.cell: Any = fused.cell()
        self.random = np.random.default_rng(draw)
        self.lengths = np.array(LENGTHS) if isinstance(rows, RaggedRows) else None
        self.rows = full_rows(T, B, rows.flipped) if self.lengths is None else RaggedRows(T, self.lengths, rows.flipped)
        program, leaves = fused.program, fused.leaves
        names = [state.name for state in program.states]
        self.names = [f"{name} after every step" for name in names[: fused.watched]]
        self.names += [f"the last {name}" for name in names]
        set_rng_state(np.random.default_rng(draw).bit_generator.state)  # type: ignore[arg-type]
        with no_grad():
            self.held = self.cell._values_of_sequence(B)
        self.after_held = get_rng_state()
        held = [value for _, values in self.held for value in values.values()]
        inputs: Any = [self._drawn((T, B, *x.shape[1:]), x.dtype) for x in leaves[: fused.inputs]]
        values: Any = [self._drawn((B, *x.shape[1:]), x.dtype) for x in program.given[: len(fused.by_name)]]
        states: Any = self._states([*program.states])
        self.tensors: list[Any] = [*inputs, *values, *held, *fused.fixed, *states]
        x, by_name = tuple(inputs) if fused.several else inputs[0], dict(zip(fused.by_name, values))
        self.sequence = Sequence(x, tuple(states), rows.flipped, self.lengths, fused.watched, by_name)

    def _drawn(self, shape: tuple[int, ...], dtype: np.dtype) -> Value:
        drawn = self.random.standard_normal(shape)
        return Value.tensor((drawn if dtype.kind == "f" else drawn > 0).astype(dtype))

    def _states(self, states: list[Any]) -> list[Value]:
        """The cell's own initial states, moved a little: what a cell divides by is no random number."""
        found = [self._drawn((B, *x.shape[1:]), x.dtype) for x in states]
        own: list[Any] = [0] * len(states)
        with contextlib.suppress(Exception), no_grad():  # a cell whose states are always given need not have any
            begun = [np.asarray(state.data) for state in self.cell.begin(None, B)]
            if [x.shape for x in begun] == [x.data.shape for x in found]:
                own = begun
        return [Value.tensor((first + self.moved * x.data).astype(x.data.dtype)) for first, x in zip(own, found)]

    # ---- Both sides --------------------------------------------------------------------------------------------------

    def worst(self) -> Difference | None:
        """The difference that is least allowed; None if there are no finite numbers to compare."""
        set_rng_state(self.after_held)
        kernels, starts = self._kernels()
        with np.errstate(all="ignore"):
            expected = self._tape(starts, precise=True)
            worst = _worst(_difference(name, kernels.get(name), wide) for name, wide in expected.items())
            if worst is None or worst.share <= 1:
                return worst
            # By more than what rounding may do always: how far does it lead this step?
            rounded = self._tape(starts, precise=False)
            beside = {True: 0.0, False: 0.0}  # the largest element of all values, and of all gradients
            for name, wide in expected.items():
                beside[name in self.names] = max(beside[name in self.names], _size(wide))
            return _worst(
                _difference(name, kernels.get(name), wide, rounded[name], beside[name in self.names])
                for name, wide in expected.items()
            )

    def _kernels(self) -> tuple[dict[str, np.ndarray], list[np.ndarray | None]]:
        """What the kernels give, by name; and the gradients, drawn, that went back from outputs and last states."""
        fused, places = self.fused, self.places
        tensors = [Value.tensor(x.data) for x in self.tensors]
        for i in places:
            tensors[i].requires_grad_(True)
        with set_mode("tracer", None), set_mode("anomaly", False), set_mode("grad", bool(places)):
            watch = (lambda run: None) if self.way.recorded else None
            every, finals = fused.run(self.rows, tensors, [x.data for x in tensors], watch, proved=True)
            results = [*every, *finals]
            found = {name: x.data for name, x in zip(self.names, results)}
            if not places:
                return found, []
            starts = [None if x.node is None else self._drawn(x.data.shape, x.data.dtype).data for x in results]
            pairs = [(x, Value.tensor(dy)) for x, dy in zip(results, starts) if dy is not None]
            if pairs:
                outputs, dys = map(list, zip(*pairs))
                gradients = grad(outputs, [tensors[i] for i in places], dys, allow_unused=True)
                found |= {f"d{fused.leaves[i].name}": dx.data for i, dx in zip(places, gradients) if dx is not None}
            return found, starts

    def _tape(self, starts: list[np.ndarray | None], precise: bool) -> dict[str, np.ndarray]:
        """The same from the step itself, in float64 or in the dtype of the cell."""
        judge, (every, finals) = self._judged(None, precise)
        results = [*every, *finals]
        expected = {name: judge.entry(x).value for name, x in zip(self.names, results)}
        if not starts:
            return expected
        gradients = judge.gradients([(x, dy) for x, dy in zip(results, starts) if dy is not None])
        for i in self.places:
            entry = judge.entry(self.tensors[i])
            found = gradients.pop(entry, None)
            expected[f"d{self.fused.leaves[i].name}"] = np.zeros_like(entry.value) if found is None else found
        return expected | {f"d{self._name_of(x)}": gradients[y] for x, y in judge.leaves() if y in gradients}

    def _name_of(self, x: Any) -> str:
        """What the cell calls a tensor of which the kernels know nothing."""
        return next((name for name, p in self.cell.named_parameters() if p is x), "a tensor that step reads")

    def _judged(self, record: TapeRecord | None, precise: bool) -> tuple[Judge, Any]:
        """The step, run by a judge."""
        set_rng_state(self.after_held)
        judge, places = Judge(precise), set(self.places)
        fixed = range(self.fused.inputs, len(self.tensors) - len(self.fused.program.states))
        for i, x in enumerate(self.tensors):
            judge.leaf(x, i in places, i in fixed)
        with set_mode("grad", bool(places)), set_mode("tracer", judge):
            return judge, run_on_tape(self.cell, self.sequence, record, self.held)

    # ---- What to say -------------------------------------------------------------------------------------------------

    def described(self, worst: Difference) -> str:
        """What differs first, in the user's terms."""
        found = worst
        with contextlib.suppress(Exception):  # nobody is helped by an error about an error
            found = next(self._named_differences(), worst)
        return (
            f"its kernels do not compute what step computes: {found.name} is {found.kernels:.7g} by the kernels and "
            f"{found.tape:.7g} on the tape, at {list(found.at)} of a trial ({self.way}). This is a fault of "
            "tinygrad_rnn, not of your cell: please report it with the text of step"
        )

    def _named_differences(self) -> Iterator[Difference]:
        """The named values of the step that differ, in the order of its lines."""
        runs: list[Any] = []
        set_rng_state(self.after_held)
        with no_grad():
            self.fused.run(self.rows, self.tensors, [x.data for x in self.tensors], runs.append, proved=True)
        recorded, wide, own = Recorded(self.fused, runs[0]), self._named(True), self._named(False)
        for name, value in recorded.named.items():
            if name in wide:
                title = f"{name} ({value.where})" if value.where else name
                difference = _difference(title, recorded.value(name), wide[name], own[name])
                if difference is not None and difference.share > 1:
                    yield difference

    def _named(self, precise: bool) -> dict[str, np.ndarray]:
        """The values of the step at each step of the sequence that have a name, [T, B, W]."""
        record = TapeRecord(self.cell, self.sequence)
        judge, _ = self._judged(record, precise)
        every = [name for name, values in record.named.items() if all(x is not None for x in values)]
        return {name: record.stacked(name, lambda x: judge.entry(x).value) for name in every}


def _size(x: np.ndarray) -> float:
    """The largest finite number in an array."""
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def _worst(differences: Iterable[Difference | None]) -> Difference | None:
    """The one that is least allowed; None if there is none."""
    return max((each for each in differences if each is not None), key=lambda each: each.share, default=None)


def _difference(
    name: str, kernels: np.ndarray | None, wide: np.ndarray, own: np.ndarray | None = None, beside: float = 0.0
) -> Difference | None:
    """Of one result; None where the tape has no finite numbers to compare with.

    Args:
        kernels: what they say; None, which is zero, of the gradient of a tensor of which they know nothing.
        own: what the tape has in the dtype of the cell; None to allow for no rounding errors but those of the result.
        beside: the largest element of all results of its kind: where terms cancel, what is left are rounding errors of
            such numbers.
    """
    kernels = np.zeros_like(wide) if kernels is None else kernels
    if kernels.shape != wide.shape:
        return Difference(name, float("inf"), 0.0, (), float("nan"), float("nan"))
    k, w, t = map(np.atleast_1d, (kernels, wide, wide if own is None else own))
    worst, place, rounding, scale = -1.0, (0,) * w.ndim, 0.0, 0.0
    for start in itertools.product(*(range(0, n, BLOCK) for n in w.shape)):  # blocks, which stay in the cache
        some = tuple(slice(i, i + BLOCK) for i in start)
        error, size = np.abs(k[some] - w[some]), np.abs(w[some])
        apart = size if own is None else np.abs(t[some] - w[some])
        if not np.isfinite(error.max() + apart.max() + size.max()):
            known = np.isfinite(t[some]) & np.isfinite(w[some])
            error[np.isnan(error)] = np.inf
            error, apart, size = (np.where(known, each, -1) for each in (error, apart, size))
        if error.max() > worst:
            worst = float(error.max())
            place = tuple(i + int(j) for i, j in zip(start, np.unravel_index(error.argmax(), error.shape)))
        rounding, scale = max(rounding, float(apart.max())), max(scale, float(size.max()))
    if worst < 0:
        return None
    rounding = 0.0 if own is None else rounding
    allowed = FACTOR * rounding + FLOOR[kernels.dtype] * scale + CANCELLED[kernels.dtype] * beside
    return Difference(name, worst, allowed, place[: wide.ndim], float(k[place]), float(w[place]))
