"""`demos/compare.py`: its recipes are the published ones, its music counts no frame behind a piece's end."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo_modules import loaded

import tinygrad_rnn as tg

SCRIPT = Path(__file__).parent.parent / "demos" / "compare.py"


@pytest.fixture(scope="module")
def demo():
    """The script as a module."""
    with loaded("compare") as module:
        yield module


@pytest.fixture(scope="module")
def music(demo):
    return demo.music


def options(demo, *arguments):
    return demo.arguments().parse_args([*map(str, arguments)])


def run(*arguments):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)


# ---- A run -----------------------------------------------------------------------------------------------------------


def test_run_leaves_a_picture_numbers_and_a_table(tmp_path):
    done = run("--quick", "--models", "linear", "cnn", "Projected-LSTM", "--seeds", 2, "--shuffled", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "21/21" in done.stderr  # the progress bar
    row = r"^\| (\S+) \| ([\d,]+) \| \d+\.\d \| [\d.]+ to [\d.]+ \| .* \| (.*) \| \d+\.\d \|$"
    assert re.findall(row, done.stdout, re.MULTILINE) == [
        ("linear", "410", "31 to 33"), ("CNN", "5,210", "50 to 60"), ("ProjectedLSTM", "2,734", ""),
    ]  # fmt: skip
    assert "no figure of these means anything" in done.stdout
    assert (tmp_path / "compare_shuffled.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "compare_shuffled.json").read_text())
    models = "linear", "cnn", "projectedlstm"
    assert [(r["model"], r["seed"]) for r in results] == [(model, seed) for model in models for seed in (0, 1)]
    for r in results:
        assert r["steps"] == [0, 20] and len(r["tested"]) == 2 and len(r["answers"]) == 100


@pytest.mark.parametrize("name, parameters", [("linear", 410), ("mlp", 15_210), ("cnn", 5_210), ("gru", 5_134)])
def test_published_models_have_the_published_sizes(name, parameters, demo):
    assert sum(p.numel() for p in demo.RECIPES[name].make().parameters()) == parameters


@pytest.mark.parametrize("name", ["slstm", "tcn", "attention"])
def test_others_have_about_as_many_parameters(name, demo):
    assert 4_500 < sum(p.numel() for p in demo.RECIPES[name].make().parameters()) < 5_500


def in_pytorch(torch, name):
    """A published model as PyTorch has it, and how it is called."""
    nn, relu = torch.nn, torch.relu
    if name == "mlp":
        m = nn.ModuleDict(dict(linear1=nn.Linear(40, 100), linear2=nn.Linear(100, 100), linear3=nn.Linear(100, 10)))

        def call(x):
            h = relu(m.linear1(x))
            return m.linear3(h + relu(m.linear2(h)))

    elif name == "cnn":
        widths = dict(conv1=(1, 5), conv2=(25, 3), conv3=(25, 3))
        m = nn.ModuleDict({key: nn.Conv1d(i, 25, k, stride=2, padding=1) for key, (i, k) in widths.items()})
        m["linear"] = nn.Linear(125, 10)

        def call(x):
            return m.linear(relu(m.conv3(relu(m.conv2(relu(m.conv1(x[:, None])))))).flatten(1))

    else:
        m = nn.ModuleDict(dict(recurrent=nn.GRU(1, 6, batch_first=True, bidirectional=True), linear=nn.Linear(480, 10)))

        def call(x):
            return m.linear(m.recurrent(x[..., None])[0].flatten(1))

    return m, call


def pytorchs(key):
    """PyTorch's name of a parameter."""
    layer, direction, name = re.match(r"(recurrent\.)cells\.(\d)\.(\w+)|", key).groups()
    return key if layer is None else f"{layer}{name}_l0{'_reverse' * int(direction)}"


@pytest.mark.parametrize("name", ["mlp", "cnn", "gru"])
def test_training_is_that_of_pytorch(name, demo):
    """The answers after some updates from the same weights, of the same batches, are PyTorch's."""
    torch, data = pytest.importorskip("torch"), demo.stand_in()
    theirs, call = in_pytorch(torch, name)
    made = demo.RECIPES[name].make()
    theirs.load_state_dict({pytorchs(key): torch.tensor(value) for key, value in made.state_dict().items()})
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(9):
        part = slice(step * 100 % 400, step * 100 % 400 + 100)
        loss = torch.nn.functional.cross_entropy(call(torch.tensor(data.x[part])), torch.tensor(data.y[part]))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.RECIPES, name, demo.Recipe(name, lambda: made))
        result = demo.learn(name, 0, data, options(demo, "--steps", 8))
    scores = call(torch.tensor(data.x_test)).detach().numpy()
    np.testing.assert_allclose(made(tg.tensor(data.x_test)).numpy(), scores, rtol=1e-3, atol=1e-3)
    assert result.answers == scores.argmax(1).tolist()


def test_batches_come_in_the_order_of_storage_and_wrap(demo, monkeypatch):
    data, seen = demo.stand_in(), []

    class Watched(tg.nn.Linear):
        def forward(self, x):
            if len(x) == demo.BATCH and self.training:
                seen.append(x.numpy().copy())
            return super().forward(x)

    monkeypatch.setitem(demo.RECIPES, "linear", demo.Recipe("linear", lambda: Watched(40, 10)))
    result = demo.learn("linear", 3, data, options(demo, "--steps", 5))
    np.testing.assert_array_equal(seen, [data.x[k * 100 : k * 100 + 100] for k in (0, 1, 2, 3, 0, 1)])
    assert result.steps == [0, 5]
    assert result.answers == demo.learn("linear", 3, data, options(demo, "--steps", 5)).answers


def test_parts_of_the_data(demo):
    data = demo.stand_in()
    held = data.held_out()
    assert len(held.x) == 320 and len(held.x_test) == 80
    np.testing.assert_array_equal(np.concatenate([held.x, held.x_test]), data.x)
    np.testing.assert_array_equal(np.concatenate([held.y, held.y_test]), data.y)
    shuffled = data.shuffled()
    order = [19, 16, 15, 26, 4]  # NumPy's legacy permutation of 40 after the seed 42, which is frozen
    np.testing.assert_array_equal(shuffled.x[:, :5], data.x[:, order])
    np.testing.assert_array_equal(np.sort(shuffled.x_test), np.sort(data.x_test))


def test_the_verdict_names_what_was_missed(demo):
    def results(**right):
        return [demo.Result(name, 0, 1, tested=[value]) for name, value in right.items()]

    ordered, shuffled = options(demo), options(demo, "--shuffled")
    assert demo.verdict(results(cnn=92, gru=90, tcn=10), ordered) == ["As published, or nearly: CNN, GRU."]
    (missed,) = demo.verdict(results(cnn=92, gru=87), ordered)
    assert missed.startswith("GRU is at 87.0 %, outside of 88 to 92")
    (missed,) = demo.verdict(results(cnn=92, gru=55), shuffled)
    assert missed.startswith("CNN is at 92.0 %, outside of 50 to 60")
    assert demo.verdict(results(tcn=10), ordered) == []


def test_confusions_are_shares_of_each_digit(demo):
    y = np.repeat(np.arange(10), 4)
    said = y.copy()
    said[[0, 1]] = 7
    own = [demo.Result("cnn", seed, 1, answers=list(a)) for seed, a in enumerate((y, said))]
    shares = demo.confusion(own, y)
    assert shares[0, 0] == 75 and shares[0, 7] == 25 and (shares.sum(axis=1) == 100).all()


def test_what_is_missing_is_named(demo, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(demo.Refusal, match="pip install mnist1d"):
        demo.mnist1d()
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    (tmp_path / "some.mat").touch()
    with pytest.raises(demo.Refusal, match="pip install scipy"):
        demo.music.read(tmp_path / "some.mat")


def test_the_published_set(demo):
    pytest.importorskip("mnist1d")
    data = demo.mnist1d()
    assert data.x.shape == (4000, 40) and data.x_test.shape == (1000, 40)
    assert data.y[:8].tolist() == [2, 6, 4, 5, 6, 6, 6, 0] and data.x[0, 0] == pytest.approx(-0.3320057, rel=1e-5)


@pytest.mark.parametrize("name", ["mgu", "Layer-Norm-GRU", "MinLSTMCell", "broken_cells:Sound"])
def test_cells_are_taken_by_name_in_the_place_of_the_gru(name, demo):
    (chosen,) = options(demo, "--models", name).models
    model = demo.recipe(chosen).make()
    kind = "Sound" if ":" in name else type(tg.nn.cells.make(name, 1, 6)).__name__
    assert [type(cell).__name__ for cell in model.recurrent.cells] == [kind] * 2
    for scan in model.recurrent.scans:
        scan.fused = "never"
    tg.manual_seed(0)
    assert model(tg.randn(3, 40)).shape == (3, 10)


def test_unknown_models_are_refused(demo, capsys, monkeypatch):
    for wrong, said in ("lsmt", "did you mean lstm"), ("bahdanau", "by name, which there is none of here"):
        with pytest.raises(SystemExit):
            options(demo, "--models", wrong)
        assert said in (found := capsys.readouterr().err) and "models are linear, mlp, cnn" in found
    odd = lambda: demo.BothWays(lambda I, H: tg.nn.cells.GroupLSTMCell(I, H, groups=2))
    monkeypatch.setitem(demo.RECIPES, "odd", demo.Recipe("odd", odd))
    with pytest.raises(demo.Refusal, match=r"odd: .* 2 groups do not divide 1 inputs"):
        demo.learn("odd", 0, demo.stand_in(), options(demo, "--lr", "1"))


# ---- Music -----------------------------------------------------------------------------------------------------------


def pieces(lengths, seed=0):
    """Chords that move by a key a frame, so that the next one can be known."""
    rng, found = np.random.default_rng(seed), []
    for length in lengths:
        roll = np.zeros((length, 88), np.uint8)
        for note in rng.integers(0, 88, 3):
            roll[np.arange(length), (note + np.arange(length)) % 88] = 1
        found.append(roll)
    return found


LENGTHS = dict(traindata=(9, 12, 7, 15), validdata=(8, 11), testdata=(10, 6))


def rolls():
    return {part: pieces(lengths, seed) for seed, (part, lengths) in enumerate(LENGTHS.items())}


def objects(matrices):
    found = np.empty(len(matrices), object)
    found[:] = matrices
    return found


def written(path, kind):
    """A file of each kind that is read."""
    if kind == "mat":
        pytest.importorskip("scipy").io.savemat(path, {part: objects(own)[None] for part, own in rolls().items()})
    elif kind == "objects":
        np.savez(path, **{part: objects(own) for part, own in rolls().items()})
    else:
        arrays = {}
        for part, own in rolls().items():
            arrays[f"{part}_lengths"] = np.array([len(piece) for piece in own])
            arrays[part] = np.ones((len(own), 20, 88), np.uint8)  # what lies behind the end is nobody's business
            for k, piece in enumerate(own):
                arrays[part][k, : len(piece)] = piece
        np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("kind", ["mat", "objects", "padded"])
def test_files_of_every_kind(kind, music, tmp_path):
    parts = music.read(written(tmp_path / ("rolls.mat" if kind == "mat" else "rolls.npz"), kind))
    for part, own in zip(parts, rolls().values()):
        assert len(part) == len(own)
        for found, expected in zip(part, own):
            np.testing.assert_array_equal(found, expected)


class Harmful:
    def __reduce__(self):
        return print, ("it runs",)


def test_a_file_runs_nothing(music, tmp_path, capsys):
    np.savez(tmp_path / "rolls.npz", **{part: objects([Harmful(), Harmful()]) for part in music.PARTS})
    with pytest.raises(music.Refusal, match=r"may hold arrays, not builtins\.print"):
        music.read(tmp_path / "rolls.npz")
    assert capsys.readouterr().out == ""


def test_files_that_do_not_fit_are_refused(music, tmp_path):
    def refused(message, **arrays):
        np.savez(tmp_path / "rolls.npz", **({part: objects(own) for part, own in rolls().items()} | arrays))
        with pytest.raises(music.Refusal, match=message):
            music.read(tmp_path / "rolls.npz")

    padded = np.zeros((2, 5, 88), np.uint8)
    refused("there is no testdata_lengths", testdata=padded)
    refused("testdata_lengths does not fit", testdata=padded, testdata_lengths=np.array([5, 6]))
    refused("of 0 and 1", testdata=objects([np.full((4, 88), 2)]))
    refused("of as many keys", testdata=objects([np.zeros((4, 80)), np.zeros((5, 80))]))
    refused("must have pieces", testdata=objects([np.zeros((1, 88)), np.zeros((0, 88))]))
    (tmp_path / "rolls.npz").write_bytes(pickle.dumps(1))
    with pytest.raises(music.Refusal, match="cannot be read"):
        music.read(tmp_path / "rolls.npz")
    with pytest.raises(music.Refusal, match=r"\.mat or \.npz"):
        music.read(tmp_path / "rolls.csv")


@pytest.mark.parametrize("name", ["gru", "tcn"])
def test_frames_behind_the_end_of_a_piece_do_not_count(name, music):
    """A batch has the likelihood of its pieces, each alone; and the gradients of their sum."""
    tg.manual_seed(0)
    own = pieces((9, 12, 7, 15))
    model = music.RECIPES[name].make(88, 5, 0.0).double()
    (batch,) = music.batches([piece.astype(np.float64) for piece in own], np.arange(4))
    batch = music.Batch(batch.x.astype(np.float64), batch.y.astype(np.float64), batch.lengths)
    together = music.loss(model(batch.x, batch.lengths), batch)
    together.backward()
    gradients = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    total = 0.0
    for piece in own:
        x, y = piece[:-1, None].astype(np.float64), piece[1:].astype(np.float64)
        p = tg.sigmoid(model(x, np.array([len(x)])))[:, 0]
        alone = -(y * tg.log(p) + (1 - y) * tg.log(1 - p)).sum()
        alone.backward()
        total += alone.item()
    assert together.item() == pytest.approx(total, rel=1e-6)
    for found, p in zip(gradients, model.parameters()):
        np.testing.assert_allclose(found, p.grad.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["slstm", "projectedlstm", "broken_cells:Sound"])
def test_cells_are_taken_by_name_for_music(name, music):
    made = music.recipe(name).make(88, 6, 0.0)
    made.recurrent.scans[0].fused = "never"
    assert made(np.zeros((4, 2, 88), np.float32), np.array([4, 2])).shape == (4, 2, 88)
    with pytest.raises(music.Refusal, match="takes the models lstm, gru, tcn, and cells, not cnn"):
        music.recipe("cnn")


def test_a_run_on_music(tmp_path):
    file = written(tmp_path / "rolls.npz", "objects")
    done = run("--music", file, "--epochs", 2, "--hidden", 6, "--seeds", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (LSTM|GRU|TCN) \| [\d,]+ \| (\S+) \| (\S+) \|  \| \d+\.\d \|$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["LSTM", "GRU", "TCN"]
    for r in json.loads((tmp_path / "music.json").read_text()):
        assert len(r["validated"]) == 2 and r["validated"][1] < r["validated"][0] < 88 * np.log(2) * 1.1
    assert (tmp_path / "music.png").read_bytes().startswith(b"\x89PNG")


# ---- The README ------------------------------------------------------------------------------------------------------


def test_readme_shows_default_runs(demo):
    """Its tables have all models, of the sizes that are made, and what repeats a publication is inside its band."""
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert "`python demos/compare.py --seeds 3`" in text and "`python demos/compare.py --music" in text
    for name, recipe in demo.RECIPES.items():
        figures = r"([\d,]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \| [^|]*\| ([\d.]+)[^|]*\| [^|]*\| [\d.]+ \|$"
        (found,) = re.findall(rf"^\| {recipe.label} \| {figures}", text, flags=re.MULTILINE)
        assert found[0] == f"{sum(p.numel() for p in recipe.make().parameters()):,}"
        assert float(found[2]) <= float(found[1]) <= float(found[3])
        for known, right in (recipe.ordered, found[1]), (recipe.shuffled, found[4]):
            assert known is None or known.band[0] <= float(right) <= known.band[1], name
    for name in "compare.png", "compare_shuffled.png":
        assert f"({name})" in text and (SCRIPT.parent / name).stat().st_size < 200_000
