"""Result: what a function of this room has found, as arrays, and how it shows itself.

The numbers need no drawing library. `plot()` and a notebook import matplotlib when they are asked for a picture.
"""

import base64
import html
import importlib.util
import io
import re
import textwrap
from typing import Any

import numpy as np

COLOURS = "cividis"  # dark to light all the way: it survives greyscale, and colour-blind eyes
MARGINS = (0.8, 0.3, 0.5, 0.35)  # left, right, below and above the axes, in inches
LETTERS = 13.5  # of the sentence that fit into an inch
READABLE = 0.7  # of its size, an SVG still is
LINES = ("-", "--", ":", "-.")  # beside colours, as these do not survive greyscale


class Result:
    """Arrays, a picture of them, and the sentence that says how to read it.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.RNN(3, 4)
        >>> with tg.record(layer) as r:
        ...     y, _ = layer(tg.ones(7, 2, 3))
        >>> found = tg.study.heatmap(r, "h")
        >>> isinstance(found, tg.study.Result), found.values.shape
        (True, (4, 7))

    Attributes:
        values: the main array, or a dict of arrays by name.
        sentence: how to read the picture.
        size: of the picture, in inches.
    """

    size: tuple[float, float] = (7.0, 3.2)
    values: Any
    sentence: str = ""

    def draw(self, ax: Any) -> None:
        """Draw the picture on the axes."""
        raise NotImplementedError(f"{type(self).__name__} has no picture")

    def plot(self, ax: Any = None) -> Any:
        """The picture on the Axes `ax`, which are returned; on those of a new figure, over the sentence, if it is None.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
        """
        if ax is None:
            from matplotlib import pyplot

            figure, ax = pyplot.subplots(figsize=self.size, layout="constrained")
            write_below(figure, self.sentence)
        self.draw(ax)
        return ax

    def png(self) -> bytes:
        """The picture as a file, made without pyplot: no figure is left open, and no setting is touched."""
        from matplotlib.figure import Figure

        (width, height), file = self.size, io.BytesIO()
        figure = Figure(self.size, dpi=110)
        left, right, low, high = MARGINS  # given, as to find them takes as long as to draw
        figure.subplots_adjust(left / width, low / height, 1 - right / width, 1 - high / height)
        self.draw(figure.add_subplot())
        figure.savefig(file, format="png", pil_kwargs={"compress_level": 1})  # a tenth faster, and as large
        return file.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {_shape(self.values)}. {self.sentence}"

    def _repr_html_(self) -> str:
        """The picture over the sentence: no script, no style but its own."""
        caption = html.escape(self.sentence)
        if importlib.util.find_spec("matplotlib") is None:
            return f"<figure><pre>{html.escape(repr(self))}</pre></figure>"
        picture = image(self.png(), self.sentence, f'width="{round(100 * self.size[0])}"')
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def image(file: bytes | str, alt: str, attributes: str = "") -> str:
    """A picture, PNG or the text of an SVG, inside a page: a host of notebooks cuts out an SVG that is no image."""
    kind, data = ("svg+xml", file.encode()) if isinstance(file, str) else ("png", file)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img {attributes} alt="{html.escape(alt)}" src="{source}">'


def scrolled(svg: str, alt: str) -> str:
    """An SVG inside a page: as wide as the page at most, but for one in which nothing could be read then."""
    width = re.search(r' width="(\d+)"', svg)
    least = READABLE * float(width[1]) if width else 0.0
    attributes = f'style="max-width:100%;min-width:{least:.0f}px"'
    return f'<div style="overflow-x:auto">{image(svg, alt, attributes)}</div>'


def write_below(figure: Any, sentence: str) -> None:
    """A sentence under a picture, in as many lines as it takes."""
    figure.supxlabel(safe(lines_of(sentence, figure.get_figwidth())), fontsize=9)


def lines_of(sentence: str, width: float) -> str:
    """A sentence in lines that are no longer than so many inches."""
    return textwrap.fill(sentence, int(LETTERS * width))


def safe(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _shape(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {list(np.shape(x))}" for name, x in values.items())
    return str(list(np.shape(values)))


def dot(x: np.ndarray) -> str | None:
    """A marker for what is no line, a single number."""
    return "o" if np.isfinite(x).sum() == 1 else None


def limits(values: np.ndarray, gate: bool = True) -> tuple[float, float]:
    """The ends of a colour scale: 0 and 1 for gates, else symmetrical about zero where there are both signs."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if gate and 0 <= low and high <= 1:
        return 0.0, 1.0
    if low < 0:
        high = max(-low, high)
        return -high, high
    return 0.0, high or 1.0


def coloured(
    ax: Any, values: np.ndarray, label: str, scale: tuple[float, float], log: bool = False, **options: Any
) -> Any:
    """Draw a matrix, first row on top, with its colour bar; hatched grey where there is no number.

    A logarithmic scale goes over four decades on both sides of zero, where it is linear in between.
    """
    import matplotlib
    from matplotlib.colors import Normalize, SymLogNorm

    colours = matplotlib.colormaps[COLOURS].with_extremes(bad=(0, 0, 0, 0))
    ax.patch.set(facecolor="0.9", hatch="///", edgecolor="0.7")
    options = {"aspect": "auto", "interpolation": "nearest"} | options
    norm = SymLogNorm(scale[1] * 1e-4, vmin=scale[0], vmax=scale[1]) if log else Normalize(*scale)
    image = ax.imshow(np.ma.masked_invalid(values), cmap=colours, norm=norm, **options)
    for axis in (ax.xaxis, ax.yaxis):  # there is no unit 0.5
        axis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    bar = ax.figure.colorbar(image, ax=ax, label=safe(label))
    if log:  # else ticks crowd about zero
        above = [scale[1] * size for size in (1e-3, 1e-2, 0.1, 1)]
        ticks = [*(-x for x in above if scale[0] < 0), 0.0, *above]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks], minor=False)
        bar.minorticks_off()
    return image
