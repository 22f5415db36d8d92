"""Cells with more inside a step: several layers, an LSTM as memory, an LSTM that makes weights, levels among units."""

from collections.abc import Sequence
from typing import Any

from ...autograd.creation import zeros
from ...autograd.pointwise import sigmoid, tanh
from ...autograd.reductions import cumsum, softmax
from ...autograd.shapes import chunk, expand, flatten, split, unsqueeze
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import LayerNorm, empty
from .catalogue import listed
from .gated import GatedCell
from .options import number, whole, word


@listed("L times: s = t tanh(U s + b) + (1 - t) s; W x in the first", "Zilly et al., 2017")
class RHNCell(Cell):
    """The recurrent highway network: L layers of a highway in every step (Zilly et al., 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.RHNCell(3, 4, depth=5)
        >>> sum(p.numel() for p in cell.parameters())  # 2 H I + 2 L H (H + 1)
        224

        n, t = W_ih x + W_hh[1] s + b[1] in the first layer, W_hh[l] s + b[l] in the others
        s' = sigmoid(t) * tanh(n) + (1 - sigmoid(t)) * s

    The state is what the last layer makes of it. The carry gate is 1 - t, as in the paper's experiments and its
    authors' code. t lets in the NEW state; its bias starts at `transform_bias`, so that at first a step changes little,
    and all else from U(-0.04, 0.04), as there. With one layer it is `UGRNNCell`, gate negated. Recurrent dropout acts
    in the last layer, a mask of `VariationalDropout` in all.

    Args:
        depth: L; 10 in the paper's best models.
        transform_bias: -2 to -4 in the authors' experiments.

    Attributes:
        weight_ih: of n and t, [2H, I].
        weight_hh, bias: of n and t of the first layer, of the second, ..., [2LH, H] and [2LH].

    Raises:
        ValueError: depth is not positive, or transform_bias no finite number.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, depth: int = 3, transform_bias: float = -2.0, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        whole(self, depth=depth)
        number(self, "finite", transform_bias=transform_bias)
        self.input_size: int = input_size
        self.hidden_size, self.depth, self.transform_bias = hidden_size, depth, transform_bias
        self.weight_ih = empty(2 * hidden_size, input_size, dtype=dtype)
        self.weight_hh = empty(2 * depth * hidden_size, hidden_size, dtype=dtype)
        self.bias = empty(2 * depth * hidden_size, dtype=dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.uniform_(parameter, -0.04, 0.04)
        if self.bias is not None:
            for block in chunk(self.bias.detach(), 2 * self.depth)[1::2]:
                init.constant_(block, self.transform_bias)

    def step(self, x: Tensor, s: Tensor) -> Tensor:
        weights = chunk(self.weight_hh, self.depth)
        biases = [None] * self.depth if self.bias is None else chunk(self.bias, self.depth)
        for layer, (W, b) in enumerate(zip(weights, biases)):
            a = linear(self.masked(s), W, b)
            n, t = chunk(a if layer else a + linear(x, self.weight_ih), 2, -1)
            n, t = tanh(n), sigmoid(t)
            if layer == self.depth - 1:
                n = self.candidate(n)
            s = t * n + (1 - t) * s
        return s

    def extra_repr(self) -> str:
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}, depth={self.depth}"


@listed("an LSTM whose memory is kept by another LSTM", "Moniz and Krueger, 2017")
class NestedLSTMCell(GatedCell):
    """The nested LSTM: where an LSTM adds to its memory, this one asks an LSTM inside it (Moniz and Krueger, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.NestedLSTMCell(3, 4)
        >>> cell.state_names
        ('h', 'c', 'c_2')

        i, f, g, o = W_ih x + W_hh h + b
        c', c_2' = inner LSTM of the input sigmoid(i) * g and the states sigmoid(f) * c, c_2
        h' = sigmoid(o) * tanh(c')

    c is the inner LSTM's output, c_2 its memory; the inner one has tanh(g) in place of g, and it may be nested itself.
    So it is in Hann Wang's code for TensorFlow (hannw/nlstm). Recurrent weights start orthogonal, those of the input
    after Glorot, uniformly (normally there, and in the inner ones orthogonal as well), biases at 0, that of f at 1.

    Args:
        depth: how many LSTMs, one inside the other; 2 in the paper.
        nonlinearity: of g, "identity", or "tanh" as in the inner ones: with depth=1 that is an LSTM.

    Attributes:
        inner: the LSTM inside, a `NestedLSTMCell` of H inputs, or None.

    Raises:
        ValueError: depth is not positive, or `nonlinearity` is something else.
    """

    gates = "ifgo"
    inner: "NestedLSTMCell | None" = None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, depth: int = 2, nonlinearity: str = "identity", *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        whole(self, depth=depth)
        word(self, "identity", "tanh", nonlinearity=nonlinearity)
        self.depth, self.nonlinearity = depth, nonlinearity
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        if depth > 1:
            self.inner = NestedLSTMCell(hidden_size, hidden_size, bias, depth - 1, "tanh", dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for block in chunk(self.weight_ih.detach(), 4):
            init.xavier_uniform_(block)
        for block in chunk(self.weight_hh.detach(), 4):
            init.orthogonal_(block)
        if self.bias is not None:
            for gate, block in zip(self.gates, chunk(self.bias.detach(), 4)):
                init.constant_(block, 1.0 if gate == "f" else 0.0)

    @property
    def state_names(self) -> tuple[str, ...]:
        return "h", "c", *(f"c_{k}" for k in range(2, self.depth + 1))

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        h, c, *rest = states
        i, f, g, o = self.preactivations(x, h)
        new = sigmoid(i) * self.candidate(tanh(g) if self.nonlinearity == "tanh" else g)
        kept = sigmoid(f) * c
        c, *rest = (kept + new,) if self.inner is None else self.inner.step(new, kept, *rest)
        return sigmoid(o) * tanh(c), c, *rest

    def extra_repr(self) -> str:
        tanh_of_g = "" if self.nonlinearity == "identity" else f", nonlinearity={self.nonlinearity!r}"
        return f"{super().extra_repr()}, depth={self.depth}{tanh_of_g}"


class _GateNormLSTMCell(GatedCell):
    """What is in an LSTM that normalises each gate by itself, after its products are added up, and its memory."""

    gates = "IFGO"  # no f for `init.forget_gate_bias_`: its norm would take out again what is added to all of F

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.norm_i, self.norm_f, self.norm_g, self.norm_o, self.norm_c = (
            LayerNorm(hidden_size, 1e-3, bias=bias, dtype=dtype) for _ in "ifgoc"
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for block in chunk(self.weight_hh.detach(), 4):
            init.orthogonal_(block)
        if self.bias is not None:
            init.zeros_(self.bias)
        if hasattr(self, "norm_f") and self.norm_f.bias is not None:
            init.ones_(self.norm_f.bias)

    def update(self, gates: Sequence[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
        """The new h and c, from what gates are before they are normalised."""
        i, f, g, o = gates
        i, f, o = sigmoid(self.norm_i(i)), sigmoid(self.norm_f(f)), sigmoid(self.norm_o(o))
        c = f * c + i * self.candidate(tanh(self.norm_g(g)))
        return o * tanh(self.norm_c(c)), c


@listed("an LSTM whose products a small LSTM of x and h scales", "Ha et al., 2017")
class HyperLSTMCell(_GateNormLSTMCell):
    """HyperLSTM: a small LSTM scales the weights of a larger one anew at every step (Ha, Dai and Le, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.HyperLSTMCell(3, 4, hyper_size=5)
        >>> {name: s.shape for name, s in zip(cell.state_names, cell.initial_state(7))}
        {'h': (7, 4), 'c': (7, 4), 'hyper_h': (7, 5), 'hyper_c': (7, 5)}

        hyper_h', hyper_c' = small LSTM of the input [x, h] and the states hyper_h, hyper_c
        z = W_z hyper_h' + offset                   eight vectors of E numbers, for W x and U h of each gate
        d_x, d_h = W_d z                            of each vector by itself, [H] each
        d_b = W_db (W_zb hyper_h')                  the same for each gate's bias, without an offset
        i, f, g, o = LN(d_x * W_ih x + d_h * W_hh h + b + d_b), each gate by itself
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'))

    After the first author's code, supercell; the small one is an LSTM with the same normalisation. At first d_x and d_h
    are 0.1 and d_b is 0: W_z starts at zeros, offset at ones, W_d at 0.1 / E, W_zb from N(0, 0.01^2), W_db at zeros.
    Recurrent matrices start orthogonal, biases at zero but that of f's normalisation, which starts at 1.

    Args:
        hyper_size: K, the size of the small LSTM; None: H / 4, but 2 at least, as the norm of one number is 0. 128 in
            the code.
        embedding_size: E, 16 in the code.

    Attributes:
        hyper: the small LSTM, of I + H inputs.
        weight_z, offset: of x's i, f, g and o, then of h's, [8E, K] and [8E].
        weight_d: in the same order, [8H, E].
        weight_zb, weight_db: of i, f, g and o, [4E, K] and [4H, E].
        norm_i, norm_f, norm_g, norm_o, norm_c: LayerNorm of H values.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, hyper_size: int | None = None,
        embedding_size: int = 16, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        hyper_size = max(hidden_size // 4, 2) if hyper_size is None else hyper_size
        whole(self, hyper_size=hyper_size, embedding_size=embedding_size)
        self.hyper_size, self.embedding_size = hyper_size, embedding_size
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.hyper = _GateNormLSTMCell(input_size + hidden_size, hyper_size, bias, dtype=dtype)
        self.weight_z = empty(8 * embedding_size, hyper_size, dtype=dtype)
        self.offset = empty(8 * embedding_size, dtype=dtype)
        self.weight_d = empty(8 * hidden_size, embedding_size, dtype=dtype)
        self.weight_zb = empty(4 * embedding_size, hyper_size, dtype=dtype)
        self.weight_db = empty(4 * hidden_size, embedding_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if hasattr(self, "weight_db"):
            init.zeros_(self.weight_z)
            init.ones_(self.offset)
            init.constant_(self.weight_d, 0.1 / self.embedding_size)
            init.normal_(self.weight_zb, 0.0, 0.01)
            init.zeros_(self.weight_db)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros, of both LSTMs."""
        widths = (self.hidden_size, self.hidden_size, self.hyper_size, self.hyper_size)
        return tuple(zeros(batch_size, width, dtype=self.weight_ih.dtype) for width in widths)

    def step(self, x: Tensor, h: Tensor, c: Tensor, hyper_h: Tensor, hyper_c: Tensor) -> tuple[Tensor, ...]:
        small, seen = self.hyper, self.masked(h)
        of_x, of_h = split(small.weight_ih, [self.input_size, self.hidden_size], 1)
        a = linear(x, of_x, small.bias) + linear(seen, of_h) + linear(hyper_h, small.weight_hh)
        hyper_h, hyper_c = small.update(chunk(a, 4, -1), hyper_c)

        scales, shifts = linear(hyper_h, self.weight_z, self.offset), linear(hyper_h, self.weight_zb)
        d = [linear(z, W) for z, W in zip(chunk(scales, 8, -1), chunk(self.weight_d, 8))]
        d_b = [linear(z, W) for z, W in zip(chunk(shifts, 4, -1), chunk(self.weight_db, 4))]
        W_x, U_h = chunk(linear(x, self.weight_ih), 4, -1), chunk(linear(seen, self.weight_hh), 4, -1)
        gates = [d_x * a + d_h * b + shift for d_x, a, d_h, b, shift in zip(d[:4], W_x, d[4:], U_h, d_b)]
        if self.bias is not None:
            gates = [gate + b for gate, b in zip(gates, chunk(self.bias, 4))]
        h, c = self.update(gates, c)
        return h, c, hyper_h, hyper_c

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hyper_size={self.hyper_size}, embedding_size={self.embedding_size}"


def _chunked(input_size: int, hidden_size: int) -> "ONLSTMCell":
    return ONLSTMCell(input_size, hidden_size, chunk_size=2 - hidden_size % 2)


@listed("an LSTM that forgets and writes by levels: cumsum(softmax)", "Shen et al., 2019", _chunked)
class ONLSTMCell(GatedCell):
    """The ordered-neurons LSTM: what is high among its units is kept for long, what is low changes (Shen et al., 2019).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.ONLSTMCell(3, 4, chunk_size=2)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        i, f, g, o = W_ih x + W_hh h + b
        mi, mf = W_im x + W_hm h + b_m
        mf = cumsum(softmax(mf)),  mi = 1 - cumsum(softmax(mi))         master gates, each number for a chunk of units
        w = mf * mi
        c' = (sigmoid(f) * w + mf - w) * c + (sigmoid(i) * w + mi - w) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    From the first unit to the last mf rises to 1, mi falls to 0. With one chunk mf is 1 and mi is 0: c never changes.

    Args:
        chunk_size: how many units share a number of the master gates; it divides H. 10 in the authors' experiments.

    Attributes:
        weight_im, weight_hm, bias_m: of mi and mf, [2N, I], [2N, H] and [2N] for N = H / chunk_size.

    Raises:
        ValueError: chunk_size does not divide H.
    """

    gates = "ifgo"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, chunk_size: int = 1, *, dtype: Any = None
    ) -> None:
        whole(self, least=0, chunk_size=chunk_size)
        if chunk_size == 0 or hidden_size % chunk_size:
            raise ValueError(f"ONLSTMCell: chunk_size must divide hidden_size {hidden_size}, {chunk_size} does not")
        self.chunk_size = chunk_size
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        rows = 2 * (hidden_size // chunk_size)
        self.weight_im = empty(rows, input_size, dtype=dtype)
        self.weight_hm = empty(rows, hidden_size, dtype=dtype)
        self.bias_m = empty(rows, dtype=dtype) if bias else None
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.preactivations(x, h)
        mi, mf = chunk(linear(x, self.weight_im, self.bias_m) + linear(self.masked(h), self.weight_hm), 2, -1)
        mf, mi = self.each_unit(cumsum(softmax(mf, -1), -1)), self.each_unit(1 - cumsum(softmax(mi, -1), -1))
        w = mf * mi
        c = (sigmoid(f) * w + mf - w) * c + (sigmoid(i) * w + mi - w) * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(c)
        return h, c

    def each_unit(self, master: Tensor) -> Tensor:
        """A number for each chunk as one for each of its units."""
        if self.chunk_size == 1:
            return master
        return flatten(expand(unsqueeze(master, -1), (*master.shape, self.chunk_size)), 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chunk_size={self.chunk_size}"
