"""`cells.py --speed`: a training step of every cell, fused, on the tape, and as a loop in PyTorch.

All three compute the outputs of every step, and the gradients of x and of all parameters. They take turns in one
process; times are processor times, so that what else a machine does counts less, and ratios are medians over turns.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.util
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.fusion.compile import fused_cell
from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.fusion.sequence import Sequence
from tinygrad_rnn.nn.cells.catalogue import Entry

SIZES = 100, 32, 64, 64  # T, B, I, H
TINY = 4, 2, 8, 8
SECONDS, FEWEST, MOST, SAMPLE = 3.0, 5, 41, 2e-3
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
OWN_LAYERS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "RNNCell": "RNN"}  # that PyTorch has written by hand
Call = Callable[[], Any]


class Speed(NamedTuple):
    """What was measured of a cell: seconds by side, medians of ratios to the fused one, and what to say of it."""

    name: str
    seconds: dict[str, float]
    ratios: dict[str, float]
    note: str


class Rival(Exception):
    """There is no loop in PyTorch to compare with; the message says why."""


# ---- The sides -------------------------------------------------------------------------------------------------------


def numbers(*shape: int) -> np.ndarray:
    return (0.5 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def ours(cell: Any, x: np.ndarray, dy: np.ndarray, given: dict[str, np.ndarray], engine: str) -> Call:
    """A training step here; it returns outputs and gradients."""
    layer, parameters = tg.nn.Recurrent(cell, fused=engine), dict(cell.named_parameters())
    leaf, slope = tg.tensor(x, requires_grad=True), tg.tensor(dy)
    values = {name: tg.tensor(array) for name, array in given.items()}

    def step() -> Any:
        y, _ = layer(leaf, **values)
        y.backward(slope)
        found = {"y": y, "x": leaf.grad} | {name: p.grad for name, p in parameters.items()}
        for p in (leaf, *parameters.values()):
            p.grad = None
        return found

    return step


def theirs(cell: Any, x: np.ndarray, dy: np.ndarray, given: dict[str, np.ndarray]) -> Call:
    """The same in PyTorch.

    Raises:
        Rival: it cannot be written there.
    """
    torch, write = importlib.import_module("torch"), importlib.import_module("torch_loop")
    try:
        with write.in_torch():
            written, loop = write.loop_of(traced(cell, x, given))
    except (Unfusable, NotImplementedError) as error:
        raise Rival(f"its step was not written in PyTorch: {error}") from None
    names = {id(p): name for name, p in cell.named_parameters()}
    held = []
    for value in written.held:
        array = np.array(getattr(value.held, "data", value.held))
        held.append(torch.tensor(array, requires_grad=id(value.held) in names))
    known = {v.name: v for v in written.given}
    if unknown := known.keys() - given.keys():
        raise Rival(f"it computes {', '.join(sorted(unknown))} for each sequence")
    fixed = [torch.tensor(given[name]) for name in known]
    with tg.no_grad():
        start = [torch.tensor(state.numpy()) for state in cell.begin(None, x.shape[1])]
    leaf, slope = torch.tensor(x, requires_grad=True), torch.tensor(dy)

    def step() -> Any:
        y = loop(leaf, held, fixed, start)
        y.backward(slope)
        found = {"y": y.detach(), "x": leaf.grad}
        found |= {names[id(v.held)]: p.grad for v, p in zip(written.held, held) if id(v.held) in names}
        for p in (leaf, *held):
            p.grad = None
        return found

    return step


def traced(cell: Any, x: np.ndarray, given: dict[str, np.ndarray]) -> Any:
    """The program of a step."""
    values = {name: tg.tensor(array) for name, array in given.items()}
    with tg.no_grad():
        fused = fused_cell(cell, Sequence(tg.tensor(x[:1]), cell.begin(None, x.shape[1]), values=values))
    if fused.noise:
        raise Rival("its step draws random numbers")
    return fused.stages["trace"]


def layer_of_torch(cell: Any, x: np.ndarray, dy: np.ndarray, name: str) -> Call:
    """PyTorch's own layer with the weights of a cell."""
    torch = importlib.import_module("torch")
    layer = getattr(torch.nn, name)(x.shape[2], dy.shape[2])
    layer.load_state_dict({f"{key}_l0": torch.tensor(p.numpy()) for key, p in cell.named_parameters()})
    leaf, slope = torch.tensor(x, requires_grad=True), torch.tensor(dy)

    def step() -> Any:
        y, _ = layer(leaf)
        y.backward(slope)
        found = {"y": y.detach(), "x": leaf.grad}
        for p in (leaf, *layer.parameters()):
            p.grad = None
        return found

    return step


FIRST = 10  # steps that are compared in float32: what a cell makes of the last digit grows with time


def check(side: str, found: Any, expected: Any) -> None:
    """Outputs to 1e-4, and gradients to a thousandth of the largest.

    Raises:
        Rival: they differ.
    """
    for key in expected.keys() & found.keys():
        a, b = found[key], expected[key]
        if a is None or b is None:
            continue
        a, b = np.asarray(a), np.asarray(b)
        tolerance = (1e-4 if key == "y" else 1e-3) * max(1.0, float(np.abs(b).max(initial=0)))
        difference = float(np.abs(a - b).max(initial=0))
        if not difference <= tolerance:
            raise Rival(f"{side} computes another {key} than our tape: {difference:.2g} off")


# ---- The clock -------------------------------------------------------------------------------------------------------


def seconds(call: Call, times: int) -> float:
    """Processor time of a call, the mean of some."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def turns(calls: dict[str, Call], quick: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Median times, and medians of the ratios to the first side within a turn."""
    once = {side: max(min(seconds(call, 1) for _ in range(1 if quick else 3)), 1e-6) for side, call in calls.items()}
    times = {side: 1 if quick else math.ceil(SAMPLE / t) for side, t in once.items()}
    count = int(SECONDS / sum(once[side] * times[side] for side in calls))
    count = 1 if quick else min(max(count, FEWEST), MOST)
    samples: dict[str, list[float]] = {side: [] for side in calls}
    gc.disable()
    try:
        for k in range(count):
            order = list(calls)[k % len(calls) :] + list(calls)[: k % len(calls)]
            for side in order if k % 2 else order[::-1]:  # nobody always follows the same one
                gc.collect()  # what the side before has left behind
                calls[side]()  # in training, memory comes back from the step before, not from the system
                samples[side].append(seconds(calls[side], times[side]))
    finally:
        gc.enable()
    first = np.array(samples[next(iter(calls))])
    ratios = {side: float(np.median(np.array(found) / first)) for side, found in samples.items()}
    return {side: float(np.median(found)) for side, found in samples.items()}, ratios


def measure(entry: Entry, sizes: tuple[int, int, int, int], quick: bool) -> Speed:
    """A training step of a cell on all sides that there are."""
    T, B, I, H = sizes
    tg.manual_seed(0)
    name, cell, note = entry.cell.__name__, entry.make(I, H), ""
    exact = entry.make(I, H).double()
    given = {key: numbers(B, *shape) for key, shape in entry.values(I, H).items()}
    x = numbers(T, B, I)
    with tg.no_grad():
        dy = numbers(T, *cell.begin(None, B)[0].shape)
    tape = ours(cell, x, dy, given, "never")
    expected = {"y": tape()["y"].numpy()[:FIRST]}
    calls: dict[str, Call] = {"fused": ours(cell, x, dy, given, "require"), "tape": tape}
    try:
        check("the fused engine", {"y": calls["fused"]()["y"].numpy()[:FIRST]}, expected)
    except NotImplementedError as error:
        return Speed(name, {}, {}, f"it runs on the tape alone: {' '.join(str(error).split())}")
    if importlib.util.find_spec("torch"):
        try:
            wide = lambda array: array.astype(np.float64)
            doubles = exact, wide(x), wide(dy), {key: wide(array) for key, array in given.items()}
            check("PyTorch's loop", theirs(*doubles)(), ours(*doubles, "never")())
            calls["loop"] = theirs(cell, x, dy, given)
            if name in OWN_LAYERS:
                layer = layer_of_torch(cell, x, dy, OWN_LAYERS[name])
                check("PyTorch's layer", {"y": layer()["y"][:FIRST]}, expected)
                calls["layer"] = layer
        except Rival as error:
            note = str(error)
    return Speed(name, *turns(calls, quick), note)


# ---- What comes out of it --------------------------------------------------------------------------------------------


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return re.sub(r"\s+", " ", found[1])
    return platform.processor() or platform.machine()


def page(speeds: list[Speed], sizes: tuple[int, int, int, int]) -> str:
    """The table, in Markdown."""
    T, B, I, H = sizes
    known = [s for s in speeds if s.ratios]
    both = [s.ratios["loop"] for s in known if "loop" in s.ratios]
    milliseconds = lambda s, side: f"{1e3 * s.seconds[side]:.2f}" if side in s.seconds else ""
    times = lambda s, side: f"{s.ratios[side]:.1f}" if side in s.ratios else ""
    lines = [
        "| cell | fused, ms | tape, ms | PyTorch's loop, ms | tape / fused | PyTorch's loop / fused |",
        "|---|---|---|---|---|---|",
    ]
    for s in speeds:
        cells = [milliseconds(s, side) for side in ("fused", "tape", "loop")] + [times(s, "tape"), times(s, "loop")]
        lines.append(f"| [{s.name.removesuffix('Cell')}]({s.name}.md) | {' | '.join(cells)} |")
    text = [
        "# How fast every cell is",
        f"A training step in float32, forward and all gradients, that of x included: T = {T} steps of B = {B} "
        f"sequences with I = {I} inputs and H = {H} units, with one thread, on a machine whose processor is called "
        f"{processor()} (NumPy {np.__version__}{_torch_version()}).",
    ]
    if both:
        text.append(
            f"PyTorch's loop needs {min(both):.1f} to {max(both):.1f} times as long as the fused kernels, "
            f"{float(np.median(both)):.1f} times in the median of {len(both)} cells; our own tape "
            f"{float(np.median([s.ratios['tape'] for s in known])):.1f} times in the median."
        )
    text += ["![PyTorch's loop against the fused kernels, a bar a cell](speed.png)", "\n".join(lines)]
    layers = [s for s in known if "layer" in s.ratios]
    if layers:
        text.append(
            "For three cells PyTorch has layers written by hand, which is what one takes there: "
            + "; ".join(
                f"`nn.{OWN_LAYERS[s.name]}` {milliseconds(s, 'layer')} ms, "
                f"{s.ratios['layer']:.2f} times as long as ours"
                for s in layers
            )
            + ". [More sizes of these](../README.md#how-fast)."
        )
    notes = [f"- {s.name}: {s.note}" for s in speeds if s.note]
    if notes:
        text.append("Not measured on all sides:\n\n" + "\n".join(notes))
    text.append(
        "## What is compared\n\nThe rival is an eager loop over time in PyTorch, as somebody who knows it writes one: "
        "whatever no state has a part in is done for all steps before the loop, products of a state with several "
        "weights are one, biases are added by the product (`addmm`), gates are cut with one `split`, normalisation, "
        "`logsigmoid` and their like are PyTorch's own functions, and sums over products of matrices are `einsum`. "
        "`demos/torch_loop.py` writes it from the traced step, operation by operation; what the paper's lines compute "
        "one by one, such as three gates of a kind, is so on all sides. In float64 its outputs have been compared with "
        "those of our tape, to 1e-4, and its gradients to a thousandth of the largest. `torch.compile` is not in it, "
        "nor anybody's kernels. The tape is what a cell runs on here that no kernel can do.\n\n"
        "The sides take turns in one process; times are medians of processor times, ratios are medians of those within "
        "a turn. `python demos/cells.py --speed` measures them anew, `python demos/cells.py --loop NAME` prints the "
        "loop of a cell."
    )
    return "\n\n".join(text) + "\n"


def _torch_version() -> str:
    return f", PyTorch {importlib.import_module('torch').__version__}" if importlib.util.find_spec("torch") else ""


def draw(speeds: list[Speed], path: Path) -> None:
    """A bar for each cell, PyTorch's loop over the fused kernels, the largest on top; dots for tape and layers."""
    from cell_pictures import save
    from matplotlib.figure import Figure

    known = sorted((s for s in speeds if "loop" in s.ratios), key=lambda s: s.ratios["loop"])
    known = known or sorted((s for s in speeds if s.ratios), key=lambda s: s.ratios["tape"])
    figure = Figure(figsize=(7.4, 1.2 + 0.185 * len(known)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(known))
    bars = [s.ratios.get("loop", 1.0) for s in known]
    axes.barh(rows, [ratio - 1 for ratio in bars], left=1, color="tab:blue", height=0.7, label="PyTorch's loop")
    for row, ratio in zip(rows, bars):  # where no dot is
        axes.text(1.03, row, f"{ratio:.1f}", va="center", fontsize=7, color="w" if ratio > 1.15 else "k")
    tape = [s.ratios["tape"] for s in known]
    axes.plot(tape, rows, "o", color="0.45", ms=4.2, mec="w", mew=0.6, label="our tape")
    layers = [(s.ratios["layer"], row) for row, s in zip(rows, known) if "layer" in s.ratios]
    if layers:
        axes.plot(*zip(*layers), "D", color="k", ms=4, label="PyTorch's own layer")
    axes.axvline(1, color="k", lw=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= 1.3 * axes.get_xlim()[1]]
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xticks([], minor=True)
    axes.set_yticks(rows, [s.name.removesuffix("Cell") for s in known], fontsize=7.5)
    axes.set_ylim(-0.7, len(known) - 0.3)
    axes.set_xlabel("times as long as the fused kernels (logarithmic)", fontsize=9)
    axes.set_title("A training step of every cell, one thread", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    save(figure, path)


def merged(path: Path, speeds: list[Speed], sizes: tuple[int, int, int, int], names: list[str]) -> list[Speed]:
    """These, and those that were measured before on such a machine; all are kept in a file, for the next time."""
    here = [processor(), np.__version__, _torch_version(), list(sizes)]
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = {each[0]: Speed(*each) for each in before.get("speeds", [])} if before.get("here") == here else {}
    known |= {speed.name: speed for speed in speeds}
    found = [known[name] for name in names if name in known]
    lines = ",\n".join(json.dumps(speed) for speed in found)
    path.write_text(f'{{"here": {json.dumps(here)}, "speeds": [\n{lines}\n]}}\n', encoding="utf-8")
    return found


# ---- The command line ------------------------------------------------------------------------------------------------


def launch(arguments: list[str]) -> int:
    """The same command in a new process with one thread for every library, which they are told before they start."""
    environment = os.environ | dict.fromkeys(THREADS, "1")
    command = [sys.executable, *(f"-W{option}" for option in sys.warnoptions), *arguments, "--here"]
    return subprocess.run(command, env=environment, check=False).returncode


def run(entries: list[Entry], options: argparse.Namespace) -> Iterator[Speed]:
    """Measure one after the other."""
    tg.set_num_threads(1)
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(1)
    else:
        print("PyTorch is not installed: left out.")
    with tqdm(entries, unit="cell", mininterval=0.5) as bar:
        for entry in bar:
            bar.set_description(entry.cell.__name__)
            try:
                yield measure(entry, TINY if options.quick else SIZES, options.quick)
            except Exception as error:  # whatever it is: the page says it, and all others are measured
                yield Speed(entry.cell.__name__, {}, {}, f"{type(error).__name__}: {' '.join(str(error).split())}")
