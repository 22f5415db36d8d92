"""Penalties on weights and activations: value, gradient, and what weight_decay has to do with them."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import (
    SGD,
    Adam,
    AdamW,
    activation_penalty,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    norm_stabilizer_penalty,
    soft_orthogonality_penalty,
    temporal_activation_penalty,
)


def parameters():
    random = np.random.default_rng(0)
    return [tg.tensor(random.standard_normal(shape), requires_grad=True) for shape in [(3, 4), (5,), ()]]


def test_values_and_gradients():
    ps = parameters()
    loss = l1_penalty(ps, 0.1) + l2_penalty(iter(ps), 0.5)
    expected = sum(0.1 * np.abs(p.numpy()).sum() + 0.5 * (p.numpy() ** 2).sum() for p in ps)
    assert loss.shape == () and loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    for p in ps:
        np.testing.assert_allclose(p.grad.numpy(), 0.1 * np.sign(p.numpy()) + p.numpy(), rtol=1e-12)


def test_a_single_tensor_is_penalised_whole():
    p = tg.tensor(np.array([1.0, -2.0]), requires_grad=True)
    assert l1_penalty(p, 1.0).item() == 3.0 and l2_penalty(p, 1.0).item() == 5.0


def test_both_can_be_differentiated_twice():
    assert tg.gradgradcheck(lambda p: l1_penalty([p], 0.3) + l2_penalty([p], 0.7), [parameters()[0]])


def test_l1_lets_a_zero_be():
    p = tg.tensor([0.0, 2.0], requires_grad=True)
    l1_penalty(p, 0.5).backward()
    np.testing.assert_array_equal(p.grad.numpy(), np.float32([0.0, 0.5]))


@pytest.mark.parametrize(("kind", "same"), [(SGD, True), (Adam, True), (AdamW, False)])
def test_weight_decay_is_twice_the_l2_penalty_except_in_adamw(kind, same):
    def trained(weight_decay, strength):
        p = tg.tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
        optimiser = kind([p], lr=0.1, weight_decay=weight_decay)
        for _ in range(10):
            optimiser.zero_grad()
            (p.sin().sum() + l2_penalty([p], strength)).backward()
            optimiser.step()
        return p.numpy()

    assert np.allclose(trained(0.2, 0.0), trained(0.0, 0.1), rtol=1e-10) == same


@pytest.mark.parametrize("penalty", [l1_penalty, l2_penalty])
def test_refusals(penalty):
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"{penalty.__name__}: strength must be"):
            penalty(parameters(), bad)
    with pytest.raises(ValueError, match=f"{penalty.__name__}: no parameters"):
        penalty([], 1.0)


def test_elastic_net_is_the_sum_of_both():
    ps, qs = parameters(), parameters()
    loss = elastic_net_penalty(iter(ps), 0.3, 0.7)
    expected = l1_penalty(qs, 0.3) + l2_penalty(qs, 0.7)
    assert loss.shape == () and loss.item() == pytest.approx(expected.item(), rel=1e-14)
    loss.backward()
    expected.backward()
    for p, q in zip(ps, qs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-14)
    assert elastic_net_penalty(ps[0], 0.0, 0.0).item() == 0.0
    for bad in ((-1.0, 0.0), (0.0, np.nan)):
        with pytest.raises(ValueError, match=r"elastic_net_penalty: l[12] must be at least 0 and finite"):
            elastic_net_penalty(ps, *bad)


# ---- Activations -----------------------------------------------------------------------------------------------------


def activations(*shape):
    return tg.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)


def test_activation_penalty():
    h = activations(5, 2, 3)
    assert activation_penalty(h, 2.0).item() == pytest.approx(2 * (h.numpy() ** 2).mean(), rel=1e-14)
    assert tg.gradcheck(lambda h: activation_penalty(h, 2.0), [h])
    assert tg.gradgradcheck(lambda h: activation_penalty(h, 2.0), [h])


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_temporal_activation_penalty(dim):
    h = activations(5, 2, 3)
    changes = np.diff(h.numpy(), axis=dim)
    loss = temporal_activation_penalty(h, 0.5, dim=dim)
    assert loss.shape == () and loss.item() == pytest.approx(0.5 * (changes**2).mean(), rel=1e-14)
    assert tg.gradcheck(lambda h: temporal_activation_penalty(h, 0.5, dim), [h])
    assert tg.gradgradcheck(lambda h: temporal_activation_penalty(h, 0.5, dim), [h])


def test_a_single_step_and_a_steady_state_cost_nothing():
    h = activations(1, 2, 3)
    loss = temporal_activation_penalty(h, 1.0)
    loss.backward()
    assert loss.item() == 0.0 and (h.grad.numpy() == 0).all()
    assert temporal_activation_penalty(h.expand(7, 2, 3), 1.0).item() == 0.0


@pytest.mark.parametrize("fused", ["require", "never"])
def test_through_a_recurrent_layer(fused):
    """Both go back through time on either engine."""
    tg.manual_seed(0)
    layer = tg.nn.RNN(3, 4).double()
    layer.fused, x = fused, activations(5, 2, 3).detach()

    def loss(*weights):
        y, _ = layer(x)
        return activation_penalty(y, 2.0) + temporal_activation_penalty(y, 1.0)

    assert tg.gradcheck(loss, list(layer.parameters()))


def test_activations_that_make_no_sense():
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="activation_penalty: alpha must be at least 0 and finite"):
            activation_penalty(activations(2), bad)
        with pytest.raises(ValueError, match="temporal_activation_penalty: beta must be at least 0 and finite"):
            temporal_activation_penalty(activations(2), bad)
    with pytest.raises(ValueError, match=r"no activations in a tensor of shape \[0, 3\]"):
        activation_penalty(tg.zeros(0, 3), 1.0)
    for empty in (tg.zeros(0, 3), tg.tensor(1.0)):
        with pytest.raises(ValueError, match="no steps in a tensor of shape"):
            temporal_activation_penalty(empty, 1.0)
    with pytest.raises(IndexError, match="temporal_activation_penalty: dim 3"):
        temporal_activation_penalty(activations(2, 2, 2), 1.0, dim=3)


def test_norm_stabiliser_is_its_formula():
    h = np.random.default_rng(2).standard_normal((6, 3, 4))
    norms = np.linalg.norm(h, axis=-1)
    changes = np.diff(norms, axis=0) ** 2
    assert norm_stabilizer_penalty(tg.tensor(h), 7.0).item() == pytest.approx(7 * changes.mean(), rel=1e-12)
    other_way = tg.tensor(h.swapaxes(0, 1))
    assert norm_stabilizer_penalty(other_way, 7.0, dim=1).item() == pytest.approx(7 * changes.mean(), rel=1e-12)
    first = np.random.default_rng(3).standard_normal((3, 4))
    more = np.concatenate([(norms[:1] - np.linalg.norm(first, axis=-1)) ** 2, changes])
    assert norm_stabilizer_penalty(tg.tensor(h), 2.0, initial=tg.tensor(first)).item() == pytest.approx(2 * more.mean())
    lengths = np.array([6, 1, 3])
    runs = np.arange(6)[:, None] < lengths
    ended = tg.tensor(h * runs[..., None], requires_grad=True)
    found = norm_stabilizer_penalty(ended, 1.0, lengths=lengths)
    assert found.item() == pytest.approx(changes[runs[1:]].mean(), rel=1e-12)
    found.backward()
    assert not ended.grad.numpy()[~runs].any() and ended.grad.numpy()[:3, 2].all()
    with_first = norm_stabilizer_penalty(ended, 1.0, initial=tg.tensor(first), lengths=lengths)
    assert with_first.item() == pytest.approx(more[runs].mean(), rel=1e-12)
    assert norm_stabilizer_penalty(tg.ones(1, 2, 3), 1.0).item() == 0
    assert tg.gradcheck(lambda h: norm_stabilizer_penalty(h, 3.0), [tg.tensor(h, requires_grad=True)])


def test_norm_stabiliser_lets_a_zero_be():
    """States that are zero have a gradient that is finite."""
    h = tg.zeros(4, 2, 3, requires_grad=True)
    norm_stabilizer_penalty(h, 1.0).backward()
    np.testing.assert_array_equal(h.grad.numpy(), 0)


def test_soft_orthogonality_is_its_formula():
    W = tg.tensor(np.random.default_rng(4).standard_normal((8, 4)), requires_grad=True)
    penalty = soft_orthogonality_penalty(W, 0.3)
    A = W.numpy().T @ W.numpy() - np.eye(4)
    assert penalty.item() == pytest.approx(0.3 * (A * A).sum(), rel=1e-12)
    penalty.backward()
    np.testing.assert_allclose(W.grad.numpy(), 0.3 * 4 * W.numpy() @ A, rtol=1e-10)
    halves = soft_orthogonality_penalty([W[:4], W[4:]], 0.3).item()
    assert soft_orthogonality_penalty([W], 0.3, blocks=2).item() == pytest.approx(halves, rel=1e-12)
    assert soft_orthogonality_penalty(tg.eye(3), 1.0).item() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_stabilizer_penalty(tg.zeros(3, 2, 2), -1.0), "beta must be at least 0"),
        (lambda: norm_stabilizer_penalty(tg.zeros(3, 2, 2), 1.0, dim=2), "no steps in dimension 2"),
        (lambda: norm_stabilizer_penalty(tg.zeros(3, 0, 2), 1.0), "no steps"),
        (lambda: norm_stabilizer_penalty(tg.zeros(3, 2, 2), 1.0, lengths=[3]), r"lengths has shape \[1\]"),
        (lambda: soft_orthogonality_penalty(tg.zeros(3), 1.0), "expected a matrix"),
        (lambda: soft_orthogonality_penalty(tg.zeros(4, 2), 1.0, blocks=3), "3 blocks of rows"),
        (lambda: soft_orthogonality_penalty(tg.zeros(4, 2), float("nan")), "strength must be"),
    ],
)
def test_mistakes_of_these_two_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lengths_and_blocks_that_cannot_be():
    h = tg.randn(4, 2, 3)
    for lengths in ([5, 1], [-1, 2], [1.5, 2.0]):
        with pytest.raises(ValueError, match="norm_stabilizer_penalty: lengths must be integers from 0 to 4"):
            tg.optim.norm_stabilizer_penalty(h, 1.0, lengths=lengths)
    expected = tg.optim.norm_stabilizer_penalty(h, 1.0, lengths=[4, 0]).item()
    assert tg.optim.norm_stabilizer_penalty(h, 1.0, lengths=np.array([4, 0], np.uint8)).item() == expected
    with pytest.raises(ValueError, match="soft_orthogonality_penalty: blocks must be a whole number from 1, not 0"):
        tg.optim.soft_orthogonality_penalty(tg.ones(2, 2), 1.0, blocks=0)
