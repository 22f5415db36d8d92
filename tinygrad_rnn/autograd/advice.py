"""What to write here for attributes that tensors of other libraries have.

Each is an attribute of the class that raises AttributeError with advice, rather than a `__getattr__` for all names:
Python reads every attribute of a class that has one at a third of the speed. `hasattr` and `dir` know nothing of them.
"""

from typing import Any, NoReturn

_ADVICE = {
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
    "topk sort argsort": "write np.argsort(x.numpy()); in a step, ranks: (x[:, None] > x[:, :, None]).float().sum(-1)",
    "nelement clip ravel swapaxes": "write x.numel(), x.clamp(min, max), x.flatten() or x.transpose(dim0, dim1)",
    "nbytes strides stride flags flat data_ptr is_contiguous storage": "write x.numpy() for the array, which knows it",
    "log2 log10 tan arctan atan sinh cosh ceil round trunc cumprod":
    "compose it of functions that are there, such as tg.log(x) / math.log(2), or -tg.floor(-x) for what is not below x",
    "copy": "write x.clone(), through which gradients flow, or tg.tensor(x) for a constant",
    "expand_as view_as reshape_as": "write x.expand(y.shape) or x.reshape(y.shape)",
    "diag trace inner lerp addmm": "write x.diagonal(), x.diagonal().sum(), x @ y, x + w * (y - x) or c + x @ y",
    "median mode quantile unique nonzero": "write np.median(x.detach()) and its like: the result has no gradient",
    "scatter scatter_add index_add": "write y[indices] or tg.where, the other way round",
    "retain_graph": "it is an argument: loss.backward(retain_graph=True)",
    "cat stack pad einsum leaky_relu elu softplus silu gelu dropout layer_norm normalize embedding linear mse_loss "
    "cross_entropy nll_loss logical_and logical_or logical_not zeros_like ones_like": "it is a function, tg.{0}(...)",
}  # fmt: skip


class Missing:
    """An attribute that there is not: who asks for it is told what to write instead."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.message = name, f"a tensor has no attribute {name!r}: {text.format(name)}"

    def __get__(self, x: Any, kind: type) -> NoReturn:
        raise AttributeError(self.message, name=self.name, obj=x)


def advise(kind: type) -> None:
    """Give a class what is in the table above, where it has no such attribute."""
    for names, text in _ADVICE.items():
        for name in names.split():
            if not hasattr(kind, name):
                setattr(kind, name, Missing(name, text))
