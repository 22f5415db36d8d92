"""Whether a cell becomes kernels that do what the tape does; and what both refuse."""

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state, tensor
from ..autograd.tape import no_grad
from .lines import line_of_step
from .subject import Found, Subject, close


def check_compiles(s: Subject) -> Found:
    """The cell becomes kernels; or the reason why not is one that names the line."""
    if s.why_not:
        s.report.notes.append(f"runs on the tape, step by step: {s.why_not}")
        if "fault of tinygrad_rnn" in s.why_not:
            yield (s.why_not,)


def check_engines(s: Subject) -> Found:
    """Kernels and tape agree in results and all gradients, in float64: in eval mode, and with the same noise in
    training."""
    if s.why_not:
        s.report.untried.append("engines")
        return
    names = ["y", *(f"final {n}" for n in s.cell.state_names), "dx", *(f"d{n}" for n in s.cell.state_names)]
    for training in (False, True):
        s.cell.train(training)
        drawn = get_rng_state()
        there = s.gradients("require")
        set_rng_state(drawn)
        here = s.gradients("never")
        set_rng_state(drawn)
        for name, a, b in zip([*names, *(f"d{n}" for n in s.learned())], there, here):
            if not close([a], [b]):
                told = f"differs from the tape's by {np.max(np.abs(a - b)):.2g}{' in training' * training}"
                yield f"{name} of the kernels {told}: please report it", line_of_step(s.cell)


def check_validation(s: Subject) -> Found:
    """What does not fit is refused with a ValueError or TypeError, in both engines."""
    states = s.hx()
    wider = tensor(np.concatenate([s.x().data, s.x().data], 2))
    narrow = tuple(tensor(state.data[:, :-1]) if state.ndim > 1 else state for state in states)
    tried = {
        f"x of {2 * s.I} features, where it was made for {s.I}": (wider, None),
        f"{len(states) + 1} initial states": (s.x(), (*states, states[0])),
        "initial states that are too narrow": (s.x(), narrow),
        "initial states of another batch size": (s.x(), tuple(tensor(state.data[:1]) for state in states)),
    }
    for what, (x, hx) in tried.items():
        if hx is narrow and all(a.shape == b.shape for a, b in zip(narrow, states)):
            continue
        for engine in s.engines:
            try:
                with no_grad():
                    s.run(engine, x, hx)
            except (ValueError, TypeError):
                continue
            except Exception as error:
                yield f"{what}: refused by {type(error).__name__} rather than ValueError ({error})", line_of_step(
                    s.cell
                )
                break
            lead = "write self.input_size = input_size in __init__" if "features" in what else "let `begin` check it"
            yield f"{what}: taken without a word; {lead}", line_of_step(s.cell, method="__init__")
            break
