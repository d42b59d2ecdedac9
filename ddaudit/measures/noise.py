"""Auditor ``noise``: how many wrong training labels survive distillation?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddaudit.auditing import Auditor, Context, Settings, Shared, Subject, Work, auditor, stratified
from ddaudit.data import ImageData
from ddaudit.data.noise import TRUE_TRAIN, TRUE_VALIDATION
from ddaudit.errors import DDAuditError, Unsupported
from ddaudit.findings import Check, Curve, Finding, Metric, MetricInfo
from ddaudit.measures._common import correct, few_images, hits, victim_logits
from ddaudit.measures.early import early_stopped
from ddaudit.stats import Interval, crossed_difference, crossed_rate
from ddaudit.stats.intervals import quantiles


class NoiseSettings(Settings):
    """Knobs of the noise auditor."""

    records: int = Field(default=2000, ge=10)
    """Training records with a wrong label, and with a right one, that victims are asked about, at most."""
    rates: tuple[float, ...] = (0.0, 0.4)
    """Further shares of wrong labels, each with a distillation of its own: where the set passes full training."""


def _further(settings: NoiseSettings, own: float) -> list[float]:
    """The rates that say more than the data's own."""
    return [rate for rate in settings.rates if abs(rate - own) > _SAME]


_SAME = 0.02
"""Shares of wrong labels this near to each other are one."""


@dataclass(frozen=True, eq=False)
class WrongLabels:
    """The label noise of a training set: which records have it, and how it moves classes.

    Attributes:
        true: (N,) labels before the noise.
        given: (N,) labels after it.
        moves: (K, K) how often class i (row) was called k (column) by mistake.
    """

    true: Tensor
    given: Tensor
    moves: Tensor

    @classmethod
    def of(cls, true: Tensor, given: Tensor, classes: int) -> WrongLabels:
        """Count the moves."""
        wrong = true != given
        pairs = true[wrong] * classes + given[wrong]
        moves = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        return cls(true, given, moves.double())

    @property
    def rate(self) -> float:
        """Share of labels that are wrong."""
        return float((self.true != self.given).double().mean())

    def again(self, true: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """(M,) labels with the same kind of noise at another rate.

        Each class errs as much more or less often as the whole, at most always, and to the same classes.

        Args:
            true: (M,) right labels.
            rate: expected share of wrong ones.
        """
        counts = torch.bincount(self.true, minlength=len(self.moves)).double().clamp(min=1)
        own = self.moves.sum(1) / counts
        chance = (own * rate / max(self.rate, 1e-12)).clamp(max=1.0)
        flip = torch.rand(len(true), generator=generator).double() < chance[true]
        to = self.moves + torch.eye(len(self.moves)) * (self.moves.sum(1) == 0)
        wrong = torch.multinomial(to[true], 1, generator=generator)[:, 0]
        return torch.where(flip, wrong, true)


_SHARED = Shared()


@auditor
class Noise(Auditor[NoiseSettings]):
    """Wrong training labels that victims repeat, and what full training with early stopping would do."""

    name: ClassVar[str] = "noise"
    title: ClassVar[str] = "Wrong labels"
    need: ClassVar[str] = "Wrong labels forgotten"
    question: ClassVar[str] = (
        "If some training labels were wrong, does a network trained on this set repeat the mistakes, or does "
        "distilling wash them out better than stopping full training early?"
    )
    threat_model: ClassVar[str] = (
        "No adversary. Labels of training and validation records were made wrong at random, and the auditor knows "
        "which; distillation and training see the wrong ones only. Test labels are right."
    )
    how_to_read: ClassVar[str] = (
        "Memorised is the share of wrongly labelled training records that victims call by the wrong label. Its floor "
        "is how often they give those labels to rightly labelled records of the same classes: near it, no single "
        "mistake is remembered, though mistakes that follow a rule (a look-alike class) may have been learnt as a rule "
        "and raise both. The gain is accuracy on clean test images less that of networks trained on all the noisy "
        "records and stopped where noisy validation accuracy was best: above 0 distilling denoises better than the "
        "usual remedy."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Dataset Distillers Are Good Label Denoisers In the Wild, 2024, arXiv 2411.11924",
        "Arpit et al., A Closer Look at Memorization in Deep Networks, ICML 2017, arXiv 1706.05394 (early stopping)",
    )
    metrics: ClassVar[tuple[MetricInfo, ...]] = (
        MetricInfo("noise.rate", "none", "share of training labels that are wrong"),
        MetricInfo("noise.memorised", "lower", "wrongly labelled training records that get their wrong label"),
        MetricInfo("noise.corrected", "higher", "wrongly labelled training records that get their true label"),
        MetricInfo("noise.clean_accuracy", "higher", "accuracy on test images, whose labels are right"),
        MetricInfo("noise.full_accuracy", "none", "the same of full training on noisy records, stopped early"),
        MetricInfo("noise.gain", "higher", "accuracy less that of full training stopped early", signed=True),
        MetricInfo("noise.crossing", "none", "share of wrong labels from which the set beats full training"),
    )  # fmt: skip
    labels: ClassVar[Mapping[str, str]] = {"noise.gain": "gain on early stopping"}
    version: ClassVar[int] = 4
    from_records: ClassVar[tuple[str, ...] | None] = None
    settings: ClassVar[type[Settings]] = NoiseSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"records": 1000, "rates": ()},
        "full": {"rates": (0.0, 0.1, 0.4, 0.6)},
    }

    def run(self, subject: Subject, ctx: Context, settings: NoiseSettings, seed: int) -> Finding:
        """Ask the victims about wrongly labelled records; compare with full training.

        Raises:
            Unsupported: no true labels are known, or none is wrong.
        """
        noise, finding = known_noise(ctx), Finding(subject=subject.id, auditor=self.name)
        answers = self._asked(finding, subject, ctx, settings, seed, noise)
        test = ctx.test()
        right = correct(ctx, subject, seed)
        finding.metrics += [
            Metric(name="noise.rate", value=noise.rate, n=len(noise.true)),
            Metric.of("noise.clean_accuracy", crossed_rate(right), direction="higher"),
        ]
        finding.caveats = few_images(min(answers, len(test)), len(right))
        try:
            best = self._full(ctx, ctx, seed)
        except Unsupported as error:
            finding.status, finding.reason = "partial", f"No full training stopped early: {error}."
            return finding
        finding.metrics += [
            Metric.of("noise.full_accuracy", crossed_rate(best)),
            Metric.of(
                "noise.gain", crossed_difference(right - best), direction="higher",
                headline=True, resampled=ctx.resamples(test).of_rate(right - best),
            ),
        ]  # fmt: skip
        if settings.rates:
            self._rates(finding, subject, ctx, settings, seed, noise, (right, best))
        return finding

    def _asked(
        self,
        finding: Finding,
        subject: Subject,
        ctx: Context,
        settings: NoiseSettings,
        seed: int,
        noise: WrongLabels,
    ) -> int:
        """Add what victims say of training records; how many wrongly labelled ones they were asked about."""
        train, wrong = ctx.data.train, noise.true != noise.given
        at = torch.arange(len(train))
        chosen = [
            at[mask] if int(mask.sum()) <= settings.records else _sample(at[mask], noise, settings.records)
            for mask in (wrong, ~wrong)
        ]  # fmt: skip
        said = [victim_logits(ctx, subject, seed, train.images[i]).argmax(2) for i in chosen]
        records = train.subset(chosen[0])
        true, given = noise.true[chosen[0]], noise.given[chosen[0]]
        repeated, corrected = ((said[0] == v).double() for v in (given, true))
        floor = chance_of_repeating(said[1], noise.true[chosen[1]], true, given)
        finding.metrics += [
            Metric.of(
                "noise.memorised", crossed_rate(repeated), direction="lower", floor=floor,
                headline=True, resampled=ctx.resamples(records).of_rate(repeated),
            ),
            Metric.of("noise.corrected", crossed_rate(corrected), direction="higher"),
        ]  # fmt: skip
        return len(records)

    def _rates(
        self,
        finding: Finding,
        subject: Subject,
        ctx: Context,
        settings: NoiseSettings,
        seed: int,
        noise: WrongLabels,
        own: tuple[Tensor, Tensor],
    ) -> None:
        """Distil at other rates, and find where the set passes full training."""
        if subject.recipe is None:
            finding.caveats.append(
                f"No crossing: a {subject.kind} cannot be made again at another rate."
            )
            return
        test, points, failed = ctx.test(), {noise.rate: own}, list[str]()
        for rate in _further(settings, noise.rate):
            other = at_rate(ctx, noise, rate)
            given = other.data.train.labels
            reached = WrongLabels.of(noise.true, given, ctx.data.num_classes).rate
            if abs(reached - rate) > _SAME:  # a class cannot err more often than always
                finding.caveats.append(
                    f"{rate:.2f} of the labels were to be wrong, and {reached:.2f} are: noise of this kind has no more "
                    "classes to move."
                )
            try:
                points[reached] = correct(other, subject, seed), self._full(ctx, other, seed)
            except DDAuditError as error:  # noise may empty a class, or make a distillation diverge
                failed.append(f"Not made again with {reached:.2f} of the labels wrong: {error}")
        if failed:
            finding.status, finding.reason = "partial", " ".join(failed)
        rates = sorted(points)
        resamples = ctx.resamples(test)
        ahead = torch.tensor([float((points[r][0] - points[r][1]).mean()) for r in rates])
        drawn = torch.stack([resamples.means(points[r][0] - points[r][1]) for r in rates])
        found = _crossing(rates, ahead, drawn, len(test))
        if found is None:
            side = "on both sides of"
            if bool((ahead > 0).all()):
                side = "ahead of"
            elif bool((ahead < 0).all()):
                side = "behind"
            finding.caveats.append(
                f"No crossing: the set is {side} full training stopped early at the rates tried "
                f"({', '.join(f'{r:.2f}' for r in rates)})."
            )
        else:
            finding.metrics.append(Metric.of("noise.crossing", found))
        for k, label in enumerate((subject.id, "full training, stopped early")):
            intervals = [crossed_rate(points[r][k]) for r in rates]
            finding.curves.append(
                Curve(
                    plot="Accuracy by share of wrong labels", label=label, x=rates,
                    y=[i.value for i in intervals], low=[i.low for i in intervals],
                    high=[i.high for i in intervals], x_label="share of wrong training labels",
                    y_label="accuracy on clean test images",
                )
            )  # fmt: skip

    def _full(self, ctx: Context, noisy: Context, seed: int) -> Tensor:
        """(V, N) 1 where full training stopped early is right on a test image; once for all subjects.

        Args:
            noisy: the same context, perhaps with other labels.
        """
        test, train = ctx.test(), noisy.data.train

        def right() -> Tensor:
            held = stratified(noisy.data.validation, 1000)
            return hits(early_stopped(noisy, train, held, seed), ctx)

        return _SHARED.once(ctx, (seed, train.fingerprint, test.fingerprint), right)

    def inputs(self, ctx: Context, settings: NoiseSettings) -> Mapping[str, str]:
        """The true labels."""
        extra = ctx.data.extra
        return {n: extra[n].fingerprint for n in (TRUE_TRAIN, TRUE_VALIDATION) if n in extra}

    def work(self, subject: Subject, ctx: Context, settings: NoiseSettings) -> Work:
        """A distillation and networks per rate; full training, once for all subjects, is counted with ``full``."""
        try:
            noise = known_noise(ctx)
        except Unsupported:
            return Work(ends=True)
        again = len(_further(settings, noise.rate)) if subject.recipe is not None else 0
        full = (again + 1) * (subject.id == "full")
        return Work(distillations=again, archs=(ctx.arch,) * (again + full))

    def checks(self, ctx: Context, settings: NoiseSettings) -> list[Check]:
        """Victims that repeat, ignore or follow a rule of mistakes; a crossing by hand; noise drawn again."""
        g = ctx.generator("noise", "checks")
        k, n = max(ctx.data.num_classes, 3), 3000
        true = torch.arange(n) % k
        flip = torch.rand(n, generator=g) < 0.3
        given = torch.where(flip, (true + 1) % k, true)
        noise = WrongLabels.of(true, given, k)
        wrong = true != given
        rule = chance_of_repeating(
            (true[~wrong] + 1)[None] % k, true[~wrong], true[wrong], given[wrong]
        )
        clean = chance_of_repeating(true[~wrong][None], true[~wrong], true[wrong], given[wrong])
        rates, line = [0.0, 0.5], torch.tensor([-0.1, 0.15])
        at = _crossing(rates, line, line[:, None].double().expand(-1, 50), 100)
        drawn = WrongLabels.of(true, noise.again(true, 0.6, g), k)
        off = float((drawn.moves.argmax(1) != (torch.arange(k) + 1) % k).sum())
        return [
            Check(name="victim that follows the rule of the mistakes", passed=rule == 1.0, value=rule,
                  expected="memorised floor 1", affects=["noise.memorised"]),
            Check(name="victim that is right on rightly labelled records", passed=clean == 0.0, value=clean,
                  expected="memorised floor 0", affects=["noise.memorised"]),
            Check(name="a set 0.1 behind without noise and 0.15 ahead at 0.5", expected="crossing 0.2",
                  passed=at is not None and abs(at.value - 0.2) < 1e-6, value=None if at is None else at.value,
                  affects=["noise.crossing"]),
            # Standard error 0.009; five of them.
            Check(name="the same noise drawn at a rate of 0.6", passed=abs(drawn.rate - 0.6) < 0.045 and off == 0,
                  value=drawn.rate, expected="0.6 +- 0.045, to the same classes", affects=["noise.crossing"]),
        ]  # fmt: skip


def known_noise(ctx: Context) -> WrongLabels:
    """The noise of the training labels.

    Raises:
        Unsupported: the data do not keep true labels, of these very records, or none is wrong.
    """
    train, clean = ctx.data.train, ctx.data.extra.get(TRUE_TRAIN)
    if clean is None:
        raise Unsupported(
            f"nobody knows which labels of '{ctx.data.name}' are wrong; try noisy:base=({ctx.data.name})"
        )
    if len(clean) != len(train) or not torch.equal(clean.images, train.images):
        raise Unsupported(
            f"the true labels that '{ctx.data.name}' keeps are of other records; put noisy outermost"
        )
    noise = WrongLabels.of(clean.labels, train.labels, ctx.data.num_classes)
    if noise.rate == 0:
        raise Unsupported("no training label is wrong")
    return noise


def chance_of_repeating(said: Tensor, true: Tensor, of: Tensor, wrong: Tensor) -> float:
    """How often victims give wrongly labelled records' wrong labels to rightly labelled records of the same classes.

    Args:
        said: (V, N) answers on rightly labelled records.
        true: (N,) their labels.
        of, wrong: (M,) true and wrong label of the others.
    """
    k = int(max(said.max(), true.max(), of.max(), wrong.max())) + 1
    cells = torch.bincount((true * k + said).flatten(), minlength=k * k).view(k, k).double()
    share = cells / cells.sum(1, keepdim=True).clamp(min=1)
    return float(share[of, wrong].mean())


def at_rate(ctx: Context, noise: WrongLabels, rate: float) -> Context:
    """The context on the same records with the same kind of noise at another rate."""
    data, g = ctx.data, ctx.generator("noise", "rate", rate)

    def labelled(split: ImageData, clean: ImageData | None) -> ImageData:
        true = split.labels if clean is None else clean.labels
        return replace(split, labels=noise.again(true, rate, g))

    made = replace(
        data,
        train=labelled(data.train, data.extra.get(TRUE_TRAIN)),
        validation=labelled(data.validation, data.extra.get(TRUE_VALIDATION)),
    )
    return replace(ctx, data=made)


def _crossing(rates: Sequence[float], ahead: Tensor, drawn: Tensor, n: int) -> Interval | None:
    """The first rate at which the set passes, by lines between rates; None where it does not, or resamples differ.

    Args:
        ahead: (R,) accuracy of the set less that of full training.
        drawn: (R, B) the same on resamples of the test records.
    """
    x = torch.tensor(rates, dtype=torch.float64)

    def first(line: Tensor) -> float:
        for k in range(len(line) - 1):
            below, above = float(line[k]), float(line[k + 1])
            if below < 0 <= above:
                return float(x[k] + (x[k + 1] - x[k]) * -below / (above - below))
        return float("nan")

    value = first(ahead)
    found = torch.tensor([first(column) for column in drawn.T], dtype=torch.float64)
    known = found[torch.isfinite(found)]
    if value != value or len(known) < 0.95 * len(found):
        return None
    low, high = quantiles(known, 0.95)
    return Interval(value, min(low, value), max(high, value), n)


def _sample(index: Tensor, noise: WrongLabels, count: int) -> Tensor:
    """A fixed sample of these positions, spread evenly over true classes."""
    spot = ImageData(
        index.view(-1, 1, 1, 1).float(), noise.true[index],
        tuple(map(str, range(len(noise.moves)))), space="standard",
    )  # fmt: skip
    return stratified(spot, count, even=True).images.flatten().long()
