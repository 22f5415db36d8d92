"""The tape run by NumPy, in float64 or in the dtype of the cell: what the kernels of a cell are compared with.

A `Judge` listens where a `Trace` does, but its tensors have numbers. It carries every operation of a step out, and
remembers it for the backward pass:

    f = sigmoid(x @ self.Wf + h @ self.Uf)      ->      precise       float64, what the maths means
                                                        otherwise     float32, what the tape would compute

It reads the same table as everything else: formulas and gradient rules are text, which NumPy evaluates as well as
Numba compiles it. So nothing is compiled here, and no line of the compiler is used to judge the compiler.

The second says how far rounding alone leads away from the first. Kernels that are a few times farther away are wrong.
Of a cell in float64, whose tape is the first already, it is the tape with every result off by one unit of rounding.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.primitive import FLOAT32, FLOAT64, Adjoint, ElementwisePrimitive, Primitive, Shape, names_in
from ..autograd.tape import Value, mode, unbroadcast
from ..kernels.elementwise import scalar_code
from .keys import key_of
from .soundness import COMPARISONS, MOVES

Array = np.ndarray
EXACT = (  # rows that never round
    *COMPARISONS, *MOVES, table.where, table.maximum, table.minimum, table.clamp, table.relu, table.abs, table.neg,
    table.sign, table.floor, table.clip_gradient, table.amax, table.amin, table.cast,
)  # fmt: skip
SHARED = 1 << 18  # multiply-adds above which OpenBLAS shares a product among threads


# ---- The table, evaluated by NumPy -----------------------------------------------------------------------------------


def _one_by_one(function: Callable[[float], float]) -> Callable[[Any], Any]:
    """A function of one number as a function of arrays."""
    lifted = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(lifted(np.asarray(x, FLOAT64)), FLOAT64).astype(np.asarray(x).dtype)


_erf = _one_by_one(math.erf)
_phi = _one_by_one(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5)))
_sigmoid = lambda x: 1 / (1 + np.exp(-x))

MATHS: dict[str, Any] = dict(
    abs=np.abs, sign=np.sign, floor=np.floor, floor_divide=np.floor_divide, remainder=np.remainder, sqrt=np.sqrt,
    square=np.square, pow=np.power, exp=np.exp, log=np.log, expm1=np.expm1, log1p=np.log1p, sin=np.sin, cos=np.cos,
    tanh=np.tanh, maximum=np.maximum, minimum=np.minimum, where=np.where, isnan=np.isnan, sigmoid=_sigmoid,
    softplus=lambda x: np.logaddexp(x, 0), erf=_erf, phi=_phi,
    silu=lambda x: x * _sigmoid(x), gelu=lambda x: x * _phi(x),
    gelu_tanh=lambda x: x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x)),
)  # fmt: skip


def _softmax(x: Array, dim: int) -> Array:
    e = np.exp(x - x.max(axis=dim, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=dim, keepdims=True)


def _log_softmax(x: Array, dim: int) -> Array:
    below = x - x.max(axis=dim, keepdims=True, initial=-np.inf)
    return below - np.log(np.exp(below).sum(axis=dim, keepdims=True))


def _product(a: Array, b: Array) -> Array:
    """a @ b, in parts that OpenBLAS does not share among threads: on a busy machine these wait for each other."""
    if a.ndim != 2 or b.ndim != 2 or a.size * b.shape[1] <= SHARED:
        return a @ b
    if a.shape[0] > b.shape[1]:
        return _product(b.T, a.T).T
    y, columns = np.empty((a.shape[0], b.shape[1]), a.dtype), max(1, SHARED // a.size)
    for j in range(0, b.shape[1], columns):
        y[:, j : j + columns] = a @ b[:, j : j + columns]
    return y


# Rows whose forward rule runs machine code of ours.
_ON_ARRAYS: dict[str, Callable[..., Any]] = dict(matmul=_product, softmax=_softmax, log_softmax=_log_softmax)


@functools.cache
def _formula(row: ElementwisePrimitive, dtype: np.dtype) -> Callable[..., Any]:
    names, text = ", ".join([*row.inputs, *row.attributes]), scalar_code(row.formula)[0]
    if not names_in(text).issuperset(row.inputs):  # which has the shape of all of them nonetheless
        text = f"broadcast({text}, {', '.join(row.inputs)})[0]"
    return eval(f"lambda {names}: {text}", MATHS | {"f": dtype.type, "broadcast": np.broadcast_arrays})


def evaluate(row: Primitive, operands: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """The result of a row on arrays and numbers."""
    if not isinstance(row, ElementwisePrimitive):
        return np.asarray(_ON_ARRAYS.get(row.name, row.forward)(*operands, **attributes))
    dtypes = [x.dtype for x in operands if isinstance(x, (np.ndarray, np.generic))]
    floats = [dtype for dtype in dtypes if dtype.kind == "f"]
    if row.integer is not None and not (row.rules and (floats or not dtypes)):
        return np.asarray(row.integer(*operands))
    if not dtypes:
        return float(_formula(row, FLOAT64)(*operands, **attributes))  # which changes no dtype
    dtype = np.result_type(*floats) if floats else FLOAT32
    return np.asarray(_formula(row, dtype)(*operands, **attributes), dtype)


@functools.cache
def _rules(adjoint: Adjoint) -> list[Callable[..., Any]]:
    """The gradient rules as functions of arrays."""
    run = lambda row: lambda *operands, **attributes: evaluate(row, operands, attributes)
    named = adjoint.primitive.names.items()
    return adjoint.compiled({name: run(x) if isinstance(x, Primitive) else x for name, x in named})


def _gradients(adjoint: Adjoint, dy: Array, saved: tuple[Any, ...]) -> list[Array]:
    """The gradient of each input that wants one."""
    rules = _rules(adjoint)
    if adjoint.primitive.variadic:
        found = rules[0](dy, *saved)
        return [found[i] for i in adjoint.wanted]
    return [rule(dy, *saved) for rule in rules]


# ---- What ran --------------------------------------------------------------------------------------------------------


class Entry:
    """One operation that ran, or a leaf.

    Attributes:
        fixed: whether it is the same at every step.
        wanted: whether its gradient is.
    """

    __slots__ = ("attributes", "fixed", "operands", "row", "value", "wanted")

    def __init__(self, value: Array, fixed: bool, wanted: bool) -> None:
        self.value, self.fixed, self.wanted = value, fixed, wanted and value.dtype.kind == "f"
        self.row: Primitive | None = None
        self.operands: list[Any] = []
        self.attributes: dict[str, Any] = {}


class Judge:
    """Runs operations for the `tracer` of the tape's mode; afterwards it knows their values and gradients.

    Args:
        precise: compute in float64. What the step sees are these values in the dtype of the cell.
    """

    def __init__(self, precise: bool = True) -> None:
        self.precise = precise
        self._random = np.random.default_rng(0)
        self._of: dict[int, tuple[Any, Entry]] = {}  # in order, by identity of the tensor, which is kept alive
        self._known: dict[Any, Any] = {}  # results that are the same at every step

    def leaf(self, x: Value, wanted: bool, fixed: bool = False) -> Entry:
        """Make a tensor known that operations will read."""
        return self._remember(x, Entry(self._exact(x.data), fixed, wanted))

    def _remember(self, x: Value, entry: Entry) -> Entry:
        self._of[id(x)] = x, entry
        return entry

    def entry(self, x: Value) -> Entry:
        """What is known of a tensor; one that nobody has spoken of is a parameter or a constant."""
        known = self._of.get(id(x))
        return known[1] if known else self.leaf(x, x.node is not None, fixed=True)

    def leaves(self) -> Iterable[tuple[Value, Entry]]:
        """The tensors that no operation made."""
        return [(x, entry) for x, entry in self._of.values() if entry.row is None]

    def _exact(self, x: Any) -> Any:
        """The value of an operand as it is computed with; of attributes, the dtype that they ask for likewise."""
        if isinstance(x, Entry):
            return x.value
        if isinstance(x, dict):
            dtype = x.get("dtype")
            wide = self.precise and dtype is not None and np.dtype(dtype).kind == "f"
            return x | {"dtype": FLOAT64} if wide else x
        wide = self.precise and isinstance(x, np.ndarray) and x.dtype.kind == "f"
        return x.astype(FLOAT64, copy=False) if wide else x

    def record(self, row: Primitive, inputs: Sequence[Any], attributes: dict[str, Any]) -> Any:
        """Called in place of an operation: runs it."""
        operands = [self.entry(x) if isinstance(x, Value) else x for x in inputs]
        entries = [x for x in operands if isinstance(x, Entry)]
        if not entries:
            return evaluate(row, inputs, attributes)
        # What clips the gradient of one step must not be taken for what clips that of another.
        fixed = row.linear and all(x.fixed for x in entries)
        key: Any = None
        if fixed:
            key = row, *(id(x) if isinstance(x, Entry) else key_of(x) for x in operands), key_of(attributes), mode.grad
        if key in self._known:
            return self._known[key]
        with np.errstate(all="ignore"):
            value = evaluate(row, [self._exact(x) for x in operands], self._exact(attributes))
        if not self.precise and value.dtype == FLOAT64 and row not in EXACT:
            value = np.nextafter(value, np.where(self._random.random(value.shape) < 0.5, -np.inf, np.inf))
        entry = Entry(value, fixed, bool(row.rules) and mode.grad and any(x.wanted for x in entries))
        entry.row, entry.operands, entry.attributes = row, operands, attributes
        dtype = _dtype(row, inputs, attributes) if value.dtype.kind == "f" else value.dtype
        y = Value.tensor(value.astype(dtype, copy=False))
        self._remember(y, entry)
        if fixed:
            self._known[key] = y
        return y

    def draw(self, source: Callable[[Shape], Array], shape: Shape, dtype: Any) -> Any:
        """Called in place of drawing random numbers: draws them, like the tape."""
        y = Value.tensor(source(shape))
        self.leaf(y, False)
        return y

    def _allow(self, *question: Any) -> None:
        """What a trace refuses may be done here: a step that reads numbers gets the right ones."""

    refuse = refuse_numbers = refuse_gradients = refuse_draws = has_rows = takes_apart = _allow

    # ---- The backward pass -------------------------------------------------------------------------------------------

    def gradients(self, starts: Iterable[tuple[Value, Array]]) -> dict[Entry, Array]:
        """The gradients of all leaves that want one, and that one reaches, from those of some results."""
        arrived: dict[Entry, Array] = {}
        # Left operands and gradients of products with the same matrix: of all steps one product, as after a loop.
        products: dict[Entry, list[tuple[Array, Array]]] = {}
        found: dict[Entry, Array] = {}

        def arrive(entry: Entry, d: Array) -> None:
            d = d if d.shape == entry.value.shape else unbroadcast(d, entry.value.shape)
            arrived[entry] = arrived[entry] + d if entry in arrived else d

        for x, dy in starts:
            arrive(self.entry(x), self._exact(dy))
        for _, entry in reversed(self._of.values()):
            if entry in products:
                lefts, ds = zip(*products.pop(entry))
                arrive(entry, _product(np.concatenate(lefts).T, np.concatenate(ds)))
            if entry not in arrived or not entry.wanted:
                continue
            dy = arrived.pop(entry)
            if entry.row is None:
                found[entry] = dy
            elif entry.row is table.matmul and _is_matrix(entry.operands[1]):
                left, right = entry.operands
                a = self._exact(left)
                products.setdefault(right, []).append((a.reshape(-1, a.shape[-1]), dy.reshape(-1, dy.shape[-1])))
                if isinstance(left, Entry) and left.wanted:
                    arrive(left, _product(dy, right.value.T))
            else:
                places = [i for i, x in enumerate(entry.operands) if isinstance(x, Entry) and x.wanted]
                adjoint = entry.row.adjoint(tuple(places))
                attributes = self._exact(entry.attributes)
                saved = adjoint.save(entry.value, *map(self._exact, entry.operands), **attributes)
                for i, d in zip(adjoint.wanted, _gradients(adjoint, dy, saved)):
                    arrive(entry.operands[i], d)
        return found


def _is_matrix(x: Any) -> bool:
    """Whether an operand is a matrix that is the same at every step, and wants a gradient."""
    return isinstance(x, Entry) and x.fixed and x.wanted and x.value.ndim == 2


def _dtype(row: Primitive, inputs: Sequence[Any], attributes: dict[str, Any]) -> np.dtype:
    """The dtype on the tape of an operation's result, if that is a float."""
    if row is table.cast:
        return np.dtype(attributes["dtype"])
    floats = [x.dtype for x in inputs if hasattr(x, "dtype") and x.dtype.kind == "f"]
    return np.result_type(*floats) if floats else FLOAT32
