"""Whether copies of a cell are cells of their own: deepcopy, pickle, state_dict."""

import copy
import pickle
from typing import Any

import numpy as np

from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.module import Parameter
from .lines import line_of_attribute, line_of_step
from .subject import Found, Subject, close


def check_deepcopy(s: Subject) -> Found:
    """A deep copy computes the same, with parameters of its own."""
    try:
        twin = copy.deepcopy(s.cell)
    except Exception as error:
        yield f"copy.deepcopy(cell) raises {type(error).__name__}: {error}", line_of_attribute(s.cell)
        return
    yield from differences(s, twin, "a deep copy")


def check_pickle(s: Subject) -> Found:
    """A pickled cell comes back and computes the same."""
    kind = type(s.cell)
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        s.report.notes.append(f"{kind.__qualname__} is not defined in a module, and so pickle cannot find it")
        s.report.untried.append("pickle")
        return
    try:
        twin = pickle.loads(pickle.dumps(s.cell))
    except Exception as error:
        yield f"pickle raises {type(error).__name__}: {error}", line_of_attribute(s.cell)
        return
    yield from differences(s, twin, "what pickle gives back")


def differences(s: Subject, twin: Any, what: str) -> Found:
    """Where a copy computes other numbers, or with parameters that are not its own."""
    other = Subject(twin, s.I, s.values, s.report)
    other.I = s.I
    with no_grad():
        expected = [y.data for y in s.run("never", s.x())]
        if not close([y.data for y in other.run("never", s.x())], expected):
            yield f"{what} computes other numbers", line_of_attribute(s.cell)
            return
        effect = {name: p.data.copy() for name, p in s.cell.named_parameters()}
        for p in twin.parameters():
            p.data = p.data * 0.5 - 0.1
        for (name, before), p in zip(effect.items(), s.cell.parameters()):
            if not np.array_equal(before, p.data):
                yield f"{what} has its {name} in common with the cell", line_of_attribute(s.cell)
                return
        changed = [y.data for y in other.run("never", s.x())]
        for mine, its in zip(s.cell.parameters(), twin.parameters()):
            mine.data = its.data.copy()
        own = [y.data for y in s.run("never", s.x())]
        if not close(own, changed):
            yield f"{what} does not compute with the parameters of its own: an attribute, such as a function made in " \
                "__init__, leads to those of the cell it was copied from", \
                line_of_step(s.cell, r"lambda|partial|self\.\w+ = self\.", "__init__")  # fmt: skip


def check_state_dict(s: Subject) -> Found:
    """All that is learned is in `state_dict`, which another cell can load."""
    known = {id(p) for p in s.cell.parameters()}
    for name, value in vars(s.cell).items():
        found = [value, *(value if isinstance(value, (list, tuple, set)) else ())]
        for x in found:
            if isinstance(x, Tensor) and id(x) not in known and (x.requires_grad or isinstance(x, Parameter)):
                yield f"self.{name} wants a gradient and is not in state_dict: write self.{name} = " \
                    "tg.nn.Parameter(...), in a list or dictionary if there are several", \
                    line_of_step(s.cell, rf"self\.{name}\s*=", "__init__")  # fmt: skip
                break
    state = s.cell.state_dict()
    with no_grad():
        expected = [y.data for y in s.run("never", s.x())]
        for p in s.cell.parameters():
            p.data = p.data + 1.0
        s.cell.load_state_dict(state)
        if not close([y.data for y in s.run("never", s.x())], expected):
            yield "after load_state_dict of its own state_dict the cell computes other numbers", line_of_step(s.cell)
