"""RNN, LSTM and GRU: stacks of Recurrent with PyTorch's names and shapes."""

import copy
import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn import GRU, LSTM, RNN, Parameter, Recurrent

T, B, I, H = 4, 3, 5, 6
KINDS = [(RNN, {}), (RNN, {"nonlinearity": "relu"}), (LSTM, {}), (LSTM, {"proj_size": 2}), (GRU, {})]
each_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda x: getattr(x, "__name__", str(x)))


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def assert_equal(a, b):
    for x, y in zip(as_tuple(a), as_tuple(b), strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)


@each_kind
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


@each_kind
@pytest.mark.parametrize("directions", [1, 2])
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


@each_kind
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
        ({"dropout": 1.5}, r"dropout: the probability must be in \[0, 1\], not 1.5"),
        ({"dropout": -1}, r"dropout: the probability must be in \[0, 1\]"),
        ({"proj_size": 6}, "proj_size must be at least 0 and below hidden_size=6, not 6"),
        ({"proj_size": -1}, "proj_size must be at least 0"),
    ],
)
def test_option_errors(options, message):
    with pytest.raises(ValueError, match=f"LSTM: {message}"):
        LSTM(I, **{"hidden_size": H, **options})


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
