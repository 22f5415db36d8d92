"""Guards: whether a compiled cell still says what its step would say.

A trace freezes whatever Python decides before a symbol is touched: attributes, globals, functions, numbers in lists and
arrays. So a step is watched while it is traced. The code that ran names the attributes and globals that it can have
read; a `Walk` goes from the cell along those names, and no others, and notes what lies there as `Part`s:

    before the trace    what it might change, to be put back: a step that changes something is refused
    after the trace     what it read: before each call the guards ask whether every part is as it was

Objects are told apart by identity and arrays by their bytes, never by `==`. Tensors are operands: kernels read them at
every call, and what is read out of one in Python is the tracer's to refuse or, past it, guarded here by bytes.
"""

import array
import collections
import ctypes
import dis
import functools
import inspect
import operator
import os
import queue
import random
import sys
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence, Set
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..autograd.tape import Value
from .frames import listener
from .parts import (
    MISSING,
    VIEWS,
    Bases,
    Bytes,
    Cache,
    Fields,
    Identity,
    Items,
    Named,
    OfClass,
    OfModule,
    OfObject,
    OfTensor,
    Part,
    Random,
    Referent,
    Source,
)
from .reads import ALWAYS, CELLS, PACKAGE, Names, Ran, is_dynamic, is_users, names_in
from .trace import Symbol, Unfusable


class Clock:
    """When an attribute of some module was last set or deleted: `now` is another object after each time."""

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.now = object()  # which, other than a number, is no other process's in a pickle


clock = Clock()

# ---- The walk --------------------------------------------------------------------------------------------------------

_ATOMS = (
    bool, int, float, complex, str, bytes, range, slice, type(None), type(...), type(NotImplemented), np.dtype,
    types.CodeType, type(MISSING), np.ufunc,
)  # fmt: skip
_CODE = (types.CodeType, types.FunctionType, types.MethodType, property, staticmethod, classmethod)
_CACHED = type(functools.lru_cache(lambda: None))
_BUFFERS = (bytearray, memoryview, array.array, ctypes._SimpleCData, ctypes.Array, ctypes.Structure)
# Where a tensor keeps what its attributes tell.
_OF_TENSORS = {
    "data": frozenset("shape size dtype ndim dim numel data".split()),
    "node": frozenset("requires_grad is_leaf node".split()),
    "grad": frozenset(("grad",)),
}
LIMIT = 100_000  # objects that a walk looks at: a cell that knows the whole program must not stop it


class Walk:
    """What lies on the ways from a cell that code can go.

    Args:
        ran: the code; None for all that can be reached from the cell's `step`.

    Attributes:
        parts: what may change there, with whether only the library's modules or the `clock` know of it.
        draws: iterators on the way.
        symbols: where symbols were found.
    """

    def __init__(self, cell: Any, ran: Ran | None = None, earlier: "Walk | None" = None) -> None:
        self.ran = ran
        self.earlier: dict[Any, Any] = {}  # what parts held at the earlier walk
        for part, _ in [] if earlier is None else earlier.parts:
            key = type(part), id(part.holder)
            self.earlier[key] = self.earlier.get(key, {}) | part.before if isinstance(part, Named) else part.before
        self.attributes: set[str] = set(ALWAYS)
        self.sets: set[str] = set()
        self.globals: set[str] = set()
        self.tried: set[str] = set()
        self.users: set[str] = set()  # attributes that the user's code names
        self.codes: dict[int, types.CodeType] = {}
        self.everything = False
        self.handed = {id(each) for each in ran.handed} if ran else set()
        self.read = {id(each) for each in ran.read} if ran else set()
        if ran:
            for code, _ in ran.codes.values():
                self._learn(code)
        before = -1
        while before != len(self.attributes):  # what is found may be code that names more
            before = len(self.attributes)
            self.parts: list[tuple[Part, bool]] = []
            self.draws: list[str] = []
            self.symbols: list[str] = []
            self.seen: dict[int, Any] = {}
            self.ahead: collections.deque[tuple[Any, str]] = collections.deque([(cell, "self")])
            if ran:
                for code, known in ran.codes.values():
                    if is_users(code):
                        self._globals(names_in(code), known)
            while self.ahead and len(self.seen) < LIMIT:
                self._visit(*self.ahead.popleft())
            if "random" in self.attributes or "random" in self.globals:
                self.parts += [(Random(np.random, "numpy.random"), False), (Random(random, "random"), False)]

    def _learn(self, code: types.CodeType) -> Names:
        """Take over the names of code that runs."""
        names = names_in(code)
        self.codes[id(code)] = code
        self.attributes |= names.attributes
        self.attributes.add(code.co_name)
        self.sets |= names.stores
        self.globals |= names.globals
        self.tried |= names.tried
        self.users |= names.attributes if is_users(code) else set()
        self.everything |= is_dynamic(code)
        return names

    def _add(self, part: Part, library: bool = False) -> dict[str, Any] | Any:
        """Note a part; returns what it held, at the earlier walk if that saw it."""
        known = self.earlier.get((type(part), id(part.holder)))
        if known is not None and isinstance(part, Named):
            # What has come, though no code sets it, is what something has found out for good: a cached property.
            part.before.update({n: known[n] for n in part.before if known.get(n, MISSING) is not MISSING})
        elif known is not None:
            part.before = known
        self.parts.append((part, library))
        return part.before

    def _go(self, values: Iterable[Any], path: str) -> None:
        self.ahead.extend((value, path) for value in values if type(value) not in _ATOMS)

    def _go_named(self, part: Named) -> None:
        for name, value in part.before.items():
            if type(value) not in _ATOMS:
                self.ahead.append((value, part.called(name)))

    def _visit(self, value: Any, path: str) -> None:
        kind = type(value)
        if kind in _ATOMS or id(value) in self.seen or isinstance(value, np.generic):
            return
        self.seen[id(value)] = value  # alive, so that nothing else gets its id
        if isinstance(value, Symbol):
            self.symbols.append(path)
        elif isinstance(value, Value):
            self._tensor(value, path)
        elif isinstance(value, np.ndarray):
            self._array(value, path)
        elif isinstance(value, (list, dict, set, collections.deque, *VIEWS)):
            self._go(self._add(Items(value, path)), path)
            self._of_users_class(value, path)
        elif isinstance(value, (tuple, frozenset)):
            self._go(value, path)
            self._of_users_class(value, path)
        elif kind is types.FunctionType:
            self._function(value, path)
        elif kind is types.MethodType:
            self._go((value.__func__, value.__self__), path)
        elif kind in (types.BuiltinFunctionType, types.MethodWrapperType):
            self._go((value.__self__,), path)
        elif isinstance(value, (operator.attrgetter, operator.methodcaller)):
            names = (each.split(".") for each in value.__reduce__()[1] if isinstance(each, str))
            self.attributes.update(*names)
        elif isinstance(value, functools.partial):
            self._go((value.func, value.args, value.keywords), path)
        elif isinstance(value, functools.partialmethod):
            self._go((value.func, value.args, value.keywords), path)
        elif isinstance(value, (staticmethod, classmethod)):
            self._go((value.__func__,), path)
        elif isinstance(value, property):
            self._go((value.fget,), path)
        elif isinstance(value, functools.cached_property):
            self._go((value.func,), path)
        elif isinstance(value, functools.singledispatchmethod):
            self._go((value.dispatcher,), path)
        elif isinstance(value, _CACHED):
            self._add(Cache(value, path))
            self._go((value.__wrapped__,), path)
        elif isinstance(value, type):
            self._class(value, path)
        elif kind is types.ModuleType:
            self._module(value, path)
        elif isinstance(value, (weakref.ref, ContextVar)):
            self._go((self._add(Referent(value, path)),), path)
        elif isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
            self._add(Random(value, path))
        elif isinstance(value, _BUFFERS):
            self._add(Bytes(value, path))
        elif hasattr(kind, "__next__") and not is_users(kind):
            self.draws.append(path)
        else:
            self._object(value, path)

    def _tensor(self, value: Any, path: str) -> None:
        written = not self.attributes.isdisjoint(("data", "numpy")) if self.ran is None else id(value) in self.read
        if self.ran is None and not self.sets.isdisjoint(("data", "grad", "node")):
            self._add(OfTensor(value, path, {"data", "grad", "node"} & self.sets))
        asked = {field for field, names in _OF_TENSORS.items() if not names.isdisjoint(self.users)}
        if self.ran is not None and asked:
            self._add(OfTensor(value, path, asked))
        if (written or "data" in self.users) and value.data.nbytes <= 1 << 20:
            self._add(Bytes(value.data, path))

    def _array(self, value: np.ndarray, path: str) -> None:
        if value.dtype.hasobject:
            self._go(value.ravel().tolist(), path)
        self._add(Bytes(value, path))

    def _of_users_class(self, value: Any, path: str) -> None:
        """The attributes of a container of a class that the user wrote."""
        if is_users(type(value)):
            self._object(value, path)

    def _function(self, value: types.FunctionType, path: str) -> None:
        self._go((vars(value).get("__wrapped__"), vars(value).get("registry")), path)  # of functools
        code = value.__code__
        installed = self.ran is None and "-packages" + os.sep in code.co_filename  # which seldom ends where it begins
        if installed or not is_users(code) or (self.ran is not None and id(code) not in self.codes):
            if self.ran is None and code.co_filename.startswith(CELLS):
                self._learn(code)
            return
        if self.ran is None:
            self._globals(self._learn(code), value.__globals__)
        fields = Fields(value, path, {"__code__", "__defaults__", "__kwdefaults__"})
        self._add(fields)
        self._go((value.__defaults__, value.__kwdefaults__), path)
        for name, cell in zip(code.co_freevars, value.__closure__ or ()):
            self._go_named_cell(cell, name)
        part = OfObject(value, path, self.attributes & value.__dict__.keys())
        if part.before:
            self._add(part)
            self._go_named(part)

    def _go_named_cell(self, cell: Any, name: str) -> None:
        if id(cell) not in self.seen:
            self.seen[id(cell)] = cell
            part = Fields(cell, name, {"cell_contents"})
            self._add(part)
            self._go_named(part)

    def _globals(self, names: Names, known: dict[str, Any]) -> None:
        wanted = None if "globals" in names.globals and self.ran is not None else names.globals
        part = Named(known, "", wanted, wanted or frozenset())
        self._add(part)
        self._go_named(part)
        self._go((sys.modules.get(name) for name in names.imports), "")
        if self.ran is not None and names.imports:
            absent = names.imports - sys.modules.keys() if names.tried or "modules" in names.attributes else set()
            self._add(Named(sys.modules, "sys.modules", names.imports & sys.modules.keys() | absent, absent))

    def _module(self, value: types.ModuleType, path: str) -> None:
        if value is os and not self.attributes.isdisjoint(("environ", "getenv")):
            self._go((vars(os.environ)["_data"],), "os.environ")
        if not is_users(value):  # what somebody has put there
            named = {name: vars(value)[name] for name in self.attributes & vars(value).keys()}
            part = Named(vars(value), value.__name__, {name for name in named if _may_be_users(named[name])})
            self._add(part)
            self._go_named(part)
            self._go([each for each in named.values() if type(each) is types.ModuleType], path)
            return
        there = self.attributes if self.ran is None else self.attributes & vars(value).keys()
        whole = self.everything and self.ran is not None
        part = Named(vars(value), path, None if whole else there | self.tried, self.tried - vars(value).keys())
        self._add(part)
        self._go_named(part)

    def _class(self, value: type, path: str) -> None:
        """What a class and those that it inherits from define."""
        if is_users(value):
            self._add(Bases(value, value.__name__))
            if type(value) is not type and is_users(type(value)):
                self._class(type(value), type(value).__name__)
        step = next((kind for kind in value.__mro__ if "step" in vars(kind)), None)
        later: set[str] = set()
        for kind in reversed(value.__mro__):
            own = vars(kind)
            users = is_users(kind)
            if id(own) not in self.seen and (users or kind.__module__ not in ("builtins", "abc", "typing")):
                if users:
                    dunder = {n for n in own if n[:2] == "__" == n[-2:]} if self.ran is None else set()
                    names = set(own) if self.everything else (self.attributes & own.keys()) | dunder
                    names -= {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__slots__"}
                    hiding = (self.attributes & later | self.tried) - own.keys()
                    stored = self.sets if self.ran is None else set()
                    part = OfClass(kind, kind.__name__, names | hiding | stored, hiding)
                    part.whole = self.everything and self.ran is not None
                    self.seen[id(own)] = own
                    self._add(part)
                    self._go_named(part)
                elif kind.__module__.startswith(f"{PACKAGE}.nn"):
                    self.seen[id(own)] = own
                    if kind is step:
                        self._add(OfClass(kind, kind.__name__, {"step"}))
                    self._go([own[name] for name in self.attributes & own.keys()], kind.__name__)
            later |= own.keys()

    def _object(self, value: Any, path: str) -> None:
        kind = type(value)
        users, ours, module = is_users(kind), kind.__module__.startswith(PACKAGE), hasattr(kind, "named_modules")
        inherited: set[str] = set()
        if users or ours:
            self._class(kind, kind.__name__)
            inherited = {name for each in kind.__mro__ for name in vars(each)}
        own = getattr(value, "__dict__", None)
        there = own.keys() if isinstance(own, dict) else set()
        slots = _slots_of(kind)
        if ours and not module:
            return
        whole = module and self.everything
        if users or isinstance(value, (types.SimpleNamespace, queue.Queue, Mapping, Sequence, Set)):
            # Nothing in it that is named: it is read some other way, if at all.
            unnamed = not module and self.attributes.isdisjoint(there | slots)
            whole = self.everything or id(value) in self.handed or unnamed
        if isinstance(own, dict):
            hiding = (self.attributes & inherited | self.tried) - there
            names = (self.attributes & there) | (self.attributes if self.ran is None else hiding)
            part: Named = (OfModule if module else OfObject)(value, path, None if whole else names, hiding)
            self._add(part, library=ours)
            self._add(Identity(value, path), library=module)
            self._go_named(part)
        if whole or not slots.isdisjoint(self.attributes):
            part = Fields(value, path, slots if whole else slots & self.attributes)
            self._add(part)
            self._go_named(part)


def _may_be_users(value: Any) -> bool:
    """Whether a value in somebody else's module is a number, a text or a function of the user's."""
    return isinstance(value, (bool, int, float, str)) or (
        type(value) is types.FunctionType and is_users(value.__code__)
    )


def _slots_of(kind: type) -> set[str]:
    """The names of the slots that the instances of a class have, but for those that this library keeps for itself."""
    kinds = (each for each in kind.__mro__ if not each.__module__.startswith(PACKAGE))
    return {name for each in kinds for name, member in vars(each).items() if inspect.ismemberdescriptor(member)}


# ---- A trace that is watched, and what it read -----------------------------------------------------------------------


class Watch:
    """Context manager around the traces of a cell: what the step changed is put back, and the step refused.

    Attributes:
        changes: whether the step changed something.
    """

    def __init__(self, cell: Any) -> None:
        self.cell, self.time = cell, clock.now  # before anything is looked at
        self.before = Walk(cell)
        self.ran = Ran()
        self.changes = False

    def __enter__(self) -> "Watch":
        if self.before.draws:
            path = self.before.draws[0]
            raise Unfusable(
                f"step draws from {path}, which gives something else each time{self._where(path)}: pass what it gives "
                "as an input"
            )
        self.ran.__enter__()
        self.between, listener.between = listener.between, self._between
        return self

    def _between(self) -> None:
        """Called after the first run of two: what is changed twice may be as it was."""
        if self._found():
            raise Unfusable("step changes something")  # which `__exit__` will say

    def _found(self) -> list[tuple[Part, str]]:
        """What the step has changed, and what the user calls it."""
        codes = [code for code, _ in self.ran.codes.values()]
        stores: set[str] | None = set().union(*(names_in(code).stores for code in codes))
        if any(is_dynamic(code) for code in codes):
            stores = None
        return [(part, path) for part, _ in self.before.parts if (path := part.changed(stores)) is not None]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ran.__exit__()
        listener.between = self.between
        found = self._found()
        for part, _ in found:
            part.put_back()
        if found:
            self.changes = True
            if error is None or isinstance(error, Exception):
                raise Unfusable(self._told(*found[0])) from None

    def _told(self, part: Part, path: str) -> str:
        if isinstance(part, Random):
            return f"step draws random numbers from {path}{self._where(path)}: write tg.rand(h.shape)"
        if isinstance(part, Cache):
            return (
                f"step keeps what it computes in the cache of {path}{self._where(path)}: leave functools.lru_cache "
                "out, what is the same at every step is computed once"
            )
        return (
            f"step changes {path}{self._where(path)}: a step that is compiled runs once, not at every step of a "
            "sequence; return what is to be kept as a state instead"
        )

    def _where(self, path: str) -> str:
        """The line that sets something, or else one that names it."""
        name = path.rpartition(".")[2]
        codes = [code for code, _ in self.ran.codes.values()] or [*self.before.codes.values()]
        lines: list[tuple[bool, str]] = []
        for code in filter(is_users, codes):
            line = code.co_firstlineno
            for instruction in dis.get_instructions(code):
                line = instruction.starts_line if type(instruction.starts_line) is int else line
                line = getattr(instruction, "line_number", None) or line
                if instruction.argval == name:
                    sets = instruction.opname.startswith(("STORE_", "DELETE_"))
                    lines.append((not sets, f" ({code.co_filename}:{line}, in {code.co_name})"))
        if not lines:
            steps_first = sorted(codes, key=lambda code: code.co_name != "step")  # callbacks of the collector run, too
            first = next((code for code in steps_first if is_users(code)), None)
            return f" ({first.co_filename}:{first.co_firstlineno}, in {first.co_name})" if first else ""
        return min(lines, key=lambda each: each[0])[1]

    def guards(self, refused: bool = False, code_only: bool = False) -> "Guards":
        """What the step read; see `Guards`."""
        return Guards(self, refused, code_only)


class Guards:
    """Whether what a step read is as it was.

    What the library's own modules hold is looked at again only when the `clock` has moved on; the rest, by `always`,
    before each call.

    Args:
        refused: whether the step was refused.
        code_only: look at functions and classes alone. What a step changes makes no difference to its being refused.
    """

    def __init__(self, watch: Watch, refused: bool, code_only: bool) -> None:
        walk = Walk(watch.cell, watch.ran, watch.before)
        if walk.symbols and not refused:
            raise Unfusable(f"step keeps what it computed in {walk.symbols[0]}{watch._where(walk.symbols[0])}")
        if walk.ahead and not refused:
            path = walk.ahead[0][1]
            raise Unfusable(f"step can read more than {LIMIT:,} objects, by way of {path}{watch._where(path)}")
        always, timed = Source(), Source()
        for part, library in walk.parts:
            if code_only and isinstance(part, Named):
                part.before = {name: value for name, value in part.before.items() if isinstance(value, _CODE)}
                part.names, part.hiding = part.before.keys(), frozenset()
            if not code_only or isinstance(part, Named):
                part.write(timed if library else always)
        self.time = watch.time
        self.always, self._timed = always.function(), timed.function()

    def holds(self) -> bool:
        """Whether everything is as it was."""
        now = clock.now
        if now is not self.time:
            if self._timed is not None and not self._timed():
                return False
            self.time = now
        return self.always is None or self.always()
