"""Settings every test shares: no window for a plot, property tests that CI can repeat, and a flag for golden files."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib; a user's own setting wins

# A first call compiles, so neither a deadline nor "too slow" would say anything about the test.
settings.register_profile(
    "default", deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption(
        "--refresh-golden", action="store_true", help="write the generated source that tests compare with anew"
    )
    parser.addoption("--part", default="0/1", metavar="K/N", help="of the long tests every N-th, from the K-th on")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Tests of seconds that repeat, at another size or of another cell, what a quick one proves: run by -m slow."""
    long = set(Path(__file__).with_name("long_tests.txt").read_text(encoding="utf-8").split("\n"))
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name in long or name.partition("[")[0] in long:
            item.add_marker(pytest.mark.slow)
    part, parts = map(int, config.getoption("--part").split("/"))
    left = {item for k, item in enumerate(i for i in items if i.get_closest_marker("slow")) if k % parts != part}
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]
