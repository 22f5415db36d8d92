"""A recurrent network that learns to write plays, one character at a time: `python demos/char_lm.py`.

This takes one to three minutes of two idle cores; `--long` trains a larger network in about eight.

The first nine tenths of a text are cut into `--batch` streams, which are read side by side, `--length` characters an
update. The state after one piece is the state before the next, but gradients stop between them: truncated
backpropagation through time. The last tenth is held out. What the network has learned is measured there, in bits per
character, beside n-gram models of the same text: what counting alone achieves.

`--cell transformer` trains a decoder-only transformer instead, which remembers nothing: it looks at the `--length`
characters before each one, and each piece of the text is learned by itself.

It leaves in `--out` a checkpoint, from which `--resume` continues to the same bits as if nothing had happened and
`--sample 1000` writes, and a picture of the run.
"""

import argparse
import hashlib
import math
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.nn.cells.catalogue import short_name
from tinygrad_rnn.nn.cells.named import make_alone

HERE = Path(__file__).resolve().parent
CLASSIC = {"rnn": tg.nn.RNN, "lstm": tg.nn.LSTM, "gru": tg.nn.GRU}  # with PyTorch's names of parameters
DEFAULTS = dict(
    cell="lstm", hidden=256, layers=1, embedding=64, dropout=0.1,
    batch=32, length=64, steps=3000, lr=1e-2, clip=0.4, seed=0, every=500,
)  # fmt: skip
TRANSFORMER = dict(hidden=128, layers=3, dropout=0.0, steps=2000, lr=2e-3, clip=1.0)  # instead of these
LONG = dict(hidden=512, steps=4000, lr=7e-3, every=400)


class Refusal(Exception):
    """What cannot be done, in one line for the user."""


# ---- The text --------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror}") from None


def check_length(text: str, batch: int, length: int) -> None:
    """Nine tenths of the text must be enough for one update."""
    needed = max(-(-10 * (batch * length + 1) // 9), 11)
    if len(text) < needed:
        raise Refusal(
            f"the text has {len(text):,} characters, and --batch {batch} --length {length} needs at least {needed:,}: "
            "take a longer text or smaller numbers"
        )


def split(text: str, vocabulary: str) -> tuple[np.ndarray, np.ndarray]:
    """The characters as numbers, their places in the vocabulary: nine tenths to learn from, one tenth held out."""
    place = {character: i for i, character in enumerate(vocabulary)}
    numbers = np.array([place[character] for character in text])
    return numbers[: len(text) * 9 // 10], numbers[len(text) * 9 // 10 :]


def streams(numbers: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs x[T, B] and targets y[T, B], B stretches of the text side by side; y is one character ahead."""
    steps = (len(numbers) - 1) // batch
    x, y = numbers[: steps * batch], numbers[1 : steps * batch + 1]
    return x.reshape(batch, steps).T, y.reshape(batch, steps).T


def ngram_bits(train: np.ndarray, valid: np.ndarray, kinds: int, longest: int = 4) -> list[tuple[float, float]]:
    """Bits per character, on both parts, of models that count which characters followed the last n - 1 ones.

    p[n](c) = (count(context, c) + d p[n-1](c)) / (count(context) + d), d the number of different characters seen after
    the context (Witten and Bell, 1991); p[0](c) = 1 / kinds.
    """
    text = np.concatenate([train, valid])
    learned = slice(0, len(train))
    context = np.zeros_like(text)  # the characters before each place, as one number
    p = np.full(len(text), 1 / kinds)
    bits = []
    for _ in range(longest):
        pairs, pair = np.unique(context * kinds + text, return_inverse=True)  # a context and what follows it
        count = np.bincount(pair[learned], minlength=len(pairs))
        total = np.bincount(context[learned], minlength=context.max() + 1)[context]
        d = np.bincount(pairs[count > 0] // kinds, minlength=context.max() + 1)[context]
        p = np.where(total, (count[pair] + d * p) / np.maximum(total + d, 1), p)
        bits.append((-np.log2(p[learned]).mean(), -np.log2(p[len(train) :]).mean()))
        context = np.concatenate([[0], pair[:-1]])
    return bits


# ---- The model and its training --------------------------------------------------------------------------------------


class CharModel(tg.nn.Module):
    """Characters in, scores of the next characters out: x[T, B] -> [T, B, kinds], and the states after the last."""

    def __init__(self, kinds: int, cell: str, embedding: int, hidden: int, layers: int, dropout: float) -> None:
        self.embedding = tg.nn.Embedding(kinds, embedding)
        between = dropout if layers > 1 else 0.0
        if cell in CLASSIC:
            self.recurrent = CLASSIC[cell](embedding, hidden, layers, dropout=between)
        else:
            make = lambda width: tg.nn.cells.make(cell, width, hidden)
            self.recurrent = tg.nn.Stack(make, embedding, layers, dropout=between)
        self.dropout = tg.nn.Dropout(dropout)
        with tg.no_grad():
            outputs = self.recurrent.cells[-1].begin(None, 1)[0].shape[-1]  # of some cells not the size of the state
        self.scores = tg.nn.Linear(outputs, kinds)

        self.piece = 256  # characters to read at once where nothing is learned

    def forward(self, x, state=None):
        y, state = self.recurrent(self.dropout(self.embedding(x)), state)
        return self.scores(self.dropout(y)), state

    def handed_on(self, state, stream: int):
        """What the next piece of the text begins with, after an update; see `detached`."""
        return detached(state, self.recurrent.cells, stream)


class CharTransformer(tg.nn.Module):
    """The same without memory: its state are the characters before, of which it sees `length`, x among them.

    A decoder-only transformer whose norms come first (Vaswani et al., 2017; Radford et al., 2019): causal attention,
    sinusoidal positions, heads of 32 or so.
    """

    def __init__(self, kinds: int, hidden: int, layers: int, length: int, dropout: float) -> None:
        heads = next(n for n in range(max(hidden // 32, 1), 0, -1) if hidden % n == 0)
        block = lambda: tg.nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, dropout, "gelu", norm_first=True)
        self.embedding = tg.nn.Embedding(kinds, hidden)
        self.positions = tg.nn.SinusoidalPositions(hidden, dropout)
        self.blocks = [block() for _ in range(layers)]
        self.norm = tg.nn.LayerNorm(hidden)
        self.scores = tg.nn.Linear(hidden, kinds)
        self.length, self.piece = length, max(length // 2, 1)  # so a character has half as many before it, at least

    def forward(self, x, state=None):
        seen = x if state is None else np.concatenate([state[max(len(state) + len(x) - self.length, 0) :], x])
        y = self.positions(self.embedding(seen))
        for block in self.blocks:
            y = block(y, is_causal=True)
        return self.scores(self.norm(y[len(seen) - len(x) :])), seen

    def handed_on(self, state, stream: int) -> None:
        """Nothing: each piece is learned by itself."""


def loss_in_bits(scores, y):
    """The mean of -log2 of the probability that the scores give to what came."""
    return tg.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1)) / math.log(2)


def detached(state, cells: list[tg.nn.Cell], stream: int):
    """The same states [layers, B, ...] without their past, and those of one stream as they are before any text.

    The streams take turns with this, so that the network learns to begin, as it must for a sample.
    """
    with tg.no_grad():
        begun = zip(*(cell.begin(None, 1) for cell in cells))  # of each state, that of every layer, [1, ...]
    anew = []
    for last, layers in zip(state if isinstance(state, tuple) else (state,), begun):
        array = last.numpy().copy()
        for layer, first in enumerate(layers):
            array[layer, stream] = first.numpy()[0]
        anew.append(tg.tensor(array))
    return tuple(anew) if len(anew) > 1 else anew[0]


class Run:
    """A training run: all that its continuation depends on.

    Attributes:
        settings: the options it was started with.
        vocabulary: the characters in the order of their numbers.
        text: a fingerprint of the text.
        step: updates made. It is the position in the text, too.
        state: the recurrent states after the last piece, for the next one.
        losses, norms: bits per character and norm of the gradient before clipping, at every update.
        checks: (step, bits per character on the held-out text).
    """

    def __init__(self, settings: dict, vocabulary: str, text: str) -> None:
        self.settings, self.vocabulary, self.text = settings, vocabulary, text
        tg.manual_seed(settings["seed"])
        is_transformer = settings["cell"] == "transformer"
        kind, own = (CharTransformer, ["length"]) if is_transformer else (CharModel, ["cell", "embedding"])
        sizes = {name: settings[name] for name in ("hidden", "layers", "dropout", *own)}
        try:
            self.model = kind(len(vocabulary), **sizes)
        except ValueError as error:
            raise Refusal(f"--cell {settings['cell']}: {error}") from None
        self.optimiser = tg.optim.Adam(self.model.parameters(), lr=settings["lr"])
        self.step = 0
        self.state = None
        self.losses, self.norms, self.checks = [], [], []

    def learn(self, x: np.ndarray, y: np.ndarray) -> None:
        """One update, from the next piece of every stream: x and y are [T, B], the whole of the streams."""
        length, steps = self.settings["length"], self.settings["steps"]
        piece = self.step % (len(x) // length)
        if piece == 0:  # the beginning of the text
            self.state = None
        here = slice(piece * length, (piece + 1) * length)
        scores, state = self.model(x[here], self.state)
        loss = loss_in_bits(scores, y[here])
        self.optimiser.zero_grad()
        loss.backward()
        try:
            norm = tg.nn.utils.clip_grad_norm_(self.model.named_parameters(), self.settings["clip"])
        except RuntimeError as error:
            raise Refusal(f"step {self.step + 1} went astray, try a smaller --lr or --clip: {error}") from None
        self.optimiser.param_groups[0]["lr"] = self.settings["lr"] * (1 - self.step / steps)
        self.optimiser.step()
        self.state = self.model.handed_on(state, self.step % self.settings["batch"])
        self.step += 1
        self.losses.append(loss.item())
        self.norms.append(norm.item())

    def check(self, numbers: np.ndarray) -> None:
        """Measure on the held-out text."""
        x, y = streams(numbers, min(self.settings["batch"], len(numbers) - 1))
        total, state = 0.0, None
        self.model.eval()
        with tg.no_grad():
            for i in range(0, len(x), self.model.piece):
                scores, state = self.model(x[i : i + self.model.piece], state)
                total += loss_in_bits(scores, y[i : i + self.model.piece]).item() * len(scores)
        self.model.train()
        self.checks.append((self.step, total / len(x)))

    def sample(self, prompt: str, count: int, temperature: float, rng: np.random.Generator) -> str:
        """`count` characters that the model would write after the prompt.

        Adding Gumbel noise to scores and taking the largest draws from their softmax; so temperature 0 takes the most
        probable character, and 1 draws with the model's own probabilities.
        """
        unknown = sorted(set(prompt) - set(self.vocabulary))
        if unknown:
            raise Refusal(f"the text had no {' '.join(map(repr, unknown))}, so the model cannot read it in --prompt")
        x = np.array([[self.vocabulary.index(character)] for character in prompt])  # [T, B], here B = 1
        state, written = None, []
        self.model.eval()
        with tg.no_grad():
            for _ in range(count):
                for i in range(0, len(x), self.model.piece):
                    scores, state = self.model(x[i : i + self.model.piece], state)
                last = scores.numpy()[-1, 0].astype(np.float64)
                best = np.argmax(last + temperature * rng.gumbel(size=len(last)))
                written.append(self.vocabulary[best])
                x = np.array([[best]])
        self.model.train()
        return prompt + "".join(written)

    def save(self, path: Path) -> None:
        states = self.state if isinstance(self.state, tuple) else [] if self.state is None else [self.state]
        about = dict(
            program="char_lm", settings=self.settings, vocabulary=self.vocabulary, text=self.text,
            state=[s.numpy().tolist() for s in states], losses=self.losses, norms=self.norms, checks=self.checks,
        )  # fmt: skip
        tg.save_checkpoint(path, self.model, self.optimiser, self.step, metadata=about)

    @classmethod
    def load(cls, path: Path) -> "Run":
        """The run that `save` saved; it goes on to the same bits as if it had never stopped."""
        about = tg.load_checkpoint(path, random_state=False).metadata
        if about.get("program") != "char_lm":
            raise Refusal(f"{path} is a checkpoint, but not one of this program")
        run = cls(about["settings"], about["vocabulary"], about["text"])
        run.step = tg.load_checkpoint(path, run.model, run.optimiser).step
        states = tuple(tg.tensor(np.array(s, np.float32)) for s in about["state"])
        run.state = states if len(states) > 1 else states[0] if states else None
        run.losses, run.norms, run.checks = about["losses"], about["norms"], about["checks"]
        return run


@contextmanager
def ctrl_c_waits() -> Iterator[list]:
    """Ctrl-C adds to the list that this yields, so that a step can be finished and saved; a second one interrupts."""
    asked: list[bool] = []

    def handler(*_) -> None:
        if asked:
            raise KeyboardInterrupt("stopped at once: the checkpoint, if there is one, is older")
        asked.append(True)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def train(run: Run, learned: np.ndarray, held_out: np.ndarray, checkpoint: Path, temperature: float) -> None:
    """Make the updates that are left; validate, show a sample and save at times; Ctrl-C saves, too."""
    from tqdm import tqdm

    x, y = streams(learned, run.settings["batch"])
    steps, every, seed = (run.settings[name] for name in ("steps", "every", "seed"))
    bar = tqdm(total=steps, initial=run.step, unit="step", mininterval=0.5 if sys.stderr.isatty() else 10)
    with ctrl_c_waits() as asked, bar:
        while run.step < steps:
            run.learn(x, y)
            pause = run.step % every == 0 or run.step == steps
            if pause:
                run.check(held_out)
            bar.set_postfix_str(figures(run), refresh=False)
            bar.update()
            if pause:
                sample = run.sample(start_of(run), 160, temperature, np.random.default_rng([seed, run.step]))
                bar.write(f"\n--- step {run.step}: {figures(run)} " + "-" * 30 + f"\n{sample.strip()}\n")
                run.save(checkpoint)
            if asked:
                run.save(checkpoint)
                words = [Path(sys.executable).name, *sys.argv, *["--resume"] * ("--resume" not in sys.argv)]
                raise KeyboardInterrupt(f"stopped and saved after step {run.step}; go on with: {shlex.join(words)}")


def figures(run: Run) -> str:
    """How well it does at the moment, in bits per character."""
    held_out = f", held out {run.checks[-1][1]:.3f}" if run.checks else ""
    return f"training {np.mean(run.losses[-50:]):.3f}{held_out} bits/char"


def start_of(run: Run) -> str:
    """What to begin a sample with, if the user does not say: the end of a line."""
    return "\n" if "\n" in run.vocabulary else run.vocabulary[0]


# ---- What comes out of it --------------------------------------------------------------------------------------------


def name_of(run: Run) -> str:
    model, kind = run.model, "transformer"
    if isinstance(model, CharModel):
        kind = type(model.recurrent.cells[-1]).__name__.removesuffix("Cell")
    return f"{kind}, {run.settings['layers']} x {run.settings['hidden']}"


def table(run: Run, ngrams: list[tuple[float, float]]) -> str:
    """The network beside the models that count."""
    rows = [(f"{n}-gram", *bits) for n, bits in enumerate(ngrams, 1)]
    rows.append((name_of(run), np.mean(run.losses[-run.settings["every"] :]), run.checks[-1][1]))
    lines = ["bits per character    training    held out", *(f"{name:<20}{a:>10.3f}{b:>12.3f}" for name, a, b in rows)]
    return "\n".join(lines)


def draw(run: Run, ngrams: list[tuple[float, float]], path: Path) -> None:
    """The picture of the run: bits per character above, the norm of the gradient below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    steps, span = np.arange(1, run.step + 1), min(50, run.step)
    smooth = np.convolve(run.losses, np.full(span, 1 / span), "valid")
    middle = steps[span // 2 :][: len(smooth)]

    above.plot(steps, run.losses, color="tab:blue", alpha=0.35, lw=0.6, label="training, every update")
    above.plot(middle, smooth, color="tab:blue", lw=1.5, label=f"training, mean of {span} updates")
    above.plot(*zip(*run.checks), "o-", color="tab:red", ms=4, lw=1.5, label="held-out text")
    for n, (_, bits) in enumerate(ngrams, 1):
        above.axhline(bits, color="0.45", ls="--", lw=0.9)
        above.text(1.01, bits, f"{n}-gram {bits:.2f}", transform=above.get_yaxis_transform(), va="center", color="0.3")
    result = f"{run.checks[-1][1]:.2f} bits per character of held-out text after {run.step} updates"
    above.set(ylabel="loss [bits per character]", title=f"{name_of(run)}: {result}")
    above.legend(loc="upper right")

    norms, clip = np.maximum(run.norms, 1e-9), run.settings["clip"]
    below.plot(steps, norms, color="tab:orange", lw=1.6, label="before clipping")
    below.plot(steps, np.minimum(norms, clip), color="tab:green", lw=0.6, label=f"after clipping at {clip:g}")
    below.set(yscale="log", xlabel="update", ylabel="norm of the gradient\n[bits per character]")
    below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    below.yaxis.set_minor_locator(NullLocator())
    below.yaxis.set_major_formatter("{x:g}")
    below.legend(loc="upper right")

    draft = path.with_name(f".{path.name}.tmp")
    figure.savefig(draft, format="png", dpi=120)
    os.replace(draft, path)


# ---- The command line ------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Say what is wrong in one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def number(kind: type, low: float, high: float = math.inf, strictly: bool = False):
    """A type for argparse: a finite number in the range, whose lower end may be excluded."""
    upper = "finite" if high == math.inf else f"below {high}"
    limits = f"{'greater than' if strictly else 'at least'} {low} and {upper}"

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number ({kind.__name__}), not {text!r}") from None
        if not low <= value < high or (strictly and value == low):
            raise argparse.ArgumentTypeError(f"must be {limits}, not {text}")
        return value

    return parse


def known(name: str) -> str:
    """The short name of a cell of the library; one of somebody else's is looked for when it is made."""
    if ":" in name or name == "transformer":
        return name
    try:
        cell = make_alone(name, 4, 4)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return short_name(type(cell).__name__)


def arguments() -> Parser:
    parser = Parser(prog="char_lm.py", description=__doc__.split("\n")[0])

    def setting(name: str, kind, meaning: str, **more) -> None:  # no default here: --resume must know what was said
        others = (("--long", LONG), ("a transformer", TRANSFORMER))
        default = "; with ".join([str(DEFAULTS[name]), *(f"{what} {x[name]}" for what, x in others if name in x)])
        parser.add_argument(f"--{name}", type=kind, help=f"{meaning} (default: {default})", **more)

    count, positive, any_number = number(int, 1), number(float, 0, strictly=True), number(float, 0)
    kinds = "the recurrent cell, as `python -m tinygrad_rnn cells` lists them, package.module:MyCell, or transformer"
    setting("cell", known, kinds, metavar="NAME")
    setting("hidden", count, "size of its state")
    setting("layers", count, "recurrent layers on top of each other")
    setting("embedding", count, "numbers that stand for a character; a transformer's are --hidden")
    setting("dropout", number(float, 0, 1), "share of numbers dropped around the layers while training")
    setting("batch", count, "streams of text that are read side by side")
    setting("length", count, "characters of each stream in an update, through which gradients flow back")
    setting("steps", count, "updates; the learning rate falls to zero on the way")
    setting("lr", positive, "learning rate of Adam at the beginning")
    setting("clip", positive, "longest norm of the gradient")
    setting("seed", number(int, 0), "of initial weights, dropout and samples")
    setting("every", count, "updates between checkpoints, each with a validation and a sample")
    add = parser.add_argument
    add("--text", type=Path, default=HERE / "data" / "shakespeare.txt", metavar="FILE", help="UTF-8 text to learn from")
    add("--out", type=Path, default=HERE / "runs", metavar="FOLDER", help="where checkpoint and picture go")
    add("--long", action="store_true", help="a larger network and more updates: about eight minutes of two idle cores")
    add("--resume", action="store_true", help="go on with the checkpoint in --out")
    add("--sample", type=count, metavar="N", help="write N characters with the checkpoint in --out, and exit")
    add("--prompt", default="", help="what the sample begins with")
    add("--temperature", type=any_number, default=0.8, help="of samples: 0 always takes the most probable character")
    add("--threads", type=count, help="processor cores to use at most")
    return parser


def resumed(checkpoint: Path, said: dict, fingerprint: str) -> Run:
    """The run in a checkpoint, if it is the one that the command line describes; only --steps may change."""
    if not checkpoint.exists():
        raise Refusal(f"there is no checkpoint in {checkpoint.parent}: start without --resume")
    run = Run.load(checkpoint)
    for name, value in said.items():
        if name != "steps" and value != run.settings[name]:
            raise Refusal(f"the run in {checkpoint.parent} has --{name} {run.settings[name]}, not {value}")
    if fingerprint != run.text:
        raise Refusal(f"the run in {checkpoint.parent} learns from another text: give it with --text")
    if said.get("steps", run.step) < run.step:
        raise Refusal(f"the run in {checkpoint.parent} has made {run.step} steps already, more than {said['steps']}")
    run.settings.update(said)
    return run


def writable(folder: Path) -> None:
    """Make the folder, and know before the work begins that results can be left there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Refusal(f"cannot write to {folder}: {error.strerror}") from None


def use_threads(count: int | None) -> None:
    """At most so many, if that is said."""
    if count:
        try:
            tg.set_num_threads(count)
        except ValueError as error:
            raise Refusal(f"--threads: {error}") from None


def main(options: argparse.Namespace) -> None:
    checkpoint, picture = options.out / "checkpoint.safetensors", options.out / "char_lm.png"
    said = LONG if options.long else {}
    if options.long and options.cell == "transformer":
        raise Refusal("--long is of recurrent cells: give a transformer --hidden, --layers and --steps")
    said = said | {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    use_threads(options.threads)
    if options.sample:
        if not checkpoint.exists():
            raise Refusal(f"there is no checkpoint in {options.out}: train first")
        run = Run.load(checkpoint)
        rng = np.random.default_rng(said.get("seed", 0))
        print(run.sample(options.prompt or start_of(run), options.sample, options.temperature, rng))
        return

    text = read(options.text)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if options.resume:
        run = resumed(checkpoint, said, fingerprint)
    else:
        settings = DEFAULTS | (TRANSFORMER if said.get("cell") == "transformer" else {}) | said
        check_length(text, settings["batch"], settings["length"])
        run = Run(settings, "".join(sorted(set(text))), fingerprint)
    writable(options.out)
    size = sum(parameter.numel() for parameter in run.model.parameters())
    learned, held_out = split(text, run.vocabulary)
    print(f"{name_of(run)}: {size:,} parameters; {len(learned):,} characters to learn from, {len(held_out):,} held out")

    ngrams = ngram_bits(learned, held_out, len(run.vocabulary))
    train(run, learned, held_out, checkpoint, options.temperature)
    draw(run, ngrams, picture)
    print(f"\n{table(run, ngrams)}\n\n{checkpoint}\n{picture}")


def command_line(parser: Parser, main: Callable[[argparse.Namespace], None]) -> None:
    """Run a program; what goes wrong is told in one line."""
    sys.stdout.reconfigure(errors="replace")  # a terminal may lack characters of the text
    try:
        main(parser.parse_args())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Refusal, tg.CheckpointError, OSError) as error:
        parser.error(str(error))
    except MemoryError:
        parser.error("not enough memory for these sizes")
    except KeyboardInterrupt as stop:
        parser.exit(130, f"\n{parser.prog}: {stop or 'stopped'}\n")


if __name__ == "__main__":
    command_line(arguments(), main)
