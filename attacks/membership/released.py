"""Attacks that look at the released images themselves, for one set or for K shadow sets at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ddaudit.attacks._common.features import embed, exact_copies
from ddaudit.attacks.membership.scores.class_mean import clip_rows, inner_product
from ddaudit.attacks.membership.scores.nearest import calibrated_closeness
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.sets import DistilledSet


def nearest_scores(
    records: ImageData,
    sets: list[DistilledSet],
    reference: ImageData,
    *,
    generator: torch.Generator,
    draws: int = 8,
) -> tuple[Tensor, Tensor]:
    """Calibrated closeness of every record to every set, in pixels.

    Args:
        records: N records under attack.
        sets: K released sets.
        reference: strangers, none of them among ``records``.
        generator: of the reference subsamples.
        draws: reference subsamples.

    Returns:
        (K, N) float64 ``log d(x, R) - log d(x, S)``, and (K, N) bool: the record is in the set
        verbatim.
    """
    x, r = records.pixels(), reference.pixels()
    rows = [released.images for released in sets]
    scores, distances = calibrated_closeness(x, rows, r, generator=generator, draws=draws)
    return scores, exact_copies(distances, pixels=x[0].numel())


def feature_closeness(
    records: ImageData,
    sets: list[DistilledSet],
    reference: ImageData,
    ctx: Context,
    *,
    generator: torch.Generator,
    draws: int = 8,
) -> Tensor:
    """Calibrated closeness as in :func:`nearest_scores`, between embeddings of one public random network.

    Distances in features survive small shifts and changes of contrast that pixels do not.

    Returns:
        (K, N) float64.
    """
    net = ctx.random_network("membership", "nearest features")
    x, r = embed(net, records.pixels()), embed(net, reference.pixels())
    rows = [embed(net, released.images) for released in sets]
    return calibrated_closeness(x, rows, r, generator=generator, draws=draws)[0]


def class_mean_scores(
    records: ImageData,
    sets: list[DistilledSet],
    reference: ImageData,
    ctx: Context,
    *,
    networks: int,
    clip: float | None,
    seed: int,
) -> Tensor:
    """Class-mean statistic of every record against every set, summed over public random networks.

    Args:
        records, sets, reference: see :func:`nearest_scores`.
        networks: random networks of the audit's architecture.
        clip: feature clipping of the private methods, or None.
        seed: of the networks.

    Returns:
        (K, N) float64.
    """
    x, r = records.pixels(), reference.pixels()
    total = torch.zeros(len(sets), len(x), dtype=torch.float64)
    for t in range(networks):
        net = ctx.random_network("membership", "random network", seed, t)
        zx, zr = (clip_rows(embed(net, part), clip) for part in (x, r))
        for k, released in enumerate(sets):
            total[k] += inner_product(
                zx,
                records.labels,
                clip_rows(embed(net, released.images), clip),
                released.labels,
                zr,
                reference.labels,
                num_classes=ctx.data.num_classes,
            )
    return total
