"""Initial values: functions that fill a tensor in place and return it; and new parameters with the usual ones.

Random numbers come from the library's generator (`manual_seed` repeats them) unless another one is given. `fan_in` and
`fan_out` of a weight [out, in] are `in` and `out`; of [out, in, k1, ...] they are multiplied by k1 * ...
"""

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..autograd import creation
from ..autograd.tape import note_change
from ..autograd.tensor import Tensor
from .advice import told
from .module import Module, Parameter

__all__ = [
    "weight", "bias", "zeros_", "ones_", "constant_", "eye_", "uniform_", "normal_", "trunc_normal_", "orthogonal_",
    "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "calculate_gain", "forget_gate_bias_",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)

T = TypeVar("T", bound=Tensor)


def _fill(tensor: T, values: Any) -> T:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"initialisers fill a Tensor or Parameter, not {type(tensor).__name__}")
    tensor.numpy()[...] = values
    note_change([tensor])
    return tensor


def _source(generator: np.random.Generator | None) -> np.random.Generator:
    return creation.generator() if generator is None else generator


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """U(a, b).

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.uniform_(tg.zeros(100, 100), -0.1, 0.1)
        >>> w.abs().max().item() <= 0.1
        True
    """
    return _fill(tensor, _source(generator).uniform(a, b, tensor.shape))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """N(mean, std^2).

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.normal_(tg.zeros(100, 100), mean=5.0, std=0.1)
        >>> abs(w.mean().item() - 5) < 0.01
        True
    """
    return _fill(tensor, _source(generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: np.random.Generator | None = None,
) -> T:
    """N(mean, std^2) on condition that the value is in [a, b]: what falls outside is drawn again.

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.trunc_normal_(tg.zeros(100, 100), a=-1.0, b=1.0)
        >>> w.abs().max().item() <= 1
        True

    Raises:
        ValueError: less than a thousandth of the distribution is in [a, b].
    """
    below = lambda x: 0.5 * (1 + math.erf((x - mean) / std / math.sqrt(2)))
    if not below(b) - below(a) > 1e-3:
        raise ValueError(f"trunc_normal_: [{a}, {b}] holds hardly anything of N({mean}, {std}^2)")
    source = _source(generator)
    values = source.normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = source.normal(mean, std, np.count_nonzero(outside))
    return _fill(tensor, values)


def constant_(tensor: T, val: float) -> T:
    """One value everywhere.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.init.constant_(tg.zeros(2), 0.3)
        tensor([0.3, 0.3])
    """
    return _fill(tensor, val)


def zeros_(tensor: T) -> T:
    """Zeros.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.init.zeros_(tg.ones(2))
        tensor([0., 0.])
    """
    return _fill(tensor, 0)


def ones_(tensor: T) -> T:
    """Ones.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.init.ones_(tg.zeros(2))
        tensor([1., 1.])
    """
    return _fill(tensor, 1)


def eye_(tensor: T) -> T:
    """The identity matrix, for instance as recurrent weight of a ReLU network (Le et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.init.eye_(tg.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a matrix, got shape {list(tensor.shape)}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def xavier_uniform_(tensor: T, gain: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """U(-a, a) with `a = gain * sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio, 2010).

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.xavier_uniform_(tg.zeros(300, 100))
        >>> 0.99 < w.max().item() / (6 / 400) ** 0.5 <= 1
        True
    """
    a = gain * math.sqrt(6 / max(sum(_fans("xavier_uniform_", tensor)), 1))
    return uniform_(tensor, -a, a, generator)


def xavier_normal_(tensor: T, gain: float = 1.0, generator: np.random.Generator | None = None) -> T:
    """N(0, std^2) with `std = gain * sqrt(2 / (fan_in + fan_out))` (Glorot and Bengio, 2010).

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.xavier_normal_(tg.zeros(300, 100))
        >>> abs(w.std().item() / (2 / 400) ** 0.5 - 1) < 0.02
        True
    """
    return normal_(tensor, 0, gain * math.sqrt(2 / max(sum(_fans("xavier_normal_", tensor)), 1)), generator)


def kaiming_uniform_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> T:
    """U(-bound, bound) with `bound = gain * sqrt(3 / fan)` (He et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.kaiming_uniform_(tg.zeros(400, 200), nonlinearity="relu")
        >>> 0.99 < w.max().item() / (6 / 200) ** 0.5 <= 1
        True

    Args:
        a: the negative slope of the leaky ReLU that follows; 0 for a ReLU.
        mode: which fan: "fan_in" keeps the variance of the values, "fan_out" that of the gradients.
        nonlinearity: what follows, for `calculate_gain`.
    """
    bound = math.sqrt(3) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> T:
    """N(0, std^2) with `std = gain / sqrt(fan)` (He et al., 2015); arguments as for `kaiming_uniform_`.

        >>> import tinygrad_rnn as tg
        >>> w = tg.nn.init.kaiming_normal_(tg.zeros(400, 200), nonlinearity="relu")
        >>> abs(w.std().item() / (2 / 200) ** 0.5 - 1) < 0.02
        True
    """
    return normal_(tensor, 0, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: T, gain: float = 1, generator: np.random.Generator | None = None) -> T:
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al., 2014).

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> U = tg.nn.init.orthogonal_(tg.zeros(4, 4, dtype=tg.float64))
        >>> np.allclose((U @ U.T).numpy(), np.eye(4))
        True

    It is the Q of the QR factorisation of a normal matrix, its columns turned so that R's diagonal is positive, which
    makes it uniform over all orthogonal matrices. Dimensions after the first are taken together.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least 2 dimensions, got shape {list(tensor.shape)}")
    if tensor.numel() == 0:
        return tensor
    rows, columns = tensor.shape[0], tensor.numel() // tensor.shape[0]
    q, r = np.linalg.qr(_source(generator).standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1, 1)
    return _fill(tensor, gain * (q.T if rows < columns else q).reshape(tensor.shape))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity asks for larger weights.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.init.calculate_gain("sigmoid"), round(tg.nn.init.calculate_gain("relu") ** 2, 6)
        (1.0, 2.0)

    1 for "linear" and "sigmoid", 5/3 for "tanh", sqrt(2) for "relu", sqrt(2 / (1 + param^2)) for "leaky_relu" with
    negative slope param (0.01 by default), 3/4 for "selu".
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: nonlinearity {nonlinearity!r} is not one of {', '.join(gains)}, leaky_relu")
    return gains[nonlinearity]


def forget_gate_bias_(module: Module, value: float = 1.0) -> Module:
    """Add `value` to the bias of the forget gate in every LSTM layer and cell of a module; returns it.

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.LSTMCell(3, 2)
        >>> before = cell.bias_ih.numpy().copy()
        >>> _ = tg.nn.init.forget_gate_bias_(cell)
        >>> (cell.bias_ih.numpy() - before).round(4).tolist()  # order: i f g o
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Of two biases it is `bias_ih` that changes. Any cell counts whose `gates` have an f.

    An LSTM whose forget gates start near 1 remembers from the first step on (Gers et al., 2000; Jozefowicz et al.,
    2015). PyTorch's, and so ours, start near sigmoid(0) = 0.5; Keras adds 1 by default.

    Raises:
        ValueError: there is no forget gate with a bias.
    """
    found = False
    for layer in module.modules():
        gates = getattr(layer, "gates", "")
        for name, bias in layer.named_parameters(recurse=False):
            if "f" in gates and (name == "bias" or name.startswith("bias_ih")):
                size = bias.numel() // len(gates)
                at = gates.index("f") * size
                bias.numpy()[at : at + size] += value
                note_change([bias])
                found = True
    if not found:
        raise ValueError(f"forget_gate_bias_: {type(module).__name__} has no LSTM with biases")
    return module


def weight(
    rows: int, columns: int, *, hidden_size: int | None = None, dtype: Any = None,
    generator: np.random.Generator | None = None,
) -> Parameter:  # fmt: skip
    """A weight [rows, columns] for `x @ W`, as recurrent layers begin: from U(-1 / sqrt(H), 1 / sqrt(H)).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.weight(28, 64).shape, tg.nn.weight(28, 4 * 64, hidden_size=64).shape, tg.nn.bias(64).shape
        ((28, 64), (28, 256), (64,))

    Args:
        rows: the size of what it multiplies: I for an input, H for a state.
        columns: the size of the product.
        hidden_size: H; `columns` by default. Give it where weights of several gates lie side by side.
        dtype: float32 by default.

    Raises:
        ValueError: a size is negative, or H is not positive though there is something to draw.
    """
    size = columns if hidden_size is None else hidden_size
    if min(rows, columns) < 0 or (rows * columns and size <= 0):
        raise ValueError(f"weight: sizes must be positive, got {rows}, {columns} and hidden_size {size}")
    return _drawn((rows, columns), size, dtype, generator)


def bias(
    columns: int, *, hidden_size: int | None = None, dtype: Any = None, generator: np.random.Generator | None = None
) -> Parameter:
    """A bias [columns], from U(-1 / sqrt(H), 1 / sqrt(H)), H being `columns` by default; as for `weight`.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.bias(64).shape
        (64,)
    """
    size = columns if hidden_size is None else hidden_size
    if columns < 0 or (columns and size <= 0):
        raise ValueError(f"bias: sizes must be positive, got {columns} and hidden_size {size}")
    return _drawn((columns,), size, dtype, generator)


def _drawn(shape: tuple[int, ...], size: int, dtype: Any, generator: np.random.Generator | None) -> Parameter:
    bound = 1 / math.sqrt(size) if size else 0.0
    zeros = creation.zeros(shape, dtype=creation.FLOAT32 if dtype is None else dtype)
    return uniform_(Parameter(zeros), -bound, bound, generator)


def _fans(name: str, tensor: Tensor) -> tuple[int, int]:
    """fan_in and fan_out."""
    if tensor.ndim < 2:
        raise ValueError(f"{name}: fan_in and fan_out need at least 2 dimensions, got shape {list(tensor.shape)}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _kaiming_std(name: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be 'fan_in' or 'fan_out', not {mode!r}")
    fan_in, fan_out = _fans(name, tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan_in if mode == "fan_in" else fan_out, 1))
