"""A compiled cell as one operation of the tape.

What depends on parameters alone, and maths of the input that is no product with them, stays on the ordinary tape before
that operation; see `kernel` for what happens inside.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.shapes import cat, split
from ..autograd.tape import Node, Value, enable_grad, mode, set_mode
from ..autograd.tensor import Tensor, grad
from ..kernels.locks import lazy
from ..kernels.matmul import room
from .kernel import Argument
from .plan import Plan, make_plan
from .recorded import as_rows
from .rows import RaggedRows, Rows, full_rows
from .scan import MOST_LAYOUTS, Scan, copied, plain
from .trace import BATCH, Line, Unfusable, run_line, step_line, trace_step
from .validate import Report, is_on, validate

PACKAGE = __name__.partition(".")[0]
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


class Way(NamedTuple):  # a tuple, so that it is found by one
    """How a compiled cell is called: which leaves need a gradient, and whether somebody looks at what is inside."""

    needs: tuple[bool, ...]
    recorded: bool

    def __str__(self) -> str:
        if self.recorded:
            return "training, recorded"
        return "training" if True in self.needs else "inference"


INFERENCE = Way((), False)


def _role(argument: Argument) -> str | None:
    """The role of an argument whose gradient is not laid out as it is itself."""
    as_it_is = argument.role == "matrix" or (argument.role == "vector" and len(argument.line.shape) == 1)
    return None if as_it_is else argument.role


class Asked:
    """What follows from which operands need a gradient.

    Attributes:
        places: their positions among all, and those of states.
        wanted: the arguments of the kernel that have one: the mask of its gradients.
        gradients: (which of the kernel's, to which of `places` it belongs, the line and role of the argument if
            its gradient is not laid out as it is).
        outputs: of the states that are watched, at every step, and of all at the end, those that depend on one of them:
            final values are the initial ones of a sequence without steps.
    """

    def __init__(self, fused: "FusedCell", needs: tuple[bool, ...]) -> None:
        self.places = [i for i, need in enumerate(needs) if need]
        plan, lines = fused.plan, {fused.lines[i] for i in self.places}
        reached = [not lines.isdisjoint(each) for each in fused.depends]
        at_last = [r or state in lines for r, state in zip(reached, plan.states)]
        every = reached[: len(plan.gradient.dys)]
        self.outputs = [_Output(k) if r else None for k, r in enumerate(every + at_last)]
        self.wanted = tuple(argument.line in lines for argument in fused.scan.backward.d)
        place = {fused.lines[i]: k for k, i in enumerate(self.places)}
        self.gradients = [
            (i, place[argument.line], argument.line, _role(argument))
            for i, argument in enumerate(fused.scan.backward.d) if argument.line in place
        ]  # fmt: skip
        self._results: dict[Any, Any] = {}

    def arrays(self, scan: Scan, rows: Rows) -> Any:
        """The arrays for the gradients, see `Scan.gradients`."""
        key = rows.T, rows.B, rows.total
        found = self._results.get(key)
        if found is None:
            if len(self._results) >= MOST_LAYOUTS:
                self._results.clear()
            found = self._results[key] = scan.gradients(self.wanted, rows)
        return found


class Run:
    """One run of a compiled cell: what its gradient needs.

    Attributes:
        rows: the layout of the batch.
        arrays: the arguments of the forward kernel.
        every: the values of the states that are watched, [1 + T, B, width] with the initial ones first.
        residuals: what the forward kernel left for the backward one.
        asked: for which gradients.
        recorded: whether somebody will look at what is inside: nothing is overwritten then.
        known: if recorded, the tensors of leaves, and of lines that the tape computed before.
        backward: all arrays of the backward kernel by name, once it has run, if recorded.
    """

    backward: dict[str, np.ndarray] | None = None
    known: dict[Line, Any]

    def __init__(
        self, rows: Rows, arrays: list[Any], every: list[Any], residuals: Any, asked: Asked, recorded: bool
    ) -> None:
        self.rows, self.arrays, self.every, self.residuals = rows, arrays, every, residuals
        self.asked, self.recorded = asked, recorded


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
        where = "" if type(cell).__module__.startswith(PACKAGE) else f" ({step_line(cell)})"
        _check_kinds(sequence, dtype, cell.state_names, where)
        self.cell: Callable[[], Any] = weakref.ref(cell)  # a compiled cell must not keep its cell alive
        self.several, self.inputs = sequence.several, len(sequence.inputs)
        inputs = [((BATCH, x.shape[2]), dtype) for x in sequence.inputs]
        states = [(name, (BATCH, s.shape[1]), dtype) for name, s in zip(cell.state_names, sequence.states)]
        trace, outputs = trace_step(cell, inputs, states, not sequence.several)
        self.drawn, self.given = trace.drawn, trace.given
        self.owners = [weakref.proxy(owner) for owner in trace.owners]
        arriving = [line for line in trace.lines if line.kind == "input"][: len(inputs)]
        self.held = [line for line in trace.lines if line.kind in ("parameter", "constant")]
        self.plan: Plan = make_plan(trace, outputs, sequence.watched)
        self.watched = sequence.watched
        self.leaves = [*arriving, *trace.given, *self.held, *self.plan.states]
        values: list[Any] = [line.value for line in self.held]
        self.fixed: list[Any] = [x if isinstance(x, Value) else Value.tensor(x) for x in values]
        self.depends = self._dependencies()
        noise = [line for line, _ in self.drawn]
        every = [*arriving, *trace.given, *self.held, *noise]
        self.scan = Scan(self.plan, type(cell).__name__, every, noise)
        self.outside = self.scan.outside
        self.lines = [*self.scan.operands, *self.plan.states]  # of the node, in order
        sources = [*self.leaves, *noise, *self.outside]
        source, place = ({line: i for i, line in enumerate(lines)} for lines in (sources, self.lines))
        self._places = [source[line] for line in self.lines]
        self._arguments = [place[argument.line] for argument in self.scan.forward.arguments]
        self._some = self._places != list(range(len(self.leaves)))  # rather than all leaves
        self._in_order = self._arguments == list(range(len(self.lines)))
        self._find_preparations(enumerate(self.scan.forward.arguments))
        # Whether the arrays of leaves are the arguments of the kernel, if they lie as it reads them.
        self._plain_arrays = self._in_order and not (self.drawn or self.outside or self._some or self._reshaped)
        self._choices: dict[tuple[bool, ...], Asked] = {}
        # The kinds of layouts for which a way was compared with the tape.
        self.proved: dict[tuple[tuple[bool, ...], bool], set[str]] = {}
        self.reports: list[Report] = []  # of validations
        self._layout: list[Any] = []  # of parameters and constants in memory, when they were validated

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
            if tensor.dtype != line.dtype:
                raise ValueError(f"sequence_values: {line.name} is {tensor.dtype}, and was {line.dtype} when compiled")
        return held

    def fits(self) -> bool:
        """Whether parameters and constants have the shapes and dtypes that they had."""
        return all(x.data.dtype == line.dtype and x.data.shape == line.shape for x, line in zip(self.fixed, self.held))

    def __call__(
        self, rows: Rows, inputs: States, states: States, watch: Callable[[Run], object] | None = None
    ) -> tuple[States, States]:
        """The values after each step of the states that are watched, [T, B, H], and the final values of all.

        Args:
            rows: the layout of the batch.
            watch: called with the run, whose arrays are then kept.
        """
        layout = [x.data.strides for x in self.fixed]
        if layout != self._layout:
            self._layout = layout
            self.proved.clear()
            self.reports.clear()
        if not self.given:
            tensors = [*inputs, *self.fixed, *states]
            return self.run(rows, tensors, [x.data for x in tensors], watch)
        random_state = get_rng_state()
        try:
            tensors = [*inputs, *self._held(rows.B), *self.fixed, *states]
            return self.run(rows, tensors, [x.data for x in tensors], watch)
        except Unfusable:
            set_rng_state(random_state)  # the tape will hold the same values
            raise

    def run(
        self,
        rows: Rows,
        tensors: list[Tensor],
        arrays: list[np.ndarray],
        watch: Callable[[Run], object] | None = None,
        proved: bool = False,
    ) -> tuple[States, States]:
        """The same for the leaves, `tensors`, and their arrays; not compared with the tape before if `proved`."""
        needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        inference = self.watched == 1 and watch is None and True not in needs
        if not proved:
            way = () if inference else needs, watch is not None
            if rows.kind not in self.proved.get(way, ()):
                self.prove(Way(*way), rows)
        if inference:
            return self.infer(rows, tensors, arrays)
        leaves = tensors
        if self.drawn or self.outside:
            known: dict[Line, Any] = {}
            tensors = self._extended(rows, tensors, known, watch is not None)
            tensors = [tensors[i] for i in self._places]
            arrays = [x.data for x in tensors]
            needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        elif self._some:
            tensors, arrays = [tensors[i] for i in self._places], [arrays[i] for i in self._places]
            needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        asked = self._choices.get(needs)
        if asked is None:
            asked = self._choices[needs] = Asked(self, needs)
        given = self._given(rows, arrays)
        made, residuals = self.scan.run("forward", rows, given)
        every, finals = made[: self.watched], made[self.watched :]
        run = Run(rows, given, every, residuals, asked, watch is not None)
        if watch is not None:
            run.known = dict(zip(self.leaves, leaves))
            if self.drawn or self.outside:
                run.known |= known
            watch(run)
        nodes: list[Node | None] = [None] * (len(every) + len(finals))
        if asked.places:
            needing = [tensors[i] for i in asked.places]
            parents: Any = tuple([x.node for x in needing])
            shapes = tuple([x.data.shape for x in needing])
            node = Node(self, parents, shapes, (tensors, run))
            nodes = [Node(output, (node,), ((),), ()) if output else None for output in asked.outputs]
        results = [rows.after(x) for x in every]
        if rows.ragged:
            finals = [rows.unordered(x) for x in finals]
        return tuple(map(Value.tensor, results, nodes)), tuple(map(Value.tensor, finals, nodes[len(every) :]))

    def infer(self, rows: Rows, tensors: list[Tensor], arrays: list[np.ndarray]) -> tuple[States, States]:
        """`run` without gradients, where one state is watched: `arrays` may be changed."""
        layout, kernel = self.scan.layouts["inference"].get(rows), self.scan.compiled.get("inference")
        if layout is None or layout.short is None or kernel is None or not self._plain_arrays:
            return self._infer(rows, tensors, arrays)
        if rows.flipped:
            for i in self._gathered:
                arrays[i] = rows.gathered(arrays[i])[None]
        for i in self._plain:
            if not arrays[i].flags.carray:
                arrays[i] = arrays[i].copy()
        dtype = self.scan.dtype
        made = [make(shape, dtype) for make, shape in layout.results]
        kernel(0, rows.B, room.address, *layout.short, *arrays, *made)
        return (Value.tensor(rows.after(made[0])),), tuple([Value.tensor(x) for x in made[1:-1]])

    def _infer(self, rows: Rows, tensors: list[Tensor], arrays: list[np.ndarray]) -> tuple[States, States]:
        """The same for any call."""
        if self.drawn or self.outside:
            tensors = self._extended(rows, tensors, {}, False)
            arrays = [tensors[i].data for i in self._places]
        elif self._some:
            arrays = [arrays[i] for i in self._places]
        (output, *finals), _ = self.scan.run("inference", rows, self._given(rows, arrays))
        if rows.ragged:
            finals = [rows.unordered(x) for x in finals]
        return (Value.tensor(rows.after(output)),), tuple([Value.tensor(x) for x in finals])

    def _extended(self, rows: Rows, tensors: list[Tensor], known: dict[Line, Any], recorded: bool) -> list[Tensor]:
        """Leaves, and behind them what is drawn, and what the tape computes of both: also in `known`, by lines."""
        drawn = [Value.tensor(x) for x in self.draw(rows)]
        known.update(zip((line for line, _ in self.drawn), drawn))
        ready = {line: as_rows(line, x, rows) for line, x in zip(self.leaves, tensors) if line in self._read_outside}
        ready |= {line: x for (line, _), x in zip(self.drawn, drawn)}
        with set_mode("tracer", None):
            for line in self.outside:
                timed = line in self.plan.timed
                operands = [ready[x] if isinstance(x, Line) else x for x in line.inputs]
                for i, x in enumerate(line.inputs):
                    if timed and isinstance(x, Line) and x.per_row and x not in self.plan.timed:
                        operands[i] = rows.repeated(operands[i])
                ready[line] = known[line] = y = run_line(line, operands, rows.total if timed else rows.B)
                if recorded and y.node is not None and mode.level:
                    y.retain_grad()
        return [*tensors, *drawn, *(ready[line] for line in self.outside)]

    @lazy
    def _read_outside(self) -> set[Line]:
        return {x for line in self.outside for x in line.inputs if isinstance(x, Line)}

    def _find_preparations(self, arguments: Iterable[tuple[int, Argument]]) -> None:
        """Sort the arguments of the kernel by what becomes of arrays before they are."""
        leaves = set(self.leaves)
        self._gathered: list[int] = []
        self._ordered: list[int] = []
        self._plain: list[int] = []
        self._reshaped: list[tuple[int, tuple[int, ...]]] = []
        for i, (line, role, _) in arguments:
            if role in ("steps", "rows", "each", "first"):
                if role == "steps":
                    self._gathered.append(i)
                elif line in leaves:
                    self._ordered.append(i)
                self._plain.append(i)
                if len(line.shape) == 1:
                    self._reshaped.append((i, (-1, 1)))
            elif role == "vector" and len(line.shape) != 1:
                self._plain.append(i)
                self._reshaped.append((i, (-1,)))

    def _given(self, rows: Rows, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The arguments of the forward kernel."""
        given = arrays if self._in_order else [arrays[i] for i in self._arguments]
        if rows.ragged or rows.flipped:
            for i in self._gathered:
                given[i] = rows.gathered(given[i])[None]
            for i in self._ordered:
                given[i] = rows.ordered(given[i])
        for i in self._plain:
            x = given[i]
            if not x.flags.carray:
                given[i] = x.copy()
        for i, shape in self._reshaped:
            given[i] = given[i].reshape(shape)
        return given

    def prove(self, way: Way, rows: Rows) -> None:
        """Compare one way with the tape, before it is gone for the first time.

        Raises:
            Unfusable: they differ.
        """
        if is_on():
            self.reports.append(validate(self, way, rows))
        self.proved.setdefault(way, set()).add(rows.kind)

    def infers(self, rows: Rows) -> bool:
        """Whether inference has been compared with the tape for such a layout, and one state is watched."""
        return self.watched == 1 and rows.kind in self.proved.get(INFERENCE, ())

    def sequence(self, inputs: States, states: States, reverse: bool, lengths: np.ndarray | None) -> Sequence:
        """One that this cell can be run over."""
        return Sequence(inputs if self.several else inputs[0], states, reverse, lengths, self.watched)

    def source(self, direction: str) -> str:
        """The kernel of a direction."""
        return self.scan.sources[direction]

    def draw(self, rows: Rows) -> list[np.ndarray]:
        """Random numbers for all T steps, in the order in which the tape would draw them: step by step."""
        if not self.drawn:
            return []
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
        scan, rows, asked, residuals = self.scan, run.rows, run.asked, run.residuals
        arrived = list(map(dy.parts.get, range(len(asked.outputs))))
        if (mode.retain or run.recorded) and scan.overwritten:
            residuals = copied(residuals)
        arguments = rows, run.arrays, run.every, residuals, arrived, asked.arrays(scan, rows)
        found, states, arena = scan.run_back(*arguments, rows.T + 1 if run.recorded else 2)
        if run.recorded:
            run.backward = scan.backward_views(rows, residuals, states, arena)
        gradients: list[Any] = [None] * len(asked.places)
        for i, k, line, role in asked.gradients:
            dx = found[i]
            if role is not None:
                dx = self._as_given(line, role, rows, dx)
            gradients[k] = dx if gradients[k] is None else gradients[k] + dx
        return gradients

    def _as_given(self, line: Line, role: str, rows: Rows, dx: np.ndarray) -> np.ndarray:
        """The gradient of an operand, laid out as its value was."""
        if len(line.shape) != dx.ndim:
            dx = dx.reshape(line.shape if role == "vector" else -1)
        if role == "vector":
            return dx
        if line.row is not None:
            return dx
        return plain(rows.scattered(dx)) if role == "steps" else rows.unordered(dx)

    @lazy
    def _places_read_again(self) -> list[int]:
        """The positions of those leaves that the rules of the step's lines name, or views of which."""
        read: set[Line] = set()
        for line, traced in reversed(self.plan.script):
            if traced.row is not None:
                places = tuple(i for i, x in enumerate(traced.inputs) if isinstance(x, Line))
                names = traced.row.inputs * (len(traced.inputs) if traced.row.variadic else 1)
                saves, handed_on = traced.row.adjoint(places).saves, line in read and _is_view(traced)
                read.update(traced.inputs[i] for i in places if names[i] in saves or handed_on)
        return [i for i, line in enumerate(self.lines) if line in read]

    def read_again(self, saved: tuple[Any, ...]) -> list[np.ndarray]:
        """See `tape.Operation`."""
        return [saved[0][i].data for i in self._places_read_again]

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
            leaves = set(self.leaves)
            known = {line: as_rows(line, x, rows) if line in leaves else x for line, x in zip(self.lines, inputs)}
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

    @lazy
    def _script_inside(self) -> list[tuple[Line, Line]]:
        """The lines between the operands and the new states."""
        script, needed, ahead = dict(self.plan.script), set(self.lines), list(self.plan.outputs)
        while ahead:
            line = ahead.pop()
            if line not in needed:
                needed.add(line)
                ahead += [x for x in script[line].inputs if isinstance(x, Line)]
        needed -= set(self.lines)
        return [(line, traced) for line, traced in self.plan.script if line in needed]

    def _step_on_tape(self, known: dict[Line, Any], rows: int) -> States:
        """The new states from what is known at a step."""
        for line, traced in self._script_inside:
            if line not in known:
                operands = [known[x] if isinstance(x, Line) else x for x in traced.inputs]
                known[line] = run_line(traced, operands, rows)
        return tuple(known[line] for line in self.plan.outputs)


def _check_kinds(sequence: Sequence, dtype: np.dtype, names: tuple[str, ...], where: str) -> None:
    """Refuse inputs and states that no kernel takes, by name."""
    for x in sequence.inputs:
        if x.dtype != dtype or dtype.kind != "f":
            kinds = f"{x.dtype} beside {dtype}" if x.dtype != dtype else dtype
            lead = "write x.to(np.float32) before the layer"
            raise Unfusable(f"x is {kinds}, and inputs must be floats of one dtype: {lead}{where}")
    for name, state in zip(names, sequence.states):
        if state.dtype != dtype:
            lead = f"write x.to(np.{state.dtype}) before the layer, or let the parameters and states be {dtype}"
            raise Unfusable(f"x is {dtype}, and the state {name} is {state.dtype}: {lead}{where}")
        if state.ndim != 2:
            shape = ", ".join(["B", *map(str, state.shape[1:])])
            lead = "write it as [B, width], such as C.reshape(C.shape[0], -1)"
            raise Unfusable(f"the state {name} is [{shape}], and kernels have one row of it for each: {lead}{where}")


def _differentiated(line: Line) -> list[Line]:
    """The operands that a gradient of the line reaches."""
    if line.row is None:
        return []
    places = tuple(i for i, x in enumerate(line.inputs) if isinstance(x, Line))
    return [line.inputs[i] for i in line.row.adjoint(places).wanted]


def _is_view(line: Line) -> bool:
    return line.row in (table.part, table.permute, table.reshape, table.expand)
