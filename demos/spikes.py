"""In which order two bursts of spikes came, asked long afterwards: `python demos/spikes.py`.

Two groups of ten input neurons send a spike now and then; once each of them sends a burst, and only the order of the
two bursts differs: A then B, or B then A. More than a hundred steps later a third group asks which it was:

    A burst   15 steps at 40 % in place of 2 %, the first from step 10 to 30, the second 10 to 40 steps behind it
    The ask   the last 20 steps, in which five neurons spike at 40 %; the answer is read from the spikes then

Both orders have the same spikes on average, so a linear classifier of how often each neuron spiked, which is trained
beside, is right half of the time. Leaky integrate-and-fire units forget in 20 steps what they were sent; whatever they
know at the end, they must have passed on among them. Adaptive ones (Bellec et al., 2018) tire: their threshold rises
with each spike and remembers it for hundreds of steps. Both are trained by backpropagation through time, with the
surrogate gradient of `tg.nn.cells.LIFCell`, and kept from spiking much more or less often than every 50 steps.

What is left in `--out` are a picture, of the learning and of every spike in one sequence, and the numbers.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from shared import add_common, fill, number, save
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

GROUP, ASKING, BURST, ASK = 10, 5, 15, 20  # neurons of a group, and of those that ask; steps
QUIET, LOUD = 0.02, 0.4  # chances of a spike in a step
OFTEN = 0.1  # spikes in a step that count as 1 for the scores
RATE, WEIGHT = 0.02, 10.0  # that units are kept near, and how strongly
ORDERS = "A then B", "B then A"
DEFAULTS = dict(updates=600, hidden=80, batch=32, steps=270, every=25, tests=500)
QUICK = dict(updates=6, hidden=8, batch=4, steps=120, every=3, tests=20)
KINDS = {
    "lif": ("LIF", lambda I, H: cells.LIFCell(I, H)),
    "alif": ("ALIF, adaptive", lambda I, H: cells.ALIFCell(I, H, tau_adaptation=200.0)),
}


# ---- The spikes ------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, count: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Spikes x [T, count, 25] of groups A, B and of those that ask; and which order, 0 for A then B."""
    y, t = rng.integers(0, 2, count), np.arange(steps)[:, None]
    first = rng.integers(10, 30, count)
    second = first + BURST + rng.integers(10, 40, count)
    chance = np.full((steps, count, 2 * GROUP + ASKING), QUIET)
    chance[:, :, 2 * GROUP :] = 0
    for begins, group in ((first, y), (second, 1 - y)):
        bursts = (t >= begins) & (t < begins + BURST)  # [T, count]
        for g in (0, 1):
            chance[:, :, g * GROUP : (g + 1) * GROUP][bursts & (group == g)] = LOUD
    chance[-ASK:, :, 2 * GROUP :] = LOUD
    return (rng.random(chance.shape) < chance).astype(np.float32), y


class Model(tg.nn.Module):
    """Spiking units, and scores of how often each has spiked lately."""

    def __init__(self, kind: str, hidden: int) -> None:
        self.layer = tg.nn.Recurrent(KINDS[kind][1](2 * GROUP + ASKING, hidden))
        self.head = tg.nn.Linear(hidden, len(ORDERS))

    def forward(self, x):
        """Scores of the last 20 steps, and all spikes."""
        z, _ = self.layer(x)
        return self.head(z[-ASK:].mean(0) / OFTEN), z

    def answers(self, z: np.ndarray) -> np.ndarray:
        """At each step, how sure it would be that A came first, were it asked to look back 20 steps: [T, B]."""
        lately = np.stack([z[max(t - ASK + 1, 0) : t + 1].sum(0) / ASK for t in range(len(z))])
        with tg.no_grad():
            return tg.softmax(self.head(tg.tensor(lately / OFTEN)), -1).numpy()[..., 0]


def counting(options: argparse.Namespace, seed: int) -> float:
    """The accuracy of a linear classifier that knows how often each neuron has spiked: the baseline."""
    rng = np.random.default_rng([seed, 2])
    x, y = draw(rng, 4 * options.tests, options.steps)
    counts = np.concatenate([x.sum(0), np.ones((len(y), 1))], 1)
    weights = np.linalg.lstsq(counts[options.tests :], 2.0 * y[options.tests :] - 1, rcond=None)[0]
    return float(((counts[: options.tests] @ weights > 0) == y[: options.tests]).mean())


# ---- Learning --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one kind of units.

    Attributes:
        seen, accuracy: after how many updates it was tested, and what it got right.
        rate: how often a unit spikes in a step, at last.
        seconds: of processor time.
    """

    kind: str
    seed: int
    parameters: int
    seen: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    rate: float = 0.0
    seconds: float = 0.0


def learn(kind: str, seed: int, options: argparse.Namespace) -> tuple[Result, Model]:
    """Train by backpropagation through time, on new sequences in each update; the learning rate falls to 0."""
    began = time.process_time()
    tg.manual_seed(seed)
    rng, model = np.random.default_rng([seed, 0]), Model(kind, options.hidden)
    x_test, y_test = draw(np.random.default_rng([seed, 1]), options.tests, options.steps)
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr)
    falls = tg.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, options.updates)
    result = Result(kind, seed, sum(p.numel() for p in model.parameters()))
    with tqdm(total=options.updates, desc=f"{KINDS[kind][0]:<15} seed {seed}", unit="update", mininterval=0.5) as bar:
        for update in range(1, options.updates + 1):
            x, y = draw(rng, options.batch, options.steps)
            scores, z = model(x)
            loss = tg.cross_entropy(scores, y) + WEIGHT * (z.mean((0, 1)) - RATE).square().sum()
            optimiser.zero_grad()
            loss.backward()
            tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            optimiser.step()
            falls.step()
            bar.update()
            if update % options.every == 0 or update == options.updates:
                with tg.no_grad():
                    scores, z = model(x_test)
                result.seen.append(update)
                result.accuracy.append(float((scores.numpy().argmax(1) == y_test).mean()))
                result.rate = float(z.numpy().mean())
                bar.set_postfix_str(f"{result.accuracy[-1]:.1%} right")
    result.seconds = time.process_time() - began
    return result, model


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(results: list[Result], baselines: dict[int, float], options: argparse.Namespace) -> str:
    """Accuracies in percent, in Markdown; with several seeds, several numbers."""
    rows = [["", "parameters", "right (%)", "spikes a unit in 100 steps", "processor seconds"]]
    rows.append(["spikes counted, linear", f"{2 * GROUP + ASKING + 1}", listed(100 * b for b in baselines.values()),
                 "", ""])  # fmt: skip
    for kind in dict.fromkeys(r.kind for r in results):
        own = [r for r in results if r.kind == kind]
        rows.append([
            f"{options.hidden} {KINDS[kind][0]}", f"{own[0].parameters:,}", listed(100 * r.accuracy[-1] for r in own),
            listed(100 * r.rate for r in own), f"{np.mean([r.seconds for r in own]):.0f}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def listed(numbers) -> str:
    return ", ".join(f"{x:.1f}" for x in numbers)


FIRST, SECOND = "#d95f02", "#1b3a6b"  # of group A, of group B, and of units that vote for the order which it begins
STROKES = {"lif": ":", "alif": "-"}


def draw_picture(results, models: dict[str, Model], baseline: float, options: argparse.Namespace, path: Path) -> None:
    """A sequence of each order, in a column: what came in, each unit's spikes, thresholds, and what it would answer."""
    from matplotlib.figure import Figure

    x, y = draw(np.random.default_rng([options.seed, 3]), 40, options.steps)
    right = np.all([model(x)[0].numpy().argmax(1) == y for model in list(models.values())[-1:]], 0)
    pair = x[:, [int(((y == order) * (1 + right)).argmax()) for order in (0, 1)]]  # that the last of them gets right
    rows = ["input", *(kind for kind in models), *(["tired"] if "alif" in models else []), "answer"]
    heights = [1.15, *(1.5 for _ in models), *([1.2] if "alif" in models else []), 0.8]
    figure = Figure(figsize=(11, 2.2 * len(rows) + 1.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[sum(heights), 1.35])
    panels = above.subplots(len(rows), 2, sharex=True, sharey="row", height_ratios=heights)
    for column, order in enumerate(ORDERS):
        place = dict(zip(rows, panels[:, column]))
        draw_input(place["input"], pair[:, column])
        place["input"].set_title(order)
        for kind, model in models.items():
            with tg.no_grad():
                _, _, every = model.layer(pair[:, column : column + 1], return_states=True)
            states = [state.numpy() for state in every]
            votes = np.subtract(*model.head.weight.numpy())
            by_vote = np.argsort(votes)
            draw_units(place[kind], states[0][:, 0, by_vote], votes[by_vote])
            if kind == "alif":
                cell = model.layer.cell
                raised = 1 + cell.beta / cell.threshold * states[2][:, 0, by_vote].T
                image = place["tired"].imshow(raised, aspect="auto", origin="lower", cmap="magma_r", vmin=1,
                                              extent=(0, options.steps, 0, len(votes)))  # fmt: skip
            place["answer"].plot(
                model.answers(states[0])[:, 0], color="k", ls=STROKES[kind], lw=1.6, label=KINDS[kind][0]
            )
        place["answer"].set(ylim=(-0.05, 1.05), yticks=[0, 1], yticklabels=ORDERS[::-1], xlabel="step")
        for panel in place.values():
            if panel is not place.get("tired"):
                panel.axvspan(options.steps - ASK, options.steps, color="0.85", lw=0, zorder=0)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_xlim(0, options.steps)
    for name, panel in zip(rows, panels[:, 0]):
        panel.set_ylabel({"input": "input neurons", "tired": "ALIF thresholds", "answer": "were it asked now"}.get(
            name, f"{name.upper()} units"))  # fmt: skip
    if "alif" in models:
        above.colorbar(image, ax=panels[rows.index("tired"), :], label="times that at rest", pad=0.01)
    panels[-1, 1].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.55, 1.05))
    panels[0, 0].yaxis.labelpad = 18
    draw_learning(below.subplots(), results, baseline)
    save(figure, path)


def draw_input(panel, x: np.ndarray) -> None:
    """Every spike that comes in, x [T, 25]."""
    for name, colour, low, high in (("A", FIRST, 0, GROUP), ("B", SECOND, GROUP, 2 * GROUP), ("ask", "0.2", 20, 25)):
        t, neuron = np.nonzero(x[:, low:high])
        panel.plot(t, neuron + low, "|", color=colour, ms=4, mew=1)
        panel.text(-2, (low + high) / 2 - 0.5, name, color=colour, ha="right", va="center", fontsize=9)
    panel.set(yticks=[], ylim=(-1, 2 * GROUP + ASKING))


def draw_units(panel, z: np.ndarray, votes: np.ndarray) -> None:
    """Every spike of the units, z [T, H], in the colour of what they vote for."""
    for chosen, colour in ((votes > 0, FIRST), (votes <= 0, SECOND)):
        t, unit = np.nonzero(z * chosen)
        panel.plot(t, unit, "|", color=colour, ms=2.5, mew=0.9)
    panel.set(yticks=[], ylim=(-1, len(votes)))


def draw_learning(panel, results: list[Result], baseline: float) -> None:
    """Accuracy against updates; thin lines are other seeds."""
    for r in results:
        main = r.seed == results[0].seed
        panel.plot(r.seen, [100 * a for a in r.accuracy], color="k", ls=STROKES[r.kind], lw=1.6 if main else 0.7,
                   label=KINDS[r.kind][0] if main else None)  # fmt: skip
    panel.axhline(100 * baseline, color="0.6", lw=1, zorder=0)
    panel.text(results[0].seen[0], 100 * baseline + 1, "spikes counted, linear", color="0.4", fontsize=8)
    panel.set(xlabel="update", ylabel="right, %", ylim=(min(40, 95 * baseline), 102), title="On sequences never seen")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9, loc="center right")


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    add("--cells", choices=KINDS, nargs="+", default=list(KINDS), help="kinds of units (default: both)")
    add("--steps", type=number(int, 110), help=f"T, at least 110 (default: {DEFAULTS['steps']})")
    for option, meaning in (
        ("updates", "of training"), ("hidden", "H"), ("batch", "B"), ("every", "updates between tests"),
        ("tests", "sequences of a test"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--lr", type=number(float, 0.0), default=5e-3, help="learning rate of Adam at first (default: 0.005)")
    add_common(parser, "sequences", "a few updates")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    results, first, baselines = [], {}, {}
    for seed in range(options.seed, options.seed + options.seeds):
        baselines[seed] = counting(options, seed)
        for kind in dict.fromkeys(options.cells):
            result, model = learn(kind, seed, options)
            results.append(result)
            first.setdefault(kind, model)
    print(f"\n{table(results, baselines, options)}\n")
    print(f"on {options.tests} sequences never seen, at the end of the training")
    numbers = dict(baselines=list(baselines.values()), results=[asdict(r) for r in results])
    (options.out / "spikes.json").write_text(json.dumps(numbers))
    draw_picture(results, first, baselines[options.seed], options, options.out / "spikes.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"spikes.py: {error}")
