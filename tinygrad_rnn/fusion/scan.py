"""A planned step as compiled kernels: where everything lies in memory, their source, and how threads share a run."""

import itertools
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from numba import config

from ..autograd import table
from ..kernels import cache
from ..kernels.products import products
from ..kernels.sharing import Shared
from ..kernels.threads import get_num_threads
from .emit import Block, Loop, module
from .names import Names, printable
from .plan import Memory, Plan, _base, _read
from .reuse import gradients_in_place, kept_in_place, readers, spare_afterwards
from .rows import Rows
from .trace import Line

ROWS_PER_THREAD = 4  # fewer rows than this are not worth a thread
WORK_PER_THREAD = 1_100_000  # multiply-adds of the loop below which a thread does not pay: some 20 microseconds


class Scan:
    """The kernels of a planned step.

    Attributes:
        plan: what they do.
        sources: "forward" (which saves for the gradient), "inference" (which does not) and "backward" -> Numba source.
        arrays, buffers: of each direction, the arrays in the order of the kernel's arguments; and those among them that
            have one row for each sequence, with their widths.
        kept_arrays: of the forward kernel, what the backward one or the products after it may read.
    """

    def __init__(self, plan: Plan, title: str) -> None:
        self.plan, self.title = plan, printable(title)
        self.dtype = plan.states[0].dtype
        self.sizes = self._size_names()
        self.sources: dict[str, str] = {}
        self.texts: dict[str, str] = {}  # the same without imports
        self.functions: dict[str, set[str]] = {}  # of `maths`, which these call
        self.arrays: dict[str, list[str]] = {}
        self.buffers: dict[str, dict[str, int]] = {}
        self.phases: dict[str, list[tuple[str, list[Loop]]]] = {}  # see Block
        self.kept = list(plan.saved)  # forward values in memory for the backward pass, besides the states
        self.compiled: dict[str, Callable[..., Any]] = {}
        self.built: dict[str, tuple[str, float]] = {}  # direction -> where its machine code came from, and the seconds
        self.transposed: dict[str, int] = {}  # packed transposed weights of the backward kernel -> product
        transposed = {f"{product.result.name}_weights_T": k for k, product in enumerate(plan.products)}
        for line in plan.backward:
            if line.row is table.matmul:
                name = line.inputs[1].name
                self.transposed[f"{name}_packed"] = transposed[name]
        self.weights = {p.result: f"{p.result.name}_packed" for p in plan.products}
        self.kept_in: dict[Line, Memory] = {}  # values kept for the backward kernel in place of hoisted products
        self.overwritten: dict[str, str] = {}  # array of gradients -> of these values, whose place they take
        self._gradient_memory()
        self.vector_sums = self._joined_vectors()
        self.widths = {f"{x.name}_saved": x.width for x in plan.forward}
        self.widths |= {name: line.width for line, name in self.stashes.items()}
        products = sum(p.left.width * p.result.width for p in plan.products)
        self.work = products + 16 * sum(state.width for state in plan.states)  # for a row and step, roughly
        for direction in ("forward", "inference", "backward"):
            self._emit(direction)
        read = [*map(sequence_array, plan.sequences)]
        read += [x.name for x in (*plan.constants, *plan.vectors, *plan.states)]
        unread = self.widths.keys() - set(read)
        written = [name for name in self.arrays["forward"] if name in unread]
        self.kept_arrays = [*read, *written]  # of the forward kernel

    def _size_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for state in self.plan.states:
            if state.width not in names and state.width > 1:
                names[state.width] = "H" if not names else f"H_{len(names) + 1}"
        return names

    # ---- Places ------------------------------------------------------------------------------------------------------

    def _gradient_memory(self) -> None:
        """Name the sequences that the backward kernel writes: one for all that have the same gradient or parts of it.

        Sets `stashes`, line -> its sequence, and `stash_places`, line -> (sequence, first column). What vectors want
        is summed over time on the way, a row for each sequence, so that the sum does not depend on threads: `sums`,
        line -> (array, first column), and `vectors`, (vector, first column, line) with concatenations taken apart.
        """
        gradient = self.plan.gradient
        self.stashes: dict[Line, str] = {}
        names = Names()
        self.stash_places: dict[Line, tuple[str, int]] = {}
        kept = [*gradient.sequences.values(), *(g for _, g in gradient.products)]
        self.vectors: list[tuple[Line, int, Line]] = []
        ahead = list(reversed(gradient.vectors))
        while ahead:
            vector, first, d = ahead.pop()
            if d.row is table.cat:
                ahead += [(vector, first + start, x) for x, start in _pieces(d)][::-1]
            elif d.kind != "zeros":
                self.vectors.append((vector, first, d))
        wholes = {piece: (whole, start) for whole in kept for piece, start in _pieces(whole)}
        self.sums: dict[Line, tuple[str, int]] = {}
        self.sum_widths: dict[str, int] = {}
        for _, _, d in self.vectors:
            if d.kind == "operation" and d.row not in (table.matmul, table.part):
                whole, start = wholes.get(d, (d, 0))
                self.sums[d] = f"{whole.name}_sum", start
                self.sum_widths[f"{whole.name}_sum"] = whole.width
        kept += [d for _, _, d in self.vectors if d not in self.sums]
        for line in sorted(kept, key=lambda line: line.row is not table.cat):  # wholes before their parts
            if line in self.stash_places:
                continue
            name = f"{line.name}_all" if line.kind == "operation" else f"d_{len(self.stashes)}_all"
            name = names.new(name)
            self.stashes[line] = name
            self.stash_places[line] = name, 0
            for piece, start in _pieces(line):
                self.stash_places.setdefault(piece, (name, start))

    def _joined_vectors(self) -> list[tuple[Line, int, str, int, int]]:
        """(vector, first column, array, its first column, width): what is summed over the rows of arrays.

        Neighbouring columns of a vector that come from neighbouring columns of an array are taken together.
        """
        joined: list[tuple[Line, int, str, int, int]] = []
        for vector, first, d in sorted(self.vectors, key=lambda each: (each[0].name, each[1])):
            name, start = self.sums[d] if d in self.sums else self.stash_places[d]
            width = d.width
            if joined:
                known, known_first, known_name, known_start, known_width = joined[-1]
                ends = known, known_first + known_width, known_name, known_start + known_width
                if ends == (vector, first, name, start):
                    joined.pop()
                    first, start, width = known_first, known_start, known_width + width
            joined.append((vector, first, name, start, width))
        return joined

    def _emit(self, direction: str) -> None:
        plan = self.plan
        places = {x: Memory(sequence_array(x), "now + row", 0, x.width) for x in plan.sequences}
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
        sums = {x: Memory(name, "row", start, x.width) for x, (name, start) in self.sums.items()}
        make = lambda: Block(
            "backward" if direction == "backward" else "forward",
            lines,
            places,
            stores,
            weights,
            self.sizes,
            origin,
            towards,
            sums if direction == "backward" else {},
        )
        block = make()
        if direction == "forward":
            self.kept_in = kept_in_place(block, plan)
            for line, memory in self.kept_in.items():
                stores[line] = [memory, *(m for m in stores[line] if m.array != f"{line.name}_saved")]
            block = make() if self.kept_in else block
            block.notes = _notes(self.kept_in, "after its step")
        elif direction == "backward":
            kept = self.kept_in | spare_afterwards(block, plan, self.kept_in)
            places |= self._overwrite(block, kept)
            block = make() if kept else block
            read = {y for line in plan.backward for y in _read(line)}
            shared = [x for x in kept if x in self.kept_in or places[x].array in self.overwritten]
            block.notes = _notes({line: places[line] for line in shared if line in read}, "before its step")
        text, self.arrays[direction] = block.driver(descending=direction == "backward")
        self.texts[direction], self.functions[direction] = text, block.functions
        self.buffers[direction], self.phases[direction] = block.buffers, block.phases
        self.add(direction, "")

    def add(self, direction: str, text: str) -> None:
        """Write more functions into the module of a direction."""
        self.texts[direction] += text
        title, bits = f"{self.title}, {direction}", self.dtype.itemsize * 8
        self.sources[direction] = module(title, self.texts[direction], bits, self.functions[direction])

    def _overwrite(self, block: Block, kept: dict[Line, Memory]) -> dict[Line, Memory]:
        """Let gradients take the place of values that nobody reads after them; where the values are then."""
        left, everybody = kept, readers(block)
        widths = self.widths | {sequence_array(x): x.width for x in self.plan.sequences}
        for whole, name in self.stashes.items():
            as_wide = {line: memory for line, memory in left.items() if widths[memory.array] == whole.width}
            array = gradients_in_place(block, as_wide, dict(_pieces(whole)) or {whole: 0}, everybody)
            if array is not None:
                self.overwritten[name] = array
                left = {line: memory for line, memory in left.items() if memory.array != array}
        name_of = {array: name for name, array in self.overwritten.items()}
        return {line: m._replace(array=name_of.get(m.array, m.array)) for line, m in kept.items()}

    def kernel(self, direction: str, arguments: Sequence[Any]) -> Callable[..., Any]:
        """The compiled driver of one direction, for arguments like these, with which it is called to be compiled.

        That of a short call, "short forward" or so, lies beside it.
        """
        if direction not in self.compiled:
            start, known = time.perf_counter(), None
            products(self.dtype.name)  # which no kernel from the disk can make without swallowing Ctrl-C
            kind, _, name = direction.rpartition(" ")
            driver = "short_call" if kind else "backward" if name == "backward" else "forward"

            def compile_driver(module: ModuleType) -> None:
                nonlocal known
                if known is None:
                    known = bool(getattr(getattr(module, driver), "signatures", ()))  # a twin of this layer came first
                getattr(module, driver)(*arguments)

            module = cache.load(self.sources[name], f"scan_{name}_{self.dtype.name}", compile_driver)
            kernel = getattr(module, driver)
            found = known or bool(getattr(getattr(kernel, "stats", None), "cache_hits", ()))
            origin = "had been loaded" if known else "from the cache" if found else "compiled"
            self.built[direction] = origin, time.perf_counter() - start
            self.compiled[direction] = kernel
        return self.compiled[direction]

    def seconds_compiling(self) -> float:
        """The time it has taken to compile kernels, or to load them."""
        return sum(seconds for _, seconds in self.built.values())

    # ---- Running -----------------------------------------------------------------------------------------------------

    def launcher(self, direction: str) -> Callable[..., None]:
        """A function that runs a kernel over all steps of some rows, every thread over its own."""
        shared: Shared | None = None

        def launch(rows: Rows, *arguments: Any) -> None:
            nonlocal shared
            # No rows, no steps: that compiles, and computes nothing.
            kernel = self.compiled.get(direction) or self.kernel(direction, (0, 0, 0, *arguments))
            threads = get_num_threads()
            if threads > 1:
                threads = min(threads, rows.B // ROWS_PER_THREAD, rows.total * self.work // WORK_PER_THREAD)
            if threads <= 1 or config.DISABLE_JIT:
                kernel(0, rows.B, rows.T, *arguments)
                return
            shared = shared or Shared(kernel, (rows.T, *arguments))
            shared(rows.cut(threads), (rows.T, *arguments))

        return launch


def sequence_array(line: Line) -> str:
    """The name of the array that has a sequence, which is not that of the input at one step."""
    return f"{line.name}_in" if line.kind == "input" else line.name


def _pieces(whole: Line) -> list[tuple[Line, int]]:
    """The lines that a concatenation puts side by side, with their first columns; none for any other line."""
    if whole.row is not table.cat:
        return []
    return list(zip(whole.inputs, itertools.accumulate((x.width for x in whole.inputs), initial=0)))


def _notes(kept: dict[Line, Memory], when: str) -> list[str]:
    """What an array holds besides what its name says."""
    arrays: dict[str, list[str]] = {}
    for line, memory in kept.items():
        arrays.setdefault(memory.array, []).append(line.name)
    return [f"{array} holds, {when}: {', '.join(names)}." for array, names in arrays.items()]
