"""Cells that attend to what is given for a sequence: masks, weights that can be looked at, what is retrieved."""

import numpy as np
import pytest
from fusion.comparing import interpret

import tinygrad_rnn as tg
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.nn import Recurrent, cells
from tinygrad_rnn.nn.cells.named import make_alone

T, B, S, I, H = 4, 3, 5, 3, 6
KINDS = [cells.BahdanauCell, cells.DotAttentionCell]


def given(kind, engine="never", **options):
    tg.manual_seed(0)
    random = np.random.default_rng(1)
    layer = Recurrent(kind(I, H, dtype=np.float64, **options), fused=engine)
    draw = lambda *shape: tg.tensor(random.standard_normal(shape), requires_grad=True)
    return layer, draw(T, B, I), draw(B, S, H)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["never", "require"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float64])
def test_what_is_masked_is_not_there(kind, engine, dtype, monkeypatch):
    """As if the memory were shorter; where nothing is left, nothing comes of it, and no NaN; its gradient is zero."""
    interpret(monkeypatch)
    layer, x, memory = given(kind, engine)
    seen = [5, 2, 0]
    mask = (np.arange(S) < np.array(seen)[:, None]).astype(dtype)
    with tg.record(layer) as r:
        y, _ = layer(x, memory=memory, mask=mask)
    y.square().sum().backward()
    weights = r["alpha"].numpy()
    assert weights.shape == (T, B, S) and not weights[:, mask == 0].any()
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to([1, 1, 0], (T, B)), rtol=0, atol=1e-14)
    d = memory.grad.numpy()
    assert not d[mask == 0].any() and d[mask != 0].any(-1).all() and np.isfinite(x.grad.numpy()).all()
    for b, n in enumerate(seen[:2]):
        alone, _ = layer(x[:, b : b + 1], memory=memory[b : b + 1, :n])
        np.testing.assert_allclose(y.numpy()[:, b], alone.numpy()[:, 0], rtol=0, atol=1e-13)
    nothing, _ = layer(x[:, 2:], memory=0 * memory[2:])  # the mean of zeros
    np.testing.assert_allclose(y.numpy()[:, 2], nothing.numpy()[:, 0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_memory_does_not_matter(kind):
    layer, x, memory = given(kind)
    order = np.random.default_rng(0).permutation(S)
    y, _ = layer(x, memory=memory)
    again, _ = layer(x, memory=memory[:, order])
    np.testing.assert_allclose(again.numpy(), y.numpy(), rtol=0, atol=1e-13)


def test_a_memory_of_another_width():
    for cell in (
        cells.BahdanauCell(I, H, memory_size=2, attention_size=3),
        cells.DotAttentionCell(I, H, score="general", memory_size=2),
    ):
        y, _ = Recurrent(cell, fused="never")(tg.randn(T, B, I), memory=tg.randn(B, S, 2))
        assert y.shape == (T, B, H) and "memory_size=2" in repr(cell)


def test_without_a_memory():
    for kind in KINDS:
        with pytest.raises(TypeError, match=f"{kind.__name__}: memory is missing, which step takes by name"):
            Recurrent(kind(I, H))(tg.randn(T, B, I))
        with pytest.raises(ValueError, match=f"{kind.__name__} needs memory by name, which there is none of here"):
            make_alone(kind.__name__, I, H)
    assert type(make_alone("hopfield", I, H)) is cells.HopfieldCell


def test_commands_give_a_cell_what_it_takes_by_name(capsys):
    assert main(["check", "bahdanau", "--only", "states", "rows"]) == 0
    assert "BahdanauCell: 2 checks passed" in capsys.readouterr().out
    assert main(["explain", "dotattention", "--stage", "trace"]) == 0
    assert "memory" in capsys.readouterr().out


# ---- Hopfield networks -----------------------------------------------------------------------------------------------


def stored(N, n, given_by_name):
    """A network that has N patterns of n signs, and a function that retrieves from a state."""
    random = np.random.default_rng(0)
    patterns = np.sign(random.standard_normal((N, n)))
    cell = cells.HopfieldCell(2, n, stored=N, beta=0.5, dtype=np.float64)
    if given_by_name:
        options = {"patterns": np.broadcast_to(patterns, (N, N, n)).copy()}
    else:
        cell.patterns.numpy()[...], options = patterns, {}
    cell.bias.numpy()[...] = 0
    return cell, patterns, lambda h: cell(np.zeros((N, 2)), h, **options).numpy()


@pytest.mark.parametrize("given_by_name", [False, True])
def test_a_pattern_is_retrieved_at_once(given_by_name):
    """From a state with a sixth of its signs turned, to within the bound of the paper's theorem 4."""
    N, n = 8, 96
    _, patterns, retrieve = stored(N, n, given_by_name)
    wrong = patterns.copy()
    wrong[:, ::6] *= -1
    found = retrieve(wrong)
    overlaps = patterns @ wrong.T  # each is nearer to its own pattern than to any other by at least:
    gap = np.min(np.diag(overlaps) - np.max(overlaps - 1e9 * np.eye(N), axis=0))
    bound = 2 * (N - 1) * np.exp(-0.5 * gap) * np.sqrt(n)
    assert np.linalg.norm(found - patterns, axis=1).max() <= bound < 1e-3
    np.testing.assert_allclose(retrieve(patterns), patterns, rtol=0, atol=1e-6)  # and stays


def test_a_small_beta_retrieves_the_mean():
    cell, patterns, retrieve = stored(8, 96, False)
    cell.beta = 1e-9
    np.testing.assert_allclose(retrieve(patterns), np.broadcast_to(patterns.mean(0), patterns.shape), atol=1e-6)


# ---- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cells.BahdanauCell(2, 3, memory_size=0), "BahdanauCell: memory_size must be positive, not 0"),
        (lambda: cells.BahdanauCell(2, 3, attention_size=-1), "BahdanauCell: attention_size must be positive, not -1"),
        (lambda: cells.DotAttentionCell(2, 3, score="add"), "score must be 'dot' or 'general', not 'add'"),
        (lambda: cells.DotAttentionCell(2, 3, memory_size=4), "score 'dot' wants memory_size 3, not 4"),
        (lambda: cells.DotAttentionCell(2, 3, memory_size=0), "DotAttentionCell: memory_size must be positive, not 0"),
        (lambda: cells.HopfieldCell(2, 3, stored=0), "HopfieldCell: stored must be positive, not 0"),
        (lambda: cells.HopfieldCell(2, 3, beta=-1.0), "HopfieldCell: beta must be positive, not -1.0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("fused", ["never", "auto"])
@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            cells.BahdanauCell,
            {"memory": (2, 5, 4)},
            r"BahdanauCell: memory must be .* not \[2, 5, 4\]",
        ),
        (cells.BahdanauCell, {"memory": (2, 3)}, r"memory must be \[B, S, 3\], B first, not \[2, 3\]"),
        (cells.DotAttentionCell, {"memory": (2, 5, 1)}, r"DotAttentionCell: memory must be .* not \[2, 5, 1\]"),
        (cells.DotAttentionCell, {"memory": (2, 5, 3), "mask": (2, 1)}, r"mask must be \[B, S\], .* not \[2, 1\]"),
        (cells.BahdanauCell, {"memory": (2, 5, 3), "mask": (2, 4)}, r"vector of \[2, 5, 3\], not \[2, 4\]"),
        (cells.HopfieldCell, {"patterns": (2, 5, 1)}, r"HopfieldCell: patterns must be \[B, S, 3\], B first, not"),
    ],
)
def test_what_does_not_fit_is_refused(kind, given, message, fused):
    layer = tg.nn.Recurrent(kind(2, 3), fused=fused)
    with pytest.raises(ValueError, match=message):
        layer(tg.ones(4, 2, 2), **{name: tg.ones(*shape) for name, shape in given.items()})
