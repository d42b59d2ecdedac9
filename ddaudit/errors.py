"""The errors a user can cause. Each prints as one clear line: what, where, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_MOST_LISTED = 30
"""Names that a line may list; of more kinds of things there is a command that lists them."""


def printable(text: str) -> str:
    """The text on one line and as itself: control characters, line breaks, those that reorder what follows, and half
    characters of damaged names are written out (``\\n``, ``\\u202e``), so that no text of a file can pose as ours."""
    return _UNPRINTABLE.sub(lambda m: ascii(m.group())[1:-1], text)


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
        self.where, self.what, self.todo = printable(str(where)), printable(what), printable(todo)
        super().__init__(f"{self.where}: {self.what}." + (f" {self.todo}" if todo else ""))

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, str, str]]:
        return type(self), (self.where, self.what, self.todo)  # it travels from worker processes


class NotEnoughData(DDAuditError):
    """A statistic was asked for that the sample cannot resolve (for example TPR at 0.1 % FPR of 50 records)."""


class Unsupported(DDAuditError):
    """An auditor cannot answer its question for this subject; the report says so, with this reason."""


class NotFinite(Unsupported):
    """Values are NaN or infinite where numbers were due: a fault of the subject, so that its cell fails."""


def closest(word: str, known: Iterable[str]) -> str:
    """The hint for a word that nobody knows: the words most like it; else all of them, where they are few."""
    words = sorted(known)
    same = [w for w in words if w.lower() == word.lower()]
    close = same or difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(words)}." if len(words) <= _MOST_LISTED else ""
