"""Every rule against its formula written out in NumPy, and on problems with a known minimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.kernels import elementwise
from tinygrad_rnn.optim import ASGD, SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, RMSprop, Rprop

# ---- The formulas, as the papers have them ---------------------------------------------------------------------------
# Each takes the parameter, the gradient, a dict that starts empty, the number t = 1, 2, ... of the step, and options.


def descent(p, g, s, t, *, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    if not momentum:
        return p - lr * g
    s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"]) if nesterov else p - lr * s["b"]


def adam(p, g, s, t, *, lr, betas, eps, weight_decay=0, amsgrad=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    s["largest"] = np.maximum(s.get("largest", 0), s["v"])
    m_hat = s["m"] / (1 - betas[0] ** t)
    v_hat = (s["largest"] if amsgrad else s["v"]) / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adamw(p, g, s, t, *, lr, weight_decay, **options):
    return adam(p, g, s, t, lr=lr, **options) - lr * weight_decay * p


def rmsprop(p, g, s, t, *, lr, alpha, eps, weight_decay=0, momentum=0, centered=False, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    s["a"] = alpha * s.get("a", 0) + (1 - alpha) * g
    quotient = g / (np.sqrt(s["v"] - s["a"] ** 2 if centered else s["v"]) + eps)
    s["b"] = momentum * s.get("b", 0) + quotient
    return p - lr * s["b"]


def adagrad(p, g, s, t, *, lr, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["sum"] = s.get("sum", initial_accumulator_value) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s["sum"]) + eps)


def adadelta(p, g, s, t, *, lr, rho, eps, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    step = np.sqrt(s.get("u", 0) + eps) / np.sqrt(s["v"] + eps) * g
    s["u"] = rho * s.get("u", 0) + (1 - rho) * step**2
    return p - lr * step


def nadam(p, g, s, t, *, lr, betas, eps, momentum_decay, decoupled_weight_decay=False, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + (0 if decoupled_weight_decay else weight_decay * p)
    mu = [betas[0] * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in range(1, t + 2)]
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    m_hat = mu[t] * s["m"] / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:-1]))
    shrink = 1 - lr * weight_decay if decoupled_weight_decay else 1
    return shrink * p - lr * m_hat / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)


def rprop(p, g, s, t, *, lr, etas, step_sizes, maximize=False):
    g = -g if maximize else g
    turn = np.sign(g) * np.sign(s.get("g", 0 * g))
    factor = np.select([turn > 0, turn < 0], [etas[1], etas[0]], 1.0)
    s["size"] = np.clip(s.get("size", lr) * factor, *step_sizes)
    s["g"] = np.where(turn < 0, 0, g)
    return p - np.sign(s["g"]) * s["size"]


def asgd(p, g, s, t, *, lr, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0, maximize=False):
    g = (-g if maximize else g) + weight_decay * p
    eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
    return (1 - lambd * eta) * p - eta * g


def options(**choices):
    return st.fixed_dictionaries(choices)


flag = st.booleans()
rate = st.floats(1e-4, 1.0)
small = st.just(0.0) | st.floats(1e-4, 0.5)
fraction = st.floats(0.0, 0.999)
tiny = st.floats(1e-10, 1e-2)

RULES = {
    SGD: (descent, options(lr=rate, momentum=st.just(0.0), weight_decay=small, maximize=flag)
          | options(lr=rate, momentum=st.floats(0.1, 0.99), dampening=small, weight_decay=small, maximize=flag)
          | options(lr=rate, momentum=st.floats(0.1, 0.99), nesterov=st.just(True), weight_decay=small)),
    Adam: (adam, options(lr=rate, betas=st.tuples(fraction, fraction), eps=tiny, weight_decay=small, amsgrad=flag,
                         maximize=flag)),
    AdamW: (adamw, options(lr=rate, betas=st.tuples(fraction, fraction), eps=tiny, weight_decay=small, amsgrad=flag,
                           maximize=flag)),
    RMSprop: (rmsprop, options(lr=rate, alpha=st.floats(0.1, 0.999), eps=tiny, weight_decay=small, momentum=small,
                               centered=flag, maximize=flag)),
    Adagrad: (adagrad, options(lr=rate, lr_decay=small, weight_decay=small, initial_accumulator_value=small, eps=tiny,
                               maximize=flag)),
    Adadelta: (adadelta, options(lr=rate, rho=fraction, eps=tiny, weight_decay=small, maximize=flag)),
    NAdam: (nadam, options(lr=rate, betas=st.tuples(fraction, fraction), eps=tiny, weight_decay=small,
                           momentum_decay=small, decoupled_weight_decay=flag, maximize=flag)),
    Rprop: (rprop, options(lr=rate, etas=st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 3.0)),
                           step_sizes=st.tuples(st.floats(0, 1e-2), st.floats(1e-1, 10)), maximize=flag)),
    ASGD: (asgd, options(lr=rate, lambd=small, alpha=small, t0=st.sampled_from([0, 7, 1e6]), weight_decay=small,
                         maximize=flag)),
}


def parameter(array):
    return tg.tensor(array, requires_grad=True)


def give_gradient(p, array):
    p.grad = tg.tensor(np.asarray(array, p.dtype))


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_fifty_steps_of_two_groups_are_the_formula(kind, data):
    formula, choices = RULES[kind]
    groups = [data.draw(choices), data.draw(choices)]
    if kind is Adagrad:  # belongs to the optimiser
        for group in groups:
            group["initial_accumulator_value"] = groups[0]["initial_accumulator_value"]
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    ours = [parameter(random.standard_normal(shape)) for shape in [(3, 2), ()]]
    extra = {"initial_accumulator_value": groups[0]["initial_accumulator_value"]} if kind is Adagrad else {}
    optimiser = kind([{"params": [p], **group} for p, group in zip(ours, groups)], **extra)
    memories = [{}, {}]
    for t in range(1, 51):
        gradients = [random.standard_normal(p.shape) for p in ours]
        for p, g in zip(ours, gradients):
            give_gradient(p, g)
        # From where p is now: with weight decay p is fed back, and a rounding may grow tenfold at every step.
        expected = [
            formula(p.numpy().copy(), g, memory, t, **group)
            for p, g, memory, group in zip(ours, gradients, memories, groups)
        ]
        optimiser.step()
        for p, x in zip(ours, expected):
            np.testing.assert_allclose(p.numpy(), x, rtol=1e-9, atol=1e-10)


DEFAULTS = {
    SGD: dict(lr=0.1, momentum=0.9),
    Adam: dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8),
    AdamW: dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    RMSprop: dict(lr=0.1, alpha=0.99, eps=1e-8),
    Adagrad: dict(lr=0.1, eps=1e-10),
    Adadelta: dict(lr=1.0, rho=0.9, eps=1e-6),
    NAdam: dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3),
    Rprop: dict(lr=0.1, etas=(0.5, 1.2), step_sizes=(1e-6, 50)),
    ASGD: dict(lr=0.1),
}
EACH = pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)


@EACH
def test_float32_is_the_formula_in_float64_rounded(kind):
    random = np.random.default_rng(0)
    expected = random.standard_normal(1000)
    p, memory = parameter(expected.astype(np.float32)), {}
    optimiser = kind([p], **DEFAULTS[kind])
    for t in range(1, 21):
        g = random.standard_normal(1000).astype(np.float32)
        give_gradient(p, g)
        optimiser.step()
        expected = RULES[kind][0](expected, g.astype(np.float64), memory, t, **DEFAULTS[kind])
    assert p.dtype == np.float32 and all(a.dtype == np.float32 for a in optimiser.state[p].values() if np.ndim(a))
    np.testing.assert_allclose(p.numpy(), expected, rtol=1e-5, atol=1e-5)


# ---- Problems with a known minimum -----------------------------------------------------------------------------------

FOR_BOWL = {
    SGD: dict(lr=0.05, momentum=0.9), Adam: dict(lr=0.05), AdamW: dict(lr=0.05, weight_decay=0), RMSprop: dict(lr=0.01),
    Adagrad: dict(lr=1.0), Adadelta: dict(lr=1.0, eps=1e-3), NAdam: dict(lr=0.05), Rprop: dict(lr=0.01),
    ASGD: dict(lr=0.04),
}


@EACH
def test_finds_the_bottom_of_an_ill_conditioned_bowl(kind):
    minimum, curvature = tg.tensor([1.0, -2.0, 3.0]), tg.tensor([0.1, 1.0, 10.0])
    p = parameter(np.zeros(3, np.float32))
    optimiser = kind([p], **FOR_BOWL[kind])
    for _ in range(1000):
        optimiser.zero_grad()
        (curvature * (p - minimum) ** 2).sum().backward()
        optimiser.step()
    np.testing.assert_allclose(p.numpy(), minimum.numpy(), atol=0.02)


def rosenbrock(p):
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


@pytest.mark.parametrize(
    ("kind", "choice", "steps"),
    [(SGD, dict(lr=3e-4, momentum=0.95, nesterov=True), 4000), (Adam, dict(lr=0.05), 2000),
     (Adam, dict(lr=0.05, amsgrad=True), 3000), (AdamW, dict(lr=0.05, weight_decay=0), 2000),
     (RMSprop, dict(lr=2e-3, alpha=0.9, momentum=0.5), 3000), (Adagrad, dict(lr=0.5), 6000),
     (NAdam, dict(lr=0.02), 2000), (Rprop, dict(lr=1e-3), 2500)],
)
def test_follows_the_valley_of_rosenbrock(kind, choice, steps):
    p = parameter(np.array([-1.5, 2.0]))
    optimiser = kind([p], **choice)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = rosenbrock(p)
        loss.backward()
        optimiser.step()
    assert rosenbrock(p).item() < 1e-3  # 12.5 at the start


# ---- Edges -----------------------------------------------------------------------------------------------------------


@EACH
def test_an_infinite_parameter_stays_infinite(kind):
    """A mask of -inf may be learned beside finite numbers; without decay nothing should touch it."""
    p = parameter(np.array([-np.inf, 1.0]))
    optimiser = kind([p], **{**DEFAULTS[kind], **({} if kind is Rprop else {"weight_decay": 0})})
    for _ in range(3):
        give_gradient(p, [0.0, 1.0])
        optimiser.step()
    assert p.numpy()[0] == -np.inf and np.isfinite(p.numpy()[1])


def test_centered_rmsprop_makes_no_nan_of_equal_gradients():
    """The mean square less the squared mean is 0 then, or by rounding a little less."""
    p = parameter(np.ones(100, np.float32))
    optimiser = RMSprop([p], lr=1e-9, alpha=0.5, centered=True)
    for _ in range(100):
        give_gradient(p, np.linspace(0.1, 3, 100))
        optimiser.step()
    assert np.isfinite(p.numpy()).all()


def test_a_hundred_thousand_steps_do_not_overflow_the_bias_correction():
    p = parameter(np.array([1.0]))
    optimiser = Adam([p], lr=0.1)
    give_gradient(p, [1.0])
    optimiser.step()
    optimiser.state[p]["step"] = 100_000_000
    before = p.item()
    optimiser.step()
    assert np.isfinite(p.item()) and p.item() != before


def test_adadelta_that_forgets_nothing_learned_nothing_and_descends():
    """With rho = 1 both averages stay 0, and sqrt(0 + eps) / sqrt(0 + eps) is 1."""
    p = tg.tensor(np.array([1.0, -2.0]), requires_grad=True)
    optimiser = Adadelta([p], lr=0.5, rho=1.0)
    for _ in range(3):
        p.grad = tg.tensor(np.array([1.0, 10.0]))
        optimiser.step()
    np.testing.assert_allclose(p.numpy(), [-0.5, -17.0], rtol=1e-12)


def test_rprop_of_one_step_size_follows_the_sign():
    p = tg.tensor(np.array([1.0, -1.0]), requires_grad=True)
    optimiser = Rprop([p], lr=0.25, step_sizes=(0.25, 0.25))
    for _ in range(3):
        p.grad = tg.tensor(np.array([2.0, -3.0]))
        optimiser.step()
    np.testing.assert_array_equal(p.numpy(), [0.25, -0.25])


def test_adam_takes_its_first_step_of_length_lr_whatever_the_gradient():
    p = parameter(np.zeros(4))
    give_gradient(p, [1e-4, -1e-2, 1.0, 1e8])
    Adam([p], lr=0.25, eps=0).step()
    np.testing.assert_allclose(p.numpy(), [-0.25, 0.25, -0.25, -0.25], rtol=1e-12)


def test_adamw_decays_all_weights_alike_and_adam_the_steep_ones_less():
    """The one difference between them: the fraction of itself that a weight loses."""

    def lost_by(kind):
        still, moved = parameter(np.array([1.0, 1.0])), parameter(np.array([1.0, 1.0]))
        for p, decay in ((still, 0.0), (moved, 0.1)):
            optimiser = kind([p], lr=0.01, weight_decay=decay)
            for step in range(10):
                give_gradient(p, np.array([0.1, 10.0]) * (-1) ** step)
                optimiser.step()
        return still.numpy() - moved.numpy()

    adam, adamw = lost_by(Adam), lost_by(AdamW)
    np.testing.assert_allclose(adamw, 1 - (1 - 0.01 * 0.1) ** 10, rtol=0.02)
    assert adam[0] > 10 * adam[1] > 0


@EACH
def test_changing_numbers_compiles_nothing(kind, monkeypatch):
    p = parameter(np.ones(3))
    optimiser = kind([p], **DEFAULTS[kind])
    give_gradient(p, np.ones(3))
    optimiser.step()
    monkeypatch.setattr(elementwise.Elementwise, "_build", lambda *_: pytest.fail("compiled"))
    optimiser.param_groups[0].update(lr=0.5, weight_decay=0.1, eps=1e-3, maximize=True)
    if kind is ASGD:
        optimiser.param_groups[0].update(lambd=0.3, alpha=0.5, t0=0)
    if kind is SGD:
        optimiser.param_groups[0].update(momentum=0.5, dampening=0.2)
    before = p.numpy().copy()
    optimiser.step()
    if kind is Rprop:  # to it a change of direction is one of sign, which it answers by waiting
        optimiser.step()
    assert (p.numpy() != before).all()


@EACH
def test_a_gradient_that_is_nan_does_not_go_unnoticed(kind):
    p = parameter(np.ones(2))
    optimiser = kind([p], **DEFAULTS[kind])
    give_gradient(p, [np.nan, 1.0])
    optimiser.step()
    assert np.isnan(p.numpy()[0]) and np.isfinite(p.numpy()[1])
