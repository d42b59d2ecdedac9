"""A static site of many runs: only what can be compared shares a table, and nothing is ranked overall."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ddaudit.reports import Report, build_report
from ddaudit.reports.leaderboard import Board, Entry, boards, leagues, write_site

NAMED = ("utility", "bias")


@pytest.fixture(scope="module")
def make(make_run: Callable[..., Any]) -> Callable[..., Report]:
    """A report of these subjects of the synthetic run by two auditors, with changes to what it says of itself."""

    def made(
        *subjects: str, drop: str = "", sizes: dict[str, int] | None = None, **info: Any
    ) -> Report:
        run = make_run(preset="standard", galleries=False)
        kept = ("full", "random", *subjects)
        auditors = [n for n in NAMED if n != drop]
        facts = {"name": "digits", "test_fingerprint": "e", "fingerprint": "t", "test": 400}
        run.info = {**run.info, "data": facts, **info}
        run.subjects = [
            {
                **s,
                "drawn": s["id"] != "full",
                "card": {**s["card"], "ipc": (sizes or {}).get(s["id"], 10)},
            }
            for s in run.subjects
            if s["id"] in kept
        ]
        run.auditors = [{**a, "version": 1} for a in run.auditors if a["name"] in auditors]
        run.cells = [c for c in run.cells if c.subject in kept and c.auditor in auditors]
        return build_report(run)

    return made


def _boards(*reports: Report) -> list[list[Board]]:
    return [boards(x) for x in leagues([Entry(f"r{i}", r) for i, r in enumerate(reports)])]


def test_comparable_runs_share_a_table_and_equal_baselines_a_row(
    make: Callable[..., Report],
) -> None:
    ((board,),) = _boards(make("dm"), make("dm+fair", drop="bias"))
    rows = {(r.subject.id, tuple(e.name for e in r.runs)): r for r in board.rows}
    assert list(rows) == [
        ("dm+fair", ("r1",)), ("dm", ("r0",)),  # by accuracy, 0.72 before 0.35
        ("full", ("r0",)), ("full", ("r1",)), ("random", ("r0",)), ("random", ("r1",)),
    ]  # fmt: skip
    assert [g.auditor.name for g in board.groups] == ["utility", "bias"]
    assert rows["dm+fair", ("r1",)].cells[1:] == (None, None)  # bias was not asked there
    assert rows["dm", ("r0",)].cells[1] is not None
    ((board,),) = _boards(make("dm"), make("dm+fair"))
    same = [r for r in board.rows if r.subject.id in ("full", "random")]
    assert [[e.name for e in r.runs] for r in same] == [["r0", "r1"]] * 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"preset": "full"}, "another preset: full, not standard"),
        ({"arch": "ResNet18"}, "another architecture: ResNet18, not ConvNetD2W32"),
        ({"protocol": {"name": "quick (30 epochs, DSA)", "epochs": 9}}, "another protocol's settings: "),
        ({"data": {"name": "digits", "test_fingerprint": "z", "fingerprint": "t", "test": 400}},
         "another test records: z, not e"),
        ({"data": {"name": "digits", "test_fingerprint": "e", "test": 400}},
         "another training records: unknown, not t"),
        ({"config": {"victims": 9}}, "another number of networks: 9, not unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_kept_apart_and_said(
    make: Callable[..., Report], changes: dict[str, Any], why: str
) -> None:
    entries = [
        Entry("one", make("dm")),
        Entry("two", make("dm", **changes)),
        Entry("three", make("dm")),
    ]
    first, second = leagues(entries)
    assert [e.name for e in first.entries] == ["one", "three"]
    assert first.why == {}
    assert second.why["two"].startswith(why)


@pytest.mark.parametrize(("key", "value"), [("version", 2), ("settings", {"victims": 3})])
def test_another_version_or_setting_of_an_auditor_is_another_table(
    make: Callable[..., Report], key: str, value: Any
) -> None:
    one, two, three = make("dm"), make("dm", drop="bias"), make("dm")
    changed = three.auditors[0].model_dump() | {key: value}
    three.auditors[0] = type(three.auditors[0]).model_validate(changed)
    found = leagues([Entry("one", one), Entry("two", two), Entry("three", three)])
    assert [[e.name for e in x.entries] for x in found] == [["one", "two"], ["three"]]
    assert "of utility: " in found[1].why["three"]


def test_sizes_have_tables_of_their_own_and_all_records_are_in_each(
    make: Callable[..., Report],
) -> None:
    ((ten, fifty),) = _boards(make("dm"), make("dm", "dm+fair", sizes={"dm": 50, "random": 50}))
    assert (ten.size, fifty.size) == ("10 images per class", "50 images per class")
    assert [(r.subject.id, [e.name for e in r.runs]) for r in ten.rows] == [
        ("dm+fair", ["r1"]), ("dm", ["r0"]), ("full", ["r0", "r1"]), ("random", ["r0"]),
    ]  # fmt: skip
    assert [r.subject.id for r in fifty.rows] == ["dm", "full", "random"]


class _Page(HTMLParser):
    """Cells of tables, links, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: list[tuple[str, list[str]]] = []
        self._baseline = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        assert not any(k.startswith("on") or k == "src" for k in found)
        if tag == "tbody":
            self._baseline = found.get("class", "")
        if tag == "tr":
            self.rows.append((self._baseline, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append(found.get("class", ""))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_site_is_whole_and_ranks_nobody(make: Callable[..., Report], tmp_path: Path) -> None:
    named = [
        ("a b/../x", make("dm", "dm+dp")),
        ("x", make("dm+fair")),
        ("..", make("dm", preset="full")),
    ]
    index, apart = write_site(named, tmp_path / "site")
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    pages = {f"runs/{n}/report.html" for n in ("x", "x-2", "unnamed")}
    assert files == {f"site/{p}" for p in {"index.html", *pages}}
    assert apart == ["unnamed is kept apart from x: another preset: full, not standard"]
    html = index.read_text(encoding="utf-8")
    page = _Page(html)
    assert page.open == []
    assert set(page.links) == pages
    assert len(page.ids) == len(set(page.ids))
    assert len({len(cells) for _, cells in page.rows[:4]}) == 1
    shaded = [
        (kind, c)
        for kind, cells in page.rows
        for c in cells
        if {"worse", "broken"} & set(c.split())
    ]
    assert shaded
    assert not [kind for kind, _ in shaded if kind == "reference"]
    assert "ε 1</span>" in html  # the claim of dm+dp
    assert "Confidential: shows" in html
    assert apart[0] in html
    assert not re.search(r"\b(rank(ed)? [0-9]|overall score|winner|first place)\b", html)
    script = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert script == re.findall(
        r"<script>(.*?)</script>", (tmp_path / "site/runs/x/report.html").read_text(), re.S
    )
    assert re.findall(r"script-src '[^']*'", html) == re.findall(
        r"script-src '[^']*'", (tmp_path / "site/runs/x/report.html").read_text()
    )
