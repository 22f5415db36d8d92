"""Tensors that take the places of others: kernels read them, and are no others as long as only numbers differ."""

import random
import types

import numpy as np
import pytest
from fusion.comparing import interpret, parameter

import tinygrad_rnn as tg
from tinygrad_rnn.fusion.compile import Variants

I, H, T, B = 3, 4, 3, 2
F64 = {"dtype": np.float64}


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def both(layer, *wanted):
    """The results and gradients of both engines, which agree; returns the compiled cell."""
    x = tg.tensor(np.random.default_rng(0).uniform(-1, 1, (T, B, layer.cell.input_size)))
    engine, found = layer.fused, []
    for layer.fused in "require", "never":
        y, h = layer(x)
        dys = tg.grad((y * y).sum() + h.sum(), wanted, allow_unused=True, retain_graph=True)
        found.append([y.numpy(), *(np.zeros(w.shape) if d is None else d.numpy() for w, d in zip(wanted, dys))])
    layer.fused = engine
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    return layer._last_fused()


class Made(tg.nn.Cell):
    """Its weights are made by another network."""

    input_size, hidden_size = I, H
    W: tg.Tensor

    def __init__(self):
        self.U = parameter(H, H)

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U)


def test_weights_that_another_network_makes():
    layer, maker, kernels = tg.nn.Recurrent(Made()), tg.nn.Linear(2, I * H, **F64), set()
    for _ in range(20):  # in memory that others leave behind
        layer.cell.W = maker(tg.randn(2, **F64)).reshape(I, H)
        kernels.add(both(layer, layer.cell.W, maker.weight, layer.cell.U))
    assert len(kernels) == 1
    with tg.no_grad():
        layer.cell.W = maker(tg.randn(2, **F64)).reshape(I, H)
    assert both(layer, layer.cell.U) in kernels
    layer.cell.W = tg.nn.Parameter(np.ones((I, H)))  # of another class, which has attributes of its own
    assert both(layer, layer.cell.W) not in kernels


def test_another_form_is_another_step():
    class Wide(Made):
        def step(self, x, h):
            return tg.tanh(x @ self.W.reshape(I, -1)[:, :H] + h @ self.U) * len(self.W)

    layer, kernels = tg.nn.Recurrent(Wide()), []
    for shape in ((I, H), (I, H + 1), (I * H,), (I, H)):
        layer.cell.W = tg.randn(*shape, **F64).requires_grad_()
        kernels.append(both(layer, layer.cell.W))
    assert len(set(kernels)) == 3 and kernels[0] is kernels[3]
    layer.cell.W = layer.cell.W.detach().to(np.float32)
    assert both(layer) not in kernels


def test_numbers_that_python_read_are_another_step():
    """Of a tensor that lies where no trace looks for tensors, so that it cannot refuse to show them."""

    class Reads(tg.nn.Cell):
        input_size = hidden_size = H

        def __init__(self):
            self.U, self.box = parameter(H, H), types.SimpleNamespace(x=tg.ones(H, **F64))

        def step(self, x, h):
            return tg.tanh(h @ self.U + x * self.box.x.data)

    layer = tg.nn.Recurrent(Reads())
    for factor in range(4):
        layer.cell.box.x = tg.full((H,), 1.0 + factor, **F64)
        both(layer)


def test_parameters_of_layers():
    layer, kernels = tg.nn.LSTM(I, H, **F64), set()
    for _ in range(3):
        layer.weight_hh_l0 = tg.nn.Parameter(tg.randn(4 * H, H, **F64))
        y, _ = layer(tg.ones(T, B, I, **F64))
        expected = tg.nn.LSTM(I, H, **F64)
        expected.load_state_dict(layer.state_dict())
        np.testing.assert_array_equal(y.numpy(), expected(tg.ones(T, B, I, **F64))[0].numpy())
        kernels |= {each.fused for each in Variants.of(layer.cells[0]).compiled.popitem()[1]}
    assert len(kernels) <= 3


def test_what_holds_for_a_sequence_is_made_of_another_tensor():
    class Given(Made):
        def sequence_values(self, batch_size):
            return {"W": (self.z @ self.V).reshape(I, H)}

    cell = Given()
    cell.V = parameter(2, I * H)
    layer, kernels = tg.nn.Recurrent(cell), set()
    for _ in range(4):
        cell.z = tg.randn(2, **F64).requires_grad_()
        kernels.add(both(layer, cell.z, cell.V))
    assert len(kernels) == 1


class Slots(tg.nn.Cell):
    """Tensors in many places, some of them maybe the same, which makes a difference."""

    input_size = hidden_size = H

    def __init__(self):
        self.a, self.b, self.c, self.d, self.e, self.f = (parameter(H) for _ in range(6))
        self.pair, self.list, self.names = (self.c, self.d), [self.d, self.e], {"e": self.e}

    def step(self, x, h):
        h = h * self.a + x * self.b + self.pair[0] * self.list[0] - self.names["e"] * self.f
        h = h + 0.1 if self.a is self.b else h
        h = h + 0.2 if self.c is self.pair[1] else h
        h = h * 0.7 if self.f is self.list[1] or self.e is self.list[1] else h
        return tg.tanh(h * 0.3 + (0.3 if any(x is self.names["e"] for x in self.pair) else 0))


@pytest.mark.parametrize("seed", range(3))
def test_tensors_that_are_moved_about(seed):
    """New ones, and those that lie elsewhere already, in places of their own and in containers."""
    drawn, cell = random.Random(seed), Slots()
    layer, pool = tg.nn.Recurrent(cell), [*cell.parameters()]
    for _ in range(40):
        for _ in range(drawn.choice([1, 1, 1, 2])):
            made = parameter(H) if drawn.random() < 0.5 else drawn.choice(pool)
            place = drawn.choice(["a", "a", "b", "c", "d", "e", "f", "pair", "list", "names"])
            if place == "pair":
                cell.pair = (made, cell.pair[0])
            elif place == "list":
                cell.list[drawn.randrange(2)] = made
            elif place == "names":
                cell.names["e"] = made
            else:
                setattr(cell, place, made)
            pool = [*pool[-5:], made]
        wanted = {id(w): w for w in (cell.a, cell.b, *cell.pair, *cell.list, cell.names["e"], cell.f)}
        both(layer, *wanted.values())


def test_who_looks_at_a_compiled_cell_finds_the_tensor_that_is_there():
    cell = tg.nn.RNNCell(I, H, **F64)
    layer = tg.nn.Recurrent(cell, fused="require")
    for _ in range(3):
        cell.weight_hh = tg.nn.Parameter(tg.randn(H, H, **F64) * 0.3)
        with tg.record(layer) as r:
            y, _ = layer(tg.randn(T, B, I, **F64))
        y.square().sum().backward()
        penalty = tg.optim.omega_penalty(r, layer)
        (found,) = tg.grad(penalty, [cell.weight_hh])
        assert np.abs(found.numpy()).max() > 0
        boxes = [box for box in tg.study.graph(layer).boxes if box.label == "weight_hh"]
        np.testing.assert_array_equal(boxes[0].value, cell.weight_hh.numpy())
