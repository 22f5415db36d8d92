"""Convolutions and pools with options drawn at random, and batch norm's running statistics, against PyTorch's."""

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

SEEDS = range(60)


def compare(ours, theirs, *arrays):
    """Values and the gradients of all arrays, of one function in two libraries; or both refuse it."""
    mine = [tg.tensor(x, requires_grad=True) for x in arrays]
    others = [torch.tensor(x, requires_grad=True) for x in arrays]
    TALLY["convolutions and pools"]["compared"] += 1
    try:
        expected = theirs(*others)
    except RuntimeError:
        with pytest.raises(ValueError, match="1d"):
            ours(*mine)
        return
    y = ours(*mine)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    weight = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(tg.tensor(weight))
    expected.backward(torch.tensor(weight))
    for x, other in zip(mine, others):
        np.testing.assert_allclose(x.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding")  # of PyTorch: a copy more
@pytest.mark.parametrize("seed", SEEDS)
def test_conv1d(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    n, c, o, length, k = (int(rng.integers(low, high)) for low, high in ((0, 4), (1, 4), (1, 4), (1, 9), (1, 9)))
    options = dict(stride=int(rng.integers(1, 4)), padding=int(rng.integers(0, 5)), dilation=int(rng.integers(1, 4)))
    if rng.random() < 0.3:
        options |= dict(padding=str(rng.choice(["same", "valid"])), stride=1)
    shape = (c * groups, length) if rng.random() < 0.2 else (n, c * groups, length)
    arrays = rng.standard_normal(shape), rng.standard_normal((o * groups, c, k)), rng.standard_normal(o * groups)
    compare(
        lambda x, w, b: tg.conv1d(x, w, b, groups=groups, **options),
        lambda x, w, b: torch.nn.functional.conv1d(x, w, b, groups=groups, **options),
        *arrays,
    )


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same"])
def test_padding_modes(mode, padding):
    torch.manual_seed(0)
    theirs = torch.nn.Conv1d(2, 3, 4, padding=padding, dilation=2, padding_mode=mode, dtype=torch.float64)
    ours = tg.nn.Conv1d(2, 3, 4, padding=padding, dilation=2, padding_mode=mode, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    compare(ours, theirs, np.random.default_rng(1).standard_normal((2, 2, 9)))


@pytest.mark.parametrize("seed", SEEDS)
def test_pools(seed):
    rng = np.random.default_rng(seed)
    size, length = (int(x) for x in rng.integers(1, 8, 2))
    options = dict(stride=int(rng.integers(1, 4)), padding=int(rng.integers(0, 3)), ceil_mode=bool(rng.random() < 0.5))
    x = rng.standard_normal([(2, 3, length), (3, length)][seed % 2])
    dilation = int(rng.integers(1, 3))
    compare(
        lambda x: tg.max_pool1d(x, size, dilation=dilation, **options),
        lambda x: torch.nn.functional.max_pool1d(x, size, dilation=dilation, **options),
        x,
    )
    counted = bool(rng.random() < 0.5)
    compare(
        lambda x: tg.avg_pool1d(x, size, count_include_pad=counted, **options),
        lambda x: torch.nn.functional.avg_pool1d(x, size, count_include_pad=counted, **options),
        x,
    )
    compare(
        lambda x: tg.adaptive_avg_pool1d(x, size), lambda x: torch.nn.functional.adaptive_avg_pool1d(x, size), x
    )


def test_the_first_of_equal_numbers_is_the_largest():
    x = np.array([[[1.0, 3.0, 3.0, 3.0, np.nan, 2.0]]])
    compare(lambda x: tg.max_pool1d(x, 3, 1), lambda x: torch.nn.functional.max_pool1d(x, 3, 1), x)
    ours, places = tg.max_pool1d(tg.tensor(x[..., :4]), 2, 1, return_indices=True)
    theirs = torch.nn.functional.max_pool1d(torch.tensor(x[..., :4]), 2, 1, return_indices=True)
    assert places.tolist() == theirs[1].tolist()
    assert ours.tolist() == theirs[0].tolist()


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_remembers(momentum, options):
    """Three batches while training, then one in evaluation; state_dicts agree in names, shapes and numbers."""
    rng = np.random.default_rng(0)
    ours = tg.nn.BatchNorm1d(3, momentum=momentum, dtype=np.float64, **options)
    theirs = torch.nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64, **options)
    for training in (True, True, True, False):
        ours.train(training)
        theirs.train(training)
        compare(ours, theirs, rng.standard_normal((4, 3, 5)))
        state, expected = ours.state_dict(), theirs.state_dict()
        assert list(state) == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-12)
            assert state[name].dtype == value.numpy().dtype
