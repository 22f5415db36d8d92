"""A few helper threads that share the chunks of one task with the thread that called.

    run(task, count)        # task(0), task(1), ..., task(count - 1), on up to get_num_threads() threads

Why not Numba's `prange`? Its workqueue layer aborts the process when two Python threads enter it, GNU OpenMP hangs in
a forked child, and both wait for every thread: while the system keeps a helper off the processor, the caller stands
still. Here the caller works too and takes every chunk that no helper has begun, so a helper that comes late or never
costs nothing but its share; concurrent and nested calls need no lock; a forked child starts helpers of its own. The
price is that a helper is woken through Python: some 50 microseconds until two threads run, so that two pay from about
200 microseconds of work on.

A task should spend its time in functions compiled with `nogil=True`.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from numba import config

_num_threads = 0  # chosen at first use: NUMBA_NUM_THREADS may be set after this module is imported


def get_num_threads() -> int:
    """The number of threads a large operation may use, the caller's included; at first NUMBA_NUM_THREADS."""
    return _num_threads or int(config.NUMBA_NUM_THREADS)


def set_num_threads(n: int) -> None:
    """Let large operations use `n` threads, the caller's included. Results do not depend on it, to the last bit.

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1 or more than NUMBA_NUM_THREADS, an environment variable that is the number of
            processors unless it is set.
    """
    global _num_threads
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"set_num_threads(n): n must be an integer, got {n!r}")
    most = int(config.NUMBA_NUM_THREADS)
    if not 1 <= n <= most:
        raise ValueError(
            f"set_num_threads({n}): expected 1 to {most}; for more threads set NUMBA_NUM_THREADS before the start"
        )
    _num_threads = n.__index__()


def run(task: Callable[[int], object], count: int) -> None:
    """Call `task(i)` once for every i in range(count), in no particular order, and return when all calls have.

    An exception in a task is raised here, after the other calls.
    """
    helpers = min(get_num_threads(), count) - 1
    if helpers < 1:
        for i in range(count):
            task(i)
        return
    job = _Job(task, count)
    for helper in _first_helpers(helpers):
        helper.hand(job)
    job.work()
    job.finished.acquire()  # waits for chunks that helpers have begun, and for no helper that has not
    if job.error is not None:
        raise job.error


class _Job:
    """The chunks of one task, drawn one by one by whoever has time."""

    def __init__(self, task: Callable[[int], object], count: int) -> None:
        self.task, self.count = task, count
        self.drawn = self.done = 0
        self.error: BaseException | None = None
        self.lock, self.finished = threading.Lock(), threading.Lock()
        self.finished.acquire()

    def work(self) -> None:
        while (i := self._draw()) < self.count:
            try:
                self.task(i)
            except BaseException as error:
                self.error = error
            with self.lock:
                self.done += 1
                if self.done == self.count:
                    self.finished.release()

    def _draw(self) -> int:
        with self.lock:
            self.drawn += 1
            return self.drawn - 1


class _Helper(threading.Thread):
    """A thread that sleeps until it is handed a job."""

    def __init__(self) -> None:
        super().__init__(name="tinygrad_rnn helper", daemon=True)
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.avoids: int | None = None
        self.start()

    def run(self) -> None:
        while True:
            self.jobs.get().work()

    def hand(self, job: _Job) -> None:
        here = _processor()
        if here != self.avoids:
            self.avoids = here
            with contextlib.suppress(OSError):  # where that is forbidden
                # A sleeper may be woken on its waker's processor and share it for milliseconds while others idle.
                if (elsewhere := os.sched_getaffinity(0) - {here}) and self.native_id:
                    os.sched_setaffinity(self.native_id, elsewhere)
        self.jobs.put(job)


_helpers: list[_Helper] = []
_starting = threading.Lock()


def _first_helpers(n: int) -> list[_Helper]:
    """As many helpers as there can be, up to `n`."""
    if len(_helpers) < n:
        # A thread may be refused: by a limit of the system, or because the interpreter is shutting down.
        with _starting, contextlib.suppress(RuntimeError):
            while len(_helpers) < n:
                _helpers.append(_Helper())
    return _helpers[:n]


def _forget_helpers() -> None:
    """In a forked child, where none of the parent's threads exist and a lock may be held for ever."""
    global _starting
    _helpers.clear()
    _starting = threading.Lock()


def _no_processor() -> None:
    """Where the system does not tell on which processor a thread runs."""


_processor: Callable[[], int | None] = _no_processor
if hasattr(os, "sched_setaffinity"):
    _processor = getattr(ctypes.PyDLL(None), "sched_getcpu", _no_processor)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_helpers)
