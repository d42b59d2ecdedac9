"""Group gaps as fairlearn computes them: printed one-against-rest gaps, and a second opinion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RestGaps:
    """The largest gap between groups over classes taken one against the rest, in [0, 1].

    Attributes:
        demographic_parity: of how often the class is predicted.
        equalized_odds: of its true-positive and false-positive rates.
    """

    demographic_parity: float
    equalized_odds: float


def class_gaps(labels: Tensor, predictions: Tensor, groups: Tensor) -> Tensor:
    """(K',) accuracy gap between groups for each class that occurs: max is DEO_M, mean is DEO_A.

    ``MetricFrame`` with the class as control feature; classes of one group have gap 0 here.
    """
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    frame = MetricFrame(
        metrics=accuracy_score,
        y_true=labels.numpy(),
        y_pred=predictions.numpy(),
        sensitive_features=groups.numpy(),
        control_features=labels.numpy(),
    )
    gaps = frame.difference("between_groups")
    return torch.tensor(gaps.to_numpy(dtype=float))


def one_vs_rest_gaps(
    labels: Tensor, predictions: Tensor, groups: Tensor, num_classes: int
) -> RestGaps:
    """Demographic parity and equalized odds differences of a multi-class network.

    fairlearn's own functions are binary, so every class is taken against the rest. Rates of empty
    cells are left out (fairlearn's rate functions call them 0).

    Args:
        labels, predictions, groups: (N,) int64.
    """
    from fairlearn.metrics import (
        MetricFrame,
        false_positive_rate,
        selection_rate,
        true_positive_rate,
    )

    metrics: dict[str, Callable[..., float]] = {}
    for k in range(num_classes):
        metrics[f"selected {k}"] = _against_rest(selection_rate, k, None)
        metrics[f"tpr {k}"] = _against_rest(true_positive_rate, k, True)
        metrics[f"fpr {k}"] = _against_rest(false_positive_rate, k, False)
    # Equal records are one row with a weight: MetricFrame's cost is per row and metric.
    rows = torch.stack([labels, predictions, groups])
    records, weights = torch.unique(rows, dim=1, return_counts=True)
    frame = MetricFrame(
        metrics=metrics,
        y_true=records[0].numpy(),
        y_pred=records[1].numpy(),
        sensitive_features=records[2].numpy(),
        sample_params={name: {"sample_weight": weights.numpy()} for name in metrics},
    )
    gaps = frame.difference("between_groups")
    parity = [gaps[f"selected {k}"] for k in range(num_classes)]
    odds = [gaps[f"{rate} {k}"] for k in range(num_classes) for rate in ("tpr", "fpr")]
    return RestGaps(_largest(parity), _largest(odds))


def _against_rest(rate: Callable[..., float], k: int, needs: bool | None) -> Callable[..., float]:
    """``rate`` of class k against the rest; NaN without a record whose truth is ``needs``."""

    def of(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
        truth = y_true == k
        if needs is not None and not bool((truth == needs).any()):
            return float("nan")
        predicted = (y_pred == k).astype(int)
        return float(rate(truth.astype(int), predicted, sample_weight=sample_weight, pos_label=1))

    return of


def _largest(gaps: list[float]) -> float:
    known = [float(g) for g in gaps if g == g]
    return max(known) if known else float("nan")
