"""Functions as modules, for `Sequential` and for models that are printed: ReLU, Tanh, Sigmoid, GELU, Softmax ..."""

from typing import Any

from ..autograd import pointwise, reductions, shapes
from ..autograd.tensor import Tensor
from .module import Module


class _Function(Module):
    """A function of `functional`, with the options that the module was made with.

    Attributes:
        function: function of x and the options.
    """

    function: Any

    def forward(self, input: Any) -> Tensor:
        return type(self).function(input, **self._options())

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "training"}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items())


class Identity(Module):
    """`y = x`, whatever it is made with: it keeps the place of a module that is switched off.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Identity(54, unused=True)(tg.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, input: Any) -> Any:
        return input


class Flatten(_Function):
    """Dimensions `start_dim` to `end_dim` become one.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Flatten()(tg.zeros(5, 2, 3)).shape
    (5, 6)
    """

    function = staticmethod(shapes.flatten)

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim


class ReLU(_Function):
    """`y = max(x, 0)`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.ReLU()(tg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    function = staticmethod(pointwise.relu)


class LeakyReLU(_Function):
    """`y = x where x > 0, else negative_slope x`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.LeakyReLU(0.5)(tg.tensor([-1.0, 2.0]))
    tensor([-0.5,  2. ])
    """

    function = staticmethod(pointwise.leaky_relu)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope


class ELU(_Function):
    """`y = x where x > 0, else alpha (exp(x) - 1)` (Clevert et al., 2016).

    >>> import tinygrad_rnn as tg
    >>> tg.nn.ELU()(tg.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.    ])
    """

    function = staticmethod(pointwise.elu)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha


class Sigmoid(_Function):
    """`y = 1 / (1 + exp(-x))`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Sigmoid()(tg.tensor([0.0, 1.0]))
    tensor([0.5   , 0.7311])
    """

    function = staticmethod(pointwise.sigmoid)


class Tanh(_Function):
    """`y = tanh(x)`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Tanh()(tg.tensor([0.0, 1.0]))
    tensor([0.    , 0.7616])
    """

    function = staticmethod(pointwise.tanh)


class GELU(_Function):
    """`y = x P(X < x)`, X being normal (Hendrycks, Gimpel, 2016).

    >>> import tinygrad_rnn as tg
    >>> tg.nn.GELU()(tg.tensor([-1.0, 1.0]))
    tensor([-0.1587,  0.8413])

    Args:
        approximate: "none", or "tanh" for the formula with a tanh.
    """

    function = staticmethod(pointwise.gelu)

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate


class SiLU(_Function):
    """`y = x sigmoid(x)`, also called swish.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.SiLU()(tg.tensor([-1.0, 1.0]))
    tensor([-0.2689,  0.7311])
    """

    function = staticmethod(pointwise.silu)


class Softplus(_Function):
    """`y = log(1 + exp(beta x)) / beta`; x itself where beta x is above the threshold.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Softplus()(tg.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.    ])
    """

    function = staticmethod(pointwise.softplus)

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold


class _AlongDim(_Function):
    def __init__(self, dim: int) -> None:
        self.dim = dim


class Softmax(_AlongDim):
    """`y = exp(x) / sum(exp(x))` along `dim`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Softmax(dim=-1)(tg.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """

    function = staticmethod(reductions.softmax)


class LogSoftmax(_AlongDim):
    """`y = x - log(sum(exp(x)))` along `dim`.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.LogSoftmax(dim=-1)(tg.tensor([0.0, 0.0]))
    tensor([-0.6931, -0.6931])
    """

    function = staticmethod(reductions.log_softmax)
