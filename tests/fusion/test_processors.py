"""The same numbers on every kind of processor, as far as this one can run what is compiled for the others.

A process is told of another processor by Numba's own settings: see `tinygrad_rnn.kernels.processor`. All of them keep
what they compile in one folder, where none may find what is meant for another.
"""

import json
import platform

import numpy as np
import pytest
from kernels.guarded import in_child
from llvmlite import binding
from numba import config

import tinygrad_rnn as tg
from fusion.comparing import LayerNorm, assert_close, assert_engines_agree
from tinygrad_rnn.kernels import vector

pytestmark = [
    pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processors are those of x86"),
]

V3 = "avx2 bmi bmi2 f16c fma lzcnt movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"

# Registers -> NUMBA_CPU_NAME, NUMBA_CPU_FEATURES, and what this processor must have to run it.
PROCESSORS = {
    "avx512": ("x86-64-v4", "", V4),
    "avx2": ("x86-64-v3", "", V3),
    "avx": ("sandybridge", "", "avx"),
    "sse2": ("x86-64", "", ""),
}


# ---- In a process for one of them ------------------------------------------------------------------------------------


def compare_functions():
    """The ufuncs of the tape: float32 against float64, that against long double; steps of the type from the exact."""
    exact = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
    for dtype, wide in (np.float32, np.float64), (np.float64, np.longdouble):
        x = np.concatenate([np.linspace(-20, 20, 1003), [0, -0.0, 1e-20, -30, 30]]).astype(dtype)
        for name, function in exact.items():
            found, right = getattr(tg, name)(tg.tensor(x)).numpy(), function(x.astype(wide))
            assert (np.abs(found - right) <= 4 * np.spacing(np.abs(right.astype(dtype)))).all(), (name, dtype)


def compare_products():
    """Sizes below, at and beyond those of blocks and of cuts, in all four orders of memory."""
    rng = np.random.default_rng(0)
    for M, K, N in (1, 1, 1), (1, 40, 33), (5, 3, 17), (16, 64, 64), (7, 300, 1), (33, 513, 65), (130, 70, 129):
        for dtype in np.float32, np.float64:
            a, b = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
            right, scale = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
            for first in a, np.asfortranarray(a):
                for second in b, np.asfortranarray(b):
                    found = (tg.tensor(first) @ tg.tensor(second)).numpy()
                    assert (np.abs(found - right) <= (K + 1) * np.finfo(dtype).eps * scale).all(), (M, K, N, dtype)


def train(engine):
    """What one step of training makes of an LSTM, and the layer."""
    tg.manual_seed(0)
    layer = tg.nn.Recurrent(tg.nn.LSTMCell(5, 19), fused=engine)
    before = {name: p.numpy().copy() for name, p in layer.named_parameters()}
    optimizer = tg.optim.SGD(layer.parameters(), lr=1)
    y, _ = layer(tg.randn(6, 3, 5))
    y.square().sum().backward()
    optimizer.step()
    moves = {name: p.numpy() - before[name] for name, p in layer.named_parameters()}
    return {"y": y.numpy(), **moves}, layer


def compare_training():
    """Forward, backward and the optimiser, by kernels and on the tape; whether the kernels were compiled here."""
    (found, layer), (expected, _) = train("require"), train("never")
    assert all(move.any() for move in expected.values())
    assert_close(found, expected, tolerance=1e-5)
    return [where for where, *_ in layer._last_fused().scan.built.values()]


def report():
    compare_functions()
    compare_products()
    print(json.dumps([vector.HOST.name, compare_training()]))


def report_more():
    for make in tg.nn.LSTMCell, tg.nn.GRUCell:
        assert_engines_agree(make(7, 33, dtype=np.float64), (5, 3, 7))
    assert_engines_agree(LayerNorm(7, 33), (5, 3, 7), tolerance=1e-5)
    print(json.dumps(vector.HOST.name))


# ---- Here ------------------------------------------------------------------------------------------------------------


def in_process_for(registers, code, folder):
    name, features, needed = PROCESSORS[registers]
    host = binding.get_host_cpu_features()
    if missing := [feature for feature in needed.split() if not host.get(feature)]:
        pytest.skip(f"this processor has no {missing[0]}")
    settings = dict(NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, TINYGRAD_RNN_VECTORS="")
    return json.loads(in_child(__file__, code, TINYGRAD_RNN_CACHE=str(folder), **settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("registers", [pytest.param("avx512", marks=pytest.mark.slow), "avx2", "sse2"])
def test_every_kind_of_processor_computes_the_same(registers, folder):
    """Functions, products, and a step of training; what another kind left in the cache is not taken."""
    assert in_process_for(registers, "report()", folder) == [registers, ["compiled"] * 2]


@pytest.mark.slow
@pytest.mark.parametrize("registers", PROCESSORS)
def test_every_kind_of_processor_trains_other_cells(registers, folder):
    assert in_process_for(registers, "report_more()", folder) == registers
