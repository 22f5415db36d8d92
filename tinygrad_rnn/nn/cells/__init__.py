"""Recurrent cells, each a few lines of maths with its source: `tg.nn.cells.list()` prints which there are.

In reading order: `catalogue` (the list, which a cell enters by a decorator), `named` (cells by name), `options` (what
they may be), `gated` (what cells with gates share), `classic` (RNN, LSTM, GRU as in PyTorch), `lstm_variants`,
`gru_variants`, `minimal` and `fewer_gates` (than GRU and LSTM), `evolved` (found by search), `deeper` (more inside a
step), `diagonal` (no recurrent product), `rwkv` (attention that fades), `factored` (thin matrices), `timescales` (slow
parts), `oscillators` (differential equations), `lem` (steps of learned size), `elapsed` (time between steps), `linear`
(linear systems), `state_space` (one for each unit), `matrices` (states that are matrices), `attending` (what is given
for the whole sequence is looked at), `spiking` (ones and zeros), `article` (two cells just as an article lists them).
"""

from .article import ArticleGRUCell, ArticleLSTMCell
from .attending import BahdanauCell, DotAttentionCell, HopfieldCell
from .catalogue import catalogue as list
from .catalogue import listed, unlisted
from .classic import GRUCell, IRNNCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .deeper import HyperLSTMCell, NestedLSTMCell, ONLSTMCell, RHNCell
from .diagonal import IndRNNCell, MinGRUCell, MinLSTMCell, QRNNCell, SRUCell
from .elapsed import CfCCell, LTCCell, PhasedLSTMCell
from .evolved import MUT1Cell, MUT2Cell, MUT3Cell, NASCell
from .factored import FactorisedLSTMCell, FastGRNNCell, FastRNNCell, GroupLSTMCell
from .fewer_gates import (
    ATRCell,
    BRCCell,
    CFNCell,
    IntersectionRNNCell,
    JANETCell,
    LightRUCell,
    NBRCCell,
    STARCell,
)
from .gru_variants import GRUVariantCell, LayerNormGRUCell, LiGRUCell
from .lem import LEMCell
from .linear import LMUCell, LRUCell, S5Cell
from .lstm_variants import (
    CoupledLSTMCell,
    LayerNormLSTMCell,
    MultiplicativeLSTMCell,
    NoForgetGateLSTMCell,
    PeepholeLSTMCell,
    SLSTMCell,
)
from .matrices import DeltaNetCell, FastWeightsCell, GLACell, LinearAttentionCell, MLSTMCell, RetNetCell
from .minimal import MGUCell, MinimalRNNCell, RANCell, UGRNNCell
from .named import make
from .oscillators import AntisymmetricRNNCell, CoRNNCell, GatedAntisymmetricRNNCell, UnICORNNCell
from .rwkv import RWKVCell
from .spiking import ALIFCell, BinaryGRUCell, LIFCell
from .state_space import MambaCell, S4DCell
from .timescales import ClockworkRNNCell, SCRNCell

__all__ = [
    "list", "make", "listed", "unlisted", "RNNCell", "LSTMCell", "GRUCell", "IRNNCell", "ProjectedLSTMCell",
    "PeepholeLSTMCell", "CoupledLSTMCell", "NoForgetGateLSTMCell", "LayerNormLSTMCell", "MultiplicativeLSTMCell",
    "SLSTMCell", "GRUVariantCell", "LayerNormGRUCell", "LiGRUCell", "MGUCell", "MinimalRNNCell", "UGRNNCell", "RANCell",
    "IndRNNCell", "SRUCell", "QRNNCell", "MinGRUCell", "MinLSTMCell", "SCRNCell", "ClockworkRNNCell",
    "FactorisedLSTMCell", "GroupLSTMCell", "FastRNNCell", "FastGRNNCell",
    "CoRNNCell", "UnICORNNCell", "AntisymmetricRNNCell", "GatedAntisymmetricRNNCell", "CfCCell", "LTCCell",
    "PhasedLSTMCell", "LRUCell", "S5Cell", "LMUCell",
    "JANETCell", "STARCell", "LightRUCell", "ATRCell", "CFNCell", "BRCCell", "NBRCCell", "IntersectionRNNCell",
    "MUT1Cell", "MUT2Cell", "MUT3Cell", "NASCell",
    "RHNCell", "NestedLSTMCell", "HyperLSTMCell", "ONLSTMCell", "RWKVCell",
    "MLSTMCell", "DeltaNetCell",
    "BahdanauCell",
    "LEMCell", "LIFCell", "ALIFCell", "BinaryGRUCell",
    "LinearAttentionCell", "RetNetCell", "GLACell", "FastWeightsCell",
    "S4DCell", "MambaCell", "DotAttentionCell", "HopfieldCell",
    "ArticleLSTMCell", "ArticleGRUCell",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
