"""Every op on PyTorch's own samples of it: values, first gradients, second derivatives, errors.

The samples are those that PyTorch tests itself with: empty and 0-dimensional tensors, broadcasting, negative and
repeated dimensions, transposed and expanded memory, every keyword.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.cases import (
    OPERATORS,
    Case,
    Index,
    Leaf,
    Outcome,
    Refused,
    Unclear,
    answer,
    call,
    compare_outcome,
    lookup,
    tree_leaves,
    tree_map,
)
from torch_oracle.edges import CALLS as EDGES
from torch_oracle.edges import NOT_TWICE as KINKS
from torch_oracle.refusals import NO_ERRORS
from torch_oracle.refusals import REFUSALS as LISTED
from torch_oracle.samples import OPS, arguments, ask, ask_in_float64, plain, samples
from torch_oracle.tally import TALLY

DTYPES = {"float64": torch.float64, "float32": torch.float32}
METHODS = [key for key, op in OPS.items() if op.method_variant is not None and not op.name.startswith("__")]
METHODS.remove("where")  # its samples are not in the order of x.where(condition, y): see below
WITH_LONGER_LISTS = [key for key, op in OPS.items() if op.reference_inputs_func is not None and key[:2] != "__"]
WITH_OPERATOR = [key for key, op in OPS.items() if op.name in OPERATORS]


@cache
def expectations(key: str, dtype: str, kind: str = "as given") -> list[tuple[Case, Outcome]]:
    """PyTorch's samples and answers; second derivatives in float64, where they exist."""
    op = OPS[key]
    smooth = kind != "reference" and not (kind == "edge" and key in KINKS)
    twice = smooth and op.supports_gradgrad and dtype == "float64"
    question = ask_in_float64 if dtype == "float32" and kind != "reference" else ask
    return [
        (case, question(op.op, args, kwargs, seed, twice))
        for seed, (case, args, kwargs) in enumerate(samples(op, DTYPES[dtype], kind))
    ]


def judge(key: str, variant: str, cases: list[tuple[Case, Outcome]], what: str) -> None:
    """Fail with a list of what is wrong, of unlisted refusals and of listed ones that did not happen."""
    function = lookup(OPS[key].name, variant)
    listed = [refusal for refusal in LISTED if refusal.op == key]
    seen: Counter = Counter()
    problems = []
    for number, (case, expected) in enumerate(cases):
        indexed = any(isinstance(leaf, Index) for leaf in tree_leaves((case.args, case.kwargs)))
        for index_as in ("array", "tensor") if indexed else ("array",):
            try:
                wrong = compare_outcome(answer(function, case, expected, index_as), expected)
            except Refused as error:
                refusal = next((r for r in listed if re.search(r.message, str(error))), None)
                wrong = [] if refusal else [f"refused, but not listed: {error}"]
                seen[refusal] += index_as == "array"
            except Unclear as error:
                wrong = [str(error)]
            how = " with Tensors as indices" if index_as == "tensor" else ""
            problems += [f"sample {number}, {case}{how}: {w}" for w in wrong]
        TALLY[what]["compared"] += 1
    TALLY[what]["refused, as listed"] += sum(seen[refusal] for refusal in listed)
    TALLY[what]["wrong"] += len(problems)
    problems += [f"listed {r.samples} times, seen {seen[r]} times: {r}" for r in listed if seen[r] != r.samples]
    assert cases, "PyTorch has no samples: nothing was compared"
    if problems:
        pytest.fail(f"{key}: {len(problems)} wrong in {len(cases)} samples\n" + "\n".join(problems), pytrace=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", OPS)
def test_function(key, dtype):
    judge(key, "function", expectations(key, dtype), "functions")


@pytest.mark.parametrize("key", METHODS)
def test_method(key):
    judge(key, "method", expectations(key, "float64"), "methods")


def test_where_as_a_method():
    """x.where(condition, y) is where(condition, x, y)."""
    condition, x, y = np.array([True, False, True]), tg.tensor(np.arange(3.0)), tg.tensor(-np.ones(3))
    np.testing.assert_array_equal(x.where(condition, y).numpy(), [0.0, -1.0, 2.0])


@pytest.mark.parametrize("key", OPS)
def test_other_memory(key):
    """The same samples in memory that is not contiguous."""
    judge(key, "function", expectations(key, "float64", "noncontiguous"), "functions, non-contiguous memory")


@pytest.mark.parametrize("key", WITH_OPERATOR)
def test_operator(key):
    cases = [(case, outcome) for case, outcome in expectations(key, "float64") if not case.kwargs]
    judge(key, "operator", cases, "operators")


@pytest.mark.parametrize("key", [key for key, op in OPS.items() if op.name.startswith("nn.functional.")])
def test_functional_is_an_alias(key):
    name = OPS[key].name
    assert lookup(name) is getattr(tg, name.rpartition(".")[2]) or name == "nn.functional.embedding"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", EDGES)
def test_edges(key, dtype):
    """Kinks, ties, zeros, repeated indices, masked and huge logits."""
    judge(key, "function", expectations(key, dtype, "edge"), "edges")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", WITH_LONGER_LISTS)
def test_extremes(key, dtype):
    """PyTorch's longer lists: large numbers, infinities, NaN; gradients where all numbers are finite."""
    cases = expectations(key, dtype, "reference")
    if key == "nn.functional.silu":
        cases = [(case, expected) for case, expected in cases if not np.isneginf(case.args[0].array).any()]
    judge(key, "function", cases, "extreme numbers")


def test_silu_at_the_ends():
    """PyTorch gives NaN at minus infinity; the limit is 0."""
    x = tg.tensor(np.array([-np.inf, np.inf, np.nan]))
    np.testing.assert_array_equal(tg.silu(x).numpy(), [0.0, np.inf, np.nan])


def error_samples():
    for key, op in OPS.items():
        if op.error_inputs_func is not None:
            for number, error in enumerate(op.error_inputs("cpu")):
                yield pytest.param(key, error, id=f"{key}-{number}")


@pytest.mark.parametrize(("key", "error"), list(error_samples()))
def test_error(key, error):
    """What PyTorch refuses is refused here, by an error that names the op."""
    for allowed in NO_ERRORS:
        if allowed.op in (key, "*") and re.search(allowed.message, error.error_regex):
            pytest.skip(f"no error here: {allowed.reason}")
    args, kwargs = arguments(error.sample_input)
    case = Case(OPS[key].name, tree_map(plain, args), tree_map(plain, kwargs))
    if not any(isinstance(leaf, (Leaf, Index)) for leaf in tree_leaves((case.args, case.kwargs))):
        pytest.skip("numbers alone never reach the library")
    with pytest.raises(Refused):
        _, outputs = call(lookup(case.op), case)
        pytest.fail(f"{case} gave {outputs}; PyTorch: {error.error_regex}")
