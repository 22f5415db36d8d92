"""Values that hold for a sequence, against a loop over time in PyTorch: every value and gradient, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from fusion.keyword_cells import MATHS

from torch_oracle import keywords
from torch_oracle.torch_keywords import ask


@pytest.mark.parametrize(("name", "lengths", "reverse"), keywords.CASES)
def test_keywords(name, lengths, reverse):
    expected = ask(name, lengths, reverse)
    for engine in ("never", *["require"] * MATHS[name].fused):
        found = keywords.ours(name, lengths, reverse, engine)
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))
