"""Functions that are written down: operators, loops and branches, and machine code from the disk."""

import ctypes
import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba import config

from tinygrad_rnn.kernels import assembler, cache
from tinygrad_rnn.kernels.assembler import I64, Function, Library

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")


def compiled(write, *names):
    """The function whose body `write(f, *arguments)` appends."""
    f = Function(ir.Module("test"), "function", names, gives=I64)
    f.give(write(f, *f.arguments))
    address = Library(f.module).address("function")
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(names))(address)


OPERATORS = {
    "sum": lambda f, a, b: a + b + 3, "difference": lambda f, a, b: 5 - a - b, "product": lambda f, a, b: 2 * a * b,
    "least": lambda f, a, b: f.least(a, b), "most": lambda f, a, b: f.most(a, 7),
    "and": lambda f, a, b: f.pick((a < b) & (a != 2), 1, 0), "or": lambda f, a, b: f.pick((a >= b) | (a == 2), 1, 0),
    "not": lambda f, a, b: f.pick(~(a <= b), a, b), "greater": lambda f, a, b: f.pick(a > b, 1, 0),
}  # fmt: skip


class Interpreted:
    """What a Function does, with NumPy's integers and truths."""

    pick = staticmethod(lambda condition, a, b: a if condition else b)
    least, most = staticmethod(min), staticmethod(max)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_those_of_python(name):
    rule = OPERATORS[name]
    function = compiled(rule, "a", "b")
    for a in (-9, 0, 2, 3, 10**12):
        for b in (-9, 2, 4):
            expected = rule(Interpreted, np.int64(a), np.int64(b))
            assert function(a, b) == int(expected), (a, b)


def test_division_is_of_numbers_that_are_not_negative():
    assert compiled(lambda f, a, b: a // b, "a", "b")(17, 5) == 3


@functools.cache
def sum_of_squares():
    def write(f, start, stop, step):
        total = f.variable(0)
        with f.loop(start, stop, step) as i:
            total.set(total.get() + i * i)
        return total.get()

    return compiled(write, "start", "stop", "step")


@given(st.integers(-5, 20), st.integers(-5, 20), st.integers(1, 7))
def test_loops_are_ranges(start, stop, step):
    assert sum_of_squares()(start, stop, step) == sum(i * i for i in range(start, stop, step))


def test_an_endless_loop_ends_where_a_condition_fails():
    def halvings(f, n):
        count, left = f.variable(0), f.variable(n)
        with f.endless_loop() as leave_unless:
            leave_unless(left.get() > 1)
            left.set(left.get() // 2)
            count.set(count.get() + 1)
        return count.get()

    assert [compiled(halvings, "n")(n) for n in (0, 1, 2, 1000)] == [0, 0, 1, 9]


def test_memory():
    def swap(f, address):
        x, y = f.read(address), f.read(address + 8)
        f.write(address, y)
        f.write(address + 8, x)
        return f.read(address + 16, ir.IntType(32))

    numbers = np.array([3, 4, -5], np.int64)
    assert compiled(swap, "address")(numbers.ctypes.data) == -5
    assert numbers.tolist() == [4, 3, -5]


def test_stored_bytes_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_directory", lambda: tmp_path)
    made = []

    def make(content=b"machine code"):
        made.append(content)
        return content

    assert [cache.stored("code", "key", make) for _ in range(3)] == [b"machine code"] * 3 and len(made) == 1
    assert cache.stored("code", "other key", lambda: b"other") == b"other"
    assert cache.stored("code", "key", make) == b"machine code" and len(made) == 1
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for torn in (b"", content[:20], content[:-1], content[:-1] + b"?"):
            path.write_bytes(torn)
            assert cache.stored("code", "key", make) == b"machine code"
            assert cache.stored("code", "other key", lambda: b"other") == b"other"
            assert path.read_bytes() == content
    monkeypatch.setattr(cache, "_directory", lambda: None)
    assert cache.stored("code", "key", lambda: b"not kept") == b"not kept"


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
def test_what_is_stored_is_for_one_processor(tmp_path, monkeypatch):
    """The same text for another processor is compiled again: its code may have instructions that are missing here."""
    monkeypatch.setattr(cache, "_directory", lambda: tmp_path)
    for name, features, files in ("generic", "", 1), ("generic", "", 1), ("other", "", 2), ("other", "+other", 3):
        monkeypatch.setattr(assembler, "processor", functools.partial(tuple, (name, features)))
        f = Function(ir.Module("same"), "same", [], gives=I64)
        f.give(f.number(1))
        Library(f.module)
        assert len(list(tmp_path.glob("same_*.o"))) == files


def test_a_module_is_written_only_if_its_machine_code_is_not_known(tmp_path, monkeypatch):
    """To write it takes as long as all else: it is known by the sources of the folder, and by what is said besides."""
    monkeypatch.setattr(cache, "_directory", lambda: tmp_path)
    written = []

    def write():
        written.append(len(written))
        f = Function(ir.Module("n"), "n", [], gives=I64)
        f.give(f.number(len(written)))
        return f.module

    def run(name, *settings):
        return ctypes.CFUNCTYPE(ctypes.c_int64)(Library(write, name, settings).address("n"))()

    assert (run("n", "wide"), run("n", "wide"), run("n", "narrow"), run("m", "wide")) == (1, 1, 2, 3)
    monkeypatch.setattr(cache, "toolchain", lambda: b"other sources")
    assert (run("n", "wide"), run("n", "wide"), len(written)) == (4, 4, 4)
    assert "\tret" in Library(write, "n", ("wide",)).assembly()
