"""What to read from the numbers, in plain sentences: all computed, none an opinion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ddaudit.findings import NOT_RUN, Finding, Metric
from ddaudit.reports.alerts import capital, claim_text, count, join
from ddaudit.reports.answers import standing
from ddaudit.reports.compare import inverted, mirrored
from ddaudit.reports.labels import INVERTED, full_name, metric_name, number
from ddaudit.reports.schema import Report, Sentence, Tone, metric_key
from ddaudit.reports.view import verdict

FIRST, WORDS = 5, 20
"""So many findings are shown at once, of at most so many words each."""


def summarise(report: Report) -> list[Sentence]:
    """The findings of a report, most urgent first (what is more urgent still is in its alerts): failed instruments,
    what is missing, what merged runs do not have in common, numbers that are too good to be true, where candidates are
    worse and better than the reference, what the best set keeps, and what auditors say beyond their tables."""
    once = _one_draw(report)
    found = [
        *_checks(report),
        *_missing(report, "failed", NOT_RUN, "incomplete"),
        *_runs(report),
        *_inverted(report),
        *_at_chance(report),
        *_against_reference(report, "worse"),
        *_untested(report),
        *_utility_kept(report),
        *_against_reference(report, "better"),
        *once,
        *_missing(report, "skipped"),
        *_unpaired(report),
        *_claims(report),
        *_sentences(report),
    ]
    # Who is better is told need by need above them, one draw in what the answers rest on.
    short = [
        s for s in found if len(s.text.split()) <= WORDS and s.tone != "good" and s not in once
    ]
    for sentence in short[:FIRST]:
        sentence.first = True
    return sorted(found, key=lambda s: not s.first)


def _checks(report: Report) -> Iterator[Sentence]:
    names: dict[tuple[str, str], list[str]] = {}
    for finding in report.findings:
        for check in finding.checks:
            if not check.passed:
                names.setdefault((finding.auditor, check.name), []).append(finding.subject)
    greyed = Counter((g.auditor, name) for g in report.greyed for name in set(g.checks))
    for (auditor, name), subjects in names.items():
        hit = greyed[auditor, name]
        who = _who(report, subjects)
        effect = f"{count(hit, 'number')} greyed out" if hit else "no number depends on it"
        text = f"The check “{name}” of {auditor} failed for {who}: {effect}."
        yield _say("warning", text)


def _missing(report: Report, *words: str) -> Iterator[Sentence]:
    for word in words:
        cells = [f"{f.subject} × {f.auditor}" for f in report.findings if _stopped(f) == word]
        if cells:
            tone: Tone = "neutral" if word == "skipped" else "warning"
            text, whole = (
                f"{count(len(cells), 'cell')} {word}: {x}." for x in (_some(cells, 3), join(cells))
            )
            yield _say(tone, text, whole if len(cells) > 3 else "")


def _runs(report: Report) -> list[Sentence]:
    return [_say("warning", note) for note in report.run.notes]


def _inverted(report: Report) -> Iterator[Sentence]:
    for finding, metric in _headlines(report):
        if inverted(metric):
            name = f"{capital(full_name(metric))} of {finding.subject}"
            text = f"{name} is {_short(metric)}, better than knowing nothing: look for a confound."
            detail = f"{capital(INVERTED)}. It is compared as {_short(mirrored(metric))}."
            yield _say("warning", text, detail)


def _at_chance(report: Report) -> list[Sentence]:
    return [
        _say("warning", f"{capital(d.reason)}: no other verdict on it is given.")
        for d in report.at_chance
    ]


def _against_reference(report: Report, word: str) -> Iterator[Sentence]:
    """One sentence an auditor: who is ``better`` or ``worse`` than the reference, and in which number most clearly."""
    (table,) = verdict(report)
    by_id = {r.subject.id: r for r in table.rows}
    rows = [r for r in table.rows if not r.subject.baseline]
    for i, group in enumerate(table.groups):
        hit = [r for r in rows if i in standing(table, r, word)]
        reference = report.reference_of(hit[0].subject.id) if hit else None
        beside = by_id.get(reference or "")
        if beside is None:
            continue
        column, cell, other = next(
            (column, cell, other)
            for column, cell, other in zip(
                group.columns, hit[0].groups[i], beside.groups[i], strict=True
            )
            if any(t.word == word for t in cell.tags)
        )
        who, verb = _some([r.subject.id for r in hit]), "is" if len(hit) == 1 else "are"
        whose = f"{hit[0].subject.id}, " if len(hit) > 1 else ""
        floor = f", floor {cell.beyond}" if word == "better" and cell.beyond else ""
        values = f"{whose}{column.name} {cell.text} against {other.text}{floor}"
        title = group.auditor.heading
        sizes = {report.reference_of(r.subject.id) for r in hit}
        whom = reference if len(sizes) == 1 else f"{report.reference} of the same size"
        text = f"{title}: {who} {verb} {word} than {whom} ({values})."
        yield _say("bad" if word == "worse" else "good", text)


def _untested(report: Report) -> Iterator[Sentence]:
    """Claims that no audit could decide on."""
    for claim in report.claims:
        if not claim.broken and claim.state != "not contradicted":
            tone: Tone = "neutral" if claim.state == "not shown" else "warning"
            was = "what tests of it found is" if claim.state == "not shown" else "the claim was"
            yield _say(tone, f"{claim_text(claim)}; {was} {claim.state}: {claim.reason}.")


def _claims(report: Report) -> Iterator[Sentence]:
    """Claims that stand; of the broken ones speak the alerts."""
    for claim in report.claims:
        if claim.state == "not contradicted":
            by = f" ({claim.adversary} adversary)" if claim.adversary else ""
            bound = number(claim.lower_bound, "epsilon")
            text = f"{claim_text(claim)}; the strongest lower bound measured is {bound}{by}"
            yield _say("neutral", f"{text}, which does not contradict it.")


def _one_draw(report: Report) -> list[Sentence]:
    """One distillation speaks of one set."""
    recipes = {s.id for s in report.subjects if s.kind == "recipe" and not s.baseline}
    single = {f.subject for f in report.findings for m in f.metrics if m.draws == 1}
    if not report.comparisons or not recipes & single or len(report.run.seeds) > 1:
        return []
    text = (
        "Each recipe was distilled once: differences are those of these sets, not of the methods."
    )
    return [_say("warning", text)]


def _unpaired(report: Report) -> list[Sentence]:
    """Where cells do not say how a number moves with the test records (made by an older release, say).

    It is expected of accuracy, and of what other subjects of the report say it of; what is measured on training
    records is never paired.
    """
    rows = [(metric_key(c.metric, c.params), c) for c in report.comparisons if c.low is not None]
    expected = {key for key, c in rows if c.paired}
    expected |= {m.key for f in report.findings for m in f.metrics if m.basis}
    names = {m.key: full_name(m) for _, m in _headlines(report)}
    lost = dict.fromkeys(
        names[key] for key, c in rows if key in expected and not c.paired and key in names
    )
    if not lost:
        return []
    text = (
        f"Not paired on the test records: {join(list(lost))}. Some cells do not say how these numbers move with the "
        "records, so both are taken as independent: fewer differences are seen than there may be."
    )
    return [_say("neutral", text)]


def _sentences(report: Report) -> list[Sentence]:
    """What auditors say beyond their tables."""
    return [
        _say("neutral", f.sentence)
        for f in report.findings
        if f.sentence and not report.subject(f.subject).baseline
    ]


def _utility_kept(report: Report) -> list[Sentence]:
    full = _accuracy(report, "full")
    if full is None or not full.value:
        return []
    rows = [
        (s.id, m)
        for s in report.subjects
        if not s.baseline and (m := _accuracy(report, s.id)) is not None
    ]
    best = max(rows, key=lambda row: row[1].value or 0.0, default=None)
    if best is None or best[1].value is None:
        return []
    kept = best[1].value / full.value
    name = metric_name(best[1])
    text = (
        f"{best[0]} keeps {kept:.0%} of the {name} of the full data"
        if len(rows) == 1
        else f"Highest {name} read: {best[0]}, {kept:.0%} of the full data's"
    )
    return [_say("neutral", f"{text} ({_short(best[1])} of {_short(full)}).")]


def _stopped(finding: Finding) -> str:
    """What became of a cell that has no whole answer; empty: it has one."""
    words = {"ok": "", "partial": "incomplete"}
    return NOT_RUN if finding.not_run else words.get(finding.status, finding.status)


def _headlines(report: Report) -> list[tuple[Finding, Metric]]:
    """The headline numbers that may be told of."""
    return [
        (f, m)
        for f in report.findings
        for m in f.metrics
        if m.headline
        and m.value is not None
        and not report.failing_checks(f, m)
        and not report.doubt(f, m)
    ]


def _accuracy(report: Report, name: str) -> Metric | None:
    metric = report.basis(name)
    if metric is not None and any(
        report.failing_checks(f, metric) for f in report.findings_of(name)
    ):
        return None
    return metric


def _short(metric: Metric) -> str:
    return number(metric.value, metric.unit, digits=2 if metric.unit == "fraction" else 3)


def _who(report: Report, subjects: list[str]) -> str:
    return "all subjects" if len(subjects) == len(report.subjects) else _some(subjects)


def _some(names: Sequence[str], most: int = 4) -> str:
    """``a, b and c``; of more than ``most`` the first and how many more."""
    more = len(names) - most
    return join(names) if more < 1 else join([*names[:most], f"{more} more"])


def _say(tone: Tone, text: str, detail: str = "") -> Sentence:
    """A sentence; what warns of something has at most 20 words, and the whole of it behind."""
    words = text.split()
    if tone in ("warning", "bad") and len(words) > WORDS:
        text, detail = f"{' '.join(words[:WORDS])}…", text
    return Sentence(tone=tone, text=text, detail=detail)
