"""The backward pass in frames: which node acts, by which rule, and what each of its parents receives.

    >>> import tinygrad_rnn as tg
    >>> a, b = tg.tensor(2.0, requires_grad=True), tg.tensor(-3.0, requires_grad=True)
    >>> L = a * b + a
    >>> print(tg.study.replay(L))
    1. L = add(mul, a): dL = 1
        dmul += dL: mul receives 1
        da += dL: a receives 1
    2. mul = mul(a, b): dmul = 1
        da += dmul * b: a receives -3, which makes -2
        db += dmul * a: b receives 2
    3. b: db = 2, which is complete: it is b.grad
    4. a: da = -2, which is complete: it is a.grad
"""

import heapq
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd.primitive import Adjoint
from ..autograd.tape import Node, Place, set_mode, unbroadcast
from ..autograd.tensor import Tensor
from .boxes import Graph, escaped, number
from .graph import Tape, is_recurrence, names_in_frames, operation_name
from .result import scrolled

MOST, MOST_TEXT = 60, 600_000  # frames that are shown in a notebook, and characters of the pictures of them


class Received(NamedTuple):
    """What one parent gets.

    Attributes:
        parent: its number among the boxes.
        rule: by which rule of the table of operations.
        told: the same with the names of the graph.
        gradient: what it gets now.
        total: what it has then.
    """

    parent: int
    rule: str
    told: str
    gradient: Any
    total: Any


class Frame:
    """One node acts.

    Attributes:
        box: its number among the boxes of the graph.
        gradient: what has reached it, which is complete.
        received: what its parents get.
    """

    def __init__(self, replay: "Replay", number: int, box: int, gradient: Any, received: list[Received]) -> None:
        self._replay, self._number = replay, number
        self.box, self.gradient, self.received = box, gradient, received

    @property
    def graph(self) -> Graph:
        """The graph, with what every value has received so far."""
        return self._replay.graph_after(self._number)

    def __str__(self) -> str:
        tape = self._replay.tape
        labels, operation = tape.labels, operation_name(tape.places[self.box])
        label, operands = labels[self.box], [labels[each.parent] for each in self.received]
        title = f"{label} = {operation}({', '.join(operands)})" if operation not in ("", label) else label
        if operation == label and not is_recurrence(tape.places[self.box]):
            title = f"{label} = {operation}({', '.join(operands)})"
        lines = [f"{title}: {_d(label)} = {_number(self.gradient)}"]
        if not operation:
            lines[0] += f", which is complete: it is {label}.grad"
        for parent, _, told, gradient, total in self.received:
            makes = "" if total is gradient else f", which makes {_number(total)}"
            lines.append(f"    {told}: {labels[parent]} receives {_number(gradient)}{makes}")
        return "\n".join(lines)

    def svg(self) -> str:
        """The graph, with the node that acts and the arrows on which gradients go."""
        return self.graph.svg(self.box, {each.parent: _number(each.gradient) for each in self.received})

    def _repr_html_(self) -> str:
        return f"<figure>{self.picture()}<figcaption><pre>{escaped(str(self))}</pre></figcaption></figure>"

    def picture(self) -> str:
        """`svg()` inside a page."""
        return scrolled(self.svg(), str(self).partition("\n")[0])


class Replay:
    """What `replay` returns: frames, from the result to the oldest leaf; as many as the graph has boxes.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> len(tg.study.replay(x * x + x).frames)
        3

    Attributes:
        frames: see `Frame`.
        values: for each frame the gradient that was complete.
        sentence: how to read it.
    """

    sentence = (
        "The backward pass, node by node: the dark one has its whole gradient and hands a part of it on to each of its "
        "parents, by the rule below; what a parent receives is added to what it had."
    )

    def __init__(self, tape: Tape, root: Any, dy: np.ndarray) -> None:
        self.tape, self._start = tape, (tape.number[root], dy)
        acts = _acts(tape, root, dy)
        self.frames = [Frame(self, number, *act) for number, act in enumerate(acts)]
        self.values = [frame.gradient for frame in self.frames]

    def graph_after(self, number: int) -> Graph:
        """The graph once the frames up to this one have been."""
        totals = dict([self._start])
        for frame in self.frames[: number + 1]:
            totals.update((each.parent, each.total) for each in frame.received)
        places = self.tape.places
        return self.tape.graph({places[i]: total for i, total in totals.items() if isinstance(total, np.ndarray)})

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> Frame:
        return self.frames[i]

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def __str__(self) -> str:
        return "\n".join(f"{i}. {frame}" for i, frame in enumerate(self.frames, 1))

    def __repr__(self) -> str:
        return f"Replay of {len(self)} frames. {self.sentence}"

    @property
    def graph(self) -> Graph:
        """The last frame's graph: every gradient is complete."""
        return self.frames[-1].graph

    @property
    def whole(self) -> Graph:
        """All frames in one picture: beside each arrow another goes back, with what the parent received."""
        known, found = {frame.box: frame.received for frame in self.frames}, self.graph
        sent = [_number(each.gradient) for box in range(len(found.boxes)) for each in known[box]]
        return Graph(found.boxes, found.edges, sent=sent)

    def plot(self, ax: Any = None, frame: int = -1) -> Any:
        """The graph of one frame by matplotlib, see `Graph.plot`."""
        return self.frames[frame].graph.plot(ax)

    def _repr_html_(self) -> str:
        """Frames to be folded out, the first one open; with pictures as far as there is room: see `Frame.svg`."""
        parts, room = [f"<figure><figcaption>{escaped(self.sentence)}</figcaption>"], MOST_TEXT
        for i, frame in enumerate(self.frames[:MOST], 1):
            title, *rest = str(frame).split("\n")
            rules = f"<pre>{escaped(chr(10).join(rest))}</pre>" if rest else ""
            start = "<details open>" if i == 1 else "<details>"
            picture = frame.picture() if len(self) <= MOST and room > 0 else ""
            room -= len(picture)
            parts.append(f"{start}<summary><code>{i}. {escaped(title)}</code></summary>{rules}{picture}</details>")
        if len(self) > MOST:
            parts.append(f"<p>... and {len(self) - MOST} frames more</p>")
        return "".join([*parts, "</figure>"])


def replay(y: Tensor, gradient: Any = None, *, names: dict[str, Any] | None = None) -> Replay:
    """Run a backward pass of its own, that changes no `grad` and runs no hooks, and keep a frame for each node.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> frames = tg.study.replay((x * x).sum())
        >>> len(frames), frames[1].received[0].rule
        (3, 'da = dy * b')
        >>> frames.graph.gradients["x"]
        array([2., 4.], dtype=float32)

    Args:
        y: a tensor of any shape.
        gradient: of y, of its shape; 1 for a tensor of one element.
        names: see `graph`.

    Raises:
        ValueError: nothing is recorded behind y, or `gradient` is missing or has another shape.
        RuntimeError: a backward pass has been there, and released what it needs.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"replay: expected a tensor, got {type(y).__name__}")
    if y.node is None:
        raise ValueError("replay: nothing is recorded behind this tensor: it needs an input with requires_grad=True")
    if gradient is None and y.numel() != 1:
        raise ValueError(f"replay: y has shape {list(y.shape)}, give a gradient of that shape: replay(y, tg.ones(...))")
    array = np.ones(y.shape, y.dtype) if gradient is None else np.asarray(getattr(gradient, "data", gradient), y.dtype)
    if array.shape != y.shape:
        raise ValueError(f"replay: y has shape {list(y.shape)}, its gradient {list(array.shape)}")
    tape = Tape(y, names or names_in_frames())
    with set_mode("grad", False), set_mode("retain", True), np.errstate(all="ignore"):
        return Replay(tape, y.node, array)


def _acts(tape: Tape, root: Any, dy: np.ndarray) -> Iterator[tuple[int, Any, list[Received]]]:
    """For each node, youngest first: its number, its gradient, and what its parents receive."""
    totals: dict[Place, Any] = {root: dy}
    waiting = [(-root.number, tape.number[root], root)]
    while waiting:
        place = heapq.heappop(waiting)[-1]
        received = []
        for parent, rule, told, gradient in _handed_on(tape, place, totals[place]):
            known = parent in totals
            total = _array(totals[parent] + gradient) if known else gradient
            totals[parent] = total
            if not known:
                heapq.heappush(waiting, (-parent.number, tape.number[parent], parent))
            received.append(Received(tape.number[parent], rule, told, gradient, total))
        yield tape.number[place], totals[place], received


def _handed_on(tape: Tape, place: Place, dy: Any) -> Iterator[tuple[Place, str, str, Any]]:
    """Parent, rule, the rule with names, and gradient: for each of the parents of a node."""
    if not isinstance(place, Node):
        return
    operation: Any = place.operation
    if place.saved is None:
        raise RuntimeError(
            f"replay: what {operation.name} had saved was released by a backward pass: replay before backward(), or "
            "call backward(retain_graph=True)"
        )
    found = zip(place.parents, place.shapes, rules_of(place, tape), operation.gradients(dy, place.saved))
    for parent, shape, (rule, told), gradient in found:
        gradient = unbroadcast(gradient, shape) if gradient.shape != shape else gradient
        yield parent, rule, told, _array(gradient)


def rules_of(place: Node, tape: Tape) -> list[tuple[str, str]]:
    """For each parent the rule of its gradient, as the table of operations has it, and with the names of the graph."""
    operation: Any = place.operation
    if not isinstance(operation, Adjoint):
        return [("the backward kernel, from the last step to the first",) * 2] * len(place.parents)
    row, label = operation.primitive, lambda each: tape.labels[tape.number[each]]
    names = {"dy": _d(label(place)), "y": label(place)}
    if row.variadic:
        ((name, rule),) = row.rules.items()
        rules = [f"{name}[{i}] = ({rule})[{i}]" for i in operation.wanted]
    else:
        names |= {row.inputs[i]: label(parent) for i, parent in zip(operation.wanted, place.parents)}
        rules = [f"d{row.inputs[i]} = {row.rules['d' + row.inputs[i]]}" for i in operation.wanted]
    for name, value in zip(operation.saves, place.saved or ()):
        if isinstance(value, (float, int, np.generic)) or (isinstance(value, np.ndarray) and not value.ndim):
            names.setdefault(name, number(value))
    words = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, names))})(?!\w)")
    in_names = lambda rule: words.sub(lambda found: names[found[1]], rule.partition(" = ")[2])
    told = [f"{_d(label(each))} += {in_names(rule)}" for each, rule in zip(place.parents, rules)]
    return list(zip(rules, told))


def _array(gradient: Any) -> Any:
    """Not one of NumPy's scalars; what comes to a recurrence is no array."""
    return gradient if hasattr(gradient, "parts") else np.asarray(gradient)


def _d(label: str) -> str:
    """What a gradient is called."""
    return f"d{label}" if re.fullmatch(r"[\w.]+", label) else f"d({label})"


def _number(gradient: Any) -> str:
    """A gradient as text; what comes to a recurrence is in several parts."""
    parts = getattr(gradient, "parts", None)
    return number(gradient) if parts is None else " and ".join(number(part) for part in parts.values())
