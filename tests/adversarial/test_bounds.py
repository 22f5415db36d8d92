"""Interval bounds: nothing gets outside, they are exact where they can be, and no attack beats a certificate."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.adversarial import Interval, certified_epsilon, certified_margin, fgsm, interval_bounds, pgd
from tinygrad_rnn.nn import cells

T, B, I, H, C = 5, 6, 3, 4, 3
LAYERS = {
    "RNN": lambda: tg.nn.RNN(I, H, dtype=np.float64),
    "ReLU": lambda: tg.nn.RNN(I, H, nonlinearity="relu", bias=False, dtype=np.float64),
    "LSTM": lambda: tg.nn.LSTM(I, H, dtype=np.float64),
    "GRU": lambda: tg.nn.GRU(I, H, dtype=np.float64),
    "projected, both ways": lambda: tg.nn.LSTM(I, H, proj_size=2, bidirectional=True, dtype=np.float64),
    "deep": lambda: tg.nn.GRU(I, H, 2, bidirectional=True, dtype=np.float64),
    "batch first": lambda: tg.nn.LSTM(I, H, batch_first=True, dtype=np.float64),
    "mixed": lambda: tg.nn.Stack([cells.GRUCell(I, H, dtype=np.float64), cells.LSTMCell(H, 2, dtype=np.float64)]),
    "IRNN": lambda: tg.nn.Recurrent(cells.IRNNCell(I, H, dtype=np.float64)),
    "reversed": lambda: tg.nn.Recurrent(cells.LSTMCell(I, H, dtype=np.float64), reverse=True),
}


def made(kind, seed=0, scale=3.0):
    """A layer with weights so large that its functions are not nearly linear, on the tape."""
    tg.manual_seed(seed)
    layer = LAYERS[kind]()
    for p in layer.parameters():
        p.numpy()[...] *= scale
    layer.fused = "never"
    return layer


def flat(result):
    """The tensors or intervals of a result."""
    if isinstance(result, (tuple, list)):
        return [each for part in result for each in flat(part)]
    return [result]


def inputs(layer, seed=0):
    x = np.random.default_rng(seed).standard_normal((T, B, I))
    return np.ascontiguousarray(x.swapaxes(0, 1)) if getattr(layer, "batch_first", False) else x


# ---- Sound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [5, 0, 3, 1, 5, 4]], ids=["whole", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_is_outside(kind, lengths):
    """Of random inputs in a box, corners among them; at width 0 the bounds are what the layer returns."""
    layer = made(kind)
    x, rng = inputs(layer), np.random.default_rng(1)
    call = {} if lengths is None else dict(lengths=lengths)
    exact = flat(interval_bounds(layer, Interval.point(x), **call))
    for bound, y in zip(exact, flat(layer(x, **call)), strict=True):
        assert bound.shape == y.shape
        np.testing.assert_allclose(bound.lower, y.numpy(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(bound.upper, y.numpy(), rtol=0, atol=1e-12)
    for epsilon in (0.01, 0.3):
        bounds = flat(interval_bounds(layer, Interval.around(x, epsilon), **call))
        touched = 0
        for k in range(40):
            d = rng.uniform(-1, 1, x.shape)
            inside = x + epsilon * (np.sign(d) if k % 2 else d)
            for bound, y in zip(bounds, flat(layer(inside, **call)), strict=True):
                assert (y.numpy() >= bound.lower - 1e-12).all() and (y.numpy() <= bound.upper + 1e-12).all()
                touched = max(touched, ((y.numpy() - bound.lower) / (bound.upper - bound.lower + 1e-300)).max())
        assert touched > 0.6, "nor are they absurdly wide"


@pytest.mark.parametrize("kind", ["RNN", "ReLU", "LSTM", "GRU"])
def test_no_attack_succeeds_below_what_is_certified(kind):
    """Neither with many steps and starts nor with one; for every sequence, and epsilons close to the certificate."""
    layer, head = made(kind, 1, 2.0), tg.nn.Linear(H, C, dtype=np.float64)
    x = inputs(layer)
    final = lambda states: states[0][-1] if isinstance(states, tuple) else states[-1]
    scores = lambda x: head(final(layer(x)[1]))
    y = scores(x).numpy().argmax(1)
    epsilons = np.geomspace(0.005, 8, 60)
    margin = lambda epsilon: certified_margin(head, final(interval_bounds(layer, Interval.around(x, epsilon))[1]), y)
    certified = certified_epsilon(margin, epsilons)
    loss = lambda x: tg.cross_entropy(scores(x), y, reduction="none")
    smallest = np.full(B, np.inf)
    tg.manual_seed(0)
    for epsilon in epsilons[::-4]:
        for found in (pgd(loss, x, epsilon, 8, restarts=2), fgsm(loss, x, epsilon)):
            smallest[scores(found).numpy().argmax(1) != y] = epsilon
    assert (certified < smallest).all()
    assert certified.max() > 0.02 and np.isfinite(smallest).any(), "both say something"


def test_every_bound_within_contains_those_within():
    layer, x = made("GRU"), inputs(None)
    narrow, wide = (interval_bounds(layer, Interval.around(x, epsilon))[0] for epsilon in (0.1, 0.2))
    assert (wide.lower <= narrow.lower).all() and (narrow.upper <= wide.upper).all()


# ---- Exact -----------------------------------------------------------------------------------------------------------


def test_one_linear_layer_is_certified_to_what_fgsm_attains():
    """The margin m - eps ||dm/dx||_1; with two classes, so that the same input is the worst for both."""
    head, rng = tg.nn.Linear(7, 2, dtype=np.float64), np.random.default_rng(0)
    x, y = rng.standard_normal((B, 7)), rng.integers(0, 2, B)
    margin = lambda x: head(x)[np.arange(B), y] - head(x)[np.arange(B), 1 - y]
    W = head.weight.numpy()[y] - head.weight.numpy()[1 - y]
    worst = margin(x).numpy() - 0.4 * np.abs(W).sum(1)
    np.testing.assert_allclose(certified_margin(head, Interval.around(x, 0.4), y), worst, atol=1e-13)
    np.testing.assert_allclose(margin(fgsm(lambda x: -margin(x), x, 0.4, batch_dim=0)).numpy(), worst, atol=1e-13)


@pytest.mark.parametrize("positive", [True, False])
def test_a_linear_recurrent_net(positive):
    """ReLU units that never rest. Bounds are m - eps sum |w| |U|^k |W|; with weights that are not negative this is
    m - eps ||dm/dx||_1, which FGSM attains; with others it is less, as signs that cancel over time are not seen.
    """
    layer, rng = made("ReLU"), np.random.default_rng(0)
    W, U = layer.weight_ih_l0.numpy(), layer.weight_hh_l0.numpy()
    U *= 0.3
    if positive:
        np.abs(W, out=W), np.abs(U, out=U)
    layer.weight_ih_l0.numpy()[:, 0] = 30  # of an input that keeps all units at work
    W = layer.weight_ih_l0.numpy()
    x = rng.uniform(1, 2, (T, B, I))
    x[:, :, 0] = 9
    head = tg.nn.Linear(H, 2, bias=False, dtype=np.float64)
    head.weight.numpy()[...] = np.abs(head.weight.numpy()) * [[1], [-1]]
    difference = head.weight.numpy()[0] - head.weight.numpy()[1]
    margin = lambda x: (lambda z: z[:, 0] - z[:, 1])(head(layer(x)[0][-1]))
    assert (layer(x)[0].numpy() > 1).all()
    powers = [np.linalg.matrix_power(np.abs(U), k) for k in range(T)]
    worst = margin(x).numpy() - 0.1 * sum((difference @ P @ np.abs(W)).sum() for P in powers)
    found = certified_margin(head, interval_bounds(layer, Interval.around(x, 0.1))[0][-1], [0] * B)
    np.testing.assert_allclose(found, worst, rtol=1e-12)
    attained = margin(fgsm(lambda x: -margin(x), x, 0.1)).numpy()
    if positive:
        np.testing.assert_allclose(found, attained, rtol=1e-12)
    else:
        assert (found < attained - 1e-3).all()


def test_interpolation_is_tighter_than_its_products():
    rng = np.random.default_rng(0)
    ends = lambda low, high: Interval(*np.sort(rng.uniform(low, high, (2, 50)), 0))
    z, old, new = ends(0, 1), ends(-1, 1), ends(-1, 1)
    mixed, apart = z.mix(old, new), z * old + Interval(1 - z.upper, 1 - z.lower) * new
    corners = [
        a * b + (1 - a) * c for a in (z.lower, z.upper) for b in (old.lower, old.upper) for c in (new.lower, new.upper)
    ]
    np.testing.assert_allclose(mixed.lower, np.min(corners, 0), atol=1e-15)
    np.testing.assert_allclose(mixed.upper, np.max(corners, 0), atol=1e-15)
    assert (mixed.lower >= apart.lower - 1e-15).all() and (mixed.lower > apart.lower + 0.01).any()


def test_modules_without_time_and_cells():
    tg.manual_seed(0)
    net = tg.nn.Sequential(
        tg.nn.Flatten(), tg.nn.Linear(6, 5), tg.nn.Tanh(), tg.nn.Dropout(0.5), tg.nn.Linear(5, 4), tg.nn.ReLU(),
        tg.nn.Linear(4, 3, bias=False), tg.nn.Sigmoid(), tg.nn.Identity(), tg.nn.GaussianNoise(1.0),
    ).double()  # fmt: skip
    x, rng = np.random.default_rng(0).standard_normal((B, 2, 3)), np.random.default_rng(1)
    bound = interval_bounds(net, Interval.around(x, 0.2, batch_dim=0))
    assert net.training
    net.eval()
    for _ in range(50):
        y = net(x + rng.choice([-0.2, 0.2], x.shape)).numpy()
        assert (bound.lower <= y + 1e-12).all() and (y <= bound.upper + 1e-12).all()
    for kind in (cells.RNNCell, cells.GRUCell, cells.LSTMCell):
        cell = kind(3, 2, dtype=np.float64)
        for bound, y in zip(flat(interval_bounds(cell, Interval.point(x[:, 0]))), flat(cell(x[:, 0])), strict=True):
            np.testing.assert_allclose(bound.upper, y.numpy(), atol=1e-14)


def test_one_sequence_without_a_batch():
    for kind in ("LSTM", "projected, both ways"):
        layer, x = made(kind), inputs(None)[:, 0]
        for bound, y in zip(flat(interval_bounds(layer, Interval.point(x))), flat(layer(x)), strict=True):
            assert bound.shape == y.shape
            np.testing.assert_allclose(bound.lower, y.numpy(), atol=1e-12)


def test_what_is_around_x():
    x = np.arange(12.0).reshape(3, 2, 2)
    around = Interval.around(x, 0.1, lengths=[3, 1], bounds=(0.05, None), mask=x > 0)
    assert around.lower[0, 0, 0] == around.upper[0, 0, 0] == 0 and (around.lower[1:, 1] == x[1:, 1]).all()
    assert around.upper[2, 0, 1] == 9.1 and around.lower[2, 0, 1] == 8.9 and len(around) == 3
    with pytest.raises(ValueError, match="out of bounds"):
        Interval.around(x, 0.1, bounds=(0.05, None))


def test_certified_epsilon():
    asked = []

    def margin(epsilon):
        asked.append(epsilon)
        return np.array([0.25, 0.5, -1, 0.1]) - epsilon

    assert certified_epsilon(margin, [0.1, 0.2, 0.3, 0.6, 0.7]).tolist() == [0.2, 0.3, 0, 0]
    assert asked == [0.1, 0.2, 0.3, 0.6], "and no more where nothing is left"


# ---- Refused ---------------------------------------------------------------------------------------------------------


class Own(cells.LSTMCell):
    """With maths of its own."""

    def step(self, x, h, c):
        return h + 1, c


X = Interval.point(np.ones((T, B, I)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: interval_bounds(tg.nn.GRU(I, H), np.ones((T, B, I))), TypeError, "must be an Interval"),
        (lambda: interval_bounds(tg.nn.Recurrent(Own(I, H)), X), TypeError, "a step of Own is not known"),
        (lambda: interval_bounds(tg.nn.Recurrent(cells.MGUCell(I, H)), X), TypeError, "MGUCell is not known"),
        (lambda: interval_bounds(tg.nn.Zoneout(tg.nn.GRUCell(I, H), 0.1), X), TypeError, "Zoneout"),
        (lambda: interval_bounds(tg.nn.GELU(), X), TypeError, "what GELU makes"),
        (lambda: interval_bounds(tg.nn.Sequential(tg.nn.GRU(I, H)), X), TypeError, "several results"),
        (lambda: interval_bounds(tg.nn.Sequential(tg.tanh), X), TypeError, "what "),
        (lambda: interval_bounds(tg.nn.Linear(2, 2), X), ValueError, "takes 2 features"),
        (lambda: interval_bounds(tg.nn.Recurrent(tg.nn.GRUCell(2, 2)), X), ValueError, "takes 2 features"),
        (lambda: interval_bounds(tg.nn.GRU(2, 2), X), ValueError, "expected 2 features"),
        (lambda: interval_bounds(tg.nn.GRU(I, H), X, [1]), ValueError, "lengths has shape"),
        (lambda: interval_bounds(tg.nn.GRU(I, H), X[:, 0], [1]), ValueError, "lengths need a batch"),
        (lambda: interval_bounds(tg.nn.Linear(I, H), X, [1]), ValueError, "takes no lengths"),
        (lambda: interval_bounds(tg.nn.GRUCell(I, H), X), ValueError, r"\[B, I\]"),
        (lambda: interval_bounds(tg.nn.Recurrent(tg.nn.GRUCell(I, H)), X[0]), ValueError, r"\[T, B, I\]"),
        (lambda: Interval(np.ones(2), np.zeros(2)), ValueError, "lower must be below upper"),
        (lambda: Interval(np.array([math.nan]), np.array([math.nan])), ValueError, "NaN"),
        (lambda: Interval(np.ones(2), np.ones(3)), ValueError, r"lower is \[2\]"),
        (lambda: Interval.around(np.ones((T, B, I), int), 0.1), TypeError, "floats"),
        (lambda: certified_margin(tg.nn.Linear(I, C), X, [0] * B), ValueError, r"expected h \[B, 3\]"),
        (lambda: certified_margin(tg.nn.Linear(I, 1), X[0], [0] * B), ValueError, "at least 2 classes"),
        (lambda: certified_margin(tg.nn.Linear(I, C), X[0], [C] * B), IndexError, "from 0 to 2"),
        (lambda: certified_margin(tg.nn.GRU(I, C), X[0], [0] * B), TypeError, "expected a Linear"),
        (lambda: certified_epsilon(lambda e: np.ones(2), [0.2, 0.1]), ValueError, "rising"),
        (lambda: certified_epsilon(lambda e: np.ones(2), []), ValueError, "rising"),
        (lambda: certified_epsilon(lambda e: np.ones((2, 2)), [0.1]), ValueError, "for each sequence"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
