"""Every loop over columns becomes vector instructions: proved by what the compiler put out, not by a clock."""

import ast
import re
from types import SimpleNamespace

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from fusion.comparing import LayerNorm
from tinygrad_rnn.fusion import scan, short
from tinygrad_rnn.kernels import cache, vector

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

I, H = 8, 64

# LLVM: the first pass of a vectorised loop over as many lanes as fit; what is left over goes through another one.
VECTOR_LOOP = re.compile(r"^vector\.body\S*:.*?\n(.*?)(?=^\S+:|^})", re.MULTILINE | re.DOTALL)
LANES = re.compile(r"<(\d+) x float>")
# What looks like a vector operation and becomes a call of libm for each element, and any call that stays one.
CALL = re.compile(r"@llvm\.(?:sin|cos|tan|pow|exp|exp2|log|log2|log10)\.|call [^@\n]*@(?!llvm\.)")
FALLBACK = re.compile(r"^vector\.(?:memcheck|scevcheck)", re.MULTILINE)  # at run time, it may still be the scalar loop
REGISTER = {"avx512": "[yz]mm", "avx2": "ymm"}


def widths():
    """Bytes of the vectors that a loop may have.

    Where a loop has no exp or tanh, LLVM chooses: on Intel's processors with AVX-512 it prefers half a register. To
    force whole ones gains 3 % at small sizes there and loses 3 to 8 % at large ones, so the choice is left to it.
    """
    whole = vector.HOST.bytes
    return (whole, whole // 2) if vector.HOST.name == "avx512" else (whole,)


LAYERS = {
    "lstm": lambda: tg.nn.LSTM(I, H),
    "gru": lambda: tg.nn.GRU(I, H),
    "layer norm": lambda: tg.nn.Recurrent(LayerNorm(I, H)),
}


def compiled(layer, monkeypatch, edit=lambda source: source, backward=True, work=0):
    """[(source, driver), ...] compiled here and now: what comes from the cache has no text to look at.

    With some `work`, the drivers are those of short calls.
    """
    found = []

    def load(source, name, use):
        module = cache._execute(edit(source), f"tinygrad_rnn.generated.fresh_{name}", f"<{name}>", use, cache=False)
        found.append((edit(source), module.short_call if work else getattr(module, name.split("_")[1])))
        return module

    monkeypatch.setattr(scan, "cache", SimpleNamespace(load=load))
    monkeypatch.setattr(short, "WORK", work)
    x = tg.tensor(np.random.default_rng(0).normal(size=(2, 2, I)).astype(np.float32), requires_grad=True)
    layer.fused = "require"
    y, _ = layer(x)
    if backward:
        y.sum().backward()
    return found


def row_functions(source):
    """Name -> (number of loops, whether its arguments are said to be distinct) of the functions of one row."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    loops = {f.name: sum(isinstance(node, ast.For) for node in ast.walk(f)) for f in functions}
    return {f.name: (loops[f.name], "distinct()" in ast.unparse(f)) for f in functions if re.search(r"_\d+$", f.name)}


def body_of(text, name, end):
    """The definition of a function in the text of a library."""
    (body,) = re.findall(rf"^(?:define [^\n]*@)?_ZN(?!7cpython)\w*?\d{name}B[^\n]*\n(.*?)^{end}", text, re.M | re.S)
    return body


def problems(source, driver):
    """What is not vector code in the machine code of a driver, which has the row functions inside it."""
    (llvm,), (assembly,) = driver.inspect_llvm().values(), driver.inspect_asm().values()
    wrong = [f"{name} is called" for name in row_functions(source) if re.search(rf"call [^\n]*\d{name}B", llvm)]
    name = driver.__name__
    if name == "short_call" and 'inline="always"' not in source:  # too many arguments: the loop stays a function
        name = "backward" if "def backward(" in source else "forward"
    body = body_of(llvm, name, "}")
    vectorised = [text for text in VECTOR_LOOP.findall(body) if LANES.search(text)]
    loops = sum(count for count, _ in row_functions(source).values())
    if len(vectorised) != loops:
        wrong.append(f"{name}: {len(vectorised)} of {loops} loops are vectorised")
    for text in vectorised:
        widest = max((int(n) for n in LANES.findall(text)), default=0)
        if 4 * widest not in widths():
            wrong.append(f"{name}: a loop over {widest} floats at a time")
        if CALL.search(text):
            wrong.append(f"{name}: a loop that calls {CALL.search(text)[0]}")
    if all(distinct for _, distinct in row_functions(source).values()) and FALLBACK.search(body):
        wrong.append(f"{name}: it is decided at run time whether its vector code is used")
    if vector.HOST.name in REGISTER:
        packed = rf"\tv(?:mul|add|sub|fn?m(?:add|sub)\d+)ps\b[^\n]*%{REGISTER[vector.HOST.name]}"
        if not re.search(packed, body_of(assembly, name, r"\.?Lfunc_end")):
            wrong.append(f"{name}: no arithmetic on packed floats in whole registers")
    return wrong


@pytest.mark.parametrize("work", [0, short.WORK])
@pytest.mark.parametrize("name", LAYERS)
def test_every_loop_over_columns_becomes_vector_code(name, work, monkeypatch):
    forward, backward = compiled(LAYERS[name](), monkeypatch, work=work)
    for source, driver in (forward, backward):
        assert sum(loops for loops, _ in row_functions(source).values()) >= 1
        assert not problems(source, driver)


def test_the_search_for_vector_code_can_fail(monkeypatch):
    """A value that is carried from column to column makes the loop a scalar one, and is found out."""
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")  # what is compiled computes nonsense
    carried = lambda source: source.replace("h_new_out[j] = h_new\n", "h_new_out[j] = h_new + h_new_out[j - 1]\n")
    ((source, driver),) = compiled(tg.nn.RNN(I, H), monkeypatch, carried, backward=False)
    assert "forward: 0 of 1 loops are vectorised" in problems(source, driver)
