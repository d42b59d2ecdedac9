"""Trajectory matching: a student taught by the synthetic set, from a point of an expert's path, arrives further on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.distillation.canvas import Canvas
from ddaudit.distillation.expert_paths import Paths
from ddaudit.distillation.imbalance import Agnostic, Loss, biased_loss
from ddaudit.distillation.learned import LearnedLabels, LearnedRate
from ddaudit.distillation.loops import AsksSource, Job, Outcome, finish, view_of
from ddaudit.distillation.parts import NetworkSource
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.students import ALL, Parameters, plan_lessons, stepwise, unrolled
from ddaudit.distillation.terms import added
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network
from ddaudit.sets import PrivacyClaim
from ddaudit.training import blend, log_shares


@dataclass(frozen=True)
class Starts:
    """From which passes of an expert students start: between ``first`` and a bound that may grow.

    Attributes:
        first: the earliest pass.
        last: starts lie below it in the end.
        opening: starts lie below it in iteration 0; None: below ``last`` from the beginning.
        grown: iterations until the bound has grown from ``opening`` to ``last``, evenly.

    Source: Guo et al. (DATM), ICLR 2024, arXiv 2310.05773, section 3, and its code (distill/DATM.py).
    """

    first: int = 0
    last: int = 20
    opening: int | None = None
    grown: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last or self.grown < 1:
            raise ValueError("starts need 0 <= first < last, and grown of at least 1")
        if self.opening is not None and self.opening <= self.first:
            raise ValueError("starts.opening must lie above starts.first")

    def bound(self, iteration: int) -> int:
        """Below which pass an iteration's start lies."""
        if self.opening is None or self.opening >= self.last:
            return self.last
        growth = int((self.last - self.opening) * iteration / self.grown)
        return min(self.opening + growth, self.last)

    def draw(self, iteration: int, generator: torch.Generator, *, between: bool) -> float:
        """A start for an iteration: a whole pass, or any time ``between`` them."""
        low, high = self.first, self.bound(iteration)
        if between:
            return low + (high - low) * float(torch.rand((), generator=generator))
        return float(torch.randint(low, high, (), generator=generator))


@dataclass(frozen=True)
class Trajectory:
    """SGD on images, learning rate and, where they are learned, labels; each iteration trains one student.

    Attributes:
        iterations: students, each from a random point of a random expert.
        lr, momentum: of the optimiser of the images, in normalised space.
        steps: a student's steps of plain gradient descent, each on ``batch`` synthetic images.
        span: how many passes after its start the student should be where the expert was.
        batch: synthetic images a step; None: all of them. A student goes through all before it sees one again.
        starts: which passes students start from.
        rate: the students' learning rate.
        gradient: "unrolled" differentiates through all of a student's steps and holds them in memory; "stepwise" takes
            every step's gradient at the parameters that were reached, as constants, and holds one step (TESLA).
        assigned: the student learns the labels that the expert at the target gives the images, and so will networks
            that train on the set (TESLA's soft-label assignment).
        informed: images start from records that an expert classifies at the end of its path, and learned labels from
            the mean logits of those experts that classify the image (DATM), even ones where none does (LTDD).
        threshold: iterations of a larger loss change nothing (DATM); None: all count.
        shallow: share of the parameters, from the input side, that the loss leaves out (PAD).
        agnostic: how students take on the imbalance of the records, which experts have, so that images need not carry
            it: see :func:`~ddaudit.distillation.imbalance.biased_loss` (DAMED's distribution-agnostic matching).
        decoupled: two weights: of a student that is matched in everything but its classifier, and of one whose
            classifier alone is trained, without ``agnostic``, along the last passes of the expert (``networks.head``);
            empty: one student that is matched in all (DAMED's expert decoupling).
        ema: decay of the moving average of the images that is released; None releases the last images.

    Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv 2203.11932,
    algorithm 1; values of the authors' code. Zhao et al. (DAMED), CVPR 2025, arXiv 2408.14506, section 4.
    """

    takes_terms = True
    learns_labels = True
    iterations: int = 5000
    lr: float = 100.0
    momentum: float = 0.5
    steps: int = 30
    span: int = 2
    batch: int | None = None
    starts: Starts = field(default_factory=Starts)
    rate: LearnedRate = field(default_factory=lambda: LearnedRate(0.001, 1e-5, "plain"))
    gradient: Literal["unrolled", "stepwise"] = "unrolled"
    assigned: bool = False
    informed: bool = False
    threshold: float | None = None
    shallow: float = 0.0
    agnostic: Agnostic = "no"
    decoupled: tuple[float, ...] = ()
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.steps < 1 or self.span < 1 or not self.lr > 0:
            raise ValueError(
                "loop.iterations, loop.steps and loop.span must be at least 1 and loop.lr positive"
            )
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"loop.batch must be at least 1, got {self.batch}")
        if not 0 <= self.momentum < 1 or not 0 <= self.shallow < 1:
            raise ValueError("loop.momentum and loop.shallow must lie in [0, 1)")
        if self.gradient not in ("unrolled", "stepwise"):
            raise ValueError(f"loop.gradient is 'unrolled' or 'stepwise', not '{self.gradient}'")
        if self.agnostic not in ("no", "weights", "logits"):
            raise ValueError(f"loop.agnostic is 'no', 'weights' or 'logits', not '{self.agnostic}'")
        if len(self.decoupled) not in (0, 2) or min(self.decoupled, default=1) <= 0:
            raise ValueError("loop.decoupled has two positive weights, or none")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"loop.ema must lie strictly between 0 and 1, got {self.ema}")

    def reach(self, *, straight: bool) -> int:
        """The last point of an expert's path that a student is to arrive at."""
        return self.starts.last - (0 if straight else 1) + self.span

    def queries(self, ipc: int) -> int:
        """None: records are seen by the experts alone, which may ask a private reader (:class:`AsksSource`)."""
        return 0

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Experts that ask do so at their own parameters, which no synthetic image has touched."""
        return isinstance(recipe.networks, AsksSource)

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """Never: every run has experts of its own records."""
        return False

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil the one set of ``job``.

        Raises:
            BadInput: parts are missing, or experts are trained for fewer passes than students are to follow.
            DDAuditError: the optimisation diverged, or several runs are asked for.
        """
        if len(job.members) > 1:
            raise DDAuditError(f"{recipe.name}: runs come one after the other")
        recipe.check_private()
        networks, paths, claim = self._experts(recipe, job)
        generator = torch.Generator().manual_seed(job.seed)
        mean, std = recipe.constants(job.data)
        student = networks.make(
            shape=job.train.shape,
            num_classes=job.train.num_classes,
            seed=job.seed,
            device=job.device,
        )
        canvas = self.rate.start(self._start(recipe, job, student, paths, generator), 1)
        strategy = recipe.augment_for(job.data)
        optimiser = torch.optim.SGD(canvas.groups(self.lr), momentum=self.momentum)
        average = [p.detach().clone() for p in canvas.parameters]
        follow = unrolled if self.gradient == "unrolled" else stepwise
        biased: Loss = F.cross_entropy
        if self.agnostic != "no":
            if recipe.reader is not None and recipe.reader.private:
                raise BadInput(
                    recipe.name,
                    "loop.agnostic weighs classes by how many private records they have, which no ledger counts",
                    "Leave it at no.",
                )
            seen = job.train.labels[job.members[0]]
            biased = biased_loss(self.agnostic, log_shares(seen, job.train.num_classes))
        assigned = None
        for step in range(self.iterations):
            if canvas.confine is not None:
                canvas.confine()
            x, soft, rates = canvas.decode(), canvas.label_distributions(), canvas.rates()
            assert rates is not None, "started above"
            labels = canvas.labels if soft is None else soft[0]
            losses = []
            for way, weight in self._ways(paths, student, step, generator):
                student.body.load_state_dict(way.goal, strict=False)
                if self.assigned:
                    with torch.no_grad():
                        labels = assigned = student.body(x[0]).softmax(1)
                lessons = plan_lessons(
                    student,
                    x[0].shape,
                    steps=self.steps,
                    batch=self.batch,
                    strategy=strategy,
                    generator=generator,
                    loss=F.cross_entropy if way.fixed else biased,
                    fixed=way.fixed,
                )
                left = follow(
                    lessons,
                    x[0],
                    labels,
                    rates[0],
                    start=way.start,
                    goal=way.goal,
                    counted=way.counted,
                )
                losses.append(weight * left)
            loss = torch.stack(losses).sum()
            view = view_of(job, canvas, x, student, std=std, step=step, soft=soft)
            if self.threshold is None or float(loss.detach()) <= self.threshold:
                canvas.pull(loss, extra=added(recipe.terms, view))
                optimiser.step()
                canvas.keep()
            if self.ema is not None:
                blend(average, canvas.parameters, self.ema)
            if not canvas.finite:
                raise DDAuditError(
                    f"{recipe.name}: diverged at iteration {step}. Lower --set loop.lr (now {self.lr:g}) or "
                    f"--set loop.rate.lr (now {self.rate.lr})."
                )
            if job.progress:
                job.progress(step + 1, self.iterations)
        (made,) = finish(canvas, self._released(canvas, average), [claim], mean, std)
        notes = (_size_of(paths), *_as_trained(recipe.networks))
        if assigned is not None:
            # Of every image that a student meets: mirrored ones stand behind those that are released.
            made = replace(made, labels=assigned[: len(made.images)].cpu())
        return [replace(made, notes=notes)]

    def _ways(
        self, paths: Paths, student: Network, step: int, generator: torch.Generator
    ) -> Iterator[tuple[_Way, float]]:
        """What the students of an iteration follow, with their weights in the loss."""
        expert = int(torch.randint(paths.count, (), generator=generator))
        time = self.starts.draw(step, generator, between=paths.straight)
        first, goal = paths.at(expert, time), paths.at(expert, time + self.span)
        start = {n: first[n] for n, _ in student.body.named_parameters()}
        size = sum(p.numel() for p in start.values())
        if not self.decoupled:
            yield _Way(start, goal, slice(int(self.shallow * size), None)), 1.0
            return
        head = {f"classifier.{n}" for n, _ in student.body.classifier.named_parameters()}
        own = sum(p.numel() for n, p in start.items() if n in head)
        assert list(start)[-len(head) :] == [n for n in start if n in head], "classifiers come last"
        yield _Way(start, goal, slice(int(self.shallow * size), size - own)), self.decoupled[0]
        first, goal = paths.at(expert, paths.epochs), paths.at(expert, paths.epochs + self.span)
        start, fixed = ({n: first[n] for n in names} for names in (sorted(head), set(first) - head))
        yield _Way(start, goal, ALL, fixed), self.decoupled[1]

    def _start(
        self,
        recipe: Recipe,
        job: Job,
        student: Network,
        paths: Paths,
        generator: torch.Generator,
    ) -> Canvas:
        """The canvas of a job, informed by its experts where that is asked for."""
        labels = recipe.labels
        if isinstance(labels, LearnedLabels) and (
            self.assigned or (self.informed and labels.form != "logits")
        ):
            raise BadInput(
                recipe.name,
                "learns labels that experts assign, or write the logits of",
                "Use --set loop.assigned=false, and labels.form=logits with loop.informed.",
            )
        if not self.informed:
            return recipe.start(job, generator)
        mean, std = recipe.constants(job.data)

        def read(images: Tensor, expert: int) -> Tensor:
            """(N, num_classes) logits of an expert at its end."""
            student.body.load_state_dict(paths.at(expert, paths.last), strict=False)
            with torch.no_grad():
                return torch.cat([student.body(x) for x in images.split(512)])

        normal = (job.train.pixels(torch.arange(len(job.train))) - mean) / std
        known = read(normal.to(job.device), 0).argmax(1).cpu() == job.train.labels
        allowed = job.members & known
        for c in range(job.train.num_classes):
            mine = job.train.labels == c
            if not bool((allowed & mine).any()):
                allowed = allowed | (job.members & mine)
        canvas = recipe.start(replace(job, members=allowed), generator)
        if canvas.soft is not None:
            x, _ = canvas.taught(0)
            classes = canvas.labels[: canvas.size]
            logits = torch.stack([read(x, k) for k in range(paths.count)])
            right = (logits.argmax(2) == classes).float()[..., None]
            # An image that no expert recognises gets even labels, as in the code of LTDD: nobody knows better.
            mean_logits = (logits * right).sum(0) / right.sum(0).clamp_min(1)
            with torch.no_grad():
                canvas.soft.values[0, : canvas.size].copy_(mean_logits)
        return canvas

    def _released(self, canvas: Canvas, average: list[Tensor]) -> list[Tensor] | None:
        """The average of what makes the images, and labels and rate as they are; None without an average."""
        if self.ema is None:
            return None
        kept = canvas.groups(self.lr)[0]["params"]
        return [
            mean if any(p is image for image in kept) else p.detach().clone()
            for p, mean in zip(canvas.parameters, average, strict=True)
        ]

    def _experts(
        self, recipe: Recipe, job: Job
    ) -> tuple[NetworkSource, Paths, PrivacyClaim | None]:
        """The recipe's experts, trained on the job's records or on a private reader's answers, and what those claim."""
        networks, claim = recipe.networks, None
        if isinstance(networks, AsksSource):
            if self.informed:
                raise BadInput(
                    recipe.name,
                    "starts from records that experts classify, and a private reader shows none",
                    "Use --set loop.informed=false.",
                )
            source = recipe.open(job)
            networks = networks.ask(source, job)
            (claim,) = source.claims()
        else:
            networks = recipe.networks_for(job)
        paths = getattr(networks, "paths", None)
        if recipe.synthesis is None or networks is None or not isinstance(paths, Paths):
            raise BadInput(recipe.name, "lacks a synthesis or the paths of experts")
        last = self.reach(straight=paths.straight)
        if last > paths.epochs:
            raise BadInput(
                recipe.name,
                f"follows experts up to pass {last}, and they are trained for {paths.epochs}",
                f"Use --set networks.epochs={last}, or lower loop.starts.last or loop.span.",
            )
        if self.decoupled and paths.last - paths.epochs < self.span:
            raise BadInput(
                recipe.name,
                f"follows classifiers for {self.span} passes, and they are trained for {paths.last - paths.epochs}",
                f"Use --set networks.head={self.span}, or lower loop.span.",
            )
        return networks, paths, claim


@dataclass(frozen=True)
class _Way:
    """What a student follows: from ``start`` to ``goal``, in the ``counted`` parameters; ``fixed`` ones stay."""

    start: Parameters
    goal: Parameters
    counted: slice
    fixed: Parameters = field(default_factory=dict)


def _as_trained(networks: object) -> tuple[str, ...]:
    """That experts of a folder were not trained as the recipe says."""
    own = [n for n in ("curriculum", "sam", "weight_decay") if getattr(networks, n, None)]
    if not getattr(networks, "buffers", None) or not own:
        return ()
    return (
        f"experts of the folder as they were trained: {', '.join(own)} of the recipe do not apply",
    )


def _size_of(paths: Paths) -> str:
    kept = "their two ends" if paths.straight else f"{paths.last + 1} checkpoints each"
    return f"matched on the paths of {paths.count} experts, {kept}: {paths.megabytes:.1f} MB in all"
