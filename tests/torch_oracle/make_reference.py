"""Writes tests/reference/*.npz: what PyTorch answers, for a machine that has no PyTorch.

    PYTHONPATH=tests python -m torch_oracle.make_reference

Small samples of every op, recurrent module, optimiser and schedule, in float64, and all of our edges;
tests/test_reference.py replays them. Run it after a change to the samples; the random state is fixed, so an unchanged
one keeps its numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_oracle import vectors
from torch_oracle.cases import Case, Outcome, Refused, call, lookup, tree_leaves
from torch_oracle.modules import ModuleCase, ModuleOutcome
from torch_oracle.optimisers import OptimiserCase
from torch_oracle.samples import OPS, ask, samples
from torch_oracle.schedules import SCHEDULES, ScheduleCase
from torch_oracle.torch_keywords import keywords
from torch_oracle.torch_modules import OPTIMISERS, ask_module, ask_optimiser, ask_schedule, module_samples
from torch_oracle.torch_papers import papers

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
PER_OP = 5
LARGEST = 100  # numbers in the arguments of a sample, where PyTorch has one as small as that
LARGEST_TWICE = 40  # with second derivatives
STEPS = 12


def size(case: Case) -> int:
    return sum(leaf.array.size for leaf in tree_leaves((case.args, case.kwargs)) if hasattr(leaf, "array"))


def supported(case: Case) -> bool:
    """Refusals are listed and tested elsewhere; here are only samples with an answer."""
    try:
        call(lookup(case.op), case)
    except Refused:
        return False
    return True


def spread(sequence: list, number: int) -> list:
    """`number` items from all over the list: neighbours in PyTorch's lists of samples are alike."""
    return [sequence[i] for i in sorted({round(k * (len(sequence) - 1) / (number - 1)) for k in range(number)})]


def ops() -> dict[str, list[tuple[Case, Outcome]]]:
    chosen = {}
    for key, op in OPS.items():
        numbered = [(seed, *sample) for seed, sample in enumerate(samples(op, torch.float64)) if supported(sample[0])]
        smallest = min((size(case) for _, case, _, _ in numbered), default=0)
        small = [sample for sample in numbered if size(sample[1]) <= max(smallest, LARGEST)]
        chosen[key] = [
            (case, ask(op.op, args, kwargs, seed, twice=op.supports_gradgrad and size(case) <= LARGEST_TWICE))
            for seed, case, args, kwargs in spread(small, PER_OP)
        ] + [
            (case, ask(op.op, args, kwargs, seed, twice=False))
            for seed, (case, args, kwargs) in enumerate(samples(op, torch.float64, "edge"))
        ]
    return {key: pairs for key, pairs in chosen.items() if pairs}


def modules() -> list[tuple[ModuleCase, ModuleOutcome]]:
    names = "RNNCell LSTMCell GRUCell RNN LSTM GRU Linear LayerNorm Embedding MultiheadAttention".split()
    sampled = [
        ask_module(constructor, forward.args, training=True)
        for name in names
        for constructor, forward in spread(list(module_samples(name, training=True)), PER_OP)
        if sum(x.numel() for x in tree_leaves(forward.args) if isinstance(x, torch.Tensor)) <= LARGEST
    ]
    torch.manual_seed(0)
    layers = [
        ("RNN", {"nonlinearity": "tanh"}, (7, 3, 4)),
        ("RNN", {"nonlinearity": "relu", "num_layers": 2}, (5, 2, 4)),
        ("GRU", {"num_layers": 2, "bidirectional": True}, (5, 3, 4)),
        ("GRU", {"bias": False, "batch_first": True}, (3, 5, 4)),
        ("LSTM", {"num_layers": 2, "bidirectional": True}, (5, 3, 4)),
        ("LSTM", {"proj_size": 2, "batch_first": True}, (3, 5, 4)),
        ("LSTM", {}, (19, 2, 4)),
    ]
    return sampled + [
        ask_module(Case(name, (4, 6), options), (torch.randn(shape, dtype=torch.float64, requires_grad=True),), True)
        for name, options, shape in layers
    ]


def optimisers() -> list[tuple[OptimiserCase, list]]:
    """The state after the last step holds every earlier one's effect."""
    runs = (ask_optimiser(name, groups, STEPS, seed) for seed, (name, groups) in enumerate(OPTIMISERS))
    return [(case, trace[-1]) for case, trace in runs]


def schedules() -> list[tuple[ScheduleCase, list]]:
    """What was read off after every step: the last one may be that of any schedule that has ended."""
    return [(case, ask_schedule(case)) for case in SCHEDULES]


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for make in (ops, modules, optimisers, schedules, keywords, papers):
        path = REFERENCE / f"{make.__name__}.npz"
        tree = make()
        vectors.save(path, tree)
        print(f"{path.name}: {len(tree)} entries, {path.stat().st_size / 1e3:.0f} kB")
