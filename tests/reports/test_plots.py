"""Figures: which panels there are, and what the SVG may contain."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ddaudit.findings import Curve, Finding
from ddaudit.reports import Report
from ddaudit.reports.plots import curve_plots, headline_plots, styles, swatch
from ddaudit.reports.schema import AuditorInfo, SubjectInfo


def _auditor(report: Report, name: str) -> AuditorInfo:
    return next(a for a in report.auditors if a.name == name)


def _report(curves: dict[str, list[Curve]]) -> Report:
    findings = [Finding(subject=s, auditor="a", curves=c) for s, c in curves.items()]
    subjects = [SubjectInfo(id=s, kind="recipe") for s in curves]
    from ddaudit.reports.schema import RunInfo

    return Report(
        run=RunInfo(data="d"),
        subjects=subjects,
        auditors=[AuditorInfo(name="a")],
        findings=findings,
    )


def test_lines_share_a_panel_and_bars_do_not(report: Report) -> None:
    (roc,) = curve_plots(report, _auditor(report, "membership"))
    assert (len(roc.panels), len(roc.legend)) == (1, 7)
    (reliability,) = curve_plots(report, _auditor(report, "calibration"))
    assert [p.title for p in reliability.panels] == [s.id for s in report.subjects]
    assert reliability.legend == ()


def test_several_lines_of_a_subject_get_a_panel_per_label() -> None:
    lines = [Curve(plot="p", label=label, x=[0, 1], y=[0, 1]) for label in ("fgsm", "pgd")]
    (plot,) = curve_plots(_report({"a": lines, "b": lines}), AuditorInfo(name="a"))
    assert [p.title for p in plot.panels] == ["fgsm", "pgd"]
    assert [p.title for p in plot.deciding + plot.others] == ["fgsm", "pgd"]
    assert len(plot.deciding) == 1


def test_a_subject_in_its_own_label_is_left_out_and_bars_get_a_plot_per_label() -> None:
    def bars(name: str) -> list[Curve]:
        return [
            Curve(plot="p", label=f"{name}, {v}", x=[0.2, 0.7], y=[0, 1], kind="bars")
            for v in ("raw", "scaled")
        ]

    plots = curve_plots(_report({"dm": bars("dm"), "dm+dp": bars("dm+dp")}), AuditorInfo(name="a"))
    assert [(p.title, [f.title for f in p.panels]) for p in plots] == [
        ("p, raw", ["dm", "dm+dp"]),
        ("p, scaled", ["dm", "dm+dp"]),
    ]


def test_points_and_ceilings_are_laid_over_the_lines() -> None:
    curves = [
        Curve(plot="p", label="dm", x=[0, 1], y=[0, 1]),
        Curve(
            plot="p",
            label="dm (AutoAttack)",
            x=[0.5],
            y=[0.4],
            low=[0.3],
            high=[0.5],
            kind="points",
        ),
        Curve(plot="p", label="ceiling of the claim (epsilon 1)", x=[0, 1], y=[0.1, 1]),
    ]
    (plot,) = curve_plots(_report({"dm": curves}), AuditorInfo(name="a"))
    assert len(plot.panels) == 1
    assert (
        plot.note
        == "Larger open marks: AutoAttack. Dotted: ceiling of the claim (epsilon 1) of dm."
    )


def test_curves_of_the_first_seed_are_announced() -> None:
    line = Curve(plot="p", label="l (seed 0)", x=[0, 1], y=[0, 1])
    (plot,) = curve_plots(_report({"a": [line]}), AuditorInfo(name="a"))
    assert "show the first seed" in plot.note


@pytest.mark.parametrize(
    "curve",
    [
        Curve(
            plot="p",
            label='$x_1 <&> "q"',
            x=[0, 1e-3, 1],
            y=[0, 0, 1],
            log_x=True,
            log_y=True,
            kind="step",
            diagonal=True,
        ),
        Curve(plot="p", label="empty", x=[], y=[]),
        Curve(plot="p", label="flat", x=[1], y=[0], kind="points", x_label="$", y_label="<b>"),
        Curve(plot="p", label="zeros", x=[0, 0], y=[0, 0], log_x=True, log_y=True),
        Curve(plot="p", label="bars", x=[0.5], y=[0.5], kind="bars", low=[0.4], high=[0.6]),
        Curve(plot="p", label="band", x=[0, 1], y=[-1e9, 1e9], low=[-2e9, 0], high=[0, 2e9]),
    ],
)
def test_odd_curves_are_drawn_without_complaint(curve: Curve) -> None:
    for plot in curve_plots(_report({"s <&>": [curve]}), AuditorInfo(name="a")):
        for panel in plot.panels:
            ElementTree.fromstring(panel.svg)


def test_figures_are_xml_with_page_colours_and_real_text(report: Report) -> None:
    (figure,) = headline_plots(report, _auditor(report, "utility"))
    root = ElementTree.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert "dm+fair 0.717 [0.705, 0.729]" in (root.get("aria-label") or "")
    assert "dm+fair" in [t.text for t in root.iter("text")]
    assert "var(--series-0)" in figure.svg
    assert not re.search(r"#0000[01][0-9a-f]", figure.svg)
    assert "http" not in figure.svg


def test_looks_tell_subjects_apart() -> None:
    subjects = [SubjectInfo(id=str(i), kind="recipe", baseline=i < 3) for i in range(19)]
    looks = styles(subjects)
    assert len({(s.colour, s.marker, str(s.dash)) for s in looks.values()}) == 19
    assert [looks[str(i)].colour for i in (0, 2, 3, 4)] == [None, None, 0, 1]
    assert "var(--baseline)" in swatch(looks["0"])
