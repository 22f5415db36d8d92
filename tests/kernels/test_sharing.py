"""Kernels whose rows the team shares: every range once, whoever does it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import config

from tinygrad_rnn.kernels import threads
from tinygrad_rnn.kernels.matmul import matmul, workspace
from tinygrad_rnn.kernels.outline import kernel, row_function
from tinygrad_rnn.kernels.sharing import ranges_of, share
from tinygrad_rnn.kernels.team import BUSY, FREE, TAKEN, team

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")


def native_id(f):
    return f.call("pthread_self")


LOOP, OTHERS = 1, 2  # stages


@row_function()
def one_row(size, turns, start, workspace, stages, threads, ranges, x, cube, who, told):
    total = np.float64(0)
    for _ in range(turns):
        total = np.float64(start)
        for i in range(size):
            total += np.float64(cube[i])
    x[0] += total
    who[0] = native_id()
    told[0], told[1], told[2], told[3] = workspace, stages, threads, ranges


@kernel()
def add_rows(lo, hi, workspace, stages, threads, ranges, turns, starts, x, cube, who, told):
    """Each row of x gets the sum of its slice of the cube and its start, in so many turns; and who has done it."""
    size = cube.shape[1] * cube.shape[2]
    if stages & LOOP and not share(ranges, LOOP):
        for row in range(lo, hi):
            one_row(size, turns, starts[row], workspace, stages, threads, ranges, x[row, :], cube[row, 0, :],
                who[row:], told[row, :])


def run(bounds, turns=1, dtype=np.float32, work=3):
    """The rows that were done, and by how many threads; numbers and arrays of all kinds are handed over."""
    rows, ranges = max(bounds), ranges_of(bounds)
    starts, x = np.arange(rows), np.zeros((rows, 2), dtype)
    cube, who, told = np.ones((rows, work, work), dtype), np.zeros(rows, np.int64), np.zeros((rows, 4), np.int64)
    starts.flags.writeable = cube.flags.writeable = False
    numbers = bounds[0], bounds[-1], workspace.address, LOOP | OTHERS, 9, ranges.ctypes.data
    add_rows(*numbers, turns, starts, x, cube, who, told)
    done = (starts >= bounds[0]) & (starts < bounds[-1])
    np.testing.assert_array_equal(x[:, 0], np.where(done, starts + work * work, 0).astype(dtype))
    assert not x[:, 1].any()
    threads = len({*who[done].tolist()})
    together = told[done, 1] == LOOP
    assert together.all() or (not together.any() and threads == 1)
    if together.all():
        assert (told[done, 2:] == (1, 0)).all() and len({*told[done, 0].tolist()}) == threads
    else:
        assert (told[done] == numbers[2:]).all()
    return threads


def test_rows_without_ranges():
    x, who, told = np.zeros((4, 2)), np.zeros(4, np.int64), np.zeros((4, 4), np.int64)
    add_rows(1, 3, 0, LOOP | OTHERS, 2, 0, 1, np.arange(4), x, np.ones((4, 1, 1)), who, told)
    assert x[:, 0].tolist() == [0, 2, 3, 0] and told[1].tolist() == [0, LOOP | OTHERS, 2, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [[0, 1], [0, 3, 5], [2, 2, 9], [0, 4, 8, 12, 16], [*range(30)]], ids=str)
def test_every_range_is_done_once(bounds, dtype):
    assert 1 <= run(bounds, dtype=dtype) <= len(bounds) - 1


def test_helpers_take_part():
    assert any(run([0, 1, 2, 3, 4], turns=200, work=300) > 1 for _ in range(20))


def test_who_finds_the_team_busy_works_alone():
    run([0, 1, 2])
    team._write(BUSY, TAKEN)
    try:
        assert run([0, 1, 2, 3], turns=20, work=300) == 1
    finally:
        team._write(BUSY, FREE)


def test_several_python_threads_at_once():
    run([0, 1, 2])
    with ThreadPoolExecutor(5) as callers:
        assert all(callers.map(lambda _: [run([0, 2, 5, 9], turns=3) for _ in range(30)], range(5)))


def test_without_helpers(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    team.stop()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run([0, 1, 2, 3]) == 1 and not team.helpers


def test_between_products(monkeypatch):
    """Kernels and products are given to the same helpers."""
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 2)
    monkeypatch.setattr(threads, "_num_threads", 0)
    monkeypatch.setattr("tinygrad_rnn.kernels.matmul.ONE_THREAD", 1)
    a = np.eye(60, dtype=np.float32)
    for _ in range(50):
        assert np.array_equal(matmul(a, a), a)
        run([0, 1, 2], turns=5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child():
    run([0, 1, 2])
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if not team.helpers and run([0, 1, 2, 3]) and len(team.helpers) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
