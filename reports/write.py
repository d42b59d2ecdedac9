"""Write a report in any of its formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ddaudit.errors import BadInput
from ddaudit.files import write_bytes
from ddaudit.reports._csv import to_csv
from ddaudit.reports._html import to_html
from ddaudit.reports._json import read_report, to_json
from ddaudit.reports._latex import to_latex
from ddaudit.reports._markdown import to_markdown
from ddaudit.reports.schema import Report

__all__ = ["FORMATS", "read_report", "write_report"]

FORMATS: dict[str, Callable[[Report], str]] = {
    "html": to_html,
    "md": to_markdown,
    "json": to_json,
    "csv": to_csv,
    "tex": to_latex,
}
"""Format name (also the file's suffix) -> writer."""


def write_report(
    report: Report, out_dir: str | Path, formats: Sequence[str] = ("html", "json")
) -> dict[str, Path]:
    """Write ``report.<format>`` into ``out_dir`` for each format; a file appears whole or not at
    all.

    Returns:
        Format -> path of the file written.

    Raises:
        BadInput: unknown format (nothing is written then), or a file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise BadInput(
                f"--format {name}", "unknown report format", f"Known: {', '.join(FORMATS)}."
            )
    folder = Path(out_dir)
    return {name: _write(folder / f"report.{name}", FORMATS[name](report)) for name in formats}


def _write(path: Path, text: str) -> Path:
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))
