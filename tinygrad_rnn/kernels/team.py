"""Helper threads that share one job of machine code with the thread that called, and are awake within a microsecond.

Why not Numba's `prange`? Its workqueue layer aborts the process when two Python threads enter it, GNU OpenMP hangs in
a forked child, and both wait for every thread: while the system keeps a helper off the processor, the caller stands
still. And why not threads that run Python? To wake one through the interpreter takes some 50 microseconds, and a matrix
product may be over by then. So these helpers never enter the interpreter: they wait inside machine code, look at a
counter for a few tens of microseconds after a job, and then park until somebody unparks them.

A job is a function of machine code `chunk(job, i, workspace)` and a number of chunks. The caller works too and takes
every chunk that no helper has begun, so a helper that comes late or never costs nothing but its share. There is one job
at a time: who finds the team busy - a second Python thread, or a chunk that calls in turn - does its chunks alone. A
forked child starts helpers of its own, and at the end of the process they are told to stop.

The state is a block of memory with a cache line for each number that several threads write. Any thread may read LEFT
at any time; what it takes from there is a chunk of the job that is under way then, which cannot end before that chunk.
So a helper that was looking at an earlier job may take part in a later one that wants fewer.

To be unparked means nothing but to look again: whoever did the last chunk of a job may be late, and unpark the caller
of the next one. That no order of steps makes `share` return early, do a chunk twice or hang is not argued here but
tried: a test walks all of them, taking the steps from the instructions that are written below.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir

from .assembler import I32, I64, VOID, Function, Int, Library
from .locks import lock
from .pool import cache_aligned

LEFT, DONE, BUSY, CALLER, STOP = (64 * n for n in range(5))  # CALLER and the helpers: (parked, the lock to sleep on)
THREAD, AVOIDED = 16, 24  # and of helpers besides: the system's number, the processor they keep away from, plus one
GIVEN = 32  # ... and the address of the set of processors that they were given
STARTED, PATIENT = 320, 328  # how many helpers there are, and turns that a thread looks for work before it sleeps
AWAY, PROCESSORS = 336, 344  # the address of a set of processors for each: those to be on to keep away from it
COUNT, HELPERS, CHUNK, JOB = 384, 392, 400, 408  # how many chunks and helpers, the function, what it is told ...
JOB_BYTES = 192  # ... and the length of that
FIRST_HELPER, MOST_HELPERS = 640, 256
PATIENCE = 50e-6  # seconds, likewise
FREE, TAKEN = 0, 1
SET_BYTES = 128  # of a set of processors, a bit for each
# Whether the system tells where a thread runs, and lets a program choose.
PLACED = hasattr(os, "sched_getaffinity") and hasattr(ctypes.CDLL(None), "sched_getcpu")


class _Atomic:
    """Numbers in memory that several threads read and write, in the order in which the program says so."""

    def __init__(self, f: Function) -> None:
        self.f, self.builder = f, f.builder

    def get(self, address: Int) -> Int:
        return Int(self.builder, self.builder.load_atomic(self.f.pointer(address, I64), "seq_cst", 8))

    def set(self, address: Int, value: Any) -> None:
        self.builder.store_atomic(self.f.number(value).value, self.f.pointer(address, I64), "seq_cst", 8)

    def add(self, address: Int, value: int) -> Int:
        """Add, and return what the number was before."""
        place, step = self.f.pointer(address, I64), self.f.number(value).value
        return Int(self.builder, self.builder.atomic_rmw("add", place, step, "seq_cst"))

    def compare_and_swap(self, address: Int, before: int, after: int) -> Int:
        """Change the number from `before` to `after`; false if it was another one."""
        place, values = self.f.pointer(address, I64), [self.f.number(n).value for n in (before, after)]
        pair = self.builder.cmpxchg(place, *values, "seq_cst", "seq_cst")
        return Int(self.builder, self.builder.extract_value(pair, 1))


def _pause(f: Function) -> None:
    """Tell the processor that this thread waits, where there is a way to."""
    machine = binding.get_process_triple()
    if machine.startswith(("x86", "i686", "amd64")):
        f.intrinsic("llvm.x86.sse2.pause", VOID)
    elif machine.startswith(("aarch64", "arm64")):
        f.intrinsic("llvm.aarch64.hint", VOID, I32(1))


def _park(f: Function, place: Int, unless: Callable[[], Int]) -> None:
    """Sleep until another thread unparks the one that is parked at `place`, unless there is a reason not to.

    There may be none afterwards either: who unparks may have had an earlier reason. Look again.
    """
    atomic = _Atomic(f)
    awake = f.variable(0)
    atomic.set(place, 1)
    with f.when(unless()):  # looked up after the mark is set: who gives a reason later sees the mark
        with f.when(atomic.compare_and_swap(place, 1, 0)):  # if it is gone, somebody is about to open the lock
            awake.set(f.number(1))
    with f.when(awake.get() == 0):
        f.call("PyThread_acquire_lock", f.read(place + 8), 1)


def _wait(f: Function, team: Int, place: Int, condition: Callable[[], Int]) -> None:
    """Look again and again whether the condition holds; after some time, park at `place` until it does."""
    turns = f.variable(0)
    with f.endless_loop() as leave_unless:
        leave_unless(~condition())
        _pause(f)
        turns.set(turns.get() + 1)
        with f.when(turns.get() > f.read(team + PATIENT)):
            _park(f, place, condition)
            turns.set(f.number(0))


def _unpark(f: Function, place: Int) -> None:
    """Open the lock of the thread that is parked at `place`, if one is."""
    atomic = _Atomic(f)
    with f.when(atomic.get(place) == 1), f.when(atomic.compare_and_swap(place, 1, 0)):
        f.call("PyThread_release_lock", f.read(place + 8))


def _send_away(f: Function, team: Int, helper: Int) -> None:
    """Keep a sleeping helper away from the caller's processor: woken there, it would wait for milliseconds.

    A helper that somebody else has given other processors, by taskset for instance, stays there; so it does if it was
    given those of the caller, which may by chance be the ones that it had from here.
    """
    here = f.call("sched_getcpu") & 0xFFFFFFFF
    new = (f.read(helper + AVOIDED) != here + 1) & (here < f.read(team + PROCESSORS))
    with f.when((_Atomic(f).get(helper) == 1) & new):
        thread, given, away = f.read(helper + THREAD), f.read(helper + GIVEN), f.read(team + AWAY)
        theirs, mine = f.stack(SET_BYTES), f.stack(SET_BYTES)
        for number, place in (thread, theirs), (0, mine):
            for n in range(0, SET_BYTES, 8):
                f.write(place + n, 0)
            f.call("sched_getaffinity", number, SET_BYTES, place)
        anywhere = away + f.read(team + PROCESSORS) * SET_BYTES
        with f.when(_equal(f, theirs, anywhere) | (_equal(f, theirs, given) & ~_equal(f, theirs, mine))):
            f.write(helper + AVOIDED, here + 1)
            f.write(helper + GIVEN, away + here * SET_BYTES)
            f.call("sched_setaffinity", thread, SET_BYTES, away + here * SET_BYTES)


def _equal(f: Function, a: Int, b: Int) -> Int:
    """Whether two sets of processors are the same."""
    differences = f.variable(0)
    with f.loop(0, SET_BYTES, 8) as n, f.when(f.read(a + n) != f.read(b + n)):
        differences.set(f.number(1))
    return differences.get() == 0


def write_work(module: Any) -> Function:
    """work(team, workspace): do chunks until none is left to begin."""
    f = Function(module, "work", ["team", "workspace"], local=True)
    atomic, (team, workspace) = _Atomic(f), f.arguments
    chunk = ir.FunctionType(ir.VoidType(), [I64] * 3)
    with f.endless_loop() as leave_unless:
        leave_unless(atomic.get(team + LEFT) > 0)
        i = atomic.add(team + LEFT, -1) - 1
        leave_unless(i >= 0)
        count = f.read(team + COUNT)  # now: the job may be over as soon as this chunk is counted
        function = f.pointer(f.read(team + CHUNK), chunk)
        f.builder.call(function, [(team + JOB).value, i.value, workspace.value])
        with f.when(atomic.add(team + DONE, 1) + 1 == count):
            _unpark(f, team + CALLER)
    f.give()
    return f


def write_share(module: Any, work: Function, local: bool = True) -> Function:
    """share(team, helpers, count, chunk, job, workspace) -> 1 if all chunks have been done, 0 if the team is busy.

    If `count` is not above zero, all have been done; no helpers, and fewer, are none.
    """
    f = Function(module, "share", ["team", "helpers", "count", "chunk", "job", "workspace"], local, gives=I64)
    atomic, (team, helpers, count, chunk, job, workspace) = _Atomic(f), f.arguments
    helpers = f.least(helpers, MOST_HELPERS)
    with f.when(count <= 0):
        f.give(1)
    with f.when(~atomic.compare_and_swap(team + BUSY, FREE, TAKEN)):
        f.give(0)
    for place, value in (COUNT, count), (CHUNK, chunk):
        f.write(team + place, value)
    with f.loop(0, JOB_BYTES, 8) as n:
        f.write(team + JOB + n, f.read(job + n))
    atomic.set(team + HELPERS, helpers)
    atomic.set(team + DONE, 0)
    atomic.set(team + LEFT, count)
    with f.loop(0, helpers) as k:
        helper = team + FIRST_HELPER + k * 64
        if PLACED:
            _send_away(f, team, helper)
        _unpark(f, helper)
    f.call(work, team, workspace)
    _wait(f, team, team + CALLER, lambda: atomic.get(team + DONE) == count)
    atomic.set(team + BUSY, FREE)
    f.give(1)
    return f


def _write_serve(module: Any, work: Function) -> None:
    """serve(team, me, workspace): what a helper does until the team stops."""
    f = Function(module, "serve", ["team", "me", "workspace"])
    atomic, (team, me, workspace) = _Atomic(f), f.arguments
    wanted = lambda: (atomic.get(team + LEFT) > 0) & (atomic.get(team + HELPERS) > me)
    stopped = lambda: atomic.get(team + STOP) != 0
    with f.endless_loop() as leave_unless:
        _wait(f, team, team + FIRST_HELPER + me * 64, lambda: wanted() | stopped())
        leave_unless(~stopped())
        f.call(work, team, workspace)
    f.give()


def _write_stop(module: Any) -> None:
    """stop(team, helpers): tell them to return from `serve`; no helpers, and fewer, are none."""
    f = Function(module, "stop", ["team", "helpers"])
    team, helpers = f.arguments
    _Atomic(f).set(team + STOP, 1)
    with f.loop(0, helpers) as k:
        _unpark(f, team + FIRST_HELPER + k * 64)
    f.give()


def _write_wait(module: Any) -> None:
    """wait(turns): to find out how long a turn takes; no turns, and fewer, are none."""
    f = Function(module, "wait", ["turns"])
    with f.loop(0, f.arguments[0]):
        _pause(f)
    f.give()


class Team:
    """The helpers of this process."""

    def __init__(self) -> None:
        self.memory = cache_aligned(FIRST_HELPER + 64 * MOST_HELPERS)
        self.address = self.memory.ctypes.data
        # Not even at the end of the process is it freed: other threads may be in the middle of a job.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.memory))
        self.reset()

    def reset(self) -> None:
        """Begin anew where nobody else looks at the memory: at first, and in a forked child."""
        self.memory[:] = 0
        self.helpers: list[threading.Thread] = []
        self.starting = lock("helpers")
        self._add_lock(CALLER)

    def _read(self, place: int) -> int:
        return ctypes.c_int64.from_address(self.address + place).value

    def _write(self, place: int, value: int) -> None:
        ctypes.c_int64.from_address(self.address + place).value = value

    def _add_lock(self, place: int) -> None:
        if not self._read(place + 8):
            new, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
            new.restype, acquire.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
            self._write(place + 8, lock := new())
            acquire(lock, 1)  # who acquires it again sleeps

    def start(self, helpers: int, workspace_bytes: int) -> None:
        """Have at least so many helpers, if that is possible, each with a workspace of so many bytes."""
        machine = _machine()
        # A thread may be refused: by a limit of the system, or because the interpreter is shutting down.
        with self.starting, contextlib.suppress(RuntimeError):
            if self._read(STOP):  # who was told to end keeps the place to sleep at until then
                self.helpers = [helper for helper in self.helpers if helper.is_alive()]
                if self.helpers:
                    return
            if not self.helpers:
                self._write(PATIENT, _turns(machine, PATIENCE))
                self._write(STOP, 0)
                self.sets = _sets_without_one()
                self._write(AWAY, self.sets.ctypes.data)
                self._write(PROCESSORS, len(self.sets) - 1)
            while len(self.helpers) < min(helpers, MOST_HELPERS):
                me = len(self.helpers)
                self._add_lock(FIRST_HELPER + 64 * me)
                helper = threading.Thread(
                    target=_serve, args=(machine, self.address, me, workspace_bytes), daemon=True,
                    name="tinygrad_rnn product helper",
                )  # fmt: skip
                helper.start()
                self._write(FIRST_HELPER + 64 * me + THREAD, helper.native_id or 0)
                self._write(FIRST_HELPER + 64 * me + AVOIDED, 0)
                self._write(FIRST_HELPER + 64 * me + GIVEN, self.sets[-1].ctypes.data)
                self.helpers.append(helper)
                self._write(STARTED, me + 1)

    @property
    def share(self) -> int:
        """The address of `write_share`'s function."""
        return int(_machine()["share"])

    def stop(self) -> None:
        """Have the helpers end. Who shares a job with them does the rest alone; later ones may start others."""
        with self.starting:
            self._write(STARTED, 0)
            if self.helpers:
                _machine()["stop"](self.address, len(self.helpers))
            for helper in self.helpers:
                helper.join(timeout=1)
            self.helpers = [helper for helper in self.helpers if helper.is_alive()]  # in a long chunk


@functools.cache
def _machine() -> dict[str, Any]:
    library = Library(_module, "team", (PLACED,))
    function = lambda name, n: ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n)(library.address(name))
    functions = {name: function(name, n) for name, n in (("serve", 3), ("stop", 2), ("wait", 1))}
    return functions | {"share": library.address("share")}


def _module() -> Any:
    module = ir.Module("team")
    _write_serve(module, work := write_work(module))
    write_share(module, work, local=False)
    for write in _write_stop, _write_wait:
        write(module)
    return module


def _serve(machine: dict[str, Any], address: int, me: int, workspace_bytes: int) -> None:
    workspace = cache_aligned(workspace_bytes)
    machine["serve"](address, me, workspace.ctypes.data)


def _sets_without_one() -> np.ndarray:
    """[processors + 1, SET_BYTES]: the bits of the processors that this thread may use, but for one of them each.

    The last are all of them, which a helper has at first.
    """
    allowed = os.sched_getaffinity(0) if PLACED else set()
    if not allowed or max(allowed) >= 8 * SET_BYTES:  # more than a set has room for: threads stay where they are
        return np.zeros((1, SET_BYTES), np.uint8)
    bits = np.zeros((max(allowed) + 2, 8 * SET_BYTES), np.uint8)
    for processor, row in enumerate(bits):
        row[list(allowed - {processor} or allowed)] = 1
    return np.packbits(bits, axis=1, bitorder="little")


def _turns(machine: dict[str, Any], seconds: float) -> int:
    """How many turns of waiting take so long."""
    turns, times = 1000, []
    for _ in range(5):
        start = time.perf_counter()
        machine["wait"](turns)
        times.append(time.perf_counter() - start)
    return max(1, int(seconds * turns / min(times)))


team = Team()
atexit.register(team.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.reset)
