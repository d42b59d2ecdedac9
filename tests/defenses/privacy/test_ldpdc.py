"""LDPDC: what a group mean is, its noise and sensitivity, published epsilons, sets that nest."""

from dataclasses import replace

import pytest
import torch

from ddaudit.data import Dataset, ImageData, load_data
from ddaudit.defenses.privacy.accounting import epsilon
from ddaudit.defenses.privacy.ldpdc import GroupMeans, UnitPixels
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation import distill, distill_many, distill_sizes, resolve
from ddaudit.distillation.reading import Minibatch
from ddaudit.distillation.targets import ByClass, Joint
from ddaudit.errors import BadInput
from ddaudit.models import Arch
from ddaudit.sets import LedgerEntry
from ddaudit.training import PROTOCOLS, predict, train_many


def ldpdc(name="ldpdc", **options):
    return resolve(name, options={k.replace("__", "."): v for k, v in options.items()})


def plain(name="ldpdc"):
    """The loop without privacy: every record in every group, no noise."""
    return replace(ldpdc(name), reader=Minibatch(per_class=10_000))


@pytest.mark.parametrize(
    ("size", "published"),
    [(5421, 1.10), (6000, 1.06), (5000, 1.14)],
    ids=["mnist", "fmnist", "c10"],
)
def test_the_published_noise_costs_the_published_epsilon(size, published):
    """Sheet A.3: sigma 1, 50 images per class, groups of 50: 1.10 / 1.06 / 1.14 by RDP at delta 1e-5."""
    entry = LedgerEntry(query="group", sigma=1.0, q=50 / size, count=50)
    assert epsilon([entry], 1e-5, accountant="rdp") == pytest.approx(published, abs=0.01)


def test_the_ledger_of_a_run_at_the_published_size():
    """The same number from a whole run: 5421 records in the smallest class, as in MNIST."""
    made = distill(
        ldpdc(reader__sigma=1.0), _flat(5421, 5500).train, data=_flat(5421, 5500), ipc=50, seed=0
    )
    claim = made.card.privacy
    (entry,) = claim.ledger
    assert (entry.sigma, entry.count) == (1.0, 50)
    assert entry.q == pytest.approx(50 / 5421)
    assert claim.cross_checks["rdp"] == pytest.approx(1.10, abs=0.01)
    assert claim.epsilon < claim.cross_checks["rdp"]


def test_an_image_is_the_mean_of_its_group(tiny):
    """Without noise and with every record in every group: the class mean."""
    made = distill(plain(), tiny.train, data=tiny, ipc=3, seed=0)
    assert made.images.shape == (12, 3, 8, 8)
    assert made.labels.tolist() == [c for c in range(4) for _ in range(3)]
    assert made.card.privacy is None
    for c in range(4):
        mean = tiny.train.pixels(tiny.train.labels == c).mean(0)
        assert torch.allclose(made.images[made.labels == c], mean.expand(3, -1, -1, -1), atol=1e-5)


def test_noise_is_sigma_times_root_d_over_the_group(tiny):
    """In [-1, 1] pixels sigma sqrt(d) / L (authors' code); pixels in [0, 1] have half of it."""
    sigma, d, group = 5.0, 192, 60
    options = {"reader.sigma": sigma, "reader.batch": 10_000, "reader.delta": 1e-3}
    made = distill(ldpdc(**options), tiny.train, data=tiny, ipc=20, seed=0)
    means = torch.stack([tiny.train.pixels(tiny.train.labels == c).mean(0) for c in made.labels])
    noise = made.images - means
    # 80 x 192 draws: the standard deviation is known to 0.6 %.
    assert float(noise.std()) == pytest.approx(0.5 * sigma * d**0.5 / group, rel=0.03)


def test_a_group_is_divided_by_its_expected_size(tiny):
    """White images: a sum is the number of records drawn. Divided by 20 it varies as Binomial(60, 1/3) / 20 does;
    divided by the number itself, which would betray it, it would not vary at all."""
    white = replace(tiny.train, images=torch.full_like(tiny.train.images, 255))
    made = distill(
        ldpdc(reader__sigma=0.5, reader__batch=20, reader__delta=1e-3),
        white,
        data=tiny,
        ipc=50,
        seed=0,
    )
    level = (2 * made.images - 1).mean((1, 2, 3))
    noise = (0.5 / 20) ** 2  # of a mean over d pixels, each with variance sigma^2 d / 20^2
    # 200 draws: the standard deviation is known to 5 %, the bound is 4 sigma.
    assert float(level.std()) == pytest.approx((60 * 2 / 9 / 20**2 + noise) ** 0.5, rel=0.2)
    assert float(level.mean()) == pytest.approx(1.0, abs=0.06)


def test_one_record_moves_a_sum_by_at_most_the_bound_and_extreme_images_attain_it(tiny):
    images = tiny.train.images.clone()
    images[0], images[1] = 255, 0
    images[2] = 255 * (torch.arange(192).view(3, 8, 8) % 2).to(torch.uint8)
    data = replace(tiny.train, images=images)

    def total(members):
        gate = PrivateSource(data, members, noise_seed=0)
        gate.plan(Plan(torch.ones(len(data)), 1.0, 1e-9, 1, 1.0))
        return gate.noisy_sum(
            "q",
            lambda index: UnitPixels().signals(
                None, (data.pixels(index) - 0.5) / 0.5, data.labels[index]
            ),
            lambda index: ByClass().rows(data, index),
        )

    everyone = torch.ones(1, len(data), dtype=torch.bool)
    full = total(everyone)
    moved = []
    for record in range(8):
        without = everyone.clone()
        without[0, record] = False
        moved.append(float((full - total(without)).norm()))
    assert moved[:3] == pytest.approx([1.0] * 3, abs=1e-4)
    assert max(moved[3:]) < 0.99


def test_public_constants_only(tiny):
    with pytest.raises(BadInput, match="normalises by constants of the private data"):
        distill(ldpdc(normalise="data", reader__delta=1e-3), tiny.train, data=tiny, ipc=1, seed=0)


def test_small_sets_are_the_beginning_of_large_ones(tiny):
    recipe = ldpdc(reader__delta=1e-3)
    small, large = distill_sizes(recipe, tiny.train, [1, 3], data=tiny, seed=0)
    assert torch.equal(small.images, large.images[::3])
    assert small.card.privacy == large.card.privacy
    assert large.card.privacy.ledger[0].count == 3
    assert large.card.privacy.epsilon <= 10


def test_shadows_are_made_at_once_from_their_own_records(tiny):
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    recipe = ldpdc(
        reader__noise_seed=1, reader__sigma=0.5, reader__batch=10_000, reader__delta=1e-3
    )
    assert recipe.loop.shareable(recipe, 2)
    before, after = (
        distill_many(recipe, d, members, data=tiny, ipc=2, seed=0) for d in (tiny.train, changed)
    )
    same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
    assert same == [not bool(m) for m in members[:, record]]
    for made, row in zip(before, members, strict=True):
        mean = tiny.train.pixels((tiny.train.labels == 0) & row).mean(0)
        # Noise of 0.5 sqrt(192) / (2 * 30) = 0.12 per pixel, averaged over 192.
        assert float((made.images[0] - mean).mean().abs()) < 0.04


def test_fair_group_means_weigh_groups_equally(tiny):
    made = distill(plain("ldpdc+fair"), tiny.train, data=tiny, ipc=2, seed=0)
    data = tiny.train
    for c in range(4):
        groups = [data.pixels((data.labels == c) & (data.groups == g)).mean(0) for g in (0, 1)]
        mean = torch.stack(groups).mean(0)
        assert torch.allclose(made.images[made.labels == c], mean.expand(2, -1, -1, -1), atol=1e-5)


def test_targets_that_are_not_by_class_are_refused(tiny):
    recipe = replace(ldpdc(reader__delta=1e-3), target=Joint())
    with pytest.raises(BadInput, match="rows for every class"):
        distill(recipe, tiny.train, data=tiny, ipc=1, seed=0)
    with pytest.raises(BadInput, match="needs a target and a reader"):
        distill(replace(recipe, reader=None), tiny.train, data=tiny, ipc=1, seed=0)
    assert GroupMeans().queries(7) == 7


def test_networks_learn_digits_from_it():
    data = load_data("digits")
    recipe = ldpdc(reader__epsilon=10.0, reader__delta=1e-4, reader__noise_seed=0)
    made = distill(recipe, data.train, data=data, ipc=5, seed=0)
    (net,) = train_many(
        [(made.images, made.labels)],
        arch=Arch.parse("ConvNetD2W16"),
        num_classes=10,
        mean=data.mean,
        std=data.std,
        protocol=PROTOCOLS["quick"].for_data(data.augment),
        seeds=[0],
        device="cpu",
    )
    right = predict(net, data.validation.images).argmax(1).cpu() == data.validation.labels
    assert float(right.float().mean()) > 0.75  # measured 0.89 with ConvNetD2W32


def _flat(*counts: int) -> Dataset:
    """One-pixel-row images, so that the published number of records costs nothing."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.randint(
        256, (len(labels), 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    split = ImageData(images, labels, tuple(str(c) for c in range(len(counts))))
    return Dataset("flat", split, split, split, mean=(0.5,), std=(0.3,), augment="")
