"""Long expressive memory against its authors' equations in PyTorch, with their names and their order of blocks."""

import numpy as np
import pytest
import torch
from fusion.comparing import interpret

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

ORDER = [1, 0, 3, 2]  # of their blocks: y's time step, z's time step, y's input, z's input


def authors(x, y, z, p, dt):
    """The forward of tk-rusch/LEM's cell, over a sequence."""
    outputs = []
    for x_t in x:
        i_dt1, i_dt2, i_z, i_y = (x_t @ p["inp2hid.weight"].T + p["inp2hid.bias"]).chunk(4, 1)
        h_dt1, h_dt2, h_y = (y @ p["hid2hid.weight"].T + p["hid2hid.bias"]).chunk(3, 1)
        ms_dt_bar, ms_dt = dt * torch.sigmoid(i_dt1 + h_dt1), dt * torch.sigmoid(i_dt2 + h_dt2)
        z = (1 - ms_dt) * z + ms_dt * torch.tanh(i_y + h_y)
        y = (1 - ms_dt_bar) * y + ms_dt_bar * torch.tanh(z @ p["transform_z.weight"].T + p["transform_z.bias"] + i_z)
        outputs.append(y)
    return torch.stack(outputs), y, z


def in_our_order(p):
    """Their parameters, or gradients of them, as ours; of two biases that are added, the first."""
    blocks = lambda a: np.concatenate([np.split(a, 4)[k] for k in ORDER])
    n = len(p["transform_z.weight"])
    hid, last = p["hid2hid.weight"], p["transform_z.weight"]
    recurrent = np.concatenate([hid[n : 2 * n], hid[:n], hid[2 * n :], last])
    return dict(weight_ih=blocks(p["inp2hid.weight"]), weight_hh=recurrent, bias=blocks(p["inp2hid.bias"]))


@pytest.mark.parametrize("dt", [1.0, 0.3])
@pytest.mark.parametrize("fused", ["require", "never"])
def test_values_and_gradients(fused, dt, monkeypatch):
    interpret(monkeypatch)
    rng, T, B, I, H = np.random.default_rng(3), 6, 3, 2, 5
    shapes = {"inp2hid": (4 * H, I), "hid2hid": (3 * H, H), "transform_z": (H, H)}
    p = {f"{name}.weight": rng.uniform(-0.7, 0.7, shape) for name, shape in shapes.items()}
    p |= {f"{name}.bias": rng.uniform(-0.7, 0.7, shape[0]) for name, shape in shapes.items()}
    x, y, z = rng.standard_normal((T, B, I)), rng.standard_normal((B, H)), rng.standard_normal((B, H))
    weights = [rng.standard_normal(shape) for shape in ((T, B, H), (B, H), (B, H))]

    theirs = {name: torch.tensor(a, requires_grad=True) for name, a in {"x": x, "y": y, "z": z, **p}.items()}
    expected = authors(*(theirs[name] for name in "xyz"), theirs, dt)
    sum((v * torch.tensor(w)).sum() for v, w in zip(expected, weights)).backward()

    cell = tg.nn.cells.LEMCell(I, H, dt=dt, dtype=np.float64)
    ours = in_our_order(p)
    hidden = np.split(p["hid2hid.bias"], 3)
    ours["bias"] = ours["bias"] + np.concatenate([hidden[1], hidden[0], hidden[2], p["transform_z.bias"]])
    cell.load_state_dict(ours)
    leaves = [tg.tensor(a, requires_grad=True) for a in (x, y, z)]
    outputs, states = tg.nn.Recurrent(cell, fused=fused)(leaves[0], tuple(leaves[1:]))
    found = (outputs, *states)
    sum((v * w).sum() for v, w in zip(found, weights)).backward()

    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    for a, b in zip(leaves, "xyz"):
        np.testing.assert_allclose(a.grad.numpy(), theirs[b].grad.numpy(), rtol=1e-10, atol=1e-12)
    gradients = in_our_order({name: theirs[name].grad.numpy() for name in p})
    for name, q in cell.named_parameters():
        np.testing.assert_allclose(q.grad.numpy(), gradients[name], rtol=1e-10, atol=1e-12, err_msg=name)
    TALLY["LEM"]["compared"] += 1
