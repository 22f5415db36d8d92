"""A number that the step reads, and that changes between calls, is an argument of its kernels."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret, parameter, results
from tinygrad_rnn.kernels import cache

H = 4


class Leaky(tg.nn.Cell):
    """Numbers that it holds, that it computes of these, and that stand in its code."""

    input_size = hidden_size = H

    def __init__(self):
        self.U, self.rate, self.scale = parameter(H, H), *VALUES[0]

    def step(self, x, h):
        return (1 - self.rate) * h + self.rate * tg.tanh(x + 0.5 * (h @ self.U)) * self.scale


VALUES = [tuple(map(float, each.split())) for each in ("0.25 0.5", "0.5 0.75", "0.5 0.25", "1 2", "0 3", "-0 -1.5")]


def test_another_number_needs_no_other_machine_code(monkeypatch):
    loaded = []
    load = cache.load
    monkeypatch.setattr(cache, "load", lambda source, *rest: loaded.append(source) or load(source, *rest))
    layer, x = tg.nn.Recurrent(Leaky(), fused="require"), tg.randn(3, 2, H, dtype=np.float64)
    for layer.cell.rate, layer.cell.scale in VALUES:
        layer(x)[0].sum().backward()
    kernels = {source for source in loaded if source.startswith('"""Leaky')}
    assert len(kernels) == 2, "one forward and one backward"
    assert "real(rate)" in layer.source("forward") and "real(scale)" in layer.source("forward")
    assert "real(0.5)" in layer.source("forward")  # which stands in the code


@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_are_those_of_the_call(compiled, monkeypatch):
    if not compiled:
        interpret(monkeypatch)
    cell = Leaky()
    for cell.rate, cell.scale in VALUES:
        found, expected = (results(cell, (3, 2, H), engine) for engine in ("require", "never"))
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_numbers_that_decide_make_another_kernel():
    class Deciding(Leaky):
        def step(self, x, h):
            return tg.tanh(x * self.rate + h) if self.rate > 0.3 else tg.sigmoid(x * self.rate - h)

    layer, x = tg.nn.Recurrent(Deciding(), fused="require"), tg.randn(3, 2, H, dtype=np.float64)
    for layer.cell.rate in (0.1, 0.2, 0.4, 0.5, 0.1):
        expected, _ = tg.nn.Recurrent(layer.cell, fused="never")(x)
        np.testing.assert_allclose(layer(x)[0].numpy(), expected.numpy(), rtol=0, atol=1e-12)


def test_a_gradient_that_nothing_arrives_at_is_zero(monkeypatch):
    """Of what the tape computes before the loop, which kernels read and detach."""

    class Detached(tg.nn.Cell):
        input_size = hidden_size = H

        def step(self, x, h):
            return tg.tanh(h + x * tg.softmax(x, -1).detach())

    interpret(monkeypatch)
    for _ in range(3):  # whatever lies in memory
        found, expected = (results(Detached(), (3, 2, H), engine) for engine in ("require", "never"))
        np.testing.assert_allclose(found["dx"], expected["dx"], rtol=0, atol=1e-12)
