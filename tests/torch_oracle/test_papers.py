"""Published cells against a loop over time in PyTorch: every value and gradient, in float64, with validation on."""

from __future__ import annotations

import pytest
from fusion.comparing import interpret

from torch_oracle import papers
from torch_oracle.torch_papers import ask


@pytest.mark.parametrize(("name", "lengths", "reverse"), papers.CASES)
def test_cell(name, lengths, reverse, monkeypatch):
    interpret(monkeypatch)
    expected = ask(name, lengths, reverse)
    for engine in ("never", "require"):
        papers.assert_equal(papers.ours(name, lengths, reverse, engine), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in papers.CASES))
def test_compiled_cell(name):
    for options in ((None, True), (papers.LENGTHS, False)):
        papers.assert_equal(papers.ours(name, *options, "require"), ask(name, *options))
