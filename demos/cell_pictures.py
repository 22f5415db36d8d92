"""The pictures of `cells.py`: a cell learns to hold a number, and is recorded while it does.

    x     at each step a number between -1 and 1, and a mark, 1 at some steps; each of them twice, as some cells divide
          x among groups
    y     the number at the last mark, or 0 before the first
"""

import io
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cell_pages import DRAWN, MOST_UNITS, Panel
from PIL import Image

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells.catalogue import Entry
from tinygrad_rnn.study.result import COLOURS, limits

T, BATCH, UPDATES, RATE = 60, 32, 1000, 1e-2
MARKS = {6: 0.9, 20: -0.8, 27: 0.5, 48: -0.6}  # of the sequence that is drawn, and what is to be held


def task(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """x [T, count, 4] and y [T, count, 1]."""
    numbers, marks = rng.uniform(-1, 1, (T, count)), rng.random((T, count)) < 0.08
    marks[rng.integers(0, 10, count), np.arange(count)] = True
    return of(numbers, marks)


def of(numbers: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a network is given, and what it should answer."""
    last = np.maximum.accumulate(np.where(marks, np.arange(T)[:, None], -1))
    answers = np.where(last < 0, 0, np.take_along_axis(numbers, np.maximum(last, 0), 0))
    x = np.stack([numbers, marks, numbers, marks], -1)
    return x.astype(np.float32), answers[..., None].astype(np.float32)


def shown() -> tuple[np.ndarray, np.ndarray]:
    """The sequence that every cell is recorded on."""
    numbers, marks = np.random.default_rng(0).uniform(-1, 1, (T, 1)), np.zeros((T, 1), bool)
    for t, number in MARKS.items():
        numbers[t], marks[t] = number, True
    return of(numbers, marks)


class Holder(tg.nn.Module):
    """A cell over time, and a linear map of its first state to an answer."""

    def __init__(self, entry: Entry, seed: int) -> None:
        tg.manual_seed(seed)
        input_size, hidden_size = DRAWN
        self.cell = entry.make(input_size, hidden_size)
        self.layer = tg.nn.Recurrent(self.cell)
        with tg.no_grad():
            first = self.cell.begin(None, 1)[0]
        self.head = tg.nn.Linear(math.prod(first.shape[1:]), 1)
        shapes = entry.values(input_size, hidden_size)
        rng = np.random.default_rng(seed)
        self.given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def forward(self, x: Any) -> Any:
        given = {name: np.repeat(value[None], x.shape[1], 0) for name, value in self.given.items()}
        y, _ = self.layer(tg.tensor(x), **{name: tg.tensor(value) for name, value in given.items()})
        return self.head(y.reshape(*y.shape[:2], -1))


def trained(entry: Entry, seed: int, updates: int, tell: Any = None) -> Holder:
    """A network that has learned it, or has tried to: once more at a tenth of the rate if numbers overflow."""
    for rate in (RATE, RATE / 10):
        model, rng = Holder(entry, seed), np.random.default_rng([seed, 1])
        model.layer.fused = "auto"
        optimiser = tg.optim.Adam(model.parameters(), lr=rate)
        for update in range(updates):
            optimiser.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - update / updates))
            x, y = task(rng, BATCH)
            loss = (model(x) - tg.tensor(y)).square().mean()
            if not math.isfinite(loss.item()):
                break
            optimiser.zero_grad()
            loss.backward()
            norm = tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            if not math.isfinite(float(norm)):
                break
            optimiser.step()
            if tell is not None:
                tell(1)
        else:
            return model.eval()
    raise ArithmeticError("its numbers overflow in training")


class Seen(NamedTuple):
    """What was recorded.

    Attributes:
        x, y, answer: the sequence, what should be answered and what was, [T].
        arrives: the norm of the gradient of the last answer at each state, after each step.
        values: what each panel shows, [units, T].
        scales: the ends of its colours.
        right: the share of the variance of other answers that the network explains.
    """

    x: np.ndarray
    y: np.ndarray
    answer: np.ndarray
    arrives: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    scales: dict[str, tuple[float, float]]
    right: float


SCALES = {"gate": (0.0, 1.0), "sign": (-1.0, 1.0)}
AFTER = {"": lambda x: x, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


def look(model: Holder, panels: list[Panel], seed: int) -> Seen:
    """Record a network on the sequence."""
    others, expected = task(np.random.default_rng([seed, 2]), 200)
    with tg.no_grad():
        wrong = np.square(model(others).numpy() - expected).mean()
    x, y = shown()
    with tg.record(model) as r:
        answer = model(x)
    answer[-1].sum().backward()
    states, arrives = model.cell.state_names, {}
    for name in states:
        try:
            gradient = r.grad[name].numpy()[:, 0].reshape(T, -1)
        except RuntimeError:  # nothing arrives there
            continue
        if gradient.any():
            arrives[name] = np.linalg.norm(gradient, axis=1)
    order = np.argsort(-np.abs(model.head.weight.numpy()[0]) * r[states[0]].numpy()[:, 0].reshape(T, -1).std(0))
    values, scales = {}, {}
    for panel in panels:
        value = AFTER[panel.after](r[panel.name].numpy()[:, 0].reshape(T, -1).T.astype(float))
        if len(value) > MOST_UNITS:
            value = value[np.sort(np.argsort(-value.std(1), kind="stable")[:MOST_UNITS])]
        elif len(value) == len(order):
            value = value[order]
        values[panel.label] = value
        scales[panel.label] = SCALES.get(panel.kind) or limits(value)
    flat = lambda array: np.asarray(array).reshape(T)
    right = 1 - wrong / expected.var()
    return Seen(flat(x[:, 0, 0]), flat(y), flat(answer.numpy()), arrives, values, scales, float(right))


LINES = ("-", "--", ":", "-.")


def draw(seen: Seen, title: str, path: Path) -> None:
    """The sequence on top, the gradient below it, and a map for each value."""
    from matplotlib.figure import Figure

    rows = [min(max(len(value), 3), 24) for value in seen.values.values()]
    heights = [1.25, 0.75, *(0.28 + 0.038 * n for n in rows)]
    figure = Figure(figsize=(7.4, sum(heights) + 0.55), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.03)
    grid = figure.subplots(len(heights), 2, height_ratios=heights, width_ratios=(60, 1), squeeze=False)
    _draw_answer(grid[0, 0], seen, title)
    _draw_gradient(grid[1, 0], seen)
    for panel in grid[:2, 1]:
        panel.set_axis_off()
    for (name, value), (axes, bar) in zip(seen.values.items(), grid[2:]):
        low, high = seen.scales[name]
        image = axes.imshow(
            value, cmap=COLOURS, vmin=low, vmax=high, aspect="auto", interpolation="nearest",
            extent=(-0.5, T - 0.5, len(value), 0),
        )  # fmt: skip
        axes.set_yticks([])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, family="monospace")
        figure.colorbar(image, cax=bar, ticks=[low, high])
        bar.set_yticks([low, high], [f"{low:.2g}", f"{high:.2g}"], fontsize=7)
        bar.tick_params(length=0)
    for axes in grid[:, 0]:
        axes.set_xlim(-0.5, T - 0.5)
        axes.set_xticks(range(0, T, 10), [])
        axes.plot(list(MARKS), [1.0] * len(MARKS), "kv", ms=3.5, transform=axes.get_xaxis_transform(), clip_on=False)
    grid[-1, 0].set_xticks(range(0, T, 10), range(0, T, 10), fontsize=8)
    grid[-1, 0].set_xlabel("step t", fontsize=8)
    save(figure, path)


def _draw_answer(axes: Any, seen: Seen, title: str) -> None:
    steps = np.arange(T)
    marked = list(MARKS)
    axes.plot(steps, seen.x, ".", color="0.7", ms=3.5, label="number shown")
    axes.plot(marked, seen.x[marked], "o", color="w", mec="k", ms=5, label="marked")
    axes.step(steps, seen.y, where="mid", color="0.55", lw=3.2, label="to be answered")
    axes.plot(steps, seen.answer, color="tab:blue", lw=1.3, label="answer")
    axes.set_ylim(-1.35, 1.25)
    axes.set_yticks([-1, 0, 1], [-1, 0, 1], fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    words = f"{title} holds a number: {100 * max(seen.right, 0):.1f} % of the variance of answers explained"
    axes.set_title(words, loc="left", fontsize=10, pad=20)
    legend = dict(frameon=False, fontsize=7.5, ncols=4, columnspacing=1.5, handlelength=1.4, borderpad=0)
    axes.legend(**legend, loc="lower left", bbox_to_anchor=(0.0, 1.06), borderaxespad=0)


def _draw_gradient(axes: Any, seen: Seen) -> None:
    """On a logarithmic scale of six decades below the greatest."""
    most = max((values.max() for values in seen.arrives.values()), default=0.0) or 1.0
    for (name, values), stroke in zip(seen.arrives.items(), LINES):
        drawn = np.where(values > most * 1e-7, values, np.nan)
        axes.plot(np.arange(T), drawn, color="k", ls=stroke, lw=1.2, label=f"at {name}")
    axes.set_yscale("log")
    axes.set_ylim(most * 5e-7, most * 4)
    top = math.floor(math.log10(most))
    axes.set_yticks([10.0**top, 10.0 ** (top - 3), 10.0 ** (top - 6)])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_yticks([], minor=True)
    axes.set_ylabel("gradient", rotation=0, ha="right", va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if seen.arrives:
        axes.legend(frameon=False, fontsize=7.5, loc="lower right", ncols=4, borderpad=0, handlelength=2.2)
    else:
        axes.text(0.5, 0.5, "nothing arrives", transform=axes.transAxes, ha="center", va="center", fontsize=8)


def save(figure: Any, path: Path) -> None:
    """Write a picture of few colours, which takes a third of the space, or leave the old one."""
    draft, drawn = path.with_name(f".{path.name}.tmp"), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=96)
    few = Image.open(drawn).convert("RGB").quantize(palette=_palette(), dither=Image.Dither.NONE)
    few.save(draft, format="png", optimize=True)
    os.replace(draft, path)


def _palette() -> Image.Image:
    """The colours of the maps, greys, and blues that fade: those there are, but for the edges of letters."""
    from matplotlib import colormaps, colors

    blue, shades = np.array(colors.to_rgb("tab:blue")), np.linspace(0, 1, 6)[:-1, None]
    found = np.concatenate([
        colormaps[COLOURS](np.linspace(0, 1, 43))[:, :3], np.linspace(0, 1, 16)[:, None].repeat(3, 1),
        blue * (1 - shades) + shades,
    ])  # fmt: skip
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * found).round().astype(np.uint8).tobytes())
    return palette
