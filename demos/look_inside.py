"""What happens inside a network that has learned to write: `python demos/look_inside.py`.

A small character model learns from plays for some forty seconds, then reads text that it has not seen, while every
value and every gradient is kept. What comes of it is a folder of pictures, and a page, `index.html`, which needs
nothing else. It ends in what the pictures say, in sentences that are made of the numbers.

`--checkpoint FILE` looks into a network that `python demos/char_lm.py` has trained, of whatever size.
"""

import argparse
import base64
import hashlib
import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import char_lm
import numpy as np
from char_lm import HERE, Refusal, Run, number

import tinygrad_rnn as tg
from tinygrad_rnn.study.text import COLUMNS

SETTINGS = char_lm.DEFAULTS | dict(hidden=128, embedding=32, dropout=0.0, steps=1500, every=500)
QUICK = dict(hidden=12, embedding=6, batch=8, length=24, steps=30, every=30)
KEEPS = {"LSTM": "f", "GRU": "z"}  # the gates that say which share of a state is kept
SHORT, LONG, BATCH = 72, 4000, 32  # characters of a picture, of what is counted, and texts side by side
QUICK_READ = (24, 400, 4)
MOST_JACOBIANS = 1 << 25  # numbers
GREY = 200  # where a text has no number
LOWEST = -2.5  # of the exponents that are drawn


# ---- What is looked at -----------------------------------------------------------------------------------------------


class Look:
    """A network and text that it has not seen.

    Attributes:
        model: in `eval` mode.
        text, numbers: the held-out text, and its characters' places in the vocabulary.
        r: the recording of the last recurrent layer, which has read `long` characters one by one.
        state: the model's states then, from which shorter pieces, `after` them, are read.
        unit, of: the unit that follows a cue best, and the state that it is of.
    """

    def __init__(self, run: Run, text: str, sizes: tuple[int, int, int]) -> None:
        self.run, self.model, self.text = run, run.model.eval(), text
        self.short, self.long, self.batch = sizes
        self.numbers = np.array([run.vocabulary.index(character) for character in text])
        with tg.no_grad(), tg.record(self.model) as r:
            _, self.state = self.model(self.numbers[: self.long, None])
        self.r = self.last(r)
        self.states = tuple(self.r.cell.state_names)
        gates = [name for name in self.r.names if name not in self.states and is_gate(self.r[name].numpy())]
        kind = type(self.r.cell).__name__.removesuffix("Cell")
        self.keeps = KEEPS.get(kind)
        self.gate = self.keeps or next(iter(gates), None)
        self.after = slice(self.long, self.long + self.short)
        self.unit, self.of = 0, self.states[-1]

    @staticmethod
    def last(r: Any) -> Any:
        """The recording of the topmost layer."""
        return r[-1] if isinstance(r, (list, tuple)) else r

    def course(self, name: str) -> np.ndarray:
        """[T, units], a value as the text is read."""
        array = self.r[name].numpy()[:, 0]
        return array.reshape(len(array), -1).astype(np.float64)

    def pieces(self, length: int, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Texts [T, B] side by side from all over the held-out text, and what comes next at each character."""
        starts = np.linspace(0, len(self.numbers) - length - 1, self.batch * times).astype(int)
        at = np.arange(length)[:, None] + starts
        return self.numbers[at], self.numbers[at + 1]


class Picture(NamedTuple):
    """What one look has found.

    Attributes:
        title: over the picture.
        result: of the study kit.
        says: sentences that are made of its numbers.
        more: what else to draw on its axes.
        html: what to show beside the picture.
    """

    title: str
    result: tg.study.Result
    says: list[str]
    more: Callable[[Any], None] = lambda ax: None
    html: str = ""


def is_gate(values: np.ndarray) -> bool:
    """Whether all numbers lie between 0 and 1, and not all are the same."""
    return bool((values >= 0).all() and (values <= 1).all() and np.ptp(values) > 0)


def shown(character: str) -> str:
    return {"\n": "↵", " ": "␣"}.get(character, character)


def on_characters(text: str, axis: str = "x") -> Callable[[Any], None]:
    """Name the steps of an axis by the characters that were read."""

    def draw(ax: Any) -> None:
        for one in axis:
            size = 6.2 if len(text) < 60 else 5.5
            labels = [shown(character).replace("$", r"\$") for character in text]
            getattr(ax, f"set_{one}ticks")(range(len(text)), labels, family="monospace", fontsize=size)
            ax.tick_params(axis=one, length=0, pad=1)

    return draw


KINDS = {
    "letter": "small letters", "capital": "capitals", "space": "spaces", "line end": "ends of lines",
    "other": "other characters",
}  # fmt: skip


def kind_of(character: str) -> str:
    """One of KINDS."""
    if character.isalpha():
        return "capital" if character.isupper() else "letter"
    return {"\n": "line end", " ": "space"}.get(character, "other")


def name_of(character: str) -> str:
    kinds = {"\n": "the end of a line", " ": "a space"}
    return kinds.get(character, f"“{character}”")


# ---- Units -----------------------------------------------------------------------------------------------------------


def cues(text: str) -> dict[str, np.ndarray]:
    """What a unit might follow, a number for each character."""
    line, word, sentence, inside, quoted = np.zeros((5, len(text)))
    for t, character in enumerate(text):
        before = (line[t - 1], word[t - 1], sentence[t - 1], inside[t - 1], quoted[t - 1]) if t else (0, 0, 0, 0, 0)
        line[t] = 0 if character == "\n" else before[0] + 1
        word[t] = before[1] + 1 if character.isalpha() else 0
        sentence[t] = 0 if character in ".!?" else before[2] + 1
        inside[t] = character == "[" or (before[3] and character != "]")
        quoted[t] = 1 - before[4] if character == '"' else before[4]
    return {
        "the length of the line so far": line,
        "the length of the word so far": word,
        "the length of the sentence so far": np.minimum(sentence, 200),
        "whether a stage direction is open": inside,
        "whether a quotation is open": quoted,
        "whether a letter is a capital": np.array([float(character.isupper()) for character in text]),
    }


def correlation(units: np.ndarray, cue: np.ndarray) -> np.ndarray:
    """Of each column with the cue; 0 where one of them does not vary."""
    units, cue = units - units.mean(0), cue - cue.mean()
    size = np.linalg.norm(units, axis=0) * np.linalg.norm(cue)
    return np.where(size > 1e-12, cue @ units / np.where(size > 1e-12, size, 1), 0.0)


def best_units(look: Look) -> list[tuple[float, str, str, int]]:
    """For each cue the unit that follows it best in the first half of the text: how well it does in the second, the
    cue, the state and the unit; the best first."""
    half, found = look.long // 2, []
    for cue, course in cues(look.text[: look.long]).items():
        if not np.ptp(course[:half]) or not np.ptp(course[half:]):  # there is none
            continue
        best = (0.0, look.states[0], 0)
        for name in look.states:
            units = look.course(name)
            r = correlation(units[:half], course[:half])
            unit = int(np.abs(r).argmax())
            if abs(r[unit]) > abs(best[0]):
                best = (r[unit], name, unit)
        _, name, unit = best
        again = correlation(look.course(name)[half:, [unit]], course[half:])[0]
        found.append((float(again), cue, name, unit))
    return sorted(found, key=lambda each: -abs(each[0]))


def unit(look: Look) -> Picture:
    found = best_units(look)
    r, cue, look.of, look.unit = found[0]
    half, count = look.long // 2, min(720, look.long // 2)
    values = look.course(look.of)[half : half + count, look.unit]
    text = colored(*by_lines(look.text[half : half + count], values))
    text.size = (7.0, 0.9 + 0.24 * len(text.values) / COLUMNS)
    says = [f"Unit {look.unit} of {look.of} follows {cue} best: r = {r:.2f} on text that had no part in choosing it."]
    says += [f"For {cue}, that is unit {k} of {name} (r = {r:.2f})." for r, cue, name, k in found[1:] if abs(r) >= 0.3]
    rows = "".join(f"<tr><td>{cue}</td><td>{k} of {name}</td><td>{r:.2f}</td></tr>" for r, cue, name, k in found)
    table = f"<table><tr><th>what it might follow</th><th>best unit</th><th>r</th></tr>{rows}</table>"
    title = f"Unit {look.unit} of {look.of} follows {cue} (r = {r:.2f})"
    return Picture(title, text, says, _without_blanks, table)


def _without_blanks(ax: Any) -> None:
    """Rows of text that end where their lines do."""
    image = ax.images[0]
    pixels = image.get_array().copy()
    blank = (pixels == GREY).all(-1)
    pixels[blank] = 255
    image.set_data(pixels)
    ax.set(xlabel="", ylabel="", xticks=[], xlim=(-0.5, max(np.flatnonzero(~blank.all(0)), default=0) + 0.5))
    ax.spines[:].set_visible(False)


def by_lines(text: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Text and numbers with blanks, which have no number, so that each line begins a row of the picture."""
    start = text.find("\n") + 1  # the first line is not whole
    chars, numbers = "", []
    for line in re.findall(r"[^\n]*\n", text[start:]):
        blanks = -len(line) % COLUMNS
        numbers += [values[start : start + len(line)], np.full(blanks, np.nan)]
        chars, start = chars + line + " " * blanks, start + len(line)
    return (chars, np.concatenate(numbers)) if chars else (text, values)


def colored(text: str, values: np.ndarray) -> Any:
    """Text in the colours of numbers, of which the outermost share a colour."""
    low, high = map(float, np.nanquantile(values, (0.02, 0.98)))
    return tg.study.colored_text(text, values, low=low, high=high if high > low else low + 1)


def ablation(look: Look) -> Picture:
    """What the best unit is good for."""
    x, y = look.pieces(look.short)
    bits = lambda scores: -np.take_along_axis(log2_softmax(scores), y[..., None], -1)[..., 0]
    top = len(list(tg.nn.recording.recurrent_layers(look.model))) - 1
    hold = lambda k: tg.study.ablate(look.model, x, k, name=look.of, layer=top)
    found = hold(look.unit)
    cost = lambda each: float((bits(each.after) - bits(each.before)).mean())
    units = look.course(look.of).shape[1]
    others = [k for k in np.linspace(0, units - 1, min(12, units)).astype(int).tolist() if k != look.unit]
    costs = [cost(hold(k)) for k in others]
    ends = y == look.run.vocabulary.index("\n") if "\n" in look.run.vocabulary else np.zeros_like(y, bool)
    says = [f"Held at 0, unit {look.unit} of {look.of} costs {cost(found):.3f} bits a character."]
    if costs:
        verdict = "a cause, not only in step" if cost(found) > max(costs) else "no greater cause than others"
        says = [
            f"{says[0][:-1]}; a unit of {look.of} costs {np.median(costs):.3f} in the median of {len(costs)}, so it is "
            f"{verdict}."
        ]
    if ends.any():
        change = float((bits(found.after) - bits(found.before))[ends].mean())
        says.append(f"Where a line ends, that is {change:.3f} bits.")
    letters = on_characters(text_of(look, x))
    return Picture(f"What changes without unit {look.unit} of {look.of}", found, says,
                   lambda ax: (letters(ax), ax.margins(x=0)))  # fmt: skip


def text_of(look: Look, x: np.ndarray) -> str:
    """The first of texts [T, B]."""
    return "".join(look.run.vocabulary[k] for k in x[:, 0])


def log2_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)
    scores = scores - scores.max(-1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(-1, keepdims=True))) / np.log(2)


# ---- Gates -----------------------------------------------------------------------------------------------------------


def gate(look: Look) -> Picture:
    with tg.no_grad(), tg.record(look.model) as r:
        look.model(look.numbers[look.after, None], look.state)
    name = look.gate or look.states[0]
    found, text = tg.study.heatmap(look.last(r), name, sort="mean"), look.text[look.after]
    by_step = found.values.mean(0)
    says = []
    if look.gate:
        low, high = int(by_step.argmin()), int(by_step.argmax())
        says = [
            f"Over these {len(text)} characters {name} is {by_step.mean():.2f} in the mean; it is lowest at "
            f"{name_of(text[low])} ({by_step[low]:.2f}) and highest at {name_of(text[high])} ({by_step[high]:.2f})."
        ]
    return Picture(f"{name}, character by character", found, says, on_characters(text))


def saturation(look: Look) -> Picture | None:
    name = look.gate or look.states[0]
    if np.abs(look.course(name)).max() > 1:  # neither a gate nor what a tanh made
        return None
    found = tg.study.saturation(look.r, name)
    shut, open_ = found.values.T
    always, never = (found.values.sum(1) > 0.9).mean(), (found.values.sum(1) < 0.1).mean()
    says = [
        f"{name} is below {found.low:g} in {shut.mean():.0%} and above {found.high:g} in {open_.mean():.0%} of all "
        f"units and steps; {always:.0%} of its units are at one of the ends nine tenths of the time, {never:.0%} less "
        "than a tenth."
    ]
    return Picture(f"How often {name} is shut or open", found, says)


def timescales(look: Look) -> Picture | None:
    if look.keeps is None:
        return None
    found = tg.study.timescales(look.r, look.keeps)
    slow = int((found.values > 20).sum())
    says = [
        f"By {look.keeps}, half of the units forget within {np.median(found.values):.2g} characters; the slowest, unit "
        f"{int(found.values.argmax())}, remembers for {found.values.max():.3g}, and {slow} of {len(found.values)} for "
        "more than 20."
    ]
    return Picture("How long units remember", found, says)


# ---- Gradients -------------------------------------------------------------------------------------------------------


def flow(look: Look) -> Picture:
    """The gradient of a single prediction, the last, on its way back."""
    x, y = look.pieces(look.short, 8)
    with tg.record(look.model) as r:
        scores, _ = look.model(x)
    char_lm.loss_in_bits(scores[-1:], y[-1:]).backward()
    found = tg.study.gradient_flow(look.last(r))
    look.model.zero_grad()
    says = []
    for name, norm in found.values.items():
        if not norm[-1] > 0:  # no prediction hangs on this state in the step that it is made in
            continue
        below = norm[::-1] < norm[-1] / 2
        kept = int(below.argmax()) - 1 if below.any() else len(norm) - 1
        says.append(
            f"The gradient of the last prediction at {name} keeps half of its norm for {kept} "
            f"step{'s' * (kept != 1)} back; after {len(norm) - 1}, {norm[0] / norm[-1]:.1g} of it is left."
        )
    return Picture("How far back a prediction teaches", found, says)


def horizon(look: Look) -> Picture:
    """Which predictions teach which state."""
    length = min(48, look.short)
    x, y = look.pieces(length)
    with tg.record(look.model) as r:
        scores, _ = look.model(x)
    losses = [char_lm.loss_in_bits(scores[t : t + 1], y[t : t + 1]) for t in range(length)]
    found = tg.study.horizon(losses, look.last(r))
    ahead = np.array([np.diagonal(found.values, k)[: length // 2].mean() for k in range(length // 2)])
    share = np.cumsum(ahead) / ahead.sum()
    says = [
        f"Of all that teaches {found.name} at a step, {share[0]:.0%} comes from the prediction made right there, and "
        f"nine tenths from those within {int((share < 0.9).sum())} steps (sums of norms, {length // 2} steps ahead at "
        "most)."
    ]
    return Picture("Which predictions teach which state", found, says)


def connectivity(look: Look, length: int | None = None) -> tuple[Picture, Picture]:
    here = slice(look.long, look.long + (length or look.short))
    text = look.text[here]
    found = tg.study.connectivity(look.model, look.numbers[here], of="largest")
    T = len(text)
    share = found.values / np.maximum(found.values.sum(1, keepdims=True), 1e-30)
    back = np.array([np.diagonal(share, -k).mean() for k in range(T // 2)])
    within = np.cumsum(back) / back.sum()
    says = [
        f"The most probable next character hangs on the character just read by {within[0]:.0%}, and nine tenths on the "
        f"last {int((within < 0.9).sum()) + 1} (sums of norms, as far as {T // 2} back)."
    ]
    far = np.tril(share, -min(10, T // 2))
    count = np.tril(np.ones_like(share), -min(10, T // 2)).sum(0)
    each = far.sum(0) / np.maximum(count, 1)
    kinds = {kind: each[[k for k in range(T) if kind_of(text[k]) == kind and count[k]]] for kind in KINDS}
    kinds = {kind: float(found.mean()) for kind, found in kinds.items() if len(found) > 1}
    if kinds and each[count > 0].mean() > 0:
        most = max(kinds, key=kinds.__getitem__)
        says.append(
            f"Of what lies ten characters or more behind, {KINDS[most]} count most, "
            f"{kinds[most] / each[count > 0].mean():.1f} times as much as a character does in the mean."
        )
    t = T - 1
    one = colored(text, np.log10(np.maximum(found.values[t], found.values[t].max() * 1e-4 + 1e-30)))
    one.sentence = (
        f"The lighter a character, the more the prediction that follows the last one, {name_of(text[t])}, hangs on it, "
        "by the logarithm of the norm."
    )
    one.size = (7.0, 0.9 + 0.24 * -(-T // COLUMNS))
    whole = Picture("What each prediction hangs on", found, says, on_characters(text, "xy"))
    return whole, Picture("What the last prediction hangs on", one, [], _without_blanks)


# ---- Dynamics --------------------------------------------------------------------------------------------------------


def lyapunov(look: Look) -> Picture:
    """Of the layer as it reads: a difference of its states, not of the text."""
    W = sum(look.r[name].numpy()[0, 0].size for name in look.states)
    T = int(np.clip(MOST_JACOBIANS // W**2, 24, 100))
    with tg.no_grad(), tg.record(look.model) as r:
        look.model(look.numbers[look.long : look.long + T, None], look.state)
    found = tg.study.lyapunov(look.last(r))
    top = float(found.values[0])
    span = f"{1 / max(abs(top), 1e-9):.3g} characters"
    if top < 0:
        means = f"a small difference of its states shrinks to a third (1/e) within {span}, so it forgets how it began"
    else:
        means = f"a small difference of its states grows to e times itself within {span}, which is chaos"
    slow = int((found.values > -0.1).sum())
    says = [
        f"The largest Lyapunov exponent, over {T} characters, is {top:.3f} a step: {means}. {slow} of {W} directions "
        "take more than ten characters to shrink so far."
    ]
    found.sentence += f" Those below {LOWEST} are left out."
    return Picture("Whether differences grow", found, says, lambda ax: ax.set_ylim(max(ax.get_ylim()[0], LOWEST), 0.3))


def trajectory(look: Look) -> Picture:
    name, count = look.states[0], min(400, look.long)
    with tg.no_grad(), tg.record(look.model) as r:
        look.model(look.numbers[:count, None])
    labels = [kind_of(c) for c in look.text[:count]]
    found = tg.study.trajectory(look.last(r), name, labels=labels)
    states = look.last(r)[name].numpy().reshape(count, -1).astype(np.float64)
    s = np.linalg.svd(states - states.mean(0), compute_uv=False) ** 2
    most = int((np.cumsum(s) / s.sum() < 0.9).sum()) + 1
    says = [
        f"Two directions show {found.explained_variance.sum():.0%} of how {name} varies; nine tenths need {most} of "
        f"{states.shape[1]}."
    ]
    return Picture(f"The path of {name}", found, says, _paler)


def _paler(ax: Any) -> None:
    for line in ax.get_lines():
        line.set(alpha=0.2, lw=0.5)


LOOKS: dict[str, Callable[[Look], Any]] = {
    "unit": unit, "ablation": ablation, "gate": gate, "saturation": saturation, "timescales": timescales,
    "gradient_flow": flow, "horizon": horizon, "connectivity": connectivity, "lyapunov": lyapunov,
    "trajectory": trajectory,
}  # fmt: skip


# ---- The folder and the page -----------------------------------------------------------------------------------------


def png(picture: Picture) -> tuple[bytes, bytes]:
    """The picture as a file, with its title, and without it, for where that stands above."""
    from matplotlib.figure import Figure

    width, height = picture.result.size
    figure, files = Figure((width * 1.15, height * 1.15), dpi=120, layout="constrained"), []
    ax = figure.add_subplot()
    picture.result.plot(ax)
    picture.more(ax)
    for title in (picture.title, ""):
        ax.set_title(title)
        files.append(io.BytesIO())
        about = {"Title": picture.title, "Software": "python demos/look_inside.py"}
        figure.savefig(files[-1], format="png", metadata=about)
    return files[0].getvalue(), files[1].getvalue()


STYLE = """
body{max-width:860px;margin:2em auto;padding:0 1em;font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff}
h1,h2{line-height:1.2} h2{margin-top:2.2em} figure{margin:0} img{max-width:100%;height:auto}
figcaption{color:#555;font-size:14px} table{border-collapse:collapse;font-size:14px} .wide{overflow-x:auto}
td,th{padding:2px 12px 2px 0;text-align:left;border-bottom:1px solid #ddd} li{margin:.4em 0}
"""


def page(look: Look, drawn: list[tuple[Picture, bytes]], says: list[str]) -> str:
    """All of it as HTML: pictures within it, and no script."""
    title = html.escape(f"Inside a character model: {char_lm.name_of(look.run)}")
    bits = f", {look.run.checks[-1][1]:.2f} bits per character of held-out text" if look.run.checks else ""
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>{look.run.step:,} updates{bits}. It reads text that it has not learned from. "
        '<a href="#says">What the pictures say</a> stands at the end.</p>'
        f'<div class="wide">{tg.study.summary(look.model, look.short, look.batch)._repr_html_()}</div>'
    ]
    for picture, data in drawn:
        caption, source = html.escape(picture.result.sentence), base64.b64encode(data).decode()
        width = round(110 * picture.result.size[0])  # letters of one size in all pictures
        parts.append(
            f'<h2>{html.escape(picture.title)}</h2><figure><img width="{width}" alt="{caption}" '
            f'src="data:image/png;base64,{source}"><figcaption>{caption}</figcaption></figure>{picture.html}'
        )
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in says)
    parts.append(f'<h2 id="says">What the pictures say</h2><ul>{items}</ul></body></html>')
    return "\n".join(parts)


def look_at(look: Look, out: Path) -> list[str]:
    """Make all pictures and the page; returns what they say."""
    from tqdm import tqdm

    drawn, says = [], []
    for name, find in tqdm(LOOKS.items(), desc="pictures", unit="picture"):
        found = find(look)
        several = found if type(found) is tuple else (found,) if found is not None else ()
        for place, picture in enumerate(several):
            titled, untitled = png(picture)
            (out / f"{name}{'_of_one' * place}.png").write_bytes(titled)
            drawn.append((picture, untitled))
            says += picture.says
    (out / "index.html").write_text(page(look, drawn, says), encoding="utf-8")
    return says


# ---- The command line ------------------------------------------------------------------------------------------------


def arguments() -> char_lm.Parser:
    parser = char_lm.Parser(prog="look_inside.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", help="look into this network, of char_lm.py, and train none")
    add("--text", type=Path, default=HERE / "data" / "shakespeare.txt", metavar="FILE", help="UTF-8 text to read")
    add("--out", type=Path, default=HERE / "runs" / "look_inside", metavar="FOLDER", help="where pictures go")
    add("--cell", metavar="NAME", help="the recurrent cell to train, as char_lm.py takes it (default: lstm)")
    add("--steps", type=number(int, 1), help=f"updates (default: {SETTINGS['steps']})")
    add("--seed", type=number(int, 0), help="of initial weights (default: 0)")
    add("--resume", action="store_true", help="go on with the checkpoint in --out")
    add("--quick", action="store_true", help="a tiny network that has learned next to nothing: to see that it runs")
    add("--threads", type=number(int, 1), help="processor cores to use at most")
    return parser


def trained(options: argparse.Namespace, text: str) -> Run:
    """A network that has learned from the first nine tenths of the text."""
    checkpoint = options.out / "checkpoint.safetensors"
    said = {name: value for name in ("steps", "seed") if (value := getattr(options, name)) is not None}
    if options.cell:
        said["cell"] = char_lm.arguments().parse_args(["--cell", options.cell]).cell
    settings = SETTINGS | (QUICK if options.quick else {}) | said
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if options.resume:
        run = char_lm.resumed(checkpoint, said, fingerprint)
    else:
        char_lm.check_length(text, settings["batch"], settings["length"])
        run = Run(settings, "".join(sorted(set(text))), fingerprint)
    char_lm.train(run, *char_lm.split(text, run.vocabulary), checkpoint, temperature=0.8)
    return run


def looked(options: argparse.Namespace) -> Look:
    """The network that is asked for, and what it reads."""
    char_lm.use_threads(options.threads)
    text, sizes = char_lm.read(options.text), QUICK_READ if options.quick else (SHORT, LONG, BATCH)
    char_lm.writable(options.out)
    unseen = text[len(text) * 9 // 10 :]
    unseen = unseen[unseen.find("\n") + 1 :]  # from the beginning of a line
    if len(unseen) < sum(sizes[:2]) + 200:
        raise Refusal(f"the last tenth of the text has {len(unseen):,} characters: give a text ten times as long as "
                      f"{sum(sizes[:2]) + 200:,}")  # fmt: skip
    run = Run.load(options.checkpoint) if options.checkpoint else trained(options, text)
    unknown = sorted(set(unseen) - set(run.vocabulary))
    if unknown:
        raise Refusal(f"the network has not met {' '.join(map(repr, unknown))}: give the text that it learned from")
    return Look(run, unseen, sizes)


def main(options: argparse.Namespace) -> None:
    says = look_at(looked(options), options.out)
    print("\nWhat the pictures say\n\n" + "\n".join(f"- {sentence}" for sentence in says))
    print(f"\n{options.out / 'index.html'}")


if __name__ == "__main__":
    char_lm.command_line(arguments(), main)
