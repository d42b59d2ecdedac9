"""Rates over (victims x images): one interval that covers both, and the Metric that carries it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ddaudit.findings import Direction, Metric, Resampled
from ddaudit.stats import Interval, crossed_mean, wilson


def rate(hits: Tensor) -> Interval:
    """The mean of a (V, N) bool table with an interval over images and victims.

    The wider of two intervals on each side: the crossed one (images and victims both sampled), which has no width
    when every entry agrees, and Wilson's on N images, which still says how little N images can exclude.

    Raises:
        NotEnoughData: fewer than 2 images.
    """
    table = hits.double()
    both, images = (
        crossed_mean(table).clamp(),
        wilson(float(table.mean()) * table.shape[1], table.shape[1]),
    )
    return both.at_least(images)


def rate_metric(
    name: str,
    interval: Interval,
    *,
    direction: Direction,
    headline: bool = False,
    floor: float | None = None,
    resampled: Resampled | None = None,
    **params: Any,
) -> Metric:
    """A Metric from an interval; ``params`` tell metrics of one name apart."""
    return Metric.of(
        name, interval, direction=direction, headline=headline, floor=floor, params=params,
        resampled=resampled,
    )  # fmt: skip
