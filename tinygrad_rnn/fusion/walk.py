"""A walk from a cell to all that its step can read.

The code that runs names the attributes and globals that it can have read. The walk goes from the cell along those
names, and no others, and notes a `Read` of each thing that lies there and may change.
"""

import builtins
import collections
import contextlib
import functools
import inspect
import itertools
import operator
import os
import queue
import random
import sys
import threading
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeVar

import numpy as np

from ..autograd.tape import Value
from .code import ALWAYS, CELLS, PACKAGE, Names, Ran, is_dynamic, is_users, names_in
from .reads import MISSING, Attribute, Bytes, Entry, Form, Keys, OfTensor, Random, Read, content_of, dotted
from .trace import Symbol
from .watched import reach_of

_ATOMS = (
    bool, int, float, complex, str, bytes, range, slice, type(None), type(...), type(NotImplemented), np.dtype,
    types.CodeType, type(MISSING), np.ufunc,
)  # fmt: skip
_CONTAINERS = (list, dict, set, tuple, frozenset, collections.deque)  # subclasses have attributes, too
# Values that are never changed, and by which attributes they lead on.
_WRAPPERS = (
    types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType, functools.partial, functools.partialmethod,
    staticmethod, classmethod, property, functools.cached_property, functools.singledispatchmethod,
)  # fmt: skip
_WRAPPED = ("__func__", "__self__", "func", "args", "keywords", "fget", "dispatcher")
_STATEFUL = types.SimpleNamespace, threading.Event, queue.Queue, Mapping, Sequence, Set  # of others' classes
# Where a tensor keeps what its attributes tell, besides its form.
_OF_TENSORS = {"data": {"data"}, "node": {"requires_grad", "is_leaf", "node"}, "grad": {"grad"}}
_NAMES = frozenset(("__name__", "__qualname__", "__doc__"))  # of functions and classes
R = TypeVar("R", bound=Read)
DRAWS = "step draws from {}, which gives something else each time{}: pass what it gives as an input"
OPAQUE = "step can read {}, which raises an error when it is looked at{}: keep it out of reach of the step"
COMPUTES = f"{PACKAGE}.nn.utils.parametrize"  # weights, once for a sequence and outside of the step
LIMIT = 100_000  # objects that a walk looks at: a cell that knows the whole program must not stop it


class Walk:
    """What lies on the ways from a cell that code can go.

    Args:
        ran: the code, after a trace; None, before it, for all that can be reached from the cell's `step`.
        earlier: the walk before the trace, which tells what things were then.

    Attributes:
        reads: by kind, place and name.
        ways: how many lead to each tensor, by its identity.
        obstacles: what no compiled cell can be right about, and what to say of it.
        symbols: where symbols were found.
        ahead: what was not looked at any more.
    """

    def __init__(self, cell: Any, ran: Ran | None = None, earlier: "Walk | None" = None) -> None:
        self.ran = ran
        known = earlier.reads.items() if earlier else ()
        # Names that came though no code sets them, such as that of a cached property, are there for good.
        self.earlier = {key: read.was for key, read in known if not isinstance(read, Keys)}
        self.names = Names()
        self.names.attributes.update(ALWAYS)
        self.users: set[str] = set()  # attributes that the user's code names
        self.codes: dict[int, types.CodeType] = {}
        # Whether the user's code, or that of the library's modules, reaches attributes that it does not name.
        self.everything = self.options = False
        self.handed = {id(each) for each in ran.handed} if ran else set()
        self.read = {id(each) for each in ran.read} if ran else set()
        self.watched: set[int] = set()  # tensors of which nothing but the form could be read
        with contextlib.suppress(Exception):  # of what raises when it is looked at, as the walk will say
            self.watched.update(id(tensor) for _, tensor in reach_of(cell)[0] if ran)
        if ran:
            for code, _ in ran.codes.values():
                self._learn(code)
        self.whole = self.everything and ran is not None
        before = -1
        while before != len(self.names.attributes):  # what is found may be code that names more
            before = len(self.names.attributes)
            self._go_from(cell)

    def _go_from(self, cell: Any) -> None:
        self.reads: dict[Any, Read] = {}
        self.obstacles: list[tuple[str, str]] = []
        self.symbols: list[str] = []
        self.ways: collections.Counter[int] = collections.Counter()
        asserts = sys.modules.get("_pytest.assertion.rewrite")  # which rewritten ones name: behind it are all tests
        self.seen: dict[int, Any] = {id(asserts): asserts}
        self.ahead: collections.deque[tuple[Any, str]] = collections.deque([(cell, "self")])
        for code, known in self.ran.codes.values() if self.ran else ():
            if is_users(code):
                self._globals(names_in(code), known)
        while self.ahead and len(self.seen) < LIMIT:
            value, path = self.ahead.popleft()
            try:
                self._visit(value, path)
            except Exception as error:  # of a property such as `__class__`
                self.obstacles.append((path, OPAQUE.replace("an error", type(error).__name__)))
        named = self.names.attributes | self.names.globals
        if not named.isdisjoint(("environ", "getenv")):
            self._visit(vars(os.environ)["_data"], "os.environ")
        if "random" in named:
            self._note(Random(np.random, "numpy.random"))
            self._note(Random(random, "random"))

    def _learn(self, code: types.CodeType) -> None:
        """Take over the names of code that runs."""
        names = names_in(code)
        self.codes[id(code)] = code
        self.names.add(names)
        self.names.attributes.add(code.co_name)
        self.users |= names.attributes if is_users(code) else set()
        self.everything |= is_dynamic(code)
        self.options |= is_dynamic(code, users=False)

    def _go(self, values: Iterable[Any], path: str) -> None:
        self.ahead.extend((value, path) for value in values if type(value) not in _ATOMS)

    def _note(self, read: R, timed: bool = False) -> R:
        """Note a read, with what it was before the trace if it was looked at then."""
        key = type(read), id(read.holder), read.name
        if self.earlier.get(key, MISSING) is not MISSING:
            read.was = self.earlier[key]
        read.timed = timed
        self.reads.setdefault(key, read)
        return read

    def _note_each(self, kind: type[Read], holder: Any, path: str, names: Iterable[str], timed: bool = False) -> None:
        """Note what lies under names, and go on from there."""
        for name in sorted(names, key=str):  # so that of two ways to a thing messages name the same one each time
            read = self._note(kind(holder, dotted(path, name), name), timed)
            self._go((read.was,), read.path)

    def _entries(
        self, holder: Any, path: str, names: set[str] | None, hiding: Set[str] = frozenset(), timed: bool = False
    ) -> None:
        """Note what lies in a dictionary, or is defined by a class, under names; all of it if they are None."""
        keys = self._note(Keys(holder, path, names, hiding), timed)
        asked = names if names and self.earlier else ()
        gone = {name for name in asked if (Entry, id(holder), name) in self.earlier}
        self._note_each(Entry, holder, path, keys.was | gone, timed)

    # ---- Values ------------------------------------------------------------------------------------------------------

    def _visit(self, value: Any, path: str) -> None:
        kind = type(value)
        number = isinstance(value, np.generic) and not isinstance(value, np.void)
        if isinstance(value, Value):
            self.ways[id(value)] += 1
        if kind in _ATOMS or id(value) in self.seen or number:
            return
        self.seen[id(value)] = value  # alive, so that nothing else gets its id
        if isinstance(value, Symbol):
            self.symbols.append(path)
        elif isinstance(value, Value):
            self._tensor(value, path)
        elif kind is types.FunctionType:
            self._function(value, path)
        elif (content := content_of(value, path)) is not None:
            self._go(self._note(content).inside(), path)
        elif isinstance(value, (tuple, frozenset)):
            self._go(value, path)
        elif isinstance(value, _WRAPPERS):
            self._go([getattr(value, name, None) for name in _WRAPPED], path)
            self._entries(getattr(value, "__dict__", {}), path, self.names.attributes)
        elif isinstance(value, (operator.attrgetter, operator.methodcaller)):
            asked = (each.split(".") for each in value.__reduce__()[1] if isinstance(each, str))
            self.names.attributes.update(*asked)
        elif isinstance(value, type):
            self._class(value)
        elif kind is types.ModuleType:
            self._module(value, path)
        elif hasattr(kind, "__next__") and not is_users(kind):
            self.obstacles.append((path, DRAWS))
        else:
            self._object(value, path)
        if (isinstance(value, _CONTAINERS) and kind not in _CONTAINERS) or (
            isinstance(value, (Value, np.ndarray)) and is_users(kind)
        ):
            self._object(value, path)

    def _tensor(self, value: Any, path: str) -> None:
        if self.users:  # the library's own cells ask for no form but that of operands
            self._note(Form(value, dotted(path, "shape")))
        written = self.names.attributes & {"data", "numpy"} if self.ran is None else id(value) in self.read
        written = written and value.data.nbytes <= 1 << 20
        if self.ran is None or id(value) not in self.watched:  # else who asks is refused
            for name in (field for field, names in _OF_TENSORS.items() if not names.isdisjoint(self.users)):
                self._note(OfTensor(value, dotted(path, name), name))
                written = written or (name == "data" and self.ran is not None)
        if written:
            self._note(Bytes(value.data, path))

    def _function(self, value: types.FunctionType, path: str) -> None:
        self._note_each(Attribute, value, path, self.users & _NAMES)
        self._go((vars(value).get("__wrapped__"), vars(value).get("registry")), path)  # of functools
        code = value.__code__
        if self.ran is None:
            installed = "-packages" + os.sep in code.co_filename  # which seldom ends where it begins
            if (is_users(code) and not installed) or code.co_filename.startswith(CELLS):
                self._learn(code)
        if not is_users(code) or id(code) not in self.codes:
            return
        if self.ran is None:
            self._globals(names_in(code), value.__globals__)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            self._note(Attribute(value, dotted(path, name), name))
        self._go((value.__defaults__, value.__kwdefaults__), path)
        for name, cell in zip(code.co_freevars, value.__closure__ or ()):
            self._go((self._note(Attribute(cell, name, "cell_contents")).was,), name)
        self._entries(value.__dict__, path, self.names.attributes, self.names.tried)

    def _globals(self, names: Names, known: dict[str, Any]) -> None:
        whole = "globals" in names.globals and self.ran is not None
        self._entries(known, "", None if whole else names.globals, names.globals)
        beyond = names.globals - known.keys()  # which somebody may have put among the builtins
        self._entries(vars(builtins), "", {n for n in beyond if _may_be_users(vars(builtins).get(n))})
        inside = itertools.accumulate(str(known.get("__package__") or "").split("."), "{}.{}".format)
        places = ["", *(f"{package}." for package in inside)]  # from where they may be imported
        self._go((sys.modules.get(f"{place}{name}".rstrip(".")) for name in names.imports for place in places), "")
        if self.ran is not None and names.imports:
            may_come = names.tried or "modules" in names.attributes
            self._entries(sys.modules, "sys.modules", names.imports, names.imports if may_come else set())

    def _module(self, value: types.ModuleType, path: str) -> None:
        own, attributes = vars(value), self.names.attributes
        imported = [own.get(name) for name in ("__loader__", "__spec__")]  # how it came: under pytest that is all tests
        self.seen.update((id(each), each) for each in imported)
        if is_users(value):
            self._entries(own, path, None if self.whole else attributes, self.names.tried)
            return
        for name in attributes & own.keys():  # which somebody may patch
            found = self._note(Entry(own, dotted(value.__name__, name), name)).was
            self._go([found] if type(found) is types.ModuleType or _may_be_users(found) else [], path)
        self._entries(own, value.__name__, self.names.stores - own.keys())

    def _class(self, value: type) -> None:
        """What a class and those that it inherits from define."""
        if is_users(value):
            self._note(Attribute(value, value.__name__, "__mro__"))
            self._note_each(Attribute, value, value.__name__, self.users & _NAMES)
            self._visit(type(value), type(value).__name__)
        attributes = self.names.attributes
        runs = {name: next((k for k in value.__mro__ if name in vars(k)), None) for name in ("step", "forward")}
        computed = attributes if hasattr(value, "__getattr__") else set()  # as long as there is no such name
        later = computed.union(*map(vars, inspect.getmro(type(value))))
        for kind in reversed(value.__mro__):
            own = vars(kind)
            if is_users(kind):
                dunder = {name for name in own if name[:2] == "__" == name[-2:]} if self.ran is None else set()
                names = attributes | (own.keys() if self.everything else dunder)
                hiding = attributes & later | self.names.tried
                self._entries(kind, kind.__name__, None if self.whole else names, hiding)
            elif kind.__module__.startswith(f"{PACKAGE}.nn"):
                self._entries(kind, kind.__name__, {name for name in runs if runs[name] is kind})  # likewise
                self._go([own[name] for name in attributes & own.keys()], kind.__name__)
            later |= own.keys()

    def _object(self, value: Any, path: str) -> None:
        kind, attributes = type(value), self.names.attributes
        users, ours, module = is_users(kind), kind.__module__.startswith(PACKAGE), hasattr(kind, "named_modules")
        inherited: set[str] = set()
        if users or ours:
            self._visit(kind, kind.__name__)
            inherited = {name for each in kind.__mro__ for name in vars(each)}
        own = getattr(value, "__dict__", None)
        there = own.keys() if isinstance(own, dict) else set()
        slots = _slots_of(kind)
        options = ours and self.options and self.ran is not None and kind.__module__ != COMPUTES
        whole = module and (self.everything or options)
        if users or isinstance(value, _STATEFUL) or kind.__module__.startswith("numpy"):
            # Nothing in it that is named: it is read some other way, if at all.
            unnamed = not module and attributes.isdisjoint(there | slots)
            whole = self.everything or id(value) in self.handed or unnamed
        self._note(Attribute(value, path, "__class__"), timed=module)
        if isinstance(own, dict):
            self._note(Attribute(value, path, "__dict__"), timed=module)
            hiding = attributes & inherited | self.names.tried
            self._entries(own, path, None if whole else attributes, hiding, timed=ours and module)
        self._note_each(Attribute, value, path, slots if whole else slots & attributes)


def _may_be_users(value: Any) -> bool:
    """Whether a value in somebody else's module is a number, a text or a function of the user's."""
    return isinstance(value, (bool, int, float, str)) or (
        type(value) is types.FunctionType and is_users(value.__code__)
    )


def _slots_of(kind: type) -> set[str]:
    """The names of the slots that the instances of a class have, but for those that this library keeps for itself."""
    kinds = (each for each in kind.__mro__ if not each.__module__.startswith(PACKAGE))
    return {name for each in kinds for name, member in vars(each).items() if inspect.ismemberdescriptor(member)}
