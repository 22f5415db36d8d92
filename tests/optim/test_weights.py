"""Limits on weights, and noise on them for a while."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import SGD, max_norm_, weight_noise


def parameter(*shape, dtype=np.float64, seed=0):
    return tg.tensor(np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype), requires_grad=True)


# ---- Maximal norms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [None, 0, 1, (0, 1)], ids=str)
def test_units_that_are_too_long_are_shortened(dtype, dim):
    p = parameter(6, 5, dtype=dtype)
    p.numpy()[:, 1] *= 0.1
    p.numpy()[2] *= 0.1
    before, array, axis = p.numpy().copy(), p.numpy(), 1 if dim is None else dim
    norms = np.sqrt((before.astype(np.float64) ** 2).sum(axis=axis, keepdims=True))
    max_norm_(p, 1.5, dim=dim)
    expected = before * np.minimum(1, 1.5 / norms)
    assert p.numpy() is array
    np.testing.assert_allclose(p.numpy(), expected, rtol=4 * np.finfo(dtype).eps)
    short = np.broadcast_to(norms <= 1.5, before.shape)
    np.testing.assert_array_equal(p.numpy()[short], before[short])
    assert dim == (0, 1) or 0 < short.sum() < short.size


def test_biases_lead_into_no_unit():
    model = tg.nn.Linear(3, 4)
    model.bias.numpy()[...] = 100
    max_norm_(model.parameters(), 0.01)
    np.testing.assert_allclose(np.linalg.norm(model.weight.numpy(), axis=1), 0.01, rtol=1e-5)
    assert (model.bias.numpy() == 100).all()


def test_weights_stay_in_the_ball_while_they_are_learned():
    p = parameter(2, 3)
    optimiser = SGD([p], lr=1.0)
    for _ in range(5):
        optimiser.zero_grad()
        (-10 * p).sum().backward()
        optimiser.step()
        max_norm_([p], 2.0)
        np.testing.assert_allclose(np.linalg.norm(p.numpy(), axis=1), 2, rtol=1e-14)


def test_limits_that_make_no_sense():
    p, q = parameter(2, 3), parameter(2, 2, 2)
    before = q.numpy().copy()
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm_: max_norm must be at least 0"):
            max_norm_([p], bad)
    with pytest.raises(IndexError, match=r"max_norm_: a parameter of shape \[2, 3\] has 2 dimensions, and no dim 2"):
        max_norm_([q, p], 0.1, dim=2)
    np.testing.assert_array_equal(q.numpy(), before)
    max_norm_([q], 0.0)
    assert not q.numpy().any()


# ---- Noise -----------------------------------------------------------------------------------------------------------


def test_noise_comes_and_goes():
    p, frozen, scalar = parameter(200, 300, dtype=np.float32), parameter(3).requires_grad_(False), parameter()
    arrays = [x.numpy() for x in (p, frozen, scalar)]
    before = [a.copy() for a in arrays]
    tg.manual_seed(3)
    with weight_noise([p, frozen, scalar, p], 0.25):
        noise = p.numpy() - before[0]
        np.testing.assert_array_equal(frozen.numpy(), before[1])
        assert p.dtype == np.float32 and scalar.item() != before[2]
        assert abs(noise.mean()) < 4.5 * 0.25 / 245 and abs(noise.std() - 0.25) < 4.5 * 0.25 / 346
    for x, array, old in zip((p, frozen, scalar), arrays, before):
        assert x.numpy() is array
        np.testing.assert_array_equal(array, old)
    tg.manual_seed(3)
    with weight_noise(p, 0.25):
        np.testing.assert_array_equal(p.numpy() - before[0], noise)
    with weight_noise(p, 0.25):
        assert (p.numpy() - before[0] != noise).any()


def test_weights_come_back_on_an_error_and_from_inner_noise():
    p = parameter(4)
    before = p.numpy().copy()
    with pytest.raises(KeyError), weight_noise([p], 1.0):
        outer = p.numpy().copy()
        with weight_noise([p], 1.0):
            assert (p.numpy() != outer).all()
        np.testing.assert_array_equal(p.numpy(), outer)
        raise KeyError
    np.testing.assert_array_equal(p.numpy(), before)


@pytest.mark.parametrize("fused", ["require", "never"])
def test_the_gradient_is_that_of_the_noisy_weights(fused):
    tg.manual_seed(0)
    layer, twin = tg.nn.RNN(3, 4).double(), tg.nn.RNN(3, 4).double()
    layer.fused, x = fused, tg.tensor(np.random.default_rng(0).standard_normal((5, 2, 3)))
    layer(x)[0].sum().backward()  # compiled, and with weights that may have been packed
    layer.zero_grad()
    with weight_noise(layer.parameters(), 0.5):
        twin.load_state_dict(layer.state_dict())
        layer(x)[0].square().sum().backward()
    twin(x)[0].square().sum().backward()
    for p, q in zip(layer.parameters(), twin.parameters()):
        assert np.abs(p.numpy() - q.numpy()).max() > 0.1
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_a_backward_pass_after_the_noise_is_warned_of():
    p = parameter(2)
    with weight_noise([p], 0.5):
        loss = (p * p).sum()
    with pytest.warns(RuntimeWarning, match="was written to"):
        loss.backward()


def test_deviations_that_make_no_sense():
    p = parameter(2)
    before = p.numpy().copy()
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight_noise: std must be at least 0 and finite"), weight_noise([p], bad):
            pass
    with weight_noise([p], 0.0):
        np.testing.assert_array_equal(p.numpy(), before)
