"""Layers that slide over time, and batch norm: what follows from their definitions. PyTorch is asked elsewhere."""

import inspect

import numpy as np
import pytest

import tinygrad_rnn as tg

nn, F = tg.nn, tg.nn.functional
X, W = tg.zeros(2, 3, 5), tg.zeros(4, 3, 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_causal_convolution_does_not_see_the_future(stride, groups):
    layer = nn.Conv1d(4, 8, 3, stride=stride, dilation=2, groups=groups, padding="causal", dtype=np.float64)
    x = tg.randn(2, 4, 11, dtype=tg.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == (2, 8, -(-11 // stride))
    for step in range(y.shape[2]):
        (seen,) = tg.grad(y[:, :, step].sum(), [x], retain_graph=True)
        steps = np.flatnonzero(np.abs(seen.numpy()).sum((0, 1)))
        expected = [step * stride - 2 * i for i in (2, 1, 0)]
        assert steps.tolist() == [s for s in expected if s >= 0]


def test_a_shifted_sequence_gives_shifted_results():
    layer, x = nn.Conv1d(2, 3, 4, padding="causal", dtype=np.float64), tg.randn(1, 2, 20, dtype=tg.float64)
    late = F.pad(x, (5, 0))[..., :20]
    np.testing.assert_allclose(layer(late)[..., 5:].detach(), layer(x)[..., :15].detach(), atol=1e-14)


def test_groups_are_convolutions_of_their_own():
    x, w = tg.randn(2, 6, 9), tg.randn(4, 3, 2)
    apart = tg.cat([F.conv1d(x[:, :3], w[:2]), F.conv1d(x[:, 3:], w[2:])], 1)
    np.testing.assert_array_equal(F.conv1d(x, w, groups=2).numpy(), apart.numpy())


def windows(length, size, stride, padding, dilation, ceil):
    """The steps of each window, those of the padding too; with `ceil` also one that reaches beyond, if it begins before
    the padding behind does."""
    span, start = dilation * (size - 1) + 1, 0
    while start + span <= length + 2 * padding or (
        ceil and start < length + padding and start + span - stride < length + 2 * padding
    ):
        yield [start - padding + dilation * i for i in range(size)]
        start += stride


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("size", "padding"), [(1, 0), (2, 0), (2, 1), (3, 1), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_pools_take_the_largest_and_the_mean_of_each_window(size, padding, stride, ceil):
    x = np.random.default_rng(0).standard_normal((2, 3, 10))
    for dilation in (1, 2):
        found = [[k for k in each if 0 <= k < 10] for each in windows(10, size, stride, padding, dilation, ceil)]
        y, places = F.max_pool1d(tg.tensor(x), size, stride, padding, dilation, ceil, return_indices=True)
        np.testing.assert_array_equal(y.numpy(), np.stack([x[..., each].max(-1) for each in found], -1))
        np.testing.assert_array_equal(np.take_along_axis(x, places.numpy(), -1), y.numpy())
    found = list(windows(10, size, stride, padding, 1, ceil))
    inside = [[k for k in each if 0 <= k < 10] for each in found]
    padded = [len([k for k in each if k < 10 + padding]) for each in found]
    for counts, pad in ((padded, True), ([len(each) for each in inside], False)):
        y = F.avg_pool1d(tg.tensor(x), size, stride, padding, ceil, pad)
        expected = np.stack([x[..., each].sum(-1) / count for each, count in zip(inside, counts)], -1)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv1d(X, tg.zeros(4, 2, 3)), r"\[2, 3, 5\] does not fit a weight of shape \[4, 2, 3"),
        (lambda: F.conv1d(tg.zeros(1, 2, 3, 5), W), r"\[1, 2, 3, 5\] does not fit a weight of shape \[4, 3, 2"),
        (lambda: F.conv1d(tg.zeros(3), W), r"\[3\] does not fit a weight of shape \[4, 3, 2"),
        (lambda: F.conv1d(X, tg.zeros(4, 3, 6)), "fewer steps than the 6 over which"),
        (lambda: F.conv1d(X, W, padding="both"), "'same' or 'causal', not 'both'"),
        (lambda: F.conv1d(X, W, padding="same", stride=2), "only where the stride is 1"),
        (lambda: F.conv1d(X, W, stride=0), "stride must be an integer of at least 1"),
        (lambda: F.conv1d(X, W, padding=1, padding_mode="zero"), "one of zeros, reflect"),
        (lambda: nn.Conv1d(3, 4, 2, groups=2), "2 groups do not divide 3 and 4"),
        (lambda: F.max_pool1d(tg.zeros(2, 3, 5), 6), "over 6 steps is longer than the sequence, 5 steps"),
        (lambda: F.avg_pool1d(tg.zeros(2, 3, 5), 3, padding=2), "padding 2 is more than half of kernel_size 3"),
        (lambda: F.adaptive_avg_pool1d(tg.zeros(2, 3, 0), 3), "with steps, got shape"),
        (lambda: F.batch_norm(tg.zeros(1, 3), None, None, training=True), "one value for each channel"),
        (lambda: F.batch_norm(tg.zeros(4, 3), None, None), "there must be a running_mean"),
        (lambda: F.batch_norm(tg.zeros(4, 3), None, None, tg.ones(2), training=True), r"weight has shape \[2\]"),
        (lambda: nn.BatchNorm1d(3)(tg.zeros(2, 3, 4, 5)), r"expected \[N, C\] or \[N, C, L\]"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5)])
def test_batch_norm_that_does_not_train_is_a_line(shape):
    x, (mean, var, weight, bias) = np.random.default_rng(0).standard_normal(shape), np.array([[1.0, 2.0, 3.0]] * 4)
    along = [x.reshape(-1, *[1] * (len(shape) - 2)) for x in (mean, var, weight + 1, bias + 2)]
    expected = (x - along[0]) / np.sqrt(along[1] + 0.5) * along[2] + along[3]
    found = F.batch_norm(tg.tensor(x), tg.tensor(mean), tg.tensor(var), weight + 1, bias + 2, eps=0.5)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_copy_of_a_batch_norm_has_statistics_of_its_own():
    import copy

    norm = nn.BatchNorm1d(2)
    other = copy.deepcopy(norm)
    norm(tg.randn(5, 2) + 3)
    assert other.running_mean.tolist() == [0, 0]
    assert int(norm.num_batches_tracked.numpy()) == 1
    other.load_state_dict(norm.state_dict())
    np.testing.assert_array_equal(other.running_mean.numpy(), norm.running_mean.numpy())


def test_sequential_takes_any_callable():
    model = nn.Sequential(nn.Linear(3, 4), tg.tanh, nn.Flatten(), lambda h: 2 * h)
    x = tg.randn(5, 3)
    np.testing.assert_array_equal(model(x).detach(), 2 * tg.tanh(model[0](x)).detach())
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert "(1): tanh\n" in repr(model)
    with pytest.raises(TypeError, match="modules and functions, got type as number 1"):
        nn.Sequential(nn.Tanh(), nn.Tanh)
    with pytest.raises(TypeError, match="expected modules, got function"):
        nn.ModuleList([lambda x: x])


FUNCTIONS = dict(pair.split(":") for pair in (
    "Conv1d:conv1d MaxPool1d:max_pool1d AvgPool1d:avg_pool1d BatchNorm1d:batch_norm LayerNorm:layer_norm "
    "Dropout:dropout GaussianNoise:gaussian_noise Embedding:embedding SinusoidalPositions:sinusoidal_positions "
    "ELU:elu LeakyReLU:leaky_relu Softplus:softplus GELU:gelu CrossEntropyLoss:cross_entropy NLLLoss:nll_loss "
    "MSELoss:mse_loss L1Loss:l1_loss SmoothL1Loss:smooth_l1_loss HuberLoss:huber_loss KLDivLoss:kl_div "
    "BCEWithLogitsLoss:binary_cross_entropy_with_logits"
).split())  # fmt: skip


@pytest.mark.parametrize(("layer", "function"), FUNCTIONS.items())
def test_options_are_by_default_what_they_are_in_the_function(layer, function):
    own, its = (inspect.signature(f).parameters for f in (getattr(nn, layer), getattr(F, function)))
    common = [name for name in own if name in its and name not in ("bias", "dtype")]
    assert common and [own[name].default for name in common] == [its[name].default for name in common]


def test_activations_use_their_options():
    x = np.array([-2.0, -0.5, 0.5, 2.0])
    for layer, expected in (
        (nn.ELU(0.5), np.where(x > 0, x, 0.5 * np.expm1(x))),
        (nn.LeakyReLU(0.2), np.where(x > 0, x, 0.2 * x)),
        (nn.Softplus(2.0), np.log1p(np.exp(2 * x)) / 2),
        (nn.Softplus(2.0, 3.0), np.where(2 * x > 3, x, np.log1p(np.exp(2 * x)) / 2)),
        (nn.GELU("tanh"), x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ):
        np.testing.assert_allclose(layer(tg.tensor(x)).numpy(), expected, rtol=1e-12)


def test_activations_print_their_options():
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2)"
    shown = "Conv1d(2, 4, kernel_size=3, stride=1, padding='causal')"
    assert repr(nn.Conv1d(2, 4, 3, padding="causal")).startswith(shown)
    assert repr(nn.MaxPool1d(2)).startswith("MaxPool1d(kernel_size=2, stride=2, padding=0")
    assert repr(nn.ReLU()) == "ReLU()"


@pytest.mark.parametrize("channels", [8, 32])
def test_a_step_with_a_convolution_is_compiled(channels):
    """However many weights it has: a kernel takes less time than the tape."""

    class Convolves(tg.nn.Cell):
        def __init__(self):
            self.conv = tg.nn.Conv1d(channels, channels, 5, padding=2)

        def initial_state(self, batch_size):
            return tg.zeros(batch_size, channels, 4)

        def step(self, x, h):
            return tg.tanh(self.conv(h) + x.unsqueeze(1))

    layer, tape = (tg.nn.Recurrent(cell, fused=how) for cell in [Convolves()] for how in ("require", "never"))
    x = tg.randn(3, 2, 4)
    np.testing.assert_allclose(layer(x)[0].numpy(), tape(x)[0].numpy(), rtol=1e-4, atol=1e-5)
