"""Every loop over columns becomes vector instructions: proved by what the compiler put out, not by a clock.

That is so for this processor, and for every kind of x86: to compile for one takes a process whose settings name it, but
not the processor.
"""

import ast
import functools
import json
import pickle
import platform
import re
from types import SimpleNamespace

import numpy as np
import pytest
from kernels.guarded import in_child
from numba import config

import tinygrad_rnn as tg
from fusion.comparing import LayerNorm
from tinygrad_rnn.fusion import scan
from tinygrad_rnn.kernels import cache, vector

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

I, H = 8, 64

# LLVM: the first pass of a vectorised loop over as many lanes as fit; what is left over goes through another one.
VECTOR_LOOP = re.compile(r"^vector\.body\S*:.*?\n(.*?)(?=^\S+:|^})", re.MULTILINE | re.DOTALL)
LANES = re.compile(r"<(\d+) x float>")
# What looks like a vector operation and becomes a call of libm for each element, and any call that stays one.
CALL = re.compile(r"@llvm\.(?:sin|cos|tan|pow|exp|exp2|log|log2|log10)\.|call [^@\n]*@(?!llvm\.)")
FALLBACK = re.compile(r"^vector\.(?:memcheck|scevcheck)", re.MULTILINE)  # at run time, it may still be the scalar loop
# Functions that ask for whole registers: see `ask_for_full_width`. Where none is called, a loop takes what LLVM
# prefers, which may be half of one where a whole one is 64 bytes.
ASKING = {
    "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "log_sigmoid", "softplus", "silu", "erf", "phi", "gelu",
    "gelu_tanh",
}  # fmt: skip
REGISTER = {"avx512": "[yz]mm", "avx2": "ymm", "avx": "ymm", "sse2": "xmm"}

LAYERS = {
    "lstm": lambda: tg.nn.LSTM(I, H),
    "gru": lambda: tg.nn.GRU(I, H),
    "layer norm": lambda: tg.nn.Recurrent(LayerNorm(I, H)),
}


def compiled(layer, monkeypatch, edit=lambda source: source, backward=True):
    """[(source, driver), ...] compiled here and now: what comes from the cache has no text to look at."""
    found = []

    def load(source, name, use):
        module = cache._execute(edit(source), f"tinygrad_rnn.generated.fresh_{name}", f"<{name}>", use, cache=False)
        found.append((edit(source), getattr(module, "backward" if "backward" in name else "forward")))
        return module

    monkeypatch.setattr(scan, "cache", SimpleNamespace(load=load))
    x = tg.tensor(np.random.default_rng(0).normal(size=(2, 2, I)).astype(np.float32), requires_grad=True)
    layer.fused = "require"
    y, _ = layer(x)
    if backward:
        y.sum().backward()
    return found


class RowFunction:
    """A function of one row, as it is written."""

    def __init__(self, function):
        calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
        called = {call.id for call in calls if isinstance(call, ast.Name)}
        self.name, self.asks = function.name, bool(called & ASKING)
        self.loops = sum(isinstance(node, ast.For) for node in ast.walk(function))


def row_functions(source):
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return [RowFunction(f) for f in functions if re.search(r"_\d+$", f.name)]


def body_of(text, name, end):
    """The definition of a function in the text of a library."""
    (body,) = re.findall(rf"^(?:define [^\n]*@)?_ZN(?!7cpython)\w*?\d{name}B[^\n]*\n(.*?)^{end}", text, re.M | re.S)
    return body


def problems(source, driver):
    """What is not vector code in the machine code of a driver, which has the row functions inside it."""
    (llvm,), (assembly,) = driver.inspect_llvm().values(), driver.inspect_asm().values()
    rows = row_functions(source)
    wrong = [f"{row.name} is called" for row in rows if re.search(rf"call [^\n]*\d{row.name}B", llvm)]
    name = driver.__name__
    body = body_of(llvm, name, "}")
    vectorised = [text for text in VECTOR_LOOP.findall(body) if LANES.search(text)]
    loops = sum(row.loops for row in rows)
    if len(vectorised) != loops:
        wrong.append(f"{name}: {len(vectorised)} of {loops} loops are vectorised")
    whole = vector.HOST.bytes // 4
    widest = [max(int(n) for n in LANES.findall(text)) for text in vectorised]
    allowed = {whole, whole // 2} if vector.HOST.name == "avx512" else {whole}
    wrong += [f"{name}: a loop over {lanes} floats at a time" for lanes in widest if lanes not in allowed]
    asked = sum(row.loops for row in rows if row.asks)
    if widest.count(whole) < asked:
        wrong.append(f"{name}: {widest.count(whole)} loops with whole registers, {asked} asked for them")
    for text in vectorised:
        if CALL.search(text):
            wrong.append(f"{name}: a loop that calls {CALL.search(text)[0]}")
    if FALLBACK.search(body):
        wrong.append(f"{name}: it is decided at run time whether its vector code is used")
    if vector.HOST.name in REGISTER:
        code, register = body_of(assembly, name, r"\.?Lfunc_end"), REGISTER[vector.HOST.name]
        if not re.search(rf"\tv?(?:mul|add|sub|fn?m(?:add|sub)\d*)ps\b[^\n]*%{register}", code):
            wrong.append(f"{name}: no arithmetic on packed floats in whole registers")
        if vector.HOST.fma and not re.search(rf"\tvfn?m(?:add|sub)\d*ps\b[^\n]*%{register}", code):
            wrong.append(f"{name}: no multiply-add of packed floats")
    return wrong


@pytest.mark.parametrize("name", ["layer norm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "gru"))])
def test_every_loop_over_columns_becomes_vector_code(name, monkeypatch):
    forward, backward = compiled(LAYERS[name](), monkeypatch)
    for source, driver in (forward, backward):
        assert sum(row.loops for row in row_functions(source)) >= 1
        assert not problems(source, driver)


def test_the_search_for_vector_code_can_fail(monkeypatch):
    """A value that is carried from column to column makes the loop a scalar one, and is found out."""
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")  # what is compiled computes nonsense
    carried = lambda source: source.replace("h_new_out[j] = h_new\n", "h_new_out[j] = h_new + h_new_out[j - 1]\n")
    ((source, driver),) = compiled(tg.nn.RNN(I, H), monkeypatch, carried, backward=False)
    assert "forward: 0 of 1 loops are vectorised" in problems(source, driver)


# ---- For other processors --------------------------------------------------------------------------------------------

# Name -> NUMBA_CPU_NAME, NUMBA_CPU_FEATURES, and the registers.
PROCESSORS = {
    "AVX-512 that LLVM prefers whole": ("x86-64-v4", "-prefer-256-bit", "avx512"),  # AMD's
    "AVX-512 that LLVM prefers halved": ("x86-64-v4", "+prefer-256-bit", "avx512"),  # Intel's
    "AVX2": ("x86-64-v3", "", "avx2"),
    "neither": ("x86-64", "", "sse2"),
}
QUICK = {"AVX-512 that LLVM prefers whole", "AVX2"}


def compile_for_another(path):
    """In a process that is told of another processor: what is not vector code for it. Nothing runs."""
    with open(path, "rb") as file:
        drivers = pickle.load(file)
    wrong = []
    for number, (source, function, signature) in enumerate(drivers):
        module = cache._execute(source, f"tinygrad_rnn.generated.other_{number}", f"<{number}>", cache=False)
        driver = getattr(module, function)
        driver.compile(signature)
        wrong += problems(source, driver)
    print(json.dumps([vector.HOST.name, wrong]))


@functools.cache
def drivers(*names):
    """Of layers, what another process can compile: pickled texts, names and types of arguments."""
    with pytest.MonkeyPatch.context() as patch:
        found = [pair for name in names for pair in compiled(LAYERS[name](), patch)]
    return pickle.dumps([(source, driver.__name__, driver.signatures[0]) for source, driver in found])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processors are those of x86")
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        pytest.param(name, layers, marks=() if layers == ("layer norm",) and name in QUICK else pytest.mark.slow)
        for name in PROCESSORS
        for layers in (("layer norm",), ("lstm", "gru"))
    ],
)
def test_every_loop_becomes_vector_code_for_every_kind_of_processor(name, layers, tmp_path):
    """Also for those that this one is not. Forward there are loops that ask for whole registers, backward others."""
    path, (processor, features, registers) = tmp_path / "drivers", PROCESSORS[name]
    path.write_bytes(drivers(*layers))
    settings = dict(NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES=features, TINYGRAD_RNN_VECTORS="")
    printed = in_child(__file__, f"compile_for_another({str(path)!r})", **settings)
    assert json.loads(printed) == [registers, []]
