"""`demos/what_units_mean.py`: labels are what they say, F1 is the best there is, and what was put there is found."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "demos" / "what_units_mean.py"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "demos")
    return importlib.import_module("what_units_mean")


# ---- A run -----------------------------------------------------------------------------------------------------------


def test_run_leaves_a_table_a_picture_and_contexts(demo, tmp_path, capsys):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "30/30" in done.stderr and "autoencoder: 100%" in done.stderr and "F1: 100%" in done.stderr
    assert (tmp_path / "what_units_mean.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "what_units_mean.json").read_text())
    rows = re.findall(r"^(.{34}) *([\d.]+)% +((?:[01]\.\d\d *){8})$", done.stdout, flags=re.MULTILINE)
    printed = {name.strip(): [float(n) for n in scores.split()] for name, _, scores in rows}
    assert len(printed) > 9
    for name, (always, *scores) in printed.items():
        assert 0 < always < 1
        assert scores == pytest.approx([by_label[name] for by_label in results["f1"].values()], abs=0.0051)
    assert 0 < results["metrics"]["l0"] <= 3 and 0 < results["metrics"]["unexplained"]
    said = re.findall(r"^- (.*)$", done.stdout, flags=re.MULTILINE)
    assert len(said) == 7 and all(re.search(r"\d", sentence) for sentence in said)
    assert re.search(r"^latent \d+, active in .*\n +\d+\.\d\d  .*⟦.+⟧", (tmp_path / "contexts.txt").read_text("utf-8"))

    options = ["--quick", "--out", tmp_path / "again", "--checkpoint", tmp_path / "checkpoint.safetensors"]
    demo.main(demo.arguments().parse_args([*map(str, options)]))
    again = capsys.readouterr()
    assert re.findall(r"^- (.*)$", again.out, flags=re.MULTILINE) == said, "of the same network, the same"
    assert "30/30" not in again.err


@pytest.mark.slow
def test_other_cells(demo, tmp_path):
    options = demo.arguments().parse_args(["--quick", "--cell", "min-gru", "--steps", "2", "--out", str(tmp_path)])
    text = demo.char_lm.read(options.text)[:8000]
    run = demo.trained(options, text)
    assert type(run.model.recurrent.cells[0]).__name__ == "MinGRUCell"
    assert demo.read(run.model, np.zeros(600, int), 2, 60, "read").states.shape[1] == demo.QUICK["hidden"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "30"], "--k 30 is more than there are latents, 24"),
        (["--text", "short.txt"], "needs at least 4,000"),
        (["--checkpoint", "none"], "none"),
    ],
)
def test_what_it_refuses(options, message, demo, tmp_path, monkeypatch):
    import char_lm

    import tinygrad_rnn as tg

    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a line\n" * 300)
    with pytest.raises((char_lm.Refusal, tg.CheckpointError, OSError), match=message):
        demo.main(demo.arguments().parse_args(["--quick", "--out", str(tmp_path), *options]))


# ---- What it measures ------------------------------------------------------------------------------------------------


def test_labels(demo):
    text = "of it.\n\nHam.\n[He goes.]\nI'll see THE end.\n\nScene II.\n\n"
    found = {name: "".join(np.where(yes, list(text), "_")) for name, yes in demo.labels(text).items()}
    nothing = "_" * len(text)

    def only(*pieces):
        """The text with all but these pieces, at their places, blanked."""
        out = list(nothing)
        for start, piece in pieces:
            assert text[start : start + len(piece)] == piece
            out[start : start + len(piece)] = piece
        return "".join(out)

    assert found["in a speaker's name"] == only((8, "Ham."))
    assert found["in a stage direction"] == only((13, "[He goes."))
    assert found["first character of a line"] == only((0, "o"), (8, "H"), (13, "["), (24, "I"), (43, "S"))
    assert found["last character of a line"] == only((5, "."), (11, "."), (22, "]"), (40, "."), (51, "."))
    assert found["capital after a capital"] == only((34, "HE"), (50, "I"))
    assert found["letter after an apostrophe"] == only((26, "ll"))
    assert found["second letter of a word"][24:42] == only((27, "l"), (30, "e"), (34, "H"), (38, "n"))[24:42]
    assert found["last letter of a word"][:13] == only((1, "f"), (4, "t"), (10, "m"))[:13]
    assert found["fifth letter of a word, or later"] == only((47, "e"))
    assert found["place in the line: to 10"][13:24] == text[13:23] + "\n"
    long = demo.labels("x" * 60)
    bins = [long[f"place in the line: {where}"].sum() for where in ("to 10", "11 to 40", "above 40")]
    assert bins == [10, 30, 20]


@pytest.mark.parametrize("kind", ["dense", "sparse", "tied"])
def test_thresholds_are_the_best(kind, demo):
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    values = {"dense": values, "sparse": np.maximum(values, 0), "tied": np.round(values)}[kind]
    truth = np.stack([values + rng.normal(size=60) > 0.7, rng.random(60) < 0.3, values > 0.2])
    scores, at = demo.thresholds(values, truth)
    for k in range(3):
        expected = max(demo.f1(values >= t, truth[k]) for t in [-np.inf, *values])
        assert scores[k] == pytest.approx(expected) == pytest.approx(demo.f1(values >= at[k], truth[k]))
    if kind != "tied":
        assert scores[2] == pytest.approx(1)
    assert demo.f1(truth[0], truth[0]) == 1 and demo.f1(truth[0], ~truth[0]) == 0


def test_what_was_put_there_is_found(demo):
    """And measured where it was not looked for: there, half of it is gone."""
    rng = np.random.default_rng(0)
    truth = rng.random((2, 1000)) < 0.2
    values = rng.normal(size=(1000, 6))
    values[:, 3], values[:, 4] = -5.0 * truth[0], 5.0 * truth[1]
    values[500:750, 4] = 0
    one, two = demo.best(values, truth, 500, None)
    assert (one.column, one.sign, one.f1) == (3, -1, 1)
    share = truth[1, 750:].sum() / truth[1, 500:].sum()
    assert (two.column, two.sign) == (4, 1) and two.f1 == pytest.approx(2 * share / (1 + share))


def test_probes_learn_what_is_linear(demo):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 5)).astype(np.float32) * np.array([1, 10, 0.1, 1, 1], np.float32) + 3
    truth = np.stack([x[:, 0] - x[:, 3] > 0, x[:, 2] > 3.1], -1)
    scores = demo.probes(x, truth, 200, 0)(x)
    assert scores.shape == (3000, 2) and ((scores > 0) == truth).mean() > 0.97


def test_a_stretch_is_read_with_its_past(demo):
    """The same states, wherever pieces end, as of one call."""
    import char_lm

    run = char_lm.Run(demo.SETTINGS | demo.QUICK, "abc", "")
    numbers = np.random.default_rng(0).integers(0, 3, 1700)
    found = demo.read(run.model, numbers, 2, 10_000, "")
    assert found.at.tolist() == [*range(100, 849), *range(949, 1698)]
    np.testing.assert_array_equal(numbers[found.at + 1], found.follows)
    h, _ = run.model.recurrent(run.model.embedding(numbers[849:1698, None]))
    np.testing.assert_allclose(found.states[749:], h.detach().numpy()[100:, 0], atol=1e-6)


# ---- The README ------------------------------------------------------------------------------------------------------


def test_readme_shows_a_default_run(demo):
    """Its table has a row for each label that is frequent enough, its means are those of the rows."""
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z][^|]*) \| [\d.]+ % \| (.*) \|$", text, flags=re.MULTILINE)
    names = [name for name in demo.labels("") if name != "capital after a capital"]
    assert [name for name, _ in rows] == names
    scores = np.array([[float(score) for score in row.split(" | ")] for _, row in rows])
    (mean,) = re.findall(r"^\| mean \| \| (.*) \|$", text, flags=re.MULTILINE)
    assert scores.shape[1] == 1 + len(demo.METHODS)
    np.testing.assert_allclose(scores.mean(0), [float(m) for m in mean.split(" | ")], atol=0.0101)
    assert "(what_units_mean.png)" in text and (SCRIPT.parent / "what_units_mean.png").stat().st_size < 200_000
