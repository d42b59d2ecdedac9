"""The ``soft-labels`` auditor: do a teacher's soft labels betray records that the images do not show?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ddaudit.attacks._common.nonmembers import held_out, made_of_ours
from ddaudit.attacks._common.signals import logit_margin
from ddaudit.attacks.soft_labels import known_answers
from ddaudit.attacks.soft_labels.canaries import (
    HARD_LABELS,
    CanaryRun,
    planted_margin,
    recalled,
    run_with_canaries,
)
from ddaudit.attacks.soft_labels.results import (
    StudentReading,
    accuracy_metric,
    curves,
    group_metrics,
    leak_metric,
    membership_metric,
    memory_metric,
    p_values,
)
from ddaudit.attacks.soft_labels.students import (
    HARD,
    PER_IMAGE,
    RELEASED,
    Version,
    answers,
    replays,
    students,
    versions,
)
from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor
from ddaudit.data import ImageData
from ddaudit.errors import Unsupported
from ddaudit.findings import Caveat, Check, Finding, Metric, MetricInfo
from ddaudit.sets import DistilledSet


class SoftLabelsSettings(Settings):
    """How many canaries, and which versions of the labels are compared."""

    canaries: int = Field(default=400, ge=40)
    """Training records that get a random wrong label; at most a quarter of them. Half stay hidden from the pixels."""
    unseen: int = Field(default=1000, ge=20)
    """At most this many canaries that no network sees, from held-out records."""
    temperatures: tuple[float, ...] = (1.0, 10.0, 20.0)
    """Tried beside the temperature of the released labels, where that is known."""
    top: tuple[int, ...] = (2, 3)
    """Cuts of the labels to their most likely classes."""
    shuffle: bool = True
    """Also try the labels dealt out anew among the images of a class, which breaks what ties them to an image."""
    students: int = Field(default=2, ge=1)
    """Networks per version of the labels; the labels as released get as many as the preset has victims."""
    records: int = Field(default=1000, ge=20)
    """Real records of each kind whose membership is guessed."""

    @field_validator("temperatures")
    @classmethod
    def _positive(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < t < float("inf") for t in temperatures):
            raise ValueError("temperatures are positive numbers; hard labels are tried anyway")
        return tuple(sorted(set(temperatures)))


@auditor
class SoftLabels(Auditor[SoftLabelsSettings]):
    """Random-label canaries that only the teacher has seen, looked for in students of the released set."""

    name = "soft-labels"
    title = "Soft-label leakage"
    need = "Labels reveal less"
    question = (
        "The released pictures carry fine-grained labels ('83 % a 3, 9 % an 8, ...') written by a network that was "
        "trained on the real records. Do those labels tell what that network remembers about records that are in "
        "none of the pictures?"
    )
    threat_model = (
        "Anybody who trains a network on the released set. To test it, some real records get a random wrong label "
        "(canaries). Half of them are shown to the teacher only, never to anything that makes the pictures. If a "
        "network trained on the released set then favours their planted labels, these can only have travelled "
        "through the soft labels."
    )
    how_to_read = (
        "Every canary's planted label is one of the wrong classes, drawn by lot. A network that knows nothing of it "
        "finds it among the wrong classes as often as a guess does (with ten classes one time in nine). Leakage is "
        "how much more often the students find it: 0 is good, positive means that the labels carry what the teacher "
        "memorised, and the bar below 0 tells how sure that is. A small p-value says that luck does not explain it. "
        "'hard' is the same set with each label rounded to its top class: the leak should vanish there, and the "
        "student's accuracy beside it says what the soft labels were good for. Teacher memory is the same test put to "
        "the teacher itself: where that is at chance, there was nothing to leak, and a low leakage says little about "
        "teachers that train longer."
    )
    sources = (
        "Behrens & Zdeborova, Dataset Distillation for Memorized Data: Soft Labels can Leak Held-Out Teacher "
        "Knowledge, ICLR 2026, arXiv 2506.14457",
        "Jagielski et al., Students Parrot Their Teachers, NeurIPS 2023, arXiv 2303.03446 (membership through "
        "students)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "soft_labels.leakage", "lower",
            "how much more often a student names the planted label of a canary than a guess would", signed=True,
        ),
        MetricInfo("soft_labels.canary_accuracy", "lower", "planted labels of canaries that a student recalls"),
        MetricInfo("soft_labels.teacher_memory", "none", "planted labels that the teacher itself recalls"),
        MetricInfo("soft_labels.student_accuracy", "higher", "accuracy of a student on real test images"),
        MetricInfo(
            "soft_labels.membership_auc", "lower",
            "chance that a record the method has read is ranked above one it has not",
        ),
        MetricInfo(
            "soft_labels.p_value", "higher",
            "chance of so many recalled canaries if nothing leaked", unit="probability",
        ),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "soft_labels.leakage": "leak through soft labels",
    }
    version = 6
    settings = SoftLabelsSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {
            "canaries": 300, "temperatures": (1.0, 20.0), "top": (2,), "shuffle": False, "students": 1, "records": 500,
        },
        "standard": {},
        "full": {"canaries": 2000, "unseen": 5000, "students": 3, "records": 5000},
    }  # fmt: skip

    def run(
        self, subject: Subject, ctx: Context, settings: SoftLabelsSettings, seed: int
    ) -> Finding:
        """Distil with canaries, train students on every version of the labels, and look for the canaries in them.

        Raises:
            Unsupported: hard labels, a checkpoint, fewer than three classes, or too few records.
        """
        if subject.recipe is None or subject.recipe.labels is None:
            released = ctx.distilled(subject, seed)
            if not released.soft:
                raise Unsupported(HARD_LABELS)
            if subject.recipe is None:
                return _of_file(subject.id, released, ctx, settings, seed)
        run = run_with_canaries(
            subject, ctx, canaries=settings.canaries, unseen=settings.unseen, seed=seed
        )
        tried = versions(
            run.made.labels,
            temperature=run.temperature,
            temperatures=settings.temperatures,
            top=settings.top,
            shuffled=ctx.generator("soft-labels", "shuffle", seed) if settings.shuffle else None,
            stored=replays(run.made, ctx),
        )
        networks = students(run.made, tried, ctx, seed=seed, others=settings.students)
        natural, others = _natural(run.planted.base, run.made, ctx, settings, seed, ours=True)
        test = ctx.test()
        groups = [
            run.tested.records.images,
            run.planted.unseen.records.images,
            run.planted.shown.records.images,
            test.images,
            natural.images,
            others.images,
        ]
        readings: list[StudentReading] = []
        finding = Finding(subject=subject.id, auditor=self.name)
        for version in tried:
            logits = answers(networks[version.name], groups, ctx)
            reading = _reading(version, run, logits, test)
            readings.append(reading)
            finding.metrics += [leak_metric(reading), accuracy_metric(reading)]
            if version.name == RELEASED:
                shown = recalled(list(logits[2]), run.planted.shown) if run.separate else None
                finding.metrics += group_metrics(reading, shown, ctx.data.num_classes)
                finding.metrics += p_values(reading, ctx.data.num_classes)
                finding.metrics.append(_canary_membership(run, logits))
            if version.name in (RELEASED, HARD):
                finding.metrics += _membership(version.name, natural, others, logits[4], logits[5])
        if run.memory is not None:
            finding.metrics.append(memory_metric(run.memory, ctx.data.num_classes))
        finding.curves += curves(readings)
        finding.caveats += _caveats(run, ctx)
        if replays(run.made, ctx):
            finding.caveats.append(_STORE)
        finding.caveats += selection_caveats(run.planted.base, run.made)
        return finding

    def work(self, subject: Subject, ctx: Context, settings: SoftLabelsSettings) -> Work:
        """One distillation with the canaries, of a recipe that makes soft labels."""
        if subject.recipe is not None:
            return Work(1) if subject.recipe.labels else Work(ends=True)
        return Work(ends=subject.set is None or not subject.set.soft)

    def checks(self, ctx: Context, settings: SoftLabelsSettings) -> list[Check]:
        """Canaries that are published with their labels, and canaries nobody saw."""
        return known_answers.published(ctx)


def _reading(
    version: Version, run: CanaryRun, logits: Sequence[Tensor], test: ImageData
) -> StudentReading:
    return StudentReading(
        name=version.name,
        temperature=version.temperature,
        tested=recalled(list(logits[0]), run.tested),
        unseen=recalled(list(logits[1]), run.planted.unseen),
        correct=logits[3].argmax(2) == test.labels,
    )


def _canary_membership(run: CanaryRun, logits: Sequence[Tensor]) -> Metric:
    """Canaries the method has read against canaries nobody has, by their planted label."""
    inside = planted_margin(list(logits[0]), run.tested)
    outside = planted_margin(list(logits[1]), run.planted.unseen)
    return membership_metric(inside, outside, records="canaries", labels=RELEASED)


def _natural(
    members: ImageData,
    made: DistilledSet,
    ctx: Context,
    settings: SoftLabelsSettings,
    seed: int,
    *,
    ours: bool,
) -> tuple[ImageData, ImageData]:
    """Samples of ordinary training records that are not released as they are, and of held-out records.

    Args:
        members: training records; the set's ``member_indices`` count from the first of them.
        ours: whether the set was made from them.
    """
    free = ~_verbatim(members, made)
    others = held_out(ctx, ours=ours).records
    generator = ctx.generator("soft-labels", "records", seed)
    parts = []
    for data, index in (
        (members, free.nonzero().squeeze(1)),
        (others, torch.arange(len(others))),
    ):
        order = torch.randperm(len(index), generator=generator)[: settings.records]
        parts.append(data.subset(index[order]))
    return parts[0], parts[1]


def _verbatim(members: ImageData, made: DistilledSet) -> Tensor:
    """(N,) bool, training records that the set says it releases as they are."""
    verbatim = torch.zeros(len(members), dtype=torch.bool)
    index = torch.tensor(made.card.member_indices or [], dtype=torch.int64)
    verbatim[index[index < len(members)]] = True
    return verbatim


def selection_caveats(members: ImageData, made: DistilledSet) -> list[str]:
    """How far leaving out released records can move the membership AUC of the others.

    With a share f of the members gone, an AUC of 1/2 over all of them is
    ``1/2 = f A_released + (1 - f) A_rest``, so ``A_rest`` lies within ``f / (2 (1 - f))`` of 1/2. No
    non-members can be left out likewise: nobody selected among them.
    """
    verbatim = _verbatim(members, made)
    share = float(verbatim.double().mean())
    if not 0 < share < 1:
        return []
    bound = min(0.5, share / (2 * (1 - share)))
    return [
        f"{int(verbatim.sum())} of {len(verbatim)} training records are released as they are and were left out of the "
        "guess at ordinary records. Where they were chosen for being typical (herding), those left are less so, "
        f"and their membership AUC then lies below 0.5 without any leak: by {bound:.3f} at the very most, and by "
        "0.01 to 0.03 in a trial on digits (10 and 50 images per class). What the labels add is the "
        "difference between released and 'hard' labels, which have the same records."
    ]


def _membership(
    labels: str, members: ImageData, others: ImageData, inside: Tensor, outside: Tensor
) -> list[Metric]:
    """The margin attack on ordinary records; nothing where all of them are released as they are."""
    if len(members) < 20 or len(others) < 20:
        return []
    scores = [
        torch.stack([logit_margin(z, data.labels) for z in logits]).mean(0)
        for data, logits in ((members, inside), (others, outside))
    ]
    return [membership_metric(scores[0], scores[1], records="ordinary", labels=labels)]


def _of_file(
    subject: str, released: DistilledSet, ctx: Context, settings: SoftLabelsSettings, seed: int
) -> Finding:
    """What is known of a finished set: membership through students, with its labels soft and rounded."""
    tried = versions(
        released.labels, temperature=None, temperatures=(), top=(), stored=replays(released, ctx)
    )
    networks = students(released, tried, ctx, seed=seed, others=ctx.preset.victims)
    ours = made_of_ours(released, ctx)
    natural, others = _natural(ctx.data.train, released, ctx, settings, seed, ours=ours)
    test = ctx.test()
    finding = Finding(
        subject=subject,
        auditor=SoftLabels.name,
        status="partial",
        reason=(
            "planting canaries needs the recipe, and a file is only its result: measured is how well students tell "
            "training records from others, with the labels soft and with them rounded"
        ),
    )
    for version in tried:
        logits = answers(networks[version.name], [natural.images, others.images, test.images], ctx)
        finding.metrics += _membership(version.name, natural, others, logits[0], logits[1])
        finding.metrics.append(accuracy_metric(_accuracy_only(version, logits[2], test)))
    finding.caveats += [_STORE] if replays(released, ctx) else []
    if not any(m.name == "soft_labels.membership_auc" for m in finding.metrics):
        raise Unsupported(
            "planting canaries needs the recipe, and too few records are left to guess the membership of"
        )
    finding.caveats += held_out(ctx, ours=ours).caveats()
    finding.caveats += selection_caveats(ctx.data.train, released)
    if not ours:
        finding.caveats.append(
            "The set does not say that it was made from exactly these training records; where it was not, the "
            "membership attack looks for the wrong ones."
        )
    text = (
        "The images carry traces of their records too. Only what the soft labels add to the rounded ones is due "
        "to the labels."
    )
    finding.caveats.append(Caveat(text, rank=2))
    return finding


def _accuracy_only(version: Version, logits: Tensor, test: ImageData) -> StudentReading:
    nothing = torch.zeros(0, dtype=torch.bool)
    return StudentReading(
        version.name, version.temperature, nothing, nothing, logits.argmax(2) == test.labels
    )


_STORE = Caveat(
    f"'{RELEASED}' is the set with its store of labels for many views of each image, trained on as its card says. The "
    f"other versions have one label for each image, and the audit's protocol; '{PER_IMAGE}' shows what the store adds.",
    rank=3,
)

_UNDONE = (
    "Temperature is no protection: whoever holds soft labels can flatten or sharpen them again, so the largest "
    "leak among temperatures is the one that counts. Cutting and rounding cannot be undone."
)

_FORGOT = (
    "The teacher itself shows no memory of its canaries, so there was nothing to leak. A teacher that trains longer "
    "or without augmentation remembers more."
)


def _caveats(run: CanaryRun, ctx: Context) -> list[str]:
    planted = run.planted
    total = len(planted.everything)
    notes = [
        f"Measured on the recipe, run on {total} records of which {len(planted.shown) + len(planted.hidden)} carry a "
        "random wrong label. Mislabelled records are the ones a teacher memorises; ordinary records leave a "
        "fainter trace.",
        f"Students train under the audit's protocol '{ctx.protocol.name}'. One that trains longer, or without "
        "augmentation, reads more out of the same labels.",
    ]
    if run.temperature is not None:
        notes.append(_UNDONE)
    if not run.separate:
        notes.append(
            "This method makes images and labels together, so no canary can be kept from the images alone: the "
            "leakage counts what travelled through either. Rounding the labels ('hard') shows what is left in the "
            "images."
        )
    elif not run.remembered:
        notes.append(_FORGOT)
    return [*notes, *held_out(ctx).caveats()]
