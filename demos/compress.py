"""A trained character model with fewer parameters: `python demos/compress.py`.

It takes the checkpoint that `char_lm.py` left (and trains it first if there is none), cuts the LSTM's recurrent matrix
to some ranks by singular values (Prabhavalkar et al., 2016: `tg.nn.utils.compress`), and trains each on for one pass
over the text. What is left in `--out` is a picture; what is printed, a table: parameters, bits per character on the
held-out text before and after that pass, and the time of a training step beside that of the whole model.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import char_lm
import numpy as np
from tqdm import tqdm

import tinygrad_rnn as tg


class Row(NamedTuple):
    """What a model of one rank came to.

    Attributes:
        rank: how many numbers its LSTM passes on.
        parameters: of the whole model.
        explained: the share of the squares of singular values that was kept.
        before, after: bits per character of held-out text, cut and then trained on.
        step: the time of a training step, divided by that of the whole model.
    """

    rank: int
    parameters: int
    explained: float
    before: float
    after: float
    step: float


def parameters(model: tg.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cut(run: char_lm.Run, rank: int, lr: float, steps: int) -> char_lm.Run:
    """A run of the same model with an LSTM of a rank, to be trained for some steps."""
    small = copy.copy(run)
    small.model = copy.deepcopy(run.model)
    small.model.recurrent, small.model.scores = tg.nn.utils.compress(
        run.model.recurrent, rank, head=run.model.scores
    )
    small.optimiser = tg.optim.Adam(small.model.parameters(), lr=lr)
    small.settings = run.settings | dict(lr=lr, steps=steps)
    small.step, small.state, small.losses, small.norms, small.checks = 0, None, [], [], []
    return small


def explained(run: char_lm.Run, rank: int) -> float:
    s = np.linalg.svd(run.model.recurrent.weight_hh_l0.numpy(), compute_uv=False)
    return float((s[:rank] ** 2).sum() / (s**2).sum())


def step_ratio(run: char_lm.Run, small: char_lm.Run, x: np.ndarray, y: np.ndarray, rounds: int) -> float:
    """The time of a training step of the small model by that of the whole one: the median of pairs."""

    def seconds(of: char_lm.Run) -> float:
        start = time.perf_counter()
        scores, _ = of.model(x[: of.settings["length"]])
        char_lm.loss_in_bits(scores, y[: of.settings["length"]]).backward()
        of.model.zero_grad()
        return time.perf_counter() - start

    for each in (run, small, run, small):  # both compile first
        seconds(each)
    return statistics.median(seconds(small) / seconds(run) for _ in range(rounds))


def draw(rows: list[Row], whole: tuple[int, float], path: Path) -> None:
    """Bits against parameters, before and after training on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = [row.parameters for row in rows]
    axes.plot(sizes, [row.before for row in rows], "o--", color="0.55", label="cut")
    axes.plot(sizes, [row.after for row in rows], "s-", color="tab:blue", label="cut, then trained for one pass more")
    axes.plot(*whole, "*", color="tab:red", ms=14, label="the whole model")
    for row in rows:
        place = dict(xytext=(4, -15), textcoords="offset points", ha="right")  # the line goes on to the right
        axes.annotate(f"rank {row.rank}", (row.parameters, row.after), **place)
    axes.set(xlabel="parameters", ylabel="bits per character of held-out text", title="An LSTM's recurrent matrix, cut")
    axes.xaxis.set_major_formatter(lambda n, _: f"{n / 1000:,.0f}k")
    axes.margins(0.12)
    axes.legend()
    figure.savefig(path, dpi=120)


def table(rows: list[Row], whole: tuple[int, float]) -> str:
    head = f"{'rank':>6}{'parameters':>12}{'kept':>8}{'cut':>9}{'trained on':>12}{'time of a step':>16}"
    lines = [f"{'all':>6}{whole[0]:>12,}{'100 %':>8}{'':>9}{whole[1]:>12.3f}{'1.00':>16}"]
    lines += [
        f"{r.rank:>6}{r.parameters:>12,}{r.explained:>8.1%}{r.before:>9.3f}{r.after:>12.3f}{r.step:>16.2f}"
        for r in rows
    ]
    return "\n".join(["held-out text in bits per character", head, *lines])


def whole_run(options: argparse.Namespace, text: str) -> char_lm.Run:
    """The run whose model is to be cut: a finished one, or one that is trained now."""
    if options.checkpoint:
        return char_lm.Run.load(options.checkpoint)
    settings = char_lm.DEFAULTS | (dict(hidden=24, steps=30, batch=4, length=16, every=30) if options.quick else {})
    run = char_lm.Run(settings | dict(seed=options.seed), "".join(sorted(set(text))), "")
    learned, held_out = char_lm.split(text, run.vocabulary)
    char_lm.train(run, learned, held_out, options.out / "checkpoint.safetensors", 0.8)
    return run


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compress.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", help="of char_lm.py, with an LSTM of one layer; none: train one")
    add("--ranks", type=int, nargs="+", metavar="N", help="default: an eighth, a quarter and a half of the units")
    add("--text", type=Path, default=char_lm.HERE / "data" / "shakespeare.txt", metavar="FILE", help="UTF-8 text")
    add("--passes", type=float, default=1.0, help="over the text, to train on for (default: 1)")
    add("--lr", type=float, default=2e-3, help="learning rate of Adam meanwhile, which falls to zero (default: 2e-3)")
    add("--seed", type=int, default=0, help="of the model that is trained, and of dropout")
    add("--out", type=Path, default=char_lm.HERE / "runs" / "compress", metavar="FOLDER", help="where results go")
    add("--quick", action="store_true", help="a tiny model for a moment: only to see that it works")
    return parser


def main(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    text = char_lm.read(options.text)
    text = text[:6000] if options.quick else text
    run = whole_run(options, text)
    tg.manual_seed(options.seed)
    if not isinstance(run.model.recurrent, tg.nn.LSTM) or run.model.recurrent.num_layers > 1:
        raise char_lm.Refusal("this takes an LSTM of one layer: train with char_lm.py --cell lstm --layers 1")
    learned, held_out = char_lm.split(text, run.vocabulary)
    x, y = char_lm.streams(learned, run.settings["batch"])
    hidden, rows = run.settings["hidden"], []
    whole = parameters(run.model), run.checks[-1][1]
    steps = max(round(options.passes * (len(x) // run.settings["length"])), 1)
    steps = min(steps, 5) if options.quick else steps
    ranks = options.ranks or [hidden // 8, hidden // 4, hidden // 2]
    with tqdm(total=steps * len(ranks), unit="step", mininterval=0.5 if sys.stderr.isatty() else 10) as bar:
        for rank in ranks:
            small = cut(run, rank, options.lr, steps)
            bar.set_description(f"rank {rank}")
            small.check(held_out)
            for _ in range(steps):
                small.learn(x, y)
                bar.update()
            small.check(held_out)
            (_, before), (_, after) = small.checks
            ratio = step_ratio(run, small, x, y, 3 if options.quick else 30)
            rows.append(Row(rank, parameters(small.model), explained(run, rank), before, after, ratio))
    draw(rows, whole, options.out / "compress.png")
    print(f"\n{table(rows, whole)}\n\n{options.out / 'compress.png'}")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except (char_lm.Refusal, ValueError, tg.CheckpointError, OSError) as error:
        sys.exit(f"compress.py: {error}")
