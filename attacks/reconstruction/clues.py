"""What a release says of unknown records: clues from a finished set, and from the noisy sums of a private recipe."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.attacks._common.features import exact_copies, neighbours
from ddaudit.attacks._common.releases import Release
from ddaudit.attacks.reconstruction.inversion import Case, LowRankNormal, low_rank_normal, stack
from ddaudit.data import ImageData
from ddaudit.defenses.privacy.cells import cell_weights
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.distillation.objectives import MeanEmbedding, clip_factor
from ddaudit.distillation.parts import Opening, Query, Source, TargetRule
from ddaudit.distillation.reading import augment_by_class
from ddaudit.models import Network
from ddaudit.sets import DistilledSet
from ddaudit.training import features

Signal = Callable[[Tensor, Tensor], Tensor]
"""(pixels (B, C, H, W), labels (B,)) -> (B, D), differentiable in the pixels."""

_SHARPEST = 1e-3
"""Smallest disturbance assumed, as a share of how much embeddings of one class vary."""
_CORESET = 0.5
"""A set with at least this share of verbatim known records is taken for a collection of real records."""
_LEAST_NOISE = 1e-4
"""Noise assumed at least, as a share of the clip: without any, the likelihood is infinitely sharp."""
_LEAST_SAMPLED = 1e-2
"""The same where records are sampled: a sharper likelihood makes up its mind about every coin at the first
guess, and the descent stops there.
"""


@dataclass(frozen=True, eq=False)
class SetClue:
    """The class means of a set's embeddings under one network, as sums that the real records nearly have.

    Attributes:
        network: pixels -> embedding.
        rest: (J, D) what is left for the embedding of each unknown record.
        sharpness: (J,) half the inverse variance of a coordinate of ``rest``; 0 where the set has no such class.
    """

    network: Network
    rest: Tensor
    sharpness: Tensor

    def surprise(self, images: Tensor, which: Tensor) -> Tensor:
        """(B,) negative log-likelihood of candidates."""
        off = self.rest[which] - self.network.embed(images)
        return self.sharpness[which] * off.square().sum(1)


def set_clues(
    released: DistilledSet, case: Case, rule: TargetRule, networks: Sequence[Network]
) -> list[SetClue]:
    """One clue per random network: n times the set's class mean, less the known records of the class.

    How far a set's means are off is read from the classes that the attacker knows completely: the same
    difference with no record unknown. Networks share that disturbance, so their clues are not independent.

    Args:
        released: the set under attack.
        case: its records and targets.
        rule: one row of weights per class over real records: what the recipe matched.
        networks: untrained networks that anybody can draw, in eval mode; best of the family that the recipe uses.
    """
    pool, members = case.pool, case.members.float()
    soft = released.labels if released.soft else F.one_hot(released.labels, released.num_classes)
    share = soft.float().T
    share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
    weights = rule.rows(pool, torch.arange(len(pool)))
    row = weights[:, case.targets].argmax(0)
    own = weights[row, case.targets]
    inside = weights * members
    mass = inside.sum(1)
    complete = (mass > 0) & (share.sum(1) > 0)
    left_out = own * members[case.targets]
    target_mass = mass[row] - left_out + own
    clues = []
    for network in networks:
        z, s = features(network, pool.pixels()), share @ features(network, released.images)
        total = inside @ z
        rest = target_mass[:, None] * s[row] - total[row] + left_out[:, None] * z[case.targets]
        # Squared relative to the number of records, so that classes of other sizes can be compared.
        off = (s - total / mass.clamp_min(1e-12)[:, None]).square().sum(1)
        least = _SHARPEST * _within(z, pool.labels, case.known)
        spread = torch.stack(
            [
                _elsewhere(off, complete, int(r)) * m**2
                for r, m in zip(row, target_mass, strict=True)
            ]
        )
        spread = (spread / own**2).clamp_min(least)
        sharpness = 0.5 * z.shape[1] / spread * complete[row]
        network.requires_grad_(False)
        clues.append(
            SetClue(
                network,
                (rest / own[:, None]).to(network.device),
                sharpness.to(network.device),
            )
        )
    return clues


def unexplained(released: DistilledSet, case: Case) -> list[Tensor | None]:
    """For each target, the released image of its class that no known record explains, where that shows the record.

    Only a set that mostly consists of verbatim real records (a coreset) is read this way: in any other set no
    image is explained, and being unexplained says nothing.

    Returns:
        J entries, (C, H, W) or None.
    """
    images, labels, size = released.images, released.hard_labels, released.images[0].numel()
    always = neighbours(images, case.pool.pixels(case.known)).distance
    inside = case.members[case.targets]
    to_target = torch.cdist(images.flatten(1).double(), case.truth.flatten(1).double())
    out: list[Tensor | None] = []
    for j, label in enumerate(case.labels.tolist()):
        # The other targets are known to this one's attacker, if they are in.
        also = inside & (torch.arange(len(inside)) != j)
        nearest = torch.cat([always[:, None], to_target[:, also]], 1).amin(1)
        copies = exact_copies(nearest, pixels=size)
        odd = (~copies & (labels == label)).nonzero().squeeze(1)
        coreset = float(copies.double().mean()) >= _CORESET
        out.append(images[odd[0]].clamp(*case.pool.bounds) if coreset and len(odd) else None)
    return out


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
    """An observer that keeps the noisy sums of every run of a recipe, in the order of the queries.

    Args:
        most: queries kept of each run.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._openings: dict[Source, _Opened] = {}
        self.blind: str | None = None
        """Why some release could not be used, or None."""

    @property
    def asked(self) -> int:
        """Different queries of the run that asked most."""
        return max((len(opened.asked) for opened in self._openings.values()), default=0)

    def of(self, members: Tensor) -> list[NoisySums]:
        """What was released of the run on ``members`` (N,) bool."""
        for opened in self._openings.values():
            for own, sums in zip(opened.members, opened.sums, strict=True):
                if torch.equal(own, members):
                    return sums
        return []

    def __call__(self, release: Release) -> None:
        fresh = _Opened(release.members, [[] for _ in release.members], set())
        opened = self._openings.setdefault(release.source, fresh)
        if release.query.id in opened.asked:
            return
        opened.asked.add(release.query.id)
        if len(opened.asked) <= self.most:
            self._keep(release, opened.sums)

    def _keep(self, release: Release, sums: list[list[NoisySums]]) -> None:
        gate, clip = getattr(release.source, "gate", None), release.source.clip
        if not isinstance(gate, PrivateSource) or clip is None:
            self.blind = "its private reader does not say how its noise was made"
            return
        stored = gate.releases().get(release.query.id)
        signal = differentiable(release.query, release.opening, clip=clip, shape=release.data.shape)
        if stored is None or signal is None:
            self.blind = "its releases cannot be followed back to pixels by gradient descent"
            return
        rule = release.opening.rule
        mass = gate.expected_mass(cell_weights(rule, release.data).table)
        rates = mass / (release.members.float() @ release.rows(release.data).T).clamp_min(1e-12)
        rates = torch.where(rates > 1 - 1e-5, 1.0, rates.clamp_min(1e-6))
        noise = gate.ledger("")[-1].sigma * clip
        for kept, values, rate in zip(sums, stored, rates, strict=True):
            kept.append(NoisySums(signal, values, release.rows, rate, noise, clip))


@dataclass(frozen=True, eq=False)
class _Opened:
    """One opening of a reader: K runs, what is kept of each, and the ids of the queries."""

    members: Tensor
    sums: list[list[NoisySums]]
    asked: set[str]


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
            z: Tensor = query.objective.measure(net, x).float()
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


def _within(z: Tensor, labels: Tensor, known: Tensor) -> float:
    """Mean squared distance of known embeddings to their class mean."""
    total, count = 0.0, 0
    for label in torch.unique(labels[known]).tolist():
        own = z[known & (labels == label)]
        total += float((own - own.mean(0)).square().sum())
        count += len(own)
    return max(total / max(count, 1), 1e-12)


def _elsewhere(off: Tensor, complete: Tensor, row: int) -> Tensor:
    """Mean of ``off`` over the complete classes other than ``row``."""
    others = complete.clone()
    others[row] = False
    return off[others].mean() if bool(others.any()) else off.mean()
