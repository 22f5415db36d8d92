"""LSTMs of low rank: what is exact is exact, and what is cut off is what Eckart and Young say."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

T, B, I, H = 6, 3, 4, 8


def lstm_of_rank(rank, seen=None, **options):
    """A float64 LSTM whose recurrent matrices have a rank, and of whose outputs only that part is read above."""
    random = np.random.default_rng(0)
    lstm = tg.nn.LSTM(I, H, dtype=np.float64, **options)
    lstm.fused = "never"
    state = lstm.state_dict()
    for name in [name for name in state if name.startswith("weight_hh")]:
        parts = random.standard_normal((4 * H, rank)), random.standard_normal((rank, state[name].shape[1]))
        state[name] = 0.3 * parts[0] @ parts[1]
    for layer in range(1, lstm.num_layers):
        for end in ["", "_reverse"][: 1 + lstm.bidirectional]:
            state[f"weight_ih_l{layer}{end}"] = reading(lstm, state, layer - 1, 4 * H, random)
    lstm.load_state_dict(state)
    head = tg.nn.Linear((2 if lstm.bidirectional else 1) * (lstm.proj_size or H), 3, dtype=np.float64)
    head.load_state_dict(
        head.state_dict() | {"weight": reading(lstm, state, lstm.num_layers - 1, 3, random)}
    )
    return lstm, head


def reading(lstm, state, layer, rows, random):
    """A matrix whose rows are combinations of those of the recurrent matrices below."""
    ends = ["", "_reverse"][: 1 + lstm.bidirectional]
    parts = [0.1 * random.standard_normal((rows, 4 * H)) @ state[f"weight_hh_l{layer}{end}"] for end in ends]
    return np.concatenate(parts, 1)


@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 5}])
def test_what_has_a_low_rank_stays_as_it_was(options):
    lstm, head = lstm_of_rank(3, **options)
    small, reader = tg.nn.utils.compress(lstm, 3, head=head)
    assert small.proj_size == 3
    x = tg.tensor(np.random.default_rng(1).standard_normal((T, B, I)))
    y, (_, c) = lstm(x)
    y_small, (_, c_small) = small(x)
    np.testing.assert_allclose(c_small.numpy(), c.numpy(), atol=1e-12)
    np.testing.assert_allclose(reader(y_small).detach(), head(y).detach(), atol=1e-12)
    assert tg.nn.utils.compress(lstm, explained=1.0).proj_size == 3


def test_what_is_lost_is_what_eckart_and_young_say():
    lstm = tg.nn.LSTM(I, H, dtype=np.float64)
    weight = lstm.weight_hh_l0.numpy()
    s = np.linalg.svd(weight, compute_uv=False)
    for rank in range(1, H):
        small = tg.nn.utils.compress(lstm, rank)
        near = small.weight_hh_l0.numpy() @ small.weight_hr_l0.numpy()
        assert ((near - weight) ** 2).sum() == pytest.approx((s[rank:] ** 2).sum())
        np.testing.assert_allclose(small.weight_hr_l0.numpy() @ small.weight_hr_l0.numpy().T, np.eye(rank), atol=1e-12)
        share = (s[:rank] ** 2).sum() / (s**2).sum()
        assert tg.nn.utils.compress(lstm, explained=share).proj_size == rank


def test_options_and_dtype_are_kept():
    lstm = tg.nn.LSTM(I, H, 2, bias=False, batch_first=True, dropout=0.3, bidirectional=True, variational=True).eval()
    small = tg.nn.utils.compress(lstm, 2)
    assert (small.bias, small.batch_first, small.dropout, small.variational) == (False, True, 0.3, True)
    assert small.bidirectional and not small.training
    assert {p.dtype for p in small.parameters()} == {np.dtype(np.float32)}
    small.fused = "never"
    assert small(tg.zeros(B, T, I))[0].shape == (B, T, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lstm: tg.nn.utils.compress(lstm), "either rank or explained"),
        (lambda lstm: tg.nn.utils.compress(lstm, 2, explained=0.9), "either rank or explained"),
        (lambda lstm: tg.nn.utils.compress(lstm, 8), "rank 8 must be positive and below the 8 numbers"),
        (lambda lstm: tg.nn.utils.compress(lstm, explained=1.0), "explaining 1.0 needs all of them"),
        (lambda lstm: tg.nn.utils.compress(lstm, explained=90), r"explained must be in \(0, 1\], not 90"),
        (lambda lstm: tg.nn.utils.compress(lstm, 2, head=tg.nn.Linear(7, 2)), "head reads 7 .* the LSTM puts out 8"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(tg.nn.LSTM(I, H))


def test_other_layers_are_refused():
    with pytest.raises(TypeError, match="expected an LSTM, not GRU"):
        tg.nn.utils.compress(tg.nn.GRU(I, H), 2)


def count(make, layers=2):
    return layers * sum(p.numel() for p in make.parameters())


def factorised(I, H, P, n):
    return n * (I + P) + 4 * H * (n + 1) + P * H


def grouped(I, H, P, k):
    return 4 * H * (I + P) // k + 4 * H + P * H


def test_parameters_are_as_many_as_published():
    """The paper's models of two layers, I = P = 1024, H = 8192: cells have what formulas say, formulas what it says."""
    for I, H, P, n in [(8, 16, 4, 2), (12, 24, 8, 4), (4, 8, 8, 1)]:
        assert count(cells.FactorisedLSTMCell(I, H, n, P), 1) == factorised(I, H, P, n)
        assert count(cells.GroupLSTMCell(I, H, n, P), 1) == grouped(I, H, P, n)
    assert 2 * grouped(1024, 8192, 1024, 1) == 151_060_480
    assert 2 * factorised(1024, 8192, 1024, 512) == 52_494_336
    assert [2 * grouped(1024, 8192, 1024, k) for k in (2, 4, 8)] == [83_951_616, 50_397_184, 33_619_968]


def test_one_group_is_a_projected_lstm():
    group, plain = cells.GroupLSTMCell(I, H, 1, 3, dtype=np.float64), cells.ProjectedLSTMCell(I, H, 3, dtype=np.float64)
    state = plain.state_dict()
    both = np.concatenate([state["weight_ih"], state["weight_hh"]], 1)
    group.load_state_dict(
        {"weight": both[None], "bias": (state["bias_ih"] + state["bias_hh"])[None], "weight_hr": state["weight_hr"]}
    )
    x = tg.randn(T, B, I, dtype=tg.float64)
    for fused in ("require", "never"):
        ours, theirs = (tg.nn.Recurrent(cell, fused=fused)(x)[0].detach() for cell in (group, plain))
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-13)


def test_fast_cells_are_the_cells_they_say():
    """Gates that are all open or shut leave the RNN, or the state."""
    cell = cells.FastRNNCell(I, H, dtype=np.float64)
    cell.alpha.numpy()[:], cell.beta.numpy()[:] = 50, -50
    x, h = tg.randn(B, I, dtype=tg.float64), tg.randn(B, H, dtype=tg.float64)
    n = tg.tanh(x @ cell.weight_ih.T + h @ cell.weight_hh.T + cell.bias)
    np.testing.assert_allclose(cell(x, h).detach(), n.detach(), atol=1e-14)
    cell.alpha.numpy()[:], cell.beta.numpy()[:] = -50, 50
    np.testing.assert_allclose(cell(x, h).detach(), h.detach(), atol=1e-14)


def test_the_factors_of_a_matrix_have_its_nuclear_norm_at_best():
    """`||W||_* = min (|U|^2 + |V|^2) / 2` over W = U V (Srebro et al., 2005): attained by the factors of the SVD."""
    W = np.random.default_rng(0).standard_normal((5, 4))
    u, s, v = np.linalg.svd(W, full_matrices=False)
    best = tg.tensor(u * s**0.5, requires_grad=True), tg.tensor(s[:, None] ** 0.5 * v, requires_grad=True)
    penalty = tg.optim.nuclear_norm_penalty([best], 0.1)
    assert float(penalty.detach()) == pytest.approx(0.1 * np.linalg.norm(W, "nuc"))
    penalty.backward()
    np.testing.assert_allclose(best[0].grad, 0.1 * best[0].numpy())
    for seed in range(10):
        M = np.random.default_rng(seed).standard_normal((4, 4))
        other = tg.tensor(best[0].numpy() @ M), tg.tensor(np.linalg.inv(M) @ best[1].numpy())
        assert float(tg.optim.nuclear_norm_penalty([other], 0.1)) >= float(penalty.detach()) - 1e-12
    with pytest.raises(ValueError, match="two matrices whose product"):
        tg.optim.nuclear_norm_penalty([(best[0], tg.zeros(3, 4))], 0.1)


def test_nothing_is_explained_by_anything():
    lstm = tg.nn.LSTM(3, 4)
    lstm.weight_hh_l0.numpy()[...] = 0
    small = tg.nn.utils.compress(lstm, explained=0.9)
    x = tg.randn(5, 2, 3)
    assert small.proj_size == 1
    np.testing.assert_array_equal(small(x)[1][1].numpy(), lstm(x)[1][1].numpy())


def test_what_is_not_finite_or_whole_is_named():
    lstm = tg.nn.LSTM(3, 4)
    with pytest.raises(ValueError, match=r"compress: rank must be a whole number, not 2\.5"):
        tg.nn.utils.compress(lstm, 2.5)
    lstm.weight_hh_l0.numpy()[0, 0] = np.nan
    with pytest.raises(ValueError, match="compress: weight_hh_l0 has numbers that are not finite"):
        tg.nn.utils.compress(lstm, 2)
