"""What single cells of few gates, of evolution, of deep steps and RWKV promise, in closed form and against others."""

import numpy as np
import pytest
from fusion.comparing import interpret
from nn.cases import relu, sigmoid
from nn.equations_deeper import gate_norm_lstm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells

T, B, I, H = 6, 3, 4, 6
X = np.random.default_rng(0).standard_normal((T, B, I))


def drawn(cell, scale=0.6):
    """All parameters anew, so that none hides behind a start at zero or one."""
    random = np.random.default_rng(1)
    for p in cell.parameters():
        p.numpy()[...] = random.uniform(-scale, scale, p.shape)
    return cell


def make(kind, *options, **named):
    return drawn(kind(I, H, *options, dtype=np.float64, **named))


def outputs(cell, x=X):
    return Recurrent(cell, fused="never")(x)[0].numpy()


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def ugrnn(weight_ih, weight_hh, bias):
    cell = cells.UGRNNCell(I, H, dtype=np.float64)
    cell.load_state_dict({"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias})
    return outputs(cell)


# ---- Cells that are others in part -----------------------------------------------------------------------------------


def test_rhn_of_one_layer_is_a_ugrnn_with_its_gate_negated():
    cell = make(cells.RHNCell, depth=1)
    swap = lambda a: np.concatenate([-a[H:], a[:H]])
    p = cell.state_dict()
    same(outputs(cell), ugrnn(swap(p["weight_ih"]), swap(p["weight_hh"]), swap(p["bias"])))


def test_janet_without_beta_is_a_ugrnn():
    cell = make(cells.JANETCell, beta=0)
    same(outputs(cell), ugrnn(**cell.state_dict()))
    assert np.abs(outputs(make(cells.JANETCell)) - outputs(cell)).max() > 0.1, "beta matters"


def test_light_ru_is_a_ugrnn_whose_candidate_sees_no_state():
    cell = make(cells.LightRUCell)
    p, zeros = cell.state_dict(), np.zeros((H, H))
    negated = np.concatenate([-p["weight_ih"][:H], p["weight_ih"][H:]])
    same(outputs(cell), ugrnn(negated, np.concatenate([-p["weight_hh"], zeros]), np.append(-p["bias"], zeros[0])))


def test_star_of_the_paper_is_the_tanh_of_a_light_ru():
    star, light = make(cells.STARCell, beta=0), cells.LightRUCell(I, H, dtype=np.float64)
    p = star.state_dict()
    star.bias.numpy()[H:] = 0
    negated = np.concatenate([-p["weight_ih"][:H], p["weight_ih"][H:]])
    light.load_state_dict({"weight_ih": negated, "weight_hh": -p["weight_hh"], "bias": -p["bias"][:H]})
    h = np.random.default_rng(2).standard_normal((B, H))
    same(star(X[0], h).numpy(), np.tanh(light(X[0], h).numpy()))


def test_t_rnn_is_a_min_gru_with_its_gate_negated():
    """Balduzzi and Ghifary (2016): h' = f h + (1 - f) z."""
    cell = make(cells.MinGRUCell)
    (W_f, W_z), (b_f, b_z) = np.split(cell.weight_ih.numpy(), 2), np.split(cell.bias.numpy(), 2)
    h, y = np.zeros((B, H)), []
    for x in X:
        f = sigmoid(x @ -W_f.T - b_f)
        h = f * h + (1 - f) * (x @ W_z.T + b_z)
        y.append(h)
    same(outputs(cell), y)


def test_nbrc_with_diagonal_matrices_is_a_brc():
    brc, nbrc = make(cells.BRCCell), cells.NBRCCell(I, H, dtype=np.float64)
    p = brc.state_dict()
    nbrc.load_state_dict(
        {"weight_ih": p["weight_ih"], "bias": p["bias"]}
        | {"weight_hh": np.concatenate([np.diag(v) for v in np.split(p["weight_v"], 2)])}
    )
    same(outputs(nbrc), outputs(brc))


def test_brc_is_bistable_where_a_is_above_one():
    """Without input: a unit stays on its side for a = 1.5, and forgets for a = 0.5."""
    cell = cells.BRCCell(1, 2, dtype=np.float64)
    for p in cell.parameters():
        p.numpy()[...] = 0
    cell.bias.numpy()[:2] = np.arctanh([0.5, -0.5])
    h = np.array([[0.3, 0.3], [-0.3, -0.3]])
    h = Recurrent(cell, fused="never")(np.zeros((200, 2, 1)), h)[1].numpy()
    rest = h[0, 0]
    assert rest == pytest.approx(np.tanh(1.5 * rest)) and rest > 0.5
    np.testing.assert_allclose(h, [[rest, 0], [-rest, 0]], atol=1e-8)


def test_cfn_shrinks_without_input():
    """Whatever the weights of its gates: every element, at every step."""
    cell = drawn(cells.CFNCell(I, H, dtype=np.float64), 3)
    y, _ = Recurrent(cell, fused="never")(np.zeros((50, B, I)), np.random.default_rng(3).uniform(-5, 5, (B, H)))
    size = np.abs(y.numpy())
    assert (np.diff(size, axis=0) <= 0).all() and size[-1].max() < 0.2


def test_atr_without_recurrent_weights():
    """Both gates are sigmoid(p): h' = sigmoid(p) (p + h)."""
    cell = make(cells.ATRCell)
    cell.weight_hh.numpy()[...] = cell.bias_hh.numpy()[...] = 0
    h, y = np.zeros((B, H)), []
    for p in X @ cell.weight_ih.numpy().T + cell.bias_ih.numpy():
        h = sigmoid(p) * (p + h)
        y.append(h)
    same(outputs(cell), y)


def test_intersection_rnn_is_a_ugrnn_through_time_and_a_highway_through_depth():
    cell = drawn(cells.IntersectionRNNCell(I, I, dtype=np.float64))
    p = cell.state_dict()
    time = cells.UGRNNCell(I, I, dtype=np.float64)
    time.load_state_dict({name: value[: 2 * I] for name, value in p.items()})
    h = outputs(time)
    y, (_, last) = Recurrent(cell, fused="never")(X)
    same(last.numpy(), h[-1])
    before = np.concatenate([np.zeros((1, B, I)), h[:-1]])
    d, n = np.split(X @ p["weight_ih"][2 * I :].T + before @ p["weight_hh"][2 * I :].T + p["bias"][2 * I :], 2, -1)
    same(y.numpy(), sigmoid(d) * X + (1 - sigmoid(d)) * relu(n))


def test_mut3_whose_update_gate_sees_no_state_is_a_gru():
    mut, gru = make(cells.MUT3Cell), cells.GRUVariantCell(I, H, keeps="new", dtype=np.float64)
    mut.weight_hh.numpy()[:H] = 0
    swapped = {name: np.concatenate([v[H : 2 * H], v[:H], v[2 * H :]]) for name, v in mut.state_dict().items()}
    zeros = np.zeros(3 * H)
    gru.load_state_dict(
        {"weight_ih": swapped["weight_ih"], "weight_hh": swapped["weight_hh"], "bias_ih": swapped["bias"]}
        | {"bias_hh": zeros}
    )
    same(outputs(mut), outputs(gru))


def test_mut1_and_mut2_read_inputs_as_they_are_where_these_are_as_wide():
    """A product with the unit matrix changes nothing."""
    for kind, rows in ((cells.MUT1Cell, 2), (cells.MUT2Cell, 2)):
        narrow = drawn(kind(H, H, dtype=np.float64))
        assert narrow.weight_ih.shape == (rows * H, H) and kind(I, H).weight_ih.shape == (3 * H, I)
        wide = kind(H, H, dtype=np.float64)
        wide.load_state_dict(narrow.state_dict())
        wide.weight_ih = tg.nn.Parameter(np.concatenate([narrow.weight_ih.numpy(), np.eye(H)]))
        x = np.random.default_rng(4).standard_normal((T, B, H))
        same(outputs(wide, x), outputs(narrow, x))


def test_nas_multiplies_input_and_state_in_one_place():
    """Without a state, or a bias, the fourth of its eight parts is nothing, whatever its weights."""
    cell = drawn(cells.NASCell(I, H, bias=False, dtype=np.float64))
    first = cell(X[0])[0].numpy()
    cell.weight_ih.numpy()[3 * H : 4 * H] += 1
    np.testing.assert_array_equal(cell(X[0])[0].numpy(), first)
    assert np.abs(outputs(cell)[1] - outputs(drawn(cells.NASCell(I, H, bias=False, dtype=np.float64)))[1]).max() > 1e-3


# ---- Deeper ----------------------------------------------------------------------------------------------------------


def test_nested_lstm_of_one_is_an_lstm():
    nested, lstm = make(cells.NestedLSTMCell, depth=1, nonlinearity="tanh"), cells.LSTMCell(I, H, dtype=np.float64)
    p = nested.state_dict()
    lstm.load_state_dict({"weight_ih": p["weight_ih"], "weight_hh": p["weight_hh"], "bias_ih": p["bias"]}
                         | {"bias_hh": 0 * p["bias"]})  # fmt: skip
    same(outputs(nested), outputs(lstm))


def test_nested_lstm_s_states():
    cell = cells.NestedLSTMCell(I, H, depth=4)
    assert cell.state_names == ("h", "c", "c_2", "c_3", "c_4")
    assert [s.shape for s in cell(np.zeros((B, I), np.float32))] == [(B, H)] * 5
    innermost = tg.nn.init.forget_gate_bias_(cell).inner.inner.inner
    assert innermost.bias.numpy().reshape(4, H)[:, 0].tolist() == [0, 2, 0, 0]


def test_hyper_lstm_with_scales_of_one_is_a_layer_norm_lstm():
    cell = make(cells.HyperLSTMCell, hyper_size=3, embedding_size=2)
    for parameter, value in ((cell.weight_z, 0), (cell.offset, 1), (cell.weight_d, 0.5), (cell.weight_db, 0)):
        parameter.numpy()[...] = value
    p, h, c, y = cell.state_dict(), np.zeros((B, H)), np.zeros((B, H)), []
    for x in X:
        gates = np.split(x @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4, 1)
        h, c = gate_norm_lstm(p, "", gates, c)
        y.append(h)
    same(outputs(cell), y)


def test_what_is_added_before_a_norm_is_no_open_gate():
    with pytest.raises(ValueError, match="HyperLSTMCell has no LSTM with biases"):
        tg.nn.init.forget_gate_bias_(cells.HyperLSTMCell(I, H))


def test_on_lstm_of_one_chunk_never_changes_its_memory():
    cell, c = make(cells.ONLSTMCell, chunk_size=H), np.random.default_rng(5).standard_normal((B, H))
    _, (_, last) = Recurrent(cell, fused="never")(X, (np.zeros((B, H)), c))
    np.testing.assert_array_equal(last.numpy(), c)


def test_on_lstm_with_open_master_gates_is_an_lstm_but_for_its_last_chunk():
    cell, lstm = make(cells.ONLSTMCell, chunk_size=2), cells.LSTMCell(I, H, dtype=np.float64)
    cell.bias_m.numpy()[...] = [0, 0, 900, 900, 0, 0]  # mi falls at the last chunk, mf rises at the first
    p = cell.state_dict()
    lstm.load_state_dict({"weight_ih": p["weight_ih"], "weight_hh": p["weight_hh"], "bias_ih": p["bias"]}
                         | {"bias_hh": 0 * p["bias"]})  # fmt: skip
    states = np.random.default_rng(6).standard_normal((2, B, H))
    (h, c), (h_lstm, c_lstm) = cell(X[0], tuple(states)), lstm(X[0], tuple(states))
    same(h.numpy()[:, :-2], h_lstm.numpy()[:, :-2])
    same(c.numpy()[:, :-2], c_lstm.numpy()[:, :-2])
    same(c.numpy()[:, -2:], states[1][:, -2:])


# ---- RWKV ------------------------------------------------------------------------------------------------------------


def weighted_mean(p, x):
    """All pairs of steps: attention whose weights fade."""
    before = np.concatenate([np.zeros((1, *x.shape[1:])), x[:-1]])
    k, v, r = ((p[f"mix_{c}"] * x + (1 - p[f"mix_{c}"]) * before) @ p[f"weight_{c}"].T for c in "kvr")
    y, fade = [], np.exp(p["decay"])
    for t in range(len(x)):
        logits = np.stack([k[s] - (t - 1 - s) * fade for s in range(t)] + [k[t] + p["u"]])
        weights = np.exp(logits - logits.max(0))
        y.append(sigmoid(r[t]) * (weights * v[: t + 1]).sum(0) / weights.sum(0))
    return np.array(y)


@pytest.mark.parametrize("scale", [0.6, 300])
@pytest.mark.parametrize("engine", ["never", "require"])
def test_rwkv_is_a_weighted_mean(scale, engine, monkeypatch):
    """Also with keys in the hundreds, whose exponentials no number holds."""
    interpret(monkeypatch)
    cell = make(cells.RWKVCell)
    cell.weight_k.numpy()[...] *= scale
    x = tg.tensor(X, requires_grad=True)
    y, _ = Recurrent(cell, fused=engine)(x)
    np.testing.assert_allclose(y.numpy(), weighted_mean(cell.state_dict(), X), rtol=0, atol=1e-12)
    y.square().sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in [x, *cell.parameters()])


def test_rwkv_in_pieces():
    layer = Recurrent(make(cells.RWKVCell), fused="never")
    first, states = layer(X[:2])
    np.testing.assert_array_equal(np.concatenate([first.numpy(), layer(X[2:], states)[0].numpy()]), layer(X)[0].numpy())


def test_how_rwkv_starts():
    """As its author's code has it for a first layer, but for the slowest of its units."""
    cell = cells.RWKVCell(8, 16, dtype=np.float64)
    assert not cell.weight_k.numpy().any() and not cell.weight_r.numpy().any()
    np.testing.assert_allclose(cell.weight_v.numpy().T @ cell.weight_v.numpy(), 2 * np.eye(8), atol=1e-12)
    np.testing.assert_allclose(cell.mix_k.numpy() ** 0.5, cell.mix_r.numpy())
    assert cell.mix_v.numpy().tolist() == [k / 8 for k in range(8)]
    expected = [max(-5 + 8 * (h / 15) ** 0.7, -4) for h in range(16)]
    np.testing.assert_allclose(cell.decay.numpy(), expected)
    np.testing.assert_allclose(np.exp(cell.u.numpy()) / 0.3, np.exp([0, 0.5, -0.5] * 5 + [0]))


@pytest.mark.parametrize("kind", [cells.RWKVCell, cells.BRCCell])
def test_no_product_in_the_loop(kind):
    layer = Recurrent(make(kind), fused="require")
    for direction in ("forward", "backward", "inference"):
        assert "multiply(" not in layer.source(direction)
    assert " 0 in products of the loop" in layer.explain()


# ---- How they start, and what they refuse ----------------------------------------------------------------------------


def test_how_they_start():
    tg.manual_seed(0)
    for kind in (cells.JANETCell, cells.STARCell):
        assert kind(3, 4).bias.numpy().tolist() == [1] * 4 + [0] * 4
        f, n = np.split(kind(3, 100, t_max=784, dtype=np.float64).bias.numpy(), 2)
        assert not n.any() and 1 <= np.exp(f).min() < 40 and 740 < np.exp(f).max() <= 784
        assert 300 < np.exp(f).mean() < 480, "steps are uniform, not their logarithms"
    assert cells.CFNCell(3, 2).bias.numpy().tolist() == [1, 1, -1, -1]
    assert np.abs(cells.ATRCell(3, 4).weight_hh.numpy()).max() <= 0.08
    assert cells.BRCCell(3, 2).weight_v.numpy().tolist() == [1] * 4
    g, n, d, y = np.split(cells.IntersectionRNNCell(3, 64).bias.numpy(), 4)
    assert min(g.min(), d.min()) > 0.8 > max(n.max(), y.max())
    n, t = cells.RHNCell(3, 2, depth=2, transform_bias=-3).bias.numpy().reshape(2, 2, 2).swapaxes(0, 1)
    assert (t == -3).all() and 0 < np.abs(n).min() < np.abs(n).max() <= 0.04
    for block in np.split(cells.STARCell(5, 5, dtype=np.float64).weight_ih.numpy(), 2):
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-12)
    hyper = cells.HyperLSTMCell(3, 8, embedding_size=5)
    assert hyper.hyper_size == 2 and hyper.norm_f.bias.numpy().all() and not hyper.norm_i.bias.numpy().any()
    np.testing.assert_allclose(hyper.weight_d.numpy() @ hyper.offset.numpy()[:5], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells.JANETCell(2, 3, t_max=1), "JANETCell: t_max must be above 1, or None, not 1"),
        (lambda: cells.STARCell(2, 3, t_max=float("nan")), "STARCell: t_max must be above 1, or None, not nan"),
        (lambda: cells.IntersectionRNNCell(2, 3, nonlinearity="elu"), "must be 'relu' or 'tanh', not 'elu'"),
        (lambda: cells.RHNCell(2, 3, depth=0), "RHNCell: depth must be positive, not 0"),
        (lambda: cells.NestedLSTMCell(2, 3, depth=0), "NestedLSTMCell: depth must be positive, not 0"),
        (lambda: cells.NestedLSTMCell(2, 3, nonlinearity="relu"), "must be 'identity' or 'tanh', not 'relu'"),
        (lambda: cells.HyperLSTMCell(2, 3, hyper_size=0), "HyperLSTMCell: hyper_size must be positive, not 0"),
        (lambda: cells.HyperLSTMCell(2, 3, embedding_size=0), "embedding_size must be positive, not 0"),
        (lambda: cells.ONLSTMCell(2, 6, chunk_size=4), "chunk_size must divide hidden_size 6, 4 does not"),
        (lambda: cells.ONLSTMCell(2, 6, chunk_size=0), "chunk_size must divide hidden_size 6, 0 does not"),
    ],
)
def test_wrong_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()
