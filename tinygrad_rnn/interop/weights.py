"""Weights of RNN, LSTM and GRU layers, from one library's layout to another's.

    library    LSTM gates    GRU gates    weights            biases
    PyTorch    i f g o       r z n        [kH, I], [kH, H]   two, [kH]
    Keras      i f g o       z r n        [I, kH], [H, kH]   one, [kH]; [2, 3H] in a GRU with reset_after
    ONNX       i o f g       z r n        [D, kH, I], ...    both in one, [D, 2kH]

(g is called c in Keras and ONNX, n is called h.) `Weights` holds one layer in one direction, in PyTorch's layout, which
is also ours; every function goes to it or from it. All agree that z keeps the OLD state; where it keeps the new one, as
in Lasagne, DyNet or minGRU, `swap_update_gate` negates it. Whether a GRU resets before the recurrent product or after
it cannot be converted: that raises ValueError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..autograd.tape import no_grad
from ..nn.cell import Cell
from ..nn.cells import (
    GRUCell,
    GRUVariantCell,
    LSTMCell,
    PeepholeLSTMCell,
    ProjectedLSTMCell,
    RNNCell,
)
from ..nn.utils.parametrize import only_looking

GATES = {"rnn": "n", "lstm": "ifgo", "gru": "rzn"}
KERAS_GATES = {"rnn": "n", "lstm": "ifgo", "gru": "zrn"}
ONNX_GATES = {"rnn": "n", "lstm": "iofg", "gru": "zrn"}
OPTIONAL = ("bias_ih", "bias_hh", "weight_hr", "peephole")
OURS: dict[type[Cell], str] = {
    RNNCell: "rnn", ProjectedLSTMCell: "lstm", LSTMCell: "lstm", PeepholeLSTMCell: "lstm", GRUCell: "gru",
    GRUVariantCell: "gru",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Weights:
    """One layer in one direction, in PyTorch's layout.

        >>> import tinygrad_rnn as tg
        >>> weights = tg.interop.from_cell(tg.nn.LSTMCell(3, 4))
        >>> weights.kind, weights.weight_ih.shape
        ('lstm', (16, 3))

    Raises:
        ValueError: kind or reset is none of these, or an array has a shape that does not fit the others.

    Attributes:
        kind: "rnn", "lstm" or "gru".
        weight_ih: [kH, I], blocks of H rows in the order i f g o or r z n.
        weight_hh: [kH, H], or [4H, P] with a projection.
        bias_ih, bias_hh: [kH], both or none.
        reset: of a GRU, whether its reset gate acts "after" the recurrent product or "before" it.
        weight_hr: the projection of an LSTM, [P, H].
        peephole: of an LSTM, p_i, p_f and p_o, [3H].
    """

    kind: str
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray | None = None
    bias_hh: np.ndarray | None = None
    reset: str = "after"
    weight_hr: np.ndarray | None = None
    peephole: np.ndarray | None = None

    def __post_init__(self) -> None:
        k = len(_gates(GATES, self.kind))
        if self.reset not in ("after", "before"):
            raise ValueError(f"Weights: reset must be 'after' or 'before', not {self.reset!r}")
        if (self.bias_ih is None) != (self.bias_hh is None):
            raise ValueError("Weights: give both biases or none; one alone goes with zeros for the other")
        if self.kind != "lstm" and (self.weight_hr is not None or self.peephole is not None):
            raise ValueError(f"Weights: an LSTM may have a projection or peepholes, a layer of kind {self.kind!r} not")
        rows, H = len(self.weight_ih), len(self.weight_ih) // k
        seen = H if self.weight_hr is None else len(self.weight_hr)
        I = self.weight_ih.shape[-1]
        expected = {"weight_ih": (k * H, I), "weight_hh": (rows, seen), "weight_hr": (seen, H), "peephole": (3 * H,)}
        for name, array in self._arrays().items():
            shape = expected.get(name, (rows,))
            if array.shape != shape:
                raise ValueError(
                    f"Weights: {name} of this {self.kind} is {list(array.shape)}, expected {list(shape)} (weight_ih is "
                    f"{list(self.weight_ih.shape)}, {k} gate{'s' * (k > 1)})"
                )

    @property
    def hidden_size(self) -> int:
        """H."""
        return len(self.weight_ih) // len(GATES[self.kind])

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("weight_ih", "weight_hh", *OPTIONAL)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __repr__(self) -> str:
        reset = f", reset={self.reset!r}" if self.kind == "gru" else ""
        arrays = ", ".join(f"{name} {list(array.shape)}" for name, array in self._arrays().items())
        return f"Weights({self.kind!r}, {arrays}{reset})"


# ---- Our cells -------------------------------------------------------------------------------------------------------


def from_cell(cell: Cell) -> Weights:
    """The weights of an RNNCell, LSTMCell, ProjectedLSTMCell, PeepholeLSTMCell, GRUCell or GRUVariantCell, copied.

        >>> import tinygrad_rnn as tg
        >>> weights = tg.interop.from_cell(tg.nn.GRUCell(3, 4))
        >>> weights.kind, weights.weight_hh.shape
        ('gru', (12, 4))

    A GRUVariantCell whose z keeps the new state is converted. A nonlinearity is not kept. A parametrised weight, see
    `nn.utils.parametrize`, is copied as what it is now.

    Raises:
        TypeError: it is another kind of cell, or one of these with a step of its own.
    """
    kind = next((kind for made_of, kind in OURS.items() if isinstance(cell, made_of)), "")
    if not kind or not any(type(cell).step is made_of.step for made_of in OURS):
        raise TypeError(f"from_cell: {type(cell).__name__} has no counterpart among RNN, LSTM and GRU layers")
    with no_grad(), only_looking():
        found = {name: getattr(cell, name, None) for name in ("weight_ih", "weight_hh", *OPTIONAL, "bias")}
    arrays: dict[str, Any] = {name: p.data.copy() for name, p in found.items() if p is not None}
    arrays |= _one_bias(arrays.pop("bias", None))  # which a PeepholeLSTMCell has
    if not isinstance(cell, GRUVariantCell):
        return Weights(kind, **arrays)
    weights = Weights(kind, **arrays, reset=cell.reset)
    return weights if cell.keeps == "old" else swap_update_gate(weights)


def to_cell(weights: Weights, **options: Any) -> Cell:
    """A cell with a copy of these weights: RNNCell, LSTMCell (projected or with peepholes), GRUCell or GRUVariantCell.

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.RNNCell(3, 4)
        >>> twin = tg.interop.to_cell(tg.interop.from_cell(cell))
        >>> bool((twin.weight_ih == cell.weight_ih).all())
        True

    Args:
        options: such as `nonlinearity="relu"`, for the cell.

    Raises:
        ValueError: the LSTM has a projection and peepholes: there is no such cell.
    """
    sizes = (weights.weight_ih.shape[1], weights.hidden_size)
    options = {"bias": weights.bias_ih is not None, "dtype": weights.weight_ih.dtype, **options}
    state: dict[str, Any] = weights._arrays()
    cell: Cell
    if weights.kind == "rnn":
        cell = RNNCell(*sizes, **options)
    elif weights.kind == "gru":
        cell = GRUCell(*sizes, **options) if weights.reset == "after" else GRUVariantCell(*sizes, **options)
    elif weights.peephole is not None:
        if weights.weight_hr is not None:
            raise ValueError("to_cell: there is no LSTM cell with both a projection and peepholes")
        cell = PeepholeLSTMCell(*sizes, **options)
        if weights.bias_ih is not None:
            state["bias"] = state.pop("bias_ih") + state.pop("bias_hh")
    elif weights.weight_hr is not None:
        cell = ProjectedLSTMCell(*sizes, len(weights.weight_hr), **options)
    else:
        cell = LSTMCell(*sizes, **options)
    cell.load_state_dict(state)
    return cell


# ---- PyTorch, and our layers -----------------------------------------------------------------------------------------


def from_torch(
    kind: str, state_dict: Mapping[str, Any], layer: int | None = 0, reverse: bool = False, prefix: str = ""
) -> Weights:
    """One layer and direction of the `state_dict` of an `nn.RNN`, `nn.LSTM` or `nn.GRU`, PyTorch's or ours.

        >>> import tinygrad_rnn as tg
        >>> weights = tg.interop.from_torch("lstm", tg.nn.LSTM(3, 4).state_dict())
        >>> weights.weight_ih.shape
        (16, 3)

    Args:
        kind: "rnn", "lstm" or "gru".
        state_dict: name -> array, or tensor on the CPU.
        layer: which of the layers; None for the names of a cell, without a number.
        reverse: the backward direction.
        prefix: what stands before the names, such as "encoder.".

    Raises:
        KeyError: there are no such weights.
    """
    _gates(GATES, kind)
    names = _torch_names(layer, reverse, prefix)
    for name in ("weight_ih", "weight_hh"):
        if names[name] not in state_dict:
            raise KeyError(f"from_torch: no {names[name]!r} among {', '.join(map(str, state_dict)) or 'no names'}")
    found: dict[str, Any] = {n: np.asarray(state_dict[full]).copy() for n, full in names.items() if full in state_dict}
    return Weights(kind, **found)


def to_torch(weights: Weights, layer: int | None = 0, reverse: bool = False, prefix: str = "") -> dict[str, np.ndarray]:
    """The entries of a `state_dict` for one layer and direction, see `from_torch`; those of several can be joined.

        >>> import tinygrad_rnn as tg
        >>> list(tg.interop.to_torch(tg.interop.from_cell(tg.nn.RNNCell(3, 4))))
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']

    For PyTorch make tensors of them: `{name: torch.from_numpy(array) for name, array in ...}`.

    Raises:
        ValueError: PyTorch has no GRU that resets before the product, and no peepholes.
    """
    if weights.kind == "gru" and weights.reset != "after":
        raise ValueError(_other_reset("to_torch", "PyTorch's GRU", weights.reset))
    if weights.peephole is not None:
        raise ValueError("to_torch: PyTorch's LSTM has no peepholes; to_cell makes a PeepholeLSTMCell of these weights")
    names = _torch_names(layer, reverse, prefix)
    return {names[name]: array.copy() for name, array in weights._arrays().items()}


def _torch_names(layer: int | None, reverse: bool, prefix: str) -> dict[str, str]:
    end = "" if layer is None else f"_l{layer}{'_reverse' * reverse}"
    return {n: f"{prefix}{n}{end}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")}


# ---- Keras -----------------------------------------------------------------------------------------------------------


def from_keras(kind: str, arrays: Sequence[Any], reset_after: bool = True) -> Weights:
    """What `get_weights()` of a Keras SimpleRNN, LSTM or GRU layer returns: kernel, recurrent kernel, and maybe bias.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> arrays = np.zeros((3, 16)), np.zeros((4, 16)), np.zeros(16)
        >>> tg.interop.from_keras("lstm", arrays).weight_ih.shape
        (16, 3)

    Of a Bidirectional layer the first half of the arrays is the forward layer's, the second the backward one's.

    Args:
        reset_after: of a GRU, what the layer was made with; True is Keras's default.

    Raises:
        ValueError: there are not two or three arrays, their shapes do not fit, or the bias is that of the other
            kind of GRU.
    """
    order = _gates(KERAS_GATES, kind)
    if len(arrays) not in (2, 3):
        raise ValueError(f"from_keras: expected kernel, recurrent kernel and maybe bias, got {len(arrays)} arrays")
    kernel, recurrent, *bias = map(np.asarray, arrays)
    for name, array in (("kernel", kernel), ("recurrent kernel", recurrent)):
        if array.ndim != 2 or array.shape[1] % len(order):
            raise ValueError(
                f"from_keras: the {name} of a layer of kind {kind!r} is [..., {len(order)} * units], got "
                f"{list(array.shape)}"
            )
    two = kind == "gru" and reset_after
    expected = [2, kernel.shape[1]] if two else [kernel.shape[1]]
    if bias and list(bias[0].shape) != expected:
        kept = f"reset_after={reset_after} " if kind == "gru" else ""
        raise ValueError(
            f"from_keras: the bias of a layer of kind {kind!r} {kept}is {expected}, got {list(bias[0].shape)}"
            + ("; is it a layer with the other reset_after?" if kind == "gru" and bias[0].ndim != 1 + two else "")
        )
    ours = lambda array: _reordered(array, order, GATES[kind])
    biases: dict[str, Any] = {}
    if two and bias:
        biases = {"bias_ih": ours(bias[0][0]), "bias_hh": ours(bias[0][1])}
    elif bias:
        biases = _one_bias(ours(bias[0]))
    reset = "after" if reset_after or kind != "gru" else "before"
    return Weights(kind, ours(kernel.T), ours(recurrent.T), **biases, reset=reset)


def to_keras(weights: Weights, reset_after: bool = True) -> list[np.ndarray]:
    """What `set_weights` of a Keras layer takes: kernel [I, kH], recurrent kernel [H, kH] and, if there is one, bias.

        >>> import tinygrad_rnn as tg
        >>> [array.shape for array in tg.interop.to_keras(tg.interop.from_cell(tg.nn.LSTMCell(3, 4)))]
        [(3, 16), (4, 16), (16,)]

    PyTorch's two biases are added up: Keras has one, but for a GRU with reset_after, where it is [2, 3H].

    Args:
        reset_after: of a GRU, what the layer is made with; True is Keras's default.

    Raises:
        ValueError: the GRU resets the other way; or Keras has no such layer (projections, peepholes).
    """
    if weights.kind == "gru" and weights.reset != ("after" if reset_after else "before"):
        raise ValueError(_other_reset("to_keras", f"a GRU with reset_after={reset_after}", weights.reset))
    if weights.weight_hr is not None or weights.peephole is not None:
        raise ValueError("to_keras: Keras's LSTM has neither projection nor peepholes")
    theirs = lambda array: _reordered(array, GATES[weights.kind], KERAS_GATES[weights.kind])
    arrays = [theirs(weights.weight_ih).T.copy(), theirs(weights.weight_hh).T.copy()]
    if weights.bias_ih is not None and weights.bias_hh is not None:
        two = weights.kind == "gru" and reset_after
        b, c = theirs(weights.bias_ih), theirs(weights.bias_hh)
        arrays.append(np.stack([b, c]) if two else b + c)
    return arrays


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def from_onnx(
    kind: str, W: Any, R: Any, B: Any = None, P: Any = None, linear_before_reset: int = 0
) -> tuple[Weights, ...]:
    """The weights of the ONNX operators RNN, LSTM and GRU, one `Weights` for each direction.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> (weights,) = tg.interop.from_onnx("rnn", np.zeros((1, 4, 3)), np.zeros((1, 4, 4)))
        >>> weights.weight_ih.shape
        (4, 3)

    Args:
        W, R: [D, kH, I] and [D, kH, H].
        B: [D, 2kH], or None.
        P: the peepholes of an LSTM, [D, 3H], in the order i o f, or None.
        linear_before_reset: the attribute of a GRU: not 0 if it resets after the product.

    Raises:
        ValueError: the shapes do not fit.
    """
    order = _gates(ONNX_GATES, kind)
    W, R = np.asarray(W), np.asarray(R)
    B, P = (None if a is None else np.asarray(a) for a in (B, P))
    if W.ndim != 3 or R.ndim != 3 or W.shape[1] % len(order):
        raise ValueError(
            f"from_onnx: expected W [D, {len(order)}H, I] and R [D, {len(order)}H, H] for kind {kind!r}, got "
            f"{list(W.shape)} and {list(R.shape)}"
        )
    D, rows = W.shape[:2]
    expected = {"R": (R, (D, rows, R.shape[2])), "B": (B, (D, 2 * rows)), "P": (P, (D, 3 * rows // len(order)))}
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            found = f"{name} is {list(array.shape)}, expected {list(shape)} (W is {list(W.shape)})"
            raise ValueError(f"from_onnx: {found}")
    ours = lambda array: _reordered(array, order, GATES[kind])
    return tuple(
        Weights(
            kind,
            ours(W[d]),
            ours(R[d]),
            None if B is None else ours(B[d, :rows]),
            None if B is None else ours(B[d, rows:]),
            reset="after" if linear_before_reset or kind != "gru" else "before",
            peephole=None if P is None else _reordered(P[d], "iof", "ifo"),
        )
        for d in range(D)
    )


def to_onnx(*directions: Weights) -> dict[str, Any]:
    """Inputs W, R and, if there are any, B and P of an ONNX operator; of a GRU also the attribute linear_before_reset.

        >>> import tinygrad_rnn as tg
        >>> inputs = tg.interop.to_onnx(tg.interop.from_cell(tg.nn.RNNCell(3, 4)))
        >>> inputs["W"].shape, inputs["R"].shape
        ((1, 4, 3), (1, 4, 4))

    Args:
        directions: one `Weights`, or the forward and the backward ones of a bidirectional layer.

    Raises:
        ValueError: there are not one or two, they are not of one kind, or have a projection, which ONNX has not.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"to_onnx: expected the weights of one direction or of two, got {len(directions)}")
    first, last = directions[0], directions[-1]
    alike = lambda w: (w.kind, w.reset, set(w._arrays()), w.weight_ih.shape)
    if alike(first) != alike(last):
        raise ValueError(f"to_onnx: both directions must be alike, got {first!r} and {last!r}")
    if first.weight_hr is not None:
        raise ValueError("to_onnx: ONNX's LSTM has no projection")
    theirs = lambda array: _reordered(array, GATES[first.kind], ONNX_GATES[first.kind])
    inputs: dict[str, Any] = {
        "W": np.stack([theirs(w.weight_ih) for w in directions]),
        "R": np.stack([theirs(w.weight_hh) for w in directions]),
    }
    if first.bias_ih is not None:
        inputs["B"] = np.stack([np.concatenate([theirs(w.bias_ih), theirs(w.bias_hh)]) for w in directions])
    if first.peephole is not None:
        inputs["P"] = np.stack([_reordered(np.asarray(w.peephole), "ifo", "iof") for w in directions])
    if first.kind == "gru":
        inputs["linear_before_reset"] = int(first.reset == "after")
    return inputs


# ---- What they share -------------------------------------------------------------------------------------------------


def swap_update_gate(weights: Weights) -> Weights:
    """The same GRU with z in the place of 1 - z, or the other way round: sigmoid(-a) = 1 - sigmoid(a).

        >>> import tinygrad_rnn as tg
        >>> weights = tg.interop.from_cell(tg.nn.GRUCell(3, 4))
        >>> twice = tg.interop.swap_update_gate(tg.interop.swap_update_gate(weights))
        >>> bool((twice.weight_ih == weights.weight_ih).all())
        True

    Raises:
        ValueError: it is no GRU.
    """
    if weights.kind != "gru":
        raise ValueError(f"swap_update_gate: a layer of kind {weights.kind!r} has no update gate")
    signs = np.repeat([1, -1, 1], weights.hidden_size)
    swapped: dict[str, Any] = {
        name: (array.T * signs).T.astype(array.dtype) for name, array in weights._arrays().items()
    }
    return replace(weights, **swapped)


def _gates(orders: Mapping[str, str], kind: str) -> str:
    if kind not in orders:
        raise ValueError(f"kind must be one of {', '.join(map(repr, orders))}, not {kind!r}")
    return orders[kind]


def _reordered(array: np.ndarray, have: str, want: str) -> np.ndarray:
    """The blocks of rows of each gate in another order, copied."""
    blocks = dict(zip(have, np.split(array, len(have))))
    return np.concatenate([blocks[gate] for gate in want])


def _one_bias(bias: np.ndarray | None) -> dict[str, Any]:
    return {} if bias is None else {"bias_ih": bias, "bias_hh": np.zeros_like(bias)}


def _other_reset(name: str, target: str, reset: str) -> str:
    return (
        f"{name}: this GRU resets {reset} the recurrent product, {target} does not, and weights of one kind cannot be "
        f"converted to the other; GRUVariantCell(reset={reset!r}) computes it here"
    )
