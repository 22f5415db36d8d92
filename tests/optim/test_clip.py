"""Clipping: the norm is right at any magnitude, the direction is kept, and a gradient that is not finite is refused."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils import clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_, get_total_norm


def parameters_with(gradients):
    parameters = [tg.tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    for p, g in zip(parameters, gradients):
        p.grad = tg.tensor(g)
    return parameters


def exact_norm(gradients, p):
    """With exponents far beyond a float's (x87 long double, or scaled where there is none), and no rounding to mind."""
    flat = [abs(float(x)) for g in gradients for x in g.ravel()]
    largest = max(flat, default=0.0)
    if p == math.inf or largest == 0:
        return largest
    return largest * math.fsum((x / largest) ** p for x in flat) ** (1 / p)


def gradients_of(dtype):
    """A few arrays whose magnitudes go from the smallest denormal to the largest number."""
    info = np.finfo(dtype)
    exponents = st.integers(int(math.log10(info.smallest_subnormal)), int(math.log10(info.max)))

    def near(exponent):
        with np.errstate(under="ignore"):
            scale = dtype(10.0**exponent)
        elements = st.floats(-1, 1, width=info.bits).map(lambda x: float(dtype(x) * scale))
        return arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=2, max_side=4), elements=elements)

    return st.lists(exponents.flatmap(near), min_size=1, max_size=4)


ANY = gradients_of(np.float32) | gradients_of(np.float64)
NORMS = st.sampled_from([0.5, 1.0, 2.0, 2, 3.5, 10.0, math.inf])


@given(ANY, NORMS)
@example([np.array([1e308, 1e308])], 0.5)  # each is finite, and their norm is not
def test_norm_neither_overflows_nor_vanishes(gradients, norm_type):
    expected = exact_norm(gradients, norm_type)
    total = get_total_norm([tg.tensor(g) for g in gradients], norm_type)
    assert total.dtype == np.float64 and total.shape == ()
    assert total.item() == pytest.approx(expected, rel=1e-12, abs=0)


@given(ANY, NORMS, st.floats(1e-3, 1e3))
def test_clipping_shortens_to_max_norm_and_keeps_the_direction(gradients, norm_type, max_norm):
    expected = exact_norm(gradients, norm_type)
    if expected == math.inf:
        return
    parameters = parameters_with(gradients)
    total = clip_grad_norm_(parameters, max_norm, norm_type)
    assert total.item() == pytest.approx(expected, rel=1e-12, abs=0)
    clipped = [p.grad.numpy() for p in parameters]
    if expected + 1e-6 <= max_norm:
        for p, g in zip(parameters, gradients):
            np.testing.assert_array_equal(p.grad.numpy(), g)
        return
    # By the norm as it was returned: its rounding, which grows with its logarithm, has been judged above.
    smallest = float(np.finfo(gradients[0].dtype).smallest_subnormal)
    for after, before in zip(clipped, gradients):
        assert after.dtype == before.dtype
        wanted = before.astype(np.float64) * (max_norm / (total.item() + 1e-6))
        np.testing.assert_allclose(after, wanted, rtol=3 * np.finfo(after.dtype).eps, atol=smallest)
    assert exact_norm(clipped, norm_type) <= max_norm * (1 + 1e-5)


def test_squares_that_are_denormal_are_not_trusted():
    assert get_total_norm(tg.tensor(np.array([3e-160, 4e-160]))).item() == pytest.approx(5e-160, rel=1e-12, abs=0)


def test_a_factor_that_is_denormal_in_float32_keeps_its_digits():
    (p,) = parameters_with([np.full(100, 3e38, np.float32)])
    assert clip_grad_norm_([p], 1e-3).item() == pytest.approx(3e39, rel=1e-6)
    np.testing.assert_allclose(p.grad.numpy(), 1e-4, rtol=1e-6)


def test_many_elements_are_summed_in_blocks_and_in_any_layout():
    g = np.random.default_rng(0).standard_normal((300, 101)).astype(np.float32)
    expected = np.linalg.norm(g.astype(np.float64))
    for layout in (g, np.asfortranarray(g), np.repeat(g, 2, axis=1)[:, ::2], g[::-1]):
        assert get_total_norm(tg.from_numpy(layout)).item() == pytest.approx(expected, rel=1e-13)


def test_long_enough_gradients_are_the_very_same():
    parameters = parameters_with([np.array([3.0, 4.0])])
    before = parameters[0].grad
    assert clip_grad_norm_(parameters, 100.0).item() == 5.0
    assert parameters[0].grad is before


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm_type", [0.5, 1, 2, 3, math.inf])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_touched(poison, norm_type):
    gradients = [np.full((2, 2), 100.0), np.array([1.0, poison, 2.0])]
    parameters = parameters_with(gradients)
    kept = [p.grad for p in parameters]
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 1 is not finite: of 3 elements . are NaN and"):
        clip_grad_norm_(parameters, 1.0, norm_type)
    with pytest.raises(RuntimeError, match="the gradient of 'bias_hh' is not finite"):
        clip_grad_norm_(zip(["weight_hh", "bias_hh"], parameters), 1.0, norm_type)
    for p, g, grad in zip(parameters, gradients, kept):
        assert p.grad is grad
        np.testing.assert_array_equal(grad.numpy(), g)
    assert not math.isfinite(get_total_norm(kept, norm_type).item())
    with pytest.raises(RuntimeError, match="not finite"):
        get_total_norm(kept, norm_type, error_if_nonfinite=True)


def test_finite_gradients_whose_norm_is_not():
    parameters = parameters_with([np.full(4, 1.7e308)])
    with pytest.raises(RuntimeError, match="the norm of the gradients is not finite, although each of them is"):
        clip_grad_norm_(parameters, 1.0)


def test_parameters_come_in_any_form():
    model = tg.nn.Linear(2, 2)
    model(tg.ones(3, 2)).sum().backward()
    frozen = tg.tensor([1.0])
    forms = [model.parameters(), list(model.parameters()), model.named_parameters(), [*model.parameters(), frozen]]
    norms = [clip_grad_norm_(form, 1e9).item() for form in forms]
    assert norms == [norms[0]] * 4 and norms[0] > 0
    assert clip_grad_norm_(model.weight, 1e9).item() < norms[0]
    assert clip_grad_norm_([], 1.0).item() == clip_grad_norm_([frozen], 1.0).item() == 0.0
    assert get_total_norm([]).item() == get_total_norm(tg.zeros(0)).item() == 0.0
    with pytest.raises(TypeError, match="expected tensors or pairs of a name and a tensor, got str"):
        clip_grad_norm_({"weight": model.weight}, 1.0)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_limits_that_make_no_sense(bad):
    parameters = parameters_with([np.ones(2)])
    with pytest.raises(ValueError, match="max_norm must be at least 0"):
        clip_grad_norm_(parameters, bad)
    with pytest.raises(ValueError, match="clip_value must be at least 0"):
        clip_grad_value_(parameters, bad)
    for norm_type in (bad, 0):
        with pytest.raises(ValueError, match="norm_type must be positive"):
            clip_grad_norm_(parameters, 1.0, norm_type)
        with pytest.raises(ValueError, match="norm_type must be positive"):
            get_total_norm(parameters, norm_type)
    np.testing.assert_array_equal(parameters[0].grad.numpy(), 1.0)


@given(ANY, st.floats(0, 1e30))
def test_values_are_clamped_one_by_one(gradients, limit):
    parameters = parameters_with(gradients)
    clip_grad_value_(parameters, limit)
    for p, g in zip(parameters, gradients):
        assert p.grad.dtype == g.dtype
        limited = g.dtype.type(limit)
        np.testing.assert_array_equal(p.grad.numpy(), np.where(np.abs(g) > limited, np.sign(g) * limited, g))


def test_values_that_are_not_finite():
    parameters = parameters_with([np.array([np.inf, -np.inf, np.nan, 0.5])])
    clip_grad_value_(parameters, 2.0)
    np.testing.assert_array_equal(parameters[0].grad.numpy(), [2.0, -2.0, np.nan, 0.5])


def test_a_gradient_that_others_hold_is_not_scaled_behind_their_back():
    """A recorded backward pass saves gradients for the second derivative, and makes them of views of one number."""
    x = tg.tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    (3 * x).sum().backward(create_graph=True)
    held = x.grad
    clip_grad_norm_([x], 1.0)
    np.testing.assert_allclose(x.grad.numpy(), 1 / math.sqrt(3), rtol=1e-6)
    clip_grad_value_([x], 0.1)
    np.testing.assert_array_equal(x.grad.numpy(), 0.1)
    np.testing.assert_array_equal(held.numpy(), 3.0)


def test_before_backward_it_clips_nothing():
    """Why the docstring insists on the order."""
    p = tg.tensor(np.ones(3), requires_grad=True)
    clip_grad_norm_([p], 1.0)
    (1000 * p).sum().backward()
    assert np.linalg.norm(p.grad.numpy()) > 1000


def test_reachable_where_pytorch_has_it_and_from_optim():
    for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grad_adaptive_", "get_total_norm"):
        assert getattr(tg.nn.utils, name) is getattr(tg.optim, name)


# ---- Adaptive: each unit by itself -----------------------------------------------------------------------------------


def adaptive(w, g, clip_factor, eps):
    """Brock et al., equation 3, a unit at a time: rows, or the whole of what has fewer than two dimensions."""
    rows = [()] if w.ndim < 2 else range(len(w))
    g = g.copy()
    for i in rows:
        limit = clip_factor * max(math.sqrt((w[i] ** 2).sum()), eps)
        norm = math.sqrt((g[i] ** 2).sum())
        if norm > limit:
            g[i] = limit * g[i] / norm
    return g


def weights_with_gradients(shapes, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    parameters = [tg.tensor(np.asarray(random.standard_normal(s), dtype), requires_grad=True) for s in shapes]
    for p in parameters:
        p.grad = tg.tensor(np.asarray(random.standard_normal(p.shape) * random.choice([0.001, 0.1, 10]), dtype))
    return parameters


@given(st.floats(0, 1), st.floats(0, 2), st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
def test_adaptive_clipping_is_the_formula(clip_factor, eps, seed, dtype):
    parameters = weights_with_gradients([(4, 3), (3, 2, 2), (5,), (), (2, 0), (0, 3)], seed, dtype)
    parameters[0].numpy()[0] = 0  # no weights yet: eps is what lets them grow
    expected = [adaptive(*(x.numpy().astype(np.float64) for x in (p, p.grad)), clip_factor, eps) for p in parameters]
    clip_grad_adaptive_(parameters, clip_factor, eps)
    for p, g in zip(parameters, expected):
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=4 * np.finfo(dtype).eps, atol=1e-45)


def test_adaptive_clipping_of_columns():
    """For weights of the form x @ W."""
    (rows,), (columns,) = weights_with_gradients([(4, 3)], 2), weights_with_gradients([(4, 3)])
    columns.data, columns.grad = rows.numpy().T.copy(), tg.tensor(rows.grad.numpy().T.copy())
    before = rows.grad.numpy().copy()
    clip_grad_adaptive_(rows, 0.02)
    clip_grad_adaptive_({"W": columns}.items(), 0.02, dim=0)
    assert (rows.grad.numpy() != before).any()
    np.testing.assert_array_equal(columns.grad.numpy(), rows.grad.numpy().T)
    whole = weights_with_gradients([(4, 3)], 2)[0]
    clip_grad_adaptive_(whole, 0.02, dim=(0, 1))
    assert np.linalg.norm(whole.grad.numpy()) == pytest.approx(0.02 * np.linalg.norm(whole.numpy()), rel=1e-12)


def test_adaptive_clipping_does_not_touch_what_is_short_or_missing():
    p, q = weights_with_gradients([(2, 2), (3,)])
    p.grad = held = tg.tensor(p.numpy() * 0.005)
    q.grad = None
    clip_grad_adaptive_([p, q])
    assert p.grad is held and q.grad is None


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_adaptive_clipping_far_out_of_range(scale):
    (p,) = weights_with_gradients([(3, 4)])
    p.data, p.grad = p.numpy() * scale, tg.tensor(p.grad.numpy() * scale)
    expected = adaptive(p.numpy() / scale, p.grad.numpy() / scale, 0.01, 0.0) * scale
    clip_grad_adaptive_(p, 0.01, eps=0.0)
    np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_adaptive_clipping_refuses_what_is_not_finite(poison):
    p, q = weights_with_gradients([(2, 2), (3,)])
    q.grad.numpy()[1] = poison
    kept = [x.grad for x in (p, q)]
    with pytest.raises(RuntimeError, match=r"clip_grad_adaptive_: the gradient of 'b' is not finite: of 3 elements"):
        clip_grad_adaptive_(zip("ab", (p, q)), 1e-6)
    assert p.grad is kept[0] and q.grad is kept[1]
    clip_grad_adaptive_([p, q], 1e-6, error_if_nonfinite=False)
    assert np.isfinite(p.grad.numpy()).all() and np.isnan(q.grad.numpy()[1])


def test_adaptive_clipping_refusals():
    (p,) = weights_with_gradients([(2, 2)])
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="clip_grad_adaptive_: clip_factor must be at least 0"):
            clip_grad_adaptive_(p, bad)
        with pytest.raises(ValueError, match="clip_grad_adaptive_: eps must be at least 0"):
            clip_grad_adaptive_(p, 0.1, bad)
    with pytest.raises(IndexError, match="clip_grad_adaptive_: parameter 0 has 2 dimensions, and no dim 2"):
        clip_grad_adaptive_(p, dim=2)


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_, clip_grad_adaptive_])
def test_a_generator_that_was_used_up_is_told(clip):
    """As by PyTorch: `parameters = model.parameters()`, given to an optimiser first, would clip nothing ever after."""
    parameters = tg.nn.Linear(2, 2).parameters()
    tg.optim.SGD(parameters, lr=0.1)
    with pytest.warns(UserWarning, match=r"there are no parameters; was model\.parameters\(\) used up before") as told:
        clip(parameters, 1.0)
    assert told[0].filename == __file__
    clip([], 1.0)


def test_a_model_in_place_of_its_parameters():
    with pytest.raises(TypeError, match=r"clip_grad_norm_: expected tensors, got a Linear: write model.parameters\(\)"):
        tg.nn.utils.clip_grad_norm_(tg.nn.Linear(2, 2), 1.0)
