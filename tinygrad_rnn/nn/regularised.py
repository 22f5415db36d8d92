"""Cells around cells: noise and clipping inside the loop over time, and initial states that are learned.

Each takes any cell, a user's own too, and is a cell again: it runs in `Recurrent`, on the tape and fused, with lengths,
in reverse, and inside another one.

    >>> import tinygrad_rnn as tg
    >>> cell = tg.nn.Zoneout(tg.nn.VariationalDropout(tg.nn.LSTMCell(3, 4), input=0.2, state=0.3), p=(0.05, 0.5))
    >>> y, (h, c) = tg.nn.Recurrent(cell, fused="require")(tg.ones(7, 2, 3))
    >>> y.shape, cell.state_names
    ((7, 2, 4), ('h', 'c'))

The noise is there while training. Drop what a step is about to write into its states with `cell.recurrent_dropout`,
which needs no wrapper: see `Cell.candidate`.
"""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd.creation import ones, rand
from ..autograd.pointwise import clip_gradient, where
from ..autograd.shapes import expand
from ..autograd.tape import Node, no_grad
from ..autograd.tensor import Tensor
from ..fusion.compile import Variants
from ..fusion.frames import listener
from ..fusion.held import held, holding
from ..fusion.trace import Symbol
from .cell import Cell, States, as_states
from .functional import check_below_one, dropout
from .module import Module, Parameter


class CellWrapper(Cell):
    """A cell with another one inside, `self.cell`, whose sizes, states and initial states it has.

        >>> import tinygrad_rnn as tg
        >>> class Halved(tg.nn.CellWrapper):
        ...     def step(self, x, *states, **values):
        ...         return tuple(0.5 * state for state in self.cell.advance(x, states, **values))
        >>> Halved(tg.nn.LSTMCell(3, 4)).state_names
        ('h', 'c')

    Subclasses define `step(self, x, *states, **values)` and call `self.cell.advance(x, states, **values)`, which
    returns a tuple of states; `values` are what holds for a sequence, and the cell inside gets what is handed on.

    Raises:
        TypeError: what is to be wrapped is not a cell.
    """

    def __init__(self, cell: Cell) -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"{type(self).__name__}: expected a Cell, got {type(cell).__name__}")
        self.cell = cell

    @property
    def hidden_size(self) -> int:  # type: ignore[override]
        """That of the cell inside."""
        return self.cell.hidden_size

    @property
    def input_size(self) -> int | None:  # type: ignore[override]
        """That of the cell inside."""
        return self.cell.input_size

    @property
    def recurrent_dropout(self) -> float:
        """That of the cell inside."""
        return self.cell.recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None:
        self.cell.recurrent_dropout = p

    @property
    def state_names(self) -> tuple[str, ...]:
        """Those of the cell inside."""
        return self.cell.state_names

    @property
    def value_names(self) -> dict[str, str]:
        """Those of `step`, and those of the cell inside if `step` takes any, as `**values`, to hand them on."""
        code = getattr(type(self).step, "__code__", None)
        hands_on = code is not None and code.co_flags & inspect.CO_VARKEYWORDS
        return (self.cell.value_names if hands_on else {}) | super().value_names

    def initial_state(self, batch_size: int) -> Any:
        """That of the cell inside."""
        return self.cell.initial_state(batch_size)

    def step(self, x: Any, *states: Tensor, **values: Tensor) -> Any:
        """That of the cell inside."""
        return self.cell.advance(x, states, **values)

    def _tell(self, warning: str = "") -> None:
        """Warn, though not in the middle of a trace: once it is over, when the next sequence begins."""
        known = Variants.of(self)
        if warning:
            known.pending.append(warning)
        while known.pending and listener.called is None:
            warnings.warn(known.pending.pop(), stacklevel=2)

    def _states_of_one(self) -> States:
        """Initial states of a batch of one: how wide they are, and their dtype."""
        with no_grad():
            return as_states(self.cell.initial_state(1))


class Zoneout(CellWrapper):
    """Elements of the states that keep their old value at random, anew at every step (Krueger et al., 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.Zoneout(tg.nn.GRUCell(3, 1000), 0.5)
        >>> h = tg.randn(1, 1000)
        >>> 0.4 < (cell(tg.ones(1, 3), h) == h).sum().item() / 1000 < 0.6
        True

        training:      s' = where(rand < p, s, step(x, s))
        evaluation:    s' = p * s + (1 - p) * step(x, s)        what is expected of it

    Unlike dropout it erases nothing: a unit that is zoned out passes on its state, and its gradient, unchanged.

    Args:
        p: the probability to keep an old value, in [0, 1): one for all states, or one for each. The paper's for the
            LSTM on text are (0.05, 0.5), of h and c.

    Raises:
        ValueError: a probability is not in [0, 1), or there are not as many of them as states.

    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", 2017.
    """

    def __init__(self, cell: Cell, p: float | Sequence[float] = 0.1) -> None:
        super().__init__(cell)
        names = cell.state_names
        self.p: tuple[float, ...] = tuple(p) if isinstance(p, Sequence) else (p,) * len(names)
        if len(self.p) != len(names):
            raise ValueError(
                f"Zoneout: expected one probability, or one for each state ({', '.join(names)}), got {len(self.p)}"
            )
        for each in self.p:
            check_below_one("Zoneout: p", each, "would never let a state change")

    def step(self, x: Any, *states: Tensor, **values: Tensor) -> States:
        fresh = self.cell.advance(x, states, **values)
        return tuple(self._zoned_out(*each) for each in zip(states, fresh, self.p))

    def _zoned_out(self, old: Tensor, new: Tensor, p: float) -> Tensor:
        if not p:
            return new
        return where(rand(old.shape) < p, old, new) if self.training else p * old + (1 - p) * new

    def extra_repr(self) -> str:
        return f"p={self.p}"


class VariationalDropout(CellWrapper):
    """Dropout with one mask for a whole sequence, of inputs and of the states that a step sees (Gal, 2016).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.VariationalDropout(tg.nn.LSTMCell(3, 4), input=0.2, state=0.3)
        >>> [state.shape for state in cell(tg.ones(5, 3))]
        [(5, 4), (5, 4)]

        x[t] <- x[t] * m_x        s[t - 1] <- s[t - 1] * m_s        m: 0 with probability p, else 1 / (1 - p)

    The masks differ between the sequences of a batch, and are drawn anew for each call. In evaluation nothing happens.

    As in the paper, the mask is for what meets recurrent weights. A GRU also hands its h on, and so do many cells: what
    is handed on must stay as it is, or it would be divided by 1 - p at each step and grow. Cells that say what meets
    weights, by `self.masked(h)`, are masked there; for others the state as a whole is, which is the same where it
    only meets weights. Where no weights meet h, as in `MinGRUCell` or `MLSTMCell`, `state` drops nothing: there
    `recurrent_dropout` drops what is written. `states="all"` masks whole states, too: not for c of an LSTM, which is
    handed on.

    Args:
        input: the probability to drop elements of x, in [0, 1). The cell has to know its `input_size`.
        state: the probability to drop elements of states, in [0, 1).
        states: "first", or "all" of them.

    Raises:
        ValueError: a probability is not in [0, 1), or `states` is neither; the width of the input is not known.

    Source: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016.
    """

    def __init__(self, cell: Cell, input: float = 0.0, state: float = 0.0, states: str = "first") -> None:
        super().__init__(cell)
        check_below_one("VariationalDropout: input", input, "would erase every input")
        check_below_one("VariationalDropout: state", state, "would erase every state")
        if states not in ("first", "all"):
            raise ValueError(f"VariationalDropout: states must be 'first' or 'all', not {states!r}")
        if input and cell.input_size is None:
            raise ValueError(
                f"VariationalDropout: to drop inputs it must know their width: set {type(cell).__name__}.input_size"
            )
        self.input, self.state, self.states = input, state, states

    def sequence_values(self, batch_size: int) -> dict[str, Tensor]:
        """The masks: `x_mask` [B, I], `h_mask` [B, H] ... by the names of the states; none in evaluation."""
        self._tell()
        masks: dict[str, Tensor] = {}
        states = self._states_of_one()
        mask = lambda shape, dtype, p: dropout(ones(batch_size, *shape, dtype=dtype), p)
        if self.training and self.input:
            masks["x_mask"] = mask((self.input_size,), states[0].dtype, self.input)
        if self.training and self.state:
            chosen = zip(self.state_names, states if self.states == "all" else states[:1])
            masks |= {f"{name}_mask": mask(s.shape[1:], s.dtype, self.state) for name, s in chosen}
        return masks

    def step(self, x: Any, *states: Tensor, **values: Tensor) -> States:
        x_mask = held(self, "x_mask")
        if x_mask is not None:
            if not isinstance(x, Tensor):
                raise TypeError("VariationalDropout: input drops elements of one input, but the cell has several")
            x = x * x_mask
        masks = [held(self, f"{name}_mask") for name in self.state_names]
        inner = self.cell
        while isinstance(inner, CellWrapper):
            inner = inner.cell
        if masks[0] is not None and self.states == "first" and inner._calls("masked"):
            with holding([(inner, {"recurrent_mask": masks[0]})]):
                return self.cell.advance(x, states, **values)
        seen = tuple(s if mask is None else s * mask for s, mask in zip(states, masks))
        new = self.cell.advance(x, seen, **values)
        told = Variants.of(self).told
        if not told and not type(inner).__module__.startswith(__package__):  # for those the docstring says it
            self._warn(seen, new, [mask is not None for mask in masks], inner, told)
        return new

    def _warn(self, seen: States, new: States, masked: list[bool], inner: Cell, told: set[str]) -> None:
        """Say once that a state is masked and handed on: what is divided by 1 - p at each step grows without end."""
        names, count = self.state_names, range(len(seen))
        ways = {(i, k) for k in count for i in _handed_on(new[k], seen)}
        for _ in count:
            ways |= {(i, k) for i, j in ways for first, k in ways if j == first}
        name = next((names[k] for k in count if masked[k] and (k, k) in ways), None)
        if name is not None:
            told.add(name)
            code = getattr(type(inner).step, "__code__", None)
            where = f" ({code.co_filename}:{code.co_firstlineno}, in step)" if code else ""
            remedy = f"write self.masked({name}) where it meets weights, such as self.masked({name}) @ self.U"
            if self.states == "all":
                remedy = "leave out states='all'" + ("" if inner._calls("masked") else f" and {remedy}")
            self._tell(
                f"VariationalDropout: {type(inner).__name__}.step hands {name} on{where}, and so it is divided by "
                f"{1 - self.state:.3g} at every step: {remedy}"
            )

    def extra_repr(self) -> str:
        return f"input={self.input}, state={self.state}" + (", states='all'" if self.states == "all" else "")


class WeightDrop(CellWrapper):
    """Recurrent weights of which elements are dropped, the same ones for a whole sequence (Merity et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.WeightDrop(tg.nn.LSTMCell(3, 4), 0.5)
        >>> cell
        WeightDrop(p=0.5, names=['weight_hh']  # 144 parameters
          (cell): LSTMCell(3, 4)  # weight_ih [16, 3], weight_hh [16, 4], bias_ih [16], bias_hh [16]: 144 parameters
        )

        W <- W * m        m: 0 with probability p, else 1 / (1 - p)

    That is DropConnect (Wan et al., 2013). The mask is the same for all sequences of a batch, which share the product,
    and drawn anew for each call. The parameters keep their names and all their elements. In evaluation nothing happens.

    Args:
        p: the probability to drop an element, in [0, 1).
        names: of the parameters, as `named_parameters()` of the cell gives them; by default all called `weight_hh`.

    Raises:
        ValueError: p is not in [0, 1), there is no such parameter, or no names are given and none can be guessed.

    Source: Merity, Keskar, Socher, "Regularizing and optimizing LSTM language models", 2018.
    """

    def __init__(self, cell: Cell, p: float = 0.5, names: Sequence[str] | None = None) -> None:
        super().__init__(cell)
        check_below_one("WeightDrop: p", p, "would erase every weight")
        known = dict(cell.named_parameters())
        if names is None:
            names = [name for name in known if name.split(".")[-1] == "weight_hh"]
            if not names:
                raise ValueError(
                    f"WeightDrop: {type(cell).__name__} has no weight_hh: name its recurrent weights, out of "
                    f"{', '.join(known) or 'no parameters'}"
                )
        for name in [names] if isinstance(names, str) else names:
            if name in known and not isinstance(vars(self._owner(name)[0]).get(name.split(".")[-1]), Parameter):
                raise ValueError(f"WeightDrop: {name!r} lies in a list or a dictionary: make it an attribute")
            if name not in known:
                raise ValueError(
                    f"WeightDrop: {type(cell).__name__} has no parameter {name!r}, only {', '.join(known) or 'none'}"
                )
        self.p, self.names = p, (names,) if isinstance(names, str) else tuple(names)

    def sequence_values(self, batch_size: int) -> dict[str, Tensor]:
        """The weights with elements dropped, such as `weight_hh_dropped`; none in evaluation."""
        self._tell()
        if not self.training or not self.p:
            return {}
        owned = (self._owner(name) for name in self.names)
        return {_dropped(name): dropout(getattr(o, own), self.p) for name, (o, own) in zip(self.names, owned)}

    def step(self, x: Any, *states: Tensor, **values: Tensor) -> States:
        weights = [(name, held(self, _dropped(name))) for name in self.names]
        owned = [(*self._owner(name), weight) for name, weight in weights if weight is not None]
        with holding([(owner, {attribute: weight}) for owner, attribute, weight in owned]) as asked:
            new = self.cell.advance(x, states, **values)
        unread = [attribute for _, attribute, _ in owned if attribute not in asked]
        told = Variants.of(self).told
        if unread and not told:
            told.update(unread)
            self._tell(
                f"WeightDrop: {type(self.cell).__name__}.step never reads self.{unread[0]}, so nothing of it is "
                f"dropped: name the weights that it reads, or write self.{unread[0]} there"
            )
        return new

    def _owner(self, name: str) -> tuple[Module, str]:
        """The module that has a parameter, and what it calls it."""
        *path, attribute = name.split(".")
        modules = dict(self.cell.named_modules(remove_duplicate=False))
        return modules.get(".".join(path), self), attribute

    def extra_repr(self) -> str:
        return f"p={self.p}, names={list(self.names)}"


# Whose results are bounded.
SATURATES = frozenset("tanh sigmoid sin cos sign softmax erf phi clamp eq ne lt le gt ge".split())


def _handed_on(new: Tensor, seen: States) -> set[int]:
    """Which states a new state has in it as they are, or times something: not by way of weights, nor bounded."""
    symbols = isinstance(new, Symbol)
    start = new.value if isinstance(new, Symbol) else new.node
    sources = [s.value if isinstance(s, Symbol) else s.node for s in seen]
    ahead, met, found = [start], set(), set()
    while ahead:
        here: Any = ahead.pop()
        if here is None or id(here) in met:
            continue
        met.add(id(here))
        found |= {k for k, source in enumerate(sources) if source is here}
        if symbols:
            name, above = here.row and here.row.name, [x for x in here.inputs if not isinstance(x, (int, float))]
        else:
            name, above = isinstance(here, Node) and here.operation.name, here.parents
        if name and name != "matmul" and name not in SATURATES:
            ahead += above
    return found


def _dropped(name: str) -> str:
    return f"{name.replace('.', '_')}_dropped"


class ClipGradient(CellWrapper):
    """Gradients of the states, clipped at every step on the way back, inside the loop over time.

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.ClipGradient(tg.nn.GRUCell(3, 4), 1.0)
        >>> cell(tg.ones(5, 3)).shape
        (5, 4)

        forward:     s' = step(x, s)
        backward:    ds' <- min(max(ds', -value), value)

    ds' is all that arrives at a state: from the steps after it and, if it is the output, from the loss. Clipping there
    keeps gradients from exploding; clipping those of the parameters, `nn.utils.clip_grad_norm_`, only shortens what has
    exploded. Graves clips those of the gates before their nonlinearity: call `tg.clip_gradient` inside `step` for that.

    Args:
        value: the bound, an absolute value.

    Raises:
        ValueError: `value` is negative or NaN.

    Source: Graves, "Generating sequences with recurrent neural networks", 2013, section 2.1.
    """

    def __init__(self, cell: Cell, value: float) -> None:
        super().__init__(cell)
        if not value >= 0:
            raise ValueError(f"ClipGradient: value must be at least 0, got {value}")
        self.value = value

    def step(self, x: Any, *states: Tensor, **values: Tensor) -> States:
        return tuple(clip_gradient(state, self.value) for state in self.cell.advance(x, states, **values))

    def extra_repr(self) -> str:
        return f"value={self.value}"


class LearnedInitialState(CellWrapper):
    """Initial states that are parameters, shared by all sequences: `s[-1] = initial_s`.

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.LearnedInitialState(tg.nn.GRUCell(3, 4))
        >>> [(name, p.shape) for name, p in cell.named_parameters() if not name.startswith("cell.")]
        [('initial_h', (1, 4))]

    They start from the cell's own initial states, which are zeros as a rule. States given in a call take their place.

    Attributes:
        initial_h, ...: [1, H] for each state, under its name.

    Source: Hinton, "Recurrent neural networks" (lecture 7 of Neural networks for machine learning), 2012.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        for name, state in zip(cell.state_names, self._states_of_one()):
            setattr(self, f"initial_{name}", Parameter(np.array(state.numpy())))

    def initial_state(self, batch_size: int) -> Any:
        """The parameters, expanded to the batch: [B, H] for each state."""
        learned = [getattr(self, f"initial_{name}") for name in self.state_names]
        states = tuple(expand(s, (batch_size, *s.shape[1:])) for s in learned)
        return states if len(states) > 1 else states[0]
