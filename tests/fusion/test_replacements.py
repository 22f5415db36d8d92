"""Refusals lead on: what each suggests compiles, and agrees with the tape."""

import random
import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import interpret, parameter
from fusion.sweeping import H, refusal, run

ROWS = "rows of the batch meet"
HELD = {"V": parameter(2 * H, H), "k": np.linspace(0.5, 1.5, H)}


def cat_of_rows(self, x, h):
    return tg.cat([h, h], 0)[: h.shape[0]]


# name: what is refused, a fragment of the message, what it says to write, and that as a step.
TABLE = {
    "a branch on numbers": (
        lambda self, x, h: h if h[:, 0:1].sum(-1).item() > 0 else -h,
        "looks at the numbers",
        "tg.where(h > 0, a, b)",
        lambda self, x, h: tg.where(h > 0, h, -h),
    ),
    "a number of a parameter": (
        lambda self, x, h: self.a.item() * h,
        "numbers of a tensor, self.a",
        "use tensors as they are",
        lambda self, x, h: self.a * h,
    ),
    "an index that is a tensor": (
        lambda self, x, h: self.M[tg.tensor([1])] * h,
        "numbers of a tensor",
        "a list or an array",
        lambda self, x, h: self.M[[1]] * h,
    ),
    "a softmax over rows": (
        lambda self, x, h: tg.softmax(h, 0),
        f"{ROWS} in softmax over dim 0",
        "dim=-1",
        lambda self, x, h: tg.softmax(h, dim=-1),
    ),
    "a mean of all": (
        lambda self, x, h: h - h.mean(),
        f"{ROWS} in mean over dim 0",
        "dim=-1",
        lambda self, x, h: h - h.mean(dim=-1, keepdim=True),
    ),
    "a row": (
        lambda self, x, h: h + h[0],
        f"{ROWS}: an index picks some",
        "h[:, first:last]",
        lambda self, x, h: h[:, :2] @ self.U[:2],
    ),
    "rows below each other": (
        cat_of_rows,
        f"{ROWS}: cat puts them below",
        "tg.cat([a, b], -1)",
        lambda self, x, h: tg.cat([h, h], -1) @ self.V,
    ),
    "weights on the left": (
        lambda self, x, h: (self.U @ h.T).T,
        f"{ROWS}: a transposed value",
        "a @ b.T for (b @ a.T).T",
        lambda self, x, h: h @ self.U.T,
    ),
    "rows of a stack": (
        lambda self, x, h: tg.stack([h, -h]).sum(0),
        f"{ROWS} in stack",
        "tg.stack([a, b], 1)",
        lambda self, x, h: tg.stack([h, -2 * h], 1).sum(1),
    ),
    "a sum over the letter of the batch": (
        lambda self, x, h: h @ tg.einsum("bi,bj->ij", h, h),
        f"{ROWS} in einsum",
        "one letter for the batch, first in operands and result: 'bi,bj->bij'",
        lambda self, x, h: (h.unsqueeze(1) @ tg.einsum("bi,bj->bij", h, h)).squeeze(1),
    ),
    "two letters for the batch": (
        lambda self, x, h: tg.einsum("bi,cj->bij", h, h).sum(1),
        f"{ROWS} in einsum",
        "one letter for the batch",
        lambda self, x, h: tg.einsum("bi,bj->bij", h, h).sum(1),
    ),
    "the batch of a matrix moved": (
        lambda self, x, h: (h[..., None] * x[:, None]).permute(1, 0, 2)[0] @ self.W,
        f"{ROWS}: a transposed value",
        "C.permute(0, 2, 1)",
        lambda self, x, h: (h[..., None] * x[:, None]).permute(0, 2, 1)[:, 0],
    ),
    "rows mixed by reshape": (
        lambda self, x, h: h.reshape(h.shape[1], -1).reshape(h.shape),
        f"{ROWS} in reshape",
        "h.reshape(h.shape[0], -1)",
        lambda self, x, h: h.sum(-1).reshape(h.shape[0], -1),
    ),
    "rows in front of groups": (
        lambda self, x, h: h.reshape(-1, 1).sum(-1).reshape(h.shape[0], -1),
        f"{ROWS} in reshape",
        "h.reshape(h.shape[0], -1, 1)",
        lambda self, x, h: h.reshape(h.shape[0], -1, 1).sum(-1),
    ),
    "a choice by all rows": (
        lambda self, x, h: h if not (h > 0).any() else -h,
        f"{ROWS} in any",
        "tg.where(mask, a, b) for a choice",
        lambda self, x, h: tg.where((h > 0).any(-1, keepdim=True), -h, h),
    ),
    "a norm of matrices": (
        lambda self, x, h: h * (h.unsqueeze(1) * x.unsqueeze(-1)).norm(),
        f"{ROWS} in norm",
        "dim=(1, 2), over all of each row",
        lambda self, x, h: h * (h.unsqueeze(1) * x.unsqueeze(-1)).norm(dim=(1, 2)).unsqueeze(-1),
    ),
    "a dimension in front of the batch": (
        lambda self, x, h: h.unsqueeze(0)[0],
        f"{ROWS} in unsqueeze",
        "h.unsqueeze(1)",
        lambda self, x, h: h.unsqueeze(1)[:, 0],
    ),
    "rows that move": (
        lambda self, x, h: tg.roll(h, 1, 0) + h.flip(0),
        f"{ROWS}: roll picks some of them",
        "dim=-1",
        lambda self, x, h: tg.roll(h, 1, -1) + h.flip(-1),
    ),
    "a layer made in the step": (
        lambda self, x, h: tg.nn.Linear(H, H, dtype=np.float64)(h),
        "step makes a parameter",
        "or the module that has it, in __init__",
        lambda self, x, h: h @ self.U,
    ),
    "rows in pairs": (
        lambda self, x, h: (h.sum(-1).unsqueeze(1) - h.sum(-1)).sum(-1, keepdim=True),
        f"{ROWS}: each is combined with each other",
        "sum(-1, keepdim=True)",
        lambda self, x, h: h - h.sum(-1, keepdim=True),
    ),
    "the size of the batch": (
        lambda self, x, h: h / h.shape[0],
        "size of the batch",
        "h.expand(h.shape[0], 3)",
        lambda self, x, h: h.sum(-1, keepdim=True).expand(h.shape[0], H),
    ),
    "len": (
        lambda self, x, h: h / len(h),
        "by len",
        "h.shape[0], which may go into shapes",
        lambda self, x, h: h.reshape(h.shape[0], H),
    ),
    "a loop over rows": (
        lambda self, x, h: tg.stack([row * 2 for row in h]),
        "walks over the rows",
        "leave the loop out",
        lambda self, x, h: h * 2,
    ),
    "squeeze": (
        lambda self, x, h: h * h.sum(-1, keepdim=True).squeeze().unsqueeze(-1),
        "batch of one",
        "squeeze(-1)",
        lambda self, x, h: h * h.sum(-1, keepdim=True).squeeze(-1).unsqueeze(-1),
    ),
    "numbers of its own for each row": (
        lambda self, x, h: h + tg.triu(tg.ones(h.shape, dtype=h.dtype)),
        "an array with a row for each of the batch",
        "h * 0 + 1",
        lambda self, x, h: tg.cat([h[:, :2], h[:, :2] * 0 + 1], -1),
    ),
    "noise for all rows": (
        lambda self, x, h: h * tg.rand(H, dtype=np.float64),
        "random numbers of shape [4]",
        "h.shape, or h.shape[0], 1 for one number a row",
        lambda self, x, h: h * tg.rand(h.shape, dtype=np.float64) * tg.rand(h.shape[0], 1, dtype=np.float64),
    ),
    "noise of NumPy's": (
        lambda self, x, h: h * np.random.rand(H),  # noqa: NPY002
        "draws random numbers from numpy.random",
        "tg.rand(h.shape)",
        lambda self, x, h: h * tg.rand(h.shape, dtype=np.float64),
    ),
    "noise of Python's": (
        lambda self, x, h: h if random.random() < 2 else -h,
        "draws random numbers from random",
        "tg.rand(h.shape)",
        lambda self, x, h: h * tg.rand(h.shape, dtype=np.float64),
    ),
    "whole numbers": (
        lambda self, x, h: (3 * h).long().to(h.dtype),
        "int64, and kernels compute with floats",
        "tg.sign(h) * tg.floor(tg.abs(h))",
        lambda self, x, h: tg.sign(3 * h) * tg.floor(tg.abs(3 * h)),
    ),
    "truth values that are added": (
        lambda self, x, h: ((h > 0) + (h > 0.1)).to(h.dtype),
        "truth values in add",
        ".to(np.float64) first",
        lambda self, x, h: (h > 0).to(np.float64) + (h > 0.1).to(np.float64),
    ),
    "numbers as truth values": (
        lambda self, x, h: h.to(np.bool_).to(h.dtype),
        "numbers into truth values",
        "write h != 0",
        lambda self, x, h: (h != 0).to(h.dtype),
    ),
    "a clipped parameter": (
        lambda self, x, h: h @ tg.clip_gradient(self.U, 0.05),
        "clips at each of them",
        "tg.clip_gradient(h @ U, 1.0)",
        lambda self, x, h: tg.clip_gradient(h @ self.U, 0.05),
    ),
    "without gradients": (
        lambda self, x, h: tg.no_grad()(lambda: h * self.b)(),
        "tg.no_grad()",
        "h.detach()",
        lambda self, x, h: (h * self.b).detach(),
    ),
}


def step(of):
    """A step that adds something to an ordinary one: of(cell, x, h)."""
    return lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + of(self, x, h))


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


@pytest.mark.parametrize(("wrong", "fragment", "lead", "right"), TABLE.values(), ids=TABLE)
def test_what_a_refusal_suggests_compiles(wrong, fragment, lead, right):
    """What draws from NumPy's generator gives something else each time; of everything else the numbers are compared."""
    reason = run(step(wrong), "auto", **HELD)[1] if "numpy.random" in fragment else refusal(step(wrong), **HELD)
    assert fragment in reason and lead in reason and re.search(r"test_replacements\.py:\d+", reason), reason
    assert refusal(step(right), **HELD) == ""


FLOAT32 = {
    "a wider weight": (
        lambda self, x, h: h @ self.U64,
        "self.U64 is float64, and the states are float32",
        "self.U64.to(np.float32)",
        lambda self, x, h: h @ self.U64.to(np.float32),
    ),
    "a wider constant": (
        lambda self, x, h: h * self.k,
        "self.k is float64, and the states are float32",
        "self.k.astype(np.float32)",
        lambda self, x, h: h * self.k.astype(np.float32),
    ),
}


@pytest.mark.parametrize(("wrong", "fragment", "lead", "right"), FLOAT32.values(), ids=FLOAT32)
def test_what_a_refusal_suggests_in_float32(wrong, fragment, lead, right):
    held = {"U64": parameter(H, H), "k": HELD["k"], "dtype": np.float32}
    reason = refusal(step(wrong), 3e-6, **held)
    assert fragment in reason and lead in reason
    assert refusal(step(right), 3e-6, **held) == ""


def test_a_number_for_each_row_that_only_a_batch_of_that_size_broadcasts():
    """On the tape the numbers of other rows: a batch as large as a row is wide hides what kernels cannot take."""
    wrong = step(lambda self, x, h: tg.sigmoid((h * h).sum(-1)) * h)
    _, reason = run(wrong, "auto", B=H)
    assert "shapes [B] and [B, 4] do not broadcast together" in reason and "write g.unsqueeze(-1) * h" in reason
    assert re.search(r"test_replacements\.py:\d+", reason)
    assert refusal(step(lambda self, x, h: tg.sigmoid((h * h).sum(-1)).unsqueeze(-1) * h)) == ""


def test_the_table_is_long_enough():
    assert len(TABLE) + len(FLOAT32) >= 25
