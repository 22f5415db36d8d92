"""Generated source text -> a real module on disk -> machine code that the next process finds again.

Numba's disk cache keys a compiled function by the file it was written in, so text passed to `exec` is compiled anew
in every process. Here each generated text becomes a file named by a hash of everything its machine code depends on:
the text, the sources of this folder that it may inline, and the versions of the library and of Numba. A file is
written beside its place and renamed into it, so that two processes never see half of one. Kernels that these sources
define themselves, such as a softmax, have no text of their own, and a place all the same.
"""

import contextlib
import functools
import hashlib
import linecache
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numba

from . import trusted
from .locks import lock

_LOADING = lock("loading")


def cache_directory() -> Path | None:
    """The first of $TINYGRAD_RNN_CACHE, the user's cache folder and a private temporary folder that can be written.

    It is an absolute path, or None if there is no such place: kernels are then compiled for this process only. A folder
    that is a link, belongs to another user or can be written by others is passed over: see `trusted`. If it was chosen,
    a warning says so.
    """
    for candidate in map(Path.absolute, _candidates()):  # a program may go to another folder later
        try:
            trusted.make_folder(candidate)  # another user may have made one in /tmp
            with tempfile.TemporaryFile(dir=candidate) as probe:
                probe.write(b"x")
        except trusted.UntrustedError as error:
            if candidate == Path(os.environ.get("TINYGRAD_RNN_CACHE", "")).absolute():
                warnings.warn(f"TINYGRAD_RNN_CACHE is not used: code would be loaded from {error}", stacklevel=2)
            continue
        except OSError:
            continue
        return candidate
    return None


def _candidates() -> Iterator[Path]:
    if chosen := os.environ.get("TINYGRAD_RNN_CACHE"):
        yield Path(chosen)
    home = os.path.expanduser("~")  # which stays as it is for a user number that no database knows
    if folder := os.environ.get("XDG_CACHE_HOME") or (home != "~" and os.path.join(home, ".cache")):
        yield Path(folder) / "tinygrad_rnn"
    yield Path(tempfile.gettempdir()) / f"tinygrad_rnn-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


_directory = functools.cache(cache_directory)


@functools.cache
def toolchain() -> bytes:
    """A digest of what a kernel's machine code depends on besides its own text."""
    digest = hashlib.sha256(f"numba {numba.__version__}, python {sys.version_info[:2]}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def load(source: str, name: str, use: Callable[[ModuleType], object] = lambda module: None) -> ModuleType:
    """Execute generated `source` as a module that Numba can cache, and return it.

    The text sees a global `CACHE`, true where caching works: its decorators say `cache=CACHE`. A cached file that
    cannot be read or executed is thrown away and written again.

    Args:
        use: called with the module before it is returned. What has no signature is looked for in the cache when it is
            first called, so the first call belongs here.
    """
    key = hashlib.sha256(source.encode() + toolchain()).hexdigest()[:16]
    qualified = f"tinygrad_rnn.generated.{name}_{key}"
    with _LOADING:
        if qualified in sys.modules:
            try:
                use(sys.modules[qualified])
                return sys.modules[qualified]
            except Exception:
                del sys.modules[qualified]
        home = _directory()
        if home is not None:
            path = home / f"{name}_{key}" / f"{name}.py"
            for attempt in ("cached", "fresh"):
                try:
                    _write(path, source)
                    return _execute(source, qualified, str(path), use, cache=True)
                except Exception:  # a torn or foreign cache file may raise anything while it is unpickled
                    if attempt == "cached":
                        shutil.rmtree(path.parent, ignore_errors=True)
        return _execute(source, qualified, f"<{name}>", use, cache=False)


@contextlib.contextmanager
def place_for(name: str) -> Iterator[bool]:
    """Inside, kernels that this folder's sources define are kept on the disk; false where they cannot be."""
    home = _directory()
    with _LOADING, contextlib.ExitStack() as stack:
        if home is not None:
            folder = home / f"{name}_{hashlib.sha256(toolchain()).hexdigest()[:16]}"
            try:
                for each in (home, folder):
                    trusted.make_folder(each)
                stack.enter_context(trusted.numba_files_in(folder))
            except OSError:
                home = None
        yield home is not None


def stored(name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or returned in an earlier process that asked for the same name and key."""
    home = _directory()
    if home is None:
        return make()
    path = home / f"{name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.o"
    with contextlib.suppress(OSError):
        trusted.make_folder(home)
        return trusted.read(path)
    made = make()
    with contextlib.suppress(OSError):
        trusted.write(path, made)
    return made


def _write(path: Path, source: str) -> None:
    for folder in (path.parent.parent, path.parent):
        trusted.make_folder(folder)
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        trusted.replace(path, source.encode())


def _execute(
    source: str, qualified: str, path: str, use: Callable[[ModuleType], object] = lambda module: None, *, cache: bool
) -> ModuleType:
    module = ModuleType(qualified)
    module.__file__ = path
    module.__dict__["CACHE"] = cache
    sys.modules[qualified] = module  # before executing: Numba looks a cached function's module up by name
    linecache.cache[path] = len(source), None, source.splitlines(True), path  # where `inspect` looks for the source
    try:
        with trusted.numba_files_in(Path(path).parent) if cache else contextlib.nullcontext():
            exec(compile(source, path, "exec"), module.__dict__)
        use(module)
    except BaseException:
        del sys.modules[qualified]
        raise
    return module
