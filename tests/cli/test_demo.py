"""The demo: what it audits exists and is private where it says so, and its last lines are the report's numbers."""

from ddaudit.audits import AuditConfig, named_recipes, preview
from ddaudit.cli.demo import CONFIG, look_at
from ddaudit.data import load_data
from ddaudit.findings import Finding, Metric
from ddaudit.reports import Report, RunInfo
from ddaudit.reports.schema import Claim


def test_its_claims_can_be_made_and_are_tested(tmp_path):
    config = AuditConfig(**CONFIG, out=str(tmp_path))
    private = [r.name for r in named_recipes(config) if r.reader and r.reader.private]
    assert private == ["dp-merf", "dp-merf+fair"]
    assert config.delta is not None
    assert config.delta * len(load_data(config.data).train) < 1
    audited = {row.subject for row in preview(config).rows if row.auditor == "privacy"}
    assert set(private) <= audited


def test_the_last_lines_are_the_report_s_numbers():
    def finding(subject, auditor, *metrics):
        return Finding(subject=subject, auditor=auditor, metrics=list(metrics))

    report = Report(
        run=RunInfo(data="digits-colored"),
        subjects=[],
        findings=[
            finding("dm", "utility", Metric(name="utility.accuracy", value=0.804)),
            finding("dm+dp", "utility", Metric(name="utility.accuracy", value=0.546)),
            finding(
                "dm",
                "bias",
                Metric(name="bias.deo_a", value=0.9, params={"test": "standard"}),
                Metric(name="bias.deo_a", value=0.49, params={"test": "paired"}),
            ),
            finding(
                "dm",
                "membership",
                Metric(name="membership.auc", value=None, params={"attack": "lira"}),
                Metric(name="membership.auc", value=0.7, params={"attack": "nearest"}),
            ),
        ],
        claims=[Claim(subject="dm+dp", epsilon=9.95, state="not contradicted")],
    )
    assert look_at(report) == [
        "utility: accuracy, guessing is 0.10: dm 0.80, dm+dp 0.55",
        "fairness: average gap between colours, 0 is fair: dm 0.49",
        "claims of epsilon: dm+dp claims 9.95, not contradicted",
    ]
