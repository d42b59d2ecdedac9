"""What mkdocs does beside its own work: the README as front page, files beside docs/, abbreviations of the glossary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
BESIDE = (
    "benchmarks/RESULTS.md",
    "benchmarks/training.md",
    "benchmarks/false_alarms.md",
    "reports/report.schema.json",
    "examples/audit_your_own_set.ipynb",
    "examples/distil_privately.ipynb",
)
TERM = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \|$", re.M)


def on_config(config: Any) -> Any:
    """Folders in the navigation stand for their pages."""
    docs = Path(config["docs_dir"])

    def pages(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {title: pages(inside) for title, inside in entry.items()}
        if isinstance(entry, list):
            return [pages(inside) for inside in entry]
        if not entry.endswith("/"):
            return entry
        return [str(file.relative_to(docs)) for file in sorted((docs / entry).glob("*.md"))]

    config["nav"] = pages(config["nav"])
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the front page and what pages link to outside of docs/."""
    front = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=front))
    for name in BESIDE:
        files.append(
            File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8"))
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files beside docs/ lead to their copies; terms of the glossary are explained where they stand."""
    depth = page.file.src_uri.count("/")
    for name in BESIDE:
        markdown = markdown.replace(f"]({'../' * (depth + 1)}{name}", f"]({'../' * depth}{name}")
    # Pages of auditors are there once, with what the code knows of them.
    markdown = markdown.replace("](auditors/", "](reference/auditors/") if depth == 0 else markdown
    if page.file.src_uri == "glossary.md":
        return markdown
    terms = TERM.findall((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))[1:]
    short = [(term, meaning) for term, meaning in terms if term.isupper() or "@" in term]
    return markdown + "\n\n" + "\n".join(f"*[{term}]: {meaning}" for term, meaning in short)
