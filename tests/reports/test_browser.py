"""report.html in a real browser: no console errors, nothing wider than the screen, on a desk, a phone and paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddaudit.reports import Report, write_report

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr", "--v=0",
)  # fmt: skip
MEASURE = (
    "<script>parent.postMessage([innerWidth, document.documentElement.scrollWidth], '*')</script>"
)
FRAMES = """<!DOCTYPE html><title></title><script>
addEventListener("message", e => {{ document.title += e.data.join(" ") + ";" }})</script>{frames}"""
WIDTHS = (1200, 768, 390, 360)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))),
        None,
    )
    if found is None:
        pytest.skip("no Chromium on this machine: install it to test the report in a browser")
    return found


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("page"), ["html"])["html"]


@pytest.fixture(scope="module")
def hostile_page(hostile_report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile_report, tmp_path_factory.mktemp("hostile"), ["html"])["html"]


def _browse(chromium: str, page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [1200, 390])
def test_it_renders_without_errors(chromium: str, page: Path, width: int, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    _, log = _browse(
        chromium, page, tmp_path / "profile", f"--screenshot={shot}", f"--window-size={width},2400"
    )
    assert "CONSOLE" not in log
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[1] == width
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200


@pytest.mark.parametrize("which", ["page", "hostile_page"])
def test_the_body_never_scrolls_sideways(
    chromium: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Measured by a script in a copy whose content policy is taken out, in frames of each width, folds open."""
    html = request.getfixturevalue(which).read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    html = html.replace("<details", "<details open").replace("</body>", MEASURE + "</body>")
    (tmp_path / "copy.html").write_text(html, encoding="utf-8")
    frames = "".join(
        f'<iframe src="copy.html" width="{w}" height="900" frameborder="0"></iframe>'
        for w in WIDTHS
    )
    outer = tmp_path / "outer.html"
    outer.write_text(FRAMES.format(frames=frames), encoding="utf-8")
    flags = ("--dump-dom", "--window-size=3000,1000", "--virtual-time-budget=10000")
    dom, _ = _browse(chromium, outer, tmp_path / "profile", *flags)
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    measured = dict(tuple(map(int, pair.split())) for pair in found[1].split(";") if pair)
    assert measured == {w: w for w in WIDTHS}


def test_the_content_policy_stops_scripts(chromium: str, page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.html"
    copy.write_text(
        page.read_text(encoding="utf-8").replace(
            "</body>", "<script>document.title = 1</script></body>"
        ),
        encoding="utf-8",
    )
    dom, log = _browse(chromium, copy, tmp_path / "profile", "--dump-dom")
    assert "Content Security Policy" in log
    assert "<title>digits-colored: ddaudit report</title>" in dom


def test_it_prints(chromium: str, page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    _browse(chromium, page, tmp_path / "profile", f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) <= 8


ACT = """<script>addEventListener("load", function () {
  var out = [], seen = function (e) { return e && e.getClientRects().length > 0; };
  var names = function () { return Array.from(document.querySelectorAll("table.verdict tr.subject")).filter(seen)
    .map(function (r) { return r.querySelector("th").getAttribute("data-at"); }); };
  var shown = function () { return Array.from(document.querySelectorAll(".pair")).filter(seen)
    .map(function (e) { return e.className; }); };
  out.push(names(), shown());
  document.querySelector('th[data-col="g0"] .sort').click(); out.push(names());
  document.querySelector('th[data-col="g0"] .sort').click(); out.push(names());
  document.getElementById("show-s0").checked = false; out.push(names());
  out.push(seen(document.querySelector("td.g1"))); document.getElementById("show-g1").checked = false;
  out.push(seen(document.querySelector("td.g1")));
  document.getElementById("up").value = "3"; document.getElementById("across").value = "2"; out.push(shown());
  out.push(seen(document.querySelector("tr.more"))); document.querySelectorAll(".open")[0].checked = true;
  out.push(seen(document.querySelector("tbody:has(.open:checked) tr.more")));
  document.title = JSON.stringify(out);
});</script>"""


def test_it_sorts_filters_and_plots(
    chromium: str, page: Path, report: Report, tmp_path: Path
) -> None:
    """Under its own policy the script runs; filters, rows that open and the plot's axes are style sheets alone."""
    dom, log = _browse(chromium, page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in log
    assert dom.count('class="sort"') == 8
    html = page.read_text(encoding="utf-8")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    copy = tmp_path / "copy.html"
    copy.write_text(html.replace("</body>", ACT + "</body>"), encoding="utf-8")
    dom, _ = _browse(
        chromium, copy, tmp_path / "profile2", "--dump-dom", "--virtual-time-budget=5000"
    )
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    names, pair, up, down, fewer, before, after, other, closed, opened = json.loads(found[1])
    accuracy = {
        f.subject: f.metric("utility.accuracy").value
        for f in report.findings
        if f.auditor == "utility"
    }
    assert names == [s.id for s in sorted(report.subjects, key=lambda s: s.baseline)]
    assert up == sorted(names, key=lambda n: accuracy[n] or 0.0)
    assert down == up[::-1]
    assert set(names) - set(fewer) == {names[0]}
    assert (before, after, closed, opened) == (True, False, False, True)
    assert (len(pair), len(other)) == (1, 1)
    assert other == ["pair pair-2-3"]


def test_it_has_a_dark_and_a_narrow_look(chromium: str, page: Path, tmp_path: Path) -> None:
    def mean(*flags: str) -> float:
        shot = tmp_path / f"{len(flags)}.png"
        _browse(
            chromium,
            page,
            tmp_path / "profile",
            f"--screenshot={shot}",
            "--window-size=1200,900",
            *flags,
        )
        return float(np.asarray(Image.open(shot).convert("L")).mean())

    assert mean() > 200
    assert mean("--blink-settings=preferredColorScheme=0") < 80
