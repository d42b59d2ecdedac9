"""How unusual a suspect's readings are among those of clean sets: exact p-values by rank, one false-alarm rate a scan.

Suspect and clean sets go into one bag of n + 1. Every member is compared with the n others: its readings (of a detector
and a class each) less their mean, over their standard deviation. Its statistic is the largest of these. If the suspect
is a clean set like the others, each of the n + 1 is as likely as any to have the largest statistic, so the rank of the
suspect's is a p-value, exact whatever readings look like and however detectors depend on each other. The largest over
all detectors gives the scan its one p-value, and each detector's against it (Westfall and Young's max-T, one step) what
is left of its own when seven were asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DetectorVerdict:
    """One detector's reading of the suspect among the clean sets' readings.

    Attributes:
        excess: (K,) standard deviations above the other sets' mean, class by class.
        usual: median over clean sets of their largest excess: what a clean set reads by chance.
        p_value: by rank, of this detector alone.
        adjusted: by rank among the largest of all detectors.
    """

    excess: Tensor
    usual: float
    p_value: float
    adjusted: float

    @property
    def suspect(self) -> int:
        """The class that looks worst."""
        return int(self.excess.argmax())


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A scan's answer.

    Attributes:
        p_value: of the scan: chance that a clean set looks as bad to any detector.
        clean_sets: n.
        verdicts: by detector.
    """

    p_value: float
    clean_sets: int
    verdicts: Mapping[str, DetectorVerdict]

    @property
    def smallest(self) -> float:
        """The smallest p-value that n clean sets can give, 1 / (1 + n)."""
        return 1 / (1 + self.clean_sets)


def calibrate(suspect: Mapping[str, Tensor], clean: Sequence[Mapping[str, Tensor]]) -> Calibrated:
    """Rank a suspect among clean sets.

    Args:
        suspect: (K,) scores by detector, larger = more suspicious.
        clean: the same of at least two clean sets, made and read as the suspect was.
    """
    excess = {
        name: excesses(torch.stack([scores, *(c[name] for c in clean)]).double())
        for name, scores in suspect.items()
    }
    largest = {name: t.amax(1) for name, t in excess.items()}
    overall = torch.stack(list(largest.values())).amax(0)
    verdicts = {
        name: DetectorVerdict(
            excess=excess[name][0],
            usual=float(own[1:].median()),
            p_value=rank_p_value(own[0], own[1:]),
            adjusted=rank_p_value(own[0], overall[1:]),
        )
        for name, own in largest.items()
    }
    return Calibrated(rank_p_value(overall[0], overall[1:]), len(clean), verdicts)


def excesses(values: Tensor) -> Tensor:
    """(n + 1, K): each row's standard deviations above the mean of the other rows, class by class.

    A variance is the mean of two: of the class itself among the n others, and of all classes together. From few sets
    the first alone is often far too small, and one lucky class would drown the rest. Widened by sqrt(1 + 1 / n) for
    the uncertainty of the mean. Where nothing varies a difference counts in billionths of its size: far, but finite.
    """
    n = len(values) - 1
    shifted = values - values.mean(0)  # sums of squares cancel badly far from 0
    mean = -shifted / n
    variance = (shifted.square().sum(0) - shifted.square() - n * mean.square()) / max(n - 1, 1)
    variance = (variance + variance.mean(1, keepdim=True)).clamp_min(0) / 2
    least = 1e-9 * (1 + values.abs().mean())
    excess: Tensor = (shifted - mean) / (
        variance.sqrt().clamp_min(float(least)) * (1 + 1 / n) ** 0.5
    )
    return excess


def rank_p_value(value: Tensor, clean: Tensor) -> float:
    """(1 + clean readings at least as large) / (1 + n), for (n,) clean readings; one that is no number counts as large.

    Source: Phipson and Smyth, "Permutation P-values Should Never Be Zero", 2010.
    """
    return (1 + int((~(clean < value)).sum())) / (1 + len(clean))
