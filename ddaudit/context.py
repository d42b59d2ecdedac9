"""What is audited and what it is audited with: Subject, Preset, and the Context that hands out shared work."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation import Recipe, distill, distill_many, versions
from ddaudit.distillation.store import Store
from ddaudit.errors import BadInput, Unsupported
from ddaudit.models import Arch, Network, build
from ddaudit.seeds import stable_seed
from ddaudit.sets import DistilledSet
from ddaudit.stats import Resamples
from ddaudit.stats.resampling import COUNT
from ddaudit.training import (
    PROTOCOLS,
    Ascent,
    EvaluationProtocol,
    Extras,
    Robust,
    predict,
    require_finite,
    train_many,
)

TrainsBy = Literal["audit", "card", "adversarial"]
Kind = Literal["recipe", "file", "checkpoint"]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited: a recipe (can be re-distilled), a set file, or a trained checkpoint."""

    id: str
    kind: Kind
    recipe: Recipe | None = None
    set: DistilledSet | None = None
    network: Network | None = None
    path: Path | None = None
    baseline: bool = False
    """True for the reference rows (full, random, herding) that a report adds by itself."""
    identity: str = ""
    """Content hash of what is audited: two subjects with one identity give the same numbers."""
    notes: tuple[str, ...] = ()
    """What was assumed to read it, one sentence each."""
    place: str = ""
    """Where others find its file, ``hub:owner/name@commit/FILE``; empty: nobody says."""

    @property
    def private(self) -> bool:
        """True for a recipe that reads its records through a private reader."""
        return bool(self.recipe and self.recipe.reader and self.recipe.reader.private)


def recipe_subject(recipe: Recipe, *, baseline: bool = False) -> Subject:
    """A recipe as a subject, known by everything that it says of itself."""
    described = json.dumps(recipe.describe(), sort_keys=True)
    identity = hashlib.sha256(described.encode()).hexdigest()[:16]
    return Subject(recipe.name, "recipe", recipe, baseline=baseline, identity=identity)


LARGE = 512
"""Numbers in an image from which on it is large: 8x8 digits are small, 28x28 pictures large."""


class Preset(BaseModel):
    """How much work an audit does. A quick preset is smaller, never different."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    seeds: int
    victims: int
    """Networks trained per distilled set."""
    protocol: str
    reference_draws: int = 5
    """Seeds of the random subset, at least: it costs little, and every verdict is held against its spread."""
    light_draws: int = 10
    """The same for light auditors (``Auditor.light``): a spread known from ten draws decides what five leave open."""
    profile: Literal["small", "paper"]
    test_limit: int | None
    """At most this many test images (a fixed stratified sample); None: all."""
    large: bool = False
    """Whether this is the quick preset for large images."""

    def for_images(self, shape: Sequence[int]) -> Preset:
        """The preset for images (C, H, W): a quick audit takes minutes on large ones, too.

        Auditors then see three draws of the random subset, heavy ones a single one and no other baseline that nobody
        asked for, and they take their ``on_large`` settings; networks are trained for 200 passes over a set, not 300
        (random records of C-FMNIST, 10 a class, three draws: 33.1 % and 32.6 % right), those of all records for 600
        steps of 128 (one network: 66.8 % right), not 500 of 256 (68.0 %). Intervals are computed as ever, and wider.
        """
        if self.name != "quick" or math.prod(shape) < LARGE:
            return self
        return self.model_copy(
            update={"large": True, "reference_draws": 3, "light_draws": 3, "protocol": "brief"}
        )


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            name="quick", seeds=1, victims=3, protocol="quick", profile="small", test_limit=10_000
        ),
        Preset(
            name="standard", seeds=3, victims=3, protocol="dc", profile="small", test_limit=None
        ),
        Preset(name="full", seeds=5, victims=5, protocol="dc", profile="paper", test_limit=None),
    )
}


class Artifacts(Store, Protocol):
    """Where a context keeps sets, victims and what distillations share between cells (the run store implements it)."""

    def load_set(self, key: str) -> DistilledSet | None: ...
    def save_set(self, key: str, value: DistilledSet) -> None: ...
    def refuse_second_release(self, key: str) -> None: ...
    def load_networks(self, key: str, arch: Arch, data: Dataset) -> list[Network] | None: ...
    def save_networks(self, key: str, networks: Sequence[Network]) -> None: ...


@dataclass(eq=False)
class Context:
    """The shared work of one audit: data, victims, re-distillation, prediction, seeds.

    Everything is computed at most once per (subject, seed) and, with ``artifacts``, once per run folder.
    """

    data: Dataset
    preset: Preset
    arch: Arch
    ipc: int = 10
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    artifacts: Artifacts | None = None
    trains_by: TrainsBy = "audit"
    """Whose protocol victims are trained under: the audit's, the card's where a set states one, or the audit's on
    attacked batches (PGD-AT), which robust sets have to beat."""
    subjects: Mapping[str, Subject] = field(default_factory=dict, repr=False)
    """Everything that this audit compares, by id, baselines too; for auditors that set one against another."""
    _sets: dict[str, DistilledSet] = field(default_factory=dict, repr=False)
    _victims: dict[str, list[Network]] = field(default_factory=dict, repr=False)
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def protocol(self) -> EvaluationProtocol:
        """The audit's own evaluation protocol."""
        own = PROTOCOLS[self.preset.protocol].for_data(self.data.augment)
        if self.trains_by != "adversarial":
            return own
        return replace(own, robust=Robust(Ascent()))

    def protocol_for(self, distilled: DistilledSet) -> EvaluationProtocol:
        """The protocol that networks are trained under on a set; the audit's own unless ``trains_by`` is "card".

        Raises:
            BadInput: the card states a protocol that this version cannot follow.
        """
        return self.stated_protocol(distilled) if self.trains_by == "card" else self.protocol

    def stated_protocol(self, distilled: DistilledSet) -> EvaluationProtocol:
        """The protocol of a set's card, with its learned rate; the audit's where the card says nothing.

        Raises:
            BadInput: the card states a protocol that this version cannot follow.
        """
        card, stated = distilled.card, self.protocol
        if card.protocol is not None:
            where = f"card of {card.method}"
            stated = EvaluationProtocol.from_card(card.protocol, where=where)
        if card.learned_lr is not None:
            stated = replace(stated, lr=card.learned_lr)
        return stated.for_data(self.data.augment)

    def check_stated(self, distilled: DistilledSet, where: object) -> None:
        """Find out before any work whether networks can be trained as a set's card says.

        Raises:
            BadInput: they cannot; one line naming ``where``.
        """
        try:
            stated = self.stated_protocol(distilled)
        except BadInput as error:
            raise BadInput(where, f"{error.where}: {error.what}", error.todo) from None
        if lacking := missing_part(stated, distilled):
            what = f"its card's protocol '{stated.name}' {lacking}"
            raise BadInput(where, what, "Use --protocol audit.")

    def victim_key(self, protocol: EvaluationProtocol) -> str:
        """Names what victims depend on besides the set: architecture, protocol, count."""
        return f"{self.arch}-{protocol.key}-{self.preset.victims}"

    def seed_for(self, *parts: object) -> int:
        """A stable 31-bit seed derived from names, so that cells do not share randomness by accident."""
        return stable_seed(*parts)

    def generator(self, *parts: object) -> torch.Generator:
        """A CPU generator seeded by :meth:`seed_for`."""
        return torch.Generator().manual_seed(self.seed_for(*parts))

    def random_network(self, *name: object, arch: Arch | None = None) -> Network:
        """An untrained network that anybody can draw: in eval mode, of the audit's architecture unless given.

        Args:
            name: seeds it, see :meth:`seed_for`.
            arch: another architecture.
        """
        net = build(
            arch or self.arch,
            shape=self.data.shape,
            num_classes=self.data.num_classes,
            seed=self.seed_for(*name),
            mean=self.data.mean,
            std=self.data.std,
        )
        return net.to(self.device).eval()

    def test(self, limit: int | None = None) -> ImageData:
        """The test split, or a fixed sample, composed alike, of at most ``limit`` records of it."""
        limits = [v for v in (limit, self.preset.test_limit) if v is not None]
        return stratified(self.data.test, min(limits)) if limits else self.data.test

    def resamples(self, records: ImageData, count: int = COUNT) -> Resamples:
        """The resamples of these test records that every subject is scored on, so that numbers can be paired."""
        return Resamples(records.fingerprint, len(records), count)

    def require_pixels(self, why: str) -> None:
        """Refuse data whose values are no pixels; ``why`` says in a clause what needs them.

        Raises:
            Unsupported: standardised values (a table, say).
        """
        if self.data.space != "pixels":
            raise Unsupported(
                f"needs pixels ({why}), and '{self.data.name}' holds standardised {self.data.modality} values"
            )

    # ---- sets and victims ------------------------------------------------------------------------

    def set_key(self, subject: Subject, seed: int) -> str:
        """Names everything a distilled set depends on: what, from which data and constants, by which release."""
        data = self.data
        constants = repr((data.mean, data.std, data.augment, versions().get("ddaudit")))
        short = hashlib.sha256(constants.encode()).hexdigest()[:8]
        return f"{subject.identity}-{data.train.fingerprint}-{short}-ipc{self.ipc}-seed{seed}"

    def distilled(self, subject: Subject, seed: int) -> DistilledSet:
        """The subject's distilled set for this seed (files have one set for every seed).

        Raises:
            Unsupported: a checkpoint has no distilled set, or an image of the set is not finite.
        """
        if subject.set is not None:
            require_finite(subject.set.images, "the set's images")
            return subject.set
        if subject.recipe is None:
            raise Unsupported("a checkpoint comes without its distilled set")
        key = self.set_key(subject, seed)
        if key not in self._sets:
            stored = self.artifacts.load_set(key) if self.artifacts else None
            if stored is None:
                if self.artifacts and subject.private:
                    self.artifacts.refuse_second_release(key)
                stored = self.redistill(subject, self.data.train, seed)
                if self.artifacts:
                    self.artifacts.save_set(key, stored)
            require_finite(stored.images, "the set's images")
            self._sets[key] = stored
        return self._sets[key]

    def victims(
        self, subject: Subject, seed: int, *, protocol: EvaluationProtocol | None = None
    ) -> list[Network]:
        """``preset.victims`` networks trained on the subject's set; a checkpoint is its own single victim.

        Args:
            protocol: None for the one that ``trains_by`` asks for.
        """
        if subject.network is not None:
            return [subject.network.to(self.device)]
        protocol = self._victims_protocol(subject, seed, protocol)
        key = f"{self.set_key(subject, seed)}-{self.victim_key(protocol)}"
        if key not in self._victims:
            nets = (
                self.artifacts.load_networks(key, self.arch, self.data) if self.artifacts else None
            )
            if nets is None:
                seeds = [self.seed_for("victim", seed, i) for i in range(self.preset.victims)]
                sets = [self.distilled(subject, seed)] * len(seeds)
                nets = self.train(sets, seeds=seeds, protocol=protocol)
                if self.artifacts:
                    self.artifacts.save_networks(key, nets)
            self._victims[key] = [net.to(self.device) for net in nets]
        return self._victims[key]

    def answers(
        self, subject: Subject, seed: int, *, protocol: EvaluationProtocol | None = None
    ) -> Tensor:
        """(V, N, K) float32 logits of the :meth:`victims` on the :meth:`test` records, which most auditors ask for.

        Args:
            protocol: as for :meth:`victims`.

        Raises:
            NotFinite: a logit is NaN or infinite.
        """
        test, key = self.test(), self.set_key(subject, seed)
        if subject.network is None:
            key += f"-{self.victim_key(self._victims_protocol(subject, seed, protocol))}"
        key = "answers-" + hashlib.sha256(f"{key}-{test.fingerprint}".encode()).hexdigest()[:20]
        if key not in self._answers:
            logits = ((self.artifacts.get(key) if self.artifacts else None) or {}).get("logits")
            if logits is None or not bool(torch.isfinite(logits).all()):  # never kept so
                nets = self.victims(subject, seed, protocol=protocol)
                logits = torch.stack([self.predict(net, test.images) for net in nets])
                if self.artifacts:
                    self.artifacts.put(key, {"logits": logits})
            self._answers[key] = logits
        return self._answers[key]

    def _victims_protocol(
        self, subject: Subject, seed: int, given: EvaluationProtocol | None
    ) -> EvaluationProtocol:
        if given is not None:
            return given
        by_card = self.trains_by == "card"
        return self.protocol_for(self.distilled(subject, seed)) if by_card else self.protocol

    def redistill(self, subject: Subject, train: ImageData, seed: int) -> DistilledSet:
        """Run the subject's recipe on other training data (poisoned, a subset, with canaries).

        Raises:
            Unsupported: the subject is a file or a checkpoint.
        """
        recipe = self._recipe(subject)
        return distill(
            recipe,
            train,
            data=self.data,
            ipc=self.ipc,
            seed=seed,
            device=self.device,
            store=self.artifacts,
        )

    def redistill_many(
        self, subject: Subject, train: ImageData, members: Tensor, seed: int
    ) -> list[DistilledSet]:
        """Re-distil on K subsets of ``train`` at once; recipes that allow it share the real-data work.

        Args:
            members: (K, N) bool, row k = the records shadow k may see.
        """
        recipe = self._recipe(subject)
        return distill_many(
            recipe,
            train,
            members,
            data=self.data,
            ipc=self.ipc,
            seed=seed,
            device=self.device,
            store=self.artifacts,
        )

    def train(
        self,
        sets: Sequence[DistilledSet],
        *,
        seeds: Sequence[int],
        arch: Arch | None = None,
        protocol: EvaluationProtocol | None = None,
    ) -> list[Network]:
        """Train one network per (set, seed).

        Args:
            arch: None for the audit's.
            protocol: one for all; None for each set's own, see :meth:`protocol_for`.

        Raises:
            Unsupported: the protocol needs a label store or outliers that a set lacks, or its labels do not fit.
        """
        chosen = [protocol or self.protocol_for(s) for s in sets]
        for one, distilled in zip(chosen, sets, strict=True):
            if lacking := missing_part(one, distilled):
                raise Unsupported(f"protocol '{one.name}' {lacking}")
        trained: dict[int, Network] = {}
        for one in dict.fromkeys(chosen):
            members = [k for k, p in enumerate(chosen) if p == one]
            nets = train_many(
                [(sets[k].images, sets[k].labels) for k in members],
                arch=arch or self.arch,
                num_classes=self.data.num_classes,
                mean=self.data.mean,
                std=self.data.std,
                protocol=one,
                seeds=[seeds[k] for k in members],
                device=self.device,
                extras=[Extras(sets[k].store, sets[k].outliers) for k in members],
            )
            trained |= dict(zip(members, nets, strict=True))
        return [trained[k] for k in range(len(sets))]

    def predict(self, network: Network, images: Tensor) -> Tensor:
        """(N, K) finite float32 logits on the CPU, in eval mode; images uint8 or float pixels in [0, 1].

        Raises:
            NotFinite: a logit is NaN or infinite; no auditor may make a number of it.
        """
        return predict(network, images, device=self.device)

    @staticmethod
    def _recipe(subject: Subject) -> Recipe:
        if subject.recipe is None:
            raise Unsupported(
                f"needs the recipe to distil again, and a {subject.kind} is only its result"
            )
        return subject.recipe


def missing_part(protocol: EvaluationProtocol, distilled: DistilledSet) -> str:
    """What a protocol needs and a set lacks, in words; "" when it can be trained under it."""
    if protocol.labels == "store" and distilled.store is None:
        return "replays a label store, and this set has none"
    if protocol.outlier_weight > 0 and distilled.outliers is None:
        return "trains on outliers, and this set has none"
    if protocol.loss in ("kl", "soft-ce") and protocol.labels == "image" and not distilled.soft:
        return f"has loss '{protocol.loss}', which needs soft labels, and this set's are hard"
    return ""


_RECORDS_PER_CELL = 10
"""From so many on, one record of every cell at least costs no more than a tenth of a sample."""


def stratified(data: ImageData, limit: int, *, even: bool = False) -> ImageData:
    """A fixed sample of at most ``limit`` records, (class, group) cell by cell, seeded by nothing.

    It is composed as the data are, so that it estimates what they would say; where that costs no more than a tenth of
    it, it holds one record of every cell at least. Fewer records than cells are one each of cells that are drawn, not
    those of the first classes.

    Args:
        even: as many of every cell, as far as there are, for what looks at classes one by one.
    """
    if len(data) <= limit:
        return data
    cell = (
        data.labels
        if data.groups is None
        else data.labels * (int(data.groups.max()) + 1) + data.groups
    )
    order = torch.argsort(cell, stable=True)
    position = torch.empty_like(order)
    _, counts = torch.unique_consecutive(cell[order], return_counts=True)
    if limit < len(counts):
        firsts = order[counts.cumsum(0) - counts]
        drawn = torch.randperm(len(firsts), generator=torch.Generator().manual_seed(limit))[:limit]
        return data.subset(torch.sort(firsts[drawn]).values)
    position[order] = torch.cat([torch.arange(int(c)) for c in counts])
    if not even:
        # Where in its cell a record stands: up to any place, cells have shares in proportion to their sizes.
        size = torch.empty_like(order)
        size[order] = counts.repeat_interleave(counts)
        if limit >= _RECORDS_PER_CELL * len(counts):
            position = torch.where(position == 0, 0.0, (position + 0.5) / size)
        else:  # each cell from a place of its own, so that many rare ones together have their share
            start = torch.rand(len(counts), generator=torch.Generator().manual_seed(limit))
            begins = torch.empty(len(data))
            begins[order] = start.repeat_interleave(counts)
            position = (position + begins) / size
    chosen = torch.argsort(position, stable=True)[:limit]
    return data.subset(torch.sort(chosen).values)
