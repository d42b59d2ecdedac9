"""The private reader: a part that turns any matching recipe into a differentially private one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddaudit.data import ImageData
from ddaudit.defenses.privacy.accounting import (
    all_accountants,
    calibrate_tight,
    check_delta,
    cross_check,
    epsilon,
)
from ddaudit.defenses.privacy.source import PrivateSource
from ddaudit.distill.parts import Layout, Query, TargetRule, Targets
from ddaudit.distill.reading import load_batch
from ddaudit.errors import BadInput
from ddaudit.sets import PrivacyClaim


@dataclass(frozen=True)
class PoissonGaussian:
    """Reads private records only through Poisson-subsampled, clipped sums with Gaussian noise.

    Attributes:
        epsilon, delta: the claim to calibrate sigma for (add-or-remove-one record).
        sigma: noise multiplier; None calibrates it, a number overrides ``epsilon`` (the claim is then computed).
        clip: L2 bound on each record's signal.
        batch: expected records per query, of each class ("per-class") or in all ("uniform").
        sampling: "per-class" takes each record of class c with probability batch / n_c; "uniform" with batch / n.
        scale: "sum" weighs each row's loss by its expected mass squared (NDPDC matches sums), "mean" by 1.
        noise_seed: for tests only; see :class:`PrivateSource`.
    """

    epsilon: float = 10.0
    delta: float = 1e-5
    sigma: float | None = None
    clip: float = 1.0
    batch: int = 50
    sampling: Literal["per-class", "uniform"] = "per-class"
    scale: Literal["sum", "mean"] = "sum"
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie in (0, 1), got {self.delta}")
        if not self.clip > 0 or self.batch < 1 or (self.sigma is not None and not self.sigma > 0):
            raise ValueError("clip and sigma must be positive and batch at least 1")
        if self.sampling not in ("per-class", "uniform") or self.scale not in ("sum", "mean"):
            raise ValueError("sampling is 'per-class' or 'uniform', scale is 'sum' or 'mean'")

    @property
    def private(self) -> bool:
        """Always."""
        return True

    def check(self, data: ImageData) -> None:
        """Refuse a delta that would allow publishing a record.

        Raises:
            BadInput: delta >= 1 / n.
        """
        check_delta(self.delta, len(data))

    def open(
        self,
        data: ImageData,
        members: Tensor,
        *,
        rule: TargetRule,
        mean: Tensor,
        std: Tensor,
        queries: int,
        seed: int,
        device: torch.device,
    ) -> PrivateTargets:
        """Calibrate the noise for ``queries`` queries and open the gate. The public ``seed`` does not reach it.

        Raises:
            BadInput: delta >= 1 / n, or a class without records.
        """
        for n in (int(members.sum(1).max()), int(members.sum(1).min())):
            check_delta(self.delta, n)
        rates = self._rates(data, members)
        sigma = (
            self.sigma
            if self.sigma is not None
            else calibrate_tight(
                epsilon=self.epsilon, delta=self.delta, q=float(rates.max()), count=queries
            )
        )
        gate = PrivateSource(
            data,
            members,
            rates=rates,
            clip=self.clip,
            sigma=sigma,
            budget=queries,
            noise_seed=self.noise_seed,
        )
        return PrivateTargets(self, gate, data, rule, mean, std, device)

    def _rates(self, data: ImageData, members: Tensor) -> Tensor:
        """(N,) inclusion probabilities; the smallest class of any of K runs sets the rate, so one sigma serves all."""
        if self.sampling == "uniform":
            return torch.full((len(data),), min(1.0, self.batch / int(members.sum(1).min())))
        counts = torch.stack(
            [torch.bincount(data.labels[m], minlength=data.num_classes) for m in members]
        ).amin(0)
        if bool((counts == 0).any()):
            empty = data.class_names[int(counts.argmin())]
            raise BadInput(
                f"class '{empty}'",
                "has no training record, and per-class sampling needs one",
                "Use --set reader.sampling=uniform.",
            )
        return (self.batch / counts[data.labels].float()).clamp(max=1.0)


class PrivateTargets:
    """A recipe's view of the gate: queries in, noisy target rows out, claims at the end."""

    def __init__(
        self,
        config: PoissonGaussian,
        gate: PrivateSource,
        data: ImageData,
        rule: TargetRule,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
    ) -> None:
        self.layout: Layout = rule.layout(data)
        self.clip: float | None = config.clip
        self.gate = gate
        self._config, self._data, self._rule = config, data, rule
        self._mean, self._std, self._device = mean, std, device
        self._mass = gate.expected_mass(lambda index: rule.rows(data, index)).to(device)

    def targets(self, query: Query) -> Targets:
        """Noisy sums divided by their expected (never the sampled) mass."""

        def signals(index: Tensor) -> Tensor:
            x, y = load_batch(self._data, index, self._mean, self._std, query.augment, self._device)
            return query.objective.signals(query.net, x, y)

        sums = self.gate.noisy_sum(
            query.id, signals, lambda index: self._rule.rows(self._data, index)
        )
        values = sums / self._mass.clamp_min(1e-6)[..., None]
        weights = (
            self._mass.square() if self._config.scale == "sum" else torch.ones_like(self._mass)
        )
        return Targets(values, torch.where(self._mass > 0, weights, 0.0))

    def claims(self) -> list[PrivacyClaim | None]:
        """The claim of each run, re-derived from what was really asked, cross-checked by every accountant.

        Raises:
            BadInput: an accountant proves more than the claimed epsilon.
        """
        config = self._config
        kind = type(self._rule).__name__
        ledger = self.gate.ledger(f"clipped {kind} sums")
        spent = epsilon(ledger, config.delta)
        if config.sigma is None:
            cross_check(config.epsilon, ledger, config.delta)
        public = [
            # The expected mass of a class row needs the class's count, whatever the sampling.
            "number of records"
            if config.sampling == "uniform" and kind == "Joint"
            else "class counts",
            "image size and class names",
            "normalisation constants 0.5 / 0.5",
            "initial images N(0, 1)",
            "networks, augmentations and their seeds",
        ]
        if kind == "Barycentre" or kind == "ByGroup":
            public.append("(class, group) counts")
        claim = PrivacyClaim(
            epsilon=spent,
            delta=config.delta,
            relation="add-or-remove-one",
            accountant="pld",
            sampling=f"poisson, {config.sampling}",
            clip=config.clip,
            mechanism="subsampled Gaussian on clipped sums, noise drawn once per query",
            ledger=ledger,
            cross_checks=all_accountants(ledger, config.delta),
            public=public,
            noise_seed_published=config.noise_seed is not None,
        )
        return [claim] * len(self.gate._members)
