"""What generated code promises the compiler: rows of one call share no element that is written."""

import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion import comparing
from fusion.comparing import interpret, results
from fusion.test_random_cells import Composed, programs


class Watched:
    """A row of memory as generated code sees it, which notes the addresses that are read and written through it."""

    def __init__(self, row):
        self.row, self.start, self.stride = row, row.__array_interface__["data"][0], row.strides[0]
        self.read, self.written = set(), set()

    def __getitem__(self, j):
        self.read.add(self.start + j * self.stride)
        return self.row[j]

    def __setitem__(self, j, value):
        self.written.add(self.start + j * self.stride)
        self.row[j] = value


@pytest.fixture
def promises():
    """The rows of each call of a function, with their names."""
    made = []

    def watched(function):
        def call(*arguments):
            given = [Watched(x) if isinstance(x, np.ndarray) else x for x in arguments]
            names = inspect.signature(function).parameters
            made.append({name: x for name, x in zip(names, given) if isinstance(x, Watched)})
            function(*given)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(comparing.STAND_INS, "row_function", lambda *flags: watched)
        interpret(patch)
        yield made


def broken(promises):
    """The pairs of rows of which one is written where the other is used."""
    return {
        (name, other)
        for rows in promises
        for name, one in rows.items()
        for other, two in rows.items()
        if name != other and one.written & (two.read | two.written)
    }


@pytest.mark.parametrize("kind", [tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell])
def test_classic_cells_keep_their_promise(kind, promises):
    results(kind(3, 4, dtype=np.float64), (3, 2, 3), "require", lengths=[3, 1])
    assert promises and any(row.written for row in promises[0].values()) and not broken(promises)


@settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.booleans())
def test_random_cells_keep_their_promise(promises, program, every):
    promises.clear()
    held = {name: (n,) for name, n in zip("pq", program[4])}
    results(Composed(program), (2, 2, program[0]), "require", values=held, return_states=every)
    assert not broken(promises)


def test_a_broken_promise_is_seen(promises, monkeypatch):
    """A driver that passes the same row for h and for its new value."""
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")  # which would not use it
    layer = tg.nn.Recurrent(tg.nn.RNNCell(3, 4, dtype=np.float64), fused="require")
    scan = layer._last_fused().scan
    source = scan.sources["inference"]
    scan.sources["inference"] = source.replace("h[new + row, :]", "h_weight_hh_T_buffer[row, :]")
    assert scan.sources["inference"] != source
    with tg.no_grad():
        layer(np.ones((2, 2, 3)))
    assert ("h_new_out", "h_weight_hh_T") in broken(promises)
