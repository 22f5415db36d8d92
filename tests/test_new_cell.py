"""`demos/new_cell.py` as its users run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "demos" / "new_cell.py"
TINY = "--steps 6 --batch 3 --input 5 --hidden 8 --rounds 3".split()


def run(*before):
    done = subprocess.run(
        [sys.executable, "-W", "error", *before, *TINY], capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def check(out):
    assert "gradients agree with finite differences" in out
    values, gradients = map(float, re.search(r"difference: (\S+) in values, (\S+) in gradients", out).groups())
    assert values < 1e-12 and gradients < 1e-12
    assert re.search(r"^ +fused kernels +\d+\.\d\d ms +1\.0 times", out, re.MULTILINE)
    assert re.search(r"^ +tape +\d+\.\d\d ms", out, re.MULTILINE)
    assert "# gradient of: h_new = (1 - f) * h + f * n" in out


@pytest.mark.slow
def test_it_runs():
    pytest.importorskip("torch")
    out = run(str(SCRIPT))
    check(out)
    assert re.search(r"^ +PyTorch, a loop +\d+\.\d\d ms", out, re.MULTILINE)


def test_it_runs_without_torch():
    code = f"import sys, runpy; sys.modules['torch'] = None; sys.argv[0] = {str(SCRIPT)!r}; "
    out = run("-c", f"{code} runpy.run_path(sys.argv[0], run_name='__main__')")
    check(out)
    assert "PyTorch is not installed" in out
