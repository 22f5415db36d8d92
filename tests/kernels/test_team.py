"""The helpers' protocol: right in every order in which threads can take their steps, and if they linger anywhere."""

import os

import numpy as np
import pytest
from llvmlite import ir
from numba import config

from kernels.guarded import in_child
from kernels.interleavings import Program, Walk, Wrong
from tinygrad_rnn.kernels import matmul, team, threads
from tinygrad_rnn.kernels.assembler import I64, Function, Int
from tinygrad_rnn.kernels.outline import kernel
from tinygrad_rnn.kernels.sharing import ranges_of, share

JOB_AT, CHUNK_AT, LOCK_AT = 100_000, 200_000, 300_000  # where jobs, their functions and locks are
LOCK, OPEN = 0, 1


def written(monkeypatch, jobs):
    """The functions of the team as they are written, and those of a caller and of jobs, which say what happens."""
    monkeypatch.setattr(team, "JOB_BYTES", 8)  # more would be more of the same
    monkeypatch.setattr(team, "PLACED", False)  # where threads run does not matter here
    module = ir.Module("team")
    work = team.write_work(module)
    share = team.write_share(module, work, local=False)
    team._write_serve(module, work)
    team._write_stop(module)
    for n in range(jobs):
        f = Function(module, f"chunk {n}", ["job", "i", "room"])
        job, i, _ = f.arguments
        f.call("begin", n, f.read(job), i)
        f.call("end", n, f.read(job), i)  # what it is told stays until it ends
        f.give()
    f = Function(module, "call", ["n", "helpers", "count", "chunk", "job"])
    n, helpers, count, chunk, job = f.arguments
    done = f.call(share, 0, helpers, count, chunk, job, 0)
    with f.when(done == 0), f.loop(0, count) as i:  # as the callers of `share` do where the team is busy
        f.builder.call(f.pointer(chunk, ir.FunctionType(ir.VoidType(), [I64] * 3)), [job.value, i.value, i.value])
    f.call("over", n)
    f.give()
    return module


def walk(module, callers, helpers, patience=0):
    """All that can happen when callers give jobs of so many chunks, one after the other; the first ends the team."""
    counts = [count for jobs in callers for count in jobs]
    numbers = iter(range(len(counts)))
    sleepers = [team.CALLER, *(team.FIRST_HELPER + 64 * k for k in range(helpers))]
    constants = {team.PATIENT: patience} | {place + 8: LOCK_AT + place for place in sleepers}
    constants |= {JOB_AT + n: n for n in range(len(counts))}
    shared = [team.LEFT, team.DONE, team.BUSY, team.STOP, team.COUNT, team.HELPERS, team.CHUNK, *sleepers]
    memory = dict.fromkeys(shared, 0) | {team.JOB: -1} | {LOCK_AT + place: LOCK for place in sleepers}
    memory |= {("begun", n): 0 for n in range(len(counts))} | {("ended", n): 0 for n in range(len(counts))}

    def act(access, held):
        kind, values = access.kind, access.values
        if kind == "PyThread_acquire_lock":
            lock = values[0]
            if held[lock] == LOCK:
                return None
            held[lock] = LOCK
        elif kind == "PyThread_release_lock":
            (lock,) = values
            if held[lock] == OPEN:
                raise Wrong("a lock is opened that is open")
            held[lock] = OPEN
        elif kind in ("begin", "end"):
            n, told, i = values
            if told != n:
                raise Wrong(f"chunk {i} of job {n} is told of job {told}")
            place = "begun" if kind == "begin" else "ended", n
            if not 0 <= i < counts[n] or held[place] >> i & 1:
                raise Wrong(f"chunk {i} of job {n} of {counts[n]} is done twice, or is none of them")
            held[place] |= 1 << i
        else:
            assert kind == "over"
            (n,) = values
            if held["ended", n] != (1 << counts[n]) - 1:
                raise Wrong(f"job {n} is over before its chunks are")
        return 0

    pointers = {CHUNK_AT + n: f"chunk {n}" for n in range(len(counts))}
    program = Program(module, constants, pointers, ["llvm.x86.sse2.pause", "llvm.aarch64.hint"])
    scripts = [[("serve", 0, k, 0)] for k in range(helpers)]
    for jobs in callers:
        calls = [("call", n, helpers, count, CHUNK_AT + n, JOB_AT + n) for count, n in zip(jobs, numbers)]
        scripts.append(calls)
    scripts[helpers].append(("stop", 0, helpers))
    return Walk(program, memory, scripts, act).check()


def park_once(f, team_address, place, condition):
    """How callers parked once: they took it for granted that the job was over when somebody unparked them."""
    with f.when(~condition()):
        team._park(f, place, condition)


def park_at_once(f, place, unless):
    """Without a look whether there is a reason not to, after the mark is set."""
    team._Atomic(f).set(place, 1)
    f.call("PyThread_acquire_lock", f.read(place + 8), 1)


def unpark_twice(f, place):
    """Two threads that see the mark at once both open the lock."""
    with f.when(team._Atomic(f).get(place) == 1):
        team._Atomic(f).set(place, 0)
        f.call("PyThread_release_lock", f.read(place + 8))


def add_in_two_steps(atomic, address, value):
    before = atomic.get(address)
    atomic.set(address, before + value)
    return before


def take_what_is_taken(atomic, address, before, after):
    """A team that is busy is given a second job."""
    if (before, after) == (team.FREE, team.TAKEN):
        atomic.set(address, after)
        return atomic.f.number(0) == 0
    return compare_and_swap(atomic, address, before, after)


compare_and_swap = team._Atomic.compare_and_swap
TWO, ONE_EACH, MIXED = [[2, 2]], [[2, 1], [2]], [[2, 1], [1]]  # callers, and how many chunks each of their jobs has


@pytest.mark.parametrize(
    ("callers", "helpers", "patience"),
    [
        ([[1, 1]], 1, 2), (TWO, 2, 0), ([[1, 1]], 2, 1), (ONE_EACH, 1, 0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((TWO, 3, 0), (TWO, 2, 1), (MIXED, 2, 0))),
    ],
    ids=str,
)  # fmt: skip
def test_every_order_of_steps_is_right(callers, helpers, patience, monkeypatch):
    """Each chunk is done once, told of its own job; no job is over before its chunks; everybody comes to an end."""
    jobs = sum(map(len, callers))
    assert walk(written(monkeypatch, jobs), callers, helpers, patience) > 1000


@pytest.mark.parametrize(
    ("name", "broken", "callers", "fault"),
    [
        ("_wait", park_once, TWO, "job 1 is over before its chunks are"),
        ("_park", park_at_once, TWO, "never comes to its end"),
        ("_unpark", unpark_twice, TWO, "a lock is opened that is open|never comes to its end"),
        ("_Atomic.add", add_in_two_steps, TWO, "is done twice, or is none of them"),
        ("_Atomic.compare_and_swap", take_what_is_taken, ONE_EACH, "is told of job|done twice|is over before"),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_a_wrong_protocol_is_found(name, broken, callers, fault, monkeypatch):
    monkeypatch.setattr(f"tinygrad_rnn.kernels.team.{name}", broken)
    with pytest.raises(Wrong, match=fault):
        walk(written(monkeypatch, sum(map(len, callers))), callers, 2 if callers is TWO else 1)


# ---- Machine code that lingers ---------------------------------------------------------------------------------------


class Lingering(team._Atomic):
    """Before and after every atomic step the thread may lose its processor: often after it has counted."""

    def _linger(self, one_in=64):
        f, state = self.f, self.f.module.globals.get("state of chance")
        if state is None:
            state = ir.GlobalVariable(f.module, I64, "state of chance")
            state.initializer = ir.Constant(I64, 1)
        place = Int(self.builder, self.builder.ptrtoint(state, I64))
        chance = f.read(place) * 6364136223846793005 + 1442695040888963407  # Knuth's; threads may mix it up
        f.write(place, chance)
        with f.when(chance & (3 << 40) == 0):
            f.call("sched_yield")
        with f.when(chance & (one_in - 1 << 50) == 0):
            f.call("usleep", (chance & (255 << 30)) // (1 << 30))

    def get(self, address):
        self._linger()
        return super().get(address)

    def set(self, address, value):
        self._linger()
        super().set(address, value)
        self._linger()

    def add(self, address, value):
        self._linger()
        before = super().add(address, value)
        self._linger(one_in=4)
        return before

    def compare_and_swap(self, address, before, after):
        self._linger()
        done = super().compare_and_swap(address, before, after)
        self._linger()
        return done


def many_jobs(jobs, wait=None):
    """Products and kernels on 3 to 8 threads whose machine code lingers: as many as differ from those of one thread.

    What is compiled here must not be found by anybody else: it needs a cache of its own.
    """
    team._Atomic = Lingering
    team._wait = wait or team._wait
    config.NUMBA_NUM_THREADS, matmul.ONE_THREAD = 8, 1
    rng = np.random.default_rng(0)
    shapes = [(40, 16, 64), (64, 8, 16), (9, 20, 130), (1, 30, 500), (200, 5, 7)]
    operands = [(rng.standard_normal((M, K)), rng.standard_normal((K, N))) for M, K, N in shapes]

    @kernel()
    def squares(lo, hi, workspace, stages, threads, ranges, x, y):
        if not share(ranges, 0):
            for i in range(lo, hi):
                for j in range(x.shape[1]):
                    y[i, j] = x[i, j] * x[i, 0]

    x, y = rng.standard_normal((16, 50)), np.zeros((16, 50))
    threads.set_num_threads(1)
    expected = [matmul.matmul(a, b) for a, b in operands]
    wrong = 0
    for n in range(3, 9):
        threads.set_num_threads(n)
        for job in range(jobs):
            for (a, b), c in zip(operands, expected):
                wrong += not np.array_equal(matmul.matmul(a, b), c)
            y[...] = np.nan
            ranges = ranges_of([16 * i // n for i in range(n + 1)])
            squares(0, 16, matmul.workspace.address, 0, 1, ranges.ctypes.data, x, y)
            wrong += not np.array_equal(y, x * x[:, :1])
            if job == 0:
                assert len(team.team.helpers) == n - 1
                team.team._write(team.PATIENT, 3)  # who looks for longer sleeps less
    print(wrong, "wrong")


compiled = pytest.mark.skipif(
    bool(config.DISABLE_JIT) or not hasattr(os, "sched_yield"), reason="nothing is compiled, or nothing can linger"
)


@compiled
@pytest.mark.parametrize("jobs", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_jobs_of_threads_that_linger(jobs, tmp_path):
    assert in_child(__file__, f"many_jobs({jobs})", 300 + jobs, TINYGRAD_RNN_CACHE=str(tmp_path)) == "0 wrong"


@compiled
@pytest.mark.slow
def test_lingering_finds_who_sleeps_once(tmp_path):
    """After some to some thousands of jobs: wrong numbers, a lock that nobody opens, or freed arrays read or written.

    What is written over decides which signal ends the process, the allocator's SIGABRT among them, but never SIGKILL.
    """
    ends = r"no end within|wrong|exit code -(?!9:)\d+:"
    with pytest.raises((pytest.fail.Exception, AssertionError), match=ends):
        assert in_child(__file__, "many_jobs(600, park_once)", 60, TINYGRAD_RNN_CACHE=str(tmp_path)) == "0 wrong"
