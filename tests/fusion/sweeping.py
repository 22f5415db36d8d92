"""A step on both engines: refused with one warning, or compiled, and in either case what the tape computes."""

import copy
import re
import warnings

import numpy as np

import tinygrad_rnn as tg

I, H, T = 3, 4, 4
STAND_INS = re.compile(r"\b(10[0-4]\d)\b(?!:)")  # what is traced with in place of the size of the batch


def cell(step, dtype=np.float64, hidden_size=H, **held):
    """A cell with this step, parameters W, U, b, a and M, and what else it holds."""
    made = type("Odd", (tg.nn.Cell,), {"step": step, "hidden_size": hidden_size, "input_size": I})()
    random = np.random.default_rng(0)
    shapes = {"W": (I, H), "U": (H, H), "b": (H,), "a": (1,), "M": (5, H)}
    for name, shape in shapes.items():
        setattr(made, name, tg.nn.Parameter(random.uniform(-0.6, 0.6, shape).astype(dtype)))
    for name, value in held.items():
        setattr(made, name, copy.deepcopy(value))
    return made


def run(step, fused, B=3, lengths=None, dtype=np.float64, **held):
    """Results and gradients, or the error; the reason why the cell runs on the tape, or ""."""
    made, random = cell(step, dtype, **held), np.random.default_rng(1)
    x = tg.tensor(random.uniform(-1, 1, (T, B, I)).astype(dtype), requires_grad=True)
    layer = tg.nn.Recurrent(made, fused=fused)
    tg.manual_seed(2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            y, h = layer(x, lengths=lengths)
        except Exception as error:
            return error, ""
    loss = (y * random.uniform(-1, 1, y.shape).astype(dtype)).sum() + (h * h).sum()
    inputs = [x, *made.parameters()]
    found = tg.grad(loss, inputs, allow_unused=True) if loss.requires_grad else [None] * len(inputs)
    gradients = [np.zeros(v.shape) if g is None else g.numpy() for v, g in zip(inputs, found)]
    messages = [str(w.message) for w in told if "runs on the tape" in str(w.message)]
    assert len(messages) <= 1, messages
    return [y.numpy(), h.numpy(), *gradients], messages[0] if messages else ""


def refusal(step, tolerance=1e-11, **held):
    """Why a step is refused, or "", after both engines gave the same for several batches."""
    reasons = set()
    for B, lengths in ((3, None), (1, None), (H, None), (5, [4, 1, 2, 3, 4])):
        found, reason = run(step, "auto", B, lengths, **held)
        expected, _ = run(step, "never", B, lengths, **held)
        reasons.add(reason)
        if isinstance(expected, Exception):
            assert (type(found), str(found)) == (type(expected), str(expected))
            continue
        assert not isinstance(found, Exception), found
        for a, b in zip(found, expected):
            scale = max(1.0, np.max(np.abs(b), initial=0, where=np.isfinite(b)))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=f"B={B}, {reason or 'compiled'}")
    (reason,) = reasons - {""} or {""}
    assert not STAND_INS.search(reason), reason
    return reason
