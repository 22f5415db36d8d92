"""substitute_words: other words in a text, chosen by the signs of a Jacobian, until a classifier changes its mind."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..autograd.gradients import grad
from ..autograd.operands import as_array, as_tensor, integers, is_whole
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.module import Module
from ..nn.recurrent import check_lengths
from .slopes import standing_still

WHO = "substitute_words"


class Substitution(NamedTuple):
    """What `substitute_words` did, for each text of a batch.

        >>> found = Substitution(np.array([[3], [5]]), np.array([[False], [True]]), np.array([True]))
        >>> found.words[found.changed], found.fooled.mean()  # the words that were put in, and the share of fooled texts
        (array([5]), np.float64(1.0))

    Attributes:
        words: [T, B], the texts afterwards.
        changed: [T, B], whether a word was changed.
        fooled: [B], whether the class is another one now.
    """

    words: np.ndarray
    changed: np.ndarray
    fooled: np.ndarray


def substitute_words(
    scores: Callable[[Tensor], Any], words: Any, embedding: Any, *, most: int | None = None, allowed: Any = None,
    lengths: Any = None, model: Any = None,
) -> Substitution:  # fmt: skip
    """Change words of a text, one after the other, until its class changes (Papernot, McDaniel, Swami, Harang, 2016).

        J = df_y / dx at position t,  y the class at first       the forward derivative, of the unfolded graph
        z = argmin over the dictionary of || sign(x[t] - z) - sign(J[t]) ||_2

    No word lies exactly where a gradient leads; this one differs from the old word in the direction in which f_y falls,
    feature by feature. J is computed anew after each word. The paper leaves open which position comes next: here it is
    the one with the largest ||J[t]||_2 of those that are unchanged. Among words that are as near, it is the one with
    which f_y falls most to first order.

        >>> import tinygrad_rnn as tg
        >>> table, rnn, head = tg.nn.Embedding(50, 8), tg.nn.LSTM(8, 16), tg.nn.Linear(16, 2)
        >>> scores = lambda x: head(rnn(x)[0][-1])
        >>> found = tg.adversarial.substitute_words(scores, tg.randint(0, 50, (7, 3)), table, most=2)
        >>> found.words.shape, bool((found.changed.sum(0) <= 2).all())
        ((7, 3), True)

    Args:
        scores: a function of the embedded texts [T, B, E] that returns f, [B, C]: logits or probabilities, a row for
            each text that does not depend on the others.
        words: [T, B] integers, or [T] for one text.
        embedding: the dictionary: an Embedding, or its table [V, E].
        most: how many words of a text may be changed; all by default.
        allowed: [V] booleans, or integers: the words that may be put in. Leave out padding and the sign of the end.
        lengths: [B] integers; what lies beyond the end of a text is not changed.
        model: modules that `scores` calls without naming them, to be in eval mode meanwhile.

    Returns:
        A `Substitution`; without the batch dimension for one text.

    Raises:
        TypeError: words are no integers, or scores returns no tensor.
        ValueError: shapes do not fit, or no word is allowed.
        IndexError: a word is not in the dictionary.
        RuntimeError: the scores do not depend on x, or their gradient is not finite.
    """
    table = _table(embedding)
    given = integers(WHO, words)
    if given.ndim not in (1, 2) or not given.size:
        raise ValueError(f"{WHO}: words must be [T, B] or [T], not {list(given.shape)}")
    texts = np.array(given if given.ndim == 2 else given[:, None])
    T, B = texts.shape
    wrong = texts[(texts < 0) | (texts >= len(table))]
    if wrong.size:
        raise IndexError(f"{WHO}: word {wrong[0]} is none of the {len(table)} in the dictionary")
    ends = np.full(B, T) if lengths is None else check_lengths(WHO, lengths, T, B)
    dictionary = _allowed(allowed, len(table))
    budget = T if most is None else most
    if not is_whole(budget) or budget < 0:
        raise ValueError(f"{WHO}: most must be an integer that is not negative, not {most!r}")

    changed = np.zeros((T, B), bool)
    within = np.arange(T)[:, None] < ends
    with standing_still(scores, (model, embedding)):
        at_first = _classes(scores, table[texts])
        fooled = np.zeros(B, bool)
        for _ in range(min(budget, T)):
            active = np.flatnonzero(~fooled & (within & ~changed).any(0))
            if not active.size:
                break
            J = _jacobian(scores, table[texts], at_first)
            steep = np.where(within & ~changed, np.square(J, dtype=np.float64).sum(-1), -1.0)
            for b in active:
                t = steep[:, b].argmax()
                texts[t, b] = _substitute(table, dictionary, texts[t, b], J[t, b])
                changed[t, b] = True
            fooled = _classes(scores, table[texts]) != at_first
    changed &= texts != (given if given.ndim == 2 else given[:, None])
    if given.ndim == 1:
        return Substitution(texts[:, 0], changed[:, 0], fooled[0])
    return Substitution(texts, changed, fooled)


def _substitute(table: np.ndarray, dictionary: np.ndarray, word: int, slope: np.ndarray) -> int:
    """The word of the dictionary whose difference has the signs of the slope, in as many features as there is one."""
    others = dictionary[dictionary != word]
    if not others.size:
        return word
    differences = table[word] - table[others]
    apart = np.square(np.sign(differences) - np.sign(slope)).sum(1)
    nearest = np.flatnonzero(apart == apart.min())
    falls = differences[nearest].astype(np.float64) @ slope.astype(np.float64)
    return int(others[nearest[falls.argmax()]])


def _jacobian(scores: Any, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The row of each text's Jacobian that belongs to its class, [T, B, E]: of a sum, as texts do not meet."""
    here = Tensor(x).requires_grad_()
    f = _checked(scores(here), len(classes))
    if f.node is None:
        raise RuntimeError(f"{WHO}: the scores do not depend on x")
    (J,) = grad(f[np.arange(len(classes)), classes].sum(), [here])
    if not np.isfinite(J.numpy()).all():
        raise RuntimeError(f"{WHO}: the Jacobian of the scores is not finite")
    return J.numpy()


def _classes(scores: Any, x: np.ndarray) -> np.ndarray:
    with no_grad():
        return _checked(scores(Tensor(x)), x.shape[1]).numpy().argmax(1)


def _checked(f: Any, B: int) -> Tensor:
    if not isinstance(f, Tensor):
        raise TypeError(f"{WHO}: scores returned {type(f).__name__}, not a tensor")
    if f.ndim != 2 or f.shape[0] != B or f.shape[1] < 2:
        raise ValueError(f"{WHO}: scores must return [{B}, C] with C > 1, a row for each text, not {list(f.shape)}")
    return f


def _table(embedding: Any) -> np.ndarray:
    """The vectors of all words, [V, E]: those that the module looks up when it is asked for every word."""
    if isinstance(embedding, Module):
        if not hasattr(embedding, "num_embeddings"):
            raise TypeError(f"{WHO}: embedding must be an Embedding or its table, not {type(embedding).__name__}")
        with standing_still(embedding, None), no_grad():
            return embedding(np.arange(embedding.num_embeddings)).numpy()
    table = as_tensor(embedding).numpy()
    if table.ndim != 2 or table.dtype.kind != "f":
        raise ValueError(f"{WHO}: the table of an embedding is [V, E] of floats, not {list(table.shape)}")
    return table


def _allowed(allowed: Any, V: int) -> np.ndarray:
    """The numbers of the words that may be put in."""
    if allowed is None:
        return np.arange(V)
    chosen = as_array(allowed)
    if chosen.dtype == bool:
        if chosen.shape != (V,):
            raise ValueError(f"{WHO}: allowed has shape {list(chosen.shape)}, expected one for each word: [{V}]")
        chosen = np.flatnonzero(chosen)
    elif chosen.dtype.kind not in "iu" or chosen.ndim != 1 or ((chosen < 0) | (chosen >= V)).any():
        raise ValueError(f"{WHO}: allowed must be [{V}] booleans, or integers from 0 to {V - 1}")
    if not chosen.size:
        raise ValueError(f"{WHO}: no word is allowed")
    return np.unique(chosen)
