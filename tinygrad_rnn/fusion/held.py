"""Values that one call holds on objects that others use at the same time, such as the dropout mask of a sequence.

They are attributes of the object to the thread (or the task) that holds them, and to nobody else: what others see, what
is saved and what an optimiser writes to stays as it is.

    with holding([(cell, {"mask": m})]):
        cell.mask is m
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

Values = Sequence[tuple[Any, dict[str, Any]]]
# By owner and name: the value, and the names that were asked for since it is held. Never changed, only replaced.
_held: ContextVar[Mapping[tuple[int, str], tuple[Any, set[str]]]] = ContextVar("held", default=MappingProxyType({}))


class Held:
    """The attribute of a class by which its instances are asked for what is held, then for what is theirs, be it there
    or computed of parameters (see `nn.utils.parametrize`)."""

    def __init__(self, kind: type, name: str) -> None:
        self.kind, self.name = kind, name
        setattr(kind, name, self)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        found = _held.get().get((id(owner), self.name))
        if found is not None:
            found[1].add(self.name)
            return found[0]
        own = {} if owner is None else vars(owner)
        if self.name in own:
            return own[self.name]
        if self.name in own.get("parametrizations", ()):
            return own["parametrizations"][self.name]()
        try:
            return getattr(super(self.kind, kind if owner is None else owner), self.name)  # what there is without this
        except AttributeError:
            whose = f"type object {kind.__name__!r}" if owner is None else f"{type(owner).__name__!r} object"
            raise AttributeError(f"{whose} has no attribute {self.name!r}", name=self.name, obj=owner) from None

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)[self.name] = value

    def __delete__(self, owner: Any) -> None:
        if self.name not in vars(owner):
            raise AttributeError(self.name)
        del vars(owner)[self.name]


def held(owner: Any, name: str) -> Any:
    """What the running call holds on an object under a name; None if nothing."""
    found = _held.get().get((id(owner), name))
    return None if found is None else found[0]


def has(owner: Any, name: str) -> bool:
    """Whether an object has an attribute whatever is held."""
    defined = [vars(kind)[name] for kind in type(owner).__mro__ if name in vars(kind)]
    return name in vars(owner) or not all(isinstance(value, Held) for value in defined)


@contextmanager
def holding(values: Values) -> Iterator[set[str]]:
    """Inside, objects have these values as attributes, for who runs this; yields the names that were asked for."""
    for owner, named in values:
        for name in named:
            kind = type(owner)
            first = inspect.getattr_static(kind, name, None)
            if first is None:
                Held(kind, name)
            elif not isinstance(first, Held):
                raise ValueError(f"{kind.__name__}: {name} is an attribute of the class")
    before, asked = _held.get(), set[str]()
    ours = {(id(owner), name): (value, asked) for owner, named in values for name, value in named.items()}
    _held.set({**before, **ours})
    try:
        yield asked
    finally:
        _held.set(before)
