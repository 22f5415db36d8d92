"""Outlines of kernels: what is compiled does what the same text does as Python, and nothing else is compiled."""

import inspect
import itertools
import linecache
import random
import types

import numpy as np
import pytest
from numba import config, njit

from tinygrad_rnn.kernels import maths32, maths64, values
from tinygrad_rnn.kernels.arena import carve, clear, rows_of, spaced_by
from tinygrad_rnn.kernels.outline import kernel, row_function

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
numbers = itertools.count()


def add(n, place):
    place[0] += real(n)


real, store = np.float64, row_function()(add)


def both(text, **names):
    """The function of a text, compiled and as Python."""
    found = []
    for decorator in (kernel, lambda *flags: lambda function: function):
        path = f"<outline {next(numbers)}>"
        linecache.cache[path] = len(text), None, text.splitlines(True), path
        rows = row_function if decorator is kernel else decorator
        scope = {"__name__": __name__, "kernel": decorator, "row_function": rows} | names
        scope["store"] = store if decorator is kernel else add
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
        self.draw, self.stored, self.changed = random.Random(seed), 0, []
        self.lines = ["@kernel()", "def f(a, b, x, out):", "    W = 3"]
        self.block(["a", "b", "W"], [], "    ", 3)

    def number(self, names, depth=2):
        """An expression that is not negative."""
        draw = self.draw
        if depth == 0 or draw.random() < 0.25:
            return draw.choice([*names, str(draw.randrange(4)), "len(x)", "x.shape[1]", "x.T.shape[0]"])
        one, other = self.number(names, depth - 1), self.number(names, depth - 1)
        kind = draw.choice("+*%/&^?-g")
        if kind in "%/":
            return f"({one} {'%' if kind == '%' else '//'} ({other} + 1))"
        if kind == "?":
            return f"({one} if {self.truth(names, depth - 1)} else {other})"
        if kind == "g":  # which must not be done if the other holds
            other = draw.choice(names)  # known when it runs, so that it is not done when it is written
            return f"({one} // {other} if {other} else x.shape[0])"
        return f"({one} + {one} - {one})" if kind == "-" else f"({one} {kind} {other})"

    def truth(self, names, depth=1):
        draw = self.draw
        one, other = self.number(names, depth), self.number(names, depth)
        compared = f"{one} {draw.choice(['<', '<=', '>', '>=', '==', '!='])} {other}"
        both, name = f"({compared} {draw.choice(['and', 'or'])} {other} < {one})", draw.choice(names)
        divides = draw.choice([f"({name} and {one} // {name} > 1)", f"({name} == 0 or {one} % {name} < 2)"])
        return draw.choice([compared, compared, both, f"not ({compared})", one, divides])

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
                known = draw.choice([fresh, *self.changed])  # or one that changes
                self.lines.append(
                    f"{indent}{known}, {fresh}_ = {self.number(names)} % 1009, {self.number(names)} % 1009"
                )
                self.changed += [fresh] if indent == "    " and known == fresh else []
                names += [known, f"{fresh}_"]
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


class Formulas:
    """The function of a row: sums, extremes and maths of small whole numbers, which are exact in any order."""

    def __init__(self, seed, functions):
        self.draw, self.functions = random.Random(seed), functions
        self.lines = ["@row_function()", "def one(W, rate, x, y, out):", "    top = real(-1e400)", "    n = 0"]
        self.block(["real(rate)", "x[0]"], "    ", 2)
        self.lines += ["@kernel()", "def f(W, rate, x, y, out):", "    for i in range(len(x)):"]
        self.lines += ["        one(W, rate, x[i, :], y[i, :], out[i * 8:])"]

    def number(self, names, depth=2):
        draw = self.draw
        if depth == 0 or draw.random() < 0.3:
            return draw.choice([*names, "real(2)", "real(-3)", "top", "real(n)"])
        one, other = self.number(names, depth - 1), self.number(names, depth - 1)
        kind = draw.choice("+-*/?nfb")
        if kind == "f":
            name, count = draw.choice(self.functions)
            return f"{name}({', '.join([f'real({one})', f'real({other})'][:count])})"
        return {
            "/": f"({one} / real({draw.choice([2, -4, 8])}))", "n": f"(-{one})", "b": f"real({self.truth(names)})",
            "?": f"({one} if {self.truth(names)} else {other})",
        }.get(kind, f"({one} {kind} {other})")  # fmt: skip

    def truth(self, names):
        draw = self.draw
        signs = ["<", "<=", ">", ">=", "==", "!="]
        one, other, third = (f"{self.number(names, 0)} {draw.choice(signs)} {self.number(names, 0)}" for _ in range(3))
        either, alone = f"({one} or {other} or {third})", self.number(names, 0)
        ordered = f"(({one}) {draw.choice(signs)} ({other}))"
        return draw.choice([one, f"not {one}", f"({one} and {other})", either, f"(({one}) != real(0))", alone, ordered])

    def block(self, names, indent, depth):
        draw, names = self.draw, [*names]
        for _ in range(draw.randint(2, 4)):
            kind = draw.choice(["assign", "top", "for", "if", "out", "sum", "count"])
            fresh = f"v{len(self.lines)}"
            if kind == "assign":
                self.lines.append(f"{indent}{fresh} = {self.number(names)}")
                names.append(fresh)
            elif kind == "top":
                value = self.number(names, 1)
                self.lines.append(f"{indent}top = {value} if {value} > top or {value} != {value} else top")
            elif kind == "for" and depth:
                self.lines.append(f"{indent}for {fresh} in range(W):")
                places = [f"{name}[{at}]" for name in "xy" for at in (fresh, f"W - 1 - {fresh}")]
                self.block([*names, *places], indent + "    ", depth - 1)
            elif kind == "if" and depth:
                self.lines.append(f"{indent}if {self.truth(names)}:")
                self.block(names, indent + "    ", depth - 1)
            elif kind == "count":
                self.lines.append(f"{indent}n += 1")
            else:
                sign = "=" if kind == "out" else "+="
                self.lines.append(f"{indent}out[{draw.randrange(7)}] {sign} {self.number(names)}")
        self.lines.append(f"{indent}out[7] += {self.number(names)}")


def assert_formulas_agree(seeds, dtype):
    maths = {np.float32: maths32, np.float64: maths64}[dtype]
    functions = {"abs": abs, "maximum": np.maximum, "square": np.square, "where": np.where}
    x, y = np.random.default_rng(0).integers(-3, 4, (2, 4, 5)).astype(dtype)
    x[1, 2] = np.nan
    for seed in seeds:
        text = "\n".join(Formulas(seed, [("abs", 1), ("maximum", 2), ("square", 1)]).lines) + "\n"
        compiled, _ = both(text, real=dtype, **{name: getattr(maths, name) for name in functions})
        _, python = both(text, real=dtype, **functions)
        outs = [np.zeros(32, dtype), np.zeros(32, dtype)]
        with np.errstate(all="ignore"):
            for function, out in zip((compiled, python), outs):
                function(5, 2.0, x, y, out)
        small = np.abs(outs[1]) < 2.0 ** (np.finfo(dtype).nmant - 8)  # exact, whatever was multiplied first
        small |= ~np.isfinite(outs[1])
        np.testing.assert_array_equal(outs[0][small], outs[1][small], err_msg=text)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_formulas_do_what_python_does(dtype):
    assert_formulas_agree(range(10), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_random_formulas_do_what_python_does(dtype):
    assert_formulas_agree(range(100, 300), dtype)


# ---- One by one ------------------------------------------------------------------------------------------------------


def test_numbers_of_all_kinds_are_given_as_they_are():
    @row_function()
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
    "an array that changes in a loop": "for i in range(n): out = out[1:]",
    "an array that changes in a branch": "if n: out = out[1:]",
    "a number that becomes another one": "m = 1\n    m = 0.5",
    "a name of a block that is over": "for i in range(n): m = i\n    store(m, out)",
    "while": "while n: store(n, out)",
    "a step": "for i in range(0, n, 2): store(i, out)",
    "an unknown step": "for i in range(0, n, n): store(i, out)",
    "a list": "for i in [1, 2]: store(i, out)",
    "a word": "store('n', out)",
    "a power": "store(n ** 2, out)",
    "a chain": "store(1 if 0 < n < 3 else 2, out)",
    "every other row": "store(n, out[::2])",
    "a keyword": "store(n=n, place=out)",
    "an unknown function": "sqrt(n)",
    "an unknown name": "store(m, out)",
    "an attribute": "store(n, out.real)",
    "half of a number": "m = n / 2",
    "a truth that is counted": "m = (n > 1) + (n > 2)",
    "truths that are multiplied": "m = (n > 1) * n",
    "a number and an element": "out[0] = out[1] + n",
    "an array for a number": "m = out + 1",
    "elements by the bit": "m = out[0] & out[1]",
    "the rest of elements": "m = out[0] % out[1]",
    "one of two numbers": "m = n and 5",
    "one of two floats": "out[0] = out[1] or out[2]",
    "a truth with its sign turned": "m = -(n > 1)",
    "a truth for an index": "store(out[n > 1], out)",
    "a matrix for a row": "rows(table)",
    "a column for a row": "rows(table.T[1, 0:])",
    "a number of Python for a row": "store(0.5, out)",
    "a number of Python for a function": "m = product(out[0], 0.5)",
    "a number beyond 64 bits": "m = 9223372036854775808",
    "a number beyond its type": "out[0] = narrow(whole(3000000000))",
    "a number beyond another's type": "out[0] = real(counts[0] + 3000000000)",
    "numbers of two widths": "m = counts[0] + n",
    "a known negative number divided": "m = n // -2",
    "two numbers for a cast": "out[0] = real(n, n)",
    "four numbers for a range": "for i in range(0, n, 1, 5): store(i, out)",
    "a function that is a name of its own": "real = n\n    out[0] = real(n)",
    "a float for an integer": "counts[0] = real(n)",
    "a truth or a number": "m = 2 if n else n > 1",
    "a truth and a number": "m = (n > 1) & n",
    "a global that was a name of its own": "for i in range(n): narrow = i\n    store(narrow, out)",
    "an element from the end": "store(n, out[-1:])",
    "all but the last": "store(n, out[:-1])",
    "an element of an element": "out[0, 1] = real(n)",
    "a whole row of a matrix": "table[n] = real(0)",
    "the length of a row": "rows(out)",
    "the larger one": "m = max(n, 2)",
    "a function of Python that knows no kernels": "plain(n)",
    "a number of Python that changes": "m = 0.0",
    "half of an integer": "m = n * 0.5",
    "the absolute value of an integer": "m = abs(n)",
    "floats of two kinds": "out[0] = copysign(out[0], narrow(1))",
    "a function": "def g(): pass",
    "a result": "return n",
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused(what):
    head = "@row_function()\ndef rows(x):\n    x[0] = real(len(x))\n\n"
    head += "@inlined\ndef product(a, b):\n    return a * b\n\n"
    others = {"narrow": np.float32, "plain": lambda n: n + 1, "copysign": np.copysign, "inlined": values.inlined}
    text = f"{head}@kernel()\ndef f(n, out, table, counts):\n    {REFUSED[what]}\n"
    compiled, _ = both(text, real=real, whole=np.int32, **others)
    with pytest.raises(NotImplementedError, match="a kernel has no place for"):
        compiled(3, np.zeros(4), np.zeros((4, 4)), np.zeros(4, np.int32))


def test_arrays_of_other_numbers_are_refused():
    compiled, _ = both("@kernel()\ndef f(x, out):\n    store(len(x), out)\n")
    with pytest.raises(NotImplementedError, match="no place for an array of uint8"):
        compiled(np.zeros(3, np.uint8), np.zeros(1))


def test_integers_and_truths_change_their_type():
    text = """@kernel()
def f(x, out):
    out[0] = real(whole(x[0] < x[1])) + real(long(x[1]) * long(x[1]))
    out[1] = real((x[0] < x[1]) < (x[1] < x[0])) + real((x[0] > x[1]) <= (x[0] < x[1])) * real(3)
"""
    assert assert_same(text, np.array([3, 70000], np.int32), real=real, whole=np.int64, long=np.int64)[0] == 4.9e9 + 1


def test_constants_are_as_wide_as_what_they_meet():
    text = "@kernel()\ndef f(x, out):\n    out[0] = x[0] * 0.1 + 0.3 - (0.7 - x[1])\n"
    compiled, python = both(text)
    x, outs = np.array([1.1, 2.3], np.float32), np.zeros((2, 1), np.float32)
    compiled(x, outs[0])
    python(x, outs[1])
    np.testing.assert_array_max_ulp(*outs, maxulp=1)  # a product may be part of an fma
    text = text.replace(" + 0.3 - (0.7 - x[1])", "").replace("f(x, out)", "f(x, out, n)")
    compiled, python = both(text)
    for n in range(200):
        compiled(x := np.array([n / 7], np.float32), outs[0], 0)
        python(x, outs[1], 0)
        assert outs[0] == outs[1]


def test_as_many_names_as_values():
    compiled, _ = both("@kernel()\ndef f(n, out):\n    a, b = n, n, n\n")
    with pytest.raises(ValueError, match="zip"):
        compiled(3, np.zeros(4))


# ---- Functions of maths ----------------------------------------------------------------------------------------------

RULES = [(maths, name) for maths in (maths32, maths64) for name, x in vars(maths).items() if hasattr(x, "inlined")]


def for_numba(rule):
    """A function of Python, and those that it calls, as Numba compiles them."""
    if target := inspect.getclosurevars(rule).nonlocals.get("target"):
        source = {np.float32: np.int32, np.float64: np.int64, np.int32: np.float32, np.int64: np.float64}[target]
        return njit(lambda x: source(x).view(target))
    cells = [types.CellType(for_numba(x) if isinstance(x := cell.cell_contents, types.FunctionType) else x)
             for cell in rule.__closure__ or ()]  # fmt: skip
    again = types.FunctionType(rule.__code__, rule.__globals__, rule.__name__, rule.__defaults__, tuple(cells))
    return njit(fastmath={"contract"}, error_model="numpy", forceinline=True)(again)


@pytest.mark.parametrize(("maths", "name"), RULES, ids=[f"{name}-{maths.__name__[-2:]}" for maths, name in RULES])
def test_functions_of_maths_are_what_numba_makes_of_them(maths, name):
    """Their instructions are the same; which products become part of an fma is LLVM's choice."""
    rule, dtype = getattr(maths, name), maths.f
    count = len(inspect.signature(rule).parameters)
    arguments = ", ".join(["x[j] > real(0)", "x[j]", "y[j]"] if name == "where" else ["x[j]", "y[j]"][:count])
    loop = f"    for j in range(W):\n        out[j] = real(rule({arguments}))\n"
    text = f"@row_function()\ndef one(W, x, y, out):\n{loop}\n"
    text += "@kernel()\ndef f(x, y, out):\n    one(len(x), x[:], y[:], out[:])\n"
    ours, _ = both(text, rule=rule, real=dtype)
    exec(f"def other(W, x, y, out):\n{loop}", scope := {"rule": for_numba(rule), "real": dtype})
    rng, special = np.random.default_rng(0), [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny / 8]
    bits = rng.integers(0, 256, 20_000 * dtype().itemsize, dtype=np.uint8).view(dtype)
    x = np.concatenate([bits, rng.normal(0, 5, 20_000).astype(dtype), np.array(special, dtype)])
    y, outs = np.roll(x, 999), [np.zeros_like(x), np.zeros_like(x)]
    ours(x, y, outs[0])
    njit(fastmath={"contract"}, error_model="numpy")(scope["other"])(len(x), x, y, outs[1])
    assert np.array_equal(*map(np.isnan, outs))
    ours, theirs = (out[~np.isnan(out)] for out in outs)
    np.testing.assert_array_max_ulp(ours, theirs, maxulp=2)
    assert np.array_equal(np.signbit(ours), np.signbit(theirs))
