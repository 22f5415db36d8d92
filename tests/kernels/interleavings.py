"""All orders in which threads can take their steps: a walk over what is written for LLVM, instruction by instruction.

    program = Program(module, ...)  # functions as an `assembler.Function` writes them: not yet optimised
    scripts = [[("serve", 0, 7)], ...]          # what each thread calls, one function after the other
    Walk(program, memory, scripts, act).check()

A state is the memory that threads share and, for each thread, where it is and which values it still needs. A step is
one access to that memory, or to a lock; what lies between two accesses is nobody else's business. Memory is what the
program says: everything is in the order of the program (x86, and LLVM's seq_cst, promise no less for the accesses that
matter here: plain ones happen before an atomic one that tells of them).

The instructions known here are those that the helpers' protocol needs; any other one is an error.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import instructions as kinds


class Wrong(Exception):
    """A step that must never be taken."""


class Access(NamedTuple):
    """What a thread is about to do with what it shares."""

    kind: str
    place: Any = None
    values: tuple[int, ...] = ()


class Frame(NamedTuple):
    """A function that a thread is in: where, and the values that it still needs, by their numbers."""

    function: str
    block: int
    index: int
    values: tuple[tuple[int, int], ...]


_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "slt": lambda x, y: x < y, "sle": lambda x, y: x <= y, "sgt": lambda x, y: x > y, "sge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y, "ne": lambda x, y: x != y,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "and": lambda x, y: x & y,
    "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y,
}  # fmt: skip
_ACCESSES = (
    kinds.LoadInstr, kinds.StoreInstr, kinds.LoadAtomicInstr, kinds.StoreAtomicInstr, kinds.AtomicRMW, kinds.CmpXchg,
)  # fmt: skip


class Program:
    """The functions of a module, to be run step by step.

    Args:
        constants: address -> number, of the memory that is read and never written.
        pointers: address -> the name of the function of the module that is called there.
        nothing: the names of C functions that do nothing to what is shared; a call of another one is an `Access`.
    """

    def __init__(
        self, module: ir.Module, constants: dict[int, int], pointers: dict[int, str], nothing: Collection[str]
    ) -> None:
        self.constants, self.pointers, self.nothing = constants, pointers, nothing
        self.functions = {f.name: f for f in module.functions if f.blocks}
        self.numbers: dict[int, int] = {}  # of instructions and arguments, by their identity
        self.needed = {name: self._liveness(f) for name, f in self.functions.items()}

    # ---- Which values are needed later ---------------------------------------------------------------------------

    def _number(self, value: Any) -> int:
        return self.numbers.setdefault(id(value), len(self.numbers))

    def _reads(self, instruction: Any) -> set[int]:
        if isinstance(instruction, kinds.PhiInstr):
            return set()  # read on the way in: see `_liveness`
        operands = list(instruction.operands)
        if isinstance(instruction, kinds.StoreInstr) and isinstance(operands[1], kinds.AllocaInstr):
            operands = operands[:1]
        if isinstance(instruction, kinds.CallInstr):
            operands = [*instruction.args, instruction.callee]
        return {self._number(x) for x in operands if isinstance(x, (ir.Argument, kinds.Instruction))}

    def _writes(self, instruction: Any) -> int:
        if isinstance(instruction, kinds.StoreInstr) and isinstance(instruction.operands[1], kinds.AllocaInstr):
            return self._number(instruction.operands[1])
        return self._number(instruction)

    def _liveness(self, function: Any) -> list[list[frozenset[int]]]:
        """The values that are needed from each instruction of each block on."""
        blocks = function.blocks
        place = {id(block): n for n, block in enumerate(blocks)}
        live = [[frozenset[int]()] * (len(block.instructions) + 1) for block in blocks]
        changed = True
        while changed:
            changed = False
            for n in reversed(range(len(blocks))):
                after: set[int] = set()
                for target in _targets(blocks[n].terminator):
                    after |= live[place[id(target)]][0]
                    for phi in _phis(target):
                        after.discard(self._number(phi))
                        value = _incoming(phi, blocks[n])
                        after |= {self._number(value)} if isinstance(value, (ir.Argument, kinds.Instruction)) else set()
                found = [frozenset(after)]
                for instruction in reversed(blocks[n].instructions):
                    if not isinstance(instruction, (kinds.AllocaInstr, kinds.PhiInstr)):
                        after = (after - {self._writes(instruction)}) | self._reads(instruction)
                    found.append(frozenset(after))
                changed |= found[::-1] != live[n]
                live[n] = found[::-1]
        return live

    # ---- Running -------------------------------------------------------------------------------------------------

    def enter(self, name: str, *arguments: int) -> tuple[Frame, ...]:
        """A thread at the beginning of a function."""
        values = {self._number(x): value for x, value in zip(self.functions[name].args, arguments, strict=True)}
        return (self._frame(name, 0, 0, values),)

    def _frame(self, name: str, block: int, index: int, values: dict[int, int]) -> Frame:
        needed = self.needed[name][block][index]
        return Frame(name, block, index, tuple(sorted((n, x) for n, x in values.items() if n in needed)))

    def run(self, frames: tuple[Frame, ...], answer: Any = None) -> tuple[Access, tuple[Frame, ...]]:
        """Go on to the next access, which comes back with where the thread is then.

        The frames that `run` gives are those before an access; `answer` is what came of it.
        """
        stack, pending = list(frames), answer is not None
        while True:
            name, n, index, known = stack.pop()
            function, values = self.functions[name], dict(known)
            instruction = function.blocks[n].instructions[index]
            if not pending:
                access = self._access(instruction, values)
                if isinstance(access, Access):
                    return access, (*stack, self._frame(name, n, index, values))
                if access is not None:  # a function of the module
                    stack += [Frame(name, n, index, known), *self.enter(*access)]
                    continue
            if isinstance(instruction, kinds.Ret):
                result = self._value(instruction.operands[0], values) if instruction.operands else 0
                if not stack:
                    return Access("returned", values=(result,)), ()
                answer, pending = result, True
                continue
            if isinstance(instruction, (kinds.Branch, kinds.ConditionalBranch)):
                target = self._target(instruction, values)
                phis = {phi: _incoming(phi, function.blocks[n]) for phi in _phis(target)}
                values |= {self._number(phi): self._value(x, values) for phi, x in phis.items()}
                n = next(i for i, block in enumerate(function.blocks) if block is target)
                index = len(phis)
            else:
                result = answer if pending else self._compute(instruction, values)
                if result is not None:
                    values[self._writes(instruction)] = result
                index += 1
            pending, answer = False, None
            stack.append(self._frame(name, n, index, values))

    def _value(self, operand: Any, values: dict[int, Any]) -> Any:
        if isinstance(operand, ir.Constant):
            return int(operand.constant) & 1 if operand.type == ir.IntType(1) else int(operand.constant)
        return values[self._number(operand)]

    def _access(self, instruction: Any, values: dict[int, Any]) -> Any:
        """The access that an instruction is; for a call of a function its name and arguments; else None."""
        value = lambda operand: self._value(operand, values)
        if isinstance(instruction, kinds.CallInstr):
            arguments = [value(x) for x in instruction.args]
            named = isinstance(instruction.callee, ir.Function)
            name = instruction.callee.name if named else self.pointers[value(instruction.callee)]
            if name in self.functions:
                return (name, *arguments)
            return None if name in self.nothing else Access(name, None, tuple(arguments))
        if not isinstance(instruction, _ACCESSES):
            return None
        store = isinstance(instruction, (kinds.StoreInstr, kinds.StoreAtomicInstr))
        pointer = instruction.operands[1 if store else 0]
        if isinstance(pointer, kinds.AllocaInstr):
            return None
        place, rest = value(pointer), tuple(value(x) for x in instruction.operands if x is not pointer)
        if isinstance(instruction, kinds.AtomicRMW):
            assert instruction.operation == "add"
            return Access("add", place, rest)
        if isinstance(instruction, kinds.CmpXchg):
            return Access("turn", place, rest)
        if store:
            return Access("set", place, rest)
        return None if place in self.constants else Access("get", place)

    def _compute(self, instruction: Any, values: dict[int, Any]) -> Any:
        value = lambda operand: self._value(operand, values)
        operands = instruction.operands
        if isinstance(instruction, kinds.AllocaInstr):
            return None
        if isinstance(instruction, kinds.StoreInstr):
            return value(operands[0])
        if isinstance(instruction, kinds.LoadInstr):
            known = isinstance(operands[0], kinds.AllocaInstr)
            return values[self._number(operands[0])] if known else self.constants[value(operands[0])]
        if isinstance(instruction, kinds.LoadAtomicInstr):
            return self.constants[value(operands[0])]
        if isinstance(instruction, kinds.ICMPInstr):
            return int(_COMPARISONS[instruction.op](*map(value, operands)))
        if isinstance(instruction, kinds.SelectInstr):
            return value(operands[1] if value(operands[0]) else operands[2])
        if isinstance(instruction, kinds.ExtractValue):
            return value(operands[0])[instruction.indices[0]]
        if isinstance(instruction, kinds.CastInstr):
            assert instruction.opname in ("inttoptr", "ptrtoint")
            return value(operands[0])
        if isinstance(instruction, kinds.CallInstr):
            return 0  # of what does nothing
        result = _ARITHMETIC[instruction.opname](*map(value, operands))
        return result & 1 if instruction.type == ir.IntType(1) else result

    def _target(self, instruction: Any, values: dict[int, Any]) -> Any:
        if isinstance(instruction, kinds.ConditionalBranch):
            condition, yes, no = instruction.operands
            return yes if self._value(condition, values) else no
        return instruction.operands[0]


def _targets(terminator: Any) -> list[Any]:
    return [x for x in terminator.operands if isinstance(x, ir.Block)] if terminator is not None else []


def _incoming(phi: Any, block: Any) -> Any:
    """What a phi is for a thread that comes from a block."""
    return next(x for x, origin in phi.incomings if origin is block)


def _phis(block: Any) -> list[Any]:
    return [x for x in block.instructions if isinstance(x, kinds.PhiInstr)]


class Walk:
    """Every state that threads can reach from the first one.

    Args:
        memory: place -> number at first, of all that threads share.
        scripts: for each thread the functions that it calls one after another, (name, arguments ...).
        act: how the call of a C function changes the memory: act(access, memory) -> what it returns, or None if the
            thread has to wait. It raises `Wrong` where the call must not be.
    """

    def __init__(
        self, program: Program, memory: dict[Any, int], scripts: list[list[tuple[Any, ...]]],
        act: Callable[[Access, dict[Any, int]], Any],
    ) -> None:  # fmt: skip
        self.program, self.act, self.scripts = program, act, scripts
        self.places = list(memory)
        self.first = tuple(memory.values())
        self._locals: dict[Any, int] = {}  # (script, position, frames, access): where a thread may be
        self._where: list[Any] = []
        self._memories: dict[tuple[int, ...], int] = {}
        self._held: list[tuple[int, ...]] = []
        self._went: dict[tuple[int, int], tuple[int, int] | None] = {}

    def check(self, most: int = 5_000_000) -> int:
        """The number of states; none of them is `Wrong`, and from each one all threads can come to their end.

        Raises:
            Wrong: with the steps that lead there.
        """
        count = len(self.scripts)
        start = (self._memory(self.first), *(self._start(script) for script in range(count)))
        numbers, states, origin = {start: 0}, [start], [-1]
        sources, targets = [], []
        ends = []
        for n, state in enumerate(states):  # which grow on the way
            if n > most:
                raise AssertionError(f"more than {most} states")
            memory, threads = state[0], state[1:]
            if all(self._where[thread][3].kind == "finished" for thread in threads):
                ends.append(n)
            for k, thread in enumerate(threads):
                try:
                    went = self._go(memory, thread)
                except Wrong as error:
                    raise Wrong(f"{error}, after\n{self._story(states, origin, n)}") from None
                if went is None:
                    continue
                after = (went[0], *threads[:k], went[1], *threads[k + 1 :])
                m = numbers.setdefault(after, len(states))
                if m == len(states):
                    states.append(after)
                    origin.append(n)
                sources.append(n)
                targets.append(m)
        stuck = self._stuck(len(states), np.array(sources), np.array(targets), ends)
        if stuck is not None:
            raise Wrong(f"some thread never comes to its end, after\n{self._story(states, origin, stuck)}")
        return len(states)

    @staticmethod
    def _stuck(count: int, sources: np.ndarray, targets: np.ndarray, ends: list[int]) -> int | None:
        """A state from which no end can be reached."""
        reach = np.zeros(count, bool)
        reach[ends] = True
        while True:
            new = reach.copy()
            new[sources[reach[targets]]] = True
            if np.array_equal(new, reach):
                return None if reach.all() else int(np.argmin(reach))
            reach = new

    def _go(self, memory: int, thread: int) -> tuple[int, int] | None:
        """The memory and the thread after its next access; None if it has to wait."""
        key = (memory, thread)
        if key not in self._went:
            script, position, frames, access = self._where[thread]
            if access.kind == "finished":
                return None
            held = dict(zip(self.places, self._held[memory]))
            answer = self._answer(access, held)
            if answer is None:
                self._went[key] = None
            else:
                self._went[key] = self._memory(tuple(held.values())), self._next(script, position, frames, answer)
        return self._went[key]

    def _answer(self, access: Access, held: dict[Any, int]) -> Any:
        kind, place, values = access
        if kind == "get":
            return held[place]
        if kind == "set":
            assert place in held, f"nobody has said that {place} is shared"
            (held[place],) = values
            return 0
        if kind == "add":
            before = held[place]
            held[place] += values[0]
            return before
        if kind == "turn":
            before = held[place]
            if before == values[0]:
                held[place] = values[1]
            return before, int(before == values[0])
        return self.act(access, held)

    def _start(self, script: int) -> int:
        return self._next(script, -1, (), 0)

    def _next(self, script: int, position: int, frames: tuple[Frame, ...], answer: Any) -> int:
        """Where a thread is that has its answer: the access that comes next, in its functions or in its script."""
        if frames:
            access, frames = self.program.run(frames, answer)
            if access.kind != "returned":
                return self._local((script, position, frames, access))
        position += 1
        if position == len(self.scripts[script]):
            return self._local((script, position, (), Access("finished")))
        access, frames = self.program.run(self.program.enter(*self.scripts[script][position]))
        assert access.kind != "returned", "a function without any access"
        return self._local((script, position, frames, access))

    def _local(self, where: Any) -> int:
        n = self._locals.setdefault(where, len(self._where))
        if n == len(self._where):
            self._where.append(where)
        return n

    def _memory(self, held: tuple[int, ...]) -> int:
        n = self._memories.setdefault(held, len(self._held))
        if n == len(self._held):
            self._held.append(held)
        return n

    def _story(self, states: list[Any], origin: list[int], n: int) -> str:
        """The steps that lead to a state."""
        way = []
        while n >= 0:
            way.append(states[n])
            n = origin[n]
        lines = []
        for before, after in zip(way[::-1], way[-2::-1]):
            k = next(k for k, (x, y) in enumerate(zip(before[1:], after[1:])) if x != y)
            access = self._where[before[1 + k]][3]
            lines.append(f"  thread {k}: {access.kind} {access.place} {access.values}")
        return "\n".join(lines)
