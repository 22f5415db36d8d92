"""When to stop: the held-out loss has not become better for a while."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..nn.module import Module

NUMBERS = ("best", "best_check", "checks", "num_bad_checks")


class EarlyStopping:
    """Stop when a metric has not improved for `patience` checks in a row; may keep the best weights.

        >>> import tinygrad_rnn as tg
        >>> stopping = tg.optim.EarlyStopping(patience=2)
        >>> [stopping.step(loss) for loss in (3.0, 2.0, 2.5, 2.1)]
        [False, False, False, True]
        >>> stopping.best
        2.0

        stopper = tg.optim.EarlyStopping(patience=5, keep=model)
        for epoch in range(100):
            train(model)
            if stopper.step(evaluate(model)):
                break
        stopper.restore()                     # the weights of the best check

    Args:
        patience: how many checks without improvement there may be; the last of them stops.
        min_delta: an improvement is by more than this: below best - min_delta, or with mode "max" above
            best + min_delta.
        mode: "min" where smaller is better, else "max".
        keep: a model whose parameters and buffers are copied at every improvement.

    Attributes:
        best: the best metric so far; inf, or -inf with mode "max", before the first.
        best_check: which check that was, the first one being 0; -1 before.
        checks: how many there have been.
        num_bad_checks: how many of them since the best.
        stopped: whether it is time to stop.

    NaN is no improvement: a run that diverges stops after `patience` checks.

    Raises:
        ValueError: patience is below 1, min_delta is negative or not finite, or mode is neither "min" nor "max".

    Source: Goodfellow, Bengio, Courville, "Deep learning", 2016, algorithm 7.1; min_delta is Keras's.
    """

    def __init__(
        self, patience: int, min_delta: float = 0.0, mode: str = "min", keep: Module | None = None
    ) -> None:
        if not patience >= 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"EarlyStopping: min_delta must be at least 0 and finite, got {min_delta}")
        if mode not in ("min", "max"):
            raise ValueError(f"EarlyStopping: mode must be 'min' or 'max', got {mode!r}")
        self.patience, self.min_delta, self.mode, self.model = patience, min_delta, mode, keep
        self.best = math.inf if mode == "min" else -math.inf
        self.best_check, self.checks, self.num_bad_checks = -1, 0, 0
        self.best_weights: dict[str, np.ndarray] | None = None

    def __repr__(self) -> str:
        options = f"patience={self.patience}, min_delta={self.min_delta}, mode={self.mode!r}"
        return f"EarlyStopping({options})  # best {self.best}, {self.num_bad_checks} checks ago"

    @property
    def stopped(self) -> bool:
        """Whether there was no improvement for `patience` checks."""
        return self.num_bad_checks >= self.patience

    def step(self, metric: Any) -> bool:
        """Take note of a metric, a number.

        Returns:
            Whether it is time to stop. It stays so until a metric is better after all.
        """
        value = float(metric)
        better = value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta
        if better:
            self.best, self.best_check, self.num_bad_checks = value, self.checks, 0
            if self.model is not None:
                self.best_weights = self.model.state_dict()
        else:
            self.num_bad_checks += 1
        self.checks += 1
        return self.stopped

    def restore(self) -> None:
        """Put the weights of the best check back into the model.

        Raises:
            RuntimeError: none were kept: no model was given to keep, or no check was an improvement.
        """
        if self.model is None or self.best_weights is None:
            why = "make it with keep=model" if self.model is None else "no check has been an improvement yet"
            raise RuntimeError(f"EarlyStopping: there are no weights to restore: {why}")
        self.model.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """How far it has come, as numbers that a checkpoint's metadata can hold, and the best weights if any are kept.

        With weights the state holds arrays, for which `save_weights` has a place whenever a check was the best.
        """
        state = {name: getattr(self, name) for name in NUMBERS}
        return state if self.best_weights is None else {**state, "best_weights": copy.deepcopy(self.best_weights)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict()` returned; patience, min_delta and mode stay what they are here.

        Raises:
            ValueError: the state is not one of an EarlyStopping. Nothing is changed.
        """
        missing = [name for name in NUMBERS if name not in state_dict]
        if missing:
            raise ValueError(f"EarlyStopping: the state lacks {', '.join(missing)}")
        for name in NUMBERS:
            if isinstance(state_dict[name], bool) or not isinstance(state_dict[name], (int, float, np.number)):
                raise ValueError(f"EarlyStopping: {name} of the state is no number: {state_dict[name]!r}")
        for name in NUMBERS:
            setattr(self, name, state_dict[name])
        self.best_weights = copy.deepcopy(state_dict.get("best_weights"))
