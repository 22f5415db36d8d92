"""Weights that are computed from others: a module's attribute becomes a function of parameters of its own.

    linear.weight = P                    linear.weight = f(linear.parametrizations.weight.original)

`register_parametrization` takes a parameter away from a module and puts what it is computed from in
`module.parametrizations`, under PyTorch's names. Reading the attribute computes it; what optimisers and `state_dict`
see are the originals; assigning to it writes to these. Inside a recurrent cell it is computed once for a sequence, on
the tape, and the kernels get it with what else holds for the sequence: see `Cell.sequence_values`.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np

from ...autograd.operands import as_tensor
from ...autograd.tape import mode, no_grad, note_change
from ...autograd.tensor import Tensor
from ...fusion.held import Held
from ..module import Module, Parameter

__all__ = [
    "register_parametrization", "is_parametrized", "remove_parametrizations", "ParametrizationList", "Parametrizations",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
M = TypeVar("M", bound=Module)
# Whether somebody reads computed weights only to see what they are: what reading changes stays as it is.
looking: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def only_looking() -> Iterator[None]:
    """Inside, reading a computed weight changes nothing that the next one is made of."""
    before = looking.set(True)
    try:
        yield
    finally:
        looking.reset(before)


class ParametrizationList(Module):
    """What one attribute is computed by, `self[0]`, `self[1]`, ... one after another; called, it gives the value.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.utils.parametrizations.weight_norm(tg.nn.Linear(3, 2))
        >>> sorted(name for name, _ in layer.parametrizations.weight.named_parameters())
        ['original0', 'original1']

    Attributes:
        original: what the first of them takes; or original0, original1 and so on, if its `right_inverse` gives several.
    """

    def __init__(self, parametrization: Module, value: Parameter) -> None:
        vars(self)["0"] = parametrization
        self.count, self.shape = 1, value.shape
        self.names: tuple[str, ...] = ("original",)
        with no_grad():
            found = _inverse(parametrization, value.detach())
        if isinstance(found, (tuple, list)):
            self.names = tuple(f"original{i}" for i in range(len(found)))
            for name, each in zip(self.names, found):
                setattr(self, name, Parameter(each, value.requires_grad))
        else:
            value.data = np.array(as_tensor(found).data, order="C")  # the very parameter, which an optimiser may have
            self.original = value

    @property
    def originals(self) -> list[Parameter]:
        """The parameters from which the attribute is computed."""
        return [vars(self)[name] for name in self.names]

    def forward(self) -> Tensor:
        """The value of the attribute, with its past."""
        if mode.tracer is not None:
            mode.tracer.refuse(
                "step reads a parametrised weight of a module that the cell does not hold",
                "make that module an attribute of the cell: its weight is then computed once for a sequence",
            )
        value = self[0](*self.originals)
        for i in range(1, self.count):
            value = self[i](value)
        return value

    def assign(self, value: Any) -> None:
        """Let the attribute have this value, as near as the parametrizations can come to it."""
        value = as_tensor(value).detach()
        if value.shape != self.shape:
            raise ValueError(f"a parametrised weight of shape {list(self.shape)} cannot be {list(value.shape)}")
        with no_grad():
            for each in reversed([*self]):
                value = _inverse(each, value)
        found = value if isinstance(value, (tuple, list)) else (value,)
        for original, each in zip(self.originals, found, strict=True):
            original.data[...] = each.data
        note_change(self.originals)

    def append(self, parametrization: Module) -> None:
        """Add one that is applied to what the others give."""
        setattr(self, str(self.count), parametrization)
        self.count += 1

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Module]:
        return (self[i] for i in range(self.count))

    def __getitem__(self, i: int) -> Module:
        return vars(self)[str(range(self.count)[i])]


class Parametrizations(Module):
    """The parametrizations of a module by the names of its attributes, which lie on it as `parametrizations`.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.utils.parametrizations.orthogonal(tg.nn.Linear(3, 3))
        >>> "weight" in layer.parametrizations, "bias" in layer.parametrizations
        (True, False)

    It is replaced where one comes or goes, never changed: so compiled cells notice.
    """

    def __init__(self, kind: type[Module], lists: dict[str, ParametrizationList]) -> None:
        self._kind = kind
        vars(self).update(lists)
        self._install()

    def _install(self) -> None:
        """Let instances of the class be asked for what they do not have: pickles are loaded where nobody was, yet."""
        for name in self:
            if name not in vars(self._kind):
                Held(self._kind, name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._install()

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in vars(self).items() if type(value) is ParametrizationList)

    def __contains__(self, name: str) -> bool:
        return type(vars(self).get(name)) is ParametrizationList

    def __getitem__(self, name: str) -> ParametrizationList:
        return vars(self)[name]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def register_parametrization(module: M, tensor_name: str, parametrization: Module) -> M:
    """Let a parameter of a module be computed, `module.<name> = parametrization(original)`; returns the module.

        >>> import tinygrad_rnn as tg
        >>> class Symmetric(tg.nn.Module):
        ...     def forward(self, x):
        ...         return x.tril() + x.tril(-1).T
        >>> layer = tg.nn.utils.parametrize.register_parametrization(tg.nn.Linear(3, 3), "weight", Symmetric())
        >>> bool((layer.weight.numpy() == layer.weight.numpy().T).all()), sorted(layer.state_dict())
        (True, ['bias', 'parametrizations.weight.original'])

    A second one is applied to what the first gives. `parametrization.right_inverse(value)`, if there is one, gives the
    original, or a tuple of several, for the value that the parameter has, and for one that is assigned.

    Args:
        tensor_name: of a parameter that is an attribute of the module.

    Raises:
        ValueError: there is no such parameter, or what is computed has another shape or dtype.
        TypeError: the module lends its parameters to cells, or has a class attribute of that name.

    Source: the interface is that of `torch.nn.utils.parametrize`.
    """
    lists = {name: module.parametrizations[name] for name in getattr(module, "parametrizations", ())}
    if tensor_name in lists:
        with no_grad(), only_looking():
            value = lists[tensor_name]()
            _check_alike(tensor_name, parametrization, parametrization(value), value.shape, value.dtype)
        lists[tensor_name].append(parametrization)
        module.parametrizations = Parametrizations(type(module), lists)
        return module
    value = parameter_of(module, tensor_name)
    array, shape, dtype = value.data, value.shape, value.dtype
    made = ParametrizationList(parametrization, value)
    try:
        with no_grad():
            _check_alike(tensor_name, parametrization, made(), shape, dtype)
    except BaseException:
        value.data = array
        raise
    delattr(module, tensor_name)
    module.parametrizations = Parametrizations(type(module), lists | {tensor_name: made})
    return module


def _check_alike(name: str, parametrization: Module, found: Any, shape: tuple[int, ...], dtype: Any) -> None:
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (shape, dtype):
        got = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"register_parametrization: {name} is {list(shape)} of {dtype}, and {type(parametrization).__name__} gives "
            f"{got}"
        )


def parameter_of(module: Module, name: str) -> Parameter:
    """The parameter of a module that is to be computed.

    Raises:
        ValueError, TypeError: see `register_parametrization`.
    """
    title = type(module).__name__
    if is_parametrized(module, name):
        raise ValueError(f"{title}.{name} is parametrised already; call remove_parametrizations before")
    value = vars(module).get(name)
    if not isinstance(value, Parameter):
        known = [each for each, p in vars(module).items() if isinstance(p, Parameter)]
        raise ValueError(f"{title} has no parameter {name!r} among its attributes, only {', '.join(known) or 'none'}")
    if hasattr(module, "_lent"):
        raise TypeError(
            f"{title} lends its parameters to its cells: parametrise those of a Stack, such as "
            'tg.nn.Stack(lambda width: weight_norm(tg.nn.LSTMCell(width, 64), "weight_hh"), 28)'
        )
    there = inspect.getattr_static(type(module), name, Held)
    if there is not Held and not isinstance(there, Held):
        raise TypeError(f"{title}.{name} is an attribute of the class as well, which would be found instead: rename it")
    return value


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether an attribute of a module is computed; whether any is, if no name is given.

    >>> import tinygrad_rnn as tg
    >>> layer = tg.nn.utils.parametrizations.weight_norm(tg.nn.Linear(3, 2))
    >>> is_parametrized(layer), is_parametrized(layer, "bias")
    (True, False)
    """
    found = vars(module).get("parametrizations")
    return isinstance(found, Parametrizations) and (len(found) > 0 if tensor_name is None else tensor_name in found)


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Make a computed attribute a parameter again, which has the value computed last; returns the module.

    >>> import tinygrad_rnn as tg
    >>> layer = tg.nn.utils.parametrizations.weight_norm(tg.nn.Linear(3, 2))
    >>> remove_parametrizations(layer, "weight")
    Linear(in_features=3, out_features=2, bias=True)  # bias [2], weight [2, 3]: 8 parameters

    Args:
        leave_parametrized: False for the original in place of what was computed from it.

    Raises:
        ValueError: the attribute is not computed; or there are several originals, and one of them is asked for.

    Source: the interface is that of `torch.nn.utils.parametrize`.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"remove_parametrizations: {type(module).__name__}.{tensor_name} is not parametrised")
    made: ParametrizationList = module.parametrizations[tensor_name]
    if len(made.originals) > 1 and not leave_parametrized:
        raise ValueError(
            f"remove_parametrizations: {tensor_name} has {len(made.originals)} originals: leave out "
            "leave_parametrized=False for the value that is computed from them"
        )
    if leave_parametrized:
        with no_grad():
            value = made().data.copy()
    if len(made.originals) > 1:
        parameter = Parameter(value, any(each.requires_grad for each in made.originals))
    else:
        parameter = made.originals[0]
        if leave_parametrized:
            parameter.data = value
    lists = {name: module.parametrizations[name] for name in module.parametrizations if name != tensor_name}
    if lists:
        module.parametrizations = Parametrizations(type(module), lists)
    else:
        del module.parametrizations
    setattr(module, tensor_name, parameter)
    return module


def _inverse(parametrization: Module, value: Tensor) -> Any:
    """What a parametrization makes this value of; the value itself if it does not say."""
    inverse = getattr(parametrization, "right_inverse", None)
    return value if inverse is None else inverse(value)
