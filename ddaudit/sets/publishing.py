"""Before a set is published: what its holder must have said yes to, and the text that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ddaudit.errors import BadInput
from ddaudit.sets._types import DistilledSet
from ddaudit.sets.inspection import Inspection, describe

CONCERNS = {
    "poison": "a backdoor that was put in on purpose",
    "records": "real records, or pieces of them",
    "claim": "a privacy claim that does not hold as it stands",
    "path": "a path of your machine on the card",
}
"""Name -> what a holder would rather not publish by mistake: once seen, it cannot be taken back."""


def check_publishable(looked: Inspection, *, despite: Sequence[str] = ()) -> None:
    """Refuse what should not leave the house unnoticed.

    Args:
        looked: with the claim derived again.
        despite: names of ``CONCERNS`` that the holder has said yes to.

    Raises:
        BadInput: another concern, or a name that is none.
    """
    for name in despite:
        if name not in CONCERNS:
            raise BadInput(f"--despite {name}", "is no concern", f"Known: {', '.join(CONCERNS)}.")
    for name, why in concerns(looked).items():
        if name not in despite:
            raise BadInput(looked.path, why, f"If it is meant to be published: --despite {name}.")


def concerns(looked: Inspection) -> dict[str, str]:
    """The names of ``CONCERNS`` that a set raises, each with its reason."""
    card, found = looked.card, {}
    if card.poison is not None:
        found["poison"] = (
            f"is poisoned on purpose ({card.poison.attack}): networks trained on it carry a backdoor"
        )
    if card.shows_records:
        count = len(set(card.member_indices or []))
        found["records"] = f"shows {count or 'pieces of'} real records as they are"
    problems = list(looked.claim_problems)
    if card.privacy is not None and card.source_fingerprint is not None:
        problems.append("claims privacy, and its card holds a fingerprint of the records")
    if problems:
        found["claim"] = "; ".join(problems)
    if any(mark in (card.data or "") for mark in ("/", "\\")):
        found["path"] = f"its card names a path of this machine ({card.data})"
    return found


def released(value: DistilledSet) -> DistilledSet:
    """A set as it leaves the house: of a private one not how long it took, which may hang on the records."""
    if value.card.privacy is None:
        return value
    return replace(value, card=value.card.model_copy(update={"seconds": None}))


def set_card(looked: Inspection, place: str, text: str = "") -> str:
    """The README of a repository with one set: a text of the holder's, then all that the set says of itself.

    Args:
        place: where it goes, ``hub:owner/name``.
        text: Markdown to begin with; empty: a heading and how to read the set.
    """
    own = text or (
        "---\ntags:\n- dataset-distillation\n- ddaudit\n---\n"
        f"# {place.partition('/')[2]}\n\nA distilled data set. `ddaudit audit {place}` audits it, "
        f"`ddaudit inspect {place}` shows its card:"
    )
    # What a card says stands in a code block: it can neither link nor run anything on the page.
    facts = [f"    {line}" for line in describe(looked)[1:]]
    return "\n".join([own.rstrip(), "", *facts, ""])
