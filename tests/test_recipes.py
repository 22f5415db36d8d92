"""The recipes of demos/recipes.md run, each as the file that it is said to be."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "demos" / "recipes.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
RECIPES = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")}
NAMES = ["An operation", "A cell", "An optimiser", "A picture"]
pytestmark = pytest.mark.skipif(not TEXT, reason="the tests run without their checkout")


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, tmp_path, monkeypatch):
    from matplotlib import pyplot

    before, own = blocks(next(iter(RECIPES.values()))), blocks(RECIPES[name])
    assert len(own) == 2 and "assert" in own[1], "the recipe, and its proof"
    file = tmp_path / f"{name.replace(' ', '_').lower()}_of_the_page.py"
    file.write_text("\n\n".join([*before, *own]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)  # where pickle looks for the cell
    spec.loader.exec_module(module)
    pyplot.close("all")


def test_all_of_the_page_is_run():
    assert list(RECIPES)[1:] == NAMES and len(blocks(TEXT)) == 1 + 2 * len(NAMES)


def test_what_the_recipes_name_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / link).exists(), link
    folders = [ROOT, ROOT / "tinygrad_rnn", ROOT / "tinygrad_rnn" / "nn" / "cells", ROOT / "tests"]
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT):
        assert any((folder / path).exists() for folder in folders) or path == "lion.py", path
