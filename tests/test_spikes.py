"""`demos/spikes.py`: only the order tells its sequences apart, and adaptive units learn it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded
from demo_options import check_refused

SCRIPT = Path(__file__).parent.parent / "demos" / "spikes.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("spikes") as module:
        yield module


def options(demo, text):
    chosen = demo.arguments().parse_args(text.split())
    demo.fill(chosen, demo.QUICK, demo.QUICK)
    return chosen


@pytest.mark.slow
def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--seeds", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "6/6" in done.stderr  # the progress bar
    for name in ("spikes counted, linear", "8 LIF", "8 ALIF, adaptive"):
        assert re.search(rf"^\| {name} +\| \d+ +\| \d+\.\d, \d+\.\d ", done.stdout, re.MULTILINE), done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spikes.json", "spikes.png"]
    assert (tmp_path / "spikes.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "spikes.json").read_text())
    assert [(r["kind"], r["seed"]) for r in numbers["results"]] == [("lif", 0), ("alif", 0), ("lif", 1), ("alif", 1)]
    assert all(r["seen"] == [3, 6] and 0 < r["rate"] < 0.5 for r in numbers["results"])


def test_sequences_differ_in_the_order_alone(demo):
    x, y = demo.draw(np.random.default_rng(0), 2000, 200)
    assert x.shape == (200, 2000, 25) and x.dtype == np.float32 and set(np.unique(x)) == {0, 1}
    assert abs(y.mean() - 0.5) < 0.05
    for group in (slice(0, 10), slice(10, 20)):
        each = x[:, :, group].sum((0, 2))
        assert abs(each[y == 0].mean() - each[y == 1].mean()) < 2, "as many spikes whatever the order"
    middle = lambda group: (np.arange(100)[:, None] * x[:100, :, group].sum(2)).sum(0) / x[:100, :, group].sum((0, 2))
    sooner = middle(slice(0, 10)) < middle(slice(10, 20))
    assert np.mean(sooner == (y == 0)) > 0.95, "who came first"
    assert not x[:-20, :, 20:].any() and 0.35 < x[-20:, :, 20:].mean() < 0.45
    assert x[100:-20, :, :20].mean() == pytest.approx(0.02, abs=0.002), "nothing is told after step 100"


def test_counting_is_guessing(demo):
    chosen = options(demo, "--quick --tests 500 --steps 200")
    assert 0.42 < demo.counting(chosen, 0) < 0.58


def test_answers_are_what_would_be_said_at_each_step(demo):
    model = demo.Model("alif", 6)
    x, _ = demo.draw(np.random.default_rng(0), 3, 120)
    scores, z = model(x)
    e = np.exp(scores.numpy())
    np.testing.assert_allclose(model.answers(z.numpy())[-1], e[:, 0] / e.sum(1), rtol=1e-5)


@pytest.mark.slow
def test_units_that_tire_learn_the_order_over_a_short_wait(demo):
    """Far above a guess; the seed decides."""
    chosen = options(demo, "--updates 150 --hidden 60 --batch 32 --every 150 --tests 300 --steps 130 --lr 0.01")
    result, _ = demo.learn("alif", 0, chosen)
    assert result.accuracy[-1] > 0.75
    chosen.updates = chosen.every = 3
    first, again, other = (demo.learn("lif", seed, chosen)[1].head.weight.numpy() for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("wrong", ["--cells gru", "--steps 100", "--updates 0", "--lr nan", "--seed -1"])
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)
