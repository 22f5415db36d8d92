"""Two calls timed side by side: what a row of a table is, and how it is measured and printed."""

import gc
import importlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], object]


class Row(NamedTuple):
    """One piece of work, done by both sides."""

    case: str
    ours: Call
    rival: Call
    operations: int = 0  # floating-point operations of a product
    peak: float = 0.0  # operations a second that the machine can do


class Group(NamedTuple):
    """Rows with one rival and one target."""

    title: str
    rival: str
    rows: Iterable[Row]
    target: tuple[float, float] | None = None  # the least ratio of the worst row, and of the geometric mean


class Settings(NamedTuple):
    """How much to measure."""

    threads: int
    quick: bool
    smoke: bool
    cells: tuple[str, ...] = ()

    def some(self, cases: Sequence[Any], smallest: Any) -> Sequence[Any]:
        """All cases, which are in order of size; the first three if quick; `smallest` alone for a smoke test."""
        return [smallest] if self.smoke else cases[:3] if self.quick else cases


SAMPLE = 2e-3  # seconds: shorter calls are repeated until a sample takes as long, so that each side, as in a program
# of its own, finds its caches warm: the processor's, and those of the interpreter
BUDGET = 0.6  # seconds for a row, if that is enough for FEWEST pairs
FEWEST, MOST = 7, 301
FEW = 15  # pairs with several threads


def seconds(call: Call, times: int) -> float:
    """The mean time of `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def begin_turn(call: Call) -> None:
    """Wait until no thread of this process is busy, a second at most; then wake those that `call` needs."""
    for _ in range(200):
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            break
    call()


def compare(ours: Call, rival: Call, settings: Settings) -> tuple[float, float, float]:
    """The median times of both, in seconds, and the median of rival / ours over neighbouring calls."""
    calls = (ours, rival)
    if settings.smoke:
        a, b = (seconds(call, 1) for call in calls)
        return a, b, b / a
    for call in calls:  # the first calls compile, fill caches and choose algorithms
        seconds(call, 1)
    once = [min(seconds(call, 1) for _ in range(3)) for call in calls]
    times = [max(1, math.ceil(SAMPLE / t)) for t in once]
    pairs = int(BUDGET / sum(t * n for t, n in zip(once, times)))
    most = MOST if settings.threads == 1 else FEW
    samples = []
    gc.collect()
    gc.disable()
    try:
        for k in range(min(max(pairs, FEWEST), most)):
            pair = [0.0, 0.0]
            for side in ((0, 1), (1, 0))[k % 2]:  # neither always runs on the caches the other left behind
                if settings.threads > 1:
                    begin_turn(calls[side])
                pair[side] = seconds(calls[side], times[side])
            samples.append(pair)
    finally:
        gc.enable()
    a, b = np.array(samples).T
    return float(np.median(a)), float(np.median(b)), float(np.median(b / a))


def report(group: Group, settings: Settings) -> None:
    """Measure and print the rows of a group, then its worst ratio and its geometric mean."""
    print(f"\n{group.title}, against {group.rival}")
    ratios: list[float] = []
    for row in group.rows:
        if not ratios:
            rates = f"{'GFLOP/s':>9}{'of peak':>9}" if row.operations else ""
            print(f"    {'':<34}{'ours':>12}{group.rival.split()[0]:>12}{'ratio':>8}{rates}")
        ours, rival, ratio = compare(row.ours, row.rival, settings)
        ratios.append(ratio)
        line = f"    {row.case:<34}{duration(ours):>12}{duration(rival):>12}{ratio:>8.2f}"
        if row.operations:
            rate = row.operations / ours
            line += f"{rate / 1e9:>9.1f}{rate / row.peak:>9.0%}"
        print(line, flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    target = f"    target: {group.target[0]:.2f}, {group.target[1]:.2f}" if group.target else ""
    print(f"    worst {min(ratios):.2f}, geometric mean {mean:.2f}{target}", flush=True)


def duration(t: float) -> str:
    """Seconds in a unit that suits them."""
    unit, scale = next(((u, s) for u, s in (("s", 1), ("ms", 1e3), ("us", 1e6)) if t * s >= 1), ("ns", 1e9))
    return f"{t * scale:.3g} {unit}"


def installed(name: str) -> Any:
    """The module of that name, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Small numbers, as weights and activations are; the same ones each time."""
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def leaves(lib: Any, *arrays: np.ndarray) -> list[Any]:
    """Tensors of this library or of PyTorch that want gradients."""
    return [lib.tensor(array, requires_grad=True) for array in arrays]


def forget(tensors: Iterable[Any]) -> None:
    """Drop the gradients of the last pass, as `zero_grad` does."""
    for tensor in tensors:
        tensor.grad = None


def training(run: Callable[[Any], Any], x: Any, dy: Any, parameters: Iterable[Any]) -> Call:
    """A function that computes y = run(x) and every gradient, that of x included."""
    parameters = [x, *parameters]

    def step():
        run(x).backward(dy)
        forget(parameters)

    return step
