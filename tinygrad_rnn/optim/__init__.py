"""What to do with gradients: optimisers, schedules, clipping, regularisers.

In reading order: `optimizer` (parameter groups and state), then the rules, each as its paper has it: `sgd`, `asgd`,
`adam`, `nadam`, `rmsprop`, `adagrad`, `adadelta`, `rprop`. `groups` says which weights decay. `scheduler` (what
schedules have in common), `cosines` and `lr_scheduler` change learning rates while training. Against overfitting:
`penalties` are terms for the loss, `weights` limits the weights or adds noise to them, `early_stopping` says when to
stop. `omega` keeps gradients from vanishing. Clipping is in `nn.utils`, where PyTorch has it, and here.

What belongs where in a step:

    optimizer.zero_grad()
    with weight_noise(model.parameters(), 0.05):               # around forward and backward pass
        y, _ = model(x)
        loss = criterion(y, target) + l1_penalty(model.parameters(), 1e-5) + temporal_activation_penalty(y, 1.0)
        loss.backward()
    clip_grad_norm_(model.named_parameters(), 1.0)             # after backward(), before step()
    optimizer.step()
    max_norm_(model.parameters(), 3.0)                         # after step()
    scheduler.step()                                           # after step(), once a batch or once an epoch
"""

from typing import TYPE_CHECKING

from ..nn.advice import told
from ..nn.utils import clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_, get_total_norm
from . import lr_scheduler
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .asgd import ASGD, NTASGD
from .early_stopping import EarlyStopping
from .groups import decay_groups
from .nadam import NAdam
from .omega import omega_penalty
from .optimizer import Optimizer, Rule
from .penalties import (
    activation_penalty,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    norm_stabilizer_penalty,
    nuclear_norm_penalty,
    soft_orthogonality_penalty,
    temporal_activation_penalty,
)
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD
from .weights import max_norm_, weight_noise

__all__ = [
    "Optimizer", "Rule", "SGD", "ASGD", "NTASGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop",
    "decay_groups", "lr_scheduler",
    "clip_grad_norm_", "clip_grad_value_", "clip_grad_adaptive_", "get_total_norm",
    "l1_penalty", "l2_penalty", "elastic_net_penalty", "nuclear_norm_penalty",
    "activation_penalty", "temporal_activation_penalty",
    "norm_stabilizer_penalty", "omega_penalty", "soft_orthogonality_penalty",
    "max_norm_", "weight_noise", "EarlyStopping",
]
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)
