"""What the operations of a step may do, so that kernels compute what the tape does.

Kernels take the rows of a batch one by one, in numbers of one dtype, and carry gradients back that are linear in what
arrives. Each check returns None, or what is wrong with an operation and what to write instead.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.primitive import FLOAT32, FLOAT64, ElementwisePrimitive, Primitive, Shape

Wrong = tuple[str, str] | None
Shown = Callable[[Any], tuple[str, str]]

MEET = "the rows of the batch meet"
_SUMS = (table.sum, table.amax, table.amin)
_ALONG = (table.softmax, table.log_softmax, table.cumsum)
MOVES = (
    table.slice, table.slice_scatter, table.index, table.reshape, table.permute, table.expand, table.cat, table.sum_to,
    table.detach,
)  # fmt: skip
COMPARISONS = (table.eq, table.ne, table.lt, table.le, table.gt, table.ge)
_LOGIC = (table.logical_and, table.logical_or, table.logical_not)


# ---- Rows ------------------------------------------------------------------------------------------------------------


def rows_apart(
    row: Primitive, operands: list[Any], attributes: dict[str, Any], shape: Shape, batch: int, called: str
) -> Wrong:
    """Whether each row of a result is made of the same row of the operands: its first dimension is the batch's then.

    Args:
        operands: lines, and numbers.
        shape: of the result, with `batch` where it has the size of the batch.
        called: the function that the user called.
    """
    per_row = [x for x in operands if getattr(x, "per_row", False)]
    places = [i for i, n in enumerate(shape) if n == batch]
    if not per_row:
        if not places or (row is table.expand and places == [0]):
            return None
        return "step makes a row for each of the batch from none", (
            "leave the batch's dimension out and write h * b, one row serves the whole batch"
        )
    along = attributes.get("dim", ())
    over_rows = row in (*_SUMS, *_ALONG) and 0 in (along if isinstance(along, tuple) else (along,))
    if called == "einsum" and (over_rows or places != [0]):
        return f"{MEET} in {called}", "write one letter for the batch, first in operands and result: 'bi,bj->bij'"
    if over_rows:
        rank = len(per_row[0].shape)
        dims = "dim=-1, over the columns" if rank == 2 else f"dim={tuple(range(1, rank))}, over all"
        return f"{MEET} in {called} over dim 0", f"write {dims} of each row, and tg.where(mask, a, b) for a choice"
    indexed = row in (table.slice, table.slice_scatter, table.index)
    if indexed and not takes_all_rows(attributes["at"], per_row[0].shape):
        what = "an index" if called in ("slice", "index") else called
        lead = "dim=-1" if called in ("flip", "roll") else "h[:, first:last]"
        return f"{MEET}: {what} picks some of them, or puts them in another order", f"write {lead}"
    if row is table.cat and along == 0:
        return f"{MEET}: {called} puts them below each other", "write tg.cat([a, b], -1)"
    if row is table.permute and places != [0]:
        lead = "a @ b.T for (b @ a.T).T" if len(shape) == 2 else "C.mT or C.permute(0, 2, 1), with the batch in front"
        return f"{MEET}: a transposed value has them in another dimension", f"write {lead}"
    if places == [0]:
        return None
    if row is table.reshape:
        inner = ", ".join(str(n) for n in (-1, *shape[1:]) if n % batch)
        leads = {"stack": "tg.stack([a, b], 1)", "unsqueeze": "h.unsqueeze(1)", "roll": "tg.roll(h, 1, -1)"}
        lead = leads.get(called, f"h.reshape(h.shape[0], {inner})")
        return f"{MEET} in {called}", f"write {lead}, with the batch in front"
    if len(places) > 1:
        return f"{MEET}: each is combined with each other", (
            "write sum(-1, keepdim=True) where a row has one number"
        )
    return f"{MEET} in {called}, or the batch is not in front", "write values of shape [B, width]"


def takes_all_rows(at: Any, shape: Shape) -> bool:
    """Whether an index leaves the first dimension as it is."""
    first, *others = [i for i in at if i is not None] or [...]
    if first is ...:
        taken = sum(i.ndim if getattr(i, "dtype", None) == np.bool_ else 1 for i in others)
        return taken < len(shape) or takes_all_rows(others, shape)
    return isinstance(first, slice) and first.start in (None, 0) and first.stop is None and first.step in (None, 1)


# ---- Dtypes ----------------------------------------------------------------------------------------------------------


def dtype_of(row: Primitive, operands: list[Any], attributes: dict[str, Any]) -> np.dtype:
    """The dtype of a result on the tape."""
    if row is table.cast:
        return np.dtype(attributes["dtype"])
    if row in COMPARISONS or row in _LOGIC:
        return np.dtype(np.bool_)
    kinds = [x.dtype for x in (operands[1:] if row is table.where else operands) if hasattr(x, "dtype")]
    floats = [kind for kind in kinds if kind.kind == "f"]
    if floats:
        return np.result_type(*floats)
    if not kinds:
        return FLOAT32
    if row in (table.sum, table.cumsum):
        return np.dtype(np.int64)
    if isinstance(row, ElementwisePrimitive) and row.integer is None:
        return FLOAT32
    return np.result_type(*kinds)


def one_dtype(
    row: Primitive, operands: list[Any], attributes: dict[str, Any], dtype: np.dtype, shown: Shown
) -> Wrong:
    """Whether an operation on rows computes in the dtype of the states, with truth values as conditions alone.

    Args:
        shown: what the user calls a value, and how it is turned into the dtype of the states.
    """
    if row is table.cast:
        return _cast(operands[0], np.dtype(attributes["dtype"]), dtype, shown)
    lines = [x for x in (operands[1:] if row is table.where else operands) if hasattr(x, "dtype")]
    only_truths = all(x.dtype.kind == "b" for x in lines)
    if row in (*_LOGIC, *MOVES, table.amax, table.amin) or (row in COMPARISONS and only_truths):
        lines = [x for x in lines if x.dtype.kind != "b"]
    for x in lines:
        if x.dtype.kind == "b":
            return f"step computes with truth values in {row.name}", f"write {shown(x)[1]} first"
        exact = x.dtype == FLOAT32 and dtype == FLOAT64 and row in (*COMPARISONS, *MOVES, table.where)
        if x.dtype != dtype and not exact:
            return foreign(x, dtype, shown)
    return None


def _cast(x: Any, to: np.dtype, dtype: np.dtype, shown: Shown) -> Wrong:
    exact = x.dtype.kind in "biu" or (x.dtype, to) == (FLOAT32, FLOAT64)
    if to == x.dtype or (to == dtype and exact):
        return None
    name, conversion = shown(x)
    if to.kind == "b":
        return "step turns numbers into truth values", "write h != 0"
    if x.dtype.kind == "b":
        return f"step computes with truth values in {to}", f"write {conversion} first"
    if to.kind != "f":
        return f"step turns {name} into {to}, and kernels compute with floats", (
            "write tg.sign(h) * tg.floor(tg.abs(h)) for h.long()"
        )
    return f"step turns {name} into {to}, and the states are {dtype}", f"write {conversion}, or leave it out"


def foreign(x: Any, dtype: np.dtype, shown: Shown) -> Wrong:
    """What to say of a value of another dtype: who brought it in."""
    made_of = [x]
    for y in made_of:  # which grows on the way
        made_of += [z for z in y.inputs if hasattr(z, "inputs") and z not in made_of]
    leaf = next((y for y in made_of if y.row is None and y.dtype != dtype), x)
    name, conversion = shown(leaf)
    return f"{name} is {leaf.dtype}, and the states are {dtype}", f"write {conversion}"


# ---- Gradients -------------------------------------------------------------------------------------------------------


def linear(row: Primitive, operands: list[Any]) -> Wrong:
    """Whether gradients may be summed over all steps before they are carried back through an operation."""
    if not row.linear and not any(getattr(x, "timed", False) for x in operands):
        f = "tg.clip_gradient({}, 1.0)" if row is table.clip_gradient else f"{row.name}({{}})"
        return f"{row.name} of what is the same at every step clips at each of them", (
            f"write {f.format('h @ U')} for h @ {f.format('U')}, or clip after the backward pass by "
            "nn.utils.clip_grad_value_"
        )
    return None
