"""What a training step reads: sets on the device, normalised batches, an order per network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddaudit.errors import BadInput


def check_set(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Refuse what cannot be trained on.

    Raises:
        BadInput: empty, wrong rank, wrong type, or labels that do not fit.
    """
    where = "training set"
    if images.ndim != 4 or len(images) == 0:
        raise BadInput(where, f"images are {tuple(images.shape)}, expected (M, C, H, W) with M > 0")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise BadInput(
            where, f"images are {images.dtype}, expected float pixels in [0, 1] or uint8"
        )
    if len(labels) != len(images):
        raise BadInput(where, f"{len(labels)} labels for {len(images)} images")
    if labels.ndim == 1:
        if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise BadInput(where, f"hard labels must be integers in [0, {num_classes})")
    elif labels.ndim != 2 or labels.shape[1] != num_classes or not labels.is_floating_point():
        raise BadInput(
            where,
            f"soft labels are {labels.dtype} {tuple(labels.shape)}, not float (M, {num_classes})",
        )


def pixels(images: Tensor) -> Tensor:
    """uint8 or float images -> float32 pixels in [0, 1]."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()


@dataclass(eq=False)
class Pool:
    """K equally long sets on the device; row k of a batch comes from network k's set.

    Sets that are the same tensor are held once, so 32 victims of one real set cost its memory once.
    Float images are normalised when the pool is made; uint8 images when a batch is read.
    """

    images: Tensor
    labels: Tensor
    offsets: Tensor
    mean: Tensor
    std: Tensor
    size: int

    @classmethod
    def of(
        cls,
        sets: Sequence[tuple[Tensor, Tensor]],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> Pool:
        """Move every distinct set to ``device`` once."""
        distinct: dict[tuple[object, ...], int] = {}
        kept: list[tuple[Tensor, Tensor]] = []
        which = []
        for images, labels in sets:
            key = (*_identity(images), *_identity(labels))
            if key not in distinct:
                distinct[key] = len(kept)
                kept.append((images, labels))
            which.append(distinct[key])
        size = len(kept[0][0])
        centre = torch.tensor(list(mean), device=device).view(-1, 1, 1)
        scale = torch.tensor(list(std), device=device).view(-1, 1, 1)
        images = _join([x.detach() for x, _ in kept]).to(device)
        if images.dtype != torch.uint8:
            images = (images.float() - centre) / scale
        labels = _join([y.detach() for _, y in kept]).to(device)
        labels = labels.float() if labels.is_floating_point() else labels.long()
        offsets = torch.tensor(which, device=device).view(-1, 1) * size
        return cls(images, labels, offsets, centre, scale, size)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (K, B, C, H, W) and labels (K, B[, classes]) at ``index`` (K, B)."""
        index = index + self.offsets
        images = self.images[index]
        if images.dtype == torch.uint8:
            images = (pixels(images) - self.mean) / self.std
        return images, self.labels[index]


def orders(
    seeds: Sequence[int], *, size: int, batch_size: int, device: torch.device
) -> Iterator[Tensor]:
    """Endless (K, B) index batches; each pass is a fresh permutation, row k from seed k alone."""
    generators = [generator(seed, "order") for seed in seeds]
    while True:
        passes = torch.stack([torch.randperm(size, generator=g) for g in generators]).to(device)
        for at in range(0, size, batch_size):
            yield passes[:, at : at + batch_size]


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one network, independent of every other's."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return (
        tensor.data_ptr(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        str(tensor.device),
    )


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
