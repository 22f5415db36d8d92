"""What spiking units and binarised gates promise besides their equations."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Recurrent, cells
from tinygrad_rnn.nn.cells.spiking import signs, spike


def test_the_surrogate_is_a_triangle():
    """And the slope of what stands in the place of the decision, which is bounded."""
    u = tg.tensor(np.linspace(-2.5, 2.5, 41) + 1e-3, requires_grad=True)
    z = spike(u, 0.3)
    assert (z.numpy() == (u.numpy() > 0)).all()
    z.sum().backward()
    np.testing.assert_allclose(u.grad.numpy(), 0.3 * np.maximum(0, 1 - abs(u.numpy())), atol=1e-15)


def alone(kind, **options):
    """One unit that an input of 1 drives with 1, and its layer."""
    cell = kind(1, 1, dtype=np.float64, **options)
    cell.weight_ih.numpy()[:] = cell.weight_hh.numpy()[:] = 1  # that of the unit to itself counts as 0
    return Recurrent(cell, fused="never")


def test_a_potential_leaks_to_what_drives_it():
    """Below the threshold v[t] = (1 - a^t) i, and nobody spikes."""
    z, (_, v) = alone(cells.LIFCell, tau=10, threshold=1.5)(np.ones((25, 1, 1)))
    assert not z.numpy().any()
    assert v.item() == pytest.approx(1 - np.exp(-25 / 10), abs=1e-12)


def test_without_a_leak_spikes_count_what_flows_in():
    """Subtracting the threshold loses nothing: spikes times threshold, and what is left, are all that came."""
    drive = np.random.default_rng(0).uniform(0, 1, (400, 3, 1))
    z, (last, v) = alone(cells.LIFCell, tau=1e9, threshold=2e-9)(drive)
    spent = 2e-9 * (z.numpy().sum(0) - last.numpy())  # the last spike is paid a step later
    np.testing.assert_allclose(spent + v.numpy(), drive.sum(0) / 1e9, rtol=1e-6)
    assert 60 < z.numpy()[:, 0].sum() < 140


def test_units_that_tire_spike_more_and_more_rarely():
    layer = alone(cells.ALIFCell, tau_adaptation=300)
    z, _ = layer(np.full((1000, 1, 1), 0.2))
    between = np.diff(np.flatnonzero(z.numpy()))
    assert (np.diff(between) >= -1).all() and between[0] <= 5 and between[-1] >= 10
    layer.cell.beta = 0.0  # then it goes on as it began
    z, _ = layer(np.full((1000, 1, 1), 0.2))
    assert np.ptp(np.diff(np.flatnonzero(z.numpy()))) <= 1


def test_no_adaptation_is_a_lif_unit():
    x = (np.random.default_rng(0).random((60, 3, 8)) < 0.3).astype(float)
    tg.manual_seed(0)
    plain, tiring = cells.LIFCell(8, 12, dtype=np.float64), cells.ALIFCell(8, 12, beta=0.0, dtype=np.float64)
    tiring.load_state_dict(plain.state_dict())
    z, _ = Recurrent(plain, fused="never")(x)
    np.testing.assert_array_equal(Recurrent(tiring, fused="never")(x)[0].numpy(), z.numpy())
    assert 0.01 < z.numpy().mean() < 0.6


def test_signs_are_a_bit_each_and_a_scale_for_each_gate():
    W = tg.tensor([[1.0, -3.0], [0.0, 0.5], [-2.0, -2.0]], requires_grad=True)
    np.testing.assert_array_equal(signs(W, 3).numpy(), [[2, -2], [0.25, 0.25], [-2, -2]])
    (signs(W, 3) * tg.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).sum().backward()
    np.testing.assert_array_equal(W.grad.numpy(), [[1, 2], [3, 4], [5, 6]])


def test_a_binary_gru_is_a_gru_with_such_weights():
    tg.manual_seed(0)
    binary, full = cells.BinaryGRUCell(3, 5, dtype=np.float64), cells.GRUCell(3, 5, dtype=np.float64)
    full.load_state_dict(binary.state_dict())
    for W in (full.weight_ih, full.weight_hh):
        W.numpy()[:] = signs(W, 3).numpy()
        assert [len(np.unique(abs(gate))) for gate in np.split(W.numpy(), 3)] == [1, 1, 1]
    x = np.random.default_rng(0).standard_normal((7, 2, 3))
    run = lambda cell: Recurrent(cell, fused="never")(x)[0].numpy()
    np.testing.assert_allclose(run(binary), run(full), atol=1e-14)


@pytest.mark.parametrize("kind", [cells.LIFCell, cells.ALIFCell])
def test_what_is_no_time_or_threshold_is_refused(kind):
    for name, value in (("tau", 0), ("threshold", -0.1), ("tau", float("nan"))):
        with pytest.raises(ValueError, match=f"{kind.__name__}: {name} must be positive, not {value}"):
            kind(2, 3, **{name: value})
    with pytest.raises(ValueError, match=f"{kind.__name__}: dampening must be at least 0, not -1"):
        kind(2, 3, dampening=-1)
    with pytest.raises(ValueError, match="ALIFCell: tau_adaptation must be positive, not 0"):
        cells.ALIFCell(2, 3, tau_adaptation=0)
