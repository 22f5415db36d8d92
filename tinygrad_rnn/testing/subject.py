"""A cell while it is checked: what it is run with and on which engines; and that it is left as it was."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd.creation import tensor
from ..autograd.gradients import grad
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.cell import Cell, as_states
from ..nn.module import Parameter
from ..nn.recurrent import Recurrent
from .report import CellReport

Found = Iterator[tuple[str, ...]]


class Subject:
    """A cell while it is checked.

    Attributes:
        T, B, I: the sizes of x, I once it is known.
        values: what step takes by name.
        why_not: why the cell cannot be compiled; "" if it can.
        differs: whether two calls gave different results, so that no comparison says anything.
    """

    T, B = 3, 2

    def __init__(self, cell: Any, input_size: int | None, values: dict[str, Any], report: CellReport) -> None:
        self.cell, self.wanted, self.report = cell, input_size, report
        self.values = {name: np.asarray(x.data if isinstance(x, Tensor) else x) for name, x in values.items()}
        self.B = next((len(x) for x in self.values.values()), self.B)
        self.I, self.differs = 0, False
        self._why_not: str | None = None

    def convert(self, dtype: Any) -> None:
        """Give all parameters this dtype, and numbers that are none of the usual zeros and ones."""
        rng = np.random.default_rng(1)
        for p in [*self.cell.parameters(), *self.cell.buffers()]:
            if p.data.dtype.kind == "f":
                factor = 1 + 0.05 * rng.standard_normal(p.shape)
                shift = 0.02 * rng.standard_normal(p.shape)
                p.data = (p.data * factor + shift).astype(dtype) if isinstance(p, Parameter) else p.data.astype(dtype)
                p.grad = None

    def find_width(self) -> None:
        """The width of inputs: what the cell says, or what its step takes."""
        known = self.wanted or self.cell.input_size
        shapes = [p.shape for p in self.cell.parameters() if p.ndim == 2]
        guesses = [known] if known else list(dict.fromkeys([*(n for shape in shapes for n in shape), 3]))
        for guess in guesses:
            self.I = guess
            try:
                with no_grad():
                    self.cell(self.x()[0], **self.given())
                return
            except Exception:
                continue
        self.I = guesses[0]

    def x(self, dtype: Any = np.float64, T: int = T, B: int | None = None, seed: int = 0) -> Tensor:
        """An input [T, B, I]."""
        shape = (T, self.B if B is None else B, self.I)
        return tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))

    def hx(self, dtype: Any = np.float64) -> tuple[Tensor, ...]:
        """States that the cell comes to: no others, such as half a step of one that counts them."""
        with no_grad():
            states = self.run("never", self.x(dtype, T=2, seed=5))[1:]
        return tuple(tensor(state.data) for state in states)

    def given(self, dtype: Any = np.float64, rows: Any = slice(None)) -> dict[str, Tensor]:
        """What step takes by name."""
        floats = lambda x: x.astype(dtype) if x.dtype.kind == "f" else x
        return {name: tensor(floats(x)[rows]) for name, x in self.values.items()}

    @property
    def why_not(self) -> str:
        if self._why_not is None:
            try:
                self.run("require", self.x())
                self._why_not = ""
            except NotImplementedError as error:
                self._why_not = str(error)
        return self._why_not

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that run the cell."""
        return ("never",) if self.why_not else ("never", "require")

    def run(self, engine: str, x: Tensor, hx: Any = None, values: Any = None, **options: Any) -> list[Tensor]:
        """The outputs at all steps, and the final states."""
        reverse = options.pop("reverse", False)
        values = self.given(x.dtype) if values is None else values
        y, states = Recurrent(self.cell, reverse, engine)(x, hx, **options, **values)
        return [y, *as_states(states)]

    def gradients(self, engine: str, seed: int = 0) -> list[np.ndarray]:
        """Results, and the gradients of one number made of them: of x, the first states and all parameters."""
        x, hx = self.x(seed=seed).requires_grad_(), [s.requires_grad_() for s in self.hx()]
        results = self.run(engine, x, tuple(hx))
        wanted = [x, *hx, *self.learned().values()]
        found = grad([weighted(results)], wanted, allow_unused=True)
        none = [np.zeros(p.shape) if g is None else g.data for p, g in zip(wanted, found)]
        return [*(r.data for r in results), *none]

    def learned(self) -> dict[str, Parameter]:
        """The parameters that want a gradient."""
        return {name: p for name, p in self.cell.named_parameters() if p.requires_grad}


def weighted(results: Iterable[Tensor]) -> Tensor:
    """One number made of all results."""
    rng = np.random.default_rng(3)
    total: Any = 0.0
    for y in results:
        if y.node is not None:
            total = total + (y * tensor(rng.standard_normal(y.shape).astype(y.dtype))).sum()
    return total if isinstance(total, Tensor) else tensor(0.0, requires_grad=True)


class restored:
    """Context manager: a cell has all its attributes, numbers and gradients as before, whatever was tried."""

    def __init__(self, cell: Any) -> None:
        self.modules = [(m, dict(vars(m))) for m in cell.modules()] if isinstance(cell, Cell) else []
        tensors = [*cell.parameters(), *cell.buffers()] if isinstance(cell, Cell) else []
        self.tensors = [(p, p.data, p.data.copy(), p.grad) for p in tensors]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        for module, attributes in self.modules:
            for name in [name for name in vars(module) if name not in attributes and not name.startswith("_")]:
                delattr(module, name)
            for name, value in attributes.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)
        for p, array, numbers, gradient in self.tensors:
            array[...] = numbers
            p.data, p.grad = array, gradient


def words(engine: str) -> str:
    """An engine as a reader knows it."""
    return "on the tape" if engine == "never" else "fused"


def close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether float64 arrays differ by rounding only."""
    fits = lambda a, b: a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-11, equal_nan=True)
    return len(found) == len(expected) and all(map(fits, found, expected))


def equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    """Whether arrays are the same bit by bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected))
