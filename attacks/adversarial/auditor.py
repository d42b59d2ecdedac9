"""Auditor ``adversarial``: how much accuracy survives when every test image may be changed a little, on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.adversarial import known_answers, masking
from ddaudit.attacks.adversarial.torchattacks_adapter import (
    VERSION,
    AttackResult,
    Norm,
    autoattack,
    pgd,
    require_allowed,
)
from ddaudit.auditing import Auditor, Context, Settings, Subject, auditor
from ddaudit.data import ImageData
from ddaudit.errors import DDAuditError
from ddaudit.findings import Check, Curve, Finding, Metric, MetricInfo
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet
from ddaudit.stats import Interval, Resamples, crossed, wilson

_STEP = 1 / 255


class AdversarialSettings(Settings):
    """How much attacking is done. Radii are in pixel units on the [0, 1] scale (2/255 = two grey levels)."""

    attacks: tuple[str, ...] = ("pgd", "autoattack")
    images: int = Field(default=1000, ge=2)
    """Test images (a fixed stratified sample) for the PGD curve."""
    eps: tuple[float, ...] = (0.0, _STEP, 2 * _STEP, 4 * _STEP, 8 * _STEP, 16 * _STEP)
    """Linf radii of the curve."""
    l2_eps: tuple[float, ...] = (0.5,)
    """L2 radii."""
    pgd_steps: int = Field(default=40, ge=1)
    pgd_restarts: int = Field(default=1, ge=1)
    autoattack_eps: float = Field(default=2 * _STEP, gt=0)
    """The headline radius."""
    autoattack_norm: Literal["Linf", "L2"] = "Linf"
    autoattack_images: int = Field(default=256, ge=2)
    autoattack_victims: int | None = Field(default=1, ge=1)
    """AutoAttack on the first victims only; None: on all."""
    check_images: int = Field(default=500, ge=2)
    """Test images for the gradient-masking tests."""

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(require_allowed(name) for name in names)
        except DDAuditError as error:
            raise ValueError(str(error)) from None

    @field_validator("eps", "l2_eps")
    @classmethod
    def _radii(cls, radii: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= r <= 255 for r in radii):
            raise ValueError("radii are zero or more")
        return tuple(sorted(set(radii)))


@dataclass(frozen=True, eq=False)
class _Attacked:
    """One attack on several victims: (V, N) tables and what the masking tests want to know."""

    clean: Tensor
    survived: Tensor
    invalid: int
    before_square: float | None


@auditor
class Adversarial(Auditor[AdversarialSettings]):
    """Robust accuracy under PGD and AutoAttack, with the tests that say whether the number can be believed."""

    name = "adversarial"
    title = "Adversarial robustness"
    question = (
        "If somebody may change every pixel of a picture by an amount too small to see, "
        "how often is a model trained on this set still right?"
    )
    threat_model = (
        "The attacker holds the trained model, knows its gradients, and changes each test image within a fixed "
        "distance (eps). The training set and the training are untouched. White-box, untargeted, at test time."
    )
    how_to_read = (
        "Robust accuracy counts an image only if it is right without an attack and stays right under it, so it cannot "
        "exceed clean accuracy: read both, and compare with the full-data and random-subset rows. Standard training "
        "gives almost none at 8/255 on natural 32 x 32 images; an undefended model that seems robust there is a sign "
        "of a broken attack. The gradient-masking tests beside the number look for exactly that; when one fails, "
        "the number is greyed out and should not be quoted."
    )
    sources = (
        "Madry et al., ICLR 2018 (PGD)",
        "Croce and Hein, ICML 2020, arXiv 2003.01690 (AutoAttack)",
        "Carlini et al., arXiv 1902.06705 (evaluation checklist)",
        "DD-RobustBench, IEEE TIP 2025, arXiv 2403.13322 (eps 2/255 for distilled data)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("adversarial.clean_accuracy", "higher", "accuracy on the attacked images before any change"),
        MetricInfo(
            "adversarial.robust_accuracy", "higher",
            "accuracy after the strongest change within a radius that the attack finds",
        ),
        MetricInfo("adversarial.drop_rate", "lower", "share of correctly classified images that the attack breaks"),
    )  # fmt: skip
    version = 4
    settings = AdversarialSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 100, "pgd_steps": 10, "autoattack_images": 48, "check_images": 100},
        "standard": {},
        "full": {
            "images": 10_000, "pgd_steps": 100, "pgd_restarts": 5,
            "autoattack_images": 1000, "autoattack_victims": None, "check_images": 1000,
        },
    }  # fmt: skip

    def run(
        self, subject: Subject, ctx: Context, settings: AdversarialSettings, seed: int
    ) -> Finding:
        """Attack the subject's victims, then test the numbers for gradient masking."""
        ctx.require_pixels("its radii are grey levels")
        victims = ctx.victims(subject, seed)
        attack_seed = ctx.seed_for("adversarial", seed)
        finding = Finding(
            subject=subject.id, auditor=self.name, caveats=_caveats(ctx, settings, len(victims))
        )
        invalid = 0
        by_eps: dict[float, float] = {}
        images = ctx.test(settings.images)
        clean = torch.stack([_correct(ctx, net, images) for net in victims])
        finding.metrics.append(
            rate_metric("adversarial.clean_accuracy", rate(clean), direction="higher")
        )
        if "pgd" in settings.attacks:
            radii_of: dict[Norm, tuple[float, ...]] = {"Linf": settings.eps, "L2": settings.l2_eps}
            tables = {
                (norm, eps): self._pgd(victims, images, eps, norm, settings, attack_seed)
                for norm, radii in radii_of.items()
                for eps in radii
            }
            invalid += sum(t.invalid for t in tables.values())
            by_eps = {
                eps: float(t.survived.double().mean())
                for (norm, eps), t in tables.items()
                if norm == "Linf"
            }
            finding.metrics += [
                _robust("pgd", norm, eps, t.survived) for (norm, eps), t in tables.items()
            ]
            finding.curves += _curve(
                subject, {eps: t.survived for (norm, eps), t in tables.items() if norm == "Linf"}
            )
        square = None
        if "autoattack" in settings.attacks:
            chosen = victims[: settings.autoattack_victims]
            auto_images = ctx.test(settings.autoattack_images)
            auto = self._autoattack(chosen, auto_images, settings, attack_seed)
            invalid += auto.invalid
            if auto.before_square is not None:
                square = (
                    auto.before_square,
                    float(auto.survived.double().mean()),
                    len(auto_images),
                )
            finding.metrics += _headline(auto, settings, ctx.resamples(auto_images))
            if settings.autoattack_norm == "Linf":
                finding.curves.append(_point(subject, auto, settings))
        finding.checks += self._masking(
            subject, ctx, victims, settings, seed, by_eps, len(images), invalid, square
        )
        return finding

    def checks(self, ctx: Context, settings: AdversarialSettings) -> list[Check]:
        """Closed form, reference implementation, planted defect, attack budget."""
        checks = known_answers.linear_checks(norm="Linf")
        if settings.autoattack_norm == "L2" or settings.l2_eps:
            checks += known_answers.linear_checks(norm="L2")
        return [*checks, known_answers.reference_check(), known_answers.wrong_space_check()]

    def _pgd(
        self,
        victims: list[Network],
        images: ImageData,
        eps: float,
        norm: Norm,
        settings: AdversarialSettings,
        seed: int,
    ) -> _Attacked:
        return _gather(
            [
                pgd(
                    net, images.images, images.labels, eps=eps, norm=norm, steps=settings.pgd_steps,
                    restarts=settings.pgd_restarts, seed=seed,
                )
                for net in victims
            ]
        )  # fmt: skip

    def _autoattack(
        self, victims: list[Network], images: ImageData, settings: AdversarialSettings, seed: int
    ) -> _Attacked:
        return _gather(
            [
                autoattack(
                    net, images.images, images.labels, eps=settings.autoattack_eps,
                    norm=settings.autoattack_norm, seed=seed,
                )
                for net in victims
            ]
        )  # fmt: skip

    def _masking(
        self,
        subject: Subject,
        ctx: Context,
        victims: list[Network],
        settings: AdversarialSettings,
        seed: int,
        by_eps: dict[float, float],
        curve_images: int,
        invalid: int,
        square: tuple[float, float, int] | None,
    ) -> list[Check]:
        images = ctx.test(settings.check_images)
        eps = settings.autoattack_eps if settings.autoattack_norm == "Linf" else 2 * _STEP
        probe = masking.Probe(
            images.pixels(), images.labels, eps=eps, seed=ctx.seed_for("masking", seed)
        )
        siblings = victims[1:] + victims[:1] if len(victims) > 1 else [_sibling(ctx, seed)]
        for net, sibling in zip(victims, siblings, strict=True):
            probe.add(net, ctx.predict(net, images.images).argmax(1), sibling)
        evidence = probe.evidence(
            by_eps=by_eps, curve_images=curve_images, invalid=invalid, square=square
        )
        return masking.checks(evidence, subject=subject.id)


def _gather(results: list[AttackResult]) -> _Attacked:
    before = [
        stage.survivors / len(r.survived)
        for r in results
        for stage in r.stages
        if stage.name == "fab-t"
    ]
    return _Attacked(
        clean=torch.stack([r.clean_correct for r in results]),
        survived=torch.stack([r.survived for r in results]),
        invalid=sum(r.invalid for r in results),
        before_square=sum(before) / len(before) if before else None,
    )


def _correct(ctx: Context, network: Network, images: ImageData) -> Tensor:
    return ctx.predict(network, images.images).argmax(1) == images.labels


def _robust(
    attack: str, norm: str, eps: float, survived: Tensor, resamples: Resamples | None = None
) -> Metric:
    """``resamples`` make it the headline, paired on them."""
    return rate_metric(
        "adversarial.robust_accuracy", rate(survived), direction="higher",
        headline=resamples is not None,
        resampled=None if resamples is None else resamples.of_rate(survived),
        attack=attack, norm=norm, eps=round(eps, 6),
    )  # fmt: skip


def _headline(auto: _Attacked, settings: AdversarialSettings, resamples: Resamples) -> list[Metric]:
    norm, eps = settings.autoattack_norm, settings.autoattack_eps
    robust = _robust("autoattack", norm, eps, auto.survived, resamples)
    clean = rate_metric(
        "adversarial.clean_accuracy", rate(auto.clean), direction="higher", attack="autoattack"
    )
    metrics = [robust, clean]  # of the same images: there are fewer of them
    if bool(auto.clean.any()):
        drop = _drop(auto.clean, auto.survived)
        metrics.append(
            rate_metric(
                "adversarial.drop_rate", drop, direction="lower", attack="autoattack", norm=norm, eps=round(eps, 6)
            )
        )  # fmt: skip
    return metrics


def _drop(clean: Tensor, survived: Tensor) -> Interval:
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
    images = wilson(both.value * typical, typical)
    return Interval(
        both.value, min(both.low, images.low), max(both.high, images.high), round(typical)
    )


def _curve(subject: Subject, tables: dict[float, Tensor]) -> list[Curve]:
    intervals = [(eps, rate(t)) for eps, t in sorted(tables.items())]
    if not intervals:
        return []
    return [
        Curve(
            plot="Accuracy under attack", label=subject.id, x=[eps * 255 for eps, _ in intervals],
            y=[i.value for _, i in intervals], low=[i.low for _, i in intervals], high=[i.high for _, i in intervals],
            x_label="eps (grey levels of 255, Linf)", y_label="robust accuracy (PGD)",
        )
    ]  # fmt: skip


def _point(subject: Subject, auto: _Attacked, settings: AdversarialSettings) -> Curve:
    i = rate(auto.survived)
    return Curve(
        plot="Accuracy under attack", label=f"{subject.id} (AutoAttack)", x=[settings.autoattack_eps * 255],
        y=[i.value], low=[i.low], high=[i.high], kind="points", x_label="eps (grey levels of 255, Linf)",
        y_label="robust accuracy (PGD)",
    )  # fmt: skip


def _sibling(ctx: Context, seed: int) -> Network:
    """A network for the transfer test of a lone victim: trained on ``ipc`` random real images per class."""
    train, g = ctx.data.train, ctx.generator("adversarial sibling", seed)
    order = torch.randperm(len(train), generator=g)
    chosen = torch.cat(
        [order[train.labels[order] == c][: ctx.ipc] for c in range(train.num_classes)]
    )
    subset = DistilledSet(
        train.pixels(chosen), train.labels[chosen], train.num_classes, Card(method="random")
    )
    (network,) = ctx.train([subset], seeds=[ctx.seed_for("adversarial sibling", seed)])
    return network


def _caveats(ctx: Context, settings: AdversarialSettings, victims: int) -> list[str]:
    aimed = min(9, ctx.data.num_classes - 1)
    auto = (
        victims
        if settings.autoattack_victims is None
        else min(victims, settings.autoattack_victims)
    )
    out = [
        f"PGD: {settings.pgd_steps} steps of 2.5 eps / steps on the cross-entropy, random start, "
        f"{settings.pgd_restarts} run(s), {len(ctx.test(settings.images))} test images. AutoAttack standard: APGD-CE, "
        f"APGD-T and FAB-T ({aimed} targets) with 100 steps, Square with 5000 queries, on "
        f"{len(ctx.test(settings.autoattack_images))} test images and {auto} of {victims} victim(s). torchattacks "
        f"{VERSION} with its defects corrected, fixed seeds, normalisation inside the network.",
        "The headline radius of 2/255 is the one that papers on distilled data use; other work on robustness uses "
        "8/255, where undefended networks on natural images keep nothing. Compare equal radii only.",
    ]  # fmt: skip
    if auto == 1 and "autoattack" in settings.attacks:
        out.append(
            "The AutoAttack intervals cover the choice of images, not of victims: one was attacked."
        )
    if abs(settings.autoattack_eps - 2 * _STEP) > 1e-9:
        out[1] = (
            f"The headline radius is {settings.autoattack_norm} {settings.autoattack_eps:.4g}, set by the user."
        )
    if min(ctx.data.shape[1:]) < 28:
        out.append(
            f"Images of {ctx.data.shape[1]} x {ctx.data.shape[2]} pixels have few dimensions, so the same Linf radius "
            "is a much weaker attack than on 32 x 32 images: do not compare with published tables."
        )
    if ctx.data.num_classes < 4:
        out.append(
            "With fewer than 4 classes the DLR loss of APGD-T is undefined; the plain logit margin is used."
        )
    height, width = ctx.data.shape[1:]
    if height != width and "autoattack" in settings.attacks:
        out.append(
            f"The Square attack gets {height} x {width} images in a square frame, where some of its queries are lost: "
            "its part of AutoAttack is a little weaker than published."
        )
    if "L2" in (settings.autoattack_norm,):
        out.append(
            "torchattacks' APGD-T in L2 moves every image of a batch by the first image's step size, a little weaker "
            "than published; FAB-T and Square follow it."
        )
    return out
