"""`demos/new_cell.py` as its users run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo_modules import loaded
from demo_options import check_folder_is_refused, check_refused

SCRIPT = Path(__file__).parent.parent / "demos" / "new_cell.py"


def run(out, *before):
    command = [sys.executable, "-W", "error", *before, "--quick", "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "3/3" in done.stderr  # the progress bar
    assert (out / "new_cell.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def check(out):
    assert "gradients agree with finite differences" in out
    values, gradients = map(float, re.search(r"difference: (\S+) in values, (\S+) in gradients", out).groups())
    assert values < 1e-12 and gradients < 1e-12
    assert re.search(r"^ +fused kernels +\d+\.\d\d ms +1\.0 times", out, re.MULTILINE)
    assert re.search(r"^ +tape +\d+\.\d\d ms", out, re.MULTILINE)
    assert "# gradient of: h_new = (1 - f) * h + f * n" in out


@pytest.mark.slow
def test_it_runs(tmp_path):
    pytest.importorskip("torch")
    out = run(tmp_path, str(SCRIPT))
    check(out)
    assert re.search(r"^ +PyTorch, a loop +\d+\.\d\d ms", out, re.MULTILINE)


def test_it_runs_without_torch(tmp_path):
    code = f"import sys, runpy; sys.modules['torch'] = None; sys.argv[0] = {str(SCRIPT)!r}; "
    code += f"sys.path.insert(0, {str(SCRIPT.parent)!r}); "  # as Python does for a script
    out = run(tmp_path, "-c", f"{code} runpy.run_path(sys.argv[0], run_name='__main__')")
    check(out)
    assert "PyTorch is not installed" in out


@pytest.mark.parametrize("wrong", ["--rounds 0", "--hidden 2.5", "--seed -1"])
def test_wrong_options(wrong, capsys):
    with loaded("new_cell") as demo:
        check_refused(demo.arguments(), wrong, capsys)


def test_folder_that_cannot_be_written_to(tmp_path):
    check_folder_is_refused(SCRIPT, tmp_path)
