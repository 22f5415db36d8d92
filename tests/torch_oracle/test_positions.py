"""What stands where in a call: arguments by position are PyTorch's, or code that is carried over would mean another."""

import inspect
import warnings

import pytest
import torch

import tinygrad_rnn as tg

ROOMS = [
    (tg, torch), (tg.Tensor, torch.Tensor), (tg.nn, torch.nn), (tg.nn.functional, torch.nn.functional),
    (tg.nn.init, torch.nn.init), (tg.nn.utils, torch.nn.utils),
    (tg.nn.utils.parametrizations, torch.nn.utils.parametrizations), (tg.optim, torch.optim),
    (tg.optim.lr_scheduler, torch.optim.lr_scheduler),
]  # fmt: skip
# Where ours has another name in a place for the same thing, or where PyTorch's place is for what there is not here.
SAME = {
    ("shape", "size"), ("dims", "dim"), ("tensor", "other"), ("input", "x"), ("other", "y"), ("condition", "x"),
    ("requires_grad", "layout"), ("dtype", "_stacklevel"), ("training", "train"),
}  # fmt: skip
# Their signatures for this test are of other functions of the same name: overloads, or those that ours stand for.
OTHERS = {"max", "min", "gather", "logsumexp", "prod", "batch_norm", "split", "where", "std", "var", "size"}
# Where ours is by default the same under another name; and clipping, which raises rather than makes NaN of all.
APART = {
    "amax.dim", "amin.dim", "norm.p", "ModuleList.modules", "TransformerEncoderLayer.activation",
    "clip_grad_norm_.error_if_nonfinite",
}  # fmt: skip


def places(signature):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [p.name for p in signature.parameters.values() if p.kind in kinds]


def overridden():
    """The signatures of functions that are written in C, as PyTorch tells them to who replaces them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.overrides.get_testing_overrides()


def signature_of(theirs, overrides):
    if inspect.isclass(theirs):
        return inspect.signature(theirs.__init__)
    try:
        return inspect.signature(theirs)
    except ValueError:
        return inspect.signature(overrides[theirs]) if theirs in overrides else None


def compared():
    overrides = overridden()
    for ours, theirs in ROOMS:
        for name in dir(ours):
            if name.startswith("_") or name in OTHERS or not callable(getattr(ours, name, None)):
                continue
            other = getattr(theirs, name, None)
            signature = signature_of(other, overrides) if callable(other) else None
            if signature is not None:
                yield f"{ours.__name__}.{name}", getattr(ours, name), signature


COMPARED = [pytest.param(ours, theirs, id=name) for name, ours, theirs in compared()]


@pytest.mark.parametrize(("ours", "theirs"), COMPARED)
def test_arguments_stand_where_pytorch_has_them(ours, theirs):
    first = 0 if inspect.isclass(ours) else 1  # what a function is of needs no name
    for pair in zip(places(inspect.signature(ours))[first:], places(theirs)[1:]):
        assert pair[0] == pair[1] or pair in SAME, f"{pair[0]} stands where PyTorch has {pair[1]}: {theirs}"


@pytest.mark.parametrize(("ours", "theirs"), COMPARED)
def test_defaults_are_those_of_pytorch(ours, theirs):
    own = inspect.signature(ours).parameters
    for name, other in theirs.parameters.items():
        if name in own and inspect.Parameter.empty not in (own[name].default, other.default):
            assert own[name].default == other.default or f"{ours.__name__}.{name}" in APART


def test_there_are_many():
    assert len(COMPARED) > 200
