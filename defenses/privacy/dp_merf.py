"""DP-MERF: one noisy mean embedding of random Fourier features, and images that are fitted to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ddaudit.data import Dataset
from ddaudit.defenses.privacy.reader import PoissonGaussian
from ddaudit.distillation import Recipe, register
from ddaudit.distillation.generator import Generated
from ddaudit.distillation.matching import Matching
from ddaudit.distillation.objectives import MeanEmbedding
from ddaudit.distillation.parts import Canvas
from ddaudit.distillation.synthesis import Pixels
from ddaudit.distillation.targets import ByClass
from ddaudit.errors import BadInput
from ddaudit.models import Arch, Network
from ddaudit.models.network import Body

SOURCE = (
    "Harder, Adamczewski & Park, DP-MERF: Differentially Private Mean Embeddings with Random Features for "
    "Practical Privacy-Preserving Data Generation, AISTATS 2021, arXiv 2002.11603"
)

PUBLISHED: Mapping[str, float] = MappingProxyType({"mnist": 105.0, "fashion-mnist": 127.0})
"""Squared length scale of the kernel in the authors' code ("rff_sigma"), for pixels in [0, 1]."""
PER_PIXEL = 0.15
"""The same per pixel value, for other data: between the two published ones, 105 / 784 and 127 / 784."""


@dataclass(frozen=True)
class FourierFeatures:
    """Random Fourier features of pixels: E[phi(x) . phi(x')] = exp(-|x - x'|^2 / (2 scale)), |phi(x)| = 1.

    phi(x) = sqrt(2 / D) [cos Wx, sin Wx] with rows of W ~ N(0, I / scale): the ``networks`` part of a matching
    recipe whose objective is the mean embedding. Every record's signal has norm exactly 1, so clipping at 1
    changes nothing and the sensitivity of a sum is attained by every record.

    Attributes:
        features: D, even.
        scale: squared length scale for pixels in [0, 1]. None: the authors' 105 for MNIST and 127 for
            Fashion-MNIST, 0.15 per pixel value for other data (9.6 for 8 x 8 grey): it depends on the image size
            and on no record. The published two were chosen with the data at hand; a claim treats them as public.

    Images are taken to be normalised by the public constants (0.5, 0.5), which private recipes always use.

    Source: DP-MERF, section 2 (Rahimi & Recht, NeurIPS 2007); constants from the authors' code.
    """

    features: int = 10_000
    scale: float | None = None
    bound: float | None = field(default=None, repr=False, compare=False)
    """The scale for the data at hand; filled by :meth:`bind`."""

    def __post_init__(self) -> None:
        if self.features < 2 or self.features % 2:
            raise ValueError(
                f"networks.features must be an even number of at least 2, got {self.features}"
            )
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"networks.scale must be positive, got {self.scale}")

    def bind(self, data: Dataset) -> FourierFeatures:
        """Settle the scale, from the name and the shape of ``data`` alone."""
        rule = PUBLISHED.get(data.name.split(":")[0], PER_PIXEL * _size(data.shape))
        return replace(self, bound=rule if self.scale is None else self.scale)

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The features of this seed; the classifier of the network is not used.

        Raises:
            BadInput: the source was not bound to data and has no scale of its own.
        """
        scale = self.bound or self.scale
        if scale is None:
            raise BadInput("networks", "FourierFeatures was not bound to data")
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(self.features // 2, _size(shape), generator=generator) / math.sqrt(scale)
        net = Network(
            Body(_Fourier(w), nn.Linear(self.features, num_classes)),
            arch=Arch("mlp"),  # one layer on pixels, with cosines for activations
            shape=shape,
            num_classes=num_classes,
            mean=(0.0,) * shape[0],
            std=(1.0,) * shape[0],
        )
        return net.requires_grad_(False).to(device)

    def couples_records(self) -> bool:
        """Never: a record's features depend on its pixels alone."""
        return False

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """The length scale: the published ones were chosen with the data at hand."""
        return (f"squared length scale {self.bind(data).bound:g} of the kernel",)

    def follows(self) -> bool:
        """Never: frequencies are random."""
        return False

    def update(self, canvas: Canvas, step: int) -> None:
        """Nothing to learn."""


class _Fourier(nn.Module):
    """(N, C, H, W) images in [-1, 1] -> (N, D) cosines and sines of their pixels in [0, 1]."""

    w: Tensor

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, x: Tensor) -> Tensor:
        angles = (0.5 * x.flatten(1) + 0.5) @ self.w.T
        return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(len(self.w))


def _size(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


_ACCOUNT = (
    "a sum has sensitivity 1 when a record is added or removed, class counts are public, and sigma is calibrated "
    "(source: means, sensitivity 2 / n when a record is replaced, noise factor 5)"
)

DP_MERF = register(
    Recipe(
        name="dp-merf",
        purpose="images fitted to one noisy mean of random Fourier features (private)",
        family="distribution",
        status="simplified",
        source=SOURCE,
        objective=MeanEmbedding(),
        target=ByClass(),
        synthesis=Pixels(init="noise"),
        networks=FourierFeatures(),
        reader=PoissonGaussian(sampling="full", clip=1.0, scale="sum"),
        loop=Matching(iterations=600, pool=1, optimiser="adam", lr=0.01),
        augment="",
        normalise="public",
        deviations=(
            "pixels are fitted to the noisy mean embedding (source: a generator, sampled afterwards)",
            _ACCOUNT,
        ),
        small={"networks.features": 2000},
    )
)

register(
    replace(
        DP_MERF,
        name="dp-merf-generator",
        purpose="a generator fitted to one noisy mean of random features (private)",
        synthesis=Generated(kind="conv", code=5, width=16, fresh=True),
        loop=Matching(iterations=600, pool=1, optimiser="adam", lr=0.01),
        deviations=(
            "600 steps at one rate, of as many codes as images are released, the same number of each class (source: "
            "3000 of 100 codes of random classes, the rate times 0.9 after every 600)",
            _ACCOUNT,
        ),
    )
)
