"""Which set for which need: for each need, the candidates that are shown to meet it. No rank over needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ddaudit.auditing import AUDITORS
from ddaudit.reports.alerts import capital, count
from ddaudit.reports.answers import WORDS, ahead
from ddaudit.reports.cells import Cell
from ddaudit.reports.labels import metric_name, number
from ddaudit.reports.schema import Answer, Need, Report
from ddaudit.reports.view import Group, Row, Verdict, verdict

NAMED = 4
"""So many candidates of a need are named in its line at most; the line of each says it, too."""
_JUDGED = ("worse", "no difference shown")


def needs(report: Report) -> list[Need]:
    """One line of at most 14 words a need: accuracy, a privacy guarantee, and what each auditor asks for."""
    (table,) = verdict(report)
    rows = [r for r in table.rows if not r.subject.baseline]
    if not rows:
        return []
    by_id = {r.subject.id: r for r in table.rows}
    measured = any(report.basis(r.subject.id) for r in rows)
    out = [_accuracy(report, table, rows)] if measured else []
    out.append(_guarantee(rows))
    missed = []
    for i, group in enumerate(table.groups):
        if (i == 0 and measured) or report.reference not in by_id or not group.columns:
            continue
        found = [r for r in rows if i in ahead(r)]
        if found:
            # The reference, of the set's own size.
            beside = by_id[report.reference_of(found[0].subject.id) or ""]
            out.append(_met(group, i, found, beside))
        elif any(t.word in _JUDGED for r in rows for c in r.groups[i] for t in c.tags):
            missed.append(_need(group))
    return out + list(_missed(missed))


def alike(answers: Sequence[Answer]) -> list[tuple[list[str], Answer]]:
    """Answers that differ in their first number alone as one, with its range: (subjects, answer), in order."""
    groups: dict[tuple[str, ...], list[tuple[str, Answer]]] = {}
    for answer in answers:
        words = answer.text.split()
        at = next((i for i, w in enumerate(words) if _value(w) is not None), None)
        value = words[at].rstrip(",;") if at is not None else ""
        shape = [w.replace(value, "#") if i == at else w for i, w in enumerate(words)]
        groups.setdefault((answer.tone, *shape), []).append((value, answer))
    out = []
    for (_, *shape), rows in groups.items():
        ends = sorted({v for v, _ in rows}, key=lambda v: _value(v) or 0.0)
        value = " to ".join(dict.fromkeys((ends[0], ends[-1])))
        text = " ".join(shape).replace("#", value, 1)
        out.append(([a.subject for _, a in rows], rows[0][1].model_copy(update={"text": text})))
    return out


def _value(word: str) -> float | None:
    try:
        return float(word.rstrip(",;"))
    except ValueError:
        return None


def _accuracy(report: Report, table: Verdict, rows: Sequence[Row]) -> Need:
    """Who is shown to be more accurate than the reference; nobody: who read highest, which shows nothing."""
    lost = {d.subject for d in report.at_chance}
    of = {
        r.subject.id: m
        for r in rows
        if (m := report.basis(r.subject.id)) is not None
        and r.subject.id not in lost
        and not r.groups[0][0].greyed
    }
    title = capital(metric_name(next(iter(of.values())))) if of else "Accuracy"
    if not of:
        return Need(need=title, text="none is clearly above guessing")
    top = max(of, key=lambda n: of[n].value or 0.0)
    best = number(of[top].value, of[top].unit, digits=2)
    better = [r.subject.id for r in rows if r.subject.id in of and 0 in ahead(r)]
    if better:
        top = max(better, key=lambda n: of[n].value or 0.0)
        best = number(of[top].value, of[top].unit, digits=2)
    # Of its own size, where the report has several.
    reference = report.reference_of(top)
    beside = report.basis(reference) if reference else None
    if beside is None or beside.value is None:
        return Need(need=title, text=f"highest {top}, {best}")
    other = number(beside.value, beside.unit, digits=2)
    if better:
        shown = f"{top} {best}" if len(better) > 1 else best
        return Need(
            need=title, subjects=better, text=_fit(title, better, f"{shown} against {other}", "")
        )
    text = f"none shown better than {reference}"
    if (of[top].value or 0.0) > beside.value:
        text += f"; highest {top}, {best} against {other}"
    return Need(need=title, text=text)


def _guarantee(rows: Sequence[Row]) -> Need:
    """Claims that stand."""
    title = "Privacy guarantee"
    claims = [r.claim for r in rows if r.claim is not None]
    standing_ = [c for c in claims if not c.broken]
    if not standing_:
        text = "none of these sets claims one"
        return Need(need=title, text=text if not claims else "none; every claim is false or void")
    values = sorted({c.epsilon for c in standing_})
    span = " to ".join(number(v, "epsilon") for v in dict.fromkeys((values[0], values[-1])))
    states = {c.state for c in standing_}
    state = states.pop() if len(states) == 1 else "not all tested"
    who = [c.subject for c in standing_]
    return Need(need=title, subjects=who, text=_fit(title, who, f"ε {span}", state))


def _met(group: Group, i: int, found: Sequence[Row], beside: Row) -> Need:
    """Who is better than the reference, in the number that the verdict table prints."""
    first, other = found[0].groups[i][0], beside.groups[i][0]
    values = f"{group.columns[0].name} {_short(first)} against {_short(other)}"
    above = any(r.groups[i][0].beyond for r in found)
    title, who = _need(group), [r.subject.id for r in found]
    shown = f"{who[0]} {values}" if len(who) > 1 else values
    return Need(need=title, subjects=who, text=_fit(title, who, shown, "still measurable" * above))


def _missed(titles: Sequence[str]) -> Iterator[Need]:
    if titles:
        names = ", ".join(t[:1].lower() + t[1:] for t in titles)
        fits = len(f"Shown of no set: {names}".split()) <= WORDS
        yield Need(need="Shown of no set", text=names if fits else count(len(titles), "other need"))


def _need(group: Group) -> str:
    name = group.auditor.name
    return (AUDITORS.get(name).need if name in AUDITORS.names() else "") or group.auditor.heading


def _fit(title: str, who: Sequence[str], values: str, tail: str) -> str:
    """Names, numbers and what limits them, as much as 14 words hold; the limit stays."""
    for most in range(NAMED, 0, -1):
        names = ", ".join(who[:most]) + (f" and {len(who) - most} more" if len(who) > most else "")
        for shown in (values, ""):
            inner = ", ".join(x for x in (shown, tail) if x)
            text = f"{names} ({inner})" if inner else names
            if len(f"{title} {text}".split()) <= WORDS:
                return text
    return ", ".join(x for x in (f"{len(who)} sets", tail) if x)


def _short(cell: Cell) -> str:
    """A fraction with two decimals where it has more; small ones as they are."""
    text = cell.text
    long = text[:2] in ("0.", "1.") and len(text) == 5 and "e" not in text and text >= "0.1"
    return f"{float(text):.2f}" if long else text
