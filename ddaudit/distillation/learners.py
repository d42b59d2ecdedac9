"""Networks that are trained on the real records while the set is distilled, between the steps that match on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.data import Dataset
from ddaudit.distillation.lessons import Lesson, teach
from ddaudit.distillation.loops import Job
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training import Robust
from ddaudit.training.augment import apply, draw
from ddaudit.training.views import apply_views, draw_views, mix_labels

if TYPE_CHECKING:
    from typing_extensions import Self


class Risk(Protocol):
    """A loss of a batch beside the mean one, which may group records by the synthetic set; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def added(
        self, net: Network, x: Tensor, losses: Tensor, canvas: Canvas | None, step: int
    ) -> Tensor:
        """A scalar.

        Args:
            net: the network that learns.
            x: (B, C, H, W) normalised records.
            losses: (B,) of them, differentiable.
            canvas: the synthetic set as it is; None before there is one.
            step: how many steps this network has taken before.
        """


@dataclass(frozen=True)
class RecordSGD:
    """How networks are trained on real records: SGD on cross-entropy, each on batches of its own.

    Attributes:
        lr, momentum, weight_decay: of SGD, whose state a network keeps.
        batch: records per step, drawn without replacement.
        augment: per record: "data" (the data set's DSA string), "" (none), or a DSA strategy.
        cutmix: probability that a batch is mixed by CutMix.
        robust: how steps are changed so that the networks resist small changes; None: not at all.
        risk: what is added to the loss of single records; None: nothing.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 64
    augment: str = "data"
    cutmix: float = 0.0
    robust: Robust | None = None
    risk: Risk | None = None

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
        lesson: which records a pass takes, and what is added to the logits; None: every record once, and nothing.

    Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022,
    section 5 and the authors' code.
    """

    early: int = 0
    records: int = 2000
    training: RecordSGD = field(default_factory=RecordSGD)
    lesson: Lesson | None = None
    trainer: Trainer | None = field(default=None, repr=False, compare=False)
    """The records and the networks of a run; filled by :meth:`learn`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early < 0 or self.records < 0:
            raise ValueError("networks.early and networks.records must be at least 0")

    def bind(self, data: Dataset) -> Self:
        """Needs records, which :meth:`learn` is given."""
        self.resolve()
        return self

    def learn(self, job: Job, mean: Tensor, std: Tensor) -> Self:
        """This source, its networks to be trained on the records of the job's one run, normalised by mean and std."""
        return replace(self, trainer=Trainer(job, self.training, mean, std, self.lesson))

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """A new network after its early passes; it is the one that is trained until the next is made.

        Raises:
            DDAuditError: there are no records yet.
        """
        trainer = self._opened()
        net = super().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        trainer.students = [trainer.add(net, seed)]
        for _ in range(self.early):
            trainer.train(trainer.students[0], len(trainer.data))
        return net

    def update(self, canvas: Canvas, step: int) -> None:
        """Train the network that was made last."""
        trainer = self._opened()
        trainer.canvas = canvas
        trainer.train(trainer.students[0], self.records)

    def _opened(self) -> Trainer:
        if self.trainer is None:
            raise DDAuditError("networks: there are no records to train them on")
        return self.trainer


@dataclass(frozen=True)
class Queue(Learning):
    """Every step takes a random network of a queue; then some networks of it are trained on real records.

    The queue starts with ``start`` networks, gets a new one every ``age`` steps (the first of them at once), and
    drops the oldest where it is full. A network's accuracy on the batches it was trained on is known to terms.

    Attributes:
        size, start, age: as above.
        per_step: networks trained after a step, drawn at random.
        records: of each, after a step.
        recount: steps after which accuracies are counted anew; until its next training a network's is 0.

    Source: Zhao et al., "Improved Distribution Matching for Dataset Condensation" (IDM), CVPR 2023, arXiv
    2307.09742, section 3.3, values of the authors' code.
    """

    size: int = 100
    start: int = 3
    age: int = 30
    per_step: int = 2
    records: int = 2560
    recount: int = 100
    training: RecordSGD = field(default_factory=lambda: RecordSGD(batch=256, augment=""))

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.size, self.start, self.age, self.per_step, self.recount) < 1:
            raise ValueError("networks.size, start, age, per_step and recount must be at least 1")

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of the queue that this seed picks, as old as it is.

        Raises:
            DDAuditError: there are no records yet.
        """
        trainer = self._opened()
        arrivals = 0 if trainer.step % self.age else 1
        for number in range(arrivals if trainer.step else self.start + arrivals):
            mine = stable_seed(seed, "arrival", number)
            net = Fresh.make(self, shape=shape, num_classes=num_classes, seed=mine, device=device)
            trainer.students = [*trainer.students, trainer.add(net, mine)][-self.size :]
        return trainer.students[stable_seed(seed, "place") % len(trainer.students)].net

    def update(self, canvas: Canvas, step: int) -> None:
        """Train some networks of the queue."""
        trainer = self._opened()
        trainer.canvas = canvas
        generator = torch.Generator().manual_seed(stable_seed(trainer.seed, "train", step))
        for place in torch.randperm(len(trainer.students), generator=generator)[: self.per_step]:
            trainer.train(trainer.students[int(place)], self.records)
        trainer.step += 1
        if trainer.step % self.recount == 0:
            for student in trainer.students:
                student.recount()


@dataclass(eq=False)
class Student:
    """A network, its optimiser, and what it got right of what it was shown."""

    net: Network
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    right: int = 0
    seen: int = 0
    steps: int = 0

    def recount(self) -> None:
        """Forget what it got right so far."""
        self.right = self.seen = 0
        self.net.accuracy = 0.0


class Trainer:
    """The real records of one run, and the networks that are trained on them."""

    def __init__(
        self,
        job: Job,
        training: RecordSGD,
        mean: Tensor,
        std: Tensor,
        lesson: Lesson | None = None,
    ) -> None:
        self.data, extra = teach(lesson, job.train.subset(job.members[0]))
        if extra.tilt is not None:
            raise BadInput(
                "networks.lesson", "moves towards the end of training, and these networks have none"
            )
        self._shift = 0.0 if extra.shift is None else extra.shift.to(job.device)
        self.seed, self._training, self._device = job.seed, training, job.device
        strategy = job.data.augment if training.augment == "data" else training.augment
        image = job.data.modality == "image"
        self._strategy, self._cutmix = (strategy, training.cutmix) if image else ("", 0.0)
        self._mean, self._std = mean.to(job.device), std.to(job.device)
        self.students: list[Student] = []
        self.step = 0
        self.canvas: Canvas | None = None
        """The synthetic set as it was last shown."""

    def add(self, net: Network, seed: int) -> Student:
        """A network that is going to be trained; batches and views are drawn from the seed."""
        how = self._training
        optimiser = torch.optim.SGD(
            net.body.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay
        )
        net.accuracy = 0.0
        generator = torch.Generator().manual_seed(stable_seed(seed, "train"))
        return Student(net, optimiser, generator)

    def train(self, student: Student, records: int) -> None:
        """Train on ``records`` records in batches; whole passes where there are fewer."""
        order = torch.empty(0, dtype=torch.int64)
        while records > 0:
            if len(order) == 0:
                order = torch.randperm(len(self.data), generator=student.generator)
            batch, order = order[: self._training.batch], order[self._training.batch :]
            self._step(student, batch)
            records -= len(batch)
        student.net.accuracy = student.right / max(student.seen, 1)

    def _step(self, student: Student, index: Tensor) -> None:
        g, body = student.generator, student.net.body
        x = (self.data.pixels(index).to(self._device) - self._mean) / self._std
        y = self.data.labels[index].to(self._device)
        x = apply(x, draw(self._strategy, g, len(x), shape=x.shape))
        views = draw_views(g, len(x), shape=x.shape, cutmix=self._cutmix)
        wanted = mix_labels(F.one_hot(y, self.data.num_classes).to(x.dtype), views, shape=x.shape)
        x, how = apply_views(x, views), self._training
        seen = x
        if how.robust is not None:
            seen = how.robust.see(body, x, wanted, mean=self._mean, std=self._std, generator=g)
        logits = body(seen) + self._shift
        trades = how.robust is not None and how.robust.trades
        plain = body(x) + self._shift if trades else logits
        losses = F.cross_entropy(plain, wanted, reduction="none")
        total = losses.mean()
        if how.robust is not None:
            total = total + how.robust.added(body, x, wanted, plain, logits)
        if how.risk is not None:
            total = total + how.risk.added(student.net, x, losses, self.canvas, student.steps)
        student.optimiser.zero_grad(set_to_none=True)
        total.backward()
        student.optimiser.step()
        student.steps += 1
        student.right += int((logits.argmax(1) == y).sum())
        student.seen += len(y)
