"""jacobians against finite differences and matrices that are known; lyapunov against spectra that are."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from study.studying import ENGINES, F64, Linear, drawn, recorded


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [tg.nn.RNNCell, tg.nn.GRUCell, tg.nn.LSTMCell])
@pytest.mark.parametrize("options", [{}, {"lengths": [6, 4, 0], "reverse": True}], ids=str)
def test_finite_differences(engine, kind, options):
    cell = kind(2, 3, **F64)
    states = len(cell.state_names)
    hx = tuple(drawn(3, 3, seed=k) for k in range(states))
    r = recorded(cell, engine, hx=hx, **options)
    found = tg.study.jacobians(r, b=1)
    T, W = (4 if options else 6), 3 * states
    assert found.values.shape == (T, W, W) and found.singular_values.shape == (T, W)
    order = range(T)[::-1] if options else range(T)
    after = np.concatenate([r[name].numpy()[:, 1] for name in cell.state_names], -1)
    s, x, d = np.concatenate([h.numpy()[1] for h in hx]), drawn(6, 3, 2).numpy(), 1e-6

    def step(s, t):
        new = cell(tg.tensor(x[None, t, 1]), tuple(tg.tensor(part[None]) for part in np.split(s, states)))
        return np.concatenate([part.numpy()[0] for part in (new if isinstance(new, tuple) else (new,))])

    for J, t in zip(found.values, order):
        columns = [(step(s + d * e, t) - step(s - d * e, t)) / (2 * d) for e in np.eye(W)]
        np.testing.assert_allclose(J, np.stack(columns, -1), rtol=0, atol=1e-8)
        s = after[t]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_linear_cell_has_its_weights(engine):
    U = np.random.default_rng(0).standard_normal((3, 3))
    found = tg.study.jacobians(recorded(Linear(U), engine, T=1, B=1))
    np.testing.assert_allclose(found.values, U.T[None], rtol=1e-15)
    np.testing.assert_allclose(found.singular_values[0], np.linalg.svd(U, compute_uv=False), rtol=1e-12)


def test_many_steps_in_pieces(monkeypatch):
    from tinygrad_rnn.study import recorded as module

    r = recorded(tg.nn.LSTMCell(2, 3, **F64))
    whole = tg.study.jacobians(r).values
    monkeypatch.setattr(module, "MOST", 40)
    np.testing.assert_array_equal(tg.study.jacobians(r).values, whole)


def test_a_recording_without_gradients():
    """Neither a backward pass nor parameters that want one are needed, and none of theirs changes."""
    layer = tg.nn.GRU(2, 3)
    with tg.no_grad(), tg.record(layer) as r:
        layer(tg.ones(4, 2, 2))
        assert tg.study.jacobians(r).values.shape == (4, 3, 3)
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cell_of_two_inputs(engine):
    class Two(tg.nn.Cell):
        hidden_size = 2

        def step(self, x, h):
            a, b = x
            return a * h + b

    a, b = drawn(5, 3, 2), drawn(5, 3, 2, seed=1)
    layer = tg.nn.Recurrent(Two(), fused=engine)
    with tg.record(layer) as r:
        layer((a, b), tg.zeros(3, 2, dtype=np.float64))
    expected = [np.diag(x) for x in a.numpy()[:, 1]]
    np.testing.assert_array_equal(tg.study.jacobians(r, b=1).values, expected)


def test_a_state_that_nothing_reaches():
    class Forgets(tg.nn.Cell):
        input_size = hidden_size = 2

        def step(self, x, h, c):
            return x * 1, 0.5 * c

    r = recorded(Forgets(), x=tg.ones(3, 1, 2))
    np.testing.assert_array_equal(tg.study.jacobians(r).values, [np.diag([0, 0, 0.5, 0.5])] * 3)
    np.testing.assert_allclose(tg.study.lyapunov(r).values, [math.log(0.5)] * 2 + [-np.inf] * 2)
    tg.study.lyapunov(r).png()
    tg.study.jacobians(r).png()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_turned_and_scaled_state(engine):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    for s in (0.8, 1.1):
        found = tg.study.lyapunov(recorded(Linear(s * Q), engine, T=30))
        np.testing.assert_allclose(found.values, [math.log(s)] * 4, rtol=1e-12)
        assert found.history.shape == (30, 4)


def test_the_sum_is_the_mean_logarithm_of_determinants():
    r = recorded(tg.nn.GRUCell(2, 5, **F64), T=12)
    J = tg.study.jacobians(r)
    expected = np.linalg.slogdet(J.values)[1].mean()
    for found in (tg.study.lyapunov(r), tg.study.lyapunov(J), tg.study.lyapunov(J.values)):
        assert found.values.shape == (5,) and (np.diff(found.values) <= 0).all()
        assert found.values.sum() == pytest.approx(expected, rel=1e-11)


def test_gaussian_matrices():
    """Newman (1986): lambda_i = (ln 2 + psi((N - i + 1) / 2)) / 2 for independent standard normal entries."""
    N, T = 4, 20_000
    psi = {0.5: -0.5772156649015329 - 2 * math.log(2), 1.0: -0.5772156649015329}
    for k in (1.5, 2.0):
        psi[k] = psi[k - 1] + 1 / (k - 1)
    expected = np.array([(math.log(2) + psi[(N - i) / 2]) / 2 for i in range(N)])
    found = tg.study.lyapunov(np.random.default_rng(0).standard_normal((T, N, N))).values
    np.testing.assert_allclose(found, expected, atol=5 * 1.2 / math.sqrt(T))  # five of its standard deviations


def test_what_has_no_spectrum():
    with pytest.raises(ValueError, match=r"expected Jacobians of shape \[T, W, W\], got \[3, 2\]"):
        tg.study.lyapunov(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        tg.study.lyapunov(np.full((2, 1, 1), np.nan))
