"""report.csv and report.parquet: one tidy table, one row per subject x metric (x parameters)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ddaudit.findings import Finding, Metric
from ddaudit.reports import labels
from ddaudit.reports.schema import Report

COLUMNS: dict[str, type] = {
    "subject": str, "kind": str, "baseline": bool, "images_per_class": str, "claim": str, "warnings": str,
    "auditor": str, "status": str, "reason": str, "metric": str, "params": str,
    "value": float, "low": float, "high": float, "n": int, "unit": str, "direction": str, "floor": float,
    "headline": bool, "greyed_by": str, "per_seed": str,
    "reference": str, "difference": float, "difference_low": float, "difference_high": float, "outcome": str,
}  # fmt: skip
"""Name -> what its values are, where there is one."""


def rows(report: Report) -> Iterator[dict[str, Any]]:
    """Each metric of each finding by :data:`COLUMNS`; what does not apply is absent.

    ``params``, ``per_seed`` and ``warnings`` (the alerts of the subject and of the whole report) are JSON. A cell
    without metrics (skipped, failed) has one row without a ``metric`` and with its ``reason``, so that nothing
    disappears; drop the rows without a metric for analysis.
    """
    for finding in report.findings:
        base = _finding_columns(report, finding)
        if not finding.metrics:
            yield base
        for metric in finding.metrics:
            yield base | _metric_columns(report, finding, metric)


def to_csv(report: Report) -> str:
    """The rows as RFC 4180 text with a header.

    Numbers are written in full; a text that a spreadsheet would run as a formula (it begins with = + - @ or a tab) gets
    an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in rows(report):
        writer.writerow(_inert({k: _text(v) for k, v in row.items()}))
    return buffer.getvalue()


def to_parquet(report: Report) -> bytes:
    """The rows as a parquet file: numbers are numbers, what does not apply is null, texts are as they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    # Half a surrogate, which a JSON report may hold, is no text for parquet.
    clean = [
        {k: v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for k, v in row.items()}
        for row in rows(report)
    ]  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(clean, schema=schema), buffer)
    return buffer.getvalue()


def _finding_columns(report: Report, finding: Finding) -> dict[str, Any]:
    subject = report.subject(finding.subject)
    return {
        "subject": finding.subject,
        "kind": subject.kind,
        "baseline": subject.baseline,
        "images_per_class": labels.per_class(subject) or None,
        "claim": next((c.state for c in report.claims if c.subject == subject.id), None),
        "warnings": json.dumps(report.alerts_of(subject.id), ensure_ascii=False),
        "auditor": finding.auditor,
        "status": finding.status,
        "reason": finding.reason,
    }


def _metric_columns(report: Report, finding: Finding, metric: Metric) -> dict[str, Any]:
    comparison = report.comparison(finding, metric)
    return {
        "metric": metric.name,
        "params": json.dumps(metric.params, ensure_ascii=False, sort_keys=True),
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
        "unit": metric.unit,
        "direction": metric.direction,
        "floor": metric.floor,
        "headline": metric.headline,
        "greyed_by": "; ".join(report.failing_checks(finding, metric)) or None,
        "per_seed": None if metric.per_seed is None else json.dumps(metric.per_seed),
        "reference": comparison.baseline if comparison else None,
        "difference": comparison.difference if comparison else None,
        "difference_low": comparison.low if comparison else None,
        "difference_high": comparison.high if comparison else None,
        "outcome": comparison.outcome if comparison else None,
    }


def _text(value: object) -> str:
    """A value in a cell; nothing where there is none. No null byte: readers stop there, and Python 3.10 writes none."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).replace("\0", "\ufffd")


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
