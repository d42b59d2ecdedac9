"""Distilling: one set, several sizes, many subsets, and what the card says of each."""

from dataclasses import dataclass, replace

import pytest
import torch

from ddaudit.attacks._common.pictures import mosaic
from ddaudit.distillation import distill, distill_many, distill_sizes, resolve, versions
from ddaudit.distillation.loops import Outcome
from ddaudit.distillation.recipes.dm import ONE_STEP
from ddaudit.errors import BadInput
from ddaudit.reports.pictures import gallery
from ddaudit.sets import PrivacyClaim, load, save

FAST = {"loop.iterations": 2, "networks.arch": "ConvNetD2W8", "networks.width": None}


@dataclass(frozen=True)
class Noting:
    """A loop that hands back blank images and notes the jobs it was given."""

    jobs: list
    claim: PrivacyClaim | None = None
    share: bool = False

    def shareable(self, recipe, ipc):
        return self.share

    def reusable(self, recipe, ipc):
        return True

    def queries(self, ipc):
        return ipc

    def run(self, recipe, job):
        self.jobs.append(job)
        n = job.train.num_classes * job.ipc
        labels = torch.arange(job.train.num_classes).repeat_interleave(job.ipc)
        return [Outcome(torch.zeros(n, *job.train.shape), labels, self.claim) for _ in job.members]


def noting(**options):
    return replace(resolve("random"), loop=Noting([], **options))


def test_the_card_says_what_made_the_set(tiny):
    recipe = resolve("dm", profile="small", options=FAST)
    card = distill(recipe, tiny.train, data=tiny, ipc=2, seed=7).card
    assert (card.method, card.ipc, card.seed, card.data) == ("dm", 2, 7, "tiny")
    assert card.recipe == recipe.describe()
    assert card.deviations == list(recipe.deviations)
    assert card.source_fingerprint == tiny.train.fingerprint
    assert (card.mean, card.std) == (list(tiny.mean), list(tiny.std))
    assert card.class_names == list(tiny.train.class_names)
    assert card.versions == versions()
    assert card.seconds >= 0
    assert card.privacy is None


def test_a_private_card_keeps_silent_about_time_and_records(tiny):
    claim = PrivacyClaim(epsilon=1.0, delta=1e-5)
    card = distill(noting(claim=claim), tiny.train, data=tiny, ipc=1, seed=0).card
    assert card.privacy == claim
    assert card.seconds is None
    assert card.source_fingerprint is None


def test_one_set_sees_every_record_and_reports_its_progress(tiny):
    recipe, steps = noting(), []
    distill(recipe, tiny.train, data=tiny, ipc=3, seed=1)
    (job,) = recipe.loop.jobs
    assert job.members.shape == (1, len(tiny.train))
    assert bool(job.members.all())
    assert (job.ipc, job.seed, job.device.type) == (3, 1, "cpu")
    real = resolve("dm", profile="small", options=FAST)
    distill(real, tiny.train, data=tiny, ipc=1, seed=0, progress=lambda *done: steps.append(done))
    assert steps == [(1, 2), (2, 2)]


def test_sizes_come_in_the_order_asked_for(tiny):
    recipe = noting()
    sets = distill_sizes(recipe, tiny.train, [3, 1, 2], data=tiny, seed=0)
    assert [len(s) for s in sets] == [12, 4, 8]
    assert [s.card.ipc for s in sets] == [3, 1, 2]


def test_sizes_of_a_private_recipe_cost_one_claim(tiny):
    recipe = resolve("ndpdc", profile="small", options={**FAST, "reader.noise_seed": 3})
    one, two = distill_sizes(recipe, tiny.train, [1, 2], data=tiny, seed=0)
    assert one.card.privacy == two.card.privacy
    assert [e.count for e in one.card.privacy.ledger] == [2]
    # The queries of the smaller set alone cost as much: nothing was paid twice.
    (alone,) = distill_sizes(recipe, tiny.train, [1], data=tiny, seed=0)
    assert one.card.privacy.epsilon == pytest.approx(alone.card.privacy.epsilon)


def test_many_runs_come_in_one_call_or_one_by_one_with_seeds_of_their_own(tiny):
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    shared, single = noting(share=True), noting()
    for recipe in (shared, single):
        sets = distill_many(recipe, tiny.train, members, data=tiny, ipc=1, seed=4)
        assert len(sets) == 3
    (job,) = shared.loop.jobs
    assert torch.equal(job.members, members)
    jobs = single.loop.jobs
    assert all(torch.equal(j.members[0], m) for j, m in zip(jobs, members, strict=True))
    assert len({j.seed for j in jobs}) == 3
    assert jobs[0].seed == 4


@pytest.mark.parametrize(
    "members",
    [torch.ones(240, dtype=torch.bool), torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 240)],
)
def test_members_of_another_form_are_refused(members, tiny):
    with pytest.raises(ValueError, match="members must be bool"):
        distill_many(noting(), tiny.train, members, data=tiny, ipc=1, seed=0)


def test_labels_are_written_from_the_records_of_each_run_alone(tiny):
    seen = []

    @dataclass(frozen=True)
    class Told:
        def relabel(self, images, labels, *, train, data, seed, device):
            seen.append(train.fingerprint)
            return torch.full((len(images), train.num_classes), 1 / train.num_classes), ("told",)

    members = torch.rand(2, len(tiny.train), generator=torch.Generator().manual_seed(1)) < 0.5
    recipe = replace(noting(share=True), labels=Told())
    sets = distill_many(recipe, tiny.train, members, data=tiny, ipc=1, seed=0)
    assert seen == [tiny.train.subset(m).fingerprint for m in members]
    assert all(s.soft and "told" in s.card.notes for s in sets)


def test_no_images_per_class_are_refused(tiny):
    with pytest.raises(BadInput, match="must be at least 1"):
        distill(noting(), tiny.train, data=tiny, ipc=0, seed=0)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_one_to_four_channels_are_distilled_kept_and_shown(tiny, tmp_path, channels):
    def of(split):
        return replace(split, images=split.images.repeat(1, 2, 1, 1)[:, :channels])

    constants = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    data = replace(
        tiny, train=of(tiny.train), validation=of(tiny.validation), test=of(tiny.test), **constants
    )
    options = {"loop.iterations": 1, "networks.arch": "ConvNetD2W8", "networks.width": None}
    made = distill(resolve("dm", options=options), data.train, data=data, ipc=1, seed=0)
    kept = load(save(made, tmp_path / "set.safetensors"))
    assert kept.shape == (channels, 8, 8)
    assert torch.equal(kept.images, made.images)
    assert "data:image/png" in kept._repr_html_()
    assert gallery(kept.images, kept.labels).png_base64
    assert mosaic([[x] for x in kept.images], columns=4)
    five = replace(made, images=torch.rand(4, 5, 8, 8), labels=made.labels[:4])
    with pytest.raises(BadInput, match="5 channels, expected 1 to 4"):
        five.check()


def test_a_card_says_when_its_values_were_published_for_another_size(tiny) -> None:
    options = {"loop.iterations": 1, "networks.arch": "ConvNetD2W8", "networks.width": None}
    recipe = replace(resolve("dm", options=options), published_ipc=2)
    said = {
        n: distill(recipe, tiny.train, data=tiny, ipc=n, seed=0).card.deviations for n in (1, 2)
    }
    assert any("those for 2 images per class" in d for d in said[1])
    assert [d for d in said[2] if "images per class" in d] == [ONE_STEP]
