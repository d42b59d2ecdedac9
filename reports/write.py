"""Write a report in any of its formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ddaudit.errors import BadInput
from ddaudit.files import write_bytes
from ddaudit.reports._card import dataset_cards
from ddaudit.reports._csv import to_csv, to_parquet
from ddaudit.reports._html import to_html
from ddaudit.reports._json import read_report, to_json
from ddaudit.reports._latex import to_latex
from ddaudit.reports._markdown import to_markdown
from ddaudit.reports.schema import Report

__all__ = ["FORMATS", "read_report", "write_report"]

Content = str | bytes | dict[str, str]

FORMATS: dict[str, Callable[[Report], Content]] = {
    "html": to_html,
    "md": to_markdown,
    "json": to_json,
    "csv": to_csv,
    "tex": to_latex,
    "parquet": to_parquet,
    "card": dataset_cards,
}
"""Format name -> what it makes of a report: the content of ``report.<name>``, or that of files by their path."""


def write_report(
    report: Report, out_dir: str | Path, formats: Sequence[str] = ("html", "json")
) -> dict[str, Path]:
    """Write ``report.<format>`` into ``out_dir`` for each format (cards: ``cards/SUBJECT/README.md``); a file appears
    whole or not at all.

    Returns:
        Format -> path of the file written; of cards, of their folder.

    Raises:
        BadInput: unknown format (nothing is written then), or a file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise BadInput(
                f"--format {name}", "unknown report format", f"Known: {', '.join(FORMATS)}."
            )
    folder = Path(out_dir)
    return {name: _write(folder, name, FORMATS[name](report)) for name in formats}


def _write(folder: Path, name: str, content: Content) -> Path:
    if isinstance(content, dict):
        for path, text in content.items():
            _write_file(folder / path, text)
        return folder / "cards"
    return _write_file(folder / f"report.{name}", content)


def _write_file(path: Path, content: str | bytes) -> Path:
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    return write_bytes(path, content)
