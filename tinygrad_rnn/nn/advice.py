"""What to write here for names of PyTorch's that are not here: who asks for one is told, by AttributeError.

A name is one of a room, such as `tg.nn.ModuleDict`, or of a module's methods, such as `model.cuda()`. Those of tensors
are in `autograd.advice`.
"""

from collections.abc import Callable
from typing import NoReturn

from ..autograd.advice import Missing
from ..autograd.tensor import Tensor

_SCHEDULE = "define it: class Mine(LRScheduler) with next_lr(self, lr, base_lr), such as base_lr * f(self.last_epoch)"
_OPTIMISER = "define it: class Mine(tg.optim.Optimizer) with update(self, p, g, state, group)"

# By room, names and what to write.
ROOMS = {
    "tinygrad_rnn": {
        "save": "write tg.save_checkpoint(path, model, optimizer), or tg.save_weights(path, model)",
        "load": "write tg.load_checkpoint(path, model, optimizer), or tg.load_weights(path, model)",
        "cuda mps device": "there is no GPU in this library: leave it out",
        "inference_mode set_grad_enabled": "write tg.no_grad() or tg.enable_grad()",
        "float double long int bool int32 uint8": "dtypes are tg.float32, tg.float64 and NumPy's, such as np.int64",
        "half bfloat16 float16": "floats are tg.float32 or tg.float64",
        "set_default_dtype get_default_dtype": "write dtype=tg.float64 where things are made, or model.double()",
        "FloatTensor DoubleTensor LongTensor is_tensor": "write tg.tensor(data, dtype), and isinstance(x, tg.Tensor)",
        "empty empty_like full_like": "write tg.zeros(...), tg.zeros_like(x) or tg.full(x.shape, value, dtype=x.dtype)",
        "linspace logspace": "write tg.tensor(np.linspace(...), dtype=tg.float32)",
        "bernoulli": "write (tg.rand(p.shape) < p).to(p.dtype)",
        "randperm multinomial normal": "draw with tg.generator(), which is NumPy's: tg.tensor("
        "tg.generator().permutation(n))",
        "Generator seed initial_seed": "write tg.manual_seed(seed), and tg.generator() for NumPy's generator",
        "concat concatenate hstack vstack dstack": "write tg.cat([x, y], dim)",
        "allclose isclose equal array_equal": "write np.allclose(x, y) and its like",
        "clip": "write tg.clamp(x, min, max)",
        "numel is_floating_point": "write x.numel(), or x.dtype.kind == 'f'",
        "compile jit": "layers compile at their first call: leave it out",
        "use_deterministic_algorithms backends": "the same seed gives the same numbers: leave it out",
        "utils": "write x[rows] for a batch, tg.nn.utils for clipping, tg.save_checkpoint for checkpoints",
        "distributed multiprocessing": "one process trains, in tg.set_num_threads(n) threads",
    },
    "tinygrad_rnn.nn": {
        "ModuleDict ParameterList ParameterDict": "plain lists and dicts of modules and parameters will do",
        "BCELoss": "write BCEWithLogitsLoss, and leave the sigmoid before it out",
        "DataParallel": "one process trains, in tg.set_num_threads(n) threads",
        "LogSigmoid Softsign Hardtanh ReLU6 Hardsigmoid Softmin": "write a function, such as -tg.softplus(-x), or "
        "tg.clamp(x, 0, 6) for ReLU6",
    },
    "tinygrad_rnn.nn.functional": {
        "binary_cross_entropy": "write binary_cross_entropy_with_logits, and leave the sigmoid before it out",
        "one_hot": "write tg.eye(classes)[labels]",
        "logsigmoid": "write -tg.softplus(-x)",
        "hardtanh": "write tg.clamp(x, -1, 1)",
        "relu6": "write tg.clamp(x, 0, 6)",
        "cosine_similarity": "write (normalize(x, dim=-1) * normalize(y, dim=-1)).sum(-1)",
    },
    "tinygrad_rnn.nn.utils": {
        "rnn": "nothing is packed: pad with zeros and write layer(x, lengths=lengths), in any order",
        "weight_norm spectral_norm": "write tg.nn.utils.parametrizations.{0}(module, name)",
        "parameters_to_vector": "write tg.cat([p.flatten() for p in parameters])",
        "clip_grad_norm clip_grad_value": "write {0}_",
    },
    "tinygrad_rnn.nn.init": {
        "xavier_uniform xavier_normal kaiming_uniform kaiming_normal uniform normal orthogonal constant": "write {0}_",
    },
    "tinygrad_rnn.optim": {
        "swa_utils": "average by hand, or take tg.optim.NTASGD",
        "LBFGS RAdam Adamax SparseAdam Adafactor Muon": _OPTIMISER,
    },
    "tinygrad_rnn.optim.lr_scheduler": {
        "LambdaLR MultiplicativeLR PolynomialLR CyclicLR ChainedScheduler _LRScheduler": _SCHEDULE,
    },
}  # fmt: skip

MODULES = {
    "cuda ipu xpu": "there is no GPU in this library: leave it out",
    "half bfloat16 type": "write float() or double()",
    "flatten_parameters": "parameters lie as the kernels want them: leave it out",
    "all_weights": "write list(layer.parameters())",
    "register_forward_hook register_forward_pre_hook": "write it into forward, or look at values with tg.record(layer)",
    "register_full_backward_hook register_backward_hook": "write y.register_hook(f), for the gradient of a tensor",
    "add_module register_module": "write setattr(self, name, module)",
    "get_submodule get_parameter get_buffer": "write dict(model.named_parameters())[name] and its like",
    "share_memory compile": "leave it out",
}  # fmt: skip


def told(room: str) -> Callable[[str], NoReturn]:
    """The `__getattr__` of the module of that name: says what to write instead."""
    texts = {name: text for names, text in ROOMS[room].items() for name in names.split()}

    def __getattr__(name: str) -> NoReturn:
        text = texts.get(name)
        if text is None and room == "tinygrad_rnn" and isinstance(of_tensors := vars(Tensor).get(name), Missing):
            text = of_tensors.message.partition(": ")[2]
        raise AttributeError(
            f"module {room!r} has no attribute {name!r}" + (f": {text.format(name)}" if text else ""), name=name
        )

    return __getattr__


class MissingMethod(Missing):
    """A method that modules have not: who asks for it is told what to write instead."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.message = f"a module has no attribute {name!r}: {text}"


def advise(kind: type) -> None:
    """Give the class of modules what is in the table of methods."""
    for names, text in MODULES.items():
        for name in names.split():
            setattr(kind, name, MissingMethod(name, text))
