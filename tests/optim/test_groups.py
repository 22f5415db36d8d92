"""Groups of what decays and what does not."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import SGD, decay_groups


class Model(tg.nn.Module):
    def __init__(self):
        self.embedding = tg.nn.Embedding(5, 4)
        self.rnn = tg.nn.LSTM(4, 3)
        self.norm = tg.nn.LayerNorm((2, 3))
        self.head = tg.nn.Linear(3, 5)
        self.tied = self.head


def names(model, group):
    chosen = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


def test_weights_decay_and_biases_and_norms_do_not():
    model = Model()
    decayed, kept = decay_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert names(model, decayed) == {"embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"}
    assert names(model, kept) == {"rnn.bias_ih_l0", "rnn.bias_hh_l0", "norm.weight", "norm.bias", "head.bias"}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_names_can_be_left_out():
    model = Model()
    (decayed, _) = decay_groups(model, 0.1, undecayed=["embedding.*", "*_hh_*"])
    assert names(model, decayed) == {"rnn.weight_ih_l0", "head.weight"}
    (only,) = decay_groups(model, 0.1, undecayed="*")
    assert only["weight_decay"] == 0.0 and len(only["params"]) == len(list(model.parameters()))


def test_what_an_optimiser_makes_of_them():
    model = Model()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    optimiser = SGD(decay_groups(model, 0.5), lr=0.1)
    for p in model.parameters():
        p.grad = tg.zeros_like(p)
    optimiser.step()
    decayed = names(model, optimiser.param_groups[0])
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.numpy(), before[name] * (0.95 if name in decayed else 1), rtol=1e-6)


def test_refusals():
    for bad in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="decay_groups: weight_decay must be at least 0 and finite"):
            decay_groups(Model(), bad)
    with pytest.raises(ValueError, match=r"no parameter is called 'embeding.\*'; there are embedding.weight, rnn"):
        decay_groups(Model(), 0.1, undecayed=["embeding.*"])
    with pytest.raises(ValueError, match="decay_groups: Dropout has no parameters"):
        decay_groups(tg.nn.Dropout(), 0.1)
