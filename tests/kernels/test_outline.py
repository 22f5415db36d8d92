"""Outlines of kernels: what is compiled does what the same text does as Python, and nothing else is compiled."""

import itertools
import linecache
import random

import numpy as np
import pytest
from numba import config, njit

from tinygrad_rnn.kernels.arena import carve, clear, rows_of, spaced_by
from tinygrad_rnn.kernels.intrinsics import ROW
from tinygrad_rnn.kernels.outline import kernel

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
numbers = itertools.count()


@njit(**ROW)
def store(n, place):
    place[0] += n


def both(text, **names):
    """The function of a text, compiled and as Python."""
    found = []
    for decorator in (kernel, lambda **options: lambda function: function):
        path = f"<outline {next(numbers)}>"
        linecache.cache[path] = len(text), None, text.splitlines(True), path
        scope = {"__name__": __name__, "kernel": decorator, "store": store} | names
        if decorator is not kernel:
            scope["store"] = store.py_func
        exec(compile(text, path, "exec"), scope)
        found.append(scope["f"])
    return found


def assert_same(text, *arguments, **names):
    compiled, python = both(text, **names)
    outs = [np.zeros(64), np.zeros(64)]
    for function, out in zip((compiled, python), outs):
        function(*arguments, out)
    np.testing.assert_array_equal(*outs)
    return outs[0]


# ---- Random programs -------------------------------------------------------------------------------------------------


class Program:
    """Statements over integers and a matrix x, each of which stores what it found in the next place of `out`."""

    def __init__(self, seed):
        self.draw, self.stored = random.Random(seed), 0
        self.lines = ["@kernel()", "def f(a, b, x, out):", "    W = 3"]
        self.block(["a", "b", "W"], [], "    ", 3)

    def number(self, names, depth=2):
        """An expression that is not negative."""
        draw = self.draw
        if depth == 0 or draw.random() < 0.25:
            return draw.choice([*names, str(draw.randrange(4)), "len(x)", "x.shape[1]", "x.T.shape[0]"])
        one, other = self.number(names, depth - 1), self.number(names, depth - 1)
        kind = draw.choice("+*%/&?-")
        if kind in "%/":
            return f"({one} {'%' if kind == '%' else '//'} ({other} + 1))"
        if kind == "?":
            return f"({one} if {self.truth(names, depth - 1)} else {other})"
        return f"({one} + {one} - {one})" if kind == "-" else f"({one} {kind} {other})"

    def truth(self, names, depth=1):
        draw = self.draw
        one, other = self.number(names, depth), self.number(names, depth)
        compared = f"{one} {draw.choice(['<', '<=', '>', '>=', '==', '!='])} {other}"
        return draw.choice([compared, compared, f"not ({compared})", one])

    def matrix(self, names, arrays):
        """An expression of a matrix, of any size."""
        draw = self.draw
        whole = draw.choice(["x", *arrays])
        i, j = (f"{self.number(names, 1)} % 2" for _ in range(2))
        return draw.choice([whole, f"{whole}.T", f"{whole}[{i}:]", f"{whole}[{i}:, {j}:]", f"{whole}[:, {j}:].T"])

    def block(self, names, arrays, indent, depth):
        draw, names, arrays = self.draw, [*names], [*arrays]
        for _ in range(draw.randint(2, 4)):
            kind = draw.choice(["assign", "array", "for", "if", "store", "add"])
            fresh = f"n{len(self.lines)}"
            if kind == "assign":
                self.lines.append(f"{indent}{fresh}, {fresh}_ = {self.number(names)}, {self.number(names)}")
                names += [fresh, f"{fresh}_"]
            elif kind == "array":
                one, other = self.matrix(names, arrays), self.matrix(names, arrays)
                self.lines.append(f"{indent}{fresh} = {one} if {self.truth(names)} else {other}")
                arrays.append(fresh)
            elif kind == "for" and depth:
                n = f"{self.number(names, 1)} % 4"
                over = draw.choice([f"{n}", f"1, {n}", f"{n}, -1, -1", f"{n}, 0, -1"])
                self.lines.append(f"{indent}for {fresh} in range({over}):")
                self.block([*names, fresh], arrays, indent + "    ", depth - 1)
            elif kind == "if" and depth:
                tests = " and ".join(self.truth(names) for _ in range(draw.randint(1, 2)))
                self.lines.append(f"{indent}if {tests}:")
                self.block(names, arrays, indent + "    ", depth - 1)
            elif kind == "add":
                self.lines.append(f"{indent}out[{self.place()}] += {self.matrix(names, arrays)}[0, 0]")
            else:
                self.lines.append(f"{indent}store({self.number(names)} % 1000003, out[{self.place()}:])")
        self.lines.append(f"{indent}store({self.number(names)} % 1000003, out[{self.place()}:])")

    def place(self):
        self.stored += 1
        return self.stored % 64


def assert_programs_agree(seeds):
    x = np.arange(1.0, 1 + 30 * 28).reshape(30, 28)[::2, ::-2]  # so that every part of a part has an element
    for seed in seeds:
        text = "\n".join(Program(seed).lines) + "\n"
        for a, b in ((0, 1), (5, 3)):
            assert_same(text, a, b, x)


def test_random_programs_do_what_python_does():
    assert_programs_agree(range(12))


@pytest.mark.slow
def test_many_random_programs_do_what_python_does():
    assert_programs_agree(range(100, 400))


# ---- One by one ------------------------------------------------------------------------------------------------------


def test_numbers_of_all_kinds_are_given_as_they_are():
    @njit(**ROW)
    def tell(n, yes, rate, small, out):
        out[0], out[1], out[2], out[3] = n, yes, rate, small

    @kernel()
    def f(n, yes, rate, small, starts, out):
        """Numbers, as they come and from an array."""
        tell(n, yes, rate, small, out[0:])
        tell(starts[1], 7, rate, starts[-1 + n], out[4:])

    out, starts = np.zeros(8), np.array([3, 1 << 40, -9])
    starts.flags.writeable = False
    f(3, True, 0.25, np.int32(-5), starts, out)
    assert out.tolist() == [3, 1, 0.25, -5, 1 << 40, 7, 0.25, -9]


def test_constants_of_the_module_and_functions_of_python():
    seen = []

    def note(f, *arguments):
        seen.append(arguments)
        return arguments[0] + 1

    text = "@kernel()\ndef f(out):\n    store(note(WIDTH, (1, 2)) + 0, out[0:])\n"
    compiled, _ = both(text, note=note, WIDTH=16)
    compiled(out := np.zeros(2))
    assert out[0] == 17 and seen == [(16, (1, 2))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_are_carved_out_of_an_arena(dtype):
    text = """
@kernel()
def f(T, B, arena, x, places):
    a, b, c = carve(arena, ((T, 5), (B, 2, 3), (T * B, 1)))
    clear(b)
    for row in range(T):
        a[row, 4] += x[row, 0, 1]
    flat = rows_of(x)
    for row in range(len(flat)):
        c[row, 0] += flat[row, 1]
    store(len(flat), places[0:])
"""
    compiled, _ = both(text, carve=carve, clear=clear, rows_of=rows_of)
    T, B = 4, 3
    x = np.random.default_rng(0).standard_normal((T, B, 2)).astype(dtype)
    for start in range(0, 64 // dtype().itemsize, 3):  # wherever the arena begins
        arena = np.ones(1000, dtype)[start:]
        compiled(T, B, arena, x, places := np.zeros(1))
        first = -arena.ctypes.data % 64 // arena.itemsize
        a, b, c = first, first + spaced_by(T * 5), first + spaced_by(T * 5) + spaced_by(B * 6)
        assert np.array_equal(arena[a : a + T * 5].reshape(T, 5)[:, 4], 1 + x[:, 0, 1])
        assert not arena[b : b + B * 6].any() and arena[b - 1] == arena[b + B * 6] == 1
        assert np.array_equal(arena[c : c + T * B], 1 + x[:, :, 1].ravel())
        assert len(arena) - np.count_nonzero(arena == 1) == T + B * 6 + T * B
        assert places[0] == T * B


REFUSED = {
    "a branch": "if n: store(n, out)\n    else: store(1, out)",
    "or": "if n or n > 2: store(n, out)",
    "a name that changes in a loop": "for i in range(n): n = n + 1",
    "a name that changes in a branch": "m = 1\n    if n: m = 2",
    "a name of a block that is over": "for i in range(n): m = i\n    store(m, out)",
    "while": "while n: store(n, out)",
    "a step": "for i in range(0, n, 2): store(i, out)",
    "an unknown step": "for i in range(0, n, n): store(i, out)",
    "a list": "for i in [1, 2]: store(i, out)",
    "a fraction": "store(0.5, out)",
    "a word": "store('n', out)",
    "a power": "store(n ** 2, out)",
    "a chain": "store(1 if 0 < n < 3 else 2, out)",
    "every other row": "store(n, out[::2])",
    "a keyword": "store(n=n, place=out)",
    "an unknown function": "sqrt(n)",
    "an unknown name": "store(m, out)",
    "an attribute": "store(n, out.real)",
    "an element that is replaced": "out[0] = n",
    "an element that is multiplied": "out[0] *= out[1]",
    "a number that grows": "n += 1",
    "a function": "def g(): pass",
    "a result": "return n",
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused(what):
    compiled, _ = both(f"@kernel()\ndef f(n, out):\n    {REFUSED[what]}\n")
    with pytest.raises(NotImplementedError, match="an outline has no place for"):
        compiled(3, np.zeros(4))


def test_as_many_names_as_values():
    compiled, _ = both("@kernel()\ndef f(n, out):\n    a, b = n, n, n\n")
    with pytest.raises(ValueError, match="zip"):
        compiled(3, np.zeros(4))
