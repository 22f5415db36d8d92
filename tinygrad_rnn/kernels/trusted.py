"""Files that this process executes: read only if nobody else can have written them, and if they are whole.

Whoever can write to a cache of machine code can have its users execute what he likes, and Numba keeps its cache in
pickles, which execute code before anything can be looked at. So a file is opened, asked whose it is, and then read; and
it begins with the digest of the rest, since machine code with a flipped bit would end the process, or worse.
"""

import contextlib
import hashlib
import os
import pickle
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

DIGEST_BYTES = 32


class UntrustedError(OSError):
    """Others could have written this, or it is not what was written."""


def why_not(status: os.stat_result) -> str | None:
    """The reason why a file or folder of this status is not to be trusted; None if it is."""
    if stat.S_ISLNK(status.st_mode):
        return "it is a link"
    if not hasattr(os, "geteuid"):  # a system with other means
        return None
    if status.st_uid not in (os.geteuid(), 0):  # with whose rights the code would run
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
        reason = why_not(os.fstat(handle))
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


class KernelCache(caching.NullCache):
    """Where Numba finds the machine code of a function again: one file for each signature and processor.

    Numba's own numbers its files, and an index says which is whose: of two processes that add to an index at once, one
    takes the number of the other, and a third executes code that was compiled for arguments of another kind. Here the
    name of a file follows from what it is for, and the file says that once more. So it is there and right, or it is as
    if it were not there: so is whatever cannot be read, trusted or understood.

    Args:
        folder: of the files.
        function: whose machine code it is.
    """

    def __init__(self, folder: Path, function: Any) -> None:
        self._folder, self._name = folder, f"{folder.name.rpartition('_')[0]}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(self._folder)

    def _key_and_path(self, signature: Any, codegen: Any) -> tuple[Any, Path]:
        key = self._name, signature, codegen.magic_tuple()
        return key, self._folder / f"{self._name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        key, path = self._key_and_path(sig, target_context.codegen())
        try:
            found, payload = pickle.loads(read(path))
            return CompileResult._rebuild(target_context, *payload) if found == key else None
        except Exception:  # whatever it is, it will be compiled, and written again
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if data.library.has_dynamic_globals or not all(loop.can_cache for loop in data.lifted):
            return
        key, path = self._key_and_path(sig, data.codegen)
        with contextlib.suppress(OSError):  # the machine code is there all the same
            write(path, dumps((key, data._reduce())))


@contextlib.contextmanager
def numba_files_in(folder: Path) -> Iterator[None]:
    """Functions that this thread defines inside with `cache=True` have such a cache, in this folder."""
    usual, me = caching.Cache.__init__, threading.get_ident()

    def init(self: Any, py_func: Any) -> None:
        if threading.get_ident() == me and type(self) is caching.FunctionCache:
            self.__class__ = KernelCache
            self.__init__(folder, py_func)
        else:
            usual(self, py_func)

    caching.Cache.__init__ = init
    try:
        yield
    finally:
        caching.Cache.__init__ = usual
