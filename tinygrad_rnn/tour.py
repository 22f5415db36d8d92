"""What this library is, in ten seconds: `python -m tinygrad_rnn`."""

import inspect
import statistics
import textwrap
import time

import numpy as np

from . import nn, optim
from .autograd.creation import from_numpy, manual_seed, randn, tensor
from .autograd.pointwise import sigmoid, tanh
from .autograd.tensor import Tensor, grad

STEPS, BATCH, INPUTS, UNITS, UPDATES = 20, 32, 4, 32, 120


class MGU(nn.Cell):
    """Minimal gated unit (Zhou et al., 2016): a GRU with one gate."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        I, H = input_size, hidden_size
        self.Wf, self.Uf, self.bf = nn.weight(I, H), nn.weight(H, H), nn.bias(H)
        self.Wh, self.Uh, self.bh = nn.weight(I, H), nn.weight(H, H), nn.bias(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f = sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        n = tanh(x @ self.Wh + (f * h) @ self.Uh + self.bh)
        return (1 - f) * h + f * n


def tour() -> None:
    """Show the tape, a cell, its training, its two engines, and the kernel that was written for it."""
    manual_seed(0)
    show_tape()
    print("\n2. A recurrent cell is the equations of one step. This is one, and nobody has written a kernel for it:\n")
    print(textwrap.indent(inspect.getsource(MGU.step).rstrip(), "  "))
    layer = nn.Recurrent(MGU(INPUTS, UNITS), fused="require")
    train(layer)
    compare(layer)
    show_kernel(layer)
    print(ENDING)


def show_tape() -> None:
    """An expression, its gradient and what the tape says of it."""
    x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    print("1. Every operation is recorded on a tape, and backward() walks it back:\n")
    print("    >>> x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)\n    >>> y = (x * x).sum()\n    >>> y")
    print(f"    {y!r}\n    >>> y.backward()\n    >>> x.grad\n    {x.grad!r}")


def train(layer: nn.Recurrent) -> None:
    """Train a cell to remember its inputs over all steps, and print how the loss falls."""
    print(f"\n3. It learns to remember the sum of {STEPS} inputs. The first call compiles two kernels:\n")
    rng = np.random.default_rng(0)
    optimizer, losses = optim.Adam(layer.parameters(), lr=0.01), []
    for update in range(UPDATES + 1):
        x = from_numpy(rng.normal(size=(STEPS, BATCH, INPUTS)).astype(np.float32) / STEPS**0.5)
        optimizer.zero_grad()
        y, _ = layer(x)
        loss = (y[-1, :, :INPUTS] - x.sum(0).tanh()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if update % 20 == 0:
            print(f"    update {update:>3}   loss {losses[-1]:.4f}   {'#' * round(48 * losses[-1] / losses[0])}")


def compare(layer: nn.Recurrent) -> None:
    """Print how far tape and kernels are apart, and how much faster the kernels are."""
    x = randn(100, BATCH, INPUTS)
    twins = [nn.Recurrent(layer.cell, fused=fused) for fused in ("require", "never")]

    def gradients(twin: nn.Recurrent) -> list[np.ndarray]:
        return [g.numpy() for g in grad(twin(x)[0].square().sum(), list(twin.parameters()))]

    apart = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(*map(gradients, twins)))
    ratios = []
    for _ in range(9):
        seconds = []
        for twin in twins:
            start = time.perf_counter()
            gradients(twin)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    print("\n4. The same step also runs on the tape, operation by operation, to be studied. The two agree:")
    faster = statistics.median(ratios)
    print(f"   gradients differ by {apart:.0e} of the largest. The kernels are {faster:.0f} times as fast.")


def show_kernel(layer: nn.Recurrent) -> None:
    """Print the lines of the backward kernel that are gradients of the user's lines."""
    print("\n5. The kernels can be read. This is in the backward one, with the names of the cell:\n")
    lines = [line for line in layer.source("backward").splitlines() if "# gradient of: " in line]
    print(textwrap.indent(textwrap.dedent("\n".join(lines)), "    "))


ENDING = """
Where to go from here, in the repository:
    study    notebooks/01_autograd_from_nothing.ipynb, and then 02 and 03
             python -m tinygrad_rnn ops             every operation, its gradient as a line of text
             python -m tinygrad_rnn explain lstm    what the compiler makes of a cell
    run      python demos/char_lm.py                a network that writes plays, in one to three minutes
    extend   python demos/new_cell.py               a cell of your own: proved, raced, and read"""
