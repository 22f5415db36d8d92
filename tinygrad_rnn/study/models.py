"""What the pictures ask of a model: to stand still while they look, and which recurrent layers it has."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..autograd.operands import is_whole
from ..autograd.tape import OUR_FILES
from ..autograd.tensor import Tensor
from ..nn.cell import Cell
from ..nn.module import Module
from ..nn.recording import recurrent_layers
from ..nn.recurrent import Recurrent


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """While somebody looks: what draws random numbers is off; every module is left in the mode that it was in."""
    every = {id(each): each for module in modules if isinstance(module, Module) for each in module.modules()}
    training = [each for each in every.values() if each.training]  # setting the others would make all cells look around
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


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


def modules_of(f: Any) -> list[Module]:
    """The modules that a function names.

    Itself, whose method it is, the variables that it reads, and those of the functions among these; what stands behind
    a name may also be an object that has modules as attributes.
    """
    found: dict[int, Module] = {}
    seen: set[int] = set()
    ahead = [f]
    while ahead:
        each = ahead.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Module):
            found[id(each)] = each
        elif isinstance(each, functools.partial):
            ahead += [each.func, *each.args, *each.keywords.values()]
        elif isinstance(each, types.MethodType):
            ahead += [each.__self__, each.__func__]
        elif isinstance(each, types.FunctionType):
            ahead += _read_by(each)
        elif isinstance(each, (list, tuple)):
            ahead += [item for item in each if isinstance(item, Module)]
        elif isinstance(each, dict):
            ahead += [item for item in each.values() if isinstance(item, Module)]
        elif not isinstance(each, type):
            ahead += [item for item in getattr(each, "__dict__", {}).values() if isinstance(item, Module)]
    return list(found.values())


def _read_by(function: types.FunctionType) -> list[Any]:
    """What the names in a function stand for; not in one of this package, which knows no module of a user's."""
    if OUR_FILES[function.__code__.co_filename]:
        return []
    names: set[str] = set()
    ahead: list[Any] = [function.__code__]
    while ahead:
        code = ahead.pop()
        names.update(code.co_names)
        ahead += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # a variable that has no value yet
            pass
    return [*found, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def layer_of(who: str, model: Any, layer: int) -> Recurrent:
    """One of the recurrent layers of a model, in order.

    Raises:
        TypeError: the model is no module, or has none.
        ValueError: it has not so many.
    """
    found = list(recurrent_layers(model)) if isinstance(model, Module) else []
    if not found:
        raise TypeError(f"{who}: there is no recurrent layer in {type(model).__name__}")
    if not is_whole(layer) or not 0 <= layer < len(found):
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
