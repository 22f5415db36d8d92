"""Cells whose steps take values for a sequence by name, as maths that any library with PyTorch's names can do.

`Maths.step(lib, p, x, *states, **values)` is one step; `cell(name)` is the cell with that step.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg

I, H, S, E = 3, 4, 6, 2
RANK_3_IS_FUSED = True  # whether kernels take values of three dimensions in the loop over time


class Maths(NamedTuple):
    """A step, the shapes of its parameters, of its states and of its values, and whether the kernels can take it."""

    step: Any
    parameters: dict[str, tuple[int, ...]]
    states: tuple[str, ...]
    values: dict[str, tuple[int, ...]]
    fused: bool = True


def level(lib, p, x, h, gain):
    """A number for each sequence."""
    return lib.tanh(x @ p.W + h @ p.U) * gain.unsqueeze(-1) + 0.3 * h * gain[:, None]


def speaker(lib, p, x, h, c, voice, style):
    """Rows: as they are, through weights, through a reduction, as a gate of a state, and in a product of both."""
    key = lib.tanh(voice @ p.V)
    f = lib.sigmoid(x @ p.W + h @ p.U + key)
    c = f * c + (1 - f) * lib.tanh((style * h) @ p.R + x @ p.W)
    return lib.tanh(c) * style + 0.1 * voice.sum(-1, keepdim=True), c


def pools(lib, p, x, h, memory):
    """A matrix for each sequence, of which the loop reads a row that is made of it before."""
    weights = lib.softmax(memory.sum(-1), -1)
    context = (weights.unsqueeze(-1) * memory).sum(1)
    return lib.tanh(x @ p.W + h @ p.U + context @ p.V) + 0.1 * memory.mean(1).sum(-1, keepdim=True) * h


def attends(lib, p, x, h, memory):
    """Additive attention (Bahdanau et al., 2014): the state asks, and a weighted sum of rows answers."""
    e = (lib.tanh(memory @ p.M + (h @ p.Q).unsqueeze(1)) @ p.v).squeeze(-1)
    a = lib.softmax(e, -1)
    context = (a.unsqueeze(-1) * memory).sum(1)
    return lib.tanh(x @ p.W + h @ p.U + context @ p.V)


PLAIN = {"W": (I, H), "U": (H, H)}
ASKING = {"V": (E, H), "M": (E, H), "Q": (H, H), "v": (H, 1)}
MATHS = {
    "level": Maths(level, PLAIN, ("h",), {"gain": ()}),
    "speaker": Maths(speaker, PLAIN | {"V": (E, H), "R": (H, H)}, ("h", "c"), {"voice": (E,), "style": (H,)}),
    "pools": Maths(pools, PLAIN | {"V": (E, H)}, ("h",), {"memory": (S, E)}),
    "attends": Maths(attends, PLAIN | ASKING, ("h",), {"memory": (S, E)}, RANK_3_IS_FUSED),
}
FUSED = [name for name, maths in MATHS.items() if maths.fused]
ENGINES = [(name, engine) for name in MATHS for engine in ("never", *["require"] * MATHS[name].fused)]


class Keyword(tg.nn.Cell):
    """What the cells have in common."""

    def __init__(self, name):
        self.name, self.input_size, self.hidden_size = name, I, H
        random = np.random.default_rng(0)
        for each, shape in MATHS[name].parameters.items():
            setattr(self, each, tg.nn.Parameter(0.6 * random.standard_normal(shape)))


class Level(Keyword):
    def step(self, x, h, *, gain):
        return level(tg, self, x, h, gain)


class Speaker(Keyword):
    def step(self, x, h, c, *, voice, style):
        return speaker(tg, self, x, h, c, voice, style)


class Pools(Keyword):
    def step(self, x, h, *, memory):
        return pools(tg, self, x, h, memory)


class Attends(Keyword):
    def step(self, x, h, *, memory):
        return attends(tg, self, x, h, memory)


def cell(name):
    """The cell of a name in `MATHS`."""
    return {"level": Level, "speaker": Speaker, "pools": Pools, "attends": Attends}[name](name)


def values(name, B, seed=1, requires_grad=True):
    """Numbers for it."""
    random = np.random.default_rng(seed)
    shapes = MATHS[name].values.items()
    return {each: tg.tensor(random.standard_normal((B, *s)), requires_grad=requires_grad) for each, s in shapes}


def loop(lib, name, arrays, tensor, zeros, lengths=None, reverse=False, stack=None):
    """What a layer computes, as a loop over time by another library: results and leaves, by name.

    Args:
        arrays: of x, the values and the parameters, by name.
        tensor, zeros, stack: make a leaf of an array, zeros of a shape, and one of several of that library.
    """
    maths = MATHS[name]
    leaves = {each: tensor(array) for each, array in arrays.items()}
    x, p = leaves["x"], SimpleNamespace(**{each: leaves[each] for each in maths.parameters})
    given = {each: leaves[each] for each in maths.values}
    T, B, _ = arrays["x"].shape
    ends = np.full(B, T) if lengths is None else np.asarray(lengths)
    rows, finals = [], []  # each sequence by itself, as if there were no others
    for b, end in enumerate(ends):
        states = tuple(zeros((1, H)) for _ in maths.states)
        found = {}
        for t in range(end)[:: -1 if reverse else 1]:
            one = {each: value[b : b + 1] for each, value in given.items()}
            new = maths.step(lib, p, x[t, b : b + 1], *states, **one)
            states = new if isinstance(new, tuple) else (new,)
            found[t] = states[0]
        rows.append(stack([found[t][0] if t in found else zeros((H,)) for t in range(T)]))
        finals.append([state[0] for state in states])
    outputs = stack(rows).transpose(0, 1)
    return [outputs, *map(stack, zip(*finals))], leaves
