"""Cells as users write them, one construct of the language at a time: fused and on the tape to 1e-12 in float64.

Most run as generated source that Python executes; those of test_both_engines and test_random_cells are compiled.
"""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_engines_agree, interpret, parameter, results
from tinygrad_rnn.fusion import scan

I, H = 3, 4
SMALL = 0.2
CASES = {}


def case(make):
    CASES[make.__name__] = make
    return make


def cell(step, widths=None, I=I, H=H, **held):
    """A cell with this step, states of these widths (H by default), and parameters and constants."""
    made = type("Case", (tg.nn.Cell,), {"step": step})()
    made.input_size = I
    for name, value in held.items():
        setattr(made, name, value)
    widths = widths or [H] * (len(inspect.signature(step).parameters) - 2)
    type(made).initial_state = lambda self, B: tuple(tg.zeros(B, n, dtype=np.float64) for n in widths)
    return made


P = parameter


def _weights():
    return dict(W=P(I, H), U=P(H, H), V=P(H, H))


@case
def no_parameters():
    return cell(lambda self, x, h: tg.tanh(0.5 * h + x.sum(-1, keepdim=True)))


@case
def x_unused():
    return cell(lambda self, x, h: tg.tanh(h @ self.U), U=P(H, H))


@case
def a_row_that_is_a_matrix_and_a_bias():
    return cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + self.W), I=1, W=P(1, H), U=P(H, H))


@case
def products_of_stacked_parameters():
    """Of three dimensions, before the loop."""

    def step(self, x, h):
        U = self.A @ self.B
        return tg.tanh(x @ self.W + h @ U[0] + h @ U[1].T)

    return cell(step, W=P(I, H), A=P(2, H, 3), B=P(2, 3, H))


@case
def a_gate_read_again_after_the_product():
    """Its gradient belongs to two products, and may not take its place before a later phase has read it."""

    def step(self, x, h):
        s = tg.tanh(h)
        (x_z, x_n), (s_z, s_n) = tg.chunk(x @ self.W, 2, -1), tg.chunk(s @ self.U, 2, -1)
        z = tg.sigmoid(x_z + s_z)
        return tg.tanh(x_n + z * s_n) + z * s

    return cell(step, W=P(I, 2 * H), U=P(H, 2 * H))


@case
def a_hoisted_product_read_whole_and_in_parts():
    """What is kept of the whole and of the parts cannot all take its place."""

    def step(self, x, h):
        a = x @ self.W
        a = a - a.mean(-1, keepdim=True)
        a = a * (a.square().mean(-1, keepdim=True) + 0.1).rsqrt()
        f, n = tg.chunk(a + h @ self.U, 2, -1)
        f = tg.sigmoid(f)
        return f * h + (1 - f) * tg.tanh(n)

    return cell(step, W=P(I, 2 * H), U=P(H, 2 * H))


@case
def state_unused():
    return cell(lambda self, x, h: tg.tanh(x @ self.W), W=P(I, H))


@case
def state_unchanged():
    return cell(lambda self, x, h: h)


@case
def x_becomes_the_state():
    return cell(lambda self, x, h: x, I=4)


@case
def states_trade_places():
    return cell(lambda self, x, h, c: (c, h))


@case
def delayed():
    return cell(lambda self, x, h, c: (c, tg.tanh(h + x @ self.W)), W=P(I, H))


@case
def one_value_for_two_states():
    def step(self, x, h, c):
        new = tg.tanh(x @ self.W + h @ self.U - 0.5 * c)
        return new, new

    return cell(step, W=P(I, H), U=P(H, H))


@case
def one_weight_for_x_and_h():
    return cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.W), I=4, W=P(4, 4))


@case
def one_weight_and_its_transpose():
    return cell(lambda self, x, h: tg.tanh(x @ self.W + h @ self.U + (h * h) @ self.U.T), W=P(I, H), U=P(H, H))


@case
def functions_of_parameters():
    return cell(
        lambda self, x, h: tg.tanh(x @ self.W.abs() + h @ (-self.U * 2) + tg.exp(self.b)), W=P(I, H), U=P(H, H), b=P(H)
    )


@case
def elements_of_a_parameter():
    return cell(lambda self, x, h: tg.tanh(h * self.g[0] + x @ self.W * self.g[1]), W=P(I, H), g=P(2))


@case
def weights_in_a_stack():
    def step(self, x, h):
        return tg.tanh(sum(h @ self.U[k] for k in range(3)) + x @ self.W + self.b[1])

    return cell(step, W=P(I, H), U=P(3, H, H), b=P(2, H))


@case
def slices_of_parameters():
    def step(self, x, h):
        return tg.tanh(h @ self.U[:, :H] + (h * h) @ self.U[:, H:] + x @ self.W + self.b[2 : 2 + H] * self.b[H:])

    return cell(step, W=P(I, H), U=P(H, 2 * H), b=P(2 * H))


@case
def slices_that_overlap():
    def step(self, x, h):
        slope, a = h[:, 1:] - h[:, :-1], x @ self.W + h @ self.U
        bent = tg.cat([slope, h[:, :1]], -1) * tg.sigmoid(a[:, :H]) + a[:, 2:] + self.b[1:] * self.b[:H]
        return tg.tanh(bent - 0.1 * a[:, 1 : 1 + H])

    return cell(step, W=P(I, H + 2), U=P(H, H + 2), b=P(H + 1))


@case
def broadcast_parameters():
    def step(self, x, h):
        return tg.tanh(x @ self.W + h * self.row + self.rows[0:1] + self.one * h * self.number + self.rows[2])

    return cell(step, W=P(I, H), row=P(1, H), rows=P(3, H), one=P(1), number=P())


@case
def stopped_gradients():
    def step(self, x, h):
        a = x @ self.W + h.detach() @ self.U
        return tg.tanh(a * tg.sigmoid(h) - (x @ self.W).detach() * self.b + tg.logsumexp(a, -1, keepdim=True))

    return cell(step, W=P(I, H), U=P(H, H), b=P(H))


@case
def constants():
    mask = np.array([1.0, 0.0, 1.0, 0.5])
    return cell(lambda self, x, h: tg.tanh(x @ self.W + h * self.mask) * tg.tensor(self.mask + 1), W=P(I, H), mask=mask)


@case
def gates_in_a_loop():
    def step(self, x, h):
        a = tg.cat([x, h], -1) @ self.W + self.b
        n = h
        for gate in a.split(H, -1)[:3]:
            n = n * tg.sigmoid(gate)
        return n + tg.tanh(a[:, 3 * H :])

    return cell(step, W=P(I + H, 4 * H), b=P(4 * H))


@case
def helper_methods():
    made = cell(lambda self, x, h: self.squash(self.mix(x, h)), W=P(I, H), U=P(H, H))
    type(made).squash = staticmethod(lambda a: a / (1 + a.abs()))
    type(made).mix = lambda self, x, h: x @ self.W + h @ self.U
    return made


@case
def peephole():
    def step(self, x, h, c):
        i, f, g, o = tg.chunk(x @ self.W + h @ self.U + self.b, 4, -1)
        c = tg.sigmoid(f + self.pf * c) * c + tg.sigmoid(i + self.pi * c) * tg.tanh(g)
        return tg.sigmoid(o + self.po * c) * tg.tanh(c), c

    return cell(step, W=P(I, 4 * H), U=P(H, 4 * H), b=P(4 * H), pf=P(H), pi=P(H), po=P(H))


@case
def parts_of_a_vector_with_the_same_gradient():
    def step(self, x, h):
        first, second = tg.chunk(self.b, 2, -1)
        return tg.tanh(x @ self.W + h @ self.U + first + second)

    return cell(step, W=P(I, H), U=P(H, H), b=P(2 * H))


@case
def dimensions_dropped_and_put_back():
    def step(self, x, h):
        return tg.tanh(h * h.sum(-1).unsqueeze(-1) + (x * x.sum(-1).unsqueeze(1)) @ self.W)

    return cell(step, W=P(I, H))


@case
def expanded_by_hand():
    def step(self, x, h):
        total, of_x = h.sum(-1, keepdim=True).expand(*h.shape), x.sum(-1, keepdim=True).expand(x.shape[0], H)
        return tg.tanh(total * of_x + of_x @ self.U + total @ self.U)

    return cell(step, U=P(H, H))


@case
def variance():
    def step(self, x, h):
        a = x @ self.W + h @ self.U
        return tg.tanh((a - a.mean(-1, keepdim=True)) / (a.var(-1, keepdim=True) + 0.1).sqrt())

    return cell(step, W=P(I, H), U=P(H, H))


@case
def modules():
    return cell(
        lambda self, x, h: tg.tanh(self.norm(self.a(x) + self.b(h))),
        a=tg.nn.Linear(I, H).double(),
        b=tg.nn.Linear(H, H).double(),
        norm=tg.nn.LayerNorm(H).double(),
    )


@case
def attention_over_a_memory():
    def step(self, x, h, m):
        a = tg.softmax(h @ self.A, -1)
        return tg.tanh(x @ self.W + (a * m) @ self.B), 0.9 * m + 0.1 * (x @ self.V)

    return cell(step, widths=[4, 5], W=P(I, H), A=P(H, 5), B=P(5, H), V=P(I, 5))


@case
def a_product_of_a_softmax_and_of_its_sum():
    return cell(
        lambda self, x, h: tg.tanh((tg.softmax(tg.softmax(h, -1), -1).sum(-1, keepdim=True)) @ self.R + x @ self.W),
        W=P(I, H),
        R=P(1, H),
    )


@case
def powers():
    return cell(
        lambda self, x, h: tg.tanh(x @ self.W + h**2 + (h * h + 1) ** 0.5 + (h * h + 1) ** self.p), W=P(I, H), p=P(H)
    )


@case
def a_kept_value_that_a_product_reads():
    """Made of a hoisted product, whose place it must not take: the gradient of R is computed from it after the loop."""
    return cell(lambda self, x, h: ((x @ self.W) / (1.5 + h * h)) @ self.R, W=P(I, H), R=P(H, H))


@case
def softmax_before_the_loop_and_in_it():
    return cell(
        lambda self, x, h: (
            tg.tanh(tg.softmax(x, -1) @ self.W + h * tg.softmax(x @ self.V, -1))
            + tg.softmax(x @ self.V, -1) @ self.U
            + tg.log_softmax(x, -1).sum(-1, keepdim=True) * (tg.log_softmax(x, -1) @ self.W)
        ),
        W=P(I, H),
        V=P(I, H),
        U=P(H, H),
    )


@case
def a_function_of_a_state_that_is_a_part_of_a_product():
    """Computed again for the backward pass from the new state, which is kept, not from the product, which is not."""

    def step(self, x, h, m):
        m, r = tg.split(m @ self.U, [2, 3], -1)
        return tg.tanh(x @ self.W + tg.cat([tg.sigmoid(m), r], -1) @ self.R + h), m

    return cell(step, widths=[4, 2], W=P(I, H), U=P(2, 5), R=P(5, H))


@case
def rolled():
    return cell(lambda self, x, h: tg.tanh(x @ self.W + tg.roll(h, 1, -1)), W=P(I, H))


@case
def parts_and_the_whole():
    return cell(lambda self, x, h: tg.tanh(x @ self.W + h + tg.cat([h[:, 2:], h[:, :2]], 1)), W=P(I, H))


@case
def product_of_a_part_of_a_product():
    return cell(
        lambda self, x, h: tg.tanh((x + (h @ self.U)[:, 1:]) @ self.W + (h @ self.U)[:, :1] @ self.V),
        W=P(3, H),
        U=P(H, H),
        V=P(1, H),
    )


@case
def states_in_parts():
    def step(self, x, h, c):
        return tg.tanh(tg.cat([h, c, x], -1) @ self.W), tg.cat([h[:, :2], c[:, 2:]], -1) * 0.9

    return cell(step, W=P(2 * H + I, H))


@case
def choices():
    def step(self, x, h):
        a = x @ self.W
        both = tg.where((h > 0.1) & (a < 0.3) | (h < -0.2), h * 0.5, tg.tanh(a))
        return (
            tg.maximum(both, tg.minimum(a, 0.4))
            - tg.clamp(h, -0.3, 0.2)
            + tg.leaky_relu(a, 0.1) * (h > 0).to(np.float64)
        )

    return cell(step, W=P(I, H))


@case
def extremes_of_rows():
    return cell(
        lambda self, x, h: tg.tanh(h - h.amin(-1, keepdim=True) * tg.amax(x @ self.W, -1, keepdim=True)), W=P(I, H)
    )


@case
def in_place_operators():
    def step(self, x, h):
        a = x @ self.W
        a += h @ self.U
        a *= 0.5
        return tg.tanh(a)

    return cell(step, W=P(I, H), U=P(H, H))


@case
def linear():
    return cell(lambda self, x, h: x @ self.W - h @ self.U, W=P(I, H), U=P(H, H, scale=SMALL))


@case
def products_alone():
    return cell(lambda self, x, h: h @ self.U, U=P(H, H, scale=SMALL))


@case
def chained_products():
    return cell(lambda self, x, h: ((x @ self.W) @ self.U + h) @ self.U, W=P(I, H), U=P(H, H, scale=SMALL))


@case
def a_product_of_one_column_added_to_all():
    return cell(lambda self, x, h: tg.tanh((h @ self.U + x) @ self.W), W=P(I, H), U=P(H, 1))


@case
def sums_of_products():
    def step(self, x, h, c):
        a = h @ self.U + c @ self.V
        return a * 0.5, a + x @ self.W

    return cell(step, W=P(I, H), U=P(H, H), V=P(H, H))


@case
def width_one():
    def step(self, x, h, c):
        return tg.tanh(x @ self.W + h @ self.U + c.sum(-1, keepdim=True)), c * h.sum(-1, keepdim=True) + h

    return cell(step, widths=[1, 4], W=P(I, 1), U=P(1, 1))


@case
def an_old_state_as_a_new_one_and_in_a_product():
    """What a product reads is the old value, although it is a new value too."""
    return cell(lambda self, x, h, c, m: (tg.tanh(x @ self.W + m @ self.U), c @ self.V + h, c), **_weights())


@case
def states_in_a_ring():
    return cell(lambda self, x, a, b, c: (tg.tanh(c @ self.U + x @ self.W), a, b), **_weights())


@case
def states_cut_out_of_wider_values():
    """Copies of columns wait for the whole."""

    def step(self, x, h, c):
        wide = tg.softmax(x @ self.W2 * h.sum(-1, keepdim=True), -1)
        other = tg.softmax(tg.cat([c, h], -1) * 0.5, -1)
        return wide[:, 1 : 1 + H], other[:, 2 : 2 + H] + other[:, H:]

    return cell(step, W2=P(I, H + 3))


@case
def a_column_that_scales_the_rest():
    """The gradient of all columns may not take the place of one that every round of its loop reads."""

    def step(self, x, h, c):
        b = ((h @ self.A) * x) @ self.B
        return tg.tanh(b + h @ self.D), tg.tanh(h) + c

    return cell(step, [1, 1], I=2, A=P(1, 1), B=P(2, 1), D=P(1, 1))


@case
def a_column_that_is_added_to_all():
    """What is saved of all columns may not take the place of one that every round of its loop reads."""

    def step(self, x, h):
        a = x @ self.W2
        z = tg.sigmoid(a[:, H:] + h @ self.U)
        return z * h + (1 - z) * tg.tanh(a[:, :H] + a[:, :1] + h @ self.V)

    return cell(step, W2=P(I, 2 * H), U=P(H, H), V=P(H, H))


@case
def a_saved_sum_that_a_product_is_added_to():
    def step(self, x, h, c):
        a = x @ self.W
        total = tg.tanh(a + c) + h @ self.U
        return total, tg.maximum(total, c) * total

    return cell(step, W=P(I, H), U=P(H, H))


@case
def a_sum_with_a_product_that_becomes_two_states():
    def step(self, x, h, c):
        total = tg.tanh(x @ self.W + c) + tg.tanh(h) @ self.U
        return total, total

    return cell(step, W=P(I, H), U=P(H, H))


@case
def a_product_that_is_added_to_what_a_bias_is_in():
    """The gradient of the bias is a sum over rows that no loop could add up if the product added itself to them."""

    def step(self, x, h):
        a = h @ self.U + self.b
        return a * tg.tanh(x @ self.W) + tg.sigmoid(a @ self.V)

    return cell(step, W=P(I, H), U=P(H, H), V=P(H, H), b=P(H))


@case
def a_gradient_that_a_product_is_added_to():
    """No loop computes it, and so it may take the place of no value that loops read."""

    def step(self, x, h):
        a = h @ self.U
        b = a @ self.V + a
        s = tg.sigmoid(b)
        return s * tg.tanh(x @ self.W + h) + 0.1 * s * s * tg.exp(-a * a)

    return cell(step, W=P(I, H), U=P(H, H), V=P(H, H))


@case
def saved_values_for_columns_that_overlap():
    """Two values would fit in place of columns of a hoisted product, of which some are the same: one may."""

    def step(self, x, h):
        a = x @ self.W
        p, q = tg.tanh(a[:, :H] + h), tg.sigmoid(a[:, 2:] - h)
        r, s = tg.tanh(p @ self.U), tg.sigmoid(q @ self.U)
        return r * s + p.sum(-1, keepdim=True) * r.sum(-1, keepdim=True)

    return cell(step, W=P(I, H + 2), U=P(H, H))


@case
def a_hoisted_product_read_from_behind():
    """What is computed of it must not take its place: the first element is read when the last one is written."""
    return cell(lambda self, x, h: tg.tanh(h + (x @ self.W).flip(-1)) * tg.sigmoid(h @ self.U), W=P(I, H), U=P(H, H))


@case
def a_gradient_two_columns_from_what_is_saved():
    """In one loop with who reads that: it may not take its place."""

    def step(self, x, h):
        a = x @ self.W
        p = tg.tanh(a[:, 2:] + a[:, :H].detach() * h)
        r = tg.sigmoid(h @ self.U + (p @ self.V).detach())
        return r * p + tg.tanh(a[:, :2]).sum(-1, keepdim=True)

    return cell(step, W=P(I, H + 2), U=P(H, H), V=P(H, H))


@case
def a_state_that_is_columns_of_a_hoisted_product():
    """Nothing may take their place before they are copied."""

    def step(self, x, h, c):
        a = x @ self.W
        s = tg.tanh(a[:, :H] + h * c)
        return a[:, :H], s * tg.sigmoid(c @ self.U) + a[:, H:]

    return cell(step, W=P(I, 2 * H), U=P(H, H))


@case
def a_state_that_is_a_hoisted_product():
    def step(self, x, h, c):
        a = x @ self.W
        return a, tg.tanh(a + h * c) * tg.sigmoid(c @ self.U)

    return cell(step, W=P(I, H), U=P(H, H))


@case
def a_product_beside_other_columns_of_each_row():
    """Its columns are not neighbours there: it has memory of its own, and is copied."""

    def step(self, x, h):
        rows = h.reshape(h.shape[0], 2, 2)
        return tg.tanh(x @ self.W + (tg.cat([rows @ self.V, rows * 2], -1) * self.b).sum(1))

    return cell(step, W=P(I, H), V=P(2, 2), b=P(H))


@case
def a_weight_and_its_transpose_side_by_side():
    """The gradient of the one is written as it is, that of the other transposed, from the second columns on."""

    def step(self, x, h):
        return tg.tanh(x @ self.W + h @ self.U) * tg.sigmoid(h @ self.U.T) + h @ self.V * 0.1

    return cell(step, W=P(I, H), U=P(H, H), V=P(H, H))


@case
def several_vectors_of_the_input():
    """Their product is the tape's, before the loop."""

    def step(self, x, h):
        return tg.tanh((x.reshape(x.shape[0], I, 1) @ self.W).sum(1) + h @ self.U)

    return cell(step, W=P(1, H), U=P(H, H))


@case
def a_bias_of_what_is_read_whole_and_in_parts():
    def step(self, x, h):
        a = x @ self.W + h @ self.U + self.b
        return tg.tanh(a[:, :H]) + tg.sigmoid(a[:, H:]) * a.sum(-1, keepdim=True) * self.g[:]

    return cell(step, W=P(I, 2 * H), U=P(H, 2 * H), b=P(2 * H), g=P(H))


@case
def rows_that_are_copied_before_a_loop_over_all_of_them():
    """In loops of one row and of two: the numbers of loops, not their shapes, tell that the copies come first."""

    def step(self, x, h, c):
        a = tg.tanh(h + x @ self.W)
        rows = tg.stack([a.flip(-1), h * 2], 1) * c.reshape(c.shape[0], 2, H)
        return rows.sum(1), tg.tanh(rows).reshape(c.shape)

    return cell(step, widths=[H, 2 * H], W=P(I, H))


@case
def sums_beside_other_columns_of_each_row():
    """They are added up where they are neighbours, and copied."""

    def step(self, x, h, c):
        rows = (h + x @ self.W).reshape(h.shape[0], 2, 2)
        both = rows.unsqueeze(-1) * c.reshape(c.shape[0], 2, 2, 2)
        wide = tg.cat([both.sum(-1), tg.cumsum(rows, -1), rows[:, :, :1]], -1)
        return (wide * self.b).sum(1)[:, :H], tg.tanh(wide[:, :, 1:]).reshape(c.shape)

    return cell(step, widths=[H, 2 * H], W=P(I, H), b=P(5))


@case
def weights_of_products_that_are_joined_twice():
    """Gradients that are written together are not added to what is there, as those of the second products must be."""

    def step(self, x, h):
        s = h * h
        return tg.tanh(h @ self.U + x @ self.W) * tg.sigmoid(h @ self.V) + 0.1 * (s @ self.U) * tg.tanh(s @ self.V)

    return cell(step, W=P(I, H), U=P(H, H), V=P(H, H))


@case
def columns_of_one_row_of_several():
    def step(self, x, h, c):
        rows = tg.tanh(c).reshape(c.shape[0], 2, H)
        return tg.tanh(x @ self.W + h * rows[:, 1:][:, :, 1:3].sum((1, 2)).unsqueeze(-1)), c * 0.5

    return cell(step, widths=[H, 2 * H], W=P(I, H))


@case
def a_value_of_the_sequence_that_a_product_reads():
    """Its gradient is that of a product, which no loop can add up."""
    made = cell(lambda self, x, h: tg.tanh((self.m + h) @ self.U + x @ self.W), W=P(I, H), U=P(H, H), k=P(1, H))
    type(made).sequence_values = lambda self, B: {"m": self.k.expand(B, H)}
    return made


@case
def sums_to_a_size():
    def step(self, x, h):
        a, B = tg.tanh(x @ self.W + h), h.shape[0]
        return h * a.sum_to_size(B, 1) + (a.unsqueeze(1) * h.unsqueeze(2)).sum_to_size(B, 1, H).reshape(B, H) * self.b

    return cell(step, W=P(I, H), b=P(H))


@case
def names_that_generated_code_uses():
    def step(self, x, h, c):
        t = tg.tanh(x @ self.W)
        row, lo, real, sigmoid, j, T = t * h, t + 1, t - h, t * 2, h * 0.5, h + 0.1
        t_out, h_new_out, t_saved, H_2, x_in, h_in = row + lo, real * sigmoid, j + T, t * T, h - t, row * 0.2
        c_buffer, d_0_all, t_copy_2, multiply, forward, at = (
            t_out * h,
            h_in + 1,
            x_in * t,
            H_2 - t,
            t * 0.1,
            t_saved * h,
        )
        dh, dc, CACHE, H_new = c_buffer * at, forward + multiply, t_copy_2 * d_0_all, h_new_out * self.h_saved
        return tg.tanh(dh + H_new + tg.softmax(CACHE, -1) + self.t_packed), tg.tanh(dc.sum(-1, keepdim=True) + c * c)

    return cell(step, widths=[4, 5], W=P(I, H), h_saved=P(H), t_packed=P(H))


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_construct(make):
    tg.manual_seed(0)
    made = make()
    assert_engines_agree(made, (4, 3, made.input_size))
    assert_engines_agree(made, (2, 1, made.input_size), reverse=True)


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_gradients_of_some_inputs_only(make):
    """Whatever the subset, the gradients asked for are those of all; without any, the inference kernel runs."""
    tg.manual_seed(0)
    made = make()
    sizes = (4, 3, made.input_size)
    everything = results(made, sizes, "require")
    names = [name[1:] for name in everything if name.startswith("d")]
    for wanted in [set(), {"x"}, *({name} for name in names[1:]), set(names[::2])]:
        found = results(made, sizes, "require", wanted=wanted.__contains__)
        assert {name[1:] for name in found if name.startswith("d")} in (wanted, set())
        for name, value in found.items():
            np.testing.assert_allclose(
                value, everything[name], rtol=0, atol=1e-13 * max(1, np.abs(value).max()), err_msg=f"{name} of {wanted}"
            )


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_second_derivatives(make):
    """The gradient of a function of first gradients, which the tape takes over from the kernels."""
    tg.manual_seed(0)
    made, found = make(), []
    for engine in ("require", "never"):
        random = np.random.default_rng(0)
        leaf = lambda *shape, random=random: tg.tensor(random.uniform(-1, 1, shape), requires_grad=True)
        x, states = leaf(3, 2, made.input_size), tuple(leaf(*s.shape) for s in made.begin(None, 2))
        inputs = [x, *states, *made.parameters()]
        y, final = tg.nn.Recurrent(made, fused=engine)(x, states)
        finals = final if isinstance(final, tuple) else (final,)
        loss = sum((v * v).sum() for v in (y, *finals))
        first = [g for g in tg.grad(loss, inputs, create_graph=True, allow_unused=True) if g is not None]
        penalty = sum((g * g).sum() for g in first)
        second = tg.grad(penalty, inputs, allow_unused=True)
        found.append([np.zeros(p.shape) if g is None else g.numpy() for p, g in zip(inputs, second)])
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_that_are_written_as_a_whole_and_in_parts(monkeypatch, reverse):
    """Whatever comes first, and whatever their memory holds before: of a matrix, of the input and of a vector."""

    def step(self, x, h):
        steps = [lambda a: a @ self.U, lambda a: (a @ self.U[:, :2]).sum(-1, keepdim=True) * x + a * self.b[:1]]
        for some in steps[:: -1 if reverse else 1]:
            h = tg.tanh(some(h) + x[:, 1:] @ self.V)
        return h * x + x @ self.W + self.b

    def poisoned(shape, dtype=np.float64):
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(scan, "np", SimpleNamespace(empty=poisoned, zeros=np.zeros, ndarray=np.ndarray))
    made = cell(step, I=H, W=P(H, H), U=P(H, H), V=P(H - 1, H), b=P(H))
    assert_engines_agree(made, (4, 3, H))
    assert_engines_agree(made, (4, 3, H), lengths=np.array([2, 4, 1]))


def test_parts_of_a_value_that_is_computed_as_a_whole():
    """A copy of columns waits for the whole, which has a loop of its own; first derivatives only, as below."""

    def step(self, x, h, c):
        wide = tg.clip_gradient(x @ self.W * h.sum(-1, keepdim=True), 0.5)
        other = tg.clip_gradient(tg.cat([c, h], -1) * 0.5, 0.5)
        return wide[:, 1 : 1 + H], other[:, 2 : 2 + H] + other[:, H:]

    tg.manual_seed(0)
    assert_engines_agree(cell(step, W=P(I, H + 3)), (4, 3, I))


def test_clipping_of_all_uses_together_and_of_each_by_itself():
    """What a call of clip_gradient clips is the sum over its uses, in the loop and before; two calls clip two sums.

    First derivatives only: second ones flow through the kernels and through the tape, and are clipped in each.
    """

    def step(self, x, h):
        together = tg.clip_gradient(x, 0.03)
        apart = tg.clip_gradient(h, 0.05) @ self.U + tg.tanh(tg.clip_gradient(h, 0.05))
        whole = tg.clip_gradient(0.5 * h, 0.04)
        apart = apart + tg.sin(whole) + whole[:, 1:].sum(-1, keepdim=True)
        return tg.tanh(together @ self.W + (together * 2).sum(-1, keepdim=True) * h + apart)

    tg.manual_seed(0)
    assert_engines_agree(cell(step, W=P(I, H), U=P(H, H)), (4, 3, I))
