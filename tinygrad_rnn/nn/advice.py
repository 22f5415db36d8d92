"""What to write here for names of PyTorch's that are not here: who asks for one is told, by AttributeError.

A name is one of a room, such as `tg.nn.ModuleDict`, or an attribute of tensors or modules, such as `model.cuda()`.
Such an attribute is one of the class and raises AttributeError with advice, rather than a `__getattr__` for all names:
Python reads every attribute of a class that has one at a third of the speed. `hasattr` and `dir` know nothing of them.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from .. import autograd
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
        "randperm": "draw with tg.generator(), which is NumPy's: tg.tensor(tg.generator().permutation(n))",
        "multinomial": "write (tg.cumsum(p[:, :-1], -1) < tg.rand(p.shape[0], 1)).sum(-1), which draws i with "
        "probability p[i]",
        "normal": "write mean + std * tg.randn(shape)",
        "Generator seed initial_seed": "write tg.manual_seed(seed), and tg.generator() for NumPy's generator",
        "concat concatenate hstack vstack dstack": "write tg.cat([x, y], dim)",
        "allclose isclose equal array_equal": "write np.allclose(x, y) and its like",
        "clip": "write tg.clamp(x, min, max)",
        "numel is_floating_point": "write x.numel(), or x.dtype.kind == 'f'",
        "compile jit": "layers compile at their first call: leave it out",
        "use_deterministic_algorithms backends": "the same seed gives the same numbers: leave it out",
        "linalg inverse svd matrix_exp": "write np.linalg.inv(x.numpy()) and its like, without a gradient and not in a "
        "step; and tg.norm",
        "complex polar view_as_real view_as_complex": "carry real and imaginary parts as two tensors",
        "tensordot": "write tg.einsum, such as tg.einsum('...ij,jk->...ik', x, y)",
        "cross": "write tg.roll(a * tg.roll(b, -1, -1) - tg.roll(a, -1, -1) * b, -1, -1), with a, b = x, y",
        "kron": "write tg.einsum('ij,kl->ikjl', x, y).reshape(x.shape[0] * y.shape[0], -1)",
        "cdist": "write tg.norm(x.unsqueeze(-2) - y.unsqueeze(-3), dim=-1)",
        "logaddexp": "write tg.logsumexp(tg.stack([x, y], -1), -1)",
        "logcumsumexp": "write m + tg.log(tg.cumsum(tg.exp(x - m), -1)), with m = x.amax(-1, keepdim=True)",
        "utils": "write x[rows] for a batch; nothing is computed again to save memory, as by torch.utils.checkpoint",
        "clone detach": "it is a method, x.{0}()",
        "meshgrid bucketize searchsorted": "write np.{0}, as np.searchsorted(boundaries, x.numpy())",
        "std_mean var_mean": "write x.std(dim), x.mean(dim) and their like",
        "broadcast_tensors": "write tg.broadcast_to(x, shape)",
        "amp autocast": "floats are tg.float32 or tg.float64: leave it out",
        "distributions": "write the logarithm of its density, such as -((x - mean) / std) ** 2 / 2 - tg.log(std)",
        "func functional_call": "write tg.grad(..., create_graph=True); weights that are computed are given to a "
        "module by setattr, after delattr of the parameter",
        "vmap": "functions take a batch in front: leave it out, or write tg.stack([f(each) for each in x])",
        "distributed multiprocessing": "one process trains, in tg.set_num_threads(n) threads",
    },
    "tinygrad_rnn.nn": {
        "ModuleDict ParameterList ParameterDict": "plain lists and dicts of modules and parameters will do",
        "BCELoss": "write BCEWithLogitsLoss, and leave the sigmoid before it out",
        "DataParallel": "one process trains, in tg.set_num_threads(n) threads",
        "CTCLoss": "write its recursion over the steps, with tg.logsumexp",
        "PReLU Mish SELU CELU GLU Hardswish CosineSimilarity PairwiseDistance Bilinear": "tg.nn.functional says what "
        "to write for their functions",
        "GaussianNLLLoss": "write (tg.log(variance) + (x - y) ** 2 / variance).mean() / 2",
        "TripletMarginLoss MarginRankingLoss HingeEmbeddingLoss CosineEmbeddingLoss": "write tg.relu(x - y + margin) "
        "and its like",
        "Transformer TransformerDecoder TransformerDecoderLayer": "write a Module with two of nn.MultiheadAttention",
        "EmbeddingBag": "write embedding(x).sum(1) or embedding(x).mean(1)",
        "Dropout1d": "write x * tg.dropout(tg.ones(*x.shape[:2], 1), p)",
        "Unflatten": "write x.reshape(x.shape[0], 2, -1) and its like",
        "GroupNorm RMSNorm": "tg.nn.functional.group_norm and rms_norm say what to write",
        "LogSigmoid Softsign Hardtanh ReLU6 Hardsigmoid Softmin": "write a function, such as -tg.softplus(-x), or "
        "tg.clamp(x, 0, 6) for ReLU6",
    },
    "tinygrad_rnn.nn.functional": {
        "binary_cross_entropy": "write binary_cross_entropy_with_logits, and leave the sigmoid before it out",
        "one_hot": "write tg.eye(classes)[labels]",
        "logsigmoid": "write -tg.softplus(-x)",
        "hardtanh": "write tg.clamp(x, -1, 1)",
        "relu6": "write tg.clamp(x, 0, 6)",
        "hardsigmoid": "write tg.clamp(x / 6 + 0.5, 0, 1)",
        "hardswish": "write x * tg.clamp(x / 6 + 0.5, 0, 1)",
        "mish": "write x * tg.tanh(tg.softplus(x))",
        "selu": "write 1.0507009873554805 * tg.elu(x, 1.6732632423543772)",
        "celu": "write a * tg.elu(x / a)",
        "prelu": "write tg.where(x > 0, x, weight * x)",
        "softsign": "write x / (1 + tg.abs(x))",
        "tanhshrink": "write x - tg.tanh(x)",
        "glu": "write a * tg.sigmoid(b), with a, b = tg.chunk(x, 2, -1)",
        "rms_norm": "write x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight",
        "group_norm": "write weight * tg.layer_norm(x.reshape(x.shape[0], groups, -1), (size,)).reshape(x.shape)"
        " + bias",
        "gumbel_softmax": "write tg.softmax((x - tg.log(-tg.log(tg.rand(x.shape)))) / temperature, -1)",
        "pairwise_distance": "write tg.norm(x - y, dim=-1)",
        "ctc_loss": "write its recursion over the steps, with tg.logsumexp",
        "bilinear": "write tg.einsum('bi,oij,bj->bo', x, weight, y)",
        "conv2d conv3d max_pool2d avg_pool2d unfold interpolate": "sequences have one dimension here: write conv1d, "
        "max_pool1d and their like",
        "cosine_similarity": "write (tg.normalize(x, dim=-1) * tg.normalize(y, dim=-1)).sum(-1)",
    },
    "tinygrad_rnn.nn.utils": {
        "rnn": "nothing is packed: pad with zeros and write layer(x, lengths=lengths), in any order",
        "weight_norm spectral_norm": "write tg.nn.utils.parametrizations.{0}(module, name)",
        "parameters_to_vector": "write tg.cat([p.flatten() for p in parameters])",
        "vector_to_parameters": "write p[...] = part.reshape(p.shape) in tg.no_grad(), with parts from tg.split",
        "prune stateless": "tg.nn.utils.parametrize computes a weight, such as mask * weight, from others",
        "clip_grad_norm clip_grad_value": "write {0}_",
    },
    "tinygrad_rnn.autograd": {
        "grad backward enable_grad no_grad detect_anomaly": "write tg.{0}, and y.backward()",
        "set_detect_anomaly": "write `with tg.detect_anomaly():`",
        "Function": "compose the operation of others, or define a row of the table by tg.primitive",
        "Variable": "write tg.tensor(data, requires_grad=True)",
        "functional": "write tg.grad(y, [x], create_graph=True), a row of the Jacobian for each y",
        "profiler": "write python -m cProfile script.py",
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

TENSORS = {
    "cuda mps is_cuda pin_memory": "there is no GPU in this library: leave it out",
    "add_ sub_ mul_ div_ clamp_ exp_ relu_ sigmoid_ tanh_ sqrt_ pow_ masked_fill_ squeeze_ unsqueeze_ t_ lerp_ "
    "addcmul_ addcdiv_ neg_ abs_ floor_ round_ clip_ scatter_ scatter_add_ index_add_ index_fill_ detach_": "tensors "
    "are not written to in place: write x = x + y and its like; `with tg.no_grad(): p += y` is for a parameter",
    "zero_ fill_ copy_ uniform_ normal_": "tensors are not written to in place: write x.grad = None for a gradient, "
    "`with tg.no_grad(): p[...] = values` for a parameter, or tg.nn.init.zeros_(p) and its like",
    "half bfloat16 float16": "a tensor of floats is float32 or float64: write x.float() or x.double()",
    "int short byte bool type type_as": "write x.to(np.int32), x.to(y.dtype) and their like",
    "repeat tile": "write x.expand(...) for dimensions of size 1, or tg.cat([x, x])",
    "concat concatenate": "write tg.cat([x, y], dim)",
    "new_zeros new_ones new_tensor new_full new_empty": "write tg.zeros(..., dtype=x.dtype) and its like",
    "topk sort argsort": "write np.argsort(x.numpy()); in a step find ranks, of equals the first one before: "
    "((x[:, None] > x[:, :, None]) | (x[:, None] == x[:, :, None]) & (tg.tril(tg.ones(n, n), -1) > 0))"
    ".to(x.dtype).sum(-1)",
    "nbytes strides stride flags flat data_ptr is_contiguous storage": "write x.numpy() for the array, which knows it",
    "copy": "write x.clone(), through which gradients flow, or tg.tensor(x) for a constant",
    "median quantile unique nonzero": "write np.{0}(x.numpy()): the result has no gradient",
    "real imag": "carry real and imaginary parts as two tensors",
    "scatter scatter_add index_add": "write (tg.eye(n)[indices] * x.unsqueeze(-1)).sum(-2), which adds numbers "
    "of x to those of n places that indices name; and tg.where(mask, x, y) to put some there",
    "atan atan2 asin acos": "there are no angles: carry a sine and a cosine",
    "select": "write x[:, i] and its like",
    "unfold": "write tg.stack([x[..., i : i + size] for i in range(0, x.shape[-1] - size + 1, step)], -2)",
    "equal allclose": "write np.array_equal(x, y) or np.allclose(x, y)",
    "register_post_accumulate_grad_hook": "write x.register_hook(f), which sees the gradient before it is added",
    "retain_graph": "it is an argument: loss.backward(retain_graph=True)",
    "cat stack pad einsum leaky_relu elu softplus silu gelu dropout layer_norm normalize embedding linear mse_loss "
    "cross_entropy nll_loss logical_and logical_or logical_not zeros_like ones_like": "it is a function, tg.{0}(...)",
}  # fmt: skip
EXPRESSIONS = {  # with tensors x and y
    "log2": "tg.log(x) / math.log(2)", "log10": "tg.log(x) / math.log(10)", "exp2": "2 ** x", "negative": "-x",
    "tan": "tg.sin(x) / tg.cos(x)", "sinh": "(tg.exp(x) - tg.exp(-x)) / 2", "cosh": "(tg.exp(x) + tg.exp(-x)) / 2",
    "ceil": "-tg.floor(-x)", "trunc": "tg.sign(x) * tg.floor(tg.abs(x))",
    "frac": "x - tg.sign(x) * tg.floor(tg.abs(x))", "remainder": "x % y", "hypot": "tg.sqrt(x * x + y * y)",
    "fmod": "tg.sign(x) * (tg.abs(x) % tg.abs(y))", "cumprod": "tg.exp(tg.cumsum(tg.log(x), -1)) for what is above 0",
    "lerp": "x + w * (y - x)", "addmm": "c + x @ y", "addcmul": "c + x * y", "addcdiv": "c + x / y",
    "baddbmm": "c + tg.bmm(x, y)", "inner": "x @ y", "trace": "x.diagonal().sum()",
    "diag": "x.diagonal() of a matrix, tg.eye(n) * x of a vector", "diag_embed": "x.unsqueeze(-1) * tg.eye(n)",
    "nan_to_num": "tg.where(tg.isnan(x), 0, x)", "masked_select": "x[mask]", "index_fill": "tg.where(there, value, x)",
    "nelement": "x.numel()", "clip": "x.clamp(min, max)", "clamp_min": "x.clamp(min=0)", "clamp_max": "x.clamp(max=1)",
    "ravel": "x.flatten()", "swapaxes": "x.transpose(dim0, dim1)", "movedim": "x.permute(0, 2, 1) and its like",
    "expand_as": "x.expand(y.shape)", "view_as": "x.reshape(y.shape)", "reshape_as": "x.reshape(y.shape)",
    "atanh": "(tg.log1p(x) - tg.log1p(-x)) / 2", "acosh": "tg.log(x + tg.sqrt(x * x - 1))",
    "logit": "tg.log(x) - tg.log1p(-x)",
    "logical_xor": "(x != 0) != (y != 0)", "unflatten": "x.reshape(x.shape[0], 2, -1) and its like",
    "asinh": "s * tg.log1p(s * x + x * x / (1 + tg.sqrt(x * x + 1))), with s = tg.where(x < 0, -1, 1)",
    "round": "f + tg.where(x - f == 0.5, f % 2, tg.where(x - f > 0.5, 1, 0)), with f = tg.floor(x)",
    "take_along_dim": "tg.gather(x, dim, indices)", "take": "x.flatten()[indices]", "diff": "x[..., 1:] - x[..., :-1]",
    "dist": "tg.norm(x - y)", "nansum": "tg.where(tg.isnan(x), 0, x).sum()",
    "repeat_interleave": "x.unsqueeze(-1).expand(*x.shape, n).flatten(-2), along the last dimension",
}  # fmt: skip
TENSORS |= {name: f"write {text}" for name, text in EXPRESSIONS.items()}
MODULES = {
    "cuda ipu xpu": "there is no GPU in this library: leave it out",
    "half bfloat16 type": "write float() or double()",
    "flatten_parameters": "parameters lie as the kernels want them: leave it out",
    "set_submodule": "write setattr(module, name, other)",
    "all_weights": "write list(layer.parameters())",
    "register_forward_hook register_forward_pre_hook": "write it into forward, or look at values with tg.record(layer)",
    "register_full_backward_hook register_backward_hook": "write y.register_hook(f), for the gradient of a tensor",
    "add_module register_module": "write setattr(self, name, module)",
    "get_submodule get_parameter get_buffer": "write dict(model.named_parameters())[name] and its like",
    "share_memory compile": "leave it out",
}  # fmt: skip
PLAIN = "tinygrad_rnn", "tinygrad_rnn.nn.functional"  # whose functions are those of tensors


def told(room: str) -> Callable[[str], NoReturn]:
    """The `__getattr__` of the module of that name: says what to write instead."""
    tables = [TENSORS, *(ROOMS[each] for each in PLAIN)] if room in PLAIN else [ROOMS[room]]
    texts = {name: text for table in tables for names, text in table.items() for name in names.split()}

    def __getattr__(name: str) -> NoReturn:
        text = texts.get(name)
        raise AttributeError(
            f"module {room!r} has no attribute {name!r}" + (f": {text.format(name)}" if text else ""), name=name
        )

    return __getattr__


class Missing:
    """An attribute that a kind of thing has not: who asks for it is told what to write instead."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name, self.message = name, f"a {kind} has no attribute {name!r}: {text.format(name)}"

    def __get__(self, x: Any, kind: type) -> NoReturn:
        raise AttributeError(self.message, name=self.name, obj=x)


def advise(kind: type, texts: dict[str, str]) -> None:
    """Give a class what is in a table, where it has no such attribute."""
    for names, text in texts.items():
        for name in names.split():
            if not hasattr(kind, name):
                setattr(kind, name, Missing(name, kind.__name__.lower(), text))


advise(Tensor, TENSORS)
autograd.__getattr__ = told(autograd.__name__)  # type: ignore[method-assign]
