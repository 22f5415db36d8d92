"""heatmap: a value or a gradient of every unit at every step."""

from typing import Any

import numpy as np

from .lapack import one_thread
from .recorded import look, of_batch, one_layer, running
from .result import Result, coloured, limits, safe

ORDERS = ("mean", "peak", "similar")


class Heatmap(Result):
    """See `heatmap`.

    Attributes:
        values: [units, T], NaN after the end of the sequence.
        units: [units], the number of the unit in each row.
        title: what is shown.
    """

    def __init__(self, values: np.ndarray, units: np.ndarray, title: str, gradient: bool, order: str) -> None:
        self.values, self.units, self.title, self.gradient, self.order = values, units, title, gradient, order
        self.sentence = (
            f"Each row is a unit and each column a step; the lighter, the greater {title} is"
            + (", and zero is the middle of the scale" if (values < 0).any() else "")
            + ("; hatched where the sequence has ended." if np.isnan(values).any() else ".")
        )

    def draw(self, ax: Any) -> None:
        label = f"{self.title} (logarithmic)" if self.gradient else self.title
        coloured(ax, self.values, label, limits(self.values, not self.gradient), self.gradient)
        ax.set(title=safe(f"{self.title} over time"), xlabel="step t", ylabel=f"unit{self.order}")
        if len(self.units) <= 16:
            size = {"fontsize": 8} if len(self.units) > 10 else {}
            ax.set_yticks(range(len(self.units)), [str(unit) for unit in self.units], **size)
        elif self.order:
            ax.set_yticks([])  # a row's place is not its number


def heatmap(r: Any, name: str, *, b: int = 0, sort: Any = None) -> Heatmap:
    """Any value of a recording, or the gradient that reached it, as a picture of units against time.

        values[u, t] = r[name][t, b, u]

    Karpathy, Johnson and Fei-Fei (2015) found units that count or track quotes by looking at pictures like it.

    Args:
        r: the recording of one layer.
        name: of a value, "f", or of a gradient, "df": "d" and the name of a value, or "d_" if there is a value
            of that name. Values [T, B, ...] of a higher rank are laid out in one row of units.
        b: which sequence of the batch.
        sort: the order of the units: "mean", the greatest on top; "peak", by the step at which their absolute value is
            greatest; "similar", those beside each other that do alike; or their numbers; None: as they are.

    Returns:
        A result with `values` [units, T], and NaN after the end of the sequence; `units`, the number of each row's.

    Raises:
        KeyError: there is no such value; the message lists those there are.
        RuntimeError: no gradient has reached it yet.
        ValueError: no such sequence, order or unit.
        TypeError: r is no recording, or that of several layers.

    With no weights and a bias of 1 an LSTM's forget gates are sigmoid(1):

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.LSTM(3, 4)
        >>> with tg.no_grad():
        ...     for p in layer.parameters():
        ...         p[...] = 0.0
        ...     layer.bias_ih_l0[4:8] = 1.0
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.ones(7, 2, 3))
        >>> tg.study.heatmap(r, "f").values.round(4)[0]
        array([0.7311, 0.7311, 0.7311, 0.7311, 0.7311, 0.7311, 0.7311],
              dtype=float32)
    """
    r = one_layer("heatmap", r)
    array, title, gradient = look("heatmap", r, name)
    values = array[:, of_batch("heatmap", r, b)].T.astype(np.result_type(array, np.float32))
    runs = running(r)[:, b]
    units, order = _ordered(values[:, runs], sort)
    values[:, ~runs] = np.nan
    return Heatmap(values[units], units, title, gradient, order)


def _ordered(values: np.ndarray, sort: Any) -> tuple[np.ndarray, str]:
    """The numbers of the units in an order, and what to say of it."""
    units = np.arange(len(values))
    if sort is None:
        return units, ""
    if isinstance(sort, str) and sort in ORDERS:
        if sort == "mean":
            return np.argsort(-values.mean(1), kind="stable"), ", greatest mean on top"
        if sort == "peak":
            return np.argsort(np.abs(values).argmax(1), kind="stable"), ", earliest peak on top"
        return _similar(values), ", alike together"
    if isinstance(sort, str):
        raise ValueError(f"heatmap: sort is {sort!r}; it may be {', '.join(map(repr, ORDERS))}, or the units' numbers")
    chosen = np.asarray(sort)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1 or not np.isin(chosen, units).all():
        raise ValueError(f"heatmap: sort={sort!r} are no numbers of units, which go from 0 to {len(units) - 1}")
    return chosen, ", as chosen"


def _similar(values: np.ndarray) -> np.ndarray:
    """Around the circle that the first two principal directions of the units' courses span."""
    centred = values - values.mean(1, keepdims=True)
    scale = np.linalg.norm(centred, axis=1, keepdims=True)
    courses = centred / np.where(scale > 0, scale, 1)
    with one_thread():
        u, s, _ = np.linalg.svd(courses, full_matrices=False)
    first, second = (u[:, :2] * s[:2]).T if u.shape[1] > 1 else (u[:, 0], np.zeros(len(u)))
    return np.argsort(np.arctan2(second, first), kind="stable")
