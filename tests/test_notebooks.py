"""The notebooks run from the first cell to the last, print what they were committed with, stay small, and their
exercises can be solved.

A notebook ends in exercises. Each is a code cell and the markdown cell behind it:

- The code cell has the tag "exercise" (cell metadata {"tags": ["exercise"]}). First come the task and a hint, as
  comments, the latter with the word "Hint", and a stub that does not raise, such as `answer = None`. Its last statement
  is the check, `if ... is not None:` with asserts in it and no else: it is silent until there is an answer.

      # How many steps until half of the gradient is left?
      # Hint: after k steps a share of 0.9 ** k is left.
      steps = None
      if steps is not None:
          assert steps == 7, "0.9 ** steps is not yet below 0.5"

- The markdown cell folds the solution: `<details><summary>Solution</summary>`, an empty line, one block of ```python,
  an empty line, `</details>`. Words may stand around the block. It takes the place of all that stands above the check,
  so what both of them need belongs into a cell before.

A cell that shows figures of a network that was trained has the tag "trained". Processors round differently, and
training enlarges that, so what it prints, numbers and words, is not compared. Instead it has an `assert` that states
what the text around it relies on, with a margin that another processor does not use up:

    print(f"right: {right:.1%}")
    assert right > 0.95

The test runs every cell as it was committed, and behind the last one, in the same kernel, each solution with its check.
`run_notebook.py`, beside this file, runs a notebook as it is to be committed.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
FOLDED = re.compile(r"<details>\s*<summary>Solution</summary>\n\n(.*)\n\n</details>\s*", re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)

one_by_one = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells):
    """What every cell printed or returned as text, except about its pictures."""
    return [
        "".join(
            output["text"] if output.output_type == "stream" else output["data"].get("text/plain", "")
            for output in cell.outputs
            if "image/png" not in output.get("data", {})
        )
        for cell in cells
    ]


def pictures(cells):
    """The number of pictures of every cell, those that an object shows of itself among them."""
    drawn = lambda data: "image/png" in data or re.search("<img|<svg", data.get("text/html", "")) is not None
    return [sum(drawn(output.get("data", {})) for output in cell.outputs) for cell in cells]


def exercises(notebook):
    """Of every exercise the cell and the markdown behind it, None if there is none."""
    cells = [*notebook.cells, None]
    return [pair for pair in pairwise(cells) if "exercise" in pair[0].metadata.get("tags", ())]


def is_trained(cell):
    return "trained" in cell.metadata.get("tags", ())


def parts(source):
    """The stub of an exercise, what must not be None for its check to begin, and the check."""
    check = ast.parse(source).body[-1]
    assert isinstance(check, ast.If) and not check.orelse, "the last statement is `if ... is not None:`, with no else"
    assert isinstance(check.test, ast.Compare) and ast.unparse(check.test).endswith(" is not None"), check.lineno
    assert any(isinstance(each, ast.Assert) for each in ast.walk(check)), "nothing is asserted"
    lines = source.splitlines()
    asked = ast.unparse(check.test.left)
    return "\n".join(lines[: check.lineno - 1]), asked, "\n".join(lines[check.lineno - 1 :])


def solved(cell, folded):
    """The code of an exercise with its solution in place of the stub."""
    fold = FOLDED.fullmatch(folded.source)
    assert fold is not None, "the cell behind an exercise is one <details>, as above"
    (solution,) = BLOCK.findall(fold[1])
    _, asked, check = parts(cell.source)
    return f"{solution}\nassert ({asked}) is not None, 'the check was left out'\n{check}"


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebooks beside the tests"


@one_by_one
def test_notebook_is_committed_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 300_000
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run all cells from a fresh kernel"
    assert max(len(cell.source.splitlines()) for cell in code) <= 45


@one_by_one
def test_exercises_have_a_hint_a_silent_check_and_a_folded_solution(path):
    notebook = nbformat.read(path, as_version=4)
    found = exercises(notebook)
    assert 4 <= len(found) <= 8
    for cell, folded in found:
        assert cell.cell_type == "code" and folded is not None and folded.cell_type == "markdown"
        assert "Hint" in cell.source and not cell.outputs
        ast.parse(solved(cell, folded))
    folds = [cell for cell in notebook.cells if cell.cell_type == "markdown" and "<summary>Solution" in cell.source]
    assert len(folds) == len(found), "a solution belongs to a cell with the tag 'exercise' right before it"


@one_by_one
def test_figures_of_training_are_not_compared_but_asserted(path):
    for cell in filter(is_trained, code_of(nbformat.read(path, as_version=4))):
        tree = ast.parse(cell.source)
        stated = [each for each in ast.walk(tree) if isinstance(each, ast.Assert)]
        assert stated, f"nothing is asserted of what was trained:\n{cell.source}"
        assert not any(isinstance(each.test, ast.Constant) for each in stated), "an assert that cannot fail"


@pytest.mark.filterwarnings("default")  # about the machinery of Jupyter; the kernel's own warnings are looked at below
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=() if p.stem.startswith("01") else pytest.mark.slow) for p in NOTEBOOKS],
)
def test_notebook_prints_what_it_was_committed_with_and_its_solutions_hold(path, monkeypatch, tmp_path):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses its own, which puts pictures into the notebook
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # no start-up files of whoever runs the tests
    committed = code_of(nbformat.read(path, as_version=4))
    notebook = nbformat.read(path, as_version=4)
    fresh = code_of(notebook)
    # All solutions are run, even if one fails: the tag lets the kernel go on.
    answers = [
        nbformat.v4.new_code_cell(solved(*exercise), metadata={"tags": ["raises-exception"]})
        for exercise in exercises(notebook)
    ]
    notebook.cells.extend(answers)
    (tmp_path / "notebooks").mkdir()  # empty, and the data of the demos where they are from a notebook's own place
    (tmp_path / "demos").mkdir()
    (tmp_path / "demos" / "data").symlink_to(path.parent.parent / "demos" / "data")
    place = {"metadata": {"path": tmp_path / "notebooks"}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()

    shouted = [o.text for cell in fresh for o in cell.outputs if o.get("name") == "stderr"]
    assert not shouted, "a warning, or another word on stderr"
    assert pictures(fresh) == pictures(committed)
    for cell, now, before in zip(fresh, printed(fresh), printed(committed), strict=True):
        if is_trained(cell):
            assert bool(now) == bool(before)
            continue
        assert NUMBER.sub("#", now) == NUMBER.sub("#", before)
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (now, before)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-12)

    failed = [f"{o.ename}: {o.evalue}\n{cell.source}" for cell in answers for o in cell.outputs if "ename" in o]
    assert not failed, "\n\n".join(failed)
