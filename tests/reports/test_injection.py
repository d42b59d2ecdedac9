"""Texts from a run (class, method and file names, cards, captions, settings) come out inert in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ddaudit.findings import Check, Curve, Finding, Metric, Picture
from ddaudit.reports import FORMATS, Report, build_report, dataset_card
from ddaudit.reports.labels import file_names
from ddaudit.reports.leaderboard import Entry, _index, leagues

PLAIN = "a plain name"
PAYLOADS = (
    "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><a href=javascript:alert(1) onmouseover=alert(1)>x</a>",
    '=HYPERLINK("http://evil.example")',
    "+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    r"\input{/etc/passwd}\write18{id}%",
    r"$\immediate\write18{id}$ \end{tabular} & # _ ^ ~ {",
    "[x](javascript:alert(1)) ![i](http://evil.example/x.png) | `c` **b** @user #1 <!-- -->",
    "{{ 7 * 7 }} {% for x in y %} <<< 7 * 7 >>> <% x %>",
    "]]> \x1b[31m \u202e\x00 line\nbreak\r\n> quote",
)


def _run(text: str) -> Any:
    """A run in which every text that a user, a file or a plugin can choose is ``text``."""
    picture = Picture(name=text, caption=text, png_base64="iVBORw0KGgo=")
    subject, plain = f"{text} 1", f"{text} 2"

    def finding(name: str, seed: int) -> Finding:
        value = 0.5 if name == subject else 0.3 + 0.01 * seed
        more: dict[str, Any] = {
            "low": value - 0.01,
            "high": value + 0.01,
            "headline": True,
            "direction": "higher",
        }
        return Finding(
            subject=name, auditor=text, seed=seed, warning=text, sentence=text, images=[picture],
            metrics=[
                Metric(name=text, label=text, value=value, params={text: text}, unit=text, **more),
                Metric(name="b.c", value=value, params={"attack": text}, basis=True, chance=0.1, **more),
            ],
            checks=[Check(name=text, passed=seed > 0, value=1.0, expected=text, detail=text, affects=["nothing"])],
            curves=[Curve(plot=text, label=text, x=[0, 1], y=[0, 1], x_label=text, y_label=text)],
            caveats=[text, f"{name}: {text}"],
        )  # fmt: skip

    claim = {"epsilon": 1.0, "delta": 1e-5, "mechanism": text, "public": [text],
             "ledger": [{"query": text, "sigma": 1.0, "q": 0.1, "count": 1}]}  # fmt: skip
    card = {
        "class_names": [text],
        "notes": [text],
        "method": text,
        text: {text: text},
        "data": text,
    }

    class Run:
        info = {  # noqa: RUF012
            "data": {"name": text, "notes": [text], "classes": [text]}, "preset": text, "profile": text,
            "arch": text, "protocol": {"name": text, text: text}, "device": text, "command": text, "notes": [text],
            "versions": {text: text}, "config": {text: text}, "started": text, "finished": text, "seeds": [0],
        }  # fmt: skip
        subjects = (
            {"id": subject, "kind": "file", "card": {**card, "privacy": claim}, "description": text, "source": text,
             "problem": text, "gallery": [picture]},
            {"id": plain, "kind": "recipe", "baseline": True, "card": card, "source": text},
        )  # fmt: skip
        auditors = (
            {"name": text, "title": text, "question": f"{text}?", "threat_model": text, "how_to_read": text,
             "sources": [text], "settings": {text: text}},
            {"name": f"{text} more", "title": text},
        )  # fmt: skip
        cells = [  # noqa: RUF012
            finding(subject, 0), *(finding(plain, s) for s in range(3)),
            Finding(subject=subject, auditor=f"{text} more", status="failed", reason=text),
            Finding(subject=plain, auditor=f"{text} more", status="skipped", reason=text),
        ]  # fmt: skip
        checks: dict[str, list[Check]] = {}  # noqa: RUF012

    return Run()


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The report in every format, with harmless text."""
    return _written(build_report(_run(PLAIN)))


@pytest.fixture(
    scope="module", params=[" ".join(PAYLOADS[:2]), *PAYLOADS[2:6], " ".join(PAYLOADS[6:])]
)
def hostile(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A payload, and the report in every format with it everywhere."""
    return request.param, _written(build_report(_run(request.param)))


def _written(report: Report) -> dict[str, Any]:
    """Every format, the site's index, and a card with numbers: that of a report in which nobody claims privacy."""
    assert report.answers
    texts: dict[str, Any] = {name: write(report) for name, write in FORMATS.items()}
    (entry,) = leagues([Entry(*file_names([report.run.data]), report)])
    open_ = report.model_copy(update={"claims": []})
    texts["site"], texts["open"] = _index([entry]), dataset_card(open_, report.subjects[-1].id)
    return texts


class _Markup(HTMLParser):
    """The kinds of elements and attributes of a page, and its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, str]] = set()
        self.targets: list[str] = []
        self.scripts = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self.targets += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.scripts += tag == "script"


def test_html_has_no_element_or_attribute_that_harmless_text_has_not(
    plain: dict[str, str], hostile: tuple[str, dict[str, Any]]
) -> None:
    _, texts = hostile
    page = _Markup(texts["html"])
    assert page.kinds <= _Markup(plain["html"]).kinds
    assert page.scripts == 1
    assert all(re.match(r"#|data:image/png;base64,", t) for t in page.targets)
    script = re.findall(r"<script>.*?</script>", texts["html"], re.S)
    assert script == re.findall(r"<script>.*?</script>", plain["html"], re.S)
    assert re.search(r"Content-Security-Policy\" content=\"[^\"]*\"", texts["html"])
    assert "\u202e" not in texts["html"]
    assert "\x1b" not in texts["html"]


def test_the_site_has_no_element_attribute_or_target_of_a_text(
    plain: dict[str, Any], hostile: tuple[str, dict[str, Any]]
) -> None:
    _, texts = hostile
    page = _Markup(texts["site"])
    assert page.kinds <= _Markup(plain["site"]).kinds
    assert page.scripts == 1
    assert all(
        re.fullmatch(r"runs/[A-Za-z0-9_+-][A-Za-z0-9._+-]*/report\.html", t) for t in page.targets
    )
    assert page.targets
    assert "\u202e" not in texts["site"]


def test_a_card_s_block_holds_texts_as_values_and_its_body_as_words(
    plain: dict[str, Any], hostile: tuple[str, dict[str, Any]]
) -> None:
    payload, texts = hostile
    ((path, withheld),) = texts["card"].items()
    assert re.fullmatch(r"cards/[A-Za-z0-9_+-][A-Za-z0-9._+-]*/README\.md", path)
    for card, harmless in (
        (texts["open"], plain["open"]),
        (withheld, next(iter(plain["card"].values()))),
    ):
        block, body = re.split(r"^---[ \t]*$", card, maxsplit=2, flags=re.M)[1:]
        other, harmless_body = re.split(r"^---[ \t]*$", harmless, maxsplit=2, flags=re.M)[1:]
        read, expected = yaml.safe_load(block), yaml.safe_load(other)
        assert read.keys() == expected.keys()
        assert _shape(read) == _shape(expected)
        assert len(body.splitlines()) == len(harmless_body.splitlines())
        assert set(re.findall(r"<[^>]*>", body)) <= set(re.findall(r"<[^>]*>", harmless_body))
        assert not re.search(r"(?<!\\)\]\(", body)
        assert not re.search(r"@(?=\w)", body)
        assert not re.search(
            r"(?<!\\)`", body.replace("`ddaudit report RUN --publishable --format card`", "")
        )
    (index,) = yaml.safe_load(re.split(r"^---$", texts["open"], maxsplit=2, flags=re.M)[1])[
        "model-index"
    ]
    (result,) = index["results"]
    assert re.fullmatch(r"[\w.-]+", result["dataset"]["type"])
    flat = re.sub("[\x00-\x08\x0e-\x1f\u202e]", "\ufffd", " ".join(payload.split()))
    assert flat in [m["args"]["params"].get("attack") for m in result["metrics"]]


def _shape(value: Any) -> Any:
    """What is in what, texts aside."""
    if isinstance(value, dict):
        return [_shape(v) for v in value.values()]
    return [_shape(v) for v in value] if isinstance(value, list) else type(value)


def test_parquet_is_data(hostile: tuple[str, dict[str, Any]]) -> None:
    payload, texts = hostile
    table = pq.read_table(io.BytesIO(texts["parquet"]))
    assert set(table["auditor"].to_pylist()) == {payload, f"{payload} more"}


def test_csv_has_no_formula(hostile: tuple[str, dict[str, Any]]) -> None:
    _, texts = hostile
    for row in csv.DictReader(io.StringIO(texts["csv"], newline="")):
        for cell in row.values():
            if cell and cell.lstrip(" ")[0] in "=+-@\t\r\n":
                float(cell)  # only numbers may begin so


def test_latex_has_no_command_that_harmless_text_has_not(
    plain: dict[str, str], hostile: tuple[str, dict[str, Any]]
) -> None:
    _, texts = hostile
    known = set(re.findall(r"\\[a-zA-Z]+", plain["tex"]))
    escapes = {
        r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\textless", r"\textgreater",
        r"\textbar", r"\textquotedbl", r"\dots",
    }  # fmt: skip
    bare = re.sub(r"\\[\\{}$&%#_]", "", texts["tex"])
    assert set(re.findall(r"\\[a-zA-Z]+", bare)) <= known | escapes
    assert len(re.findall(r"\$", bare)) % 2 == 0
    assert bare.count("{") == bare.count("}")
    lines = [line.split("%")[0] for line in bare.splitlines()]
    assert sum("%" in line for line in bare.splitlines()) == 2 + plain["tex"].count("%\n")
    assert not any("#" in line or "~" in line for line in lines)


def test_markdown_has_no_markup_that_harmless_text_has_not(
    plain: dict[str, str], hostile: tuple[str, dict[str, Any]]
) -> None:
    _, texts = hostile
    tags = set(re.findall(r"<[^>]*>", texts["md"]))
    assert tags <= set(re.findall(r"<[^>]*>", plain["md"]))
    assert not re.search(r"(?<!\\)\]\(", texts["md"])
    assert not re.search(r"@(?=\w)", texts["md"])
    assert not re.search(r"(?<!\\)`", texts["md"])
    assert len(texts["md"].splitlines()) == len(
        plain["md"].splitlines()
    )  # no text breaks out of its line


def test_json_is_data(hostile: tuple[str, dict[str, Any]]) -> None:
    payload, texts = hostile
    content = json.loads(texts["json"])
    assert content["run"]["data"] == payload
    assert content["subjects"][1]["id"] in (f"{payload} 1", f"{payload} 2")
