"""`demos/long_memory.py`: its tasks are the published ones, its gradients the tape's, the seed decides its results."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded
from demo_options import check_folder_is_refused, check_refused

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells.catalogue import values_of

SCRIPT = Path(__file__).parent.parent / "demos" / "long_memory.py"
FURTHER = "lem cornn lru mlstm deltanet".split()
TINY = "--hidden 8 --sequences 40 --batch 8 --every 2 --tests 20".split()


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("long_memory") as module:
        yield module


def options(demo, *arguments):
    return demo.arguments().parse_args([*TINY, *arguments])


# ---- A run -----------------------------------------------------------------------------------------------------------


def test_run_leaves_pictures_numbers_and_a_table(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", *TINY, "--out", str(tmp_path)]
    chosen = "--tasks adding-10 copy-10 --cells rnn lstm --seed 3 --seeds 2".split()
    done = subprocess.run([*command, *chosen], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "40/40" in done.stderr  # the progress bar
    assert re.search(r"^\| RNN \(tanh\) +\| \(\d+%\), \(\d+%\) +\| \(\d+%\), \(\d+%\) +\|$", done.stdout, re.MULTILINE)
    assert "after 40 sequences" in done.stdout

    names = ["long_memory.json", "long_memory.png", "long_memory_gradients.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names[1:]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "long_memory.json").read_text())
    assert len({(r["task"], r["cell"], r["seed"]) for r in results}) == len(results) == 2 * 2 * 2
    for r in results:
        assert r["seen"] == [0, 16, 32, 40] and len(r["losses"]) == 4
        assert list(r["before"]) == list(r["after"]) == (["h"] if r["cell"] == "rnn" else ["h", "c"])
        assert all(len(norms) == int(r["task"][-2:]) + 20 * (r["task"] == "copy-10") for norms in r["after"].values())


def test_the_seed_decides(demo):
    def losses(seed):
        return demo.learn(demo.Task.named("adding-10"), "rnn", seed, options(demo)).losses

    assert losses(0) == losses(0) != losses(1)


def test_what_a_cell_can_learn_it_learns(demo):
    """And stops there. One marked number of a short sequence goes into the state, the other one on top of it."""
    chosen = options(demo, *"--hidden 16 --sequences 8000 --batch 16 --every 25 --tests 200 --lr 0.02".split())
    result = demo.learn(demo.Task.named("adding-10"), "indrnn", 0, chosen)
    assert result.solved == result.seen[-1] < 8000
    assert result.losses[-1] < 0.01 <= min(result.losses[:-1])
    assert demo.outcome(result) == f"{result.solved / 1000:.1f}"


ALONE = [row.short for row in tg.nn.cells.list(4, 4) if not values_of(tg.nn.cells.make(row.short, 4, 4))]


@pytest.mark.slow
@pytest.mark.parametrize("cell", ALONE[3::9])  # each compiles
def test_cells_are_taken_by_name(cell, demo):
    chosen = options(demo, *f"--hidden 8 --sequences 16 --batch 8 --tests 8 --cells {cell.upper()}".split())
    assert chosen.cells == [cell]
    result = demo.learn(demo.Task.named("copy-10"), cell, 0, chosen)
    row = demo.table([result]).splitlines()[2]
    assert len(result.losses) > 1 and row.startswith(f"| {demo.recipe_of(cell).label} ")


def test_cells_without_a_recipe(demo):
    """They have the tints of a map, each another one; and the names of commands."""
    results = [demo.Result("adding-10", cell, 0, 1.0, 1) for cell in ("lstm", "slstm", "ran", "sru")]
    assert len({demo.colour(r.cell, results) for r in results}) == 4
    assert demo.known("Layer-Norm-GRU") == "layernormgru" and demo.known("chrono") == "chrono"


def test_without_a_word_only_the_usual_cells_learn(demo, tmp_path, monkeypatch):
    """The further recipes take longer, and have to be asked for."""
    asked = []

    def learn(task, cell, seed, options):
        asked.append(cell)
        return demo.Result(str(task), cell, seed, 1.0, 1, [0], [1.0])

    for name in "learn", "draw_learning", "draw_gradients":
        monkeypatch.setattr(demo, name, learn if name == "learn" else lambda results, path: None)
    demo.main(options(demo, "--tasks", "copy-10", "--out", str(tmp_path)))
    assert asked == "rnn irnn lstm chrono gru mgu mingru indrnn".split()
    assert [*demo.RECIPES][len(asked) :] == FURTHER
    asked.clear()
    demo.main(options(demo, "--tasks", "copy-10", "--out", str(tmp_path), "--cells", *FURTHER))
    assert asked == FURTHER


def test_names_are_spelt_as_in_the_papers(demo):
    """Also where a class's name begins with a capital letter."""
    labels = [demo.recipe_of(cell).label for cell in ("mlstm", "slstm", "mingru", "minlstm", "cornn", "nbrc", "sru")]
    assert labels == ["mLSTM", "sLSTM", "minGRU", "minLSTM", "coRNN", "nBRC", "SRU"]
    assert demo.label("slstm") == "sLSTM" and demo.label("my_module:MyCell") == "MyCell"


def test_gradients_that_are_not_finite_end_a_run(demo):
    result = demo.learn(demo.Task.named("adding-10"), "irnn", 0, options(demo, "--lr", "1e20"))
    assert result.astray and result.solved is None and demo.outcome(result) == "astray"


@pytest.mark.parametrize(
    "wrong", ["--tasks adding", "--tasks adding-9", "--tasks walking-100", "--cells transformer", "--seed -1",
              "--sequences 0", "--lr 0", "--lr nan", "--clip inf", "--hidden 2.5"],
)  # fmt: skip
def test_wrong_options(wrong, demo, capsys):
    check_refused(demo.arguments(), wrong, capsys)


def test_a_cell_that_wants_more_than_a_task_has_is_refused_by_name(demo, capsys):
    with pytest.raises(SystemExit):
        demo.arguments().parse_args(["--cells", "bahdanau"])
    assert "BahdanauCell needs memory by name, which there is none of here" in capsys.readouterr().err


def test_folder_that_cannot_be_written_to(tmp_path):
    check_folder_is_refused(SCRIPT, tmp_path)


# ---- The tasks: read each sequence as a person would, and answer -----------------------------------------------------


def test_adding(demo):
    task = demo.Task.named("adding-11")
    x, y = task.draw(np.random.default_rng(0), 4000)
    assert x.shape == (11, 4000, 2) and y.shape == (4000, 1)
    for b in range(200):
        marked = [t for t in range(11) if x[t, b, 1] == 1]
        assert len(marked) == 2 and marked[0] < 5 <= marked[1]
        assert y[b, 0] == pytest.approx(sum(x[t, b, 0] for t in marked))
    assert set(np.argmax(x[:5, :, 1], 0)) == set(range(5)) and set(np.argmax(x[5:, :, 1], 0)) == set(range(6))
    without_memory = task.loss(tg.ones(4000, 1), y).item()
    assert without_memory == pytest.approx(task.baseline, rel=0.05) and not task.solved(None, y, without_memory)
    assert task.solved(None, y, 0.0099)


def test_order(demo):
    task = demo.Task.named("order-30")
    x, y = task.draw(np.random.default_rng(0), 400)
    assert x.shape == (30, 400, 6) and (x.sum(-1) == 1).all()
    seen = set()
    for b in range(400):
        symbols = "".join("abcdXY"[k] for k in x[:, b].argmax(-1))
        (first, one), (second, two) = [(t, c) for t, c in enumerate(symbols) if c in "XY"]
        assert 3 <= first < 6 and 15 <= second < 18
        assert ("XX", "XY", "YX", "YY")[y[b]] == one + two
        seen.add((first, second, one + two))
    assert len(seen) == 3 * 3 * 4
    guess = tg.zeros(400, 4)
    assert task.loss(guess, y).item() == pytest.approx(task.baseline)
    right = np.eye(4)[y]
    assert not task.solved(guess.numpy(), y, 0.0) and task.solved(right, y, 9.9)
    right[:5] = 1 - right[:5]
    assert not task.solved(right, y, 0.0)


def test_places_of_order_are_the_authors(demo):
    """int(0.1 T) and int(0.5 T) on, as many as int(0.1 T), also where T is not a multiple of ten."""
    for T in (10, 29, 57, 99):
        x, _ = demo.order(np.random.default_rng(0), 500, T)
        first, second = zip(*(np.flatnonzero(sequence >= 4) for sequence in x.argmax(-1).T))
        assert {*first} == {*range(int(0.1 * T), 2 * int(0.1 * T))}
        assert {*second} == {*range(int(0.5 * T), int(0.5 * T) + int(0.1 * T))}


def test_copy(demo):
    task = demo.Task.named("copy-12")
    x, y = task.draw(np.random.default_rng(0), 300)
    assert x.shape == (32, 300, 10) and y.shape == (32, 300)
    read = x.argmax(-1)
    assert set(read[:10].ravel()) == set(range(1, 9))
    assert (read[10:21] == 0).all() and (read[21] == 9).all() and (read[22:] == 0).all()
    assert (y[:22] == 0).all() and (y[22:] == read[:10]).all()
    scores = np.full((32, 300, 9), -100.0)
    scores[:22, :, 0] = scores[22:, :, 1:] = 0
    assert task.loss(tg.tensor(scores), y).item() == pytest.approx(task.baseline)
    assert task.solved(None, y, 0.099 * task.baseline) and not task.solved(None, y, 0.101 * task.baseline)


def test_recall(demo):
    task = demo.Task.named("recall-10")
    x, y = task.draw(np.random.default_rng(0), 500)
    assert x.shape == (20, 500, 28) and y.shape == (10, 500) and (x[:, :, :20].sum(-1) == 1).all()
    assert (x[:10, :, 20:].sum(-1) == 1).all() and not x[10:, :, 20:].any(), "a value with each key, none when asked"
    keys, values = x[:, :, :20].argmax(-1), x[:10, :, 20:].argmax(-1)
    for b in range(500):
        told = dict(zip(keys[:10, b], values[:, b]))
        assert len(told) == 10, "no key twice"
        assert [told[key] for key in keys[10:, b]] == y[:, b].tolist() and len(set(keys[10:, b])) == 10
    assert set(keys.ravel()) == set(range(20)) and set(y.ravel()) == set(range(8))
    assert np.mean(keys[10:] == keys[:10]) < 0.2, "asked in another order"
    guess = tg.zeros(10, 500, 8)
    assert task.loss(guess, y).item() == pytest.approx(task.baseline)
    right = np.eye(8)[y]
    assert task.solved(right, y, 9.9) and not task.solved(guess.numpy(), y, 0.0)
    right[:, :10] = 1 - right[:, :10]
    assert not task.solved(right, y, 0.0)


def test_the_last_steps_answer(demo):
    """As many scores as there are answers, each of the step that asked."""
    for name, shape in (("recall-10", (10, 3, 8)), ("copy-10", (30, 3, 9)), ("order-20", (3, 4))):
        task = demo.Task.named(name)
        model, (x, y) = demo.Model(task, demo.RECIPES["irnn"], 6), task.draw(np.random.default_rng(0), 3)
        before = model(x).numpy()
        assert before.shape == shape and before.shape[:-1] == y.shape
        x[-1] += 1
        changed = (model(x).numpy() != before).any(-1)
        assert changed[-1].all() if name == "order-20" else (changed[-1].all() and not changed[:-1].any())


# ---- The cells -------------------------------------------------------------------------------------------------------


def test_recipes(demo):
    """How cells start: what recurrent weights do to lengths, and how much gates keep."""
    H, sigmoid = 32, lambda a: 1 / (1 + np.exp(-a))
    made = {name: recipe.make(3, H, 50) for name, recipe in demo.RECIPES.items()}
    for name in "rnn", "irnn", "lstm", "chrono", "gru", "mgu":
        for block in made[name][0].weight_hh.numpy().reshape(-1, H, H):
            np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-5)
    bound = H**-0.5

    def between(bias, gate, low, high):
        block = bias.numpy()[gate * H : (gate + 1) * H]
        return low <= block.min() and block.max() <= high

    assert between(made["lstm"][0].bias_ih, 1, 1 - bound, 1 + bound)
    assert between(made["gru"][0].bias_ih, 1, 1 - bound, 1 + bound)
    assert between(made["mgu"][0].bias, 0, -1 - bound, -1 + bound)
    assert between(made["mingru"][0].bias, 0, -1 - bound, -1 + bound)
    i, f, g, o = made["chrono"][0].bias_ih.numpy().reshape(4, H)
    assert (i == -f).all() and not g.any() and not o.any() and not made["chrono"][0].bias_hh.numpy().any()
    spans = 1 / (1 - sigmoid(f.astype(np.float64)))  # time constants of the forget gates
    assert 2 <= spans.min() < 15 and 35 < spans.max() <= 50
    assert [cell.input_size for cell in made["indrnn"]] == [3, H]


def test_recipes_of_further_cells(demo):
    """What their authors' code has, and what it says of long sequences."""
    made = {name: demo.RECIPES[name].make(3, 64, 100) for name in FURTHER}
    (lem,), (cornn,), (mlstm,), (deltanet,) = (made[name] for name in FURTHER if name != "lru")
    assert lem.dt == 0.1
    assert (cornn.dt, cornn.gamma, cornn.epsilon, demo.RECIPES["cornn"].lr) == (0.06, 66, 15, 0.02)
    assert mlstm.heads == deltanet.heads == 4 and mlstm.bias.numpy()[-4:].tolist() == [3, 4, 5, 6]
    assert [block.input_size for block in made["lru"]] == [3, 64]
    for block in made["lru"]:
        r = np.exp(-np.exp(block.lru.nu_log.numpy()))
        assert len(r) == 32 and 0.9 <= r.min() < 0.95 < 0.98 < r.max() <= 0.999
        assert np.exp(block.lru.theta_log.numpy()).max() <= np.pi / 10
    assert [demo.RECIPES["mlstm"].make(3, H, 100)[0].heads for H in (5, 6, 8)] == [1, 2, 4]


@pytest.mark.parametrize("inputs", [3, 6])
def test_block_of_the_lru(inputs, demo):
    """Line by line, with complex numbers; x goes through a map where its width is another one."""
    block, rng = demo.LRUBlock(inputs, 6).double(), np.random.default_rng(0)
    p = {name: parameter.numpy() for name, parameter in block.named_parameters()}
    assert any(name.startswith("encode") for name in p) == (inputs == 3)
    x, s, expected = rng.normal(size=(5, 2, inputs)), np.zeros((2, 3), complex), []
    part = lambda name: p[f"lru.{name}_re"] + 1j * p[f"lru.{name}_im"]
    for u in x:
        u = u @ p["encode.weight"].T + p["encode.bias"] if inputs == 3 else u
        n = (u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + 1e-5)
        n = n * p["norm.weight"] + p["norm.bias"]
        s = np.exp(-np.exp(p["lru.nu_log"]) + 1j * np.exp(p["lru.theta_log"])) * s
        s = s + np.exp(p["lru.gamma_log"]) * (n @ part("B").T)
        y = (s @ part("C").T).real + p["lru.D"] * n
        v = np.vectorize(lambda a: a * (1 + math.erf(a / math.sqrt(2))) / 2)(y)
        a, gate = np.split(v @ p["out.weight"].T + p["out.bias"], 2, axis=1)
        expected.append(u + a / (1 + np.exp(-gate)))
    states = block.begin(None, 2)
    for u, y in zip(tg.tensor(x), expected):
        states = block.advance(u, states)
        np.testing.assert_allclose(states[0].numpy(), y, rtol=0, atol=1e-12)


def test_single_recurrent_weights_stay_bounded(demo):
    model = demo.Model(demo.Task.named("adding-10"), demo.RECIPES["indrnn"], 8)
    for layer in model.layers:
        layer.cell.weight_u.numpy()[:2] = 5, -5
    model.keep_bounds(10)
    for layer in model.layers:
        assert layer.cell.weight_u.numpy()[:2] == pytest.approx([2**0.1, -(2**0.1)])


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "lru", "mlstm")]  # more to compile


@pytest.mark.parametrize("name", ["rnn", "irnn", "indrnn", *SLOW])
def test_gradient_norms_are_those_of_the_tape(name, demo):
    task = demo.Task.named({"rnn": "copy-10", "irnn": "recall-10"}.get(name, "adding-10"))
    model = demo.Model(task, demo.RECIPES[name], 6).double()
    x, y = task.draw(np.random.default_rng(0), 5)
    found = demo.gradient_norms(model, task, x.astype(np.float64), y)

    below, last = tg.tensor(x.astype(np.float64)), model.layers[-1].cell
    for layer in list(model.layers)[:-1]:
        below, _ = layer(below)
    states, steps = last.begin(None, 5), []
    for t in range(len(x)):
        states = last.advance(below[t], states)
        steps.append(states)
        for state in states:
            state.retain_grad()
    outputs = [new[0] for new in steps]
    scores = model.scores(outputs[-1] if task.name == "adding" else tg.stack(outputs[-task.answers :]))
    task.loss(scores, y).backward()
    assert list(found) == list(last.state_names)
    norm = lambda state: 0.0 if state.grad is None else float(np.linalg.norm(state.grad.numpy()))
    expected = [[norm(new[k]) for new in steps] for k in range(len(found))]
    rounding = 1e-12 * np.max(expected)  # of the mLSTM's m, which cancels, nothing else is left
    for norms, of_state in zip(found.values(), expected):
        np.testing.assert_allclose(norms, of_state, rtol=1e-9, atol=rounding)


# ---- The README ------------------------------------------------------------------------------------------------------


def test_readme_shows_a_default_run(demo):
    """Its table has the default tasks and all recipes; its numbers are possible ones; its pictures are small."""
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert "`python demos/long_memory.py --seeds 3`" in text
    text = text.partition("## Which cells remember")[2].partition("\n## ")[0]
    (header,) = re.findall(r"^\| \| (adding-.*) \|$", text, flags=re.M)
    assert header.split(" | ") == list(demo.DEFAULTS["tasks"])
    every = demo.DEFAULTS["every"] * demo.DEFAULTS["batch"] / 1000
    for recipe in demo.RECIPES.values():
        (row,) = re.findall(rf"^\| {re.escape(recipe.label)} \| (.*) \|$", text, flags=re.M)
        columns = [column.split(", ") for column in row.split(" | ")]
        assert len(columns) == len(demo.DEFAULTS["tasks"])
        assert all(len(column) == 3 for column in columns)  # three seeds
        for column in columns:
            for solved in (float(outcome) for outcome in column if not outcome.startswith("(")):
                assert solved <= demo.DEFAULTS["sequences"] / 1000
                assert solved / every == pytest.approx(round(solved / every))
    assert f"`python demos/long_memory.py --seeds 3 --cells {' '.join(FURTHER)}`" in text
    recall = "--tasks recall-10 --cells gru lstm mlstm deltanet --lr 0.005 --sequences 20000"
    assert f"`python demos/long_memory.py {recall}`" in text.replace("\n", " ")
    for name in "long_memory.png", "long_memory_gradients.png", "long_memory_further.png", "long_memory_recall.png":
        assert f"({name})" in text and (SCRIPT.parent / name).stat().st_size < 200_000
