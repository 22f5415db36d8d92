"""A demo as a module of a test."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMOS = Path(__file__).parent.parent / "demos"


@contextmanager
def loaded(name):
    """demos/NAME.py, imported; afterwards it is forgotten, and what it has imported beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMOS)
        yield importlib.import_module(name)
    for key, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and Path(module.__file__).parent == DEMOS:
            del sys.modules[key]
