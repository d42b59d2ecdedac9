"""report.html as people use it, in Chromium: by mouse, by keyboard, in the dark, on paper, and by axe-core's rules."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddaudit.reports import write_report

pytestmark = pytest.mark.browser
SERIOUS = ("serious", "critical")
RUN_AXE = "axe.run({resultTypes: ['violations']})"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="pip install ddaudit[test]")
    path = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install it to test the report in a browser")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["report", "twelve"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = request.getfixturevalue(request.param)
    return write_report(report, tmp_path_factory.mktemp(request.param), ["html"])["html"]


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    """The report under its own content policy; whatever it logs or asks for makes the test fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda r: asked.append(r.url))
    opened.on("console", lambda m: asked.append(f"{m.type}: {m.text}"))
    opened.on("pageerror", lambda e: asked.append(str(e)))
    opened.goto(file.as_uri())
    yield opened
    assert [x[:80] for x in asked if not x.startswith("data:")] == [file.as_uri()[:80]]
    context.close()


def _subjects(page: Any) -> list[str]:
    rows = page.locator("table.verdict tr.subject:visible > th")
    return [row.get_attribute("data-at") for row in rows.all()]


def test_the_first_screen_answers(page: Any) -> None:
    for part in (".needs", ".answers", ".alerts"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= 900, part
    page.set_viewport_size({"width": 390, "height": 844})
    box = page.locator(".needs").bounding_box()
    assert box["y"] + box["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    before = _subjects(page)
    page.get_by_role("button", name="Sort by Utility").focus()
    page.keyboard.press("Enter")
    rising = _subjects(page)
    page.keyboard.press("Space")
    assert _subjects(page) == rising[::-1]
    assert sorted(rising) == sorted(before)
    assert page.locator('th[aria-sort="descending"]').count() == 1
    page.locator(".filters > summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert set(before) - set(_subjects(page)) == {before[0]}
    assert page.locator("tr.more:visible").count() == 0
    page.locator("table.verdict .open:visible").first.focus()
    page.keyboard.press("Space")
    assert page.locator("tr.more:visible").count() == 1
    plot = page.locator(".pair:visible").get_attribute("class")
    page.locator("#across").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".pair:visible").get_attribute("class") != plot


def test_the_dark_and_the_printed_look(page: Any) -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.emulate_media(color_scheme="dark")
    assert (
        max(map(int, re.findall(r"\d+", paper())[:3]))
        < 60
        < min(map(int, re.findall(r"\d+", light)[:3]))
    )
    page.emulate_media(media="print", color_scheme="dark")
    assert paper() == "rgb(255, 255, 255)"
    assert page.locator(".filters, .sort, .pick").locator("visible=true").count() == 0
    assert page.locator(".needs").is_visible()
    pdf = page.pdf(prefer_css_page_size=True)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_issue(browser: Any, file: Path, scheme: str) -> None:
    """The short report in the light with every fold and row open, the long one in the dark as it opens."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="pip install ddaudit[test]")
    if ("twelve" in str(file)) != (scheme == "dark"):
        pytest.skip("the other report is read in this light")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(file.as_uri())
    if scheme == "light":
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate("document.querySelectorAll('.open').forEach(d => d.checked = true)")
    page.evaluate(axe.AXE_SCRIPT)
    found = [
        (v["id"], n["html"][:120])
        for v in page.evaluate(RUN_AXE)["violations"]
        if v["impact"] in SERIOUS
        for n in v["nodes"]
    ]
    context.close()
    assert found == []
