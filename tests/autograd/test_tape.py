"""The tape: what is recorded, how the pass walks it, what it keeps and what it lets go."""

import doctest
import functools
import gc
import inspect
import threading
import tracemalloc
import weakref
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import config

import tinygrad_rnn as tg
from tinygrad_rnn.autograd import tape
from tinygrad_rnn.autograd.tape import Node, Value

NO_JIT = bool(config.DISABLE_JIT)


def leaf(*numbers, dtype=np.float64):
    return tg.tensor(np.array(numbers[0] if len(numbers) == 1 else numbers, dtype), requires_grad=True)


class Probe:
    """An operation y = 2 x that counts the visits of the backward pass."""

    name = "probe"
    fresh = False
    scatter = None

    def __init__(self):
        self.visits = 0

    def __call__(self, x):
        return Value.tensor(2 * x.data, Node(self, (x.node,), (x.data.shape,), ()))

    def gradients(self, dy, saved):
        self.visits += 1
        return [dy * 2]

    def rewrap(self, node):
        return node.saved


@contextmanager
def no_collector():
    """Without the garbage collector only what has no cycles is freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def saved_arrays(y):
    """Weak references to every array that the graph of y has saved."""
    nodes, seen = [y.node], set()
    while nodes:
        node = nodes.pop()
        if node not in seen and isinstance(node, Node):
            seen.add(node)
            nodes += node.parents
    arrays = {id(x): x for node in seen for x in node.saved if isinstance(x, np.ndarray)}
    return [weakref.ref(x) for x in arrays.values()]


def alive(references):
    return sum(reference() is not None for reference in references)


def test_the_tape_opens_with_a_backward_pass_of_ten_lines():
    first = doctest.DocTestParser().get_examples(tape.__doc__)[0].source  # tests/test_doctests.py runs it
    assert first.startswith("def backward(") and len(first.splitlines()) == 10


# ---- Length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan", ["chain", "ladder"])
def test_a_tape_of_100_000_operations(fan):
    """No recursion forwards, backwards, in second derivatives or when the graph is dropped."""
    x = leaf(1.0)
    y, scale = x, tg.tensor(np.float64(1 + 1e-6))
    for _ in range(100_000 if fan == "chain" else 50_000):
        y = y * scale if fan == "chain" else (y + y) * 0.5
    y.backward()
    expected = (1 + 1e-6) ** 100_000 if fan == "chain" else 1.0
    assert x.grad.item() == pytest.approx(expected, rel=1e-9)


def test_a_long_graph_is_dropped_without_recursion():
    y = leaf(1.0)
    for _ in range(100_000):
        y = -y
    references = [weakref.ref(y)]
    del y
    assert not alive(references)


def test_second_derivatives_of_a_long_chain():
    x = leaf(0.5)
    y = x
    for _ in range(5_000):
        y = y * 0.9999 + x * x * 1e-4
    (first,) = tg.grad(y, [x], create_graph=True)
    (second,) = tg.grad(first, [x])
    geometric = (1 - 0.9999**5_000) / (1 - 0.9999)
    assert first.item() == pytest.approx(0.9999**5_000 + 1e-4 * geometric, rel=1e-9)
    assert second.item() == pytest.approx(2e-4 * geometric, rel=1e-9)


# ---- Memory ----------------------------------------------------------------------------------------------------------


def test_saved_arrays_are_released_as_the_pass_goes():
    """When the pass reaches the beginning of a chain, what its end had saved is gone."""
    x = leaf(np.ones(3))
    first = y = -x
    for _ in range(20):
        y = y.tanh()
    loss = y.sum()
    del y
    references = saved_arrays(loss)
    assert alive(references) >= 20
    counts = []
    first.register_hook(lambda dy: counts.append(alive(references)))
    with no_collector():
        loss.backward()
    assert counts[0] <= 2, "the pass has walked the chain, and what it had saved is still there"
    assert alive(references) == 0


@pytest.mark.skipif(NO_JIT, reason="interpreted kernels are too slow for arrays that outweigh Python's own objects")
def test_a_chain_is_walked_backwards_in_constant_memory():
    size, length = 20_000, 30

    def chain():
        y = leaf(np.ones(size))
        for _ in range(length):
            y = y * y
        return y.sum()

    chain().backward()  # compile first
    loss = chain()
    tracemalloc.start()
    try:
        loss.backward()
        peak = tracemalloc.get_traced_memory()[1] / (8 * size)
    finally:
        tracemalloc.stop()
    assert peak < 6, f"{peak:.1f} arrays were kept at a time"


def test_what_no_rule_asks_for_is_not_kept():
    x = leaf(np.ones(4))
    inner = x + 1.0
    reference = weakref.ref(inner.data)
    y = inner - 2.0  # neither sum looks at its operands again
    del inner
    assert reference() is None
    z = y.exp()  # its rule names the result, not y
    reference = weakref.ref(y.data)
    del y
    assert reference() is None and z.requires_grad


@pytest.mark.parametrize("how", ["dropped", "walked", "walked with create_graph", "second pass", "with hooks"])
def test_a_graph_has_no_cycles(how):
    """Dropping the loss frees every array and node, with no help from the garbage collector."""
    with no_collector():
        x, w = leaf(np.ones((2, 3))), leaf(np.ones((3, 3)))
        hidden = (x @ w).tanh()
        hidden.retain_grad()
        part = hidden[0]
        loss = (part * part + hidden.sum()).sum()
        held = leaf(1.0)
        if how == "with hooks":
            handle = hidden.register_hook(lambda dy, held=held: dy * held)
            x.register_hook(lambda dy: None)
            del handle
        references = saved_arrays(loss)
        references += map(weakref.ref, (held, hidden, part, loss, hidden.data, loss.data))
        if how == "walked":
            loss.backward()
        elif how == "walked with create_graph":
            grads = tg.grad(loss, [x, w], create_graph=True)
            references += saved_arrays(grads[0])
            del grads
        elif how == "second pass":
            loss.backward(retain_graph=True)
            loss.backward()
        references += [weakref.ref(x), weakref.ref(w)]
        assert alive(references) >= 8
        del hidden, part, loss, x, w, held
        assert alive(references) == 0


def test_a_loop_of_training_steps_keeps_nothing():
    """Nothing accumulates from step to step: the number of objects is the same after 3 steps and after 30."""
    w = leaf(np.eye(3))

    def step():
        loss = ((w @ w).tanh() - 1.0).square().mean()
        w.grad = None
        loss.backward()
        w.data = w.data - 0.1 * w.grad.data

    def objects():
        return sum(issubclass(type(x), (Value, Node)) for x in gc.get_objects())  # not `isinstance`: of dead proxies

    with no_collector():
        counts = []
        for n in (3, 27):
            for _ in range(n):
                step()
            counts.append(objects())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("part", ["p[t]", "unbind", "iteration", "split", "narrow", "p[t, 1:]", "p[[t, t]]"])
def test_the_gradients_of_parts_are_added_to_one_array(part, monkeypatch):
    """A loop over p[t] costs T rows, not T arrays of zeros with one row filled in, which would be T^2 rows."""
    steps, width = 40, 8
    p = leaf(np.arange(float(steps * width)).reshape(steps, width) / 100)
    take = {
        "p[t]": lambda: [p[t] for t in range(steps)],
        "unbind": lambda: tg.unbind(p),
        "iteration": lambda: list(p),
        "split": lambda: tg.split(p, 1),
        "narrow": lambda: [tg.narrow(p, 0, t, 1) for t in range(steps)],
        "p[t, 1:]": lambda: [p[t, 1:] for t in range(steps)],
        "p[[t, t]]": lambda: [p[[t, t]] for t in range(steps)],
    }[part]
    h = 0.0
    for row in take():
        h = (row * row).sum() + h
    made = 0

    def counted(function):
        @functools.wraps(function)
        def count(*args, **kwargs):
            nonlocal made
            array = function(*args, **kwargs)
            made += array.nbytes >= p.data.nbytes
            return array

        return count

    for name in ("zeros", "zeros_like", "empty", "empty_like", "full", "array", "copy"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    tg.grad(h, [p], create_graph=True)
    assert made >= steps, "when the pass is recorded every part becomes a whole: else this test counts nothing"
    made = 0
    h.backward()
    assert made <= 3
    monkeypatch.undo()
    expected = {"p[t, 1:]": 2 * p.data * (np.arange(width) > 0), "p[[t, t]]": 4 * p.data}.get(part, 2 * p.data)
    np.testing.assert_allclose(p.grad.numpy(), expected)


# ---- Walking twice ---------------------------------------------------------------------------------------------------


def test_a_second_pass_says_what_to_do():
    x = leaf(2.0)
    y = x.tanh()
    y.backward()
    with pytest.raises(RuntimeError, match=r"tanh a second time.*released.*backward\(retain_graph=True\)"):
        y.backward()
    with pytest.raises(RuntimeError, match="tanh a second time"):
        tg.grad(y, [x])


def test_retain_graph():
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    assert x.grad.item() == 12
    y.backward()
    assert x.grad.item() == 18
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_two_losses_over_one_trunk():
    x = leaf(0.5)
    trunk = x.exp()
    first, second = trunk * 2, trunk * trunk
    first.backward(retain_graph=True)
    second.backward()
    assert x.grad.item() == pytest.approx(2 * np.exp(0.5) + 2 * np.exp(1.0))


def test_a_pass_may_stop_in_the_middle_and_go_on_from_there():
    """grad(loss, [h]) needs nothing below h, so h.backward() can follow."""
    x = leaf(0.5, 1.0)
    h = x.exp()
    loss = (h * h).sum()
    (dh,) = tg.grad(loss, [h])
    np.testing.assert_allclose(dh.numpy(), 2 * np.exp(x.data))
    h.backward(dh)
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(2 * x.data))


def test_create_graph_keeps_the_graph_by_default():
    x = leaf(2.0)
    y = x**3
    (first,) = tg.grad(y, [x], create_graph=True)
    (again,) = tg.grad(y, [x])
    assert first.item() == again.item() == 12
    assert first.requires_grad and not again.requires_grad
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


# ---- Higher derivatives ----------------------------------------------------------------------------------------------


def test_derivatives_of_sine_to_the_fifth():
    x = leaf(0.3, 1.2)
    y = x.sin().sum()
    for k in range(1, 6):
        (gradient,) = tg.grad(y, [x], create_graph=True)
        expected = [np.cos, lambda t: -np.sin(t), lambda t: -np.cos(t), np.sin, np.cos][k - 1](x.data)
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-12)
        y = gradient.sum()


@pytest.mark.parametrize(
    ("function", "third"),
    [
        (lambda x: x**4, lambda x: 24 * x),
        (lambda x: x.exp() * x, lambda x: (3 + x) * np.exp(x)),
        (lambda x: x.tanh(), lambda x: (1 - np.tanh(x) ** 2) * (6 * np.tanh(x) ** 2 - 2)),
        (lambda x: 1 / x, lambda x: -6 / x**4),
        (lambda x: x.log(), lambda x: 2 / x**3),
        (lambda x: (x * x) @ x, lambda x: 6 * np.ones_like(x)),
    ],
    ids=["x^4", "x exp x", "tanh", "1/x", "log", "product"],
)
def test_third_derivatives(function, third):
    x = leaf(0.4, 0.7, 1.3)
    y = function(x).sum()
    for _ in range(3):
        (gradient,) = tg.grad(y, [x], create_graph=True)
        y = gradient.sum()
    np.testing.assert_allclose(gradient.numpy(), third(x.data), rtol=1e-10)


def test_a_gradient_penalty_trains():
    """backward() through grad(create_graph=True): the norm of a gradient is itself a loss."""
    w, x = leaf(1.0, 2.0), leaf(3.0, -1.0)
    (dx,) = tg.grad((w * x * x).sum(), [x], create_graph=True)  # 2 w x
    (dx * dx).sum().backward()  # 4 w^2 x^2
    np.testing.assert_allclose(w.grad.numpy(), 8 * w.data * x.data**2)
    np.testing.assert_allclose(x.grad.numpy(), 8 * w.data**2 * x.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_to_start_from_is_part_of_the_graph_in_any_dtype(dtype):
    x, v = leaf(1.0, 2.0), leaf(3.0, 5.0, dtype=dtype)
    (dx,) = tg.grad(x * x, [x], v, create_graph=True)  # 2 x v
    assert dx.dtype == np.float64
    dx.sum().backward()
    assert v.grad.dtype == dtype
    np.testing.assert_array_equal(v.grad.numpy(), [2, 4])
    np.testing.assert_array_equal(x.grad.numpy(), [6, 10])


def test_backward_with_create_graph_leaves_gradients_that_can_be_differentiated():
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    gradient, x.grad = x.grad, None
    gradient.backward()
    assert x.grad.item() == 12


# ---- grad ------------------------------------------------------------------------------------------------------------


def test_grad_leaves_every_grad_alone():
    x, w = leaf(2.0), leaf(3.0)
    y = x * w
    y.retain_grad()
    x.grad = before = tg.tensor(np.float64(7))
    (dx,) = tg.grad(y * y, [x])
    assert dx.item() == 36
    assert x.grad is before and w.grad is None and y.grad is None


def test_grad_of_unused_inputs():
    x, unused = leaf(2.0), leaf(3.0)
    with pytest.raises(RuntimeError, match="input 1 had no part in the outputs; allow_unused=True"):
        tg.grad(x * x, [x, unused])
    dx, nothing = tg.grad(x * x, [x, unused], allow_unused=True)
    assert dx.item() == 4 and nothing is None
    with pytest.raises(RuntimeError, match="input 0 needs no gradient"):
        tg.grad(x * x, [tg.tensor(1.0)])


def test_grad_of_values_in_between_and_of_the_output_itself():
    x = leaf(2.0)
    h = x * 3
    y = h * h
    dy, dh, dx = tg.grad(y, [y, h, x])
    assert (dy.item(), dh.item(), dx.item()) == (1, 12, 36)


def test_the_same_input_twice():
    x = leaf(2.0)
    first, second = tg.grad(x * x, [x, x])
    assert first.item() == second.item() == 4
    assert not np.shares_memory(first.data, second.data)


def test_several_outputs_with_weights():
    x = leaf(1.0, 2.0)
    outputs = [x * 2, (x * x).sum()]
    (dx,) = tg.grad(outputs, [x], [tg.tensor(np.array([1.0, 10.0])), None])
    np.testing.assert_array_equal(dx.numpy(), [2 + 2, 20 + 4])


def test_grad_visits_only_what_leads_to_its_inputs():
    """Branches that do not lead to an input are not walked: no rule runs, no hook is called, nothing is released."""
    x, other = leaf(2.0), leaf(5.0)
    near, far, below = Probe(), Probe(), Probe()
    calls = []
    branch = far(other)
    branch.register_hook(calls.append)
    other.register_hook(calls.append)
    base = below(x)
    y = near(base) * branch
    (d_base,) = tg.grad(y, [base])
    assert d_base.item() == 2 * 10
    assert (near.visits, far.visits, below.visits) == (1, 0, 0) and calls == []
    branch.backward()
    assert other.grad.item() == 2


def test_grad_does_not_walk_outputs_that_have_no_part():
    x, other = leaf(2.0), leaf(5.0)
    probe = Probe()
    unrelated = probe(other)
    (dx,) = tg.grad([x * x, unrelated], [x])
    assert dx.item() == 4 and probe.visits == 0
    unrelated.backward()
    assert other.grad.item() == 2


def test_each_operation_is_visited_once_whatever_its_fan_out():
    """A value is used many times, and its gradient is carried on when it is complete."""
    x = leaf(1.0)
    probe = Probe()
    y = probe(x)
    sum((y * float(k) for k in range(1, 20)), y.tanh()).backward()
    assert probe.visits == 1
    assert x.grad.item() == pytest.approx(2 * (190 + 1 - np.tanh(2) ** 2))


def test_inputs_of_backward():
    x, w = leaf(2.0), leaf(3.0)
    (x * w).backward(inputs=[x])
    assert x.grad.item() == 3 and w.grad is None


def test_errors_of_backward():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match=r"an output of shape \[2\] needs a gradient of its shape"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="not computed from a tensor with requires_grad=True, or inside no_grad"):
        tg.tensor(1.0).backward()
    with pytest.raises(ValueError, match=r"backward: the output has shape \[2\], its gradient \[3\]"):
        (x * 2).backward(tg.ones(3))
    with pytest.raises(ValueError, match="2 gradients for 1 outputs"):
        tg.grad([x * 2], [x], [None, None])


def test_a_gradient_of_another_dtype_is_converted():
    x = leaf(1.0, 2.0)
    (x * 2).backward(tg.ones(2))
    assert x.grad.dtype == np.float64
    (x * 2).backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [4, 4])


# ---- What is recorded ------------------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad_nest():
    x = leaf(2.0)
    assert tg.is_grad_enabled()
    with tg.no_grad():
        assert not tg.is_grad_enabled()
        assert not (x * x).requires_grad
        with tg.enable_grad():
            assert tg.is_grad_enabled() and (x * x).requires_grad
            with tg.no_grad():
                assert not (x * x).requires_grad
            assert (x * x).requires_grad
        assert not (x * x).requires_grad
    assert tg.is_grad_enabled() and (x * x).requires_grad


def test_modes_are_restored_after_an_error():
    with pytest.raises(KeyError), tg.no_grad(), tg.enable_grad(), tg.no_grad():
        raise KeyError
    assert tg.is_grad_enabled()


def test_one_mode_object_may_be_entered_again_inside_itself():
    mode = tg.no_grad()
    with mode:
        with mode, tg.enable_grad():
            with mode:
                assert not tg.is_grad_enabled()
            assert tg.is_grad_enabled()
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()


def test_modes_as_decorators():
    x = leaf(2.0)

    @tg.no_grad()
    def plain(x, *, power=2):
        """Without a gradient."""
        return x**power

    @tg.enable_grad()
    def recorded(x):
        return x * x

    assert not plain(x, power=3).requires_grad and plain(x, power=3).item() == 8
    assert (plain.__name__, plain.__doc__) == ("plain", "Without a gradient.")
    with tg.no_grad():
        assert recorded(x).requires_grad
    assert tg.is_grad_enabled()


def test_a_decorated_function_may_call_itself():
    @tg.no_grad()
    def countdown(n):
        return [tg.is_grad_enabled()] + (countdown(n - 1) if n else [])

    assert countdown(3) == [False] * 4 and tg.is_grad_enabled()


def test_detach():
    x = leaf(2.0)
    y = x * 3
    constant = y.detach()
    assert not constant.requires_grad and constant.is_leaf and np.shares_memory(constant.data, y.data)
    (y * constant).backward()
    assert x.grad.item() == 18  # 3 * 6, not 2 * 3 * 6


def test_leaves_and_results():
    x, constant = leaf(2.0), tg.tensor(1.0)
    y = x * constant
    assert x.is_leaf and constant.is_leaf and not y.is_leaf
    assert x.grad_fn is None and y.grad_fn.operation.name == "mul"
    assert "grad_fn=mul" in repr(y) and "requires_grad=True" in repr(x) and repr(constant) == "tensor(1.)"
    with pytest.raises(RuntimeError, match="the result of mul is part of a graph; use detach"):
        y.requires_grad_(False)
    x.requires_grad = False
    assert not (x * 2).requires_grad
    with pytest.raises(TypeError, match="only tensors of floats have gradients, not int64"):
        tg.tensor([1, 2], requires_grad=True)


def test_results_that_are_not_floats_need_no_gradient():
    x = leaf(1.5, -2.0)
    for y in (x > 0, x == x, x.long(), x.argmax(), tg.isnan(x), x.to(np.bool_), x.sum(dtype=np.int64)):
        assert not y.requires_grad


def test_a_leaf_changed_after_use_counts_as_it_was():
    """Optimisers replace `data`; a graph recorded before still has the old array."""
    x = leaf(2.0)
    y = x * x
    x.data = x.data * 100
    y.backward()
    assert x.grad.item() == 4


# ---- Hooks -----------------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_and_replace_gradients():
    x = leaf(2.0)
    y = x * 3
    seen = []
    y.register_hook(lambda dy: seen.append(("first", dy.item())))
    y.register_hook(lambda dy: dy * 10)
    y.register_hook(lambda dy: seen.append(("third", dy.item())))
    x.register_hook(lambda dx: seen.append(("leaf", dx.item())) or dx + 1)
    (y * 2).backward()
    assert seen == [("first", 2), ("third", 20), ("leaf", 60)]
    assert x.grad.item() == 61


def test_a_hook_sees_the_whole_gradient_once():
    x = leaf(2.0)
    y = x * 1.0
    seen = []
    y.register_hook(lambda dy: seen.append(dy.item()))
    (y * y + y * 3 + y).backward()
    assert seen == [8]


def test_removed_hooks_are_not_called():
    x = leaf(2.0)
    calls = []
    handles = [x.register_hook(lambda dx, k=k: calls.append(k)) for k in range(3)]
    handles[1].remove()
    (x * x).backward()
    assert calls == [0, 2]
    handles[1].remove()  # again: harmless
    handles[0].remove()
    (x * x).backward()
    assert calls == [0, 2, 2]


def test_a_hook_may_remove_itself():
    x = leaf(2.0)
    calls = []
    handle = x.register_hook(lambda dx: (calls.append(dx.item()), handle.remove())[0])
    x.register_hook(lambda dx: calls.append("second"))
    (x * x).backward()
    (x * x).backward()
    assert calls == [4, "second", "second"]


def test_hooks_with_create_graph_are_differentiated():
    x = leaf(2.0)
    y = x * 1.0
    handle = y.register_hook(lambda dy: dy * dy)
    (dx,) = tg.grad(y * y * y, [x], create_graph=True)  # (3 y^2)^2
    assert dx.item() == 144 and dx.requires_grad
    handle.remove()  # the second pass goes through y again
    assert tg.grad(dx, [x])[0].item() == 36 * 8


def test_what_a_hook_must_not_return():
    x = leaf(1.0, 2.0)
    x.register_hook(lambda dx: dx.sum())
    with pytest.raises(TypeError, match=r"hook must return None or a Tensor of shape \[2\]"):
        (x * x).sum().backward()
    with pytest.raises(RuntimeError, match="register_hook: this tensor needs no gradient"):
        tg.tensor(1.0).register_hook(print)


def test_a_hook_may_keep_its_gradient():
    """What a hook was shown is not changed afterwards: not by what else arrives, not by the user's own hand."""
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    kept = []
    left, right = a * 1.0, b * 1.0
    left.register_hook(kept.append)
    right.register_hook(kept.append)
    total = left + right
    (total.sum() + (left * 5).sum()).backward()
    np.testing.assert_array_equal(kept[0].data, [1, 1])
    np.testing.assert_array_equal(kept[1].data, [6, 6])
    np.testing.assert_array_equal(a.grad.data, [6, 6])
    np.testing.assert_array_equal(b.grad.data, [1, 1])
    a.grad = None
    a.register_hook(kept.append)
    (a * 3).sum().backward()
    a.grad.data *= 100  # as clipping does
    np.testing.assert_array_equal(kept[2].data, [3, 3])


def test_retain_grad():
    x = leaf(2.0)
    y = x * 3
    z = y * y
    y.retain_grad()
    y.register_hook(lambda dy: dy * 2)
    z.backward()
    assert z.grad is None and y.grad.item() == 24 and x.grad.item() == 72
    with pytest.raises(RuntimeError, match="retain_grad: this tensor needs no gradient"):
        tg.tensor(1.0).retain_grad()


# ---- Accumulation ----------------------------------------------------------------------------------------------------


def test_gradients_of_several_passes_add_up():
    x = leaf(2.0)
    (x * x).backward()
    first = x.grad
    (x * 3).backward()
    assert x.grad.item() == 7 and first.item() == 4, "an earlier gradient that somebody keeps was changed"
    x.grad = None
    (x * 3).backward()
    assert x.grad.item() == 3


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_that_are_handed_on_are_not_shared(create_graph):
    """`da = dy, db = dy`: one array reaches both operands, and each must have its own."""
    a, b, seed = leaf(1.0, 2.0), leaf(3.0, 4.0), tg.tensor(np.array([5.0, 6.0]))
    y = a + b
    y.retain_grad()
    y.backward(seed, create_graph=create_graph)
    arrays = [a.grad.data, b.grad.data, y.grad.data, seed.data, a.data, b.data, y.data]
    assert not any(np.shares_memory(*pair) for pair in combinations(arrays, 2))
    a.grad.data *= 100
    np.testing.assert_array_equal(b.grad.data, [5, 6])


UNARY = {
    "neg": lambda x: -x,
    "reshape": lambda x: x.reshape(-1).reshape(x.shape),
    "transpose": lambda x: x.T,
    "tanh": lambda x: x.tanh(),
    "row": lambda x: x[0] + x,
    "flip": lambda x: x.flip(0),
    "total": lambda x: x.sum(1, keepdim=True).expand(x.shape),
    "clone": lambda x: x.clone(),
    "softmax": lambda x: x.softmax(1),
    "cat": lambda x: tg.cat([x[1:], x[:1]]),
    "same rows": lambda x: x[[0, 0, 1]],
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "matmul": lambda a, b: a @ b,
    "add to itself": lambda a, b: a + a,
    "where": lambda a, b: tg.where(np.eye(3, dtype=bool), a, b),
    "maximum": lambda a, b: tg.maximum(a, b + 0.01),
}


@st.composite
def programs(draw):
    """Straight-line programs on 3 x 3 matrices: (operation, operands among all values so far)."""
    program = []
    for k in range(draw(st.integers(1, 7))):
        operation = draw(st.sampled_from([*UNARY, *BINARY]))
        places = st.integers(0, k + 1)
        program.append((operation, draw(places), draw(places)))
    return program


def run(program, *leaves):
    values = list(leaves)
    for operation, i, j in program:
        y = UNARY[operation](values[i]) if operation in UNARY else BINARY[operation](values[i], values[j])
        values.append(y)
    return values


@given(programs())
def test_random_graphs(program):
    """Gradients agree with finite differences, share no memory with anything, and earlier ones are left alone."""
    rng = np.random.default_rng(3)
    leaves = [leaf(rng.uniform(-1, 1, (3, 3))) for _ in range(2)]
    if not NO_JIT:
        tg.gradcheck(lambda *xs: run(program, *xs)[-1].sum() + run(program, *xs)[-2].sum(), leaves, atol=1e-6)
    for x in leaves:
        x.grad = None
    values = run(program, *leaves)
    for value in values[2:]:
        value.retain_grad()
    seed = tg.tensor(np.ones((3, 3)))
    (values[-1] + values[-2] * 1.0).backward(seed, retain_graph=True)
    found = [value.grad.data for value in values if value.grad is not None]
    owned = [*found, *(x.data for x in leaves), seed.data]
    assert not any(np.shares_memory(*pair) for pair in combinations(owned, 2))
    assert not any(np.shares_memory(gradient, value.data) for gradient in found for value in values)
    assert all(gradient.flags.writeable for gradient in found)
    copies = [gradient.copy() for gradient in found]
    (values[-1] + values[-2] * 1.0).backward(seed)
    for gradient, copy, value in zip(found, copies, (value for value in values if value.grad is not None)):
        np.testing.assert_array_equal(gradient, copy)
        np.testing.assert_allclose(value.grad.data, 2 * copy, rtol=1e-12, atol=1e-300)


@given(programs())
def test_random_graphs_by_either_way(program):
    """backward() and grad(), with and without recording the pass, agree."""
    rng = np.random.default_rng(4)
    leaves = [leaf(rng.uniform(-1, 1, (3, 3))) for _ in range(2)]
    y = run(program, *leaves)[-1].sum()
    plain = tg.grad(y, leaves, retain_graph=True, allow_unused=True)
    recorded = tg.grad(y, leaves, create_graph=True, allow_unused=True)
    y.backward()
    for x, a, b in zip(leaves, plain, recorded):
        if x.grad is None:
            assert a is None and b is None
        else:
            np.testing.assert_array_equal(x.grad.data, a.data)
            np.testing.assert_allclose(a.data, b.data, rtol=1e-12, atol=1e-14)


# ---- Anomalies -------------------------------------------------------------------------------------------------------


def here(offset=0):
    return f"{__file__}:{inspect.currentframe().f_back.f_lineno + offset}"


def test_the_first_nan_of_a_forward_pass_is_named():
    x = leaf(-1.0, 1.0)
    with tg.detect_anomaly():
        fine = x * 2
        with pytest.raises(FloatingPointError) as error:
            bad, line = fine.log(), here()  # noqa: F841
        line = here(-1)
    assert str(error.value).startswith("log produced the first NaN")
    assert f"{line}, in test_the_first_nan" in str(error.value)


def test_the_first_nan_of_a_backward_pass_is_named():
    """sqrt at 0 is fine, but 0 * inf is not: the message leads to the line of the square root."""
    x = leaf(0.0, 1.0)
    with tg.detect_anomaly():
        root, line = x.sqrt(), here()
        loss = (root * tg.tensor(np.array([0.0, 1.0]))).sum()
        with pytest.raises(FloatingPointError) as error:
            loss.backward()
    assert str(error.value).startswith("the gradient of sqrt produced the first NaN")
    assert f"{line}, in test_the_first_nan_of_a_backward" in str(error.value)


@pytest.mark.parametrize("at", ["a result", "a leaf", "a slice", "the grad of a leaf", "a hook"])
def test_a_nan_that_no_rule_made_is_found_too(at):
    """Gradients are infinite, which is allowed, and their sum is not; or a hook says so."""
    x = leaf(0.0, 0.0)
    with tg.detect_anomaly():
        y = x * 1
        if at == "a result":
            loss, what = y.sqrt() - y.sqrt(), "the sum of gradients of mul"
        elif at == "a leaf":
            loss, what = x.sqrt() - x.sqrt(), "the sum of gradients of a leaf"
        elif at == "a slice":
            loss, what = y[:1].sqrt() - y[:1].sqrt(), "the sum of gradients of "
        elif at == "a hook":
            loss, what = x.exp(), "the hook .*<lambda>"
            x.register_hook(lambda dx: dx * np.nan)
        else:
            x.sqrt().sum().backward()
            loss, what = -x.sqrt(), "the sum of two passes' gradients"
        with pytest.raises(FloatingPointError, match=f"{what}.* produced the first NaN, called at {__file__}"):
            loss.sum().backward()


def test_a_nan_that_was_there_before_is_nobody_s_fault():
    x = leaf(np.nan, 1.0)
    with tg.detect_anomaly():
        (x.exp() * 2).sum().backward()
    assert np.isnan(x.grad.data[0]) and x.grad.data[1] == pytest.approx(2 * np.e)


def test_anomalies_are_looked_for_only_inside_the_block():
    x = leaf(-1.0)
    with tg.detect_anomaly():
        pass
    assert np.isnan(x.log().item())


# ---- Threads ---------------------------------------------------------------------------------------------------------


def train(seed, steps=8 if NO_JIT else 60):
    """A small recurrent regression: losses and weights after some steps."""
    rng = tg.manual_seed(seed)
    W, U, b = (tg.tensor(rng.standard_normal(shape) * 0.5, requires_grad=True) for shape in ((2, 4), (4, 4), (4,)))
    xs = [tg.tensor(rng.standard_normal((3, 2))) for _ in range(4)]
    losses = []
    for _ in range(steps):
        h = tg.zeros(3, 4, dtype=tg.float64)
        for x in xs:
            h = (x @ W + h @ U + b).tanh()
        loss = (h - 0.5).square().mean() + 0.01 * tg.rand(1, dtype=tg.float64).sum() * U.square().sum()
        for w in (W, U, b):
            w.grad = None
        loss.backward()
        with tg.no_grad():
            for w in (W, U, b):
                w.data = (w - 0.1 * w.grad).data
        losses.append(loss.item())
    return np.array(losses), [w.data for w in (W, U, b)]


def in_threads(*functions):
    """Run functions at the same time, and return what they return."""
    results, barrier = [None] * len(functions), threading.Barrier(len(functions))

    def work(k, function):
        barrier.wait()
        results[k] = function()

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result is not None for result in results), "a thread raised an error"
    return results


def test_threads_train_their_own_models_bit_for_bit_as_if_alone():
    alone = [train(seed) for seed in range(4)]
    assert all(losses[-1] < losses[0] for losses, _ in alone)
    together = in_threads(*(functools.partial(train, seed) for seed in range(4)))
    for (losses, weights), (losses_alone, weights_alone) in zip(together, alone):
        np.testing.assert_array_equal(losses, losses_alone)
        for w, w_alone in zip(weights, weights_alone):
            np.testing.assert_array_equal(w, w_alone)


def test_modes_belong_to_their_thread():
    ready, done = threading.Event(), threading.Event()

    def silent():
        with tg.no_grad(), tg.detect_anomaly():
            ready.set()
            assert done.wait(10)
            return not tg.is_grad_enabled()

    def recording():
        assert ready.wait(10)
        x = leaf(-1.0)
        y = x.log()  # NaN, and no error: the other thread's anomaly detection is its own
        done.set()
        return tg.is_grad_enabled() and y.requires_grad

    assert in_threads(silent, recording) == [True, True]


def test_two_threads_walk_two_graphs_over_one_leaf():
    """Leaves may be shared for reading; each thread asks with grad(), which touches no `grad`."""
    w = leaf(np.linspace(0.1, 1, 12).reshape(3, 4))
    work = [lambda k=k: tg.grad(((w * k).tanh() @ w.T).sum(), [w])[0].data for k in range(1, 5)]
    for together, alone in zip(in_threads(*work), [function() for function in work]):
        np.testing.assert_array_equal(together, alone)
