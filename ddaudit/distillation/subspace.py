"""Networks whose embedding is projected on a subspace that is found without looking at the real data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddaudit.data import Dataset, load_data
from ddaudit.distillation.networks import Fresh
from ddaudit.distillation.parts import Canvas
from ddaudit.errors import BadInput
from ddaudit.models import Network

RANDOM = "random"


@dataclass(frozen=True)
class Subspace:
    """Fresh networks with embeddings projected to ``dims`` coordinates, ``P^T (psi(x) - m)``.

    Noise that is added behind the projection lives in ``dims`` coordinates instead of all of the embedding's.

    Attributes:
        arch, width: as in :class:`Fresh`.
        dims: coordinates kept; at most the embedding's own number.
        public: where P and m come from. A data set's spec: P are the leading principal directions and m the mean
            of the embeddings of ``images`` of its training records, shrunk to the data's size and colour. They
            must be public: not the private records, nor made from them. "random": an orthonormal basis drawn at
            random and the mean embedding of N(0, 1) images, the control that needs no data.
        images: public images used.

    Source: Dosser, ICCV 2025, arXiv 2508.01749 (subspace error reduction; principal directions of auxiliary
    images, projection before clipping).
    """

    arch: str = "ConvNet"
    width: int | None = None
    dims: int = 1000
    public: str = RANDOM
    images: int = 1000
    material: Tensor | None = field(default=None, repr=False, compare=False)
    """(N, C, H, W) public images, normalised by (0.5, 0.5); filled by :meth:`bind`."""

    def __post_init__(self) -> None:
        if self.dims < 1 or self.images < 2:
            raise ValueError("networks.dims must be at least 1 and networks.images at least 2")

    def bind(self, data: Dataset) -> Subspace:
        """Load the public images.

        No private record is looked at. To refuse where an image is a private record would answer a question about
        the records, outside every ledger: whoever may choose the public images could ask it for one after another.

        Raises:
            BadInput: they cannot be loaded, or come from the data set that the private data come from, by name and
                origin. That others hold no private record is the caller's word, and the claim lists it.
        """
        self._fresh().resolve()
        if self.public == RANDOM:
            generator = torch.Generator().manual_seed(0)
            return replace(
                self, material=torch.randn(self.images, *data.shape, generator=generator)
            )
        where = f"networks.public={self.public}"
        aux = _public(self.public, data.root)
        if _kin(aux, data):
            raise BadInput(
                where,
                f"is made of the same records as the private data '{data.name}', so it is not public",
                "Name another data set, or use networks.public=random.",
            )
        order = torch.randperm(len(aux.train), generator=torch.Generator().manual_seed(0))
        pixels = aux.train.pixels(order[: self.images])
        return replace(self, material=(fit_images(pixels, data.shape) - 0.5) / 0.5)

    def make(
        self, *, shape: tuple[int, int, int], num_classes: int, seed: int, device: torch.device
    ) -> Network:
        """The network of this seed with the projection behind its features.

        Raises:
            BadInput: the source was not bound to data of this shape.
        """
        if self.material is None or tuple(self.material.shape[1:]) != tuple(shape):
            raise BadInput("networks", f"Subspace was not bound to data of shape {shape}")
        net = self._fresh().make(shape=shape, num_classes=num_classes, seed=seed, device=device)
        with torch.no_grad():
            z = torch.cat([net.body.features(x.to(device)) for x in self.material.split(500)])
        basis = (
            random_basis(z.shape[1], self.dims, seed=seed).to(device)
            if self.public == RANDOM
            else principal_directions(z, self.dims)
        )
        net.body.features = nn.Sequential(net.body.features, _Project(z.mean(0), basis))
        return net

    def couples_records(self) -> bool:
        """As the networks inside."""
        return self._fresh().couples_records()

    def assumed(self, data: Dataset) -> tuple[str, ...]:
        """The public images, where there are any."""
        if self.public == RANDOM:
            return ()
        return (
            f"{self.images} images of '{self.public}', which embeddings are projected by (that none of them is a "
            "private record is the publisher's word)",
        )

    def follows(self) -> bool:
        """Never: networks and projections are made beforehand."""
        return False

    def update(self, canvas: Canvas, step: int) -> None:
        """Nothing to learn."""

    def _fresh(self) -> Fresh:
        return Fresh(self.arch, self.width)


class _Project(nn.Module):
    centre: Tensor
    basis: Tensor

    def __init__(self, centre: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("basis", basis)

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.centre) @ self.basis


def principal_directions(z: Tensor, dims: int) -> Tensor:
    """(D, min(dims, D, N - 1)) orthonormal leading principal directions of embeddings (N, D), largest first."""
    centred = (z - z.mean(0)).double()
    count = min(dims, z.shape[1], len(z) - 1)
    if len(z) > z.shape[1]:
        _, axes = torch.linalg.eigh(centred.T @ centred)
        basis: Tensor = axes.flip(1)[:, :count]
        return basis.to(z.dtype)
    # Fewer images than coordinates: the small Gram matrix has the same spectrum.
    energy, axes = torch.linalg.eigh(centred @ centred.T)
    top, left = energy.flip(0)[:count], axes.flip(1)[:, :count]
    basis = centred.T @ left / top.clamp_min(1e-18).sqrt()
    return basis.to(z.dtype)


def random_basis(width: int, dims: int, *, seed: int) -> Tensor:
    """(width, min(dims, width)) orthonormal columns, uniformly random."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, min(dims, width), generator=generator))
    basis: Tensor = q * r.diagonal().sign()
    return basis


def fit_images(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(N, C, H, W) images resized (antialiased bilinear) and brought to the channels of ``shape``."""
    channels, height, width = shape
    if pixels.shape[1] != channels:
        pixels = pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if tuple(pixels.shape[2:]) != (height, width):
        pixels = F.interpolate(
            pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
    return pixels.contiguous()


@lru_cache(maxsize=2)
def _public(spec: str, root: Path | None) -> Dataset:
    """The public data set; kept, because every distillation of an audit binds its networks anew."""
    return load_data(spec, root=root)


def _kin(a: Dataset, b: Dataset) -> bool:
    """True when one is the other or both were made from one data set (coloured, long-tailed, noisy versions)."""
    return a.name == b.name or bool(a.origin and a.origin == b.origin)
