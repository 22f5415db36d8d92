"""What a reader finds under the public names: what is meant for them, each with an example, and nothing else.

That the examples run, and print what they say, is seen in test_doctests.py.
"""

import inspect
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import tinygrad_rnn as tg

ROOMS = {
    room.__name__.replace("tinygrad_rnn", "tg"): room
    for room in (
        tg, tg.nn, tg.nn.cells, tg.nn.functional, tg.nn.init, tg.nn.utils,
        tg.nn.utils.parametrizations, tg.nn.utils.parametrize, tg.optim, tg.optim.lr_scheduler, tg.study,
        tg.interop, tg.adversarial,
    )
}  # fmt: skip
OF_NUMPY, OBJECTS = {np.float32, np.float64, np.int64}, {"ops"}
# By itself, besides what it inherits from Module.
OWN = {
    tg.nn.Cell: """advance begin candidate initial_state input_size masked recurrent_dropout sequence_values state_names
        step value_names""",
    tg.nn.Recurrent: "explain fused source",
    tg.nn.Module: """apply buffers children double eval extra_repr float forward load_state_dict modules named_buffers
        named_children named_modules named_parameters parameters register_buffer register_parameter requires_grad_
        state_dict to train training zero_grad""",
    tg.optim.Optimizer: """add_param_group check complete gradient_operands load_state_dict numbers
        read_state_dict register_step_post_hook register_step_pre_hook remembered state_dict
        step update zero_grad""",
}
each_room = pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)


def names(thing):
    """Those that are there: not the names of others that raise advice."""
    return {name for name in dir(thing) if not name.startswith("_") and hasattr(thing, name)}


def callables():
    """The functions and classes, each under its first name; of `testing` those that a user calls."""
    found = {}
    for path, room in ROOMS.items():
        for name in sorted(names(room)):
            value = getattr(room, name)
            if callable(value) and value not in OF_NUMPY:
                found.setdefault(id(value), (f"{path}.{name}", value))
    for value in (tg.testing.check_cell, tg.testing.parametrize_with_checks):
        found[id(value)] = (f"tg.testing.{value.__name__}", value)
    return dict(found.values())


CALLABLES = callables()


@each_room
def test_a_tab_completes_what_is_listed(room):
    """`dir` shows `__all__`, which a star imports; each name once, and each is there."""
    assert len(set(room.__all__)) == len(room.__all__)
    assert sorted(room.__all__) == dir(room)
    assert all(hasattr(room, name) for name in room.__all__)


@each_room
def test_names_are_of_what_is_documented(room):
    """No module that is used inside, no name of `typing`, no function of another library."""
    for name in names(room):
        value = getattr(room, name)
        if isinstance(value, types.ModuleType):
            assert value in [*ROOMS.values(), tg.testing], f"{name} is a module inside"
            assert value.__doc__
        elif not (name in OBJECTS or value in OF_NUMPY):
            assert value.__module__.startswith("tinygrad_rnn"), f"{name} is not ours"
            assert inspect.getdoc(value), f"{name} has no docstring"


def below(kind):
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


@pytest.mark.parametrize("kind", [tg.nn.Module, tg.optim.Optimizer, tg.optim.lr_scheduler.LRScheduler])
def test_what_is_there_has_a_public_name(kind):
    """A new layer, cell, loss, optimiser or schedule is listed; what several of them share need not be."""
    there = [each for each in below(kind) if each.__module__.startswith(("tinygrad_rnn.nn.", "tinygrad_rnn.optim."))]
    ours = [each for each in there if getattr(sys.modules[each.__module__], each.__name__, None) is each]
    last = [each for each in ours if not any(issubclass(other, each) for other in ours if other is not each)]
    public = set(map(id, CALLABLES.values()))
    assert [each for each in last if not each.__name__.startswith("_") and id(each) not in public] == []
    assert len(last) > 5


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_classes_show_what_users_call_or_define(kind):
    inherited = names(tg.nn.Module) if kind is not tg.nn.Module and issubclass(kind, tg.nn.Module) else set()
    assert names(kind) - inherited == set(OWN[kind].split())


def paragraphs(thing):
    return (inspect.getdoc(thing) or "").split("\n\n")


@pytest.mark.parametrize("path", CALLABLES)
def test_docstrings_have_an_example(path):
    """Behind the summary; of study and attacks, where it may need words before, anywhere."""
    summary, *rest = paragraphs(CALLABLES[path])
    assert ">>>" not in summary
    if path.startswith(("tg.study.", "tg.adversarial.")):
        assert any(part.lstrip().startswith(">>> ") for part in rest)
    else:
        assert rest and rest[0].lstrip().startswith(">>> "), f"{path}: an example follows the summary"


def undocumented(kind):
    """The names that a class adds: methods without a docstring, and attributes that none of its classes tells of."""
    shown = [name for name in names(kind) if hasattr(kind, name)]  # not a word of advice in a method's place
    inherited = {name for base in kind.__mro__[1:] for name in names(base)}
    told = " ".join((inspect.getdoc(each) or "") for each in kind.__mro__[:-1])
    for name in set(shown) - inherited:
        found = inspect.getattr_static(kind, name)
        found = getattr(found, "fget", None) or getattr(found, "__func__", found)
        if not (inspect.getdoc(found) if callable(found) else re.search(rf"\b{name}\b", told)):
            yield name


@pytest.mark.parametrize("path", [path for path, thing in CALLABLES.items() if inspect.isclass(thing)])
def test_what_classes_show_is_documented(path):
    assert sorted(undocumented(CALLABLES[path])) == []


def test_a_recording_shows_what_its_users_call():
    layer = tg.nn.RNN(2, 3)
    with tg.record(layer) as r:
        layer(tg.ones(2, 1, 2))
    assert names(r) == set("cell grad names plot sequence title to_dict to_xarray".split())
    assert {"cuda", "add_"}.isdisjoint(names(tg.ones(2, 2))), "advice on PyTorch's names completes none of them"


def test_there_are_many():
    assert len(CALLABLES) > 280 and {"tg.tanh", "tg.nn.Cell", "tg.optim.Adam", "tg.nn.init.eye_"} <= set(CALLABLES)


def test_a_star_imports_nothing_of_the_inside():
    code = "from tinygrad_rnn.nn.utils import *; from tinygrad_rnn.nn import *; print('np' in dir(), 'LSTM' in dir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
