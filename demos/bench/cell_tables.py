"""`bench cells`: whole layers, beside PyTorch's, JAX's and ONNX Runtime's."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from maths import CUSTOM, Maths, MathsCell, gate_shapes, lstm
from pairs import Group, Row, Settings, installed, leaves, random, training

import tinygrad_rnn as tg

CELL_SIZES = [  # T, B, I, H
    (50, 1, 32, 32), (100, 16, 64, 64), (100, 32, 128, 128), (100, 32, 128, 256), (784, 64, 1, 128),
    (100, 32, 256, 512), (100, 64, 512, 512),
]  # fmt: skip
TINY = (2, 1, 3, 4)


def cell_groups(settings: Settings) -> Iterator[Group]:
    """Whole layers: training steps, inference."""
    if settings.cells:
        yield from named_groups(settings)
        return
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


def named_groups(settings: Settings) -> Iterator[Group]:
    """Cells that the user names: training steps of the kernels against the same cell on the tape."""
    for name in settings.cells:
        rows = (named_row(name, size) for size in settings.some(CELL_SIZES, TINY))
        yield Group(f"{name}, training step (T, B, I, H)", "tape", rows)


def named_row(name: str, size: tuple[int, int, int, int]) -> Row:
    """A training step of a cell by name, on either engine."""
    T, B, I, H = size

    def call(engine):
        layer = tg.nn.Recurrent(tg.nn.cells.make(name, I, H), fused=engine)
        (x,) = leaves(tg, random(T, B, I))
        with tg.no_grad():
            dy = tg.ones_like(layer(x)[0])
        return training(lambda x: layer(x)[0], x, dy, list(layer.parameters()))

    return Row(f"{T}, {B}, {I}, {H}", call("auto"), call("never"))


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
