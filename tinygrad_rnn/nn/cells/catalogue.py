"""Which cells there are: `tg.nn.cells.list()`, and how one comes to stand there."""

import functools
import re
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import NamedTuple, TypeVar

from ...autograd.creation import get_rng_state, set_rng_state, zeros
from ...autograd.tape import no_grad
from ...fusion.compile import fused_cell
from ...fusion.fused import FusedCell, traced_over
from ...fusion.program import Program
from ...fusion.refusal import Unfusable
from ...fusion.sequence import Sequence
from ...fusion.simplify import simplify
from ..cell import Cell
from ..work import flops_of

Kind = TypeVar("Kind", bound=type[Cell])
Shapes = dict[str, tuple[int, ...]]


class Entry(NamedTuple):
    """What a cell says of itself, where it is defined.

    Attributes:
        make: a cell of it, from I and H.
        equation: in a line what it computes; gates are meant after their sigmoid.
        source: who proposed it, and when.
        recurrent: whether a matrix of weights multiplies a state, at every step anew.
        values: what holds for a sequence, from I and H: names and shapes besides the batch.
        cell: its class.
    """

    make: Callable[[int, int], Cell]
    equation: str
    source: str
    recurrent: bool
    values: Callable[[int, int], Shapes]
    cell: type[Cell]

    @property
    def year(self) -> int | None:
        """When it was proposed."""
        found = re.search(r"\b(\d{4})$", self.source)
        return int(found[1]) if found else None


ROWS: list[Entry] = []  # by year


def listed(
    equation: str,
    source: str,
    make: Callable[[int, int], Cell] | None = None,
    *,
    recurrent: bool = True,
    values: Callable[[int, int], Shapes] = lambda I, H: {},
) -> Callable[[Kind], Kind]:
    """Put a class of cells into the list, under its name: a decorator.

        >>> import tinygrad_rnn as tg
        >>> @tg.nn.cells.listed("h' = a h + W x", "Nobody, 2026", recurrent=False)
        ... class LeakyCell(tg.nn.Cell):
        ...     def __init__(self, input_size, hidden_size):
        ...         self.input_size, self.hidden_size = input_size, hidden_size
        ...         self.W, self.a = tg.nn.weight(input_size, hidden_size), tg.nn.bias(hidden_size)
        ...
        ...     def step(self, x, h):
        ...         return self.a * h + x @ self.W
        >>> tg.nn.cells.make("leaky", 3, 4).W.shape
        (3, 4)
        >>> tg.nn.cells.unlisted(LeakyCell)

    From then on `list` shows it, `make` and the commands know it by its short name, and so do the demos.

    Args:
        equation: in a line what it computes; gates are meant after their sigmoid.
        source: who proposed it, and when: "Elman, 1990".
        make: a function of I and H that makes one, where the class wants more than these.
        recurrent: whether a matrix of weights multiplies a state; where none does, all products can be done for all
            steps at once.
        values: what `step` takes by name, as a function of I and H: names and shapes besides the batch.

    Raises (when applied):
        TypeError: it decorates what is no class of cells.
        ValueError: another class has this name, or one with another case, already.
    """

    def enter(kind: Kind) -> Kind:
        if not (isinstance(kind, type) and issubclass(kind, Cell)):
            raise TypeError(f"listed: expected a class of cells, got {kind!r}")
        for entry in ROWS:
            if short_name(entry.cell.__name__) == short_name(kind.__name__):
                again = (kind.__module__, kind.__qualname__) == (entry.cell.__module__, entry.cell.__qualname__)
                if not again:  # rather than a cell of a notebook that is run once more
                    raise ValueError(f"listed: {entry.cell.__module__}.{entry.cell.__name__} has this name already")
        unlisted(kind)
        entry = Entry(make or kind, equation, source, recurrent, values, kind)
        insort(ROWS, entry, key=lambda entry: entry.year or 9999)
        return kind

    return enter


def unlisted(kind: type[Cell]) -> None:
    """Take a class of cells out of the list, if it is there: one with the same name in the same module.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.unlisted(tg.nn.Cell)  # which is not there
    """
    where = lambda kind: (kind.__module__, kind.__qualname__)
    ROWS[:] = [entry for entry in ROWS if where(entry.cell) != where(kind)]


def short_name(name: str) -> str:
    """The short name of a cell: that of its class without "Cell"; neither case matters nor "-" and "_".

    >>> short_name("LayerNormLSTMCell"), short_name("layer-norm_LSTM")
    ('layernormlstm', 'layernormlstm')
    """
    return name.replace("-", "").replace("_", "").lower().removesuffix("cell")


@dataclass(frozen=True)
class Row:
    """What is known of a cell.

        >>> import tinygrad_rnn as tg
        >>> row = tg.nn.cells.list(28, 64)[0]
        >>> row.name, row.short, row.year, row.states, row.parameters, row.flops
        ('RNNCell', 'rnn', 1990, {'h': (64,)}, 6016, 12032)

    Attributes:
        name: of its class in `nn.cells`.
        equation: in a line what it computes.
        source: who proposed it.
        year: and when; None of a listing without a date.
        states: names and shapes besides the batch.
        kind: "matrix" if one of the states is a matrix, or "vector".
        recurrent: whether a matrix of weights multiplies a state.
        parameters: how many numbers it learns.
        cell: its class, whose docstring says everything.
        short: its short name, by which `make` and command lines know it.
        sizes: I and H, for which states, parameters and flops are counted.
    """

    name: str
    equation: str
    source: str
    year: int | None
    states: Shapes
    kind: str
    recurrent: bool
    parameters: int
    cell: type[Cell]
    short: str
    sizes: tuple[int, int]

    @property
    def flops(self) -> int | None:
        """What a step costs: 2 for each weight of a product, 1 for each element of other maths.

        It is counted in the traced step when first asked for, in some 20 ms. None if that step cannot be compiled.
        """
        (entry,) = (entry for entry in ROWS if entry.cell is self.cell)
        return _flops(entry, *self.sizes)


@functools.cache
def _flops(entry: Entry, input_size: int, hidden_size: int) -> int | None:
    try:
        return flops_of(step_of(drawn_apart(entry, input_size, hidden_size).eval(), input_size))
    except Unfusable:
        return None


def drawn_apart(entry: Entry, input_size: int, hidden_size: int) -> Cell:
    """A cell to be looked at: nobody's weights depend on whether it was made."""
    random_state = get_rng_state()
    cell = entry.make(input_size, hidden_size)
    set_rng_state(random_state)
    return cell


def step_of(cell: Cell, input_size: int) -> Program:
    """The step of a cell, traced and simplified.

    Raises:
        Unfusable: with the reason, if it cannot be compiled.
    """
    with no_grad():
        return simplify(traced_over(cell, _alone(cell, input_size)).program)


def compiled_alone(cell: Cell, input_size: int) -> FusedCell:
    """What the compiler makes of a cell.

    Raises:
        Unfusable: with the reason, if nothing.
    """
    with no_grad():
        return fused_cell(cell, _alone(cell, input_size))


def _alone(cell: Cell, input_size: int) -> Sequence:
    """One sequence of one step; what a cell of the list takes by name is given."""
    given = {name: zeros(1, *shape) for name, shape in values_of(cell).items()}
    return Sequence(zeros(1, 1, input_size), cell.begin(None, 1), values=given)


def values_of(cell: Cell) -> Shapes:
    """What the step of a cell of the list takes by name, to try it with: names and shapes besides the batch.

    It is what a cell within a wrapper takes. Of any other cell nothing is known: {}.
    """
    while isinstance(inner := vars(cell).get("cell"), Cell):
        cell = inner
    entry = next((entry for entry in ROWS if entry.cell is type(cell)), None)
    return {} if entry is None else entry.values(cell.input_size or 0, getattr(cell, "hidden_size", 0))


class Table(list[Row]):
    """Rows that print as a table."""

    def lines(self) -> list[tuple[str, ...]]:
        """What stands in it, its head first."""
        shown = lambda names, shape: f"{', '.join(names)} {'x'.join(map(str, shape))}"
        alike = lambda row: groupby(row.states, row.states.__getitem__)  # a shape is told once: h, c 128
        states = lambda row: "; ".join(shown(names, shape) for shape, names in alike(row))
        number = lambda n: "?" if n is None else f"{n:,}"
        cells = [
            (row.name, row.equation, row.source, states(row), number(row.parameters), number(row.flops)) for row in self
        ]
        return [("cell", "equation", "source", "states", "parameters", "flops a step"), *cells]

    def _repr_html_(self) -> str:
        row = lambda cells, tag: "".join(f'<{tag} style="text-align:left">{escape(x)}</{tag}>' for x in cells)
        head, *rows = self.lines()
        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
        return f"<table><tr>{row(head, 'th')}</tr>{body}</table>"

    def __repr__(self) -> str:
        lines = self.lines()
        widths = [max(map(len, column)) for column in zip(*lines)]
        sides = [str.ljust] * 4 + [str.rjust] * 2  # numbers stand below each other
        return "\n".join("  ".join(side(x, n) for side, x, n in zip(sides, line, widths)) for line in lines)


def catalogue(
    input_size: int = 128,
    hidden_size: int = 128,
    *,
    recurrent: bool | None = None,
    year: int | None = None,
    states: str | None = None,
) -> Table:
    """All cells, or some, by year, each made with its default options (a projected LSTM with H / 2 outputs).

        >>> import tinygrad_rnn as tg
        >>> table = tg.nn.cells.list(input_size=28, hidden_size=64)
        >>> [row.name for row in table if row.parameters < 1950]
        ['IndRNNCell']
        >>> [row.name for row in tg.nn.cells.list(recurrent=True, year=1997)]
        ['LSTMCell', 'NoForgetGateLSTMCell']

    Args:
        input_size, hidden_size: I and H, for which states, parameters and flops are counted.
        recurrent: only those with a matrix of recurrent weights, or only those without.
        year: only those of this year.
        states: only those with a state that is a "matrix", or only those whose states are each a "vector".

    Returns:
        A list of rows, see `Row`, that prints as a table.

    Raises:
        ValueError: `states` is something else.
    """
    if states not in (None, "vector", "matrix"):
        raise ValueError(f"list: states must be 'vector' or 'matrix', not {states!r}")
    rows = [_row(entry, input_size, hidden_size) for entry in ROWS]
    wanted = {"recurrent": recurrent, "year": year, "kind": states}
    return Table(
        row for row in rows if all(value is None or getattr(row, name) == value for name, value in wanted.items())
    )


def _row(entry: Entry, input_size: int, hidden_size: int) -> Row:
    cell = drawn_apart(entry, input_size, hidden_size)
    with no_grad():
        shapes = {name: s.shape[1:] for name, s in zip(cell.state_names, cell.begin(None, 1))}
    kind = "matrix" if any(len(shape) > 1 for shape in shapes.values()) else "vector"
    count, name = sum(p.numel() for p in cell.parameters()), entry.cell.__name__
    return Row(
        name, entry.equation, entry.source, entry.year, shapes, kind, entry.recurrent, count, entry.cell,
        short_name(name), (input_size, hidden_size),
    )  # fmt: skip
