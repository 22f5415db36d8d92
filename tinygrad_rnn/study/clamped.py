"""ablate: what happens to a model's outputs when a unit or a gate is held at a number."""

from typing import Any

import numpy as np

from ..autograd.operands import as_tensor
from ..autograd.pointwise import where
from ..autograd.tape import no_grad, set_mode
from ..autograd.tensor import Tensor
from ..fusion.compile import fused_cell
from ..fusion.evaluate import evaluate
from ..fusion.recorded import in_words
from ..fusion.rows import full_rows
from ..fusion.sequence import Sequence
from ..fusion.trace import Unfusable
from ..nn.cell import Cell, States
from ..nn.module import Module
from ..nn.regularised import CellWrapper
from .models import evaluating, layer_of, output_of
from .result import Result, safe
from .text import ColoredText, colored_text


class Ablation(Result):
    """See `ablate`.

    Attributes:
        values: [T], how far each output of the sequence b moved; [...] of an output that is none over time.
        before, after: the model's outputs.
        change: after - before.
    """

    def __init__(self, before: np.ndarray, after: np.ndarray, what: str, b: int, batch_first: bool) -> None:
        self.before, self.after, self.change, self.what = before, after, after - before, what
        norms = np.linalg.norm(self.change.astype(np.float64), axis=-1) if before.ndim else np.abs(self.change)
        self.values = (norms[b] if batch_first else norms[:, b]) if norms.ndim == 2 else norms
        self.sentence = (
            f"The height is how far the output at a step moves when {what}: where it is zero, nothing hangs on it, and "
            "where it is high it is a cause, not only in step."
        )

    def draw(self, ax: Any) -> None:
        values = np.atleast_1d(self.values)
        ax.bar(np.arange(len(values)), values, width=1.0, color="C0", edgecolor="white", lw=0.3)
        ax.set(title=safe(f"What changes when {self.what}"), xlabel="step t", ylabel="||change of the output||")

    def text(self, chars: Any) -> ColoredText:
        """The text that was read, coloured by the change of the output at each character."""
        return colored_text(chars, self.values)


def ablate(
    model: Module, x: Any, unit: Any = None, *, name: str | None = None, value: float = 0.0, layer: int = 0, b: int = 0,
    **call: Any,
) -> Ablation:  # fmt: skip
    """What a unit or a gate does: the model runs as it is, and again with it held at a number at every step.

        values[t] = || y'[t] - y[t] ||,    y' the outputs with name[unit] = value

    The causal twin of `colored_text`: a unit may light up in step with something and do nothing.

    Args:
        model: a recurrent layer, or a module that has some; what it returns first, if several things, is its output.
        x: what the model is called with.
        unit: which one, or a list of them; None: all, as for a gate that is held open.
        name: of the value, as in a recording: a state, whose first is the default, or anything that the step names.
            A state is held after each step, and the next one sees it so. Any other value is held where it is computed,
            and what the step makes of it sees it so: the h of an LSTM sees `c_new` held, and not `c`.
        value: the number.
        layer: which of the model's recurrent layers.
        b: which sequence `values` are of.
        call: further arguments of the model, such as `lengths`.

    Returns:
        A result with `values` [T], `before`, `after` and `change`, and `text(chars)`.

    Raises:
        TypeError: there is no recurrent layer.
        ValueError: there is no such layer, unit or value; the step cannot be compiled, so that no value within it can
            be held.

        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.GRU(3, 4)
        >>> found = tg.study.ablate(model, tg.randn(6, 2, 3), 1)
        >>> found.values.shape, bool((found.after[:, :, 1] == 0).all())
        ((6,), True)
    """
    scan = layer_of("ablate", model, layer)
    cell = scan.cell
    name = cell.state_names[0] if name is None else name
    engine, outputs = scan.fused, []
    with evaluating(model), no_grad():
        try:
            scan.fused = "never"  # twice the same way, so that nothing differs by rounding
            for units in (np.arange(0), unit):
                scan.cell = Clamped(cell, name, units, value)
                outputs.append(output_of("ablate", model(x, **call)).data)
        finally:
            scan.cell, scan.fused = cell, engine
    before, after = outputs
    if before.ndim == 3 and not 0 <= b < before.shape[0 if _batch_first(model) else 1]:
        raise ValueError(f"ablate: b={b} is no sequence of the output, {list(before.shape)}")
    which = "" if unit is None else f"[{', '.join(map(str, np.atleast_1d(unit)))}]"
    return Ablation(before, after, f"{name}{which} is held at {value:g}", b, _batch_first(model))


def _batch_first(model: Module) -> bool:
    return any(getattr(module, "batch_first", False) for module in model.modules())


class Clamped(CellWrapper):
    """A cell of which some units of a value are held at a number; it runs on the tape.

    Args:
        cell: the cell.
        name: of a state, or of a value of the step.
        units: their numbers, all if None.
        value: the number.
    """

    def __init__(self, cell: Cell, name: str, units: Any, value: float) -> None:
        super().__init__(cell)
        self.clamps, self.units, self.value = name, units, value

    def step(self, x: Any, *states: Tensor, **values: Any) -> States:
        if self.clamps in self.cell.state_names:
            k = self.cell.state_names.index(self.clamps)
            new = list(self.cell.advance(x, states, **values))
            new[k] = self._held(new[k])
            return tuple(new)
        return self._through_program(x, states, values)

    def _held(self, x: Tensor) -> Tensor:
        """A value with its units at the number."""
        width = int(np.prod(x.shape[1:]))
        units = np.arange(width) if self.units is None else np.atleast_1d(self.units)
        if units.dtype.kind not in "iu" or not ((units >= 0) & (units < width)).all():
            raise ValueError(f"ablate: unit {self.units!r} of {self.clamps}: it has {width}, from 0 to {width - 1}")
        mask = np.isin(np.arange(width), units).reshape(x.shape[1:])
        return where(mask, x.dtype.type(self.value), x)

    def _through_program(self, x: Any, states: States, values: dict[str, Any]) -> States:
        """The step's program, value by value; what comes after the one that is held sees it so."""
        inputs = x if isinstance(x, tuple) else (x,)
        steps = tuple(Tensor(each.data[None]) for each in inputs)
        sequence = Sequence(steps if isinstance(x, tuple) else steps[0], states, values=values)
        try:
            fused = fused_cell(self.cell, sequence)
        except Unfusable as error:
            raise ValueError(
                f"ablate: {self.clamps} is no state of {type(self.cell).__name__}, and values within its step can be "
                f"held only where it compiles: {error}"
            ) from None
        program = fused.stages["trace"]
        named = in_words(program, self.cell.state_names)
        if self.clamps not in named:
            raise ValueError(
                f"ablate: {type(self.cell).__name__}.step has no value {self.clamps!r}; it has "
                f"{', '.join(dict.fromkeys((*self.cell.state_names, *named)))}"
            )
        rows = full_rows(1, sequence.B)
        leaves = [*inputs, *values.values(), *fused._held(sequence.B), *fused.fixed, *states]
        known = dict(zip(fused.leaves, leaves)) | dict(zip(fused.noise, map(Tensor, fused.draw(rows))))
        target = named[self.clamps]
        at = program.values.index(target)
        with set_mode("tracer", None):
            evaluate(program.values[: at + 1], known, rows)
            known[target] = self._held(known[target])
            evaluate(program.values[at + 1 :], known, rows)
        return tuple(as_tensor(known[output]) for output in program.outputs)
