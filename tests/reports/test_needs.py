"""Which set for which need: who is named, and that nobody is named who is not shown to be better."""

from __future__ import annotations

from typing import Any

import pytest

from ddaudit.auditing import AUDITORS
from ddaudit.findings import Finding, Metric
from ddaudit.reports import Report, build_report
from ddaudit.reports.answers import WORDS
from ddaudit.reports.labels import question
from ddaudit.reports.needs import alike
from ddaudit.reports.schema import Answer

ACCURACY, LEAK = (0.39, 0.41, 0.40, 0.40, 0.40), (0.90, 0.91, 0.92, 0.93, 0.94)


def _cell(subject: str, auditor: str, value: float, seed: int = 0) -> Finding:
    basis = auditor == "u"
    metric = Metric(
        name=f"{auditor}.x", label="accuracy" if basis else "leak", value=value, low=value - 0.02, high=value + 0.02,
        direction="higher" if basis else "lower", headline=True, basis=basis, chance=0.1 if basis else None,
        floor=None if basis else 0.05, n=400,
    )  # fmt: skip
    return Finding(subject=subject, auditor=auditor, seed=seed, metrics=[metric])


def _subject(name: str, epsilon: float | None) -> dict[str, Any]:
    card = {} if epsilon is None else {"privacy": {"epsilon": epsilon, "delta": 1e-5}}
    return {"id": name, "kind": "file", "card": card}


def _report(claims: dict[str, float] | None = None, **candidates: tuple[float, float]) -> Report:
    stated = claims or {}

    class Run:
        info = {"data": "digits", "preset": "standard", "seeds": [0]}  # noqa: RUF012
        subjects = (
            {"id": "random", "kind": "recipe", "baseline": True},
            *(_subject(n, stated.get(n)) for n in candidates),
        )
        auditors = ({"name": "u", "title": "Utility"}, {"name": "l", "title": "Leakage"})
        cells = [  # noqa: RUF012
            *(_cell("random", "u", v, s) for s, v in enumerate(ACCURACY)),
            *(_cell("random", "l", v, s) for s, v in enumerate(LEAK)),
            *(_cell(n, "u", v[0]) for n, v in candidates.items()),
            *(_cell(n, "l", v[1]) for n, v in candidates.items()),
        ]
        checks: dict[str, list[Any]] = {}  # noqa: RUF012

    return build_report(Run())  # type: ignore[arg-type]


def _needs(report: Report) -> dict[str, tuple[list[str], str]]:
    return {n.need: (n.subjects, n.text) for n in report.needs}


def test_each_need_names_those_that_are_shown_to_meet_it() -> None:
    report = _report({"private": 2.0}, sharp=(0.80, 0.92), private=(0.41, 0.05), both=(0.85, 0.30))
    assert _needs(report) == {
        "Accuracy": (["sharp", "both"], "sharp, both (both 0.85 against 0.40)"),
        "Privacy guarantee": (["private"], "private (ε 2.00, not tested)"),
        "Leakage": (["private", "both"], "private, both (private leak 0.050 against 0.92, still measurable)"),
    }  # fmt: skip


def test_the_highest_number_is_told_as_what_it_is() -> None:
    needs = _needs(_report(a=(0.41, 0.92), b=(0.12, 0.92)))
    assert needs["Accuracy"] == (
        [],
        "none shown better than random; highest a, 0.41 against 0.40",
    )
    assert needs["Privacy guarantee"] == ([], "none of these sets claims one")
    assert needs["Shown of no set"] == ([], "leakage")
    assert _needs(_report(a=(0.39, 0.5)))["Accuracy"][1] == "none shown better than random"
    assert _needs(_report(a=(0.1, 0.5)))["Accuracy"][1] == "none is clearly above guessing"


def test_a_need_is_named_by_its_auditor_and_stays_short(report: Report) -> None:
    for name in AUDITORS.names():
        assert 2 <= len(AUDITORS.get(name).need.split()) <= 4, name
        assert question(AUDITORS.get(name).question).endswith("?"), name
    many = {f"a-rather-long-name-{i}": (0.8, 0.3) for i in range(12)}
    for made in (report, _report(**many)):
        assert all(len(f"{n.need} {n.text}".split()) <= WORDS for n in made.needs)
    assert "and 8 more" in _needs(_report(**many))["Accuracy"][1]


def test_a_false_claim_guarantees_nothing(report: Report) -> None:
    assert _needs(report)["Privacy guarantee"] == (["psg"], "psg (ε 10.0, not contradicted)")


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["x 0.80, y; z", "x 0.90, y; z"], [("a, b", "x 0.80 to 0.90, y; z")]),
        (["x 0.80, y 1", "x 0.80, y 2"], [("a", "x 0.80, y 1"), ("b", "x 0.80, y 2")]),
        (["same 0.50", "other", "same 0.50"], [("a, c", "same 0.50"), ("b", "other")]),
    ],
)
def test_answers_that_differ_in_one_number_share_a_line(
    texts: list[str], lines: list[tuple[str, str]]
) -> None:
    answers = [
        Answer(subject=s, tone="neutral", text=t) for s, t in zip("abc", texts, strict=False)
    ]
    assert [(", ".join(who), a.text) for who, a in alike(answers)] == lines
