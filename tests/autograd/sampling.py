"""Inputs for every row of the table of primitives: a new row arrives tested.

An elementwise row needs nothing: its signature says how many operands it has, and where it is defined and smooth is
found by trying. A row on whole arrays needs an entry in `WHOLE`: shapes with attributes that it must take, and some
that it must refuse.
"""

from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import pytest

from tinygrad_rnn.autograd.primitive import ElementwisePrimitive

# How an operand lies in memory: the shape of an array that holds it, and the view of that array which is the operand.
LAYOUTS = {
    "contiguous": (lambda shape: shape, lambda x, shape: x),
    "transposed": (lambda shape: shape[::-1], lambda x, shape: x.T),
    "strided": (lambda shape: (*shape[:-1], 2 * shape[-1]), lambda x, shape: x[..., ::2]),
    "reversed": (lambda shape: shape, lambda x, shape: x[(slice(None, None, -1),) * len(shape)]),
    "expanded": (lambda shape: (min(shape[0], 1), *shape[1:]), lambda x, shape: np.broadcast_to(x, shape)),
}


@dataclass(frozen=True)
class Sample:
    """One call of a row. The differentiable inputs are float64; the others are masks."""

    inputs: tuple
    attributes: dict = field(default_factory=dict)
    layouts: tuple = ()

    def __str__(self):
        inputs = ", ".join(f"{list(x.shape)} {layout}" for x, layout in zip(self.inputs, self.layouts))
        return ", ".join([inputs, *(f"{name}={value}" for name, value in self.attributes.items())])


class Operand:
    """An array of a shape in a layout, whose elements can be drawn anew."""

    def __init__(self, shape, layout, draw):
        stored, view = LAYOUTS[layout if shape else "contiguous"]
        self.draw = draw
        self.memory = draw(stored(shape))
        self.array = view(self.memory, shape)
        self.origin = view(np.arange(self.memory.size).reshape(self.memory.shape), shape)  # the places in `memory`

    def redraw(self, where):
        """New numbers for all elements in the broadcast mask `where`."""
        places = np.unique(np.broadcast_to(self.origin, where.shape)[where])
        self.memory.reshape(-1)[places] = self.draw(places.shape)


def samples(row):
    """At least ten calls of a row: 0-d, 0-size, broadcast, and in every layout."""
    rng = np.random.default_rng(sum(map(ord, row.name)))
    found = _elementwise(row, rng) if isinstance(row, ElementwisePrimitive) else _whole(row, rng)
    assert len(found) >= 10, f"{row.name}: {len(found)} samples are too few to cover shapes and layouts; add more"
    return found


def differentiable(row):
    """The positions of the inputs that have a gradient rule; None for all of a variadic row."""
    return None if row.variadic else tuple(i for i, name in enumerate(row.inputs) if "d" + name in row.rules)


# ---- Elementwise rows ------------------------------------------------------------------------------------------------

# Shapes of the operands before they are broadcast; an operand takes them in turn, starting further on than the last.
ALIGNED = [(2, 3), (3,), (), (2, 1), (2, 3), (1, 3), (1, 2, 3)]


def _elementwise(row, rng):
    count = len(row.inputs)
    if count == 1:
        alone = [(), (1,), (5,), (0,), (2, 3), (3, 2), (4,), (2, 2), (3, 2), (2, 0, 3), (2, 1, 2)]
        shapes = [[shape] for shape in alone]
    else:
        shapes = [[ALIGNED[(k + 2 * i) % len(ALIGNED)] for i in range(count)] for k in range(len(ALIGNED))]
        shapes += [[()] * count, [(3,)] * count, [(2, 3)] * count, [(0,)] * count, [(2, 0), (1,), ()][:count]]
    attributes = dict.fromkeys(row.attributes, 0.25)
    layouts = cycle(LAYOUTS)
    found = []
    for each in shapes:
        chosen = tuple(next(layouts) for _ in each) if any(map(len, each)) else ("contiguous",) * count
        if row.rules:
            inputs = smooth_inputs(row, each, chosen, attributes, rng)
        else:  # a comparison: few numbers, so that some are equal
            draw = lambda shape: rng.integers(-1, 2, shape).astype(np.float64)
            inputs = tuple(Operand(shape, layout, draw).array for shape, layout in zip(each, chosen))
        found.append(Sample(inputs, attributes, chosen))
        if count == len(LAYOUTS):  # else an operand would always get the same one
            next(layouts)
    return found


def smooth_inputs(row, shapes, layouts, attributes, rng, distance=0.01):
    """Random operands at which the row is finite, with no kink and no pole nearer than `distance`."""
    masks = [f"d{name}" not in row.rules for name in row.inputs]
    real, mask = lambda shape: rng.uniform(-3, 3, shape), lambda shape: rng.integers(0, 2, shape).astype(np.bool_)
    operands = [Operand(shape, layout, mask if m else real) for shape, layout, m in zip(shapes, layouts, masks)]
    for _ in range(200):
        arrays = [operand.array for operand in operands]
        value = row.forward(*arrays, **attributes)
        rough = ~np.isfinite(value)
        for i, is_mask in enumerate(masks):
            if not is_mask:
                above, below = (
                    row.forward(*(x + step if i == j else x for j, x in enumerate(arrays)), **attributes)
                    for step in (distance, -distance)
                )
                # Smooth curves bend by f'' distance^2; at a kink the slope jumps, at a step or a pole the value does.
                rough = rough | ~(np.abs(above - 2 * value + below) < 0.1 * distance)
        if not rough.any():
            return tuple(arrays)
        for operand in operands:
            operand.redraw(rough)
    pytest.fail(
        f"{row.name}: no operands in [-3, 3] found at which `{row.formula}` is finite and smooth. Check the formula; "
        "if it is right, widen the search in tests/autograd/sampling.py"
    )


# ---- Rows on whole arrays --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """What to try a row on whole arrays with: (shapes of its inputs, attributes), one pair a call.

    Attributes:
        taken: calls that work.
        refused: calls that raise an error which names the row and the shapes.
        exact: whether every dtype gives the same numbers, because they are only moved.
    """

    taken: list
    refused: list = field(default_factory=list)
    exact: bool = False


def _whole(row, rng):
    if row.name not in WHOLE:
        pytest.fail(
            f"the table has a new row {row.name!r}: add shapes and attributes to test it with to WHOLE in "
            f"tests/autograd/sampling.py, as {row.name!r}: Whole(taken=[...], refused=[...]); its shapes: {row.shapes}",
            pytrace=False,
        )
    found = []
    layouts = cycle(LAYOUTS)
    for shapes, attributes in WHOLE[row.name].taken:
        chosen = tuple(next(layouts) for _ in shapes)
        if row.name in ("amax", "amin") and 0 in attributes["dim"]:  # repeating x along dim would tie every maximum
            chosen = tuple("reversed" if layout == "expanded" else layout for layout in chosen)
        arrays = tuple(Operand(shape, layout, _distinct(rng)).array for shape, layout in zip(shapes, chosen))
        found.append(Sample(arrays, attributes, chosen))
    return found


def _distinct(rng):
    """Random numbers that keep a distance from each other, so that there is one maximum."""

    def draw(shape):
        n = int(np.prod(shape))
        return ((rng.permutation(n) - n / 2 + rng.uniform(0.2, 0.8, n)) * 0.4).reshape(shape)

    return draw


def _reductions(**more):
    shapes = [
        ((), ()), ((1,), (0,)), ((4,), (0,)), ((2, 3), (0,)), ((2, 3), (1,)), ((3, 2), (0, 1)), ((2, 1, 3), (1,)),
        ((2, 2, 2), (0, 2)), ((3, 2), (1,)), ((2, 3), (1,)), ((2, 3), (0,)), ((0, 3), (1,)),
    ]  # fmt: skip
    return [([shape], dict(dim=dim, keepdim=bool(k % 2), **more)) for k, (shape, dim) in enumerate(shapes)]


ALONG = [
    ([shape], dict(dim=dim))
    for shape, dim in [
        ((1,), 0), ((4,), 0), ((0,), 0), ((2, 3), 0), ((2, 3), 1), ((3, 2), 1), ((2, 3), 0), ((2, 0), 0),
        ((2, 2, 2), 1), ((2, 3), 1), ((3, 1, 2), 2), ((3, 2), 0),
    ]
]  # fmt: skip

ROWS, ODD = np.array([2, 0, 2]), np.array([True, False, True])

# x's shape, the index, and the shape of x[at]: parts of ints and slices, and elements named by arrays.
PARTS = [
    ((), (), ()),
    ((), (None,), (1,)),
    ((4,), (1,), ()),
    ((4,), (slice(None, None, -2),), (2,)),
    ((3, 2), (slice(1, None),), (2, 2)),
    ((4,), (slice(4, None),), (0,)),
    ((2, 3), (), (2, 3)),
    ((3, 2), (Ellipsis, 0), (3,)),
    ((3, 2), (slice(None), slice(0, 1)), (3, 1)),
    ((3, 2), (None, slice(1, 3), None, -1), (1, 2, 1)),
    ((3, 2), (-1,), (2,)),
    ((2, 3, 2), (1, Ellipsis, slice(None, None, -1)), (3, 2)),
    ((0, 3), (slice(None), 2), (0,)),
]
ELEMENTS = [
    ((4,), (np.array([1, 1, 3]),), (3,)),
    ((3, 2), (ROWS,), (3, 2)),
    ((3, 2), (slice(None), np.array([[0, 0], [1, 0]])), (3, 2, 2)),
    ((3, 2), (ODD,), (2, 2)),
    ((3, 2), (ODD, 1), (2,)),
    ((3, 3), (ROWS, ROWS), (3,)),
    ((3, 3), (ROWS[:, None], np.array([0, 0])), (3, 2)),
    ((2, 3), (np.zeros((2, 3), np.bool_),), (0,)),
    ((2, 3), (np.zeros(0, np.intp),), (0, 3)),
    ((2, 3, 2), (1, slice(None), np.array([0, 1, 0])), (3, 3)),
    ((2, 0), (ROWS // 2,), (3, 0)),
    ((4,), (np.array(1),), ()),
    ((3,), (np.array(True),), (1, 3)),
    ((), (np.array(False),), (0,)),
    ((3, 2), (np.array([[-1, 0]]), slice(None)), (1, 2, 2)),
    ((3, 2), (ROWS, None, ROWS // 2), (3, 1)),
]

def _convolutions():
    """One kernel of every kind, and the two rows that are the gradients of the first."""
    kinds = [  # N, C, L, O, k, stride, dilation, before, after
        (1, 1, 1, 1, 1, 1, 1, 0, 0), (2, 3, 5, 2, 3, 1, 1, 0, 0), (2, 2, 5, 3, 2, 2, 1, 1, 0),
        (1, 2, 7, 2, 3, 1, 2, 4, 0), (2, 1, 6, 2, 2, 3, 2, 1, 2), (3, 2, 4, 1, 4, 1, 1, 0, 0),
        (2, 2, 3, 2, 1, 2, 1, 0, 1), (1, 3, 4, 2, 2, 4, 3, 3, 3), (2, 2, 5, 2, 3, 2, 1, 1, 1),
        (1, 1, 9, 1, 3, 2, 2, 0, 2), (0, 2, 4, 2, 2, 1, 1, 0, 0), (2, 2, 2, 2, 3, 1, 1, 1, 0),
    ]  # fmt: skip
    whole = {name: [] for name in ("conv1d", "conv1d_input", "conv1d_weight")}
    for n, c, length, o, size, stride, dilation, before, after in kinds:
        taps = dict(stride=stride, dilation=dilation, before=before, after=after)
        result = (n, o, (length + before + after - dilation * (size - 1) - 1) // stride + 1)
        whole["conv1d"].append(([(n, c, length), (o, c, size)], taps))
        whole["conv1d_input"].append(([result, (o, c, size)], dict(length=length, **taps)))
        whole["conv1d_weight"].append(([result, (n, c, length)], dict(size=size, **taps)))
    taps = dict(stride=1, dilation=2, before=0, after=1)
    refused = {"conv1d": [([(2, 3, 5), (2, 2, 3)], taps), ([(2, 3, 5), (2, 3, 4)], taps)]}
    return {name: Whole(taken, refused.get(name, [])) for name, taken in whole.items()}


WHOLE = {
    "sum": Whole([*_reductions(), ([(0, 3)], dict(dim=(0,), keepdim=False))]),
    "amax": Whole(_reductions(), refused=[([(0, 3)], dict(dim=(0,), keepdim=False))]),
    "amin": Whole(_reductions(), refused=[([(2, 0)], dict(dim=(0, 1), keepdim=True))]),
    "cumsum": Whole(ALONG),
    "softmax": Whole(ALONG),
    "log_softmax": Whole(ALONG),
    "masked_softmax": Whole(
        taken=[
            ([shape, bias], dict(scale=scale, causal=causal))
            for shape, bias, scale, causal in [
                ((1, 1), (), 1.0, False), ((2, 3), (3,), 0.5, False), ((3, 2), (3, 2), 2.0, True),
                ((2, 3), (), 0.5, True),
                ((2, 3), (2, 1), 1.0, False), ((2, 2, 3), (2, 1, 3), 0.5, True), ((2, 2, 3), (2, 3), -1.0, False),
                ((0, 3), (3,), 1.0, False), ((2, 0), (), 1.0, True), ((2, 3), (2, 3), 0.0, False),
                ((2, 1, 3), (1, 3), 0.5, False), ((3, 3), (3, 3), 1.0, True), ((2, 2), (1,), 0.5, True),
                ((2, 1, 2, 2), (2, 1, 1, 2), 1.0, True),
            ]
        ],
        refused=[
            ([(3,), ()], dict(scale=1.0, causal=False)),
            ([(2, 3), (2,)], dict(scale=1.0, causal=False)),
            ([(2, 3), (2, 2, 3)], dict(scale=1.0, causal=True)),
        ],
    ),
    "layer_norm": Whole(
        taken=[
            ([shape, weight, bias], dict(dim=dim, eps=0.1))
            for shape, weight, bias, dim in [
                ((3,), (3,), (3,), (0,)), ((2, 3), (3,), (3,), (1,)), ((2, 3), (3,), (), (1,)),
                ((3, 2), (), (2,), (1,)), ((3, 2), (2,), (2,), (1,)),
                ((2, 3), (2, 3), (2, 3), (0, 1)), ((2, 2, 3), (2, 3), (2, 3), (1, 2)), ((2, 1, 3), (3,), (3,), (2,)),
                ((0, 3), (3,), (3,), (1,)), ((2, 3), (), (), (1,)), ((3, 1), (1,), (1,), (1,)),
                ((2, 3), (3,), (3,), (1,)), ((2, 0), (0,), (0,), (1,)),
            ]
        ],
        refused=[
            ([(2, 3), (2,), (3,)], dict(dim=(1,), eps=0.1)),
            ([(2, 3), (3,), (1, 3)], dict(dim=(1,), eps=0.1)),
            ([(2, 3), (3, 2), (2, 3)], dict(dim=(0, 1), eps=0.1)),
        ],
    ),
    "batch_norm": Whole(
        taken=[
            ([x, (x[1], *[1] * (len(x) - 2)), bias], dict(eps=0.1, found=None))
            for x, bias in [
                ((2, 3, 4), (3, 1)), ((3, 2, 1), (2, 1)), ((1, 2, 3), (2, 1)), ((2, 1, 2), (1, 1)), ((4, 3), (3,)),
                ((2, 2, 2), ()), ((3, 3, 3), (3, 1)), ((0, 2, 3), (2, 1)), ((2, 3, 0), (3, 1)), ((5, 1), (1,)),
                ((2, 4, 3), (4, 1)), ((2, 2, 3, 2), (2, 1, 1)),
            ]
        ],
        refused=[
            ([(2, 3, 4), weight, bias], dict(eps=0.1, found=None))
            for weight, bias in (((4, 1), (3, 1)), ((3, 1), (2, 1)))
        ],
    ),
    "linear": Whole(
        taken=[
            ([x, weight, bias], {})
            for x, weight, bias in [
                ((2, 3), (4, 3), (4,)), ((2, 3), (4, 3), (4,)), ((1, 1), (1, 1), (1,)), ((3, 2), (2, 2), (2,)),
                ((2, 3), (1, 3), (1,)), ((0, 3), (2, 3), (2,)), ((2, 0), (3, 0), (3,)), ((2, 2), (3, 2), ()),
                ((3, 1), (2, 1), (2,)), ((2, 3), (3, 3), (3,)), ((2, 3), (4, 3), (4,)),
            ]
        ],
        refused=[([(2, 3), (4, 4), (4,)], {}), ([(32, 28), (64, 64), (64,)], {})],
    ),
    **_convolutions(),
    "matmul": Whole(
        taken=[
            ([a, b], {})
            for a, b in [
                ((1, 1), (1, 1)), ((2, 3), (3, 2)), ((2, 3), (3, 2)), ((1, 3), (3, 2)), ((2, 2), (2, 1)),
                ((3, 2), (2, 2)), ((0, 2), (2, 3)), ((2, 0), (0, 3)), ((2, 2), (2, 0)), ((2, 2, 2), (2, 2)),
                ((2, 2), (2, 2, 1)), ((2, 1, 2), (2, 2, 2)), ((1, 1, 2), (2, 2, 1)), ((2, 1, 1, 2), (2, 2, 1)),
                ((0, 2, 2), (2, 2)),
            ]
        ],
        refused=[([(32, 28), (64, 28)], {}), ([(2, 3), (4, 3)], {}), ([(2, 2, 3), (3, 3, 4)], {})],
    ),
    "reshape": Whole(
        taken=[
            ([shape], dict(shape=new))
            for shape, new in [
                ((), (1, 1)), ((1, 1), ()), ((4,), (2, 2)), ((2, 3), (6,)), ((2, 3), (3, 2)), ((3, 2), (2, 3)),
                ((2, 2), (4, 1)), ((3, 2), (6,)), ((0, 3), (2, 0)), ((2, 1, 3), (3, 2)), ((3, 2), (1, 6)), ((1,), (1,)),
            ]
        ],
        refused=[([(2, 3)], dict(shape=(4,))), ([(2, 2)], dict(shape=(0, 2)))],
        exact=True,
    ),
    "permute": Whole(
        taken=[
            ([shape], dict(dims=dims))
            for shape, dims in [
                ((), ()), ((3,), (0,)), ((2, 3), (1, 0)), ((2, 3), (0, 1)), ((2, 3), (1, 0)), ((3, 2), (1, 0)),
                ((3, 2), (1, 0)), ((2, 1, 3), (2, 0, 1)), ((2, 1, 3), (1, 2, 0)), ((2, 0, 3), (1, 0, 2)),
                ((2, 2, 3), (0, 2, 1)), ((2, 3), (1, 0)),
            ]
        ],
        exact=True,
    ),
    "expand": Whole(
        taken=[
            ([shape], dict(shape=new))
            for shape, new in [
                ((), ()), ((), (2,)), ((1,), (3,)), ((2, 1), (2, 3)), ((3, 1), (3, 2)), ((3,), (2, 3)),
                ((2, 1, 3), (2, 2, 3)), ((2, 3), (2, 3)), ((2, 1), (2, 2, 3)), ((1, 2), (0, 2)), ((0, 1), (0, 3)),
                ((3, 1), (2, 3, 2)), ((), (0,)),
            ]
        ],
        refused=[([(2,)], dict(shape=(3,))), ([(2, 1)], dict(shape=(2,))), ([(0,)], dict(shape=(1,)))],
        exact=True,
    ),
    "sum_to": Whole(
        taken=[
            ([shape], dict(shape=new))
            for shape, new in [
                ((), ()), ((2,), ()), ((3,), (1,)), ((2, 3), (2, 1)), ((2, 3), (1, 3)), ((2, 3), (3,)),
                ((3, 2), (1, 1)), ((2, 3), (2, 3)), ((2, 2, 3), (2, 1)), ((0, 2), (1, 2)), ((0, 3), (0, 1)),
                ((2, 3, 2), (3, 1)), ((0,), ()),
            ]
        ],
        refused=[([(3,)], dict(shape=(2,))), ([(2,)], dict(shape=(2, 1)))],
    ),
    "slice": Whole(
        taken=[([shape], dict(at=at)) for shape, at, _ in PARTS],
        refused=[([(3, 2)], dict(at=(3,))), ([(3,)], dict(at=(0, 0))), ([(3, 2)], dict(at=(slice(None), -3)))],
        exact=True,
    ),
    "slice_scatter": Whole([([part], dict(shape=shape, at=at)) for shape, at, part in PARTS], exact=True),
    "index": Whole(
        taken=[([shape], dict(at=at)) for shape, at, _ in ELEMENTS],
        refused=[([(3, 2)], dict(at=(np.array([True, False]),))), ([(3, 2)], dict(at=(slice(None), np.array([0, 2]))))],
        exact=True,
    ),
    "index_add": Whole([([part], dict(shape=shape, at=at)) for shape, at, part in ELEMENTS]),
    "cat": Whole(
        taken=[
            (shapes, dict(dim=dim))
            for shapes, dim in [
                ([(2,)], 0), ([(2,), (3,)], 0), ([(2,), (0,)], 0), ([(0,), (0,)], 0), ([(2, 3), (1, 3)], 0),
                ([(2, 1), (2, 2)], 1), ([(2, 2), (2, 2), (2, 1)], 1), ([(1, 2), (2, 2), (1, 2)], 0),
                ([(3, 2), (3, 2)], 1), ([(0, 2), (0, 1)], 1), ([(1, 2, 1), (1, 2, 2)], 2),
                ([(2, 1, 2), (2, 2, 2)], 1), ([(3, 2), (1, 2)], 0),
            ]
        ],
        refused=[
            ([(2, 3), (2, 4)], dict(dim=0)),
            ([(2, 3), (3,)], dict(dim=0)),
            ([(2, 3), (2, 3), (3, 3)], dict(dim=1)),
        ],
        exact=True,
    ),
    "cast": Whole(
        taken=[
            ([shape], dict(dtype=np.dtype(np.float64)))
            for shape in [(), (1,), (4,), (2, 3), (3, 2), (0,), (2, 0), (2, 2), (3, 2), (2, 3), (1, 2), (2, 1, 2)]
        ],
    ),
}  # fmt: skip
