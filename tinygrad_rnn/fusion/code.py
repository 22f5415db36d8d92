"""What code can read: whose code it is, which attributes and globals it names, and what ran while somebody listened."""

import dataclasses
import dis
import functools
import os
import re
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

from ..autograd.tensor import Tensor

# ---- Whose code it is ------------------------------------------------------------------------------------------------

PACKAGE = __name__.partition(".")[0]
_OURS = str(Path(__file__).parent.parent) + os.sep
CELLS, _OPTIM, _FUSION, _KERNELS = [_OURS + room + os.sep for room in ("nn", "optim", "fusion", "kernels")]
_LIBRARIES = tuple({os.path.normpath(sysconfig.get_path(each)) + os.sep for each in ("stdlib", "platstdlib")})


@functools.lru_cache(maxsize=4096)
def _users_file(name: str) -> bool:
    """Whether a file is neither this library's, nor NumPy's, Numba's or Python's."""
    known = any(f"{os.sep}{each}{os.sep}" in name for each in ("numpy", "numba", "llvmlite"))
    if known or name.startswith(("<frozen", _OURS)):
        return False
    return not name.startswith(_LIBRARIES) or "-packages" + os.sep in name


def is_users(thing: Any) -> bool:
    """The same of a class, a module or code."""
    if isinstance(thing, types.CodeType):
        return _users_file(thing.co_filename)
    if isinstance(thing, type) and thing.__module__ == "builtins":  # or of code that runs in no module
        return bool(thing.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE: made by a class statement
    module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    if file is None:  # built in, frozen, or typed at a prompt
        return getattr(getattr(module, "__spec__", None), "origin", None) not in ("built-in", "frozen")
    return _users_file(file)


# ---- What code names -------------------------------------------------------------------------------------------------

DYNAMIC = frozenset(
    "getattr hasattr setattr delattr vars dir eval exec globals attrgetter methodcaller __dict__ __getattribute__ "
    "__setattr__ __import__ import_module modules children parameters buffers named_modules named_children "
    "named_parameters named_buffers state_dict __match_args__".split()
)
ALWAYS = frozenset("step forward sequence_values initial_state hidden_size parametrizations".split())
_READS = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"))


@dataclasses.dataclass
class Names:
    """What code can reach: attributes it names, those of them and of globals that it sets, globals, modules it imports;
    and attributes that it may do without, since it catches errors."""

    attributes: set[str] = dataclasses.field(default_factory=set)
    stores: set[str] = dataclasses.field(default_factory=set)
    globals: set[str] = dataclasses.field(default_factory=set)
    imports: set[str] = dataclasses.field(default_factory=set)
    tried: set[str] = dataclasses.field(default_factory=set)

    def add(self, others: "Names") -> None:
        for field, names in vars(others).items():
            getattr(self, field).update(names)


@functools.lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> Names:
    """What code and the functions inside it can reach."""
    names, before, constant = Names(), "", ()
    catches = False
    for instruction in dis.get_instructions(code):
        name, op = instruction.argval, instruction.opname
        if op in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"):
            names.globals.add(name)
        elif op in _READS or op in ("STORE_ATTR", "DELETE_ATTR"):
            names.attributes.add(name)
        elif op == "IMPORT_NAME":
            names.imports.add(name)
        elif op == "MATCH_CLASS":  # of a pattern such as Config("lstm", size=3): how many without a name, and the names
            names.attributes.update(constant, ["__match_args__"] * (name > 0))
        constant = name if op == "LOAD_CONST" else constant
        if op in ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL"):
            names.stores.add(name)
        catches |= op == "SETUP_FINALLY" or (before == "PUSH_EXC_INFO" and op != "WITH_EXCEPT_START")
        before = op
    if catches:
        names.tried.update(names.attributes)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.add(names_in(constant))
    if not (DYNAMIC | {"format"}).isdisjoint(names.attributes | names.globals):  # a name may be in a string then
        texts = [each for each in code.co_consts if isinstance(each, str)]
        words = {word for text in texts for word in re.findall(r"[^\W\d]\w*", text)}
        names.attributes.update(words)
        names.imports.update(words)
        if not names.globals.isdisjoint(("eval", "exec", "globals")):
            names.globals.update(words)
    return names


def is_dynamic(code: types.CodeType, users: bool = True) -> bool:
    """Whether the user's code, or that of others, reaches attributes of which it does not say the names."""
    names = names_in(code)
    return is_users(code) is users and not DYNAMIC.isdisjoint(names.attributes | names.globals)


_NUMBERS = {
    f.__code__
    for name in ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__bool__", "__index__", "__iter__")
    if isinstance(f := getattr(Tensor, name, None), types.FunctionType)
}


class Ran:
    """What ran while it listened.

    Attributes:
        codes: the user's code, and that of the library's cells, optimisers and schedules, with its globals.
        read: tensors of which somebody asked for the numbers.
        handed: what the user's code handed to functions of Python's own library, which may read all of it.
    """

    def __init__(self) -> None:
        self.codes: dict[tuple[int, int], tuple[types.CodeType, dict[str, Any]]] = {}
        self.read: list[Any] = []
        self.handed: list[Any] = []

    def called(self, frame: types.FrameType) -> None:
        """Told of every call."""
        code, file = frame.f_code, frame.f_code.co_filename
        if _users_file(file) or (file.startswith((CELLS, _OPTIM)) and not _runs_cells(code)):
            key = id(code), id(frame.f_globals)
            if key not in self.codes and not _is_of_others(frame):
                self.codes[key] = code, frame.f_globals
        elif code in _NUMBERS:
            self.read.append(frame.f_locals["self"])
        elif not file.startswith(_OURS) and frame.f_back is not None and is_users(frame.f_back.f_code):
            self.handed += frame.f_locals.values()


@functools.lru_cache(maxsize=1024)
def _runs_cells(code: types.CodeType) -> bool:
    """Whether code is what the library's cells are run by, rather than what they read in a step."""
    name = code.co_filename.removeprefix(CELLS)
    in_cell = ("candidate", "masked", "recurrent_dropout")
    running = ("module.py", "recurrent.py", "stacked.py", "rnn.py")
    return name in running or (name == "cell.py" and code.co_name not in in_cell)


def _is_of_others(frame: types.FrameType | None) -> bool:
    """Whether a call belongs to a layer within the cell, which has guards of its own, or makes a kernel of a row."""
    while frame is not None and frame.f_code.co_name != "_trace_once":
        if frame.f_code.co_filename.startswith((_FUSION, _KERNELS)):
            return True
        frame = frame.f_back
    return False
