"""A step that changes something is not compiled, and a trace of it leaves no mark: the tape does what the step says."""

import functools
import random
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.test_stale import made, world_of  # noqa: F401
from tinygrad_rnn.fusion import compile as compiling
from tinygrad_rnn.fusion.compile import PATIENCE
from tinygrad_rnn.fusion.guards import Guards
from tinygrad_rnn.fusion.trace import Symbol
from tinygrad_rnn.fusion.walk import Walk

ROWS = {
    # before the cell, in __init__, what step does, what must be as on the tape, what the warning names
    "counter": ("", "self.t = 0", "self.t += 1", "cell.t", "self.t"),
    "counter that is used": ("", "self.t = 0", "self.t += 1; h = h + self.t", "cell.t", "self.t"),
    "new attribute": ("", "pass", "self.last = h", "cell.last.numpy()", "self.last"),
    "new attribute by setattr": ("", "pass", "setattr(self, 'last', h)", "cell.last.numpy()", "self.last"),
    "new attribute by vars": ("", "pass", "vars(self)['last'] = h", "cell.last.numpy()", "self.last"),
    "attribute by object": ("", "self.t = 0", "object.__setattr__(self, 't', self.t + 1)", "cell.t", "self.t"),
    "attribute that goes": ("", "self.t = 0", "vars(self).pop('t', None)", "hasattr(cell, 't')", "self.t"),
    "slot": ("class Base(Base): __slots__ = ('t',)", "self.t = 0", "self.t += 1", "cell.t", "self.t"),
    "slot that is empty": ("class Base(Base): __slots__ = ('t',)", "pass", "self.t = getattr(self, 't', 0) + 1",
                           "cell.t", "self.t"),
    "dictionary with a view of it": ("", "self.log = {}; self.seen = self.log.values()",
                                     "self.log[len(self.seen)] = 1", "cell.log", "self."),
    "memory of C": ("import ctypes", "self.n = (ctypes.c_double * 1)()", "self.n[0] += 1", "[*cell.n]", "self.n"),
    "attribute of the class": ("", "pass", "type(self).kind += 1", "cell.kind", "C.kind"),
    "list": ("", "self.log = []", "self.log.append(h)", "[h.numpy() for h in cell.log]", "self.log"),
    "list, by a kept method": ("", "self.log = []; self.put = self.log.append", "self.put(h)",
                               "[h.numpy() for h in cell.log]", "self.log"),
    "list in a dictionary": ("", "self.log = {'a': []}", "self.log['a'].append(1)", "cell.log", "self.log"),
    "dictionary": ("", "self.log = {}", "self.log[len(self.log)] = 1", "cell.log", "self.log"),
    "defaultdict": ("from collections import defaultdict", "self.log = defaultdict(int)", "self.log['a'] += 1",
                    "cell.log",
                    "self.log"),
    "set": ("", "self.log = set()", "self.log.add(len(self.log))", "cell.log", "self.log"),
    "deque": ("from collections import deque", "self.log = deque(maxlen=2)", "self.log.append(h)",
              "[h.numpy() for h in cell.log]", "self.log"),
    "namespace": ("", "self.s = types.SimpleNamespace(t=0)", "self.s.t += 1", "cell.s.t", "self.s.t"),
    "dataclass": ("@dataclass\nclass D:\n    t: int = 0", "self.s = D()", "self.s.t += 1", "cell.s.t", "self.s.t"),
    "object's method": ("class O:\n    t = 0\n    def tick(self): self.t += 1", "self.s = O()", "self.s.tick()",
                        "cell.s.t",
                        "self.s.t"),
    "object's operator": ("class O:\n    t = 0\n    def __call__(self): self.t += 1", "self.s = O()", "self.s()",
                          "cell.s.t", "self.s.t"),
    "array": ("", "self.n = np.zeros(3)", "self.n[0] += 1", "cell.n", "self.n"),
    "tensor": ("", "self.n = tg.zeros(3)", "self.n.data[0] += 1", "cell.n.numpy()", "self.n"),
    "global": ("T = 0", "pass", "global T; T += 1", "T", "T"),
    "global of a helper": ("T = 0\ndef tick():\n    global T\n    T += 1", "pass", "tick()", "T", "T"),
    "global list": ("LOG = []", "pass", "LOG.append(1)", "LOG", "LOG"),
    "closure": ("def make():\n    t = 0\n    def tick():\n        nonlocal t\n        t += 1\n"
                "    return tick, lambda: t\ntick, told = make()", "pass", "tick()", "told()", "t"),
    "default list": ("def tick(log=[]): log.append(1)", "pass", "tick()", "tick.__defaults__", "tick"),
    "helper's attribute": ("def tick(): tick.t += 1\ntick.t = 0", "pass", "tick()", "tick.t", "tick.t"),
    "child's attribute": ("", "self.child = tg.nn.Linear(1, 1); self.child.t = 0", "self.child.t += 1", "cell.child.t",
                          "self.child.t"),
    "own attribute through a child": ("", "self.child = tg.nn.Linear(1, 1); self.child.p = [self]; self.t = 0",
                                      "self.child.p[0].t += 1", "cell.t", "self.t"),
    "generator": ("", "self.g = iter([float(i) for i in range(99)])", "h = h + next(self.g)", "next(cell.g)", "self.g"),
    "generator function": ("def numbers():\n    for i in range(99): yield float(i)\nG = numbers()", "pass",
                           "h = h + next(G)",
                           "next(G)", "G"),
    "count": ("from itertools import count", "self.g = count()", "h = h + next(self.g)", "next(cell.g)", "self.g"),
    "NumPy's generator": ("", "self.g = np.random.default_rng(0)", "h = h + float(self.g.random())", "cell.g.random()",
                          "self.g"),
    "NumPy's numbers": ("np.random.seed(0)", "pass", "h = h + float(np.random.rand())", "np.random.rand()",
                        "numpy.random"),
    "Python's numbers": ("import random; random.seed(0)", "pass", "h = h + random.random()", "random.random()",
                         "random"),
    "before it raises": ("", "self.t = 0", "self.t += 1; h = h * float(h.sum())", "cell.t", "self.t"),
    "switch, twice as it was": ("", "self.on = False", "self.on = not self.on", "cell.on", "self.on"),
    "Counter": ("from collections import Counter", "self.n = Counter(a=1)", "self.n.update('ab')", "cell.n", "self.n"),
    "OrderedDict": ("from collections import OrderedDict", "self.n = OrderedDict(a=1, b=2, c=3)",
                    "self.n.move_to_end(next(iter(self.n)))", "[*cell.n]", "self.n"),
    "bytearray that grows": ("", "self.n = bytearray()", "self.n.append(1)", "cell.n", "self.n"),
    "array that grows": ("import array", "self.n = array.array('d')", "self.n.append(1.0)", "cell.n", "self.n"),
    "NumPy's array that grows": ("", "self.n = np.zeros(1)", "self.n.resize(len(self.n) + 1, refcheck=False)", "cell.n",
                                 "self.n"),
    "queue": ("import queue", "self.q = queue.Queue()", "self.q.put(h)", "[h.numpy() for h in cell.q.queue]", "self.q"),
    "queue that is read": ("import queue", "self.q = queue.Queue(); [self.q.put(float(i)) for i in range(99)]",
                           "h = h + self.q.get()", "cell.q.get()", "self.q"),
    "text that is read": ("import io", "self.f = io.StringIO('1 2 3 4 ' * 99)", "h = h + float(self.f.read(2))",
                          "cell.f.tell()", "self.f"),
    "context variable": ("from contextvars import ContextVar\nV = ContextVar('V', default=0)", "pass",
                         "V.set(V.get() + 1)", "V.get()", "V"),
    "new attribute of the class": ("", "pass", "setattr(type(self), 't', getattr(type(self), 't', 0) + 1)", "cell.t",
                                   "C.t"),
    "new attribute of a helper": ("def tick(): tick.t = getattr(tick, 't', 0) + 1", "pass", "tick()", "tick.t",
                                  "tick.t"),
    "new attribute of a module of Python's": ("import math; vars(math).pop('stale_t', 0)", "pass",
                                              "math.stale_t = getattr(math, 'stale_t', 0) + 1", "math.stale_t",
                                              "math.stale_t"),
    "global in exec": ("T = 0", "pass", "exec('global T; T+=1', globals())", "T", "T"),
    "parameter": ("", "pass", "self.W = tg.nn.Parameter(self.W.data * 0.5)", "cell.W.numpy()", "self.W"),
}  # fmt: skip


def everything_in(value, depth=4):
    yield value
    inside = list(value) if isinstance(value, (list, tuple, set)) else []
    inside += [*value.values()] if isinstance(value, dict) else []
    inside += [*vars(value).values()] if hasattr(value, "__dict__") and not isinstance(value, type) else []
    if depth:
        for each in inside:
            yield from everything_in(each, depth - 1)


@pytest.mark.parametrize("name", ROWS)
def test_what_a_step_changes(name, made):  # noqa: F811
    before, setup, does, found, named = ROWS[name]
    x, results = None, []
    for fused in ("never", "auto"):
        tg.manual_seed(0)
        world = world_of((before, setup, "1.0", "", does))
        x = tg.randn(3, 1, 3)
        layer = tg.nn.Recurrent(world["cell"], fused=fused)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            ys = [layer(x)[0].numpy() for _ in range(7)]
        results.append((ys, eval(found, world)))
    told = [each for each in told if each.category is UserWarning]  # not files that other tests left
    assert len(told) == 1, [str(each.message) for each in told]
    assert any(word in str(told[0].message) for word in (f"step changes {named}", "draws", "looks at the numbers"))
    assert named in str(told[0].message) and "world.py:" in str(told[0].message)
    assert len(made) <= (2 if "step changes" in str(told[0].message) else PATIENCE + 1)
    for tape, auto in zip(*results):
        np.testing.assert_equal(auto, tape)
    assert not any(isinstance(each, Symbol) for each in everything_in(world["cell"]))


@pytest.mark.parametrize("size", ["maxsize=None", "maxsize=8", "typed=True"])
@pytest.mark.parametrize(
    "does", ["h = h * mask(3)", "h = h * self.half(1)", "h = h * self.k[0](3)"], ids=["function", "method", "kept"]
)
def test_a_cache_keeps_no_symbols(does, size, made):  # noqa: F811
    """Of a function that makes a tensor by an operation: the tape would be handed a symbol."""
    before = (
        f"import functools\ncache = functools.lru_cache({size})\n"
        "@cache\ndef mask(n): return tg.arange(n).float() * 0.5\n"
        "class Base(Base):\n    @cache\n    def half(self, n): return (tg.ones(3) * n * 0.5)"
    )
    results = []
    for fused in ("never", "auto"):
        tg.manual_seed(0)
        world = world_of((before, "self.k = [mask]", "1.0", "", does))
        layer, x = tg.nn.Recurrent(world["cell"], fused=fused), tg.randn(3, 1, 3)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            results.append([layer(x)[0].numpy() for _ in range(3)])
    assert len(told) == 1 and "in the cache of " in str(told[0].message) and "world.py:" in str(told[0].message)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-6)


def test_required_kernels_are_refused_by_name_and_nothing_is_left():
    world = world_of(("", "self.log = []", "1.0", "", "self.log.append(h); self.last = h"))
    cell = world["cell"]
    with pytest.raises(NotImplementedError, match=r"changes self.l(og|ast) \(world.py:\d+, in step\).* as a state"):
        tg.nn.Recurrent(cell, fused="require")(tg.randn(3, 1, 3))
    assert not any(isinstance(each, Symbol) for each in everything_in(cell))


def test_what_is_found_out_once_is_no_change(made):  # noqa: F811
    """A cached property, as long as it is none of the step's own values."""

    class Cached(tg.nn.Cell):
        hidden_size = 3

        @functools.cached_property
        def scale(self):
            return 0.5

        def step(self, x, h):
            return tg.tanh(x + h * self.scale)

    layer = tg.nn.Recurrent(Cached(), fused="require")
    x = tg.randn(3, 1, 3)
    for _ in range(2):
        expected = tg.nn.Recurrent(Cached(), fused="never")(x)[0].numpy()
        np.testing.assert_allclose(layer(x)[0].numpy(), expected, atol=1e-6)
    assert len(made) == 1


def test_what_is_made_by_the_first_step_of_all_keeps_that_call_alone_from_kernels(made):  # noqa: F811
    world = world_of(("", "self.k = None", "self.k[0]", "", "self.k = self.k or [2.0]"))
    layer, x = tg.nn.Recurrent(world["cell"]), tg.randn(3, 1, 3)
    with pytest.warns(UserWarning, match=r"step changes self\.k"):
        before = layer(x)[0].numpy()
    layer.fused = "require"
    np.testing.assert_allclose(layer(x)[0].numpy(), before, atol=1e-6)


def test_a_refusal_for_one_reason_is_not_looked_into_at_every_call(made):  # noqa: F811
    class Stubborn(tg.nn.Cell):
        hidden_size, t = 3, 0

        def step(self, x, h):
            return tg.tanh(x + h * float(h.sum()) * self.t)

    layer = tg.nn.Recurrent(Stubborn())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for t in range(20):
            layer.cell.t = t
            layer(tg.randn(3, 1, 3))
    assert len(made) < 10 and len(told) == 1


def test_random_numbers_of_python_go_on_as_on_the_tape():
    world = world_of(("import random", "pass", "1.0", "", "h = h + random.random()"))
    random.seed(3)
    state = random.getstate()
    with pytest.raises(NotImplementedError, match="draws random numbers"):
        tg.nn.Recurrent(world["cell"], fused="require")(tg.randn(2, 1, 3))
    assert random.getstate() != state  # by the step that was tried on the tape


def test_what_stands_behind_rewritten_asserts_is_not_walked(pytestconfig):
    """A step with an assert names pytest's own module, from which all tests and their reports can be reached."""

    class Asserts(tg.nn.Cell):
        input_size = hidden_size = 3

        def step(self, x, h):
            assert getattr(self, "hidden_size") == x.shape[1]  # noqa: B009, which lets all attributes be walked
            return tg.tanh(x + h)

    cell, watches = Asserts(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "Guards", lambda watch, **options: watches.append(watch) or Guards(watch, **options))
        tg.nn.Recurrent(cell, fused="require")(tg.ones(2, 1, 3))
    (watch,) = watches
    walk = Walk(cell, watch.ran, watch.before)
    assert walk.everything and id(pytestconfig) not in walk.seen and len(walk.seen) < 20_000
