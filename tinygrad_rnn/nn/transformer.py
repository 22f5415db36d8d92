"""Layers that let each step look at all others: MultiheadAttention, and the transformer made of it."""

import copy
import math
from collections.abc import Callable
from typing import Any

from ..autograd.operands import floating
from ..autograd.pointwise import gelu, relu
from ..autograd.products import matmul
from ..autograd.shapes import cat
from ..autograd.tape import mode
from ..autograd.tensor import Tensor
from . import attention, functional, init
from .containers import ModuleList
from .layers import Dropout, LayerNorm, Linear, empty
from .module import Module

ACTIVATIONS = {"relu": relu, "gelu": gelu}


class MultiheadAttention(Module):
    """`y = concat(head_1, ..., head_h) W_o^T`, `head_i = softmax(q_i k_i^T / sqrt(E / h)) v_i`.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.MultiheadAttention(8, num_heads=2, batch_first=True)
        >>> x = tg.randn(3, 5, 8)
        >>> y, shares = layer(x, x, x, is_causal=True)
        >>> y.shape, shares.shape
        ((3, 5, 8), (3, 5, 5))

    The q_i, k_i, v_i of each head are E / h numbers of `query W_q^T + b_q` and so on.

    Shapes: query [L, N, E], key [S, N, kdim], value [S, N, vdim] -> ([L, N, E], weights [N, L, S]); with batch_first
    [N, L, E] and so on; without N for one sequence.

    Args:
        dropout: the probability of a weight to be dropped while training.
        add_bias_kv: a learned key and a learned value come after those of the sequence.
        add_zero_attn: a key and a value of zeros come after them: a head may look at nothing.
        kdim, vdim: sizes of keys and values; embed_dim unless given.

    Attributes:
        in_proj_weight: W_q, W_k, W_v one below the other, [3 E, E]; None if kdim or vdim differs from E, and then there
            are q_proj_weight [E, E], k_proj_weight [E, kdim] and v_proj_weight [E, vdim].
        in_proj_bias: b_q, b_k, b_v, [3 E], or None.
        bias_k, bias_v: [1, 1, E], or None.
        out_proj: the Linear of W_o.

    Raises:
        ValueError: the heads do not divide embed_dim.

    Vaswani et al., "Attention is all you need", 2017, section 3.2.2.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim: int | None = None, vdim: int | None = None, batch_first: bool = False, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: {num_heads} heads do not divide embed_dim {embed_dim}")
        functional.check_probability("MultiheadAttention: dropout", dropout)
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        alike = self.kdim == self.vdim == embed_dim
        self.in_proj_weight = empty(3 * embed_dim, embed_dim, dtype=dtype) if alike else None
        self.q_proj_weight = None if alike else empty(embed_dim, embed_dim, dtype=dtype)
        self.k_proj_weight = None if alike else empty(embed_dim, self.kdim, dtype=dtype)
        self.v_proj_weight = None if alike else empty(embed_dim, self.vdim, dtype=dtype)
        self.in_proj_bias = empty(3 * embed_dim, dtype=dtype) if bias else None
        self.bias_k = empty(1, 1, embed_dim, dtype=dtype) if add_bias_kv else None
        self.bias_v = empty(1, 1, embed_dim, dtype=dtype) if add_bias_kv else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Glorot's, biases 0, and the output as a Linear's."""
        for name, parameter in self.named_parameters(recurse=False):
            if name.endswith("weight"):
                init.xavier_uniform_(parameter)
            elif name == "in_proj_bias":
                init.zeros_(parameter)
            else:
                init.xavier_normal_(parameter)
        self.out_proj.reset_parameters()
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
        attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The result and, if need_weights, the weights [N, L, S], or of each head, [N, heads, L, S].

        Args:
            key_padding_mask: [N, S]; True hides a key from all queries of its sequence; floats are added to scores.
            attn_mask: [L, S], [N heads, L, S], or of four sizes that broadcast to [N, heads, L, S]; True hides a key,
                which is the other way round in `functional.scaled_dot_product_attention`; floats are added to scores.
            average_attn_weights: the mean of the weights over the heads is returned.
            is_causal: query i sees the keys 0 to i, whether or not there is an attn_mask, which PyTorch wants as well.

        Raises:
            ValueError: a shape does not fit.
            TypeError: a mask holds integers.
        """
        q, k, v = floating(query), key if key is query else floating(key), value if value is query else floating(value)
        batched = q.ndim == 3
        shared = key is query and value is query
        if not batched:
            around = 0 if self.batch_first else 1
            q = q.unsqueeze(around) if q.ndim == 2 else q
            k, v = (q, q) if shared else [x.unsqueeze(around) if x.ndim == 2 else x for x in (k, v)]
        k, v = (q, q) if shared else (k, v)
        self._check(q, k, v)
        q, k, v = self._heads(q, k, v, shared)
        bias, is_causal = self._bias(q, k, key_padding_mask, attn_mask, is_causal)
        k, v = self._with_more_keys(k, v)
        weights = attention.weights(q, k, bias, is_causal)
        if self.training and self.dropout:
            weights = functional.dropout(weights, self.dropout)
        y = matmul(weights, v).permute(*(0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3))
        y = self.out_proj(_rows(y.flatten(2))).reshape(y.shape[0], y.shape[1], self.embed_dim)
        if not batched:
            y = y.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return y, None
        weights = weights.mean(1) if average_attn_weights else weights
        return y, weights if batched else weights.squeeze(0)

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        batch, steps = (0, 1) if self.batch_first else (1, 0)
        sizes = self.embed_dim, self.kdim, self.vdim
        fits = q.ndim == k.ndim == v.ndim == 3 and sizes == (q.shape[2], k.shape[2], v.shape[2])
        if not fits or not q.shape[batch] == k.shape[batch] == v.shape[batch] or k.shape[steps] != v.shape[steps]:
            order = "[N, L, {}]" if self.batch_first else "[L, N, {}]"
            wanted = ", ".join(order.format(n).replace("L", name) for n, name in zip(sizes, "LSS"))
            given = ", ".join(str(list(x.shape)) for x in (q, k, v))
            raise ValueError(f"MultiheadAttention: expected query, key and value {wanted}, got {given}")

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, shared: bool) -> list[Tensor]:
        """Queries, keys and values, each [N, heads, steps, E / heads]."""
        E, b, w = self.embed_dim, self.in_proj_bias, self.in_proj_weight
        if shared and w is not None:
            together = functional.linear(_rows(q), w, b)
            together = together.reshape(q.shape[0], q.shape[1], 3, self.num_heads, self.head_dim)
            return [self._to_heads(together[:, :, i]) for i in range(3)]
        parts = [slice(i * E, (i + 1) * E) for i in range(3)]
        own = [w[part] for part in parts] if w is not None else [
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight,
        ]  # fmt: skip
        return [
            self._to_heads(self._projected(x, weight, None if b is None else b[part]))
            for x, weight, part in zip((q, k, v), own, parts)
        ]

    def _projected(self, x: Tensor, weight: Any, bias: Any) -> Tensor:
        return functional.linear(_rows(x), weight, bias).reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim)

    def _to_heads(self, x: Tensor) -> Tensor:
        return x.permute(*(0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _with_more_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """With the learned key and value, and those of zeros, behind."""
        n = k.shape[0]
        if self.bias_k is not None and self.bias_v is not None:
            more = [x.reshape(1, self.num_heads, 1, self.head_dim) for x in (self.bias_k, self.bias_v)]
            k, v = (cat([x, last.expand(n, -1, -1, -1)], 2) for x, last in zip((k, v), more))
        if self.add_zero_attn:
            nothing = k.detach()[:, :, :1] * 0 if k.shape[2] else k.detach()
            k, v = cat([k, nothing], 2), cat([v, nothing], 2)
        return k, v

    def _bias(self, q: Tensor, k: Tensor, key_padding_mask: Any, attn_mask: Any, causal: bool) -> tuple[Any, bool]:
        """What is added to the scores; and whether they are causal besides."""
        (n, h, queries, _), keys, dtype = q.shape, k.shape[2], q.dtype
        found: list[Any] = []
        if attn_mask is not None:
            bias = attention.bias_of(attn_mask, dtype, hides=True, what="MultiheadAttention: attn_mask")
            if bias.ndim == 3 and bias.shape[0] != n * h:  # of sequences or of heads: it cannot be told
                shown = f"{list(bias.shape)}, expected {[n * h, queries, keys]}, or what broadcasts to"
                raise ValueError(f"MultiheadAttention: attn_mask has shape {shown} {[n, h, queries, keys]}")
            if bias.ndim == 3:
                bias = bias.reshape(n, h, *bias.shape[1:])
            attention.check_mask("MultiheadAttention", bias, (n, h, queries, keys))
            found.append(bias)
        if key_padding_mask is not None:
            what = "key_padding_mask"
            bias = attention.bias_of(key_padding_mask, dtype, hides=True, what=f"MultiheadAttention: {what}")
            if bias.ndim == 1 and n == 1:
                bias = bias.reshape(1, keys)
            if tuple(bias.shape) != (n, keys):
                shown = f"{list(bias.shape)}, expected {[n, keys]}"
                raise ValueError(f"MultiheadAttention: key_padding_mask has shape {shown}")
            found.append(bias.reshape(n, 1, 1, keys))
        more = (self.bias_k is not None) + self.add_zero_attn
        if more and causal:
            found, causal = [*found, attention.causal_bias(queries, keys, dtype)], False
        if not found:
            return 0, causal
        bias = found[0] if len(found) == 1 else sum(found[1:], start=found[0])
        return (functional.pad(bias, (0, more)) if more else bias), causal  # whatever is hidden, those are seen

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}"


def _rows(x: Tensor) -> Tensor:
    """What weights multiply as a matrix, in one product; a step that is traced has the rows of a batch apart."""
    return x if mode.tracer is not None or x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class TransformerEncoderLayer(Module):
    """`x = norm1(x + attention(x)); y = norm2(x + W_2 activation(W_1 x))`.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, norm_first=True)
        >>> layer(tg.randn(5, 3, 8), is_causal=True).shape
        (5, 3, 8)

    Shapes: src [T, N, d_model], or [N, T, d_model] with batch_first, or [T, d_model] -> the same.

    Args:
        dropout: the probability of an element to be dropped while training: of weights, of both branches' results, and
            behind the activation.
        activation: "relu", "gelu", or a function of a tensor.
        norm_first: norms come before the branches: `x = x + attention(norm1(x)); y = x + W_2 activation(W_1 norm2(x))`,
            which trains without a warm-up (Xiong et al., 2020).

    With `is_causal` it is a layer of a decoder-only model.

    Raises:
        ValueError: the heads do not divide d_model, or the activation is unknown.

    Vaswani et al., "Attention is all you need", 2017.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        function = ACTIVATIONS.get(activation) if isinstance(activation, str) else activation
        if function is None:
            raise ValueError(f"TransformerEncoderLayer: activation must be relu, gelu or a function: {activation!r}")
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = function

    def forward(
        self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """See the class; for the masks see `MultiheadAttention.forward`."""
        x, masks = floating(src), (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = x + self._attended(self.norm1(x), *masks)
            return x + self._fed_forward(self.norm2(x))
        x = self.norm1(x + self._attended(x, *masks))
        return self.norm2(x + self._fed_forward(x))

    def _attended(self, x: Tensor, mask: Any, padding: Any, causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, padding, need_weights=False, attn_mask=mask, is_causal=causal)
        return self.dropout1(y)

    def _fed_forward(self, x: Tensor) -> Tensor:
        y = self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(_rows(x))))))
        return y.reshape(*x.shape)


class TransformerEncoder(Module):
    """`num_layers` copies of a layer, one after the other, and a norm behind them if there is one.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16)
        >>> tg.nn.TransformerEncoder(layer, num_layers=3)(tg.randn(5, 2, 8)).shape
        (5, 2, 8)

    Shapes: those of the layer.

    Args:
        encoder_layer: is copied, as in PyTorch with its weights: draw those of each layer anew with
            `reset_parameters` if they are to differ.
        norm: for layers with norm_first, a LayerNorm: what leaves the last of these has none.
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Tensor:
        """See `TransformerEncoderLayer.forward`."""
        y = floating(src)
        for layer in self.layers:
            y = layer(y, mask, src_key_padding_mask, bool(is_causal))
        return y if self.norm is None else self.norm(y)


class SinusoidalPositions(Module):
    """`y = dropout(x + sinusoids)`: embeddings that know where they stand; see `functional.sinusoidal_positions`.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.SinusoidalPositions(8)(tg.zeros(5, 2, 8)).shape
        (5, 2, 8)

    Shapes: [T, N, embed_dim], or [N, T, embed_dim] with batch_first, or [T, embed_dim] -> the same.

    Raises:
        ValueError: the input is of another shape.
    """

    def __init__(
        self, embed_dim: int, dropout: float = 0.0, batch_first: bool = False, base: float = 10000.0
    ) -> None:
        self.embed_dim, self.batch_first, self.base = embed_dim, batch_first, base
        self.dropout = Dropout(dropout)

    def forward(self, input: Any) -> Tensor:
        x = floating(input)
        if x.ndim not in (2, 3) or x.shape[-1] != self.embed_dim:
            shown = f"[T, N, {self.embed_dim}] or [T, {self.embed_dim}], got shape {list(x.shape)}"
            raise ValueError(f"SinusoidalPositions: expected {shown}")
        steps = 1 if self.batch_first and x.ndim == 3 else 0
        y = functional.sinusoidal_positions(x.shape[steps], self.embed_dim, self.base, dtype=x.dtype)
        return self.dropout(x + (y.unsqueeze(1) if x.ndim == 3 and not self.batch_first else y))

    def extra_repr(self) -> str:
        return f"{self.embed_dim}"
