"""Whether what one engine found is what the other one did, up to rounding.

float64: differences are at most 1e-10 of the largest entry of a result. Rounding is 1e-16, and seven steps of a few
dozen operations with values of about 1 enlarge it by some thousands. Where they are larger, the tape is asked how much
its own results move if all numbers that go in do so by 1e-14 of themselves: a case whose results move by more than a
hundredth of the difference is ill-conditioned, and says nothing.

float32: kernels must come as close to the tape in float64 as the tape in float32 does, up to a factor of 10, since sums
are taken in another order and tanh is another approximation, and 1e-5 of the largest entry, or 20 times its rounding
where the tape happens to hit. A kink that is hit (relu of 1e-9) is another branch, not an error: what fails must fail
again for two other draws of the inputs.
"""

import numpy as np

from fuzz.running import distances, run


class Mismatch(AssertionError):
    """The engines differ."""


class IllConditioned(Exception):
    """A case that says nothing."""


def shown(apart, limit):
    """The differences that are too large, the worst first."""
    worst = sorted(
        ((d / max(limit[key], 1e-300), key) for key, (d, _) in apart.items() if not d <= limit[key]), reverse=True
    )
    lines = [
        f"call {key[0]}, {key[1]}: differs by {apart[key][0]:.3g}, of at most {apart[key][1]:.3g}" for _, key in worst
    ]
    return "\n".join(lines[:12])


def compare(make, calls, dtype, noisy):
    """Raise `Mismatch` if the engines differ."""
    if dtype == np.float64:
        _double(make, calls)
        return
    for draw in range(3):
        try:
            _single(make, calls, noisy, draw)
            return
        except Mismatch:
            if draw == 2:
                raise


def _double(make, calls):
    expected = run(make, calls, "never", np.float64)
    apart = distances(run(make, calls, "require", np.float64), expected)
    limit = {key: 1e-10 * max(scale, 1e-3) for key, (_, scale) in apart.items()}
    if all(d <= limit[key] for key, (d, _) in apart.items()):
        return
    moved = distances(run(make, calls, "never", np.float64, nudge=1e-14), expected)
    limit = {key: max(limit[key], 100 * d) if np.isfinite(d) else np.inf for key, (d, _) in moved.items()}
    text = shown(apart, limit)
    if text:
        raise Mismatch(text)
    raise IllConditioned


def _single(make, calls, noisy, draw):
    single = run(make, calls, "never", np.float32, draw=draw)
    apart = distances(run(make, calls, "require", np.float32, draw=draw), single)
    if noisy:  # the numbers drawn in float64 are others
        limit = {key: 1e-3 * max(scale, 1e-2) for key, (_, scale) in apart.items()}
    else:
        double = [
            {name: v.astype(single[0]["y"].dtype) for name, v in each.items()}
            for each in run(make, calls, "never", np.float64, draw=draw)
        ]
        own = distances(_as(single, np.float64), _as(double, np.float64))
        limit = {key: 10 * own[key][0] + 1e-5 * max(scale, 1e-2) for key, (_, scale) in apart.items()}
    text = shown(apart, limit)
    if text:
        raise Mismatch(text)


def _as(results, dtype):
    return [{name: v.astype(dtype) for name, v in each.items()} for each in results]
