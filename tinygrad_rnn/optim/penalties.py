"""Penalties on weights and on activations, as terms to add to the loss.

    loss = criterion(model(x), target) + tg.optim.l2_penalty(model.parameters(), 1e-4)

A penalty is part of the loss: it is in the number that is printed, and its gradient is clipped and rescaled with the
rest. With `SGD` and `Adam` the option `weight_decay=w` adds the gradient of `l2_penalty(parameters, w / 2)`, after
clipping. `AdamW` does not: there every weight loses the same fraction lr * weight_decay of itself at each step,
whereas `Adam` divides the penalty's gradient by the root mean square of the whole gradient, penalty included, so that
weights with steep gradients hardly decay.

Recurrent layers have two penalties of their own, on what they put out (Merity, McCann, Socher, 2017):

    y, state = lstm(x)
    dropped = dropout(y)
    loss = criterion(decoder(dropped), target)
    loss = loss + activation_penalty(dropped, alpha=2.0) + temporal_activation_penalty(y, beta=1.0)
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autograd.operands import is_whole, one_dim
from ..autograd.pointwise import abs, square, where
from ..autograd.reductions import norm
from ..autograd.shapes import cat
from ..autograd.tensor import Tensor


def l1_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum |p|` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.l1_penalty([p], 0.5).item()
        3.5

    Its gradient is `strength * sign(p)`, the same however small p is, and 0 at 0: weights that the loss does not need
    are driven to zero (Tibshirani, 1996), around which they go on swinging by lr * strength.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l1_penalty", parameters, strength, abs)


def l2_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum p^2` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.l2_penalty([p], 0.5).item()
        12.5

    Its gradient is `2 * strength * p`: weights are kept small in proportion to their size (Hoerl, Kennard, 1970). As in
    Keras there is no factor of one half, so `weight_decay=2 * strength` is its like in `SGD` and `Adam`, but not in
    `AdamW`.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l2_penalty", parameters, strength, square)


def elastic_net_penalty(parameters: Tensor | Iterable[Tensor], l1: float, l2: float) -> Tensor:
    """`l1 * sum |p| + l2 * sum p^2` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.elastic_net_penalty([p], l1=1.0, l2=0.5).item()  # 7 + 12.5
        19.5

    The second term spreads what the first would give to one of several weights that are alike (Zou, Hastie, 2005).

    Raises:
        ValueError: a strength is negative, NaN or infinite, or there are no parameters.
    """
    _check_strength("elastic_net_penalty", l1=l1, l2=l2)
    both = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return _penalty("elastic_net_penalty", both, l1, abs) + _penalty("elastic_net_penalty", both, l2, square)


def nuclear_norm_penalty(factors: Iterable[tuple[Tensor, Tensor]], strength: float) -> Tensor:
    """`strength * sum (|U|^2 + |V|^2) / 2` over pairs of matrices, which drives their products U V to low ranks.

        >>> import tinygrad_rnn as tg
        >>> U, V = tg.nn.Parameter([[3.0], [0.0]]), tg.nn.Parameter([[0.0, 1.0]])
        >>> tg.optim.nuclear_norm_penalty([(U, V)], strength=0.1)
        tensor(0.5, grad_fn=mul)

    The smallest value over all U, V with U V = W is strength times the nuclear norm of W, the sum of its singular
    values (Srebro, Rennie, Jaakkola, 2005). Train a matrix as two factors with this penalty, then cut the product, as
    `nn.utils.compress` does (Kliegl, Goyal, Zhao, Srinet, Shoeybi, "Trace norm regularization and faster inference for
    embedded speech recognition RNNs", 2017).

    Raises:
        ValueError: `strength` is negative, NaN or infinite, there are no pairs, or a pair has no product.
    """
    pairs = list(factors)
    for U, V in pairs:
        if U.ndim != 2 or V.ndim != 2 or U.shape[1] != V.shape[0]:
            raise ValueError(
                f"nuclear_norm_penalty: expected two matrices whose product there is, got {list(U.shape)} and "
                f"{list(V.shape)}"
            )
    return _penalty("nuclear_norm_penalty", [p for pair in pairs for p in pair], 0.5 * strength, square)


def activation_penalty(h: Tensor, alpha: float) -> Tensor:
    """AR, activation regularization: `alpha * mean h^2`, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> tg.optim.activation_penalty(tg.tensor([1.0, 3.0]), 2.0).item()  # 2 (1 + 9) / 2
        10.0

    Keeps activations small. The paper takes the output of the last recurrent layer as the next one sees it, after
    dropout, so that what was dropped is not penalised.

    Args:
        h: activations of any shape, such as [T, B, H].
        alpha: the strength; 2 in Merity, Keskar, Socher, 2018.

    Raises:
        ValueError: `alpha` is negative, NaN or infinite, or h is empty.

    Source: Merity, McCann, Socher, "Revisiting activation regularization for language RNNs", 2017. The paper writes a
    norm; this is the mean square of the authors' code.
    """
    _check_strength("activation_penalty", alpha=alpha)
    if not h.numel():
        raise ValueError(f"activation_penalty: there are no activations in a tensor of shape {list(h.shape)}")
    return square(h).mean() * alpha


def temporal_activation_penalty(h: Tensor, beta: float, dim: int = 0) -> Tensor:
    """TAR, temporal activation regularization: `beta * mean (h[t + 1] - h[t])^2`, a tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> h = tg.tensor([[0.0], [1.0], [3.0]])
        >>> tg.optim.temporal_activation_penalty(h, 2.0).item()  # 2 (1 + 4) / 2
        5.0

    Keeps a state from changing more than it has to, step by step. The paper takes the output of the last recurrent
    layer before dropout, which would be a change at every step.

    Args:
        h: the output of a recurrent layer, [T, B, H].
        beta: the strength; 1 in Merity, Keskar, Socher, 2018.
        dim: the dimension of time; 1 for batch_first.

    Returns:
        The penalty; 0 for a single step, which has nothing to differ from.

    Raises:
        ValueError: `beta` is negative, NaN or infinite, or h is empty.
        IndexError: h has no such dimension.

    Source: Merity, McCann, Socher, "Revisiting activation regularization for language RNNs", 2017. The paper writes a
    norm; this is the mean square over all changes of the authors' code.
    """
    _check_strength("temporal_activation_penalty", beta=beta)
    dim = one_dim("temporal_activation_penalty", dim, h.ndim)
    if not h.ndim or not h.numel():
        raise ValueError(f"temporal_activation_penalty: there are no steps in a tensor of shape {list(h.shape)}")
    if h.shape[dim] == 1:
        return (h * 0).sum()
    ahead = (slice(None),) * dim
    return square(h[(*ahead, slice(1, None))] - h[(*ahead, slice(None, -1))]).mean() * beta


def norm_stabilizer_penalty(
    h: Tensor, beta: float, dim: int = 0, *, initial: Tensor | None = None, lengths: Any = None
) -> Tensor:
    """`beta * mean (|h[t]| - |h[t - 1]|)^2`, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> h = tg.tensor([[[3.0, 4.0]], [[0.0, 7.0]], [[1.0, 0.0]]])  # of lengths 5, 7, 1
        >>> norm_stabilizer_penalty(h, beta=1.0)
        tensor(20.)

    Keeps the length of a state as it is, whatever its direction does, so that it does not grow beyond the sequences
    that it was trained with; an RNN of ReLUs that starts as the identity does. The paper penalises h, not c, of an
    LSTM.

    Args:
        h: the output of a recurrent layer, [T, B, H].
        beta: the strength; 50 to 500 in the paper, for characters.
        dim: the dimension of time; 1 for batch_first.
        initial: the state before the first step, [B, H], from which the paper counts; without it there are T - 1
            differences.
        lengths: [B], if sequences end earlier: differences beyond do not count.

    Returns:
        The mean over all steps and sequences; 0 if there is no difference.

    Raises:
        ValueError: `beta` is negative, NaN or infinite, h is empty, or there is not a length for each sequence, from 0
            to the number of steps.
        IndexError: h has no such dimension.

    Source: Krueger and Memisevic, "Regularizing RNNs by stabilizing activations", 2016.
    """
    _check_strength("norm_stabilizer_penalty", beta=beta)
    dim = one_dim("norm_stabilizer_penalty", dim, h.ndim)
    if dim == h.ndim - 1 or not h.numel():
        raise ValueError(f"norm_stabilizer_penalty: there are no steps in dimension {dim} of shape {list(h.shape)}")
    norms = norm(h, dim=-1).transpose(0, dim)  # [T, B]
    if initial is not None:
        norms = cat([norm(initial, dim=-1).unsqueeze(0), norms])
    steps = norms.shape[0] - 1
    changes = square(norms[1:] - norms[:-1])
    if lengths is None:
        return changes.mean() * beta if steps else (norms * 0).sum()
    ends = np.asarray(lengths)
    if ends.shape != norms.shape[1:] or ends.ndim != 1:
        raise ValueError(
            f"norm_stabilizer_penalty: lengths has shape {list(ends.shape)}, expected one for each sequence: "
            f"{list(norms.shape[1:])}"
        )
    T = h.shape[dim]
    if ends.dtype.kind not in "iu" or ((ends < 0) | (ends > T)).any():
        raise ValueError(f"norm_stabilizer_penalty: lengths must be integers from 0 to {T}, got {ends.tolist()}")
    runs = np.arange(steps)[:, None] < ends.astype(np.int64) - (initial is None)
    return where(runs, changes, 0).sum() * (beta / max(int(runs.sum()), 1))


def soft_orthogonality_penalty(parameters: Tensor | Iterable[Tensor], strength: float, blocks: int = 1) -> Tensor:
    """`strength * |W^T W - 1|^2` summed over all matrices, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> soft_orthogonality_penalty(tg.tensor([[2.0, 0.0], [0.0, 1.0]]), strength=0.1)
        tensor(0.9)

    Draws recurrent weights towards matrices that change no length, neither of states nor of gradients, and lets them
    be others where the loss wants that. Its gradient is `4 strength W (W^T W - 1)`. See
    `nn.utils.parametrizations.orthogonal` for weights that are orthogonal at every step.

    Args:
        parameters: matrices [M, N], of which the columns are to be orthonormal: hand over `W.T` for rows.
        blocks: into how many parts of as many rows each is cut first: 4 for an LSTM's weight_hh, 3 for a GRU's.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, there are no parameters, or one is no matrix that can be
            cut so.

    Source: Vorontsov, Trabelsi, Kadoury and Pal, "On orthogonality and learning recurrent networks with long term
    dependencies", 2017, section 3.2.
    """

    if not is_whole(blocks) or blocks < 1:
        raise ValueError(f"soft_orthogonality_penalty: blocks must be a whole number from 1, not {blocks!r}")

    def of(W: Tensor) -> Tensor:
        if W.ndim != 2 or W.shape[0] % blocks:
            raise ValueError(
                f"soft_orthogonality_penalty: expected a matrix of {blocks} blocks of rows, got shape {list(W.shape)}"
            )
        parts = W.reshape(blocks, W.shape[0] // blocks, W.shape[1])
        return square(parts.mT @ parts - Tensor(np.eye(W.shape[1], dtype=W.dtype)))

    return _penalty("soft_orthogonality_penalty", parameters, strength, of)


def _check_strength(name: str, **strengths: float) -> None:
    for what, strength in strengths.items():
        if not 0 <= strength < math.inf:
            raise ValueError(f"{name}: {what} must be at least 0 and finite, got {strength}")


def _penalty(
    name: str, parameters: Tensor | Iterable[Tensor], strength: float, of: Callable[[Tensor], Tensor]
) -> Tensor:
    _check_strength(name, strength=strength)
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not parameters:
        raise ValueError(f"{name}: no parameters; was model.parameters() used up before?")
    return functools.reduce(operator.add, (of(p).sum() for p in parameters)) * strength
