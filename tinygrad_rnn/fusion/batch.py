"""The size of the batch, which nobody knows while a step is traced.

Kernels serve any batch, so a step must not compute with its size or decide by it. Two things stand for it:

    Batch   what the user finds in `h.shape`: it goes into shapes (`rand(h.shape)`, `expand(h.shape[0], 3)`), equals
            itself, and refuses everything else
    Size    what the compiler has in the shapes of values: a number for the shape rules, printed as B

A value has a row for each sequence of the batch if one of its operands has. Then the first dimension of its shape is
the batch's and no other is. A step is traced with two numbers in place of the size: what is the same with both is a
width, whatever number that is.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn

from ..autograd.tape import mode, ours
from .refusal import Unfusable


class Size(int):
    """The number that stands for the size of the batch in the shape of a value."""

    def __repr__(self) -> str:
        return "B"

    __str__ = __repr__


BATCH = Size(1009)  # in values that have been traced; which number it is plays no part


def stand_ins(known: Iterable[int]) -> Iterator[int]:
    """Numbers to trace with, none of them a size that is known to occur."""
    taken = set(known)
    return (n for n in itertools.count(int(BATCH), 2) if n not in taken)


def sized(attributes: dict[str, Any], rows: int) -> dict[str, Any]:
    """Attributes for so many rows in place of the batch."""
    shape = attributes.get("shape")
    if not shape or type(shape[0]) is not Size:
        return attributes
    return attributes | {"shape": (rows, *shape[1:])}


class Batch:
    """The size of the batch in a shape that the user asks for, while a step is traced."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return int  # as far as `isinstance` can tell: so it is on the tape

    def __index__(self) -> int:
        """For shapes, by way of this library: `range(h.shape[0])` and NumPy are refused."""
        return self.number if ours(sys._getframe(1)) else _refuse()

    def __repr__(self) -> str:
        return "B" if ours(sys._getframe(1)) else _refuse()

    def __eq__(self, other: object) -> bool:
        return self._is(other, sys._getframe(1))

    def __ne__(self, other: object) -> bool:
        return not self._is(other, sys._getframe(1))

    def _is(self, other: object, frame: FrameType) -> bool:
        """Another object for the same size; for this library, which asks whether shapes agree, the number as well."""
        if type(other) is Batch or (type(other) is int and other == self.number and ours(frame)):
            return True
        _refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of any object
            raise AttributeError(name)
        _refuse()


def _refuse(*args: Any) -> NoReturn:
    what = "step computes with the size of the batch, or decides by it"
    lead = "it may only go into shapes, such as tg.rand(h.shape) and h.expand(h.shape[0], 3)"
    if mode.tracer is not None:
        mode.tracer.refuse(what, lead)
    raise Unfusable(f"{what}: {lead}")


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "or", "xor",
           "matmul")  # fmt: skip
_OTHERS = ("lt", "le", "gt", "ge", "hash", "bool", "int", "float", "complex", "neg", "pos", "abs", "invert", "round",
           "trunc", "floor", "ceil", "format", "str", "iter", "len", "getitem", "array", "reduce_ex")  # fmt: skip
for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *_OTHERS):
    setattr(Batch, f"__{_name}__", _refuse)
