"""``import --labels-of``: a released folder of images gets a method's labels, and trains by its protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddaudit.data import load_data
from ddaudit.models import Arch
from ddaudit.sets import load
from ddaudit.training import EvaluationProtocol, Extras, predict, train_many

FAST = (
    "--set",
    "networks.arch=ConvNetD1W8BN",
    "--set",
    "networks.epochs=2",
    "--set",
    "labels.epochs=3",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two digits of each class as SRe2L names its files."""
    train = load_data("digits").train
    for c in range(10):
        for i, record in enumerate((train.labels == c).nonzero().flatten()[:2].tolist()):
            file = tmp_path / "released" / f"new{c:03d}" / f"class{c:03d}_id{i:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(train.images[record, 0].numpy()).save(file, quality=95)
    return tmp_path / "released"


def test_a_released_folder_gets_a_teachers_labels(folder: Path, tmp_path: Path, run) -> None:
    out = tmp_path / "a.safetensors"
    code, _, err = run(
        "import",
        folder,
        "--data",
        "digits",
        "--labels-of",
        "sre2l",
        "--profile",
        "small",
        *FAST,
        "--out",
        out,
    )
    assert code == 0, err
    made = load(out)
    assert made.images.shape == (20, 1, 8, 8)
    assert made.store is not None
    assert made.store.logits.shape == (3, 20, 10)
    assert made.soft
    assert made.card.protocol is not None
    assert (made.card.protocol["name"], made.card.protocol["labels"]) == ("sre2l", "store")
    assert made.card.bytes is not None
    assert made.card.bytes.labels == 20 * 10 * 4 + made.store.num_bytes
    assert any("labels by ConvNetD1W8BN" in note for note in made.card.notes)
    stated = replace(EvaluationProtocol.from_card(made.card.protocol), epochs=2)
    (net,) = train_many(
        [(made.images, made.labels)], arch=Arch.parse("ConvNetD1W8"), num_classes=10, mean=[0.0], std=[1.0],
        protocol=stated, seeds=[0], extras=[Extras(store=made.store)],
    )  # fmt: skip
    assert predict(net, made.images).shape == (20, 10)
    hard = tmp_path / "b.safetensors"
    code, _, err = run("import", folder, "--data", "digits", "--out", hard)
    assert code == 0, err
    assert load(hard).labels.tolist() == torch.arange(10).repeat_interleave(2).tolist()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--labels-of", "sre2l"), "none are given"),
        (("--profile", "paper"), "--profile: is for --labels-of"),
        (("--seed", "7"), "--seed: is for --labels-of"),
        (("--download",), "--download: is for --data"),
        (("--labels-of", "dm", "--data", "digits"), "writes no labels for images that are there"),
        (
            ("--labels-of", "sre2l", "--data", "digits", "--set", "networks.depth=3"),
            "no option 'depth'",
        ),
    ],
)
def test_what_cannot_be_labelled_is_one_line(
    folder: Path, tmp_path: Path, run, extra: tuple[str, ...], said: str
) -> None:
    code, _, err = run("import", folder, *extra, "--out", tmp_path / "a.safetensors")
    assert code == 2
    assert said in err[-1]
