"""What a thread records, and which line of the user's code is running.

`mode` says what becomes of operations: they run and are recorded, run only (`no_grad`), are watched for NaN
(`detect_anomaly`), or are told to a tracer instead of running. Messages name the line that the user wrote, not the one
of this package that noticed.
"""

import contextlib
import copy
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np


class _Mode(threading.local):
    """What the running thread records: operations for a later gradient; lines of user code for error messages.

    With a `tracer`, operations do not run: the tracer is told of them. `retain` says whether the backward pass that is
    running keeps the residuals for another one. `level` is all settings in one, for one look at each operation: 0
    records nothing, 1 records, 2 watches for NaN, 3 traces.
    """

    def __init__(self) -> None:  # called once in each thread
        self.grad, self.anomaly, self.retain, self.level = True, False, False, 1
        self.tracer: Any = None


mode = _Mode()


class set_mode:
    """Context manager and decorator that switches one field of `mode` and restores it.

    Python lets an interrupt (Ctrl-C) in where a function starts and where a call ends. Between the first and the last
    change of `mode` there is no call, so an interrupt finds all of them done or none. (One that comes in the very
    moment in which `__exit__` starts, 100 ns, leaves a block without leaving it: so does every `with` of Python's.)
    """

    __slots__ = ("before", "field", "setting")

    def __init__(self, field: str, setting: Any) -> None:
        self.field, self.setting = field, setting
        self.before: Any = None  # what was set, and what this was before the block around it was entered

    def __enter__(self) -> None:
        fields, field = mode.__dict__, self.field  # those of this thread, looked for once
        if fields["tracer"] is not None:
            self._ask(sys._getframe(1))
        self.before = fields[field], self.before
        fields[field] = self.setting
        fields["level"] = 3 if fields["tracer"] is not None else 2 if fields["anomaly"] else 1 if fields["grad"] else 0

    def __exit__(self, *error: object) -> None:
        fields = mode.__dict__
        fields[self.field], self.before = self.before
        fields["level"] = 3 if fields["tracer"] is not None else 2 if fields["anomaly"] else 1 if fields["grad"] else 0

    def _ask(self, frame: FrameType) -> None:
        """A step that is traced must leave the mode alone: its operations do not run where it says so."""
        if not ours(frame):
            what = "tg.detect_anomaly()" if self.field == "anomaly" else "tg.no_grad() or tg.enable_grad()"
            mode.tracer.refuse_gradients(what)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if mode.tracer is not None:
                self._ask(sys._getframe(1))
            with set_mode(self.field, self.setting):
                return function(*args, **kwargs)

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            if mode.tracer is not None:
                self._ask(sys._getframe(1))
            running = function(*args, **kwargs)
            resume: Callable[[], Any] = functools.partial(next, running)
            while True:
                with set_mode(self.field, self.setting):  # where it runs, not where it waits for the next turn
                    try:
                        value = resume()
                    except StopIteration as stop:
                        return stop.value
                try:
                    resume = functools.partial(running.send, (yield value))
                except BaseException as error:
                    resume = functools.partial(running.throw, error)

        return generator if inspect.isgeneratorfunction(function) else wrapped


def _mode(field: str, setting: Any, function: Any) -> Any:
    return set_mode(field, setting) if function is None else set_mode(field, setting)(function)


def no_grad(function: Any = None) -> Any:
    """Record nothing inside: results need no gradient, and no residual is saved for one. Also a decorator.

        >>> import tinygrad_rnn as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> with tg.no_grad():
        ...     w -= 0.5
        >>> w
        tensor([0.5, 1.5], requires_grad=True)

    Leaves can be written to inside, which is how weights are updated by hand: `p -= 0.1 * p.grad`.
    """
    return _mode("grad", False, function)


def enable_grad(function: Any = None) -> Any:
    """Record again, inside a `no_grad` block. Also a decorator.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0], requires_grad=True)
        >>> with tg.no_grad():
        ...     with tg.enable_grad():
        ...         y = x * 2
        >>> y.requires_grad
        True
    """
    return _mode("grad", True, function)


def is_grad_enabled() -> bool:
    """Whether operations of this thread are being recorded.

        >>> import tinygrad_rnn as tg
        >>> tg.is_grad_enabled()
        True
        >>> with tg.no_grad():
        ...     tg.is_grad_enabled()
        False
    """
    not_traced("tg.is_grad_enabled()")
    return mode.grad


def not_traced(what: str) -> None:
    """Before gradients are asked for or about: a step that is traced may not."""
    if mode.level == 3:
        mode.tracer.refuse_gradients(what)


def detect_anomaly() -> set_mode:
    """Raise `FloatingPointError` at the first operation, forward or backward, that makes a NaN out of none.

        >>> import tinygrad_rnn as tg
        >>> with tg.detect_anomaly():
        ...     tg.log(tg.tensor([-1.0]))
        Traceback (most recent call last):
            ...
        FloatingPointError: log produced the first NaN, called at ...

    The message names the operation and the line of user code that called it. Slow: every result is inspected.
    """
    return set_mode("anomaly", True)


# ---- Lines of user code ----------------------------------------------------------------------------------------------

_PACKAGE = str(Path(__file__).parent.parent) + os.sep
_LIBRARIES = tuple(str(m.__file__) for m in (contextlib, copy, functools)) + (str(Path(np.__file__).parent) + os.sep,)


def user_line() -> str:
    """The innermost line of the running call that lies outside this package, as `file:line, in function`."""
    return line_of(user_frame())


def line_of(frame: FrameType) -> str:
    """Where a frame is."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"


def user_frame() -> FrameType:
    """The innermost frame of the running call that lies outside this package, and of what calls it back."""
    frame = sys._getframe(1)
    while frame.f_back is not None and passed_over(frame):
        frame = frame.f_back
    return frame


def passed_over(frame: FrameType) -> bool:
    """Whether a frame is not the user's, but of this package or of what calls it on the user's behalf."""
    name = frame.f_code.co_filename
    return OUR_FILES[name] or name.startswith(_LIBRARIES)


class _Files(dict[str, bool]):
    """Whether code of a file, by its name, is this package's, or of a gradient rule of the table."""

    def __missing__(self, name: str) -> bool:
        self[name] = name.startswith((_PACKAGE, "<gradient of "))
        return self[name]


OUR_FILES = _Files()


def ours(frame: FrameType) -> bool:
    """Whether a frame is of this package."""
    return OUR_FILES[frame.f_code.co_filename]
