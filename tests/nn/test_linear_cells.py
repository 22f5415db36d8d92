"""Linear systems as cells: against convolutions, SciPy's discretisation, and a window that is known."""

import math

import numpy as np
import pytest
from numpy.polynomial import legendre

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells
from tinygrad_rnn.nn.cells.linear import exponential, hippo, legendre_delay

F64 = {"dtype": np.float64}


def by_fft(kernel, x):
    """sum_k kernel[k] x[t - k], kernel [T, H, I], x [T, B, I]."""
    T = len(x)
    K, X = np.fft.rfft(kernel, 2 * T, axis=0), np.fft.rfft(x, 2 * T, axis=0)
    return np.fft.irfft(np.einsum("fhi,fbi->fbh", K, X), 2 * T, axis=0)[:T]


def kernel_of(cell, T):
    """The impulse response, in complex numbers; the discretisation as the papers write it."""
    p = {name: a.astype(complex) for name, a in cell.state_dict().items()}
    B, C = p["B_re"] + 1j * p["B_im"], p["C_re"] + 1j * p["C_im"]
    if isinstance(cell, cells.LRUCell):
        eigenvalues, scale = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"])), 1
        B = np.exp(p["gamma_log"])[:, None] * B
    else:
        a, dt, scale = p["lambda_re"] + 1j * p["lambda_im"], np.exp(p["log_step"]), 2
        eigenvalues, B = np.exp(a * dt), ((np.exp(a * dt) - 1) / a)[:, None] * B
    powers = eigenvalues ** np.arange(T)[:, None]
    D = p["D"].real if p["D"].ndim == 2 else np.diag(p["D"].real)
    kernel = scale * np.einsum("hn,tn,ni->thi", C, powers, B).real
    kernel[0] += D
    return kernel


@pytest.mark.parametrize("sizes", [(3, 5), (4, 4)], ids=str)
@pytest.mark.parametrize("kind", [cells.LRUCell, cells.S5Cell])
def test_a_convolution(kind, sizes):
    """200 steps of the recurrence are one product of spectra."""
    tg.manual_seed(0)
    cell, x = kind(*sizes, state_size=8, **F64), np.random.default_rng(0).normal(0, 1, (200, 2, sizes[0]))
    y, _ = Recurrent(cell, fused="never")(x)
    np.testing.assert_allclose(y.numpy(), by_fft(kernel_of(cell, 200), x), atol=1e-11)


def test_s5_is_the_solution_of_its_differential_equation():
    """Between samples s is solved exactly: halving dt and holding each sample twice ends at the same state."""
    tg.manual_seed(0)
    cell, x = cells.S5Cell(2, 3, state_size=4, **F64), np.random.default_rng(0).normal(0, 1, (30, 1, 2))
    y, _ = Recurrent(cell, fused="never")(x)
    cell.log_step.numpy()[...] -= math.log(2)
    finer, _ = Recurrent(cell, fused="never")(np.repeat(x, 2, 0))
    np.testing.assert_allclose(finer.numpy()[1::2], y.numpy(), atol=1e-12)


def test_lru_starts_on_its_ring_and_normalised():
    tg.manual_seed(0)
    cell = cells.LRUCell(64, 64, state_size=4000, r_min=0.9, r_max=0.999, max_phase=0.5, **F64)
    r, angle = np.exp(-np.exp(cell.nu_log.numpy())), np.exp(cell.theta_log.numpy())
    assert 0.9 <= r.min() < 0.905 and 0.998 < r.max() <= 0.999 and 0.49 < angle.max() <= 0.5
    assert abs(np.mean(r**2) - (0.9**2 + 0.999**2) / 2) < 0.002, "uniform in area"
    np.testing.assert_allclose(np.exp(cell.gamma_log.numpy()), np.sqrt(1 - r**2), rtol=1e-10)
    assert abs(cell.B_re.numpy().std() * math.sqrt(128) - 1) < 0.02
    assert abs(cell.C_im.numpy().std() * math.sqrt(4000) - 1) < 0.02 and 0.7 < cell.D.numpy().std() < 1.3
    cell.nu_log.numpy()[...] = 8  # |lambda| is below 1 whatever nu is
    assert np.isfinite(cell(np.ones((1, 64)))[0].numpy()).all()
    for n in range(300):  # a ring that reaches 0 and 1 starts finite
        tg.manual_seed(n)
        assert all(np.isfinite(p.numpy()).all() for p in cells.LRUCell(1, 16).parameters())


def test_s5_starts_from_hippo():
    """Eigenvalues and vectors are those of HiPPO-LegS, built as its definition has it, made normal."""
    N = 6
    A = np.array([
        [-math.sqrt((2 * i + 1) * (2 * j + 1)) * (i > j) - (i + 1) * (i == j) for j in range(N)] for i in range(N)
    ])  # fmt: skip
    P = np.sqrt(np.arange(N) + 0.5)
    normal = A + np.outer(P, P)
    eigenvalues, V = hippo(3)
    np.testing.assert_allclose(normal @ V, V * eigenvalues, atol=1e-12)
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-12)
    both = np.concatenate([eigenvalues, eigenvalues.conj()])
    np.testing.assert_allclose(np.sort(both.imag), np.sort(np.linalg.eigvals(normal).imag), atol=1e-12)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(3), atol=1e-12)
    assert (V[0].real > 0).all() and np.abs(V[0].imag).max() < 1e-12
    tg.manual_seed(0)
    cell = cells.S5Cell(64, 64, state_size=60, blocks=20, **F64)
    np.testing.assert_allclose(cell.lambda_im.numpy(), np.tile(eigenvalues.imag, 20), atol=1e-12)
    dt = np.exp(cell.log_step.numpy())
    assert 0.001 <= dt.min() < 0.0015 and 0.08 < dt.max() <= 0.1
    power = lambda name: np.mean(cell.state_dict()[f"{name}_re"] ** 2 + cell.state_dict()[f"{name}_im"] ** 2)
    assert abs(power("B") * 120 - 1) < 0.05 and abs(power("C") * 120 - 2) < 0.1


def test_s5_keeps_its_digits_where_steps_are_short():
    """(exp(lambda dt) - 1) / lambda is dt, nearly: nothing is to cancel."""
    tg.manual_seed(0)
    cell = cells.S5Cell(2, 3, state_size=8, dt_min=1e-5, dt_max=1e-5)
    exact = {name: np.float64(value) for name, value in cell.state_dict().items()}
    lam, dt = exact["lambda_re"] + 1j * exact["lambda_im"], np.exp(exact["log_step"])
    expected = (np.expm1(lam * dt) / lam)[:, None] * (exact["B_re"] + 1j * exact["B_im"])
    _, _, re, im = cell.discrete()
    np.testing.assert_allclose(re.numpy() + 1j * im.numpy(), expected, rtol=1e-5)


# ---- The window of an LMU --------------------------------------------------------------------------------------------

# scipy.signal.cont2discrete((a / 7, b / 7, ...), dt=1, method="zoh") of SciPy 1.17.1 for order 4
STORED_A = [
    [0.85176233, -0.11600302, -0.09635403, -0.03403089],
    [0.34800905, 0.60010731, -0.33824538, -0.12880259],
    [-0.48177017, 0.56374229, 0.24713973, -0.31975644],
    [0.23821623, -0.30053937, 0.44765902, 0.2663568],
]
STORED_B = [0.14823767, -0.34800905, 0.48177017, -0.23821623]


def test_zero_order_hold_of_an_lmu():
    """Against numbers of SciPy's, and the system itself, solved in small steps."""
    A, B = legendre_delay(4, 7)
    np.testing.assert_allclose(A, STORED_A, rtol=0, atol=1e-8)
    np.testing.assert_allclose(B, STORED_B, rtol=0, atol=1e-8)
    i, j = np.meshgrid(range(4), range(4), indexing="ij")
    a, b = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / 7, (2 * i[:, 0] + 1) * (-1.0) ** i[:, 0] / 7
    m, u, n = np.array([0.3, -1.0, 0.5, 2.0]), 0.7, 200
    slope, expected = lambda m: a @ m + b * u, A @ m + B * u
    for _ in range(n):
        k1 = slope(m)
        k2 = slope(m + k1 / (2 * n))
        k3 = slope(m + k2 / (2 * n))
        m = m + (k1 + 2 * k2 + 2 * k3 + slope(m + k3 / n)) / (6 * n)
    np.testing.assert_allclose(m, expected, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("order, theta", [(4, 7), (32, 20.5), (256, 784)])
def test_zero_order_hold_as_in_scipy(order, theta):
    signal = pytest.importorskip("scipy.signal")
    i, j = np.meshgrid(range(order), range(order), indexing="ij")
    a = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)) / theta
    b = ((2 * i[:, :1] + 1) * (-1.0) ** i[:, :1]) / theta
    A, B, *_ = signal.cont2discrete((a, b, np.ones((1, order)), np.zeros((1, 1))), dt=1.0, method="zoh")
    ours = legendre_delay(order, theta)
    np.testing.assert_allclose(ours[0], A, atol=1e-9)
    np.testing.assert_allclose(ours[1], B[:, 0], atol=1e-9)


def test_exponential_of_a_matrix():
    a, V = np.array([-3.0, 0.5, 9.0]), np.random.default_rng(0).normal(0, 1, (3, 3))
    expected = V * np.exp(a) @ np.linalg.inv(V)
    np.testing.assert_allclose(exponential(V * a @ np.linalg.inv(V)), expected, rtol=1e-11)
    np.testing.assert_array_equal(exponential(np.zeros((2, 2))), np.eye(2))


def window(theta=40.0, order=8):
    """An LMU that writes x into its window and nothing else."""
    cell = cells.LMUCell(1, 2, order=order, theta=theta, **F64)
    cell.encoder_x.numpy()[...] = 1
    cell.encoder_h.numpy()[...] = 0
    return cell


def test_an_lmu_remembers_a_slow_sine():
    """Legendre polynomials read out what was there up to theta steps ago."""
    theta, t = 40, np.arange(300)
    u = np.sin(2 * np.pi * t / 60)
    _, (_, m) = Recurrent(window(theta), fused="never")(u[:, None, None])
    for ago, error in {0: 0.03, 10: 0.003, 20: 0.003, 30: 0.003, 40: 0.003}.items():
        read = legendre.legval(2 * ago / theta - 1, m.numpy()[0])
        held = np.sin(2 * np.pi * (t[-1] + 0.5 - ago) / 60)  # what is held for a step is half a step late
        assert abs(read - held) < error, "of 0.1 for each step at the steepest"
    _, (_, coarse) = Recurrent(window(theta, order=1), fused="never")(u[:, None, None])
    assert abs(legendre.legval(-1, coarse.numpy()[0]) - u[-1]) > 0.1, "which one polynomial cannot do"


def test_what_an_lmu_writes_can_come_from_all_three():
    """Each encoder reaches m by B, and h sees the new m."""
    cell = window()
    h, m = np.array([[0.5, -1.0]]), np.random.default_rng(0).normal(0, 1, (1, 8))
    _, before = cell(np.zeros((1, 1)), (h, m))
    cell.encoder_h.numpy()[...] = [[2.0, 1.0]]
    cell.encoder_m.numpy()[0, 3] = 0.25
    u = 2 * 0.5 - 1.0 + 0.25 * m[0, 3]
    new, after = cell(np.zeros((1, 1)), (h, m))
    np.testing.assert_allclose(after.numpy() - before.numpy(), u * cell.B.numpy()[None], atol=1e-12)
    expected = np.tanh(h @ cell.kernel_h.numpy().T + after.numpy() @ cell.kernel_m.numpy().T)
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-12)


def test_how_an_lmu_starts():
    tg.manual_seed(0)
    cell = cells.LMUCell(50, 100, order=60, theta=200)
    assert 0.98 < np.abs(cell.encoder_h.numpy()).max() / math.sqrt(3 / 100) <= 1.0001
    assert not cell.encoder_m.numpy().any()
    W = cell.kernel_h.numpy() / math.sqrt(2 / 200)
    assert abs(W.std() - 1) < 0.03 and 2.2 < np.abs(W).max() <= 2.28, "a normal distribution without its tails"
    assert {"A", "B"}.isdisjoint(cell.state_dict()), "which follow from order and theta"


def test_wrong_options():
    for make, message in [
        (lambda: cells.LRUCell(2, 3, r_min=0.9, r_max=0.8), "LRUCell: expected 0 <= r_min < r_max <= 1, not r_min=0.9"),
        (lambda: cells.LRUCell(2, 3, state_size=0), "LRUCell: state_size must be positive, not 0"),
        (lambda: cells.LRUCell(2, 3, max_phase=0), "LRUCell: max_phase must be positive, not 0"),
        (lambda: cells.S5Cell(2, 3, state_size=-1), "S5Cell: state_size must be positive, not -1"),
        (lambda: cells.S5Cell(2, 3, blocks=2), "S5Cell: blocks must divide state_size 3, which 2 does not"),
        (lambda: cells.S5Cell(2, 3, dt_min=0), "S5Cell: expected 0 < dt_min <= dt_max, not dt_min=0 and dt_max=0.1"),
        (lambda: cells.LMUCell(2, 3, order=0), "LMUCell: order must be positive, not 0"),
        (lambda: cells.LMUCell(2, 3, theta=0), "LMUCell: theta must be positive, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
