"""Modules, cells and layers.

In reading order: `advice` (on names of PyTorch's), `module`, `init`, `losses`, `padding`, `sliding` (convolution and
pools), `batch_norm`, `attention`, `positions`, `functional`, `layers`, `activations`, `containers`, `transformer`, then
what has to do with time: `cell`, `work` (what a step costs), `cells`, `regularised`, `recurrent`, `recording`,
`stacked`, `rnn`. `compressed` cuts a trained LSTM, `sparse_autoencoder` says what units mean; `utils` clips gradients,
cuts sequences and computes weights of others; `convolutional` has such weights.
"""

from typing import TYPE_CHECKING

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
from .advice import told
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
from .rnn import GRU, LSTM, RNN
from .sparse_autoencoder import SparseAutoencoder
from .stacked import Stack
from .transformer import MultiheadAttention, SinusoidalPositions, TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "Module", "Parameter", "Sequential", "ModuleList",
    "Linear", "Embedding", "LayerNorm", "Dropout", "GaussianNoise", "BatchNorm1d",
    "Conv1d", "TemporalBlock", "TCN", "MaxPool1d", "AvgPool1d", "AdaptiveAvgPool1d", "SparseAutoencoder",
    "MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder", "SinusoidalPositions",
    "ReLU", "LeakyReLU", "ELU", "Sigmoid", "Tanh", "GELU", "SiLU", "Softplus", "Softmax", "LogSoftmax",
    "Identity", "Flatten",
    "Cell", "RNNCell", "LSTMCell", "GRUCell", "ProjectedLSTMCell", "cells",
    "Recurrent", "Stack", "RNN", "LSTM", "GRU", "record",
    "CellWrapper", "Zoneout", "VariationalDropout", "WeightDrop", "ClipGradient", "LearnedInitialState",
    "CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss", "KLDivLoss",
    "weight", "bias", "init", "functional", "utils",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)
