"""The command ``demo``: one audit of embedded data in which privacy, fairness and utility can all be seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddaudit.cli import places
from ddaudit.cli.auditing import run_with_progress
from ddaudit.cli.output import say

if TYPE_CHECKING:
    from ddaudit.reports import Report

CONFIG: dict[str, Any] = {
    "subjects": ["dm", "dm+fair", "dp-merf", "dp-merf+fair"],
    "data": "digits-colored:bias=0.5",
    "preset": "quick",
    "epsilon": 10.0,
    "delta": 1e-4,
    "auditors": [
        "utility",
        "bias",
        "membership",
        "privacy",
        "calibration",
        "adversarial",
        "backdoor",
    ],
    "settings": {"backdoor": {"poison_ratios": [0.1]}},
    "baselines": ["full", "random"],
}
"""Method and bias were chosen on validation digits so that a private set is usable: see docs/demo.md."""

LOOK_AT: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("utility: accuracy, guessing is 0.10", "utility.accuracy", {}),
    ("fairness: average gap between colours, 0 is fair", "bias.deo_a", {"test": "paired"}),
    ("members: AUC of LiRA, 0.5 is guessing", "membership.auc", {"attack": "lira"}),
    (
        "privacy: epsilon is at least",
        "privacy.epsilon_lower_bound",
        {"adversary": "any", "method": "one-run"},
    ),
)
"""A line each: what it is, the metric, and its params."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run and its report.")] = Path(
        "demo-run"
    ),
) -> None:
    """The whole story on embedded data, in minutes on a laptop; prints the report's path."""
    places.check_folder(out)

    from ddaudit.audits import AuditConfig
    from ddaudit.reports import write_report
    from ddaudit.reports.runs import report_of

    config = AuditConfig(**CONFIG, out=str(out))
    code = run_with_progress(config)
    report = report_of([str(out)])
    for path in write_report(report, out, ["html", "md", "json", "csv"]).values():
        typer.echo(path)
    preset = config.resolved_preset()
    drawn = (
        f"{preset.light_draws} draws for utility and fairness, {preset.reference_draws} for attacks"
    )
    say(f"what to look at (one distilled set of each method; of random {drawn})")
    for line in look_at(report):
        say(f"  {line}")
    raise typer.Exit(code)


def look_at(report: Report) -> list[str]:
    """The story's numbers, a line each: those of ``LOOK_AT`` that were measured, and what became of claims."""
    lines = []
    for title, name, params in LOOK_AT:
        values = [
            f"{finding.subject} {metric.value:.2f}"
            for finding in report.findings
            for metric in finding.metrics
            if metric.name == name and metric.params == params and metric.value is not None
        ]
        if values:
            lines.append(f"{title}: {', '.join(values)}")
    claims = [f"{c.subject} claims {c.epsilon:.3g}, {c.state}" for c in report.claims]
    if claims:
        lines.append(f"claims of epsilon: {'; '.join(claims)}")
    return lines
