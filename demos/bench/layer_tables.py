"""`bench layers`: training steps of convolutions and of attention, beside PyTorch's layers."""

from collections.abc import Callable, Iterator
from typing import Any

from pairs import Group, Row, Settings, installed, leaves, random, training

import tinygrad_rnn as tg

# N, C, O, L, k and other options: the convolution of the CNN for MNIST-1D, and two of temporal convolutional networks.
CONVOLUTIONS = [
    (100, 25, 25, 20, 3, dict(stride=2, padding=1)),
    (100, 25, 25, 40, 3, dict(dilation=4)),
    (32, 30, 30, 400, 7, dict(padding="causal")),
]
ATTENTION = [(32, 40, 32, 4), (32, 64, 128, 4), (32, 128, 128, 4)]  # N, T, E, heads
TINY_CONVOLUTION, TINY_ATTENTION = (2, 3, 4, 5, 2, {}), (2, 3, 4, 2)


def layer_groups(settings: Settings) -> Iterator[Group]:
    """Each layer of this library beside that of PyTorch with the same weights."""
    torch = installed("torch")
    if torch is None:
        print("\nPyTorch is not installed: there is nothing to compare with.")
        return
    torch.set_num_threads(settings.threads)
    target = (0.8, 1.0)
    rows = (convolution_row(torch, *size) for size in settings.some(CONVOLUTIONS, TINY_CONVOLUTION))
    yield Group("Conv1d, training step (N, C, O, L, k)", "PyTorch Conv1d", rows, target)
    kinds = {
        "MultiheadAttention": multihead,
        "MultiheadAttention, causal": causal_multihead,
        "TransformerEncoderLayer, causal": encoder_layer,
    }
    for title, make in kinds.items():
        sizes = settings.some(ATTENTION, TINY_ATTENTION)
        rows = (attention_row(torch, make, *size) for size in sizes)
        yield Group(f"{title}, training step (N, T, E, heads)", "PyTorch's", rows, target)


Calls = tuple[Any, Any, Callable[[Any], Any], Callable[[Any], Any]]  # our layer and the rival's; y of x by each


def row_of(case: str, torch: Any, shape: tuple[int, ...], both: Calls) -> Row:
    """A training step of both layers on x of this shape."""
    ours, theirs, run, run_there = both
    ours.load_state_dict(theirs.state_dict())
    (x,), (x_there,) = leaves(tg, random(*shape)), leaves(torch, random(*shape))
    dy = random(*run(x).shape)
    return Row(
        case,
        training(run, x, tg.tensor(dy), list(ours.parameters())),
        training(run_there, x_there, torch.tensor(dy), list(theirs.parameters())),
    )


def convolution_row(torch: Any, N: int, C: int, O: int, L: int, k: int, options: dict[str, Any]) -> Row:
    """Causal padding, which PyTorch's layer does not have, is a `pad` there."""
    causal = options.get("padding") == "causal"
    ours, theirs = tg.nn.Conv1d(C, O, k, **options), torch.nn.Conv1d(C, O, k, **({} if causal else options))
    padded = lambda x: theirs(torch.nn.functional.pad(x, (k - 1, 0)))
    words = "".join(f", {name} {value}" for name, value in options.items())
    both = ours, theirs, ours, padded if causal else theirs
    return row_of(f"{N}, {C}, {O}, {L}, {k}{words}", torch, (N, C, L), both)


def attention_row(torch: Any, make: Callable[..., Calls], N: int, T: int, E: int, heads: int) -> Row:
    """Each step of a sequence looks at the others."""
    return row_of(f"{N}, {T}, {E}, {heads}", torch, (N, T, E), make(torch, T, E, heads))


def multihead(torch: Any, T: int, E: int, heads: int) -> Calls:
    """Both without weights as a result, where PyTorch has its fast path."""
    ours, theirs = (lib.nn.MultiheadAttention(E, heads, batch_first=True) for lib in (tg, torch))
    call = lambda layer: lambda x: layer(x, x, x, need_weights=False)[0]
    return ours, theirs, call(ours), call(theirs)


def causal_multihead(torch: Any, T: int, E: int, heads: int) -> Calls:
    """PyTorch wants the mask as well, which it then does not use."""
    ours, theirs = (lib.nn.MultiheadAttention(E, heads, batch_first=True) for lib in (tg, torch))
    options = dict(need_weights=False, is_causal=True)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(T)
    run_there = lambda x: theirs(x, x, x, attn_mask=mask, **options)[0]
    return ours, theirs, lambda x: ours(x, x, x, **options)[0], run_there


def encoder_layer(torch: Any, T: int, E: int, heads: int) -> Calls:
    """A block of the demo's transformer."""
    options = dict(dropout=0.0, activation="gelu", norm_first=True, batch_first=True)
    ours, theirs = (lib.nn.TransformerEncoderLayer(E, heads, 4 * E, **options) for lib in (tg, torch))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(T)
    run_there = lambda x: theirs(x, src_mask=mask, is_causal=True)
    return ours, theirs, lambda x: ours(x, is_causal=True), run_there
