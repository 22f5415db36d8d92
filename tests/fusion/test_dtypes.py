"""Kernels compute in the dtype of the states: what does not is refused, and the culprit is named."""

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret, parameter
from fusion.sweeping import H, I, refusal

F32, F64 = np.float32, np.float64
TOLERANCE = {F32: 2e-5, F64: 1e-11}  # of float32: what validation allows


def step(of):
    """A step that adds something to an ordinary one: of(cell, x, h)."""
    return lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + of(self, x, h))


HELD = {
    "W64": parameter(I, H),
    "U64": parameter(H, H),
    "U32": tg.nn.Parameter(parameter(H, H).numpy().astype(F32)),
    "k64": np.linspace(0.5, 1.5, H),
    "whole": np.arange(H),
}
NOISE = "tg.rand.*dtype=h.dtype"
REFUSED = {
    "int and back": (F64, lambda self, x, h: (3 * h).long().to(h.dtype), "int64.*tg.floor"),
    "int of the input": (F64, lambda self, x, h: (3 * x).long().to(h.dtype) @ self.W, "int64"),
    "int32": (F64, lambda self, x, h: h.to(np.int32).to(h.dtype), "int32"),
    "truth value and back": (F64, lambda self, x, h: h.to(np.bool_).to(h.dtype), "write h != 0"),
    "sum of truth values": (F64, lambda self, x, h: ((h > 0) + (h > -0.1)).to(h.dtype), "truth values in add"),
    "product of truth values": (F64, lambda self, x, h: ((h > 0) * (h > -0.1)).to(h.dtype), "truth values in mul"),
    "twice a truth value": (F64, lambda self, x, h: (h > 0) * 2 * h, "truth values"),
    "number of true ones": (F64, lambda self, x, h: (h > 0).sum(-1, keepdim=True) * h, "truth values in sum"),
    "a wider product": (F32, lambda self, x, h: (h.double() @ self.U64).float(), "h into float64"),
    "a narrower product": (F64, lambda self, x, h: (h.float() @ self.U32).double(), "h into float32"),
    "a wider product of the input": (F32, lambda self, x, h: (x.double() @ self.W64).float(), "x into float64"),
    "a wider weight": (F32, lambda self, x, h: (h @ self.U64).float(), r"self.U64 is float64.*U64.to\(np.float32\)"),
    "a wider weight of the input": (F32, lambda self, x, h: x @ self.W64, "self.W64 is float64"),
    "a wider constant": (F32, lambda self, x, h: (h * self.k64).float(), r"self.k64 is.*k64.astype\(np.float32\)"),
    "a wider sum": (F32, lambda self, x, h: h.sum(-1, keepdim=True, dtype=F64).float(), "h into float64"),
    "wider noise": (F32, lambda self, x, h: tg.where(tg.rand(h.shape, dtype=F64) < 0.3, h, 0), NOISE),
    "numbers chosen and then computed with": (F64, lambda self, x, h: tg.where(h > 0, 1.0, -1.0) * 0.3,
                                              r"a value made in step is float32.*write \(...\).to\(np.float64\)"),
    "maths of narrower noise": (F64, lambda self, x, h: (0.3 * tg.rand(h.shape)) * h, NOISE),
}
FINE = {
    "truth values as factors": lambda self, x, h: (h > 0) * h + (x @ self.W > 0).to(h.dtype) * 2,
    "copies": lambda self, x, h: h.clone() * 2 + (x @ self.W).clone() + tg.where((h > 0).clone(), h, 0.1),
    "conditions": lambda self, x, h: tg.where((h > 0) & (h < 0.5) | ~(x @ self.W > 0), h, 0.1),
    "conditions compared": lambda self, x, h: tg.where((h > 0) == (x @ self.W > 0), h, 0.1),
    "conditions side by side": lambda self, x, h: tg.where(tg.cat([h[:, :2] > 0, h[:, 2:] < 0], -1), h, 0.1),
    "whole numbers": lambda self, x, h: h * self.whole + h * (tg.tensor(self.whole) * 2 + 1),
    "whole numbers as a condition": lambda self, x, h: tg.where(self.whole > 1, h, 0.2),
    "weights in another dtype": lambda self, x, h: h @ self.U64.to(h.dtype) + x @ self.W64.to(h.dtype),
    "noise compared": lambda self, x, h: tg.where(tg.rand(h.shape) < 0.3, h, 0),
    "NumPy's numbers": lambda self, x, h: h * np.float64(0.3) + h * np.float32(0.5) + h * np.int64(2),
    "a number for each case": lambda self, x, h: tg.where(h.sum(-1) > 0, 1.0, 0.5).unsqueeze(1) * h,
}


@pytest.mark.parametrize(("dtype", "of", "reason"), REFUSED.values(), ids=REFUSED)
def test_another_dtype_is_refused(dtype, of, reason):
    told = refusal(step(of), TOLERANCE[dtype], dtype=dtype, **HELD)
    assert re.search(reason, told) and "test_dtypes.py" in told, told


@pytest.mark.parametrize("of", FINE.values(), ids=FINE)
def test_what_stays_in_the_dtype_of_the_states(of, monkeypatch):
    interpret(monkeypatch)
    assert refusal(step(of), **HELD) == ""


@pytest.mark.parametrize("dtype", [F32, pytest.param(F64, marks=pytest.mark.slow)])
def test_compiled(dtype):
    """All of it in one step; noise has the dtype of the states in one of float32 only."""
    chosen = [of for name, of in FINE.items() if dtype is F64 or name != "noise compared"]
    every = lambda self, x, h: sum(of(self, x, h) for of in chosen)
    assert refusal(step(every), TOLERANCE[dtype], dtype=dtype, **HELD) == ""
