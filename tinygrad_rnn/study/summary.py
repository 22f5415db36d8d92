"""What a model is made of: layer by layer its states, shapes, parameters, work, and memory for the backward pass.

    >>> import tinygrad_rnn as tg
    >>> print(tg.study.summary(tg.nn.LSTM(3, 4), T=10, B=2))
    layer  kind      states              x -> y                    parameters  flops a step  saved for backward
    cells  LSTMCell  h [2, 4], c [2, 4]  [10, 2, 3] -> [10, 2, 4]         144           616 ... bytes
    total                                                                 144           616 ... bytes
"""

import html
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tape import no_grad
from ..fusion.rows import Rows
from ..fusion.trace import Unfusable
from ..nn.layers import Embedding, Linear
from ..nn.module import Module
from ..nn.recurrent import Recurrent
from ..nn.stacked import Stack
from ..nn.work import flops_of
from .result import write_below

MOST_ROWS = 200  # in a notebook
HEAD = ("layer", "kind", "states", "x -> y", "parameters", "flops a step", "saved for backward")


class Layer(NamedTuple):
    """One layer.

    Attributes:
        name: in the model.
        kind: its class, or that of its cell.
        states: name -> shape, the batch first.
        x, y: shapes of input and output; () where they are not known.
        parameters: how many numbers it learns.
        flops: additions and multiplications of a forward step for the whole batch: 2 for each weight and row in a
            product, 1 for each element of other maths. None where it is not known.
        saved: the bytes that the forward pass keeps for the backward pass, of all T steps. None where it is not known.
    """

    name: str
    kind: str
    states: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    y: tuple[int, ...]
    parameters: int
    flops: int | None
    saved: int | None

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        states = ", ".join(f"{name} {list(shape)}" for name, shape in self.states.items())
        shapes = f"{list(self.x)} -> {list(self.y)}" if self.y else ""
        flops = "?" if self.flops is None else f"{self.flops:,}"
        saved = "?" if self.saved is None else f"{self.saved:,} bytes"
        return self.name, self.kind, states, shapes, f"{self.parameters:,}", flops, saved


class Summary:
    """What `summary` returns; prints as a table.

        >>> import tinygrad_rnn as tg
        >>> tg.study.summary(tg.nn.LSTM(3, 4), T=7, B=2).parameters
        144

    Attributes:
        layers: see `Layer`.
        parameters: of the model, each counted once.
        flops, saved: of the layers where they are known.
        values: name -> parameters.
        sentence: how to read it.
    """

    sentence = "The work of a step grows with the parameters in products; what is saved for backward, with T and B."

    def __init__(self, layers: list[Layer], parameters: int) -> None:
        self.layers, self.parameters = layers, parameters
        self.flops = sum(layer.flops or 0 for layer in layers)
        self.saved = sum(layer.saved or 0 for layer in layers)
        self.values = {layer.name: layer.parameters for layer in layers}

    def _rows(self) -> list[tuple[str, ...]]:
        total = Layer("total", "", {}, (), (), self.parameters, self.flops, self.saved)
        return [HEAD, *(layer.cells() for layer in self.layers), total.cells()]

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows)]
        align = lambda k, text: text.rjust(widths[k]) if k > 3 else text.ljust(widths[k])
        return "\n".join("  ".join(align(k, text) for k, text in enumerate(row)).rstrip() for row in rows)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head, *rows, total = self._rows()
        align = lambda k: f'style="text-align:{"right" if k > 3 else "left"}"'
        line = lambda row, tag: "".join(f"<{tag} {align(k)}>{html.escape(x)}</{tag}>" for k, x in enumerate(row))
        left_out = len(rows) - MOST_ROWS
        more = [("...", f"and {left_out} layers more", *[""] * (len(HEAD) - 2))] if left_out > 0 else []
        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in [*rows[:MOST_ROWS], *more, total])
        table = f"<table><tr>{line(head, 'th')}</tr>{body}</table>"
        return f"<figure>{table}<figcaption>{html.escape(self.sentence)}</figcaption></figure>"

    def plot(self, ax: Any = None) -> Any:
        """Bars of the parameters of each layer on the Axes `ax`, which are returned.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        if ax is None:
            from matplotlib import pyplot

            figure, ax = pyplot.subplots(figsize=(6, 1.2 + 0.35 * len(self.layers)), layout="constrained")
            write_below(figure, self.sentence)
        bars = ax.barh([layer.name for layer in self.layers], [layer.parameters for layer in self.layers], color="0.4")
        ax.bar_label(bars, [f" {layer.parameters:,}" for layer in self.layers])
        ax.invert_yaxis()
        ax.margins(x=0.12)  # for the number of the longest
        ax.set_xlabel("parameters")
        return ax


def summary(model: Module, T: int = 100, B: int = 1) -> Summary:
    """The layers of a model, for B sequences of T steps.

        >>> import tinygrad_rnn as tg
        >>> found = tg.study.summary(tg.nn.GRU(28, 64, num_layers=2), T=50, B=16)
        >>> found.parameters, [layer.y for layer in found.layers]
        (43008, [(50, 16, 64), (50, 16, 64)])

    Nothing is run but one step that is traced, and a compiled cell says itself what its kernels keep. Where the cell
    cannot be compiled, or does not say how wide its inputs are, work and memory are not known: there is a "?".

    Args:
        model: a module, with or without recurrent layers.
        T, B: at least 1.

    Raises:
        TypeError: model is no module.
        ValueError: T or B is less than 1.
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: expected a module, got {type(model).__name__}")
    if not all(isinstance(n, (int, np.integer)) and n >= 1 for n in (T, B)):
        raise ValueError(f"summary: T and B must be at least 1, not {T} and {B}")
    layers = list(_layers("", model, T, B))
    return Summary(layers, sum(p.numel() for p in model.parameters()))


def _layers(name: str, module: Module, T: int, B: int) -> Iterator[Layer]:
    """The layers in a module, in its order."""
    join = lambda child: f"{name}.{child}" if name else child
    if isinstance(module, Recurrent):
        yield _recurrent(name or "cell", module, T, B)
        return
    if isinstance(module, Stack):
        for number, scan in enumerate(module.scans):
            turned = " (reverse)" if scan.reverse else ""
            yield _recurrent(join(f"cells.{number}" if len(module.scans) > 1 else "cells"), scan, T, B, turned)
        return
    own = sum(p.numel() for p in module.parameters())
    kind = type(module).__name__
    if isinstance(module, Linear):
        size, (out, width) = module.weight.data.itemsize, module.weight.shape
        flops = B * (2 * out * width + (out if module.bias is not None else 0))
        yield Layer(name or kind, kind, {}, (T, B, width), (T, B, out), own, flops, T * B * width * size)
    elif isinstance(module, Embedding):
        yield Layer(name or kind, kind, {}, (T, B), (T, B, module.weight.shape[1]), own, 0, T * B * 8)
    else:
        direct = sum(p.numel() for _, p in module.named_parameters(recurse=False))
        children = list(module.named_children())
        if direct or (not children and own):
            yield Layer(name or kind, kind, {}, (), (), direct, None, None)
        for child_name, child in children:
            yield from _layers(join(child_name), child, T, B)


def _recurrent(name: str, layer: Recurrent, T: int, B: int, note: str = "") -> Layer:
    cell = layer.cell
    with no_grad():
        states = dict(zip(cell.state_names, (s.shape for s in cell.begin(None, B))))
    y = (T, B, *next(iter(states.values()))[1:])
    kind, count = type(cell).__name__ + note, sum(p.numel() for p in cell.parameters())
    x: tuple[int, ...] = () if cell.input_size is None else (T, B, cell.input_size)
    try:
        fused = layer._last_fused()
    except (Unfusable, ValueError):
        return Layer(name, kind, states, x, y, count, None, None)
    x = (T, B, fused.program.inputs[0].width)
    return Layer(name, kind, states, x, y, count, B * flops_of(fused.stages["simplify"]), saved_by(fused, T, B))


def saved_by(fused: Any, T: int, B: int) -> int:
    """The bytes that a forward pass keeps: of the states at every step, and the memory of the kernel."""
    layout = fused.scan._layout("forward", Rows(T, B))
    kept = [shape for _, shape in layout.results[: fused.watched]]
    return sum(math.prod(shape) for shape in [*kept, layout.arena[1]]) * fused.scan.dtype.itemsize
