"""Guards: whether a compiled cell still says what its step would say.

A trace freezes whatever Python decides before a symbol is touched: attributes, globals, functions, numbers in lists and
arrays. So a step is watched while it is traced, and what it can read is walked through twice, see `walk`:

    before the trace    what it might change, to be put back: a step that changes something is refused
    after the trace     what it read: before each call the guards ask whether all of it is as it was

Tensors are operands: kernels read them at every call, and what is read out of one in Python is the tracer's to refuse
or, past it, guarded here by bytes.
"""

import dis
import types
from typing import Any

from ..autograd.tape import Value
from .code import Ran, is_dynamic, is_users, names_in
from .frames import listener
from .reads import Attribute, Entry, Form, Random, Read
from .trace import Unfusable
from .walk import Walk

_CODE = (types.CodeType, types.FunctionType, types.MethodType, property, staticmethod, classmethod)


class Clock:
    """When an attribute of some module was last set or deleted: `now` is another object after each time."""

    now = object()

    def tick(self) -> None:
        self.now = object()  # which, other than a number, is no other process's in a pickle


clock = Clock()


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
        if self.before.obstacles:
            path, told = self.before.obstacles[0]
            raise Unfusable(told.format(path, self.where(path)))
        self.outer = listener.called, listener.between, listener.codes
        listener.called, listener.between = self.ran.called, self._between
        listener.codes = frozenset(filter(is_users, self.before.codes.values()))
        return self

    def _between(self) -> None:
        """Called after the first run of two: what is changed twice may be as it was."""
        if self._found():
            raise Unfusable("step changes something")  # which `__exit__` will say

    def _found(self) -> list[tuple[Read, str]]:
        """What the step has changed, and what the user calls it."""
        codes = [code for code, _ in self.ran.codes.values()]
        named = {"cell_contents"}.union(*(names_in(code).stores for code in codes))
        stores = None if any(map(is_dynamic, codes)) else named
        reads = self.before.reads.values()
        return [(read, path) for read in reads if (path := read.changed(stores)) is not None]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        listener.called, listener.between, listener.codes = self.outer
        found = self._found()
        for read, _ in found:
            read.put_back()
        if found:
            self.changes = True
            if error is None or isinstance(error, Exception):
                read, path = found[0]
                raise Unfusable(read.told.format(path + self.where(path))) from None

    def where(self, path: str) -> str:
        """The line that sets something, or else one that names it."""
        name = path.rpartition(".")[2]
        codes = [*filter(is_users, [code for code, _ in self.ran.codes.values()] or self.before.codes.values())]
        codes = [code for code in codes if code.co_filename != "<string>"] or codes  # rather than what exec runs
        # How well lines fit, the best ones 0: the last resort is where the first code begins.
        lines = [(2, f" ({code.co_filename}:{code.co_firstlineno}, in {code.co_name})") for code in codes[:1]]
        for code in codes:
            line, starts = code.co_firstlineno, dict(dis.findlinestarts(code))
            for instruction in dis.get_instructions(code):
                line = starts.get(instruction.offset) or line
                if instruction.argval == name:
                    sets = instruction.opname.startswith(("STORE_", "DELETE_"))
                    lines.append((0 if sets else 1, f" ({code.co_filename}:{line}, in {code.co_name})"))
        return min(lines, key=lambda each: each[0], default=(0, ""))[1]


class Guards:
    """Whether what a step read is as it was.

    What the library's own modules hold is looked at again only when the `clock` has moved on; the rest, by `always`,
    before each call.

    Args:
        refused: whether the step was refused.
        code_only: look at functions and classes alone. What a step changes makes no difference to its being refused.
    """

    def __init__(self, watch: Watch, refused: bool = False, code_only: bool = False) -> None:
        walk = Walk(watch.cell, watch.ran, watch.before)
        if walk.symbols and not refused:
            raise Unfusable(f"step keeps what it computed in {walk.symbols[0]}{watch.where(walk.symbols[0])}")
        if walk.ahead and not refused:
            path = walk.ahead[0][1]
            raise Unfusable(f"step can read more than {len(walk.seen):,} objects, by way of {path}{watch.where(path)}")
        reads = [*walk.reads.values()]
        if code_only:
            reads = [read for read in reads if isinstance(read, Attribute) and isinstance(read.was, _CODE)]
        self.time, self._ways = watch.time, walk.ways
        self._reads = [read for read in reads if not isinstance(read, Random)]  # which have no guards
        self.always = _function([read for read in reads if not read.timed])
        self._timed = _function([read for read in reads if read.timed])

    def holds(self) -> bool:
        """Whether everything is as it was."""
        now = clock.now
        if now is not self.time:
            if self._timed is not None and not self._timed():
                return False
            self.time = now
        return self.always is None or self.always()

    def replaced(self) -> dict[int, Any]:
        """Tensors in whose places others of the same form are now, by the identity of the old ones, and the guards are
        theirs from now on; none if more than that has changed.

        All that Python sees of a tensor is its form and which one it is: kernels read its numbers at each call.
        """
        changed = self.changed()
        new = {id(read.was): read.get() for read in changed if type(read) is Entry and _alike(read.was, read.get())}
        fresh = {id(x): 1 for x in new.values()}
        if len(fresh) < len(changed) or fresh.keys() & self._ways or any(self._ways[i] != 1 for i in new):
            return {}
        known = {id(y) for read in changed for y in (read.was, read.was.data)}
        about = [read for read in self._reads if id(read.holder) in known]
        if any(type(read) is not Form for read in about):
            return {}
        for read in changed:
            del self._ways[id(read.was)]
            read.was = new[id(read.was)]
        for read in about:
            read.holder = new[id(read.holder)]
        self._ways.update(fresh)
        for holds in filter(None, (self.always, self._timed)):
            holds.__defaults__ = tuple([new.get(id(x), x) for x in holds.__defaults__])
        return new

    def changed(self) -> list[Read]:
        """The reads of what is not as it was."""
        return [read for read in self._reads if not read.holds()]


def _alike(x: Any, y: Any) -> bool:
    """Whether two tensors differ in nothing but numbers."""
    alike = isinstance(x, Value) and type(x) is type(y)
    return alike and (x.data.shape, x.data.dtype) == (y.data.shape, y.data.dtype)


def _function(reads: list[Read]) -> Any:
    """A function that says whether all reads hold; None if there are none. It is a text of conditions, line by line."""
    values: dict[str, Any] = {}
    names: dict[Any, str] = {}

    def variable(value: Any, key: Any = None) -> str:
        name = names.setdefault(key or id(value), f"v{len(names)}")
        values.setdefault(name, value)
        return name

    conditions = dict.fromkeys(condition for read in reads for condition in read.conditions(variable))
    if not conditions:
        return None
    lines = [f"def holds({', '.join(f'{name}={name}' for name in values)}):", "    try:"]
    lines += [f"        if {condition}: return False" for condition in conditions]
    lines += ["    except Exception: return False", "    return True"]
    exec(compile("\n".join(lines), "<guards of a cell>", "exec"), values)
    return values["holds"]
