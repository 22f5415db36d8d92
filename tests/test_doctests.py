"""The examples in docstrings and in the README run, and print what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import tinygrad_rnn

README = Path(__file__).parent.parent / "README.md"


def modules():
    yield tinygrad_rnn
    for found in pkgutil.walk_packages(tinygrad_rnn.__path__, "tinygrad_rnn."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


EXAMPLES = [test for module in modules() for test in doctest.DocTestFinder().find(module) if test.examples]


def run(test):
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    if runner.run(test, out=report.append).failed:
        pytest.fail("".join(report), pytrace=False)


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_docstring(test):
    run(test)


def test_docstrings_were_found():
    """The finder sees into every folder of the package."""
    names = {test.name for test in EXAMPLES}
    assert {"tinygrad_rnn", "tinygrad_rnn.autograd.gradients.grad"} <= names, "a module's and a function's"
    assert "tinygrad_rnn.autograd.tape" in names, "the backward pass in ten lines"
    assert "tinygrad_rnn.kernels.elementwise.scalar_code" in names


@pytest.mark.skipif(not README.exists(), reason="the tests run without their checkout")
def test_readme():
    text = README.read_text(encoding="utf-8")
    run(doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0))
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        assert ">>> " in block, f"this example is not run, as it has no prompt:\n{block}"
