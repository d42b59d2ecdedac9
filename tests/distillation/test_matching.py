"""The matching loop: what it converges to, what it may see, what K runs at once share."""

from dataclasses import replace

import pytest
import torch

from ddaudit.distillation import distill, distill_many, resolve
from ddaudit.distillation.loops import Job
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.parts import Canvas
from ddaudit.distillation.schedules import DC_LOOPS
from ddaudit.distillation.synthesis import labels_of
from ddaudit.errors import BadInput, DDAuditError

FAST = {"loop.iterations": 8, "networks.arch": "ConvNetD2W8", "networks.width": None}


def fast(name, **options):
    return resolve(
        name,
        profile="small",
        options={**FAST, **{k.replace("__", "."): v for k, v in options.items()}},
    )


def test_dm_reduces_the_distance_it_matches(tiny):
    """Known answer: on held-out networks the class means of S come closer to those of T."""
    from ddaudit.distillation.networks import Fresh

    recipe = resolve(
        "dm",
        profile="small",
        options={"loop.iterations": 60, "synthesis.init": "noise", "networks.width": 16},
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (tiny.mean, tiny.std))
    start = distill(
        replace(recipe, loop=replace(recipe.loop, iterations=1, lr=1e-9)),
        tiny.train,
        data=tiny,
        ipc=2,
        seed=0,
    )
    end = distill(recipe, tiny.train, data=tiny, ipc=2, seed=0)

    def gap(made):
        total = 0.0
        for seed in (900, 901, 902):
            net = Fresh("ConvNetD2W16").make(
                shape=tiny.shape, num_classes=4, seed=seed, device=torch.device("cpu")
            )
            with torch.no_grad():
                for c in range(4):
                    real = net.body.features(
                        (tiny.train.pixels(tiny.train.labels == c) - mean) / std
                    ).mean(0)
                    fake = net.body.features((made.images[made.labels == c] - mean) / std).mean(0)
                    total += float((real - fake).square().sum())
        return total

    assert gap(end) < 0.3 * gap(start)


def test_every_method_runs_and_is_repeatable(tiny):
    experts = {"networks__count": 1, "networks__epochs": 1}
    plain = ("dm", "dc", "dsa", "fairdd-dm", "dm+fair", "datadam", "m3d", "lqm", "lqm+fair")
    for name in (*plain, "ncfm+fair", "ncfm-minmax"):
        options = {"synthesis__factor": 1, **({} if name in plain else experts)}
        recipe = fast(name, loop__iterations=2, **options)
        a, b = (distill(recipe, tiny.train, data=tiny, ipc=2, seed=3) for _ in range(2))
        assert torch.equal(a.images, b.images)
        assert a.images.shape == (8, 3, 8, 8)
        assert a.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert a.card.method == name
        assert a.card.source_fingerprint == tiny.train.fingerprint


def test_a_shadow_does_not_see_records_outside_its_subset(tiny):
    """Change one record: exactly the runs that may see it change."""
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(0)) < 0.5
    record = int((members[0] & ~members[1]).nonzero()[0])
    changed = replace(tiny.train, images=tiny.train.images.clone())
    changed.images[record] = 255 - changed.images[record]
    for name in ("dm", "dm+fair", "datadam", "lqm", "m3d"):
        recipe = fast(name, synthesis__init="noise", synthesis__factor=1, reader__per_class=1000)
        before, after = (
            distill_many(recipe, d, members, data=tiny, ipc=1, seed=0)
            for d in (tiny.train, changed)
        )
        same = [torch.equal(a.images, b.images) for a, b in zip(before, after, strict=True)]
        assert same == [not bool(m) for m in members[:, record]]


def test_shared_runs_equal_single_runs_when_every_record_is_used(tiny):
    """With full batches nothing but W differs between shared and separate shadow distillation."""
    members = torch.rand(3, len(tiny.train), generator=torch.Generator().manual_seed(1)) < 0.5
    recipe = fast("dm", reader__per_class=1000)
    starts = torch.randn(1, 4, *tiny.shape, generator=torch.Generator().manual_seed(2)).repeat(
        3, 1, 1, 1, 1
    )
    still = replace(recipe, synthesis=_FixedStart(starts))
    together = distill_many(still, tiny.train, members, data=tiny, ipc=1, seed=0)
    alone = [
        distill_many(
            replace(still, synthesis=_FixedStart(starts[:1])),
            tiny.train,
            m[None],
            data=tiny,
            ipc=1,
            seed=0,
        )[0]
        for m in members
    ]
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.images, b.images, atol=1e-4)
    assert not torch.allclose(together[0].images, together[1].images, atol=1e-4)


def test_gradient_matching_falls_back_to_one_run_at_a_time(tiny):
    members = torch.ones(2, len(tiny.train), dtype=torch.bool)
    recipe = fast("dc", loop__iterations=1, loop__outer=2, loop__inner=1)
    assert not recipe.loop.shareable(recipe, 1)
    sets = distill_many(recipe, tiny.train, members, data=tiny, ipc=1, seed=0)
    assert len(sets) == 2
    with pytest.raises(DDAuditError, match="several runs at once"):
        recipe.loop.run(recipe, Job(tiny.train, members, tiny, 1, 0, torch.device("cpu")))


def test_dc_loops_are_the_published_table():
    loop = Matching(iterations=1000, outer=None, inner=None)
    got = {ipc: (loop.schedule(ipc).outer, loop.schedule(ipc).inner) for ipc in DC_LOOPS}
    assert got == {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    assert loop.queries(10) == 10_000


def test_small_profile_lists_every_deviation(tiny):
    made = distill(fast("dm", loop__iterations=1), tiny.train, data=tiny, ipc=1, seed=0)
    assert "loop.iterations = 1 (source: 20000)" in made.card.deviations
    assert "loop.lr = 5.0 (source: 1.0)" in made.card.deviations
    private = resolve("dm+dp", profile="small")
    # The defense brings its own reader and step, so those of the small profile are no deviations of it.
    assert not [d for d in private.deviations if d.startswith(("loop.lr", "reader"))]


def test_bad_options_are_one_line(tiny):
    with pytest.raises(BadInput, match="no option 'itertions' in Matching"):
        resolve("dm", options={"loop.itertions": 3})
    with pytest.raises(BadInput, match="is not a number"):
        resolve("dm", options={"loop.lr": "fast"})
    with pytest.raises(BadInput, match="is not a whole number"):
        resolve("dm", options={"loop.iterations": "2.5"})
    assert resolve("dm", options={"loop.iterations": "1e3"}).loop.iterations == 1000
    with pytest.raises(BadInput, match=r"loop\.outer"):
        resolve("dc", options={"loop.outer": "0"})
    with pytest.raises(BadInput, match="at least 1"):
        distill(fast("dm"), tiny.train, data=tiny, ipc=0, seed=0)
    with pytest.raises(DDAuditError, match="diverged"):
        distill(fast("dm", loop__lr=1e30), tiny.train, data=tiny, ipc=1, seed=0)


def test_composition_does_not_depend_on_order():
    a, b = resolve("dm+fair+dp"), resolve("dm+dp+fair")
    assert a == b
    assert a.name == "dm+fair+dp"
    with pytest.raises(BadInput, match="names 'fair' more than once"):
        resolve("dm+fair+fair")


class _FixedStart:
    """A synthesis that starts where the test says."""

    init = "noise"

    def __init__(self, start):
        self._start = start

    parallel = True

    def start(self, given):
        x = self._start.clone().requires_grad_(True)
        return Canvas([x], labels_of(given.data.num_classes, given.ipc), lambda: x)
