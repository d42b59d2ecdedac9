"""The private reader: a part that turns any matching recipe into a differentially private one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.privacy.accounting import (
    ADDED,
    all_accountants,
    best_accountant,
    calibrate,
    calibrate_tight,
    check_delta,
    cross_check,
    epsilon,
)
from ddaudit.defenses.privacy.cells import CellWeights, cell_weights
from ddaudit.defenses.privacy.source import Plan, PrivateSource
from ddaudit.distillation.parts import Layout, Opening, Query, TargetRule, Targets
from ddaudit.distillation.reading import load_batch
from ddaudit.distillation.targets import ByClass, refuse_coupling
from ddaudit.errors import BadInput
from ddaudit.sets import PrivacyClaim

UNIT = "one record of the data given, whose split and construction depend on that record alone"


@dataclass(frozen=True)
class PoissonGaussian:
    """Reads private records only through Poisson-subsampled, clipped sums with Gaussian noise.

    Attributes:
        epsilon, delta: the claim to calibrate sigma for (add-or-remove-one record).
        sigma: noise multiplier; None calibrates it, a number overrides ``epsilon`` (the claim is then computed).
        clip: L2 bound on each record's signal; None, where the objective knows none, has to be set.
        batch: expected records per query, of each class ("per-class") or in all ("uniform").
        sampling: "per-class" takes each record of class c with probability batch / n_c; "uniform" with batch / n;
            "full" takes every record.
        scale: "sum" weighs each row's loss by its expected mass squared (NDPDC matches sums), "mean" by 1.
        counts: "public" treats class counts as known; "noisy" pays for them with ``count_share`` of epsilon (and,
            where they set the sampling rate, of delta: see :attr:`adaptive`).
        count_share: that share, when counts are noisy.
        noise_seed: for tests only; see :class:`PrivateSource`.
    """

    epsilon: float = 10.0
    delta: float = 1e-5
    sigma: float | None = None
    clip: float | None = 1.0
    batch: int = 50
    sampling: Literal["per-class", "uniform", "full"] = "per-class"
    scale: Literal["sum", "mean"] = "sum"
    counts: Literal["public", "noisy"] = "public"
    count_share: float = 0.1
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")
        if (
            (self.clip is not None and not self.clip > 0)
            or self.batch < 1
            or (self.sigma is not None and not self.sigma > 0)
        ):
            raise ValueError("clip and sigma must be positive and batch at least 1")
        for value, options in (
            (self.sampling, ("per-class", "uniform", "full")),
            (self.scale, ("sum", "mean")),
            (self.counts, ("public", "noisy")),
        ):
            if value not in options:
                raise ValueError(f"'{value}' is none of {', '.join(options)}")
        if not 0 < self.count_share < 1:
            raise ValueError(f"count_share must lie in (0, 1), got {self.count_share}")

    @property
    def private(self) -> bool:
        """Always."""
        return True

    @property
    def adaptive(self) -> bool:
        """Whether noisy counts set the rate, and by it the noise, of the sums that follow.

        A ledger composes queries that were fixed before any answer. Here the second part is chosen from the answer
        of the first, and a sum of losses that depend on each other may have a heavier tail than the ledger's. What
        holds for every choice is fixed beforehand instead: counts within (share * epsilon, share * delta), sums
        within the rest whatever the counts read, and both added (basic composition; Rogers et al., Privacy
        Odometers and Filters, NeurIPS 2016, on why advanced composition does not hold as it stands).
        """
        return self.counts == "noisy" and self.sampling != "full"

    def check(self, data: ImageData) -> None:
        """Refuse a delta that would allow publishing a record, and a clip that nobody has chosen.

        Raises:
            BadInput: delta >= 1 / n, no clip, or a noise that fixes no claim.
        """
        self.bound()
        check_delta(self.delta, len(data))

    def bound(self) -> float:
        """The clip.

        Raises:
            BadInput: there is none; or the noise that is set fixes no claim.
        """
        if self.adaptive and self.sigma is not None:
            raise BadInput(
                "reader.sigma",
                "fixes no claim where noisy counts set the sampling rate: epsilon would depend on the answer",
                "Leave it out, or use reader.sampling=full or reader.counts=public.",
            )
        if self.clip is None:
            raise BadInput(
                "reader.clip",
                "is not set, and no clip is known for the signals of this objective",
                "Choose one on public data: --set reader.clip=... (half of the signals' norms is a start).",
            )
        return self.clip

    def open(self, data: ImageData, members: Tensor, opening: Opening) -> PrivateTargets:
        """Calibrate the noise for the opening's queries. Its public seed does not reach the gate.

        Raises:
            BadInput: delta >= 1 / n, no clip, a rule that couples records, a class without records under public
                counts, or noisy counts with a rule that needs exact ones.
        """
        clip = self.bound()
        refuse_coupling(opening.rule, "a private reader")
        for n in (int(members.sum(1).max()), int(members.sum(1).min())):
            check_delta(self.delta, n)
        gate = self.gate(data, members)
        counts = self._counts(data, members, opening.rule, gate)
        by_class = self._rates(data, counts)
        q = float(by_class.max())
        sigma = self.sigma
        if sigma is None:
            epsilon, delta = self._for_sums()
            spent = [] if self.adaptive else gate.ledger("")
            sigma = calibrate_tight(
                epsilon=epsilon, delta=delta, q=q, count=opening.queries, spent=spent
            )
        drawn = counts * by_class
        weights = cell_weights(opening.rule, data, drawn.mean(0))
        gate.plan(Plan(by_class[data.labels], clip, sigma, opening.queries, q, opening.again))
        mass = (
            gate.expected_mass(weights.table)
            if self.counts == "public"
            else drawn @ weights.by_class()[..., 0].T
        )
        return PrivateTargets(self, gate, data, opening, weights, mass)

    def _for_counts(self) -> tuple[float, float]:
        """(epsilon, delta) that noisy counts may cost."""
        share = self.count_share
        return share * self.epsilon, (share if self.adaptive else 1.0) * self.delta

    def _for_sums(self) -> tuple[float, float]:
        """(epsilon, delta) within which the sums stay: alone where counts chose their noise, else with the counts."""
        left = 1 - self.count_share if self.adaptive else 1.0
        return left * self.epsilon, left * self.delta

    def gate(self, data: ImageData, members: Tensor) -> PrivateSource:
        """The gate that this reader reads through, without a plan yet."""
        return PrivateSource(data, members, noise_seed=self.noise_seed)

    def _counts(
        self, data: ImageData, members: Tensor, rule: TargetRule, gate: PrivateSource
    ) -> Tensor:
        """(K, num_classes) records per class of each run: exact where they are public, else a noisy release."""
        if self.counts == "public":
            return torch.stack(
                [torch.bincount(data.labels[m], minlength=data.num_classes) for m in members]
            ).float()
        weights = cell_weights(rule, data)
        if weights.assumed or weights.differ_by_group:
            exact = " and ".join(weights.assumed) or "(class, group) counts"
            raise BadInput(
                "reader.counts=noisy",
                f"{type(rule).__name__} weighs records by exact {exact}",
                "Use counts=public, which declares them on the card, or leave 'fair' or 'balanced' out.",
            )
        epsilon, delta = self._for_counts()
        sigma = self.sigma or calibrate(epsilon=epsilon, delta=delta, q=1.0, count=1)
        return (
            gate.noisy_count("class counts", lambda index: ByClass().rows(data, index), sigma=sigma)
            .round()
            .clamp_min(1.0)
        )

    def _rates(self, data: ImageData, counts: Tensor) -> Tensor:
        """(num_classes,) inclusion probability of a record of each class.

        The smallest class of any of K runs sets the rate, so one sigma serves all.
        """
        if self.sampling == "full":
            return torch.ones(data.num_classes)
        if self.sampling == "uniform":
            total = float(counts.sum(1).min())
            return torch.full((data.num_classes,), min(1.0, self.batch / max(total, 1.0)))
        smallest = counts.amin(0)
        if self.counts == "public" and bool((smallest == 0).any()):
            empty = data.class_names[int(smallest.argmin())]
            raise BadInput(
                f"class '{empty}'",
                "has no training record, and per-class sampling needs one",
                "Use --set reader.sampling=uniform or --set reader.counts=noisy.",
            )
        return (self.batch / smallest.clamp_min(1.0)).clamp(max=1.0)


class PrivateTargets:
    """A recipe's view of the gate: queries in, noisy target rows out, claims at the end."""

    def __init__(
        self,
        config: PoissonGaussian,
        gate: PrivateSource,
        data: ImageData,
        opening: Opening,
        weights: CellWeights,
        mass: Tensor,
    ) -> None:
        self.layout: Layout = weights.layout
        self.clip: float | None = config.clip
        self.gate = gate
        self._config, self._data, self._opening, self._weights = config, data, opening, weights
        self._runs = len(mass)
        self._mass = mass.to(opening.device)

    def targets(self, query: Query) -> Targets:
        """Noisy sums divided by their expected (never the sampled) mass."""

        def signals(index: Tensor) -> Tensor:
            x, y = load_batch(self._data, index, self._opening, query.augment)
            return query.objective.signals(query.net, x, y)

        sums = self.gate.noisy_sum(query.id, signals, self._weights.rows)
        values = sums / self._mass.clamp_min(1e-6)[..., None]
        weights = (
            self._mass.square() if self._config.scale == "sum" else torch.ones_like(self._mass)
        )
        weights = torch.where(self._mass > 0, weights, 0.0)
        return Targets(values, self.layout.weigh(weights))

    def claims(self) -> list[PrivacyClaim | None]:
        """The claim of each run, re-derived from what was really asked, cross-checked by every accountant.

        Raises:
            BadInput: an accountant proves more than the claimed epsilon.
        """
        config = self._config
        kind = type(self._opening.rule).__name__
        ledger = self.gate.ledger(f"clipped {kind} sums")
        spent = epsilon(ledger, config.delta)
        accountant: str = best_accountant(ledger, config.delta)
        if config.adaptive:
            for part, (e, d) in (
                (ledger[:-1], config._for_counts()),
                (ledger[-1:], config._for_sums()),
            ):
                cross_check(e, part, d)
            spent, accountant = config.epsilon, ADDED
        elif config.sigma is None:
            cross_check(config.epsilon, ledger, config.delta)
        claim = PrivacyClaim(
            epsilon=spent,
            delta=config.delta,
            relation="add-or-remove-one",
            unit=UNIT,
            accountant=accountant,
            sampling="full batch" if config.sampling == "full" else f"poisson, {config.sampling}",
            clip=config.clip,
            mechanism="subsampled Gaussian on clipped sums, noise drawn once per query, answers rounded to multiples "
            f"of {self.gate.step:g}, coins and noise from {self.gate.origin}",
            ledger=ledger,
            cross_checks=all_accountants(ledger, config.delta),
            public=self._public(),
            release=self.gate.release,
            noise_seed_published=config.noise_seed is not None,
        )
        if self._runs == 1:
            return [claim]
        # Every run has coins and noise of its own: publishing several is several releases.
        names = [f"{self.gate.release}/run {k}" for k in range(self._runs)]
        return [claim.model_copy(update={"release": name}) for name in names]

    def _public(self) -> list[str]:
        """What the claim treats as known to everybody."""
        config = self._config
        # Standardised values are taken as they are; data that know what made them say more in ``assumed``.
        halves = bool((self._opening.mean == 0.5).all() and (self._opening.std == 0.5).all())
        public = [
            "image shape and class names",
            "normalisation constants 0.5 / 0.5" if halves else "what values were standardised by",
            "starting values, networks, augmentations and their seeds, all drawn without the records",
        ]
        if config.counts == "public":
            # The expected mass of a class row needs the class's count, whatever the sampling.
            fine = config.sampling == "per-class" or self._weights.differ_by_class
            public.insert(0, "class counts" if fine else "number of records")
        else:
            public.insert(0, f"that there are fewer than {1 / config.delta:.3g} records")
        if self._weights.differ_by_group:
            public.append("(class, group) counts")
        public += self._weights.assumed
        return list(dict.fromkeys([*public, *self._opening.assumed]))
