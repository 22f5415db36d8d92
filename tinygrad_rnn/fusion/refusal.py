"""Why a cell has no kernel: because of its step, which the tape can run all the same, or because of a fault of ours."""

from types import TracebackType


class Unfusable(Exception):
    """A step that cannot become a kernel; the message says where, why, and what to write instead."""


class CompilerError(Unfusable):
    """A step that should have become a kernel, and did not: a pass of the compiler failed."""

    @classmethod
    def of(cls, error: BaseException, step: str) -> "CompilerError":
        """The report of an error that a pass raised, about the step at a `file:line`."""
        return cls(
            "this is a fault of tinygrad_rnn, not of your cell; please report it with the step at "
            f"{step} ({type(error).__name__}: {error}, in {innermost(error)})"
        )


def innermost(error: BaseException, trace: TracebackType | None = None) -> str:
    """The place where an error was raised, as `file:line`."""
    trace = trace or error.__traceback__
    if trace is None:
        return "an unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
