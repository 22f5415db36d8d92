"""Arrays right before, or right after, memory that the process may not touch: who strays is stopped at once.

    x = guarded(np.ones((3, 5), np.float32))                # the page after its last byte is unreadable
    y = guarded(x[::-1, ::2], end="before")                 # the page before its first byte is; strides are kept
    assert untouched(y)                                     # nothing was written between and beside its elements

A stray access ends the process: tests run what may stray in a child, see `in_child`.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn

_libc = ctypes.CDLL(None) if os.name == "posix" else None
AVAILABLE = hasattr(_libc, "mprotect")
needs_guards = pytest.mark.skipif(not AVAILABLE, reason="the system has no mprotect")
PAGE, FILL, NOTHING = mmap.PAGESIZE, 0xFF, 0  # FILL: of the bytes beside the elements, as floats not a number


def guarded(array, end="after"):
    """A writable copy of an array, of the same strides, whose last (first) byte lies right before (after) such a page.

    Args:
        array: of any shape and strides, those of repeated elements (zero) and negative ones too; also empty.
        end: "after" for a guard behind the last byte, "before" for one in front of the first.
    """
    assert end in ("after", "before")
    low = high = 0
    if array.size:
        ways = [(n - 1) * step for n, step in zip(array.shape, array.strides)]
        low, high = sum(way for way in ways if way < 0), sum(way for way in ways if way > 0) + array.itemsize
    pages = max(1, -(-(high - low) // PAGE))
    room = mmap.mmap(-1, (pages + 2) * PAGE)
    room.write(bytes([FILL]) * len(room))
    place = ctypes.c_char.from_buffer(room)
    address = ctypes.addressof(place)
    del place
    for guard in (address, address + (pages + 1) * PAGE):
        assert _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), NOTHING) == 0
    start = (pages + 1) * PAGE - (high - low) if end == "after" else PAGE
    copy = np.ndarray(array.shape, array.dtype, room, start - low, array.strides)
    copy[...] = array
    return copy


def untouched(array):
    """Whether nothing was written to the bytes beside and between the elements of an array that is `guarded`."""
    room = array
    while isinstance(room, np.ndarray):
        room = room.base
    room = getattr(room, "obj", room)
    inside = np.frombuffer(room, np.uint8, len(room) - 2 * PAGE, PAGE)
    theirs = np.zeros(inside.size, bool)
    shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
    start = array.ctypes.data - inside.ctypes.data
    np.ndarray(shape, bool, theirs, start if array.size else 0, strides)[...] = True
    return bool((inside[~theirs] == FILL).all())


def in_child(file, code, timeout=300, **environment):
    """Run lines of Python with the names of a test file in a new process, and return what it printed.

    A stray access, an error or a hang is a failure that shows where it was.
    """
    tests, source = Path(__file__).parent.parent, Path(tinygrad_rnn.__file__).parent.parent
    paths = [str(Path(file).parent), str(tests), str(source)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment
    script = f"import faulthandler; faulthandler.enable(); from {Path(file).stem} import *\n{code}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired as hang:
        pytest.fail(f"no end within {timeout} s: {hang.stdout!r} {hang.stderr!r}")
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout.strip()
