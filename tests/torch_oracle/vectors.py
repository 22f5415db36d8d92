"""Trees of arrays to one small .npz file and back, without pickle.

All arrays of one dtype lie end to end in one member, and a JSON text says where each belongs: an archive with one
member per array would be mostly headers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from torch_oracle.cases import Case, Index, Leaf, Outcome, Tree
from torch_oracle.modules import ModuleCase, ModuleOutcome
from torch_oracle.optimisers import OptimiserCase
from torch_oracle.schedules import ScheduleCase

RECORDS = {
    cls.__name__: cls
    for cls in (Case, Index, Leaf, ModuleCase, ModuleOutcome, OptimiserCase, Outcome, ScheduleCase)
}


def save(path: Path, tree: Tree) -> None:
    """Write `tree`: tuples, lists, dicts, slices, arrays, dtypes, Cases, Outcomes and what JSON knows."""
    pools: dict[str, list] = {}

    def encode(node):
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if isinstance(node, np.ndarray):
            pool = pools.setdefault(node.dtype.name, [])
            start = sum(a.size for a in pool)
            pool.append(node.ravel())
            return {"array": [node.dtype.name, start, list(node.shape)]}
        if isinstance(node, list):
            return [encode(child) for child in node]
        if isinstance(node, tuple):
            return {"tuple": [encode(child) for child in node]}
        if isinstance(node, dict):
            return {"dict": [[encode(key), encode(value)] for key, value in node.items()]}
        if isinstance(node, slice):
            return {"slice": [encode(part) for part in (node.start, node.stop, node.step)]}
        if node is Ellipsis:
            return {"ellipsis": []}
        if isinstance(node, np.dtype):
            return {"dtype": node.name}
        if type(node).__name__ in RECORDS:
            return {type(node).__name__: [encode(value) for value in vars(node).values()]}
        raise TypeError(f"cannot store a {type(node).__name__}: {node!r}")

    index = json.dumps(encode(tree), separators=(",", ":")).encode()
    members = {name: np.concatenate(pool) for name, pool in sorted(pools.items())}
    np.savez_compressed(path, index=np.frombuffer(index, np.uint8), **members)


def load(path: Path) -> Tree:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        pools = {name: archive[name] for name in archive.files}
    index = json.loads(pools.pop("index").tobytes())

    def decode(node):
        if isinstance(node, list):
            return [decode(child) for child in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            dtype, start, shape = content
            return pools[dtype][start : start + int(np.prod(shape))].reshape(shape)
        if kind == "tuple":
            return tuple(map(decode, content))
        if kind == "dict":
            return {decode(key): decode(value) for key, value in content}
        if kind == "slice":
            return slice(*map(decode, content))
        if kind == "ellipsis":
            return Ellipsis
        if kind == "dtype":
            return np.dtype(content)
        return RECORDS[kind](*map(decode, content))

    return decode(index)
