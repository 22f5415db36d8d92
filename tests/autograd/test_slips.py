"""What a beginner gets wrong: wrong shapes and dtypes, forgotten flags, habits from PyTorch and NumPy.

A row is what somebody types, and either the error with the words that say what to do, or the result, where there is one
that nobody could take for another.
"""

import re
from fractions import Fraction

import numpy as np
import pytest

import tinygrad_rnn as tg


class Plain(tg.nn.Module):
    def __init__(self):  # without super().__init__(), and with modules in a plain list and a plain dict
        self.layers = [tg.nn.Linear(3, 2), tg.nn.Linear(2, 2)]
        self.named = {"out": tg.nn.Linear(2, 1)}


class NoSize(tg.nn.Cell):
    def __init__(self):
        self.W = tg.nn.Parameter(tg.ones(3, 4))

    def step(self, x, h):
        return tg.tanh(x @ self.W + h)


class Turned(tg.nn.Cell):
    def __init__(self):
        self.hidden_size, self.W = 4, tg.nn.Parameter(tg.ones(4, 3))

    def step(self, x, h):
        return tg.tanh(x @ self.W + h)


class InPlace(tg.nn.Cell):
    def __init__(self):
        self.hidden_size, self.W = 4, tg.nn.Parameter(tg.ones(3, 4))

    def step(self, x, h):
        h *= 0.5
        h += x @ self.W
        return h


ERRORS = [
    # ---- Backward ----
    ("loss = (p * p).sum(); loss.backward(); loss.backward()", RuntimeError, "backward(retain_graph=True)"),
    ("(p * 2).backward()", RuntimeError, "needs a gradient of its shape; only for a single number"),
    ("(c * 2).sum().backward()", RuntimeError, "not computed from a tensor with requires_grad=True"),
    ("(p * 2).sum().detach().backward()", RuntimeError, "not computed from a tensor with requires_grad=True"),
    ("p.backward(tg.ones(3))", ValueError, "has shape [2], its gradient [3]"),
    ("tg.grad(p.sum(), c)", RuntimeError, "make it with requires_grad=True"),
    ("tg.grad(p.sum(), W)", RuntimeError, "allow_unused=True"),
    ("p.register_hook(lambda g: g.double()); p.sum().backward()", TypeError, "a Tensor of shape [2] and float32"),
    ("p.grad = np.ones(2, np.float32)", TypeError, "write tg.tensor(it)"),
    ("p.grad = tg.ones(1); p.sum().backward()", ValueError, "a gradient has its tensor's shape, [2], not [1]"),
    ("tg.Tensor([1.0, 2.0])", TypeError, "not list: write tg.tensor(...)"),
    ("tg.Tensor(3)", TypeError, "not int: write tg.tensor(...)"),
    ("p.grad = c.sum()", ValueError, "a gradient has its tensor's shape, [2], not []"),
    ("p.sum().backward(); p.grad.zero_()", AttributeError, "write x.grad = None"),
    # ---- In place ----
    ("p += 1", RuntimeError, "`with tg.no_grad(): p += ...`"),
    ("p -= 0.1 * c", RuntimeError, "`with tg.no_grad(): p -= ...`"),
    ("p[0] = 1.0", RuntimeError, "`with tg.no_grad(): p[...] = ...`"),
    ("c[0] = 1.0", TypeError, "stack, where, cat or masked_fill"),
    ("with tg.no_grad(): p += tg.ones(3, 2)", ValueError, "the result has shape [3, 2], p has [2]"),
    ("p.add_(1)", AttributeError, "`with tg.no_grad(): p += y`"),
    ("p.lerp_(c, 0.1)", AttributeError, "write x = x + y and its like"),
    ("p.fill_(0)", AttributeError, "`with tg.no_grad(): p[...] = values`"),
    ("c.copy_(p)", AttributeError, "not written to in place"),
    ("p.data = [1.0, 2.0]", TypeError, "an array or a tensor of floats, got list"),
    ("p.data = np.array([1, 2])", TypeError, "an array or a tensor of floats, got int64"),
    ("p.require_grad = False", AttributeError, "require_grad"),
    ("lin.weight = np.ones((2, 3))", TypeError, "Linear.weight is a Parameter and would be lost"),
    ("p **= 2", RuntimeError, "`with tg.no_grad(): p **= ...`"),
    ("p //= 2", RuntimeError, "`with tg.no_grad(): p //= ...`"),
    ("W @= W", RuntimeError, "`with tg.no_grad(): p @= ...`"),
    ("p.grad = tg.ones(3)", ValueError, "a gradient has its tensor's shape, [2], not [3]"),
    ("with tg.no_grad(): lin.weight = lin.weight - 1", TypeError, "`with tg.no_grad(): x.weight[...] = values`"),
    ("tg.grad(p.sum(), 5)", TypeError, "grad: expected tensors, got int"),
    ("lin(tg.ones(3)).sum().backward(inputs=['p'])", TypeError, "backward: expected tensors, got str"),
    # ---- Shapes and dimensions ----
    ("W @ tg.ones(3, 2)", ValueError, "inner dimensions differ: a is [2, 2], b is [3, 2]; did you mean b.T?"),
    ("tg.ones(2, 3) + tg.ones(2)", ValueError, "aligned from the last dimension"),
    ("p.sum(dim=3)", IndexError, "dim 3 is out of range for a tensor of 1 dimensions"),
    ("p.reshape(-1, 3)", ValueError, "cannot infer the -1"),
    ("p.T", ValueError, "T is for matrices"),
    ("tg.cat(p, p)", TypeError, "write cat([x, y])"),
    ("tg.stack([p, W])", ValueError, "shapes differ: [2] and [2, 2]"),
    ("tg.zeros(2.5)", TypeError, "sizes must be integers"),
    ("tg.zeros(tg.tensor(2.0))", TypeError, "sizes must be integers"),
    ("W[:, 5]", IndexError, "out of bounds"),
    ("bool(p > 0)", ValueError, "reduce it first: any(), all()"),
    ("p.item()", ValueError, "no single number"),
    ("f'{p:.2f}'", TypeError, "reduce it, mean()"),
    ("for _ in tg.tensor(1.0): pass", TypeError, "item() is its number"),
    ("[1, 2][tg.tensor(1.0)]", TypeError, "only integers are; write int(x)"),
    ("tg.ones(2, 3)[0.5]", IndexError, "only integers, slices"),
    ("tg.ones(2, 3)[0, 'a']", IndexError, "only integers, slices"),
    ("round(p, 2)", ValueError, "reduce it first"),
    ("p.sum(c)", TypeError, "sum: dim must be an integer, not Tensor"),
    ("p.max(axis=0)", TypeError, "max() got an unexpected keyword argument 'axis'"),
    # ---- Data and dtypes ----
    ("tg.tensor([1, 2], requires_grad=True)", TypeError, "write x.float()"),
    ("tg.nn.Parameter([1, 2])", TypeError, "write x.float()"),
    ("tg.tensor([[1.0, 2.0], [3.0]])", ValueError, "nested lists must be of equal lengths"),
    ("tg.tensor([p.sum(), p.mean()])", TypeError, "write tg.stack([...])"),
    ("tg.tensor([[p[0], 1.0], [p[1], 2.0]])", TypeError, "write tg.stack([...])"),
    ("tg.linear(lstm(tg.ones(5, 2, 3)), W)", TypeError, "a recurrent layer returns y, state = layer(x)"),
    ("tg.full((2,), p.sum())", TypeError, "write fill_value.expand(size)"),
    ("p * 1j", TypeError, "got Tensor, complex"),
    ("Fraction(1, 2) * p", TypeError, "got Tensor, Fraction: write float(x)"),
    ("tg.tensor('1.0')", TypeError, "holds floats, integers or booleans"),
    ("tg.zeros(2, dtype=np.float16)", TypeError, "float32 or float64, not float16"),
    ("tg.zeros(2, dtype='half')", TypeError, "float32 or float64, not float16"),
    ("tg.zeros(2, dtype='flaot')", TypeError, "write tg.float32"),
    ("lin(None)", TypeError, "not object (None: is a return missing?)"),
    ("p + [1.0, 2.0]", TypeError, "write tg.tensor([...])"),
    ("p == [1.0, 2.0]", TypeError, "write tg.tensor([...])"),
    ("p & 1", TypeError, "& is for integers and booleans"),
    ("tg.tensor([1]) // 0", ZeroDivisionError, "not divided by zero"),
    ("tg.embedding(tg.ones(2), W)", TypeError, "expected integers, got float32"),
    ("tg.cross_entropy(W, tg.tensor([0, 5]))", IndexError, "target 5 is not one of the 2 classes"),
    # ---- NumPy ----
    ("np.concatenate([p, p])", TypeError, "write tg.cat"),
    ("np.stack([p, p])", TypeError, "write tg.stack"),
    ("np.where(c > 1, p, c)", TypeError, "write tg.where"),
    ("np.mean(p)", TypeError, "write tg.mean"),
    ("np.arctan(p)", TypeError, "there is no tg.arctan"),
    ("a = np.zeros(2); a += p", TypeError, "array = array + t"),
    ("np.add.reduce(p)", TypeError, "np.add.reduce"),
    ("np.mean([p.sum(), p.mean()])", TypeError, "write tg.stack([...]) and tg.mean"),
    ("np.max([p.sum(), 1.0])", TypeError, "write tg.stack([...]) and x.max()"),
    ("np.dot(np.eye(2), p)", TypeError, "write tg.dot"),
    ("np.exp(c, out=c)", TypeError, "writes a tensor into an array"),
    # ---- PyTorch ----
    ("p.cuda()", AttributeError, "there is no GPU"),
    ("p.to('cuda')", ValueError, "there is no GPU"),
    ("p.half()", AttributeError, "write x.float() or x.double()"),
    ("p.repeat(2)", AttributeError, "tg.cat([x, x])"),
    ("p.ceil()", AttributeError, "-tg.floor(-x)"),
    ("p.copy()", AttributeError, "write x.clone()"),
    ("p.view_as(c)", AttributeError, "x.reshape(y.shape)"),
    ("W.diag()", AttributeError, "write x.diagonal()"),
    ("lin.to('cuda')", ValueError, "there is no GPU"),
    ("p.silu()", AttributeError, "it is a function, tg.silu(...)"),
    # ---- Modules, cells, optimisers ----
    ("tg.optim.SGD(lin.parameters, lr=0.1)", TypeError, "write model.parameters()"),
    ("tg.optim.SGD(lin, lr=0.1)", TypeError, "write model.parameters()"),
    ("tg.optim.SGD(lin.named_parameters(), lr=0.1)", TypeError, "write model.parameters()"),
    ("tg.optim.SGD(lin.state_dict(), lr=0.1)", TypeError, "write model.parameters()"),
    ("tg.optim.SGD([lin], lr=0.1)", TypeError, "no tensor but a Linear: write model.parameters()"),
    ("tg.optim.SGD([lin.parameters()], lr=0.1)", TypeError, "write model.parameters()"),
    ("tg.optim.SGD([np.ones(2)], lr=0.1)", TypeError, "write tg.tensor(it, requires_grad=True)"),
    ("tg.optim.SGD([], lr=0.1)", ValueError, "no parameters"),
    ("tg.cross_entropy(W, tg.tensor([0.0, 1.0]))", ValueError, "class indices must be integers"),
    ("y = lstm(tg.ones(5, 2, 3)); y.sum()", AttributeError, "'tuple' object has no attribute 'sum'"),
    ("tg.optim.SGD(p * 2, lr=0.1)", TypeError, "put it into a list"),
    ("tg.optim.SGD([p * 2], lr=0.1)", ValueError, "is the result of mul; optimise the tensors"),
    ("q = lin.parameters(); list(q); tg.optim.SGD(q, lr=0.1)", ValueError, "was model.parameters() used up before?"),
    ("lin(tg.ones(4, 2))", ValueError, "an input of shape [4, 2] does not fit a weight of shape [2, 3]"),
    ("lin.load_state_dict({'weight': np.ones((2, 3))})", RuntimeError, "missing: bias"),
    ("tg.nn.LSTM(3, 4)(tg.ones(2, 5, 4))", ValueError, "expected 3 features in the last dimension, got 4"),
    ("tg.nn.LSTM(3, 4)(tg.ones(5, 2, 3), tg.zeros(1, 2, 4))", ValueError, "expected initial states h, c"),
    ("tg.nn.Recurrent(NoSize())(tg.ones(5, 2, 3))", TypeError, "set self.hidden_size"),
    ("tg.nn.Recurrent(NoSize)", TypeError, "expected a Cell, got type"),
    ("tg.nn.Recurrent(Turned(), fused='never')(tg.ones(5, 2, 3))", ValueError, "did you mean b.T?"),
    ("tg.nn.Module()(1)", NotImplementedError, "does not define forward"),
    ("tg.nn.Dropout(50)", ValueError, "must be in [0, 1]"),
    # ---- Names of PyTorch's ----
    ("tg.save(lin.state_dict(), 'model.pt')", AttributeError, "write tg.save_checkpoint(path, model, optimizer)"),
    ("tg.load('model.pt')", AttributeError, "write tg.load_checkpoint(path, model, optimizer)"),
    ("tg.cuda.is_available()", AttributeError, "there is no GPU"),
    ("tg.topk(p, 1)", AttributeError, "np.argsort(x.numpy())"),
    ("tg.no_such_name", AttributeError, "module 'tinygrad_rnn' has no attribute 'no_such_name'"),
    ("tg.nn.ModuleDict({})", AttributeError, "plain lists and dicts of modules and parameters will do"),
    ("tg.nn.utils.rnn.pack_padded_sequence(c, [2])", AttributeError, "layer(x, lengths=lengths)"),
    ("tg.nn.functional.one_hot(c, 3)", AttributeError, "write tg.eye(classes)[labels]"),
    ("tg.nn.init.xavier_uniform(p)", AttributeError, "write xavier_uniform_"),
    ("tg.optim.LBFGS([p])", AttributeError, "class Mine(tg.optim.Optimizer) with update(self, p, g, state, group)"),
    ("tg.optim.lr_scheduler.LambdaLR(None, None)", AttributeError, "class Mine(LRScheduler) with next_lr"),
    ("lin.cuda()", AttributeError, "there is no GPU"),
    ("lstm.flatten_parameters()", AttributeError, "leave it out"),
    ("lin.register_forward_hook(print)", AttributeError, "write it into forward"),
]  # fmt: skip

RESULTS = [
    ("p.numpy() is p.data", True),
    ("p == None", False),
    ("p != None", True),
    ("None in (p, c)", False),
    ("p == 'text'", False),
    ("loss = p.sum(); first = loss; loss += 1\n(loss is first, loss.requires_grad, loss.item())", (False, True, 4.0)),
    ("with tg.no_grad(): p -= 0.5 * c\n(p.tolist(), p.requires_grad)", ([0.5, 1.0], True)),
    ("p.data = p.data - 0.5 * c\n(type(p.data), p.tolist())", (np.ndarray, [0.5, 1.0])),
    ("with tg.no_grad(): p[0] = 5; p[1:] *= 2\np.tolist()", [5.0, 4.0]),
    ("with tg.no_grad(): p **= 2; p //= 3; p %= 1\np.tolist()", [0.0, 0.0]),
    ("with tg.no_grad(): W @= W; W[0] -= 1\nW.tolist()", [[1.0, 1.0], [2.0, 2.0]]),
    ("p.sum().backward(); p.data -= 0.5 * p.grad\n(type(p.data), p.tolist())", (np.ndarray, [0.5, 1.5])),
    ("a = np.zeros(2); a += c; a *= p.detach()\na.tolist()", [1.0, 4.0]),
    ("with tg.no_grad(): mean = np.mean([p.sum(), p.max()])\nfloat(mean)", 2.5),
    ("np.argmax([p[0], p[1]]), np.testing.assert_allclose([p[0]], [1.0])", (1, None)),
    ("np.log10(c * 0 + 10).tolist(), np.add.reduce(c) == 3.0", ([1.0, 1.0], True)),
    ("with tg.no_grad(): y = np.stack(W.max(0))\ny.tolist()", [[1.0, 1.0], [0.0, 0.0]]),
    ("round(p.mean()), round(p.mean(), 1), +p is p, len(p), max(p).item()", (2, 1.5, True, 2, 2.0)),
    ("f'{p.mean():.3f}', '%d' % tg.tensor(3), int(tg.tensor(2.5)), sum([p, c])", ("1.500", "3", 2, [2.0, 4.0])),
    ("lin.to('cpu') is lin", True),
    ("len(tg.grad(lin(tg.ones(3)).sum(), lin.parameters()))", 2),
    ("tg.leaky_relu(tg.tensor([-2.0, 1.0]), c[1]), tg.elu(c, p.sum()).requires_grad", ([-4.0, 1.0], True)),
    ("np.exp(c * 0).tolist()", [1.0, 1.0]),
    ("(np.eye(2, dtype=np.float32) @ p).requires_grad", True),
    ("(np.float32(2) * p).tolist()", [2.0, 4.0]),
    ("np.mean(c) == 1.5", True),
    ("np.allclose(p, c)", True),
    ("p.cpu() is p and p.to('cpu') is p and p.device == 'cpu'", True),
    ("tg.cross_entropy(W, tg.full((2,), 1)).item() > 0, (~tg.full((1,), True)).tolist()", (True, [False])),
    ("tg.full((1,), np.float64(2)).dtype, tg.full((1,), np.int32(2)).dtype", (np.float32, np.int32)),
    ("p.max().item(), p.max(0).indices.item(), p.max(dim=0)[0].item()", (2.0, 1, 2.0)),
    ("p.view(1, 2).shape, W.t().shape, p.norm(1).item()", ((1, 2), (2, 2), 3.0)),
    ("(tg.ones(2) * 1e40).tolist()", [np.inf, np.inf]),
    ("tg.clamp(c, max=1e40).tolist()", [1.0, 2.0]),
    ("p.double().dtype == (np.ones(2) * p).dtype == np.float64", True),
    ("len(list(Plain().parameters()))", 6),
    ("tg.tensor([6]) & 3, ~tg.tensor([1]), tg.tensor([5]) ^ 3", ([2], [-2], [6])),
    ("tg.tensor([-7]) // 2, tg.tensor([-7.0]) % 2, divmod(7, tg.tensor([2]))[0]", ([-4], [1.0], [3])),
    ("hasattr(p, 'cuda'), 'cuda' in dir(p), hasattr(p, 'max'), 'max' in dir(p)", (False, False, True, True)),
    ("@tg.no_grad\ndef f():\n    yield (p * 2).requires_grad\n(list(f()), tg.is_grad_enabled())", ([False], True)),
    ("h = tg.ones(2, 4, requires_grad=True); tg.nn.Recurrent(InPlace(), fused='never')(tg.ones(1, 2, 3), h)\n"
     "h.tolist()", [[1.0] * 4] * 2),
    ("h = tg.nn.Parameter(tg.ones(2, 4), False); run = tg.nn.Recurrent(InPlace(), fused='never')\n"
     "with tg.no_grad(): run(tg.ones(1, 2, 3), h); run.cell(tg.ones(2, 3), h)\nh.tolist()", [[1.0] * 4] * 2),
    ("e = tg.nn.Parameter(c, False)\nwith tg.no_grad():\n    for x in [e]: x *= 0.5; x += c; x[0] = 7\n"
     "e.tolist()", [7.0, 3.0]),
]  # fmt: skip


def names():
    tg.manual_seed(0)
    lstm = tg.nn.LSTM(3, 4)
    lstm.fused = "never"  # kernels need a compiler
    return {
        "np": np, "tg": tg, "Fraction": Fraction,
        "Plain": Plain, "NoSize": NoSize, "Turned": Turned, "InPlace": InPlace,
        "p": tg.tensor([1.0, 2.0], requires_grad=True), "W": tg.ones(2, 2, requires_grad=True),
        "c": tg.tensor([1.0, 2.0]), "lin": tg.nn.Linear(3, 2), "lstm": lstm,
    }  # fmt: skip


@pytest.mark.parametrize(("code", "kind", "words"), ERRORS, ids=[row[0] for row in ERRORS])
def test_what_it_says(code, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        exec(code, names())


@pytest.mark.parametrize(("code", "expected"), RESULTS, ids=[row[0] for row in RESULTS])
def test_what_it_does(code, expected):
    *before, last = code.split("\n")
    known = names()
    if before or ";" in last:
        before, last = ["\n".join(before)] if before else last.rsplit(";", 1)[:1], last.split(";")[-1].strip()
        exec(before[0], known)
    plain = lambda x: x.tolist() if isinstance(x, tg.Tensor) else tuple(map(plain, x)) if type(x) is tuple else x
    assert plain(eval(last, known)) == expected


def test_there_are_as_many_as_were_promised():
    assert len({row[0] for row in ERRORS + RESULTS}) >= 53
