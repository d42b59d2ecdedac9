"""What has to be read with every number: none of the formats leaves these out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddaudit.defenses.privacy.accounting import compose, joint_delta
from ddaudit.reports.labels import brief, number
from ddaudit.reports.schema import Alert, Claim, Report, SubjectInfo
from ddaudit.sets import PrivacyClaim, given

QUICK = "Quick preset: fewer seeds, images and steps. Do not quote these numbers."


def alerts(report: Report) -> list[Alert]:
    """The alerts of a report: numbers that are not to be published, what cannot be relied on, what a reader of a set
    must know before anything else, broken privacy claims, and what publishing would cost."""
    return [
        *_quick(report),
        *_not_run(report),
        *_kept(report),
        *_data(report),
        *_unweighed(report),
        *_warnings(report),
        *_cards(report),
        *_contents(report),
        *_problems(report),
        *_broken(report),
        *_private(report),
        *_together(report),
    ]


def lasting(report: Report) -> list[Alert]:
    """Those that hold for whoever gets a set without the report: none is about the report, or about files here."""
    return [
        *_quick(report),
        *_kept(report),
        *_data(report),
        *_warnings(report),
        *_cards(report),
        *_contents(report),
        *_broken(report),
    ]


def claim_text(claim: Claim) -> str:
    """``dm+dp claims ε = 1 at δ = 1e-5``."""
    text = f"{claim.subject} claims ε = {brief(claim.epsilon)}"
    return text if claim.delta is None else f"{text} at δ = {brief(claim.delta)}"


def spent(report: Report) -> list[PrivacyClaim]:
    """One claim for each private release that the report rests on."""
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
    return claims


def _quick(report: Report) -> list[Alert]:
    return [Alert(text=QUICK)] if report.run.preset == "quick" else []


def _not_run(report: Report) -> list[Alert]:
    waiting = report.run.cells_not_run
    if not waiting:
        return []
    return [
        Alert(
            text=f"Partly run: {count(waiting, 'cell')} of the audit {'is' if waiting == 1 else 'are'} not run yet."
        )
    ]


def _unweighed(report: Report) -> list[Alert]:
    """Praise of networks that may only guess: one that always says the same is perfectly fair."""
    praised = dict.fromkeys(
        c.subject
        for c in report.comparisons
        if c.outcome == "better" and report.basis(c.subject) is None
    )
    if not praised:
        return []
    return [
        Alert(
            text=f"Accuracy of {join(list(praised))} was not measured, and networks that only guess can look fair, "
            "calibrated or robust: audit utility too.",
            subjects=list(praised),
        )
    ]


def _kept(report: Report) -> list[Alert]:
    """What a publishable report promises."""
    if not report.run.publishable:
        return []
    claims = spent(report)
    releases = {c.release or str(i) for i, c in enumerate(claims)}
    first = max(claims, key=lambda c: c.epsilon)
    alike = {c.relation for c in claims} == {"add-or-remove-one"}
    cost = first.epsilon if len(releases) == 1 else compose(claims) if alike else float("inf")
    delta = joint_delta(claims) if alike else first.delta
    promise = (
        f"ε = {brief(cost)} at δ = {brief(delta)} ({first.relation}{given(first)})"
        if cost < float("inf")
        else "the claim of its own subject in each number, and no joint ε that can be stated"
    )
    text = (
        f"Publishable: made from {count(len(releases), 'private release')} and the test records alone. Towards the "
        f"training and validation records this report keeps {promise}; test records are not covered. Left out: "
        f"{'; '.join(report.run.left_out)}."
    )
    return [Alert(tone="neutral", text=text)]


_MEMORISED = 0.01
"""Share of test records among the training records above which every accuracy is mostly about that."""


def _data(report: Report) -> list[Alert]:
    """What is wrong with the real data, whatever is audited against them."""
    facts, out = report.run.data_facts, []
    seen, tested = facts.get("in_train") or 0, facts.get("test") or 0
    if seen > _MEMORISED * tested:
        text = f"{seen} of {tested} test records are also training records: numbers on them say what was memorised."
        out.append(Alert(tone="bad", text=text))
    untested = list(map(str, facts.get("untested") or ()))
    if untested:
        first, more = untested[:5], len(untested) - 5
        named = join([*first, f"{more} more"] if more > 0 else first)
        out.append(
            Alert(text=f"No test record is of class {named}: no accuracy says anything of that.")
        )
    return out


def _warnings(report: Report) -> list[Alert]:
    """What auditors want said first, baseline or not."""
    groups: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.warning:
            groups.setdefault(finding.warning, []).append(finding.subject)
    return [Alert(subjects=who, text=f"{join(who)}: {text}") for text, who in groups.items()]


def _cards(report: Report) -> list[Alert]:
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
            text = f"The card of {subject.id} does not fit these data: {join(wrong)}."
            out.append(Alert(subjects=[subject.id], tone="bad", text=text))
        if attack := poisoned_file(subject):
            text = f"{subject.id}: {ON_PURPOSE.format(attack)}"
            out.append(Alert(subjects=[subject.id], tone="bad", text=text))
    return out


def _contents(report: Report) -> list[Alert]:
    return [
        Alert(subjects=[s.id], text=f"{s.id}: {'; '.join(s.warnings)}.")
        for s in report.subjects
        if s.warnings
    ]


ON_PURPOSE = "a backdoor was put into this set on purpose, for tests (attack {})."


def poisoned_file(subject: SubjectInfo) -> str:
    """The attack that has poisoned a set file, by its card; "" where it says nothing. A recipe says so by its name."""
    return poisoned(subject.card) if subject.kind == "file" else ""


def poisoned(card: Mapping[str, Any]) -> str:
    """The attack that a card says has poisoned its set; "" where it says nothing."""
    poison = card.get("poison")
    if not poison:
        return ""
    return str(poison.get("attack", "unknown")) if isinstance(poison, Mapping) else "unknown"


def _problems(report: Report) -> list[Alert]:
    return [
        Alert(subjects=[s.id], tone="bad", text=f"{s.id}: {s.problem}.")
        for s in report.subjects
        if s.problem
    ]


def _broken(report: Report) -> list[Alert]:
    out = []
    for claim in report.claims:
        if claim.state == "violated":
            bound = number(claim.lower_bound, "epsilon")
            by = f" ({claim.adversary} adversary)" if claim.adversary else ""
            proven = claim.lower_bound is not None and claim.lower_bound > claim.epsilon
            why = f"the audit measured a lower bound of {bound}{by}" if proven else claim.reason
            text = f"{claim_text(claim)}, but {why}: the claim is false."
        elif claim.state == "void":
            text = f"{claim_text(claim)}, but the claim is void: {claim.reason}."
        else:
            continue
        out.append(Alert(subjects=[claim.subject], tone="bad", text=text))
    return out


def _private(report: Report) -> list[Alert]:
    """A report on private data shows what the private sets were made to hide."""
    if not report.claims or report.run.publishable:
        return []
    text = (
        "Confidential: shows real records and numbers measured on them. "
        "'ddaudit report RUN --publishable' writes one to share."
    )
    return [Alert(text=text)]


def _together(report: Report) -> list[Alert]:
    """What publishing every private set of the report costs: releases of the same records add up."""
    claims = spent(report)
    releases = {claim.release or str(i) for i, claim in enumerate(claims)}
    alike = {claim.relation for claim in claims} == {"add-or-remove-one"}
    if report.run.publishable or len(releases) < 2 or not alike:
        return []
    if any(claim.broken for claim in report.claims):
        return []  # what a claim that does not hold costs, nobody knows
    delta, cost = joint_delta(claims), compose(claims)
    text = (
        f"{len(releases)} private releases of the same records: publishing all costs "
        f"ε = {brief(cost)} at δ = {brief(delta)}."
    )
    return [Alert(text=text)]


def join(words: Sequence[str]) -> str:
    """``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def capital(text: str) -> str:
    """The text with a capital first letter, unless it begins with a symbol."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def count(n: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
