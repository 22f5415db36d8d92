"""Every cell with every tool around it, in every direction, with and without lengths: what both engines say.

Further cells go into CELLS: any that reads I features. Those of the library have all tools around them at once.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_close, assert_engines_agree, interpret, parameter, results
from tinygrad_rnn.nn import ClipGradient, LearnedInitialState, Recurrent, VariationalDropout, WeightDrop, Zoneout
from tinygrad_rnn.nn.cells.catalogue import ROWS, values_of

T, B, I, H = 4, 3, 2, 3
pytestmark = pytest.mark.filterwarnings("ignore:VariationalDropout. MGU.step hands h on")


class MGU(tg.nn.Cell):
    """A cell of two phases, as a user writes it: the second product needs the result of the first."""

    def __init__(self):
        self.input_size, self.hidden_size = I, H
        self.Wf, self.Wn, self.Uf, self.Un = parameter(I, H), parameter(I, H), parameter(H, H), parameter(H, H)
        self.bf, self.bn = parameter(H), parameter(H)

    def step(self, x, h):
        f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        n = self.candidate(tg.tanh(tg.clip_gradient(x @ self.Wn + (f * h) @ self.Un + self.bn, 0.1)))
        return (1 - f) * h + f * n


CELLS = {
    "LSTM": lambda: tg.nn.LSTMCell(I, H),
    "projected LSTM": lambda: tg.nn.ProjectedLSTMCell(I, H, 2),
    "GRU": lambda: tg.nn.GRUCell(I, H),
    "RNN": lambda: tg.nn.RNNCell(I, H),
    "MGU": MGU,
}


def with_recurrent_dropout(cell):
    if cell._calls("candidate"):  # others refuse it
        cell.recurrent_dropout = 0.4
    return cell


def matrices(cell):
    return [name for name, p in cell.named_parameters() if p.ndim == 2]


def learned(cell):
    """Learned initial states that are not zero."""
    wrapped = LearnedInitialState(cell)
    for name, p in wrapped.named_parameters():
        if name.startswith("initial_"):
            p.numpy()[...] = np.random.default_rng(0).uniform(-1, 1, p.shape)
    return wrapped


def everything(cell):
    """All tools at once, one inside the other."""
    inside = VariationalDropout(with_recurrent_dropout(cell), input=0.2, state=0.2)
    return ClipGradient(Zoneout(learned(WeightDrop(inside, 0.3, matrices(inside))), 0.2), 0.3)


TOOLS = {
    "nothing": lambda cell: cell,
    "recurrent dropout": with_recurrent_dropout,
    "zoneout": lambda cell: Zoneout(cell, [0.3, 0.6, 0.1, 0.4][: len(cell.state_names)]),
    "zoneout in evaluation": lambda cell: Zoneout(cell, 0.3).eval(),
    "variational dropout": lambda cell: VariationalDropout(cell, input=0.4, state=0.4),
    "variational dropout of all states": lambda cell: VariationalDropout(cell, state=0.4, states="all"),
    "weight drop": lambda cell: WeightDrop(cell, 0.4, matrices(cell)),
    "clipped gradients": lambda cell: ClipGradient(cell, 0.1),
    "learned initial states": learned,
    "everything": everything,
}


@pytest.fixture(autouse=True)
def seeded():
    tg.manual_seed(0)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", CELLS)
def test_both_engines_agree(name, tool, monkeypatch):
    interpret(monkeypatch)
    cell = TOOLS[tool](CELLS[name]().double())
    assert_engines_agree(cell, (T, B, I), given=False)
    assert_engines_agree(cell, (T, B, I), reverse=True, lengths=[2, 4, 0], return_states=True, given=False)


@pytest.mark.parametrize("make", [row[0] for row in ROWS], ids=[row.name for row in tg.nn.cells.list(4, 4)])
def test_all_tools_around_every_cell_of_the_library(make, monkeypatch):
    interpret(monkeypatch)
    cell = everything(make(4, 4).double())
    options = dict(lengths=[2, 4, 0], return_states=True, given=False, values=values_of(cell))
    assert_engines_agree(cell, (T, B, 4), **options)


def test_several_inputs_pass_through(monkeypatch):
    """A cell inside gets its inputs as the tuple that they are."""
    interpret(monkeypatch)

    class Gated(tg.nn.Cell):
        hidden_size = H

        def __init__(self):
            self.weight_hh = parameter(H, H)

        def step(self, xs, h):
            x, gate = xs
            return gate * h + self.candidate(tg.tanh(x + h @ self.weight_hh))

    cell, found = ClipGradient(Zoneout(learned(WeightDrop(with_recurrent_dropout(Gated()))), 0.4), 0.5), []
    arrays = np.random.default_rng(0).uniform(-1, 1, (2, T, B, H))
    for engine in ("require", "never"):
        tg.manual_seed(1)
        xs = tuple(tg.tensor(a, requires_grad=True) for a in arrays)
        y, h = Recurrent(cell, reverse=True, fused=engine)(xs, lengths=[4, 1, 3])
        gradients = tg.grad((y * y).sum() + h.sum(), [*xs, *cell.parameters()])
        found.append({str(i): v.numpy() for i, v in enumerate([y, h, *gradients])})
    assert_close(*found)


@pytest.mark.parametrize("tool", ["everything", pytest.param("clipped gradients", marks=pytest.mark.slow)])
def test_compiled(tool):
    """The same as machine code, the bound of a clipped gradient included."""
    cell = TOOLS[tool](tg.nn.LSTMCell(I, H).double())
    assert_engines_agree(cell, (T, B, I), lengths=[2, 4, 0])


def test_the_backward_kernel_shows_the_clipping():
    layer = Recurrent(ClipGradient(tg.nn.RNNCell(I, H), 0.125))
    clipped = [line for line in layer.source("backward").splitlines() if "real(0.125)" in line]
    assert len(clipped) == 1 and "real(-0.125)" in clipped[0]
    assert "clip_gradient(" in layer.explain()
    assert "0.125" not in layer.source("forward")


DRAWING = ["recurrent dropout", "variational dropout", "weight drop"]


@pytest.mark.parametrize(
    ("tool", "engine"),
    [("zoneout", "require"), *((tool, "never") for tool in ["zoneout", *DRAWING])]
    + [pytest.param(tool, "require", marks=pytest.mark.slow) for tool in DRAWING],
)
def test_a_seed_repeats_a_run_and_evaluation_draws_nothing(tool, engine):
    cell = TOOLS[tool](tg.nn.GRUCell(I, 8))
    layer, x = Recurrent(cell, fused=engine), tg.ones(T, B, I)
    runs = []
    for seed in (1, 1, 2):
        tg.manual_seed(seed)
        runs.append(layer(x)[0].numpy())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    layer.eval()
    before = tg.get_rng_state()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    assert tg.get_rng_state() == before


def test_a_seed_gives_both_engines_the_same_masks():
    cell = Zoneout(VariationalDropout(tg.nn.LSTMCell(I, 8).double(), input=0.5, state=0.5), 0.5)
    runs = [results(cell, (5, B, I), engine, lengths=[5, 0, 3]) for engine in ("require", "never")]
    assert_close(*runs)
