"""What to read from the numbers, in plain sentences: all computed, none an opinion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ddaudit.findings import NOT_RUN, Finding, Metric
from ddaudit.reports.alerts import capital, claim_text, count, join
from ddaudit.reports.compare import at_floor, inverted, mirrored
from ddaudit.reports.labels import INVERTED, full_name, number
from ddaudit.reports.schema import MetricKey, Report, Sentence, Tone, metric_key

_MOST_CHANGES = 5


def summarise(report: Report) -> list[Sentence]:
    """The sentences of a report, most urgent first (what is more urgent still is in its alerts): tested claims,
    failed instruments, what the runs do not have in common, numbers that are too good to be true, what each
    defense changed against the method it is built on, what each subject changed against the
    reference, and what is missing."""
    board = _Board.of(report)
    return [
        *_claims(report),
        *_at_chance(report),
        *_one_draw(report),
        *_unpaired(report, board),
        *_checks(report),
        *_runs(report),
        *_inverted(board),
        *_against_base(report, board),
        *_against_reference(report, board),
        *_sentences(report),
        *_utility_kept(report),
        *_floors(report, board),
        *_missing(report),
    ]


def base_of(subject_id: str, ids: Collection[str]) -> str | None:
    """The audited subject a recipe is built on: ``dm+fair+dp`` -> ``dm+fair``, else ``dm``."""
    parts = subject_id.split("+")
    for size in range(len(parts) - 1, 0, -1):
        name = "+".join(parts[:size])
        if name in ids:
            return name
    return None


def _at_chance(report: Report) -> list[Sentence]:
    return [
        _say("warning", f"{capital(d.reason)}: no other verdict on it is given.")
        for d in report.at_chance
    ]


def _one_draw(report: Report) -> list[Sentence]:
    """One distillation speaks of one set."""
    recipes = {s.id for s in report.subjects if s.kind == "recipe" and not s.baseline}
    single = {f.subject for f in report.findings for m in f.metrics if m.draws == 1}
    if not report.comparisons or not recipes & single or len(report.run.seeds) > 1:
        return []
    text = "Each recipe was distilled once: what follows is true of these sets, not of the methods."
    return [_say("warning", text)]


def _unpaired(report: Report, board: _Board) -> list[Sentence]:
    """Where cells do not say how a number moves with the test records (made by an older release, say).

    It is expected of accuracy, and of what other subjects of the report say it of; what is measured on training
    records is never paired.
    """
    rows = [(metric_key(c.metric, c.params), c) for c in report.comparisons if c.low is not None]
    expected = {key for key, c in rows if c.paired}
    expected |= {m.key for f in report.findings for m in f.metrics if m.basis}
    names = board.names
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


def _claims(report: Report) -> list[Sentence]:
    """Claims that stand; of the broken ones speak the alerts."""
    out = []
    for claim in report.claims:
        stated = claim_text(claim)
        if claim.state == "not contradicted":
            by = f" ({claim.adversary} adversary)" if claim.adversary else ""
            bound = number(claim.lower_bound, "epsilon")
            text = f"{stated}; the strongest lower bound measured is {bound}{by}"
            out.append(_say("neutral", f"{text}, which does not contradict it."))
        elif not claim.broken:
            tone: Tone = "neutral" if claim.state == "not shown" else "warning"
            was = "what tests of it found is" if claim.state == "not shown" else "the claim was"
            out.append(_say(tone, f"{stated}; {was} {claim.state}: {claim.reason}."))
    return out


def _checks(report: Report) -> list[Sentence]:
    names: dict[tuple[str, str], list[str]] = {}
    for finding in report.findings:
        for check in finding.checks:
            if not check.passed:
                names.setdefault((finding.auditor, check.name), []).append(finding.subject)
    everyone = len(report.subjects)
    out = []
    greyed = Counter((g.auditor, name) for g in report.greyed for name in set(g.checks))
    for (auditor, name), subjects in names.items():
        hit = greyed[auditor, name]
        who = "all subjects" if len(subjects) == everyone else join(subjects)
        effect = f"{count(hit, 'number')} greyed out" if hit else "no number depends on it"
        out.append(
            _say(
                "warning", f"The instrument check “{name}” of {auditor} failed for {who}: {effect}."
            )
        )
    return out


def _runs(report: Report) -> list[Sentence]:
    return [_say("warning", note) for note in report.run.notes]


def _inverted(board: _Board) -> list[Sentence]:
    return [
        _say(
            "warning",
            f"{capital(board.names[metric.key])} of {finding.subject} is {_short(metric)}, {INVERTED}. It is "
            f"compared as {_short(mirrored(metric))}.",
        )
        for finding, metric in board.headlines
        if inverted(metric)
    ]


def _against_base(report: Report, board: _Board) -> list[Sentence]:
    ids = {s.id for s in report.subjects}
    pairs = [(s.id, base_of(s.id, ids)) for s in report.subjects if not s.baseline]
    return [s for name, base in pairs if base for s in _changes(report, board, name, base, "")]


def _against_reference(report: Report, board: _Board) -> list[Sentence]:
    if report.reference is None:
        return []
    names = [s.id for s in report.subjects if not s.baseline]
    return [
        s for name in names for s in _changes(report, board, name, report.reference, "the baseline")
    ]


def _changes(report: Report, board: _Board, name: str, base: str, kind: str) -> list[Sentence]:
    """One sentence on ``name`` beside ``base``, from the distinguishable differences."""
    names = board.names
    better: list[str] = []
    worse: list[str] = []
    unclear = 0
    for finding, metric in board.of_subject.get(name, []):
        row = report.comparison(finding, metric, base)
        other = _beside(report, finding, metric, base) if row else None
        if row is None or other is None:
            continue
        result = row.outcome
        unclear += result == "not distinguishable"
        if result in ("better", "worse"):
            text = f"{names[metric.key]} ({_short(other)} to {_short(metric)})"
            (better if result == "better" else worse).append(text)
    who = f"{kind} {base}" if kind else base
    tail = f" No clear difference in {count(unclear, 'other headline metric')}." if unclear else ""
    if not better and not worse:
        text = f"{name} and {who} differ in no headline metric that this audit can resolve."
        return [_say("neutral", text)] if unclear else []
    if not worse:
        return [_say("good", f"{name} improves on {who} in {_first(better)}.{tail}")]
    if not better:
        return [_say("bad", f"{name} is worse than {who} in {_first(worse)}.{tail}")]
    text = f"{name} improves on {who} in {_first(better)}, but is worse in {_first(worse)}.{tail}"
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
    text = (
        f"The most accurate distilled set, {best[0]}, keeps {kept:.0%} of the accuracy of the full"
    )
    return [_say("neutral", f"{text} data ({_short(best[1])} of {_short(full)}).")]


def _floors(report: Report, board: _Board) -> list[Sentence]:
    names = board.names
    groups: dict[str, list[str]] = {}
    for finding, metric in board.headlines:
        audited = not report.subject(finding.subject).baseline
        if audited and metric.direction == "lower" and at_floor(metric):
            groups.setdefault(finding.subject, []).append(names[metric.key])
    return [
        _say("neutral", f"{capital(join(what))} of {who} cannot be told from the noise floor.")
        for who, what in groups.items()
    ]


def _missing(report: Report) -> list[Sentence]:
    out = []
    for word in ("failed", NOT_RUN, "skipped", "incomplete"):
        cells = [f"{f.subject} × {f.auditor}" for f in report.findings if _stopped(f) == word]
        if cells:
            out.append(_say("warning", f"{count(len(cells), 'cell')} {word}: {join(cells)}."))
    return out


def _stopped(finding: Finding) -> str:
    """What became of a cell that has no whole answer; empty: it has one."""
    words = {"ok": "", "partial": "incomplete"}
    return NOT_RUN if finding.not_run else words.get(finding.status, finding.status)


@dataclass(frozen=True, eq=False)
class _Board:
    """The headline numbers that a verdict may be told of, looked up once."""

    headlines: list[tuple[Finding, Metric]]
    of_subject: dict[str, list[tuple[Finding, Metric]]]
    names: dict[MetricKey, str]
    """By their shortest name that tells them apart."""

    @classmethod
    def of(cls, report: Report) -> _Board:
        headlines = [
            (f, m)
            for f in report.findings
            for m in f.metrics
            if m.headline
            and m.value is not None
            and not report.failing_checks(f, m)
            and not report.doubt(f, m)
        ]
        of_subject: dict[str, list[tuple[Finding, Metric]]] = {}
        for f, m in headlines:
            of_subject.setdefault(f.subject, []).append((f, m))
        metrics = {m.key: m for _, m in headlines}
        brief = {key: full_name(m, params=False) for key, m in metrics.items()}
        alike = Counter(brief.values())
        names = {k: brief[k] if alike[brief[k]] == 1 else full_name(m) for k, m in metrics.items()}
        return cls(headlines, of_subject, names)


def _beside(report: Report, finding: Finding, metric: Metric, base: str) -> Metric | None:
    """The same number of another subject, unless a check greys it out."""
    other = report.finding(base, finding.auditor)
    found = next((m for m in other.metrics if m.key == metric.key), None) if other else None
    return None if other is None or found is None or report.failing_checks(other, found) else found


def _accuracy(report: Report, name: str) -> Metric | None:
    metric = report.basis(name)
    if metric is not None and any(
        report.failing_checks(f, metric) for f in report.findings_of(name)
    ):
        return None
    return metric


def _short(metric: Metric) -> str:
    return number(metric.value, metric.unit, digits=2 if metric.unit == "fraction" else 3)


def _first(texts: Sequence[str]) -> str:
    shown = list(texts[:_MOST_CHANGES])
    more = len(texts) - len(shown)
    return join([*shown, f"{more} more"] if more else shown)


def _say(tone: Tone, text: str) -> Sentence:
    return Sentence(tone=tone, text=text)
