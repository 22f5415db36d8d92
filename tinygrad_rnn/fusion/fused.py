"""A compiled cell as one operation of the tape.

What depends on parameters alone, and maths of the input that is no product with them, stays on the ordinary tape before
that operation; see `kernel` for what happens inside.
"""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.shapes import cat
from ..autograd.tape import Node, enable_grad, mode, set_mode
from ..autograd.tape import Value as Leaf
from ..autograd.tensor import Tensor, grad
from ..kernels.locks import lazy
from ..kernels.matmul import workspace
from .evaluate import as_rows, evaluate, step_by_step, tensor
from .frames import step_line
from .node import INFERENCE, Cotangents, Mask, Run, Way
from .passes import compiled
from .program import VIEWS, Value
from .refusal import Unfusable
from .rows import Rows
from .scan import Scan, copied, plain
from .sequence import Sequence, States
from .trace import Traced, trace_step
from .validate import Report, is_on, validate

PACKAGE = __name__.partition(".")[0]


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
        self.cell: Callable[[], Any] = weakref.ref(cell)  # a compiled cell must not keep its cell alive
        self.several, self.inputs = sequence.several, len(sequence.inputs)
        traced = traced_over(cell, sequence)
        self.by_name = tuple(sequence.values)  # the first of `given`
        self.sources = traced.sources
        self.owners = [weakref.proxy(owner) for owner in traced.owners]
        self.watched = sequence.watched
        self.stages = compiled(traced.program, self.watched)
        self.program = self.stages["lower"]
        self.noise, self.leaves = self.program.noise, self.program.leaves
        self.fixed: list[Any] = [x.held if isinstance(x.held, Leaf) else tensor(x.held) for x in self.program.held]
        self.scan = Scan(self.program, type(cell).__name__)
        self.outside = self.scan.outside
        self.operands = [*self.scan.operands, *self.program.states]  # of the node, in order
        sources = [*self.leaves, *self.noise, *self.outside]
        source, place = ({x: i for i, x in enumerate(values)} for values in (sources, self.operands))
        self._places = [source[x] for x in self.operands]
        self._arguments = [place[argument.value] for argument in self.scan.forward.arguments]
        self._some = self._places != list(range(len(self.leaves)))  # rather than all leaves and nothing else
        self._in_order = self._arguments == list(range(len(self.operands)))
        self._find_preparations()
        # Whether the arrays of leaves are the arguments of the kernel, if they lie as it reads them.
        self._plain_arrays = self._in_order and not (self.noise or self.outside or self._some or self._reshaped)
        self._ranks = [(k, x.inner) for k, x in enumerate(self.program.states) if len(x.shape) != 2]
        self._masks: dict[tuple[bool, ...], Mask] = {}
        # The kinds of layouts for which a way was compared with the tape.
        self.proved: dict[tuple[tuple[bool, ...], bool], set[str]] = {}
        self.reports: list[Report] = []  # of validations
        self._layout: list[Any] = []  # of parameters and constants in memory, when they were validated

    def _held(self, B: int) -> list[Tensor]:
        """What the cells inside hold for this sequence."""
        held = [tensor for cell in self.owners for tensor in cell._of_sequence(B).values()]
        known = self.program.given[len(self.by_name) :]
        if len(held) != len(known):
            raise ValueError(f"sequence_values returned {len(held)} values, and {len(known)} when it was compiled")
        for value, x in zip(known, held):
            expected = (B, *value.shape[1:]) if value.per_row else value.shape
            if x.shape != expected:
                raise ValueError(f"sequence_values: {value.name} has shape {list(x.shape)}, not {list(expected)}")
            if x.dtype != value.dtype:
                raise ValueError(f"sequence_values: {value.name} is {x.dtype}, and was {value.dtype} when compiled")
        return held

    def fits(self) -> bool:
        """Whether parameters and constants have the shapes and dtypes that they had."""
        pairs = zip(self.fixed, self.program.held)
        return all(x.data.dtype == value.dtype and x.data.shape == value.shape for x, value in pairs)

    def __call__(self, sequence: Sequence, watch: Callable[[Run], object] | None = None) -> tuple[States, States]:
        """The values after each step of the states that are watched, [T, B, H], and the final values of all.

        Args:
            watch: called with the run, whose arrays are then kept.
        """
        layout = [x.data.strides for x in self.fixed]
        if layout != self._layout:
            self._layout = layout
            self.proved.clear()
            self.reports.clear()
            self._plain = self._always_plain + [i for i, k in self._vectors if not self.fixed[k].data.flags.carray]
        random_state, given = self.owners and get_rng_state(), sequence.values.values()
        try:
            tensors = [*sequence.inputs, *given, *self._held(sequence.B), *self.fixed, *sequence.states]
            return self.run(sequence.rows, tensors, [x.data for x in tensors], watch)
        except Unfusable:
            if random_state:  # the tape will hold the same values
                set_rng_state(random_state)
            raise

    def run(
        self, rows: Rows, tensors: list[Tensor], arrays: list[np.ndarray],
        watch: Callable[[Run], object] | None = None, proved: bool = False,
    ) -> tuple[States, States]:  # fmt: skip
        """The same for the leaves, `tensors`, and their arrays; not compared with the tape before if `proved`."""
        needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        inference = self.watched == 1 and watch is None and True not in needs
        if not proved:
            way = () if inference else needs, watch is not None
            if rows.kind not in self.proved.get(way, ()):
                self.prove(Way(*way), rows)
        if inference:
            return self.infer(rows, tensors, arrays)
        leaves = extended = tensors
        if self.noise or self.outside:
            extended = self._extended(rows, tensors)
        if self._some:
            tensors = [extended[i] for i in self._places]
            arrays = [x.data for x in tensors]
            needs = tuple([x.node is not None for x in tensors]) if mode.level else ()
        mask = self._masks.get(needs)
        if mask is None:
            mask = self._masks[needs] = Mask(self.stages["simplify"], self.watched, self.scan, self.operands, needs)
        given = self._given(rows, arrays)
        made, residuals = self.scan.run("forward", rows, given)
        every, finals = made[: self.watched], made[self.watched :]
        run = Run(rows, given, every, residuals, mask, watch is not None)
        if watch is not None:
            run.leaves = [x.data.copy() for x in leaves]  # optimisers write to parameters before anybody looks
            run.needs = [mode.level > 0 and x.node is not None for x in leaves]
            beside = extended[len(leaves) :]
            run.noise = [x.data for x in beside[: len(self.noise)]]
            watch(run)
        nodes: list[Node | None] = [None] * (len(every) + len(finals))
        if mask.places:
            needing = [tensors[i] for i in mask.places]
            parents: Any = tuple([x.node for x in needing])
            shapes = tuple([x.data.shape for x in needing])
            node = Node(self, parents, shapes, (tensors, run))
            nodes = [Node(output, (node,), ((),), ()) if output else None for output in mask.outputs]
        results, finals = self._as_states(rows, every, finals)
        return tuple(map(Leaf.tensor, results, nodes)), tuple(map(Leaf.tensor, finals, nodes[len(every) :]))

    def _as_states(self, rows: Rows, every: list[Any], finals: list[Any]) -> tuple[list[Any], list[Any]]:
        """Arrays of a kernel as the user has the states that are watched, and the final ones."""
        every = [rows.after(x) for x in every]
        if rows.ragged:
            finals = [rows.unordered(x) for x in finals]
        for k, inner in self._ranks:
            finals[k] = finals[k].reshape(rows.B, *inner)
            if k < len(every):
                every[k] = every[k].reshape(*every[k].shape[:2], *inner)
        return every, finals

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
        scan = self.scan
        dtype, arena = scan.dtype, scan.borrow(layout)
        made = [make(shape, dtype) for make, shape in layout.results]
        kernel(0, rows.B, workspace.address, *layout.short, *arrays, *made, arena)
        scan.give_back(layout, arena)
        return (Leaf.tensor(rows.after(made[0])),), tuple([Leaf.tensor(x) for x in made[1:]])

    def _infer(self, rows: Rows, tensors: list[Tensor], arrays: list[np.ndarray]) -> tuple[States, States]:
        """The same for any call."""
        if self.noise or self.outside:
            tensors = self._extended(rows, tensors)
        if self._some:
            arrays = [tensors[i].data for i in self._places]
        (output, *finals), _ = self.scan.run("inference", rows, self._given(rows, arrays))
        (output,), finals = self._as_states(rows, [output], finals)
        return (Leaf.tensor(output),), tuple([Leaf.tensor(x) for x in finals])

    def _extended(self, rows: Rows, tensors: list[Tensor]) -> list[Tensor]:
        """Leaves, and behind them what is drawn, and what the tape computes of both."""
        noise = [tensor(x) for x in self.draw(rows)]
        known = {x: as_rows(x, tensors[i], rows) for i, x in self._read_outside}
        known |= dict(zip(self.noise, noise))
        with set_mode("tracer", None):
            evaluate(self.outside, known, rows)
        return [*tensors, *noise, *(known[x] for x in self.outside)]

    @lazy
    def _read_outside(self) -> list[tuple[int, Value]]:
        """The leaves that these values read, with their numbers."""
        read = {x for value in self.outside for x in value.operands}
        return [(i, leaf) for i, leaf in enumerate(self.leaves) if leaf in read]

    def _find_preparations(self) -> None:
        """Sort the arguments of the kernel by what becomes of arrays before they are."""
        leaves = set(self.leaves)
        self._gathered: list[int] = []
        self._ordered: list[int] = []
        self._always_plain: list[int] = []  # unless they are already
        self._vectors: list[tuple[int, int]] = []  # (argument, which of those that are held) that only seldom are not
        held = {value: k for k, value in enumerate(self.program.held)}
        self._reshaped: list[tuple[int, tuple[int, ...]]] = []
        for i, (value, role, _) in enumerate(self.scan.forward.arguments):
            if role == "matrix":
                continue
            shape: tuple[int, ...] = (-1,) if role == "vector" else (-1, value.width)
            if len(value.shape) != len(shape):
                self._reshaped.append((i, shape))
            if role == "steps":
                self._gathered.append(i)
            elif role != "vector" and value in leaves:
                self._ordered.append(i)
            if role == "vector" and len(value.shape) == 1 and value in held:
                self._vectors.append((i, held[value]))
            else:
                self._always_plain.append(i)
        self._plain = self._always_plain

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

    def source(self, direction: str) -> str:
        """The kernel of a direction."""
        return self.scan.sources[direction]

    def draw(self, rows: Rows) -> list[np.ndarray]:
        """Random numbers for all T steps, in the order in which the tape would draw them: step by step."""
        widths = [x.width for x in self.noise]
        if len(widths) <= 1:  # numbers are drawn one by one: all at once are the same
            every = [draw((rows.padded * rows.B, width)) for draw, width in zip(self.sources, widths)]
        else:
            steps = [[draw((rows.B, n)) for draw, n in zip(self.sources, widths)] for _ in range(rows.padded)]
            every = [np.concatenate(parts) for parts in zip(*steps)]
        return [rows.drawn(x).reshape(-1, *value.inner) for x, value in zip(every, self.noise)]

    # ---- The gradient ------------------------------------------------------------------------------------------------

    def gradients(self, dy: Cotangents, saved: tuple[Any, ...]) -> list[Any]:
        """See `tape.Operation`."""
        for x in dy.parts.values():
            if isinstance(x, Leaf):
                return self._gradients_on_tape(dy, saved)
        _, run = saved
        scan, rows, mask, residuals = self.scan, run.rows, run.mask, run.residuals
        if (mode.retain or run.recorded) and scan.overwritten:
            residuals = copied(residuals)
        # Of the gradients of states, all are kept for who looks at them: such an arena is not lent.
        keep = max(rows.T, 2) + 1 if run.recorded else 2
        layout = mask.layout(scan, rows, keep)
        found, given, arena = scan.run_back(rows, run.arrays, run.every, residuals, dy.parts, layout)
        if run.recorded:
            run.arrived = scan.arrived(rows, given, arena, keep)
        gradients: list[Any] = [None] * len(mask.places)
        if mask.as_found is not None:
            gradients = [found[i] for i in mask.as_found]
        else:
            for i, k, value, role in mask.gradients:
                dx = found[i] if role is None else self._as_given(value, role, rows, found[i])
                gradients[k] = dx if gradients[k] is None else gradients[k] + dx
        for k in mask.unreached((*dy.parts,), rows):
            gradients[k] = None
        return gradients

    def _as_given(self, value: Value, role: str, rows: Rows, dx: np.ndarray) -> np.ndarray:
        """The gradient of an operand, laid out as its value was."""
        if len(value.shape) != dx.ndim:
            dx = dx.reshape(value.shape if role == "vector" else (len(dx), *value.inner))
        if role == "vector" or value.row is not None:
            return dx
        return plain(rows.scattered(dx)) if role == "steps" else rows.unordered(dx)

    @lazy
    def _places_read_again(self) -> list[int]:
        """The positions of those leaves that the rules of the step's lines name, or views of which."""
        read: set[Value] = set()
        for value in reversed(self.stages["simplify"].values):
            if value.row is not None:
                places = tuple(i for i, x in enumerate(value.inputs) if isinstance(x, Value))
                names = value.row.inputs * (len(value.inputs) if value.row.variadic else 1)
                saves, handed_on = value.row.adjoint(places).saves, value in read and value.row in VIEWS
                read.update(value.inputs[i] for i in places if names[i] in saves or handed_on)
        return [i for i, value in enumerate(self.operands) if value in read]

    def read_again(self, saved: tuple[Any, ...]) -> list[np.ndarray]:
        """See `tape.Operation`."""
        return [saved[0][i].data for i in self._places_read_again]

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        """See `tape.Operation`: the inputs as tensors that remember where they came from."""
        assert node.saved is not None
        tensors, run = node.saved
        wrapped = [Leaf.tensor(x.data) for x in tensors]
        for i, parent in zip(run.mask.places, node.parents):
            wrapped[i].node = parent
        return wrapped, run

    def _gradients_on_tape(self, dy: Cotangents, saved: tuple[Any, ...]) -> list[Any]:
        """The gradients as tensors that can be differentiated again: the same loop, recorded."""
        tensors, run = saved
        rows, leaves = run.rows, set(self.leaves)
        with enable_grad():
            inputs = [x.clone() for x in tensors]  # of its own each: one may be made of another, outside of the loop
            given = zip(self.operands, inputs)
            known = {value: as_rows(value, x, rows) if value in leaves else x for value, x in given}
            outputs, states = step_by_step(self.stages["simplify"], self.watched, known, rows)
            results = [*(rows.scattered(cat(y)) if y else None for y in outputs), *map(rows.unordered, states)]
        ks = [k for k in sorted(dy.parts) if results[k] is not None and results[k].requires_grad]
        wanting = [inputs[i] for i in run.mask.places]
        found = grad([results[k] for k in ks], wanting, [dy.parts[k] for k in ks], create_graph=True, allow_unused=True)
        return list(found)


def traced_over(cell: Any, sequence: Sequence) -> Traced:
    """The step of a cell, traced for what it is run over.

    Raises:
        Unfusable: the step cannot be a kernel; the message says why.
    """
    dtype = sequence.inputs[0].dtype
    where = "" if type(cell).__module__.startswith(PACKAGE) else f" ({step_line(cell)})"
    for x in sequence.inputs:
        if 0 in (x.shape[2], *sequence.states[0].shape[1:]):
            raise Unfusable(f"x has no features, or {cell.state_names[0]} no units: there is nothing to read{where}")
        if x.dtype != dtype or dtype.kind != "f":
            kinds = f"{x.dtype} beside {dtype}" if x.dtype != dtype else dtype
            raise Unfusable(f"x is {kinds}; give floats of one dtype: write x.to(np.float32) before the layer{where}")
    for name, state in zip(cell.state_names, sequence.states):
        if state.dtype != dtype:
            lead = f"write x.to(np.{state.dtype}) before the layer, or let" if state.dtype.kind == "f" else "let"
            raise Unfusable(f"x is {dtype}, and the state {name} is {state.dtype}: {lead} all be {dtype}{where}")
    return trace_step(cell, sequence)
