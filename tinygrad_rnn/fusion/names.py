"""Names for generated code: every one an identifier that means one thing, near to what the user wrote.

    names = Names(RESERVED, FORMS)
    names.new("W"), names.new("in gate"), names.new("W"), names.new("len")     ->      W, in_gate, W_2, len_

What the user named comes from anywhere: keys of dictionaries, attributes, variables. No such name may be a word that
generated code is made of, nor one that it derives from others by an ending such as `_saved`.
"""

import keyword
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive

# What the modules of kernels may import, by the modules of `kernels` where it is.
IMPORTS = {
    "arena": {"carve", "clear", "rows_of"},
    "matmul": {"copy", "fill_panels", "multiply", "product", "sum_rows"},
    "outline": {"kernel", "row_function"}, "sharing": {"share"},
}  # fmt: skip
BUILTINS = {"float", "len", "min", "range"}  # that they call
OWN = {  # what they call their own
    "B", "CACHE", "H", "I", "PANEL", "ROW_BYTES", "T", "arena", "backward", "dy", "each", "ending", "first",
    "forward", "going", "here", "hi", "j", "keep", "last", "lo", "new", "now", "old", "ragged", "ranges",
    "real", "residuals", "row", "stages", "starts", "t", "threads", "tile", "top", "total", "workspace",
}  # fmt: skip
MATHS = {  # the functions of formulas
    name
    for row in table.TABLE.values()
    if isinstance(row, ElementwisePrimitive)
    for name in re.findall(r"\b([^\W\d]\w*)\(", row.formula)
}
RESERVED = frozenset({*OWN, *BUILTINS, *MATHS, *(row.name for row in table.TABLE.values())}.union(*IMPORTS.values()))
# Sizes, functions, arrays, elements of arrays.
FORMS = re.compile(
    r"H_\d+|(forward|backward)_\d+|dy_\w+|\w+_(j|in|saved|buffer|packed|all|sum|zero|(out|copy)(_\d+)?)"
)


def identifier(text: str) -> str:
    """The text with an underscore for all that cannot be in a name, as Python will read it."""
    name = re.sub(r"\W", "_", unicodedata.normalize("NFKC", text)) or "_"
    if not f"_{name}".isidentifier():  # it has a sign that Python knows as a letter and does not take as one
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not name.isidentifier() or keyword.iskeyword(name) or name == "__debug__":
        name = f"{name}_" if name.isidentifier() else f"_{name}"
    return name


def printable(title: str) -> str:
    """A title in one line that can stand between quotation marks in source."""
    return repr(title)[1:-1].replace('"', '\\"')


class Names:
    """Names of one scope, each given once.

    Args:
        reserved: names that are never given.
        forms: nor are those that match this.
        given: names that have been.
        by: who has given them.

    Attributes:
        words: of each name, what the user calls it, or what was asked for.
    """

    def __init__(
        self, reserved: Iterable[str] = (), forms: re.Pattern[str] | None = None, given: Iterable[str] = (),
        by: Any = None,
    ) -> None:
        self.reserved, self.forms = frozenset(reserved), forms
        self.counts = dict.fromkeys(given, 1)
        self.words: dict[str, str] = {name: by.words[name] for name in self.counts} if by else {}

    def __contains__(self, name: str) -> bool:
        return name in self.counts

    def new(self, wanted: str, word: str = "") -> str:
        """A name that nobody has yet: this one if it can be; the user may call it by another word."""
        name = identifier(wanted)
        while True:
            if name in self.reserved or (self.forms and self.forms.fullmatch(name)):
                name += "_"
            count = self.counts[name] = self.counts.get(name, 0) + 1
            if count == 1 and name not in self.reserved:
                self.words[name] = word or wanted
                return name
            name = f"{name}_{count}"
