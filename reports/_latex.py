"""report.tex: the verdict as booktabs tables, to be \\input in a paper."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ddaudit.reports import labels
from ddaudit.reports.cells import Cell, Column
from ddaudit.reports.schema import Claim, Report
from ddaudit.reports.view import Row, Verdict, verdict

MOST_COLUMNS = 4
"""Headline columns with intervals that fit side by side on a page without small print."""
_TEMPLATES = Path(__file__).parent / "templates"
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "“": "``", "”": "''", "‘": "`", "’": "'",
    "ε": r"$\varepsilon$", "δ": r"$\delta$", "σ": r"$\sigma$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "−": r"$-$", "–": "--", "∞": r"$\infty$",
    "×": r"$\times$", "…": r"\dots{}", "≈": r"$\approx$", "≥": r"$\geq$",
    "≤": r"$\leq$", "±": r"$\pm$", "∅": r"$\emptyset$",
    "→": r"$\rightarrow$", "·": r"$\cdot$", "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "μ": r"$\mu$",
    "-": "-{}",
}  # fmt: skip
_PATTERN = re.compile(
    "|".join([*map(re.escape, _ESCAPES.keys() - {"-"}), "-(?=-)", "[^\x20-\x7e]"])
)
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"
"""What every TeX font can put on a Latin letter."""


def to_latex(report: Report) -> str:
    """One ``table`` environment per four headline columns, with marks for better and worse.

    Symmetric intervals are written with a plus-minus, lopsided ones in brackets. A table that is wider than its line
    is shrunk to it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<<",
        variable_end_string=">>>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # LaTeX has its own escaping: the ``tex`` filter
    )
    env.filters["tex"] = escape
    return env.get_template("report.tex").render(
        report=report,
        run=report.run,
        tables=verdict(report, most_columns=MOST_COLUMNS),
        sizes=labels.sizes(report),
        head=_head,
        line=_line,
    )


def escape(text: object) -> str:
    """Text that LaTeX prints as it is; line breaks become spaces, and what a plain TeX has no letter for its number."""
    flat = re.sub(r"\s+", " ", labels.visible(str(text))).strip()
    return _PATTERN.sub(lambda m: _ESCAPES.get(m.group()) or _letter(m.group()), flat)


def _letter(character: str) -> str:
    base, *accents = list(unicodedata.normalize("NFD", character))
    plain = base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS
    return character if plain and ord(character) < 0x180 else f"[U+{ord(character):04X}]"


def _head(table: Verdict) -> list[str]:
    lead = 2 if table.claims else 1
    titles, names, rules, at = [""] * lead, ["Subject"], [], lead + 1
    names += ["Claimed $\\varepsilon$"] if table.claims else []
    for group in table.groups:
        title = escape(group.auditor.heading)
        titles.append(f"\\multicolumn{{{group.span}}}{{c}}{{{title}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + group.span - 1}}}")
        at += group.span
        for column in group.columns:
            names.append(_column_head(column))
        if not group.columns:
            names.append("")
    return [" & ".join(titles) + r" \\", " ".join(rules), " & ".join(names) + r" \\"]


def _column_head(column: Column) -> str:
    name = f"{escape(column.name)} {escape(column.arrow)}".strip()
    if not column.params:
        return name
    return f"\\shortstack[r]{{{name}\\\\{{\\scriptsize {escape(column.params)}}}}}"


def _line(row: Row, table: Verdict) -> str:
    name = escape(row.subject.id)
    # At the start of a row TeX reads a bracket or a star as an option of the row before.
    parts = [f"{{}}{name}" if name.startswith(("[", "*")) else name]
    if table.claims:
        parts.append(_claim(row.claim))
    return " & ".join([*parts, *(_cell(c) for c in row.cells)])


def _claim(claim: Claim | None) -> str:
    if claim is None:
        return "--"
    mark = r"$^{\times}$" if claim.broken else ""
    return f"{labels.brief(claim.epsilon)}{mark}"


def _cell(cell: Cell) -> str:
    if cell.state in ("skipped", "failed"):
        return f"\\multicolumn{{{cell.span}}}{{c}}{{\\emph{{{cell.word}}}}}"
    if cell.state == "absent":
        return "--"
    words = {t.word for t in cell.tags}
    marks = "+" if "better" in words else "-" if "worse" in words else ""
    marks += r"\dagger" if cell.greyed else ""
    size = f" {{\\scriptsize (${cell.size}$)}}" if cell.size else ""
    marks += r"\times" if cell.broken else ""
    value = _math(cell.text) + (f"^{{{marks}}}" if marks else "")
    if cell.half_width:
        return f"${value} \\pm {_math(cell.half_width)}$" + size
    span = f" {{\\scriptsize ${_math(cell.interval)}$}}" if cell.interval else ""
    return f"${value}${span}{size}"


def _math(text: str) -> str:
    """A formatted number or interval inside math mode."""
    text = (
        text.replace("−", "-")
        .replace("∞", r"\infty ")
        .replace("≥", r"\geq ")
        .replace(labels.MISSING, r"\mbox{--}")
    )
    return re.sub(r"(\d),(\d)", r"\1{,}\2", text) if not text.startswith("[") else text
