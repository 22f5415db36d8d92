"""The tape: which operation made which value, and the pass that walks it backwards.

A `Value` is an array that may remember the `Node` it came from. A node knows the operation that ran, the nodes of its
inputs, and the few arrays that the gradient rules of the operation name, its residuals; it holds nothing else, so what
no rule asks for is freed as soon as the user lets go of it. Nodes are numbered in the order of their making, so a
node's inputs are always older than itself: to visit every node after all of its users, the backward pass takes the
youngest of those that have a gradient from a heap. There is no recursion and no sorting of the graph; a chain of
100,000 operations is 100,000 turns of one loop.

    x ──► mul ──► tanh ──► sum          dy ──► d(sum) ──► d(tanh) ──► d(mul) ──► x.grad

These ten lines are a complete backward pass. `backward_pass` below does the same, and besides it adds in place where it
may, runs hooks, visits only what leads to some inputs if that is asked for, and says what went wrong.

    >>> def backward(root, dy):
    ...     gradients, youngest = {root: dy}, [(-root.number, root)]
    ...     while youngest:
    ...         node = heapq.heappop(youngest)[1]  # all of its users have been here: its gradient is complete
    ...         found = node.operation.gradients(gradients.pop(node), node.saved)
    ...         for parent, gradient, shape in zip(node.parents, found, node.shapes):
    ...             if parent not in gradients and isinstance(parent, Node):
    ...                 heapq.heappush(youngest, (-parent.number, parent))
    ...             gradients[parent] = gradients.get(parent, 0) + unbroadcast(gradient, shape)
    ...     return gradients  # of the leaves
    >>> import tinygrad_rnn as tg
    >>> x, w = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), tg.tensor([1.0, -1.0], requires_grad=True)
    >>> y = (x * w).tanh().sum() + (w * w).sum()
    >>> gradients = backward(y.node, np.ones((), np.float32))
    >>> y.backward()
    >>> bool((gradients[x.node] == x.grad.numpy()).all() and (gradients[w.node] == w.grad.numpy()).all())
    True
"""

import heapq
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, ClassVar, Protocol

import numpy as np

from ..kernels.locks import lock

# isort: off
# The rooms above take these from here: what is recorded is theirs to ask, in which file it is written is not.
from .modes import OUR_FILES, detect_anomaly, enable_grad, is_grad_enabled, line_of, mode, no_grad  # noqa: F401
from .modes import ours, passed_over, set_mode, user_frame, user_line  # noqa: F401
from .sums import summed
# isort: on

# ---- What is on the tape ---------------------------------------------------------------------------------------------

_numbers = itertools.count()
_ndarray = np.ndarray


class Value:
    """An array on the tape. Its one subclass, `Tensor`, adds the methods; operations return `Value.tensor`."""

    __slots__ = ("__weakref__", "data", "grad", "node")
    tensor: ClassVar[Any]

    def __init__(self, data: np.ndarray, node: "Place | None" = None) -> None:
        if data.__class__ is not _ndarray and not isinstance(data, (_ndarray, np.generic)):
            raise TypeError(f"Tensor(...) wraps an array as it is, not {type(data).__name__}: write tg.tensor(...)")
        self.data = data
        self.node = node
        self.grad: Any = None

    def __init_subclass__(cls) -> None:
        if "tensor" not in Value.__dict__:
            Value.tensor = cls


Hook = Callable[[Any], Any]


class Operation(Protocol):
    """What the tape needs of an operation that ran: its name, and gradients from its residuals, the saved values.

    One that saves other things than the arrays that its gradients read has a method `read_again(saved)`: these arrays.

    Attributes:
        fresh: whether its gradients, if arrays, share no memory with each other or anything else.
        scatter: if the one input gave only a slice of itself: `scatter(total, dy, saved)` adds dy to that slice of an
            array of the input's shape.
    """

    name: str
    fresh: bool

    @property
    def scatter(self) -> Callable[[np.ndarray, np.ndarray, tuple[Any, ...]], None] | None: ...

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> Sequence[Any]:
        """The gradient of each parent, given that of the result; on arrays, or on tensors to record the pass.

        None for a parent that no gradient reaches.
        """

    def rewrap(self, node: "Node") -> tuple[Any, ...]:
        """The saved arrays as tensors that remember where they came from, for derivatives of derivatives."""


class Place:
    """A place on the tape, where the gradient of one value gathers.

    Attributes:
        number: places are numbered in the order of their making.
        owner: the tensor whose `grad` is filled in here, if any. It holds its place; the place must not keep it alive.
        hooks: functions that are shown the gradient once it is complete.
    """

    __slots__ = ("hooks", "number", "owner")
    number: int
    parents: "tuple[Place, ...]"
    owner: "weakref.ref[Value] | None"
    hooks: dict[object, Hook] | None

    def add_hook(self, hook: Hook) -> "HookHandle":
        """Show the gradient to a function, which may return another one."""
        self.hooks = self.hooks or {}
        return HookHandle(self.hooks, hook)


class HookHandle:
    """What `register_hook` returns."""

    def __init__(self, hooks: dict[object, Hook], hook: Hook) -> None:
        self.hooks, self.key = hooks, object()  # rather than the handle as a key, in a circle with the hooks
        hooks[self.key] = hook

    def remove(self) -> None:
        """Call the hook no more."""
        self.hooks.pop(self.key, None)


class Leaf(Place):
    """Where a gradient ends: the place of a tensor that the user asked a gradient for.

    Attributes:
        changed: the number of places there were when the numbers of the tensor were written to last; -1 if never.
    """

    __slots__ = ("changed",)
    parents = ()

    def __init__(self, owner: Value) -> None:
        self.number, self.hooks, self.changed = next(_numbers), None, -1
        self.owner = weakref.ref(owner)


class Node(Place):
    """One operation that ran.

    Attributes:
        operation: the rule book: how the gradients follow from the residuals.
        parents: the places of those inputs that need a gradient.
        shapes: the shapes of those inputs, to which gradients are summed back after broadcasting.
        saved: the residuals, what the gradient rules name; None once the backward pass has been here and released them.
        where: the line of user code that called it, under `detect_anomaly`.
    """

    __slots__ = ("operation", "parents", "saved", "shapes", "where")

    def __init__(self, operation: Operation, parents: tuple[Any, ...], shapes: tuple[Any, ...], saved: Any) -> None:
        self.operation = operation
        self.parents = parents
        self.shapes = shapes
        self.saved: tuple[Any, ...] | None = saved
        self.number = next(_numbers)
        self.owner = self.hooks = None
        self.where: str | None = None


# ---- The backward pass -----------------------------------------------------------------------------------------------


def backward_pass(
    roots: Sequence[tuple[Place, Any]], retain_graph: bool | None = None, create_graph: bool = False,
    inputs: Sequence[Place] | None = None,
) -> dict[Place, Any]:  # fmt: skip
    """Carry gradients from the roots to the leaves, or to the places `inputs`.

    Args:
        roots: places with the gradients they start from.
        retain_graph: keep the residuals, so that the graph can be walked again; by default as `create_graph`.
        create_graph: gradients are tensors and the pass is itself recorded; otherwise they are arrays.
        inputs: visit only what leads to these places, and leave every leaf's `grad` alone.

    Returns:
        The gradients of `inputs`, as far as there are any.
    """
    running = _Pass([place for place, _ in roots], create_graph, inputs)
    for place, gradient in roots:
        running.arrive(place, gradient, is_ours=False)
    retain = create_graph if retain_graph is None else retain_graph
    with set_mode("grad", create_graph), set_mode("retain", retain), np.errstate(all="ignore"):
        youngest = running.youngest
        while youngest:
            node = heapq.heappop(youngest)[1]
            dy = running.complete(node)
            if running.leading is None or not running.leading.isdisjoint(node.parents):
                running.hand_on(node, dy)
                if not retain:
                    node.saved = None
        for leaf in [*running.waiting]:
            running.complete(leaf)
    return running.found


class _Pass:
    """A backward pass that is running.

    Attributes:
        waiting: the sum of the gradients that came to a place so far, and whether it is an array made here: ours to
            add to.
        youngest: a heap of the nodes in `waiting`; leaves wait for the end.
        leading: the places that lead to the inputs, the only ones to visit; None: all.
        found: the gradients of the inputs.
        changed: the leaves that were written to, once somebody asked for them.
    """

    def __init__(self, roots: Sequence[Place], create_graph: bool, inputs: Sequence[Place] | None) -> None:
        self.roots, self.create_graph = roots, create_graph
        self.waiting: dict[Place, tuple[Any, bool]] = {}
        self.youngest: list[tuple[int, Node]] = []
        self.targets = None if inputs is None else set(inputs)
        self.leading = None if inputs is None else _leading_to(set(inputs), roots)
        self.found: dict[Place, Any] = {}
        self.changed: dict[int, Leaf] | None = None

    def arrive(self, place: Place, gradient: Any, is_ours: bool) -> None:
        """Add a gradient to what is waiting at a place."""
        if gradient is None or (self.leading is not None and place not in self.leading):
            return
        before = self.waiting.get(place)
        if before is not None:
            total, is_ours = before
            if mode.anomaly:
                reached = place.operation.name if isinstance(place, Node) else "a leaf"
                where = getattr(place, "where", None) or user_line()
                raise_if_new_nan(total + gradient, [total, gradient], f"the sum of gradients of {reached}", where)
            if is_ours:
                total += gradient
                gradient = total
            else:
                gradient, is_ours = total + gradient, not self.create_graph
        elif isinstance(place, Node):
            heapq.heappush(self.youngest, (-place.number, place))
        self.waiting[place] = gradient, is_ours

    def complete(self, place: Place) -> Any:
        """All users of a place have been visited: its gradient goes to the hooks, and to whom it is for."""
        gradient, is_ours = self.waiting.pop(place)
        if place.hooks:
            gradient, is_ours = _run_hooks(place.hooks, gradient), False
        if self.targets is not None:
            if place in self.targets:
                self.found[place] = gradient
        elif place.owner is not None:
            accumulate(place.owner(), gradient, adopt=is_ours and isinstance(place, Leaf))
        return gradient

    def hand_on(self, node: Node, dy: Any) -> None:
        """Carry a complete gradient from a node to its parents."""
        operation, saved = node.operation, node.saved
        if saved is None:
            raise RuntimeError(
                f"backward through {operation.name} a second time: what it had saved was released by the first "
                "pass; call backward(retain_graph=True) there, or compute the result again"
            )
        if node.number < _last_change:  # hardly ever: leaves are changed between two graphs
            self._warn_of_change(node)
        if self.create_graph:
            saved = operation.rewrap(node)
        elif operation.scatter is not None and node.where is None:
            # The gradient of a slice: add it to that slice, rather than to the whole by way of an array of zeros. Who
            # looks for anomalies has sums looked at, and so takes that way.
            (parent,), (shape,) = node.parents, node.shapes
            if parent not in self.waiting or not self.waiting[parent][1]:
                self.arrive(parent, np.zeros(shape, dy.dtype), is_ours=True)
            operation.scatter(self.waiting[parent][0], dy, saved)
            return
        for parent, gradient, shape in zip(node.parents, operation.gradients(dy, saved), node.shapes):
            if node.where is not None and gradient is not None:
                raise_if_new_nan(gradient, [dy, *saved], f"the gradient of {operation.name}", node.where)
            if gradient is not None and gradient.shape != shape:  # None: it does not come so far
                gradient = unbroadcast(gradient, shape)
            # "da = dy" hands on the very array it was given, and a view lives in another one's memory.
            is_ours = operation.fresh or (gradient is not dy and getattr(gradient, "base", None) is None)
            self.arrive(parent, gradient, is_ours and not self.create_graph)

    def _warn_of_change(self, node: Node) -> None:
        """Warn, once, if a residual of a node is the memory of a leaf that was written to after the node was made."""
        if self.changed is None:
            self.changed = _changed_leaves(self.roots)
        read_again: Callable[..., Iterable[Any]] = getattr(node.operation, "read_again", tuple)
        for array in read_again(node.saved) if self.changed else ():
            leaf = self.changed.get(_memory(array)) if isinstance(array, np.ndarray) else None
            if leaf is not None and leaf.changed > node.number:
                _warn_of(leaf, node.operation.name)
                self.changed = {}
                return


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the axes along which an operand of `shape` was repeated: the adjoint of broadcasting."""
    if isinstance(gradient, Value):
        return gradient.sum_to_size(shape)  # type: ignore[attr-defined]
    extra = gradient.ndim - len(shape)
    axes = [*range(extra), *[extra + i for i, n in enumerate(shape) if n == 1 != gradient.shape[extra + i]]]
    # One after the other, unless it is all: the first is a sum of rows, which leaves little for those that are slower.
    for several in [tuple(axes)] if len(axes) == gradient.ndim else zip(axes):
        gradient = summed(gradient, several, keepdims=True)
    return gradient.reshape(shape)


def _reachable(roots: Iterable[Place]) -> set[Place]:
    """The roots and all that they were computed from."""
    ahead = list(roots)
    reachable = set(ahead)
    while ahead:
        new = [parent for parent in ahead.pop().parents if parent not in reachable]
        reachable.update(new)
        ahead.extend(new)
    return reachable


def _leading_to(inputs: set[Place], roots: Sequence[Place]) -> set[Place]:
    """The places between the roots and `inputs`, these included."""
    leading: set[Place] = set()
    for place in sorted(_reachable(roots), key=lambda place: place.number):  # a node's parents come before it
        if place in inputs or not leading.isdisjoint(place.parents):
            leading.add(place)
    return leading


def _run_hooks(hooks: dict[object, Hook], gradient: Any) -> Any:
    """Show the gradient to the user's functions, each of which may return another one."""
    is_tensor = isinstance(gradient, Value)
    tensor = gradient if is_tensor else Value.tensor(np.asarray(gradient))
    shape, dtype = tensor.data.shape, tensor.data.dtype
    for hook in list(hooks.values()):
        changed = hook(tensor)
        if changed is None:
            continue
        if not isinstance(changed, Value) or changed.data.shape != shape or changed.data.dtype != dtype:
            raise TypeError(f"a gradient hook must return None or a Tensor of shape {list(shape)} and {dtype}")
        if mode.anomaly:
            raise_if_new_nan(changed, [tensor], f"the hook {getattr(hook, '__qualname__', hook)}", user_line())
        tensor = changed
    return tensor if is_tensor else tensor.data


_arriving = lock("arriving")
_set_grad: Callable[[Value, Any], None] = Value.__dict__["grad"].__set__  # past the checks of what a user sets


def accumulate(owner: Value | None, gradient: Any, adopt: bool = False) -> None:
    """Add a gradient to the `grad` of its tensor, which must not share memory with anything else."""
    if owner is None or owner.node is None:  # the tensor is gone, or was frozen since
        return
    is_tensor = isinstance(gradient, Value)
    with _arriving:
        if owner.grad is not None:
            total = owner.grad + gradient if is_tensor else Value.tensor(np.add(owner.grad.data, gradient))
            if mode.anomaly:
                raise_if_new_nan(total, [owner.grad, gradient], "the sum of two passes' gradients", user_line())
        elif is_tensor:
            total = gradient.clone()
        else:
            total = Value.tensor(np.asarray(gradient) if adopt else np.array(gradient))
        _set_grad(owner, total)


def raise_if_new_nan(result: Any, inputs: Iterable[Any], what: str, where: str | None) -> None:
    """The check of `detect_anomaly`: `result` has a NaN and no input had one."""

    def has_nan(x: Any) -> bool:
        x = np.asarray(x.data if isinstance(x, Value) else x)
        return x.dtype.kind == "f" and bool(np.isnan(x).any())

    if has_nan(result) and not any(has_nan(x) for x in inputs if isinstance(x, (Value, np.ndarray, float))):
        raise FloatingPointError(f"{what} produced the first NaN, called at {where}")


# ---- Leaves that were written to between forward and backward --------------------------------------------------------

_last_change = -1  # the largest number of a change of any leaf


def note_change(tensors: Iterable[Value]) -> None:
    """Say that numbers of tensors were written to: a backward pass through older operations that read them warns."""
    global _last_change
    number = next(_numbers)
    for tensor in tensors:
        if isinstance(tensor.node, Leaf):
            tensor.node.changed = _last_change = number


def _memory(array: np.ndarray) -> int:
    """Views of one array have the same."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def _changed_leaves(roots: Iterable[Place]) -> dict[int, Leaf]:
    """The leaves of a graph that were written to at some time, by their memory."""
    leaves = [place for place in _reachable(roots) if isinstance(place, Leaf) and place.changed >= 0]
    owners = [(leaf, leaf.owner()) for leaf in leaves if leaf.owner is not None]
    return {_memory(owner.data): leaf for leaf, owner in owners if owner is not None}


def _warn_of(leaf: Leaf, operation: str) -> None:
    message = (
        f"{_name_of(leaf)} was written to (by step(), load_state_dict(), an initialiser, `p -= ...`) after "
        f"{operation} had read it. This backward pass finds the new numbers, so its gradients are "
        "wrong: call backward() before that, or compute the loss again"
    )
    frame = user_frame()
    warnings.warn_explicit(message, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno)


def _name_of(leaf: Leaf) -> str:
    """What the user's functions that run call the tensor of a leaf."""
    tensor: Any = leaf.owner() if leaf.owner else None
    frame: FrameType | None = user_frame()
    while frame is not None:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if value is tensor:
                return name
            if hasattr(type(value), "named_parameters"):
                for inner, parameter in value.named_parameters():
                    if parameter is tensor:
                        return f"{name}.{inner}"
        frame = frame.f_back
    return f"a leaf of shape {list(tensor.data.shape)}"
