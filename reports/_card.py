"""README.md of a set as the Hub reads it: YAML in front, then what it is, what it is good for, what it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ddaudit.errors import BadInput
from ddaudit.findings import Metric
from ddaudit.reports import labels
from ddaudit.reports._markdown import escape, template
from ddaudit.reports.alerts import ON_PURPOSE, lasting, poisoned
from ddaudit.reports.cells import Cell
from ddaudit.reports.schema import Claim, Report, SubjectInfo
from ddaudit.reports.uses import uses
from ddaudit.reports.view import verdict
from ddaudit.sets import PrivacyClaim, statement

_TASKS = {"image": "image-classification", "tabular": "tabular-classification"}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
"""The Hub's words for the number of records, each ten times the one before."""
_MOST_CLASSES = 20


@dataclass(frozen=True)
class _Number:
    """A headline number of the subject, as measured and as shown."""

    audit: str
    name: str
    metric: Metric
    cell: Cell


def dataset_cards(report: Report) -> dict[str, str]:
    """The card of every subject that is no baseline, by the path to write it to: ``cards/dm-fair/README.md``."""
    candidates = [s.id for s in report.subjects if not s.baseline]
    folders = labels.file_names(map(labels.without_folders, candidates))
    return {
        f"cards/{folder}/README.md": dataset_card(report, subject)
        for folder, subject in zip(folders, candidates, strict=True)
    }


def dataset_card(report: Report, subject: str) -> str:
    """The card of one subject: YAML (tags, sizes, a ``model-index`` of its headline numbers), then Markdown.

    Numbers that are not to be relied on (a failing check, a subject at chance) and those of a quick preset stand in the
    text, with the reason, and not in the model-index. Where a set of the report claims privacy and the report is not
    publishable, nothing that was measured enters a card, and nothing that follows from it; that a claim is violated or
    void is said all the same.

    Args:
        subject: its id in the report.

    Raises:
        BadInput: the report has no such subject.
    """
    ids = [s.id for s in report.subjects]
    if subject not in ids:
        raise BadInput(subject, "is not in this report", f"It has {', '.join(ids)}.")
    info = report.subject(subject)
    claim = next((c for c in report.claims if c.subject == subject), None)
    withheld = bool(report.claims) and not report.run.publishable
    numbers = [] if withheld else _numbers(report, subject)
    known = uses(report)[subject]
    indexed = [n for n in numbers if not n.cell.greyed and report.run.preset != "quick"]
    places = {p: labels.without_folders(p) for p in (subject, report.run.data)}

    def said(text: object) -> str:
        """As Markdown, without the folders that names may have on this machine."""
        words = str(text)
        for place, name in places.items():
            words = words.replace(place, name) if place != name else words
        return escape(words)

    page = template("card.md").render(
        front=_front(report, info, indexed),
        thing="Network" if info.kind == "checkpoint" else "Distilled set",
        name=subject,
        data=report.run.data,
        said=said,
        brief=labels.brief,
        alerts=list(_alerts(report, info, claim, withheld)),
        facts=[(k, v) for k, v in _facts(report, info, withheld) if v],
        known=known,
        withheld=withheld,
        privacy=_privacy(info, claim, known.privacy, withheld),
        numbers=numbers,
        indexed=indexed,
        reference=report.reference_of(subject),
        preset=report.run.preset,
        version=report.run.ddaudit_version,
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _numbers(report: Report, subject: str) -> list[_Number]:
    (table,) = verdict(report)
    row = next(r for r in table.rows if r.subject.id == subject)
    found = []
    for group, cells in zip(table.groups, row.groups, strict=True):
        finding = report.finding(subject, group.auditor.name)
        metrics = {m.key: m for m in finding.metrics} if finding else {}
        for column, cell in zip(group.columns, cells, strict=False):
            if cell.state == "value":
                heading = group.auditor.heading
                found.append(_Number(heading, column.title, metrics[column.key], cell))
    return found


def _alerts(
    report: Report, info: SubjectInfo, claim: Claim | None, withheld: bool
) -> Iterator[str]:
    """What has to be read before anything else."""
    if withheld and (attack := poisoned(info.card)):
        yield f"{info.id}: {ON_PURPOSE.format(attack)}"
    if info.problem:
        yield "The file that was audited is not there any more, or has changed since."
    if not withheld:
        yield from (a.text for a in lasting(report) if not a.subjects or info.id in a.subjects)
    elif claim is not None and claim.broken:
        yield f"The privacy claim of this set is {claim.state}: do not rely on it."


def _facts(report: Report, info: SubjectInfo, withheld: bool) -> Iterator[tuple[str, str]]:
    card, run = info.card, report.run
    yield "Method", str(card.get("method") or "")
    yield "Made from", run.data
    yield "Images per class", labels.per_class(info) or str(card.get("ipc") or "")
    yield "Classes", _classes(report, info)
    stored = card.get("bytes")
    if isinstance(stored, dict):
        total = sum(v for v in stored.values() if isinstance(v, int))
        yield "Storage", f"{labels.count(total)} bytes"
    deviations = card.get("deviations")
    if isinstance(deviations, list):
        yield "Deviations from the published method", "; ".join(map(str, deviations))
    if card.get("contains_real_pixels") or card.get("member_indices"):
        yield "Real records", "it shows records, or pieces of them, as they are"
    if not withheld:
        seeds = f"{len(run.seeds)} seed{'' if len(run.seeds) == 1 else 's'}"
        protocol = f"protocol {run.protocol}" if run.protocol else ""
        preset = f"{run.preset} preset" if run.preset else ""
        yield "Audited with", ", ".join(x for x in (preset, seeds, run.arch, protocol) if x)


def _classes(report: Report, info: SubjectInfo) -> str:
    names = _class_names(report, info)
    more = f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:_MOST_CLASSES])}{more}" if names else ""


def _class_names(report: Report, info: SubjectInfo) -> list[str]:
    names = info.card.get("class_names") or report.run.data_facts.get("classes") or []
    return list(map(str, names)) if isinstance(names, list) else []


def _privacy(info: SubjectInfo, claim: Claim | None, told: str, withheld: bool) -> list[str]:
    stated = info.card.get("privacy")
    if claim is None:
        return [told]
    holds = stated and not claim.broken
    words = [statement(PrivacyClaim.model_validate(stated))] if holds else []
    if not withheld:
        return [*words, told]
    if claim.broken:
        return [
            f"The claim is {claim.state}: nothing bounds what an attack could learn of its records."
        ]
    return [*words, "Whether the claim withstood its tests is not shown here."]


def _front(report: Report, info: SubjectInfo, indexed: Sequence[_Number]) -> str:
    """The block between the dashes."""
    name, data = (labels.without_folders(t) for t in (info.id, report.run.data))
    card = info.card
    task = _TASKS.get(str(card.get("modality") or "image"))
    front: dict[str, Any] = {"pretty_name": f"{name}, distilled from {data}"}
    broken = any(c.broken for c in report.claims if c.subject == info.id)
    private = card.get("privacy") and not broken
    flags = (("differential-privacy", private), ("poisoned", card.get("poison")))
    front["tags"] = ["dataset-distillation", "ddaudit", *(tag for tag, on in flags if on)]
    if task and info.kind != "checkpoint":
        front["task_categories"] = [task]
    if info.per_class and (classes := len(_class_names(report, info))):
        low, high = (len(str(n * classes)) for n in (info.per_class[0], info.per_class[-1]))
        if low == high:
            front["size_categories"] = [_SIZES[min(max(low - 3, 0), len(_SIZES) - 1)]]
    if indexed:
        front["model-index"] = [{"name": name, "results": [_result(report, task, data, indexed)]}]
    text = yaml.safe_dump(_flat(front), sort_keys=False, allow_unicode=True, width=2**30)
    return str(text)


def _result(
    report: Report, task: str | None, data: str, indexed: Sequence[_Number]
) -> dict[str, Any]:
    run = report.run
    setup = {
        "preset": run.preset,
        "network": run.arch,
        "protocol": run.protocol,
        "seeds": run.seeds,
    }
    return {
        "task": {"type": task or "other"},
        "dataset": {
            "name": data,
            "type": re.sub(r"[^\w.-]+", "-", data.partition(":")[0]),
            "split": "test",
            "args": {k: v for k, v in setup.items() if v},
        },
        "metrics": [
            {
                "type": n.metric.name.rpartition(".")[2],
                "name": f"{n.audit}: {n.name}",
                "value": n.metric.value,
                "args": {
                    **({"params": n.metric.params} if n.metric.params else {}),
                    "interval_95": [n.metric.low, n.metric.high],
                    "n": n.metric.n,
                },
            }
            for n in indexed
        ],
    }


def _flat(value: Any) -> Any:
    """A copy in which every text is one line of visible characters: no value can end the block."""
    if isinstance(value, dict):
        return {_flat(k): _flat(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_flat(v) for v in value]
    return labels.visible(" ".join(value.split())) if isinstance(value, str) else value
