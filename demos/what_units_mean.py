"""What the units of a network that has learned to write mean, if anything: `python demos/what_units_mean.py`.

A character model learns from plays, or comes from `--checkpoint`. A sparse autoencoder then writes its states h as sums
of a few of many directions, its latents, which are said to mean something where single units do not. Whether they do is
asked of labels that rules give to every character of a text that neither has seen: is it in a speaker's name, in a
stage direction, the first letter of a line, the third of a word? Of all latents, and of whatever they are compared
with, the one that tells a label best is found on the first half of that text, with a threshold, and its F1 measured on
the second:

    always      says yes to every character
    unit        a number of h
    PCA         h along one of its principal axes
    latent      a latent of the sparse autoencoder
    probe       a direction that was told the label: logistic regression on h
    untrained   unit, latent and probe of a network of the same size that has learned nothing

It ends in a table, a picture, sentences that are made of the numbers, and for each label the places where its latent is
most active.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import char_lm
import look_inside
import numpy as np
from char_lm import HERE, Refusal, Run, number
from shared import ANY_CELL, cell_named

import tinygrad_rnn as tg

SETTINGS = look_inside.SETTINGS  # of the character model
QUICK = look_inside.QUICK
SIZES = dict(read=300_000, latents=1024, k=16, sae_steps=1500, batch=1024, sae_lr=2e-3, probe_steps=600)
QUICK_SIZES = dict(read=4000, latents=24, k=3, sae_steps=20, batch=128, sae_lr=2e-3, probe_steps=20)
STREAMS, WARM = (64, 16), 100  # of the learned and of the held-out text, and characters of each that are not looked at
RARE = 20  # a label that is less frequent in a half of the text says nothing
METHODS = ("unit", "PCA", "latent", "probe", "untrained unit", "untrained latent", "untrained probe")


# ---- Labels ----------------------------------------------------------------------------------------------------------


def labels(text: str) -> dict[str, np.ndarray]:
    """What rules say of every character, once it has been read: yes or no."""
    cues = look_inside.cues(text)
    line, word = (cues[f"the length of the {what} so far"].astype(int) for what in ("line", "word"))
    characters = np.array(list(text))
    capital = cues["whether a letter is a capital"] > 0
    follows = np.append(characters[1:], "\n")
    name = np.zeros(len(text), bool)
    for found in re.finditer(r"(?<=\n\n)[A-Z][^\n\[\]]{0,30}\.(?=\n[^\n])", text):
        name[slice(*found.span())] = True
    return {
        "in a speaker's name": name,
        "in a stage direction": cues["whether a stage direction is open"] > 0,
        "first character of a line": line == 1,
        "place in the line: to 10": line <= 10,
        "place in the line: 11 to 40": (line > 10) & (line <= 40),
        "place in the line: above 40": line > 40,
        "last character of a line": (follows == "\n") & (characters != "\n"),
        "capital after a capital": capital & np.append(False, capital[:-1]),
        "letter after an apostrophe": (word > 0) & (characters[np.arange(len(text)) - word] == "'"),
        "first letter of a word": word == 1,
        "second letter of a word": word == 2,
        "third letter of a word": word == 3,
        "fourth letter of a word": word == 4,
        "fifth letter of a word, or later": word >= 5,
        "last letter of a word": (word > 0) & ~np.char.isalpha(follows),
    }


def progress(name: str, unit: str, over: Any = None, **more: Any) -> Any:
    """A progress bar, which writes seldom where nobody looks."""
    from tqdm import tqdm

    return tqdm(over, desc=name, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10, **more)


# ---- States ----------------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """A text as a network has read it, in stretches one after the other.

    Attributes:
        at: [n], where in the text each character stands.
        numbers, follows: [n], the characters, and what comes next.
        states: [n, H], the topmost h after each.
    """

    at: np.ndarray
    numbers: np.ndarray
    follows: np.ndarray
    states: np.ndarray


def read(model: Any, numbers: np.ndarray, streams: int, most: int, name: str) -> Read:
    """So many stretches of a text side by side, of each the beginning but the first characters."""
    streams = max(1, min(streams, len(numbers) // (4 * WARM)))
    places, _ = char_lm.streams(np.arange(len(numbers)), streams)
    places = places[: WARM + max(most // streams, 1)]
    state, h = None, []
    model.eval()
    with tg.no_grad(), progress(name, "character", total=places.size, unit_scale=True) as bar:
        for start in range(0, len(places), 256):
            piece = places[start : start + 256]
            y, state = model.recurrent(model.embedding(numbers[piece]), state)
            h.append(y.numpy())
            bar.update(piece.size)
    at = places[WARM:].T.reshape(-1)
    states = np.concatenate(h)[WARM:].transpose(1, 0, 2).reshape(len(at), -1)
    return Read(at, numbers[at], numbers[at + 1], states)


# ---- What might tell a label -----------------------------------------------------------------------------------------


def sparse_autoencoder(states: np.ndarray, sizes: dict, seed: int, name: str) -> tg.nn.SparseAutoencoder:
    """One that has learned from these states."""
    tg.manual_seed(seed)
    rng, width = np.random.default_rng(seed), states.shape[1]
    sae = tg.nn.SparseAutoencoder(width, sizes["latents"], k=sizes["k"], dead_after=50 * sizes["batch"])
    optimiser = sae.normalise(states).watch(tg.optim.Adam(sae.parameters(), lr=sizes["sae_lr"]))
    bar = progress(name, "step", range(sizes["sae_steps"]))
    for step in bar:
        optimiser.param_groups[0]["lr"] = sizes["sae_lr"] * min(1.0, 2 * (1 - step / sizes["sae_steps"]))
        loss = sae.loss(states[rng.integers(len(states), size=sizes["batch"])])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"unexplained {loss.item():.3f}", refresh=False)
    return sae.eval()


def pieces(of: Callable[[np.ndarray], tg.Tensor], states: np.ndarray) -> np.ndarray:
    """What a function makes of states, some thousands at a time."""
    with tg.no_grad():
        return np.concatenate([of(states[k : k + 4096]).numpy() for k in range(0, len(states), 4096)])


def axes(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and the principal axes [H, H] as columns, those of the largest variance first."""
    mean = states.mean(0, np.float64)
    _, vectors = np.linalg.eigh(np.cov(states.T, dtype=np.float64))
    return mean.astype(np.float32), vectors[:, ::-1].astype(np.float32)


def probes(states: np.ndarray, truth: np.ndarray, steps: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regressions, one for each column of truth [n, L]: states [n, H] -> scores [n, L]."""
    tg.manual_seed(seed)
    rng = np.random.default_rng(seed)
    mean, deviation = states.mean(0), np.maximum(states.std(0), 1e-6)
    linear = tg.nn.Linear(states.shape[1], truth.shape[1])
    optimiser = tg.optim.Adam(linear.parameters(), lr=0.03)
    for step in range(steps):
        rows = rng.integers(len(states), size=4096)
        optimiser.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        optimiser.zero_grad()
        x = (states[rows] - mean) / deviation
        tg.binary_cross_entropy_with_logits(linear(x), truth[rows].astype(np.float32), reduction="sum").backward()
        for parameter in linear.parameters():
            parameter.grad /= len(rows)
        optimiser.step()
    return lambda states: pieces(lambda s: linear((s - mean) / deviation), states)


# ---- How well it tells it --------------------------------------------------------------------------------------------


def f1(says: np.ndarray, truth: np.ndarray) -> float:
    """2 hits / (said + true): 1 if it says what is true, 0 if it never hits."""
    return float(2 * (says & truth).sum() / max(says.sum() + truth.sum(), 1))


def thresholds(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each label, truth [L, n], the best F1 of `values >= threshold`, and that threshold: values are [n].

    Always saying yes is one of the choices, with a threshold of minus infinity.
    """
    order = np.flatnonzero(values > 0) if (values >= 0).all() else np.arange(len(values))  # of latents most are 0
    order = order[np.argsort(-values[order], kind="stable")]
    true = truth.sum(-1)
    always, never = 2 * true / (truth.shape[1] + true), np.full(len(truth), -np.inf)
    if not len(order):
        return always, never
    hits = np.cumsum(truth[:, order], -1, dtype=np.int32)
    score = 2 * hits / (np.arange(1, len(order) + 1, dtype=np.float32) + true[:, None].astype(np.float32))
    ranked = values[order]
    score[:, :-1][:, ranked[1:] == ranked[:-1]] = 0  # equal numbers are all on one side
    best = score.argmax(-1)
    found = score[np.arange(len(truth)), best]
    return np.maximum(found, always), np.where(found > always, ranked[best], never)


class Best(NamedTuple):
    """The column that tells a label best: its F1 where that was not looked for, and `sign * column >= threshold`."""

    f1: float
    column: int
    sign: int
    threshold: float


def best(values: np.ndarray, truth: np.ndarray, half: int, bar: Any, signs: tuple[int, ...] = (1, -1)) -> list[Best]:
    """For each label, truth [L, n], the best column of values [n, M]: found before `half`, measured from there on."""
    top, chosen = np.full(len(truth), -1.0), [(0, 1, 0.0)] * len(truth)
    before = np.ascontiguousarray(truth[:, :half])
    for column in range(values.shape[1]):
        for sign in signs:
            scores, at = thresholds(sign * values[:half, column], before)
            for k in np.flatnonzero(scores > top):
                top[k], chosen[k] = scores[k], (column, sign, float(at[k]))
        if bar is not None:
            bar.update()
    measured = [f1(s * values[half:, c] >= t, truth[k, half:]) for k, (c, s, t) in enumerate(chosen)]
    return [Best(score, *how) for score, how in zip(measured, chosen)]


class Found(NamedTuple):
    """All that was found.

    Attributes:
        names, rare: the labels that are frequent enough, and those that are not.
        share: for each, how many characters of the second half have it.
        best: for each method the best of every label.
        metrics: of the sparse autoencoder, by name.
        held_out: the text that was read, and what it was read as.
        latents: [n, N] of it.
        half: where its second half begins.
    """

    names: list[str]
    rare: list[str]
    share: np.ndarray
    best: dict[str, list[Best]]
    metrics: dict[str, float]
    held_out: Read
    latents: np.ndarray
    half: int

    @property
    def always(self) -> np.ndarray:
        return 2 * self.share / (1 + self.share)


def bits(run: Run, states: np.ndarray, follows: np.ndarray) -> float:
    """Per character, if the network had these states before its last layer."""
    scores = pieces(lambda s: run.model.scores(tg.tensor(s)), states)
    return float(char_lm.loss_in_bits(tg.tensor(scores), follows).item())


def measured(run: Run, sae: Any, held_out: Read, learned: np.ndarray, k: int) -> dict[str, float]:
    """What a sparse autoencoder leaves over of states, and k principal axes."""
    metrics = sae.metrics(held_out.states)
    mean, vectors = axes(learned)
    near = (held_out.states - mean) @ vectors[:, :k] @ vectors[:, :k].T + mean
    left = np.square(near - held_out.states).sum() / np.square(held_out.states - held_out.states.mean(0)).sum()
    model, zero = (bits(run, s, held_out.follows) for s in (held_out.states, np.zeros_like(held_out.states)))
    recovered = lambda s: tg.nn.utils.loss_recovered(model, bits(run, s, held_out.follows), zero)
    return dict(
        metrics._asdict(), bits=model, recovered=recovered(pieces(lambda s: sae(s)[0], held_out.states)),
        pca_unexplained=float(left), pca_recovered=recovered(near),
    )  # fmt: skip


def find(run: Run, text: str, sizes: dict, seed: int) -> Found:
    """Train what is compared, and compare it."""
    learned, held_out = char_lm.split(text, run.vocabulary)
    begin = len(learned)
    every = labels(text)
    blank = Run(run.settings | dict(seed=seed + 1), run.vocabulary, run.text)
    methods: dict[str, list[Best]] = {}
    for word, one in (("", run), ("untrained ", blank)):
        seen = read(one.model, learned, STREAMS[0], sizes["read"], f"{word}network reads")
        unseen = read(one.model, held_out, STREAMS[1], len(held_out), f"{word}network reads")
        half = len(unseen.at) // 2
        truth = np.stack([every[name][begin + unseen.at] for name in every])
        enough = np.minimum(truth[:, :half].sum(-1), truth[:, half:].sum(-1)) >= RARE
        names, rare = [[name for name, yes in zip(every, enough) if yes == which] for which in (True, False)]
        if not names:
            raise Refusal("there is no label that is frequent enough in the held-out text: take a longer one")
        truth, told = truth[enough], np.stack([every[name][seen.at] for name in names], -1)
        sae = sparse_autoencoder(seen.states, sizes, seed, f"{word}autoencoder")
        latents = pieces(sae.encode, unseen.states)
        scores = probes(seen.states, told, sizes["probe_steps"], seed)(unseen.states)
        mean, vectors = axes(seen.states)
        with progress(f"{word}F1", "direction", total=2 * len(vectors) + latents.shape[1]) as bar:
            methods[f"{word}unit"] = best(unseen.states, truth, half, bar)
            methods[f"{word}PCA"] = best((unseen.states - mean) @ vectors, truth, half, bar)
            methods[f"{word}latent"] = best(latents, truth, half, bar, signs=(1,))
        methods[f"{word}probe"] = [
            best(scores[:, [k]], truth[[k]], half, None, signs=(1,))[0]._replace(column=k) for k in range(len(names))
        ]
        if not word:
            kept = measured(run, sae, unseen, seen.states, sizes["k"]), unseen, latents, half
    share, methods = truth[:, half:].mean(-1), {m: methods[m] for m in METHODS}
    return Found(names, rare, share, methods, *kept)


# ---- What comes out of it --------------------------------------------------------------------------------------------


def table(found: Found) -> str:
    """F1 of every label by every method."""
    head = ["", "share", "always", *(m.replace("untrained ", "") for m in METHODS)]
    lines = [f"{'':<34}{'':>{7 * 6}}{'untrained':>15}", "".join(f"{h:>7}" if h else f"{'F1':<34}" for h in head)]
    rows = zip(found.names, found.share, found.always, zip(*(found.best[m] for m in METHODS)))
    for name, share, always, scores in rows:
        lines.append(f"{name:<34}{share:>7.1%}{always:>7.2f}" + "".join(f"{s.f1:>7.2f}" for s in scores))
    means = [np.mean([b.f1 for b in found.best[m]]) for m in METHODS]
    for name in found.rare:
        lines.append(f"{name:<34}   fewer than {RARE} in a half of the text")
    lines.append(f"{'mean':<34}{'':>7}{found.always.mean():>7.2f}" + "".join(f"{m:>7.2f}" for m in means))
    return "\n".join(lines)


def says(found: Found, sizes: dict) -> list[str]:
    """The table in sentences."""
    score = {m: np.array([b.f1 for b in found.best[m]]) for m in METHODS}
    n, latent, metrics = len(found.names), score["latent"], found.metrics
    better = lambda other: int((latent > score[other] + 0.02).sum())
    worse = lambda other: int((latent < score[other] - 0.02).sum())
    against = lambda other: f"{better(other)} and worse by as much for {worse(other)}"
    low, high = int(latent.argmin()), int((latent - found.always).argmax())
    axes = f"{sizes['k']} principal axes"
    return [
        f"{metrics['l0']:.1f} of {sizes['latents']} latents are active in a state; they leave "
        f"{metrics['unexplained']:.1%} of its variance over, {axes} {metrics['pca_unexplained']:.1%}.",
        f"{metrics['dead']:.0%} of the latents are active nowhere in the held-out text.",
        f"With x^ in place of h the network keeps {metrics['recovered']:.1%} of what h is worth (from the loss with "
        f"zeros to {metrics['bits']:.2f} bits per character), with {axes} {metrics['pca_recovered']:.1%}.",
        f"Of {n} labels, a latent tells more than 0.02 better than the best unit for {against('unit')}, than the best "
        f"principal axis for {against('PCA')}.",
        f"Than a probe, which was told the label, it does better for {against('probe')}.",
        f"Than the best latent of an untrained network it does better for {against('untrained latent')}; than that "
        f"network's probe for {against('untrained probe')}.",
        f"Most beyond always saying yes it tells “{found.names[high]}” (F1 {latent[high]:.2f} against "
        f"{found.always[high]:.2f}), worst “{found.names[low]}” ({latent[low]:.2f}).",
    ]


def contexts(found: Found, text: str, begin: int, count: int = 5) -> str:
    """For each label the second half's places where its latent is most active, the character itself in brackets."""
    lines = []
    for name, one in zip(found.names, found.best["latent"]):
        values = found.latents[found.half :, one.column]
        if one.threshold == -np.inf:
            lines.append(f"no latent: {name} (always saying yes is better)")
            continue
        lines.append(f"latent {one.column}, active in {(values > 0).mean():.1%}: {name} (F1 {one.f1:.2f})")
        shown: list[int] = []
        for k in np.argsort(-values, kind="stable"):
            at = begin + int(found.held_out.at[found.half + k])
            if len(shown) == count or values[k] <= 0:
                break
            if all(abs(at - other) > 40 for other in shown):
                shown.append(at)
                before, after = text[at - 28 : at], text[at + 1 : at + 13]
                marked = f"{before}⟦{text[at]}⟧{after}".replace("\n", "↵")
                lines.append(f"{values[k]:>8.2f}  {marked}")
    return "\n".join(lines)


MARKS = {
    "unit": ("s", "#e69f00"), "PCA": ("D", "#999999"), "latent": ("o", "#0072b2"), "probe": ("|", "#000000"),
    "untrained unit": ("s", "#e69f00"), "untrained latent": ("o", "#0072b2"), "untrained probe": ("|", "#000000"),
}  # fmt: skip


def draw(found: Found, text: str, begin: int, title: str, path: Path) -> None:
    """F1 by label and method, and a stretch of text in the colours of a latent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9.6), layout="constrained")
    rows = figure.subfigures(2, height_ratios=[3, 1.5])
    left, right = rows[0].subplots(1, 2, sharey=True)
    order = np.argsort([b.f1 for b in found.best["latent"]])
    for ax, word in ((left, ""), (right, "untrained ")):
        for method in METHODS:
            if method.startswith("untrained") == bool(word):
                marker, colour = MARKS[method]
                scores = [found.best[method][k].f1 for k in order]
                size = dict(ms=11, mew=2) if marker == "|" else dict(ms=6, mew=0.6)
                style = dict(marker=marker, color=colour, ls="", mec="black", **size)
                ax.plot(scores, range(len(order)), label=method.replace("untrained ", ""), **style)
        ax.barh(range(len(order)), found.always[order], color="0.88", label="always yes", zorder=0)
        ax.set(xlim=(0, 1.02), xlabel="F1 on text that had no part in choosing", title="untrained" if word else title)
        ax.grid(axis="x", color="0.92", zorder=-1)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    left.set_yticks(range(len(order)), [found.names[k] for k in order])
    left.legend(loc="lower right", fontsize=8)
    high = int(np.argmax([b.f1 for b in found.best["latent"]] - found.always))
    one, first = found.best["latent"][high], found.half
    says_yes = np.flatnonzero(found.latents[first:, one.column] >= one.threshold)
    start = first + max(int(says_yes[0]) - 120, 0) if len(says_yes) else first
    where = slice(start, min(start + 620, len(found.held_out.at)))
    chars = "".join(text[begin + at] for at in found.held_out.at[where])
    picture = look_inside.colored(*look_inside.by_lines(chars, found.latents[where, one.column].astype(float)))
    ax = rows[1].subplots()
    picture.plot(ax)
    look_inside._without_blanks(ax)
    ax.set_title(f"latent {one.column}: {found.names[high]}, F1 {one.f1:.2f} (the lighter, the more active)")
    figure.savefig(path, dpi=120)


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> char_lm.Parser:
    parser = char_lm.Parser(prog="what_units_mean.py", description=__doc__.split("\n")[0])
    add, count = parser.add_argument, number(int, 1)
    add("--checkpoint", type=Path, metavar="FILE", help="ask this network, of char_lm.py, and train none")
    add("--text", type=Path, default=HERE / "data" / "shakespeare.txt", metavar="FILE", help="UTF-8 text to read")
    add("--out", type=Path, default=HERE / "runs" / "what_units_mean", metavar="FOLDER", help="where results go")
    add("--cell", type=cell_named, metavar="CELL", help=f"the cell to train, {ANY_CELL} (default: {SETTINGS['cell']})")
    add("--steps", type=count, help=f"updates of the network (default: {SETTINGS['steps']})")
    add("--latents", type=count, help=f"of the sparse autoencoder (default: {SIZES['latents']})")
    add("--k", type=count, help=f"how many of them are active in a state (default: {SIZES['k']})")
    add("--sae-steps", type=count, help=f"updates of the sparse autoencoder (default: {SIZES['sae_steps']})")
    add("--read", type=count, help=f"characters whose states it learns from (default: {SIZES['read']:,})")
    add("--seed", type=number(int, 0), default=0, help="of initial weights and batches (default: 0)")
    add("--quick", action="store_true", help="tiny networks that have learned next to nothing: to see that it runs")
    add("--threads", type=count, help="processor cores to use at most")
    return parser


def trained(options: argparse.Namespace, text: str) -> Run:
    """The network to ask."""
    if options.checkpoint:
        run = Run.load(options.checkpoint)
        unknown = sorted(set(text) - set(run.vocabulary))
        if unknown:
            raise Refusal(f"the network has not met {' '.join(map(repr, unknown))}: give the text that it learned from")
        return run
    settings = SETTINGS | (QUICK if options.quick else {}) | dict(seed=options.seed)
    settings |= {name: value for name in ("steps", "cell") if (value := getattr(options, name)) is not None}
    char_lm.check_length(text, settings["batch"], settings["length"])
    run = Run(settings, "".join(sorted(set(text))), hashlib.sha256(text.encode()).hexdigest())
    char_lm.train(run, *char_lm.split(text, run.vocabulary), options.out / "checkpoint.safetensors", temperature=0.8)
    return run


def main(options: argparse.Namespace) -> None:
    char_lm.use_threads(options.threads)
    sizes = QUICK_SIZES if options.quick else SIZES
    sizes = sizes | {name: value for name in sizes if (value := getattr(options, name, None)) is not None}
    if sizes["k"] > sizes["latents"]:
        raise Refusal(f"--k {sizes['k']} is more than there are latents, {sizes['latents']}")
    text = char_lm.read(options.text)
    if len(text) < 40 * WARM:
        raise Refusal(f"the text has {len(text):,} characters, and needs at least {40 * WARM:,}")
    char_lm.writable(options.out)
    run = trained(options, text)
    found = find(run, text, sizes, options.seed)
    begin = len(text) * 9 // 10
    report = f"{table(found)}\n\n" + "\n".join(f"- {sentence}" for sentence in says(found, sizes))
    (options.out / "contexts.txt").write_text(contexts(found, text, begin) + "\n", encoding="utf-8")
    rows = {m: dict(zip(found.names, (b.f1 for b in found.best[m]))) for m in METHODS}
    (options.out / "what_units_mean.json").write_text(json.dumps(dict(f1=rows, metrics=found.metrics), indent=1))
    draw(found, text, begin, char_lm.name_of(run), options.out / "what_units_mean.png")
    print(f"\n{report}\n\n{contexts(found, text, begin, 2)}\n\n{options.out / 'what_units_mean.png'}")


if __name__ == "__main__":
    char_lm.command_line(arguments(), main)
