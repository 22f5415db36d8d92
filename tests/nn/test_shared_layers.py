"""One layer used by several threads: each call holds its own masks, and nobody else sees them."""

import threading

import numpy as np
import pytest

import tinygrad_rnn as tg

H = 3


class Gain(tg.nn.RNNCell):
    """Holds a value of its own for a sequence."""

    def sequence_values(self, batch_size):
        return {"gain": tg.rand(batch_size, H)}

    def step(self, x, h):
        return super().step(x, h) * self.gain


CELLS = {
    "VariationalDropout": lambda: tg.nn.VariationalDropout(tg.nn.GRUCell(H, H), input=0.5, state=0.5),
    "VariationalDropout, whole states": lambda: tg.nn.VariationalDropout(tg.nn.RNNCell(H, H), 0.5, 0.5, states="all"),
    "WeightDrop": lambda: tg.nn.WeightDrop(tg.nn.LSTMCell(H, H), 0.5),
    "a cell's own": lambda: Gain(H, H),
    "all of it": lambda: tg.nn.Zoneout(tg.nn.WeightDrop(tg.nn.VariationalDropout(Gain(H, H), 0.5, 0.5), 0.5), 0.3),
}


QUICK = {*((name, "never") for name in CELLS), ("a cell's own", "require"), ("all of it", "require")}
EITHER = [  # a wrapper by itself compiles a cell of its own; all of them together go every way as well
    pytest.param(CELLS[name], fused, id=f"{name}-{fused}", marks=() if (name, fused) in QUICK else pytest.mark.slow)
    for name in CELLS
    for fused in ("never", "require")
]


def in_threads(count, work):
    """Run work(0), ..., work(count - 1) at once; returns the results in order."""
    results, errors = [None] * count, []

    def run(i):
        try:
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize(("make", "fused"), EITHER)
def test_each_thread_has_its_own_masks(make, fused):
    tg.manual_seed(0)
    layer, x = tg.nn.Recurrent(make(), fused=fused), tg.randn(4, 2, H)

    def train(i):
        tg.manual_seed(i)
        found = []
        for _ in range(20):
            y = layer(x)[0]
            found += [y, *tg.grad(y.square().sum(), list(layer.parameters()), allow_unused=True)]
        return [None if each is None else each.numpy() for each in found]

    expected = [train(i) for i in range(4)]
    for found, alone in zip(in_threads(4, train), expected):
        for each, other in zip(found, alone):
            np.testing.assert_array_equal(each, other)


@pytest.mark.parametrize("fused", ["never", "require"])
def test_one_trains_while_another_evaluates(fused):
    layer, x = tg.nn.LSTM(H, H, num_layers=2), tg.randn(5, 2, H)
    layer.fused = fused
    expected = layer(x)[0].numpy()

    def work(i):
        for _ in range(50):
            if i % 2:
                with tg.no_grad():
                    y = layer(x)[0]
            else:
                y = layer(x)[0]
                tg.grad(y.sum(), list(layer.parameters()))
            np.testing.assert_array_equal(y.numpy(), expected)

    in_threads(4, work)


@pytest.mark.parametrize(("make", "fused"), EITHER)
def test_in_the_middle_of_a_step_nobody_else_sees_what_it_holds(make, fused):
    """The first step of one thread, or its trace, waits while another looks at the cell and runs it on the tape."""
    cell, x = make(), tg.randn(2, 1, H)
    inside, go_on, main = threading.Event(), threading.Event(), threading.current_thread()
    inner, parameters = cell, dict(cell.named_parameters())
    while isinstance(inner, tg.nn.regularised.CellWrapper):
        inner = inner.cell
    kind = type(inner)

    class Waits(kind):
        def step(self, *args):
            if threading.current_thread() is not main and not inside.is_set():
                inside.set()
                assert go_on.wait(60)
            return super().step(*args)

        step.__signature__ = __import__("inspect").signature(kind.step)

    inner.__class__ = Waits
    thread = threading.Thread(target=lambda: tg.nn.Recurrent(cell, fused=fused)(x))
    thread.start()
    try:
        assert inside.wait(60)
        assert all(dict(cell.named_parameters())[name] is p for name, p in parameters.items())
        assert all(type(each) is np.ndarray for each in cell.state_dict().values())
        for name in ("h_mask", "x_mask", "recurrent_mask", "weight_hh_dropped", "gain"):
            assert not any(hasattr(module, name) for module in cell.modules())
        for owner in cell.modules():
            assert all(getattr(owner, name) is p for name, p in vars(owner).items() if isinstance(p, tg.nn.Parameter))
        for _ in range(3):
            tg.nn.Recurrent(cell, fused="never")(x)[0].sum().backward()
    finally:
        go_on.set()
        thread.join()


def test_an_error_leaves_nothing_behind():
    class Inner(tg.nn.RNNCell):
        clash = "weight_hh"

        def sequence_values(self, batch_size):
            return {self.clash: tg.ones(batch_size, H)}

    inner = Inner(H, H)
    layer, x = tg.nn.Recurrent(tg.nn.VariationalDropout(inner, state=0.5), fused="never"), tg.randn(2, 1, H)
    for _ in range(2):
        with pytest.raises(ValueError, match="weight_hh is an attribute already"):
            layer(x)
        assert not hasattr(layer.cell, "h_mask")
    inner.clash = "extra"
    layer(x)
    assert not hasattr(inner, "extra")


def test_a_cell_may_run_itself_inside():
    """A call within a call holds values of its own, and gives those of the outer one back."""

    class Deep(Gain):
        def step(self, x, h):
            gain = self.gain
            if not tg.is_grad_enabled():
                return super().step(x, h)
            with tg.no_grad():
                tg.nn.Recurrent(self, fused="never")(tg.zeros(1, 1, H))
            assert self.gain is gain
            return super().step(x, h)

    tg.nn.Recurrent(Deep(H, H), fused="never")(tg.randn(3, 2, H))


@pytest.mark.parametrize("name", ["lambda", "gain", "1"])
def test_who_looks_for_an_attribute_in_a_way_of_its_own_finds_what_is_held(name):
    class Delegates(tg.nn.Cell):
        hidden_size = H

        def __getattr__(self, missing):
            if missing.startswith("__"):
                raise AttributeError(missing)
            return 7.0

        def sequence_values(self, batch_size):
            return {name: tg.ones(batch_size, H) * 0.5}

        def step(self, x, h):
            return tg.tanh(x + h) * getattr(self, name)

    with pytest.raises(AttributeError):
        tg.nn.RNNCell(H, H).nothing  # noqa: B018
    x = tg.randn(2, 1, H)
    y = tg.nn.Recurrent(Delegates(), fused="never")(x)[0]
    np.testing.assert_allclose(y.numpy()[0], np.tanh(x.numpy()[0]) * 0.5, atol=1e-6)


# ---- Results are results of their own --------------------------------------------------------------------------------


class HandsOn(tg.nn.Cell):
    """Its second state comes out as it went in."""

    hidden_size = H

    def __init__(self):
        self.U = tg.nn.Parameter(tg.randn(H, H))

    def step(self, x, h, k):
        return tg.tanh(x + h @ self.U + k), k


@pytest.mark.parametrize("lengths", [None, [3, 1]])
@pytest.mark.parametrize("make", [lambda: tg.nn.GRUCell(H, H), lambda: tg.nn.LSTMCell(H, H), HandsOn])
def test_a_hook_on_a_final_state_sees_what_reaches_that_result(make, lengths):
    cell, x = make(), tg.randn(3, 2, H).numpy()
    count, found = len(cell.state_names), []
    for fused in ("never", "require"):
        given = tg.tensor(x, requires_grad=True)
        starts = tuple(tg.tensor(np.full((2, H), 0.1, np.float32), requires_grad=True) for _ in range(count))
        y, finals = tg.nn.Recurrent(cell, fused=fused)(given, starts, lengths)
        finals = finals if count > 1 else (finals,)
        seen = []
        for final in finals:
            final.retain_grad()
            final.register_hook(lambda g, seen=seen: seen.append(g.numpy().copy()))
            final.register_hook(lambda g: g * 0.5)
        (y.square().sum() + sum(final.sum() for final in finals)).backward()
        found.append([given.grad, *(s.grad for s in starts), *(f.grad for f in finals), *map(tg.tensor, seen)])
    for tape, kernels in zip(*found):
        np.testing.assert_allclose(tape.numpy(), kernels.numpy(), atol=1e-5)
    assert all(np.array_equal(each, np.ones((2, H))) for each in seen)


@pytest.mark.parametrize("fused", ["never", "require"])
def test_a_state_that_is_handed_on_is_no_alias(fused):
    layer, starts = tg.nn.Recurrent(HandsOn(), fused=fused), (tg.zeros(2, H), tg.zeros(2, H))
    for x in (tg.randn(3, 2, H), tg.randn(1, 2, H)):
        y, (h, k) = layer(x, starts)
        assert k is not starts[1]
        k.numpy()[...] = 7
        h.numpy()[...] = 7
        assert not starts[1].numpy().any() and (y.numpy() < 7).all()
