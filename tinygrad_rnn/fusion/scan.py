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
from ..autograd.shapes import stack, unbind
from ..autograd.tape import Node, Value, enable_grad, mode
from ..autograd.tensor import Tensor, grad
from ..kernels import cache
from ..kernels.matmul import matmul, pack
from ..kernels.pool import empty
from ..kernels.threads import get_num_threads, run
from .adjoint import Product
from .emit import HEADER, Block, Loop, imports
from .plan import Memory, Plan, _base
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
        self.inputs = [*plan.sequences, *plan.vectors, *(w for p in plan.products for w in p.weights), *plan.states]
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
        old, new = ("t % 2, row", "(t + 1) % 2, row") if direction == "inference" else ("t, row", "t + 1, row")
        places = {
            x: Memory(f"{x.name}_in" if x.kind == "input" else x.name, "t, row", 0, x.width) for x in plan.sequences
        }
        places |= {v: Memory(v.name, "", 0, v.width) for v in plan.vectors}
        output = plan.states[0]
        at_time = lambda s, index: (
            index
            if s is not output or direction != "inference"
            else index.replace(" % 2", "").replace("(t + 1)", "t + 1")
        )
        for state in plan.states:
            places[state] = Memory(state.name, at_time(state, old), 0, state.width)
        ends = [Memory(s.name, at_time(s, new), 0, s.width) for s in plan.states]
        stores: dict[Line, list[Memory]] = {}
        put = lambda line, memory: stores.setdefault(line, []).append(memory)
        if direction == "backward":
            lines, origin, towards = plan.backward, plan.gradient.origin, plan.gradient.towards
            weights = {line: f"{line.inputs[1].name}_packed" for line in lines if line.row is table.matmul}
            for line, end in zip(plan.outputs, ends):
                places.setdefault(line, end)
            places |= {x: Memory(f"{x.name}_saved", "t, row", 0, x.width) for x in plan.saved}
            places[plan.gradient.dy] = Memory("dy", "t, row", 0, plan.gradient.dy.width)
            for carry, gradient in zip(plan.gradient.carries, plan.gradient.states):
                places[carry] = Memory(carry.name, "(t + 1) % 2, row", 0, carry.width)
                zero = Line(f"{carry.name}_zero", "zeros", carry.shape, carry.dtype)
                put(gradient or zero, Memory(carry.name, "t % 2, row", 0, carry.width))
            for line, name in self.stashes.items():
                put(line, Memory(name, "t, row", 0, line.width))
        else:
            lines, origin, towards = plan.forward, {}, {}
            weights = self.weights
            for line, end in zip(plan.outputs, ends):
                put(line, end)
            if direction == "forward":
                for line in plan.saved:
                    put(line, Memory(f"{line.name}_saved", "t, row", 0, line.width))
                for product in plan.products:
                    left = _base(product.left)
                    if left not in places and left not in plan.outputs and left not in self.kept:
                        put(left, Memory(f"{left.name}_saved", "t, row", 0, left.width))
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
        vectors: list[Tensor],
        weights: list[list[Tensor]],
        states: Sequence[Tensor],
        T: int,
        B: int,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run over T steps; returns the first state after each step [T, B, H] and the final states."""
        inputs = [*sequences, *vectors, *[w for group in weights for w in group], *states]
        wanted = [x for x in inputs if x.node is not None] if mode.level else []
        direction = "forward" if wanted else "inference"
        named: dict[str, np.ndarray] = {}
        for line, x in zip(self.plan.sequences, sequences):
            named[f"{line.name}_in" if line.kind == "input" else line.name] = np.ascontiguousarray(x.data)
        for line, x in zip(self.plan.vectors, vectors):
            named[line.name] = np.ascontiguousarray(x.data).reshape(-1)
        joined = [
            group[0].data if len(group) == 1 else np.concatenate([w.data for w in group], axis=1) for group in weights
        ]
        for product, w in zip(self.plan.products, joined):
            named[self.weights[product.result]] = pack(w).panels
        for k, (state, x) in enumerate(zip(self.plan.states, states)):
            length = T + 1 if direction == "forward" or k == 0 else 2
            named[state.name] = values = empty((length, B, state.width), self.dtype)
            values[0] = x.data
        self._run(direction, named, T, B)
        first, *others = (named[state.name] for state in self.plan.states)
        last = T if direction == "forward" else T % 2
        outputs = [first[1:], first[T].copy(), *(values[last].copy() for values in others)]
        if not wanted:
            y, *finals = (Value.tensor(x) for x in outputs)
            return y, tuple(finals)
        node = Node(
            self,
            tuple(x.node for x in wanted if x.node is not None),
            tuple(x.data.shape for x in wanted),
            ([x.node is not None for x in inputs], [x.data for x in inputs], named, joined, T, B),
        )
        needing = {line for line, x in zip(self.inputs, inputs) if x.node is not None}
        nodes = [
            Node(_Output(k), (node,), ((),), ()) if depends & needing else None
            for k, depends in enumerate([self.depends[0], *self.depends])
        ]
        y, *finals = (Value.tensor(x, node) for x, node in zip(outputs, nodes))
        return y, tuple(finals)

    def _run(self, direction: str, named: dict[str, np.ndarray], T: int, B: int) -> None:
        """Give the kernel what it needs besides, and every thread its rows."""
        for name, width in self.buffers[direction].items():
            named[name] = empty((B, width), self.dtype)
        for name in self.arrays[direction]:
            if name not in named:
                named[name] = empty((T, B, self.widths[name]), self.dtype)
        arguments = [*self.sizes, *[named[name] for name in self.arrays[direction]]]
        kernel = self.kernel(direction, arguments)
        chunks = max(1, min(get_num_threads(), B // ROWS_PER_THREAD, T * B * self.work // WORK_PER_THREAD))
        if chunks == 1:
            kernel(0, B, T, *arguments)
            return
        bounds = [B * i // chunks for i in range(chunks + 1)]
        run(lambda i: kernel(bounds[i], bounds[i + 1], T, *arguments), chunks)

    # ---- The gradient ------------------------------------------------------------------------------------------------

    def gradients(self, dy: Cotangents, saved: tuple[Any, ...]) -> Sequence[Any]:
        """See `tape.Operation`."""
        needs, inputs, named, joined, T, B = saved
        if any(isinstance(x, Value) for x in dy.parts.values()):
            return self._gradients_on_tape(dy, needs, inputs, T)
        named = dict(named)
        plan, gradient = self.plan, self.plan.gradient
        zeros = lambda shape: np.zeros(shape, self.dtype)
        named["dy"] = np.ascontiguousarray(dy.parts[0]) if 0 in dy.parts else zeros((T, B, plan.states[0].width))
        for k, carry in enumerate(gradient.carries):
            named[carry.name] = zeros((2, B, carry.width))
            if k + 1 in dy.parts:
                named[carry.name][T % 2] = dy.parts[k + 1]
        for name, k in self.transposed.items():
            named[name] = pack(joined[k].T).panels
        self._run("backward", named, T, B)
        found: list[Any] = []
        for line in plan.sequences:
            found.append(self._stash(gradient.sequences[line], named) if line in gradient.sequences else None)
        sums: dict[str, np.ndarray] = {}
        for line in plan.vectors:
            found.append(self._vector_gradient(line, named, sums).reshape(inputs[len(found)].shape))
        for product in plan.products:
            found += self._weight_gradients(product, named, T, B)
        found += [named[carry.name][0] for carry in gradient.carries]
        return [np.zeros(x.shape, x.dtype) if g is None else g for x, g, need in zip(inputs, found, needs) if need]

    def _stash(self, line: Line, named: dict[str, np.ndarray]) -> np.ndarray:
        name, first = self.stash_places[line]
        return named[name][:, :, first : first + line.width]

    def _vector_gradient(self, line: Line, named: dict[str, np.ndarray], sums: dict[str, np.ndarray]) -> np.ndarray:
        """The sum over all rows and steps; that of a whole sequence serves all vectors that share it."""
        total = np.zeros(line.width, self.dtype)
        for vector, first, d in self.plan.gradient.vectors:
            if vector is line:
                name, start = self.stash_places[d]
                if name not in sums:
                    sums[name] = np.add.reduce(named[name].reshape(-1, named[name].shape[2]), axis=0)
                total[first : first + d.width] += sums[name][start : start + d.width]
        return total

    def _weight_gradients(
        self, product: Product, named: dict[str, np.ndarray], T: int, B: int
    ) -> list[np.ndarray | None]:
        """dW = left^T @ d over all T * B rows, cut into the columns of the joined weights."""
        d = next((g for p, g in self.plan.gradient.products if p is product), None)
        if d is None:
            return [None] * len(product.weights)
        left = self._left(product.left, named, T)
        shape = (product.left.width, product.result.width)
        dw = matmul(left.reshape(T * B, -1).T, self._stash(d, named).reshape(T * B, -1), out=empty(shape, self.dtype))
        ends = np.cumsum([line.width for line in product.lines])
        return list(np.split(dw, ends[:-1], axis=1)) if len(ends) > 1 else [dw]

    def _left(self, line: Line, named: dict[str, np.ndarray], T: int) -> np.ndarray:
        """The left operand of a product at every step."""
        if line.row is table.part:
            at = line.attributes["at"][-1]
            return self._left(line.inputs[0], named, T)[:, :, at]
        if line in self.plan.states:
            return named[line.name][:T]
        if line in self.plan.outputs:
            return named[self.plan.states[self.plan.outputs.index(line)].name][1:]
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

    def _gradients_on_tape(self, dy: Cotangents, needs: list[bool], inputs: list[Tensor], T: int) -> Sequence[Any]:
        """The gradients as tensors that can be differentiated again: the same loop, recorded."""
        plan = self.plan
        with enable_grad():
            inputs = [x.clone() for x in inputs]  # of its own each: one may be made of another, outside of the loop
            values = dict(zip(self.inputs[: len(inputs) - len(plan.states)], inputs))
            states = tuple(inputs[len(inputs) - len(plan.states) :])
            steps = {line: unbind(values.pop(line)) for line in plan.sequences}
            outputs = []
            for t in range(T):
                known = values | dict(zip(plan.states, states)) | {line: xs[t] for line, xs in steps.items()}
                states = self._step_on_tape(known)
                outputs.append(states[0])
            results = [stack(outputs), *states]
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
