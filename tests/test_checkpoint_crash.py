"""Runs that are killed: what is on the disk afterwards, and how they go on.

The processes that die are this file run as a script.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX does it")

KILLS = 40


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path):
    done = run("kill_writers", tmp_path)
    assert done.returncode == 0, done.stderr
    whole, in_the_middle, different = map(int, done.stdout.split())
    assert whole == KILLS
    assert in_the_middle > 0, "no writer was killed while it wrote: the test has shown nothing"
    assert different > 1, "no writer got a new checkpoint in place: the test has shown nothing"


def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    assert run("train", straight).returncode == 0
    for die_in_epoch in (3, 4):
        assert run("train", resumed, str(die_in_epoch)).returncode == -signal.SIGKILL
        assert not (resumed / "end.safetensors").exists()
    assert run("train", resumed).returncode == 0
    assert (resumed / "end.safetensors").read_bytes() == (straight / "end.safetensors").read_bytes()
    log = (resumed / "epochs").read_text().split()
    assert log == ["0", "1", "2", "3", "3", "4", "4", "5"], "each run went on where the last checkpoint was"


def run(*arguments):
    """This file as a script, in a process of its own."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


# ---- What the processes do -------------------------------------------------------------------------------------------


def kill_writers(folder):
    """Fork writers and kill them; print how many files were whole, how many drafts were left, how many steps seen."""
    path, chance, steps = folder / "run.safetensors", random.Random(0), [0]
    model = tg.nn.Module()
    model.weight = tg.nn.Parameter(np.zeros(500_000, np.float32))
    tg.save_checkpoint(path, model, step=0)
    for _ in range(KILLS):
        writer = os.fork()
        if not writer:
            write_on(path, model, steps[-1])
        time.sleep(chance.uniform(0, 0.06))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        step = tg.load_checkpoint(path, model).step
        assert (model.weight.numpy() == step).all() and step >= steps[-1]
        steps.append(step)
    print(len(steps) - 1, len([name for name in os.listdir(folder) if name.endswith(".tmp")]), len(set(steps)))


def write_on(path, model, step):
    """Checkpoints without end, each filled with its step."""
    while True:
        step += 1
        model.weight.numpy()[...] = step
        tg.save_checkpoint(path, model, step=step)


def train(folder, die_in_epoch="-1"):
    """Six epochs with dropout and shuffling, from the checkpoint if there is one; a checkpoint after every epoch."""
    tg.manual_seed(0)
    x = tg.tensor(np.linspace(-1, 1, 64, dtype=np.float32).reshape(64, 1))
    y = (3 * x).sin()
    first, second, drop = tg.nn.Linear(1, 16), tg.nn.Linear(16, 1), tg.nn.Dropout(0.25)
    model = tg.nn.ModuleList([first, second, drop])
    optimiser = tg.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True)
    path, start = folder / "run.safetensors", 0
    if path.exists():
        start = tg.load_checkpoint(path, model, optimiser).step + 1
    for epoch in range(start, 6):
        with open(folder / "epochs", "a") as log:
            log.write(f"{epoch}\n")
        for number, rows in enumerate(np.split(tg.generator().permutation(64), 8)):
            if epoch == int(die_in_epoch) and number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            optimiser.zero_grad()
            ((second(drop(first(x[rows]).tanh())) - y[rows]) ** 2).mean().backward()
            tg.optim.clip_grad_norm_(model.named_parameters(), 1.0)
            optimiser.step()
        optimiser.param_groups[0]["lr"] *= 0.9
        tg.save_checkpoint(path, model, optimiser, step=epoch)
    tg.save_checkpoint(folder / "end.safetensors", model, optimiser)


if __name__ == "__main__":
    {"kill_writers": kill_writers, "train": train}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
