"""Cells nobody would write: steps composed at random, on the tape and as the source that is generated from them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter


def surrogate(a):
    """A primitive of the user's: a step with a gradient."""
    rule = "dy / (1 + 5 * abs(x - 0.05)) ** 2"
    return tg.primitive("random_surrogate(x)", "where(x > 0.05, 1, 0)", dx=rule, check=False)(a)


def clipped(a):
    """One that is not linear in what arrives."""
    return tg.primitive("random_clipped(x)", "x", dx="clamp(dy, -0.2, 0.2)", check=False)(a)


WIDTHS, WIDEST = st.integers(1, 4), 12
UNARY = {
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "relu": tg.relu,
    "square": tg.square,
    "softplus": tg.softplus,
    "leaky_relu": lambda a: tg.leaky_relu(a, 0.1),
    "clamp": lambda a: tg.clamp(a, -0.6, 0.7),
    "clip_gradient": lambda a: tg.clip_gradient(a, 0.3),
    "sin": tg.sin,
    "abs": tg.abs,
    "one minus": lambda a: 1 - a,
    "scaled": lambda a: 0.3 * a + 0.2,
    "exp": lambda a: tg.exp(tg.tanh(a)),
    "log": lambda a: tg.log(a * a + 1.5),
    "root": lambda a: (a * a + 1) ** 0.5,
    "cube": lambda a: a * a * a,
    "double": lambda a: a + a,
    "detach": lambda a: a + tg.sin(a).detach(),
    "surrogate": surrogate,
    "clipped": clipped,
    "constant": lambda a: a * tg.tensor(np.linspace(0.5, 1.5, a.shape[1])),
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1.5 + b * b),
    "maximum": tg.maximum,
    "where": lambda a, b: tg.where(a > b, a * 0.5, b),
    "straight_through": tg.straight_through,
    "mix": lambda a, b: tg.sigmoid(a) * b + (1 - tg.sigmoid(a)) * a,
}
ROWS = {
    "sum": lambda a: a.sum(-1, keepdim=True),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "amax": lambda a: tg.amax(a, -1, keepdim=True),
    "var": lambda a: a.var(-1, keepdim=True, correction=0),
    "softmax": lambda a: tg.softmax(a, -1),
    "log_softmax": lambda a: tg.log_softmax(a, -1),
    "norm": lambda a: (a - a.mean(-1, keepdim=True)) * (a.var(-1, keepdim=True, correction=0) + 0.2).rsqrt(),
}
WEIGHTS = {  # [k, m], from what is there under a name in a given shape
    "scaled": lambda weight, k, m: weight("W0", k, m) * weight("s", 1),
    "softmax": lambda weight, k, m: tg.softmax(weight("W1", k, m), -1),
    "a part": lambda weight, k, m: weight("W2", WIDEST, WIDEST)[:k, 1 : 1 + m],
    "joined": lambda weight, k, m: tg.cat([weight("W0", k, m), weight("W1", k, m)], 1)[:, 1 : 1 + m],
}
PARAMETERS = {"[n]": lambda n: (n,), "[1, n]": lambda n: (1, n), "[]": lambda n: (), "[1]": lambda n: (1,)}

OTHERS = ("plus", "times", "product", "cat", "part", "chunk", "mask", "made")
KINDS = ("unary", "binary", "binary", "row", "parameter", "product", *OTHERS[2:])


@st.composite
def programs(draw):
    """(width of x, widths of the states, instructions, which value each new state is made of and how, widths of values
    that hold for a sequence)."""
    width, states = draw(st.integers(1, 3)), draw(st.lists(WIDTHS, min_size=1, max_size=3))
    held = draw(st.lists(WIDTHS, max_size=2))
    widths = [width, *states, *held]
    timed = [True] * (1 + len(states)) + [False] * len(held)  # whether there is another one at every step
    instructions = []

    def pick():
        """Recent values more often: deep expressions rather than broad ones."""
        count = len(widths)
        return draw(st.one_of(st.integers(max(0, count - 3), count - 1), st.integers(0, count - 1)))

    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        a = pick()
        n = widths[a]
        changes = timed[a]
        if kind == "unary":  # a gradient that is clipped at every step is none of a value that is the same at all
            instruction = (draw(st.sampled_from([name for name in UNARY if changes or name != "clip_gradient"])), a)
        elif kind == "binary":
            fitting = [i for i, w in enumerate(widths) if w == n or 1 in (w, n)]
            b = draw(st.sampled_from(fitting))
            instruction, n = (draw(st.sampled_from(list(BINARY))), a, b), max(n, widths[b])
            changes |= timed[b]
        elif kind == "row":
            name = draw(st.sampled_from(list(ROWS)))
            instruction, n = (name, a), 1 if name in ("sum", "mean", "amax", "var") else n
        elif kind == "parameter":
            instruction = (draw(st.sampled_from(["plus", "times"])), a, draw(st.sampled_from(list(PARAMETERS))))
        elif kind == "product":
            m = draw(WIDTHS)
            instruction, n = ("product", a, m, draw(st.integers(0, 1)), draw(st.booleans())), m
        elif kind == "cat":
            b = pick()
            instruction, n = ("cat", a, b), n + widths[b]
            changes |= timed[b]
            if n > WIDEST - 5:
                continue
        elif kind == "mask":
            instruction = ("mask", a)
        elif kind == "made":
            m = draw(WIDTHS)
            instruction, n = ("made", a, m, draw(st.sampled_from(list(WEIGHTS)))), m
        elif kind == "chunk":
            if n % 2:
                continue
            instruction, n = ("chunk", a), n // 2
        else:
            if n < 2:
                continue
            first = draw(st.integers(0, n - 1))
            last = draw(st.integers(first + 1, n))
            instruction, n = ("part", a, first, last), last - first
        instructions.append(instruction)
        widths.append(n)
        timed.append(changes)
    ends = []
    for k, n in enumerate(states):
        fitting = [i for i, w in enumerate(widths) if w == n]
        how = draw(st.sampled_from(["value", "value", "product", "unchanged"]))
        if how == "unchanged":
            ends.append(("value", 1 + k))
        elif how == "product" or widths[-1] != n:
            ends.append(("product", len(widths) - 1))
        else:
            ends.append(("tanh", draw(st.sampled_from(fitting[-3:]))))
    return width, tuple(states), tuple(instructions), tuple(ends), tuple(held)


class Composed(tg.nn.Cell):
    """A cell that runs a program; parameters of the same shape and number are shared."""

    def __init__(self, program):
        self.input_size, self.widths, self.instructions, self.ends, *held = program
        self.hidden_size, self.held = self.widths[0], dict(zip("pq", *held)) if held else {}
        tg.manual_seed(0)
        self.weights, self.masked = {}, set()
        given = [tg.zeros(1, n, dtype=np.float64) for n in self.held.values()]
        self.run(tg.zeros(1, self.input_size, dtype=np.float64), (*self.initial_state(1), *given))
        for name, value in self.weights.items():
            setattr(self, name, value)
        if self.masked:
            self.gain = parameter(1)

    @property
    def state_names(self):
        return tuple("hcm"[: len(self.widths)])

    @property
    def value_names(self):
        return dict.fromkeys(self.held, "required")

    def initial_state(self, batch_size):
        return tuple(tg.zeros(batch_size, n, dtype=np.float64) for n in self.widths)

    def weight(self, name, *shape):
        name = "_".join([name, *map(str, shape)])
        if name not in self.weights:
            self.weights[name] = parameter(*shape, scale=0.6)
        return self.weights[name]

    def product(self, a, m, number=0, transposed=False):
        k = a.shape[1]
        return a @ (self.weight(f"V{number}", m, k).T if transposed else self.weight(f"W{number}", k, m))

    def sequence_values(self, batch_size):
        """Masks that are made of a parameter, for the widths that want one."""
        if "gain" not in vars(self):
            return {}
        kept = np.random.default_rng(5).integers(0, 2, (batch_size, WIDEST))
        return {f"mask_{n}": tg.tensor(kept[:, :n] * 1.5) * self.gain for n in self.masked}

    def mask(self, n):
        self.masked.add(n)
        return getattr(self, f"mask_{n}", 1.0)  # which is not there while the parameters are made

    def step(self, x, *states, **held):
        return self.run(x, (*states, *held.values()))

    def run(self, x, others):
        values = [x, *others]
        for name, a, *rest in self.instructions:
            v = values[a]
            if name in UNARY:
                v = UNARY[name](v)
            elif name in ROWS:
                v = ROWS[name](v)
            elif name in BINARY:
                v = BINARY[name](v, values[rest[0]])
            elif name == "product":
                v = self.product(v, *rest)
            elif name == "cat":
                v = tg.cat([v, values[rest[0]]], 1)
            elif name == "part":
                v = v[:, rest[0] : rest[1]]
            elif name == "chunk":
                first, second = tg.chunk(v, 2, -1)
                v = first * tg.sigmoid(second)
            elif name == "mask":
                v = v * self.mask(v.shape[1])
            elif name == "made":
                v = v @ WEIGHTS[rest[1]](self.weight, v.shape[1], rest[0])
            else:
                p = self.weight("p", *PARAMETERS[rest[0]](v.shape[1]))
                v = v + p if name == "plus" else v * p
            values.append(v)
        new = []
        for (how, i), n in zip(self.ends, self.widths):
            v = self.product(values[i], n) if how == "product" else values[i]
            new.append(v if how == "value" else tg.tanh(v))
        return tuple(new)


def check(program, reverse=False, **options):
    """To 1e-12 of the largest entry of each result."""
    held = {name: (n,) for name, n in zip("pq", (*program, ())[4])}
    assert_engines_agree(Composed(program), (3, 2, program[0]), reverse, values=held, **options)


WANTED = {
    "everything": lambda name: True,
    "the input": lambda name: name == "x",
    "states": lambda name: name in "hcm",
    "parameters": lambda name: name.startswith("weights"),
    "a few": lambda name: name in "cp" or name.startswith("weights.W0"),
}
# The gradient of the vector is a sum over what a product of the next step adds to.
SUMMED_WITH_A_PRODUCT = (1, (1, 2), (("tanh", 2), ("plus", 2, "[n]")), (("product", 4), ("tanh", 4)))
# A value is kept in columns of an array that is wider than the gradient that could take its place.
KEPT_IN_A_WIDER_ARRAY = (
    *(1, (1, 1, 2)),
    (("tanh", 0), ("tanh", 2), ("tanh", 3), ("tanh", 4), ("add", 0, 0)),
    (("tanh", 7), ("product", 8), ("product", 8)),
)
# x @ W is read for one gradient where another one has just taken its place, in the same loop.
READ_WHERE_ANOTHER_IS_WRITTEN = (
    *(1, (1,)),
    (("product", 0, 3, 0, False), ("add", 2, 0), ("mul", 3, 1), ("sigmoid", 4)),
    (("product", 5),),
)
LENGTHS = st.none() | st.lists(st.integers(0, 3), min_size=2, max_size=2)


@pytest.mark.parametrize("examples", [60, pytest.param(800, marks=pytest.mark.slow)])
def test_the_generated_source_computes_what_the_tape_does(examples):
    """Whatever the cell is, and however it is run: lengths, states at every step, gradients for some inputs only."""
    run = given(programs(), st.booleans(), LENGTHS, st.booleans(), st.sampled_from(list(WANTED)), st.booleans())
    run = run(source_computes_what_the_tape_does)
    for written in (
        (SUMMED_WITH_A_PRODUCT, False, None, False, "everything", False),
        (KEPT_IN_A_WIDER_ARRAY, False, None, False, "everything", False),
        (READ_WHERE_ANOTHER_IS_WRITTEN, False, None, False, "everything", True),
    ):
        run = example(*written)(run)
    how = settings(max_examples=examples, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    how(run)()


def source_computes_what_the_tape_does(program, reverse, lengths, every, wanted, given):
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        check(program, reverse, lengths=lengths, return_states=every, wanted=WANTED[wanted], given=given)


# Four of them that use every construct between them, for the compiler behind the source as well.
COMPILED = [
    (
        *(1, (4, 1, 2)),
        (("where", 0, 3), ("add", 3, 4), ("abs", 5), ("product", 2, 2, 1, False), ("one minus", 7), ("part", 8, 1, 2))
        + (("product", 8, 1, 0, False), ("product", 10, 2, 0, True), ("plus", 3, "[]"), ("times", 11, "[1, n]"))
        + (("square", 7), ("mean", 12), ("amax", 11), ("maximum", 7, 16), ("clip_gradient", 17))
        + (("surrogate", 18), ("clipped", 19), ("straight_through", 18, 20)),
        (("value", 1), ("tanh", 15), ("product", 21)),
    ),
    (
        *(2, (3, 4, 4)),
        (("times", 0, "[n]"), ("product", 1, 4, 0, True), ("plus", 3, "[1, n]"), ("times", 3, "[1, n]"))
        + (("norm", 2), ("plus", 0, "[1]"), ("cat", 8, 9), ("softplus", 8), ("clamp", 6), ("exp", 12))
        + (("mul", 13, 5), ("sum", 5)),
        (("product", 15), ("product", 14), ("product", 10)),
    ),
    (
        *(2, (4, 4, 4)),
        (("times", 0, "[n]"), ("log_softmax", 1), ("tanh", 5), ("softmax", 6), ("div", 7, 2), ("sub", 8, 2))
        + (("sin", 9), ("scaled", 10), ("plus", 11, "[n]"), ("sub", 12, 11), ("relu", 13), ("leaky_relu", 14))
        + (("sigmoid", 15), ("cat", 16, 4), ("part", 17, 1, 5)),
        (("value", 1), ("product", 17), ("product", 18)),
    ),
    (
        *(2, (4, 4)),
        (("made", 1, 4, "scaled"), ("mask", 3), ("mix", 4, 2), ("log", 5), ("root", 6), ("var", 7), ("cube", 5))
        + (("add", 9, 8), ("chunk", 10), ("double", 11), ("detach", 12), ("constant", 13), ("cat", 14, 11))
        + (("made", 15, 4, "softmax"), ("made", 0, 4, "a part"), ("add", 16, 17), ("made", 18, 4, "joined")),
        (("tanh", 19), ("product", 10)),
    ),
]


def test_the_examples_to_be_compiled_use_everything():
    used = {instruction[0] for program in COMPILED for instruction in program[2]}
    assert used == {*UNARY, *BINARY, *ROWS, *OTHERS}


@pytest.mark.parametrize(
    "program",
    [pytest.param(program, marks=() if number == 1 else pytest.mark.slow) for number, program in enumerate(COMPILED)],
    ids=["reductions", "layer norm", "softmax", "weights that are made"],
)
def test_the_machine_code_computes_what_the_tape_does(program):
    check(program)
