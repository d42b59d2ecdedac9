"""report.csv: tidy, one row per subject x metric (x parameters)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from ddaudit.findings import Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.schema import Report

COLUMNS = (
    "subject", "kind", "baseline", "images_per_class", "claim", "warnings",
    "auditor", "status", "reason", "metric", "params",
    "value", "low", "high", "n", "unit", "direction", "floor", "headline", "greyed_by", "per_seed",
    "reference", "difference", "difference_low", "difference_high", "outcome",
)  # fmt: skip


def to_csv(report: Report) -> str:
    """The metrics as RFC 4180 text with a header.

    ``params``, ``per_seed`` and ``warnings`` (the alerts of the subject and of the whole report) are
    JSON. A cell without metrics (skipped, failed) has one row with an empty ``metric`` and its
    ``reason``, so that nothing disappears; drop the rows without a metric for analysis. Numbers are
    written in full; a text that a spreadsheet would run as a formula (it begins with = + - @ or a
    tab) gets an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for finding in report.findings:
        base = _finding_columns(report, finding)
        if not finding.metrics:
            writer.writerow(_inert(base))
        for metric in finding.metrics:
            writer.writerow(_inert({**base, **_metric_columns(report, finding, metric)}))
    return buffer.getvalue()


def _finding_columns(report: Report, finding: Finding) -> dict[str, object]:
    subject = report.subject(finding.subject)
    return {
        "subject": finding.subject,
        "kind": subject.kind,
        "baseline": str(subject.baseline).lower(),
        "images_per_class": labels.per_class(subject),
        "claim": next((c.state for c in report.claims if c.subject == subject.id), ""),
        "warnings": json.dumps(report.alerts_of(subject.id), ensure_ascii=False),
        "auditor": finding.auditor,
        "status": finding.status,
        "reason": finding.reason or "",
    }


def _metric_columns(report: Report, finding: Finding, metric: Metric) -> dict[str, object]:
    comparison = report.comparison(finding, metric)
    return {
        "metric": metric.name,
        "params": json.dumps(metric.params, ensure_ascii=False, sort_keys=True),
        "value": _number(metric.value),
        "low": _number(metric.low),
        "high": _number(metric.high),
        "n": "" if metric.n is None else metric.n,
        "unit": metric.unit,
        "direction": metric.direction,
        "floor": _number(metric.floor),
        "headline": str(metric.headline).lower(),
        "greyed_by": "; ".join(report.failing_checks(finding, metric)),
        "per_seed": "" if metric.per_seed is None else json.dumps(metric.per_seed),
        "reference": comparison.baseline if comparison else "",
        "difference": _number(comparison.difference if comparison else None),
        "difference_low": _number(comparison.low if comparison else None),
        "difference_high": _number(comparison.high if comparison else None),
        "outcome": comparison.outcome if comparison else "",
    }


def _inert(row: Mapping[str, object]) -> dict[str, object]:
    """The row, with an apostrophe before texts that a spreadsheet would run as a formula; numbers stay numbers."""
    return {k: f"'{v}" if isinstance(v, str) and _formula(v) else v for k, v in row.items()}


def _formula(text: str) -> bool:
    """Whether a spreadsheet takes a text for a formula: its first character decides, spaces before it aside."""
    if text.lstrip(" ")[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n") or not text:
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
