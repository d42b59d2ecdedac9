"""The answer: one computed line for each candidate, the worst first, and what all of them rest on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from ddaudit.auditing import AUDITORS, PRESETS
from ddaudit.findings import CLAIMED, Metric
from ddaudit.reports.alerts import count, join, poisoned_file
from ddaudit.reports.labels import metric_name, number
from ddaudit.reports.schema import Answer, Report, Sentence, Tone
from ddaudit.reports.view import Row, Verdict, verdict

WORDS = 14
"""At most so many words an answer, the subject's name included."""
_THAN = " than "
"""What follows it is left out first where words are short: the heading names the reference."""


def answers(report: Report) -> list[Answer]:
    """One line for each subject that is no baseline, worst first; no rank: lines of one kind are not ordered by merit.

    Sets at chance come first (useless, whatever else they are), then those with a false or void claim, those that
    something must be known of, and the others by how many auditors found them worse than the reference.
    """
    (table,) = verdict(report)
    rows = [r for r in table.rows if not r.subject.baseline]
    made = [(_urgency(report, table, r), _answer(report, table, r)) for r in rows]
    return [answer for _, answer in sorted(made, key=lambda pair: pair[0])]


def trust(report: Report) -> list[Sentence]:
    """What the answers rest on, each in a few words: one line together."""
    return list(_trust(report))


def standing(table: Verdict, row: Row, word: str) -> list[int]:
    """The groups (auditors) that found a subject ``better`` or ``worse`` in any headline number."""
    return [
        i
        for i, cells in enumerate(row.groups)
        if any(t.word == word for cell in cells for t in cell.tags)
    ]


def ahead(row: Row) -> list[int]:
    """The groups whose first number, the one that the verdict table prints, is better than the reference's.

    One of several further numbers warns where it is worse; being better in it alone is no praise of the set.
    """
    return [
        i for i, cells in enumerate(row.groups) if any(t.word == "better" for t in cells[0].tags)
    ]


def _urgency(report: Report, table: Verdict, row: Row) -> tuple[bool, bool, bool, int, float]:
    name = row.subject.id
    chance = report.doubted(name) is not None
    warned = bool(row.subject.problem or poisoned_file(row.subject) or _warnings(report, name))
    balance = len(ahead(row)) - len(standing(table, row, "worse"))
    basis = report.basis(name)
    value = basis.value if basis is not None and basis.value is not None else 0.0
    return not chance, not (row.claim and row.claim.broken), not warned, balance, value


def _answer(report: Report, table: Verdict, row: Row) -> Answer:
    name = row.subject.id
    lead: list[str] = []
    if row.claim and row.claim.broken:
        lead.append(f"privacy claim {'false' if row.claim.state == 'violated' else 'void'}")
    if row.subject.problem:
        lead.append("not what was audited")
    if poisoned_file(row.subject):
        lead.append("poisoned on purpose")
    lead += [_first_words(text, 9) for text in _warnings(report, name)]
    basis = report.basis(name)
    doubt = report.doubted(name)
    if doubt is not None and doubt.kind == "void":
        return _line(name, "bad", lead or ["void"])
    if doubt is not None:
        value = f"{metric_name(basis)} {_short(basis)} " if basis else ""
        return _line(name, "bad", [*lead, f"useless: {value}is not clearly above guessing"])
    if all(f.status in ("skipped", "failed") for f in report.findings_of(name)):
        return _line(name, "warning", [*lead, "nothing was measured"])
    better, worse = ahead(row), standing(table, row, "worse")
    clauses = [*lead]
    tone: Tone = "bad" if lead else "warning" if worse else "neutral"
    if basis is not None:  # the auditor that has it is the first
        told = "worse" if 0 in worse else "better" if 0 in better else "not shown better"
        reference = report.reference_of(name)
        judged = f", {told}{_THAN}{reference}" if reference else ""
        clauses.append(f"{metric_name(basis)} {_short(basis)}{judged}")
        better, worse = ([i for i in x if i] for x in (better, worse))
    elif not better and not worse and not lead:
        clauses.append("nothing shown tells it apart")
    if row.claim and not row.claim.broken:
        clauses.append(f"claims ε {number(row.claim.epsilon, 'epsilon')}")
    titles = [_lower(g.auditor.heading) for g in table.groups]
    # Better than records as they are is not yet good: what lies above its floor was still found.
    found = any(row.groups[i][0].beyond for i in better)
    good = [titles[i] for i in better]
    return _line(
        name, tone, clauses, [titles[i] for i in worse], good, ", still measurable" * found
    )


def _line(
    name: str,
    tone: Tone,
    clauses: Sequence[str],
    worse: Sequence[str] = (),
    better: Sequence[str] = (),
    tail: str = "",
) -> Answer:
    """As much as fits, what is worse before what is better; what does not is counted, and at last left out."""
    brief = [c.split(_THAN)[0] for c in clauses]
    for ends in (
        [_listed("worse in", worse), _listed("better in", better, tail)],
        [_listed("worse in", worse), _counted("better in", better, tail)],
        [_counted("worse in", worse), _counted("better in", better, tail)],
        [_counted("worse in", worse)],
        [],
    ):
        for shown in (clauses, brief, brief[:1]):
            text = "; ".join(x for x in [*shown, *ends] if x)
            if len(f"{name} {text}".split()) <= WORDS:
                return Answer(subject=name, tone=tone, text=text)
    return Answer(
        subject=name, tone=tone, text=_first_words(clauses[0] if clauses else "", WORDS - 1)
    )


def _listed(lead: str, titles: Sequence[str], tail: str = "") -> str:
    return f"{lead} {join(titles)}{tail}" if titles else ""


def _counted(lead: str, titles: Sequence[str], tail: str = "") -> str:
    return f"{lead} {count(len(titles), 'audit')}{tail}" if titles else ""


def _trust(report: Report) -> Iterator[Sentence]:
    run = report.run
    checks = {(f.auditor, c.name, c.subject): c.passed for f in report.findings for c in f.checks}
    failed = list(checks.values()).count(False)
    if failed:
        yield _say("bad", f"{failed} of {len(checks)} instrument checks failed")
    elif checks:
        yield _say("good", f"all {len(checks)} instrument checks passed")
    else:
        yield _say("warning", "instruments not checked")
    if run.preset and run.preset != "quick":  # of which an alert speaks
        yield _say("neutral", f"{run.preset} preset")
    seeds = len(run.seeds)
    recipes = any(s.kind == "recipe" and not s.baseline for s in report.subjects)
    once = seeds == 1 and recipes
    text = count(seeds, "seed") + (": of these sets, not of their methods" if once else "")
    yield _say("warning" if once else "neutral", text)
    victims = run.config.get("victims") or getattr(PRESETS.get(run.preset), "victims", None)
    if victims:
        yield _say("neutral", count(victims, "network") + " a set")
    if isinstance(test := run.data_facts.get("test"), int):
        yield _say("neutral", f"{test:,} test images")
    untested = [c.subject for c in report.claims if c.state == "not tested"]
    if untested:
        yield _say(
            "warning", f"{count(len(untested), 'privacy claim')} not tested{_how(report, untested)}"
        )


def _how(report: Report, untested: Sequence[str]) -> str:
    """The command that tests claims, where an auditor that does was not part of the run."""
    asked = {a.name for a in report.auditors}
    able = [
        n
        for n in AUDITORS.names()
        if n not in asked and any(m.name == CLAIMED for m in AUDITORS.get(n).metrics)
    ]
    if not able:
        return ""
    kinds = {s.id: s.kind for s in report.subjects}
    # A recipe of several runs has what tells it apart behind its name.
    names = [n.partition(" (")[0] if kinds[n] == "recipe" else n for n in untested]
    words = [
        "ddaudit",
        "audit",
        *dict.fromkeys(names),
        "--data",
        report.run.data,
        "--auditors",
        *able[:1],
    ]
    return f": {shlex.join(words)}"


def _warnings(report: Report, name: str) -> list[str]:
    return [f.warning for f in report.findings_of(name) if f.warning]


def _first_words(text: str, most: int) -> str:
    words = text.strip().rstrip(".").split()
    return " ".join(words if len(words) <= most else [*words[: most - 1], f"{words[most - 1]}…"])


def _lower(title: str) -> str:
    """A title inside of a sentence; acronyms stay."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def _short(metric: Metric) -> str:
    return number(metric.value, metric.unit, digits=2 if metric.unit == "fraction" else 3)


def _say(tone: Tone, text: str) -> Sentence:
    return Sentence(tone=tone, text=text)
