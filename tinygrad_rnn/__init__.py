"""Recurrent networks that you can read: write a cell as five lines of maths, study it op by op on a tape, train it.

    >>> import tinygrad_rnn as tg
    >>> x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    tensor([2., 4., 6.])

In reading order: `kernels` (what runs hot), `autograd` (what a derivative is), `fusion` (from a cell's step to its
kernels), `nn` (modules, cells and layers), `optim` (optimisers, clipping, regularisers), `interop` (other libraries'
weights), `study` (pictures of what happens inside), `adversarial` (inputs changed so that a network fails, and bounds
on what such changes can do), `testing` (whether a cell keeps the contract).
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

import numpy as _np

from . import interop, nn, optim, pictures
from .autograd.creation import (
    arange,
    eye,
    from_numpy,
    full,
    generator,
    get_rng_state,
    manual_seed,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    set_rng_state,
    tensor,
    zeros,
    zeros_like,
)  # fmt: skip
from .autograd.custom import primitive
from .autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from .autograd.gradients import grad
from .autograd.operands import as_tensor
from .autograd.pointwise import (
    abs,
    add,
    clamp,
    clip_gradient,
    cos,
    div,
    elu,
    eq,
    erf,
    exp,
    expm1,
    floor,
    ge,
    gelu,
    gt,
    isfinite,
    isinf,
    isnan,
    le,
    leaky_relu,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    lt,
    masked_fill,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    reciprocal,
    relu,
    rsqrt,
    sigmoid,
    sign,
    silu,
    sin,
    softplus,
    sqrt,
    square,
    straight_through,
    sub,
    tanh,
    where,
)  # fmt: skip
from .autograd.products import bmm, dot, einsum, matmul, mm, mv, outer
from .autograd.reductions import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    mean,
    norm,
    prod,
    softmax,
    std,
    sum,
    var,
)  # fmt: skip
from .autograd.shapes import (
    broadcast_to,
    cat,
    chunk,
    diagonal,
    expand,
    flatten,
    flip,
    gather,
    index_select,
    narrow,
    permute,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    transpose,
    tril,
    triu,
    unbind,
    unsqueeze,
)  # fmt: skip
from .autograd.shapes import largest as max
from .autograd.shapes import smallest as min
from .autograd.tape import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from .autograd.tensor import Tensor
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint, load_weights, save_checkpoint, save_weights
from .kernels.threads import get_num_threads, set_num_threads
from .nn.advice import told as _of_room
from .nn.functional import (
    adaptive_avg_pool1d,
    alibi_bias,
    avg_pool1d,
    batch_norm,
    binary_cross_entropy_with_logits,
    conv1d,
    cross_entropy,
    dropout,
    embedding,
    gaussian_noise,
    kl_div,
    l1_loss,
    layer_norm,
    linear,
    max_pool1d,
    mse_loss,
    nll_loss,
    normalize,
    pad,
    rotary_positions,
    scaled_dot_product_attention,
    sinusoidal_positions,
    smooth_l1_loss,
)  # fmt: skip
from .nn.recording import record

if _TYPE_CHECKING:
    from . import adversarial, study, testing
    from .study.shown import ops

float32, float64, int64 = _np.float32, _np.float64, _np.int64
__version__ = "0.1.0"

_told = _of_room(__name__)
# Loaded at their first use.
_LATER = {name: f".{name}" for name in ("study", "adversarial", "testing")} | {"ops": ".study.shown"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        _told(name)
    module = _importlib.import_module(_LATER[name], __name__)
    return globals().setdefault(name, getattr(module, name) if name == "ops" else module)


# All but the rooms that the names above come from.
__all__ = [
    name
    for name in {*globals(), *_LATER} - {"kernels", "autograd", "fusion", "checkpoint", "pictures"}
    if not name.startswith("_")
]
__dir__ = __all__.copy  # what a tab completes
