"""Were records sampled by independent coins, which is what the accountants of subsampled noise assume?"""

from __future__ import annotations

from typing import Any

import torch
from scipy import stats as scipy_stats
from torch import Tensor


def coin_tests(included: Tensor, labels: Tensor, q: float) -> dict[str, float]:
    """p-values of the hypothesis that every record is in every query by a coin of its own.

    Records may have different rates.

    Args:
        included: (T, n) bool, record i was in query t.
        labels: (n,) int64; batches that are of a fixed size within each label are found too.
        q: the largest rate that is claimed.

    Returns:
        ``rate``: no record is drawn more often than q (one-sided, corrected for the number of records);
        ``batch sizes``, ``label's batch sizes``: their variance is that of independent coins (two-sided;
        too small for fixed sizes); ``inclusions``: how often records are drawn varies as much as it must
        (one-sided; too little in epochs); ``successive batches``: they overlap by chance (two-sided).
    """
    x, queries = included.double(), len(included)
    hits = x.sum(0)
    sizes, parts, counts = _Variances(), _Variances(), _Variances()
    sizes.add(x.sum(1), trials=_coins(hits, queries))
    often = [float(scipy_stats.binom.sf(hits.max() - 1, queries, min(q, 1.0))) * len(hits)]
    shares = labels.unique()
    for label in shares:
        mine = labels == label
        n, of_label = int(mine.sum()), hits[mine]
        p = float(of_label.sum()) / (queries * n)
        parts.add(x[:, mine].sum(1), trials=_coins(of_label, queries))
        counts.add(of_label, trials=torch.full((queries,), p, dtype=torch.float64))
        at_least = float(scipy_stats.binom.sf(of_label.sum() - 1, queries * n, min(q, 1.0)))
        often.append(at_least * len(shares))
    return {
        "rate": min(1.0, *often),
        "batch sizes": sizes.two_sided(),
        "label's batch sizes": parts.two_sided(),
        "inclusions": counts.lower(),
        "successive batches": _overlap(x),
    }


def _coins(hits: Tensor, queries: int) -> Tensor:
    """(n,) rates of the records, for which p (1 - p) is estimated without bias."""
    p = hits / queries
    variance = (p * (1 - p) * queries / (queries - 1)).clamp(max=0.25)
    return 0.5 - (0.25 - variance).sqrt()


def _overlap(x: Tensor) -> float:
    """Two-sided p-value of the overlap of successive batches, given how often each record is drawn.

    The runs of ones in a random arrangement of c ones and m zeros are hypergeometric.
    """
    queries, ones = len(x), x.sum(0)
    zeros = queries - ones
    found = (x[1:] * x[:-1]).sum()
    mean = (ones * (ones - 1) / queries).sum()
    variance = (ones * (ones - 1) * zeros * (zeros + 1) / (queries**2 * (queries - 1))).sum()
    if variance <= 0:
        return 1.0
    # Few overlaps are nearly Poisson: skewed, so each tail gets the law that does not understate it.
    scale = float(variance / mean)
    more = scipy_stats.gamma.sf(float(found) - 0.5, float(mean) / scale, scale=scale)
    fewer = scipy_stats.norm.cdf(float((found + 0.5 - mean) / variance.sqrt()))
    return float(min(1.0, 2 * min(more, fewer)))


class _Variances:
    """Sums of squared deviations of counts of coins, in units of their variance."""

    def __init__(self) -> None:
        self._sum, self._freedom, self._variance = 0.0, 0.0, 0.0

    def add(self, counts: Tensor, *, trials: Tensor) -> None:
        """Independent counts of heads of coins with these rates; their mean is estimated from themselves."""
        each = trials * (1 - trials)
        spread = float(each.sum())
        if spread <= 0:
            return
        freedom = len(counts) - 1
        self._sum += float((counts - counts.mean()).square().sum()) / spread
        self._freedom += freedom
        excess = float((each * (1 - 6 * each)).sum()) / spread**2
        self._variance += freedom * (2 + excess)

    def lower(self) -> float:
        """p-value of so small a sum, by the chi-square of the same mean and variance (Satterthwaite)."""
        return float(self._law().cdf(self._sum)) if self._freedom else 1.0

    def two_sided(self) -> float:
        """p-value of a sum so far from its mean."""
        if not self._freedom:
            return 1.0
        law = self._law()
        return float(min(1.0, 2 * min(law.cdf(self._sum), law.sf(self._sum))))

    def _law(self) -> Any:
        scale = self._variance / (2 * self._freedom)
        return scipy_stats.chi2(self._freedom / scale, scale=scale)
