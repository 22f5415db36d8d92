"""What a derivative is: the table of primitives, Tensor, the tape, gradcheck.

In reading order: `tape`, `primitive`, `arrays`, `table`, then the functions composed of its rows (`operands`, `eager`,
`pointwise`, `reductions`, `shapes`, `products`), `interchange`, `advice`, `tensor`, `creation`, `gradcheck`.
"""
