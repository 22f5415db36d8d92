"""The two pictures that README shows of the library itself: `python demos/readme_pictures.py`.

`step.svg` has a step of five lines, its adjoint and the kernels that were generated side by side; `look_inside.png`
four of the pictures that `look_inside.py` makes, of the same network. Both say of themselves how they were made.
"""

import argparse
import html
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import char_lm
import look_inside

import tinygrad_rnn as tg
from tinygrad_rnn import sigmoid, tanh
from tinygrad_rnn.study.explained import Explained, Line

COMMAND = "python demos/readme_pictures.py"
HERE = Path(__file__).resolve().parent

# ---- A step, its adjoint, its kernels --------------------------------------------------------------------------------


class MGU(tg.nn.Cell):
    """Minimal gated unit (Zhou et al., 2016), a line for each value."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        I, H, weight, bias = input_size, hidden_size, tg.nn.weight, tg.nn.bias
        self.Wf, self.Uf, self.bf = weight(I, H), weight(H, H), bias(H)
        self.Wn, self.Un, self.bn = weight(I, H), weight(H, H), bias(H)

    def step(self, x, h):
        a = x @ self.Wf + h @ self.Uf + self.bf
        f = sigmoid(a)
        b = x @ self.Wn + (f * h) @ self.Un + self.bn
        n = tanh(b)
        return (1 - f) * h + f * n


COLOURS = {"a": "#1f5fa8", "f": "#b3500a", "b": "#7a3e9d", "n": "#2c7a4b", "h": "#b0243f"}  # of variables, by line
NOTE = (
    "The number before a line is that of the step’s line from which it came; a variable shares its colour with its "
    "gradient. Of the kernels this is the loop over time, without arguments and without what is there for sequences "
    "that end early."
)
PAPER, INK, PALE = "#fbfaf7", "#24292f", "#6e6a62"
FONT, CHARACTER, ROW = 10.9, 6.55, 16.2  # in pixels: size, width of a character, distance of lines
WIDTHS = (33, 39, 43)  # characters in a column
GUTTER, MARGIN = 33, 8
NAME = re.compile(r"[A-Za-z_]\w*|\W|\d+")
SUFFIX = re.compile(r"(_new|_part|_out|_sum|_saved|_\d+)+$")


def colour_of(name: str) -> str:
    """A variable's, which its gradient shares."""
    base = SUFFIX.sub("", name)
    return COLOURS.get(base) or COLOURS.get(base.removeprefix("d")) or INK


def kernel(lines: list[Line]) -> Iterator[Line]:
    """The loop over time, with the maths of a row where it is called, and products as the comments on them have it."""
    bodies: dict[str, list[Line]] = {}
    name, inside = "", False
    for line in lines:
        text = line.text
        defined, called = re.match(r"def (\w+)\(", text), re.match(r" {16,}(\w+)\(H, ", text)
        if defined:
            name = defined[1]
        elif re.match(r" {8}for t in range\((first|last)", text):
            inside = True
            yield Line(text.strip(), frozenset())
        elif inside and text[:12].strip():
            return
        elif inside and called and called[1] in bodies:
            yield Line(f" for j in range(H):  # {called[1]}", frozenset())
            yield from bodies[called[1]]
        elif inside and re.match(r" *# .*row\] \+?= .* @ ", text):
            yield Line(" " + text.strip().removeprefix("# "), line.steps)
        elif text.startswith(" " * 8) and not inside and name:
            bodies.setdefault(name, []).append(Line("  " + text.strip().partition("  #")[0], line.steps))


def adjoint(page: Explained) -> Iterator[Line]:
    """Its lines; those that are taken for all steps at once stand by themselves."""
    after = False
    for text, steps in page.adjoint:
        if "T * B" in text or "one product" in text:
            if not after:
                yield Line("", frozenset())
                yield Line("after the loop, all steps at once:", frozenset())
            after = True
            text = re.sub(r", and .*|: one.*", "", text)
        yield Line(text, steps)


def columns() -> list[tuple[str, list[Line]]]:
    page = tg.study.explain(tg.nn.Recurrent(MGU(28, 64)), html=True)
    step = [Line(line.text.replace("self.", ""), line.steps) for line in page.step]
    forward = [Line("", frozenset()), Line("FORWARD KERNEL", frozenset()), *kernel(page.forward)]
    return [
        ("THE STEP", step + forward), ("ITS ADJOINT", list(adjoint(page))),
        ("BACKWARD KERNEL", list(kernel(page.backward))),
    ]  # fmt: skip


def wrapped(text: str, width: int) -> list[str]:
    """A line as so many as it needs, broken outside of brackets, before an operation if there is one; what goes on
    stands to the right."""
    if len(text) <= width:
        return [text]
    spaces = [k for k in range(width // 3, width + 1) if text[k] == " " and text[:k].count("[") == text[:k].count("]")]
    before = [k for k in spaces if re.match(r" (\+|@|\+=) ", text[k:])]
    at = (before or spaces or [text.rindex(" ", 0, width + 1)])[-1]
    indent = " " * (len(text) - len(text.lstrip()) + (4 if text.lstrip()[0] not in "+@" else 0))
    return [text[:at], *wrapped(indent + text[at + 1 :], width)]


def written(text: str, x: float, y: float) -> str:
    """A line of code as SVG: each name in its colour, and in its place whatever the font."""
    if text.isupper() and "_" not in text:
        return f'<text class="head" x="{x:.1f}" y="{y:.1f}">{text}</text>'
    code, _, comment = text.partition("  #")
    spans = []
    for found in NAME.finditer(code):
        if found[0].strip():
            colour, here = colour_of(found[0]), x + CHARACTER * found.start()
            spans.append(f'<tspan x="{here:.1f}" fill="{colour}">{html.escape(found[0])}</tspan>')
    if comment:
        spans.append(f'<tspan x="{x + CHARACTER * (len(code) + 2):.1f}" fill="{PALE}">#{html.escape(comment)}</tspan>')
    return f'<text y="{y:.1f}">{"".join(spans)}</text>'


def step_svg() -> str:
    """The picture, as text that is text: it can be searched, and is sharp at any size."""
    parts, left, bottom, by_line = [], MARGIN, 0.0, list(COLOURS.values())
    for (title, lines), width in zip(columns(), WIDTHS):
        y = MARGIN + 16.0
        parts.append(written(title, left, y))
        for line in lines:
            steps = sorted(line.steps)
            y += ROW * (1.35 if y < 30 else 1)
            for k, text in enumerate(wrapped(line.text, width)):
                y += ROW * bool(k)
                if steps and not k:
                    mark = ",".join(str(i + 1) for i in steps)
                    at = left + GUTTER - 10
                    fill = f'style="fill:{by_line[steps[0]]}"'  # as an attribute it would be weaker than `style` below
                    parts.append(f'<text class="mark" x="{at}" y="{y:.1f}" {fill}>{mark}</text>')
                if steps:
                    x, colour = left + GUTTER - 7, by_line[steps[0]]
                    parts.append(f'<rect x="{x}" y="{y - 12:.1f}" width="3" height="{ROW}" fill="{colour}"/>')
                parts.append(written(text, left if text.isupper() and "_" not in text else left + GUTTER, y))
        if title == "BACKWARD KERNEL":
            y += ROW
            for note in textwrap.wrap(NOTE, 48):
                y += 15
                parts.append(f'<text class="note" x="{left + GUTTER}" y="{y:.1f}">{note}</text>')
        bottom, left = max(bottom, y), left + GUTTER + round(width * CHARACTER)
    wide, high = left + MARGIN, round(bottom + MARGIN + 6)
    title = f"A step of five lines, its adjoint and its kernels; made by {COMMAND}"
    style = (
        f"text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:{INK}}}"
        ".mark{font-weight:bold;text-anchor:end;font-size:9.5px}"
        f".note{{font:11px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:{PALE}}}"
        f".head{{font:bold 11.5px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;letter-spacing:.06em;fill:{PALE}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        f'role="img"><title>{title}</title><style>{style}</style>'
        f'<rect width="{wide}" height="{high}" rx="6" fill="{PAPER}" stroke="#d8d4cc"/>\n'
        + "\n".join(parts) + "\n</svg>\n"
    )  # fmt: skip


# ---- Four pictures of a trained network ------------------------------------------------------------------------------


def strip(look: look_inside.Look) -> bytes:
    """Four of the pictures of `look_inside.py` as one PNG file, twice as fine as a page shows it."""
    from matplotlib.figure import Figure

    figure, file = Figure((8.5, 6.6), dpi=200, layout="constrained", facecolor="white"), io.BytesIO()
    connectivity = lambda look: look_inside.connectivity(look, 36)[0]
    finds = (look_inside.unit, look_inside.saturation, look_inside.flow, connectivity)
    axes = figure.subplots(2, 2, width_ratios=[1.5, 1]).ravel()
    for find, ax in zip(finds, axes):
        picture = find(look)
        before = set(figure.axes)
        picture.result.plot(ax)
        _small(ax, picture.title)
        picture.more(ax)
        for bar in set(figure.axes) - before:  # the lighter the more: what stands under it says so
            bar.remove()
    figure.savefig(file, format="png")
    return fewer_colours(file)


def fewer_colours(file: io.BytesIO) -> bytes:
    """The same picture of a palette, a third as large."""
    from PIL import Image, PngImagePlugin

    about, small = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_text("Title", f"Inside a character model; made by {COMMAND}")
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True, dpi=(200, 200), pnginfo=about
    )
    return small.getvalue()


def _small(ax: Any, title: str) -> None:
    ax.set_title("")
    ax.set_title(title, fontsize=9.5, fontweight="bold", loc="left")
    ax.xaxis.label.set_size(8.5)
    ax.yaxis.label.set_size(8.5)
    ax.tick_params(labelsize=8)


# ---- The command line ------------------------------------------------------------------------------------------------


def main(options: argparse.Namespace) -> None:
    (options.folder / "step.svg").write_text(step_svg(), encoding="utf-8")
    print(options.folder / "step.svg")
    if not options.step:
        (options.folder / "look_inside.png").write_bytes(strip(look_inside.looked(options)))
        print(options.folder / "look_inside.png")


def arguments() -> char_lm.Parser:
    parser = look_inside.arguments()
    parser.prog, parser.description = "readme_pictures.py", __doc__.split("\n")[0]
    parser.add_argument("--folder", type=Path, default=HERE, help="where the two pictures go (default: demos)")
    parser.add_argument("--step", action="store_true", help="only the first, for which nothing is trained")
    return parser


if __name__ == "__main__":
    char_lm.command_line(arguments(), main)
