"""How fast is it here? `python -m tinygrad_rnn bench kernels`, `bench cells` and `bench toolbox` print tables.

Each row is one piece of work done by this library and by a rival at its best settings: NumPy, PyTorch, JAX, ONNX
Runtime, whichever are installed. The two take turns, call by call, so that a machine which slows down for a while slows
both; a row shows the medians of their times and the median of the ratios rival / ours of neighbouring calls: above 1,
we are faster. The figures of a noisy machine are still noisy; compare runs, not digits.

Thread counts are read by most libraries when they are imported. So the tables are made in a new process, whose
environment is set before anything is. Threads that wait for work do so busily for a while, OpenBLAS's for a tenth of a
second, on the cores that the other side needs next: with several threads, each side's turn begins when all is quiet,
and with a call that is not timed.
"""

import argparse
import contextlib
import gc
import importlib
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg

from .autograd.table import TABLE
from .kernels.matmul import matmul, matmul_packed, pack
from .kernels.vector import measure_fma_peak

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Settings left over from experiments, which slow NumPy's products or take our compiler away.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NUMBA_DISABLE_JIT")

Call = Callable[[], object]


def launch(table: str, threads: int = 1, quick: bool = False, smoke: bool = False) -> int:
    """Print a table, "kernels", "cells" or "toolbox", from a new process with `threads` threads for every library.

    Args:
        quick: only the three smallest sizes.
        smoke: one tiny size, timed once: to see that it runs.
    """
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    flags = ["--quick"] * quick + ["--smoke"] * smoke
    command = [sys.executable, "-m", "tinygrad_rnn.bench", table, "--threads", str(threads), *flags]
    with on_processors(threads):
        return subprocess.run(command, env=environment, check=False).returncode


@contextlib.contextmanager
def on_processors(count: int) -> Iterator[None]:
    """While this holds, new processes run on so many processors, where the system lets us choose.

    JAX heeds no variable: it starts a thread for each processor that it may use.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---- Timing ----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One piece of work, done by both sides."""

    case: str
    ours: Call
    rival: Call
    operations: int = 0  # floating-point operations of a product
    peak: float = 0.0  # operations a second that the machine can do


class Group(NamedTuple):
    """Rows with one rival and one target."""

    title: str
    rival: str
    rows: Iterable[Row]
    target: tuple[float, float] | None = None  # the least ratio of the worst row, and of the geometric mean


class Settings(NamedTuple):
    """How much to measure."""

    threads: int
    quick: bool
    smoke: bool

    def some(self, cases: Sequence[Any], smallest: Any) -> Sequence[Any]:
        """All cases, which are in order of size; the first three if quick; `smallest` alone for a smoke test."""
        return [smallest] if self.smoke else cases[:3] if self.quick else cases


SAMPLE = 2e-3  # seconds: shorter calls are repeated until a sample takes as long, so that each side, as in a program
# of its own, finds its caches warm: the processor's, and those of the interpreter
BUDGET = 0.6  # seconds for a row, if that is enough for FEWEST pairs
FEWEST, MOST = 7, 301
FEW = 15  # pairs with several threads


def seconds(call: Call, times: int) -> float:
    """The mean time of `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def begin_turn(call: Call) -> None:
    """Wait until no thread of this process is busy, a second at most; then wake those that `call` needs."""
    for _ in range(200):
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            break
    call()


def compare(ours: Call, rival: Call, settings: Settings) -> tuple[float, float, float]:
    """The median times of both, in seconds, and the median of rival / ours over neighbouring calls."""
    calls = (ours, rival)
    if settings.smoke:
        a, b = (seconds(call, 1) for call in calls)
        return a, b, b / a
    for call in calls:  # the first calls compile, fill caches and choose algorithms
        seconds(call, 1)
    once = [min(seconds(call, 1) for _ in range(3)) for call in calls]
    times = [max(1, math.ceil(SAMPLE / t)) for t in once]
    pairs = int(BUDGET / sum(t * n for t, n in zip(once, times)))
    most = MOST if settings.threads == 1 else FEW
    samples = []
    gc.collect()
    gc.disable()
    try:
        for k in range(min(max(pairs, FEWEST), most)):
            pair = [0.0, 0.0]
            for side in ((0, 1), (1, 0))[k % 2]:  # neither always runs on the caches the other left behind
                if settings.threads > 1:
                    begin_turn(calls[side])
                pair[side] = seconds(calls[side], times[side])
            samples.append(pair)
    finally:
        gc.enable()
    a, b = np.array(samples).T
    return float(np.median(a)), float(np.median(b)), float(np.median(b / a))


def report(group: Group, settings: Settings) -> None:
    """Measure and print the rows of a group, then its worst ratio and its geometric mean."""
    print(f"\n{group.title}, against {group.rival}")
    ratios: list[float] = []
    for row in group.rows:
        if not ratios:
            rates = f"{'GFLOP/s':>9}{'of peak':>9}" if row.operations else ""
            print(f"    {'':<34}{'ours':>12}{group.rival.split()[0]:>12}{'ratio':>8}{rates}")
        ours, rival, ratio = compare(row.ours, row.rival, settings)
        ratios.append(ratio)
        line = f"    {row.case:<34}{duration(ours):>12}{duration(rival):>12}{ratio:>8.2f}"
        if row.operations:
            rate = row.operations / ours
            line += f"{rate / 1e9:>9.1f}{rate / row.peak:>9.0%}"
        print(line, flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    target = f"    target: {group.target[0]:.2f}, {group.target[1]:.2f}" if group.target else ""
    print(f"    worst {min(ratios):.2f}, geometric mean {mean:.2f}{target}", flush=True)


def duration(t: float) -> str:
    """Seconds in a unit that suits them."""
    unit, scale = next(((u, s) for u, s in (("s", 1), ("ms", 1e3), ("us", 1e6)) if t * s >= 1), ("ns", 1e9))
    return f"{t * scale:.3g} {unit}"


def installed(name: str) -> Any:
    """The module of that name, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    """Small numbers, as weights and activations are; the same ones each time."""
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


# ---- bench kernels ---------------------------------------------------------------------------------------------------

PRODUCTS = [(1, 64, 256), (32, 128, 512), (1000, 37, 65), (256, 256, 256), (64, 512, 2048), (1024, 1024, 1024)]
PACKED = [(B, H, 4 * H) for H in (128, 256, 512) for B in (32, 64)]
SIZES = [10**3, 10**4, 10**5, 10**6]
STEPS = [(B, H) for H in (32, 128, 256) for B in (1, 8, 32)]


def kernel_groups(settings: Settings) -> Iterator[Group]:
    """Products, functions of many elements, and the tape."""
    rounds = 1 if settings.smoke else 20
    peaks = {dtype: settings.threads * measure_fma_peak(dtype, rounds) for dtype in ("float32", "float64")}
    print(", ".join(f"multiply-adds in {dtype} reach {peak / 1e9:.0f} GFLOP/s" for dtype, peak in peaks.items()))
    for dtype, peak in peaks.items():
        rows = (product(s, dtype, peak) for s in settings.some(PRODUCTS, (1, 8, 16)))
        yield Group(f"matmul (M, K, N), {dtype}", "NumPy @", rows, target=(0.8, 1.0))
    rows = (product(s, "float32", peaks["float32"], True) for s in settings.some(PACKED, (2, 8, 32)))
    yield Group("matmul, right operand prepacked", "NumPy @", rows, target=(1.2, 1.4))
    functions = (
        elementwise(name, n, dtype)
        for name in ("tanh", "sigmoid", "exp")
        for dtype in ("float32", "float64")
        for n in settings.some(SIZES, 10)
    )
    yield Group("functions of n elements", "NumPy ufuncs", functions, target=(0.9, 1.2))
    torch = installed("torch")
    if torch is None:
        print("\nPyTorch is not installed: the tape is not compared with it.")
        return
    torch.set_num_threads(settings.threads)
    yield Group("forward and backward on the tape", "PyTorch eager", [chain_row(torch)], target=(1.0, 1.0))
    steps = (step_row(torch, B, H) for B, H in settings.some(STEPS, (1, 4)))
    yield Group("LSTM step, forward and backward (B, H)", "PyTorch eager", steps, target=(0.8, 1.0))


def product(size: tuple[int, int, int], dtype: str, peak: float, packed: bool = False) -> Row:
    """A product into existing memory; `peak` is that of the dtype."""
    M, K, N = size
    a, b = random(M, K, dtype=dtype), random(K, N, dtype=dtype)
    c, d = np.empty((M, N), dtype), np.empty((M, N), dtype)
    prepared = pack(b) if packed else None
    ours = (lambda: matmul_packed(a, prepared, out=c)) if prepared else (lambda: matmul(a, b, out=c))
    return Row(f"{M}, {K}, {N}", ours, lambda: np.matmul(a, b, out=d), 2 * M * K * N, peak)


def elementwise(name: str, n: int, dtype: str) -> Row:
    """A function of n elements into existing memory."""
    row: Any = TABLE[name]
    kernel = getattr(row.kernel, dtype)
    x = 20 * random(n, dtype=dtype)
    y, z = np.empty_like(x), np.empty_like(x)

    def logistic():
        np.negative(x, out=z)
        np.exp(z, out=z)
        np.add(z, 1, out=z)
        np.divide(1, z, out=z)

    function = getattr(np, name, None)
    rival = (lambda: function(x, out=z)) if function else logistic
    return Row(f"{name}, {n}, {dtype}", lambda: kernel(x, out=y), rival)


def leaves(lib: Any, *arrays: np.ndarray) -> list[Any]:
    """Tensors of this library or of PyTorch that want gradients."""
    return [lib.tensor(array, requires_grad=True) for array in arrays]


def forget(tensors: Iterable[Any]) -> None:
    """Drop the gradients of the last pass, as `zero_grad` does."""
    for tensor in tensors:
        tensor.grad = None


def chain_row(torch: Any) -> Row:
    """50 operations on 4 x 4 elements: what a call costs beside its arithmetic."""

    def chain(lib):
        x, w, b = tensors = leaves(lib, random(4, 4), random(4, 4), random(4, 4))

        def run():
            y = x
            for _ in range(10):
                y = lib.tanh(y)
                y = y * w
                y = y + b
                y = lib.sigmoid(y)
                y = y - b
            y.sum().backward()
            forget(tensors)

        return run

    return Row("50 operations on 4 x 4", chain(tg), chain(torch))


def step_row(torch: Any, B: int, H: int) -> Row:
    """One step of an LSTM, the same code for both."""

    def step(lib):
        arrays = random(B, H), random(B, H), random(B, H), random(H, 4 * H), random(H, 4 * H), random(4 * H)
        x, h, c, W, U, b = tensors = leaves(lib, *arrays)

        def run():
            y, s = lstm(lib, SimpleNamespace(W=W, U=U, b=b), x, h, c)
            (y + s).sum().backward()
            forget(tensors)

        return run

    return Row(f"{B}, {H}", step(tg), step(torch))


# ---- Cells: the same maths for every library -------------------------------------------------------------------------


def lstm(lib, p, x, h, c):
    """Long short-term memory, as in `nn.LSTMCell`."""
    i, f, g, o = lib.chunk(x @ p.W + h @ p.U + p.b, 4, -1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(c), c


def mgu(lib, p, x, h):
    """Minimal gated unit (Zhou et al., 2016): its second product needs the result of the first."""
    f = lib.sigmoid(x @ p.Wf + h @ p.Uf + p.bf)
    n = lib.tanh(x @ p.Wn + (f * h) @ p.Un + p.bn)
    return (1 - f) * h + f * n


def norm_lstm(lib, p, x, h, c):
    """LSTM with layer normalisation of both products and of the state (Ba et al., 2016)."""
    norm, H = lib.nn.functional.layer_norm, h.shape[1]
    a = norm(x @ p.W, (4 * H,), p.gx, p.bx) + norm(h @ p.U, (4 * H,), p.gh, p.bh)
    i, f, g, o = lib.chunk(a, 4, -1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(norm(c, (H,), p.gc, p.bc)), c


def peephole_lstm(lib, p, x, h, c):
    """LSTM whose gates see its state (Gers and Schmidhuber, 2000)."""
    i, f, g, o = lib.chunk(x @ p.W + h @ p.U + p.b, 4, -1)
    i, f = lib.sigmoid(i + p.pi * c), lib.sigmoid(f + p.pf * c)
    c = f * c + i * lib.tanh(g)
    return lib.sigmoid(o + p.po * c) * lib.tanh(c), c


class Maths(NamedTuple):
    """A cell as a function, and the shapes of its parameters in terms of I and H."""

    step: Callable[..., Any]
    states: int
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]]

    def parameters(self, I: int, H: int) -> dict[str, np.ndarray]:
        """Random ones."""
        return {name: random(*shape) for name, shape in self.shapes(I, H).items()}


def gate_shapes(I, H):
    return dict(W=(I, 4 * H), U=(H, 4 * H), b=(4 * H,))


NORM_LSTM = Maths(
    norm_lstm,
    2,
    lambda I, H: dict(
        W=(I, 4 * H), U=(H, 4 * H), gx=(4 * H,), bx=(4 * H,), gh=(4 * H,), bh=(4 * H,), gc=(H,), bc=(H,)
    ),
)
CUSTOM = {
    "MGU": Maths(mgu, 1, lambda I, H: dict(Wf=(I, H), Uf=(H, H), bf=(H,), Wn=(I, H), Un=(H, H), bn=(H,))),
    "layer-norm LSTM": NORM_LSTM,
    "peephole LSTM": Maths(peephole_lstm, 2, lambda I, H: gate_shapes(I, H) | dict(pi=(H,), pf=(H,), po=(H,))),
}


class MathsCell(tg.nn.Cell):
    """A cell of maths written above."""

    def __init__(self, maths: Maths, I: int, H: int) -> None:
        self.hidden_size, self.maths = H, maths
        for name, array in maths.parameters(I, H).items():
            setattr(self, name, tg.nn.Parameter(tg.tensor(array)))

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c")[: self.maths.states]

    def step(self, x, *states):
        return self.maths.step(tg, self, x, *states)


# ---- bench cells -----------------------------------------------------------------------------------------------------

CELL_SIZES = [  # T, B, I, H
    (50, 1, 32, 32), (100, 16, 64, 64), (100, 32, 128, 128), (100, 32, 128, 256), (784, 64, 1, 128),
    (100, 32, 256, 512), (100, 64, 512, 512),
]  # fmt: skip
TINY = (2, 1, 3, 4)


def cell_groups(settings: Settings) -> Iterator[Group]:
    """Whole layers: training steps, inference."""
    torch, jax, onnx = installed("torch"), installed("jax"), installed("onnxruntime")
    sizes = settings.some(CELL_SIZES, TINY)
    forward_sizes = settings.some([(1, 1, 32, 32), *CELL_SIZES], TINY)
    for name, module in (("PyTorch", torch), ("JAX", jax), ("ONNX Runtime", onnx)):
        if module is None:
            print(f"{name} is not installed: left out.")
    if torch is not None:
        torch.set_num_threads(settings.threads)
        for name in ("LSTM", "GRU", "RNN"):
            rows, target = (layer_row(torch, name, s) for s in sizes), (1.0, 1.4) if name == "LSTM" else (1.2, 2.0)
            yield Group(f"{name}, training step (T, B, I, H)", "PyTorch nn", rows, target)
        for name, maths in CUSTOM.items():
            rows = (custom_row(torch, maths, s) for s in sizes)
            yield Group(f"{name}, training step (T, B, I, H)", "PyTorch loop", rows, target=(2.0, 4.0))
    if jax is not None:
        for name, maths in {"LSTM": Maths(lstm, 2, gate_shapes), **CUSTOM}.items():
            rows = (jax_row(jax, maths, s) for s in sizes)
            yield Group(f"{name}, training step (T, B, I, H)", "JAX scan under jit", rows, target=(1.2, 1.5))
    if torch is not None:
        rows = (forward_row(torch, name, s) for name in ("LSTM", "GRU", "RNN") for s in forward_sizes)
        yield Group("forward without gradients (T, B, I, H)", "PyTorch nn", rows, target=(0.8, 1.1))
    if onnx is not None and torch is not None:
        rows = (onnx_row(onnx, torch, n, s, settings.threads) for n in ("LSTM", "GRU", "RNN") for s in forward_sizes)
        yield Group("forward without gradients (T, B, I, H)", "ONNX Runtime", rows, target=(0.8, 1.1))


def training(run: Callable[[Any], Any], x: Any, dy: Any, parameters: Iterable[Any]) -> Call:
    """A function that computes y = run(x) and every gradient, that of x included."""
    parameters = [x, *parameters]

    def step():
        run(x).backward(dy)
        forget(parameters)

    return step


def both_layers(torch: Any, name: str, I: int, H: int) -> tuple[Any, Any]:
    """A layer of either library, with the same weights."""
    ours, rival = getattr(tg.nn, name)(I, H), getattr(torch.nn, name)(I, H)
    weights = {key: tg.tensor(value.detach().numpy().copy()) for key, value in rival.state_dict().items()}
    ours.load_state_dict(weights)
    return ours, rival


def layer_row(torch: Any, name: str, size: tuple[int, int, int, int]) -> Row:
    """A training step of nn.LSTM, nn.GRU or nn.RNN."""
    T, B, I, H = size

    def call(lib, layer):
        (x,) = leaves(lib, random(T, B, I))
        return training(lambda x: layer(x)[0], x, lib.tensor(random(T, B, H)), list(layer.parameters()))

    layer, rival = both_layers(torch, name, I, H)
    return Row(f"{name} {T}, {B}, {I}, {H}", call(tg, layer), call(torch, rival))


def custom_row(torch: Any, maths: Maths, size: tuple[int, int, int, int]) -> Row:
    """A training step of a cell of one's own: fused here, a loop over time there."""
    T, B, I, H = size
    layer, case = tg.nn.Recurrent(MathsCell(maths, I, H), fused="require"), f"{T}, {B}, {I}, {H}"
    (x,) = leaves(tg, random(T, B, I))
    try:
        layer(x)
    except NotImplementedError:  # what the compiler refuses is measured too, as a user would run it
        layer.fused, case = "never", f"{case}, on the tape"
    ours = training(lambda x: layer(x)[0], x, tg.tensor(random(T, B, H)), layer.parameters())

    arrays = maths.parameters(I, H)
    p = SimpleNamespace(**dict(zip(arrays, leaves(torch, *arrays.values()))))
    loop = loop_over_time(torch, lambda *inputs: maths.step(torch, p, *inputs), (torch.zeros(B, H),) * maths.states)
    (x_there,) = leaves(torch, random(T, B, I))
    return Row(case, ours, training(loop, x_there, torch.tensor(random(T, B, H)), vars(p).values()))


def loop_over_time(torch: Any, step: Callable[..., Any], start: tuple[Any, ...]) -> Callable[[Any], Any]:
    """A cell as PyTorch's users run it: x [T, B, I] -> y [T, B, H], the first state after every step."""

    def loop(x):
        states, outputs = start, []
        for x_t in x.unbind(0):
            states = step(x_t, *states)
            states = states if isinstance(states, tuple) else (states,)
            outputs.append(states[0])
        return torch.stack(outputs)

    return loop


class Multiplied:
    """An input of a step whose products with weights have been computed for all steps at once: `x @ w` is one."""

    def __init__(self, products: dict[int, Any]) -> None:
        self.products = products  # by the weights' id

    def __matmul__(self, weights: Any) -> Any:
        return self.products[id(weights)]


def jax_row(jax: Any, maths: Maths, size: tuple[int, int, int, int]) -> Row:
    """A training step against `jax.lax.scan`, compiled, with what x adds computed ahead: the faster way there."""
    T, B, I, H = size
    layer = tg.nn.Recurrent(MathsCell(maths, I, H), fused="require")
    (x,) = leaves(tg, random(T, B, I))
    ours = training(lambda x: layer(x)[0], x, tg.tensor(random(T, B, H)), list(layer.parameters()))

    jnp = jax.numpy

    def layer_norm(x, shape, weight, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * weight + bias

    lib = SimpleNamespace(
        sigmoid=jax.nn.sigmoid,
        tanh=jnp.tanh,
        chunk=jnp.split,
        nn=SimpleNamespace(functional=SimpleNamespace(layer_norm=layer_norm)),
    )

    def loss(parameters, x, dy):
        p = SimpleNamespace(**parameters)

        def step(states, products):
            x = Multiplied({id(parameters[name]): y for name, y in products.items()})
            new = maths.step(lib, p, x, *states)
            new = new if isinstance(new, tuple) else (new,)
            return new, new[0]

        products = {name: x @ w for name, w in parameters.items() if name.startswith("W")}
        return (jax.lax.scan(step, (jnp.zeros((B, H)),) * maths.states, products)[1] * dy).sum()

    parameters = {name: jnp.asarray(array) for name, array in maths.parameters(I, H).items()}
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    x_there, dy = jnp.asarray(random(T, B, I)), jnp.asarray(random(T, B, H))
    return Row(f"{T}, {B}, {I}, {H}", ours, lambda: jax.block_until_ready(gradients(parameters, x_there, dy)))


def forward_row(torch: Any, name: str, size: tuple[int, int, int, int]) -> Row:
    """A layer run forwards, nothing recorded."""
    T, B, I, H = size
    layer, rival = both_layers(torch, name, I, H)
    rival.eval()
    x, x_there = tg.tensor(random(T, B, I)), torch.tensor(random(T, B, I))

    def ours():
        with tg.no_grad():
            layer(x)

    def theirs():
        with torch.inference_mode():
            rival(x_there)

    return Row(f"{name} {T}, {B}, {I}, {H}", ours, theirs)


def onnx_row(onnx: Any, torch: Any, name: str, size: tuple[int, int, int, int], threads: int) -> Row:
    """A layer run forwards by ONNX Runtime, exported from PyTorch."""
    T, B, I, H = size
    layer, rival = both_layers(torch, name, I, H)
    x = random(T, B, I)
    options = onnx.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a legacy exporter, which needs no further packages
        path = os.path.join(folder, "layer.onnx")
        torch.onnx.export(rival.eval(), (torch.tensor(x),), path, dynamo=False)
        session = onnx.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed, here = {session.get_inputs()[0].name: x}, tg.tensor(x)

    def ours():
        with tg.no_grad():
            layer(here)

    return Row(f"{name} {T}, {B}, {I}, {H}", ours, lambda: session.run(None, feed))


# ---- bench toolbox: what lengths, noise and norms cost in the loop ---------------------------------------------------

TOOL_SIZES = [(100, 16, 64, 64), (100, 32, 128, 128), (100, 32, 128, 256)]  # T, B, I, H
ZONEOUT, DROPOUT = (0.05, 0.5), 0.3


class Tool(NamedTuple):
    """Something around an LSTM, here and as a loop over time in PyTorch.

    Attributes:
        cell: (I, H) -> our cell.
        rival: (torch, p, x, B, H) -> y; None for lengths, whose rival is a layer.
        shapes: of p, the parameters of the rival, as in `Maths`.
        options: (T, B) -> options of a call.
        recorded: whether all that happens inside is recorded.
    """

    cell: Callable[[int, int], tg.nn.Cell]
    rival: Callable[..., Any] | None = None
    shapes: Callable[[int, int], dict[str, tuple[int, ...]]] = gate_shapes
    options: Callable[[int, int], dict[str, Any]] = lambda T, B: {}
    recorded: bool = False


def some_lengths(T: int, B: int) -> np.ndarray:
    """Lengths of B sequences, all lengths up to T as likely; one of them is T."""
    lengths = np.random.default_rng(0).integers(1, T + 1, B)
    lengths[0] = T
    return lengths


def zoneout_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        new_h, new_c = lstm(torch, p, x_t, h, c)
        keep_h, keep_c = torch.rand(B, H) < ZONEOUT[0], torch.rand(B, H) < ZONEOUT[1]
        return torch.where(keep_h, h, new_h), torch.where(keep_c, c, new_c)

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def variational_loop(torch, p, x, B, H):
    drop = torch.nn.functional.dropout
    x_mask, h_mask = drop(torch.ones(B, x.shape[2]), DROPOUT), drop(torch.ones(B, H), DROPOUT)
    step = lambda x_t, h, c: lstm(torch, p, x_t, h * h_mask, c)
    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x * x_mask)


def with_recurrent_dropout(I: int, H: int) -> tg.nn.Cell:
    """An LSTM cell that drops elements of what it is about to write."""
    cell = tg.nn.LSTMCell(I, H)
    cell.recurrent_dropout = DROPOUT
    return cell


def recurrent_dropout_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        i, f, g, o = torch.chunk(x_t @ p.W + h @ p.U + p.b, 4, -1)
        n = torch.nn.functional.dropout(torch.tanh(g), DROPOUT)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * n
        return torch.sigmoid(o) * torch.tanh(c), c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def clipped_loop(torch, p, x, B, H):
    def step(x_t, h, c):
        h, c = lstm(torch, p, x_t, h, c)
        for state in (h, c):
            state.register_hook(lambda d: d.clamp(-1, 1))
        return h, c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


def norm_loop(torch, p, x, B, H):
    return loop_over_time(torch, lambda *inputs: norm_lstm(torch, p, *inputs), (torch.zeros(B, H),) * 2)(x)


def recorded_loop(torch, p, x, B, H):
    seen = []

    def step(x_t, h, c):
        i, f, g, o = torch.chunk(x_t @ p.W + h @ p.U + p.b, 4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        seen.append((i, f, g, o, c, h))
        for value in seen[-1]:
            value.retain_grad()
        return h, c

    return loop_over_time(torch, step, (torch.zeros(B, H),) * 2)(x)


TOOLS = {
    "lengths": Tool(tg.nn.LSTMCell, options=lambda T, B: dict(lengths=some_lengths(T, B))),
    "zoneout": Tool(lambda I, H: tg.nn.Zoneout(tg.nn.LSTMCell(I, H), ZONEOUT), zoneout_loop),
    "variational": Tool(
        lambda I, H: tg.nn.VariationalDropout(tg.nn.LSTMCell(I, H), DROPOUT, DROPOUT), variational_loop
    ),
    "recurrent dropout": Tool(with_recurrent_dropout, recurrent_dropout_loop),
    "clipping": Tool(lambda I, H: tg.nn.ClipGradient(tg.nn.LSTMCell(I, H), 1.0), clipped_loop),
    "layer norm": Tool(lambda I, H: MathsCell(NORM_LSTM, I, H), norm_loop, NORM_LSTM.shapes),
    "recording": Tool(tg.nn.LSTMCell, recorded_loop, recorded=True),
}


def toolbox_groups(settings: Settings) -> Iterator[Group]:
    """Each tool against the plain LSTM, both fused, and against PyTorch."""
    torch = installed("torch")
    sizes = settings.some(TOOL_SIZES, TINY)
    tools = {"zoneout": TOOLS["zoneout"]} if settings.smoke else TOOLS
    rows = (tool_row(name, tool, size) for name, tool in tools.items() for size in sizes)
    yield Group("LSTM with a tool, training step (T, B, I, H)", "plain LSTM, both fused", rows, target=(0.67, 0.67))
    if torch is None:
        print("\nPyTorch is not installed: left out.")
        return
    torch.set_num_threads(settings.threads)
    rows = (packed_row(torch, size) for size in sizes)
    yield Group("LSTM, lengths from 1 to T, training step (T, B, I, H)", "PyTorch packed sequences", rows)
    for name, tool in tools.items():
        if tool.rival is not None:
            rows = (tool_row_beside(torch, tool, size) for size in sizes)
            yield Group(f"LSTM with {name}, training step (T, B, I, H)", "PyTorch loop", rows)


def tool_step(tool: Tool, size: tuple[int, int, int, int]) -> Call:
    """A training step of our cell."""
    T, B, I, H = size
    layer, options = tg.nn.Recurrent(tool.cell(I, H), fused="require"), tool.options(T, B)
    (x,) = leaves(tg, random(T, B, I))

    def run(x):
        with tg.record(layer) if tool.recorded else contextlib.nullcontext():
            return layer(x, **options)[0]

    return training(run, x, tg.tensor(random(T, B, H)), list(layer.parameters()))


def tool_row(name: str, tool: Tool, size: tuple[int, int, int, int]) -> Row:
    """A training step with the tool, and without."""
    T, B, I, H = size
    return Row(f"{name} {T}, {B}, {I}, {H}", tool_step(tool, size), tool_step(Tool(tg.nn.LSTMCell), size))


def tool_row_beside(torch: Any, tool: Tool, size: tuple[int, int, int, int]) -> Row:
    """A training step with the tool, here and there."""
    T, B, I, H = size
    assert tool.rival is not None
    arrays = {name: random(*shape) for name, shape in tool.shapes(I, H).items()}
    p = SimpleNamespace(**dict(zip(arrays, leaves(torch, *arrays.values()))))
    (x,) = leaves(torch, random(T, B, I))
    rival = tool.rival
    theirs = training(lambda x: rival(torch, p, x, B, H), x, torch.tensor(random(T, B, H)), vars(p).values())
    return Row(f"{T}, {B}, {I}, {H}", tool_step(tool, size), theirs)


def packed_row(torch: Any, size: tuple[int, int, int, int]) -> Row:
    """Sequences of different lengths: packed, run and padded again there."""
    T, B, I, H = size
    layer, rival = both_layers(torch, "LSTM", I, H)
    lengths, packing = some_lengths(T, B), torch.nn.utils.rnn
    lengths_there = torch.tensor(lengths)

    def run(x):
        packed = packing.pack_padded_sequence(x, lengths_there, enforce_sorted=False)
        return packing.pad_packed_sequence(rival(packed)[0])[0]

    (x,), (x_there,) = leaves(tg, random(T, B, I)), leaves(torch, random(T, B, I))
    ours = training(lambda x: layer(x, lengths=lengths)[0], x, tg.tensor(random(T, B, H)), list(layer.parameters()))
    theirs = training(run, x_there, torch.tensor(random(T, B, H)), list(rival.parameters()))
    return Row(f"{T}, {B}, {I}, {H}", ours, theirs)


FIRST_CALL = """
import time
start = time.perf_counter()
import tinygrad_rnn as tg
imported = time.perf_counter()
layer, x = tg.nn.Recurrent(tg.nn.LSTMCell({I}, {H}), fused="require"), tg.ones({T}, {B}, {I})
y, _ = layer(x)
y.sum().backward()
print(imported - start, time.perf_counter() - imported)
"""


def report_first_calls(T: int, B: int, I: int, H: int) -> None:
    """The first training step of an LSTM cell in a new process: kernels compiled, then found on disk."""
    print("\nfirst training step of an LSTM cell in a new process")
    with tempfile.TemporaryDirectory() as folder:
        for state in ("empty", "filled"):
            environment = os.environ | {"TINYGRAD_RNN_CACHE": folder}
            command = [sys.executable, "-c", FIRST_CALL.format(T=T, B=B, I=I, H=H)]
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            imported, called = map(float, output.split())
            print(f"    cache {state:<8}{duration(called):>12}, after {duration(imported)} for the import", flush=True)


GROUPS = {"kernels": kernel_groups, "cells": cell_groups, "toolbox": toolbox_groups}


def main(arguments: Sequence[str] | None = None) -> int:
    """What the new process runs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tinygrad_rnn.bench")
    parser.add_argument("table", choices=tuple(GROUPS))
    add_options(parser)
    chosen = parser.parse_args(arguments)
    settings = Settings(chosen.threads, chosen.quick, chosen.smoke)
    tg.set_num_threads(settings.threads)
    print(f"tinygrad_rnn {tg.__version__}, NumPy {np.__version__}, threads: {settings.threads}; ratio = rival / ours")
    for group in GROUPS[chosen.table](settings):
        report(group, settings)
    if chosen.table == "cells":
        report_first_calls(*(TINY if settings.smoke else CELL_SIZES[2]))
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of all tables."""
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for every library (default: 1)")
    parser.add_argument("--quick", action="store_true", help="only the three smallest sizes")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)


if __name__ == "__main__":
    sys.exit(main())
