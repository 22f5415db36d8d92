"""What long expressive memory promises besides its equations."""

import numpy as np
import pytest
from fusion.comparing import interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells


@pytest.mark.parametrize("fused", ["never", "require"])
def test_a_small_step_freezes_both_states(fused, monkeypatch):
    """They move by dt times what the differential equations say, up to dt squared."""
    interpret(monkeypatch)
    tg.manual_seed(0)
    cell, random = cells.LEMCell(3, 4, dt=1e-12, dtype=np.float64), np.random.default_rng(0)
    x, y, z = random.standard_normal((9, 2, 3)), random.standard_normal((2, 4)), random.standard_normal((2, 4))
    layer = Recurrent(cell, fused=fused)
    outputs, (y_end, z_end) = layer(x, (y, z))
    np.testing.assert_allclose(outputs.numpy(), np.broadcast_to(y, (9, 2, 4)), atol=1e-10)
    np.testing.assert_allclose(y_end.numpy(), y, atol=1e-10)
    np.testing.assert_allclose(z_end.numpy(), z, atol=1e-10)
    cell.dt = 1e-6
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    W, U, b = (np.split(p.numpy(), 4) for p in (cell.weight_ih, cell.weight_hh, cell.bias))
    a = [x[0] @ W[k].T + (z if k == 3 else y) @ U[k].T + b[k] for k in range(4)]
    _, (y_end, z_end) = layer(x[:1], (y, z))
    np.testing.assert_allclose((z_end.numpy() - z) / 1e-6, sigmoid(a[0]) * (np.tanh(a[2]) - z), atol=1e-5)
    np.testing.assert_allclose((y_end.numpy() - y) / 1e-6, sigmoid(a[1]) * (np.tanh(a[3]) - y), atol=1e-5)


def test_gates_that_stand_wide_open_make_two_simple_layers():
    """With r = s = dt = 1 nothing is kept: z' is a tanh network of x and y, y' one of x and z'."""
    cell = cells.LEMCell(3, 4, dtype=np.float64)
    cell.bias.numpy()[:8] = 800
    x = np.random.default_rng(1).standard_normal((6, 2, 3))
    outputs, _ = Recurrent(cell, fused="never")(x)
    W, U, b = (np.split(p.numpy(), 4) for p in (cell.weight_ih, cell.weight_hh, cell.bias))
    y = np.zeros((2, 4))
    for t in range(6):
        y = np.tanh(x[t] @ W[3].T + np.tanh(x[t] @ W[2].T + y @ U[2].T + b[2]) @ U[3].T + b[3])
        np.testing.assert_allclose(outputs.numpy()[t], y, atol=1e-12)


@pytest.mark.parametrize("dt", [0, -0.1, float("nan")])
def test_a_step_that_is_not_positive_is_refused(dt):
    with pytest.raises(ValueError, match="LEMCell: dt must be positive, not"):
        cells.LEMCell(2, 3, dt=dt)
