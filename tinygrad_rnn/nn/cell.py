"""Cell: one step of a recurrence, written as maths.

A cell is a Module with a method `step(x, *states)` that returns the new states. It knows nothing of time: `Recurrent`
runs it over a sequence, and called by itself it takes one step.

    >>> import tinygrad_rnn as tg
    >>> class Leaky(tg.nn.Cell):
    ...     def __init__(self, input_size, hidden_size):
    ...         self.input_size, self.hidden_size = input_size, hidden_size
    ...         self.W = tg.nn.Parameter(tg.zeros(input_size, hidden_size))
    ...
    ...     def step(self, x, h):
    ...         return 0.9 * h + 0.1 * tg.tanh(x @ self.W)
    >>> cell = Leaky(3, 2)
    >>> cell(tg.ones(4, 3)).shape
    (4, 2)
    >>> y, h = tg.nn.Recurrent(cell)(tg.ones(7, 4, 3))
    >>> y.shape, h.shape
    ((7, 4, 2), (4, 2))

What holds for a whole sequence, such as a speaker's embedding or the states of an encoder, is a keyword-only argument
of `step`, which is given by name at the call. Gradients reach it.

    >>> class Speaks(Leaky):
    ...     def step(self, x, h, *, speaker):  # speaker [B, H], the same at every step
    ...         return 0.9 * h + 0.1 * tg.tanh(x @ self.W + speaker)
    >>> speaker = tg.ones(4, 2, requires_grad=True)
    >>> y, h = tg.nn.Recurrent(Speaks(3, 2))(tg.ones(7, 4, 3), speaker=speaker)
    >>> h.sum().backward()
    >>> speaker.grad.shape
    (4, 2)
"""

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np

from ..autograd.operands import as_tensor
from ..autograd.primitive import FLOAT32
from ..autograd.shapes import squeeze, unsqueeze
from ..autograd.tape import Leaf, no_grad
from ..autograd.tensor import Tensor
from ..fusion.held import has, held, holding
from .functional import check_below_one, dropout
from .module import Module, Parameter

States = tuple[Tensor, ...]
SequenceValues = list[tuple[Module, dict[str, Tensor]]]  # cells may be equal, or have no hash


class Cell(Module):
    """One step of a recurrence. Subclasses define `step` and set `hidden_size`.

        >>> import tinygrad_rnn as tg
        >>> class Leaky(tg.nn.Cell):
        ...     def __init__(self, input_size, hidden_size):
        ...         self.input_size, self.hidden_size = input_size, hidden_size
        ...         self.W = tg.nn.weight(input_size, hidden_size)
        ...
        ...     def step(self, x, h):  # x [B, I], h [B, H] -> the new h
        ...         return 0.9 * h + 0.1 * tg.tanh(x @ self.W)
        >>> y, h = tg.nn.Recurrent(Leaky(3, 2))(tg.ones(7, 4, 3))  # x [T, B, I]
        >>> y.shape, h.shape
        ((7, 4, 2), (4, 2))

    The states are the arguments of `step` after x. It returns the new ones in the same order and shapes: a tensor, or a
    tuple if there are several. The first is the output.

    Keyword-only arguments of `step`, `def step(self, x, h, *, memory, bias=None)`, are values that hold for a sequence:
    tensors [B, ...] of any rank with a row for each sequence, given by name, `layer(x, memory=m)`. Those that have a
    default may be left out. A cell with another inside hands them on: `self.cell.advance(x, states, memory=memory)`.
    Kernels are made for their shapes besides the batch: where these vary, pad them to a few lengths, and mask.

    Attributes:
        hidden_size: H, the size of each state, unless `initial_state` says otherwise.
        input_size: I, the size of x. Setting it is optional; inputs of another size are then refused by name.
        recurrent_dropout: while training, the probability with which elements of `candidate` are dropped, in [0, 1).
    """

    hidden_size: int
    input_size: int | None = None
    _recurrent_dropout: float = 0.0

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """The new states: `step(x, h, ..., *, values)`, x [B, I], states [B, H] -> [B, H], or a tuple of them."""
        raise NotImplementedError(f"{type(self).__name__} does not define step(self, x, h, ...)")

    def initial_state(self, batch_size: int) -> Any:
        """The states before the first step: zeros [B, H] for every state, in the dtype of the first parameter.

        Override it for states of other shapes, [B] or [B, D, N], or learned ones: return a tensor, or a tuple. In a
        learned one, let the batch share the parameter: `self.h0.expand(batch_size, self.hidden_size)`.
        """
        if not hasattr(self, "hidden_size"):
            raise TypeError(f"{type(self).__name__}: set self.hidden_size, or override initial_state(batch_size)")
        shape = (batch_size, self.hidden_size)
        first = self._first_parameter()
        dtype = FLOAT32 if first is None else first.data.dtype
        states = tuple([Tensor(np.zeros(shape, dtype)) for _ in self.state_names])
        return states if len(states) > 1 else states[0]

    def _first_parameter(self) -> Parameter | None:
        for value in vars(self).values():
            if isinstance(value, Parameter):
                return value
        return next(self.parameters(), None)

    def _begins_with_zeros(self, operands: Iterable[Any]) -> bool:
        """Whether `initial_state` is `Cell`'s and has the dtype of one of these operands, or that of no parameter."""
        kind, first = type(self), self._first_parameter()
        plain = getattr(self.initial_state, "__func__", None) is Cell.initial_state
        plain = plain and kind.state_names is Cell.state_names and not hasattr(kind, "hidden_size")
        return plain and (first is None or any(first is each for each in operands))

    def sequence_values(self, batch_size: int) -> dict[str, Tensor]:
        """Values that hold for a whole sequence, such as a dropout mask: `step` finds them as attributes of the cell.

        Called once before the first step. Override it to return, by name, tensors [batch_size, W], a row for each
        sequence, or of any other shape, one for all. They may be computed from parameters.
        """
        return {}

    @property
    def recurrent_dropout(self) -> float:
        """While training, the probability with which elements of `candidate` are dropped, in [0, 1)."""
        return self._recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None:
        check_below_one(f"{type(self).__name__}.recurrent_dropout", p, "would let nothing into the states")
        if p and not self._calls("candidate"):
            raise ValueError(
                f"{type(self).__name__}: recurrent dropout drops elements of a candidate, and this cell has none: its "
                "step does not call self.candidate"
            )
        self._recurrent_dropout = p

    def candidate(self, n: Tensor) -> Tensor:
        """What a step is about to write into a state, for `step` to call: recurrent dropout (Semeniuta et al., 2016).

        Elements of n are dropped anew at every step, which loses no memory: the old state passes by untouched. Set
        `recurrent_dropout` to switch it on.
        """
        return dropout(n, self.recurrent_dropout, self.training)

    def masked(self, h: Tensor) -> Tensor:
        """What recurrent weights see of h, for `step` to call where h is also handed on: see `VariationalDropout`."""
        mask = held(self, "recurrent_mask")
        return h if mask is None else h * mask

    @classmethod
    def _calls(cls, name: str) -> bool:
        """Whether a method of this class, or of one that it inherits from, mentions a method of `Cell`."""
        kinds = [kind for kind in cls.__mro__ if issubclass(kind, Cell) and kind is not Cell]
        return any(name in f.__code__.co_names for kind in kinds for f in vars(kind).values() if hasattr(f, "__code__"))

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the states, read from the signature of `step`.

        A cell that wraps another one overrides it: `return self.inner.state_names`.
        """
        if type(self).step is Cell.step:
            self.step()  # which says that it is missing
        return _read_once(_names_of_states, type(self).step)

    @property
    def value_names(self) -> dict[str, str]:
        """The values that hold for a sequence, read from the signature of `step`: name -> "required" or "optional".

        It is "None" where that is the default, which may be given as well.

        Raises:
            TypeError: one has a name that calls use themselves.
        """
        return _read_once(_names_of_values, type(self).step)

    def forward(self, x: Any, hx: Any = None, **values: Any) -> Any:
        """One step by itself: x [B, I] or [I], hx a state or a tuple of states, `initial_state` by default.

            >>> import tinygrad_rnn as tg
            >>> cell = tg.nn.cells.CfCCell(3, 4)
            >>> cell((tg.ones(5, 3), tg.full((5, 1), 0.5))).shape  # of several inputs, each [B, ...], a tuple
            (5, 4)

        Args:
            x: or a tuple of several inputs, which `step` then gets as a tuple.
            values: what holds for the sequence, by name, [B, ...]; without the batch dimension if x has none.

        Returns:
            The new state, or a tuple if there are several; without the batch dimension if x has none.

        Raises:
            ValueError: x, a state or a value has the wrong shape, or the number of states is wrong.
            TypeError: a value is missing, unknown or no tensor.
        """
        several = inputs_of(self, x)
        xs = several or (as_tensor(x),)
        if xs[0].ndim not in (1, 2) or any(each.shape[:-1] != xs[0].shape[:-1] for each in xs[1:]):
            got = ", ".join(str(list(each.shape)) for each in xs)
            more = ", and further inputs of as many sequences" if len(xs) > 1 else ""
            raise ValueError(f"{type(self).__name__}: expected x of shape [B, I] or [I], got {got}{more}")
        if not several:
            self._check_width(xs[0])
        if xs[0].ndim == 2:
            B = xs[0].shape[0]
            values = self._check_values(values, B)
            with self._holding(self._values_of_sequence(B)):
                states = self.advance(xs if several else xs[0], self.begin(hx, B), **values)
        else:
            rows = tuple(unsqueeze(each, 0) for each in xs)
            batch_of_one = None if hx is None else tuple(unsqueeze(state, 0) for state in as_states(hx))
            new = self(rows if several else rows[0], batch_of_one, **in_batch_of_one(values))
            states = tuple(squeeze(state, 0) for state in as_states(new))
        return states if len(states) > 1 else states[0]

    # ---- The contract, checked: what runs a cell goes through these --------------------------------------------------

    def _check_width(self, x: Tensor) -> None:
        """Raise ValueError if the cell says how wide its inputs are and x is not."""
        if self.input_size is not None and x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected inputs of {self.input_size} features, got {x.shape[-1]} (x is "
                f"{list(x.shape)})"
            )

    def begin(self, hx: Any, batch_size: int, expected: States | None = None) -> States:
        """The states to start from: hx if it has the shapes of `initial_state`, that if hx is None.

        Args:
            expected: the initial states, if they are known.
        """
        cell, names = type(self).__name__, self.state_names
        if hx is None:
            states = as_states(self.initial_state(batch_size))
            if len(states) != len(names):
                raise ValueError(f"{cell}.initial_state returned {len(states)} states, step takes {', '.join(names)}")
            return states
        if expected is None:
            with no_grad():
                expected = self.begin(None, batch_size)
        states = as_states(hx)
        if len(states) != len(names):
            raise ValueError(
                f"{cell}: expected {len(names)} initial state{'s' * (len(names) > 1)} ({', '.join(names)}), got "
                f"{len(states)}"
            )
        for name, state, pattern in zip(names, states, expected):
            if state.shape != pattern.shape:
                raise ValueError(
                    f"{cell}: initial state {name} has shape {list(state.shape)}, expected {list(pattern.shape)}"
                )
        return states

    def _check_values(self, values: dict[str, Any], batch_size: int) -> dict[str, Tensor]:
        """What a call gives by name for a sequence, as tensors in the order of `value_names`.

        Raises:
            TypeError: a value is missing, unknown or no tensor.
            ValueError: one has no row for each sequence.
        """
        known = self.value_names
        if not values and not known:
            return {}
        cell = type(self).__name__
        for name in values:
            if name not in known:
                raise TypeError(f"{cell}: {self._instead_of(name)}")
        found: dict[str, Tensor] = {}
        for name, need in known.items():
            value = values.get(name)
            if (value is None and need == "None") or (name not in values and need == "optional"):
                continue
            if name not in values:
                raise TypeError(f"{cell}: {name} is missing, which step takes by name: call with {name}=..., [B, ...]")
            if not isinstance(value, (Tensor, np.ndarray)):
                raise TypeError(f"{cell}: {name} must be a tensor [B, ...], not {type(value).__name__}")
            if value.shape[:1] != (batch_size,):
                raise ValueError(
                    f"{cell}: {name} has shape {list(value.shape)}, expected [{batch_size}, ...]: a row for each "
                    f"sequence of the batch. Write {name}.expand({batch_size}, ...) for one that they share"
                )
            found[name] = as_tensor(value)
        return found

    def _instead_of(self, name: str) -> str:
        """What to say of a value that no step takes."""
        inner, known = vars(self).get("cell"), ", ".join(self.value_names) or "nothing"
        if name in self.state_names:
            return f"{name} is a state, and initial states are given as hx"
        if isinstance(inner, Cell) and name in inner.value_names:
            words = "step(self, x, *states, **values) and self.cell.advance(x, states, **values)"
            return f"step takes no {name} by name, and so {type(inner).__name__} would not get it: write {words}"
        return f"nothing is called {name}: step takes {known} by name, and a layer hx, lengths and return_states"

    def _of_sequence(self, batch_size: int) -> dict[str, Tensor]:
        computed, own = super()._of_sequence(batch_size), self.sequence_values(batch_size)
        return computed | own if computed else own

    def _values_of_sequence(self, batch_size: int) -> "SequenceValues":
        """The `sequence_values` of this cell and of those inside it, and what its modules compute of parameters."""
        found = [(module, values) for module in self.modules() if (values := module._of_sequence(batch_size))]
        for cell, values in found:
            for name, value in values.items():
                if not isinstance(value, Tensor):
                    raise TypeError(
                        f"{type(cell).__name__}.sequence_values returned {type(value).__name__} as {name}, not a Tensor"
                    )
        return found

    @contextmanager
    def _holding(self, values: "SequenceValues") -> Iterator[None]:
        """While a sequence runs: every cell has its `sequence_values` as attributes, for who runs it alone."""
        for cell, named in values:
            for name in named:
                if has(cell, name):
                    raise ValueError(f"{type(cell).__name__}.sequence_values: {name} is an attribute already")
        with holding(values):
            yield

    def advance(self, x: Any, states: States, /, **values: Any) -> States:
        """`step`, and a look at what it returned."""
        for name, value in values.items():
            values[name] = _not_a_leaf(value)
        returned = self.step(_not_a_leaf(x), *map(_not_a_leaf, states), **values)
        new = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        cell, names = type(self).__name__, self.state_names
        if len(new) != len(states):
            raise ValueError(f"{cell}.step returned {len(new)} states, but takes {len(states)}: {', '.join(names)}")
        for name, before, after in zip(names, states, new):
            if not isinstance(after, Tensor):
                raise TypeError(f"{cell}.step returned {type(after).__name__} as the new {name}, not a Tensor")
            if after.shape != before.shape:
                raise ValueError(
                    f"{cell}.step returned a {name} of shape {list(after.shape)}, it came in as {list(before.shape)}"
                )
        return new


def _not_a_leaf(x: Any) -> Any:
    """The same value, with its place on the tape, but not the user's tensor: `h *= f` in a step computes a new h."""
    if isinstance(x, tuple):
        return tuple(map(_not_a_leaf, x))
    return Tensor(x.data, x.node) if isinstance(x, Tensor) and isinstance(x.node, Leaf) else x


def as_states(hx: Any) -> States:
    """One state or several as a tuple of tensors."""
    if isinstance(hx, (tuple, list)):
        if any(each is None for each in hx):
            raise TypeError("one of several initial states is None: give all of them, or none for the cell's own")
        return tuple(map(as_tensor, hx))
    return (as_tensor(hx),)


def inputs_of(module: Module, x: Any, kinds: tuple[type, ...] = (tuple,)) -> States | None:
    """Several inputs of a cell or a layer, tensors or arrays in one of these kinds; None if x is a single one.

    Raises:
        TypeError: some of them are no arrays, as in `(x, 1.0)`.
    """
    if not isinstance(x, (tuple, list)):
        return None
    arrays = [isinstance(each, (Tensor, np.ndarray)) for each in x]
    if any(arrays) and not all(arrays):
        name, got = getattr(module, "_name", type(module).__name__), ", ".join(type(each).__name__ for each in x)
        raise TypeError(f"{name}: several inputs are tensors or arrays each, got {got}")
    return tuple(map(as_tensor, x)) if arrays and all(arrays) and isinstance(x, kinds) else None


def in_batch_of_one(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a sequence without a batch as those of a batch of one."""
    arrays = (Tensor, np.ndarray)
    return {name: unsqueeze(as_tensor(x), 0) if isinstance(x, arrays) else x for name, x in values.items()}


_known_names: "weakref.WeakKeyDictionary[Callable[..., Any], dict[Any, Any]]" = weakref.WeakKeyDictionary()


def _read_once(read: Callable[[Callable[..., Any]], Any], step: Callable[..., Any]) -> Any:
    """What a signature says; what a step leads to, such as its cell, may go nevertheless."""
    if not isinstance(step, FunctionType):
        return read(step)
    known = _known_names.get(step)
    if known is None:
        known = _known_names[step] = {}
    if read not in known:
        known[read] = read(step)
    return known[read]


_PLAIN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = inspect.Parameter.KEYWORD_ONLY
_TAKEN = ("x", "input", "hx", "lengths", "return_states")  # what layers and cells call their own arguments


def _names_of_states(step: Callable[..., Any]) -> tuple[str, ...]:
    parameters = [p for p in list(inspect.signature(step).parameters.values())[2:] if p.kind is not _BY_NAME]
    if not parameters or any(p.kind not in _PLAIN for p in parameters):
        raise TypeError(
            f"{step.__qualname__} must name its states: step(self, x, h) or step(self, x, h, c); a cell that wraps "
            "another one overrides state_names"
        )
    return tuple(p.name for p in parameters)


def _names_of_values(step: Callable[..., Any]) -> dict[str, str]:
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # of a callable that has none; what calls it will say so
        return {}
    given = [p for p in parameters if p.kind is _BY_NAME]
    for p in given:
        if p.name in _TAKEN:
            raise TypeError(
                f"{step.__qualname__} calls a value that holds for a sequence {p.name}, as calls of a layer name an "
                f"argument of their own: choose another name than {', '.join(_TAKEN)}"
            )
    kinds = {inspect.Parameter.empty: "required", None: "None"}
    return {p.name: next((kind for default, kind in kinds.items() if p.default is default), "optional") for p in given}
