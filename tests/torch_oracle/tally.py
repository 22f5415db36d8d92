"""How many samples were compared, by kind of test; printed at the end of the run."""

from collections import Counter, defaultdict

TALLY: defaultdict[str, Counter] = defaultdict(Counter)
