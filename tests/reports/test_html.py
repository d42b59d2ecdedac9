"""report.html: one file, nothing fetched, nothing run, well formed and accessible."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ddaudit.reports import Report, build_report
from ddaudit.reports._html import to_html
from ddaudit.reports.alerts import alerts

VOID = {"meta", "img", "col", "br", "link", "input", "hr"}


class _Page(HTMLParser):
    """Tags, attributes and text, with a check that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[int]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.tags.append((tag, found))
        if tag == "table":
            self.rows.append([])
        if tag == "tr":
            self.rows[-1].append(0)
        if tag in ("td", "th"):
            self.rows[-1][-1] += int(found.get("colspan", 1))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return to_html(report)


@pytest.fixture(scope="module")
def hostile_html(hostile_report: Report) -> str:
    return to_html(hostile_report)


@pytest.fixture(params=["html", "hostile_html"])
def page(request: pytest.FixtureRequest) -> _Page:
    return _Page(request.getfixturevalue(request.param))


def test_it_is_well_formed(page: _Page) -> None:
    assert page.open == []


def test_nothing_is_fetched_and_nothing_runs(page: _Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "form")]
    assert page.all("script") == [{}]  # its own, which the policy knows by its hash
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert re.match(r"#|data:image/png;base64,[A-Za-z0-9+/=]+$", attrs.get(name, "#")), (
                attrs
            )
    policy = next(
        m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+';", policy)


def test_styles_load_nothing(html: str) -> None:
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)'\"]+)", html))
    assert "http" not in re.sub(r"http-equiv", "", html)


def test_hostile_text_is_only_text(hostile_html: str) -> None:
    assert hostile_html.count("<script") == 1
    assert "\u202e" not in hostile_html
    text = "".join(_Page(hostile_html).text)
    assert "psg-<script>alert('x')</script>-私的蒸留-🔒" in text
    assert "![img](http://evil.example/x.png)" in text


def test_ids_are_unique_and_every_anchor_arrives(page: _Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {attrs["href"][1:] for _, attrs in page.tags if attrs.get("href", "").startswith("#")}
    assert wanted <= set(ids)
    labelled = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert labelled <= set(ids)


def test_rows_of_a_table_are_equally_wide(page: _Page) -> None:
    for rows in page.rows:
        body = (
            rows[2:] if len(set(rows)) > 1 else rows
        )  # the verdict's two head rows share cells by rowspan
        assert len(set(body)) == 1


def test_it_is_accessible(page: _Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(th.get("scope") in ("row", "col", "colgroup") for th in page.all("th"))
    assert all(img["alt"].strip() for img in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert all(box.get("aria-label") for _, box in page.tags if box.get("role") == "region")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_colours_have_contrast(html: str, scheme: int) -> None:
    """WCAG 2.1: 4.5 for text, 3 for graphics. The formula is the one of the standard."""
    block = re.findall(r":root \{(.*?)\}", html, re.S)[scheme]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block))
    colours = {
        k: "#" + "".join(2 * c for c in v[1:]) if len(v) == 4 else v for k, v in found.items()
    }
    for ground in ("paper", "sheet", "mute-bg"):
        for text in ("ink", "ink-2", "link", "good", "bad", "warning"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert _contrast(colours["bad"], colours["bad-bg"]) >= 4.5
    assert _contrast(colours["bad"], colours["bad-bg-2"]) >= 4.5
    assert _contrast(colours["ink-2"], colours["bad-bg"]) >= 4.5
    assert _contrast(colours["warning"], colours["warning-bg"]) >= 4.5
    for graphic in ["baseline", "floor", *(f"series-{i}" for i in range(8))]:
        assert _contrast(colours[graphic], colours["paper"]) >= 3, graphic


def test_the_banner_is_there_only_for_quick_runs(report: Report, html: str) -> None:
    assert "Do not quote these numbers" in html
    slow = report.model_copy(
        update={"run": report.run.model_copy(update={"preset": "standard"}), "findings": []}
    )
    slow.alerts = alerts(slow)
    assert "o not publish" not in to_html(slow)


def test_every_state_is_in_words(html: str) -> None:
    text = " ".join("".join(_Page(html).text).split())
    for words in (
        "✗ violated",
        "measured ≥ 2.31",
        "▼ worse",
        "▲ better",
        "≈ no difference shown",
        "▁ at floor",
        "◌ check failed",
        "✗ FAILED",
    ):
        assert words in text
    assert "a checkpoint comes without its distilled set" in text
    assert "Colours overflow in 2 of 10 000 images" in text
    assert "class means" in text  # the ledger


def test_an_empty_report_is_still_a_page() -> None:
    class Empty:
        info = {"data": "digits"}  # noqa: RUF012
        subjects = auditors = cells = ()
        checks: dict[str, list[object]] = {}  # noqa: RUF012

    page = _Page(to_html(build_report(Empty())))  # type: ignore[arg-type]
    assert page.open == []


def test_the_same_report_gives_the_same_bytes(make_run: object) -> None:
    run = make_run(seeds=(0,), galleries=False)  # type: ignore[operator]
    run.auditors = [a for a in run.auditors if a["name"] == "calibration"]
    run.cells = [c for c in run.cells if c.auditor == "calibration"]
    assert to_html(build_report(run)) == to_html(build_report(run))
