"""`demos/oscillator.py`: its Runge-Kutta is one; networks that are left alone see only what they said."""

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

SCRIPT = Path(__file__).parent.parent / "demos" / "oscillator.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("oscillator") as module:
        yield module


@pytest.mark.slow
def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--cells", "lem", "MGUCell", "--seeds", "2"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "3/3" in done.stderr  # the progress bar
    assert re.search(r"^\| LEM +\| 101 +\| \d\.\d{5}, \d\.\d{5} +\| 0\.002 ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^\| it goes on +\| 0 ", done.stdout, re.MULTILINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oscillator.json", "oscillator.png"]
    assert (tmp_path / "oscillator.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "oscillator.json").read_text())
    assert [(r["cell"], r["seed"]) for r in numbers["results"]] == [("lem", 0), ("mgu", 0), ("lem", 1), ("mgu", 1)]
    for r in numbers["results"]:
        assert len(r["validation"]) == 3 and len(r["alone"]) == len(r["by_step"]) == 60
        assert r["test"] == pytest.approx(np.sqrt(np.square(r["by_step"]).mean()), rel=1e-4)


@pytest.mark.slow
def test_runge_kutta_against_a_far_finer_step(demo):
    """Order four: half the step, a sixteenth of the error; and the step that is taken is fine enough for float32."""
    v = np.linspace(-1, 1, 5)
    exact = demo.nerve(v, 100, between=128)
    coarse, fine, used = (abs(demo.nerve(v, 100, between=n) - exact).max() for n in (4, 8, 16))
    assert 13 < coarse / fine < 19 and used < 2e-7
    assert exact.shape == (101, 5, 2) and (exact[0] == np.stack([v, 0 * v], -1)).all()


def test_the_equations(demo):
    """Slopes of the model as it is written; where both vanish nothing moves; and it goes round and round."""
    dv, dw = demo.slopes(np.array([2.0]), np.array([0.25]))
    assert dv == pytest.approx(2 - 8 / 3 - 0.25 + 0.5) and dw == pytest.approx((2 + 0.7 - 0.8 * 0.25) / 50)
    (v,) = (z.real for z in np.roots([-1 / 3, 0, 1 - 1 / 0.8, 0.5 - 0.7 / 0.8]) if abs(z.imag) < 1e-9)
    assert np.abs(demo.slopes(v, (v + 0.7) / 0.8)).max() < 1e-12
    seen = demo.nerve(np.array([0.3]), 1000, between=2)[:, 0, 0]
    up = np.flatnonzero((seen[:-1] < 0) & (seen[1:] >= 0))
    assert len(up) >= 3 and np.ptp(np.diff(up)) <= 1 and seen.max() > 1.9 and seen.min() < -1.9


def test_rules_that_learn_nothing(demo):
    line = np.arange(6.0).reshape(6, 1, 1)
    assert demo.rules(line) == {"it stays": 1.0, "it goes on": 0.0}


@pytest.mark.slow
def test_left_alone_it_sees_only_what_it_said(demo):
    tg.manual_seed(0)
    model = demo.Model("lem", 4)
    v = demo.voltages(np.random.default_rng(0), 2, 12)
    said = model.left_alone(v, 5)
    assert said.shape == (12, 2, 1)
    other = v.copy()
    other[5:] += 9  # which it does not see
    np.testing.assert_array_equal(model.left_alone(other, 5), said)
    with tg.no_grad():
        fed = np.concatenate([v[:5], said[4:11]])
        np.testing.assert_allclose(model(fed)[0].numpy(), said, atol=1e-5)


@pytest.mark.slow
def test_a_few_passes_are_better_than_the_rule_that_it_stays(demo):
    """With a tenth of the time; the seed decides."""
    options = demo.arguments().parse_args("--cells lem --epochs 40 --batch 8".split())
    options.hidden, options.sequences, options.tests, options.steps = 16, 32, 32, 300
    rng = np.random.default_rng(0)
    data = tuple(demo.voltages(rng, 32, 300) for _ in range(3))
    result = demo.learn("lem", 0, data, options)
    assert result.test < 0.8 * demo.rules(data[2])["it stays"]
    assert demo.learn("lem", 0, data, options).validation == result.validation


@pytest.mark.parametrize("wrong", ["--cells nobody", "--epochs 0", "--lr inf", "--seed -1", "--steps 2.5"])
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)
