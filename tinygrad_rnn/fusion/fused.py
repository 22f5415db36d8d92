"""A compiled cell as one operation of the tape: what comes before the loop, the loop, and the way back."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.shapes import cat, split
from ..autograd.tape import Node, Value, enable_grad, mode
from ..autograd.tensor import Tensor, grad
from ..kernels.locks import lazy
from .call import Backward, Forward, Prelude
from .plan import Plan, make_plan
from .rows import RaggedRows, Rows, full_rows
from .scan import Scan
from .short import ShortBackward, ShortForward, if_short
from .trace import BATCH, Line, Unfusable, sized, step_line, trace_step
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


class Way:
    """One way through a compiled cell: the functions that it takes forwards and, where that is asked for, back.

    Attributes:
        function: of the call.
        asked: for which gradients; None in inference.
        proved: the kinds of layouts for which it was compared with the tape.
    """

    def __init__(self, title: str, function: Callable[..., Any], asked: "Asked | None" = None, back: str = "") -> None:
        self.title, self.function, self.asked, self.back = title, function, asked, back
        self.proved: set[str] = set()

    def __str__(self) -> str:
        return self.title

    def forward(self, rows: Rows, arrays: list[np.ndarray]) -> tuple[list[Any], list[Any], list[Any]]:
        """Values after each step, final ones, and what the way back needs."""
        if self.asked is None:
            first, *finals = self.function(rows, *arrays)
            return [first], finals, []
        every, finals, *kept = self.function(rows, *arrays)
        return every, finals, kept

    def backward(self, rows: Rows, kept: list[Any], arrived: Any, retain: bool = False) -> Any:
        """The gradients of the leaves that are asked for."""
        back = getattr(self.asked, self.back).function
        if self.back == "recorded_way_back":
            return back(rows, rows.T + 1, True, *kept, *arrived)[0]
        return back(rows, 2, retain, *kept, *arrived)


class Asked:
    """What follows from which leaves need a gradient.

    Attributes:
        places: their positions among all.
        outputs: of the states that are watched, at every step, and of all at the end, those that depend on one of them:
            final values are the initial ones of a sequence without steps.
        call: see `Forward`.
    """

    _short: Way | None = None

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
        self.long = Way("training", self.call.function, self, "way_back")
        self.recorded = Way("training, recorded", self.call.function, self, "recorded_way_back")

    @lazy
    def way_back(self) -> Backward:
        """See `Backward`."""
        return self._backward(recorded=False)

    def short(self, call: ShortForward) -> Way:
        """The way of a short call."""
        if self._short is None:
            self._short = Way("training, short calls", call.function, self, "short_way_back")
        return self._short

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
        way: the one it took.
        asked: for which gradients.
        kept: what the function of the call returned for the gradient.
        recorded: whether somebody will look at what is inside: nothing is overwritten then.
        backward, before: all arrays by name and the gradients of what comes before the loop, after the backward pass,
            if recorded.
    """

    def __init__(self, rows: Rows, way: Way, kept: list[Any]) -> None:
        self.rows, self.way, self.kept = rows, way, kept
        assert way.asked is not None
        self.asked, self.recorded = way.asked, way is way.asked.recorded
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
        fixed = [line for line in trace.lines if line.kind in ("parameter", "constant")]
        self.plan: Plan = make_plan(trace, outputs, sequence.watched)
        self.watched, self.lines = sequence.watched, fixed
        self.leaves = [*arriving, *trace.given, *fixed, *self.plan.states]
        values: list[Any] = [line.value for line in fixed]
        self.fixed: list[Any] = [x if isinstance(x, Value) else Value.tensor(x) for x in values]
        self.depends = self._dependencies()
        self.scan = Scan(self.plan, type(cell).__name__)
        self.prelude = Prelude(self.scan, self.leaves, [line for line, _ in self.drawn])
        self.inference = Forward(self.scan, self.prelude, None)
        self.short_inference = if_short(ShortForward, self.scan, self.prelude, "inference")
        self.short_call: ShortForward | None = None
        if if_short(ShortBackward, self.scan, self.prelude, range(len(self.leaves))):
            self.short_call = if_short(ShortForward, self.scan, self.prelude, "forward")
        self._choices: dict[tuple[bool, ...], Asked] = {}
        self._inference = Way("inference", self.inference.function)
        short = self.short_inference
        self._short_inference = Way("inference, short calls", short.function) if short else None
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
        return all(x.data.dtype == line.dtype and x.data.shape == line.shape for x, line in zip(self.fixed, self.lines))

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
            self._forget_proofs()
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
        if self.watched == 1 and watch is None and True not in needs:
            way = self.inference_way(rows)
            if rows.kind not in way.proved:
                self.prove(way, rows)
            return self.infer(way.function, rows, arrays)
        asked, short = self._asked(needs), self.short_call
        if watch:
            way = asked.recorded
        else:
            way = asked.short(short) if short and short.fits(rows) else asked.long
        if rows.kind not in way.proved and not proved:
            self.prove(way, rows)
        if self.drawn:
            arrays += self.draw(rows)
        every, finals, *kept = way.function(rows, *arrays)
        run = Run(rows, way, kept)
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

    def inference_way(self, rows: Rows) -> Way:
        """That of a call without gradients."""
        short = self.short_inference
        return self._inference if short is None or not short.fits(rows) else self._short_inference  # type: ignore

    def infer(self, function: Callable[..., Any], rows: Rows, arrays: list[np.ndarray]) -> tuple[States, States]:
        """`run` by the function for inference, where one state is watched."""
        if self.drawn:
            arrays += self.draw(rows)
        output, *finals = function(rows, *arrays)
        return (Value.tensor(output),), tuple([Value.tensor(x) for x in finals])

    def prove(self, way: Way, rows: Rows) -> None:
        """Compare one way with the tape, before it is gone for the first time.

        Raises:
            Unfusable: they differ.
        """
        if is_on():
            self.reports.append(validate(self, way, rows))
        way.proved.add(rows.kind)

    def _forget_proofs(self) -> None:
        ways = [self._inference, self._short_inference]
        ways += [way for asked in self._choices.values() for way in (asked.long, asked.recorded, asked._short)]
        for way in ways:
            if way is not None:
                way.proved.clear()
        self.reports.clear()

    def sequence(self, inputs: States, states: States, reverse: bool, lengths: np.ndarray | None) -> Sequence:
        """One that this cell can be run over."""
        return Sequence(inputs if self.several else inputs[0], states, reverse, lengths, self.watched)

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

    def draw(self, rows: Rows) -> list[np.ndarray]:
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
        return run.way.backward(run.rows, run.kept, arrived, mode.retain)

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
        return [i for i, line in enumerate(self.leaves) if line in read]

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


def _as_rows(line: Line, x: Any, rows: Rows) -> Any:
    """What a user gave for a leaf, in the order of rows: arrays, or tensors on the tape."""
    if line.kind == "input":
        return rows.gathered(x)
    return rows.ordered(x) if line.per_row else x
