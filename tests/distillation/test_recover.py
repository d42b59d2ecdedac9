"""Recovery: CDA's schedule, what a batch holds, what is shown, and a loss that falls on teachers shared by all runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddaudit.data import Dataset
from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.experts import Experts
from ddaudit.distillation.jitter import Jitter
from ddaudit.distillation.loops import Job
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.recover import Recover, batches
from ddaudit.distillation.store import FolderStore
from ddaudit.errors import BadInput
from ddaudit.sets import DistilledSet

FAMILY = ("sre2l", "cda", "rded", "wmdd", "g-vbsm", "edc", "d3s")


def quick(name: str, **options: object) -> Recipe:
    """A recipe of the family in a second: two small teachers where it has several."""
    several = name in ("g-vbsm", "edc")
    given: dict[str, object] = {
        "networks.arch": "ConvNetD1W8BN,ConvNetD1W8" if several else "ConvNetD2W8BN",
        "networks.epochs": 4,
        "labels.epochs": 2,
    }
    if name != "rded":
        given["loop.iterations"] = 3
    return resolve(name, profile="small", options={**given, **options})


@pytest.mark.parametrize("name", FAMILY)
def test_every_method_of_the_family_makes_a_set_that_says_what_it_is(
    name: str, tiny: Dataset
) -> None:
    made = distill(quick(name), tiny.train, data=tiny, ipc=2, seed=0)
    assert made.images.shape == (8, 3, 8, 8)
    assert 0 <= float(made.images.min()) <= float(made.images.max()) <= 1
    assert made.store is not None
    assert made.store.logits.shape == (2, 8, 4)
    assert made.card.protocol is not None
    assert made.card.protocol["labels"] == "store"
    assert made.card.bytes is not None
    assert made.card.bytes.labels == 8 * 4 * 4 + made.store.num_bytes
    assert made.card.contains_real_pixels == (True if name == "rded" else None)
    assert any("ConvNetD" in note and "bytes" in note for note in made.card.notes)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("private", ["dp", "fair+dp"])
def test_none_of_the_family_is_made_private_by_noise(name: str, private: str) -> None:
    with pytest.raises(BadInput, match="no noise on sums covers those") as refused:
        resolve(f"{name}+{private}")
    assert "\n" not in str(refused.value)


def test_the_curriculum_is_cdas() -> None:
    """Smallest crop 0.08 + 0.92 (1 + cos(pi t / (m T))) / 2, as in recover_cda_tiny.py; linear and step likewise."""
    for t in (0, 1, 250, 500, 999):
        cosine = Jitter(0.08, "cosine", milestone=0.5).floor(t, 1000)
        want = 0.08 + 0.92 * (1 + math.cos(math.pi * t / 500)) / 2 if t < 500 else 0.08
        assert cosine == pytest.approx(want)
        linear = Jitter(0.08, "linear").floor(t, 1000)
        assert linear == pytest.approx(0.08 + 0.92 * (1 - t / 1000))
        assert Jitter(0.08, "step", milestone=0.25).floor(t, 1000) == (1.0 if t < 250 else 0.08)
        assert Jitter(0.08).floor(t, 1000) == 0.08


def test_a_batch_is_shown_with_one_crop_and_one_shift() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 2, 8, 8, generator=g).expand(5, -1, -1, -1)
    shown = Jitter(0.3, roll=0.5).show(x, 0, 10, mirror=True, generator=g)
    assert (shown == shown[:1]).all()
    assert not torch.equal(shown, x)
    assert torch.equal(Jitter(1.0).show(x, 0, 10, mirror=False, generator=g), x)
    roll = Jitter(1.0, roll=0.25)
    shown_rolled = [roll.show(x, 0, 1, mirror=False, generator=g)[0, 0] for _ in range(60)]
    rolled = {tuple(one.flatten().tolist()) for one in shown_rolled}
    assert len(rolled) == 9  # 0, 1 or 2 pixels down and to the right
    padded = Jitter(1.0, pad=0.25).show(x + 1, 0, 1, mirror=False, generator=g)
    assert set(padded[:, :, 4, 4].unique().tolist()) <= set((x + 1).unique().tolist())


def test_batches_are_one_image_of_each_class_or_whole_classes() -> None:
    labels = torch.arange(4).repeat_interleave(3)
    mixed = [b.tolist() for b in batches(labels, 100, False)]
    assert mixed == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert [len(b) for b in batches(labels, 3, False)] == [3, 1] * 3
    assert [b.tolist() for b in batches(labels, 7, True)] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10, 11],
    ]
    assert [len(b) for b in batches(labels, 2, True)] == [3] * 4


def test_recovery_goes_where_the_teacher_is_sure(tiny: Dataset) -> None:
    """The teacher's cross-entropy of recovered images is far below that of the noise they start from."""
    published = {"terms.1.weight": 0.01}  # of the layer statistics
    recipe = quick("sre2l", **{"networks.epochs": 15, "loop.iterations": 60, **published})
    everyone = torch.ones(1, len(tiny.train), dtype=torch.bool)
    job = Job(tiny.train, everyone, tiny, 2, 0, torch.device("cpu"))
    (out,) = recipe.loop.run(recipe, job)
    mean, std = recipe.constants(tiny)

    def surprise(images: torch.Tensor) -> float:
        return float(F.cross_entropy(out.teachers[0].body((images - mean) / std), out.labels))

    noise = (
        torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * std + mean
    ).clamp(0, 1)
    assert surprise(out.images) < 0.2 * surprise(noise)


def test_teachers_are_trained_once_for_all_methods_and_seeds(
    tiny: Dataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = Experts._expert.__globals__["train_many"]
    monkeypatch.setitem(
        Experts._expert.__globals__,
        "train_many",
        lambda *a, **k: (trained.append(1), real(*a, **k))[1],
    )
    store = FolderStore(tmp_path)
    made = [
        distill(quick(name), tiny.train, data=tiny, ipc=1, seed=seed, store=store)
        for name, seed in (("sre2l", 0), ("sre2l", 1), ("cda", 0), ("wmdd", 3), ("rded", 2))
    ]
    assert len(trained) == 1
    assert not torch.equal(made[0].images, made[1].images)
    half = torch.zeros(1, len(tiny.train), dtype=torch.bool)
    half[0, ::2] = True
    distill_many(quick("sre2l"), tiny.train, half, data=tiny, ipc=1, seed=0, store=store)
    assert len(trained) == 2
    distill(quick("g-vbsm"), tiny.train, data=tiny, ipc=1, seed=0, store=store)
    assert len(trained) == 4


def test_fair_and_balanced_teachers_see_cells_equally_often(tiny: Dataset) -> None:
    few = torch.cat([(tiny.train.labels != 0).nonzero().squeeze(1), torch.tensor([0, 4, 8])])
    train = tiny.train.subset(few)
    for name, keys in (("balanced", 4), ("fair", 8), ("fair+balanced", 8)):
        recipe = resolve(f"sre2l+{name}")
        assert isinstance(recipe.networks, Experts)
        assert recipe.networks.lesson is not None
        taught = train.subset(recipe.networks.lesson.records(train))
        assert taught.groups is not None
        cells = taught.labels if keys == 4 else taught.labels * 2 + taught.groups
        assert len(set(torch.bincount(cells).tolist()) - {0}) == 1
        assert set(torch.unique(taught.labels).tolist()) == {0, 1, 2, 3}
    plain, even = (
        distill(quick("wmdd" + s), train, data=tiny, ipc=1, seed=0) for s in ("", "+balanced")
    )
    assert not torch.equal(plain.images, even.images)
    with pytest.raises(BadInput, match="needs a protected attribute"):
        distill(quick("cda+fair"), replace(train, groups=None), data=tiny, ipc=1, seed=0)


def test_one_seed_one_set(tiny: Dataset) -> None:
    a, b = (distill(quick("edc"), tiny.train, data=tiny, ipc=1, seed=4) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)


def test_random_images_get_the_same_teachers_labels(tiny: Dataset) -> None:
    """The control of "Hard Truths": random+fkd, with the options of the method it is compared with."""
    options = {"networks.arch": "ConvNetD2W8BN", "networks.epochs": 4, "labels.epochs": 2}
    control = resolve("random+fkd", profile="small", options=options)
    method = quick("sre2l")
    assert control.networks == method.networks
    assert control.labels == method.labels
    assert control.protocol == method.protocol
    made = distill(control, tiny.train, data=tiny, ipc=2, seed=0)
    assert made.card.member_indices is not None
    records = tiny.train.pixels(torch.tensor(made.card.member_indices))
    assert torch.equal(made.images, records)
    job = Job(
        tiny.train,
        torch.ones(1, len(tiny.train), dtype=torch.bool),
        tiny,
        2,
        0,
        torch.device("cpu"),
    )
    (out,) = method.loop.run(method, job)
    mean, std = method.constants(tiny)
    want = out.teachers[0].body((records - mean) / std).softmax(1)
    assert torch.allclose(made.labels, want, atol=1e-4)
    for name, why in (
        ("ndpdc+fkd", "the privacy claim would be void"),
        ("sre2l+fkd", "has a label model already"),
        ("dm+fkd", "a loop of its own"),
    ):
        with pytest.raises(BadInput, match=why):
            resolve(name)


def test_what_recovery_cannot_do_is_one_line(tiny: Dataset) -> None:
    fresh = replace(quick("sre2l"), networks=resolve("dm").networks)
    with pytest.raises(BadInput, match="networks that are trained on the records"):
        distill(fresh, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match="the network has none"):
        distill(
            quick("sre2l", **{"networks.arch": "ConvNetD1W8"}), tiny.train, data=tiny, ipc=1, seed=0
        )
    with pytest.raises(BadInput, match="one teacher, and there are 2"):
        distill(
            quick("wmdd", **{"networks.arch": "ConvNetD1W8BN,ConvNetD2W8BN"}),
            tiny.train,
            data=tiny,
            ipc=1,
            seed=0,
        )
    numbers = replace(tiny.train, images=tiny.train.images.float(), space="standard")
    with pytest.raises(BadInput, match="makes images, and these records are none"):
        distill(quick("sre2l"), numbers, data=replace(tiny, train=numbers), ipc=1, seed=0)


def test_nothing_but_the_start_is_released_without_steps(tiny: Dataset) -> None:
    made: DistilledSet = distill(
        quick("sre2l", **{"loop.iterations": 0}), tiny.train, data=tiny, ipc=1, seed=0
    )
    start = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))[0]
    assert torch.allclose(made.images, (start * 0.25 + 0.4).clamp(0, 1), atol=1e-6)
    assert Recover(iterations=0).queries(1) == 0
