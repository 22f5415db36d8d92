"""What the classes of the rooms below show of themselves: they know no pictures, and are given theirs here.

The study kit is loaded when one of these is called, not before.
"""

from typing import TYPE_CHECKING, Any

from .autograd.tensor import Tensor
from .nn.module import Module
from .nn.recording import Recording
from .nn.recurrent import Recurrent
from .nn.stacked import Stack

if TYPE_CHECKING:
    from .study.boxes import Graph


def _tensor(self: Tensor) -> str:
    from .study.shown import tensor_html

    return tensor_html(self)


def _module(self: Module) -> str:
    from .study.shown import module_html

    return module_html(self)


def _recording(self: Recording) -> str:
    from .study.shown import recording_html

    return recording_html(self)


def _graph(self: Tensor, *, names: dict[str, Any] | None = None) -> "Graph":
    """The tape behind this tensor as a picture, see `tg.study.graph`."""
    from .study.graph import graph

    return graph(self, names=names)


def _plot(self: Recording, name: str, ax: Any = None, **options: Any) -> Any:
    """`study.heatmap` of a value, "f", or a gradient, "df", as a picture on Axes, which are returned."""
    from .study.maps import heatmap

    return heatmap(self, name, **options).plot(ax)


def _explain_html(self: Recurrent | Stack) -> Any:
    """See `study.explain`."""
    from .study.explained import explain

    return explain(self, html=True)


for kind, name, method in (
    (Tensor, "_repr_html_", _tensor),
    (Module, "_repr_html_", _module),
    (Recording, "_repr_html_", _recording),
    (Tensor, "graph", _graph),
    (Recording, "plot", _plot),
    (Recurrent, "_explain_html", _explain_html),
    (Stack, "_explain_html", _explain_html),
):
    method.__name__, method.__qualname__ = name, f"{kind.__name__}.{name}"
    setattr(kind, name, method)
