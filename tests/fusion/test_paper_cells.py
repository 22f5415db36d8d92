"""Published cells as kernels: what they are on the tape, however they are called, and what their papers promise."""

import numpy as np
import pytest
from numba.core import config

import tinygrad_rnn as tg
from fusion.comparing import assert_close, assert_engines_agree, interpret, results
from fusion.paper_cells import CELLS, arrays
from tinygrad_rnn.kernels import threads

T, B = 4, 3
LENGTHS = [2, 4, 1]
CALLS = {
    "reverse": dict(reverse=True),
    "ragged": dict(lengths=[2, 0, 4], return_states=True),
    "ragged, reverse": dict(lengths=LENGTHS, reverse=True),
    "from the cell's own states": dict(given=False, return_states=True),
}


def kept_well(cell):
    """Numbers for initial states that cannot be just any."""
    return {name: value for name, value in arrays(cell, T, B).items() if name in cell.positive}


def run(cell, engine, **options):
    """A layer, its call, and the leaves."""
    given = {name: tg.tensor(a, requires_grad=True) for name, a in arrays(cell, T, B).items()}
    states = tuple(given[name] for name in cell.states)
    values = {name: given[name] for name in cell.values}
    layer = tg.nn.Recurrent(cell, options.pop("reverse", False), engine)
    call = lambda: layer(given["x"], states if len(states) > 1 else states[0], **options, **values)
    return layer, call, list(given.values())


@pytest.mark.parametrize("name", CELLS)
def test_engines_agree(name, monkeypatch):
    """Values and all gradients, with validation on."""
    interpret(monkeypatch)
    cell = CELLS[name]()
    for options in CALLS.values():
        sizes = (T, B, cell.input_size)
        assert_engines_agree(cell, sizes, start=kept_well(cell), values=cell.values, **options)


@pytest.mark.parametrize("lengths", [None, []], ids=["whole", "ragged"])
@pytest.mark.parametrize("name", ["DeltaNet", "Bahdanau"])
def test_no_sequence_at_all(name, lengths, monkeypatch):
    interpret(monkeypatch)
    cell = CELLS[name]()
    lengths = None if lengths is None else np.array(lengths, int)
    assert_engines_agree(cell, (T, 0, cell.input_size), lengths=lengths, values=cell.values, return_states=True)


QUICK = ["Hopfield"]  # which compiles in no time


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS])
def test_compiled_on_two_threads(name, monkeypatch):
    """What one thread computes, to the bit; and what the tape does."""
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.WORK_PER_THREAD", 1)
    monkeypatch.setattr("tinygrad_rnn.fusion.scan.ROWS_PER_THREAD", 1)
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 2)  # however many processors there are
    monkeypatch.setattr(threads, "_num_threads", 0)
    cell, found = CELLS[name](), []
    options = dict(start=kept_well(cell), values=cell.values, lengths=LENGTHS)
    for n in 1, 2:
        tg.set_num_threads(n)
        found.append(results(cell, (T, B, cell.input_size), "require", **options))
    one, two = found
    for each in one:
        np.testing.assert_array_equal(two[each], one[each], err_msg=each)
    assert_close(one, results(cell, (T, B, cell.input_size), "never", **options))


@pytest.mark.parametrize("name", CELLS)
def test_second_derivatives(name, monkeypatch):
    interpret(monkeypatch)

    def derivatives(engine):
        cell = CELLS[name]()
        _, call, leaves = run(cell, engine, lengths=LENGTHS)
        leaves += cell.parameters()
        first = tg.grad(call()[0].square().sum(), leaves, create_graph=True, allow_unused=True)
        loss = sum((d * d).sum() for d in first if d is not None)
        second = tg.grad(loss, leaves, allow_unused=True)
        found = zip([*first, *second], leaves * 2)
        return {str(i): np.zeros(x.shape) if d is None else d.numpy() for i, (d, x) in enumerate(found)}

    assert_close(derivatives("require"), derivatives("never"))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_recording(name, reverse, monkeypatch):
    """Every variable of the step at every step, of any rank, and what reached it."""
    interpret(monkeypatch)
    found = {}
    for engine in ("require", "never"):
        cell = CELLS[name]()
        layer, call, _ = run(cell, engine, lengths=LENGTHS, reverse=reverse)
        with tg.record(layer) as r:
            y, finals = call()
        finals = finals if isinstance(finals, tuple) else (finals,)
        (y.square().sum() + sum(v.square().sum() for v in finals)).backward()
        values = {each: r[each].numpy() for each in r.names}
        for each in r.names:
            try:
                values[f"d{each}"] = r.grad[each].numpy()
            except RuntimeError as error:
                assert "no gradient has reached" in str(error)
        found[engine] = values
    fused, tape = found["require"], found["never"]
    shared = sorted({*fused} & {*tape})
    assert {*cell.states, *cell.values} <= {*shared} and {*tape} - {*fused} <= {"B", "dB"}  # B is the batch in kernels
    for each, shape in cell.states.items():
        assert fused[each].shape == (T, B, *shape)
    assert_close({each: fused[each] for each in shared}, {each: tape[each] for each in shared})


@pytest.mark.parametrize("name", ["S6", "Bahdanau"])
def test_layers_in_both_directions(name, monkeypatch):
    interpret(monkeypatch)
    kind, found = CELLS[name], {}
    cells, given = [kind(), kind()], {each: tg.tensor(a, requires_grad=True) for each, a in arrays(kind, T, B).items()}
    values = {each: given[each] for each in kind.values}
    for engine in ("require", "never"):
        net = tg.nn.Stack(cells, bidirectional=True, fused=engine)
        y, *_ = net(given["x"], lengths=LENGTHS, **values)
        gradients = tg.grad(y.square().sum(), [given["x"], *values.values(), *net.parameters()])
        found[engine] = {str(i): v.numpy() for i, v in enumerate([y, *gradients])}
    assert_close(found["require"], found["never"])
