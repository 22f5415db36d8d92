"""`bench toolbox`: what lengths, noise, clipping and norms cost in the loop over time."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from cell_tables import TINY, both_layers, loop_over_time
from maths import NORM_LSTM, MathsCell, gate_shapes, lstm, norm_lstm
from pairs import Call, Group, Row, Settings, installed, leaves, random, training

import tinygrad_rnn as tg

TOOL_SIZES = [(100, 16, 64, 64), (100, 32, 128, 128), (100, 32, 128, 256)]  # T, B, I, H
ZONEOUT, DROPOUT = (0.05, 0.5), 0.3


class Tool(NamedTuple):
    """Something around an LSTM, here and as a loop over time in PyTorch.

    Attributes:
        cell: (I, H) -> our cell.
        rival: (torch, p, x, B, H) -> y; None for lengths, whose rival is a layer.
        shapes: of p, the parameters of the rival, as in `Maths`.
        options: (T, B) -> options of a call.
        recorded: whether all that happens inside is recorded.
    """

    cell: Callable[[int, int], tg.nn.Cell]
    rival: Callable[..., Any] | None = None
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]] = gate_shapes
    options: Callable[[int, int], dict[str, Any]] = lambda T, B: {}
    recorded: bool = False


def some_lengths(T: int, B: int) -> np.ndarray:
    """Lengths of B sequences, all lengths up to T as likely; one of them is T."""
    lengths = np.random.default_rng(0).integers(1, T + 1, B)
    lengths[0] = T
    return lengths


def zoneout_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        new_h, new_c = lstm(torch, p, x_t, h, c)
        keep_h, keep_c = torch.rand(B, H) < ZONEOUT[0], torch.rand(B, H) < ZONEOUT[1]
        return torch.where(keep_h, h, new_h), torch.where(keep_c, c, new_c)

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def variational_loop(torch, p, x, B, H):
    drop = torch.nn.functional.dropout
    x_mask, h_mask = drop(torch.ones(B, x.shape[2]), DROPOUT), drop(torch.ones(B, H), DROPOUT)
    step = lambda x_t, h, c: lstm(torch, p, x_t, h * h_mask, c)
    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x * x_mask)


def with_recurrent_dropout(I: int, H: int) -> tg.nn.Cell:
    """An LSTM cell that drops elements of what it is about to write."""
    cell = tg.nn.LSTMCell(I, H)
    cell.recurrent_dropout = DROPOUT
    return cell


def recurrent_dropout_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        i, f, g, o = torch.chunk(x_t @ p.W + h @ p.U + p.b, 4, -1)
        n = torch.nn.functional.dropout(torch.tanh(g), DROPOUT)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * n
        return torch.sigmoid(o) * torch.tanh(c), c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def clipped_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        h, c = lstm(torch, p, x_t, h, c)
        for state in (h, c):
            state.register_hook(lambda d: d.clamp(-1, 1))
        return h, c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def norm_loop(torch, p, x, B, H):
    return loop_over_time(torch, lambda *inputs: norm_lstm(torch, p, *inputs), (torch.zeros(B, H),) * 2)(x)


def recorded_loop(torch, p, x, B, H):
    seen = []

    def step(x_t, h, c):
        i, f, g, o = torch.chunk(x_t @ p.W + h @ p.U + p.b, 4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        seen.append((i, f, g, o, c, h))
        for value in seen[-1]:
            value.retain_grad()
        return h, c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


TOOLS = {
    "lengths": Tool(tg.nn.LSTMCell, options=lambda T, B: dict(lengths=some_lengths(T, B))),
    "zoneout": Tool(lambda I, H: tg.nn.Zoneout(tg.nn.LSTMCell(I, H), ZONEOUT), zoneout_loop),
    "variational": Tool(
        lambda I, H: tg.nn.VariationalDropout(tg.nn.LSTMCell(I, H), DROPOUT, DROPOUT), variational_loop
    ),
    "recurrent dropout": Tool(with_recurrent_dropout, recurrent_dropout_loop),
    "clipping": Tool(lambda I, H: tg.nn.ClipGradient(tg.nn.LSTMCell(I, H), 1.0), clipped_loop),
    "layer norm": Tool(lambda I, H: MathsCell(NORM_LSTM, I, H), norm_loop, NORM_LSTM.shapes),
    "recording": Tool(tg.nn.LSTMCell, recorded_loop, recorded=True),
}


def toolbox_groups(settings: Settings) -> Iterator[Group]:
    """Each tool against the plain LSTM, both fused, and against PyTorch."""
    torch = installed("torch")
    sizes = settings.some(TOOL_SIZES, TINY)
    tools = {"zoneout": TOOLS["zoneout"]} if settings.smoke else TOOLS
    rows = (tool_row(name, tool, size) for name, tool in tools.items() for size in sizes)
    yield Group("LSTM with a tool, training step (T, B, I, H)", "plain LSTM, both fused", rows, target=(0.67, 0.67))
    if torch is None:
        print("\nPyTorch is not installed: left out.")
        return
    torch.set_num_threads(settings.threads)
    rows = (packed_row(torch, size) for size in sizes)
    yield Group("LSTM, lengths from 1 to T, training step (T, B, I, H)", "PyTorch packed sequences", rows)
    for name, tool in tools.items():
        if tool.rival is not None:
            rows = (tool_row_beside(torch, tool, size) for size in sizes)
            yield Group(f"LSTM with {name}, training step (T, B, I, H)", "PyTorch loop", rows)


def tool_step(tool: Tool, size: tuple[int, int, int, int]) -> Call:
    """A training step of our cell."""
    T, B, I, H = size
    layer, options = tg.nn.Recurrent(tool.cell(I, H), fused="require"), tool.options(T, B)
    (x,) = leaves(tg, random(T, B, I))

    def run(x):
        with tg.record(layer) if tool.recorded else contextlib.nullcontext():
            return layer(x, **options)[0]

    return training(run, x, tg.tensor(random(T, B, H)), list(layer.parameters()))


def tool_row(name: str, tool: Tool, size: tuple[int, int, int, int]) -> Row:
    """A training step with the tool, and without."""
    T, B, I, H = size
    return Row(f"{name} {T}, {B}, {I}, {H}", tool_step(tool, size), tool_step(Tool(tg.nn.LSTMCell), size))


def tool_row_beside(torch: Any, tool: Tool, size: tuple[int, int, int, int]) -> Row:
    """A training step with the tool, here and there."""
    T, B, I, H = size
    assert tool.rival is not None
    arrays = {name: random(*shape) for name, shape in tool.shapes(I, H).items()}
    p = SimpleNamespace(**dict(zip(arrays, leaves(torch, *arrays.values()))))
    (x,) = leaves(torch, random(T, B, I))
    rival = tool.rival
    theirs = training(lambda x: rival(torch, p, x, B, H), x, torch.tensor(random(T, B, H)), vars(p).values())
    return Row(f"{T}, {B}, {I}, {H}", tool_step(tool, size), theirs)


def packed_row(torch: Any, size: tuple[int, int, int, int]) -> Row:
    """Sequences of different lengths: packed, run and padded again there."""
    T, B, I, H = size
    layer, rival = both_layers(torch, "LSTM", I, H)
    lengths, packing = some_lengths(T, B), torch.nn.utils.rnn
    lengths_there = torch.tensor(lengths)

    def run(x):
        packed = packing.pack_padded_sequence(x, lengths_there, enforce_sorted=False)
        return packing.pad_packed_sequence(rival(packed)[0])[0]

    (x,), (x_there,) = leaves(tg, random(T, B, I)), leaves(torch, random(T, B, I))
    ours = training(lambda x: layer(x, lengths=lengths)[0], x, tg.tensor(random(T, B, H)), list(layer.parameters()))
    theirs = training(run, x_there, torch.tensor(random(T, B, H)), list(rival.parameters()))
    return Row(f"{T}, {B}, {I}, {H}", ours, theirs)
