"""horizon: the gradient at a state, split by the loss term that sent it."""

from typing import Any

import numpy as np

from ..autograd.tensor import Tensor, grad
from ..fusion.recorded import Recorded
from ..fusion.specification import TapeRecord
from ..nn.recording import Recording
from .recorded import one_layer, sequence_of
from .result import Result, coloured, safe


class Horizon(Result):
    """See `horizon`.

    Attributes:
        values: [T, K], the norm of what the k-th loss sent to the state after step t.
        gradients: [T, K, B, ...], what it sent.
        name: of the state.
    """

    size = (5.8, 4.4)

    def __init__(self, gradients: np.ndarray, name: str) -> None:
        self.gradients, self.name = gradients, name
        self.values = np.linalg.norm(gradients.reshape(*gradients.shape[:2], -1).astype(np.float64), axis=-1)
        self.sentence = (
            f"Each row is {name} after a step and each column a term of the loss: the lighter, the more that term "
            "taught it; how far light reaches to the right of the diagonal is how far the net learns to look "
            "ahead; hatched where nothing arrives."
        )

    def draw(self, ax: Any) -> None:
        top = float(self.values.max(initial=0)) or 1.0
        shown = np.where(self.values > 0, self.values, np.nan)
        label = f"||dL[k]/d{self.name}[t]|| (logarithmic)"
        coloured(ax, shown, label, (0.0, top), log=True)
        ax.set(title=safe(f"Which losses reach {self.name}"), xlabel="loss term k", ylabel="state after step t")


def horizon(losses: Any, r: Any, name: str | None = None) -> Horizon:
    """The gradient that arrives at a state at every step, split by the term of the loss that sent it.

        values[t, k] = || dL[k] / dh[t] ||,    sum over k of gradients[t, k] = dL / dh[t] = r.grad["h"][t]

    Where L[k] is the loss of the prediction at step k this is upper triangular: no loss reaches a state after it. How
    fast the rows fade is the span over which credit is assigned.

    Args:
        losses: K scalars whose sum is the loss, a list or a tensor [K], of the graph that was recorded. If it was
            walked backwards before, then with `retain_graph=True`. No `grad` of a parameter changes.
        r: the recording of one layer.
        name: of the state; the first by default.

    Returns:
        A result with `values` [T, K] and `gradients` [T, K, B, ...].

    Raises:
        ValueError: there are no losses, or they are no scalars; there is no such state.
        RuntimeError: the graph is gone, or was not recorded.
        TypeError: r is no recording, or that of several layers; losses are no tensors.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.GRU(3, 4)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.randn(6, 2, 3))
        >>> found = tg.study.horizon([y[t].square().sum() for t in range(6)], r)
        >>> found.values.shape, bool((found.values[5, :5] == 0).all())
        ((6, 6), True)
    """
    r = one_layer("horizon", r)
    assert r.cell is not None
    names = r.cell.state_names
    name = names[0] if name is None else name
    if name not in names:
        raise ValueError(f"horizon: {r.title} has no state {name!r}; it has {', '.join(names)}")
    terms = list(losses)
    for term in terms:
        if not isinstance(term, Tensor):
            raise TypeError(f"horizon: losses must be tensors, not {type(term).__name__}")
        if term.data.size != 1:
            raise ValueError(f"horizon: each loss must be a single number, and one has shape {list(term.shape)}")
    if not terms:
        raise ValueError("horizon: there are no losses")
    each = _of_kernels if isinstance(r.source, Recorded) else _on_tape
    shape = r[name].shape
    sent = [np.zeros(shape) if found is None else found for found in each(r, name, terms)]
    return Horizon(np.stack(sent, 1), name)


def _on_tape(r: Recording, name: str, terms: list[Tensor]) -> Any:
    """What each term sends, [T, B, ...]: the states are on the tape."""
    record = r.source
    assert isinstance(record, TapeRecord)
    states = [x for x in record.named[name] if x is not None]
    _need_graph(r, any(x is not None and x.node is not None for xs in record.named.values() for x in xs))
    at = [t for t, x in enumerate(states) if x.node is not None]
    for term in terms:
        if term.node is None or not at:
            yield None
            continue
        found = grad(term, [states[t] for t in at], retain_graph=True, allow_unused=True)
        sent = np.zeros(r[name].shape, states[0].dtype)
        for t, dx in zip(at, found):
            if dx is not None:
                sent[t] = dx.numpy()
        lengths = sequence_of(r).lengths
        if lengths is not None:
            sent[np.arange(len(sent))[:, None] >= lengths] = 0
        yield sent


def _of_kernels(r: Recording, name: str, terms: list[Tensor]) -> Any:
    """The same: whoever walks back through the kernels leaves what arrived, which is put back as it was."""
    source = r.source
    assert isinstance(source, Recorded) and r.cell is not None
    leaves = [p for p in r.cell.parameters() if p.node is not None]
    _need_graph(r, bool(leaves) and any(source.run.needs))
    before, shape = source.run.arrived, r[name].shape
    try:
        for term in terms:
            found = _walked(source, name, term, leaves)
            yield None if found is None else np.array(source.rows.scattered(found)).reshape(shape)
    finally:
        source.run.arrived = before


def _walked(source: Recorded, name: str, term: Tensor, leaves: list[Any]) -> np.ndarray | None:
    source.run.arrived = None
    if term.node is None:
        return None
    grad(term, leaves, retain_graph=True, allow_unused=True)
    return None if source.run.arrived is None else source.reached([name])[name]


def _need_graph(r: Recording, there: bool) -> None:
    if not there:
        raise RuntimeError(f"horizon: {r.title} was recorded without gradients: record outside of no_grad()")
