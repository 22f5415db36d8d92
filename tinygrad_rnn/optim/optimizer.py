"""What all optimisers share: groups of parameters with options, a state for each parameter, and compiled rules.

An optimiser is a few lines of maths, a `Rule`, and how its operands follow from options and state. The rule is
compiled into one kernel that walks once over a parameter, its gradient and its state, and writes parameter and state
where they are. Learning rates and bias corrections are operands like the arrays, so changing one compiles nothing.

    loss.backward()          # makes gradients from values that the forward pass saved, parameters among them
    optimizer.step()         # then overwrites the parameters in place

The order matters: a backward pass after `step()` through a graph that was recorded before it would find new numbers
in the arrays it saved, and warns. Run the forward pass again instead.
"""

import difflib
import functools
import inspect
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from ..autograd.primitive import names_in
from ..autograd.tape import HookHandle, enable_grad, note_change
from ..autograd.tensor import Tensor
from ..kernels.elementwise import Elementwise, scalar_code

# Where every rule starts: the gradient, or its opposite to climb, and that of weight_decay/2 * |p|^2, which is added to
# the loss. No decay is not decay by zero: a parameter that is infinite on purpose must not become NaN.
GRADIENT = "sign * g + where(weight_decay != 0, weight_decay * p, 0)"


PACKAGE = __name__.rpartition(".")[0] + "."  # optimisers of a user's own may have such attributes
# What users and schedules keep in a group besides options.
MORE_OPTIONS = ("params", "name", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")


class Rule:
    """Formulas that give some of their operands new values, in place, as one compiled kernel.

    >>> descent = Rule("descent_doctest", "p", {"p": "p - lr * g"})
    >>> p = np.array([1.0, 2.0])
    >>> descent(p=p, g=np.array([10.0, 20.0]), lr=0.5)
    >>> p
    array([-4., -8.])

    Args:
        name: of the kernel, a Python identifier.
        updates: the names of the arrays that are overwritten, separated by spaces.
        formulas: as for `kernels.elementwise.Elementwise`, in the order of computing.
    """

    def __init__(self, name: str, updates: str, formulas: dict[str, str]) -> None:
        known: dict[str, None] = {}  # in the order of their first use
        computed: set[str] = set()
        for target, formula in formulas.items():
            _, functions = scalar_code(formula)
            known |= dict.fromkeys(sorted(names_in(formula) - functions - computed))
            computed.add(target)
        self.operands, self.updates = list(known), updates.split()
        self.kernel = Elementwise(name, " ".join(self.operands), formulas, updates)

    def __call__(self, **operands: Any) -> None:
        """Compute in the dtype of `p`; numbers are rounded to it."""
        kernel = self.kernel.float64 if operands["p"].dtype == np.float64 else self.kernel.float32
        values = [x if isinstance(x, np.ndarray) else float(x) for x in map(operands.__getitem__, self.operands)]
        kernel(*values, out=tuple(operands[name] for name in self.updates))


class Optimizer:
    """Base of all optimisers, with PyTorch's interface.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> class SignDescent(tg.optim.Optimizer):
        ...     def __init__(self, params, lr=0.1):
        ...         super().__init__(params, {"lr": lr})
        ...
        ...     def update(self, p, g, state, group):
        ...         p -= group["lr"] * np.sign(g)
        >>> p = tg.nn.Parameter([1.0, -1.0])
        >>> optimizer = SignDescent([p], lr=0.5)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [0.5, -0.5]

    A subclass hands its options with their defaults to `__init__` and defines `update`, the step of one parameter;
    `check` refuses options that make no sense. Everything else is here.

    Args:
        params: tensors to optimise, or groups of them: dicts with "params" and the options that differ.
        defaults: the options, for groups that do not say otherwise.

    Attributes:
        param_groups: the groups, as dicts of "params" and every option. Options may be changed between steps.
        state: for each parameter, what the optimiser remembers of it: arrays of its shape, and numbers.
        numbers: the names of those entries of the state that are one number for a parameter.
        complete: the names of those that a state has at least, once it has any.
    """

    numbers: ClassVar[tuple[str, ...]] = ("step",)
    complete: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, (Tensor, dict)):
            lead = "write model.parameters()" if isinstance(params, dict) and "params" not in params else ""
            raise TypeError(
                f"{type(self).__name__}: expected an iterable of tensors or groups, got one {type(params).__name__}: "
                f"{lead or 'put it into a list'}"
            )
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._checked: dict[int, dict[str, Any]] = {}  # options of groups as they were found to be right
        self._pre_hooks: dict[object, Any] = {}
        self._post_hooks: dict[object, Any] = {}
        groups = self._listed(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)
        if not self._params():
            raise ValueError(f"{type(self).__name__}: no parameters; was model.parameters() used up before?")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self).get("defaults", ()) and type(self).__module__.startswith(PACKAGE):
            raise AttributeError(
                f"{type(self).__name__}: groups have options, and {name} here would change nothing: write "
                f"`for group in optimizer.param_groups: group[{name!r}] = ...`"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: hooks are for this very optimiser."""
        return {**vars(self), "_checked": {}, "_pre_hooks": {}, "_post_hooks": {}}

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            options = ", ".join(f"{name}={value}" for name, value in group.items() if name != "params")
            lines.append(f"    {len(group['params'])} parameters: {options}\n")
        return f"{type(self).__name__}(\n{''.join(lines)})"

    # ---- What a subclass says ----------------------------------------------------------------------------------------

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter, in place.

        Args:
            p: the parameter.
            g: its gradient, of the same shape and dtype; not to be written to.
            state: what is remembered of this parameter; empty at its first step.
            group: the options.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(p, g, state, group)")

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError if the options of a group make no sense; may be extended."""
        for name in ("lr", "weight_decay", "eps"):
            self._at_least_zero(group, name)

    def _check_kinds(self, group: dict[str, Any], where: str = "") -> None:
        """Raise ValueError if an option is not of the kind that its default in `__init__` is of."""
        kind: Any = type(self)
        name = kind.__name__
        for option, default in _defaults(kind).items():
            value: Any = group.get(option)
            if option not in self.defaults:
                continue
            if isinstance(default, bool):
                if not (isinstance(value, (bool, np.bool_)) or (_is_number(value) and value in (0, 1))):
                    raise ValueError(f"{name}: {option}{where} must be True or False, got {value!r}")
            elif isinstance(default, tuple):
                fits = isinstance(value, (tuple, list)) and len(value) == len(default)
                if not fits or not all(map(_is_number, value)):
                    raise ValueError(f"{name}: {option}{where} must be {len(default)} finite numbers, got {value!r}")
            elif isinstance(default, (int, float)) and not _is_number(value):
                raise ValueError(f"{name}: {option}{where} must be a finite number, got {value!r}")

    def _check_again(self, i: int, group: dict[str, Any]) -> None:
        """The same of group i, whose options may have been changed since."""
        options = {option: group.get(option) for option in self.defaults}
        if self._checked.get(i) != options:
            self._check_kinds(group, f" of group {i}")
            self.check(group)
            self._checked[i] = options

    def _check_names(self, group: dict[str, Any]) -> None:
        """Raise ValueError if there is no such option."""
        for option in group:
            if option not in self.defaults and option not in MORE_OPTIONS:
                near = difflib.get_close_matches(option, self.defaults, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.defaults)}"
                raise ValueError(f"{type(self).__name__}: {option!r} is no option: {hint}")

    def _listed(self, params: Any) -> list[Any]:
        """What was given as parameters or groups, as a list."""
        name = type(self).__name__
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"{name}: a set has another order in another run, and states are saved by it: give a list")
        try:
            return list(params)
        except TypeError:
            hint = ": write model.parameters()" if callable(params) else ""
            what = getattr(params, "__name__", type(params).__name__)
            raise TypeError(f"{name}: expected an iterable of tensors or groups, got {what}{hint}") from None

    def _at_least_zero(self, group: dict[str, Any], *names: str) -> None:
        for name in names:
            if name in group and not 0 <= group[name] < np.inf:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 0 and finite, got {group[name]}")

    def _fractions(self, group: dict[str, Any], *names: str) -> None:
        for name in names:
            values = group[name] if isinstance(group[name], (tuple, list)) else [group[name]]
            if not all(0 <= value < 1 for value in values):
                raise ValueError(f"{type(self).__name__}: {name} must lie in [0, 1), got {group[name]}")

    @staticmethod
    def remembered(state: dict[str, Any], p: np.ndarray, *names: str) -> list[np.ndarray]:
        """Arrays of the state, in the parameter's dtype, which `model.double()` may have changed; zeros at first."""
        for name in names:
            if name not in state:
                state[name] = np.zeros_like(p)
            elif state[name].dtype != p.dtype:
                state[name] = state[name].astype(p.dtype)
        return [state[name] for name in names]

    @staticmethod
    def gradient_operands(g: np.ndarray, group: dict[str, Any]) -> dict[str, Any]:
        """The operands of `GRADIENT`."""
        return dict(g=g, sign=-1 if group["maximize"] else 1, weight_decay=group["weight_decay"])

    # ---- What a user calls -------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimise more parameters, for instance layers that were frozen so far.

        Args:
            param_group: dict of "params", a tensor or an iterable of them, and the options that differ from the
                defaults.

        Raises:
            TypeError: something in "params" is no tensor.
            ValueError: an option makes no sense or is unknown, or a tensor is the result of an operation or is in a
                group already.
        """
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f"{name}: a group is a dict with 'params', not {_short(param_group)}")
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else self._listed(params)
        group = {"params": params, **self.defaults, **{k: v for k, v in param_group.items() if k != "params"}}
        known = {id(p) for g in self.param_groups for p in g["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                hint = "tg.tensor(it, requires_grad=True)" if isinstance(p, np.ndarray) else "model.parameters()"
                raise TypeError(f"{name}: parameter {i} is no tensor but a {type(p).__name__}: write {hint}")
            if p.grad_fn is not None:
                raise ValueError(
                    f"{name}: parameter {i} is the result of {p.grad_fn.operation.name}; optimise the tensors that it "
                    "was computed from, or its detach().requires_grad_()"
                )
            if id(p) in known:
                raise ValueError(f"{name}: parameter {i} of shape {list(p.shape)} is in a group already")
            known.add(id(p))
        self._check_names(group)
        self._check_kinds(group)
        self.check(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, which `backward()` would otherwise add to; or set them to zero.

        A parameter whose gradient is None is left alone by `step()`; one whose gradient is zero is moved on by
        momentum and weight decay.
        """
        for p in self._params():
            if p.grad is not None:
                p.grad = None if set_to_none else Tensor(np.zeros_like(p.data))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient, in place: after `backward()`, never between forward and backward.

        Args:
            closure: computes the loss anew, with its gradients, and returns it; called once, before the step.

        Returns:
            What `closure` returned, or None.

        Raises:
            ValueError: a gradient is not of its parameter's shape and dtype, a parameter's array is read-only, or an
                option that was set by hand makes no sense.
            TypeError: a gradient is no tensor. No parameter has been moved.
        """
        told = self._before_step(closure) if self._pre_hooks or self._post_hooks else None
        if told is not None:
            closure = told[1].get("closure", *told[0][1:])
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for i, group in enumerate(self.param_groups):  # what was set by hand; the other groups would have moved before
            self._check_again(i, group)
        moved = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p, _ in moved:
            if not isinstance(p.grad, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: the gradient of a parameter of shape {list(p.shape)} is no tensor but a "
                    f"{type(p.grad).__name__}; assign tg.tensor(it)"
                )
            if not p.data.flags.writeable:
                raise ValueError(
                    f"{type(self).__name__}: a parameter of shape {list(p.shape)} is read-only; make it of a copy"
                )
            if (p.grad.shape, p.grad.dtype) != (p.shape, p.dtype):
                raise ValueError(
                    f"{type(self).__name__}: a parameter of shape {list(p.shape)}, {p.dtype}, has a gradient of shape "
                    f"{list(p.grad.shape)}, {p.grad.dtype}"
                )
        for p, group in moved:
            self.update(p.data, p.grad.data, self.state[p], group)
        note_change([p for p, _ in moved])
        if told is not None:
            for hook in list(self._post_hooks.values()):
                hook(self, *told)
        return loss

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Call `hook(optimizer, args, kwargs)` before every step, and before its closure, as in PyTorch.

        Args:
            hook: returns None, or other `(args, kwargs)` for `step`. The first of args is the optimiser.

        Returns:
            A handle, with `remove()`. Copies and pickles of an optimiser have no hooks.
        """
        return HookHandle(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable[..., None]) -> HookHandle:
        """Call `hook(optimizer, args, kwargs)` after every step, as in PyTorch.

            >>> import tinygrad_rnn as tg
            >>> w = tg.ones(2, requires_grad=True)
            >>> optimizer = tg.optim.SGD([w], lr=0.5)
            >>> handle = optimizer.register_step_post_hook(lambda *_: print(w.tolist()))
            >>> w.sum().backward()
            >>> optimizer.step()
            [0.5, 0.5]
            >>> handle.remove()
        """
        return HookHandle(self._post_hooks, hook)

    def _before_step(self, closure: Any) -> tuple[Any, dict[str, Any]]:
        """Run the hooks; with which arguments the step is to be made."""
        arguments: Any = (self,) if closure is None else (self, closure)
        named: dict[str, Any] = {}
        for hook in list(self._pre_hooks.values()):
            changed = hook(self, arguments, named)
            if changed is not None:
                if not (isinstance(changed, tuple) and len(changed) == 2):
                    raise RuntimeError(f"{type(self).__name__}: a hook before a step returns None or (args, kwargs)")
                arguments, named = changed
        return arguments, named

    def state_dict(self) -> dict[str, Any]:
        """Options and state in PyTorch's layout, with the parameters numbered in the order of the groups:

            {"state": {0: {"step": 7, "exp_avg": array, ...}, ...},
             "param_groups": [{"lr": 0.001, ..., "params": [0, 1, ...]}, ...]}

        The arrays are the optimiser's own, as in PyTorch: copy them if it goes on working.
        """
        params = self._params()
        number = {p: i for i, p in enumerate(params)}
        return {
            "state": {number[p]: dict(self.state[p]) for p in params if self.state.get(p)},
            "param_groups": [{**group, "params": [number[p] for p in group["params"]]} for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict()` returned, here or in PyTorch. Arrays are copied, in the parameters' dtype.

        Raises:
            ValueError: groups, options or shapes are not those of this optimiser, which then stays as it was.
        """
        self.param_groups, self.state = self.read_state_dict(state_dict)

    def read_state_dict(
        self, state_dict: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Any]]]:
        """The `param_groups` and the `state` that `load_state_dict` would set: all checks, and no change."""
        name = type(self).__name__
        if not {"state", "param_groups"} <= set(state_dict):
            raise ValueError(f"{name}: a state dict has the entries 'state' and 'param_groups', not {list(state_dict)}")
        saved_groups = state_dict["param_groups"]
        counts, saved_counts = ([len(g["params"]) for g in groups] for groups in (self.param_groups, saved_groups))
        if counts != saved_counts:
            raise ValueError(f"{name}: its groups have {counts} parameters, those of the state dict {saved_counts}")
        groups = [self._read_group(i, saved) for i, saved in enumerate(saved_groups)]
        numbers = [number for saved in saved_groups for number in saved["params"]]
        numbered = dict(zip(numbers, self._params()))
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, saved in state_dict["state"].items():
            if number not in numbered:
                raise ValueError(f"{name}: the state of parameter {number} belongs to no group")
            state[numbered[number]] = self._read_state(number, numbered[number], saved)
        return groups, state

    def _read_group(self, i: int, saved: dict[str, Any]) -> dict[str, Any]:
        missing = [option for option in self.defaults if option not in saved]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: group {i} lacks {', '.join(missing)}; is this the state of another optimiser?"
            )
        group = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}  # JSON has no tuples
        self._check_kinds(group)
        self.check(group)
        return {**group, "params": self.param_groups[i]["params"]}

    def _read_state(self, number: int, p: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {}
        missing = [key for key in self.complete if saved and saved.get(key) is None]
        if missing:
            raise ValueError(f"{type(self).__name__}: the state of parameter {number} lacks {', '.join(missing)}")
        for key, value in saved.items():
            if key in self.numbers:
                state[key] = value.item() if hasattr(value, "item") else value
                if not _is_number(state[key]):
                    raise ValueError(f"{type(self).__name__}: {key} of parameter {number} is no number: {value!r}")
            elif value is not None:
                if np.asarray(value).dtype.kind not in "fiub":
                    raise ValueError(f"{type(self).__name__}: {key} of parameter {number} is no array of numbers")
                state[key] = np.array(np.asarray(value), p.dtype)  # asarray first: what PyTorch's tensors understand
                if state[key].shape != p.shape:
                    raise ValueError(
                        f"{type(self).__name__}: {key} of parameter {number} has shape {list(state[key].shape)}, the "
                        f"parameter {list(p.shape)}"
                    )
        return state

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    """The arguments of a class, and their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def _is_number(value: Any) -> bool:
    """Whether this is one finite real number."""
    if isinstance(value, Tensor):
        value = value.data
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return isinstance(value, (numbers.Real, np.bool_)) and math.isfinite(value)


def _short(value: Any) -> str:
    return f"one of {', '.join(map(repr, value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
