"""What the tests of all demos ask of options: wrong ones, and a folder nobody can write to, are refused in a line."""

import subprocess
import sys

import pytest


def check_refused(parser, wrong, capsys):
    """`wrong`, an option and what is wrong for it, ends the program, which names the option."""
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(wrong.split())
    assert stop.value.code == 2 and f"argument {wrong.split()[0]}" in capsys.readouterr().err


def check_folder_is_refused(script, tmp_path, *more):
    """What is no folder, as `--out`: one line, which begins with the program's name, and no traceback."""
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, str(script), *more, "--quick", "--out", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"{script.name}: ")
