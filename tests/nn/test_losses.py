"""Losses against their definitions, written out one sample at a time."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn.nn.functional as F
from tinygrad_rnn import nn

RANDOM = np.random.default_rng(0)


def double(*shape):
    return tg.tensor(RANDOM.standard_normal(shape), requires_grad=True)


def cross_entropy_by_hand(x, target, weight, ignore_index, reduction, smoothing):
    """The definition: for every sample, -sum_c q_c w_c log softmax(x)_c."""
    classes = x.shape[1] if x.ndim > 1 else x.shape[0]
    rows = np.moveaxis(x, 1, -1).reshape(-1, classes) if x.ndim > 1 else x[None]
    weight = np.ones(classes) if weight is None else weight
    probabilities = target.dtype.kind == "f"
    if probabilities:
        targets = np.moveaxis(target, 1, -1).reshape(-1, classes) if x.ndim > 1 else target[None]
    else:
        targets = target.reshape(-1)
    losses, shares = [], []
    for row, t in zip(rows, targets):
        log_p = row - row.max() - math.log(sum(math.exp(v - row.max()) for v in row))
        if not probabilities and t == ignore_index:
            losses.append(0.0)
            shares.append(0.0)
            continue
        if probabilities:
            q = (1 - smoothing) * t + smoothing / classes
            losses.append(-sum(q * weight * log_p))
            shares.append(1.0)
        else:
            losses.append(-(1 - smoothing) * weight[t] * log_p[t] - smoothing / classes * sum(weight * log_p))
            shares.append(weight[t])
    if reduction == "none":
        return np.reshape(losses, x.shape[:1] + x.shape[2:] if x.ndim > 1 else ())
    if reduction == "sum":
        return sum(losses)
    return sum(losses) / sum(shares) if sum(shares) else math.nan


@st.composite
def classifications(draw):
    """Scores, targets and options of a cross entropy."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(1, 5))
    batch, extra = draw(st.integers(0, 4)), draw(st.lists(st.integers(1, 3), max_size=2))
    unbatched = draw(st.booleans())
    shape = (classes,) if unbatched else (batch, classes, *extra)
    target_shape = () if unbatched else (batch, *extra)
    probabilities = draw(st.booleans())
    options = {
        "reduction": draw(st.sampled_from(["none", "mean", "sum"])),
        "ignore_index": draw(st.sampled_from([-100, -1, 0, 2, 17])) if not probabilities else -100,
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "weight": draw(st.sampled_from([None, random.random(classes)])),
    }
    x = 10 * random.standard_normal(shape)
    if probabilities:
        return x, random.random(shape), options
    target = random.integers(0, classes, target_shape)
    ignored = random.random(target_shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return x, np.where(ignored, options["ignore_index"], target), options


@given(classifications())
def test_cross_entropy(case):
    x, target, options = case
    expected = cross_entropy_by_hand(
        x, target, options["weight"], options["ignore_index"], options["reduction"], options["label_smoothing"]
    )
    for as_what in (np.asarray, tg.tensor):
        y = F.cross_entropy(tg.tensor(x), as_what(target), **options)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert y.shape == np.shape(expected)


@pytest.mark.parametrize("weight", [None, np.array([0.5, 1.0, 2.0])], ids=["plain", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_gradients(weight, smoothing, reduction):
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
    target = np.array([[0, 2], [1, 1]])
    loss = lambda x: F.cross_entropy(x, target, ignore_index=1, **options)
    assert tg.gradcheck(loss, (double(2, 3, 2),)) and tg.gradgradcheck(loss, (double(2, 3, 2),))
    q = tg.tensor(RANDOM.random((2, 3)), requires_grad=True)
    loss = lambda x, q: F.cross_entropy(x, q, **options)
    assert tg.gradcheck(loss, (double(2, 3), q)) and tg.gradgradcheck(loss, (double(2, 3), q))


def test_cross_entropy_is_nll_of_log_softmax():
    x, target, weight = double(4, 3, 2), RANDOM.integers(0, 3, (4, 2)), RANDOM.random(3)
    for reduction in ("none", "mean", "sum"):
        options = {"weight": weight, "ignore_index": 1, "reduction": reduction}
        a, b = F.cross_entropy(x, target, **options), F.nll_loss(F.log_softmax(x, 1), target, **options)
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_nothing_to_average():
    """PyTorch's answer to "the mean of no samples" is NaN; ignored samples have zero gradients all the same."""
    x = double(2, 3)
    loss = F.cross_entropy(x, np.array([1, 1]), ignore_index=1)
    loss.backward()
    assert math.isnan(loss.item()) and x.grad.tolist() == np.zeros((2, 3)).tolist()
    assert F.cross_entropy(x, np.array([1, 1]), ignore_index=1, reduction="sum").item() == 0
    assert math.isnan(F.cross_entropy(np.zeros((0, 3)), np.zeros(0, int)).item())
    assert F.cross_entropy(np.zeros((0, 3)), np.zeros(0, int), reduction="sum").item() == 0
    assert F.cross_entropy(np.zeros((0, 3)), np.zeros(0, int), reduction="none").shape == (0,)
    assert math.isnan(F.cross_entropy(np.zeros((0, 3)), np.zeros((0, 3))).item())


def test_ignored_scores_may_be_anything():
    x = tg.tensor(np.array([[1.0, 2.0], [-np.inf, -np.inf]]), requires_grad=True)
    loss = F.nll_loss(x, np.array([0, -100]), weight=np.array([2.0, 3.0]))
    loss.backward()
    assert loss.item() == -1 and x.grad.tolist() == [[-1, 0], [0, 0]]


def test_large_scores():
    assert F.cross_entropy(np.array([[1000.0, -1000.0]]), np.array([1])).item() == 2000
    assert F.cross_entropy(np.array([[1e4, 0.0]], np.float32), np.array([0])).item() == 0


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((2, 3)), np.array([0, 3])), {}, IndexError, r"target 3 is not one of the 3 classes 0 to 2"),
        ((np.zeros((2, 3)), np.array([0, -1])), {}, IndexError, r"target -1 is not one of the 3 classes"),
        ((np.zeros((2, 3)), np.array([0, -100])), {"ignore_index": 0}, IndexError, r"target -100 .* ignore_index=0"),
        ((np.zeros((2, 3)), np.array([0])), {}, ValueError, r"a target of class indices has shape \[2\], not \[1\]"),
        ((np.zeros((2, 3, 4)), np.zeros((2, 3), int)), {}, ValueError, r"has shape \[2, 4\], not \[2, 3\]"),
        ((np.zeros((2, 3)), np.zeros((2, 3), int)), {}, ValueError, r"class indices has shape \[2\]"),
        ((np.zeros((2, 3)), np.zeros(2)), {}, ValueError, r"class probabilities has the input's shape \[2, 3\]"),
        ((np.zeros((2, 3)), np.zeros((2, 3))), {"ignore_index": 1}, ValueError, r"ignore_index=1 has no meaning"),
        ((np.zeros((2, 3)), np.array([0, 1]), np.ones(2)), {}, ValueError, r"each of the 3 classes, got shape \[2\]"),
        ((np.zeros((2, 3)), np.array([0, 1])), {"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in"),
        ((np.zeros((2, 3)), np.array([0, 1])), {"reduction": "avg"}, ValueError, r"'mean' or 'sum', not 'avg'"),
        ((1.0, 0), {}, ValueError, r"needs a dimension for the classes"),
    ],
)  # fmt: skip
def test_cross_entropy_errors(arguments, options, error, message):
    with pytest.raises(error, match=f"cross_entropy: .*{message}"):
        F.cross_entropy(*arguments, **options)


def test_nll_loss_errors():
    with pytest.raises(IndexError, match=r"nll_loss: target 4 is not one of the 3 classes"):
        F.nll_loss(np.zeros(3), 4)
    with pytest.raises(TypeError, match=r"nll_loss: expected integers, got float64"):
        F.nll_loss(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"nll_loss: reduction"):
        F.nll_loss(np.zeros(3), 0, reduction="batchmean")


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def kl(x, t):
    return t * (math.log(t) - x) if t else 0.0


def bce(x, t):
    p = 1 / (1 + math.exp(-x))
    return -(t * math.log(p) + (1 - t) * math.log(1 - p))


DEFINITIONS = {
    "mse_loss": [({}, lambda x, t: (x - t) ** 2)],
    "l1_loss": [({}, lambda x, t: abs(x - t))],
    "smooth_l1_loss": [
        ({"beta": beta}, lambda x, t, b=beta: (x - t) ** 2 / (2 * b) if abs(x - t) < b else abs(x - t) - b / 2)
        for beta in (1.0, 0.4, 3.0)
    ]
    + [({"beta": 0.0}, lambda x, t: abs(x - t))],
    "huber_loss": [
        ({"delta": delta}, lambda x, t, b=delta: (x - t) ** 2 / 2 if abs(x - t) < b else b * (abs(x - t) - b / 2))
        for delta in (1.0, 0.4)
    ],
    "binary_cross_entropy_with_logits": [({}, bce)],
    "kl_div": [
        ({"log_target": False}, kl),
        ({"log_target": True}, lambda x, t: math.exp(t) * (t - x)),
    ],
}
CASES = [(name, options, rule) for name, rules in DEFINITIONS.items() for options, rule in rules]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 3)], ids=str)
@pytest.mark.parametrize(("name", "options", "rule"), CASES, ids=[f"{n} {o}" for n, o, _ in CASES])
def test_elementwise(name, options, rule, shape):
    x, t = 2 * RANDOM.standard_normal(shape), RANDOM.random(shape)
    elements = np.reshape([rule(a, b) for a, b in zip(np.ravel(x), np.ravel(t))], shape)
    loss = getattr(F, name)
    np.testing.assert_allclose(loss(x, t, reduction="none", **options).numpy(), elements, rtol=1e-12)
    np.testing.assert_allclose(loss(x, t, reduction="sum", **options).item(), elements.sum(), rtol=1e-12)
    mean = elements.mean() if elements.size else math.nan
    np.testing.assert_allclose(loss(x, t, **options).item(), mean, rtol=1e-12)


@pytest.mark.parametrize(("name", "options", "rule"), CASES, ids=[f"{n} {o}" for n, o, _ in CASES])
def test_elementwise_gradients(name, options, rule):
    t = tg.tensor(RANDOM.random((2, 3)), requires_grad=True)
    loss = lambda x, t: getattr(F, name)(x, t, **options)
    assert tg.gradcheck(loss, (double(2, 3), t)) and tg.gradgradcheck(loss, (double(2, 3), t))


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss"])
def test_huber_at_the_edges(name):
    """Where branches meet and at infinity: the derivative is the clipped difference, its slope 1 inside."""
    x = tg.tensor(np.array([0.0, 1.0, -1.0, 1e300, np.inf, -np.inf]), requires_grad=True)
    (first,) = tg.grad(getattr(F, name)(x, np.zeros(6), reduction="sum"), [x], create_graph=True)
    assert first.tolist() == [0, 1, -1, 1, 1, -1]
    (second,) = tg.grad(first[0], [x], retain_graph=True)
    assert second.tolist()[0] == 1


def test_binary_cross_entropy_options():
    x, t = double(4, 3), RANDOM.random((4, 3))
    weight, pos_weight = RANDOM.random(3), RANDOM.random((4, 3))
    p = 1 / (1 + np.exp(-x.numpy()))
    expected = -weight * (pos_weight * t * np.log(p) + (1 - t) * np.log(1 - p))
    options = {"weight": weight, "pos_weight": pos_weight}
    y = F.binary_cross_entropy_with_logits(x, t, **options, reduction="none")
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)
    assert tg.gradcheck(lambda x: F.binary_cross_entropy_with_logits(x, t, **options), (x,))


def test_binary_cross_entropy_of_large_scores():
    x = tg.tensor(np.array([800.0, -800.0, 800.0, -800.0, 40.0]), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, np.array([1.0, 0.0, 0.0, 1.0, 1.0]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [0, 0, 800, 800, math.exp(-40)], rtol=1e-12)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 1, -1, -math.exp(-40)], rtol=1e-12)


def test_kl_div():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.25, 0.5, 0.25], [0.6, 0.2, 0.2]])
    divergence = sum(a * math.log(a / b) for a, b in zip(p.ravel(), q.ravel()) if a)
    assert F.kl_div(np.log(q), p, reduction="batchmean").item() == pytest.approx(divergence / 2)
    assert F.kl_div(np.log(q), p).item() == pytest.approx(divergence / 6)
    t = tg.tensor(p, requires_grad=True)
    F.kl_div(np.log(q), t, reduction="sum").backward()
    assert np.isfinite(t.grad.numpy()).all()
    with pytest.raises(ValueError, match=r"kl_div: reduction must be 'none', 'mean', 'batchmean' or 'sum', not 'max'"):
        F.kl_div(p, q, reduction="max")
    with pytest.raises(ValueError, match=r"kl_div: the input has shape \[2, 3\], the target \[2\]"):
        F.kl_div(p, q[:, 0])


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_broadcasting_is_seldom_meant(name):
    loss = getattr(F, name)
    with pytest.warns(UserWarning, match=rf"{name}: the input has shape \[4, 1\], the target \[4\]") as caught:
        assert loss(np.zeros((4, 1)), np.zeros(4), reduction="none").shape == (4, 4)
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=rf"{name}: the input has shape \[3\], the target \[4\]"):
        loss(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=f"{name}: reduction must be"):
        loss(np.zeros(3), np.zeros(3), reduction="batchmean")


def test_other_errors():
    with pytest.raises(ValueError, match="beta must not be negative"):
        F.smooth_l1_loss(np.zeros(1), np.zeros(1), beta=-1)
    with pytest.raises(ValueError, match="delta must be positive"):
        F.huber_loss(np.zeros(1), np.zeros(1), delta=0)
    with pytest.raises(ValueError, match=r"logits: the input has shape \[2, 1\], the target \[2\]"):
        F.binary_cross_entropy_with_logits(np.zeros((2, 1)), np.zeros(2))


# ---- Modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "function", "options"),
    [
        (nn.CrossEntropyLoss, F.cross_entropy, {"weight": np.array([1.0, 2.0, 3.0]), "label_smoothing": 0.1}),
        (nn.CrossEntropyLoss, F.cross_entropy, {"ignore_index": 1, "reduction": "none"}),
        (nn.NLLLoss, F.nll_loss, {"weight": np.array([1.0, 2.0, 3.0]), "ignore_index": 2}),
        (nn.MSELoss, F.mse_loss, {"reduction": "sum"}),
        (nn.L1Loss, F.l1_loss, {"reduction": "none"}),
        (nn.SmoothL1Loss, F.smooth_l1_loss, {"beta": 0.3}),
        (nn.HuberLoss, F.huber_loss, {"delta": 0.3, "reduction": "sum"}),
        (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, {"pos_weight": np.array([1.0, 2.0, 3.0])}),
        (nn.KLDivLoss, F.kl_div, {"reduction": "batchmean", "log_target": True}),
    ],
)
def test_modules(module, function, options):
    classes = module in (nn.CrossEntropyLoss, nn.NLLLoss)
    x, t = double(4, 3), RANDOM.integers(0, 3, 4) if classes else RANDOM.random((4, 3))
    loss = module(**options)
    np.testing.assert_array_equal(loss(x, t).numpy(), function(x, t, **options).numpy())
    np.testing.assert_array_equal(module()(x, t).numpy(), function(x, t).numpy())
    assert list(loss.state_dict()) == [name for name in ("weight", "pos_weight") if name in options]
    assert list(loss.parameters()) == []
    assert repr(loss).startswith(f"{module.__name__}(") and str(list(options)[-1]) in repr(loss)


def test_the_same_functions_at_the_top():
    for name in set(F.__all__) - {"huber_loss"}:
        assert getattr(tg, name) is getattr(F, name)


def test_no_warnings_where_shapes_agree():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.mse_loss(np.zeros((4, 1)), np.zeros((4, 1)))
        F.kl_div(np.zeros((4, 1)), np.zeros((4, 1)))
