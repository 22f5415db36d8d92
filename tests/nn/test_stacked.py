"""RNN, LSTM and GRU: stacks of Recurrent with PyTorch's names and shapes."""

import copy
import itertools

import numpy as np
import pytest
from fusion.comparing import assert_close, interpret

import tinygrad_rnn as tg
from tinygrad_rnn.nn import GRU, LSTM, RNN, GRUCell, LSTMCell, Parameter, Recurrent, RNNCell, Stack, Zoneout

T, B, I, H = 4, 3, 5, 6
KINDS = [(RNN, {}), (RNN, {"nonlinearity": "relu"}), (LSTM, {}), (LSTM, {"proj_size": 2}), (GRU, {})]
each_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda x: getattr(x, "__name__", str(x)))


def some_kinds(*quick):
    """The others compile kernels of their own, for a second each, and go the same way."""
    each = enumerate(KINDS)
    chosen = [pytest.param(*kind, marks=() if number in quick else pytest.mark.slow) for number, kind in each]
    return pytest.mark.parametrize(("kind", "options"), chosen, ids=lambda x: getattr(x, "__name__", str(x)))




def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def assert_equal(a, b):
    for x, y in zip(as_tuple(a), as_tuple(b), strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)


@some_kinds(3, 4)
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from given states"])
def test_a_stack_is_what_it_says(kind, options, given):
    """Two layers, two directions: the same as four Recurrents wired by hand."""
    net = kind(I, H, num_layers=2, bidirectional=True, dtype=np.float64, **options)
    x = tg.randn(T, B, I, dtype=np.float64)
    start = tuple(tg.randn(*s.shape, dtype=np.float64) for s in as_tuple(net(x)[1])) if given else None
    y, final = net(x, start)
    finals, z = [], x
    for layer in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            cell = net._make_cell(z.shape[-1], np.float64)
            cell.load_state_dict({name: net.state_dict()[f"{name}_l{layer}{suffix}"] for name in cell.state_dict()})
            state = start and tuple(s[len(finals)] for s in start)
            output, state = Recurrent(cell, reverse=bool(suffix))(z, state)
            outputs.append(output)
            finals.append(as_tuple(state))
        z = tg.cat(outputs, dim=-1)
    assert_equal(y, z)
    assert_equal(final, tuple(tg.stack(each) for each in zip(*finals)))


def test_names_and_shapes():
    state = LSTM(I, H, num_layers=2, bidirectional=True, proj_size=2).state_dict()
    per_cell = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    suffixes = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
    assert list(state) == [name + suffix for suffix in suffixes for name in per_cell]
    assert state["weight_ih_l0"].shape == (24, 5) and state["weight_ih_l1_reverse"].shape == (24, 4)
    assert state["weight_hh_l1"].shape == (24, 2) and state["weight_hr_l0"].shape == (2, 6)
    assert list(GRU(I, H, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    assert GRU(I, H).weight_hh_l0.shape == (18, 6) and RNN(I, H).bias_ih_l0.shape == (6,)
    assert list(LSTM(I, H).children()) == []


@some_kinds(3, 4)
@pytest.mark.parametrize("directions", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_layouts(kind, options, directions):
    """batch_first transposes input and output, but not the states; without a batch, the batch dimension is left out."""
    net = kind(I, H, 2, bidirectional=directions == 2, **options).double()
    x = tg.randn(T, B, I, dtype=np.float64)
    y, final = net(x)
    output = options.get("proj_size", H)
    assert y.shape == (T, B, directions * output)
    assert as_tuple(final)[0].shape == (2 * directions, B, output)
    assert as_tuple(final)[-1].shape == (2 * directions, B, H if kind is LSTM else output)
    given = net(x, final)
    net.batch_first = True
    assert_equal(net(x.transpose(0, 1))[0].transpose(0, 1), y)
    assert_equal(net(x.transpose(0, 1))[1], final)
    assert_equal(net(x.transpose(0, 1), final)[0].transpose(0, 1), given[0])
    for net.batch_first in (False, True):
        y_1, final_1 = net(x[:, 1])
        assert_equal(y_1, y[:, 1])
        assert_equal(final_1, tuple(s[:, 1] for s in as_tuple(final)))
        state = tuple(s[:, 1] for s in as_tuple(final))
        assert_equal(net(x[:, 1], state if len(state) > 1 else state[0])[0], given[0][:, 1])


@some_kinds(3)
def test_gradients(kind, options):
    net = kind(2, 3, 2, bidirectional=True, dtype=np.float64, **options)
    x = tg.randn(2, 1, 2, dtype=np.float64, requires_grad=True)
    start = tuple(tg.randn(*s.shape, dtype=np.float64, requires_grad=True) for s in as_tuple(net(x)[1]))

    def run(x, *rest):
        y, final = net(x, rest[: len(start)])
        return (y, *as_tuple(final))

    assert tg.gradcheck(run, (x, *start, *net.parameters()))


def test_dropout_acts_between_layers():
    tg.manual_seed(0)
    net = RNN(I, 200, num_layers=2, dropout=0.5)
    x = tg.rand(T, B, I)
    y = net.eval()(x)[0].numpy()
    np.testing.assert_array_equal(net(x)[0].numpy(), y)
    net.train()
    assert (net(x)[0].numpy() != net(x)[0].numpy()).any()
    first = net(x)[1][0]
    np.testing.assert_array_equal(first.numpy(), net.eval()(x)[1][0].numpy(), "the first layer's input is left alone")
    net.train().dropout = 1.0
    silent = net(x)[0]
    np.testing.assert_array_equal(silent.numpy(), net(2 * x)[0].numpy(), "nothing of the first layer passes")
    with pytest.warns(UserWarning, match="dropout=0.5 acts between layers, so with num_layers=1 it does nothing") as w:
        LSTM(I, H, dropout=0.5)
    assert w[0].filename == __file__


def test_parameters_can_be_replaced_and_shared():
    net = GRU(I, H).double()
    x = tg.randn(T, B, I, dtype=np.float64)
    before = net(x)[0].numpy()
    net.weight_hh_l0 = Parameter(net.weight_hh_l0.numpy() * 2)
    after = net(x)[0]
    assert (after.numpy() != before).any()
    after.sum().backward()
    assert net.weight_hh_l0.grad is not None
    deep = GRU(H, H, num_layers=2)
    deep.weight_hh_l1 = deep.weight_hh_l0
    deep(tg.rand(T, B, H))[0].sum().backward()
    assert len(list(deep.parameters())) == 7
    twin = copy.deepcopy(net)
    twin.weight_hh_l0.numpy()[...] = 0
    assert_equal(net(x)[0], after)
    assert (twin(x)[0].numpy() != after.numpy()).any()


def test_loading_reaches_the_cells():
    one, other = LSTM(I, H, 2), LSTM(I, H, 2)
    x = tg.rand(T, B, I)
    assert (one(x)[0].numpy() != other(x)[0].numpy()).any()
    other.load_state_dict(one.state_dict())
    assert_equal(other(x)[0], one(x)[0])
    other.reset_parameters()
    assert (one(x)[0].numpy() != other(x)[0].numpy()).any()


def test_a_subclass_may_have_children():
    class Tagger(LSTM):
        def __init__(self):
            super().__init__(I, H)
            self.head = tg.nn.Linear(H, 2)

        def forward(self, x):
            return self.head(super().forward(x)[0])

    assert list(Tagger().state_dict())[-2:] == ["head.weight", "head.bias"]
    assert Tagger()(tg.rand(T, B, I)).shape == (T, B, 2)


def test_fused():
    net = LSTM(I, H, 2, bidirectional=True)
    assert net.fused == "auto"
    net.fused = "never"
    assert {scan.fused for layer in net._scans for scan in layer} == {"never"}
    with pytest.raises(ValueError, match="not 'yes'"):
        net.fused = "yes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be positive, not 0"),
        ({"num_layers": 0}, "num_layers must be positive, not 0"),
        ({"input_size": 0}, "input_size must be positive, not 0"),
        ({"dropout": 1.5}, r"dropout: the probability must be in \[0, 1\), not 1.5"),
        ({"dropout": -1}, r"dropout: the probability must be in \[0, 1\)"),
        ({"dropout": 1.0, "num_layers": 2}, r"dropout: .* not 1.0: 1 would let nothing pass from layer to layer"),
        ({"proj_size": 6}, "proj_size must be at least 0 and below hidden_size=6, not 6"),
        ({"proj_size": -1}, "proj_size must be at least 0"),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError, match=f"LSTM: {message}"):
        LSTM(**{"input_size": I, "hidden_size": H, **options})


def test_nonlinearity():
    with pytest.raises(ValueError, match="nonlinearity must be 'tanh' or 'relu'"):
        RNN(I, H, nonlinearity="gelu")
    assert RNN(I, H, 1, "relu").nonlinearity == "relu", "PyTorch's fourth argument"


def test_input_errors():
    net = LSTM(I, H, 2)
    x, s = tg.zeros(T, B, I), tg.zeros(2, B, H)
    net(x, (s, s))
    for shape in ((T,), (T, B, I, 1)):
        with pytest.raises(ValueError, match=f"LSTM: expected an input of 3 dimensions, .*got {len(shape)}"):
            net(tg.zeros(*shape))
    with pytest.raises(ValueError, match="LSTM: expected 5 features in the last dimension, got 7"):
        net(tg.zeros(T, B, 7))
    with pytest.raises(ValueError, match=r"LSTM: the sequence has no steps \(shape \[0, 3, 5\]\)"):
        net(tg.zeros(0, B, I))
    with pytest.raises(ValueError, match="no steps"):
        LSTM(I, H, batch_first=True)(tg.zeros(B, 0, I))
    with pytest.raises(TypeError, match="one of several initial states is None: give all of them, or none"):
        LSTM(I, H)(tg.ones(T, B, I), (tg.zeros(1, B, H), None))
    with pytest.raises(ValueError, match="LSTM: expected initial states h, c, got 1 of them"):
        net(x, s)
    for wrong, expected in itertools.product([s[:1], s[:, :2], s[..., :1], s[0]], [r"\[2, 3, 6\]"]):
        with pytest.raises(ValueError, match=rf"LSTM: initial state c has shape .* expected {expected}: .*batch, size"):
            net(x, (s, wrong))
    with pytest.raises(ValueError, match=r"initial state h has shape \[2, 3, 6\], expected \[2, 6\]: \[num_layers"):
        net(x[:, 0], (s, s))
    assert net(tg.zeros(T, 0, I))[0].shape == (T, 0, H)


def test_repr():
    assert repr(GRU(2, 3)) == (
        "GRU(2, 3)  # weight_ih_l0 [9, 2], weight_hh_l0 [9, 3], bias_ih_l0 [9], bias_hh_l0 [9]: 63 parameters"
    )
    assert repr(RNN(2, 3, 2, "relu", bias=False, batch_first=True, dropout=0.1, bidirectional=True)).startswith(
        "RNN(2, 3, num_layers=2, bias=False, batch_first=True, dropout=0.1, bidirectional=True, nonlinearity='relu')"
    )


# ---- Stacks of any cells, and what is not in PyTorch -----------------------------------------------------------------

LENGTHS = [2, 4, 1]


def leaky(width):
    """A cell of one's own."""

    class Leaky(tg.nn.Cell):
        input_size, hidden_size = width, H

        def __init__(self):
            self.W = Parameter(tg.randn(width, H, dtype=np.float64))

        def step(self, x, h):
            return 0.9 * h + 0.1 * tg.tanh(x @ self.W)

    return Leaky()


def arrays(values):
    """Nested tensors as a flat list of arrays."""
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in arrays(value)]
    return [values.numpy()]


@pytest.mark.parametrize("make", [leaky, lambda width: Zoneout(LSTMCell(width, H, dtype=np.float64), 0.4)])
@pytest.mark.parametrize("engine", ["require", "never"])
def test_a_stack_of_any_cells(make, engine, monkeypatch):
    """Lengths, both directions, dropout of one mask, all states: the same as Recurrents wired by hand."""
    interpret(monkeypatch)
    net = Stack(make, I, 2, bidirectional=True, dropout=0.5, variational=True, batch_first=True, fused=engine)
    x = tg.randn(B, T, I, dtype=np.float64)
    tg.manual_seed(1)
    y, final, every = net(x, lengths=LENGTHS, return_states=True)
    tg.manual_seed(1)
    z, finals, everything = x.transpose(0, 1), [], []
    for layer in range(2):
        if layer:
            z = z * tg.dropout(tg.ones(1, B, 2 * H, dtype=np.float64), 0.5)
        outputs = []
        for reverse, cell in enumerate(net.cells[2 * layer : 2 * layer + 2]):
            output, state, states = Recurrent(cell, bool(reverse), engine)(z, lengths=LENGTHS, return_states=True)
            outputs.append(output)
            finals.append(as_tuple(state))
            everything.append(states)
        z = tg.cat(outputs, dim=-1)
    assert_equal(y, z.transpose(0, 1))
    assert_equal(final, tuple(tg.stack(each) for each in zip(*finals)))
    assert isinstance(every, tuple)
    assert_equal(every, tuple(tg.stack(each).transpose(1, 2) for each in zip(*everything)))
    again = net.eval()(x, final, lengths=LENGTHS)[1]
    assert as_tuple(again)[0].shape == (4, B, H)


@each_kind
def test_sequences_of_a_batch_are_as_if_alone(kind, options, monkeypatch):
    interpret(monkeypatch)
    net = kind(I, H, 2, bidirectional=True, batch_first=True, dtype=np.float64, **options)
    x = tg.randn(B, T, I, dtype=np.float64)
    x.numpy()[np.arange(T) >= np.array(LENGTHS)[:, None]] = np.nan  # never looked at
    y, final, every = net(x, lengths=np.array(LENGTHS), return_states=True)
    for b, n in enumerate(LENGTHS):
        alone, final_alone, every_alone = net(x[b : b + 1, :n], return_states=True)
        assert_equal(y[b, :n], alone[0])
        assert not y[b, n:].numpy().any()
        assert_equal(tuple(s[:, b] for s in as_tuple(final)), tuple(s[:, 0] for s in as_tuple(final_alone)))
        assert_equal(tuple(s[:, b, :n] for s in every), tuple(s[:, 0] for s in every_alone))
    assert [s.shape[:3] for s in every] == [(4, B, T)] * len(every)
    unbatched = net(x[1], return_states=True)
    assert_equal(unbatched[2], tuple(s[:, 1] for s in every))


def test_lengths_on_both_engines():
    """Gradients too, through two layers and directions."""
    net, found = LSTM(I, H, 2, bidirectional=True, dtype=np.float64), []
    x = tg.randn(T, B, I, dtype=np.float64, requires_grad=True)
    for net.fused in ("require", "never"):
        y, (h, c), every = net(x, lengths=LENGTHS, return_states=True)
        loss = (y * y).sum() + h.sum() + (c * c).sum() + (every[1] * every[1]).sum()
        gradients = tg.grad(loss, [x, *net.parameters()])
        found.append({str(i): v.numpy() for i, v in enumerate([y, h, c, *gradients])})
    assert_close(*found)


@pytest.mark.slow
def test_cells_of_different_states():
    net = Stack([GRUCell(I, H), LSTMCell(H, 2)], dropout=0.25).eval()
    assert net.input_size == I and net.num_layers == 2
    assert list(net.state_dict())[::4] == ["cells.0.weight_ih", "cells.1.weight_ih"]
    x = tg.randn(T, B, I)
    y, final, every = net(x, return_states=True)
    (h, (h_2, c_2)), ((h_all,), (h_2_all, c_2_all)) = final, every
    assert [s.shape for s in (y, h, h_2, c_2)] == [(T, B, 2), (B, H), (B, 2), (B, 2)]
    assert [s.shape for s in (h_all, h_2_all, c_2_all)] == [(T, B, H), (T, B, 2), (T, B, 2)]
    halves = net(x[2:], net(x[:2])[1])
    for found, expected in zip(arrays([halves[0], halves[1]]), arrays([y[2:], final])):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    alone, (one, (two, three)) = net(x[:, 1], [h[1], (h_2[1], c_2[1])])
    assert alone.shape == (T, 2) and (one.shape, two.shape, three.shape) == ((H,), (2,), (2,))
    for found, expected in zip(arrays([alone, [one, (two, three)]]), arrays(list(net(x, final)))):
        np.testing.assert_allclose(found, expected[:, 1] if expected.ndim == 3 else expected[1], atol=1e-6)
    with pytest.raises(ValueError, match="Stack: expected the states of each of 2 cells, got 1"):
        net(x, [h])
    with pytest.raises(ValueError, match=r"LSTMCell: expected 2 initial states \(h, c\), got 1"):
        net(x, [h, h_2])


class Matrix(tg.nn.Cell):
    """A memory of the shape [B, H, 2], and a clock [B]."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        self.W = tg.nn.weight(input_size, hidden_size)

    def initial_state(self, batch_size):
        return (tg.zeros(batch_size, self.hidden_size), tg.zeros(batch_size, self.hidden_size, 2), tg.ones(batch_size))

    def step(self, x, h, C, t):
        C = 0.5 * C + tg.tanh(x @ self.W + h).unsqueeze(-1) / t.unsqueeze(-1).unsqueeze(-1)
        return C.sum(-1), C, t + 1


@pytest.mark.parametrize("layers", [1, 2])
def test_states_of_any_shape_go_on(layers):
    """The final states of one piece begin the next, and both pieces are the whole."""
    net, x = Stack(lambda width: Matrix(width, 3), 4, layers, fused="never"), tg.randn(6, 5, 4)
    whole, last = net(x)
    first, state = net(x[:2])
    assert [s.shape for s in state] == [(layers, 5, 3), (layers, 5, 3, 2), (layers, 5)]
    second, state = net(x[2:], state)
    np.testing.assert_allclose(tg.cat([first, second]).numpy(), whole.numpy(), rtol=1e-6)
    assert all(np.allclose(a.numpy(), b.numpy()) for a, b in zip(state, last))
    with pytest.raises(ValueError, match=r"initial state C has shape .*, expected \[\d, 5, 3, 2\]"):
        net(x, (last[0], last[1][..., 0], last[2]))


def test_training_mode_reaches_the_cells():
    """Those of an LSTM are no children of it, and recurrent dropout happens in them."""
    outer = tg.nn.Sequential(LSTM(I, 64, recurrent_dropout=0.5))
    (net,), x = list(outer), tg.ones(T, B, I)
    first, second = (net(x)[0].numpy() for _ in range(2))
    assert (first != second).any()
    outer.eval()
    np.testing.assert_array_equal(net(x)[0].numpy(), net(x)[0].numpy())
    outer.train()
    assert (net(x)[0].numpy() != net(x)[0].numpy()).any()
    net.recurrent_dropout = 0.0
    np.testing.assert_array_equal(net(x)[0].numpy(), net(x)[0].numpy())
    assert "recurrent_dropout=0.25" in repr(GRU(I, H, recurrent_dropout=0.25))
    stacked = Stack([GRUCell(I, H)]).eval()
    assert not stacked.cells[0].training


@pytest.mark.parametrize("engine", ["require", "never"])
def test_variational_dropout_between_layers_has_one_mask(engine, monkeypatch):
    """The second layer hands on what it reads: the mask shows."""
    interpret(monkeypatch)

    class Passes(tg.nn.Cell):
        input_size = hidden_size = 30

        def step(self, x, h):
            return x + 0 * h

    x = tg.ones(T, B, 30)
    for variational in (True, False):
        net = Stack([Passes(), Passes()], dropout=0.5, variational=variational, fused=engine)
        y = net(x)[0].numpy()
        assert set(np.unique(y)) == {0, 2} and (y[:, 0] != y[:, 1]).any()
        assert all((y[t] == y[0]).all() == variational for t in range(1, T))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Stack(lambda n: RNNCell(n, H)), ValueError, "needs input_size"),
        (lambda: Stack(lambda n: RNNCell(n, H), I, 0), ValueError, "num_layers must be positive, not 0"),
        (lambda: Stack(lambda n: tg.nn.Linear(n, H), I), TypeError, "expected cells, got Linear for layer 0"),
        (lambda: Stack([RNNCell(I, H), RNNCell(I, H)]), ValueError, "layer 1 gets .* 6 features, but its RNNCell exp"),
        (lambda: Stack([]), ValueError, "expected a cell for each layer, at least one, got 0"),
        (lambda: Stack([RNNCell(I, H)], bidirectional=True), ValueError, "two cells for each layer, .*, got 1"),
        (lambda: Stack([RNNCell(I, H)], num_layers=2), ValueError, "a cell for each layer, 2, got 1"),
        (lambda: Stack([RNNCell(I, H)], 4), ValueError, "layer 0 gets inputs of 4 features"),
        (lambda: LSTM(I, H, recurrent_dropout=1.0), ValueError, "let nothing into the states"),
        (lambda: LSTM(I, H)(tg.ones(T, B, I), lengths=[5, 1, 1]), ValueError, r"LSTM: lengths\[0\] is 5, but x has 4"),
        (lambda: GRU(I, H)(tg.ones(T, I), lengths=[5]), ValueError, r"lengths need a batch, but the input is \[4, 5\]"),
    ],
)
def test_stacks_that_make_no_sense(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_no_kernel_runs_before_everything_is_checked(monkeypatch):
    net, x = LSTM(I, H, 2), tg.ones(T, B, I)
    monkeypatch.setattr(Recurrent, "forward", lambda *_: pytest.fail("a layer ran"))
    for wrong in (dict(lengths=[1, 2, 9]), dict(hx=tg.ones(2, B, H))):
        with pytest.raises(ValueError, match="LSTM: "):
            net(x, **wrong)


@pytest.mark.parametrize("lengths", [[], np.zeros(0), np.zeros(0, int)], ids=str)
def test_lengths_of_an_empty_batch(lengths):
    """An empty list is an array of floats to NumPy."""
    y, h = GRU(I, H)(tg.zeros(T, 0, I), lengths=lengths)
    assert (y.shape, h.shape) == ((T, 0, H), (1, 0, H))
