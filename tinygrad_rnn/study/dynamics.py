"""jacobians and lyapunov: what one step does to small differences, and what many do."""

from typing import Any

import numpy as np

from .lapack import one_thread
from .recorded import of_batch, one_layer, running, sequence_of, steps
from .result import Result, dot

LINES_SHOWN = 32


def some(lines: np.ndarray) -> np.ndarray:
    """Of the columns besides the first as many as a picture can tell apart, at equal distances, the last among them."""
    rest = lines[:, 1:]
    return rest[:, np.unique(np.linspace(0, rest.shape[1] - 1, LINES_SHOWN).round().astype(int))] if rest.size else rest


class Jacobians(Result):
    """See `jacobians`.

    Attributes:
        values: [T, W, W], of the steps that the sequence has, in the order in which they were taken.
        singular_values: [T, W], falling; found when they are first asked for.
    """

    _singular_values: np.ndarray | None = None

    def __init__(self, values: np.ndarray, names: tuple[str, ...]) -> None:
        self.values, self.names = values, names
        self.sentence = (
            "Each line is a singular value of the step's Jacobian, the factor by which the step stretches some small "
            "difference: above 1 it grows, below it is forgotten; of many, grey ones are left out."
        )

    @property
    def singular_values(self) -> np.ndarray:
        """[T, W], falling."""
        if self._singular_values is None:
            with one_thread():
                self._singular_values = np.linalg.svd(self.values, compute_uv=False)
        return self._singular_values

    def draw(self, ax: Any) -> None:
        s = np.where(self.singular_values > 0, self.singular_values, np.nan)
        median = np.median(self.singular_values, 1)
        ax.plot(some(s), color="0.7", lw=0.6, marker="." if len(s) == 1 else None)
        ax.plot(s[:, 0], color="C0", lw=1.6, label="largest", marker=dot(s[:, 0]))
        ax.plot(median, "--", color="C1", lw=1.6, label="median", marker=dot(median))
        ax.axhline(1, color="black", lw=0.8, ls=":")
        names = ", ".join(self.names)
        ax.set(title=f"Singular values of d({names})[t] / d({names})[t-1]", xlabel="step t")
        ax.set(ylabel="singular value (log)", yscale="log")
        shown = s[np.isfinite(s)]
        if shown.size:
            ax.set_ylim(max(shown.min(), shown.max() * 1e-8) / 1.5, max(shown.max(), 1) * 1.5)
        ax.legend(fontsize=8)


def jacobians(r: Any, *, b: int = 0) -> Jacobians:
    """What a step does to small differences of the states before it, at every step, with its singular values.

        values[t, i, j] = ds[t, i] / ds[t - 1, j],    s all states side by side, W numbers

    As the states before every step are recorded, no step waits for another: time, and which of the W rows is asked
    for, are axes of the batch, and one call of the layer finds them all.

    Args:
        r: the recording of one layer, in `eval` mode if it draws random numbers. Gradients are not needed.
        b: which sequence.

    Returns:
        A result with `values` [T, W, W] and `singular_values` [T, W]. Steps after the end of the sequence are left
        out; a reversed layer's come in the order in which they were taken, from the last element to the first.

    Raises:
        RuntimeError: the cell has changed since it was recorded, or draws random numbers.
        ValueError: there is no such sequence, or it has no steps.
        TypeError: r is no recording, or that of several layers.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.LSTM(3, 4)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.randn(7, 2, 3))
        >>> found = tg.study.jacobians(r)
        >>> found.values.shape, found.singular_values.shape  # h and c: W is 8
        ((7, 8, 8), (7, 8))
    """
    r = one_layer("jacobians", r)
    b = of_batch("jacobians", r, b)
    assert r.cell is not None
    rows = running(r)
    rows[:, np.arange(rows.shape[1]) != b] = False
    found = steps("jacobians", r, rows).jacobians()
    return Jacobians(found[::-1] if sequence_of(r).reverse else found, r.cell.state_names)


class Lyapunov(Result):
    """See `lyapunov`.

    Attributes:
        values: [W], falling, in nats a step.
        history: [T, W], what the first t + 1 steps say.
    """

    def __init__(self, grown: np.ndarray) -> None:
        self.history = np.cumsum(grown, 0) / np.arange(1, len(grown) + 1)[:, None]
        order = np.argsort(-self.history[-1], kind="stable")
        self.history = self.history[:, order]
        self.values = self.history[-1]
        self.sentence = (
            "Each line is an exponent as more steps are looked at, in nats a step: below zero differences die out like "
            f"exp(exponent * t), above it they grow, which is chaos; the largest is {self.values[0]:.3g} after "
            f"{len(grown)} steps."
        )

    def draw(self, ax: Any) -> None:
        shown = np.where(np.isfinite(self.history), self.history, np.nan)
        ax.plot(some(shown), color="0.7", lw=0.6, marker="." if len(shown) == 1 else None)
        ax.plot(shown[:, 0], color="C0", lw=1.6, label="largest", marker=dot(shown[:, 0]))
        ax.axhline(0, color="black", lw=0.8, ls=":")
        ax.set(title="Lyapunov exponents", xlabel="steps looked at", ylabel="exponent in nats a step")
        ax.legend(fontsize=8, loc="lower right")


def lyapunov(r: Any, *, b: int = 0) -> Lyapunov:
    """The Lyapunov spectrum of the steps of a sequence: at which rates small differences grow or die out.

        Q[t] R[t] = J[t] Q[t-1],    Q[0] = 1,    values[i] = mean over t of ln |R[t, i, i]|

    (Benettin et al., 1980; of recurrent nets Vogt et al., 2022.) The sum of the exponents is the mean of
    ln |det J[t]| whatever T is; each of them settles as T grows, faster where they lie apart.

    Args:
        r: the recording of one layer, what `jacobians` returned, or an array of Jacobians [T, W, W].
        b: which sequence of a recording.

    Returns:
        A result with `values` [W], falling, and `history` [T, W]. A direction that a step forgets altogether is -inf,
        or about the logarithm of the rounding where it lies across several states: -37 of Jacobians in float64, -16 of
        those of a float32 layer, below which exponents say nothing.

    Raises:
        ValueError: an array is not [T, W, W], or not finite.
        RuntimeError, ValueError, TypeError: as `jacobians`.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])
        >>> tg.study.lyapunov([0.5 * turn] * 10).values.round(4)  # ln 0.5, twice
        array([-0.6931, -0.6931])
    """
    if isinstance(r, Jacobians):
        J = r.values
    elif isinstance(r, np.ndarray) or (isinstance(r, (list, tuple)) and r and isinstance(r[0], np.ndarray)):
        J = np.asarray(r)
    else:
        J = jacobians(one_layer("lyapunov", r), b=b).values
    if J.ndim != 3 or J.shape[1] != J.shape[2] or not J.size:
        raise ValueError(f"lyapunov: expected Jacobians of shape [T, W, W], got {list(J.shape)}")
    if not np.isfinite(J).all():
        raise ValueError("lyapunov: there are Jacobians that are not finite")
    Q, grown = np.eye(J.shape[1]), np.empty(J.shape[:2])
    with one_thread(), np.errstate(divide="ignore"):
        for t, step in enumerate(J.astype(np.float64)):
            Q, R = np.linalg.qr(step @ Q)
            grown[t] = np.log(np.abs(np.diagonal(R)))
    return Lyapunov(grown)
