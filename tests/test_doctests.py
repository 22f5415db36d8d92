"""The examples in docstrings and in the README run, and print what they say."""

import doctest
import importlib
import pkgutil
import re
import types
from pathlib import Path

import pytest
from autograd.test_custom import only_here  # noqa: F401

import tinygrad_rnn

README = Path(__file__).parent.parent / "README.md"


def modules():
    yield tinygrad_rnn
    for found in pkgutil.walk_packages(tinygrad_rnn.__path__, "tinygrad_rnn."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


FINDER = doctest.DocTestFinder()
EXAMPLES = [test for module in modules() for test in FINDER.find(module) if test.examples]
FOUND = {test.docstring for test in EXAMPLES}
# Functions from a mould are made in another module than they are in, and of that one's they are none.
MADE = {id(each): (name, each) for name, each in vars(tinygrad_rnn).items() if isinstance(each, types.FunctionType)}
EXAMPLES += [
    test
    for name, each in MADE.values()
    if each.__doc__ not in FOUND
    for test in FINDER.find(each, f"tinygrad_rnn.{name}", False, {}, {})
]


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
    assert {"tinygrad_rnn.tanh", "tinygrad_rnn.maximum"} <= names, "functions from a mould"


@pytest.mark.skipif(not README.exists(), reason="the tests run without their checkout")
def test_readme():
    text = README.read_text(encoding="utf-8")
    run(doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0))
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        assert ">>> " in block, f"this example is not run, as it has no prompt:\n{block}"
