"""Without PyTorch every module here is skipped, in one line that says why and what to do."""

from importlib.util import find_spec

import pytest

MISSING = [name for name in ("torch", "expecttest") if find_spec(name) is None]
SKIPPED = f"comparing with PyTorch needs {' and '.join(MISSING)}: pip install torch==2.13.0 expecttest"


class WithoutTorch(pytest.Module):
    """A test module that is not imported."""

    def collect(self):
        pytest.skip(SKIPPED, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return WithoutTorch.from_parent(parent, path=module_path) if MISSING else None


def pytest_terminal_summary(terminalreporter):
    """How much was compared: "no failure" alone does not say."""
    if MISSING:
        return
    from torch_oracle.tally import TALLY

    for what, counts in TALLY.items():
        terminalreporter.write_line(f"{what}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
