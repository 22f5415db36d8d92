"""Piano rolls, frame by frame: `python demos/compare.py --music FILE`.

A piece is a matrix [T, 88]: which keys sound in each of its T frames. A model reads the frames up to t and says, for
every key, how probable it is to sound in frame t + 1. What is measured is what Bai, Kolter and Koltun (2018) measured
for their TCN: the negative log-likelihood of a frame, the sum over its keys,

    -sum over k of  y_k log p_k + (1 - y_k) log(1 - p_k),

in nats, the mean over all frames of all pieces but the first of each. Pieces of a batch are of different lengths; what
lies behind the end of a piece is neither read (`lengths`) nor counted (a mask).

A file is the TCN repository's .mat (JSB chorales, Nottingham, MuseData, Piano-midi.de), or an .npz with the same three
names: traindata, validdata, testdata. Each is an array of objects, matrices [T, 88], or one array [pieces, longest, 88]
beside its lengths, traindata_lengths and so on.
"""

import argparse
import io
import json
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from shared import cell_named, label, output_width
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.nn import cells

PARTS = "traindata", "validdata", "testdata"
EPOCHS, BATCH = 60, 8


class Refusal(Exception):
    """What cannot be done, in one line for the user."""


def save(figure, path: Path) -> None:
    """Write a picture of few colours, which takes half the space, or leave the old one."""
    draft, drawn = path.with_name(f".{path.name}.tmp"), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    Image.open(drawn).convert("RGB").quantize(128).save(draft, format="png", optimize=True)
    os.replace(draft, path)


# ---- The files -------------------------------------------------------------------------------------------------------


class _OnlyArrays(pickle.Unpickler):
    """Reads arrays within an array of objects, and nothing that runs: a file is no program."""

    def find_class(self, module: str, name: str) -> object:
        known = {
            "_reconstruct": ("numpy._core.multiarray", "numpy.core.multiarray"),
            "_frombuffer": ("numpy._core.numeric", "numpy.core.numeric"),
            "scalar": ("numpy._core.multiarray", "numpy.core.multiarray"),
            "ndarray": ("numpy",), "dtype": ("numpy",), "encode": ("_codecs",),
        }  # fmt: skip
        if module not in known.get(name, ()):
            raise Refusal(f"an array of objects may hold arrays, not {module}.{name}")
        return super().find_class(module, name)


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """An array of an .npz, whose objects can only be arrays."""
    if f"{name}.npy" not in file.namelist():
        return None
    with file.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in reader:
            raise Refusal(f"{name} has version {version} of NumPy's format")
        _, _, dtype = reader[version](stream)
        if dtype.hasobject:
            return _OnlyArrays(stream).load()
    with file.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _from_npz(path: Path) -> dict[str, list]:
    found = {}
    with zipfile.ZipFile(path) as file:
        for part in PARTS:
            pieces, lengths = _array(file, part), _array(file, f"{part}_lengths")
            if pieces is None:
                raise Refusal(f"{path} has no {part}")
            if pieces.dtype != object and lengths is None:
                raise Refusal(f"{path}: {part} is one array {list(pieces.shape)}, and there is no {part}_lengths")
            if lengths is not None and (lengths.shape != pieces.shape[:1] or lengths.max(initial=0) > pieces.shape[1]):
                raise Refusal(f"{path}: {part}_lengths does not fit {part}, which is {list(pieces.shape)}")
            found[part] = list(pieces) if lengths is None else [piece[:n] for piece, n in zip(pieces, lengths)]
    return found


def _from_mat(path: Path) -> dict[str, list]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise Refusal(f'.mat files need SciPy: pip install scipy, or pip install ".[demos]" ({error})') from None
    found = loadmat(path)
    missing = [part for part in PARTS if part not in found]
    if missing:
        raise Refusal(f"{path} has no {', '.join(missing)}")
    return {part: list(found[part].ravel()) for part in PARTS}


def read(path: Path) -> list[list[np.ndarray]]:
    """The pieces to learn from, to choose by and to be tested on, each [T, K] of 0 and 1 with two frames at least."""
    if path.suffix not in (".mat", ".npz"):
        raise Refusal(f"{path}: must end in .mat or .npz")
    with path.open("rb"):
        pass  # what is not there is an OSError with its name
    try:
        found = (_from_mat if path.suffix == ".mat" else _from_npz)(path)
    except (zipfile.BadZipFile, ValueError, pickle.UnpicklingError) as error:
        raise Refusal(f"{path} cannot be read: {error}") from None
    parts = [[np.asarray(piece, np.float32) for piece in found[part]] for part in PARTS]
    for name, pieces in zip(PARTS, parts):
        for piece in pieces:
            if piece.ndim != 2 or piece.shape[1] != pieces[0].shape[1] or not np.isin(piece, (0, 1)).all():
                raise Refusal(f"{path}: {name} must hold matrices [T, keys] of 0 and 1, found one {list(piece.shape)}")
    parts = [[piece for piece in pieces if len(piece) > 1] for pieces in parts]
    if not all(parts) or len({pieces[0].shape[1] for pieces in parts}) != 1:
        raise Refusal(f"{path}: each of {', '.join(PARTS)} must have pieces, of as many keys as the others")
    return parts


class Batch(NamedTuple):
    """Frames x[T, B, K] and those after them, y; of each piece its first `lengths` ones count."""

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray


def batches(pieces: list[np.ndarray], order: np.ndarray) -> Iterator[Batch]:
    """Batches of pieces, neighbours in this order, padded with zeros."""
    for first in range(0, len(order), BATCH):
        own = [pieces[k] for k in order[first : first + BATCH]]
        lengths = np.array([len(piece) - 1 for piece in own])
        frames = np.zeros((lengths.max() + 1, len(own), own[0].shape[1]), np.float32)
        for k, piece in enumerate(own):
            frames[: len(piece), k] = piece
        yield Batch(frames[:-1], frames[1:], lengths)


def loss(scores: tg.Tensor, batch: Batch) -> tg.Tensor:
    """The sum of the negative log-likelihoods of the frames that count, in nats."""
    counts = (np.arange(len(batch.x))[:, None] < batch.lengths)[..., None].astype(np.float32)  # [T, B, 1]
    losses = tg.nn.functional.binary_cross_entropy_with_logits(scores, batch.y, reduction="none")
    return (losses * tg.tensor(counts)).sum()


# ---- The models ------------------------------------------------------------------------------------------------------


class Recurrent(tg.nn.Module):
    """A recurrent layer and a linear map of its outputs, dropout between them."""

    def __init__(self, layer: Callable[[int, int], tg.nn.Stack], keys: int, hidden: int, dropout: float) -> None:
        self.recurrent, self.dropout = layer(keys, hidden), tg.nn.Dropout(dropout)
        self.scores = tg.nn.Linear(output_width(self.recurrent.cells[0]), keys)

    def forward(self, x, lengths):
        y, _ = self.recurrent(x, lengths=lengths)
        return self.scores(self.dropout(y))


class TCN(tg.nn.Module):
    """A temporal convolutional network: what lies behind the end of a piece is not seen before it."""

    def __init__(self, keys: int, hidden: int, dropout: float) -> None:
        self.tcn = tg.nn.TCN(keys, [hidden] * 4, kernel_size=5, dropout=dropout)
        self.scores = tg.nn.Linear(hidden, keys)

    def forward(self, x, lengths):
        y = self.tcn(tg.tensor(x).permute(1, 2, 0))  # [T, B, K] -> [B, K, T]
        return self.scores(y.permute(2, 0, 1))


@dataclass(frozen=True)
class Recipe:
    """A model, the rate at which Adam changes it, and the published test figures of Bai et al. by a file's name."""

    label: str
    make: Callable[[int, int, float], tg.nn.Module]
    hidden: int
    dropout: float
    lr: float
    published: dict[str, float]


RECIPES = {
    "lstm": Recipe(
        "LSTM", lambda *sizes: Recurrent(tg.nn.LSTM, *sizes), hidden=200, dropout=0.5, lr=2e-3,
        published=dict(JSB=8.45, Nottingham=3.29),
    ),
    "gru": Recipe(
        "GRU", lambda *sizes: Recurrent(tg.nn.GRU, *sizes), hidden=200, dropout=0.5, lr=2e-3,
        published=dict(JSB=8.43, Nottingham=3.46),
    ),
    "tcn": Recipe("TCN", TCN, hidden=150, dropout=0.25, lr=1e-3, published=dict(JSB=8.10, Nottingham=3.07)),
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of that name; that of another cell is the LSTM's.

    Raises:
        Refusal: it is no cell.
    """
    if name in RECIPES:
        return RECIPES[name]
    try:
        name = cell_named(name)
    except argparse.ArgumentTypeError:
        raise Refusal(f"--music takes the models {', '.join(RECIPES)}, and cells, not {name}") from None
    one = lambda keys, hidden: tg.nn.Stack(lambda size: cells.make(name, size, hidden), keys, 1)
    return Recipe(label(name), lambda *sizes: Recurrent(one, *sizes), hidden=200, dropout=0.5, lr=2e-3, published={})


# ---- Learning --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What came of one model: nats a frame after each epoch, and on the test where validation was best."""

    model: str
    seed: int
    parameters: int
    learned: list[float] = field(default_factory=list)
    validated: list[float] = field(default_factory=list)
    test: float = float("inf")
    epoch: int = 0
    seconds: float = 0.0


def measure(model: tg.nn.Module, pieces: list[np.ndarray]) -> float:
    """Nats a frame."""
    model.eval()
    order = np.argsort([len(piece) for piece in pieces])  # batches of nearly one length
    with tg.no_grad():
        total = sum(loss(model(b.x, b.lengths), b).item() for b in batches(pieces, order))
    model.train()
    return total / sum(len(piece) - 1 for piece in pieces)


def learn(name: str, seed: int, parts: list[list[np.ndarray]], options: argparse.Namespace) -> Result:
    """Train until the epochs are used up; the test is asked where validation was best."""
    began, how = time.process_time(), recipe(name)
    train, valid, test = parts
    tg.manual_seed(seed)
    rng = np.random.default_rng(seed)
    try:
        model = how.make(train[0].shape[1], options.hidden or how.hidden, how.dropout)
    except ValueError as error:  # such as sizes that a cell cannot have
        raise Refusal(f"{name}: {error}") from None
    optimiser = tg.optim.Adam(model.parameters(), lr=options.lr or how.lr)
    result = Result(name, seed, sum(p.numel() for p in model.parameters()))
    frames, best = sum(len(piece) - 1 for piece in train), float("inf")
    said = f"{how.label:<5} seed {seed}"
    bar = tqdm(total=options.epochs * len(train), desc=said, unit="piece", mininterval=_seconds_between())
    for epoch in range(1, options.epochs + 1):
        total = 0.0
        for batch in batches(train, rng.permutation(len(train))):
            nats = loss(model(batch.x, batch.lengths), batch)
            optimiser.zero_grad()
            (nats / batch.lengths.sum()).backward()
            tg.nn.utils.clip_grad_norm_(model.named_parameters(), 1.0)
            optimiser.step()
            total += nats.item()
            bar.update(len(batch.lengths))
        result.learned.append(total / frames)
        result.validated.append(measure(model, valid))
        if result.validated[-1] < best:
            best, result.epoch, result.test = result.validated[-1], epoch, measure(model, test)
        bar.set_postfix_str(f"{result.validated[-1]:.2f} nats a frame")
    bar.close()
    result.seconds = time.process_time() - began
    return result


def _seconds_between() -> float:
    """Between two lines of a progress bar: a log file gets few."""
    return 0.5 if sys.stderr.isatty() else 10


# ---- What comes out of it --------------------------------------------------------------------------------------------


def published(name: str, path: Path) -> float | None:
    return next((nats for piece, nats in recipe(name).published.items() if piece in path.stem), None)


def table(results: list[Result], path: Path) -> str:
    """Nats a frame of the test, in Markdown: the mean of the seeds, and what they span."""
    lines = ["| | parameters | validation | test | Bai et al. | minutes |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(r.model for r in results):
        own = [r for r in results if r.model == name]
        tests, known = [r.test for r in own], published(name, path)
        spread = f" ({min(tests):.2f} to {max(tests):.2f})" if len(own) > 1 else ""
        lines.append(
            f"| {recipe(name).label} | {own[0].parameters:,} | {np.mean([min(r.validated) for r in own]):.2f} "
            f"| {np.mean(tests):.2f}{spread} | {'' if known is None else format(known, '.2f')} "
            f"| {np.mean([r.seconds for r in own]) / 60:.1f} |"
        )
    return "\n".join(lines)


def draw(results: list[Result], path: Path, out: Path) -> None:
    """Nats a frame against epochs: what is learned from, dashed, and validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    strokes = dict(zip(RECIPES, (("#1b1b3a", "o"), ("#b2543b", "s"), ("#4da3a0", "^"))))
    others = dict.fromkeys(r.model for r in results if r.model not in RECIPES)
    strokes |= {name: (f"C{k % 10}", "Dv<>P*X"[k % 7]) for k, name in enumerate(others)}
    for r in results:
        colour, mark = strokes[r.model]
        first, epochs = r.seed == results[0].seed, np.arange(1, len(r.learned) + 1)
        axes.plot(epochs, r.learned, "--", color=colour, lw=1 if first else 0.5)
        said = f"{recipe(r.model).label}: test {r.test:.2f}" if first else None
        axes.plot(epochs, r.validated, color=colour, lw=1.6 if first else 0.8, label=said)
        axes.plot(r.epoch, min(r.validated), mark, color=colour)
    axes.plot([], [], "k", lw=1.6, label="validation, its lowest marked")
    axes.plot([], [], "k--", lw=1, label="what is learned from")
    axes.set(xlabel="epoch", ylabel="negative log-likelihood of a frame (nats)", title=path.stem.replace("_", " "))
    lowest = min(min(r.learned + r.validated) for r in results)
    axes.set_ylim(top=max(1.6 * min(min(r.validated) for r in results), 1.02 * lowest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, out)


def main(options: argparse.Namespace) -> None:
    parts = read(options.music)
    if options.quick:
        parts = [pieces[:8] for pieces in parts]
        options.epochs, options.hidden = 2, options.hidden or 8
    chosen = options.models or list(RECIPES)
    for name in chosen:
        recipe(name)  # which says so if it takes none of that name
    seeds = range(options.seed, options.seed + options.seeds)
    results = [learn(name, seed, parts, options) for name in chosen for seed in seeds]
    frames = [sum(map(len, pieces)) for pieces in parts]
    print(f"\n{table(results, options.music)}\n")
    print(f"nats a frame, over {frames[2]:,} frames of {len(parts[2])} pieces, where the {len(parts[1])} of validation")
    print(f"were predicted best; learned from {frames[0]:,} frames of {len(parts[0])} pieces, {options.epochs} times")
    (options.out / "music.json").write_text(json.dumps([asdict(r) for r in results]))
    draw(results, options.music, options.out / "music.png")
