"""What the equations of cells have in common: a cell beside its equations in plain NumPy, and where it starts.

Equations stand in `equations_*.py`, a file for a family of cells; test_cells.py takes all that it finds there.
"""

import numpy as np

import tinygrad_rnn as tg

T, B, I, H = 5, 3, 4, 6
CASES = {}


def case(name, make, start=None, same=False):
    """A cell with a function of (its parameters, x, *states) that computes the new states in NumPy.

    What the cell takes by name for a sequence, the function takes so too.

    `start` holds initial states that cannot be just any number; with `same`, x is as wide as h.
    """

    def register(equations):
        CASES[name] = (make, equations, start or {}, same)
        return equations

    return register


def build(name, I=I, H=H, **options):
    make, equations, start, same = CASES[name]
    tg.manual_seed(1)
    cell = make(H if same else I, H, **{"dtype": np.float64, **options})
    for p in cell.parameters():
        if not p.numpy().any():  # biases that start at zero would hide where they are added
            p.numpy()[...] = np.random.default_rng(2).uniform(-0.5, 0.5, p.shape)
    return cell, equations, start


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a > 0, a, 0)


def rows(p, name, *letters, order):
    """The blocks of a parameter that belong to some gates, given the order of all."""
    blocks = np.split(p[name], len(order))
    return [blocks[order.index(letter)] for letter in letters]


class Gates:
    """W, U and b of each gate by letter: `gates("i", x, h)` is W_i x + U_i h + b_i."""

    def __init__(self, p, order):
        self.order = order
        self.W, self.U, self.b = (
            dict(zip(order, np.split(p[key], len(order)))) if key in p else {}
            for key in ("weight_ih", "weight_hh", "bias")
        )

    def __call__(self, gate, x, h=None):
        a = x @ self.W[gate].T + self.b.get(gate, 0)
        return a if h is None else a + h @ self.U[gate].T


def layer_norm(a, gain, shift):
    mean = a.sum(-1, keepdims=True) / a.shape[-1]
    variance = ((a - mean) ** 2).sum(-1, keepdims=True) / a.shape[-1]
    return gain * (a - mean) / np.sqrt(variance + 1e-5) + shift


def starting(cell, start, random, rows=B):
    """Random initial states, but for those that `start` names."""
    shapes = {name: s.shape for name, s in zip(cell.state_names, cell.begin(None, rows))}
    return [
        np.broadcast_to(start[name][:rows] if np.ndim(start[name]) else start[name], shape).copy()
        if name in start
        else random.uniform(-1, 1, shape)
        for name, shape in shapes.items()
    ]
