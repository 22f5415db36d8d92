"""Modules: who belongs to them, under which names, and what is saved and loaded."""

import collections
import copy
import gc
import pickle
import sys
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.nn import Linear, Module, ModuleList, Parameter, Sequential, advice


class Net(Module):
    """Parameters, buffers and modules wherever they may be."""

    def __init__(self):
        self.head = Linear(3, 2)
        self.scale = Parameter(np.ones(3))
        self.layers = [Linear(3, 3, bias=False), Linear(3, 3, bias=False)]
        self.tables = {"a": Linear(1, 1, bias=False), "b": [Parameter(np.zeros(2))]}
        self.size, self.note, self.nothing = 3, "text", None
        self.register_buffer("mean", tg.zeros(3))
        self.register_buffer("cache", tg.zeros(5), persistent=False)
        self.register_buffer("unset", None)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x * self.scale + self.mean)


NAMES = ["scale", "tables.b.0", "head.weight", "head.bias", "layers.0.weight", "layers.1.weight", "tables.a.weight"]


def test_parameters_are_found_by_name():
    """A module's own first, then its children's, in the order of assignment: PyTorch's order."""
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["scale", "tables.b.0"]
    assert [name for name, _ in net.named_parameters(prefix="net")] == ["net." + name for name in NAMES]
    assert list(map(id, net.parameters())) == [id(p) for _, p in net.named_parameters()]
    assert [name for name, _ in net.named_children()] == ["head", "layers.0", "layers.1", "tables.a"]
    assert [name for name, _ in net.named_modules()] == ["", "head", "layers.0", "layers.1", "tables.a"]
    assert [name for name, _ in net.named_buffers()] == ["mean", "cache"]
    assert len(list(net.buffers())) == 2 and len(list(net.children())) == 4 and len(list(net.modules())) == 5


def test_a_list_may_grow_later():
    net = Net()
    net.layers.append(Linear(3, 3, bias=False))
    assert "layers.2.weight" in dict(net.named_parameters())
    del net.layers[0]
    assert [n for n, _ in net.named_children()] == ["head", "layers.0", "layers.1", "tables.a"]


def test_typos_are_errors():
    assert not hasattr(Linear(2, 2), "wieght") and not hasattr(tg.nn.LSTM(2, 2), "weight_ih_l1")


def test_shared_parameters_count_once_and_are_saved_under_both_names():
    net = Sequential(Linear(2, 2), Linear(2, 2))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert [n for n, _ in net.named_parameters(remove_duplicate=False)] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    net.load_state_dict(net.state_dict())
    assert net[1].weight is net[0].weight
    again = copy.deepcopy(net)
    assert again[1].weight is again[0].weight and again[0].weight is not net[0].weight


def test_shared_modules_count_once():
    layer = Linear(2, 2)
    net = Sequential(layer, layer)
    assert len(list(net.parameters())) == 2 and len(list(net.children())) == 1
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_child_may_know_its_parent():
    parent, child = Module(), Linear(1, 1)
    parent.child, child.parent = child, parent
    assert [name for name, _ in parent.named_modules()] == ["", "child"]
    assert list(parent.state_dict()) == ["child.weight", "child.bias"]
    parent.eval()
    assert not child.training
    applied = []
    assert parent.apply(applied.append) is parent and applied == [child, parent]
    parent.me = parent
    assert repr(parent).count("Linear(") == 1 and "(parent): ..." in repr(parent) and "(me): ..." in repr(parent)


def test_a_parameter_is_not_replaced_by_a_tensor():
    layer = Linear(2, 2)
    with pytest.raises(TypeError, match=r"Linear\.weight is a Parameter"):
        layer.weight = layer.weight * 2
    layer.weight = Parameter(np.zeros((2, 2)))
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


def test_register():
    module = Module()
    module.register_parameter("w", Parameter(np.ones(2)))
    module.register_parameter("b", None)
    module.register_buffer("m", tg.ones(2))
    module.m = tg.zeros(2)  # still the buffer
    assert list(module.state_dict()) == ["w", "m"] and module.b is None
    assert module.state_dict()["m"].tolist() == [0, 0]
    module.m = None
    assert list(module.state_dict()) == ["w"]
    del module.m
    assert list(module.state_dict()) == ["w"]
    for wrong in ("a.b", "", 3):
        with pytest.raises(ValueError, match="cannot be the name"):
            module.register_buffer(wrong, tg.ones(2))
    with pytest.raises(ValueError, match=r"Module\.forward exists already"):
        module.register_parameter("forward", None)
    with pytest.raises(TypeError, match="must be a Tensor or None, not ndarray"):
        module.register_buffer("n", np.ones(2))
    with pytest.raises(TypeError, match="must be a Parameter or None, not Tensor"):
        module.register_parameter("n", tg.ones(2))
    assert list(Module().buffers()) == [], "the buffers of one module are no other's"


# Ways to change a module between two steps, and whose parameters it has then.
CHANGES = {
    "attribute set": (lambda net: setattr(net, "extra", Parameter(np.ones(1))), "+extra"),
    "attribute replaced": (lambda net: setattr(net, "scale", Parameter(np.ones(1))), ""),
    "attribute set to None": (lambda net: setattr(net, "scale", None), "-scale"),
    "attribute deleted": (lambda net: delattr(net, "scale"), "-scale"),
    "written to vars": (lambda net: vars(net).update(extra=Parameter(np.ones(1))), "+extra"),
    "taken from vars": (lambda net: vars(net).pop("scale"), "-scale"),
    "replaced in vars": (lambda net: vars(net).update(scale=Parameter(np.ones(1))), ""),
    "object.__setattr__": (lambda net: object.__setattr__(net, "extra", Parameter(np.ones(1))), "+extra"),
    "list appended to": (lambda net: net.layers.append(Linear(1, 1, bias=False)), "+layers.2.weight"),
    "list item replaced": (lambda net: net.layers.__setitem__(0, Linear(1, 1, bias=False)), ""),
    "list item deleted": (lambda net: net.layers.pop(), "-layers.1.weight"),
    "list replaced by one of the same items": (lambda net: setattr(net, "layers", [*net.layers]), ""),
    "list cleared": (lambda net: net.layers.clear(), "-layers.0.weight -layers.1.weight"),
    "dict item set": (lambda net: net.tables.update(c=Parameter(np.ones(1))), "+tables.c"),
    "dict item deleted": (lambda net: net.tables.pop("a"), "-tables.a.weight"),
    "list in a dict": (lambda net: net.tables["b"].append(Parameter(np.ones(1))), "+tables.b.1"),
    "a tuple around a list": (lambda net: setattr(net, "extra", ([Parameter(np.ones(1))],)), "+extra.0.0"),
    "child replaced": (lambda net: setattr(net, "head", Linear(1, 1)), ""),
    "child's attribute": (lambda net: setattr(net.head, "bias", None), "-head.bias"),
    "child's vars": (lambda net: vars(net.head).update(extra=Parameter(np.ones(1))), "+head.extra"),
    "grandchild": (lambda net: setattr(net.layers[0], "deep", Linear(1, 1, bias=False)), "+layers.0.deep.weight"),
    "shared with a child": (lambda net: setattr(net, "extra", net.head.weight), "+extra -head.weight"),
    "a child shared": (lambda net: setattr(net, "extra", net.head), ""),
    "its own parent": (lambda net: setattr(net.head, "parent", net), ""),
    "in place of a number": (lambda net: setattr(net, "size", Parameter(np.ones(1))), "+size"),
    "in place of a buffer": (lambda net: setattr(net, "mean", Parameter(np.ones(1))), "+mean"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_module_that_changes_between_steps(how):
    """Its parameters are those that it has at the moment, each once, and `zero_grad` reaches them all."""
    net, change = Net(), CHANGES[how][0]
    net.zero_grad()
    assert [name for name, _ in net.named_parameters()] == NAMES
    change(net)
    expected = set(NAMES)
    for entry in CHANGES[how][1].split():
        expected = expected | {entry[1:]} if entry[0] == "+" else expected - {entry[1:]}
    named = list(net.named_parameters())
    assert {name for name, _ in named} == expected and len(named) == len(expected)
    every = [p for _, module in net.named_modules() for _, p in module.named_parameters(recurse=False)]
    assert {id(p) for p in every} == {id(p) for _, p in named} == {id(p) for p in net.parameters()}
    for p in every:
        p.grad = tg.tensor(np.ones(p.shape))
    net.zero_grad()
    assert not any(p.grad is not None for p in every)


def test_names_are_those_of_the_first_way_that_leads_there():
    """Parents before children, and a child's own child before its sibling, whoever else holds it."""
    first, shared = Module(), Linear(1, 1, bias=False)
    first.inner, first.own = shared, Parameter(np.ones(1))
    net = Module()
    net.first, net.second, net.third = first, shared, Linear(1, 1, bias=False)
    net.third.up = net
    assert [name for name, _ in net.named_parameters()] == ["first.own", "first.inner.weight", "third.weight"]
    every = ["first.own", "first.inner.weight", "second.weight", "third.weight"]
    assert [name for name, _ in net.named_parameters(remove_duplicate=False)] == every == list(net.state_dict())


COLLIDING = {
    "keys of dicts": lambda p, q: {"d": {"a.b": p, "a": {"b": q}}},
    "a number and its text": lambda p, q: {"d": {1: p, "1": q}},
    "an attribute and a dict": lambda p, q: {"d.a": p, "d": {"a": q}},
    "a list and a dict": lambda p, q: {"d": {"0": [p], "0.0": q}},
    "in a child": lambda p, q: {"child": Sequential(Linear(1, 1)), "child.0.weight": p},
    "a buffer": lambda p, q: {},
}


@pytest.mark.parametrize("what", COLLIDING)
def test_two_tensors_of_one_name_are_not_saved_as_one(what):
    p, q = Parameter(np.ones(2)), Parameter(np.zeros(2))
    net = Module()
    if what == "a buffer":
        child = Module()
        child.register_buffer("x", tg.ones(2))
        net.mean = child
        vars(net)["mean.x"] = q
    else:
        vars(net).update(COLLIDING[what](p, q))
    for use in (net.state_dict, lambda: net.load_state_dict({})):
        with pytest.raises(ValueError, match=r"Module: two tensors are called '.*', and only one could be saved"):
            use()
    vars(net).clear()
    vars(net).update({"d": {"a.b": p, "a": {"b": p}}})
    assert list(net.state_dict()) == ["d.a.b"], "one tensor, by two ways: nothing is lost"


# ---- Parameters ------------------------------------------------------------------------------------------------------


def test_parameter_has_its_own_memory():
    array = np.ones((2, 3))
    p, q = Parameter(array), Parameter(array.T)
    p.numpy()[...] = 5
    assert array.max() == 1 and q.numpy().flags.c_contiguous and q.shape == (3, 2)
    assert p.dtype == np.float64 and Parameter([1.0]).dtype == np.float32
    Parameter(np.broadcast_to(0.0, (3,))).numpy()[1] = 1  # an array that could not be written to


def test_operations_on_parameters_return_tensors():
    p = Parameter(np.ones(3))
    for result in (p + 1, p.sum(), p[0], p.detach(), p.clone(), tg.stack([p, p])):
        assert type(result) is tg.Tensor
    assert p.requires_grad and not Parameter(np.ones(3), requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="floats"):
        Parameter(np.arange(3))
    assert repr(p).startswith("Parameter containing:\ntensor([1., 1., 1.]")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_are_independent(duplicate):
    net = Net()
    (net(tg.ones(1, 3)) ** 2).sum().backward()
    other = duplicate(net)
    for (name, p), (other_name, q) in zip(net.named_parameters(), other.named_parameters()):
        assert name == other_name and type(q) is Parameter and q.grad is None
        np.testing.assert_array_equal(p.numpy(), q.numpy())
        assert not np.shares_memory(p.numpy(), q.numpy())
    before = net.scale.grad.numpy().copy()
    other(tg.ones(1, 3)).sum().backward()
    assert other.scale.grad is not None
    np.testing.assert_array_equal(net.scale.grad.numpy(), before)
    assert not duplicate(Parameter(np.ones(2), requires_grad=False)).requires_grad


def test_a_module_is_freed_when_it_is_dropped():
    """No reference cycles: the gradient's way back to the parameter is a weak one."""
    gc.collect()
    gc.disable()
    try:
        layer = Linear(2, 2)
        layer(tg.ones(1, 2)).sum().backward()
        alive = weakref.ref(layer.weight)
        del layer
        assert alive() is None
    finally:
        gc.enable()


# ---- Saving and loading ----------------------------------------------------------------------------------------------


def test_state_dict_is_a_copy():
    net = Net()
    state = net.state_dict()
    assert list(state) == ["scale", "tables.b.0", "mean", *NAMES[2:]]
    assert all(type(array) is np.ndarray for array in state.values())
    state["scale"][...] = 7
    assert net.scale.numpy().max() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_round_trip(seed, dtype):
    tg.manual_seed(seed)
    one, other = Net().to(dtype), Net().to(dtype)
    x = tg.rand(2, 3, dtype=dtype)
    keys = other.load_state_dict(one.state_dict())
    assert keys.missing_keys == keys.unexpected_keys == []
    np.testing.assert_array_equal(one(x).numpy(), other(x).numpy())


class TorchTensor:
    """What np.asarray makes of a PyTorch tensor: an array, by way of __array__."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


@pytest.mark.parametrize("wrap", [np.asarray, np.ndarray.tolist, tg.tensor, TorchTensor])
def test_load_from_anything_like_an_array(wrap):
    layer = Linear(2, 2)
    weight = layer.weight
    new = {"weight": np.arange(4.0).reshape(2, 2), "bias": np.array([5, 6])}
    layer.load_state_dict({name: wrap(value) for name, value in new.items()})
    assert layer.weight is weight and weight.dtype == np.float32, "loaded in place, the dtype kept"
    assert weight.tolist() == [[0, 1], [2, 3]] and layer.bias.tolist() == [5, 6]


def test_load_says_all_that_is_wrong_and_changes_nothing():
    net = Net()
    before = net.state_dict()
    state = {name: array + 1 for name, array in before.items() if name != "head.bias"}
    state |= {"scale": np.ones(4), "layers.0.weight": np.ones((3, 3), complex), "extra": np.ones(1), "more": np.ones(1)}
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    message = str(error.value)
    assert "does not fit Net" in message
    for part in (
        "missing: head.bias",
        "unexpected: extra, more",
        "scale has shape [4], expected [3]",
        "layers.0.weight is complex128, which does not become float32",
    ):
        assert part in message
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_not_strictly():
    net = Net()
    keys = net.load_state_dict({"scale": np.full(3, 9.0), "extra": np.ones(1)}, strict=False)
    assert net.scale.tolist() == [9, 9, 9]
    assert keys.unexpected_keys == ["extra"]
    assert keys.missing_keys == ["tables.b.0", "mean", *NAMES[2:]]
    with pytest.raises(RuntimeError, match=r"scale has shape \[2\], expected \[3\]"):
        net.load_state_dict({"scale": np.ones(2)}, strict=False)


# ---- Everything at once ----------------------------------------------------------------------------------------------


def test_train_and_eval():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train().training and all(m.training for m in net.modules())
    assert Linear(1, 1).training


def test_zero_grad_and_requires_grad():
    net = Net()
    net(tg.ones(1, 3)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.scale.grad.tolist() == [0, 0, 0] and net.tables["b"][0].grad is None
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert net.requires_grad_(False) is net and not net(tg.ones(1, 3)).requires_grad
    net.requires_grad_()
    assert net(tg.ones(1, 3)).requires_grad


def test_apply_reaches_children_first():
    net, seen = Net(), []
    assert net.apply(seen.append) is net
    assert seen[-1] is net and set(map(id, seen)) == set(map(id, net.modules()))


def test_conversion():
    net = Net()
    net.register_buffer("count", tg.tensor(np.arange(2)))
    net(tg.ones(1, 3)).sum().backward()
    parameters = list(net.parameters())
    assert net.double() is net and all(p.dtype == np.float64 for p in net.parameters())
    assert all(p is q for p, q in zip(parameters, net.parameters()))
    assert net.head.weight.grad.dtype == net.mean.dtype == np.float64 and net.count.dtype == np.int64
    assert net(tg.ones(1, 3, dtype=np.float64)).dtype == np.float64
    assert net.float().scale.dtype == np.float32
    with pytest.raises(TypeError, match="int64"):
        net.to(np.int64)


def test_calling():
    assert Linear(3, 2)(tg.ones(4, 3)).shape == (4, 2)
    with pytest.raises(NotImplementedError, match="Net2 does not define forward"):
        type("Net2", (Module,), {})()(1)


def test_repr():
    class Gain(Module):
        def __init__(self):
            self.g = Parameter([1.0])

        def extra_repr(self):
            return "loud"

    assert repr(Gain()) == "Gain(loud)  # g [1]: 1 parameter"
    assert repr(Module()) == "Module()"
    assert repr(tg.nn.Dropout(0.1)) == "Dropout(p=0.1)"
    net = Sequential(Linear(50, 30), tg.nn.Dropout(), Sequential(Gain()))
    assert repr(net) == (
        "Sequential(  # 1,531 parameters\n"
        "  (0): Linear(in_features=50, out_features=30, bias=True)  # weight [30, 50], bias [30]: 1,530 parameters\n"
        "  (1): Dropout(p=0.5)\n"
        "  (2): Sequential(  # 1 parameter\n"
        "    (0): Gain(loud)  # g [1]: 1 parameter\n"
        "  )\n"
        ")"
    )


# ---- Containers ------------------------------------------------------------------------------------------------------


def test_sequential():
    a, b, c = Linear(2, 3), Linear(3, 4), Linear(4, 5)
    net = Sequential(a, b, c)
    x = tg.rand(6, 2)
    np.testing.assert_array_equal(net(x).numpy(), c(b(a(x))).numpy())
    assert len(net) == 3 and list(net) == [a, b, c] and net[-1] is c and b in net and Linear(1, 1) not in net
    assert list(net[1:].state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    np.testing.assert_array_equal(net[:2](x).numpy(), b(a(x)).numpy())
    net[2] = Linear(4, 1)
    assert net(x).shape == (6, 1)
    assert net.append(Linear(1, 7)) is net and net(x).shape == (6, 7) and "3.weight" in net.state_dict()
    assert Sequential()(x) is x


def test_sequential_of_names():
    net = Sequential({"one": Linear(2, 3), "two": Linear(3, 4)})
    assert list(net.state_dict()) == ["one.weight", "one.bias", "two.weight", "two.bias"]
    assert list(net[1:].state_dict()) == ["two.weight", "two.bias"]
    with pytest.raises(ValueError, match=r"'a\.b' cannot be the name of a module"):
        Sequential({"a.b": Linear(1, 1)})
    with pytest.raises(TypeError, match="expected modules and functions, got float as number 1"):
        Sequential(Linear(1, 1), 0.5)


def test_module_list():
    a, b, c = Linear(1, 1), Linear(2, 2), Linear(3, 3)
    layers = ModuleList([a, c])
    layers.insert(1, b)
    assert list(layers) == [a, b, c] and list(layers[1:]) == [b, c] and isinstance(layers[1:], ModuleList)
    assert [name for name, _ in layers.named_children()] == ["0", "1", "2"]
    assert list(layers[1:].state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert len(layers.extend([Linear(1, 1)]).append(Linear(1, 1))) == 5
    with pytest.raises(NotImplementedError, match="forward"):
        layers(1)

    class Outer(Module):
        def __init__(self):
            self.layers = ModuleList([Linear(1, 1)])

    assert list(Outer().state_dict()) == ["layers.0.weight", "layers.0.bias"]


@pytest.mark.parametrize("given", ["model.pt", Linear(2, 2), [("weight", np.ones((2, 2)))], None])
def test_what_is_no_state_is_told(given):
    with pytest.raises(TypeError, match=r"load_state_dict: expected names with their arrays.*got a .*load_weights"):
        Linear(2, 2).load_state_dict(given)


class Refuses:
    """As a tensor of PyTorch's that wants a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Use detach")


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.ones((2, 2)), "bias is read-only"),
        ([[1.0], [2.0, 3.0]], "weight is no array: "),
        (Refuses(), "weight is no array: Use detach"),
    ],
)
def test_nothing_is_loaded_where_something_cannot_be(weight, words):
    layer = Linear(2, 2)
    layer.bias.data.flags.writeable = words[0] == "w"
    before = layer.state_dict()
    with pytest.raises(RuntimeError, match=f"nothing was loaded:\n    {words}"):
        layer.load_state_dict({"weight": weight, "bias": np.ones(2)})
    assert all((value == before[name]).all() for name, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", [set, frozenset, collections.deque])
def test_where_modules_are_not_looked_for_is_told(kind):
    net = Net()
    for item in (Linear(2, 2), Parameter([1.0])):
        with pytest.raises(TypeError, match=rf"Net\.more: .* in a {kind.__name__} would be neither learned nor saved"):
            net.more = kind([item])
    net.more = kind(["a", 1])
    assert len(net.more) == 2


def test_nothing_is_loaded_where_a_warning_is_an_error():
    layer = Linear(2, 2)
    before = layer.state_dict()
    with pytest.raises(RuntimeWarning, match="overflow"), warnings.catch_warnings(), np.errstate(over="warn"):
        warnings.simplefilter("error")
        layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.full(2, 1e300)})
    assert all((value == before[name]).all() for name, value in layer.state_dict().items())


ROOMS = [(room, name) for room, texts in advice.ROOMS.items() for names in texts for name in names.split()]


@pytest.mark.parametrize(("room", "name"), ROOMS, ids=[".".join(pair) for pair in ROOMS])
def test_advice_is_given_on_names_that_are_not_there(room, name):
    """And on no others: what is in the table and in the room would be an old line of the table."""
    with pytest.raises(AttributeError, match=rf"module '{room}' has no attribute '{name}': ") as told:
        getattr(sys.modules[room], name)
    assert told.value.name == name


@pytest.mark.parametrize(("thing", "texts"), [(Linear(1, 1), advice.MODULES), (tg.ones(2), advice.TENSORS)])
def test_advice_is_given_on_attributes_that_are_not_there(thing, texts):
    for name in " ".join(texts).split():
        with pytest.raises(AttributeError, match=f"^a (module|tensor) has no attribute '{name}': "):
            getattr(thing, name)


def test_advice_on_methods_is_no_method():
    class Own(Module):
        def cuda(self):
            return "mine"

    layer = Linear(2, 2)
    names = {name for names in advice.MODULES for name in names.split()}
    assert not any(hasattr(layer, name) for name in names) and not names & set(dir(layer)) and "weight" in dir(layer)
    layer.half = 0.5
    assert (layer.half, Own().cuda()) == (0.5, "mine") and "half" in dir(layer)
