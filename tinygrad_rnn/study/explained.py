"""A step, its adjoint and its kernels side by side; what came of which line is marked.

    >>> import tinygrad_rnn as tg
    >>> page = tg.study.explain(tg.nn.Recurrent(tg.nn.RNNCell(3, 4)), html=True)
    >>> page.steps
    ['a = x @ weight_ih_T + bias_ih + (h @ weight_hh_T + bias_hh)', 'h_new = tanh(a)']
    >>> [line.text for line in page.adjoint if line.steps == {1}]
    ['dh comes from the next step, dy from outside', 'dh_new = dy + dh']

Each line of the step has a number and a colour, which stand before all lines that came from it; in a browser (and
notebooks, where they let styles through) they light up with the line under the pointer. There is no script.
"""

import html
import itertools
import linecache
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..fusion.equations import Equations
from ..fusion.explain import epilogue
from ..fusion.fused import PACKAGE, FusedCell
from ..fusion.program import Value, is_slice, made_of
from ..nn.module import Module
from ..nn.recording import recurrent_layers
from ..nn.recurrent import Recurrent
from ..nn.stacked import Stack
from .result import safe, write_below

MOST_LINES, MOST_LAYERS = 600, 4  # of a column, and of a page
LONGEST, SIGN = 64, 0.62  # letters of a line in a picture, and the width of one by its height
SUFFIX = re.compile(r"(_buffer|_out|_saved|_all|_sum|_weights(_T)?|_packed|_in|_last|_first|_copy)$")
COLOURS = ("#2f5d8a", "#b3560a", "#3f7d58", "#8a2f5d", "#6b6b2a", "#5a4a9c", "#a03a3a", "#2a7a82")

_count = itertools.count()


class Line(NamedTuple):
    """A line of a column.

    Attributes:
        text: as it stands there.
        steps: the numbers of the step's lines that it came from.
    """

    text: str
    steps: frozenset[int]


class Explained(str):
    """A page of HTML, which a notebook shows.

        >>> import tinygrad_rnn as tg
        >>> page = tg.nn.Recurrent(tg.nn.RNNCell(3, 4)).explain(html=True)
        >>> isinstance(page, tg.study.Explained), len(page.steps)
        (True, 2)

    Attributes:
        steps: the lines of the step (of the first layer, if there are several).
        step, adjoint, forward, backward: the columns.
        sentence: how to read it.
    """

    sentence = "Each line of the step has a number and a colour, which stand before every line that came from it."
    steps: list[str]
    step: list[Line]
    adjoint: list[Line]
    forward: list[Line]
    backward: list[Line]

    def __repr__(self) -> str:
        """Not the page itself, which is long; `print` shows it."""
        counts = (self.step, "step"), (self.adjoint, "adjoint"), (self.forward + self.backward, "kernels")
        return f"Explained: {', '.join(f'{len(lines)} lines of the {name}' for lines, name in counts)}"

    def _repr_html_(self) -> str:
        return str(self)

    @property
    def values(self) -> np.ndarray:
        """[lines of the step, lines of the adjoint and of both kernels]: whether the one came from the other."""
        lines = [*self.adjoint, *self.forward, *self.backward]
        found = [i in line.steps for i in range(len(self.steps)) for line in lines]
        return np.array(found, bool).reshape(len(self.steps), len(lines))

    def plot(self, ax: Any = None) -> Any:
        """The step, its adjoint and what the backward kernel makes of it, on the Axes `ax`, which are returned.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        kernel = [line for line in self.backward if line.steps]
        columns = {"The step": self.step, "Its adjoint": self.adjoint, "Lines of the backward kernel": kernel}
        texts = {head: [_cut(line.text) for line in lines] for head, lines in columns.items()}
        widths = [8 + max(map(len, [head, *shown])) for head, shown in texts.items()]
        across, rows = sum(widths), 1.5 + max(map(len, columns.values()))
        if ax is None:
            from matplotlib import pyplot

            figure, ax = pyplot.subplots(figsize=(0.066 * across, 0.17 * rows + 0.5))
            figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.4 / figure.get_figheight())
            write_below(figure, self.sentence)
        room = ax.get_position().width * ax.figure.get_figwidth() * 72 / across  # points of a letter
        style: dict[str, Any] = {"family": "monospace", "fontsize": min(room / SIGN, 9.0), "va": "center"}
        for (head, lines), left in zip(columns.items(), itertools.accumulate(widths, initial=0)):
            ax.text(left + 5, 0, head, weight="bold", **style)
            for row, (line, text) in enumerate(zip(lines, texts[head]), 1):
                steps = sorted(line.steps)
                colour = COLOURS[steps[0] % len(COLOURS)] if steps else "0.3"
                ax.text(left + 4, row + 0.5, ",".join(str(i + 1) for i in steps), color=colour, ha="right", **style)
                ax.plot([left + 4.5] * 2, [row, row + 1], color=colour if steps else "none", lw=2.5)
                ax.text(left + 5, row + 0.5, safe(text), **style)
        ax.set(xlim=(0, across), ylim=(rows + 0.5, -0.7))
        ax.set_axis_off()
        return ax


def _cut(text: str) -> str:
    """As much of a line as a picture has room for."""
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def explain(layer: Module, html: bool = False, stage: str | None = None) -> Any:
    """What the compiler made of a cell: `layer.explain()` as text; or step, adjoint and kernels side by side, as HTML.

        >>> import tinygrad_rnn as tg
        >>> page = tg.study.explain(tg.nn.GRU(3, 4), html=True)
        >>> page[:4], "<script" in page
        ('<div', False)

    Args:
        layer: a `Recurrent`, an RNN, LSTM, GRU or Stack, or a module that has some of them: the forward directions of
            all layers.
        html: whether to return HTML: a string that a notebook shows.
        stage: of the text, see `Recurrent.explain`.

    Raises:
        TypeError: there is no recurrent layer.
        ValueError: the width of the inputs is not known yet.
        NotImplementedError: HTML is asked for, and the cell cannot be compiled; the message says why.
    """
    found = list(recurrent_layers(layer)) if isinstance(layer, Module) else []
    if not found:
        raise TypeError(f"explain: expected a recurrent layer, got {type(layer).__name__}, which has none")
    every = [one for one in found if not one.reverse] or found
    if not html:
        if isinstance(layer, (Recurrent, Stack)):
            return layer.explain(stage)
        return "\n\n".join(f"Layer {number}, {one.explain(stage)}" for number, one in enumerate(every))
    for one in every[:MOST_LAYERS]:
        one.source("backward")  # which says why where there is none
    pages = [_page(one, one._last_fused()) for one in every[:MOST_LAYERS]]
    more = f"<p>... and {len(every) - MOST_LAYERS} layers more</p>" * (len(every) > MOST_LAYERS)
    whole = Explained("".join([*pages, more]))
    vars(whole).update(vars(pages[0]))
    return whole


def _page(layer: Recurrent, fused: FusedCell) -> Explained:
    steps, came_from = _lines_of_step(layer.cell, fused)
    of = _Origins(came_from, fused)
    columns = {
        "step": [Line(text, frozenset({i})) for i, text in enumerate(steps)],
        "adjoint": _adjoint(fused, of),
        "forward": _kernel(fused.source("forward"), of),
        "backward": _kernel(fused.source("backward"), of),
    }
    page = Explained(_html(f"{type(layer.cell).__name__}", columns, len(steps)))
    page.steps = steps
    page.step, page.adjoint = columns["step"], columns["adjoint"]
    page.forward, page.backward = columns["forward"], columns["backward"]
    return page


# ---- What came from which line ---------------------------------------------------------------------------------------


def _lines_of_step(cell: Any, fused: FusedCell) -> tuple[list[str], dict[str, set[int]]]:
    """The lines of a step, as they stand in the user's file, or equations where it is this package's; and of which of
    them each named value is."""
    traced = fused.stages["trace"]
    values = [value for value in made_of(traced.outputs) if value.row is not None]
    values.sort(key={value: i for i, value in enumerate(traced.values)}.__getitem__)
    steps: list[str] = []
    came_from: dict[str, set[int]] = {}
    if not type(cell).__module__.startswith(PACKAGE):
        number: dict[str, int] = {}
        for value in values:
            if value.where not in number:
                number[value.where] = len(steps)
                steps.append(_text_of(value.where))
            for each in (value, *(x for x in value.operands if x.row is None and x.kind == "parameter")):
                came_from.setdefault(each.name, set()).add(number[value.where])
        return steps, came_from
    equations = Equations()
    for value in values:
        if equations.has_name(value) and _is_told(value):
            inside = list(_written_out(value, equations))
            for name in (each.name for each in (value, *inside) if each.row is not None or each.kind == "parameter"):
                came_from.setdefault(name, set()).add(len(steps))
            steps.append(_told(value))
    return steps, came_from


def _is_told(value: Value) -> bool:
    """Whether a value has a line of its own among the equations of a step: those that the cell's author named."""
    return value.named and value.per_row


def _told(value: Value) -> str:
    """An equation in which all that the author did not name is written out, unless that is long."""
    equations = Equations()
    setattr(equations, "has_name", lambda x: x.row is None or _is_told(x) or not x.per_row)  # noqa: B010
    text = equations.describe(value)
    return text if len(text) < 200 else Equations().describe(value)


def _written_out(value: Value, equations: Equations) -> Iterator[Value]:
    """What stands in the equation of a value and has no line of its own; and what it is a slice of.

    The gradient of a slice has no line of its own, it is a part of the other's.
    """
    ahead, seen, whole = value.operands, {value}, value.inputs[0] if is_slice(value) else None
    while ahead:
        x = ahead.pop()
        if x in seen or (x.row is not None and _is_told(x) and x is not whole):
            continue
        seen.add(x)
        yield x
        ahead += x.operands


def _text_of(where: str) -> str:
    """A line of a file, from `file:line, in function`."""
    found = re.match(r"(.*):(\d+), in ", where)
    text = linecache.getline(found[1], int(found[2])).strip() if found else ""
    return text or where


class _Origins:
    """Which lines of the step a line of code came from, by the names in it."""

    def __init__(self, came_from: dict[str, set[int]], fused: FusedCell) -> None:
        self.came_from = came_from
        self.parameters = {x.name for x in fused.stages["trace"].held}
        gradient = fused.stages["transpose"].gradient
        self.gradients: dict[str, set[int]] = {}
        outputs = fused.stages["trace"].outputs
        for arriving in (gradient.carries, gradient.dys):
            self.gradients |= {d.name: came_from.get(new.name, set()) for d, new in zip(arriving, outputs)}
        for value, forward in (*gradient.towards.items(), *gradient.origin.items()):
            if forward.name in came_from:
                self.gradients[value.name] = came_from[forward.name]

    def name(self, name: str) -> set[int]:
        """Those of a name as kernels have it: d in front, what it is for behind, two joined by "and"."""
        for known, each in ((self.gradients, name), (self.came_from, name), (self.came_from, name.removeprefix("d"))):
            while each not in known and (shorter := SUFFIX.sub("", each)) != each:
                each = shorter
            if each in known:
                return known[each]
        if "_and_" in name:
            return set().union(*map(self.name, name.split("_and_")))
        return set()

    def line(self, text: str) -> frozenset[int]:
        """Those of a statement: by what it assigns to, else by all that it names, if that is not too much."""
        note = re.search(r"# gradient of: (\w+) =", text)
        text = text if text.startswith("# ") else text.partition("# ")[0]
        learned = [name for name in re.findall(r"\bd(\w+)", text) if name in self.parameters]
        if learned:  # the gradient of a parameter, or of several
            return frozenset().union(*(self.came_from[name] for name in learned))
        target = re.match(r"\s*#?\s*(\w+)(\[.*?\])? [-+*/]?= ", text)
        if note and self.name(note[1]):
            return frozenset(self.name(note[1]))
        if target and (found := self.name(target[1])):
            return frozenset(found)
        if target and "(" not in text:
            names = re.findall(r"[A-Za-z_]\w*", text.partition("=")[2])
        else:
            names = re.findall(r"[A-Za-z_]\w*", text)
        for chosen in ([name for name in names if name.startswith("d")], names):  # rather of gradients
            found = set[int]().union(*map(self.name, chosen))
            if found:
                return frozenset(found) if len(found) <= 4 else frozenset()
        return frozenset()


def _adjoint(fused: FusedCell, of: _Origins) -> list[Line]:
    """The backward step, last line first, and what follows it once for all steps."""
    gradient, equations, lines = fused.stages["transpose"].gradient, Equations(), list[Line]()
    for k, (carry, new) in enumerate(zip(gradient.carries, fused.stages["trace"].outputs)):
        outside = f", {gradient.dys[k].name} from outside" if k < len(gradient.dys) else ""
        lines.append(Line(f"{carry.name} comes from the next step{outside}", frozenset(of.name(new.name))))
    for value in gradient.values:
        forward = gradient.origin.get(value) or gradient.towards.get(value)
        if equations.has_name(value) and (forward is not None or value.row is not None):
            text = equations.describe(value)
            found = frozenset(of.name(forward.name)) if forward is not None else frozenset[int]()
            lines.append(Line(text, found or of.line(text)))
    for text in epilogue(fused.scan):
        head = text.partition(":")[0]
        names = re.findall(r"\bd\w+", head.partition(" = ")[0])
        lines.append(Line(text, frozenset().union(*(of.name(name) for name in names))))
    return lines


def _kernel(source: str, of: _Origins) -> list[Line]:
    """The lines of generated code; a statement over several lines is one."""
    lines: list[Line] = []
    rows: dict[str, frozenset[int]] = {}
    header: frozenset[int] = frozenset()
    for statement in _statements(source):
        text = " ".join(line.strip() for line in statement)
        called, defined = re.match(r"(\w+)\(", text), re.match(r"def (\w+)\(", text)
        if text.startswith("# One row: "):
            header = of.line(text.removeprefix("# One row: "))
            found = header
        elif defined:
            rows[defined[1]], header = header, frozenset()
            found = rows[defined[1]]
        elif called and called[1] in rows:
            found = rows[called[1]]
        elif re.match(r"(from|import|PANEL|@|for|if|while|else|return|\)|\()", text) or text.startswith('"""'):
            found = frozenset()
        else:
            found = of.line(text)
        lines += [Line(line, found) for line in statement]
    return lines


def _statements(source: str) -> Iterator[list[str]]:
    """The lines of code, those of one statement together; and with a comment on it, if it has a line of its own."""
    depth, group = 0, list[str]()
    for line in source.splitlines():
        group.append(line)
        code = line.partition("#")[0]
        depth += sum(code.count(sign) for sign in "([{") - sum(code.count(sign) for sign in ")]}")
        is_note = line.strip().startswith("# ") and "[row]" in line  # of the product in the next lines
        if depth <= 0 and not is_note:
            yield group
            depth, group = 0, []
    if group:
        yield group


# ---- As HTML ---------------------------------------------------------------------------------------------------------


def _html(title: str, columns: dict[str, list[Line]], steps: int) -> str:
    mark = f"tg-explained-{next(_count)}"
    style = (
        f".{mark} pre{{margin:0;padding:0 4px;background:none;font-size:11px;line-height:1.35;white-space:pre-wrap}}"
        + "".join(f".{mark}:has(.s{i}:hover) .s{i}{{background:#ffe9a8}}" for i in range(steps))
    )
    heads = {
        "step": "The step", "adjoint": "Its adjoint: the last line first",
        "forward": "Forward kernel", "backward": "Backward kernel",
    }  # fmt: skip
    cell = 'style="vertical-align:top;text-align:left;width:{}%"'
    left = _column(heads["step"], columns["step"])
    middle = _column(heads["adjoint"], columns["adjoint"])
    right = "".join(
        f"<details{' open' if name == 'backward' else ''}><summary>{heads[name]}</summary>"
        f"{_column('', columns[name])}</details>" for name in ("forward", "backward")
    )  # fmt: skip
    return (
        f'<div class="{mark}"><style>{style}</style><table style="width:100%;table-layout:fixed"><caption>'
        f"{html.escape(title)}: {Explained.sentence}</caption><tr><td {cell.format(27)}>{left}</td>"
        f"<td {cell.format(30)}>{middle}</td><td {cell.format(43)}>{right}</td></tr></table></div>"
    )


def _column(title: str, lines: list[Line]) -> str:
    more = f"<pre>... and {len(lines) - MOST_LINES} lines more</pre>" if len(lines) > MOST_LINES else ""
    head = f"<b>{html.escape(title)}</b>" if title else ""
    return head + "".join(map(_line, lines[:MOST_LINES])) + more


def _line(line: Line) -> str:
    steps = sorted(line.steps)
    colour = COLOURS[steps[0] % len(COLOURS)] if steps else "transparent"
    numbers = ",".join(str(i + 1) for i in steps)
    names = " ".join(f"s{i}" for i in steps)
    tag = f'<span style="color:{colour};font-weight:bold">{numbers:>3} </span>'
    return f'<pre class="{names}" style="border-left:4px solid {colour}">{tag}{html.escape(line.text)}</pre>'


def unanswered(page: Explained, steps: Iterable[int]) -> list[str]:
    """Those of these lines of the step of which neither the adjoint or the backward kernel has anything.

    >>> import tinygrad_rnn as tg
    >>> unanswered(explain(tg.nn.RNN(3, 4), html=True), [0, 1])
    []
    """
    there = [set().union(*(line.steps for line in column)) for column in (page.adjoint, page.backward)]
    return [page.steps[i] for i in steps if not all(i in found for found in there)]
