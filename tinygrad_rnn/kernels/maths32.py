"""The scalar rules of `maths` in float32.

The coefficients were found in 50-digit arithmetic and rounded: polynomials by Remez exchange, the ratio in `tail` by
reweighted least squares. Beside each stands its greatest error, relative to the function that it serves, in units of
2^-23. The two parts of log 2 are those of Cephes (Moshier, 1989).
"""

import numpy as np

from .maths import Numbers, build_rules

_NUMBERS = Numbers(
    log2=(0.693359375, -2.12194440e-4),
    exp_q=(1.96484179e-04, 1.41065288e-03, 8.33589584e-03, 4.16611582e-02, 1.66666165e-01, 5.00000358e-01),  # 0.12
    exp_range=(-104.5, 89.0), expm1_low=-18.0,
    gate_q=(1.38380029e-03, 8.36916547e-03, 4.16681021e-02, 1.66665167e-01, 4.99999940e-01),  # 0.03
    gate_range=(-110.0, 18.0), shift=36, tanh_near=0.55,
    tanh_r=(1.64378788e-02, -5.26720099e-02, 1.33207291e-01, -3.33329469e-01),  # 0.31
    tanh_p=(1.33000031e-01, 3.35122645e-01, 6.66684628e-01, 9.99984622e-01, 1.0, 0.5),  # 0.89
    tanh_high=9.1,
    log_r=(2.98710674e-01, 3.99775773e-01, 6.66667759e-01),  # 0.01
    softplus_high=16.0, erf_near=0.75,
    erf_s=(-6.73928531e-04, 5.11323707e-03, -2.68343352e-02, 1.12833790e-01, -3.76126200e-01, 1.28379166e-01),  # 0.02
    erf_m=(-6.65976554e-02, 7.05294088e-02, 1.38588071e-01, -4.15092826e-01, 4.15107846e-01, -1.04920566e-03),  # 0.01
    erf_high=4.0, phi_near=0.75,
    phi_s=(9.73197093e-05, -1.17430103e-03, 9.96947382e-03, -6.64898604e-02, 3.98942262e-01),  # 0.02
    phi_high=14.6,
    tail_a=(1.42875984e-02, 1.16065882e-01, 4.29217011e-01, 7.97870874e-01),  # 0.10
    tail_b=(1.42928194e-02, 1.15850337e-01, 4.61536020e-01, 9.93257403e-01, 1.0),  # 0.10
    gelu_tanh_high=11.0,
)  # fmt: skip
globals().update(build_rules(np.float32, np.int32, _NUMBERS))
