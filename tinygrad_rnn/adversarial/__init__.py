"""Inputs that are changed a little so that a network fails, training against them, and bounds on what they can do.

    >>> import tinygrad_rnn as tg
    >>> model, y = tg.nn.GRU(3, 4), [0, 2]
    >>> loss = lambda x: tg.cross_entropy(model(x)[0][-1], y, reduction="none")
    >>> tg.adversarial.pgd(loss, tg.randn(7, 2, 3), epsilon=0.1, steps=3).shape
    (7, 2, 3)

In reading order: `ball` (which changes are allowed), `slopes` (what is asked of a loss), `attacks`.
"""

from .attacks import fgsm, pgd
