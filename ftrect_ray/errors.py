"""The one grammar of errors: what is wrong, where, and how to mend it.

Every error that a user can cause is a :class:`FtrectError`. The command line prints it as one line
``error: <what> (<where>) — <how to mend>`` and ends with its ``exit_code``; the server turns it into a
4xx body. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class FtrectError(Exception):
    """Base of all errors with a remedy.

    Parameters
    ----------
    what : str
        The problem, naming the thing and its value.
    where : str, optional
        File, line, column, or dotted key.
    mend : str, optional
        What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what, self.where, self.mend = what, where, mend

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.mend)

    def __str__(self) -> str:
        line = self.what
        if self.where:
            line += f" ({self.where})"
        if self.mend:
            line += f" — {self.mend}"
        return " ".join(line.split("\n"))


def _rebuild(kind: type[FtrectError], what: str, where: str, mend: str) -> FtrectError:
    """Errors cross process borders (Ray): keyword-only arguments need a rebuilder."""
    return kind(what, where=where, mend=mend)


class InputError(FtrectError):
    """The usage, the study file or the data are wrong."""

    exit_code = 2


class EnvironmentFault(FtrectError):
    """The surroundings lack something: no Ray, no GPU, no space, no network."""

    exit_code = 3


class StatisticalRefusal(FtrectError):
    """The numbers do not carry the wished estimate."""

    exit_code = 4


class InputErrors(InputError):
    """Several input errors, found in one pass so that they can be mended in one pass.

    Parameters
    ----------
    errors : sequence of InputError
        At least one.
    """

    def __init__(self, errors: Sequence[InputError]) -> None:
        first = errors[0]
        super().__init__(first.what, where=first.where, mend=first.mend)
        self.errors = tuple(errors)

    def __reduce__(self) -> tuple[object, ...]:
        return InputErrors, (self.errors,)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def near_match(name: object, options: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for a misspelt name, or what there is to choose from.

    >>> near_match("lerning_rate", ["learning_rate", "epochs"])
    "did you mean 'learning_rate'?"
    >>> near_match("zzz", ["b", "a"])
    'choose from: a, b'
    """
    choices = sorted(options)
    close = get_close_matches(str(name), choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "choose from: " + ", ".join(choices)
