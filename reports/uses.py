"""A set in words: what it is suitable for as measured here and what not, what it promises, whom to cite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ddaudit.reports import labels
from ddaudit.reports.alerts import claim_text, join, poisoned
from ddaudit.reports.answers import ahead, standing
from ddaudit.reports.schema import Claim, Report
from ddaudit.reports.view import Row, Verdict, verdict


@dataclass(frozen=True)
class Uses:
    """The lines of one set; all computed, none an opinion."""

    suitable: tuple[str, ...]
    unsuitable: tuple[str, ...]
    unmeasured: tuple[str, ...]
    """Titles of the auditors that have no answer on it, and of those that were not asked."""
    privacy: str
    cite: str


def uses(report: Report) -> dict[str, Uses]:
    """The lines of every subject, by its id."""
    (table,) = verdict(report)
    return {row.subject.id: _uses(report, table, row) for row in table.rows}


def _uses(report: Report, table: Verdict, row: Row) -> Uses:
    recipe = row.subject.card.get("recipe")
    cite = recipe.get("source") if isinstance(recipe, dict) else ""
    if row.subject.kind == "recipe":  # of a file it is the place where it lay
        cite = row.subject.source or cite
    unmeasured = [
        g.auditor.heading
        for g, cells in zip(table.groups, row.groups, strict=True)
        if cells[0].state != "value"
    ]
    bad = tuple(_unsuitable(report, table, row))
    return Uses(
        suitable=() if report.doubted(row.subject.id) or poisoned(row.subject.card)
        else tuple(_suitable(report, table, row)),
        unsuitable=bad,
        unmeasured=(*unmeasured, *report.not_asked),
        privacy=_privacy(row.claim, row.subject.id),
        cite=str(cite or ""),
    )  # fmt: skip


def _suitable(report: Report, table: Verdict, row: Row) -> Iterator[str]:
    basis, run = report.basis(row.subject.id), report.run
    if basis is not None:
        how = ", ".join(
            x for x in (run.arch, f"protocol {run.protocol}" if run.protocol else "") if x
        )
        value = f"{labels.metric_name(basis)} {labels.number(basis.value, basis.unit, digits=2)}"
        yield f"training classifiers of {run.data}: {value}{f' ({how})' if how else ''}"
    if better := ahead(row):
        titles = [table.groups[i].auditor.heading for i in better]
        above = any(row.groups[i][0].beyond for i in better)
        more = ", though above the noise floor" if above else ""
        yield f"uses that turn on {join(titles)}: better than {report.reference_of(row.subject.id)} there{more}"


def _unsuitable(report: Report, table: Verdict, row: Row) -> Iterator[str]:
    name = row.subject.id
    if attack := poisoned(row.subject.card):
        yield f"any use but tests of a pipeline: its card says that it is poisoned ({attack})"
    if doubt := report.doubted(name):
        yield (
            f"any use: {doubt.reason}"
            if doubt.kind == "void"
            else "any use: networks trained on it are not clearly better than guessing"
        )
    for finding in report.findings_of(name):
        if finding.warning:
            yield f"release without its records: {finding.warning.rstrip('.')}"
    if row.claim is None:
        yield "release of records that need a privacy guarantee: it claims none"
    elif row.claim.broken:
        yield f"release of records that need a privacy guarantee: its claim is {row.claim.state}"
    if worse := standing(table, row, "worse"):
        titles = [table.groups[i].auditor.heading for i in worse]
        yield f"uses that turn on {join(titles)}: worse than {report.reference_of(name)} there"
    if report.run.preset == "quick":
        yield "tables of a paper: this is a quick audit"


def _privacy(claim: Claim | None, name: str) -> str:
    if claim is None:
        return (
            f"{name} claims no privacy: nothing bounds what an attack could learn of its records."
        )
    why = f" ({claim.reason})" if claim.reason else ""
    return f"{claim_text(claim)}; in this audit the claim is {claim.state}{why}."
