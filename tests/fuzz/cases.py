"""Cases drawn from a seed: a cell, what is around it, and how it is called; and the program that each of them is."""

import itertools
import random
from dataclasses import dataclass, field

from fuzz.steps import KNOWN, WIDTHS, Draft, Writer, give_values
from tinygrad_rnn.nn.cells.catalogue import ROWS, catalogue

LIBRARY = [row.name for row in catalogue(4, 4)]
assert len(LIBRARY) == len(ROWS)
LAYOUTS = ["plain"] * 6 + ["reversed", "apart", "inner", "fortran", "read-only"]
EVENTS = ["train", "eval", "update", "data", "replace", "load", "copy", "number", "sibling"]
IN_PLACE = ("update", "load")
# Settings of the library that send small sizes through what large ones take, as (a place in the package, a value).
SETTINGS = {
    "pieces": [("fusion.rows.TILE_ROWS", 6), ("fusion.rows.TILE_BYTES", 64)],
    "memory used again": [("kernels.pool.SMALL", 128)],
    "threads": [
        ("fusion.scan.ROWS_PER_THREAD", 1),
        ("fusion.scan.WORK_PER_THREAD", 1),
        ("kernels.matmul.ONE_THREAD", 1),
    ],
}


@dataclass
class Case:
    """A cell and calls of it.

    Attributes:
        draft: of the cell; None for one of the library, `cell`, which is an expression.
        around: expressions that make a cell of `cell`.
        layer: an expression that makes the layer.
        values: what its step takes by name.
        noisy: whether random numbers are drawn.
        settings: names in `SETTINGS`.
    """

    seed: int
    draft: Draft | None
    cell: str
    around: list[str]
    layer: str
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = "float64"
    noisy: bool = False
    threads: int = 1
    settings: list[str] = field(default_factory=list)
    calls: list[dict] = field(default_factory=list)

    def text(self) -> str:
        """The part of the program that makes the layer."""
        write = [self.draft.text() + "\n"] if self.draft else []
        write += ["def make(dtype):", "    tg.manual_seed(3)", f"    cell = {self.cell}"]
        write += [f"    cell = {each}" for each in self.around]
        write += [f"    layer = {self.layer}", "    random = np.random.default_rng(11)"]
        write += ["    for p in layer.parameters():  # biases, and learned initial states, that are not zero"]
        write += ["        p.numpy()[...] += (0.1 * random.uniform(-1, 1, p.shape)).astype(np.float32)"]
        write += ["    return layer.double() if dtype == np.float64 else layer.float()"]
        return "\n".join(write) + "\n"


def case(seed: int, compiled: bool = False) -> Case:
    """The case of a seed; `compiled` cells are of the library, and fewer calls."""
    choose = (chance := random.Random(seed)).choice
    double = chance.random() < 0.8
    if chance.random() < (0.3 if compiled else 0.75):
        found = _own(seed, chance)
    else:
        found = _of_the_library(seed, chance)
    found.dtype = "float64" if double or not compiled else "float32"  # interpreted, tanh of a float32 is not ours
    found.settings = [name for name in SETTINGS if chance.random() < 0.4 and (name != "threads")]
    if compiled and chance.random() < 0.6:
        found.threads = choose([2, 3, 4])
        found.settings.append("threads")
    widths, batch_first = found.calls[0]["widths"], "batch_first=True" in found.layer
    values = found.draft.values if found.draft else found.values
    calls = []
    for number in range(choose([1, 1, 2, 2, 3, 4])):
        calls.append(_call(chance, number, widths, batch_first) | {"values": values})
        if number and chance.random() < 0.5:  # the same once more
            calls[-1] = calls[0] | {"before": calls[-1]["before"], "mode": calls[-1]["mode"], "late": calls[-1]["late"]}
    if found.threads > 1 and "lengths on threads" in KNOWN:
        for each in calls:
            each["lengths"] = None
    for before, after in itertools.pairwise(calls):
        if before["late"]:  # a backward pass reads weights, which nobody may write to before it
            after["before"] = [event for event in after["before"] if event not in IN_PLACE]
            before["second"] = False  # which reads the weights' arrays of that moment
    found.calls = calls
    return found


def _call(chance: random.Random, number: int, widths: list[int], batch_first: bool) -> dict:
    choose, T, B = chance.choice, chance.choice([1, 1, 2, 3, 4, 5, 7]), chance.choice([1, 1, 2, 3, 4, 5, 7, 8, 9])
    lengths = None
    if chance.random() < 0.4:
        lengths = choose(
            [
                [chance.randint(0, T) for _ in range(B)],
                [chance.randint(0, T) for _ in range(B)],
                [T] * B,
                [chance.randint(0, T)] * B,
            ]
        )
    return {
        "T": T,
        "B": B,
        "widths": widths,
        "batch_first": batch_first,
        "lengths": lengths,
        "every": chance.random() < 0.3,
        "given": chance.random() < 0.4,
        "layout": choose(LAYOUTS),
        "state layout": choose(LAYOUTS),
        "mode": "no_grad" if chance.random() < 0.25 else "grad",
        "wanted": choose(["all"] * 5 + ["x", "parameters", "states", "none", "some", "some"]),
        "loss": choose(["all", "all", "all", "y", "final", "final 0", "every", "laid out"]),
        "twice": chance.random() < 0.25,
        "second": T * B <= 9 and chance.random() < 0.1,
        "record": chance.random() < 0.08,
        "late": chance.random() < 0.2,
        "engine": "never" if number and chance.random() < 0.1 else "ours",
        "before": [choose(EVENTS) for _ in range(choose([0, 0, 1, 1, 2]))] if number else [],
    }


def _around(chance: random.Random, states: int, own: bool, noisy: list[bool], several: bool) -> list[str]:
    """Wrappers, each as an expression of `cell`."""
    found = []
    matrices = "[name for name, p in cell.named_parameters() if p.ndim == 2]"
    while chance.random() < 0.3:
        p = chance.choice([0.1, 0.3, 0.5])
        each = [chance.choice([0.0, 0.2, 0.5]) for _ in range(states)]
        ways = [
            f"tg.nn.Zoneout(cell, {p})",
            f"tg.nn.Zoneout(cell, {each})",
            f"tg.nn.ClipGradient(cell, {p})",
            "tg.nn.LearnedInitialState(cell)",
        ]
        ways.append(f"tg.nn.VariationalDropout(cell, {'input=0.3, ' * (not several)}state={p})")
        ways.append(f"tg.nn.VariationalDropout(cell, state={p}, states='all')")
        ways.append(f"tg.nn.WeightDrop(cell, {p}, {matrices}) if {matrices} else cell")
        way = chance.choice(ways)
        if way.split("(")[0].split(".")[-1] in " ".join(found):
            continue  # a second one of a kind may hold values of the same names
        noisy[0] |= "Drop" in way or "Zone" in way
        found.append(way)
    return found


def _own(seed: int, chance: random.Random) -> Case:
    draft, noisy = Writer(chance, chance.choice([5, 9, 17, 40])).draft, [False]
    around = _around(chance, len(draft.states), True, noisy, len(draft.inputs) > 1)
    layer = f"tg.nn.Recurrent(cell, reverse={chance.random() < 0.3})"
    give_values(draft, random.Random(-1 - seed))
    made = Case(seed, draft, "Drawn(dtype)", around, layer, noisy=noisy[0] or draft.noisy)
    made.calls = [{"widths": draft.inputs}]
    return made


def _of_the_library(seed: int, chance: random.Random) -> Case:
    choose = chance.choice
    number, I, H = chance.randrange(len(ROWS)), choose(WIDTHS), choose(WIDTHS)
    H = max(H, 4) if LIBRARY[number] == "ClockworkRNNCell" else H  # of four modules
    noisy, states = [False], len(ROWS[number][0](4, 4).state_names)
    reverse, way, cell = chance.random() < 0.3, chance.random(), f"ROWS[{number}][0]({I}, {H})  # {LIBRARY[number]}"
    around, layer = _around(chance, states, False, noisy, False), f"tg.nn.Recurrent(cell, reverse={reverse})"
    values = ROWS[number].values(I, H)
    if chance.random() < 0.2:
        around.insert(0, "recurrently_dropped(cell)")
        noisy[0] = True
    if way < 0.2:
        options = [f"num_layers={choose([1, 2, 3])}", f"bidirectional={chance.random() < 0.5}"]
        options += [f"batch_first={chance.random() < 0.3}", f"variational={chance.random() < 0.3}"]
        if "num_layers=1" not in options and chance.random() < 0.4:
            options.append("dropout=0.3")
            noisy[0] = True
        kind = choose(["LSTM", "LSTM", "GRU", "RNN", "Stack"])
        if kind == "Stack":
            layer = f"tg.nn.Stack(lambda width: ROWS[{number}][0](width, {H}), {I}, {', '.join(options)})"
        else:
            if chance.random() < 0.3:
                options.append("bias=False")
            if kind == "LSTM" and H > 1 and chance.random() < 0.3:
                options.append(f"proj_size={max(H // 2, 1)}")
            layer = f"tg.nn.{kind}({I}, {H}, {', '.join(options)})"
        cell, around, values = "None", [], values if kind == "Stack" else {}
    made = Case(seed, None, cell, around, layer, values, noisy=noisy[0])
    made.calls = [{"widths": [I]}]
    return made
