"""A step that does not do the same each time it runs, or writes to what it reads, is refused and leaves no trace."""

import itertools
import random
import time

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret, parameter
from fusion.sweeping import H, I, cell, refusal, run
from tinygrad_rnn.fusion.again import compare
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.fusion.sequence import Sequence


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def step(of):
    """A step that adds something to an ordinary one: of(cell, x, h)."""
    return lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + of(self, x, h))


count = itertools.count()
DRAWS = "draws random numbers from", "write tg.rand(h.shape)"
COUNTS = "draws from count, which gives something else each time", "pass what it gives as an input"
NUMBER = "computes with another number each time", "let what counts or changes be a state"
ANEW = {
    "a constant of NumPy's": (lambda self, x, h: h * np.random.rand(H), DRAWS),  # noqa: NPY002
    "a number of Python's": (lambda self, x, h: h * random.random(), DRAWS),
    "the time": (lambda self, x, h: h * (time.perf_counter() % 1), NUMBER),
    "an array of the time": (lambda self, x, h: h * np.full(H, time.perf_counter() % 1), ("another constant", "state")),
    "a count": (lambda self, x, h: h * (next(count) * 1e-3), COUNTS),
    "a count that it branches on": (lambda self, x, h: h if next(count) % 2 else tg.tanh(h), COUNTS),
    "a count of operations": (lambda self, x, h: sum(h * 0.1 for _ in range(1 + next(count) % 2)), COUNTS),
    "a generator of the cell": (lambda self, x, h: h * self.generator.random(), DRAWS),
    "an array of the cell's generator": (lambda self, x, h: h * self.generator.random(H), DRAWS),
}


@pytest.mark.parametrize(("of", "fragments"), ANEW.values(), ids=ANEW)
def test_another_value_each_time_is_refused(of, fragments):
    reason = run(step(of), "auto", generator=np.random.default_rng(0))[1]
    assert all(fragment in reason for fragment in fragments) and "test_same_each_time.py" in reason


@pytest.mark.parametrize("own", ["seed", "state", "generator"])
def test_the_generator_of_this_library_is_refused(own):
    def seeded(self, x, h):
        if own == "seed":
            tg.manual_seed(0)
        elif own == "state":
            tg.set_rng_state(self.start)
        else:
            tg.generator().random()
        return h * tg.rand(h.shape, dtype=np.float64)

    assert "past rand" in refusal(step(seeded), start=tg.get_rng_state())


def test_a_trace_leaves_generators_as_they_were():
    """So that the tape, which runs instead, draws what it would have drawn."""
    of = lambda self, x, h: h * (np.random.rand() + random.random() + self.generator.random())  # noqa: NPY002
    results = []
    for fused in ("auto", "never"):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        results.append(run(step(of), fused, generator=np.random.default_rng(1))[0])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_an_array_that_a_step_writes_to():
    def writes(self, x, h):
        self.k[0] += 1
        return h * self.k

    reason = refusal(step(writes), k=np.ones(H))
    assert "step changes self.k" in reason and "as a state" in reason
    made = cell(step(writes), k=np.ones(H))
    with pytest.raises(NotImplementedError, match="changes self"):
        tg.nn.Recurrent(made, fused="require")(tg.zeros(2, 1, I, dtype=np.float64))
    assert made.k[0] == 2  # of the one step that the tape was asked for


# ---- Equality --------------------------------------------------------------------------------------------------------


def test_index_arrays_that_print_alike():
    first = np.arange(1200)
    second = first.copy()
    second[500:600] = second[500:600][::-1]
    of = lambda self, x, h: (x @ self.Wide * self.g[first] + self.g[second] * 0.5) @ self.Back
    held = {"Wide": parameter(I, 1200), "g": parameter(1200), "Back": parameter(1200, H, scale=0.01)}
    assert refusal(step(of), **held) == ""


NUMBERS = {
    "zeros of both signs": lambda self, x, h: (
        tg.where(1 / (h * h * 0.0 + 0.0) > 0, h, 1) + tg.where(1 / (-(h * h) * 0.0 + -0.0) > 0, h, 2)
    ),
    "one in three types": lambda self, x, h: h * True + h * 1 + h * 1.0,
    "infinities": lambda self, x, h: tg.minimum(h, np.inf) + tg.maximum(h, -np.inf),
    "not a number": lambda self, x, h: tg.where(h > np.nan, h, x @ self.W),
    "whole numbers of NumPy's": lambda self, x, h: h[:, np.int64(0) : np.int8(2)] @ self.U[:2] + h[:, :2] @ self.U[2:],
    "arrays that are equal": lambda self, x, h: h * np.array([1.0, 0, 1, 0]) + x @ self.W * np.array([1.0, 0, 1, 0]),
    "arrays of equal bytes": lambda self, x, h: h * np.zeros(H) + h * np.zeros(H, np.int64),
    "many that are gone at once": lambda self, x, h: sum(h * np.full(H, 0.1 * i) for i in range(20)),
}


@pytest.mark.parametrize("of", NUMBERS.values(), ids=NUMBERS)
def test_equal_is_what_is_the_same_bit_by_bit(of):
    assert refusal(step(of)) == ""


# ---- Gradients that are not linear in what arrives -------------------------------------------------------------------

CLIPPED = {
    "a weight": lambda self, x, h: h @ tg.clip_gradient(self.U, 0.02),
    "a weight of the input": lambda self, x, h: x @ tg.clip_gradient(self.W, 0.02),
    "a bias": lambda self, x, h: tg.clip_gradient(self.b, 0.02),
    "a function of parameters": lambda self, x, h: tg.clip_gradient(tg.tanh(self.b) * self.a, 0.02)[:H],
}
LINEAR = {
    "the input": lambda self, x, h: tg.clip_gradient(x, 0.02) @ self.W,
    "products of the input": lambda self, x, h: tg.clip_gradient(x @ self.W, 0.02) + tg.clip_gradient(x @ self.W, 0.3),
    "a sum of the input": lambda self, x, h: tg.clip_gradient(x.sum(-1, keepdim=True), 0.02) * h,
    "a number for each row of the input": lambda self, x, h: tg.clip_gradient(x.sum(-1), 0.02)[:, None] * h,
    "a state": lambda self, x, h: tg.clip_gradient(h, 0.02) @ self.U,
    "noise and all": lambda self, x, h: tg.clip_gradient(h * tg.rand(h.shape, dtype=np.float64), 0.02),
}


@pytest.mark.parametrize("of", CLIPPED.values(), ids=CLIPPED)
def test_clipping_what_is_the_same_at_every_step_is_refused(of):
    assert "the same at every step" in refusal(step(of))


@pytest.mark.parametrize("of", LINEAR.values(), ids=LINEAR)
def test_clipping_what_each_step_has(of):
    assert refusal(step(of)) == ""


def test_clipping_a_value_of_a_sequence_is_refused():
    class Masked(tg.nn.Cell):
        input_size, hidden_size = I, H

        def __init__(self):
            self.W, self.g = parameter(I, H), parameter(H)

        def sequence_values(self, batch_size):
            return {"mask": self.g.expand(batch_size, H)}

        def step(self, x, h):
            return tg.tanh(x @ self.W + h * tg.clip_gradient(self.mask, 0.02))

    with pytest.raises(NotImplementedError, match="the same at every step"):
        tg.nn.Recurrent(Masked(), fused="require")(tg.zeros(2, 2, I, dtype=np.float64))


def test_the_same_values_returned_in_another_order():
    """By the time, say: nothing else differs between two traces."""
    x, h = tg.zeros(2, 1, I), tg.zeros(1, H)
    traced = FusedCell(tg.nn.LSTMCell(I, H), Sequence(x, (h, h))).stages["trace"]
    compare(traced, traced)
    with pytest.raises(Unfusable, match="step does not return the same each time it runs"):
        compare(traced, traced._replace(outputs=traced.outputs[::-1]))
