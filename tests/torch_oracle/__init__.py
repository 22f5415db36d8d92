"""tinygrad_rnn against PyTorch: the same inputs to both, every value and every gradient compared.

In reading order:

    cases.py            a call as plain data, how tinygrad_rnn makes it, how outcomes are compared (no PyTorch)
    vectors.py          trees of arrays <-> one small .npz file (no PyTorch)
    samples.py          PyTorch's own samples of each op (OpInfo) as such calls, with what PyTorch answers
    refusals.py         the samples that tinygrad_rnn refuses on purpose, each with its reason
    recurrent.py        the same for modules: one set of weights, two libraries
    schedules.py        the same for learning rates under a schedule (no PyTorch)
    keywords.py         the same for steps that take values for a sequence by name (no PyTorch)
    test_*.py           the comparisons; test_regularisers.py writes the papers' formulas out in PyTorch
    make_reference.py   writes tests/reference/*.npz, which tests/test_reference.py replays without PyTorch

Rule: none wrong. What tinygrad_rnn does not support is refused with an error that names the op, and is listed.
"""
