"""Losses at the worst change: closed forms, what has a gradient and what has none, and the size of embeddings."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.adversarial import (
    NormalisedEmbedding,
    adversarial_loss,
    fgsm,
    normalised_embedding,
    virtual_adversarial_change,
    virtual_adversarial_loss,
)

T, B, I, H, C = 5, 4, 3, 6, 3


@pytest.fixture
def net():
    """A classifier of embedded texts in float64, on the tape; its parts; texts, their lengths and labels."""
    tg.manual_seed(0)
    table = tg.nn.Embedding(20, I, dtype=np.float64)
    rnn, head = tg.nn.GRU(I, H, dtype=np.float64), tg.nn.Linear(H, C, dtype=np.float64)
    rnn.fused = "never"
    for p in (*rnn.parameters(), *head.parameters()):
        p.numpy()[...] *= 3
    words, lengths, y = tg.randint(0, 20, (T, B)), np.array([5, 3, 1, 4]), np.array([0, 2, 1, 0])
    scores = lambda x: head(rnn(x, lengths=lengths)[1][-1])
    return scores, (table, rnn, head), words, lengths, y


def test_the_worst_change_is_a_constant_of_the_loss(net):
    """L(x + r) with r = eps g / ||g|| over time and features; gradients are those of a loss at fixed r, x's too."""
    scores, (table, rnn, head), words, lengths, y = net
    loss = lambda x: tg.cross_entropy(scores(x), y)
    x = table(words)
    found = adversarial_loss(loss, x, 0.7, lengths=lengths)
    assert all(p.grad is None for p in (*rnn.parameters(), *head.parameters(), *table.parameters()))

    leaf = tg.tensor(x.numpy(), requires_grad=True)
    (g,) = tg.grad(loss(leaf), [leaf])
    r = 0.7 * g.numpy() / np.sqrt((g.numpy() ** 2).sum((0, 2), keepdims=True))
    assert found.item() == pytest.approx(loss(x + tg.tensor(r)).item(), rel=1e-13)
    assert (r[3:, 1] == 0).all() and found.item() > loss(x).item()
    parameters = [table.weight, *rnn.parameters(), *head.parameters()]
    for a, b in zip(tg.grad(found, parameters), tg.grad(loss(table(words) + tg.tensor(r)), parameters)):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(
        adversarial_loss(loss, x, 0.7, norm=np.inf).item(), loss(fgsm(loss, x, 0.7)).item(), rtol=1e-13
    )
    each = adversarial_loss(lambda x: tg.cross_entropy(scores(x), y, reduction="none"), x, 0.7, lengths=lengths)
    np.testing.assert_allclose(each.mean().item(), found.item(), rtol=1e-13)


def test_the_direction_is_found_in_eval_mode_and_the_loss_in_the_own_mode():
    modes = []

    class Spy(tg.nn.Module):
        def forward(self, x):
            modes.append(self.training)
            return x * 2.0

    spy, x = Spy(), tg.ones(T, B, C)
    adversarial_loss(lambda x: spy(x).sum(), x, 1.0)
    assert modes == [False, True] and spy.training
    modes.clear()
    virtual_adversarial_loss(lambda x: spy(x)[-1], x, 1.0, iterations=2)
    assert modes == [False, False, False, True] and spy.training
    modes.clear()
    spy.eval()
    adversarial_loss(lambda x: spy(x).sum(), x, 1.0)
    assert modes == [False, False]


def fisher(W, x):
    """The Hessian of KL(p(x) || p(x + d)) at d = 0 for scores W x."""
    z = W @ x
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    return W.T @ (np.diag(p) - np.outer(p, p)) @ W


def test_the_virtual_direction_is_the_largest_eigenvector():
    """For a linear softmax; the gradient is taken close to x, and many iterations are made."""
    rng = np.random.default_rng(3)
    W, x = rng.standard_normal((C, 5)), rng.standard_normal((B, 5))
    tg.manual_seed(0)
    scores = lambda x: x @ tg.tensor(W.T)
    found = virtual_adversarial_change(scores, x, 2.0, xi=1e-4, iterations=200, batch_dim=0).numpy()
    once = virtual_adversarial_change(scores, x, 2.0, xi=1e-4, batch_dim=0).numpy()
    for r, r_once, each in zip(found, once, x):
        values, vectors = np.linalg.eigh(fisher(W, each))
        assert np.linalg.norm(r) == pytest.approx(2.0) and np.linalg.norm(r_once) == pytest.approx(2.0)
        assert abs(r @ vectors[:, -1]) == pytest.approx(2.0, rel=1e-6)
        rayleigh = r_once @ fisher(W, each) @ r_once / 4
        assert values.mean() < rayleigh <= values[-1] * (1 + 1e-9), "one iteration beats a random direction"


def test_virtual_loss_is_the_divergence_and_has_gradients_of_its_second_half(net):
    scores, (table, rnn, head), words, lengths, _ = net
    x = table(words)
    tg.manual_seed(4)
    found = virtual_adversarial_loss(scores, x, 1.5, lengths=lengths - 1)
    tg.manual_seed(4)
    r = virtual_adversarial_change(scores, x, 1.5, lengths=lengths - 1)
    assert (r.numpy()[4:, 0] == 0).all() and (r.numpy()[:, 2] == 0).all(), "nothing is left of a text of one word"
    np.testing.assert_allclose(np.sqrt((r.numpy() ** 2).sum((0, 2)))[[0, 1, 3]], 1.5)
    p = tg.softmax(scores(x), -1).detach()
    by_hand = lambda: (p * (tg.log(p) - tg.log_softmax(scores(table(words) + r), -1))).sum() / B
    assert found.item() == pytest.approx(by_hand().item(), rel=1e-9) and found.item() > 0
    parameters = [table.weight, *rnn.parameters(), *head.parameters()]
    for a, b in zip(tg.grad(found, parameters), tg.grad(by_hand(), parameters)):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)
    small, divergences = 1e-3, []
    for _ in range(10):
        d = np.random.default_rng(len(divergences)).standard_normal(x.shape) * (r.numpy() != 0)
        d *= small / np.maximum(np.sqrt((d**2).sum((0, 2), keepdims=True)), 1e-9)
        divergences.append((p * (tg.log(p) - tg.log_softmax(scores(x + tg.tensor(d)), -1))).sum().item() / B)
    worst = virtual_adversarial_loss(scores, x, small, lengths=lengths - 1, iterations=5).item()
    assert worst > max(divergences), "worse than random changes of that size"


def test_normalised_embedding():
    """Over the text that is counted every feature has mean 0 and variance 1; gradients pass through both."""
    rng = np.random.default_rng(0)
    weight, counts = rng.standard_normal((6, 4)) * 5 + 3, np.array([3, 0, 7, 1, 1, 8])
    found = normalised_embedding(weight, counts, eps=0.0).numpy()
    text = np.repeat(found, counts, 0)
    np.testing.assert_allclose(text.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(text.var(0), 1, atol=1e-14)
    np.testing.assert_allclose(normalised_embedding(weight * 9 - 2, counts / 20, eps=0.0).numpy(), found, atol=1e-13)
    assert tg.gradcheck(lambda w: normalised_embedding(w, counts), [tg.tensor(weight, requires_grad=True)])

    tg.manual_seed(0)
    table = NormalisedEmbedding(6, 4, frequencies=counts, dtype=np.float64)
    with tg.no_grad():
        table.weight *= 100.0
    np.testing.assert_allclose(np.repeat(table(np.arange(6)).numpy(), counts, 0).std(0), 1, rtol=1e-6)
    assert set(table.state_dict()) == {"weight", "frequencies"}
    assert [name for name, _ in table.named_parameters()] == ["weight"]
    table(np.array([0, 5])).sum().backward()
    assert np.abs(table.weight.grad.numpy()[2]).max() > 0, "a word that was not looked up moves mean and variance"


def test_embeddings_with_padding():
    table = NormalisedEmbedding(4, 2, padding_idx=0, frequencies=[0, 1, 2, 3])
    table(np.array([0, 0])).sum().backward()
    assert table.weight.grad is None or not table.weight.grad.numpy().any()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: adversarial_loss(lambda x: x.sum(), np.ones((2, 2, 2), int), 1.0), TypeError, "embedding"),
        (lambda: adversarial_loss(lambda x: x.sum(), np.ones((2, 2)), 1.0), ValueError, "over which numbers"),
        (lambda: virtual_adversarial_loss(lambda x: x, np.ones((2, 2, 2)), 1.0), ValueError, r"logits \[B, C\]"),
        (lambda: virtual_adversarial_loss(lambda x: x[0, :, :1], np.ones((2, 2, 2)), 1.0), ValueError, "single logit"),
        (lambda: virtual_adversarial_loss(lambda x: 1, np.ones((2, 2, 2)), 1.0), TypeError, "not a tensor"),
        (lambda: virtual_adversarial_loss(lambda x: x[0], np.ones((2, 2, 2)), 1.0, xi=0), ValueError, "xi must be"),
        (lambda: virtual_adversarial_loss(lambda x: x[0], np.ones((2, 2, 2)), 1.0, iterations=0), ValueError, "iterat"),
        (lambda: virtual_adversarial_loss(lambda x: tg.ones(2, 2), np.ones((2, 2, 2)), 1.0), RuntimeError, "depend"),
        (lambda: normalised_embedding(np.ones(3), [1, 1, 1]), ValueError, r"weight \[V, E\]"),
        (lambda: normalised_embedding(np.ones((3, 2)), [1, 1]), ValueError, r"frequencies \[V\]"),
        (lambda: normalised_embedding(np.ones((2, 2)), [0, 0]), ValueError, "not all 0"),
        (lambda: NormalisedEmbedding(2, 2, frequencies=[1, -1]), ValueError, "not negative"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
