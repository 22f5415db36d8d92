"""Leaves that are written to, by hand and by optimisers, also between forward and backward pass; and modes."""

import linecache
import operator
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from numba import config

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.tape import mode


def leaf(*numbers, dtype=np.float32):
    return tg.tensor(np.array(numbers, dtype), requires_grad=True)


# ---- Writing in place ------------------------------------------------------------------------------------------------

IN_PLACE = [
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.ifloordiv, operator.imod,
]  # fmt: skip


def test_no_operator_is_forgotten():
    """A reflected operator without one in place would rebind a leaf, and move nothing."""
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
        assert hasattr(tg.Tensor, f"__r{name}__") and hasattr(tg.Tensor, f"__i{name}__")


@pytest.mark.parametrize("operation", IN_PLACE)
@pytest.mark.parametrize("other", [2, 0.5, np.float64(3), np.array([2.0, 4.0]), [[1.0, 3.0]]], ids=repr)
def test_a_leaf_is_written_to_inside_no_grad(operation, other):
    p = leaf(1.0, 2.0)
    array, other = p.numpy(), tg.tensor(other[0]) if isinstance(other, list) else other
    expected = operation(array.copy(), np.asarray(other).astype(np.float32))
    with tg.no_grad():
        q = operation(p, other)
    assert q is p and p.numpy() is array and p.dtype == np.float32 and p.requires_grad
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("operation", IN_PLACE)
@pytest.mark.parametrize("frozen", [tg.nn.Parameter([1.0, 2.0], False), leaf(1.0, 2.0).requires_grad_(False)])
def test_what_is_frozen_is_written_to_as_well(operation, frozen):
    """Else `e *= 0.99` in a loop over the parameters of an averaged copy would move nothing, and nothing would tell."""
    array, expected = frozen.numpy(), operation(frozen.numpy().copy(), np.float32(2))
    with tg.no_grad():
        assert operation(frozen, 2) is frozen
        np.testing.assert_array_equal(array, expected)
        frozen[...] = 3.0
    assert frozen.numpy() is array and frozen.tolist() == [3.0, 3.0] and not frozen.requires_grad
    with pytest.raises(RuntimeError, match=r"a leaf, frozen or not.*with tg\.no_grad"):
        operation(frozen, 2)
    assert frozen.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("operation", IN_PLACE)
def test_it_is_refused_while_operations_are_recorded(operation):
    p = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"with tg\.no_grad"):
        operation(p, 1.0)
    assert p.tolist() == [1.0, 2.0]
    with tg.no_grad(), tg.enable_grad(), pytest.raises(RuntimeError, match=r"with tg\.no_grad"):
        operation(p, 1.0)


@pytest.mark.parametrize("operation", IN_PLACE)
@pytest.mark.parametrize("make", [lambda: tg.ones(2), lambda: leaf(1.0, 2.0) * 1, lambda: leaf(1.0, 2.0).detach()])
def test_anything_else_is_bound_to_a_new_tensor(operation, make):
    for context in (tg.enable_grad(), tg.no_grad()):
        x = make()
        before = x.tolist()
        with context:
            y = operation(x, 2.0)
        assert y is not x and x.tolist() == before and not np.shares_memory(x.numpy(), y.numpy())


def test_a_loop_of_training_written_by_hand():
    p = tg.nn.Parameter(tg.tensor([3.0, -2.0]))
    for _ in range(100):
        p.grad = None
        (p * p).sum().backward()
        with tg.no_grad():
            p -= 0.1 * p.grad
    assert np.abs(p.numpy()).max() < 1e-6


def test_the_shape_of_a_leaf_stays():
    p = leaf(1.0, 2.0)
    with tg.no_grad(), pytest.raises(ValueError, match=r"the result has shape \[2, 2\], p has \[2\]"):
        p *= tg.ones(2, 2)
    assert p.tolist() == [1.0, 2.0]


def test_data_is_an_array_always():
    for p in (leaf(1.0, 2.0), tg.nn.Parameter(tg.ones(2))):
        for value in (np.zeros(2, np.float32), tg.ones(2), p.data - 0.5 * tg.ones(2), np.zeros(2)):
            p.data = value
            assert type(p.data) is np.ndarray and p.requires_grad
        for wrong in ([1.0], 1.0, np.ones(2, np.int64), np.ones(2, np.float16), None):
            with pytest.raises(TypeError):
                p.data = wrong
        assert type(p.data) is np.ndarray


# ---- Between forward and backward ------------------------------------------------------------------------------------

CHANGES = {
    "step": lambda p: tg.optim.SGD([p], lr=1.0).step(),
    "initialiser": lambda p: tg.nn.init.ones_(p),
    "load_state_dict": lambda p: Holder(p).load_state_dict({"p": np.ones(p.shape)}),
    "max_norm": lambda p: tg.optim.max_norm_([p], 0.1),
    "in place": lambda p: no_grad(lambda: operator.isub(p, 1.0)),
    "power": lambda p: no_grad(lambda: operator.ipow(p, 2)),
    "data": lambda p: setattr(p, "data", operator.isub(p.data, np.float32(1))),
    "element": lambda p: no_grad(lambda: operator.setitem(p, 0, 1.0)),
}


class Holder(tg.nn.Module):
    def __init__(self, p):
        self.p = p


def no_grad(function):
    with tg.no_grad():
        return function()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("compute", [lambda p: p * p, lambda p: p @ p.T, lambda p: leaf([1.0, 1.0]) @ p])
def test_a_change_between_forward_and_backward_is_told(change, compute):
    weight = tg.nn.Parameter(np.full((2, 2), 3, np.float32))
    loss = compute(weight).sum()
    weight.grad = tg.ones(2, 2)
    change(weight)
    with pytest.warns(RuntimeWarning, match=r"^weight was written to .* call backward\(\) before that") as caught:
        loss.backward()
    assert len(caught) == 1 and caught[0].filename == __file__, "once, at the user's line"


compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: a layer has no kernels")


@compiled
@pytest.mark.parametrize("hidden", [4, 300], ids=["short call", "long call"])
@pytest.mark.parametrize("fused", ["require", "never"])
def test_a_layer_tells_as_well(fused, hidden):
    layer = tg.nn.Recurrent(tg.nn.GRUCell(3, hidden), fused=fused)
    for parameters, told in ((layer.parameters(), True), ([layer.cell.bias_ih], False)):
        loss = layer(tg.ones(2, 2, 3))[0].sum()
        loss.backward(retain_graph=True)
        tg.optim.SGD(parameters, lr=0.1).step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss.backward()
        assert [str(w.message).startswith("layer.cell.weight") for w in caught] == [True] * told


def programs():
    p, q = leaf(1.0, 2.0), leaf(3.0, 4.0)

    def accumulation():
        optimiser = tg.optim.Adam([p], lr=0.1)
        for _ in range(3):
            for _ in range(2):
                (p * p).sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    def two_optimisers():
        of_p, of_q = tg.optim.SGD([p], lr=0.1), tg.optim.SGD([q], lr=0.1)
        for _ in range(3):
            fake = p * 2
            (fake.detach() * q).sum().backward()
            of_q.step()
            (fake * q).sum().backward()  # through p * 2, which is older than the step of q and has not read q
            of_p.step()

    def truncated():
        layer = tg.nn.LSTM(2, 3)
        optimiser, state = tg.optim.SGD(layer.parameters(), lr=0.1), None
        for _ in range(3):
            y, state = layer(tg.ones(2, 1, 2), state)
            y.sum().backward()
            optimiser.step()
            state = tuple(s.detach() for s in state)

    def nobody_needs_the_value():
        loss = (p + q).sum()
        loss.backward(retain_graph=True)
        tg.optim.SGD([p], lr=0.1).step()
        loss.backward()

    def new_data():
        loss = (p * p).sum()
        p.data = p.data * 2  # another array: what was saved stays as it was
        loss.backward()

    def another_model():
        loss = (p * p).sum()
        tg.nn.Linear(2, 2)
        tg.optim.SGD([q], lr=0.1).step()
        loss.backward()

    def noise():
        for _ in range(2):
            with tg.optim.weight_noise([p], 0.1):
                (p * p).sum().backward()

    return [accumulation, two_optimisers, truncated, nobody_needs_the_value, new_data, another_model, noise]


@compiled
@pytest.mark.parametrize("program", programs(), ids=lambda program: program.__name__)
def test_right_programs_are_not_told_anything(program):
    program()  # a warning is an error in these tests


def test_a_leaf_that_was_frozen_before_backward_gets_no_gradient():
    p, q = leaf(1.0, 2.0), leaf(3.0, 4.0)
    loss = (p * q).sum()
    p.requires_grad_(False)
    loss.backward(retain_graph=True)
    assert p.grad is None and q.grad.tolist() == [1.0, 2.0]
    p.requires_grad_(True)
    loss.backward()
    assert p.grad.tolist() == [3.0, 4.0]


def test_indices_are_those_of_the_forward_pass():
    for pick in (lambda x, i: x[i], lambda x, i: x.index_select(0, i), lambda x, i: tg.embedding(i, x)):
        x, i = tg.ones(3, 2, requires_grad=True), np.array([0])
        y = pick(x, i)
        i[0] = 2
        y.sum().backward()
        assert x.grad.tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64])
def test_gradients_of_rows_named_by_small_integers(dtype):
    x = tg.zeros(300, 2, requires_grad=True)
    (x[np.array([1, 100, 1], dtype)] * tg.ones(3, 2)).sum().backward()
    assert x.grad.numpy().sum(1).nonzero()[0].tolist() == [1, 100] and x.grad.numpy()[1, 0] == 2


def test_gradients_of_several_threads_all_arrive():
    p, n = leaf(0.0), 3000
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [(p * 1.0).sum().backward() for _ in range(n)]) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        sys.setswitchinterval(switch)
    assert p.grad.item() == 4 * n


# ---- Modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a callback of the collector's
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals on this system")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 lets an interrupt in between any two instructions")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one in a callback of the collector
def test_an_interrupt_leaves_the_mode_whole():
    """At whatever moment: all fields are what they were, unless Python let the interrupt in where `__exit__` is called,
    which is in the line of `with`."""
    w, armed = leaf(1.0, 2.0), [False]
    untouched = dict(mode.__dict__)

    def interrupt(*_):
        if armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    @tg.no_grad()
    def two():
        yield w * 2
        yield w * 3

    before, end, interrupts = signal.signal(signal.SIGALRM, interrupt), time.monotonic() + 1.5, 0
    draws = np.random.default_rng(0)
    try:
        while time.monotonic() < end:
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-6, 2e-4))
                for _ in range(1000):  # an interrupt that arrives in a callback of Python's is lost
                    with tg.no_grad():
                        w * 2
                    list(two())
                    with tg.enable_grad(), tg.no_grad():
                        w + 1
                    (w * w).sum().backward()
            except KeyboardInterrupt as error:
                interrupts += 1
                trace, state = error.__traceback__, dict(mode.__dict__)
                codes, lines = [], []
                while trace is not None:
                    codes.append(trace.tb_frame.f_code.co_name)
                    lines.append(linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno or 0).strip())
                    trace = trace.tb_next
                leaving = codes[-2] == "__exit__" or lines[-2].startswith("with ")
                assert state == untouched or leaving, f"{state} after an interrupt in {codes}: {lines[-2]}"
                assert state["level"] == (2 if state["anomaly"] else int(state["grad"])), "the fields agree always"
                mode.__dict__.update(untouched)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        mode.__dict__.update(untouched)
    assert interrupts > 50


def test_a_generator_runs_in_the_mode_it_was_decorated_with():
    w, seen = leaf(1.0), []

    @tg.no_grad()
    def talk():
        try:
            while True:
                try:
                    seen.append((yield tg.is_grad_enabled()))
                except ValueError as error:
                    seen.append(str(error))
        finally:
            seen.append(tg.is_grad_enabled())

    talking = talk()
    assert next(talking) is False and tg.is_grad_enabled() and (w * 1).requires_grad
    assert talking.send("said") is False and talking.throw(ValueError("thrown")) is False
    talking.close()
    assert seen == ["said", "thrown", False] and tg.is_grad_enabled()

    @tg.no_grad
    def counted():
        yield 1
        return "returned"

    with pytest.raises(StopIteration, match="returned"):
        running = counted()
        next(running), next(running)


def test_a_mode_may_be_left_in_another_order_than_it_was_entered():
    first, second = tg.no_grad(), tg.detect_anomaly()
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert (mode.grad, mode.level) == (True, 2)
    second.__exit__(None, None, None)
    assert (mode.grad, mode.level) == (True, 1)
