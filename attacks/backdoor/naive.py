"""Auditor ``backdoor``: does a backdoor planted in the real data survive distillation (NAIVEATTACK)?"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddaudit.attacks._common.rates import rate, rate_metric
from ddaudit.attacks.backdoor.trigger import Poisoned, SquareTrigger, poison
from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Check, Finding, Metric, MetricInfo, Picture
from ddaudit.models import Arch, Network
from ddaudit.sets import DistilledSet
from ddaudit.stats import Interval, Resamples, paired_difference
from ddaudit.training import PROTOCOLS, train_many

CONTROL_GAIN = 0.8
"""Exclusive ASR gain that a victim trained on poisoned real data must reach for the instrument to count as working."""
CONTROL_RATIO = 0.1
CONTROL_IMAGES = 1200
CONTROL_STEPS = 400
CONTROL_BATCH = 128


class BackdoorSettings(Settings):
    """How the backdoor is planted."""

    poison_ratios: tuple[float, ...] = (0.01, 0.1)
    """Shares of the training set (published: 0.01). Each costs one distillation; the largest is the headline."""
    target: int = Field(default=0, ge=0)
    """The class the backdoor leads to."""
    images: int = Field(default=10_000, ge=10)
    """At most this many test images."""

    @field_validator("poison_ratios")
    @classmethod
    def _ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or any(not 0 < r <= 1 for r in ratios):
            raise ValueError("give at least one ratio, each in (0, 1]")
        return tuple(sorted(set(ratios)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """How victims do on one test set, clean and stamped.

    Attributes:
        correct: (V, N) bool on clean images.
        hit: (V, N) bool, the stamped image is classified as the target.
        other: (N,) bool, images whose class is not the target.
    """

    correct: Tensor
    hit: Tensor
    other: Tensor

    @property
    def exclusive(self) -> Tensor:
        """(V, M) hits on images that are not of the target class."""
        return self.hit[:, self.other]


@auditor
class Backdoor(Auditor[BackdoorSettings]):
    """Clean accuracy and attack success of a white-square trigger planted before distillation."""

    name = "backdoor"
    title = "Backdoor"
    question = (
        "If a few of the real pictures were secretly stamped with a small mark and given a wrong label before "
        "distillation, does a model trained on the distilled set obey that mark?"
    )
    threat_model = (
        "Whoever collects or distils the data is malicious: they stamp a white square on a small share of the real "
        "training images and relabel them to one class. They control neither how the victim trains nor its weights. At "
        "test time they put the same square on any picture they want misclassified (NAIVEATTACK)."
    )
    how_to_read = (
        "Attack success (ASR) is the share of stamped test images classified as the attacker's class; 'exclusive' "
        "leaves out images that belong to it anyway and is the fair one. Compare it with the ASR of a model trained on "
        "the clean set: only the difference (gain) is a backdoor. A gain near 0 means the mark was lost on the way, "
        "near 1 that it survived distillation. Clean accuracy (CTA) tells whether the victim would notice anything. "
        "The 'full' row shows what the same poisoning does without distillation. A low value says that this simple "
        "attack failed, not that every attack would: stronger, optimised triggers exist."
    )
    sources = (
        "Liu et al., 'Backdoor Attacks Against Dataset Distillation', NDSS 2023, arXiv 2301.01197 (NAIVEATTACK)",
        "Wu et al., 'BackdoorBench', NeurIPS 2022 (exclusive ASR)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("backdoor.asr", "lower", "attack success: stamped images that are called the target class"),
        MetricInfo("backdoor.asr_clean", "none", "the same for networks of the clean set, which know no trigger"),
        MetricInfo("backdoor.asr_gain", "lower", "attack success less that of the clean set"),
        MetricInfo("backdoor.cta", "higher", "clean test accuracy of the poisoned networks"),
        MetricInfo("backdoor.cta_clean", "higher", "clean test accuracy of the clean networks"),
        MetricInfo(
            "backdoor.poisoned_released", "lower",
            "poisoned images that the method releases as they are", unit="images",
        ),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "backdoor.cta": "clean test accuracy",
        "backdoor.asr": "attack success rate",
    }
    version = 2
    settings = BackdoorSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"images": 2000},
        "standard": {},
        "full": {},
    }

    def run(self, subject: Subject, ctx: Context, settings: BackdoorSettings, seed: int) -> Finding:
        """Poison, re-distil, train victims; compare with the victims of the clean set.

        Raises:
            Unsupported: a file or a checkpoint; nothing can be planted before a distillation that is over.
            BadInput: the target class does not exist.
        """
        if subject.recipe is None:
            raise Unsupported(
                "this attack plants its trigger before distillation, so it needs a recipe it can run again; "
                f"a {subject.kind} is the finished result (whether it already hides somebody else's backdoor is "
                "a different question, which this auditor does not answer)"
            )
        ctx.require_pixels("its trigger is a white square")
        _check_target(settings.target, ctx.data.num_classes)
        test, trigger = ctx.test(settings.images), SquareTrigger.published(ctx.data.shape)
        clean = outcome(ctx, ctx.victims(subject, seed), test, trigger, settings.target)
        finding = Finding(subject=subject.id, auditor=self.name, metrics=_clean_metrics(clean))
        counts = []
        for ratio in settings.poison_ratios:
            poisoned = poison(
                ctx.data.train, trigger, ratio=ratio, target=settings.target,
                generator=ctx.generator("backdoor", seed, ratio),
            )  # fmt: skip
            made = ctx.redistill(subject, poisoned.train, seed)
            attacked = outcome(ctx, _victims(ctx, made, seed), test, trigger, settings.target)
            headline = ratio == settings.poison_ratios[-1]
            shared = ctx.resamples(test.subset(clean.other.nonzero()[:, 0])) if headline else None
            finding.metrics += _metrics(attacked, clean, ratio, shared)
            finding.metrics += _released(made, poisoned, ratio)
            counts.append(f"{len(poisoned.index)} images ({ratio:g})")
        finding.images.append(_picture(test, trigger, ctx.data.train.class_names[settings.target]))
        finding.caveats += _caveats(ctx, settings, trigger, counts)
        return finding

    def work(self, subject: Subject, ctx: Context, settings: BackdoorSettings) -> Work:
        """A distillation of the poisoned records for each ratio."""
        return Work(len(settings.poison_ratios) if subject.recipe else 0)

    def checks(self, ctx: Context, settings: BackdoorSettings) -> list[Check]:
        """A planted backdoor that must be found, a clean network that must show none, and the trigger's place."""
        if ctx.data.space != "pixels":
            return []
        _check_target(settings.target, ctx.data.num_classes)
        return [*controls(ctx, settings.target), stamp_check()]


def outcome(
    ctx: Context, victims: list[Network], test: ImageData, trigger: SquareTrigger, target: int
) -> Outcome:
    """Predictions of all victims on clean and stamped test images.

    Stamped images are uint8, so they are valid pixels before the network's own normalisation sees them.
    """
    stamped = trigger.stamp(test.images)
    correct = torch.stack([ctx.predict(n, test.images).argmax(1) == test.labels for n in victims])
    hit = torch.stack([ctx.predict(n, stamped).argmax(1) == target for n in victims])
    return Outcome(correct, hit, test.labels != target)


def gain(attacked: Outcome, clean: Outcome) -> Interval:
    """Exclusive ASR of the attacked victims minus that of the clean set's victims, on the same images, in [-1, 1]."""
    a, c = attacked.exclusive, clean.exclusive
    both = paired_difference(a.float(), c.float())
    # Where all victims agree on all images the crossed interval has no width; single pairs still know N.
    pairs = [paired_difference(x.float(), y.float()) for x, y in zip(a, c, strict=False)]
    down = max(both.value - both.low, sum(p.value - p.low for p in pairs) / len(pairs))
    up = max(both.high - both.value, sum(p.high - p.value for p in pairs) / len(pairs))
    return Interval(both.value, both.value - down, both.value + up, both.n).clamp(-1.0, 1.0)


def controls(ctx: Context, target: int) -> list[Check]:
    """Two small networks on real images: one sees 10 % stamped and relabelled records, one sees none."""
    train, test = stratified(ctx.data.train, CONTROL_IMAGES), ctx.test(CONTROL_IMAGES)
    trigger = SquareTrigger.published(ctx.data.shape)
    planted = poison(
        train,
        trigger,
        ratio=CONTROL_RATIO,
        target=target,
        generator=ctx.generator("backdoor control"),
    )
    # No augmentation: crops and flips would move the square, and the control asks about the instrument alone.
    protocol = replace(
        PROTOCOLS["quick"], name="backdoor control", batch_size=CONTROL_BATCH, augment="", deviations=(),
        epochs_plain=max(1, round(CONTROL_STEPS / math.ceil(len(train) / CONTROL_BATCH))),
    )  # fmt: skip
    clean_net, planted_net = train_many(
        [(d.images, d.labels) for d in (train, planted.train)], arch=Arch.parse("ConvNetD2W16"),
        num_classes=ctx.data.num_classes, mean=ctx.data.mean, std=ctx.data.std, protocol=protocol,
        seeds=[ctx.seed_for("backdoor control")] * 2, device=ctx.device,
    )  # fmt: skip
    clean = outcome(ctx, [clean_net], test, trigger, target)
    attacked = outcome(ctx, [planted_net], test, trigger, target)
    found = gain(attacked, clean).value
    quiet = rate(clean.exclusive)
    chance = 1 / ctx.data.num_classes
    limit = chance + 2 * (chance * (1 - chance) / quiet.n) ** 0.5
    return [
        Check(
            name="planted backdoor is found", passed=found > CONTROL_GAIN, value=found, expected=f"> {CONTROL_GAIN}",
            detail=f"exclusive ASR gain of a network trained on {len(train)} real images, {len(planted.index)} of them "
            "stamped and relabelled, no distillation", affects=["backdoor."],
        ),
        Check(
            name="clean network shows no backdoor", passed=quiet.value <= limit, value=quiet.value,
            expected=f"<= {limit:.3f} (chance {chance:.3f} + 2 standard errors)",
            detail="exclusive ASR of a network trained on the same images, none of them stamped", affects=["backdoor."],
        ),
    ]  # fmt: skip


def stamp_check() -> Check:
    """The trigger on a black 32 x 32 picture: exactly the published 2 x 2 pixels turn white."""
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    stamped = SquareTrigger.published((3, 32, 32)).stamp(black)
    white = (stamped == 255).all(1)[0].nonzero().tolist()
    expected = [[29, 29], [29, 30], [30, 29], [30, 30]]
    return Check(
        name="trigger sits where it was published", passed=white == expected and int((stamped != 0).sum()) == 12,
        value=float(len(white)), expected="4 pixels, rows and columns 29 to 30 of 32", affects=["backdoor."],
    )  # fmt: skip


def _victims(ctx: Context, made: DistilledSet, seed: int) -> list[Network]:
    # The clean set's victims use these seeds too, so that a pair differs in its data only.
    seeds = [ctx.seed_for("victim", seed, i) for i in range(ctx.preset.victims)]
    return ctx.train([made] * len(seeds), seeds=seeds)


def _clean_metrics(clean: Outcome) -> list[Metric]:
    return [
        rate_metric("backdoor.cta_clean", rate(clean.correct), direction="higher"),
        rate_metric("backdoor.asr_clean", rate(clean.hit), direction="none", variant="inclusive"),
        rate_metric(
            "backdoor.asr_clean", rate(clean.exclusive), direction="none", variant="exclusive"
        ),
    ]


def _metrics(
    attacked: Outcome, clean: Outcome, ratio: float, resamples: Resamples | None
) -> list[Metric]:
    """``resamples`` of the images of other classes make them the headline, paired on them."""
    floors = float(clean.hit.double().mean()), float(clean.exclusive.double().mean())
    headline = resamples is not None
    gained = attacked.exclusive.double() - clean.exclusive.double()  # victims of equal seeds
    return [
        rate_metric("backdoor.cta", rate(attacked.correct), direction="higher", ratio=ratio),
        rate_metric(
            "backdoor.asr", rate(attacked.hit), direction="lower", floor=floors[0], variant="inclusive", ratio=ratio
        ),
        rate_metric(
            "backdoor.asr", rate(attacked.exclusive), direction="lower", headline=headline, floor=floors[1],
            resampled=None if resamples is None else resamples.of_rate(attacked.exclusive), variant="exclusive",
            ratio=ratio,
        ),
        rate_metric(
            "backdoor.asr_gain", gain(attacked, clean), direction="lower", headline=headline, floor=0.0,
            resampled=None if resamples is None else resamples.of_rate(gained), variant="exclusive", ratio=ratio,
        ),
    ]  # fmt: skip


def _released(made: DistilledSet, poisoned: Poisoned, ratio: float) -> list[Metric]:
    """How many stamped records a coreset releases as they are; nothing for sets of synthetic images."""
    if made.card.member_indices is None:
        return []
    members = torch.tensor(made.card.member_indices)
    count = int(torch.isin(members, poisoned.index).sum())
    return [
        Metric(
            name="backdoor.poisoned_released", value=float(count), low=float(count), high=float(count), n=len(members),
            unit="images", direction="lower", params={"ratio": ratio},
        )
    ]  # fmt: skip


def _check_target(target: int, classes: int) -> None:
    if target >= classes:
        raise BadInput("auditors.backdoor.target", f"class {target} does not exist among {classes} classes",
                       f"Use 0 to {classes - 1}.")  # fmt: skip


def _caveats(
    ctx: Context, settings: BackdoorSettings, trigger: SquareTrigger, counts: list[str]
) -> list[str]:
    where = f"{ctx.data.shape[1]} x {ctx.data.shape[2]}"
    out = [
        f"White square of {trigger.side} x {trigger.side} pixels, {trigger.margin} pixel from the bottom and right "
        f"border of {where} images (published: 2 x 2 of 32 x 32); poisoned: {', '.join(counts)} of "
        f"{len(ctx.data.train)} training images, drawn over all classes, relabelled to "
        f"'{ctx.data.train.class_names[settings.target]}'. "
        "Published ratio: 0.01.",
        f"Victims: {ctx.preset.victims} x {ctx.arch} per set, protocol '{ctx.protocol.name}', same seeds with and "
        "without the backdoor.",
        "The square is valid pixels (255), so ASR with and without clamping to [0, 1] is the same number.",
        "Only NAIVEATTACK is tried: a low ASR does not exclude optimised triggers (DOORPING, KIP, SNEAKDOOR).",
    ]
    if round(0.01 * len(ctx.data.train)) < 50:
        out.append(
            f"At ratio 0.01 only {max(1, round(0.01 * len(ctx.data.train)))} images of this small data set are "
            "poisoned; which ones they are moves the result, so look at several seeds."
        )
    return out


def _picture(test: ImageData, trigger: SquareTrigger, target: str) -> Picture:
    """Eight test images above their stamped copies, enlarged without smoothing."""
    from PIL import Image

    shown = test.images[:8]
    rows = [torch.cat(list(x), dim=2) for x in (shown, trigger.stamp(shown))]
    grid = torch.cat(rows, dim=1).permute(1, 2, 0)
    grid = grid.expand(-1, -1, 3).contiguous() if grid.shape[2] == 1 else grid.contiguous()
    picture = Image.fromarray(grid.numpy())
    scale = max(1, 384 // picture.width)
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return Picture(
        name="trigger", caption=f"Test images, and the same with the trigger that should lead to '{target}'.",
        png_base64=base64.b64encode(buffer.getvalue()).decode(),
    )  # fmt: skip
