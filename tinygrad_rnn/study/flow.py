"""gradient_flow: how far back gradients reach."""

from typing import Any

import numpy as np

from ..nn.cells.classic import RNNCell
from ..nn.recording import Recording
from .recorded import of_batch, one_layer, running, sequence_of, side_by_side, steps
from .result import LINES, Result, dot, safe


class GradientFlow(Result):
    """See `gradient_flow`.

    Attributes:
        values: for each state that a gradient has reached, its norm at every step [T]; NaN where no sequence runs.
        bound: [T], for a cell of which it is known, else None.
        sigma: the largest singular value of U, if there is a bound.
    """

    bound: np.ndarray | None = None
    sigma: float | None = None

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.values = values
        self.sentence = (
            "Each line is the norm of the loss's gradient at a state after step t: a straight line that falls away "
            "from the loss is a gradient that vanishes, one that rises explodes."
        )

    def draw(self, ax: Any) -> None:
        lines = [(f"||dL/d{name}[t]||", x) for name, x in self.values.items()]
        for k, (label, x) in enumerate(lines):
            x = np.where(x > 0, x, np.nan)
            ax.plot(x, LINES[k % len(LINES)], label=safe(label), color=f"C{k}", marker=dot(x))
        if self.bound is not None:
            label, bound = f"bound, sigma(U) = {self.sigma:.3g} a step", np.where(self.bound > 0, self.bound, np.nan)
            ax.plot(bound, color="0.3", lw=1.3, dashes=(1, 1), label=label, marker="_" if dot(bound) else None)
        ax.set(title="Gradient norm over time", xlabel="step t", ylabel="norm (log)", yscale="log")
        if not any((x > 0).any() for _, x in lines):
            ax.text(0.5, 0.5, "all gradients are zero", ha="center", transform=ax.transAxes)
        ax.legend(fontsize=8)


def gradient_flow(r: Any, *, b: int | None = None, U: Any = None) -> GradientFlow:
    """The norm of the gradient of the loss at every state after every step, on a logarithmic axis.

        values[s][t] = || dL / ds[t] ||

    In a simple recurrent net, h[t] = f(W x[t] + U h[t-1]) with |f'| <= 1, a step multiplies it by no more than U's
    largest singular value, and what the loss adds at a step joins there (Pascanu, Mikolov and Bengio, 2013):

        bound[t] = || what arrives at h[t] from outside || + sigma_max(U) * bound[t+1]

    which is sigma_max(U)^k times the last norm, k steps before a loss at the end. `nn.RNN` has this bound.

    Args:
        r: the recording of one layer, after `backward()`.
        b: which sequence; None: the norm goes over the batch as well.
        U: the recurrent weights [H, H] of a cell of yours, of one state, to which this bound applies.

    Returns:
        A result with `values`, a dict of [T] by state, of those that a gradient has reached; `bound` [T], or None;
        `sigma`. The sums are taken in float64, so that no square underflows.

    Raises:
        RuntimeError: no gradient has reached a state yet: call backward() first; or the bound is asked for by
            U, and the cell has changed since, or draws random numbers.
        ValueError: U does not fit, or there is no such sequence.
        TypeError: r is no recording, or that of several layers.

    A state that halves at every step:

        >>> import tinygrad_rnn as tg
        >>> class Halves(tg.nn.Cell):
        ...     input_size = hidden_size = 1
        ...
        ...     def step(self, x, h):
        ...         return 0.5 * h + x
        >>> layer = tg.nn.Recurrent(Halves())
        >>> with tg.record(layer) as r:
        ...     y, h = layer(tg.ones(5, 1, 1, requires_grad=True))
        >>> h.sum().backward()
        >>> tg.study.gradient_flow(r).values["h"]
        array([0.0625, 0.125 , 0.25  , 0.5   , 1.    ])
    """
    r = one_layer("gradient_flow", r)
    assert r.cell is not None
    if b is not None:
        b = of_batch("gradient_flow", r, b)
    found, reason = {}, None
    runs = running(r).any(1) if b is None else running(r)[:, b]
    for name in r.cell.state_names:
        try:
            g = r.grad[name].numpy()
        except RuntimeError as error:
            reason = error
            continue
        g = g.reshape(len(g), -1) if b is None else g[:, b].reshape(len(g), -1)
        found[name] = np.where(runs, _norm(g), np.nan)
    if not found:
        raise RuntimeError(f"gradient_flow: {reason}")
    result = GradientFlow(found)
    weight = _recurrent_weight(r, U)
    if weight is not None:
        try:
            result.sigma, result.bound = _bound(r, weight, b)
            result.sentence += " The dotted line is how large it can be at most."
        except RuntimeError:
            if U is not None:
                raise
            result.sentence += " Its bound is not known any more, as the cell has changed since."
    return result


def _norm(x: np.ndarray) -> np.ndarray:
    """Of each row, in float64; of small numbers too, whose squares would be zero."""
    x = x.astype(np.float64)
    scale = np.abs(x).max(-1, initial=0)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
    return scale * np.linalg.norm(x / scale[..., None], axis=-1)


def _recurrent_weight(r: Recording, U: Any) -> np.ndarray | None:
    """That of a cell to which the bound applies."""
    cell = r.cell
    assert cell is not None
    if U is None:
        if isinstance(cell, RNNCell) and type(cell).step is RNNCell.step:
            return np.asarray(cell.weight_hh.data, np.float64)
        return None
    U = np.asarray(U.data if hasattr(U, "node") else U, np.float64)
    names, H = cell.state_names, sequence_of(r).states[0][0].numel()
    if len(names) > 1 or U.shape != (H, H):
        raise ValueError(
            f"gradient_flow: U must be [{H}, {H}], of a cell with one state; it is {list(U.shape)}, and {r.title} has "
            f"{', '.join(names)}"
        )
    return U


def _bound(r: Recording, U: np.ndarray, b: int | None) -> tuple[float, np.ndarray]:
    """What arrives from outside, each step's gradient without what the next one sent, and the bound made of it."""
    assert r.cell is not None
    sigma, runs = float(np.linalg.norm(U, 2)), running(r)
    g = r.grad[r.cell.state_names[0]].numpy().reshape(*runs.shape, -1)
    sent = np.zeros_like(g)
    sent[runs] = steps("gradient_flow", r, runs).pulled_back(side_by_side([g[runs]]))
    reverse = sequence_of(r).reverse
    order = range(len(g)) if reverse else range(len(g))[::-1]
    bound, last = np.zeros(len(g)), 0.0
    rounding = 1e-5 if g.dtype.itemsize < 8 else 1e-12
    for t in order:
        after = t - 1 if reverse else t + 1
        came = sent[after] * runs[t][:, None] if 0 <= after < len(g) else np.zeros_like(g[0])
        choice = slice(None) if b is None else b
        whole, outside = (_norm(x[choice].reshape(1, -1))[0] for x in (g[t], g[t] - came))
        last = (outside if outside > rounding * whole else 0.0) + sigma * last
        bound[t] = last
    return sigma, np.where(runs.any(1) if b is None else runs[:, b], bound, np.nan)
