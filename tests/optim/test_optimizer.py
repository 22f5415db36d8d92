"""What all optimisers share: groups, states, and that everything happens in place."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import ASGD, NTASGD, SGD, Adadelta, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop, Rprop


def averaging(params, **settings):
    """An NTASGD that has been triggered."""
    optimiser = NTASGD(params, n=1, **settings)
    assert [optimiser.observe(loss) for loss in (1.0, 2.0, 3.0)] == [False, False, True]
    return optimiser


KINDS = [
    pytest.param(SGD, {}, id="SGD"), pytest.param(SGD, {"momentum": 0.9}, id="momentum"),
    pytest.param(Adam, {}, id="Adam"), pytest.param(Adam, {"amsgrad": True}, id="AMSGrad"),
    pytest.param(AdamW, {}, id="AdamW"), pytest.param(RMSprop, {}, id="RMSprop"),
    pytest.param(RMSprop, {"momentum": 0.9, "centered": True}, id="centered"), pytest.param(Adagrad, {}, id="Adagrad"),
    pytest.param(Adadelta, {}, id="Adadelta"), pytest.param(NAdam, {}, id="NAdam"), pytest.param(Rprop, {}, id="Rprop"),
    pytest.param(ASGD, {"t0": 1}, id="ASGD"), pytest.param(averaging, {}, id="NTASGD"),
]
ALL = (SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, NAdam, Rprop, ASGD, NTASGD)
EACH = pytest.mark.parametrize(("kind", "settings"), KINDS)


def parameter(*shape, seed=0, dtype=np.float64):
    return tg.tensor(np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype), requires_grad=True)


def descend(optimiser, steps, seed=0):
    """Steps with random gradients."""
    random = np.random.default_rng(seed)
    for _ in range(steps):
        for group in optimiser.param_groups:
            for p in group["params"]:
                p.grad = tg.tensor(np.asarray(random.standard_normal(p.shape), p.dtype))
        optimiser.step()


# ---- In place --------------------------------------------------------------------------------------------------------


@EACH
def test_parameters_and_state_are_written_where_they_are(kind, settings):
    p = parameter(3, 4)
    array = p.numpy()
    optimiser = kind([p], **settings)
    descend(optimiser, 1)
    state = {key: value for key, value in optimiser.state[p].items() if isinstance(value, np.ndarray)}
    after_one, state_after_one = array.copy(), copy.deepcopy(state)
    descend(optimiser, 3, seed=1)  # after one Rprop may wait, and two of one length may cancel
    assert p.numpy() is array and (array != after_one).all()
    for key, value in state.items():
        assert optimiser.state[p][key] is value
        assert (value != state_after_one[key]).any()


@EACH
@pytest.mark.parametrize(("before", "after"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_state_follows_a_model_into_another_dtype(kind, settings, before, after):
    """As an optimiser of converted parameters that gets the state: `load_state_dict` converts it."""
    p, q = parameter(3, 4, dtype=before), parameter(3, 4, dtype=after)
    optimiser, other = kind([p], **settings), kind([q], **settings)
    descend(optimiser, 3)
    p.data, p.grad = p.data.astype(after), None
    q.data[...] = p.data
    other.load_state_dict(optimiser.state_dict())
    for each in (optimiser, other):
        descend(each, 3, seed=1)
    np.testing.assert_array_equal(p.numpy(), q.numpy())
    assert all(value.dtype == after for value in optimiser.state[p].values() if isinstance(value, np.ndarray))


@EACH
@pytest.mark.parametrize("shape", [(), (1,), (0,), (1300,), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_shape_and_layout(kind, settings, shape, dtype):
    """A parameter that is a view with strides is moved like a contiguous one."""
    whole = np.asarray(np.random.default_rng(0).standard_normal((*shape[::-1], 2)), dtype)
    view = whole[..., 0].T
    other = whole[..., 1].copy()
    strided, plain = tg.from_numpy(view).requires_grad_(), tg.tensor(view.copy(), requires_grad=True)
    for p in (strided, plain):
        descend(kind([p], **settings), 3)
    assert strided.numpy() is view
    np.testing.assert_array_equal(view, plain.numpy())
    np.testing.assert_array_equal(whole[..., 1], other)


def test_gradients_are_only_read():
    p = parameter(5)
    p.grad = tg.tensor(np.arange(5.0))
    p.grad.numpy().flags.writeable = False
    Adam([p], weight_decay=0.1, maximize=True).step()
    np.testing.assert_array_equal(p.grad.numpy(), np.arange(5.0))


def test_a_step_between_forward_and_backward_is_warned_of():
    """The documented trap: d(p*p) = 2p is computed from the new p."""
    p = tg.tensor([3.0], requires_grad=True)
    loss = (p * p).sum()
    p.grad = tg.tensor([1.0])
    SGD([p], lr=1.0).step()
    p.grad = None
    with pytest.warns(RuntimeWarning, match=r"^p was written to .* after mul had read it"):
        loss.backward()
    assert p.grad.item() == 2 * 2.0
    assert "never between forward and backward" in inspect.getdoc(Optimizer.step)


# ---- Which parameters ------------------------------------------------------------------------------------------------


@EACH
def test_a_parameter_without_gradient_is_left_alone_with_its_state(kind, settings):
    p, q = parameter(3), parameter(3, seed=1)
    decay = {} if kind is Rprop else {"weight_decay": 0.1}
    optimiser = kind([{"params": [p, q], **decay}], **settings)
    descend(optimiser, 2)
    before, state = q.numpy().copy(), copy.deepcopy(optimiser.state[q])
    optimiser.zero_grad()
    p.grad = tg.tensor(np.ones(3))
    optimiser.step()
    np.testing.assert_array_equal(q.numpy(), before)
    assert optimiser.state[q].keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(optimiser.state[q][key], value)


def test_parameters_that_cannot_have_gradients_are_passed_over():
    frozen, labels, p = parameter(3).requires_grad_(False), tg.tensor(np.arange(3)), parameter(3)
    optimiser = SGD([frozen, labels, p], lr=1.0)
    before = frozen.numpy().copy()
    (frozen * p * labels).sum().backward()
    optimiser.step()
    np.testing.assert_array_equal(frozen.numpy(), before)
    np.testing.assert_array_equal(labels.numpy(), np.arange(3))


@pytest.mark.parametrize(
    "gradient", [np.ones(1), np.ones((3, 1)), np.ones(()), np.ones(3, np.float32)], ids=["1", "3, 1", "0-d", "float32"]
)
def test_a_gradient_of_another_shape_or_dtype_moves_nothing(gradient):
    """NumPy would broadcast it without a word."""
    p, q = parameter(3), parameter(3, seed=1)
    before = p.numpy().copy()
    p.grad = tg.tensor(np.ones(3))
    tg.Tensor.grad.__set__(q, tg.tensor(gradient))  # past the check of `q.grad = ...`
    with pytest.raises(ValueError, match=r"shape \[3\], float64, has a gradient of shape"):
        SGD([p, q]).step()
    np.testing.assert_array_equal(p.numpy(), before)


def test_gradients_that_are_set_to_zero_have_the_shape_that_parameters_have_now():
    p = parameter(3)
    optimiser = SGD([p], lr=1.0)
    p.sum().backward()
    p.data = np.ones((2, 2), np.float32)
    optimiser.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [[0, 0], [0, 0]] and p.grad.dtype == np.float32


@pytest.mark.parametrize("name, value", [("lr", 0.5), ("momentum", 0.9), ("nesterov", True)])
def test_an_option_that_is_set_on_the_optimiser_would_change_nothing(name, value):
    optimiser = SGD([parameter(3)], lr=0.1)
    with pytest.raises(AttributeError, match=rf"group\['{name}'\] = ..."):
        setattr(optimiser, name, value)
    optimiser.note = "other attributes are the user's"


def test_an_optimiser_of_a_user_s_own_may_have_an_attribute_of_that_name():
    class Own(SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)
            self.lr = lr

    assert Own([parameter(3)], 0.5).lr == 0.5


# ---- Groups ----------------------------------------------------------------------------------------------------------


def test_groups_have_their_own_options_and_the_defaults_for_the_rest():
    p, q = parameter(2), parameter(2, seed=1)
    optimiser = SGD([{"params": p}, {"params": [q], "lr": 0.5}], lr=0.1, momentum=0.9)
    assert [g["lr"] for g in optimiser.param_groups] == [0.1, 0.5]
    assert [g["momentum"] for g in optimiser.param_groups] == [0.9, 0.9]
    starts = p.numpy().copy(), q.numpy().copy()
    p.grad, q.grad = tg.tensor(np.ones(2)), tg.tensor(np.ones(2))
    optimiser.step()
    np.testing.assert_allclose(p.numpy(), starts[0] - 0.1, rtol=1e-12)
    np.testing.assert_allclose(q.numpy(), starts[1] - 0.5, rtol=1e-12)


@EACH
def test_a_group_that_is_added_later_starts_afresh(kind, settings):
    p, q, alone = parameter(3), parameter(3, seed=1), parameter(3, seed=1)
    optimiser = kind([p], **settings)
    descend(optimiser, 5)
    optimiser.add_param_group({"params": q, "lr": 0.5})
    other = kind([alone], **{**settings, "lr": 0.5})
    for _ in range(3):
        for x in (p, q, alone):
            x.grad = tg.tensor(np.ones(3))
        optimiser.step()
        other.step()
    np.testing.assert_array_equal(q.numpy(), alone.numpy())


def test_groups_are_the_users_to_change():
    group = {"params": [parameter(2)], "lr": 0.5}
    optimiser = SGD([group])
    optimiser.param_groups[0]["lr"] = 0.25
    assert group["lr"] == 0.5, "the dict that was passed in is not kept"


# ---- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "values"),
    [(kind, "lr", [-0.1, np.nan, np.inf]) for kind in ALL]
    + [(kind, "weight_decay", [-0.1, np.nan]) for kind in ALL if kind is not Rprop]
    + [(kind, "eps", [-1e-8, np.nan]) for kind in (Adam, AdamW, RMSprop, Adagrad, Adadelta, NAdam)]
    + [(kind, "betas", [(1.0, 0.9), (0.9, -0.1), (0.9, np.nan)]) for kind in (Adam, AdamW, NAdam)]
    + [(SGD, "momentum", [-1, np.nan]), (RMSprop, "momentum", [-1]), (RMSprop, "alpha", [-0.1, 1.0])]
    + [(Adagrad, "lr_decay", [-1]), (Adagrad, "initial_accumulator_value", [-1])]
    + [(Adadelta, "rho", [-0.1, 1.1, np.nan]), (NAdam, "momentum_decay", [-1, np.inf]), (NTASGD, "n", [0, 1.5, np.nan])]
    + [(ASGD, "lambd", [-1]), (ASGD, "alpha", [-1]), (ASGD, "t0", [-1, np.nan])]
    + [(Rprop, "etas", [(0, 1.2), (0.5, 1), (1.1, 1.2), (0.5, np.inf)]), (Rprop, "step_sizes", [(2, 1), (-1, 1)])],
)
def test_options_that_make_no_sense(kind, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{kind.__name__}: {option} must"):
            kind([parameter(1)], **{option: value})
        with pytest.raises(ValueError, match=f"{kind.__name__}: {option} must"):
            kind([{"params": [parameter(1)], option: value}])
        optimiser = kind([parameter(1)])
        with pytest.raises(ValueError, match=f"{kind.__name__}: {option} must"):
            optimiser.add_param_group({"params": [parameter(1)], option: value})
        assert len(optimiser.param_groups) == 1


SLIPS = [
    (Adam, {"betas": 0.9}, r"betas must be 2 finite numbers, got 0\.9"),
    (Adam, {"betas": (0.9, 0.99, 0.999)}, "betas must be 2 finite numbers"),
    (AdamW, {"betas": "ab"}, "betas must be 2 finite numbers, got 'ab'"),
    (NAdam, {"betas": (0.9, None)}, "betas must be 2 finite numbers"),
    (Rprop, {"etas": 0.5}, "etas must be 2 finite numbers"),
    (Rprop, {"step_sizes": [1e-6]}, "step_sizes must be 2 finite numbers"),
    (Adam, {"amsgrad": "no"}, "amsgrad must be True or False, got 'no'"),
    (SGD, {"maximize": None}, "maximize must be True or False, got None"),
    (SGD, {"nesterov": 0.5, "momentum": 0.9}, r"nesterov must be True or False, got 0\.5"),
    (SGD, {"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
    (SGD, {"lr": None}, "lr must be a finite number, got None"),
    (SGD, {"lr": [0.1]}, r"lr must be a finite number, got .0\.1"),
    (SGD, {"lr": 0.1 + 0j}, "lr must be a finite number"),
    (SGD, {"dampening": np.nan, "momentum": 0.9}, "dampening must be a finite number"),
    (RMSprop, {"alpha": "0.9"}, "alpha must be a finite number"),
    (Adadelta, {"rho": "0.9"}, "rho must be a finite number"),
    (NTASGD, {"n": "5"}, "n must be a finite number"),
]


@pytest.mark.parametrize(("kind", "options", "message"), SLIPS)
def test_options_of_the_wrong_kind_are_refused_when_the_optimiser_is_made(kind, options, message):
    for make in (
        lambda: kind([parameter(1)], **options),
        lambda: kind([{"params": [parameter(1)], **options}]),
        lambda: kind([parameter(1)]).add_param_group({"params": [parameter(1)], **options}),
    ):
        with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
            make()
    optimiser = kind([parameter(1)])
    saved = optimiser.state_dict()
    saved["param_groups"][0].update(options)
    with pytest.raises(ValueError, match=f"{kind.__name__}: {message}"):
        optimiser.load_state_dict(saved)


def test_options_may_be_numbers_and_sequences_of_any_kind():
    for lr in (1, np.float32(0.5), np.array(0.5), tg.tensor(0.5), True):
        optimiser = SGD([parameter(2)], lr=lr, nesterov=np.bool_(True), momentum=0.5, maximize=0)
        descend(optimiser, 2)
    for betas in ((0.5, 0.75), [0.5, np.float64(0.75)]):
        descend(Adam([parameter(2)], betas=betas), 2)


@pytest.mark.parametrize(
    ("option", "hint"),
    [("learning_rate", "there are lr, momentum"), ("wd", "there are lr"), ("momentun", "did you mean 'momentum'"),
     ("weight_decy", "did you mean 'weight_decay'"), ("betas", "there are lr")],
)  # fmt: skip
def test_an_option_that_there_is_not_is_refused(option, hint):
    """A typo would be an option that nobody reads."""
    for make in (
        lambda: SGD([{"params": [parameter(1)], option: 1}]),
        lambda: SGD([parameter(1)]).add_param_group({"params": [parameter(1)], option: 1}),
    ):
        with pytest.raises(ValueError, match=f"SGD: '{option}' is no option: {hint}"):
            make()
    SGD([{"params": [parameter(1)], "name": "biases", "initial_lr": 0.5}])


def test_groups_of_another_optimiser_go_on():
    """With what a schedule has put into them."""
    optimiser = SGD([parameter(1)], momentum=0.9)
    tg.optim.lr_scheduler.OneCycleLR(optimiser, 0.5, total_steps=10)
    assert SGD(optimiser.param_groups, momentum=0.9).param_groups[0].keys() == optimiser.param_groups[0].keys()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda net: net.parameters, TypeError, r"got parameters: write model\.parameters\(\)"),
        (lambda net: [{"params": net.parameters}], TypeError, r"got parameters: write model\.parameters\(\)"),
        (lambda net: net, TypeError, r"got Linear: write model\.parameters\(\)"),
        (lambda net: None, TypeError, "expected an iterable of tensors or groups, got NoneType"),
        (lambda net: [], ValueError, "no parameters"),
        (lambda net: [{"params": []}], ValueError, "no parameters"),
        (lambda net: net.named_parameters(), TypeError, r"parameter 0 is no tensor but a tuple: write model"),
        (lambda net: {*net.parameters()}, TypeError, "a set has another order in another run"),
        (lambda net: [{"lr": 0.1}], TypeError, "a group is a dict with 'params', not one of 'lr'"),
        (lambda net: [{"params": [net.weight]}, net.bias], TypeError, "a group is a dict with 'params', not a Param"),
        (lambda net: [net.weight, net.weight], ValueError, "is in a group already"),
    ],
)
def test_parameters_in_the_wrong_wrapping(params, error, message):
    with pytest.raises(error, match=f"Adam: {message}|Adam: .*{message}"):
        Adam(params(tg.nn.Linear(2, 2)))


def test_a_gradient_that_is_an_array_is_refused_and_nothing_moved():
    p, q = tg.nn.Parameter(np.ones(2)), tg.nn.Parameter(np.ones(2))
    p.grad = tg.tensor(np.ones(2))
    with pytest.raises(TypeError, match="tensor"):  # when it is assigned, or at the step
        q.grad = np.ones(2)
        SGD([p, q], lr=1.0).step()
    for clip in (tg.nn.utils.clip_grad_norm_, tg.nn.utils.clip_grad_value_, tg.nn.utils.clip_grad_adaptive_):
        with pytest.raises(TypeError, match="tensor"):
            q.grad = np.ones(2)
            clip([p, q], 0.1)
    frozen = tg.tensor(np.ones(2))  # nobody looks at what is assigned to it
    frozen.grad = np.ones(2)
    with pytest.raises(TypeError, match=r"SGD: the gradient of a parameter of shape \[2\] is no tensor but a ndarray"):
        SGD([p, frozen], lr=1.0).step()
    for clip in (tg.nn.utils.clip_grad_norm_, tg.nn.utils.clip_grad_value_, tg.nn.utils.clip_grad_adaptive_):
        with pytest.raises(TypeError, match="the gradient of parameter 1 is no tensor but a ndarray"):
            clip([p, frozen], 0.1)
    assert p.tolist() == [1, 1] and p.grad.tolist() == [1, 1]


def test_a_read_only_parameter_moves_nothing():
    array = np.ones(2)
    array.flags.writeable = False
    p, q = parameter(2), tg.from_numpy(array).requires_grad_()
    before = p.numpy().copy()
    p.grad = q.grad = tg.tensor(np.ones(2))
    optimiser = Adam([p, q])
    with pytest.raises(ValueError, match=r"a parameter of shape \[2\] is read-only"):
        optimiser.step()
    np.testing.assert_array_equal(p.numpy(), before)
    assert not optimiser.state


def test_nesterov_needs_momentum_and_no_dampening():
    for settings in ({}, {"momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov needs a momentum and no dampening"):
            SGD([parameter(1)], nesterov=True, **settings)


def test_parameters_that_make_no_sense():
    p = parameter(2)
    with pytest.raises(TypeError, match="put it into a list"):
        SGD(p)
    with pytest.raises(TypeError, match="put it into a list"):
        SGD({"params": [p]})
    with pytest.raises(TypeError, match="parameter 1 is no tensor but a ndarray"):
        SGD([p, np.ones(3)])
    with pytest.raises(ValueError, match="no parameters"):
        SGD(iter([]))
    with pytest.raises(ValueError, match="parameter 1 is the result of mul"):
        SGD([p, p * 2])
    with pytest.raises(ValueError, match=r"parameter 1 of shape \[2\] is in a group already"):
        SGD([p, p])
    with pytest.raises(ValueError, match=r"parameter 0 of shape \[2\] is in a group already"):
        SGD([{"params": [p]}, {"params": [p]}])


# ---- Stepping --------------------------------------------------------------------------------------------------------


def test_closure_is_called_once_before_the_step_with_gradients_on():
    p = tg.tensor([2.0], requires_grad=True)
    optimiser, calls = SGD([p], lr=0.5), []

    def closure():
        calls.append(p.item())
        optimiser.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tg.no_grad():
        loss = optimiser.step(closure)
    assert calls == [2.0] and loss.item() == 4.0 and p.item() == 0.0
    assert optimiser.step() is None


def test_zero_grad_forgets_or_zeroes():
    p, q = parameter(2), parameter(2, seed=1)
    optimiser = SGD([p, q], momentum=0.9)
    p.grad = held = tg.tensor(np.ones(2))
    optimiser.zero_grad(set_to_none=False)
    assert (p.grad.numpy() == 0).all() and q.grad is None
    assert (held.numpy() == 1).all(), "an old gradient that somebody kept"
    optimiser.zero_grad()
    assert p.grad is None


def test_a_user_can_write_an_optimiser():
    """What the base class promises: options, groups and state are there, and `update` is all there is to say."""

    class SignDescent(Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, dict(lr=lr))

        def update(self, p, g, state, group):
            state["step"] = state.get("step", 0) + 1
            p -= group["lr"] * np.sign(g)

    p = tg.tensor(np.array([1.0, -1.0]), requires_grad=True)
    optimiser = SignDescent([p])
    p.grad = tg.tensor(np.array([5.0, -0.1]))
    optimiser.step()
    np.testing.assert_allclose(p.numpy(), [0.9, -0.9])
    assert optimiser.state_dict()["state"] == {0: {"step": 1}}
    with pytest.raises(NotImplementedError, match="must define update"):
        missing = Optimizer([p], {})
        missing.step()


def test_an_argument_of_a_user_s_optimiser_need_not_be_an_option():
    class Told(Optimizer):
        def __init__(self, params, lr=0.5, loud=False, range=(0.0, 1.0), every=3):
            super().__init__(params, {"lr": lr})
            self.loud = loud

        def update(self, p, g, state, group):
            p -= group["lr"] * g

    p = tg.tensor([1.0], requires_grad=True)
    p.grad = tg.ones(1)
    optimiser = Told([p], loud=True)
    optimiser.step()
    assert p.tolist() == [0.5] and optimiser.loud


def test_repr_shows_groups_and_options():
    text = repr(SGD([{"params": [parameter(1), parameter(2)]}, {"params": [parameter(3)], "lr": 0.5}], lr=0.25))
    assert text.startswith("SGD(\n    2 parameters: lr=0.25, momentum=0,") and "\n    1 parameters: lr=0.5," in text


def test_hooks_leave_the_closure_alone_or_give_another():
    p, told = parameter(2), []
    optimiser = SGD([p], lr=0.5)
    optimiser.register_step_post_hook(lambda o, args, named: told.append((args[1:], named)))
    mine, other = lambda: 3.0, lambda: 4.0
    assert optimiser.step(mine) == optimiser.step(closure=mine) == 3.0 and optimiser.step() is None
    optimiser.register_step_pre_hook(lambda o, args, named: ((o, other), {}))
    assert optimiser.step(mine) == 4.0
    assert told == [((mine,), {}), ((mine,), {}), ((), {}), ((other,), {})]


def test_copies_have_no_hooks():
    p, told = parameter(2), []
    optimiser = Adam([p])
    optimiser.register_step_pre_hook(lambda *_: told.append("before"))
    optimiser.register_step_post_hook(lambda *_: told.append("after"))
    for twin in (copy.deepcopy(optimiser), pickle.loads(pickle.dumps(optimiser))):
        descend(twin, 1)
    assert told == []
    descend(optimiser, 1)
    assert told == ["before", "after"]


# ---- State dicts -----------------------------------------------------------------------------------------------------


def test_layout_is_pytorchs():
    p, q = parameter(2, 3), parameter(4)
    optimiser = Adam([{"params": [p]}, {"params": [q], "lr": 0.5}])
    assert optimiser.state_dict()["state"] == {}
    descend(optimiser, 7)
    saved = optimiser.state_dict()
    assert [g["params"] for g in saved["param_groups"]] == [[0], [1]]
    assert saved["param_groups"][1]["lr"] == 0.5 and saved["param_groups"][0]["betas"] == (0.9, 0.999)
    assert set(saved["state"]) == {0, 1}
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"} and saved["state"][0]["step"] == 7
    assert isinstance(saved["state"][0]["exp_avg"], np.ndarray) and saved["state"][0]["exp_avg"].shape == (2, 3)


@EACH
def test_steps_are_counted_as_in_pytorch(kind, settings):
    p = parameter(2)
    optimiser = kind([p], **settings)
    descend(optimiser, 3)
    assert optimiser.state_dict()["state"].get(0, {}).get("step", 3) == 3, "plain descent remembers nothing"


@EACH
def test_a_new_optimiser_goes_on_with_the_same_bits(kind, settings):
    p, q = parameter(3, 4, dtype=np.float32), parameter(5, seed=1)
    decay = {} if kind is Rprop else {"weight_decay": 0.1}
    optimiser = kind([{"params": [p], "lr": 0.3}, {"params": [q], **decay}], **settings)
    descend(optimiser, 4)
    saved = copy.deepcopy(optimiser.state_dict())
    p2, q2 = (tg.tensor(x.numpy().copy(), requires_grad=True) for x in (p, q))
    other = kind([{"params": [p2]}, {"params": [q2]}], lr=7.0)
    other.load_state_dict(saved)
    for o in (optimiser, other):
        descend(o, 4, seed=1)
    np.testing.assert_array_equal(p2.numpy(), p.numpy())
    np.testing.assert_array_equal(q2.numpy(), q.numpy())


def test_loaded_arrays_are_copies():
    p = parameter(3)
    optimiser = SGD([p], momentum=0.9)
    descend(optimiser, 1)
    saved = optimiser.state_dict()
    other = SGD([parameter(3)], momentum=0.9)
    other.load_state_dict(saved)
    before = saved["state"][0]["momentum_buffer"].copy()
    descend(other, 3)
    np.testing.assert_array_equal(saved["state"][0]["momentum_buffer"], before)


def test_what_other_libraries_add_is_kept_and_what_they_wrap_is_unwrapped():
    """PyTorch has 0-d tensors for steps, None for no momentum yet, and more options; JSON has lists for tuples."""
    p = parameter(3)
    optimiser = Adam([p])
    descend(optimiser, 2)
    saved = copy.deepcopy(optimiser.state_dict())
    saved["state"][0]["step"] = np.array(2.0, np.float32)
    saved["state"][0]["momentum_buffer"] = None
    saved["param_groups"][0].update(foreach=None, initial_lr=0.5, betas=[0.5, 0.75])
    optimiser.load_state_dict(saved)
    assert optimiser.param_groups[0]["initial_lr"] == 0.5 and optimiser.param_groups[0]["betas"] == (0.5, 0.75)
    assert type(optimiser.state[p]["step"]) is float and "momentum_buffer" not in optimiser.state[p]
    descend(optimiser, 1)
    assert optimiser.state[p]["step"] == 3


BROKEN = [
    ("has the entries 'state' and 'param_groups'", lambda s: s.clear()),
    (r"have \[1, 1\] parameters, those of the state dict \[1\]", lambda s: s["param_groups"].pop()),
    (r"have \[1, 1\] parameters, those of the state dict \[1, 2\]", lambda s: s["param_groups"][1]["params"].append(2)),
    ("group 1 lacks betas; is this the state of another", lambda s: s["param_groups"][1].pop("betas")),
    ("lr must be at least 0", lambda s: s["param_groups"][1].update(lr=-1.0)),
    (r"exp_avg of parameter 1 has shape \[4\], the", lambda s: s["state"][1].update(exp_avg=np.ones(4))),
    ("parameter 7 belongs to no group", lambda s: s["state"].update({7: {}})),
    ("step of parameter 1 is no number: 'x'", lambda s: s["state"][1].update(step="x")),
    ("step of parameter 1 is no number", lambda s: s["state"][1].update(step=[1])),
    ("step of parameter 1 is no number", lambda s: s["state"][1].update(step=np.nan)),
    ("exp_avg of parameter 1 is no array of numbers", lambda s: s["state"][1].update(exp_avg="x")),
    ("exp_avg of parameter 1 is no array of numbers", lambda s: s["state"][1].update(exp_avg=np.ones(3) + 1j)),
    ("betas must be 2", lambda s: s["param_groups"][1].update(betas=0.5)),
]


@pytest.mark.parametrize(("message", "spoil"), BROKEN, ids=[message[:20] for message, _ in BROKEN])
def test_a_state_that_does_not_fit_changes_nothing(message, spoil):
    optimiser = Adam([{"params": [parameter(2)]}, {"params": [parameter(3)], "lr": 0.5}])
    descend(optimiser, 2)
    spoiled = copy.deepcopy(optimiser.state_dict())
    spoil(spoiled)
    descend(optimiser, 1)
    before = copy.deepcopy(optimiser.state_dict())
    with pytest.raises(ValueError, match=message):
        optimiser.load_state_dict(spoiled)
    after = optimiser.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, entries in before["state"].items():
        for key, value in entries.items():
            np.testing.assert_array_equal(after["state"][number][key], value)


@EACH
@pytest.mark.parametrize("lr", [None, "0.1", float("nan"), float("inf"), [0.1]])
def test_a_learning_rate_set_by_hand_is_looked_at_before_anything_moves(kind, settings, lr):
    p, q = parameter(3), parameter(3, seed=1)
    optimiser = kind([{"params": [p]}, {"params": [q]}], **settings)
    descend(optimiser, 1)
    before = p.numpy().copy(), q.numpy().copy(), copy.deepcopy(optimiser.state_dict()["state"])
    optimiser.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match="lr of group 1 must be a finite number"):
        descend(optimiser, 1)
    np.testing.assert_array_equal(p.numpy(), before[0])
    np.testing.assert_array_equal(q.numpy(), before[1])
    np.testing.assert_equal(optimiser.state_dict()["state"], before[2])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (tg.optim.Adam, {"betas": (0.9,)}, "betas of group 1 must be 2 finite numbers"),
        (tg.optim.Adam, {"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\)"),
        (tg.optim.SGD, {"momentum": "a"}, "momentum of group 1 must be a finite number"),
        (tg.optim.SGD, {"weight_decay": -1.0}, "weight_decay must be at least 0"),
        (tg.optim.RMSprop, {"centered": "yes"}, "centered of group 1 must be True or False"),
    ],
)
def test_options_set_by_hand_are_looked_at_before_anything_moves(kind, options, words):
    p, q = parameter(3), parameter(3, seed=1)
    optimiser = kind([{"params": [p]}, {"params": [q]}], lr=0.1)
    descend(optimiser, 2)
    before = p.numpy().copy(), q.numpy().copy(), copy.deepcopy(optimiser.state_dict()["state"])
    right = {name: optimiser.param_groups[1][name] for name in options}
    optimiser.param_groups[1].update(options)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            descend(optimiser, 1)
    np.testing.assert_equal((p.numpy(), q.numpy(), optimiser.state_dict()["state"]), before)
    optimiser.param_groups[1].update(right)
    descend(optimiser, 1)
    assert (p.numpy() != before[0]).all() and (q.numpy() != before[1]).all()
