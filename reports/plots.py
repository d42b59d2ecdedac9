"""The figures of a report: dots with intervals, curves as small multiples, legend keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import fill
from typing import Any

from ddaudit.findings import CLAIMED, Curve, Metric
from ddaudit.reports import labels
from ddaudit.reports._svg import COLOURS, FLOOR, INK, PAPER, figure_axes, sentinel, to_svg
from ddaudit.reports.merge import base_label
from ddaudit.reports.schema import AuditorInfo, MetricKey, Report, SubjectInfo

_KEYS = {
    "o": "M-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z",
    "s": "M-2.4 -2.4h4.8v4.8h-4.8z",
    "^": "M0 -3L3 2.4H-3z",
    "D": "M0 -3L3 0L0 3L-3 0z",
    "v": "M0 3L3 -2.4H-3z",
    "P": "M-1 -3h2v2h2v2h-2v2h-2v-2h-2v-2h2z",
    "X": "M0 -1.4L1.4 -2.8L2.8 -1.4L1.4 0L2.8 1.4L1.4 2.8L0 1.4L-1.4 2.8L-2.8 1.4L-1.4 0L-2.8 -1.4L-1.4 -2.8z",
    "*": "M0 -3.4L.8 -1.1H3.2L1.3 .4L2 2.8L0 1.4L-2 2.8L-1.3 .4L-3.2 -1.1H-.8z",
}
"""Marker of matplotlib -> its outline in a legend key."""
_MARKERS = "".join(_KEYS)
_PANEL, _WIDE_PANEL = (2.5, 2.1), (3.3, 2.6)
_MOST_PANELS, _MOST_TICKS = 12, 6


@dataclass(frozen=True)
class Style:
    """A subject's look in every figure; ``colour`` indexes the palette, None = a grey baseline."""

    colour: int | None
    marker: str
    dash: tuple[float, tuple[float, ...]] | str

    @property
    def css(self) -> str:
        """The colour as a CSS variable."""
        return "var(--baseline)" if self.colour is None else f"var(--series-{self.colour})"


@dataclass(frozen=True)
class Figure:
    """One SVG and the words for those who do not see it."""

    svg: str
    title: str
    alt: str


@dataclass(frozen=True)
class Plot:
    """Small multiples of one kind, with the subjects that need a legend."""

    title: str
    panels: tuple[Figure, ...]
    legend: tuple[str, ...]
    note: str = ""

    @property
    def deciding(self) -> tuple[Figure, ...]:
        """What to look at first: of panels that share a legend the first, of panels of subjects six."""
        return self.panels[: 1 if self.legend else 6]

    @property
    def others(self) -> tuple[Figure, ...]:
        """The rest of its panels."""
        return self.panels[len(self.deciding) :]


@dataclass(frozen=True)
class _Line:
    subject: str
    name: str
    curve: Curve


def styles(subjects: Sequence[SubjectInfo]) -> dict[str, Style]:
    """A look for every subject: baselines in grey with own dashes, others in palette order."""
    dashes: list[Any] = ["solid", (0.0, (4.0, 2.0)), (0.0, (1.0, 1.5)), (0.0, (5.0, 1.5, 1.0, 1.5))]
    out: dict[str, Style] = {}
    greys = coloured = 0
    for subject in subjects:
        if subject.baseline:
            out[subject.id] = Style(None, _MARKERS[greys % 8], dashes[greys % 4])
            greys += 1
        else:
            out[subject.id] = Style(
                coloured % COLOURS, _MARKERS[coloured % 8], dashes[coloured // COLOURS % 4]
            )
            coloured += 1
    return out


def swatch(style: Style) -> str:
    """A legend key: the subject's line and marker in 26 x 10 pixels."""
    dash = "" if isinstance(style.dash, str) else " ".join(f"{d:g}" for d in style.dash[1])
    return (
        f'<svg viewBox="-13 -5 26 10" aria-hidden="true" style="color: {style.css}">'
        f'<path d="M-12 0H12" style="stroke: currentColor; stroke-width: 1.4; fill: none;'
        f' stroke-dasharray: {dash or "none"}"/>{marker(style)}</svg>'
    )


def marker(style: Style) -> str:
    """The subject's mark around (0, 0), in the text colour of where it stands."""
    face = "none" if style.colour is None else "currentColor"
    return f'<path d="{_KEYS[style.marker]}" style="fill: {face}; stroke: currentColor"/>'


def headline_plots(report: Report, auditor: AuditorInfo) -> list[Figure]:
    """One dot-and-interval figure per headline metric of an auditor, the primary one first, subjects top to bottom."""
    keys: dict[MetricKey, Metric] = {}
    for finding in report.findings:
        if finding.auditor == auditor.name:
            for metric in finding.metrics:
                claim = metric.name == CLAIMED and report.claims  # a constant, and in the verdict
                if metric.headline and metric.value is not None and not claim:
                    keys.setdefault(metric.key, metric)
    return [_dots(report, auditor, metric) for metric in keys.values()]


def curve_plots(report: Report, auditor: AuditorInfo) -> list[Plot]:
    """The curves of an auditor as small multiples.

    Lines and points of all subjects share a panel per label; bars get a panel per subject and a plot per
    label. Two kinds of curve are laid over the others' panels: a ``ceiling ...`` (a reference that belongs
    to a subject), dotted, and points in a plot of lines, as larger open marks. A label may begin with its
    subject's id, which is then left out.
    """
    groups: dict[str, list[_Line]] = {}
    for finding in report.findings:
        for curve in finding.curves if finding.auditor == auditor.name else ():
            if curve.x and curve.y:
                name = _variant(finding.subject, base_label(curve.label))
                title = f"{curve.plot}, {name}" if curve.kind == "bars" and name else curve.plot
                groups.setdefault(title, []).append(_Line(finding.subject, name, curve))
    looks = styles(report.subjects)
    return [_plot(looks, title, g, salt=f"{auditor.name}-{title}") for title, g in groups.items()]


def line_figure(
    name: str, curves: Mapping[str, Curve], looks: dict[str, Style], *, title: str
) -> Figure:
    """Lines of several names in one frame, by their looks."""
    lines = [_Line(line, "", curve) for line, curve in curves.items()]
    salt = f"{title}-{name}"
    return _panel(name, lines, (), looks, _limits(lines), _PANEL, title=title, salt=salt)


def _variant(subject: str, label: str) -> str:
    rest = label.removeprefix(subject)
    return label if rest and rest[0] not in " ,:(" else rest.strip(" ,:()")


def _plot(looks: dict[str, Style], title: str, lines: Sequence[_Line], *, salt: str) -> Plot:
    lined = any(line.curve.kind in ("line", "step") for line in lines)
    over = [
        x for x in lines if x.name.startswith("ceiling") or (lined and x.curve.kind == "points")
    ]
    main = [x for x in lines if x not in over] or over
    over = [] if main is over else over
    names = list(dict.fromkeys(x.name for x in main))
    bars = main[0].curve.kind == "bars"
    panels: dict[str, list[_Line]] = {}
    for x in main:
        alone = len(names) in (1, len(main))
        panels.setdefault(x.subject if bars else "" if alone else x.name, []).append(x)
    shown = list(panels.items())[:_MOST_PANELS]
    limits, size = _limits(lines), _PANEL if len(shown) > 2 else _WIDE_PANEL
    figures = tuple(
        _panel(name, group, over, looks, limits, size, title=title, salt=f"{salt}-{i}")
        for i, (name, group) in enumerate(shown)
    )
    legend = () if bars else tuple(dict.fromkeys(x.subject for x in lines))
    return Plot(title, figures, legend, _notes(main, over, len(panels) - len(shown)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{len(names)} sets"


def _notes(main: Sequence[_Line], over: Sequence[_Line], left_out: int) -> str:
    notes = []
    marks = dict.fromkeys(x.name for x in over if x.curve.kind == "points")
    if marks:
        notes.append(f"Larger open marks: {', '.join(marks)}.")
    ceilings: dict[str, list[str]] = {}
    for x in over:
        if x.curve.kind != "points":
            ceilings.setdefault(x.name, []).append(x.subject)
    if ceilings:
        said = (f"{name} of {_listed(list(dict.fromkeys(who)))}" for name, who in ceilings.items())
        notes.append(f"Dotted: {'; '.join(said)}.")
    if any(base_label(x.curve.label) != x.curve.label for x in (*main, *over)):
        notes.append("Curves whose points differ between seeds show the first seed.")
    if left_out:
        notes.append(f"{left_out} more panels are in report.json.")
    return " ".join(notes)


def _panel(
    name: str,
    lines: Sequence[_Line],
    over: Sequence[_Line],
    looks: dict[str, Style],
    limits: tuple[tuple[float, float], tuple[float, float]],
    size: tuple[float, float],
    *,
    title: str,
    salt: str,
) -> Figure:
    first = lines[0].curve
    with figure_axes(size, salt=salt) as (figure, axes):
        for on, axis, at in (
            (first.log_x, "x", {x for line in lines for x in line.curve.x}),
            (first.log_y, "y", ()),
        ):
            if on:
                _log_axis(axes, axis, at)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        if first.diagonal:
            low, high = max(limits[0][0], limits[1][0]), min(limits[0][1], limits[1][1])
            axes.plot([low, high], [low, high], color=INK, lw=0.8, ls=(0, (1, 2)), zorder=1)
        order = list(dict.fromkeys(line.subject for line in lines))
        for line in lines:
            place = order.index(line.subject) - (len(order) - 1) / 2
            _draw(axes, line.curve, looks[line.subject], dodge=place / max(len(order), 1))
        for line in over:
            _draw_over(axes, line.curve, looks[line.subject])
        axes.set_xlabel(fill(first.x_label, round(13 * size[0])))
        axes.set_ylabel(fill(first.y_label, round(13 * size[1])))
        alt = _alt(f"{title}{': ' + name if name else ''}", lines)
        return Figure(to_svg(figure, alt), name, alt)


def _draw(axes: Any, curve: Curve, style: Style, *, dodge: float) -> None:
    """One curve. ``dodge`` in (-0.5, 0.5) moves points aside, so that subjects at one x stay apart."""
    colour = sentinel(style.colour)
    x, y, low, high = _drawable(curve)
    step = min((b - a for a, b in pairwise(sorted(set(x)))), default=1.0)
    if curve.kind == "bars":
        axes.bar(x, y, width=0.9 * min(step, 0.2), color=colour, alpha=0.45, lw=0)
        if low and high:
            axes.vlines(x, low, high, color=colour, lw=1.2)
        return
    if curve.kind == "points":
        x = x if curve.log_x else [v + 0.6 * step * dodge for v in x]
        axes.plot(x, y, color=colour, ls="", marker=style.marker, ms=3.4, mfc=_face(style), mew=0.9)
        if low and high:
            axes.vlines(x, low, high, color=colour, lw=0.9, alpha=0.55)
        return
    stairs = "steps-post" if curve.kind == "step" else "default"
    axes.plot(
        x, y, color=colour, ls=style.dash, lw=1.3, drawstyle=stairs,
        marker=style.marker if len(x) <= 15 else "", ms=3.6, mfc=_face(style), mew=1.0,
    )  # fmt: skip
    if low and high:
        fill = "post" if curve.kind == "step" else None
        axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, step=fill)


def _draw_over(axes: Any, curve: Curve, style: Style) -> None:
    """A curve laid over panels of others: points as larger open marks, a ceiling as a dotted line."""
    colour = sentinel(style.colour)
    x, y, low, high = _drawable(curve)
    if curve.kind == "points":
        axes.plot(x, y, color=colour, ls="", marker=style.marker, ms=7, mfc="none", mew=1.1)
        if low and high:
            axes.vlines(x, low, high, color=colour, lw=0.9, alpha=0.55)
        return
    axes.plot(x, y, color=colour, ls=(0, (1, 1.2)), lw=1.6)


def _drawable(curve: Curve) -> tuple[list[float], list[float], list[float], list[float]]:
    """x, y, low, high without what a logarithmic axis cannot show; empty bands where there are none."""
    keep = [
        i
        for i in range(len(curve.x))
        if (curve.x[i] > 0 or not curve.log_x) and (curve.y[i] > 0 or not curve.log_y)
    ]
    low, high = ([band[i] for i in keep] if band else [] for band in (curve.low, curve.high))
    return [curve.x[i] for i in keep], [curve.y[i] for i in keep], low, high


def _limits(lines: Sequence[_Line]) -> tuple[tuple[float, float], tuple[float, float]]:
    first = lines[0].curve
    xs = [v for line in lines for v in line.curve.x]
    ys = [
        v
        for line in lines
        for c in (line.curve.y, line.curve.low or [], line.curve.high or [])
        for v in c
    ]
    return _range(xs, log=first.log_x), _range(
        [*ys, 0.0] if first.kind == "bars" else ys, log=first.log_y
    )


def _range(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    if log:
        values = [v for v in values if v > 0] or [0.1, 1.0]
        low, high = max(min(values), max(values) * 1e-6), max(values)
        return low * 0.8, max(high * 1.15, low * 10)
    low, high = min(values), max(values)
    if low >= 0 and 0.5 < high <= 1:
        return -0.02, 1.02
    pad = 0.05 * (high - low) or 0.05
    return low - pad, high + pad


def _log_axis(axes: Any, name: str, at: Collection[float] = ()) -> None:
    """A logarithmic axis; its ticks at the points themselves where these are few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    few = 1 < len(at) <= _MOST_TICKS
    axis.set_major_locator(FixedLocator(sorted(at)) if few else LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}"))
    axis.set_minor_formatter(NullFormatter())


def _dots(report: Report, auditor: AuditorInfo, metric: Metric) -> Figure:
    looks = styles(report.subjects)
    rows = []
    for subject in report.subjects:
        finding = report.finding(subject.id, auditor.name)
        found = next((m for m in finding.metrics if m.key == metric.key), None) if finding else None
        grey = bool(finding and found and report.failing_checks(finding, found))
        rows.append((subject, found if found and found.value is not None else None, grey))
    floors = [m.floor for _, m, _ in rows if m and m.floor is not None]
    salt = f"{auditor.name}-{metric.key}"
    with figure_axes((3.3, 0.62 + 0.21 * len(rows)), salt=salt) as (figure, axes):
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for y, (subject, found, grey) in enumerate(rows):
            style = looks[subject.id]
            colour = INK if grey else sentinel(style.colour)
            if found is None or found.value is None:
                axes.text(
                    0.02, y, "not measured", va="center", fontsize=7,
                    transform=axes.get_yaxis_transform(),
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
                )  # fmt: skip
                continue
            if found.low is not None and found.high is not None:
                axes.plot(
                    [found.low, found.high],
                    [y, y],
                    color=colour,
                    lw=2.2,
                    alpha=0.45,
                    solid_capstyle="butt",
                )
            axes.plot(
                [found.value],
                [y],
                color=colour,
                marker="x" if grey else style.marker,
                ms=4.6,
                mfc=_face(style),
                mew=1.1,
            )
            if subject.id == report.reference:
                axes.axvline(found.value, color=INK, lw=0.7, zorder=0)
        if floors:
            axes.axvline(sum(floors) / len(floors), color=FLOOR, lw=1.1, ls=(0, (3, 2)), zorder=0)
        axes.set_yticks(
            range(len(rows)), [labels.visible(labels.short(s.id, 18)) for s, _, _ in rows]
        )
        axes.set_ylim(len(rows) - 0.4, -0.6)
        alt = _dots_alt(metric, [(s.id, m) for s, m, _ in rows])
        arrow = labels.ARROWS[metric.direction]
        return Figure(to_svg(figure, alt), f"{labels.full_name(metric)} {arrow}".strip(), alt)


def _dots_alt(metric: Metric, rows: Sequence[tuple[str, Metric | None]]) -> str:
    values = [
        f"{name} {labels.number(m.value, m.unit)} {labels.interval(m.low, m.high, m.unit)}".strip()
        if m
        else f"{name} not measured"
        for name, m in rows
    ]
    return f"{labels.full_name(metric)} with 95% intervals: {'; '.join(values)}."


def _alt(title: str, lines: Sequence[_Line]) -> str:
    first = lines[0].curve
    axes = f"{first.y_label or 'y'} against {first.x_label or 'x'}"
    return f"{title}. {axes}, for {', '.join(dict.fromkeys(line.subject for line in lines))}."


def _face(style: Style) -> str:
    return "none" if style.colour is None else sentinel(style.colour)
