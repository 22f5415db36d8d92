"""`demos/compress.py` as its users run it, small."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "demos" / "compress.py"


def run(*options, ok=True):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stdout if ok else done.stderr


def test_it_cuts_a_model_and_draws_it(tmp_path):
    out = run("--quick", "--ranks", 4, 12, "--out", tmp_path)
    assert (tmp_path / "compress.png").stat().st_size > 5000
    number = r"([\d.,]+)"
    rows = re.findall(rf"^ +(all|\d+) +{number} +{number} ?% +(?:{number} +)?{number} +{number}$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["all", "4", "12"]
    sizes = [int(row[1].replace(",", "")) for row in rows]
    assert sizes[1] < sizes[2] < sizes[0]
    kept = [float(row[2]) for row in rows]
    assert 0 < kept[1] < kept[2] < kept[0] == 100
    again = run("--quick", "--checkpoint", tmp_path / "checkpoint.safetensors", "--ranks", 12, "--out", tmp_path)
    assert rows[2][:3] == re.findall(rf"^ +(12) +{number} +{number} ?%", again, re.MULTILINE)[0]


def test_what_cannot_be_cut_is_refused(tmp_path):
    assert "no such file" in run("--checkpoint", tmp_path / "none", ok=False).lower()
