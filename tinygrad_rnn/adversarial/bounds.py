"""interval_bounds: what a module can make of inputs that lie within intervals. certified_*: what that proves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.operands import as_array, as_tensor, integers
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.activations import Flatten, Identity, ReLU, Sigmoid, Tanh
from ..nn.cell import Cell
from ..nn.cells import GRUCell, IRNNCell, LSTMCell, ProjectedLSTMCell, RNNCell
from ..nn.containers import Sequential
from ..nn.layers import Dropout, GaussianNoise, Linear
from ..nn.recurrent import Recurrent, check_lengths
from ..nn.rnn import GRU, LSTM, RNN
from ..nn.stacked import Stack
from .ball import exactly
from .interval import Interval

States = tuple[Interval, ...]


def interval_bounds(module: Any, x: Interval, lengths: Any = None) -> Any:
    """Bounds on what a module in eval mode returns for any input within an interval (Gowal et al., 2018).

    Every step is done in interval arithmetic: exact for linear maps and for functions that never fall; products of
    gates and states by their corners; and the GRU's z h + (1 - z) n as what it is, a point between h and n. It costs
    about two forward passes in NumPy, and it is sound: nothing within the interval leads outside of the bounds. It
    forgets how states depend on each other, so bounds grow with every step, by the sum of the absolute recurrent
    weights of a unit at worst: they say something for few steps or weights that are small, and nothing for a GRU of 32
    units that has learnt to remember over 40.

        >>> import tinygrad_rnn as tg
        >>> rnn, x = tg.nn.GRU(3, 4), tg.randn(7, 2, 3)
        >>> y, h = interval_bounds(rnn, Interval.around(x, 0.01), lengths=[7, 4])
        >>> inside = rnn(x + 0.01, lengths=[7, 4])[0].numpy()
        >>> y.shape, h.shape, bool(((y.lower - 1e-6 <= inside) & (inside <= y.upper + 1e-6)).all())
        ((7, 2, 4), (1, 2, 4), True)

    Bounds are computed in float64, as if the module computed without rounding; what a float32 module returns may lie
    outside of them by its own rounding, some 1e-6.

    Args:
        module: RNN, LSTM or GRU (layers, directions, projection, batch_first), a `Stack` or `Recurrent` of their cells,
            one of these cells, for one step from its initial state, Linear, ReLU, Tanh, Sigmoid, Flatten, Identity,
            Dropout, GaussianNoise, or a Sequential of such that have one result.
        x: an `Interval` of the shape that the module takes.
        lengths: [B] integers, for recurrent layers: as they take them.

    Returns:
        What the module returns, with an `Interval` in place of each tensor.

    Raises:
        TypeError: the module is another one, or a subclass with maths of its own; x is no Interval.
        ValueError: shapes do not fit.
    """
    if not isinstance(x, Interval):
        raise TypeError(f"interval_bounds: x must be an Interval, not {type(x).__name__}: Interval.around(x, epsilon)")
    if isinstance(module, Stack) and type(module) in (RNN, LSTM, GRU, Stack):
        return _of_stack(module, x, lengths)
    if type(module) is Recurrent:
        if len(x.shape) != 3 or not x.shape[0]:
            raise ValueError(f"interval_bounds: Recurrent takes x of [T, B, I] with T > 0, not {list(x.shape)}")
        y, states = _of_layer(module, x, _ends(lengths, x))
        return y, states if len(states) > 1 else states[0]
    if lengths is not None:
        raise ValueError(f"interval_bounds: {type(module).__name__} takes no lengths")
    if type(module) in CELLS:
        if len(x.shape) != 2:
            raise ValueError(f"interval_bounds: a cell takes x of [B, I], not {list(x.shape)}")
        states = _step_of(module)(module, _fitting(module, x), _begin(module, x.shape[0]))
        return states if len(states) > 1 else states[0]
    if type(module) is Sequential:
        for each in module:
            x = interval_bounds(each, x)
            if not isinstance(x, Interval):
                raise TypeError(f"interval_bounds: {type(each).__name__} in a Sequential has several results")
        return x
    return _of_function(module, x)


def _of_function(module: Any, x: Interval) -> Interval:
    """Bounds of modules without time."""
    if type(module) is Linear:
        return _fitting(module, x).linear(module.weight, module.bias)
    if type(module) in (Identity, Dropout, GaussianNoise):
        return x
    if type(module) in (ReLU, Tanh, Sigmoid):
        return {ReLU: x.relu, Tanh: x.tanh, Sigmoid: x.sigmoid}[type(module)]()
    if type(module) is Flatten:
        return x.both(lambda a: module(Tensor(a)).numpy())
    known = ", ".join(kind.__name__ for kind in CELLS)
    raise TypeError(
        f"interval_bounds: what {type(module).__name__} makes of an interval is not known; it is for RNN, LSTM, GRU, "
        f"Stack and Recurrent over {known}, Linear, ReLU, Tanh, Sigmoid, Flatten, Dropout and Sequential"
    )


def _fitting(module: Any, x: Interval) -> Interval:
    """x, if it has as many features as the module takes."""
    expected = module.weight.shape[1] if type(module) is Linear else module.input_size
    if not x.shape or x.shape[-1] != expected:
        raise ValueError(
            f"interval_bounds: {type(module).__name__} takes {expected} features in the last dimension, got x of "
            f"{list(x.shape)}"
        )
    return x


# ---- One step --------------------------------------------------------------------------------------------------------


def _preactivations(cell: Any, x: Interval, h: Interval) -> Interval:
    """`W_ih x + b_ih + W_hh h + b_hh`."""
    return x.linear(cell.weight_ih, cell.bias_ih) + h.linear(cell.weight_hh, cell.bias_hh)


def _parts(a: Interval, k: int) -> list[Interval]:
    return [Interval(*bounds) for bounds in zip(*(np.split(each, k, -1) for each in (a.lower, a.upper)))]


def _rnn(cell: Any, x: Interval, states: States) -> States:
    a = _preactivations(cell, x, states[0])
    return (a.tanh() if cell.nonlinearity == "tanh" else a.relu(),)


def _lstm(cell: Any, x: Interval, states: States) -> States:
    h, c = states
    i, f, g, o = _parts(_preactivations(cell, x, h), 4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _projected_lstm(cell: Any, x: Interval, states: States) -> States:
    h, c = _lstm(cell, x, states)
    return h.linear(cell.weight_hr), c


def _gru(cell: Any, x: Interval, states: States) -> States:
    (h,) = states
    x_r, x_z, x_n = _parts(x.linear(cell.weight_ih, cell.bias_ih), 3)
    h_r, h_z, h_n = _parts(h.linear(cell.weight_hh, cell.bias_hh), 3)
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return ((x_z + h_z).sigmoid().mix(h, n),)


CELLS: dict[type, Callable[[Any, Interval, States], States]] = {
    RNNCell: _rnn, IRNNCell: _rnn, LSTMCell: _lstm, ProjectedLSTMCell: _projected_lstm, GRUCell: _gru,
}  # fmt: skip


def _step_of(cell: Cell) -> Callable[[Any, Interval, States], States]:
    step = CELLS.get(type(cell))
    if step is None or "step" in vars(cell):
        raise TypeError(
            f"interval_bounds: a step of {type(cell).__name__} is not known, only of "
            f"{', '.join(kind.__name__ for kind in CELLS)}"
        )
    return step


def _begin(cell: Cell, B: int) -> States:
    with no_grad():
        return tuple(map(Interval.point, cell.begin(None, B)))


# ---- All steps -------------------------------------------------------------------------------------------------------


def _ends(lengths: Any, x: Interval) -> np.ndarray | None:
    return None if lengths is None else check_lengths("interval_bounds", lengths, *x.shape[:2])


def _of_layer(layer: Recurrent, x: Interval, ends: np.ndarray | None) -> tuple[Interval, States]:
    """Bounds of the outputs and of the final states; x is [T, B, I]."""
    T, B = x.shape[:2]
    step, x = _step_of(layer.cell), _fitting(layer.cell, x)
    states, outputs = _begin(layer.cell, B), [Interval.point(0.0)] * T
    for t in reversed(range(T)) if layer.reverse else range(T):
        new = step(layer.cell, x[t], states)
        if ends is None:
            states, outputs[t] = new, new[0]
            continue
        runs = (t < ends)[:, None]
        states = tuple(after.where(runs, before) for after, before in zip(new, states))
        outputs[t] = new[0].where(runs, Interval.point(np.zeros(new[0].shape)))
    return Interval.join(np.stack, outputs), states


def _of_stack(stack: Any, x: Interval, lengths: Any) -> Any:
    """Bounds of the outputs of the last layer and of the final states of all, laid out as the module has them."""
    batched = stack._check_input(x.shape)
    turned = batched and stack.batch_first
    x = x.both(lambda a: a.swapaxes(0, 1)) if turned else x if batched else x[:, None]
    if lengths is not None and not batched:
        raise ValueError("interval_bounds: lengths need a batch")
    ends, finals = _ends(lengths, x), []
    scans = iter(stack.scans)
    for _ in range(stack.num_layers):
        outputs = []
        for _ in range(2 if stack.bidirectional else 1):
            y, states = _of_layer(next(scans), x, ends)
            outputs.append(y)
            finals.append(states if batched else tuple(s[0] for s in states))
        x = Interval.join(lambda parts: np.concatenate(parts, -1), outputs)
    y = x.both(lambda a: a.swapaxes(0, 1)) if turned else x if batched else x[:, 0]
    if stack._sizes is None:  # states that cannot be stacked
        return y, [states if len(states) > 1 else states[0] for states in finals]
    together = tuple(Interval.join(np.stack, list(each)) for each in zip(*finals))
    return y, together if len(together) > 1 else together[0]


# ---- What it proves --------------------------------------------------------------------------------------------------


def certified_margin(head: Linear, h: Interval, labels: Any) -> np.ndarray:
    """The least by which each sequence's own class can win: where it is positive, no input within the interval fails.

        margin = min over h and c != y of (W_y - W_c) h + b_y - b_c

    The last layer is joined with the difference, which is tighter than bounds of each score (Gowal et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> rnn, head = tg.nn.GRU(3, 4), tg.nn.Linear(4, 2)
        >>> _, h = interval_bounds(rnn, Interval.around(tg.randn(7, 5, 3), 0.01))
        >>> certified_margin(head, h[-1], [0, 0, 1, 1, 0]).shape
        (5,)

    Args:
        head: the layer that makes scores of h, C > 1 of them.
        h: [B, H], what `interval_bounds` says of the state that it reads.
        labels: [B] integers, the true classes.

    Returns:
        [B], float64; a lower bound.

    Raises:
        TypeError: head is no Linear, h no Interval.
        ValueError: shapes do not fit.
        IndexError: a label is no class.
    """
    who = "certified_margin"
    if type(head) is not Linear or not isinstance(h, Interval):
        raise TypeError(f"{who}: expected a Linear and an Interval, got {type(head).__name__} and {type(h).__name__}")
    W = as_array(head.weight).astype(np.float64)
    b = np.zeros(len(W)) if head.bias is None else as_array(head.bias).astype(np.float64)
    y, C = integers(who, as_tensor(labels)), len(W)
    if C < 2 or len(h.shape) != 2 or h.shape[1] != W.shape[1] or y.shape != h.shape[:1]:
        raise ValueError(
            f"{who}: expected h [B, {W.shape[1]}], labels [B] and at least 2 classes, got {list(h.shape)}, "
            f"{list(y.shape)} and {C}"
        )
    if ((y < 0) | (y >= C)).any():
        raise IndexError(f"{who}: labels must be classes from 0 to {C - 1}")
    differences = W[y][:, None] - W  # [B, C, H]
    middle, radius = 0.5 * (h.lower + h.upper), 0.5 * (h.upper - h.lower)
    margins = np.einsum("bch,bh->bc", differences, middle) - np.einsum("bch,bh->bc", np.abs(differences), radius)
    margins += b[y][:, None] - b
    margins[np.arange(len(y)), y] = np.inf
    return margins.min(1)


def certified_epsilon(margin: Callable[[float], Any], epsilons: Any) -> np.ndarray:
    """For each sequence the largest of some epsilons at which a margin is proved to be positive; 0 if there is none.

        >>> import tinygrad_rnn as tg
        >>> rnn, head, x, y = tg.nn.GRU(3, 4), tg.nn.Linear(4, 2), tg.randn(7, 5, 3), [0, 0, 1, 1, 0]
        >>> def margin(epsilon):
        ...     _, h = interval_bounds(rnn, Interval.around(x, epsilon))
        ...     return certified_margin(head, h[-1], y)
        >>> certified_epsilon(margin, [0.01, 0.02, 0.04]).shape
        (5,)

    Args:
        margin: a function of epsilon that returns an array [B], such as `certified_margin`.
        epsilons: in rising order. It stops where no sequence is left: who fails at one fails at all that are larger.

    Returns:
        [B], float64.

    Raises:
        ValueError: epsilons are not positive or do not rise, or margins are not [B].
    """
    who = "certified_epsilon"
    radii = exactly(epsilons).astype(np.float64)
    if radii.ndim != 1 or not radii.size or not (np.diff(radii, prepend=0.0) > 0).all():
        raise ValueError(f"{who}: epsilons must be positive numbers in rising order, not {epsilons!r}")
    found = holds = None
    for epsilon in radii.tolist():
        margins = exactly(margin(epsilon))
        if margins.ndim != 1 or (found is not None and margins.shape != found.shape):
            raise ValueError(f"{who}: margin must return one number for each sequence, not {list(margins.shape)}")
        holds = margins > 0 if holds is None else holds & (margins > 0)
        found = np.where(holds, epsilon, 0.0 if found is None else found)
        if not holds.any():
            break
    assert found is not None
    return found
