"""Where the boxes of a graph go: in layers from left to right, with few crossings and short arrows.

Sugiyama's four steps, each a few lines: a layer for each box, so that arrows point to the right; a bend in every layer
that an arrow passes; an order in each layer, by the mean place of the neighbours; heights, as near to the neighbours as
the boxes of the layer let them.

    >>> place = layout({"a": (40, 20), "b": (40, 20), "mul": (40, 20)}, [("a", "mul"), ("b", "mul")])
    >>> place.at["a"][0] == place.at["b"][0] < place.at["mul"][0]
    True
"""

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

GAP, BETWEEN = 18.0, 46.0  # between boxes of a layer, and between layers
ENDS = 0.8  # the share of a box's side on which arrows end
SWEEPS = 8


class Layout(NamedTuple):
    """Where everything goes.

    Attributes:
        at: box -> its middle.
        paths: for each edge the points that it goes through, from box to box.
        width, height: of the whole.
    """

    at: dict[Any, tuple[float, float]]
    paths: list[list[tuple[float, float]]]
    width: float
    height: float


def layout(
    sizes: dict[Hashable, tuple[float, float]], edges: Sequence[tuple[Any, Any]], between: float = BETWEEN
) -> Layout:
    """Place boxes so that all edges point to the right.

    Args:
        sizes: box -> width and height, in an order in which edges lead from earlier boxes to later ones.
        edges: pairs of boxes.
        between: the room between two layers.
    """
    layer = layers(sizes, edges)
    columns: list[list[Any]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for box, k in layer.items():
        columns[k].append(box)
    links: dict[Any, list[Any]] = {box: [] for box in sizes}
    bends: list[list[Any]] = []
    heights = {box: size[1] for box, size in sizes.items()}
    for number, (a, b) in enumerate(edges):
        bends.append([("bend", number, k) for k in range(layer[a] + 1, layer[b])])
        for bend in bends[-1]:
            columns[bend[2]].append(bend)
            links[bend], heights[bend] = [], 4.0
        chain = [a, *bends[-1], b]
        for left, right in itertools.pairwise(chain):
            links[left].append(right)
            links[right].append(left)
    for sweep in range(SWEEPS):
        place = {box: i - len(column) / 2 for column in columns for i, box in enumerate(column)}
        for column in columns if sweep % 2 else columns[::-1]:
            column.sort(key=lambda box: _mean([place[other] for other in links[box]], place[box]))
            place.update((box, i - len(column) / 2) for i, box in enumerate(column))
    y = _heights(columns, links, heights)
    x: dict[Any, float] = {}
    half: dict[Any, float] = {}  # of the width of its layer, which an arrow passes in a straight line
    left = 8.0
    for column in columns:
        widest = max((sizes[box][0] for box in column if box in sizes), default=0.0)
        x.update((box, left + widest / 2) for box in column)
        half.update((box, widest / 2) for box in column)
        left += widest + between
    top = min((y[box] - heights[box] / 2 for box in y), default=0.0) - 8.0
    at = {box: (x[box], y[box] - top) for box in x}
    across = lambda bend: [(at[bend][0] + side * half[bend], at[bend][1]) for side in (-1, 1)]
    bent = [list(itertools.chain(*map(across, way))) for way in bends]
    out = _ends(edges, 0, at, sizes, [[*way, at[b]][0] for (_, b), way in zip(edges, bent)])
    into = _ends(edges, 1, at, sizes, [[at[a], *way][-1] for (a, _), way in zip(edges, bent)])
    clear = lambda box, side, point: (  # beside a wider box of its layer an arrow runs straight
        [(x[box] + side * half[box], point[1])] if sizes[box][0] / 2 < half[box] - 1 else []
    )
    paths = [
        [first, *clear(a, 1, first), *way, *clear(b, -1, last), last]
        for (a, b), first, way, last in zip(edges, out, bent, into)
    ]
    bottom = max((at[box][1] + heights[box] / 2 for box in at), default=0.0) + 8.0
    return Layout({box: at[box] for box in sizes}, paths, max(left - between, 0.0) + 8.0, bottom)


def layers(boxes: Any, edges: Sequence[tuple[Any, Any]]) -> dict[Any, int]:
    """For each box its layer: right of all that lead to it, and close to its readers if that makes no arrows longer."""
    into: dict[Any, list[Any]] = {box: [] for box in boxes}
    out: dict[Any, list[Any]] = {box: [] for box in boxes}
    for a, b in edges:
        into[b].append(a)
        out[a].append(b)
    layer: dict[Any, int] = {}
    for box in boxes:
        layer[box] = 1 + max((layer[a] for a in into[box]), default=-1)
    for box in reversed(list(boxes)):
        if len(into[box]) <= len(out[box]) and out[box]:
            layer[box] = min(layer[b] for b in out[box]) - 1
    return layer


def _ends(edges: Sequence[tuple[Any, Any]], side: int, at: Any, sizes: Any, towards: list[Any]) -> list[Any]:
    """Where the edges touch their first boxes (side 0) or their last: each in its place, in the order they come in."""
    of_box: dict[Any, list[int]] = {}
    for number, edge in enumerate(edges):
        of_box.setdefault(edge[side], []).append(number)
    found: list[Any] = [None] * len(edges)
    for box, numbers in of_box.items():
        (x, y), (width, height) = at[box], sizes[box]
        numbers.sort(key=lambda number: towards[number][1])
        for i, number in enumerate(numbers):
            room = ENDS * height * (i - (len(numbers) - 1) / 2) / len(numbers)
            found[number] = (x + (width / 2 if side == 0 else -width / 2), y + room)
    return found


def _heights(columns: list[list[Any]], links: dict[Any, list[Any]], heights: dict[Any, float]) -> dict[Any, float]:
    """Middles from top to bottom: as near to the neighbours' as the order and the sizes allow."""
    y: dict[Any, float] = {}
    for column in columns:
        y.update(_apart(column, {}, heights))
    for sweep in range(2 * SWEEPS):
        for column in columns if sweep % 2 else columns[::-1]:
            wanted = {box: _mean([y[other] for other in links[box]], y[box]) for box in column}
            y.update(_apart(column, wanted, heights))
    return y


def _apart(column: list[Any], wanted: dict[Any, float], heights: dict[Any, float]) -> dict[Any, float]:
    """Near to where they want to be, but not over each other: from above, from below, and the mean of both."""
    need = lambda a, b: (heights[a] + heights[b]) / 2 + GAP
    down: dict[Any, float] = {}
    up: dict[Any, float] = {}
    for before, box in zip([None, *column], column):
        least = down[before] + need(before, box) if before is not None else wanted.get(box, 0.0)
        down[box] = max(wanted.get(box, 0.0), least)
    for after, box in zip([None, *column[::-1]], column[::-1]):
        most = up[after] - need(box, after) if after is not None else wanted.get(box, 0.0)
        up[box] = min(wanted.get(box, 0.0), most)
    return {box: (down[box] + up[box]) / 2 for box in column}


def _mean(numbers: list[float], otherwise: float) -> float:
    return sum(numbers) / len(numbers) if numbers else otherwise
