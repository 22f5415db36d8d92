"""Noise and clipping inside the loop against loops over PyTorch tensors, same masks; lengths against packing."""

import numpy as np
import pytest
import torch
from fusion.comparing import interpret

import tinygrad_rnn as tg
from torch_oracle.tally import TALLY

T, B, I, H = 5, 4, 3, 6
CLIP = 0.02


class GravesLSTMCell(tg.nn.LSTMCell):
    """Derivatives clipped where Graves (2013) clips them: at the gates, before their nonlinearity."""

    def step(self, x, h, c):
        a = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = tg.chunk(tg.clip_gradient(a, CLIP), 4, -1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c


def clamped(x):
    """PyTorch's users clip inside the loop with a hook."""
    y = x.clone()
    y.register_hook(lambda dy: dy.clamp(-CLIP, CLIP))
    return y


def lstm_step(p, x, h, c, gates=lambda a: a, dropped=1.0):
    i, f, g, o = gates(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh() * dropped
    return o.sigmoid() * c.tanh(), c


def uniform(*shape):
    """The next numbers of our generator."""
    return torch.from_numpy(tg.generator().random(shape, dtype=np.float32))


def kept(p, *shape):
    return (uniform(*shape) >= p).double() / (1 - p)


# Each: our cell; what is drawn before the first step; at each step, in the order of drawing; PyTorch's step.


def zoneout(p, once, drawn, x, h, c):
    new_h, new_c = lstm_step(p, x, h, c)
    return torch.where(drawn[0], h, new_h), torch.where(drawn[1], c, new_c)


def weight_drop(p, once, drawn, x, h, c):
    return lstm_step({**p, "weight_hh": p["weight_hh"] * once}, x, h, c)


def with_recurrent_dropout(cell, p):
    cell.recurrent_dropout = p
    return cell


CASES = {
    "zoneout": (
        lambda: tg.nn.Zoneout(tg.nn.LSTMCell(I, H), (0.3, 0.6)),
        lambda: None,
        lambda: (uniform(B, H) < 0.3, uniform(B, H) < 0.6),
        zoneout,
    ),
    "variational dropout": (
        lambda: tg.nn.VariationalDropout(tg.nn.LSTMCell(I, H), 0.3, 0.5),
        lambda: (kept(0.3, B, I), kept(0.5, B, H)),
        lambda: None,
        lambda p, once, drawn, x, h, c: lstm_step(p, x * once[0], h * once[1], c),
    ),
    "weight drop": (
        lambda: tg.nn.WeightDrop(tg.nn.LSTMCell(I, H), 0.5),
        lambda: kept(0.5, 4 * H, H),
        lambda: None,
        weight_drop,
    ),
    "recurrent dropout": (
        lambda: with_recurrent_dropout(tg.nn.LSTMCell(I, H), 0.4),
        lambda: None,
        lambda: kept(0.4, B, H),
        lambda p, once, drawn, x, h, c: lstm_step(p, x, h, c, dropped=drawn),
    ),
    "clipped gradients of the states": (
        lambda: tg.nn.ClipGradient(tg.nn.LSTMCell(I, H), CLIP),
        lambda: None,
        lambda: None,
        lambda p, once, drawn, x, h, c: tuple(map(clamped, lstm_step(p, x, h, c))),
    ),
    "clipped gradients of the gates": (
        lambda: GravesLSTMCell(I, H),
        lambda: None,
        lambda: None,
        lambda p, once, drawn, x, h, c: lstm_step(p, x, h, c, gates=clamped),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_inside_the_loop(name, monkeypatch):
    make, draw_once, draw, step = CASES[name]
    interpret(monkeypatch)
    tg.manual_seed(0)
    cell = make().double()
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))

    tg.manual_seed(7)
    once, drawn = draw_once(), [draw() for _ in range(T)]
    p = {key.split(".")[-1]: torch.tensor(v, requires_grad=True) for key, v in cell.state_dict().items()}
    x_there = torch.tensor(x, requires_grad=True)
    h = c = torch.zeros(B, H, dtype=torch.float64)
    outputs = []
    for t in range(T):
        h, c = step(p, once, drawn[t], x_there[t], h, c)
        outputs.append(h)
    y = torch.stack(outputs)
    ((y * torch.tensor(dy)).sum() + c.sum()).backward()
    expected = [v.detach().numpy() for v in (y, c, x_there.grad, *(v.grad for v in p.values()))]

    for engine in ("require", "never"):
        tg.manual_seed(7)
        x_here = tg.tensor(x, requires_grad=True)
        y, (_, c) = tg.nn.Recurrent(cell, fused=engine)(x_here)
        gradients = tg.grad((y * tg.tensor(dy)).sum() + c.sum(), [x_here, *cell.parameters()])
        for found, value in zip((y, c, *gradients), expected, strict=True):
            np.testing.assert_allclose(found.numpy(), value, rtol=0, atol=1e-12)
        TALLY["inside the loop"]["compared"] += 1


@pytest.mark.parametrize(("kind", "batch_first"), [("RNN", False), ("LSTM", True), ("GRU", False)])
def test_lengths_are_packed_sequences(kind, batch_first, monkeypatch):
    interpret(monkeypatch)
    torch.manual_seed(0)
    options = dict(num_layers=2, bidirectional=True, batch_first=batch_first)
    theirs = getattr(torch.nn, kind)(I, H, dtype=torch.float64, **options)
    ours = getattr(tg.nn, kind)(I, H, dtype=np.float64, **options)
    ours.load_state_dict({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    lengths = torch.tensor([3, 5, 1, 2])
    x = torch.randn(*((B, T, I) if batch_first else (T, B, I)), dtype=torch.float64, requires_grad=True)
    start = tuple(torch.randn(4, B, H, dtype=torch.float64, requires_grad=True) for _ in range(1 + (kind == "LSTM")))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    y, final = theirs(packed, start if len(start) > 1 else start[0])
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first)
    finals = final if isinstance(final, tuple) else (final,)
    weights = [torch.randn_like(v) for v in (y, *finals)]
    loss = sum((v * w).sum() for v, w in zip((y, *finals), weights))
    gradients = torch.autograd.grad(loss, [x, *start, *theirs.parameters()])
    expected = [v.detach().numpy() for v in (y, *finals, *gradients)]

    for ours.fused in ("require", "never"):
        z = tg.tensor(x.detach().numpy(), requires_grad=True)
        begin = tuple(tg.tensor(s.detach().numpy(), requires_grad=True) for s in start)
        y, final = ours(z, begin if len(begin) > 1 else begin[0], lengths=lengths.numpy())
        finals = final if isinstance(final, tuple) else (final,)
        loss = sum((v * tg.tensor(w.numpy())).sum() for v, w in zip((y, *finals), weights))
        gradients = tg.grad(loss, [z, *begin, *ours.parameters()])
        for found, value in zip((y, *finals, *gradients), expected, strict=True):
            np.testing.assert_allclose(found.numpy(), value, rtol=0, atol=1e-11)
        TALLY["packed sequences"]["compared"] += 1
