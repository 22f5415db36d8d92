"""How fast is it here? `python demos/bench cells`, `kernels`, `toolbox` and `layers` print tables, `chart` draws one.

Each row is one piece of work done by this library and by a rival at its best settings: NumPy, PyTorch, JAX, ONNX
Runtime, whichever are installed. The two take turns, call by call, so that a machine which slows down for a while slows
both; a row shows the medians of their times and the median of the ratios rival / ours of neighbouring calls: above 1,
we are faster. The figures of a noisy machine are still noisy; compare runs, not digits.

Thread counts are read by most libraries when they are imported. So the tables are made in a new process, whose
environment is set before anything is. Threads that wait for work do so busily for a while, OpenBLAS's for a tenth of a
second, on the cores that the other side needs next: with several threads, each side's turn begins when all is quiet,
and with a call that is not timed.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from cell_tables import CELL_SIZES, TINY, cell_groups
from chart import draw
from kernel_tables import kernel_groups
from layer_tables import layer_groups
from pairs import Settings, duration, report
from toolbox_tables import toolbox_groups

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells.named import make_alone

HERE = Path(__file__).resolve().parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Settings left over from experiments, which slow NumPy's products or take our compiler away.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NUMBA_DISABLE_JIT")


def launch(
    table: str, threads: int = 1, quick: bool = False, smoke: bool = False, cells: Sequence[str] = ()
) -> int:
    """Print one of TABLES, from a new process with `threads` threads for every library.

    Args:
        quick: only the three smallest sizes.
        smoke: one tiny size, timed once: to see that it runs.
        cells: of the table "cells" only these, each against its own tape.
    """
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    flags = ["--quick"] * quick + ["--smoke"] * smoke
    flags += ["--cells", *cells] if cells else []
    command = [sys.executable, str(HERE), table, "--here", "--threads", str(threads), *flags]
    with on_processors(threads):
        return subprocess.run(command, env=environment, check=False).returncode


@contextlib.contextmanager
def on_processors(count: int) -> Iterator[None]:
    """While this holds, new processes run on so many processors, where the system lets us choose.

    JAX heeds no variable: it starts a thread for each processor that it may use.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


FIRST_CALL = """
import time
start = time.perf_counter()
import tinygrad_rnn as tg
imported = time.perf_counter()
layer, x = tg.nn.Recurrent(tg.nn.LSTMCell({I}, {H}), fused="require"), tg.ones({T}, {B}, {I})
y, _ = layer(x)
y.sum().backward()
print(imported - start, time.perf_counter() - imported)
"""


def report_first_calls(T: int, B: int, I: int, H: int) -> None:
    """The first training step of an LSTM cell in a new process: kernels compiled, then found on disk."""
    print("\nfirst training step of an LSTM cell in a new process")
    with tempfile.TemporaryDirectory() as folder:
        for state in ("empty", "filled"):
            environment = os.environ | {"TINYGRAD_RNN_CACHE": folder}
            command = [sys.executable, "-c", FIRST_CALL.format(T=T, B=B, I=I, H=H)]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            imported, called = map(float, output.split())
            print(f"    cache {state:<8}{duration(called):>12}, after {duration(imported)} for the import", flush=True)


TABLES = {"kernels": kernel_groups, "cells": cell_groups, "toolbox": toolbox_groups, "layers": layer_groups}


def measure(table: str, settings: Settings) -> None:
    """What the new process does."""
    tg.set_num_threads(settings.threads)
    print(f"tinygrad_rnn {tg.__version__}, NumPy {np.__version__}, threads: {settings.threads}; ratio = rival / ours")
    for group in TABLES[table](settings):
        report(group, settings)
    if table == "cells" and not settings.cells:
        report_first_calls(*(TINY if settings.smoke else CELL_SIZES[2]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=layout)
    parser.add_argument("table", choices=[*TABLES, "chart"])
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for every library (default: 1)")
    parser.add_argument("--quick", action="store_true", help="only the three smallest sizes")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # one tiny size: to see that it runs
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # this is the new process
    words = "only these, on kernels against the tape: names of `python -m tinygrad_rnn cells`, or module:Class"
    parser.add_argument("--cells", nargs="+", default=[], metavar="NAME", help=words)
    chosen = parser.parse_args(arguments)
    try:
        for name in chosen.cells:
            make_alone(name, 4, 4)
    except ValueError as error:
        parser.error(str(error))
    if chosen.table == "chart":
        print(draw(HERE.parent / "README.md", HERE.parent / "speed.png"))
    elif chosen.here:
        measure(chosen.table, Settings(chosen.threads, chosen.quick, chosen.smoke, tuple(chosen.cells)))
    else:
        return launch(chosen.table, chosen.threads, chosen.quick, chosen.smoke, chosen.cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
