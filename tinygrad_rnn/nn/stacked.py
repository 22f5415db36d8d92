"""Stack: layers of cells, forwards and backwards in time.

It computes nothing itself. Each layer and direction is a `Recurrent` over a cell, a classic one or a user's.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from ..autograd import table
from ..autograd.creation import ones
from ..autograd.operands import as_tensor
from ..autograd.shapes import cat, squeeze, stack, transpose, unbind, unsqueeze
from ..autograd.tape import Node, mode, no_grad
from ..autograd.tensor import Tensor
from .cell import Cell, States, as_states, in_batch_of_one, inputs_of
from .functional import check_below_one, check_positive, dropout
from .module import Module
from .recurrent import Recurrent, check_lengths


class Stack(Module):
    """Any cells in layers: each layer reads the outputs of the one before, in one direction of time or in both.

        >>> import tinygrad_rnn as tg
        >>> net = Stack(lambda width: tg.nn.GRUCell(width, 64), input_size=28, num_layers=2, bidirectional=True)
        >>> y, h = net(tg.ones(7, 5, 28), lengths=[7, 2, 4, 7, 1])
        >>> y.shape, h.shape
        ((7, 5, 128), (4, 5, 64))
        >>> y, h = Stack([tg.nn.GRUCell(28, 64), tg.nn.LSTMCell(64, 32)])(tg.ones(7, 5, 28))
        >>> y.shape, [type(states).__name__ for states in h]
        ((7, 5, 32), ['Tensor', 'tuple'])

    D is 2 if bidirectional, else 1; O is the size of the first state of the cells of a layer, which is their output.

    Shapes:
        input: [T, B, I], or [B, T, I] if batch_first, or [T, I] without a batch. Or a tuple of that and of further
            inputs laid out alike, such as elapsed times: each cell gets these beside what the layer below returned,
            both directions the same ones.
        hx: each state [num_layers * D, B, *its size], or without B if the input has none; the directions of a layer
            follow each other. batch_first does not apply to states. If the states of the cells differ in number or
            size: a list with the states of each cell, as `Recurrent` takes them. The cells' own by default.
        output: like the input, with D * O features: the last layer's outputs, forward direction first.
        final states: like hx; those of the backward direction come from t = 0.

    Args:
        cells: a function that makes the cell for inputs of a given width, called for each layer and direction; or the
            cells themselves, in order of layers, the two of a layer (if bidirectional) next to each other.
        input_size: I, for a function.
        num_layers: for a function; 1 by default.
        batch_first: whether input and output are [B, T, ...].
        dropout: while training, the probability with which the elements that pass from layer to layer are dropped.
        bidirectional: whether each layer has a second cell that reads the sequence from its end.
        variational: whether one such mask holds for all steps of a sequence (Gal and Ghahramani, 2016).
        fused: which engine runs the cells, see `Recurrent`.

    Args (when called):
        input, hx: see above.
        lengths: [B] integers from 0 to T, as for `Recurrent`: each backward direction starts at a sequence's own end,
            final states are those at the ends, and outputs beyond them are zero.
        return_states: also return the values of all states after every step: for each state [num_layers * D, T, B, *its
            size], or with B before T if batch_first, in a tuple even if there is one; a list of such tuples, without
            the first dimension, if the states of the cells differ.
        values: by name, what the cells take as keyword-only arguments of `step`, tensors [B, ...], or [...] if the
            input has no batch, whatever batch_first is. Every cell gets those that it takes.

    Attributes:
        cells: all of them, as a list in the order of the states; parameters are called `cells.0.weight_ih` ...

    Raises:
        ValueError: an option is out of range, or a cell does not fit the one below; when called, input, states,
            lengths or values do not fit.
        TypeError: what should be a cell is not; when called, a value is missing, no tensor, or taken by no cell.
    """

    def __init__(
        self,
        cells: Callable[[int], Cell] | Sequence[Cell],
        input_size: int | None = None,
        num_layers: int | None = None,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational: bool = False,
        fused: str = "auto",
    ) -> None:
        name, directions = type(self).__name__, 2 if bidirectional else 1
        if isinstance(cells, Cell):
            raise TypeError(f"{name}: expected a list of cells, or a function that makes them: write {name}([a, b])")
        check_below_one(f"{name}: dropout", dropout, "would let nothing pass from layer to layer")
        if callable(cells):
            if input_size is None:
                raise ValueError(f"{name}: a function that makes cells needs input_size")
            num_layers = 1 if num_layers is None else num_layers
            check_positive(f"{name}: num_layers", num_layers)
            make: Callable[[int], Cell] = cells
        else:
            given = list(cells)
            if not given or len(given) % directions or num_layers not in (None, len(given) // directions):
                layers = "a cell for each layer" if directions == 1 else "two cells for each layer"
                expected = "at least one" if num_layers is None else f"{num_layers * directions}"
                raise ValueError(f"{name}: expected {layers}, {expected}, got {len(given)}")
            num_layers = len(given) // directions
            in_order = iter(given)
            make = lambda width: next(in_order)
        self._scans: list[list[Recurrent]] = []
        width = input_size
        for layer in range(num_layers):
            self._scans.append([])
            for direction in range(directions):
                cell = make(width)  # type: ignore[arg-type]
                if not isinstance(cell, Cell):
                    raise TypeError(f"{name}: expected cells, got {type(cell).__name__} for layer {layer}")
                if width is not None and cell.input_size not in (None, width):
                    raise ValueError(
                        f"{name}: layer {layer} gets inputs of {width} features, but its {type(cell).__name__} expects "
                        f"{cell.input_size}"
                    )
                self._scans[-1].append(Recurrent(cell, reverse=direction == 1, fused=fused))
            with no_grad():
                width = sum(as_states(scan.cell.initial_state(1))[0].shape[-1] for scan in self._scans[-1])
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} acts between layers, so with num_layers=1 it does nothing",
                stacklevel=2 if type(self) is Stack else 4,
            )
        self.input_size = self._scans[0][0].cell.input_size if input_size is None else input_size
        self.num_layers, self.batch_first, self.bidirectional = num_layers, batch_first, bidirectional
        self.dropout, self.variational = dropout, variational
        self._sizes = self._common_sizes()

    _apart: ClassVar[tuple[str, ...]] = ("_scans",)

    def _members(self) -> Iterable[tuple[str, Any]]:
        """The cells, under their numbers, and what a subclass adds."""
        return [*((f"cells.{number}", cell) for number, cell in enumerate(self.cells)), *super()._members()]

    @property
    def scans(self) -> list[Recurrent]:
        """What runs the cells, in the order of the states."""
        self._prepare()
        return [scan for layer in self._scans for scan in layer]

    @property
    def cells(self) -> list[Cell]:
        """The cells of all layers and directions, in the order of the states."""
        return [scan.cell for scan in self.scans]

    @property
    def fused(self) -> str:
        """Which engine runs the cells: "auto", "require" or "never"."""
        return self._scans[0][0].fused

    @fused.setter
    def fused(self, choice: str) -> None:
        for layer in self._scans:
            for scan in layer:
                scan.fused = choice

    def source(self, direction: str = "forward", layer: int = 0) -> str:
        """The source of the compiled kernels of one layer, see `Recurrent.source`: those of its forward direction."""
        self._prepare()
        return self._scans[layer][0].source(direction)

    _explain_html: Any = None  # set by `pictures`

    def explain(self, stage: str | None = None, html: bool = False) -> str:
        """What the compiler made of the cells of all layers' forward directions, see `Recurrent.explain`."""
        self._prepare()
        if html:
            return self._explain_html()
        texts = [layer[0].explain(stage) for layer in self._scans]
        if len(texts) == 1:
            return texts[0]
        return "\n\n".join(f"Layer {number}, {text}" for number, text in enumerate(texts))

    def _prepare(self) -> None:
        """Called before the cells are used."""

    def forward(
        self, input: Any, hx: Any = None, lengths: Any = None, return_states: bool = False, **values: Any
    ) -> Any:
        """The outputs of the last layer at every step, and the final states of all layers: see the class."""
        several = None if isinstance(input, Tensor) else inputs_of(self, input)  # a step of a few us asks no more
        x = several[0] if several else as_tensor(input)
        batched = self._check_input(x.data.shape)
        plain = batched and not self.batch_first
        further = self._further(x, several[1:], batched) if several else ()
        if not plain:
            x = self._steps_first(x, batched)
        self._prepare()
        starts: Any = None if hx is None else self._starts(hx, x.data.shape[1], batched)
        if lengths is not None:
            T, B, features = x.data.shape
            if not batched:
                raise ValueError(f"{type(self).__name__}: lengths need a batch, but the input is [{T}, {features}]")
            lengths = check_lengths(type(self).__name__, lengths, T, B)
        shared = self._shared(values if batched else in_batch_of_one(values)) if values else None

        finals: list[States] = []  # by layer and direction
        every: list[States] = []
        for number, layer in enumerate(self._scans):
            if number and self.training and self.dropout:
                x = self._dropped(x)
            outputs = []
            for scan in layer:
                own = shared[len(finals)] if shared else values
                given = (x, *further) if further else x
                watched, final = scan._run(given, starts and starts[len(finals)], lengths, return_states, own)
                outputs.append(watched[0])
                finals.append(final)
                every.append(watched)
            x = cat(outputs, -1) if len(outputs) > 1 else outputs[0]

        y, final = x if plain else self._in_layout(x, batched), self._together(finals, batched)
        if not return_states:
            return y, final
        laid_out = [tuple(self._in_layout(values, batched) for values in states) for states in every]
        return y, final, tuple(map(stack, zip(*laid_out))) if self._sizes else laid_out

    def _further(self, x: Tensor, further: States, batched: bool) -> States:
        """What each cell gets besides x, as [T, B, ...]."""
        for each in further:
            if each.shape[:-1] != x.shape[:-1]:
                raise ValueError(
                    f"{type(self).__name__}: a further input has shape {list(each.shape)}, expected "
                    f"[{', '.join(map(str, x.shape[:-1]))}, ...] beside {list(x.shape)}"
                )
        plain = batched and not self.batch_first
        return further if plain else tuple(self._steps_first(each, batched) for each in further)

    def _steps_first(self, x: Tensor, batched: bool) -> Tensor:
        """The user's input as [T, B, W], if it is not."""
        return transpose(x, 0, 1) if batched else unsqueeze(x, 1)

    def _shared(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """The values for a sequence that each cell takes."""
        known = [cell.value_names for cell in self.cells]
        for name in values:
            if not any(name in each for each in known):
                names = ", ".join(dict.fromkeys(name for each in known for name in each)) or "nothing"
                raise TypeError(
                    f"{type(self).__name__}: nothing is called {name}: its cells take {names} by name, and a layer hx, "
                    "lengths and return_states"
                )
        return [{name: x for name, x in values.items() if name in each} for each in known]

    def _dropped(self, x: Tensor) -> Tensor:
        """What passes from layer to layer."""
        if self.variational:
            return x * dropout(ones(1, *x.shape[1:], dtype=x.dtype), self.dropout)
        return dropout(x, self.dropout)

    def _in_layout(self, x: Tensor, batched: bool) -> Tensor:
        """[T, B, W] as the user's input is laid out."""
        if not batched:
            return squeeze(x, 1)
        return transpose(x, 0, 1) if self.batch_first else x

    def _check_input(self, shape: tuple[int, ...]) -> bool:
        """Whether the input has a batch dimension."""
        dims, expected = len(shape), self.input_size
        if dims == 3 and shape[-1] == expected and all(shape):
            return True
        if dims not in (2, 3):
            problem = f"expected an input of 3 dimensions, or 2 without a batch, got {dims}"
        elif expected is not None and shape[-1] != expected:
            problem = f"expected {expected} features in the last dimension, got {shape[-1]}"
        elif shape[1 if dims == 3 and self.batch_first else 0] == 0:
            problem = "the sequence has no steps"
        else:
            return dims == 3
        raise ValueError(f"{type(self).__name__}: {problem} (shape {list(shape)})")

    # ---- States: stacked if they are alike, else one by one ----------------------------------------------------------

    def _common_sizes(self) -> dict[str, tuple[int, ...]] | None:
        """The names of the states and their shapes behind the batch, if they are the same for all cells."""
        with no_grad():
            states = [(c.state_names, as_states(c.initial_state(1))) for c in self.cells]
        kinds = [{name: s.shape[1:] for name, s in zip(*each)} for each in states]
        return kinds[0] if all(list(kind.items()) == list(kinds[0].items()) for kind in kinds) else None

    def _starts(self, hx: Any, batch_size: int, batched: bool) -> list[States]:
        """What each cell starts from."""
        cells = self.cells
        if self._sizes:
            states = as_states(hx)
            if not batched:
                states = tuple(unsqueeze(s, 1) for s in states)
            self._check_states(states, len(cells), batch_size, batched)
            if len(cells) == 1:
                return [tuple([Tensor(s.data[0]) if s.node is None else squeeze(s, 0) for s in states])]
            return list(zip(*map(unbind, states)))
        if not isinstance(hx, (tuple, list)) or len(hx) != len(cells):
            got = len(hx) if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise ValueError(f"{type(self).__name__}: expected the states of each of {len(cells)} cells, got {got}")
        each = [as_states(states) for states in hx]
        if not batched:
            each = [tuple(unsqueeze(s, 0) for s in states) for states in each]
        return [cell.begin(states, batch_size) for cell, states in zip(cells, each)]

    def _together(self, finals: list[States], batched: bool) -> Any:
        """The states of all cells as the user gets them."""
        if self._sizes:
            last = [stack(each) for each in zip(*finals)] if len(finals) > 1 else [_of_one(s) for s in finals[0]]
            if not batched:
                last = [squeeze(s, 1) for s in last]
            return tuple(last) if len(last) > 1 else last[0]
        each = finals if batched else [tuple(squeeze(s, 0) for s in states) for states in finals]
        return [states if len(states) > 1 else states[0] for states in each]

    def _check_states(self, states: States, cells: int, batch_size: int, batched: bool) -> None:
        assert self._sizes is not None
        name, names = type(self).__name__, list(self._sizes)
        if len(states) != len(names):
            raise ValueError(
                f"{name}: expected initial state{'s' * (len(names) > 1)} {', '.join(names)}, got {len(states)} of them"
            )
        for (state_name, size), state in zip(self._sizes.items(), states):
            expected = (cells, batch_size, *size)
            if state.data.shape != expected:
                without = lambda shape: list(shape if batched else (*shape[:1], *shape[2:]))
                raise ValueError(
                    f"{name}: initial state {state_name} has shape {without(state.shape)}, expected "
                    f"{without(expected)}: [num_layers * directions, {'batch, ' if batched else ''}size]"
                )

    def extra_repr(self) -> str:
        return ", ".join(self._options("batch_first", "dropout", "bidirectional", "variational"))

    def _options(self, *names: str) -> list[str]:
        """Those that are not what they are by default."""
        defaults = {"num_layers": 1, "bias": True}
        return [f"{n}={getattr(self, n)}" for n in names if getattr(self, n, 0) != defaults.get(n, False)]


_RESHAPE = table.reshape.adjoint((0,))


def _of_one(state: Tensor) -> Tensor:
    """The state of the only cell in a stack of states.

    Where nobody watches, the operation is put on the tape by hand: some steps take no longer than to ask for it.
    """
    x, node = state.data, state.node
    if node is None:
        return Tensor(x[None])
    if mode.level != 1:
        return table.reshape(state, shape=(1, *x.shape))
    y = x[None]
    return Tensor(y, Node(_RESHAPE, (node,), (x.shape,), _RESHAPE.save(y, x, shape=y.shape)))
