"""What runs hot: vectorised maths, packed matmul, source text -> cached machine code. Knows arrays, not tensors.

Three parts, each in reading order.

Functions of elements: `locks` (their order), `trusted` (files that may be executed) and `cache` (source text -> machine
code that is found again), `processor` (what is compiled for) and `assembler` (LLVM's instructions by Python's
operators), `inner_loop` and `elementwise` (a formula as a ufunc), `maths` with `maths32` and `maths64` (the functions
that formulas may call), `intrinsics` (addresses and arenas in compiled code), `squares` (a sum) and `layer_norm` (rows
that are normalised).

Matrix products: `vector` (micro-kernels of MR x NR), `macro_kernel` (blocking by MC, KC and NC, packed panels).

Cache, pool, threads: `pool` (large arrays used again), `threads` and `team` (helpers that park and unpark), `products`
and `matmul` (products on several threads, for arrays and for compiled code), `sharing` (a kernel over rows likewise).
"""
