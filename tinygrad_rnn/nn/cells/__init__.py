"""Recurrent cells, each a few lines of maths with its source: `tg.nn.cells.list()` prints which there are.

In reading order: `catalogue` (the list, which a cell enters by a decorator), `named` (cells by name), `gated` (what
cells with gates share), `classic` (RNN, LSTM, GRU as in PyTorch), `lstm_variants`, `gru_variants`, `minimal` (fewer
gates), `diagonal` (no recurrent product), `factored` (thin matrices), `timescales` (slow parts), `matrices` (states
that are matrices), `attending` (what is given for the whole sequence is looked at), `article` (two cells just as an
article lists them).
"""

from .article import ArticleGRUCell, ArticleLSTMCell
from .attending import BahdanauCell
from .catalogue import catalogue as list
from .catalogue import listed, unlisted
from .classic import GRUCell, IRNNCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .diagonal import IndRNNCell, MinGRUCell, MinLSTMCell, QRNNCell, SRUCell
from .factored import FactorisedLSTMCell, FastGRNNCell, FastRNNCell, GroupLSTMCell
from .gru_variants import GRUVariantCell, LayerNormGRUCell, LiGRUCell
from .lstm_variants import (
    CoupledLSTMCell,
    LayerNormLSTMCell,
    MultiplicativeLSTMCell,
    NoForgetGateLSTMCell,
    PeepholeLSTMCell,
    SLSTMCell,
)
from .matrices import DeltaNetCell, MLSTMCell
from .minimal import MGUCell, MinimalRNNCell, RANCell, UGRNNCell
from .named import make
from .timescales import ClockworkRNNCell, SCRNCell

__all__ = [
    "list", "make", "listed", "unlisted", "RNNCell", "LSTMCell", "GRUCell", "IRNNCell", "ProjectedLSTMCell",
    "PeepholeLSTMCell", "CoupledLSTMCell", "NoForgetGateLSTMCell", "LayerNormLSTMCell", "MultiplicativeLSTMCell",
    "SLSTMCell", "GRUVariantCell", "LayerNormGRUCell", "LiGRUCell", "MGUCell", "MinimalRNNCell", "UGRNNCell", "RANCell",
    "IndRNNCell", "SRUCell", "QRNNCell", "MinGRUCell", "MinLSTMCell", "SCRNCell", "ClockworkRNNCell",
    "FactorisedLSTMCell", "GroupLSTMCell", "FastRNNCell", "FastGRNNCell",
    "MLSTMCell", "DeltaNetCell",
    "BahdanauCell",
    "ArticleLSTMCell", "ArticleGRUCell",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
