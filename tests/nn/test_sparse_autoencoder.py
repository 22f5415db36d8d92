"""Sparse autoencoders against closed forms, finite differences and what can be proved of them."""

import copy

import numpy as np
import pytest

import tinygrad_rnn as tg

SAE = tg.nn.SparseAutoencoder


def states(n=40, width=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)) @ np.diag(np.linspace(0.3, 2, width)) + 0.5


def made(kind="topk", latents=9, width=6, **options):
    tg.manual_seed(3)
    sae = SAE(width, latents, kind, dtype=np.float64, **({"k": 2} if kind == "topk" else {}) | options)
    for p in (sae.bias_e, sae.bias_d):
        p.numpy()[...] = np.random.default_rng(4).uniform(-0.2, 0.2, p.shape)
    return sae.normalise(states(width=width))


def train(sae, x, steps, lr, batch=None, seed=0):
    rng, optimiser = np.random.default_rng(seed), sae.watch(tg.optim.Adam(sae.parameters(), lr=lr))
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimiser.zero_grad()
        sae.loss(x if batch is None else x[rng.integers(len(x), size=batch)]).backward()
        optimiser.step()
    return sae


@pytest.mark.parametrize("kind", ["topk", "l1", "kl", "linear"])
def test_gradients_are_those_of_the_loss(kind):
    sae, x = made(kind), states()
    sae.eval()
    assert tg.gradcheck(lambda *_: sae.loss(x), tuple(sae.parameters()), eps=1e-6, atol=1e-6)


def test_the_loss_of_ng_is_his():
    """J = 1/m sum |x^ - x|^2 / 2 + lambda / 2 |W|^2 + beta sum KL(rho || rho_j)."""
    sae, x = made("kl", rho=0.1, decay=0.01, sparsity=2.0), states()
    seen = (x - sae.mean.numpy()) / sae.scale.numpy()
    W_e, b_e, W_d, b_d = (getattr(sae, n).numpy() for n in ("weight_e", "bias_e", "weight_d", "bias_d"))
    z = 1 / (1 + np.exp(-((seen - b_d) @ W_e.T + b_e)))
    r = z.mean(0)
    expected = ((z @ W_d.T + b_d - seen) ** 2).sum() / len(x) / 2 + 0.01 / 2 * ((W_e**2).sum() + (W_d**2).sum())
    expected += 2.0 * (0.1 * np.log(0.1 / r) + 0.9 * np.log(0.9 / (1 - r))).sum()
    assert float(sae.loss(x).detach()) == pytest.approx(expected, rel=1e-12)


def test_k_latents_are_active_and_they_are_the_largest():
    sae, x = made(latents=12, k=3), states()
    _, z = sae(x)
    seen = (x - sae.mean.numpy()) / sae.scale.numpy()
    a = (seen - sae.bias_d.numpy()) @ sae.weight_e.numpy().T + sae.bias_e.numpy()
    for row, before in zip(z.numpy(), a):
        best = np.argsort(before)[-3:]
        np.testing.assert_allclose(row[best], np.maximum(before[best], 0), atol=1e-14)
        assert np.count_nonzero(row) <= 3


def test_equal_latents_and_nan():
    sae = made(latents=12, k=3)
    sae.weight_e.numpy()[...], sae.bias_e.numpy()[...] = 0, 1
    z = sae(states())[1].numpy()
    assert (np.count_nonzero(z, -1) == 3).all() and z.max() == 1
    sae.weight_e.numpy()[5] = np.nan
    assert np.isnan(sae.loss(states()).item()) and np.isnan(sae(states())[1].numpy()[:, 5]).all()


def test_the_loss_measures_every_batch_alike():
    """That of a batch is the mean of those of its states, one of which varies by nothing."""
    sae, x = made().eval(), states()
    assert sae.loss(x).item() == pytest.approx(np.mean([sae.loss(row).item() for row in x]), rel=1e-12)
    left = sae.metrics(x).unexplained  # of the states that it is normalised by
    assert sae.loss(x).item() == pytest.approx(left, rel=1e-12)


def test_a_sigmoid_that_is_always_shut_or_open_learns_on():
    for bias in -800.0, 800.0:
        sae, x = made("kl", decay=0.0), states()
        sae.bias_e.numpy()[3] = bias
        loss = sae.loss(x)
        loss.backward()
        assert np.isfinite(loss.item()) and np.isfinite(sae.weight_e.grad.numpy()).all()
        assert sae.bias_e.grad.numpy()[3] * bias > 0, "back to where it is neither"


def test_a_sigmoid_is_active_above_a_half():
    sae, x = made("kl"), states()
    sae.bias_e.numpy()[:4], sae.bias_e.numpy()[4:6] = -50, 50
    z = sae(x)[1].numpy()
    found = sae.metrics(x)
    assert found.l0 == pytest.approx((z > 0.5).sum() / len(x)) and found.dead >= 4 / 9
    sae.loss(x)
    assert sae.silent.numpy()[:6].tolist() == [40] * 4 + [0] * 2


def test_thresholds_get_the_pseudo_derivatives_of_the_paper():
    """dz/dtheta = -(theta / eps) K((a - theta) / eps), dH/dtheta = -(1 / eps) K(...), K a rectangle of width 1."""
    sae = made("jumprelu", bandwidth=0.5)
    theta = np.linspace(0.1, 0.9, 9)
    sae.log_threshold.numpy()[...] = np.log(theta)
    a = np.random.default_rng(0).uniform(-1, 1.5, (20, 9))
    weight = np.random.default_rng(1).standard_normal((2, 20, 9))
    leaf = tg.tensor(a, requires_grad=True)
    z, active = sae._jump(leaf)
    np.testing.assert_array_equal(z.numpy(), np.where(a > theta, a, 0))
    np.testing.assert_array_equal(active.numpy(), a > theta)
    (z * weight[0] + active * weight[1]).sum().backward()
    K = np.abs(a - theta) < 0.25
    expected = -(weight[0] * theta + weight[1]) / 0.5 * K
    np.testing.assert_allclose(sae.log_threshold.grad.numpy(), (expected * theta).sum(0), atol=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), weight[0] * (a > theta), atol=1e-12)


def test_columns_keep_their_norm():
    sae = train(made(), states(), 20, 0.05)
    np.testing.assert_allclose(np.linalg.norm(sae.weight_d.numpy(), axis=0), 1, atol=1e-14)
    sae.loss(states()).backward()
    sae.project_gradient_()
    np.testing.assert_allclose((sae.weight_d.grad.numpy() * sae.weight_d.numpy()).sum(0), 0, atol=1e-14)


def test_without_a_nonlinearity_it_finds_what_pca_finds():
    """What is left over is the sum of the smallest eigenvalues of the covariance (Baldi and Hornik, 1989)."""
    x = states(200)
    eigenvalues = np.linalg.eigvalsh(np.cov((x - x.mean(0)).T, bias=True))
    sae = train(SAE(6, 3, "linear", dtype=np.float64).normalise(x), x, 1500, 0.02)
    assert sae.metrics(x).unexplained == pytest.approx(eigenvalues[:3].sum() / eigenvalues.sum(), rel=1e-3)


def test_silent_latents_are_counted():
    sae, x = made(dead_after=60), states()
    sae.bias_e.numpy()[:4] = -100  # these never are active
    sae.loss(x)
    sae.loss(x)
    assert sae.silent.numpy()[:4].tolist() == [80] * 4
    assert not sae.silent.numpy()[4:].all()
    sae.eval()
    sae.loss(x)
    assert sae.silent.numpy().max() == 80


def test_dead_latents_are_taught_by_what_is_left_over():
    sae, x = made(dead_after=60, auxiliary=3), tg.tensor(states())
    assert sae._auxiliary(sae._before(x), sae._sum(sae._latents(sae._before(x))) - x) == 0, "nothing is dead"
    sae.silent.numpy()[...] = [60] * 4 + [0] * 5
    a = sae._before(x)
    left = sae._sum(sae._latents(a)) - x
    loss = sae._auxiliary(a, left)
    alone = np.maximum(a.numpy()[:, :4], 0)
    alone[np.arange(len(alone)), alone.argmin(1)] = 0  # the three largest of four
    rest = left.numpy() + alone @ sae.weight_d.numpy()[:, :4].T
    assert float(loss.detach()) == pytest.approx((rest**2).mean() / (left.numpy() ** 2).mean())
    loss.backward()
    assert np.abs(sae.weight_d.grad.numpy()[:, :4]).min() > 0
    assert not sae.weight_d.grad.numpy()[:, 4:].any()


def test_metrics_are_what_they_say():
    sae, x = made(), states()
    near, z = sae(x)
    found = sae.metrics(x)
    assert found.l0 == pytest.approx((z.numpy() != 0).sum() / len(x))
    assert found.unexplained == pytest.approx(((near.numpy() - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert found.dead == pytest.approx((~(z.numpy() != 0).any(0)).mean())
    many = np.random.default_rng(0).standard_normal((9001, 6))  # in pieces
    near, z = sae(many)
    unexplained = ((near.numpy() - many) ** 2).sum() / ((many - many.mean(0)) ** 2).sum()
    assert sae.metrics(many)[:2] == pytest.approx(((z.numpy() != 0).sum() / 9001, unexplained))
    perfect = SAE(6, 6, "linear", dtype=np.float64)
    perfect.weight_e.numpy()[...], perfect.weight_d.numpy()[...] = np.eye(6), np.eye(6)
    assert perfect.metrics(x).unexplained == pytest.approx(0, abs=1e-28)


def test_inputs_are_normalised_and_given_back():
    sae, x = made("linear", latents=6), states() * 100 + 1000
    sae.normalise(x)
    seen = (x - sae.mean.numpy()) / sae.scale.numpy()
    assert np.abs(seen.mean(0)).max() < 1e-12 and np.square(seen).mean() == pytest.approx(1)
    sae.weight_e.numpy()[...], sae.weight_d.numpy()[...] = np.eye(6), np.eye(6)
    sae.bias_d.numpy()[...], sae.bias_e.numpy()[...] = 0, 0
    np.testing.assert_allclose(sae(x)[0].detach(), x, rtol=1e-12)
    assert sae(x.reshape(4, 10, 6))[1].shape == (4, 10, 6)


def test_copies_and_state_dicts():
    sae, x = made("jumprelu"), states()
    other = copy.deepcopy(sae)
    np.testing.assert_array_equal(other(x)[0].detach(), sae(x)[0].detach())
    fresh = SAE(6, 9, "jumprelu", dtype=np.float64)
    fresh.load_state_dict(sae.state_dict())
    np.testing.assert_array_equal(fresh(x)[1].detach(), sae(x)[1].detach())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SAE(4, 8, "sparse"), "kind must be one of topk, jumprelu, l1, kl, linear, not 'sparse'"),
        (lambda: SAE(4, 8, k=9), "k must be in 1 to 8"),
        (lambda: SAE(4, 8, k=2.5), "k must be a whole number from 1, not 2.5"),
        (lambda: SAE(0, 8, k=2), "input_size must be a whole number from 1, not 0"),
        (lambda: SAE(4, 8, "l1", sparsity=-1), "sparsity must be at least 0, not -1"),
        (lambda: SAE(4, 8, k=2, sparsity=1e-3), "sparsity is of 'kl' and 'jumprelu' and 'l1'; 'topk' has no use"),
        (lambda: SAE(4, 8, "l1", auxiliary=2), "auxiliary is of 'topk'; 'l1' has no use for it"),
        (lambda: SAE(4, 8, "kl", rho=0), "rho must be between 0 and 1, not 0"),
        (lambda: SAE(4, 8, "jumprelu", bandwidth=0), "bandwidth must be above 0, not 0"),
        (lambda: SAE(4, 8, k=2).loss(np.zeros((0, 4))), "there are no states"),
        (lambda: SAE(4, 8, k=2).normalise([[0, 1, np.inf, 0]]), "numbers that are not finite"),
        (lambda: SAE(4, 8, k=2).loss(np.zeros((3, 5))), r"expected states \[..., 4\], got shape \[3, 5\]"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_it_recovers_a_dictionary_from_superposition():
    """32 directions in 16 dimensions, 3 at a time: cosines above 0.98. One at a time explains little of such states."""
    rng = np.random.default_rng(0)
    D = rng.standard_normal((16, 32))
    D /= np.linalg.norm(D, axis=0)
    s = rng.uniform(0.5, 1.5, (20_000, 32)) * (rng.random((20_000, 32)).argsort(1) < 3)
    x = (s @ D.T).astype(np.float32)
    cosine, left = {}, {}
    for k, steps in ((3, 3000), (1, 600)):
        tg.manual_seed(0)
        sae = train(SAE(16, 32, k=k, dead_after=5000), x, steps, 3e-3, 512)
        left[k] = sae.metrics(x).unexplained
        cosine[k] = np.abs(D.T @ sae.weight_d.numpy()).max(1).mean()
    assert cosine[3] > 0.98
    assert left[3] < 0.1 < 0.3 < left[1]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_states_that_are_all_the_same_are_not_blown_up(value):
    """What is left of them by the rounding of their mean is no scale."""
    sae = tg.nn.SparseAutoencoder(6, 10, k=3).normalise(np.full((5, 6), value))
    assert sae.scale.item() == 1
    assert tg.nn.SparseAutoencoder(6, 10, k=3).normalise(1 + 1e-3 * np.eye(6)).scale.item() < 1e-3
