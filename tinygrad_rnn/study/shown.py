"""How objects show themselves in a notebook: static HTML, every name escaped, and of bounded size.

    >>> import tinygrad_rnn as tg
    >>> tg.tensor([1.0, -2.0, 3.0])._repr_html_()[:7]
    '<table '
    >>> print(tg.ops["tanh"])
    tanh(x)                          y = tanh(x)
                                     dx = dy * (1 - y * y)
                                     shapes: [...] -> [...]    ONNX: Tanh
"""

import html
import itertools
import struct
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..autograd.primitive import Primitive
from ..autograd.table import TABLE
from ..autograd.tensor import Tensor
from ..nn.module import Module, Parameter
from ..nn.recording import Recording
from .result import image

MOST_TEXT, MOST_ROWS, MOST_CELLS = 2_000, 200, 40
STOPS = np.array([(0, 32, 76), (57, 72, 107), (112, 112, 115), (166, 154, 109), (255, 233, 69)], float)  # cividis
STYLE = 'style="text-align:left;vertical-align:top"'


# ---- Small pictures --------------------------------------------------------------------------------------------------


def small_picture(values: np.ndarray, width: int = 160, height: int = 60) -> str:
    """An array as a small picture: a line for a vector, tiles for a matrix (dark is low), of more the first matrix.

        >>> small_picture(np.arange(3.0))[:4], small_picture(np.eye(2))[:4]
        ('<img', '<img')

    Returns:
        "" for a single number, and where there is nothing to see.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiub" or values.size < 2:
        return ""
    values = values.astype(float)
    while values.ndim > 2:
        values = values[0]
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (values - low) / (high - low or 1.0)
    title = f"{low:.3g} to {high:.3g}"
    if values.ndim == 1:
        return _line(scaled, width, height, title)
    scaled = _fewer(_fewer(scaled, MOST_CELLS).T, 3 * MOST_CELLS).T
    style = f"width:{width}px;height:{height}px;image-rendering:pixelated"
    return image(png(scaled), title, f'style="{style}" title="{title}"')


def _line(scaled: np.ndarray, width: int, height: int, title: str) -> str:
    scaled = _fewer(scaled, 200)
    x = np.linspace(3, width - 3, len(scaled))
    points = " ".join(f"{a:.1f},{height - 4 - (height - 8) * b:.1f}" for a, b in zip(x, scaled) if np.isfinite(b))
    line = f'<polyline points="{points}" fill="none" stroke="#39486b" stroke-width="1.3"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    return image(f"{start}{line}</svg>", title, f'title="{title}"')


def png(scaled: np.ndarray) -> bytes:
    """A matrix of numbers from 0 to 1 as a PNG file, a pixel each: see `colours`."""
    rows, columns = scaled.shape
    lines = b"".join(b"\0" + row.tobytes() for row in colours(scaled))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">2I5B", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _fewer(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows: means of neighbours."""
    if len(values) <= most:
        return values
    edges = np.linspace(0, len(values), most + 1).astype(int)
    return np.stack([values[a:b].mean(0) for a, b in itertools.pairwise(edges)])


def colours(scaled: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as red, green and blue, the lighter the greater; grey where it is none.

    >>> colours(np.array([0.0, 1.0, float("nan")])).tolist()
    [[0, 32, 76], [255, 233, 69], [187, 187, 187]]
    """
    scaled = np.asarray(scaled)
    known = np.nan_to_num(np.clip(scaled, 0, 1))
    parts = [np.interp(known, np.linspace(0, 1, len(STOPS)), stops) for stops in STOPS.T]
    mixed = np.stack(parts, -1).round()
    return np.where(np.isfinite(scaled)[..., None], mixed, 187).astype(np.uint8)


def html_table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the cells are HTML already."""
    cells = lambda row, tag: "".join(f"<{tag} {STYLE}>{cell}</{tag}>" for cell in row)
    body = [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    more = f"<p>... and {len(body) - MOST_ROWS} more</p>" if len(body) > MOST_ROWS else ""
    caption = f"<caption {STYLE}>{title}</caption>" if title else ""
    top = f"<tr>{cells(head, 'th')}</tr>" if head else ""
    return f"<table {STYLE}>{caption}{top}{''.join(body[:MOST_ROWS])}</table>{more}"


def text_of(x: Any, most: int = MOST_TEXT) -> str:
    """What is printed of an object, escaped."""
    text = x if isinstance(x, str) else repr(x)
    return html.escape(text if len(text) <= most else text[:most] + " ...")


# ---- Objects ---------------------------------------------------------------------------------------------------------


def tensor_html(x: Tensor) -> str:
    """A tensor: its numbers, a small picture, and its gradient if it has one."""
    show = lambda y: [f"<pre>{text_of(y)}</pre>", small_picture(y.numpy())]
    rows = [["value", *show(x)]]
    if x.grad is not None:
        rows.append(["gradient", *show(x.grad)])
    return html_table(f"{'Parameter' if isinstance(x, Parameter) else 'Tensor'} {list(x.shape)}, {x.dtype}", [], rows)


def module_html(module: Module) -> str:
    """A module: its parameters with small pictures, and the modules in it, to be folded out."""
    shown = [0]

    def one(name: str, module: Module, is_open: bool) -> str:
        shown[0] += 1
        if shown[0] > MOST_ROWS:
            return ""
        own = list(module.named_parameters(recurse=False))[:MOST_ROWS]
        count = sum(p.numel() for p in module.parameters())
        arguments = html.escape(module.extra_repr())
        title = f"{html.escape(name)}{': ' * bool(name)}<b>{html.escape(type(module).__name__)}</b>({arguments})"
        title += f" {count:,} parameter{'s' * (count != 1)}"
        cells = [[html.escape(key), str(list(p.shape)), small_picture(p.data, 120, 36)] for key, p in own]
        table = html_table("", [], cells) if cells else ""
        inner = "".join(one(key, child, False) for key, child in module.named_children())
        start = "<details open>" if is_open else "<details>"
        return f'{start}<summary>{title}</summary><div style="margin-left:1.5em">{table}{inner}</div></details>'

    more = lambda text: text + f"<p>... and {shown[0] - MOST_ROWS} modules more</p>" * (shown[0] > MOST_ROWS)
    return more(one("", module, True))


def recording_html(r: Recording) -> str:
    """A recording: each value over time, units down and time to the right, and the gradient that reached it."""
    if r.source is None:
        return f"<p>{text_of(repr(r))}</p>"
    picture = lambda x: small_picture(x.numpy()[:, 0].reshape(len(x), -1).T) if x.numpy().size else ""
    rows = []
    for name in r.names[:MOST_ROWS]:
        gradient = r.source.gradient(name)
        shape = str(list(r[name].shape))
        rows.append([html.escape(name), shape, picture(r[name]), "no gradient yet" if gradient is None else (
            picture(r.grad[name]))])  # fmt: skip
    title = f"Recording of {html.escape(r.title)}: the first sequence, units down, time to the right"
    return html_table(title, ["name", "[T, B, ...]", "value", "gradient"], rows)


class Op:
    """A row of the table of primitives, which prints as what is known of it.

    Attributes:
        row: the primitive.
    """

    def __init__(self, row: Primitive) -> None:
        self.row = row

    def __repr__(self) -> str:
        row, indent = self.row, " " * 33
        lines = [f"{row.signature:<32} {row.equation}"]
        lines += [textwrap.indent(f"{target} = {rule}", indent) for target, rule in row.rules.items()]
        return "\n".join([*lines, f"{indent}shapes: {row.shapes}" + (f"    ONNX: {row.onnx}" if row.onnx else "")])

    def cells(self) -> list[str]:
        """The row of an HTML table."""
        row = self.row
        rules = "<br>".join(f"<code>{html.escape(f'{target} = {rule}')}</code>" for target, rule in row.rules.items())
        first = f"<code>{html.escape(row.signature)}</code>"
        return [first, html.escape(row.equation), rules, html.escape(row.shapes), html.escape(row.onnx or "")]

    def _repr_html_(self) -> str:
        return html_table("", HEAD, [self.cells()])


HEAD = ("operation", "what it computes", "gradients", "shapes", "ONNX")


class Ops(Mapping[str, Op]):
    """The primitives by name: what each computes, and its gradients. All functions are made of these.

    >>> import tinygrad_rnn as tg
    >>> len(tg.ops) > 40 and "matmul" in tg.ops
    True
    """

    def __getitem__(self, name: str) -> Op:
        return Op(TABLE[name])

    def __iter__(self) -> Iterator[str]:
        return iter(TABLE)

    def __len__(self) -> int:
        return len(TABLE)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.values()))

    def _repr_html_(self) -> str:
        return html_table("", HEAD, [op.cells() for op in self.values()])

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


ops = Ops()
