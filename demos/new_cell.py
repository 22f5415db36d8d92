"""A cell that no framework ships, from its equations to fused kernels: `python demos/new_cell.py`.

`TwoClocks` below is a minimal gated unit with layer norm inside its candidate, a product in the middle of the step and
a second, slow state. Nobody has written kernels for it. This script

1. checks its gradients against finite differences,
2. compares both engines, tape and fused kernels, in float64,
3. races a training step (forward and backward) of the fused kernels against the tape, and against the same cell as a
   loop over time in PyTorch, if that is installed,
4. prints the generated backward pass, and leaves a picture of the race in `--out`.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from shared import fill, number
from tqdm import tqdm

import tinygrad_rnn as tg

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

HERE = Path(__file__).resolve().parent
DEFAULTS = dict(steps=100, batch=32, input=64, hidden=128, rounds=15)
QUICK = dict(steps=6, batch=3, input=5, hidden=8, rounds=3)


class TwoClocks(tg.nn.Cell):
    """A gated unit on two time scales.

    f  = sigmoid(Wf x + Uf h + bf)                  one gate
    n  = tanh(g * norm(Wn x + Un (f * h)) + p * s + bn)   a candidate that sees the slow state
    h' = (1 - f) * h + f * n                        the fast state
    s' = s + r * (h' - s), r = sigmoid(k)           the slow one: a running mean, its rate learned unit by unit
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        I, H, weight, bias = input_size, hidden_size, tg.nn.weight, tg.nn.bias
        self.Wf, self.Uf, self.bf = weight(I, H), weight(H, H), bias(H)
        self.Wn, self.Un, self.bn = weight(I, H), weight(H, H), bias(H)
        self.g, self.p, self.k = (tg.nn.Parameter(tg.full((H,), value)) for value in (1.0, 0.5, -2.0))

    def step(self, x: tg.Tensor, h: tg.Tensor, s: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        f = tg.sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        a = x @ self.Wn + (f * h) @ self.Un
        centred = a - a.mean(-1, keepdim=True)
        norm = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        n = tg.tanh(self.g * norm + self.p * s + self.bn)
        h = (1 - f) * h + f * n
        s = s + tg.sigmoid(self.k) * (h - s)
        return h, s


def in_torch(weights: dict[str, Any], x: Any) -> Any:
    """The same cell as one would write it in PyTorch, at its best: products of x hoisted, layer norm fused.

    x [T, B, I] -> the fast state at every step [T, B, H].
    """
    Wf, Uf, bf, Wn, Un, bn, g, p, k = (weights[name] for name in ("Wf", "Uf", "bf", "Wn", "Un", "bn", "g", "p", "k"))
    h = s = torch.zeros(x.shape[1], Uf.shape[0], dtype=x.dtype)
    rate, outputs = torch.sigmoid(k), []
    for x_f, x_n in zip((x @ Wf + bf).unbind(), (x @ Wn).unbind()):
        f = torch.sigmoid(torch.addmm(x_f, h, Uf))
        norm = torch.nn.functional.layer_norm(torch.addmm(x_n, f * h, Un), g.shape, g, None, 1e-5)
        n = torch.tanh(norm + p * s + bn)
        h = torch.lerp(h, n, f)
        s = torch.lerp(s, h, rate)
        outputs.append(h)
    return torch.stack(outputs)


# ---- Right ----------------------------------------------------------------------------------------------------------


def check_gradients(seed: int) -> None:
    """Every gradient of a small TwoClocks against finite differences, on both engines.

    Raises:
        GradcheckError: one is wrong.
    """
    cell = TwoClocks(3, 4).double()
    rng = np.random.default_rng([seed, 1])
    draw = lambda *shape: tg.tensor(rng.normal(size=shape), requires_grad=True)
    for fused in ("never", "require"):
        layer = tg.nn.Recurrent(cell, fused=fused)

        def run(x: Any, h: Any, s: Any, *parameters: Any, layer: Any = layer) -> tuple[Any, ...]:
            y, (h, s) = layer(x, (h, s))  # the parameters are the layer's own: gradcheck moves them in place
            return y, h, s

        tg.gradcheck(run, (draw(5, 2, 3), draw(2, 4), draw(2, 4), *cell.parameters()))


def compare_engines(seed: int, T: int, B: int, I: int, H: int) -> tuple[float, float]:
    """The largest differences between tape and fused kernels in float64: of values, and of gradients.

    Each relative to the largest number of its array.
    """
    cell = TwoClocks(I, H).double()
    rng = np.random.default_rng([seed, 2])
    x = tg.tensor(rng.normal(size=(T, B, I)), requires_grad=True)
    weight = tg.tensor(rng.normal(size=(T, B, H)))
    values, gradients = [], []
    for fused in ("never", "require"):
        y, (h, s) = tg.nn.Recurrent(cell, fused=fused)(x)
        values.append([y, h, s])
        gradients.append(tg.grad((y * weight).sum() + s.sum(), [x, *cell.parameters()]))
    error = lambda a, b: float(np.abs(a.numpy() - b.numpy()).max() / np.abs(a.numpy()).max())
    return max(map(error, *values)), max(map(error, *gradients))


# ---- Fast -----------------------------------------------------------------------------------------------------------


def contestants(seed: int, T: int, B: int, I: int, H: int) -> dict[str, Callable[[], float]]:
    """Name -> one training step: forward, the mean of the squared outputs as the loss, backward; returns the loss."""
    cell = TwoClocks(I, H)
    x = np.random.default_rng([seed, 3]).normal(size=(T, B, I)).astype(np.float32)

    def ours(fused: str) -> Callable[[], float]:
        layer, inputs = tg.nn.Recurrent(cell, fused=fused), tg.tensor(x)

        def step() -> float:
            cell.zero_grad()
            loss = layer(inputs)[0].square().mean()
            loss.backward()
            return loss.item()

        return step

    steps = {"fused kernels": ours("require"), "tape": ours("never")}
    if torch is not None:
        weights = {n: torch.tensor(p.numpy().copy(), requires_grad=True) for n, p in cell.named_parameters()}
        inputs = torch.from_numpy(x)

        def theirs() -> float:
            for w in weights.values():
                w.grad = None
            loss = in_torch(weights, inputs).square().mean()
            loss.backward()
            return loss.item()

        steps["PyTorch, a loop"] = theirs
    return steps


def race(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step in every round: all take turns, so that whatever slows the machine slows each of them."""
    for step in steps.values():  # compile, and touch the memory
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(rounds), desc="race", unit="round", mininterval=0.5 if sys.stderr.isatty() else 10):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def draw(seconds: dict[str, list[float]], title: str, path: Path) -> None:
    """How long a training step took: a bar up to the median of all rounds, and a dot for each of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.5 * len(seconds)), layout="constrained")
    ax, labels, longest = figure.subplots(), [], 0.0
    for row, (name, times) in enumerate(seconds.items()):
        middle = 1e3 * statistics.median(times)
        ratio = statistics.median(b / a for a, b in zip(seconds["fused kernels"], times))
        ax.barh(row, middle, height=0.6, color="0.78" if row else "#1b2a6b")
        ax.plot([1e3 * t for t in times], [row] * len(times), "|", color="tab:orange", ms=11)
        labels.append(f"{name}\n{middle:.2f} ms, {ratio:.1f} times")
        longest = max(longest, middle)
    ax.set_yticks(range(len(seconds)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="milliseconds; a stroke is one round of the race", xlim=(0, 1.5 * longest))
    ax.set_title(title, loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    for option, what in (("steps", "T"), ("batch", "B"), ("input", "I"), ("hidden", "H"), ("rounds", "of the race")):
        add(f"--{option}", type=count, help=f"{what} (default: {DEFAULTS[option]})")
    add("--threads", type=count, default=1, help="for both libraries (default: 1)")
    add("--seed", type=number(int, 0), default=0, help="of weights and sequences (default: 0)")
    add("--quick", action="store_true", help="a tiny cell and a short race, to see that it runs")
    add("--out", type=Path, default=HERE / "runs", metavar="FOLDER", help="where the picture goes")
    return parser


def main(chosen: argparse.Namespace) -> None:
    """The four parts, in order, and the picture."""
    fill(chosen, DEFAULTS, QUICK)
    chosen.out.mkdir(parents=True, exist_ok=True)
    sizes = (chosen.steps, chosen.batch, chosen.input, chosen.hidden)
    tg.manual_seed(chosen.seed)
    tg.set_num_threads(chosen.threads)
    if torch is not None:
        torch.set_num_threads(chosen.threads)

    check_gradients(chosen.seed)
    print("gradients agree with finite differences, on the tape and in the fused kernels")
    values, gradients = compare_engines(chosen.seed, *sizes)
    print(f"tape against fused kernels in float64, largest relative difference: {values:.1e} in values, "
          f"{gradients:.1e} in gradients")  # fmt: skip

    steps = contestants(chosen.seed, *sizes)
    losses = [step() for step in steps.values()]
    if not np.allclose(losses, losses[0], rtol=1e-4):
        raise SystemExit(f"the contestants compute different things: {dict(zip(steps, losses))}")
    seconds = race(steps, chosen.rounds)
    title = f"a training step at T, B, I, H = {', '.join(map(str, sizes))}, float32, {chosen.threads} thread(s)"
    print(f"\n{title}:")
    ours = seconds["fused kernels"]
    for name, theirs in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(ours, theirs))
        print(f"    {name:<16} {1e3 * statistics.median(theirs):8.2f} ms   {ratio:5.1f} times the fused kernels")
    if torch is None:
        print("    (PyTorch is not installed: it does not run)")
    draw(seconds, f"{title[0].upper()}{title[1:]}", chosen.out / "new_cell.png")
    print(f"\n{chosen.out / 'new_cell.png'}")

    print("\nthe backward pass that was generated:\n")
    print(tg.nn.Recurrent(TwoClocks(chosen.input, chosen.hidden)).source("backward"))


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        sys.exit(f"new_cell.py: {error}")
