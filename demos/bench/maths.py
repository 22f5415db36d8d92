"""Cells as functions of any library: the same lines of maths run here, in PyTorch and in JAX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pairs import random

import tinygrad_rnn as tg


def lstm(lib, p, x, h, c):
    """Long short-term memory, as in `nn.LSTMCell`."""
    i, f, g, o = lib.chunk(x @ p.W + h @ p.U + p.b, 4, -1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(c), c


def mgu(lib, p, x, h):
    """Minimal gated unit (Zhou et al., 2016): its second product needs the result of the first."""
    f = lib.sigmoid(x @ p.Wf + h @ p.Uf + p.bf)
    n = lib.tanh(x @ p.Wn + (f * h) @ p.Un + p.bn)
    return (1 - f) * h + f * n


def norm_lstm(lib, p, x, h, c):
    """LSTM with layer normalisation of both products and of the state (Ba et al., 2016)."""
    norm, H = lib.nn.functional.layer_norm, h.shape[1]
    a = norm(x @ p.W, (4 * H,), p.gx, p.bx) + norm(h @ p.U, (4 * H,), p.gh, p.bh)
    i, f, g, o = lib.chunk(a, 4, -1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(norm(c, (H,), p.gc, p.bc)), c


def peephole_lstm(lib, p, x, h, c):
    """LSTM whose gates see its state (Gers and Schmidhuber, 2000)."""
    i, f, g, o = lib.chunk(x @ p.W + h @ p.U + p.b, 4, -1)
    i, f = lib.sigmoid(i + p.pi * c), lib.sigmoid(f + p.pf * c)
    c = f * c + i * lib.tanh(g)
    return lib.sigmoid(o + p.po * c) * lib.tanh(c), c


class Maths(NamedTuple):
    """A cell as a function, and the shapes of its parameters in terms of I and H."""

    step: Callable[..., Any]
    states: int
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]

    def parameters(self, I: int, H: int) -> dict[str, np.ndarray]:
        """Random ones."""
        return {name: random(*shape) for name, shape in self.shapes(I, H).items()}


def gate_shapes(I, H):
    return dict(W=(I, 4 * H), U=(H, 4 * H), b=(4 * H,))


NORM_LSTM = Maths(
    norm_lstm,
    2,
    lambda I, H: dict(
        W=(I, 4 * H), U=(H, 4 * H), gx=(4 * H,), bx=(4 * H,), gh=(4 * H,), bh=(4 * H,), gc=(H,), bc=(H,)
    ),
)
CUSTOM = {
    "MGU": Maths(mgu, 1, lambda I, H: dict(Wf=(I, H), Uf=(H, H), bf=(H,), Wn=(I, H), Un=(H, H), bn=(H,))),
    "layer-norm LSTM": NORM_LSTM,
    "peephole LSTM": Maths(peephole_lstm, 2, lambda I, H: gate_shapes(I, H) | dict(pi=(H,), pf=(H,), po=(H,))),
}


class MathsCell(tg.nn.Cell):
    """A cell of maths written above."""

    def __init__(self, maths: Maths, I: int, H: int) -> None:
        self.hidden_size, self.maths = H, maths
        for name, array in maths.parameters(I, H).items():
            setattr(self, name, tg.nn.Parameter(tg.tensor(array)))

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c")[: self.maths.states]

    def step(self, x, *states):
        return self.maths.step(tg, self, x, *states)
