"""What to do with gradients: optimisers, schedules, clipping, penalties.

In reading order: `optimizer` (parameter groups and state), then the rules, each as its paper has it: `sgd`, `asgd`,
`adam`, `nadam`, `rmsprop`, `adagrad`, `adadelta`, `rprop`. `lr_scheduler` changes learning rates while training.
`penalties` are terms for the loss; clipping is in `nn.utils`, where PyTorch has it, and here.
"""

from ..nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from . import lr_scheduler
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .asgd import ASGD, NTASGD
from .nadam import NAdam
from .optimizer import Optimizer
from .penalties import l1_penalty, l2_penalty
from .rmsprop import RMSprop
from .rprop import Rprop
from .sgd import SGD

__all__ = [
    "Optimizer", "SGD", "ASGD", "NTASGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop",
    "lr_scheduler",
    "clip_grad_norm_", "clip_grad_value_", "get_total_norm", "l1_penalty", "l2_penalty",
]
