"""Which cells stand for all of the library in tests that take long: one rule, so that nobody chooses by hand.

Every cell has the tests that need no compiler: its equations, finite differences, both engines with interpreted
kernels, all of `check_cell`. Users run the longer ones of these for the cells below; the rest is left to `-m slow`, see
`every_cell`. What only machine code can get wrong, such as memory beside an array, threads, or the width of a register,
does not depend on equations but on the kinds of loops, products and states that a kernel has. Cells of one family,
which is a file of `nn.cells`, have much the same of these. So such a test takes

- of each family one, the first, or in another test another one,
- and of cells with states that are not [B, H], matrices or of a width of their own, every third, likewise.
"""

import pytest

from tinygrad_rnn.nn.cells.catalogue import ROWS, catalogue

NAMES = [row.name for row in catalogue(4, 4)]


def covering(turn=0):
    """The names of cells that stand for all, in the order of the list: `turn` counts who of a family comes first."""
    families, odd = {}, []
    for name, row in zip(NAMES, ROWS):
        cell = row[0](4, 4)
        families.setdefault(type(cell).__module__, []).append(name)
        if any(state.shape != (1, 4) for state in cell.begin(None, 1)):
            odd.append(name)
    chosen = {family[turn % len(family)] for family in families.values()} | {*odd[turn % 3 :: 3]}
    return [name for name in NAMES if name in chosen]


def every_cell(turn=0):
    """All cells as functions of I and H, as parameters of a test: those that stand for none are left to `-m slow`."""
    quick = covering(turn)
    marks = lambda name: () if name in quick else pytest.mark.slow
    return [pytest.param(row.make, id=name, marks=marks(name)) for name, row in zip(NAMES, ROWS)]
