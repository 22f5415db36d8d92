"""What is found out about a cell: failures, each with the line to mend, and all of them together."""

from typing import NamedTuple


class Failure(NamedTuple):
    """What is wrong with a cell.

    Attributes:
        check: which check found it.
        message: what it is, and what to write instead.
        line: where: `file:line: text`.
    """

    check: str
    message: str
    line: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}\n        {self.line}"


class CellReport(NamedTuple):
    """What `check_cell` found; prints as a list.

    Attributes:
        cell: its class.
        passed: the checks that found nothing.
        failures: what the others found.
        notes: what is no failure, such as why a cell runs on the tape.
        untried: the checks that say nothing of this cell, such as "engines" of one that cannot be compiled.
    """

    cell: str
    passed: list[str]
    failures: list[Failure]
    notes: list[str]
    untried: list[str]

    def __str__(self) -> str:
        lines = [f"{self.cell}: {len(self.passed)} check{'s' * (len(self.passed) != 1)} passed"]
        if self.failures:
            lines[0] += f", {len(self.failures)} failure{'s' * (len(self.failures) != 1)}"
        lines += [f"    {failure}" for failure in self.failures]
        lines += [f"    note: {note}" for note in self.notes]
        lists = {"passed": self.passed, "not tried": self.untried}
        return "\n".join([*lines, *(f"    {title}: {', '.join(names)}" for title, names in lists.items() if names)])


class CellCheckError(AssertionError):
    """A cell does not keep the contract; the message has every failure.

    Attributes:
        report: what was found.
    """

    def __init__(self, report: CellReport) -> None:
        super().__init__(str(report))
        self.report = report
