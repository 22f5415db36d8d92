"""Averaged gradient descent: the trigger, the mean that the paper asks for, and weights that come back."""

import copy
import json
import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import NTASGD, SGD


def parameter(seed=0, shape=(3, 2)):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def trigger_as_printed_by_the_authors(losses, nonmono):
    """`main.py` of the paper's repository: the number of the check that switches, or None."""
    best_val_loss = []
    for check, val_loss in enumerate(losses):
        if len(best_val_loss) > nonmono and val_loss > min(best_val_loss[:-nonmono]):
            return check
        best_val_loss.append(val_loss)
    return None


@pytest.mark.parametrize("n", [1, 2, 5])
def test_trigger(n):
    random = np.random.default_rng(0)
    found = set()
    for falling in (0.0, 0.1, 0.3, 3.0):
        losses = [float(x) for x in np.exp(-falling * np.arange(20)) + 0.3 * random.standard_normal(20)]
        optimiser = NTASGD([parameter()], n=n)
        answers = [optimiser.observe(loss) for loss in losses]
        expected = trigger_as_printed_by_the_authors(losses, n)
        assert answers == [expected is not None and check >= expected for check in range(20)]
        found.add(expected)
    assert len(found) > 1
    falling = NTASGD([parameter()], n=n)
    assert not any(falling.observe(-k) for k in range(30)) and not falling.averaging


def test_nan_is_no_improvement():
    optimiser = NTASGD([parameter()], n=2)
    assert [optimiser.observe(x) for x in (1.0, 0.9, 0.8, math.nan)] == [False, False, False, True]
    lost = NTASGD([parameter()], n=1)
    assert not any(lost.observe(x) for x in (math.nan, 3.0, 2.0)), "nothing finite to be worse than"


def test_the_mean_is_that_of_the_paper():
    """(w_T + ... + w_k) / (k - T + 1), T being the step of the trigger; the weights themselves are SGD's."""
    p, twin = parameter(), parameter()
    ours, plain = NTASGD([p], lr=0.3, n=1, weight_decay=0.1), SGD([twin], lr=0.3, weight_decay=0.1)
    random, path = np.random.default_rng(1), []
    for step in range(12):
        if step in (2, 4, 5):
            ours.observe(step)
            path = [p.numpy().copy()]  # the third one is the trigger
        p.grad = tg.tensor(random.standard_normal(p.shape))
        twin.grad = tg.tensor(p.grad.numpy().copy())
        ours.step()
        plain.step()
        path.append(p.numpy().copy())
    np.testing.assert_array_equal(p.numpy(), twin.numpy())
    assert ours.averaging and len(path) == 8
    np.testing.assert_allclose(ours.state[p]["ax"], np.mean(path, axis=0), rtol=1e-13)


def triggered(*parameters, steps=3):
    optimiser = NTASGD(parameters, lr=0.3, n=1)
    for loss in (1.0, 2.0, 3.0):
        optimiser.observe(loss)
    for step in range(steps):
        for p in parameters:
            p.grad = tg.tensor(np.random.default_rng(step).standard_normal(p.shape))
        optimiser.step()
    return optimiser


def test_means_are_in_the_parameters_for_a_while_and_the_weights_come_back():
    p, q = parameter(), parameter(1)
    optimiser = triggered(p)
    optimiser.add_param_group({"params": [q]})
    array, weights, means, untouched = p.numpy(), p.numpy().copy(), optimiser.state[p]["ax"].copy(), q.numpy().copy()
    assert (weights != means).all()
    with optimiser.averaged():
        assert p.numpy() is array
        np.testing.assert_array_equal(p.numpy(), means)
        np.testing.assert_array_equal(q.numpy(), untouched)
        for forbidden in (optimiser.step, optimiser.state_dict, optimiser.averaged().__enter__):
            with pytest.raises(RuntimeError, match="the means are in the parameters; leave averaged"):
                forbidden()
    with pytest.raises(KeyError), optimiser.averaged():
        raise KeyError
    np.testing.assert_array_equal(p.numpy(), weights)
    np.testing.assert_array_equal(optimiser.state[p]["ax"], means)
    optimiser.swap()
    np.testing.assert_array_equal(p.numpy(), means)
    optimiser.swap()
    np.testing.assert_array_equal(p.numpy(), weights)


def test_before_the_trigger_there_is_nothing_to_swap():
    p = parameter()
    optimiser, before = stepped(p), p.numpy().copy()
    with optimiser.averaged():
        np.testing.assert_array_equal(p.numpy(), before)
    assert optimiser.state_dict()["state"] == {}


def stepped(p):
    optimiser = NTASGD([p])
    p.grad = tg.tensor(np.zeros(p.shape))
    optimiser.step()
    return optimiser


def test_state_goes_through_json_and_the_trigger_is_remembered():
    p, q = parameter(), parameter()
    optimiser = triggered(p, steps=2)
    saved = optimiser.state_dict()
    groups = json.loads(json.dumps(saved["param_groups"]))
    other = NTASGD([q])
    q.numpy()[...] = p.numpy()
    other.load_state_dict({"state": copy.deepcopy(saved["state"]), "param_groups": groups})
    assert other.averaging and other.param_groups[0]["logs"] == (1.0, 2.0, 3.0)
    for one in (p, q):
        one.grad = tg.tensor(np.ones(one.shape))
    optimiser.step()
    other.step()
    np.testing.assert_array_equal(other.state[q]["ax"], optimiser.state[p]["ax"])


def test_averaging_beats_the_last_weights_where_gradients_are_noise():
    """What it is for: a bowl with noisy gradients and a learning rate that does not fall."""
    random, p = np.random.default_rng(0), tg.tensor(np.full(20, 3.0), requires_grad=True)
    optimiser = NTASGD([p], lr=0.5, n=3)
    for step in range(1000):
        p.grad = tg.tensor(p.numpy() + random.standard_normal(20))
        optimiser.step()
        if step % 10 == 0:
            optimiser.observe((p.numpy() ** 2).sum())
    last = (p.numpy() ** 2).sum()
    with optimiser.averaged():
        assert (p.numpy() ** 2).sum() < 0.05 * last
