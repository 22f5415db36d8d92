"""The compiled cells of this process: a cell is compiled at its first call, and again when it has changed."""

import threading
import weakref
from operator import is_
from typing import Any

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.tape import no_grad
from .fused import FusedCell, Sequence
from .trace import Unfusable


class _Compiled:
    """A compiled cell, or the reason why there is none, and the attributes that it was traced with."""

    def __init__(self, cell: Any, sequence: Sequence) -> None:
        self.attributes = _Attributes(cell)
        self.fused: FusedCell | None = None
        self.reason = ""
        random_state = get_rng_state()  # a step that draws numbers must find the same ones on the tape
        try:
            with no_grad():
                self.fused = FusedCell(cell, sequence)
        except Unfusable as error:
            self.reason = str(error)
        except Exception as error:  # whatever the user's code raises: the tape will raise it again, in its own words
            self.reason = f"step could not be traced: {error}"
        finally:
            set_rng_state(random_state)


class _Attributes:
    """What a cell, the modules in it and their classes hold, directly or in lists and dictionaries: a step may branch
    on any of it.
    """

    def __init__(self, cell: Any) -> None:
        modules = list(cell.modules())
        theirs = dict.fromkeys(kind for module in modules for kind in type(module).__mro__ if _is_users(kind))
        self.containers: list[Any] = [*map(vars, modules), *map(vars, theirs)]
        for container in self.containers:  # which grows on the way
            for item in _items(container):
                if isinstance(item, (list, tuple, set, dict)) and not any(item is known for known in self.containers):
                    self.containers.append(item)
        self.items = list(map(_items, self.containers))

    def hold(self) -> bool:
        """Whether these are the very objects that they were."""
        for container, items in zip(self.containers, self.items):
            now = _items(container)
            if len(now) != len(items) or not all(map(is_, now, items)):
                return False
        return True


def _items(container: Any) -> list[Any]:
    return [*container, *container.values()] if hasattr(container, "values") else [*container]


def _is_users(kind: type) -> bool:
    """Whether a class is not this library's, whose classes nobody changes, nor Python's."""
    return kind.__module__.partition(".")[0] not in (__name__.partition(".")[0], "builtins")


VARIANTS = 8  # of a cell that are remembered for inputs of one kind, such as one for training and one for evaluation
_TRACING = threading.RLock()  # a cell holds symbols while it is traced: no other thread may look at it then
_compiled: "weakref.WeakKeyDictionary[Any, dict[Any, list[_Compiled]]]" = weakref.WeakKeyDictionary()


def fused_cell(cell: Any, sequence: Sequence) -> FusedCell:
    """The compiled cell for a sequence like this, from an earlier call if nothing has changed.

    Raises:
        Unfusable: with the reason.
    """
    kind = sequence.kind
    with _TRACING:
        variants = _compiled.get(cell) or _compiled.setdefault(cell, {})
        for compiled in variants.get(kind, ()):
            if compiled.attributes.hold():
                break
        else:
            compiled = _Compiled(cell, sequence)
            variants[kind] = [compiled, *variants.get(kind, ())][:VARIANTS]
    if compiled.fused is None:
        raise Unfusable(compiled.reason)
    return compiled.fused


def last_fused_cell(cell: Any) -> FusedCell | None:
    """The compiled cell of the last call that needed a new one; None if there was no call since the cell changed.

    Raises:
        Unfusable: there was one, and it could not be compiled.
    """
    for known in reversed(_compiled.get(cell, {}).values()):
        for compiled in known:
            if compiled.attributes.hold():
                if compiled.fused is None:
                    raise Unfusable(compiled.reason)
                return compiled.fused
    return None
