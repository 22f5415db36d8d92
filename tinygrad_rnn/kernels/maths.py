"""Scalar maths that LLVM can vectorise: one set of rules, built once in float32 and once in float64.

A call to libm keeps a loop scalar, at about 10 ns an element. The rules below are plain arithmetic, selects and bit
patterns, without branches, tables or calls, so a loop over them becomes vector code of any width. `build_rules` makes
them for one float type from a table of `Numbers`; `maths32` and `maths64` hold the tables and export the same names.

Every rule promises: within 4 ulp of the exact value everywhere, gradual underflow included; exact at limits and at
zeros, with their sign; NaN in, NaN out. And where a function never decreases, neither does the rule, from one float to
the next (exp, expm1, log, log1p, tanh, sigmoid, softplus, erf). That shapes the code. Rounding preserves order, so a
chain of operations that are each monotone is safe; and so is `exact + small`, because the noise of the small term is
less than one step of the exact one. Hence e^r = 1 + (r + r^2 q(r)), and 1 - 2 / (e^2x + 1) instead of a ratio of two
polynomials, whose noise shows wherever the curve is flat.

What the rules must be told about a float type are `Numbers`. Names that end in a letter are polynomials, by their
coefficients, highest power first; the others are ranges, and say where a result stops changing or leaves the type:

    log2                log 2 in two parts; the first ends in zeros, so that a whole number times it is exact
    exp_q, exp_range, expm1_low     q = (e^r - 1 - r) / r^2 for |r| <= log 2
    gate_q, gate_range  the same for |r| <= log(2) / 2
    shift               2^shift times e^gate_range is a normal number
    tanh_near           up to here x + x^3 r(x^2), beyond by e^2x, until tanh_high; p = e^2r / 2 for |r| <= log(2) / 4
    log_r               log((1 + s) / (1 - s)) = 2 s + s z r(z), z = s^2, for 1 + s over 1 - s in [sqrt(1/2), sqrt(2)]
    softplus_high
    erf_near            up to here x + x s(x^2), then 27/32 + m(x - 1) up to 1, beyond by `tail`, until erf_high
    phi_near            up to here 1/2 + x s(x^2), beyond by `tail`, until phi_high
    tail_a, tail_b      see `tail`
    gelu_tanh_high

The one fastmath flag is `contract`: leave to reorder a sum would undo the two-step range reductions and lose the sign
of zero. All of this holds without a fused multiply-add, too (phi is then within 5 ulp), so the rules also run as plain
Python on NumPy scalars when NUMBA_DISABLE_JIT=1.
"""

import math
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
from llvmlite import ir

from .values import Rule, inlined, written

Numbers = SimpleNamespace  # see above


def reinterpreted(target: Any) -> Rule:
    """A number's bits, read as a number of type `target`."""
    kind = {np.float32: ir.FloatType(), np.float64: ir.DoubleType()}.get(target, ir.IntType(target().itemsize * 8))
    return written(lambda builder, x: builder.bitcast(x, kind))(lambda x: x.view(target))


def polynomial(f: Any, coefficients: tuple[float, ...]) -> Rule:
    """The polynomial with these coefficients, in float type `f`, by Horner's rule."""
    numbers = tuple(map(f, coefficients))
    leading, others = numbers[0], numbers[1:]

    def write(builder: Any, x: Any) -> Any:
        y, *terms = (x.type(float(c)) for c in numbers)
        for c in terms:
            y = builder.fadd(builder.fmul(y, x, flags=["contract"]), c, flags=["contract"])
        return y

    @written(write)
    def horner(x):
        y = leading
        for c in others:
            y = y * x + c
        return y

    return horner


# ------------------------------------------------------------------------------------------------------- the rules


def make_tools(f: Any, i: Any, numbers: Numbers) -> SimpleNamespace:
    """What rules of float type `f`, whose bits are read as integers of type `i`, are made of: all names below."""
    zero, half, one, two = map(f, (0, 0.5, 1, 2))
    mantissa, bias = np.finfo(f).nmant, np.finfo(f).maxexp - 1
    bits, from_bits = reinterpreted(i), reinterpreted(f)

    # Adding 1.5 * 2^mantissa rounds x to a whole number n and leaves that in the lowest bits. The bias of the exponent
    # is added as well, so that those bits, shifted to the exponent's place, are 2^n.
    magic = f(1.5 * 2.0**mantissa + bias)

    @inlined
    def power_of_two(magic_plus_n):
        return from_bits(bits(magic_plus_n) << mantissa)

    upper_half = i(-1 << (mantissa + 2) // 2)

    @inlined
    def upper(x):
        """x with the lower half of its mantissa cleared: the product of two such numbers is exact."""
        return from_bits(bits(x) & upper_half)

    scale, unscale, scaled_magic = f(2.0**numbers.shift), f(2.0**-numbers.shift), magic + f(numbers.shift)
    (log2_hi, log2_lo), inv_log2 = map(f, numbers.log2), f(1 / math.log(2))
    gate_q = polynomial(f, numbers.gate_q)
    return SimpleNamespace(**locals())


def exponentials(t: SimpleNamespace) -> tuple[Rule, ...]:
    """exp, expm1, tanh"""
    f, i, numbers, half, one, two, log2_hi, log2_lo = t.f, t.i, t.numbers, t.half, t.one, t.two, t.log2_hi, t.log2_lo
    bits, from_bits, magic, power_of_two = t.bits, t.from_bits, t.magic, t.power_of_two
    half_inv_log2, two_inv_log2 = (f(k / math.log(2)) for k in (0.5, 2))
    two_log2_hi, two_log2_lo, half_log2 = two * log2_hi, two * log2_lo, half * f(math.log(2))
    exp_q, (exp_low, exp_high) = polynomial(f, numbers.exp_q), map(f, numbers.exp_range)

    @inlined
    def split_exp(x):
        """c and m with e^x = c^2 (1 + m), c a power of two: as a square, because the exponents of e^x, denormal numbers
        included, are more than a float has."""
        shifted = x * half_inv_log2 + magic
        n = shifted - magic
        r = (x - n * two_log2_hi) - n * two_log2_lo
        return power_of_two(shifted), r + r * r * exp_q(r)

    @inlined
    def exp(x):
        x = exp_low if x < exp_low else x
        x = exp_high if x > exp_high else x
        c, m = split_exp(x)
        return (c + c * m) * c

    expm1_low, bits_of_one_squared = f(numbers.expm1_low), i(2 * t.bias << t.mantissa)

    @inlined
    def expm1(x):
        """e^x - 1"""
        y = expm1_low if x < expm1_low else x
        y = exp_high if y > exp_high else y
        c, m = split_exp(y)
        inverse = from_bits(bits_of_one_squared - bits(c))
        return np.copysign((c * m + (c - inverse)) * c, x)

    tanh_near, tanh_high = f(numbers.tanh_near), f(numbers.tanh_high)
    tanh_r, tanh_p = polynomial(f, numbers.tanh_r), polynomial(f, numbers.tanh_p)

    @inlined
    def tanh(x):
        u = abs(x)
        u = tanh_high if u > tanh_high else u
        z = u * u
        near = u + u * z * tanh_r(z)
        shifted = u * two_inv_log2 + magic
        r = u - (shifted - magic) * half_log2
        far = one - one / (power_of_two(shifted) * tanh_p(r) + half)
        return np.copysign(far if u >= tanh_near else near, x)

    return exp, expm1, tanh


def gates(t: SimpleNamespace) -> tuple[Rule, ...]:
    """sigmoid, silu, gelu_tanh"""
    f, i, numbers, zero, one, upper_half, upper = t.f, t.i, t.numbers, t.zero, t.one, t.upper_half, t.upper
    power_of_two, scale, scaled_magic, gate_q = t.power_of_two, t.scale, t.scaled_magic, t.gate_q
    log2_hi, log2_lo, inv_log2 = t.log2_hi, t.log2_lo, t.inv_log2
    gate_low, gate_high = map(f, numbers.gate_range)
    none = -zero  # a `lo` that LLVM leaves out: adding -0 changes no number, adding 0 would change -0

    @inlined
    def gate(a, x, lo):
        """a sigmoid(x + lo) = a c / (c + p) with e^-(x + lo) = p / c, c a power of two, both scaled so that c is a
        normal number down to the end of the negative tail, which is rounded once, after the product with a."""
        x = gate_low if x < gate_low else x
        x = gate_high if x > gate_high else x
        shifted = (x + lo) * inv_log2 + scaled_magic
        n = shifted - scaled_magic
        r = (n * log2_hi - x) - (lo - n * log2_lo)
        c = power_of_two(shifted)
        p = scale * (r + r * r * gate_q(r)) + scale
        positive = x > zero
        y = (c if positive else c * a) / (c + p)
        return y * a if positive else y

    @inlined
    def sigmoid(x):
        """1 / (1 + e^-x)"""
        return gate(one, x, none)

    @inlined
    def silu(x):
        """x sigmoid(x)"""
        return gate(gate_low if x < gate_low else x, x, none)

    gelu_tanh_high = f(numbers.gelu_tanh_high)
    alpha = Decimal("1.59576912160573071175978423973752748")  # 2 sqrt(2 / pi)
    beta = alpha * Decimal("0.044715")
    alpha_hi, beta_hi = f(alpha), (f(beta).view(i) & upper_half).view(f)
    alpha_lo, beta_lo = f(alpha - Decimal(float(alpha_hi))), f(beta - Decimal(float(beta_hi)))

    @inlined
    def gelu_tanh(x):
        """x (1 + tanh(v / 2)) / 2 = x sigmoid(v), v = x (alpha + beta x^2), with v in two parts: half an ulp of it
        would be hundreds of ulp of e^v."""
        y = -gelu_tanh_high if x < -gelu_tanh_high else x
        u = gelu_tanh_high if y > gelu_tanh_high else y
        u_hi = upper(u)
        u_lo = u - u_hi
        square, rest = u_hi * u_hi, u_lo * (u + u_hi)
        square_hi = upper(square)
        term = beta_hi * square_hi
        w = term + alpha_hi
        back = w - term
        w_lo = (term - (w - back)) + (alpha_hi - back)  # what the sum lost
        w_lo = w_lo + (beta_hi * ((square - square_hi) + rest) + beta_lo * (square + rest) + alpha_lo)
        w_hi = upper(w)
        return gate(y, u_hi * w_hi, u_hi * ((w - w_hi) + w_lo) + u_lo * (w + w_lo))

    return sigmoid, silu, gelu_tanh


def logarithms(t: SimpleNamespace, exp: Rule) -> tuple[Rule, ...]:
    """log, log1p, softplus, log_sigmoid"""
    f, i, numbers, zero, half, one, two = t.f, t.i, t.numbers, t.zero, t.half, t.one, t.two
    mantissa, bias, bits, from_bits, log2_hi, log2_lo = t.mantissa, t.bias, t.bits, t.from_bits, t.log2_hi, t.log2_lo
    tiny, inf, nan = np.finfo(f).tiny, f(math.inf), f(math.nan)
    log_r = polynomial(f, numbers.log_r)
    bits_of_sqrt_half = f(math.sqrt(0.5)).view(i)
    denormal_shift, denormal_scale = f(mantissa + 2), f(2.0 ** (mantissa + 2))
    log1p_shift = i(bias // 2)

    @inlined
    def normal_log(x, lo, shift):
        """log((x + lo) / 2^shift) for a normal x > 0. With x + lo = 2^k (1 + g), 1 + g in [sqrt(1/2), sqrt(2)], and
        s = g / (2 + g):  log(1 + g) = g - (g^2/2 - s (g^2/2 + s^2 r(s^2))), as in FreeBSD's e_log.c."""
        b = bits(x)
        k = i(i(b - bits_of_sqrt_half) >> mantissa)
        g = from_bits(b - i(k << mantissa)) - one
        k_lo = k if k < log1p_shift else log1p_shift  # 2^-k stays normal; lo is zero long before
        g = g + lo * from_bits(i(bias - k_lo) << mantissa)
        n = f(k) - shift
        h = half * g * g
        s = g / (two + g)
        z = s * s
        return n * log2_hi - ((h - (s * (h + z * log_r(z)) + n * log2_lo)) - g)

    @inlined
    def log(x):
        denormal = x < tiny
        y = normal_log(x * denormal_scale if denormal else x, zero, denormal_shift if denormal else zero)
        y = y if x > zero else (-inf if x == zero else nan)
        return y if x < inf else x

    @inlined
    def finite_log1p(x):
        large = x if x > one else one
        small = one if x > one else x
        total = large + small
        return normal_log(total, small - (total - large), zero)

    @inlined
    def log1p(x):
        """log(1 + x)"""
        y = np.copysign(finite_log1p(x), x)
        y = y if x > -one else (-inf if x == -one else nan)
        return y if x < inf else x

    softplus_high = f(numbers.softplus_high)

    @inlined
    def softplus(x):
        """log(1 + e^x)"""
        y = finite_log1p(exp(softplus_high if x > softplus_high else x))
        return x if x > softplus_high else y

    @inlined
    def log_sigmoid(x):
        """log sigmoid(x) = -softplus(-x)"""
        return -softplus(-x)

    return log, log1p, softplus, log_sigmoid


def normal_distribution(t: SimpleNamespace) -> tuple[Rule, ...]:
    """erf, phi, gelu"""
    f, numbers, zero, half, one, two, none = t.f, t.numbers, t.zero, t.half, t.one, t.two, -t.zero
    power_of_two, upper, unscale, scaled_magic = t.power_of_two, t.upper, t.unscale, t.scaled_magic
    gate_q, log2_hi, log2_lo, inv_log2 = t.gate_q, t.log2_hi, t.log2_lo, t.inv_log2
    tail_a, tail_b = polynomial(f, numbers.tail_a), polynomial(f, numbers.tail_b)
    log_density = f(-math.log(2 * math.pi) / 2)  # at 0

    @inlined
    def tail(a, x, lo, t):
        """a (1 - phi(t)) for t >= 1/2, given x + lo = -t^2/2: a times the density over t + a(t) / b(t), multiplied out.
        No term is negative, and where t is large the rounding of b cancels in the quotient."""
        lo = lo + log_density
        shifted = (x + lo) * inv_log2 + scaled_magic
        n = shifted - scaled_magic
        r = (x - n * log2_hi) + (lo - n * log2_lo)
        b = tail_b(t)
        y = a * b
        y = (y * (r + r * r * gate_q(r)) + y) / (b * t + tail_a(t))
        return power_of_two(shifted) * y * unscale

    erf_near, erf_high, about_erf_1 = f(numbers.erf_near), f(numbers.erf_high), f(27 / 32)
    erf_s, erf_m = polynomial(f, numbers.erf_s), polynomial(f, numbers.erf_m)
    sqrt2 = f(math.sqrt(2))

    @inlined
    def erf(x):
        u = abs(x)
        u = erf_high if u > erf_high else u
        z = u * u
        far = one - tail(two, -z, none, sqrt2 * u)
        beyond = about_erf_1 + erf_m(u - one) if u < one else far
        return np.copysign(u + u * erf_s(z) if u < erf_near else beyond, x)

    phi_near, phi_s, phi_high = f(numbers.phi_near), polynomial(f, numbers.phi_s), f(numbers.phi_high)

    @inlined
    def normal_tail(a, t):
        """The same with t^2 in two parts: half an ulp of it would be hundreds of ulp of the result."""
        u = upper(t)
        return tail(a, -half * u * u, half * (u - t) * (t + u), t)

    @inlined
    def phi(x):
        """The normal distribution function."""
        t = abs(x)
        t = phi_high if t > phi_high else t
        w = normal_tail(one, t)
        far = one - w if x > zero else w
        return half + x * phi_s(x * x) if t < phi_near else far

    @inlined
    def gelu(x):
        """x phi(x) = max(x, 0) - |x| phi(-|x|)"""
        t = abs(x)
        t = phi_high if t > phi_high else t
        w = normal_tail(t, t)
        far = x - w if x > zero else -w
        return x * (half + x * phi_s(x * x)) if t < phi_near else far

    return erf, phi, gelu


def plain(f: Any) -> dict[str, Rule]:
    """What needs no thought. A loop over the last ones, which are libm's own, stays scalar."""
    zero, one, half = f(0), f(1), f(0.5)

    def remainder(x, y):
        """x - floor(x / y) y, exactly: what is left over has the sign of y."""
        rest = np.fmod(x, y)
        return rest + y if rest != zero and (rest < zero) != (y < zero) else rest

    def floor_divide(x, y):
        """floor(x / y), of which division alone would round some upwards."""
        rest = np.fmod(x, y)
        q = (x - rest) / y
        q = q - one if rest != zero and (rest < zero) != (y < zero) else q
        below = np.floor(q)
        return x / y if y == zero else (below + one if q - below > half else below)

    rules: dict[str, Rule] = dict(
        square=lambda x: x * x,
        sqrt=lambda x: np.sqrt(x),
        rsqrt=lambda x: one / np.sqrt(x),
        reciprocal=lambda x: one / x,
        abs=lambda x: abs(x),
        sign=lambda x: one if x > zero else (-one if x < zero else x),  # zeros and NaN are returned as they are
        maximum=lambda x, y: x if x > y else (y if x == x else x),  # NaN if either is
        minimum=lambda x, y: x if x < y else (y if x == x else x),
        where=lambda condition, x, y: x if condition else y,
        floor=lambda x: np.floor(x),
        isnan=lambda x: x != x,
        sin=lambda x: np.sin(x),
        cos=lambda x: np.cos(x),
        pow=lambda x, y: np.power(x, y),
    )
    rules |= dict(floor_divide=floor_divide, remainder=remainder)
    return {name: inlined(rule) for name, rule in rules.items()}


def build_rules(f: Any, i: Any, numbers: Numbers) -> dict[str, Any]:
    """The functions of float type `f`, whose bits are read as integers of type `i`, by name; and `f` itself."""
    t = make_tools(f, i, numbers)
    exp, *others = exponentials(t)
    vectorised = [exp, *others, *gates(t), *logarithms(t, exp), *normal_distribution(t)]
    for rule in vectorised:
        rule.wide = True  # type: ignore[attr-defined]
    return {"f": f} | {rule.__name__: rule for rule in vectorised} | plain(f)
