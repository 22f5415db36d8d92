"""What goes to other libraries and comes from them: `weights` converts those of RNN, LSTM and GRU layers.

    >>> import numpy as np
    >>> import tinygrad_rnn as tg
    >>> kernel, recurrent_kernel, bias = np.ones((3, 16)), np.ones((4, 16)), np.zeros(16)  # keras_layer.get_weights()
    >>> weights = tg.interop.from_keras("lstm", [kernel, recurrent_kernel, bias])
    >>> weights
    Weights('lstm', weight_ih [16, 3], weight_hh [16, 4], bias_ih [16], bias_hh [16])
    >>> layer = tg.nn.LSTM(3, 4)
    >>> layer.load_state_dict(tg.interop.to_torch(weights))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> onnx = tg.interop.to_onnx(weights)  # the inputs of the operator
    >>> onnx["W"].shape, onnx["R"].shape, onnx["B"].shape
    ((1, 16, 3), (1, 16, 4), (1, 32))
"""

from .weights import (
    Weights,
    from_cell,
    from_keras,
    from_onnx,
    from_torch,
    swap_update_gate,
    to_cell,
    to_keras,
    to_onnx,
    to_torch,
)

__all__ = [
    "Weights", "from_cell", "to_cell", "from_torch", "to_torch", "from_keras", "to_keras", "from_onnx", "to_onnx",
    "swap_update_gate",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
