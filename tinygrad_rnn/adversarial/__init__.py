"""Inputs that are changed a little so that a network fails, training against them, and bounds on what they can do.

    >>> import tinygrad_rnn as tg
    >>> model, y = tg.nn.GRU(3, 4), [0, 2]
    >>> loss = lambda x: tg.cross_entropy(model(x)[0][-1], y, reduction="none")
    >>> tg.adversarial.pgd(loss, tg.randn(7, 2, 3), epsilon=0.1, steps=3).shape
    (7, 2, 3)

In reading order: `ball` (which changes are allowed), `slopes` (what is asked of a loss), `attacks`, `training` (losses
at the worst change, for embeddings), `words` (other words in their place), `interval` and `bounds` (what no change can
do).

A network that is trained against attacks is tested with stronger ones, and with epsilons at which it fails: accuracy
that does not fall to 0 there, or attacks of one step that succeed where many do not, are signs of an attack that does
not work rather than of a defence that does (Athalye, Carlini and Wagner, 2018).
"""

from .attacks import fgsm, pgd
from .bounds import certified_epsilon, certified_margin, interval_bounds
from .interval import Interval
from .training import (
    NormalisedEmbedding,
    adversarial_loss,
    normalised_embedding,
    virtual_adversarial_change,
    virtual_adversarial_loss,
)
from .words import Substitution, substitute_words

__all__ = [
    "fgsm", "pgd",
    "adversarial_loss", "virtual_adversarial_loss", "virtual_adversarial_change",
    "NormalisedEmbedding", "normalised_embedding", "substitute_words", "Substitution",
    "Interval", "interval_bounds", "certified_margin", "certified_epsilon",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
