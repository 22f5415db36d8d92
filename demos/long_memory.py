"""Which recurrent cells remember, and for how long: `python demos/long_memory.py`.

Tasks that were invented to find out, each with a loss that one reaches without any memory:

    adding-T    Two of T random numbers are marked, one in each half: what is their sum? Always saying 1 has a mean
                squared error of 1/6. Solved: below 0.01. (Hochreiter and Schmidhuber, 1997; Le et al., 2015)
    order-T     Among T symbols is an X or a Y near the beginning, and another one past the middle: XX, XY, YX or YY?
                Guessing has a cross-entropy of ln 4. Solved: 99 % right. (Hochreiter and Schmidhuber, 1997)
    copy-T      Ten symbols of eight kinds, T - 1 blanks, a signal: say the ten again. Saying blanks, and guessing after
                the signal, has 10 ln 8 / (T + 20). Solved: below a tenth of that. (Arjovsky et al., 2016)
    recall-T    T keys of 2T kinds, each with one of eight values; then the keys alone, in another order: which value
                had each? Guessing has ln 8, and is right 1 time in 8. Solved: 99 % right. (Graves et al., 2014; with
                as many questions as pairs Arora et al., 2023)

The last one is no default. Every cell gets the same sequences in the same order and starts as the literature advises;
see RECIPES. Eight of them are the default, `--cells lem cornn lru mlstm deltanet` are the further ones. At times a cell
is tested on a thousand other sequences, and it stops when it has solved the task. What is left in `--out` are a picture
of the learning, a picture of how far back gradients reach before and after it, and the numbers of both.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from shared import ANY_CELL, add_common, cell_named, fill, label, number, save
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells, init
from tinygrad_rnn.nn.cells.catalogue import short_name

DEFAULTS = dict(
    tasks=("adding-100", "adding-200", "order-100", "copy-20"),
    sequences=60_000, hidden=64, batch=16, every=100, tests=1000,
)  # fmt: skip
QUICK = dict(tasks=("adding-20", "order-20", "copy-10"), sequences=320, hidden=16, batch=16, every=5, tests=100)


# ---- The tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A kind of sequences and how far back one has to remember in them.

    Attributes:
        name: "adding", "order", "copy" or "recall".
        length: T.
    """

    name: str
    length: int

    @classmethod
    def named(cls, text: str) -> "Task":
        """The task that "adding-100" and the like stand for."""
        name, _, length = text.partition("-")
        if name not in MAKE or not length.isdecimal() or int(length) < 10:
            names = ", ".join(f"{each}-T" for each in MAKE)
            raise argparse.ArgumentTypeError(f"must be one of {names} with T of 10 at least, not {text!r}")
        return cls(name, int(length))

    @property
    def inputs(self) -> int:
        return {"adding": 2, "order": 6, "copy": 10, "recall": 2 * self.length + 8}[self.name]

    @property
    def outputs(self) -> int:
        return {"adding": 1, "order": 4, "copy": 9, "recall": 8}[self.name]

    @property
    def answers(self) -> int:
        """After how many steps, the last ones, something is to be answered."""
        return {"copy": self.length + 20, "recall": self.length}.get(self.name, 1)

    @property
    def baseline(self) -> float:
        """The loss without memory."""
        copied = 10 * math.log(8) / (self.length + 20)
        return {"adding": 1 / 6, "order": math.log(4), "copy": copied, "recall": math.log(8)}[self.name]

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs x[T, B, I] and what is to be answered: [B, 1], classes [B], or classes [answers, B]."""
        return MAKE[self.name](rng, batch, self.length)

    def loss(self, scores: tg.Tensor, target: np.ndarray) -> tg.Tensor:
        """Mean squared error or cross-entropy."""
        if self.name == "adding":
            return tg.mse_loss(scores, target)
        return tg.cross_entropy(scores.reshape(-1, self.outputs), target.reshape(-1))

    def solved(self, scores: np.ndarray, target: np.ndarray, loss: float) -> bool:
        """Whether the published criterion is met."""
        if self.name in ("order", "recall"):
            return bool((scores.argmax(-1) == target).mean() >= 0.99)
        return loss < (0.01 if self.name == "adding" else 0.1 * self.baseline)

    def __str__(self) -> str:
        return f"{self.name}-{self.length}"


def adding(rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from U(0, 1) and marks -> the sum of the two marked ones, [B, 1]."""
    first, second, row = rng.integers(0, length // 2, batch), rng.integers(length // 2, length, batch), np.arange(batch)
    numbers, marks = rng.random((length, batch)), np.zeros((length, batch))
    marks[first, row] = marks[second, row] = 1
    x = np.stack([numbers, marks], axis=-1).astype(np.float32)
    return x, x[first, row, :1] + x[second, row, :1]


def order(rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """One of a b c d everywhere but at two places, where it is one of X Y -> which of XX XY YX YY.

    The places are drawn from the second and from the sixth tenth of the sequence: T // 10 steps from T // 10 and from
    T // 2 on (so in pascanu/trainingRNNs, tempOrder.py).
    """
    tenth, half, row = length // 10, length // 2, np.arange(batch)
    symbols, kind = rng.integers(0, 4, (length, batch)), rng.integers(0, 2, (2, batch))
    symbols[rng.integers(tenth, 2 * tenth, batch), row] = 4 + kind[0]
    symbols[rng.integers(half, half + tenth, batch), row] = 4 + kind[1]
    return np.eye(6, dtype=np.float32)[symbols], 2 * kind[0] + kind[1]


def copy(rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten symbols from 1 to 8, then blanks (0) with a signal (9) ten before the end -> blanks, then the symbols."""
    word = rng.integers(1, 9, (10, batch))
    x = np.zeros((length + 20, batch), int)
    y = np.zeros_like(x)
    x[:10], x[-11], y[-10:] = word, 9, word
    return np.eye(10, dtype=np.float32)[x], y


def recall(rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """T of 2T keys, each with one of eight values; then the same keys in another order, without -> their values."""
    keys, order = (rng.permuted(np.tile(np.arange(n)[:, None], batch), axis=0) for n in (2 * length, length))
    keys, values = keys[:length], rng.integers(0, 8, (length, batch))
    asked, answers = np.take_along_axis(keys, order, 0), np.take_along_axis(values, order, 0)
    x = np.zeros((2 * length, batch, 2 * length + 8), np.float32)
    x[..., : 2 * length] = np.eye(2 * length)[np.concatenate([keys, asked])]
    x[:length, :, 2 * length :] = np.eye(8)[values]
    return x, answers


MAKE: dict[str, Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]] = {
    "adding": adding, "order": order, "copy": copy, "recall": recall,
}  # fmt: skip


# ---- The cells -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a cell is made and trained.

    Attributes:
        label: its name in tables and pictures.
        make: its layers, from I, H and T.
        lr: learning rate of Adam.
        bounded: whether recurrent weights of single units are kept below 2^(1/T) (Li et al., 2018).
    """

    label: str
    make: Callable[[int, int, int], list[tg.nn.Cell]]
    lr: float
    bounded: bool = False


class LRUBlock(tg.nn.Cell):
    """An LRU and what its authors have around it: all that is not linear stands there (Orvieto et al., 2023).

        u = LayerNorm(x)
        v = gelu(LRU(u))
        y = x + (W_1 v + b_1) * sigmoid(W_2 v + b_2)

    x goes through a linear map first where it is not as wide as y. So in NicolasZucchet/minimal-LRU, which has a batch
    norm unless one asks for a layer norm, and there, too, complex numbers are half as many as y is wide. |lambda|
    starts between 0.9 and 0.999, and phases below pi / 10, as the paper's do for long sequences.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        self.encode = tg.nn.Linear(input_size, hidden_size) if input_size != hidden_size else None
        self.norm = tg.nn.LayerNorm(hidden_size)
        ring = dict(r_min=0.9, r_max=0.999, max_phase=math.pi / 10)
        self.lru = cells.LRUCell(hidden_size, hidden_size, max(hidden_size // 2, 1), **ring)
        self.out = tg.nn.Linear(hidden_size, 2 * hidden_size)

    def initial_state(self, batch_size: int) -> tuple[tg.Tensor, ...]:
        return self.lru.initial_state(batch_size)

    def step(self, x, y, re, im):
        x = x if self.encode is None else self.encode(x)
        v, re, im = self.lru.step(self.norm(x), y, re, im)
        a, gate = tg.chunk(self.out(tg.gelu(v)), 2, -1)
        return x + a * tg.sigmoid(gate), re, im


def orthogonal(cell: tg.nn.Cell) -> tg.nn.Cell:
    """Start the recurrent weights of every gate from a random orthogonal matrix (Saxe et al., 2014), as Keras does."""
    H, weights = cell.hidden_size, cell.weight_hh.numpy()
    for rows in range(0, len(weights), H):
        weights[rows : rows + H] = init.orthogonal_(tg.zeros(H, H)).numpy()
    return cell


def keeping(cell: tg.nn.Cell, bias: str, gate: int, value: float) -> tg.nn.Cell:
    """Add to the bias of a gate, so that the first steps keep more of the state (Gers et al., 2000)."""
    H = cell.hidden_size
    getattr(cell, bias).numpy()[gate * H : (gate + 1) * H] += value
    return cell


def chrono(cell: tg.nn.Cell, length: int) -> tg.nn.Cell:
    """Gate biases of an LSTM whose units forget on all time scales up to T (Tallec and Ollivier, 2018).

    b_f = log U(1, T - 1), b_i = -b_f
    """
    H, bias = cell.hidden_size, cell.bias_ih.numpy()
    cell.bias_hh.numpy()[:] = bias[:] = 0
    bias[H : 2 * H] = np.log(tg.generator().uniform(1, length - 1, H))
    bias[:H] = -bias[H : 2 * H]
    return cell


RECIPES = {
    "rnn": Recipe("RNN (tanh)", lambda I, H, T: [orthogonal(cells.RNNCell(I, H))], lr=5e-4),
    "irnn": Recipe("IRNN", lambda I, H, T: [cells.IRNNCell(I, H)], lr=2e-4),
    "lstm": Recipe("LSTM", lambda I, H, T: [init.forget_gate_bias_(orthogonal(cells.LSTMCell(I, H)))], lr=2e-3),
    "chrono": Recipe("LSTM, chrono", lambda I, H, T: [chrono(orthogonal(cells.LSTMCell(I, H)), T)], lr=2e-3),
    "gru": Recipe("GRU", lambda I, H, T: [keeping(orthogonal(cells.GRUCell(I, H)), "bias_ih", 1, 1)], lr=5e-3),
    "mgu": Recipe("MGU", lambda I, H, T: [keeping(orthogonal(cells.MGUCell(I, H)), "bias", 0, -1)], lr=5e-3),
    "mingru": Recipe("minGRU", lambda I, H, T: [keeping(cells.MinGRUCell(I, H), "bias", 0, -1)], lr=5e-3),
    "indrnn": Recipe(
        "IndRNN, 2 layers", lambda I, H, T: [cells.IndRNNCell(I, H), cells.IndRNNCell(H, H)], lr=1e-3, bounded=True
    ),
}  # fmt: skip
USUAL = tuple(RECIPES)  # what is compared if nothing is said

RECIPES |= {  # all numbers of the coRNN are those of tk-rusch/coRNN, adding; NX-AI/xlstm and fla-org have four heads
    "lem": Recipe("LEM", lambda I, H, T: [cells.LEMCell(I, H, dt=0.1)], lr=1e-2),
    "cornn": Recipe("coRNN", lambda I, H, T: [cells.CoRNNCell(I, H, dt=0.06, gamma=66.0, epsilon=15.0)], lr=2e-2),
    "lru": Recipe("LRU, 2 layers", lambda I, H, T: [LRUBlock(I, H), LRUBlock(H, H)], lr=2e-3),
    "mlstm": Recipe("mLSTM", lambda I, H, T: [cells.MLSTMCell(I, H, heads=math.gcd(H, 4))], lr=5e-3),
    "deltanet": Recipe("DeltaNet", lambda I, H, T: [cells.DeltaNetCell(I, H, heads=math.gcd(H, 4))], lr=5e-3),
}



def recipe_of(name: str) -> Recipe:
    """That of a name above; another cell of the library, or somebody's, starts as it does by itself."""
    if name in RECIPES:
        return RECIPES[name]
    return Recipe(label(name), lambda I, H, T: [cells.make(name, I, H)], lr=2e-3)


class Model(tg.nn.Module):
    """Layers of a cell and a linear map of the last one's output: after the last step, or the last `answers` ones."""

    def __init__(self, task: Task, recipe: Recipe, hidden: int) -> None:
        self.layers = tg.nn.ModuleList(
            [tg.nn.Recurrent(cell) for cell in recipe.make(task.inputs, hidden, task.length)]
        )
        with tg.no_grad():
            width = self.layers[-1].cell.begin(None, 1)[0].shape[-1]  # of some cells not the size of the state
        self.scores = tg.nn.Linear(width, task.outputs)
        self.answers = task.answers
        self.bounded = recipe.bounded

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        return self.scores(x[-1] if self.answers == 1 else x[-self.answers :])

    def keep_bounds(self, steps: int) -> None:
        """A recurrent weight of a single unit is applied `steps` times: do not let that exceed 2."""
        if self.bounded:
            for layer in self.layers:
                u, bound = layer.cell.weight_u.numpy(), 2 ** (1 / steps)
                u.clip(-bound, bound, out=u)


# ---- Learning --------------------------------------------------------------------------------------------------------


def gradient_norms(model: Model, task: Task, x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """For every state of the last layer: the norm of d(loss)/d(state after step t), for every t, over the batch."""
    last = model.layers[-1]
    with tg.record(last) as r:
        task.loss(model(x), y).backward()
    gradients = {name: r.grad[name].numpy().astype(np.float64) for name in last.cell.state_names}
    model.zero_grad()
    return {name: np.linalg.norm(g.reshape(len(g), -1), axis=1).tolist() for name, g in gradients.items()}


@dataclass
class Result:
    """What came of one cell on one task.

    Attributes:
        seen: training sequences at each test.
        losses: what was measured there.
        solved: training sequences until the criterion was met, or None.
        astray: whether training ended with gradients that were not finite.
        seconds: of processor time.
        before, after: for every state of the last layer, the norm of its gradient at every step, before and after
            training; see `gradient_norms`.
    """

    task: str
    cell: str
    seed: int
    baseline: float
    parameters: int
    seen: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    solved: int | None = None
    astray: bool = False
    seconds: float = 0.0
    before: dict[str, list[float]] = field(default_factory=dict)
    after: dict[str, list[float]] = field(default_factory=dict)

    def check(self, model: Model, task: Task, test: tuple[np.ndarray, np.ndarray], seen: int) -> None:
        """Measure on sequences that are not trained on."""
        x, y = test
        with tg.no_grad():
            scores = model(x)
            loss = task.loss(scores, y).item()
        self.seen.append(seen)
        self.losses.append(loss)
        if self.solved is None and task.solved(scores.numpy(), y, loss):
            self.solved = seen


def learn(task: Task, cell: str, seed: int, options: argparse.Namespace) -> Result:
    """Train until the task is solved or the sequences are used up."""
    began, recipe = time.process_time(), recipe_of(cell)
    tg.manual_seed(seed)
    training, test = (np.random.default_rng([seed, part]) for part in (0, 1))
    few, many = task.draw(test, 100), task.draw(test, options.tests)
    model = Model(task, recipe, options.hidden)
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr or recipe.lr)
    result = Result(str(task), cell, seed, task.baseline, sum(p.numel() for p in model.parameters()))
    result.before = gradient_norms(model, task, *few)
    result.check(model, task, many, seen=0)

    updates = max(options.sequences // options.batch, 1)
    title = f"{task!s:<10} {recipe.label:<16} seed {seed}"
    with tqdm(total=updates * options.batch, desc=title, unit="seq", mininterval=0.5) as bar:
        for update in range(1, updates + 1):
            x, y = task.draw(training, options.batch)
            loss = task.loss(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            try:
                tg.nn.utils.clip_grad_norm_(model.named_parameters(), options.clip)
            except RuntimeError:  # gradients that are not finite: it will not recover
                result.astray = True
                break
            optimiser.step()
            model.keep_bounds(len(x))
            bar.update(options.batch)
            if update % options.every == 0 or update == updates:
                result.check(model, task, many, seen=update * options.batch)
                bar.set_postfix_str(f"{result.losses[-1] / task.baseline:.3f} of the baseline")
                if result.solved is not None:
                    break
    result.after = {} if result.astray else gradient_norms(model, task, *few)
    result.seconds = time.process_time() - began
    return result


# ---- What comes out of it --------------------------------------------------------------------------------------------


def outcome(result: Result) -> str:
    """After how many thousands of sequences it was solved; if it was not, what is left of the baseline's loss."""
    if result.solved is not None:
        return f"{result.solved / 1000:.1f}"
    return "astray" if result.astray else f"({result.losses[-1] / result.baseline:.0%})"


def table(results: list[Result]) -> str:
    """What became of every cell on every task, in Markdown; a cell with several seeds has several numbers."""
    tasks = list(dict.fromkeys(r.task for r in results))
    rows = [["", *tasks]]
    for cell in dict.fromkeys(r.cell for r in results):
        own = [[outcome(r) for r in results if (r.cell, r.task) == (cell, task)] for task in tasks]
        rows.append([recipe_of(cell).label, *map(", ".join, own)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


TINTS = "0.35", "tab:brown", "tab:red", "tab:orange", "tab:blue", "tab:cyan", "tab:green", "tab:purple"
COLOURS = dict(zip(USUAL, TINTS))


def colour(cell: str, results: list[Result]) -> str:
    """That of a usual cell is always the same; other cells have those of a map, which grow lighter in print, too."""
    others = list(dict.fromkeys(r.cell for r in results if r.cell not in COLOURS))
    if cell in COLOURS:
        return COLOURS[cell]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis"](others.index(cell) / max(len(others), 2)))


def draw_learning(results: list[Result], path: Path) -> None:
    """Loss against training sequences: a panel for each task, a line for each cell and seed, a dot where solved."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    tasks = list(dict.fromkeys(r.task for r in results))
    columns = min(len(tasks), 2)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 2.7 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    for task, panel in zip(tasks, panels):
        for r in (own := [r for r in results if r.task == task]):
            seen, losses = np.array(r.seen) / 1000, np.array(r.losses) / r.baseline
            first = r.seed == own[0].seed
            tint = colour(r.cell, results)
            strength = dict(color=tint, lw=1.6 if first else 0.8, alpha=1 if first else 0.5)
            panel.plot(seen, losses, **strength, label=recipe_of(r.cell).label if first else None)
            if r.solved is not None:
                panel.plot(seen[-1], losses[-1], "o", color=tint, ms=6 if first else 3.5, clip_on=False)
        panel.axhline(1, color="k", ls="--", lw=1, label="without memory")
        panel.set(yscale="log", title=task, ylabel="loss / without memory")
        panel.set_ylim(top=max(1.6, 1.05 * min(r.losses[-1] / r.baseline for r in own)))
        panel.plot([], [], "o", color="k", ms=6, label="solved")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if panel.get_ylim()[0] > 0.05 else (1,)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[max(len(tasks) - columns, 0) : len(tasks)]:
        panel.set_xlabel("thousands of training sequences")
    shown = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels())}
    ncols = 5 if columns > 1 else 3
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    save(figure, path)


def draw_gradients(results: list[Result], path: Path) -> None:
    """The norm of the gradient of every state against time, before and after training, on the longest task."""
    from matplotlib.figure import Figure

    longest = max((r.task for r in results), key=lambda name: Task.named(name).length)
    own = [r for r in results if r.task == longest and r.seed == results[0].seed]
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, when in zip(panels, ("before", "after")):
        for r in own:
            for ls, (state, norms) in zip(cycle(("-", "--", ":", "-.")), getattr(r, when).items()):
                label = recipe_of(r.cell).label + (f", {state}" if len(r.before) > 1 else "")
                seen = np.where(norms, norms, np.nan)  # what has underflowed to 0 has no logarithm
                style = dict(color=colour(r.cell, results), lw=1.5, ls=ls, label=label)
                panel.plot(np.arange(1, len(norms) + 1), seen, **style)
        panel.set(yscale="log", xlabel="time step t", title=f"{when} training")
        panel.set_ylim(bottom=max(panel.get_ylim()[0], 1e-30))  # float32 ends at 1e-38, and denormals draw a bend
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="norm of dL / d state[t]")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(f"{longest}: how far back the gradient of the loss reaches")
    save(figure, path)


# ---- The command line ------------------------------------------------------------------------------------------------


def known(text: str) -> str:
    """The name of a recipe, or of a cell that can be made."""
    if short_name(text) in RECIPES:
        return short_name(text)
    try:
        return cell_named(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; recipes are {', '.join(RECIPES)}") from None


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    add("--tasks", type=Task.named, nargs="+", metavar="TASK", help=f"(default: {' '.join(DEFAULTS['tasks'])})")
    add("--cells", type=known, nargs="+", metavar="CELL", help=f"{ANY_CELL} (default: {' '.join(USUAL)})")
    for option, meaning in (
        ("sequences", "for each cell and task, at most"), ("hidden", "H"), ("batch", "B"),
        ("every", "updates between tests"), ("tests", "sequences of a test"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--lr", type=number(float, 0.0), help="learning rate of Adam (default: the cell's own)")
    add("--clip", type=number(float, 0.0), default=1.0, help="longest norm of the gradient (default: 1)")
    add_common(parser, "sequences", "a few sequences of short tasks")
    add("--remedies", action="store_true", help="ways to train an RNN instead, with options of their own: add --help")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.tasks = [each if isinstance(each, Task) else Task.named(each) for each in options.tasks]
    options.out.mkdir(parents=True, exist_ok=True)
    results = [
        learn(task, cell, seed, options)
        for task in options.tasks
        for cell in options.cells or USUAL
        for seed in range(options.seed, options.seed + options.seeds)
    ]
    print(f"\n{table(results)}\n")
    print("thousands of training sequences until the task was solved; in brackets what was left of the loss without")
    print(f"memory after {options.sequences:,} sequences; {sum(r.seconds for r in results):.0f} s of processor time")
    (options.out / "long_memory.json").write_text(json.dumps([asdict(r) for r in results]))
    draw_learning(results, options.out / "long_memory.png")
    draw_gradients(results, options.out / "long_memory_gradients.png")


if __name__ == "__main__":
    try:
        if "--remedies" in sys.argv:
            import remedies

            remedies.main(remedies.arguments().parse_args([each for each in sys.argv[1:] if each != "--remedies"]))
        else:
            main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"long_memory.py: {error}")
