"""Auditor ``utility``: how well do networks trained on the set classify real test images?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Subject, Work, auditor
from ddaudit.distillation.networks import fit
from ddaudit.errors import BadInput, Unsupported
from ddaudit.findings import Caveat, Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures import ranking
from ddaudit.measures._common import correct, few_images, hits
from ddaudit.measures.overlap import CHECK, check_overlap
from ddaudit.models import Arch
from ddaudit.sets import stored_bytes
from ddaudit.stats import Interval, Resamples, crossed, crossed_rate
from ddaudit.stats.intervals import stratified_replicates


class UtilitySettings(Settings):
    """Knobs of the utility auditor."""

    cross_architectures: tuple[str, ...] = ()
    """Other architectures to train on the same set; names as ``ddaudit.models.Arch`` reads them."""
    ranking: bool = False
    """The scores of DD-Ranking, and the set with hard labels; trains up to four times as many networks."""
    bootstrap: int = Field(default=1000, ge=20)
    """Resamples of the test images behind the intervals of per-class summaries."""


@auditor
class Utility(Auditor[UtilitySettings]):
    """Accuracy of victims on real test images, overall and by class, and on other architectures."""

    name: ClassVar[str] = "utility"
    title: ClassVar[str] = "Utility"
    need: ClassVar[str] = "Useful to train on"
    question: ClassVar[str] = (
        "If I train a network from scratch on this set alone, how often is it right on real images "
        "it has never seen, and are some classes left behind?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. Fresh networks are trained on the set under the audit's fixed protocol and "
        "scored once, at the end of training, on real test images. Nothing is chosen by looking at "
        "the test images: no best epoch, no best network, no best set."
    )
    how_to_read: ClassVar[str] = (
        "Accuracy is the share of test images classified correctly: 1 is perfect, 1 / classes is "
        "guessing. Compare it with the rows for the full data (the ceiling) and for a random "
        "subset of the same size (what costs nothing): a set that does not beat the random "
        "subset's interval has no use. The worst class shows what an average hides; other "
        "architectures show whether the set only works for the network it was made with."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Cui et al., DC-BENCH: Dataset Condensation Benchmark, NeurIPS 2022, arXiv 2207.09639",
        "Chen et al., A Comprehensive Study on Dataset Distillation, arXiv 2305.03355",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo(
            "utility.accuracy", "higher",
            "share of real test images that networks trained on the set get right",
        ),
        MetricInfo("utility.balanced_accuracy", "higher", "the same, averaged over classes"),
        MetricInfo("utility.class_accuracy", "higher", "the same, of one class"),
        MetricInfo("utility.class_std", "lower", "standard deviation of accuracy between classes"),
        MetricInfo("utility.worst_class_accuracy", "higher", "accuracy of the class that is recognised worst"),
        MetricInfo(
            "utility.cross_architecture_accuracy", "higher",
            "accuracy of networks of another architecture trained on the same set",
        ),
        MetricInfo(
            "utility.hard_label_accuracy", "higher",
            "of a set with soft labels: the same with each image's most likely class as its label",
        ),
        MetricInfo(
            "utility.bytes", "none", "what the set takes to store: images, labels and what decodes them",
            unit="bytes",
        ),
        MetricInfo("utility.images_per_class", "none", "images that networks see of it, by class", unit="images"),
        *ranking.METRICS,
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {
        "utility.accuracy": "accuracy",
    }
    light: ClassVar[bool] = True
    version: ClassVar[int] = 10
    from_records: ClassVar[tuple[str, ...] | None] = tuple(m.name for m in ranking.METRICS)
    settings: ClassVar[type[Settings]] = UtilitySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"cross_architectures": (), "bootstrap": 500},
        "standard": {"cross_architectures": ("MLP", "LeNet"), "ranking": True},
        "full": {
            "cross_architectures": ("MLP", "LeNet", "AlexNet", "VGG11", "ResNet18"),
            "ranking": True,
        },
    }

    def run(self, subject: Subject, ctx: Context, settings: UtilitySettings, seed: int) -> Finding:
        """Score the victims; train and score the other architectures."""
        test = ctx.test()
        right = correct(ctx, subject, seed, protocol=ctx.protocol)
        g = ctx.generator("utility", subject.id, seed)
        finding = Finding(
            subject=subject.id,
            auditor=self.name,
            metrics=accuracy_metrics(
                right,
                test.labels,
                test.class_names,
                n_boot=settings.bootstrap,
                generator=g,
                resamples=ctx.resamples(test),
            ),
            caveats=few_images(len(test), len(right)),
        )
        finding.curves.append(_class_curve(finding.metrics, test.class_names, subject.id))
        if subject.set is not None:
            finding.checks.append(check_overlap(subject.set, ctx.data, subject=subject.id))
        self._by_card(finding, subject, ctx, settings, seed)
        text = (
            "Accuracy holds under this training protocol alone. It belongs to the set, its labels and the protocol "
            f"together: compare it within this report (protocol {ctx.protocol.name}), and with published numbers "
            "only under theirs."
        )
        finding.caveats.append(Caveat(text, "setup", 4))
        if subject.kind != "checkpoint":
            self._set(finding, subject, right, ctx, settings, seed)
        if settings.cross_architectures:
            self._cross(finding, subject, ctx, settings, seed)
        return finding

    def warning(self, finding: Finding) -> str:
        """Test records that were given away."""
        given = [c.detail for c in finding.checks if c.name == CHECK and not c.passed]
        return f"{given[0]}: scores on them are void." if given else ""

    def _set(
        self,
        finding: Finding,
        subject: Subject,
        right: Tensor,
        ctx: Context,
        settings: UtilitySettings,
        seed: int,
    ) -> None:
        """What the set takes to store, what its labels bring, and its scores of DD-Ranking."""
        distilled = ctx.distilled(subject, seed)
        for name, unit, value in (
            ("bytes", "bytes", float(stored_bytes(distilled))),
            ("images_per_class", "images", len(distilled) / ctx.data.num_classes),
        ):
            finding.metrics.append(Metric(name=f"utility.{name}", value=value, unit=unit))
        if not settings.ranking or (subject.baseline and subject.id in ("full", "random")):
            return
        hard = right
        if distilled.soft:
            hard = ranking.with_hard_labels(distilled, ctx, seed)
            finding.metrics.append(
                Metric.of("utility.hard_label_accuracy", crossed_rate(hard), direction="higher")
            )
        try:
            metrics, caveats = ranking.ranking(subject, right, hard, ctx, seed)
        except Unsupported as error:
            finding.caveats.append(f"No scores of DD-Ranking: {error}.")
            return
        finding.metrics += metrics
        finding.caveats += caveats

    def _by_card(
        self, finding: Finding, subject: Subject, ctx: Context, settings: UtilitySettings, seed: int
    ) -> None:
        """Where the card states another protocol: what networks trained by it reach, or that it does."""
        if subject.kind == "checkpoint":
            return
        distilled, own = ctx.distilled(subject, seed), ctx.protocol
        try:
            stated = ctx.stated_protocol(distilled)
        except BadInput as error:
            if ctx.trains_by == "card":
                raise
            finding.caveats.append(f"The card's protocol cannot be followed: {error}")
            return
        if stated.key == own.key:
            if ctx.trains_by == "card" and distilled.card.protocol is None:
                finding.caveats.append(
                    f"The card states no protocol: its networks are trained under the audit's '{own.name}'."
                )
            return
        if ctx.trains_by != "card":
            finding.caveats.append(
                f"The card states another protocol, '{stated.name}'; --protocol card trains by it, "
                "and shows the accuracy under both."
            )
            return
        test = ctx.test()
        rows = accuracy_metrics(
            correct(ctx, subject, seed),
            test.labels,
            test.class_names,
            n_boot=settings.bootstrap,
            generator=ctx.generator("utility", "by card", subject.id, seed),
        )
        name = {"protocol": stated.name if stated.name != own.name else stated.key}
        finding.metrics += [
            m.model_copy(
                update={"params": name, "headline": False, "basis": False, "resampled": None}
            )
            for m in rows
            if m.name != "utility.class_accuracy"
        ]
        finding.caveats.append(
            f"Rows with a protocol are networks trained as the set's card says ({stated.key}); the "
            f"others are trained under the audit's '{own.name}', as every subject is. Other "
            "auditors of this run examine the networks trained by the card."
        )

    def _cross(
        self, finding: Finding, subject: Subject, ctx: Context, settings: UtilitySettings, seed: int
    ) -> None:
        """Add ``utility.cross_architecture_accuracy`` to a finding, or the reason why not."""
        names = ", ".join(settings.cross_architectures)
        try:
            distilled = ctx.distilled(subject, seed)
        except Unsupported as error:
            finding.caveats.append(f"Other architectures ({names}) not tried: {error}.")
            return
        failed = []
        count = ctx.preset.victims
        seeds = [ctx.seed_for("victim", seed, i) for i in range(count)]
        for name in settings.cross_architectures:
            try:
                arch = fit(Arch.parse(name), ctx.data.shape)
                nets = ctx.train([distilled] * count, seeds=seeds, arch=arch, protocol=ctx.protocol)
                right = hits(nets, ctx)
            except (BadInput, Unsupported) as error:
                failed.append(str(error) if isinstance(error, BadInput) else f"{name}: {error}.")
                continue
            rate = crossed_rate(right)
            finding.metrics.append(
                Metric.of(
                    "utility.cross_architecture_accuracy",
                    rate,
                    direction="higher",
                    params={"arch": name},
                )
            )
        if failed:
            finding.status = "partial"
            finding.reason = "Some architectures could not be trained: " + " ".join(failed)

    def work(self, subject: Subject, ctx: Context, settings: UtilitySettings) -> Work:
        """Networks of the other architectures."""
        names = () if subject.kind == "checkpoint" else settings.cross_architectures
        return Work(archs=tuple(fit(Arch.parse(name), ctx.data.shape) for name in names))

    def checks(self, ctx: Context, settings: UtilitySettings) -> list[Check]:
        """Predictors of known accuracy, chance, and the mean (not the best) of two victims."""
        labels, k = ctx.test().labels, ctx.data.num_classes
        g = ctx.generator("utility", "checks")
        n = len(labels)
        wrong = (labels + 1) % k
        known = torch.where(torch.arange(n) % 4 == 3, wrong, labels)
        want = 1 - (n // 4) / n
        read = crossed_rate((known == labels).double()).value
        guess = torch.rand(n, k, generator=g).argmax(1)
        chance = crossed_rate((guess == labels).double(), confidence=0.999)
        pair = torch.stack([labels, torch.where(torch.arange(n) % 2 == 1, wrong, labels)])
        mean = crossed_rate((pair == labels).double()).value
        half = (1 + 1 - (n // 2) / n) / 2
        return [
            Check(
                name="predictor wrong on every fourth image",
                passed=abs(read - want) < 1e-9,
                value=read,
                expected=f"accuracy {want:.4f}",
            ),
            Check(
                name="random logits",
                passed=1 / k in chance,
                value=chance.value,
                expected=f"99.9 % interval contains 1/{k}",
                detail=f"interval [{chance.low:.4f}, {chance.high:.4f}]",
            ),
            Check(
                name="a perfect and a half-wrong victim",
                passed=abs(mean - half) < 1e-9,
                value=mean,
                expected=f"their mean {half:.4f}, not the better one",
            ),
        ]


def accuracy_metrics(
    correct: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    n_boot: int = 1000,
    generator: torch.Generator,
    resamples: Resamples | None = None,
) -> list[Metric]:
    """Accuracy overall and by class.

    Args:
        correct: (V, N) 1 where victim v was right on image i.
        labels: (N,) int64.
        class_names: K names; classes without test images are left out.
        n_boot: resamples, drawn within classes.
        resamples: of the same records for every subject, to pair accuracies on.
    """
    n = len(labels)
    present = [k for k in range(len(class_names)) if bool((labels == k).any())]
    by_class = torch.stack([correct[:, labels == k].mean(1) for k in present], 1)  # (V, K)
    # One more image per class, right as often as all images are: a class without a single error
    # (or hit) is not thereby certain.
    pseudo = correct.mean(1).expand(len(class_names), -1)
    drawn = stratified_replicates(correct.T, labels, n_boot, generator, pseudo=pseudo)
    replicates = drawn[:, present].transpose(1, 2)  # (B, V, K)
    counts = torch.stack([(labels == k).sum() for k in present])

    def summary(of: Callable[[Tensor], Tensor]) -> Interval:
        return crossed(of(by_class), of(replicates).mean(1), n=n).clamp()

    equal = torch.binomial(
        counts.double().expand(1000, -1).contiguous(),
        torch.full((1000, len(present)), float(by_class.mean()), dtype=torch.float64),
        generator=generator,
    )
    out = [
        Metric.of(
            "utility.accuracy",
            crossed_rate(correct),
            direction="higher",
            headline=True,
            basis=True,
            chance=float(counts.max()) / n,
            resampled=None if resamples is None else resamples.of_rate(correct),
        ),
        Metric.of("utility.balanced_accuracy", summary(lambda x: x.mean(-1)), direction="higher"),
        Metric.of(
            "utility.worst_class_accuracy", summary(lambda x: x.amin(-1)), direction="higher"
        ),
        Metric.of(
            "utility.class_std",
            summary(_spread),
            direction="lower",
            floor=float(_spread(equal / counts).mean()),
        ),
    ]
    for k in present:
        rate = crossed_rate(correct[:, labels == k])
        name = {"class": class_names[k]}
        out.append(Metric.of("utility.class_accuracy", rate, direction="higher", params=name))
    return out


def _spread(x: Tensor) -> Tensor:
    """Standard deviation over the classes (last axis); they are all there are, so divided by K."""
    return x.std(-1, correction=0)


def _class_curve(metrics: Sequence[Metric], class_names: Sequence[str], label: str) -> Curve:
    rows = [m for m in metrics if m.name == "utility.class_accuracy"]
    names = list(class_names)
    return Curve(
        plot="Accuracy by class",
        label=label,
        x=[float(names.index(m.params["class"])) for m in rows],
        y=[float(m.value or 0.0) for m in rows],
        low=[float(m.low or 0.0) for m in rows],
        high=[float(m.high or 0.0) for m in rows],
        counts=[int(m.n or 0) for m in rows],
        kind="points",
        x_label="class index",
        y_label="accuracy",
    )
