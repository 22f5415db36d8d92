"""one_thread: NumPy's factorisations without its threads, for which matrices of a few hundred rows are too small.

Where other programs run beside, two threads that wait for each other at every column take ten times as long as one.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..kernels.locks import lock

NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")
_inside, _before = 0, 1


@functools.cache
def _switch() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """How OpenBLAS is asked for its number of threads, and told another; None if NumPy has another library."""
    try:
        library = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    except (AttributeError, OSError):
        return None
    for name in NAMES:
        get, set_ = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
        if get is not None and set_ is not None:
            return get, set_
    return None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, BLAS runs in one thread, that of others as well; nothing happens if it cannot be told to.

    >>> with one_thread():
    ...     np.linalg.svd(np.diag([3.0, 4.0]), compute_uv=False)
    array([4., 3.])
    """
    global _inside, _before
    switch = _switch()
    if switch is None:
        yield
        return
    get, set_ = switch
    with lock("blas"):
        if not _inside:
            _before = get()
            set_(1)
        _inside += 1
    try:
        yield
    finally:
        with lock("blas"):
            _inside -= 1
            if not _inside:
                set_(_before)
