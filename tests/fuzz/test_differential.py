"""Cells, wrappers, options, sizes and calls drawn at random: kernels find what the tape finds.

A failure prints its seed and a program. TINYGRAD_RNN_FUZZ_SEED=n runs that case alone, with the compiler and without;
`python -m fuzz FIRST LAST` runs as many as one likes.
"""

import collections
import importlib
import itertools
import os
import sys

import numpy as np
import pytest

from fuzz import fuzzing, judge
from fuzz.cases import SETTINGS, Case, case
from fuzz.steps import Draft, Line

SEED = os.environ.get("TINYGRAD_RNN_FUZZ_SEED")
CALL = fuzzing.PLAIN | {"T": 3, "B": 2, "widths": [4], "batch_first": False}


def check_all(seeds, compiled=False):
    """How many cases of each outcome; the first failure is explained."""
    counts = collections.Counter()
    for seed in seeds:
        drawn = case(seed, compiled)
        try:
            counts[fuzzing.check(drawn, compiled).partition(":")[0]] += 1
        except Exception as error:
            pytest.fail(fuzzing.explained(drawn, compiled, error), pytrace=False)
    return counts


@pytest.mark.skipif(SEED is None, reason="TINYGRAD_RNN_FUZZ_SEED is not set")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_case_of_the_seed(compiled):
    check_all([int(SEED)], compiled)


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 80, 120))])
def test_some_cases(first):
    """Interpreted: thousands of kernels, none of which is compiled."""
    counts = check_all(range(first, first + 40))
    assert counts[fuzzing.OK] > 25, counts  # else it compares the tape with itself


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 200))
def test_many_cases(first):
    counts = check_all(range(first, first + 200))
    assert counts[fuzzing.OK] > 120, counts


@pytest.mark.slow
@pytest.mark.parametrize("first", [0])
def test_some_compiled_cases(first):
    """With threads, and in float32 as well."""
    counts = check_all(range(first, first + 20), compiled=True)
    assert counts[fuzzing.OK] > 10, counts


# ---- What it has found -----------------------------------------------------------------------------------------------


def of_a_step(lines, ends, states, fields=(), **call):
    """A case by hand."""
    draft = Draft([4], states, list(fields), [], [Line(*line) for line in lines], list(ends))
    layer = "tg.nn.Recurrent(cell)"
    made = Case(0, draft, "Drawn(dtype)", [], layer, settings=["pieces"], calls=[CALL | call])
    return made


FOUND = {
    "a state that meets weights is handed on": of_a_step(
        [], ["tg.tanh(x @ self.W + h @ self.U + c @ self.V)", "h"], dict(h=4, c=4),
        [("W", "parameter", (4, 4)), ("U", "parameter", (4, 4)), ("V", "parameter", (4, 4))],
    ),
    "a rotated value": of_a_step(
        [("m", "h * x", 4), ("r", "tg.cat([m[:, 1:], m[:, :1]], 1)", 4)],
        ["tg.tanh(m + 0.5 * r)"], dict(h=4), given=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("lengths", [None, [3, 1]])
def test_what_it_has_found(name, lengths):
    found = FOUND[name]
    found.calls[0]["lengths"] = lengths
    assert fuzzing.check(found) == fuzzing.OK


# ---- That it finds anything ------------------------------------------------------------------------------------------


def test_a_wrong_rule_is_found(monkeypatch):
    """In kernels; the tape keeps the right one."""
    from tinygrad_rnn.fusion import scan

    write = scan.Scan._write

    def wrong(self, direction, kernel):
        write(self, direction, kernel)
        self.sources[direction] = self.sources[direction].replace("tanh(", "0.999 * tanh(")

    monkeypatch.setattr(scan.Scan, "_write", wrong)
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")  # which finds it first
    drawn = of_a_step([("a", "tg.tanh(x)", 4)], ["a * 0.5 + h"], dict(h=4))
    with pytest.raises(judge.Mismatch) as error:
        fuzzing.check(drawn)
    message = fuzzing.explained(drawn, False, error.value, seconds=5)
    assert "TINYGRAD_RNN_FUZZ_SEED=0" in message and "call 0, y: differs by" in message
    assert "class Drawn(tg.nn.Cell)" in message and "def step(self, x, h):" in message


def test_a_failure_that_does_not_come_again_is_shown(monkeypatch):
    """With the place where it happened: that is all there is to go by."""
    errors = [KeyError("a file that another process replaced")]
    monkeypatch.setattr(judge, "compare", lambda *_: errors and (_ for _ in ()).throw(errors.pop()))
    monkeypatch.setattr(sys.modules[__name__], "case", lambda *_: FOUND["a rotated value"])
    with pytest.raises(pytest.fail.Exception, match=r"^KeyError: 'a file that another process replaced'") as failed:
        check_all([0])
    message = str(failed.value)
    assert "does not fail" in message and "in check\n" in message and "class Drawn(tg.nn.Cell)" in message


def test_the_program_of_a_case_runs(monkeypatch):
    """By itself; what it sets in the library is put back afterwards."""
    for place, _ in itertools.chain(*SETTINGS.values()):
        module, _, attribute = f"tinygrad_rnn.{place}".rpartition(".")
        monkeypatch.setattr(importlib.import_module(module), attribute, getattr(sys.modules[module], attribute))
    names = {"__name__": "program"}
    exec(compile(fuzzing.program(FOUND["a rotated value"]), "<program>", "exec"), names)
    assert all(difference <= 1e-12 for difference, _ in names["apart"].values())


def test_a_seed_is_a_case():
    for seed in range(30):
        assert case(seed) == case(seed) and case(seed).text() == case(seed).text()


@pytest.mark.parametrize(
    "moved, outcome", [(1.5, judge.IllConditioned), (1.000001, judge.Mismatch), (float("nan"), judge.IllConditioned)]
)
def test_a_result_that_moves_by_itself_says_nothing(moved, outcome, monkeypatch):
    """What the tape finds if its inputs are moved by their last bits."""

    def run(make, calls, engine, dtype, nudge=0.0, draw=0):
        return [{"y": np.array([1.001 if engine == "require" else moved if nudge else 1.0])}]

    monkeypatch.setattr(judge, "run", run)
    with pytest.raises(outcome):
        judge.compare(None, [], np.dtype(np.float64), False)
