"""Bad input is refused with a word on what was wrong, and changes nothing; what is not finite stays where it is."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg

F = tg.nn.functional


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.conv1d(tg.ones(1, 2, 5), tg.ones(4, 2, 2), tg.ones(3, 4)), r"conv1d: bias has shape \[3, 4\]"),
        (lambda: F.conv1d(tg.ones(1, 2, 5), tg.ones(4, 2, 2), tg.ones(1)), r"bias has shape \[1\], expected \[4\]"),
        (lambda: F.conv1d(tg.ones(1, 2, 5), tg.ones(4, 1, 2), groups=2.0), "conv1d: groups must be an integer"),
        (lambda: F.conv1d(tg.ones(1, 2, 5), tg.ones(4, 2, 0)), r"weight of shape \[4, 2, 0\] .*k > 0\]"),
        (lambda: F.conv1d(tg.ones(1, 2, 5), tg.ones(4, 2, 0), dilation=2), r"weight of shape \[4, 2, 0\]"),
        (lambda: tg.linear(tg.ones(2, 3), tg.ones(4, 3), tg.ones(5, 1, 4)), r"linear: bias has shape \[5, 1, 4\]"),
        (lambda: tg.linear(tg.ones(2, 3), tg.ones(4, 3), tg.ones(1)), r"linear: bias has shape \[1\], expected \[4\]"),
        (lambda: tg.linear(tg.ones(2, 3), tg.ones(3), tg.ones(4)), r"linear: bias has shape \[4\], expected \[\]"),
        (lambda: tg.narrow(tg.arange(3), 0, -5, 1), "narrow: start -5 and length 1 do not fit the size 3"),
        (lambda: tg.zeros(-1), r"zeros: sizes must be at least 0, got \[-1\]"),
        (lambda: tg.rand(2, -1), "rand: sizes must be at least 0"),
        (lambda: tg.eye(2, -1), "eye: sizes must be at least 0"),
        (lambda: tg.reshape(tg.arange(6), -2, -3), "reshape: sizes must be at least -1"),
        (lambda: tg.argmax(tg.zeros(0)), r"argmax: a tensor of shape \[0\] has nothing"),
        (lambda: tg.zeros(0, 3).min(0), r"argmin: a tensor of shape \[0, 3\] has nothing along dim=0"),
        (lambda: F.batch_norm(tg.ones(3, 2), np.zeros(2), tg.ones(2), training=True), "running_mean must be a tensor"),
    ],
)  # fmt: skip
def test_it_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("x", "weight"), [((0, 2, 5), (3, 2, 2)), ((1, 0, 5), (3, 0, 2)), ((1, 2, 5), (0, 2, 2))])
def test_convolutions_of_nothing(x, weight, dilation):
    a, w = tg.ones(*x, requires_grad=True), tg.ones(*weight, requires_grad=True)
    y = F.conv1d(a, w, dilation=dilation)
    y.sum().backward()
    assert y.shape == (x[0], weight[0], 5 - dilation) and not y.numpy().any()
    assert not a.grad.numpy().any() and not w.grad.numpy().any()


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
def test_weights_do_not_make_more_losses(option):
    scores = tg.ones(2, 3)
    with pytest.raises(ValueError, match=rf"{option}: shape \[5, 1, 1\] cannot be expanded to \[2, 3\]"):
        F.binary_cross_entropy_with_logits(scores, scores, reduction="sum", **{option: tg.ones(5, 1, 1)})
    for shape in ((), (3,), (2, 1), (2, 3)):
        loss = F.binary_cross_entropy_with_logits(scores, scores, reduction="none", **{option: tg.ones(shape)})
        np.testing.assert_allclose(loss.numpy(), math.log1p(math.exp(-1)), rtol=1e-6)


def test_a_refused_batch_leaves_running_statistics_alone():
    norm = tg.nn.BatchNorm1d(2, momentum=None)
    norm(tg.tensor([[1.0, 2.0], [3.0, 6.0]]))
    before = {name: value.copy() for name, value in norm.state_dict().items()}
    for x in (tg.ones(4, 3), tg.ones(1, 2), tg.ones(4)):
        with pytest.raises(ValueError):
            norm(x)
    norm.eps = "a"
    with pytest.raises(Exception):  # noqa: B017
        norm(tg.ones(4, 2))
    norm.eps = 1e-5
    norm.running_var.numpy().flags.writeable = False
    with pytest.raises(ValueError, match="running_var must be a tensor that can be written to"):
        norm(tg.ones(4, 2))
    np.testing.assert_equal(norm.state_dict(), before)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(("channels", "groups"), [(2, 2), (4, 2), (66, 66), (6, 3)])
def test_groups_see_nothing_of_each_other(bad, channels, groups):
    x = np.ones((1, channels, 3))
    x[0, 0, 0] = bad
    per_group = channels // groups
    y = F.conv1d(tg.tensor(x), tg.ones(channels, per_group, 1, dtype=np.float64), groups=groups).numpy()
    assert (y[0, per_group:] == per_group).all() and not np.isfinite(y[0, :per_group, 0]).any()
    assert (y[0, :per_group, 1:] == per_group).all()


def test_windows_of_a_pool_see_nothing_of_each_other():
    x = tg.tensor([[[np.inf, 1.0, 2.0, 3.0]]])
    assert F.adaptive_avg_pool1d(x, 2).tolist() == [[[np.inf, 2.5]]]
    y, places = F.max_pool1d(tg.full((1, 1, 4), -np.inf), 3, 1, 1, return_indices=True)
    assert (y.numpy() == -np.inf).all() and places.min().item() >= 0


def test_norm_of_order_zero_counts():
    x = tg.tensor([[0.0, 3.0, -4.0], [0.0, 0.0, 0.0]], requires_grad=True)
    assert x.norm(0, dim=1).tolist() == [2, 0] and tg.norm(x, 0).item() == 2
    tg.norm(x, 0).backward()
    assert not x.grad.numpy().any()


@pytest.mark.parametrize("offset", [100.0, 10_000.0])
@pytest.mark.parametrize(
    "norm", [lambda x: tg.layer_norm(x, (64,)), lambda x: F.batch_norm(x, None, None, training=True)]
)
def test_gradients_of_gradients_start_as_exactly_as_gradients(norm, offset):
    """Far from zero a mean in float32 is rounded: what it leaves is taken off as well."""
    r = np.random.default_rng(0)
    array, weights = (offset + 0.01 * r.standard_normal((64, 64))).astype(np.float32), r.standard_normal((64, 64))

    def gradient(dtype, create_graph):
        x = tg.tensor(array.astype(dtype), requires_grad=True)
        (found,) = tg.grad((norm(x) * tg.tensor(weights.astype(dtype))).sum(), [x], create_graph=create_graph)
        return found.numpy()

    exact, found = gradient(np.float64, False), gradient(np.float32, True)
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
