"""What people write in steps, each by itself and several together: as kernels what it is on the tape; or refused."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter
from fusion.constructs import COMPILES, REFUSED, REWRITTEN

PAGE = Path(__file__).parents[2] / "demos" / "what_may_stand_in_a_step.md"
EVERY = [text for texts in (*COMPILES.values(), REWRITTEN.values()) for text in texts]
STEP = """
def step(self, x, h, C):
    m = self.m
    w = sum(self.seen({values}))
    return tg.tanh(x @ self.W + h @ self.U + w), tg.tanh(C * 0.5 + (x + w).unsqueeze(1) * self.M)
"""


class Constructs(tg.nn.Cell):
    """A step that computes values, and adds a number that depends on each element of them to an ordinary step."""

    input_size, rate = 3, 0.7
    SHAPES = dict(W=(3, 6), U=(6, 6), V=(3, 2), b=(6,), M=(2, 3), H=(2, 3, 3), kept=(1, 4, 6))

    def __init__(self, *texts):
        tg.manual_seed(1)
        for name, shape in self.SHAPES.items():
            setattr(self, name, parameter(*shape))
        self.k, self.order, self.mask = np.linspace(0.5, 1.5, 6), [2, 0, 5], np.arange(6) % 3 > 0
        names = {"tg": tg, "np": np}
        exec(compile(STEP.format(values="".join(f"{text}, " for text in texts)), "<a step>", "exec"), names)
        self.__class__ = type("Constructs", (Constructs,), {"step": names["step"]})

    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 6, dtype=np.float64), tg.zeros(batch_size, 2, 3, dtype=np.float64)

    def sequence_values(self, batch_size):
        return {"m": self.kept.expand(batch_size, 4, 6)}

    def seen(self, *values):
        """Numbers that depend on every element."""
        rows = [v.reshape(v.shape[0], -1) for v in values]
        return [(v * tg.tensor(np.linspace(0.5, 1.5, v.shape[1]))).mean(-1, keepdim=True) for v in rows]


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def test_there_are_many():
    assert len(EVERY) == len(set(EVERY)) > 140


SIX = [EVERY[i : i + 6] for i in range(0, len(EVERY), 6)]
ALONE = [pytest.param([text], id=text, marks=pytest.mark.slow) for text in EVERY[::12]]


@pytest.mark.parametrize("texts", [*SIX, *ALONE], ids=lambda texts: texts[0])
def test_it_compiles(texts):
    """Values and gradients, with validation on, of sequences that differ in length: six at a time, some alone."""
    assert_engines_agree(Constructs(*texts), (2, 2, 3), lengths=np.array([1, 2]))


@pytest.mark.slow
@pytest.mark.parametrize("text", EVERY)
def test_each_alone(text, monkeypatch):
    """What was generated for it, as the Python that it is."""
    interpret(monkeypatch)
    assert_engines_agree(Constructs(text), (2, 2, 3), lengths=np.array([1, 2]))


@pytest.mark.parametrize("examples", [25, pytest.param(150, marks=pytest.mark.slow)])
def test_several_together_compile(monkeypatch, examples):
    monkeypatch.setenv("TINYGRAD_RNN_VALIDATE", "0")

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.lists(st.sampled_from(EVERY), min_size=2, max_size=5), st.booleans())
    def run(texts, reverse):
        assert_engines_agree(Constructs(*texts), (2, 2, 3), reverse)

    run()


@pytest.mark.parametrize(("text", "lead"), REFUSED.items(), ids=REFUSED)
def test_it_is_refused_and_says_what_to_write(text, lead):
    layer, x = tg.nn.Recurrent(Constructs(text), fused="require"), tg.ones(2, 2, 3, dtype=np.float64)
    with pytest.raises((NotImplementedError, AttributeError), match=re.escape(lead)) as told, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer(x)
    assert isinstance(told.value, AttributeError) or "<a step>:" in str(told.value)


def page():
    """The page that says what may stand in a step."""
    lines = [
        "# What may stand in a step",
        "",
        "A step is ordinary Python over tensors. Each line below was put into one, compiled, and compared with the",
        "tape: outputs, final states and all gradients agree to 12 digits in float64. These lines may be combined at",
        "will, and more than these compile. What the compiler does not understand it refuses with a warning, and the",
        "cell runs on the tape.",
        "",
        "In these lines `x` [B, 3] arrives, `h` [B, 6] and `C` [B, 2, 3] are states, and `m` [B, 4, 6] is the same at",
        "every step of a sequence. Of the cell are parameters `W` [3, 6], `U` [6, 6], `V` [3, 2], `H` [2, 3, 3],",
        "`M` [2, 3], `b` [6], arrays `k` [6] and, of truth values, `mask` [6], a list of numbers `order`, and a number",
        "`rate`.",
    ]
    for kind, texts in COMPILES.items():
        lines += ["", f"## {kind}", "", "```python", *texts, "```"]
    lines += ["", "## Written in another way"]
    for what, text in REWRITTEN.items():
        lines += ["", f"{what}:", "", "```python", text, "```"]
    lines += ["", "## Refused", "", "| what | the message says |", "|---|---|"]
    lines += [f"| `{text}` | {lead} |" for text, lead in REFUSED.items()]
    return "\n".join(lines) + "\n"


def test_the_page_is_up_to_date(request):
    if request.config.getoption("--refresh-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), f"python -m pytest {Path(__file__).name} --refresh-golden"
