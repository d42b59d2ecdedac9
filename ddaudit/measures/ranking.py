"""DD-Ranking's scores on fractions: what a set gains over random records, and what its labels alone bring.

Source: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025, arXiv 2505.13300, and its
package ``ddranking`` 0.2.0. Two things differ from the package: accuracies are fractions in [0, 1] here (the package
exponentiates differences of percents, which leaves the range that its score is normalised to), and every network is
trained once, with fixed values, where the package picks learning rate and epoch by test accuracy.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ddaudit.auditing import Context, Subject, missing_part, recipe_subject
from ddaudit.distillation import resolve
from ddaudit.distillation.learned import LearnedLabels
from ddaudit.distillation.loops import LabelWriter
from ddaudit.distillation.selection import random_choice
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Metric, MetricInfo
from ddaudit.measures._common import correct, hits
from ddaudit.sets import Card, DistilledSet, fingerprint
from ddaudit.stats import Interval, crossed_difference, crossed_rate
from ddaudit.training import EvaluationProtocol

WEIGHT = 0.5
"""Of the gain over random records against the loss to full data (LRS), and of augmented training (ARS)."""

METRICS = (
    MetricInfo(
        "utility.hlr", "lower", "accuracy lost to the full data with hard labels (HLR of DD-Ranking)", signed=True,
    ),
    MetricInfo(
        "utility.random_accuracy", "none",
        "what IOR compares with: as many random records, with the same teachers' labels, or the same labels",
    ),
    MetricInfo(
        "utility.ior", "higher", "accuracy gained over random records, trained alike (IOR of DD-Ranking)", signed=True,
    ),
    MetricInfo("utility.lrs", "higher", "label-robust score: both in one, 1 is best (LRS of DD-Ranking)"),
    MetricInfo("utility.ars", "higher", "augmentation-robust score, 1 is best (ARS of DD-Ranking)"),
)  # fmt: skip


def normalised(difference: float) -> float:
    """A weighted difference of accuracies in [-1, 1] as a score in [0, 1]: (e^x - e^-1) / (e - e^-1)."""
    least, most = math.exp(-1), math.exp(1)
    return (math.exp(difference) - least) / (most - least)


def label_robust_score(hlr: float, ior: float, weight: float = WEIGHT) -> float:
    """LRS of accuracies that are fractions.

    Args:
        hlr: accuracy of the full data less that of the set, both with hard labels, in [-1, 1].
        ior: accuracy of the set less that of as many random records, trained alike, in [-1, 1].
        weight: of ``ior``, in [0, 1].
    """
    return normalised(weight * ior - (1 - weight) * hlr)


def augmentation_robust_score(augmented: float, plain: float, weight: float = WEIGHT) -> float:
    """ARS of gains over random records that are fractions.

    Args:
        augmented, plain: accuracy of the set less that of as many random records, with and without augmentation.
        weight: of ``augmented``, in [0, 1].
    """
    return normalised(weight * augmented + (1 - weight) * plain)


def ranking(
    subject: Subject, soft: Tensor, hard: Tensor, ctx: Context, seed: int
) -> tuple[list[Metric], list[str]]:
    """HLR, IOR, LRS and ARS of a set, and caveats.

    Networks of the full data and of random records are those of the audit's own rows, where it has them.

    Args:
        subject: with a set.
        soft: (V, N) 1 where a victim trained on the set as it is was right on a test image.
        hard: the same of networks trained with its hard labels.

    Raises:
        Unsupported: no class-balanced random subset has the set's size.
    """
    distilled = ctx.distilled(subject, seed)
    ipc, rest = divmod(len(distilled), ctx.data.num_classes)
    if rest:
        raise Unsupported("its size is no multiple of the classes: no random subset is as large")
    same = replace(ctx, ipc=ipc)
    chance, audit = _chance(subject, distilled, same, seed), ctx.protocol
    random = same.distilled(chance, seed)
    protocol, caveats = _own(distilled, random, ctx)

    def trained(made: DistilledSet, how: EvaluationProtocol) -> Tensor:
        if made is distilled and how.key == audit.key:
            return soft
        if made is random:
            return correct(same, chance, seed, protocol=how)
        return _trained(made, ctx, seed, how)

    best = correct(ctx, _baseline("full", ctx), seed, protocol=audit)
    own, drawn = trained(distilled, protocol), trained(random, protocol)
    by = {"protocol": protocol.name}
    both = WEIGHT * (own - drawn) - (1 - WEIGHT) * (best - hard)
    metrics = [
        Metric.of("utility.hlr", _difference(best - hard), direction="lower"),
        Metric.of("utility.random_accuracy", crossed_rate(drawn), direction="none", params=by),
        Metric.of("utility.ior", _difference(own - drawn), direction="higher", params=by),
        Metric.of("utility.lrs", _score(both), direction="higher", params=by),
    ]
    plain = replace(audit, augment="")
    if plain.key != audit.key:
        gains = [trained(distilled, how) - trained(random, how) for how in (audit, plain)]
        mixed = WEIGHT * gains[0] + (1 - WEIGHT) * gains[1]
        metrics.append(Metric.of("utility.ars", _score(mixed), direction="higher"))
    return metrics, caveats


def with_hard_labels(distilled: DistilledSet, ctx: Context, seed: int) -> Tensor:
    """(V, N) of networks trained under the audit's protocol on the most likely class of each image."""
    hard = replace(distilled, labels=distilled.hard_labels, store=None)
    return _trained(hard, ctx, seed, ctx.protocol)


def _own(
    distilled: DistilledSet, random: DistilledSet, ctx: Context
) -> tuple[EvaluationProtocol, list[str]]:
    """The method's own protocol where random records can be trained by it too, else the audit's."""
    try:
        stated = ctx.stated_protocol(distilled)
    except BadInput:
        return ctx.protocol, []
    if not (missing_part(stated, random) or missing_part(stated, distilled)):
        return stated, []
    return ctx.protocol, [
        "IOR and LRS are under the audit's protocol: random records cannot be trained by the set's "
        f"own, '{stated.name}'."
    ]


def _trained(made: DistilledSet, ctx: Context, seed: int, protocol: EvaluationProtocol) -> Tensor:
    """(V, N) of networks trained on a set with the seeds of its victims."""
    seeds = [ctx.seed_for("victim", seed, i) for i in range(ctx.preset.victims)]
    return hits(ctx.train([made] * len(seeds), seeds=seeds, protocol=protocol), ctx)


def _chance(subject: Subject, distilled: DistilledSet, ctx: Context, seed: int) -> Subject:
    """Random records; where a recipe's teachers write its labels, with labels by the same teachers and part; of other
    soft labels (learned ones, those of a file), each with the label of an image of its class.

    Source: the control of "Are Hard Truths about Soft Labels", CVPR 2026, arXiv 2604.18811.
    """
    chance, recipe = _baseline("random", ctx), subject.recipe
    if recipe is None or isinstance(recipe.labels, LearnedLabels):
        own = distilled.soft and distilled.store is None
        return _same_labels(distilled, ctx, seed) if own else chance
    if subject.private or recipe.labels is None:
        return chance
    assert chance.recipe is not None, "a baseline is a recipe"
    labelled = replace(
        chance.recipe,
        name=f"random, labels of {recipe.name}",
        networks=recipe.networks if isinstance(recipe.labels, LabelWriter) else None,
        labels=recipe.labels,
        protocol=recipe.protocol,
    )
    return recipe_subject(labelled, baseline=True)


def _same_labels(distilled: DistilledSet, ctx: Context, seed: int) -> Subject:
    """A set's labels on random records of the classes that they name most, none twice while there are others.

    Raises:
        Unsupported: no record of such a class.
    """
    train, hard = ctx.data.train, distilled.hard_labels
    generator = ctx.generator("same labels", seed)
    index = torch.empty_like(hard)
    for c in hard.unique().tolist():
        records, places = ((labels == c).nonzero() for labels in (train.labels, hard))
        if not len(records):
            raise Unsupported(f"no record of class '{train.class_names[c]}' to put its labels on")
        index[places] = records[random_choice(records, len(places), generator)]
    name = f"random, labels of {distilled.card.method}"
    made = replace(
        distilled, images=train.pixels(index), card=Card(method=name), outliers=None, trigger=None
    )
    return Subject(name, "file", set=made, baseline=True, identity=fingerprint(made))


def _baseline(name: str, ctx: Context) -> Subject:
    return recipe_subject(resolve(name, profile=ctx.preset.profile), baseline=True)


def _difference(table: Tensor) -> Interval:
    """A difference of accuracies with the interval over (V, N): the same images, victims trained with like seeds."""
    return crossed_difference(table)


def _score(table: Tensor) -> Interval:
    """The score of a weighted difference; it rises with the difference, so the ends of the interval go along."""
    got = _difference(table)
    return Interval(normalised(got.value), normalised(got.low), normalised(got.high), got.n)
