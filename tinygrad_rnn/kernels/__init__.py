"""What runs hot: vectorised maths, packed matmul, source text -> cached machine code. Knows arrays, not tensors.

Four parts, each in reading order.

Functions of elements: `locks` (their order), `trusted` (files that may be executed) and `cache` (source text -> machine
code that is found again), `processor` (what is compiled for) and `assembler` (LLVM's instructions by Python's
operators), `inner_loop` and `elementwise` (a formula as a ufunc), `maths` with `maths32` and `maths64` (the functions
that formulas may call), `intrinsics` (a loop over elements), `squares` (a sum) and `layer_norm` (rows that are
normalised).

Kernels of cells: `values` (what names mean in one), `writer` (Python's syntax tree -> instructions), `outline` (kernels
and functions of rows) and `arena` (many arrays in one).

Matrix products: `vector` (micro-kernels of MR x NR), `macro_kernel` (blocking by MC, KC and NC, packed panels).

Cache, pool, threads: `pool` (large arrays used again), `threads` and `team` (helpers that park and unpark), `products`
and `matmul` (products on several threads, for arrays and for compiled code), `sharing` (a kernel over rows likewise).
"""
