"""A module with its weights and inputs as plain data, and how to run it with tinygrad_rnn. No PyTorch here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import numpy as np

import tinygrad_rnn as tg
from torch_oracle.cases import Index, Leaf, Tolerance, brief, compare, compare_all, to_numpy, tree_leaves, tree_map

# Recurrent sums in another order than PyTorch's, so the last digits differ; still ten common digits.
TOLERANCE = {
    "float64": Tolerance(1e-10, 1e-2, 1e-13),
    "float32": Tolerance(2e-4, 1e-1, 2e-6),
}


@dataclass
class ModuleCase:
    """tg.nn.<name>(*args, dtype=..., **kwargs) with these weights, called on `inputs`."""

    name: str
    args: tuple
    kwargs: dict
    state: dict[str, np.ndarray]
    inputs: tuple
    training: bool = True
    dtype: str = "float64"

    def __str__(self) -> str:
        options = ", ".join([*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())])
        return f"{self.name}({options})({', '.join(map(brief, self.inputs))})"


@dataclass
class ModuleOutcome:
    """Outputs (structure and all), and the gradients of sum(<output, cotangent>) by inputs and parameters."""

    outputs: object
    cotangents: list = field(default_factory=list)
    inputs: list = field(default_factory=list)
    parameters: dict = field(default_factory=dict)


def build(case: ModuleCase) -> tg.nn.Module:
    """The module with its weights loaded."""
    kind = getattr(tg.nn, case.name)
    dtype = {"dtype": np.dtype(case.dtype)} if "dtype" in inspect.signature(kind).parameters else {}
    module = kind(*case.args, **dtype, **case.kwargs)
    module.load_state_dict(case.state)
    return module.train(case.training)


def engines(case: ModuleCase) -> tuple:
    """Where there are two, the fused kernels and the tape have to agree with PyTorch, and neither for the other."""
    return ("require", "never") if case.name in ("RNN", "LSTM", "GRU") else (None,)


def run(case: ModuleCase, cotangents: list, fused: str | None = None) -> ModuleOutcome:
    """Forward and backward with tinygrad_rnn, by the engine that `fused` names."""
    module, leaves = build(case), []
    if fused:
        module.fused = fused

    def argument(node):
        if isinstance(node, Leaf):
            leaves.append(tg.tensor(node.array, requires_grad=node.requires_grad))
            return leaves[-1]
        return node.array if isinstance(node, Index) else node

    outputs = module(*tree_map(argument, case.inputs))
    differentiable = [o for o in tree_leaves(outputs) if o.requires_grad]
    terms = [(o * tg.tensor(c)).sum() for o, c in zip(differentiable, cotangents)]
    sum(terms[1:], terms[0]).backward()
    return ModuleOutcome(
        outputs=tree_map(lambda o: np.array(o.numpy()), outputs),
        cotangents=cotangents,
        inputs=[to_numpy(leaf.grad) for leaf in leaves if leaf.requires_grad],
        parameters={name: to_numpy(p.grad) for name, p in module.named_parameters()},
    )


def compare_modules(actual: ModuleOutcome, expected: ModuleOutcome, dtype: str = "float64") -> list[str]:
    """What is wrong with `actual`, if anything."""
    tolerance = TOLERANCE[dtype]
    structure = [tree_map(lambda _: None, outcome.outputs) for outcome in (actual, expected)]
    if structure[0] != structure[1]:
        return [f"outputs are nested as {structure[0]}, not {structure[1]}"]
    if list(actual.parameters) != list(expected.parameters):
        return [f"parameters are {list(actual.parameters)}, not {list(expected.parameters)}"]
    wrong = compare_all("output", list(tree_leaves(actual.outputs)), list(tree_leaves(expected.outputs)), tolerance)
    wrong += compare_all("gradient of input", actual.inputs, expected.inputs, tolerance)
    pairs = ((name, actual.parameters[name], gradient) for name, gradient in expected.parameters.items())
    return wrong + [w for w in (compare(f"gradient of {n}", a, e, tolerance) for n, a, e in pairs) if w]
