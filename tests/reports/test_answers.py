"""The line of each candidate: what it says first, and that it never says more than the verdicts."""

from __future__ import annotations

from typing import Any

from ddaudit.findings import Finding, Metric
from ddaudit.reports import Report, build_report
from ddaudit.reports.tradeoff import Axis, front

DRAWS = (0.39, 0.41, 0.40, 0.40, 0.40)


def _accuracy(subject: str, value: float, seed: int = 0) -> Finding:
    metric = Metric(name="u.accuracy", value=value, low=value - 0.02, high=value + 0.02, direction="higher",
                    headline=True, basis=True, chance=0.1, n=400)  # fmt: skip
    return Finding(subject=subject, auditor="u", seed=seed, metrics=[metric])


def _leak(subject: str, value: float, seed: int = 0, *, warning: str = "") -> Finding:
    metric = Metric(name="l.rate", label="leak", value=value, low=value - 0.02, high=value + 0.02,
                    direction="lower", headline=True, floor=0.05, n=400)  # fmt: skip
    return Finding(subject=subject, auditor="l", seed=seed, metrics=[metric], warning=warning)


def _report(**candidates: tuple[float, float, str]) -> Report:
    class Run:
        info = {"data": "digits", "preset": "standard", "seeds": [0]}  # noqa: RUF012
        subjects = tuple(
            {"id": n, "kind": "recipe", "baseline": n == "random"} for n in ("random", *candidates)
        )
        auditors = ({"name": "u", "title": "Utility"}, {"name": "l", "title": "Leakage"})
        cells = [  # noqa: RUF012
            *(_accuracy("random", v, s) for s, v in enumerate(DRAWS)),
            *(_leak("random", 0.9 + 0.01 * s, s) for s in range(5)),
            *(_accuracy(n, accuracy) for n, (accuracy, _, _) in candidates.items()),
            *(_leak(n, leak, warning=said) for n, (_, leak, said) in candidates.items()),
        ]  # fmt: skip
        checks: dict[str, list[Any]] = {}  # noqa: RUF012

    return build_report(Run())


def _lines(report: Report) -> dict[str, str]:
    return {a.subject: a.text for a in report.answers}


def test_useless_sets_come_first_whatever_else_they_are() -> None:
    report = _report(
        good=(0.8, 0.02, ""), guess=(0.1, 0.0, ""), copies=(0.8, 0.9, "all images are copies.")
    )
    assert list(_lines(report)) == ["guess", "copies", "good"]
    assert _lines(report)["guess"] == "useless: accuracy 0.10 is not clearly above guessing"
    assert _lines(report)["copies"].startswith("all images are copies")
    assert [a.tone for a in report.answers] == ["bad", "bad", "neutral"]


def test_better_than_the_reference_is_not_yet_at_the_floor() -> None:
    lines = _lines(_report(some=(0.40, 0.30, ""), none=(0.40, 0.05, "")))
    assert lines["some"] == (
        "accuracy 0.40, not shown better than random; better in leakage, still measurable"
    )
    assert lines["none"] == "accuracy 0.40, not shown better than random; better in leakage"


def test_what_is_worse_is_never_left_out() -> None:
    (line,) = _lines(_report(bad=(0.2, 0.99, ""))).values()
    assert line.startswith("accuracy 0.20, worse")
    many = _report(
        **{"a-name" * 3: (0.2, 0.99, "one two three four five six seven eight nine ten")}
    )
    assert all(len(f"{a.subject} {a.text}".split()) <= 14 for a in many.answers)


def test_one_draw_of_everything_has_no_verdict_in_its_line() -> None:
    class Run:
        info = {"data": "digits", "seeds": [0]}  # noqa: RUF012
        subjects = (
            {"id": "dm", "kind": "recipe"},
            {"id": "random", "kind": "recipe", "baseline": True},
        )
        auditors = ({"name": "u"},)
        cells = [_accuracy("dm", 0.9), _accuracy("random", 0.4)]  # noqa: RUF012
        checks: dict[str, list[Any]] = {}  # noqa: RUF012

    report = build_report(Run())  # type: ignore[arg-type]
    assert _lines(report) == {"dm": "accuracy 0.90, not shown better than random"}
    assert "1 seed: of these sets, not of their methods" in [t.text for t in report.trust]


def test_the_command_that_tests_a_claim_is_named() -> None:
    class Run:
        info = {"data": "digits", "seeds": [0]}  # noqa: RUF012
        subjects = (
            {"id": "a b", "kind": "file", "card": {"privacy": {"epsilon": 2.0, "delta": 1e-5}}},
        )
        auditors = ({"name": "u"},)
        cells = [_accuracy("a b", 0.9)]  # noqa: RUF012
        checks: dict[str, list[Any]] = {}  # noqa: RUF012

    report = build_report(Run())  # type: ignore[arg-type]
    assert "1 privacy claim not tested: ddaudit audit 'a b' --data digits --auditors privacy" in [
        t.text for t in report.trust
    ]
    assert _lines(report)["a b"] == "accuracy 0.90; claims ε 2.00"


def test_the_front_holds_those_that_none_beats_in_both() -> None:
    """Worked by hand: d is beaten by b, e is not to be relied on, c and f tie."""
    x = {"a": 0.1, "b": 0.5, "c": 0.9, "d": 0.4, "e": 1.0, "f": 0.9}
    y = {"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.3, "e": 0.0, "f": 0.6}

    def axis(values: dict[str, float], direction: Any, greyed: str = "") -> Axis:
        metrics = {n: Metric(name="m", value=v, direction=direction) for n, v in values.items()}
        return Axis("m", metrics, frozenset(greyed))

    assert front(axis(x, "higher"), axis(y, "lower", "e"), list(x)) == ["a", "b", "c", "f"]
    assert front(axis(x, "none"), axis(y, "lower"), list(x)) == []
