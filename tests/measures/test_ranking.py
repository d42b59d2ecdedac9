"""DD-Ranking's scores: the package's own numbers, the ends of the scale, and where the accuracies come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject, recipe_subject
from ddaudit.data import load_data
from ddaudit.distillation import resolve
from ddaudit.measures import ranking
from ddaudit.measures.ranking import augmentation_robust_score, label_robust_score, normalised
from ddaudit.measures.utility import Utility
from ddaudit.models import Arch
from ddaudit.sets import Card

# Computed by compute_metrics of ddranking 0.2.0 (PyPI; metrics/hard_label.py, soft_label.py, aug_robust.py), whose
# trainings were replaced by these accuracies: fractions, where the package itself puts percents.
HARD = {
    "full": 0.85,
    "set": 0.61,
    "random": 0.42,
    "lrs": 0.25843679964853744,
    "lrs at 0.3": 0.22424215981409995,
}
SOFT = {"full": 0.85, "hard": 0.38, "set": 0.66, "random": 0.47, "lrs": 0.21335869846783004}
ARS = {"augmented": 0.61 - 0.42, "plain": 0.55 - 0.44, "ars": 0.3377952668236845}
ON_PERCENTS = -0.12159383605687804  # HARD's accuracies times 100, as the package does


def test_the_label_robust_score_is_the_package_s_on_fractions() -> None:
    hlr, ior = HARD["full"] - HARD["set"], HARD["set"] - HARD["random"]
    assert label_robust_score(hlr, ior) == pytest.approx(HARD["lrs"], abs=1e-12)
    assert label_robust_score(hlr, ior, 0.3) == pytest.approx(HARD["lrs at 0.3"], abs=1e-12)
    hlr, ior = SOFT["full"] - SOFT["hard"], SOFT["set"] - SOFT["random"]
    assert label_robust_score(hlr, ior) == pytest.approx(SOFT["lrs"], abs=1e-12)


def test_the_augmentation_robust_score_is_the_package_s_on_fractions() -> None:
    got = augmentation_robust_score(ARS["augmented"], ARS["plain"])
    assert got == pytest.approx(ARS["ars"], abs=1e-12)


def test_percents_leave_the_scale_that_the_score_is_normalised_to() -> None:
    hlr, ior = HARD["full"] - HARD["set"], HARD["set"] - HARD["random"]
    assert label_robust_score(100 * hlr, 100 * ior) == pytest.approx(ON_PERCENTS, abs=1e-9)
    assert normalised(-1) == 0
    assert normalised(1) == pytest.approx(1)


@pytest.fixture(scope="module")
def ctx() -> Context:
    preset = PRESETS["quick"].model_copy(update={"test_limit": 120})
    data = load_data("digits")
    few = replace(data, train=data.train.subset(torch.arange(300)), augment="crop")
    return Context(data=few, preset=preset, arch=Arch.parse("MLPW16"), ipc=2)


def test_scores_follow_from_the_accuracies_of_the_audit_s_own_rows(ctx: Context) -> None:
    auditor, settings = Utility(), AUDITORS.get("utility").configure("quick", {"ranking": True})

    def accuracy(name: str) -> float:
        subject = recipe_subject(resolve(name, profile="small"))
        value = auditor.run(subject, ctx, AUDITORS.get("utility").configure("quick"), 0).metric(
            "utility.accuracy"
        )
        return value.value

    subject = recipe_subject(resolve("herding", profile="small", options={"loop.arch": "MLPW8"}))
    found = auditor.run(subject, ctx, settings, 0)
    own, best, chance = found.metric("utility.accuracy").value, accuracy("full"), accuracy("random")
    assert found.metric("utility.hlr").value == pytest.approx(best - own)
    assert found.metric("utility.ior", protocol="quick").value == pytest.approx(own - chance)
    lrs = found.metric("utility.lrs", protocol="quick")
    assert lrs.value == pytest.approx(label_robust_score(best - own, own - chance))
    assert 0 <= lrs.low <= lrs.value <= lrs.high <= 1
    assert 0 <= found.metric("utility.ars").value <= 1
    assert found.metric("utility.bytes").value == 4 * 2 * 10 * 64
    assert found.metric("utility.images_per_class").value == 2


def test_a_set_with_soft_labels_is_also_trained_on_with_hard_ones(ctx: Context) -> None:
    options = {"labels.arch": "MLPW8", "labels.epochs": 2}
    subject = recipe_subject(resolve("random+soft", profile="small", options=options))
    settings = AUDITORS.get("utility").configure("quick", {"ranking": True})
    found = Utility().run(subject, ctx, settings, 0)
    hard = found.metric("utility.hard_label_accuracy").value
    # The labels are a poor teacher's: the most likely class of each image is another set altogether.
    assert hard != found.metric("utility.accuracy").value
    best = found.metric("utility.hlr").value + hard
    plain = Utility().run(
        recipe_subject(resolve("full")), ctx, AUDITORS.get("utility").configure("quick"), 0
    )
    assert best == pytest.approx(plain.metric("utility.accuracy").value)
    assert found.metric("utility.bytes").value == 4 * 2 * 10 * (64 + 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random+soft", {"labels.arch": "MLPW8", "labels.epochs": 2}),
        (
            "random+fkd",
            {
                "networks.arch": "MLPW8",
                "networks.epochs": 2,
                "labels.epochs": 2,
                "protocol.epochs": 4,
            },
        ),
    ],
)
def test_images_gain_nothing_over_random_ones_with_the_same_teacher_s_labels(
    ctx: Context, name: str, options: dict[str, object]
) -> None:
    """The control of "Hard Truths": where images are random records, IOR is 0 and the accuracies are one number."""
    subject = recipe_subject(resolve(name, profile="small", options=options))
    settings = AUDITORS.get("utility").configure("quick", {"ranking": True})
    found = Utility().run(subject, replace(ctx, trains_by="card"), settings, 0)
    by = {"protocol": "sre2l" if name == "random+fkd" else "quick"}
    assert found.metric("utility.ior", **by).value == 0
    own = by if name == "random+fkd" else {}
    assert (
        found.metric("utility.random_accuracy", **by).value
        == found.metric("utility.accuracy", **own).value
    )
    silent = any("The card states no protocol" in c for c in found.caveats)
    assert silent == (name == "random+soft")


def test_learned_labels_and_those_of_files_stand_on_random_records_of_their_classes(
    ctx: Context,
) -> None:
    """The same control where no teacher can be asked again: what is left are the labels themselves."""
    real = ctx.distilled(recipe_subject(resolve("herding", options={"loop.arch": "MLPW8"})), 0)
    soft = 0.8 * torch.nn.functional.one_hot(real.labels, 10).float() + 0.02
    made = replace(real, labels=soft, card=Card(method="somebody's"))
    file = Subject("a.safetensors", "file", set=made, identity="a")
    chance = ranking._chance(file, made, ctx, 0).set
    assert chance is not None
    assert torch.equal(chance.labels, soft)
    train = ctx.data.train
    known = {x.numpy().tobytes(): int(y) for x, y in zip(train.pixels(), train.labels, strict=True)}
    assert [known[x.numpy().tobytes()] for x in chance.images] == real.labels.tolist()
    assert len({x.numpy().tobytes() for x in chance.images}) == len(chance)
    assert not torch.equal(chance.images, ranking._chance(file, made, ctx, 1).set.images)
    settings = AUDITORS.get("utility").configure("quick", {"ranking": True})
    found = Utility().run(file, ctx, settings, 0)
    as_drawn = Utility().run(ranking._chance(file, made, ctx, 0), ctx, settings, 0)
    drawn = found.metric("utility.random_accuracy", protocol="quick")
    assert drawn.value == as_drawn.metric("utility.accuracy").value
    learned = recipe_subject(resolve("sldd", profile="small"))
    assert ranking._chance(learned, made, ctx, 0).set is not None
    plain = replace(made, labels=real.labels)
    assert ranking._chance(file, plain, ctx, 0).recipe is not None
