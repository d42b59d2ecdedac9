"""What the page shows without opening a fold has a budget, and each of its pieces one of its own."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ddaudit.findings import Caveat, Finding
from ddaudit.reports import FORMATS, Report, build_report, read_report, write_report
from ddaudit.reports._html import to_html
from ddaudit.reports._markdown import to_markdown
from ddaudit.reports.answers import WORDS as ANSWER_WORDS
from ddaudit.reports.labels import TERMS
from ddaudit.reports.summary import FIRST
from ddaudit.reports.summary import WORDS as FINDING_WORDS

VOID = {"meta", "img", "col", "br", "link", "input", "hr"}
UNSEEN = {"script", "style", "title", "svg", "option", "fieldset"}


class Open(HTMLParser):
    """The words of a page that are seen at once: no fold, no hidden row or column, no figure; numbers are no words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self._stack: list[tuple[str, str]] = []
        self._off = set(re.findall(r'id="show-(g\d+)">', html))
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        classes = set(found.get("class", "").split())
        hidden = tag in UNSEEN or classes & ({"hidden", "more"} | self._off)
        folded = tag == "details" and "open" not in found
        if tag not in VOID:
            self._stack.append((tag, "fold" if folded else "hidden" if hidden else ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self._stack.pop()

    def handle_data(self, data: str) -> None:
        why = [w for _, w in self._stack if w]
        summary = why == ["fold"] and any(tag == "summary" for tag, _ in self._stack)
        if not why or summary:
            self.words += [w for w in data.split() if re.search("[A-Za-z]{2}", w)]


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return to_html(report)


@pytest.mark.parametrize("which", ["report", "twelve"])
def test_at_most_900_words_are_open(which: str, request: pytest.FixtureRequest) -> None:
    html = to_html(request.getfixturevalue(which))
    assert 300 < len(Open(html).words) <= 900
    everything = Open(html.replace("<details", "<details open")).words
    assert len(everything) > 2 * len(Open(html).words)  # the counter sees folds


def test_answers_and_findings_are_short_and_the_worst_comes_first(report: Report) -> None:
    lines = [f"{a.subject} {a.text}" for a in report.answers]
    assert all(len(line.split()) <= ANSWER_WORDS == 14 for line in lines)
    assert {a.subject for a in report.answers} == {s.id for s in report.subjects if not s.baseline}
    assert report.answers[0].subject == "dm+dp"  # its claim is refuted
    assert report.answers[0].text.startswith("privacy claim false")
    first = [s for s in report.summary if s.first]
    assert len(first) <= FIRST == 5
    assert all(len(s.text.split()) <= FINDING_WORDS == 20 for s in first)


def test_the_markdown_is_at_most_400_lines_in_the_same_order(report: Report) -> None:
    text = to_markdown(report)
    assert len(text.splitlines()) <= 400
    heads = ["worst first", "### The verdict", "### Findings", "### What each defense changed",
             "<details><summary>Utility", "### Setup and limits", "### The sets"]  # fmt: skip
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    page = to_html(report)
    ids = [
        "answer",
        "verdict",
        "reading",
        "changes",
        "auditor-utility",
        "setup",
        "sets",
        "provenance",
    ]
    places = [page.index(f'<section id="{i}"') for i in ids]
    assert places == sorted(places)


def test_every_format_is_the_same_from_the_json_alone(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path, ["json"])["json"]
    again = read_report(path)
    for name, write in FORMATS.items():
        assert write(again) == write(report), name


def test_terms_are_explained_once_where_they_stand_first(html: str) -> None:
    explained = re.findall(r'<abbr title="([^"]*)">([^<]*)</abbr>', html)
    assert {(w, TERMS[w]) for w in ("AUC", "ECE", "DEO_M")} <= {(w, t) for t, w in explained}
    assert len(explained) == len({w for _, w in explained})


def test_the_policy_knows_the_script_by_its_hash(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html


def test_columns_that_separate_nobody_are_a_footnote_and_can_be_shown(html: str) -> None:
    assert len(html.encode()) < 2_000_000
    assert len(re.findall(r'id="show-g\d+"', html)) == 6


def test_a_section_shows_at_most_two_limits_and_whole_sentences(twelve: Report) -> None:
    html = to_html(twelve)
    for section in re.findall(r'<section id="auditor-.*?</section>', html, re.S):
        shown = re.findall(r"<b>Limit:</b> (.*?)</p>", section)
        assert 1 <= len(shown) <= 2
        assert all(text.endswith(".") and len(text.split()) <= 12 for text in shown)
    few = [x for x in twelve.limits if x.kind == "sample" and x.auditors == ["bias"]]
    assert [(x.rank, len(x.subjects), len(x.variants)) for x in few] == [(2, 12, 12)]
    table = html[html.index('<table class="limits">') :]
    assert table.count(few[0].text) == 2  # the row, and its wordings


def test_long_tables_say_once_what_holds_for_every_candidate(
    report: Report, twelve: Report
) -> None:
    def cells(html: str) -> str:
        return re.sub(
            r'<span class="hidden">.*?</span>',
            "",
            html.split('class="verdict"')[1].split("</table>")[0],
        )

    assert "no difference shown" in cells(to_html(report))
    long = to_html(twelve)
    rows = re.sub(r'<tr class="more">.*?</tr>', "", cells(long), flags=re.S)
    assert "≈" in rows
    assert "no difference shown" not in rows
    assert '<span class="key">≈ no difference shown</span>' in long


def test_a_caveat_of_many_subjects_is_one_limit(report: Report) -> None:
    (limit,) = [x for x in report.limits if x.text.startswith("Shadow sets")]
    assert (limit.scope, limit.auditors, len(limit.subjects)) == ("auditor", ["membership"], 7)
    assert limit.kind == "method"


def test_wordings_of_one_caveat_share_a_limit_with_kind_and_rank() -> None:
    def cell(subject: str, n: int, more: list[str]) -> Finding:
        said = Caveat(f"{subject} has only {n} images, which is few.", "sample", 2)
        return Finding(subject=subject, auditor="a", caveats=[*more, said])

    class Run:
        info = {"data": "digits"}  # noqa: RUF012
        subjects = ({"id": "dm", "kind": "recipe"}, {"id": "dm+fair", "kind": "recipe"})
        auditors = ({"name": "a"},)
        cells = [cell("dm", 3, ["One attack."]), cell("dm+fair", 40, [])]  # noqa: RUF012
        checks: dict[str, list[object]] = {}  # noqa: RUF012

    stored = [Finding.model_validate_json(c.model_dump_json()) for c in Run.cells]
    assert stored == Run.cells  # a cell keeps the kind
    Run.cells = stored
    made = build_report(Run())  # type: ignore[arg-type]
    few, one = made.limits
    assert (few.kind, few.rank, few.scope) == ("sample", 1, "auditor")
    assert [(v.subjects, v.text) for v in few.variants] == [
        (["dm"], "dm has only 3 images, which is few."),
        (["dm+fair"], "dm+fair has only 40 images, which is few."),
    ]
    assert (one.kind, one.rank, one.scope, one.variants) == ("method", 2, "subjects", [])
    assert '"caveats":["One attack.","dm has only 3' in made.model_dump_json()
