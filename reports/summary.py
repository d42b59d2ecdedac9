"""What to read from the numbers, in plain sentences: all computed, none an opinion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ddaudit.defenses.privacy.accounting import compose
from ddaudit.findings import Finding, Metric
from ddaudit.reports.compare import at_floor, inverted, mirrored
from ddaudit.reports.labels import INVERTED, brief, full_name, number
from ddaudit.reports.schema import MetricKey, Report, Sentence, Tone
from ddaudit.sets import PrivacyClaim

_MOST_CHANGES = 5


def summarise(report: Report) -> list[Sentence]:
    """The sentences of a report, most urgent first: sets that are not what they should be, broken claims, failed
    instruments, what the runs do not have in common, numbers that are too good to be true, what each
    defense changed against the method it is built on, what each subject changed against the
    reference, and what is missing."""
    return [
        *_warnings(report),
        *_cards(report),
        *_claims(report),
        *_at_chance(report),
        *_one_draw(report),
        *_together(report),
        *_checks(report),
        *_runs(report),
        *_inverted(report),
        *_against_base(report),
        *_against_reference(report),
        *_sentences(report),
        *_utility_kept(report),
        *_floors(report),
        *_missing(report),
    ]


def base_of(subject_id: str, ids: Sequence[str]) -> str | None:
    """The audited subject a recipe is built on: ``dm+fair+dp`` -> ``dm+fair``, else ``dm``."""
    parts = subject_id.split("+")
    for size in range(len(parts) - 1, 0, -1):
        name = "+".join(parts[:size])
        if name in ids:
            return name
    return None


def _warnings(report: Report) -> list[Sentence]:
    """What auditors want said first, baseline or not."""
    groups: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.warning:
            groups.setdefault(finding.warning, []).append(finding.subject)
    return [_say("warning", f"{_join(who)}: {text}") for text, who in groups.items()]


def _cards(report: Report) -> list[Sentence]:
    """Files whose card does not fit the data they are audited against."""
    out = []
    facts = report.run.data_facts
    for subject in report.subjects:
        card, wrong = subject.card, []
        if subject.kind != "file":
            continue
        if card.get("data") and card["data"] != report.run.data:
            wrong.append(f"it was made from “{card['data']}”, not “{report.run.data}”")
        source, train = card.get("source_fingerprint"), facts.get("fingerprint")
        if source and train and source != train:
            wrong.append("its source records are others (fingerprint)")
        names, classes = card.get("class_names"), facts.get("classes")
        if names and classes and list(names) != list(classes):
            same = sorted(map(str, names)) == sorted(map(str, classes))
            wrong.append(
                f"it has {'the same classes in another order' if same else 'other classes'}"
            )
        if wrong:
            text = f"The card of {subject.id} does not fit these data: {_join(wrong)}."
            out.append(_say("bad", text))
    return out


def _at_chance(report: Report) -> list[Sentence]:
    return [
        _say("warning", f"{_capital(d.reason)}: no other verdict on it is given.")
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


def _claims(report: Report) -> list[Sentence]:
    out = []
    for claim in report.claims:
        stated = f"{claim.subject} claims ε = {brief(claim.epsilon)}"
        if claim.delta is not None:
            stated += f" at δ = {brief(claim.delta)}"
        bound = number(claim.lower_bound, "epsilon")
        by = f" ({claim.adversary} adversary)" if claim.adversary else ""
        if claim.state == "violated":
            proven = claim.lower_bound is not None and claim.lower_bound > claim.epsilon
            why = f"the audit measured a lower bound of {bound}{by}" if proven else claim.reason
            out.append(_say("bad", f"{stated}, but {why}: the claim is false."))
        elif claim.state == "not contradicted":
            text = f"{stated}; the strongest lower bound measured is {bound}{by}"
            out.append(_say("neutral", f"{text}, which does not contradict it."))
        elif claim.state == "void":
            out.append(_say("bad", f"{stated}, but the claim is void: {claim.reason}."))
        else:
            out.append(_say("warning", f"{stated}; the claim was not tested: {claim.reason}."))
    return out


def _together(report: Report) -> list[Sentence]:
    """What publishing every private set of the report costs: releases of the same records add up."""
    claims = []
    for subject in report.subjects:
        stated = (subject.card or {}).get("privacy")
        if not stated:
            continue
        claim = PrivacyClaim.model_validate(stated)
        # The card is the first seed's; every further seed was a release of its own.
        seeds = max(1, len(report.run.seeds)) if subject.kind == "recipe" else 1
        claims += [claim] + [
            claim.model_copy(update={"release": f"{claim.release}/{k}"}) for k in range(1, seeds)
        ]
    releases = {claim.release or str(i) for i, claim in enumerate(claims)}
    if len(releases) < 2 or len({claim.relation for claim in claims}) > 1:
        return []
    delta = max(claim.delta for claim in claims)
    cost = compose(claims)
    text = (
        f"This report rests on {len(releases)} private releases of the same records. Publishing all "
        f"of these sets would cost ε = {brief(cost)} at δ = {brief(delta)}, not the ε of one."
    )
    return [_say("warning", text)]


def _checks(report: Report) -> list[Sentence]:
    names: dict[tuple[str, str], list[str]] = {}
    for finding in report.findings:
        for check in finding.checks:
            if not check.passed:
                names.setdefault((finding.auditor, check.name), []).append(finding.subject)
    everyone = len(report.subjects)
    out = []
    for (auditor, name), subjects in names.items():
        hit = [g for g in report.greyed if g.auditor == auditor and name in g.checks]
        who = "all subjects" if len(subjects) == everyone else _join(subjects)
        effect = f"{_count(len(hit), 'number')} greyed out" if hit else "no number depends on it"
        out.append(
            _say(
                "warning", f"The instrument check “{name}” of {auditor} failed for {who}: {effect}."
            )
        )
    return out


def _runs(report: Report) -> list[Sentence]:
    return [_say("warning", note) for note in report.run.notes]


def _inverted(report: Report) -> list[Sentence]:
    names = _names(report)
    return [
        _say(
            "warning",
            f"{_capital(names[metric.key])} of {finding.subject} is {_short(metric)}, {INVERTED}. It is "
            f"compared as {_short(mirrored(metric))}.",
        )
        for finding, metric in _headlines(report)
        if inverted(metric)
    ]


def _against_base(report: Report) -> list[Sentence]:
    ids = [s.id for s in report.subjects]
    pairs = [(s.id, base_of(s.id, ids)) for s in report.subjects if not s.baseline]
    return [s for name, base in pairs if base for s in _changes(report, name, base, "")]


def _against_reference(report: Report) -> list[Sentence]:
    if report.reference is None:
        return []
    names = [s.id for s in report.subjects if not s.baseline]
    return [s for name in names for s in _changes(report, name, report.reference, "the baseline")]


def _changes(report: Report, name: str, base: str, kind: str) -> list[Sentence]:
    """One sentence on ``name`` beside ``base``, from the distinguishable differences."""
    names = _names(report)
    better: list[str] = []
    worse: list[str] = []
    unclear = 0
    for finding, metric in _headlines(report):
        row = report.comparison(finding, metric, base) if finding.subject == name else None
        other = _beside(report, finding, metric, base) if row else None
        if row is None or other is None:
            continue
        result = row.outcome
        unclear += result == "not distinguishable"
        if result in ("better", "worse"):
            text = f"{names[metric.key]} ({_short(other)} to {_short(metric)})"
            (better if result == "better" else worse).append(text)
    who = f"{kind} {base}" if kind else base
    tail = f" No clear difference in {_count(unclear, 'other headline metric')}." if unclear else ""
    if not better and not worse:
        text = f"{name} and {who} differ in no headline metric that this audit can resolve."
        return [_say("neutral", text)] if unclear else []
    if not worse:
        return [_say("good", f"{name} improves on {who} in {_first(better)}.{tail}")]
    if not better:
        return [_say("bad", f"{name} is worse than {who} in {_first(worse)}.{tail}")]
    text = f"{name} improves on {who} in {_first(better)}, but is worse in {_first(worse)}.{tail}"
    return [_say("neutral", text)]


def _names(report: Report) -> dict[MetricKey, str]:
    """Headline metrics by their shortest name that tells them apart."""
    metrics = {m.key: m for _, m in _headlines(report)}
    brief = {key: full_name(m, params=False) for key, m in metrics.items()}
    count = Counter(brief.values())
    return {k: brief[k] if count[brief[k]] == 1 else full_name(m) for k, m in metrics.items()}


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


def _floors(report: Report) -> list[Sentence]:
    names = _names(report)
    groups: dict[str, list[str]] = {}
    for finding, metric in _headlines(report):
        audited = not report.subject(finding.subject).baseline
        if audited and metric.direction == "lower" and at_floor(metric):
            groups.setdefault(finding.subject, []).append(names[metric.key])
    return [
        _say("neutral", f"{_capital(_join(what))} of {who} cannot be told from the noise floor.")
        for who, what in groups.items()
    ]


def _missing(report: Report) -> list[Sentence]:
    out = []
    for status, word in (("failed", "failed"), ("skipped", "skipped"), ("partial", "incomplete")):
        cells = [f"{f.subject} × {f.auditor}" for f in report.findings if f.status == status]
        if cells:
            out.append(_say("warning", f"{_count(len(cells), 'cell')} {word}: {_join(cells)}."))
    return out


def _headlines(report: Report) -> list[tuple[Finding, Metric]]:
    return [
        (f, m)
        for f in report.findings
        for m in f.metrics
        if m.headline
        and m.value is not None
        and not report.failing_checks(f, m)
        and not report.doubt(f, m)
    ]


def _beside(report: Report, finding: Finding, metric: Metric, base: str) -> Metric | None:
    """The same number of another subject, unless a check greys it out."""
    other = report.finding(base, finding.auditor)
    found = next((m for m in other.metrics if m.key == metric.key), None) if other else None
    return None if other is None or found is None or report.failing_checks(other, found) else found


def _accuracy(report: Report, name: str) -> Metric | None:
    metric = report.basis(name)
    for finding in report.findings:
        if (
            finding.subject == name
            and metric is not None
            and report.failing_checks(finding, metric)
        ):
            return None
    return metric


def _short(metric: Metric) -> str:
    return number(metric.value, metric.unit, digits=2 if metric.unit == "fraction" else 3)


def _first(texts: Sequence[str]) -> str:
    shown = list(texts[:_MOST_CHANGES])
    more = len(texts) - len(shown)
    return _join([*shown, f"{more} more"] if more else shown)


def _join(words: Sequence[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _say(tone: Tone, text: str) -> Sentence:
    return Sentence(tone=tone, text=text)
