"""`demos/long_memory.py --remedies`: what it leaves, that the seed decides, and that its nets start as published."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded
from demo_options import check_refused

import tinygrad_rnn as tg

DEMOS = Path(__file__).parent.parent / "demos"
COMMAND = [sys.executable, "-W", "error", str(DEMOS / "long_memory.py"), "--remedies", "--quick"]


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("remedies") as module:
        yield module


def options(demo, *more):
    chosen = "--lengths 10 --updates 6 --hidden 16 --every 3 --often 2 --sure 40 --seeds 1".split()
    return demo.arguments().parse_args([*chosen, *more])


def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    done = subprocess.run([*COMMAND, "--out", str(tmp_path)], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "20/20" in done.stderr  # the progress bar
    assert re.search(r"^\| clipped \+ Omega \| 0 of 2; wrong .* \| 0 of 2; wrong .* \|$", done.stdout, re.MULTILINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["remedies.json", "remedies.png"]
    assert (tmp_path / "remedies.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "remedies.json").read_text())
    assert len({(r["lengths"], r["way"], r["seed"]) for r in results}) == len(results) == 2 * 3 * 2
    assert all(r["updates"] == [10, 20] and len(r["errors"]) == 2 for r in results)


def test_the_seed_decides_and_the_ways_differ(demo):
    def errors(way, seed):
        result = demo.learn("10", way, seed, options(demo, "--lr", "0.5", "--clip", "0.01"))
        return result.errors, result.radius

    assert errors("omega", 0) == errors("omega", 0) != errors("omega", 1)
    assert len({errors(way, 0)[1] for way in demo.WAYS}) == 3


def test_nets_start_as_published(demo):
    model = demo.Model(40)
    W = model.rnn.cell.weight_hh.numpy()
    assert ((W != 0).sum(0) == 15).all() and demo.spectral_radius(W) == pytest.approx(0.95, rel=1e-4)
    assert not model.rnn.cell.bias_hh.numpy().any() and not model.scores.bias.numpy().any()
    assert np.std(model.rnn.cell.weight_ih.numpy()) == pytest.approx(0.01, rel=0.3)


def test_a_solved_task_ends_a_run(demo, monkeypatch):
    """At the first look that finds all right, with errors as they are measured then."""
    looks = []
    monkeypatch.setattr(demo, "all_right", lambda model, lengths, count, rng: looks.append(count) or len(looks) == 2)
    monkeypatch.setattr(demo, "errors_of", lambda model, lengths, count, rng: 0.01)
    result = demo.learn("10-12", "clipped", 0, options(demo))
    assert (result.solved, result.updates, result.errors, looks) == (4, [3, 4], [0.01, 0.01], [40, 40])
    assert demo.outcome([result]) == "1 of 1, after 0.004k"


def test_all_right_is_all_of_ten_lengths(demo):
    """Of those that are trained on, the longest left out; one wrong answer is enough."""
    seen, wrong = [], []

    def oracle(x):
        """What `order` asks: the two symbols among X and Y, in their order."""
        symbols = x.argmax(-1)  # [T, B]
        seen.append(symbols.shape)
        kinds = [sequence[sequence >= 4] - 4 for sequence in symbols.T]
        answers = np.array([2 * first + second for first, second in kinds])
        if len(seen) in wrong:
            answers[-1] = (answers[-1] + 1) % 4
        return tg.tensor(np.eye(4)[answers])

    assert demo.all_right(oracle, (20, 30), 400, np.random.default_rng(0))
    assert sum(B for _, B in seen) == 400 and {T for T, _ in seen} <= set(range(20, 30)) and len({*seen}) > 4
    seen.clear()
    wrong.append(97)
    assert not demo.all_right(oracle, (20, 30), 400, np.random.default_rng(0)) and len(seen) == 97
    assert {demo.drawn((20, 20), np.random.default_rng(n)) for n in range(5)} == {20}


def test_gradients_that_are_not_finite_end_a_run(demo, monkeypatch):
    starts = demo.Model.__init__

    def broken(self, hidden):
        starts(self, hidden)
        self.scores.bias.numpy()[...] = np.nan

    monkeypatch.setattr(demo.Model, "__init__", broken)
    result = demo.learn("10", "sgd", 0, options(demo))
    assert result.astray and result.solved is None and "1 astray" in demo.outcome([result])


@pytest.mark.parametrize("wrong", ["--lengths 9", "--lengths 30-20", "--lengths 20-", "--ways adam", "--alpha -1"])
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)


def test_errors_are_counted_over_all_lengths(demo):
    seen = []

    def first_class(x):
        seen.append(x.shape)
        return tg.tensor(np.eye(4)[np.zeros(x.shape[1], int)])

    share = demo.errors_of(first_class, (10, 20), 4000, np.random.default_rng(0))
    assert share == pytest.approx(0.75, abs=0.03)
    assert {T for T, _, _ in seen} == set(range(10, 21)) and sum(B for _, B, _ in seen) == 4000


def test_readme_shows_a_run(demo):
    """Its table has the default lengths and all ways; its numbers are possible ones; its picture is small."""
    text = (DEMOS / "README.md").read_text(encoding="utf-8")
    assert "`python demos/long_memory.py --remedies`" in text
    (header,) = re.findall(r"^\| +\| (lengths .*) \|$", text, flags=re.M)
    assert [name.strip() for name in header.split("|")] == [f"lengths {each}" for each in demo.DEFAULTS["lengths"]]
    for way in demo.WAYS.values():
        (row,) = re.findall(rf"^\| {re.escape(way.label)} +\| (.*) \|$", text, flags=re.M)
        columns = [column.strip() for column in row.split("|")]
        assert len(columns) == len(demo.DEFAULTS["lengths"])
        for column in columns[:2]:
            solved, runs = map(int, re.match(r"(\d) of (\d)", column).groups())
            assert runs == demo.DEFAULTS["seeds"] and (solved == runs) == ("wrong" not in column)
            for updates in re.findall(r"([\d.]+)k", column):
                assert 0 < float(updates) <= demo.DEFAULTS["updates"] / 1000
    assert "(remedies.png)" in text and (DEMOS / "remedies.png").stat().st_size < 200_000
