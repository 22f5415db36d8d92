"""Training against changes of the input: losses at the worst nearby embedding, with labels and without."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.creation import generator
from ..autograd.gradients import grad
from ..autograd.operands import as_tensor, is_whole
from ..autograd.pointwise import rsqrt, square
from ..autograd.reductions import log_softmax
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.functional import embedding
from ..nn.layers import Embedding
from .attacks import one_step
from .ball import AUTO, Ball, check_size, exactly
from .slopes import numbers_of, standing_still


def adversarial_loss(
    loss: Callable[[Tensor], Any], x: Any, epsilon: float, *, norm: float = 2, mask: Any = None, lengths: Any = None,
    bounds: Any = None, batch_dim: Any = AUTO, model: Any = None,
) -> Tensor:  # fmt: skip
    """The loss at the worst change to first order (Goodfellow et al., 2015; of embeddings: Miyato et al., 2017).

        L(x + r),   r = epsilon g / ||g||_2,   g = dL/dx

    r is a constant: no derivative is taken through it. The norm goes over time and features of one sequence. The
    direction is found with the model in eval mode and its parameters left alone, the loss that is returned in the
    model's own mode, with gradients for the parameters, and through x for what it was computed from.

        >>> import tinygrad_rnn as tg
        >>> table, rnn, head = tg.nn.Embedding(50, 8), tg.nn.LSTM(8, 16), tg.nn.Linear(16, 2)
        >>> def loss(x):
        ...     return tg.cross_entropy(head(rnn(x)[0][-1]), [0, 1])
        >>> x = table(tg.randint(0, 50, (7, 2)))
        >>> total = loss(x) + tg.adversarial.adversarial_loss(loss, x, epsilon=1.0)
        >>> total.backward()
        >>> table.weight.grad is not None
        True

    Embeddings must not be able to outgrow epsilon: normalise them, see `NormalisedEmbedding`. Miyato et al. take
    epsilon 5 for sequences of at most 400 words with 256 features each.

    Args:
        loss, x, epsilon, mask, lengths, bounds, batch_dim, model: as for `fgsm`; x keeps its place on the tape.
        norm: 2, or inf for r = epsilon sign(g).

    Returns:
        What `loss` returns.

    Raises: as `fgsm`.
    """
    who = "adversarial_loss"
    x = as_tensor(x)
    allowed = dict(mask=mask, lengths=lengths, batch_dim=batch_dim, bounds=bounds)
    _, r = one_step(who, loss, numbers_of(who, x), epsilon, norm, model, allowed)
    return loss(x + Tensor(r))


def virtual_adversarial_loss(
    scores: Callable[[Tensor], Any], x: Any, epsilon: float, *, xi: float = 0.1, iterations: int = 1, mask: Any = None,
    lengths: Any = None, batch_dim: Any = AUTO, model: Any = None,
) -> Tensor:  # fmt: skip
    """How much the prediction changes at the worst change of x, which needs no labels (Miyato et al., 2017, 2018).

        mean over the batch of KL(p(x) || p(x + r)),   p = softmax(scores),   r as `virtual_adversarial_change` finds it

    p(x) and r are constants. p(x) is taken in eval mode, p(x + r) in the model's own.

        >>> import tinygrad_rnn as tg
        >>> rnn, head = tg.nn.GRU(3, 8), tg.nn.Linear(8, 4)
        >>> scores = lambda x: head(rnn(x, lengths=[6, 2])[1][-1])
        >>> loss = tg.adversarial.virtual_adversarial_loss(scores, tg.randn(6, 2, 3), 0.5, lengths=[6, 2])
        >>> loss.item() >= 0
        True

    Args:
        scores: a function of x alone that returns logits [B, C], one row for each sequence and C > 1 classes.
        x, epsilon, mask, batch_dim, model: as for `fgsm`; x keeps its place on the tape.
        xi, iterations: see `virtual_adversarial_change`.
        lengths: [B] integers; what lies beyond is not changed. Miyato et al. leave the last word alone as well, the
            sign of the end: give lengths - 1 for that.

    Raises: as `fgsm`, and ValueError if scores are not [B, C].
    """
    who = "virtual_adversarial_loss"
    x = as_tensor(x)
    change, log_p = _virtual_change(who, scores, x, epsilon, xi, iterations, mask, lengths, batch_dim, model)
    return _divergence(log_p, _log_probabilities(who, scores, x + Tensor(change))).mean()


def virtual_adversarial_change(
    scores: Callable[[Tensor], Any], x: Any, epsilon: float, *, xi: float = 0.1, iterations: int = 1, mask: Any = None,
    lengths: Any = None, batch_dim: Any = AUTO, model: Any = None,
) -> Tensor:  # fmt: skip
    """The change of x, of 2-norm epsilon, that changes the prediction most, to second order (Miyato et al., 2018).

        d = xi u / ||u||_2,   u = a normal random vector, then, `iterations` times, the gradient of KL(p(x) || p(x + d))
        r = epsilon u / ||u||_2

    The gradient at d is about H d, with H the Hessian of the divergence at d = 0, where its gradient vanishes: this is
    the power method for the largest eigenvector of H, with first derivatives alone. For scores W x it is that of
    W^T (diag(p) - p p^T) W.

        >>> import tinygrad_rnn as tg
        >>> W = tg.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> r = tg.adversarial.virtual_adversarial_change(lambda x: x @ W.T, tg.zeros(1, 2), 3.0, batch_dim=0)
        >>> r.abs()
        tensor([[3., 0.]])

    Args, Raises: as for `virtual_adversarial_loss`, and
        xi: how far the gradient is taken from x: small, yet large enough for differences of p to be seen in its dtype.
        iterations: of the power method.

    Returns:
        r, like x; its sign is random.
    """
    who = "virtual_adversarial_change"
    x = as_tensor(x)
    return Tensor(_virtual_change(who, scores, x, epsilon, xi, iterations, mask, lengths, batch_dim, model)[0])


def _virtual_change(
    who: str, scores: Any, x: Tensor, epsilon: float, xi: float, iterations: int, mask: Any, lengths: Any,
    batch_dim: Any, model: Any,
) -> tuple[np.ndarray, Tensor]:  # fmt: skip
    """r, and log p(x)."""
    data = numbers_of(who, x)
    if not check_size(who, "xi", xi):
        raise ValueError(f"{who}: xi must be positive: the divergence is flat at x")
    if not is_whole(iterations) or iterations < 1:
        raise ValueError(f"{who}: iterations must be a positive integer, not {iterations!r}")
    with standing_still(scores, model) as batch_first:
        ball = Ball(who, data, epsilon, 2, mask=mask, lengths=lengths, batch_dim=batch_dim, batch_first=batch_first)
        with no_grad():
            log_p = _log_probabilities(who, scores, Tensor(data))
        direction = ball.unit(generator().standard_normal(data.shape).astype(data.dtype))
        for _ in range(iterations):
            d = Tensor(data.dtype.type(xi) * direction).requires_grad_()
            divergence = _divergence(log_p, _log_probabilities(who, scores, Tensor(data) + d)).sum()
            if divergence.node is None:
                raise RuntimeError(f"{who}: the scores do not depend on x")
            (g,) = grad(divergence, [d])
            if not np.isfinite(g.numpy()).all():
                raise RuntimeError(f"{who}: the gradient of the divergence is not finite")
            direction = ball.unit(g.numpy())
    return data.dtype.type(ball.epsilon) * direction, log_p


def _log_probabilities(who: str, scores: Any, x: Tensor) -> Tensor:
    z = scores(x)
    if not isinstance(z, Tensor):
        raise TypeError(f"{who}: scores returned {type(z).__name__}, not a tensor")
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(
            f"{who}: scores must return logits [B, C] for C > 1 classes, not {list(z.shape)}: choose the steps that "
            "count and reshape(-1, C); for a single logit z give stack([0 * z, z], -1)"
        )
    return log_softmax(z, 1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return (log_p.exp() * (log_p - log_q)).sum(1)


# ---- Embeddings of a size that an epsilon can be compared with -------------------------------------------------------


def normalised_embedding(weight: Any, frequencies: Any, eps: float = 1e-6) -> Tensor:
    """A table of word vectors whose mean over a text is 0, and whose variance 1 (Miyato, Dai and Goodfellow, 2017).

        v_k' = (v_k - m) / sqrt(s + eps),   m = sum f_k v_k,   s = sum f_k (v_k - m)^2

    for each feature by itself; f is the share of each word in the text. Gradients pass through m and s as well.

        >>> import tinygrad_rnn as tg
        >>> tg.adversarial.normalised_embedding(tg.tensor([[-3.0], [5.0], [1.0]]), [1, 1, 0])
        tensor([[-1.],
                [ 1.],
                [ 0.]])

    Args:
        weight: [V, E].
        frequencies: [V], how often each word occurs, or its share.
        eps: keeps a feature that never varies at 0.

    Raises:
        ValueError: shapes do not fit, or frequencies are negative, not finite or all 0.
    """
    weight = as_tensor(weight)
    f = exactly(frequencies).astype(np.float64)
    if weight.ndim != 2 or f.shape != weight.shape[:1]:
        raise ValueError(
            f"normalised_embedding: expected a weight [V, E] and frequencies [V], got {list(weight.shape)} and "
            f"{list(f.shape)}"
        )
    if not (np.isfinite(f).all() and (f >= 0).all() and f.sum() > 0):
        raise ValueError("normalised_embedding: frequencies must be finite, not negative and not all 0")
    check_size("normalised_embedding", "eps", eps)
    share = Tensor((f / f.sum()).astype(weight.dtype))
    centred = weight - share @ weight
    return centred * rsqrt(share @ square(centred) + eps)


class NormalisedEmbedding(Embedding):
    """An `Embedding` that looks words up in `normalised_embedding(weight, frequencies)`.

    Without it, training against changes of size epsilon makes the vectors grow until epsilon is nothing to them.

        >>> import tinygrad_rnn as tg
        >>> table = tg.adversarial.NormalisedEmbedding(3, 4, frequencies=[5, 3, 2])
        >>> table(tg.tensor([[0, 2], [1, 1]])).shape
        (2, 2, 4)

    Args:
        num_embeddings, embedding_dim, padding_idx, dropout, dtype: as for `Embedding`.
        frequencies: [V], how often each word occurs in the text.

    Attributes:
        frequencies: the share of each word, a buffer.

    Raises: as `normalised_embedding`.

    Source: Miyato, Dai, Goodfellow, "Adversarial training methods for semi-supervised text classification", 2017.
    """

    frequencies: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, frequencies: Any,
        dropout: float = 0.0, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(num_embeddings, embedding_dim, padding_idx, dropout=dropout, dtype=dtype)
        normalised_embedding(self.weight.detach(), frequencies)  # which says what is wrong with them
        f = exactly(frequencies).astype(np.float64)
        self.register_buffer("frequencies", Tensor((f / f.sum()).astype(self.weight.dtype)))

    @property
    def table(self) -> Tensor:
        """The vectors that words are looked up in, [V, E]."""
        return normalised_embedding(self.weight, self.frequencies)

    def forward(self, input: Any) -> Tensor:
        return embedding(input, self.table, self.padding_idx, dropout=self.dropout if self.training else 0.0)
