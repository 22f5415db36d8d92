"""The text of the pages that `cells.py` writes: what is known of a cell, from its class and its compiled step.

Nothing in it depends on a processor, on random numbers or on what was trained, so that a test can write it anew and
compare.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import table
from tinygrad_rnn.fusion.explain import explain
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.fusion.program import Value
from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.fusion.stages import at_stage
from tinygrad_rnn.nn.cells.catalogue import Entry, compiled_alone, drawn_apart

I, H = 28, 64  # for which sizes are told, and the step is compiled
MOST_PANELS, MOST_STATES, MOST_UNITS = 7, 3, 48  # of a picture
MOST_LINES = 150  # of a program

SHOWN = (  # how `cells.py` comes by its pictures
    "The cell, with 16 units, has been trained to hold a number: at each step it is shown one, and at a mark, ▼, it is "
    "to take that and answer with it until the next mark."
)


# ---- What is recorded ------------------------------------------------------------------------------------------------


class Panel(NamedTuple):
    """A value of a step that the picture shows.

    Attributes:
        name: of what is recorded.
        kind: "gate" between 0 and 1, "sign" between -1 and 1, "positive", "any" number.
        state: whether it is a state, after the step.
        inner: its shape besides the batch's.
        after: a function that is taken of it first, where the step gives its result no name: "sigmoid" or "tanh".
    """

    name: str
    kind: str
    state: bool
    inner: tuple[int, ...]
    after: str = ""

    @property
    def label(self) -> str:
        """What it is called in the picture."""
        return f"{self.after}({self.name})" if self.after else self.name


def panels(entry: Entry, input_size: int, hidden_size: int) -> list[Panel]:
    """What is drawn of a cell of these sizes, in the order in which it is computed: states last.

    Raises:
        Unfusable: there is no program that would tell.
    """
    step, kinds = fused(entry, input_size, hidden_size).stages["trace"], {}
    for value in step.values:
        kinds[value] = _kind(value, kinds)
    states = [Panel(s.name, kinds[new], True, s.inner) for s, new in zip(step.states, step.outputs)][:MOST_STATES]
    named = [v for v in step.values if v.row is not None and v.named and v.timed and v not in step.outputs]
    found = [panel for v in named if (panel := _panel(v, step.values, kinds)) is not None]
    chosen = [panel for panel in found if panel.kind != "any"]
    chosen = sorted(chosen, key=lambda panel: KINDS.index(panel.kind))[: MOST_PANELS - len(states)]
    others = [panel for panel in found if panel.kind == "any"]
    chosen += others[: max(0, 3 - len(chosen) - len(states))]
    return [panel for panel in found if panel in chosen] + states


KINDS = ("gate", "sign", "positive", "any")


def _panel(value: Value, values: tuple[Value, ...], kinds: dict[Value, str]) -> Panel | None:
    """The panel of a value; none of what is only cut in pieces, or what a named gate is made of: those tell more."""
    readers = [x for x in values if value in x.operands]
    if readers and all(x.row in (table.sigmoid, table.tanh, table.slice) for x in readers):
        (first, *more) = readers
        if more or first.named or first.row is table.slice:
            return None
        return Panel(value.name, kinds[first], False, value.inner, first.row.name)
    return Panel(value.name, kinds[value], False, value.inner)


def _kind(value: Value, kinds: dict[Value, str]) -> str:
    """Between which numbers a value is, as far as what made it tells."""
    row, of = value.row, [kinds[x] if isinstance(x, Value) else _kind_of_number(x) for x in value.inputs]
    if row in (table.sigmoid, table.softmax, table.phi):
        return "gate"
    if row in (table.tanh, table.sin, table.cos, table.sign, table.erf):
        return "sign"
    if row in (table.eq, table.ne, table.lt, table.le, table.gt, table.ge, table.logical_and, table.logical_or):
        return "gate"
    if row is table.sub and value.inputs[0] == 1 and of[1] == "gate":
        return "gate"
    if row is table.mul and set(of) <= {"gate", "sign"}:
        return "gate" if set(of) == {"gate"} else "sign"
    if row in (table.exp, table.softplus, table.relu, table.abs, table.sqrt):
        return "positive"
    if row is table.straight_through:
        return of[0]
    if row in (table.slice, table.reshape, table.permute, table.expand, table.cat, table.maximum, table.minimum):
        return of[0] if len(set(of)) == 1 else "any"
    if row is table.where:
        return of[1] if of[1] == of[2] else "any"
    return "any"


def _kind_of_number(x: object) -> str:
    return "gate" if isinstance(x, (int, float)) and 0 <= x <= 1 else "any"


def sentences(shown: list[Panel]) -> list[str]:
    """How to read the picture."""
    kinds: dict[str, list[str]] = {}
    for panel in shown:
        kind = "any" if panel.state and panel.kind == "positive" else panel.kind
        kinds.setdefault(kind, []).append(f"`{panel.label}`")
    states = [f"`{panel.name}`" for panel in shown if panel.state]
    after = f"{_and(states)} {'is the state' if len(states) == 1 else 'are the states'}, shown after each step."
    large = [panel for panel in shown if _count(panel.inner) > MOST_UNITS]
    if large:
        of = _and([f"`{panel.label}` ({' x '.join(map(str, panel.inner))})" for panel in large])
        after += f" Of {of} there are the {MOST_UNITS} elements that change most."
    lists = "\n".join(f"- {_and(names)}: {WORDS[kind]}" for kind, names in kinds.items())
    return [
        f"{SHOWN} On top are the numbers, what it should answer and what it does. Below that is how much of the "
        "gradient of its last answer arrives at the states of each step: a cell that remembers lets it through as far "
        "back as the last mark, and one that has learned to forget cuts it down there.",
        f"In the other panels each row is a unit and each column a step; the answer reads most from the rows on top. "
        f"{after}",
        lists,
    ]


WORDS = {
    "gate": "from 0, dark, to 1, light",
    "sign": "from -1, dark, to 1, light",
    "positive": "from 0, dark, to the greatest, light",
    "any": "the lighter, the greater; zero is in the middle of the scale if there are both signs",
}


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- A page ----------------------------------------------------------------------------------------------------------


def fused(entry: Entry, input_size: int = I, hidden_size: int = H) -> FusedCell:
    """The compiled step of a cell; no kernel is built."""
    return compiled_alone(drawn_apart(entry, input_size, hidden_size).eval(), input_size)


def page(entry: Entry, picture: bool | str) -> str:
    """The page of a cell, in Markdown.

    Args:
        picture: whether there is one, or why not.
    """
    kind, (row,) = entry.cell, [row for row in tg.nn.cells.list(I, H) if row.cell is entry.cell]
    where = kind.__module__.replace(".", "/") + ".py"  # not its file: the package may be installed elsewhere
    states = ", ".join(f"`{name}` [{', '.join(map(str, ['B', *shape]))}]" for name, shape in row.states.items())
    products = "at every step a matrix of weights multiplies a state, so that steps wait for each other"
    free = "none: no product waits for the step before, so that all are done for all steps at once"
    facts = {
        "source": row.source,
        "states": states,
        "parameters": f"{row.parameters:,}",
        "flops a step": f"{row.flops:,}" if row.flops is not None else "not counted: it runs on the tape",
        "recurrent products": products if row.recurrent else free,
        "by name": f"`{row.short}`, in `tg.nn.cells.make` and on command lines",
    }
    text = [
        f"# {row.name}",
        f"`{row.equation}`",
        "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value.replace('|', '&#124;')} |" for key, value in facts.items()),
        f"Sizes are those of I = {I} inputs and H = {H} units, a batch of B.",
        *markdown(kind.__doc__ or ""),
        *_picture(entry, picture),
        "## Parameters",
        *_parameters(entry),
        "## How to use it",
        f"```python\n{usage(entry)}\n```",
        "## Its compiled step",
        *_steps(entry),
        f"Its class is in [`{where}`](../../{where}); all cells are in [the table](README.md).",
    ]
    return "\n\n".join(text) + "\n"


def _picture(entry: Entry, picture: bool | str) -> list[str]:
    if isinstance(picture, str) or not picture:
        return [f"There is no picture of this cell: {picture or 'none was drawn'}."]
    name = entry.cell.__name__
    alt = f"{name} holds a number: what it answers, what arrives of the gradient, and what is inside at every step"
    try:
        words = sentences(panels(entry, *DRAWN))
    except Unfusable:
        words = [SHOWN, "Each row of the lower panels is a unit and each column a step; the lighter, the greater."]
    if given := [f"`{each}`" for each in entry.values(*DRAWN)]:
        words.insert(1, f"What it takes by name, {_and(given)}, is random here, and the same for all sequences.")
    return ["## What happens inside", f"![{alt}]({name}.png)", *words]


DRAWN = 4, 16  # I and H of what the pictures show


def _parameters(entry: Entry) -> list[str]:
    cell = drawn_apart(entry, I, H)
    rows = [f"| `{name}` | {list(p.shape)} | {p.numel():,} |" for name, p in cell.named_parameters()]
    if not rows:
        return ["There are none."]
    return ["\n".join(["| name | shape | numbers |", "|---|---|---|", *rows])]


def usage(entry: Entry, T: int = 100, B: int = 32) -> str:
    """Three lines that run it."""
    name, states = entry.cell.__name__, drawn_apart(entry, I, H).state_names
    make = f"tg.nn.cells.{name}({I}, {H})" if entry.make is entry.cell else f'tg.nn.cells.make("{name}", {I}, {H})'
    outputs = "outputs" if "y" in states else "y"
    final = states[0] if len(states) == 1 else f"({', '.join(states)})"
    given = "".join(
        f", {name}=tg.randn({', '.join(map(str, (B, *shape)))})" for name, shape in entry.values(I, H).items()
    )
    return textwrap.dedent(f"""\
        import tinygrad_rnn as tg
        layer = tg.nn.Recurrent({make})
        {outputs}, {final} = layer(tg.randn({T}, {B}, {I}){given})  # the outputs of all steps, and the last states""")


def _steps(entry: Entry) -> Iterator[str]:
    """What the compiler made of it, without what differs between machines."""
    try:
        found = fused(entry)
    except Unfusable as error:
        yield f"It runs on the tape, step by step: {re.sub(r'[(][^()]*:[0-9]+[^()]*[)]', '', str(error)).strip()}"
        return
    report = explain(found.scan).partition("\nKernels\n")[0].rstrip()
    yield (
        "What `layer.explain()` says: the step as it was traced, what is computed once before the loop over time, the "
        "phases of the loop, and the same of its backward pass, which nobody wrote."
    )
    yield f"```\n{report}\n```"
    stages = {
        "trace": "The traced program: `layer.explain(stage=\"trace\")`",
        "lower": "The finished one, as it becomes machine code: `layer.explain(stage=\"lower\")`",
        "transpose": "Its backward step: `layer.explain(stage=\"transpose\")`",
    }  # fmt: skip
    for stage, title in stages.items():
        lines = at_stage(found.stages, found.scan, stage).splitlines()[1:]
        left = len(lines) - MOST_LINES
        lines = [*lines[:MOST_LINES], f"... and {left} lines more"] if left > 0 else lines
        title = re.sub(r"`(.*)`", r"<code>\1</code>", title)
        yield f"<details><summary>{title}</summary>\n\n```\n" + "\n".join(lines) + "\n```\n\n</details>"


# ---- Docstrings ------------------------------------------------------------------------------------------------------


def markdown(doc: str) -> list[str]:
    """A docstring as paragraphs of Markdown: its examples and equations as code, its lists of names as lists."""
    found: list[str] = []
    lines = inspect.cleandoc(doc).splitlines()
    for block in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        head, *rest = block.splitlines()
        if re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", head):
            found += [f"**{head}**", "\n".join(_items(textwrap.dedent("\n".join(rest)).splitlines()))]
        elif head.startswith(" "):
            code = textwrap.dedent(block)
            tag = "python" if code.startswith(">>>") else ""
            fenced = f"```{tag}\n{code}\n```"
            if found and found[-1].startswith("```") and not tag and found[-1].startswith("```\n"):
                found[-1] = f"{found[-1].removesuffix('```')}\n{code}\n```"  # one piece of maths, with a gap in it
            else:
                found.append(fenced)
        else:
            found.append(_escaped(block.replace("\n", " ")))
    return found


def _items(lines: list[str]) -> list[str]:
    """`name: what it is`, each with the lines that are indented below it, as a list."""
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            names, colon, text = line.partition(": ")
            items.append(f"- `{names}`: {_escaped(text)}" if colon else f"- {_escaped(line)}")
    return items


def _escaped(text: str) -> str:
    """Text in which Markdown sees no emphasis, link or HTML, but for what stands in backquotes."""
    parts = text.split("`")
    marks = r"(?<![\w\s])_|_(?!\w)|(?<!\w)_|\*(?=\S)|(?<=\S)\*|<(?=[A-Za-z/!])|\](?=[(:])"
    parts[::2] = [re.sub(marks, lambda found: "\\" + found[0], part) for part in parts[::2]]
    return "`".join(parts)


# ---- The table -------------------------------------------------------------------------------------------------------


def index(entries: list[Entry], speeds: bool) -> str:
    """The page with the table of all cells."""
    rows = {row.cell: row for row in tg.nn.cells.list(I, H)}
    lines = [
        "| cell | equation | source | states | parameters | flops a step | |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        row = rows[entry.cell]
        states = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row.states.items())
        flops = "on the tape" if row.flops is None else f"{row.flops:,}"
        kind = ", ".join(["matrix"] * (row.kind == "matrix") + ["no recurrent product"] * (not row.recurrent))
        equation = row.equation.replace("|", "\\|")
        lines.append(
            f"| [{row.name.removesuffix('Cell')}]({row.name}.md) | `{equation}` | {row.source} | {states} | "
            f"{row.parameters:,} | {flops} | {kind} |"
        )
    years = [entry.year for entry in entries if entry.year]
    free = sum(not entry.recurrent for entry in entries)
    matrices = sum(rows[entry.cell].kind == "matrix" for entry in entries)
    text = [
        f"# {len(entries)} recurrent cells",
        "`python demos/cells.py` writes these pages, one a cell: its equations and where they come from, its states, "
        "parameters and flops, a picture of what happens inside while it remembers, how to use it, and what the "
        "compiler makes of it. A test compares them with the cells.",
        f"They were proposed between {min(years)} and {max(years)}; {free} have no product that waits for the step "
        f"before, {matrices} {'has a matrix' if matrices == 1 else 'have matrices'} of states. Sizes are those of "
        f"I = {I} inputs and H = {H} units. Gates are meant after their sigmoid.",
        *(["[How fast they are](speed.md): fused, on the tape, and as a loop in PyTorch."] if speeds else []),
        "\n".join(lines),
        "## Every cell, everywhere",
        "`tg.nn.cells.list()` prints this table, and takes `recurrent=False`, `year=2018` or `states=\"matrix\"`; "
        "`python -m tinygrad_rnn cells` does so in a shell. Any of them runs over a sequence, in stacks and both ways, "
        "with lengths, and recorded:",
        "```python\n" + STACKED + "\n```",
        "`python demos/char_lm.py --cell NAME` teaches one to write, `python demos/long_memory.py --cells NAME` asks "
        "what it remembers, `python demos/bench cells --cells NAME` how fast it is, and `python -m tinygrad_rnn check "
        "NAME` proves it. [A recipe](../recipes.md) says how yours comes to stand here.",
    ]  # fmt: skip
    return "\n\n".join(text) + "\n"


STACKED = """\
import tinygrad_rnn as tg
cell = lambda size: tg.nn.cells.make("gru", size, 64)
model = tg.nn.Stack(cell, 28, 2, bidirectional=True)  # two layers, both ways
with tg.record(model) as r:
    y, _ = model(tg.randn(100, 3, 28), lengths=[100, 60, 7])
r[0].plot("z")  # a gate of the first layer at every step"""


def python_blocks(text: str) -> list[str]:
    """The programs on a page that are no examples of a docstring."""
    return [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if not code.startswith(">>>")]


def names_of(entries: list[Entry]) -> list[str]:
    """Their pages' names."""
    return [entry.cell.__name__ for entry in entries]


