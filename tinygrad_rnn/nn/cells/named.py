"""A cell by name, as a command line gives it: `tg.nn.cells.make("mgu", 28, 64)`."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from ..cell import Cell
from .catalogue import ROWS, short_name

LIST = "python -m tinygrad_rnn cells"


def make(name: str, input_size: int, hidden_size: int) -> Cell:
    """A cell of the library by its short name, or anybody's as `package.module:name`.

        >>> import tinygrad_rnn as tg
        >>> type(tg.nn.cells.make("lstm", 28, 64)).__name__
        'LSTMCell'
        >>> names = ["layer-norm_LSTM", "LayerNormLSTMCell", "tinygrad_rnn.nn.cells:LayerNormLSTMCell"]
        >>> [type(tg.nn.cells.make(name, 28, 64)).__name__ for name in names]
        ['LayerNormLSTMCell', 'LayerNormLSTMCell', 'LayerNormLSTMCell']

    The short name is that of the class without "Cell". Neither case matters nor "-" and "_". Behind a module
    it will do as well.

    Args:
        name: a short name, or a module, found in the current folder too, and what is called so in it: a class of
            cells that is made from two sizes, a function of two sizes that makes one, or a cell as it is.
        input_size, hidden_size: I and H.

    Raises:
        ValueError: there is no such cell, or it is not made from two sizes.
    """
    module_name, colon, own = name.rpartition(":")
    if not colon:
        return _of_the_library(name)(input_size, hidden_size)
    if not (module_name and own):
        raise ValueError(f"no cell {name!r}: expected package.module:MyCell, or a short name; {LIST} lists them")
    found = _attribute(module_name, own)
    if isinstance(found, Cell):
        return found
    found = {entry.cell: entry.make for entry in ROWS}.get(found, found)  # some want more than two sizes
    sizes = f"{own}({input_size}, {hidden_size})"
    try:
        inspect.signature(found).bind(input_size, hidden_size)
    except TypeError as error:
        wanted = ", ".join(map(str, inspect.signature(found).parameters.values()))
        raise ValueError(
            f"{sizes} failed: {error}. It is made by {own}({wanted}): name a function that makes it from two sizes, "
            f"`def of_two(I, H): return {own}(...)`, as {module_name}:of_two"
        ) from None
    except ValueError:  # nobody knows the signature: calling it will tell
        pass
    try:
        cell = found(input_size, hidden_size)
    except Exception as error:
        raise ValueError(f"{sizes} failed: {error}") from None
    if not isinstance(cell, Cell):
        raise ValueError(f"{sizes} returned {type(cell).__name__}, not a cell")
    return cell


def make_alone(name: str, input_size: int, hidden_size: int) -> Cell:
    """`make`, of a cell that needs nothing but x, for who has nothing else to give.

    Raises:
        ValueError: what `make` raises it for, or the step takes something by name and cannot do without.
    """
    cell = make(name, input_size, hidden_size)
    required = [each for each, need in cell.value_names.items() if need == "required"]
    if required:
        raise ValueError(f"{type(cell).__name__} needs {' and '.join(required)} by name, which there is none of here")
    return cell


def _of_the_library(name: str) -> Callable[[int, int], Cell]:
    """How the cell of a short name is made."""
    known = {short_name(entry.cell.__name__): entry.make for entry in ROWS}
    short = short_name(name)
    if short not in known:
        near = difflib.get_close_matches(short, known, 3) or [each for each in known if short and short in each][:3]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"no cell {name!r}: {hint}{LIST} lists all {len(known)}; your own is package.module:MyCell")
    return known[short]


def _attribute(module_name: str, name: str) -> Any:
    """What a module of the user's calls by a name, if cells can come of it."""
    module = imported(module_name)
    found = getattr(module, name, None)
    cells = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Cell)]
    if found is None:
        found = next((getattr(module, key) for key in cells if short_name(key) == short_name(name)), None)
    is_kind = isinstance(found, type) and issubclass(found, Cell)
    if is_kind or isinstance(found, Cell) or inspect.isfunction(found):
        return found
    raise ValueError(f"{module_name} has no cell {name!r}; its cells are: {', '.join(cells) or 'none'}")


def imported(name: str) -> Any:
    """A module of the user's.

    Raises:
        ValueError: it cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the current folder are found, as with python -m
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"cannot import {name}: {error}") from None
