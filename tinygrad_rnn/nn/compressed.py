"""A trained LSTM with fewer parameters: its recurrent matrices cut to a low rank (Prabhavalkar et al., 2016)."""

import itertools
from typing import Any

import numpy as np

from ..autograd.operands import is_whole
from .layers import Linear
from .rnn import LSTM


def compress(lstm: LSTM, rank: int | None = None, *, explained: float | None = None, head: Linear | None = None) -> Any:
    """An LSTM with projections that computes nearly what this one does, with fewer parameters.

        >>> import tinygrad_rnn as tg
        >>> lstm, head = tg.nn.LSTM(28, 64, num_layers=2), tg.nn.Linear(64, 10)
        >>> small, small_head = tg.nn.utils.compress(lstm, rank=16, head=head)
        >>> small.proj_size, sum(p.numel() for p in lstm.parameters()), sum(p.numel() for p in small.parameters())
        (16, 57344, 22528)

    Of each layer, W_hh = U S V^T, of which the `rank` largest singular values are kept. What is left of V^T becomes the
    projection P, so that h' = P h are the numbers that the next step, the next layer and the head see:

        W_hr = P        W_hh' = U S        W_ih' of the next layer = W_ih P^T        head' = head P^T

    P P^T = 1, hence W_ih P^T is also the matrix nearest to W_ih of those that see P h. The error of W_hh is that of
    Eckart and Young, the sum of the squares of what was cut off. Biases stay. Train on for some epochs: most of what is
    lost comes back.

    Args:
        lstm: of any number of layers and directions; with projections already, these are cut further.
        rank: how many numbers each layer passes on.
        explained: in place of a rank: the share of sum s^2 that each layer keeps at least, such as 0.9; the largest
            rank that a layer needs is taken for all.
        head: a Linear that reads the last layer's outputs, to be converted too.

    Returns:
        The new LSTM; with a head, (LSTM, Linear).

    Raises:
        ValueError: not one of rank and explained was given, the rank is not below the number of units, the head does
            not read the outputs, or a weight is not finite.

    Source: Prabhavalkar, Alsharif, Bruguier, McGraw, "On the compression of recurrent neural networks with an
    application to LVCSR acoustic modeling for embedded speech recognition", 2016.
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"compress: expected an LSTM, not {type(lstm).__name__}: gates of others need the whole state")
    if (rank is None) == (explained is None):
        raise ValueError("compress: give either rank or explained")
    if rank is not None and not is_whole(rank):
        raise ValueError(f"compress: rank must be a whole number, not {rank!r}")
    outputs = (lstm.proj_size or lstm.hidden_size) * (1 + lstm.bidirectional)
    if head is not None and head.in_features != outputs:
        raise ValueError(f"compress: the head reads {head.in_features} numbers, and the LSTM puts out {outputs}")
    before, layers = lstm.state_dict(), [_directions(lstm, layer) for layer in range(lstm.num_layers)]
    for name, array in before.items():
        if not np.isfinite(array).all():
            raise ValueError(f"compress: {name} has numbers that are not finite")
    factors = {name: np.linalg.svd(_dense(before, name), full_matrices=False) for names in layers for name in names}
    r = _rank(lstm, rank, explained, [s for _, s, _ in factors.values()])
    kept = {name: v[:r] for name, (_, _, v) in factors.items()}  # the projections
    state = dict(before)
    for name, (u, s, _) in factors.items():
        state[f"weight_hh_{name}"], state[f"weight_hr_{name}"] = u[:, :r] * s[:r], kept[name]
    for below, names in itertools.pairwise(layers):
        for name in names:
            state[f"weight_ih_{name}"] = _reading(before[f"weight_ih_{name}"], before, below, kept)
    small = _with_projections(lstm, r)
    small.load_state_dict(state)
    if head is None:
        return small
    reader = Linear(r * len(layers[-1]), head.out_features, head.bias is not None, dtype=head.weight.dtype)
    reading = _reading(head.state_dict()["weight"], before, layers[-1], kept)
    reader.load_state_dict(head.state_dict() | {"weight": reading})
    return small, reader.train(head.training)


def _directions(lstm: LSTM, layer: int) -> list[str]:
    """What the names of a layer's weights end in, one for each direction."""
    return [f"l{layer}", f"l{layer}_reverse"][: 1 + lstm.bidirectional]


def _dense(state: dict[str, np.ndarray], name: str) -> np.ndarray:
    """How a layer's units come back to it: [4H, H], in float64."""
    weight = state[f"weight_hh_{name}"].astype(np.float64)
    return weight @ state[f"weight_hr_{name}"] if f"weight_hr_{name}" in state else weight


def _reading(
    weight: np.ndarray, before: dict[str, np.ndarray], below: list[str], kept: dict[str, np.ndarray]
) -> np.ndarray:
    """A matrix that read the outputs of the directions below, as one that reads their projections."""
    parts = zip(np.split(weight.astype(np.float64), len(below), 1), below)
    units = [(part @ before.get(f"weight_hr_{name}", np.eye(part.shape[1])), name) for part, name in parts]
    return np.concatenate([part @ kept[name].T for part, name in units], 1)


def _rank(lstm: LSTM, rank: int | None, explained: float | None, spectra: list[np.ndarray]) -> int:
    """How many numbers each layer passes on."""
    if explained is not None:
        if not 0 < explained <= 1:
            raise ValueError(f"compress: explained must be in (0, 1], not {explained}")
        shares = [np.cumsum(s**2) / np.sum(s**2) if s.any() else np.ones_like(s) for s in spectra]  # of nothing, all
        rank = max(min(int(np.searchsorted(share, explained * (1 - 1e-12))) + 1, len(share)) for share in shares)
    assert rank is not None
    outputs = lstm.proj_size or lstm.hidden_size
    if not 0 < rank <= outputs or rank == lstm.hidden_size:
        raise ValueError(
            f"compress: rank {rank} must be positive and below the {outputs} numbers that a layer passes on"
            + ("" if explained is None else f": explaining {explained} needs all of them")
        )
    return rank


def _with_projections(lstm: LSTM, rank: int) -> LSTM:
    """One with the same options, and other parameters."""
    assert lstm.input_size is not None
    small = LSTM(
        lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, lstm.batch_first, lstm.dropout,
        lstm.bidirectional, rank, variational=lstm.variational, recurrent_dropout=lstm.recurrent_dropout,
        dtype=next(lstm.parameters()).dtype,
    )  # fmt: skip
    small.fused = lstm.fused
    return small.train(lstm.training)
