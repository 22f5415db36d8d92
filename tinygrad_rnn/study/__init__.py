"""Pictures of what happens inside: arrays, and how they are drawn.

In reading order: `layout` (where boxes go), `repeats` (loops on a tape), `graph` (a tape or a step), `replay` (the
backward pass in frames), `shown` (how objects show themselves in a notebook), `summary` (sizes, work and memory of
layers), `explained` (a step beside what became of it).
"""

from .explained import Explained, explain
from .graph import Graph, graph
from .replay import Replay, replay
from .shown import ops
from .summary import Summary, summary
