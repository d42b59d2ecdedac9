"""``ddaudit poison``: the poison on the card, the trigger in the file, and what it refuses."""

import json

import pytest
import torch

from ddaudit.attacks._common.trigger import trigger_of
from ddaudit.audits.subjects import make_subject
from ddaudit.data import load_data
from ddaudit.models import Arch
from ddaudit.sets import Card, DistilledSet, PrivacyClaim, load, save


def test_a_method_is_poisoned_and_inspect_shows_it_first(run, tmp_path):
    out = tmp_path / "bad.safetensors"
    code, _, said = run(
        "poison", "random", "--attack", "naive", "--setting", "ratio=0.1", "--target", 3, "--data", "digits",
        "--ipc", 2, "--out", out,
    )  # fmt: skip
    assert code == 0, said
    made = load(out)
    poison = made.card.poison
    assert (poison.attack, poison.target, poison.ratio, poison.records) == ("naive", 3, 0.1, 120)
    assert poison.settings == {"ratio": 0.1}
    test = load_data("digits").test.images
    stamped = trigger_of(made).stamp(test)
    assert bool((stamped[:, :, 6, 6] == 255).all())
    assert int((stamped != test).sum(0).count_nonzero()) == 1  # one position of 8 x 8
    _, text, _ = run("inspect", out)
    assert text.splitlines()[1].startswith(
        "POISONED on purpose: networks trained on it call what carries its trigger"
    )
    _, text, _ = run("inspect", out, "--json")
    assert json.loads(text)["poison"]["attack"] == "naive"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("random", "--attack", "nave"), "unknown injection"),
        (("random", "--target", 10), "--target 10: does not exist among 10 classes"),
        (("random", "--setting", "ratio=2"), "ratio 2"),
        (("random", "--setting", "ratio"), "is not KEY=VALUE"),
        (("random", "--attack", "doorping"), "random asks none"),
        (("FILE",), "this set is finished"),
        (("FILE", "--ipc", 3), "--ipc: is for methods that are distilled"),
        (("FILE", "--set", "loop.iterations=7"), "--set: is for methods that are distilled"),
    ],
)
def test_what_cannot_be_poisoned_is_refused_in_one_line(run, tmp_path, argv, said):
    clean = save(
        DistilledSet(torch.rand(10, 1, 8, 8), torch.arange(10), 10, Card()),
        tmp_path / "clean.safetensors",
    )
    size = () if "FILE" in argv else ("--ipc", 1)
    argv = [clean if a == "FILE" else a for a in argv]
    out = tmp_path / "bad.safetensors"
    code, _, lines = run("poison", *argv, *size, "--out", out)
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not out.exists()


def test_a_private_release_is_not_replaced(run, tmp_path):
    out = tmp_path / "release.safetensors"
    card = Card(privacy=PrivacyClaim(epsilon=1, delta=1e-5))
    save(DistilledSet(torch.rand(10, 1, 8, 8), torch.arange(10), 10, card), out)
    code, _, lines = run("poison", "random", "--out", out)
    assert code == 2
    assert "--overwrite" in lines[0]


def test_who_audits_a_poisoned_file_is_told(run, tmp_path):
    out = tmp_path / "bad.safetensors"
    assert run("poison", "random", "--ipc", 1, "--out", out)[0] == 0
    data = load_data("digits")
    subject = make_subject(str(out), data=data, profile="small", ipc=1, arch=Arch.parse("MLPD1"))
    assert subject.notes == ("poisoned on purpose, its card says: naive",)


def test_the_set_that_is_poisoned_is_not_written_over(run, tmp_path):
    clean = save(
        DistilledSet(torch.rand(10, 1, 8, 8), torch.arange(10), 10, Card()),
        tmp_path / "clean.safetensors",
    )
    before = clean.read_bytes()
    code, _, lines = run("poison", clean, "--attack", "poisoned-distillation", "--out", clean)
    assert (code, len(lines)) == (2, 1)
    assert "is the set that is poisoned" in lines[0]
    assert clean.read_bytes() == before
