"""Files that this process executes: read only if nobody else can have written them, and if they are whole.

Whoever can write to a cache of machine code can have its users execute what he likes, and Numba keeps its cache in
pickles, which execute code before anything can be looked at. So a file is opened, asked whose it is, and then read; and
it begins with the digest of the rest, since machine code with a flipped bit would end the process, or worse.
"""

import contextlib
import hashlib
import io
import os
import pickle
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core import caching

DIGEST_BYTES = 32


class UntrustedError(OSError):
    """Others could have written this, or it is not what was written."""


def why_not(status: os.stat_result) -> str | None:
    """The reason why a file or folder of this status is not to be trusted; None if it is."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a link"
    if not hasattr(os, "getuid"):  # a system with other means
        return None
    if status.st_uid not in (os.getuid(), 0):
        return "another user owns it"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"other users can write to it: its mode is {stat.S_IMODE(status.st_mode):o}, which `chmod go-w` mends"
    return None


def make_folder(folder: Path) -> None:
    """Make a folder for its user alone, unless it is there.

    Raises:
        UntrustedError: what is there is not to be trusted.
        OSError: it cannot be made.
    """
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if reason := why_not(status):
        raise UntrustedError(f"{folder}: {reason}")
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")


def read(path: str | os.PathLike[str]) -> bytes:
    """What `write` wrote.

    Raises:
        UntrustedError: it is not that, or others can write to the file.
        OSError: it cannot be read.
    """
    # Not through a link, and without waiting for somebody who writes to a pipe.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        reason = why_not(status)
        content = b"" if reason else file.read()
    digest, rest = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if reason or hashlib.sha256(rest).digest() != digest:
        raise UntrustedError(f"{os.fspath(path)}: {reason or 'it is damaged'}")
    return rest


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write the digest of `content`, and it, at once and for this user alone."""
    replace(path, hashlib.sha256(content).digest() + content)


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file at once: nobody sees half of it."""
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


class NumbaFiles(caching.IndexDataCacheFile):
    """The files in which Numba finds a compiled function again. What cannot be trusted is as if it were not there."""

    def _load_index(self) -> Any:
        try:
            content = io.BytesIO(read(self._index_path))
        except OSError:
            return {}
        if pickle.load(content) != self._version:
            return {}
        stamp, overloads = pickle.load(content)
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        return pickle.loads(read(self._data_path(name)))  # who called takes an OSError for "not there"

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        write(filepath, content.getvalue())


@contextlib.contextmanager
def numba_files_in(folder: Path) -> Iterator[None]:
    """Functions that this thread defines inside with `cache=True` have such files, in this folder."""
    usual, me = caching.IndexDataCacheFile, threading.get_ident()

    def make(cache_path: str, filename_base: str, source_stamp: Any) -> Any:
        ours = threading.get_ident() == me
        return (NumbaFiles if ours else usual)(str(folder) if ours else cache_path, filename_base, source_stamp)

    caching.IndexDataCacheFile = make
    try:
        yield
    finally:
        caching.IndexDataCacheFile = usual
