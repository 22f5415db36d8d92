"""saturation and timescales: what gates do most of the time, and how long units remember."""

from typing import Any

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.tape import enable_grad
from ..autograd.tensor import Tensor
from ..fusion.recorded import Recorded
from ..fusion.sequence import Sequence
from ..fusion.specification import TapeRecord, run_on_tape
from ..nn.recording import Recording
from .recorded import look, one_layer, sequence_of, steps_of
from .result import Result, safe

GATE, TANH = (0.1, 0.9), (-0.97, 0.97)


class Saturation(Result):
    """See `saturation`.

    Attributes:
        values: [units, 2], the share of time that each unit is below `low` and above `high`.
        low, high: the thresholds.
    """

    size = (4.6, 4.2)

    def __init__(self, values: np.ndarray, low: float, high: float, name: str) -> None:
        self.values, self.low, self.high, self.name = values, low, high, name
        self.sentence = (
            f"Each dot is a unit of {name}: on the right end it is above {high:g} all the time, on top below {low:g}, "
            "on the slanted line always one of both, and at the origin never."
        )

    def draw(self, ax: Any) -> None:
        ax.plot([0, 1, 0, 0], [0, 0, 1, 0], color="0.6", lw=1)
        ax.scatter(self.values[:, 1], self.values[:, 0], s=22, alpha=0.6, color="C0", edgecolor="black", lw=0.5)
        ax.set(title=safe(f"Saturation of {self.name}"), xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
        ax.set(xlabel=f"share of time above {self.high:g}", ylabel=f"share of time below {self.low:g}")


def saturation(r: Any, name: str, *, low: float | None = None, high: float | None = None) -> Saturation:
    """Of each unit, the share of time that it is shut and that it is open (Karpathy, Johnson and Fei-Fei, 2015).

        values[u] = mean over t of (f[t, u] < low, f[t, u] > high)

    What a sigmoid made counts below 0.1 and above 0.9, what a tanh made beyond -0.97 and 0.97. All steps of all
    sequences count, and none after the end of one.

    Args:
        r: the recording of one layer.
        name: of the value.
        low, high: other thresholds; both are needed for values that neither a sigmoid nor a tanh made.

    Returns:
        A result with `values` [units, 2], points in the triangle with the corners (0, 0), (1, 0), (0, 1).

    Raises:
        KeyError: there is no such value.
        ValueError: the value is not bounded, and no thresholds are given; or low is not below high.
        TypeError: r is no recording, or that of several layers.

        >>> import tinygrad_rnn as tg
        >>> _ = tg.manual_seed(0)
        >>> layer = tg.nn.GRU(3, 4)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.randn(50, 2, 3))
        >>> shut_and_open = tg.study.saturation(r, "z").values
        >>> shut_and_open.shape, bool((shut_and_open.sum(1) <= 1).all())
        ((4, 2), True)
    """
    r = one_layer("saturation", r)
    array = steps_of(r, look("saturation", r, name).array)
    if not len(array):
        raise ValueError("saturation: all sequences of the recording are empty")
    if low is None or high is None:
        known = _thresholds(r, name, array)
        low, high = known[0] if low is None else low, known[1] if high is None else high
    if not low < high:
        raise ValueError(f"saturation: low={low} must be below high={high}")
    return Saturation(np.stack([(array < low).mean(0), (array > high).mean(0)], -1), low, high, name)


def _thresholds(r: Recording, name: str, array: np.ndarray) -> tuple[float, float]:
    """What made the value says; where that is not known, or no such function, its range does."""
    made_by = _function(r, name)
    if made_by == "sigmoid":
        return GATE
    if made_by == "tanh":
        return TANH
    least, most = float(array.min()), float(array.max())
    if 0 <= least and most <= 1:
        return GATE
    if -1 <= least and most <= 1:
        return TANH
    raise ValueError(
        f"saturation: {name} goes from {least:.3g} to {most:.3g}, so it is no gate: give low= and high= for it, or "
        "take a value between 0 and 1, or -1 and 1"
    )


def _function(r: Recording, name: str) -> str | None:
    """The operation that made a value, if there is one: of the program, or of one step on the tape."""
    if r.source is None or name not in r.source.named:
        return None
    if isinstance(r.source, Recorded):
        row = r.source.named[name].row
        return None if row is None else row.name
    whole, random_state = sequence_of(r), get_rng_state()
    x = tuple(Tensor(each.data[:1]).requires_grad_() for each in whole.inputs)
    step = Sequence(x if whole.several else x[0], whole.states, values=whole.values)
    record = TapeRecord(r.cell, step)
    with enable_grad():
        run_on_tape(r.cell, step, record)
    set_rng_state(random_state)
    value = record.named.get(name, [None])[0]
    return getattr(getattr(getattr(value, "node", None), "operation", None), "name", None)


class Timescales(Result):
    """See `timescales`.

    Attributes:
        values: [units], time constants in steps.
        half_life: [units], ln 2 of these.
        leak_time: [units], 1 / (1 - f).
        keep: [units], the share of its state that a unit keeps at a step.
    """

    def __init__(self, keep: np.ndarray, name: str) -> None:
        self.keep, self.name = keep, name
        with np.errstate(divide="ignore"):
            self.values = np.where(keep >= 1, np.inf, -1 / np.log(keep))
            self.leak_time = np.where(keep >= 1, np.inf, 1 / (1 - keep))
        self.half_life = np.log(2) * self.values
        median = float(np.median(self.values)) if len(keep) else np.nan
        self.sentence = (
            f"Each dot is a unit, the slowest on the left: after so many steps 1/e, 37 %, of what it remembered is "
            f"left; half of the units forget within {median:.3g} steps."
        )

    def draw(self, ax: Any) -> None:
        tau = np.sort(self.values)[::-1]
        shown = np.where(np.isfinite(tau) & (tau > 0), tau, np.nan)
        ax.plot(shown, "o-", ms=4, lw=0.8)
        ax.set(title=safe(f"How long units remember, by {self.name}"), xlabel="unit, slowest first")
        ax.set(ylabel="time constant in steps")
        ax.xaxis.get_major_locator().set_params(integer=True)
        finite = shown[np.isfinite(shown)]
        if finite.size and finite.max() > 10 * finite.min():
            ax.set(ylabel="time constant in steps (log)", yscale="log")
        forever = int(np.isinf(tau).sum())
        if forever:
            ax.text(0.02, 0.95, f"{forever} never forget", transform=ax.transAxes, va="top")


def timescales(r: Any, name: str, *, keeps: bool = True) -> Timescales:
    """How long each unit remembers, read from its gate: exponential forgetting has a time constant.

        f = exp(mean over t of ln f[t]),    values = -1 / ln f,    half_life = ln 2 * values

    The mean is that of what is left of a memory after many steps, a product of gates. `leak_time`, 1 / (1 - f), is the
    same to first order: of a chrono initialisation, a bias of ln(tau - 1), it is tau exactly (Tallec and Ollivier,
    2018). A bias of -ln(exp(1 / tau) - 1) makes `values` tau exactly (Mahto et al., 2021).

    Args:
        r: the recording of one layer.
        name: of the gate, between 0 and 1: "f" of an LSTM, "z" of a GRU.
        keeps: False for a gate that says how much of the state is replaced, such as "z" of a minGRU: 1 - z is kept.

    Returns:
        A result with `values`, `half_life`, `leak_time` and `keep`, [units] each. A gate that is always 1 never
        forgets, inf; one that was 0 once remembers nothing, 0.

    Raises:
        KeyError: there is no such value.
        ValueError: it is not between 0 and 1.
        TypeError: r is no recording, or that of several layers.

        >>> import tinygrad_rnn as tg
        >>> class Leaky(tg.nn.Cell):
        ...     input_size = hidden_size = 2
        ...
        ...     def step(self, x, h):
        ...         f = 0.9 + 0 * x
        ...         return f * h + (1 - f) * x
        >>> layer = tg.nn.Recurrent(Leaky())
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.ones(5, 1, 2, dtype=tg.float64), tg.zeros(1, 2, dtype=tg.float64))
        >>> found = tg.study.timescales(r, "f")
        >>> found.values.round(3), found.half_life.round(3)
        (array([9.491, 9.491]), array([6.579, 6.579]))
    """
    r = one_layer("timescales", r)
    array = steps_of(r, look("timescales", r, name).array).astype(np.float64)
    if not len(array):
        raise ValueError("timescales: all sequences of the recording are empty")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"timescales: {name} goes from {array.min():.3g} to {array.max():.3g}, but a gate says which share of the "
            "state is kept, from 0 to 1: name another value"
        )
    with np.errstate(divide="ignore"):
        keep = np.exp(np.log(array if keeps else 1 - array).mean(0))
    return Timescales(keep, name if keeps else f"1 - {name}")
