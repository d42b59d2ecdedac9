"""The label kinds in circulation: class indices, logits, probabilities, regression targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets.formats._base import choice
from ddaudit.sets.formats._safe import array_tensor, described, is_plain, widened
from ddaudit.sets.formats._soft import probabilities
from ddaudit.sets.simplex import to_simplex

TARGET_OPTIONS = {
    "targets": "hard (default): the largest target is the label; soft: the nearest distribution"
}


def tensor(value: Any, where: Path) -> Tensor:
    """A label tensor of a stored tensor or array.

    Raises:
        BadInput: neither.
    """
    if isinstance(value, np.ndarray):
        value = array_tensor(value, where, "labels")
    if not isinstance(value, Tensor) or not is_plain(value):
        raise BadInput(where, f"labels are {described(value)}, expected a numeric tensor")
    return widened(value.detach().cpu(), where, "labels")


def hard(labels: Tensor, where: Path) -> Tensor:
    """(M,) int64 class indices of integer labels or floats with whole values, (M,) or a column (M, 1).

    Raises:
        BadInput: not one whole number per image.
    """
    if _is_column(labels):
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BadInput(where, f"labels have shape {tuple(labels.shape)}, expected (M,)")
    if labels.dtype == torch.bool:
        raise BadInput(where, "labels are true or false", "Class indices were expected: 0, 1, ...")
    if labels.is_floating_point() and not bool((_finite(labels, where) == labels.round()).all()):
        raise BadInput(where, "labels are not whole numbers", "Soft labels have shape (M, K).")
    return labels.to(torch.int64)


def hard_or_soft(
    labels: Tensor, where: Path, options: Mapping[str, str]
) -> tuple[Tensor, str | None]:
    """Hard labels, (M,) or a column (M, 1), as they are; (M, K) ones as distributions.

    See :func:`ddaudit.sets.formats._soft.probabilities`.

    Raises:
        BadInput: neither shape, not finite, or probabilities and logits are both plausible.
    """
    if labels.ndim != 2 or _is_column(labels):
        return hard(labels, where), None
    _finite(labels, where)
    return probabilities(labels, where, options)


def from_regression(
    labels: Tensor, where: Path, options: Mapping[str, str], *, scaled: bool = False
) -> tuple[Tensor, str | None]:
    """Labels of kernel-regression targets (centred one-hot, maybe learned and scaled).

    They are regression targets, not distributions: rows sum to 0 and hold negative values. By default the argmax
    counts, which is what every published comparison with other methods uses; with the option ``targets=soft`` the
    distributions nearest to them, which is what our own methods of this kind release.

    Args:
        labels: (M,), a column (M, 1), or (M, K) targets.
        scaled: one-hot labels less 1 / K were divided by sqrt(K / 10), as FRePo does.

    Raises:
        BadInput: wrong shape, or not finite.
    """
    kind = choice(options, "targets", ("hard", "soft"), default="hard")
    if labels.ndim == 1 or _is_column(labels):
        if kind == "soft":
            raise BadInput("--set targets=soft", f"labels of {where} are class indices")
        return hard(labels, where), None
    if labels.ndim != 2:
        raise BadInput(where, f"labels have shape {tuple(labels.shape)}, expected (M, K)")
    rows = _finite(labels, where)
    what = "labels are regression targets, not distributions"
    apart = "accuracies by kernel regression on the targets are not comparable"
    if kind == "hard":
        return rows.argmax(1), f"{what}: the largest one became a hard label; {apart}"
    k = rows.shape[1]
    plain = rows * (math.sqrt(k / 10) if scaled else 1.0) + 1 / k
    made = to_simplex(plain)
    moved = float((made - plain).abs().amax(1).mean())
    return made, f"{what}: the nearest ones were taken, {moved:.2g} away on average; {apart}"


def _is_column(labels: Tensor) -> bool:
    return labels.ndim == 2 and labels.shape[1] == 1


def _finite(labels: Tensor, where: Path) -> Tensor:
    rows = labels.float()
    if rows.numel() == 0:
        raise BadInput(where, f"labels have shape {tuple(labels.shape)}: empty")
    if not bool(torch.isfinite(rows).all()):
        raise BadInput(where, "labels contain NaN or infinity", "Distillation probably diverged.")
    return rows
