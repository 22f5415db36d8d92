"""What a step can read, changed in every way that it can be changed: the next call knows.

A row is what is there before the cell, what its `__init__` makes, what `step` reads, and the change. What is read ends
in an array, so that all rows share their kernels.
"""

import enum
import gc
import sys
import types
import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret
from tinygrad_rnn.fusion import walk
from tinygrad_rnn.fusion.compile import Variants
from tinygrad_rnn.fusion.fused import FusedCell


class Base(tg.nn.Cell):
    inherited = 2.0

    def __init__(self):
        self.input_size = self.hidden_size = 3
        self.W, self.U = tg.nn.Parameter(tg.randn(3, 3)), tg.nn.Parameter(tg.randn(3, 3))


CELL = """
class C(Base):
    kind = 2.0
    def __init__(self):
        super().__init__()
        {setup}
    def method(self):
        return 2.0
    def step(self, x, h):
        {head}k = np.full(3, {read}, np.float32)
        return tg.tanh(x @ self.W + h @ self.U) * k
"""

ROWS = {
    # before the cell, in __init__, read in step, change
    "attribute": ("", "self.k = 2.0", "self.k", "cell.k = 3.0"),
    "attribute, past __setattr__": ("", "self.k = 2.0", "self.k", "vars(cell)['k'] = 3.0"),
    "attribute, by object": ("", "self.k = 2.0", "self.k", "object.__setattr__(cell, 'k', 3.0)"),
    "attribute that comes": ("", "pass", "getattr(self, 'k', 2.0)", "cell.k = 3.0"),
    "attribute that comes, asked for by hasattr": ("", "pass", "3.0 if hasattr(self, 'k') else 2.0", "cell.k = 1"),
    "attribute that comes, tried": ("def f(o):\n    try: return o.k\n    except AttributeError: return 2.0", "pass",
                                    "f(self)", "cell.k = 3.0"),
    "attribute that comes, tried for any error": ("def f(o):\n    try: return o.k\n    except: return 2.0", "pass",
                                                  "f(self)", "type(cell).k = 3.0"),
    "attribute of a module that comes, tried": ("m = module('stale_m')\ndef f():\n    try: return m.k\n"
                                               "    except AttributeError: return 2.0", "pass", "f()",
                                               "world['m'].k = 3.0"),
    "attribute of the class that comes": ("", "pass", "getattr(self, 'k', 2.0)", "type(cell).k = 3.0"),
    "attribute that goes": ("", "self.k = 3.0", "getattr(self, 'k', 2.0)", "del cell.k"),
    "attribute with a computed name": ("", "self.k_1 = 2.0", "getattr(self, 'k_' + str(1))", "cell.k_1 = 3.0"),
    "vars": ("", "self.k = 2.0", "vars(self)['k']", "cell.k = 3.0"),
    "dictionary of the object": ("", "self.k = 2.0", "self.__dict__['k']", "cell.k = 3.0"),
    "attrgetter": ("from operator import attrgetter\nget = attrgetter('k')", "self.k = 2.0", "get(self)",
                   "cell.k = 3.0"),
    "slot": ("class Base(Base): __slots__ = ('k',)", "self.k = 2.0", "self.k", "cell.k = 3.0"),
    "slot that comes": ("class Base(Base): __slots__ = ('k',)", "pass", "getattr(self, 'k', 2.0)", "cell.k = 3.0"),
    "attribute of the class": ("", "pass", "self.kind", "type(cell).kind = 3.0"),
    "attribute of a base class": ("", "pass", "self.inherited", "Base.inherited = 3.0"),
    "attribute of the class that hides one of its class": (
        "class Kind(type): k = 2.0\nclass O(metaclass=Kind): pass", "pass", "O.k", "world['O'].k = 3.0"),
    "attribute of the class that hides a computed one": (
        "class O:\n    def __getattr__(self, name): return {'k': 2.0}[name]\no = O()", "pass", "o.k",
        "world['O'].k = 3.0"),
    "options of an optimiser": (
        "o = tg.optim.SGD([tg.nn.Parameter(tg.ones(1))], lr=2.0)", "pass", "o.param_groups[0]['lr']",
        "world['o'].param_groups[0]['lr'] = 3.0"),
    "a schedule": (
        "p = tg.nn.Parameter(tg.ones(1))\ns = tg.optim.lr_scheduler.ExponentialLR(tg.optim.SGD([p], lr=2.0), 1.5)",
        "self.s = s", "self.s.get_last_lr()[0]", "world['s'].optimizer.step(); world['s'].step()"),
    "what a cached function gave before": (
        "import functools\nd = {'k': 2.0}\n@functools.cache\ndef f(): return d['k']\nf()", "pass", "f()",
        "world['d']['k'] = 3.0; world['f'].cache_clear()"),
    "what a function with a small cache gave before": (
        "import functools\nd = {'k': 2.0}\n@functools.lru_cache(4)\ndef f(a, b): return d['k']\nf(1, b=2)", "pass",
        "f(1, b=2)", "world['d']['k'] = 3.0; world['f'].cache_clear()"),
    "attribute of the class that hides one": ("", "pass", "self.inherited", "type(cell).inherited = 3.0"),
    "attribute that hides one of the class": ("", "pass", "self.kind", "cell.kind = 3.0"),
    "another class": ("", "pass", "self.kind", "cell.__class__ = type('D', (type(cell),), {'kind': 3.0})"),
    "list": ("", "self.k = [2.0]", "self.k[0]", "cell.k[0] = 3.0"),
    "list in a list": ("", "self.k = [[2.0]]", "self.k[0][0]", "cell.k[0].append(cell.k[0].pop() + 1)"),
    "dictionary": ("", "self.k = {'a': 2.0}", "self.k['a']", "cell.k['a'] = 3.0"),
    "set": ("", "self.k = {2.0}", "sum(self.k)", "cell.k.add(1.0)"),
    "deque": ("from collections import deque", "self.k = deque([2.0])", "self.k[0]", "cell.k.appendleft(3.0)"),
    "ordered dictionary": ("from collections import OrderedDict", "self.k = OrderedDict(a=2.0)", "self.k['a']",
                           "cell.k['a'] = 3.0"),
    "user's list": ("class L(list): pass", "self.k = L([2.0])", "self.k[0]", "cell.k[0] = 3.0"),
    "attribute of a user's list": ("class L(list): pass", "self.k = L(); self.k.a = 2.0", "self.k.a", "cell.k.a = 3.0"),
    "UserDict": ("from collections import UserDict", "self.k = UserDict(a=2.0)", "self.k['a']", "cell.k['a'] = 3.0"),
    "ChainMap": ("from collections import ChainMap", "self.k = ChainMap({}, {'a': 2.0})", "self.k['a']",
                 "cell.k['a'] = 3.0"),
    "tuple with a list": ("", "self.k = ([2.0],)", "self.k[0][0]", "cell.k[0][0] = 3.0"),
    "namespace": ("", "self.k = types.SimpleNamespace(a=2.0)", "self.k.a", "cell.k.a = 3.0"),
    "namespace, as a whole": ("", "self.k = types.SimpleNamespace(a=2.0)", "sum(self.k.__dict__.values())",
                              "cell.k.a = 3.0"),
    "namespace that is compared": ("ONE = types.SimpleNamespace(a=2.0)", "self.k = types.SimpleNamespace(a=2.0)",
                                   "2.0 if self.k == ONE else 3.0", "cell.k.a = 3.0"),
    "dataclass": ("@dataclass\nclass D:\n    a: float", "self.k = D(2.0)", "self.k.a", "cell.k.a = 3.0"),
    "dataclass with slots": ("@dataclass(slots=True)\nclass D:\n    a: float", "self.k = D(2.0)", "self.k.a",
                             "cell.k.a = 3.0"),
    "dataclass, as a whole": ("import dataclasses\n@dataclass\nclass D:\n    a: float", "self.k = D(2.0)",
                              "dataclasses.astuple(self.k)[0]", "cell.k.a = 3.0"),
    "dataclass that is compared": ("@dataclass\nclass D:\n    a: float", "self.k = D(2.0)",
                                   "2.0 if self.k == D(2.0) else 3.0", "cell.k.a = 3.0"),
    "object in an object": ("class O: pass", "self.k = O(); self.k.o = O(); self.k.o.a = 2.0", "self.k.o.a",
                            "cell.k.o.a = 3.0"),
    "object, another dictionary": ("class O: pass", "self.k = O(); self.k.a = 2.0", "self.k.a",
                                   "cell.k.__dict__ = {'a': 3.0}"),
    "object that is called": ("class O:\n    def __call__(self): return self.a", "self.k = O(); self.k.a = 2.0",
                              "self.k()", "cell.k.a = 3.0"),
    "object that is called, by another method": ("class O:\n    def __call__(self): return 2.0", "self.k = O()",
                                                 "self.k()", "O.__call__ = lambda self: 3.0"),
    "named tuple with a list": ("from collections import namedtuple\nN = namedtuple('N', 'a')", "self.k = N([2.0])",
                                "self.k.a[0]", "cell.k.a[0] = 3.0"),
    "property": ("class Base(Base):\n    @property\n    def k(self): return self.hidden", "self.hidden = 2.0", "self.k",
                 "cell.hidden = 3.0"),
    "property, another one": ("", "pass", "self.kind", "type(cell).kind = property(lambda self: 3.0)"),
    "descriptor": ("class D:\n    a = 2.0\n    def __get__(self, o, k): return self.a\nclass Base(Base): k = D()",
                   "pass",
                   "self.k", "vars(Base)['k'].a = 3.0"),
    "what __getattr__ finds": ("class Base(Base):\n    def __getattr__(self, n): return self.__dict__['more'][n]",
                               "self.more = {'a': 2.0}", "self.a", "cell.more['a'] = 3.0"),
    "class as a namespace": ("class O: a = 2.0", "pass", "O.a", "O.a = 3.0"),
    "enumeration": ("class E(enum.Enum):\n    A = 2.0\n    B = 3.0", "self.k = E.A", "self.k.value", "cell.k = E.B"),
    "global": ("K = 2.0", "pass", "K", "world['K'] = 3.0"),
    "global that hides a builtin": ("", "pass", "float(max(1.0, 2.0))", "world['max'] = lambda *x: 3.0"),
    "global list": ("K = [2.0]", "pass", "K[0]", "world['K'][0] = 3.0"),
    "global object": ("K = types.SimpleNamespace(a=2.0)", "pass", "K.a", "world['K'].a = 3.0"),
    "global by its name": ("K = 2.0", "pass", "globals()['K']", "world['K'] = 3.0"),
    "global in eval": ("K = 2.0", "pass", "eval('K * 1.0')", "world['K'] = 3.0"),
    "global of a helper": ("K = 2.0\ndef f(): return K", "pass", "f()", "world['K'] = 3.0"),
    "helper, defined again": ("def f(): return 2.0", "pass", "f()", "exec('def f(): return 3.0', world)"),
    "helper's helper, defined again": ("def g(): return 2.0\ndef f(): return g()", "pass", "f()",
                                       "exec('def g(): return 3.0', world)"),
    "helper, other code": ("def f(): return 2.0", "pass", "f()", "world['f'].__code__ = (lambda: 3.0).__code__"),
    "helper in a lambda in a list": ("", "self.k = [lambda: F()]", "self.k[0]()", "world['F'] = lambda: 3.0"),
    "helper's attribute": ("def f(): return f.a\nf.a = 2.0", "pass", "f()", "world['f'].a = 3.0"),
    "default argument": ("def f(a=2.0): return a", "pass", "f()", "world['f'].__defaults__ = (3.0,)"),
    "default argument by name": ("def f(*, a=2.0): return a", "pass", "f()", "world['f'].__kwdefaults__['a'] = 3.0"),
    "default list": ("def f(a=[2.0]): return a[0]", "pass", "f()", "world['f'].__defaults__[0][0] = 3.0"),
    "default of step": ("", "pass", "(lambda a=K: a[0])()", "world['K'][0] = 3.0"),
    "closure": ("def make():\n    k = 2.0\n    def f(): return k\n    def put(x):\n        nonlocal k\n        k = x\n"
                "    return f, put\nf, put = make()", "pass", "f()", "world['put'](3.0)"),
    "list in a closure": ("def make(k): return lambda: k[0]\nL = [2.0]\nf = make(L)", "pass", "f()",
                          "world['L'][0] = 3.0"),
    "decorated helper": ("import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(): return f() * SCALE\n"
                         "    return g\nSCALE = 1.0\n@twice\ndef f(): return 2.0", "pass", "f()",
                         "world['SCALE'] = 2.0"),
    "partial": ("from functools import partial\nL = [2.0]\nf = partial(lambda a: a[0], L)", "pass", "f()",
                "world['L'][0] = 3.0"),
    "partial, its keywords": ("from functools import partial\nf = partial(lambda a: a, a=2.0)", "pass", "f()",
                              "world['f'].keywords['a'] = 3.0"),
    "method": ("", "pass", "self.method()", "type(cell).method = lambda self: 3.0"),
    "method, of this object": ("", "pass", "self.method()", "cell.method = lambda: 3.0"),
    "bound method kept": ("class O:\n    a = 2.0\n    def f(self): return self.a", "self.k = O().f", "self.k()",
                          "cell.k.__self__.a = 3.0"),
    "bound builtin kept": ("", "self.k = {'a': 2.0}.get", "self.k('a')", "cell.k.__self__['a'] = 3.0"),
    "class method": ("class Base(Base):\n    a = 2.0\n    @classmethod\n    def k(cls): return cls.a", "pass",
                     "self.k()",
                     "Base.a = 3.0"),
    "static method": ("class Base(Base):\n    @staticmethod\n    def k(): return 2.0", "pass", "self.k()",
                      "Base.k = staticmethod(lambda: 3.0)"),
    "method of a base class by super": ("class Base(Base):\n    def method(self): return 2.0", "pass",
                                        "super().method()",
                                        "Base.method = lambda self: 3.0"),
    "step of this object": ("", "pass", "2.0", "cell.step = lambda x, h: 3 * tg.tanh(x @ cell.W + h @ cell.U)"),
    "step of the class": ("", "pass", "2.0",
                          "type(cell).step = lambda self, x, h: 3 * tg.tanh(x @ self.W + h @ self.U)"),
    "module": ("m = module('stale_m', k=2.0)", "pass", "m.k", "world['m'].k = 3.0"),
    "module's function": ("m = module('stale_m', f=lambda: 2.0)", "pass", "m.f()", "world['m'].f = lambda: 3.0"),
    "module imported in step": ("m = module('stale_m', k=2.0)", "pass", "__import__('stale_m').k",
                                "world['m'].k = 3.0"),
    "name imported in step": ("m = module('stale_m', k=2.0)", "pass", "k", "world['m'].k = 3.0",
                              "from stale_m import k"),
    "another module of that name": ("m = module('stale_m', k=2.0)", "pass", "__import__('stale_m').k",
                                    "module('stale_m', k=3.0)"),
    "module that comes": ("import sys; sys.modules.pop('stale_m')\ndef f():\n    try:\n        from stale_m import k\n"
                          "        return k\n    except ImportError: return 2.0", "pass", "f()",
                          "module('stale_m', k=3.0)"),
    "module that comes, by sys.modules": ("import sys; sys.modules.pop('stale_m')", "pass",
                                          "sys.modules['stale_m'].k if 'stale_m' in sys.modules else 2.0",
                                          "module('stale_m', k=3.0)"),
    "environment": ("import os\nos.environ['STALE_K'] = '2.0'", "pass", "float(os.environ['STALE_K'])",
                    "world['os'].environ['STALE_K'] = '3.0'"),
    "weak reference": ("import weakref\nclass O: a = 2.0\no = O()", "self.k = weakref.ref(o)", "self.k().a",
                       "world['o'].a = 3.0"),
    "context variable": ("from contextvars import ContextVar\nV = ContextVar('V', default=2.0)", "pass", "V.get()",
                         "world['V'].set(3.0)"),
    "array": ("", "self.k = np.array([2.0])", "self.k[0]", "cell.k[0] = 3.0"),
    "array, by a function of NumPy": ("", "self.k = np.array([2.0, 1, 1])", "np.square(self.k)", "cell.k[0] = 3.0"),
    "array, a view of another": ("A = np.array([2.0, 1])", "self.k = A[:1]", "self.k[0]", "world['A'][0] = 3.0"),
    "array in a global": ("A = np.array([2.0])", "pass", "A[0]", "world['A'][0] = 3.0"),
    "large array": ("", "self.k = np.full(300_000, 2.0)", "self.k[299_999]", "cell.k[299_999] = 3.0"),
    "array of objects": ("", "self.k = np.array([[2.0], None], object)", "self.k[0][0]", "cell.k[0][0] = 3.0"),
    "array's sum": ("", "self.k = np.ones(2)", "self.k.sum()", "cell.k[0] = 2.0"),
    "array that is also an operand": ("", "self.k = np.ones(3, np.float32)", "(self.k * 2)[0]", "cell.k[:] = 2.0",
                                      "x = x * self.k"),
    "bytearray": ("", "self.k = bytearray([2])", "self.k[0]", "cell.k[0] = 3"),
    "array of the standard library": ("import array", "self.k = array.array('d', [2.0])", "self.k[0]",
                                      "cell.k[0] = 3.0"),
    "number of ctypes": ("import ctypes", "self.k = ctypes.c_double(2.0)", "self.k.value", "cell.k.value = 3.0"),
    "tensor's data": ("", "self.k = tg.tensor([2.0])", "self.k.data[0]", "cell.k.data[0] = 3.0"),
    "tensor's shape": ("", "self.k = tg.zeros(2)", "float(self.k.shape[0])", "cell.k.data = np.zeros(3, np.float32)"),
    "whether a tensor wants a gradient": ("", "self.k = tg.nn.Parameter(tg.zeros(2))",
                                          "2.0 if self.k.requires_grad else 3.0", "cell.k.requires_grad_(False)"),
    "attribute of a metaclass": ("class M(type): k = 2.0\nclass O(metaclass=M): pass", "pass", "O.k", "M.k = 3.0"),
    "single dispatch": ("import functools\n@functools.singledispatch\ndef f(x): return 2.0", "pass", "f(1)",
                        "f.register(int)(lambda x: 3.0)"),
    "single dispatch of a method": ("import functools\nclass Base(Base):\n    @functools.singledispatchmethod\n"
                                    "    def f(self, x): return 2.0", "pass", "self.f(1)",
                                    "Base.f.register(int)(lambda self, x: 3.0)"),
    "number in a module of Python's": ("import math; math.stale_k = 2.0", "pass", "math.stale_k",
                                       "world['math'].stale_k = 3.0"),
    "function in a module of this library's": ("tg.nn.functional.stale_f = lambda: 2.0", "pass",
                                               "tg.nn.functional.stale_f()",
                                               "tg.nn.functional.stale_f = lambda: 3.0"),
    "queue": ("import queue", "self.k = queue.Queue(); self.k.put(2.0)", "self.k.queue[0]", "cell.k.queue[0] = 3.0"),
    "global with a computed name": ("K_1 = 2.0", "self.i = 1", "globals()[f'K_{self.i}']", "world['K_1'] = 3.0"),
    "module's attribute with a computed name": ("m = module('stale_m', k_1=2.0)", "self.i = 1",
                                                "getattr(m, f'k_{self.i}')", "m.k_1 = 3.0"),
    "view of a dictionary": ("", "self.d = {'a': 2.0}; self.k = self.d.values()", "sum(self.k)", "cell.d['a'] = 3.0"),
    "read-only dictionary": ("", "self.d = {'a': 2.0}; self.k = types.MappingProxyType(self.d)", "self.k['a']",
                             "cell.d['a'] = 3.0"),
    "options of a command line": ("import argparse", "self.k = argparse.Namespace(a=2.0)", "self.k.a",
                                  "cell.k.a = 3.0"),
    "name of a function": ("def f(): pass", "self.k = f", "2.0 if self.k.__name__ == 'f' else 3.0", "f.__name__ = 'g'"),
    "documentation of a function": ("def f(): '2.0'", "self.k = f", "float(self.k.__doc__)", "f.__doc__ = '3.0'"),
    "name of a class": ("class O: pass", "self.k = O()", "2.0 if type(self.k).__name__ == 'O' else 3.0",
                        "O.__name__ = 'P'"),
    "documentation of a class": ("class O: '2.0'", "self.k = O", "float(self.k.__doc__)", "O.__doc__ = '3.0'"),
    "annotation of a class": ("class O:\n    a: 2.0", "self.k = O", "self.k.__annotations__['a']",
                              "O.__annotations__['a'] = 3.0"),
    "what a metaclass finds": ("class M(type):\n    def __getattr__(c, n): return c.D[n]\n"
                               "class O(metaclass=M): D = {'a': 2.0}", "pass", "O.a", "O.D['a'] = 3.0"),
    "factory of a dictionary": ("from collections import defaultdict", "self.k = defaultdict(lambda: 2.0)",
                                "self.k.default_factory()", "cell.k.default_factory = lambda: 3.0"),
    "number among the builtins": ("import builtins; builtins.stale_k = 2.0", "pass", "stale_k",
                                  "builtins.stale_k = 3.0"),
    "function among the builtins": ("import builtins; builtins.stale_k = lambda: 2.0", "pass", "stale_k()",
                                    "builtins.stale_k = lambda: 3.0"),
    "training": ("", "pass", "2.0 if self.training else 3.0", "cell.eval()"),
    "attribute of a child": ("", "self.child = tg.nn.Linear(1, 1); self.child.k = 2.0", "self.child.k",
                             "cell.child.k = 3.0"),
    "attribute of a child, by modules()": ("", "self.child = tg.nn.Linear(1, 1); self.child.k = 2.0",
                                           "sum(getattr(m, 'k', 0.0) for m in self.modules())", "cell.child.k = 3.0"),
    "length of a tensor": ("", "self.t = tg.ones(2)", "len(self.t)", "cell.t.data = np.ones(3, np.float32)"),
    "shape of a tensor, by another": ("", "self.t = tg.ones(2)", "(tg.zeros_like(self.t) + 1).numpy().sum()",
                                      "cell.t.data = np.ones(3, np.float32)"),
    "shape of a tensor, by attrgetter": ("from operator import attrgetter\nf = attrgetter('shape')",
                                         "self.t = tg.ones(2)", "f(self.t)[0]", "cell.t.data = np.ones(3, np.float32)"),
    "shape of a tensor, by a method that is kept": ("", "self.t = tg.ones(2); self.f = self.t.numel", "self.f()",
                                                    "cell.t.data = np.ones(3, np.float32)"),
    "pattern of a class": ("@dataclass\nclass D:\n    a: float\n    b: float = 1\ndef f(d):\n    match d:\n"
                           "        case D(a=2.0): return 2.0\n    return 3.0 * d.b", "self.k = D(2.0)", "f(self.k)",
                           "cell.k.a = 3.0"),
    "pattern of a class, by position": ("@dataclass\nclass D:\n    a: float\n    b: float = 1\ndef f(d):\n"
                                        "    match d:\n        case D(2.0): return 2.0\n    return 3.0 * d.b",
                                        "self.k = D(2.0)", "f(self.k)", "cell.k.a = 3.0"),
    "forward of a module, by object": ("", "self.m = tg.nn.Tanh(); self.m.forward = lambda v: 2.0", "self.m(x)",
                                       "cell.m.forward = lambda v: 3.0"),
    "forward of a class of modules": ("class M(tg.nn.Module): forward = lambda self, v: 2.0", "self.m = M()",
                                      "self.m(x)", "M.forward = lambda self, v: 3.0"),
    "polynomial": ("", "self.k = np.polynomial.Polynomial([1.0, 2.0])", "self.k(0.5)", "cell.k.coef[0] = 3.0"),
    "event": ("import threading", "self.k = threading.Event()", "3.0 if self.k.is_set() else 2.0", "cell.k.set()"),
    "function of NumPy's that calls the user's": ("L = [2.0]", "self.k = np.vectorize(lambda v: v * L[0])",
                                                  "self.k(np.ones(1))[0]", "L[0] = 3.0"),
    "number in a large tensor of an object": (
        "class O: pass", "self.o = O(); self.o.t = tg.ones(1 << 19) * 2", "self.o.t.data[0]",
        "cell.o.t.data[0] = 3.0"),
    "attribute of a parameter": ("class Q(tg.nn.Parameter): pass", "self.q = Q(np.ones(2)); self.q.k = 2.0",
                                 "self.q.k", "cell.q.k = 3.0"),
    "attribute of an array": ("class A(np.ndarray): pass", "self.a = np.ones(2).view(A); self.a.k = 2.0", "self.a.k",
                              "cell.a.k = 3.0"),
    "record": ("", "self.r = np.rec.array([(2.0,)], dtype=[('a', 'f8')])[0]", "self.r.a", "cell.r.a = 3.0"),
    "attribute of a partial": ("import functools\nf = functools.partial(float)\nf.k = 2.0", "pass", "f.k",
                               "world['f'].k = 3.0"),
    "list that a cached function gave": ("import functools\n@functools.lru_cache\ndef f(): return [2.0]\nf()", "pass",
                                         "f()[0]", "world['f']()[0] = 3.0"),
    "list that a function cached without end gave": (
        "import functools\n@functools.cache\ndef f(): return [2.0]\nf()", "pass", "f()[0]",
        "world['f']()[0] = 3.0"),
    "attribute by format": ("", "self.k = 2.0", "float('{0.k}'.format(self))", "cell.k = 3.0"),
    "list that walks another way": ("class L(list):\n    def __iter__(self): return iter(())", "self.k = L([2.0])",
                                    "self.k[0]", "cell.k[0] = 3.0"),
    "dictionary that has other keys": ("class D(dict):\n    def keys(self): return []", "self.k = D(a=2.0)",
                                       "self.k['a']", "cell.k['a'] = 3.0"),
    "relative import": ("m = module('stale_m', __path__=[])\nm.sub = module('stale_m.sub', k=2.0)\n"
                        "__package__ = 'stale_m'\ndef f():\n    from .sub import k\n    return k", "pass", "f()",
                        "world['m'].sub.k = 3.0"),
    "environment, by a function that was imported": ("from os import getenv", "pass", "float(getenv('STALE_K'))",
                                                     "import os; os.environ['STALE_K'] = '3.0'"),
    "class of an object without a dictionary": ("class O: __slots__ = ()\nclass P: __slots__ = ()", "self.k = O()",
                                                "2.0 if type(self.k) is O else 3.0", "cell.k.__class__ = P"),
    "child's parent": ("", "self.child = tg.nn.Linear(1, 1); self.child.k = [self]; self.j = 2.0", "self.child.k[0].j",
                       "cell.j = 3.0"),
}  # fmt: skip


def world_of(row):
    """The globals that a cell of a row sees, and the cell."""
    before, setup, read, _, *head = row

    def module(name, **named):
        made = sys.modules[name] = types.ModuleType(name)
        vars(made).update(named)
        return made

    class Own(Base):
        """A base class for each row, which may change it."""

        inherited = 2.0

    from dataclasses import dataclass

    world = dict(tg=tg, np=np, Base=Own, types=types, enum=enum, module=module, dataclass=dataclass)
    world |= dict(F=lambda: 2.0, K=[2.0], __name__="stale_world")
    text = CELL.format(setup=setup, read=read, head="".join(f"{each}; " for each in head))
    exec(compile(f"{before}\n{text}", "world.py", "exec"), world)
    world["world"] = world
    world["cell"] = world["C"]()
    return world


def test_a_class_of_code_that_runs_in_no_module():
    """Whose classes say that they are builtins."""
    world = {"tg": tg, "Base": Base}
    exec("class C(Base):\n    def step(self, x, h): return tg.tanh(x @ self.W + h @ self.U)", world)
    layer, x = tg.nn.Recurrent(world["C"](), fused="require"), tg.randn(2, 1, 3)
    before = both(layer, x)
    world["C"].step = lambda self, x, h: tg.sigmoid(x @ self.W + h @ self.U)
    assert not np.allclose(both(layer, x), before)


@pytest.fixture
def made(monkeypatch):
    """The cells that were compiled."""
    found, plain = [], FusedCell.__init__

    def counted(self, cell, sequence):
        found.append(cell)
        plain(self, cell, sequence)

    monkeypatch.setattr(FusedCell, "__init__", counted)
    return found


def both(layer, x):
    """The output by the fast path, if there is one, which is that of the tape."""
    with tg.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = layer(x)[0].numpy()
        slow = tg.nn.Recurrent(layer.cell, fused="never")(x)[0].numpy()
    np.testing.assert_allclose(y, slow, rtol=0, atol=1e-6)
    return y


@pytest.mark.parametrize("name", ROWS)
def test_what_a_step_reads_may_change(name, made, monkeypatch):
    for module in ("stale_m", "stale_m.sub"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("STALE_K", "2.0")
    tg.manual_seed(0)
    world = world_of(ROWS[name])
    layer, x = tg.nn.Recurrent(world["cell"]), tg.randn(2, 1, 3)
    before = both(layer, x)
    assert np.array_equal(both(layer, x), before)
    (compiled,) = next(iter(Variants.of(layer.cell).compiled.values()))
    if compiled.fused is not None:
        assert compiled.holds() and len(made) == 1
    exec(ROWS[name][3], world)
    after = both(layer, x)
    assert not np.allclose(after, before)
    assert np.array_equal(both(layer, x), after)


def test_what_the_collector_calls_is_no_part_of_a_step(made):
    """It may come at any time; who counts its rounds had cells compiled anew at each call."""
    world = {"rounds": 0}
    exec("def count(phase, info):\n    global rounds\n    rounds += 1", world)
    layer, x, usual = tg.nn.Recurrent(tg.nn.RNNCell(3, 4)), tg.randn(2, 1, 3), gc.get_threshold()
    gc.callbacks.append(world["count"])
    gc.set_threshold(1)
    try:
        for _ in range(3):
            layer(x)
            gc.collect()
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(world["count"])
    assert world["rounds"] and len(made) == 1


OPTIONS = [  # a module of the library, and an option of it that is set to another value
    ("Softplus()", "beta", 2.0), ("Softplus()", "threshold", 0.1), ("LeakyReLU()", "negative_slope", 0.5),
    ("ELU()", "alpha", 2.0), ("GELU()", "approximate", "tanh"), ("Softmax(-1)", "dim", 1), ("LayerNorm(3)", "eps", 0.5),
    ("LogSoftmax(-1)", "dim", 1), ("MaxPool1d(3, 1, 1)", "kernel_size", 2),
    ("AvgPool1d(3, 1, 1)", "count_include_pad", False),
    ("Conv1d(2, 2, 3, padding=1)", "padding_mode", "circular"), ("Conv1d(2, 2, 3, padding=1)", "bias", None),
    ("Linear(3, 3)", "bias", None), ("Dropout(0.2)", "p", 0.7), ("GaussianNoise(0.2)", "std", 0.7),
    ("BatchNorm1d(2).eval()", "eps", 0.5),
    ("TransformerEncoderLayer(3, 1, 4, 0.0, batch_first=True)", "norm_first", True),
]  # fmt: skip


@pytest.mark.parametrize("within", [False, True], ids=["alone", "within"])
@pytest.mark.parametrize(("make", "option", "value"), OPTIONS, ids=[f"{make} {option}" for make, option, _ in OPTIONS])
def test_options_of_modules_within_may_change(make, option, value, within, monkeypatch):
    interpret(monkeypatch)

    class Holds(Base):
        def __init__(self):
            super().__init__()
            module = eval(f"tg.nn.{make}")
            self.module = tg.nn.Sequential(tg.nn.Tanh(), module) if within else module

        def initial_state(self, batch_size):
            return tg.zeros(batch_size, 2, 3, dtype=np.float64)

        def step(self, x, h):
            y = self.module(tg.tanh(x @ self.W).unsqueeze(1) * self.k - h)
            return 0.5 * h + y.sum(-1, keepdim=True) + y.flatten(1)[:, :3].unsqueeze(1)

    Holds.k = tg.tensor(np.array([[1.0], [-2.0]]))
    layer, x = tg.nn.Recurrent(Holds().double(), fused="require"), tg.randn(3, 2, 3, dtype=np.float64)

    def results():
        found = []
        for layer.fused in "never", "require":
            tg.manual_seed(4)
            found.append(layer(x)[0].numpy())
        np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-12)
        return found[1]

    before = results()
    setattr(layer.cell.module[1] if within else layer.cell.module, option, value)
    assert np.abs(results() - before).max() > 1e-5


class Untouchable(dict):
    """A dictionary that must not be gone through any more, once it is `closed`."""

    closed = False

    def items(self):
        assert not self.closed, "somebody looks at what the step never reads"
        return super().items()

    def values(self):
        return dict(self.items()).values()

    def __iter__(self):
        return iter(dict(self.items()))


def test_what_a_step_never_reads_is_never_looked_at(made):
    world = world_of(("", "self.k = [2.0]", "self.k[0]", ""))
    layer, x = tg.nn.Recurrent(world["cell"], fused="require"), tg.randn(2, 1, 3)
    before = both(layer, x)
    compiled = next(iter(Variants.of(layer.cell).compiled.values()))[0]
    asked = str([*compiled.guards.always.__defaults__])
    for number in range(3):
        layer.cell.words = {str(i): i for i in range(20_000)}
        layer.cell.unread = types.SimpleNamespace(number=number)
        world["UNREAD"] = number
        assert np.array_equal(both(layer, x), before) and compiled.holds()
    assert len(made) == 1 and "words" not in asked and "unread" not in asked


@pytest.mark.parametrize(
    "setup", ["self.words = Untouchable()", "self.child = tg.nn.Linear(1, 1); self.child.w = Untouchable()"]
)
def test_containers_that_a_step_does_not_name_are_not_gone_through_again(setup, made, monkeypatch):
    cell = world_of(("", "self.k = 2.0", "self.k", ""))["cell"]
    exec(setup, {"self": cell, "Untouchable": Untouchable, "tg": tg})
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.randn(2, 1, 3)
    with tg.no_grad():
        layer(x)
        monkeypatch.setattr(Untouchable, "closed", True)
        layer(x)
        cell.other = 1
        layer(x)
    assert len(made) == 1


def test_setting_what_no_step_reads_leaves_the_last_call_in_use(made, monkeypatch):
    """Attributes of other modules, and of this one: the last call is looked at again, and not thrown away."""
    world = world_of(("", "self.k = [2.0]", "self.k[0]", ""))
    net = tg.nn.Module()
    net.layers = [tg.nn.Recurrent(world["cell"]), tg.nn.LSTM(3, 3), tg.nn.Recurrent(tg.nn.GRUCell(3, 3))]
    x, net.n = tg.randn(2, 1, 3), 0
    scans = [net.layers[0], *net.layers[1].scans, net.layers[2]]
    for layer in net.layers:
        layer(x)
    last = [scan._last for scan in scans]
    for _ in range(3):
        net.n += 1
        world["cell"].unread = net.n
        net.layers[1].note = net.n
        for layer in net.layers:
            layer(x)
    assert [scan._last for scan in scans] == last and len(made) == 3


def test_a_step_that_catches_errors_is_guarded_by_what_it_tries(made):
    before = "def f(o):\n    try: return o.k\n    except AttributeError: return 2.0"
    layer, x = tg.nn.Recurrent(world_of((before, "pass", "f(self)", ""))["cell"]), tg.randn(2, 1, 3)
    expected = both(layer, x)
    for layer.cell.epoch in range(3):
        type(layer.cell).note = layer.cell.epoch
        np.testing.assert_array_equal(both(layer, x), expected)
    assert len(made) == 1


def test_more_than_can_be_looked_at_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(walk, "LIMIT", 50)
    cell = world_of(("", "self.k = [[float(i)] for i in range(1000)]", "len(self.k[0]) * 2.0", ""))["cell"]
    with pytest.raises(NotImplementedError, match=r"more than 50 objects, by way of self.k \(world.py:\d+, in step\)"):
        tg.nn.Recurrent(cell, fused="require")(tg.randn(2, 1, 3))


def test_how_a_module_was_imported_is_not_looked_at(monkeypatch):
    """Its loader may know the whole program, as that of a test runner knows all tests."""
    loads = "import types\nuser = types.ModuleType('user')\nuser.k, names = 2.0, ['k']\n"
    loads += "class Loader: pass\nuser.__loader__ = Loader()\nuser.__loader__.tests = [[i] for i in range(9999)]"
    monkeypatch.setattr(walk, "LIMIT", 5000)
    world = world_of((loads, "pass", "vars(user)[names[0]]", ""))
    layer, x = tg.nn.Recurrent(world["cell"], fused="require"), tg.randn(2, 1, 3)
    before = layer(x)[0].numpy().copy()
    world["user"].k = 3.0
    assert not np.array_equal(layer(x)[0].numpy(), before)


@pytest.mark.parametrize(
    "proxy",
    ["class P: __class__ = property(lambda self: 1 / 0)", "class P:\n    def __getattribute__(self, name): 1 / 0"],
    ids=["class", "attributes"],
)
def test_what_cannot_be_looked_at_is_refused_by_name(proxy):
    """Such as the request of a web server, between two of them: the tape runs what does not touch it."""
    world = world_of((f"{proxy}\nproxy = P()", "pass", "2.0 if proxy is not None else 3.0", ""))
    layer, x = tg.nn.Recurrent(world["cell"]), tg.randn(2, 1, 3)
    told = r"step can read proxy, which raises ZeroDivisionError .*world.py:\d+, in step"
    with pytest.warns(UserWarning, match=told):
        layer(x)
    both(layer, x)


@pytest.mark.parametrize("read", ["self.W.shape[1]", "tg.zeros(x.shape[0], 3).ndim"])
def test_another_array_of_the_same_form_is_no_change(read):
    """As optimisers and finite differences give parameters; who asked for a shape had the cell compiled at each."""
    cell = world_of(("", "pass", f"float({read})", ""))["cell"]
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.randn(2, 1, 3)
    layer(x)
    (before,) = (each[0].fused for each in Variants.of(cell).compiled.values())
    cell.W.data = cell.W.data + 1
    both(layer, x)
    assert [each[0].fused for each in Variants.of(cell).compiled.values()] == [before]


@pytest.mark.parametrize(
    ("read", "patched"),
    [("np.square(2.0)", (np, "square", lambda x: 7.0)), ("self.m(x)", (tg.nn.Tanh, "forward", lambda self, x: 7.0))],
)
def test_what_is_patched_in_libraries(read, patched, monkeypatch):
    cell = world_of(("", "self.m = tg.nn.Tanh()", read, ""))["cell"]
    layer, x = tg.nn.Recurrent(cell), tg.randn(2, 1, 3)
    if "self" in read:
        monkeypatch.setattr(tg.nn.Tanh, "forward", lambda self, x: 2.0, raising=False)
    before = both(layer, x)
    monkeypatch.setattr(*patched)
    assert not np.allclose(both(layer, x), before)


@pytest.mark.parametrize("name", ["data", "grad", "requires_grad"])
def test_attributes_that_are_called_as_those_of_tensors(name, made):
    """A step that reads `self.options.data` was compiled anew after each step of an optimiser."""
    cell = world_of(("", f"self.k = types.SimpleNamespace({name}=2.0)", f"self.k.{name}", ""))["cell"]
    layer, x = tg.nn.Recurrent(cell, fused="require"), tg.randn(2, 1, 3)
    optimizer = tg.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        layer(x)[0].sum().backward()
        optimizer.step()
    assert len(made) == 1
    before = both(layer, x)
    setattr(cell.k, name, 3.0)
    assert not np.allclose(both(layer, x), before)


def test_sequence_values_of_another_size():
    class Sized(Base):
        def __init__(self):
            super().__init__()
            self.t = tg.ones(4)

        def sequence_values(self, batch_size):
            return {"m": tg.ones(batch_size, len(self.t))}

        def step(self, x, h):
            return tg.tanh(x @ self.W + h @ self.U) * self.m.sum(-1, keepdim=True)

    layer, x = tg.nn.Recurrent(Sized(), fused="require"), tg.randn(2, 1, 3)
    before = both(layer, x)
    layer.cell.t.data = np.ones(3, np.float32)
    assert not np.allclose(both(layer, x), before)
