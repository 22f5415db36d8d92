"""substitute_words: the word that the signs of the Jacobian ask for, where it is largest, within limits."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.adversarial import substitute_words

V, E, T, B = 30, 4, 6, 5


@pytest.fixture
def net():
    tg.manual_seed(0)
    table = tg.nn.Embedding(V, E, dtype=np.float64)
    rnn, head = tg.nn.LSTM(E, 8, dtype=np.float64), tg.nn.Linear(8, 3, dtype=np.float64)
    rnn.fused = "never"
    for p in (*rnn.parameters(), *head.parameters()):
        p.numpy()[...] *= 3
    words, lengths = tg.randint(0, V, (T, B)).numpy(), np.array([6, 2, 1, 5, 6])
    return lambda x: head(rnn(x, lengths=lengths)[1][0][-1]), table, words, lengths


def by_hand(scores, table, words, lengths, b):
    """The first substitution of one text, word by word of the dictionary."""
    x = tg.tensor(table[words], requires_grad=True)
    f = scores(x)
    y = f.numpy()[b].argmax()
    (J,) = tg.grad(f[b, y], [x])
    J = J.numpy()[:, b]
    t = max(range(lengths[b]), key=lambda t: np.linalg.norm(J[t]))
    old, best = words[t, b], None
    for z in range(len(table)):
        difference = table[old] - table[z]
        key = np.linalg.norm(np.sign(difference) - np.sign(J[t])), -(difference @ J[t])
        if z != old and (best is None or key < best[0]):
            best = key, z
    return t, best[1]


def test_the_first_word_is_the_one_that_the_paper_says(net):
    scores, table, words, lengths = net
    found = substitute_words(scores, words, table, most=1, lengths=lengths)
    assert (found.changed.sum(0) == 1).all() and (found.changed == (found.words != words)).all()
    for b in range(B):
        t, z = by_hand(scores, table.weight.numpy(), words, lengths, b)
        assert found.changed[t, b] and found.words[t, b] == z


def test_texts_are_changed_until_their_class_is(net):
    scores, table, words, lengths = net
    classes = lambda words: scores(table(words)).numpy().argmax(1)
    before = words.copy()
    for table_or_weight in (table, table.weight.numpy()):
        found = substitute_words(scores, words, table_or_weight, lengths=lengths)
        assert (found.fooled == (classes(found.words) != classes(words))).all() and found.fooled.sum() >= 3
        assert (found.words[~found.changed] == words[~found.changed]).all() and (words == before).all()
        assert not found.changed[np.arange(T)[:, None] >= lengths].any()
        for b in np.flatnonzero(found.fooled):  # no later than needed
            fewer = substitute_words(scores, words, table, lengths=lengths, most=found.changed[:, b].sum() - 1)
            assert not fewer.fooled[b]
    assert all(p.grad is None for p in table.parameters())
    none = substitute_words(scores, words, table, most=0)
    assert (none.words == words).all() and not none.changed.any() and not none.fooled.any()


def test_only_words_that_are_allowed(net):
    scores, table, words, lengths = net
    found = substitute_words(scores, words, table, lengths=lengths, allowed=[3, 7])
    assert set(found.words[found.changed]) <= {3, 7} and found.changed.any()
    allowed = np.isin(np.arange(V), [3, 7])
    again = substitute_words(scores, words, table, lengths=lengths, allowed=allowed)
    assert (again.words == found.words).all()
    same = substitute_words(scores, np.full((T, B), 3), table, allowed=[3])
    assert (same.words == 3).all() and not same.changed.any()


def test_one_text(net):
    _, table, words, _ = net
    head = tg.nn.Linear(E, 3, dtype=np.float64)
    scores = lambda x: head(x.mean(0)) * 10.0
    one, all_of_them = substitute_words(scores, words[:, 0], table), substitute_words(scores, words, table)
    assert (one.words == all_of_them.words[:, 0]).all() and one.fooled == all_of_them.fooled[0]
    assert one.changed.shape == (T,)


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((np.ones((T, B)),), {}, TypeError, "integer"),
        ((np.full((T, B), V),), {}, IndexError, "none of the 30"),
        ((np.ones((1, T, B), int),), {}, ValueError, r"\[T, B\]"),
        ((np.ones((T, B), int),), dict(allowed=[]), ValueError, "allowed must be|no word"),
        ((np.ones((T, B), int),), dict(allowed=np.zeros(V, bool)), ValueError, "no word is allowed"),
        ((np.ones((T, B), int),), dict(allowed=[V]), ValueError, "allowed must be"),
        ((np.ones((T, B), int),), dict(most=-1), ValueError, "most must be"),
        ((np.ones((T, B), int),), dict(lengths=[1]), ValueError, "lengths has shape"),
    ],
)
def test_errors(net, arguments, options, error, message):
    scores, table, _, _ = net
    with pytest.raises(error, match=message):
        substitute_words(scores, *arguments, table, **options)


def test_errors_of_scores(net):
    _, table, words, _ = net
    for scores, error, message in (
        (lambda x: x, ValueError, "a row for each text"),
        (lambda x: 1, TypeError, "not a tensor"),
        (lambda x: tg.ones(B, 2), RuntimeError, "do not depend on x"),
    ):
        with pytest.raises(error, match=message):
            substitute_words(scores, words, table)
    with pytest.raises(TypeError, match="an Embedding or its table"):
        substitute_words(lambda x: x[0], words, tg.nn.Linear(2, 2))
