"""PyTorch's numbers, without PyTorch: its stored answers for every op, recurrent module, optimiser and schedule.

torch_oracle/make_reference.py wrote them; torch_oracle/test_*.py compares far more where PyTorch is installed.
"""

from pathlib import Path

import numpy as np
import pytest
from fusion.keyword_cells import MATHS

from torch_oracle import keywords, modules, optimisers, schedules, vectors
from torch_oracle.cases import answer, compare_all, compare_outcome, lookup

REFERENCE = Path(__file__).parent / "reference"
OPS = vectors.load(REFERENCE / "ops.npz")
MODULES = vectors.load(REFERENCE / "modules.npz")
OPTIMISERS = vectors.load(REFERENCE / "optimisers.npz")
SCHEDULES = vectors.load(REFERENCE / "schedules.npz")
KEYWORDS = vectors.load(REFERENCE / "keywords.npz")


def named(cases):
    """Test parameters that say which case they are."""
    return [pytest.param(*case, id=f"{case[0].name}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize("op", OPS)
def test_op(op):
    for case, expected in OPS[op]:
        wrong = compare_outcome(answer(lookup(case.op), case, expected), expected)
        assert not wrong, f"{case}: {wrong}"


@pytest.mark.parametrize(("case", "expected"), named(MODULES))
def test_module(case, expected):
    state = modules.build(case).state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: a.shape for key, a in case.state.items()}
    for fused in modules.engines(case):
        wrong = modules.compare_modules(modules.run(case, expected.cotangents, fused), expected)
        assert not wrong, f"{case}, fused={fused!r}: {wrong}"


@pytest.mark.parametrize(("case", "expected"), named(OPTIMISERS))
def test_optimiser(case, expected):
    wrong = compare_all(str(case), optimisers.run(case)[-1], expected, optimisers.TOLERANCE)
    assert not wrong, wrong


@pytest.mark.parametrize("number", range(len(KEYWORDS)))
def test_values_for_a_sequence(number):
    case, expected = KEYWORDS[number]
    for engine in ("never", *["require"] * MATHS[case[0]].fused):
        found = keywords.ours(*case, engine)
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("number", range(len(SCHEDULES)))
def test_schedule(number):
    case, expected = SCHEDULES[number]
    wrong = compare_all(str(case), schedules.run(case), expected, schedules.TOLERANCE)
    assert not wrong, wrong
