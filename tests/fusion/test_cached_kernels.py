"""Fused kernels on disk: training goes on with the right numbers whatever becomes of the cache, and from any thread."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import cache, trusted

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

DIRECTIONS = ("forward", "backward")

# What a process prints: how often Numba ran a pass of its compiler, and what came out.
WORK = """
import json
import numpy as np
from numba.core import event
import tinygrad_rnn as tg

class Leaky(tg.nn.Cell):
    def __init__(self):
        self.input_size = self.hidden_size = 4
        self.U = tg.nn.Parameter(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4))

    def step(self, x, h):
        return 0.5 * h + tg.tanh(x + h @ self.U)

def train():
    layer = tg.nn.Recurrent(Leaky(), fused="require")
    y, _ = layer(tg.tensor(np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 2, 4)))
    (dU,) = tg.grad(y, [layer.cell.U], [tg.ones(3, 2, 4)])
    return layer, [y.tolist(), dU.tolist()]

if __name__ == "__main__":
    print("ready", flush=True)
    input()
    with event.install_recorder("numba:run_pass") as recorder:
        _, values = train()
    print(json.dumps({"passes": len(recorder.buffer), "values": values}))
"""


def work():
    """`train` of the text above, in this process: a new layer each time, and whether its kernels were compiled."""
    names = {"__name__": "work"}
    exec(WORK, names)
    layer, values = names["train"]()
    return values, [layer._last_fused().scan.built[direction][0] for direction in DIRECTIONS]


def expected():
    """The same on the tape, by NumPy's own arithmetic."""
    x, U = np.linspace(-1, 1, 24).reshape(3, 2, 4), np.linspace(-1, 1, 16).reshape(4, 4)
    h, states, slopes = np.zeros((2, 4)), [], []
    for t in range(3):
        n = np.tanh(x[t] + h @ U)
        states.append(h)
        slopes.append(1 - n * n)
        h = 0.5 * h + n
    y, dh, dU = [*states[1:], h], np.zeros((2, 4)), np.zeros((4, 4))
    for t in reversed(range(3)):
        da = (1 + dh) * slopes[t]
        dU += states[t].T @ da
        dh = 0.5 * (1 + dh) + da @ U.T
    return [np.array(y), dU]


def assert_right(values):
    for value, right in zip(values, expected(), strict=True):
        np.testing.assert_allclose(value, right, rtol=2e-6, atol=2e-6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of its own for this test and this process, in which nothing is known of fused kernels."""
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", str(tmp_path / "cache"))
    cache._directory.cache_clear()
    forget()
    yield tmp_path / "cache"
    cache._directory.cache_clear()
    forget()


def forget():
    """As if this process had not loaded any fused kernel."""
    for name in [name for name in sys.modules if name.startswith("tinygrad_rnn.generated.scan_")]:
        del sys.modules[name]


# ---- Several processes -----------------------------------------------------------------------------------------------


def process(folder, text=WORK):
    sources = str(Path(tg.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env=os.environ | {"TINYGRAD_RNN_CACHE": str(folder), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcomes_of(*running):
    """What the processes print that train at once: from when all have been imported, which takes longer than that."""
    ready = [one.stdout.readline() for one in running]
    for one in running:
        one.stdin.write("\n")
        one.stdin.flush()
    printed = [one.communicate(timeout=300) for one in running]
    assert ready == ["ready\n"] * len(running) and not any(one.returncode for one in running), printed
    return [json.loads(output) for output, _ in printed]


def test_processes_that_compile_the_same_cell_at_once(tmp_path):
    """Both train with the right numbers, nobody sees half a file, and the next one finds what they left."""
    outcomes = outcomes_of(process(tmp_path), process(tmp_path))
    assert all(found["passes"] > 100 for found in outcomes), "nothing was compiled: this test counts the wrong thing"
    outcomes += outcomes_of(process(tmp_path))
    assert outcomes[-1]["passes"] == 0
    for found in outcomes:
        assert found["values"] == outcomes[0]["values"]
        assert_right(found["values"])
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in files if ".tmp" in name]
    assert sum(name.startswith("scan_") and name.endswith(".nbc") for name in files) == len(DIRECTIONS)


# ---- Damage ----------------------------------------------------------------------------------------------------------


def test_torn_files_are_written_again(folder):
    """Numba looks for a driver in the cache at its first call, long after its module was loaded."""
    values, origins = work()
    assert_right(values)
    assert origins == ["compiled"] * 2
    forget()
    assert work() == (values, ["from the cache"] * 2)
    for spoil in (lambda text: text[:20], lambda text: b"\xa7" * len(text)):
        damaged = list(folder.glob("scan_*/**/*.nbc"))
        assert len(damaged) == len(DIRECTIONS)
        for path in damaged:
            path.write_bytes(spoil(path.read_bytes()))
        forget()
        assert work() == (values, ["compiled"] * 2)
        forget()
        assert work() == (values, ["from the cache"] * 2), "the cache was not repaired"


def test_a_disk_that_fills_up(folder, monkeypatch):
    """It could be written when the process looked, but machine code cannot be saved: nothing else is lost."""

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trusted, "write", full)
    values, origins = work()
    assert_right(values)
    assert origins == ["compiled"] * 2
    assert not list(folder.glob("scan_*/**/*.nb?"))


def test_a_cache_that_cannot_be_written(folder, monkeypatch):
    """As on a read-only file system: not even the text of a kernel can be kept. Permissions would not stop root."""
    folder.mkdir()
    cache._directory()

    def read_only(path, source):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache, "_write", read_only)
    values, origins = work()
    assert_right(values)
    assert origins == ["compiled"] * 2
    assert not list(folder.iterdir())


# ---- Several threads -------------------------------------------------------------------------------------------------


class Masked(tg.nn.LSTMCell):
    """Holds a tensor for each sequence, as a variational dropout does: while it is traced, a symbol."""

    def sequence_values(self, batch_size):
        return {"mask": tg.ones(batch_size, self.hidden_size) * 0.5}

    def step(self, x, h, c):
        return super().step(x, self.mask * h, c)


# The weights that are dropped are made while somebody listens to what the step runs.
LISTENED = """
import json
import tinygrad_rnn as tg
from tinygrad_rnn.fusion import guards

heard = []

class Heard(guards.Ran):
    def __init__(self):
        super().__init__()
        heard.append(self)

guards.Ran = Heard
print("ready", flush=True)
input()
layer = tg.nn.Recurrent(tg.nn.WeightDrop(tg.nn.LSTMCell(3, 4), 0.5), fused="require")
for _ in range(2):
    layer(tg.zeros(2, 2, 3))
print(json.dumps([sorted({code.co_filename for code, _ in each.codes.values()}) for each in heard]))
"""


def test_what_makes_the_kernel_of_a_row_is_no_code_of_the_users(tmp_path):
    """Else all that compilers name was guarded: a first call took half a minute, and the next one began anew."""
    (heard,) = outcomes_of(process(tmp_path, LISTENED))
    nn = str(Path(tg.__file__).parent / "nn") + os.sep
    assert len(heard) == 1 and heard[0] and all(file.startswith(nn) for file in heard[0])


def test_threads_that_call_the_same_layer_at_once(folder):
    """Forward and backward, the first call included, for which the kernels have to be compiled."""
    tg.manual_seed(0)
    layer = tg.nn.Recurrent(Masked(3, 8), fused="require")
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(t, 4, 3)).astype(np.float32) for t in (5, 9)]
    barrier, found = threading.Barrier(2), [[], []]

    def call(i):
        y, _ = layer(inputs[i])
        return [y.numpy().tobytes(), *(d.numpy().tobytes() for d in tg.grad((y * y).sum(), list(layer.parameters())))]

    def run(i):
        barrier.wait()
        for _ in range(20):
            try:
                found[i].append(call(i))
            except Exception as error:
                found[i].append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        alone = call(i)
        assert found[i] == [alone] * 20
