"""Arrays as they may lie in memory: kernels read them in their order, and nothing beside them."""

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import parameter

T, B, I, H = 4, 3, 3, 4


def beside(a):
    """What nobody may read."""
    return np.nan if a.dtype.kind == "f" else 99


def column(a):
    """As every second element of rows that go on with NaN: who takes it to be contiguous reads these."""
    wide = np.full((*a.shape[:-1], a.shape[-1] * 2 + 3), beside(a), a.dtype)
    wide[..., 1 : 1 + 2 * a.shape[-1] : 2] = a
    return wide[..., 1 : 1 + 2 * a.shape[-1] : 2]


def of_a_table(a):
    """A column of a larger table."""
    table = np.full((*a.shape, 3), beside(a), a.dtype)
    table[..., 1] = a
    return table[..., 1]


def misaligned(a):
    raw = np.zeros(a.nbytes + 16, np.uint8)[1 : 1 + a.nbytes]
    found = raw.view(a.dtype).reshape(a.shape)
    found[...] = a
    return found


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def backwards(a):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[(slice(None, None, -1),) * a.ndim]


def last_backwards(a):
    return np.ascontiguousarray(a[..., ::-1])[..., ::-1]


def repeated(a):
    """One number for all, or one for all rows: stride 0, and read-only."""
    return np.broadcast_to(a.ravel()[:1], a.shape)


def turned(a):
    """Its axes in the other order in memory."""
    return np.ascontiguousarray(a.T).T


LAYOUTS = {
    f.__name__: f for f in (column, of_a_table, misaligned, read_only, backwards, last_backwards, repeated, turned)
}


class Cell(tg.nn.Cell):
    """Vectors of all shapes, in the loop and before it; matrices whole, in parts, together and transposed."""

    input_size, hidden_size = I, H
    held = False

    def __init__(self):
        self.W, self.U, self.V = parameter(I, H), parameter(H, H), parameter(H, 2 * H)
        self.v, self.row, self.two, self.s = parameter(H), parameter(1, H), parameter(2 * H), parameter(1)
        self.peep = parameter(H)
        self.k = np.linspace(-1, 1, H)

    def sequence_values(self, batch_size):
        return {"mask": tg.Tensor(self.mask)} if self.held else {}

    def step(self, x, h, c):
        a = x @ self.W + h @ self.U + self.v * self.k
        p, q = tg.chunk(c @ self.V + self.two, 2, -1)
        if self.held:
            p = p * self.mask
        n = tg.tanh(a + self.row * p)
        c = tg.sigmoid(q + self.peep * c) * c + n * self.s
        return tg.tanh(c) + 0.1 * h * self.two[1 : 1 + H], c


class Small(tg.nn.Cell):
    """One without anything before its loop but a product."""

    input_size, hidden_size = I, H

    def __init__(self):
        self.W, self.U, self.v, self.row, self.peep = (parameter(*s) for s in ((I, H), (H, H), (H,), (1, H), (H,)))

    def step(self, x, h, c):
        c = tg.tanh(x @ self.W + h @ self.U + self.v + self.peep * c + self.row)
        return c * h, c


def run(cell, engine, layout, where, reverse, lengths):
    """Everything a call returns and all gradients, where arrays of one kind have a layout."""
    random = np.random.default_rng(0)
    lay = lambda kind, a: layout(a) if kind in where else a
    for p in cell.parameters():
        p.data = lay("parameters", random.uniform(-1, 1, p.shape))
    if hasattr(cell, "k"):
        cell.k = lay("parameters", np.linspace(-1, 1, H))
    cell.mask = lay("parameters", random.uniform(-1, 1, (B, H)))
    x = tg.tensor(random.uniform(-1, 1, (T, B, I)), requires_grad=True)
    states = tuple(tg.tensor(random.uniform(-1, 1, (B, H)), requires_grad=True) for _ in range(2))
    for each, kind in ((x, "x"), *((state, "states") for state in states)):
        each.data = lay(kind, each.data)
    layer = tg.nn.Recurrent(cell, reverse, fused=engine)
    options = {} if lengths is None else {"lengths": lay("lengths", np.array(lengths))}
    y, (h, c) = layer(x, states, **options)
    dys = [lay("dys", random.uniform(-1, 1, v.shape)) for v in (y, h, c)]
    leaves = [x, *states, *cell.parameters()]
    gradients = tg.grad([y, h, c], leaves, [tg.Tensor(dy) for dy in dys])
    with tg.no_grad():
        z, (hz, cz) = layer(x, states, **options)
    named = ["x", "h", "c", *(name for name, _ in cell.named_parameters())]
    return dict(zip("yhczst", (y, h, c, z, hz, cz))) | {f"d{n}": g for n, g in zip(named, gradients)}


KINDS = ("parameters", "x", "states", "dys", "lengths")


ONE_BY_ONE = {"column", "misaligned", "backwards", "repeated"}  # the others take as long, to find no more so far
EVERY_LAYOUT = [
    *(pytest.param(Cell, name, marks=() if name in ONE_BY_ONE else pytest.mark.slow) for name in LAYOUTS),
    *(pytest.param(Small, name, marks=pytest.mark.slow) for name in sorted(ONE_BY_ONE)),
]


@pytest.mark.parametrize(("kind", "layout"), EVERY_LAYOUT)
def test_any_layout(kind, layout):
    """Of each kind of arrays, and of all at once; a vector is read at every step, so its neighbours are NaN."""
    tg.manual_seed(0)
    cell = kind()
    for where in (*itertools.combinations(KINDS, 1), KINDS):
        for reverse, lengths in ((False, None), (True, [2, 4, 1])):
            expected = run(cell, "never", LAYOUTS[layout], where, reverse, lengths)
            found = run(cell, "require", LAYOUTS[layout], where, reverse, lengths)
            for name, value in expected.items():
                np.testing.assert_allclose(
                    found[name].numpy(), value.numpy(), rtol=0, atol=1e-12, err_msg=f"{name}, {where}"
                )


@pytest.mark.parametrize("width", [1, 2])
def test_gradients_that_were_expanded(width):
    """Those of a sum are one number everywhere, of an array that must not be written to."""
    cell = tg.nn.LSTMCell(1, width, dtype=np.float64)
    for T, B in ((1, 1), (2, 1), (1, 2), (3, 2)):
        x = tg.randn(T, B, 1, dtype=np.float64, requires_grad=True)
        found = []
        for engine in ("never", "require"):
            y, (_, c) = tg.nn.Recurrent(cell, fused=engine)(x)
            found.append(tg.grad(y.sum() + c.sum(), [x, *cell.parameters()]))
        for one, other in zip(*found):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-12)


def test_a_bias_that_becomes_a_column_of_a_table():
    """Between two calls of one size, of which the second does what the first has found out."""
    tg.manual_seed(0)
    lstm = tg.nn.LSTM(I, H)
    x = tg.randn(2, 2, I)
    with tg.no_grad():
        lstm(x)
        lstm.bias_ih_l0.data = column(lstm.bias_ih_l0.data + 1)
        found = lstm(x)[0].numpy()
        lstm.bias_ih_l0.data = lstm.bias_ih_l0.data.copy()
        np.testing.assert_array_equal(lstm(x)[0].numpy(), found)
        lstm.bias_ih_l0.data[...] = 0
        assert not np.array_equal(lstm(x)[0].numpy(), found)
