"""A compiled cell as one operation of the tape: what comes before the loop, the loop, and the way back."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.shapes import cat, split
from ..autograd.tape import Node, Value, enable_grad, mode
from ..autograd.tensor import Tensor, grad
from ..kernels.locks import lazy
from .call import Backward, Forward, Prelude
from .plan import Plan, make_plan
from .rows import RaggedRows, Rows, full_rows
from .scan import Scan
from .short import ShortBackward, ShortForward, if_short
from .trace import BATCH, Line, Unfusable, check_other_batch, sized, trace_step

States = tuple[Tensor, ...]


class Sequence:
    """What a cell is run over.

    Args:
        x: [T, B, I], or a tuple of inputs [T, B, ...] that a step gets as a tuple.
        states: the initial ones.
        reverse: start at the end.
        lengths: [B], of the sequences; None if all have T steps.
        watched: of how many states, from the first, the values at every step are wanted.
    """

    def __init__(
        self, x: Any, states: States, reverse: bool = False, lengths: np.ndarray | None = None, watched: int = 1
    ) -> None:
        self.several = isinstance(x, tuple)
        self.inputs: States = x if self.several else (x,)
        self.T: int = self.inputs[0].shape[0]
        self.B: int = self.inputs[0].shape[1]
        self.states, self.reverse, self.lengths, self.watched = states, reverse, lengths, watched

    @lazy
    def rows(self) -> Rows:
        """The layout of the batch."""
        if self.lengths is None:
            return full_rows(self.T, self.B, self.reverse)
        return RaggedRows(self.T, self.lengths, self.reverse)

    @property
    def kind(self) -> Any:
        """What a compiled cell depends on."""
        inputs, states = [x.data for x in self.inputs], [x.data for x in self.states]
        kinds = [(x.shape[2:], x.dtype.char) for x in inputs] + [(x.shape[1:], x.dtype.char) for x in states]
        return (self.several, self.watched, *kinds)


class Cotangents:
    """The gradients of a scan's several outputs, on their way through a tape whose values have one."""

    shape: tuple[()] = ()
    base = None

    def __init__(self, parts: dict[int, Any]) -> None:
        self.parts = parts

    def __add__(self, other: "Cotangents") -> "Cotangents":
        both = dict(self.parts)
        for k, gradient in other.parts.items():
            both[k] = both[k] + gradient if k in both else gradient
        return Cotangents(both)

    __iadd__ = __add__


class _Output:
    """The tape's operation between a scan and its k-th output."""

    name = "scan"
    fresh = False
    scatter = None

    def __init__(self, k: int) -> None:
        self.k = k

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> list[Any]:
        return [Cotangents({self.k: dy})]

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        return ()


class Asked:
    """What follows from which leaves need a gradient.

    Attributes:
        places: their positions among all.
        outputs: of the states that are watched, at every step, and of all at the end, those that depend on one of them:
            final values are the initial ones of a sequence without steps.
        call: see `Forward`.
    """

    def __init__(self, scan: Scan, prelude: Prelude, depends: list[set[Line]], needs: tuple[bool, ...]) -> None:
        self.scan, self.prelude = scan, prelude
        self.places = [i for i, need in enumerate(needs) if need]
        leaves = {prelude.leaves[i] for i in self.places}
        reached = [not leaves.isdisjoint(each) for each in depends]
        at_last = [r or state in leaves for r, state in zip(reached, scan.plan.states)]
        every = reached[: len(scan.plan.gradient.dys)]
        self.outputs = [_Output(k) if r else None for k, r in enumerate(every + at_last)]
        self.needing, self.adjoints = prelude.adjoints(leaves)
        self.call = Forward(scan, prelude, self.adjoints)

    @lazy
    def way_back(self) -> Backward:
        """See `Backward`."""
        return self._backward(recorded=False)

    @lazy
    def short_way_back(self) -> ShortBackward:
        """The same after a short call."""
        return ShortBackward(self.scan, self.prelude, self.places)

    @lazy
    def recorded_way_back(self) -> Backward:
        """The same for a run that is looked at."""
        return self._backward(recorded=True)

    def _backward(self, recorded: bool) -> Backward:
        return Backward(self.scan, self.prelude, self.places, self.needing, self.adjoints, recorded)


class Run:
    """One run of a compiled cell: what its gradient needs.

    Attributes:
        rows: the layout of the batch.
        asked: for which gradients.
        short: whether it was a short call.
        kept: what the function of the call returned for the gradient.
        recorded: whether somebody will look at what is inside: nothing is overwritten then.
        backward, before: all arrays by name and the gradients of what comes before the loop, after the backward pass,
            if recorded.
    """

    def __init__(self, rows: Rows, asked: Asked, short: bool, kept: list[Any], recorded: bool) -> None:
        self.rows, self.asked, self.short, self.kept, self.recorded = rows, asked, short, kept, recorded
        self.backward: dict[str, np.ndarray] | None = None
        self.before: dict[str, np.ndarray] = {}

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The values of leaves and of the lines before the loop, by name; not those of a short call."""
        return self.kept[0]

    @property
    def named(self) -> dict[str, np.ndarray]:
        """The arrays of the kernel by name; likewise."""
        return self.kept[2]


class FusedCell:
    """A cell for inputs and states of given widths and dtype, as one operation of the tape.

    Its inputs are those of the cell, its parameters and the initial states; its outputs are the states that are
    watched, at every step, and the final values of all. Its gradient is the backward kernel with what comes before and
    after it; a second derivative runs the step on the tape instead.

    Raises (when made):
        Unfusable: the step cannot be a kernel; the message says why.
    """

    name = "scan"
    fresh = True
    scatter = None

    def __init__(self, cell: Any, sequence: Sequence) -> None:
        dtype = sequence.inputs[0].dtype
        if any(x.dtype != dtype for x in (*sequence.inputs, *sequence.states)) or dtype.kind != "f":
            raise Unfusable("the inputs and all states must be floats of one dtype")
        if any(s.ndim != 2 for s in sequence.states):
            raise Unfusable("states must be [B, H]")
        inputs = [((BATCH, x.shape[2]), dtype) for x in sequence.inputs]
        states = [(name, (BATCH, s.shape[1]), dtype) for name, s in zip(cell.state_names, sequence.states)]
        trace, outputs = trace_step(cell, inputs, states, not sequence.several)
        as_traced = list(map(repr, trace.lines))
        self.drawn, self.given = trace.drawn, trace.given
        self.owners = [weakref.proxy(owner) for owner in trace.owners]  # a compiled cell must not keep its cell alive
        arriving = [line for line in trace.lines if line.kind == "input"][: len(inputs)]
        fixed = [line for line in trace.lines if line.kind in ("parameter", "constant")]
        self.plan: Plan = make_plan(trace, outputs, sequence.watched)
        check_other_batch(as_traced, cell, inputs, states, not sequence.several)
        self.watched, self.lines = sequence.watched, fixed
        self.leaves = [*arriving, *trace.given, *fixed, *self.plan.states]
        self.fixed = [line.value if isinstance(line.value, Value) else Value.tensor(line.value) for line in fixed]
        self.depends = self._dependencies()
        self.scan = Scan(self.plan, type(cell).__name__)
        self.prelude = Prelude(self.scan, self.leaves, [line for line, _ in self.drawn])
        self.inference = Forward(self.scan, self.prelude, None)
        self.short_inference = if_short(ShortForward, self.scan, self.prelude, "inference")
        self.short_call: ShortForward | None = None
        if if_short(ShortBackward, self.scan, self.prelude, range(len(self.leaves))):
            self.short_call = if_short(ShortForward, self.scan, self.prelude, "forward")
        self._choices: dict[tuple[bool, ...], Asked] = {}

    def _dependencies(self) -> list[set[Line]]:
        """For each state, the leaves that a gradient of its values reaches, over any number of steps but none."""
        script = {line: _differentiated(traced) for line, traced in self.plan.script}
        depends = []
        for output in self.plan.outputs:
            ahead, seen = [output], {output}
            while ahead:
                found = [y for y in script.get(ahead.pop(), ()) if y not in seen]
                seen.update(found)
                ahead += found
            depends.append(seen)
        for _ in self.plan.states:
            for own in depends:
                for state, seen in zip(self.plan.states, depends):
                    if state in own:
                        own |= seen
        return depends

    def _held(self, B: int) -> list[Tensor]:
        """What the cells inside hold for this sequence."""
        held = [tensor for cell in self.owners for tensor in cell.sequence_values(B).values()]
        if len(held) != len(self.given):
            raise ValueError(f"sequence_values returned {len(held)} values, and {len(self.given)} when it was compiled")
        for line, tensor in zip(self.given, held):
            expected = (B, *line.shape[1:]) if line.per_row else line.shape
            if tensor.shape != expected:
                raise ValueError(
                    f"sequence_values: {line.name} has shape {list(tensor.shape)}, expected {list(expected)}"
                )
        return held

    def fits(self) -> bool:
        """Whether parameters and constants have the shapes and dtypes that they had."""
        return all(x.data.dtype == line.dtype and x.data.shape == line.shape for x, line in zip(self.fixed, self.lines))

    def __call__(
        self, rows: Rows, inputs: States, states: States, watch: Callable[[Run], object] | None = None
    ) -> tuple[States, States]:
        """The values after each step of the states that are watched, [T, B, H], and the final values of all.

        Args:
            rows: the layout of the batch.
            watch: called with the run, whose arrays are then kept.
        """
        tensors = [*inputs, *(self._held(rows.B) if self.given else ()), *self.fixed, *states]
        return self.run(rows, tensors, [x.data for x in tensors], watch)

    def run(
        self,
        rows: Rows,
        tensors: list[Tensor],
        arrays: list[np.ndarray],
        watch: Callable[[Run], object] | None = None,
    ) -> tuple[States, States]:
        """The same for the leaves, `tensors`, and their arrays."""
        needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        if self.watched == 1 and watch is None and True not in needs:
            return self.infer(self.inference_function(rows), rows, arrays)
        if self.drawn:
            arrays += self._draw(rows)
        asked, short = self._asked(needs), self.short_call
        if watch or (short and not short.fits(rows)):
            short = None
        every, finals, *kept = (short or asked.call).function(rows, *arrays)
        run = Run(rows, asked, short is not None, kept, watch is not None)
        if watch is not None:
            watch(run)
        nodes: list[Node | None] = [None] * (len(every) + len(finals))
        if asked.places:
            needing = [tensors[i] for i in asked.places]
            places: Any = tuple([x.node for x in needing])
            shapes = tuple([x.data.shape for x in needing])
            node = Node(self, places, shapes, (tensors, run))
            parents = (node,)
            nodes = [Node(output, parents, ((),), ()) if output else None for output in asked.outputs]
        return tuple(map(Value.tensor, every, nodes)), tuple(map(Value.tensor, finals, nodes[len(every) :]))

    def inference_function(self, rows: Rows) -> Callable[..., Any]:
        """The function for a call without gradients."""
        short = self.short_inference
        return (self.inference if short is None or not short.fits(rows) else short).function

    def infer(self, function: Callable[..., Any], rows: Rows, arrays: list[np.ndarray]) -> tuple[States, States]:
        """`run` by the function for inference, where one state is watched."""
        if self.drawn:
            arrays += self._draw(rows)
        output, *finals = function(rows, *arrays)
        return (Value.tensor(output),), tuple([Value.tensor(x) for x in finals])

    def _asked(self, needs: tuple[bool, ...]) -> Asked:
        """What follows if these leaves need a gradient; none if `needs` is empty."""
        asked = self._choices.get(needs)
        if asked is None:
            asked = self._choices[needs] = Asked(self.scan, self.prelude, self.depends, needs)
        return asked

    def source(self, direction: str) -> str:
        """The kernel of a direction, and the function around it: as it is where everything needs a gradient."""
        if direction == "inference":
            around: Forward | Backward = self.inference
        else:
            asked = self._asked(tuple(line.kind != "constant" for line in self.leaves))
            around = asked.call if direction == "forward" else asked.way_back
        note = "# Once a call, around the loop; `rows` knows where the rows of each step lie."
        return f"{self.scan.sources[direction]}\n\n{note}\n{around.source}"

    def _draw(self, rows: Rows) -> list[np.ndarray]:
        """Random numbers for all T steps, in the order in which the tape would draw them: step by step."""
        if len(self.drawn) == 1:  # numbers are drawn one by one: all at once are the same
            ((line, source),) = self.drawn
            every = [source((rows.padded * rows.B, line.width))]
        else:
            steps = [[source((rows.B, line.width)) for line, source in self.drawn] for _ in range(rows.padded)]
            every = [np.concatenate(parts) for parts in zip(*steps)]
        return [rows.drawn(x) for x in every]

    # ---- The gradient ------------------------------------------------------------------------------------------------

    def gradients(self, dy: Cotangents, saved: tuple[Any, ...]) -> list[Any]:
        """See `tape.Operation`."""
        for x in dy.parts.values():
            if isinstance(x, Value):
                return self._gradients_on_tape(dy, saved)
        _, run = saved
        arrived = map(dy.parts.get, range(len(run.asked.outputs)))
        if run.recorded:
            keep, back = run.rows.T + 1, run.asked.recorded_way_back.function
            found, run.before, run.backward = back(run.rows, keep, True, *run.kept, *arrived)
            return found
        back = run.asked.short_way_back if run.short else run.asked.way_back
        return back.function(run.rows, 2, mode.retain, *run.kept, *arrived)

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        """See `tape.Operation`: the inputs as tensors that remember where they came from."""
        assert node.saved is not None
        tensors, run = node.saved
        wrapped = [Value.tensor(x.data) for x in tensors]
        for i, parent in zip(run.asked.places, node.parents):
            wrapped[i].node = parent
        return wrapped, run

    def _gradients_on_tape(self, dy: Cotangents, saved: tuple[Any, ...]) -> list[Any]:
        """The gradients as tensors that can be differentiated again: the same loop, recorded."""
        tensors, run = saved
        rows, plan = run.rows, self.plan
        with enable_grad():
            inputs = [x.clone() for x in tensors]  # of its own each: one may be made of another, outside of the loop
            known = {line: _as_rows(line, x, rows) for line, x in zip(self.leaves, inputs)}
            known |= {line: Tensor(run.values[line.name]) for line, _ in self.drawn}
            states = tuple(known[state] for state in plan.states)
            running = np.diff(rows.starts[1:]).tolist()
            steps = {line: split(x, running) for line, x in known.items() if line in plan.timed}
            held = {line: x for line, x in known.items() if line.per_row and line not in plan.timed}
            outputs: list[list[Tensor]] = [[] for _ in plan.gradient.dys]
            for t, n in enumerate(running):
                at_step = known | {line: xs[t] for line, xs in steps.items()}
                at_step |= {line: x if n == rows.B else x[:n] for line, x in held.items()}
                at_step |= {line: x if n == rows.B else x[:n] for line, x in zip(plan.states, states)}
                after = self._step_on_tape(at_step, n)
                for output, state in zip(outputs, after):
                    output.append(state)
                states = after if n == rows.B else tuple(cat([new, old[n:]]) for new, old in zip(after, states))
            every = [rows.scattered(cat(output)) if output else None for output in outputs]
            results = [*every, *map(rows.unordered, states)]
        ks = [k for k in sorted(dy.parts) if results[k] is not None and results[k].requires_grad]
        sources = [inputs[i] for i in run.asked.places]
        found = grad([results[k] for k in ks], sources, [dy.parts[k] for k in ks], create_graph=True, allow_unused=True)
        return [Value.tensor(np.zeros(x.shape, x.dtype)) if g is None else g for x, g in zip(sources, found)]

    def _step_on_tape(self, known: dict[Line, Any], rows: int) -> States:
        """The new states from what is known at a step."""
        for line, traced in self.plan.script:
            if traced.row is not None and line not in known:
                operands = [known[x] if isinstance(x, Line) else x for x in traced.inputs]
                known[line] = traced.row(*operands, **sized(traced.attributes, rows))
        return tuple(known[line] for line in self.plan.outputs)


def _differentiated(line: Line) -> list[Line]:
    """The operands that a gradient of the line reaches."""
    if line.row is None:
        return []
    places = tuple(i for i, x in enumerate(line.inputs) if isinstance(x, Line))
    return [line.inputs[i] for i in line.row.adjoint(places).wanted]


def _as_rows(line: Line, x: Any, rows: Rows) -> Any:
    """What a user gave for a leaf, in the order of rows: arrays, or tensors on the tape."""
    if line.kind == "input":
        return rows.gathered(x)
    return rows.ordered(x) if line.per_row else x
