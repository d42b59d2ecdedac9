"""One planted backdoor: what it does to the test images, what networks make of them, and the metrics of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ddaudit.attacks._common.pictures import mosaic
from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks._common.trigger import as_pixels, budget
from ddaudit.attacks.backdoor.injection import THREATS, Injected, Injection
from ddaudit.attacks.backdoor.outcomes import Outcome, gain, outcome
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.findings import Metric, Picture
from ddaudit.models import Network
from ddaudit.stats import Resamples


@dataclass(frozen=True, eq=False)
class Attempt:
    """One planted backdoor before networks: what it does to the test images, and what networks make of them."""

    ctx: Context
    attack: Injection
    planted: Injected
    test: ImageData
    target: int

    @property
    def params(self) -> dict[str, Any]:
        """What tells its metrics apart from those of other attacks."""
        ratio = self.planted.ratio
        return {"attack": self.attack.name, **({} if ratio is None else {"ratio": ratio})}

    @cached_property
    def leaves_pixels(self) -> bool:
        """Whether some stamped image is no valid image before it is clamped."""
        raw = self.planted.trigger.stamp(self.test.images, clamp=False)
        return bool((raw < -1e-6).any() or (raw > 1 + 1e-6).any())

    def on(self, nets: list[Network], *, clamp: bool = True) -> Outcome:
        """What these networks make of the test images."""
        return outcome(
            self.ctx, nets, self.test, self.planted.trigger, self.target, clamp=clamp,
            source_class=self.planted.source_class,
        )  # fmt: skip

    def released(self) -> list[Metric]:
        """How many stamped records a coreset releases as they are; nothing for sets of synthetic images."""
        members = self.planted.made.card.member_indices
        if members is None or self.planted.poisoned is None:
            return []
        count = int(torch.isin(torch.tensor(members), self.planted.poisoned.index).sum())
        return [
            Metric(
                name="backdoor.poisoned_released", value=float(count), low=float(count), high=float(count),
                n=len(members), unit="images", direction="lower", params=self.params,
            )
        ]  # fmt: skip

    def size(self) -> list[Metric]:
        """The trigger's budget on the test images."""
        found = budget(self.planted.trigger, self.test.images)
        parts = (
            ("linf", found.linf, "fraction"),
            ("l2", found.l2, "pixel values"),
            ("pixels", found.pixels, "pixels"),
        )
        return [
            Metric(
                name=f"backdoor.trigger_{part}", value=value, low=value, high=value, n=len(self.test), unit=unit,
                params={"attack": self.attack.name},
            )
            for part, value, unit in parts
        ]  # fmt: skip

    def words(self) -> str:
        """Everything that ASR in the literature differs by, in one caveat."""
        attack, planted = self.attack, self.planted
        found = budget(planted.trigger, self.test.images)
        names = self.ctx.data.train.class_names
        share = "no record" if planted.poisoned is None else (
            f"{len(planted.poisoned.index)} records ({planted.ratio:g} {planted.ratio_of})"
        )  # fmt: skip
        source = (
            ""
            if planted.source_class is None
            else f", made for '{names[planted.source_class]}' alone"
        )
        clamp = (
            "clamped to valid pixels"
            if self.leaves_pixels
            else "valid pixels, so that a clamp changes nothing"
        )
        return (
            f"{attack.name} ({attack.status}; {THREATS[attack.threat]}): poisoned {share}; target "
            f"'{names[self.target]}'{source}; the trigger moves {found.pixels:.3g} pixels by up to "
            f"{255 * found.linf:.3g} grey levels (L2 {found.l2:.3g}), {clamp}."
            + "".join(f" Deviation: {d}." for d in attack.deviations)
        )

    def picture(self) -> Picture:
        """Eight test images beside their stamped copies."""
        shown = self.test.images[:8]
        pairs = list(
            zip(as_pixels(shown), as_pixels(self.planted.trigger.stamp(shown)), strict=True)
        )
        target = self.ctx.data.train.class_names[self.target]
        return Picture(
            name=f"trigger of {self.attack.name}",
            caption=f"Test images, each beside itself with the trigger that should lead to '{target}'.",
            png_base64=mosaic(pairs, columns=4),
        )


def accuracy(name: str, found: Outcome, **params: Any) -> Metric:
    """Accuracy on clean images."""
    return rate_metric(name, rate(found.correct), direction="higher", **params)


def success(name: str, found: Outcome, params: Mapping[str, Any]) -> list[Metric]:
    """ASR of networks that others are compared with, by variant."""
    return [
        rate_metric(name, rate(hits), direction="none", variant=variant, **params)
        for variant, hits in variants_of(found).items()
    ]


def effect(
    attacked: Outcome, clean: Outcome, params: Mapping[str, Any], resamples: Resamples | None
) -> list[Metric]:
    """CTA, ASR and its gain over the clean set's networks (victims of equal seeds); ``resamples`` of the images that
    the trigger was made for make them the headline, paired on them."""
    headline = resamples is not None
    meant = "exclusive" if attacked.source is None else "source"
    floors = {v: float(h.double().mean()) for v, h in variants_of(clean).items()}
    found = [accuracy("backdoor.cta", attacked, **params)]
    for variant, hits in variants_of(attacked).items():
        paired = resamples if variant == meant else None
        found.append(
            rate_metric(
                "backdoor.asr", rate(hits), direction="lower", headline=paired is not None,
                floor=floors[variant], resampled=None if paired is None else paired.of_rate(hits),
                variant=variant, **params,
            )
        )  # fmt: skip
    gained = attacked.hit[:, attacked.meant].double() - clean.hit[:, clean.meant].double()
    return [
        *found,
        rate_metric(
            "backdoor.asr_gain", gain(attacked, clean), direction="lower", headline=headline, floor=0.0,
            resampled=None if resamples is None else resamples.of_rate(gained), variant=meant, **params,
        ),
    ]  # fmt: skip


def variants_of(found: Outcome) -> dict[str, Tensor]:
    """(V, M) hits by what they are counted on: all images, those of other classes, those of the trigger's own class."""
    own = {} if found.source is None else {"source": found.hit[:, found.source]}
    return {"inclusive": found.hit, "exclusive": found.exclusive, **own}
