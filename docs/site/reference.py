"""Makes the pages of docs/reference/ from what is registered, so that they cannot disagree with the code.

    python docs/site/reference.py            needs ddaudit; 'make docs' runs it before the site is built

A page for each auditor (question, threat model, how to read, metrics, settings at each preset, sources), one of all
threat models, a page for each family of methods, and one of the public Python API.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ddaudit
from ddaudit.auditing import AUDITORS, PRESETS, Auditor
from ddaudit.registry import rows

HERE = Path(__file__).resolve().parents[1] / "reference"
FAMILIES = {
    "selection": "Coresets and baselines",
    "gradient": "Gradient matching",
    "distribution": "Distribution matching",
    "trajectory": "Trajectory matching",
    "kernel": "Kernel methods",
    "unrolled": "Unrolled methods",
    "decoupled": "Decoupled recovery",
}


def main(folder: Path = HERE) -> None:
    """Write every page anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, auditor in AUDITORS.items():
        write(folder / f"auditors/{name}.md", auditor_page(auditor))
    write(folder / "threat-models.md", threat_models())
    methods = [row for row in rows("method") if "problem" not in row]
    for family, title in FAMILIES.items():
        members = [m for m in methods if m["family"] == family]
        write(folder / f"methods/{family}.md", family_page(title, members))
    write(folder / "api.md", api_page())


def write(file: Path, lines: Iterable[str]) -> None:
    """A page, line by line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def auditor_page(auditor: Auditor[Any]) -> list[str]:
    """One auditor, in the words and numbers that its class holds."""
    defaults = {preset: auditor.configure(preset).model_dump(mode="json") for preset in PRESETS}
    settings = [
        [f"`{key}`", *(code(values[key]) for values in defaults.values()), plain(field.description)]
        for key, field in auditor.settings.model_fields.items()
    ]
    metrics = [[f"`{m.name}`", m.meaning, m.unit, m.direction] for m in auditor.metrics]
    lines = [f"# {auditor.title}", "", f"*{auditor.question}*", ""]
    lines += ["## What the attacker can do", "", auditor.threat_model, ""]
    lines += ["## How to read it", "", auditor.how_to_read, ""]
    lines += ["## Metrics", "", *table(["metric", "what it is", "unit", "better"], metrics), ""]
    if settings:
        note = f"Change one with `--setting {auditor.name}.KEY=VALUE`."
        lines += ["## Settings", "", note, "", *table(["key", *PRESETS, "meaning"], settings), ""]
    lines += ["## Sources", "", *(f"- {source}" for source in auditor.sources), ""]
    return [
        *lines,
        f"Version {auditor.version} of this auditor; `--auditors {auditor.name}` asks it alone.",
    ]


def threat_models() -> list[str]:
    """Who is assumed to do what, auditor by auditor."""
    lines = [
        "# Threat models",
        "",
        "What each auditor grants the attacker. One that has none measures the set as it is used.",
        "",
    ]
    for name, auditor in AUDITORS.items():
        lines += [
            f"## {auditor.title}",
            "",
            auditor.threat_model,
            "",
            f"Measured by [{name}](auditors/{name}.md).",
            "",
        ]
    return lines


def family_page(title: str, members: Sequence[dict[str, Any]]) -> list[str]:
    """Methods of one family: what they are made of, and where they differ from their papers."""
    lines = [f"# {title}", ""]
    lines += table(
        ["method", "purpose", "status", "private"],
        [
            [
                f"[`{m['name']}`](#{m['name']})",
                m["purpose"],
                m["status"],
                "yes" if m["private"] else "",
            ]
            for m in members
        ],
    )
    for m in members:
        parts = ", ".join(
            f"{k}: {', '.join(v) if isinstance(v, list) else v}" for k, v in m["parts"].items()
        )
        lines += [
            "",
            f"## {m['name']}",
            "",
            f"{sentence(m['purpose'])}. {sentence(m['status'])}.",
            "",
        ]
        lines += [f"- Source: {m['description']}", f"- Parts: {parts}"]
        lines += [f"- Differs: {text}" for text in m["deviations"]]
    return lines


def api_page() -> list[str]:
    """The names of ``import ddaudit``; mkdocstrings fills in their docstrings."""
    lines = ["# Python API", "", "Everything here is imported as `ddaudit.NAME`.", ""]
    for name in ddaudit.__all__:
        thing = getattr(ddaudit, name)
        # mkdocstrings reads files: there, three packages stand beside ddaudit/.
        module = thing.__module__
        if module.split(".")[1] in ("attacks", "defenses", "reports"):
            module = module.removeprefix("ddaudit.")
        lines += [f"::: {module}.{thing.__qualname__}", ""]
    return lines


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def code(value: Any) -> str:
    """A value as code, inside a table."""
    return f"`{json.dumps(value)}`".replace("|", "\\|")


def sentence(text: str) -> str:
    """With a capital, and nothing else changed."""
    return text[:1].upper() + text[1:]


def plain(text: str | None) -> str:
    """Text on one line, inside a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
