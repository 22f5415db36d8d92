"""The compiled kernels of a program: their source, and how they are launched."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numba import config

from ..kernels import cache
from ..kernels.arena import LINE
from ..kernels.matmul import workspace
from ..kernels.pool import staggered, staggered_zeros
from ..kernels.products import WORKSPACE_BYTES, products
from ..kernels.sharing import ranges_of
from ..kernels.team import team
from ..kernels.threads import get_num_threads
from .allocate import Allocation
from .epilogue import Backward
from .kernel import ALL, BEGIN, END, LOOP, PROLOGUE, Forward
from .names import printable
from .print import module
from .program import Program, multiply_adds
from .refusal import Unfusable
from .rows import Rows

ROWS_PER_THREAD = 4  # fewer rows than this are not worth a thread
WORK_PER_THREAD = 1_100_000  # multiply-adds of the loop below which a thread does not pay: some 20 microseconds

SMALL = 1 << 14  # numbers of an array that the system's allocator has at hand
LENT, MOST_LENT = 1 << 17, 4  # numbers of an arena that calls lend each other, and how many there are at most
_spare: dict[Any, np.ndarray] = {}  # those that nobody uses
MOST_LAYOUTS = 256  # of calls that are remembered


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Meanwhile nobody looks for garbage: a compiler makes little, and of objects so many that to look takes a tenth
    of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Layout(NamedTuple):
    """How a call is done.

    Attributes:
        results: how to make the arrays that the kernel writes: functions and shapes.
        arena: the same of that one.
        lent: by what another call finds it afterwards, if nobody looks at it: its size and dtype.
        steps: how many are taken at a time.
        numbers: arguments of the kernel besides arrays.
        short: the same with those before them, if all is done at once and on one thread.
    """

    results: list[tuple[Any, tuple[int, ...]]]
    arena: tuple[Any, tuple[int, ...]]
    lent: tuple[int, str] | None
    steps: int
    numbers: tuple[Any, ...]
    short: tuple[Any, ...] | None


class BackwardLayout(NamedTuple):
    """How a backward pass is done.

    Attributes:
        nothing: for each gradient an array without elements, as the kernel gets it for what nobody wants.
        makers: how to make the others: their numbers, functions, shapes.
        arrived: what the kernel gets for the gradients of results, if none arrive; those at all steps are missing.
        kernel: how the kernel is called.
    """

    nothing: list[np.ndarray]
    makers: list[tuple[int, Any, tuple[int, ...]]]
    arrived: list[Any]
    kernel: Layout


def room_for(shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """How to make an array, and its shape."""
    return np.empty if math.prod(shape) <= SMALL else staggered, shape


class Scan(Allocation):
    """The kernels of a program.

    Attributes:
        sources: "forward" (which saves for the gradient), "inference" (which does not) and "backward" -> source.
        compiled: the functions of machine code, once they are needed.
        built: direction -> where its machine code came from, and the seconds that took.
        work, around: multiply-adds of the loop and of hoisted products, for a row and step, roughly.
    """

    def __init__(self, program: Program, title: str) -> None:
        super().__init__(program)
        self.title = printable(title)
        self.sources: dict[str, str] = {}
        self.compiled: dict[str, Callable[..., Any]] = {}
        self.built: dict[str, tuple[str, float]] = {}
        self.layouts: dict[str, dict[Rows, Layout]] = {"forward": {}, "inference": {}, "backward": {}}
        self.work = multiply_adds(program.loop) + 16 * sum(state.width for state in program.states)
        self.around = multiply_adds(program.hoisted)
        self.forward, self.inference = Forward(self, "forward"), Forward(self, "inference")
        self.backward = Backward(self, self.forward)
        self.kernels = {"forward": self.forward, "inference": self.inference, "backward": self.backward}
        for direction, kernel in self.kernels.items():
            self._write(direction, kernel.source)
        self.arena_widths = {direction: kernel.arena.widths() for direction, kernel in self.kernels.items()}
        number = {known: i for i, known in enumerate(self.forward.known)}
        self.read_again, self.watched_again = [number[known] for known in self.backward.known], self.backward.watched
        self.nothing = np.empty((0, 0), self.dtype), np.empty(0, self.dtype)
        self.row_bytes = sum(value.width for value in program.hoisted) * self.dtype.itemsize

    def _write(self, direction: str, kernel: str) -> None:
        block = self.blocks[direction]
        text = "\n\n".join([*block.row_functions, "".join(f"# {note}\n" for note in block.notes) + kernel])
        title, bits = f"{self.title}, {direction}", self.dtype.itemsize * 8
        self.sources[direction] = module(title, text, bits, block.functions)

    def kernel(self, direction: str, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """The compiled kernel of one direction, for arguments like these, with which it is called to be compiled."""
        if config.DISABLE_JIT:
            raise Unfusable("NUMBA_DISABLE_JIT is set, and so nothing is compiled")
        if direction not in self.compiled:
            start, known = time.perf_counter(), None
            products(self.dtype.name)  # which no kernel from the disk can make without swallowing Ctrl-C
            function = self.blocks[direction].name

            def compile_kernel(module: ModuleType) -> None:
                nonlocal known
                if known is None:
                    known = bool(getattr(getattr(module, function), "signatures", ()))  # of a twin of this layer
                getattr(module, function)(*arguments)

            with no_collection():
                module = cache.load(self.sources[direction], f"scan_{direction}_{self.dtype.name}", compile_kernel)
            kernel = getattr(module, function)
            found = known or bool(getattr(getattr(kernel, "stats", None), "cache_hits", ()))
            origin = "had been loaded" if known else "from the cache" if found else "compiled"
            self.built[direction] = origin, time.perf_counter() - start
            self.compiled[direction] = kernel
        return self.compiled[direction]

    def seconds_compiling(self) -> float:
        """The time it has taken to compile kernels, or to load them."""
        return sum(seconds for _, seconds in self.built.values())

    def launch(self, direction: str, rows: Rows, layout: Layout, arrays: list[np.ndarray]) -> None:
        """Run a kernel over all sequences."""
        kernel = self.compiled.get(direction)
        if kernel is None:  # no stages: that compiles, and computes nothing
            kernel = self.kernel(direction, (0, 0, workspace.address, 0, 0, 0, 1, 0, *layout.numbers, *arrays))
        if layout.short is not None:
            kernel(0, rows.B, workspace.address, *layout.short, *arrays)
            return
        T, B, address, arguments = rows.T, rows.B, workspace.address, (*layout.numbers, *arrays)
        threads = get_num_threads()
        if threads > 1:
            threads = max(1, min(threads, rows.total * (self.work + self.around) // WORK_PER_THREAD))
        if len(team.helpers) < threads - 1:
            team.start(threads - 1, WORKSPACE_BYTES)
        in_loop = min(threads, B // ROWS_PER_THREAD, rows.total * self.work // WORK_PER_THREAD)
        ranges = ranges_of(rows.cut(in_loop)) if in_loop > 1 else None
        shared = 0 if ranges is None else ranges.ctypes.data
        for first in range(0, T or 1, layout.steps):
            last = min(first + layout.steps, T)
            stages = PROLOGUE | LOOP | BEGIN * (first == 0) | END * (last == T)
            kernel(0, B, address, stages, first, last, threads, shared, *arguments)

    def _layout(self, direction: str, rows: Rows, keep: int = 2) -> Layout:
        """Of a call; remembered if it may come again."""
        B, total = rows.B, rows.total
        steps, tile = rows.T or 1, total
        if direction == "inference" and self.row_bytes:
            steps = rows.tile(self.row_bytes)
            tile = min(total, steps * B)
        results: list[tuple[Any, tuple[int, ...]]] = []
        if direction != "backward":
            kernel = self.inference if direction == "inference" else self.forward
            whole = (1, B + total) if rows.ragged else (rows.T + 1, B)
            results = [room_for((*whole, state.width)) for state in kernel.whole]
            results += [room_for((B, state.width)) for state in self.program.states]
        counts = rows.counts(tile, keep, self.program.inputs[0].width)
        arena = room_for((sum(width * counts[words] for words, width in self.arena_widths[direction].items()),))
        short = total * (self.work + self.around) < 2 * WORK_PER_THREAD and steps >= rows.T
        kept = (keep,) if direction == "backward" else ()
        given = map(float, self.blocks[direction].numbers.values())
        numbers = (rows.starts, counts["I"], *kept, *self.sizes, *given)
        lends = direction != "forward" and keep == 2 and arena[1][0] <= LENT
        lent = (arena[1][0], self.dtype.char) if lends else None
        layout = Layout(results, arena, lent, steps, numbers, (ALL, 0, rows.T, 1, 0, *numbers) if short else None)
        if not rows.ragged and keep == 2:
            known = self.layouts[direction]
            if len(known) >= MOST_LAYOUTS:
                known.clear()
            known[rows] = layout
        return layout

    def borrow(self, layout: Layout) -> np.ndarray:
        """The arena of a call, the last one's if that was as large: the cache knows it, and the pool takes its time."""
        make, shape = layout.arena
        arena = _spare.pop(layout.lent, None)
        return make(shape, self.dtype) if arena is None else arena

    def give_back(self, layout: Layout, arena: np.ndarray) -> None:
        """Let another call have it."""
        if layout.lent is not None:
            if len(_spare) >= MOST_LENT:
                _spare.clear()
            _spare[layout.lent] = arena

    def run(self, direction: str, rows: Rows, arrays: list[np.ndarray]) -> tuple[list[Any], Any]:
        """A call: the states at all steps and before, [1 + T, B, W], and the final values of all; and the arena, which
        after inference is another call's."""
        dtype = self.dtype
        layout = self.layouts[direction].get(rows) or self._layout(direction, rows)
        made = [make(shape, dtype) for make, shape in layout.results]
        arena, kernel = self.borrow(layout), self.compiled.get(direction)
        if kernel is not None and layout.short is not None:
            kernel(0, rows.B, workspace.address, *layout.short, *arrays, *made, arena)
        else:
            self.launch(direction, rows, layout, [*arrays, *made, arena])
        self.give_back(layout, arena)
        return made, arena

    def backward_layout(self, wanted: tuple[bool, ...], rows: Rows, keep: int = 2) -> BackwardLayout:
        """Of the backward pass of a call, where those arguments have a gradient that are `wanted`.

        Args:
            keep: of how many steps the gradients of the states are kept, at least 2.
        """
        found: list[Any] = []
        makers = []
        for i, (argument, want) in enumerate(zip(self.backward.d, wanted)):
            value, role, _ = argument
            found.append(self.nothing[role == "vector"])
            if want:
                shape: tuple[int, ...] = rows.total if role in ("steps", "rows") else rows.B, value.width
                if role in ("vector", "matrix"):
                    shape = value.shape if role == "matrix" else (math.prod(value.shape),)
                zero = argument in self.backward.zeroed or not rows.total
                makers.append((i, *((staggered_zeros, shape) if zero else room_for(shape))))
        layout = self.layouts["backward"].get(rows) if keep == 2 else None
        layout = layout or self._layout("backward", rows, keep)
        arrived = [None] * len(self.program.gradient.dys) + [self.nothing[0]] * len(self.program.states)
        return BackwardLayout(found, makers, arrived, layout)

    def run_back(
        self, rows: Rows, arrays: list[np.ndarray], every: list[np.ndarray], residuals: np.ndarray,
        arrived: dict[int, Any], layout: BackwardLayout,
    ) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:  # fmt: skip
        """The backward pass: the gradients of the arguments; those that arrived, as the kernel reads them; the arena.

        Args:
            arrays, every, residuals: of the call; the last are overwritten.
            arrived: the gradients of results by their numbers, first those of states at all steps; others are zero.
        """
        found, makers, given, layout_of_kernel = layout
        dtype, found, given, watched = self.dtype, found[:], given[:], len(every)
        for k, dy in arrived.items():
            dy = rows.gathered(dy) if k < watched else rows.ordered(dy)
            given[k] = plain(dy if dy.ndim == 2 else dy.reshape(len(dy), math.prod(dy.shape[1:])))
        for k in range(watched):
            if k not in arrived:
                given[k] = staggered_zeros((rows.total, self.program.states[k].width), dtype)
        for i, make, shape in makers:
            found[i] = make(shape, dtype)
        arena, kernel, short = self.borrow(layout_of_kernel), self.compiled.get("backward"), layout_of_kernel.short
        read = [arrays[i] for i in self.read_again]
        read += [every[k] for k in self.watched_again]
        if kernel is not None and short is not None:
            kernel(0, rows.B, workspace.address, *short, *read, *given, *found, residuals, arena)
        else:
            self.launch("backward", rows, layout_of_kernel, [*read, *given, *found, residuals, arena])
        self.give_back(layout_of_kernel, arena)
        return found, given, arena

    def arrived(self, rows: Rows, given: list[np.ndarray], arena: np.ndarray, keep: int) -> list[np.ndarray]:
        """The gradients of states: those that came from outside, and those that went from step to step."""
        counts = rows.counts(0, keep, self.program.inputs[0].width)
        gradient, views = self.program.gradient, self.backward.arena.views(arena, counts)
        return [*given[: len(gradient.dys)], *(views[carry.name] for carry in gradient.carries)]


def copied(arena: np.ndarray) -> np.ndarray:
    """A copy of an arena that begins as far from a cache line: see `arena.carve`."""
    whole = np.empty(arena.size + LINE, arena.dtype)
    start = (arena.ctypes.data - whole.ctypes.data) // arena.itemsize % (64 // arena.itemsize)
    copy = whole[start : start + arena.size]
    copy[...] = arena
    return copy


def plain(x: np.ndarray) -> np.ndarray:
    """The array as kernels read it: row after row, aligned, and writable, since what is not has another type."""
    return x if x.flags.carray else x.copy()
