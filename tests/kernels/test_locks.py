"""Children forked at any time find every lock open; Ctrl-C arrives whatever is being compiled."""

import itertools
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from kernels.guarded import in_child
from tinygrad_rnn.kernels import locks
from tinygrad_rnn.kernels.locks import lazy, lock

PACKAGE = Path(tg.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "locks.py")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_locks_are_made_in_one_place():
    """Where they are taken across a fork; and nothing else is used that has locks inside."""
    kinds = "R?Lock|Condition|Event|Semaphore|BoundedSemaphore|Barrier|Queue"
    made = re.compile(rf"\b(?:{kinds})\(|@\S*\bcached_property\b")
    found = [f"{p.name}: {line}" for p in FILES for line in p.read_text().splitlines() if made.search(line)]
    assert not found
    assert set(locks._locks) == set(locks.ORDER)
    with pytest.raises(KeyError):
        lock("another")


def test_a_lazy_property_is_computed_once_and_documented():
    class Square:
        calls = 0

        @lazy
        def area(self):
            """Its area."""
            self.calls += 1
            return self.side**2

    square = Square()
    square.side = 3
    assert Square.area.__doc__ == "Its area."
    assert square.area == square.area == 9 and square.calls == 1
    square.side, other = 4, Square()
    other.side = 5
    assert square.area == 9 and other.area == 25


def test_threads_that_ask_at_once_get_one_value():
    class Slow:
        @lazy
        def value(self):
            both.wait()
            return object()

    both, slow, found = threading.Barrier(2, timeout=30), Slow(), []
    askers = [threading.Thread(target=lambda: found.append(slow.value)) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found[0] is found[1] is slow.value


# ---- Forks -----------------------------------------------------------------------------------------------------------


class Scaled(tg.nn.Cell):
    """A cell whose code has a number in it: another number is another kernel."""

    def __init__(self, factor):
        super().__init__()
        self.hidden_size, self.factor = 4, factor
        self.U = tg.nn.Parameter(np.eye(4, dtype=np.float32))

    def step(self, x, h):
        return tg.tanh(x * self.factor + h @ self.U)


def train(layer, lengths):
    x = tg.tensor(np.ones((5, 6, layer.cell.hidden_size), np.float32))
    for each in (None, lengths):
        y, _ = layer(x, lengths=each)
        (y * y).sum().backward()
        assert np.isfinite(layer.cell.U.grad.numpy()).all()


def children_end(children, seconds=60):
    """Fork children while threads train and compile; each trains a layer that is known, and compiles."""
    lengths, factors = np.array([5, 1, 3, 2, 5, 4]), itertools.count(os.getpid())
    known = tg.nn.Recurrent(Scaled(0.5), fused="auto" if config.DISABLE_JIT else "require")
    train(known, lengths)
    stop, errors = threading.Event(), []

    def forever(work):
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            errors.append(error)
            raise

    def new_cell():
        train(tg.nn.Recurrent(Scaled(next(factors) / 7.3)), lengths)

    def new_formula():
        name = f"formula_{next(factors)}"
        tg.kernels.elementwise.Elementwise(name, "x", {"y": f"x * {next(factors)}"})(np.ones(3, np.float32))

    sys.setswitchinterval(1e-5)
    work = [new_cell, new_formula, *[lambda: train(tg.nn.Recurrent(Scaled(0.5)), lengths)] * 2]
    crowd = [threading.Thread(target=forever, args=(each,), daemon=True) for each in work]
    for thread in crowd:
        thread.start()
    ended = 0
    for n in range(children):
        time.sleep(0.003 * (n % 7))
        child = os.fork()
        if child == 0:
            try:
                train(known, lengths)
                new_formula()
                if n % 3 == 0:
                    new_cell()
                os._exit(0)
            finally:
                os._exit(1)
        deadline, status = time.monotonic() + seconds, (0, 0)
        while time.monotonic() < deadline and not (status := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.002)
        if not status[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        ended += status == (child, 0)
    stop.set()
    print(f"{ended} of {children}", *errors)
    sys.stdout.flush()
    os._exit(0)  # a thread may be compiling


@needs_fork
@pytest.mark.parametrize("children", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_children_forked_while_others_train_and_compile(children, tmp_path):
    code = f"import warnings; warnings.simplefilter('ignore', DeprecationWarning); children_end({children})"
    printed = in_child(__file__, code, timeout=120 * children, TINYGRAD_RNN_CACHE=str(tmp_path))
    assert printed == f"{children} of {children}"


@needs_fork
def test_a_fork_waits_for_who_holds_a_lock():
    """And the child, and the parent afterwards, find it open."""
    ignore = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)"
    printed = in_child(__file__, "\n".join([ignore, *(f"fork_while_held({name!r})" for name in locks.ORDER)]))
    assert printed.splitlines() == [f"{name}: open, open" for name in locks.ORDER]


def is_open(name):
    """For another thread than this one."""

    def take():
        with lock(name):
            taken.append(1)

    taken = []
    other = threading.Thread(target=take, daemon=True)
    other.start()
    other.join(timeout=20)
    return bool(taken)


def fork_while_held(name):
    held, released = threading.Event(), []

    def hold():
        with lock(name):
            held.set()
            time.sleep(0.2)
            released.append(1)

    threading.Thread(target=hold).start()
    held.wait()
    child = os.fork()
    assert released
    if child == 0:
        os._exit(not is_open(name))
    child_found = "closed" if os.waitpid(child, 0)[1] else "open"
    print(f"{name}: {child_found}, {'open' if is_open(name) else 'closed'}", flush=True)


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def interrupt_while_products_are_made(use):
    """Send this process a SIGINT while the machine code of the first product is being made, then try again."""
    from tinygrad_rnn.kernels import cache

    stored, sent = cache.stored, []

    def interrupting(name, key, make):
        if name.startswith("products") and not sent:
            sent.append(name)
            os.kill(os.getpid(), signal.SIGINT)
        return stored(name, key, make)

    cache.stored = interrupting
    uses = {"short": short_call, "sequence": sequence, "product": product, "compiled": compiled_by_user}
    got = None
    try:
        got = uses[use]()
    except KeyboardInterrupt:
        print("interrupted")
    else:
        print("swallowed", got)
    assert sent
    print("right" if uses[use]() else "wrong")


def a_layer():
    layer = tg.nn.Recurrent(Scaled(0.5), fused="require")
    return layer, layer.cell.U.numpy()


def short_call():
    layer, U = a_layer()
    with tg.no_grad():
        x = np.ones((1, 1, 4), np.float32)
        return np.allclose(layer(tg.tensor(x), tg.tensor(x[0]))[0].numpy(), np.tanh(0.5 * x + x @ U), atol=1e-6)


def sequence():
    layer, U = a_layer()
    y, _ = layer(tg.tensor(np.ones((2, 9, 4), np.float32)))
    y.sum().backward()
    return np.allclose(y.numpy()[1], np.tanh(0.5 + y.numpy()[0] @ U), atol=1e-6)


def product():
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    return np.array_equal(tg.kernels.matmul.matmul(a, a.T), a @ a.T)


def compiled_by_user():
    from tinygrad_rnn.kernels.matmul import product as in_kernel
    from tinygrad_rnn.kernels.matmul import sum_rows, workspace
    from tinygrad_rnn.kernels.outline import kernel

    @kernel()
    def both(a, b, c, y, room):
        in_kernel(a, b, c, 3, 3, 3, False, room, 1)
        sum_rows(a, y, 0, 3, 3)

    a, c, y = np.arange(9.0).reshape(3, 3), np.zeros((3, 3)), np.zeros(3)
    both(a, a, c, y, workspace.address)
    return np.array_equal(c, a @ a) and np.array_equal(y, a.sum(0))


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("use", [pytest.param("short", marks=pytest.mark.slow), "sequence", "product", "compiled"])
def test_ctrl_c_while_the_first_product_is_made(use):
    with_signal = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    printed = in_child(__file__, f"{with_signal}; interrupt_while_products_are_made({use!r})")
    assert printed.split("\n") == ["interrupted", "right"]
