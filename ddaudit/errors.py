"""The errors a user can cause. Each prints as one clear line: what, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDAuditError(Exception):
    """Base of every error with a message meant for the user. The command line exits with 2 on it."""


class BadInput(DDAuditError):
    """Something the user gave cannot be used.

    Args:
        where: the file, option or value, as the user wrote it.
        what: what is wrong with it, in one clause.
        todo: what to do about it, in one sentence.
    """

    def __init__(self, where: object, what: str, todo: str = "") -> None:
        self.where, self.what, self.todo = str(where), what, todo
        super().__init__(f"{where}: {what}." + (f" {todo}" if todo else ""))

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, str, str]]:
        return type(self), (self.where, self.what, self.todo)  # it travels from worker processes


class NotEnoughData(DDAuditError):
    """A statistic was asked for that the sample cannot resolve (for example TPR at 0.1 % FPR of 50 records)."""


class Unsupported(DDAuditError):
    """An auditor cannot answer its question for this subject; the report says so, with this reason."""


def closest(word: str, known: Iterable[str]) -> str:
    """The hint for a word that nobody knows: the words most like it, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(words)}."
