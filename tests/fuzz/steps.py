"""Cells drawn at random, as the source that a user would write: a class with a `step` of up to two dozen lines.

A `Draft` is data: lines are records, so that `shrink` can drop some of them, and `text` prints the class.
"""

import random
from dataclasses import dataclass, field

# Faults that are being mended: what is drawn leaves them out. Take a word out to have it drawn again.
KNOWN: set[str] = set()

UNARY = [
    "tg.tanh({a})", "tg.sigmoid({a})", "tg.tanh({a})", "tg.sigmoid({a})", "tg.relu({a})", "{a}.tanh()", "{a} * {a}",
    "tg.square({a})", "tg.softplus({a})", "tg.leaky_relu({a}, 0.1)", "tg.clamp({a}, -0.6, 0.7)",
    "tg.clamp({a}, max=0.4)", "tg.clip_gradient({a}, 0.3)", "tg.sin({a})", "tg.cos({a})", "tg.abs({a})", "1 - {a}",
    "0.3 * {a} + 0.2", "tg.exp(tg.tanh({a}))", "tg.log({a} * {a} + 1.5)", "({a} * {a} + 1) ** 0.5", "{a} ** 2",
    "{a} ** 3", "2 ** tg.tanh({a})", "{a} + tg.sin({a}).detach()", "tg.silu({a})", "tg.gelu({a})", "tg.elu({a})",
    "tg.erf({a})", "-{a}", "1 / (2 + {a} * {a})", "tg.reciprocal(1.5 + tg.sigmoid({a}))", "tg.rsqrt({a} * {a} + 0.5)",
    "tg.sqrt({a} * {a} + 0.3)", "{a} * tg.sign({a} + 0.0371)", "{a} - 0.1 * tg.floor(3 * {a} + 0.0371)",
    "tg.where({a} > 0.1371, {a}, 0.0)", "tg.where({a} < 0.0371, 0.2 * {a}, {a})",
    "tg.masked_fill({a}, {a} < -0.2371, 0.5)", "({a} > 0.0371) * {a}", "{a}.clone()", "tg.minimum({a}, 0.4)",
    "tg.maximum({a}, -0.4)", "{a} / 2", "{a} + {a}", "tg.log1p({a} * {a})", "tg.expm1(0.3 * tg.tanh({a}))",
    "tg.where(~(({a} > 0.3371) | ({a} < -0.2371)), {a}, 0.5)",
    "tg.where(({a} > -0.5371) & ({a} < 0.6371), {a}, {a} * 0.1)", "tg.pow(1.5 + tg.sigmoid({a}), 1.7)", "{a} - 1",
    "abs({a})", "{a}.square().neg()", "tg.tanh(tg.tanh({a}) + {a})", "tg.where({a} >= 0.0371, 1.0, {a})",
]  # fmt: skip
BINARY = [
    "{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} * {b}", "{a} / (1.5 + {b} * {b})", "tg.maximum({a}, {b} + 0.0371)",
    "tg.minimum({a}, {b} + 0.0371)", "tg.where({a} > {b} + 0.0371, {a} * 0.5, {b})",
    "({a} <= {b} + 0.0371) * {b} + {a}", "tg.sigmoid({a}) * {b} + (1 - tg.sigmoid({a})) * {a}", "tg.tanh({a}) * {b}",
    "{a} * {b}.detach()", "{a} * 0.5 - 2 * {b}", "tg.where(({a} > 0.0371) & ({b} < 0.1371), {a}, {b})",
    "(1 - {a}) * {b} + {a} * {b}", "{a} * {b} + {b} * {a}", "tg.sigmoid({a} + {b}) * tg.tanh({a} - {b})",
    "{a}.sigmoid() * {b}", "(1.5 + tg.sigmoid({a})) ** tg.tanh({b})", "tg.straight_through({a}, {b})",
    "tg.straight_through({a} > 0.0371, {b})",
]  # fmt: skip
ROW_TO_ONE = [
    "{a}.sum(-1, keepdim=True)", "{a}.mean(-1, keepdim=True)", "tg.amax({a}, -1, keepdim=True)",
    "tg.amin({a}, 1, keepdim=True)", "{a}.var(-1, keepdim=True, correction=0)", "tg.logsumexp({a}, -1, keepdim=True)",
    "({a} * {a}).sum(1, keepdim=True)", "{a}.sum(-1).unsqueeze(-1)", "{a}.mean(1).unsqueeze(1)",
    "({a} * {a} + 0.1).sum(-1, keepdim=True).sqrt()",
]  # fmt: skip
ROW_TO_ROW = [
    "tg.softmax({a}, -1)", "tg.log_softmax({a}, -1)", "{a}.softmax(1)", "{a} - {a}.mean(-1, keepdim=True)",
    "({a} - {a}.mean(-1, keepdim=True)) * ({a}.var(-1, keepdim=True, correction=0) + 0.2).rsqrt()",
    "{a} / (1 + ({a} * {a}).sum(-1, keepdim=True))", "tg.layer_norm({a}, ({n},), eps=0.1)",
    "{a} * {a}.sum(-1, keepdim=True)", "{a} * tg.softmax({a}, -1).detach()", "tg.log_softmax({a}, -1).exp() * {a}",
]  # fmt: skip
NOISE = [
    "{a} * (tg.rand({a}.shape) < 0.6)", "tg.dropout({a}, 0.3)", "self.candidate({a})",
    "{a} + 0.1 * tg.randn({a}.shape, dtype={a}.dtype)", "tg.where(tg.rand({a}.shape) < 0.3, {a}, 0.5 * {a})",
]  # fmt: skip
ODD = [  # rarely, since a step with one of these may run on the tape
    "tg.flip({a}, 1)", "tg.cumsum({a}, 1)", "{a}[:, ::2]", "{a}[:, [0]]", "tg.prod({a}, 1, keepdim=True)",
    "{a}.std(-1, keepdim=True)", "tg.roll({a}, 1, 1)", "{a}.reshape(-1, {n})", "{a} * {a}.shape[1]",
    "{a}.unsqueeze(1).sum(1)", "tg.stack([{a}, {a}], 1).sum(1)", "{a}.to({a}.dtype)",
    "tg.einsum('bi,bi->b', {a}, {a}).unsqueeze(-1)", "{a}[:, -1:]", "tg.pad({a}, (1, 0))",
    "({a} > 0.0371).to({a}.dtype)",
]  # fmt: skip
WITH_VALUES = [  # a row, and what holds for the sequence
    "{a} * {v}", "{a} + {v}", "{a} + tg.tanh({v})", "{v} - {a}", "{a} * tg.sigmoid({v}) + {v}",
    "{a} / (1.5 + {v} * {v})", "tg.where({v} > 0.0371, {a}, 0.5 * {a})", "{a} * {v}.sum(-1, keepdim=True)",
    "tg.tanh({a} * {v}) + {v}.detach()", "{a} - tg.softmax({v}, -1)", "tg.maximum({a}, {v} + 0.0371)",
]  # fmt: skip
VECTOR = [  # [n] or so of parameters, from one or two of them
    "self.{p}", "self.{p}", "self.{p}", "self.{p}", "self.{p} * self.{q}", "tg.sigmoid(self.{p})", "1 - self.{p}",
    "self.{p}.detach()", "tg.exp(self.{p})", "self.{p} + self.{q}", "tg.softmax(self.{p}, -1)",
    "self.{p} / (self.{q} * self.{q} + 1)", "self.{p}.sum() * self.{q}",
]  # fmt: skip
MATRIX = [  # [k, m] of parameters: W and V are [k, m], T is [m, k], L is larger
    "self.{W}", "self.{W}", "self.{W}", "self.{W}", "self.{T}.T", "self.{T}.T", "self.{W} * self.{V}",
    "tg.softmax(self.{W}, -1)", "self.{L}[:{k}, 1 : 1 + {m}]", "self.{L}[2 : 2 + {k}, :{m}]", "self.{W}.detach()",
    "self.{W} + self.{T}.T", "tg.tanh(self.{W})", "tg.cat([self.{W}, self.{V}], 1)[:, 1 : 1 + {m}]",
    "tg.cat([self.{W}, self.{V}], 0)[1 : 1 + {k}]", "2 * self.{W}", "self.{T}.transpose(0, 1)", "tg.triu(self.{W})",
    "self.{L}[:{m}, :{k}].T", "self.{W} * (self.{V} > 0.0371)", "self.{W} - self.{W}.mean(0, keepdim=True)",
    "self.{W} / self.{W}.square().sum().sqrt()",
]  # fmt: skip
NAMES = [
    "a",
    "z",
    "r",
    "n",
    "f",
    "i",
    "g",
    "o",
    "gate",
    "u",
    "v",
    "s",
    "m",
    "q",
    "k",
    "p",
    "w",
    "state",
    "new_h",
    "cand",
]
TAKEN = ["len", "room", "saved", "values", "total", "rows", "B", "T", "H", "x", "dtype", "launch", "backward", "real"]
WIDTHS = [1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40]


@dataclass
class Line:
    """name = text, of a width; None for a text that is not a row."""

    name: str
    text: str
    width: int


@dataclass
class Draft:
    """A cell.

    Attributes:
        inputs: the widths of what arrives.
        states: name -> width.
        fields: (name, kind, shape) with kind "parameter", "buffer", "array" or "number".
        held: (name, shape, text) of `sequence_values`.
        values: what the step takes by name for a sequence, and its shape without the batch.
        lines, ends: the step, and what it returns.
        learned: whether initial states are parameters.
    """

    inputs: list[int]
    states: dict[str, int]
    fields: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    held: list[tuple[str, tuple, str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    learned: bool = False
    noisy: bool = False
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def text(self) -> str:
        """The class."""
        first, several = next(iter(self.states.values())), len(self.inputs) > 1
        write = ["class Drawn(tg.nn.Cell):", "    def __init__(self, dtype):"]
        if not several:
            write.append(f"        self.input_size = {self.inputs[0]}")
        write.append(f"        self.hidden_size, self.own_dtype, random = {first}, dtype, np.random.default_rng(7)")
        draw = "random.uniform(-1, 1, {shape})"
        if self.learned:
            for name, width in self.states.items():
                made = draw.format(shape=(1, width))
                write.append(f"        self.{name}_first = tg.nn.Parameter({made}.astype(np.float32).astype(dtype))")
        for name, kind, shape in self.fields:
            scale = f" * {1.2 / max(shape[0], 1) ** 0.5:.3f}" if len(shape) == 2 else ""
            made = f"({draw.format(shape=shape)}{scale}).astype(np.float32).astype(dtype)"
            if kind == "parameter":
                write.append(f"        self.{name} = tg.nn.Parameter({made})")
            elif kind == "buffer":
                write.append(f'        self.register_buffer("{name}", tg.tensor({made}))')
            elif kind == "number":
                write.append(f"        self.{name} = 0.7")
            else:
                write.append(f"        self.{name} = {made}")
        write += ["", "    def initial_state(self, batch_size):"]
        shape = "batch_size, {n}"
        begin = "self.{s}_first.expand({shape})" if self.learned else "tg.zeros({shape}, dtype=self.own_dtype)"
        states = [begin.format(s=s, shape=shape.format(n=n)) for s, n in self.states.items()]
        write.append(f"        return {', '.join(states)}")
        if self.held:
            write += ["", "    def sequence_values(self, batch_size):", "        random = np.random.default_rng(5)"]
            write.append("        return {")
            for name, shape, text in self.held:
                shown = f"({', '.join(map(str, shape))},)"
                made = f"tg.tensor(random.uniform(-1, 1, {shown}).astype(np.float32).astype(self.own_dtype))"
                write.append(f'            "{name}": {text.format(made)},')
            write.append("        }")
        arguments = ["xs" if several else "x", *self.states, *(["*", *self.values] if self.values else [])]
        write += ["", f"    def step(self, {', '.join(arguments)}):"]
        if several:
            write.append(f"        {', '.join(f'x{i}' for i in range(len(self.inputs)))} = xs")
        write += [f"        {line.name} = {line.text}" for line in self.lines]
        write.append(f"        return {', '.join(self.ends)}")
        return "\n".join(write) + "\n"


def give_values(draft: Draft, random: random.Random) -> None:
    """Let a step take values for a sequence by name, and read each of them in one line or two."""
    for number in range(random.choice([0, 0, 0, 1, 1, 2])):
        name, width, shape = f"value{number}", 0, None
        for _ in range(random.choice([1, 1, 2])):
            at = random.randint(0, len(draft.lines))
            names = ["x"] if len(draft.inputs) == 1 else [f"x{i}" for i in range(len(draft.inputs))]
            known = dict([*zip(names, draft.inputs), *draft.states.items()])
            known |= {line.name: line.width for line in draft.lines[:at]}
            a, n = random.choice([*known.items()])
            if shape is None:
                width = random.choice([n, n, n, 1])
                shape = () if width == 1 and random.random() < 0.5 else (width,)
            if width not in (1, n):
                continue
            read = f"{name}.unsqueeze(-1)" if shape == () else name
            draft.lines.insert(at, Line(a, random.choice(WITH_VALUES).format(a=a, v=read), n))
        draft.values[name] = shape


class Writer:
    """Draws a `Draft`.

    Args:
        random: where chance comes from.
        widest: of its values.
    """

    def __init__(self, random: random.Random, widest: int = 40) -> None:
        self.random, self.widths = random, [n for n in WIDTHS if n <= widest]
        self.most = 2 * widest
        choose = random.choice
        inputs = [choose(self.widths) for _ in range(choose([1, 1, 1, 1, 2, 3]))]
        states = {name: choose(self.widths) for name in "hcm"[: choose([1, 1, 1, 2, 2, 3])]}
        if random.random() < 0.5:
            states = dict.fromkeys(states, choose(self.widths))
        self.draft = Draft(inputs, states)
        names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
        self.values = [*zip(names, inputs), *states.items()]
        self.pool: dict[tuple[str, tuple], list[str]] = {}
        self.odd = random.random() < 0.15
        self.noise = random.random() < 0.2
        for _ in range(choose([1, 2, 3, 4, 6, 8, 12, 16, 24])):
            self.line()
        self.finish()

    # ---- Parts -------------------------------------------------------------------------------------------------------

    def field(self, kind: str, shape: tuple, fresh: float = 0.5) -> str:
        """A field of the cell, maybe one that is there."""
        use = "vector" if fresh == 0.5 and "vector and weight" in KNOWN else ""
        known = self.pool.setdefault((kind + use, shape), [])
        if known and self.random.random() > fresh:
            return self.random.choice(known)
        letter = {"parameter": "W" if len(shape) == 2 else "b", "buffer": "k", "array": "c", "number": "rate"}[kind]
        name = f"{letter}{len(self.draft.fields)}"
        if "names" not in KNOWN and self.random.random() < 0.1:
            name = self.random.choice(TAKEN)
            if any(name == each for each, _, _ in self.draft.fields):
                name = f"{letter}{len(self.draft.fields)}"
        self.draft.fields.append((name, kind, shape))
        known.append(name)
        return name

    def pick(self, width: int | None = None) -> tuple[str, int]:
        """A value, more often a recent one."""
        fitting = [v for v in self.values if width is None or v[1] == width]
        if not fitting:
            return self.random.choice(self.values)
        return self.random.choice(fitting[-4:] if self.random.random() < 0.6 else fitting)

    def add(self, text: str, width: int) -> None:
        """A line for a value."""
        if self.random.random() < 0.1 and self.draft.lines:  # a variable that is assigned again
            name = self.random.choice(self.draft.lines).name
        else:
            name = f"{self.random.choice(NAMES)}{len(self.draft.lines)}"
            if "names" not in KNOWN and self.random.random() < 0.05:
                name = self.random.choice(TAKEN)
        self.values = [v for v in self.values if v[0] != name] + [(name, width)]
        self.draft.lines.append(Line(name, text, width))

    def vector(self, n: int) -> str:
        """An expression of parameters that goes along with a row of n."""
        choose = self.random.choice
        shape = choose([(n,), (n,), (n,), (1, n), (), (1,)])
        kind = choose(["parameter"] * 6 + ["buffer", "array", "number"])
        if kind == "number":
            return f"self.{self.field('number', ())}"
        if kind == "array":
            return f"tg.tensor(self.{self.field('array', (n,))})"
        text = choose(VECTOR)
        if not shape and "softmax" in text:
            text = "self.{p}"
        if kind == "parameter" and n > 1 and self.random.random() < 0.1:
            larger = self.field("parameter", (n + 3,))
            return choose([f"self.{larger}[1 : 1 + {n}]", f"self.{larger}[:{n}]", f"self.{larger}[-{n}:]"])
        if kind == "parameter" and self.random.random() < 0.08:
            matrix = self.field("parameter", (3, n))
            ways = [f"self.{matrix}.sum(0)", f"self.{matrix}[1]", f"self.{matrix}[1:2]", f"self.{matrix}.mean(0)"]
            if "strided vectors" not in KNOWN:
                ways += [f"self.{self.field('parameter', (n, 3))}[:, 1]", f"tg.flip(self.{matrix}[0], 0)"]
            return choose(ways)
        if "clipped parameters" not in KNOWN and self.random.random() < 0.05:
            return f"tg.clip_gradient(self.{self.field('parameter', shape)}, 0.05)"
        if "detach" in text and "detached parameters" in KNOWN:
            text = "self.{p}"
        return text.format(p=self.field(kind, shape), q=self.field("parameter", shape))

    def matrix(self, k: int, m: int) -> str:
        """An expression of parameters that is [k, m]."""
        text, wide = self.random.choice(MATRIX), max(k, m) + 2
        if "detach" in text and "detached parameters" in KNOWN:
            text = "self.{W}"
        names = dict(W=(k, m), V=(k, m), T=(m, k), L=(wide, wide))
        used = {name: self.field("parameter", shape, 0.4) for name, shape in names.items() if "{" + name + "}" in text}
        return text.format(k=k, m=m, **used)

    # ---- A line ------------------------------------------------------------------------------------------------------

    def line(self) -> None:
        """One more."""
        choose = self.random.choice
        kinds = ["unary"] * 4 + ["binary"] * 5 + ["product"] * 5 + ["vector"] * 4 + ["row"] * 2 + ["part"] * 2
        kinds += ["cat", "chunk", "one", "held", "expand", "linear", "normed"]
        kinds += ["noise"] * 2 * self.noise + ["odd"] * self.odd
        kind, (a, n) = choose(kinds), self.pick()
        if kind == "unary":
            self.add(choose(UNARY).format(a=a), n)
        elif kind == "binary":
            fitting = [v for v in self.values if v[1] == n or 1 in (n, v[1])]
            b, other = choose(fitting)
            self.add(choose(BINARY).format(a=a, b=b), max(n, other))
        elif kind == "product":
            m = self.random.choice([*self.widths, *self.draft.states.values(), *self.draft.states.values()])
            text = f"{a} @ {self.bracketed(self.matrix(n, m))}"
            if self.random.random() < 0.5:
                b, other = self.pick()
                text += f" + {b} @ {self.bracketed(self.matrix(other, m))}"
            if self.random.random() < 0.5:
                text += f" + {self.vector(m)}"
            if self.random.random() < 0.5:
                text = choose(["tg.tanh({})", "tg.sigmoid({})", "tg.relu({})"]).format(text)
            self.add(text, m)
        elif kind == "linear":
            m = self.random.choice(self.widths)
            W, b = self.field("parameter", (m, n), 0.4), self.field("parameter", (m,))
            self.add(f"tg.linear({a}, self.{W}, self.{b})", m)
        elif kind == "vector":
            v = self.bracketed(self.vector(n))
            self.add(
                choose([f"{a} + {v}", f"{a} * {v}", f"{v} - {a}", f"{a} / (1.5 + {v} * {v})", f"tg.tanh({a} * {v})"]), n
            )
        elif kind == "row":
            self.add(choose(ROW_TO_ROW).format(a=a, n=n), n)
        elif kind == "one":
            self.add(choose(ROW_TO_ONE).format(a=a, n=n), 1)
        elif kind == "normed":
            weight, bias = self.field("parameter", (n,)), self.field("parameter", (n,))
            self.add(f"tg.layer_norm({a}, ({n},), self.{weight}, self.{bias}, eps=0.1)", n)
        elif kind == "noise":
            self.draft.noisy = True
            self.add(choose(NOISE).format(a=a), n)
        elif kind == "odd":
            text = choose(ODD)
            width = {"{a}[:, ::2]": (n + 1) // 2, "tg.pad({a}, (1, 0))": n + 1}.get(text, n)
            ones = ("[[0]]", "[:, [0]]", "tg.prod", ".std", "einsum", "[:, -1:]")
            self.add(text.format(a=a, n=n), 1 if any(each in text for each in ones) else width)
        elif kind == "expand":
            b, other = self.pick(1)
            if other == 1 and n > 1:
                self.add(
                    choose([f"{b}.expand({b}.shape[0], {n})", f"{b}.expand(-1, {n})", f"{b}.expand_as({a})"][:2]), n
                )
        elif kind == "cat":
            b, other = self.pick()
            if n + other <= self.most:
                self.add(
                    choose([f"tg.cat([{a}, {b}], 1)", f"tg.cat(({a}, {b}), -1)", f"tg.cat([{a}, {b}], dim=1)"]),
                    n + other,
                )
        elif kind == "chunk" and n % 2 == 0:
            ways = ["tg.chunk({a}, 2, -1)[0] * tg.sigmoid(tg.chunk({a}, 2, -1)[1])", "tg.split({a}, {h}, 1)[1]"]
            ways += ["{a}[:, :{h}] + {a}[:, {h}:]", "tg.chunk({a}, 2, 1)[1]"]
            self.add(choose(ways).format(a=a, h=n // 2), n // 2)
        elif kind == "part" and n > 1:
            first = self.random.randrange(n)
            last = self.random.randint(first + 1, n)
            ways = [
                f"{a}[:, {first}:{last}]",
                f"{a}[..., {first}:{last}]",
                f"tg.narrow({a}, 1, {first}, {last - first})",
            ]
            ways += [f"{a}[:, {first - n}:{last}]"]
            self.add(choose(ways), last - first)
        elif kind == "held":
            self.hold(a, n)

    def hold(self, a: str, n: int) -> None:
        """A line that reads what `sequence_values` returns."""
        choose, name = self.random.choice, f"held{len(self.draft.held)}"
        shape = choose([("batch_size", n), ("batch_size", n), ("batch_size", 1), (n,), (1, n), "matrix"])
        text = "{}"
        if shape == "matrix":
            m = choose(self.widths)
            shape = (n, m)
            if self.random.random() < 0.6:
                text = f"{{}} * self.{self.field('parameter', (n, m), 0.4)}"
            self.draft.held.append((name, shape, text))
            self.add(f"{a} @ self.{name}", m)
            return
        if self.random.random() < 0.5:
            text = f"{{}} * self.{self.field('parameter', (1,))}"
        self.draft.held.append((name, shape, text))
        self.add(choose(["{a} * self.{s}", "{a} + self.{s}"]).format(a=a, s=name), n)

    @staticmethod
    def bracketed(text: str) -> str:
        plain = all(c.isalnum() or c in "._()[]:, " for c in text) and " " not in text
        return text if plain else f"({text})"

    def finish(self) -> None:
        """New states: from late values, handed on, swapped, shifted."""
        choose, states = self.random.choice, self.draft.states
        for name, n in states.items():
            way, fitting = self.random.random(), [v for v, width in self.values if width == n]
            last, width = self.values[-1]
            if way < 0.06:
                end = name
            elif way < 0.12:
                end = choose(fitting)
            elif way < 0.18 and n > 1:
                source, other = self.pick()
                take = min(other, n - 1)
                end = f"tg.cat([{name}[:, {take}:], {source}[:, :{take}]], 1)"
            elif way < 0.6 and len(fitting) > 1:
                end = f"tg.tanh({choose(fitting[-3:])})"
            elif way < 0.75:
                end = f"0.5 * {name} + 0.5 * tg.tanh({last} @ {self.bracketed(self.matrix(width, n))})"
            else:
                end = f"tg.tanh({last} @ {self.bracketed(self.matrix(width, n))})"
            self.draft.ends.append(end)
        if self.random.random() < 0.1:
            self.draft.learned = True
