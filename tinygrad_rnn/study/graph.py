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

Drawn as SVG by `layout`, with no program beside and no script; `print` has the same as text.
"""

import gc
import html
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NamedTuple

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
from .layout import BETWEEN, Layout, layout
from .repeats import repeats
from .result import lines_of, scrolled, write_below

MOST = 150  # boxes in a picture
WORTH_A_BOX = 8  # so many operations that repeat themselves
NO_GRADIENT, NOT_KEPT = "no gradient yet", "gradient not kept"
SIGN, TOLD = 6.7, 12  # the width of a letter, in a picture, and letters along an arrow
AHEAD, BACK = "#5b6770", "#b3400a"  # the colours of arrows
SENT = " The lower arrows, with numbers, are what each box hands back: those that arrive at one are added."
FILLS = {"leaf": "#ffffff", "operation": "#eef1f4", "recurrence": "#d5dee6", "loop": "#d5dee6"}


class Box(NamedTuple):
    """A value of the graph, and what made it.

    Attributes:
        label: its name, or that of its operation where it has none; unique.
        operation: what made it; "" for what is given.
        kind: "leaf", "operation", "recurrence", or "loop" for what was rolled into one: it shows its last value.
        shape: of the value.
        value: the array, None where nobody keeps it.
        gradient: the array, or why there is none.
    """

    label: str
    operation: str
    kind: str
    shape: tuple[int, ...]
    value: Any
    gradient: Any

    def lines(self) -> list[str]:
        """The text in the box."""
        title = f"{self.label} = {self.operation}" if self.operation not in ("", self.label) else self.label
        shape = f"{list(self.shape)}, " if self.shape else ""
        known = f"value {number(self.value)}" if self.value is not None else f"{shape}value not kept"
        lines = [title, known]
        if self.kind == "recurrence":
            lines = [title]
        elif self.value is None and isinstance(self.gradient, str) and not self.gradient:  # of a step that nobody ran
            lines = [title, f"shape {list(self.shape)}"]
        text = self.gradient if isinstance(self.gradient, str) else "grad " + number(self.gradient)
        return [*lines, text] if text else lines


class Graph:
    """What `graph` returns: boxes and arrows, from what is given to the result. Print it, or look at it in a notebook.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> graph = tg.study.graph(x * x + x)
        >>> len(graph.boxes), len(graph.edges)
        (3, 4)

    Attributes:
        boxes: from the oldest to the youngest, which is the result.
        edges: pairs of numbers of boxes, from operand to result: as many as the tape has.
        values: label -> array, where it is known.
        gradients: label -> array, where there is one.
        sent: for each edge what goes back along it, as text; None where that is not drawn.
        sentence: how to read it.
    """

    sentence = (
        "From left to right values are computed, from right to left gradients: each box has a value, what made it, "
        "and the derivative of the result with respect to it."
    )

    def __init__(
        self, boxes: list[Box], edges: list[tuple[int, int]], sentence: str = "", equations: bool = False,
        sent: list[str] | None = None,
    ) -> None:  # fmt: skip
        self.boxes, self.edges, self.sent = boxes, edges, sent
        self.equations = equations  # whether the operations are whole equations
        self.sentence = sentence or self.sentence + (SENT if sent is not None else "")
        self.values = {box.label: box.value for box in boxes if box.value is not None}
        arrays = {box.label: box.gradient for box in boxes}
        self.gradients = {label: g for label, g in arrays.items() if isinstance(g, np.ndarray)}

    def placed(self) -> "tuple[Layout, range, list[tuple[int, int]]]":
        """Where everything goes in a picture; which boxes are in it, and which edges."""
        shown = range(max(len(self.boxes) - MOST, 0), len(self.boxes))
        edges = [(a, b) for a, b in self.edges if a in shown]
        sent = [len(_short(text, TOLD)) for text in self.sent or ()]
        room = max(2 * BETWEEN, BETWEEN + SIGN * max(sent, default=0)) if self.sent is not None else BETWEEN
        return layout({i: _size(self.boxes[i]) for i in shown}, edges, room), shown, edges

    def going_back(
        self, place: "Layout", shown: range
    ) -> Iterator[tuple[list[tuple[float, float]], tuple[float, float], str]]:
        """The arrows of the backward pass, a little below those they answer; what goes along each, and where to say so.

        That is near to where it comes from, as arrows cross in the middle.
        """
        texts = [text for (a, _), text in zip(self.edges, self.sent or []) if a in shown]
        for path, text in zip(place.paths, texts):
            back = [(x, y + 5.0) for x, y in path[::-1]]
            (x, y), (u, v) = back[:2]
            yield back, (x + 0.35 * (u - x), y + 0.22 * (v - y)), _short(text, TOLD)

    def svg(self, marked: int | None = None, received: dict[int, str] | None = None) -> str:
        """The picture.

        Args:
            marked: a box that stands out.
            received: box -> what it gets from the marked one, which is written into it.
        """
        received = received or {}
        place, shown, edges = self.placed()
        above = 10 if received else 0  # for what is written over the highest box
        wide, high = f"{place.width:.0f}", f"{place.height + above:.0f}"
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-above} {wide} {high}" width="{wide}" '
                 f'height="{high}" font-family="monospace" font-size="11" style="max-width:100%;height:auto;'
                 f'background:#ffffff"><title>{_escaped(self.title)}</title>']  # fmt: skip
        for (a, b), path in zip(edges, place.paths):
            back = b == marked and a in received
            parts.append(_arrow(path[::-1] if back else path, BACK if back else AHEAD, 2.2 if back else 1.1))
        told = []
        for path, (x, y), text in self.going_back(place, shown):
            parts.append(_arrow(path, BACK, 1.4))
            told.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="{BACK}" stroke="#ffffff" '
                        f'stroke-width="3" paint-order="stroke">{_escaped(text)}</text>')  # fmt: skip
        parts += told
        for i in shown:
            parts.append(_box(self.boxes[i], place.at[i], i == marked, i in received))
        for i, text in received.items():  # in the corner of the box, as it is added there
            if i in shown:
                (x, y), (width, height) = place.at[i], _size(self.boxes[i])
                parts.append(f'<text x="{x + width / 2:.1f}" y="{y - height / 2 - 4:.1f}" text-anchor="end" '
                             f'fill="{BACK}" font-weight="bold">+= {_escaped(_short(text, 26))}</text>')  # fmt: skip
        return "".join([*parts, "</svg>"])

    @property
    def title(self) -> str:
        """What is drawn, in a line."""
        older = f", the youngest {MOST} drawn" if len(self.boxes) > MOST else ""
        return f"{len(self.boxes)} values, {len(self.edges)} arrows{older}"

    def rolled(self) -> "Graph":
        """The graph with each loop as one box: the longest run of operations that repeats itself, and then the next.

            >>> import tinygrad_rnn as tg
            >>> h, w = tg.ones(2), tg.ones(2, requires_grad=True)
            >>> for t in range(10):
            ...     h = tg.tanh(h * w)
            >>> [box.label for box in tg.study.graph(h).rolled().boxes]
            ['w', 'mul', 'tanh', '9 times: mul, tanh']
        """
        operands: list[list[int]] = [[] for _ in self.boxes]
        for a, b in self.edges:
            operands[b].append(a)
        found = repeats([box.operation for box in self.boxes], operands)
        if found is None or found.period * found.times < WORTH_A_BOX:
            return self
        chosen = [i for i, box in enumerate(self.boxes) if box.operation]
        inside = chosen[found.first : found.first + found.period * found.times]
        last = self.boxes[inside[-1]]
        label = f"{found.times} times: {', '.join(self.boxes[i].operation for i in inside[: found.period])}"
        loop = Box(label, "", "loop", last.shape, last.value, last.gradient)
        kept = [i for i in range(len(self.boxes)) if i not in set(inside[:-1])]
        new = {i: k for k, i in enumerate(kept)} | dict.fromkeys(inside, kept.index(inside[-1]))
        edges = list(dict.fromkeys((new[a], new[b]) for a, b in self.edges if new[a] != new[b]))
        boxes = [loop if i == inside[-1] else self.boxes[i] for i in kept]
        return Graph(boxes, edges, self.sentence, self.equations).rolled()

    def __str__(self) -> str:
        """The graph as text: each value once, below its first user."""
        above: dict[int, list[int]] = {}
        for a, b in self.edges:
            above.setdefault(b, []).append(a)
        lines: list[str] = []
        seen: set[int] = set()
        ahead = [(i, 0) for i in reversed(range(len(self.boxes))) if i not in {a for a, _ in self.edges}][::-1]
        while ahead and len(lines) < 4 * MOST:
            i, depth = ahead.pop()
            box, operands = self.boxes[i], above.get(i, [])
            told = [box.operation] if box.operation else []
            if told and not self.equations:
                told = [f"{box.operation.partition(' over')[0]}({', '.join(self.boxes[a].label for a in operands)})"]
            words = [" = ".join([box.label, *told]), *box.lines()[1:]] if i not in seen else [box.label, "(above)"]
            lines.append("    " * min(depth, 12) + "  ".join(words))
            if i not in seen:
                ahead += [(a, depth + 1) for a in reversed(operands)]
            seen.add(i)
        more = [f"... and {len(self.boxes) - len(seen)} values more"] if len(seen) < len(self.boxes) else []
        return "\n".join(lines + more)

    def __repr__(self) -> str:
        return f"Graph of {self.title}. {self.sentence}"

    def _repr_html_(self) -> str:
        picture = scrolled(self.svg(), self.title)
        return f"<figure>{picture}<figcaption>{_escaped(self.sentence)}</figcaption></figure>"

    def plot(self, ax: Any = None) -> Any:
        """The same picture by matplotlib: on the Axes `ax`, which are returned, or those of a new figure.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        place, shown, _ = self.placed()
        if ax is None:
            from matplotlib import pyplot

            width, height = min(max(place.width / 90, 4), 24), min(max(place.height / 90, 1.5), 24)
            lines = lines_of(self.sentence, width).count("\n") + 1
            figure, ax = pyplot.subplots(figsize=(width, height + 0.1 + 0.16 * lines), layout="constrained")
            write_below(figure, self.sentence)
        from matplotlib.patches import FancyBboxPatch

        for path in place.paths:
            _plotted(ax, path, AHEAD)
        for path, (x, y), text in self.going_back(place, shown):
            _plotted(ax, path, BACK)
            around = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            ax.text(x, y, text, ha="center", va="center", family="monospace", fontsize=7.5, color=BACK, bbox=around)
        for i in shown:
            (x, y), (width, height) = place.at[i], _size(self.boxes[i])
            corner, fill = (x - width / 2 + 4, y - height / 2 + 4), FILLS[self.boxes[i].kind]
            style: dict[str, Any] = {"boxstyle": "round,pad=4", "facecolor": fill, "edgecolor": "#14202b"}
            ax.add_patch(FancyBboxPatch(corner, width - 8, height - 8, **style))
            text = "\n".join(map(_short, self.boxes[i].lines())).replace("$", r"\$")
            ax.text(x, y, text, ha="center", va="center", family="monospace", fontsize=7.5)
        ax.set(xlim=(0, place.width), ylim=(place.height, 0))
        ax.set_aspect("equal")
        ax.set_axis_off()
        return ax


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
        return _of_step(_recurrent_in(y)._last_fused().stages["trace"])
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
    for start in range(0, len(places), 4096):
        for each in gc.get_referrers(*places[start : start + 4096]):
            if isinstance(each, Value) and each.node in found:
                yield each  # type: ignore[misc]


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


def _of_step(program: Any, known: dict[Any, tuple[Any, Any]] | None = None) -> Graph:
    """The step as it was traced, each box an equation of the user's names."""
    equations, known = Equations(), known or {}
    names = lambda x: equations.has_name(x) or x.row is None
    values = [x for x in made_of(program.outputs) if names(x)]
    number_of = {x: i for i, x in enumerate(values)}
    boxes, edges = [], []
    for i, x in enumerate(values):
        label, _, equation = equations.describe(x).partition(" = ")
        kind = "operation" if x.row is not None else "leaf"
        value, gradient = known.get(x, (None, ""))
        if isinstance(x.held, Tensor):
            value, gradient = x.held.data, NO_GRADIENT if x.held.requires_grad else ""
            gradient = gradient if x.held.grad is None else x.held.grad.data
        elif x.held is not None:
            value = np.asarray(x.held)
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
    return _of_step(source.step, known)


# ---- Drawn -----------------------------------------------------------------------------------------------------------


def number(x: Any) -> str:
    """An array as a few letters."""
    x = np.asarray(x)
    if x.dtype == object or not x.size:
        return str(list(x.shape))
    if x.size <= 3:
        text = ", ".join(f"{n:.4f}".rstrip("0").rstrip(".") if 1e-3 <= abs(n) < 1e5 else f"{n:.4g}" for n in x.ravel())
        return text if not x.ndim else f"[{text}]"
    return f"{list(x.shape)} {x.min():.2g} to {x.max():.2g}"


def _size(box: Box) -> tuple[float, float]:
    lines = box.lines()
    return 18 + SIGN * max(len(_short(line)) for line in lines), 10 + 15.0 * len(lines)


def _short(line: str, most: int = 44) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"


def _escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _box(box: Box, middle: tuple[float, float], marked: bool, received: bool) -> str:
    width, height = _size(box)
    x, y = middle[0] - width / 2, middle[1] - height / 2
    fill = "#1f3a52" if marked else "#ffe9dd" if received else FILLS[box.kind]
    ink = "#ffffff" if marked else "#14202b"
    round_, line = ("9", "1.6") if box.kind == "leaf" else ("2", "1")
    parts = [f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_}" fill="{fill}" '
             f'stroke="#14202b" stroke-width="{line}"/>']  # fmt: skip
    for i, text in enumerate(box.lines()):
        weight = ' font-weight="bold"' if i == 0 else ""
        told = _escaped(_short(text))
        parts.append(f'<text x="{middle[0]:.1f}" y="{y + 17 + 15 * i:.1f}" text-anchor="middle" fill="{ink}"{weight}>'
                     f"{told}</text>")  # fmt: skip
    return "".join(parts)


def _plotted(ax: Any, path: list[tuple[float, float]], colour: str) -> None:
    """The same curve by matplotlib, and its head."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points, codes = [path[0]], [Path.MOVETO]
    for (a, b), (c, d) in itertools.pairwise(path):
        middle = (a + c) / 2
        points += [(middle, b), (middle, d), (c, d)]
        codes += [Path.CURVE4] * 3
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(path=Path(points, codes), color=colour, lw=0.9, **style))


def _arrow(path: list[tuple[float, float]], colour: str, width: float) -> str:
    """A curve through the points, and its head."""
    (x, _), (u, v) = path[-2:]
    text = f"M{path[0][0]:.1f},{path[0][1]:.1f}"
    for (a, b), (c, d) in itertools.pairwise(path):
        middle = (a + c) / 2
        text += f" C{middle:.1f},{b:.1f} {middle:.1f},{d:.1f} {c:.1f},{d:.1f}"
    side = 6 if u > x else -6
    head = f"{u:.1f},{v:.1f} {u - side:.1f},{v - 3:.1f} {u - side:.1f},{v + 3:.1f}"
    return (f'<path d="{text}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
            f'<polygon points="{head}" fill="{colour}"/>')  # fmt: skip
