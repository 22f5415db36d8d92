"""integrated_gradients and connectivity: which inputs a result hangs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd.operands import as_array, is_whole
from ..autograd.tape import enable_grad
from ..autograd.tensor import Tensor, grad
from ..nn.layers import Embedding
from ..nn.module import Module
from .models import evaluating, frozen, modules_of, output_of
from .result import Result, coloured, limits
from .text import ColoredText, colored_text


class Attribution(Result):
    """See `integrated_gradients`.

    Attributes:
        values: like x.
        difference: f(x) - f(base), to which they sum.
        error: by how much they do not.
    """

    def __init__(self, values: np.ndarray, difference: float, b: int) -> None:
        self.values, self.difference, self.b = values, difference, b
        self.error = float(values.sum(dtype=np.float64)) - difference
        which = "lighter a cell" if self._are_cells else "higher a bar"
        self.sentence = (
            f"The {which}, the more that input at that step raised the result, and below zero it lowered it; "
            f"together they make up its change from the base, {difference:.4g}, to within {abs(self.error):.1g}."
        )

    @property
    def _are_cells(self) -> bool:
        """Whether there are several inputs at a step."""
        return self.values.ndim in (2, 3) and self.values.shape[-1] > 1

    def draw(self, ax: Any) -> None:
        values = self.values[:, self.b] if self.values.ndim == 3 else self.values
        if self._are_cells:
            coloured(ax, values.T, "attribution", limits(values, False))
            ax.set(title="What the result is made of", xlabel="step t", ylabel="input")
            return
        ax.bar(np.arange(values.size), values.reshape(-1), color="C0")
        ax.axhline(0, color="black", lw=0.8)
        ax.set(title="What the result is made of", xlabel="step t", ylabel="attribution")


def integrated_gradients(
    f: Callable[[Tensor], Any], x: Any, base: Any = None, *, steps: int = 64, b: int = 0, model: Any = None
) -> Attribution:
    """What each input at each step contributed to a number, along the way from a base (Sundararajan et al., 2017).

        values = (x - base) * integral over a from 0 to 1 of df / dx (base + a (x - base))

    The integral is a sum over the middles of `steps` pieces: its error falls with the square of their number. The
    attributions sum to f(x) - f(base), which no other way of multiplying gradients with inputs achieves.

    Args:
        f: a function of one tensor like x that returns one number, such as `lambda x: model(x)[0][-1, 0, 3]`.
        x: usually [T, B, I]; any shape will do.
        base: the input that says nothing, of the shape of x or one that broadcasts to it; zeros by default.
        steps: the number of pieces.
        b: which sequence of [T, B, I] is drawn.
        model: what f calls, to be in `eval` mode meanwhile, which modules that f names itself are in any case.

    Returns:
        A result with `values` like x, `difference` and `error`.

    Raises:
        TypeError: x is not made of floats: attribute to an embedding of it.
        ValueError: f returns more than a number; base does not fit; steps are not positive.
        RuntimeError: f(x) does not depend on x.

        >>> import tinygrad_rnn as tg
        >>> found = tg.study.integrated_gradients(lambda x: (x * x).sum(), tg.tensor([1.0, 2.0, 3.0]))
        >>> found.values.round(4), found.difference
        (array([1., 4., 9.]), 14.0)
    """
    data = as_array(x)
    if data.dtype.kind != "f":
        raise TypeError(f"integrated_gradients: x is {data.dtype}, and only floats have gradients: give its embedding")
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"integrated_gradients: steps must be positive and whole, not {steps!r}")
    start = as_array(0.0 if base is None else base).astype(data.dtype)
    try:
        start = np.broadcast_to(start, data.shape)
    except ValueError:
        raise ValueError(
            f"integrated_gradients: base has shape {list(start.shape)}, which does not fit x, {list(data.shape)}"
        ) from None
    if data.ndim == 3 and not 0 <= b < data.shape[1]:
        raise ValueError(f"integrated_gradients: b={b} is no sequence of x, {list(data.shape)}")
    total, way = np.zeros(data.shape), (data - start).astype(data.dtype)
    with evaluating(*modules_of(f), model), enable_grad():
        for k in range(steps):
            here = Tensor(start + data.dtype.type((k + 0.5) / steps) * way).requires_grad_()
            (slope,) = grad(_number(f(here), here), [here], allow_unused=True)
            if slope is None:
                raise RuntimeError("integrated_gradients: the result of f does not depend on x")
            total += slope.numpy()
        ends = [float(_number(f(Tensor(end.copy())), None).data.reshape(())) for end in (data, start)]
    return Attribution(way * total / steps, ends[0] - ends[1], b)


def _number(y: Any, x: Tensor | None) -> Tensor:
    y = output_of("integrated_gradients", y)
    if y.data.size != 1:
        raise ValueError(
            f"integrated_gradients: f must return one number, and returned {list(y.shape)}: write "
            "lambda x: model(x)[...] with an index, or sum it"
        )
    if x is not None and y.node is None:
        raise RuntimeError("integrated_gradients: the result of f does not depend on x")
    return y.reshape(1)


# ---- Connectivity ----------------------------------------------------------------------------------------------------

MOST = 1 << 20  # numbers of a gradient at a time


class Connectivity(Result):
    """See `connectivity`.

    Attributes:
        values: [T, T], the output at which step by the input at which.
    """

    size = (5.8, 4.4)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.sentence = (
            "Each row is an output and each column an input: the lighter, the more a small change of that input would "
            "change it; a light column is an input that is remembered, a light diagonal a net that forgets."
        )

    def draw(self, ax: Any) -> None:
        scale = self.values.max(1, keepdims=True)
        shown = self.values / np.where(scale > 0, scale, 1)
        coloured(ax, shown, "||dy/dx||, share of the row's largest", (0.0, 1.0), aspect="equal")
        ax.set(title="Which inputs each output hangs on", xlabel="input at step", ylabel="output at step")

    def text(self, chars: Any, t: int) -> ColoredText:
        """The inputs, coloured by how much the output at step t hangs on them."""
        if not 0 <= t < len(self.values):
            raise ValueError(f"text: t={t} is no step of {len(self.values)}")
        return colored_text(chars, self.values[t])


def connectivity(model: Module, x: Any, *, of: Any = None, **values: Any) -> Connectivity:
    """Which inputs each output of a model hangs on (Madsen, 2019, "Visualizing memorization in RNNs").

        values[t2, t1] = || dy[t2] / dx[t1] ||

    It is exactly 0 for the future, unless the model reads both ways. All outputs are asked at once: each is one
    sequence of a batch of copies.

    Args:
        model: a recurrent layer, or a module that maps [T, B, I], or integers [T, B], to outputs [T, B, O], or to a
            tuple that begins with them; [B, T, ...] if one of its layers has batch_first.
        x: one sequence, [T, I] or [T, 1, I]; or integers [T] or [T, 1], whose embedding is then the input.
        of: [T] integers, which of the O outputs counts at each step; "largest", that which is; None: the norm goes
            over all of them, a batch O times as large.
        values: by name, what the model takes for the sequence besides, [1, ...]: each copy gets the same.

    Returns:
        A result with `values` [T, T], and `text(chars, t)`, the inputs in colour.

    Raises:
        TypeError: the model is no module.
        ValueError: shapes do not fit, or the sequences of a batch meet in the model.
        RuntimeError: integers are given, and the model has not one Embedding.

        >>> import tinygrad_rnn as tg
        >>> found = tg.study.connectivity(tg.nn.GRU(3, 4), tg.randn(6, 3)).values
        >>> found.shape, bool((found[0, 1:] == 0).all())
        ((6, 6), True)
    """
    if not isinstance(model, Module):
        raise TypeError(f"connectivity: expected a Module, got {type(model).__name__}")
    data = as_array(x)
    whole = data.dtype.kind in "iu"
    if data.ndim == (2 if whole else 3) and data.shape[1] == 1:
        data = data[:, 0]
    if data.ndim != (1 if whole else 2) or not len(data):
        raise ValueError(f"connectivity: expected one sequence, [T, I] or integers [T], got {list(data.shape)}")
    first = any(getattr(module, "batch_first", False) for module in model.modules())
    with evaluating(model), frozen(model), enable_grad():
        return Connectivity(_norms(model, data, of, first, values))


def _norms(model: Module, data: np.ndarray, of: Any, batch_first: bool, values: dict[str, Any]) -> np.ndarray:
    """One copy of the sequence for each number of each output, so many at a time as fit."""
    x, y = _outputs(model, data, 1, batch_first, values)
    T, O = y.shape[0], y.shape[2]
    if of is None:
        asked = np.stack(np.divmod(np.arange(T * O), O), -1)  # [T * O, 2], at which step, which output
    else:
        one = y.data[:, 0].argmax(-1) if isinstance(of, str) and of == "largest" else as_array(of)
        if one.shape != (T,) or one.dtype.kind not in "iu" or not ((one >= 0) & (one < O)).all():
            raise ValueError(f"connectivity: of must be {T} integers from 0 to {O - 1}, 'largest' or None, not {of!r}")
        asked = np.stack([np.arange(T), one], -1)
    squares = np.zeros((T, T))
    causal = T > 1 and _is_causal(x, y, batch_first)
    at_once = max(1, MOST // (T * max(O, data[0].size)))
    for start in range(0, len(asked), at_once):
        some = asked[start : start + at_once]
        seen = data[: some[:, 0].max() + 1] if causal else data  # what lies behind has no part in it
        x, again = _outputs(model, seen, len(some), batch_first, values)
        if not start and not _is_same(again.data, y.data[: len(seen)]):
            raise ValueError("connectivity: the output of a sequence changes with others beside it in the batch")
        if again.node is None:
            raise ValueError("connectivity: the output does not depend on the input")
        dy = np.zeros(again.shape, again.dtype)
        dy[some[:, 0], np.arange(len(some)), some[:, 1]] = 1
        (dx,) = grad(again, [x], [dy], allow_unused=True)
        if dx is not None:
            dx = dx.numpy().swapaxes(0, 1) if batch_first else dx.numpy()
            np.add.at(squares[:, : len(seen)], some[:, 0], np.einsum("tri,tri->rt", dx, dx, dtype=np.float64))
    return np.sqrt(squares)


def _is_causal(x: Tensor, y: Tensor, batch_first: bool) -> bool:
    """Whether the first half of the outputs [T, 1, O] has no gradient at all at the second half of the inputs.

    Outputs of a shorter sequence would say so by rounding alone: what is small, or weakly asked for, is not nothing.
    """
    if y.node is None:
        return False
    half, dy = len(y) // 2, np.zeros(y.shape, y.dtype)
    dy[:half] = np.random.default_rng(0).standard_normal(dy[:half].shape)  # so that no two cancel each other
    (dx,) = grad(y, [x], [dy], allow_unused=True)
    return dx is None or not (dx.numpy().swapaxes(0, 1) if batch_first else dx.numpy())[half:].any()


def _is_same(y: np.ndarray, expected: np.ndarray) -> bool:
    """Whether outputs [T, copies, O] are those of one sequence, to rounding."""
    tolerance = (1e-4 if y.dtype.itemsize < 8 else 1e-9) * max(1.0, float(np.abs(expected).max(initial=0)))
    return bool((np.abs(y - expected) <= tolerance).all())


def _outputs(
    model: Module, data: np.ndarray, copies: int, batch_first: bool, values: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The input, a leaf of the tape or the embedding of integers, [T, copies, I] as the model wants it; the output."""
    T, whole = len(data), data.dtype.kind in "iu"
    batch = np.repeat(data[:, None], copies, 1)
    batch = np.ascontiguousarray(batch.swapaxes(0, 1)) if batch_first else batch
    given = {name: Tensor(np.repeat(as_array(value), copies, 0)) for name, value in values.items()}
    if whole:
        with _embedded(model) as found:
            y = output_of("connectivity", model(Tensor(batch), **given))
        if len(found) != 1:
            raise RuntimeError(f"connectivity: integers went through {len(found)} calls of an Embedding, not one")
        x = found[0]
    else:
        x = Tensor(batch).requires_grad_()
        y = output_of("connectivity", model(x, **given))
    y = y.transpose(0, 1) if batch_first and y.ndim == 3 else y
    if y.ndim != 3 or y.shape[:2] != (T, copies):
        raise ValueError(
            f"connectivity: expected an output of shape [{T}, {copies}, O] for {copies} sequences of {T} steps, got "
            f"{list(y.shape)}"
        )
    return x, y


@contextmanager
def _embedded(model: Module) -> Iterator[list[Tensor]]:
    """What embeddings return meanwhile, as leaves of the tape."""
    found: list[Tensor] = []
    modules = [module for module in model.modules() if isinstance(module, Embedding)]

    def looked_up(module: Embedding, *args: Any) -> Tensor:
        x = Tensor(type(module).forward(module, *args).data).requires_grad_()
        found.append(x)
        return x

    try:
        for module in modules:
            vars(module)["forward"] = lambda *args, module=module: looked_up(module, *args)
        yield found
    finally:
        for module in modules:
            vars(module).pop("forward", None)
