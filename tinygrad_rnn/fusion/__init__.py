"""From a cell's `step` to two kernels over time.

In reading order: `refusal` (what is said of a step that cannot become a kernel), `batch` (the size that nobody
knows), `keys` (what is equal), `names` (for generated code), `frames` (where the user's code is), `watched` (tensors
that a step may read) and `soundness` (what operations may do), of all of which `trace` makes the step a list of
lines; `adjoint` (the lines of its gradient), `plan` (phases: product, loop, product, ...), `emit` (the phases as
Numba source), `reuse` (memory that serves twice), `kernel` (prologue and loop as one function), `epilogue` (that of the
backward pass), `allocate` (where everything lies), `rows` (where sequences lie), `scan` (the compiled kernels);
`specification` (what kernels have to compute, on the tape), `judge`, `recorded` and `validate`
(whether they do), `fused` (all of it as one node of the tape). `held` has what cells hold for a sequence; `reads`,
`parts` and `guards` know what a step read, and whether it is as it was. `compile` is where cells come in, `explain`
says what became of them, `stages` prints a step after each pass.
"""
