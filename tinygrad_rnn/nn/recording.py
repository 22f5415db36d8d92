"""A look inside a recurrent layer: every named value of a step at every step, and the gradient that reached it.

    >>> import tinygrad_rnn as tg
    >>> layer = tg.nn.LSTM(3, 4)
    >>> with tg.record(layer) as r:
    ...     y, _ = layer(tg.randn(7, 2, 3))
    >>> y.square().sum().backward()
    >>> r["f"].shape, r.grad["c"].shape  # the forget gates; what reached the cell state
    ((7, 2, 4), (7, 2, 4))
    >>> "i" in r and "o" in r
    True

The names are those of the variables of `step`. A state's name stands for its value after each step. Nothing leaves the
fast path: what the kernels keep anyway is read from their arrays, the rest is computed when it is asked for.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import numpy as np

from ..autograd.tensor import Tensor
from ..fusion.recorded import Recorded
from ..fusion.sequence import Sequence
from ..fusion.specification import TapeRecord
from .cell import Cell
from .module import Module
from .recurrent import Recorder, Recurrent


class record:
    """Context manager: record what happens inside the recurrent layers of a module while it is called.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.RNN(3, 4)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.ones(7, 2, 3))
        >>> y.sum().backward()
        >>> r["h"].shape, r.grad["h"].shape
        ((7, 2, 4), (7, 2, 4))

    `with record(layer) as r`: of the last call of each layer, `r[name]` is a value over time, [T, B, W], and, after
    `backward()`, `r.grad[name]` the gradient that reached it; `r.names` are the names there are. A module with several
    recurrent layers, such as a stack, has them in order: `r[0]["h"]`, `r[1].grad["h"]`.

    A value that holds for the whole sequence, which `step` takes by name, is there at every step as well, and its
    gradient with what reached it at that step.

    `r.plot(name)` draws one, see `study.heatmap`, and the rest of `study` what can be made of them.

    Where a sequence has ended, values and gradients are zero. The backward pass may come after the block. What a step
    computes twice in the same way, kernels compute once: two names for it share the gradient that reached either.

    Args:
        module: a `Recurrent`, an RNN, LSTM, GRU or Stack, or a module that has some of them.

    Raises:
        TypeError: there is no recurrent layer in it.
        KeyError: the step has no such name; the message lists those it has.
        RuntimeError: the layer was not called; or no gradient has reached that value; or the kernels cannot tell, of
            a concatenation of which the step takes parts.
    """

    def __init__(self, module: Module) -> None:
        self.layers = list(recurrent_layers(module))
        if not self.layers:
            raise TypeError(f"record: there is no recurrent layer in {type(module).__name__}")
        self.parts = [Recording(f"{type(layer.cell).__name__}") for layer in self.layers]

    def __enter__(self) -> Any:
        self.before = [layer._recorder for layer in self.layers]
        for layer, part in zip(self.layers, self.parts):
            layer._recorder = part
        return self.parts[0] if len(self.parts) == 1 else self.parts

    def __exit__(self, *error: object) -> None:
        for layer, recorder in zip(self.layers, self.before):
            layer._recorder = recorder


class _Source(Protocol):
    """What either engine leaves behind."""

    named: dict[str, Any]

    def value(self, name: str) -> np.ndarray: ...

    def gradient(self, name: str) -> np.ndarray | None: ...


class Recording(Recorder):
    """The recording of one recurrent layer, see `record`.

    Attributes:
        cell, sequence: what ran, and what it was run over: inputs, initial states, direction, lengths.
    """

    plot: Callable[..., Any]  # set by `pictures`

    def __init__(self, title: str) -> None:
        self.title = title
        self.source: _Source | None = None
        self.cell: Cell | None = None
        self.sequence: Sequence | None = None

    def __dir__(self) -> list[str]:
        """What a tab completes: not what a run of the layer calls."""
        inside = {"over", "fused", "tape", "source", "of_first_state"}
        return [name for name in super().__dir__() if name not in inside]

    def over(self, cell: Cell, sequence: Sequence) -> None:
        """Called before a run; a copy of what came in is kept, without the graph that it came from."""
        bare = lambda values: tuple(Tensor(x.data.copy()) for x in values)
        inputs, values = bare(sequence.inputs), dict(zip(sequence.values, bare(sequence.values.values())))
        x = inputs if sequence.several else inputs[0]
        states, watched = bare(sequence.states), sequence.watched
        self.cell = cell
        self.sequence = Sequence(x, states, sequence.reverse, sequence.lengths, watched, values)

    def fused(self, cell: Any, run: Any) -> None:
        """Called with a run of the kernels."""
        self.source = Recorded(cell, run)

    def tape(self, record: TapeRecord) -> None:
        """Called with a run on the tape."""
        self.source = record

    @property
    def names(self) -> list[str]:
        """The values that there are."""
        return list(self._called().named)

    @property
    def grad(self) -> "Gradients":
        """The gradients by name: `r.grad["h"]`."""
        return Gradients(self)

    def to_dict(self) -> dict[str, np.ndarray]:
        """All values by name, [T, B, ...], and behind a "d" the gradients that reached them, such as "df" that of f.

        Where there is a value of such a name, the gradient is at "d_" and its name. For `np.savez`, pandas and others.

            >>> import tinygrad_rnn as tg
            >>> layer = tg.nn.RNN(3, 4)
            >>> with tg.record(layer) as r:
            ...     y, _ = layer(tg.ones(5, 2, 3))
            >>> y.sum().backward()
            >>> {name: array.shape for name, array in r.to_dict().items() if name in ("h", "dh")}
            {'h': (5, 2, 4), 'dh': (5, 2, 4)}
        """
        source, found = self._called(), {name: self[name].numpy() for name in self.names}
        for name in self.names:
            gradient = source.gradient(name)
            if gradient is not None:
                found[f"d_{name}" if f"d{name}" in source.named else f"d{name}"] = gradient
        return found

    def to_xarray(self) -> Any:
        """The same as an `xarray.Dataset` with dimensions time, batch and unit.

        Values of other widths than the first state have a dimension "unit_<width>"; those of higher rank "dim2_<size>"
        and so on.

        Raises:
            ModuleNotFoundError: xarray is not installed.
        """
        import xarray

        found, source = self.to_dict(), cast(Any, self._called())
        states = getattr(source, "states", None) or source.cell.state_names
        first = found[next(iter(states))].shape[2:]

        def dimensions(array: np.ndarray) -> tuple[str, ...]:
            inner = array.shape[2:]
            if len(inner) == 1:
                return ("time", "batch", "unit" if inner == first else f"unit_{inner[0]}")
            return ("time", "batch", *(f"dim{k}_{n}" for k, n in enumerate(inner, 2)))

        variables = {name: (dimensions(array), array) for name, array in found.items()}
        return xarray.Dataset(variables, attrs={"title": f"Recording of {self.title}"})

    def of_first_state(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The values of the first state after each step, and what reached them: [rows, H] each, in the same order.

        Rows of sequences that have ended are zero, or left out. None if no gradient has reached the state.
        """
        source, name = self._called(), self.cell.state_names[0] if self.cell else ""
        if not isinstance(source, Recorded):
            h, d = source.value(name), source.gradient(name)
            return None if d is None else (h.reshape(-1, h.shape[-1]), d.reshape(-1, h.shape[-1]))
        if source.run.arrived is None:
            return None
        d = np.asarray(source._arrived(0).data)  # as the kernels left it, without running the step again
        return source.after(0).reshape(d.shape), d

    def _ipython_key_completions_(self) -> list[str]:
        """What a notebook offers after `r["`."""
        return self.names if self.source else []

    def __contains__(self, name: str) -> bool:
        return name in self._called().named

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Tensor:
        return Tensor(self._known(name).value(name))

    def __repr__(self) -> str:
        return f"Recording of {self.title}: {', '.join(self.names) if self.source else 'not called'}"

    def _called(self) -> _Source:
        if self.source is None:
            raise RuntimeError(f"record: {self.title} was not called inside the block")
        return self.source

    def _known(self, name: str) -> _Source:
        source = self._called()
        if name not in source.named:
            raise KeyError(f"{self.title}.step has no value {name!r}; it has {', '.join(source.named)}")
        return source


class Gradients:
    """What reached the values of a recording."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def _ipython_key_completions_(self) -> list[str]:
        return self.recording._ipython_key_completions_()

    def __contains__(self, name: str) -> bool:
        return name in self.recording

    def __iter__(self) -> Iterator[str]:
        return iter(self.recording)

    def __getitem__(self, name: str) -> Tensor:
        gradient = self.recording._known(name).gradient(name)
        if gradient is None:
            raise RuntimeError(
                f"no gradient has reached {name!r} of {self.recording.title}: call backward() on something that "
                "depends on it first"
            )
        return Tensor(gradient)


def recurrent_layers(module: Module) -> Iterator[Recurrent]:
    """Those of a module, in order."""
    if isinstance(module, Recurrent):
        yield module
    elif hasattr(module, "scans"):
        yield from module.scans
    else:
        for child in module.children():
            yield from recurrent_layers(child)
