"""Calibration at matched accuracy: a set's ECE beside that of random real records whose networks are as accurate.

A network that is often wrong and sure of itself has a large ECE whatever it was trained on, so that a set which beats
another in accuracy tends to beat it in ECE. Random real subsets of several sizes give ECE as a function of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ddaudit.auditing import Context, Shared, recipe_subject
from ddaudit.data import ImageData
from ddaudit.distillation import resolve
from ddaudit.findings import Metric
from ddaudit.measures import ece as binned
from ddaudit.measures._common import victim_logits
from ddaudit.stats import Resamples, crossed

_SHARED = Shared()


def references(ctx: Context, seed: int, sizes: Sequence[int], asked: ImageData) -> list[Tensor]:
    """(V, N, K) answers of networks trained on random real subsets, one per size that every class can fill.

    Args:
        sizes: images per class.
        asked: the records that they answer.
    """
    largest = int(ctx.data.train.class_counts().min())
    subject = recipe_subject(resolve("random", profile=ctx.preset.profile), baseline=True)

    def answers(size: int) -> Tensor:
        return victim_logits(replace(ctx, ipc=size), subject, seed, asked.images).double()

    return [
        _SHARED.once(ctx, (seed, size, asked.fingerprint), partial(answers, size))
        for size in sizes
        if size <= largest
    ]


def matched_ece(
    logits: Tensor,
    by: Sequence[Tensor],
    labels: Tensor,
    *,
    bins: int,
    resamples: Resamples,
    stage: str,
) -> Metric | None:
    """ECE less that of references at the same accuracy, interpolated between their sizes.

    Network v is compared with the v-th network of each size, so that the interval covers how both differ.

    Args:
        logits: (V, N, K).
        by: references, (V, N, K) each.

    Returns:
        None where the accuracy lies outside that of the references.
    """
    mine, theirs = _Read(logits, labels, bins), [_Read(z, labels, bins) for z in by]
    once = torch.ones(1, len(labels), dtype=torch.float64)
    accuracies = [float(r.accuracy(once).mean()) for r in theirs]
    own = float(mine.accuracy(once).mean())
    if not accuracies or not min(accuracies) <= own <= max(accuracies):
        return None
    values = torch.tensor(list(_beyond(mine, theirs, once)), dtype=torch.float64)
    drawn = [torch.stack(list(_beyond(mine, theirs, w))).mean(0) for w in resamples.weights()]
    interval = crossed(values, torch.cat(drawn), n=len(labels), shift=False).clamp(-1.0, 1.0)
    return Metric.of(
        "calibration.matched_ece", interval, direction="lower", floor=0.0, params={"stage": stage}
    )


class _Read:
    """Accuracy and ECE of networks on resamples: weights (B, N) -> (V, B)."""

    def __init__(self, logits: Tensor, labels: Tensor, bins: int) -> None:
        self.n = len(labels)
        self.hits = (logits.argmax(2) == labels).double()
        self.tables = [binned.error_table(z.softmax(1), labels, bins=bins) for z in logits]

    def accuracy(self, weights: Tensor) -> Tensor:
        return (self.hits @ weights.T) / self.n

    def ece(self, weights: Tensor) -> Tensor:
        return torch.stack([(weights @ t).abs().sum(1) for t in self.tables]) / self.n


def _beyond(mine: _Read, theirs: Sequence[_Read], weights: Tensor) -> Iterator[Tensor]:
    """(B,) of each network: its ECE less that of its references at its accuracy."""
    accuracy, ece = mine.accuracy(weights), mine.ece(weights)
    line = [(r.accuracy(weights), r.ece(weights)) for r in theirs]
    for v in range(len(accuracy)):
        x, y = (torch.stack([pair[i][v] for pair in line]) for i in (0, 1))  # (sizes, B)
        order = torch.argsort(x, dim=0, stable=True)
        x, y = x.gather(0, order), y.gather(0, order)
        at = [np.interp(a, p, q) for a, p, q in zip(accuracy[v], x.T, y.T, strict=True)]
        yield ece[v] - torch.tensor(at, dtype=torch.float64)
