"""Distilled sets: the artifact, its card, safe files, community formats."""

from ddaudit.sets._probe import from_bytes, is_set_file, to_bytes
from ddaudit.sets._store import LabelStore
from ddaudit.sets._types import (
    MOST_CHANNELS,
    Card,
    DistilledSet,
    LedgerEntry,
    Poison,
    PrivacyClaim,
    StorageBytes,
    empty_promise,
    given,
)
from ddaudit.sets.classes import match_classes
from ddaudit.sets.files import digest, fingerprint, load, save
from ddaudit.sets.formats import FORMATS
from ddaudit.sets.imports import detect, import_set
from ddaudit.sets.inspection import (
    Inspection,
    claim_problems,
    content_warnings,
    describe,
    inspect,
    pixels_outside,
    statement,
    stored_bytes,
)

__all__ = [
    "FORMATS",
    "MOST_CHANNELS",
    "Card",
    "DistilledSet",
    "Inspection",
    "LabelStore",
    "LedgerEntry",
    "Poison",
    "PrivacyClaim",
    "StorageBytes",
    "claim_problems",
    "content_warnings",
    "describe",
    "detect",
    "digest",
    "empty_promise",
    "fingerprint",
    "from_bytes",
    "given",
    "import_set",
    "inspect",
    "is_set_file",
    "load",
    "match_classes",
    "pixels_outside",
    "save",
    "statement",
    "stored_bytes",
    "to_bytes",
]
