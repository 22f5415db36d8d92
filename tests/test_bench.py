"""The benchmarks run, with PyTorch and without. What they measure is no matter for a test."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

BENCH = Path(__file__).parent.parent / "demos" / "bench"

ROW = re.compile(r"^    .+ [\d.e+]+ (?:s|ms|us|ns) +[\d.e+]+ (?:s|ms|us|ns) +\d+\.\d\d", re.MULTILINE)


def bench(*arguments, **environment):
    """What `python demos/bench` prints."""
    command = [sys.executable, str(BENCH), *arguments, "--smoke"]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def launch(monkeypatch):
    """What starts the process that measures."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("bench", BENCH / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.launch


@pytest.fixture
def no_torch(tmp_path):
    """The environment of a user without the rivals."""
    for name in ("torch", "jax", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_is_a_rate(dtype, monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    assert 1e8 < importlib.import_module("peak").measure_fma_peak(dtype, rounds=2) < 1e13


SLOW = [pytest.param(*row, marks=pytest.mark.slow) for row in (("cells", 6), ("toolbox", 3), ("layers", 4))]


@pytest.mark.parametrize(("table", "fewest"), [("kernels", 4), *SLOW])
def test_a_table_has_rows_and_a_summary_for_each_group(table, fewest):
    if table != "kernels":
        pytest.importorskip("torch")
    printed = bench(table, "--quick", "--threads", "1")
    groups = printed.count(", against ")
    assert groups >= fewest and len(ROW.findall(printed)) >= groups
    assert printed.count("geometric mean") == groups
    assert "threads: 1" in printed


@pytest.mark.slow
def test_kernels_without_torch(no_torch):
    printed = bench("kernels", **no_torch)
    assert "PyTorch is not installed" in printed and "against PyTorch" not in printed
    assert "matmul (M, K, N), float64, against NumPy @" in printed


def test_cells_without_torch(no_torch):
    printed = bench("cells", **no_torch)
    assert "PyTorch is not installed" in printed and "against" not in printed
    assert "cache empty" in printed and "cache filled" in printed


@pytest.mark.slow
def test_layers_without_torch(no_torch):
    assert "there is nothing to compare with" in bench("layers", **no_torch)


def test_the_new_process_is_pinned_and_free_of_settings_that_slow_numpy(monkeypatch, launch):
    started = {}

    def run(command, env, check):
        started.update(env)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(subprocess, "run", run)
    assert launch("kernels", threads=2) == 3, "the exit code is handed on"
    assert "OPENBLAS_CORETYPE" not in started
    names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"
    assert [started[name] for name in names] == ["2"] * 4


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system places processes as it likes")
def test_the_new_process_has_as_many_processors_as_threads(monkeypatch, launch):
    allowed, seen = os.sched_getaffinity(0), []

    def run(command, env, check):
        seen.append(os.sched_getaffinity(0))
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        launch("kernels", threads=1)
    assert len(seen[0]) == 1 and os.sched_getaffinity(0) == allowed


@pytest.mark.slow
def test_cells_that_are_named_are_measured_against_their_tape():
    printed = bench("cells", "--cells", "min-lstm", "tinygrad_rnn.nn.cells:RANCell")
    assert printed.count("against tape") == 2 and len(ROW.findall(printed)) == 2


def test_an_unknown_cell_is_refused():
    result = subprocess.run([sys.executable, str(BENCH), "cells", "--cells", "lsmt"], capture_output=True, text=True)
    assert result.returncode == 2 and "did you mean lstm" in result.stderr


def test_an_unknown_table_is_refused():
    result = subprocess.run([sys.executable, str(BENCH), "nothing"], capture_output=True, text=True)
    assert result.returncode == 2 and "invalid choice" in result.stderr
