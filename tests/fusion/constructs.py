"""What people write in steps, by the kind of thing it is: the page on what may stand in a step is made of it.

`x` [B, 3] arrives, `h` [B, 6] and `C` [B, 2, 3] are states, `m` [B, 4, 6] holds for a sequence; of the cell are weights
`W` [3, 6], `U` [6, 6], `V` [3, 2], a bias `b` [6], a table `M` [2, 3], and constants `k` [6], `mask` [6] and `rate`.
"""

COMPILES = {
    "Arithmetic": [
        "h + x @ self.W", "h - self.b", "h * self.rate", "h / 2", "-h", "1 - h", "2 / (1.5 + h * h)", "h ** 2",
        "(h * h + 1) ** 0.5", "2 ** h", "h % 0.3", "h // 0.3", "abs(h)", "h * self.k", "h @ self.U",
    ],
    "Functions": [
        "tg.tanh(h)", "tg.sigmoid(h)", "tg.exp(h)", "tg.log(h * h + 1)", "tg.sqrt(h * h + 1)", "tg.softplus(h)",
        "h.relu()", "tg.gelu(h)", "tg.nn.functional.silu(h)", "tg.sin(h) + tg.cos(h)", "tg.erf(h)", "h.square()",
        "h.reciprocal() * 0.001", "tg.leaky_relu(h, 0.1)", "tg.elu(h)", "tg.sign(h)", "tg.floor(3 * h)",
        "tg.clamp(h, -0.5, 0.5)", "h.detach() * h", "tg.clip_gradient(h, 0.1)", "tg.expm1(h) + tg.log1p(h * h)",
    ],
    "Comparisons and choices": [
        "tg.where(h > 0, h, -h)", "tg.maximum(h, 0.1)", "tg.minimum(h, self.b)", "(h > self.b).to(h.dtype)",
        "h.masked_fill(h > 0.2, 0.5)", "tg.where((h > 0) & (h < 0.5), h, 0)", "tg.where(~(h > 0) | (h > 0.5), h, 0)",
        "tg.where(tg.isnan(h), 0, h)", "tg.where((h > 0.4).any(-1, keepdim=True), h, 0)",
        "tg.where((C > -2).all(-1), C.sum(-1), 0)", "(h == h.amax(-1, keepdim=True)).to(h.dtype)",
        "tg.where(tg.isfinite(h), h, 0)",
    ],
    "Along a row": [
        "h.sum(-1, keepdim=True)", "h.mean(-1)", "C.sum(1)", "C.mean((1, 2))", "C.amax(2)", "tg.amin(h, -1)",
        "h.var(-1, keepdim=True)", "h.std(-1)", "tg.softmax(h, -1)", "tg.softmax(C, 1)", "tg.log_softmax(C, -1)",
        "tg.logsumexp(h, -1)", "tg.cumsum(h, -1)", "tg.cumsum(C, 1)", "tg.norm(h, dim=-1)", "tg.normalize(h, dim=-1)",
        "tg.layer_norm(h, (6,), self.b, self.k)", "tg.prod(h, -1)", "(h * h).sum(-1).sqrt()",
        "tg.einsum('bii->b', C @ C.mT)", "tg.diagonal(C, 1, 2)",
        "h * (h.square().mean(-1, keepdim=True) + 1e-5).rsqrt()",
    ],
    "Shapes": [
        "h.reshape(h.shape[0], 2, 3)", "h.view(h.shape[0], -1, 2)", "C.reshape(C.shape[0], -1)", "C.flatten(1)",
        "C.mT", "C.transpose(1, 2)", "C.permute(0, 2, 1)", "h.permute(0, 1)", "h.unsqueeze(-1)",
        "h.unsqueeze(1).expand(-1, 4, -1)", "C.sum(-1, keepdim=True).squeeze(-1)", "h[:, None]", "C[..., None]",
        "h.expand(h.shape[0], 6)", "self.b.expand(h.shape[0], 6) + h", "tg.transpose(C, -1, -2)",
        "C.mT.reshape(C.shape[0], 6)", "h.reshape(h.shape[0], 3, 2).mT",
    ],
    "Indices": [
        "h[:, 0]", "h[:, -1:]", "h[:, 1:4]", "h[..., 2:5]", "h[:, ::2]", "h[:, 1::2]", "C[:, 0]", "C[:, :, 1]",
        "C[:, 1, ::2]", "C[..., -1]", "h[:, [2, 0, 1]]", "C[:, :, [2, 0]]", "h[:, self.order]", "tg.flip(h, (-1,))",
        "C.flip(2)", "tg.roll(h, 1, -1)", "h.narrow(-1, 1, 3)", "tg.chunk(h, 3, -1)[1]", "h.split([2, 4], -1)[1]",
        "tg.unbind(C, 1)[0]", "sum(tg.unbind(h, -1))", "h.reshape(h.shape[0], 3, 2)[:, 1:, 0]",
        "tg.index_select(h, -1, self.order)", "h * h[:, :1]", "h[:, self.mask]", "C[:, :, [True, False, True]]",
    ],
    "Joining": [
        "tg.cat([h, x], -1)", "tg.stack([h, -h], 1)", "tg.stack([h[:, 0], h[:, 1]], -1)", "tg.cat([C, C * C], 1)",
        "tg.cat([C, C * C], 2)", "tg.pad(h, (1, 2))", "tg.pad(C, (0, 1, 1, 0), value=0.5)",
        "tg.cat([h, tg.zeros(h.shape[0], 2, dtype=h.dtype)], -1)",
    ],
    "Products": [
        "tg.einsum('bi,io->bo', h, self.U)", "tg.einsum('bi,bi->b', h, h)", "tg.einsum('bij,bj->bi', C, x)",
        "tg.einsum('bi,bj->bij', h, x)", "tg.bmm(C, C.mT)", "C @ x.unsqueeze(-1)", "C @ C.mT",
        "x.unsqueeze(1) @ C.mT", "C @ self.V", "self.M.T @ C", "(h * h).sum(-1, keepdim=True)", "h @ self.b",
        "h.unsqueeze(-1) * x.unsqueeze(-2)", "tg.outer(self.b, self.b).sum() * h", "tg.linear(h, self.U, self.b)",
        "(tg.softmax((m * h.unsqueeze(1)).sum(-1), -1).unsqueeze(-1) * m).sum(1)", "m @ self.U",
        "tg.einsum('bse,be->bs', m, h)", "tg.einsum('bnd,nde->bne', h.reshape(h.shape[0], 2, 3), self.H)",
    ],
    "Windows": [
        "tg.conv1d(C.mT, self.H, padding=1)", "tg.conv1d(C, self.H[:, :1], padding='causal', groups=2)",
        "tg.conv1d(h.reshape(h.shape[0], 3, 2), self.H, self.M[:, 0], stride=2, padding=2)",
        "tg.conv1d(m, self.H[:, :2], dilation=2, groups=2)", "tg.max_pool1d(C, 2)", "tg.max_pool1d(m, 3, 2, padding=1)",
        "tg.avg_pool1d(C, 2, 1, padding=1)", "tg.adaptive_avg_pool1d(h.unsqueeze(1), 4)",
    ],
    "Noise": [
        "h * tg.rand(h.shape, dtype=h.dtype)", "C + tg.randn(C.shape, dtype=h.dtype)", "tg.dropout(h, 0.5, True)",
        "h + tg.rand_like(h)", "tg.gaussian_noise(h, 0.1, True)",
        "h * (tg.rand(h.shape[0], 1, dtype=h.dtype) > 0.5).to(h.dtype)", "C * tg.randn_like(C)",
        "tg.softmax(h - tg.log(-tg.log(tg.rand(h.shape, dtype=h.dtype))), -1)",
    ],
    "Made in the step": [
        "tg.zeros_like(h) + h", "tg.ones(h.shape, dtype=h.dtype) - h",
        "tg.full((h.shape[0], 6), 0.3, dtype=h.dtype) * h", "h * tg.arange(6).to(h.dtype)",
        "h @ tg.eye(6, dtype=h.dtype)", "h @ tg.tril(self.U)", "self.U.T[:3].sum(0) * h",
    ],
    "Python around it": [
        "h if self.training else -h", "sum(h * g for g in (0.1, 0.2))", "[h * i for i in range(3)][-1]",
        "max((h, x), key=lambda v: v.shape[1])", "h.reshape(*h.shape)", "h * (2 if h.shape[1] > 3 else 1)",
    ],
}  # fmt: skip

REWRITTEN = {  # what papers and PyTorch do by numbers, and what a step does instead
    "`if done.all(): break`: rows that have halted keep their value": (
        "tg.where(h > 0, h, h * 0.5 + x.sum(-1, keepdim=True))"
    ),
    "`h.topk(2)`: rank 0 is the largest, of equals the first": (
        "tg.where(((h[:, None] > h[:, :, None]) | (h[:, None] == h[:, :, None]) & (tg.tril(tg.ones(6, 6), -1) > 0))"
        ".to(h.dtype).sum(-1) < 2, h, 0)"
    ),
    "`m[rows, index]`: a row by an index that is computed": (
        "((tg.arange(4) == tg.floor(4 * tg.sigmoid(h[:, :1]))).to(h.dtype).unsqueeze(-1) * m).sum(1)"
    ),
    "`multinomial(p)`: an index": (
        "(tg.cumsum(tg.softmax(h, -1)[:, :-1], -1) < tg.rand(h.shape[0], 1, dtype=h.dtype)).to(h.dtype).sum(-1)"
    ),
    "`torch.complex`: two real parts, `(a + bi) (c + di)`": "tg.stack([h[:, 0] * h[:, 2] - h[:, 1] * h[:, 3], "
    "h[:, 0] * h[:, 3] + h[:, 1] * h[:, 2]], 1)",
    "`buffer[t % n] = x`: the last n inputs": "tg.cat([C[:, 1:], x.unsqueeze(1)], 1)",
    "`round` with a gradient": "tg.straight_through(tg.floor(h + 0.5), h)",
    "`group_norm(h, 2)`": "tg.layer_norm(h.reshape(h.shape[0], 2, -1), (3,)).reshape(h.shape)",
}  # fmt: skip

REFUSED = {  # -> what the message says
    "h if h.shape[0] > 1 else -h": "size of the batch",
    "h * h.sum(-1).max().item()": "rows of the batch meet",
    "float(h[:, 0].sum()) * h": "rows of the batch meet",
    "h - h.mean(0)": "dim=-1",
    "h[0] + h": "h[:, first:last]",
    "h @ (h.T @ h)": "rows of the batch meet",
    "h / h.shape[0]": "size of the batch",
    "tg.argmax(h, -1).to(h.dtype)": "h == tg.amax(h, -1, keepdim=True)",
    "tg.gather(h, 1, tg.argmax(h, -1, keepdim=True))": "write",
    "h.max(-1).values": "tg.amax(h, -1)",
    "h.topk(2, -1)": "write",
    "h.sort(-1)": "write",
    "h.numpy().sum() * h": "looks at the numbers",
    "h.long().to(h.dtype)": "tg.sign(h) * tg.floor(tg.abs(h))",
    "h * np.random.rand(6)": "tg.rand(h.shape)",
    "tg.tensor(h.tolist())": "looks at the numbers",
}
