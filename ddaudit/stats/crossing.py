"""Intervals over two kinds of sample at once: victims x images.

A published number rests on a few victims (networks) that all answered the same test images. An
interval over images alone is too narrow, and so is one over victims alone. Seeds are merged where
the report is made (``ddaudit.reports.merge``).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from scipy import special
from torch import Tensor

from ddaudit.errors import NotEnoughData
from ddaudit.stats.intervals import (
    Interval,
    Values,
    as_float,
    clopper_pearson,
    normal,
    quantiles,
    student,
    wilson,
)

FEW = 5
"""Below so many expected events their spread is not read off the sample."""


def crossed_rate(correct: Values, confidence: float = 0.95) -> Interval:
    """Interval of a rate over (V, N) hits or misses, or shares in [0, 1]: V victims that all share N images.

    One victim's hits: Clopper-Pearson. Else :func:`crossed_mean`, inside [0, 1]; near 0 or 1, with
    fewer than 5 expected hits or misses, at least as wide as Wilson's, because a handful of events
    (or none) shows no spread of its own. Shares vary no more than hits of the same mean do.

    Raises:
        NotEnoughData: no images.
    """
    x = as_float(correct)
    x = x[None] if x.ndim == 1 else x
    v, n = x.shape
    if n == 0 or (v == 1 and bool(((x == 0) | (x == 1)).all())):
        return clopper_pearson(round(float(x.mean(0).sum())), n, confidence)
    if n == 1:  # of one image no spread is seen, and the victims may differ on it
        return wilson(float(x.mean()), n, confidence)
    got = crossed_mean(x, confidence).clamp()
    if n * min(got.value, 1 - got.value) < FEW:
        return got.at_least(wilson(min(got.value * n, n), n, confidence))
    return got


def crossed_difference(table: Values, confidence: float = 0.95) -> Interval:
    """Interval of the mean of (V, N) differences in [-1, 1] that V victims show on the same N images.

    :func:`crossed_mean`, inside [-1, 1]; where fewer than 5 images differ, or all but 5 differ one way, at least as
    wide as the adjusted Wald interval, which adds a record of either kind.

    Raises:
        NotEnoughData: fewer than 2 images.

    Source: Bonett and Price, J. Educational and Behavioral Statistics 37 (2012).
    """
    x = as_float(table)
    x = x[None] if x.ndim == 1 else x
    got, n = crossed_mean(x, confidence).clamp(-1.0, 1.0), x.shape[1]
    gains, losses = (float(part.mean(0).sum()) for part in (x.clamp(min=0), -x.clamp(max=0)))
    if min(gains + losses, n - max(gains, losses)) < FEW:
        return got.at_least(adjusted_wald(gains, losses, n, confidence))
    return got


def adjusted_wald(gains: float, losses: float, n: int, confidence: float = 0.95) -> Interval:
    """Interval of ``(gains - losses) / n``, of n images on which one is right and the other is not.

    It holds the value even where the pseudo-records pull its middle away.

    Source: Bonett and Price, J. Educational and Behavioral Statistics 37 (2012).
    """
    value, p, q = (gains - losses) / n, (gains + 1) / (n + 2), (losses + 1) / (n + 2)
    half = normal(confidence) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low, high = min(p - q - half, value), max(p - q + half, value)
    return Interval(value, low, high, n).clamp(-1.0, 1.0)


def crossed_mean(values: Values, confidence: float = 0.95) -> Interval:
    """Interval of the mean of a (V, N) table: V victims that all answered the same N images.

    Both the images and the victims are samples, so with mean squares of the two-way layout
    ``var(mean) = (MS_victims + MS_images - MS_rest) / (V N)``. The quantile is Student's with Satterthwaite's degrees
    of freedom: many where the images dominate the variance, V - 1 where the victims do, and the share of the victims
    is taken at its upper quartile bound (:func:`share_bound`). One victim: the interval covers image sampling only.
    The result is not cut to [0, 1].

    Coverage of the 95 % interval, integrated over every ratio of the two variances: 94.3 to 97.3 % with two victims,
    94.9 to 96.3 % with three, 95.0 to 95.6 % with five (docs/statistics.md).

    Raises:
        NotEnoughData: fewer than 2 images.

    Source: Satterthwaite, Biometrics Bulletin 2 (1946); two-way random-effects layout.
    """
    x = as_float(values)
    x = x[None] if x.ndim == 1 else x
    v, n = x.shape
    if n < 2:
        raise NotEnoughData(f"the spread over images of {n} image(s)")
    mean = x.mean()
    if v == 1:
        half = student(n - 1, confidence) * float(x[0].std()) / math.sqrt(n)
        return Interval(float(mean), float(mean) - half, float(mean) + half, n)
    rows, columns = x.mean(1), x.mean(0)
    ms_v = float(n * rows.var())
    ms_i = float(v * columns.var())
    rest = x - rows[:, None] - columns[None] + mean
    ms_e = float((rest**2).sum()) / ((v - 1) * (n - 1))
    # MS_victims + MS_images counts the rest twice; never below what either source says alone.
    total = max(ms_v + ms_i - ms_e, ms_i, ms_v)
    if total == 0:
        return Interval(float(mean), float(mean), float(mean), n)
    bound = share_bound(v - 1)
    few, many = bound * ms_v, (ms_i**2 + ms_e**2 / (v - 1)) / (n - 1)
    freedom = (total + few - ms_v) ** 2 / (few**2 / (v - 1) + many)
    half = student(max(freedom, 1.0), confidence) * math.sqrt(total / (v * n))
    images = student(n - 1, confidence) * math.sqrt(max(ms_i - ms_e, 0.0) / (v * n))
    return Interval(float(mean), float(mean) - half, float(mean) + half, n, within=(images, images))


@lru_cache
def share_bound(freedom: int) -> float:
    """How many times larger than its estimate a variance is at its one-sided 75 % confidence bound.

    An estimate from one or two degrees of freedom is too small more often than not (in 68 % of cases with one).
    Satterthwaite's degrees of freedom take it as it is: where it is too small by chance they seem many, and the
    quantile is too small as well, twice the same mistake. So the degrees of freedom, and they alone, are those of
    the bound. It is 9.8 for one degree of freedom, 3.5 for two, 2.1 for four, 1 for infinitely many.
    """
    return freedom / float(special.chdtri(freedom, 0.75))


def crossed(
    per_victim: Values, replicates: Tensor, *, n: int, shift: bool = True, confidence: float = 0.95
) -> Interval:
    """Interval of any statistic averaged over victims that share one test set.

    Image sampling comes from bootstrap replicates, the victims from their standard error; the two
    add as variances, and the quantile is Student's with the degrees of freedom of :func:`crossed_mean`.
    Resampling two to five victims instead would understate their variance by (V - 1) / V and see no tails.

    ``shift`` is for statistics with an upward plug-in bias (the largest of several gaps, a sum of
    absolute bin errors). Resampling adds that bias a second time, so raw percentile bounds sit too
    high and may even exclude the value, while the basic (reflected) interval is centred on a
    bias-corrected value nobody printed. The spread of the replicates around their own mean is laid
    around the value instead: the interval covers the expected value of the printed statistic on a
    test set of this size. The bias itself is reported apart, as the metric's noise floor.

    Args:
        per_victim: (V,) the statistic of each victim on the whole test set.
        replicates: (B,) bootstrap replicates over images of the average over victims; NaN where a resample has
            no value (nobody of a group was drawn), which is left out.
        n: number of images.
    """
    x, r = as_float(per_victim), as_float(replicates)
    r = r[torch.isfinite(r)]
    value = float(x.mean())
    if len(r) < 2:
        return Interval(value, -math.inf, math.inf, n)
    centre = float(r.mean()) if shift else value
    low, high = quantiles(r, confidence)
    down, up = max(centre - low, 0.0), max(high - centre, 0.0)
    within = (down, up)
    victims = float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    if victims > 0:
        images = float(r.std())
        total = math.hypot(images, victims)
        few = share_bound(len(x) - 1) * victims**2
        t = student((1 + images**2 / few) ** 2 * (len(x) - 1), confidence)
        if images > 1e-12 * total:
            scale = total / images * t / normal(confidence)
            down, up = down * scale, up * scale
        else:
            down = up = t * victims
    return Interval(value, value - down, value + up, n, within=within if len(x) > 1 else None)
