"""`demos/adversarial.py`: its sequences are what it says, its attacks stay within epsilon, the seed decides."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded
from demo_options import check_folder_is_refused, check_refused

import tinygrad_rnn as tg

SCRIPT = Path(__file__).parent.parent / "demos" / "adversarial.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("adversarial") as module:
        yield module


def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--seeds", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "12/12" in done.stderr  # the progress bar
    row = r"^\| adversarial \| many steps \(PGD\) \|( \d+\.\d, \d+\.\d +\|){3}$"
    assert re.search(row, done.stdout, re.MULTILINE), done.stdout
    assert "seed 1, plain: " in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adversarial.json", "adversarial.png"]
    assert (tmp_path / "adversarial.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "adversarial.json").read_text())
    assert [(r["name"], r["seed"]) for r in numbers["results"]] == [
        ("plain", 0), ("adversarial", 0), ("plain", 1), ("adversarial", 1),
    ]  # fmt: skip
    for r in numbers["results"]:
        assert len(r["pgd"]) == len(r["fgsm"]) == len(r["noise"]) == len(numbers["epsilons"]) == 2
        assert r["pgd"] == sorted(r["pgd"], reverse=True) and r["clean"] >= r["pgd"][0]
        assert all(strong <= weak for strong, weak in zip(r["pgd"], r["fgsm"]))


def test_sequences(demo):
    """Bumps of the signs that the class names, a ripple of the phase that it is, a standard deviation of 1."""
    x, y = demo.draw(np.random.default_rng(0), 4000)
    assert x.shape == (40, 4000, 1) and x.dtype == np.float32 and set(y) == {0, 1, 2, 3}
    assert x.std() == pytest.approx(1, abs=0.02)
    assert np.mean((x[:19, :, 0].sum(0) > 0) == (y // 2 == 0)) > 0.85
    assert np.mean((x[19:, :, 0].sum(0) > 0) == (y % 2 == 0)) > 0.85
    t = np.arange(40)[:, None]
    phases = np.stack([np.cos(np.pi / 2 * (t - k)) for k in range(4)])  # [4, 40, 1]
    read = lambda x: (phases * x[:, :, 0]).sum(1).argmax(0)
    assert np.mean(read(x) == y) > 0.98, "nearly always right"
    turned, same = demo.draw(np.random.default_rng(0), 4000, turned=1)
    assert (same == y).all() and np.mean(read(turned) == (y + 1) % 4) > 0.98
    without, _ = demo.draw(np.random.default_rng(0), 4000, ripple=0.0)
    assert np.abs(x - without).max() == pytest.approx(0.2 / demo.STD, rel=1e-5)


def test_the_seed_decides_and_attacks_do_harm(demo):
    options = demo.arguments().parse_args("--quick --updates 2 --hidden 4 --batch 5 --tests 12".split())
    for name, value in demo.QUICK.items():
        if getattr(options, name) is None:
            setattr(options, name, value)

    def numbers(seed, against):
        model, _ = demo.train(against, seed, options)
        return model.head.weight.numpy()

    assert (numbers(0, 0.0) == numbers(0, 0.0)).all() and (numbers(0, 0.0) != numbers(1, 0.0)).any()
    assert (numbers(0, 0.0) != numbers(0, 0.3)).any()

    model, result = demo.Model(4), demo.Result("plain", 0, 0)
    x, y = demo.draw(np.random.default_rng(0), 12)
    model.head.bias.numpy()[:] = 0
    worse = tg.adversarial.fgsm(model.losses(y), x, 0.5)
    assert (model.losses(y)(worse).numpy() >= model.losses(y)(x).numpy()).mean() > 0.8
    demo.attack(model, result, options)
    assert 0 <= result.pgd[-1] <= result.clean <= 1 and 0 <= result.misled <= 1


@pytest.mark.parametrize("name", ["LSTM", "projected-lstm", "broken_cells:Sound"])
def test_cells_are_taken_by_name(name, demo):
    options = demo.arguments().parse_args(["--cell", name])
    model = demo.Model(4, options.cell)
    for scan in model.rnn.scans:
        scan.fused = "never"
    x, y = demo.draw(np.random.default_rng(0), 5)
    worse = tg.adversarial.fgsm(model.losses(y), x, 0.5)
    assert (model.losses(y)(worse).numpy() >= model.losses(y)(x).numpy()).mean() > 0.5
    assert type(model.rnn.cells[0]).__name__.removesuffix("Cell") in ("LSTM", "ProjectedLSTM", "Sound")


@pytest.mark.parametrize(
    "wrong",
    [
        "--cell lsmt", "--epsilon 0", "--epsilon nan", "--epsilons -1", "--updates 0", "--seed -1", "--lr inf",
        "--hidden 2.5",
    ],
)
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)


def test_folder_that_cannot_be_written_to(tmp_path):
    check_folder_is_refused(SCRIPT, tmp_path)
