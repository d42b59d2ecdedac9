"""The knobs of the ``reconstruction`` auditor."""

from __future__ import annotations

from pydantic import Field

from ddaudit.auditing import Settings


class ReconstructionSettings(Settings):
    """How many records are attacked, in how large a set, and how hard."""

    targets: int = Field(default=10, ge=2)
    """Records to rebuild, spread over the classes; at most a tenth of the pool."""
    pool: int = Field(default=200, ge=20)
    """Records that are distilled again, an even sample of the training data. Every record weighs more in a smaller
    pool: rates of different pools cannot be compared.
    """
    networks: int = Field(default=48, ge=1)
    """Random networks of the final-set attack."""
    releases: int = Field(default=256, ge=1)
    """Noisy releases that the intermediate attack uses at most."""
    steps: int = Field(default=300, ge=1)
    """Gradient steps of an attack."""
    batch: int = Field(default=6, ge=1)
    """Networks or releases looked at in each step."""
    starts: int = Field(default=3, ge=1)
    """Starting images for each record."""
    pairs: int = Field(default=8, ge=0)
    """Records in the pictures; 0 keeps real records out of the report."""
