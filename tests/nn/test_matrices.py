"""Cells whose state is a matrix: what each computes without one, and what it recalls."""

import math

import numpy as np
import pytest
from nn.cases import sigmoid

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells

T, B, I, H = 7, 2, 3, 12


def made(kind, **options):
    tg.manual_seed(0)
    cell = kind(I, H, dtype=np.float64, **options)
    random = np.random.default_rng(2)
    for p in cell.parameters():
        p.numpy()[...] += random.uniform(-0.5, 0.5, p.shape)
    return cell


def run(cell, x):
    """The outputs and the final states."""
    y, states = Recurrent(cell, fused="never")(x)
    return y.numpy(), [state.numpy() for state in states]


def parts(cell, x):
    """What x is mapped to, [T, B, heads, n] each."""
    a = x @ cell.weight_ih.numpy().T + (0 if cell.bias is None else cell.bias.numpy())
    return [part.reshape(T, B, cell.heads, -1) for part in np.split(a, np.cumsum(cell.sizes)[:-1], -1)]


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((T, B, I))


def silu(a):
    return a * sigmoid(a)


# ---- In parallel: a weight for each pair of steps, and no memory -----------------------------------------------------


@pytest.mark.parametrize("heads", [1, 3])
def test_mlstm_is_a_sum_over_the_past(heads, x):
    """The paper's appendix A.3; a step of the first memory, which is empty, has the logarithm 0."""
    cell = made(cells.MLSTMCell, heads=heads, key_size=5)
    y, _ = run(cell, x)
    q, k, v, o, i, f = parts(cell, x)
    total = np.log(sigmoid(f)).cumsum(0)
    for t in range(T):
        exponents = total[t] - total[: t + 1] + i[: t + 1]  # [t + 1, B, heads, 1]
        m = np.maximum(exponents.max(0), total[t])
        scores = np.exp(exponents) * (q[t] * k[: t + 1] / math.sqrt(5)).sum(-1, keepdims=True)
        below = np.maximum(abs(scores.sum(0)), 1) + 1e-6 * np.exp(m)
        expected = sigmoid(o[t]) * (scores * v[: t + 1]).sum(0) / below
        np.testing.assert_allclose(y[t], expected.reshape(B, H), rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
def test_linear_attention_is_a_mean_over_the_past(heads, x):
    cell = made(cells.LinearAttentionCell, heads=heads)
    y, _ = run(cell, x)
    q, k, v = parts(cell, x)
    q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    for t in range(T):
        weights = (q[t] * k[: t + 1]).sum(-1, keepdims=True)
        expected = (weights * v[: t + 1]).sum(0) / (weights.sum(0) + 1e-6)
        np.testing.assert_allclose(y[t], expected.reshape(B, H), rtol=0, atol=1e-12)


@pytest.mark.parametrize("key_size", [4, 5])
def test_retention_is_a_product_of_queries_and_keys_that_are_turned(key_size, x):
    """(Q K^T * D) V of the paper, with q and k turned by their positions; what is left over is not turned."""
    cell = made(cells.RetNetCell, heads=3, key_size=key_size)
    y, _ = run(cell, x)
    q, k, v, g = parts(cell, x)
    angles = 10000 ** -np.linspace(0, 1, key_size // 2)
    turn = np.exp(1j * np.arange(T)[:, None, None, None] * angles)
    n = key_size // 2
    turned = lambda a: np.concatenate([(a[..., :n] + 1j * a[..., n : 2 * n]) * turn, a[..., 2 * n :]], -1)
    gamma = 1 - 2.0 ** (-5 - np.arange(3))
    for t in range(T):
        decay = gamma ** (t - np.arange(t + 1))[:, None]  # [t + 1, heads]
        scores = (turned(q)[t] * turned(k)[: t + 1].conj()).sum(-1).real / math.sqrt(key_size) * decay[:, None]
        o = (scores[..., None] * v[: t + 1]).sum(0)
        o = o / np.sqrt((o * o).mean(-1, keepdims=True) + 1e-6)
        expected = (silu(g[t]) * o).reshape(B, H) @ cell.weight_ho.numpy().T
        np.testing.assert_allclose(y[t], expected, rtol=0, atol=1e-12)


def test_gated_linear_attention_divides_by_what_is_forgotten(x):
    """((Q * A) (K / A)^T) V, A the product of all gates so far."""
    cell = made(cells.GLACell, heads=3, key_size=5)
    y, _ = run(cell, x)
    q, k, v, g = parts(cell, x)
    gate = x @ cell.weight_down.numpy().T @ cell.weight_up.numpy().T + cell.bias_gate.numpy()
    A = (sigmoid(gate) ** (1 / 16)).cumprod(0).reshape(k.shape)
    for t in range(T):
        scores = (q[t] * A[t] * (k / A)[: t + 1]).sum(-1, keepdims=True) / math.sqrt(5)
        o = (scores * v[: t + 1]).sum(0)
        o = o / np.sqrt((o * o).mean(-1, keepdims=True) + 1e-5) * cell.weight_norm.numpy()
        expected = (silu(g[t]) * o).reshape(B, H) @ cell.weight_ho.numpy().T
        np.testing.assert_allclose(y[t], expected, rtol=0, atol=1e-12)


def test_fast_weights_attend_to_the_recent_past(x):
    """What they add is a sum of past states, each by its resemblance to the present one and by how long ago it was."""
    cell = made(cells.FastWeightsCell, decay=0.9, rate=0.4)
    y, (_, A) = run(cell, x)
    past = y[:-1]  # the first outer product is of the state to start from, zero
    weights = 0.4 * 0.9 ** np.arange(T - 2, -1, -1)
    query = np.random.default_rng(3).standard_normal((B, H))
    expected = (weights[:, None, None] * (past * query).sum(-1, keepdims=True) * past).sum(0)
    np.testing.assert_allclose(np.einsum("bij,bj->bi", A, query), expected, rtol=0, atol=1e-12)


# ---- What is recalled ------------------------------------------------------------------------------------------------


def test_the_delta_rule_recalls_the_last_value_of_a_key():
    """Of orthonormal keys and with beta at one: exactly, whatever was there before, and no other key is changed."""
    N, D = 4, 6
    cell = cells.DeltaNetCell(2 * N + D, D, key_size=N, dtype=np.float64)
    with tg.no_grad():
        cell.weight_ih.numpy()[...] = cell.bias.numpy()[...] = 0
        q, k, v, _ = np.split(cell.weight_ih.numpy(), np.cumsum(cell.sizes)[:-1])
        q[:, :N] = k[:, N : 2 * N] = 1e4 * np.eye(N)  # SiLU keeps it, and lengths are taken out again
        v[:, 2 * N :] = np.eye(D)
        cell.bias.numpy()[-1] = 50
    random, keys = np.random.default_rng(0), np.eye(N)
    written, asked = [0, 1, 2, 1, 3, 0, 2], [0, 0, 1, 1, 2, 3, 0]
    values = random.standard_normal((len(written), 2, D))
    rows = [[np.tile(keys[n], (2, 1)) for n in numbers] for numbers in (asked, written)]
    y, _ = run(cell, np.concatenate([*map(np.stack, rows), values], -1))
    for t, which in enumerate(asked):
        last = max(s for s in range(t + 1) if written[s] == which)
        np.testing.assert_allclose(y[t], values[last], rtol=0, atol=1e-11)


def test_mlstm_survives_gates_that_are_far_off():
    """Exponentials of +-2000 neither overflow nor leave 0 / 0; h does not depend on where m stands."""
    cell = cells.MLSTMCell(1, 3)
    for i, f in ((-2000, 0), (2000, 0), (90, -2000), (-2000, -2000), (-100, -100), (2000, 2000)):
        cell.bias.numpy()[-2:] = i, f
        x = tg.tensor(np.random.default_rng(0).standard_normal((6, 2, 1)).astype(np.float32), requires_grad=True)
        y, _ = Recurrent(cell, fused="never")(x)
        cell.zero_grad()
        y.square().sum().backward()
        assert np.isfinite(y.numpy()).all()
        assert all(np.isfinite(p.grad.numpy()).all() for p in [x, *cell.parameters()])
    calm, random = made(cells.MLSTMCell), np.random.default_rng(0)
    C, n, h = random.standard_normal((B, 1, H, H)), random.standard_normal((B, 1, H)) + 3, np.zeros((B, H))
    x, found = random.standard_normal((B, I)), []
    for m in (-2.0, 0.0, 1.0):
        scaled = C / np.exp(m), n / np.exp(m), np.full((B, 1, 1), m)
        found.append(calm(x, (h, *scaled))[0].numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)  # but for the 1e-6 below the fraction
    np.testing.assert_allclose(found[2], found[1], rtol=1e-4)


# ---- Options and starts ----------------------------------------------------------------------------------------------


def test_how_they_start():
    tg.manual_seed(0)
    mlstm = cells.MLSTMCell(5, 8, heads=4)
    np.testing.assert_array_equal(mlstm.bias.numpy()[-4:], [3, 4, 5, 6])
    assert not mlstm.weight_ih.numpy()[-8:].any() and 0 < abs(mlstm.bias.numpy()[-8:-4]).max() < 0.5
    assert cells.MLSTMCell(5, 17).bias.numpy()[-1] == 3
    np.testing.assert_array_equal(cells.FastWeightsCell(5, 8).weight_hh.numpy(), np.float32(0.05) * np.eye(8))
    ret_net = cells.RetNetCell(64, 64)
    assert ret_net.heads == 4 and ret_net.gamma.numpy().ravel().tolist() == [1 - 2**-k for k in (5, 6, 7, 8)]
    assert abs(ret_net.weight_ih.numpy().std() - 2**-2.5 / 8) < 0.002  # Xavier's with that gain
    assert [cells.RetNetCell(4, n).heads for n in (4, 6, 8, 16, 17, 18)] == [1, 1, 2, 4, 1, 2]
    assert set(cells.GLACell(3, 8).weight_norm.numpy()) == {1} and cells.GLACell(3, 17).key_size == 8


def test_gates_that_forget_nothing_make_gla_a_sum(x):
    cell = made(cells.GLACell)
    cell.weight_up.numpy()[...] = 0
    cell.bias_gate.numpy()[...] = 1e3
    _, (_, S) = run(cell, x)
    _, k, v, _ = parts(cell, x)
    np.testing.assert_allclose(S, np.einsum("tbhk,tbhv->bhkv", k, v), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cells.MLSTMCell(2, 6, heads=4), "MLSTMCell: heads must divide hidden_size 6, not be 4"),
        (lambda: cells.DeltaNetCell(2, 6, heads=0), "DeltaNetCell: heads must divide hidden_size 6, not be 0"),
        (lambda: cells.RetNetCell(2, 6, key_size=0), "RetNetCell: key_size must be positive, not 0"),
        (lambda: cells.GLACell(2, 6, heads=0), "GLACell: heads must divide hidden_size 6, not be 0"),
        (lambda: cells.GLACell(2, 6, gate_rank=0), "GLACell: gate_rank must be positive, not 0"),
        (lambda: cells.FastWeightsCell(2, 6, inner=0), "FastWeightsCell: inner must be positive, not 0"),
        (lambda: cells.FastWeightsCell(2, 6, decay=1.5), "FastWeightsCell: decay must be between 0 and 1, not 1.5"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (cells.MLSTMCell(3, 8, heads=2, bias=False), "MLSTMCell(3, 8, bias=False, heads=2)"),
        (cells.DeltaNetCell(3, 8, key_size=5), "DeltaNetCell(3, 8, key_size=5)"),
        (cells.RetNetCell(3, 8), "RetNetCell(3, 8, heads=2)"),
        (cells.GLACell(3, 8, gate_rank=2), "GLACell(3, 8, heads=2, key_size=2, gate_rank=2)"),
        (cells.FastWeightsCell(3, 8, inner=2, rate=0.1), "FastWeightsCell(3, 8, inner=2, rate=0.1)"),
    ],
)
def test_what_they_say_of_themselves(cell, said):
    assert repr(cell).splitlines()[0].startswith(said)
