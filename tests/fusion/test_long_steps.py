"""Steps of very many operations: the compiler goes through them once, or says at once that they are too many."""

import sys

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter
from tinygrad_rnn.fusion.explain import explain
from tinygrad_rnn.fusion.fused import FusedCell
from tinygrad_rnn.fusion.program import MOST_OPERATIONS
from tinygrad_rnn.fusion.refusal import Unfusable
from tinygrad_rnn.fusion.sequence import Sequence

H = 2
SHAPES = {}


def shape(step):
    SHAPES[step.__name__] = step
    return step


@shape
def chain(self, x, h, n):
    v = h * 0.1 + x * 0.1
    for _ in range(n):
        v = tg.sin(v)
    return v


@shape
def squares(self, x, h, n):
    """Whose formula names its operand twice."""
    v = h * 0.1 + x * 0.1
    for _ in range(n):
        v = tg.square(v)
    return v


@shape
def diamonds(self, x, h, n):
    v = h * 0.1 + x * 0.1
    for _ in range(n // 4):
        v = v * (0.9 - v) + v * 0.5
    return tg.tanh(v)


@shape
def diamonds_taken_apart(self, x, h, n):
    v = tg.cat([h, x], -1) * 0.1
    for _ in range(n // 8):
        v = v * (0.9 - v) + v * 0.5
    a, b = tg.chunk(v, 2, -1)
    return tg.tanh(a) * b


@shape
def wide(self, x, h, n):
    terms = [tg.tanh(h * (k / n) + x * self.b) for k in range(n // 4)]
    return sum(terms[::2]) * 0.1 - sum(terms[1::2]) * 0.1


@shape
def pieces(self, x, h, n):
    """Joined and taken apart over and over."""
    v = tg.cat([h, x, h], -1)
    for _ in range(n // 3):
        v = tg.cat([tg.tanh(part) for part in tg.chunk(v, 3, -1)], -1)
    return sum(tg.chunk(v, 3, -1)) * 0.3


@shape
def many_parts(self, x, h, n):
    """Of one product, each by itself."""
    v = (x @ self.W.reshape(1, -1).expand(H, H * H))[:, :1] + h @ tg.cat([self.U] * (n // 8), 1)
    return sum(tg.tanh(part) for part in tg.chunk(v, n // 8, -1)) / n


@shape
def row_reductions(self, x, h, n):
    v = h * 0.1 + x * 0.1
    for _ in range(n // 5):
        v = tg.sin(v - v.sum(-1, keepdim=True) * 0.1)
    return v


@shape
def products(self, x, h, n):
    v = h * 0.1 + x * 0.1
    for _ in range(n // 3):
        v = tg.tanh(v @ self.U + self.b)
    return v


@shape
def products_side_by_side(self, x, h, n):
    return sum(tg.tanh(x @ (self.W * (k / n)) + h @ (self.U * (1 - k / n))) for k in range(n // 5)) / n


@shape
def before_the_loop(self, x, h, n):
    p = self.b
    for k in range(n // 2):
        p = p * (1 - k / 1e4) + 0.01
    return tg.tanh(h + x * p)


def cell(step, n):
    made = type("Long", (tg.nn.Cell,), {"step": lambda self, x, h: step(self, x, h, n)})()
    made.input_size = made.hidden_size = H
    made.W, made.U, made.b = parameter(H, H), parameter(H, H), parameter(H)
    return made


def compiled(step, n):
    x, h = tg.zeros(2, 1, H, dtype=np.float64), tg.zeros(1, H, dtype=np.float64)
    return FusedCell(cell(step, n), Sequence(x, (h,)))


def work(step, n):
    """Lines of Python that run until a cell is compiled and explained, loops round by round; and lengths of texts."""
    count = 0

    def watch(frame, event, value):
        nonlocal count
        count += event == "line"
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        fused = compiled(step, n)
        text = explain(fused.scan)
    finally:
        sys.settrace(before)
    return {"work": count, "explain": len(text), **{d: len(fused.source(d)) for d in ("forward", "backward")}}


MORE = {"squares", "diamonds", "products_side_by_side", "many_parts"}  # of a kind with others


def shapes(names, more):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow if name in more else ()) for name in names]
    )


@shapes(SHAPES, MORE)
def test_work_and_source_are_linear(name):
    """Three times the operations, three times the work."""
    less, more = (work(SHAPES[name], n) for n in (120, 360))
    for kind in less:
        assert more[kind] <= 3.4 * less[kind], kind


@pytest.mark.parametrize("name", SHAPES)
def test_long_steps_on_both_engines(name, monkeypatch):
    interpret(monkeypatch)
    tg.manual_seed(0)
    assert_engines_agree(cell(SHAPES[name], 150), (2, 2, H), tolerance=1e-10)


@shapes(["chain", "squares", "diamonds_taken_apart", "products", "before_the_loop"], {"squares", "before_the_loop"})
def test_python_has_stack_enough(name):
    fused = compiled(SHAPES[name], MOST_OPERATIONS * 4 // 5)
    for direction in ("forward", "backward", "inference"):
        compile(fused.scan.sources[direction], direction, "exec")
    assert explain(fused.scan)


@shapes(sorted(SHAPES.keys() - {"pieces", "before_the_loop", "many_parts"}), MORE | {"row_reductions"})
def test_too_many_are_refused(name):
    with pytest.raises(Unfusable, match=r"more than 1,000 operations.*write fewer and wider ones"):
        compiled(SHAPES[name], 20 * MOST_OPERATIONS)


def test_more_than_the_loop_may_have_are_refused():
    with pytest.raises(Unfusable, match=r"more than 1,000 operations.*1,\d\d\d in the loop over time"):
        compiled(SHAPES["chain"], 3 * MOST_OPERATIONS // 2)
