"""Writing formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddaudit.errors import BadInput
from ddaudit.reports import FORMATS, Report, write_report


def test_every_format_gets_its_file_and_no_leftovers(report: Report, tmp_path: Path) -> None:
    light = [f for f in FORMATS if f not in ("html", "card")]
    paths = write_report(report, tmp_path / "deep" / "er", light)
    assert {f: p.name for f, p in paths.items()} == {f: f"report.{f}" for f in light}
    assert sorted(p.name for p in (tmp_path / "deep" / "er").iterdir()) == sorted(
        f"report.{f}" for f in light
    )


def test_an_unknown_format_is_refused_before_anything_is_written(
    report: Report, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="pdf: unknown report format"):
        write_report(report, tmp_path / "out", ["json", "pdf"])
    assert not (tmp_path / "out").exists()


def test_the_formats_are_those_of_the_command_line() -> None:
    assert set(FORMATS) == {"html", "md", "json", "csv", "tex", "parquet", "card"}
