"""The notebooks run from the first cell to the last, print what they were committed with, and stay small."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def printed(notebook):
    """What every cell printed or returned as text, except about its pictures."""
    return [
        "".join(
            output["text"] if output.output_type == "stream" else output["data"].get("text/plain", "")
            for output in cell.outputs
            if "image/png" not in output.get("data", {})
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def pictures(notebook):
    """The number of pictures of every cell."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebooks beside the tests"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 300_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run all cells from a fresh kernel"
    assert max(len(cell.source.splitlines()) for cell in code) <= 45


@pytest.mark.filterwarnings("default")  # about the machinery of Jupyter; the kernel's own warnings are looked at below
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=() if p.stem.startswith("01") else pytest.mark.slow) for p in NOTEBOOKS],
)
def test_notebook_prints_what_it_was_committed_with(path, monkeypatch, tmp_path):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel chooses its own, which puts pictures into the notebook
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # no start-up files of whoever runs the tests
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()

    shouted = [o.text for c in fresh.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not shouted, "a warning, or another word on stderr"
    assert pictures(fresh) == pictures(committed)
    for now, before in zip(printed(fresh), printed(committed), strict=True):
        assert NUMBER.sub("#", now) == NUMBER.sub("#", before)
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (now, before)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-12)
