"""colored_text: characters in the colours of numbers, such as a unit's activations or a gradient."""

import html
from typing import Any

import numpy as np

from ..autograd.operands import as_array
from .result import Result, limits, safe

COLUMNS, MOST_DRAWN, MOST_SHOWN = 64, 64 * 24, 20_000
LINE = 0.165  # of a picture, in inches
# cividis, at equal distances from dark to light: what is shown in a terminal needs no matplotlib.
COLOURS = np.array([
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115), (138, 134, 120), (165, 156, 116),
    (195, 179, 105), (225, 204, 85), (254, 232, 56),
])  # fmt: skip


class ColoredText(Result):
    """See `colored_text`.

    Attributes:
        values: [n], the numbers.
        chars: n pieces of text.
        scale: the numbers at the ends of the colours.
    """

    def __init__(self, chars: list[str], values: np.ndarray, scale: tuple[float, float]) -> None:
        self.chars, self.values, self.scale = chars, values, scale
        self.size = (7.0, 1.07 + LINE * self._lines)
        self.sentence = (
            f"Each piece of text is the lighter, the greater its number, from {scale[0]:.3g} (dark blue) to "
            f"{scale[1]:.3g} (yellow)."
        )

    @property
    def _lines(self) -> int:
        """How many a picture has."""
        return -(-min(len(self.chars), MOST_DRAWN) // COLUMNS) or 1

    def colours(self) -> np.ndarray:
        """[n, 3], red, green and blue from 0 to 255; grey where there is no number."""
        low, high = self.scale
        known = np.isfinite(self.values)
        place = np.clip((np.where(known, self.values, low) - low) / (high - low), 0, 1) * (len(COLOURS) - 1)
        each = [np.interp(place, np.arange(len(COLOURS)), COLOURS[:, k]) for k in range(3)]
        return np.where(known[:, None], np.rint(np.stack(each, -1)), 200).astype(int)

    def __str__(self) -> str:
        """For a terminal: ANSI colours."""
        parts = []
        for text, rgb in zip(self.chars, self.colours()):
            ink = 15 if _is_dark(rgb) else 16
            start = f"\x1b[48;2;{rgb[0]};{rgb[1]};{rgb[2]};38;5;{ink}m"
            lines = [_printable(line) for line in text.split("\n")]
            parts.append("\n".join(f"{start}{line or ' '}\x1b[0m" for line in lines) if text else "")
        return "".join(parts)

    def _repr_html_(self) -> str:
        """Spans with the numbers as titles: no script. A long text is cut."""
        spans = []
        for text, number, rgb in zip(self.chars[:MOST_SHOWN], self.values.tolist(), self.colours()):
            shown = html.escape(_printable(text.replace("\n", "↵"))) + "<br>" * text.count("\n")
            ink, paper = "#fff" if _is_dark(rgb) else "#000", "#{:02x}{:02x}{:02x}".format(*rgb)
            spans.append(f'<span style="background:{paper};color:{ink}" title="{number!r}">{shown}</span>')
        rest = len(self.chars) - len(spans)
        cut = f"<p>… and {rest} more</p>" if rest else ""
        block = f'<div style="font-family:monospace;white-space:pre-wrap">{"".join(spans)}</div>{cut}'
        return f"<figure>{block}<figcaption>{html.escape(self.sentence)}</figcaption></figure>"

    def draw(self, ax: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        n, rows, colours = min(len(self.chars), MOST_DRAWN), self._lines, self.colours()
        picture = np.full((rows, min(COLUMNS, max(n, 1)), 3), 255)
        for k in range(n):
            row, column = divmod(k, COLUMNS)
            picture[row, column] = colours[k]
            ink = "white" if _is_dark(colours[k]) else "black"
            piece = safe(_printable(self.chars[k].replace("\n", "↵"))[:3])
            ax.text(column, row, piece, color=ink, ha="center", va="center", family="monospace", fontsize=8)
        ax.imshow(picture.astype(np.uint8), aspect="auto", interpolation="nearest")
        ax.set(title="Text in the colours of its numbers", yticks=[], xlabel="character of the line", ylabel="line")
        ramp = ListedColormap(COLOURS / 255.0)
        ax.figure.colorbar(ScalarMappable(Normalize(*self.scale), ramp), ax=ax, label="value")


def colored_text(chars: Any, values: Any, *, low: float | None = None, high: float | None = None) -> ColoredText:
    """Text in the colours of numbers, one for each character or piece: in a notebook, a terminal, or a picture.

        colour[n] = (values[n] - low) / (high - low), from dark blue to yellow

    (Karpathy, Johnson and Fei-Fei, 2015, found their units by it.) `print` colours a terminal; the HTML has every
    number as the title of its character, in full.

    Args:
        chars: a string, or a list of pieces of text.
        values: [n], a number for each; NaN is grey.
        low, high: the numbers at the ends of the colours: by default 0 and 1 for what lies between, else symmetrical
            about zero if there are negative numbers.

    Returns:
        A result with `values` and `chars`.

    Raises:
        ValueError: there are not as many numbers as characters; low is not below high.
        TypeError: chars are no text.

        >>> import tinygrad_rnn as tg
        >>> found = tg.study.colored_text("a<b", [0.0, 0.5, 1.0])
        >>> found._repr_html_().count("<span"), "&lt;" in found._repr_html_(), str(found)[:20]
        (3, True, '\\x1b[48;2;0;34;78;38;5;')
    """
    pieces = list(chars)
    if not all(isinstance(piece, str) for piece in pieces):
        raise TypeError("colored_text: chars must be a string, or a list of strings")
    numbers = as_array(values).astype(np.float64)
    if numbers.shape != (len(pieces),):
        raise ValueError(
            f"colored_text: expected a number for each of {len(pieces)} characters, got {list(numbers.shape)}"
        )
    ends = limits(numbers)
    scale = float(ends[0] if low is None else low), float(ends[1] if high is None else high)
    if not scale[0] < scale[1]:
        raise ValueError(f"colored_text: low={scale[0]} must be below high={scale[1]}")
    return ColoredText(pieces, numbers, scale)


def _printable(text: str) -> str:
    """Control characters as pictures of them, so that none moves a cursor."""
    return "".join(
        c if c.isprintable() else chr(0x2400 + ord(c)) if ord(c) < 32 else "�" for c in text
    )


def _is_dark(rgb: Any) -> bool:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 128
