"""Early stopping: when it stops, what it keeps, and that it goes on where it was."""

import json
import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import EarlyStopping


@pytest.mark.parametrize(
    ("options", "metrics", "expected"),
    [
        ({"patience": 1}, [3, 2, 2], [0, 0, 1]),
        ({"patience": 2}, [3, 2, 4, 1, 1, 1], [0, 0, 0, 0, 0, 1]),
        ({"patience": 2, "mode": "max"}, [1, 2, 1, 3, 3, 2], [0, 0, 0, 0, 0, 1]),
        ({"patience": 2, "min_delta": 1.0}, [5, 4.5, 4, 3.5], [0, 0, 1, 0]),
        ({"patience": 1, "min_delta": 1.0}, [5, 4, 3.9], [0, 1, 0]),
        ({"patience": 1, "min_delta": 0.5, "mode": "max"}, [1, 1.5, 1.6], [0, 1, 0]),
        ({"patience": 2}, [math.nan, math.nan], [0, 1]),
        ({"patience": 3}, [1, math.nan, 2, math.inf], [0, 0, 0, 1]),
    ],
)
def test_when(options, metrics, expected):
    stopper = EarlyStopping(**options)
    assert [stopper.step(metric) for metric in metrics] == [bool(x) for x in expected]
    assert stopper.stopped == bool(expected[-1]) and stopper.checks == len(metrics)


def test_what_it_knows():
    stopper = EarlyStopping(3)
    assert (stopper.best, stopper.best_check) == (math.inf, -1)
    for metric in (5.0, tg.tensor(4.0), np.float32(6.0)):
        stopper.step(metric)
    assert (stopper.best, stopper.best_check, stopper.num_bad_checks) == (4.0, 1, 1)
    assert repr(stopper) == "EarlyStopping(patience=3, min_delta=0.0, mode='min')  # best 4.0, 1 checks ago"


def set_all(model, value):
    for p in model.parameters():
        p.numpy()[...] = value


def test_the_best_weights_are_kept_and_restored_in_place():
    model = tg.nn.Linear(2, 2)
    stopper, array = EarlyStopping(2, keep=model), model.weight.numpy()
    with pytest.raises(RuntimeError, match="no weights to restore: no check has been an improvement yet"):
        stopper.restore()
    for value, metric in ((1, 3.0), (2, 1.0), (3, 2.0)):
        set_all(model, value)
        stopper.step(metric)
    assert model.weight.numpy() is array and (array == 3).all()
    stopper.restore()
    assert model.weight.numpy() is array and (array == 2).all() and (model.bias.numpy() == 2).all()
    set_all(model, 9)
    stopper.restore()
    assert (array == 2).all(), "what is kept is a copy"
    with pytest.raises(RuntimeError, match="no weights to restore: make it with keep=model"):
        EarlyStopping(1).restore()


def test_it_goes_on_from_its_state(tmp_path):
    path, stopper, other = tmp_path / "run.safetensors", EarlyStopping(3), EarlyStopping(3)
    for metric in (2.0, 1.0, 3.0):
        stopper.step(metric)
    tg.save_checkpoint(path, metadata={"stopper": stopper.state_dict()})
    other.load_state_dict(tg.load_checkpoint(path).metadata["stopper"])
    assert other.state_dict() == stopper.state_dict()
    assert [other.step(x) for x in (2.0, 2.0)] == [stopper.step(x) for x in (2.0, 2.0)] == [False, True]
    fresh = EarlyStopping(3, mode="max")
    fresh.load_state_dict(json.loads(json.dumps(fresh.state_dict())))
    assert fresh.best == -math.inf


def test_its_state_has_the_weights():
    model, twin = tg.nn.Linear(2, 2), tg.nn.Linear(2, 2)
    stopper, other = EarlyStopping(3, keep=model), EarlyStopping(3, keep=twin)
    set_all(model, 4)
    stopper.step(1.0)
    state = stopper.state_dict()
    other.load_state_dict(state)
    state["best_weights"]["weight"][...] = 0
    other.restore()
    stopper.restore()
    assert (twin.weight.numpy() == 4).all() and (model.weight.numpy() == 4).all()


def test_refusals():
    for bad in (0, -1, math.nan):
        with pytest.raises(ValueError, match="EarlyStopping: patience must be at least 1"):
            EarlyStopping(bad)
    for bad in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="EarlyStopping: min_delta must be at least 0 and finite"):
            EarlyStopping(1, bad)
    with pytest.raises(ValueError, match="EarlyStopping: mode must be 'min' or 'max', got 'auto'"):
        EarlyStopping(1, mode="auto")
    stopper = EarlyStopping(1)
    stopper.step(1.0)
    before = stopper.state_dict()
    with pytest.raises(ValueError, match="EarlyStopping: the state lacks best_check, checks"):
        stopper.load_state_dict({"best": 0.0, "num_bad_checks": 0})
    assert stopper.state_dict() == before


def test_a_state_that_holds_no_numbers_changes_nothing():
    stopping = tg.optim.EarlyStopping(patience=2)
    stopping.step(1.0)
    before = stopping.state_dict()
    with pytest.raises(ValueError, match="EarlyStopping: best of the state is no number: 'x'"):
        stopping.load_state_dict({**before, "best": "x", "checks": 7})
    assert stopping.state_dict() == before
