"""Attention with options drawn at random, and transformers with masks of every kind, against PyTorch's."""

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

SEEDS = range(40)
FUNCTION, THEIRS = tg.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention


def compare(ours, theirs, arrays, modules=()):
    """The first result, and the gradients of arrays and parameters; where PyTorch has NaN, for nothing is left, 0."""
    mine = [tg.tensor(x, requires_grad=True) for x in arrays]
    others = [torch.tensor(x, requires_grad=True) for x in arrays]
    results, expected = ours(*mine), theirs(*others)
    pairs = list(zip(results, expected)) if isinstance(results, tuple) else [(results, expected)]
    pairs = [(a, b) for a, b in pairs if b is not None]
    for a, b in pairs:
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    weights = [np.random.default_rng(i).standard_normal(a.shape) for i, (a, _) in enumerate(pairs)]
    sum((a * tg.tensor(w)).sum() for (a, _), w in zip(pairs, weights)).backward()
    sum((b * torch.tensor(w)).sum() for (_, b), w in zip(pairs, weights)).backward()
    found, wanted = [*mine], [*others]
    if modules:
        found += modules[0].parameters()
        wanted += modules[1].parameters()
    for x, other in zip(found, wanted, strict=True):
        gradient = np.zeros(x.shape) if other.grad is None else other.grad.numpy()
        np.testing.assert_allclose(x.grad.numpy(), gradient, rtol=1e-10, atol=1e-12)
    TALLY["attention, random options"]["compared"] += 1


def twins(name, *args, **options):
    """A module here, and PyTorch's with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    ours = getattr(tg.nn, name)(*args, dtype=np.float64, **options)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert {n: a.shape for n, a in state.items()} == {n: tuple(a.shape) for n, a in expected.items()}
    assert list(state) == list(expected)
    ours.load_state_dict(expected)
    return ours, theirs


@pytest.mark.parametrize("seed", SEEDS)
def test_function(seed):
    rng = np.random.default_rng(seed)
    n, h, queries, keys, e, v = (int(rng.integers(1, high)) for high in (4, 4, 9, 9, 6, 6))
    groups = int(rng.choice([g for g in range(1, h + 1) if h % g == 0])) if seed % 4 == 0 else h
    arrays = [rng.standard_normal(s) for s in ((n, h, queries, e), (n, groups, keys, e), (n, groups, keys, v))]
    options = dict(scale=[None, 0.7][seed % 2], enable_gqa=groups != h)
    mask = [(queries, keys), (n, 1, 1, keys), (n, h, queries, keys), (1, h, 1, keys)][seed % 4]
    kind = rng.choice(["none", "causal", "truth", "learned"])
    if kind == "causal":
        options["is_causal"] = True
    elif kind == "truth":  # some queries see nothing
        seen = rng.random(mask) < 0.4
        compare(
            lambda *x: FUNCTION(*x, attn_mask=seen, **options),
            lambda *x: THEIRS(*x, attn_mask=torch.tensor(seen), **options),
            arrays,
        )
        return
    elif kind == "learned":
        arrays.append(rng.standard_normal(mask))
    compare(lambda *x: FUNCTION(*x, **options), lambda *x: THEIRS(*x, **options), arrays)


@pytest.mark.parametrize("seed", SEEDS)
def test_multihead(seed):
    rng = np.random.default_rng(seed)
    heads, d = (int(rng.integers(1, high)) for high in (4, 4))
    n, queries, keys = (int(rng.integers(1, high)) for high in (4, 7, 7))
    truth = lambda p=0.5: bool(rng.random() < p)
    options = dict(bias=truth(), add_bias_kv=truth(), add_zero_attn=truth(), batch_first=truth())
    if truth():
        options |= dict(kdim=3, vdim=5)
    ours, theirs = twins("MultiheadAttention", heads * d, heads, **options)
    widths = heads * d, ours.kdim, ours.vdim
    order = (lambda *shape: shape) if options["batch_first"] else (lambda n, steps, e: (steps, n, e))
    arrays = [rng.standard_normal(order(n, t, e)) for t, e in zip((queries, keys, keys), widths)]
    call = dict(need_weights=truth(), average_attn_weights=truth())
    masks = {}
    if truth():  # floats as well as truth values, of which the first key is always left
        shape = (queries, keys) if truth() else (n * heads, queries, keys)
        hidden = (rng.random(shape) < 0.5) & (np.arange(keys) > 0)
        masks["attn_mask"] = rng.standard_normal(shape) if truth() else hidden
    if truth():
        shape = n, keys
        hidden = (rng.random(shape) < 0.5) & (np.arange(keys) > 0)
        floats = masks.get("attn_mask", hidden).dtype == float
        masks["key_padding_mask"] = np.where(hidden, -1.5, 0.0) if floats else hidden
    there = {name: torch.tensor(mask) for name, mask in masks.items()}
    one = lambda *x: (x[0], x[0], x[0]) if seed % 3 == 0 and widths == (widths[0],) * 3 and queries == keys else x
    compare(
        lambda *x: ours(*one(*x), **masks, **call), lambda *x: theirs(*one(*x), **there, **call),
        arrays if one(1, 2, 3) == (1, 2, 3) else arrays[:1] * 1, (ours, theirs),
    )  # fmt: skip


@pytest.mark.parametrize("need_weights", [True, False])
def test_is_causal(need_weights):
    """Without a mask as well, which PyTorch wants beside it; a key of zeros is seen by all, as under a mask there."""
    ours, theirs = twins("MultiheadAttention", 6, 2, add_zero_attn=not need_weights)
    x = np.random.default_rng(0).standard_normal((5, 3, 6))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for given in ({}, {"attn_mask": mask.numpy()}):
        compare(
            lambda x, given=given: ours(x, x, x, is_causal=True, need_weights=need_weights, **given),
            lambda x: theirs(x, x, x, attn_mask=mask, need_weights=need_weights),
            [x],
            (ours, theirs),
        )
        ours.zero_grad()
        theirs.zero_grad()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_encoder(activation, norm_first, batch_first):
    """Layers that differ, a norm behind them, a mask of padding and a causal one."""
    n, steps, e = 3, 5, 6
    options = dict(activation=activation, norm_first=norm_first, batch_first=batch_first, layer_norm_eps=1e-3)
    layers = twins("TransformerEncoderLayer", e, 2, 7, 0.0, **options)
    norms = twins("LayerNorm", e)
    ours = tg.nn.TransformerEncoder(layers[0], 2, norms[0])
    theirs = torch.nn.TransformerEncoder(layers[1], 2, norms[1], enable_nested_tensor=False)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    hidden = np.arange(steps) >= np.array([5, 3, 1])[:, None]
    causal = np.triu(np.ones((steps, steps), bool), 1)
    x = np.random.default_rng(0).standard_normal((n, steps, e) if batch_first else (steps, n, e))
    compare(
        lambda x: ours(x, mask=causal, src_key_padding_mask=hidden),
        lambda x: theirs(x, mask=torch.tensor(causal), src_key_padding_mask=torch.tensor(hidden)),
        [x], (ours, theirs),
    )  # fmt: skip


def test_a_query_that_sees_nothing():
    """Its result and its gradients are 0, as of PyTorch's function; its module has NaN with weights, ours has not."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 3, 4)) for _ in range(3)]
    seen = np.ones((2, 3, 3), bool)
    seen[0, 1] = seen[1] = False
    compare(lambda *x: FUNCTION(*x, seen), lambda *x: THEIRS(*x, torch.tensor(seen)), arrays)
    layer = tg.nn.MultiheadAttention(4, 2, batch_first=True, dtype=np.float64)
    x = tg.tensor(arrays[0], requires_grad=True)
    y, shares = layer(x, x, x, attn_mask=np.repeat(~seen, 2, 0))
    assert (shares[0, 1].numpy() == 0).all() and (shares[1].numpy() == 0).all()
    y.sum().backward()
    assert all(np.isfinite(t.numpy()).all() for t in (y, x.grad, *(p.grad for p in layer.parameters())))
