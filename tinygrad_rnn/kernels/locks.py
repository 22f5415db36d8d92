"""All locks of the library, which a forked child finds open; and a property that needs none.

A child has only the thread that forked. What another thread was holding then - a lock, a cell that is half traced, a
compiler in the middle of a function - would stay so in the child for ever. So whoever forks takes all locks first: that
waits until other threads are through with what they compile, a second or two at most. Parent and child open them.

Who holds a lock may ask for those that stand after it in ORDER, and for none before: two threads never wait for each
other. A lock is not made anywhere else.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock

ORDER = (
    "tracing",  # a cell holds symbols while it is traced: no other thread may look at it then
    "watching",  # tensors are of another class while a step that may read them is traced
    "loading",  # threads that ask for the same generated text at once get the same module, and a complete one
    "numba",  # Numba's own, while it compiles ...
    "llvm",  # ... and that of LLVM's library, at every call of it
    "arriving",  # several threads may bring gradients to one tensor
    "helpers",  # of the team, while they are started and stopped
    "blas",  # how many threads NumPy's library has, while that is changed
)
_locks: dict[str, Any] = {name: threading.RLock() for name in ORDER}
_locks |= {"numba": global_compiler_lock, "llvm": getattr(ffi.lib, "_lock", contextlib.nullcontext())}


def lock(name: str) -> Any:
    """The lock of that name; the thread that holds it may take it again."""
    return _locks[name]


_held: list[contextlib.ExitStack] = []  # all locks, of the thread that forks


def _take() -> None:
    stack = contextlib.ExitStack()
    try:
        for name in ORDER:
            stack.enter_context(_locks[name])
    except BaseException:  # Ctrl-C while it waits: Python prints it, and forks all the same
        stack.close()
        raise
    finally:
        _held.append(stack)


if hasattr(os, "register_at_fork"):
    open_all = lambda: _held.pop().close()
    os.register_at_fork(before=_take, after_in_parent=open_all, after_in_child=open_all)


T = TypeVar("T")


class lazy(Generic[T]):
    """A property that is computed when it is first asked for, and kept in the instance.

    `functools.cached_property` does that under a lock, one for all instances, before Python 3.12. Here threads that ask
    at once may each compute the value; all get the one that is kept.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]
        return vars(instance).setdefault(self.name, self.compute(instance))
