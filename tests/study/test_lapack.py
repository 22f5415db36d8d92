"""NumPy's factorisations in one thread: the number of threads comes back, whoever leaves last."""

import threading

import numpy as np
import pytest

from tinygrad_rnn.study import lapack


@pytest.fixture
def library(monkeypatch):
    """A BLAS that has three threads."""
    told = [3]
    monkeypatch.setattr(lapack, "_switch", lambda: (lambda: told[-1], told.append))
    return told


def test_the_last_to_leave_puts_it_back(library):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with lapack.one_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with lapack.one_thread():
        assert library == [3, 1]
    assert library == [3, 1], "another thread is still at it"
    leave.set()
    thread.join()
    assert library == [3, 1, 3]


def test_it_is_put_back_after_an_error(library):
    with pytest.raises(np.linalg.LinAlgError), lapack.one_thread():
        np.linalg.solve(np.zeros((2, 2)), np.ones(2))
    assert library == [3, 1, 3]


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(lapack, "NAMES", ("no_{}_such_function",))
    lapack._switch.cache_clear()
    with lapack.one_thread():
        assert np.linalg.svd(np.eye(2), compute_uv=False).tolist() == [1, 1]
    lapack._switch.cache_clear()


def test_the_real_one():
    switch = lapack._switch()
    if switch is None:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    before = switch[0]()
    with lapack.one_thread():
        assert switch[0]() == 1
    assert switch[0]() == before
