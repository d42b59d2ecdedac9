"""The knobs of auditor ``adversarial``, and the radii that they mean for one kind of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ddaudit.attacks.adversarial.ball import Bounds, Norm
from ddaudit.attacks.adversarial.suite import require_known
from ddaudit.auditing import Settings
from ddaudit.data import ImageData
from ddaudit.errors import DDAuditError

GREY = 1 / 255


class AdversarialSettings(Settings):
    """How much attacking is done. Radii are in pixel units on the [0, 1] scale (2/255 = two grey levels)."""

    attacks: tuple[str, ...] = ("pgd", "autoattack")
    """By name (ddaudit.attacks.adversarial.suite.ATTACKS); all but "pgd" run at the headline radius alone."""
    images: int = Field(default=1000, ge=2)
    """Test images (a fixed stratified sample) for the PGD curve."""
    eps: tuple[float, ...] = (0.0, GREY, 2 * GREY, 4 * GREY, 8 * GREY, 16 * GREY)
    """Linf radii of the curve."""
    l2_eps: tuple[float, ...] = (0.5,)
    """L2 radii."""
    pgd_steps: int = Field(default=40, ge=1)
    pgd_restarts: int = Field(default=1, ge=1)
    autoattack_eps: float | None = Field(default=None, gt=0)
    """The headline radius; None: 2/255 in Linf, 0.5 in L2."""
    autoattack_norm: Norm = "Linf"
    autoattack_images: int = Field(default=256, ge=2)
    autoattack_victims: int | None = Field(default=1, ge=1)
    """AutoAttack and other slow attacks on the first victims only; None: on all."""
    table_eps: tuple[float, ...] = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
    """Linf radii of the curve on standardised values, in standard deviations."""
    table_autoattack_eps: float = Field(default=0.25, gt=0)
    """The headline radius there."""
    check_images: int = Field(default=500, ge=2)
    """Test images for the gradient-masking tests."""
    check_queries: int = Field(default=200, ge=1)
    """Queries of the masking test's Square attack where AutoAttack does not run."""
    transfer: tuple[str, ...] = ()
    """Whose victims craft images for this subject's: subjects of the audit by name, recipes, or "subjects" for all
    that are asked for."""
    benchmark: Literal["", "dd-robustbench"] = ""
    """A published benchmark's attacks, steps and radii, on top."""
    beard_compat: bool = False
    """The BEARD benchmark's evaluation as coded (its tables, no robustness) and as meant, side by side."""

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(require_known(name) for name in names)
        except DDAuditError as error:
            raise ValueError(str(error)) from None

    @field_validator("eps", "l2_eps", "table_eps")
    @classmethod
    def _radii(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= r <= 255 for r in radii):
            raise ValueError("radii are zero or more")
        return tuple(sorted(set(radii)))

    @model_validator(mode="after")
    def _sensible(self) -> AdversarialSettings:
        linf = [*self.eps, *([self.headline] if self.autoattack_norm == "Linf" else [])]
        if max(linf, default=0) > 1:
            what = f"Linf radius {max(linf):g} goes beyond all pixels in [0, 1]"
            raise ValueError(f"{what}: {max(linf):g} grey levels are {max(linf) / 255:.4f}")
        if "cw" in self.attacks and not self.l2_eps and self.autoattack_norm != "L2":
            raise ValueError("attack 'cw' is thresholded in L2: give l2_eps, or autoattack_norm=L2")
        return self

    @property
    def headline(self) -> float:
        """The headline radius on pixels."""
        return self.autoattack_eps or (2 * GREY if self.autoattack_norm == "Linf" else 0.5)


@dataclass(frozen=True)
class Radii:
    """Where attacks may go on one data set.

    Attributes:
        linf, l2: radii of the curve; ``headline`` AutoAttack's.
        scale: from a radius to the axis of a plot; ``axis`` its label.
    """

    pixels: bool
    bounds: Bounds
    linf: tuple[float, ...]
    l2: tuple[float, ...]
    headline: float
    scale: float
    axis: str

    @classmethod
    def of(cls, settings: AdversarialSettings, data: ImageData) -> Radii:
        """Grey levels for pixels, standard deviations for standardised values."""
        if data.space == "pixels":
            return cls(
                True, data.bounds, settings.eps, settings.l2_eps, settings.headline, 255.0,
                "eps (grey levels of 255, Linf)",
            )  # fmt: skip
        return cls(
            False, data.bounds, settings.table_eps, settings.l2_eps, settings.table_autoattack_eps, 1.0,
            "eps (standard deviations, Linf)",
        )  # fmt: skip

    def of_l2(self, norm: Norm) -> tuple[float, ...]:
        """Radii for an attack on L2 length; the headline among them where that is one."""
        return tuple(sorted({*self.l2, *((self.headline,) if norm == "L2" else ())}))

    def words(self, eps: float) -> str:
        """A radius as people write it."""
        return f"{eps * 255:g}/255" if self.pixels else f"{eps:g}"
