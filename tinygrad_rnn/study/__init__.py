"""The study kit: pictures of what happens inside a recurrent network, and the numbers that they are made of.

    >>> import tinygrad_rnn as tg
    >>> layer = tg.nn.LSTM(3, 4)
    >>> with tg.record(layer) as r:
    ...     y, _ = layer(tg.randn(7, 2, 3))
    >>> y[-1].sum().backward()
    >>> tg.study.heatmap(r, "f").values.shape  # NumPy arrays; .plot() draws them, and a notebook shows the picture
    (4, 7)

Every function returns a `Result`: arrays, one picture, and one sentence that says how to read it. None of them needs
matplotlib before it is asked to draw.

In reading order: `result`, `recorded`; what is recorded: `maps`, `flow`, `losses`, `gates`, `states`; what steps do:
`dynamics`; what a model does: `models`, `points`, `text`, `inputs`, `clamped`.
"""

from .clamped import ablate
from .dynamics import jacobians, lyapunov
from .flow import gradient_flow
from .gates import saturation, timescales
from .inputs import connectivity, integrated_gradients
from .losses import horizon
from .maps import heatmap
from .points import fixed_points
from .result import Result
from .states import trajectory
from .text import colored_text
