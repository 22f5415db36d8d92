"""The compiler, broken on purpose: whatever is wrong in it, the comparison with the tape finds it.

Each mutation is a fault that somebody could write. Without validation it gives wrong numbers and no error; with it the
kernels are refused.
"""

import re
from unittest import mock

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import STAND_INS, interpret, parameter
from tinygrad_rnn.autograd import table
from tinygrad_rnn.autograd.tape import Value
from tinygrad_rnn.fusion import reuse, rows, scan, trace, transpose

H = 4


class Gates(tg.nn.Cell):
    """Products in the middle of a step and before it, parts, a vector, two states."""

    def __init__(self):
        self.input_size = self.hidden_size = H
        self.W, self.U, self.V = parameter(H, 3 * H), parameter(H, 2 * H), parameter(H, H)
        self.b, self.s = parameter(3 * H), parameter(H)

    def step(self, x, h, c):
        a_f, a_i, a_n = tg.chunk(x @ self.W + self.b, 3, -1)
        u_f, u_i = tg.chunk(h @ self.U, 2, -1)
        f, i = tg.sigmoid(a_f + u_f), tg.sigmoid(a_i + u_i)
        n = tg.tanh(a_n + (f * h) @ self.V)
        d = f * c - i * n
        o = tg.softplus(d * self.s)
        return o - tg.tanh(d), d


class Rows(tg.nn.Cell):
    """Sums and extremes of a row, a softmax, values of different widths side by side."""

    def __init__(self):
        self.input_size = self.hidden_size = H
        self.W, self.U, self.g = parameter(H, H), parameter(H, H), parameter(1)

    def step(self, x, h):
        a = x @ self.W + h @ self.U
        centred = a - a.mean(-1, keepdim=True)
        p = tg.softmax(centred, -1)
        top = tg.amax(a, -1, keepdim=True)
        both = tg.cat([p * h, x[:, 1:3] * self.g], -1)
        return tg.tanh(both[:, 1 : 1 + H] + top * 0.3 + centred.square().sum(-1, keepdim=True) * 0.1)


class Noisy(tg.nn.Cell):
    """A mask for each sequence, and random numbers at each step."""

    def __init__(self):
        self.input_size = self.hidden_size = H
        self.U = parameter(H, H)

    def sequence_values(self, batch_size):
        return {"mask": tg.rand(batch_size, H, dtype=np.float64) * tg.sigmoid(self.U[0])}

    def step(self, x, h):
        return tg.tanh(x + (h * self.mask) @ self.U) + 0.1 * tg.randn(h.shape, dtype=np.float64)


def Variant():
    """A gate on the way into a product."""
    return tg.nn.cells.GRUVariantCell(H, H).double()


# ---- How to break it -------------------------------------------------------------------------------------------------


def source(direction, pattern, replacement):
    """In the text of a kernel."""

    def apply(monkeypatch):
        real, hits = scan.module, []

        def module(title, text, bits, functions):
            if direction in title:
                text, count = re.subn(pattern, replacement, text)
                hits.append(count)
            return real(title, text, bits, functions)

        monkeypatch.setattr(scan, "module", module)
        return lambda: sum(hits)

    return apply


def function(owner, name, make):
    """In a function of the compiler: `make` is given the right one."""

    def apply(monkeypatch):
        real, hits = getattr(owner, name), []

        def wrong(*args, **kwargs):
            hits.append(1)
            return make(real)(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrong)
        return lambda: len(hits)

    return apply


def stand_in(name, make):
    """In a function that kernels call: `make` is given the right one."""

    def apply(monkeypatch):
        real, hits = STAND_INS[name], []

        def wrong(*args):
            hits.append(1)
            return make(real)(*args)

        monkeypatch.setitem(STAND_INS, name, wrong)
        return lambda: len(hits)

    return apply


def product(change):
    """In the packed product of the loop: `change` is given its arguments."""
    return stand_in("multiply", lambda real: lambda *args: real(*change(*args)))


def _swapped(real):
    """Of a subtraction the operands."""

    def record(self, row, inputs, attributes):
        return real(self, row, inputs[::-1] if row is table.sub else inputs, attributes)

    return record


def _merged(real):
    """Lines of one row and one shape are taken for the same."""

    def add(self, row, inputs, attributes, shape):
        known = self.__dict__.setdefault("merged", {})
        if row is table.sigmoid:
            return known.setdefault((row.name, shape), real(self, row, inputs, attributes, shape))
        return real(self, row, inputs, attributes, shape)

    return add


def _late(real):
    """A part begins one column too far to the right, where there is one."""

    def columns(x, at):
        first, last = real(x, at)
        return (first + 1, last + 1) if 0 < first and last < x.shape[-1] else (first, last)

    return columns


def _from_the_other_end(real):
    return lambda self, x: real(self, x[::-1] if isinstance(x, np.ndarray) else x.flip(0))


def _of_another_step(real):
    return lambda self, x: np.roll(real(self, x), self.B, 0)


def _always(answer):
    return lambda real: lambda *args: answer


def _overwriting(real):
    return lambda self, x, before, dx: real(self, x, None, dx)


def _untransposed(real):
    return lambda b, target, *counts: real(b.T if b.shape[0] == b.shape[1] else b, target, *counts)


def _frozen(real):
    """A vector of parameters is read once, when the step is traced."""

    def value_of(self, x):
        if isinstance(x, tg.nn.Parameter) and x.ndim == 1:
            return real(self, self.__dict__.setdefault("frozen", {}).setdefault(id(x), Value.data.__get__(x).copy()))
        return real(self, x)

    return value_of


MUTATIONS = {
    # The emitter: maths.
    "a term is dropped": (Gates, source("forward", r"a_n \+ \w+\[j\]", "a_n")),
    "a gate has another name's value": (Gates, source("forward", r"d = f\[j\] \*", "d = i[j] *")),
    "operands are swapped": (Gates, source("forward", r"h_new = (\w+) - (tanh\(\w+\))", r"h_new = \2 - \1")),
    "a sign is lost": (Gates, source("backward", r"-(d\w+)", r"\1")),
    "what comes from the next step is lost": (Gates, source("backward", r"dy\[j\] \+ dh\[j\]", "dy[j]")),
    "what comes from outside is lost": (Gates, source("backward", r"dy\[j\] \+ dh\[j\]", "dh[j]")),
    "a slope is that of something else": (Gates, source("backward", r"real\(1\) - n\w*(\[j\])? \* n", "real(1) - n")),
    "a sum starts at one": (Rows, source("forward", r"= real\(0\)\n", "= real(1)\n")),
    "a sum has one term too few": (Rows, source("forward", r"range\(H\)", "range(H - 1)")),
    "the largest is the smallest": (Rows, source("forward", r"> top_ or", "< top_ or")),
    # The emitter: places.
    "a column too far": (Rows, source("forward", r"x_in\[now \+ row, 1:", "x_in[now + row, 2:")),
    "a vector is read from its beginning": (Gates, source("forward", r"\bb\[2 \* H:\]", "b[:]")),
    "the new state is read for the old one": (Gates, source("forward", r"c\[old \+ row", "c[new + row")),
    "a gradient is that of two steps ago": (Gates, source("backward", r"\(t \+ 1\) % keep", "t % keep")),
    "a sum over time is its last term": (Gates, source("backward", r"(_sum\[j\]) \+= ", r"\1 = ")),
    "the first step is left out": (Gates, source("backward", r"last - 1, first - 1, -1", "last - 1, first, -1")),
    "a product replaces what it should add to": (Gates, source("backward", r"H, True\)", "H, False)")),
    # Around the loop.
    "the first state is nothing": (Gates, source("forward", r"copy\(h_first, .*\n", "clear(h)\n")),
    "the last state is the first": (Gates, source("forward", r"copy\(c\[starts\[t\] \+", "copy(c[0 +")),
    "weights meet the state after the step": (Gates, source("backward", r"h_before = h ", "h_before = h[B:] ")),
    "a gradient is a part of another one": (Gates, source("backward", r"(sum\[:, )2 \* H:\], db", r"\1:], db")),
    "a gradient of a sequence is that of a step": (Noisy, source("backward", r"(_sum\[j\]) \+=", r"\1 =")),
    "weights are packed untransposed": (Gates, stand_in("fill_panels", _untransposed)),
    "a sum over time starts at one": (Gates, source("backward", r"clear\((\w+)\)", r"\1[...] = 1")),
    "random numbers are those of another step": (Noisy, function(rows.Rows, "drawn", _of_another_step)),
    "sequences are read from the wrong end": (Gates, function(rows.Rows, "gathered", _from_the_other_end)),
    # The products.
    "a product has one term too few": (Gates, product(lambda a, b, c, m, n, k, add: (a, b, c, m, n, k - 1, add))),
    "a product has one row too few": (Gates, product(lambda a, b, c, m, n, k, add: (a, b, c, m - 1, n, k, add))),
    "a product has one column too few": (Gates, product(lambda a, b, c, m, n, k, add: (a, b, c, m, n - 1, k, add))),
    # The tracer.
    "the tracer swaps operands": (Gates, function(trace.Trace, "record", _swapped)),
    "the tracer takes two lines for one": (Gates, function(trace.Trace, "add", _merged)),
    "the tracer freezes a parameter": (Gates, function(trace.Trace, "value_of", _frozen)),
    # The gradient.
    "one of several gradients is kept": (Gates, function(transpose.Adjoint, "add_up", _overwriting)),
    # The planner.
    "what is kept lies where something is still read": (Variant, function(reuse, "_order", _always((0, 0, 0)))),
    "gradients lie where something is still read": (Variant, function(reuse, "_may_take", _always(True))),
}


def _train(cell, fused, lengths=None):
    """Values and gradients after a call."""
    tg.manual_seed(0)
    random = np.random.default_rng(0)
    layer = tg.nn.Recurrent(cell, fused=fused)
    x = tg.tensor(random.standard_normal((5, 3, H)), requires_grad=True)
    states = tuple(tg.tensor(random.standard_normal((3, H))) for _ in cell.state_names)
    y, final = layer(x, states if len(states) > 1 else states[0], lengths=lengths)
    finals = final if isinstance(final, tuple) else (final,)
    loss = sum((v * random.standard_normal(v.shape)).sum() for v in (y, *finals))
    parameters = list(cell.parameters())
    return [v.numpy() for v in (y, *finals, *_gradients(loss, [x, *parameters]))]


def _gradients(loss, inputs):
    found = tg.grad(loss, inputs, allow_unused=True)
    return [tg.zeros_like(x) if dx is None else dx for x, dx in zip(inputs, found)]


def _apart(found, expected):
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected))


@pytest.mark.parametrize("name", MUTATIONS)
def test_validation_finds(name, monkeypatch):
    make, mutate = MUTATIONS[name]
    tg.manual_seed(1)
    cell = make()
    interpret(monkeypatch)
    expected = _train(cell, "never")
    assert _apart(_train(cell, "require"), expected) < 1e-10
    tg.manual_seed(1)
    cell = make()  # not compiled yet
    with monkeypatch.context() as broken:
        hits = mutate(broken)
        with mock.patch.dict("os.environ", TINYGRAD_RNN_VALIDATE="0"):
            assert not _apart(_train(cell, "require"), expected) < 1e-6, "this changes nothing"
        tg.manual_seed(1)
        cell = make()
        with pytest.raises(NotImplementedError, match="do not compute what step computes"):
            _train(cell, "require")
        assert hits(), "this was never reached"
