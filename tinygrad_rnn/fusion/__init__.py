"""From a cell's `step` to two kernels over time.

In reading order: `trace` (the step as a list of lines), `adjoint` (the lines of its gradient), `plan` (phases: product,
loop, product, ...), `emit` (the phases as Numba source), `scan` (the compiled kernels), `call` (what happens around
them, as Python source) and `fused` (all of it as one node of the tape). `compile` is where cells come in, `explain`
says what became of them.
"""
