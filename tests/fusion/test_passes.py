"""Each pass by itself: it takes a program and returns one that computes the same, and changes none of its values."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import tinygrad_rnn as tg
from fusion.comparing import EVERY_CELL, parameter
from fusion.test_inner_shapes import STEPS, VALUES, Random
from fusion.test_random_cells import COMPILED, Composed, programs
from tinygrad_rnn.autograd import table, tape
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.fusion.passes import PASSES
from tinygrad_rnn.fusion.program import Value, needed_for, run_value
from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.fusion.sequence import Sequence
from tinygrad_rnn.fusion.simplify import simplify
from tinygrad_rnn.nn.cells.catalogue import values_of

B = 3


def stages_of(cell, watched=1):
    """The program of a cell after each pass."""
    states = tuple(tg.zeros(*s.shape, dtype=np.float64) for s in cell.begin(None, B))
    x = tg.zeros(2, B, cell.input_size, dtype=np.float64)
    shapes = values_of(cell) or {name: shape for name, shape in VALUES.items() if name in cell.value_names}
    held = {name: tg.zeros(B, *shape, dtype=np.float64) for name, shape in shapes.items()}
    return FusedCell(cell, Sequence(x, states, watched=watched, values=held)).stages


def drawn(program):
    """Arrays for what a step is given, by value."""
    random = np.random.default_rng(0)
    array = lambda held: np.asarray(held.data if isinstance(held, tape.Value) else held)
    known = {leaf: array(leaf.held) for leaf in program.held}
    for leaf in (*program.inputs, *program.given, *program.noise, *program.states):
        shape = (B, *leaf.inner) if leaf.per_row else leaf.shape
        known[leaf] = random.uniform(0.1, 0.9, shape)
    return known


def run(values, known):
    """All values as arrays, operation by operation: a reader of programs that shares nothing with the printer."""
    known = dict(known)
    for value in values:
        if value in known or value.row is None:
            continue
        operands = [known[x] if isinstance(x, Value) else x for x in value.inputs]
        if value.row is table.matmul:  # of joined products the weights stand side by side
            known[value] = operands[0] @ np.concatenate([np.broadcast_to(w, w.shape) for w in operands[1:]], -1)
        else:
            known[value] = np.asarray(run_value(value, operands, B, value.row.forward))
    return known


def check_program(program):
    """What holds for every program: one name for each value, operands first, nothing that can be changed."""
    values = [*program.values, *program.gradient.values]
    assert len({value.name for value in values}) == len(values), "two values have one name"
    known = {*program.gradient.carries, *program.gradient.dys}
    for value in dict.fromkeys([*values, *program.loop, *program.backward]):
        for x in value.operands:
            assert x in known or x.kind in ("zeros", "weights"), f"{value!r} stands before {x!r}"
        known.add(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        values[0].name = "another"


def check_stages(stages):
    """Each pass leaves the new states what they were, and the transposed step has their gradients."""
    before = {stage: str(program.values) for stage, program in stages.items()}
    known = drawn(stages["trace"])
    expected = [run(stages["trace"].values, known)[x] for x in stages["trace"].outputs]
    for stage, program in stages.items():
        check_program(program)
        found = run(program.values, known)
        for x, y in zip(program.outputs, expected):
            np.testing.assert_allclose(found[x], y, rtol=1e-12, atol=1e-12, err_msg=f"{stage}: {x.name}")
    check_gradients(stages["lower"], stages["trace"], known)
    residuals = stages["lower"].residuals
    assert len({*residuals}) == len(residuals), "what is saved is saved once"
    assert not {*residuals} & {*stages["lower"].outputs}, "the states are saved as they are"
    assert before == {stage: str(program.values) for stage, program in stages.items()}, "a pass changed a value"


def check_gradients(program, traced, known):
    """Those of states and inputs, against the tape."""
    gradient, random = program.gradient, np.random.default_rng(1)
    arriving = {d: random.standard_normal((B, *d.inner)) for d in (*gradient.carries, *gradient.dys)}
    total = [arriving[d] for d in gradient.carries]
    for k, d in enumerate(gradient.dys):
        total[k] = total[k] + arriving[d]
    found = run(program.values, known) | arriving
    for value in [*program.backward, *gradient.values]:
        for x in value.operands:
            if x.kind == "zeros":
                found[x] = np.zeros((B, *x.inner))
            elif x.kind == "weights":
                (product,) = (p for p in program.products if f"{p.name}_weights_T" == x.name)
                found[x] = np.concatenate([found[w] for w in product.inputs[1:]], 1).T
    found = run([*program.backward, *gradient.values], found)
    # What is made of an input outside of the loop has a gradient of its own there.
    outside = needed_for([x for x in program.sequences if x.row is not None], lambda value: False)
    leaves = [*traced.states, *(x for x in traced.inputs if x in gradient.sequences and x not in outside)]
    tensors = {leaf: tg.tensor(x, requires_grad=leaf in leaves) for leaf, x in known.items()}
    for value in traced.values:
        if value.row is not None:
            tensors[value] = run_value(value, [tensors[x] if isinstance(x, Value) else x for x in value.inputs], B)
    outputs = [tensors[x] for x in traced.outputs]
    pairs = [(y, tg.tensor(d)) for y, d in zip(outputs, total) if y.requires_grad]
    expected = tg.grad([y for y, _ in pairs], [tensors[x] for x in leaves], [d for _, d in pairs], allow_unused=True)
    ours = [*gradient.states, *(gradient.sequences[x] for x in leaves[len(traced.states) :])]
    for leaf, d, dx in zip(leaves, ours, expected):
        dx = np.zeros((B, leaf.width)) if dx is None else dx.numpy().reshape(B, leaf.width)
        d = np.zeros((B, leaf.width)) if d is None or d.kind == "zeros" else found[d].reshape(B, leaf.width)
        np.testing.assert_allclose(d, dx, rtol=1e-9, atol=1e-11, err_msg=f"d{leaf.name}")


@pytest.mark.parametrize("make", EVERY_CELL)
def test_passes_of_the_library_s_cells(make):
    cell = make(4, 4).double()
    check_stages(stages_of(cell, watched=len(cell.state_names)))


@pytest.mark.parametrize("program", COMPILED)
def test_passes_of_composed_cells(program):
    check_stages(stages_of(Composed(program)))


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_passes_of_any_cell(examples):
    @settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def passes_of_any_cell(program):
        try:
            stages = stages_of(Composed(program))
        except Unfusable:  # which another test is about
            return
        check_stages(stages)

    passes_of_any_cell()


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_passes_of_rows_of_any_rank(examples):
    @settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def passes_of_any_rank(step):
        check_stages(stages_of(Random(*step)))

    passes_of_any_rank()


class Slices(tg.nn.Cell):
    """A value that is read in slices, one that is read as a whole as well, and one that nobody reads."""

    input_size = hidden_size = 4

    def __init__(self):
        self.W, self.U = parameter(4, 8), parameter(4, 8)

    def step(self, x, h):
        gates = tg.tanh(x @ self.W + h @ self.U)
        i, f = gates[:, :4], gates[:, 4:]
        whole = tg.sigmoid(h @ self.U)
        start, idle = whole[:, :4], whole * 2  # noqa: F841
        both = tg.cat([i, f * start], -1)
        return both[:, :4] + both[:, 4:] + whole.sum(-1, keepdim=True)


def test_slices_of_elementwise_maths_are_that_maths_on_slices():
    stages = stages_of(Slices())
    assert tuple(stages) == PASSES
    before, after = (
        {value.name: repr(value) for value in stages[stage].values} for stage in ("trace", "simplify")
    )
    assert "gates" in before and "gates" not in after and "idle" in before and "idle" not in after
    assert before["i"] == "i[B, 4] = gates[:, :4]" and after["i"].startswith("i[B, 4] = tanh(")
    assert after["start"] == "start[B, 4] = whole[:, 0:4]", "it is computed as a whole, for the sum"
    assert "both" not in after, "whose slices are its pieces"


class FourProducts(tg.nn.Cell):
    """Two of the input and two of the state."""

    input_size = hidden_size = 4

    def __init__(self):
        self.W, self.U, self.V, self.Z = (parameter(4, 4) for _ in range(4))

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U) * tg.sigmoid(x @ self.V + h @ self.Z)


def test_products_with_one_left_operand_become_one():
    stages = stages_of(FourProducts())
    count = lambda stage, where: sum(value.row is table.matmul for value in getattr(stages[stage], where))
    assert (count("hoist", "hoisted"), count("join", "hoisted")) == (2, 1)
    assert (count("hoist", "loop"), count("join", "loop"), len(stages["join"].products)) == (2, 1, 1)


class ReadsItsState(tg.nn.Cell):
    """A product of a new state."""

    input_size = hidden_size = 4

    def __init__(self):
        self.W, self.U, self.V = (parameter(4, 4) for _ in range(3))

    def step(self, x, h, c):
        h = tg.tanh(x @ self.W + h @ self.U)
        return h, tg.sigmoid(h @ self.V) * c


def test_a_state_read_by_a_product_is_not_saved_besides():
    check_stages(stages_of(ReadsItsState(), watched=2))


def test_simplify_is_done_once_and_for_all():
    """Nothing is left for a second time."""
    program = stages_of(Slices())["simplify"]
    assert list(map(repr, simplify(program).values)) == list(map(repr, program.values))
