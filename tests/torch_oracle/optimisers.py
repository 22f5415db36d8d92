"""An optimiser's run as plain data, and how tinygrad_rnn makes it. No PyTorch here."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

import tinygrad_rnn as tg
from torch_oracle.cases import Tolerance

TOLERANCE = Tolerance(1e-10, 1e-2, 0.0)


@dataclass
class OptimiserCase:
    """`groups` are option dicts, one per parameter; `gradients[step][i]` may be None: no gradient in that step."""

    name: str
    groups: list[dict]
    start: list[np.ndarray]
    gradients: list[list]
    reload_at: int

    def __str__(self) -> str:
        return f"{self.name}({'; '.join(', '.join(f'{k}={v}' for k, v in g.items()) for g in self.groups)})"


def entries(state: dict) -> dict:
    """What a state dict holds of each parameter; PyTorch has None for what is not there yet."""
    named = {i: {name for name, value in its.items() if value is not None} for i, its in state["state"].items()}
    return {i: names for i, names in named.items() if names}


def run(case: OptimiserCase, state: dict | None = None) -> list[list[np.ndarray]]:
    """The parameters after every step, and their averages if there are any.

    Midway a new optimiser takes over from the old one's state_dict, or from `state`, which must have the same entries.
    """

    def optimiser_of(parameters, groups):
        return getattr(tg.optim, case.name)([{"params": [p], **g} for p, g in zip(parameters, groups)])

    parameters = [tg.tensor(array, requires_grad=True) for array in case.start]
    optimiser = optimiser_of(parameters, case.groups)
    trace = []
    for step, gradients in enumerate(case.gradients):
        if step == case.reload_at:
            saved = copy.deepcopy(optimiser.state_dict())
            if state is not None:
                assert entries(state) == entries(saved)
                saved = state
            parameters = [tg.tensor(np.array(p.numpy()), requires_grad=True) for p in parameters]
            optimiser = optimiser_of(parameters, [{"lr": 123.0}] * len(parameters))  # every option comes from the state
            optimiser.load_state_dict(saved)
        optimiser.zero_grad()
        terms = [(p * tg.tensor(g)).sum() for p, g in zip(parameters, gradients) if g is not None]
        sum(terms[1:], terms[0]).backward()
        optimiser.step()
        averages = [optimiser.state[p]["ax"] for p in parameters if "ax" in optimiser.state[p]]
        trace.append([*(np.array(p.numpy()) for p in parameters), *map(np.array, averages)])
    return trace
