"""Compiled kernels on disk: found again by the next process, safe to share, and never in the way."""

import json
import os
import pickle
import pwd
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import config

import tinygrad_rnn
from tinygrad_rnn.kernels import cache, trusted
from tinygrad_rnn.kernels.elementwise import Elementwise

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

SOURCE = """
from numba import types, vectorize
from tinygrad_rnn.kernels.maths64 import tanh

@vectorize([types.float64(types.float64)], cache=CACHE)
def twice(x):
    return 2 * x
"""

# What a process prints: how often Numba ran a pass of its compiler, and what came out.
WORK = """
import json, sys
import numpy as np
from numba.core import event
import tinygrad_rnn
from tinygrad_rnn.kernels import cache
from tinygrad_rnn.kernels.elementwise import Elementwise

with event.install_recorder("numba:run_pass") as recorder:
    import tinygrad_rnn.kernels.maths32
    kernel = Elementwise("smooth", "x", {"y": "tanh(x) * sigmoid(x)"})
    x = np.linspace(-3, 3, 7)
    values = [kernel(x.astype(np.float32)).tolist()]
    if "more" in sys.argv:
        values += [kernel(x).tolist(), (tinygrad_rnn.eye(3) @ tinygrad_rnn.ones(3, 2)).tolist()]
directory = cache.cache_directory()
print(json.dumps({"passes": len(recorder.buffer), "values": values, "directory": directory and str(directory)}))
"""


def process(folder, *arguments, **environment):
    """A new Python process that does WORK with its cache in a folder."""
    variables = os.environ | {"TINYGRAD_RNN_CACHE": str(folder)} | environment
    sources = str(Path(tinygrad_rnn.__file__).parent.parent)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", WORK, *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(running):
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    return json.loads(output)


def state(folder):
    """Name, size and time of every file."""
    files = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (status.st_size, status.st_mtime_ns) for path, status in files.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of its own for this test and this process."""
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", str(tmp_path / "cache"))
    before, remembered = set(sys.modules), cache._directory
    remembered.cache_clear()
    yield tmp_path / "cache"
    remembered.cache_clear()
    forget(before)


def forget(known=frozenset()):
    """As if this process had not loaded any kernel since `known`."""
    for name in [name for name in sys.modules if name.startswith("tinygrad_rnn.generated.") and name not in known]:
        del sys.modules[name]


# ---- Found again -----------------------------------------------------------------------------------------------------


def test_the_second_process_compiles_nothing(tmp_path):
    first = outcome(process(tmp_path, "more"))
    files = state(tmp_path)
    second = outcome(process(tmp_path, "more"))
    assert first["passes"] > 100, "the first process had nothing to compile: this test counts the wrong thing"
    assert second["passes"] == 0
    assert second["values"] == first["values"]
    assert state(tmp_path) == files and sum(name.endswith(".nbc") for name in files) == 2


def test_processes_that_start_together(tmp_path):
    """Three at once in an empty cache: all of them work, and none sees half a file."""
    outcomes = [outcome(running) for running in [process(tmp_path) for _ in range(3)]]
    assert all(found["values"] == outcomes[0]["values"] for found in outcomes)
    names = list(state(tmp_path))
    assert not [name for name in names if name.endswith(".tmp")]
    assert len([name for name in names if name.endswith(".py")]) == 1
    assert outcome(process(tmp_path))["passes"] == 0


def test_the_same_text_is_one_module(folder):
    module = cache.load(SOURCE, "twice")
    assert cache.load(SOURCE, "twice") is module and module.twice(3.0) == 6
    assert module.CACHE and Path(module.__file__).read_text() == SOURCE
    assert Path(module.__file__).parent.parent == folder
    assert cache.load(SOURCE + "\n", "twice") is not module


# ---- Several processes at once ---------------------------------------------------------------------------------------

PICK = """
from numba import njit

@njit(cache=CACHE)
def pick(x):
    return x[1, 0]
"""


def kinds():
    """Arrays of one value under the index [1, 0]; machine code for one of them would read another's elsewhere."""
    plain = np.arange(6.0).reshape(2, 3)
    read_only = plain.copy()
    read_only.flags.writeable = False
    return [plain, np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2], read_only]


KINDS = kinds()


def merges(first, second):
    """All orders of two lists that keep that of each."""
    if not first or not second:
        yield first + second
        return
    yield from ([first[0], *rest] for rest in merges(first[1:], second))
    yield from ([second[0], *rest] for rest in merges(first, second[1:]))


def test_no_order_of_what_two_processes_write_gives_one_the_code_of_the_other(folder, monkeypatch):
    """Both found an empty cache, and either may be killed at any time: a third finds what is right, or nothing."""
    cache.load(PICK, "pick")
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda draft, path: written[-1].append((path, Path(draft).read_bytes())))
        for x in KINDS[:2]:
            written.append([])
            forget()
            assert cache.load(PICK, "pick").pick(x) == 3
    assert all(written), "nothing was written: this test counts the wrong thing"
    for order in merges(*written):
        for end in range(1, len(order) + 1):
            for path in [*folder.rglob("*.nb?"), *folder.rglob("*.tmp")]:
                path.unlink()
            for path, content in order[:end]:
                Path(path).write_bytes(content)
            forget()
            pick = cache.load(PICK, "pick").pick
            assert [pick(x) for x in KINDS[:2]] == [3, 3]
    assert len(pick.stats.cache_hits) == 2, "all was written, and something was not found"


# Compiles the same texts as others do, for arguments of kinds that are drawn, until somebody kills it.
STRESS = """
import os, random, signal, sys, threading, time
import numpy as np
from llvmlite import ir
from tinygrad_rnn.kernels import cache, trusted
from tinygrad_rnn.kernels.elementwise import Elementwise

PICK, KINDS, numbers = {pick!r}, [], random.Random(int(sys.argv[1]))
rounds, seconds = int(sys.argv[2]), float(sys.argv[3])
for dtype in np.float64, np.float32, np.int64:
    plain = np.arange(6).astype(dtype).reshape(2, 3)
    read_only = plain.copy()
    read_only.flags.writeable = False
    KINDS += [plain, np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2], read_only]
if seconds:
    end = lambda: (time.sleep(seconds), os.kill(os.getpid(), signal.SIGKILL))
    threading.Thread(target=end, daemon=True).start()
plain_replace = os.replace

def replace(draft, path):
    time.sleep(numbers.choice([0, 0, 0.002, 0.02]))  # others come between
    plain_replace(draft, path)

os.replace = replace
hits = 0
for turn in range(rounds):
    for name in [name for name in sys.modules if name.startswith("tinygrad_rnn.generated.")]:
        del sys.modules[name]
    which = turn % 2
    pick = cache.load(PICK + "# " + str(which), "pick").pick
    for x in numbers.sample(KINDS, 2) if rounds > 2 else KINDS:
        assert pick(x) == 3, (turn, x.dtype, x.flags)
    hits += sum(pick.stats.cache_hits.values())
    assert Elementwise("thrice", "x", dict(y="x * 3"))(KINDS[0]).tolist() == [[0, 3, 6], [9, 12, 15]]
    code = bytes([which]) * 5000
    assert cache.stored("stored", str(which), lambda: code) == code
    if rounds > 2 and numbers.random() < 0.1:  # as a user who tidies up
        for path in cache.cache_directory().rglob("*.nbc"):
            if numbers.random() < 0.2:
                path.unlink(missing_ok=True)
print(hits)
"""


@pytest.mark.parametrize(
    "processes, generations, rounds", [(2, 1, 6), pytest.param(4, 8, 30, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_processes_that_are_killed_while_they_compile_the_same(tmp_path, processes, generations, rounds):
    """Whatever they leave behind, others go on with the right code; the last ones, left in peace, find all of it."""
    sources = str(Path(tinygrad_rnn.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "TINYGRAD_RNN_CACHE": str(tmp_path / "cache")}
    numbers = random.Random(processes)
    text = STRESS.format(pick=PICK)

    def start(seed, rounds, seconds):
        arguments = [sys.executable, "-c", text, str(seed), str(rounds), str(seconds)]
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for generation in range(generations):
        victims = [start(10 * generation + k, rounds, k and numbers.uniform(0.5, 3)) for k in range(processes)]
        for k, victim in enumerate(victims):
            errors = victim.communicate(timeout=600)[1]
            assert victim.returncode in (0, -signal.SIGKILL if k else 0), errors
    left_in_peace = start(0, 2, 0).communicate(timeout=300), start(0, 2, 0).communicate(timeout=300)
    assert left_in_peace[1] == ("24\n", "")


# ---- Where -----------------------------------------------------------------------------------------------------------


def test_the_folder_is_made_for_its_user_alone(folder):
    cache.load(SOURCE, "twice")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    """Permissions do not stop root, but nobody can make a folder below a file."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_directory() == tmp_path / "xdg" / "tinygrad_rnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.cache_directory() == tmp_path / f"tinygrad_rnn-{os.getuid()}"
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert cache.cache_directory() is None


def test_a_full_disk_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", str(tmp_path / "full"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "free"))
    make = cache.tempfile.TemporaryFile

    def limited(*args, dir, **kwargs):
        if dir == tmp_path / "full":
            raise OSError(28, "No space left on device")
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(cache.tempfile, "TemporaryFile", limited)
    assert cache.cache_directory() == tmp_path / "free" / "tinygrad_rnn"


def test_the_default_is_the_user_s_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("TINYGRAD_RNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_directory() == tmp_path / ".cache" / "tinygrad_rnn"


def test_a_user_without_a_home(tmp_path, monkeypatch):
    """Containers run under numbers that no user database knows."""

    def unknown(number):
        raise KeyError(number)

    for name in ("TINYGRAD_RNN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache.cache_directory() == tmp_path / f"tinygrad_rnn-{os.getuid()}"


def give_away(path):
    """Let another user own a file or folder, for which one has to be root."""
    if os.getuid():
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1, follow_symlinks=False)


def link(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


UNTRUSTED = {
    "others can write": (lambda folder: folder.chmod(0o777), "mode is 777, which `chmod go-w` mends"),
    "sticky, like /tmp": (lambda folder: folder.chmod(0o1777), "mode is 1777"),
    "a group can write": (lambda folder: folder.chmod(0o770), "mode is 770"),
    "a link": (link, "it is a link"),
    "a link to nowhere": (lambda folder: (folder.rmdir(), folder.symlink_to(folder / "nowhere")), "it is a link"),
    "another user's": (give_away, "another user owns it"),
}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="whose a folder is: a matter of POSIX systems")
@pytest.mark.parametrize("place", ["TINYGRAD_RNN_CACHE", "XDG_CACHE_HOME", "temporary"])
@pytest.mark.parametrize("what", UNTRUSTED)
def test_a_folder_that_others_can_write_to_is_not_trusted(tmp_path, monkeypatch, place, what):
    """Whoever may write there may have this process execute what he likes. If it was chosen, the user is told."""
    (tmp_path / "file").write_text("in the way")
    for name in ("TINYGRAD_RNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / ("" if place == "temporary" else "file")))
    if place != "temporary":
        monkeypatch.setenv(place, str(tmp_path))
    folder = tmp_path / {"TINYGRAD_RNN_CACHE": "chosen", "XDG_CACHE_HOME": "tinygrad_rnn"}.get(
        place, f"tinygrad_rnn-{os.getuid()}"
    )
    if place == "TINYGRAD_RNN_CACHE":
        monkeypatch.setenv(place, f"{folder}{os.sep}")
    folder.mkdir(mode=0o700)
    assert cache.cache_directory() == folder
    spoil, reason = UNTRUSTED[what]
    spoil(folder)
    if place == "TINYGRAD_RNN_CACHE":
        with pytest.warns(UserWarning, match=f"TINYGRAD_RNN_CACHE is not used: code would be loaded .*{reason}"):
            assert cache.cache_directory() is None
    else:
        assert cache.cache_directory() is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="whose a folder is: a matter of POSIX systems")
def test_whose_rights_the_code_would_have_decides(tmp_path, monkeypatch):
    """A program with the rights of its owner, started by another user, does not trust that user."""
    status = tmp_path.stat()
    assert trusted.why_not(status) is None
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert (trusted.why_not(status) is None) == (status.st_uid == 0)  # root could do anything anyway
    values = list(status)
    values[4] = 12345
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert trusted.why_not(os.stat_result(values)) == "another user owns it"


def test_a_program_that_goes_to_another_folder_keeps_its_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", "relative")
    assert cache.cache_directory() == tmp_path / "relative"
    (tmp_path / "relative").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", "elsewhere")
    with pytest.warns(UserWarning, match="TINYGRAD_RNN_CACHE is not used"):
        assert cache.cache_directory() == tmp_path / "elsewhere" / "tinygrad_rnn"


FORGED = """
import pathlib
class Forged:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path({mark!r}),)
"""


def forge(path, mark):
    """A file with a right digest whose pickle leaves a mark as soon as it is read."""
    names = {}
    exec(FORGED.format(mark=str(mark)), names)
    trusted.write(path, pickle.dumps(names["Forged"]()))


def whole_folder(path):
    path.chmod(0o700)
    return path.parent


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="whose a folder is: a matter of POSIX systems")
@pytest.mark.parametrize("what", ["others can write", "a group can write", "a link", "another user's"])
@pytest.mark.parametrize("part", [lambda path: path, whole_folder], ids=["file", "folder"])
def test_parts_that_others_can_write_to_are_not_read(folder, tmp_path, part, what):
    kernel = lambda: Elementwise("forged", "x", {"y": "x * 7"})(np.arange(3.0)).tolist()
    assert kernel() == [0, 7, 14]
    (path,) = folder.rglob("*.nbc")
    forge(path, tmp_path / "mark")
    UNTRUSTED[what][0](part(path))
    forget()
    assert kernel() == [0, 7, 14]
    assert not (tmp_path / "mark").exists()


def test_a_forged_file_would_be_executed(folder, tmp_path):
    """What the test above relies on: there the owner alone makes the difference."""
    kernel = lambda: Elementwise("forged_by_me", "x", {"y": "x * 7"})(np.arange(3.0)).tolist()
    kernel()
    (path,) = folder.rglob("*.nbc")
    forge(path, tmp_path / "mark")
    forget()
    assert kernel() == [0, 7, 14]
    assert (tmp_path / "mark").exists()


def test_files_and_folders_are_for_their_user_alone_whatever_the_umask(folder):
    before = os.umask(0)
    try:
        Elementwise("masked", "x", {"y": "x * 7"})(np.arange(3.0))
        cache.stored("masked", "key", lambda: b"code")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*") if path.name != "__pycache__"}
    assert len(modes) >= 4 and not any(modes.values()), modes


def test_without_any_folder_kernels_work_for_this_process(folder, monkeypatch):
    monkeypatch.setattr(cache, "_directory", lambda: None)
    module = cache.load(SOURCE, "homeless")
    assert module.twice(4.0) == 8 and not module.CACHE
    kernel = Elementwise("homeless_kernel", "x", {"y": "x + 1"})
    np.testing.assert_array_equal(kernel(np.ones(3)), [2, 2, 2])
    assert not folder.exists()


def test_a_process_without_a_place_to_write(tmp_path):
    """The home and the cache are not there; a temporary folder takes their place."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    nowhere = str(tmp_path / "file" / "below")
    found = outcome(process(nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere, TMPDIR=str(tmp_path / "tmp")))
    assert found["directory"] == str(tmp_path / "tmp" / f"tinygrad_rnn-{os.getuid()}")
    assert found["values"][0][3] == 0


# ---- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".nbc", ".py", "a folder in its place"])
@pytest.mark.parametrize("left", [0, 20], ids=lambda left: f"{left} bytes left")
def test_torn_files_are_written_again(folder, kind, left):
    kernel = lambda: Elementwise("torn", "x", {"y": "x * 3"})
    x = np.arange(3.0)
    np.testing.assert_array_equal(kernel()(x), [0, 3, 6])
    if kind == "a folder in its place":
        (text,) = folder.rglob("*.py")
        text.unlink()
        text.mkdir()
    else:
        damaged = list(folder.rglob("*" + kind))
        assert damaged
        for path in damaged:
            path.write_bytes(path.read_bytes()[:left])
    forget()
    np.testing.assert_array_equal(kernel()(x), [0, 3, 6])
    forget()
    fresh = kernel()
    np.testing.assert_array_equal(fresh(x), [0, 3, 6])
    module = cache.load(fresh.source(np.float64), "torn_float64")
    assert module.CACHE and module.compute.cache_hits == 1, "the cache was not repaired"


FLIPS = """
import json, random, sys
from pathlib import Path
import numpy as np
from numba.core import event
from llvmlite import ir
from tinygrad_rnn.kernels import cache
from tinygrad_rnn.kernels.elementwise import Elementwise
from tinygrad_rnn.kernels.assembler import Function, Library
import ctypes

numbers, folder = random.Random(int(sys.argv[1])), cache.cache_directory()

def work():
    for name in [name for name in sys.modules if name.startswith("tinygrad_rnn.generated.")]:
        del sys.modules[name]
    module = ir.Module("seven")
    f = Function(module, "seven", [], gives=ir.IntType(64))
    f.give(7)
    seven = ctypes.CFUNCTYPE(ctypes.c_int64)(Library(module).address("seven"))
    with event.install_recorder("numba:run_pass") as recorder:
        values = Elementwise("flipped", "x", {"y": "x * 7"})(np.arange(3.0)).tolist()
    return values + [seven()], len(recorder.buffer)

right = [0, 7, 14, 7]
assert work()[0] == right
assert work() == (right, 0)
found = []
for trial in range(int(sys.argv[2])):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        content = bytearray(path.read_bytes())
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
    values, passes = work()
    assert values == right and passes > 0, (trial, values, passes)
    assert work() == (right, 0), "the cache was not repaired"
    found = sorted({path.suffix for path in files})
print(json.dumps(found))
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_a_flipped_bit_in_any_file_is_never_executed(tmp_path, seed):
    """In a process of its own, which machine code that is not whole would end."""
    sources = str(Path(tinygrad_rnn.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [sources, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(seed), "10"], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": path, "TINYGRAD_RNN_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [".nbc", ".o", ".py"]


@pytest.mark.parametrize("content", [b"", pickle.dumps(7), pickle.dumps((1, 2)), b"c__main__\nNobody\n."], ids=repr)
def test_a_file_that_is_whole_but_makes_no_sense_is_written_again(folder, content):
    kernel = lambda: Elementwise("senseless", "x", {"y": "x * 3"})(np.arange(3.0)).tolist()
    assert kernel() == [0, 3, 6]
    (path,) = folder.rglob("*.nbc")
    before = path.stat().st_size
    trusted.write(path, content)
    forget()
    # Names in there have numbers that count on, of one digit or two.
    assert kernel() == [0, 3, 6] and abs(path.stat().st_size - before) < before // 10


def test_a_file_in_the_place_of_another_is_not_executed(folder):
    """As after a repair of a file system: each is whole, and for arguments of another kind."""
    first = cache.load(PICK, "pick").pick
    assert [first(x) for x in KINDS] == [3] * len(KINDS)
    files = sorted(folder.rglob("*.nbc"))
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1]):
        path.write_bytes(content)
    forget()
    second = cache.load(PICK, "pick").pick
    assert [second(x) for x in KINDS] == [3] * len(KINDS) and not second.stats.cache_hits


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda folder: (shutil.rmtree(folder), folder.write_text("a file"))])
def test_what_is_compiled_long_after_it_was_loaded_needs_no_cache(folder, spoil):
    """Another kind of argument, such as a read-only array in the middle of a training."""
    pick = cache.load(PICK, "pick").pick
    assert pick(KINDS[0]) == 3
    spoil(folder)
    assert [pick(x) for x in KINDS] == [3] * len(KINDS)


def test_a_cache_that_is_deleted_while_it_is_in_use(folder):
    kernel = Elementwise("deleted", "x", {"y": "x - 1"})
    np.testing.assert_array_equal(kernel(np.ones(2)), [0, 0])
    shutil.rmtree(folder)
    np.testing.assert_array_equal(kernel(np.ones(2)), [0, 0])
    np.testing.assert_array_equal(Elementwise("deleted_too", "x", {"y": "x - 2"})(np.ones(2)), [-1, -1])


def test_errors_in_generated_text_are_shown(folder):
    """A broken text is no broken cache: the error arrives, and the module does not stay."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.load("1 / 0", "broken")
    assert not [name for name in sys.modules if "generated.broken" in name]


# ---- What machine code depends on ------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the folder of kernels, which the cache takes for its own."""
    copy = tmp_path / "kernels"
    shutil.copytree(Path(cache.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(copy / "cache.py"))
    cache.toolchain.cache_clear()
    yield copy
    cache.toolchain.cache_clear()


def place():
    """Where the same text goes now."""
    cache.toolchain.cache_clear()
    return cache.load(SOURCE, "twice").__file__


@pytest.mark.parametrize("name", ["outline.py", "maths.py", "maths32.py", "cache.py"])
def test_an_edited_helper_is_compiled_in_anew(folder, sources, name):
    """Kernels inline helpers from other files, whose edits Numba's own cache does not notice."""
    before = place()
    assert place() == before
    (sources / name).write_text((sources / name).read_text() + "\n# edited\n")
    assert place() != before


def test_another_version_of_numba_compiles_anew(folder, monkeypatch):
    before = place()
    monkeypatch.setattr(cache.numba, "__version__", "0.0")
    after = place()
    monkeypatch.undo()
    cache.toolchain.cache_clear()
    assert after != before
