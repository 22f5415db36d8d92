"""What runs hot: vectorised maths, packed matmul, source text -> cached machine code. Knows arrays, not tensors."""
