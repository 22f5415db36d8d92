"""What users are told to write in place of a name of PyTorch's is what PyTorch computes under that name."""

import math
import re

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from tinygrad_rnn.nn import advice

RANDOM = np.random.default_rng(0)
X, Y, C, W = (RANDOM.uniform(-3, 3, shape) for shape in ((4, 6), (4, 6), (4, 6), (5, 6, 6)))
B, D = RANDOM.uniform(-3, 3, (2, 4, 6, 6))
F = torch.nn.functional
plain = lambda f: lambda x, **_: f(x)
both = lambda f: lambda x, y, **_: f(x, y)
three = lambda f: lambda x, y, c, **_: f(c, x, y)

PYTORCH = {
    **{name: plain(getattr(torch, name)) for name in (
        "log2 log10 exp2 negative tan sinh cosh asinh ceil round trunc frac nan_to_num ravel diag_embed".split()
    )},
    **{name: plain(getattr(F, name)) for name in (
        "hardsigmoid hardswish mish selu softsign tanhshrink glu logsigmoid relu6 hardtanh".split()
    )},
    **{name: both(getattr(torch, name)) for name in ("remainder", "hypot", "fmod", "logaddexp", "dist")},
    **{name: plain(getattr(torch, name)) for name in ("diff", "nansum")},
    "take": lambda x, **_: torch.take(x, torch.tensor([3, 0, 7])),
    "kron": lambda x, y, **_: torch.kron(x, y),
    "cross": lambda x, y, **_: torch.linalg.cross(x[:, :3], y[:, :3]),
    "logcumsumexp": lambda x, **_: torch.logcumsumexp(x, -1),
    "scatter_add": lambda x, **_: torch.zeros(4, 5).double().scatter_add(1, torch.tensor([PLACES] * 4), x),
    **{name: lambda x, f=getattr(torch, name), **_: f(x.abs() / 4) for name in ("atanh", "logit")},
    "acosh": lambda x, **_: torch.acosh(1 + x.abs()),
    "logical_xor": lambda x, y, **_: torch.logical_xor(x > 0, y > 0),
    "prelu": lambda x, y, **_: F.prelu(x, y[0]),
    **{name: three(getattr(torch, name)) for name in ("addcmul", "addcdiv")},
    "addmm": lambda x, y, b, **_: torch.addmm(x, x, b[0]),
    "baddbmm": lambda b, d, **_: torch.baddbmm(b, b, d),
    "cumprod": lambda x, **_: torch.cumprod(x, -1),
    "lerp": lambda x, y, **_: torch.lerp(x, y, 0.3),
    "inner": lambda x, **_: torch.inner(x[0], x[1]),
    "diag": lambda b, **_: torch.diag(b[0]),
    "trace": lambda b, **_: torch.trace(b[0]),
    "clamp_min": lambda x, **_: x.clamp_min(0),
    "clamp_max": lambda x, **_: x.clamp_max(1),
    "clip": lambda x, **_: x.clip(-1, 1),
    "masked_select": lambda x, **_: x.masked_select(x > 0),
    "movedim": lambda b, **_: b.movedim(1, 2),
    "swapaxes": lambda b, **_: b.swapaxes(1, 2),
    "repeat_interleave": lambda x, **_: x.repeat_interleave(3, -1),
    "celu": lambda x, **_: F.celu(x, 0.7),
    "rms_norm": lambda x, y, **_: F.rms_norm(x, (6,), y[0], 1e-5),
    "group_norm": lambda x, y, c, **_: F.group_norm(x, 2, y[0], c[0]),
    "cosine_similarity": lambda x, y, **_: F.cosine_similarity(x, y),
    "pairwise_distance": lambda x, y, **_: F.pairwise_distance(x, y, eps=0),
    "cdist": lambda x, y, **_: torch.cdist(x, y),
    "bilinear": lambda x, y, W, **_: F.bilinear(x, y, W),
}  # fmt: skip

PLACES = [0, 3, 3, 1, 0, 4]
# What is not called x in the advice, or is not as wide as it is there.
SETTINGS = {
    "addmm": dict(c="x", y="b[0]"), "baddbmm": dict(c="b", x="b", y="d"), "lerp": dict(w="0.3"),
    "inner": dict(x="x[0]", y="x[1]"), "diag": dict(x="b[0]"), "trace": dict(x="b[0]"),
    "clip": dict(min="-1", max="1"), "masked_select": dict(mask="x.numpy() > 0"), "movedim": dict(x="b"),
    "swapaxes": dict(x="b", dim0="1", dim1="2"), "repeat_interleave": dict(n="3"), "celu": dict(a="0.7"),
    "rms_norm": dict(weight="y[0]", eps="1e-5"), "group_norm": dict(groups="2", size="3", weight="y[0]", bias="c[0]"),
    "bilinear": dict(weight="W"), "take": dict(indices="[3, 0, 7]"),
    "cross": dict(x="x[:, :3]", y="y[:, :3]"),
    "scatter_add": dict(n="5", indices=f"tg.tensor([{PLACES}] * 4)"),
    "atanh": dict(x="tg.abs(x) / 4"), "logit": dict(x="tg.abs(x) / 4"), "acosh": dict(x="1 + tg.abs(x)"),
    "logical_xor": dict(x="x > 0", y="y > 0"), "diag_embed": dict(n="6"), "prelu": dict(weight="y[0]"),
    "cumprod": dict(x="tg.abs(x)"), "log2": dict(x="tg.abs(x)"), "log10": dict(x="tg.abs(x)"),
}  # fmt: skip
POSITIVE = "cumprod", "log2", "log10"


def told(name):
    """The expression that users are told to write, and what it has names for."""
    with pytest.raises(AttributeError) as error:
        getattr(tg.nn.functional, name)
    text = error.value.args[0].partition(": write ")[2]
    text = re.split(" for what is above 0| and its like|, (along the last dimension|which adds)| of a matrix", text)[0]
    result, _, first = text.partition(", with ")
    return result, first


@pytest.mark.parametrize("name", PYTORCH)
def test_advice_is_what_pytorch_computes(name):
    arrays = dict(x=X, y=Y, c=C, b=B, d=D, W=W)
    expected = {n: torch.tensor(np.abs(a) if name in POSITIVE and n == "x" else a) for n, a in arrays.items()}
    names = {n: tg.tensor(a) for n, a in arrays.items()} | dict(tg=tg, math=math)
    result, first = told(name)
    names |= {n: eval(text, dict(names)) for n, text in SETTINGS.get(name, {}).items()}
    exec(first, names)
    found = eval(result, names).numpy()
    np.testing.assert_allclose(found, PYTORCH[name](**expected).numpy(), rtol=1e-10, atol=1e-10)


def test_every_expression_is_compared():
    """But those that draw numbers or name what is only called otherwise here."""
    assert set(advice.EXPRESSIONS) - set(PYTORCH) == {
        "nelement", "index_fill", "expand_as", "view_as", "reshape_as", "unflatten", "take_along_dim",
    }  # fmt: skip


EDGES = {  # name -> numbers at which a shorter expression would be wrong, or have the wrong slope
    "round": [0.5, 1.5, -0.5, -1.5, 2.5, 0.49999997, -2.5000002, 8388609.0],
    "asinh": [0.0, 1e-6, -1e4, 1e4, -1e-6, 3.0],
    "logaddexp": [-np.inf, -np.inf, 0.0, 1e4, -1e4, 2.0],
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_advice_holds_at_the_edges(name):
    """In float32, values and slopes."""
    x, y = np.float32(EDGES[name]), np.float32([-np.inf, 3.0, 0.0, -1e4, -1e4, 1.0, 2.0, 2.0])[: len(EDGES[name])]
    theirs = [torch.tensor(each, requires_grad=True) for each in (x, y)]
    expected = PYTORCH[name](x=theirs[0], y=theirs[1])
    expected.sum().backward()
    names = {"x": tg.tensor(x, requires_grad=True), "y": tg.tensor(y, requires_grad=True), "tg": tg}
    result, first = told(name)
    exec(first, names)
    found = eval(result, names)
    found.sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-6)
    if name != "logaddexp":  # whose slope at two infinities is NaN in either
        np.testing.assert_allclose(names["x"].grad.numpy(), theirs[0].grad.numpy(), rtol=1e-6)
