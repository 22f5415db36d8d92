"""What training on a long sequence takes: the arrays that cannot be done without, and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

import tinygrad_rnn as tg

pytestmark = [
    pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory of a process"),
]

# The greatest resident memory so far (VmHWM): getrusage would count that of the process which started this one.
WORK = """
import json
from pathlib import Path
import tinygrad_rnn as tg

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])

def train(T):
    x = tg.ones(T, 1, 1)
    layer(x)[0].sum().backward()

tg.set_num_threads(1)
layer = tg.nn.LSTM(1, 32)
train(500)  # too many steps for a short call
loaded = peak()
train(100_000)
print(json.dumps({"loaded": loaded, "peak": peak()}))
"""


def test_a_hundred_thousand_steps():
    """An LSTM of 32 units, forward and backward, above what the library and its loaded kernels hold.

    In arrays of one number for each step and unit, 12.8 MB, there are seven: the products of the input (4), in whose
    place come the gates and then their gradients, h, c and the gradient of the outputs. One more would be one too many.
    The process as a whole takes 246 MB with these, 155 of which are Python, NumPy, Numba and LLVM; 257 where SciPy is
    installed, which Numba then loads.
    """
    sources = str(Path(tg.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    added = (found["peak"] - found["loaded"]) / (100_000 * 32 * 4)
    assert 6 < added < 7.9, f"{found}: {added:.1f} arrays"
