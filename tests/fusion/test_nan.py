"""A NaN stays in the row of the batch that it came in with: rows never meet, forwards or backwards, compiled."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import LayerNorm

T, B, I, H = 6, 5, 3, 8
ILL, OTHERS = 2, [0, 1, 3, 4]
CELLS = {"lstm": tg.nn.LSTMCell, "layer norm": LayerNorm}
LENGTHS = {"of one length": None, "of several": [2, 6, 5, 0, 3]}


def everything(layer, x, lengths):
    """Name -> values and gradients that have a row for each sequence, and the gradients of parameters by themselves."""
    x = tg.tensor(x, requires_grad=True)
    random = np.random.default_rng(1)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    states = tuple(tg.tensor(draw(B, H), requires_grad=True) for _ in layer.cell.state_names)
    layer.zero_grad()
    y, final = layer(x, states, lengths=lengths)
    finals = final if isinstance(final, tuple) else (final,)
    loss = (y * draw(T, B, H)).sum()
    for state in finals:
        loss = loss + (state * draw(B, H)).sum()
    loss.backward()
    by_row = {"y": y, "dx": x.grad}
    for name, state, final in zip(layer.cell.state_names, states, finals):
        by_row |= {f"final {name}": final[None], f"d{name}": state.grad[None]}
    gradients = {name: p.grad.numpy() for name, p in layer.named_parameters()}
    return {name: np.array(value.numpy()) for name, value in by_row.items()}, gradients


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("name", CELLS)
def test_a_nan_stays_in_its_row(name, lengths):
    tg.manual_seed(0)
    layer = tg.nn.Recurrent(CELLS[name](I, H), fused="require")
    x = np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)
    clean, _ = everything(layer, x, lengths)
    at = 1
    x[at, ILL, 0] = np.nan
    ill, gradients = everything(layer, x, lengths)
    for key, value in ill.items():
        np.testing.assert_array_equal(value[:, OTHERS], clean[key][:, OTHERS], err_msg=key)
        assert np.isfinite(value[:, OTHERS]).all(), key
    end = lengths[ILL] if lengths else T
    np.testing.assert_array_equal(ill["y"][:at, ILL], clean["y"][:at, ILL])  # nor does it go back in time
    assert np.isnan(ill["y"][at:end, ILL]).all() and not ill["y"][end:, ILL].any()
    assert np.isnan(ill["final h"][0, ILL]).all() and np.isnan(ill["dx"][:end, ILL]).all()
    assert np.isnan(ill["dh"][0, ILL]).all() and not ill["dx"][end:, ILL].any()
    assert all(np.isnan(gradient).any() for gradient in gradients.values()), "these are sums over all rows"
