"""fgsm and pgd: exact where the loss is linear, elsewhere the plain algorithm, within bounds, leaving no trace."""

import functools
import math

import numba
import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.adversarial import fgsm, pgd

T, B, I, H = 6, 5, 3, 4
NORMS = [math.inf, 2]


def net(seed=0, kind=tg.nn.GRU, **options):
    """The losses of a classifier of three classes in float64, on the tape, as a function of x; its layer; inputs."""
    tg.manual_seed(seed)
    rnn, head = kind(I, H, dtype=np.float64, **options), tg.nn.Linear(H, 3, dtype=np.float64)
    rnn.fused = "never"
    for p in (*rnn.parameters(), *head.parameters()):
        p.numpy()[...] *= 3
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 3, B), rng.standard_normal((T, B, I))
    losses = lambda x, **call: tg.cross_entropy(head(rnn(x, **call)[0].sum(0)), y, reduction="none")
    return losses, rnn, x


def size(d, norm, batch_dim=1):
    """The norm of the change of each sequence."""
    flat = np.moveaxis(np.asarray(d), batch_dim, 0).reshape(d.shape[batch_dim], -1)
    return np.abs(flat).max(1) if norm == math.inf else np.sqrt((flat**2).sum(1))


# ---- What is known exactly -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm, dual", [(math.inf, 1), (2, 2)])
@pytest.mark.parametrize("attack", [fgsm, functools.partial(pgd, step_size=9), functools.partial(pgd, steps=1)])
def test_a_linear_recurrent_net_loses_the_dual_norm(attack, norm, dual):
    """Of a margin m linear in x there is left m - eps ||dm/dx||; a ReLU net whose units never rest is linear."""
    tg.manual_seed(1)
    rnn, rng = tg.nn.RNN(I, H, nonlinearity="relu", dtype=np.float64), np.random.default_rng(1)
    rnn.fused = "never"
    rnn.bias_ih_l0.numpy()[...] = 50
    w, x = rng.standard_normal(H), rng.standard_normal((T, B, I))
    margin = lambda x: rnn(x)[0][-1] @ tg.tensor(w)
    leaf = tg.tensor(x, requires_grad=True)
    (g,) = tg.grad(margin(leaf).sum(), [leaf])
    least = margin(x).numpy() - 0.3 * np.linalg.norm(np.moveaxis(g.numpy(), 1, 0).reshape(B, -1), dual, axis=1)
    options = {} if attack is fgsm or "step_size" in attack.keywords else dict(random_start=False)
    found = margin(attack(lambda x: -margin(x), x, 0.3, norm=norm, **options)).numpy()
    share = (found - least) / (margin(x).numpy() - least)  # of what could be lost, what was not
    assert (np.abs(share) <= 1e-10).all()


@pytest.mark.parametrize("norm", NORMS)
def test_ten_lines_of_torch_find_the_same(norm):
    """The plain algorithm, in float64, from the same start: the same iterates, and of each sequence the worst."""
    torch = pytest.importorskip("torch")
    losses, rnn, x = net()
    head = losses.__closure__[0].cell_contents  # in the order of their names: head, rnn, y
    labels = torch.tensor(losses.__closure__[2].cell_contents)
    theirs = torch.nn.GRU(I, H).double()
    theirs.load_state_dict({name: torch.tensor(a) for name, a in rnn.state_dict().items()})
    W, b = (torch.tensor(p.numpy()) for p in (head.weight, head.bias))

    tg.manual_seed(5)
    ours = pgd(losses, x, 0.5, steps=7, step_size=0.2, norm=norm).numpy()
    rng = tg.manual_seed(5)
    if norm == math.inf:
        d = torch.tensor(rng.uniform(-0.5, 0.5, x.shape))
    else:
        d = torch.tensor(rng.standard_normal(x.shape))
        d = d / d.norm(dim=(0, 2), keepdim=True) * torch.tensor(0.5 * rng.random((1, B, 1)) ** (1 / (T * I)))
    seen = []
    for _ in range(8):
        here = (torch.tensor(x) + d).requires_grad_()
        value = torch.nn.functional.cross_entropy(theirs(here)[0].sum(0) @ W.T + b, labels, reduction="none")
        (g,) = torch.autograd.grad(value.sum(), [here])
        seen.append((value.detach().numpy(), here.detach().numpy()))
        d = d + 0.2 * (g.sign() if norm == math.inf else g / g.norm(dim=(0, 2), keepdim=True))
        d = d.clamp(-0.5, 0.5) if norm == math.inf else d * (0.5 / d.norm(dim=(0, 2), keepdim=True)).clamp(max=1)
    worst = np.argmax([value for value, _ in seen], 0)
    expected = np.stack([seen[k][1][:, b] for b, k in enumerate(worst)], 1)
    assert len(set(worst)) > 1 or worst[0] > 0
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_one_step_of_the_default_size_from_x_is_fgsm():
    losses, _, x = net()
    for norm in NORMS:
        a, b = fgsm(losses, x, 0.1, norm=norm), pgd(losses, x, 0.1, 1, norm=norm, random_start=False)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_and_restarts_are_no_worse_and_large_ones_break_everything(norm):
    losses, _, x = net()

    def reached(epsilon, **options):
        tg.manual_seed(2)
        return losses(pgd(losses, x, epsilon, norm=norm, **options)).numpy()

    clean = losses(x).numpy()
    assert (reached(0.3) > clean).all()
    assert (reached(0.3, restarts=4) >= reached(0.3) - 1e-15).all()
    assert (reached(0.3, steps=40, step_size=0.05) >= reached(0.3, steps=1, step_size=0.05)).all()
    assert (reached(20.0, steps=50) > math.log(3)).all(), "nothing is hidden from a gradient: all sequences fail"


def test_gradients_too_small_for_their_squares_have_a_direction():
    x = np.ones((2, 1, 2), np.float32)
    found = fgsm(lambda x: (x * np.float32(1e-30)).sum(), x, 1.0, norm=2)
    np.testing.assert_allclose(found.numpy() - x, 0.5, rtol=1e-6)
    still = pgd(lambda x: (0 * x).sum(), x, 1.0, norm=2, random_start=False)
    assert (still.numpy() == x).all()


# ---- What is allowed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_first", [False, True])
def test_changes_stay_in_the_ball_of_each_sequence_and_off_its_padding(norm, dtype, batch_first):
    _, rnn, x = net(batch_first=batch_first)
    rnn.to(dtype)
    lengths = np.array([6, 1, 3, 0, 5])
    batch_dim = 0 if batch_first else 1
    x = (x.swapaxes(0, 1) if batch_first else x).astype(dtype)
    loss = lambda x: rnn(x, lengths=lengths)[0].square().sum((1, 2) if batch_first else (0, 2))
    within = np.arange(T)[:, None] < lengths
    within = within.T if batch_first else within
    for attack in (fgsm, functools.partial(pgd, steps=3, restarts=2)):
        found = attack(loss, x, 0.25, norm=norm, lengths=lengths)
        d = found.numpy() - x
        assert found.dtype == dtype and not found.requires_grad
        assert (d[~within] == 0).all() and (found.numpy()[~within] == x[~within]).all()
        sizes = size(d, norm, batch_dim)
        assert (sizes <= 0.25 * (1 + 1e-5)).all() and sizes[3] == 0
        if attack is fgsm:
            np.testing.assert_allclose(sizes[lengths > 0], 0.25, rtol=1e-5)
    tg.manual_seed(1)
    masked = pgd(loss, x, 0.25, norm=norm, mask=within).numpy()
    tg.manual_seed(1)
    assert (masked == pgd(loss, x, 0.25, norm=norm, lengths=lengths).numpy()).all()


def test_a_random_start_is_uniform_in_the_ball():
    x = np.zeros((2, 4000, 1))
    still = lambda x: (x * 0).sum((0, 2))
    tg.manual_seed(0)
    d = pgd(still, x, 2.0, 1, norm=2).numpy()[:, :, 0]
    radius = np.sqrt((d**2).sum(0))
    assert radius.max() <= 2 and abs((radius < 1).mean() - 0.25) < 0.03, "a disk of half the radius has a quarter"
    assert abs((d[0] > 0).mean() - 0.5) < 0.03
    d = pgd(still, x, 2.0, 1).numpy()
    assert np.abs(d).max() <= 2 and abs((np.abs(d) < 1).mean() - 0.5) < 0.03
    tg.manual_seed(0)
    a = pgd(still, x, 2.0, 1).numpy()
    tg.manual_seed(0)
    assert (a == pgd(still, x, 2.0, 1).numpy()).all() and (a != d).any()


def test_bounds_only_if_they_are_given():
    losses, _, x = net()
    free = pgd(losses, x, 0.5).numpy()
    assert free.max() > x.max()
    for norm in NORMS:
        low = np.full(I, x.min())
        found = pgd(losses, x, 0.5, norm=norm, bounds=(low, x.max())).numpy()
        assert x.min() <= found.min() and found.max() <= x.max() and (size(found - x, norm) <= 0.5 + 1e-12).all()
        assert pgd(losses, x, 0.5, norm=norm, bounds=(None, x.max())).numpy().max() <= x.max()
    beyond = x.copy()
    beyond[2, 1] = 9
    with pytest.raises(ValueError, match="x itself is out of bounds"):
        fgsm(losses, beyond, 0.1, bounds=(-4, 4))
    mask = np.ones((T, B, 1), bool)
    mask[2, 1] = False  # what may not change may be anything
    assert (fgsm(losses, beyond, 0.1, bounds=(-4, 4), mask=mask).numpy()[2, 1] == 9).all()


def test_one_number_for_the_batch_keeps_the_worst_batch():
    losses, _, x = net()
    total = lambda x: losses(x).mean()
    tg.manual_seed(3)
    one = losses(pgd(total, x, 0.3, restarts=3)).numpy()
    tg.manual_seed(3)
    each = losses(pgd(losses, x, 0.3, restarts=3)).numpy()
    assert one.mean() > losses(x).numpy().mean() and (each >= one - 1e-12).all()


def test_which_dimension_counts_sequences():
    W = tg.tensor(np.random.default_rng(0).standard_normal((4, 3)))
    rows = lambda x: (x @ W).square().sum(1)
    x = np.random.default_rng(1).standard_normal((5, 4))
    assert (size(pgd(rows, x, 0.5, norm=2, batch_dim=0).numpy() - x, 2, 0) <= 0.5 + 1e-12).all()
    assert (rows(pgd(rows, x, 0.5)).numpy() >= rows(x).numpy()).all(), "five values belong to the five rows"
    whole = fgsm(lambda x: rows(x).sum(), x, 0.5, norm=2, batch_dim=None).numpy() - x
    assert np.linalg.norm(whole) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="over which numbers a 2-norm goes"):
        fgsm(rows, x, 0.5, norm=2)
    with pytest.raises(ValueError, match="say which dimension"):
        pgd(lambda x: x.sum(1), np.ones((4, 4)), 0.5)
    with pytest.raises(ValueError, match="5 values, but x is one sequence"):
        pgd(rows, x, 0.5, batch_dim=None)
    with pytest.raises(ValueError, match="dimension 1 of x counts 4"):
        pgd(rows, x, 0.5, batch_dim=1)


# ---- No trace --------------------------------------------------------------------------------------------------------


class Holder:
    """Not a module, but it has one."""

    def __init__(self, net):
        self.net = net

    def loss(self, x):
        return self.net(x).sum()


def ways_to_a_model(net):
    helper = lambda x: net(x)
    return {
        "closure": lambda x: net(x).sum(),
        "function of a function": lambda x: helper(x).sum(),
        "method": Holder(net).loss,
        "partial": functools.partial(lambda net, x: net(x).sum(), net),
        "default": lambda x, net=net: net(x).sum(),
        "comprehension": lambda x: sum([net(x).sum() for _ in range(1)]),
    }


@pytest.mark.parametrize("way", ways_to_a_model(None))
def test_models_stand_still_and_are_left_as_they_were(way):
    drop, linear = tg.nn.Dropout(0.5), tg.nn.Linear(I, 2)
    net, modes, needs = tg.nn.Sequential(linear, drop, tg.nn.Dropout(0.5).eval()), [], []
    spy = lambda x: (modes.append([m.training for m in net.modules()]), needs.append(linear.weight.requires_grad), x)[2]
    net.append(spy)
    frozen = tg.nn.Linear(I, I).requires_grad_(False)
    net.append(lambda x: x @ frozen.weight[:2])
    before = [m.training for m in net.modules()]
    loss = ways_to_a_model(net)[way]
    loss(tg.ones(1, 1, I)).backward()
    places = [(p.node, p.grad, p.grad.numpy().copy()) for p in net.parameters()]
    modes.clear(), needs.clear()
    pgd(loss, np.ones((T, B, I), np.float32), 0.1, steps=2)
    assert not any(map(any, modes)) and len(modes) == 3 and not any(needs)
    with tg.no_grad():
        fgsm(loss, np.ones((T, B, I), np.float32), 0.1)
        assert not tg.is_grad_enabled()
    with pytest.raises(RuntimeError, match="the loss is NaN"):
        fgsm(loss, np.full((T, B, I), np.nan, np.float32), 0.1)
    assert [m.training for m in net.modules()] == before and tg.is_grad_enabled()
    assert not frozen.weight.requires_grad
    for p, (node, grad, numbers) in zip(net.parameters(), places):
        assert p.node is node and p.grad is grad and (grad.numpy() == numbers).all()


def test_a_model_behind_a_wall_is_named():
    drop = tg.nn.Dropout(0.5)
    wall = {"deep": {"er": [Holder(drop)]}}
    x = np.ones((T, B, I))
    loss = lambda x: wall["deep"]["er"][0].net(x).sum((0, 2))
    found = fgsm(loss, x, 0.1, model=drop)
    assert drop.training and np.allclose(found.numpy(), x + 0.1, atol=1e-15)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_layers_run_as_they_were_compiled():
    """Neither the attack's kernels nor those of training are made anew: they are the same."""
    from numba.core import event

    tg.manual_seed(0)
    rnn, head = tg.nn.RNN(I, H), tg.nn.Linear(H, 3)
    rnn.scans[0].fused = "require"
    x, y = tg.randn(T, B, I), np.arange(B) % 3
    loss = lambda x: tg.cross_entropy(head(rnn(x)[0][-1]), y, reduction="none")
    loss(x).mean().backward()
    with tg.no_grad():
        loss(x)
    before = rnn.source()
    gradients = [p.grad.numpy().copy() for p in rnn.parameters()]
    with event.install_recorder("numba:run_pass") as recorder:
        pgd(loss, x, 0.1, steps=2)
        rnn.zero_grad()
        loss(x).mean().backward()
    assert not recorder.buffer and rnn.source() == before
    for p, g in zip(rnn.parameters(), gradients):
        np.testing.assert_array_equal(p.grad.numpy(), g)


# ---- What is wrong is said -------------------------------------------------------------------------------------------

X = np.ones((T, B, I))
SUM = lambda x: x.sum((0, 2))


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((SUM, np.ones((T, B, I), int), 0.1), {}, TypeError, "attack the embedding of words"),
        ((SUM, np.ones((0, B, I)), 0.1), {}, ValueError, "x is empty"),
        ((SUM, X, -0.1), {}, ValueError, "epsilon must be finite and not negative"),
        ((SUM, X, math.nan), {}, ValueError, "epsilon"),
        ((SUM, X, math.inf), {}, ValueError, "epsilon"),
        ((SUM, X, [0.1, 0.2]), {}, TypeError, "epsilon must be a number"),
        ((SUM, X, 0.1), dict(norm=1), ValueError, "norm must be inf or 2"),
        ((SUM, X, 0.1), dict(norm="inf"), ValueError, "norm must be inf or 2"),
        ((SUM, X, 0.1), dict(batch_dim=3), ValueError, "no dimension of x"),
        ((SUM, X, 0.1), dict(batch_dim=True), TypeError, "batch_dim"),
        ((SUM, X, 0.1), dict(lengths=[1, 2]), ValueError, "lengths has shape"),
        ((SUM, X, 0.1), dict(lengths=[7] * B), ValueError, r"expected 0 to 6"),
        ((SUM, X, 0.1), dict(lengths=[1] * B, batch_dim=None), ValueError, "lengths need"),
        ((SUM, X, 0.1), dict(mask=np.full(X.shape, 0.5)), ValueError, "booleans"),
        ((SUM, X, 0.1), dict(mask=np.ones((B, T))), ValueError, "mask has shape"),
        ((SUM, X, 0.1), dict(bounds=0), ValueError, r"bounds must be \(low, high\)"),
        ((SUM, X, 0.1), dict(bounds=(np.ones(7), None)), ValueError, "low of bounds"),
        ((lambda x: x.numpy().sum(), X, 0.1), {}, TypeError, "not a tensor"),
        ((lambda x: x, X, 0.1), {}, ValueError, "one for each sequence"),
        ((lambda x: tg.tensor(1.0), X, 0.1), {}, RuntimeError, "does not depend on x"),
        ((lambda x: tg.tensor(1.0, requires_grad=True) * 2, X, 0.1), {}, RuntimeError, "does not depend on x"),
        ((lambda x: (x - 1).sqrt().sum(), X, 0.1), {}, RuntimeError, "not finite"),
        ((lambda x: (x * np.nan).sum(), X, 0.1), {}, RuntimeError, "NaN"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("attack", [fgsm, functools.partial(pgd, random_start=False)], ids=["fgsm", "pgd"])
def test_errors(attack, arguments, options, error, message):
    with pytest.raises(error, match=message):
        attack(*arguments, **options)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(steps=0), ValueError, "steps must be positive"),
        (dict(steps=2.0), TypeError, "steps must be an integer"),
        (dict(steps=True), TypeError, "steps must be an integer, not True"),
        (dict(restarts=0), ValueError, "restarts must be positive"),
        (dict(restarts=2, random_start=False), ValueError, "all alike"),
        (dict(step_size=-1), ValueError, "step_size"),
    ],
)
def test_errors_of_pgd(options, error, message):
    with pytest.raises(error, match=message):
        pgd(SUM, X, 0.1, **options)
    with pytest.raises(ValueError, match="returned 2 values, but dimension 1 of x counts 5"):
        pgd(lambda x: x.sum((0, 2))[:2], X, 0.1)
