"""Rows of K numbers as labels: probabilities, stored at what precision, or logits?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddaudit.errors import BadInput
from ddaudit.sets.formats._base import choice
from ddaudit.sets.simplex import to_simplex

KINDS = ("probabilities", "logits", "centred")
SOFT_OPTIONS = {
    "labels": "what soft labels are, where several are plausible: probabilities, logits, or centred "
    "(probabilities less 1 / K, the targets of kernel regression)"
}

_EXACT = 1e-5
"""Sums this near to 1 are float32 arithmetic: the rows stay as they are."""
_LOOSE = 1e-3
"""Relative error that any stored probability may have: sums of rows of thousands, float16."""
_NEAR = 0.1
"""Rows that come this near to probabilities, and are none at any precision, may be either."""


def probabilities(
    labels: Tensor, where: Path, options: Mapping[str, str]
) -> tuple[Tensor, str | None]:
    """(M, K) float32 distributions of stored probabilities or logits, and a note that says which was read.

    Rows are probabilities where numbers in [0, 1] that sum to 1 can have been rounded to them: each stored number
    stands for all numbers that its precision (of its type, or the grid that all numbers lie on: bfloat16, 8 bits,
    decimals) rounds to it, and some choice of those sums to 1. The choice that comes back moves every number by the
    same share of its room, so that it stays within the rounding: for floating point that divides rows by their sums.
    Everything else is logits, unless it comes near; then the option ``labels`` decides.

    Args:
        labels: (M, K), finite, of any real type.

    Raises:
        BadInput: both readings are plausible and ``labels`` is not given, or it cannot be true.
    """
    rows = labels.double()
    said = f"soft labels run from {float(rows.min()):.4g} to {float(rows.max()):.4g}"
    if labels.dtype == torch.uint8 and float(rows.max()) > 1:
        rows = rows / 255.0
    kind = choice(options, "labels", KINDS, default="") if "labels" in options else ""
    if kind == "logits":
        return _softmax(labels, f"{said}, read as logits as asked: softmax taken")
    read = _as_stored(rows, labels.dtype)
    if read is not None:
        return read[0].float(), f"{said}, read as probabilities{read[1]}"
    if kind == "probabilities":
        if float(rows.min()) < 0 or float(rows.sum(1).min()) <= 0:
            what = f"cannot be: {said}, and no row may sum to 0 or less"
            raise BadInput("--set labels=probabilities", what, "Pass --set labels=logits.")
        note = f"{said}, read as probabilities as asked: rows divided by their sums"
        return (rows / rows.sum(1, keepdim=True)).float(), note
    if kind == "centred":
        if not _centred(rows):
            what = f"cannot be: {said}, and probabilities less 1 / K sum to 0 and stay within 1"
            raise BadInput("--set labels=centred", what, "Pass --set labels=logits.")
        made = to_simplex((rows + 1 / rows.shape[1]).float())
        note = f"{said}, read as probabilities less 1 / K as asked: the nearest distributions taken"
        return made, note
    if _doubtful(rows, labels.dtype):
        sums = f"rows sum to {float(rows.sum(1).min()):.4g} to {float(rows.sum(1).max()):.4g}"
        raise BadInput(
            where,
            f"{said} and {sums}: probabilities or logits",
            "Pass --set labels=probabilities or --set labels=logits.",
        )
    if _centred(rows):
        raise BadInput(
            where,
            f"{said} and rows sum to 0: probabilities less 1 / K (targets of kernel regression) or logits",
            "Pass --set labels=centred or --set labels=logits.",
        )
    return _softmax(labels, f"{said}, read as logits (as DATM and PAD store them): softmax taken")


def _centred(rows: Tensor) -> bool:
    """Whether all rows can be distributions less 1 / K, or were such targets before they were learned on."""
    share = 1 / rows.shape[1]
    inside = float(rows.min()) >= -share - _NEAR and float(rows.max()) <= 1 - share + _NEAR
    return inside and float(rows.sum(1).abs().mean()) < _NEAR


@dataclass(frozen=True)
class _Precision:
    """Half the distance between two numbers that can be told apart."""

    words: str
    relative: float = 0.0
    absolute: float = 0.0


def _as_stored(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, str] | None:
    """The distributions that rows were rounded from, and how; None where they cannot be."""
    if float(rows.min()) < -1e-6 or float(rows.max()) > 1 + _LOOSE:
        return None
    rows = rows.clamp(0, 1)
    for precision in _precisions(rows, dtype):
        room = precision.relative * rows + precision.absolute
        low, high = (rows - room).clamp(min=0), (rows + room).clamp(max=1)
        gap = 1 - rows.sum(1, keepdim=True)
        up, down = high - rows, rows - low
        side = torch.where(gap > 0, up, -down)
        reach = side.sum(1, keepdim=True)
        if bool((gap.abs() <= reach.abs() + _EXACT).all()):
            if float(gap.abs().max()) <= _EXACT:
                return rows, ""
            moved = rows + side * (gap / torch.where(reach == 0, 1.0, reach)).clamp(0, 1)
            sums = rows.sum(1)
            how = f"{precision.words}: rows summed to {sums.min():.4g} to {sums.max():.4g}"
            return moved / moved.sum(1, keepdim=True), f" {how}, and were made to sum to 1"
    return None


def _precisions(rows: Tensor, dtype: torch.dtype) -> Iterator[_Precision]:
    """What the numbers may have been rounded to, the likeliest first."""
    limits = torch.finfo(dtype if dtype.is_floating_point else torch.float32)
    name = str(dtype).removeprefix("torch.")
    smallest = limits.smallest_normal * limits.eps
    # Decimals come first: sums of a few digits may be as near to 1 as those of any type.
    digits = next((n for n in (2, 3, 4, 5) if _on_grid(rows, 10**n)), None)
    if digits is not None:
        yield _Precision(f"rounded to {digits} digits", absolute=0.5 / 10**digits)
    yield _Precision(f"of type {name}", max(limits.eps, _LOOSE), smallest)
    if _on_grid(rows, 255):
        yield _Precision("of 8 bits", absolute=0.5 / 255)
    for narrow in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        if bool((rows.float().to(narrow).double() == rows).all()):
            limits = torch.finfo(narrow)
            words = f"of {str(narrow).removeprefix('torch.')} precision"
            yield _Precision(words, limits.eps, limits.smallest_normal * limits.eps)


def _on_grid(rows: Tensor, steps: int) -> bool:
    """True where all numbers are multiples of 1 / steps, as far as float32 can say."""
    scaled = rows * steps
    return bool(((scaled - scaled.round()).abs() <= steps * rows * 1.2e-7 + 1e-9).all())


def _doubtful(rows: Tensor, dtype: torch.dtype) -> bool:
    """True for rows that may be probabilities after all: nearly so, percentages, 8 bits, whole numbers."""
    # Votes, one-hot rows of which some are empty or hold two, +1 and -1: no network's logits are whole numbers.
    if not dtype.is_floating_point or bool((rows == rows.round()).all()):
        return True
    sums = rows.sum(1)
    within = float(rows.min()) >= -_NEAR and float(rows.max()) <= 1 + _NEAR
    if within and float(((sums - 1).abs() <= _NEAR).double().mean()) >= 0.5:
        return True  # a row or two that are none, among others that are, make no logits of all
    scaled = any(bool(((sums - one).abs() <= 0.01 * one).all()) for one in (100, 255))
    return scaled and float(rows.min()) >= 0


def _softmax(labels: Tensor, note: str) -> tuple[Tensor, str]:
    return labels.float().softmax(1), note
