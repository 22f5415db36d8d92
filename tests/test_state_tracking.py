"""`demos/state_tracking.py`: weights set by hand do it, cells that cannot come to rest, the seed decides results."""

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

SCRIPT = Path(__file__).parent.parent / "demos" / "state_tracking.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("state_tracking") as module:
        yield module


def options(demo, text=""):
    chosen = demo.arguments().parse_args(f"--quick --hidden 4 --updates 3 --tests 10 {text}".split())
    demo.fill(chosen, demo.DEFAULTS, demo.QUICK)
    return chosen


def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--seeds", "2", "--out", str(tmp_path)]
    chosen = "--cells rnn mingru --seed 3 --updates 12 --tests 20".split()
    done = subprocess.run([*command, *chosen], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "12/12" in done.stderr  # the progress bar
    shares = r"\d+\.\d%, \d+\.\d%"
    assert re.search(rf"^\| RNN +\| no, 0 of 2 +\| {shares} +\| {shares} +\| right for 10,000 +\|", done.stdout, re.M)
    assert re.search(rf"^\| minGRU +\| no, 0 of 2 +\| {shares} +\| {shares} +\|  +\| h goes a part", done.stdout, re.M)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state_tracking.json", "state_tracking.png"]
    assert (tmp_path / "state_tracking.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "state_tracking.json").read_text())
    assert [(r["cell"], r["seed"]) for r in results] == [("rnn", 3), ("rnn", 4), ("mingru", 3), ("mingru", 4)]
    assert all(len(r["right"]) == 256 and len(r["ones"]) == 64 for r in results)


def test_sequences(demo):
    x, odd = demo.draw(np.random.default_rng(0), 30, 200)
    assert x.shape == (30, 200, 2) and (x.sum(-1) == 1).all() and 0.45 < x[..., 1].mean() < 0.55
    for b in range(50):
        ones = 0
        for t in range(30):
            ones += x[t, b, 1] == 1
            assert odd[t, b] == ones % 2


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "slstm"])
def test_weights_set_by_hand(name, demo):
    """Right after every bit of every sequence of seven, on the tape, in both dtypes, from whatever bit it begins."""
    every = np.array([[n >> t & 1 for n in range(128)] for t in range(7)])
    for dtype in (np.float32, np.float64):
        model = demo.BY_HAND[name]()
        model = model if dtype == np.float32 else model.double()
        for layer in model.layers:
            layer.fused = "never"
        right = model.right(demo.symbols(every).astype(dtype), every.cumsum(0) % 2)
        assert (right == 1).all()
    wrong = demo.BY_HAND[name]()
    wrong.layers[0].cell.weight_hh.numpy()[:] *= -1
    wrong.layers[0].fused = "never"
    assert (wrong.right(demo.symbols(every), every.cumsum(0) % 2) < 1).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "slstm"])
def test_weights_set_by_hand_for_ten_thousand_bits(name, demo):
    assert demo.right_by_hand(name, seed=5)


def test_what_cannot_comes_to_rest_on_ones(demo):
    """In float32, to the bit, with two layers: what the reasons say. What can, set by hand, goes on for ever."""
    tg.manual_seed(0)
    ones = demo.symbols(np.ones((800, 1), int))
    for name in demo.REASONS:
        model = demo.Model.of(name, 3, 2)
        for layer in model.layers:
            layer.fused = "never"
        with tg.no_grad():
            scores = model(ones).numpy()
        assert (scores[0] != scores[-1]).any() and (scores[-50:] == scores[-1]).all(), name
    with tg.no_grad():
        model = demo.BY_HAND["rnn"]()
        model.layers[0].fused = "never"
        assert (model(ones).numpy()[2:].argmax(-1) != model(ones).numpy()[1:-1].argmax(-1)).all()


def test_the_seed_decides(demo):
    learn = lambda text, seed=0: demo.learn("rnn", seed, options(demo, text)).ones
    assert learn("") == learn("") != learn("", 1)
    assert learn("") != learn("--ask last")


@pytest.mark.slow
def test_an_rnn_learns_it_and_a_mingru_does_not(demo):
    chosen = options(demo, "--hidden 16 --updates 500 --batch 64 --tests 200 --lr 0.01")
    yes, no = (demo.learn(name, 0, chosen) for name in ("lstm", "mingru"))
    assert yes.learnt and yes.after(200, 256) > 0.99
    assert not no.learnt and 0.45 < no.after(*demo.TESTED) < 0.55
    assert 0.5 <= demo.guessing(0, 1000) < 0.51
    rows = demo.table([yes, no], {"lstm": True}).splitlines()
    assert rows[2].startswith("| LSTM   | yes, 1 of 1 | 100.0% ") and rows[3].startswith("| minGRU | no, 0 of 1  |")


@pytest.mark.parametrize(
    "wrong", ["--cells transformer", "--cells chrono", "--seed -1", "--updates 0", "--lr nan", "--ask never"]
)
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)


def test_readme_shows_a_default_run(demo):
    """Its table has all cells and three seeds, its yes and no are those of its numbers, its picture is small."""
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert "`python demos/state_tracking.py --seeds 3`" in text
    text = text.partition("## Which cells can keep track of a bit")[2].partition("\n## ")[0]
    for cell in demo.CELLS:
        columns = r"(yes|no), (\d) of 3 \| .* \| (.*%) \| (.*) \| (.*)"
        (row,) = re.findall(rf"^\| {demo.label(cell)} \| {columns} \|$", text, re.M)
        shares = [float(share.rstrip("%")) for share in row[2].split(", ")]
        assert len(shares) == 3 and sum(share >= 99 for share in shares) == int(row[1])
        assert (row[0] == "yes") == (int(row[1]) > 1) == (not row[4]) == (cell not in demo.REASONS)
        assert bool(row[3]) == (cell in demo.BY_HAND)
        assert cell not in demo.REASONS or max(shares) < 55
    assert "(state_tracking.png)" in text and (SCRIPT.parent / "state_tracking.png").stat().st_size < 200_000
