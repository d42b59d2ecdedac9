"""Networks that are trained on the real records while the set is distilled, between the steps that match on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset, ImageData
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas
from ddaudit.errors import DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training.augment import apply, draw
from ddaudit.training.views import apply_views, draw_views, mix_labels


@dataclass(frozen=True)
class RecordSGD:
    """How networks are trained on real records: SGD on cross-entropy, each on batches of its own.

    Attributes:
        lr, momentum, weight_decay: of SGD, whose state a network keeps.
        batch: records per step, drawn without replacement.
        augment: per record: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        cutmix: probability that a batch is mixed by CutMix.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 64
    augment: str = "data"
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.batch < 1 or not 0 <= self.cutmix <= 1:
            raise ValueError(
                "networks.training: lr must be positive, batch at least 1 and cutmix a probability"
            )


@dataclass(frozen=True)
class Learning(Fresh):
    """A new network each time, trained on real records after every step that matched on it.

    What it learns depends on the records and on no synthetic image. A private reader refuses it.

    Attributes:
        arch, width: as in :class:`Fresh`.
        early: passes over the records before the first step.
        records: records it is trained on after a step; 0: none.
        training: how.

    Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022,
    section 5 and the authors' code.
    """

    early: int = 0
    records: int = 2000
    training: RecordSGD = field(default_factory=RecordSGD)
    school: School | None = field(default=None, repr=False, compare=False)
    """The records and the networks of a run; filled by :meth:`learn`."""

    def __post_init__(self) -> None:
        if self.early < 0 or self.records < 0:
            raise ValueError("networks.early and networks.records must be at least 0")

    def bind(self, data: Dataset) -> Self:
        """Needs records, which :meth:`learn` is given."""
        self.resolve()
        return self

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> Self:
        """This source, its networks to be trained on the records of the job's one run, normalised by mean and std."""
        train = job.train.subset(job.members[0])
        return replace(self, school=School(train, self.training, job.data, mean, std, job.device))

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A new network after its early passes; it is the one that is trained until the next is made.

        Raises:
            DDAuditError: there are no records yet.
        """
        school = self._school()
        net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        school.pupils = [school.admit(net, seed)]
        for _ in range(self.early):
            school.teach(school.pupils[0], len(school.data))
        return net

    def update(self, canvas: Canvas, step: int) -> None:
        """Train the network that was made last."""
        school = self._school()
        school.teach(school.pupils[0], self.records)

    def _school(self) -> School:
        if self.school is None:
            raise DDAuditError("networks: there are no records to train them on")
        return self.school


@dataclass(frozen=True)
class Queue(Learning):
    """Every step takes a random network of a queue; then some networks of it are trained on real records.

    The queue starts with ``start`` networks, gets a new one every ``age`` steps (the first of them at once), and
    drops the oldest where it is full. A network's accuracy on the batches it was trained on is known to terms.

    Attributes:
        size, start, age: as above.
        pupils: networks trained after a step, drawn at random.
        records: of each, after a step.
        recount: steps after which accuracies are counted anew; until its next training a network's is 0.

    Source: Zhao et al., "Improved Distribution Matching for Dataset Condensation" (IDM), CVPR 2023, arXiv
    2307.09742, section 3.3, values of the authors' code.
    """

    size: int = 100
    start: int = 3
    age: int = 30
    pupils: int = 2
    records: int = 2560
    recount: int = 100
    training: RecordSGD = field(default_factory=lambda: RecordSGD(batch=256, augment=""))

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.size, self.start, self.age, self.pupils, self.recount) < 1:
            raise ValueError("networks.size, start, age, pupils and recount must be at least 1")

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of the queue that this seed picks, as old as it is.

        Raises:
            DDAuditError: there are no records yet.
        """
        school = self._school()
        arrivals = 0 if school.step % self.age else 1
        for number in range(arrivals if school.step else self.start + arrivals):
            mine = stable_seed(seed, "arrival", number)
            net = Fresh.make(self, shape=shape, num_classes=num_classes, seed=mine, device=device)
            school.pupils = [*school.pupils, school.admit(net, mine)][-self.size :]
        return school.pupils[stable_seed(seed, "place") % len(school.pupils)].net

    def update(self, canvas: Canvas, step: int) -> None:
        """Train some networks of the queue."""
        school = self._school()
        generator = torch.Generator().manual_seed(stable_seed(school.seed, "lesson", step))
        for place in torch.randperm(len(school.pupils), generator=generator)[: self.pupils]:
            school.teach(school.pupils[int(place)], self.records)
        school.step += 1
        if school.step % self.recount == 0:
            for pupil in school.pupils:
                pupil.recount()


@dataclass(eq=False)
class Pupil:
    """A network, its optimiser, and what it got right of what it was shown."""

    net: Network
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    right: int = 0
    seen: int = 0

    def recount(self) -> None:
        """Forget what it got right so far."""
        self.right = self.seen = 0
        self.net.accuracy = 0.0


class School:
    """The real records of one run, and the networks that are trained on them."""

    def __init__(
        self,
        data: ImageData,
        training: RecordSGD,
        names: Dataset,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
    ) -> None:
        self.data, self._training, self._device = data, training, device
        self._strategy = names.augment if training.augment == "data" else training.augment
        if names.modality != "image":
            self._strategy = ""
        self._mean, self._std = mean.to(device), std.to(device)
        self.pupils: list[Pupil] = []
        self.step = 0
        self.seed = stable_seed(data.fingerprint)

    def admit(self, net: Network, seed: int) -> Pupil:
        """A network that is going to be trained; batches and views are drawn from the seed."""
        how = self._training
        optimiser = torch.optim.SGD(
            net.body.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay
        )
        net.accuracy = 0.0
        generator = torch.Generator().manual_seed(stable_seed(seed, "lessons"))
        return Pupil(net, optimiser, generator)

    def teach(self, pupil: Pupil, records: int) -> None:
        """Train on ``records`` records in batches; whole passes where there are fewer."""
        order = torch.empty(0, dtype=torch.int64)
        while records > 0:
            if len(order) == 0:
                order = torch.randperm(len(self.data), generator=pupil.generator)
            batch, order = order[: self._training.batch], order[self._training.batch :]
            self._step(pupil, batch)
            records -= len(batch)
        pupil.net.accuracy = pupil.right / max(pupil.seen, 1)

    def _step(self, pupil: Pupil, index: Tensor) -> None:
        g, body = pupil.generator, pupil.net.body
        x = (self.data.pixels(index).to(self._device) - self._mean) / self._std
        y = self.data.labels[index].to(self._device)
        x = apply(x, draw(self._strategy, g, len(x), shape=x.shape))
        views = draw_views(g, len(x), shape=x.shape, cutmix=self._training.cutmix)
        wanted = mix_labels(F.one_hot(y, self.data.num_classes).to(x.dtype), views, shape=x.shape)
        logits = body(apply_views(x, views))
        pupil.optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits, wanted).backward()
        pupil.optimiser.step()
        pupil.right += int((logits.argmax(1) == y).sum())
        pupil.seen += len(y)
