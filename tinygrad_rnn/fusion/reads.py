"""Reads: values that a step can read, each with where it lies, what the user calls it, and what it was.

Objects are told apart by identity and arrays by their bytes; by `==` only numbers and texts. One read serves three
times:

    changed       after a trace: whether the step has changed it; such a step is refused,
    put_back      and finds on the tape what it found in the trace
    conditions    before each call: its guard, what must not be true if kernels are still what the step says
"""

import array
import collections
import contextlib
import ctypes
import functools
import gc
import random
import types
import weakref
from collections.abc import Callable, Iterable, Set
from contextvars import Context, ContextVar, copy_context
from operator import is_
from typing import Any

import numpy as np

from .held import Held
from .keys import key_of
from .trace import Symbol

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
HIDDEN = "_compiled"  # the attribute of a cell under which this process remembers what it made of it
VIEWS: tuple[Any, ...] = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))
Variable = Callable[..., str]  # gives a value, known by its identity or by a key, a variable of the guards


class Read:
    """One value that a step can read.

    Attributes:
        holder: where it lies; `name`: under which name, if it has one.
        path: what the user calls it, such as `self.log`.
        was: what it was when it was looked at.
        timed: whether only the library's modules, and so the clock of the guards, know of a change.
        told: what is said of a step that changes it.
    """

    timed = False
    told = (
        "step changes {}: a step that is compiled runs once, not at every step of a sequence; return what is to be "
        "kept as a state instead"
    )

    def __init__(self, holder: Any, path: str, name: Any = "") -> None:
        self.holder, self.path, self.name = holder, path, name
        self.was = self.get()

    def get(self) -> Any:
        """What it is now."""
        raise NotImplementedError

    def same(self, now: Any) -> bool:
        return now is self.was or (_is_plain(self.was) and type(now) is type(self.was) and bool(now == self.was))

    def holds(self) -> bool:
        """Whether it is what it was."""
        try:
            return self.same(self.get())
        except Exception:  # of what raises when it is looked at
            return False

    def changed(self, stores: Set[str] | None) -> str | None:
        """What the user calls that which the step has changed here; None if there is nothing.

        Args:
            stores: names that code of the step sets, for others may be at work on the same objects; None for any name.
        """
        return None if self.holds() else self.path

    def put_back(self) -> None:
        """Let it be what it was."""

    def conditions(self, variable: Variable) -> list[str]:
        """Expressions of which one is true if it has changed."""
        return [f"not {variable(self.holds)}()"]


# ---- Under a name ----------------------------------------------------------------------------------------------------


class Attribute(Read):
    """What has a place of its own: a slot, the class of an object, the code of a function, the content of a cell."""

    def get(self) -> Any:
        try:
            return getattr(self.holder, self.name)
        except (AttributeError, ValueError):  # the latter of an empty cell
            return MISSING

    def changed(self, stores: Set[str] | None) -> str | None:
        now = self.get()
        if now is self.was or not (_sets(stores, self.name) or holds_symbol(now)):
            return None
        return self.path

    def put_back(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # of what nobody can set
            if self.was is MISSING:
                object.__delattr__(self.holder, self.name)
            else:
                object.__setattr__(self.holder, self.name, self.was)

    def conditions(self, variable: Variable) -> list[str]:
        if self.was is MISSING:
            return super().conditions(variable)
        return [_differs(f"{variable(self.holder)}.{self.name}", self.was, variable)]


class OfTensor(Attribute):
    """The array, the gradient or the node of a tensor, which others may go on training meanwhile."""

    def changed(self, stores: Set[str] | None) -> str | None:
        return super().changed(frozenset() if stores is None else stores)


class Form(Read):
    """The shape and the dtype of a tensor, whatever array has them: optimisers and gradcheck give it others."""

    def get(self) -> Any:
        return self.holder.data.shape, self.holder.data.dtype

    def same(self, now: Any) -> bool:
        return bool(now == self.was)

    def conditions(self, variable: Variable) -> list[str]:
        data, (shape, dtype) = f"{variable(self.holder)}.data", self.was
        return [f"{data}.shape != {variable(shape)}", f"{data}.dtype != {variable(dtype)}"]


class Entry(Attribute):
    """What a dictionary has under a name, such as that of an object or of a module, or what a class defines."""

    def get(self) -> Any:
        return entry(mapping_of(self.holder), self.name)

    def put_back(self) -> None:
        if isinstance(self.holder, type):
            setattr(self.holder, self.name, self.was)
        else:
            self.holder[self.name] = self.was

    def conditions(self, variable: Variable) -> list[str]:
        return [_differs(f"{_where(self.holder, variable)}[{self.name!r}]", self.was, variable)]


class Keys(Read):
    """Which names lie in a dictionary, or are defined by a class: others may come.

    Args:
        names: those that matter; None for all.
        hiding: of these, those that would hide something else, and so matter to kernels.
    """

    def __init__(self, holder: Any, path: str, names: set[str] | None, hiding: Set[str] = frozenset()) -> None:
        self.names, self.hiding = names, hiding
        super().__init__(holder, path, (names is None, frozenset(hiding)))

    def get(self) -> set[str]:
        mapping = mapping_of(self.holder)
        names = set(mapping) if self.names is None else self.names.intersection(mapping)
        return {name for name in names if name != HIDDEN and entry(mapping, name) is not MISSING}

    def same(self, now: set[str]) -> bool:
        return now <= self.was

    def changed(self, stores: Set[str] | None) -> str | None:
        came = ((name, entry(mapping_of(self.holder), name)) for name in self.get() - self.was)
        name = next((name for name, value in came if _sets(stores, name) or holds_symbol(value)), None)
        return None if name is None else dotted(self.path, name)

    def put_back(self) -> None:
        for name in self.get() - self.was:
            delattr(self.holder, name) if isinstance(self.holder, type) else self.holder.pop(name, None)

    def conditions(self, variable: Variable) -> list[str]:
        if self.names is None:
            return [f"len({_where(self.holder, variable)}) != {len(mapping_of(self.holder))}"]
        return [f"{name!r} in {_where(self.holder, variable)}" for name in self.hiding - self.was]


def _is_plain(x: Any) -> bool:
    """Whether what is equal is the same: of zeros there are two."""
    return type(x) in (float, int, str) and x != 0


def _differs(place: str, was: Any, variable: Variable) -> str:
    """The condition that something else lies in a place."""
    v = variable(was)
    others = f" and (type({place}) is not type({v}) or {place} != {v})" if _is_plain(was) else ""
    return f"{place} is not {v}{others}"


def mapping_of(holder: Any) -> Any:
    """A dictionary, or that of a class."""
    return vars(holder) if isinstance(holder, type) else holder


def _where(holder: Any, variable: Variable) -> str:
    return variable(mapping_of(holder), ("dictionary of", id(holder)))  # a class makes another one each time


def entry(mapping: Any, name: str) -> Any:
    """What a dictionary has under a name, but for what a call holds there for a while."""
    value = mapping.get(name, MISSING)
    return MISSING if type(value) is Held else value


def dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _sets(stores: Set[str] | None, name: str) -> bool:
    return stores is None or name in stores


# ---- The content of a value ------------------------------------------------------------------------------------------


class Content(Read):
    """What is in a value of one of these `kinds`."""

    kinds: tuple[Any, ...] = ()

    def inside(self) -> Iterable[Any]:
        """What leads on from there."""
        return ()


class Items(Content):
    """The items of a container, one by one."""

    kinds = (list, dict, set, collections.deque, *VIEWS)

    def get(self) -> list[Any]:
        if isinstance(self.holder, (dict, types.MappingProxyType)):
            copied = dict(self.holder) if isinstance(self.holder, types.MappingProxyType) else dict.copy(self.holder)
            return [*dict.keys(copied), *dict.values(copied)]
        if isinstance(self.holder, VIEWS):  # of items: pairs that are made anew each time
            return [each for pair in [*self.holder] for each in (pair if type(pair) is tuple else (pair,))]
        kind = next(kind for kind in self.kinds if isinstance(self.holder, kind))
        return [*kind.__iter__(self.holder)]  # whatever a subclass says of it

    def same(self, now: list[Any]) -> bool:
        return len(now) == len(self.was) and all(map(is_, now, self.was))

    def inside(self) -> list[Any]:
        return self.was

    def put_back(self) -> None:
        holder, was = self.holder, self.was
        if isinstance(holder, VIEWS):
            return  # what they show is put back by itself, if it can be reached
        holder.clear()
        if isinstance(holder, dict):
            half = len(was) // 2
            put = collections.OrderedDict if isinstance(holder, collections.OrderedDict) else dict
            for key, value in zip(was[:half], was[half:]):  # a counter's `update` would add
                put.__setitem__(holder, key, value)
        elif isinstance(holder, set):
            holder.update(was)
        else:
            holder.extend(was)


class Bytes(Content):
    """The numbers in an array or a buffer."""

    kinds = (
        np.ndarray, np.void, bytearray, memoryview, array.array, ctypes._SimpleCData, ctypes.Array, ctypes.Structure,
    )  # fmt: skip

    def get(self) -> Any:
        if isinstance(self.holder, np.ndarray):
            return (self.holder.shape, self.holder.dtype, self.holder.tobytes())
        return bytes(self.holder)

    def same(self, now: Any) -> bool:
        return now == self.was

    def inside(self) -> list[Any]:
        objects = isinstance(self.holder, np.ndarray) and self.holder.dtype.hasobject
        return self.holder.ravel().tolist() if objects else []

    def put_back(self) -> None:
        if isinstance(self.holder, np.ndarray):
            shape, dtype, numbers = self.was
            if shape != self.holder.shape and self.holder.flags.owndata:
                self.holder.resize(shape, refcheck=False)
            if (shape, dtype) == (self.holder.shape, self.holder.dtype):
                self.holder[...] = np.frombuffer(numbers, dtype).reshape(shape)
        elif isinstance(self.holder, bytearray):
            self.holder[:] = self.was
        elif isinstance(self.holder, array.array):
            self.holder[:] = array.array(self.holder.typecode, self.was)
        else:
            memoryview(self.holder).cast("B")[:] = self.was


class Referent(Content):
    """What a weak reference leads to, or what a context variable is set to."""

    kinds = (weakref.ref, ContextVar)

    def get(self) -> Any:
        if not isinstance(self.holder, ContextVar):
            return self.holder()
        return self.holder.get() if self.holder in copy_context() else MISSING

    def inside(self) -> tuple[Any]:
        return (self.was,)

    def put_back(self) -> None:
        if isinstance(self.holder, ContextVar) and self.was is not MISSING:
            self.holder.set(self.was)
        elif isinstance(self.holder, ContextVar):
            with contextlib.suppress(LookupError):
                self.holder.set(Context().run(self.holder.get))  # the default


class Cache(Content):
    """What `functools.lru_cache` keeps of the results of a function: others may come, unless they are symbols."""

    kinds = (type(functools.lru_cache(lambda: None)),)
    told = (
        "step keeps what it computes in the cache of {}: leave functools.lru_cache out, what is the same at every step "
        "is computed once"
    )

    def get(self) -> list[Any]:
        tables = [each for each in gc.get_referents(self.holder) if type(each) is dict]
        return gc.get_referents(*tables)

    def same(self, now: list[Any]) -> bool:
        return {*map(id, self.was)} <= {*map(id, now)}  # of those that are gone nobody tells what they were made of

    def inside(self) -> list[Any]:
        return [*self.was, *(each for each in gc.get_referents(self.holder) if not isinstance(each, (type, dict)))]

    def changed(self, stores: Set[str] | None) -> str | None:
        results = gc.get_referents(self.holder)  # or links to them, and tables of those
        return self.path if any(holds_symbol(each) for each in [*results, *gc.get_referents(*results)]) else None

    def put_back(self) -> None:
        self.holder.cache_clear()


class Random(Content):
    """The state of a generator of random numbers: one that a trace draws from must give the same to the tape."""

    kinds = (np.random.Generator, np.random.RandomState, random.Random)
    told = "step draws random numbers from {}: write tg.rand(h.shape)"

    def get(self) -> Any:
        holder = self.holder
        if isinstance(holder, np.random.Generator):
            return holder.bit_generator.state
        return holder.get_state() if hasattr(holder, "get_state") else holder.getstate()

    def same(self, now: Any) -> bool:
        return key_of(now) == key_of(self.was)

    def put_back(self) -> None:
        if isinstance(self.holder, np.random.Generator):
            self.holder.bit_generator.state = self.was
        else:
            put = getattr(self.holder, "set_state", None) or self.holder.setstate
            put(self.was)

    def conditions(self, variable: Variable) -> list[str]:
        return []  # where a generator stands is no matter of a kernel that did not draw from it


def content_of(value: Any, path: str) -> Content | None:
    """A read of what is in a value; None if that is no container, nor anything else of the kinds above."""
    kind = next((each for each in (Items, Bytes, Referent, Cache, Random) if isinstance(value, each.kinds)), None)
    return None if kind is None else kind(value, path)


def holds_symbol(value: Any, depth: int = 3) -> bool:
    """Whether a value is a symbol of a trace, or has one inside."""
    if isinstance(value, Symbol):
        return True
    inside = list(value.values()) if isinstance(value, dict) else value
    walks = depth > 0 and isinstance(inside, (list, tuple, set, collections.deque))
    return walks and any(holds_symbol(each, depth - 1) for each in [*inside][:1000])
