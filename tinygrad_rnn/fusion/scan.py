"""A planned step as two compiled kernels, and the two kernels as one node of the tape.

The node's inputs are the sequences, vectors and weights that were computed on the tape before it, and the initial
states; its outputs are the sequence of the first state and the final values of all. Its gradient is the backward
kernel followed by one product for each product of the loop (dW = left^T @ d, over all steps at once) and one sum for
each vector. A second derivative runs the step on the tape instead.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.shapes import cat, split
from ..autograd.tape import Node, Value, enable_grad, mode
from ..autograd.tensor import Tensor, grad
from ..kernels import cache
from ..kernels.matmul import matmul, pack
from ..kernels.pool import empty
from ..kernels.threads import get_num_threads, run
from .adjoint import Product
from .emit import HEADER, Block, Loop, imports
from .plan import Memory, Plan, _base
from .rows import Rows
from .trace import Line, sized

ROWS_PER_THREAD = 4  # fewer rows than this are not worth a thread
WORK_PER_THREAD = 400_000  # elements of the loop below which a thread does not pay


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
    scatter = None

    def __init__(self, k: int) -> None:
        self.k = k

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> Sequence[Any]:
        return [Cotangents({self.k: dy})]

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        return ()


class Scan:
    """The kernels of a planned step.

    Attributes:
        plan: what they do.
        sources: "forward" (which saves for the gradient), "inference" (which does not) and "backward" -> Numba source.
    """

    name = "scan"
    scatter = None

    def __init__(self, plan: Plan, title: str) -> None:
        self.plan, self.title = plan, title
        self.dtype = plan.states[0].dtype
        self.sizes = self._size_names()
        self.sources: dict[str, str] = {}
        self.arrays: dict[str, list[str]] = {}
        self.buffers: dict[str, dict[str, int]] = {}
        self.phases: dict[str, list[tuple[str, list[Loop]]]] = {}  # see Block
        self.kept = list(plan.saved)  # forward values in memory for the backward pass, besides the states
        self.compiled: dict[str, Callable[..., Any]] = {}
        self.built: dict[str, tuple[str, float]] = {}  # direction -> where its machine code came from, and the seconds
        self.transposed: dict[str, int] = {}  # packed transposed weights of the backward kernel -> product
        for line in plan.backward:
            if line.row is table.matmul:
                (k,) = (k for k, p in enumerate(plan.products) if f"{p.result.name}_weights_T" == line.inputs[1].name)
                self.transposed[f"{line.inputs[1].name}_packed"] = k
        weights = [w for product in plan.products for w in product.weights]
        self.inputs = [*plan.sequences, *plan.constants, *plan.vectors, *weights, *plan.states]
        self.depends = self._dependencies()
        self.weights = {p.result: f"{p.result.name}_packed" for p in plan.products}
        self._gradient_memory()
        self.widths = {f"{x.name}_saved": x.width for x in plan.forward}
        self.widths |= {name: line.width for line, name in self.stashes.items()}
        self.work = 8 * sum(self.sizes)  # elements a row and step, roughly
        for direction in ("forward", "inference", "backward"):
            self._emit(direction)

    def _size_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for state in self.plan.states:
            if state.width not in names and state.width > 1:
                names[state.width] = "H" if not names else f"H_{len(names) + 1}"
        return names

    def _dependencies(self) -> list[set[Line]]:
        """For each state, the inputs that its values depend on, over any number of steps."""
        step = []
        for output in self.plan.outputs:
            ahead, seen = [output], {output}
            while ahead:
                for y in ahead.pop().inputs:
                    if isinstance(y, Line) and y not in seen:
                        seen.add(y)
                        ahead.append(y)
            step.append(seen)
        depends = [{state} | seen for state, seen in zip(self.plan.states, step)]
        for _ in self.plan.states:
            for own in depends:
                for state, seen in zip(self.plan.states, step):
                    if state in own:
                        own |= seen
        return depends

    # ---- Places ------------------------------------------------------------------------------------------------------

    def _gradient_memory(self) -> None:
        """Name the sequences that the backward kernel writes: one for all that have the same gradient or parts of it.

        Sets `stashes`, line -> its sequence, and `stash_places`, line -> (sequence, first column).
        """
        gradient = self.plan.gradient
        self.stashes: dict[Line, str] = {}
        self.stash_places: dict[Line, tuple[str, int]] = {}
        kept = [*gradient.sequences.values(), *(g for _, g in gradient.products), *(g for _, _, g in gradient.vectors)]
        for line in sorted(kept, key=lambda line: line.row is not table.cat):  # wholes before their parts
            if line in self.stash_places:
                continue
            name = f"{line.name}_all" if line.kind == "operation" else f"d_{len(self.stashes)}_all"
            self.stashes[line] = name
            self.stash_places[line] = name, 0
            if line.row is table.cat:
                start = 0
                for piece in line.inputs:
                    self.stash_places.setdefault(piece, (name, start))
                    start += piece.width

    def _emit(self, direction: str) -> None:
        plan = self.plan
        places = {
            x: Memory(f"{x.name}_in" if x.kind == "input" else x.name, "now + row", 0, x.width) for x in plan.sequences
        }
        places |= {x: Memory(x.name, "row", 0, x.width) for x in plan.constants}
        places |= {v: Memory(v.name, "", 0, v.width) for v in plan.vectors}
        ends = []
        for k, state in enumerate(plan.states):
            brief = direction == "inference" and k > 0  # nobody looks at its values but the next step
            old, new = ("t % 2, row", "(t + 1) % 2, row") if brief else ("old + row", "new + row")
            places[state] = Memory(state.name, old, 0, state.width)
            ends.append(Memory(state.name, new, 0, state.width))
        stores: dict[Line, list[Memory]] = {}
        put = lambda line, memory: stores.setdefault(line, []).append(memory)
        if direction == "backward":
            lines, origin, towards = plan.backward, plan.gradient.origin, plan.gradient.towards
            weights = {line: f"{line.inputs[1].name}_packed" for line in lines if line.row is table.matmul}
            for line, end in zip(plan.outputs, ends):
                places.setdefault(line, end)
            places |= {x: Memory(f"{x.name}_saved", "now + row", 0, x.width) for x in plan.saved}
            places |= {dy: Memory(dy.name, "now + row", 0, dy.width) for dy in plan.gradient.dys}
            for carry, gradient in zip(plan.gradient.carries, plan.gradient.states):
                places[carry] = Memory(carry.name, "(t + 1) % keep, row", 0, carry.width)
                zero = Line(f"{carry.name}_zero", "zeros", carry.shape, carry.dtype)
                put(gradient or zero, Memory(carry.name, "t % keep, row", 0, carry.width))
            for line, name in self.stashes.items():
                put(line, Memory(name, "now + row", 0, line.width))
        else:
            lines, origin, towards = plan.forward, {}, {}
            weights = self.weights
            for line, end in zip(plan.outputs, ends):
                put(line, end)
            if direction == "forward":
                for line in plan.saved:
                    put(line, Memory(f"{line.name}_saved", "now + row", 0, line.width))
                for product in plan.products:
                    left = _base(product.left)
                    if left not in places and left not in plan.outputs and left not in self.kept:
                        put(left, Memory(f"{left.name}_saved", "now + row", 0, left.width))
                        self.kept.append(left)
        block = Block(
            "backward" if direction == "backward" else "forward",
            lines,
            places,
            stores,
            weights,
            self.sizes,
            origin,
            towards,
        )
        text, self.arrays[direction] = block.driver(descending=direction == "backward")
        bits = self.dtype.itemsize * 8
        self.sources[direction] = (
            HEADER.format(title=f"{self.title}, {direction}", imports=imports(text, bits, block.functions)) + text
        )
        self.buffers[direction], self.phases[direction] = block.buffers, block.phases

    def kernel(self, direction: str, arguments: Sequence[Any]) -> Callable[..., Any]:
        """The compiled driver of one direction, for arguments like these."""
        if direction not in self.compiled:
            start = time.perf_counter()
            module = cache.load(self.sources[direction], f"scan_{direction}_{self.dtype.name}")
            kernel = getattr(module, "backward" if direction == "backward" else "forward")
            known = bool(getattr(kernel, "signatures", ()))  # a twin of this layer had it compiled
            kernel(0, 0, 0, *arguments)  # no rows, no steps: compiles, and computes nothing
            found = known or bool(getattr(getattr(kernel, "stats", None), "cache_hits", ()))
            origin = "had been loaded" if known else "from the cache" if found else "compiled"
            self.built[direction] = origin, time.perf_counter() - start
            self.compiled[direction] = kernel
        return self.compiled[direction]

    # ---- Running -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        sequences: list[Tensor],
        constants: list[Tensor],
        vectors: list[Tensor],
        weights: list[list[Tensor]],
        states: Sequence[Tensor],
        rows: Rows,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run over all steps.

        Returns:
            The values after each step, [rows.total, width], of those states that are watched: the first, or all.
            The final values of all states, [B, width].
        """
        inputs = [*sequences, *constants, *vectors, *[w for group in weights for w in group], *states]
        wanted = [x for x in inputs if x.node is not None] if mode.level else []
        watched = len(self.plan.gradient.dys)
        direction = "forward" if wanted or watched > 1 else "inference"
        named: dict[str, np.ndarray] = {}
        for line, x in zip(self.plan.sequences, sequences):
            named[f"{line.name}_in" if line.kind == "input" else line.name] = np.ascontiguousarray(x.data)
        for line, x in zip(self.plan.constants, constants):
            named[line.name] = np.ascontiguousarray(x.data)
        for line, x in zip(self.plan.vectors, vectors):
            named[line.name] = np.ascontiguousarray(x.data).reshape(-1)
        joined = [
            group[0].data if len(group) == 1 else np.concatenate([w.data for w in group], axis=1) for group in weights
        ]
        for product, w in zip(self.plan.products, joined):
            named[self.weights[product.result]] = pack(w).panels
        B = rows.B
        for k, (state, x) in enumerate(zip(self.plan.states, states)):
            if direction == "forward" or k == 0:
                named[state.name] = values = empty((B + rows.total, state.width), self.dtype)
                values[:B] = x.data
            else:
                named[state.name] = values = empty((2, B, state.width), self.dtype)
                values[0] = x.data
        self._run(direction, named, rows)
        outputs = [named[state.name][B:] for state in self.plan.states[:watched]]
        for state in self.plan.states:
            values = named[state.name]
            outputs.append(values[rows.ends] if values.ndim == 2 else values[rows.lengths_of_all() % 2, np.arange(B)])
        if not wanted:
            results = [Value.tensor(x) for x in outputs]
        else:
            node = Node(
                self,
                tuple(x.node for x in wanted if x.node is not None),
                tuple(x.data.shape for x in wanted),
                ([x.node is not None for x in inputs], [x.data for x in inputs], named, joined, rows),
            )
            needing = {line for line, x in zip(self.inputs, inputs) if x.node is not None}
            nodes = [
                Node(_Output(k), (node,), ((),), ()) if depends & needing else None
                for k, depends in enumerate([*self.depends[:watched], *self.depends])
            ]
            results = [Value.tensor(x, node) for x, node in zip(outputs, nodes)]
        return results[:watched], results[watched:]

    def _run(self, direction: str, named: dict[str, np.ndarray], rows: Rows) -> None:
        """Give the kernel what it needs besides, and every thread its rows."""
        for name, width in self.buffers[direction].items():
            named[name] = empty((rows.B, width), self.dtype)
        for name in self.arrays[direction]:
            if name not in named:
                named[name] = empty((rows.total, self.widths[name]), self.dtype)
        keep = [named[self.plan.gradient.carries[0].name].shape[0]] if direction == "backward" else []
        arguments = [rows.starts, *keep, *self.sizes, *[named[name] for name in self.arrays[direction]]]
        kernel = self.kernel(direction, arguments)
        chunks = max(1, min(get_num_threads(), rows.B // ROWS_PER_THREAD, rows.total * self.work // WORK_PER_THREAD))
        if chunks == 1:
            kernel(0, rows.B, rows.T, *arguments)
            return
        bounds = rows.cut(chunks)
        run(lambda i: kernel(bounds[i], bounds[i + 1], rows.T, *arguments), chunks)

    # ---- The gradient ------------------------------------------------------------------------------------------------

    def gradients(self, dy: Cotangents, saved: tuple[Any, ...]) -> Sequence[Any]:
        """See `tape.Operation`."""
        needs, inputs, named, joined, rows = saved
        if any(isinstance(x, Value) for x in dy.parts.values()):
            return self._gradients_on_tape(dy, needs, inputs, rows)
        named = dict(named)
        plan, gradient = self.plan, self.plan.gradient
        zeros = lambda shape: np.zeros(shape, self.dtype)
        for k, line in enumerate(gradient.dys):
            given = dy.parts.get(k)
            named[line.name] = zeros((rows.total, line.width)) if given is None else np.ascontiguousarray(given)
        for k, carry in enumerate(gradient.carries, len(gradient.dys)):
            named[carry.name] = zeros((2, rows.B, carry.width))
            if k in dy.parts:
                named[carry.name][rows.lengths_of_all() % 2, np.arange(rows.B)] = dy.parts[k]
        for name, k in self.transposed.items():
            named[name] = pack(joined[k].T).panels
        self._run("backward", named, rows)
        found: list[Any] = []
        for line in plan.sequences:
            found.append(self._stash(gradient.sequences[line], named) if line in gradient.sequences else None)
        for line in plan.constants:
            d = gradient.sequences.get(line)
            found.append(None if d is None else rows.summed(self._stash(d, named)))
        sums: dict[str, np.ndarray] = {}
        for line in plan.vectors:
            found.append(self._vector_gradient(line, named, sums).reshape(inputs[len(found)].shape))
        for product in plan.products:
            found += self._weight_gradients(product, named, rows)
        found += [named[carry.name][0] for carry in gradient.carries]
        return [np.zeros(x.shape, x.dtype) if g is None else g for x, g, need in zip(inputs, found, needs) if need]

    def _stash(self, line: Line, named: dict[str, np.ndarray]) -> np.ndarray:
        name, first = self.stash_places[line]
        return named[name][:, first : first + line.width]

    def _vector_gradient(self, line: Line, named: dict[str, np.ndarray], sums: dict[str, np.ndarray]) -> np.ndarray:
        """The sum over all rows and steps; that of a whole sequence serves all vectors that share it."""
        total = np.zeros(line.width, self.dtype)
        for vector, first, d in self.plan.gradient.vectors:
            if vector is line:
                name, start = self.stash_places[d]
                if name not in sums:
                    sums[name] = np.add.reduce(named[name], axis=0)
                total[first : first + d.width] += sums[name][start : start + d.width]
        return total

    def _weight_gradients(self, product: Product, named: dict[str, np.ndarray], rows: Rows) -> list[np.ndarray | None]:
        """dW = left^T @ d over all rows of all steps, cut into the columns of the joined weights."""
        d = next((g for p, g in self.plan.gradient.products if p is product), None)
        if d is None:
            return [None] * len(product.weights)
        left, stash = self._left(product.left, named, rows), self._stash(d, named)
        dw = matmul(left.T, stash, out=empty((product.left.width, product.result.width), self.dtype))
        ends = np.cumsum([line.width for line in product.lines])
        return list(np.split(dw, ends[:-1], axis=1)) if len(ends) > 1 else [dw]

    def _left(self, line: Line, named: dict[str, np.ndarray], rows: Rows) -> np.ndarray:
        """The left operand of a product at every step."""
        if line.row is table.part:
            at = line.attributes["at"][-1]
            return self._left(line.inputs[0], named, rows)[:, at]
        if line in self.plan.states:
            return rows.before(named[line.name])
        if line in self.plan.outputs:
            return named[self.plan.states[self.plan.outputs.index(line)].name][rows.B :]
        if line in self.plan.sequences:
            return named[f"{line.name}_in" if line.kind == "input" else line.name]
        return named[f"{line.name}_saved"]

    # ---- On the tape -------------------------------------------------------------------------------------------------

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        """See `tape.Operation`: the inputs as tensors that remember where they came from."""
        assert node.saved is not None
        needs, inputs, *rest = node.saved
        parents = iter(node.parents)
        return (needs, [Value.tensor(x, next(parents) if need else None) for x, need in zip(inputs, needs)], *rest)

    def _gradients_on_tape(
        self, dy: Cotangents, needs: list[bool], inputs: list[Tensor], rows: Rows
    ) -> Sequence[Any]:
        """The gradients as tensors that can be differentiated again: the same loop, recorded."""
        plan = self.plan
        with enable_grad():
            inputs = [x.clone() for x in inputs]  # of its own each: one may be made of another, outside of the loop
            values = dict(zip(self.inputs[: len(inputs) - len(plan.states)], inputs))
            states = tuple(inputs[len(inputs) - len(plan.states) :])
            running = np.diff(rows.starts[1:]).tolist()
            steps = {line: split(values.pop(line), running) for line in plan.sequences}
            outputs: list[list[Tensor]] = [[] for _ in plan.gradient.dys]
            for t, n in enumerate(running):
                before = states if n == rows.B else tuple(state[:n] for state in states)
                known = values | dict(zip(plan.states, before)) | {line: xs[t] for line, xs in steps.items()}
                after = self._step_on_tape(known)
                for output, state in zip(outputs, after):
                    output.append(state)
                states = after if n == rows.B else tuple(cat([new, old[n:]]) for new, old in zip(after, states))
            results = [*map(cat, outputs), *states]
        ks = sorted(dy.parts)
        wanted = [x for x, need in zip(inputs, needs) if need]
        found = grad([results[k] for k in ks], wanted, [dy.parts[k] for k in ks], create_graph=True, allow_unused=True)
        return [Value.tensor(np.zeros(x.shape, x.dtype)) if g is None else g for x, g in zip(wanted, found)]

    def _step_on_tape(self, known: dict[Line, Any]) -> tuple[Tensor, ...]:
        """The new states from what is known at a step; lines that only lead to what is known are left out."""
        rows = known[self.plan.states[0]].shape[0]
        for line, traced in self.plan.script:
            if traced.value is not None:
                known.setdefault(line, traced.value)
            for way in (traced, line):  # as it was traced, or as a part of the hoisted product that it was joined to
                if way.row is not None and line not in known and all(x in known for x in _lines(way.inputs)):
                    operands = [known[x] if isinstance(x, Line) else x for x in way.inputs]
                    known[line] = way.row(*operands, **sized(way.attributes, rows))
        return tuple(known[line] for line in self.plan.outputs)


def _lines(inputs: Sequence[Any]) -> list[Line]:
    return [x for x in inputs if isinstance(x, Line)]
