"""Which line of a cell is to be mended."""

import inspect
import pickle
import re
import traceback
from typing import Any

from ..nn.regularised import CellWrapper

_BASES = {"builtins", "tinygrad_rnn.nn.cell", "tinygrad_rnn.nn.module"}


def line_of_step(cell: Any, pattern: str = "", method: str = "step") -> str:
    """The first line of a method that matches, or the one that defines it, as `file:line: text`."""
    kind = type(innermost(cell))
    function = inspect.unwrap(getattr(kind, method, None) or kind)
    try:
        lines, first = inspect.getsourcelines(function)
        path = inspect.getsourcefile(function)
    except (TypeError, OSError):
        return f"{kind.__module__}.{kind.__qualname__}.{method}"
    found = [i for i, line in enumerate(lines) if pattern and re.search(pattern, line.partition("#")[0])]
    at = found[0] if found else next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    return f"{path}:{max(first, 1) + at}: {lines[at].strip()}"


def innermost(cell: Any) -> Any:
    """The cell that is in the library's wrappers, such as `Zoneout`: what is to be mended is there."""
    while isinstance(cell, CellWrapper) and type(cell).__module__ == CellWrapper.__module__:
        cell = cell.cell
    return cell


def line_of_error(error: BaseException, cell: Any) -> str:
    """The innermost line of the user's that raised it; that of the step if it is none of theirs."""
    kinds = {kind for kind in type(innermost(cell)).__mro__ if kind.__module__ not in _BASES}
    own = {f.__code__.co_filename for kind in kinds for f in vars(kind).values() if hasattr(f, "__code__")}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    named = re.search(r"(\S+\.py:\d+)", str(error))
    if not frames and ".step returned " in str(error):
        return line_of_step(cell, r"^\s*return\b")
    if not frames:
        return f"{named[1]}: see the message" if named else line_of_step(cell)
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"


def line_of_attribute(cell: Any) -> str:
    """Where an attribute is set that can be neither copied nor pickled."""
    cell = innermost(cell)
    for name, value in vars(cell).items():
        try:
            pickle.dumps(value)
        except Exception:
            return line_of_step(cell, rf"self\.{name}\s*(:.*)?=[^=]", "__init__")
    return line_of_step(cell, method="__init__")
