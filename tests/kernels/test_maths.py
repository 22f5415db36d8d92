"""The scalar rules of `maths32` and `maths64`: ulp by ulp, at their limits, in order, and as vector code.

The reference for float32 is float64 (NumPy's and libm's functions), that for float64 is the 80- or 128-bit long double,
and for both a table of exact values; mpmath checks the references where it is installed. An error is counted in steps
of the type from the correctly rounded value.
"""

import functools
import math
import platform
import re

import numpy as np
import pytest
from numba import config

from tinygrad_rnn.kernels import maths32, maths64, vector
from tinygrad_rnn.kernels.outline import kernel, row_function

INTERPRETED = bool(config.DISABLE_JIT)
compiled = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
extended = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no wider than float64")

both = pytest.mark.parametrize("maths", [maths32, maths64], ids=["float32", "float64"])

# name -> the greatest error allowed
ULP = {
    "exp": 2, "expm1": 2, "log": 1, "log1p": 2, "tanh": 2, "sigmoid": 3, "log_sigmoid": 3, "softplus": 3, "silu": 3,
    "erf": 2, "phi": 4, "gelu": 4, "gelu_tanh": 3, "rsqrt": 2,
}  # fmt: skip
MONOTONE = "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "log_sigmoid", "softplus", "erf"

each = pytest.mark.parametrize("name", ULP)


# ---- Tools -----------------------------------------------------------------------------------------------------------


@functools.cache
def loop(maths, name):
    """y[k] = name(x[k])."""
    rule = getattr(maths, name)

    @row_function()
    def each(count, x, y):
        for k in range(count):
            y[k] = rule(x[k])

    @kernel()
    def run(x, y):
        each(len(x), x, y)

    return run


def apply(maths, name, x):
    y = np.empty_like(x)
    with np.errstate(all="ignore"):
        loop(maths, name)(x, y)
    return y


def thinned(x, interpreted=1000):
    """All of x, or a part of it that plain Python gets through."""
    return x[:: max(1, x.size // interpreted)].copy() if INTERPRETED else x


def as_integers(x):
    """Neighbouring floats become neighbouring integers; both zeros are 0."""
    bits = x.view(np.int32 if x.dtype == np.float32 else np.int64).astype(np.int64)
    magnitude = bits & np.iinfo(np.int32 if x.dtype == np.float32 else np.int64).max
    return np.where(np.signbit(x), -magnitude, magnitude)


def neighbours(f, centres, count):
    """`count` successive floats around every centre, a row each."""
    integer = np.int32 if f is np.float32 else np.int64
    steps = as_integers(np.asarray(centres, f))[:, None] + np.arange(-(count // 2), count - count // 2)
    infinity = as_integers(np.array([np.inf], f))[0]
    steps = np.clip(steps, -infinity, infinity)
    return np.where(steps < 0, -np.abs(steps).astype(integer).view(f), np.abs(steps).astype(integer).view(f))


def steps_off(found, exact):
    """How many floats lie between the results and the exact values rounded to their type; NaN only where NaN is due."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(found.dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rounded))
    return np.abs(as_integers(found) - as_integers(rounded)) * ~np.isnan(rounded)


def check(maths, name, x, exact):
    with np.errstate(all="ignore"):
        wanted = exact(name, x.astype(np.float64 if x.dtype == np.float32 else np.longdouble))
    off = steps_off(apply(maths, name, x), wanted)
    worst = int(off.argmax())
    assert off[worst] <= ULP[name], f"{name}({x[worst]!r}) is {off[worst]} ulp off"


# ---- References ------------------------------------------------------------------------------------------------------

PI = np.longdouble("3.14159265358979323846264338327950288")


def upper_tail(t):
    """1 - phi(t) for t >= 0 in long double: the power series, then Laplace's continued fraction."""
    t = np.minimum(t, 100)
    t_hi = t.astype(np.float32).astype(np.longdouble)  # its square is exact
    density = np.exp(-t_hi * t_hi / 2) * np.exp(-(t - t_hi) * (t + t_hi) / 2) / np.sqrt(2 * PI)
    near = np.minimum(t, 2.25)
    term, series = near, near
    for k in range(1, 45):
        term = term * near * near / (2 * k + 1)
        series = series + term
    fraction = np.maximum(t, 2.25)
    for k in range(150, 0, -1):
        fraction = np.maximum(t, 2.25) + k / fraction
    return np.where(t < 2.25, 0.5 - density * series, density / fraction)


def wide_phi(x):
    if x.dtype == np.float64:
        return np.array([0.5 * math.erfc(-k * math.sqrt(0.5)) for k in x.tolist()])
    tail = upper_tail(np.abs(x))
    return np.where(x > 0, 1 - tail, tail)


def wide_erf(x):
    if x.dtype == np.float64:
        return np.array([math.erf(k) for k in x.tolist()])
    u = np.abs(x)
    near = np.minimum(u, 1)
    term, series = near, near
    for k in range(1, 30):
        term = term * 2 * near * near / (2 * k + 1)
        series = series + term
    near = 2 / np.sqrt(PI) * np.exp(-near * near) * series
    return np.copysign(np.where(u < 1, near, 1 - 2 * upper_tail(np.sqrt(2 * u * u))), x)


def wide_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1, e) / (1 + e)


def wide_softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def times(x, factor):
    """x factor(x) where the factor vanishes faster than x grows."""
    return np.where(x < -1e3, -0.0, x * factor(np.maximum(x, -1e3)))


WIDE = {
    "sigmoid": wide_sigmoid,
    "log_sigmoid": lambda x: -wide_softplus(-x),
    "softplus": wide_softplus,
    "silu": lambda x: times(x, wide_sigmoid),
    "erf": wide_erf,
    "phi": wide_phi,
    "gelu": lambda x: times(x, wide_phi),
    "gelu_tanh": lambda x: times(x, lambda x: wide_sigmoid(np.sqrt(8 / PI).astype(x.dtype) * (x + x**3 * 44715 / 1e6))),
    "rsqrt": lambda x: 1 / np.sqrt(x),
}


def wide(name, x):
    """The function in x's own type, which is wider than the one that is tested."""
    return WIDE[name](x) if name in WIDE else getattr(np, name)(x)


# Computed with mpmath in 60 digits; the arguments are exact in float32.
EXACT = {
    "exp": {
        -100.0: "3.72007597602083596296e-44", -0.375: "0.6872892787909721985452",
        10.5: "36315.50267424663773891", 88.5: "2.723087825068111612106e+38",
    },
    "expm1": {
        -12.25: "-0.9999952148826078709909", -9.5367431640625e-07: "-9.536738616590436737911e-7",
        0.3125: "0.3668379411737963628388", 44.75: "27206837655598107288.98",
    },
    "log": {
        7.174648137343064e-43: "-97.04060527839234331841", 0.7265625: "-0.3194307707663612285962",
        1.5: "0.405465108108164381978", 300000.0: "12.61153775363833811149",
    },
    "log1p": {
        -0.9990234375: "-6.931471805599453094172", -9.5367431640625e-07: "-9.536747711538900072502e-7",
        0.4375: "0.3629054936893684531378", 1000000.0: "13.81551155796377410444",
    },
    "tanh": {
        -7.5: "-0.9999993881955461487505", -0.5625: "-0.5098299737352565824893",
        0.0009765625: "0.0009765621895592602185841", 0.546875: "0.4981744262294550555184",
    },
    "sigmoid": {
        -101.5: "8.300611482938555324885e-45", -16.75: "5.315784971848707855034e-8",
        -0.4375: "0.392336830167108375462", 6.5: "0.9984988177432630084661",
    },
    "log_sigmoid": {
        -50.5: "-50.5", -0.25: "-0.8259394198788435622078",
        2.0625: "-0.1196796651898771793548", 90.25: "-6.381503448060790393554e-40",
    },
    "softplus": {
        -101.5: "8.300611482938555324885e-45", -2.03125: "0.1232537809674686067784",
        0.5: "0.974076984180106680873", 13.5: "13.50000137095814662054",
    },
    "silu": {
        -104.5: "-4.318599514089645893718e-44", -16.75: "-8.903939827846585657181e-7",
        0.5: "0.3112296656009272823195", 33.25: "33.24999999999987935756",
    },
    "erf": {
        -3.25: "-0.9999956972205363248782", -0.96875: "-0.8293191505933151273904",
        9.313225746154785e-10: "1.050884991041862008693e-9", 0.71875: "0.6905924687003268002579",
    },
    "phi": {
        -13.5: "7.818807305657891215706e-42", -5.65625: "7.735803169490263800552e-9",
        -0.78125: "0.217327735678085632689", 2.125: "0.9832066935515511874101",
    },
    "gelu": {
        -13.75: "-3.501404934464190880971e-42", -7.59375: "-1.179984168923271799776e-13",
        -1.328125: "-0.1222783542409449744723", 0.6875: "0.5184548528635702504929",
    },
    "gelu_tanh": {
        -9.5625: "-1.80463966585930759339e-33", -4.25: "-0.0000201420358449401489145",
        -0.046875: "-0.02256124033556944001028", 2.75: "2.742276855926382031479",
    },
    "rsqrt": {
        7.174648137343064e-43: "1180591620717411303424.0", 0.75: "1.154700538379251529018",
        3.0: "0.5773502691896257645091", 1.0000000150474662e+30: "9.999999924762669749715e-16",
    },
}


@both
@each
def test_agrees_with_exact_values(maths, name):
    x = np.array(list(EXACT[name]), maths.f)
    exact = np.array([maths.f(text) for text in EXACT[name].values()])
    assert steps_off(apply(maths, name, x), exact).max() <= ULP[name]


@each
def test_references_agree_with_mpmath(name):
    mp = pytest.importorskip("mpmath")
    functions = {
        "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
        "log_sigmoid": lambda x: -mp.log1p(mp.exp(-x)),
        "softplus": lambda x: mp.log1p(mp.exp(x)),
        "silu": lambda x: x / (1 + mp.exp(-x)),
        "phi": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
        "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
        "gelu_tanh": lambda x: x / (1 + mp.exp(-mp.sqrt(8 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
        "rsqrt": lambda x: 1 / mp.sqrt(x),
    }
    function = functions.get(name) or getattr(mp, name)
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(-37, 37, 60), rng.uniform(-3, 3, 60), rng.normal(size=20) * 1e-3])
    if name in ("log", "log1p", "rsqrt"):
        x = np.abs(x)
    with mp.workdps(60):
        exact = [function(mp.mpf(k)) for k in x.tolist()]
        for f, greatest, tolerance in (np.float64, 15, 2.0**-44), (np.longdouble, 22, 2.0**-53):
            for k, e in zip(x, exact):
                if abs(k) < greatest and (f is np.float64 or np.finfo(f).nmant >= 63):
                    (y,) = wide(name, np.array([k], f))
                    y = mp.mpf(float(y)) + mp.mpf(float(y - f(float(y))))  # mpmath takes no long doubles
                    assert abs(y / e - 1) < tolerance, f"{name}({k!r}) in {f.__name__}"


# ---- Accuracy --------------------------------------------------------------------------------------------------------

# Where a rule changes its formula, its power of two or its regime.
SEAMS = [
    0.0, 0.25, 0.35, 0.5, 0.55, 0.75, 1.0, 1.5, 2.0, 4.0, 6.0, 9.1, 10.3, 11.0, 14.2, 14.6, 16.0, 16.6, 17.3, 18.0,
    19.5, 22.0, 25.0, 36.0, 37.4, 38.0, 38.5, 38.7, 87.3, 88.0, 88.7, 89.0, 103.3, 103.97, 104.5, 110.0,
    708.4, 709.78, 710.0, 744.4, 745.13, 746.0, 755.0, 0.5**0.5, 1.5**0.5, 2**0.5, 1 - 0.5**0.5, 2**0.5 - 1,
    *(k * math.log(2) / 2 for k in range(1, 20)), *(k * math.log(2) / 2 for k in range(21, 2170, 37)),
]  # fmt: skip
SEAMS = np.array([*SEAMS, *(-k for k in SEAMS)])


@each
def test_float32_over_the_whole_range(name):
    patterns = thinned(np.arange(0, 1 << 32, 1999), 2000)
    check(maths32, name, patterns.astype(np.uint32).view(np.float32), wide)


@pytest.mark.parametrize("apart", [421, pytest.param(61, marks=pytest.mark.slow)])
@each
def test_float32_where_it_matters(name, apart):
    """Some of the numbers that are neither tiny nor beyond every limit, and the neighbours of every seam."""
    lo, hi = np.array([2.0**-12, 128], np.float32).view(np.int32)
    x = np.arange(lo, hi, apart, dtype=np.int32).view(np.float32)
    check(maths32, name, thinned(np.concatenate([x, -x]), 2000), wide)
    check(maths32, name, thinned(neighbours(np.float32, SEAMS, 200).ravel(), 2000), wide)


@extended
@each
def test_float64(name):
    rng = np.random.default_rng(0)
    n = 4000
    parts = [rng.normal(size=n) * scale for scale in (1e-3, 0.1, 1, 5, 200)]
    parts += [rng.uniform(-40, -1, n), rng.uniform(-755, -690, n), 1 + rng.uniform(-1, 1, n), rng.uniform(-2, 2, n)]
    parts += [rng.integers(0, 1 << 64, n, dtype=np.uint64).view(np.float64), neighbours(np.float64, SEAMS, 16).ravel()]
    check(maths64, name, thinned(np.concatenate(parts), 2000), wide)


@both
@each
def test_denormal_arguments(maths, name):
    tiny, step = np.finfo(maths.f).tiny, np.finfo(maths.f).smallest_subnormal
    x = tiny * np.random.default_rng(0).uniform(-1, 1, 500).astype(maths.f)
    x = np.concatenate([x, np.array([step, -step, 2 * step, tiny - step, tiny, -tiny], maths.f)])
    check(maths, name, thinned(x), wide)


@both
@pytest.mark.parametrize("name", ["exp", "sigmoid", "softplus", "silu", "phi", "gelu"])
def test_underflow_is_gradual(maths, name):
    """Results pass through the denormal numbers, a few ulp from the exact ones, and reach zero no sooner."""
    step, tiny = np.finfo(maths.f).smallest_subnormal, np.finfo(maths.f).tiny
    logs = -np.log(2) * np.linspace(-np.finfo(maths.f).minexp, 10 - np.log2(np.longdouble(step)), 500)
    x = logs if name in ("exp", "sigmoid", "softplus", "silu") else -np.sqrt(-2 * logs)
    y = np.abs(apply(maths, name, x.astype(maths.f)))
    assert np.unique(y[(y > 0) & (y < tiny)]).size > 150
    assert y[y > 0].min() < 10 * step


# ---- Limits ----------------------------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan
LIMITS = {  # argument: result; text, because to a dict both zeros are one key
    "exp": "0: 1, -0: 1, inf: inf, -inf: 0, 1e30: inf, -1e30: 0",
    "expm1": "0: 0, -0: -0, inf: inf, -inf: -1, 1e30: inf, -1e30: -1",
    "log": "1: 0, 0: -inf, -0: -inf, inf: inf, -inf: nan, -1: nan, -1e-40: nan",
    "log1p": "0: 0, -0: -0, -1: -inf, inf: inf, -inf: nan, -2: nan",
    "tanh": "0: 0, -0: -0, inf: 1, -inf: -1, 1e30: 1, -25: -1",
    "sigmoid": "0: 0.5, -0: 0.5, inf: 1, -inf: 0, 50: 1, -1e30: 0",
    "log_sigmoid": "inf: -0, -inf: -inf, -1e30: -1e30",
    "softplus": "inf: inf, -inf: 0, 1e30: 1e30, -1e30: 0",
    "silu": "0: 0, -0: -0, inf: inf, -inf: -0, 1e30: 1e30, -1e30: -0",
    "erf": "0: 0, -0: -0, inf: 1, -inf: -1, 1e30: 1, -7: -1",
    "phi": "0: 0.5, -0: 0.5, inf: 1, -inf: 0, 10: 1, -1e30: 0",
    "gelu": "0: 0, -0: -0, inf: inf, -inf: -0, 1e30: 1e30, -1e30: -0",
    "gelu_tanh": "0: 0, -0: -0, inf: inf, -inf: -0, 1e30: 1e30, -1e30: -0",
    "rsqrt": "1: 1, 0: inf, -0: -inf, inf: 0, -1: nan",
    "sqrt": "1: 1, 0: 0, -0: -0, inf: inf, -1: nan",
    "reciprocal": "1: 1, 0: inf, -0: -inf, inf: 0, -inf: -0",
    "abs": "0: 0, -0: 0, -2: 2, inf: inf, -inf: inf",
    "sign": "0: 0, -0: -0, -2: -1, 1e-40: 1, inf: 1, -inf: -1",
    "floor": "0: 0, -0: -0, -0.5: -1, 2.5: 2, inf: inf, -inf: -inf",
}


@both
@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_exact(maths, name):
    pairs = [pair.split(": ") for pair in LIMITS[name].split(", ")] + [["nan", "nan"]]
    x, expected = np.array(pairs, float).astype(maths.f).T.copy()
    found = apply(maths, name, x)
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))


@both
@each
def test_every_nan_stays_nan(maths, name):
    integer = np.int32 if maths.f is np.float32 else np.int64
    first = int(np.array(INF, maths.f).view(integer)) + 1
    payloads = np.array([first, first + 12345, np.iinfo(integer).max, -1, np.iinfo(integer).min + first], integer)
    x = payloads.view(maths.f)
    assert np.isnan(x).all() and np.isnan(apply(maths, name, x)).all()


@both
@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions_are_odd(maths, name):
    x = thinned(np.random.default_rng(1).normal(size=20000) * 2).astype(maths.f)
    np.testing.assert_array_equal(apply(maths, name, -x), -apply(maths, name, x))


# ---- Order -----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("name", MONOTONE)
def test_never_falls_from_one_float_to_the_next(maths, name):
    rng = np.random.default_rng(3)
    centres = [SEAMS, rng.normal(size=150) * 3, rng.uniform(-1.2, 1.2, 150), np.exp(rng.uniform(-60, 4, 50))]
    x = neighbours(maths.f, np.concatenate(centres), 20 if INTERPRETED else 3000)
    if INTERPRETED:
        x = x[::8]
    if name in ("log", "log1p"):
        x = x[(x > (0 if name == "log" else -1)).all(1)]
    y = apply(maths, name, x.ravel()).reshape(x.shape)
    with np.errstate(invalid="ignore"):  # inf - inf
        falls = np.argwhere(np.diff(y) < 0)
    assert not len(falls), f"{name} falls after {x[tuple(falls[0])]!r}"


@both
@pytest.mark.parametrize("name", MONOTONE)
def test_never_falls_over_its_range(maths, name):
    x = np.unique(np.concatenate([SEAMS, np.linspace(-120, 120, 20001), np.linspace(-760, 760, 20001)])).astype(maths.f)
    if name in ("log", "log1p"):
        x = x[x > (0 if name == "log" else -1)]
    y = apply(maths, name, thinned(x))
    assert (y[1:] >= y[:-1]).all()


# ---- The plain ones --------------------------------------------------------------------------------------------------

PAIRS = [(1.0, 2.0), (2.0, 1.0), (-INF, INF), (NAN, 1.0), (1.0, NAN), (NAN, NAN), (-3.0, -3.0), (0.5, -2.0)]


@both
@pytest.mark.parametrize("name", ["maximum", "minimum", "pow"])
def test_functions_of_two_numbers(maths, name):
    rule = getattr(maths, name)

    @kernel()
    def run(x, y, z):
        for k in range(len(x)):
            z[k] = rule(x[k], y[k])

    x, y = np.array(PAIRS, maths.f).T.copy()
    z = np.empty_like(x)
    with np.errstate(all="ignore"):
        run(x, y, z)
        expected = {"maximum": np.maximum, "minimum": np.minimum, "pow": np.power}[name](x, y)
    np.testing.assert_allclose(z, expected, rtol=2 * np.finfo(maths.f).eps)


@both
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_functions_of_libm(maths, name):
    x = np.array([0.0, 1.0, -2.5, 100.0, 1e4], maths.f)
    np.testing.assert_allclose(apply(maths, name, x), getattr(np, name)(x), rtol=0, atol=2 * np.finfo(maths.f).eps)


@both
def test_where_and_isnan(maths):
    where, isnan, f = maths.where, maths.isnan, maths.f

    @kernel()
    def run(x, y):
        for k in range(len(x)):
            y[k] = where(isnan(x[k]), f(-1), x[k])

    x = np.array([1.0, NAN, INF], f)
    y = np.empty_like(x)
    run(x, y)
    np.testing.assert_array_equal(y, [1, -1, INF])


# ---- Types and machine code ------------------------------------------------------------------------------------------

UNARY = [*ULP, "square", "sqrt", "reciprocal", "abs", "sign", "floor", "sin", "cos"]


@both
@pytest.mark.parametrize("name", UNARY)
def test_results_have_the_type_of_the_rules(maths, name):
    rule, f = getattr(maths, name), maths.f
    assert type(rule(f(0.5))) is f

    @kernel()
    def call(x, y):
        found = f(0)
        found = rule(x[0])  # which no name takes that had a number of another type
        y[0] = found

    call(np.full(1, 0.5, f), y := np.zeros(1, f))
    assert y[0] == pytest.approx(rule(f(0.5)), rel=1e-6)


@both
def test_both_modules_export_the_same(maths):
    public = {name for name in vars(maths32) if not name.startswith("_")}
    assert public == {name for name in vars(maths64) if not name.startswith("_")}
    assert public >= {*UNARY, "f", "maximum", "minimum", "where", "isnan", "pow"}


PACKED = {
    "x86_64": r"\tv?(?:mul|add|sub|div|sqrt|fn?m(?:add|sub)\d+)p[sd]\b",
    "aarch64": r"\tf\w+\s+v\d+\.[248][sd]",
}
PACKED["AMD64"], PACKED["arm64"] = PACKED["x86_64"], PACKED["aarch64"]


@compiled
@both
@pytest.mark.parametrize("name", [*ULP, "square", "sqrt", "reciprocal", "abs", "sign"])
def test_a_loop_becomes_vector_code(maths, name):
    """Vectors in LLVM's final form and in the instructions, and no call that a lane would have to wait for."""
    if platform.machine() in ("x86_64", "AMD64") and name in ("sqrt", "sign") and vector.HOST.bytes < 32:
        pytest.skip("of these LLVM thinks that SSE gains nothing")
    apply(maths, name, np.ones(1, maths.f))
    run = loop(maths, name)
    (llvm,), (assembly,) = run.inspect_llvm().values(), run.inspect_asm().values()
    kind = {"float32": "float", "float64": "double"}[np.dtype(maths.f).name]
    assert re.search(rf"<\d+ x {kind}>", llvm)
    body = re.search(r"\n(_ZN\w*3run\w*):\n(.*?)\n\.?Lfunc_end", assembly, re.S)
    text = body[2] if body else assembly
    if platform.machine() in PACKED and name not in ("abs", "sign"):
        assert re.search(PACKED[platform.machine()], text)
    if body:
        assert not re.findall(r"\n\t(?:callq?|bl)\s+(\S+)", text)


@compiled
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is x86's")
def test_vectors_are_as_wide_as_the_machine_allows():
    width = {64: "zmm", 32: "ymm", 16: "xmm"}[vector.HOST.bytes]
    apply(maths32, "tanh", np.ones(1, np.float32))
    (assembly,) = loop(maths32, "tanh").inspect_asm().values()
    assert re.search(rf"(?:fmadd|mul)\w*ps\b.*%?{width}", assembly)
