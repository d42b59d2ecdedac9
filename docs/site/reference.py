"""Makes the pages of docs/reference/ from what is registered, so that they cannot disagree with the code.

    python docs/site/reference.py            needs ddaudit; 'make docs' runs it before the site is built

A page for each auditor (question, threat model, how to read, what docs/auditors/ says of it, metrics, settings at each
preset, sources), one of all threat models, a page for each family of methods, and one of the public Python API.
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
WRITTEN = HERE.parent / "auditors"
"""What the code does not know of an auditor: needs, what it cannot tell, self-tests, notes."""
FAMILIES = {
    "selection": (
        "Coresets and baselines",
        "Real records, chosen. What every distilled set has to beat, and the least private sets there are.",
    ),
    "gradient": (
        "Gradient matching",
        "A network's loss gradients on the synthetic images are brought close to those on real records.",
    ),
    "distribution": (
        "Distribution matching",
        "Embeddings of synthetic images, or statistics of them, are brought close to those of real records.",
    ),
    "trajectory": (
        "Trajectory matching",
        "A student trained on the synthetic images moves through weight space as experts do that train on the records.",
    ),
    "kernel": (
        "Kernel methods",
        "Kernel regression on the synthetic images predicts real records; its solution has a closed form.",
    ),
    "unrolled": (
        "Unrolled methods",
        "Gradients go through the training of a network on the synthetic images, to its loss on real records.",
    ),
    "decoupled": (
        "Decoupled recovery",
        "Networks are trained on the records first; images are recovered from them, and labelled by them.",
    ),
}


def main(folder: Path = HERE) -> None:
    """Write every page anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, auditor in AUDITORS.items():
        write(folder / f"auditors/{name}.md", auditor_page(auditor))
    write(folder / "threat-models.md", threat_models())
    methods = [row for row in rows("method") if "problem" not in row]
    for family, (title, about) in FAMILIES.items():
        members = [m for m in methods if m["family"] == family]
        write(folder / f"methods/{family}.md", family_page(title, about, members))
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
    metrics = [[f"`{m.name}`", m.meaning, m.unit, m.range, m.direction] for m in auditor.metrics]
    lines = [f"# {auditor.title}", "", f"*{auditor.question}*", ""]
    lines += ["## What the attacker can do", "", auditor.threat_model, ""]
    lines += ["## How to read it", "", auditor.how_to_read, "", *written(auditor.name)]
    heads = ["metric", "what it is", "unit", "range", "better"]
    lines += ["## Metrics", "", *table(heads, metrics), ""]
    if settings:
        note = f"Change one with `--setting {auditor.name}.KEY=VALUE`."
        lines += ["## Settings", "", note, "", *table(["key", *PRESETS, "meaning"], settings), ""]
    lines += ["## Sources", "", *(f"- {source}" for source in auditor.sources), ""]
    return [
        *lines,
        f"Version {auditor.version} of this auditor; `--auditors {auditor.name}` asks it alone.",
    ]


def written(name: str) -> list[str]:
    """What docs/auditors/ says of an auditor, below its heading and with links that hold one folder further down."""
    file = WRITTEN / f"{name}.md"
    if not file.exists():
        return []
    _, _, text = file.read_text(encoding="utf-8").partition("\n\n")
    return [text.replace("](../", "](../../").rstrip(), ""]


def threat_models() -> list[str]:
    """Who is assumed to do what, auditor by auditor, those with an adversary first; then who plants backdoors."""
    lines = ["# Threat models", "", "What each auditor grants the attacker.", ""]
    asked = sorted(AUDITORS.items(), key=lambda pair: pair[1].threat_model.startswith("No adv"))
    for name, auditor in asked:
        lines += [f"## {auditor.title}", "", auditor.threat_model, ""]
        lines += [f"Measured by [{name}](auditors/{name}.md).", ""]
    planted = [
        [f"`{row['name']}`", row["threat"], plain(row["description"])] for row in rows("injection")
    ]
    lines += ["## Who plants a backdoor", "", *table(["attack", "who", "what"], planted), ""]
    return lines


def family_page(title: str, about: str, members: Sequence[dict[str, Any]]) -> list[str]:
    """Methods of one family: what they are made of, and where they differ from their papers."""
    lines = [f"# {title}", "", about, ""]
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
