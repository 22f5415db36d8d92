"""What the pictures ask of a model: to stand still while they look, and which recurrent layers it has."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor
from ..nn.cell import Cell
from ..nn.module import Module
from ..nn.recording import recurrent_layers
from ..nn.recurrent import Recurrent


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """While somebody looks: what draws random numbers is off; every module is left in the mode that it was in."""
    every = [each for module in modules if isinstance(module, Module) for each in module.modules()]
    modes = [each.training for each in every]
    try:
        for module in every:
            module.training = False
        yield
    finally:
        for module, mode in zip(every, modes):
            module.training = mode


@contextmanager
def frozen(model: Module) -> Iterator[None]:
    """Meanwhile no parameter wants a gradient, computed for nothing; graphs that know them do not mind."""
    places = [(p, p.node) for p in model.parameters()]
    try:
        for p, _ in places:
            p.node = None
        yield
    finally:
        for p, place in places:
            p.node = place


def layer_of(who: str, model: Any, layer: int) -> Recurrent:
    """One of the recurrent layers of a model, in order.

    Raises:
        TypeError: the model is no module, or has none.
        ValueError: it has not so many.
    """
    found = list(recurrent_layers(model)) if isinstance(model, Module) else []
    if not found:
        raise TypeError(f"{who}: there is no recurrent layer in {type(model).__name__}")
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 0 <= layer < len(found):
        raise ValueError(f"{who}: layer={layer!r}: the model has {len(found)}, from 0 to {len(found) - 1}")
    return found[layer]


def cell_of(who: str, model: Any) -> Cell:
    """A cell, or that of the only recurrent layer of a model."""
    if isinstance(model, Cell):
        return model
    scan = layer_of(who, model, 0)
    several = len(list(recurrent_layers(model)))
    if several > 1:
        raise TypeError(f"{who}: {type(model).__name__} has {several} recurrent layers: give the cell of one of them")
    return scan.cell


def output_of(who: str, returned: Any) -> Tensor:
    """The output of a model that may return states as well."""
    y = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
    if not isinstance(y, Tensor):
        raise TypeError(f"{who}: the model returned {type(y).__name__}, not a tensor")
    return y
