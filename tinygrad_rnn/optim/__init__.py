"""What to do with gradients: optimisers, clipping, penalties.

In reading order: `optimizer` (parameter groups and state), then the rules, each as its paper has it: `sgd`, `adam`,
`rmsprop`, `adagrad`. `penalties` are terms for the loss; clipping is in `nn.utils`, where PyTorch has it, and here.
"""

from ..nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .penalties import l1_penalty, l2_penalty
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "Optimizer", "SGD", "Adam", "AdamW", "RMSprop", "Adagrad",
    "clip_grad_norm_", "clip_grad_value_", "get_total_norm", "l1_penalty", "l2_penalty",
]
