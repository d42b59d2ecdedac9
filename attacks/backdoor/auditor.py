"""Auditor ``backdoor``: do networks trained on a distilled set obey a trigger that somebody planted?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from ddaudit.attacks.backdoor.attempt import Attempt, accuracy, effect, success
from ddaudit.attacks.backdoor.injection import INJECTIONS, Injection, Scene, inject
from ddaudit.attacks.backdoor.known_answers import controls, stamp_check
from ddaudit.auditing import Auditor, Context, Settings, Shared, Subject, Work, auditor
from ddaudit.data import ImageData
from ddaudit.errors import BadInput, NotEnoughData, Unsupported
from ddaudit.findings import Caveat, Check, Finding, MetricInfo
from ddaudit.models import Network
from ddaudit.sets import DistilledSet
from ddaudit.training import train_many

_FULL = Shared()


class BackdoorSettings(Settings):
    """How the backdoor is planted."""

    attacks: tuple[str, ...] = ("naive",)
    """Which attacks, of 'ddaudit list injections'; each costs a distillation or two."""
    poison_ratios: tuple[float, ...] = (0.01, 0.1)
    """Of naive: shares of the training set (published: 0.01), a distillation each; the largest is the headline."""
    options: tuple[str, ...] = ()
    """Numbers of attacks, as ATTACK.KEY=VALUE (doorping.untrained=true, sneakdoor.ratio=0.1)."""
    target: int = Field(default=0, ge=0)
    """The class the backdoor leads to."""
    images: int = Field(default=10_000, ge=10)
    """At most this many test images."""
    full_victims: int = Field(default=0, ge=0)
    """Networks trained on the whole poisoned training set, to compare with (for naive, the row 'full' has them)."""

    @field_validator("poison_ratios")
    @classmethod
    def _ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or any(not 0 < r <= 1 for r in ratios):
            raise ValueError("give at least one ratio, each in (0, 1]")
        return tuple(sorted(set(ratios)))

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, attacks: tuple[str, ...]) -> tuple[str, ...]:
        if not attacks:
            raise ValueError("name at least one attack")
        return tuple(dict.fromkeys(attacks))


@auditor
class Backdoor(Auditor[BackdoorSettings]):
    """Clean accuracy and attack success of triggers planted by those who distil, or who pass a set on."""

    name = "backdoor"
    title = "Backdoor"
    need = "Backdoor weakened"
    question = (
        "If a few of the real pictures were secretly stamped with a small mark and given a wrong label before "
        "distillation, does a model trained on the distilled set obey that mark?"
    )
    threat_model = (
        "Whoever collects or distils the data is malicious: they stamp a trigger on a small share of the real "
        "training images and relabel them to one class (NAIVEATTACK: a white square; other attacks optimise it). They "
        "control neither how the victim trains nor its weights. At test time they put the same trigger on any picture "
        "they want misclassified. One attack (poisoned-distillation) needs the finished set alone."
    )
    how_to_read = (
        "Attack success (ASR) is the share of stamped test images classified as the attacker's class; 'exclusive' "
        "leaves out images that belong to it anyway and is the fair one. Compare it with the ASR of a model trained on "
        "the clean set: only the difference (gain) is a backdoor. A gain near 0 means the mark was lost on the way, "
        "near 1 that it survived distillation. Clean accuracy (CTA) tells whether the victim would notice anything. "
        "The 'full' row shows what the same poisoning does without distillation. A low value says that these attacks "
        "failed, not that every attack would."
    )
    sources = (
        "Liu et al., 'Backdoor Attacks Against Dataset Distillation', NDSS 2023, arXiv 2301.01197 (NAIVEATTACK)",
        "Wu et al., 'BackdoorBench', NeurIPS 2022 (exclusive ASR)",
        "of the other attacks: 'ddaudit list injections'",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("backdoor.asr", "lower", "attack success: stamped images that are called the target class"),
        MetricInfo("backdoor.asr_clean", "none", "the same for networks of the clean set, which know no trigger"),
        MetricInfo("backdoor.asr_full", "none", "the same for networks of the whole poisoned training set"),
        MetricInfo("backdoor.asr_gain", "lower", "attack success less that of the clean set", signed=True),
        MetricInfo("backdoor.cta", "higher", "clean test accuracy of the poisoned networks"),
        MetricInfo("backdoor.cta_clean", "higher", "clean test accuracy of the clean networks"),
        MetricInfo("backdoor.cta_full", "higher", "clean test accuracy of networks of the poisoned training set"),
        MetricInfo(
            "backdoor.poisoned_released", "lower",
            "poisoned images that the method releases as they are", unit="images",
        ),
        MetricInfo("backdoor.trigger_linf", "none", "largest change of a pixel by the trigger, of its range"),
        MetricInfo("backdoor.trigger_l2", "none", "Euclidean norm of an image's change", unit="pixel values"),
        MetricInfo("backdoor.trigger_pixels", "none", "pixels of an image that the trigger changes", unit="pixels"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "backdoor.cta": "clean test accuracy",
        "backdoor.asr": "attack success rate",
    }
    version = 9
    heavy = True
    on_large: ClassVar[Mapping[str, Any]] = {"poison_ratios": (0.1,)}
    settings = BackdoorSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 2000},
        "standard": {"full_victims": 1},
        "full": {"full_victims": 1},
    }

    def run(self, subject: Subject, ctx: Context, settings: BackdoorSettings, seed: int) -> Finding:
        """Carry out each attack, train victims; compare with the victims of the clean set.

        Raises:
            Unsupported: no attack can be carried out on this subject.
            BadInput: the target class or an attack does not exist.
        """
        ctx.require_pixels("its triggers are pixels")
        _check_target(settings.target, ctx.data.num_classes)
        refused: dict[str, str] = {}
        finding = Finding(subject=subject.id, auditor=self.name)
        for name, variants in chosen(settings, ctx.preset.profile).items():
            # Apart until all of it is there: what an attack leaves when it fails half-way is no result.
            part = Finding(subject=subject.id, auditor=self.name)
            try:
                self._carry_out(part, variants, subject, ctx, settings, seed)
            except (Unsupported, NotEnoughData) as error:
                refused[name] = str(error).rstrip(".")
                continue
            known = {m.key for m in finding.metrics}
            finding.metrics += [m for m in part.metrics if m.key not in known]
            finding.caveats += part.caveats
            finding.images += part.images
        if not finding.metrics:
            raise Unsupported("; ".join(dict.fromkeys(refused.values())))
        finding.caveats += _caveats(ctx, settings)
        finding.caveats += [f"{name} was not carried out: {why}." for name, why in refused.items()]
        return finding

    def _carry_out(
        self,
        finding: Finding,
        variants: Sequence[Injection],
        subject: Subject,
        ctx: Context,
        settings: BackdoorSettings,
        seed: int,
    ) -> None:
        """One attack with one ratio after the other, the last of them the headline."""
        _check_reach(variants[0], subject)
        scene = Scene(
            ctx.data, settings.target, seed, ctx.arch, lambda: ctx.distilled(subject, seed), subject.recipe,
            ctx.ipc, ctx.device, ctx.artifacts,
        )  # fmt: skip
        test, clean = ctx.test(settings.images), ctx.victims(subject, seed)
        for attack in variants:
            headline = attack is variants[-1]
            planted = inject(attack, scene)
            attempt = Attempt(ctx, attack, planted, test, settings.target)
            before = attempt.on(clean)
            if attack is variants[0]:
                # Of clean networks the ratio tells nothing, and of their accuracy the attack.
                finding.metrics.append(accuracy("backdoor.cta_clean", before))
                finding.metrics += success("backdoor.asr_clean", before, {"attack": attack.name})
                finding.metrics += attempt.size()
            nets = _victims(ctx, planted.made, seed)
            shared = ctx.resamples(test.subset(before.meant.nonzero()[:, 0])) if headline else None
            finding.metrics += effect(attempt.on(nets), before, attempt.params, shared)
            if attempt.leaves_pixels:
                free = success(
                    "backdoor.asr",
                    attempt.on(nets, clamp=False),
                    {**attempt.params, "clamp": False},
                )
                finding.metrics += [m.model_copy(update={"direction": "lower"}) for m in free]
            finding.metrics += attempt.released()
            if settings.full_victims and planted.poisoned is not None:
                full = attempt.on(
                    networks_of(ctx, planted.poisoned.train, settings.full_victims, seed)
                )
                finding.metrics.append(accuracy("backdoor.cta_full", full, **attempt.params))
                finding.metrics += success("backdoor.asr_full", full, attempt.params)
            finding.caveats.append(Caveat(attempt.words(), "setup", 6))
            if headline:
                finding.images.append(attempt.picture())

    def work(self, subject: Subject, ctx: Context, settings: BackdoorSettings) -> Work:
        """A distillation of the poisoned records for each attack and ratio."""
        variants = [a for v in chosen(settings, ctx.preset.profile).values() for a in v]
        return Work(sum(a.threat == "distiller" for a in variants) if subject.recipe else 0)

    def checks(self, ctx: Context, settings: BackdoorSettings) -> list[Check]:
        """A planted backdoor that must be found, a clean network that must show none, and the trigger's place."""
        if ctx.data.space != "pixels":
            return []
        _check_target(settings.target, ctx.data.num_classes)
        return [*controls(ctx, settings.target), stamp_check()]


def chosen(
    settings: BackdoorSettings, profile: Literal["small", "paper"]
) -> dict[str, list[Injection]]:
    """The attacks of the settings by name; naive once for each ratio.

    Raises:
        BadInput: no such attack, or no such option of one.
    """
    own: dict[str, dict[str, Any]] = {name: {} for name in settings.attacks}
    for text in settings.options:
        path, sign, value = text.partition("=")
        name, dot, key = path.partition(".")
        if not (sign and dot and name in own):
            raise BadInput(
                f"auditors.backdoor.options '{text}'", "is not ATTACK.KEY=VALUE of a chosen attack",
                f"Chosen: {', '.join(own)}.",
            )  # fmt: skip
        own[name][key] = value
    found = {}
    for name, values in own.items():
        attack = INJECTIONS.get(name).at(profile).options(values)
        ratios = settings.poison_ratios if name == "naive" and "ratio" not in values else ()
        found[name] = [attack.options({"ratio": r}) for r in ratios] or [attack]
    return found


def _check_reach(attack: Injection, subject: Subject) -> None:
    """Refuse an attack whose place in the story is over, or that has nothing to work on."""
    if attack.threat == "distiller" and subject.recipe is None:
        raise Unsupported(
            "this attack plants its trigger before distillation, so it needs a recipe it can run again; "
            f"a {subject.kind} is the finished result (whether it already hides somebody else's backdoor is "
            "a different question, which this auditor does not answer)"
        )
    if subject.network is not None:
        raise Unsupported(
            "this attack changes a set's images, and a checkpoint comes without its set"
        )


def _victims(ctx: Context, made: DistilledSet, seed: int) -> list[Network]:
    # The clean set's victims use these seeds too, so that a pair differs in its data only.
    seeds = [ctx.seed_for("victim", seed, i) for i in range(ctx.preset.victims)]
    return ctx.train([made] * len(seeds), seeds=seeds)


def networks_of(ctx: Context, train: ImageData, count: int, seed: int) -> list[Network]:
    """Networks trained on whole records, once per context."""

    def make() -> list[Network]:
        return train_many(
            [(train.images, train.labels)] * count, arch=ctx.arch, num_classes=ctx.data.num_classes,
            mean=ctx.data.mean, std=ctx.data.std, protocol=ctx.protocol, device=ctx.device,
            seeds=[ctx.seed_for("victim", seed, i) for i in range(count)],
        )  # fmt: skip

    return _FULL.once(ctx, (train.fingerprint, count, seed), make)


def _check_target(target: int, classes: int) -> None:
    if target >= classes:
        raise BadInput("auditors.backdoor.target", f"class {target} does not exist among {classes} classes",
                       f"Use 0 to {classes - 1}.")  # fmt: skip


def _caveats(ctx: Context, settings: BackdoorSettings) -> list[str]:
    out: list[str] = [
        Caveat(
            f"Victims: {ctx.preset.victims} x {ctx.arch} per set, protocol '{ctx.protocol.name}', same seeds with and "
            "without the backdoor.",
            "setup",
            7,
        )
    ]
    if settings.attacks == ("naive",):
        text = "Only NAIVEATTACK is tried. A low ASR does not exclude optimised triggers (DOORPING, KIP, SNEAKDOOR)."
        out.append(Caveat(text, rank=1))
    few = max(1, round(0.01 * len(ctx.data.train)))
    if "naive" in settings.attacks and few < 50:
        text = (
            f"At ratio 0.01 only {few} images of this small data set are poisoned; which ones they are moves the "
            "result, so look at several seeds."
        )
        out.append(Caveat(text, "sample", 3))
    return out
