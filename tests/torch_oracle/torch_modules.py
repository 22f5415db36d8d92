"""PyTorch's side of modules, optimisers and schedules: samples, and what it answers."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch.testing._internal.common_modules import module_db

import tinygrad_rnn as tg
from torch_oracle.cases import Case, tree_leaves, tree_map
from torch_oracle.modules import ModuleCase, ModuleOutcome
from torch_oracle.optimisers import OptimiserCase
from torch_oracle.samples import fresh, plain, to_numpy
from torch_oracle.schedules import ScheduleCase, advance, make, readings

MODULES = {info.name.removeprefix("nn."): info for info in module_db}


def module_samples(name: str, training: bool, dtype: torch.dtype = torch.float64) -> Iterator[tuple[Case, Case]]:
    """PyTorch's samples of a module: the constructor's call and the forward call, with torch tensors."""
    torch.manual_seed(0)
    info = MODULES[name]
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        constructor, forward = sample.constructor_input, sample.forward_input
        bound = inspect.signature(getattr(torch.nn, name).forward).bind(None, *forward.args, **forward.kwargs)
        bound.apply_defaults()
        inputs = tree_map(fresh, bound.args[1:])
        yield Case(name, constructor.args, constructor.kwargs), Case(name, inputs)


def ours(option):
    """An option of a module as it is here: a function is the one of the same name."""
    return getattr(tg.nn.functional, option.__name__) if callable(option) else option


def ask_module(constructor: Case, inputs: tuple, training: bool, dtype: torch.dtype = torch.float64, seed: int = 0):
    """The case as plain data, and PyTorch's answer to it."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kind = getattr(torch.nn, constructor.op)
    has_dtype = issubclass(kind, torch.nn.RNNBase) or "dtype" in inspect.signature(kind).parameters
    typed = {"dtype": dtype} if has_dtype else {}
    module = kind(*constructor.args, **typed, **constructor.kwargs).train(training)
    with torch.no_grad():  # LayerNorm starts with ones and zeros, which would hide a mix-up
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=dtype, generator=generator)
    state = {key: value.detach().numpy().copy() for key, value in module.state_dict().items()}
    options = tree_map(ours, (constructor.args, constructor.kwargs))
    case = ModuleCase(constructor.op, *options, state, tree_map(plain, inputs), training, str(dtype)[6:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which of its kernels PyTorch uses
        outputs = module(*inputs)
    flat = [output for output in tree_leaves(outputs) if output.requires_grad]  # not the places of the largest
    cotangents = [torch.randn(o.shape, dtype=dtype, generator=generator) for o in flat]
    leaves = [x for x in tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.requires_grad]
    named = dict(module.named_parameters())
    gradients = torch.autograd.grad(flat, leaves + list(named.values()), cotangents, allow_unused=True)
    return case, ModuleOutcome(
        outputs=tree_map(lambda o: o.detach().numpy().copy(), outputs),
        cotangents=to_numpy(cotangents),
        inputs=to_numpy(gradients[: len(leaves)]),
        parameters=dict(zip(named, to_numpy(gradients[len(leaves) :]))),
    )


# Every option at least once, two parameter groups of different options each.
OPTIMISERS: list[tuple[str, list[dict]]] = [
    ("SGD", [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.1}]),
    ("SGD", [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}]),
    ("SGD", [{"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.02, "maximize": True}]),
    ("SGD", [{"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.1}, {"lr": 0.3}]),
    ("Adam", [{"lr": 0.01}, {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}]),
    ("Adam", [{"lr": 0.01, "amsgrad": True}, {"lr": 0.02, "maximize": True, "amsgrad": True, "weight_decay": 0.01}]),
    ("AdamW", [{"lr": 0.01}, {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.2}]),
    ("AdamW", [{"lr": 0.01, "amsgrad": True}, {"lr": 0.02, "maximize": True, "amsgrad": True, "weight_decay": 0.0}]),
    ("RMSprop", [{"lr": 0.01}, {"lr": 0.1, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1}]),
    ("RMSprop", [{"lr": 0.01, "centered": True}, {"lr": 0.02, "momentum": 0.9, "centered": True}]),
    ("RMSprop", [{"lr": 0.01, "momentum": 0.9}, {"lr": 0.02, "maximize": True, "weight_decay": 0.01}]),
    ("Adagrad", [{"lr": 0.1}, {"lr": 0.2, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-4}]),
    ("Adagrad", [{"lr": 0.1, "initial_accumulator_value": 0.5}, {"lr": 0.2, "maximize": True}]),
    ("Adadelta", [{"lr": 1.0}, {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}]),
    ("NAdam", [{"lr": 0.01}, {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}]),
    ("NAdam", [{"lr": 0.02, "momentum_decay": 0.1, "maximize": True},
               {"lr": 0.03, "weight_decay": 0.2, "decoupled_weight_decay": True}]),
    ("Rprop", [{"lr": 0.01}, {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.2), "maximize": True}]),
    ("ASGD", [{"lr": 0.1}, {"lr": 0.05, "lambd": 0.1, "alpha": 0.6, "t0": 5, "weight_decay": 0.1}]),
    ("ASGD", [{"lr": 0.1, "t0": 0, "lambd": 0.0, "maximize": True}, {"lr": 0.3, "t0": 20, "lambd": 0.5}]),
]


def ask_optimiser(
    name: str, groups: list[dict], steps: int = 50, seed: int = 0, states: list | None = None
) -> tuple[OptimiserCase, list]:
    """The run as plain data, and PyTorch's parameters after every step; `states` gets its state dicts."""
    random = np.random.default_rng(seed)
    start = [random.standard_normal(shape) for shape in [(3, 4), (5,)]]
    gradients = [[random.standard_normal(array.shape) for array in start] for _ in range(steps)]
    for step in range(3, steps, 7):  # a parameter the loss did not reach is left alone, decay and momentum included
        gradients[step][1] = None
    parameters = [torch.tensor(array, requires_grad=True) for array in start]
    with in_float64():
        trace = steps_of(name, groups, parameters, gradients, states)
    return OptimiserCase(name, groups, start, gradients, reload_at=steps // 2), trace


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """PyTorch keeps some numbers of an optimiser's state (mu_product, eta) in its default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def steps_of(name: str, groups: list[dict], parameters: list[torch.Tensor], gradients: list, states: list | None):
    """The parameters after every step, and beside them the averages of those optimisers that keep some."""
    optimiser = getattr(torch.optim, name)([{"params": [p], **copy.deepcopy(g)} for p, g in zip(parameters, groups)])
    trace = []
    for step in gradients:
        for parameter, gradient in zip(parameters, step):
            parameter.grad = None if gradient is None else torch.tensor(gradient)
        optimiser.step()
        averages = [optimiser.state[p]["ax"] for p in parameters if "ax" in optimiser.state[p]]
        trace.append([p.detach().numpy().copy() for p in (*parameters, *averages)])
        if states is not None:
            states.append(copy.deepcopy(optimiser.state_dict()))
    return trace


def ask_schedule(case: ScheduleCase, states: list | None = None) -> list[np.ndarray]:
    """What can be read off PyTorch's schedules before the first step and after each; it never reloads.

    Args:
        states: gets the state dicts after each step: the optimiser's and those of the schedules.
    """
    groups = [{"params": [torch.zeros(1, requires_grad=True)], **group} for group in case.groups]
    optimiser = getattr(torch.optim, case.optimiser)(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that optimiser.step() is not called
        schedulers = make(torch.optim.lr_scheduler, case.schedules, optimiser)
        trace = [readings(optimiser, schedulers)]
        for metric in case.metrics:
            for scheduler in schedulers:
                advance(scheduler, metric)
            trace.append(readings(optimiser, schedulers))
            if states is not None:
                states.append(copy.deepcopy((optimiser.state_dict(), [s.state_dict() for s in schedulers])))
    return trace
