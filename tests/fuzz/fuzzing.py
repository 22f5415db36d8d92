"""Run a case, make it smaller if it fails, and print it as a program.

python -m fuzz 1000 2000            the cases of these seeds, interpreted
python -m fuzz --compiled 1000 1100
TINYGRAD_RNN_FUZZ_SEED=1234 python -m pytest tests/fuzz
"""

import contextlib
import copy
import importlib
import inspect
import linecache
import re
import time
import traceback
import types
import warnings

import numpy as np
import pytest
from fusion.comparing import interpret
from numba import config

import tinygrad_rnn as tg
from fuzz import judge, running
from fuzz.cases import SETTINGS, Case
from tinygrad_rnn.fusion import scan
from tinygrad_rnn.nn.cells.catalogue import ROWS

FAULTS = "could not be traced|could not be compared|do not compute|fault of tinygrad_rnn"  # rather than refusals
OK, REFUSED, UNSAID = "agree", "refused", "says nothing"


def recurrently_dropped(cell):
    """With recurrent dropout, where the cell has a candidate."""
    if cell._calls("candidate"):
        cell.recurrent_dropout = 0.3
    return cell


def poisoned(shape, dtype=np.float64):
    """What `np.empty` may be at worst."""
    array = np.empty(shape, dtype)
    array.fill(np.nan)
    return array


@contextlib.contextmanager
def world(case: Case, compiled: bool):
    """The settings of a case; kernels are interpreted unless `compiled`; no array is zero by chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "staggered", poison_of(scan.staggered))
        patch.setattr(scan, "np", types.SimpleNamespace(empty=poisoned, zeros=np.zeros, ndarray=np.ndarray))
        if not compiled:
            interpret(patch)
        with applied(case.settings, case.threads):
            yield


@contextlib.contextmanager
def applied(settings, threads):
    """Settings of the library, and a number of threads, which there may be more of than processors."""
    with pytest.MonkeyPatch.context() as patch:
        for name in settings:
            for place, value in SETTINGS[name]:
                module, _, attribute = place.rpartition(".")
                patch.setattr(importlib.import_module(f"tinygrad_rnn.{module}"), attribute, value)
        patch.setattr(config, "NUMBA_NUM_THREADS", max(threads, config.NUMBA_NUM_THREADS))
        before = tg.get_num_threads()
        tg.set_num_threads(threads)
        try:
            yield
        finally:
            tg.set_num_threads(before)


def poison_of(make):
    """A maker of arrays whose arrays are full of NaN."""

    def made(shape, dtype):
        array = make(shape, dtype)
        array.fill(np.nan)
        return array

    return made


def check(case: Case, compiled: bool = False) -> str:
    """What came of a case.

    Raises:
        Exception: the engines differ, or one of them fails where the other does not.
    """
    names = dict(tg=tg, np=np, ROWS=ROWS, recurrently_dropped=recurrently_dropped)
    text, file = case.text(), f"<case {case.seed}>"
    linecache.cache[file] = len(text), None, text.splitlines(True), file
    exec(compile(text, file, "exec"), names)
    dtype = np.dtype(case.dtype)
    with world(case, compiled), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            judge.compare(names["make"], case.calls, dtype, case.noisy)
        except judge.IllConditioned:
            return UNSAID
        except NotImplementedError as error:
            if "cannot be fused" not in str(error) or re.search(FAULTS, str(error)):
                raise
            return f"{REFUSED}: {error}"
    return OK


def failure(case: Case, compiled: bool) -> str | None:
    """The message of the error, if a case fails."""
    try:
        check(case, compiled)
    except Exception as error:
        return said(error)
    return None


def said(error: Exception) -> str:
    """The message of an error, and its kind."""
    return f"{type(error).__name__}: {error}"


# ---- Smaller ---------------------------------------------------------------------------------------------------------


PLAIN = dict(lengths=None, every=False, given=False, layout="plain", mode="grad", wanted="all", loss="all")
PLAIN |= {"twice": False, "second": False, "record": False, "late": False, "engine": "ours", "before": []}
PLAIN |= {"state layout": "plain"}


def smaller(case: Case):
    """Changes that leave something out of a case, the largest first: functions that change one."""
    calls = case.calls
    if len(calls) > 1:
        yield from (lambda c, n=n: c.calls.pop(n) for n in range(len(calls)))
    yield from (lambda c, n=n: c.around.pop(n) for n in range(len(case.around)))
    yield from (lambda c, n=n: c.settings.pop(n) for n in range(len(case.settings)))
    if case.threads > 1:
        yield lambda c: setattr(c, "threads", 1)
    if "reverse=True" in case.layer:
        yield lambda c: setattr(c, "layer", c.layer.replace("reverse=True", "reverse=False"))
    for n, each in enumerate(calls):
        for name, value in PLAIN.items():
            if each[name] != value:
                yield lambda c, n=n, name=name, value=value: c.calls[n].update({name: value})
        for name in ("T", "B"):
            for value in range(1, each[name]):
                lengths = _fitted(each, name, value)
                yield lambda c, n=n, changed={name: value, "lengths": lengths}: c.calls[n].update(changed)
    if case.draft is not None:
        yield from _smaller_step(case.draft)


def _smaller_step(draft):
    """The same for a cell that was drawn: lines that are dropped, or replaced by values of the same width."""
    lines, states = draft.lines, draft.states
    used = " ".join([*(line.text for line in lines), *draft.ends])
    yield from (lambda c, n=n: c.draft.lines.pop(n) for n in reversed(range(len(lines))))
    yield from (lambda c, n=n: c.draft.held.pop(n) for n in reversed(range(len(draft.held))))
    used += " ".join(text for _, _, text in draft.held)
    for n in reversed(range(len(draft.fields))):
        if f"self.{draft.fields[n][0]}" not in used:
            yield lambda c, n=n: c.draft.fields.pop(n)
    sources = [*states.items(), *([("x", draft.inputs[0])] if len(draft.inputs) == 1 else [])]
    for n in reversed(range(len(lines))):
        for name, width in [*sources, *((line.name, line.width) for line in lines[:n])]:
            if width == lines[n].width and not lines[n].text.isidentifier():
                yield lambda c, n=n, name=name: setattr(c.draft.lines[n], "text", name)
    for n, (end, (state, width)) in enumerate(zip(draft.ends, states.items())):
        if end != state:
            yield lambda c, n=n, state=state: c.draft.ends.__setitem__(n, state)
        for line in lines:
            if line.width == width and not end.isidentifier():
                yield lambda c, n=n, line=line: c.draft.ends.__setitem__(n, line.name)
    if draft.learned:
        yield lambda c: setattr(c.draft, "learned", False)


def _fitted(call_, name, value):
    """Lengths for fewer steps or sequences."""
    lengths = call_["lengths"]
    if lengths is None:
        return None
    return lengths[:value] if name == "B" else [min(n, value) for n in lengths]


def shrunk(case: Case, compiled: bool, seconds: float = 60) -> tuple[Case, str | None]:
    """A smaller case that fails in the same way, if one is found, and how; None if the case does not fail now."""
    message, end, at, last = failure(case, compiled), time.monotonic() + seconds, 0, 0
    if message is None:
        return case, None
    while time.monotonic() < end:
        changes = list(smaller(case))
        if at >= len(changes):
            if last == 0:
                break
            at = last = 0
            continue
        other = copy.deepcopy(case)
        changes[at](other)
        found = failure(other, compiled)
        if found is not None and found.split(":")[0] == message.split(":")[0]:
            case, message, last = other, found, 1
        else:
            at += 1
    return case, message


# ---- The program -----------------------------------------------------------------------------------------------------


def program(case: Case) -> str:
    """A file that shows a failure by itself."""
    settings = [(f"tinygrad_rnn.{place}", value) for name in case.settings for place, value in SETTINGS[name]]
    head = ["from tinygrad_rnn.nn.cells.catalogue import ROWS", ""]
    head += [f"import {place.rpartition('.')[0]}" for place, _ in settings]
    head += [f"{place} = {value}" for place, value in settings]
    if case.threads > 1:
        head += ["import numba", "numba.config.NUMBA_NUM_THREADS = 4", f"tg.set_num_threads({case.threads})"]
    shown = ",\n    ".join(map(repr, case.calls))
    tail = f"CALLS = [\n    {shown},\n]\ndtype = np.dtype({case.dtype!r})\n"
    tail += 'apart = distances(run(make, CALLS, "require", dtype), run(make, CALLS, "never", dtype))\n'
    tail += "for key, (difference, scale) in apart.items():\n    print(*key, difference, scale)\n"
    dropped = inspect.getsource(recurrently_dropped) if "recurrently" in " ".join(case.around) else ""
    return "\n".join([inspect.getsource(running), *head, "", dropped, case.text(), "", tail])


def explained(case: Case, compiled: bool, error: Exception, seconds: float = 60) -> str:
    """A failure as it is printed: what happened, the seed, what happens in a smaller case, and a program."""
    small, message = shrunk(case, compiled, seconds)
    if message is None:
        trace = "".join(traceback.format_exception(error))
        message = f"A second time the same case does not fail. The first time it did so:\n\n{trace}"
    return (
        f"{said(error)}\n\nTINYGRAD_RNN_FUZZ_SEED={case.seed} runs it again. As a program, crudely made "
        f"smaller:\n\n{message}\n\n{program(small)}"
    )
