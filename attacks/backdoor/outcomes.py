"""What victims make of clean and of stamped test images, and how much of it is the backdoor's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.attacks._common.trigger import Stamps
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.models import Network
from ddaudit.stats import Interval, paired_difference


@dataclass(frozen=True, eq=False)
class Outcome:
    """How victims do on one test set, clean and stamped.

    Attributes:
        correct: (V, N) bool on clean images.
        hit: (V, N) bool, the stamped image is classified as the target.
        other: (N,) bool, images whose class is not the target.
        source: (N,) bool, images of the one class that the trigger was made for; None: it was made for all.
    """

    correct: Tensor
    hit: Tensor
    other: Tensor
    source: Tensor | None = None

    @property
    def exclusive(self) -> Tensor:
        """(V, M) hits on images that are not of the target class."""
        return self.hit[:, self.other]

    @property
    def meant(self) -> Tensor:
        """(N,) bool, the images that the trigger was made for: of its one class, or of all but the target."""
        return self.other if self.source is None else self.source


def outcome(
    ctx: Context,
    victims: list[Network],
    test: ImageData,
    trigger: Stamps,
    target: int,
    *,
    clamp: bool = True,
    source_class: int | None = None,
) -> Outcome:
    """Predictions of all victims on clean and stamped test images; see :meth:`Trigger.stamp` for ``clamp``."""
    stamped = trigger.stamp(test.images, clamp=clamp)
    correct = torch.stack([ctx.predict(n, test.images).argmax(1) == test.labels for n in victims])
    hit = torch.stack([ctx.predict(n, stamped).argmax(1) == target for n in victims])
    source = None if source_class is None else test.labels == source_class
    return Outcome(correct, hit, test.labels != target, source)


def gain(attacked: Outcome, clean: Outcome) -> Interval:
    """ASR of the attacked victims minus that of the clean set's victims, on the same images, in [-1, 1].

    The images are those that the trigger was made for (:attr:`Outcome.meant`).
    """
    a, c = attacked.hit[:, attacked.meant], clean.hit[:, clean.meant]
    both = paired_difference(a.float(), c.float())
    # Where all victims agree on all images the crossed interval has no width; single pairs still know N.
    pairs = [paired_difference(x.float(), y.float()) for x, y in zip(a, c, strict=False)]
    down, up = (sum(ends) / len(pairs) for ends in zip(*(_sides(p) for p in pairs), strict=True))
    images = Interval(both.value, both.value - down, both.value + up, both.n)
    return both.at_least(images).clamp(-1.0, 1.0)


def _sides(i: Interval) -> tuple[float, float]:
    return i.value - i.low, i.high - i.value
