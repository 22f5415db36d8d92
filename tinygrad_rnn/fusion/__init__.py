"""From a cell's `step` to two kernels over time.

In reading order: `refusal` (what is said of a step that cannot become a kernel), `batch` (the size that nobody knows),
`keys` (what is equal), `names` (for generated code), `views` (elements of a row in another order) and `program`: a
step as values that never change, and the passes' view of them. `soundness` (what operations may do), `composed`
(operations that are made of others), `builder` (where values are made), `frames` (where the user's code is), `watched`
and `symbols` (what a step may see while it is traced) and `again` (whether it does the same each time) serve `trace`,
the first of the passes. The others take a program and return one: `simplify`, `hoist`, `join`, `transpose`,
`rematerialise`; `passes` has them in order.

From there to machine code: `schedule` (phases, and what is in memory), `equations`, `nest` (loops over the elements of
a row) and `print` (all as text), `kernel` and `epilogue` (all that stands around the loop), `reuse` (memory that
serves twice), `allocate` (where everything lies), `rows` (where sequences lie) and `scan` (the compiled kernels).
`sequence`, `evaluate` (a program on the tape) and `node` are for the tape. `specification` (what kernels have to
compute), `judge`, `recorded` and `validate` (whether they do) come before `fused`: all of it as one operation.

`held` has what cells hold for a sequence; `code` (what code names, and what ran), `reads` (what a step can read),
`walk` (all of them, from the cell on) and `guards` know what a step read, and whether it is as it was. `compile` is
where cells come in, `explain` says what became of them, `stages` prints the program after each pass.
"""
