"""Cells that each break the contract in one way, and what `check_cell` calls it: class -> (check, words, line)."""

import copy
import threading

import numpy as np

import tinygrad_rnn as tg


class Sound(tg.nn.Cell):
    """A plain recurrence, with nothing wrong."""

    def __init__(self, input_size, hidden_size):
        self.input_size, self.hidden_size = input_size, hidden_size
        draw = lambda *shape: tg.nn.Parameter(np.random.default_rng(0).normal(0, 0.4, shape).astype(np.float32))
        self.W, self.U, self.b = draw(input_size, hidden_size), draw(hidden_size, hidden_size), draw(hidden_size)

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U + self.b)


class NoState(Sound):
    def step(self, x):
        return tg.tanh(x @ self.W + self.b)


class Nameless(Sound):
    def step(self, x, *states):
        return tg.tanh(x @ self.W + states[0] @ self.U + self.b)


class OneTooMany(Sound):
    def step(self, x, h):
        h = tg.tanh(x @ self.W + h @ self.U + self.b)
        return h, h


class Wide(Sound):
    def step(self, x, h):
        h = tg.tanh(x @ self.W + h @ self.U + self.b)
        return tg.cat([h, h], -1)


class ArrayOut(Sound):
    def step(self, x, h):
        h = tg.tanh(x @ self.W + h @ self.U + self.b)
        return h.detach().numpy()


class BadStart(Sound):
    def initial_state(self, batch_size):
        return tg.zeros(1, self.hidden_size, dtype=self.W.dtype)


class Doubles(Sound):
    def step(self, x, h):
        half = tg.tensor(np.array([0.5, 0.5, 0.5, 0.25]))
        return tg.tanh(x @ self.W + (half * h) @ self.U + self.b)


class Noisy(Sound):
    def step(self, x, h):
        h = h + 0.1 * tg.randn(h.shape, dtype=h.dtype)
        return tg.tanh(x @ self.W + h @ self.U + self.b)


class AsksTheMode(Sound):
    def step(self, x, h):
        if tg.is_grad_enabled():
            h = 0.5 * h
        return tg.tanh(x @ self.W + h @ self.U + self.b)


class MixesRows(Sound):
    def step(self, x, h):
        h = h - h.mean(0, keepdim=True)
        return tg.tanh(x @ self.W + h @ self.U + self.b)


class Cuts(Sound):
    def step(self, x, h):
        return tg.tanh(x @ self.W + h.detach() @ self.U + self.b)


class CutsWeights(Sound):
    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U.detach() + self.b)


class Decides(Sound):
    def step(self, x, h):
        bit = tg.straight_through(h > 0, tg.sigmoid(h.detach()))
        return tg.tanh(x @ self.W + bit @ self.U + self.b)


class AnyWidth(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.input_size = None
        self.W = tg.nn.Parameter(self.W.data[0])

    def step(self, x, h):
        return tg.tanh(x.sum(-1, keepdim=True) * self.W + h @ self.U + self.b)


class SharesWeights(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.recur = lambda h: h @ self.U

    def step(self, x, h):
        return tg.tanh(x @ self.W + self.recur(h) + self.b)


class HoldsALock(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self._lock = threading.Lock()


class HasALambda(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.squash = lambda x: tg.tanh(x)

    def step(self, x, h):
        return self.squash(x @ self.W + h @ self.U + self.b)


class Hides(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gain = tg.ones(hidden_size, dtype=np.float64, requires_grad=True)

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U + self.b) * self.gain.to(x.dtype)


class Writes(Sound):
    def step(self, x, h):
        h = tg.tanh(x @ self.W + h @ self.U + self.b)
        self.last = h
        return h


class Keeps(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.normed = self.W + 1

    def step(self, x, h):
        return tg.tanh(x @ (self.W + self.normed) + h @ self.U + self.b)


class Unsized(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        del self.hidden_size


class Squeezes(Sound):
    def step(self, x, h):
        h = tg.tanh(x @ self.W + h @ self.U + self.b)
        return h.squeeze()


class StartsAsAnArray(Sound):
    def initial_state(self, batch_size):
        return np.zeros((batch_size, self.hidden_size), self.W.dtype)


class StartsTwice(Sound):
    def initial_state(self, batch_size):
        return (tg.zeros(batch_size, self.hidden_size, dtype=self.W.dtype),) * 2


class StartsWider(Sound):
    def initial_state(self, batch_size):
        return tg.zeros(batch_size, 4 if batch_size < 5 else 8, dtype=self.W.dtype)


class StartsInDoubles(Sound):
    def initial_state(self, batch_size):
        return tg.zeros(batch_size, self.hidden_size, dtype=np.float64)


class AsksTheThread(Sound):
    def step(self, x, h):
        if threading.current_thread() is not threading.main_thread():
            h = 0.5 * h
        return tg.tanh(x @ self.W + h @ self.U + self.b)


class Remembers(Sound):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self._first = self.U.numpy().copy()

    def step(self, x, h):
        U = tg.straight_through(self._first.astype(self.U.dtype), self.U)
        return tg.tanh(x @ self.W + h @ U + self.b)


class CopiesNothing(Sound):
    def __deepcopy__(self, memo):
        return copy.copy(self)


class Forgets(Sound):
    gain = 1.0

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.gain = 0.5

    def step(self, x, h):
        return tg.tanh(self.gain * (x @ self.W + h @ self.U + self.b))

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "gain"}


class LoadsNothing(Sound):
    def load_state_dict(self, state_dict, strict=True):
        pass


BROKEN = {
    NoState: ("signature", "must name its states", "def step(self, x):"),
    Nameless: ("signature", "must name its states", "def step(self, x, *states):"),
    Unsized: ("signature", "hidden_size is not set", "def __init__"),
    OneTooMany: ("states", "returned 2 states, but takes 1", "return h, h"),
    Wide: ("states", r"returned a h of shape \[2, 8\]", "return tg.cat([h, h], -1)"),
    ArrayOut: ("states", "returned ndarray as the new h", "return h.detach().numpy()"),
    BadStart: ("states", r"returns h of shape \[1, 4\], expected \[2, ...\]", "def initial_state"),
    StartsAsAnArray: ("states", r"initial_state\(1\) returns ndarray, not tensors", "def initial_state"),
    StartsTwice: ("states", r"initial_state\(1\) returns 2 states, step takes h", "def initial_state"),
    StartsWider: ("states", "besides the batch depend on batch_size", "def initial_state"),
    StartsInDoubles: ("dtypes", "returns h in float64 where the parameters are float32", "def initial_state"),
    Doubles: ("dtypes", "comes out in float64", "half = tg.tensor("),
    Noisy: ("repeatable", "two calls in eval mode differ", "h = h + 0.1 * tg.randn("),
    AsksTheMode: ("repeatable", r"inside no_grad\(\) differ", "if tg.is_grad_enabled():"),
    MixesRows: ("rows", "reduce over the last dimension", "h = h - h.mean(0, keepdim=True)"),
    Squeezes: ("rows", r"returned a h of shape \[4\]", "return h.squeeze()"),
    Cuts: ("gradients", "the gradient of x, h, W, U, b is not the slope", "h.detach() @ self.U"),
    CutsWeights: ("gradients", "the gradient of U is not the slope", "self.U.detach()"),
    Decides: ("gradients", "the gradient of x, h, W, U, b is not the slope", "tg.sigmoid(h.detach())"),
    AnyWidth: ("validation", "taken without a word; write self.input_size", "def __init__"),
    SharesWeights: ("deepcopy", "does not compute with the parameters of its own", "self.recur = lambda"),
    CopiesNothing: ("deepcopy", "a deep copy has its W in common with the cell", "def __init__"),
    Forgets: ("pickle", "what pickle gives back computes other numbers", "def __init__"),
    HoldsALock: ("deepcopy", "cannot pickle", "self._lock = threading.Lock()"),
    HasALambda: ("pickle", "pickle raises", "self.squash = lambda x"),
    Hides: ("state_dict", "self.gain wants a gradient and is not in state_dict", "self.gain = tg.ones("),
    LoadsNothing: ("state_dict", "after load_state_dict of its own state_dict the cell computes", "def step"),
    AsksTheThread: ("threads", "threads that call the cell at the same time get other numbers", "def step"),
    Writes: ("threads", "step writes self.last", "self.last = h"),
    Remembers: ("stale", "other numbers in U change nothing, though it has a gradient", "self._first.astype("),
    Keeps: ("stale", "self.normed was computed when the cell was made", "self.normed = self.W + 1"),
}
