"""Images as products: bases that networks restyle, and a memory that labels address."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddaudit.data import ImageData
from ddaudit.distillation.canvas import Canvas, Start
from ddaudit.distillation.contrast import supervised_contrast
from ddaudit.distillation.networks import fit
from ddaudit.distillation.synthesis import Pixels, labels_of
from ddaudit.errors import BadInput, DDAuditError
from ddaudit.models import Arch, build


@dataclass(frozen=True)
class Hallucinated:
    """S = all bases seen by all hallucinators: every class has bases of its own, hallucinators serve all classes.

    A hallucinator is a convolution, a scale and a shift for every position, and a convolution back. So that styles
    differ, an extractor learns to tell that two styles of a base belong together, and the bases and hallucinators are
    pushed to prevent it (the extractor sees synthetic images alone).

    Attributes:
        init: how the bases start, as in :class:`Pixels`.
        styles: hallucinators.
        kernel: side of their convolutions.
        bases: per class; None: as many as images per class. The hallucinators come on top, and the card counts them.
        contrast: weight of the similarity of two styles of a base in the loss; 0 trains no extractor.
        extractor, extractor_lr: architecture and learning rate (SGD, momentum 0.9) of the extractor.

    Source: Liu et al., "Dataset Distillation via Factorization" (HaBa), NeurIPS 2022, arXiv 2210.16774, sections 3.2
        and 3.3, values of the authors' code.
    """

    init: Literal["real", "noise"] = "real"
    styles: int = 5
    kernel: int = 3
    bases: int | None = None
    contrast: float = 0.1
    extractor: str = "ConvNet"
    extractor_lr: float = 0.001

    def __post_init__(self) -> None:
        if self.styles < 1 or self.kernel < 1 or (self.bases is not None and self.bases < 1):
            raise ValueError("synthesis.styles, kernel and bases must be at least 1")
        if not (self.contrast >= 0 and self.extractor_lr > 0):
            raise ValueError("synthesis.contrast must be at least 0 and extractor_lr positive")
        Pixels(self.init)

    @property
    def parallel(self) -> bool:
        """The hallucinators serve one run."""
        return False

    def from_noise(self) -> Hallucinated:
        """Bases from N(0, 1); hallucinators start from random weights anyway."""
        return replace(self, init="noise")

    def start(self, given: Start) -> Canvas:
        """num_classes * bases * styles images in class-major order, the styles of a base next to each other.

        Raises:
            BadInput: images smaller than the convolutions; real initialisation of a class without any record.
            DDAuditError: more than one run.
        """
        data = given.data
        if len(given.members) != 1:
            raise DDAuditError("hallucinators serve one run at a time")
        if min(data.shape[1:]) < self.kernel:
            raise BadInput(
                f"synthesis.kernel={self.kernel}",
                f"is larger than images of {data.shape[1]} x {data.shape[2]} pixels",
            )
        per_class = self.bases or given.ipc
        inside = Pixels(self.init).start(replace(given, ipc=per_class))
        (x,) = inside.parameters
        seed = int(torch.randint(2**62, (), generator=given.generator))
        styles = hallucinators(data.shape, self.styles, self.kernel, seed=seed).to(given.device)

        def decode() -> Tensor:
            return torch.stack([style(x[0]) for style in styles], 1).flatten(0, 1)[None]

        penalty = None
        if self.contrast and self.styles > 1:
            rival = _Extractor(self, data, seed, given.device)
            penalty = rival.against(decode, inside.labels)
        weights = list(styles.parameters())
        return Canvas(
            [x, *weights],
            inside.labels.repeat_interleave(self.styles),
            decode,
            penalty=penalty,
            image_bytes=4 * x.numel(),
            decoder_bytes=4 * sum(p.numel() for p in weights),
        )


class Hallucinator(nn.Module):
    """(M, C, H, W) bases -> images of the same size; parameters are named as in the authors' code."""

    def __init__(self, inputs: int, shape: tuple[int, int, int], kernel: int) -> None:
        super().__init__()
        channels, height, width = shape
        inner = (1, channels, height - kernel + 1, width - kernel + 1)
        self.enc = nn.Conv2d(inputs, channels, kernel)
        self.scale = nn.Parameter(torch.ones(inner))
        self.shift = nn.Parameter(torch.zeros(inner))
        self.dec = nn.ConvTranspose2d(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        styled: Tensor = self.dec(self.scale * self.enc(x) + self.shift)
        return styled


def hallucinators(
    shape: tuple[int, int, int], count: int, kernel: int, *, seed: int
) -> nn.ModuleList:
    """New hallucinators on the CPU (PyTorch's initialisation; scale 1, shift 0); equal seeds, equal weights."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return nn.ModuleList(Hallucinator(shape[0], shape, kernel) for _ in range(count))


class _Extractor:
    """The rival of the hallucinators: learns that two styles of a base are alike, and of which class they are."""

    def __init__(
        self, synthesis: Hallucinated, data: ImageData, seed: int, device: torch.device
    ) -> None:
        constants = {"mean": (0.0,) * data.shape[0], "std": (1.0,) * data.shape[0]}
        arch = fit(Arch.parse(synthesis.extractor), data.shape)
        net = build(
            arch, shape=data.shape, num_classes=data.num_classes, seed=seed % 2**31, **constants
        )
        self._body = net.to(device).train().body
        self._generator = torch.Generator().manual_seed(seed)
        self._synthesis = synthesis
        self._optimiser = torch.optim.SGD(
            self._body.parameters(), lr=synthesis.extractor_lr, momentum=0.9
        )

    def against(self, decode: Callable[[], Tensor], labels: Tensor) -> Callable[[], Tensor]:
        """() -> the weighted similarity of two random styles of every base, after one step of the extractor."""

        def penalty() -> Tensor:
            images = decode()[0].unflatten(0, (len(labels), -1))
            self._learn(images.detach(), labels)
            first, second = self._features(images)
            alike = (F.cosine_similarity(first, second) + 1).mean() / 2
            return self._synthesis.contrast * alike

        return penalty

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (m, D) of two styles, drawn at random, of m bases in all styles (m, S, C, H, W)."""
        two = torch.randperm(images.shape[1], generator=self._generator)[:2].tolist()
        first, second = (self._body.features(images[:, style]) for style in two)
        return first, second

    def _learn(self, images: Tensor, labels: Tensor) -> None:
        """One step; the weights 1, 0.1 and 0.1 of its losses are the authors'."""
        with torch.enable_grad():
            first, second = self._features(images)
            both = torch.cat([first, second])
            named = F.cross_entropy(self._body.classifier(both), labels.repeat(2))
            apart = (1 - F.cosine_similarity(first, second)).mean() / 2
            loss = named + 0.1 * apart + 0.1 * supervised_contrast(both, labels.repeat(2))
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()


@dataclass(frozen=True)
class Memory:
    """S = addresses @ bases: every image is a linear combination of a few small images that all classes share.

    As many images per class are addressed as the budget of ``ipc`` images buys: bases and addresses together take at
    most as many numbers as num_classes * ipc images. It starts from random numbers, never from a record.

    Attributes:
        bases: small images in the memory.
        scale: how many times smaller they are, by side.
        init: only "noise".

    Source: Deng & Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks"
        (RTP), NeurIPS 2022, arXiv 2206.02916, section 3, and the authors' code (16 bases at half the side).
    """

    bases: int = 16
    scale: int = 2
    init: Literal["noise"] = "noise"

    def __post_init__(self) -> None:
        if self.bases < 1 or self.scale < 1:
            raise ValueError("synthesis.bases and synthesis.scale must be at least 1")
        if self.init != "noise":
            raise ValueError(f"a memory starts from noise, not from '{self.init}'")

    @property
    def parallel(self) -> bool:
        """K runs are K memories."""
        return True

    def from_noise(self) -> Memory:
        """It looks at no record anyway."""
        return self

    def start(self, given: Start) -> Canvas:
        """As many images of every class as the budget buys, in class-major order.

        Raises:
            BadInput: a budget that the bases use up.
        """
        data = given.data
        channels, height, width = data.shape
        small = (channels, math.ceil(height / self.scale), math.ceil(width / self.scale))
        budget = given.ipc * data.num_classes * channels * height * width
        per_class = (budget - self.bases * math.prod(small)) // (data.num_classes * self.bases)
        if per_class < 1:
            raise BadInput(
                f"synthesis.bases={self.bases}",
                f"take up the budget of {given.ipc} images per class: nothing is left for addresses",
                "Take fewer bases, a larger synthesis.scale, or more images per class.",
            )
        labels = labels_of(data.num_classes, per_class)
        k = len(given.members)
        bases = _xavier(k, self.bases, math.prod(small), given.generator)
        addresses = _xavier(k, len(labels), self.bases, given.generator)
        bases, addresses = (t.to(given.device).requires_grad_(True) for t in (bases, addresses))

        def decode() -> Tensor:
            return recall(bases.view(k, self.bases, *small), addresses, (height, width))

        return Canvas(
            [bases, addresses],
            labels.to(given.device),
            decode,
            image_bytes=4 * bases[0].numel(),
            decoder_bytes=4 * addresses[0].numel(),
        )


def recall(bases: Tensor, addresses: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, M, C, H, W) images: addresses (K, M, B) times bases (K, B, C, h, w), enlarged bilinearly to ``size``."""
    small = (addresses @ bases.flatten(2)).view(*addresses.shape[:2], *bases.shape[2:])
    if tuple(small.shape[-2:]) == size:
        return small
    large = F.interpolate(small.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
    return large.view(*small.shape[:3], *size)


def _xavier(runs: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(K, rows, columns) uniform numbers within sqrt(6 / (rows + columns)), as the source's embeddings start."""
    bound = math.sqrt(6 / (rows + columns))
    return (2 * torch.rand(runs, rows, columns, generator=generator) - 1) * bound
