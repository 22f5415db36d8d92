"""Module: an object that owns parameters, knows them by name, and can be called.

There is no registry. The parameters of a module are the Parameters among its attributes, its children the Modules
among them, those inside lists, tuples and dicts included, under the names that lead to them:

    self.weight = Parameter(...)           "weight"
    self.head = Linear(64, 10)             "head.weight", "head.bias"
    self.layers = [Linear(2, 2), ...]      "layers.0.weight", ...
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from reprlib import recursive_repr
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from ..autograd.operands import as_array, as_tensor, is_device
from ..autograd.tape import Value, mode, note_change
from ..autograd.tensor import Tensor, Variable
from ..fusion.compile import clock
from .advice import MODULES, advise

M = TypeVar("M", bound="Module")


class Parameter(Variable):
    """A tensor that is learned. It has a copy of `data` to itself, since optimisers write to it in place.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 2.0])
        >>> p.requires_grad, (p * 2).sum().item()
        (True, 6.0)

    Results of operations on parameters are plain tensors.

    Args:
        data: a tensor, an array or nested lists of floats; arrays keep their dtype, Python floats become float32.
        requires_grad: False for a parameter that stays as it is but is saved with the others.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        if mode.tracer is not None:
            mode.tracer.refuse("step makes a parameter", "make it, or the module that has it, in __init__")
        super().__init__(np.array(as_array(data), order="C"))
        self.requires_grad_(requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    def __reduce__(self) -> Any:
        """Copies and pickles have the values and a place of their own on the tape."""
        return type(self), (self.data, self.requires_grad)


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(..., strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of everything with parameters. Subclasses define `forward`; calling the module runs it.

        >>> import tinygrad_rnn as tg
        >>> class Scale(tg.nn.Module):
        ...     def __init__(self, n):
        ...         self.factor = tg.nn.Parameter(tg.ones(n))
        ...
        ...     def forward(self, x):
        ...         return x * self.factor
        >>> Scale(3)
        Scale()  # factor [3]: 3 parameters
        >>> Scale(2)(tg.tensor([1.0, 2.0]))
        tensor([1., 2.], grad_fn=mul)

    Attributes:
        training: whether dropout and its like are active; set by `train()` and `eval()`.
    """

    training: bool = True
    parametrizations: Any  # of what is computed, see `utils.parametrize`; not there if nothing is
    _buffers: Mapping[str, bool] = {}  # name -> whether it is saved; replaced, never changed, hence safe to share

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Value, np.ndarray)) and not isinstance(value, Parameter):
            if isinstance(vars(self).get(name), Parameter):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a Parameter and would be lost: assign a Parameter or None, or "
                    f"write new values into it, `with tg.no_grad(): x.{name}[...] = values`"
                )
        elif type(value) in _UNSEEN and any(isinstance(item, (Parameter, Module)) for item in value):
            raise TypeError(
                f"{type(self).__name__}.{name}: parameters and modules in a {type(value).__name__} would be neither "
                "learned nor saved: put them into a list, a tuple or a dict"
            )
        computed = vars(self).get("parametrizations")
        if computed is not None and name in computed:
            computed[name].assign(value)
            return
        super().__setattr__(name, value)
        clock.tick()  # compiled cells look at what they were traced with only after this

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        clock.tick()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if hasattr(type(self), name) or name in vars(self)]

    # ---- Who belongs to it -------------------------------------------------------------------------------------------

    _apart: ClassVar[tuple[str, ...]] = ()  # attributes whose parameters and modules are not this module's

    def _members(self) -> Iterable[tuple[str, Any]]:
        """The parameters and modules among the attributes, under every name that leads to them.

        This is what every step's `zero_grad` waits for: nothing is remembered that could be out of date.
        """
        found: list[tuple[str, Any]] = []
        for name, value in vars(self).items():
            if type(value) not in _PLAIN and name not in self._apart:
                _add_members(found, name, value)
        return found

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly below this one, each once."""
        return _once((name, value) for name, value in self._members() if isinstance(value, Module))

    def children(self) -> Iterator["Module"]:
        """The modules directly below this one, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, "Module"]]:
        """This module and all below it, parents first."""
        found = self._below(prefix, frozenset())
        return _once(found) if remove_duplicate else found

    def _below(self, name: str, above: frozenset[int]) -> Iterator[tuple[str, "Module"]]:
        yield name, self
        above = above | {id(self)}
        for child_name, child in self._members():
            if isinstance(child, Module) and id(child) not in above:  # a child may know its parent
                yield from child._below(_join(name, child_name), above)

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their names, each once; those of this module alone if `recurse` is False."""
        found: list[tuple[str, Parameter]] = []
        self._add_parameters(found, prefix, recurse, set() if remove_duplicate else None, frozenset())
        return iter(found)

    def _add_parameters(
        self, found: list[tuple[str, Parameter]], path: str, recurse: bool, seen: set[int] | None, above: frozenset[int]
    ) -> None:
        """Add the parameters to a list, parents' first; what is in `seen`, if there is such a set, not again."""
        children, start = [], f"{path}." if path else ""
        for name, value in self._members():
            if not isinstance(value, Parameter):
                children.append((start + name, value))
            elif seen is None:
                found.append((start + name, value))
            elif id(value) not in seen:
                seen.add(id(value))
                found.append((start + name, value))
        if recurse and children:
            above = above | {id(self)}
            for name, child in children:
                if id(child) in above or (seen is not None and id(child) in seen):  # a child may know its parent
                    continue
                if seen is not None:
                    seen.add(id(child))
                child._add_parameters(found, name, True, seen, above)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once: what an optimiser is given."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their names."""
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for name in module._buffers:
                if vars(module).get(name) is not None:
                    yield _join(path, name), vars(module)[name]

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Make `self.<name>` a tensor that is saved (if persistent) but not learned, such as a running mean."""
        self._check_free(name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name} must be a Tensor or None, not {type(tensor).__name__}")
        setattr(self, name, tensor)
        self._buffers = {**self._buffers, name: persistent}

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """The same as `self.<name> = param`, for names that are computed."""
        self._check_free(name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name} must be a Parameter or None, not {type(param).__name__}")
        setattr(self, name, param)

    def _check_free(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{name!r} cannot be the name of a parameter or buffer: names are strings without dots")
        if hasattr(self, name) and name not in vars(self):
            raise ValueError(f"{type(self).__name__}.{name} exists already; choose another name")

    # ---- Saving and loading ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter and persistent buffer as a NumPy array, by name.

        Raises:
            ValueError: two of them have the same name, as `{"a": {"b": p}, "a.b": q}` gives.
        """
        return {name: tensor.data.copy() for name, tensor in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        named: list[tuple[str, Tensor]] = []
        for path, module in self.named_modules(remove_duplicate=False):
            named += module.named_parameters(path, recurse=False, remove_duplicate=False)
            buffers = module.named_buffers(path, recurse=False)
            named += ((name, buffer) for name, buffer in buffers if module._buffers[name.split(".")[-1]])
        state = dict(named)
        for name, tensor in named:
            if state[name] is not tensor:
                raise ValueError(
                    f"{type(self).__name__}: two tensors are called {name!r}, and only one could be saved; names are "
                    "joined by dots: change a key or an attribute that leads to one of them"
                )
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and persistent buffers, which keep their dtype.

        Args:
            state_dict: name -> array, tensor, or whatever `np.asarray` accepts.
            strict: whether every name here must be there and the other way round.

        Returns:
            The names that were missing and those that were not expected: both empty if strict.

        Raises:
            RuntimeError: a name is missing or unexpected, or an array has the wrong shape or kind, or a parameter is
                read-only. The message lists every one of them, and nothing was changed.
            TypeError: it is no mapping of names.
        """
        if not hasattr(state_dict, "keys"):
            raise TypeError(
                f"load_state_dict: expected names with their arrays, as state_dict() returns them, got a "
                f"{type(state_dict).__name__}; a file is read by tg.load_weights(path, model)"
            )
        state = self._state()
        missing = [name for name in state if name not in state_dict]
        unexpected = [name for name in state_dict if name not in state]
        arrays, problems = {}, []
        for name in state:
            if name in state_dict:
                try:
                    arrays[name] = np.asarray(state_dict[name])
                except (ValueError, TypeError, RuntimeError) as error:  # of PyTorch's tensors, those that it refuses
                    problems.append(f"{name} is no array: {error}")
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(map(str, unexpected))}")
        for name, array in arrays.items():
            own = state[name].data
            if array.shape != own.shape:
                problems.append(f"{name} has shape {list(array.shape)}, expected {list(own.shape)}")
            elif not np.can_cast(array.dtype, own.dtype, "same_kind"):
                problems.append(f"{name} is {array.dtype}, which does not become {own.dtype}")
            elif not own.flags.writeable:
                problems.append(f"{name} is read-only here; make the parameter of a copy")
        if problems:
            raise RuntimeError(
                f"load_state_dict: this state does not fit {type(self).__name__}, and nothing was loaded:"
                + "".join(f"\n    {problem}" for problem in problems)
            )
        # Cast first: a number that overflows may be an error, where warnings are.
        arrays = {name: array.astype(state[name].data.dtype, copy=False) for name, array in arrays.items()}
        for name, array in arrays.items():
            state[name].data[...] = array
        note_change(state[name] for name in arrays)
        return IncompatibleKeys(missing, unexpected)

    # ---- What is computed of parameters ------------------------------------------------------------------------------

    def _of_sequence(self, batch_size: int) -> dict[str, Tensor]:
        """By name, what this module has for a whole sequence: attributes that are computed, see `utils.parametrize`."""
        computed = vars(self).get("parametrizations")
        return {} if computed is None else {name: computed[name]() for name in computed}

    def _refuse_computed(self) -> None:
        """Raise RuntimeError if something here is computed: nothing can be drawn in its place."""
        if "parametrizations" in vars(self):
            names = ", ".join(self.parametrizations)
            raise RuntimeError(f"reset_parameters: {names} is parametrised; call remove_parametrizations before")

    # ---- Changing everything at once ---------------------------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Switch dropout and its like on, here and below; returns itself."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self: M) -> M:
        """Switch dropout and its like off, here and below; returns itself."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Learn all parameters, or none of them; returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else Tensor(np.zeros_like(parameter.data))

    def apply(self: M, fn: "Callable[[Module], Any]") -> M:
        """Call `fn` on every module, children first, for instance to initialise them; returns itself."""
        self._apply(fn, frozenset())
        return self

    def _apply(self, fn: "Callable[[Module], Any]", above: frozenset[int]) -> None:
        above = above | {id(self)}
        for child in self.children():
            if id(child) not in above:  # a child may know its parent
                child._apply(fn, above)
        fn(self)

    def to(self: M, dtype: Any) -> M:
        """Convert parameters and buffers of floats, with their gradients, to float32 or float64; returns itself.

        Told "cpu" it changes nothing.
        """
        if is_device(dtype):
            return self
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"modules compute in float32 or float64, not {np.dtype(dtype)}")
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.data.dtype.kind == "f":
                tensor.data = tensor.data.astype(dtype)
                if tensor.grad is not None:
                    tensor.grad = as_tensor(tensor.grad).detach().to(dtype)
        return self

    def float(self: M) -> M:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self: M) -> M:
        """Convert to float64."""
        return self.to(np.float64)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr: the arguments the module was made with."""
        return ""

    def _shown(self) -> Iterator[tuple[str, str]]:
        """What the repr lists below the first line."""
        return ((name, repr(child)) for name, child in self.named_children())

    @recursive_repr()
    def __repr__(self) -> str:
        own = ", ".join(f"{name} {list(p.shape)}" for name, p in self.named_parameters(recurse=False))
        count = sum(p.numel() for p in self.parameters())
        total = f"{count:,} parameter{'' if count == 1 else 's'}" if count else ""
        note = f"  # {': '.join(filter(None, [own, total]))}" if total else ""
        children = "".join(f"\n  ({name}): " + text.replace("\n", "\n  ") for name, text in self._shown())
        name, arguments = type(self).__name__, self.extra_repr()
        return f"{name}({arguments}{note}{children}\n)" if children else f"{name}({arguments}){note}"


advise(Module, MODULES)

# What most attributes are, and no parameter can be in.
_PLAIN = frozenset({int, float, bool, str, type(None), np.ndarray, Tensor})
# Where they are not looked for: a set has another order in another run, and names are saved.
_UNSEEN = frozenset({set, frozenset, deque})


def _add_members(found: list[tuple[str, Any]], name: str, value: Any) -> None:
    if isinstance(value, (Parameter, Module)):
        found.append((name, value))
    elif isinstance(value, dict):
        for key, item in value.items():
            _add_members(found, f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _add_members(found, f"{name}.{i}", item)


def _once(named: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    seen = set()
    for name, value in named:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
