"""Monitor: what each step of an optimiser moved, against the formulas of the rules; and the hooks that tell it."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils import clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_
from tinygrad_rnn.study import Monitor


def made(*shapes, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    return [tg.tensor(random.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def give(params, seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    for p in params:
        p.grad = tg.tensor(np.asarray(scale * random.standard_normal(p.shape), p.dtype))


def test_plain_descent_moves_by_the_rate():
    """std(update) = lr std(g), at every step, of the weight before it; the norm is that of all gradients."""
    weight, bias = params = made((5, 4), (7,))
    monitor = Monitor(optimizer := tg.optim.SGD(params, lr=0.01))
    for step in range(3):
        give(params, step)
        expected = [0.01 * p.grad.numpy().std() / p.numpy().std() for p in (weight, bias)]
        norm = np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in params))
        optimizer.step()
        for name, ratio in zip(("weight", "bias"), expected):
            np.testing.assert_allclose(10 ** monitor.history["ratio"][name][-1], ratio, rtol=1e-11)
        np.testing.assert_allclose(monitor.history["norm"][-1], norm, rtol=1e-13)
    assert monitor.history["step"] == [1, 2, 3] and monitor.history["clipped"] == [0.0] * 3
    assert all(type(x) is float for x in [*monitor.history["ratio"]["bias"], *monitor.history["norm"]])


@pytest.mark.parametrize("kind", [tg.optim.Adam, tg.optim.AdamW])
def test_adam_s_first_step_moves_by_lr(kind):
    """Every element, so the deviation is that of the signs."""
    (w,) = made((40, 3))
    monitor = Monitor(kind([w], lr=0.02, eps=1e-30, weight_decay=0))
    give([w])
    signs = np.sign(w.grad.numpy())
    monitor.optimizer.step()
    np.testing.assert_allclose(monitor.history["update"]["w"], [0.02 * signs.std()], rtol=1e-11)


def test_decay_and_rounding_count():
    """The update is what the numbers did: it is 0 where float32 cannot hold it."""
    (w,) = made((6,), dtype=np.float32)
    monitor = Monitor(optimizer := tg.optim.SGD([w], lr=0.1, weight_decay=0.5))
    w.grad = tg.zeros(6)
    optimizer.step()
    np.testing.assert_allclose(10 ** monitor.history["ratio"]["w"][0], 0.05, rtol=1e-5)
    optimizer.param_groups[0].update(lr=1e-12)
    optimizer.step()
    assert monitor.history["update"]["w"][1] == 0 and monitor.history["ratio"]["w"][1] == -np.inf


def test_what_is_not_moved_has_no_number():
    w, later = made((3,), (4,))
    monitor = Monitor(optimizer := tg.optim.SGD([w], lr=0.1))
    give([w])
    optimizer.step()
    optimizer.add_param_group({"params": [later]})
    optimizer.step()
    give([later])
    w.grad = None
    optimizer.step()
    assert np.isfinite(monitor.history["ratio"]["w"]).tolist() == [True, True, False]
    assert np.isfinite(monitor.values["1 [4]"]).tolist() == [False, False, True]


def test_constant_numbers():
    """A bias of zeros moves infinitely, and a gain of ones as well, and neither breaks the picture."""
    gain, bias, one = tg.ones(300), tg.zeros(4), tg.tensor([2.0])
    params = [p.requires_grad_() for p in (gain, bias, one)]
    monitor = Monitor(optimizer := tg.optim.SGD(params, lr=0.1))
    for _ in range(2):
        give(params)
        optimizer.step()
    assert monitor.history["ratio"]["gain"][0] == monitor.history["ratio"]["bias"][0] == np.inf
    assert np.isfinite([monitor.history["ratio"][name][1] for name in ("gain", "bias")]).all()
    assert np.isnan(monitor.history["ratio"]["one"]).all() and monitor.png().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("clip", "high", "low"),
    [(clip_grad_norm_, 1e9, 1e-3), (clip_grad_value_, 1e9, 1e-3), (clip_grad_adaptive_, 1e9, 1e-4)],
)
def test_clipping_is_noticed(clip, high, low):
    """Which steps were clipped, how long gradients were before; what was within its limits, or belongs to another
    optimiser, does not count."""
    params, other = made((5, 4), (7,)), made((3,))
    monitor = Monitor(optimizer := tg.optim.SGD(params, lr=0.01))
    for clips in (high, low, None, low):
        give([*params, *other])
        norm = tg.nn.utils.get_total_norm(p.grad for p in params).item()
        clip_grad_norm_(other, 1e-5)
        if clips is not None:
            clip(params, clips)
        optimizer.step()
        assert monitor.history["norm"][-1] == norm
    assert monitor.history["clipped"] == [0, 1, 0, 1] and "50% in all" in monitor.sentence


def test_every_nth_step():
    (w,) = made((5,))
    monitor = Monitor(optimizer := tg.optim.SGD([w], lr=0.01), every=4)
    for step in range(10):
        give([w])
        if step in (1, 2, 3):
            clip_grad_norm_([w], 1e-3)
        optimizer.step()
    assert monitor.steps == 10 and monitor.history["step"] == [1, 5, 9]
    assert monitor.history["clipped"] == [0.0, 0.75, 0.0] and len(monitor.history["ratio"]["w"]) == 3


def test_a_closure_finds_the_gradient():
    (w,) = made((5,))
    monitor = Monitor(optimizer := tg.optim.SGD([w], lr=0.01))

    def closure():
        optimizer.zero_grad()
        (loss := (w * w).sum()).backward()
        return loss

    expected = 0.01 * 2
    optimizer.step(closure)
    np.testing.assert_allclose(10 ** monitor.history["ratio"]["w"][0], expected, rtol=1e-11)


class Net(tg.nn.Module):
    def __init__(self):
        self.rnn, self.head = tg.nn.GRU(2, 3), tg.nn.Linear(3, 1)


def optimiser_of_hidden():
    return tg.optim.SGD(tuple(Net().parameters()))


def test_names():
    net = Net()
    own = [name for name, _ in net.named_parameters()]
    optimizer = tg.optim.SGD(net.parameters())
    assert list(Monitor(optimizer).values) == list(Monitor(optimizer, net).values) == own
    first, second = tg.nn.Linear(2, 2, bias=False), tg.nn.Linear(2, 2, bias=False)
    both = tg.optim.SGD([*first.parameters(), *second.parameters()])
    assert list(Monitor(both).values) == ["first.weight", "second.weight"]
    assert next(iter(Monitor(optimiser_of_hidden()).values)) == "0 [9, 2]"


def test_it_is_called_no_more_once_closed():
    (w,) = made((5,))
    optimizer = tg.optim.SGD([w], lr=0.01)
    with Monitor(optimizer) as monitor:
        give([w])
        optimizer.step()
    give([w])
    clip_grad_norm_([w], 1e-3)
    optimizer.step()
    assert monitor.steps == 1 and not optimizer._pre_hooks and not optimizer._post_hooks
    assert not tg.nn.utils._hooks or monitor._handles[2].key not in tg.nn.utils._hooks


def test_it_goes_with_its_optimiser():
    """Nothing that is there for all keeps it, nor what it remembers of weights: no more than a step takes."""
    gc.collect()
    before = len(tg.nn.utils._hooks)

    def train():
        (w,) = made((5,))
        monitor = Monitor(optimizer := tg.optim.SGD([w], lr=0.01))
        give([w])
        optimizer.step()
        assert not monitor._before and len(tg.nn.utils._hooks) == before + 1
        return weakref.ref(monitor), optimizer

    gone, optimizer = train()
    gc.collect()
    kept = gone() is not None
    del optimizer
    gc.collect()
    assert kept and gone() is None and len(tg.nn.utils._hooks) == before


def test_pictures():
    from matplotlib import pyplot

    params = made(*[(3, k) for k in range(2, 16)])
    monitor = Monitor(optimizer := tg.optim.SGD(params, lr=0.01))
    assert "no step yet" in [text.get_text() for text in monitor.plot().texts]
    for step in range(450):
        give(params)
        if step == 7:
            clip_grad_norm_(params, 1e-3)
        optimizer.step()
    ax = monitor.plot()
    assert ax.get_title() and ax.get_xlabel() and "log10" in ax.get_ylabel()
    assert any(list(line.get_ydata()) == [-3, -3] for line in ax.lines), "the line at -3"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "5 between them" in labels and "gradient norm" in labels and len(labels) == 9 + 3
    lines = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) > 2]
    assert len(lines) == 14 + 1 and all(len(line) == 150 for line in lines), "means of three steps"
    np.testing.assert_allclose(max(line[0] for line in lines[:-1]), max(x[:3].mean() for x in monitor.values.values()))
    page = monitor._repr_html_()
    assert page.startswith("<figure>") and "script" not in page and "0% in all" in page
    assert repr(monitor).startswith("Monitor of 0 [3, 2]")
    pyplot.close("all")


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_what_is_refused(every):
    with pytest.raises(ValueError, match="every must be a number of steps"):
        Monitor(tg.optim.SGD(made((2,))), every=every)
    with pytest.raises(TypeError, match="expected an optimiser, got Linear"):
        Monitor(tg.nn.Linear(2, 2))


# ---- Hooks of optimisers ---------------------------------------------------------------------------------------------


def test_hooks_are_called_in_pytorch_s_way():
    """Before the closure and after the step, with (optimizer, args, kwargs); the first may change what step gets."""
    (w,) = made((2,))
    optimizer, told = tg.optim.SGD([w], lr=1.0), []
    give([w])
    closure, other = (lambda: told.append("closure")), (lambda: told.append("other"))
    before = optimizer.register_step_pre_hook(lambda *given: told.append(("before", *given)))
    after = optimizer.register_step_post_hook(lambda *given: told.append(("after", *given)))
    optimizer.step()
    optimizer.step(closure)
    assert told == [
        *((when, optimizer, (optimizer,), {}) for when in ("before", "after")),
        ("before", optimizer, (optimizer, closure), {}),
        "closure",
        ("after", optimizer, (optimizer, closure), {}),
    ]
    told.clear()
    before.remove(), after.remove()
    change = optimizer.register_step_pre_hook(lambda *given: ((optimizer,), {"closure": other}))
    optimizer.step(closure)
    assert told == ["other"]
    change.remove()
    optimizer.register_step_pre_hook(lambda *given: 3)
    with pytest.raises(RuntimeError, match="returns None or"):
        optimizer.step()


def test_hooks_belong_to_one_optimiser():
    (w,) = made((2,))
    optimizer, told = tg.optim.Adam([w]), []
    optimizer.register_step_post_hook(lambda *given: told.append(given))
    give([w])
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        give(twin.param_groups[0]["params"])
        twin.step()
    assert not told
    optimizer.step()
    assert len(told) == 1
