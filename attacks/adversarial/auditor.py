"""Auditor ``adversarial``: how much accuracy survives when every test image may be changed a little, on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.adversarial import beard_rows, known_answers, masking, rows
from ddaudit.attacks.adversarial.ball import Norm
from ddaudit.attacks.adversarial.execution import AttackResult, InputAttack, run
from ddaudit.attacks.adversarial.gradient import PGD
from ddaudit.attacks.adversarial.probe import Probe
from ddaudit.attacks.adversarial.rows import Attacked
from ddaudit.attacks.adversarial.settings import AdversarialSettings, Radii
from ddaudit.attacks.adversarial.suite import ATTACKS, dd_robustbench, pgd
from ddaudit.auditing import Auditor, Context, Subject, Work, auditor, recipe_subject
from ddaudit.data import ImageData
from ddaudit.distillation import make_recipe
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.findings import Check, Finding, MetricInfo
from ddaudit.models import Network
from ddaudit.sets import Card, DistilledSet


@auditor
class Adversarial(Auditor[AdversarialSettings]):
    """Robust accuracy under PGD and AutoAttack, with the tests that say whether the number can be believed."""

    name = "adversarial"
    title = "Adversarial robustness"
    need = "Robust to attack"
    question = (
        "If somebody may change every pixel of a picture by an amount too small to see, "
        "how often is a model trained on this set still right?"
    )
    threat_model = (
        "The attacker holds the trained model, knows its gradients, and changes each test image within a fixed "
        "distance (eps). The training set and the training are untouched. White-box, untargeted, at test time; "
        "Square and SPSA see the model's answers alone, transfer rows only another model."
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
        "BEARD, arXiv 2411.09265 (its evaluation as coded and as meant)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("adversarial.clean_accuracy", "higher", "accuracy on the attacked images before any change"),
        MetricInfo(
            "adversarial.robust_accuracy", "higher",
            "accuracy after the strongest change within a radius that the attack finds",
        ),
        MetricInfo("adversarial.drop_rate", "lower", "share of correctly classified images that the attack breaks"),
        MetricInfo(
            "adversarial.transfer_accuracy", "higher",
            "accuracy on images that were changed to fool a network trained on another set",
        ),
        *beard_rows.INFOS,
    )  # fmt: skip
    version = 12
    heavy = True
    on_large: ClassVar[Mapping[str, Any]] = {
        "images": 60,
        "autoattack_images": 32,
        "check_images": 50,
    }
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
        if settings.benchmark == "dd-robustbench":
            ctx.require_pixels("DD-RobustBench's radii are steps of 1/255")
        if settings.beard_compat:
            ctx.require_pixels("the BEARD benchmark attacks images")
        radii = Radii.of(settings, ctx.data.test)
        victims = ctx.victims(subject, seed)
        arena = _Arena(radii, settings, ctx.seed_for("adversarial", seed))
        finding = Finding(
            subject=subject.id, auditor=self.name,
            caveats=rows.caveats(ctx, settings, radii, victims=len(victims)),
        )  # fmt: skip
        images = ctx.test(settings.images)
        clean = torch.stack([_correct(ctx, net, images) for net in victims])
        finding.metrics.append(
            rate_metric("adversarial.clean_accuracy", rate(clean), direction="higher")
        )
        by_eps: dict[float, float] = {}
        if "pgd" in settings.attacks:
            of_norm: dict[Norm, Sequence[float]] = {"Linf": radii.linf, "L2": radii.l2}
            tables = {
                (norm, eps): arena.attack(victims, images, arena.pgd(), eps, norm)
                for norm, eps_of in of_norm.items()
                for eps in eps_of
            }
            linf = {eps: t for (norm, eps), t in tables.items() if norm == "Linf"}
            by_eps = {eps: float(t.survived.double().mean()) for eps, t in linf.items()}
            finding.metrics += [
                rows.robust("pgd", norm, eps, t.survived) for (norm, eps), t in tables.items()
            ]
            finding.curves += rows.curve(subject.id, linf, radii)
        chosen = victims[: settings.autoattack_victims]
        few, square = ctx.test(settings.autoattack_images), None
        finding.caveats += rows.classes_seen(few, ctx.data.test)
        if "autoattack" in settings.attacks:
            auto = arena.attack(
                chosen, few, ATTACKS["autoattack"](), radii.headline, settings.autoattack_norm
            )
            if auto.before_square is not None:
                square = (auto.before_square, float(auto.survived.double().mean()), len(few))
            finding.metrics += rows.headline(
                auto, settings.autoattack_norm, radii.headline, ctx.resamples(few)
            )
            if settings.autoattack_norm == "Linf":
                finding.curves.append(rows.point(subject.id, auto, radii))
        self._others(finding, arena, victims, images, chosen, few)
        self._transfer(finding, ctx, arena, subject, victims, seed)
        if settings.beard_compat:
            finding.metrics += beard_rows.emitted(victims, few)
            finding.caveats.append(beard_rows.NOTE)
        finding.checks += self._masking(subject, ctx, arena, victims, seed, by_eps, square)
        return finding

    def checks(self, ctx: Context, settings: AdversarialSettings) -> list[Check]:
        """Closed form, plain implementation, planted defect, attack budget."""
        checks = known_answers.linear_checks(norm="Linf")
        if settings.autoattack_norm == "L2" or settings.l2_eps:
            checks += known_answers.linear_checks(norm="L2")
        return [*checks, known_answers.reference_check(), known_answers.wrong_space_check()]

    def inputs(self, ctx: Context, settings: AdversarialSettings) -> Mapping[str, str]:
        """Whose victims craft images for others: their sets, and how cards say that networks are trained on them."""
        found = {}
        for source in _sources(ctx, settings):
            card = None if source.set is None or ctx.trains_by != "card" else source.set.card
            stated = "" if card is None else f" {card.protocol} {card.learned_lr}"
            found[source.id] = source.identity + stated
        return found

    def work(self, subject: Subject, ctx: Context, settings: AdversarialSettings) -> Work:
        """The sets and networks of recipes that only ``transfer`` names, counted with the first subject; BEARD's
        attacks take some ten times what the others do."""
        known = {s.identity for s in ctx.subjects.values()}
        more = [s for s in _sources(ctx, settings) if s.identity not in known]
        times = 10.0 if settings.beard_compat else 1.0
        if not more or subject.id != next(iter(ctx.subjects), None):
            return Work(times=times)
        return Work(len(more), archs=(ctx.arch,) * len(more), recipe=more[0].recipe, times=times)

    def warning(self, finding: Finding) -> str:
        """Why no robust accuracy of the finding may be quoted; empty: its tests passed."""
        failed = [c for c in finding.checks if c.subject == finding.subject and not c.passed]
        return rows.not_to_be_quoted(failed)

    def _others(
        self,
        finding: Finding,
        arena: _Arena,
        victims: list[Network],
        images: ImageData,
        chosen: list[Network],
        few: ImageData,
    ) -> None:
        """Every further attack at the headline radius, and a benchmark's whole configuration."""
        settings, radii = arena.settings, arena.radii
        for name in settings.attacks:
            if name in ("pgd", "autoattack"):
                continue
            slow = name in (
                "square",
                "spsa",
                "cw",
                "deepfool",
                "fab-t",
                "apgd-t",
                "autoattack-rand",
            )
            nets, data = (chosen, few) if slow else (victims, images)
            # CW minimises the L2 length; thresholded in Linf it would say little.
            norm: Norm = "L2" if name == "cw" else settings.autoattack_norm
            for eps in radii.of_l2(norm) if name == "cw" else (radii.headline,):
                table = arena.attack(nets, data, ATTACKS[name](), eps, norm)
                finding.metrics.append(rows.robust(name, norm, eps, table.survived))
        if "square" in settings.attacks:
            spent = [arena.queries(net, few) for net in chosen]
            finding.curves.append(rows.query_curve(finding.subject, torch.stack(spent), radii))
        if settings.benchmark == "dd-robustbench":
            for cell in dd_robustbench():
                table = arena.attack(chosen, few, cell.attacks, cell.eps, "Linf")
                finding.metrics += rows.robust_and_drop(
                    cell.name, "Linf", cell.eps, table, benchmark="dd-robustbench"
                )

    def _transfer(
        self,
        finding: Finding,
        ctx: Context,
        arena: _Arena,
        subject: Subject,
        victims: list[Network],
        seed: int,
    ) -> None:
        """Accuracy on images crafted on the first victim of each source that ``transfer`` names."""
        if not arena.settings.transfer:
            return
        # A network of the same set is what masking 5 uses.
        others = [s for s in _sources(ctx, arena.settings) if s.identity != subject.identity]
        if not others:
            finding.caveats.append("No transfer row: no other subject is there to craft images on.")
        images, eps = ctx.test(arena.settings.check_images), arena.radii.headline
        norm = arena.settings.autoattack_norm
        clean = torch.stack([_correct(ctx, net, images) for net in victims])
        for source in others:
            try:
                # A seed that the source's own cells have: its set is there, and a private one is made once.
                crafting = ctx.victims(source, min(seed, ctx.preset.seeds - 1))[0]
            except DDAuditError as error:
                finding.caveats.append(f"No transfer row from {source.id}: {error}")
                continue
            crafted = pgd(
                crafting, images.images, images.labels, eps=eps, norm=norm,
                steps=arena.settings.pgd_steps, only_correct=False, bounds=arena.radii.bounds, seed=arena.seed,
            )  # fmt: skip
            arena.invalid += crafted.invalid
            right = torch.stack(
                [ctx.predict(net, crafted.adversarial).argmax(1) for net in victims]
            )
            hits = clean & (right == images.labels)
            finding.metrics.append(
                rate_metric(
                    "adversarial.transfer_accuracy", rate(hits), direction="higher", source=source.id,
                    norm=norm, eps=round(eps, 6),
                )
            )  # fmt: skip

    def _masking(
        self,
        subject: Subject,
        ctx: Context,
        arena: _Arena,
        victims: list[Network],
        seed: int,
        by_eps: dict[float, float],
        square: tuple[float, float, int] | None,
    ) -> list[Check]:
        images = ctx.test(arena.settings.check_images)
        probe = Probe(
            images.pixels(), images.labels, eps=arena.radii.headline, seed=ctx.seed_for("masking", seed),
            norm=arena.settings.autoattack_norm, bounds=arena.radii.bounds,
            queries=0 if square is not None else arena.settings.check_queries,
        )  # fmt: skip
        siblings = victims[1:] + victims[:1] if len(victims) > 1 else [_sibling(ctx, seed)]
        for net, sibling in zip(victims, siblings, strict=True):
            probe.add(net, ctx.predict(net, images.images).argmax(1), sibling)
        evidence = probe.evidence(
            by_eps=by_eps, curve_images=len(ctx.test(arena.settings.images)), invalid=arena.invalid,
            square=square,
        )  # fmt: skip
        return masking.checks(evidence, subject=subject.id)


class _Arena:
    """What all attacks of one finding share; counts the x' that were no valid inputs."""

    def __init__(self, radii: Radii, settings: AdversarialSettings, seed: int) -> None:
        self.radii, self.settings, self.seed = radii, settings, seed
        self.invalid = 0

    def attack(
        self,
        victims: Sequence[Network],
        images: ImageData,
        attacks: Sequence[InputAttack],
        eps: float,
        norm: Norm,
    ) -> Attacked:
        results = [self._one(net, images, attacks, eps, norm) for net in victims]
        self.invalid += sum(r.invalid for r in results)
        return Attacked.of(results)

    def pgd(self) -> list[InputAttack]:
        return [PGD(self.settings.pgd_steps)] * self.settings.pgd_restarts

    def queries(self, network: Network, images: ImageData) -> Tensor:
        """(N,) queries until Square broke the image; 0: wrong without any; infinite: never broken."""
        return rows.square_queries(
            network, images.pixels(), images.labels, eps=self.radii.headline,
            norm=self.settings.autoattack_norm, bounds=self.radii.bounds, seed=self.seed,
        )  # fmt: skip

    def _one(
        self,
        network: Network,
        images: ImageData,
        attacks: Sequence[InputAttack],
        eps: float,
        norm: Norm,
    ) -> AttackResult:
        return run(
            network, images.images, images.labels, attacks, eps=eps, norm=norm, bounds=self.radii.bounds,
            seed=self.seed,
        )  # fmt: skip


def _correct(ctx: Context, network: Network, images: ImageData) -> Tensor:
    return ctx.predict(network, images.images).argmax(1) == images.labels


def _sources(ctx: Context, settings: AdversarialSettings) -> list[Subject]:
    """The subjects that ``transfer`` names: those of the audit, else recipes.

    Raises:
        BadInput: a name is neither.
    """
    found: dict[str, Subject] = {}
    for name in settings.transfer:
        if name == "subjects":
            found |= {s.id: s for s in ctx.subjects.values() if not s.baseline}
        elif name in ctx.subjects:
            found[name] = ctx.subjects[name]
        else:
            try:
                recipe = make_recipe(name, profile=ctx.preset.profile)
            except BadInput as error:
                what = "names neither a subject of this audit nor a recipe"
                raise BadInput(f"adversarial.transfer={name}", what, str(error)) from None
            found[name] = recipe_subject(recipe)
    return list(found.values())


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
