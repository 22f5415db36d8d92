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
import random
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from operator import is_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tape import Value
from ..autograd.tensor import Tensor
from .held import Held
from .trace import Symbol, Unfusable, listener

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
HIDDEN = "_compiled"  # the attribute of a cell under which this process remembers what it made of it


class Clock:
    """When an attribute of some module was last set or deleted: `now` is another object after each time."""

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        self.now = object()  # which, other than a number, is no other process's in a pickle


clock = Clock()

# ---- Whose code it is ------------------------------------------------------------------------------------------------

_PACKAGE = __name__.partition(".")[0]
_OURS = str(Path(__file__).parent.parent) + os.sep
_CELLS, _FUSION = _OURS + "nn" + os.sep, _OURS + "fusion" + os.sep
_LIBRARIES = tuple({os.path.normpath(sysconfig.get_path(each)) + os.sep for each in ("stdlib", "platstdlib")})


@functools.lru_cache(maxsize=4096)
def _is_users_file(name: str) -> bool:
    """Whether a file is neither this library's, nor NumPy's, Numba's or Python's."""
    if name.startswith(("<frozen", _OURS)) or any(f"{os.sep}{each}{os.sep}" in name for each in ("numpy", "numba")):
        return False
    return not name.startswith(_LIBRARIES) or "-packages" + os.sep in name


def _is_users(thing: Any) -> bool:
    """The same of a class, a module or code."""
    if isinstance(thing, types.CodeType):
        return _is_users_file(thing.co_filename)
    module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    if file is None:  # built in, or typed at a prompt
        return getattr(module, "__name__", "__main__") not in sys.builtin_module_names
    return _is_users_file(file)


# ---- What code names -------------------------------------------------------------------------------------------------

DYNAMIC = frozenset(
    "getattr hasattr setattr delattr vars dir eval exec globals attrgetter methodcaller __dict__ __getattribute__ "
    "__setattr__ __import__ import_module modules children parameters buffers named_modules named_children named_parameters named_buffers "
    "state_dict".split()
)
ALWAYS = frozenset("step sequence_values initial_state hidden_size".split())
_READS = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"))


class Names(NamedTuple):
    """What code can reach: attributes it names, those of them that it sets, globals, modules it imports."""

    attributes: frozenset[str]
    stores: frozenset[str]
    globals: frozenset[str]
    imports: frozenset[str]


@functools.lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> Names:
    """What code and the functions inside it can reach."""
    attributes, stores, known, imports = set(), set(), set(), set()
    for instruction in dis.get_instructions(code):
        name, op = instruction.argval, instruction.opname
        if op in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"):
            known.add(name)
        elif op in _READS or op in ("STORE_ATTR", "DELETE_ATTR"):
            attributes.add(name)
        elif op == "IMPORT_NAME":
            imports.add(name)
        if op in ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL"):
            stores.add(name)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_in(constant)
            attributes |= inner.attributes
            stores |= inner.stores
            known |= inner.globals
            imports |= inner.imports
    if not DYNAMIC.isdisjoint(attributes | known):  # a name may be in a string then
        for text in (each for each in code.co_consts if isinstance(each, str)):
            words = {word for word in text.replace(".", " ").split() if word.isidentifier()}
            attributes |= words
            imports |= words
            known |= words if not known.isdisjoint(("eval", "exec", "globals")) else set()
    return Names(frozenset(attributes), frozenset(stores), frozenset(known), frozenset(imports))


def _is_dynamic(code: types.CodeType) -> bool:
    """Whether the user's code reaches attributes of which it does not say the names."""
    names = names_in(code)
    return _is_users(code) and not DYNAMIC.isdisjoint(names.attributes | names.globals)


_NUMBERS = {
    f.__code__
    for name in ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__", "__iter__")
    if isinstance(f := getattr(Tensor, name, None), types.FunctionType)
}


class Ran:
    """What ran while it listened.

    Attributes:
        codes: the user's code, and that of the library's cells, with its globals.
        read: tensors of which somebody asked for the numbers.
        handed: what the user's code handed to functions of Python's own library, which may read all of it.
    """

    def __init__(self) -> None:
        self.codes: dict[tuple[int, int], tuple[types.CodeType, dict[str, Any]]] = {}
        self.read: list[Any] = []
        self.handed: list[Any] = []

    def __enter__(self) -> "Ran":
        self.before, listener.called = listener.called, self.called
        return self

    def __exit__(self, *error: object) -> None:
        listener.called = self.before

    def called(self, frame: types.FrameType) -> None:
        """Told of every call."""
        code, file = frame.f_code, frame.f_code.co_filename
        if _is_users_file(file) or (file.startswith(_CELLS) and not _runs_cells(code)):
            key = id(code), id(frame.f_globals)
            if key not in self.codes and not _in_other_layer(frame):
                self.codes[key] = code, frame.f_globals
        elif code in _NUMBERS:
            self.read.append(frame.f_locals["self"])
        elif not file.startswith(_OURS) and frame.f_back is not None and _is_users(frame.f_back.f_code):
            self.handed += frame.f_locals.values()


@functools.lru_cache(maxsize=1024)
def _runs_cells(code: types.CodeType) -> bool:
    """Whether code is what the library's cells are run by, rather than what they read in a step."""
    name = code.co_filename.removeprefix(_CELLS)
    in_cell = ("candidate", "masked", "recurrent_dropout")
    return name in ("module.py", "recurrent.py", "stacked.py") or (name == "cell.py" and code.co_name not in in_cell)


def _in_other_layer(frame: types.FrameType | None) -> bool:
    """Whether a call belongs to a layer within the cell, which has guards of its own."""
    while frame is not None and frame.f_code.co_name != "trace_step":
        if frame.f_code.co_filename.startswith(_FUSION):
            return True
        frame = frame.f_back
    return False


# ---- Parts: what lies somewhere, and how to see whether it still does ------------------------------------------------


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
    """What a class defines itself."""

    def mapping(self) -> Mapping[str, Any]:
        return {name: value for name, value in vars(self.holder).items() if not isinstance(value, Held)}

    def expression(self, source: Source) -> str:
        return source.name(vars(self.holder))

    def set(self, name: str, value: Any) -> None:
        setattr(self.holder, name, value)

    def delete(self, name: str) -> None:
        delattr(self.holder, name)

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
        if isinstance(self.holder, _VIEWS):  # of items: pairs that are made anew each time
            return [each for pair in [*self.holder] for each in (pair if type(pair) is tuple else (pair,))]
        return list(self.holder)

    def same(self, now: Any, before: Any) -> bool:
        return len(now) == len(before) and all(map(is_, now, before))

    def put_back(self) -> None:
        holder, before = self.holder, self.before
        if isinstance(holder, list):
            holder[:] = before
            return
        if isinstance(holder, _VIEWS):
            return  # what they show is put back by itself, if it can be reached
        holder.clear()
        if isinstance(holder, dict):
            half = len(before) // 2
            holder.update(zip(before[:half], before[half:]))
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
            if (shape, dtype) == (self.holder.shape, self.holder.dtype):
                self.holder[...] = np.frombuffer(numbers, dtype).reshape(shape)
        else:
            memoryview(self.holder).cast("B")[:] = self.before


class Referent(Part):
    """What a weak reference leads to, or what a context variable is set to."""

    def read(self) -> Any:
        return self.holder.get(MISSING) if isinstance(self.holder, ContextVar) else self.holder()

    def put_back(self) -> None:
        if isinstance(self.holder, ContextVar) and self.before is not MISSING:
            self.holder.set(self.before)


class Random(Part):
    """The state of a generator of random numbers: one that a trace draws from must give the same to the tape."""

    def read(self) -> Any:
        holder = self.holder
        if isinstance(holder, np.random.Generator):
            return repr(holder.bit_generator.state), holder.bit_generator.state
        if holder is np.random or isinstance(holder, np.random.RandomState):
            state = holder.get_state()
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


# ---- The walk --------------------------------------------------------------------------------------------------------

_ATOMS = (
    bool, int, float, complex, str, bytes, range, slice, type(None), type(...), type(NotImplemented), np.dtype,
    types.CodeType, type(MISSING), np.ufunc,
)  # fmt: skip
_VIEWS = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))
_CODE = (types.CodeType, types.FunctionType, types.MethodType, property, staticmethod, classmethod)
_BUFFERS = (bytearray, memoryview, array.array, ctypes._SimpleCData, ctypes.Array, ctypes.Structure)
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
                    if _is_users(code):
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
        self.everything |= _is_dynamic(code)
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
        elif isinstance(value, (list, dict, set, collections.deque, *_VIEWS)):
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
        elif hasattr(kind, "__next__") and not _is_users(kind):
            self.draws.append(path)
        else:
            self._object(value, path)

    def _tensor(self, value: Any, path: str) -> None:
        written = not self.attributes.isdisjoint(("data", "numpy")) if self.ran is None else id(value) in self.read
        if self.ran is None and not self.sets.isdisjoint(("data", "grad", "node")):
            self._add(OfTensor(value, path, {"data", "grad", "node"} & self.sets))
        if (written or "data" in self.attributes) and value.data.nbytes <= 1 << 20:
            self._add(Bytes(value.data, path))

    def _array(self, value: np.ndarray, path: str) -> None:
        if value.dtype.hasobject:
            self._go(value.ravel().tolist(), path)
        self._add(Bytes(value, path))

    def _of_users_class(self, value: Any, path: str) -> None:
        """The attributes of a container of a class that the user wrote."""
        if _is_users(type(value)):
            self._object(value, path)

    def _function(self, value: types.FunctionType, path: str) -> None:
        if hasattr(value, "__wrapped__"):
            self._go((value.__wrapped__,), path)
        code = value.__code__
        installed = self.ran is None and "-packages" + os.sep in code.co_filename  # which seldom ends where it begins
        if installed or not _is_users(code) or (self.ran is not None and id(code) not in self.codes):
            if self.ran is None and code.co_filename.startswith(_CELLS):
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
        wanted = names.globals
        part = Named(known, "", wanted, wanted)
        self._add(part)
        self._go_named(part)
        self._go((sys.modules.get(name) for name in names.imports), "")

    def _module(self, value: types.ModuleType, path: str) -> None:
        if value is os and not self.attributes.isdisjoint(("environ", "getenv")):
            self._go((vars(os.environ)["_data"],), "os.environ")
        if not _is_users(value):
            return
        there = self.attributes if self.ran is None else self.attributes & vars(value).keys()
        part = Named(vars(value), path, there)
        self._add(part)
        self._go_named(part)

    def _class(self, value: type, path: str) -> None:
        """What a class and those that it inherits from define."""
        if _is_users(value):
            self._add(Bases(value, value.__name__))
        step = next((kind for kind in value.__mro__ if "step" in vars(kind)), None)
        later: set[str] = set()
        for kind in reversed(value.__mro__):
            own = vars(kind)
            if id(own) not in self.seen and kind.__module__ not in ("builtins", "abc", "typing"):
                users = _is_users(kind)
                if users:
                    dunder = {n for n in own if n[:2] == "__" == n[-2:]} if self.ran is None else set()
                    names = set(own) if self.everything else (self.attributes & own.keys()) | dunder
                    names -= {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__slots__"}
                    hiding = (self.attributes & later) - own.keys()
                    stored = self.sets if self.ran is None else set()
                    part = OfClass(kind, kind.__name__, names | hiding | stored, hiding)
                    self.seen[id(own)] = own
                    self._add(part)
                    self._go_named(part)
                elif kind.__module__.startswith(f"{_PACKAGE}.nn"):
                    self.seen[id(own)] = own
                    if kind is step:
                        self._add(OfClass(kind, kind.__name__, {"step"}))
                    self._go([own[name] for name in self.attributes & own.keys()], kind.__name__)
            later |= own.keys()

    def _object(self, value: Any, path: str) -> None:
        kind = type(value)
        users, ours, module = _is_users(kind), kind.__module__.startswith(_PACKAGE), hasattr(kind, "named_modules")
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
        if users or isinstance(value, (types.SimpleNamespace, Mapping, Sequence, Set)):
            # Nothing in it that is named: it is read some other way, if at all.
            unnamed = not module and self.attributes.isdisjoint(there | slots)
            whole = self.everything or id(value) in self.handed or unnamed
        if isinstance(own, dict):
            hiding = (self.attributes & inherited) - there
            names = (self.attributes & there) | (self.attributes if self.ran is None else hiding)
            part: Named = (OfModule if module else OfObject)(value, path, None if whole else names, hiding)
            self._add(part, library=ours)
            self._add(Identity(value, path), library=module)
            self._go_named(part)
        if whole or not slots.isdisjoint(self.attributes):
            part = Fields(value, path, slots if whole else slots & self.attributes)
            self._add(part)
            self._go_named(part)


def _slots_of(kind: type) -> set[str]:
    """The names of the slots that the instances of a class have, but for those that this library keeps for itself."""
    kinds = (each for each in kind.__mro__ if not each.__module__.startswith(_PACKAGE))
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
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.ran.__exit__()
        codes = [code for code, _ in self.ran.codes.values()]
        stores: set[str] | None = set().union(*(names_in(code).stores for code in codes))
        if any(_is_dynamic(code) for code in codes):
            stores = None
        found = [(part, path) for part, _ in self.before.parts if (path := part.changed(stores)) is not None]
        for part, _ in found:
            part.put_back()
        if found:
            self.changes = True
            if error is None or isinstance(error, Exception):
                raise Unfusable(self._told(*found[0])) from None

    def _told(self, part: Part, path: str) -> str:
        if isinstance(part, Random):
            return f"step draws random numbers from {path}, past rand, randn and dropout{self._where(path)}"
        return (
            f"step changes {path}{self._where(path)}: a step that is compiled runs once, not at every step of a "
            "sequence; return what is to be kept as a state instead"
        )

    def _where(self, path: str) -> str:
        """The line that sets something, or else one that names it."""
        name = path.rpartition(".")[2]
        codes = [code for code, _ in self.ran.codes.values()] or [*self.before.codes.values()]
        lines: list[tuple[bool, str]] = []
        for code in filter(_is_users, codes):
            line = code.co_firstlineno
            for instruction in dis.get_instructions(code):
                line = instruction.starts_line if type(instruction.starts_line) is int else line
                line = getattr(instruction, "line_number", None) or line
                if instruction.argval == name:
                    sets = instruction.opname.startswith(("STORE_", "DELETE_"))
                    lines.append((not sets, f" ({code.co_filename}:{line}, in {code.co_name})"))
        if not lines:
            lines = [(False, f" ({c.co_filename}:{c.co_firstlineno}, in {c.co_name})") for c in codes if _is_users(c)][:1]
        return min(lines, key=lambda each: each[0])[1] if lines else ""

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
