"""Cells that are a step of a differential equation: what the equations promise."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells

F64 = {"dtype": np.float64}


def alone(cell, *names):
    """The cell with parameters at zero: all, or those named."""
    for name, p in cell.named_parameters():
        if not names or name in names:
            p.numpy()[...] = 0
    return cell


def jacobian(step, y, z):
    """Of one step, by the states, for a batch of one, on the tape."""
    inputs = [tg.tensor(a, requires_grad=True) for a in (y, z)]
    results = step(*inputs)
    rows = [
        np.concatenate([g.numpy().ravel() for g in tg.grad(result[0, n], inputs, retain_graph=True)])
        for result in results
        for n in range(result.shape[1])
    ]
    return np.array(rows)


def test_cornn_without_weights_is_a_damped_oscillator():
    """The map of each unit is a matrix, and its path a sum of powers of eigenvalues; small steps follow the ODE."""
    dt, gamma, epsilon = 0.042, 2.7, 4.7
    cell = alone(cells.CoRNNCell(1, 2, dt=dt, gamma=gamma, epsilon=epsilon, **F64))
    start = [np.array([[1.0, -0.5]]), np.array([[0.3, 2.0]])]
    y, _ = Recurrent(cell, fused="never")(np.ones((50, 1, 1)), tuple(map(tg.tensor, start)))
    M = np.array([[1 - dt**2 * gamma, dt * (1 - dt * epsilon)], [-dt * gamma, 1 - dt * epsilon]])
    eigenvalues, V = np.linalg.eig(M)
    for t in (0, 7, 49):
        expected = ((V * eigenvalues ** (t + 1)) @ np.linalg.inv(V)) @ np.concatenate(start)
        np.testing.assert_allclose(y.numpy()[t, 0], expected[0].real, atol=1e-12)
    errors = []
    for n in (200, 400):
        cell.dt, (a, b) = 2 / n, np.roots([1, epsilon, gamma])
        y, _ = Recurrent(cell, fused="never")(np.zeros((n, 1, 1)), tuple(map(tg.tensor, start)))
        p = np.linalg.solve([[1, 1], [a, b]], np.concatenate(start))
        errors.append(np.abs(y.numpy()[-1, 0] - (p[0] * np.exp(2 * a) + p[1] * np.exp(2 * b))).max())
    assert errors[0] < 0.02 and 0.4 < errors[1] / errors[0] < 0.6, "of first order"


def test_cornn_is_stable_as_its_docstring_says():
    """Just within both bounds the map dies out, just beyond it grows."""
    for dt_epsilon, dt2_gamma in [(1.9, 0.19), (0.4, 3.19), (1.9, 0.21), (2.05, 0.01), (0.4, 3.21)]:
        cell = alone(cells.CoRNNCell(1, 1, dt=0.1, gamma=dt2_gamma / 0.01, epsilon=dt_epsilon / 0.1, **F64))
        J = jacobian(lambda y, z, cell=cell: cell(np.zeros((1, 1)), (y, z)), np.ones((1, 1)), np.ones((1, 1)))
        assert (np.abs(np.linalg.eigvals(J)).max() < 1) == (dt_epsilon < 2 and dt2_gamma < 4 - 2 * dt_epsilon)


def test_unicornn_is_symplectic():
    """One step keeps volume, unit by unit, and can be undone."""
    tg.manual_seed(0)
    cell, random = cells.UnICORNNCell(3, 4, **F64), np.random.default_rng(0)
    x, y, z = (random.normal(0, 1, (1, n)) for n in (3, 4, 4))
    J = jacobian(lambda y, z: cell(x, (y, z)), y, z)
    for n in range(4):
        unit = J[np.ix_([n, n + 4], [n, n + 4])]
        assert abs(np.linalg.det(unit) - 1) < 1e-12 and np.count_nonzero(J[n]) == 2
    assert abs(np.linalg.det(J) - 1) < 1e-12
    new_y, new_z = (s.numpy() for s in cell(x, (y, z)))
    dt = 0.19 / (1 + np.exp(-cell.weight_c.numpy()))
    old_y = new_y - dt * new_z
    u = x @ cell.weight_ih.numpy().T + cell.bias.numpy()
    old_z = new_z + dt * (np.tanh(cell.weight_w.numpy() * old_y + u) + 30.65 * old_y)
    np.testing.assert_allclose(old_y, y, atol=1e-12)
    np.testing.assert_allclose(old_z, z, atol=1e-12)


def test_unicornn_keeps_its_energy_near_where_it_was():
    """Without input the Hamiltonian is constant but for a term of the order of dt, for 1,000 steps."""
    tg.manual_seed(0)
    cell = alone(cells.UnICORNNCell(1, 3, dt=0.05, alpha=1.0, **F64), "weight_ih")
    start = tuple(tg.tensor(np.random.default_rng(1).normal(0, 1, (1, 3))) for _ in range(2))
    _, _, (y, z) = Recurrent(cell, fused="never")(np.zeros((1000, 1, 1)), start, return_states=True)
    w, y, z = cell.weight_w.numpy(), y.numpy()[:, 0], z.numpy()[:, 0]
    energy = z**2 / 2 + y**2 / 2 + np.log(np.cosh(w * y)) / w
    assert (np.ptp(energy, 0) < 0.05 * energy.mean(0)).all() and (np.ptp(y, 0) > 1).any()


@pytest.mark.parametrize("kind", [cells.AntisymmetricRNNCell, cells.GatedAntisymmetricRNNCell])
def test_eigenvalues_of_an_antisymmetric_matrix(kind):
    """All have the real part -gamma; a wide cell's start has the paper's variances; W's symmetric part has no part."""
    tg.manual_seed(0)
    cell = kind(200, 100, gamma=0.3, scale=1.5, **F64)
    np.testing.assert_allclose(np.linalg.eigvals(cell.antisymmetric().numpy()).real, -0.3, atol=1e-10)
    assert abs(cell.weight_hh.numpy().std() * np.sqrt(100) - 1.5) < 0.05
    assert abs(cell.weight_ih.numpy().std() * np.sqrt(200) - 1) < 0.03 and not cell.bias.numpy().any()
    random = np.random.default_rng(0)
    x, h = random.normal(0, 1, (2, 200)), random.normal(0, 1, (2, 100))
    before, S = cell(x, h).numpy(), random.normal(0, 1, (100, 100))
    cell.weight_hh.numpy()[...] += S + S.T
    np.testing.assert_allclose(cell(x, h).numpy(), before, atol=1e-12)


def test_an_open_gate_is_the_plain_antisymmetric_cell():
    tg.manual_seed(0)
    plain, gated = cells.AntisymmetricRNNCell(3, 4, **F64), cells.GatedAntisymmetricRNNCell(3, 4, **F64)
    gated.weight_hh.numpy()[...] = plain.weight_hh.numpy()
    gated.weight_ih.numpy()[4:] = plain.weight_ih.numpy()
    gated.bias.numpy()[:4] = 50
    x = np.random.default_rng(0).normal(0, 1, (20, 2, 3))
    run = lambda cell: Recurrent(cell, fused="never")(x)[0].numpy()
    np.testing.assert_allclose(run(gated), run(plain), atol=1e-14)


def test_wrong_options():
    for make, message in [
        (lambda: cells.CoRNNCell(2, 3, dt=0), "CoRNNCell: dt must be positive, not 0"),
        (lambda: cells.CoRNNCell(2, 3, epsilon=-1), "CoRNNCell: epsilon must be at least 0, not -1"),
        (lambda: cells.CoRNNCell(2, 3, gamma=float("nan")), "CoRNNCell: gamma must be at least 0, not nan"),
        (lambda: cells.UnICORNNCell(2, 3, dt=-1), "UnICORNNCell: dt must be positive, not -1"),
        (lambda: cells.UnICORNNCell(2, 3, alpha=-1), "UnICORNNCell: alpha must be at least 0, not -1"),
        (lambda: cells.AntisymmetricRNNCell(2, 3, epsilon=0), "AntisymmetricRNNCell: epsilon must be positive, not 0"),
        (lambda: cells.GatedAntisymmetricRNNCell(2, 3, gamma=-1), "GatedAntisymmetricRNNCell: gamma must be at least"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_how_they_start():
    tg.manual_seed(0)
    cornn, unicornn = cells.CoRNNCell(40, 80), cells.UnICORNNCell(40, 80)
    assert 0.99 < np.abs(cornn.weight_zh.numpy()).max() * np.sqrt(200) <= 1.001 and cornn.bias.numpy().any()
    assert 0.99 < np.abs(unicornn.weight_ih.numpy()).max() / np.sqrt(6 / (65 * 40)) <= 1.001
    assert 0 <= unicornn.weight_w.numpy().min() < 0.1 and 0.9 < unicornn.weight_w.numpy().max() < 1
    assert 0.09 < np.abs(unicornn.weight_c.numpy()).max() <= 0.1 and not unicornn.bias.numpy().any()
