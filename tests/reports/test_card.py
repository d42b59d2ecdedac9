"""A set's card: YAML that the Hub reads, only numbers that may be relied on, none that a claim does not cover."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ddaudit.errors import BadInput
from ddaudit.reports import FORMATS, Report, build_report, dataset_card

BLOCK = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
"""How huggingface_hub 2.4 finds the block (repocard.REGEX_YAML_BLOCK)."""


def front(card: str) -> dict[str, Any]:
    """The block as the Hub reads it."""
    found = BLOCK.match(card)
    assert found is not None
    read = yaml.safe_load(found[2])
    assert isinstance(read, dict)
    return read


@pytest.fixture(scope="module")
def public(make_run: Callable[..., Any]) -> Report:
    """The synthetic run without its private sets, in a preset whose numbers count."""
    run = make_run(preset="standard", galleries=False)
    private = ("dm+dp", "psg")
    run.subjects = [
        {**s, "per_class": [10, 10], "card": {**s["card"], "class_names": list("0123456789")}}
        for s in run.subjects
        if s["id"] not in private
    ]
    run.cells = [c for c in run.cells if c.subject not in private]
    return build_report(run)


def test_the_model_index_is_what_the_hub_reads(public: Report) -> None:
    """The keys that huggingface_hub.repocard_data.model_index_to_eval_results asks for."""
    read = front(dataset_card(public, "dm+fair"))
    assert read["size_categories"] == ["n<1K"]
    assert read["task_categories"] == ["image-classification"]
    (index,) = read["model-index"]
    (result,) = index["results"]
    assert index["name"] == "dm+fair"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["name"] == result["dataset"]["type"] == "digits-colored"
    found = public.finding("dm+fair", "utility")
    assert found is not None
    (accuracy,) = [m for m in result["metrics"] if m["type"] == "accuracy"]
    metric = found.metric("utility.accuracy")
    assert accuracy["value"] == metric.value
    assert accuracy["args"]["interval_95"] == [metric.low, metric.high]


def test_the_hub_s_own_reader_takes_it(public: Report) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(dataset_card(public, "dm+fair"))
    assert card.data.model_name == "dm+fair"
    kinds = {r.metric_type: r.metric_value for r in card.data.eval_results}
    written = {
        m["type"]: m["value"] for m in front(str(card))["model-index"][0]["results"][0]["metrics"]
    }
    assert kinds == written


def test_numbers_under_a_failed_check_stand_in_the_text_alone(public: Report) -> None:
    card = dataset_card(public, "dm+fair")
    (index,) = front(card)["model-index"]
    kinds = {m["type"] for m in index["results"][0]["metrics"]}
    assert "ece" not in kinds  # the calibrated simulator failed
    assert {"accuracy", "asr", "deo_m"} <= kinds
    assert "~~0.118~~" in card
    assert "struck out are not to be relied on" in card


def test_a_quick_preset_has_no_model_index(make_run: Callable[..., Any]) -> None:
    run = make_run(galleries=False)
    run.subjects = [{**s, "card": {}} for s in run.subjects]
    run.cells = [
        c.model_copy(update={"metrics": [m for m in c.metrics if not m.refutes]}) for c in run.cells
    ]
    card = dataset_card(build_report(run), "dm")
    assert "model-index" not in front(card)
    assert "Do not quote these numbers" in card
    assert "**0.35" in card


def test_a_report_on_private_sets_puts_no_number_on_any_card(report: Report) -> None:
    values = [m.value for f in report.findings for m in f.metrics if m.value is not None]
    for text in FORMATS["card"](report).values():  # type: ignore[union-attr]
        assert "model-index" not in text
        assert "--publishable --format card" in text
        assert not [v for v in values if v not in (0, 1) and f"{v:.3f}" in text]
        assert not re.search("better|worse|floor", text)
    kept, false = dataset_card(report, "psg"), dataset_card(report, "dm+dp")
    assert "(10, 1e-05)-differentially private under add-or-remove-one" in kept
    assert "withstood its tests is not shown" in kept
    assert "Attention: The privacy claim of this set is violated" in false
    assert "differentially private" not in false
    assert "2.31" not in false


def test_a_card_names_no_place_on_this_machine(make_run: Callable[..., Any]) -> None:
    place = "/home/somebody/private_sets/set.safetensors"
    run = make_run(galleries=False, preset="standard")
    run.info = {**run.info, "data": "/srv/secret_place/hospital"}
    rename = {"dm": place}
    run.subjects = [
        {**s, "id": rename.get(s["id"], s["id"]), "kind": "file", "source": place, "problem": f"{place} has changed",
         "card": {"recipe": {"source": "Zhao 2023"}}}
        for s in run.subjects if s["id"] in ("dm", "random")
    ]  # fmt: skip
    run.cells = [
        c.model_copy(update={"subject": rename.get(c.subject, c.subject)})
        for c in run.cells
        if c.subject in ("dm", "random")
    ]
    made = build_report(run)
    (path, *_), (card, *_) = zip(*FORMATS["card"](made).items(), strict=True)  # type: ignore[union-attr]
    assert path == "cards/set.safetensors/README.md"
    assert "secret" not in card
    assert "somebody" not in card
    assert "Cite: Zhao 2023" in card
    assert "hospital" in card
    assert "has changed since" in card


def test_who_is_not_in_the_report_has_no_card(report: Report) -> None:
    with pytest.raises(BadInput, match="nobody: is not in this report"):
        dataset_card(report, "nobody")
