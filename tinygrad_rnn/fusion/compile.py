"""The compiled cells of this process: a cell is compiled at its first call, and again when it has changed."""

import weakref
from typing import Any

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.tape import no_grad
from ..kernels.locks import lock
from .frames import step_line
from .fused import FusedCell
from .guards import Guards, Watch, clock
from .reads import HIDDEN
from .refusal import CompilerError, Unfusable
from .scan import no_collection
from .sequence import Sequence


class Compiled:
    """A compiled cell, or the reason why there is none, and what its step read while it was traced.

    Args:
        refused: why it was refused before, and how often in a row. If it is that time and again, or if its step changes
            what it reads a second time, only its code is guarded.

    Attributes:
        often: what to say if it is one of many in a row.
    """

    def __init__(self, cell: Any, sequence: Sequence, refused: tuple[str, int] = ("", 0)) -> None:
        self.fused: FusedCell | None = None
        self.reason = self.often = ""
        random_state = get_rng_state()  # a step that draws numbers must find the same ones on the tape
        watch = Watch(cell)
        try:
            with no_grad(), no_collection(), watch:  # what the collector calls is not what the step reads
                self.fused = FusedCell(cell, sequence)
            self.guards = Guards(watch)
        except Unfusable as error:
            self.reason = str(error)
        except Exception as error:  # what step raises is `Unfusable` by now
            self.reason = str(CompilerError.of(error, step_line(cell)))
        finally:
            set_rng_state(random_state)
        if self.reason:
            settled = self.reason == refused[0] and (watch.changes or refused[1] >= PATIENCE)
            self.fused, self.guards = None, Guards(watch, refused=True, code_only=settled)

    def holds(self) -> bool:
        """Whether nothing has changed since: what the step read, nor the shapes and dtypes of parameters."""
        return self.guards.holds() and (self.fused is None or self.fused.fits())

    def rebound(self) -> bool:
        """Whether nothing has changed but tensors that were replaced by others of the same form: those it takes."""
        if self.fused is None or not (new := self.guards.replaced()):
            return False
        self.fused.fixed = [new.get(id(x), x) for x in self.fused.fixed]
        return self.holds()

    def refuse(self, error: Unfusable) -> None:
        """Use the compiled cell no more."""
        self.fused, self.reason = None, str(error)

    def cell(self) -> FusedCell:
        """The compiled cell.

        Raises:
            Unfusable: with the reason why there is none.
        """
        if self.fused is None:
            raise Unfusable(self.reason)
        return self.fused


class Variants:
    """What this process knows of a cell. It lies on the cell and goes with it; copies and pickles begin without.

    Attributes:
        compiled: by the kind of sequence, the latest first.
        refused: how often in a row the cell was refused, and why.
        anew: how many calls in a row needed a new one.
        told: what the user was told of it.
        pending: warnings that came up while it was traced.
    """

    def __init__(self, cell: Any) -> None:
        self._cell = weakref.ref(cell)
        self.compiled: dict[Any, list[Compiled]] = {}
        self.refused: tuple[str, int] = "", 0
        self.anew = 0
        self.told: set[str] = set()
        self.pending: list[str] = []

    @staticmethod
    def of(cell: Any) -> "Variants":
        """Those of a cell, which may hold those of the cell it was copied from."""
        known = vars(cell).get(HIDDEN)
        if known is None or known._cell() is not cell:
            known = vars(cell)[HIDDEN] = Variants(cell)
        return known

    def __reduce__(self) -> Any:
        return type(None), ()


__all__ = ["Compiled", "Variants", "clock", "compiled_cell", "fused_cell", "last_fused_cell"]
VARIANTS = 8  # of a cell that are remembered for inputs of one kind, such as one for training and one for evaluation
_TRACING = lock("tracing")
PATIENCE = 4  # refusals for one reason, each time after something had changed
MOST_ANEW = 16  # calls in a row for which a cell is compiled without a word


def compiled_cell(cell: Any, sequence: Sequence) -> Compiled:
    """The compiled cell for a sequence like this, from an earlier call if nothing has changed."""
    kind = sequence.kind
    with _TRACING:
        known = Variants.of(cell)
        variants = known.compiled.get(kind, [])
        found = next((each for each in variants if each.holds()), None)
        compiled = found or next((each for each in variants if each.rebound()), None)
        known.anew = 0 if compiled else known.anew + 1
        if compiled is None:
            compiled = Compiled(cell, sequence, known.refused)
            if known.anew >= MOST_ANEW and variants and (changed := variants[0].guards.changed()):
                path = changed[0].path
                told = f"{type(cell).__name__} was compiled for each of {MOST_ANEW} calls in a row, since {path} "
                compiled.often = f"{told}changed: let a number be a tensor, {path} = tg.tensor([number])"
            known.refused = compiled.reason, 1 + known.refused[1] * (compiled.reason == known.refused[0])
            known.compiled[kind] = [compiled, *variants][:VARIANTS]
    return compiled


def fused_cell(cell: Any, sequence: Sequence) -> FusedCell:
    """The same, if it could be compiled.

    Raises:
        Unfusable: with the reason.
    """
    return compiled_cell(cell, sequence).cell()


def last_fused_cell(cell: Any) -> FusedCell | None:
    """The compiled cell of the last call that needed a new one; None if there was no call since the cell changed.

    Raises:
        Unfusable: there was one, and it could not be compiled.
    """
    for variants in reversed(Variants.of(cell).compiled.values()):
        for compiled in variants:
            if compiled.holds():
                return compiled.cell()
    return None
