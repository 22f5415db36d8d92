"""Weights that are computed of others: on both engines, in copies and pickles, and as compiled cells come and go."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from tinygrad_rnn.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

nn = tg.nn
X = np.random.default_rng(0).standard_normal((5, 2, 3))


class Plain(nn.Cell):
    """A user's cell, with its weights the other way round."""

    def __init__(self):
        self.input_size, self.hidden_size = 3, 4
        self.W = nn.Parameter(tg.randn(3, 4, dtype=tg.float64))
        self.U = nn.Parameter(tg.randn(4, 4, dtype=tg.float64))
        self.read_out = nn.Linear(4, 4, dtype=np.float64)

    def step(self, x, h):
        return tg.tanh(x @ self.W + self.read_out(h @ self.U))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


def results(cell, fused, x=X):
    """Outputs, and the gradients of all parameters."""
    cell.zero_grad()
    y, _ = nn.Recurrent(cell, fused=fused)(tg.tensor(x))
    y.square().sum().backward()
    return [y.numpy(), *(p.grad.numpy() for p in cell.parameters())]


CELLS = {
    "lstm": (lambda: nn.LSTMCell(3, 4, dtype=np.float64), lambda cell: (cell, "weight_hh")),
    "gru": (lambda: nn.GRUCell(3, 4, dtype=np.float64), lambda cell: (cell, "weight_ih")),
    "a user's": (Plain, lambda cell: (cell, "U")),
    "a layer in a user's": (Plain, lambda cell: (cell.read_out, "weight")),
    "within another": (lambda: nn.Zoneout(nn.RNNCell(3, 4, dtype=np.float64)).eval(), lambda c: (c.cell, "weight_hh")),
    "dropped": (lambda: nn.WeightDrop(nn.RNNCell(3, 4, dtype=np.float64)).eval(), lambda c: (c.cell, "weight_hh")),
}


@pytest.mark.parametrize("kind", CELLS)
def test_both_engines_compute_a_weight_once_for_a_sequence(kind):
    make, where = CELLS[kind]
    cell = make()
    module, name = where(cell)
    before = results(cell, "never")[0]
    calls = []

    class Counted(Doubled):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    register_parametrization(module, name, Counted())
    expected, calls[:] = results(cell, "never"), []
    np.testing.assert_allclose(expected[0], before, rtol=1e-14)
    for _ in range(3):
        for ours, tape in zip(results(cell, "require"), expected, strict=True):
            np.testing.assert_allclose(ours, tape, rtol=1e-12, atol=1e-14)
    calls[:] = []
    results(cell, "require")
    results(cell, "never")
    assert len(calls) == 2


def test_compiled_cells_notice_what_comes_and_goes():
    cell = Plain()
    layer = nn.Recurrent(cell, fused="require")
    run = lambda: layer(tg.tensor(X))[0].numpy()
    before = run()
    weight_norm(cell, "U")
    np.testing.assert_allclose(run(), before, rtol=1e-12)
    with tg.no_grad():
        cell.parametrizations.U.original0[...] = 0.5
    normed = run()
    assert np.abs(normed - before).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(cell.U.numpy(), axis=1), 0.5)
    weight_norm(cell, "W")
    np.testing.assert_allclose(run(), normed, rtol=1e-12)
    register_parametrization(cell, "U", Doubled())
    assert np.abs(run() - normed).max() > 1e-3
    cell.U = np.eye(4)
    np.testing.assert_allclose(cell.parametrizations.U.original0.numpy(), 0.5 * np.ones((4, 1)))
    kept = run()
    for name in ("U", "W"):
        remove_parametrizations(cell, name)
        np.testing.assert_allclose(run(), kept, rtol=1e-12)
    assert not is_parametrized(cell) and sorted(cell.state_dict()) == ["U", "W", "read_out.bias", "read_out.weight"]


@pytest.mark.parametrize("leave", [True, False])
def test_the_original_that_is_left_is_the_parameter_that_an_optimiser_has(leave):
    layer = spectral_norm(nn.Linear(3, 2, dtype=np.float64)).eval()
    original = layer.parametrizations.weight.original
    before, computed = original.numpy().copy(), layer.weight.numpy().copy()
    assert np.abs(before - computed).max() > 1e-3
    loss = (original * original).sum()
    remove_parametrizations(layer, "weight", leave)
    assert layer.weight is original and [name for name, _ in layer.named_parameters()] == ["bias", "weight"]
    np.testing.assert_array_equal(layer.weight.numpy(), computed if leave else before)
    loss.backward()  # of the array that it was, which nobody wrote to: no warning
    np.testing.assert_array_equal(original.grad.numpy(), 2 * before)


def test_copies_pickles_and_states_go_round():
    cell = weight_norm(nn.LSTMCell(3, 4, dtype=np.float64), "weight_hh")
    expected = results(cell, "require")
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        twin.parametrizations.weight_hh.original0.numpy()[...] *= 1
        for ours, first in zip(results(twin, "require"), expected, strict=True):
            np.testing.assert_array_equal(ours, first)
        twin.parametrizations.weight_hh.original0.numpy()[...] *= 2
    np.testing.assert_array_equal(results(cell, "require")[0], expected[0])
    other = weight_norm(nn.LSTMCell(3, 4, dtype=np.float64), "weight_hh")
    other.load_state_dict(cell.state_dict())
    np.testing.assert_array_equal(results(other, "require")[0], expected[0])


def test_a_pickle_is_loaded_where_nobody_has_parametrised_anything():
    layer = weight_norm(nn.Linear(3, 2))
    code = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read()).weight.numpy().tolist())"
    ran = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(layer), capture_output=True, check=True)
    assert ran.stdout.decode().strip() == str(layer.weight.numpy().tolist())


def test_optimisers_learn_the_originals():
    layer = weight_norm(nn.Linear(3, 2))
    bias, g, v = layer.parameters()
    assert (bias, g.shape, v.shape) == (layer.bias, (2, 1), (2, 3))
    optimiser = tg.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.numpy().copy()
    layer(tg.ones(4, 3)).square().sum().backward()
    optimiser.step()
    assert np.abs(layer.weight.numpy() - before).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(layer.weight.numpy(), axis=1), np.abs(g.numpy()[:, 0]), rtol=1e-6)


def test_only_the_layer_that_was_asked_for_changes():
    first, second = weight_norm(nn.Linear(3, 2)), nn.Linear(3, 2)
    assert is_parametrized(first, "weight") and not is_parametrized(second)
    assert "weight" in second.state_dict() and isinstance(second.weight, nn.Parameter)
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'wieght'"):
        first.wieght  # noqa: B018
    frozen = nn.Linear(3, 2).requires_grad_(False)
    assert not any(p.requires_grad for p in weight_norm(frozen).parameters())


class Wider(Doubled):
    def forward(self, x):
        return tg.cat([x, x])


class Shadowed(nn.Module):
    scale = None

    def __init__(self):
        self.scale = nn.Parameter([1.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: weight_norm(nn.Linear(3, 2), "wieght"), ValueError, "Linear has no parameter 'wieght'"),
        (lambda: weight_norm(nn.Linear(3, 2), dim=2), IndexError, "dim must be None"),
        (lambda: weight_norm(nn.LSTM(3, 2), "weight_hh_l0"), TypeError, "parametrise those of a Stack"),
        (lambda: register_parametrization(nn.Linear(3, 2), "bias", Wider()), ValueError, r"Wider gives \[4\]"),
        (lambda: register_parametrization(Shadowed(), "scale", Doubled()), TypeError, "attribute of the class"),
        (lambda: remove_parametrizations(nn.Linear(3, 2), "weight"), ValueError, "is not parametrised"),
        (lambda: remove_parametrizations(weight_norm(nn.Linear(3, 2)), "weight", False), ValueError, "2 originals"),
        (lambda: weight_norm(nn.RNNCell(3, 2), "weight_hh").reset_parameters(), RuntimeError, "is parametrised; call"),
        (lambda: weight_norm(nn.Linear(3, 2)).reset_parameters(), RuntimeError, "weight is parametrised; call"),
        (lambda: weight_norm(nn.Conv1d(3, 2, 1)).reset_parameters(), RuntimeError, "weight is parametrised; call"),
        (lambda: weight_norm(nn.Embedding(3, 2)).reset_parameters(), RuntimeError, "weight is parametrised; call"),
        (lambda: register_parametrization(weight_norm(nn.Linear(3, 2)), "weight", Wider()), ValueError, "Wider gives"),
        (lambda: setattr(weight_norm(nn.Linear(3, 2)), "weight", 1.0), ValueError, r"shape \[2, 3\] cannot be \[\]"),
        (lambda: weight_norm(weight_norm(nn.Linear(3, 2))), ValueError, "weight is parametrised already"),
        (lambda: spectral_norm(nn.Linear(3, 2), n_power_iterations=0), ValueError, "must be positive"),
        (lambda: spectral_norm(nn.Linear(3, 2), dim=2), IndexError, "dim must be from -2 to 1"),
        (lambda: orthogonal(nn.Linear(3, 2), "bias"), ValueError, "must be a matrix"),
        (lambda: orthogonal(nn.Linear(3, 2), orthogonal_map="qr"), ValueError, "must be one of matrix_exp"),
        (
            lambda: orthogonal(nn.Linear(3, 3), use_trivialization=False),
            ValueError,
            "cannot be given a value without a base",
        ),
    ],
)
def test_what_cannot_be_is_told(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_failed_changed_nothing():
    layer = nn.Linear(3, 2)
    before = layer.bias.numpy().copy()
    with pytest.raises(ValueError, match="Wider gives"):
        register_parametrization(layer, "bias", Wider())
    np.testing.assert_array_equal(layer.bias.numpy(), before)
    assert [*layer.state_dict()] == ["weight", "bias"]


def test_a_weight_that_the_cell_does_not_hold_is_refused():
    outside = weight_norm(nn.Linear(4, 4))

    class Reaches(nn.Cell):
        hidden_size, input_size = 4, 4

        def step(self, x, h):
            return tg.tanh(x + outside(h))

    layer = nn.Recurrent(Reaches())
    with pytest.warns(UserWarning, match="make that module an attribute of the cell"):
        layer(tg.ones(3, 2, 4))


def test_spectral_norm_comes_to_the_largest_singular_value():
    layer = nn.Linear(7, 5, dtype=np.float64)
    W = layer.weight.numpy().copy()
    spectral_norm(layer)
    for _ in range(300):
        layer(tg.ones(1, 7, dtype=tg.float64))
    np.testing.assert_allclose(layer.weight.numpy(), W / np.linalg.norm(W, 2), rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(layer.weight.numpy(), 2), 1, rtol=1e-9)
    layer.parametrizations.weight.original.numpy()[...] *= np.linspace(1, 9, 7)
    layer.eval()
    kept = layer.weight.numpy().copy()
    np.testing.assert_array_equal(layer.weight.numpy(), kept)  # evaluation takes no steps
    layer.train()
    assert np.abs(layer.weight.numpy() - kept).max() > 1e-4


def test_a_sequence_takes_one_step_of_the_power_method_on_both_engines():
    made = {}
    for fused in ("require", "never"):
        tg.manual_seed(1)
        cell = spectral_norm(nn.RNNCell(3, 4, dtype=np.float64), "weight_hh")
        made[fused] = [results(cell, fused) for _ in range(3)]
    for ours, tape in zip(made["require"], made["never"], strict=True):
        for x, y in zip(ours, tape, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_weights_stay_so_and_begin_as_they_were(shape, way):
    layer = nn.Linear(*shape[::-1], dtype=np.float64)
    nn.init.orthogonal_(layer.weight)
    before = layer.weight.numpy().copy()
    orthogonal(layer, orthogonal_map=way)
    np.testing.assert_allclose(layer.weight.numpy(), before, atol=1e-12)
    optimiser = tg.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(4):
        optimiser.zero_grad()
        (layer(tg.randn(6, shape[1], dtype=tg.float64)) - 1).square().sum().backward()
        optimiser.step()
    W = layer.weight.numpy()
    square = W @ W.T if shape[0] < shape[1] else W.T @ W
    np.testing.assert_allclose(square, np.eye(min(shape)), atol=1e-12)
    assert shape == (1, 1) or np.abs(W - before).max() > 1e-3
    other = orthogonal(nn.Linear(*shape[::-1], dtype=np.float64), orthogonal_map=way)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other.weight.numpy(), W)
    layer.weight = before
    np.testing.assert_allclose(layer.weight.numpy(), before, atol=1e-12)


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_maps_are_differentiable_twice(way):
    from tinygrad_rnn.nn.utils.parametrizations import _MAPS

    X = tg.randn(4, 4, dtype=tg.float64, requires_grad=True)
    f = (lambda X: _MAPS[way](X)) if way == "householder" else (lambda X: _MAPS[way](3 * (X - X.T)))
    assert tg.gradcheck(f, [X]) and tg.gradgradcheck(f, [X])


def test_no_cell_draws_a_weight_anew_that_is_computed():
    """It would be drawn in vain: the next call computes it."""
    for entry in nn.cells.catalogue.ROWS:
        names = [name for name, weight in entry.make(3, 8).named_parameters() if weight.ndim == 2 and "." not in name]
        for name in names[:2]:
            cell = weight_norm(entry.make(3, 8), name)
            with pytest.raises(RuntimeError, match=f"{name} is parametrised"):
                cell.reset_parameters()


@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize(
    "weight", [np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0]), np.ones((4, 2)), np.zeros((4, 2)), np.zeros((2, 4))],
    ids=lambda weight: f"{weight.shape} of sum {weight.sum():g}",
)
def test_what_lacks_a_rank_is_orthogonal_all_the_same(way, weight):
    """The diagonal of R has zeros there, which have no sign, and Q is orthogonal."""
    for base in (True, False) if way == "householder" else (True,):
        layer = tg.nn.Linear(weight.shape[1], weight.shape[0], dtype=np.float64)
        layer.weight.numpy()[...] = weight
        orthogonal(layer, orthogonal_map=way, use_trivialization=base)
        W = layer.weight.numpy()
        W = W if len(W) >= W.shape[1] else W.T
        np.testing.assert_allclose(W.T @ W, np.eye(W.shape[1]), atol=1e-12)
