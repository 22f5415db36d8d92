"""Which recurrent cells can count to two: `python demos/state_tracking.py`.

Bits arrive one at a time: has there been an odd number of ones so far? One bit of memory is enough, if a cell can turn
it over. Some cells can, and are right for ever; others cannot, however long they are trained, and guess on all that is
longer than what they were trained on (Beck et al., 2024; Grazzi et al., 2024).

    trained     on sequences of 3 to 40 bits, asked after every bit (`--ask last`: after the last one alone, as the
                authors of the sLSTM do, who take ten times as many updates)
    tested      on others of up to 256 bits; it has learnt it who is right 99 times in 100 after 40 to 256 of them
    by hand     for some cells there are weights that need no training: one or two units, right for 10,000 bits

Every cell has two layers and sees the same sequences in the same order. What is left in `--out` are a picture, of the
accuracy against the number of bits and of what each makes of ones alone, and the numbers.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from shared import ANY_CELL, add_common, cell_named, fill, label, number, save
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

CELLS = "rnn", "gru", "lstm", "slstm", "mingru", "minlstm", "sru", "qrnn", "mlstm", "deltanet"
TRAINED, TESTED, SURE = (3, 40), (40, 256), 10_000  # bits
DEFAULTS = dict(updates=1200, hidden=32, batch=64, tests=1000)
QUICK = dict(updates=20, hidden=8, batch=16, tests=50)
LEARNT = 0.99


# ---- The task --------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, length: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits x [T, B, 2], 1 0 for a zero and 0 1 for a one; and after each whether there were an odd number, [T, B]."""
    bits = rng.integers(0, 2, (length, batch))
    return symbols(bits), bits.cumsum(0) % 2


def symbols(bits: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[bits]


class Model(tg.nn.Module):
    """Layers of a cell, and the scores of even and odd after every step."""

    def __init__(self, layers: list[tg.nn.Cell]) -> None:
        self.layers = tg.nn.ModuleList([tg.nn.Recurrent(cell) for cell in layers])
        self.scores = tg.nn.Linear(width(layers[-1]), 2)

    @classmethod
    def of(cls, name: str, hidden: int, layers: int) -> "Model":
        """One of a cell by name, as it starts by itself."""
        made = [cells.make(name, 2, hidden)]
        while len(made) < layers:
            made.append(cells.make(name, width(made[-1]), hidden))
        return cls(made)

    def forward(self, x):
        for layer in self.layers:
            x, _ = layer(x)
        return self.scores(x)

    def right(self, x: np.ndarray, odd: np.ndarray) -> np.ndarray:
        """The share of right answers after each step, [T]."""
        with tg.no_grad():
            return (self(x).numpy().argmax(-1) == odd).mean(1)


def width(cell: tg.nn.Cell) -> int:
    """Of what it hands on, which of some cells is not the size of the state."""
    with tg.no_grad():
        return cell.begin(None, 1)[0].shape[-1]


# ---- Weights that need no training -----------------------------------------------------------------------------------

K = 40.0  # so large that a sigmoid or tanh of it is 0 or 1 but for rounding
ZERO_ONE = np.array([-1.0, 1.0])  # what a weight matrix [., 2] makes of a zero and of a one: -1 and 1


def rnn_by_hand() -> Model:
    """Two units: (any of) the old answer and the bit, and both of them. The new answer is the one without the other.

        p = (h_1 - h_2) / 2,  h_1' = tanh(K (p + bit - 1/2)),  h_2' = tanh(K (p + bit - 3/2))
    """
    cell = cells.RNNCell(2, 2)
    assign(cell, weight_ih=[[0, K]] * 2, weight_hh=[[K / 2, -K / 2]] * 2, bias_ih=[-K / 2, -3 * K / 2], bias_hh=[0, 0])
    return read(cell, [1, -1], -1)


def gru_by_hand() -> Model:
    """One unit, -1 for even, or 0 at the start, and 1 for odd: a zero keeps it, a one writes tanh(K (1/2 - h))."""
    cell, bit = cells.GRUCell(2, 1), K * ZERO_ONE
    assign(cell, weight_ih=[0 * bit, -bit, 0 * bit], weight_hh=[[0], [0], [-K]], bias_ih=[K, 0, K / 2], bias_hh=[0] * 3)
    return read(cell, [1], -0.5)


def lstm_by_hand() -> Model:
    """One unit: a zero keeps c, a one writes tanh(K (s/2 - h)), which is -1 where h is s = tanh(1) and else 1."""
    cell, bit, s = cells.LSTMCell(2, 1), K * ZERO_ONE, np.tanh(1)
    inputs, states = [bit, -bit, 0 * bit, 0 * bit], [[0], [0], [-K], [0]]
    assign(cell, weight_ih=inputs, weight_hh=states, bias_ih=[0, 0, K * s / 2, K], bias_hh=[0] * 4)
    return read(cell, [1], -s / 2)


def slstm_by_hand() -> Model:
    """One unit, as that of the LSTM. What comes first is written even if it is a zero, and so z of a zero is -1."""
    cell, bit = cells.SLSTMCell(2, 1), K * ZERO_ONE
    inputs, states = [bit, -bit, [-3 * K, 0], 0 * bit], [[0], [0], [-K], [0]]
    assign(cell, weight_ih=inputs, weight_hh=states, bias=[0, 0, K / 2, K])
    return read(cell, [1], -0.5)


def assign(module: tg.nn.Module, **numbers) -> None:
    """Set all of its parameters."""
    parameters = dict(module.named_parameters())
    assert parameters.keys() == numbers.keys(), parameters.keys()
    for name, values in numbers.items():
        parameters[name].numpy()[:] = values


def read(cell: tg.nn.Cell, weights: list[float], bias: float) -> Model:
    """A model of one layer that says odd where weights . h + bias is positive."""
    model = Model([cell])
    assign(model.scores, weight=[[0.0] * len(weights), weights], bias=[0.0, bias])
    return model


BY_HAND: dict[str, Callable[[], Model]] = {
    "rnn": rnn_by_hand, "gru": gru_by_hand, "lstm": lstm_by_hand, "slstm": slstm_by_hand,
}  # fmt: skip


def right_by_hand(name: str, seed: int, steps: int = SURE, batch: int = 20) -> bool:
    """Whether weights that are set by hand give the right answer to every one of many sequences after every step."""
    return bool((BY_HAND[name]().right(*draw(np.random.default_rng([seed, 2]), steps, batch)) == 1).all())


# ---- Why some cannot -------------------------------------------------------------------------------------------------

# A layer above one that has come to rest gets the same input from then on, and comes to rest in its turn.
REASONS = {
    "mingru": "h goes a part of the way to a target, and the input alone sets both: in a run of ones h comes to rest",
    "minlstm": "as minGRU",
    "qrnn": "as minGRU",
    "sru": "c decides how far it goes towards the input's target, never past it: in a run of ones it comes to rest",
    "mlstm": "C decays and adds up as the input alone says: in a run of ones it goes straight to a limit",
    "deltanet": "a part (beta < 1) of what a key finds is replaced, not turned over: in a run of ones S comes to rest",
}


# ---- Learning --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one cell and seed.

    Attributes:
        right: the share of right answers after each of up to 256 bits.
        ones: after each of up to 64 ones and no zero: by how much the score of odd is the higher one.
        seconds: of processor time.
    """

    cell: str
    seed: int
    parameters: int
    right: list[float] = field(default_factory=list)
    ones: list[float] = field(default_factory=list)
    astray: bool = False
    seconds: float = 0.0

    def after(self, first: int, last: int) -> float:
        """The mean of right answers after `first` to `last` bits."""
        return float(np.mean(self.right[first - 1 : last]))

    @property
    def learnt(self) -> bool:
        return self.after(*TESTED) >= LEARNT


def learn(cell: str, seed: int, options: argparse.Namespace) -> Result:
    """Train with a learning rate that falls to zero, and test."""
    began = time.process_time()
    tg.manual_seed(seed)
    model, rng = Model.of(cell, options.hidden, options.layers), np.random.default_rng([seed, 0])
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr)
    result = Result(cell, seed, sum(p.numel() for p in model.parameters()))
    with tqdm(total=options.updates, desc=f"{label(cell):<10} seed {seed}", unit="update", mininterval=0.5) as bar:
        for update in range(options.updates):
            optimiser.param_groups[0]["lr"] = options.lr * (1 - update / options.updates)
            x, odd = draw(rng, int(rng.integers(TRAINED[0], TRAINED[1] + 1)), options.batch)
            asked = slice(-1, None) if options.ask == "last" else slice(None)
            loss = tg.cross_entropy(model(x)[asked].reshape(-1, 2), odd[asked].reshape(-1))
            optimiser.zero_grad()
            loss.backward()
            try:
                tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            except RuntimeError:  # gradients that are not finite: it will not recover
                result.astray = True
                break
            optimiser.step()
            bar.update()
            if update % 50 == 0:
                bar.set_postfix_str(f"loss {loss.item():.3f}")
    result.right = model.right(*draw(np.random.default_rng([seed, 1]), TESTED[1], options.tests)).tolist()
    with tg.no_grad():
        even, odd = model(symbols(np.ones((64, 1), int))).numpy()[:, 0].T
    result.ones, result.seconds = (odd - even).tolist(), time.process_time() - began
    return result


def guessing(seed: int, tests: int) -> float:
    """The share of right answers after 40 to 256 bits of who always says the same, the better of the two."""
    _, odd = draw(np.random.default_rng([seed, 1]), TESTED[1], tests)
    share = odd[TESTED[0] - 1 :].mean()
    return float(max(share, 1 - share))


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(results: list[Result], proofs: dict[str, bool]) -> str:
    """Whether each learnt it, how often it was right, whether hand-set weights do it, and why not: in Markdown."""
    spans = [f"{first} to {last} bits" for first, last in (TRAINED, TESTED)]
    rows = [["", "learns it", *spans, "by hand", "why not"]]
    for cell in dict.fromkeys(r.cell for r in results):
        own = [r for r in results if r.cell == cell]
        share = [", ".join(f"{r.after(*span):.1%}" for r in own) for span in (TRAINED, TESTED)]
        learnt = sum(r.learnt for r in own)
        verdict = f"{'yes' if 2 * learnt > len(own) else 'no'}, {learnt} of {len(own)}"
        hand = {True: f"right for {SURE:,}", False: "wrong"}[proofs[cell]] if cell in proofs else ""
        rows.append([label(cell), verdict, *share, hand, "" if learnt else REASONS.get(cell, "")])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def draw_picture(results: list[Result], path: Path) -> None:
    """Accuracy against the number of bits, a line for each cell and seed; and scores after ones alone."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r.cell for r in results))
    yes = [name for name in names if any(r.learnt for r in results if r.cell == name)]
    shades = [colormaps["viridis"](0.9 * (3 * k % len(names)) / len(names)) for k in range(len(names))]
    tints = dict(zip(names, shades))  # neighbours differ
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    panels = figure.subplot_mosaic([["right", "ones"]], width_ratios=[1.7, 1])
    panel = panels["right"]
    panel.axvspan(*TRAINED, color="0.9", lw=0)
    panel.text(np.sqrt(np.prod(TRAINED)), 103, "trained", color="0.4", ha="center", fontsize=9)
    panel.axhline(50, color="0.5", lw=0.8)
    panel.text(TESTED[1], 47.5, "guessing", color="0.4", ha="right", va="top", fontsize=9)
    if yes:
        known = ", ".join(label(name) for name in yes)
        panel.text(TESTED[1], 97, f"{known}, each upon the one before", ha="right", va="top", fontsize=9)
    for r in results:
        # those that learn it lie upon each other: each is thinner than the one before
        look = dict(lw=7 - 1.7 * yes.index(r.cell), ls="-") if r.cell in yes[:4] else dict(lw=1.5, ls="--")
        first = r.seed == results[0].seed
        look = look if first else look | dict(lw=0.7, alpha=0.6)
        panel.plot(*smoothed(r.right), **look, color=tints[r.cell], label=label(r.cell) if first else None)
    panel.set_xscale("log", base=2)
    panel.set(xlabel="bits so far", ylabel="right answers, %", ylim=(40, 106), yticks=range(40, 101, 10))
    panel.set(xlim=(1, TESTED[1] * 1.05), title="Has there been an odd number of ones?")
    panel.xaxis.set_major_formatter(lambda bits, _: f"{bits:g}")
    panel = panels["ones"]
    panel.axhline(0, color="0.5", lw=0.8)
    for r in results:
        if r.seed == results[0].seed and (r.cell in yes[:1] or r.cell not in yes):
            look = dict(ls="-", lw=1, marker="o", ms=2.5) if r.cell in yes else dict(ls="--", lw=1.5)
            panel.plot(np.arange(1, 41), np.tanh(np.array(r.ones[:40]) / 2), color=tints[r.cell], **look)
    panel.set(xlabel="ones so far, and no zero", ylabel="says: odd (1), even (-1), or neither (0)", ylim=(-1.1, 1.1))
    panel.set(title="What they make of a run of ones", yticks=[-1, -0.5, 0, 0.5, 1])
    for panel in panels.values():
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels["right"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    save(figure, path)


def smoothed(right: list[float], window: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Bits and percent right: each of the trained lengths, then means over some."""
    bits, shares = np.arange(1, len(right) + 1), 100 * np.array(right)
    known = TRAINED[1]
    means = [values[known:].reshape(-1, window).mean(1) for values in (bits, shares)]
    return np.append(bits[:known], means[0]), np.append(shares[:known], means[1])


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    shown = f"{ANY_CELL} (default: {' '.join(CELLS)})"
    add("--cells", type=cell_named, nargs="+", metavar="CELL", default=CELLS, help=shown)
    for option, meaning in (
        ("updates", "of training"), ("hidden", "H"), ("batch", "B"), ("tests", "sequences of the test"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--layers", type=count, default=2, help="of each cell (default: 2)")
    add("--ask", choices=("every", "last"), default="every", help="after every bit, or after the last one alone")
    add("--lr", type=number(float, 0.0), default=5e-3, help="learning rate of Adam at the start (default: 0.005)")
    add_common(parser, "sequences", "a few updates")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seed, options.seed + options.seeds)
    results = [learn(cell, seed, options) for cell in dict.fromkeys(options.cells) for seed in seeds]
    proofs = {cell: right_by_hand(cell, options.seed) for cell in dict.fromkeys(options.cells) if cell in BY_HAND}
    chance = ", ".join(f"{guessing(seed, options.tests):.1%}" for seed in seeds)
    print(f"\n{table(results, proofs)}\n")
    print(f"always saying the same is right after {TESTED[0]} to {TESTED[1]} bits in {chance} of the answers;")
    print(f"{sum(r.seconds for r in results):.0f} s of processor time")
    (options.out / "state_tracking.json").write_text(json.dumps([asdict(r) for r in results]))
    draw_picture(results, options.out / "state_tracking.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"state_tracking.py: {error}")
