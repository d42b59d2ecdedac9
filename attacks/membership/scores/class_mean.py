"""Class-mean attack: does a record point where a released class mean leaves the population?

A distilled set that matches sums of features reveals, for any public random network, a (noisy) sum
over its members. The likelihood-ratio direction for "is x one of the terms?" is then the inner
product of x's feature with that sum's deviation from the population.
"""

from __future__ import annotations

import torch
from torch import Tensor


def inner_product(
    x: Tensor,
    labels: Tensor,
    released: Tensor,
    released_labels: Tensor,
    reference: Tensor,
    reference_labels: Tensor,
    *,
    num_classes: int,
) -> Tensor:
    """The score of one feature space: ``<x - mean_R(y), mean_S(y) - mean_R(y)>``.

    Args:
        x: (N, D) features; ``labels`` (N,).
        released: (M, D); ``released_labels`` (M,) or (M, K).
        reference: (R, D); ``reference_labels`` (R,).
        num_classes: K.

    Returns:
        (N,) float64. Centring on the reference mean only shifts whole classes, so that classes
        share a scale.

    Source: Dwork et al., "Robust Traceability from Trace Amounts", FOCS 2015 (inner-product attack
    on means).
    """
    s_mean, s_has = _means(released.double(), released_labels, num_classes)
    r_mean, r_has = _means(reference.double(), reference_labels, num_classes)
    direction = torch.where((s_has & r_has)[:, None], s_mean - r_mean, 0.0)
    return ((x.double() - r_mean[labels]) * direction[labels]).sum(1)


def clip_rows(rows: Tensor, limit: float | None) -> Tensor:
    """Scale rows of (N, D) down to Euclidean length ``limit``; None leaves them alone."""
    if limit is None:
        return rows
    scale: Tensor = (limit / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    return rows * scale


def _means(rows: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(K, D) class means (0 for an absent class) and (K,) bool presence; soft labels weigh."""
    if labels.ndim == 2:
        weights = labels.double().T
    else:
        weights = torch.nn.functional.one_hot(labels, num_classes).double().T
    mass = weights.sum(1)
    return weights @ rows / mass.clamp(min=1e-12)[:, None], mass > 1e-9
