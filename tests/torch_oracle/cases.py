"""A call of an op as plain data, how to make it with tinygrad_rnn, and how to compare the outcome. No PyTorch here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygrad_rnn as tg

Tree = Any  # nested tuples, lists, dicts and slices
Gradients = list  # one array per leaf, None where nothing depends on it


# ---------------------------------------------------------------------------------------------------------- the data


@dataclass
class Leaf:
    """A floating-point argument: becomes a Tensor."""

    array: np.ndarray
    requires_grad: bool = True


@dataclass
class Index:
    """An integer or boolean argument: may be passed as a NumPy array or as a Tensor."""

    array: np.ndarray


@dataclass
class Case:
    """One call: `op` is PyTorch's name of it, below `torch.` or `torch.Tensor.`; the first argument is its `input`."""

    op: str
    args: tuple
    kwargs: dict = field(default_factory=dict)

    def __str__(self) -> str:
        keywords = {name: brief(value) for name, value in self.kwargs.items()}
        return f"{self.op}({', '.join([brief(a) for a in self.args] + [f'{k}={v}' for k, v in keywords.items()])})"


@dataclass
class Outcome:
    """What a call answers.

    `cotangents` has one array per output, None where the output has no gradient. `first` is the gradient of
    sum(<output, cotangent>) by each leaf that requires one. `second` is the gradient of sum(<first, direction>) by
    those leaves and then by the cotangents, since the backward pass depends on both.
    """

    values: list
    cotangents: list = field(default_factory=list)
    first: Gradients = field(default_factory=list)
    directions: list = field(default_factory=list)
    second: Gradients = field(default_factory=list)


def brief(node: Tree) -> str:
    """A tree for people: arrays by dtype and shape."""
    if isinstance(node, (Leaf, Index)):
        return f"{node.array.dtype}{list(node.array.shape)}"
    if isinstance(node, (tuple, list)):
        inner = ", ".join(map(brief, node))
        return f"[{inner}]" if isinstance(node, list) else f"({inner})"
    return repr(node)


def tree_map(f: Callable[[Any], Any], node: Tree) -> Tree:
    """`node` with f applied to everything that is not a container."""
    if isinstance(node, tuple):  # torch.Size and the like become plain tuples
        return tuple(tree_map(f, child) for child in node)
    if isinstance(node, list):
        return [tree_map(f, child) for child in node]
    if isinstance(node, dict):
        return {key: tree_map(f, child) for key, child in node.items()}
    if isinstance(node, slice):
        return slice(*(tree_map(f, part) for part in (node.start, node.stop, node.step)))
    return f(node)


def tree_leaves(node: Tree) -> Iterator[Any]:
    """Everything in `node` that is not a container, in order."""
    if isinstance(node, (tuple, list)):
        for child in node:
            yield from tree_leaves(child)
    elif isinstance(node, dict):
        yield from tree_leaves(list(node.values()))
    elif isinstance(node, slice):
        yield from tree_leaves([node.start, node.stop, node.step])
    else:
        yield node


# ------------------------------------------------------------------------------------------- which function is meant

# Where PyTorch's samples give the arguments in another order than its function takes them.
REORDERED = {
    "where": lambda f: lambda input, condition, other: f(condition, input, other),
    "einsum": lambda f: lambda operands, equation: f(equation, operands),
    "nn.functional.embedding": lambda f: lambda weight, input, **options: f(input, weight, **options),
}
METHODS_ONLY = {"expand", "view"}
RENAMED = {"__rdiv__": "__rtruediv__"}  # Python 2's name
OPERATORS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "abs": operator.abs,
    "pow": operator.pow,
    "matmul": operator.matmul,
    "__getitem__": operator.getitem,
}


def lookup(op: str, variant: str = "function") -> Callable:
    """tinygrad_rnn's function, method or operator for PyTorch's name `op`, taking arguments in the samples' order."""
    if variant == "operator":
        return OPERATORS[op]
    if variant == "method" or op.startswith("__") or op in METHODS_ONLY:
        return getattr(tg.Tensor, RENAMED.get(op, op))
    f = operator.attrgetter(op)(tg)
    return REORDERED.get(op, lambda f: f)(f)


# ------------------------------------------------------------------------------------------------------ making a call


class Refused(Exception):
    """The library declined, and said which op it was."""


class Unclear(Exception):
    """The library failed, but not as a refusal: another exception, or one that does not name the op."""


# What a user can expect of a refusal; IndexError is PyTorch's choice for a dimension out of range.
REFUSALS = (TypeError, ValueError, IndexError, NotImplementedError)


def names_op(message: str, op: str) -> bool:
    """Does an error's message say which op it is about?"""
    name = op.rpartition(".")[2].strip("_")
    known = {name, name.replace("_", " ")} | {
        "getitem": {"index"},
        "radd": {"add"},
        "rsub": {"sub"},
        "rmul": {"mul"},
        "rdiv": {"div"},
        "rpow": {"pow"},
        "rmatmul": {"matmul"},
    }.get(name, set())
    return any(word in message for word in known) or message.startswith("a tensor ")  # no tensor could be made of it


def call(function: Callable, case: Case, index_as: str = "array") -> tuple[list, list]:
    """Leaves (those that require a gradient) and outputs of `function` on the case's arguments."""
    leaves = []

    def build(node):
        if isinstance(node, Leaf):
            tensor = tg.tensor(node.array, requires_grad=node.requires_grad)
            if node.requires_grad:
                leaves.append(tensor)
            return tensor
        if isinstance(node, Index):
            return node.array if index_as == "array" else tg.tensor(node.array)
        return node

    try:
        args, kwargs = tree_map(build, case.args), tree_map(build, case.kwargs)
    except REFUSALS as error:
        raise Refused(f"tensor: {error}") from error
    try:
        output = function(*args, **kwargs)
    except REFUSALS as error:
        if names_op(str(error), case.op):
            raise Refused(f"{type(error).__name__}: {error}") from error
        raise Unclear(f"an error that does not name the op: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise Unclear(f"{type(error).__name__}: {error}") from error
    return leaves, list(output) if isinstance(output, (tuple, list)) else [output]


def answer(function: Callable, case: Case, expected: Outcome, index_as: str = "array") -> Outcome:
    """What `function` answers on `case`, differentiated with the cotangents and directions of `expected`.

    `second` is only computed where `expected` has it. Anything that fails in a backward pass is Unclear: what can be
    computed but not differentiated must be refused in the forward pass.
    """
    leaves, outputs = call(function, case, index_as)
    outcome = Outcome([np.array(o.numpy() if isinstance(o, tg.Tensor) else o) for o in outputs])
    if not any(c is not None for c in expected.cotangents) or len(outputs) != len(expected.values):
        return outcome
    outcome.cotangents, outcome.directions = expected.cotangents, expected.directions
    twice = bool(expected.second)
    try:
        roots = [o for o, c in zip(outputs, expected.cotangents) if c is not None]
        cotangents = [tg.tensor(c, requires_grad=twice) for c in expected.cotangents if c is not None]
        how = {"retain_graph": True, "allow_unused": True}
        first = tg.grad(roots, leaves, grad_outputs=cotangents, create_graph=twice, **how)
        outcome.first = [to_numpy(g) for g in first]
        if twice:
            terms = [
                (g * tg.tensor(v)).sum()
                for g, v in zip(first, expected.directions)
                if g is not None and v is not None and g.requires_grad
            ]
            wanted = leaves + cotangents
            second = tg.grad(sum(terms[1:], terms[0]), wanted, **how) if terms else [None] * len(wanted)
            outcome.second = [to_numpy(g) for g in second]
        if len(roots) == 1:  # the other door to the same gradients, and it adds to what is there
            for repeat in (1, 2):
                roots[0].backward(gradient=tg.tensor(cotangents[0].numpy()), retain_graph=repeat == 1)
                accumulated = [None if leaf.grad is None else leaf.grad.numpy() / repeat for leaf in leaves]
                wrong = compare_all(f".grad after backward() number {repeat}", accumulated, outcome.first)
                if wrong:
                    raise Unclear("; ".join(wrong))
    except Unclear:
        raise
    except Exception as error:
        raise Unclear(f"in the backward pass: {type(error).__name__}: {error}") from error
    return outcome


def to_numpy(tensor: tg.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else np.array(tensor.numpy())


# ------------------------------------------------------------------------------------------------------ the comparison


@dataclass
class Tolerance:
    """|actual - expected| <= relative * (|expected| + largest * max |expected|) + floor; NaN and inf must coincide.

    The middle term allows for sums that cancel, the floor for those whose true value is zero.
    """

    relative: float
    largest: float
    floor: float


TOLERANCE = {
    # All samples but one hold with a floor of 1e-12: normalize along an axis of one element is the sign, whose second
    # derivative is 0, and what is left of numbers of some thousands that cancel is 2e-12 here and there.
    np.dtype("float64"): Tolerance(1e-10, 1e-3, 1e-11),
    np.dtype("float32"): Tolerance(1e-5, 1e-1, 2e-6),
}


def compare(what: str, actual: np.ndarray | None, expected: np.ndarray | None, tolerance=None) -> str | None:
    """None if equal, else what is wrong. No gradient and a gradient of zeros are the same."""
    different = f"{what}: {brief_array(actual)}, not {brief_array(expected)}"
    if expected is None or actual is None:
        other = expected if actual is None else actual
        return None if other is None or not np.any(other) else different
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return different
    if expected.dtype.kind != "f":
        return None if np.array_equal(actual, expected) else f"{what}: {actual!r}, not {expected!r}"
    tolerance = tolerance or TOLERANCE[expected.dtype]
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return f"{what}: {actual[~finite]}, not {expected[~finite]}"
    scale = np.abs(expected[finite])
    allowed = tolerance.relative * (scale + tolerance.largest * scale.max(initial=0.0)) + tolerance.floor
    with np.errstate(invalid="ignore"):
        error = np.abs(actual[finite] - expected[finite])
    wrong = ~(error <= allowed)  # NaN is wrong too
    if not wrong.any():
        return None
    at = np.argmax(np.where(wrong, error / allowed, 0))
    return (
        f"{what}: {wrong.sum()} of {expected.size} wrong, worst {actual[finite][at]!r}, not {expected[finite][at]!r} "
        f"({error[at] / allowed[at]:.1e} times the tolerance)"
    )


def brief_array(array: np.ndarray | None) -> str:
    if array is None:
        return "no gradient"
    return f"{array.dtype}{list(array.shape)}" + (f" {array.tolist()}" if array.size <= 4 else "")


def compare_all(what: str, actual: list, expected: list, tolerance=None) -> list[str]:
    """What is wrong, item by item."""
    if len(actual) != len(expected):
        return [f"{what}: {len(actual)} of them, not {len(expected)}"]
    results = (compare(f"{what}[{i}]", a, e, tolerance) for i, (a, e) in enumerate(zip(actual, expected)))
    return [r for r in results if r]


def compare_outcome(actual: Outcome, expected: Outcome) -> list[str]:
    """What is wrong with `actual`, if anything."""
    return (
        compare_all("value", actual.values, expected.values)
        or compare_all("gradient", actual.first, expected.first)
        or compare_all("second derivative", actual.second, expected.second)
    )
