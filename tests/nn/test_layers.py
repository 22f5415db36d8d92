"""Linear, Embedding, LayerNorm, Dropout, GaussianNoise and the functions behind them."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
import tinygrad_rnn.nn.functional as F
from tinygrad_rnn.nn import Dropout, Embedding, GaussianNoise, LayerNorm, Linear

RANDOM = np.random.default_rng(0)


def double(*shape):
    return tg.tensor(RANDOM.standard_normal(shape), requires_grad=True)


def assert_gradients(module, *inputs):
    """First and second derivatives with respect to the inputs and all parameters."""
    module = module.double()
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run(*arguments):
        return module(*arguments[: len(inputs)])

    assert tg.gradcheck(run, (*inputs, *parameters))
    assert tg.gradgradcheck(run, (*inputs, *parameters))


# ---- Linear ----------------------------------------------------------------------------------------------------------


def test_linear():
    layer = Linear(3, 2)
    w, b = layer.weight.numpy(), layer.bias.numpy()
    x = RANDOM.standard_normal((4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(x).numpy(), x @ w.T + b, rtol=1e-5, atol=1e-6)
    assert layer(np.zeros(3, np.float32)).shape == (2,) and layer(np.zeros((0, 3), np.float32)).shape == (0, 2)
    assert F.linear(x, w[0]).shape == (4, 5)
    assert_gradients(layer, double(4, 3))
    assert_gradients(Linear(3, 2, bias=False), double(3))
    assert Linear(3, 2, dtype=np.float64).weight.dtype == np.float64


def test_linear_starts_uniform():
    tg.manual_seed(0)
    layer = Linear(100, 300)
    for p in (layer.weight, layer.bias):
        assert 0.098 < np.abs(p.numpy()).max() < 0.1 and abs(p.numpy().mean()) < 0.01
    tg.manual_seed(0)
    np.testing.assert_array_equal(Linear(100, 300).weight.numpy(), layer.weight.numpy())
    assert Linear(0, 3)(tg.zeros(2, 0)).tolist() == np.zeros((2, 3)).tolist()


def test_linear_says_which_shapes_differ():
    with pytest.raises(ValueError, match=r"linear: an input of shape \[2, 4\] does not fit a weight of shape \[2, 3\]"):
        Linear(3, 2)(tg.zeros(2, 4))


# ---- Embedding -------------------------------------------------------------------------------------------------------


def test_embedding():
    layer = Embedding(5, 3)
    w = layer.weight.numpy()
    for index in (np.array([[0, 4], [4, 1]]), [2, 2], 3, tg.tensor(np.array([1, 0])), np.zeros((0, 2), int)):
        rows = np.asarray(index.numpy() if isinstance(index, tg.Tensor) else index)
        np.testing.assert_array_equal(layer(index).numpy(), w[rows])
    layer(np.array([1, 1, 3])).sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [0, 2, 0, 1, 0]
    index = np.array([[1, 1], [0, 4]])
    assert tg.gradcheck(lambda w: F.embedding(index, w), (double(5, 3),))
    assert tg.gradgradcheck(lambda w: F.embedding(index, w) ** 2, (double(5, 3),))


@pytest.mark.parametrize("padding_idx", [1, -4])
def test_padding_row_has_no_gradient(padding_idx):
    layer = Embedding(5, 3, padding_idx=padding_idx)
    assert layer.weight.numpy()[1].tolist() == [0, 0, 0]
    layer.weight.numpy()[1] = 7
    y = layer(np.array([[1, 2], [2, 1]]))
    assert y.numpy()[0, 0].tolist() == [7, 7, 7]
    y.sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [0, 0, 2, 0, 0]
    layer(np.array([0])).sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [1, 0, 2, 0, 0]
    assert repr(layer) == "Embedding(5, 3, padding_idx=1)  # weight [5, 3]: 15 parameters"


def test_embedding_from_pretrained():
    table = RANDOM.standard_normal((4, 2))
    layer = Embedding.from_pretrained(table, padding_idx=1)
    assert not layer.weight.requires_grad and layer.weight.dtype == np.float64 and layer.embedding_dim == 2
    np.testing.assert_array_equal(layer([3, 1]).numpy(), table[[3, 1]])
    assert Embedding.from_pretrained(table, freeze=False).weight.requires_grad
    with pytest.raises(ValueError, match=r"\[4\]"):
        Embedding.from_pretrained(np.ones(4))


def test_embedding_errors():
    layer = Embedding(5, 3)
    for wrong in (5, -1):
        with pytest.raises(IndexError, match=rf"index {wrong} is out of range for 5 embeddings: 0 to 4"):
            layer(np.array([0, wrong]))
    with pytest.raises(TypeError, match="expected integers, got float64"):
        layer(np.array([0.0]))
    with pytest.raises(ValueError, match=r"weight must be 2-d"):
        F.embedding([0], np.ones(3))
    for wrong in (5, -6):
        with pytest.raises(ValueError, match=f"padding_idx {wrong} is out of range"):
            Embedding(5, 3, padding_idx=wrong)
        with pytest.raises(ValueError, match=f"padding_idx {wrong} is out of range"):
            F.embedding([0], np.ones((5, 3)), padding_idx=wrong)


# ---- LayerNorm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [5, (4, 5), [5]], ids=str)
def test_layer_norm(shape):
    layer, x = LayerNorm(shape), double(3, 4, 5)
    axes = (-2, -1) if shape == (4, 5) else (-1,)
    a = x.numpy()
    expected = (a - a.mean(axes, keepdims=True)) / np.sqrt(a.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer.double()(x).numpy(), expected, rtol=1e-12)
    layer.weight.numpy()[...], layer.bias.numpy()[...] = 2, 3
    np.testing.assert_allclose(layer(x).numpy(), 2 * expected + 3, rtol=1e-12)
    layer.reset_parameters()
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12)


def test_layer_norm_gradients_and_options():
    assert_gradients(LayerNorm(4), double(2, 4))
    assert_gradients(LayerNorm((2, 3), eps=0.1, bias=False), double(2, 2, 3))
    assert list(LayerNorm(4, bias=False).state_dict()) == ["weight"]
    assert list(LayerNorm(4, elementwise_affine=False).state_dict()) == []
    constant = LayerNorm(4)(tg.ones(2, 4)).numpy()
    assert constant.tolist() == np.zeros((2, 4)).tolist(), "eps keeps the division finite"
    assert LayerNorm(4)(tg.zeros(0, 4)).shape == (0, 4)


def test_layer_norm_errors():
    with pytest.raises(ValueError, match=r"normalized_shape \[4\] is not the end of the input's \[4, 5\]"):
        LayerNorm(4)(tg.zeros(4, 5))
    with pytest.raises(ValueError, match=r"weight has shape \[4\], expected \[5\]"):
        F.layer_norm(tg.zeros(4, 5), 5, weight=tg.ones(4))
    with pytest.raises(ValueError, match=r"bias has shape \[1\], expected \[5\]"):
        F.layer_norm(tg.zeros(4, 5), 5, bias=tg.ones(1))


# ---- normalize -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, 1, 3, 0.5, 1.5, math.inf])
@pytest.mark.parametrize("dim", [0, 1, -1, (0, 2)], ids=str)
def test_normalize(p, dim):
    x = double(2, 3, 4)
    y = F.normalize(x, p=p, dim=dim).numpy()
    a = np.abs(x.numpy())
    norm = a.max(dim, keepdims=True) if p == math.inf else (a**p).sum(dim, keepdims=True) ** (1 / p)
    np.testing.assert_allclose(y, x.numpy() / norm, rtol=1e-12)
    assert tg.gradcheck(lambda x: F.normalize(x, p=p, dim=dim), (x,))


@pytest.mark.parametrize("p", [2, 1, 3, 0.5, 1.5, 0, math.inf])
def test_normalize_zeros(p):
    """Nothing to divide by: zeros stay zeros, and their gradients are finite."""
    x = tg.tensor(np.zeros((2, 3)), requires_grad=True)
    y = F.normalize(x, p=p)
    y.sum().backward()
    assert not y.numpy().any() and np.isfinite(x.grad.numpy()).all()


def test_normalize_counts_and_smallest():
    x = np.array([[3.0, 0.0, -6.0]])
    assert F.normalize(x, p=0).tolist() == [[1.5, 0, -3]]
    assert F.normalize(x[:, ::2], p=-math.inf).tolist() == [[1, -2]]
    assert F.normalize(np.array([[0.0, 2.0]]), p=-1, eps=0.5).tolist() == [[0, 4]], "1 / (1 / 0 + 1 / 2) is 0"
    assert F.normalize(np.array([1e-20]), dim=0, eps=1e-10).item() == pytest.approx(1e-10)
    with pytest.raises(IndexError, match="normalize"):
        F.normalize(x, dim=2)


# ---- Dropout ---------------------------------------------------------------------------------------------------------


def test_dropout():
    layer, x = Dropout(0.25), tg.ones(100, 100, requires_grad=True)
    tg.manual_seed(1)
    y = layer(x)
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.75) < 4.5 * np.sqrt(0.25 * 0.75 / 1e4)
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.75, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert (layer(x).numpy() != y.numpy()).any()
    tg.manual_seed(1)
    np.testing.assert_array_equal(layer(x).numpy(), y.numpy())
    assert layer.eval()(x) is x and Dropout(0)(x) is x
    assert not Dropout(1)(x).numpy().any()
    assert F.dropout(x, 0.5, training=False) is x


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_dropout_probability(p):
    with pytest.raises(ValueError, match=r"Dropout: the probability must be in \[0, 1\]"):
        Dropout(p)
    with pytest.raises(ValueError, match=r"dropout: the probability must be in \[0, 1\]"):
        F.dropout(tg.ones(2), p, training=False)


def test_embedding_dropout_drops_words():
    """A word is there in all its places or in none, with all its elements."""
    tg.manual_seed(2)
    layer, rows = Embedding(1000, 4, dropout=0.25), RANDOM.integers(0, 1000, (50, 60))
    table = layer.weight.numpy()
    y = layer(rows)
    kept = y.numpy().any(-1)
    words = {int(word) for word in rows[kept]}
    assert words.isdisjoint(int(word) for word in rows[~kept])
    assert abs(len(words) / len(np.unique(rows)) - 0.75) < 4.5 * np.sqrt(0.25 * 0.75 / 900)
    np.testing.assert_allclose(y.numpy()[kept], table[rows][kept] / 0.75, rtol=1e-6)
    y.sum().backward()
    counts = np.bincount(rows[kept], minlength=1000) / 0.75
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.repeat(counts[:, None], 4, 1), rtol=1e-5)
    assert (layer(rows).numpy() != y.numpy()).any(), "a new mask at each call"
    tg.manual_seed(2)
    Embedding(1000, 4)  # draws its weights
    np.testing.assert_array_equal(layer(rows).numpy(), y.numpy())
    np.testing.assert_array_equal(layer.eval()(rows).numpy(), table[rows])
    assert "1000, 4, dropout=0.25" in repr(layer)


def seeded(function, *args, **kwargs):
    """The same mask or noise every time."""
    tg.manual_seed(0)
    return function(*args, **kwargs)


def test_embedding_dropout_gradients_and_edges():
    weight, words = double(6, 2), np.array([1, 2, 1, 5, 3, 1])
    y = seeded(F.embedding, words, weight, padding_idx=1, dropout=0.5)
    (gradient,) = tg.grad(y.sum(), [weight])
    expected = np.zeros((6, 2))
    for word, vector in zip(words, y.numpy()):
        if vector.any() and word != 1:
            expected[word] += 2.0
    np.testing.assert_array_equal(gradient.numpy(), expected)
    assert {0.0, 2.0} == set(expected.ravel()), "some are dropped and some are not"
    assert tg.gradcheck(lambda w: seeded(F.embedding, [[0, 2, 0], [5, 3, 4]], w, dropout=0.5), (weight,))
    for wrong in (-0.1, 1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"Embedding: dropout: the probability must be in \[0, 1\)"):
            Embedding(2, 2, dropout=wrong)
        with pytest.raises(ValueError, match=r"embedding: dropout: the probability must be in \[0, 1\)"):
            F.embedding([0], weight, dropout=wrong)


# ---- GaussianNoise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_noise(dtype):
    layer, x = GaussianNoise(0.5), tg.tensor(np.full((100, 100), 3, dtype), requires_grad=True)
    tg.manual_seed(1)
    y = layer(x)
    noise = y.numpy() - 3
    assert y.dtype == dtype and abs(noise.mean()) < 4.5 * 0.5 / 100 and abs(noise.std() - 0.5) < 4.5 * 0.5 / 140
    assert abs((noise**4).mean() / 0.5**4 - 3) < 4.5 * np.sqrt(96 / 1e4), "the fourth moment of a normal distribution"
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 1)
    assert (layer(x).numpy() != y.numpy()).any()
    tg.manual_seed(1)
    np.testing.assert_array_equal(layer(x).numpy(), y.numpy())
    assert tg.gradcheck(lambda x: seeded(F.gaussian_noise, x, 0.5), (double(3, 2),))
    assert layer.eval()(x) is x and GaussianNoise(0)(x) is x and F.gaussian_noise(x, 0.5, training=False) is x
    assert repr(layer) == "GaussianNoise(std=0.5)" and GaussianNoise(0.1)(np.arange(3)).dtype == np.float32


@pytest.mark.parametrize("std", [-0.1, math.inf, math.nan])
def test_gaussian_noise_deviation(std):
    with pytest.raises(ValueError, match="GaussianNoise: the standard deviation must be at least 0 and finite"):
        GaussianNoise(std)
    with pytest.raises(ValueError, match="gaussian_noise: the standard deviation must be at least 0 and finite"):
        F.gaussian_noise(tg.ones(2), std)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: tg.nn.Linear(3, -1), ValueError, r"integers of at least 0, but a parameter of it would be \[-1, 3\]"),
        (lambda: tg.nn.Linear("3", 1), ValueError, r"would be \[1, '3'\]"),
        (lambda: tg.nn.Embedding(5, 3.0), ValueError, r"would be \[5, 3\.0\]"),
        (lambda: tg.nn.LSTMCell(-3, 4), ValueError, r"would be \[16, -3\]"),
        (lambda: tg.nn.LSTM(3.0, 4), TypeError, "LSTM: input_size must be an integer, not 3.0"),
        (lambda: tg.nn.GRU(3, "4"), TypeError, "GRU: hidden_size must be an integer, not '4'"),
        (lambda: tg.nn.GRU(3, 4, 1.5), TypeError, "GRU: num_layers must be an integer, not 1.5"),
    ],
)
def test_what_is_no_size_is_told_where_a_layer_is_made(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
