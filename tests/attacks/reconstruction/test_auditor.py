"""The reconstruction auditor end to end: sets that hold the record, sets that do not, and broken attacks."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddaudit.attacks.reconstruction import known_answers
from ddaudit.attacks.reconstruction.attacks import ReconstructionSettings, class_rule, pick_targets
from ddaudit.attacks.reconstruction.auditor import Reconstruction, triples
from ddaudit.auditing import AUDITORS, PRESETS, Context, Subject, stratified
from ddaudit.data import Dataset, load_data
from ddaudit.distillation import resolve
from ddaudit.distillation.targets import Reduced
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Finding
from ddaudit.models import Arch, build
from ddaudit.sets import Card, DistilledSet

AUDIT = Reconstruction()


@pytest.fixture(scope="module")
def ctx(tiny: Dataset) -> Context:
    return Context(data=tiny, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=4)


def _settings(**change: Any) -> ReconstructionSettings:
    small = {"targets": 8, "pool": 80, "networks": 6, "steps": 60, "releases": 20, "pairs": 0}
    return AUDIT.configure("quick", {**small, **change})


def _recipe(name: str, **options: object) -> Subject:
    recipe = resolve(name, profile="small", options=options)
    return Subject(id=name, kind="recipe", recipe=recipe, identity=name)


def _value(found: Finding, name: str, adversary: str = "final-set") -> float:
    value = found.metric(f"reconstruction.{name}", adversary=adversary).value
    assert value is not None
    return value


def test_it_is_registered() -> None:
    assert type(AUDITORS.get("reconstruction")).__name__ == "Reconstruction"


def test_the_whole_training_set_gives_every_record_away(ctx: Context) -> None:
    found = AUDIT.run(_recipe("full"), ctx, _settings(), 0)
    assert _value(found, "success_rate") == 1.0
    assert _value(found, "distance_ratio") == pytest.approx(1e-3)
    rate = found.metric("reconstruction.success_rate")
    # Clopper and Pearson for 8 of 8: 0.025 ** (1 / 8).
    assert rate.low == pytest.approx(0.025 ** (1 / 8))
    assert (rate.n, rate.headline, rate.direction) == (8, True, "lower")
    assert rate.floor is not None
    assert rate.floor <= 0.5
    with pytest.raises(KeyError):
        found.metric("reconstruction.success_rate", adversary="intermediate")
    assert [c.label for c in found.curves] == ["final-set", "final-set, record left out"]
    assert Finding.model_validate_json(found.model_dump_json()) == found


def test_a_random_subset_gives_its_own_records_away(ctx: Context) -> None:
    """4 of 20 records of a class are in the set; which of 8 targets are is the toss of a coin."""
    found = AUDIT.run(_recipe("random"), ctx, _settings(steps=1), 0)
    ratio = torch.tensor(found.curves[0].x)
    inside = int((ratio <= 1e-3).sum())
    assert 0 < inside < 8
    assert not bool((torch.tensor(found.curves[1].x) <= 1e-3).any())


def test_class_means_of_a_distilled_set_give_records_away() -> None:
    """DM on 10 records a class: the difference of means is the record. With it left out nothing is found."""
    digits = load_data("digits")
    ctx = Context(data=digits, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=5)
    subject = _recipe("dm", **{"loop.iterations": 120})
    settings = _settings(targets=10, pool=100, networks=12, steps=80)
    found = AUDIT.run(subject, ctx, settings, 0)
    rate = found.metric("reconstruction.success_rate")
    assert rate.value is not None
    assert rate.floor is not None
    # Of 10: at least 8 with the records, at most 3 without (a sound control has more in 1 of 100).
    assert rate.value >= 0.8
    assert rate.floor <= 0.3
    ratio = found.metric("reconstruction.distance_ratio")
    assert ratio.high is not None
    assert ratio.floor is not None
    assert ratio.high < 0.9 < ratio.floor
    assert any("10 records in a set made from 100 (10 a class)" in c for c in found.caveats)


def test_a_private_recipe_is_attacked_where_its_proof_looks(ctx: Context) -> None:
    options = {"loop.iterations": 30, "networks.width": 16, "reader.noise_seed": 1}
    subject = _recipe("ndpdc", **options, **{"reader.epsilon": 1.0})
    found = AUDIT.run(subject, ctx, _settings(pairs=4), 0)
    assert 0.9 < _value(found, "distance_ratio", "intermediate") < 1.1
    assert any("used 20 of 30 noisy releases" in c for c in found.caveats)
    assert any("(epsilon 0.9" in c and "at most 2." in c for c in found.caveats)
    assert [p.name for p in found.images] == [
        "reconstructions, final-set",
        "reconstructions, intermediate",
    ]
    assert {m.params["adversary"] for m in found.metrics} == {"final-set", "intermediate"}
    assert sum(m.headline for m in found.metrics) == 1


def test_fair_rows_are_the_ones_attacked(ctx: Context) -> None:
    rule = class_rule(resolve("fairdd-dm").target, ctx.data.train)
    assert type(rule).__name__ == "Barycentre"
    assert type(class_rule(resolve("psg").target, ctx.data.train)).__name__ == "ByClass"
    for name in (
        "dm+group-dro",
        "dm+density+group-dro",
    ):  # counts the worst row; a clue is about each
        assert not isinstance(class_rule(resolve(name).target, ctx.data.train), Reduced)
    assert type(class_rule(None, ctx.data.train)).__name__ == "ByClass"


def _file(images: Tensor, labels: Tensor, classes: int, **card: Any) -> Subject:
    return Subject(id="file", kind="file", set=DistilledSet(images, labels, classes, Card(**card)))


def test_a_file_is_attacked_as_it_is(ctx: Context) -> None:
    train = ctx.data.train
    found = AUDIT.run(
        _file(train.pixels(), train.labels, 4, source_fingerprint=train.fingerprint),
        ctx,
        _settings(pairs=2),
        0,
    )
    assert _value(found, "success_rate") == 1.0
    floor = found.metric("reconstruction.success_rate").floor
    assert floor is not None
    assert floor <= 0.5
    assert any("held-out records" in c for c in found.caveats)
    assert len(found.images) == 1


def test_files_of_other_data_and_checkpoints_are_not_supported(ctx: Context) -> None:
    train = ctx.data.train
    other = _file(train.pixels(), train.labels, 4, source_fingerprint="f" * 16)
    with pytest.raises(Unsupported, match="other data"):
        AUDIT.run(other, ctx, _settings(), 0)
    net = build(ctx.arch, shape=(3, 8, 8), num_classes=4, seed=0, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(Unsupported, match="before training"):
        AUDIT.run(Subject(id="c", kind="checkpoint", network=net), ctx, _settings(), 0)


def test_too_few_records_are_not_supported(tiny: Dataset) -> None:
    few = replace(tiny, train=tiny.train.subset(torch.arange(12)))
    ctx = Context(data=few, preset=PRESETS["quick"], arch=Arch.parse("ConvNetD2W32"), ipc=1)
    with pytest.raises(Unsupported, match="12 records are too few"):
        AUDIT.run(_recipe("full"), ctx, _settings(), 0)


def test_targets_are_spread_over_the_classes_that_can_spare_them(tiny: Dataset) -> None:
    pool = tiny.train
    keep = (pool.labels != 3) | (torch.arange(len(pool)) < 8)  # two records of class 3
    pool = pool.subset(keep)
    everyone = torch.ones(len(pool), dtype=torch.bool)
    picked = pick_targets(pool, everyone, 9, torch.Generator().manual_seed(0))
    assert torch.bincount(pool.labels[picked], minlength=4).tolist() == [3, 3, 3, 0]
    half = torch.arange(len(pool)) < 90
    picked = pick_targets(pool, half, 100, torch.Generator().manual_seed(0))
    assert len(picked) == 9
    assert int(picked.max()) < 90


def test_checks_pass(ctx: Context) -> None:
    checks = AUDIT.checks(ctx, _settings())
    assert [c.name for c in checks if not c.passed] == []
    assert len(checks) == 4
    assert all(c.subject is None for c in checks)


def _half(ctx: Context) -> Any:
    pool = stratified(ctx.data.train, 80)
    everyone = torch.ones(len(pool), dtype=torch.bool)
    targets = pick_targets(pool, everyone, 8, torch.Generator().manual_seed(0))
    return known_answers.Case(pool, everyone, targets)


def test_an_attack_that_does_nothing_or_peeks_fails_its_checks(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _half(ctx)
    networks = [known_answers.small_network(case.pool, seed=0)]
    monkeypatch.setattr(known_answers, "invert", lambda clues, prior, **_: prior.means)
    assert not known_answers.exact_sums(case).passed
    assert [c.passed for c in known_answers.whole_pool(case, networks)] == [False, True]
    monkeypatch.setattr(known_answers, "invert", lambda clues, prior, **_: case.truth)
    assert not known_answers.drowned_sums(case).passed
    assert [c.passed for c in known_answers.whole_pool(case, networks)] == [True, False]


def test_the_picture_shows_triples_closest_first() -> None:
    def grey(*values: float) -> Tensor:
        return torch.stack([torch.full((1, 4, 4), v) for v in values])

    picture = triples(grey(0.0, 1.0), grey(0.6, 0.8), grey(0.4, 0.2), name="x", most=2)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.png_base64))))
    assert shown.shape == (56, 2 * (3 * 56 + 2 * 2) + 14, 3)
    middle = [shown[28, 28 + 58 * i, 0] for i in range(3)]
    assert middle == [255, 204, 51]
    second = [shown[28, 186 + 28 + 58 * i, 0] for i in range(3)]
    assert second == [0, 153, 102]
    assert "do not publish" in picture.caption


def test_presets_only_shrink_and_nonsense_is_refused() -> None:
    quick, standard, full = (AUDIT.configure(p) for p in ("quick", "standard", "full"))
    assert quick.steps < standard.steps < full.steps
    assert quick.pool == standard.pool == full.pool
    for bad in ({"targets": 1}, {"pool": 3}, {"starts": 0}, {"unknown": 1}):
        with pytest.raises(BadInput, match=r"reconstruction\.\w+"):
            AUDIT.configure("quick", bad)


def test_a_recipe_that_ran_on_evened_records_says_so(ctx: Context) -> None:
    for where, said in ((replace(ctx, data=load_data("digits-lt")), True), (ctx, False)):
        found = AUDIT.run(_recipe("random"), where, _settings(), 0)
        assert any("as even as they come" in str(c) for c in found.caveats) is said
