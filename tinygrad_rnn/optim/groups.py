"""Which parameters decay: groups for an optimiser, weights apart from biases and norms."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from ..nn.layers import LayerNorm
from ..nn.module import Module


def decay_groups(model: Module, weight_decay: float, undecayed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The parameters of a model in two groups: those that weight decay should shrink, and those that it should not.

        >>> import tinygrad_rnn as tg
        >>> decayed, others = tg.optim.decay_groups(tg.nn.Linear(3, 4), weight_decay=0.01)
        >>> [p.shape for p in decayed["params"]], [p.shape for p in others["params"]]
        ([(4, 3)], [(4,)])

        optimizer = tg.optim.AdamW(tg.optim.decay_groups(model, weight_decay=0.1), lr=1e-3)

    What multiplies an input decays: shrinking it makes the model smoother. Biases, and the scales and shifts of
    normalisation, only move and scale what is there, and are no simpler for being small. So a parameter does not decay
    if it has fewer than two dimensions, belongs to a `LayerNorm`, or is named in `undecayed`.

    Args:
        model: whose parameters; each is in one group, under the first name that leads to it.
        weight_decay: of the first group; that of the second is 0.
        undecayed: patterns of names as in a shell, such as "embedding.*" or "*.initial_state".

    Returns:
        The groups, decayed first; one that would be empty is left out.

    Raises:
        ValueError: weight_decay is negative or not finite, a pattern fits no name, or there are no parameters.

    Source: Goodfellow, Bengio, Courville, "Deep learning", 2016, section 7.1, on biases.
    """
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"decay_groups: weight_decay must be at least 0 and finite, got {weight_decay}")
    named = list(model.named_parameters())
    if not named:
        raise ValueError(f"decay_groups: {type(model).__name__} has no parameters")
    left_out = {id(p) for norm in model.modules() if isinstance(norm, LayerNorm) for p in norm.parameters()}
    for pattern in [undecayed] if isinstance(undecayed, str) else undecayed:
        found = [id(p) for name, p in named if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"decay_groups: no parameter is called {pattern!r}; there are {', '.join(dict(named))}")
        left_out.update(found)
    stays = {name: p.ndim < 2 or id(p) in left_out for name, p in named}
    groups = [
        {"params": [p for name, p in named if not stays[name]], "weight_decay": weight_decay},
        {"params": [p for name, p in named if stays[name]], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
