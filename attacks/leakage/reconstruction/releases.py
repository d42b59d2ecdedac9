"""Clues from the noisy sums of a private recipe: an observer that keeps them, and their likelihood."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ddaudit.attacks.leakage.reconstruction.gaussian import LowRankNormal, low_rank_normal, stack
from ddaudit.attacks.leakage.reconstruction.inversion import Case
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.distillation.objectives import MeanEmbedding, clip_factor
from ddaudit.distillation.parts import Layout, Opening, Query, Source, Targets
from ddaudit.distillation.reading import Around, augment_by_class
from ddaudit.sets import PrivacyClaim

Signal = Callable[[Tensor, Tensor], Tensor]
"""(pixels (B, C, H, W), labels (B,)) -> (B, D), differentiable in the pixels."""

_LEAST_NOISE = 1e-4
"""Noise assumed at least, as a share of the clip: without any, the likelihood is infinitely sharp."""
_LEAST_SAMPLED = 1e-2
"""The same where records are sampled: a sharper likelihood makes up its mind about every coin at the first
guess, and the descent stops there.
"""


@dataclass(frozen=True, eq=False)
class NoisySums:
    """What one private query made public about one run, and how it was made.

    Attributes:
        signal: what any image would have added.
        sums: (R, D) noisy sums of sampled, clipped signals.
        rows: records -> (R, N) their weights in the sums.
        rates: (R,) probability that a record of the row was sampled.
        noise: standard deviation of the noise in each coordinate.
        clip: bound on each record's signal.
    """

    signal: Signal
    sums: Tensor
    rows: Callable[[ImageData], Tensor]
    rates: Tensor
    noise: float
    clip: float


class Log:
    """Noisy sums of every run of a recipe, in the order of the queries.

    Args:
        most: queries kept of each run.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._runs: list[tuple[Tensor, list[NoisySums]]] = []
        self.blind: str | None = None
        """Why some release could not be used, or None."""
        self.asked = 0
        """Different queries of the run that asked most."""

    def of(self, members: Tensor) -> list[NoisySums]:
        """What was released of the run on ``members`` (N,) bool."""
        for seen, found in self._runs:
            if torch.equal(seen, members):
                return found
        return []

    def enter(self, members: Tensor) -> list[list[NoisySums]]:
        """Empty lists for the runs (K, N) that are about to start."""
        fresh: list[list[NoisySums]] = [[] for _ in members]
        self._runs += list(zip(members, fresh, strict=True))
        return fresh


@dataclass(frozen=True)
class Observed(Around):
    """A private recipe's reader that keeps its noisy sums in a log and changes nothing."""

    log: Log = field(repr=False)

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> Source:
        """Open the reader inside, with every answer copied to the log."""
        return _ObservedSource(self.reader.open(data, members, opening), self.log, members, opening, data)  # fmt: skip


class _ObservedSource:
    def __init__(
        self, source: Source, log: Log, members: Tensor, opening: Opening, data: ImageData
    ) -> None:
        self.layout: Layout = source.layout
        self.clip: float | None = source.clip
        self._source, self._log, self._opening = source, log, opening
        self._members, self._data = members, data
        self._lists = log.enter(members)
        self._asked: set[str] = set()

    def targets(self, query: Query) -> Targets:
        found = self._source.targets(query)
        if query.id not in self._asked:
            self._asked.add(query.id)
            self._log.asked = max(self._log.asked, len(self._asked))
            if len(self._asked) <= self._log.most:
                self._keep(query)
        return found

    def claims(self) -> list[PrivacyClaim | None]:
        return self._source.claims()

    def _keep(self, query: Query) -> None:
        gate = getattr(self._source, "gate", None)
        if not isinstance(gate, PrivateSource) or self.clip is None:
            self._log.blind = "its private reader does not say how its noise was made"
            return
        stored = gate.releases().get(query.id)
        signal = differentiable(query, self._opening, clip=self.clip, shape=self._data.shape)
        if stored is None or signal is None:
            self._log.blind = "its releases cannot be followed back to pixels by gradient descent"
            return
        rule = self._opening.rule
        weights = rule.rows(self._data, torch.arange(len(self._data)))
        mass = gate.expected_mass(lambda index: rule.rows(self._data, index))
        rates = mass / (self._members.float() @ weights.T).clamp_min(1e-12)
        rates = torch.where(rates > 1 - 1e-5, 1.0, rates.clamp_min(1e-6))
        sigma = gate.ledger("")[-1].sigma
        for k, kept in enumerate(self._lists):
            kept.append(
                NoisySums(
                    signal,
                    stored[k],
                    lambda records: rule.rows(records, torch.arange(len(records))),
                    rates[k],
                    sigma * self.clip,
                    self.clip,
                )
            )


def differentiable(
    query: Query, opening: Opening, *, clip: float, shape: tuple[int, int, int]
) -> Signal | None:
    """The signal of a query as a function of pixels that gradients pass through.

    The network is copied: recipes go on training the one they asked with.

    Returns:
        None for objectives whose signals cannot be differentiated.
    """
    query = replace(query, net=copy.deepcopy(query.net))
    net, mean, std = query.net, opening.mean.to(opening.device), opening.std.to(opening.device)
    if net is not None:
        net.requires_grad_(False)

    def signal(pixels: Tensor, labels: Tensor) -> Tensor:
        x = augment_by_class((pixels - mean) / std, labels, query.augment)
        if net is not None and isinstance(query.objective, MeanEmbedding):
            z: Tensor = net.body.features(x).float()
        else:
            z = query.objective.signals(net, x, labels).float()
        return z * clip_factor(z, clip)

    probe = torch.full((1, *shape), 0.5, device=opening.device, requires_grad=True)
    try:
        passes = signal(probe, torch.zeros(1, dtype=torch.int64, device=probe.device)).requires_grad
    except (RuntimeError, AttributeError):
        return None
    return signal if passes else None


@dataclass(frozen=True, eq=False)
class SumClue:
    """Noisy sums, less what the known records added on average, as evidence about each unknown one.

    A record is in a sum by the toss of a coin. Its own coin is summed over (the likelihood is a mixture of "in" and
    "not in"); the coins of the known records are normal noise along their signals, on top of the noise added on
    purpose.

    Attributes:
        signal: of images.
        labels: (J,) classes.
        rest: (J, D) sums less the expected part of the known records.
        weights: (J,) weight of each target in its sum.
        rates: (J,) probability that it was sampled.
        noise: one distribution for all targets, or a stack with one for each.
    """

    signal: Signal
    labels: Tensor
    rest: Tensor
    weights: Tensor
    rates: Tensor
    noise: LowRankNormal

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        """(B,) negative log-likelihood of candidates."""
        part = self.weights[which, None] * self.signal(images, self.labels[which])
        rest = self.rest[which]
        inside = 0.5 * self._squared(rest - part, which)
        rate = self.rates[which]
        if bool((rate >= 1).all()):
            return inside
        outside = 0.5 * self._squared(rest, which)
        tiny = math.exp(-80)
        return -torch.logaddexp(rate.log() - inside, (1 - rate).clamp_min(tiny).log() - outside)

    def _squared(self, e: Tensor, which: Tensor) -> Tensor:
        noise = self.noise if self.noise.axes.ndim == 2 else self.noise.pick(which)
        return noise.squared(e)


def sum_clue(seen: NoisySums, case: Case) -> SumClue:
    """The clue in one query's sums about the targets of a case."""
    device = seen.sums.device
    weights = seen.rows(case.pool)
    row = weights[:, case.targets].argmax(0)
    own = weights[row, case.targets].to(device)
    used = torch.unique(row)
    relevant = (case.members & (weights[used] > 0).any(0)).nonzero().squeeze(1)
    relevant = torch.unique(torch.cat([relevant, case.targets]))
    with torch.no_grad():
        z = seen.signal(
            case.pool.pixels(relevant).to(device), case.pool.labels[relevant].to(device)
        )
    inside = case.members[relevant].float()
    w = (weights[:, relevant] * inside).to(device)
    rates = seen.rates.to(device)
    known = (rates[:, None] * w) @ z
    at = torch.searchsorted(relevant, case.targets)
    present = inside[at].to(device)
    row = row.to(device)
    mine = (present * own * rates[row])[:, None] * z[at.to(device)]
    rest = seen.sums[row] - known[row] + mine
    everyone = bool((rates[row] >= 1).all())
    least = _LEAST_NOISE if everyone else _LEAST_SAMPLED
    floor = max(seen.noise, least * seen.clip) ** 2
    if everyone:
        noise = low_rank_normal(z[:0], floor=floor)
    else:
        certain = case.known[relevant].to(device)
        by_row = {}
        for r in torch.unique(row).tolist():
            coins = w[r] * certain * (rates[r] * (1 - rates[r])).sqrt()
            by_row[r] = low_rank_normal(coins[coins > 0, None] * z[coins > 0], floor=floor)
        several = len(by_row) > 1
        noise = stack([by_row[r] for r in row.tolist()]) if several else by_row[int(row[0])]
    return SumClue(seen.signal, case.labels.to(device), rest, own, rates[row], noise)
