"""Primitives from outside: what they compute, what they are checked for, and what becomes of those that are defined."""

import ast
import copy
import importlib
import multiprocessing
import pickle
import re
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.autograd import custom, formulas, table
from tinygrad_rnn.autograd.table import TABLE

SPIKE = "spike(x)", "where(x > 0, 1, 0)"
SURROGATE = "dy / (1 + abs(10 * x)) ** 2"
MISH = "mish(x)", "x * tanh(softplus(x))"
D_MISH = "dy * (tanh(softplus(x)) + x * sigmoid(x) * (1 - tanh(softplus(x)) ** 2))"


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    """What a test defines, other tests do not find."""
    monkeypatch.setattr(custom, "_defined", {})
    before = dict(TABLE)
    yield
    TABLE.clear()
    TABLE.update(before)


def mish():
    return tg.primitive(*MISH, dx=D_MISH)


def spike():
    return tg.primitive(*SPIKE, dx=SURROGATE, check=False)


def draw(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


# ---- Values and gradients --------------------------------------------------------------------------------------------


def test_values_and_all_derivatives():
    f, x = mish(), draw(4, 3)
    np.testing.assert_allclose(f(x).numpy(), (x * tg.softplus(x).tanh()).numpy(), rtol=1e-14)
    assert tg.gradcheck(f, x) and tg.gradgradcheck(f, x)
    third = lambda x: tg.grad(tg.grad(f(x).sum(), [x], create_graph=True)[0].sum(), [x], create_graph=True)[0]
    assert tg.gradcheck(third, x)


def test_a_surrogate_is_the_gradient_and_has_derivatives_of_its_own():
    f, x, dy = spike(), draw(50), draw(50, seed=1)
    y = f(x)
    np.testing.assert_array_equal(y.numpy(), x.numpy() > 0)
    (dx,) = tg.grad(y, [x], [dy], create_graph=True)
    np.testing.assert_allclose(dx.numpy(), dy.numpy() / (1 + abs(10 * x.numpy())) ** 2, rtol=1e-14)
    by_hand = lambda x, dy: dy / (1 + abs(10 * x)) ** 2
    (dxx, dxdy) = tg.grad(dx.sum(), [x, dy])
    for found, expected in zip((dxx, dxdy), tg.grad(by_hand(x, dy).sum(), [x, dy])):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)


def test_rules_call_rows_with_the_gradients_of_those():
    """The second derivative of what names a surrogate is the surrogate, not the derivative of a step."""
    spike()
    ramp = tg.primitive("ramp(x)", "where(x > 0, x, 0)", dx="dy * spike(x)")
    x = draw(20)
    (dx,) = tg.grad(ramp(x).sum(), [x], create_graph=True)
    np.testing.assert_array_equal(dx.numpy(), x.numpy() > 0)
    (dxx,) = tg.grad(dx.sum(), [x])
    np.testing.assert_allclose(dxx.numpy(), 1 / (1 + abs(10 * x.numpy())) ** 2, rtol=1e-12)


BINARY = dict(da="where(a > b, dy, 0.1 * dy * b)", db="where(a > b, 0, 0.1 * dy * a)")


def test_operands_broadcast_and_promote():
    f = tg.primitive("leak(a, b)", "where(a > b, a, 0.1 * a * b)", **BINARY)
    a, b = draw(4, 1, 3), draw(2, 3, seed=1)
    assert tg.gradcheck(f, (a, b)) and tg.gradgradcheck(f, (a, b))
    for number in (0.3, np.float64(0.3), np.array(0.3), np.array([0.3, -0.3, 2.0])):
        assert tg.gradcheck(lambda a: f(a, number), a) and tg.gradgradcheck(lambda a: f(a, number), a)  # noqa: B023
        assert tg.gradcheck(lambda b: f(number, b), b) and tg.gradgradcheck(lambda b: f(number, b), b)  # noqa: B023
    single = tg.tensor(np.float32([1, -1]), requires_grad=True)
    assert f(single, 0.5).dtype == np.float32 and f(single, b[:, :1]).dtype == np.float64
    assert f(tg.tensor([1, 2]), tg.tensor([True, False])).dtype == np.float32
    assert f(1, 2.5).item() == pytest.approx(0.25) and f(1, 2.5).dtype == np.float32
    f(single, single * 2).sum().backward()
    assert single.grad.dtype == np.float32
    with pytest.raises(ValueError, match=r"leak\(a, b\): shapes \[2\] and \[3\] do not broadcast"):
        f(tg.ones(2), tg.ones(3))
    with pytest.raises(TypeError, match="expected tensors, arrays or numbers, got list"):
        f([1.0], 2)


@pytest.mark.parametrize("number", [0.1, 1e-3])
def test_choices_between_numbers_have_the_precision_of_the_gradient(number):
    """`where(x > 0, 0.1, 1)` is made of no tensor of floats; in float32 it would be wrong by 1e-9."""
    rule = f"dy * exp(where(x > 0, {number}, 1)) * (where(x > 0.5, c, 3) + 2)"
    f = tg.primitive("steps(x, *, c)", "x", dx=rule, check=False)
    x = draw(20)
    plain, recorded = (tg.grad(f(x, c=number).sum(), [x], create_graph=graph)[0].numpy() for graph in (False, True))
    expected = np.exp(np.where(x.numpy() > 0, number, 1)) * (np.where(x.numpy() > 0.5, number, 3) + 2)
    np.testing.assert_allclose(plain, expected, rtol=1e-15)
    np.testing.assert_allclose(recorded, expected, rtol=1e-15)


def test_attributes():
    f = tg.primitive("bent(x, *, low, high=2)", "clamp(x, low, high)", dx="where((x >= low) & (x <= high), dy, 0)")
    x = draw(30)
    np.testing.assert_array_equal(f(x, low=-0.5).numpy(), np.clip(x.numpy(), -0.5, 2))
    np.testing.assert_array_equal(f(x, low=np.float32(-0.5), high=0).numpy(), np.clip(x.numpy(), -0.5, 0))
    assert tg.gradgradcheck(partial(f, low=0, high=0.25), x)
    user = tg.primitive("user(x)", "bent(x, low=-1) * 2", dx="2 * where(abs(bent(x, low=-1)) < 1, dy, 0)", check=False)
    np.testing.assert_array_equal(user(x).numpy(), 2 * np.clip(x.numpy(), -1, 2))
    (dx,) = tg.grad(user(x).sum(), [x], create_graph=True)
    np.testing.assert_array_equal(dx.numpy(), 2 * (abs(np.clip(x.numpy(), -1, 2)) < 1))
    for call, message in (
        (lambda: f(x), r"bent\(x, \*, low, high=2\): got 1 inputs"),
        (lambda: f(x, -1), "got 2 inputs; attributes are given by name"),
        (lambda: f(x, low=1, hi=2), "got 1 inputs, "),
        (lambda: f(x, low=x), "low is a number, not Tensor: make it an input"),
        (lambda: spike()(x, x), r"spike\(x\): got 2 inputs"),
        (lambda: spike()(), r"spike\(x\): got 0 inputs"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 2.0, -1, -2, -3, 0, 0.5, -1.5])
def test_powers(n):
    """In formulas and rules, on arrays and recorded."""
    f = tg.primitive("to_the_nth(x)", f"(2 + sin(x)) ** {n}", dx=f"dy * {n} * cos(x) * (2 + sin(x)) ** {n - 1}")
    x = draw(10)
    np.testing.assert_allclose(f(x).numpy(), (2 + np.sin(x.numpy())) ** float(n), rtol=1e-13)
    assert tg.gradcheck(f, x) and tg.gradgradcheck(f, x)


def test_small_powers_are_products():
    f = tg.primitive("seventh(x)", "x ** 7 - x ** -2", dx="dy * (7 * x ** 6 + 2 * x ** -3)")
    assert f.row.formula == "x * square(x * square(x)) - 1 / square(x)"
    assert "pow" not in f.row.for_tensors(f.row.rules["dx"])


def test_names_in_the_letters_of_papers():
    rule = "dy * sigmoid(λ * χ) * (1 + λ * χ * (1 - sigmoid(λ * χ)))"
    f = tg.primitive("ψ(χ, *, λ=2)", "χ * sigmoid(λ * χ)", dχ=rule)
    assert tg.gradcheck(f, draw(3)) and tg.gradgradcheck(partial(f, λ=0.5), draw(3))


def test_gradients_that_are_handed_on():
    """Rules that are dy itself need no kernel, in whatever place they stand."""
    rules = dict(zip(("da", "db", "dc"), ("dy", "dy * c", "dy * b")))
    for order in ("abc", "acb", "bca", "bac"):
        inputs = ", ".join(order)
        f = tg.primitive(f"product({inputs})", "a + b * c", **{f"d{x}": rules[f"d{x}"] for x in order})
        assert tg.gradcheck(f, tuple(draw(3, seed=i) for i in range(3)))
    summed = tg.primitive("summed(a, b, c)", "a + b + c", da="dy", db="dy", dc="dy")
    assert tg.gradcheck(summed, tuple(draw(3, seed=i) for i in range(3)))


def test_inputs_without_a_rule():
    f = tg.primitive("gated(gate, x)", "where(gate > 0, x, 0)", dx="where(gate > 0, dy, 0)")
    gate, x = draw(5), draw(5, seed=1)
    assert not f(gate, x.detach()).requires_grad
    assert tg.gradcheck(lambda x: f(gate, x), x)
    heaviside = tg.primitive("heaviside(x)", "where(x > 0, 1, 0)")
    assert not heaviside(x).requires_grad


def test_what_needs_no_gradient_is_not_recorded():
    f, x = mish(), draw(3)
    with tg.no_grad():
        assert not f(x).requires_grad
    assert not f(x.detach()).requires_grad
    with tg.detect_anomaly(), pytest.raises(FloatingPointError, match="mish"):
        tg.primitive("mish_of_root(x)", "sqrt(x)", dx="0.5 * dy / y")(tg.tensor([-1.0]))


# ---- Straight through ------------------------------------------------------------------------------------------------


def test_straight_through():
    x, soft = draw(4, 3), draw(3, seed=1)
    y = tg.straight_through(x.sign(), soft)
    np.testing.assert_array_equal(y.numpy(), np.sign(x.numpy()))
    dy = np.random.default_rng(2).standard_normal((4, 3))
    dx, dsoft = tg.grad(y, [x, soft], [tg.tensor(dy)], allow_unused=True)
    assert dx is None
    np.testing.assert_allclose(dsoft.numpy(), dy.sum(0), rtol=1e-14)
    bit = lambda x: tg.straight_through(x > 0, tg.sigmoid(3 * x))
    (dx,) = tg.grad(bit(x).sum(), [x], create_graph=True)
    assert tg.gradcheck(lambda x: tg.grad(bit(x).sum(), [x], create_graph=True)[0], x)
    np.testing.assert_allclose(dx.numpy(), tg.grad(tg.sigmoid(3 * x).sum(), [x])[0].numpy(), rtol=1e-14)
    infinite = tg.straight_through(tg.tensor([1.0]), tg.tensor([np.inf]))
    assert infinite.item() == 1, "hard + (soft - soft) would be no number"


# ---- Definitions that are refused ------------------------------------------------------------------------------------

BAD_TEXTS = {
    "syntax": ("x +", "invalid syntax"),
    "two lines": ("x\n+ 1", "unexpected|invalid|unindent"),
    "unknown name": ("x + z", r"there is no z: there are x, k, and functions: add, .*, tanh, .*logical_not"),
    "unknown function": ("foo(x)", "foo is no function here: there are add, "),
    "its own name": ("f(x) + 1", "f is no function here"),
    "of whole arrays": ("softmax(x)", "softmax works on whole arrays: there are add"),
    "a method": ("x.tanh()", "x.tanh is no function here"),
    "an attribute": ("x.T + 1", "x.T cannot stand there: write numbers"),
    "an index": ("x[0]", "cannot stand there"),
    "a string": ("'x'", "cannot stand there"),
    "a complex number": ("x * 1j", "cannot stand there"),
    "True": ("x * True", "cannot stand there"),
    "infinity": ("x * 1e999", "cannot stand there"),
    "a choice": ("x if x > 0 else 0", r"cannot stand there: write where\(c, a, b\)"),
    "and": ("where(x > 0 and x < 1, x, 0)", r"write \(a > 0\) & \(b > 0\)"),
    "not": ("where(not x > 0, x, 0)", "write x == 0"),
    "inverse": ("where(~(x > 0), x, 0)", r"write logical_not\(x\)"),
    "plus": ("+x", "cannot stand there"),
    "remainder": ("x % 2", r"write remainder\(a, b\)"),
    "floor": ("x // 2", r"write floor_divide\(a, b\)"),
    "product": ("x @ x", "cannot stand there"),
    "two comparisons": ("where(0 < x < 1, x, 0)", r"several comparisons: write \(a < b\) & \(b < c\)"),
    "no brackets": ("where(x > 0 & x < 1, x, 0)", "several comparisons|no truth values"),
    "bits": ("where(x & 1, x, 0)", r"write \(a > 0\) & \(b > 0\)"),
    "a truth value": ("x > 0", r"is a truth value: write where\(x > 0, 1, 0\)"),
    "computing with truth": ("x * (x > 0)", r"x > 0 is a truth value: write where\(x > 0, 1, 0\)"),
    "a function of truth": ("tanh(x > 0)", "is a truth value"),
    "a hidden one": ("-gt(x, 0)", r"gt\(x, 0\) is a truth value: write where\("),
    "a choice of truth": ("where(x > 0, x > 1, 0)", "is a truth value"),
    "too many": ("tanh(x, x)", r"tanh\(x, x\) is no call of tanh\(x\)"),
    "too few": ("maximum(x)", r"is no call of maximum\(a, b\)"),
    "no attribute": ("leaky_relu(x)", r"is no call of leaky_relu\(x, \*, negative_slope\)"),
    "by position": ("leaky_relu(x, 0.1)", "is no call of"),
    "by name": ("tanh(x=x)", "is no call of"),
    "unpacked": ("tanh(*x)", "cannot stand there"),
    "more unpacked": ("leaky_relu(x, **x)", "is no call of"),
    "an attribute that varies": ("elu(x, alpha=x)", "an attribute is a number, the same for all elements"),
    "a lambda": ("(lambda: x)()", "is no function here"),
    "too deep": ("(" * 150 + "x" + ")" * 150 + " + " + "-" * 3000 + "x", "deep|too"),
    "too long": ("relu(" * 12 + "x" + ")" * 12, "too long with all that it names"),
    "nothing": ("", "invalid syntax"),
    "clipping nothing": ("clip_gradient(x, limit=1)", r"clips what .*: write clamp\(dy, -limit, limit\)"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_texts_that_are_refused(text, message):
    """As formula and as rule, with the text, and before anything is changed."""
    before = dict(TABLE)
    with pytest.raises(ValueError, match=rf"(?s)primitive f, y = .*: .*({message})"):
        tg.primitive("f(x, *, k)", text)
    message = message.replace("there are x, k, and", "there are x, k, dy, y, and")
    with pytest.raises(ValueError, match=rf"(?s)primitive f, dx = .*: .*({message})"):
        tg.primitive("f(x, *, k)", "x", dx=text)
    assert before == TABLE


SIGNATURES = (
    "f", "f()", "f(*, k)", "f(x", "f(x): pass\ndef g(x)", "f(*xs)", "f(x, **options)", "f(x, /)", "f(x=1)",
    "f(x) -> int", "f(x, x)", "f(x, *, k='a')", "f(x, *, k=None)", "f(x, *, k=-[])", "lambda x", "1f(x)", "class(x)",
    "",
)  # fmt: skip


@pytest.mark.parametrize("signature", SIGNATURES)
def test_signatures_that_are_refused(signature):
    with pytest.raises(ValueError, match=r"write its signature like 'name\(x, w\)' or 'name\(x, \*, slope, limit"):
        tg.primitive(signature, "x", dx="dy")


@pytest.mark.parametrize("name", ["y", "dy", "f", "tanh", "where", "dx", "like_dy"])
def test_names_that_mean_something_else(name):
    for signature in (f"g(x, {name})", f"g(x, *, {name})"):
        with pytest.raises(ValueError, match=f"primitive g: {name} means something else in a rule"):
            tg.primitive(signature, "x", dx="dy")


RULES = {
    "no input": (dict(dx="dy", dz="dy"), ValueError, "dz is no gradient: there are dx"),
    "a slip": (dict(dx="dy", chekc=False), ValueError, "chekc is no gradient: there are dx"),
    "no text": (dict(dx=lambda dy: dy), TypeError, "dx is a text, such as 'dy [*] x', not function"),
    "zero": (dict(dx="0"), ValueError, "dy is not in it: write dy"),
    "without dy": (dict(dx="1 - y * y"), ValueError, "dy is not in it: write dy"),
    "wrong": (dict(dx="dy * 2 * x"), tg.GradcheckError, r"d\w = dy \* 2 \* x is not the derivative of y = x \* x \* x"),
    "wrong by a little": (dict(dx="dy * 3.02 * x * x"), tg.GradcheckError, "is not the derivative"),
    "wrong on one side": (dict(dx="dy * 3 * x * abs(x)"), tg.GradcheckError, "is not the derivative"),
    "wrong for large ones": (dict(dx="dy * 3 * minimum(x * x, 6)"), tg.GradcheckError, "is not the derivative"),
    "right for a gradient of 1": (dict(dx="dy * dy * 3 * x * x"), tg.GradcheckError, "is not the derivative"),
    "not a number": (dict(dx="dy * 3 * x * x + 0 * sqrt(-1 - x * x) * dy"), tg.GradcheckError, "it gives nan"),
    "none": ({}, tg.GradcheckError, "dx = 0, for it has no rule, is not the derivative"),
    "something for nothing": (dict(dx="(dy + 1) * 3 * x * x", check=False), tg.GradcheckError, "not 0 where dy is 0"),
}


@pytest.mark.parametrize(("rules", "error", "message"), RULES.values(), ids=RULES)
def test_rules_that_are_refused(rules, error, message):
    with pytest.raises(error, match=f"primitive cube.*{message}"):
        tg.primitive("cube(x)", "x * x * x", **rules)
    assert "cube" not in TABLE
    assert tg.primitive("cube(x)", "x * x * x", dx="dy * 3 * x ** 2")(tg.tensor(2.0)).item() == 8


def test_the_largest_difference_is_told():
    with pytest.raises(tg.GradcheckError) as told:
        tg.primitive("cube(x)", "x ** 3", dx="dy * 2 * x ** 2")
    words = str(told.value).replace(",", "").replace(";", "").split()
    assert "say check=False if it is to be another one, such as a surrogate" in str(told.value)
    numbers = [float(word) for word in words if word.lstrip("-").replace(".", "").isdigit()]
    x, dy, found, expected = numbers[-4:]
    assert found == pytest.approx(dy * 2 * x * x, rel=1e-2) and expected == pytest.approx(dy * 3 * x * x, rel=1e-2)
    assert abs(x) > 3, "the largest difference is far out"


CHECKED = [
    ("kinked(x)", "abs(x) + relu(x - 1)", dict(dx="dy * (sign(x) + where(x > 1, 1, 0))")),
    ("rounded(x)", "floor(x * 4) / 4", {}),
    ("logarithm(x)", "log(x)", dict(dx="dy / x")),
    ("arc(x)", "sqrt(1 - x * x)", dict(dx="-dy * x / y")),
    ("steep(x)", "tanh(40 * x)", dict(dx="40 * dy * (1 - y * y)")),
    ("huge(x)", "exp(x ** 2)", dict(dx="2 * x * dy * y")),
    ("shifted(x)", "x + 1000000", dict(dx="dy")),
    ("ratio(a, b)", "a / b", dict(da="dy / b", db="-dy * y / b")),
    ("rooted(a, b, *, k)", "k * sqrt(a) * log(b)", dict(da="0.5 * dy * y / a", db="dy * k * sqrt(a) / b")),
]


@pytest.mark.parametrize(("signature", "formula", "rules"), CHECKED)
def test_right_rules_pass_in_spite_of_kinks_and_holes(signature, formula, rules):
    tg.primitive(signature, formula, **rules)


def test_what_cannot_be_checked_says_so():
    with pytest.raises(tg.GradcheckError, match="not known at any point: say check=False"):
        tg.primitive("nowhere(x)", "sqrt(-1 - x * x)", dx="dy * x")
    tg.primitive("nowhere(x)", "sqrt(-1 - x * x)", dx="dy * x", check=False)


def test_checking_draws_no_numbers_of_the_library():
    tg.manual_seed(0)
    before = tg.rand(3).numpy()
    tg.manual_seed(0)
    mish()
    np.testing.assert_array_equal(tg.rand(3).numpy(), before)


# ---- Definitions that come again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh", "softmax", "clip_gradient", "where"])
def test_rows_of_the_library_are_not_redefined(name):
    row = TABLE[name]
    with pytest.raises(ValueError, match=f"primitive {name}: the library has a row of this name"):
        tg.primitive(f"{name}(x)", "x", dx="dy")
    assert TABLE[name] is row


def test_the_very_same_is_the_same():
    assert mish() is mish() and spike() is spike()
    assert tg.primitive(*SPIKE, check=False) is not spike()


def test_a_check_that_was_left_out_is_made_up_for():
    wrong = dict(signature="half(x)", formula="x / 2", dx="dy")
    define = lambda **how: tg.primitive(wrong["signature"], wrong["formula"], dx=wrong["dx"], **how)
    define(check=False)
    for _ in range(2):
        with pytest.raises(tg.GradcheckError):
            define()


def test_another_definition_is_another_function():
    """As in a notebook: who runs the cell again gets the new one; what was made of the old one keeps it."""
    first = tg.primitive("scale(x)", "2 * x", dx="2 * dy")
    user = tg.primitive("scaled_twice(x)", "scale(x) + x", dx="dy * (scale(1) + 1)")
    x = draw(3)
    second = tg.primitive("scale(x)", "3 * x", dx="3 * dy")
    assert second is not first and TABLE["scale"] is second.row
    for graph in (False, True):
        for f, slope in ((first, 2), (second, 3), (user, 3)):
            (dx,) = tg.grad(f(x).sum(), [x], create_graph=graph)
            np.testing.assert_array_equal(dx.numpy(), slope)
            np.testing.assert_allclose(f(x).numpy(), slope * x.numpy(), rtol=1e-15)
    again = tg.primitive("scaled_twice(x)", "scale(x) + x", dx="dy * (scale(1) + 1)")
    np.testing.assert_allclose(again(x).numpy(), 4 * x.numpy(), rtol=1e-15)
    assert tg.primitive("scale(x)", "2 * x", dx="2 * dy") is first and TABLE["scale"] is first.row


def test_a_module_is_reloaded(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "module_with_a_primitive.py"
    file.write_text("import tinygrad_rnn as tg\nf = tg.primitive('reloaded(x)', 'x * 2', dx='dy * 2')\n")
    module = importlib.import_module(file.stem)
    f = module.f
    assert importlib.reload(module).f is f


def test_definitions_in_threads():
    found, errors = [], []

    def work(k):
        try:
            for i in range(30):
                tg.primitive(f"threaded_{k}_{i}(x)", "x + 1", dx="dy", check=False)
                found.append(tg.primitive("threaded(x)", "x + 1", dx="dy", check=False))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors and len({*map(id, found)}) == 1


# ---- Pickles and copies ----------------------------------------------------------------------------------------------


def test_copies_and_pickles_are_the_same():
    spike()
    f = tg.primitive("named(x, *, k=2)", "k * spike(x)", dx="dy * k * spike(x)", check=False)
    for copied in (pickle.loads(pickle.dumps(f)), copy.copy(f), copy.deepcopy([f])[0]):
        assert copied is f


def test_a_pickle_brings_along_what_it_names(monkeypatch):
    first = spike()
    f = tg.primitive("named(x)", "x * spike(x)", dx="dy * spike(x)", check=False)
    text, x = pickle.dumps(f), draw(5)
    expected = f(x).numpy()
    monkeypatch.setattr(custom, "_defined", {})
    del TABLE["named"], TABLE["spike"]
    other = tg.primitive("spike(x)", "where(x > 5, 1, 0)", dx=SURROGATE, check=False)  # of this process
    g = pickle.loads(text)
    np.testing.assert_array_equal(g(x).numpy(), expected)
    assert TABLE["spike"] is other.row and TABLE["named"] is g.row and g.row.names["spike"] is not first.row
    (dx,) = tg.grad(g(x).sum(), [x], create_graph=True)
    np.testing.assert_array_equal(dx.numpy(), x.numpy() > 0)


def _value(f):
    return f(tg.tensor([1.0, -1.0])).numpy()


def test_another_process_gets_it():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_value, (spike(),)), [1, 0])


# ---- What is told ----------------------------------------------------------------------------------------------------


def test_it_tells_what_it_is(capsys):
    f = tg.primitive("told(a, b, *, k=3)", "a * b ** k", da="dy * b ** k", db="dy * a * k * b ** (k - 1)", check=False)
    assert repr(f) == "<primitive told(a, b, *, k=3): y = a * b ** k>" and f.__name__ == "told"
    assert "da = dy * b ** k" in f.__doc__
    assert main(["ops", "told"]) == 0
    out = capsys.readouterr().out
    assert out.split() == (
        "told(a, b, *, k=3) y = a * b ** k da = dy * b ** k db = dy * a * k * b ** (k - 1) shapes: broadcast together"
    ).split()
    assert main(["ops"]) == 0
    assert capsys.readouterr().out.endswith(out)


def test_the_command_line_finds_those_of_a_module(tmp_path):
    (tmp_path / "spiking.py").write_text(
        "import tinygrad_rnn as tg\npulse = tg.primitive('a_pulse(x)', 'exp(-x ** 2)', dx='-2 * dy * x * y')\n"
    )
    run = lambda *names: subprocess.run(
        [sys.executable, "-m", "tinygrad_rnn", "ops", *names], cwd=tmp_path, capture_output=True, text=True
    )
    done = run("spiking:pulse", "tanh")
    assert done.returncode == 0 and done.stdout.startswith("tanh(x)") and "y = exp(-x ** 2)\n" in done.stdout
    assert "dx = -2 * dy * x * y\n" in done.stdout
    for names, message in ((["spiking:other"], "no primitive named spiking:other"), (["none:f"], "cannot import none")):
        done = run(*names)
        assert done.returncode == 2 and message in done.stderr


# ---- Linear in dy ----------------------------------------------------------------------------------------------------

LINEAR = {
    "dy": 1, "-dy": 1, "dy * x": 1, "x * dy / y": 1, "dy * x + dy": 1, "where(x > 0, dy, 0)": 1, "dy / (1 + x)": 1,
    "where(x > 0, dy * x, -dy)": 1, "0 * dy": 1, "neg(dy)": 1, "mul(dy, x)": 1, "dy - 0": 1, "dy ** 1": 1,
    "relu(x) * dy": 1,
    "1": 0, "x * y": 0, "where(x > y, 1, 2)": 0, "exp(x) ** 2": 0,
    "dy * dy": None, "dy ** 2": None, "x / dy": None, "dy + 1": None, "abs(dy)": None, "where(dy > 1, 1, dy)": None,
    "where(dy > 1, dy, dy)": None, "where(x > 0, dy, 1)": None, "clamp(dy, -1, 1)": None, "dy * sign(dy)": None,
    "exp(dy) * dy": None, "where(x > 0, 0, 0)": 0, "dy / dy": None, "x - exp(dy)": None, "relu(dy)": None,
}  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), LINEAR.items())
def test_what_is_linear_in_dy(rule, expected):
    reader = formulas.Reader("f", ["x", "y", "dy"], [], TABLE)
    found = formulas.degree(ast.parse(reader.read("dx", rule), mode="eval").body)
    assert found == expected if expected is not None else np.isnan(found)


def test_rows_of_the_table_say_themselves_whether_they_are_linear():
    for row in TABLE.values():
        if isinstance(row, table.ElementwisePrimitive):
            reader = formulas.Reader(row.name, [*row.inputs, *row.attributes, "y", "dy"], row.attributes, TABLE)
            read = [ast.parse(reader.read(*each), mode="eval").body for each in row.rules.items()]
            assert row.linear == all(formulas.degree(each) == 1 for each in read), row


# ---- Formulas at random ----------------------------------------------------------------------------------------------

# function -> how it is kept in its domain, and its derivative at u with the value v
UNARY = {
    "tanh": ("{u}", "(1 - {v} ** 2)"), "sigmoid": ("{u}", "{v} * (1 - {v})"), "sin": ("{u}", "cos({u})"),
    "cos": ("{u}", "-sin({u})"), "softplus": ("{u}", "sigmoid({u})"), "relu": ("{u}", "where({u} > 0, 1, 0)"),
    "abs": ("{u}", "sign({u})"), "square": ("{u}", "2 * {u}"), "exp": ("tanh({u})", "{v}"), "neg": ("{u}", "-1"),
    "log": ("1.5 + {u} ** 2", "1 / ({w})"), "sqrt": ("1 + square({u})", "1 / (2 * {v})"),
    "expm1": ("sin({u})", "({v} + 1)"), "reciprocal": ("2 + cos({u})", "-{v} ** 2"), "floor": ("3 * {u}", "0"),
    "erf": ("{u}", "1.1283791670955126 * exp(-({u}) ** 2)"),
}  # fmt: skip


@st.composite
def formulas_of(draw, names, depth=3):
    """A formula over names with the texts of its derivatives with respect to each."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        if draw(st.integers(0, 3)):
            name = draw(st.sampled_from(names))
            return name, {other: "1" if other == name else "0" for other in names}
        return draw(st.sampled_from(["2", "0.3", "-1.5"])), dict.fromkeys(names, "0")
    inner = formulas_of(names, depth - 1)
    u, du = draw(inner)
    kind = draw(st.sampled_from(["unary", "unary", "power", "two", "two", "where", "extreme"]))
    if kind == "unary":
        function = draw(st.sampled_from([*UNARY]))
        domain, slope = UNARY[function]
        inside = domain.format(u=f"({u})")
        text = f"{function}({inside})"
        outer = slope.format(u=f"({u})", v=f"({text})", w=inside)
        chain = {"exp": "(1 - tanh({u}) ** 2)", "log": "2 * {u}", "sqrt": "2 * {u}", "expm1": "cos({u})",
                 "reciprocal": "-sin({u})", "floor": "3"}.get(function, "1").format(u=f"({u})")  # fmt: skip
        return text, {x: f"({outer}) * ({chain}) * ({d})" for x, d in du.items()}
    if kind == "power":
        n = draw(st.integers(-3, 5))
        base = f"(2 + sin({u}))"
        return f"{base} ** {n}", {x: f"{n} * {base} ** {n - 1} * cos({u}) * ({d})" for x, d in du.items()}
    v, dv = draw(inner)
    if kind == "where":
        c = draw(st.sampled_from([f"({u}) > ({v})", f"(({u}) > 0) & (({v}) < 1)", f"logical_not(({u}) > 0.2)"]))
        return f"where({c}, {u}, {v})", {x: f"where({c}, {du[x]}, {dv[x]})" for x in names}
    if kind == "extreme":
        name, sign = draw(st.sampled_from([("maximum", ">"), ("minimum", "<")]))
        return f"{name}({u}, {v})", {x: f"where(({u}) {sign} ({v}), {du[x]}, {dv[x]})" for x in names}
    rules = {
        "({u}) + ({v})": "({du}) + ({dv})", "({u}) - ({v})": "({du}) - ({dv})",
        "({u}) * ({v})": "({du}) * ({v}) + ({u}) * ({dv})",
        "({u}) / (2 + cos({v}))": "({du}) / (2 + cos({v})) + ({u}) * sin({v}) * ({dv}) / (2 + cos({v})) ** 2",
    }  # fmt: skip
    text = draw(st.sampled_from([*rules]))
    return text.format(u=u, v=v), {x: rules[text].format(u=u, v=v, du=du[x], dv=dv[x]) for x in names}


@st.composite
def primitives(draw):
    """(signature, formula, rules): a random formula of one to three inputs and an attribute, and its derivatives."""
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    formula, slopes = draw(formulas_of([*names, "k"]))
    rules = {f"d{x}": f"dy * ({slopes[x]})" for x in names}
    return f"random({', '.join(names)}, *, k=0.7)", formula, rules


@pytest.mark.parametrize("examples", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_random_formulas(examples):
    settings(max_examples=examples, derandomize=True)(given(primitives())(check_formula))()


def check_formula(written):
    """Checked when they are defined; the values and derivatives of the tensor functions of the same names."""
    signature, formula, rules = written
    try:
        f = tg.primitive(signature, formula, **rules)
    except ValueError as error:
        assert "too long" in str(error)
        return
    names = [rule[1:] for rule in rules]
    xs = [draw(6, seed=i) for i in range(len(names))]
    functions = {name: getattr(tg, name) for name in [*UNARY, "where", "maximum", "minimum", "logical_not"]}
    text = re.sub(r"(?<![\w.])(?<!\*\* )(?<!\*\* -)\d[\d.]*", r"number(\g<0>)", formula)  # but exponents
    functions["number"] = lambda x: tg.tensor(np.array(float(x)))
    by_hand = lambda *xs: eval(text, dict(functions), dict(zip(names, xs), k=functions["number"](0.7))) + 0 * sum(xs)
    expected = by_hand(*xs)
    np.testing.assert_allclose(f(*xs).numpy(), expected.numpy(), rtol=1e-11, atol=1e-12)
    dy = draw(6, seed=9)
    first = tg.grad(expected, xs, [dy], create_graph=True)
    for graph in (False, True):
        found = tg.grad(f(*xs), xs, [dy], create_graph=graph)
        for dx, dx_by_hand in zip(found, first):
            np.testing.assert_allclose(dx.numpy(), dx_by_hand.numpy(), rtol=1e-9, atol=1e-11)
    squared = lambda each: sum((d * d).sum() for d in each) + 0 * sum(x.sum() for x in xs)
    second, second_by_hand = (tg.grad(squared(each), [*xs, dy]) for each in (found, first))
    for dx, dx_by_hand in zip(second, second_by_hand):
        np.testing.assert_allclose(dx.numpy(), dx_by_hand.numpy(), rtol=1e-8, atol=1e-10)
