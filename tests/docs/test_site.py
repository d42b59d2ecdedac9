"""Pages that are made from the registries name everything that is registered; the glossary is in order."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import ddaudit
from ddaudit.auditing import AUDITORS
from ddaudit.registry import rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/site/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("reference")
    module.main(folder)
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.md")}


def test_every_auditor_has_a_page_with_its_metrics_settings_and_sources(pages):
    for name, auditor in AUDITORS.items():
        page = pages[f"auditors/{name}.md"]
        wanted = [m.name for m in auditor.metrics] + [*auditor.settings.model_fields]
        assert not [w for w in wanted if f"`{w}`" not in page]
        assert all(text in page for text in (auditor.threat_model, *auditor.sources))
        assert auditor.threat_model in pages["threat-models.md"]
        for said in ("What it needs", "What it cannot tell", "Self-tests"):
            assert re.search(rf"^## {said}\n\n\S", page, re.M), (name, said)
        assert f"(auditors/{name}.md)" in (ROOT / "docs/auditors.md").read_text()


def test_every_method_is_on_the_page_of_its_family(pages):
    shown = "\n".join(text for name, text in pages.items() if name.startswith("methods/"))
    methods = [row["name"] for row in rows("method") if "plugin" not in row]
    assert sorted(re.findall(r"^## (.*)$", shown, re.M)) == sorted(methods)
    assert len(re.findall(r"^::: ", pages["api.md"], re.M)) == len(ddaudit.__all__)


def test_tables_have_as_many_cells_as_columns(pages):
    for text in pages.values():
        for head, body in re.findall(r"^(\| .*\|)\n\| ---.*\n((?:\|.*\n)*)", text, re.M):
            columns = len(re.findall(r"(?<!\\)\|", head))
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in body.splitlines()} <= {columns}


def test_the_glossary_is_sorted_and_every_page_is_in_the_navigation():
    terms = re.findall(r"^\| ([^|]+?) \| ", (ROOT / "docs/glossary.md").read_text(), re.M)[1:]
    assert terms == sorted(terms, key=str.lower)
    nav = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert not [p.name for p in (ROOT / "docs").glob("*.md") if p.name not in nav]
