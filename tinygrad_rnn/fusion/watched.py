"""The tensors that a step may read while it is traced.

A kernel reads parameters anew at each call, so the numbers that they have while a step is traced must not go into it.
Most ways to these numbers are methods of `Tensor`, which ask the tracer. What is left are plain attributes: for the
time of a trace, the tensors that a cell holds are of a class in which these are properties.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FunctionType
from typing import Any

import numpy as np

from ..autograd.tape import OUR_FILES, Value, mode
from ..autograd.tensor import Tensor
from ..kernels.locks import lock


def guarded(name: str) -> property:
    """An attribute of tensors that only this library may read and write while a step is traced."""
    slot: Any = vars(Value)[name]

    def check(tensor: Any) -> None:
        if mode.tracer is not None and not _may_read(sys._getframe(2).f_code.co_filename):
            if name == "data":
                mode.tracer.refuse_numbers(tensor)
            mode.tracer.refuse_gradients("grad_fn" if name == "node" else f"{name} of a tensor")

    def get(tensor: Any) -> Any:
        check(tensor)
        return slot.__get__(tensor)

    def put(tensor: Any, value: Any) -> None:
        check(tensor)
        slot.__set__(tensor, value)

    return property(get, put)


@functools.cache
def _may_read(file: str) -> bool:
    """Whether code of a file may see the arrays of tensors: this library's, but for what copies or fills models."""
    return OUR_FILES[file] and not file.endswith(("module.py", "init.py", "checkpoint.py"))


@functools.cache
def _guarding(kind: Any) -> type[Tensor]:
    """A class like this one whose tensors are watched."""

    def reduce(self: Any) -> Any:
        """As one of the class itself: another thread may make a copy meanwhile."""
        made, (first, *rest) = kind.__reduce__(self)
        return (made, (kind, *rest)) if first is type(self) else (kind, (first, *rest))

    own: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__, "__reduce__": reduce}
    return type(kind.__name__, (kind,), own | {name: guarded(name) for name in ("data", "grad", "node")})


_lock = lock("watching")
_watchers: dict[int, tuple[int, type[Tensor]]] = {}  # tensor -> how many traces watch it, and its own class


@contextmanager
def watched(tensors: list[Any]) -> Iterator[None]:
    """While a step is traced: its tensors refuse to show their numbers."""
    with ExitStack() as taken:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and _watch(tensor):
                taken.callback(_leave, tensor)
        yield


def _watch(tensor: Any) -> bool:
    with _lock:
        count, kind = _watchers.get(id(tensor), (0, type(tensor)))
        if not count:
            try:
                tensor.__class__ = _guarding(kind)
            except TypeError:  # of a class that nothing inherits from, or of another layout
                return False
        _watchers[id(tensor)] = count + 1, kind
        return True


def _leave(tensor: Any) -> None:
    with _lock:
        count, kind = _watchers.pop(id(tensor))
        if count > 1:
            _watchers[id(tensor)] = count - 1, kind
        else:
            tensor.__class__ = kind


def tensors_of(cell: Any, functions: list[FunctionType]) -> list[tuple[str, Any]]:
    """The tensors and arrays that a step may read, with their names: what the cell holds, and its code refers to."""
    found: dict[int, tuple[str, Any]] = {}

    def look(name: str, value: Any, depth: int) -> None:
        if isinstance(value, (Tensor, np.ndarray)):
            found.setdefault(id(value), (name, value))
        elif isinstance(value, dict) and depth:
            for key, each in list(value.items()):
                look(f"{name}[{key!r}]" if name else str(key), each, depth - 1)
        elif isinstance(value, (list, tuple)) and depth:
            for i, each in enumerate(value):
                look(f"{name}[{i}]", each, depth - 1)

    for path, module in cell.named_modules():
        for name, value in list(vars(module).items()):
            look(f"self.{path}.{name}" if path else f"self.{name}", value, 2)
    for function in functions:
        for name, value in reached(function).items():
            look(name, value, 1)
    return list(found.values())


def functions_of(cell: Any) -> list[FunctionType]:
    """The functions outside this library that a step may call: methods, and what these refer to by name."""
    kinds = {base: None for module in cell.modules() for base in type(module).__mro__}
    functions = [f for kind in kinds for f in map(_function, vars(kind).values()) if f]
    for function in functions:  # which grows on the way
        functions += [f for f in map(_function, reached(function).values()) if f and f not in functions]
    return functions


def reached(function: FunctionType) -> dict[str, Any]:
    """What a function refers to by name: globals, and variables around it."""
    code = function.__code__
    found = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    for name, closed in zip(code.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # still empty
            found[name] = closed.cell_contents
    return found


def _function(value: Any) -> FunctionType | None:
    """A user's function, also one that is a property or a static method."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    ours = isinstance(value, FunctionType) and OUR_FILES[value.__code__.co_filename]
    return value if isinstance(value, FunctionType) and not ours else None
