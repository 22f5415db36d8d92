"""What a step reads of tensors while it is traced: shapes and dtypes, but no numbers, and nothing of gradients.

A kernel would have the numbers of the trace for good. A step that catches the refusal is refused all the same.
"""

import copy
import functools
import io
import math
import pickle
import sys
import threading

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret
from fusion.sweeping import I, cell, refusal

LOOKS, GRADIENTS = "looks at the numbers of a tensor", "step uses "
GLOBAL = tg.tensor([0.5], dtype=np.float64)


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def step(of):
    """A step that adds something to an ordinary one: of(cell, x, h)."""
    return lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + of(self, x, h))


def helper():
    return GLOBAL.data[0]


NUMBERS = {
    "item": lambda self, x, h: h * self.a.item(),
    "float": lambda self, x, h: h * float(self.a),
    "int": lambda self, x, h: h * int(self.a[0]),
    "a function of math": lambda self, x, h: h * math.exp(self.a),
    "numpy": lambda self, x, h: h * self.b.numpy(),
    "data": lambda self, x, h: h * self.b.data,
    "asarray": lambda self, x, h: h * np.asarray(self.b),
    "tolist": lambda self, x, h: h * self.b.tolist()[0],
    "truth value": lambda self, x, h: h if self.a[0] > 0 else -h,
    "equality": lambda self, x, h: h if self.a == 0.5 else -h,
    "python's max": lambda self, x, h: h * max(self.a, 0.1),
    "format": lambda self, x, h: h * len(f"{self.a}"),
    "print": lambda self, x, h: print(h, file=io.StringIO()) or h,
    "repr": lambda self, x, h: h * len(repr(x)),
    "copy": lambda self, x, h: h * copy.deepcopy(self.b),
    "pickle": lambda self, x, h: h * pickle.loads(pickle.dumps(self.b)),
    "state_dict": lambda self, x, h: h * self.state_dict()["b"],
    "tensor": lambda self, x, h: h * tg.tensor(self.b),
    "argmax": lambda self, x, h: h * tg.argmax(self.b).to(h.dtype),
    "an index": lambda self, x, h: h * self.M[tg.tensor([1])],
    "a global": lambda self, x, h: h * GLOBAL.item(),
    "a global's data": lambda self, x, h: h * GLOBAL.data,
    "in a helper": lambda self, x, h: h * helper(),
    "of a state": lambda self, x, h: h * h[:, :1].sum(-1).numpy()[:, None],
    "asarray of a state": lambda self, x, h: h * np.asarray(h + 1),
    "flat": lambda self, x, h: h * next(h.data.flat),
    "ravel": lambda self, x, h: h * np.ravel(h.data)[0],
    "nonzero": lambda self, x, h: h * len(h.data.nonzero()),
    "memoryview": lambda self, x, h: h * memoryview(h.data).nbytes,
    "data plus one": lambda self, x, h: h * (h.data + 1),
}


@tg.no_grad()
def doubled(h):
    return 2 * h


def without_gradient(self, x, h):
    with tg.no_grad():
        return tg.sigmoid(h) * self.b


def hooked(self, x, h):
    a = h * self.b
    try:
        a.register_hook(lambda g: 0 * g)
    except RuntimeError:
        pass
    return a


def differentiated(self, x, h):
    try:
        (g,) = tg.grad((h * h).sum(-1), [h])
    except RuntimeError:
        g = 0.3 * h
    return g


OF_GRADIENTS = {
    "no_grad": without_gradient,
    "no_grad around a helper": lambda self, x, h: doubled(h),
    "is_grad_enabled": lambda self, x, h: h if tg.is_grad_enabled() else -h,
    "requires_grad of a parameter": lambda self, x, h: h if self.b.requires_grad else -h,
    "requires_grad of a state": lambda self, x, h: h if h.requires_grad else -h,
    "is_leaf": lambda self, x, h: h if x.is_leaf else -h,
    "grad_fn": lambda self, x, h: h if h.grad_fn is None else -h,
    "node": lambda self, x, h: h if h.node is None else -h,
    "grad": lambda self, x, h: h if self.b.grad is None else -h,
    "register_hook": hooked,
    "tg.grad": differentiated,
    "requires_grad_": lambda self, x, h: h.detach().requires_grad_(),
}
FINE = {
    "shapes and dtypes": lambda self, x, h: (
        h * self.b.shape[0] if self.b.dtype == h.dtype and self.M.ndim == 2 and len(self.M) == 5 else -h
    ),
    "detached parameters": lambda self, x, h: h @ self.U.detach() + self.b.detach() * h.detach(),
    "rows of parameters": lambda self, x, h: sum(row * h for row in self.M),
    "choices": lambda self, x, h: tg.where(self.b > 0, h, h.masked_fill(h > 0.1, 0.5)),
    "copies": lambda self, x, h: self.b.clone() * h + tg.ones_like(self.b),
    "one of several": lambda self, x, h: h if self.b in [self.b] else -h,
}


@pytest.mark.parametrize("of", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_refused(of):
    reason = refusal(step(of))
    assert LOOKS in reason and "test_numbers_read.py" in reason


@pytest.mark.parametrize("of", OF_GRADIENTS.values(), ids=OF_GRADIENTS)
def test_what_concerns_gradients_is_refused(of):
    reason = refusal(step(of))
    assert GRADIENTS in reason and "write h.detach()" in reason


@pytest.mark.parametrize("of", FINE.values(), ids=FINE)
def test_what_is_no_number_is_read(of):
    assert refusal(step(of)) == ""


def test_a_parameter_that_loses_its_gradient():
    made = cell(step(lambda self, x, h: h * self.b.requires_grad_(False)))
    with pytest.warns(UserWarning, match="step uses requires_grad.*write h.detach"):
        y, _ = tg.nn.Recurrent(made)(tg.zeros(2, 2, I, dtype=np.float64))
    y.sum().backward()
    assert made.b.grad is None and made.W.grad is not None and not made.b.requires_grad


def caught(kind, of):
    def careful(self, x, h):
        try:
            return of(self, x, h)
        except kind:
            return 0.5 * h

    return careful


LATCHED = {
    "a number": (Exception, lambda self, x, h: self.a.item() * h),
    "a number of a state": (BaseException, lambda self, x, h: float(h[:, :1].sum(-1)) * h),
    "the size of the batch": (BaseException, lambda self, x, h: (h.shape[0] - 1) * h),
    "rows that meet": (Exception, lambda self, x, h: h - h.mean(0)),
    "a choice among rows": (Exception, lambda self, x, h: h[::2]),
    "a cast": (Exception, lambda self, x, h: h.long().to(h.dtype)),
    "shapes that fit some batches": (ValueError, lambda self, x, h: h + self.M),
    "a size that fits some batches": (ValueError, lambda self, x, h: h.reshape(-1, 6).sum()),
    "parts that fit some batches": (ValueError, lambda self, x, h: tg.split(h, [1, 2], 0)[0].sum(0)),
}


@pytest.mark.parametrize(("kind", "of"), LATCHED.values(), ids=LATCHED)
def test_a_refusal_that_is_caught_stands(kind, of):
    assert refusal(step(caught(kind, of)))


class Coverage:
    """What measures which lines run, and puts itself back in the place of other tracers, as coverage.py does."""

    def __init__(self):
        self.lines = set()

    def __call__(self, frame, event, value):
        if event == "call":
            sys.settrace(self)
        if event == "line":
            self.lines.add((frame.f_code.co_name, frame.f_lineno))
        return self


@pytest.mark.parametrize(("kind", "of"), LATCHED.values(), ids=LATCHED)
def test_it_stands_while_coverage_is_measured(kind, of):
    before, coverage = sys.gettrace(), Coverage()
    careful = caught(kind, of)
    sys.settrace(coverage)
    try:
        assert refusal(step(careful))
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is coverage
    first = careful.__code__.co_firstlineno
    assert {(careful.__name__, first + 1), (careful.__name__, first + 2)} <= coverage.lines


KEPT = {
    "attribute": (lambda f: f, lambda kept: kept),
    "list": (lambda f: [f], lambda kept: kept[0]),
    "dictionary in a tuple": (lambda f: ({"f": f},), lambda kept: kept[0]["f"]),
    "partial": (lambda f: functools.partial(f), lambda kept: kept),
    "object": (lambda f: type("O", (), {"f": staticmethod(f)})(), lambda kept: kept.f),
    "closure": (lambda f: lambda *given: f(*given), lambda kept: kept),
}


@pytest.mark.parametrize(("keep", "get"), KEPT.values(), ids=KEPT)
def test_wherever_the_function_lies_that_catches_it(keep, get):
    kept = keep(caught(*LATCHED["parts that fit some batches"]))
    assert refusal(step(lambda self, x, h: get(self.kept)(self, x, h)), kept=kept)


def inner_function(self, x, h):
    def careful(h):
        try:
            return tg.split(h, [1, 2], 0)[0].sum(0)
        except ValueError:
            return 0.5 * h

    return careful(h)


def method_of_an_inner_class(self, x, h):
    class Careful:
        def __call__(self, h):
            return inner_function(self, x, h)

    return Careful()(h)


@pytest.mark.parametrize("of", [inner_function, method_of_an_inner_class])
def test_functions_inside_of_functions_catch_it_neither(of):
    assert refusal(step(of))


def test_errors_of_its_own_that_a_step_catches_are_its_own():
    def careful(self, x, h):
        try:
            factor = self.factors[h.shape[1]]
        except KeyError:
            factor = 0.5
        return factor * h

    assert refusal(step(careful), factors={}) == ""


def test_tensors_are_what_they_were_after_a_trace():
    made = cell(step(NUMBERS["data"]))
    kinds = {name: type(p) for name, p in made.named_parameters()}
    with pytest.warns(UserWarning, match=LOOKS):
        tg.nn.Recurrent(made)(tg.zeros(2, 2, I, dtype=np.float64))
    assert {name: type(p) for name, p in made.named_parameters()} == kinds
    assert made.b.data.shape == (4,) and made.b.requires_grad and made.b.grad is None


def test_another_thread_may_read_while_a_step_is_traced():
    asked, seen, told = threading.Semaphore(0), [], threading.Event()

    def reading():
        asked.acquire()
        seen.append((made.a.item(), made.b.data.sum(), pickle.dumps(made.a)))
        told.set()

    def reads(self, x, h):
        asked.release()
        told.wait(60)
        return h

    made = cell(step(reads))
    thread = threading.Thread(target=reading)
    thread.start()
    tg.nn.Recurrent(made, fused="require")(tg.zeros(2, 2, I, dtype=np.float64))
    thread.join()
    assert seen and seen[0][:2] == (made.a.item(), made.b.numpy().sum())
    assert type(pickle.loads(seen[0][2])) is tg.nn.Parameter
