"""What runs hot: vectorised maths, packed matmul, source text -> cached machine code. Knows arrays, not tensors.

Four parts, each in reading order.

Python's functions as machine code: `locks` (their order), `trusted` (files that may be executed) and `cache` (what is
found again), `processor` (what is compiled for) and `assembler` (LLVM's instructions by Python's operators), `values`
(what names mean), `writer` (Python's syntax tree -> instructions) and `outline` (kernels, rows and formulas).

Functions of elements and rows: `maths` with `maths32` and `maths64` (what formulas may call), `inner_loop` and
`elementwise` (a formula as a ufunc), `squares` (a sum), `scatter`, and rows that are normalised: `layer_norm`,
`batch_norm` and `masked_softmax`. For kernels of cells, `arena` (many arrays in one).

Matrix products: `vector` (micro-kernels of MR x NR), `macro_kernel` (blocking by MC, KC and NC, packed panels).

Cache, pool, threads: `pool` (large arrays used again), `threads` and `team` (helpers that park and unpark), `products`
and `matmul` (products on several threads, for arrays and for compiled code), `sharing` (a kernel over rows likewise).
"""
