"""The graph of a computation: the tape behind a value, or the step of a cell, with values and gradients.

    >>> import tinygrad_rnn as tg
    >>> a, b = tg.tensor(2.0, requires_grad=True), tg.tensor(-3.0, requires_grad=True)
    >>> L = a * b
    >>> print(L.graph())
    L = mul(a, b)  value -6  no gradient yet
        a  value 2  no gradient yet
        b  value -3  no gradient yet
    >>> L.backward()
    >>> L.graph().gradients["a"].item(), L.graph().gradients["b"].item()
    (-3.0, 2.0)

`boxes` draws it.
"""

import gc
import os
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import numpy as np

from ..autograd.primitive import Adjoint
from ..autograd.tape import Leaf, Node, Place, Value
from ..autograd.tensor import Tensor
from ..fusion.equations import Equations
from ..fusion.program import Value as StepValue
from ..fusion.program import made_of
from ..nn.module import Module
from ..nn.recording import Recording
from ..nn.recurrent import Recurrent
from .boxes import Box, Graph, number

NO_GRADIENT, NOT_KEPT = "no gradient yet", "gradient not kept"
FEW = 64  # places


# ---- From a tape -----------------------------------------------------------------------------------------------------


def graph(y: Any, *, t: int = -1, names: dict[str, Any] | None = None) -> Graph:
    """The graph behind a tensor, or that of a cell's step.

    What is drawn of a tensor is the tape: as many boxes as places on it, and as many arrows. A recurrence that kernels
    ran is one box, and `rolled()` makes one of a loop. Values come from the tensors that are alive, and from what the
    tape has saved; gradients are those that tensors hold: of leaves after `backward()`, of others after `retain_grad()`
    as well. See `replay` for all.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> picture = tg.study.graph((x * x).sum())
        >>> [box.label for box in picture.boxes], picture.edges
        (['x', 'mul', 'sum'], [(0, 1), (0, 1), (1, 2)])
        >>> picture.svg()[:4]
        '<svg'

    Of a `Recurrent` (or a module with recurrent layers: the first) it is the step as it was traced; of a recording the
    same, with the values and gradients of step t.

        >>> print(tg.study.graph(tg.nn.Recurrent(tg.nn.RNNCell(3, 4))).boxes[-1].operation)
        tanh(a)

    Numbers of a class of your own are drawn too, if they have a `value` and `parents`, the numbers that they were made
    from; their `name`, `grad` and `slopes` (towards each parent) are used where there are any. With slopes and
    gradients the picture has the arrows of the backward pass as well.

    Args:
        y: a tensor of any shape, a recurrent layer, a recording, or a number of a class of yours.
        t: of a recording, which step.
        names: name -> tensor; by default the names of variables of the functions that run.

    Raises:
        TypeError: y is something else.
        ValueError: no gradient is recorded behind y; or a recording ran on the tape, or its cell cannot be traced.
    """
    if isinstance(y, Tensor):
        if y.node is None:
            raise ValueError("graph: nothing is recorded behind this tensor: it needs an input with requires_grad=True")
        return Tape(y, names or names_in_frames()).graph()
    if isinstance(y, Recording):
        return _of_recording(y, t)
    if isinstance(y, Module):
        return _of_step(_recurrent_in(y)._last_fused())
    if hasattr(y, "parents") and hasattr(y, "value"):
        return _of_numbers(y, names)
    raise TypeError(f"graph: expected a tensor, a recurrent layer or a recording, got {type(y).__name__}")


class Tape:
    """The places behind a tensor, with what is known of them.

    Attributes:
        places: from the oldest to the youngest.
        number: place -> its position there.
        edges: (parent, node), as positions.
        values: place -> array.
    """

    def __init__(self, y: Tensor, names: dict[str, Any]) -> None:
        root: Any = y.node
        self.places = places_behind(root)
        self.number = {place: i for i, place in enumerate(self.places)}
        self.edges = [(self.number[p], i) for i, place in enumerate(self.places) for p in place.parents]
        self.shapes: dict[Place, tuple[int, ...]] = {root: y.shape}
        for place in self.places:
            if isinstance(place, Node):
                self.shapes.update(zip(place.parents, place.shapes))
        self.tensors: dict[Place, Tensor] = {}
        known = {id(tensor): name for name, tensor in reversed(names.items())}  # the first name of each
        for tensor in [*_alive(self.places), y]:
            here: Any = tensor.node
            before = self.tensors.get(here)
            if before is None or (id(tensor) in known and id(before) not in known) or tensor.grad is not None:
                self.tensors[here] = tensor
        self.values = {place: tensor.data for place, tensor in self.tensors.items()}
        self._add_residuals()
        self.labels = list(_unique(self._label(place, known) for place in self.places))

    def _label(self, place: Place, known: dict[int, str]) -> str:
        tensor = self.tensors.get(place)
        if tensor is not None and id(tensor) in known:
            return known[id(tensor)]
        return operation_name(place) or "leaf"

    def _add_residuals(self) -> None:
        """Values of tensors that are gone: what the tape has saved, and what can be computed again of that."""
        for place in self.places:
            operation = getattr(place, "operation", None)
            if isinstance(place, Node) and isinstance(operation, Adjoint) and place.saved is not None:
                parents = dict(zip(operation.wanted, place.parents))
                inputs = {} if operation.primitive.variadic else dict(zip(operation.primitive.inputs, range(9)))
                for name, array in zip(operation.saves, place.saved):
                    target = place if name == "y" else parents.get(inputs.get(name, -1))
                    if target is not None and isinstance(array, np.ndarray):
                        self.values.setdefault(target, array)
        for place in self.places:
            if place not in self.values and isinstance(place, Node) and isinstance(place.operation, Adjoint):
                self._compute_again(place, place.operation)

    def _compute_again(self, place: Node, operation: Adjoint) -> None:
        """The value of a place, if all is known that its operation read: constants that no rule names are not."""
        row, saved = operation.primitive, dict(zip(operation.saves, place.saved or ()))
        positions = range(len(place.parents)) if row.variadic else range(len(row.inputs))
        parents = dict(zip(operation.wanted, place.parents))
        operands = [self.values.get(parents[i]) if i in parents else saved.get(row.inputs[i]) for i in positions]
        known = {"keepdim": True, "shape": self.shapes.get(place)} | saved
        attributes = {name: known.get(name) for name in row.attributes}
        if attributes.keys() <= known.keys() and operands and all(x is not None for x in operands):
            self.values[place] = np.asarray(row.forward(*operands, **attributes)).reshape(self.shapes[place])

    def graph(self, gradients: dict[Place, Any] | None = None) -> Graph:
        """The picture: with the gradients that tensors hold, or with these."""
        boxes = []
        any_yet = any(tensor.grad is not None for tensor in self.tensors.values())
        for place, label in zip(self.places, self.labels):
            tensor, name = self.tensors.get(place), operation_name(place)
            if gradients is not None:
                gradient = gradients.get(place, NO_GRADIENT)
            elif tensor is not None and tensor.grad is not None:
                gradient = tensor.grad.data
            else:
                gradient = NOT_KEPT if any_yet and isinstance(place, Node) else NO_GRADIENT
            kind = "leaf" if isinstance(place, Leaf) else "recurrence" if is_recurrence(place) else "operation"
            if kind == "recurrence":
                gradient = ""
            value = self.values.get(place)
            boxes.append(Box(label, name, kind, self.shapes.get(place, ()), value, gradient))
        return Graph(boxes, self.edges)


def places_behind(root: Any) -> list[Place]:
    """A place and all that it was computed from, from the oldest to the youngest."""
    found, ahead = {root}, [root]
    while ahead:
        new = [parent for parent in ahead.pop().parents if parent not in found]
        found.update(new)
        ahead += new
    return sorted(found, key=lambda place: place.number)


def is_recurrence(place: Any) -> bool:
    """Whether kernels ran a cell here, over a whole sequence."""
    return hasattr(getattr(place, "operation", None), "scan")


def operation_name(place: Any) -> str:
    """What made a value; "" if it was given."""
    if not isinstance(place, Node):
        return ""
    operation: Any = place.operation
    if is_recurrence(place):
        rows = place.saved[1].rows if place.saved is not None else None
        return f"{operation.scan.title} over time" + (f", T={rows.T}, B={rows.B}" if rows else "")
    if len(place.parents) == 1 and is_recurrence(place.parents[0]):
        scan: Any = place.parents[0].operation  # type: ignore[attr-defined]
        states = [state.name for state in scan.program.states]
        return f"{states[operation.k]} at all steps" if operation.k < scan.watched else (
            f"final {states[operation.k - scan.watched]}")  # fmt: skip
    return operation.name


def _alive(places: list[Place]) -> Iterator[Tensor]:
    """The tensors of these places that somebody still has. Places do not know them: it is they that hold places."""
    found = set(places)
    # Who is asked for the referrers of many compares everything that everybody holds with each of them.
    for each in gc.get_referrers(*places) if len(places) <= FEW else gc.get_objects():
        if issubclass(type(each), Value) and getattr(each, "node", None) in found:
            yield each


def names_in_frames(kind: type = Value) -> dict[str, Any]:
    """Name -> tensor, of the variables of the functions that run, and of the parameters of their modules.

    Args:
        kind: of what to look for, if it is not tensors.
    """
    frame: FrameType | None = sys._getframe(1)
    found: dict[str, Any] = {}
    here = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")  # no names of the package's own
    while frame is not None:
        if not frame.f_code.co_filename.startswith(here):
            for name, value in {**frame.f_globals, **frame.f_locals}.items():
                if isinstance(value, kind):
                    found.setdefault(name, value)
                elif isinstance(value, Module):
                    for inner, parameter in value.named_parameters():
                        found.setdefault(f"{name}.{inner}", parameter)
        frame = frame.f_back
    return found


def _unique(labels: Iterable[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        yield label if seen[label] == 1 else f"{label}_{seen[label]}"


# ---- From somebody else's numbers -----------------------------------------------------------------------------------


def _of_numbers(y: Any, names: dict[str, Any] | None) -> Graph:
    """The graph behind a number of a class of the user's: parents first, each once."""
    numbers: dict[int, Any] = {}
    ahead = [(y, False)]
    while ahead:
        x, parents_done = ahead.pop()
        if id(x) not in numbers:
            if parents_done:
                numbers[id(x)] = x
            else:
                ahead += [(x, True), *((parent, False) for parent in reversed(tuple(x.parents)))]
    known = {id(x): name for name, x in reversed((names or names_in_frames(type(y))).items())}
    told = [str(getattr(x, "name", "") or "") for x in numbers.values()]
    given = {i: name for (i, x), name in zip(numbers.items(), told) if name and not tuple(x.parents)}
    labels = list(_unique({**known, **given}.get(i, name or "number") for i, name in zip(numbers, told)))
    boxes, edges, sent = [], [], []
    position = {i: k for k, i in enumerate(numbers)}
    for k, (x, name, label) in enumerate(zip(numbers.values(), told, labels)):
        made = bool(tuple(x.parents))
        grad = getattr(x, "grad", None)
        gradient = NO_GRADIENT if grad is None else np.asarray(grad)
        value, kind = np.asarray(x.value), "operation" if made else "leaf"
        boxes.append(Box(label, name if made else "", kind, value.shape, value, gradient))
        edges += [(position[id(parent)], k) for parent in x.parents]
        if grad is not None:
            sent += [number(np.multiply(slope, grad)) for slope in getattr(x, "slopes", ())]
    return Graph(boxes, edges, sent=sent if edges and len(sent) == len(edges) else None)


# ---- From a step -----------------------------------------------------------------------------------------------------


def _recurrent_in(model: Module) -> Recurrent:
    for module in model.modules():
        if isinstance(module, Recurrent):
            return module
        for scan in getattr(module, "scans", ()):
            return scan
    raise TypeError(f"graph: there is no recurrent layer in {type(model).__name__}")


def _of_step(fused: Any, known: dict[Any, tuple[Any, Any]] | None = None) -> Graph:
    """The step as it was traced, each box an equation of the user's names."""
    equations, known, program = Equations(), known or {}, fused.stages["trace"]
    held = dict(zip(fused.program.held, fused.fixed))
    names = lambda x: equations.has_name(x) or x.row is None
    values = [x for x in made_of(program.outputs) if names(x)]
    number_of = {x: i for i, x in enumerate(values)}
    boxes, edges = [], []
    for i, x in enumerate(values):
        label, _, equation = equations.describe(x).partition(" = ")
        kind = "operation" if x.row is not None else "leaf"
        value, gradient = known.get(x, (None, ""))
        if x in held:
            value, gradient = held[x].data, NO_GRADIENT if held[x].requires_grad else ""
            gradient = gradient if held[x].grad is None else held[x].grad.data
        shape = x.inner if x.per_row else x.shape
        boxes.append(Box(label, equation, kind, shape, value, gradient))
        edges += [(number_of[y], i) for y in _named_operands(x, names)]
    sentence = "A step as it was traced: from left to right the lines that the cell's author wrote."
    return Graph(boxes, edges, sentence, equations=True)


def _named_operands(x: StepValue, named: Any) -> list[StepValue]:
    """The operands of an equation: what has no name of its own is written out in it."""
    found: list[StepValue] = []
    ahead = x.operands[::-1]
    while ahead:
        y = ahead.pop()
        if named(y):
            found.append(y)
        else:
            ahead += y.operands[::-1]
    return list(dict.fromkeys(found))


def _of_recording(r: Recording, t: int) -> Graph:
    source: Any = r._called()
    if not hasattr(source, "fused"):
        raise ValueError(f"graph: {r.title} ran on the tape, which graph(y) of a result shows; no step was traced")
    rows = source.rows
    if not -rows.T <= t < rows.T:
        raise ValueError(f"graph: t is {t}, and there are {rows.T} steps")
    known: dict[Any, tuple[Any, Any]] = {}
    for x, tensor in source._known.items():
        every = rows.scattered(tensor.data.reshape(rows.total, *x.inner)) if x.per_row else None
        known[x] = (tensor.data if every is None else every[t]), ""
    for name, x in source.named.items():
        gradient = source.gradient(name)
        known[x] = r[name].numpy()[t], NO_GRADIENT if gradient is None else gradient[t]
    return _of_step(source.fused, known)
