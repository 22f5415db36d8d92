"""What keeps gradients alive: `python demos/long_memory.py --remedies`.

A simple RNN is to say in which order two symbols came, an X or a Y near the beginning and another one past the middle
of a sequence of other symbols (Hochreiter and Schmidhuber, 1997). It is trained in three ways (Pascanu, Mikolov and
Bengio, 2013):

    SGD                 plain steps along the gradient
    clipped             the same, where the norm of the gradient is no longer than 1
    clipped + Omega     and to the gradient of the recurrent matrix is added that of alpha * Omega, see
                        `tg.optim.omega_penalty`: gradients are to keep their length on the way back through time

All see the same sequences in the same order, of a length that is drawn anew for each update, and start alike: as the
authors advise, with 15 weights for each unit, scaled to a spectral radius of 0.95. A run ends as in the authors' code,
which looks after every 20 updates whether 10,000 other sequences are all right, ten times a thousand of one length that
is drawn. What is left in `--out` are a picture, and the numbers of it. The errors there are measured on lengths that
are spread over the whole range, the longest among them. That is harder than ten lengths that happen to be drawn, so a
run may end with some errors left.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from long_memory import order
from shared import HERE, fill, number, save
from tqdm import tqdm

import tinygrad_rnn as tg

DEFAULTS = dict(
    lengths=("10-20", "20-50", "50-100"), updates=20_000, seeds=5, hidden=100, every=250, often=20, sure=10_000
)  # fmt: skip
QUICK = dict(lengths=("10", "10-20"), updates=20, seeds=2, hidden=10, every=10, often=5, sure=200)


@dataclass(frozen=True)
class Way:
    """A way of training: its name and look, the longest norm of a gradient, and how much of Omega there is."""

    label: str
    clips: bool
    penalises: bool
    colour: str
    line: str


WAYS = {
    "sgd": Way("SGD", False, False, "0.65", ":"),
    "clipped": Way("clipped", True, False, "tab:orange", "--"),
    "omega": Way("clipped + Omega", True, True, "#1b2a6b", "-"),
}


@dataclass
class Result:
    """What came of one way of training.

    Attributes:
        updates: at each test, how many there had been.
        errors: the share of wrong answers there.
        solved: updates until all of many sequences were right at one of the authors' looks, or None.
        astray: whether it ended with numbers that were not finite.
        radius: the spectral radius of the recurrent matrix at the end.
    """

    lengths: str
    way: str
    seed: int
    updates: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    solved: int | None = None
    astray: bool = False
    radius: float = math.nan
    seconds: float = 0.0


class Model(tg.nn.Module):
    """An RNN, and the scores of four classes of its last state. It starts as `smart_tanh` of the authors' code."""

    def __init__(self, hidden: int) -> None:
        self.rnn = tg.nn.Recurrent(tg.nn.RNNCell(6, hidden), fused="require")
        self.scores = tg.nn.Linear(hidden, 4)
        rng = tg.generator()
        for parameter in self.parameters():
            parameter.numpy()[...] = 0.01 * rng.standard_normal(parameter.shape) if parameter.ndim == 2 else 0
        W = self.rnn.cell.weight_hh.numpy()
        for weights in W.T:  # of what leaves a unit
            weights[rng.permutation(hidden)[15:]] = 0
        W *= 0.95 / spectral_radius(W)

    def forward(self, x):
        return self.scores(self.rnn(x)[0][-1])


def spectral_radius(W: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(W)).max())


def bounds(text: str) -> tuple[int, int]:
    """The shortest and the longest sequence of "20-50", or of "20"."""
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def errors_of(model: Model, lengths: tuple[int, int], count: int, rng: np.random.Generator) -> float:
    """The share of wrong answers to `count` sequences of lengths that are spread over the range."""
    wrong = total = 0
    parts = max(min(20, count // 10), 1)
    with tg.no_grad():
        for length in np.linspace(*lengths, parts).round().astype(int):
            x, y = order(rng, count // parts, int(length))
            wrong += int((model(x).numpy().argmax(-1) != y).sum())
            total += len(y)
    return wrong / total


def all_right(model: Model, lengths: tuple[int, int], count: int, rng: np.random.Generator) -> bool:
    """Whether a tenth of `count` sequences of each of ten lengths, which are drawn, are all right."""
    with tg.no_grad():
        for _ in range(10):
            x, y = order(rng, count // 10, drawn(lengths, rng))
            for some in np.array_split(np.arange(len(y)), 10):  # a wrong answer is seldom alone: no need for the rest
                if (model(x[:, some]).numpy().argmax(-1) != y[some]).any():
                    return False
    return True


def drawn(lengths: tuple[int, int], rng: np.random.Generator) -> int:
    """A length of the range; the longest is left out, as by the authors."""
    low, high = lengths
    return int(rng.integers(low, max(high, low + 1)))


def learn(lengths: str, way: str, seed: int, options: argparse.Namespace) -> Result:
    """Train until the task is solved or the updates are used up."""
    began, range_of, plan = time.process_time(), bounds(lengths), WAYS[way]
    tg.manual_seed(seed)
    model, rng = Model(options.hidden), np.random.default_rng([seed, 0])
    optimiser = tg.optim.SGD(model.parameters(), lr=options.lr)
    result = Result(lengths, way, seed)
    label = f"lengths {lengths:<7} {plan.label:<16} seed {seed}"
    with tqdm(total=options.updates, desc=label, unit="update", mininterval=0.5) as bar:
        for update in range(1, options.updates + 1):
            x, y = order(rng, options.batch, drawn(range_of, rng))
            result.astray = not step(model, optimiser, x, y, plan, options)
            if result.astray:
                break
            bar.update()
            if update % options.often == 0:
                if all_right(model, range_of, options.sure, np.random.default_rng([seed, 2, update])):
                    result.solved = update
            if update % options.every == 0 or update == options.updates or result.solved:
                test = np.random.default_rng([seed, 1, update])
                result.updates.append(update)
                result.errors.append(errors_of(model, range_of, 1000, test))
                bar.set_postfix_str(f"{result.errors[-1]:.1%} wrong")
            if result.solved:
                break
    W = model.rnn.cell.weight_hh.numpy()
    result.radius = spectral_radius(W) if np.isfinite(W).all() else math.inf
    result.seconds = time.process_time() - began
    return result


def step(model: Model, optimiser, x, y, plan: Way, options: argparse.Namespace) -> bool:
    """One update; False, and none, if its gradient is not finite."""
    if plan.penalises:
        with tg.record(model.rnn) as r:
            loss = tg.cross_entropy(model(x), y)
    else:
        loss = tg.cross_entropy(model(x), y)
    optimiser.zero_grad()
    loss.backward()
    if plan.penalises:  # before clipping, as in the authors' code
        (options.alpha * tg.optim.omega_penalty(r, model.rnn)).backward()
    try:
        tg.nn.utils.clip_grad_norm_(model.named_parameters(), options.clip if plan.clips else math.inf)
    except RuntimeError:
        return False
    optimiser.step()
    return True


# ---- What comes out of it --------------------------------------------------------------------------------------------


def outcome(results: list[Result]) -> str:
    """How many of the runs solved the task, after how many thousands of updates; and what the others got wrong."""
    solved = sorted(r.solved for r in results if r.solved is not None)
    others = [r.errors[-1] for r in results if r.solved is None and r.errors and not r.astray]
    astray = sum(r.astray for r in results)
    text = f"{len(solved)} of {len(results)}"
    if solved:
        low, high = solved[0] / 1000, solved[-1] / 1000
        text += f", after {low:.3g}k" + (f" to {high:.3g}k" if high > low else "")
    if others:
        low, high = min(others), max(others)
        text += f"; wrong {low:.1%}" + (f" to {high:.1%}" if high > low else "")
    return text + (f"; {astray} astray" if astray else "")


def table(results: list[Result]) -> str:
    """Ways of training against lengths, in Markdown."""
    ranges = list(dict.fromkeys(r.lengths for r in results))
    rows = [["", *(f"lengths {each}" for each in ranges)]]
    for way in dict.fromkeys(r.way for r in results):
        own = [[r for r in results if (r.way, r.lengths) == (way, each)] for each in ranges]
        rows.append([WAYS[way].label, *(outcome(each) if each else "" for each in own)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def draw(results: list[Result], path: Path) -> None:
    """Wrong answers against updates: a panel for each range of lengths, a line for each run, a dot where solved."""
    from matplotlib.figure import Figure

    ranges = list(dict.fromkeys(r.lengths for r in results))
    figure = Figure(figsize=(3.4 * len(ranges) + 0.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    for lengths, panel in zip(ranges, panels):
        for r in (each for each in results if each.lengths == lengths):
            way = WAYS[r.way]
            at = np.array([0, *r.updates]) / 1000
            panel.plot(at, [0.75, *r.errors], color=way.colour, ls=way.line, lw=1.4 if way.clips else 0.8, alpha=0.85)
            if r.solved is not None:
                panel.plot(at[-1], r.errors[-1], "o", color=way.colour, ms=6, clip_on=False, zorder=3)
            elif r.astray:
                panel.plot(at[-1], [0.75, *r.errors][-1], "x", color=way.colour, ms=7, clip_on=False)
        panel.set(title=f"lengths {lengths}", xlabel="thousands of updates", ylim=(0, 0.8))
        panel.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("wrong answers")
    for way in dict.fromkeys(r.way for r in results):
        panels[0].plot([], [], color=WAYS[way].colour, ls=WAYS[way].line, lw=1.8, label=WAYS[way].label)
    panels[0].plot([], [], "o", color="k", ms=6, label="solved")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def range_of_lengths(text: str) -> str:
    """A type for argparse: "20-50" or "20"."""
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()) or not 10 <= int(low) <= int(high or low):
        raise argparse.ArgumentTypeError(f"must be a length, or two such as 20-50, of 10 at least, not {text!r}")
    return text


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "long_memory.py --remedies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, count = parser.add_argument, number(int, 1)
    shown = " ".join(DEFAULTS["lengths"])
    add("--lengths", type=range_of_lengths, nargs="+", metavar="RANGE", help=f"of sequences (default: {shown})")
    add("--ways", choices=[*WAYS], nargs="+", default=[*WAYS], help="of training (default: all)")
    add("--seed", type=number(int, 0), default=0, help="of weights and sequences (default: 0)")
    for option, meaning in (
        ("seeds", "how many runs, with this seed and those after it"), ("updates", "of a run, at most"),
        ("hidden", "H"), ("every", "updates between measurements of errors"),
        ("often", "updates between looks whether it is solved"), ("sure", "sequences that must all be right then"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--batch", type=count, default=20, help="B (default: 20)")
    for option, value, meaning in (
        ("lr", 0.01, "learning rate"), ("clip", 1.0, "longest norm of the gradient"), ("alpha", 0.5, "times Omega"),
    ):  # fmt: skip
        add(f"--{option}", type=number(float, 0.0), default=value, help=f"{meaning} (default: {value})")
    add("--quick", action="store_true", help="a few updates of a small net, to see that it runs")
    add("--out", type=Path, default=HERE / "runs", metavar="FOLDER", help="where the picture and the numbers go")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for lengths in options.lengths:
        for way in options.ways:
            for seed in range(options.seed, options.seed + options.seeds):
                results.append(learn(lengths, way, seed, options))
                (options.out / "remedies.json").write_text(json.dumps([asdict(r) for r in results]))
    print(f"\n{table(results)}\n")
    print(f"runs that got all of {options.sure:,} sequences right, and after how many updates; of the others what they")
    print(f"got wrong after {options.updates:,}; {sum(r.seconds for r in results):.0f} s of processor time")
    draw(results, options.out / "remedies.png")
