"""Seeds become one finding: how the numbers of several cells are put together.

The value is the mean over seeds. Its interval covers both sources of doubt: the spread between
seeds (a Student t interval of the mean), which holds that between victims, and the sampling of test
records within a seed. The latter is *not* divided by the number of seeds, because every seed is
measured on the same test records.

That is the rule for measurements. Proofs and tests have their own, because the best of several
seeds is a choice: a one-sided bound becomes the best one that each seed proves with its part of
the error, a p-value the smallest times the number of seeds. ``Metric.merge`` says which it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ddaudit.findings import NOT_RUN, Check, Curve, Finding, Metric, Picture, Status
from ddaudit.stats.intervals import student

_FROM_ZERO = ("fraction", "ratio")
"""Units of numbers that cannot be negative, unless a seed's own is."""
_SEED_SUFFIX = re.compile(r" \(seed -?\d+\)$")


def merge_findings(cells: Sequence[Finding], *, expected_seeds: Sequence[int] = ()) -> Finding:
    """One finding out of one cell per seed of the same (subject, auditor).

    Args:
        cells: at least one finding; they agree in ``subject`` and ``auditor``.
        expected_seeds: the seeds of the run; those without a cell make the result ``partial``.

    Returns:
        A finding with merged metrics, checks and curves, the pictures of the first seed that has
        any, every distinct caveat once, and the seconds of all seeds added up.
    """
    cells = sorted(cells, key=lambda c: (c.seed is None, c.seed or 0))
    usable = [c for c in cells if c.status in ("ok", "partial")]
    missing = [s for s in expected_seeds if s not in {c.seed for c in cells}]
    status, reason = _status(cells, usable, missing)
    return Finding(
        subject=cells[0].subject,
        auditor=cells[0].auditor,
        status=status,
        reason=reason,
        metrics=_merge_all_metrics(usable),
        checks=merge_checks([c.checks for c in cells]),
        curves=merge_curves([(c.seed, c.curves) for c in usable]),
        images=next((c.images for c in usable if c.images), list[Picture]()),
        # What was said of one seed need not hold for several; their auditor then says it again.
        sentence=usable[0].sentence if len(usable) == 1 else "",
        warning=next((c.warning for c in usable if c.warning), ""),
        caveats=list(dict.fromkeys(text for c in cells for text in c.caveats)),
        seconds=math.fsum(c.seconds for c in cells if math.isfinite(c.seconds)),
        seed=cells[0].seed if len(cells) == 1 else None,
    )


def merge_metric(metrics: Sequence[Metric]) -> Metric:
    """One metric out of the same metric of S seeds.

    ``value`` is the mean of the S values. With ``s`` their standard deviation and ``t`` the 97.5%
    point of Student's t with S - 1 degrees of freedom, each side of the interval is as wide as

        sqrt((t * s / sqrt(S)) ** 2 + mean over seeds of (that side's half-width) ** 2)

    The half-width within a seed is that of test records alone where the seed says it (``Metric.within``). Each source
    with its own quantile, added as squares, covers at least 95 % (Banerjee 1960; proof in docs/statistics.md).
    Sides are kept apart because exact binomial intervals are lopsided. Fractions whose intervals
    all lie in [0, 1] stay in [0, 1]. Seeds without a finite value are left out and show up as
    ``None`` in ``per_seed``. One seed passes through unchanged.

    A bound (``merge="bound"``) is the largest that a seed proves at an error of 5 % / S, without an
    interval around it; S counts every seed that was tried. It is None where the seeds do not say
    what they prove at that error. A p-value is the smallest times S, at most 1 (Bonferroni).
    """
    per_seed = [finite(m.value) for m in metrics]
    kept = [m for m, v in zip(metrics, per_seed, strict=True) if v is not None]
    values = [v for v in per_seed if v is not None]
    floors = [f for m in metrics if (f := finite(m.floor)) is not None]
    counts = [m.n for m in kept if m.n is not None]
    first = kept[0] if kept else metrics[0]
    value, low, high = _merged_value(kept, values, tries=len(metrics))
    return first.model_copy(
        update={
            "value": value,
            "low": low,
            "high": high,
            "n": min(counts) if counts else None,
            "floor": math.fsum(floors) / len(floors) if floors else None,
            "params": plain(first.params),
            "headline": any(m.headline for m in metrics),
            "per_seed": per_seed if len(metrics) > 1 else None,
            "draws": max(1, len(values)),
            "within": _within(values, kept) if len(values) > 1 else first.within,
            "best_of": first.best_of if len(metrics) == 1 else {},
        }
    )


def merge_checks(per_seed: Sequence[Sequence[Check]]) -> list[Check]:
    """The same checks of several seeds: passed only if all passed; a failing reading is kept.

    Checks that are statistical tests fail where the smallest p-value, times the number of seeds, is
    at most their level: of enough seeds one fails by chance.
    """
    by_name: dict[tuple[str, str | None], list[Check]] = {}
    for checks in per_seed:
        for check in checks:
            by_name.setdefault((check.name, check.subject), []).append(check)
    return [_merge_check(group) for group in by_name.values()]


def merge_curves(per_seed: Sequence[tuple[int | None, Sequence[Curve]]]) -> list[Curve]:
    """Curves with the same x in every seed are averaged (bands by the rule of
    :func:`merge_metric`, counts added); others keep the first seed's line, labelled so. Points
    that are not finite are dropped."""
    by_name: dict[tuple[str, str], list[tuple[int | None, Curve]]] = {}
    for seed, curves in per_seed:
        for curve in curves:
            by_name.setdefault((curve.plot, curve.label), []).append((seed, _clean_curve(curve)))
    return [_merge_curve(group) for group in by_name.values()]


def base_label(label: str) -> str:
    """A curve's label without the seed that :func:`merge_curves` may have added."""
    return _SEED_SUFFIX.sub("", label)


def finite(value: float | None) -> float | None:
    """The number, or None when it is missing, NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A JSON-safe copy: infinities and NaN become words, unknown objects their text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _status(
    cells: Sequence[Finding], usable: Sequence[Finding], missing: Sequence[int]
) -> tuple[Status, str | None]:
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        if cell.reason or cell.status != "ok":
            text = cell.reason or f"{cell.status}, and no reason was recorded"
            reasons.setdefault(text, []).append("" if cell.seed is None else str(cell.seed))
    alike = len(reasons) == 1 and len(next(iter(reasons.values()))) == len(cells)
    parts = [r if alike else f"{_seeds(seeds)}{r}" for r, seeds in reasons.items()]
    if missing:
        parts.append(f"{_seeds([str(s) for s in missing])}{NOT_RUN}")
    reason = "; ".join(parts) or None
    if not usable:
        return ("failed" if any(c.status == "failed" for c in cells) else "skipped"), reason
    whole = len(usable) == len(cells) and all(c.status == "ok" for c in usable) and not missing
    return ("ok" if whole else "partial"), reason


def _seeds(seeds: Sequence[str]) -> str:
    known = [s for s in seeds if s]
    return f"seed{'s' if len(known) > 1 else ''} {', '.join(known)}: " if known else ""


def _merge_all_metrics(cells: Sequence[Finding]) -> list[Metric]:
    indexed = [{m.key: m for m in c.metrics} for c in cells]
    merged = []
    for key in dict.fromkeys(key for metrics in indexed for key in metrics):
        found = [metrics.get(key) for metrics in indexed]
        present = next(m for m in found if m is not None)
        blank = Metric(name=present.name, value=None, params=present.params)
        merged.append(merge_metric([m if m is not None else blank for m in found]))
    return merged


def _merged_value(
    metrics: Sequence[Metric], values: Sequence[float], *, tries: int
) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of ``tries`` seeds, of which ``metrics`` have a finite value."""
    if not values:
        return None, None, None
    if tries == 1:
        return values[0], finite(metrics[0].low), finite(metrics[0].high)
    how = metrics[0].merge
    if how == "p-value":
        return min(1.0, len(values) * min(values)), None, None
    if how == "bound":
        found = [b for m in metrics if (b := _as_best_of(m, tries)) is not None]
        best = max(found, default=None)
        return best, best, None
    value = math.fsum(values) / len(values)
    return value, *_interval(value, values, metrics)


def _as_best_of(metric: Metric, tries: int) -> float | None:
    """What a bound proves as the best of ``tries`` seeds; a bound for more seeds is only weaker."""
    enough = [k for k in metric.best_of if k >= tries]
    return finite(metric.best_of[min(enough)]) if enough else None


def _interval(
    value: float, values: Sequence[float], metrics: Sequence[Metric]
) -> tuple[float | None, float | None]:
    if len(values) == 1:
        return finite(metrics[0].low), finite(metrics[0].high)
    lows, highs = _sides(values, metrics)
    low, high = value - _half_width(values, lows), value + _half_width(values, highs)
    bounds = [b for m in metrics for b in (m.low, m.value, m.high) if b is not None]
    if metrics[0].unit in _FROM_ZERO and all(b >= 0.0 for b in bounds):
        low = max(low, 0.0)
        if metrics[0].unit == "fraction" and all(b <= 1.0 for b in bounds):
            high = min(high, 1.0)
    return low, high


def _sides(values: Sequence[float], metrics: Sequence[Metric]) -> tuple[list[float], list[float]]:
    """Half-widths of each seed, below and above: of test records alone where they are told from victims."""
    both = list(zip(metrics, values, strict=True))
    return (
        [m.within[0] if m.within else v - b for m, v in both if (b := finite(m.low)) is not None],
        [m.within[1] if m.within else b - v for m, v in both if (b := finite(m.high)) is not None],
    )


def _within(values: Sequence[float], metrics: Sequence[Metric]) -> tuple[float, float] | None:
    """``Metric.within`` of several seeds."""
    lows, highs = _sides(values, metrics)
    if not lows or not highs:
        return None
    return math.sqrt(_mean_square(lows)), math.sqrt(_mean_square(highs))


def _mean_square(values: Sequence[float]) -> float:
    return math.fsum(v * v for v in values) / len(values) if values else 0.0


def _half_width(values: Sequence[float], within: Sequence[float]) -> float:
    """The rule of :func:`merge_metric` for one side of the interval."""
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    between = student(count - 1, 0.95) * math.sqrt(variance / count)
    return math.sqrt(between**2 + _mean_square(within))


def _merge_check(checks: Sequence[Check]) -> Check:
    failed = [c for c in checks if not c.passed]
    if len(checks) > 1 and all(c.p_value is not None for c in checks):
        return _merge_test(checks, failed=len(failed))
    kept = failed[0] if failed else checks[0]
    detail = kept.detail
    if failed and len(checks) > 1:
        detail = _and(detail, f"failed in {len(failed)} of {len(checks)} seeds")
    return kept.model_copy(
        update={"passed": not failed, "value": finite(kept.value), "detail": detail}
    )


def _merge_test(checks: Sequence[Check], *, failed: int) -> Check:
    """The seed with the smallest p-value, judged as the smallest of all seeds."""
    kept = min(checks, key=lambda c: c.p_value or 0.0)
    p = min(1.0, len(checks) * (kept.p_value or 0.0))
    passed = p > kept.level * (1 + 1e-9)
    detail = kept.detail
    if failed:
        why = "; as the worst of several seeds, chance explains it" if passed else ""
        detail = _and(detail, f"failed in {failed} of {len(checks)} seeds, each taken alone{why}")
    update = {"passed": passed, "value": finite(kept.value), "detail": detail, "p_value": p}
    return kept.model_copy(update=update)


def _and(text: str, more: str) -> str:
    return f"{text}; {more}" if text else more


def _merge_curve(group: Sequence[tuple[int | None, Curve]]) -> Curve:
    seed, first = group[0]
    curves = [c for _, c in group]
    if len(curves) == 1:
        return first
    if any(c.x != first.x for c in curves):
        return (
            first.model_copy(update={"label": f"{first.label} (seed {seed})"})
            if seed is not None
            else first
        )
    points = list(zip(*(c.y for c in curves), strict=True))
    mean = [math.fsum(p) / len(p) for p in points]
    low = high = None
    if all(c.low is not None and c.high is not None for c in curves):
        below = zip(
            *([y - b for y, b in zip(c.y, c.low or [], strict=True)] for c in curves), strict=True
        )
        above = zip(
            *([b - y for y, b in zip(c.y, c.high or [], strict=True)] for c in curves), strict=True
        )
        low = [m - _half_width(p, w) for m, p, w in zip(mean, points, below, strict=True)]
        high = [m + _half_width(p, w) for m, p, w in zip(mean, points, above, strict=True)]
        if all(0 <= b <= 1 for c in curves for b in (*(c.low or ()), *c.y, *(c.high or ()))):
            low, high = [max(b, 0.0) for b in low], [min(b, 1.0) for b in high]
    counts = [c.counts for c in curves if c.counts is not None]
    total = (
        [sum(column) for column in zip(*counts, strict=True)]
        if len(counts) == len(curves)
        else None
    )
    return first.model_copy(update={"y": mean, "low": low, "high": high, "counts": total})


def _clean_curve(curve: Curve) -> Curve:
    """The curve without points that are not finite, and without bands that do not fit it."""
    keep = [
        i
        for i, (x, y) in enumerate(zip(curve.x, curve.y, strict=False))
        if math.isfinite(x) and math.isfinite(y)
    ]
    size = min(len(curve.x), len(curve.y))

    def pick(values: Sequence[Any] | None) -> list[Any] | None:
        if values is None or len(values) < size or any(not math.isfinite(values[i]) for i in keep):
            return None
        return [values[i] for i in keep]

    update = {name: pick(getattr(curve, name)) for name in ("x", "y", "low", "high", "counts")}
    return curve.model_copy(update=update)
