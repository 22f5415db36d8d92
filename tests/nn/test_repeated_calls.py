"""A layer that is called again asks little: but whatever has changed meanwhile must be seen."""

import contextlib
import copy
import gc
import pickle
import threading

import numpy as np
import pytest
from fusion.comparing import SOME_CELLS, given_to

import tinygrad_rnn as tg
from tinygrad_rnn.fusion import scan as scans
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.nn import recurrent

KINDS = [tg.nn.RNN, tg.nn.GRU, tg.nn.LSTM]
SLOW = pytest.mark.slow


class Leaky(tg.nn.Cell):
    """Branches on an attribute of its own, of its class and in a list, and on one that may not be there."""

    scale = 1.0

    def __init__(self):
        self.input_size, self.hidden_size = 3, 4
        self.W, self.U = tg.nn.Parameter(tg.randn(3, 4)), tg.nn.Parameter(tg.randn(4, 4) * 0.3)
        self.rate, self.options, self.extra = 0.5, [1.0], 2.0

    def step(self, x, h):
        n = tg.tanh(x @ self.W + h @ self.U) * self.scale * self.options[0]
        return (1 - self.rate) * h + self.rate * n * getattr(self, "extra", 3.0)


@pytest.fixture
def repeated(monkeypatch):
    """Counts the calls that were taken to be like the last one."""
    found = []
    plain = recurrent._LastCall.repeated

    def counted(self, *arguments):
        results = plain(self, *arguments)
        found.append(results is not None)
        return results

    monkeypatch.setattr(recurrent._LastCall, "repeated", counted)
    return found


def on_tape(layer, *inputs):
    """The outputs of a layer on the tape."""
    before, layer.fused = layer.fused, "never"
    y = layer(*inputs)[0].numpy()
    layer.fused = before
    return y


def check(layer, *inputs, no_grad=True):
    """The fused outputs are those of the tape; returned from a call that the next one may be like."""
    call = tg.no_grad()(layer) if no_grad else layer
    y = call(*inputs)[0].numpy()
    np.testing.assert_allclose(y, on_tape(layer, *inputs), rtol=0, atol=1e-6)
    assert np.array_equal(call(*inputs)[0].numpy(), y)  # on_tape has set an attribute
    for scan in getattr(layer, "scans", [layer]):
        assert scan.cell.sequence_values(1) or scan._last.holds(scan)
    return y


@pytest.mark.parametrize("no_grad", [pytest.param(True, marks=SLOW), False])
def test_what_a_step_branches_on_may_change_between_calls(no_grad, monkeypatch):
    tg.manual_seed(0)
    layer, x = tg.nn.Recurrent(Leaky(), fused="require"), tg.randn(5, 2, 3)
    seen = [check(layer, x, no_grad=no_grad)]
    cell = layer.cell
    changes = [
        lambda: setattr(cell, "rate", 0.25),
        lambda: monkeypatch.setattr(Leaky, "scale", 2.0),
        lambda: cell.options.__setitem__(0, 3.0),
        lambda: delattr(cell, "extra"),
        lambda: setattr(cell, "W", tg.nn.Parameter(tg.randn(3, 4))),
        lambda: cell.U.numpy().fill(0.125),
        lambda: setattr(cell.U, "data", np.eye(4, dtype=np.float32)),
        lambda: setattr(layer, "reverse", True),
        lambda: setattr(layer, "cell", Leaky()),
    ]
    for change in changes:
        change()
        seen.append(check(layer, x, no_grad=no_grad))
        assert not np.allclose(seen[-1], seen[-2])
        assert np.array_equal(check(layer, x, no_grad=no_grad), seen[-1])


def test_calls_of_one_size_repeat_each_other(repeated):
    layer, x = tg.nn.GRU(3, 4), tg.randn(5, 2, 3)
    _, h = layer(x)
    layer(x)
    layer(x, h)
    with tg.no_grad():
        layer(x)
    assert repeated == [True] * 3
    for other in (tg.randn(6, 2, 3), tg.randn(6, 1, 3)):
        layer(other)
    layer(other, return_states=True)
    layer(other, lengths=[3])
    layer(other, tg.zeros(1, 1, 4))
    assert repeated[3:] == [False, False, False, True]


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.LSTM])
def test_sequences_are_read_backwards_again(kind):
    """Inference for the second time and later, which is not compared with the tape."""
    layer, x = kind(3, 4, bidirectional=True), tg.randn(5, 2, 3)
    with tg.no_grad():
        seen = [layer(x)[0].numpy() for _ in range(3)]
    for y in seen:
        np.testing.assert_allclose(y, on_tape(layer, x), rtol=0, atol=1e-6)


def test_parameters_of_another_dtype_are_seen():
    layer, x = tg.nn.Recurrent(Leaky()), tg.randn(5, 2, 3)
    check(layer, x)
    layer.double()
    with pytest.warns(UserWarning, match=r"h is float64: write x.to\(np.float64\).*test_repeated_calls\.py:\d+"):
        assert layer(x)[0].dtype == np.float64
    check(layer, x.double())
    for p in layer.parameters():
        p.data = p.data.astype(np.float32)
    assert check(layer, x).dtype == np.float32
    layer.cell.U.data = layer.cell.U.data.astype(np.float64)
    layer.fused = "never"
    expected = layer(x)[0].numpy()
    layer.fused = "auto"
    with pytest.warns(UserWarning, match="runs on the tape"):
        np.testing.assert_allclose(layer(x)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [tg.nn.RNN, tg.nn.GRU, pytest.param(tg.nn.LSTM, marks=SLOW)])
def test_a_parameter_and_a_mode_may_be_replaced(kind):
    layer, x = kind(3, 4), tg.randn(5, 2, 3)
    before = check(layer, x)
    layer.weight_hh_l0 = tg.nn.Parameter(tg.randn(*layer.weight_hh_l0.shape))
    after = check(layer, x)
    assert not np.allclose(before, after)
    if kind is not tg.nn.RNN:
        layer.recurrent_dropout = 0.5
        tg.manual_seed(0)
        dropped = layer(x)[0].numpy()
        assert not np.allclose(dropped, after)
        layer.eval()
        assert np.array_equal(tg.no_grad()(layer)(x)[0].numpy(), after)
        layer.train()
        tg.manual_seed(0)
        assert np.array_equal(layer(x)[0].numpy(), dropped)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_layers_of_their_own(kind, copied):
    layer, x = kind(3, 4), tg.randn(5, 2, 3)
    before = check(layer, x)
    twin = copied(layer)
    assert np.array_equal(check(twin, x), before)
    twin.weight_hh_l0 = tg.nn.Parameter(tg.zeros(*twin.weight_hh_l0.shape))
    assert not np.allclose(check(twin, x), before)
    assert np.array_equal(check(layer, x), before)


def test_a_layer_stored_before_its_cells_were_told_tells_them(tmp_path):
    """What was seen in one process says nothing in another."""
    layer, x = tg.nn.LSTM(3, 4), tg.randn(5, 2, 3)
    layer(x)
    layer.weight_hh_l0 = tg.nn.Parameter(tg.zeros(16, 4))
    twin = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(twin(x)[0].numpy(), layer(x)[0].numpy())
    assert twin.cells[0].weight_hh is twin.weight_hh_l0


@pytest.mark.parametrize("kind", KINDS)
def test_results_belong_to_the_user(kind):
    layer, x = kind(3, 4), tg.randn(1, 2, 3)
    with tg.no_grad():
        y, final = layer(x)
        kept = y.numpy().copy()
        for result in (y, *(final if isinstance(final, tuple) else (final,))):
            result.numpy()[...] = 7
        assert np.array_equal(layer(x)[0].numpy(), kept)


@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_final_states_lie_in_no_memory_that_a_later_call_has(kind, lengths):
    """Calls lend each other what they compute in; nothing that anybody holds may be there."""
    tg.manual_seed(0)
    layer = kind(3, 4)
    layer.fused = "require"

    def call(x, wants_gradient):
        x = tg.tensor(x, requires_grad=wants_gradient)
        y, final = layer(x, lengths=lengths)
        finals = final if isinstance(final, tuple) else (final,)
        if not wants_gradient:
            return [y, *finals]
        return [y, *finals, *tg.grad(sum((z * z).sum() for z in (y, *finals)), [x, *layer.parameters()])]

    random = np.random.default_rng(0)
    inputs = [random.normal(size=(5, 3, 3)).astype(np.float32) for _ in range(3)]
    for wants_gradient in (True, False):
        with contextlib.nullcontext() if wants_gradient else tg.no_grad():
            found = [call(x, wants_gradient) for x in inputs]
            held = [[z.numpy().copy() for z in each] for each in found]
            for x in inputs[::-1]:
                call(x, wants_gradient)
            for each, copies in zip(found, held):
                for z, before in zip(each, copies):
                    np.testing.assert_array_equal(z.numpy(), before)
            again = call(inputs[0], wants_gradient)
            for z, before in zip(again, held[0]):
                np.testing.assert_array_equal(z.numpy(), before)


def test_initial_states_of_a_cells_own_are_asked_for_every_time():
    class Learned(Leaky):
        def initial_state(self, batch_size):
            return self.h0.expand(batch_size, 4)

    cell = Learned()
    cell.h0 = tg.nn.Parameter(tg.zeros(4))
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.randn(3, 2, 3)
    first = check(layer, x)
    cell.h0.numpy()[...] = 1
    assert not np.allclose(check(layer, x), first)
    layer(x)[0].sum().backward()
    assert cell.h0.grad is not None
    layer.cell = cell = Leaky()
    h0 = np.zeros((2, 4), np.float32)
    cell.initial_state = lambda batch_size: tg.tensor(h0)
    first = check(layer, x)
    h0[...] = 1
    assert not np.allclose(check(layer, x), first)


def test_wrong_states_are_refused_after_right_ones():
    layer, x = tg.nn.Recurrent(tg.nn.GRUCell(3, 4)), tg.randn(5, 2, 3)
    _, h = layer(x)
    layer(x, h)
    with pytest.raises(ValueError, match=r"initial state h has shape \[2, 5\], expected \[2, 4\]"):
        layer(x, tg.zeros(2, 5))
    with pytest.raises(ValueError, match="expected inputs of 3 features"):
        layer(tg.zeros(5, 2, 4))


def test_threads_share_a_layer():
    layer, xs = tg.nn.LSTM(3, 4), [tg.randn(T, 2, 3) for T in (1, 2, 3, 4)]
    expected, found = [tg.no_grad()(layer)(x)[0].numpy() for x in xs], {}

    def run(i):
        with tg.no_grad():
            found[i] = [layer(xs[i])[0].numpy() for _ in range(200)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(y, expected[i]) for i in range(4) for y in found[i])


@pytest.mark.slow
def test_layers_inside_a_cell_may_be_called_without_making_it_another(monkeypatch):
    class Informed(Leaky):
        """Reads a summary of a sequence of its own at every step."""

        def __init__(self):
            super().__init__()
            self.reader, self.inner = tg.nn.LSTM(2, 4), tg.nn.Recurrent(tg.nn.GRUCell(2, 4))
            self.text = tg.randn(6, 1, 2)

        def sequence_values(self, batch_size):
            return {"summary": (self.reader(self.text)[0][-1] + self.inner(self.text)[1])[0]}

        def step(self, x, h):
            return super().step(x, h) + self.summary

    made, plain = [], FusedCell.__init__

    def counted(self, cell, sequence):
        made.append(cell)
        plain(self, cell, sequence)

    monkeypatch.setattr(FusedCell, "__init__", counted)
    layer, x = tg.nn.Recurrent(Informed(), fused="require"), tg.randn(5, 2, 3)
    for _ in range(3):
        check(layer, x)
        tg.nn.Linear(1, 1).train()  # somewhere else an attribute is set
    assert made.count(layer.cell) == 1


def test_recording_and_the_tape_are_not_passed_by():
    layer, x = tg.nn.Recurrent(tg.nn.LSTMCell(3, 4)), tg.randn(5, 2, 3)
    layer(x)
    with tg.record(layer) as r:
        layer(x)
    assert r["f"].shape == (5, 2, 4)
    layer(x)
    with pytest.raises(FloatingPointError), tg.detect_anomaly():
        layer.cell.weight_hh.numpy()[...] = np.inf
        layer(x)


# ---- Short calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_compiling_leaves_the_garbage_collector_as_it_was(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with contextlib.suppress(KeyError), scans.no_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


class OneInput(tg.nn.Cell):
    """Its weights are its bias as well."""

    def __init__(self, dtype):
        self.input_size, self.hidden_size = 1, 5
        make = lambda *shape: tg.nn.Parameter(tg.randn(*shape, dtype=dtype) * 0.5)
        self.W, self.U = make(1, 5), make(5, 5)

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U + self.W)


class Joined(tg.nn.Cell):
    """Two products of h, and two of x, that become one each; a bias of two dimensions; a state that is no output."""

    def __init__(self, dtype):
        self.input_size, self.hidden_size = 3, 5
        make = lambda *shape: tg.nn.Parameter(tg.randn(*shape, dtype=dtype) * 0.5)
        self.Wz, self.Wn, self.Uz, self.Un, self.b = make(3, 5), make(3, 5), make(5, 5), make(5, 5), make(1, 5)

    def step(self, x, h, s):
        z = tg.sigmoid(x @ self.Wz + h @ self.Uz + self.b)
        n = tg.tanh(x @ self.Wn + h @ self.Un)
        return z * h + (1 - z) * n, 0.5 * s + n


def both_ways(layer, x, monkeypatch, **values):
    """What a layer computes in one go, and stage by stage on three threads: all results, all gradients."""
    every = []
    if values:  # whose shapes are known from a call
        layer(tg.from_numpy(x), **values)
    for threads in (1, 3):
        monkeypatch.setattr(scans, "get_num_threads", lambda threads=threads: threads)
        if threads > 1:
            monkeypatch.setattr(scans, "WORK_PER_THREAD", 1)
            monkeypatch.setattr(scans, "ROWS_PER_THREAD", 1)
        layer._last = None
        for known in layer._last_fused().scan.layouts.values():
            known.clear()
        with tg.no_grad():
            y, final = layer(tg.from_numpy(x), **values)
        found = [y, *(final if isinstance(final, tuple) else (final,))]
        leaves = [tg.tensor(x, requires_grad=True), *layer.parameters()]
        y, final = layer(leaves[0], **values)
        outputs = [y, *(final if isinstance(final, tuple) else (final,))]
        some = np.random.default_rng(3)
        dys = [tg.tensor(some.uniform(-1, 1, z.shape).astype(z.dtype)) for z in outputs if z.requires_grad]
        outputs = [z for z in outputs if z.requires_grad]
        for retain in (True, False):
            found += tg.grad(outputs, leaves, dys, retain_graph=retain, allow_unused=True)
        y, _ = layer(leaves[0], **values)
        found += tg.grad(y.sum(), leaves, allow_unused=True)  # nothing arrives at final states
        every.append([z if z is None else z.numpy() for z in found])
    monkeypatch.undo()
    return every


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=SLOW)])
@pytest.mark.parametrize(
    "kind",
    [tg.nn.RNNCell, tg.nn.GRUCell, tg.nn.LSTMCell, pytest.param(tg.nn.cells.MGUCell, marks=SLOW), Joined, OneInput],
)
def test_calls_in_stages_have_the_bits_of_those_in_one_go(kind, dtype, monkeypatch):
    tg.manual_seed(0)
    cell = kind(dtype) if kind in (Joined, OneInput) else kind(3, 5, dtype=dtype)
    for reverse in (False, True):
        layer = tg.nn.Recurrent(cell, reverse, fused="require")
        for T, B in ((1, 1), (4, 3), (7, 1), (1, 9), (140, 1)):
            x = tg.randn(T, B, 2 * cell.input_size, dtype=dtype).numpy()[:, :, ::2]
            for one, other in zip(*both_ways(layer, x, monkeypatch)):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "make", [pytest.param(*c.values, id=c.id, marks=() if c.id == "SLSTMCell" else SLOW) for c in SOME_CELLS]
)
def test_calls_of_every_cell_in_stages_have_the_bits_of_those_in_one_go(make, monkeypatch):
    tg.manual_seed(0)
    layer = tg.nn.Recurrent(make(6, 6), fused="require")
    for one, other in zip(*both_ways(layer, tg.randn(3, 2, 6).numpy(), monkeypatch, **given_to(layer.cell, 2))):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
