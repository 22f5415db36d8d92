"""trajectory: the path of a state through its first principal components."""

from typing import Any

import numpy as np

from .lapack import one_thread
from .recorded import look, of_batch, one_layer, running
from .result import COLOURS, Result, safe

MARKS = "os^Dv<>P*X"
NAMED = 12  # kinds that the legend has room for
OTHERS_SHOWN = 32


class Trajectory(Result):
    """See `trajectory`.

    Attributes:
        values: [T, k], of one sequence; NaN after its end.
        every: [T, B, k], of all.
        components: [k, units], of length 1 and orthogonal; the greatest entry of each is positive.
        mean: [units], the origin.
        explained_variance: [k], the share of the variance along each component.
        labels: [T], or None.
    """

    size = (5.6, 4.4)
    labels: np.ndarray | None = None
    values: np.ndarray
    every: np.ndarray

    def __init__(self, mean: np.ndarray, components: np.ndarray, explained_variance: np.ndarray, name: str) -> None:
        self.mean, self.components, self.explained_variance, self.name = mean, components, explained_variance, name
        self.sentence = (
            f"Each dot is {name} after a step, seen along the directions in which it varies most, which show "
            f"{explained_variance[:2].sum():.0%} of its variance; the line leads from step to step, in pale the other "
            "sequences."
        )

    def project(self, states: Any) -> np.ndarray:
        """[..., units] along the components, [..., k]: to put fixed points on the picture."""
        states = np.asarray(states)
        if states.shape[-1:] != self.mean.shape:
            raise ValueError(f"project: expected [..., {len(self.mean)}], got {list(states.shape)}")
        return (states - self.mean) @ self.components.T

    def draw(self, ax: Any) -> None:
        flat = self.values.shape[1] < 2
        xy = lambda path: (np.arange(len(path)), path[:, 0]) if flat else (path[:, 0], path[:, 1])
        for other in range(min(self.every.shape[1], OTHERS_SHOWN)):
            ax.plot(*xy(self.every[:, other]), color="0.85", lw=0.8, zorder=1)
        ax.plot(*xy(self.values), color="0.5", lw=0.8, zorder=2)
        if self.labels is None:
            points = ax.scatter(*xy(self.values), c=np.arange(len(self.values)), cmap=COLOURS, s=18, zorder=3)
            ax.figure.colorbar(points, ax=ax, label="step t")
        else:
            kinds = list(dict.fromkeys(self.labels.tolist()))
            shades = np.linspace(0, 1, max(len(kinds), 2))
            import matplotlib

            colours = matplotlib.colormaps[COLOURS](shades)
            handles, texts = [], []
            for k, kind in enumerate(kinds):
                x, y = xy(self.values)
                at = self.labels == kind
                style = {"color": colours[k], "marker": MARKS[k % len(MARKS)], "ec": "0.2", "lw": 0.3}
                handles.append(ax.scatter(x[at], y[at], s=24, zorder=3, **style))
                text = str(kind)
                texts.append(safe(" " + text if text.strip() == text and text.isprintable() else repr(text)))
            if len(kinds) > NAMED:
                rest = len(kinds) - NAMED + 1
                handles = [*handles[: NAMED - 1], ax.scatter([], [], alpha=0)]
                texts = [*texts[: NAMED - 1], f" and {rest} more"]
            ax.legend(handles, texts, fontsize=8)
        share = [f" ({x:.0%} of the variance)" for x in self.explained_variance]
        ax.set_title(safe(f"Trajectory of {self.name}"))
        if flat:
            ax.set(xlabel="step t", ylabel=f"component 1{share[0]}")
        else:
            ax.set(xlabel=f"component 1{share[0]}", ylabel=f"component 2{share[1]}")


def trajectory(r: Any, name: str = "h", *, b: int = 0, k: int = 2, labels: Any = None) -> Trajectory:
    """A state, or another value, in its first principal components.

        values[t] = (h[t, b] - mean) V,    V the first k right singular vectors of all steps of all sequences - mean

    Args:
        r: the recording of one layer.
        name: of the value.
        b: which sequence is coloured.
        k: how many components; the picture shows two.
        labels: [T], what each step is coloured by; None: its time.

    Returns:
        A result with `values` [T, k], NaN after the end of the sequence; `every` [T, B, k], `components` [k, units],
        `mean`, `explained_variance` [k], and `project(states)`.

    Raises:
        KeyError: there is no such value.
        ValueError: no such sequence; k is not from 1 to the number of units; labels do not fit.
        TypeError: r is no recording, or that of several layers.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.GRU(3, 8)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.randn(30, 4, 3))
        >>> path = tg.study.trajectory(r, "h")
        >>> path.values.shape, path.project(r["h"].numpy()).shape
        ((30, 2), (30, 4, 2))
    """
    r = one_layer("trajectory", r)
    looked, runs = look("trajectory", r, name), running(r)
    b = of_batch("trajectory", r, b)
    array = looked.array.astype(np.float64)
    units = array.shape[2]
    if not 1 <= k <= units:
        raise ValueError(f"trajectory: k={k} components of {units} units: it must be from 1 to {units}")
    rows = array[runs]
    if not np.isfinite(rows).all():
        raise ValueError(f"trajectory: {looked.title} has values that are not finite")
    mean = rows.mean(0)
    with one_thread():
        _, s, components = np.linalg.svd(rows - mean, full_matrices=len(rows) < k)
    components, s = components[:k], np.pad(s, (0, max(0, k - len(s))))
    components = components * np.sign(components[np.arange(k), np.abs(components).argmax(1)])[:, None]
    total = (s**2).sum()
    result = Trajectory(mean, components, s[:k] ** 2 / total if total > 0 else np.zeros(k), looked.title)
    result.every = np.where(runs[..., None], result.project(array), np.nan)
    result.values = result.every[:, b]
    if labels is not None:
        result.labels = np.asarray(labels)
        if result.labels.shape != (len(array),):
            got = list(result.labels.shape)
            raise ValueError(f"trajectory: labels must be one for each step, [{len(array)}], not {got}")
    return result
