"""`check_cell`: it passes every cell of the library, finds each way of being broken, and names it."""

import copy
import re

import numpy as np
import pytest
from broken_cells import BROKEN, AsksTheMode, Hides, MixesRows, Noisy, NoState, Sound
from covering import covering
from fusion.comparing import given_to, interpret

import tinygrad_rnn as tg
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.testing import CHECKS, CellCheckError, check_cell, parametrize_with_checks
from tinygrad_rnn.testing.subject import close, equal

NAMES = [row.short for row in tg.nn.cells.list(3, 4)]


@pytest.fixture
def tape_alone(monkeypatch):
    """As if nothing could be compiled: what is wrong with a step shows on the tape, and sooner."""
    monkeypatch.setattr(tg.testing.Subject, "why_not", "no kernels in this test")


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_is_broken_is_found_and_named(kind, tape_alone):
    check, message, line = BROKEN[kind]
    report = check_cell(kind(3, 4), raises=False)
    assert check in {failure.check for failure in report.failures}, str(report)
    found = [f for f in report.failures if f.check == check and re.search(message, f.message) and line in f.line]
    assert found, f"expected {message!r} at {line!r}:\n{report}"
    assert re.search(r"broken_cells\.py:\d+: ", found[0].line)


def test_a_step_that_is_not_twice_alike_is_all_that_is_told(tape_alone):
    report = check_cell(Noisy(3, 4), raises=False)
    assert [failure.check for failure in report.failures] == ["repeatable"]
    assert "gradients" in report.untried and "does so twice alike" in report.notes[-1]


def test_what_is_sound_passes(tape_alone):
    report = check_cell(Sound(3, 4))
    assert report.passed == [name for name in CHECKS if name != "engines"] and report.untried == ["engines"]


@pytest.mark.parametrize("kind", [Sound, tg.nn.GRUCell])
def test_both_engines_are_checked(kind):
    report = check_cell(kind(3, 4))
    assert report.passed == list(CHECKS) and not report.notes


@pytest.mark.parametrize("name", NAMES[3::6])
def test_cells_of_the_library_on_the_tape(name, tape_alone):
    cell = tg.nn.cells.make(name, 3, 4)
    assert not check_cell(cell, values=given_to(cell, 2)).failures


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_the_library(name, monkeypatch):
    interpret(monkeypatch)
    cell = tg.nn.cells.make(name, 3, 4)
    report = check_cell(cell, values=given_to(cell, 2))
    assert report.passed == list(CHECKS) and not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", covering(2)[::2])
def test_compiled_cells_of_the_library(name):
    cell = tg.nn.cells.make(name, 3, 4)
    report = check_cell(cell, values=given_to(cell, 2))
    assert report.passed == list(CHECKS) and not report.notes


class Spikes(Sound):
    """Decides what it hands on, and learns from what would decide softly."""

    def step(self, x, h):
        a = x @ self.W + h @ self.U + self.b
        return tg.straight_through(a > 0, tg.sigmoid(3 * a))


class SpikesWrongly(Spikes):
    """With a gradient that is not that of what would decide softly."""

    def step(self, x, h):
        a = x @ self.W + h @ self.U + self.b
        return tg.straight_through(a > 0, tg.sigmoid(3 * (2 * a - a.detach())))


@pytest.mark.parametrize("engine", ["never", "require"])
def test_decisions_are_held_while_slopes_are_measured(engine, monkeypatch):
    """The slope of a step function is nothing; that of what stands in its place is compared, on both engines."""
    interpret(monkeypatch)
    monkeypatch.setattr(tg.testing.Subject, "engines", (engine,))
    assert not check_cell(Spikes(3, 4), only=["gradients"]).failures
    (failure,) = check_cell(SpikesWrongly(3, 4), only=["gradients"], raises=False).failures
    assert "the gradient of x, h, W, U, b is not the slope" in failure.message and "straight_through" in failure.line


def test_results_that_are_nan_alike_are_the_same():
    nan, one = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    for same in (close, equal):
        assert same([nan, one], [nan.copy(), one]) and not same([nan], [one]) and not same([one], [one[:1]])
    assert close([one], [one + 1e-12]) and not equal([one], [one + 1e-12]) and not close([one], [one + 1e-8])


def test_what_a_list_hides_is_told_once(tape_alone):
    class HidesSeveral(Hides):
        def __init__(self, input_size, hidden_size):
            super().__init__(input_size, hidden_size)
            self.gains = [self.gain, tg.ones(2, requires_grad=True)]

    report = check_cell(HidesSeveral(3, 4), only=["state_dict"], raises=False)
    assert [re.search(r"self\.\w+", f.message)[0] for f in report.failures] == ["self.gain", "self.gains"]


def test_all_failures_are_told_at_once(tape_alone):
    class Twice(MixesRows, Hides):
        def __init__(self, input_size, hidden_size):
            Hides.__init__(self, input_size, hidden_size)

    with pytest.raises(CellCheckError, match=r"(?s)reduce over the last dimension.*is not in state_dict") as caught:
        check_cell(Twice(3, 4))
    assert {"rows", "state_dict"} <= {failure.check for failure in caught.value.report.failures}


def test_a_refusal_is_a_note_that_says_why():
    report = check_cell(AsksTheMode(3, 4), only=["compiles"], raises=False)
    assert report.passed == ["compiles"] and "tg.is_grad_enabled()" in report.notes[0]


def test_a_fault_of_the_compiler_is_a_failure(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a fault")

    monkeypatch.setattr("tinygrad_rnn.fusion.fused.compiled", refuse)
    report = check_cell(Sound(3, 4), only=["compiles"], raises=False)
    assert "fault of tinygrad_rnn" in report.failures[0].message


def test_wrong_kernels_are_found(monkeypatch):
    """Numbers of the kernels that are off: the engines differ, and so do the slopes."""
    plain = tg.testing.Subject.run

    def wrong(self, engine, *arguments, **options):
        y, *states = plain(self, engine, *arguments, **options)
        return [y * 1.001 if engine == "require" else y, *states]

    monkeypatch.setattr(tg.testing.Subject, "run", wrong)
    report = check_cell(Sound(3, 4), only=["engines", "stale", "lengths"], raises=False)
    assert {"engines", "stale"} == {failure.check for failure in report.failures}, str(report)


def test_weights_of_which_only_differences_count(tape_alone):
    """A constant added to all of them would change nothing."""

    class Antisymmetric(Sound):
        def step(self, x, h):
            return h + 1e-3 * tg.tanh(x @ self.W + h @ (self.U - self.U.T))

    assert check_cell(Antisymmetric(3, 4), only=["stale"]).passed == ["stale"]


def test_noise_is_the_same_in_both_engines():
    cell = tg.nn.Zoneout(tg.nn.GRUCell(3, 4), 0.3)
    assert check_cell(cell, only=["engines", "repeatable"]).passed == ["engines", "repeatable"]


def test_lines_are_those_of_the_cell_in_a_wrapper(tape_alone):
    report = check_cell(tg.nn.Zoneout(MixesRows(3, 4)), only=["rows"], raises=False)
    assert report.failures[0].line.endswith("h = h - h.mean(0, keepdim=True)")


def test_a_local_class_is_not_pickled(tape_alone):
    class Local(Sound):
        pass

    report = check_cell(Local(3, 4), only=["pickle"])
    assert report.untried == ["pickle"] and not report.passed and "not defined in a module" in str(report)


def test_the_cell_is_left_as_it_was(tape_alone):
    cell = tg.nn.LSTMCell(3, 4)
    cell.weight_ih.grad = tg.ones(16, 3)
    before, numbers, arrays = dict(vars(cell)), copy.deepcopy(cell.state_dict()), [p.data for p in cell.parameters()]
    check_cell(cell)
    assert {n: v for n, v in vars(cell).items() if not n.startswith("_")} == \
        {n: v for n, v in before.items() if not n.startswith("_")}  # fmt: skip
    assert all(np.array_equal(numbers[name], value) for name, value in cell.state_dict().items())
    assert all(p.data is array for p, array in zip(cell.parameters(), arrays)) and cell.training
    assert np.array_equal(cell.weight_ih.grad.numpy(), np.ones((16, 3)))


class Speaks(Sound):
    def step(self, x, h, *, speaker):
        return tg.tanh(x @ self.W + h @ self.U + self.b + speaker)


def test_values_that_step_takes_by_name(tape_alone):
    report = check_cell(Speaks(3, 4), raises=False)
    assert "step takes speaker by name: call check_cell(cell, values={'speaker': an array" in report.failures[0].message
    assert not check_cell(Speaks(3, 4), values={"speaker": np.ones((2, 4))}).failures


def test_width_is_found_where_the_cell_does_not_say_it(tape_alone):
    cell = Sound(5, 4)
    cell.input_size = None
    assert check_cell(cell, only=["states", "rows"]).passed == ["states", "rows"]


def test_what_is_no_cell_and_no_check():
    assert check_cell(tg.nn.Linear(3, 4), raises=False).failures[0].message.startswith("expected a Cell, got Linear")
    with pytest.raises(ValueError, match="no check 'speed'; there are signature"):
        check_cell(Sound(3, 4), only=["speed"])


@parametrize_with_checks([lambda: Sound(3, 4), lambda: tg.nn.RNNCell(3, 4)], only=["states", "rows", "state_dict"])
def test_parametrised(make, check):
    assert check_cell(make(), only=[check]).passed == [check]


def test_parametrisation_has_a_test_for_each_check():
    mark = parametrize_with_checks([lambda: Sound(3, 4)])
    names, cases = mark.args
    ids = [case.id for case in cases]
    assert mark.name == "parametrize" and names == ("make", "check") and ids == [f"Sound-{name}" for name in CHECKS]


def test_command_line(capsys):
    assert main(["check", "rnn", "--only", "states", "rows"]) == 0
    assert "RNNCell: 2 checks passed" in capsys.readouterr().out
    assert main(["check", "broken_cells:MixesRows", "--only", "rows"]) == 1
    assert "rows: sequence 0 gives other outputs alone" in capsys.readouterr().out
    assert main(["check", f"broken_cells:{NoState.__name__}"]) == 1
    assert main(["check", "broken_cells:Soound"]) == 2
    assert main(["check", "rnn", "--only", "speed"]) == 2
