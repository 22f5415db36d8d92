"""Whether sequences keep to themselves: in batches, alone, shorter, backwards."""

from ..autograd.creation import tensor
from ..autograd.tape import no_grad
from ..nn.cell import as_states
from .lines import line_of_step
from .subject import Found, Subject, close, words


def check_rows(s: Subject) -> Found:
    """What becomes of a sequence does not hang on which others are in the batch."""
    with no_grad():
        whole = s.run("never", s.x())
        for b in range(s.B):
            alone = s.run("never", s.x()[:, b : b + 1], values=s.given(rows=slice(b, b + 1)))
            if alone[0].shape != (s.T, 1, *whole[0].shape[2:]):
                yield f"a batch of one sequence gives y {list(alone[0].shape)}: name the dimension in squeeze(dim)", \
                    line_of_step(s.cell, r"squeeze|reshape|view")  # fmt: skip
                return
            if not close([alone[0].data[:, 0]], [whole[0].data[:, b]]):
                yield f"sequence {b} gives other outputs alone than in a batch of {s.B}: reduce over the last " \
                    "dimension, dim=-1, not over the batch's", \
                    line_of_step(s.cell, r"mean|sum|max|min|softmax|norm|std|var|cumsum|flip|roll|\.T\b")  # fmt: skip
                return


def check_small(s: Subject) -> Found:
    """One step, one sequence, and x without a batch."""
    with no_grad():
        for engine in s.engines:
            y = s.run(engine, s.x(T=1))[0]
            stepped = as_states(s.cell(s.x(T=1)[0], **s.given()))[0]
            if not close([y.data[0]], [stepped.data]):
                yield f"a sequence of one step gives other numbers than cell(x) ({words(engine)})", line_of_step(s.cell)
            one = s.given(rows=slice(0, 1))
            y = s.run(engine, s.x(T=1, B=1), values=one)[0]
            if y.shape[:2] != (1, 1):
                yield f"T = 1, B = 1 gives y {list(y.shape)} ({words(engine)})", line_of_step(s.cell)
        bare = as_states(s.cell(s.x()[0, 0], **{name: x[0] for name, x in s.given().items()}))[0]
        batch = as_states(s.cell(s.x()[0, :1], **s.given(rows=slice(0, 1))))[0]
        if not close([bare.data], [batch.data[0]]):
            yield "cell(x) of one x [I] gives other numbers than of a batch [1, I]", line_of_step(s.cell)


def check_lengths(s: Subject) -> Found:
    """Sequences that end before others: outputs are zero after the end, and the states are those of the end."""
    lengths = [s.T, *[s.T - 2] * (s.B - 1)]
    with no_grad():
        for engine in s.engines:
            y, *states = s.run(engine, s.x(), lengths=lengths)
            for b, length in enumerate(lengths):
                rows = slice(b, b + 1)
                alone = s.run(engine, s.x()[:length, rows], values=s.given(rows=rows))
                same = close([y.data[:length, rows]], [alone[0].data]) and not y.data[length:, b].any()
                if not same or not close([state.data[rows] for state in states], [state.data for state in alone[1:]]):
                    yield f"a sequence of length {length} in a longer batch differs from the same one alone " \
                        f"({words(engine)})", line_of_step(s.cell)  # fmt: skip
                    return


def check_reverse(s: Subject) -> Found:
    """A layer that starts at the end gives what the same layer makes of the turned sequence."""
    with no_grad():
        for engine in s.engines:
            turned = s.run(engine, tensor(s.x().data[::-1].copy()))
            back = s.run(engine, s.x(), reverse=True)
            if not close([back[0].data[::-1], *(b.data for b in back[1:])], [t.data for t in turned]):
                yield f"reverse=True differs from the turned sequence ({words(engine)}): step must not count steps", \
                    line_of_step(s.cell, r"self\.\w+ *[+-]?=[^=]")  # fmt: skip
