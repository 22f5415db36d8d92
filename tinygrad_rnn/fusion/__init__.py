"""From a cell's `step` to two kernels over time.

In reading order: `names` (for generated code), `trace` (the step as a list of lines; beside it `batch`, the size that
nobody knows, `soundness`, what operations may do, and `watched`, `frames` and `keys`, what a step reads, where it is
and what is equal), `adjoint` (the lines of its gradient), `plan` (phases: product, loop, product, ...), `emit` (the
phases as Numba source), `scan` (the compiled kernels), `call` (what happens around them, as Python source), `short`
(the same compiled, for calls that are over sooner than Python could prepare them), `specification` (what kernels have
to compute, on the tape), `judge` and `validate` (whether they do) and `fused` (all of it as one node of the tape).
`compile` is where cells come in, `guards` says how long what it made of them holds, `explain` what became of them.
"""
