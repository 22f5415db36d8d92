"""What the tests of the study kit share: recordings of small cells, on both engines."""

import numpy as np

import tinygrad_rnn as tg

ENGINES = ("never", "require")
F64 = {"dtype": np.float64}


class Linear(tg.nn.Cell):
    """h' = h U + x W, in float64."""

    def __init__(self, U, W=None):
        U = np.atleast_2d(np.asarray(U, np.float64))
        self.U, self.W = tg.nn.Parameter(U), tg.nn.Parameter(np.eye(len(U)) if W is None else np.asarray(W, np.float64))
        self.input_size, self.hidden_size = self.W.shape

    def step(self, x, h):
        return h @ self.U + x @ self.W


def drawn(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape))


def recorded(cell, engine="never", T=6, B=3, x=None, loss=None, reverse=False, **options):
    """A recording; after the backward pass of a loss of the outputs and the final states, if there is one."""
    layer = tg.nn.Recurrent(cell, reverse, fused=engine)
    x = drawn(T, B, cell.input_size) if x is None else x
    with tg.record(layer) as r:
        y, final = layer(x, **options)
    if loss is not None:
        loss(y, final).backward()
    return r


def filled(cell, **values):
    """The cell with its parameters at these numbers, and the others at zero."""
    for name, p in cell.named_parameters():
        p.numpy()[...] = values.get(name, 0.0)
    return cell
