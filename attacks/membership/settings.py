"""The knobs of the ``membership`` auditor, and how the presets set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from ddaudit.auditing import Settings

Attack = Literal[
    "lira", "lira-offline", "lira-fixed", "rmia", "rmia-offline", "quantile", "loss", "confidence",
    "entropy", "modified-entropy", "label-only", "label-only-shifts", "class-mean", "domias", "nearest",
    "nearest-features",
]  # fmt: skip
"""In the order of the report. "lira" is online; "lira-fixed" is online with one spread for all records
(fixed variance), which "lira" itself uses below 64 shadows."""

FileAttack = Literal[
    "rmia-offline", "quantile", "loss", "confidence", "entropy", "modified-entropy", "label-only",
    "label-only-shifts", "class-mean", "domias", "nearest", "nearest-features",
]  # fmt: skip
"""What works without the recipe. On a checkpoint, only those that look at a network."""

ATTACKS: tuple[Attack, ...] = get_args(Attack)
FILE_ATTACKS: tuple[FileAttack, ...] = get_args(FileAttack)


class MembershipSettings(Settings):
    """How many shadows on how many records, which attacks, and the controls."""

    shadows: int = Field(default=16, ge=3)
    """Re-distillations of a recipe, each on a random half of the pool."""
    pool: int = Field(default=4000, ge=40)
    """Training records that shadows are drawn from (recipe), or members under attack (file,
    checkpoint).
    """
    victims_per_shadow: int = Field(default=2, ge=1)
    population: int = Field(default=2000, ge=20)
    """Records from validation and test: non-members that calibrate (recipe); at most as many non-members
    under attack (file).
    """
    attacks: tuple[Attack, ...] = (
        "lira", "lira-offline", "rmia", "loss", "class-mean", "nearest",
    )  # fmt: skip
    """Attacks on recipes. "lira" and "nearest" carry the verdict and always run."""
    file_attacks: tuple[FileAttack, ...] = (
        "quantile", "loss", "modified-entropy", "label-only", "class-mean", "domias", "nearest",
    )  # fmt: skip
    """Attacks on files and checkpoints. The verdicts ("class-mean" and "nearest" on files, "loss")
    always run.
    """
    random_networks: int = Field(default=4, ge=1)
    """Public random networks of the class-mean attack."""
    noise_draws: int = Field(default=4, ge=0)
    """Noisy copies per level of the label-only attack; 0 leaves it out."""
    rmia_gamma: float = Field(default=1.0, gt=0)
    rmia_a: float = Field(default=0.3, ge=0, le=1)
    """Of "rmia-offline"; "rmia" measures how far its references rise."""
    rmia_references: int = Field(default=2, ge=1)
    """References of "rmia-offline", which is made for one to four."""
    control_runs: int = Field(default=8, ge=0)
    """Halves that the controls (DP-SGD, random records) are trained on, at least 3; 0 leaves them out."""
    control_steps: int = Field(default=60, ge=1)
    """DP-SGD steps of a control network."""
    control_epsilon: float = Field(default=10.0, gt=0)
    """Of the DP-SGD control where the subject makes no claim; a claim brings its own."""
    control_delta: float = Field(default=1e-5, gt=0, lt=1)
    control_sizes: tuple[float, ...] = (1.0,)
    """Random subsets to compare with, as multiples of the audit's images per class; the one nearest to
    the subject in accuracy is chosen.
    """

    @field_validator("control_runs")
    @classmethod
    def _enough(cls, runs: int) -> int:
        if runs in (1, 2):
            raise ValueError("LiRA needs at least 3 runs; 0 leaves the controls out")
        return runs

    @field_validator("control_sizes")
    @classmethod
    def _positive(cls, sizes: tuple[float, ...]) -> tuple[float, ...]:
        if any(not s > 0 for s in sizes):
            raise ValueError("sizes are positive multiples of the images per class")
        return sizes


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {"shadows": 8, "pool": 1200, "victims_per_shadow": 1, "population": 600,
              "random_networks": 4, "noise_draws": 1, "control_runs": 6},
    "standard": {"shadows": 16, "pool": 4000, "victims_per_shadow": 2, "population": 4000,
                 "random_networks": 8, "noise_draws": 4, "attacks": ATTACKS,
                 "file_attacks": FILE_ATTACKS, "control_runs": 8, "control_steps": 100,
                 "control_sizes": (0.5, 1.0, 2.0)},
    "full": {"shadows": 64, "pool": 10_000, "victims_per_shadow": 4, "population": 10_000,
             "random_networks": 16, "noise_draws": 8, "attacks": ATTACKS,
             "file_attacks": FILE_ATTACKS, "control_runs": 16, "control_steps": 200,
             "control_sizes": (0.25, 0.5, 1.0, 2.0, 4.0)},
}  # fmt: skip
