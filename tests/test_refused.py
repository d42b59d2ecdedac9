"""Inputs that a user may well give, and that gave a number without a word: each is refused before any work."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import ddaudit
from ddaudit.audits.info import check_info
from ddaudit.audits.subjects import is_file_name, module_subject
from ddaudit.cli.app import app
from ddaudit.cli.places import check_set_file
from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.distillation import make_recipe, resolve
from ddaudit.distillation.run import check_size
from ddaudit.errors import BadInput
from ddaudit.files import files_below, parse_yaml
from ddaudit.reports._json import read_report
from ddaudit.reports.policy import load_policy
from ddaudit.sets import Card, DistilledSet, PrivacyClaim, import_set, save

RUN = CliRunner()


# ---- networks ----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, soft: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.soft = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), soft

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.body(x)
        return z.softmax(1) if self.soft else z


def test_a_module_alone_is_audited_beside_its_baselines(tmp_path: Path) -> None:
    """Workers know no module: they refused an audit without any other subject."""
    run = ddaudit.audit(
        Net(), auditors="utility", baselines=["random"], ipc=1, seeds=1, victims=1, jobs=1,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert run.failed == ()
    assert run.computed > 2


@pytest.mark.parametrize("nothing", [None, 3])
def test_nothing_is_no_subject(nothing: Any) -> None:
    with pytest.raises(BadInput, match="nothing that can be audited"):
        ddaudit.audit(nothing, quiet=True)


def test_probabilities_are_no_logits() -> None:
    data = load_data("digits")
    assert module_subject("mine", Net(), data=data).kind == "checkpoint"
    with pytest.raises(BadInput, match=r"gives probabilities .* Leave the softmax out"):
        module_subject("mine", Net(soft=True), data=data)


# ---- sets --------------------------------------------------------------------------------------------------------


def test_images_on_the_scale_of_bytes_are_no_pixels() -> None:
    images = torch.arange(640).remainder(256).view(10, 1, 8, 8)
    made = DistilledSet(images.float(), torch.arange(10), 10, Card(method="mine"))
    with pytest.raises(
        BadInput, match=r"from 0 to 255, and pixels lie in \[0, 1\]\. Divide by 255"
    ):
        made.check("mine.safetensors")
    noisy = replace(made, images=100 * torch.randn(10, 1, 8, 8))  # a private set may look so
    assert noisy.check() is noisy


@pytest.mark.parametrize(
    "labels",
    [
        np.vstack([np.eye(10)[:9], np.zeros(10)]),  # one image without a label
        np.vstack([np.eye(10)[:9], np.eye(10)[9] + np.eye(10)[0]]),
        np.arange(100).reshape(10, 10) % 7,
        2 * np.eye(10) - 1,
        10 * np.eye(10),
        np.zeros((10, 10)),
    ],
    ids=["an empty row", "two classes", "votes", "signs", "tens", "nothing"],
)
def test_whole_numbers_are_no_logits(tmp_path: Path, labels: np.ndarray) -> None:
    images = np.linspace(0, 1, 640).reshape(10, 1, 8, 8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels.astype("float32"))
    with pytest.raises(BadInput, match="probabilities or logits"):
        import_set(tmp_path / "x.npz", data=load_data("digits"))


def test_folders_without_class_0_may_count_from_1(tmp_path: Path) -> None:
    from PIL import Image

    def folder(*names: str) -> Path:
        root = tmp_path / "-".join(names)
        for name in names:
            (root / name).mkdir(parents=True)
            Image.new("L", (8, 8), 128).save(root / name / "0.png")
        return root

    three = replace(load_data("digits"), **_first_classes(3))
    assert import_set(folder("1", "2", "3"), data=three).labels.tolist() == [0, 1, 2]
    assert import_set(folder("0", "2"), data=three).labels.tolist() == [0, 2]
    some = folder("1", "2")
    with pytest.raises(BadInput, match="none for class 0: they may count from 0 or from 1"):
        import_set(some, data=three)
    for start, labels in (("0", [1, 2]), ("1", [0, 1])):
        assert import_set(some, data=three, options={"from": start}).labels.tolist() == labels


def _first_classes(count: int) -> dict[str, ImageData]:
    data = load_data("digits")
    return {
        name: replace(part.subset(part.labels < count), class_names=("a", "b", "c")[:count])
        for name in ("train", "validation", "test")
        for part in [getattr(data, name)]
    }


def test_an_output_folder_of_a_recipe_s_name_hides_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dm").mkdir()
    (tmp_path / "mine").mkdir()
    assert not is_file_name("dm")
    assert not is_file_name("dm+fair")
    assert is_file_name("./dm")
    assert is_file_name("mine")


def test_the_ledger_counts_private_sets_that_have_no_record(tmp_path: Path) -> None:
    options = {"loop.iterations": 2, "networks.width": 4}
    made = ddaudit.distill("dm+dp", ipc=1, epsilon=2.0, delta=1e-4, options=options, quiet=True)
    (tmp_path / "made").mkdir()
    save(made, tmp_path / "made" / "p.safetensors")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "q.safetensors").write_bytes((tmp_path / "made/p.safetensors").read_bytes())
    (tmp_path / "got" / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    alone = RUN.invoke(app, ["ledger", str(tmp_path / "got")])
    assert "no record" in alone.output
    assert f"epsilon {made.card.privacy.epsilon:.4g}" in alone.output
    assert "cut.safetensors: cannot be read" in alone.output + alone.stderr
    both = RUN.invoke(app, ["ledger", str(tmp_path)])
    assert "no record" not in both.output, "a copy of what is on record is no further release"


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a: 1\na: 2", "rules: [{min: 1, min: 2}]", "x: {y: 1, y: 1}"])
def test_of_two_values_under_one_key_none_is_meant(text: str) -> None:
    with pytest.raises(BadInput, match="twice in the mapping that begins at line 1"):
        parse_yaml(text, "policy")
    assert parse_yaml("a: {x: 1}\nb: {x: 1}", "policy") == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("dm", {"reader.per_class": 0}, "per_class must be at least 1"),
        ("dm", {"networks.width": 0}, "width must be at least 1"),
        ("mtt", {"networks.width": -1}, "width must be at least 1"),
        ("dm", {"loop.momentum": 5}, r"momentum must lie in \[0, 1\)"),
        ("dm", {"loop.momentum": -3}, r"momentum must lie in \[0, 1\)"),
        ("dm", {"normalise": "foo"}, "normalise is 'data' or 'public'"),
        ("dm", {"labels": "soft"}, "'labels' is a part"),
        ("dm", {"status": "faithful"}, "says where a method comes from"),
        ("dm", {"source": "me"}, "says where a method comes from"),
    ],
)
def test_options_that_mean_nothing(name: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        make_recipe(name, profile="small", options=options, strict=True)


def test_a_noise_and_an_epsilon_contradict_each_other() -> None:
    with pytest.raises(BadInput, match=r"reader\.sigma=2 sets the noise"):
        make_recipe(
            "dm+dp", profile="small", options={"reader.sigma": "2"}, epsilon=3.0, strict=True
        )
    assert make_recipe("dm+dp", profile="small", options={"reader.sigma": "2"}).reader.sigma == 2


@pytest.mark.parametrize("ipc", [0, 10**9, 1.5, "1", True])
def test_sizes_that_no_set_has(ipc: Any) -> None:
    with pytest.raises(BadInput, match="ipc"):
        check_size(ipc, load_data("digits").train)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["audit", "random", "--auditors", "leakage", "--setting", "leakage.nosuch=3"], "unknown setting"),
        (["audit", "random", "--setting", "utility.bootstrap=0"], "bad value"),
        (["audit", "random", "--setting", "calibration.bins=-5"], "bad value"),
        (["audit", "random", "--setting", "utility.bootstrap=50", "--setting", "utility.bootstrap=60"], "given twice"),
        (["distill", "dm", "--set", "loop.iterations=3", "--set", "loop.iterations=4", "--out", "x.safetensors"],
         "given twice: 3 and 4"),
        (["audit", "random", "--baselines", ""], "'none' stands for none"),
    ],
)  # fmt: skip
def test_the_command_line_says_so(arguments: list[str], why: str, tmp_path: Path) -> None:
    if arguments[0] == "audit":
        arguments = [*arguments, "--dry-run", "--out", str(tmp_path / "run")]
    result = RUN.invoke(app, arguments)
    assert isinstance(result.exception, BadInput), result.output
    assert why in str(result.exception)


# ---- data --------------------------------------------------------------------------------------------------------


def test_data_in_memory_are_held_to_what_files_are() -> None:
    data = load_data("digits")
    for bad in (-1, 57):
        labels = data.test.labels.clone()
        labels[:3] = bad
        with pytest.raises(ValueError, match="labels run from"):
            replace(data.test, labels=labels)
    coloured = replace(data.test, images=data.test.images.repeat(1, 3, 1, 1))
    for change, why in (
        ({"test": coloured}, "test images are"),
        ({"mean": (0.5, 0.5, 0.5)}, "no two numbers for each of 1 channel"),
        ({"std": (0.0,)}, "The std is positive"),
        ({"test": data.test.subset(torch.arange(0))}, "has no test records"),
        (
            {"test": replace(data.test, class_names=(*data.test.class_names, "x"))},
            "11 classes have names",
        ),
    ):
        with pytest.raises(BadInput, match=why):
            ddaudit.audit("random", data=replace(data, **change), quiet=True)


def _table(folder: Path, column: list[str], **options: str) -> Dataset:
    lines = ["x,v,y", *(f"{i % 7}.5,{v},{'ab'[i % 2]}" for i, v in enumerate(column))]
    (folder / "t.csv").write_text("\n".join(lines))
    more = "".join(f",{k}={v}" for k, v in options.items())
    return load_data(f"csv:path={folder / 't.csv'},target=y{more}")


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["1e300", "-1e300", "1"], "whose spread no float holds"),
        ([f"{i}%" for i in range(40)], "numbers with signs or separators"),
        ([f'"$1,{i:03d}"' for i in range(40)], "numbers with signs or separators"),
        (["unknown"] * 40 + [str(i) for i in range(20)], "numbers and"),
    ],
)
def test_a_column_that_is_not_what_it_seems(tmp_path: Path, cells: list[str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        _table(tmp_path, (cells * 100)[:120])


@pytest.mark.parametrize(
    "cells",
    [
        [f"{10 * (i % 12)}-{10 * (i % 12) + 9}" for i in range(24)],
        [f"2020-{1 + i % 12:02d}" for i in range(24)],
        [f"{i % 24}:00" for i in range(24)],
        ["E11", "I10", "250"],
        ["never"] * 8 + ["1", "2"],
    ],
    ids=["age bands", "months", "hours", "codes", "stages"],
)
def test_categories_that_hold_digits_stay_categories(tmp_path: Path, cells: list[str]) -> None:
    assert _table(tmp_path, (cells * 100)[:120]).columns[1].startswith("v=")


def test_a_number_that_rests_on_the_end_of_its_declared_range(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"v": [0, 100_000], "y": ["a", "b"]}))
    assert _table(tmp_path, ["0"] * 120, ranges=str(tmp_path / "r.json")).columns == ("v",)


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (
            {"x": [0, 7], "v": ["A", "B"], "y": ["a", "b"]},
            "categories of 'v' .* that no record has",
        ),
        (
            {"x": [100, 700], "v": ["a", "b"], "y": ["a", "b"]},
            "100 to 700 for 'x', and all records lie beyond",
        ),
        ({"x": ["1", "2"], "v": ["a", "b"], "y": ["a", "b"]}, "categories of 'x'"),
    ],
)
def test_public_ranges_that_fit_no_record(
    tmp_path: Path, declared: dict[str, Any], why: str
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(declared))
    with pytest.raises(BadInput, match=why):
        _table(tmp_path, ["a", "b", "c"] * 40, ranges=str(tmp_path / "r.json"))


# ---- reports -----------------------------------------------------------------------------------------------------


def _report(**metric: Any) -> dict[str, Any]:
    number = {"name": "utility.accuracy", "value": 0.5, "low": 0.4, "high": 0.6, **metric}
    return {
        "schema_version": "1",
        "run": {"data": "digits"},
        "subjects": [{"id": "dm", "kind": "recipe"}],
        "auditors": [{"name": "utility", "title": "Utility"}],
        "findings": [{"subject": "dm", "auditor": "utility", "metrics": [number]}],
    }


def test_a_report_that_no_audit_writes_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "report.json"

    def read(content: dict[str, Any]) -> object:
        file.write_text(json.dumps(content))
        return read_report(file)

    read(_report())
    twice = _report()
    twice["findings"] *= 2
    for content, why in (
        (_report(value=2.0, low=1.9, high=2.1), "is 2, and can be 0 to 1"),
        (_report(low=0.9, high=0.1), "an interval from 0.9 to 0.1"),
        (twice, "twice"),
    ):
        with pytest.raises(BadInput, match=why):
            read(content)


def test_recipes_named_by_the_test_exist() -> None:
    """A refusal of a name that is gone would pass."""
    for name in ("dm", "mtt", "dm+dp"):
        resolve(name)


# ---- the command line ----------------------------------------------------------------------------------------------


def _says(*words: str) -> str:
    got = RUN.invoke(app, list(words))
    assert isinstance(got.exception, BadInput), (got.output, got.exception)
    return str(got.exception)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("distill", "random", "--out", "set"), "Take set.safetensors"),
        (("distill", "random", "--device", "vulkan", "--out", "s.safetensors"), "not trained there"),
        (("distill", "dm", "--device", "meta", "--out", "s.safetensors"), "not trained there"),
        (("distill", "random", "--device", "cpu:5", "--out", "s.safetensors"), "not trained there"),
        (("distill", "random", "--data", "colored:base=wine", "--out", "s.safetensors"), "no pixels"),
        (("distill", "dm+dp", "--epsilon", "1e308", "--delta", "1e-4", "--out", "s.safetensors"), "1e.06 at most"),
        (("audit", "random", "--auditors", "utility", "--archs", "foo", "--dry-run"), "foo: unknown architecture"),
    ],
)  # fmt: skip
def test_what_no_work_can_be_done_with_is_refused_before_any(
    words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(says, _says(*words))
    assert list(tmp_path.iterdir()) == []


def test_a_private_release_is_not_replaced_by_a_detour(tmp_path: Path) -> None:
    """A folder that is not there yet hid it: "new/../private.safetensors"."""
    claim = PrivacyClaim(epsilon=1.0, delta=1e-5, mechanism="gaussian")
    card = Card(method="mine", privacy=claim)
    made = DistilledSet(torch.rand(2, 1, 8, 8), torch.arange(2), 2, card)
    path = save(made, tmp_path / "private.safetensors")
    for detour in (path, tmp_path / "new" / ".." / path.name):
        with pytest.raises(BadInput, match="private release"):
            check_set_file(detour, overwrite=False)


def test_a_truth_value_is_no_number(tmp_path: Path) -> None:
    """YAML reads ``yes`` as true, which counted as 1: a privacy target of 1, a rule that always holds."""
    for line in ("epsilon: yes", "seeds: true", "ipc: on"):
        (tmp_path / "c.yaml").write_text(f"subjects: [random]\n{line}\n")
        assert "is no number" in _says("audit", "--config", str(tmp_path / "c.yaml"), "--dry-run")
    (tmp_path / "p.yaml").write_text("rules:\n- metric: utility.accuracy\n  max: true\n")
    with pytest.raises(BadInput, match="is no number"):
        load_policy(str(tmp_path / "p.yaml"))


def test_a_circle_of_links_stops_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "self.safetensors").symlink_to("self.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"")
    found = files_below(tmp_path, ".safetensors", depth=2, search=True)
    assert found == [tmp_path / "a.safetensors"]


def test_links_that_lead_nowhere_are_named_and_two_to_one_folder_are_both_read(
    tmp_path: Path,
) -> None:
    """A class that was a link to another's pictures was there or not by the order of the folder; pictures that had
    been moved away were missing without a word."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"")
    for name in ("b", "c"):
        (tmp_path / name).symlink_to("a")
    found = files_below(tmp_path, ".png", depth=2)
    assert found == [tmp_path / name / "0.png" for name in "abc"]
    (tmp_path / "a" / ".hidden.png").symlink_to("gone.png")
    assert len(files_below(tmp_path, ".png", depth=2)) == 3
    for lost in ("a/1.png", "d"):
        (tmp_path / lost).symlink_to("gone")
        with pytest.raises(BadInput, match="is a link that leads nowhere"):
            files_below(tmp_path, ".png", depth=2)
        (tmp_path / lost).unlink()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.safetensors", b"{", "truncated or not a safetensors file"),
        ("a.npz", b"PK\x03\x04" + b"0" * 50, "truncated or not a NumPy archive"),
        ("a.pt", b"PK\x03\x04" + b"0" * 50, "truncated or not a PyTorch file"),
    ],
)
def test_import_says_what_is_wrong_with_a_damaged_file(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    """It sent damaged set files on to the audit, which sent them back, and found no arrays in half an archive."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=says):
        import_set(tmp_path / name, data=load_data("digits"))


def test_a_card_that_contradicts_itself_is_refused() -> None:
    for card, says in (
        (Card(method="mine", class_names=["a", "a"]), "one name"),
        (Card(method="mine", ipc=-1), "-1 images per class"),
        (Card(method="mine", member_indices=[0, -1]), "negative positions"),
    ):
        with pytest.raises(BadInput, match=says):
            DistilledSet(torch.rand(2, 1, 8, 8), torch.arange(2), 2, card).check()


def test_a_run_of_a_newer_format_is_not_guessed_at() -> None:
    with pytest.raises(BadInput, match="newer ddaudit"):
        check_info({"format": 99}, "run.json")


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind")
def test_a_reader_that_goes_away_violates_no_gate(tmp_path: Path) -> None:
    """typer makes 1 of a broken pipe, which a gate says where a rule is violated."""
    command = f"{shlex.quote(sys.executable)} -m ddaudit list archs"
    ran = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}; {command} >&-; echo $?"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == ["141", "0"]
    assert ran.stderr == ""


def test_a_class_without_records_is_refused_before_any_work() -> None:
    """Audits trained networks for it, and ended with exit code 3 where its first recipe began."""
    digits = load_data("digits")
    kept = digits.train.subset(digits.train.labels != 9)
    for name in ("dm", "random", "dc", "wmdd"):  # batches of whole classes are no whole selection
        with pytest.raises(BadInput, match="class '9' has no training record"):
            ddaudit.distill(name, data=digits, train=kept, quiet=True)


def _pictures(folder: Path, *classes: str) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.new("L", (8, 8), 9 * i).save(folder / name / f"{i}.png")


def test_folders_that_systems_make_are_no_classes_and_one_name_has_one_spelling(
    tmp_path: Path,
) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"  # as archives of different systems write it
    _pictures(tmp_path / "train", composed, "b", "@eaDir", "__MACOSX")
    _pictures(tmp_path / "test", apart, "b")
    data = load_data(f"image-folder:path={tmp_path},validation=0")
    assert data.train.class_names == ("b", composed)
    assert not [note for note in data.notes if "no classes" in note or "no SPLIT" in note]
    assert import_set(tmp_path / "test").card.class_names == ["b", composed]
    with pytest.raises(BadInput, match=r"folders of such folders \(test, train\)\. .*/train\."):
        import_set(tmp_path)
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "0.png")
    with pytest.raises(BadInput, match="in no format that is known"):
        import_set(tmp_path / "flat")


def test_a_card_without_a_normalisation_to_use_is_refused(tmp_path: Path) -> None:
    made = ddaudit.distill("random", data="digits", ipc=1, quiet=True)
    for std in (0.0, float("nan"), -1.0):
        broken = replace(made, card=made.card.model_copy(update={"std": [std]}))
        with pytest.raises(BadInput, match="as std of its channels"):
            save(broken, tmp_path / "a.safetensors")


def test_files_of_other_kinds_say_what_they_are(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2), check_trace=False)
    program.save(str(tmp_path / "a.pt"))
    with pytest.raises(BadInput, match="holds a TorchScript program"):
        import_set(tmp_path / "a.pt")
    deep = np.arange(0, 640, dtype=np.uint16).reshape(10, 1, 8, 8) * 100
    np.savez(tmp_path / "a.npz", images=deep, labels=np.arange(10))
    with pytest.raises(BadInput, match="integers of 16 bits, say"):
        import_set(tmp_path / "a.npz")
