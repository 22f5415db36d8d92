"""The equations of long expressive memory, as its authors' code has them."""

import numpy as np
from nn.cases import case, sigmoid

from tinygrad_rnn.nn import cells


def lem(dt):
    def step(p, x, y, z):
        """Unit by unit: first all of z', which every y' then reads."""
        W, U, b = (dict(zip("rszy", np.split(p[name], 4))) for name in ("weight_ih", "weight_hh", "bias"))
        a = lambda k, j, seen: x @ W[k][j] + seen @ U[k][j] + b[k][j]
        new_y, new_z = np.zeros_like(y), np.zeros_like(z)
        for j in range(z.shape[1]):
            dt_z = dt * sigmoid(a("r", j, y))
            new_z[:, j] = (1 - dt_z) * z[:, j] + dt_z * np.tanh(a("z", j, y))
        for j in range(y.shape[1]):
            dt_y = dt * sigmoid(a("s", j, y))
            new_y[:, j] = (1 - dt_y) * y[:, j] + dt_y * np.tanh(a("y", j, new_z))
        return new_y, new_z

    return step


case("LEM", cells.LEMCell)(lem(1.0))
case("LEM, dt 0.1", lambda I, H, **o: cells.LEMCell(I, H, dt=0.1, **o))(lem(0.1))
