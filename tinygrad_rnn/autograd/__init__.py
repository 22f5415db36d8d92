"""What a derivative is: the table of primitives, Tensor, the tape, gradcheck.

In reading order: `modes`, `sums`, `tape`, `gradients`, `primitive`, `arrays`, `table`, then the functions composed of
its rows (`operands`, `eager`, `pointwise`, `reductions`, `shapes`, `products`), `interchange`, `tensor`, `creation`,
`gradcheck`; `formulas` and `custom`, for rows from outside.
Whoever wants to see backpropagation first opens `tape`, which starts with a complete backward pass of ten lines.
"""
