"""How many threads large operations may use: those of the `team`, with the one that calls."""

from numba import config

_num_threads = 0  # chosen at first use: NUMBA_NUM_THREADS may be set after this module is imported


def get_num_threads() -> int:
    """The number of threads a large operation may use, the caller's included; at first NUMBA_NUM_THREADS.

        >>> import tinygrad_rnn as tg
        >>> tg.get_num_threads() >= 1
        True
    """
    return _num_threads or int(config.NUMBA_NUM_THREADS)


def set_num_threads(n: int) -> None:
    """Let large operations use `n` threads, the caller's included. Results do not depend on it, to the last bit.

        >>> import tinygrad_rnn as tg
        >>> before = tg.get_num_threads()
        >>> tg.set_num_threads(1)
        >>> tg.get_num_threads()
        1
        >>> tg.set_num_threads(before)

    Raises:
        TypeError: `n` is not an integer.
        ValueError: `n` is less than 1 or more than NUMBA_NUM_THREADS, an environment variable that is the number of
            processors unless it is set.
    """
    global _num_threads
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"set_num_threads(n): n must be an integer, got {n!r}")
    most = int(config.NUMBA_NUM_THREADS)
    if not 1 <= n <= most:
        raise ValueError(
            f"set_num_threads({n}): expected 1 to {most}; for more threads set NUMBA_NUM_THREADS before the start"
        )
    _num_threads = n.__index__()
