"""Initial values: bounds, moments and reproducibility."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import GRU, LSTM, Linear, LSTMCell, Module, Recurrent, init

N = 300, 200  # fan_out, fan_in


def filled(function, *arguments, shape=N, **options):
    """The values that an initialiser leaves in a tensor, which it returns."""
    tg.manual_seed(0)
    tensor = tg.nn.Parameter(np.full(shape, 99.0))
    assert function(tensor, *arguments, **options) is tensor
    return tensor.numpy()


def assert_uniform(values, low, high):
    assert low <= values.min() and values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * values.size))
    assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.02)


def assert_normal(values, mean, std):
    assert values.mean() == pytest.approx(mean, abs=5 * std / math.sqrt(values.size))
    assert values.std() == pytest.approx(std, rel=0.02)
    assert np.mean(np.abs(values - mean) < std) == pytest.approx(0.6827, abs=0.01)


def test_plain():
    assert_uniform(filled(init.uniform_), 0, 1)
    assert_uniform(filled(init.uniform_, -2, 5), -2, 5)
    assert_normal(filled(init.normal_), 0, 1)
    assert_normal(filled(init.normal_, 3, 0.5), 3, 0.5)
    assert (filled(init.constant_, 4) == 4).all()
    assert (filled(init.zeros_) == 0).all() and (filled(init.ones_) == 1).all()
    np.testing.assert_array_equal(filled(init.eye_), np.eye(*N))


def test_xavier_and_kaiming():
    fan_out, fan_in = N
    assert_uniform(filled(init.xavier_uniform_), -math.sqrt(6 / 500), math.sqrt(6 / 500))
    assert_uniform(filled(init.xavier_uniform_, gain=2), -2 * math.sqrt(6 / 500), 2 * math.sqrt(6 / 500))
    assert_normal(filled(init.xavier_normal_, gain=2), 0, 2 * math.sqrt(2 / 500))
    bound = math.sqrt(2) * math.sqrt(3 / fan_in)
    assert_uniform(filled(init.kaiming_uniform_), -bound, bound)
    bound = math.sqrt(2 / (1 + 5)) * math.sqrt(3 / fan_out)
    assert_uniform(filled(init.kaiming_uniform_, a=math.sqrt(5), mode="fan_out"), -bound, bound)
    assert_normal(filled(init.kaiming_normal_, nonlinearity="relu"), 0, math.sqrt(2 / fan_in))
    assert_normal(filled(init.kaiming_normal_, nonlinearity="tanh", mode="fan_out"), 0, 5 / 3 / math.sqrt(fan_out))
    assert_normal(filled(init.kaiming_normal_, shape=(100, 40, 3, 5)), 0, math.sqrt(2 / 600))


def test_trunc_normal():
    values = filled(init.trunc_normal_)
    assert np.abs(values).max() <= 2 and values.std() == pytest.approx(0.8796, rel=0.02)
    values = filled(init.trunc_normal_, mean=1, std=2, a=0, b=1.5)
    assert 0 <= values.min() < 0.001 and 1.499 < values.max() <= 1.5
    with pytest.raises(ValueError, match="holds hardly anything"):
        init.trunc_normal_(tg.zeros(2), a=5, b=6)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (5, 2, 4)], ids=str)
def test_orthogonal(shape):
    q = filled(init.orthogonal_, 2, shape=shape).reshape(shape[0], -1) / 2
    small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_orthogonal_is_uniform():
    """Without turning the signs, Q's diagonal would lean to one side."""
    tg.manual_seed(0)
    corners = [init.orthogonal_(tg.zeros(2, 2)).numpy()[0, 0] for _ in range(400)]
    assert abs(np.mean(corners)) < 5 * math.sqrt(0.5 / 400)
    assert init.orthogonal_(tg.zeros(0, 3)).shape == (0, 3)


def test_gains():
    assert init.calculate_gain("linear") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("selu") == 0.75
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / 1.0001)
    assert init.calculate_gain("leaky_relu", 1) == 1
    with pytest.raises(ValueError, match="nonlinearity 'sine' is not one of"):
        init.calculate_gain("sine")


def test_random_numbers_can_be_repeated():
    for function in (init.uniform_, init.normal_, init.trunc_normal_, init.xavier_normal_, init.orthogonal_):
        a, b = tg.zeros(4, 3), tg.zeros(4, 3)
        tg.manual_seed(3)
        function(a)
        tg.manual_seed(3)
        function(b)
        assert a.tolist() == b.tolist() and a.dtype == np.float32
        function(a, generator=np.random.default_rng(5))
        function(b, generator=np.random.default_rng(5))
        assert a.tolist() == b.tolist()


def test_errors():
    with pytest.raises(ValueError, match=r"xavier_uniform_: .* got shape \[3\]"):
        init.xavier_uniform_(tg.zeros(3))
    with pytest.raises(ValueError, match=r"kaiming_normal_: mode must be 'fan_in' or 'fan_out', not 'fan'"):
        init.kaiming_normal_(tg.zeros(3, 3), mode="fan")
    with pytest.raises(ValueError, match=r"orthogonal_: .* got shape \[3\]"):
        init.orthogonal_(tg.zeros(3))
    with pytest.raises(ValueError, match=r"eye_: expected a matrix, got shape \[3\]"):
        init.eye_(tg.zeros(3))
    with pytest.raises(TypeError, match="not ndarray"):
        init.zeros_(np.ones(3))


def test_forget_gate_bias():
    class Model(Module):
        def __init__(self):
            self.lstm = LSTM(2, 3, num_layers=2, bidirectional=True)
            self.own = Recurrent(LSTMCell(2, 3))
            self.gru, self.head = GRU(2, 3), Linear(3, 1)

    model = Model()
    before = model.state_dict()
    assert init.forget_gate_bias_(model, 2.0) is model
    for name, array in model.state_dict().items():
        expected = before[name].copy()
        if "bias_ih" in name and "gru" not in name:
            expected[3:6] += 2
        np.testing.assert_array_equal(array, expected, err_msg=name)
    cell = LSTMCell(2, 3)
    init.zeros_(cell.bias_ih)
    init.forget_gate_bias_(cell)
    assert cell.bias_ih.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    for without in (GRU(2, 3), LSTM(2, 3, bias=False), Linear(2, 3)):
        with pytest.raises(ValueError, match="has no LSTM with biases"):
            init.forget_gate_bias_(without)


# ---- New parameters --------------------------------------------------------------------------------------------------


def test_weights_and_biases_begin_as_those_of_the_library():
    """U(-1 / sqrt(H), 1 / sqrt(H)), as in an LSTM of as many units; gates may lie side by side."""
    tg.manual_seed(0)
    for made, shape in ((tg.nn.weight(300, 100), (300, 100)), (tg.nn.weight(300, 400, hidden_size=100), (300, 400))):
        assert isinstance(made, tg.nn.Parameter) and made.shape == shape and made.dtype == np.float32
        assert_uniform(made.numpy(), -0.1, 0.1)
    assert_uniform(LSTMCell(300, 100).weight_hh.numpy(), -0.1, 0.1)
    assert_uniform(tg.nn.bias(10_000, hidden_size=100).numpy(), -0.1, 0.1)
    assert_uniform(tg.nn.bias(2500).numpy(), -0.02, 0.02)
    wide = tg.nn.weight(3, 4, dtype=np.float64, generator=np.random.default_rng(7))
    np.testing.assert_array_equal(wide.numpy(), np.random.default_rng(7).uniform(-0.5, 0.5, (3, 4)))
    assert tg.nn.bias(3, dtype=np.float64).dtype == np.float64


def test_new_parameters_repeat_with_the_seed():
    drawn = []
    for _ in range(2):
        tg.manual_seed(3)
        drawn.append([tg.nn.weight(2, 3).numpy(), tg.nn.bias(3).numpy()])
    for a, b in zip(*drawn):
        np.testing.assert_array_equal(a, b)


def test_sizes_of_new_parameters():
    assert tg.nn.weight(0, 3).shape == (0, 3) and tg.nn.weight(3, 0).shape == (3, 0) and tg.nn.bias(0).shape == (0,)
    for call, message in (
        (lambda: tg.nn.weight(-1, 3), "weight: sizes must be positive, got -1, 3"),
        (lambda: tg.nn.weight(2, 3, hidden_size=0), "weight: .* hidden_size 0"),
        (lambda: tg.nn.bias(-2), "bias: sizes must be positive, got -2"),
        (lambda: tg.nn.bias(2, hidden_size=-1), "bias: .* hidden_size -1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="sizes must be integers"):
        tg.nn.weight(2.0, 3)
