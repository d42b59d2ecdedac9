"""The ``leakage`` auditor: does a distilled set contain its training records?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.attacks._common.features import exact_copies
from ddaudit.attacks._common.nonmembers import held_out, made_of_ours
from ddaudit.attacks._common.pictures import mosaic
from ddaudit.attacks._common.records import join
from ddaudit.attacks.leakage.copies import (
    FALSE_ALARM,
    FEWEST,
    CopyTest,
    chance_ratios,
    contrast_normalised,
    copy_test,
    luck,
)
from ddaudit.auditing import Auditor, Context, Settings, Shared, Subject, auditor
from ddaudit.data import ImageData
from ddaudit.distillation.networks import fit
from ddaudit.errors import Unsupported
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo, Picture
from ddaudit.models import Arch, Network
from ddaudit.sets import Card
from ddaudit.stats import bootstrap, clopper_pearson
from ddaudit.training import features

SPACES = ("pixels", "structure", "features")
_RARE = 1e-3
"""At most so rarely a sound instrument fails its own test."""
_FAR = 1e6
"""A ratio that stands for an infinite one."""


class LeakageSettings(Settings):
    """How many images are examined, and what the report shows."""

    images: int = Field(default=2000, ge=1)
    """At most this many released images (a fixed random sample of larger sets)."""
    nonmembers: int = Field(default=2000, ge=20)
    """At most this many held-out records that set the threshold."""
    pairs: int = Field(default=12, ge=0)
    """Pairs in the picture; 0 keeps real records out of the report."""


@auditor
class Leakage(Auditor[LeakageSettings]):
    """Nearest-copy test of every released image, in three spaces."""

    name = "leakage"
    title = "Training-record leakage"
    need = "Fewer copied records"
    question = (
        "Does the distilled set simply contain real records, or images so close to one that "
        "somebody who looks at the set sees that record?"
    )
    threat_model = (
        "Anybody who can open the distilled set. No recipe, no network and no computing is "
        "needed: a copied record is visible to the eye."
    )
    how_to_read = (
        "The copy rate is the share of released images that lie much closer to one training "
        "record than unrelated real images ever do: 0 is good, 1 means that the set is a "
        "collection of real records; by chance alone it stays below 0.01. The nearest ratio "
        "compares the distance to the nearest training record with that to the nearest record "
        "the set has never seen: about 1 is good, 0 is a copy, values like 0.6 mean images that "
        "started as real records. A tiny p-value says that the set as a whole leans towards its "
        "training records; that alone is expected of any set made from them, and is only "
        "alarming together with a low ratio."
    )
    sources = (
        "Chen et al., GAN-Leaks, CCS 2020 (distance attacks and their calibration)",
        "Carlini et al., Extracting Training Data from Diffusion Models, USENIX Security 2023 "
        "(near-copies by relative distance)",
        "Dong, Zhao and Lyu, Privacy for Free, ICML 2022 (real-image initialisation leaks)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "leakage.copy_rate", "lower",
            "released images that are nearer to a training record than held-out records ever are",
        ),
        MetricInfo("leakage.exact_copy_rate", "lower", "released images that equal a training record"),
        MetricInfo(
            "leakage.held_out_copy_rate", "lower",
            "released images that equal a validation or test record, and no training record",
        ),
        MetricInfo(
            "leakage.nearest_ratio", "higher",
            "median distance to the nearest training record over that to the nearest held-out one", unit="ratio",
        ),
        MetricInfo(
            "leakage.p_value", "higher",
            "chance of so many near copies if none was copied", unit="probability",
        ),
    )  # fmt: skip
    version = 6
    settings = LeakageSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 500, "nonmembers": 500},
        "standard": {"images": 2000, "nonmembers": 2000},
        "full": {"images": 10_000, "nonmembers": 10_000},
    }

    def __init__(self) -> None:
        # Training and held-out records are the same for every subject of an audit.
        self._shared = Shared()

    def run(self, subject: Subject, ctx: Context, settings: LeakageSettings, seed: int) -> Finding:
        """Compare the released images with training and held-out records."""
        released = ctx.distilled(subject, seed)
        images, sampled = _sample(released.images, settings.images, ctx)
        ours = subject.recipe is not None or made_of_ours(released, ctx)
        bench = self._bench(ctx, settings, ours=ours)
        tests = {space: bench.test(space, images) for space in SPACES}
        metrics = [m for space in SPACES for m in _metrics(space, tests[space])]
        pixels = tests["pixels"]
        exact = exact_copies(pixels.to_train, pixels=images[0].numel())
        metrics.append(_rate("leakage.exact_copy_rate", exact, {}, floor=0.0))
        strange = exact_copies(pixels.to_holdout, pixels=images[0].numel()) & ~exact
        metrics.append(_rate("leakage.held_out_copy_rate", strange, {}, floor=0.0))
        finding = Finding(
            subject=subject.id,
            auditor=self.name,
            metrics=metrics,
            curves=[_curve(space, tests[space]) for space in SPACES],
            caveats=_caveats(released.card, ctx, bench, sampled, len(images)),
        )
        if settings.pairs > 0 and ctx.data.modality == "image":
            nearest = bench.train.pixels(pixels.train_index)
            finding.images.append(
                closest_pairs(images, nearest, pixels.ratio, pairs=settings.pairs)
            )
        return finding

    def warning(self, finding: Finding) -> str:
        """Records that anybody can see in the set."""
        for name, records in (("exact", "training"), ("held_out", "validation or test")):
            found = [m.value for m in finding.metrics if m.name == f"leakage.{name}_copy_rate"]
            share = found[0] if found else 0.0
            if share == 1.0:
                return f"every released image is a verbatim copy of a {records} record."
            if share:
                return (
                    f"{share:.2%} of the released images are verbatim copies of {records} records."
                )
        return ""

    def checks(self, ctx: Context, settings: LeakageSettings) -> list[Check]:
        """Sets whose copy rate is known: training copies, held-out records, noise."""
        bench = self._bench(ctx, settings, ours=True)
        g = ctx.generator("leakage", "checks")
        count = min(100, len(bench.train))
        copies = bench.train.pixels(torch.randperm(len(bench.train), generator=g)[:count])
        noise = torch.rand(copies.shape, generator=g)
        return [
            _check(bench, "a set of training copies", copies, low=1.0, high=1.0),
            *_strangers(bench, settings.nonmembers, g),
            _check(bench, "a set of noise", noise, low=0.0, high=0.0),
        ]

    def _bench(self, ctx: Context, settings: LeakageSettings, *, ours: bool) -> _Bench:
        return self._shared.once(ctx, (settings, ours), lambda: _make_bench(ctx, settings, ours))


@dataclass(frozen=True, eq=False)
class _Bench:
    """Training and held-out records in every space, with the ratios of non-members."""

    train: ImageData
    holdout: ImageData
    network: Network
    rows: dict[str, tuple[Tensor, Tensor]]
    by_chance: dict[str, Tensor]
    caveats: list[str]

    @property
    def halves(self) -> bool:
        """Whether one half of the held-out records can pose as a set beside the other."""
        return len(self.holdout) // 2 >= FEWEST

    def test(self, space: str, images: Tensor) -> CopyTest:
        train, holdout = self.rows[space]
        rows = _view(space, images, self.network)
        return copy_test(rows, train, holdout, self.by_chance[space])


def _make_bench(ctx: Context, settings: LeakageSettings, ours: bool) -> _Bench:
    held = held_out(ctx, labels=False, ours=ours)
    # A copy of a validation record in others' sets is a copy of what they were made from.
    known = join(ctx.data.train, ctx.data.validation) if held.foreign else ctx.data.train
    if len(held.records) < FEWEST:
        raise Unsupported(
            f"needs {FEWEST} held-out records to know what is near by chance, there are "
            f"{len(held.records)}"
        )
    # Narrow: all records must pass through it, and copies need no width.
    narrow = fit(Arch("convnet", width=16), ctx.data.shape)
    network = ctx.random_network("leakage", "random network", arch=narrow)
    train, holdout = known.pixels(), held.records.pixels()
    rows = {s: (_view(s, train, network), _view(s, holdout, network)) for s in SPACES}
    by_chance = {
        space: chance_ratios(
            *rows[space],
            generator=ctx.generator("leakage", "strangers"),  # the same records in every space
            limit=settings.nonmembers,
        )
        for space in SPACES
    }
    return _Bench(known, held.records, network, rows, by_chance, held.caveats())


def _view(space: str, images: Tensor, network: Network) -> Tensor:
    """(N, D) float32 rows of the images in a space."""
    if space == "pixels":
        return images.flatten(1)
    if space == "structure":
        return contrast_normalised(images)
    return features(network, images)


def _sample(images: Tensor, limit: int, ctx: Context) -> tuple[Tensor, bool]:
    if len(images) <= limit:
        return images, False
    order = torch.randperm(len(images), generator=ctx.generator("leakage", "sample"))
    return images[torch.sort(order[:limit]).values], True


def closest_pairs(released: Tensor, nearest: Tensor, ratio: Tensor, *, pairs: int = 12) -> Picture:
    """The pairs with the smallest ratio, most suspicious first, in reading order.

    Args:
        released: (M, C, H, W) released images, pixel space (clipped to [0, 1] for display).
        nearest: (M, C, H, W) the nearest training record of each, pixels in [0, 1].
        ratio: (M,) distance to training over distance to held-out records.
        pairs: at most this many.

    Returns:
        A PNG. Its right halves are real training records: handle it like the data.
    """
    order = torch.argsort(ratio, stable=True)[:pairs].tolist()
    smallest = ", ".join(f"{float(ratio[i]):.2f}" for i in order[:4])
    return Picture(
        name="closest pairs",
        caption=(
            "Each pair: a released image (left) and the training record nearest to it (right), the "
            f"most suspicious pairs first (ratios {smallest}, ...). The right images are real "
            "records: do not publish this picture if the training data are confidential."
        ),
        png_base64=mosaic([[released[i], nearest[i]] for i in order], columns=4),
    )


def _metrics(space: str, test: CopyTest) -> list[Metric]:
    params = {"space": space}
    finite = test.ratio.clamp(max=_FAR)
    median = bootstrap(finite, lambda r: r.quantile(0.5, dim=1), n_boot=500)
    main = space == "pixels"
    nearest = Metric.of(
        "leakage.nearest_ratio",
        median,
        unit="ratio",
        direction="higher",
        floor=float(test.chance_ratio.clamp(max=_FAR).median()),
        params=params,
        headline=main,
    )
    # Most images are held-out records: a distance of 0 to those says nothing about training.
    if median.value >= _FAR:
        nearest = nearest.model_copy(update={"value": None, "low": None, "high": None})
    return [
        _rate("leakage.copy_rate", test.near, params, floor=FALSE_ALARM, headline=main),
        nearest,
        Metric(
            name="leakage.p_value",
            value=test.p_value,
            n=len(finite),
            unit="probability",
            direction="higher",
            params=params,
        ),
    ]


def _rate(
    name: str, hits: Tensor, params: dict[str, str], *, floor: float, headline: bool = False
) -> Metric:
    rate = clopper_pearson(int(hits.sum()), len(hits))
    return Metric.of(
        name,
        rate,
        direction="lower",
        floor=floor,
        params=params,
        headline=headline,
    )


def _curve(space: str, test: CopyTest) -> Curve:
    """Share of released images below each ratio, at most 100 points."""
    ratio = torch.sort(test.ratio.clamp(max=2.0)).values
    share = torch.arange(1, len(ratio) + 1, dtype=torch.float64) / len(ratio)
    keep = torch.unique(torch.linspace(0, len(ratio) - 1, min(100, len(ratio))).round().long())
    return Curve(
        plot="nearest ratio",
        label=space,
        x=ratio[keep].tolist(),
        y=share[keep].tolist(),
        kind="step",
        x_label="distance to training / distance to held-out (0 = copy, about 1 = no copy)",
        y_label="share of released images below",
    )


def _check(bench: _Bench, name: str, images: Tensor, *, low: float, high: float) -> Check:
    rates = [float(bench.test(space, images).near.double().mean()) for space in SPACES]
    value = min(rates) if low > 0.5 else max(rates)
    return Check(
        name=name,
        passed=low <= value <= high,
        value=value,
        expected=f"copy rate {low:g} in every space",
        detail=", ".join(f"{s} {r:.3f}" for s, r in zip(SPACES, rates, strict=True)),
        affects=["leakage.copy_rate", "leakage.nearest_ratio"],
    )


def _strangers(bench: _Bench, limit: int, generator: torch.Generator) -> list[Check]:
    """A set of held-out records, which the other half of them stands beside: as few are called copies as promised.

    Records that training holds too are left out: they are copies. With few held-out records there is no such half.
    Records are taken as independent: where they come in bursts (frames of a film), it fails more often than it says.
    """
    if not bench.halves:
        return []
    order = torch.randperm(len(bench.holdout), generator=generator)
    posing, known = order[: len(order) // 2][:limit], order[len(order) // 2 :]
    rates, chances = [], []
    for space in SPACES:
        train, holdout = bench.rows[space]
        by_chance = chance_ratios(train, holdout[known], generator=generator, limit=limit)
        test = copy_test(holdout[posing], train, holdout[known], by_chance)
        near = test.near[test.to_train > 0]
        rates.append(float(near.double().mean()) if len(near) else 0.0)
        chances.append(luck(int(near.sum()), len(near), strangers=len(by_chance)))
    p = min(1.0, len(SPACES) * min(chances))
    return [
        Check(
            name="a set of held-out records",
            passed=p > _RARE,
            value=max(rates),
            expected=f"copy rate {FALSE_ALARM:g} in every space, up to luck",
            detail=", ".join(f"{s} {r:.3f}" for s, r in zip(SPACES, rates, strict=True)),
            affects=["leakage.copy_rate", "leakage.nearest_ratio"],
            p_value=p,
            level=_RARE,
        )
    ]


def _caveats(card: Card, ctx: Context, bench: _Bench, sampled: bool, count: int) -> list[str]:
    caveats: list[str] = [*bench.caveats]
    source = card.source_fingerprint
    if not bench.halves:
        caveats.append(
            f"The {len(bench.holdout)} held-out records are too few to check the instrument on a set of half of them."
        )
    if card.shows_records:
        text = "The card says that images hold pixels of real records as they are."
        caveats.append(Caveat(text, "setup", 1))
    if sampled:
        caveats.append(f"The set is larger than what was examined: a random {count} of its images.")
    if source is not None and source != ctx.data.train.fingerprint:
        caveats.append(
            f"The set says it was made from other data (fingerprint {source}, ours is "
            f"{ctx.data.train.fingerprint}): copies of records we do not have stay unseen."
        )
    caveats += [
        Caveat(
            "Crops, mirror images, negatives and larger shifts of a record are not searched for. A clean "
            "reading here says nothing about what a trained network or a statistic can extract (see "
            "membership).",
            rank=2,
        ),
        "The p-value counts distinct nearest records and assumes nothing but that training and "
        "held-out records are exchangeable; a set made from the training data leans towards them "
        "even without copying.",
    ]
    return caveats
