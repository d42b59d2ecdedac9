"""Runs that differ in size or epsilon: lines over it, each size beside the baseline of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ddaudit.findings import Finding
from ddaudit.reports import Report, build_report
from ddaudit.reports._html import to_html
from ddaudit.reports._markdown import to_markdown
from ddaudit.reports.sweep import draw, sweeps

ACCURACY = "utility.accuracy"


def _sized(run: Any, sizes: Mapping[str, tuple[str, dict[str, Any]]]) -> Report:
    """A report of these subjects: name -> the one of the synthetic run that it is, and what its card says besides."""
    known = {s["id"]: s for s in run.subjects}
    run.subjects = [
        {**known[of], "id": name, "drawn": of != "full", "card": {**known[of]["card"], **more}}
        for name, (of, more) in sizes.items()
    ]
    run.auditors = [a for a in run.auditors if a["name"] in ("utility", "calibration")]
    kept = {a["name"] for a in run.auditors}
    run.cells = [
        c.model_copy(update={"subject": name})
        for name, (of, _) in sizes.items()
        for c in run.cells
        if c.subject == of and c.auditor in kept
    ]
    return build_report(run)


@pytest.fixture(scope="module")
def sizes(make_run: Callable[..., Any]) -> Report:
    """dm, dm+fair and random at two sizes, and all records. The larger dm has the numbers of dm+fair, and so on."""
    return _sized(
        make_run(galleries=False),
        {
            "full": ("full", {}),
            "random": ("random", {}),
            "random (IPC 50)": ("herding", {"method": "random", "ipc": 50}),
            "dm": ("dm", {}),
            "dm (IPC 50)": ("dm+fair", {"method": "dm", "ipc": 50}),
            "dm+fair (IPC 50)": ("psg", {"method": "dm+fair", "ipc": 50, "privacy": None}),
        },
    )


def _value(report: Report, subject: str) -> float:
    finding = report.finding(subject, "utility")
    assert isinstance(finding, Finding)
    value = finding.metric(ACCURACY).value
    assert value is not None
    return value


def test_lines_join_the_sizes_of_a_method(sizes: Report) -> None:
    (sweep,) = sweeps(sizes)
    assert sweep.axis == "images per class"
    found = {line.name: {x: s.id for x, s in line.subjects.items()} for line in sweep.lines}
    assert found == {
        "dm": {10: "dm", 50: "dm (IPC 50)"},
        "random": {10: "random", 50: "random (IPC 50)"},
    }
    assert [s.id for s in sweep.level] == ["full"]


def test_figures_and_tables_hold_the_numbers(sizes: Report) -> None:
    drawn = draw(sizes, sweeps(sizes)[0])
    # Calibration failed its own check: nothing of it may be relied on, and nothing of it is drawn.
    assert [f.title for f in drawn.primary] == ["Utility: accuracy ↑"]
    assert set(drawn.looks) == {"dm", "random", "full"}
    html = to_html(sizes)
    section = html.split('id="sweep-1"')[1].split("</section>")[0]
    assert section.count("<svg") == 1 + len(drawn.looks)
    assert "for dm, random, full" in section
    table = to_markdown(sizes).split("### Over images per class")[1].split("###")[0]
    (row,) = re.findall(r"^\| Utility: accuracy \| dm \|(.*)$", table, re.M)
    shown = [float(cell.split()[0]) for cell in row.strip(" |").split("|")]
    assert shown == [round(_value(sizes, s), 3) for s in ("dm", "dm (IPC 50)")]


def test_each_size_is_compared_with_its_own_baseline_and_base(sizes: Report) -> None:
    assert sizes.reference_of("dm") == "random"
    assert sizes.reference_of("dm (IPC 50)") == "random (IPC 50)"
    assert sizes.reference_of("full") == "random"
    finding = sizes.finding("dm (IPC 50)", "utility")
    assert finding is not None
    comparison = sizes.comparison(finding, finding.metric(ACCURACY))
    assert comparison is not None
    assert comparison.baseline == "random (IPC 50)"
    expected = _value(sizes, "dm (IPC 50)") - _value(sizes, "random (IPC 50)")
    assert comparison.difference == pytest.approx(expected)
    bases = {c.baseline for c in sizes.comparisons if c.subject == "dm+fair (IPC 50)"}
    assert bases == {"full", "random", "random (IPC 50)", "dm (IPC 50)"}


def test_over_epsilon_what_claims_nothing_is_level(make_run: Callable[..., Any]) -> None:
    report = _sized(
        make_run(galleries=False),
        {"full": ("full", {}), "random": ("random", {}), "dm": ("dm", {}), "dm+dp": ("dm+dp", {}),
         "dm+dp (ε 10)": ("psg", {"method": "dm+dp"})},
    )  # fmt: skip
    (sweep,) = sweeps(report)
    assert sweep.axis == "ε"
    assert [list(line.subjects) for line in sweep.lines] == [[1.0, 10.0]]
    assert {s.id for s in sweep.level} == {"full", "random", "dm"}


def test_one_size_and_two_sets_of_one_size_are_no_sweep(
    report: Report, make_run: Callable[..., Any]
) -> None:
    assert sweeps(report) == []
    twice = {"dm": ("dm", {}), "dm (b)": ("dm+fair", {"method": "dm"}), "big": ("psg", {"method": "dm", "ipc": 50,
             "privacy": None})}  # fmt: skip
    assert sweeps(_sized(make_run(galleries=False), twice)) == []
    unknown = {"a": ("dm", {"method": "unknown"}), "b": ("dm", {"method": "unknown", "ipc": 50})}
    assert sweeps(_sized(make_run(galleries=False), unknown)) == []
