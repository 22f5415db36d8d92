"""Sequences that end early, random numbers, values of a whole sequence, several inputs: what both engines say."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from fusion.comparing import SOME_CELLS, assert_close, assert_engines_agree, given_to, interpret, parameter, results
from tinygrad_rnn.fusion import rows, scan
from tinygrad_rnn.fusion.kernel import BEGIN, END, LOOP, PROLOGUE
from tinygrad_rnn.kernels import threads

T, B, I, H = 6, 5, 3, 4
LENGTHS = [[6, 6, 6, 6, 6], [1, 6, 0, 3, 3], [0, 0, 0, 0, 0], [2, 0, 4, 1, 4]]


class Noisy(tg.nn.Cell):
    """Every way of drawing numbers in a step, and two kinds of values that hold for a sequence."""

    hidden_size = H

    def __init__(self):
        self.W, self.U, self.V = parameter(I, H), parameter(H, H), parameter(H, H)

    def sequence_values(self, batch_size):
        kept = tg.dropout(tg.ones(batch_size, I, dtype=np.float64), 0.3)
        shift = tg.randn(batch_size, H, dtype=np.float64) @ self.V  # a gradient passes through this one
        return {"kept": kept, "shift": shift, "thinned": tg.dropout(self.U, 0.4)}

    def step(self, x, h, c):
        n = tg.tanh((x * self.kept) @ self.W + h @ self.thinned + self.shift * c)
        c = tg.where(tg.rand(c.shape) < 0.4, c, n + 0.1 * tg.randn(n.shape, dtype=np.float64))
        return tg.dropout(n, 0.2) + c, c


class TwoInputs(tg.nn.Cell):
    hidden_size = H

    def __init__(self):
        self.W, self.U = parameter(I, H), parameter(H, H)

    def step(self, x, h):
        x, gate = x
        gate = tg.sigmoid(gate)
        return (1 - gate) * h + gate * tg.tanh(x @ self.W + h @ self.U)


@pytest.fixture(autouse=True)
def seeded():
    tg.manual_seed(0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, *LENGTHS])
@pytest.mark.parametrize("make", [lambda: tg.nn.LSTMCell(I, H, dtype=np.float64), Noisy])
def test_lengths(make, lengths, reverse, monkeypatch):
    interpret(monkeypatch)
    options = {} if lengths is None else {"lengths": lengths}
    assert_engines_agree(make(), (T, B, I), reverse, **options)
    assert_engines_agree(make(), (T, B, I), reverse, return_states=True, **options)


def test_compiled_kernels_with_lengths_on_two_threads(monkeypatch):
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.WORK_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.ROWS_PER_THREAD", 1)
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 2)  # however many processors there are
    monkeypatch.setattr(threads, "_num_threads", 0)
    cell, found = tg.nn.GRUCell(I, H, dtype=np.float64), []
    for n in 1, 2:
        tg.set_num_threads(n)
        found.append(results(cell, (9, 7, I), "require", lengths=[3, 9, 0, 1, 9, 4, 2]))
    one, two = found
    for name in one:
        np.testing.assert_array_equal(two[name], one[name], err_msg=name)


SLOW = pytest.mark.slow  # to compile each cell takes a second, and four ways of ending need the same kernels
# Of five or six ranges, with rows that end at once, never begin, or run to the end.
ENDS = {"none": None, "one runs on": [9, 1, 1, 2, 1, 1, 1], "some are empty": [3, 9, 0, 1, 9, 4, 2], "nothing": [0] * 7}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(
    "make",
    [pytest.param(*c.values, id=c.id, marks=() if c.id in ("LSTMCell", "SLSTMCell") else SLOW) for c in SOME_CELLS],
)
def test_more_threads_have_the_bits_of_one(make, ends, monkeypatch):
    """Each thread has rows of its own, and some of them end before others begin."""

    def run():
        found = []
        for reverse in (False, True):
            layer = tg.nn.Recurrent(cell, reverse, fused="require")
            layer.zero_grad()
            x = tg.tensor(np.random.default_rng(0).standard_normal((9, 7, 6)).astype(np.float32), requires_grad=True)
            tg.manual_seed(1)
            _, final, every = layer(x, lengths=ENDS[ends], return_states=True, **values)
            finals = final if isinstance(final, tuple) else (final,)
            sum((v * v + v).sum() for v in (*every, *finals)).backward()
            with tg.no_grad():
                tg.manual_seed(1)
                found += [v.data for v in (*every, *finals, x.grad, layer(x, lengths=ENDS[ends], **values)[0])]
            found += [p.grad.data for p in layer.parameters() if p.grad is not None]
        return found

    monkeypatch.setattr("tinygrad_rnn.fusion.scan.WORK_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.ROWS_PER_THREAD", 1)
    tg.manual_seed(0)
    cell = make(6, 6)
    values = given_to(cell, 7)
    one = run()
    for ranges in (2, 6):  # however many threads there are to take them
        monkeypatch.setattr("tinygrad_rnn.fusion.scan.get_num_threads", lambda ranges=ranges: ranges)
        found = run()
        assert len(found) == len(one)
        for a, b in zip(found, one):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ends", ENDS)
def test_a_range_of_rows_that_have_ended_is_left_alone(ends, monkeypatch):
    """The interpreted product insists on rows."""

    def kernel(self, direction, arguments):
        function = interpreted(self, direction, arguments)

        def one_after_the_other(lo, hi, workspace, stages, first, last, threads, ranges, *rest):
            for stage in (BEGIN | PROLOGUE, LOOP, END):
                for bounds in itertools.pairwise(ranges if stage == LOOP and ranges else (lo, hi)):
                    function(*bounds, workspace, stages & stage, first, last, threads, 0, *rest)

        return one_after_the_other

    interpret(monkeypatch)
    interpreted = scan.Scan.kernel
    monkeypatch.setattr(scan.Scan, "kernel", kernel)
    monkeypatch.setattr(scan, "ranges_of", lambda bounds: SimpleNamespace(ctypes=SimpleNamespace(data=bounds)))
    monkeypatch.setattr(scan, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(scan, "ROWS_PER_THREAD", 1)
    monkeypatch.setattr(scan, "get_num_threads", lambda: 6)
    options = {} if ENDS[ends] is None else {"lengths": ENDS[ends]}
    assert_engines_agree(tg.nn.LSTMCell(I, H, dtype=np.float64), (9, 7, I), **options)


@pytest.mark.parametrize("chunks", [1, 2, 3, 9])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [5], [5, 0, 0, 1], [1, 1, 1, 1, 1], [9, 1, 1]])
def test_ranges_hold_all_sequences(lengths, chunks):
    bounds = rows.RaggedRows(9, np.array(lengths, np.intp), False).cut(chunks)
    assert bounds[0] == 0 and bounds[-1] == len(lengths) and len(bounds) == chunks + 1 and bounds == sorted(bounds)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "B, lengths", [(0, None), (0, np.zeros(0, int)), (1, [0]), (1, [3]), (3, [0, 0, 0]), (3, [1, 0, 0])]
)
def test_batches_with_little_in_them(B, lengths, reverse, monkeypatch):
    """Compiled kernels, for as many threads as rows."""
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.WORK_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.ROWS_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.get_num_threads", lambda: 4)
    cell = tg.nn.GRUCell(I, H, dtype=np.float64)
    assert_engines_agree(cell, (4, B, I), reverse, **({} if lengths is None else {"lengths": lengths}))


def test_one_kernel_with_and_without_lengths(monkeypatch):
    made = []
    kernel = scan.Scan.kernel
    monkeypatch.setattr(scan.Scan, "kernel", lambda *args: made.append(kernel(*args)) or made[-1])
    width = 29  # of no other test: a process has one kernel for all cells that are alike, however they lie in memory
    layer = tg.nn.Recurrent(tg.nn.GRUCell(width, H), fused="require")
    for lengths in (None, [4, 2]):
        layer(tg.randn(4, 2, width), lengths=lengths)[0].sum().backward()
    signatures = [getattr(each, "signatures", [None]) for each in made]
    assert made and all(len(each) == 1 for each in signatures)


@pytest.mark.parametrize("reverse", [False, True])
def test_each_sequence_is_as_if_it_were_alone(reverse):
    cell = tg.nn.LSTMCell(I, H, dtype=np.float64)
    layer = tg.nn.Recurrent(cell, reverse=reverse, fused="require")
    x, lengths = tg.randn(T, B, I, dtype=np.float64), np.array([1, 6, 0, 3, 4])
    padding = np.arange(T)[:, None] >= lengths
    x.numpy()[padding] = np.nan  # never looked at
    y, (h, c) = layer(x, lengths=lengths)
    for b, n in enumerate(lengths):
        assert not y[n:, b].numpy().any()
        if n:
            alone, (h_1, c_1) = layer(x[:n, b : b + 1])
            assert_close(
                {"y": y[:n, b].numpy(), "h": h[b].numpy(), "c": c[b].numpy()},
                {"y": alone[:, 0].numpy(), "h": h_1[0].numpy(), "c": c_1[0].numpy()},
            )
        else:
            assert not h[b].numpy().any()


@pytest.mark.parametrize("engine", ["require", "never"])
def test_padding_of_nan_spoils_no_gradient(engine):
    layer = tg.nn.Recurrent(tg.nn.GRUCell(I, H), fused=engine)
    x = np.full((T, 2, I), np.nan, np.float32)
    x[:2, 0] = x[:5, 1] = 0.5
    y, _ = layer(x, lengths=[2, 5])
    y.sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in layer.parameters())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", [tg.nn.LSTMCell, tg.nn.GRUCell, tg.nn.cells.QRNNCell, tg.nn.Zoneout])
def test_inference_in_tiles_is_the_same_to_the_last_bit(kind, reverse, monkeypatch):
    """Without gradients a long sequence is taken tile by tile: here a step at a time."""
    tg.manual_seed(0)
    cell = tg.nn.Zoneout(tg.nn.LSTMCell(3, 5)) if kind is tg.nn.Zoneout else kind(3, 5)  # which draws at every step
    layer, x, found = tg.nn.Recurrent(cell, reverse=reverse, fused="require"), tg.randn(7, 4, 3), []
    for count in (1 << 10, 0):
        monkeypatch.setattr(rows, "TILE_BYTES", 0)
        monkeypatch.setattr(rows, "TILE_ROWS", count)
        layer._last = None
        for fused in [layer._last_fused()]:
            fused.scan.layouts["inference"].clear()
        tg.manual_seed(1)
        with tg.no_grad():
            y, final = layer(x)
        found.append([z.numpy() for z in (y, *(final if isinstance(final, tuple) else (final,)))])
    assert all(map(np.array_equal, *found))


@pytest.mark.parametrize("reverse", [False, True])
def test_several_inputs(reverse):
    cell = TwoInputs()
    random = np.random.default_rng(0)
    arrays = random.standard_normal((T, B, I)), random.standard_normal((T, B, H))

    def run(engine, **options):
        inputs = tuple(tg.tensor(a, requires_grad=True) for a in arrays)
        y, h = tg.nn.Recurrent(cell, reverse, fused=engine)(inputs, **options)
        gradients = tg.grad((y * y).sum() + h.sum(), [*inputs, cell.W, cell.U])
        return {"y": y.numpy(), "h": h.numpy(), **{str(i): g.numpy() for i, g in enumerate(gradients)}}

    for options in ({}, {"lengths": [6, 2, 0, 5, 1]}):
        assert_close(run("require", **options), run("never", **options))


def test_second_derivatives_with_lengths():
    cell = tg.nn.GRUCell(2, 3, dtype=np.float64)
    lengths = [3, 0, 2]

    def gradient_norm(engine):
        x = tg.tensor(np.random.default_rng(0).standard_normal((3, 3, 2)), requires_grad=True)
        y, _ = tg.nn.Recurrent(cell, fused=engine)(x, lengths=lengths)
        (first,) = tg.grad((y * y).sum(), [x], create_graph=True)
        gradients = tg.grad((first * first).sum(), [x, cell.weight_hh])
        return {str(i): g.numpy() for i, g in enumerate(gradients)}

    assert_close(gradient_norm("require"), gradient_norm("never"))


def test_masks_differ_from_step_to_step_and_values_of_a_sequence_do_not():
    class Masks(tg.nn.Cell):
        hidden_size = 50

        def sequence_values(self, batch_size):
            return {"once": tg.dropout(tg.ones(batch_size, 50), 0.5)}

        def step(self, x, h, c):
            return tg.dropout(x, 0.5) + 0 * h, x * self.once + 0 * c

    _, _, (drawn, once) = tg.nn.Recurrent(Masks(), fused="require")(tg.ones(4, 3, 50), return_states=True)
    assert (once.numpy() == once.numpy()[0]).all() and 0.2 < (once.numpy() > 0).mean() < 0.8
    drawn = drawn.numpy()
    assert all((drawn[s] != drawn[t]).any() for s in range(4) for t in range(s))


def test_a_switch_between_training_and_evaluation_compiles_nothing_anew():
    cell = tg.nn.LSTMCell(I, H)
    cell.recurrent_dropout = 0.5
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.ones(T, B, I)
    sources = []
    for training in (True, False, True, False):
        layer.train(training)
        layer(x)
        sources.append(layer._last_fused())
    assert sources[0] is sources[2] and sources[1] is sources[3] and sources[0] is not sources[1]
    layer.train()
    tg.manual_seed(1)
    y, _ = layer(x)
    tg.manual_seed(1)
    np.testing.assert_array_equal(layer(x)[0].numpy(), y.numpy())


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([1, 2, 7, 1, 1], ValueError, r"lengths\[2\] is 7, but x has 6 steps"),
        ([1, 2, -1, 1, 1], ValueError, r"lengths\[2\] is -1"),
        ([1.0, 2.0, 1.0, 1.0, 1.0], TypeError, "must be integers, not float"),
        ([1, 2], ValueError, r"shape \[2\], expected one for each sequence: \[5\]"),
        (3, ValueError, r"shape \[\]"),
    ],
)
def test_lengths_that_make_no_sense(lengths, error, words):
    with pytest.raises(error, match=words):
        tg.nn.Recurrent(tg.nn.RNNCell(I, H))(tg.ones(T, B, I), lengths=lengths)


def test_a_step_that_computes_with_the_batch_size_runs_on_the_tape():
    class Averages(tg.nn.Cell):
        hidden_size = H

        def step(self, x, h):
            return h + x / x.shape[0]

    x = tg.ones(2, 5, H)
    with pytest.warns(UserWarning, match="computes with the size of the batch"):
        y, _ = tg.nn.Recurrent(Averages())(x)
    np.testing.assert_allclose(y.numpy()[-1], 0.4)


def test_a_change_of_the_class_is_noticed():
    class Leaky(tg.nn.Cell):
        hidden_size, leak = H, 0.5

        def step(self, x, h):
            return self.leak * h + x

    layer, x = tg.nn.Recurrent(Leaky(), fused="require"), tg.ones(2, 1, H)
    assert layer(x)[0].numpy()[-1, 0, 0] == 1.5
    Leaky.leak = 0.25
    assert layer(x)[0].numpy()[-1, 0, 0] == 1.25
    Leaky.step = lambda self, x, h: h - x
    assert layer(x)[0].numpy()[-1, 0, 0] == -2


def test_a_value_of_the_sequence_must_not_hide_an_attribute():
    class Hides(tg.nn.RNNCell):
        def sequence_values(self, batch_size):
            return {"weight_hh": tg.zeros(H, H)}

    with pytest.raises(ValueError, match="weight_hh is an attribute already"):
        tg.nn.Recurrent(Hides(I, H), fused="never")(tg.ones(T, B, I))
