"""`demos/char_lm.py` as its users run it, with whatever they give it.

Where a process of its own shows more, a run has one; others run the same file in this process, which has imported the
library and has compiled its kernels.
"""

import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

SCRIPT = Path(__file__).parent.parent / "demos" / "char_lm.py"
TINY = "--quick --steps 43 --every 5 --layers 2 --dropout 0.2".split()
CHECKPOINT, PICTURE = "checkpoint.safetensors", "char_lm.png"


def command(*arguments):
    return [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]


def process(*arguments):
    """Run the script to its end in a process of its own; what it printed, stdout and stderr."""
    terminal = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command(*arguments), capture_output=True, encoding="utf-8", env=terminal, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def run(*arguments, code=0, encoding="utf-8"):
    """Run the script to its end in this process, where a warning is an error too."""
    printed = [io.TextIOWrapper(io.BytesIO(), each, newline="") for each in (encoding, "utf-8")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        for name, stream in zip(("stdout", "stderr"), printed):
            patch.setattr(sys, name, stream)
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            ended = 0
        except SystemExit as stop:
            ended = stop.code
    out, err = (stream.buffer.getvalue().decode(stream.encoding) for stream in printed if not stream.flush())
    assert ended == code, err
    return out, err


def refusal(*arguments):
    """The one line with which the script refuses."""
    out, err = run(*arguments, code=2)
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("char_lm.py: ")
    return line


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "ab.txt"
    rng = np.random.default_rng(0)
    path.write_text("".join(rng.choice(list("aab é\n"), size=600)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def char_lm():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("char_lm", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run that nothing disturbed: its folder and what it printed."""
    out = tmp_path_factory.mktemp("finished")
    return out, *process(*TINY, "--text", text, "--out", out)


def about(folder):
    """The metadata of a checkpoint, read without the library."""
    blob = (folder / CHECKPOINT).read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    return json.loads(header["__metadata__"]["tinygrad_rnn"])


# ---- A run -----------------------------------------------------------------------------------------------------------


def test_run_leaves_a_checkpoint_a_picture_and_a_table(finished):
    folder, out, err = finished
    assert sorted(path.name for path in folder.iterdir()) == [PICTURE, CHECKPOINT]
    assert (folder / PICTURE).read_bytes().startswith(b"\x89PNG")
    for row in ("1-gram", "2-gram", "3-gram", "4-gram", "LSTM, 2 x 8"):
        assert row in out
    for step in (5, 40, 43):
        assert f"--- step {step}: " in out
    assert "43/43" in err and "bits/char" in err  # the progress bar
    assert about(folder)["step"] == 43


def test_quick_run_of_a_long_text(tmp_path):
    """It reads the beginning, so that it is quick whatever the text; and goes on with --quick alone."""
    text = tmp_path / "long.txt"
    text.write_text("the quick brown fox\n" * 600)
    out, _ = run("--quick", "--steps", 10, "--text", text, "--out", tmp_path)
    assert "5,400 characters to learn from, 600 held out" in out and "LSTM, 1 x 8" in out
    run("--quick", "--steps", 12, "--text", text, "--out", tmp_path, "--resume")
    assert about(tmp_path)["step"] == 12
    assert "learns from another text" in refusal("--steps", 14, "--text", text, "--out", tmp_path, "--resume")
    assert "--long and --quick" in refusal("--quick", "--long", "--out", tmp_path)


@pytest.mark.parametrize("cell", ["rnn", pytest.param("gru", marks=pytest.mark.slow)])
def test_other_cells(cell, text, tmp_path):
    out, _ = run(*TINY, "--cell", cell, "--text", text, "--out", tmp_path)
    assert f"{cell.upper()}, 2 x 8" in out
    written, _ = run("--out", tmp_path, "--sample", 7)
    assert len(written) == len("\n") + 7 + len("\n")


STATES = ["slstm", "projected-lstm", "clockworkrnn", "qrnn", "scrn"]  # which begin with no zeros, or vary in width


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["mingru", *STATES])
def test_every_cell_of_the_catalogue(cell, text, tmp_path):
    """It is trained, goes on from its checkpoint with its states, and writes."""
    named = ["--quick", "--cell", cell, "--text", text, "--layers", 2, "--every", 3, "--out", tmp_path]
    run(*named, "--steps", 6)
    assert about(tmp_path)["metadata"]["settings"]["cell"] == cell.replace("-", "")
    run(*named, "--steps", 8, "--resume")
    assert about(tmp_path)["step"] == 8 and np.isfinite(about(tmp_path)["metadata"]["losses"]).all()
    assert run("--out", tmp_path, "--sample", 7)[0]


def test_a_stream_that_begins_has_the_states_that_its_cells_begin_with(char_lm):
    """An sLSTM's are not all zero, and a projected LSTM's differ in width."""
    for name in ("slstm", "projectedlstm"):
        stack = tg.nn.Stack(lambda width, name=name: tg.nn.cells.make(name, width, 4), 3, 2, fused="never")
        _, state = stack(tg.randn(5, 6, 3))
        anew = char_lm.detached(state, stack.cells, 2)
        for layer, cell in enumerate(stack.cells):
            for before, after, first in zip(state, anew, cell.begin(None, 1)):
                assert (after.numpy()[layer, 2] == first.numpy()[0]).all()
                assert (after.numpy()[layer, [0, 1, 3, 4, 5]] == before.numpy()[layer, [0, 1, 3, 4, 5]]).all()


def transformer(char_lm, **settings):
    """A run of a small one, and pieces of a text for it."""
    settings = dict(char_lm.DEFAULTS, cell="transformer", hidden=8, layers=2, length=6, batch=4, steps=9, **settings)
    rng = np.random.default_rng(0)
    return char_lm.Run(settings, "abcd", ""), rng.integers(0, 4, (40, 4)), rng.integers(0, 4, (40, 4))


@pytest.mark.slow
def test_a_transformer(text, tmp_path):
    """It is trained, goes on from its checkpoint, and writes more than it sees at once."""
    named = [*TINY, "--cell", "transformer", "--text", text, "--every", 3, "--out", tmp_path]
    out, _ = run(*named, "--steps", 6)
    assert "transformer, 2 x 8: " in out and "4-gram" in out and (tmp_path / PICTURE).exists()
    run(*named, "--steps", 8, "--resume")
    assert about(tmp_path)["step"] == 8 and np.isfinite(about(tmp_path)["metadata"]["losses"]).all()
    written, _ = run("--out", tmp_path, "--sample", 30, "--prompt", "aab aab a aab")  # longer than --length 8
    assert len(written) == 13 + 30 + len("\n")
    assert "--long is of recurrent cells" in refusal("--cell", "transformer", "--long", "--text", text)


def test_a_transformer_that_was_saved_goes_on_with_the_same_bits(char_lm, tmp_path):
    one, x, y = transformer(char_lm, dropout=0.2)
    for _ in range(3):
        one.learn(x, y)
    one.save(tmp_path / CHECKPOINT)
    other = char_lm.Run.load(tmp_path / CHECKPOINT)
    one.learn(x, y)
    tg.load_checkpoint(tmp_path / CHECKPOINT)  # the random numbers of then
    other.learn(x, y)
    assert other.losses == one.losses
    for a, b in zip(one.model.parameters(), other.model.parameters()):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_transformer_sees_the_last_characters_alone(char_lm):
    """Read in pieces, each character's scores are those of a window that ends with it: of 4 to 6 characters."""
    run, x, _ = transformer(char_lm, dropout=0.0)
    x = x[:39]  # whole pieces
    model, state, found = run.model.eval(), None, []
    for i in range(0, len(x), model.piece):
        scores, state = model(x[i : i + model.piece], state)
        found.append(scores.numpy())
    for i, scores in enumerate(np.concatenate(found)):
        start = max(i // model.piece * model.piece - (6 - model.piece), 0)
        np.testing.assert_allclose(scores, model(x[start : i + 1])[0].numpy()[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("cell", "said"), [("lsmt", "did you mean lstm"), ("no_such:Cell", "cannot import no_such")])
def test_unknown_cells_are_refused(cell, said, text, tmp_path):
    assert said in refusal("--cell", cell, "--text", text, "--batch", 4, "--length", 8, "--out", tmp_path)


def test_it_learns_what_counting_cannot(tmp_path):
    """Whether a line ends in c or in d was decided five characters earlier, where a 4-gram does not look."""
    rng = np.random.default_rng(1)
    path = tmp_path / "far.txt"
    path.write_text("".join(["a1234c\n", "b1234d\n"][i] for i in rng.integers(0, 2, size=15_000)))
    out, _ = run(
        *"--hidden 32 --embedding 8 --batch 16 --length 28 --steps 300 --every 300 --lr 0.01".split(),
        *("--text", path, "--out", tmp_path / "run"),
    )
    bits = {name: float(number) for name, number in re.findall(r"^(4-gram|LSTM).* (\d\S+)$", out, flags=re.M)}
    assert bits["4-gram"] == pytest.approx(2 / 7, abs=0.02)  # one bit where a line begins, one at c or d
    assert bits["LSTM"] == pytest.approx(1 / 7, abs=0.02)  # only the first is news


def test_ngrams_are_smoothed_counts(char_lm):
    """Against the definition, character by character."""
    rng = np.random.default_rng(2)
    kinds, train, valid = 5, rng.integers(0, 4, size=300), rng.integers(0, 5, size=100)
    text, learned = np.concatenate([train, valid]).tolist(), train.tolist()

    def p(n, context, c):
        if n == 0:
            return 1 / kinds
        follow = [learned[i + n - 1] for i in range(len(learned) - n + 1) if learned[i : i + n - 1] == context]
        different = len(set(follow))
        if not follow:
            return p(n - 1, context[1:], c)
        return (follow.count(c) + different * p(n - 1, context[1:], c)) / (len(follow) + different)

    for n, (_, held_out) in enumerate(char_lm.ngram_bits(train, valid, kinds), 1):
        expected = [-np.log2(p(n, text[i - n + 1 : i], text[i])) for i in range(300, 400)]
        assert held_out == pytest.approx(np.mean(expected), rel=0.01)


# ---- Interrupted and resumed -----------------------------------------------------------------------------------------


def assert_same(folder, finished):
    for name in (CHECKPOINT, PICTURE):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_twice_and_resumed_ends_with_the_same_bits(finished, text, tmp_path):
    """Killed without warning, wherever it is, as soon as there is a new checkpoint."""
    arguments, path, reached = [*TINY, "--text", text, "--out", tmp_path], tmp_path / CHECKPOINT, []
    for more in [], ["--resume"]:
        before = path.read_bytes() if more else b""
        process = subprocess.Popen(command(*arguments, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(process, lambda before=before: path.exists() and path.read_bytes() != before)
        finally:
            process.kill()
            process.wait()
        reached.append(about(tmp_path)["step"])
    assert 5 <= reached[0] < reached[1] < 43
    run(*arguments, "--resume")
    assert_same(tmp_path, finished)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to one process there")
def test_ctrl_c_saves_and_says_how_to_go_on(finished, text, tmp_path):
    arguments = [*TINY, "--text", text, "--out", tmp_path]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(process, (tmp_path / CHECKPOINT).exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert f"stopped and saved after step {about(tmp_path)['step']}; go on with: " in last
    words = shlex.split(last.split("go on with: ")[1])
    assert words[1:] == [str(SCRIPT), *map(str, arguments), "--resume"]
    run(*words[2:])
    assert_same(tmp_path, finished)


@pytest.mark.slow
def test_a_finished_run_can_be_resumed_to_more_steps(finished, text, tmp_path):
    shutil.copy(finished[0] / CHECKPOINT, tmp_path)
    again, _ = run("--text", text, "--out", tmp_path, "--resume")  # nothing left to do but the table and the picture
    assert again.splitlines()[-9:-3] == finished[1].splitlines()[-9:-3]
    assert_same(tmp_path, finished)
    run("--text", text, "--out", tmp_path, "--resume", "--steps", 50)
    assert about(tmp_path)["step"] == 50
    assert "has made 50 steps already" in refusal("--text", text, "--out", tmp_path, "--resume", "--steps", 49)


def test_the_seed_decides(finished, text, tmp_path):
    run(*TINY, "--text", text, "--out", tmp_path, "--seed", 1)
    assert about(tmp_path)["metadata"]["losses"] != about(finished[0])["metadata"]["losses"]


# ---- Samples ---------------------------------------------------------------------------------------------------------


def test_sample_needs_the_checkpoint_alone(finished, tmp_path):
    shutil.copy(finished[0] / CHECKPOINT, tmp_path)
    written, err = run("--out", tmp_path, "--sample", 50, "--prompt", "ab é")
    assert err == ""
    assert written.startswith("ab é") and len(written) == len("ab é") + 50 + len("\n")
    assert set(written) <= set("aab é\n")
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert run("--out", tmp_path, "--sample", 50, "--prompt", "ab é")[0] == written
    assert run("--out", tmp_path, "--sample", 50, "--prompt", "ab é", "--seed", 5)[0] != written


def test_terminal_that_lacks_a_character(finished):
    written, _ = run("--out", finished[0], "--sample", 10, "--prompt", "é", encoding="ascii")
    assert written.startswith("?")


def test_temperature_zero_takes_the_most_probable(finished):
    one, two = (run("--out", finished[0], "--sample", 30, "--temperature", 0, "--seed", seed)[0] for seed in (0, 1))
    assert one == two


def test_reader_of_a_sample_may_stop_early(finished):
    words = command("--out", finished[0], "--sample", 100)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert err == b""


def test_unknown_character_in_the_prompt(finished):
    assert "'ß' 'ω'" in refusal("--out", finished[0], "--sample", 5, "--prompt", "aωßa")


# ---- Refusals: one line, and nothing left behind ---------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["--hidden 0", "--lr nan", "--threads 100000", "--nonsense"])
def test_wrong_options(wrong, tmp_path):
    line = refusal(*wrong.split(), "--out", tmp_path / "out")
    assert wrong.split()[0] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "--hidden -3", "--layers 0", "--embedding 0", "--batch 0", "--length 0", "--steps 0", "--every 0", "--seed -1",
        "--hidden 2.5", "--hidden x", "--lr 0", "--lr -1", "--lr inf", "--clip 0", "--clip nan", "--dropout 1",
        "--dropout -0.1", "--sample 0", "--sample -5", "--temperature -1", "--temperature nan", "--threads 0",
        "--cell transformers", "--steps",
    ],
)  # fmt: skip
def test_more_wrong_options(wrong, char_lm, capsys):
    """The same in this process, which is faster."""
    with pytest.raises(SystemExit) as stop:
        char_lm.arguments().parse_args(wrong.split())
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and wrong.split()[0] in line


@pytest.mark.parametrize("content", [b"", b"a", b"ab" * 18])
def test_text_too_short(content, tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(content)
    line = refusal(*TINY, "--text", path, "--out", tmp_path / "out")
    assert f"the text has {len(content)} characters" in line
    assert "needs at least 37" in line  # 9/10 of 37 is 33: one update of 4 times 8 characters and the one after them
    assert not (tmp_path / "out").exists()


def test_shortest_text_that_is_enough(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("abc" * 12 + "a")
    run(*TINY, "--steps", 2, "--text", path, "--out", tmp_path / "out")
    path.write_text("a" * 37)
    run(*TINY, "--steps", 2, "--text", path, "--out", tmp_path / "out")
    path.write_text("a" * 36)
    refusal(*TINY, "--steps", 2, "--text", path, "--out", tmp_path / "out")


def test_text_that_is_no_text(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"a" * 100 + "é".encode("latin1"))
    assert f"{path} is not UTF-8 text: byte 100 is 0xe9" in refusal("--text", path, "--out", tmp_path / "out")
    assert "cannot read" in refusal("--text", tmp_path, "--out", tmp_path / "out")
    assert "No such file" in refusal("--text", tmp_path / "missing.txt", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_to(text, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in tmp_path / "file", tmp_path / "file" / "below":
        assert f"cannot write to {folder}" in refusal(*TINY, "--text", text, "--out", folder)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if not os.access(locked, os.W_OK):  # the administrator may write everywhere
        assert "Permission denied" in refusal(*TINY, "--text", text, "--out", locked)
        assert list(locked.iterdir()) == []


def test_resume_of_something_else(finished, text, tmp_path):
    out = finished[0]
    before = (out / CHECKPOINT).read_bytes()
    assert "there is no checkpoint" in refusal("--text", text, "--out", tmp_path / "none", "--resume")
    assert "there is no checkpoint" in refusal("--out", tmp_path / "none", "--sample", 5)
    assert "has --hidden 8, not 9" in refusal("--text", text, "--out", out, "--resume", "--hidden", 9)
    assert "has --cell lstm, not gru" in refusal("--text", text, "--out", out, "--resume", "--cell", "gru")
    other = tmp_path / "other.txt"
    other.write_text("x" + text.read_text(encoding="utf-8"), encoding="utf-8")
    assert "another text" in refusal("--text", other, "--out", out, "--resume")
    assert (out / CHECKPOINT).read_bytes() == before


def test_damaged_checkpoint(finished, text, tmp_path):
    whole = (finished[0] / CHECKPOINT).read_bytes()
    for damaged in whole[:1000], b"", whole[:-1] + bytes([whole[-1] ^ 1]):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        assert CHECKPOINT in refusal("--text", text, "--out", tmp_path, "--resume")
        assert CHECKPOINT in refusal("--out", tmp_path, "--sample", 5)


def test_checkpoint_of_another_program(tmp_path):
    tg.save_checkpoint(tmp_path / CHECKPOINT, tg.nn.Linear(2, 2), step=3)
    assert "not one of this program" in refusal("--out", tmp_path, "--sample", 5)


def test_run_that_goes_astray(text, tmp_path):
    line = run(*TINY, "--hidden", 64, "--lr", 3e37, "--text", text, "--out", tmp_path, code=2)[1].splitlines()[-1]
    assert "try a smaller --lr" in line
    assert list(tmp_path.iterdir()) == []
