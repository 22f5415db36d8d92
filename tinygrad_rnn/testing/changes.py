"""Whether a cell computes with what its attributes are now, in whichever thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..autograd.tape import Node, no_grad
from ..autograd.tensor import Tensor
from .lines import line_of_step
from .subject import Found, Subject, close, equal, words


def check_threads(s: Subject) -> Found:
    """Four threads that call the cell at the same time get the same, bit by bit; step writes to nothing of its own."""
    modules = list(s.cell.modules())
    before = [{n: v for n, v in vars(m).items() if not n.startswith("__")} for m in modules]
    s.run("never", s.x())
    for module, attributes in zip(modules, before):
        for name, value in vars(module).items():
            if name not in attributes or attributes[name] is not value:
                if type(value).__module__.startswith("tinygrad_rnn.fusion"):
                    continue
                yield f"step writes self.{name}, which another thread or call may read: return it as a state", \
                    line_of_step(module, rf"self\.{name}\b")  # fmt: skip
                return
    for engine in s.engines:
        expected = s.gradients(engine)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, e=engine: s.gradients(e), range(4)))
        if not all(equal(one, expected) for one in found):
            yield f"threads that call the cell at the same time get other numbers ({words(engine)})", \
                line_of_step(s.cell, r"self\.\w+ *[+-]?=[^=]|\[.*\] *=[^=]")  # fmt: skip


def check_stale(s: Subject) -> Found:
    """After a change of parameters or attributes both engines compute with the new ones."""
    for name, value in vars(s.cell).items():
        if isinstance(value, Tensor) and isinstance(value.node, Node):
            yield f"self.{name} was computed when the cell was made, and stays as it is while parameters are " \
                "learned: compute it in step", line_of_step(s.cell, rf"self\.{name}\s*=", "__init__")  # fmt: skip
            return
    names, numbers = ["x", *s.cell.state_names, *s.learned()], s.gradients("never")
    slopes, added = dict(zip(names, numbers[len(numbers) - len(names) :])), np.random.default_rng(6)
    for name, p in s.learned().items():
        with no_grad():
            old, before = p.data.copy(), [y.data for y in s.run("never", s.x(), s.hx())]
            p[...] = old + added.uniform(0.05, 0.15, old.shape).astype(old.dtype)  # W - W.T does not see a constant
            after = {engine: [y.data for y in s.run(engine, s.x(), s.hx())] for engine in s.engines}
            p[...] = old
        if slopes[name].any() and equal(before, after["never"]):
            yield f"other numbers in {name} change nothing, though it has a gradient: something that was made of it " \
                "earlier is kept; compute it in step", line_of_step(s.cell, r"cache|self\._")  # fmt: skip
        if not slopes[name].any() and equal(before, after["never"]):
            s.report.notes.append(f"{name} has no part in the results")
        if not close(after.get("require", after["never"]), after["never"]):
            yield f"kernels go on with the old numbers of {name}: please report it", line_of_step(s.cell)
    yield from stale_attributes(s)


def stale_attributes(s: Subject) -> Found:
    """The same for the numbers and switches among the attributes."""
    if s.why_not:
        return
    for module in s.cell.modules():
        for name, value in list(vars(module).items()):
            if name in ("training", "fused", "_fused") or not isinstance(value, (bool, float)):
                continue
            setattr(module, name, not value if isinstance(value, bool) else value * 0.75 + 0.05)
            try:
                with no_grad():
                    tape = [y.data for y in s.run("never", s.x(), s.hx())]
                    fused = [y.data for y in s.run("require", s.x(), s.hx())]
                if not close(fused, tape):
                    yield f"kernels go on with the old self.{name}: please report it", line_of_step(s.cell)
            except Exception:  # such a value is none that this attribute may have
                continue
            finally:
                setattr(module, name, value)
