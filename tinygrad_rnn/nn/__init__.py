"""Modules, cells and layers.

In reading order: `module`, `init`, `losses`, `sliding` (convolution and pools), `batch_norm`, `functional`, `utils`
(clipped gradients, sequences in parts, weights that are computed of others), `layers`, `activations`, `containers`,
`convolutional`, then what has to do with time: `cell`, `cells`, `regularised`, `recurrent`, `recording`, `stacked`.
"""

from . import cells, functional, init, utils
from .activations import (
    ELU,
    GELU,
    Flatten,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from .batch_norm import BatchNorm1d
from .cell import Cell
from .cells import GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .containers import ModuleList, Sequential
from .convolutional import TCN, AdaptiveAvgPool1d, AvgPool1d, Conv1d, MaxPool1d, TemporalBlock
from .init import bias, weight
from .layers import Dropout, Embedding, GaussianNoise, LayerNorm, Linear
from .losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from .module import Module, Parameter
from .recording import record
from .recurrent import Recurrent
from .regularised import CellWrapper, ClipGradient, LearnedInitialState, VariationalDropout, WeightDrop, Zoneout
from .stacked import GRU, LSTM, RNN, Stack
