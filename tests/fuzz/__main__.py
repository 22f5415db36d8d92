"""python -m fuzz [--compiled] FIRST LAST: the cases of these seeds; failures are printed, and counts at the end."""

import collections
import sys
import time

from fuzz import fuzzing
from fuzz.cases import case


def main(arguments):
    compiled = "--compiled" in arguments
    brief = "--brief" in arguments
    first, last = (int(a) for a in arguments if not a.startswith("--"))
    counts, reasons, start = collections.Counter(), collections.Counter(), time.monotonic()
    for seed in range(first, last):
        drawn = case(seed, compiled)
        try:
            result = fuzzing.check(drawn, compiled)
        except Exception as error:
            result = "FAILED"
            print(f"==== {seed}: {type(error).__name__}:", "; ".join(str(error).strip().splitlines()[:3]), flush=True)
            if not brief:
                print(fuzzing.explained(drawn, compiled, error), flush=True)
        kind, _, reason = result.partition(": ")
        counts[kind] += 1
        if reason:
            reasons[reason.partition(": ")[2].partition("(")[0][:60]] += 1
    print(dict(counts), f"{time.monotonic() - start:.0f} s")
    for reason, count in reasons.most_common(12):
        print(f"{count:5} {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
