"""Omega: a penalty that keeps gradients from vanishing on their way back through time (Pascanu et al., 2013).

It is computed after a backward pass, of what a recording has seen there, and has a backward pass of its own:

    with tg.record(layer) as r:
        loss = criterion(readout(layer(x)[0][-1]), target)
    loss.backward()
    (alpha * tg.optim.omega_penalty(r, layer)).backward()
    tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
    optimizer.step()
"""

from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.pointwise import square
from ..autograd.tensor import Tensor
from ..fusion.compile import fused_cell
from ..fusion.evaluate import evaluate
from ..fusion.fused import FusedCell
from ..fusion.program import Program, Value, depending, needed_for
from ..fusion.refusal import Unfusable
from ..fusion.rows import full_rows
from ..nn.cell import Cell
from ..nn.module import Module
from ..nn.recording import Recording, recurrent_layers
from ..nn.utils.parametrize import is_parametrized, only_looking

BOUND = 1e-20  # of the square of a gradient: below it there is nothing to keep alive
# act'(a) as a function of h = act(a).
SLOPES = {table.tanh: lambda h: 1 - h * h, table.sigmoid: lambda h: h * (1 - h), table.relu: lambda h: h > 0}


def omega_penalty(r: Recording, cell: Module) -> Tensor:
    """How far gradients are from keeping their length over one step of an RNN, a tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> layer, x = tg.nn.Recurrent(tg.nn.RNNCell(3, 4)), tg.ones(7, 2, 3)
        >>> with tg.record(layer) as r:
        ...     loss = layer(x)[0][-1].square().sum()
        >>> loss.backward()
        >>> omega = omega_penalty(r, layer.cell)
        >>> bias = layer.cell.bias_hh.grad.numpy().copy()
        >>> (0.5 * omega).backward()                 # into layer.cell.weight_hh.grad, beside what is there
        >>> bool((layer.cell.bias_hh.grad.numpy() == bias).all())
        True

        h[t] = act(h[t - 1] W + ...),    d[t] = dL/dh[t],    s[t] = d[t] * act'(a[t]),    v[t] = s[t] W^T
        omega = sum over t, b of (|v[t]|^2 / |d[t]|^2 - 1)^2 / n
        dW = 4 / n  sum over t, b of (|v[t]|^2 / |d[t]|^2 - 1) / |d[t]|^2  v[t]^T s[t]

    v[t] is what d[t] becomes one step earlier. The n steps of sequences in the sums are those with |d[t]|^2 >= 1e-20:
    where no gradient has arrived there is none to keep alive, nor where a sequence has ended. As its authors compute
    it, d, h and the slopes are constants, and W has a gradient alone, not the input weights, nor the biases: nothing is
    differentiated twice. It is two products over all steps at once, whatever T.

    Where W is computed of parameters (`nn.utils.parametrize`, or maths in the step), the gradient goes to these.

    Args:
        r: the recording, `tg.record`, of a call through which a backward pass has gone.
        cell: the cell that was recorded, or its layer: an `RNN`, or a cell whose step is `tanh`, `relu` or `sigmoid` of
            a sum in which its only state occurs as `h @ W`, and nowhere else.

    Shapes: h, d, s, v [n, H], W [H, H].

    Raises:
        TypeError: the recording is another one's; or the step is of another kind, as that of an LSTM, for which there
            is no such W.
        RuntimeError: nothing was recorded, or no backward pass has come by.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, section 3.3;
    their code is pascanur/trainingRNNs, which divides the sum over steps of the mean over the batch by the sum of the
    fractions that are above the bound, which is the same.
    """
    recorded = _recorded(r, cell)
    fused = _fused(r, recorded)
    act, weight, is_transposed = _recurrence(fused.stages["trace"], recorded)
    found = r.of_first_state()
    if found is None:
        raise RuntimeError("omega_penalty: no gradient has reached the states: call loss.backward() first")
    h, d = found
    W = _on_tape(fused, weight, recorded)
    b = np.einsum("ij,ij->i", d, d)
    live = b >= BOUND
    if not live.any():
        return (W * 0).sum()
    if not live.all():
        h, d, b = h[live], d[live], b[live]
    v = Tensor(d * SLOPES[act](h)) @ (W if is_transposed else W.mT)
    return square(square(v).sum(1) / Tensor(b) - 1).sum() / len(b)


def _recorded(r: Any, cell: Module) -> Cell:
    """The cell of a recording, which is this one or in this layer."""
    if not isinstance(r, Recording):
        kind = f"a list of {len(r)}, one for each layer: write r[0]" if isinstance(r, list) else type(r).__name__
        raise TypeError(f"omega_penalty: expected the recording of one layer, got {kind}")
    r._called()
    assert r.cell is not None
    cells = [cell] if isinstance(cell, Cell) else [layer.cell for layer in recurrent_layers(cell)]
    if not any(each is r.cell for each in cells):
        raise TypeError(f"omega_penalty: the recording is of another cell, {r.title}, than what is given with it")
    return r.cell


def _fused(r: Recording, cell: Cell) -> FusedCell:
    """The compiled cell, which knows the step as it was traced."""
    assert r.sequence is not None
    fused: FusedCell | None = getattr(r.source, "fused", None)
    try:
        return fused or fused_cell(cell, r.sequence)
    except Unfusable as error:
        raise _unknown(cell, f"it cannot be traced, {error}") from None


def _recurrence(program: Program, cell: Cell) -> tuple[Any, Value, bool]:
    """The activation of a step, its recurrent matrix, and whether that is stored [to, from].

    Raises:
        TypeError: there is none.
    """
    if len(program.states) != 1:
        raise _unknown(cell, f"it has {len(program.states)} states")
    (h,), (value,) = program.states, program.outputs
    act, from_h = value.row, depending(program.values, [h])
    if act not in SLOPES:
        raise _unknown(cell, "it ends in something else")
    value = value.inputs[0]
    while value.row in (table.add, table.sub):
        ways = [x for x in value.operands if x in from_h]
        if len(ways) != 1 or (value.row is table.sub and value.inputs[0] is not ways[0]):
            break
        value = ways[0]
    if value.row in (table.matmul, table.linear) and value.inputs[0] is h and not value.inputs[1].per_row:
        return act, value.inputs[1], value.row is table.linear
    raise _unknown(cell, "h does not go in as h @ W alone")


def _on_tape(fused: FusedCell, weight: Value, cell: Cell) -> Tensor:
    """The recurrent matrix, computed once more of the parameters, with its past."""
    program, needed = fused.stages["trace"], needed_for([weight], lambda value: False)
    known: dict[Value, Any] = {leaf: x for leaf, x in zip(fused.program.held, fused.fixed) if leaf in needed}
    given = [leaf for leaf in program.given if leaf in needed]
    if given:
        with only_looking():
            values = [(o, n, x) for o, named in cell._values_of_sequence(1) for n, x in named.items()]
        places = dict(zip(program.given[len(program.given) - len(values) :], values))
        for leaf in given:
            owner, name, x = places.get(leaf, (cell, "", None))
            if not is_parametrized(owner, name):
                raise _unknown(cell, f"W is made of {leaf.name}, which another call has another one of")
            known[leaf] = x
    evaluate([value for value in program.values if value in needed], known, full_rows(1, 1))
    return known[weight]


def _unknown(cell: Cell, why: str) -> TypeError:
    return TypeError(
        f"omega_penalty: the step of {type(cell).__name__} is not tanh, relu or sigmoid of a sum with h @ W, which the "
        f"penalty is about: {why}"
    )
