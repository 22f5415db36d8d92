"""Parts: what lies somewhere, how to see whether it is still there, and how to put it back.

Objects are told apart by identity and arrays by their bytes, never by `==`.
"""

import array
import collections
import contextlib
import gc
import types
from collections.abc import Callable, Iterator, Mapping, Set
from contextvars import Context, ContextVar, copy_context
from operator import is_
from typing import Any

import numpy as np

from .held import Held
from .trace import Symbol

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
HIDDEN = "_compiled"  # the attribute of a cell under which this process remembers what it made of it
VIEWS: tuple[Any, ...] = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))


class Source:
    """The text of a function that says whether parts are as they were: `if <this>: return False`, line by line."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.values: dict[str, Any] = {"MISSING": MISSING}
        self._known: dict[int, str] = {}

    def name(self, value: Any) -> str:
        """A variable that holds a value."""
        if id(value) not in self._known:
            self._known[id(value)] = f"v{len(self.values)}"
            self.values[self._known[id(value)]] = value
        return self._known[id(value)]

    def function(self) -> Callable[[], bool] | None:
        """The function; None if there is nothing to ask."""
        if not self.conditions:
            return None
        conditions = dict.fromkeys(self.conditions)
        lines = [f"def holds({', '.join(f'{name}={name}' for name in self.values)}):", "    try:"]
        lines += [f"        if {condition}: return False" for condition in conditions]
        lines += ["    except Exception: return False", "    return True"]
        known = dict(self.values)
        exec(compile("\n".join(lines), "<guards of a cell>", "exec"), known)
        known["holds"].__guards__ = [*conditions]
        return known["holds"]


class Part:
    """Something that may change: `before` is what it held when it was looked at.

    Attributes:
        path: what the user calls it, such as `self.log`.
    """

    def __init__(self, holder: Any, path: str) -> None:
        self.holder, self.path = holder, path
        self.before = self.read()

    def read(self) -> Any:
        """What it holds now."""
        raise NotImplementedError

    def changed(self, stores: Set[str] | None) -> str | None:
        """What the user calls the thing in it that has changed, of those that code can have set; None if there is none.

        Args:
            stores: names of attributes that code sets; None if it may set any.
        """
        return None if self.same(self.read(), self.before) else self.path

    def same(self, now: Any, before: Any) -> bool:
        return now is before

    def put_back(self) -> None:
        """Write what it held before."""

    def write(self, source: Source) -> None:
        """Write the conditions under which it has changed."""
        source.conditions.append(f"not {source.name(self.holds)}()")

    def holds(self) -> bool:
        """Whether it is as it was."""
        return self.same(self.read(), self.before)


class Named(Part):
    """Values under names: attributes of an object, entries of its dictionary, of a class or of globals.

    Args:
        names: those that matter; None for all.
        known: of the names that are not there, those that would hide something else if they were.
    """

    def __init__(self, holder: Any, path: str, names: Set[str] | None, hiding: Set[str] = frozenset()) -> None:
        self.names, self.hiding = names, hiding
        super().__init__(holder, path)

    def mapping(self) -> Mapping[str, Any]:
        return self.holder

    def read(self) -> dict[str, Any]:
        mapping = self.mapping()
        if self.names is None:
            return {name: value for name, value in list(mapping.items()) if name != HIDDEN}
        return {name: mapping.get(name, MISSING) for name in self.names}

    def _differing(self) -> Iterator[str]:
        now = self.read()
        for name in [*self.before, *(name for name in now if name not in self.before)]:
            if now.get(name, MISSING) is not self.before.get(name, MISSING):
                yield name

    def changed(self, stores: Set[str] | None) -> str | None:
        mapping = self.mapping()
        for name in self._differing():
            if stores is None or name in stores or holds_symbol(mapping.get(name)):
                return self.called(name)
        return None

    def called(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def put_back(self) -> None:
        for name in [*self._differing()]:
            before = self.before.get(name, MISSING)
            self.delete(name) if before is MISSING else self.set(name, before)

    def set(self, name: str, value: Any) -> None:
        self.holder[name] = value

    def delete(self, name: str) -> None:
        self.holder.pop(name, None)

    def expression(self, source: Source) -> str:
        return source.name(self.holder)

    def write(self, source: Source) -> None:
        where = self.expression(source)
        for name, value in self.before.items():
            if value is not MISSING:
                source.conditions.append(f"{where}[{name!r}] is not {source.name(value)}")
            elif name in self.hiding:
                source.conditions.append(f"{name!r} in {where}")
        if self.names is None:  # something may have come
            source.conditions.append(f"not {source.name(self.holds)}()")

    def same(self, now: Any, before: Any) -> bool:
        return now.keys() == before.keys() and all(now[name] is value for name, value in before.items())


class OfClass(Named):
    """What a class defines itself.

    Attributes:
        whole: whether anything that comes matters, whatever its name is.
    """

    whole = False

    def mapping(self) -> Mapping[str, Any]:
        return {name: value for name, value in vars(self.holder).items() if not isinstance(value, Held)}

    def expression(self, source: Source) -> str:
        return source.name(vars(self.holder))

    def set(self, name: str, value: Any) -> None:
        setattr(self.holder, name, value)

    def delete(self, name: str) -> None:
        delattr(self.holder, name)

    def write(self, source: Source) -> None:
        super().write(source)
        if self.whole:
            source.conditions.append(f"len({self.expression(source)}) != {len(vars(self.holder))}")


class Bases(Part):
    """The classes that a class inherits from."""

    def read(self) -> Any:
        return self.holder.__mro__

    def write(self, source: Source) -> None:
        source.conditions.append(f"{source.name(self.holder)}.__mro__ is not {source.name(self.before)}")


class OfObject(Named):
    """What the dictionary of an object holds, whichever it has."""

    def mapping(self) -> Mapping[str, Any]:
        return self.holder.__dict__

    def expression(self, source: Source) -> str:
        return f"{source.name(self.holder)}.__dict__"

    def set(self, name: str, value: Any) -> None:
        self.holder.__dict__[name] = value

    def delete(self, name: str) -> None:
        self.holder.__dict__.pop(name, None)


class OfModule(OfObject):
    """The same of one of our modules, whose dictionary is looked for once."""

    def expression(self, source: Source) -> str:
        return source.name(self.holder.__dict__)


class Identity(Part):
    """The class of an object, and of a module the dictionary: to set another one moves the clock on."""

    def read(self) -> Any:
        return type(self.holder)

    def write(self, source: Source) -> None:
        holder = source.name(self.holder)
        source.conditions.append(f"type({holder}) is not {source.name(self.before)}")
        if hasattr(self.before, "named_modules"):
            source.conditions.append(f"{holder}.__dict__ is not {source.name(self.holder.__dict__)}")


class Fields(Named):
    """Attributes that have a place of their own: slots, the code of a function, the content of a closure's cell."""

    def read(self) -> dict[str, Any]:
        assert self.names is not None
        return {name: self._get(name) for name in self.names}

    def _get(self, name: str) -> Any:
        try:
            return getattr(self.holder, name)
        except (AttributeError, ValueError):  # an empty cell
            return MISSING

    def changed(self, stores: Set[str] | None) -> str | None:
        for name in self._differing():
            if stores is None or name in stores or name == "cell_contents" or holds_symbol(self._get(name)):
                return self.called(name)
        return None

    def called(self, name: str) -> str:
        return self.path if name == "cell_contents" else super().called(name)

    def set(self, name: str, value: Any) -> None:
        object.__setattr__(self.holder, name, value)

    def delete(self, name: str) -> None:
        object.__delattr__(self.holder, name)

    def write(self, source: Source) -> None:
        holder = source.name(self.holder)
        for name, value in self.before.items():
            if value is not MISSING:
                source.conditions.append(f"{holder}.{name} is not {source.name(value)}")
            else:
                source.conditions.append(f"not {source.name(self.holds)}()")


class OfTensor(Fields):
    """What a step says it sets of a tensor: others may go on training it meanwhile."""

    def changed(self, stores: Set[str] | None) -> str | None:
        return super().changed(frozenset() if stores is None else stores)


class Items(Part):
    """The items of a container, one by one."""

    def read(self) -> list[Any]:
        if isinstance(self.holder, (dict, types.MappingProxyType)):
            copied = dict(self.holder)
            return [*copied, *copied.values()]
        if isinstance(self.holder, VIEWS):  # of items: pairs that are made anew each time
            return [each for pair in [*self.holder] for each in (pair if type(pair) is tuple else (pair,))]
        return list(self.holder)

    def same(self, now: Any, before: Any) -> bool:
        return len(now) == len(before) and all(map(is_, now, before))

    def put_back(self) -> None:
        holder, before = self.holder, self.before
        if isinstance(holder, list):
            holder[:] = before
            return
        if isinstance(holder, VIEWS):
            return  # what they show is put back by itself, if it can be reached
        holder.clear()
        if isinstance(holder, dict):
            half = len(before) // 2
            put = collections.OrderedDict if isinstance(holder, collections.OrderedDict) else dict
            for key, value in zip(before[:half], before[half:]):  # a counter's `update` would add
                put.__setitem__(holder, key, value)
        elif isinstance(holder, set):
            holder.update(before)
        else:
            holder.extend(before)


class Bytes(Part):
    """The numbers in an array."""

    def read(self) -> Any:
        if isinstance(self.holder, np.ndarray):
            return (self.holder.shape, self.holder.dtype, self.holder.tobytes())
        return bytes(self.holder)

    def same(self, now: Any, before: Any) -> bool:
        return now == before

    def put_back(self) -> None:
        if isinstance(self.holder, np.ndarray):
            shape, dtype, numbers = self.before
            if shape != self.holder.shape and self.holder.flags.owndata:
                self.holder.resize(shape, refcheck=False)
            if (shape, dtype) == (self.holder.shape, self.holder.dtype):
                self.holder[...] = np.frombuffer(numbers, dtype).reshape(shape)
        elif isinstance(self.holder, bytearray):
            self.holder[:] = self.before
        elif isinstance(self.holder, array.array):
            self.holder[:] = array.array(self.holder.typecode, self.before)
        else:
            memoryview(self.holder).cast("B")[:] = self.before


class Referent(Part):
    """What a weak reference leads to, or what a context variable is set to."""

    def read(self) -> Any:
        if not isinstance(self.holder, ContextVar):
            return self.holder()
        return self.holder.get() if self.holder in copy_context() else MISSING

    def put_back(self) -> None:
        if isinstance(self.holder, ContextVar) and self.before is not MISSING:
            self.holder.set(self.before)
        elif isinstance(self.holder, ContextVar):
            with contextlib.suppress(LookupError):
                self.holder.set(Context().run(self.holder.get))  # the default


class Cache(Part):
    """What `functools.lru_cache` keeps of the results of a function: no matter, unless these are symbols."""

    def read(self) -> None:
        """Nobody asks for what is in it."""

    def changed(self, stores: Set[str] | None) -> str | None:
        inside = gc.get_referents(self.holder)  # results, or links to them, and tables of those
        return self.path if any(holds_symbol(each) for each in [*inside, *gc.get_referents(*inside)]) else None

    def put_back(self) -> None:
        self.holder.cache_clear()

    def write(self, source: Source) -> None:
        """A function that gives other results is another function, or reads something else."""


class Random(Part):
    """The state of a generator of random numbers: one that a trace draws from must give the same to the tape."""

    def read(self) -> Any:
        holder = self.holder
        if isinstance(holder, np.random.Generator):
            return repr(holder.bit_generator.state), holder.bit_generator.state
        if holder is np.random or isinstance(holder, np.random.RandomState):
            state: Any = holder.get_state()
            return (state[1].tobytes(), *state[2:]), state
        return (state := holder.getstate()), state

    def same(self, now: Any, before: Any) -> bool:
        return now[0] == before[0]

    def put_back(self) -> None:
        holder, state = self.holder, self.before[1]
        if isinstance(holder, np.random.Generator):
            holder.bit_generator.state = state
        elif holder is np.random or isinstance(holder, np.random.RandomState):
            holder.set_state(state)
        else:
            holder.setstate(state)

    def write(self, source: Source) -> None:
        """Where a generator stands is no matter of a kernel that did not draw from it."""


def holds_symbol(value: Any, depth: int = 3) -> bool:
    """Whether a value is a symbol of a trace, or has one inside."""
    if isinstance(value, Symbol):
        return True
    if depth and isinstance(value, dict):
        return any(holds_symbol(each, depth - 1) for each in [*value.values()][:1000])
    if depth and isinstance(value, (list, tuple, set, collections.deque)):
        return any(holds_symbol(each, depth - 1) for each in [*value][:1000])
    return False
