"""What tinygrad_rnn refuses of PyTorch's samples on purpose, and which of PyTorch's error samples are no errors here.

A sample that is refused and not listed fails the test, and so does an entry that no longer happens: the list is short
and true, or the suite is red.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """`samples` samples of `op` (PyTorch's name, then "/" and the variant if any) raise an error matching `message`."""

    op: str
    samples: int
    message: str
    reason: str


@dataclass(frozen=True)
class NoError:
    """PyTorch refuses this with an error matching `message`; tinygrad_rnn need not."""

    op: str  # "*" for all
    message: str
    reason: str


REFUSALS: list[Refusal] = [
    Refusal("nn.functional.batch_norm", 2, r"expected \[N, C, ...\], got shape \[0\]", "numbers without channels"),
]

NO_ERRORS = [
    NoError("roll", "Dimension specified as 0", "for `dim` a 0-d tensor has one dimension, as in most of PyTorch"),
    *(
        NoError(op, "^$", "a number may stand where PyTorch wants a tensor")
        for op in ("maximum", "minimum", "__radd__", "__rsub__", "__rmul__", "__rdiv__", "__rpow__")
    ),
    NoError("nn.functional.conv1d", "should be the same", "dtypes are promoted, as in most of PyTorch"),
    NoError("nn.functional.max_pool1d", "with optional 0 dim batch size", "no channels are none to find a maximum in"),
    NoError("*", "Attempting to copy|same device|found at least two devices", "there are no devices"),
    NoError("*", "only tensors with up to 64 dims", "NumPy has no such arrays, so there is nothing to refuse"),
]
