"""What becomes of NumPy's functions that are called with tensors.

`np.exp(t)`, `array @ t` and `np.float32(2) * t` are the operations of this library, recorded like any other. What NumPy
alone can do, such as `np.concatenate`, would lose the graph: with a tensor that wants a gradient it is refused, and the
message names what to write. Tensors that want none are arrays to such functions, and so is the result. `np.asarray(t)`
and `t.numpy()` are the way out of a graph.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from . import pointwise, products, reductions, shapes
from .operands import as_array
from .tape import Value, mode

_NUMPY = str(Path(np.__file__).parent) + os.sep
_OURS = (pointwise, products, reductions, shapes)
# NumPy's ufuncs that are called otherwise here: beside each other what NumPy and what this library calls it.
_CALLED = dict(pair.split(":") for pair in (
    "subtract:sub multiply:mul divide:div power:pow negative:neg absolute:abs fabs:abs equal:eq not_equal:ne less:lt "
    "less_equal:le greater:gt greater_equal:ge invert:bitwise_not"
).split())  # fmt: skip
# Other functions, and what does the same here. No entry: what this library calls by the same name.
_INSTEAD = {
    "concatenate": "tg.cat", "hstack": "tg.cat", "vstack": "tg.cat or tg.stack", "column_stack": "tg.cat or tg.stack",
    "append": "tg.cat", "expand_dims": "x.unsqueeze(dim)", "swapaxes": "tg.transpose", "moveaxis": "tg.permute",
    "transpose": "x.T, x.mT or tg.permute", "ravel": "tg.flatten", "max": "x.max() or x.max(dim)",
    "min": "x.min() or x.min(dim)", "clip": "tg.clamp", "take": "tg.index_select", "take_along_axis": "tg.gather",
    "array_split": "tg.chunk", "copy": "x.clone()", "linalg.norm": "x.norm()", "inner": "tg.dot or @",
    "tensordot": "tg.einsum", "vdot": "tg.dot", "repeat": "x[indices]", "tile": "x.expand(...)", "nansum": "tg.where",
    "pad": "tg.pad",
}  # fmt: skip
# Their results have no gradient: whoever calls them loses none.
_HARMLESS = set(
    "all allclose any argmax argmin argpartition argsort argwhere array2string array_equal array_equiv array_repr "
    "array_str can_cast count_nonzero digitize empty_like flatnonzero full_like histogram isclose iscomplexobj "
    "isrealobj lexsort may_share_memory min_scalar_type ndim nonzero ones_like result_type save savetxt savez "
    "savez_compressed searchsorted shape shares_memory size zeros_like".split()
)


@functools.cache
def _ours(name: str) -> Any:
    """The function of this library for a ufunc, if there is one."""
    name = _CALLED.get(name, name)
    return next((getattr(module, name) for module in _OURS if hasattr(module, name)), None)


_OF_SHAPES: dict[Any, Callable[[Any], Any]] = {np.shape: lambda x: x.shape, np.ndim: lambda x: x.data.ndim}


def array_ufunc(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """A ufunc was called with a tensor: the operation of this library."""
    name = ufunc.__name__
    function = _ours(name)
    if method == "__call__" and not options and function is not None:
        return function(*inputs)
    arrays, keywords, wanting = _on_arrays(inputs, options)
    if not any(isinstance(x, Value) for x in options.get("out", ())) and not wanting:
        return getattr(ufunc, method)(*arrays, **keywords)
    if "out" in options:
        what = "writes a tensor into an array, and a graph ends there: write `array = array + t`, or use t.numpy()"
    elif method != "__call__" or options:
        what = f"np.{name}.{method}({', '.join(options)}) is not recorded: use what tg has, or t.numpy()"
    else:
        what = f"there is no tg.{name} with a gradient: compose it of functions that are there, or use t.numpy()"
    raise TypeError(f"np.{name} on a tensor: {what}")


def array_function(self: Any, function: Any, types: Any, inputs: Any, options: Any) -> Any:
    """Another function of NumPy was called with a tensor: on arrays, if no gradient is lost."""
    if function in _OF_SHAPES and len(inputs) == 1:
        return _OF_SHAPES[function](inputs[0])
    name = f"{function.__module__}.{function.__name__}".removeprefix("numpy.")
    arrays, keywords, wanting = _on_arrays(inputs, options)
    if wanting and function.__name__ not in _HARMLESS:
        raise _loss(name, _instead(name) or "the functions of tg", wanting[0])
    return function(*arrays, **keywords)


def _on_arrays(inputs: Any, options: Any) -> tuple[Any, Any, list[Any]]:
    """The arguments with an array for each tensor, and those of the tensors that want a gradient."""
    found: list[Any] = []
    arrays, keywords = _as_arrays((inputs, options), found)
    return arrays, keywords, [x for x in found if x.node is not None] if mode.grad else []


def _instead(name: str) -> str | None:
    """What does here what a function of NumPy does."""
    return _INSTEAD.get(name) or (f"tg.{name}" if _ours(name) is not None else None)


def _loss(name: str, ours: str, x: Any) -> TypeError:
    return TypeError(
        f"np.{name} would lose the gradient that a tensor of shape {list(x.shape)} wants: write {ours}; "
        "np.asarray(t) or t.detach() if no gradient is meant to flow"
    )


def refuse_behind(x: Any, frame: FrameType | None) -> None:
    """Refuse to be an array for code that makes one of the tensors in a list, as `np.mean([x, y])` and `tensor` do.

    Where anybody else calls `np.asarray(t)`, an array is what is wanted.

    Args:
        frame: what called `__array__`.
    """
    if frame is not None and frame.f_code is as_array.__code__:
        raise TypeError(
            "a list or tuple of tensors would lose the gradients that they want: write tg.stack([...]), and for what a "
            "recurrent layer returns y, state = layer(x)"
        )
    name = ""
    while frame is not None and frame.f_code.co_filename.startswith(_NUMPY):
        name, frame = frame.f_code.co_name, frame.f_back
    ours = _instead(name)
    if name not in _HARMLESS and ours is not None:
        raise _loss(name, f"tg.stack([...]) and {ours}", x)


def _as_arrays(x: Any, found: list[Any]) -> Any:
    """The same with an array for each tensor, which is added to `found`."""
    if isinstance(x, dict):
        return {key: _as_arrays(value, found) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return (list if isinstance(x, list) else tuple)(_as_arrays(each, found) for each in x)
    if isinstance(x, Value):
        found.append(x)
        return x.numpy()  # type: ignore[attr-defined]
    return x
