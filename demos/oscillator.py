"""What a nerve cell does next, by networks that see only its voltage: `python demos/oscillator.py`.

The FitzHugh-Nagumo model of a nerve cell has a voltage v that jumps in an instant and then creeps, while a slow
variable w, which nobody shows the network, recovers:

    dv/dt = v - v^3 / 3 - w + I,    dw/dt = epsilon (v + a - b w),    epsilon = 1/50, a = 0.7, b = 0.8, I = 0.5

128 of them start from voltages between -1 and 1; 1,000 steps of 0.4 each are to be followed, and at every step the next
voltage to be named. This is how long expressive memory (LEM) was tried by its authors (Rusch et al., 2022), and recipe
and numbers are those of their code (tk-rusch/LEM, src/FitzHughNagumo): 16 units, Adam at 0.00904, batches of 32, 400
passes; what is best on 128 other nerve cells is tested on 1,024 more. Their data are solve_ivp's, with errors of about
a thousandth; here a Runge-Kutta method of order four takes 16 steps in the place of each, with errors below 1e-6.

Two rules that learn nothing stand beside: the voltage stays, or it goes on as it went. At last each network is left
alone: after 300 steps it is fed what it has named itself. What is left in `--out` are a picture and the numbers.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from shared import ANY_CELL, add_common, cell_named, fill, number, save
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells, init

EPSILON, A, B, CURRENT = 1 / 50, 0.7, 0.8, 0.5
STEP = 0.4  # of time, between what is seen
DEFAULTS = dict(cells=["lem", "lstm", "gru"], hidden=16, epochs=400, batch=32, sequences=128, tests=1024, steps=1000)
QUICK = dict(cells=["lem", "lstm"], hidden=4, epochs=3, batch=4, sequences=8, tests=8, steps=60)
PUBLISHED = {"lem": 0.002, "cornn": 0.004, "lstm": 0.012}  # Rusch et al., 2022
KNOWN = 300  # steps that a network sees before it is left alone


# ---- The nerve cells -------------------------------------------------------------------------------------------------


def slopes(v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dv/dt and dw/dt."""
    return v - v**3 / 3 - w + CURRENT, EPSILON * (v + A - B * w)


def runge_kutta(v: np.ndarray, w: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Where v and w are a time h later: the classic method, of order four."""
    dv1, dw1 = slopes(v, w)
    dv2, dw2 = slopes(v + h / 2 * dv1, w + h / 2 * dw1)
    dv3, dw3 = slopes(v + h / 2 * dv2, w + h / 2 * dw2)
    dv4, dw4 = slopes(v + h * dv3, w + h * dw3)
    return v + h / 6 * (dv1 + 2 * dv2 + 2 * dv3 + dv4), w + h / 6 * (dw1 + 2 * dw2 + 2 * dw3 + dw4)


def nerve(v: np.ndarray, steps: int, between: int = 16) -> np.ndarray:
    """v and w of nerve cells that start from voltages v [N] and w = 0: [steps + 1, N, 2]."""
    w, seen = np.zeros_like(v), [np.stack([v, np.zeros_like(v)], -1)]
    for _ in range(steps):
        for _ in range(between):
            v, w = runge_kutta(v, w, STEP / between)
        seen.append(np.stack([v, w], -1))
    return np.array(seen)


def voltages(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
    """[steps + 1, count, 1] in float32: those of nerve cells that start anywhere between -1 and 1."""
    return nerve(rng.uniform(-1, 1, count), steps)[:, :, :1].astype(np.float32)


def rms(errors: np.ndarray) -> float:
    """The root of their mean square."""
    return float(np.sqrt(np.square(errors.astype(np.float64)).mean()))


def rules(v: np.ndarray) -> dict[str, float]:
    """The root mean squared errors of two rules that learn nothing."""
    return {"it stays": rms(v[1:] - v[:-1]), "it goes on": rms(v[2:] - 2 * v[1:-1] + v[:-2])}


# ---- Learning --------------------------------------------------------------------------------------------------------


class Model(tg.nn.Module):
    """A layer, and a linear map of its output at every step."""

    def __init__(self, cell: str, hidden: int) -> None:
        self.layer = tg.nn.Recurrent(cells.make(cell, 1, hidden))
        with tg.no_grad():
            width = self.layer.cell.begin(None, 1)[0].shape[-1]
        self.head = tg.nn.Linear(width, 1)
        init.kaiming_normal_(self.head.weight)

    def forward(self, v, states=None):
        y, states = self.layer(v, states)
        return self.head(y), states

    def errors(self, v: np.ndarray) -> np.ndarray:
        """By how much it misses the next voltages v[1:], [T, N, 1]."""
        with tg.no_grad():
            return self(v[:-1])[0].numpy() - v[1:]

    def left_alone(self, v: np.ndarray, known: int) -> np.ndarray:
        """What it names as the voltages v[1:] [T, N, 1] when it sees the first `known`, and then what it has named."""
        with tg.no_grad():
            named, states = self(v[:known])
            found = [*named.numpy()]
            while len(found) < len(v) - 1:
                named, states = self(found[-1][None], states)
                found.append(named.numpy()[0])
        return np.array(found)


@dataclass
class Result:
    """What came of one cell.

    Attributes:
        validation: the root mean squared error after each pass.
        test: that of the best pass, on nerve cells that decided nothing.
        astray: whether training ended with a loss that was not finite.
        seconds: of processor time.
        by_step: the root mean squared error over the test's nerve cells at each step.
        alone: of one nerve cell, what the network names when left alone.
    """

    cell: str
    label: str
    seed: int
    parameters: int
    validation: list[float] = field(default_factory=list)
    test: float = math.nan
    astray: bool = False
    seconds: float = 0.0
    by_step: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


def learn(cell: str, seed: int, data: tuple[np.ndarray, ...], options: argparse.Namespace) -> Result:
    """Train, and test what was best on the validation's nerve cells."""
    began, (training, validation, test) = time.process_time(), data
    tg.manual_seed(seed)
    rng, model = np.random.default_rng([seed, 3]), Model(cell, options.hidden)
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr)
    label = type(model.layer.cell).__name__.removesuffix("Cell")
    result, best = Result(cell, label, seed, sum(p.numel() for p in model.parameters())), model.state_dict()
    with tqdm(total=options.epochs, desc=f"{label:<8} seed {seed}", unit="pass", mininterval=0.5) as bar:
        while len(result.validation) < options.epochs:
            for some in np.array_split(rng.permutation(options.sequences), -(-options.sequences // options.batch)):
                v = training[:, some]
                loss = tg.mse_loss(model(v[:-1])[0], v[1:])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            result.validation.append(rms(model.errors(validation)))
            if not math.isfinite(result.validation[-1]):
                result.astray = True
                break
            if result.validation[-1] == min(result.validation):
                best = {name: array.copy() for name, array in model.state_dict().items()}
            bar.update()
            bar.set_postfix_str(f"error {result.validation[-1]:.4f}")
    model.load_state_dict(best)
    errors = model.errors(test)
    result.test, result.by_step = rms(errors), np.sqrt(np.square(errors).mean((1, 2))).tolist()
    result.alone = model.left_alone(test[:, :1], min(KNOWN, options.steps // 2)).ravel().tolist()
    result.seconds = time.process_time() - began
    return result


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(results: list[Result], baselines: dict[str, float]) -> str:
    """The test errors, in Markdown; a cell with several seeds has several numbers."""
    rows = [["", "parameters", "RMSE of the next voltage", "published", "processor seconds"]]
    rows += [[name, "0", f"{error:.4f}", "", ""] for name, error in baselines.items()]
    for cell in dict.fromkeys(r.cell for r in results):
        own = [r for r in results if r.cell == cell]
        errors = ", ".join("astray" if r.astray else f"{r.test:.5f}" for r in own)
        published = f"{PUBLISHED[cell]:.3f}" if cell in PUBLISHED else ""
        rows.append([own[0].label, f"{own[0].parameters:,}", errors, published,
                     f"{np.mean([r.seconds for r in own]):.0f}"])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def draw_picture(results: list[Result], baselines: dict[str, float], v: np.ndarray, path: Path) -> None:
    """The learning, the phase plane, one nerve cell and the networks left alone, and where in time the errors are."""
    from matplotlib.figure import Figure

    first = [r for r in results if r.seed == results[0].seed and not r.astray]
    looks = looks_of(results)
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    panels = figure.subplot_mosaic([["learning", "plane"], ["alone", "alone"], ["errors", "errors"]],
                                   height_ratios=[1.35, 1, 0.8])  # fmt: skip
    draw_learning(panels["learning"], results, looks, baselines)
    draw_plane(panels["plane"])

    t, known = np.arange(1, len(v)), min(KNOWN, (len(v) - 1) // 2)
    panel = panels["alone"]
    panel.axvspan(0, known, color="0.93", lw=0)
    panel.plot(t, v[1:, 0], color="0.55", lw=3, label="the nerve cell")
    for r in first:
        panel.plot(t[known:], r.alone[known:], **looks[r.cell] | dict(lw=1.3), label=f"{r.label}, left alone")
    panel.set(ylabel="voltage v", xlim=(0, len(v) - 1), title="After the grey part each network is fed what it says")
    panel.legend(frameon=False, ncols=len(first) + 1, loc="lower center", bbox_to_anchor=(0.5, -0.38), fontsize=9)
    panel = panels["errors"]
    for r in first:
        panel.plot(t, r.by_step, **looks[r.cell] | dict(lw=1.2))
    panel.set(yscale="log", xscale="log", xlim=(1, len(v) - 1), xlabel="step", ylabel="RMSE")
    panel.set_title("The next voltage, step by step: on all nerve cells of the test")
    for panel in panels.values():
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def looks_of(results: list[Result]) -> dict[str, dict]:
    """A colour and a stroke for each cell, of which the colours differ in grey too."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(r.cell for r in results))
    shades = colormaps["inferno"](np.linspace(0.15, 0.75, max(len(names), 2)))
    strokes = "-", "--", "-.", ":"
    return {name: dict(color=shade, ls=strokes[n % 4]) for n, (name, shade) in enumerate(zip(names, shades))}


def draw_learning(panel, results: list[Result], looks: dict[str, dict], baselines: dict[str, float]) -> None:
    """Errors of validation against passes; thin lines are other seeds."""
    for r in results:
        main = r.seed == results[0].seed
        style = looks[r.cell] | dict(lw=1.6 if main else 0.7, alpha=1 if main else 0.6)
        panel.plot(np.arange(1, len(r.validation) + 1), r.validation, **style, label=r.label if main else None)
    last = max(len(r.validation) for r in results)
    for name, error in baselines.items():
        panel.axhline(error, color="0.6", lw=0.8, zorder=0)
        panel.text(last, error * 1.04, name, color="0.4", fontsize=8, ha="right")
    for cell in dict.fromkeys(r.cell for r in results if r.cell in PUBLISHED):
        panel.plot([1.01], [PUBLISHED[cell]], "<", color=looks[cell]["color"], ms=7, clip_on=False, zorder=3,
                   transform=panel.get_yaxis_transform())  # fmt: skip
    panel.plot([], [], "<", color="0.3", ms=6, ls="none", label="published")
    panel.set(yscale="log", xlabel="pass over 128 nerve cells", ylabel="RMSE of the next voltage", xlim=(0, last))
    panel.set_title("On nerve cells never trained on")
    panel.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)


def draw_plane(panel) -> None:
    """Trajectories in v and w, and where either of them stands still."""
    for path in nerve(np.linspace(-1, 1, 6), 400).swapaxes(0, 1):
        panel.plot(*path.T, color="0.45", lw=0.9)
        panel.plot(*path[0], "o", color="0.2", ms=4)
    v = np.linspace(-2.3, 2.3, 200)
    panel.plot(v, v - v**3 / 3 + CURRENT, ls="--", color="tab:blue", lw=1.3, label="dv/dt = 0")
    panel.plot(v, (v + A) / B, ls=":", color="tab:red", lw=1.6, label="dw/dt = 0")
    cycle = nerve(np.array([0.0]), 1000)[600:, 0]
    panel.plot(*cycle.T, color="k", lw=2.2, label="where they all end")
    panel.set(xlim=(-2.4, 2.4), ylim=(-0.5, 2.1), xlabel="voltage v, seen", ylabel="recovery w, unseen")
    panel.set_title("Six nerve cells in the plane")
    panel.legend(frameon=False, fontsize=9, loc="upper left")


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    shown = f"{ANY_CELL} (default: {' '.join(DEFAULTS['cells'])})"
    add("--cells", type=cell_named, nargs="+", metavar="CELL", help=shown)
    for option, meaning in (
        ("hidden", "H"), ("epochs", "passes"), ("batch", "B"), ("sequences", "nerve cells to learn from"),
        ("tests", "nerve cells of the test"), ("steps", "T"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--lr", type=number(float, 0.0), default=9.04e-3, help="learning rate of Adam (default: 0.00904)")
    add_common(parser, "nerve cells", "a few short passes")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    results, shown = [], None
    for seed in range(options.seed, options.seed + options.seeds):
        rng = np.random.default_rng([seed, 2])
        counts = (options.sequences, options.sequences, options.tests)
        data = tuple(voltages(rng, count, options.steps) for count in counts)
        shown = data[2] if shown is None else shown
        results += [learn(cell, seed, data, options) for cell in options.cells]
    baselines = rules(shown)
    print(f"\n{table(results, baselines)}\n")
    print("published: Rusch et al., 2022; the authors' own log of LEM ends at 0.00238")
    for r in results:
        early = np.square(r.by_step[:10]).sum() / np.square(r.by_step).sum()
        print(
            f"seed {r.seed}, {r.label}: {early:.0%} of the squared error in the first 10 steps; after them "
            f"{rms(np.array(r.by_step[10:])):.5f}"
        )
    numbers = dict(baselines=baselines, results=[asdict(r) for r in results])
    (options.out / "oscillator.json").write_text(json.dumps(numbers))
    draw_picture(results, baselines, shown[:, 0], options.out / "oscillator.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"oscillator.py: {error}")
