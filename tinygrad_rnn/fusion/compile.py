"""The compiled cells of this process: a cell is compiled at its first call, and again when it has changed."""

import weakref
from operator import is_
from typing import Any

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.tape import no_grad
from ..kernels.locks import lock
from .fused import FusedCell, Sequence
from .trace import Unfusable


class Clock:
    """When an attribute of some module was last set or deleted: `now` is another object after each time."""

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.now = object()  # which, other than a number, is no other process's in a pickle


clock = Clock()


class Compiled:
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

    def holds(self) -> bool:
        """Whether nothing has changed since: attributes, nor the shapes and dtypes of parameters."""
        return self.attributes.hold() and (self.fused is None or self.fused.fits())

    def cell(self) -> FusedCell:
        """The compiled cell.

        Raises:
            Unfusable: with the reason why there is none.
        """
        if self.fused is None:
            raise Unfusable(self.reason)
        return self.fused


class _Attributes:
    """What a cell, the modules in it and their classes hold, directly or in lists and dictionaries: a step may branch
    on any of it.

    What modules hold directly is looked at again only when the `clock` has moved on.
    """

    def __init__(self, cell: Any) -> None:
        self.time = clock.now  # before anything is looked at
        modules = list(cell.modules())
        theirs = dict.fromkeys(kind for module in modules for kind in type(module).__mro__ if _is_users(kind))
        containers: list[Any] = [*map(vars, modules), *map(vars, theirs)]
        for container in containers:  # which grows on the way
            for item in _items(container):
                if isinstance(item, (list, tuple, set, dict)) and not any(item is known for known in containers):
                    containers.append(item)
        every = [(container, _items(container)) for container in containers]
        self.timed, self.others = every[: len(modules)], every[len(modules) :]

    def hold(self) -> bool:
        """Whether these are the very objects that they were."""
        now = clock.now
        if now is not self.time:
            if not _same(self.timed):
                return False
            self.time = now
        return not self.others or _same(self.others)


def _same(every: list[tuple[Any, list[Any]]]) -> bool:
    """Whether containers have the very items that they had."""
    for container, items in every:
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
_TRACING = lock("tracing")
_compiled: "weakref.WeakKeyDictionary[Any, dict[Any, list[Compiled]]]" = weakref.WeakKeyDictionary()


def compiled_cell(cell: Any, sequence: Sequence) -> Compiled:
    """The compiled cell for a sequence like this, from an earlier call if nothing has changed."""
    kind = sequence.kind
    with _TRACING:
        variants = _compiled.get(cell) or _compiled.setdefault(cell, {})
        for compiled in variants.get(kind, ()):
            if compiled.holds():
                break
        else:
            compiled = Compiled(cell, sequence)
            variants[kind] = [compiled, *variants.get(kind, ())][:VARIANTS]
    return compiled


def fused_cell(cell: Any, sequence: Sequence) -> FusedCell:
    """The same, if it could be compiled.

    Raises:
        Unfusable: with the reason.
    """
    return compiled_cell(cell, sequence).cell()


def last_fused_cell(cell: Any) -> FusedCell | None:
    """The compiled cell of the last call that needed a new one; None if there was no call since the cell changed.

    Raises:
        Unfusable: there was one, and it could not be compiled.
    """
    for known in reversed(_compiled.get(cell, {}).values()):
        for compiled in known:
            if compiled.holds():
                return compiled.cell()
    return None
