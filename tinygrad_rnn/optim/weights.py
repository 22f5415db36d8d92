"""What is done to the weights themselves: a limit on their length after a step, noise on them during one."""

import contextlib
import math
from collections.abc import Iterable, Iterator

import numpy as np

from ..autograd.creation import generator
from ..autograd.tape import note_change
from ..autograd.tensor import Tensor
from ..nn.utils import unit_norms


def max_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, dim: int | tuple[int, ...] | None = None) -> None:
    """Shorten, in place, the weights that lead into a unit to `max_norm` where they are longer.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([[3.0, 4.0], [0.3, 0.4]])
        >>> tg.optim.max_norm_([p], 1.0)
        >>> p.detach()
        tensor([[0.6, 0.8],
                [0.3, 0.4]])

        w <- w * max_norm / |w|               for each unit whose |w| is above max_norm

    Call it after `step()`. Weights may then take large steps without growing for ever: it goes well with dropout and
    large learning rates. By default a unit is a row: weights are [out, in, ...], as in `Linear` and the built-in
    recurrent layers. The weights of a cell of your own that computes `x @ W` are [in, out]: use `dim=0`. Parameters
    of fewer than two dimensions, biases say, lead into no unit and are passed over.

        optimizer.step()
        tg.optim.max_norm_(model.parameters(), 3.0)

    Args:
        parameters: a parameter or several.
        max_norm: the longest that the weights of a unit may be; 3 to 4 in the second source.
        dim: the dimensions of one unit's weights.

    Raises:
        ValueError: `max_norm` is negative or NaN.
        IndexError: a parameter has no such `dim`. None has been changed.

    Sources: Hinton, Srivastava, Krizhevsky, Sutskever, Salakhutdinov, "Improving neural networks by preventing
    co-adaptation of feature detectors", 2012; Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", 2014, section 5.1.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm_: max_norm must be at least 0, got {max_norm}")
    weights = [p for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.ndim >= 2]
    norms = [unit_norms(f"max_norm_: a parameter of shape {list(p.shape)}", p.data, dim) for p in weights]
    for p, norm in zip(weights, norms):
        too_long = norm > max_norm
        if too_long.any():
            with np.errstate(invalid="ignore"):  # inf * 0: a weight that is not finite becomes NaN
                p.data[...] = p.data * np.divide(max_norm, norm, out=np.ones_like(norm), where=too_long)
            note_change([p])


@contextlib.contextmanager
def weight_noise(parameters: Tensor | Iterable[Tensor], std: float) -> Iterator[None]:
    """Inside, every weight has a number from N(0, std^2) added to it; afterwards it is what it was, to the last bit.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter(tg.ones(1000))
        >>> with tg.optim.weight_noise([p], 0.1):
        ...     0.08 < p.std().item() < 0.12
        True
        >>> p.std().item()
        0.0

        with tg.optim.weight_noise(model.parameters(), std=0.075):
            loss = criterion(model(x), target)
            loss.backward()                   # the gradient at the noisy weights
        optimizer.step()                      # moves the weights without noise

    Forward and backward pass belong inside, one of each: the noise is drawn once. `step()` belongs outside, or what it
    changed is lost. The weights come back on an error too. The noise comes from the library's generator: `manual_seed`
    repeats it. Parameters that are not learned (`requires_grad` is False) get none.

    Raises:
        ValueError: std is negative, NaN or infinite.

    Sources: Graves, "Practical variational inference for neural networks", 2011; with this use and std = 0.075, Graves,
    Mohamed, Hinton, "Speech recognition with deep recurrent neural networks", 2013.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"weight_noise: std must be at least 0 and finite, got {std}")
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    noisy = {id(p): p for p in given if p.requires_grad}  # a weight that is named twice gets one number
    kept = [(p.data, p.data.copy()) for p in noisy.values()]
    try:
        for array, _ in kept:
            array += std * generator().standard_normal(array.shape, dtype=array.dtype)
        note_change(noisy.values())
        yield
    finally:
        for array, before in kept:
            array[...] = before
        note_change(noisy.values())
