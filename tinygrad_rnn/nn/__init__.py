"""Modules, cells and layers.

In reading order: `module`, `losses`, `functional`, `init`, `layers`, `containers`, then what has to do with time:
`cell`, `cells`, `regularised`, `recurrent`, `recording`, `stacked`. `utils` clips gradients and cuts sequences.
"""

from . import cells, functional, init, utils
from .cell import Cell
from .cells import GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .containers import ModuleList, Sequential
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

__all__ = [
    "Module", "Parameter", "Sequential", "ModuleList",
    "Linear", "Embedding", "LayerNorm", "Dropout", "GaussianNoise",
    "Cell", "RNNCell", "LSTMCell", "GRUCell", "ProjectedLSTMCell", "cells",
    "Recurrent", "Stack", "RNN", "LSTM", "GRU", "record",
    "CellWrapper", "Zoneout", "VariationalDropout", "WeightDrop", "ClipGradient", "LearnedInitialState",
    "CrossEntropyLoss", "NLLLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss", "KLDivLoss",
    "weight", "bias", "init", "functional", "utils",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
