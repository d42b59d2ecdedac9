"""What the attacks' verdicts become in a finding: metrics with intervals, curves, caveats, a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.adversarial.ball import Ball, Bounds, Noise, Norm
from ddaudit.attacks.adversarial.execution import AttackResult, classify, frozen
from ddaudit.attacks.adversarial.losses import loss_note
from ddaudit.attacks.adversarial.settings import GREY, AdversarialSettings, Radii
from ddaudit.attacks.adversarial.square import Square
from ddaudit.auditing import Context
from ddaudit.data import ImageData
from ddaudit.findings import Caveat, Check, Curve, Metric
from ddaudit.stats import Interval, Resamples, crossed, wilson
from ddaudit.training import at_once

BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Queries at which a query curve is drawn."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """One attack on several victims: (V, N) tables, and the accuracy before Square where that was the last part."""

    clean: Tensor
    survived: Tensor
    before_square: float | None

    @classmethod
    def of(cls, results: Sequence[AttackResult]) -> Attacked:
        """The victims' results as one table."""
        before = [
            stage.survivors / len(r.survived)
            for r in results
            for stage in r.stages
            if stage.name == "fab-t" and len(r.stages) > 1
        ]
        return cls(
            clean=torch.stack([r.clean_correct for r in results]),
            survived=torch.stack([r.survived for r in results]),
            before_square=sum(before) / len(before) if before else None,
        )


def robust(
    attack: str,
    norm: str,
    eps: float,
    survived: Tensor,
    resamples: Resamples | None = None,
    **params: Any,
) -> Metric:
    """Robust accuracy of a (V, N) table; ``resamples`` make it the headline, paired on them."""
    return rate_metric(
        "adversarial.robust_accuracy", rate(survived), direction="higher",
        headline=resamples is not None,
        resampled=None if resamples is None else resamples.of_rate(survived),
        attack=attack, norm=norm, eps=round(eps, 6), **params,
    )  # fmt: skip


def headline(auto: Attacked, norm: Norm, eps: float, resamples: Resamples) -> list[Metric]:
    """AutoAttack's robust accuracy, clean accuracy of the same images (there are fewer of them), drop rate."""
    clean = rate_metric(
        "adversarial.clean_accuracy", rate(auto.clean), direction="higher", attack="autoattack"
    )
    first, *rest = robust_and_drop("autoattack", norm, eps, auto, resamples)
    return [first, clean, *rest]


def robust_and_drop(
    attack: str,
    norm: str,
    eps: float,
    table: Attacked,
    resamples: Resamples | None = None,
    **params: Any,
) -> list[Metric]:
    """Robust accuracy, and drop rate where a victim gets any image right; see :func:`robust`."""
    found = [robust(attack, norm, eps, table.survived, resamples, **params)]
    if bool(table.clean.any()):
        found.append(
            rate_metric(
                "adversarial.drop_rate", drop_rate(table.clean, table.survived), direction="lower",
                attack=attack, norm=norm, eps=round(eps, 6), **params,
            )
        )  # fmt: skip
    return found


def drop_rate(clean: Tensor, survived: Tensor) -> Interval:
    """Share of the correct images that the attack broke, averaged over the victims that got any right."""
    right = clean.sum(1).double()
    some = right > 0
    broken = (clean & ~survived).sum(1)[some] / right[some]
    g = torch.Generator().manual_seed(0)
    index = torch.randint(clean.shape[1], (1000, clean.shape[1]), generator=g)
    c, s = clean[some][:, index].double().sum(2), survived[some][:, index].double().sum(2)
    replicates = (1 - s / c.clamp_min(1)).mean(0)
    both = crossed(broken, replicates, n=clean.shape[1], shift=False).clamp()
    typical = float(right[some].mean())
    return replace(both.at_least(wilson(both.value * typical, typical)), n=round(typical))


def curve(subject: str, tables: Mapping[float, Attacked], radii: Radii) -> list[Curve]:
    """Accuracy against radius; nothing without radii."""
    if not tables:
        return []
    intervals = [(eps, rate(t.survived)) for eps, t in sorted(tables.items())]
    return [_accuracy(subject, intervals, radii)]


def point(subject: str, auto: Attacked, radii: Radii) -> Curve:
    """AutoAttack's number in the same plot."""
    one = _accuracy(f"{subject} (AutoAttack)", [(radii.headline, rate(auto.survived))], radii)
    return one.model_copy(update={"kind": "points"})


def query_curve(subject: str, needed: Tensor, radii: Radii) -> Curve:
    """Accuracy against the number of queries that Square may ask.

    Args:
        needed: (V, N) as :func:`square_queries`.
    """
    intervals = [rate(needed > budget) for budget in BUDGETS]
    return Curve(
        plot="Accuracy against queries", label=subject, x=[float(b) for b in BUDGETS],
        y=[i.value for i in intervals], low=[i.low for i in intervals], high=[i.high for i in intervals],
        kind="step", x_label=f"queries of Square, eps {radii.words(radii.headline)}",
        y_label="accuracy", log_x=True,
    )  # fmt: skip


def square_queries(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm,
    bounds: Bounds,
    seed: int,
) -> Tensor:
    """(N,) float queries until Square broke an image: 0 wrong without any, infinite where it never was broken."""
    right = classify(network, inputs) == labels
    needed = torch.where(right, torch.inf, 0.0)
    ball = Ball(eps, norm, *bounds)
    for index in right.nonzero().flatten().split(at_once(inputs, 256)) if bool(right.any()) else ():
        with frozen(network) as model:
            x, y = inputs[index].to(model.device), labels[index].to(model.device)
            spent = Square().search(model, x, y, ball, Noise(seed, index))[1].cpu()
        needed[index] = torch.where(spent > 0, spent.float(), torch.inf)
    return needed


def not_to_be_quoted(failed: Sequence[Check]) -> str:
    """One sentence on failed masking tests; empty without any."""
    if not failed:
        return ""
    first = failed[0]
    name = first.name.partition(": ")[2] or first.name
    more = f" ({len(failed) - 1} more failed)" if len(failed) > 1 else ""
    return f"robust accuracy is not to be quoted: it fails the test “{name}”{more}."


def classes_seen(few: ImageData, test: ImageData) -> list[str]:
    """A caveat where a sample of the test images leaves classes out."""
    seen, known = (len(torch.unique(data.labels)) for data in (few, test))
    if seen == known:
        return []
    return [
        f"AutoAttack and its like see {len(few)} images of {seen} of the {known} classes, drawn at random: "
        f"--setting adversarial.autoattack_images={known} sees each."
    ]


def caveats(
    ctx: Context, settings: AdversarialSettings, radii: Radii, *, victims: int
) -> list[str]:
    """What a reader must know of budgets, radii, shapes and classes."""
    aimed = min(9, ctx.data.num_classes - 1)
    attacked = min(victims, settings.autoattack_victims or victims)
    text = (
        f"PGD: {settings.pgd_steps} steps of 2.5 eps / steps on the cross-entropy, random start, "
        f"{settings.pgd_restarts} run(s), {len(ctx.test(settings.images))} test images. AutoAttack standard: APGD-CE, "
        f"APGD-T and FAB-T ({aimed} targets) with 100 steps, Square with 5000 queries, on "
        f"{len(ctx.test(settings.autoattack_images))} test images and {attacked} of {victims} victim(s). Own attacks, "
        "fixed seeds, normalisation inside the network; an image counts as broken at the first x' that fools it."
    )  # fmt: skip
    out: list[str] = [Caveat(text, "setup", 7)]
    if not radii.pixels:
        out.append(
            f"Radii are standard deviations of the inputs, without bounds on their values; the headline is "
            f"{settings.autoattack_norm} {radii.headline:g}. A 0/1 column may take any value under attack."
        )
    elif settings.autoattack_norm == "L2" or abs(radii.headline - 2 * GREY) > 1e-9:
        by = "" if settings.autoattack_eps is None else ", set by the user"
        out.append(f"The headline radius is {settings.autoattack_norm} {radii.headline:.4g}{by}.")
    else:
        text = (
            "The headline radius of 2/255 is the one that papers on distilled data use; other work on robustness uses "
            "8/255, where undefended networks on natural images keep nothing. Compare equal radii only."
        )
        out.append(Caveat(text, "setup"))
    if attacked == 1 and "autoattack" in settings.attacks:
        text = (
            "The AutoAttack intervals cover the choice of images, not of victims: one was attacked."
        )
        out.append(Caveat(text, "sample", 3))
    if radii.pixels and min(ctx.data.shape[1:]) < 28:
        text = (
            "Do not compare with published tables. Images of "
            f"{ctx.data.shape[1]} x {ctx.data.shape[2]} pixels have few dimensions, so the same Linf radius is a much "
            "weaker attack than on 32 x 32 images."
        )
        out.append(Caveat(text, "setup", 2))
    note = loss_note(ctx.data.num_classes)
    return [*out, note] if note else out


def _accuracy(label: str, intervals: list[tuple[float, Interval]], radii: Radii) -> Curve:
    return Curve(
        plot="Accuracy under attack", label=label, x=[eps * radii.scale for eps, _ in intervals],
        y=[i.value for _, i in intervals], low=[i.low for _, i in intervals], high=[i.high for _, i in intervals],
        x_label=radii.axis, y_label="robust accuracy (PGD)",
    )  # fmt: skip
