"""Which cells there are: `tg.nn.cells.list()`."""

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from ...autograd.creation import get_rng_state, set_rng_state
from ...autograd.tape import no_grad
from ..cell import Cell
from .article import ArticleGRUCell, ArticleLSTMCell
from .classic import GRUCell, IRNNCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .diagonal import IndRNNCell, MinGRUCell, MinLSTMCell, QRNNCell, SRUCell
from .factored import FactorisedLSTMCell, FastGRNNCell, FastRNNCell, GroupLSTMCell
from .gru_variants import GRUVariantCell, LayerNormGRUCell, LiGRUCell
from .lstm_variants import (
    CoupledLSTMCell,
    LayerNormLSTMCell,
    MultiplicativeLSTMCell,
    NoForgetGateLSTMCell,
    PeepholeLSTMCell,
    SLSTMCell,
)
from .minimal import MGUCell, MinimalRNNCell, RANCell, UGRNNCell
from .timescales import ClockworkRNNCell, SCRNCell

KUCHAIEV = "Kuchaiev and Ginsburg, 2017"

# (how it is made from I and H, what it computes, source). Gates are meant after their sigmoid.
ROWS: list[tuple[Callable[[int, int], Cell], str, str]] = [
    (RNNCell, "h' = tanh(W x + U h + b)", "Elman, 1990"),
    (IRNNCell, "h' = relu(W x + U h + b), U = 1 at first", "Le et al., 2015"),
    (LSTMCell, "c' = f c + i tanh(g), h' = o tanh(c')", "Hochreiter and Schmidhuber, 1997"),
    (lambda I, H: ProjectedLSTMCell(I, H, max(H // 2, 1)), "h' = P (o tanh(c'))", "Sak et al., 2014"),
    (lambda I, H: FactorisedLSTMCell(I, H, max(H // 4, 1)), "an LSTM of W_2 (W_1 [x, h])", KUCHAIEV),
    (lambda I, H: GroupLSTMCell(I, H, 2 - (I % 2 | H % 2)), "LSTMs, each of its part of x and h", KUCHAIEV),
    (PeepholeLSTMCell, "an LSTM whose i and f see c, whose o sees c'", "Gers et al., 2002"),
    (CoupledLSTMCell, "c' = (1 - i) c + i tanh(g)", "Greff et al., 2017"),
    (NoForgetGateLSTMCell, "c' = c + i tanh(g)", "Hochreiter and Schmidhuber, 1997"),
    (LayerNormLSTMCell, "an LSTM of LN(W x) + LN(U h) + b and LN(c')", "Ba et al., 2016"),
    (MultiplicativeLSTMCell, "m = (W x) (U h) in place of h in an LSTM", "Krause et al., 2016"),
    (SLSTMCell, "i = exp(...), c' = f c + i z, n' = f n + i, h' = o c' / n'", "Beck et al., 2024"),
    (GRUCell, "n = tanh(W x + r (U h)), h' = (1 - z) n + z h", "Cho et al., 2014"),
    (GRUVariantCell, "n = tanh(W x + U (r h)), h' = (1 - z) n + z h", "Cho et al., 2014"),
    (LayerNormGRUCell, "a GRU of LN(W x) and LN(U h), h' = (1 - z) h + z n", "Ba et al., 2016"),
    (LiGRUCell, "h' = z h + (1 - z) relu(W x + U h + b)", "Ravanelli et al., 2018"),
    (MGUCell, "n = tanh(W x + U (z h) + b), h' = (1 - z) h + z n", "Zhou et al., 2016"),
    (MinimalRNNCell, "z = tanh(W x + b), h' = u h + (1 - u) z", "Chen, 2017"),
    (UGRNNCell, "h' = g h + (1 - g) tanh(W x + U h + b)", "Collins et al., 2017"),
    (RANCell, "c' = f c + i (W x), h' = tanh(c')", "Lee et al., 2017"),
    (FastRNNCell, "h' = a tanh(W x + U h + b) + k h", "Kusupati et al., 2018"),
    (FastGRNNCell, "h' = z h + (a (1 - z) + k) tanh(W x + U h + b)", "Kusupati et al., 2018"),
    (IndRNNCell, "h' = relu(W x + u h + b)", "Li et al., 2018"),
    (SRUCell, "c' = f c + (1 - f) (W x), h' = r c' + (1 - r) x", "Lei et al., 2018"),
    (QRNNCell, "c' = f c + (1 - f) tanh(z), h' = o c'", "Bradbury et al., 2017"),
    (MinGRUCell, "h' = (1 - z) h + z (W x + b)", "Feng et al., 2024"),
    (MinLSTMCell, "h' = (f h + i (W x + b)) / (f + i)", "Feng et al., 2024"),
    (SCRNCell, "s' = 0.05 B x + 0.95 s, h' = sigmoid(P s' + A x + R h)", "Mikolov et al., 2014"),
    (ClockworkRNNCell, "h' = tanh(W x + U h + b) where the period divides t", "Koutnik et al., 2014"),
    (ArticleLSTMCell, "c' = f c + i tanh(g), h' = o tanh(c')", "an article's listing"),
    (ArticleGRUCell, "n = tanh(W x + (1 - zz) (U r)), h' = z n + (1 - z) h", "an article's listing"),
]


def short_name(name: str) -> str:
    """The short name of a cell: that of its class without "Cell"; neither case matters nor "-" and "_".

    >>> short_name("LayerNormLSTMCell"), short_name("layer-norm_LSTM")
    ('layernormlstm', 'layernormlstm')
    """
    return name.replace("-", "").replace("_", "").lower().removesuffix("cell")


class Row(NamedTuple):
    """What is known of a cell.

        >>> import tinygrad_rnn as tg
        >>> row = tg.nn.cells.list(28, 64)[0]
        >>> row.name, row.short, row.states, row.parameters
        ('RNNCell', 'rnn', {'h': 64}, 6016)

    Attributes:
        name: of its class in `nn.cells`.
        equation: in a line what it computes.
        source: who proposed it, and when.
        states: names and widths.
        parameters: how many numbers it learns.
        cell: its class, whose docstring says everything.
        short: its short name, by which `make` and command lines know it.
    """

    name: str
    equation: str
    source: str
    states: dict[str, int]
    parameters: int
    cell: type[Cell]
    short: str


class Table(list[Row]):
    """Rows that print as a table."""

    def lines(self) -> list[tuple[str, ...]]:
        """What stands in it, its head first."""
        show = lambda states: ", ".join(f"{name} {width}" for name, width in states.items())
        cells = [(row.name, row.equation, row.source, show(row.states), f"{row.parameters:,}") for row in self]
        return [("cell", "equation", "source", "states", "parameters"), *cells]

    def _repr_html_(self) -> str:
        row = lambda cells, tag: "".join(f'<{tag} style="text-align:left">{escape(x)}</{tag}>' for x in cells)
        head, *rows = self.lines()
        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
        return f"<table><tr>{row(head, 'th')}</tr>{body}</table>"

    def __repr__(self) -> str:
        lines = self.lines()
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join(
            "  ".join([*(text.ljust(n) for text, n in zip(line[:-1], widths)), line[-1].rjust(widths[-1])])
            for line in lines
        )


def catalogue(input_size: int = 128, hidden_size: int = 128) -> Table:
    """All cells, each made with its default options (a projected LSTM with H / 2 outputs).

        >>> import tinygrad_rnn as tg
        >>> table = tg.nn.cells.list(input_size=28, hidden_size=64)
        >>> [row.name for row in table if row.parameters < 5000]
        ['IndRNNCell', 'MinGRUCell']

    Args:
        input_size, hidden_size: I and H, for which states and parameters are counted.

    Returns:
        A list of rows (name, equation, source, states, parameters, cell) that prints as a table.
    """
    table, random_state = Table(), get_rng_state()
    for make, equation, source in ROWS:
        cell = make(input_size, hidden_size)
        with no_grad():
            states = {name: s.shape[-1] for name, s in zip(cell.state_names, cell.begin(None, 1))}
        count = sum(p.numel() for p in cell.parameters())
        name = type(cell).__name__
        table.append(Row(name, equation, source, states, count, type(cell), short_name(name)))
    set_rng_state(random_state)  # nobody's weights depend on whether the list was looked at
    return table
