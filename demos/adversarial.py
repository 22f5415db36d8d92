"""How small a change fools a GRU, and what training against such changes costs: `python demos/adversarial.py`.

The sequences are made here: 40 numbers in which there are two things to see.

    bumps     One bump in each half, up or down: ++, +-, -+ or --, the four classes. Anybody sees them, but noise hides
              one now and then.
    ripple    A faint wave of period four, whose phase is the class too. Nobody sees it; it is nearly always right.

Numbers are divided by the standard deviation of the data, and epsilon, the largest change of any number, is in that
unit. A plain GRU learns to read the ripple, which a small change turns into that of another class. One that is trained
on sequences attacked by a few steps of projected gradient ascent (Madry et al., 2018) learns to read the bumps: it is
right less often where nobody attacks, and more often where somebody does (Tsipras et al., 2019).

Both are then attacked with ten times as many steps, from two starts, and shown sequences without a ripple, and with
that of another class. What is left in `--out` are a picture, of the accuracy against epsilon and of what the attacks
look like, and the numbers. That attacks in training cost accuracy is so here, as for images; on words they have raised
it.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from shared import ANY_CELL, add_common, cell_named, fill, number, output_width, save
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

LENGTH, CLASSES = 40, 4
DEFAULTS = dict(
    updates=1500, hidden=32, batch=100, tests=500, test_steps=50, restarts=2,
    epsilons=[0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0],
)  # fmt: skip
QUICK = dict(updates=12, hidden=8, batch=20, tests=30, test_steps=3, restarts=1, epsilons=[0.1, 0.5])


# ---- The sequences ---------------------------------------------------------------------------------------------------


def draw(
    rng: np.random.Generator, count: int, ripple: float = 0.2, turned: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences x [40, count, 1], of standard deviation 1, and their classes.

    Args:
        ripple: its height.
        turned: by how many classes the ripple is off.
    """
    y, t = rng.integers(0, CLASSES, count), np.arange(LENGTH)[:, None]
    x = np.zeros((LENGTH, count))
    for first, last, sign in ((5, 15, 1 - 2 * (y // 2)), (22, 35, 1 - 2 * (y % 2))):
        place, width, height = rng.uniform(first, last, count), rng.uniform(1.5, 3, count), rng.uniform(0.6, 1.4, count)
        x += sign * height * np.exp(-0.5 * ((t - place) / width) ** 2)
    white = rng.standard_normal((LENGTH + 4, count))
    x += 0.5 * sum(white[k : k + LENGTH] for k in range(5)) / math.sqrt(5)  # noise as smooth as the bumps
    x += ripple * np.cos(math.pi / 2 * (t - y - turned))
    return (x / STD).astype(np.float32)[:, :, None], y


STD = 0.69  # of the sum of bumps, noise and ripple


class Model(tg.nn.Module):
    """A recurrent layer, and scores of its output at the end."""

    def __init__(self, hidden: int, cell: str = "gru") -> None:
        self.rnn = tg.nn.Stack(lambda width: cells.make(cell, width, hidden), 1, 1)
        self.head = tg.nn.Linear(output_width(self.rnn.cells[0]), CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])

    def losses(self, y: np.ndarray) -> Callable[[tg.Tensor], tg.Tensor]:
        """What an attacker wants to raise: a function of x that returns one loss for each sequence."""
        return lambda x: tg.cross_entropy(self(x), y, reduction="none")

    def right(self, x, y: np.ndarray) -> np.ndarray:
        """Which sequences it gets right."""
        with tg.no_grad():
            return self(x).numpy().argmax(1) == y


# ---- Training --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one way of training.

    Attributes:
        clean: accuracy on sequences as they are.
        noise, fgsm, pgd: accuracy at each epsilon: under random signs, one step, and the strongest of all attacks up to
            that size.
        without, misled: accuracy without a ripple, and with that of the next class.
        seconds: of processor time, for training.
    """

    name: str
    seed: int
    parameters: int
    clean: float = 0.0
    noise: list[float] = field(default_factory=list)
    fgsm: list[float] = field(default_factory=list)
    pgd: list[float] = field(default_factory=list)
    without: float = 0.0
    misled: float = 0.0
    seconds: float = 0.0


def train(against: float, seed: int, options: argparse.Namespace) -> tuple[Model, float]:
    """A model trained on attacks of size `against`, or on sequences as they are if that is 0; its processor time.

    The size grows from 0 between one eighth and five eighths of the training: a GRU that is attacked before it has
    learnt anything learns nothing.
    """
    began = time.process_time()
    tg.manual_seed(seed)
    rng, model = np.random.default_rng([seed, 0]), Model(options.hidden, options.cell)
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr)
    label = f"seed {seed}, trained {f'against {against:g}' if against else 'plainly':<12}"
    with tqdm(total=options.updates, desc=label, unit="update", mininterval=0.5) as bar:
        for update in range(options.updates):
            x, y = draw(rng, options.batch)
            epsilon = against * min(1.0, max(0.0, 2 * update / options.updates - 0.25))
            if epsilon:
                x = tg.adversarial.pgd(model.losses(y), x, epsilon, steps=options.train_steps)
            loss = model.losses(y)(x).mean()
            optimiser.zero_grad()
            loss.backward()
            tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            optimiser.step()
            bar.update()
            if update % 50 == 0:
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    return model, time.process_time() - began


# ---- Attacks ---------------------------------------------------------------------------------------------------------


def attack(model: Model, result: Result, options: argparse.Namespace) -> None:
    """Measure accuracy under attacks of every size."""
    x, y = draw(np.random.default_rng([result.seed, 1]), options.tests)
    losses, signs = model.losses(y), np.random.default_rng([result.seed, 2]).choice([-1, 1], x.shape)
    holds = model.right(x, y)  # what a small change has broken, a larger one may break too
    result.clean = float(holds.mean())
    for epsilon in tqdm(options.epsilons, desc=f"attacks on it{'':<14}", unit="epsilon", mininterval=0.5):
        one_step = tg.adversarial.fgsm(losses, x, epsilon)
        strong = tg.adversarial.pgd(losses, x, epsilon, options.test_steps, restarts=options.restarts)
        for attacked in (one_step, strong):
            holds = holds & model.right(attacked, y)
        result.noise.append(float(model.right((x + epsilon * signs).astype(np.float32), y).mean()))
        result.fgsm.append(float(model.right(one_step, y).mean()))
        result.pgd.append(float(holds.mean()))
    for kind, options_of_kind in (("without", dict(ripple=0.0)), ("misled", dict(turned=1))):
        x, y = draw(np.random.default_rng([result.seed, 1]), options.tests, **options_of_kind)
        setattr(result, kind, float(model.right(x, y).mean()))


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(results: list[Result], options: argparse.Namespace) -> str:
    """Accuracies in percent, in Markdown; with several seeds, several numbers."""
    shown = [e for e in options.epsilons if e in (0.1, 0.2, 0.3, 0.5)] or options.epsilons
    rows = [["trained", "attack", "0", *(f"{e:g}" for e in shown)]]
    for name in dict.fromkeys(r.name for r in results):
        own = [r for r in results if r.name == name]
        for kind in ("noise", "fgsm", "pgd"):
            at = [[getattr(r, kind)[options.epsilons.index(e)] for r in own] for e in shown]
            rows.append([name, LABELS[kind], *(", ".join(f"{100 * a:.1f}" for a in each) for each in
                                               ([r.clean for r in own], *at))])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


LABELS = {"noise": "random signs", "fgsm": "one step (FGSM)", "pgd": "many steps (PGD)"}
STYLES = {"noise": dict(ls=":", lw=1.2), "fgsm": dict(ls="--", lw=1.2), "pgd": dict(ls="-", lw=2)}
COLOURS = {"plain": "tab:orange", "adversarial": "tab:blue"}
MARKERS = {"plain": "o", "adversarial": "s"}


def draw_picture(results: list[Result], models: dict[str, Model], options: argparse.Namespace, path: Path) -> None:
    """Accuracy against epsilon; and one sequence with what each model's attacker adds to it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5), layout="constrained")
    panels = figure.subplot_mosaic([["accuracy", "plain"], ["accuracy", "adversarial"]], width_ratios=[1.35, 1])
    panel, epsilons = panels["accuracy"], [0.0, *options.epsilons]
    for r in results:
        first = r.seed == options.seed
        for kind, style in STYLES.items():
            label = f"{r.name}, {LABELS[kind]}" if first else None
            look = dict(color=COLOURS[r.name], marker=MARKERS[r.name], ms=4 if first else 2, alpha=1 if first else 0.45)
            panel.plot(epsilons, [100 * a for a in (r.clean, *getattr(r, kind))], **style, **look, label=label)
    panel.axhline(100 / CLASSES, color="0.6", lw=0.8, zorder=0)
    panel.text(epsilons[-1], 100 / CLASSES + 1, "guessing", color="0.4", ha="right", fontsize=8)
    panel.axvline(options.epsilon, color="0.6", lw=0.8, zorder=0)
    panel.text(options.epsilon, 102, " trained against", color="0.4", fontsize=8)
    panel.set(xlabel="epsilon, in standard deviations of the data", ylabel="accuracy, %", title="Accuracy under attack")
    panel.set(ylim=(-2, 108), xlim=(0, None))
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)

    x, y = draw(np.random.default_rng([options.seed, 3]), 20)
    b, epsilon = sequence_that_all_get_right(models, x, y), options.epsilon
    for name, model in models.items():
        tg.manual_seed(options.seed)
        losses = model.losses(y)
        changed = tg.adversarial.pgd(losses, x, epsilon, options.test_steps, restarts=options.restarts).numpy()
        verdict = ["++", "+-", "-+", "--"][model(changed).numpy()[b].argmax()]
        panel, t = panels[name], np.arange(LENGTH)
        panel.fill_between(t, x[:, b, 0], changed[:, b, 0], color=COLOURS[name], alpha=0.3, lw=0)
        panel.plot(t, x[:, b, 0], color="k", lw=1.2, label="a sequence")
        panel.plot(t, changed[:, b, 0], color=COLOURS[name], lw=1.5, label="attacked")
        panel.plot(t, changed[:, b, 0] - x[:, b, 0] - 4, color="0.35", lw=1, drawstyle="steps-mid", label="the change")
        panel.set_title(f"{name}: {['++', '+-', '-+', '--'][y[b]]} is taken for {verdict}", fontsize=10)
        panel.set(ylim=(-6, None), yticks=[-2, 0, 2])
        panel.spines[["top", "right"]].set_visible(False)
    panels["plain"].legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.05))
    panels["plain"].set(xticklabels=[])
    panels["adversarial"].set(xlabel="step t")
    save(figure, path)


def sequence_that_all_get_right(models: dict[str, Model], x: np.ndarray, y: np.ndarray) -> int:
    """The number of the first, or 0."""
    return int(np.all([model.right(x, y) for model in models.values()], 0).argmax())


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count, positive = parser.add_argument, number(int, 1), number(float, 0.0)
    add("--cell", type=cell_named, metavar="CELL", default="gru", help=f"{ANY_CELL} (default: gru)")
    add("--epsilon", type=positive, default=0.3, help="what is trained against (default: 0.3)")
    add("--epsilons", type=positive, nargs="+", help=f"sizes of attacks (default: {DEFAULTS['epsilons']})")
    add("--train-steps", type=count, default=5, help="of an attack while training (default: 5)")
    for option, meaning in (
        ("test_steps", "of an attack afterwards"), ("restarts", "of an attack afterwards"),
        ("updates", "of training"), ("hidden", "H"), ("batch", "B"), ("tests", "sequences that are attacked"),
    ):  # fmt: skip
        add(f"--{option.replace('_', '-')}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--lr", type=positive, default=5e-3, help="learning rate of Adam (default: 0.005)")
    add_common(parser, "sequences", "a few updates")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.epsilons = sorted(set(options.epsilons))
    options.out.mkdir(parents=True, exist_ok=True)
    results, first = [], {}
    for seed in range(options.seed, options.seed + options.seeds):
        for name, against in (("plain", 0.0), ("adversarial", options.epsilon)):
            model, seconds = train(against, seed, options)
            result = Result(name, seed, sum(p.numel() for p in model.parameters()), seconds=seconds)
            attack(model, result, options)
            results.append(result)
            first.setdefault(name, model)
    print(f"\n{table(results, options)}\n")
    print("accuracy in percent, at epsilons in standard deviations of the data; many steps: and none that is smaller")
    for r in results:
        print(
            f"seed {r.seed}, {r.name}: {r.without:.1%} without the ripple, {r.misled:.1%} with that of another class; "
            f"trained in {r.seconds:.0f} s of processor time"
        )
    (options.out / "adversarial.json").write_text(
        json.dumps(dict(epsilons=options.epsilons, results=[asdict(r) for r in results]))
    )
    draw_picture(results, first, options, options.out / "adversarial.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"adversarial.py: {error}")
