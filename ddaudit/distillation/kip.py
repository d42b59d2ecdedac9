"""Kernel inducing points: move synthetic images until kernel ridge regression from them predicts the real data.

One question per step: the gradient of every record's regression loss in the synthetic images, averaged by the
reader, noisy where it is private. Nothing else of the real data is used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ddaudit.distillation.kernels import (
    DenseNTK,
    Kernel,
    NetworkFeatures,
    centred_targets,
    record_losses,
    record_pulls,
    solve,
)
from ddaudit.distillation.loops import Job, LearnsRecords, Outcome, finish, network_for, view_of
from ddaudit.distillation.optimisers import optimiser_named
from ddaudit.distillation.parts import Canvas, Query
from ddaudit.distillation.reading import draw_by_class
from ddaudit.distillation.recipe import Recipe
from ddaudit.distillation.terms import added
from ddaudit.errors import BadInput, DDAuditError


@dataclass(frozen=True)
class KernelInducing:
    """An optimiser on the synthetic images; each step asks for one gradient of the kernel ridge regression loss.

    Attributes:
        steps: gradients asked for, each one step.
        lr: of the optimiser, in normalised space.
        kernel: a fixed kernel, or the features of each step's networks.
        reg: ridge, relative to the mean diagonal of the kernel of the synthetic images.
        clip_in: where a private reader clips and adds noise: "pixels" (the gradient in all synthetic pixels
            jointly) or "features" (the gradient in what the kernel sees, pulled back to pixels afterwards as
            post-processing). Both bound one record's influence; features cost no Jacobian per image. For kernels
            of raw pixels they are the same.
        optimiser: "adam", "lamb" or "adabelief".
        decay: share of its step that the optimiser ends at, after half a cosine; None keeps the step.
        loss: of a record: "squared" error, or "platt", cross-entropy at a temperature that is learned beside the
            images.
        temperature_lr: step size of that temperature's logarithm.

    Source: Nguyen, Chen & Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv 2011.00050,
    algorithm 1; private form: DP-KIP, TMLR 2024, arXiv 2301.13389, algorithm 1.
    """

    takes_terms = True
    learns_labels = True
    steps: int = 1000
    lr: float = 0.04
    kernel: Kernel = field(default_factory=DenseNTK)
    reg: float = 1e-6
    clip_in: Literal["pixels", "features"] = "pixels"
    optimiser: Literal["adam", "lamb", "adabelief"] = "adam"
    decay: float | None = None
    loss: Literal["squared", "platt"] = "squared"
    temperature_lr: float = 0.01

    def __post_init__(self) -> None:
        if self.optimiser not in ("adam", "lamb", "adabelief"):
            raise ValueError(
                f"loop.optimiser is 'adam', 'lamb' or 'adabelief', not '{self.optimiser}'"
            )
        if self.loss not in ("squared", "platt"):
            raise ValueError(f"loop.loss is 'squared' or 'platt', not '{self.loss}'")
        if not self.temperature_lr > 0 or (self.decay is not None and not 0 <= self.decay <= 1):
            raise ValueError("loop.temperature_lr must be positive and loop.decay lie in [0, 1]")
        if self.steps < 1 or not self.lr > 0 or self.reg < 0:
            raise ValueError(
                "loop.steps must be at least 1, loop.lr positive and loop.reg at least 0"
            )
        if self.clip_in not in ("pixels", "features"):
            raise ValueError(f"loop.clip_in is 'pixels' or 'features', not '{self.clip_in}'")

    def queries(self, ipc: int) -> int:
        """One per step."""
        return self.steps

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Never: every question depends on the synthetic images."""
        return False

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """True without privacy: all runs regress on one embedding of each real batch.

        A private reader clips one gradient per record and run, so its runs come one after the other; so do runs
        whose networks depend on their images or on their records.
        """
        own = recipe.networks is not None and (
            recipe.networks.follows()
            or recipe.networks.couples_records()
            or isinstance(recipe.networks, LearnsRecords)
        )
        private = recipe.reader is not None and recipe.reader.private
        parallel = recipe.synthesis is not None and recipe.synthesis.parallel
        single = getattr(recipe.reader, "single", False)
        return parallel and not private and not own and not single

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil K sets, one per row of ``job.members``.

        Raises:
            BadInput: parts are missing, or a private recipe would read records outside its ledger.
            DDAuditError: the optimisation diverged, or K > 1 with a private reader.
        """
        if not (recipe.target and recipe.synthesis and recipe.reader):
            raise BadInput(recipe.name, "lacks a target, a synthesis or a reader")
        if isinstance(self.kernel, NetworkFeatures) != (recipe.networks is not None):
            raise BadInput(
                recipe.name,
                "needs networks for a kernel of their features, and for no other kernel",
            )
        recipe.check_private()
        if len(job.members) > 1 and not self.shareable(recipe, job.ipc):
            raise DDAuditError(f"{recipe.name}: a private reader serves one run at a time")
        source = recipe.open(job)
        canvas = recipe.start(job, torch.Generator().manual_seed(job.seed))
        strategy = recipe.augment_for(job.data)
        mean, std = recipe.constants(job.data)
        # Augmented records are never seen twice.
        networks = recipe.networks_for(job)
        worth = self.kernel.costly and not strategy
        remembered = _Remembered(self.kernel) if worth else None
        groups = canvas.groups(self.lr)
        log_scale = None
        if self.loss == "platt":
            log_scale = torch.zeros(len(job.members), dtype=torch.float64, device=job.device)
            groups.append({"params": [log_scale], "lr": self.temperature_lr})
        optimiser = optimiser_named(self.optimiser, groups, lr=self.lr)
        lowered = torch.optim.lr_scheduler.LambdaLR(optimiser, self._remaining)
        for step in range(self.steps):
            support, soft = canvas.decode(), canvas.label_distributions()
            kernel, net = self.kernel, None
            if networks is not None and isinstance(kernel, NetworkFeatures):
                first = step * kernel.models
                nets = [network_for(job, networks, first + i) for i in range(kernel.models)]
                kernel, net = kernel.on(*nets), nets[0]
            question = RidgeGradient(
                kernel,
                self.reg,
                support.detach(),
                canvas.labels if soft is None else soft.detach(),
                job.train.num_classes,
                space=self.clip_in if recipe.reader.private else "features",
                embed=remembered,
                log_scale=log_scale,
            )
            augment = draw_by_class(strategy, job.train, job.seed, "augment", step)
            query = Query(str(step), question, net, augment)
            view = view_of(job, canvas, support, net, std=std, step=step, soft=soft)
            answer = source.targets(query).mean()
            if log_scale is not None:
                # Behind everything else stands the gradient in the temperature.
                log_scale.grad, answer = answer[:, -1].double(), answer[:, :-1]
            self._descend(canvas, support, soft, question, answer, extra=added(recipe.terms, view))
            optimiser.step()
            lowered.step()
            canvas.keep()
            if networks is not None:
                networks.update(canvas, step)
            if not canvas.finite:
                raise DDAuditError(
                    f"{recipe.name}: diverged at step {step}. Lower --set loop.lr (now {self.lr})."
                )
            if job.progress:
                job.progress(step + 1, self.steps)
        return finish(canvas, None, source.claims(), mean, std)

    def _remaining(self, step: int) -> float:
        """Share of the optimiser's step that is left."""
        if self.decay is None:
            return 1.0
        return self.decay + (1 - self.decay) * (1 + math.cos(math.pi * step / self.steps)) / 2

    def _descend(
        self,
        canvas: Canvas,
        support: Tensor,
        soft: Tensor | None,
        question: RidgeGradient,
        gradient: Tensor,
        *,
        extra: Tensor | None,
    ) -> None:
        """Carry a (K, D) gradient to the canvas's parameters: post-processing, no real data involved. ``extra`` is
        a loss whose gradient is added."""
        moved = support
        if question.space == "features":
            moved = question.kernel.embed(support.flatten(0, 1))
        if soft is not None:
            # Behind the gradient in the images stands that in the labels.
            images = gradient.shape[1] - soft[0].numel()
            pulled = (soft * gradient[:, images:].reshape(soft.shape)).sum()
            extra = pulled if extra is None else extra + pulled
            gradient = gradient[:, :images]
        canvas.pull(moved, gradient.reshape(moved.shape), extra=extra)


class RidgeGradient:
    """The question of one step: gradients of the regression losses of real records in the synthetic images.

    Signals are per record and over all synthetic images jointly: (B, M * P) in pixels, (B, M * F) in features, and
    behind them M * num_classes for the gradient in learned labels, and one for that in the Platt loss's temperature.

    Args:
        kernel, reg: of the regression.
        support: (K, M, C, H, W) normalised synthetic images, public.
        labels: (M,) int64, or (K, M, num_classes) distributions, which are learned.
        num_classes: how many classes there are.
        space: what the gradient is taken in, "pixels" or "features" (what the kernel sees).
        embed: (B, C, H, W) records -> (B, F), the kernel's embedding (or one that remembers).
        log_scale: (K,) of the Platt loss, learned; None: squared error.
    """

    shareable = False

    def __init__(
        self,
        kernel: Kernel,
        reg: float,
        support: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        space: Literal["pixels", "features"],
        embed: Callable[[Tensor], Tensor] | None = None,
        log_scale: Tensor | None = None,
    ) -> None:
        self.space = space
        self._log_scale = None if log_scale is None else log_scale.detach().clone()
        self.kernel, self._reg, self._support = kernel, reg, support
        self._classes = num_classes
        self._y = centred_targets(labels, num_classes).double()
        self._learned = labels.is_floating_point()
        self._embed = embed or kernel.embed

    def signals(self, net: Any, x: Tensor, y: Tensor) -> Tensor:
        """(B, D) gradient of each record's loss, in closed form; float32 like the images.

        Raises:
            DDAuditError: several runs at once have no one gradient per record.
        """
        if len(self._support) != 1:
            raise DDAuditError("a record has one gradient per run, and several runs are asked for")
        if self._learned or self._log_scale is not None:
            raise DDAuditError(
                "gradients in learned labels or temperatures are not taken per record"
            )
        images = self._support[0]
        with torch.no_grad():
            z, support = self._embed(x), self.kernel.embed(images)
            pull = record_pulls(
                self.kernel.gram(z, support).double(),
                self.kernel.gram(support, support).double(),
                self._y,
                centred_targets(y, self._classes).double(),
                reg=self._reg,
            )
            pull = pull.to(z.dtype)
            if self.space == "features":
                return self.kernel.pulls(z, support, pull).flatten(1)
            return self.kernel.pixel_pulls(images, z, support, pull).flatten(1)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) losses of records, differentiable in them: what an attack raises.

        Raises:
            DDAuditError: several runs at once have no one loss per record.
        """
        if len(self._support) != 1:
            raise DDAuditError("a record has one loss per run, and several runs are asked for")
        with torch.no_grad():
            support = self.kernel.embed(self._support[0])
            coefficients = solve(self.kernel.gram(support, support).double(), self._y, self._reg)
        kernel_ts = self.kernel.gram(self.kernel.embed(x), support).double()
        wanted = centred_targets(y, self._classes)
        return record_losses(kernel_ts[None], coefficients, wanted, self._log_scale).sum(0)

    def real(self, net: Any, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """(K, R, D) gradients of the row-weighted losses, without one gradient per record; those in learned labels
        behind those in the images."""
        k, m = self._support.shape[:2]
        with torch.no_grad():
            z = self._embed(x)
            support = self.kernel.embed(self._support.flatten(0, 1)).view(k, m, -1).detach()
        with torch.enable_grad():
            support.requires_grad_(True)
            moved = [support]
            labels, log_scale = self._y.detach(), self._log_scale
            if self._learned:
                moved.append(labels.requires_grad_(True))
            if log_scale is not None:
                moved.append(log_scale.requires_grad_(True))
            coefficients = solve(self.kernel.gram(support, support).double(), labels, self._reg)
            losses = record_losses(
                self.kernel.gram(z, support).double(),
                coefficients,
                centred_targets(y, self._classes),
                log_scale,
            )
            weighted = (rows * losses[:, None]).sum((0, 2))
            grads = [torch.autograd.grad(w, moved, retain_graph=True) for w in weighted]
        out, *rest = (torch.stack(parts, 1) for parts in zip(*grads, strict=True))
        behind = [part.reshape(k, rows.shape[1], -1).to(out.dtype) for part in rest]
        if self.space == "features":
            return torch.cat([out.flatten(2), *behind], 2)
        with torch.enable_grad():
            images = self._support.detach().requires_grad_(True)
            embedded = self.kernel.embed(images.flatten(0, 1)).view(k, m, -1)
            pixels = [
                torch.autograd.grad(embedded, images, out[:, r], retain_graph=True)[0]
                for r in range(out.shape[1])
            ]
        return torch.cat([torch.stack(pixels, 1).flatten(2), *behind], 2)


_REMEMBERED_FLOATS = 2**28


class _Remembered:
    """A kernel's embedding of real records, computed once per record (up to 1 GiB of them).

    Kernels are fixed, so that an embedding is a function of one record alone: remembering it changes no number.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._known: dict[bytes, Tensor] = {}
        self._held = 0

    def __call__(self, x: Tensor) -> Tensor:
        """(B, F) embeddings of x (B, C, H, W)."""
        if self._held > _REMEMBERED_FLOATS or len(x) == 0:
            return self._kernel.embed(x)
        rows = x.detach().flatten(1).cpu().numpy()
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            for i, z in zip(new, self._kernel.embed(x[new]), strict=True):
                self._known[keys[i]] = z
                self._held += z.numel()
        return torch.stack([self._known[key] for key in keys])
