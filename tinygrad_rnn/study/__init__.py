"""The study kit: pictures of what happens inside a recurrent network, and the numbers that they are made of.

    >>> import tinygrad_rnn as tg
    >>> layer = tg.nn.LSTM(3, 4)
    >>> with tg.record(layer) as r:
    ...     y, _ = layer(tg.randn(7, 2, 3))
    >>> y[-1].sum().backward()
    >>> tg.study.heatmap(r, "f").values.shape  # NumPy arrays; .plot() draws them, and a notebook shows the picture
    (4, 7)

Every function of what is recorded returns a `Result`: arrays, one picture, and one sentence that says how to read it.
None of them needs matplotlib before it is asked to draw.

In reading order: `lapack`, `result`, `recorded`; what is recorded: `maps`, `flow`, `losses`, `gates`, `states`; what
steps do: `dynamics`; what a model does: `models`, `points`, `text`, `inputs`, `clamped`. `layout` (where boxes go),
`repeats` (loops on a tape), `boxes` (drawn), `graph` (of a tape or a step) and `replay` (the backward pass in frames)
draw the tape; `monitor` watches training; `shown` says how objects show themselves in a notebook, `summary` has sizes,
work and memory of layers, and `explained` a step beside what became of it.
"""

from .boxes import Graph
from .clamped import ablate
from .dynamics import jacobians, lyapunov
from .explained import Explained, explain
from .flow import gradient_flow
from .gates import saturation, timescales
from .graph import graph
from .inputs import connectivity, integrated_gradients
from .losses import horizon
from .maps import heatmap
from .monitor import Monitor
from .points import fixed_points
from .replay import Replay, replay
from .result import Result
from .shown import ops
from .states import trajectory
from .summary import Summary, summary
from .text import colored_text

__all__ = [
    "heatmap", "gradient_flow", "horizon", "saturation", "timescales", "trajectory", "jacobians", "lyapunov",
    "fixed_points", "colored_text", "connectivity", "integrated_gradients", "ablate", "Monitor",
    "graph", "replay", "explain", "summary", "ops", "Result", "Graph", "Replay", "Explained", "Summary",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
