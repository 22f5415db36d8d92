"""Attention and positions: what follows from their definitions. PyTorch is asked elsewhere."""

import copy
import gc
import tracemalloc

import numpy as np
import pytest
from fusion.comparing import assert_engines_agree, interpret

import tinygrad_rnn as tg

nn, F = tg.nn, tg.nn.functional


def draw(*shape):
    return tg.randn(*shape, dtype=tg.float64, requires_grad=True)


def model(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=True, dtype=np.float64)
    return nn.TransformerEncoder(layer, 2, **options)


CAUSAL = {
    "function": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "layers": lambda x: model()(x, is_causal=True),
    "mask": lambda x: model()(x, mask=np.triu(np.ones((x.shape[1],) * 2, bool), 1)),
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_nothing_sees_the_future(kind):
    """Neither through values nor through gradients; and everything sees the whole past."""
    x = draw(2, 6, 8)
    y = CAUSAL[kind](x)
    for step in range(6):
        (seen,) = tg.grad((y[:, step] ** 2).sum(), [x], retain_graph=True)
        assert np.flatnonzero(np.abs(seen.numpy()).sum((0, 2))).tolist() == list(range(step + 1))


def test_the_future_may_be_anything():
    encoder = model()
    x = draw(1, 6, 8)
    y = encoder(x, is_causal=True).detach().numpy()
    other = x.numpy().copy()
    other[:, 4:] = 1e30
    np.testing.assert_array_equal(encoder(other, is_causal=True).detach().numpy()[:, :4], y[:, :4])


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (2, 4), (4, 2)])
def test_the_causal_mask_is_aligned_at_the_top_left(queries, keys):
    q, k, v = draw(2, queries, 3), draw(2, keys, 3), draw(2, keys, 4)
    mask = np.tri(queries, keys, dtype=bool)
    for one, other in ((dict(is_causal=True), dict(attn_mask=mask)), (dict(is_causal=True, attn_mask=mask), {})):
        other = other or dict(is_causal=True)
        np.testing.assert_array_equal(
            F.scaled_dot_product_attention(q, k, v, **one).detach().numpy(),
            F.scaled_dot_product_attention(q, k, v, **other).detach().numpy(),
        )


def test_what_is_hidden_changes_nothing():
    """A padded sequence has the results of the short one alone, and hidden steps no gradients, whatever they hold."""
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True, dtype=np.float64), draw(3, 5, 8)
    lengths = np.array([5, 2, 3])
    hidden = np.arange(5) >= lengths[:, None]
    y, shares = layer(x, x, x, key_padding_mask=hidden)
    for i, n in enumerate(lengths):
        alone, _ = layer(*[x[i : i + 1, :n]] * 3)
        np.testing.assert_allclose(y[i, :n].detach().numpy(), alone[0].detach().numpy(), rtol=1e-12, atol=1e-14)
        assert (shares[i].numpy()[:, n:] == 0).all()


def test_second_derivatives():
    q, k, v, bias = draw(2, 3, 4), draw(2, 5, 4), draw(2, 5, 2), draw(3, 5)
    mask = bias - 1e30 * tg.tensor(np.eye(3, 5))
    assert tg.gradcheck(lambda *x: F.scaled_dot_product_attention(*x), (q, k, v, bias))
    assert tg.gradgradcheck(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), (q, k, v, bias))
    assert tg.gradgradcheck(lambda *x: F.scaled_dot_product_attention(*x, mask.detach()), (q, k, v))


def test_nothing_is_not_a_number_where_nothing_is_seen():
    q, k, v = draw(2, 3), draw(4, 3), draw(4, 2)
    y = F.scaled_dot_product_attention(q, k, v, np.array([[False] * 4, [True] * 4]))
    y.sum().backward()
    assert (y.numpy()[0] == 0).all() and (q.grad.numpy()[0] == 0).all()
    assert all(np.isfinite(x.grad.numpy()).all() for x in (q, k, v))
    broken = q.detach().numpy().copy()
    broken[1, 0] = np.nan  # what is no number is not hidden
    assert np.isnan(F.scaled_dot_product_attention(broken, k, v).detach().numpy()).tolist() == [[False] * 2, [True] * 2]


def test_large_scores():
    for dtype in (np.float32, np.float64):
        q = np.array([[1e4, 0], [-1e4, 0], [0, 0]], dtype)
        y = F.scaled_dot_product_attention(q, np.eye(2, dtype=dtype), np.eye(2, dtype=dtype))
        np.testing.assert_array_equal(y.numpy(), [[1, 0], [0, 1], [0.5, 0.5]])


class Looking(nn.Cell):
    """A cell whose step attends to the slots of its own state."""

    def __init__(self, hides=None):
        self.hidden_size, self.hides = 4, hides
        self.W = nn.Parameter(tg.randn(3, 4, dtype=tg.float64))

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 4, dtype=tg.float64), tg.zeros(batch_size, 2, 4, dtype=tg.float64)

    def step(self, x, h, slots):
        q = tg.tanh(x @ self.W) + h
        slots = 0.5 * slots + tg.stack([q, q * q], 1)
        y = F.scaled_dot_product_attention(q.unsqueeze(1), slots, slots, self.hides)
        return y.squeeze(1), slots


@pytest.mark.parametrize("hides", [None, np.array([[True, False]]), np.array([[False, False]])])
def test_in_a_step(hides, monkeypatch):
    """A cell may attend, under a mask as well: what it compiles to agrees with the tape."""
    interpret(monkeypatch)
    cell, x, found = Looking(hides), draw(4, 3, 3), []
    for fused in ("require", "never"):
        y, (_, slots) = nn.Recurrent(cell, fused=fused)(x)
        found.append([y, slots, *tg.grad((y * y).sum() + slots.sum(), [x, cell.W])])
    for a, b in zip(*found):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)


# ---- Dropout, copies, printing ---------------------------------------------------------------------------------------


def test_dropout_is_for_training():
    tg.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, dropout=0.5), tg.randn(5, 3, 8)
    _, shares = layer(x, x, x, average_attn_weights=False)
    assert 0.2 < (shares.numpy() == 0).mean() < 0.8
    layer.eval()
    np.testing.assert_allclose(layer(x, x, x)[1].numpy().sum(-1), 1, rtol=1e-6)
    assert (F.scaled_dot_product_attention(x, x, x, dropout_p=1.0).numpy() == 0).all()


def test_copies_and_names():
    layer = nn.TransformerEncoderLayer(8, 2, 12)
    both = nn.TransformerEncoder(layer, 2)
    assert len(both.state_dict()) == 2 * len(layer.state_dict()) == 24
    both.layers[0].linear1.weight.numpy()[:] = 0
    assert layer.linear1.weight.numpy().any() and both.layers[1].linear1.weight.numpy().any()
    x = tg.randn(4, 3, 8)
    twin = copy.deepcopy(layer).eval()
    np.testing.assert_array_equal(twin(x).detach().numpy(), layer.eval()(x).detach().numpy())
    assert "MultiheadAttention(8, num_heads=2" in repr(layer)
    apart = nn.MultiheadAttention(4, 2, kdim=3, add_bias_kv=True).state_dict()
    assert list(apart)[:3] == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert list(apart)[3:] == ["in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias"]


# ---- Positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", ["halves", "adjacent"])
def test_rotated_products_depend_on_distances(pairs):
    """<R_m q, R_n k> = <q, R_(n - m) k>, and lengths stay."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 6))
    turn = lambda x, place: F.rotary_positions(x, np.array([place]), pairs=pairs).numpy()[0]
    for m, n in ((0, 3), (5, 2), (17, 17), (1000, 1007)):
        assert turn(q, m) @ turn(k, n) == pytest.approx(q[0] @ turn(k, n - m), rel=1e-10)
        assert np.linalg.norm(turn(q, m)) == pytest.approx(np.linalg.norm(q))


def test_pairs_of_rotations_differ_by_a_permutation():
    x = draw(2, 5, 8)
    order = np.arange(8).reshape(2, 4).T.ravel()  # 0 4 1 5 ...: halves, written as neighbours
    halves, adjacent = F.rotary_positions(x), F.rotary_positions(x[..., order], pairs="adjacent")
    np.testing.assert_allclose(halves.detach().numpy()[..., order], adjacent.detach().numpy(), rtol=1e-14)
    assert tg.gradgradcheck(lambda x: F.rotary_positions(x, np.arange(5) * 0.5), (x,))
    assert tg.gradgradcheck(lambda x: F.rotary_positions(x, pairs="adjacent"), (x,))


def test_rotations_are_those_of_complex_numbers():
    x = draw(7, 4).detach().numpy()
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * np.arange(7)[:, None] * [1, 1e-2])
    y = F.rotary_positions(x, pairs="adjacent").numpy()
    np.testing.assert_allclose(y[:, 0::2] + 1j * y[:, 1::2], turned, rtol=1e-12)


def test_sinusoids():
    y = F.sinusoidal_positions(50, 7, dtype=np.float64).numpy()
    for p in (0, 1, 49):
        for i in range(7):
            angle = p / 10000 ** (i // 2 * 2 / 7)
            assert y[p, i] == pytest.approx(np.cos(angle) if i % 2 else np.sin(angle), abs=1e-14)
    products = F.sinusoidal_positions(30, 8, dtype=np.float64).numpy()
    products = products @ products.T  # of two rows: by their distance alone
    for k in range(5):
        np.testing.assert_allclose(np.diagonal(products, k), products[0, k], rtol=1e-12)
    layer, x = nn.SinusoidalPositions(8), tg.zeros(5, 2, 8)
    np.testing.assert_array_equal(layer(x).numpy()[:, 1], F.sinusoidal_positions(5, 8).numpy())
    first = nn.SinusoidalPositions(8, batch_first=True)(tg.zeros(2, 5, 8))
    np.testing.assert_array_equal(first.numpy()[1], F.sinusoidal_positions(5, 8).numpy())


def test_alibi():
    bias = F.alibi_bias(8, 4, 6, dtype=np.float64).numpy()
    for h in range(8):
        for i in range(4):
            assert bias[h, i].tolist() == [-abs(i - j) / 2 ** (h + 1) for j in range(6)]
    slopes = -F.alibi_bias(12, 2, dtype=np.float64).numpy()[:, 1, 0]  # the authors' numbers for twelve heads
    expected = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    expected += [0.7071067811865476, 0.35355339059327384, 0.17677669529663692, 0.08838834764831849]
    np.testing.assert_allclose(slopes, expected, rtol=1e-12)


def test_positions_are_learned_from():
    """A model with positions tells an order from its reverse; without them attention cannot."""
    x = draw(1, 4, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, dtype=np.float64)
    last = lambda x, **options: layer(x, **options)[:, [0, 3]].sum(1).detach().numpy()
    back = x[:, ::-1]
    np.testing.assert_allclose(last(x), last(back), rtol=1e-10)
    places = nn.SinusoidalPositions(8, batch_first=True)
    assert np.abs(last(places(x)) - last(places(back))).max() > 1e-3
    bias = F.alibi_bias(2, 4, dtype=np.float64)
    np.testing.assert_allclose(last(x, src_mask=bias), last(back, src_mask=bias), rtol=1e-10)  # distances are the same


# ---- What does not fit -----------------------------------------------------------------------------------------------


Z = tg.zeros
ATTEND = F.scaled_dot_product_attention


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ATTEND(Z(2, 3), Z(2, 4), Z(2, 3)), r"query \[2, 3\], key \[2, 4\] and value"),
        (lambda: ATTEND(Z(2, 3), Z(2, 3), Z(3, 3)), r"query \[2, 3\], key \[2, 3\] and value \[3, 3\]"),
        (lambda: ATTEND(Z(3), Z(2, 3), Z(2, 3)), r"query \[3\]"),
        (lambda: ATTEND(Z(2, 2, 3), Z(3, 2, 3), Z(3, 2, 3)), "do not broadcast together"),
        (lambda: ATTEND(Z(2, 3), Z(4, 3), Z(4, 3), Z(2, 3)), r"attn_mask has shape \[2, 3\]"),
        (lambda: ATTEND(Z(2, 3), Z(4, 3), Z(4, 3), Z(5, 2, 4)), r"attn_mask has shape \[5, 2, 4\]"),
        (lambda: ATTEND(Z(2, 3), Z(4, 3), Z(4, 3), dropout_p=1.5), r"dropout_p: the probability must be in \[0, 1\]"),
        (lambda: ATTEND(Z(4, 2, 3), Z(3, 2, 3), Z(3, 2, 3), enable_gqa=True), "3 heads of keys and values do not"),
        (lambda: nn.MultiheadAttention(6, 4), "4 heads do not divide embed_dim 6"),
        (lambda: nn.MultiheadAttention(6, 2)(Z(5, 3, 6), Z(4, 2, 6), Z(4, 2, 6)), r"\[L, N, 6\].*got \[5, 3, 6\]"),
        (lambda: nn.MultiheadAttention(6, 2)(Z(5, 6), Z(4, 6), Z(4, 6), Z(1, 5)), r"key_padding_mask has shape \[1, 5"),
        (lambda: nn.MultiheadAttention(6, 2)(*[Z(5, 3, 6)] * 3, attn_mask=Z(3, 5, 5)), r"expected \[6, 5, 5\]"),
        (lambda: nn.MultiheadAttention(6, 3)(*[Z(5, 3, 6)] * 3, attn_mask=Z(3, 5, 5)), r"expected \[9, 5, 5\]"),
        (lambda: nn.TransformerEncoderLayer(6, 2, activation="silly"), "relu, gelu or a function: 'silly'"),
        (lambda: F.rotary_positions(Z(4, 3)), "an even E, got shape"),
        (lambda: F.rotary_positions(Z(4, 4), pairs="both"), "'halves' or 'adjacent', not 'both'"),
        (lambda: F.alibi_bias(0, 3), "at least one head"),
        (lambda: F.sinusoidal_positions(-1, 3), "expected a length and a size"),
        (lambda: nn.SinusoidalPositions(4)(Z(5, 2, 3)), "got shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_of_integers_could_mean_either():
    with pytest.raises(TypeError, match="True lets a key be seen"):
        ATTEND(Z(2, 3), Z(2, 3), Z(2, 3), np.ones((2, 2), int))
    with pytest.raises(TypeError, match="True hides a key"):
        nn.MultiheadAttention(4, 2)(*[Z(2, 1, 4)] * 3, attn_mask=np.ones((2, 2), int))


class Memory(nn.Cell):
    """Rows of a memory that look at each other, and at what arrives."""

    input_size = 4

    def __init__(self):
        options = dict(batch_first=True, dtype=np.float64)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, **options)
        self.reads = nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True, **options)

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 3, 4, dtype=np.float64)

    def step(self, x, M):
        read, weights = self.reads(x.unsqueeze(1), M, M)
        rows = tg.cat([M[:, 1:], (x.unsqueeze(1) + read) * weights.sum(-1, keepdim=True)], 1)
        return self.layer(rows, is_causal=True)


def test_a_layer_in_the_step_of_a_cell(monkeypatch):
    interpret(monkeypatch)
    assert_engines_agree(Memory(), (4, 3, 4), lengths=[4, 0, 2], return_states=True)


def test_tables_of_many_lengths_do_not_pile_up():
    """What is kept of positions is bounded by the longest sequence, and not by how many lengths there were."""
    layer, every = nn.SinusoidalPositions(64), range(921, 1001, 4)
    attention = nn.MultiheadAttention(4, 1, add_zero_attn=True)
    expected = layer(tg.zeros(1000, 64)).numpy()
    gc.collect()
    tracemalloc.start()
    try:
        for length in every:
            np.testing.assert_array_equal(layer(tg.zeros(length, 64)).numpy(), expected[:length])
            attention(*[tg.zeros(length, 1, 4)] * 3, is_causal=True, need_weights=False)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 4 * expected.nbytes
    assert tg.nn.functional.sinusoidal_positions(0, 4).shape == (0, 4)
    assert tg.nn.functional.sinusoidal_positions(1, 4).tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_options_reach_every_part_of_a_layer():
    layer = tg.nn.TransformerEncoderLayer(8, 2, 16, 0.25, layer_norm_eps=0.5, bias=False, dtype=np.float64)
    names = "self_attn.in_proj_weight self_attn.out_proj.weight linear1.weight linear2.weight norm1.weight norm2.weight"
    assert sorted(layer.state_dict()) == sorted(names.split())
    assert {p.dtype for p in layer.parameters()} == {np.dtype(np.float64)}
    assert layer.norm1.eps == layer.norm2.eps == 0.5 and layer.self_attn.dropout == 0.25
    assert layer.dropout.p == layer.dropout1.p == layer.dropout2.p == 0.25


def test_keys_or_values_alone_may_be_the_query():
    layer, x, z = nn.MultiheadAttention(8, 2, dtype=np.float64), draw(5, 3, 8), draw(5, 3, 8)
    for given in ((x, z, x), (x, x, z), (x, x, x)):
        apart = layer(*[each.clone() for each in given])[0]
        np.testing.assert_allclose(layer(*given)[0].numpy(), apart.numpy(), rtol=1e-12)
