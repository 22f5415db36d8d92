"""The recurrent layers and cells, Linear, LayerNorm and Embedding with PyTorch's weights, and dropout's statistics."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.cases import Case, compare_all
from torch_oracle.modules import TOLERANCE, build, compare_modules, engines, run
from torch_oracle.samples import to_numpy
from torch_oracle.tally import TALLY
from torch_oracle.torch_modules import MODULES, ask_module, module_samples

SAMPLED = ["RNNCell", "LSTMCell", "GRUCell", "RNN", "LSTM", "GRU", "Linear", "LayerNorm", "Embedding"]
SAMPLED += ["Conv1d", "MaxPool1d", "AvgPool1d", "AdaptiveAvgPool1d", "BatchNorm1d"]
SAMPLED += ["MultiheadAttention", "TransformerEncoderLayer"]
SAMPLED += ["ReLU", "LeakyReLU", "ELU", "Sigmoid", "Tanh", "GELU", "SiLU", "Softplus", "Softmax", "LogSoftmax"]
T, B, I, H = 5, 3, 4, 6


def judge(constructor: Case, inputs: tuple, training: bool = True, dtype: torch.dtype = torch.float64) -> None:
    case, expected = ask_module(constructor, inputs, training, dtype)
    names = {key: value.shape for key, value in build(case).state_dict().items()}
    assert names == {key: value.shape for key, value in case.state.items()}
    assert list(names) == list(case.state)
    for fused in engines(case):
        wrong = compare_modules(run(case, expected.cotangents, fused), expected, case.dtype)
        what = {"require": "layers, fused", "never": "layers, on the tape", None: "modules"}[fused]
        TALLY[what]["compared"] += 1
        TALLY[what]["wrong"] += bool(wrong)
        if wrong:
            pytest.fail(f"{case}, fused={fused!r}:\n" + "\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", SAMPLED)
def test_samples(name, training):
    """Every sample that PyTorch tests this module with."""
    for constructor, forward in module_samples(name, training):
        judge(constructor, forward.args, training)


def random(*shape, dtype=torch.float64, grad=True):
    return torch.randn(shape, dtype=dtype).requires_grad_(grad)


def recurrent_inputs(kind, options, layout, states, dtype=torch.float64):
    """x and, unless states is "none", the initial states, of a layer with these options."""
    torch.manual_seed(1)
    directions = 2 if options["bidirectional"] else 1
    shape = {"unbatched": (T, I), "batched": (T, B, I), "batch_first": (B, T, I)}[layout]
    batch = () if layout == "unbatched" else (B,)
    rows = options["num_layers"] * directions
    h = random(rows, *batch, options.get("proj_size") or H, dtype=dtype, grad=states == "with gradient")
    c = random(rows, *batch, H, dtype=dtype, grad=states == "with gradient")
    x = random(*shape, dtype=dtype)
    return (x,) if states == "none" else (x, (h, c) if kind == "LSTM" else h)


KINDS = {
    "RNN tanh": ("RNN", {"nonlinearity": "tanh"}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "GRU": ("GRU", {}),
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": 2}),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent(kind, num_layers, bidirectional, bias):
    name, options = KINDS[kind]
    options = {**options, "num_layers": num_layers, "bidirectional": bidirectional, "bias": bias}
    for layout, states in product(
        ["batched", "batch_first", "unbatched"], ["none", "without gradient", "with gradient"]
    ):
        constructor = Case(name, (I, H), {**options, "batch_first": layout == "batch_first"})
        judge(constructor, recurrent_inputs(name, options, layout, states))


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_in_float32(kind):
    name, options = KINDS[kind]
    options = {**options, "num_layers": 2, "bidirectional": True}
    inputs = recurrent_inputs(name, options, "batched", "with gradient", torch.float32)
    judge(Case(name, (I, H), options), inputs, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 4), (33, 1, 5), (7, 17, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_sizes(kind, shape):
    """One step, one row, one feature, and sizes that are no multiple of a vector."""
    name, options = KINDS[kind]
    torch.manual_seed(2)
    judge(Case(name, (shape[-1], 19), options), (random(*shape),))


@pytest.mark.parametrize("fused", ["auto", "never"])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_second_derivatives(kind, fused):
    """The gradient of |dloss/dx|^2 + |dloss/dparameters|^2: a gradient penalty through time."""
    name, options = KINDS[kind]
    case, _ = ask_module(Case(name, (I, H), {**options, "num_layers": 2}), (random(T, B, I),), True)
    theirs, ours = getattr(torch.nn, name)(I, H, num_layers=2, dtype=torch.float64, **options), build(case)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in case.state.items()})
    ours.fused = fused

    x, y = torch.tensor(case.inputs[0].array, requires_grad=True), tg.tensor(case.inputs[0].array, requires_grad=True)
    their_leaves, our_leaves = [x, *theirs.parameters()], [y, *ours.parameters()]
    their_first = torch.autograd.grad((theirs(x)[0] ** 3).sum(), their_leaves, create_graph=True)
    our_first = tg.grad((ours(y)[0] ** 3).sum(), our_leaves, create_graph=True)
    their_penalty, our_penalty = (sum((g * g).sum() for g in first) for first in (their_first, our_first))
    # Where nothing depends on a parameter any more, PyTorch has no gradient.
    expected = to_numpy(torch.autograd.grad(their_penalty, their_leaves, allow_unused=True))
    actual = [g if g is None else g.numpy() for g in tg.grad(our_penalty, our_leaves, allow_unused=True)]
    wrong = compare_all("second derivative", actual, expected, TOLERANCE["float64"])
    assert not wrong, wrong


@pytest.mark.parametrize("kind", ["RNN tanh", "GRU", "LSTM"])
def test_dropout_between_layers_is_off_in_evaluation(kind):
    name, options = KINDS[kind]
    options = {**options, "num_layers": 2, "dropout": 0.5, "bidirectional": False}
    judge(Case(name, (I, H), options), recurrent_inputs(name, options, "batched", "none"), training=False)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [(), (B,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("given", [True, False], ids=["state", "no state"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNNCell", {"nonlinearity": "tanh"}),
        ("RNNCell", {"nonlinearity": "relu"}),
        ("GRUCell", {}),
        ("LSTMCell", {}),
    ],
    ids=["RNNCell tanh", "RNNCell relu", "GRUCell", "LSTMCell"],
)
def test_cell(name, options, given, batch, bias):
    torch.manual_seed(3)
    x, h, c = random(*batch, I), random(*batch, H), random(*batch, H)
    states = ((h, c) if name == "LSTMCell" else h,) if given else ()
    judge(Case(name, (I, H), {**options, "bias": bias}), (x, *states))


@pytest.mark.parametrize("kind", KINDS)
def test_module_errors(kind):
    """An input or a state of the wrong shape is refused, and the message says which shape was found."""
    name, options = KINDS[kind]
    layer = getattr(tg.nn, name)(I, H, dtype=np.float64, **options)
    x = tg.tensor(np.zeros((T, B, I)))
    h, c = tg.tensor(np.zeros((1, B, options.get("proj_size", H)))), tg.tensor(np.zeros((1, B, H)))
    good = (h, c) if name == "LSTM" else h
    layer(x, good)
    with pytest.raises(ValueError, match=str(I + 1)):
        layer(tg.tensor(np.zeros((T, B, I + 1))))
    with pytest.raises(ValueError, match="4"):
        layer(tg.tensor(np.zeros((T, B, I, 1))))
    wrong = tg.tensor(np.zeros((1, B + 1, H)))
    with pytest.raises(ValueError, match=str(B + 1)):
        layer(x, (wrong, wrong) if name == "LSTM" else wrong)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx):
    """Repeated indices add up; the padding row gets no gradient."""
    indices = torch.tensor([[1, 2, 2], [0, 4, 4]])
    judge(Case("Embedding", (5, 3), {"padding_idx": padding_idx}), (indices,))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p):
    """Kept with probability 1 - p, scaled by 1 / (1 - p), independently; the gradient has the same mask."""
    n = 200_000
    tg.manual_seed(0)
    x = tg.tensor(np.ones(n), requires_grad=True)
    y = tg.dropout(x, p=p, training=True)
    kept = y.numpy() != 0
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(kept.mean() - (1 - p)) < 4.5 * deviation
    np.testing.assert_allclose(y.numpy()[kept], 1 / (1 - p), rtol=1e-15)
    centred = kept - kept.mean()
    for lag in (1, 2, 64):
        assert abs(np.mean(centred[lag:] * centred[:-lag])) < 4.5 * p * (1 - p) / np.sqrt(n - lag)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert np.any(tg.dropout(x, p=p, training=True).numpy() != y.numpy()), "a second call draws a new mask"
    tg.manual_seed(0)
    np.testing.assert_array_equal(tg.dropout(x, p=p, training=True).numpy(), y.numpy())


def test_dropout_edges():
    x = tg.tensor(np.arange(1.0, 5.0), requires_grad=True)
    np.testing.assert_array_equal(tg.dropout(x, p=0.5, training=False).numpy(), x.numpy())
    np.testing.assert_array_equal(tg.dropout(x, p=0.0, training=True).numpy(), x.numpy())
    y = tg.dropout(x, p=1.0, training=True)
    np.testing.assert_array_equal(y.numpy(), np.zeros(4))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros(4))
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="dropout"):
            tg.dropout(x, p=p)


def test_every_sampled_module_has_samples():
    assert all(any(True for _ in module_samples(name, True)) for name in SAMPLED)
    assert set(SAMPLED) <= set(MODULES)
