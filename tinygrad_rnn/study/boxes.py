"""Boxes and arrows: a graph as SVG with no program beside and no script, by matplotlib, and as text.

    >>> boxes = [Box("a", "", "leaf", (), 2.0, ""), Box("y", "exp", "operation", (), 7.389, "")]
    >>> print(Graph(boxes, [(0, 1)]))
    y = exp(a)  value 7.389
        a  value 2
    >>> Graph(boxes, [(0, 1)]).svg()[:4]
    '<svg'
"""

import html
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .layout import BETWEEN, Layout, layout
from .repeats import repeats
from .result import lines_of, scrolled, write_below

MOST = 150  # boxes in a picture
WORTH_A_BOX = 8  # so many operations that repeat themselves
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
        return layout({i: size_of(self.boxes[i]) for i in shown}, edges, room), shown, edges

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
                 f'background:#ffffff"><title>{escaped(self.title)}</title>']  # fmt: skip
        for (a, b), path in zip(edges, place.paths):
            back = b == marked and a in received
            parts.append(_arrow(path[::-1] if back else path, BACK if back else AHEAD, 2.2 if back else 1.1))
        told = []
        for path, (x, y), text in self.going_back(place, shown):
            parts.append(_arrow(path, BACK, 1.4))
            told.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="{BACK}" stroke="#ffffff" '
                        f'stroke-width="3" paint-order="stroke">{escaped(text)}</text>')  # fmt: skip
        parts += told
        for i in shown:
            parts.append(_box(self.boxes[i], place.at[i], i == marked, i in received))
        for i, text in received.items():  # in the corner of the box, as it is added there
            if i in shown:
                (x, y), (width, height) = place.at[i], size_of(self.boxes[i])
                parts.append(f'<text x="{x + width / 2:.1f}" y="{y - height / 2 - 4:.1f}" text-anchor="end" '
                             f'fill="{BACK}" font-weight="bold">+= {escaped(_short(text, 26))}</text>')  # fmt: skip
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
        gone = set(inside[:-1])
        kept = [i for i in range(len(self.boxes)) if i not in gone]
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
        used = {a for a, _ in self.edges}
        ahead = [(i, 0) for i in range(len(self.boxes)) if i not in used]
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
        return f"<figure>{picture}<figcaption>{escaped(self.sentence)}</figcaption></figure>"

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
            inches = width, height
        else:
            inches = ax.get_window_extent().size / ax.figure.dpi
        from matplotlib.patches import FancyBboxPatch

        scale = min(1.0, 90 * inches[0] / max(place.width, 1), 90 * inches[1] / max(place.height, 1))
        letters = 7.5 * scale  # smaller in axes with less room than the picture wants: they stay in their boxes
        for path in place.paths:
            _plotted(ax, path, AHEAD, scale)
        for path, (x, y), text in self.going_back(place, shown):
            _plotted(ax, path, BACK, scale)
            around = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            ax.text(x, y, text, ha="center", va="center", family="monospace", fontsize=letters, color=BACK, bbox=around)
        for i in shown:
            (x, y), (width, height) = place.at[i], size_of(self.boxes[i])
            corner, fill = (x - width / 2 + 4, y - height / 2 + 4), FILLS[self.boxes[i].kind]
            style: dict[str, Any] = {"boxstyle": "round,pad=4", "facecolor": fill, "edgecolor": "#14202b"}
            ax.add_patch(FancyBboxPatch(corner, width - 8, height - 8, **style))
            text = "\n".join(map(_short, self.boxes[i].lines())).replace("$", r"\$")
            ax.text(x, y, text, ha="center", va="center", family="monospace", fontsize=letters)
        ax.set(xlim=(0, place.width), ylim=(place.height, 0))
        ax.set_aspect("equal")
        ax.set_axis_off()
        return ax


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


def size_of(box: Box) -> tuple[float, float]:
    lines = box.lines()
    return 18 + SIGN * max(len(_short(line)) for line in lines), 10 + 15.0 * len(lines)


def _short(line: str, most: int = 44) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def _box(box: Box, middle: tuple[float, float], marked: bool, received: bool) -> str:
    width, height = size_of(box)
    x, y = middle[0] - width / 2, middle[1] - height / 2
    fill = "#1f3a52" if marked else "#ffe9dd" if received else FILLS[box.kind]
    ink = "#ffffff" if marked else "#14202b"
    round_, line = ("9", "1.6") if box.kind == "leaf" else ("2", "1")
    parts = [f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_}" fill="{fill}" '
             f'stroke="#14202b" stroke-width="{line}"/>']  # fmt: skip
    for i, text in enumerate(box.lines()):
        weight = ' font-weight="bold"' if i == 0 else ""
        told = escaped(_short(text))
        parts.append(f'<text x="{middle[0]:.1f}" y="{y + 17 + 15 * i:.1f}" text-anchor="middle" fill="{ink}"{weight}>'
                     f"{told}</text>")  # fmt: skip
    return "".join(parts)


def _plotted(ax: Any, path: list[tuple[float, float]], colour: str, scale: float) -> None:
    """The same curve by matplotlib, and its head."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    points, codes = [path[0]], [Path.MOVETO]
    for (a, b), (c, d) in itertools.pairwise(path):
        middle = (a + c) / 2
        points += [(middle, b), (middle, d), (c, d)]
        codes += [Path.CURVE4] * 3
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8 * scale, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(path=Path(points, codes), color=colour, lw=0.9 * scale, **style))


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
