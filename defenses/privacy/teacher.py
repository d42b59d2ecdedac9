"""``dp-teacher``: a DP-SGD-trained teacher, and images made from nothing but that teacher.

The teacher is the only thing that reads private records. Images, labels and whatever else is derived from it are
post-processing, so their claim is the teacher's. It is the plain alternative that private distillation has to
beat: train privately, then distil without data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddaudit.defenses.privacy.dpsgd import train_private
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import Recipe, register
from ddaudit.distillation.loops import Job, Outcome, Progress
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import Joint
from ddaudit.distillation.terms import total_variation
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Network
from ddaudit.training.augment import apply, draw

SOURCE = (
    "Abadi et al., Deep Learning with Differential Privacy, CCS 2016 (teacher); Yin et al., Dreaming to Distill, "
    "CVPR 2020, arXiv 1912.08795, section 3 (images from a teacher, without its batch-norm statistics)"
)


@dataclass(frozen=True)
class FromTeacher:
    """Train a teacher by DP-SGD, then make images that it classifies as asked, and let it label them.

    Attributes:
        steps: DP-SGD steps, each one question to the private data.
        lr, momentum, average: of DP-SGD, see :func:`train_private`.
        iterations, image_lr: Adam steps on the images, and their size. Images are tanh of free parameters in
            normalised space, so that pixels stay in [0, 1].
        tv, l2: weights of the priors: mean squared difference of neighbouring pixels, and mean square.
        labels: "soft" releases the teacher's probabilities, "hard" the classes that were asked for.
        temperature: of soft labels; above 1 they say more about the other classes.

    Source: DP-SGD, CCS 2016, algorithm 1; DeepInversion, CVPR 2020, equations 1 to 3.
    """

    steps: int = 1000
    lr: float = 0.5
    momentum: float = 0.9
    average: float | None = 0.9
    iterations: int = 1000
    image_lr: float = 0.02
    tv: float = 1e-3
    l2: float = 1e-3
    labels: Literal["soft", "hard"] = "soft"
    temperature: float = 3.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.iterations < 1:
            raise ValueError("loop.steps and loop.iterations must be at least 1")
        if not (self.lr > 0 and self.image_lr > 0 and self.temperature > 0):
            raise ValueError("loop.lr, loop.image_lr and loop.temperature must be positive")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"loop.momentum must lie in [0, 1), got {self.momentum}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"loop.average must lie strictly between 0 and 1, got {self.average}")
        if self.tv < 0 or self.l2 < 0:
            raise ValueError("loop.tv and loop.l2 must not be negative")
        if self.labels not in ("soft", "hard"):
            raise ValueError(f"loop.labels is 'soft' or 'hard', not '{self.labels}'")

    def shareable(self, recipe: Recipe, ipc: int) -> bool:
        """Every run has a teacher of its own."""
        return False

    def reusable(self, recipe: Recipe, ipc: int) -> bool:
        """Gradients are asked at the teacher's weights, which no synthetic image has touched: one teacher, trained
        again from the same answers, serves sets of any size."""
        return True

    def queries(self, ipc: int) -> int:
        """One per DP-SGD step."""
        return self.steps

    def run(self, recipe: Recipe, job: Job) -> list[Outcome]:
        """Distil one set from the records of ``job.members`` (1, N) bool.

        Raises:
            BadInput: a recipe without target, synthesis, networks or private reader; see ``check_private``.
            DDAuditError: several runs at once, or training or synthesis diverged.
        """
        if not (recipe.reader and recipe.target and recipe.networks and recipe.synthesis):
            raise BadInput(
                recipe.name,
                "trains a teacher and needs a reader, a target, networks and a synthesis",
            )
        recipe.check_private()
        if job.data.space != "pixels":
            raise BadInput(recipe.name, f"makes pixels, and '{job.data.name}' holds none")
        if len(job.members) != 1:
            raise DDAuditError(f"{recipe.name}: one run at a time, every run has its own teacher")
        progress, total = job.progress, self.steps + self.iterations
        source = recipe.open(job)
        networks = recipe.networks_for(job)
        assert networks is not None
        teacher = networks.make(
            shape=job.train.shape,
            num_classes=job.train.num_classes,
            seed=job.seed,
            device=job.device,
        )
        train_private(
            source,
            teacher,
            steps=self.steps,
            lr=self.lr,
            momentum=self.momentum,
            average=self.average,
            progress=None if progress is None else lambda done, _: progress(done, total),
        )
        # From here on no record is read.
        (claim,) = source.claims()
        generator = torch.Generator().manual_seed(job.seed)
        canvas = recipe.start(job, generator)
        images = self._dream(
            teacher.requires_grad_(False),
            canvas,
            strategy=recipe.augment_for(job.data),
            generator=generator,
            progress=None
            if progress is None
            else lambda done, _: progress(self.steps + done, total),
        )
        if not bool(torch.isfinite(images).all()):
            raise DDAuditError(
                f"{recipe.name}: the images diverged. Lower --set loop.image_lr (now {self.image_lr:g})."
            )
        labels = canvas.labels
        if self.labels == "soft":
            with torch.no_grad():
                labels = (teacher.body(images) / self.temperature).softmax(1)
        mean, std = recipe.constants(job.data)
        return [Outcome((images.cpu() * std + mean).contiguous(), labels.cpu(), claim)]

    def _dream(
        self,
        teacher: Network,
        canvas: Canvas,
        *,
        strategy: str,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Tensor:
        """(M, C, H, W) normalised images for which the teacher's cross-entropy is low, under augmentation too."""
        optimiser = torch.optim.Adam(canvas.parameters, lr=self.image_lr)
        y = canvas.labels
        for step in range(self.iterations):
            x = canvas.decode()[0].tanh()
            seen = x
            if strategy:
                drawn = draw(strategy, generator, n=len(x), shape=tuple(x.shape[1:]))
                seen = apply(x, drawn)
            loss = F.cross_entropy(teacher.body(seen), y)
            loss = loss + self.tv * total_variation(x) + self.l2 * x.square().mean()
            canvas.pull(loss)
            optimiser.step()
            if progress:
                progress(step + 1, self.iterations)
        with torch.no_grad():
            return canvas.decode()[0].tanh()


register(
    Recipe(
        name="dp-teacher",
        purpose="images inverted from a teacher trained by DP-SGD (private)",
        family="gradient",
        status="ours",
        source=SOURCE,
        loop=FromTeacher(),
        target=Joint(),
        synthesis=Pixels(init="noise"),
        networks=Fresh("ConvNet", width=32),
        reader=PoissonGaussian(clip=1.0, batch=256, sampling="uniform", scale="mean"),
        normalise="public",
        deviations=(
            "a baseline of ours: DP-SGD and images from a teacher, put together",
            "no batch-norm statistics to match: networks with batch normalisation cannot be trained privately",
        ),
        small={"loop.steps": 80, "loop.iterations": 150, "reader.batch": 200},
    )
)
