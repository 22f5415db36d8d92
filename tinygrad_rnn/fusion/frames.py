"""Frames of the running call: which line of the user's code it is, what its variables are called, what it catches."""

import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from ..autograd.tape import OUR_FILES, line_of, ours
from .refusal import innermost


def called(otherwise: str) -> str:
    """The function of this library that the user's code has called, if it has a name that a user knows."""
    frame, name = sys._getframe(1), otherwise
    while frame.f_back is not None and ours(frame):
        frame, name = frame.f_back, frame.f_code.co_name
    return otherwise if name.startswith(("_", "<")) or name in ("function", "wrapped", "getitem") else name


def step_line(cell: Any) -> str:
    """Where the step of a cell is written."""
    code = getattr(getattr(type(cell), "step", None), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}, in {code.co_name}" if code else type(cell).__name__


class _Listener(threading.local):
    """Who is told of every function that a step calls while it is traced, and when it has run once of two times.

    Attributes:
        codes: the user's code that the step can reach.
    """

    called: Callable[[FrameType], None] | None = None
    between: Callable[[], None] | None = None
    codes: frozenset[CodeType] = frozenset()


listener = _Listener()


class latching:
    """While a step runs: what this library raises is a refusal, though the step may catch it and go another way.

    An error that depends on the size of the batch would let every batch go the way of the one that is traced.
    """

    def __init__(self, trace: Any, codes: set[CodeType]) -> None:
        self.trace = trace
        reached = [*codes, *listener.codes]
        for code in reached:  # which grows on the way, by the functions inside
            reached += [each for each in code.co_consts if isinstance(each, CodeType)]
        self.codes = {code for code in reached if getattr(code, "co_exceptiontable", True)}

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        if self.codes:
            sys.settrace(self._enter_frame)

    def __exit__(self, *error: object) -> None:
        if self.codes:
            sys.settrace(self.before)

    def _enter_frame(self, frame: FrameType, event: Any, value: Any) -> Any:
        inner: Any = None
        if self.before is not None:  # a debugger, or what measures coverage, which would put itself in our place
            inner = self.before(frame, event, value)
            sys.settrace(self._enter_frame)
        if frame.f_code not in self.codes:
            return inner
        frame.f_trace_lines = inner is not None

        def watch(frame: FrameType, event: str, value: Any) -> Any:
            nonlocal inner
            if event == "exception" and isinstance(value[1], Exception):
                file, _, _ = innermost(value[1], value[2]).rpartition(":")
                if OUR_FILES[file]:
                    self.trace.latch(self.trace.untraced(value[1], line_of(frame)))
            if inner is not None:
                inner = inner(frame, event, value)
            return watch

        return watch


def step_codes(cell: Any) -> set[Any]:
    """The code of the `step` of a cell, and of cells inside it."""
    steps = [getattr(type(module), "step", None) for module in cell.modules()]
    return {getattr(step, "__code__", None) for step in steps}


class Locals:
    """The local variables of a cell's `step`, and of those of cells inside it, at their return: for their names."""

    def __init__(self, cell: Any) -> None:
        self.codes = step_codes(cell)
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

    def _enter_frame(self, frame: FrameType, event: Any, value: Any) -> Any:
        if listener.called is not None:
            listener.called(frame)
        return self._watch if frame.f_code in self.codes else None

    def _watch(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == "return" and frame.f_code in self.codes:
            self.found += frame.f_locals.items()
        elif event == "call" and listener.called is not None:
            listener.called(frame)
        return self._watch
