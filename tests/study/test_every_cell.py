"""The kit looks into every cell of the library, on both engines, and both tell the same."""

import numpy as np
import pytest
from fusion.comparing import given_to, interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells import catalogue

T, B, I, H = 5, 3, 4, 4
ROWS = pytest.mark.parametrize("make", [row[0] for row in catalogue.ROWS], ids=[e.name for e in tg.nn.cells.list(4, 4)])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tg.manual_seed(0)
    interpret(monkeypatch)


def recording(cell, engine, reverse, options):
    """One after its backward pass, with what each loss of it sent to each state."""
    layer = tg.nn.Recurrent(cell, reverse, fused=engine)
    x = tg.tensor(np.random.default_rng(0).standard_normal((T, B, I)), requires_grad=True)
    with tg.record(layer) as r:
        y, _ = layer(x, **options, **given_to(cell, B))
    losses = [y[t].square().sum() for t in range(T)]
    sent = {name: tg.study.horizon(losses, r, name).gradients.sum(1) for name in cell.state_names}
    sum(losses).backward()
    return r, sent, x


@pytest.mark.parametrize("reverse, options", [(False, {}), (True, {"lengths": [5, 0, 2]})], ids=str)
@ROWS
def test_both_engines(make, reverse, options):
    cell = make(I, H).double()
    found = []
    for engine in ("never", "require"):
        r, sent, _ = recording(cell, engine, reverse, options)
        for name, total in sent.items():
            try:
                arrived = r.grad[name].numpy()
            except RuntimeError:
                arrived = np.zeros_like(total)
            np.testing.assert_allclose(total, arrived, rtol=0, atol=1e-12 * max(1, np.abs(arrived).max()))
        found.append((tg.study.jacobians(r, b=2).values, tg.study.gradient_flow(r).values))
    (J, flow), (J_fused, flow_fused) = found
    assert len(J) == (2 if options else T)
    np.testing.assert_allclose(J_fused, J, rtol=0, atol=1e-11 * max(1, np.abs(J).max()))
    for name in flow.keys() & flow_fused.keys():
        np.testing.assert_allclose(flow_fused[name], flow[name], rtol=1e-9, atol=1e-12)


@ROWS
def test_every_value(make):
    """Each can be looked at and held; held nowhere, the step's program does what the step does."""
    cell = make(I, H).double()
    r, _, x = recording(cell, "require", False, {})
    layer = tg.nn.Recurrent(cell.eval())
    values = given_to(cell, B)
    expected = layer(x, **values)[0].numpy()
    assert len(r.names) > len(cell.state_names)
    for name in r.names:
        shape = r[name].shape
        assert tg.study.heatmap(r, name).values.shape == (np.prod(shape[2:]), T)
        assert tg.study.trajectory(r, name, k=1).values.shape == (T, 1)
        for look, why in ((tg.study.saturation, "is no gate"), (tg.study.timescales, "a gate says")):
            try:
                look(r, name)
            except ValueError as error:
                assert why in str(error)
        if name in values:  # which no step computes
            continue
        held = tg.study.ablate(layer, x, 0, name=name, **values)
        np.testing.assert_allclose(held.before, expected, rtol=0, atol=1e-12)


@ROWS
def test_the_future_has_no_part(make):
    layer = tg.nn.Recurrent(make(I, H).double(), fused="never")
    x = np.random.default_rng(0).standard_normal((T, I))
    found = tg.study.connectivity(layer, x, **given_to(layer.cell, 1)).values
    assert (found[np.triu_indices(T, 1)] == 0).all() and found[0, 0] > 0
