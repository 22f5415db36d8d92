"""Which operations are the same: those whose operands, numbers and attributes are, bit by bit."""

from typing import Any

import numpy as np


def key_of(x: Any) -> Any:
    """What is equal for two numbers or attributes if they are the same, bit by bit: a key."""
    if isinstance(x, np.ndarray):
        return "array", x.shape, x.dtype.str, x.tobytes()
    if isinstance(x, slice):
        return "slice", key_of(x.start), key_of(x.stop), key_of(x.step)
    if isinstance(x, dict):
        return tuple((name, key_of(value)) for name, value in x.items())
    if isinstance(x, (tuple, list)):
        return tuple(map(key_of, x))
    return type(x), repr(x), getattr(x, "name", "")  # that of a number which is an argument
