"""The matching loop: gradient and distribution matching, private or not, one set or K at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.canvas import Canvas, Outlying
from ddaudit.distillation.learners import Learning
from ddaudit.distillation.loops import (
    Job,
    LearnsRecords,
    Outcome,
    ReadsRecords,
    finish,
    network_for,
    teacher_for,
    view_of,
)
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.outliers import unsure
from ddaudit.distillation.parts import Drawn, NetworkSource, Objective, Query, Source
from ddaudit.distillation.reading import augment_by_class, couples_records, draw_by_class
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.schedules import LOOPS, Schedule, Watch, accuracy
from ddaudit.distillation.targets import ByClass, swapped
from ddaudit.distillation.terms import added
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed
from ddaudit.training import blend
from ddaudit.training.augment import apply, draw


@dataclass(frozen=True)
class Matching:
    """Move synthetic images until their aggregated signals match the targets.

    Attributes:
        iterations: networks drawn; with a pool, optimisation steps.
        lr, momentum: of the optimiser of the synthetic images, in the space they are optimised in.
        lr_ipc: images per class that ``lr`` is for: at n of them it is lr * n / lr_ipc (IDC's rule, as every image's
            gradient shrinks with their number); None: for any number.
        outer, inner: matching rounds per network, and epochs of training the network on S between rounds;
            None: a table by IPC (nearest entry).
        table: whose table: "dc", "dcc", "fairdd", "cobra", "trustdd".
        watch: rounds and epochs of training end by the network's accuracy on real records instead; None: by number.
        warmup_networks, warmup_rounds: on the first so many networks, the first so many rounds match class by class,
            whatever the target rule (DCC).
        halve_at: fractions of the iterations after which the step of the images is halved.
        repeats: matching steps per round (PSG's batch_loop), each one query.
        net_lr, net_batch: SGD for the inner training.
        pool: None asks a new question at every step. A number asks that many questions in all, and every step
            matches one of the answers, picked at random: private answers are paid for once and used often
            (Dosser's decoupled sampling).
        optimiser: "sgd" with momentum, or "adam" (which ignores it).
        ema: decay of the moving average of the images that is released; None releases the last images.
    """

    takes_terms = True
    iterations: int
    lr: float = 1.0
    momentum: float = 0.5
    outer: int | None = 1
    inner: int | None = 0
    repeats: int = 1
    net_lr: float = 0.01
    net_batch: int = 256
    pool: int | None = None
    optimiser: Literal["sgd", "adam"] = "sgd"
    ema: float | None = None
    lr_ipc: int | None = None
    table: Literal["dc", "dcc", "fairdd", "cobra", "trustdd"] = "dc"
    watch: Watch | None = None
    warmup_networks: int = 0
    warmup_rounds: int = 0
    halve_at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.lr <= 0 or self.repeats < 1:
            raise ValueError(
                "loop.iterations and loop.repeats must be at least 1 and loop.lr positive"
            )
        if not 0 <= self.momentum < 1 or not self.net_lr > 0 or self.net_batch < 1:
            raise ValueError(
                "loop.momentum must lie in [0, 1), loop.net_lr be positive and loop.net_batch at least 1"
            )
        if (self.outer is not None and self.outer < 1) or (
            self.inner is not None and self.inner < 0
        ):
            raise ValueError("loop.outer must be at least 1 and loop.inner at least 0")
        if self.optimiser not in ("sgd", "adam"):
            raise ValueError(f"loop.optimiser is 'sgd' or 'adam', not '{self.optimiser}'")
        if self.table not in LOOPS:
            raise ValueError(f"loop.table is {' or '.join(map(repr, LOOPS))}, not '{self.table}'")
        if self.lr_ipc is not None and self.lr_ipc < 1:
            raise ValueError(f"loop.lr_ipc must be at least 1, got {self.lr_ipc}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"loop.ema must lie strictly between 0 and 1, got {self.ema}")
        if self.pool is not None and (self.pool < 1 or self.outer != 1 or self.repeats != 1):
            raise ValueError(
                "loop.pool must be at least 1 and goes with loop.outer=1 and loop.repeats=1"
            )

    def schedule(self, ipc: int) -> Schedule:
        """The (outer, inner) loops for this IPC."""
        if self.watch is not None:
            return Schedule(self.watch.rounds, self.watch.epochs)
        table = LOOPS[self.table]
        nearest = table[min(table, key=lambda k: (abs(k - ipc), k))]
        return Schedule(
            nearest.outer if self.outer is None else self.outer,
            nearest.inner if self.inner is None else self.inner,
        )

    def queries(self, ipc: int) -> int:
        """How many different questions the real data are asked: what a private reader must budget for."""
        if self.pool is not None:
            return self.pool
        return self.iterations * self.schedule(ipc).outer * self.repeats

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """True when no question depends on the synthetic set: its answers serve any number of sets."""
        # One round per network never trains it.
        untrained = self.schedule(ipc).inner == 0 or self.schedule(ipc).outer == 1
        still = not (recipe.networks and recipe.networks.follows())
        return bool(recipe.objective and recipe.objective.shareable) and untrained and still

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """True when K runs can share networks and real-data signals: neither depends on S or on other records."""
        return (
            self.reusable(recipe, ipc)
            and bool(recipe.synthesis and recipe.synthesis.parallel)
            and not (recipe.networks and recipe.networks.couples_records())
            and not isinstance(recipe.networks, LearnsRecords)
            and not any(isinstance(t, ReadsRecords) for t in recipe.terms)
            and not (recipe.target and recipe.target.couples_records())
            and not couples_records(recipe.reader)
        )

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil K sets, one per row of ``job.members``.

        Raises:
            BadInput: networks that follow the synthetic set in a schedule that trains or revisits them; a private
                reader in a schedule whose questions cannot be counted beforehand.
            DDAuditError: the optimisation diverged (NaN), or K > 1 for a recipe that cannot share.
        """
        self._check(recipe, job)
        objective, networks = recipe.matching_parts()
        generator = torch.Generator().manual_seed(job.seed)
        schedule = self.schedule(job.ipc)
        total = self.iterations * schedule.outer * self.repeats
        strategy = recipe.augment_for(job.data)
        source = recipe.open(job, again=self.pool is not None)
        early = source
        if self.warmup_networks and recipe.target is not None:
            early = replace(recipe, target=swapped(recipe.target, ByClass())).open(job)
        canvas = recipe.start(job, generator)
        networks = recipe.networks_for(job) or networks
        asker = _Asker(
            strategy,
            networks,
            objective,
            job,
            keep=0 if self.pool is None else _KEPT_PARAMETERS,
        )
        main, classwise = (
            _Side.of(s, canvas.labels, job.train.num_classes) for s in (source, early)
        )
        terms = recipe.terms_for(job)
        optimiser = self._optimiser(canvas.parameters, job.ipc)
        average = [p.detach().clone() for p in canvas.parameters]
        mean, std = recipe.constants(job.data)
        done = 0
        for iteration in range(self.iterations):
            number = iteration
            if self.pool is not None:
                number = int(torch.randint(self.pool, (), generator=generator))
            net, teacher = asker.network(number), teacher_for(job, networks, number)
            if canvas.confine is not None:
                canvas.confine()
            self._set_rate(optimiser, job.ipc, iteration)
            accuracies: list[float] = []
            for round_ in range(schedule.outer):
                warm = iteration < self.warmup_networks and round_ < self.warmup_rounds
                side = classwise if warm else main
                for repeat in range(self.repeats):
                    name = f"{number}/{round_}/{repeat}"
                    objective = asker.objective(name)
                    taught = networks.follows() or (round_ > 0 and schedule.inner > 0)
                    query = asker.query(name, net, objective, taught=taught)
                    loss, x, seen = side.match(query, net, objective, canvas)
                    view = view_of(
                        job, canvas, x, net, std=std, step=done, matched=seen, teacher=teacher
                    )
                    canvas.pull(loss, extra=added(terms, view))
                    optimiser.step()
                    if self.ema is not None:
                        blend(average, canvas.parameters, self.ema)
                    networks.update(canvas, done)
                    done += 1
                    if job.progress:
                        job.progress(done, total)
                check = _accuracy_of(source, net, job.train.num_classes, f"{number}/{round_}")
                if self.watch is not None:
                    accuracies.append(check())
                    if self.watch.has_settled(accuracies):
                        break
                if round_ < schedule.outer - 1:
                    with torch.no_grad():  # networks learn of images as they will be released
                        learnt = canvas.decode()[0]
                    self._train(
                        net,
                        learnt,
                        canvas.labels,
                        outlying=canvas.outlying,
                        epochs=schedule.inner,
                        strategy=strategy,
                        generator=generator,
                        check=check,
                    )
            if not canvas.finite:
                table = job.data.modality == "tabular"
                raise DDAuditError(
                    f"{recipe.name}: diverged at iteration {iteration}. Lower --set loop.lr (now {self.lr})"
                    f"{': of tables, steps of about 0.1 held' if table else ''}."
                )
        return finish(canvas, None if self.ema is None else average, source.claims(), mean, std)

    def _check(self, recipe: Recipe, job: Job) -> None:
        """Refuse what this schedule cannot do (see :meth:`run`)."""
        _, networks = recipe.matching_parts()
        if len(job.members) > 1 and not self.shareable(recipe, job.ipc):
            raise DDAuditError(
                f"{recipe.name}: several runs at once need signals that do not depend on the synthetic set"
            )
        batch_norm = isinstance(networks, Fresh) and networks.resolve().norm == "batch"
        if isinstance(recipe.objective, GradientMatch) and batch_norm:
            raise BadInput(
                recipe.name,
                "matches gradients class by class, and batch normalisation would see one class at a time (the source "
                "takes its statistics of all classes)",
                "Use networks without it, such as ConvNet.",
            )
        if isinstance(networks, Learning) and self.pool is not None:
            raise BadInput(
                recipe.name,
                "trains its networks between steps, so that no question can be asked again",
                "Leave loop.pool out.",
            )
        if networks.follows() and (self.pool is not None or self.schedule(job.ipc).outer > 1):
            raise BadInput(
                recipe.name,
                "has networks that learn from the synthetic set by themselves, one step after the other",
                "Use --set loop.outer=1 and leave loop.pool out.",
            )
        private = recipe.reader is not None and recipe.reader.private
        if private and (self.watch is not None or self.warmup_networks):
            raise BadInput(
                recipe.name,
                "asks questions beside those of its target, which no private reader has a budget for",
                "Use --set loop.warmup_networks=0."
                if self.watch is None
                else "Take a method whose schedule is fixed, such as dc.",
            )

    def rate(self, ipc: int, iteration: int) -> float:
        """The step of the images on network ``iteration``."""
        halvings = sum(iteration >= share * self.iterations for share in self.halve_at)
        return self.lr * (1 if self.lr_ipc is None else ipc / self.lr_ipc) * 0.5**halvings

    def _set_rate(self, optimiser: torch.optim.Optimizer, ipc: int, iteration: int) -> None:
        for group in optimiser.param_groups if self.halve_at else ():
            group["lr"] = self.rate(ipc, iteration)

    def _optimiser(self, parameters: list[Tensor], ipc: int) -> torch.optim.Optimizer:
        lr = self.rate(ipc, 0)
        if self.optimiser == "adam":
            return torch.optim.Adam(parameters, lr=lr)
        return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum)

    def _train(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        *,
        outlying: Outlying | None,
        epochs: int,
        strategy: str,
        generator: torch.Generator,
        check: Callable[[], float],
    ) -> None:
        """Plain SGD on the current synthetic set (public: post-processing of past releases); with a watch, until
        accuracies (``check``) have moved."""
        optimiser = torch.optim.SGD(net.body.parameters(), lr=self.net_lr)
        accuracies: list[float] = []
        for _ in range(epochs):
            if self.watch is not None and self.watch.has_moved(accuracies):
                return
            for index in (
                torch.randperm(len(x), generator=generator).to(x.device).split(self.net_batch)
            ):
                batch = x[index]
                if strategy:
                    batch = apply(
                        batch, draw(strategy, generator, n=len(batch), shape=tuple(x.shape[1:]))
                    )
                loss = F.cross_entropy(net.body(batch), y[index])
                if outlying is not None:
                    loss = loss + unsure(net, outlying, len(batch), strategy, generator)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            if self.watch is not None:
                accuracies.append(check())


@dataclass(frozen=True, eq=False)
class _Side:
    """An opened reader, and the synthetic aggregates that its rows are matched to."""

    source: Source
    rows: Tensor
    slots: Tensor

    @classmethod
    def of(cls, source: Source, labels: Tensor, num_classes: int) -> _Side:
        return cls(source, *_slots(labels, source.layout.slots, num_classes))

    def match(
        self, query: Query, net: Network, objective: Objective, canvas: Canvas
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of K sets together on one question, with the images (K, M, C, H, W) and as they were augmented."""
        targets = self.source.targets(query)
        x, y = canvas.decode(), canvas.labels
        seen = augment_by_class(x.flatten(0, 1), y.repeat(len(x)), query.augment).view_as(x)
        aggregate = objective.synthetic(net, seen, y, self.rows, self.source.clip)
        distance = objective.distance(net, targets.values, aggregate[:, self.slots])
        losses = self.source.layout.reduction.reduce(
            distance * targets.weights, targets.weights > 0
        )
        return losses.sum(), x, seen


def _accuracy_of(source: Source, net: Network, num_classes: int, name: str) -> Callable[[], float]:
    """Asks for the network's accuracy on real records; each time under a new name."""
    asked = count()
    return lambda: accuracy(source, net, num_classes, f"{name}/accuracy/{next(asked)}")


def _slots(labels: Tensor, slots: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Rows (S, M) over synthetic images, and for each target row (R,) which of them it is matched to.

    One uniform row per class, then one over everything for rules that match the whole set (slot -1).
    """
    one_hot = F.one_hot(labels, num_classes).T.float()
    rows = torch.cat(
        [
            one_hot / one_hot.sum(1, keepdim=True),
            one_hot.new_full((1, len(labels)), 1 / len(labels)),
        ]
    )
    used, slot_of_row = torch.unique(slots % len(rows), return_inverse=True)
    return rows[used.to(labels.device)], slot_of_row.to(labels.device)


_KEPT_PARAMETERS = 2**28
"""Network parameters kept for questions that may be asked again (1 GiB); the rest are made again by seed."""


class _Asker:
    """Makes the questions of one run. A question depends on its number and the public seed alone, so that runs
    of other sizes ask the same ones."""

    def __init__(
        self,
        strategy: str,
        networks: NetworkSource,
        objective: Objective,
        job: Job,
        *,
        keep: int,
    ) -> None:
        self._strategy, self._networks, self._job = strategy, networks, job
        self._objective = objective.bind(job.seed) if isinstance(objective, Drawn) else objective
        self._kept: OrderedDict[int, Network] = OrderedDict()
        self._held, self._keep = 0, keep

    def network(self, number: int) -> Network:
        """Network ``number``; the most recent ones are kept."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        net = network_for(self._job, self._networks, number)
        self._kept[number] = net
        self._held += _size(net)
        while self._held > self._keep and len(self._kept) > 1:
            self._held -= _size(self._kept.popitem(last=False)[1])
        return net

    def objective(self, name: str) -> Objective:
        """The objective of the question called ``name``, with random parts of its own."""
        if isinstance(self._objective, Drawn):
            return self._objective.draw(stable_seed(self._job.seed, "objective", name))
        return self._objective

    def query(self, name: str, net: Network, objective: Objective, *, taught: bool) -> Query:
        """The question called ``name`` on ``net``, with its own augmentation per class."""
        augment = draw_by_class(self._strategy, self._job.train, self._job.seed, "augment", name)
        return Query(name, objective, net, augment, taught)


def _size(net: Network) -> int:
    return sum(t.numel() for t in [*net.parameters(), *net.buffers()])
