"""What the measuring auditors share: victims' answers, and a Metric from an Interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddaudit.auditing import Context, Subject
from ddaudit.findings import Direction, Metric
from ddaudit.stats import Interval


def victim_logits(ctx: Context, subject: Subject, seed: int, images: Tensor) -> Tensor:
    """(V, N, K) float32 logits of every victim of the subject on the images."""
    return torch.stack([ctx.predict(net, images) for net in ctx.victims(subject, seed)])


def metric(
    name: str,
    interval: Interval,
    *,
    direction: Direction = "none",
    unit: str = "fraction",
    floor: float | None = None,
    headline: bool = False,
    params: Mapping[str, Any] | None = None,
) -> Metric:
    """The metric of this name with the interval's numbers."""
    return Metric(
        name=name, value=interval.value, low=interval.low, high=interval.high, n=interval.n,
        direction=direction, unit=unit, floor=floor, headline=headline, params=dict(params or {}),
    )  # fmt: skip


def few_images(n: int, victims: int) -> list[str]:
    """Caveats on the size of the sample."""
    out = []
    if n < 1000:
        out.append(f"Only {n} test images: differences of a few points are within the intervals.")
    if victims == 1:
        out.append("One network: the intervals cover test-image sampling, not retraining.")
    elif victims == 2:
        out.append(
            "Two networks per set say little about a third: where they differ, intervals are wide "
            "and cover somewhat less than 95 %."
        )
    return out
