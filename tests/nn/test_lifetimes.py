"""Cells are told apart by identity, go when nobody wants them, and take their kernels along."""

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
from fusion.comparing import interpret

import tinygrad_rnn as tg
from tinygrad_rnn.fusion.compile import Variants


def parameter(*shape):
    return tg.nn.Parameter(tg.randn(*shape) * 0.5)


class Plain(tg.nn.Cell):
    def __init__(self):
        self.input_size = self.hidden_size = 3
        self.U = parameter(3, 3)
        self.prepare()

    def prepare(self):
        """What leads back to the cell."""

    def act(self, x):
        return tg.tanh(x)

    def step(self, x, h):
        return self.act(x + h @ self.U)


class BoundMethod(Plain):
    def prepare(self):
        self.squash = self.act

    def step(self, x, h):
        return self.squash(x + h @ self.U)


class Parent(Plain):
    def prepare(self):
        self.child = tg.nn.Linear(3, 3)
        self.child.parents = [self]

    def step(self, x, h):
        return tg.tanh(self.child.parents[0].child(h) + x)


class Closure(Plain):
    def prepare(self):
        self.product = lambda h: h @ self.U

    def step(self, x, h):
        return tg.tanh(x + self.product(h))


class Options(Plain):
    def prepare(self):
        self.options = {"cell": self, "scale": 0.5}

    def step(self, x, h):
        return tg.tanh(x + self.options["cell"].options["scale"] * h @ self.U)


class Refused(Plain):
    def prepare(self):
        self.me = [self]

    def step(self, x, h):
        return self.me[0].act(x + h @ self.U * float(h.sum()))


class Layer(Plain):
    """A cell that knows the layer that runs it."""

    def prepare(self):
        self.layer = [tg.nn.Recurrent(self)]

    def step(self, x, h):
        return tg.tanh(x + h @ self.layer[0].cell.U)


def defined_here():
    """A cell of which the class goes too: its step closes over the cell."""

    class Here(Plain):
        def step(self, x, h):
            return tg.tanh(x + h @ cell.U)

    cell = Here()
    return cell


CELLS = [Plain, BoundMethod, Parent, Closure, Options, Refused, Layer, defined_here, lambda: tg.nn.LSTMCell(3, 3)]
WRAPPERS = {
    "nothing": tg.nn.Recurrent,
    "Zoneout": lambda cell: tg.nn.Recurrent(tg.nn.Zoneout(cell, 0.1)),
    "VariationalDropout": lambda cell: tg.nn.Recurrent(tg.nn.VariationalDropout(cell, input=0.1, state=0.1)),
    "LearnedInitialState": lambda cell: tg.nn.Recurrent(tg.nn.LearnedInitialState(cell)),
    "WeightDrop": lambda cell: tg.nn.Recurrent(tg.nn.WeightDrop(cell, 0.1, next(iter(dict(cell.named_parameters()))))),
    "Stack": lambda cell: tg.nn.Stack([cell]),
}


@pytest.mark.filterwarnings("ignore:.*runs on the tape", "ignore:WeightDrop", "ignore:VariationalDropout")
@pytest.mark.parametrize(
    ("make", "wrapper", "compiled"),
    [(make, wrapper, False) for make in CELLS for wrapper in WRAPPERS]
    + [
        pytest.param(BoundMethod, wrapper, True, marks=() if wrapper in ("nothing", "Zoneout") else pytest.mark.slow)
        for wrapper in WRAPPERS
    ],
)
def test_a_cell_goes_and_takes_its_kernels_along(make, wrapper, compiled, monkeypatch):
    """Compiled for one cell, whose machine code holds what that of others does; the rest is run by Python."""
    if not compiled:
        interpret(monkeypatch)
        monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")  # what is interpreted is exact in float64 alone

    def use():
        cell = make()
        layer = WRAPPERS[wrapper](cell)
        for no_grad in (False, True):
            for _ in range(2):
                y = (tg.no_grad()(layer) if no_grad else layer)(tg.randn(2, 1, 3))[0]
                if not no_grad:
                    y.sum().backward()
        fused = [
            compiled.fused
            for module in layer.modules()
            if isinstance(module, tg.nn.Cell)
            for variants in Variants.of(module).compiled.values()
            for compiled in variants
        ]
        assert any(fused) or make is Refused
        kind = type(cell) if make is defined_here else cell
        return [weakref.ref(each) for each in (cell, layer, kind, *fused) if each]

    gc.freeze()  # whatever else the process has needs not be looked through each time
    try:
        left = use()
        gc.collect()
    finally:
        gc.unfreeze()
    assert not any(each() for each in left)


@pytest.mark.parametrize(
    "kind", [tg.nn.RNN, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (tg.nn.LSTM, tg.nn.GRU))]
)
def test_a_stack_goes(kind):
    layer = kind(3, 4, num_layers=2, bidirectional=True)
    layer(tg.randn(2, 1, 3))[0].sum().backward()
    left = [weakref.ref(each) for each in (layer, *layer.cells, *(c.fused for c in kernels_of(layer.cells[0])))]
    del layer
    gc.collect()
    assert not any(each() for each in left)


def kernels_of(cell):
    return [compiled for variants in Variants.of(cell).compiled.values() for compiled in variants]


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda cell: pickle.loads(pickle.dumps(cell))])
@pytest.mark.parametrize("kind", [Plain, BoundMethod, Parent, Options])
def test_copies_have_kernels_of_their_own(kind, copied):
    cell, x = kind(), tg.randn(3, 1, 3)
    before = tg.nn.Recurrent(cell, fused="require")(x)[0].numpy()
    twin = copied(cell)
    twin.U = tg.nn.Parameter(twin.U.data * 2)
    for p in twin.parameters():
        p.data = p.data * 2
    if copied is copy.copy:
        for p in cell.parameters():
            p.data = p.data / 2 if any(p is q for q in twin.parameters()) else p.data
    for each in (cell, twin):
        fast, slow = (tg.nn.Recurrent(each, fused=fused)(x)[0].numpy() for fused in ("require", "never"))
        np.testing.assert_allclose(fast, slow, atol=1e-6)
    assert Variants.of(twin) is not Variants.of(cell)
    assert np.array_equal(tg.nn.Recurrent(cell, fused="require")(x)[0].numpy(), before) or copied is copy.copy


def test_nothing_of_it_is_saved(tmp_path):
    cell = Plain()
    names, size = list(cell.state_dict()), len(pickle.dumps(cell))
    tg.nn.Recurrent(cell)(tg.randn(2, 1, 3))
    assert list(cell.state_dict()) == names and len(pickle.dumps(cell)) < size + 200
    assert [name for name, _ in cell.named_parameters()] == ["U"] and "compiled" not in repr(cell)


@dataclass(unsafe_hash=True)
class Equal(tg.nn.Cell):
    hidden_size: int = 3
    U: tg.nn.Parameter = field(default_factory=lambda: parameter(3, 3), compare=False)

    def sequence_values(self, batch_size):
        return {"gain": tg.ones(batch_size, 3) * float(self.U.data[0, 0])}

    def step(self, x, h):
        return tg.tanh(x + h @ self.U * self.gain)


@dataclass
class Unhashable(Equal):
    pass


@dataclass
class UnhashableAndRefused(Equal):
    def step(self, x, h):
        return tg.tanh(x + h @ self.U * float(h.sum()))


@pytest.mark.filterwarnings("ignore:.*runs on the tape")
@pytest.mark.parametrize("wrapper", [tg.nn.Zoneout, tg.nn.LearnedInitialState, lambda cell: cell])
@pytest.mark.parametrize("kind", [Equal, Unhashable, UnhashableAndRefused])
def test_cells_that_compare_equal_have_their_own_weights(kind, wrapper):
    x = tg.randn(4, 2, 3)
    cells = [kind(), kind()]
    assert cells[0] == cells[1]
    for cell in cells:
        wrapped = wrapper(cell).eval()
        fast = tg.nn.Recurrent(wrapped)(x)[0].numpy()
        np.testing.assert_allclose(fast, tg.nn.Recurrent(wrapped, fused="never")(x)[0].numpy(), atol=1e-6)
    with tg.record(layer := tg.nn.Recurrent(cells[0])) as r:
        layer(x)
    assert "h" in r


def test_each_equal_cell_is_told_of_for_itself():
    for _ in range(2):
        with pytest.warns(UserWarning, match="runs on the tape"):
            tg.nn.Recurrent(UnhashableAndRefused())(tg.randn(2, 1, 3))


# ---- What is lent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.LSTM, tg.nn.GRU])
def test_a_cell_of_a_stack_sees_what_is_set_on_the_stack(kind, when):
    layer = kind(3, 4, num_layers=2, bidirectional=True)
    cells = layer.cells if when == "before" else None
    layer.weight_hh_l1_reverse = new = tg.nn.Parameter(tg.randn(*layer.weight_hh_l1_reverse.shape))
    layer.eval().double()
    if kind is not tg.nn.RNN:
        layer.recurrent_dropout = 0.25
    for each in (cells or layer.cells, [scan.cell for scan in layer.scans] if cells is None else cells):
        assert each[3].weight_hh is new and each[3].weight_hh.dtype == np.float64
        assert not any(cell.training for cell in each)
        assert kind is tg.nn.RNN or all(cell.recurrent_dropout == 0.25 for cell in each)
    states = layer.cells[0](tg.randn(2, 3, dtype=np.float64))
    assert (states[0] if isinstance(states, tuple) else states).dtype == np.float64
