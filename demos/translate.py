"""A decoder that attends learns to read dates: `python demos/translate.py`.

Dates come as people write them, "the third of March, 1987", "Mar 3 87", "Tuesday, 3 March 1987", letter by letter, and
are to be written as 1987-03-03. A GRU reads them in both directions; the decoder, a GRU too, looks before every letter
that it writes for the place in what was read that it needs (Bahdanau et al., 2015). Nobody tells it where that is: it
learns which letters belong together from pairs of texts alone.

The dates are those of a hundred years, 1950 to 2049, of which a tenth is kept for the test. 3/4/1987 is the third of
April, and a year of two digits is one of these hundred. What is left in `--out` are a picture, of where the decoder
looks while it writes each letter, and the numbers.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from shared import add_common, fill, number, save
from tqdm import tqdm

import tinygrad_rnn as tg

DEFAULTS = dict(updates=1000, hidden=64, batch=32, tests=2000)
QUICK = dict(updates=12, hidden=8, batch=8, tests=60)
SHOWN = "the third of March, 1987", "Sep 21 04", "Friday, 12 June 2020", "30/11/1999"


# ---- Dates -----------------------------------------------------------------------------------------------------------

FIRST, DAYS = datetime.date(1950, 1, 1), 36_525  # a hundred years
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ONES = ["", *ONES.split(), "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
            "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}  # fmt: skip


def in_words(n: int) -> str:
    """A number from 1 to 99: "twenty-one"."""
    return ONES[n] if n < 20 else "-".join(filter(None, [TENS[n // 10], ONES[n % 10]]))


def ordinal_in_words(n: int) -> str:
    """Of a day: "twenty-first"."""
    start, dash, last = in_words(n).rpartition("-")
    return start + dash + ORDINALS.get(last, f"{last}th")


def ordinal(n: int) -> str:
    """Of a day: "21st"."""
    return f"{n}{'th' if n // 10 == 1 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def year_in_words(year: int) -> str:
    """As people say it: "nineteen eighty-seven", "two thousand five", "twenty twenty"."""
    if 2000 <= year < 2010:
        return f"two thousand {in_words(year - 2000)}" if year > 2000 else "two thousand"
    return f"{in_words(year // 100)} {in_words(year % 100)}"


FORMATS: dict[str, Callable[[datetime.date], str]] = {
    "numbers": lambda d: f"{d.day}/{d.month}/{d.year}",
    "dots": lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    "dashes, two digits": lambda d: f"{d.day}-{d.month}-{d.year % 100:02}",
    "day, month": lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    "month, ordinal": lambda d: f"{MONTHS[d.month - 1]} {ordinal(d.day)}, {d.year}",
    "short, two digits": lambda d: f"{MONTHS[d.month - 1][:3]} {d.day} {d.year % 100:02}",
    "weekday": lambda d: f"{WEEKDAYS[d.weekday()]}, {d.day} {MONTHS[d.month - 1]} {d.year}",
    "ordinal in words": lambda d: f"the {ordinal_in_words(d.day)} of {MONTHS[d.month - 1]}, {d.year}",
    "all in words": lambda d: f"{MONTHS[d.month - 1]} the {ordinal_in_words(d.day)}, {year_in_words(d.year)}",
}

LETTERS = " ,-./0123456789abcdefghijklmnopqrstuvwxyz"
WRITTEN = "-0123456789"
LENGTH = len("1987-03-03")
LONGEST = len("September the twenty-seventh, nineteen seventy-seven")


def code(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts in small letters as x [S, B, letters], zero beyond their ends; and how long they are, [B].

    S is always the same: what a cell looks at has a size that its kernels are compiled for.
    """
    lengths = np.array([len(text) for text in texts])
    x = np.zeros((LONGEST, len(texts), len(LETTERS)), np.float32)
    for b, text in enumerate(texts):
        x[np.arange(len(text)), b, [LETTERS.index(letter) for letter in text.lower()]] = 1
    return x, lengths


def answers(dates: list[datetime.date]) -> np.ndarray:
    """What is to be written, as numbers of letters [T, B]."""
    return np.array([[WRITTEN.index(letter) for letter in date.isoformat()] for date in dates]).T


def dates_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The days to learn from, and those that are kept, counted from the first."""
    days = np.random.default_rng([seed, 0]).permutation(DAYS)
    return days[DAYS // 10 :], days[: DAYS // 10]


def draw(rng: np.random.Generator, days: np.ndarray, count: int) -> tuple[list[str], list[datetime.date], list[str]]:
    """Texts, their dates, and the names of their formats."""
    dates = [FIRST + datetime.timedelta(int(day)) for day in rng.choice(days, count)]
    names = list(rng.choice(list(FORMATS), count))
    return [FORMATS[name](date) for name, date in zip(names, dates)], dates, names


# ---- The model -------------------------------------------------------------------------------------------------------


class Translator(tg.nn.Module):
    """A GRU that reads in both directions, and a decoder that attends to what it has read."""

    def __init__(self, hidden: int) -> None:
        each = (hidden + 1) // 2  # of a direction
        self.reader = tg.nn.GRU(len(LETTERS), each, bidirectional=True)
        self.start = tg.nn.Linear(each, hidden)
        sizes = dict(memory_size=2 * each, attention_size=(hidden + 3) // 4)
        self.writer = tg.nn.Recurrent(tg.nn.cells.BahdanauCell(len(WRITTEN) + 1, hidden, **sizes))
        self.scores = tg.nn.Linear(hidden, len(WRITTEN))

    def read(self, texts: list[str]) -> tuple[tg.Tensor, dict]:
        """Where the writer starts, and what it looks at: see `BahdanauCell`."""
        x, lengths = code(texts)
        encoded, last = self.reader(x, lengths=lengths)
        mask = (np.arange(len(x)) < lengths[:, None]).astype(np.float32)
        # as in the paper: from what the backward direction knows when it has come to the first letter
        return tg.tanh(self.start(last[1])), dict(memory=encoded.transpose(0, 1), mask=mask)

    def forward(self, texts: list[str], written: np.ndarray) -> tg.Tensor:
        """Scores [T, B, letters] of each letter, given what was to be written before it."""
        h, given = self.read(texts)
        return self.scores(self.writer(before(written), h, **given)[0])

    def write(self, texts: list[str]) -> np.ndarray:
        """What it writes, [T, B]: letter by letter the one with the highest score."""
        with tg.no_grad():
            h, given = self.read(texts)
            written = np.zeros((0, len(texts)), int)
            for _ in range(LENGTH):
                y, h = self.writer(before(np.pad(written, ((0, 1), (0, 0))))[-1:], h, **given)
                written = np.concatenate([written, self.scores(y).numpy().argmax(-1)])
        return written

    def looks(self, text: str) -> tuple[str, np.ndarray]:
        """What it writes, and alpha [T, S]: how much it looks at each letter of the text for each that it writes."""
        written = self.write([text])
        with tg.no_grad(), tg.record(self.writer) as r:
            self([text], written)
        return spelt(written)[0], r["alpha"].numpy()[:, 0, : len(text)]


def before(written: np.ndarray) -> np.ndarray:
    """The letters before those that are written: x [T, B, letters + 1]. Before the first is a letter of its own."""
    last = np.concatenate([np.full_like(written[:1], len(WRITTEN)), written[:-1]])
    return np.eye(len(WRITTEN) + 1, dtype=np.float32)[last]


def spelt(written: np.ndarray) -> list[str]:
    return ["".join(WRITTEN[letter] for letter in letters) for letters in written.T]


# ---- Learning --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one seed.

    Attributes:
        updates, losses: at times, how many there had been, and the mean loss of a letter.
        right: by format, the share of unseen dates of which every letter is right.
        wrong: some that are not: what was to be read, and what was written.
        all: the share over all formats.
        seconds: of processor time.
    """

    seed: int
    parameters: int
    updates: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    right: dict[str, float] = field(default_factory=dict)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    all: float = 0.0
    seconds: float = 0.0


def learn(seed: int, options: argparse.Namespace) -> tuple[Translator, Result]:
    """Train with a learning rate that falls to zero, and test on dates of the kept tenth."""
    began = time.process_time()
    tg.manual_seed(seed)
    model, rng = Translator(options.hidden), np.random.default_rng([seed, 1])
    days, kept = dates_of(seed)
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr)
    result = Result(seed, sum(p.numel() for p in model.parameters()))
    with tqdm(total=options.updates, desc=f"seed {seed}", unit="update", mininterval=0.5) as bar:
        for update in range(options.updates):
            optimiser.param_groups[0]["lr"] = options.lr * (1 - update / options.updates)
            texts, dates, _ = draw(rng, days, options.batch)
            written = answers(dates)
            loss = tg.cross_entropy(model(texts, written).reshape(-1, len(WRITTEN)), written.reshape(-1))
            optimiser.zero_grad()
            loss.backward()
            tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            optimiser.step()
            bar.update()
            if update % 25 == 0:
                result.updates.append(update)
                result.losses.append(loss.item())
                bar.set_postfix_str(f"loss {loss.item():.4f}")
    test(model, result, kept, options.tests)
    result.seconds = time.process_time() - began
    return model, result


def test(model: Translator, result: Result, kept: np.ndarray, count: int) -> None:
    texts, dates, names = draw(np.random.default_rng([result.seed, 2]), kept, count)
    written = spelt(np.concatenate([model.write(texts[k : k + 500]) for k in range(0, count, 500)], axis=1))
    right = np.array([date.isoformat() == text for date, text in zip(dates, written)])
    result.all = float(right.mean())
    result.right = {name: float(right[np.array(names) == name].mean()) for name in FORMATS if name in names}
    result.wrong = [(texts[k], written[k]) for k in np.flatnonzero(~right)[:10]]


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """How many unseen dates of each format are right, in Markdown; with several seeds, several numbers."""
    rows = [["format", "as in", "right"]]
    for name, spell in FORMATS.items():
        shares = ", ".join(f"{r.right[name]:.1%}" for r in results if name in r.right)
        rows.append([name, spell(datetime.date(1987, 3, 21)), shares])
    rows.append(["all", "", ", ".join(f"{r.all:.1%}" for r in results)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths))} |" for row in rows)


def draw_picture(model: Translator, texts: list[str], path: Path) -> None:
    """Where it looks: a map for each text, its letters from left to right, what is written from top to bottom."""
    from matplotlib.figure import Figure

    columns = min(len(texts), 2)
    rows = -(-len(texts) // columns)
    figure = Figure(figsize=(5.2 * columns + 0.6, 3.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(texts) :]:
        panel.set_visible(False)
    for text, panel in zip(texts, panels):
        written, alpha = model.looks(text)
        image = panel.imshow(alpha, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        size = 10 if len(text) < 30 else 7
        panel.set_xticks(range(len(text)), list(text), fontsize=size, family="monospace")
        panel.set_yticks(range(LENGTH), list(written), fontsize=10, family="monospace")
        panel.tick_params(length=0)
        panel.set_xticks(np.arange(len(text) + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(LENGTH + 1) - 0.5, minor=True)
        panel.grid(which="minor", color="0.85", lw=0.5)
        panel.tick_params(which="minor", length=0)
        panel.set_title(f"{text}  →  {written}", fontsize=10)
    figure.colorbar(image, ax=list(panels), label="alpha: how much it looks there", shrink=0.6)
    figure.supxlabel("letters that were read", fontsize=10)
    figure.supylabel("letters as they are written, the first on top", fontsize=10)
    save(figure, path)


# ---- The command line ------------------------------------------------------------------------------------------------


def readable(text: str) -> str:
    """A text of letters that it knows."""
    if not 0 < len(text) <= LONGEST or set(text.lower()) - set(LETTERS):
        wanted = f"up to {LONGEST} of letters, digits, blanks and , - . /"
        raise argparse.ArgumentTypeError(f"must be made of {wanted}, not {text!r}")
    return text


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count = parser.add_argument, number(int, 1)
    add("--show", type=readable, nargs="+", metavar="TEXT", default=SHOWN, help="dates of yours for the picture")
    for option, meaning in (
        ("updates", "of training"), ("hidden", "H"), ("batch", "B"), ("tests", "dates of the test"),
    ):  # fmt: skip
        add(f"--{option}", type=count, help=f"{meaning} (default: {DEFAULTS[option]})")
    add("--lr", type=number(float, 0.0), default=8e-3, help="learning rate of Adam at the start (default: 0.008)")
    add_common(parser, "dates", "a few updates")
    return parser


def main(options: argparse.Namespace) -> None:
    fill(options, DEFAULTS, QUICK)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [learn(seed, options) for seed in range(options.seed, options.seed + options.seeds)]
    results = [result for _, result in runs]
    print(f"\n{table(results)}\n")
    print(f"unseen dates of which every letter is right; {results[0].parameters:,} parameters,")
    print(f"{sum(r.seconds for r in results):.0f} s of processor time")
    for text, written in results[0].wrong:
        print(f"wrong: {text} -> {written}")
    (options.out / "translate.json").write_text(json.dumps([asdict(r) for r in results]))
    draw_picture(runs[0][0], list(options.show), options.out / "translate.png")


if __name__ == "__main__":
    try:
        main(arguments().parse_args())
    except OSError as error:
        sys.exit(f"translate.py: {error}")
