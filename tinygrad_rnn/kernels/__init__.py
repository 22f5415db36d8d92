"""What runs hot: vectorised maths, packed matmul, source text -> cached machine code. Knows arrays, not tensors.

In reading order: `locks` (their order), `trusted` (files that may be executed), `cache` (source text -> machine code
that is found again), `processor` (what is compiled for), `machine` (functions written instruction by instruction),
`inner_loop` and `elementwise` (a formula as a ufunc), `maths` with `maths32` and `maths64` (the functions that formulas
may call), `memory`, `pool` (large arrays used again), `squares`, `threads` and `team` (who helps), `vector`, `products`
and `matmul` (matrix products), `sharing` (a kernel over rows on several threads).
"""
