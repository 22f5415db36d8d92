"""Recurrent networks beside what they are compared with: `python demos/compare.py`.

MNIST-1D (Greydanus and Kobak, 2020) is ten digits drawn as curves of 40 numbers, moved, sheared and noisy: 4,000 to
learn from, 1,000 to be tested on. Its authors published how well a linear map, a multilayer perceptron, a convolutional
network and a GRU tell them apart. These four are trained here exactly as they did it: PyTorch's initial weights, Adam
with a learning rate of 0.01, batches of 100 in the order in which the curves are stored, no decay, no shuffling, 6,001
updates. Others stand beside them, with about as many parameters as the CNN and the GRU, the same batches and updates.

With `--shuffled` the 40 numbers of every curve change places, all curves in the same way: whoever relied on what is
beside what loses it.

`pip install ".[demos]"` brings what makes the data. `--music FILE` trains on the piano rolls of a file of yours
instead; see `music.py`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import music
import numpy as np
from music import Refusal, save
from shared import ANY_CELL, cell_named, label, number, output_width
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

HERE = Path(__file__).resolve().parent
STEPS, BATCH, EVERY = 6000, 100, 250
HUMAN = 95.8  # per cent, as the authors measured it


# ---- The data --------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Curves [N, 40] and their digits [N], to learn from and to be tested on."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def shuffled(self) -> "Data":
        """The numbers of every curve in the order in which the authors' notebook shuffles them."""
        order = np.random.RandomState(42).permutation(self.x.shape[1])
        return self._replace(x=self.x[:, order], x_test=self.x_test[:, order])

    def held_out(self) -> "Data":
        """Without the test's curves: tested is on the last fifth of those to learn from."""
        end = len(self.x) * 4 // 5
        return Data(self.x[:end], self.y[:end], self.x[end:], self.y[end:])


def mnist1d() -> Data:
    """The published set, made anew by its authors' package."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise Refusal(
            f'MNIST-1D is made by the package mnist1d: pip install mnist1d, or pip install ".[demos]" ({error}); '
            "--quick needs neither"
        ) from None
    made = make_dataset(get_dataset_args())
    return Data(made["x"].astype(np.float32), made["y"], made["x_test"].astype(np.float32), made["y_test"])


def stand_in() -> Data:
    """Ten curves, moved and noisy: nothing that is published, only of the same shapes, and made in a moment."""
    rng = np.random.default_rng(0)
    digits = np.arange(500) % 10
    shapes = rng.standard_normal((10, 12)).cumsum(axis=1)
    x = rng.normal(0, 0.3, (500, 40))
    for row, (digit, start) in enumerate(zip(digits, rng.integers(0, 28, 500))):
        x[row, start : start + 12] += shapes[digit]
    x = (x / x.std()).astype(np.float32)
    return Data(x[:400], digits[:400], x[400:], digits[400:])


# ---- The models ------------------------------------------------------------------------------------------------------


class MLP(tg.nn.Module):
    """`h = relu(W_1 x);  y = W_3 (h + relu(W_2 h))`."""

    def __init__(self) -> None:
        self.linear1, self.linear2 = tg.nn.Linear(40, 100), tg.nn.Linear(100, 100)
        self.linear3 = tg.nn.Linear(100, 10)

    def forward(self, x):
        h = tg.relu(self.linear1(x))
        return self.linear3(h + tg.relu(self.linear2(h)))


class CNN(tg.nn.Module):
    """Three convolutions that halve the length, and a linear map of all that is left."""

    def __init__(self, channels: int = 25) -> None:
        self.conv1 = tg.nn.Conv1d(1, channels, 5, stride=2, padding=1)
        self.conv2 = tg.nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        self.conv3 = tg.nn.Conv1d(channels, channels, 3, stride=2, padding=1)
        self.linear = tg.nn.Linear(5 * channels, 10)

    def forward(self, x):
        h = x.unsqueeze(1)  # [B, 40] -> [B, 1, 40]
        for conv in (self.conv1, self.conv2, self.conv3):
            h = tg.relu(conv(h))
        return self.linear(h.flatten(1))


class BothWays(tg.nn.Module):
    """A recurrent layer in both directions, and a linear map of all its outputs, as the authors' GRU has it."""

    def __init__(self, cell: Callable[[int, int], tg.nn.Cell], hidden: int = 6) -> None:
        self.recurrent = tg.nn.Stack(lambda size: cell(size, hidden), 1, 1, batch_first=True, bidirectional=True)
        self.linear = tg.nn.Linear(40 * 2 * output_width(self.recurrent.cells[0]), 10)

    def forward(self, x):
        y, _ = self.recurrent(x.unsqueeze(2))  # [B, 40] -> [B, 40, 1] -> [B, 40, 2 H]
        return self.linear(y.flatten(1))


class Causal(tg.nn.Module):
    """A temporal convolutional network, and a linear map of its last step, which sees all of the curve."""

    def __init__(self, channels: int = 13, blocks: int = 3, kernel_size: int = 5) -> None:
        self.tcn = tg.nn.TCN(1, [channels] * blocks, kernel_size, dropout=0.0, strict=True)
        self.linear = tg.nn.Linear(channels, 10)

    def forward(self, x):
        return self.linear(self.tcn(x.unsqueeze(1))[:, :, -1])


class Attention(tg.nn.Module):
    """A layer of a transformer over pieces of the curve that know where they stand; a linear map of their mean."""

    def __init__(self, size: int = 24, heads: int = 4, inner: int = 48, width: int = 5, stride: int = 2) -> None:
        self.pieces = tg.nn.Conv1d(1, size, width, stride=stride)
        self.positions = tg.nn.SinusoidalPositions(size, batch_first=True)
        self.layer = tg.nn.TransformerEncoderLayer(
            size, heads, inner, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = tg.nn.LayerNorm(size)
        self.linear = tg.nn.Linear(size, 10)

    def forward(self, x):
        pieces = self.pieces(x.unsqueeze(1)).transpose(1, 2)  # [B, 40] -> [B, pieces, size]
        return self.linear(self.norm(self.layer(self.positions(pieces))).mean(1))


class Published(NamedTuple):
    """Per cent right, as the authors' README and the last line of their notebook's run say, and a band around both."""

    readme: float
    notebook: float
    band: tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """A model, and what is known of it.

    Attributes:
        label: its name in tables and pictures.
        make: the model.
        lr: learning rate of Adam.
        ordered, shuffled: what is published of it for both kinds of curves.
    """

    label: str
    make: Callable[[], tg.nn.Module]
    lr: float = 1e-2
    ordered: Published | None = None
    shuffled: Published | None = None


RECIPES = {
    "linear": Recipe(
        "linear", lambda: tg.nn.Linear(40, 10),
        ordered=Published(32, 31.5, (31, 33)), shuffled=Published(32, 31.5, (31, 33)),
    ),
    "mlp": Recipe("MLP", MLP, ordered=Published(68, 65.1, (64, 69)), shuffled=Published(68, 66.0, (64, 69))),
    "cnn": Recipe("CNN", CNN, ordered=Published(94, 92.3, (91, 95)), shuffled=Published(56, 58.7, (50, 60))),
    "gru": Recipe(
        "GRU", lambda: BothWays(cells.GRUCell),
        ordered=Published(91, 89.1, (88, 92)), shuffled=Published(57, 53.3, (50, 60)),
    ),
    "slstm": Recipe("sLSTM", lambda: BothWays(cells.SLSTMCell)),
    "tcn": Recipe("TCN", Causal),
    "attention": Recipe("attention", Attention, lr=3e-3),
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of that name; that of another cell is the GRU's."""
    return RECIPES.get(name) or Recipe(label(name), lambda: BothWays(lambda I, H: cells.make(name, I, H)))


# ---- Learning --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one model with one seed.

    Attributes:
        steps: updates at each test.
        learned, tested: the share in per cent that it told apart of what it learned from, and of the test.
        answers: what it says of the test's curves at the end.
        seconds: of processor time.
    """

    model: str
    seed: int
    parameters: int
    steps: list[int] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)
    tested: list[float] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    seconds: float = 0.0


def answers(model: tg.nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with tg.no_grad():
        found = model(tg.tensor(x)).numpy().argmax(1)
    model.train()
    return found


def learn(name: str, seed: int, data: Data, options: argparse.Namespace) -> Result:
    """Train one model as its recipe says."""
    began, how = time.process_time(), recipe(name)
    tg.manual_seed(seed)
    try:
        model = how.make()
    except ValueError as error:  # such as sizes that a cell cannot have
        raise Refusal(f"{name}: {error}") from None
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr or how.lr)
    result = Result(name, seed, sum(p.numel() for p in model.parameters()))
    said = f"{how.label:<12} seed {seed}"
    with tqdm(total=options.steps + 1, desc=said, unit="step", mininterval=0.5 if sys.stderr.isatty() else 10) as bar:
        for step in range(options.steps + 1):
            first = step * BATCH % len(data.x)
            loss = tg.cross_entropy(model(tg.tensor(data.x[first : first + BATCH])), data.y[first : first + BATCH])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            bar.update()
            if step % EVERY == 0 or step == options.steps:
                test = answers(model, data.x_test)
                result.steps.append(step)
                result.learned.append(float(100 * (answers(model, data.x) == data.y).mean()))
                result.tested.append(float(100 * (test == data.y_test).mean()))
                bar.set_postfix_str(f"{result.tested[-1]:.1f} % right")
    result.answers = test.tolist()
    result.seconds = time.process_time() - began
    return result


# ---- What comes out of it --------------------------------------------------------------------------------------------


def published(name: str, shuffled: bool) -> Published | None:
    return recipe(name).shuffled if shuffled else recipe(name).ordered


def table(results: list[Result], options: argparse.Namespace) -> str:
    """Accuracies after the last update, in Markdown: the mean of the seeds, the lowest and the highest."""
    lines = ["| | parameters | right (%) | seeds | published | band | minutes |", "|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(r.model for r in results):
        own = [r for r in results if r.model == name]
        last, minutes = [r.tested[-1] for r in own], np.mean([r.seconds for r in own]) / 60
        known = published(name, options.shuffled)
        figures = f"{known.readme}, {known.notebook} | {known.band[0]} to {known.band[1]}" if known else " | "
        lines.append(
            f"| {recipe(name).label} | {own[0].parameters:,} | {np.mean(last):.1f} "
            f"| {min(last):.1f} to {max(last):.1f} | {figures} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def verdict(results: list[Result], options: argparse.Namespace) -> list[str]:
    """A sentence for every published figure that was missed, or one that none was."""
    means = {name: np.mean([r.tested[-1] for r in results if r.model == name]) for name in (r.model for r in results)}
    bands = {name: known.band for name in means if (known := published(name, options.shuffled))}
    missed = [
        f"{recipe(name).label} is at {means[name]:.1f} %, outside of {low} to {high}: published figures are missed"
        for name, (low, high) in bands.items()
        if not low - 0.05 <= means[name] <= high + 0.05
    ]
    kept = f"As published, or nearly: {', '.join(recipe(name).label for name in bands)}."
    return missed or [kept] * bool(bands)


def confusion(results: list[Result], y: np.ndarray) -> np.ndarray:
    """How often digit i was taken for j, in per cent of the i; over all seeds of the model that did best."""
    counts = np.zeros((10, 10))
    for r in results:
        np.add.at(counts, (y, np.array(r.answers)), 1)
    return 100 * counts / counts.sum(axis=1, keepdims=True)


def best(results: list[Result]) -> list[Result]:
    """The results of the model with the highest mean."""
    names = list(dict.fromkeys(r.model for r in results))
    top = max(names, key=lambda name: np.mean([r.tested[-1] for r in results if r.model == name]))
    return [r for r in results if r.model == top]


STROKES = ["-", "--", "-.", ":", (0, (6, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1))]


def draw(results: list[Result], data: Data, options: argparse.Namespace, path: Path) -> None:
    """Curves of each digit; accuracy against updates, and at the end with published bands; confusions of the best."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r.model for r in results))
    colours = dict(zip(names, colormaps["cividis"](np.linspace(0, 0.88, len(names)))))
    figure = Figure(figsize=(10, 9.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 3.6))
    panels = bottom.subplots(2, 2, width_ratios=(1.15, 1))
    draw_curves(top, data)
    draw_learning(panels[0, 0], results, names, colours)
    draw_bars(panels[0, 1], results, names, colours, options.shuffled)
    draw_confusion(panels[1, 0], best(results), data.y_test)
    draw_confused(panels[1, 1], best(results), data)
    save(figure, path)


def draw_curves(figure, data: Data) -> None:
    """Three test curves of each digit."""
    panels = figure.subplots(1, 10, sharex=True, sharey=True)
    for digit, panel in enumerate(panels):
        for k, x in enumerate(data.x_test[data.y_test == digit][:3]):
            panel.plot(x + 5 * k, np.arange(len(x)), color="0.15", lw=1)
        panel.set(title=str(digit), xticks=[], yticks=[])
        panel.invert_yaxis()
        panel.spines[:].set_visible(False)
    panels[0].set_ylabel("time →", rotation=270, labelpad=14)
    figure.suptitle("Three curves of each digit, downwards in time", fontsize=11)


def draw_learning(axes, results: list[Result], names: list[str], colours: dict) -> None:
    """What is wrong, as the mean over the seeds, within what they span; its logarithm, for the good are close."""
    ticks = [5, 7, 10, 15, 20, 30, 50, 70, 100]
    for name, stroke in zip(names, STROKES * len(names)):
        wrong = 100 - np.array([r.tested for r in results if r.model == name])
        steps = next(r.steps for r in results if r.model == name)
        axes.plot(steps, wrong.mean(axis=0), ls=stroke, color=colours[name], lw=1.7, label=recipe(name).label)
        axes.fill_between(steps, wrong.min(axis=0), wrong.max(axis=0), color=colours[name], alpha=0.18, lw=0)
    axes.set(xlabel="updates", ylabel="wrong on the test (%)", yscale="log", title="Learning")
    axes.set_yticks(ticks, map(str, ticks))
    axes.set_yticks([], minor=True)
    axes.set_ylim(max(0.8 * min(100.5 - max(r.tested) for r in results), 1), 105)
    below = dict(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
    axes.legend(**below, ncols=4, columnspacing=1, handlelength=3.2)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes, results: list[Result], names: list[str], colours: dict, shuffled: bool) -> None:
    """Mean accuracies, a dot for each seed, and a bracket for each published band."""
    for k, name in enumerate(names):
        last = [r.tested[-1] for r in results if r.model == name]
        axes.barh(k, np.mean(last), color=colours[name], height=0.62, alpha=0.85)
        axes.plot(last, [k] * len(last), "o", color="w", mec="k", ms=4, mew=0.8)
        axes.text(3, k, f"{np.mean(last):.1f}", va="center", color="w" if k < 0.6 * len(names) else "k", fontsize=9)
        if known := published(name, shuffled):
            box = dict(facecolor="none", edgecolor="crimson", lw=1.6, zorder=3)
            axes.fill_betweenx([k - 0.42, k + 0.42], *known.band, **box)
    axes.plot([], [], "s", mfc="none", mec="crimson", mew=1.6, label="around what is published")
    axes.plot([], [], "o", color="w", mec="k", ms=4, label="a seed")
    axes.axvline(HUMAN, color="k", ls=":", lw=1, label="people" + (", unshuffled" if shuffled else ""))
    axes.set_yticks(range(len(names)), [recipe(name).label for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="right on the test (%)", title="After the last update")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=3, columnspacing=1, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_confusion(axes, own: list[Result], y: np.ndarray) -> None:
    shares = confusion(own, y)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share >= 0.5:
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", color="w" if share > 50 else "k", fontsize=8)
    axes.set(xticks=range(10), yticks=range(10), xlabel="taken for", ylabel="digit")
    axes.set_title(f"What {recipe(own[0].model).label} takes for what (% of a digit)")


def draw_confused(axes, own: list[Result], data: Data) -> None:
    """Curves that every seed of the best got wrong, with what they are and what the first seed says."""
    said = np.array([r.answers for r in own])
    wrong = np.flatnonzero((said != data.y_test).all(axis=0))[:8]
    for k, row in enumerate(wrong):
        right, down = 48 * (k % 4), 3 * (k // 4)
        x = data.x_test[row]
        axes.plot(right + np.arange(len(x)), x / np.abs(x).max() - down, color="0.15", lw=1.2)
        axes.text(right, 1.2 - down, f"{data.y_test[row]}, taken for {said[0, row]}", fontsize=8)
    axes.set(xticks=[], yticks=[], ylim=(-4.2, 1.7), title=f"Curves that {recipe(own[0].model).label} gets wrong")
    axes.spines[:].set_visible(False)


# ---- The command line ------------------------------------------------------------------------------------------------


def known(text: str) -> str:
    """The name of a model, or of a cell that takes the GRU's place."""
    if text in RECIPES:
        return text
    try:
        return cell_named(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; models are {', '.join(RECIPES)}") from None


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    shown = f"(default: {' '.join(RECIPES)}), or cells in the GRU's place: {ANY_CELL}"
    add("--models", type=known, nargs="+", metavar="MODEL", help=shown)
    add("--seed", type=number(int, 0), default=0, help="of the weights (default: 0)")
    add("--seeds", type=count, default=1, help="how many runs, with this seed and those after it (default: 1)")
    add("--steps", type=count, default=STEPS, help=f"the number of the last update (default: {STEPS})")
    add("--lr", type=number(float, 0.0), help="learning rate of Adam (default: the model's own)")
    add("--shuffled", action="store_true", help="all curves with their numbers in one other order")
    add("--validate", action="store_true", help="test on the last fifth of what there is to learn from: to choose by")
    add("--music", type=Path, metavar="FILE", help="train on the piano rolls of a .mat or .npz instead")
    add("--epochs", type=count, default=music.EPOCHS, help=f"of --music (default: {music.EPOCHS})")
    add("--hidden", type=count, help="units or channels, of --music (default: the model's own)")
    add("--quick", action="store_true", help="a few updates on curves that stand in for MNIST-1D, to see that it runs")
    add("--out", type=Path, default=HERE / "runs" / "compare", metavar="FOLDER", help="where results go")
    return parser


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    if options.music:
        return music.main(options)
    chosen = options.models or list(RECIPES)
    data = stand_in() if options.quick else mnist1d()
    data = data.shuffled() if options.shuffled else data
    data = data.held_out() if options.validate else data
    if options.quick:
        options.steps = min(options.steps, 20)
    seeds = range(options.seed, options.seed + options.seeds)
    results = [learn(name, seed, data, options) for name in chosen for seed in seeds]
    name = "compare_shuffled" if options.shuffled else "compare"
    print(f"\n{table(results, options)}\n")
    if options.quick:
        print("curves that stand in for MNIST-1D: no figure of these means anything")
    elif options.validate:
        print("on the last fifth of the 4,000 curves to learn from; the others were learned from")
    else:
        print(*(verdict(results, options) if options.steps == STEPS else []), sep="\n")
    print(f"{sum(r.seconds for r in results):.0f} s of processor time; {options.out / name}.png")
    (options.out / f"{name}.json").write_text(json.dumps([asdict(r) for r in results]))
    draw(results, data, options, options.out / f"{name}.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except (Refusal, OSError) as error:
        sys.exit(f"compare.py: {error}")
