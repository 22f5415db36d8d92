"""Rows of any rank: matrices and stacks of them within a row, seen through views, reduced, joined and multiplied."""

import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter
from tinygrad_rnn.fusion import composed

I, MOST = 3, 48
SHAPES = [(), (1,), (2,), (4,), (2, 3), (3, 1), (1, 4), (3, 3), (2, 1, 3), (2, 2, 2)]
UNARY = {
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "half": lambda a: 0.5 * a - 0.25,
    "square": lambda a: a * a,
    "clipped": lambda a: tg.clip_gradient(a, 0.3),
    "copied": lambda a: a.detach() + a,
    "through": lambda a: tg.straight_through(a > 0.1, tg.sigmoid(a)),
    "clamped": lambda a: tg.clamp(a, -0.3, 0.4),
}
REDUCED = {
    "sum": lambda a, d, keep: a.sum(d, keepdim=keep),
    "mean": lambda a, d, keep: a.mean(d, keepdim=keep),
    "amax": lambda a, d, keep: tg.amax(a, d, keepdim=keep),
    "amin": lambda a, d, keep: tg.amin(a, d, keepdim=keep),
}
ALONG = {
    "softmax": tg.softmax,
    "log_softmax": tg.log_softmax,
    "cumsum": tg.cumsum,
    "flip": lambda a, d: tg.flip(a, d),
    "rolled": lambda a, d: tg.roll(a, 1, d),
    "stacked": lambda a, d: tg.stack(tg.unbind(a, d)[::-1], d),
    "padded": lambda a, d: tg.pad(a, [*[0, 0] * (a.ndim - 1 - d), 1, 2], value=0.5),
}
BINARY = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "larger": tg.maximum,
    "where": lambda a, b: tg.where(a > b, b, a),
}


VALUES = {"gain": (), "voice": (4,), "memory": (2, 3), "cube": (2, 2, 2)}  # what holds for a sequence


class Random(tg.nn.Cell):
    """A step that follows a list of instructions; what does not fit a value is left out, the same on both engines."""

    input_size = I

    def __init__(self, shapes, instructions, ends):
        self.shapes, self.instructions, self.ends = shapes, instructions, ends
        values = {name: tg.ones(2, *shape, dtype=np.float64) for name, shape in VALUES.items()}
        with tg.no_grad():  # which makes the weights
            self.step(tg.ones(2, I, dtype=np.float64), *self.begin(None, 2), **values)

    def initial_state(self, batch_size):
        states = tuple(tg.zeros(batch_size, *shape, dtype=np.float64) for shape in self.shapes)
        return states if len(states) > 1 else states[0]

    @property
    def state_names(self):
        return tuple(f"s{k}" for k in range(len(self.shapes)))

    def weight(self, *shape):
        name = f"w{'_'.join(map(str, shape))}"
        if not hasattr(self, name):
            setattr(self, name, parameter(*shape))
        return getattr(self, name)

    def step(self, x, *states, gain, voice, memory, cube):
        values, given = [x, *states], [gain, voice, memory, cube]
        for instruction in self.instructions:
            made = self.follow(values, given, *instruction)
            if made is not None and 0 < math.prod(made.shape[1:]) <= MOST:
                values.append(made)
        new = []
        for shape, end in zip(self.shapes, self.ends):
            a = values[-1 - end % len(values)]
            if a.shape[1:] != shape:
                n = math.prod(a.shape[1:])
                a = (a.reshape(a.shape[0], n) @ self.weight(n, math.prod(shape))).reshape(a.shape[0], *shape)
            new.append(tg.tanh(a) if end < 4 else a)
        return tuple(new) if len(new) > 1 else new[0]

    def follow(self, values, given, kind, name, i, j, k, flag):
        a, B = values[-1 - i % len(values)], values[0].shape[0]
        inner = a.shape[1:]
        d = 1 + j % len(inner) if inner else None
        if kind == "unary":
            if name == "clipped":  # of what differs from step to step
                a = a + 0.1 * values[0][:, 0].reshape(B, *[1] * len(inner))
            return UNARY[name](a)
        if kind == "binary":
            b = values[-1 - j % len(values)]
            while b.ndim < a.ndim:
                b = b.unsqueeze(1 + k % b.ndim)
            while a.ndim < b.ndim:
                a = a.unsqueeze(1 + k % a.ndim)
            fits = all(1 in (n, m) or n == m for n, m in zip(a.shape[1:], b.shape[1:]))
            wide = math.prod(max(n, m) for n, m in zip(a.shape[1:], b.shape[1:])) > MOST
            return BINARY[name](a, b) if fits and not wide else None
        if kind == "given":
            return given[i % len(given)]
        if kind == "noise":
            return a + (tg.rand_like(a) if flag else 0.1 * tg.randn(a.shape, dtype=a.dtype))
        if kind == "parameter":
            shape = inner[j % (len(inner) + 1) :]
            if not shape and not inner:
                return a * self.weight()
            w = self.weight(*[1 if flag and n == k else n for n in shape])
            return a + w if k % 2 else w * a
        if kind == "expand":
            at = 1 + j % a.ndim
            return a.unsqueeze(at).expand(B, *inner[: at - 1], 2 + k % 2, *inner[at - 1 :])
        if d is None:
            return None
        n = inner[d - 1]
        if kind == "reduced":
            dims = d if flag else tuple({d, 1 + k % len(inner)})
            return REDUCED[name](a, dims, k % 2 == 0)
        if kind == "along":
            return ALONG[name](a, d)
        if kind == "masked":
            seen = tg.flip(a > 0.1, (d,)) if flag else (a > 0.1).unsqueeze(1).expand(B, 2, *inner)[:, 1]
            return tg.where(seen, a, 0.5 * a) if k % 2 else a.masked_fill(~seen, 0.25)
        if kind == "summed":
            return sum(tg.unbind(a, d)[:: 1 + k % 2])
        if kind == "several":
            rows = a.reshape(B, -1)
            q, v, u = (rows @ self.weight(rows.shape[1], m) for m in (4, 2, 6))
            if flag:
                return q.reshape(B, 2, 2) * v.unsqueeze(d % 2 + 1) + u.reshape(B, 3, 2)[:, 1:]
            return tg.cat([u[:, ::2].unsqueeze(1), u.reshape(B, 2, 3)], 1) * v[:, :1, None] + q[:, :3].unsqueeze(1)
        if kind == "deep":
            if a.ndim == 2:
                return tg.einsum("bi,ijk->bjk", a, self.weight(n, 2, 2))
            if a.ndim == 3:
                return tg.einsum("bij,ijk->bik", a, self.weight(*inner, 2))
            return tg.einsum("bijk,ijkl->bil", a, self.weight(*inner, 2)) if a.ndim == 4 else None
        if kind == "permuted":
            order = list(range(1, a.ndim))
            order.insert(k % len(order), order.pop(d - 1))
            return a.permute(0, *order)
        if kind == "reshaped":
            if flag:
                return a.reshape(B, -1)
            return a.reshape(B, *inner[: d - 1], 2, n // 2, *inner[d:]) if n % 2 == 0 else None
        if kind == "slice":
            first = k % n
            return a[(slice(None),) * d + (slice(first, None, 2) if flag else slice(first, first + 2),)]
        if kind == "number":
            return a[(slice(None),) * d + (k % n if flag else [k % n, 0, n - 1],)]
        if kind == "joined":
            b = values[-1 - k % len(values)]
            fits = b.ndim == a.ndim and all(n == m for e, (n, m) in enumerate(zip(a.shape, b.shape)) if 0 < e != d)
            return tg.cat([a, b] if fits else [a, a * a], d)
        if kind == "product":
            b = values[-1 - k % len(values)]
            if a.ndim == 2:
                return a @ self.weight(inner[0], 1 + k)
            if a.ndim == 3 == b.ndim and a.shape[-1] == b.shape[-2]:
                return a @ b
            if flag:
                return tg.einsum("b...i,b...i->b...", a, a)
            if a.ndim == 3 and k > 4:  # turned over, since no matrix is too small for that here
                return (self.weight(2, inner[0]) if k == 5 else self.weight(inner[0], 2).T) @ a
            if k < 3:
                return a @ (self.weight(inner[-1], 2) if k else self.weight(inner[-1], 3)[:, 1:])
            return a @ (self.weight(2, n).T if d == a.ndim - 1 else tg.cat([self.weight(inner[-1], 1)] * 2, 1))
        raise AssertionError(kind)


NAMES = {"unary": UNARY, "binary": BINARY, "reduced": REDUCED, "along": ALONG}
KINDS = [
    "unary", "binary", "binary", "parameter", "expand", "reduced", "along", "permuted", "reshaped", "slice", "number",
    "joined", "product", "given", "noise", "masked", "summed", "several", "deep",
]  # fmt: skip
NUMBERS = st.integers(0, 6)
INSTRUCTIONS = st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.sampled_from(list(NAMES.get(kind, [""]))), NUMBERS, NUMBERS, NUMBERS, st.booleans()
    )
)
STEPS = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2).flatmap(
    lambda shapes: st.tuples(
        st.just(shapes), st.lists(INSTRUCTIONS, min_size=2, max_size=10), st.tuples(*[NUMBERS] * len(shapes))
    )
)


@pytest.mark.parametrize("examples", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_random_steps_compute_what_the_tape_does(monkeypatch, examples):
    """Views on views, in any order, in values, gradients, both directions and sequences of other lengths."""
    interpret(monkeypatch)
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")
    monkeypatch.setattr(composed, "LARGE", 1)

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None)
    @given(STEPS, st.booleans(), st.booleans())
    def run(step, reverse, ragged):
        lengths = {"lengths": np.array([3, 1])} if ragged else {}
        assert_engines_agree(Random(*step), (3, 2, I), reverse, tolerance=1e-11, values=VALUES, **lengths)

    run()


def test_a_gradient_that_belongs_to_a_step_and_to_a_sequence():
    """Of what arrives and of what holds for the sequence: it is kept for each step, and added up."""

    class Speaks(tg.nn.Cell):
        input_size, hidden_size = I, 4

        def __init__(self):
            self.W, self.U, self.voice = parameter(I, 4), parameter(4, 4), parameter(1, 4)

        def sequence_values(self, batch_size):
            return {"speaker": self.voice.expand(batch_size, 4)}

        def step(self, x, h):
            return tg.tanh(x @ self.W + h @ self.U + self.speaker)

    assert_engines_agree(Speaks(), (4, 3, I), lengths=np.array([2, 4, 1]))


FOUND = {  # by such steps: what once came out wrong
    "a column of what is repeated along a row, times weights": (
        [(4,)],
        [("expand", "", 0, 1, 0, False), ("slice", "", 0, 0, 0, False), ("number", "", 0, 0, 1, True)],
        (0,),
    ),
    "columns of a list of numbers, times weights": (
        [(4,)],
        [("number", "", 0, 0, 1, False), ("slice", "", 0, 0, 0, False)],
        (0,),
    ),
    "a gradient that is zeros, read in another shape": (
        [(3, 1)],
        [("product", "", 0, 0, 0, True), ("joined", "", 0, 0, 0, False), ("product", "", 0, 0, 0, False),
         ("slice", "", 1, 0, 3, True)],
        (0,),
    ),
    "the same, of an input": (
        [(4,)],
        [("number", "", 1, 0, 1, False), ("slice", "", 0, 0, 0, False)],
        (0,),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_step_that_once_came_out_wrong(name, monkeypatch):
    interpret(monkeypatch)
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")
    tg.manual_seed(0)
    assert_engines_agree(Random(*FOUND[name]), (3, 2, I), values=VALUES)


@pytest.mark.parametrize("vector", ["of weights", "a column of weights", "of the row"])
def test_a_matrix_times_a_vector_is_read_in_the_loop_that_computes_it(vector, monkeypatch):
    """So there is one loop over the elements of the matrix in each direction, and its gradient is in no memory."""
    interpret(monkeypatch)

    class Compares(tg.nn.Cell):
        input_size, hidden_size = I, 5

        def __init__(self):
            self.W, self.U, self.v = parameter(I, 5), parameter(5, 5), parameter(5)

        def step(self, x, h):
            C = tg.tanh((x @ self.W).unsqueeze(-1) + (h @ self.U).unsqueeze(-2))
            if vector == "of the row":
                return (C @ h.unsqueeze(-1)).squeeze(-1)
            return C @ self.v if vector == "of weights" else (C @ self.v.unsqueeze(-1)).squeeze(-1)

    for direction in ("forward", "backward"):
        source = tg.nn.Recurrent(Compares()).source(direction)
        assert source.count("for j1 in range(") == 1 and "dC_out" not in source
    assert_engines_agree(Compares(), (4, 3, I), lengths=np.array([2, 4, 1]))


class Slots(tg.nn.Cell):
    """Vectors in slots, all of which a matrix multiplies; or that are mixed by one."""

    input_size = I

    def __init__(self, form, slots, width):
        self.form, self.shape = form, (slots, width)
        self.W, self.A = parameter(width, width), parameter(slots, slots)

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, *self.shape, dtype=self.W.dtype)

    def step(self, x, M):
        return tg.tanh(FORMS[self.form](self, M) + x[:, :1, None])


FORMS = {
    "M @ W": lambda cell, M: M @ cell.W,
    "heads of M @ W": lambda cell, M: (M.unsqueeze(1) @ cell.W).squeeze(1),
    "linear": lambda cell, M: tg.nn.functional.linear(M, cell.W),
    "einsum of vectors": lambda cell, M: tg.einsum("bnd,de->bne", M, cell.W),
    "A @ M": lambda cell, M: cell.A @ M,
    "einsum of slots": lambda cell, M: tg.einsum("nm,bmd->bnd", cell.A, M),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_that_multiplies_all_vectors_of_a_row_is_a_product(form, monkeypatch):
    """Two in the loops, forward and back, rather than some thousand multiplications by element."""
    interpret(monkeypatch)
    cell = Slots(form, 17, 16)
    assert_engines_agree(cell, (3, 2, I), lengths=np.array([3, 1]))
    text = tg.nn.Recurrent(cell).explain()
    assert len(re.findall(r"^ +\d+\. product ", str(text), re.MULTILINE)) == 2


def test_a_small_matrix_from_the_left_is_a_loop(monkeypatch):
    """To turn what it multiplies would take longer."""
    interpret(monkeypatch)
    cell = Slots("A @ M", 3, 2)
    assert_engines_agree(cell, (3, 2, I))
    assert " product " not in str(tg.nn.Recurrent(cell).explain())
