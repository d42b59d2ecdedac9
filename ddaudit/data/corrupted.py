"""Corrupted test images: CIFAR-10-C or MNIST-C from the data root where they are there, else C-lite."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddaudit.data._types import Dataset, ImageData
from ddaudit.data.corruptions import LEVELS, corrupt
from ddaudit.errors import BadInput

_FOLDERS = {"cifar10": "CIFAR-10-C", "cifar10-jpeg": "CIFAR-10-C", "mnist": "mnist_c"}
_SHAPES = {"CIFAR-10-C": (3, 32, 32), "mnist_c": (1, 28, 28)}
_SIZE = 10_000  # images of one level in a file of CIFAR-10-C
_EXTRA = {
    "CIFAR-10-C": ("labels", "gaussian_blur", "saturate", "spatter", "speckle_noise"),
    "mnist_c": ("identity",),
}
"""Files that belong to no score: labels and the four extra types, clean images. MNIST-C scores its spatter."""
MNIST_C = (
    "brightness", "canny_edges", "dotted_line", "fog", "glass_blur", "impulse_noise", "motion_blur", "rotate", "scale",
    "shear", "shot_noise", "spatter", "stripe", "translate", "zigzag",
)  # fmt: skip
"""The types of MNIST-C (Mu and Gilmer, arXiv 1906.02337); those of CIFAR-10-C are C-lite's."""


@dataclass(frozen=True)
class Published:
    """A folder of published corrupted images.

    Attributes:
        name: "CIFAR-10-C" or "MNIST-C".
        types: its corruptions; ``levels`` of each, (0,) where it has one strength only.
        labels: (N,) int64 of every cell.
    """

    name: str
    folder: Path
    types: tuple[str, ...]
    levels: tuple[int, ...]
    labels: Tensor

    def images(self, kind: str, level: int, index: Tensor) -> Tensor:
        """(n, C, H, W) uint8 of a cell at these positions.

        Raises:
            BadInput: a file that is damaged or of another size.
        """
        if self.name == "CIFAR-10-C":
            rows = index + (level - 1) * _SIZE
            found = _array(self.folder / f"{kind}.npy", (5 * _SIZE, 32, 32, 3))[rows.numpy()]
        else:
            count = len(self.labels)
            found = _array(self.folder / kind / "test_images.npy", (count, 28, 28, 1))[
                index.numpy()
            ]
        return torch.from_numpy(np.ascontiguousarray(found)).permute(0, 3, 1, 2).contiguous()

    @property
    def fingerprint(self) -> str:
        """Names, sizes and first bytes of its files."""
        digest = hashlib.sha256(self.name.encode())
        for file in sorted(self.folder.rglob("*.npy")):
            with file.open("rb") as start:
                digest.update(f"{file.name} {file.stat().st_size}".encode() + start.read(1 << 16))
        return digest.hexdigest()[:16]


def published(data: Dataset) -> Published | None:
    """The published corruptions of a data set, if its data root has them.

    None, too, for a folder that holds none, and for data whose test images are no longer those of the files: coloured
    or greyed ones, other sizes, some classes left out.

    Raises:
        BadInput: labels that are missing or damaged.
    """
    folder = _FOLDERS.get(data.origin or data.name)
    if folder is None or data.root is None or not (data.root / folder).is_dir():
        return None
    if (data.shape, data.num_classes) != (_SHAPES[folder], 10) or data.test.groups is not None:
        return None
    where = data.root / folder
    if folder == "CIFAR-10-C":
        types = tuple(sorted(f.stem for f in where.glob("*.npy") if f.stem not in _EXTRA[folder]))
        if not types:
            return None
        labels = _array(where / "labels.npy", (5 * _SIZE,))[:_SIZE]
        return Published("CIFAR-10-C", where, types, LEVELS, torch.from_numpy(labels).long())
    types = tuple(
        sorted(
            d.name
            for d in where.iterdir()
            if (d / "test_images.npy").exists() and d.name not in _EXTRA[folder]
        )
    )
    if not types:
        return None
    labels = _array(where / types[0] / "test_labels.npy", None)
    return Published("MNIST-C", where, types, (0,), torch.from_numpy(labels).long())


def generated(images: ImageData, kind: str, level: int, *, seed: int = 0) -> Tensor:
    """(N, C, H, W) uint8 of C-lite."""
    pixels = images.images
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().to(torch.uint8)
    return corrupt(pixels, kind, level, seed=seed)


def _array(path: Path, shape: Sequence[int] | None) -> np.ndarray:  # type: ignore[type-arg]
    """A .npy file of uint8 or integers, mapped, never unpickled."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(path, f"is not a readable .npy file ({type(error).__name__})") from None
    if shape is not None and found.shape != tuple(shape):
        raise BadInput(path, f"has shape {found.shape}, expected {tuple(shape)}")
    if not np.issubdtype(found.dtype, np.integer):
        raise BadInput(path, f"holds {found.dtype}, expected integers")
    return np.array(found) if found.ndim == 1 else found
