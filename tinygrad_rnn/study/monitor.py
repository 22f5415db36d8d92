"""Monitor: how large the steps of training are, beside the weights that they move, while it goes on."""

import math
import weakref
from typing import Any

import numpy as np

from ..autograd.arrays import sum_of_squares
from ..autograd.operands import is_whole
from ..autograd.tensor import Tensor
from ..nn.module import Module
from ..nn.utils import get_total_norm, register_clip_hook
from ..optim.optimizer import Optimizer
from .graph import names_in_frames
from .result import COLOURS, LINES, Result, dot, safe

USUAL = -3.0  # log10 of update over weight, of a learning rate that is neither too small nor too large
POINTS = 200  # of a line; more steps are drawn as means of neighbours
BLOCK = 1 << 15  # numbers
RECENT = 20  # steps over which the share of clipped ones goes
OF_EACH = ("ratio", "update", "weight")  # parameter, in the history
NAMED = 9  # lines that the legend names


class Monitor(Result):
    """Watch an optimiser: of each of its steps, how far it moved the weights, the gradient's norm, and clipping.

        ratio[name] = log10(std(update) / std(weight)),    update = weight after the step - weight before

    The update is what happened to the numbers, weight decay, momentum and rounding included; the weight is that before
    the step. A ratio about -3 is usual (Karpathy, "Building makemore, part 3", 2022). Nothing is to be called:

        monitor = tg.study.Monitor(optimizer)
        for x, target in batches:
            ...
            optimizer.step()
        monitor.plot()         # or the monitor itself at the end of a notebook's cell, as often as wanted

    Args:
        optimizer: which one; the monitor is called by its hooks, see `Optimizer.register_step_post_hook`.
        model: what has the names of the parameters. By default the modules are looked for among the variables of
            the functions that run; what is found in none goes by its number and shape, "0 [4, 3]".
        every: look at the first step of so many. Others cost nothing, and one that is looked at reads each parameter
            and its gradient a few times over.

    Attributes:
        history: plain lists, of the steps that were looked at: "step", their numbers; "ratio", "update" and "weight",
            by the name of a parameter, the ratio and the two standard deviations; "norm", the norm of the gradients
            before clipping; "clipped", which share of the steps since the one before was clipped by
            `nn.utils.clip_grad_norm_` and its like. A parameter that was not moved has NaN there; one whose numbers
            are all the same, such as a bias of zeros before its first step, inf or NaN.
        steps: how many there were.

    Raises:
        TypeError: that is no optimiser.
        ValueError: every is less than 1.

        >>> import tinygrad_rnn as tg
        >>> model = tg.nn.Linear(3, 2)
        >>> with tg.study.Monitor(tg.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        ...     for _ in range(4):
        ...         model(tg.ones(5, 3)).square().mean().backward()
        ...         _ = tg.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        ...         monitor.optimizer.step()
        >>> monitor.history["step"], monitor.history["clipped"], list(monitor.history["ratio"])
        ([1, 2, 3, 4], [1.0, 1.0, 1.0, 1.0], ['weight', 'bias'])
    """

    size = (7.0, 4.0)

    def __init__(self, optimizer: Optimizer, model: Module | None = None, *, every: int = 1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"Monitor: expected an optimiser, got {type(optimizer).__name__}")
        if not is_whole(every) or every < 1:
            raise ValueError(f"Monitor: every must be a number of steps, at least 1, got {every!r}")
        self.optimizer, self.every, self.steps = optimizer, int(every), 0
        self.history: dict[str, Any] = {key: [] for key in ("step", "norm", "clipped")}
        self.history |= {key: {} for key in OF_EACH}
        self._names = _names(model, self._parameters())
        self._before: dict[int, np.ndarray] = {}  # no longer than a step takes
        self._norm, self._clipped, self._is_clipped = math.nan, 0, False
        self._named()
        me = weakref.ref(self)  # a monitor goes with its optimiser, and is not kept by what is there for all

        def told(parameters: list[Tensor]) -> None:
            if (monitor := me()) is not None:
                monitor._before_clipping(parameters)

        clipping = register_clip_hook(told)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            clipping,
        ]
        weakref.finalize(self, clipping.remove)

    def close(self) -> None:
        """Watch no more: steps are as fast as before. The history stays."""
        for handle in self._handles:
            handle.remove()
        self._before = {}

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- What is noted -----------------------------------------------------------------------------------------------

    @property
    def _is_due(self) -> bool:
        return self.steps % self.every == 0

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _named(self) -> dict[str, Tensor]:
        """Every parameter by its name; in the history a new one has NaN for the steps before."""
        found: dict[str, Tensor] = {}
        for i, p in enumerate(self._parameters()):
            name = self._names.get(id(p), "")
            found[name if name and name not in found else f"{i} {list(p.shape)}"] = p
        for key in OF_EACH:
            for name in found:
                self.history[key].setdefault(name, [math.nan] * len(self.history["step"]))
        return found

    def _before_clipping(self, parameters: list[Tensor]) -> None:
        own = self._parameters()
        if {id(p) for p in parameters} & {id(p) for p in own}:
            if self._is_due and not self._is_clipped:
                self._norm = _norm(own)
            self._is_clipped = True

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_due:
            any_may = len(args) > 1 or "closure" in kwargs  # which gradients it finds is not known yet
            self._before = {id(p): p.data.copy() for p in self._parameters() if any_may or p.grad is not None}

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._clipped += self._is_clipped
        if self._is_due:
            norm = self._norm if self._is_clipped else _norm(self._parameters())
            self._note(self._named(), norm)
        self._is_clipped, self.steps = False, self.steps + 1

    def _note(self, named: dict[str, Tensor], norm: float) -> None:
        """One entry more in every list."""
        seen = self.history["step"]
        passed = self.steps + 1 - (seen[-1] if seen else 0)
        for name in self.history["ratio"]:
            p = named.get(name)
            old = None if p is None or p.grad is None else self._before.get(id(p))
            update, weight = (math.nan, math.nan) if p is None or old is None else (_std(p.data, old), _std(old))
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = float(np.log10(np.float64(update) / np.float64(weight)))
            for key, value in zip(OF_EACH, (ratio, update, weight)):
                self.history[key][name].append(value)
        for key, value in (("step", self.steps + 1), ("norm", norm), ("clipped", self._clipped / passed)):
            self.history[key].append(value)
        self._before, self._clipped = {}, 0

    # ---- What is seen ------------------------------------------------------------------------------------------------

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The ratios, by the name of a parameter."""
        return {name: np.array(ratios) for name, ratios in self.history["ratio"].items()}

    @property
    def sentence(self) -> str:  # type: ignore[override]
        """How to read the picture."""
        share = np.mean(self.history["clipped"]) if self.history["clipped"] else 0.0
        return (
            "Each coloured line is a parameter: log10 of how far steps move it, beside its size. About -3, the dashed "
            "line, is usual; above -2 steps are too long, below -4 it hardly learns. Black: the norm of the gradients "
            f"before clipping. Grey, of the height: the share of steps that were clipped, {share:.0%} in all."
        )

    def draw(self, ax: Any) -> None:
        import matplotlib

        steps = _thinned(self.history["step"])
        clipped = _smooth(np.array(self.history["clipped"]))
        bottom = {"transform": ax.get_xaxis_transform(), "zorder": 0}
        ax.fill_between(steps, 0, _thinned(clipped), color="0.85", lw=0, label="share clipped", **bottom)
        lines = {name: _thinned(x) for name, x in self.values.items()}
        lines = {name: x for name, x in lines.items() if np.isfinite(x).any()}
        colours = matplotlib.colormaps[COLOURS](np.linspace(0.05, 0.8, max(len(lines), 1)))
        many, unnamed = len(lines), slice(NAMED // 2 + 1, len(lines) - NAMED // 2)  # the extremes are named
        left_out = range(many)[unnamed] if many > NAMED + 1 else range(0)
        for k, (name, ratio) in enumerate(sorted(lines.items(), key=lambda pair: -_last(pair[1]))):
            if left_out and k == left_out[0]:
                ax.plot([], [], " ", label=f"{len(left_out)} between them")
            label = None if k in left_out else safe(name)
            ax.plot(steps, ratio, LINES[k % len(LINES)], color=colours[k], lw=1.2, label=label, marker=dot(ratio))
        with np.errstate(divide="ignore"):
            norm = np.log10(_thinned(self.history["norm"]))
        norm = np.where(np.isfinite(norm), norm, np.nan)
        ax.plot(steps, norm, color="black", lw=1.6, label="gradient norm", marker=dot(norm))
        ax.axhline(USUAL, color="0.35", lw=1, ls=(0, (6, 4)))
        shown = np.concatenate([x[np.isfinite(x)] for x in (*lines.values(), norm, np.array([USUAL]))])
        room = max(np.ptp(shown), 1.0)
        rows = -(-(min(many, NAMED + 1) + 2) // 3)
        ax.set(ylim=(shown.min() - 0.08 * room, shown.max() + (0.1 + 0.09 * rows) * room), xlabel="step")
        ax.set(title="Steps beside the weights they move", ylabel="log10 of std(update) / std(weight)")
        ax.legend(fontsize=7, ncols=3, loc="upper left", framealpha=0.8)
        if not len(steps):
            ax.text(0.5, 0.5, "no step yet", ha="center", transform=ax.transAxes)


def _names(model: Module | None, parameters: list[Tensor]) -> dict[int, str]:
    """Names of parameters by their id: those in the model; else in any module that a function which runs has a variable
    for, and before them that variable's name, unless it is the same for all."""
    if model is not None:
        return {id(p): name for name, p in reversed(list(model.named_parameters()))}
    found: dict[int, str] = {}
    for name, p in sorted(names_in_frames().items(), key=lambda pair: "." not in pair[0]):
        found.setdefault(id(p), name)
    found = {id(p): found[id(p)] for p in parameters if id(p) in found}
    if len({name.partition(".")[0] for name in found.values()}) == 1 and all("." in name for name in found.values()):
        return {i: name.partition(".")[2] for i, name in found.items()}
    return found


def _norm(parameters: list[Tensor]) -> float:
    return get_total_norm([p.grad for p in parameters if p.grad is not None]).item()


def _std(x: np.ndarray, minus: np.ndarray | None = None) -> float:
    """The standard deviation of x, or of a difference, in blocks that stay in the cache; summed up in float64."""
    if not x.size:
        return math.nan
    x, minus = x.reshape(-1), None if minus is None else minus.reshape(-1)
    blocks = [slice(i, i + BLOCK) for i in range(0, x.size, BLOCK)]
    part = lambda at: x[at] if minus is None else x[at] - minus[at]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = sum(float(part(at).sum()) for at in blocks) / x.size
        return math.sqrt(sum(sum_of_squares(part(at) - mean) for at in blocks) / x.size)


def _thinned(values: Any) -> np.ndarray:
    """Means of neighbours, where there are more than `POINTS`; NaN and inf left out of them."""
    x = np.asarray(values, float)
    x = np.where(np.isfinite(x), x, np.nan)
    many = -(-len(x) // POINTS)
    if many <= 1:
        return x
    blocks = np.append(x, np.full(-len(x) % many, np.nan)).reshape(-1, many)
    known = np.isfinite(blocks)
    return np.where(known.any(1), np.nansum(blocks, 1) / np.maximum(known.sum(1), 1), np.nan)


def _smooth(x: np.ndarray) -> np.ndarray:
    """The mean of each and the `RECENT` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(x)])
    at = np.arange(len(x)) + 1
    first = np.maximum(at - RECENT, 0)
    return (sums[at] - sums[first]) / (at - first)


def _last(x: np.ndarray) -> float:
    finite = x[np.isfinite(x)]
    return float(finite[-1])
