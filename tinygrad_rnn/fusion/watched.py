"""The tensors that a step may read while it is traced.

A kernel reads parameters anew at each call, so the numbers that they have while a step is traced must not go into it.
Most ways to these numbers are methods of `Tensor`, which ask the tracer. What is left are plain attributes: for the
time of a trace, the tensors that a cell holds are of a class in which these are properties.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import CodeType, FunctionType, MethodType
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


def reach_of(cell: Any) -> tuple[list[tuple[str, Any]], set[CodeType]]:
    """The tensors and arrays that a step may read, with their names, and the code outside this library that it may run:
    what the cell holds, its methods, and what these refer to by name."""
    ahead: list[tuple[str, Any, int]] = []  # with how many containers deep to look
    for path, module in cell.named_modules():
        ahead += [(f"self.{path}.{name}" if path else f"self.{name}", x, 2) for name, x in list(vars(module).items())]
    kinds = {kind: None for module in cell.modules() for kind in type(module).__mro__}
    ahead += [("", function, 0) for kind in kinds for function in map(_function, list(vars(kind).values()))]
    tensors: dict[int, tuple[str, Any]] = {}
    functions: dict[int, FunctionType] = {}
    for name, value, depth in ahead:  # which grows on the way
        function = _function(value)
        if isinstance(value, (Tensor, np.ndarray)):
            tensors.setdefault(id(value), (name, value))
        elif isinstance(value, dict) and depth:
            ahead += [(f"{name}[{key!r}]", each, depth - 1) for key, each in list(value.items())]
        elif isinstance(value, (list, tuple)) and depth:
            ahead += [(f"{name}[{i}]", each, depth - 1) for i, each in enumerate(value)]
        elif function is not None and id(function) not in functions:
            functions[id(function)] = function
            ahead += [(name, each, 1) for name, each in _named_in(function)]
    return list(tensors.values()), {function.__code__ for function in functions.values()}


def _named_in(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function refers to by name: globals, and variables around it."""
    code, known = function.__code__, function.__globals__
    yield from ((name, known[name]) for name in code.co_names if name in known)
    for name, closed in zip(code.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # still empty
            yield name, closed.cell_contents


def _function(value: Any) -> FunctionType | None:
    """A user's function, also one that is a property or a static method."""
    if isinstance(value, (staticmethod, classmethod, MethodType, property)):
        value = value.fget if isinstance(value, property) else value.__func__
    users = isinstance(value, FunctionType) and not OUR_FILES[value.__code__.co_filename]
    return value if users else None
