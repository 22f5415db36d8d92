"""A formula over scalars -> a NumPy ufunc whose inner loop is compiled by Numba.

The ufunc machinery brings broadcasting, strides, `out=` and overlap at a third of a microsecond a call; the loop is
ours. What is compiled for a formula is a loop over contiguous memory, vector code however many operands there are; one
more loop, which all kernels share, calls it with the operands themselves if they are contiguous, else block by block:
see `inner_loop`.

    >>> import numpy as np
    >>> axpy = Elementwise("axpy", "a x y", {"z": "a * x + y"})
    >>> axpy(np.float32(2), np.ones(3, np.float32), np.arange(3, dtype=np.float32))
    array([2., 3., 4.], dtype=float32)
"""

import ast
import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config

from . import cache
from .inner_loop import inner_loop
from .locks import lazy

# Imported at once: a child of a fork may wait for ever for what another thread was importing then.
UMATH: Any = importlib.import_module("numpy._core._multiarray_umath")

FORMULAS = '''\
"""{title}: generated from the formula{s} below."""

from tinygrad_rnn.kernels.{maths} import {functions}
from tinygrad_rnn.kernels.outline import for_each


@for_each(f, {results}, cache=CACHE)
def compute({inputs}):
    {body}
'''


class Elementwise:
    """`outputs = formulas(inputs)`, element by element, for float32 and float64 operands.

    Args:
        name: of the kernel, a Python identifier.
        inputs: the names of the operands, separated by spaces.
        formulas: name of a value -> expression over inputs, earlier values and the functions of `maths32`, as `writer`
            reads them: `+ - * /`, comparisons, `and or not`, `a if c else b`. All of them are outputs unless `outputs`
            names some of them. A formula may give an input a new value: "p": "p - g".

    Called with arrays of one dtype (scalars go with any) it broadcasts like a NumPy ufunc; `out` is an array or a
    tuple of arrays to write to. Compilation happens at the first call with a dtype.
    """

    def __init__(self, name: str, inputs: str, formulas: dict[str, str], outputs: str | None = None) -> None:
        self.name, self.inputs, self.formulas = name, inputs.split(), formulas
        self.outputs = list(formulas) if outputs is None else outputs.split()
        if "f" in self.inputs or "f" in formulas:
            raise ValueError(f"Elementwise {name}: f: in formulas this is the name of the dtype")

    def __call__(self, *operands: Any, out: Any = None) -> Any:
        double = any(getattr(x, "dtype", None) == np.float64 for x in operands)
        ufunc = self.float64 if double else self.float32
        return ufunc(*operands) if out is None else ufunc(*operands, out=out)  # NumPy refuses None for several outputs

    @lazy
    def float32(self) -> Callable[..., Any]:
        """The ufunc for float32 operands."""
        return self._build(np.float32)

    @lazy
    def float64(self) -> Callable[..., Any]:
        """The ufunc for float64 operands."""
        return self._build(np.float64)

    def _build(self, dtype: type[np.floating[Any]]) -> Callable[..., Any]:
        if config.DISABLE_JIT:
            return self._interpreted(dtype)
        module = cache.load(self.source(dtype), f"{self.name}_{np.dtype(dtype).name}")
        return _ufunc(module.compute, self.name, dtype, len(self.inputs), len(self.outputs))

    def source(self, dtype: type[np.floating[Any]]) -> str:
        """The module that is compiled: one loop with the formulas in its middle."""
        body, functions = self._body()
        return FORMULAS.format(
            title=f"{self.name}({', '.join(self.inputs)}), {np.dtype(dtype).name}",
            s="s" if len(self.formulas) > 1 else "",
            maths="maths64" if dtype is np.float64 else "maths32",
            functions=", ".join(["f", *functions]),
            inputs=", ".join(self.inputs),
            results=len(self.outputs),
            body=body,
        )

    def _body(self) -> tuple[str, list[str]]:
        """The body of a function of the inputs, and the names of the scalar functions that it calls."""
        lines, functions = [], set()
        for target, formula in self.formulas.items():
            text, called = scalar_code(formula)
            lines.append(f"{target} = {text}")
            functions |= called
        return "\n    ".join([*lines, f"return {', '.join(self.outputs)}"]), sorted(functions)

    def _interpreted(self, dtype: type[np.floating[Any]]) -> Callable[..., Any]:
        """The same formulas run by Python, an element at a time: for NUMBA_DISABLE_JIT=1, debuggers and coverage."""
        body, functions = self._body()
        maths = vars(importlib.import_module(f"tinygrad_rnn.kernels.maths{np.dtype(dtype).itemsize * 8}"))
        names = {name: maths[name] for name in [*functions, "f"]}
        exec(f"def rule({', '.join(self.inputs)}):\n    {body}", names)
        each = np.vectorize(lambda *numbers: names["rule"](*map(dtype, numbers)), [dtype] * len(self.outputs))

        def run(*operands: Any, out: Any = None) -> Any:
            with np.errstate(all="ignore"):
                results = each(*(np.asarray(x, dtype) for x in operands))
            if out is None:
                return results
            for place, result in zip(out, results) if isinstance(out, tuple) else [(out, results)]:
                place[...] = result
            return out

        return run


def scalar_code(formula: str) -> tuple[str, set[str]]:
    """`formula` with every number in the dtype of the kernel, and the functions it calls.

    >>> scalar_code("dy * (1 - tanh(x))")
    ('dy * (f(1) - tanh(x))', {'tanh'})
    """
    called: set[str] = set()

    class Cast(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            assert isinstance(node.func, ast.Name)
            called.add(node.func.id)
            node.args = [self.visit(argument) for argument in node.args]
            return node

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Call(ast.Name("f"), [node], [])

    return ast.unparse(Cast().visit(ast.parse(formula, mode="eval"))), called


_keep_alive: list[Any] = []


def _ufunc(compute: Any, name: str, dtype: type[np.floating[Any]], inputs: int, outputs: int) -> np.ufunc:
    """A ufunc of compiled formulas, made by NumPy's own constructor (entry 1 of its C table of ufunc functions)."""
    unwrap = ctypes.pythonapi.PyCapsule_GetPointer
    unwrap.restype, unwrap.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = ctypes.cast(unwrap(UMATH._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p))
    signature = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 4 + [ctypes.c_char_p] * 2 + [ctypes.c_int]
    from_loops = ctypes.PYFUNCTYPE(ctypes.py_object, *signature)(table[1])
    loops = (ctypes.c_void_p * 1)(inner_loop(np.dtype(dtype).itemsize))
    about = (ctypes.c_ssize_t * 3)(inputs, inputs + outputs, compute.address)
    data = (ctypes.c_void_p * 1)(ctypes.addressof(about))
    kinds = (ctypes.c_byte * (inputs + outputs))(*[np.dtype(dtype).num] * (inputs + outputs))
    text = name.encode(), b"Compiled by tinygrad_rnn."
    no_identity = -1
    _keep_alive.append((compute, about, loops, data, kinds, text))  # NumPy keeps the addresses only
    return from_loops(loops, data, kinds, 1, inputs, outputs, no_identity, *text, 0)
