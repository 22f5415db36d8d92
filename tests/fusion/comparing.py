"""Both engines side by side: what a layer computes as kernels, as generated source run by Python, and on the tape."""

import math
import re

import numpy as np
import pytest
from covering import covering

import tinygrad_rnn as tg
from tinygrad_rnn.fusion import scan
from tinygrad_rnn.kernels import arena as arenas
from tinygrad_rnn.kernels.vector import ROW_BYTES
from tinygrad_rnn.nn.cells import catalogue

QUICK = {"LSTMCell", "GRUCell", "MGUCell", "SLSTMCell"}  # small ones, each of another kind
EVERY_CELL = [  # of the library, as a function of I and H; compiling them all takes minutes
    pytest.param(row[0], id=entry.name, marks=() if entry.name in QUICK else pytest.mark.slow)
    for row, entry in zip(catalogue.ROWS, tg.nn.cells.list(4, 4))
]
SOME_CELLS = [cell for cell in EVERY_CELL if cell.id in QUICK.union(covering(3)[::2])]


def given_to(cell, batch_size, seed=7):
    """Random numbers for what the step of a cell of the library takes by name; {} for most, which take nothing."""
    random, dtype = np.random.default_rng(seed), cell.begin(None, 1)[0].dtype
    shapes = catalogue.values_of(cell)
    return {name: tg.tensor(random.uniform(-1, 1, (batch_size, *s)).astype(dtype)) for name, s in shapes.items()}


def parameter(*shape, scale=0.4):
    """A float64 parameter drawn from the library's generator."""
    return tg.nn.Parameter(tg.randn(*shape, dtype=np.float64) * scale)


class LayerNorm(tg.nn.Cell):
    """Sums over a row, between loops that read them; in float32."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        draw = lambda *shape: tg.nn.Parameter(tg.randn(*shape) * 0.1)
        self.W, self.U = draw(input_size, 2 * hidden_size), draw(hidden_size, 2 * hidden_size)
        self.gain, self.b = draw(2 * hidden_size), draw(2 * hidden_size)

    def step(self, x, h):
        a = x @ self.W + h @ self.U
        centred = a - a.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        z, n = tg.chunk(centred * (variance + 1e-5).rsqrt() * self.gain + self.b, 2, -1)
        z = tg.sigmoid(z)
        return z * h + (1 - z) * tg.tanh(n)


def results(cell, sizes, engine, reverse=False, wanted=None, start=None, given=True, values=None, **options):
    """Outputs, final states and the gradients of a random function of them all, by name.

    `wanted` says whether an input needs a gradient: a function of its name. `start` holds initial states that cannot be
    just any number, by name; `given` says whether initial states are given at all, rather than the cell's own. `values`
    hold for the sequence: their shapes without the batch, by name.
    `options` are those of a call. Kernels use memory again: of the arrays that a user holds they must change none, and
    nothing that a second backward pass reads.
    """
    T, B, I = sizes
    random = np.random.default_rng(1)
    wanted = wanted or (lambda name: True)
    make = lambda name, *shape: tg.tensor(random.uniform(-1, 1, shape), requires_grad=wanted(name))
    x = make("x", T, B, I)
    states = tuple(make(n, *s.shape) for n, s in zip(cell.state_names, cell.begin(None, B)))
    for name, state in zip(cell.state_names, states):
        if name in (start or {}):
            state.numpy()[...] = start[name]
    parameters = dict(cell.named_parameters())
    for name, p in parameters.items():
        p.requires_grad_(wanted(name))
    by_keyword = {name: make(name, B, *shape) for name, shape in (values or {}).items()}
    untouched = [(v, v.numpy().copy()) for v in (x, *states, *by_keyword.values(), *parameters.values())]
    layer, start = tg.nn.Recurrent(cell, reverse=reverse, fused=engine), states if given else None
    by_name = lambda y, final: dict(
        zip(["y", *(f"final {n}" for n in cell.state_names)], [y, *(final if isinstance(final, tuple) else [final])])
    )
    tg.manual_seed(4)  # masks
    y, final, *every = layer(x, start, **options, **by_keyword)
    found = by_name(y, final)
    if engine != "never":
        with tg.no_grad():  # another kernel
            tg.manual_seed(4)
            alone = by_name(*layer(x, start, lengths=options.get("lengths"), **by_keyword))
        assert_close({n: v.numpy() for n, v in alone.items()}, {n: v.numpy() for n, v in found.items()})
    for values in every:
        found |= {f"every {n}": v for n, v in zip(cell.state_names, values)}
    weights = np.random.default_rng(2)
    loss = sum((v * weights.uniform(-1, 1, v.shape)).sum() for v in found.values())
    inputs = {"x": x, **dict(zip(cell.state_names, states if given else ())), **by_keyword, **parameters}
    inputs = {name: v for name, v in inputs.items() if wanted(name)}
    gradients = [None] * len(inputs)
    if inputs and loss.requires_grad:
        untouched += [(v, v.numpy().copy()) for v in found.values()]
        gradients = tg.grad(loss, list(inputs.values()), allow_unused=True, retain_graph=engine != "never")
        if engine != "never":
            untouched += [(g, g.numpy().copy()) for g in gradients if g is not None]
            again = tg.grad(loss, list(inputs.values()), allow_unused=True)
            assert [g is None for g in again] == [g is None for g in gradients]
            for first, second in zip(gradients, again):
                if first is not None:
                    np.testing.assert_array_equal(second.numpy(), first.numpy())
    for (name, v), g in zip(inputs.items(), gradients):
        found[f"d{name}"] = np.zeros(v.shape) if g is None else g.numpy()
    for tensor, before in untouched:
        np.testing.assert_array_equal(tensor.numpy(), before)
    return {name: v.numpy() if isinstance(v, tg.Tensor) else v for name, v in found.items()}


def assert_close(found, expected, tolerance=1e-12):
    """Equal to `tolerance` of the largest entry, name by name."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale = np.max(np.abs(value), initial=0) if np.isfinite(value).all() else 1.0
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * max(scale, 1e-3), err_msg=name)


def assert_engines_agree(cell, sizes, reverse=False, wanted=None, tolerance=1e-12, start=None, **options):
    fused = results(cell, sizes, "require", reverse, wanted, start, **options)
    assert_close(fused, results(cell, sizes, "never", reverse, wanted, start, **options), tolerance)


# ---- Generated source, run by Python ---------------------------------------------------------------------------------


def _multiply(a, b, c, rows, columns, depth, accumulate):
    """What `kernels.matmul.multiply` does, with panels or the plain matrix."""
    assert rows > 0, "a driver multiplies the rows of sequences that have ended"
    b = b.transpose(1, 0, 2).reshape(b.shape[1], -1) if b.ndim == 3 else b
    product = a[:rows, :depth] @ b[:depth, :columns]
    c[:rows, :columns] = c[:rows, :columns] + product if accumulate else product


def _copy(a, c, rows, columns):
    """What `kernels.matmul.copy` does."""
    if rows:  # else c may have no columns either
        c[:rows, :columns] = a[:rows, :columns]


def _product(a, b, c, rows, columns, depth, accumulate, room, threads):
    """What `kernels.matmul.product` does."""
    product = a[:rows, :depth] @ b[:depth, :columns]
    c[:rows, :columns] = c[:rows, :columns] + product if accumulate else product


def _carve(arena, shapes):
    """What `kernels.arena.carve` does; an arena that is too small is not."""
    found, place = [], -arena.ctypes.data % 64 // arena.itemsize
    for shape in shapes:
        end = place + math.prod(shape)
        assert end <= len(arena), "an arena is too small"
        found.append(arena[place:end].reshape(shape))
        place += arenas.spaced_by(math.prod(shape))
    return found


def _clear(array):
    """What `kernels.arena.clear` does."""
    array[...] = 0


def _fill_panels(b, panels, depth, columns):
    """What `kernels.matmul.fill_panels` does."""
    width = panels.shape[2]
    for panel, first in zip(panels, range(0, columns, width)):
        panel[:depth, : min(width, columns - first)] = b[:depth, first : min(first + width, columns)]


def _sum_rows(a, y, first, rows, columns):
    """What `kernels.matmul.sum_rows` does."""
    y[first : first + columns] = a[:rows, :columns].sum(0)


STAND_INS = {
    "CACHE": False,
    "kernel": lambda **options: lambda function: function,
    "row_function": lambda *flags: lambda function: function,
    "ROW_BYTES": ROW_BYTES,
    "carve": _carve,
    "clear": _clear,
    "rows_of": lambda array: array.reshape(-1, array.shape[2]),
    "multiply": _multiply,
    "product": _product,
    "sum_rows": _sum_rows,
    "fill_panels": _fill_panels,
    "copy": _copy,
    "share": lambda ranges, stages: False,
}
ROOMS = r"tinygrad_rnn\.kernels\.(arena|matmul|outline|sharing|vector)"
REPLACED = re.compile(rf"^from ({ROOMS}) import .*$", flags=re.MULTILINE)


def _interpreted(self, direction, arguments):
    names = dict(STAND_INS)
    exec(REPLACED.sub("", self.sources[direction]), names)
    function = names["backward" if direction == "backward" else "forward"]

    def kernel(*arguments):
        with np.errstate(all="ignore"):
            function(*arguments)

    return kernel


def interpret(monkeypatch):
    """Run what is generated from now on as the Python it is: thousands of kernels without compiling one."""
    monkeypatch.setattr(scan.Scan, "kernel", _interpreted)
