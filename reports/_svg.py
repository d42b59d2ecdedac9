"""matplotlib figures as inline SVG, coloured by the page.

Colours leave matplotlib as sentinels and become CSS variables, so a figure follows the page's
light, dark and print colours. Text stays text. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ddaudit.reports import labels

INK, FAINT, FLOOR, PAPER = "#000001", "#000002", "#000003", "#000004"
COLOURS = 8
"""Colours of the palette (``--series-0`` to ``--series-7`` in report.css)."""
_SERIES = 0x10
"""First series sentinel: colour i of the palette is drawn in #0000(10 + i)."""


@contextmanager
def figure_axes(size: tuple[float, float], *, salt: str) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure of ``size`` inches and its axes, in the report's look.

    ``salt`` makes the ids inside the SVG unique on the page and the same in every run.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MplFigure

    look: Any = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "text.parse_math": False,
        "font.size": 8, "font.family": "sans-serif", "text.color": INK,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
        "axes.facecolor": "none", "axes.axisbelow": True,
        "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5,
        "xtick.major.width": 0.6, "xtick.major.size": 2.5, "xtick.minor.size": 0,
        "ytick.major.width": 0.6, "ytick.major.size": 2.5, "ytick.minor.size": 0,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.03, "figure.constrained_layout.h_pad": 0.03,
    }  # fmt: skip
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = MplFigure(figsize=size)
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def to_svg(figure: Any, alt: str) -> str:
    """The figure as an ``<svg>`` element without anything that a page would have to fetch.

    ``alt`` is the text for those who do not see it; without one the figure is hidden from them.
    """
    from xml.sax.saxutils import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', text)
    role = (
        f'role="img" aria-label="{escape(alt, {chr(34): "&quot;"})}"'
        if alt
        else 'aria-hidden="true"'
    )
    head = f'<svg viewBox="{box.group(1) if box else "0 0 100 100"}" {role}>'
    text = re.sub(r"^<svg[^>]*>", lambda _: head, text)  # a backslash in it is a backslash
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", text)
    text = re.sub(r"font: (?:\w+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r'\s*<style type="text/css">\*\{[^}]*\}</style>', "", text)
    text = re.sub(
        r"#0000([01][0-9a-f])(?![0-9a-f])", lambda m: _variable(int(m.group(1), 16)), text
    )
    return labels.visible(re.sub(r"\n\s*", "\n", text).strip())


def sentinel(colour: int | None) -> str:
    """The stand-in for a palette colour, or for the grey of baselines."""
    return f"#0000{_SERIES + (COLOURS if colour is None else colour):02x}"


def _variable(code: int) -> str:
    if code >= _SERIES + COLOURS:
        return "var(--baseline)"
    if code >= _SERIES:
        return f"var(--series-{code - _SERIES})"
    return {
        0: "currentColor",
        1: "var(--plot-ink)",
        2: "var(--plot-grid)",
        3: "var(--floor)",
        4: "var(--paper)",
    }.get(code, "currentColor")
