"""Small pieces of HTML with which results show themselves in a notebook. Whatever is put in is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table; cells are text."""

    def line(cells: Sequence[object], tag: str) -> str:
        inner = "".join(f"<{tag} style='text-align:left'>{escape(str(c))}</{tag}>" for c in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def facts(title: str, values: Mapping[str, object]) -> str:
    """A bold title and "name: value" pairs, None left out."""
    pairs = " · ".join(f"{escape(k)}: {escape(str(v))}" for k, v in values.items() if v is not None)
    return f"<div><b>{escape(title)}</b><br>{pairs}</div>"


def picture(png_base64: str, alt: str) -> str:
    """An inline picture."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{escape(png_base64)}">'


def paragraphs(texts: Sequence[str]) -> str:
    """One paragraph a text."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def number(value: float | None) -> str:
    """Three decimals; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """ "0.912 [0.900, 0.921]"."""
    bounds = f" [{number(low)}, {number(high)}]" if low is not None or high is not None else ""
    return number(value) + bounds
