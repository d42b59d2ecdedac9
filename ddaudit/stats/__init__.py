"""Statistics: intervals, ROC at low FPR, paired tests, noise floors."""

from ddaudit.stats.crossing import (
    crossed,
    crossed_difference,
    crossed_mean,
    crossed_rate,
)
from ddaudit.stats.floors import Floor, GapFloor, fair_gap_floor, max_min_gap
from ddaudit.stats.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    mean_t,
    wilson,
)
from ddaudit.stats.paired import paired_difference
from ddaudit.stats.resampling import Resamples
from ddaudit.stats.roc import Roc, auc, roc_curve, tpr_at_fpr

__all__ = [
    "Floor",
    "GapFloor",
    "Interval",
    "Resamples",
    "Roc",
    "auc",
    "bootstrap",
    "clopper_pearson",
    "crossed",
    "crossed_difference",
    "crossed_mean",
    "crossed_rate",
    "fair_gap_floor",
    "max_min_gap",
    "mean_t",
    "paired_difference",
    "roc_curve",
    "tpr_at_fpr",
    "wilson",
]
