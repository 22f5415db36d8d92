"""State space models are convolutions, as long as the input does not decide how time passes."""

import numpy as np
import pytest
from nn.cases import sigmoid

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells

T, B, I, H = 24, 2, 3, 5


def made(kind, **options):
    tg.manual_seed(0)
    return kind(I, H, dtype=np.float64, **options)


def convolved(kernel, u):
    """Over time, by FFT: kernel [T, H], u [T, B, H]."""
    n = 2 * len(u)
    return np.fft.irfft(np.fft.rfft(kernel, n, 0)[:, None] * np.fft.rfft(u, n, 0), n, 0)[: len(u)]


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((T, B, I))


def test_s4d_is_a_convolution(x):
    """With the kernel 2 Re(C (exp(A dt) - 1) / A exp(A dt k))."""
    cell = made(cells.S4DCell)
    y, _ = Recurrent(cell, fused="never")(x)
    p = cell.state_dict()
    A, dt = -np.exp(p["log_a"]) + 1j * p["frequency"], np.exp(p["log_dt"])[:, None]
    C = (p["C"][0] + 1j * p["C"][1]) * (np.exp(A * dt) - 1) / A
    kernel = 2 * (C * np.exp(A * dt * np.arange(T)[:, None, None])).sum(-1).real
    u = x @ p["weight_ih"].T + p["bias"]
    np.testing.assert_allclose(y.numpy(), convolved(kernel, u) + p["D"] * u, rtol=0, atol=1e-12)


def test_short_steps_of_s4d_lose_no_digits():
    """exp(A dt) - 1 of a small A dt, in float32."""
    cell = cells.S4DCell(1, 1, bias=False)
    p = {name: value.astype(np.float64) for name, value in cell.state_dict().items()}
    p["log_dt"][...] = np.log(1e-5)
    cell.log_dt.numpy()[...] = p["log_dt"]
    _, (_, re, im) = Recurrent(cell, fused="never")(np.ones((1, 1, 1), np.float32))
    A, dt = -np.exp(p["log_a"]) + 1j * p["frequency"], np.exp(np.float64(np.float32(np.log(1e-5))))
    z = A * dt
    expected = dt * (1 + z / 2 + z**2 / 6 + z**3 / 24) * p["weight_ih"].item()
    np.testing.assert_allclose(re.numpy()[0] + 1j * im.numpy()[0], expected, rtol=2e-6)


def test_mamba_whose_input_decides_nothing_is_a_convolution(x):
    """A channel that is always the same number makes dt, B and C constant; the kernel is sum C dt B exp(A dt k)."""
    cell = made(cells.MambaCell)
    E, N, R = 2 * H, 16, 1
    p = {name: parameter.numpy() for name, parameter in cell.named_parameters()}
    p["weight_conv"][0], p["shift_conv"][0] = 0, 2.0
    p["weight_u"][:, 1:] = 0
    y, _ = Recurrent(cell, fused="never")(x)
    one = 2.0 * sigmoid(2.0)
    t, b, c = np.split(p["weight_u"][:, 0] * one, [R, R + N])
    dt = np.log1p(np.exp(p["weight_dt"] @ t + p["shift_dt"]))
    A = -np.exp(p["log_a"])
    kernel = np.stack([(c * b * dt[:, None] * np.exp(A * dt[:, None] * k)).sum(-1) for k in range(T)])
    v, z = np.split(x @ p["weight_ih"].T, 2, -1)
    late = np.concatenate([np.zeros((3, B, E)), v])
    u = sum(p["weight_conv"][:, k] * late[k : k + T] for k in range(4)) + p["shift_conv"]
    u = u * sigmoid(u)
    expected = ((convolved(kernel, u) + p["D"] * u) * z * sigmoid(z)) @ p["weight_ho"].T
    np.testing.assert_allclose(y.numpy(), expected, rtol=0, atol=1e-12)


def test_pieces_of_a_sequence_are_one(x):
    """The convolution's tail goes on where the piece before has ended."""
    layer = Recurrent(made(cells.MambaCell), fused="never")
    y, _ = layer(x)
    first, states = layer(x[:2])
    rest, _ = layer(x[2:], states)
    np.testing.assert_allclose(np.concatenate([first.numpy(), rest.numpy()]), y.numpy(), rtol=0, atol=1e-14)


def test_how_they_start():
    tg.manual_seed(0)
    s4d = cells.S4DCell(3, 64)
    np.testing.assert_allclose(s4d.frequency.numpy()[7], np.pi * np.arange(32), rtol=1e-6)
    np.testing.assert_allclose(np.exp(s4d.log_a.numpy()), 0.5, rtol=1e-6)
    dt = np.exp(s4d.log_dt.numpy())
    assert 0.001 <= dt.min() < 0.003 and 0.03 < dt.max() <= 0.1
    mamba = cells.MambaCell(3, 64)
    assert mamba.rank == 4 and mamba.weight_dt.shape == (128, 4) and cells.MambaCell(3, 17).rank == 2
    dt = np.log1p(np.exp(mamba.shift_dt.numpy().astype(np.float64)))
    assert 0.000999 <= dt.min() < 0.003 and 0.03 < dt.max() <= 0.1001
    np.testing.assert_allclose(np.exp(mamba.log_a.numpy()[5]), np.arange(1, 17), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cells.S4DCell(2, 3, state_size=5), "S4DCell: state_size must be even and positive, not 5"),
        (lambda: cells.MambaCell(2, 3, window=1), "MambaCell: window must be at least 2, not 1"),
        (lambda: cells.MambaCell(2, 3, state_size=0), "MambaCell: state_size must be positive, not 0"),
        (lambda: cells.MambaCell(2, 3, rank=0), "MambaCell: rank must be positive, not 0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_they_say_of_themselves():
    assert repr(cells.S4DCell(3, 8, bias=False, state_size=4)).startswith("S4DCell(3, 8, bias=False, state_size=4)")
    assert repr(cells.MambaCell(3, 8, expand=1, rank=2)).startswith("MambaCell(3, 8, expand=1, rank=2)")
