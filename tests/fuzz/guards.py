"""Layers whose every array ends right before, or begins right after, memory that the process may not touch."""

import contextlib

import numpy as np
import pytest
from kernels.guarded import guarded, untouched

import tinygrad_rnn as tg
from fuzz.fuzzing import applied, recurrently_dropped
from tinygrad_rnn.autograd import arrays, table
from tinygrad_rnn.fusion import rows, scan
from tinygrad_rnn.kernels import elementwise, matmul
from tinygrad_rnn.nn.cells.catalogue import ROWS, values_of

SIZES = [(1, 1), (3, 5), (7, 8), (9, 15), (16, 16), (17, 31), (5, 33), (33, 17)]  # I, H around the widths of registers
BATCHES = [1, 2, 3, 5, 8, 9]


class Numpy:
    """NumPy, whose new arrays are guarded."""

    def __init__(self, make):
        self.make = make

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        return self.make(np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype))

    def zeros(self, shape, dtype=np.float64):
        return self.make(np.zeros(shape, dtype))


@contextlib.contextmanager
def guarding(end, made):
    """While it lasts, what the library makes for a call is guarded at that end; `made` gets the arrays."""

    def make(array):
        copy = guarded(array, end)
        made.append(copy)
        return copy

    def wrapped(function):
        def made_anew(*arguments, **options):
            result = function(*arguments, **options)
            return result if any(result is x for x in arguments) else make(result)

        return made_anew

    numpy = Numpy(make)
    with pytest.MonkeyPatch.context() as patch:
        for module in (matmul, elementwise, arrays, table):
            patch.setattr(module, "np", numpy)
        patch.setattr(arrays, "staggered", numpy.empty)
        patch.setattr(scan, "np", numpy)
        patch.setattr(scan, "staggered", numpy.empty)
        patch.setattr(scan, "staggered_zeros", numpy.zeros)
        for name in ("copied", "plain"):
            patch.setattr(scan, name, wrapped(getattr(scan, name)))
        for name in ("gathered", "ordered", "repeated", "running", "drawn"):
            for kind in (rows.Rows, rows.RaggedRows):
                if name in vars(kind):
                    patch.setattr(kind, name, _of_arrays(vars(kind)[name], make))
        yield


def _of_arrays(method, make):
    """A method of `Rows`, whose arrays are guarded; tensors are as they were."""

    def called(self, x):
        result = method(self, x)
        return make(result) if isinstance(result, np.ndarray) and result is not x else result

    return called


def everything(cell):
    """All wrappers around a cell, one inside the other."""
    matrices = [name for name, p in cell.named_parameters() if p.ndim == 2]
    nn, cell = tg.nn, recurrently_dropped(cell)
    inside = nn.VariationalDropout(cell, input=0.2, state=0.2)
    inside = nn.WeightDrop(inside, 0.3, [f"cell.{name}" for name in matrices]) if matrices else inside
    return nn.ClipGradient(nn.Zoneout(nn.LearnedInitialState(inside), 0.2), 0.3)


AROUND = {"bare": lambda cell: cell, "everything": everything}


def results(make, dtype, T, B, I, lengths, reverse, given, end):
    """What a layer returns, forwards, backwards and without gradients; with guards unless `end` is None."""
    made = []
    keep = (lambda array: array) if end is None else (lambda array: guarded(array, end))
    random = np.random.default_rng([T, B, I])
    draw = lambda *shape: keep(random.uniform(-1, 1, shape).astype(dtype))
    tg.manual_seed(5)
    cell = make()
    cell = cell.double() if dtype == np.float64 else cell.float()
    for p in cell.parameters():
        p.data = keep(p.numpy() + random.uniform(-0.1, 0.1, p.shape).astype(dtype))
    with guarding(end, made) if end else contextlib.nullcontext():
        layer = tg.nn.Recurrent(cell, reverse=reverse, fused="require")
        x = tg.from_numpy(draw(T, B, I)).requires_grad_()
        values = {n: tg.from_numpy(draw(B, *shape)).requires_grad_() for n, shape in values_of(cell).items()}
        pattern = cell.begin(None, B)
        start = tuple(tg.from_numpy(draw(*s.shape)).requires_grad_() for s in pattern) if given else None
        found = []
        for _ in range(2):  # the second call is a repeated one
            tg.manual_seed(6)
            with tg.no_grad():
                y, final = layer(x, start, lengths=lengths, **values)
            found += [y, *(final if isinstance(final, tuple) else [final])]
            tg.manual_seed(6)
            y, final, every = layer(x, start, lengths=lengths, return_states=True, **values)
            found += [y, *(final if isinstance(final, tuple) else [final]), *every]
            ends = [v for v in found[-len(every) - 1 :] if v.requires_grad]
            leaves = [x, *(start or ()), *values.values(), *cell.parameters()]
            dys = [tg.from_numpy(draw(*v.shape)) for v in ends]
            gradients = tg.grad(ends, leaves, dys, allow_unused=True)
            found += [g for g in gradients if g is not None]
        ours = [x, *(start or ()), *values.values(), *cell.parameters()]
    if end:
        assert made
        for array in [*(v.numpy() for v in ours), *made]:
            assert untouched(array), "something was written beside an array"
    return [v.numpy().copy() for v in found]


def check(number, around, dtype, settings, threads, seed, lengths=True):
    """A cell of the library with sizes drawn from a seed: the same bits with guards at either end as with none."""
    random = np.random.default_rng([seed, number])
    I, H = SIZES[random.integers(len(SIZES))]
    H = max(H, 4)  # of which a clockwork RNN makes four modules
    T, B = int(random.integers(1, 6)), int(random.choice(BATCHES))
    ends = random.integers(0, T + 1, B) if lengths and random.random() < 0.5 else None
    make = lambda: AROUND[around](ROWS[number][0](I, H))
    options = dtype, T, B, I, ends, bool(random.random() < 0.5), bool(random.random() < 0.5)
    with applied(settings, threads):
        expected = results(make, *options, None)
        for end in ("after", "before"):
            for ours, theirs in zip(results(make, *options, end), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def check_cells(numbers, dtypes=("float32",), arounds=("bare",), threads=(1, 2), seeds=(0, 1), lengths=True):
    """`check` for all combinations; prints each beforehand, as nobody is left to do so afterwards."""
    for number in numbers:
        for around in arounds:
            for dtype in dtypes:
                for n in threads:
                    for settings in ([], ["pieces"]) if n == 1 else (["threads"], ["threads", "pieces"]):
                        for seed in seeds:
                            arguments = number, around, np.dtype(dtype), settings, n, seed
                            print(*arguments, flush=True)
                            check(*arguments, lengths=lengths or (lengths is None and n == 1))
