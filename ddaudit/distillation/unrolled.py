"""Unrolled training: move synthetic images so that a network trained on them for a few steps fits the real data.

One question per iteration: the gradient of the real records' loss in the parameters of the trained network. What it
says of images, labels and learning rate follows by back-propagation through the training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ddaudit.distillation.learned import FixedRate, LearnedRate
from ddaudit.distillation.loops import Job, Outcome, finish, network_for, view_of
from ddaudit.distillation.objectives import GradientMatch
from ddaudit.distillation.parts import Canvas, Query
from ddaudit.distillation.reading import draw_by_class
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.terms import added
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network
from ddaudit.seeds import stable_seed

Parameters = Mapping[str, Tensor]


def unroll(
    start: Parameters,
    loss: Callable[[Parameters], Tensor],
    *,
    rate: Tensor | float,
    steps: int,
    momentum: float = 0.0,
) -> dict[str, Tensor]:
    """Parameters after gradient descent, differentiable in ``rate`` and in whatever ``loss`` is made from.

    Args:
        start: name -> parameter, where descent starts.
        loss: the scalar loss at given parameters; called once a step, in order.
        rate: learning rate, a scalar.
        steps: of descent; 0 returns the start. The graphs of all of them are held: memory grows with steps.
        momentum: v = momentum * v + gradient, and a step is -rate * v, as torch's SGD has it.
    """
    at = {name: p.detach().requires_grad_(True) for name, p in start.items()}
    moving: tuple[Tensor, ...] = ()
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(at), list(at.values()), create_graph=True)
        if momentum and moving:
            slopes = tuple(momentum * v + g for v, g in zip(moving, slopes, strict=True))
        moving = slopes
        at = {name: p - rate * g for (name, p), g in zip(at.items(), slopes, strict=True)}
    return at


@dataclass(frozen=True)
class Unrolled:
    """An optimiser on images, learning rate and labels, whichever are free; each iteration unrolls one training.

    A network is drawn, trained by ``inner`` gradient steps on the synthetic set, and asked for its loss on a batch of
    real records (augmented where the recipe says so; synthetic images never are). Adam's momenta and the halved step
    are those of DD's code.

    Attributes:
        steps: iterations, each with one question to the real data.
        lr: of the optimiser, in normalised space.
        halve_every: iterations after which ``lr`` is halved, again and again; None keeps it.
        inner: gradient steps of a network on the synthetic set; where the rate is learned, the recipe's protocol
            takes as many.
        rate: their learning rate.
        inner_momentum: their momentum.
        batch: images of each class that one of them takes, drawn at random; None takes all.
        optimiser: "adam", or "sgd" with momentum 0.5.
        max_norm: the gradient of all parameters together is shortened to this norm; None leaves it.

    Source: Wang, Zhu, Torralba & Efros, "Dataset Distillation", arXiv 1811.10959, algorithm 1; with learned labels
    Sucholutsky & Schonlau, arXiv 1910.02551; with momentum, batches and shortened gradients Deng & Russakovsky (RTP),
    NeurIPS 2022, arXiv 2206.02916, section 3.3 and the authors' code.
    """

    takes_terms = True
    learns_labels = True
    steps: int = 1000
    lr: float = 0.01
    halve_every: int | None = None
    inner: int = 10
    rate: LearnedRate | FixedRate = field(default_factory=LearnedRate)
    inner_momentum: float = 0.0
    batch: int | None = None
    optimiser: Literal["adam", "sgd"] = "adam"
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.inner_momentum < 1 or (self.batch is not None and self.batch < 1):
            raise ValueError("loop.inner_momentum must lie in [0, 1), and loop.batch be at least 1")
        if self.optimiser not in ("adam", "sgd"):
            raise ValueError(f"loop.optimiser is 'adam' or 'sgd', not '{self.optimiser}'")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"loop.max_norm must be positive, got {self.max_norm:g}")
        if self.steps < 1 or self.inner < 1 or not self.lr > 0:
            raise ValueError(
                "loop.steps and loop.inner must be at least 1 and loop.lr must be positive"
            )
        if self.halve_every is not None and self.halve_every < 1:
            raise ValueError(f"loop.halve_every must be at least 1, got {self.halve_every}")

    def queries(self, ipc: int) -> int:
        """One per iteration."""
        return self.steps

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Never: every question is asked of a network trained on the synthetic set."""
        return False

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """Never, for the same reason: runs come one after the other."""
        return False

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil the one set of ``job``.

        Raises:
            BadInput: parts are missing, a private recipe would read records outside its ledger, or the recipe's
                protocol trains for another number of steps.
            DDAuditError: the optimisation diverged, or several runs are asked for.
        """
        if not (recipe.target and recipe.synthesis and recipe.networks and recipe.reader):
            raise BadInput(recipe.name, "lacks a target, a synthesis, networks or a reader")
        recipe.check_private()
        if len(job.members) > 1:
            raise DDAuditError(f"{recipe.name}: runs come one after the other")
        source = recipe.open(job)
        canvas = recipe.start(job, torch.Generator().manual_seed(job.seed))
        self._check_protocol(recipe, job, canvas.size)
        canvas = self.rate.start(canvas, 1)
        networks = recipe.networks_for(job) or recipe.networks
        strategy = recipe.augment_for(job.data)
        mean, std = recipe.constants(job.data)
        optimiser = self._optimiser(canvas)
        batches = torch.Generator().manual_seed(stable_seed(job.seed, "batches"))
        halving = torch.optim.lr_scheduler.StepLR(optimiser, self.halve_every or self.steps, 0.5)
        for step in range(self.steps):
            fresh = network_for(job, networks, step)
            x, soft = canvas.decode(), canvas.label_distributions()
            reached = self._train(fresh, canvas, x, soft, batches)
            trained = _with(fresh, reached)
            augment = draw_by_class(strategy, job.train, job.seed, "augment", step)
            query = Query(str(step), GradientMatch(), trained, augment, taught=True)
            answer = source.targets(query)
            view = view_of(job, canvas, x, trained, std=std, step=step, soft=soft)
            end = torch.cat([p.flatten() for p in reached.values()])
            canvas.pull(end[None], answer.mean(), extra=added(recipe.terms, view))
            if self.max_norm is not None:
                torch.nn.utils.clip_grad_norm_(canvas.parameters, self.max_norm)
            optimiser.step()
            halving.step()
            canvas.keep()
            networks.update(canvas, step)
            if not canvas.finite:
                raise DDAuditError(
                    f"{recipe.name}: diverged at step {step}. Lower --set loop.lr (now {self.lr})."
                )
            if job.progress:
                job.progress(step + 1, self.steps)
        return finish(canvas, None, source.claims(), mean, std)

    def _optimiser(self, canvas: Canvas) -> torch.optim.Optimizer:
        groups = canvas.groups(self.lr)
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=0.5)
        return torch.optim.Adam(groups, betas=(0.5, 0.999))

    def _train(
        self,
        net: Network,
        canvas: Canvas,
        x: Tensor,
        soft: Tensor | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Parameters of ``net`` trained on the canvas's one run: images x (1, M, C, H, W), its labels or ``soft``."""
        rates = canvas.rates()
        body, buffers = net.body, dict(net.body.named_buffers())
        labels = canvas.labels if soft is None else soft[0]

        def loss(at: Parameters) -> Tensor:
            images, answers = x[0], labels
            if self.batch is not None:
                drawn = _drawn(canvas.labels, self.batch, generator)
                images, answers = images[drawn], answers[drawn]
            logits: Tensor = functional_call(body, {**at, **buffers}, (images,))
            return F.cross_entropy(logits, answers)

        return unroll(
            dict(body.named_parameters()),
            loss,
            rate=self.rate.start_at if rates is None else rates[0],
            steps=self.inner,
            momentum=self.inner_momentum,
        )

    def _check_protocol(self, recipe: Recipe, job: Job, size: int) -> None:
        """Refuse to learn a rate for one number of steps while the card states another."""
        if recipe.protocol is None or isinstance(self.rate, FixedRate):
            return
        stated = recipe.protocol.for_data(job.data.augment).schedule(size).steps
        if stated != self.inner:
            raise BadInput(
                recipe.name,
                f"is unrolled over {self.inner} steps, and its protocol trains for {stated}",
                f"Add --set protocol.max_steps={self.inner}.",
            )


def _drawn(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of ``count`` random images of each class, of all where a class has fewer."""
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[labels[order].argsort(stable=True)]
    sizes = labels.bincount()
    first = (sizes.cumsum(0) - sizes)[labels[order]]
    return order[torch.arange(len(order), device=order.device) - first < count]


def _with(net: Network, parameters: Parameters) -> Network:
    """A copy of ``net`` with other parameters, as constants."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, p in other.body.named_parameters():
            p.copy_(parameters[name])
    return other
