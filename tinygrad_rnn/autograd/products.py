"""Matrix products and what is arranged around them."""

import itertools
import math
import string
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from . import table
from .eager import binary
from .operands import aligned, as_tensor
from .shapes import diagonal, permute, reshape
from .tape import Value, mode

if TYPE_CHECKING:
    from .tensor import Tensor


_matrix_product = binary(table.matmul, table.matmul)  # of two matrices


def matmul(input: Any, other: Any) -> "Tensor":
    """The matrix product, NumPy's and PyTorch's `@`.

        >>> import tinygrad_rnn as tg
        >>> tg.matmul(tg.ones(5, 2, 3), tg.ones(3, 4)).shape
        (5, 2, 4)

    Shapes: [K] @ [K] -> []; [M, K] @ [K] -> [M]; [K] @ [K, N] -> [N]; [..., M, K] @ [..., K, N] -> [..., M, N] with
    batch dimensions that broadcast.

    Raises:
        ValueError: an operand is 0-d, or the inner dimensions differ.
    """
    a, b = input, other
    if not (isinstance(a, Value) and isinstance(b, Value) and a.data.dtype is b.data.dtype):
        a, b = aligned("matmul", as_tensor(a), as_tensor(b))
    rows, columns = a.data.ndim, b.data.ndim
    if rows == 2 == columns:
        return _matrix_product(a, b)
    if rows == 0 or columns == 0:
        raise ValueError(f"matmul(a, b): operands need a dimension: a is {list(a.shape)}, b is {list(b.shape)}")
    if rows == 1 or columns == 1:
        if a.shape[-1] != b.shape[-2 if columns > 1 else 0]:
            raise ValueError(f"matmul(a, b): inner dimensions differ: a is {list(a.shape)}, b is {list(b.shape)}")
        shape = a.shape[:-1] if columns == 1 else (*b.shape[:-2], b.shape[-1])
        row = table.reshape(a, shape=(1, *a.shape)) if rows == 1 else a
        column = table.reshape(b, shape=(*b.shape, 1)) if columns == 1 else b
        return table.reshape(matmul(row, column), shape=shape)
    # One product over all rows, rather than one a batch entry; but a tracer must know the rows again.
    if columns == 2 and a.shape[-1] == b.shape[0] and mode.tracer is None:
        flat = table.reshape(a, shape=(math.prod(a.data.shape[:-1]), a.shape[-1]))
        return table.reshape(table.matmul(flat, b), shape=(*a.shape[:-1], b.shape[1]))
    return table.matmul(a, b)


def _of_dims(name: str, *operands: tuple[Any, int]) -> list[Any]:
    """Tensors, each of so many dimensions."""
    tensors, dims = [as_tensor(x) for x, _ in operands], [n for _, n in operands]
    if [x.data.ndim for x in tensors] != dims:
        shapes = " and ".join(str(list(x.shape)) for x in tensors)
        raise ValueError(f"{name}: expected tensors of {dims} dimensions, got shapes {shapes}")
    return tensors


def mm(input: Any, mat2: Any) -> "Tensor":
    """The product of two matrices: [M, K], [K, N] -> [M, N].

        >>> import tinygrad_rnn as tg
        >>> tg.mm(tg.tensor([[1.0, 2.0]]), tg.tensor([[3.0], [4.0]]))
        tensor([[11.]])
    """
    return matmul(*_of_dims("mm", (input, 2), (mat2, 2)))


def bmm(input: Any, mat2: Any) -> "Tensor":
    """The products of two stacks of matrices: [B, M, K], [B, K, N] -> [B, M, N], without broadcasting.

        >>> import tinygrad_rnn as tg
        >>> tg.bmm(tg.ones(5, 2, 3), tg.ones(5, 3, 4)).shape
        (5, 2, 4)
    """
    a, b = _of_dims("bmm", (input, 3), (mat2, 3))
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"bmm: batch sizes differ: {list(a.shape)} and {list(b.shape)}; matmul broadcasts them")
    return matmul(a, b)


def mv(input: Any, vec: Any) -> "Tensor":
    """The product of a matrix and a vector: [M, K], [K] -> [M].

        >>> import tinygrad_rnn as tg
        >>> tg.mv(tg.tensor([[1.0, 2.0], [3.0, 4.0]]), tg.tensor([1.0, 1.0]))
        tensor([3., 7.])
    """
    return _times_vector("mv", input, 2, vec)


def dot(input: Any, tensor: Any) -> "Tensor":
    """The inner product of two vectors: [K], [K] -> [].

        >>> import tinygrad_rnn as tg
        >>> tg.dot(tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0])).item()
        11.0
    """
    return _times_vector("dot", input, 1, tensor)


def _times_vector(name: str, input: Any, ndim: int, vector: Any) -> "Tensor":
    a, b = _of_dims(name, (input, ndim), (vector, 1))
    if a.shape[-1] != b.shape[0]:
        raise ValueError(f"{name}: inner dimensions differ: {list(a.shape)} and {list(b.shape)}")
    return matmul(a, b)


def outer(input: Any, vec2: Any) -> "Tensor":
    """The outer product of two vectors: [M], [N] -> [M, N].

        >>> import tinygrad_rnn as tg
        >>> tg.outer(tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0]))
        tensor([[3., 4.],
                [6., 8.]])
    """
    a, b = _of_dims("outer", (input, 1), (vec2, 1))
    return reshape(a, (a.shape[0], 1)) * b


def einsum(equation: str, *operands: Any) -> "Tensor":
    """Einstein's summation convention: `einsum("tbi,ih->tbh", x, w)`.

        >>> import tinygrad_rnn as tg
        >>> tg.einsum("tbi,ih->tbh", tg.ones(7, 2, 3), tg.ones(3, 4)).shape
        (7, 2, 4)

    Operands are contracted from left to right, each pair as one batched matrix product over the letters that appear
    in neither later operands nor the result.

    Raises:
        ValueError: the equation does not fit the operands.
    """
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    tensors = [as_tensor(x) for x in operands]
    terms, result = _parse(equation, tensors)
    sizes: dict[str, int] = {}
    for letter, n in zip("".join(terms), itertools.chain(*[x.data.shape for x in tensors])):
        if sizes.setdefault(letter, n) != n:
            if 1 not in (n, sizes[letter]):
                raise ValueError(f"einsum({equation!r}): {letter!r} has size {sizes[letter]} and size {n}")
            sizes[letter] = max(n, sizes[letter])
    (x, term), *others = [_distinct(x, term, sizes) for x, term in zip(tensors, terms)]
    for position, (other, other_term) in enumerate(others):
        x, term = _contract(x, term, other, other_term, set(result).union(*terms[position + 2 :]))
    x, term = _summed(x, term, result)
    return permute(x, tuple(term.index(letter) for letter in result))


def _parse(equation: str, tensors: list[Any]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with "..." spelled out in letters that are not used."""
    compact = equation.replace(" ", "")
    left, arrow, right = compact.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ValueError(f"einsum({equation!r}): {len(terms)} terms for {len(tensors)} operands")
    spare = [c for c in string.ascii_letters if c not in compact]
    widths = [x.ndim - len(term.replace("...", "")) if "..." in term else 0 for term, x in zip(terms, tensors)]
    ellipsis = "".join(spare[: max([0, *widths])])
    for i, (term, x, width) in enumerate(zip(terms, tensors, widths)):
        terms[i] = term.replace("...", ellipsis[len(ellipsis) - width :] if width > 0 else "")
        if len(terms[i]) != x.ndim or not (terms[i] == "" or terms[i].isalpha()):
            raise ValueError(f"einsum({equation!r}): term {term!r} does not fit an operand of shape {list(x.shape)}")
    if arrow:
        result = right.replace("...", ellipsis)
    else:
        letters = "".join(terms)
        result = ellipsis + "".join(sorted(c for c in set(letters) - set(ellipsis) if letters.count(c) == 1))
    if len(set(result)) < len(result) or not set(result) <= set("".join(terms)):
        raise ValueError(f"einsum({equation!r}): the result {right!r} repeats a letter or has one of its own")
    return terms, result


def _distinct(x: Any, term: str, sizes: dict[str, int]) -> tuple[Any, str]:
    """Take diagonals until every letter appears once, and repeat sizes of 1 that another operand has larger."""
    for letter in term:
        while term.count(letter) > 1:
            first, second = term.index(letter), term.rindex(letter)
            x = diagonal(x, 0, first, second)
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
    shape = tuple(sizes[letter] for letter in term)
    return (x if x.data.shape == shape else table.expand(x, shape=shape)), term


def _summed(x: Any, term: str, kept: Collection[str]) -> tuple[Any, str]:
    """The sum over the letters that are not kept."""
    gone = tuple(i for i, letter in enumerate(term) if letter not in kept)
    return (x.sum(gone) if gone else x), "".join(letter for letter in term if letter in kept)


def _element_by_element(a: Any, a_term: str, b: Any, b_term: str, summed: list[str]) -> tuple[Any, str]:
    """The same for a tracer, which must know the rows of a batch again: products of elements, then their sum."""
    term = a_term + "".join(c for c in b_term if c not in a_term)
    b = permute(b, tuple(b_term.index(c) for c in term if c in b_term))
    sizes = iter(b.shape)
    b = reshape(b, tuple(next(sizes) if c in b_term else 1 for c in term))
    y = reshape(a, (*a.shape, *[1] * (len(term) - len(a_term)))) * b
    dims = tuple(term.index(c) for c in summed)
    return table.sum(y, dim=dims, keepdim=False) if dims else y, "".join(c for c in term if c not in summed)


def _contract(a: Any, a_term: str, b: Any, b_term: str, wanted: set[str]) -> tuple[Any, str]:
    """One pair as a batched matrix product [shared, a's own, summed] @ [shared, summed, b's own].

    A tracer must know the rows of a batch again, so for it they stay in front.
    """
    a, a_term = _summed(a, a_term, wanted.union(b_term))
    b, b_term = _summed(b, b_term, wanted.union(a_term))
    traced = mode.tracer is not None
    if traced and mode.tracer.has_rows(b) and not mode.tracer.has_rows(a):
        a, a_term, b, b_term = b, b_term, a, a_term
    shared = [c for c in a_term if c in b_term and c in wanted]
    summed = [c for c in a_term if c in b_term and c not in wanted]
    own_a = [c for c in a_term if c not in b_term]
    own_b = [c for c in b_term if c not in a_term]
    traced = traced and not len(own_a) == len(summed) == len(own_b) == 1 - len(shared)
    with_matrix = own_b and summed and not shared
    if traced and mode.tracer.takes_apart(a, b, with_matrix, a_term.endswith("".join(summed))):
        return _element_by_element(a, a_term, b, b_term, summed)
    front = a_term[:1] if traced and mode.tracer.has_rows(a) and a_term[0] in wanted else ""
    shared, own_a = [[c for c in letters if c not in front] for letters in (shared, own_a)]
    in_b = front if front in b_term else ""
    size = dict(zip(a_term, a.data.shape)) | dict(zip(b_term, b.data.shape))
    count = lambda letters: math.prod(size[c] for c in letters)
    a = permute(a, tuple(a_term.index(c) for c in (*front, *shared, *own_a, *summed)))
    b = permute(b, tuple(b_term.index(c) for c in (*in_b, *shared, *summed, *own_b)))
    both = (count(shared),) if shared else ()  # two matrices are multiplied as such
    a = reshape(a, (*map(size.get, front), *both, count(own_a), count(summed)))
    b = reshape(b, (*map(size.get, in_b), *both, count(summed), count(own_b)))
    y, term = matmul(a, b), "".join([*front, *shared, *own_a, *own_b])
    return reshape(y, tuple(size[c] for c in term)), term
