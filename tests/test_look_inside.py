"""`demos/look_inside.py` and the pictures of README: made by the commands that they name, of numbers that are right."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "demos" / "look_inside.py"


@pytest.fixture
def demo(monkeypatch):
    """The scripts as modules, which find each other."""
    monkeypatch.syspath_prepend(ROOT / "demos")
    return importlib.import_module


def looked(demo, *arguments):
    look_inside = demo("look_inside")
    return look_inside.looked(look_inside.arguments().parse_args(["--quick", *map(str, arguments)]))


# ---- A run -----------------------------------------------------------------------------------------------------------


def test_run_leaves_pictures_and_a_page_that_needs_nothing_else(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "30/30" in done.stderr and "pictures: 100%" in done.stderr
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 11 and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)

    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and page.count("<img") == page.count('src="data:image/png;base64,') == 11
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "@import" not in page
    (items,) = re.findall(r"<ul>(.*)</ul>", page)
    said = re.findall(r"^- (.*)$", done.stdout, flags=re.MULTILINE)
    assert items.count("<li>") == len(said) > 9
    assert all(re.search(r"\d", sentence) for sentence in said)

    again = [*command[:-1], str(tmp_path / "again"), "--checkpoint", str(tmp_path / "checkpoint.safetensors")]
    done = subprocess.run(again, capture_output=True, encoding="utf-8", timeout=300)
    assert re.findall(r"^- (.*)$", done.stdout, flags=re.MULTILINE) == said, "of the same network, the same"
    assert "step/s" not in done.stderr


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_other_cells(cell, demo, tmp_path):
    look = looked(demo, "--cell", cell, "--out", tmp_path)
    says = demo("look_inside").look_at(look, tmp_path)
    assert any("time" in sentence or "remembers" in sentence for sentence in says)
    assert (tmp_path / "timescales.png").exists() == (cell == "gru")


def test_what_it_refuses(demo, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("a line\n" * 300)
    with pytest.raises(demo("char_lm").Refusal, match="the last tenth of the text has"):
        looked(demo, "--text", text, "--out", tmp_path)


# ---- What it says ----------------------------------------------------------------------------------------------------


def test_cues(demo):
    found = demo("look_inside").cues('Ab c.\n[in] "q"')
    expected = {
        "the length of the line so far": [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        "the length of the word so far": [1, 2, 0, 1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0],
        "the length of the sentence so far": [1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        "whether a stage direction is open": [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0],
        "whether a quotation is open": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        "whether a letter is a capital": [1] + [0] * 13,
    }
    assert {name: course.tolist() for name, course in found.items()} == expected


def test_the_unit_that_follows_a_cue_is_found(demo, tmp_path):
    """One that was made to: its cell of the other units is left as it was."""
    look_inside = demo("look_inside")
    look = looked(demo, "--out", tmp_path)
    line = look_inside.cues(look.text[: look.long])["the length of the line so far"]
    made = {name: look.r[name].numpy().copy() for name in look.states}
    made["c"][:, 0, 7] = 3 - 2 * line

    class Made(dict):
        grad = None

    look.r = Made({name: tg.tensor(values) for name, values in made.items()})
    (r, cue, name, unit), *others = look_inside.best_units(look)
    assert (cue, name, unit) == ("the length of the line so far", "c", 7) and r == pytest.approx(-1, abs=1e-5)
    assert all(abs(each[0]) <= 1 for each in others)


def test_correlation(demo):
    rng = np.random.default_rng(0)
    units, cue = rng.normal(size=(50, 3)), rng.normal(size=50)
    found = demo("look_inside").correlation(units, cue)
    np.testing.assert_allclose(found, [np.corrcoef(units[:, k], cue)[0, 1] for k in range(3)], rtol=1e-12)
    assert demo("look_inside").correlation(np.ones((50, 1)), cue) == 0


def test_lines_of_text_begin_rows(demo):
    look_inside = demo("look_inside")
    text, values = look_inside.by_lines("of it\nab\n\ncdef\ng", np.arange(16.0))
    rows = [text[k : k + look_inside.COLUMNS].rstrip(" ") for k in range(0, len(text), look_inside.COLUMNS)]
    assert rows == ["ab\n", "\n", "cdef\n"]
    assert values[np.isfinite(values)].tolist() == [6, 7, 8, 9, 10, 11, 12, 13, 14]


# ---- The pictures of README ------------------------------------------------------------------------------------------


def test_the_step_in_readme_is_what_is_generated(demo):
    """`python demos/readme_pictures.py --step` writes it anew."""
    made = (ROOT / "demos" / "step.svg").read_text(encoding="utf-8")
    assert made == demo("readme_pictures").step_svg()
    width = int(re.search(r'width="(\d+)"', made)[1])
    assert width <= 870 and f"made by {demo('readme_pictures').COMMAND}" in made, "the page shows 850 pixels"


def test_the_step_has_five_lines_and_a_colour_for_each_variable(demo):
    pictures = demo("readme_pictures")
    columns = dict(pictures.columns())
    step = [line.text for line in columns["THE STEP"] if line.steps][:5]
    assert [line.partition(" = ")[0] for line in step[:4]] == ["a", "f", "b", "n"] and step[4].startswith("return")
    assert len(set(pictures.COLOURS.values())) == 5
    for name, gradient in (("f", "df_part_2"), ("h_new", "dh_new"), ("n", "dn"), ("b", "db_out")):
        assert pictures.colour_of(name) == pictures.colour_of(gradient) != pictures.INK
    assert pictures.colour_of("df_h") == pictures.colour_of("dy") == pictures.INK, "of no variable of the step"
    for column in ("ITS ADJOINT", "BACKWARD KERNEL"):
        assert set().union(*(line.steps for line in columns[column])) == set(range(5))
    source = tg.nn.Recurrent(pictures.MGU(28, 64)).source("backward")
    for text, steps in columns["BACKWARD KERNEL"]:
        assert text.strip() in source or not steps or "#" in text, text


def test_the_strip_in_readme_is_made_by_its_command(demo, tmp_path):
    from PIL import Image

    pictures = demo("readme_pictures")
    pictures.main(pictures.arguments().parse_args(["--quick", "--folder", str(tmp_path), "--out", str(tmp_path)]))
    with Image.open(pictures.HERE / "look_inside.png") as made, Image.open(tmp_path / "look_inside.png") as quick:
        assert made.size == quick.size and made.info == quick.info
        assert made.info["Title"].endswith(f"made by {pictures.COMMAND}")
    assert (tmp_path / "step.svg").read_text(encoding="utf-8") == pictures.step_svg()
