"""Modules made of modules: ModuleList and Sequential.

A plain list of modules as an attribute does for most purposes what ModuleList does; it is here for habits' sake and
because it can stand alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .module import Module


class _Numbered(Module):
    """Modules in order, each under its number or a name of its own."""

    _wanted = "modules"

    def __init__(self) -> None:
        self._items: dict[str, Module] = {}

    def _members(self) -> Iterable[tuple[str, Any]]:
        return ((name.removeprefix("_items."), value) for name, value in super()._members())

    def _put(self, name: str, module: Any) -> None:
        if not self._takes(module):
            raise TypeError(
                f"{type(self).__name__}: expected {self._wanted}, got {type(module).__name__} as number {name}"
            )
        if "." in name or not name:
            raise ValueError(f"{type(self).__name__}: {name!r} cannot be the name of a module: no dots, and not empty")
        self._items[name] = module

    def _takes(self, module: Any) -> bool:
        return isinstance(module, Module)

    def append(self, module: Any) -> Any:
        """Add a module at the end; returns itself."""
        self._put(str(len(self._items)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; returns itself."""
        for module in modules:
            self.append(module)
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items.values())

    def __contains__(self, module: object) -> bool:
        return any(module is item for item in self)

    def __getitem__(self, index: int | slice) -> Any:
        """One module, or a container of several."""
        return type(self)(*self._part(index)) if isinstance(index, slice) else list(self)[index]

    def _part(self, index: slice) -> tuple[Any, ...]:
        """The arguments that make a container of these modules."""
        raise NotImplementedError

    def __setitem__(self, index: int, module: Module) -> None:
        self._put(list(self._items)[index], module)


def _numbered(modules: Iterable[Module]) -> dict[str, Module]:
    return {str(i): module for i, module in enumerate(modules)}


class ModuleList(_Numbered):
    """A list of modules, named "0", "1", ... It has no `forward`.

        >>> import tinygrad_rnn as tg
        >>> layers = tg.nn.ModuleList([tg.nn.Linear(2, 3), tg.nn.Linear(3, 1)])
        >>> len(layers), [name for name, _ in layers.named_parameters()]
        (2, ['0.weight', '0.bias', '1.weight', '1.bias'])
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _part(self, index: slice) -> tuple[Any, ...]:
        return (list(self)[index],)

    def insert(self, index: int, module: Module) -> None:
        """Put a module before position `index`; those after it are renamed."""
        items = list(self)
        items.insert(index, module)
        self._items = {}
        self.extend(items)


class Sequential(_Numbered):
    """Modules and functions applied one after the other: `Sequential(a, b)(x)` is `b(a(x))`.

        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(3, 4), tg.tanh, lambda h: h.mean(-1))
        >>> model(tg.zeros(5, 3)).shape
        (5,)

        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(3, 8), tg.nn.LayerNorm(8), tg.nn.Linear(8, 1))
        >>> model(tg.ones(5, 3)).shape
        (5, 1)

    Args:
        modules: modules and functions of one tensor, named "0", "1", ...; or one dict of named ones.
    """

    _wanted = "modules and functions"

    def _takes(self, module: Any) -> bool:
        return isinstance(module, Module) or (callable(module) and not isinstance(module, type))

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else _numbered(modules)
        for name, module in named.items():
            self._put(name, module)

    def _part(self, index: slice) -> tuple[Any, ...]:
        return (dict(list(self._items.items())[index]),)

    def _shown(self) -> Iterator[tuple[str, str]]:
        for name, item in self._items.items():
            yield name, repr(item) if isinstance(item, Module) else getattr(item, "__name__", repr(item))

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input
