"""What the pictures ask of a recording: a value or a gradient by name, where sequences run, what came before a step.

With the states before every step at hand, no step waits for another: time is one more axis of the batch.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd.operands import is_whole
from ..autograd.tape import enable_grad
from ..autograd.tensor import Tensor, grad
from ..fusion.recorded import Recorded
from ..fusion.sequence import Sequence
from ..nn.cell import Cell
from ..nn.recording import Recording
from ..nn.recurrent import Recurrent

MOST = 1 << 22  # numbers of a state that are computed at a time


def one_layer(who: str, r: Any) -> Recording:
    """The recording of one layer.

    Raises:
        TypeError: it is none, or there are several.
        RuntimeError: the layer was not called.
    """
    if isinstance(r, (list, tuple)) and r and all(isinstance(each, Recording) for each in r):
        n = len(r)
        raise TypeError(f"{who}: there are {n} recurrent layers: give the recording of one, r[0] to r[{n - 1}]")
    if not isinstance(r, Recording):
        raise TypeError(f"{who}: expected a recording, `with tg.record(model) as r: model(x)`, got {type(r).__name__}")
    r.names  # noqa: B018, which says so if it was not called
    return r


class Looked(NamedTuple):
    """A value of a recording.

    Attributes:
        array: [T, B, units], of any rank behind the batch before.
        title: what it is called: "f", or "dL/df" for a gradient.
        gradient: whether it is one.
    """

    array: np.ndarray
    title: str
    gradient: bool


def look(who: str, r: Any, name: str) -> Looked:
    """A value, or, under "d" and the name of one, the gradient that reached it; "d_" where a value is called so.

    Raises:
        KeyError: there is no such value; the message lists those there are.
        RuntimeError: no gradient has reached it yet.
    """
    r = one_layer(who, r)
    if not isinstance(name, str):
        raise TypeError(f"{who}: a value is asked for by its name, such as {r.names[0]!r}, not by {name!r}")
    of = next((name[n:] for n, d in ((1, "d"), (2, "d_")) if name.startswith(d) and name[n:] in r), None)
    gradient = of is not None and name not in r
    array = (r.grad[of] if of is not None and gradient else r[name]).numpy()
    rows = array.reshape(*array.shape[:2], math.prod(array.shape[2:]))  # and no -1, which no sequences have no room for
    return Looked(rows, f"dL/d{of}" if gradient else name, gradient)


def sequence_of(r: Recording) -> Sequence:
    """What the layer was run over."""
    assert r.sequence is not None
    return r.sequence


def running(r: Recording) -> np.ndarray:
    """[T, B], whether a sequence has such a step."""
    sequence = sequence_of(r)
    lengths = np.full(sequence.B, sequence.T) if sequence.lengths is None else sequence.lengths
    return np.arange(sequence.T)[:, None] < lengths


def of_batch(who: str, r: Recording, b: int) -> int:
    """The number of a sequence.

    Raises:
        ValueError: the batch has no such sequence, or it is empty.
    """
    B = sequence_of(r).B
    if not B:
        raise ValueError(f"{who}: the recording is of an empty batch: there is no sequence to look at")
    if not is_whole(b) or not 0 <= b < B:
        raise ValueError(f"{who}: b={b!r} is no sequence of the batch: there are {B}, from 0 to {B - 1}")
    if not running(r)[:, b].any():
        raise ValueError(f"{who}: sequence {b} has no steps: choose another b")
    return int(b)


def steps_of(r: Recording, array: np.ndarray) -> np.ndarray:
    """[N, units], the rows of all steps that sequences have."""
    return array[running(r)]


# ---- One step at all times at once -----------------------------------------------------------------------------------


class Steps(NamedTuple):
    """N steps of a cell, each of another time or sequence.

    Attributes:
        inputs: [N, I], several if `several`.
        states: before the step, [N, ...] each.
        values: by name, what holds for the sequence, [N, ...] each.
        fused: which engine runs them: "auto" or "never".
    """

    cell: Cell
    inputs: tuple[np.ndarray, ...]
    states: tuple[np.ndarray, ...]
    values: dict[str, np.ndarray]
    several: bool
    fused: str

    @property
    def width(self) -> int:
        """W, how many numbers all states have together."""
        return sum(x[0].size for x in self.states)

    def taken(self, rows: Any) -> "Steps":
        """Those of some rows."""
        some = lambda arrays: tuple(x[rows] for x in arrays)
        values = {name: x[rows] for name, x in self.values.items()}
        return self._replace(inputs=some(self.inputs), states=some(self.states), values=values)

    def run(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The states before the steps, as leaves of the tape, and those after."""
        starts = tuple(Tensor(x).requires_grad_() for x in self.states)
        inputs = tuple(Tensor(x[None]) for x in self.inputs)
        values = {name: Tensor(x) for name, x in self.values.items()}
        with enable_grad():
            x = inputs if self.several else inputs[0]
            _, after = Recurrent(self.cell, fused=self.fused)(x, starts, **values)
        return starts, after if isinstance(after, tuple) else (after,)

    def pulled_back(self, gradients: np.ndarray) -> np.ndarray:
        """[N, W] after the steps, all states side by side, as what reaches those before."""
        starts, after = self.run()
        bounds = np.cumsum([0, *(x[0].size for x in self.states)])
        pairs = [(y, gradients[:, i:j].reshape(y.shape)) for y, i, j in zip(after, bounds, bounds[1:])]
        pairs = [(y, dy) for y, dy in pairs if y.node is not None]
        if not pairs:
            return np.zeros_like(gradients)
        found = grad([y for y, _ in pairs], starts, [dy.astype(y.dtype) for y, dy in pairs], allow_unused=True)
        arrays = [np.zeros(x.shape, x.dtype) if dx is None else dx.numpy() for x, dx in zip(starts, found)]
        return side_by_side(arrays)

    def jacobians(self) -> np.ndarray:
        """[N, W, W], the derivative of each number after a step by each before: every row of it is one of a batch."""
        N, W = len(self.states[0]), self.width
        found, at_once = [], max(1, MOST // max(W * W, 1))
        for start in range(0, N, at_once):
            some = np.arange(start, min(start + at_once, N))
            rows = self.taken(np.repeat(some, W))
            found.append(rows.pulled_back(np.tile(np.eye(W), (len(some), 1))).reshape(len(some), W, W))
        return np.concatenate(found)


def side_by_side(arrays: Any) -> np.ndarray:
    """[N, W], states of any rank in one row."""
    return np.concatenate([np.asarray(x).reshape(len(x), math.prod(np.shape(x)[1:])) for x in arrays], -1)


def before(r: Recording) -> list[np.ndarray]:
    """[T, B, ...] for each state, its value before each step; zero where a sequence has no such step."""
    sequence, found = sequence_of(r), []
    assert r.cell is not None
    runs = running(r)
    for name, start in zip(r.cell.state_names, sequence.states):
        after = r[name].numpy()
        if sequence.reverse:
            array = np.concatenate([after[1:], np.zeros_like(after[:1])])
            last = runs.sum(0) - 1
            some = last >= 0
            array[last[some], np.flatnonzero(some)] = start.data[some]
        else:
            array = np.concatenate([start.data[None].astype(after.dtype), after[:-1]])
        array[~runs] = 0
        found.append(array)
    return found


def steps(who: str, r: Recording, rows: np.ndarray) -> Steps:
    """The steps of a recording at those [T, B] that are true, taken again with the cell as it is now.

    Raises:
        RuntimeError: they lead elsewhere than they did: the cell has changed, or draws random numbers.
    """
    sequence, cell = sequence_of(r), r.cell
    assert cell is not None
    inputs = tuple(x.data[rows] for x in sequence.inputs)
    values = {name: x.data[np.nonzero(rows)[1]] for name, x in sequence.values.items()}
    fused = "auto" if isinstance(r.source, Recorded) else "never"
    found = Steps(cell, inputs, tuple(x[rows] for x in before(r)), values, sequence.several, fused)
    again = side_by_side([y.data for y in found.run()[1]])
    then = side_by_side([r[name].data[rows] for name in cell.state_names])
    tolerance = (1e-4 if then.dtype.itemsize < 8 else 1e-9) * max(1.0, np.abs(then).max(initial=0))
    if not np.allclose(again, then, rtol=0, atol=tolerance, equal_nan=True):
        raise RuntimeError(
            f"{who}: a step of {r.title} taken again leads elsewhere than in the recording: record with model.eval() "
            "if it draws random numbers, and look before its parameters change"
        )
    return found
