"""The sentences follow from the numbers."""

from __future__ import annotations

import pytest

from ddaudit.defenses.privacy.accounting import epsilon
from ddaudit.findings import Finding, Metric
from ddaudit.reports import Report, build_report
from ddaudit.reports.compare import base_of
from ddaudit.reports.labels import brief
from ddaudit.reports.view import changes
from ddaudit.sets import LedgerEntry, PrivacyClaim


@pytest.mark.parametrize(
    ("subject", "ids", "base"),
    [
        ("dm+fair", ["dm", "dm+fair"], "dm"),
        ("dm+fair+dp", ["dm", "dm+fair"], "dm+fair"),
        ("dm+fair+dp", ["dm"], "dm"),
        ("dm+fair", ["random"], None),
        ("dm", ["dm"], None),
        ("dm+fair (IPC 50)", ["dm", "dm (IPC 50)", "dm+fair"], "dm (IPC 50)"),
        ("dm+dp (ε 8)", ["dm", "dm+dp"], "dm"),
    ],
)
def test_the_base_of_a_composed_recipe(subject: str, ids: list[str], base: str | None) -> None:
    assert base_of(subject, ids) == base


def _texts(report: Report) -> list[str]:
    return [s.text for s in report.summary]


def test_a_broken_claim_is_an_alert(report: Report) -> None:
    (broken,) = [a for a in report.alerts if a.tone == "bad"]
    assert broken.subjects == ["dm+dp"]
    assert broken.text.startswith("dm+dp claims ε = 1 at δ = 1e-5, but the audit measured")
    (masked,) = [a for a in report.alerts if a.subjects == ["herding"]]
    rest = [a.text for a in report.alerts if a is not masked]
    assert report.alerts_of("dm+dp") == rest
    assert broken.text not in report.alerts_of("dm")


def test_what_a_defense_changed_is_told_with_both_values(report: Report) -> None:
    table = changes(report)
    row = next(r for r in table.rows if r.subject.id == "dm+fair")
    assert row.base == "dm"
    i = next(k for k, g in enumerate(table.groups) if g.auditor.name == "bias")
    metric = {
        f.subject: f.metric("bias.deo_m").value or 0 for f in report.findings if f.auditor == "bias"
    }
    (better,) = [t for t in row.groups[i][0].tags if t.word == "better"]
    assert row.groups[i][0].text == f"{metric['dm+fair']:.3f}"
    assert better.number == f"−{metric['dm'] - metric['dm+fair']:.3f}"


def test_numbers_under_a_failing_check_are_not_talked_about(report: Report) -> None:
    assert not any("ECE" in text for text in _texts(report))
    assert any(
        "perfectly calibrated simulator" in text and "failed for all subjects" in text
        for text in _texts(report)
    )


def test_skipped_cells_are_named(report: Report) -> None:
    assert "1 cell skipped: psg × backdoor." in _texts(report)


def test_an_empty_report_says_nothing() -> None:
    class Empty:
        info = {"data": "digits"}  # noqa: RUF012
        subjects = auditors = cells = ()
        checks: dict[str, list[object]] = {}  # noqa: RUF012

    assert build_report(Empty()).summary == []  # type: ignore[arg-type]


def test_releases_of_the_same_records_add_up() -> None:
    """Two full-batch Gaussian releases of sigma are one of sigma / sqrt(2): an outside answer."""

    def claim(release: str, sigma: float) -> dict[str, object]:
        entry = LedgerEntry(query="q", sigma=sigma, q=1.0, count=1)
        stated = PrivacyClaim(
            epsilon=epsilon([entry], 1e-5), delta=1e-5, ledger=[entry], release=release
        )
        return {"privacy": stated.model_dump(mode="json")}

    class Two:
        info = {"data": "digits"}  # noqa: RUF012
        subjects = (
            {"id": "a", "kind": "file", "card": claim("x", 5.0)},
            {"id": "b", "kind": "file", "card": claim("y", 5.0)},
            {"id": "same as a", "kind": "file", "card": claim("x", 5.0)},
        )
        auditors = cells = ()
        checks: dict[str, list[object]] = {}  # noqa: RUF012

    joint = epsilon([LedgerEntry(query="q", sigma=5.0 / 2**0.5, q=1.0, count=1)], 1e-5)
    made = build_report(Two())  # type: ignore[arg-type]
    (line,) = [a.text for a in made.alerts if "private releases" in a.text]
    assert "2 private releases" in line
    assert f"ε = {brief(joint)} " in line


def test_membership_stands_beside_dp_sgd() -> None:
    def metric(name: str, value: float, **params: object) -> Metric:
        return Metric(name=f"membership.{name}", value=value, params=params)

    control = {"control": "dp-sgd", "epsilon": 4.0}
    found = [
        metric("auc", 0.55, attack="lira"),
        metric("victim_accuracy", 0.61),
        metric("control_accuracy", 0.72, **control),
        metric("control_auc", 0.52, attack="lira", **control),
    ]

    class Run:
        info = {"data": "digits"}  # noqa: RUF012
        subjects = ({"id": "dm", "kind": "recipe"},)
        auditors = ({"name": "membership", "title": "Membership"},)
        checks: dict[str, list[object]] = {}  # noqa: RUF012

        def __init__(self, metrics: list[Metric]) -> None:
            self.cells = [Finding(subject="dm", auditor="membership", metrics=metrics)]

    (line,) = [t for t in _texts(build_report(Run(found))) if "DP-SGD" in t]  # type: ignore[arg-type]
    assert "dm reach accuracy 0.61 at membership AUC 0.55" in line
    assert "(ε = 4), which proves a bound, 0.72 at 0.52" in line
    without = build_report(Run(found[:2]))  # type: ignore[arg-type]
    assert not any("DP-SGD" in t for t in _texts(without))
