"""fixed_points: where a recurrence stands still, and what small differences do there."""

import copy
from typing import Any

import numpy as np

from ..autograd.operands import as_array
from ..autograd.tape import no_grad
from ..nn.cell import Cell
from ..nn.recording import Recording
from .lapack import one_thread
from .models import cell_of
from .recorded import Steps, one_layer, running, side_by_side
from .result import Result
from .states import Trajectory

EXACT, APART = 1e-10, 1e-5  # when a step is none, and when two points are two
MOST_STARTS = 512


class FixedPoints(Result):
    """See `fixed_points`.

    Attributes:
        values: [N, W], the points, all states of the cell side by side; the most stable first.
        eigenvalues: [N, W] complex, of the step's Jacobian at each, the largest first.
        speed: [N], how far one step leads from there: 0, to rounding, at a fixed point.
        stable: [N], whether all eigenvalues lie inside the unit circle.
        jacobians: [N, W, W].
    """

    size = (5.6, 4.4)

    def __init__(self, values: np.ndarray, speed: np.ndarray, jacobians: np.ndarray, path: Trajectory | None) -> None:
        with one_thread():
            eigenvalues = np.linalg.eigvals(jacobians).astype(complex)
        eigenvalues = np.take_along_axis(eigenvalues, np.argsort(-np.abs(eigenvalues), -1, kind="stable"), -1)
        largest = np.abs(eigenvalues).max(-1, initial=0)
        order = np.lexsort((*values.T[::-1].round(6), (np.abs(eigenvalues) >= 1).sum(-1)))
        values = values + 0.0  # of -0. too
        self.values, self.speed, self.jacobians = values[order], speed[order], jacobians[order]
        self.eigenvalues, self.stable = eigenvalues[order], largest[order] < 1
        self.path = path
        self.sentence = (
            f"Filled dots are states that a step leads back to from nearby, {int(self.stable.sum())} of them, open "
            "ones those that it leads away from in some direction; beside each the size of its largest eigenvalue."
        )

    def draw(self, ax: Any) -> None:
        if self.path is not None:
            self.path.draw(ax)
            places = self.path.project(self.values)
            ax.set_title("Fixed points on the trajectory")
        else:
            places = self._own_plane()
            kind = "unit" if self.values.shape[1] <= 2 or len(self.values) < 2 else "component"
            ax.set(title="Fixed points", xlabel=f"{kind} 0", ylabel=f"{kind} 1")
        places = places if places.shape[1] > 1 else np.pad(places, ((0, 0), (0, 1)))
        for kind, filled in ((self.stable, "black"), (~self.stable, "white")):
            ax.scatter(places[kind, 0], places[kind, 1], s=60, c=filled, edgecolor="black", lw=1.5, zorder=5)
        for (px, py, *_), eigenvalue in list(zip(places, np.abs(self.eigenvalues[:, 0])))[:24]:
            ax.annotate(f"{eigenvalue:.2f}", (px, py), xytext=(6, 6), textcoords="offset points", fontsize=8, zorder=6)
        if not len(places):
            ax.text(0.5, 0.5, "no fixed point was found", ha="center", transform=ax.transAxes, zorder=6)
        ax.margins(0.12)

    def _own_plane(self) -> np.ndarray:
        if self.values.shape[1] <= 2 or len(self.values) < 2:
            return self.values[:, :2]
        centred = self.values - self.values.mean(0)
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


def fixed_points(
    cell: Any, x: Any = None, starts: Any = None, *, slow: float = 0.0, steps: int = 200,
    trajectory: Trajectory | None = None, **values: Any,
) -> FixedPoints:  # fmt: skip
    """Where a recurrence stands still under a constant input, or nearly so (Sussillo and Barak, 2013).

        F(s, x) = s,    found from every start by falling of q(s) = |F(s, x) - s|^2 / 2

    by Newton's method where it works and steepest descent where it does not (Levenberg and Marquardt), for all starts
    at once, in float64 on a copy of the cell.

    Args:
        cell: a cell, or a model with one recurrent layer.
        x: [I], the input that stays; zeros by default.
        starts: [N, W], all states of the cell side by side; or a recording, of whose states 512 at most are
            taken, at equal distances.
        slow: also keep points from which the search got no further, and one step leads no further than this: there the
            recurrence lingers.
        steps: of the search, at most.
        trajectory: what `trajectory` returned for the state, to draw the points on.
        values: what `step` takes by name, [...] each, without a batch.

    Returns:
        A result with `values` [N, W], each point once; `eigenvalues` [N, W], `jacobians`, `speed` and `stable`.

    Raises:
        TypeError: there is no cell, or there are several.
        ValueError: x or starts do not fit.

    A state that is pulled to 1 or -1, and away from 0:

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> class Latch(tg.nn.Cell):
        ...     input_size = hidden_size = 1
        ...
        ...     def step(self, x, h):
        ...         return 1.5 * h - 0.5 * h**3 + x
        >>> found = tg.study.fixed_points(Latch(), starts=np.linspace(-1.2, 1.2, 7)[:, None])
        >>> found.values[:, 0].round(6) + 0.0, found.eigenvalues[:, 0].real.round(6) + 0.0
        (array([-1.,  1.,  0.]), array([0. , 0. , 1.5]))
    """
    original = cell_of("fixed_points", cell)
    own = copy.deepcopy(original).double().eval()
    with no_grad():
        pattern = [np.asarray(s.data, np.float64) for s in own.begin(None, 1)]
    W = sum(s.size for s in pattern)
    rows = _starts(starts, original, W)
    if x is None and own.input_size is None:
        raise ValueError("fixed_points: the cell does not say how wide its inputs are: give x [I]")
    given = np.zeros(own.input_size or 0) if x is None else as_array(x).astype(np.float64)
    if given.ndim != 1 or own.input_size not in (None, len(given)):
        raise ValueError(f"fixed_points: x must be one input, [{own.input_size or 'I'}], not {list(given.shape)}")
    held = {name: as_array(each).astype(np.float64) for name, each in values.items()}
    at = _At(own, given, [s.shape[1:] for s in pattern], held)
    points, speed, J = _search(at, rows, steps)
    keep = (speed <= EXACT * np.maximum(1, np.abs(points).max(-1, initial=0))) | (speed <= slow)
    points, speed, J = points[keep], speed[keep], J[keep]
    once = _once(points, speed)
    if trajectory is not None and trajectory.mean.shape != (W,):
        raise ValueError(f"fixed_points: the trajectory is one of {len(trajectory.mean)} units, and points have {W}")
    return FixedPoints(points[once], speed[once], J[once], trajectory)


def _starts(starts: Any, cell: Cell, W: int) -> np.ndarray:
    """[N, W]."""
    if isinstance(starts, Recording):
        r = one_layer("fixed_points", starts)
        if r.cell is not cell:
            raise ValueError(f"fixed_points: starts is a recording of another cell, of {r.title}")
        rows = side_by_side([r[name].numpy()[running(r)] for name in cell.state_names]).astype(np.float64)
        rows = rows[:: -(-len(rows) // MOST_STARTS) or 1]
    elif starts is None:
        raise ValueError(f"fixed_points: give starts, an array [N, {W}] of states to search from, or a recording")
    else:
        rows = as_array(starts).astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] != W or not len(rows):
        raise ValueError(f"fixed_points: starts must be [N, {W}], all states side by side, not {list(rows.shape)}")
    return rows


class _At:
    """A cell under a constant input."""

    def __init__(self, cell: Cell, x: np.ndarray, shapes: list[tuple[int, ...]], values: dict[str, np.ndarray]) -> None:
        self.cell, self.x, self.shapes, self.values = cell, x, shapes, values
        self.bounds = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])

    def steps(self, rows: np.ndarray) -> Steps:
        N = len(rows)
        spread = lambda x: np.ascontiguousarray(np.broadcast_to(x, (N, *x.shape)))
        parts = zip(self.bounds, self.bounds[1:], self.shapes)
        states = tuple(np.ascontiguousarray(rows[:, i:j]).reshape(N, *shape) for i, j, shape in parts)
        values = {name: spread(x) for name, x in self.values.items()}
        return Steps(self.cell, (spread(self.x),), states, values, False, "never")

    def moved(self, rows: np.ndarray) -> np.ndarray:
        """[N, W], by what one step changes the states."""
        return side_by_side([y.data for y in self.steps(rows).run()[1]]) - rows


def _search(at: _At, rows: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the search from each row ends, how fast a step moves it there, and the Jacobians."""
    N, W = rows.shape
    rows, damping, eye = rows.copy(), np.full(N, 1e-2), np.eye(W)
    moved, J = at.moved(rows), at.steps(rows).jacobians()
    going = np.isfinite(moved).all(-1)
    for _ in range(most):
        size = np.abs(rows).max(-1)
        going &= (np.abs(moved).max(-1) > 1e-14 * np.maximum(1, size)) & (damping < 1e12)
        some = np.flatnonzero(going)
        if not len(some):
            break
        A = J[some] - eye
        slope = np.einsum("nij,ni->nj", A, moved[some])
        square = A.swapaxes(1, 2) @ A
        least = 1e-14 * (1 + np.trace(square, axis1=1, axis2=2))  # where a whole line stands still
        square += np.maximum(damping[some], least)[:, None, None] * eye
        with one_thread():
            trial = rows[some] - np.linalg.solve(square, slope[..., None])[..., 0]
        new = at.moved(trial)
        better = np.isfinite(new).all(-1) & ((new**2).sum(-1) < (moved[some] ** 2).sum(-1))
        damping[some] = np.where(better, np.maximum(damping[some] / 10, 1e-20), damping[some] * 8)
        good = some[better]
        rows[good], moved[good] = trial[better], new[better]
        if len(good):
            J[good] = at.steps(rows[good]).jacobians()
    return rows, np.where(np.isfinite(moved).all(-1), np.linalg.norm(moved, axis=-1), np.inf), J


def _once(points: np.ndarray, speed: np.ndarray) -> list[int]:
    """The numbers of the points, each once, the slowest of those that are the same."""
    kept: list[int] = []
    others = np.empty_like(points)  # those that are kept, beside each other, to be compared with at once
    for i in np.argsort(speed, kind="stable"):
        near = APART * max(1.0, float(np.abs(points[i]).max(initial=0)))
        if not (np.abs(points[i] - others[: len(kept)]).max(-1, initial=0) < near).any():
            others[len(kept)] = points[i]
            kept.append(int(i))
    return kept
