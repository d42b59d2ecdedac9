"""What a report looks up by key is what a search through its lists finds, also after they change."""

from __future__ import annotations

from ddaudit.reports.schema import Doubt, Report


def test_look_ups_equal_a_search(report: Report) -> None:
    for f in report.findings:
        first = next(x for x in report.findings if (x.subject, x.auditor) == (f.subject, f.auditor))
        assert report.finding(f.subject, f.auditor) is first
        assert report.findings_of(f.subject) == [
            x for x in report.findings if x.subject == f.subject
        ]
        for m in f.metrics:
            greyed = [
                g.checks for g in report.greyed
                if (g.subject, g.auditor, g.metric, g.params) == (f.subject, f.auditor, m.name, m.params)
            ]  # fmt: skip
            assert report.failing_checks(f, m) == (greyed[0] if greyed else [])
            for baseline in report.baselines:
                rows = [
                    c for c in report.comparisons
                    if (c.subject, c.auditor, c.baseline, c.metric, c.params)
                    == (f.subject, f.auditor, baseline, m.name, m.params)
                ]  # fmt: skip
                assert report.comparison(f, m, baseline) is (rows[0] if rows else None)
    assert report.comparisons
    assert report.greyed
    assert report.finding("nobody", "utility") is None
    assert report.findings_of("nobody") == []


def test_a_list_that_grows_or_is_replaced_is_looked_up_anew(report: Report) -> None:
    copy = report.model_copy(deep=True)
    finding = copy.findings[0]
    metric = next(
        m for f in copy.findings if f.subject == finding.subject for m in f.metrics if not m.basis
    )
    assert copy.doubt(finding, metric) == ""
    copy.at_chance.append(Doubt(subject=finding.subject, reason="it guesses"))
    assert copy.doubt(finding, metric) == "it guesses"
    copy.at_chance = []
    assert copy.doubt(finding, metric) == ""
    assert copy == report  # looking up changes nothing
